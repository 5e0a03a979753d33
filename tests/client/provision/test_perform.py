"""A plan carried out: in its order, once, and with a new start only where it may be."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import requests

from client.provision.conftest import DATA, MODEL, workflow
from client.support import SLEEPING, until
from comfy.models.library import Library
from install.test_nodes import BAD, World
from pennyreel import SetupNeeded, localcomfy
from pennyreel.config import load
from pennyreel.need import Need
from pennyreel.provision import perform, plan, running
from pennyreel.provision.here import NO_LIMIT, Here
from pennyreel.provision.perform import Done, Views
from pennyreel.provision.wanted import need_of
from pennyreel_comfy.install import Installation, Report, StageDone
from pennyreel_comfy.models import Entry, Rules
from pennyreel_comfy.process import free_port
from pennyreel_comfy.waiting import CancelToken, Deadline

PACKS = {
    "ComfyUI-AnimateDiff-Evolved": "ADE_UseEvolvedSampling",
    "ComfyUI-VideoHelperSuite": "VHS_VideoCombine",
}


class Hub(World):
    """GitHub has the packs, too; each names its classes for the scripted ComfyUI."""

    def fetch(self, url: str, target: Path) -> None:
        name = next((name for name in PACKS if name in url), None)
        if name is None:
            super().fetch(url, target)
            return
        self.runs.append(["fetch", url])
        target.parent.mkdir(parents=True, exist_ok=True)
        files = {"__init__.py": b"", "classes.json": json.dumps([PACKS[name]]).encode()}
        with tarfile.open(target, "w:gz") as archive:
            for inside, content in files.items():
                info = tarfile.TarInfo(f"{name}-commit/{inside}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    @property
    def fetched(self) -> list[str]:
        return [run[1].rpartition("/")[2] for run in self.runs if run[0] == "fetch"]


class Teller:
    """Views that note what they are told."""

    def __init__(self, library: Library) -> None:
        self.events: list[Any] = []
        self.said: list[str] = []
        self._hosts = [library.host]

    def views(self) -> Views:
        return Views(self._installing, self._downloading, self.said.append)

    def _installing(self) -> AbstractContextManager[Report]:
        return nullcontext(self.events.append)

    @contextmanager
    def _downloading(self, here: Here) -> Iterator[Rules]:
        hosts = here.hosts(self._hosts)
        yield Rules(hosts, NO_LIMIT, Deadline(None), CancelToken(), progress=self.events.append)


@pytest.fixture
def teller(library: Library) -> Teller:
    return Teller(library)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A workflow with a model and two packs."""
    path = tmp_path / "shot.json"
    path.write_text(json.dumps(workflow(a="ADE_UseEvolvedSampling", b="VHS_VideoCombine")))
    return path


def planned(what: Path, hub: Hub, *, start: bool = True) -> tuple[plan.Plan, Need]:
    need = need_of(str(what))
    now = running.look(load(), need)
    told = now.told if now and now.ours else None
    made = plan.make(load(), need, what=str(what), start=start, told=told, tools=hub.tools())
    return made, need


def done(what: Path, hub: Hub, teller: Teller, *, start: bool = True) -> Done:
    made, need = planned(what, hub, start=start)
    return perform.perform(made, load(), need, teller.views(), tools=hub.tools())


def test_all_of_it_is_installed_in_order_and_nothing_twice(
    home: Path, graph: Path, entry: Entry, teller: Teller
) -> None:
    root = home / "comfyui"
    hub = Hub(root)
    first = done(graph, hub, teller, start=False)
    assert first.comfyui == "0.3.75"
    assert first.packs == tuple(PACKS)
    assert [(m.entry.key, m.how) for m in first.models] == [(f"checkpoints/{MODEL}", "downloaded")]
    assert [name[:8] for name in hub.fetched] == ["v0.3.75.", "d8d163cd", "4ee72c06"]
    assert Installation.load(root) is not None
    assert (root / "comfy" / "models" / "checkpoints" / MODEL).read_bytes() == DATA
    assert any(isinstance(e, StageDone) for e in teller.events)
    own = '"CheckpointLoaderSimple", "EmptyImage", "SaveImage"'  # the release has no nodes at all
    (root / "comfy" / "nodes.py").write_text(f"NODES = [{own}]\n")
    assert planned(graph, hub, start=False)[0].empty
    hub.runs.clear()
    again = done(graph, hub, teller, start=False)
    assert (again.comfyui, again.packs, again.models) == (None, (), ())
    assert hub.runs == []


def test_where_a_pack_cannot_be_imported_it_is_taken_out_and_planned_again(
    root: Path, graph: Path, entry: Entry, teller: Teller
) -> None:
    hub = Hub(root)
    hub.says = BAD.replace("some-pack", "ComfyUI-VideoHelperSuite")
    with pytest.raises(SetupNeeded, match="No module named 'x'"):
        done(graph, hub, teller)
    assert [p.name for p in planned(graph, hub)[0].packs] == ["ComfyUI-VideoHelperSuite"]
    assert localcomfy.running(root) is None


def test_new_nodes_are_loaded_by_a_new_start_at_the_same_port(
    root: Path, graph: Path, entry: Entry, teller: Teller
) -> None:
    port = free_port()
    before = localcomfy.start(root, url="http://127.0.0.1:9", port=port, extra=["--lowvram"])
    hub = Hub(root)
    made, need = planned(graph, hub)
    assert made.start == "restart"
    told = perform.perform(made, load(), need, teller.views(), tools=hub.tools())
    after = localcomfy.running(root)
    assert after is not None
    assert after.pid != before.pid
    assert (after.url, told.url, after.extra) == (before.url, before.url, ("--lowvram",))
    assert planned(graph, hub)[0].empty, "by its own word"


def test_one_that_is_at_work_is_not_stopped(
    root: Path, graph: Path, entry: Entry, teller: Teller
) -> None:
    before = localcomfy.start(root, url="http://127.0.0.1:9", port=free_port())
    requests.post(f"{before.url}/prompt", json={"prompt": SLEEPING}, timeout=10).raise_for_status()
    until(lambda: requests.get(f"{before.url}/queue", timeout=10).json()["queue_running"])
    told = done(graph, Hub(root), teller)
    assert told.left == "pennyreel comfyui stop; pennyreel comfyui start"
    after = localcomfy.running(root)
    assert after is not None
    assert after.pid == before.pid


def test_one_that_still_lacks_something_after_all_is_an_error(
    root: Path, graph: Path, entry: Entry, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKS, "ComfyUI-VideoHelperSuite", "VHS_SomethingElse")
    with pytest.raises(SetupNeeded, match="still lacks VHS_VideoCombine") as told:
        done(graph, Hub(root), teller)
    assert "pennyreel comfyui logs" in told.value.hint
