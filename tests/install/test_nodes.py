"""Node packs: where they come from, what they may bring along, and that each is imported."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from install.installer_fakes import FakeWorld, tar_gz
from pennyreel_comfy.install import Installation, install, install_until, nodes
from pennyreel_comfy.install.children import Outcome
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.install.packs import Pack, note_version, obtain, parse_pack, version_of
from pennyreel_contract.errors import Code, SetupNeeded

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = """
Import times for custom nodes:
   0.0 seconds: /comfyui/comfy/custom_nodes/websocket_image_save.py
   1.2 seconds: /comfyui/comfy/custom_nodes/some-pack

IMPORT FAILED: nodes_audio.py
"""
BAD = """
Cannot import /comfyui/comfy/custom_nodes/some-pack module for custom nodes: No module named 'x'
Cannot import /comfyui/comfy/comfy_extras/nodes_wan.py module for custom nodes: no

Import times for custom nodes:
   0.1 seconds (IMPORT FAILED): /comfyui/comfy/custom_nodes/some-pack
   0.1 seconds (IMPORT FAILED): /comfyui/comfy/custom_nodes/empty-pack

IMPORT FAILED: nodes_wan.py
"""


@pytest.mark.parametrize(
    ("text", "pack"),
    [
        (
            f"https://github.com/o/My-Pack.git@{COMMIT}",
            Pack("My-Pack", "git", "https://github.com/o/My-Pack", COMMIT),
        ),
        ("comfyui-kjnodes", Pack("comfyui-kjnodes", "registry", "comfyui-kjnodes")),
        ("comfyui-kjnodes@1.2", Pack("comfyui-kjnodes", "registry", "comfyui-kjnodes", "1.2")),
        ("/tmp/my_pack", Pack("my_pack", "path", "/tmp/my_pack")),
        ("./pack.tar.gz", Pack("pack", "path", "./pack.tar.gz")),
    ],
)
def test_a_pack_is_named_by_commit_by_registry_or_by_path(text: str, pack: Pack):
    assert parse_pack(text) == pack


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/o/p",
        "https://github.com/o/p@main",
        f"https://github.com/o/p@{COMMIT[:7]}",
        f"https://user@github.com/o/..@{COMMIT}",
        "bad name",
        "-rf",
        "",
    ],
)
def test_what_is_not_pinned_or_has_no_plain_name_is_refused(text: str):
    with pytest.raises(SetupNeeded) as caught:
        parse_pack(text)
    assert caught.value.code == Code.NOT_CONFIGURED


@pytest.mark.parametrize(
    ("repository", "archive"),
    [
        ("https://github.com/o/p", f"https://github.com/o/p/archive/{COMMIT}.tar.gz"),
        ("https://gitlab.com/o/p", f"https://gitlab.com/o/p/-/archive/{COMMIT}/p.tar.gz"),
    ],
)
def test_a_commit_comes_as_an_archive(tmp_path: Path, repository: str, archive: str):
    asked = []

    def fetch(url: str, target: Path) -> None:
        asked.append(url)
        target.write_bytes(tar_gz({"__init__.py": b"A = 1"}))

    pack = parse_pack(f"{repository}@{COMMIT}")
    version = obtain(pack, tmp_path / "to", tmp_path / "scratch", fetch=fetch, registry="")
    assert (version, asked) == (COMMIT, [archive])
    assert (tmp_path / "to" / "__init__.py").read_text() == "A = 1"


def test_from_elsewhere_a_commit_is_cloned_by_git(tmp_path: Path):
    repository = tmp_path / "pack"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for number in (1, 2):
        (repository / "__init__.py").write_text(f"A = {number}")
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
    first = subprocess.run(
        [*git, "rev-parse", "HEAD~1"], check=True, capture_output=True, text=True
    ).stdout.strip()
    pack = parse_pack(f"file://{repository}@{first}")
    obtain(pack, tmp_path / "to", tmp_path / "scratch", fetch=_never, registry="")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["__init__.py"]
    assert (tmp_path / "to" / "__init__.py").read_text() == "A = 1"
    with pytest.raises(SetupNeeded, match="git could not get"):
        obtain(
            Pack("pack", "git", f"file://{repository}", COMMIT),
            tmp_path / "other",
            tmp_path / "scratch",
            fetch=_never,
            registry="",
        )


@pytest.fixture
def registry() -> Iterator[str]:
    """ComfyUI's registry as far as it is asked: one pack in two versions."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("__init__.py", "A = 1")
        archive.writestr("lib/b.py", "B = 1")

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            version = url.query.removeprefix("version=") or "2.0.0"
            body = held.getvalue()
            if url.path.startswith("/nodes/"):
                download = f"http://{self.headers['Host']}/pack.zip"
                body = json.dumps({"downloadUrl": download, "version": version}).encode()
            known = url.path in {"/nodes/some-pack/install", "/pack.zip"}
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(body if known else b'{"error": "not found"}')

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("text", "version"), [("some-pack", "2.0.0"), ("some-pack@1.0", "1.0")])
def test_the_registry_has_a_pack_by_name(tmp_path: Path, registry: str, text: str, version: str):
    pack, to = parse_pack(text), tmp_path / "to"
    fetch = nodes.Tools().fetch
    assert obtain(pack, to, tmp_path / "scratch", fetch=fetch, registry=registry) == version
    assert (to / "lib" / "b.py").read_text() == "B = 1"


