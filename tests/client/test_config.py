"""Arguments win over the environment, that over the file, that over the default."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from pennyreel import SetupNeeded, config
from pennyreel.config import COMFYUI_URL, FIELDS, Secret


def write(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return {"PENNYREEL_CONFIG": str(file)}


def test_the_nearest_word_wins(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "")).comfyui_url == COMFYUI_URL
    env = write(tmp_path, '[comfyui]\nurl = "http://file"\n')
    assert config.load(env).comfyui_url == "http://file"
    env["PENNYREEL_COMFYUI_URL"] = "http://env"
    assert config.load(env).comfyui_url == "http://env"
    assert config.load(env, comfyui_url="http://arg").comfyui_url == "http://arg"


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_can_be_set_in_the_environment_and_in_the_file(
    name: str, tmp_path: Path
) -> None:
    field = FIELDS[name]
    section, _, key = field.toml.rpartition(".")
    head = f"[{section}]\n" if section else ""
    kinds = {"url": "https://some.example/value", "flag": "yes", "amount": "0.07", "count": "7"}
    value = kinds.get(field.kind, "/some/value")
    by_file = config.load(write(tmp_path, f'{head}{key} = "{value}"\n'))
    by_env = config.load({**write(tmp_path, ""), field.env: value})
    assert getattr(by_file, name) == getattr(by_env, name)
    assert getattr(by_file, name) not in (None, getattr(config.load({}), name))


def test_the_file_names_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded) as caught:
        config.load(write(tmp_path, '[runpod]\nendpiont = "x"\n'))
    assert "runpod.endpiont" in str(caught.value)
    assert "runpod.endpoint" in caught.value.hint


def test_a_file_that_was_named_and_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded, match="PENNYREEL_CONFIG"):
        config.load({"PENNYREEL_CONFIG": str(tmp_path / "none.toml")})


def test_a_broken_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded) as caught:
        config.load(write(tmp_path, "[runpod]\napi_key = rpa_SECRET\n"))
    assert "c.toml" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_setting_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded, match=r"runpod\.endpoint"):
        config.load(write(tmp_path, "[runpod]\nendpoint = 5\n"))
    with pytest.raises(SetupNeeded, match="nonsense"):
        config.load({}, nonsense="x")


def test_settings_are_immutable_and_print_no_secret() -> None:
    settings = config.load({"RUNPOD_API_KEY": "rpa_x", "PENNYREEL_COMFYUI_AUTH": "Basic abc"})
    assert "rpa_x" not in repr(settings)
    assert "abc" not in repr(settings)
    assert settings.runpod_api_key is not None
    assert settings.runpod_api_key.reveal() == "rpa_x"
    assert f"{settings.runpod_api_key} {settings.runpod_api_key!r:>5}" == "Secret(***) Secret(***)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.home = Path()  # type: ignore[misc]
    with pytest.raises(TypeError):
        pickle.dumps(Secret("x"))


def test_a_dev_stack_is_read_leniently(tmp_path: Path) -> None:
    assert config.dev_stack(tmp_path) is None
    for broken in ("", "[]", "{}", '{"base_url": 1}'):
        (tmp_path / "dev.json").write_text(broken)
        assert config.dev_stack(tmp_path) is None
    (tmp_path / "dev.json").write_text(
        '{"base_url": "http://127.0.0.1:1/v2", "endpoint": "e", "api_key": "k", "pid": 3,'
        ' "s3": {"endpoint": "http://127.0.0.1:2", "bucket": "b", "key": "a", "secret": "s"}}'
    )
    stack = config.dev_stack(tmp_path)
    assert stack is not None
    assert stack.s3 is not None
    assert stack.s3.bucket == "b"
    assert "Secret(***)" in repr(stack)


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.runpod.ai/v2", True),
        ("http://127.0.0.1:8188", True),
        ("http://localhost:8188", True),
        ("http://[::1]:8188", True),
        ("http://api.runpod.ai/v2", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://192.168.1.4", False),
    ],
)
def test_a_key_travels_by_https_or_stays_here(url: str, may: bool) -> None:
    assert config.key_may_travel(url) is may


def test_a_key_loses_the_white_space_around_it_and_holds_nothing_odd(tmp_path: Path) -> None:
    settings = config.load({"RUNPOD_API_KEY": " rpa_x\n"}, comfyui_auth=Secret("Basic abc\n"))
    assert settings.runpod_api_key == Secret("rpa_x")
    assert settings.comfyui_auth == Secret("Basic abc")
    for odd in ("rpa_SECRET\nX", "rpa_SECRET\x00", "rpa_SECR\u00c9T"):
        with pytest.raises(SetupNeeded, match="RUNPOD_API_KEY") as caught:
            config.load({"RUNPOD_API_KEY": odd})
        assert "SECR" not in str(caught.value.info)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://h:abc", "http://h:99999", "http://a b/SECRET", "h:80", "http://"]
)
def test_an_address_that_is_no_url_is_named_and_not_quoted(url: str) -> None:
    for name in ("comfyui_url", "runpod_base_url", "s3_endpoint"):
        field = FIELDS[name]
        with pytest.raises(SetupNeeded, match=field.env) as caught:
            config.load({field.env: url})
        assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "text", "file", "value"),
    [
        ("PENNYREEL_MAX_COST", "$0.07", "[policy]\nmax_cost = 0.07", ("$0.07", "0.07")),
        ("PENNYREEL_DAY_LIMIT", "none", '[policy]\nday_limit = "none"', ("none", "none")),
        ("PENNYREEL_PRIVATE", "yes", "[policy]\nprivate = true", (True, True)),
        ("PENNYREEL_PRIVATE", "0", "[policy]\nprivate = false", (False, False)),
        ("PENNYREEL_MOVES_PER_MINUTE", " 7 ", "[policy]\nmoves_per_minute = 0", (7, 0)),
        ("PENNYREEL_ON", "local, own", '[policy]\non = ["local", "own"]', (("local", "own"),) * 2),
        ("PENNYREEL_FORBID", "veo,gemini", '[policy]\nforbid = "veo, gemini"',
         (("veo", "gemini"),) * 2),
    ],
)  # fmt: skip
def test_terms_are_read_from_the_environment_and_in_the_files_own_types(
    env: str, text: str, file: str, value: tuple[object, object], tmp_path: Path
) -> None:
    name = config.field_name(env)
    assert getattr(config.load({env: text}), name) == value[0]
    assert getattr(config.load(write(tmp_path, file)), name) == value[1]


@pytest.mark.parametrize(
    ("env", "text", "file"),
    [
        ("PENNYREEL_MAX_COST", "abc", "[policy]\nmax_cost = true"),
        ("PENNYREEL_MAX_COST", "none", '[policy]\nmax_cost = "none"'),
        ("PENNYREEL_DAY_LIMIT", "-1", "[policy]\nday_limit = nan"),
        ("PENNYREEL_PRIVATE", "maybe", "[policy]\nprivate = 2"),
        ("PENNYREEL_MOVES_PER_MINUTE", "-1", "[policy]\nmoves_per_minute = true"),
        ("PENNYREEL_MOVES_PER_MINUTE", "10001", "[policy]\nmoves_per_minute = 1.5"),
        ("PENNYREEL_ON", "", "[policy]\non = 5"),
        ("PENNYREEL_FORBID", "", "[policy]\nforbid = [5]"),
    ],
)
def test_a_term_that_makes_no_sense_is_refused_by_its_place(
    env: str, text: str, file: str, tmp_path: Path
) -> None:
    if text:
        with pytest.raises(SetupNeeded, match=env):
            config.load({env: text})
    with pytest.raises(SetupNeeded, match=FIELDS[config.field_name(env)].toml):
        config.load(write(tmp_path, file))
