"""`pennyreel config`: each value with its origin; secrets in the keyring, shown to nobody."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import keyring
import keyring.backends.fail
import keyring.backends.null
import platformdirs
import pytest
from keyring.backend import KeyringBackend

from client.commands import Cli, called
from pennyreel import Client, SetupNeeded, config
from pennyreel.backends import registry
from pennyreel.backends._google_clips import TIERS

KEY = "rpa_CANARY_key_0123456789"


class Store(KeyringBackend):
    """A keyring in memory, which can be locked."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.asked = 0
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        self.asked += 1
        if self.locked:
            raise keyring.errors.KeyringLocked(KEY)
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config file; not there yet."""
    place = tmp_path / "conf" / "config.toml"
    monkeypatch.delenv("PENNYREEL_CONFIG")
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda *_, **__: str(place.parent))
    return place


@pytest.fixture(autouse=True)
def store() -> Any:
    before, mine = keyring.get_keyring(), Store()
    keyring.set_keyring(mine)
    yield mine
    keyring.set_keyring(before)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli(*args, stdin=…)`: the exit code, stdout and stderr."""
    return partial(called, capsys, "config")


def rows(cli: Cli) -> dict[str, dict[str, Any]]:
    code, out, _ = cli("--json")
    assert code == 0
    return {row["name"]: row for row in json.loads(out)["settings"]}


