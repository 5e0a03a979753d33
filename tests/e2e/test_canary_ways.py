"""Every other way in which a secret comes: programs, keyrings, addresses, a job after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from client.support import Reply, Request, Scripted
from e2e.canaries import Machine, argv_watched
from e2e.canary_world import (
    BACKENDS,
    Servers,
    assert_clean,
    each,
    echo,
    generate,
    signed,
    worker,
)
from fakes.waits import eventually
from money.postgres import cluster
from pennyreel.config import FIELDS
from pennyreel_emulators.google import GoogleApis, GoogleConfig, Plan

pytestmark = pytest.mark.timeout(120)

SECRETS = {name: one for name, one in FIELDS.items() if one.kind == "secret"}


def program(folder: Path, body: str) -> str:
    """A program in gcloud's place; outside of what is searched, as it holds the secret."""
    file = folder / "gcloud"
    file.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    file.chmod(0o700)
    return str(file)


@pytest.mark.parametrize("works", [True, False])
def test_a_token_of_gcloud(machine: Machine, tmp_path: Path, works: bool) -> None:
    token = machine.canaries.plant("gcloud")
    told = f"print({token!r})" if works else f"sys.exit('no login for ' + {token!r})"
    del machine.env["PENNYREEL_VERTEX_TOKEN"]
    machine.env["PENNYREEL_GCLOUD"] = program(tmp_path, told)
    out = ("-o", str(machine.folder / "out"))
    with GoogleApis(GoogleConfig(access_tokens=(token,))) as google:
        for name in ("vertex_base_url", "vertex_storage_url"):
            machine.env[FIELDS[name].env] = google.base_url
        with argv_watched(machine.canaries) as lines:
            made = machine.run(*generate("veo", *out))
            each([("doctor",), ("backends", "--json"), ("jobs", "list", "--json")], machine)
        assert (made.code == 0) is works, made.err
        assert bool(google.accepted) is works, "the token was needed"
    assert_clean(machine)
    assert lines == {}


def test_a_token_of_gcloud_is_not_quoted_by_who_refuses_it(
    machine: Machine, servers: Servers, tmp_path: Path
) -> None:
    token = machine.canaries.plant("vertex_token")
    del machine.env["PENNYREEL_VERTEX_TOKEN"]
    machine.env["PENNYREEL_GCLOUD"] = program(tmp_path, f"print({token!r})")
    each([generate("veo"), ("doctor", "--json")], machine)
    told = servers.by["vertex_base_url"].requests
    assert "vertex_token" in machine.canaries.in_requests(told)
    assert_clean(machine)
    assert servers.strangers() == {}


@pytest.mark.parametrize("answers", ["quotes", "redirects", "nothing", "away"])
def test_the_webhook_of_alerts_keeps_its_token(world: Machine, answers: str) -> None:
    def script(request: Request) -> Reply | None:
        replies = {"quotes": echo(request), "redirects": Reply(307, b"", {"Location": "/else"})}
        return replies.get(answers)

    with Scripted(script) as hook:
        token = quote(world.canaries.plant("webhook"), safe="")
        place = "127.0.0.1:9" if answers == "away" else hook.url.removeprefix("http://")
        world.env["PENNYREEL_ALERT_WEBHOOK"] = f"http://{place}/services/{token}?key={token}"
        world.env["PENNYREEL_ALERT_HOSTS"] = place
        world.run("budget", "set", "all", "--day", "0.40")
        with argv_watched(world.canaries) as lines:
            world.run(*generate("gemini", "-o", str(world.folder / "out")))
        each([("budget",), ("doctor",), ("config", "list", "--json")], world)
        assert "the alert webhook was not told" in world.ran[1].err.decode()
        told = world.canaries.in_requests(hook.requests)
        assert told == (set() if answers == "away" else {"webhook"})
    assert_clean(world)
    assert lines == {}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with cluster() as url:
        yield url


def test_the_password_of_a_ledger_on_postgres(world: Machine, postgres: str) -> None:
    """The one that works, one that is refused, and what the database itself was told to keep."""
    password = postgres.partition("pennyreel:")[2].partition("@")[0]
    world.canaries.adopt("password", password)
    database = f"{postgres}postgres"
    world.env["PENNYREEL_LEDGER_URL"] = database
    out = ("-o", str(world.folder / "out"))
    with argv_watched(world.canaries) as lines:
        assert world.run(*generate("replicate", *out)).code == 0
        job = json.loads(world.run("jobs", "list", "--json").out)["jobs"][0]["job_id"]
        each([("jobs", "show", job, "--json"), ("costs",), ("doctor",), ("budget",)], world)
        each([("config", "list", "--json"), ("why", job)], world)
        wrong = world.canaries.plant("wrong_password")
        refused = database.replace(password, quote(wrong, safe=""))
        assert world.run("costs", PENNYREEL_LEDGER_URL=refused).code != 0
    assert_clean(world)
    assert lines == {}
    assert world.canaries.found(_dumped(database)) == set()


