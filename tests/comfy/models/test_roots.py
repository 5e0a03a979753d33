"""Models on RunPod's volumes are found, and ComfyUI is told of every folder that they may be in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation
from pennyreel_comfy.models import Root, find_roots, paths_yaml
from pennyreel_comfy.models.digests import Digests
from pennyreel_comfy.models.names import FOLDERS, WEIGHT_FOLDERS
from pennyreel_comfy.models.roots import locate
from pennyreel_comfy.process import ComfyProcess
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import SetupNeeded

COMFYUI = Path(
    os.environ.get("PENNYREEL_TEST_COMFYUI", Path(__file__).parents[3] / "build" / "comfyui")
)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"model")
    return path


def read(text: str) -> dict[str, list[str]]:
    """Read our subset: one table, each value a JSON text of lines."""
    head, *lines = text.splitlines()
    assert head == "pennyreel:"
    pairs = [line.strip().split(": ", 1) for line in lines]
    return {folder: json.loads(value).split("\n") for folder, value in pairs}


@pytest.mark.parametrize(
    "layout", ["models", "ComfyUI/models", "comfyui/models", "runpod-slim/ComfyUI/models", "."]
)
def test_every_usual_place_on_a_volume_is_found(layout: str, tmp_path: Path) -> None:
    put(tmp_path / layout / "checkpoints" / "x.safetensors")
    roots = find_roots([tmp_path])
    found = locate(roots, "checkpoints", "x.safetensors")
    assert found is not None
    assert found[1] == tmp_path / layout / "checkpoints" / "x.safetensors"


def test_what_is_not_there_or_holds_no_models_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "other" / "outputs" / "x.png")
    assert find_roots([tmp_path / "nowhere", tmp_path / "empty", tmp_path / "other"]) == []


def test_a_folder_of_models_may_itself_be_named(tmp_path: Path) -> None:
    put(tmp_path / "mine" / "loras" / "x.safetensors")
    assert find_roots([tmp_path / "mine"]) == [Root(tmp_path / "mine")]


def test_a_folder_may_be_named_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine" / "loras" / "x.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    (root,) = find_roots([Path("mine")])
    assert (root, path) == locate([root], "loras", "x.safetensors")
    digest = Digests().of(root, path, deadline=Deadline(10), cancel=CancelToken())
    assert digest == hashlib.sha256(b"weights").hexdigest()


def test_one_volume_under_two_names_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "runpod-volume" / "models" / "loras" / "x.safetensors")
    (tmp_path / "workspace").symlink_to(tmp_path / "runpod-volume")
    roots = find_roots([tmp_path / "runpod-volume", tmp_path / "workspace"])
    assert roots == [Root(tmp_path / "runpod-volume" / "models")]


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A volume with a repository in RunPod's cache, in two revisions; `main` is the older one."""
    repository = tmp_path / "huggingface-cache" / "hub" / "models--guoyww--animatediff"
    for number, revision in enumerate(("aaa", "bbb")):
        put(repository / "snapshots" / revision / f"{revision}.ckpt")
        put(repository / "snapshots" / revision / "split_files" / "vae" / "v.safetensors")
        os.utime(repository / "snapshots" / revision, (number, number))
    put(repository / "refs" / "main").write_text("aaa\n")
    return repository


def test_a_repository_that_runpod_cached_is_found_in_its_revision(
    cached: Path, tmp_path: Path
) -> None:
    (root,) = find_roots([tmp_path])
    assert root == Root(cached / "snapshots" / "aaa", "cached")
    found = locate([root], "animatediff_models", "aaa.ckpt")
    assert found is not None
    assert locate([root], "vae", "v.safetensors") is not None
    assert locate([root], "animatediff_models", "bbb.ckpt") is None
    (cached / "refs" / "main").unlink()
    assert find_roots([tmp_path]) == [Root(cached / "snapshots" / "bbb", "cached")]


def test_the_paths_name_every_folder_in_every_root(tmp_path: Path) -> None:
    found = read(paths_yaml([tmp_path / "a", Root(tmp_path / "b $HOME ~ ü")]))
    assert set(found) == set(FOLDERS)
    for folder, names in FOLDERS.items():
        wanted = [str(tmp_path / root / name) for root in ("a", "b $HOME ~ ü") for name in names]
        assert found[folder] == wanted
    assert paths_yaml([]) == "{}\n"


