"""What is missing on this machine, how large it is, and whether it would fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.provision.conftest import DATA, MODEL, workflow
from comfy.models.library import Library
from pennyreel import localcomfy
from pennyreel.config import load
from pennyreel.errors import BadRequest, JobFailed
from pennyreel.need import Lacks
from pennyreel.provision import perform, plan, words
from pennyreel.provision.plan import Plan
from pennyreel.provision.wanted import need_of
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.models import Entry
from pennyreel_comfy.models.store import part_of

WHOLE = Lacks()


def made(what: object, told: Lacks | None = None, **options: bool) -> Plan:
    return plan.make(load(), need_of(str(what)), what=str(what), told=told, **options)


def test_without_comfyui_all_of_a_template_is_planned_with_its_sums() -> None:
    found = made("animatediff-v3")
    assert found.comfyui is not None
    assert [p.name for p in found.packs] == [
        "ComfyUI-AnimateDiff-Evolved", "ComfyUI-VideoHelperSuite",
    ]  # fmt: skip
    assert all(len(p.commit) == 40 and p.licence and p.bytes for p in found.packs)
    assert [e.folder for e in found.models] == ["checkpoints", "animatediff_models"]
    assert found.start == "start"
    assert not found.by_hand
    assert not found.unsized
    models = sum(e.bytes or 0 for e in found.models)
    own = found.comfyui.download_mb * 1_000_000
    assert found.download_bytes == own + models + sum(p.bytes or 0 for p in found.packs)
    assert found.room_bytes > found.disk_bytes > found.download_bytes
    transfer = (found.download_bytes - own) * 8 / 1e8 / 60
    assert found.minutes == pytest.approx(found.comfyui.minutes + 1.0 + transfer)
    said = words.summary(found)
    assert said.startswith("installs ComfyUI, 2 node packs, 2 models: ")
    assert "GB, about " in said


def test_what_is_installed_is_looked_for_on_its_disk(
    root: Path, file: Path, entry: Entry, placed: Callable[[], None]
) -> None:
    found = made(file)
    assert (found.comfyui, found.packs, found.start) == (None, (), "start")
    assert [e.key for e in found.models] == [f"checkpoints/{MODEL}"]
    assert found.download_bytes == len(DATA)
    placed()
    found = made(file)
    assert not found.installs
    assert not found.empty, "it does not run"
    assert made(file, start=False).empty


def test_a_file_of_another_size_is_what_comfyui_loads_and_is_told(
    root: Path, file: Path, entry: Entry
) -> None:
    (root / "comfy" / "models" / "checkpoints" / MODEL).write_bytes(b"mine")
    found = made(file)
    assert found.models == ()
    assert found.differing == (entry.key,)
    assert any("is not the file that the list" in line for line in words.lines(found))


@pytest.mark.parametrize("name", ["../../escape.ckpt", "a\\..\\b.pt", ".hidden.pt", "con.pt"])
def test_a_name_that_leads_elsewhere_is_missing_and_nothing_more(
    name: str, root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(workflow(name)))
    assert [m.folder for m in made(path).unlisted] == ["checkpoints"]


def test_what_came_before_a_download_broke_off_is_not_counted_again(
    root: Path, file: Path, entry: Entry
) -> None:
    part = part_of((root / "comfy" / "models").absolute(), entry.key)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:100_000])
    assert made(file).download_bytes == len(DATA) - 100_000


def test_a_pack_is_there_in_whatever_spelling(root: Path) -> None:
    nodes = root / "comfy" / "custom_nodes"
    assert len(made("animatediff-v3").packs) == 2
    (nodes / "comfyui_animatediff-evolved").mkdir()
    assert [p.name for p in made("animatediff-v3").packs] == ["ComfyUI-VideoHelperSuite"]
    (nodes / "mine").mkdir()
    (nodes / "mine" / "nodes.py").write_text("NODE_CLASS_MAPPINGS = {'VHS_VideoCombine': 1}")
    assert made("animatediff-v3").packs == (), "another pack has the class"


def test_more_folders_of_models_are_for_comfyui_to_read(root: Path, file: Path) -> None:
    (root / "comfy" / "extra_model_paths.yaml").write_text("a: b\n")
    assert [m.key for m in made(file).unlisted] == [f"checkpoints/{MODEL}"]
    assert not made(file, WHOLE).installs, "where it runs, its word counts"


def test_what_no_list_knows_is_named_with_the_command_that_gets_it(
    root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.json"
    graph = workflow("my model.ckpt", a="NobodysNode", b="UltralyticsDetectorProvider")
    path.write_text(json.dumps(graph))
    found = made(path)
    assert not found.installs
    assert found.by_hand
    assert found.classes == ("NobodysNode",)
    assert [p.name for p in found.unpinned] == ["ComfyUI-Impact-Subpack"]
    told = "\n".join(words.lines(found))
    assert "models add URL --folder checkpoints --name 'my model.ckpt' --sha256 SHA256" in told
    assert "no known node pack has the class NobodysNode" in told
    assert f"python -m pennyreel_comfy.install.nodes {root} https://github.com/" in told
    body = words.to_json(found)
    assert body["by_hand"]["models"][0]["folder"] == "checkpoints"
    assert body["by_hand"]["classes"] == ["NobodysNode"]


def test_comfyuis_own_classes_are_not_asked_for_before_it_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(workflow(a="NobodysNode")))
    assert made(path).classes == ()


def test_what_the_running_one_says_counts_before_its_disk(
    root: Path, file: Path, entry: Entry, placed: Callable[[], None]
) -> None:
    placed()
    lacks = Lacks(models=(("checkpoints", MODEL),))
    assert made(file, lacks).models == (entry,)
    assert made(file, Lacks(unsure=lacks.models)).models == (), "unsure: then its disk"


def test_new_nodes_need_a_new_start_and_models_none(
    root: Path, file: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = localcomfy.Server("http://127.0.0.1:1", 1, "x")
    monkeypatch.setattr(localcomfy, "running", lambda _: server)
    model = (("checkpoints", MODEL),)
    assert made(file, Lacks(models=model)).start == ""
    told = Lacks(classes=("VHS_VideoCombine",))
    assert made("animatediff-v3", told).start == "restart"
    # Its pack is there: it came after ComfyUI was started.
    (root / "comfy" / "custom_nodes" / "ComfyUI-VideoHelperSuite").mkdir()
    again = made("animatediff-v3", told)
    assert (again.packs, again.start) == ((), "restart")


def test_a_disk_that_is_too_small_is_told_before_anything_is_done() -> None:
    found = made("animatediff-v3")
    small = Plan(**{**vars(found), "free_bytes": 4_000_000_000})
    with pytest.raises(JobFailed, match=r"4 GB are free, and .* are needed") as told:
        perform.check_room(small)
    assert told.value.code == "disk_full"
    perform.check_room(Plan(**{**vars(found), "free_bytes": found.room_bytes}))


def test_hosts_tell_sizes_and_who_may_have_a_model(
    root: Path, home: Path, file: Path, entry: Entry, library: Library
) -> None:
    (home / "models.toml").write_text(
        (home / "models.toml").read_text().replace(f"bytes = {len(DATA)}\n", "")
    )
    found = made(file)
    assert (found.unsized, found.download_bytes) == (1, 0)
    assert "unknown size" in words.summary(found)
    known = plan.asked(found, load(), [library.host])
    assert (known.unsized, known.download_bytes) == (0, len(DATA))
    refused = plan.asked(found, load())
    assert "models are not downloaded from 127.0.0.1" in refused.refused[entry.key]
    library.files["/tiny"].status = 403
    gated = plan.asked(found, load(), [library.host]).refused[entry.key]
    assert "answers 403" in gated
    assert any(line.startswith("warning: ") for line in words.lines(refused))
    library.files["/tiny"].status = 503
    assert plan.asked(found, load(), [library.host]).refused == {}


@pytest.mark.parametrize("what", ["nothing", "missing.json"])
def test_what_does_not_exist_is_refused(what: str) -> None:
    with pytest.raises(BadRequest):
        need_of(what)


def test_every_template_can_be_planned() -> None:
    from pennyreel_comfy import templates

    for template in templates.list_templates():
        found = made(template.name)
        assert not found.by_hand, template.name
        assert {m.name for m in found.models} <= {m.name for m in template.models}
    assert read_lock().nodes.packs


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MB"), (900, "1 kB"), (450e6, "450 MB"), (2.1326e9, "2.13 GB"), (12.4e9, "12.4 GB")],
)
def test_sizes_are_told_for_a_person(size: float, text: str) -> None:
    assert plan.size_text(size) == text


@pytest.mark.parametrize(
    ("minutes", "text"), [(0.0, "1 minute"), (1.0, "1 minute"), (1.2, "2 minutes")]
)
def test_minutes_are_never_too_few(minutes: float, text: str) -> None:
    assert plan.minutes_text(minutes) == text
