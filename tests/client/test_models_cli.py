"""`pennyreel models`: what is here, what comes, what is wrong, and what goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.commands import Cli, called
from comfy.models.library import Library, safetensors, sha256
from fakes.waits import eventually
from pennyreel.cli._models import file_url
from pennyreel.provision.here import Here
from pennyreel_comfy.models import Entry, load
from pennyreel_comfy.models.manifest import written

DATA = safetensors(400_000)
SHA = sha256(DATA)


@pytest.fixture
def library() -> Iterator[Library]:
    with Library() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], root: Path) -> Cli:
    """`cli("list")`: a command of `pennyreel models`, on that folder."""
    return lambda *args: called(capsys, "models", *args, "--root", root)


@pytest.fixture
def mine(home: Path, library: Library) -> Entry:
    """An entry of the user's own list, whose host has to be allowed."""
    entry = Entry(
        name="x.safetensors", folder="loras", url=library.put("/x", DATA), sha256=SHA,
        bytes=len(DATA), licence="CC0", sets=("tests",),
    )  # fmt: skip
    home.mkdir()
    (home / "models.toml").write_text(written(entry))
    return entry


def test_list_shows_what_is_known_and_what_is_here(cli: Cli, root: Path, mine: Entry) -> None:
    said = cli("list").out
    assert "missing" in said
    assert "checkpoints/sd_xl_base_1.0.safetensors  [sdxl]" in said
    assert "licence: CC0" in said
    (root / "loras").mkdir(parents=True)
    (root / "loras" / "x.safetensors").write_bytes(DATA)
    models = cli("list", "--json").json["models"]
    assert {m["name"] for m in models} == {"x.safetensors", *(e.name for e in load().entries)}
    present = [m for m in models if m["present"]]
    assert [(m["folder"], m["name"], m["licence"]) for m in present] == [
        ("loras", "x.safetensors", "CC0")
    ]


def test_pull_fetches_by_set_prints_paths_and_says_licences(
    cli: Cli, root: Path, mine: Entry, library: Library
) -> None:
    ran = cli("pull", "tests", "--allow-host", library.host)
    path = root / "loras" / "x.safetensors"
    assert (ran.code, ran.out.split()) == (0, ["downloaded", str(path)])
    assert "licence: CC0" in ran.err
    assert path.read_bytes() == DATA
    again = cli("pull", "x.safetensors", "--json").json
    assert [m["how"] for m in again["models"]] == ["present"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["pull", "nothing"], 2, "'nothing'"),
        (["pull"], 2, "Missing argument"),
        (["pull", "tests"], 2, "model_refused"),  # its host is not allowed
        (["verify", "tests"], 2, "loras/x.safetensors"),
        (
            ["add", "https://huggingface.co/a/b", "--folder", "loras"],
            2,
            "does not end like a model",
        ),
        (["add", "https://huggingface.co/a.ckpt", "--folder", "loras"], 2, "sha256 only"),
        (["add", "https://huggingface.co/a.sft", "--folder", "x"], 2, "no folder of models"),
        (["add", "https://evil.example/a.sft", "--folder", "loras"], 2, "model_refused"),
        (["add", "https://civitai.com/a?token=SECRET", "--folder", "loras"], 2, "CIVITAI_API_KEY"),
    ],
)
def test_what_is_wrong_is_said_and_exits_so(
    args: list[str], code: int, told: str, cli: Cli, mine: Entry
) -> None:
    ran = cli(*args)
    assert ran.code == code, ran.err
    assert told in ran.err
    assert "SECRET" not in ran.out + ran.err


def test_a_download_that_fails_exits_3_and_says_so_in_json(
    cli: Cli, mine: Entry, library: Library
) -> None:
    library.put("/x", safetensors(400_000))
    ran = cli("pull", "tests", "--json", "--allow-host", library.host)
    assert ran.code == 3
    assert ran.json["error"]["code"] == "model_download_failed"


