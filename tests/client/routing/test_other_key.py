"""Whoever sets another key begins anew: what was known of the backend was known of the old one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from client.routing.conftest import TOKEN, Ran
from pennyreel.config import Secret, Settings, load, marked
from pennyreel.config.marks import credentials_mark
from pennyreel.errors import Code, error
from pennyreel.money.ledger import Ledger
from pennyreel.routing.breakers import Breakers
from pennyreel_emulators.replicate import Behaviour, Fault, ReplicatePlatform

Cli = Callable[..., Ran]
OLD, KEY = "r8_OLD_0123456789", "replicate:lucataco/hotshot-xl"
JOB = ("generate", "a paper boat", "--max-cost", "1", "--json")
ON = ("--policy", "replicate")


def _first(cli: Cli) -> dict[str, object]:
    quoted = cli("quote", "a paper boat", *ON, "--max-cost", "1", "--json")
    (one,) = [c for c in quoted.json["candidates"] if c["backend"] == "replicate"]
    return dict(one)


def test_a_corrected_key_is_used_at_once_whatever_the_wrong_one_was_told(
    replicate: ReplicatePlatform, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", OLD)
    assert _first(cli)["verdict"] == "unavailable"
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    assert cli(*JOB, *ON).code == 0


def test_a_breaker_that_a_refused_key_opened_is_not_the_new_keys(
    replicate: ReplicatePlatform, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicate.configure(token=OLD)
    monkeypatch.setenv("REPLICATE_API_TOKEN", OLD)
    replicate.fault("create", Fault(401, {"detail": "Unauthenticated", "status": 401}))
    assert cli(*JOB, *ON).code == 4
    assert _first(cli)["verdict"] == "breaker_open"
    replicate.configure(token=TOKEN)
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    assert cli(*JOB, *ON).code == 0
    monkeypatch.setenv("REPLICATE_API_TOKEN", OLD)
    shared = Breakers(ledger, kept_as=partial(marked, load()))
    assert shared.state(KEY).code == "unauthorized", "of the old one it is known still"


def test_a_backend_that_is_named_is_tried_though_its_breaker_is_open(
    replicate: ReplicatePlatform, cli: Cli, ledger: Ledger
) -> None:
    replicate.fault("create", Fault(401, {"detail": "Unauthenticated", "status": 401}))
    assert cli(*JOB, *ON).code == 4
    refused = cli(*JOB, *ON)
    assert refused.code != 0
    assert "it refused the key lately: not tried again for" in refused.err
    assert "--backend replicate" in refused.err
    assert cli(*JOB, "--backend", "replicate").code == 0
    assert cli(*JOB, *ON).code == 0, "it was the probe, and went well"


def test_a_probe_that_is_left_to_itself_keeps_nobody_out(
    replicate: ReplicatePlatform, cli: Cli, ledger: Ledger
) -> None:
    replicate.fault("create", Fault(401, {"detail": "Unauthenticated", "status": 401}))
    assert cli(*JOB, *ON).code == 4
    replicate.configure(behaviour=Behaviour(run_s=60.0))
    left = cli(*JOB, "--backend", "replicate", "--no-wait")
    assert left.code == 0
    assert Breakers(ledger, kept_as=partial(marked, load())).state(KEY).state == "open"
    again = cli(*JOB, "--backend", "replicate", "--no-wait")
    assert again.code == 0, "the first one holds no lease"


def test_a_mark_is_short_and_of_one_backends_credentials(tmp_path: Path) -> None:
    def mark(backend: str = "replicate", **given: object) -> str:
        return credentials_mark(Settings(home=tmp_path, **given), backend)  # type: ignore[arg-type]

    one = mark(replicate_api_token=Secret("a"))
    assert len(one) == 4
    assert one == mark(replicate_api_token=Secret("a"), runpod_api_key=Secret("b"))
    assert one != mark(replicate_api_token=Secret("b"))
    assert one != mark()
    assert mark("simulated") == mark("somebodys-own") == ""
    assert marked(load(), "simulated", "simulated:here") == "simulated:here"


def test_a_login_in_a_file_has_the_mark_of_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    settings = Settings(home=tmp_path, vertex_credentials=file)
    marks = {credentials_mark(settings, "veo")}
    for content in ("one", "other"):
        file.write_text(content)
        marks.add(credentials_mark(settings, "veo"))
        assert credentials_mark(settings, "veo-fast") == credentials_mark(settings, "veo")
    assert len(marks) == 3


def test_a_keyring_that_gives_nothing_spoils_nothing(tmp_path: Path) -> None:
    def locked() -> str:
        raise error(Code.NOT_CONFIGURED, "the keyring is locked")

    settings = Settings(home=tmp_path, replicate_api_token=Secret(locked))
    assert credentials_mark(settings, "replicate") == ""
