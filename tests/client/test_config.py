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
    env = write(tmp_path, '[comfyui]\nurl = "http://file"\n')
    assert config.load({"PENNYREEL_CONFIG": str(tmp_path / "none")}).comfyui_url == COMFYUI_URL
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
    by_file = config.load(write(tmp_path, f'{head}{key} = "/some/value"\n'))
    by_env = config.load({"PENNYREEL_CONFIG": "/nowhere", field.env: "/some/value"})
    assert getattr(by_file, name) == getattr(by_env, name)
    assert getattr(by_file, name) not in (None, getattr(config.load({}), name))


def test_the_file_names_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded) as caught:
        config.load(write(tmp_path, '[runpod]\nendpiont = "x"\n'))
    assert "runpod.endpiont" in str(caught.value)
    assert "runpod.endpoint" in caught.value.hint


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