def _dumped(url: str) -> bytes:
    """All rows of all tables."""
    told: list[Any] = []
    with psycopg.connect(url) as ledger:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        for (table,) in ledger.execute(query).fetchall():
            every = sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
            told += ledger.execute(every).fetchall()
    assert told
    return repr(told).encode()


@pytest.mark.parametrize("broken", [False, True])
def test_entries_of_a_keyring(
    machine: Machine, servers: Servers, tmp_path: Path, broken: bool
) -> None:
    kept = {name: machine.canaries.plant(name) for name in SECRETS}
    for name, one in SECRETS.items():
        machine.env.pop(one.env, None)
        if name in {"ledger_url", "alert_webhook"}:
            kept.pop(name)
            machine.canaries.cores.pop(name)
    entries, config = tmp_path / "keyring.json", tmp_path / "config.toml"
    entries.write_text(json.dumps({"": str(kept)} if broken else kept))
    config.write_text(_tables(kept))
    machine.env |= {
        "PENNYREEL_CONFIG": str(config),
        "CANARY_KEYRING": str(entries),
        "PYTHON_KEYRING_BACKEND": "canary_keyring.FileKeyring",
    }
    programs = Path(__file__).parents[1] / "programs"
    machine.env["PYTHONPATH"] += f":{programs}"
    servers.play(lambda request: echo(request, 401))
    with argv_watched(machine.canaries) as lines:
        each([generate(backend) for backend in BACKENDS], machine)
        each([("doctor", "--json"), ("config", "list"), ("config", "list", "--json")], machine)
    asked = [r for server in servers.by.values() for r in server.requests]
    assert ("replicate_api_token" in machine.canaries.in_requests(asked)) is not broken
    assert_clean(machine)
    assert lines == {}
    assert servers.strangers() == {}


def _tables(kept: dict[str, str]) -> str:
    tables: dict[str, list[str]] = {}
    for name in kept:
        table, _, key = SECRETS[name].toml.rpartition(".")
        tables.setdefault(table, []).append(f'{key} = {{ keyring = "pennyreel" }}')
    return "\n".join("\n".join([f"[{table}]", *keys]) for table, keys in tables.items())


def test_a_worker_that_quotes_a_signed_input_and_the_prompt(
    world: Machine, bucket: Scripted
) -> None:
    """It was told both: what it says of them in its failure goes no further."""
    told: list[str] = []

    def fails(request: Request) -> Reply:
        if request.path.endswith("/run"):
            told.append(request.body.decode())
        if "/status/" not in request.path:
            return worker(request)
        words = f"cannot load {told}"
        return Reply(200, {"id": "job-1", "status": "FAILED", "error": words})

    world.runpod.script = fails  # type: ignore[attr-defined]
    run = tuple("runpod" if a == "comfyui" else a for a in signed(world, bucket))
    run = tuple(a.replace("http://", "https://") if a.startswith("photo=") else a for a in run)
    ran = world.run(*run)
    assert b"cannot load" in ran.err
    assert "signature" in world.canaries.found(told[0].encode())
    job = json.loads(world.run("jobs", "list", "--json").out)["jobs"][0]["job_id"]
    each([("jobs", "show", job), ("jobs", "show", job, "--json"), ("why", job)], world)
    assert_clean(world, kept=("signature", "password"))


@pytest.mark.parametrize("backend", ["gemini", "runpod"])
def test_a_job_that_is_resumed_after_a_kill(world: Machine, bucket: Scripted, backend: str) -> None:
    over = False

    def slow(request: Request) -> Reply:
        if "/status/" in request.path and not over:
            return Reply(200, {"id": "job-1", "status": "IN_PROGRESS"})
        return worker(request)

    world.google.script(Plan(looks=3))  # type: ignore[attr-defined]
    world.runpod.script = slow  # type: ignore[attr-defined]
    run = generate("gemini")
    if backend == "runpod":
        run = tuple("runpod" if a == "comfyui" else a for a in signed(world, bucket))
        run = tuple(a.replace("http://", "https://") if a.startswith("photo=") else a for a in run)

    def accepted() -> bool:
        asked = (*world.runpod.requests, *world.google.requests)  # type: ignore[attr-defined]
        return any("/status/" in r.path or "/interactions/" in r.path for r in asked)

    with (
        argv_watched(world.canaries, but=("signature", "password")) as lines,
        subprocess.Popen(world.command(*run), env=world.env, stderr=-1, stdout=-1) as child,
    ):
        eventually(accepted, 30)
        child.kill()
        out, err = child.communicate(timeout=30)
        assert world.canaries.found(out + err) == set()
        assert_spool_alone(world)
        over = True
        ran = world.run("jobs", "resume", "--json", "-o", str(world.folder / "out"))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["artifacts"]
    each([("jobs", "list", "--json"), ("costs",), ("doctor",)], world)
    assert_clean(world)
    assert lines == {}
    assert not list((world.folder / "home" / "pennyreel" / "spool").glob("*.json"))


def assert_spool_alone(world: Machine) -> None:
    """Of a job that waits to be resumed its request is kept, and nothing else of it."""
    assert world.leaks(kept=("signature", "password")) == {}