def test_several_that_fail_are_all_named(
    cli: Cli, mine: Entry, library: Library, home: Path
) -> None:
    second = mine.model_copy(update={"name": "y.safetensors"})
    (home / "models.toml").write_text(written(mine) + written(second))
    library.files.clear()
    ran = cli("pull", "tests", "--allow-host", library.host)
    assert ran.code == 3
    assert "2 of 2" in ran.err
    assert "loras/y.safetensors" in ran.err


def test_verify_finds_a_file_that_was_spoilt(
    cli: Cli, root: Path, mine: Entry, library: Library
) -> None:
    cli("pull", "tests", "--allow-host", library.host)
    assert cli("verify").out.split()[:2] == ["good", "loras/x.safetensors"]
    path = root / "loras" / "x.safetensors"
    path.write_bytes(b"z" + DATA[1:])
    ran = cli("verify", "--json")
    assert ran.code == 2
    (told,) = ran.json["error"]["detail"]["models"]
    assert told["verdict"] == "different"
    assert cli("pull", "tests", "--force", "--allow-host", library.host).code == 0
    assert cli("verify", "--json").json["models"][0]["verdict"] == "good"


def test_add_downloads_sums_and_writes_it_down(
    cli: Cli, root: Path, home: Path, library: Library
) -> None:
    url = library.put("/some%20dir/my%20lora.safetensors", DATA)
    ran = cli("add", url, "--folder", "loras", "--allow-host", library.host)
    assert ran.code == 0, ran.err
    assert "licence: unknown" in ran.err
    assert (root / "loras" / "my lora.safetensors").read_bytes() == DATA
    found = load([home / "models.toml"]).find("loras", "my lora.safetensors")
    assert found is not None
    assert (found.sha256, found.bytes, found.licence) == (SHA, len(DATA), "unknown")
    assert cli("verify").code == 0
    again = cli("add", url, "--folder", "loras", "--allow-host", library.host)
    assert (again.code, "has loras/my lora.safetensors already" in again.err) == (2, True)
    more = ["--name", "b.sft", "--licence", "MIT", "--set", "tests", "--json"]
    told = cli("add", url, "--folder", "vae", *more, "--allow-host", library.host).json
    assert (told["sha256"], told["licence"]) == (SHA, "MIT")
    assert [e.key for e in load([home / "models.toml"]).select(["tests"])] == ["vae/b.sft"]


def test_add_refuses_another_file_than_its_sum_says(
    cli: Cli, root: Path, home: Path, library: Library
) -> None:
    url = library.put("/a.ckpt", b"a pickle")
    given = ["--folder", "checkpoints", "--allow-host", library.host, "--sha256"]
    assert cli("add", url, *given, "0" * 64).code == 3
    assert not (home / "models.toml").exists()
    assert cli("add", url, *given, sha256(b"a pickle")).code == 0
    assert (root / "checkpoints" / "a.ckpt").read_bytes() == b"a pickle"


def test_add_calls_a_file_as_its_host_does_where_the_url_does_not_say(
    cli: Cli, root: Path, library: Library
) -> None:
    url = library.put(
        "/api/download/models/1", DATA,
        headers={"Content-Disposition": 'attachment; filename="..\\\\my/Lora v2.safetensors"'},
    )  # fmt: skip
    ran = cli("add", url, "--folder", "loras", "--allow-host", library.host)
    assert ran.code == 0, ran.err
    assert (root / "loras" / "Lora v2.safetensors").read_bytes() == DATA
    for headers in ({}, {"Content-Disposition": "inline"}):
        nameless = library.put("/api/download/models/2", DATA, headers=headers)
        ran = cli("add", nameless, "--folder", "loras", "--allow-host", library.host)
        assert (ran.code, "--name" in ran.err) == (2, True)
    gone = cli("add", f"http://{library.host}/3", "--folder", "loras", "--allow-host", library.host)
    assert (gone.code, "404" in gone.err) == (3, True)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            "https://huggingface.co/a/b/blob/main/x.sft",
            "https://huggingface.co/a/b/resolve/main/x.sft",
        ),
        (
            "https://civitai.com/models/4384/dreamshaper?modelVersionId=128713",
            "https://civitai.com/api/download/models/128713",
        ),
        ("https://example.com/models/4384", "https://example.com/models/4384"),
    ],
)
def test_the_address_that_a_browser_shows_is_made_the_files(given: str, meant: str) -> None:
    assert file_url(given) == meant


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://civitai.com/models/4384", "Download button"),
        ("https://civitai.com/api/download/models/1?Token=hunter2", "CIVITAI_API_KEY"),
        ("https://bucket.example/x.sft?X-Amz-Signature=hunter2", "holds a key"),
    ],
)
def test_an_address_that_is_a_page_or_holds_a_key_is_not_written_down(
    url: str, told: str, cli: Cli, home: Path
) -> None:
    ran = cli("add", url, "--folder", "loras")
    assert (ran.code, told in ran.err, "hunter2" in ran.err) == (2, True, False)
    assert not (home / "models.toml").exists()


