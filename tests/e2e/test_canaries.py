"""Secrets stay where the user put them: canaries in every setting, looked for in all that is left.

Every command is the real one in a process of its own, with PENNYREEL_DEBUG=1 and Python's logging
at DEBUG. Leaks that are planted on purpose have to be found.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from client.support import GRAPH, Reply, Scripted
from e2e.canaries import OWNERS, Canaries, Machine, argv_watched
from e2e.canary_world import (
    BACKENDS,
    FREELY,
    PROMPT,
    Servers,
    assert_clean,
    each,
    echo,
    generate,
    signed,
)
from fakes.waits import eventually
from pennyreel.config import FIELDS
from pennyreel_comfy.install import child_env
from pennyreel_emulators.google import Plan
from programs.canary_cli import LEAKS

pytestmark = pytest.mark.timeout(300)  # dozens of processes, which a busy machine starts slowly


def test_every_secret_setting_has_a_canary(machine: Machine) -> None:
    secrets = {name for name, one in FIELDS.items() if one.kind == "secret"}
    assert secrets - {"ledger_url", "alert_webhook"} <= set(machine.canaries.cores)


@pytest.mark.parametrize("status", [400, 401, pytest.param(500, marks=pytest.mark.long)])
def test_servers_that_quote_the_whole_request(
    machine: Machine, servers: Servers, status: int
) -> None:
    servers.play(lambda request: echo(request, status))
    with argv_watched(machine.canaries) as lines:
        # After a 500, RunPod's job is looked for in the bucket: a test of its own.
        asking = [b for b in BACKENDS if status != 500 or b != "runpod"]
        each([generate(backend) for backend in asking], machine)
        each([("jobs", "list", "--json"), ("backends",)], machine)
    asked = {name for name, server in servers.by.items() if server.requests}
    assert {"comfyui_url", "runpod_base_url", "replicate_base_url", "hf_endpoint"} <= asked
    assert {"gemini_base_url", "vertex_base_url"} <= asked
    assert_clean(machine)
    assert lines == {}
    assert servers.strangers() == {}
    for secret, owners in OWNERS.items():
        if secret != "s3_key":  # only inputs that are too large for a request go there
            told = [r for name in owners for r in servers.by[name].requests]
            assert status == 500 or secret in machine.canaries.in_requests(told), secret


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_lost_job_is_looked_for_in_a_bucket_that_quotes_all(
    machine: Machine, servers: Servers
) -> None:
    servers.play(lambda request: echo(request, 500))
    machine.run(*generate("runpod"), timeout=240)
    assert servers.by["s3_endpoint"].requests
    assert_clean(machine)
    assert servers.strangers() == {}


def test_redirects_take_no_key_along(machine: Machine, servers: Servers) -> None:
    servers.play(lambda r: Reply(307, b"", {"Location": f"{servers.elsewhere.url}{r.path}"}))
    each([generate(backend) for backend in BACKENDS], machine)
    each([("prices", "--refresh"), ("doctor", "--json")], machine)
    assert_clean(machine)
    assert servers.strangers() == {}


def test_jobs_that_end_well_and_all_that_is_told_of_them(world: Machine) -> None:
    out = ("-o", str(world.folder / "out"))
    budget = ("budget", "set", "all", "--day", "0.01")
    with argv_watched(world.canaries) as lines:
        hosted = [b for b in BACKENDS if b != "comfyui"]  # the fake one has no models
        each([generate(b, *out) for b in (*hosted, "simulated")], world)
        graph = world.folder / "plain.json"
        graph.write_text(json.dumps(GRAPH))
        world.run("run", str(graph), "--backend", "comfyui", *FREELY, *out)
        assert [r.err[-900:] for r in world.ran if r.code] == []
        jobs = json.loads(world.run("jobs", "list", "--json").out)["jobs"]
        assert len(jobs) == len(BACKENDS) + 1
        told: list[tuple[str, ...]] = [("why", jobs[0]["job_id"], "--json")]
        told += [("jobs", "show", j["job_id"], "--json") for j in jobs[:2]]
        told += [("quote", PROMPT), ("costs", "--csv"), ("prices", "--refresh"), ("doctor",)]
        told += [("backends", "--json"), ("devices", "--json"), ("models", "list")]
        each(told, world)
        world.run(*budget)
        world.run(*generate("gemini", *out))
    assert_clean(world)
    assert lines == {}
    assert sqlite(world), "the ledger was written"


def sqlite(machine: Machine) -> int:
    with closing(sqlite3.connect(machine.folder / "home" / "pennyreel" / "ledger.db")) as ledger:
        return int(ledger.execute("SELECT count(*) FROM attempts").fetchone()[0])


def test_inputs_at_signed_addresses_and_in_s3_leave_nothing(
    world: Machine, bucket: Scripted
) -> None:
    run = signed(world, bucket)
    stored = tuple("photo=s3://bucket/in.png" if a.startswith("photo=") else a for a in run)
    world.env |= {"PENNYREEL_S3_ENDPOINT": bucket.url, "PENNYREEL_S3_BUCKET": "bucket"}
    each([run, stored], world)
    assert [r.err for r in world.ran if r.code] == []
    assert {"s3_key", "signature"} <= world.canaries.in_requests(bucket.requests)
    assert_clean(world)


@pytest.mark.long
def test_after_a_failure_a_signed_address_is_in_the_spool_alone(
    world: Machine, bucket: Scripted
) -> None:
    bucket.script = lambda _: Reply(403)
    assert world.run(*signed(world, bucket)).code != 0
    assert_clean(world, kept=("signature", "password"))
    spool = list((world.folder / "home" / "pennyreel" / "spool").glob("*.json"))
    assert spool
    assert all(file.stat().st_mode & 0o077 == 0 for file in spool)


def test_a_client_that_is_killed_in_the_middle(world: Machine) -> None:
    world.google.script(Plan(end="hangs"))  # type: ignore[attr-defined]
    with subprocess.Popen(
        world.command(*generate("gemini")), env=world.env, stderr=-1, stdout=-1
    ) as child:
        eventually(lambda: bool(world.google.accepted), 30)  # type: ignore[attr-defined]
        child.kill()
        out, err = child.communicate(timeout=30)
    assert world.canaries.found(out + err) == set()
    world.run("jobs", "list")
    assert_clean(world)


@pytest.mark.long
def test_a_timeout_and_an_interrupt_say_nothing(world: Machine) -> None:
    world.google.script(Plan(end="hangs"))  # type: ignore[attr-defined]
    ran = world.run(*generate("gemini", "--timeout", "2"))
    assert ran.code not in {0, 2}, ran.err
    assert_clean(world)


def test_addresses_with_passwords_are_never_quoted(machine: Machine) -> None:
    for name, one in FIELDS.items():
        if one.kind == "url":
            machine.env[one.env] = f"http://user:{machine.canaries.plant(name)}@127.0.0.1:9/x?t=1"
    machine.env["PENNYREEL_ALERT_WEBHOOK"] = f"https://h.example/{machine.canaries.plant('hook')}"
    each([(command,) for command in ("doctor", "backends")], machine)
    each([generate(backend) for backend in BACKENDS], machine)
    password = machine.canaries.plant("ledger_url")
    url = f"postgresql://user:{quote(password, safe='')}@127.0.0.1:9/ledger"
    machine.run("costs", PENNYREEL_LEDGER_URL=url)
    assert machine.ran[-1].code != 0
    assert_clean(machine)


@pytest.mark.parametrize("kind", ["authorized_user", "service_account"])
def test_a_credentials_file_is_not_quoted_even_by_a_server_that_quotes_it(
    machine: Machine, servers: Servers, tmp_path: Path, kind: str
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    machine.canaries.adopt("private_key", key.decode().splitlines()[5])
    info = {"type": kind, "client_email": "robot@x.example", "private_key": key.decode()}
    info |= {n: machine.canaries.plant(n) for n in ("client_secret", "refresh_token")}
    with Scripted(echo) as tokens:
        file = tmp_path / "credentials.json"
        file.write_text(json.dumps({**info, "client_id": "id", "token_uri": tokens.url}))
        del machine.env["PENNYREEL_VERTEX_TOKEN"]
        machine.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(file)
        each([generate("veo"), ("doctor",), ("backends", "--json")], machine)
        assert tokens.requests
    assert_clean(machine)
    assert servers.strangers() == {}


@pytest.mark.parametrize("damage", ["", "this is = no toml"])
def test_a_config_file_is_never_quoted(machine: Machine, tmp_path: Path, damage: str) -> None:
    tables: dict[str, list[str]] = {}
    for name, one in FIELDS.items():
        if one.kind == "secret":
            table, _, key = one.toml.rpartition(".")
            tables.setdefault(table, []).append(f'{key} = "{machine.canaries.plant(name)}"')
            machine.env.pop(one.env, None)
    text = "\n".join("\n".join([f"[{table}]", *keys]) for table, keys in tables.items())
    file = tmp_path / "config.toml"
    file.write_text(f"{text}\n{damage}\n")
    machine.env["PENNYREEL_CONFIG"] = str(file)
    each([("backends",), ("doctor", "--json"), generate("gemini")], machine)
    assert_clean(machine)


def test_a_comfyui_child_sees_no_secret(machine: Machine) -> None:
    assert machine.canaries.found(json.dumps(child_env(machine.env)).encode()) == set()


def test_every_leak_that_is_planted_is_found(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = dict(pool.map(lambda leak: (leak, leaked(leak, tmp_path)), names()))
    assert len(found) >= 5
    assert [leak for leak, hit in found.items() if not hit] == []


def names() -> list[str]:
    return [one.__name__ for one in LEAKS]


def leaked(leak: str, folder: Path) -> bool:
    """Whether a command with this leak is caught."""
    machine = Machine(folder / leak)
    with ExitStack() as stack:
        servers = Servers(machine, stack)
        place = servers.elsewhere.url
        servers.play(lambda r: Reply(307, b"", {"Location": f"{place}{r.path}"}))
        lines = stack.enter_context(argv_watched(machine.canaries))
        machine.run(*generate("gemini"), LEAK=leak)
        return bool(machine.leaks() or lines or servers.strangers())


def test_the_finder_knows_every_spelling() -> None:
    import base64

    canaries = Canaries()
    secret = canaries.plant("one")
    for text in (secret, quote(secret, safe=""), json.dumps(secret), secret.encode().hex()):
        assert canaries.found(text.encode()) == {"one"}
    for before in range(6):
        plain = b"u" * before + b":" + secret.encode() + b"!"
        assert canaries.found(base64.b64encode(plain)) == {"one"}
        assert canaries.found(base64.urlsafe_b64encode(plain)) == {"one"}
    assert canaries.found(b"another") == set()