def test_every_setting_is_listed_with_its_origin(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.parent.mkdir()
    file.write_text('runpod.endpoint = "abc"\nrunpod.api_key = "rpa_CANARY_file"\n')
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY_env")
    monkeypatch.setenv("PENNYREEL_COMFYUI_URL", "http://me:CANARY@127.0.0.1:8188")
    told = rows(cli)
    assert set(told) == set(config.FIELDS)
    shown = {n: (told[n]["value"], told[n]["origin"]) for n in told}
    assert shown["runpod_endpoint"] == ("abc", "file")
    assert shown["runpod_api_key"] == ("set", "file")
    assert shown["hf_token"] == ("set", "environment")
    assert shown["civitai_token"] == ("unset", "default")
    assert shown["comfyui_url"] == ("http://***@127.0.0.1:8188", "environment")
    assert shown["hf_provider"] == ("auto", "default")
    _, out, err = cli("list")
    assert "HF_TOKEN" in out
    assert "CANARY" not in out + err + str(told)


def test_arguments_are_an_origin_too() -> None:
    found = config.origins({}, runpod_endpoint="x")
    assert found["runpod_endpoint"] == ("x", "argument")
    assert found["home"].origin == "default"
    assert found["home"].value == config.load({}).home


@pytest.mark.parametrize("name", ["runpod_endpoint", "RUNPOD_ENDPOINT_ID", "runpod.endpoint"])
def test_a_setting_has_three_names(name: str, cli: Cli, file: Path) -> None:
    assert cli("set", name, "abc")[0] == 0
    assert file.read_text() == '[runpod]\nendpoint = "abc"\n'
    assert cli("get", name)[1] == "abc\n"
    assert json.loads(cli("get", name, "--json")[1])["origin"] == "file"
    assert cli("unset", name)[0] == 0
    assert cli("get", name)[1] == "\n"


def test_a_change_keeps_comments_order_and_what_else_is_there(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(
        '# mine\nbackend = "runpod"   # the usual\n\n[runpod]\nendpoint = "old" # bought in May\n\n'
        '[[prices.row]]\nsku = "x"\n'
    )
    file.chmod(0o640)
    assert cli("set", "runpod_endpoint", "new")[0] == 0
    assert cli("set", "out_dir", "~/Videos")[0] == 0
    text = file.read_text()
    assert '# mine\nbackend = "runpod"   # the usual\n' in text
    assert 'endpoint = "new" # bought in May\n' in text
    assert config.load({}).out_dir == Path("~/Videos").expanduser()
    assert config.load({}).prices == {"row": [{"sku": "x"}]}
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in file.parent.iterdir()] == ["config.toml"]


def test_windows_line_ends_and_links_are_kept(cli: Cli, file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_bytes(b'backend = "runpod"\r\n')
    file.parent.mkdir()
    file.symlink_to(real)
    assert cli("set", "runpod_endpoint", "new")[0] == 0
    assert file.is_symlink()
    assert real.read_bytes() == b'backend = "runpod"\r\n\r\n[runpod]\r\nendpoint = "new"\r\n'


def test_a_new_file_is_for_its_user_alone(cli: Cli, file: Path) -> None:
    cli("set", "backend", "runpod")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_none_is_not_replaced(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for odd in (os.devnull, str(tmp_path)):
        monkeypatch.setenv("PENNYREEL_CONFIG", odd)
        code, _, err = cli("set", "backend", "runpod")
        assert code == 4
        assert "it is no file" in err
    assert not Path(os.devnull).is_file()


def test_a_broken_file_is_left_alone_and_not_quoted(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("[runpod]\napi_key = rpa_CANARY\n")
    code, out, err = cli("set", "backend", "runpod")
    assert code == 4
    assert "CANARY" not in out + err
    assert file.read_text() == "[runpod]\napi_key = rpa_CANARY\n"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["set", "comfyui_url", "nonsense"], 4),
        (["set", "nonsense", "x"], 4),
        (["set", "backend"], 2),
        (["get", "runpod_endpiont"], 4),
    ],
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(
    args: list[str], code: int, cli: Cli, file: Path
) -> None:
    assert cli(*args)[0] == code
    assert not file.exists()


def test_a_secret_is_not_taken_from_the_command_line(cli: Cli, file: Path, store: Store) -> None:
    code, out, err = cli("set", "runpod_api_key", KEY)
    assert code == 2
    assert "CANARY" not in out + err
    assert "RUNPOD_API_KEY" in err
    assert not file.exists()
    assert not store.kept


def test_a_secret_goes_to_the_keyring_and_is_read_when_it_is_used(
    cli: Cli, file: Path, store: Store
) -> None:
    code, out, err = cli("set", "runpod_api_key", stdin=KEY + "\n")
    assert code == 0
    assert store.kept == {("pennyreel", "runpod_api_key"): KEY}
    assert file.read_text() == '[runpod]\napi_key = {keyring = "pennyreel"}\n'
    assert "CANARY" not in out + err
    store.asked = 0
    settings = config.load({})
    assert bool(settings.runpod_api_key)
    assert store.asked == 0
    assert settings.runpod_api_key is not None
    assert settings.runpod_api_key.reveal() == KEY
    assert settings.runpod_api_key.reveal() == KEY
    assert store.asked == 1
    assert "CANARY" not in repr(settings)
    assert cli("get", "runpod_api_key")[1] == "set\n"
    assert rows(cli)["runpod_api_key"]["origin"] == "keyring"


def test_the_environment_wins_over_the_keyring_and_set_says_so(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_other")
    _, _, err = cli("set", "runpod_api_key", stdin=KEY)
    assert "RUNPOD_API_KEY is set in the environment, and wins" in err
    found = config.load()
    assert found.runpod_api_key == config.Secret("rpa_other")
    assert config.load(runpod_api_key="rpa_arg").runpod_api_key == config.Secret("rpa_arg")


def test_a_key_in_the_file_gives_way_to_the_one_that_is_set(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('[runpod]\napi_key = "rpa_old"\n')
    assert cli("set", "runpod_api_key", stdin=KEY)[0] == 0
    assert "rpa_old" not in file.read_text()
    assert config.load({}).runpod_api_key == config.Secret(KEY)


def test_unset_takes_a_secret_out_of_both(cli: Cli, file: Path, store: Store) -> None:
    cli("set", "runpod_api_key", stdin=KEY)
    assert cli("unset", "runpod_api_key")[0] == 0
    assert not store.kept
    assert "keyring" not in file.read_text()
    assert cli("unset", "runpod_api_key")[0] == 0
    assert config.load({}).runpod_api_key is None


@pytest.mark.parametrize(
    "broken", [keyring.backends.fail.Keyring, keyring.backends.null.Keyring], ids=["none", "null"]
)
def test_without_a_keyring_that_keeps_it_the_free_way_is_told(
    broken: type[KeyringBackend], cli: Cli, file: Path
) -> None:
    keyring.set_keyring(broken())
    code, out, err = cli("set", "runpod_api_key", stdin=KEY)
    assert code == 4
    assert "Set RUNPOD_API_KEY in the environment" in err
    assert "CANARY" not in out + err
    assert not file.exists()


def test_without_the_package_the_extra_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    code, _, err = cli("set", "runpod_api_key", stdin=KEY)
    assert code == 4
    assert "pip install 'pennyreel[keyring]', or set RUNPOD_API_KEY" in err


def test_a_keyring_that_is_locked_or_empty_fails_only_who_needs_the_key(
    cli: Cli, store: Store
) -> None:
    cli("set", "runpod_api_key", stdin=KEY)
    cli("set", "runpod_endpoint", "ep")
    store.locked = True
    with Client() as client:
        health = client.health("runpod")
        assert (health.reachable, "it is locked" in health.detail) == (False, True)
        assert "CANARY" not in str(health)
    store.locked = False
    store.kept.clear()
    settings = config.load({})
    assert settings.runpod_api_key is not None
    with pytest.raises(SetupNeeded, match="is not there") as caught:
        settings.runpod_api_key.reveal()
    assert "pennyreel config set runpod_api_key" in caught.value.hint


def test_a_key_that_no_header_can_carry_is_refused_unseen(cli: Cli, store: Store) -> None:
    code, _, err = cli("set", "runpod_api_key", stdin="rpa_CANARY\x00x\n")
    assert code == 4
    assert "CANARY" not in err
    assert not store.kept
    assert cli("set", "runpod_api_key", stdin="\n")[0] == 2


def test_the_path_is_told_whether_it_is_there_or_not(cli: Cli, file: Path) -> None:
    assert cli("path")[1] == f"{file}\n"
    assert json.loads(cli("path", "--json")[1]) == {"path": str(file), "exists": False}


@pytest.mark.parametrize(
    ("name", "wrong", "told", "right"),
    [
        ("backend", "nope", "comfyui", "veo-fast"),
        ("gemini.resolution", "999p", "360p, 720p, 1080p, 4k", "1080p"),
        ("devices", "garbage", "NAME:24GB", "2x RTX 4090:24GB"),
        ("policy", "cheapets", "Did you mean cheapest", "comfyui,runpod"),
        ("PENNYREEL_FORBID", "veo,runpdo", "Did you mean runpod", "veo,runpod"),
        ("places", "moon", "hosted", "local,own"),
        ("max_cost", "many", "0.05", "0.07"),
        ("private", "perhaps", "yes or no", "yes"),
    ],
)
def test_what_a_job_would_be_refused_by_is_not_set(
    name: str, wrong: str, told: str, right: str, cli: Cli, file: Path
) -> None:
    ran = cli("set", name, wrong)
    assert ran.code != 0
    assert told in ran.err
    assert not file.exists()
    assert cli("set", name, right).code == 0
    assert cli("get", name).out.strip() == right


def test_the_resolutions_that_can_be_set_are_those_that_gemini_has() -> None:
    assert list(config.FIELDS["gemini_resolution"].choices) == list(TIERS)


def test_the_help_of_backend_names_each_there_is() -> None:
    told = config.FIELDS["backend"].help.replace(",", "").split()
    assert set(registry.BUILTIN) <= set(told)