def test_add_does_not_take_a_file_that_was_there_for_what_the_url_leads_to(
    cli: Cli, root: Path, home: Path, library: Library
) -> None:
    (root / "loras").mkdir(parents=True)
    (root / "loras" / "x.safetensors").write_bytes(b"another one")
    url = library.put("/x.safetensors", DATA)
    given = ["add", url, "--folder", "loras", "--allow-host", library.host]
    ran = cli(*given)
    assert (ran.code, f"--sha256 {sha256(b'another one')}" in ran.err) == (2, True)
    assert not (home / "models.toml").exists()
    (root / "loras" / "x.safetensors").write_bytes(DATA)
    assert cli(*given, "--sha256", SHA).code == 0
    assert library.asked == []


def test_many_who_add_at_the_same_time_are_all_written_down(home: Path, root: Path) -> None:
    def add(number: int) -> None:
        url = f"https://huggingface.co/a/{number}.sft"
        Here.load(root).write(Entry(name=f"{number}.sft", folder="loras", url=url))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(load([home / "models.toml"]).entries) == len(load().entries) + 40


def test_prune_says_what_it_removes(cli: Cli, root: Path, mine: Entry, tmp_path: Path) -> None:
    part = root / ".pennyreel" / "parts" / "a.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"begun")
    kept = root / "loras" / "own.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(DATA)
    jobs = tmp_path / "jobs"
    left = jobs / "loras" / f"{SHA}.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(DATA)
    would = cli("prune", "--dry-run", "--jobs", jobs, "--json").json
    assert (would["bytes"], len(would["removed"])) == (5 + len(DATA), 2)
    assert part.exists()
    ran = cli("prune", "--jobs", jobs)
    assert ran.out.splitlines() == [str(part), str(left)]
    assert "2 files" in ran.err
    assert not part.exists()
    assert not left.exists()
    assert kept.exists()


def test_without_an_installation_a_root_has_to_be_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = called(capsys, "models", "list")
    assert ran.code == 4
    assert "--root" in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pull_says_that_it_can_be_gone_on_with(
    number: signal.Signals, root: Path, mine: Entry, library: Library, home: Path
) -> None:
    data = safetensors(6_000_000)
    library.put("/x", data, hold_at=4_000_000)
    entry = mine.model_copy(update={"sha256": sha256(data), "bytes": len(data)})
    (home / "models.toml").write_text(written(entry))
    command = [sys.executable, "-m", "pennyreel", "models", "pull", "tests", "--root", str(root)]
    command += ["--allow-host", library.host]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )

    with start() as process:
        parts = root / ".pennyreel" / "parts"
        eventually(lambda: any(p.stat().st_size > 2_000_000 for p in parts.glob("*.part")))
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "it resumes" in said
    library.go_on.set()
    library.asked.clear()
    with start() as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert library.asked[0].start > 2_000_000
    assert (root / "loras" / "x.safetensors").read_bytes() == data