def test_a_name_that_the_registry_does_not_have_is_an_error(tmp_path: Path, registry: str):
    with pytest.raises(SetupNeeded, match="no node pack other@3"):
        obtain(
            parse_pack("other@3"), tmp_path / "to", tmp_path / "s", fetch=_never, registry=registry
        )


def test_a_pack_brings_no_display_and_no_options_of_pip(tmp_path: Path):
    lines = ["# comment", "opencv-python>=4.7 # cv2", "-r other.txt", "", "Pillow", "a @ git+x#y"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert nodes.wanted_by(tmp_path) == ["opencv-python-headless>=4.7", "Pillow", "a @ git+x#y"]
    assert nodes.wanted_by(tmp_path / "none") == []


def test_what_comfyui_says_of_its_imports_is_understood():
    good = nodes.read_imports(GOOD.splitlines())
    assert (good.packs, good.failed) == (("some-pack", "websocket_image_save.py"), {})
    bad = nodes.read_imports(BAD.splitlines())
    assert bad.failed == {
        "some-pack": "No module named 'x'",
        "empty-pack": "it registers no node",
        "nodes_wan.py": "no",
    }


class World(FakeWorld):
    """One with a ComfyUI that says what it is told to."""

    says = GOOD
    pinned = ""

    def run(self, argv, *, env, cwd, log, on_line, timeout):
        if "--constraint" in argv:
            self.pinned = Path(argv[argv.index("--constraint") + 1]).read_text()
        if "--quick-test-for-ci" in argv:
            self.runs.append(list(argv))
            for line in self.says.splitlines():
                on_line(line)
            return Outcome(0, self.says)
        return super().run(argv, env=env, cwd=cwd, log=log, on_line=on_line, timeout=timeout)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "comfyui")


@pytest.fixture
def installation(tmp_path: Path, world: World) -> Installation:
    return install(tmp_path / "comfyui", report=lambda _: None, tools=world.tools())


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    folder = tmp_path / "some-pack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "requirements.txt").write_text("einops\n")
    return parse_pack(str(folder))


def add(installation: Installation, world: World, *packs: Pack) -> nodes.Imports:
    return nodes.add_packs(installation, packs, report=lambda _: None, tools=world.tools())