def test_a_repository_is_offered_wherever_weights_are_looked_for(
    cached: Path, tmp_path: Path
) -> None:
    snapshot = str(cached / "snapshots" / "aaa")
    found = read(paths_yaml(find_roots([tmp_path])))
    assert set(found) == set(WEIGHT_FOLDERS)
    assert found["loras"] == [snapshot]
    assert found["vae"] == [f"{snapshot}/split_files/vae", snapshot]


def test_a_path_that_the_file_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded):
        paths_yaml([tmp_path / "a\nb"])


# The real ComfyUI.


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a model in every folder, and one in RunPod's cache."""
    made = tmp_path_factory.mktemp("runpod") / "volume $HOME"  # pytest would add a number to it
    for names in FOLDERS.values():
        for name in names:
            put(made / "models" / name / "sub" / f"in {name}.safetensors")
    hub = made / "huggingface-cache" / "hub" / "models--a--b"
    put(hub / "snapshots" / "abc" / "cached.safetensors")
    return made


@pytest.fixture(scope="module")
def server(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHttp]:
    """The real ComfyUI, with the file that `paths_yaml` makes."""
    installation = Installation.load(COMFYUI)
    assert installation is not None, f"no ComfyUI in {COMFYUI}: make test installs it"
    work = tmp_path_factory.mktemp("work")
    config = work / "paths.yaml"
    own = installation.layout.comfy / "models"
    roots = [Root(own), *find_roots([volume]), Root(volume / "later")]
    config.write_text(paths_yaml(roots), encoding="utf-8")
    extra = ["--extra-model-paths-config", str(config), "--disable-all-custom-nodes"]
    extra += ["--user-directory", str(work), "--database-url", f"sqlite:///{work}/db"]
    process = ComfyProcess(
        lambda port: installation.command(port, extra=extra), env=installation.env(), cwd=work
    )
    process.start()
    try:
        process.wait_ready(Deadline(100))
        http = ComfyHttp(process.url)
        yield http
        http.close()
    finally:
        process.stop()


@pytest.mark.real
def test_the_real_comfyui_lists_what_is_on_the_volume(server: ComfyHttp) -> None:
    for folder, names in FOLDERS.items():
        if folder in WEIGHT_FOLDERS and folder != "classifiers":  # those have no ending
            listed = server.models(folder)
            assert {f"sub/in {name}.safetensors" for name in names} <= set(listed), folder
            assert "cached.safetensors" in listed, folder


@pytest.mark.real
def test_the_real_comfyui_sees_a_model_that_comes_later(server: ComfyHttp, volume: Path) -> None:
    assert "new.safetensors" not in server.models("loras")
    put(volume / "later" / "loras" / "new.safetensors")
    assert "new.safetensors" in server.models("loras")


@pytest.mark.real
def test_no_folder_of_the_real_comfyui_is_left_out() -> None:
    installation = Installation.load(COMFYUI)
    assert installation is not None
    program = (
        "import folder_paths, json; known = folder_paths.folder_names_and_paths.items();"
        "print(json.dumps({folder: paths for folder, (paths, _) in known}))"
    )
    said = subprocess.run(
        [installation.layout.python, "-c", program],
        cwd=installation.layout.comfy,
        env=installation.env(),
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    known = json.loads(said.stdout.splitlines()[-1])
    assert known.keys() - {"custom_nodes"} <= set(FOLDERS)
    models = installation.layout.comfy.resolve() / "models"
    for folder, names in FOLDERS.items():
        paths = [Path(path) for path in known.get(folder, ())]
        own = {path.name for path in paths if path.resolve().parent == models}
        assert own <= set(names), f"{folder}: also where ComfyUI itself looks"
    assert {"unet", "clip"} <= {Path(path).name for paths in known.values() for path in paths}


def test_the_manifest_ships_with_the_package() -> None:
    package = resources.files("pennyreel_comfy.models")
    assert package.joinpath("models.toml").is_file()