def test_a_pack_is_added_with_what_it_requires_and_torch_stays(
    installation: Installation, world: World, pack: Pack
):
    world.runs.clear()  # ComfyUI itself requires some of the same
    assert add(installation, world, pack).packs == ("some-pack", "websocket_image_save.py")
    assert (installation.layout.comfy / "custom_nodes" / "some-pack" / "__init__.py").exists()
    python = str(installation.layout.python)
    brought = [run[0] for run in world.runs if "einops" in run and "install" in run]
    imported = [run[0] for run in world.runs if "--quick-test-for-ci" in run]
    assert (brought, imported) == ([python], [python]), "the one that will run ComfyUI"
    pins = world.pinned.splitlines()
    assert f"torch=={installation.torch}" in pins
    assert set(read_lock().nodes.pins) <= set(pins)
    assert not installation.layout.downloads.exists()


def test_a_packs_version_is_the_one_that_was_taken_else_its_own(
    installation: Installation, world: World, pack: Pack, tmp_path: Path
):
    folder = installation.layout.comfy / "custom_nodes" / "some-pack"
    add(installation, world, pack)
    assert version_of(folder) == ""
    (tmp_path / "some-pack" / "pyproject.toml").write_text('[project]\nversion = "1.4.2"\n')
    add(installation, world, pack)
    assert version_of(folder) == "1.4.2"
    note_version(folder, COMMIT)
    assert version_of(folder) == COMMIT
    assert version_of(tmp_path / "none") == ""


def test_a_pack_that_is_not_imported_is_an_error_that_names_it(
    installation: Installation, world: World, pack: Pack
):
    world.says = BAD
    with pytest.raises(SetupNeeded, match="some-pack: No module named 'x'") as caught:
        add(installation, world, pack)
    assert "empty-pack" in caught.value.info.detail["failed"]
    assert not (installation.layout.comfy / "custom_nodes" / "some-pack").exists()


def test_a_folder_that_is_no_pack_is_refused_and_not_left(
    installation: Installation, world: World, tmp_path: Path
):
    (tmp_path / "plain").mkdir()
    with pytest.raises(SetupNeeded, match=r"no __init__\.py"):
        add(installation, world, parse_pack(str(tmp_path / "plain")))
    assert not (installation.layout.comfy / "custom_nodes" / "plain").exists()


def test_a_pack_whose_install_program_fails_is_not_added(
    installation: Installation, world: World, pack: Pack
):
    (Path(pack.source) / "install.py").write_text("")
    world.fail["nodes"] = Outcome(1, "it broke")
    with pytest.raises(SetupNeeded):
        add(installation, world, pack)
    assert not (installation.layout.comfy / "custom_nodes" / "some-pack").exists()


def test_the_command_says_what_it_imported(
    installation: Installation, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert nodes.main([str(tmp_path / "nothing")]) == 1
    assert "there is no ComfyUI" in capsys.readouterr().err
    assert nodes.main([str(installation.layout.root), "https://github.com/o/p"]) == 1
    assert "Pin it by its whole commit" in capsys.readouterr().err


def test_the_images_packs_are_those_that_the_workflows_name():
    locked = {one.name: (one.repository, one.commit) for one in read_lock().nodes.packs}
    assert len(locked) == 3
    assert all(len(commit) == 40 for _, commit in locked.values())
    text = (Path(__file__).parents[2] / "workflows" / "animatediff-v3.toml").read_text("utf-8")
    named = [name for name in locked if f'"{name}"' in text]
    assert len(named) == 2
    assert all(part in text for name in named for part in locked[name])


def test_an_installation_goes_on_from_the_stage_where_it_stopped(tmp_path: Path):
    root = tmp_path / "comfyui"
    world = FakeWorld(root)
    install_until("torch", root, report=lambda _: None, tools=world.tools())
    assert Installation.load(root) is None
    assert (world.site / "torch-2.13.0+cpu.dist-info").exists()
    world.runs.clear()
    assert install(root, report=lambda _: None, tools=world.tools()).device == "cpu"
    assert not any("torch==2.13.0" in run for run in world.runs)
    with pytest.raises(SetupNeeded, match="no stage 'other'"):
        install_until("other", root, report=lambda _: None)


def _never(url: str, target: Path) -> None:
    raise AssertionError(url)
