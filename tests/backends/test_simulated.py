"""The simulated backend: it passes the suite, and nobody can take it for real."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import av
import pytest

from backends.contract import BackendContract, Told
from backends.rig import Rig, Scene, Store
from client.support import GRAPH
from pennyreel import Client
from pennyreel.backends import registry
from pennyreel.backends._simulated_jobs import Memory
from pennyreel.backends.base import Backend, Prompt, Work
from pennyreel.backends.simulated import SimulatedBackend, Simulation
from pennyreel.config import Settings, load
from pennyreel.errors import Code, JobTimeout, SetupNeeded
from pennyreel.need import Need, Unit
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline

ALWAYS = ((-math.inf, math.inf),)
SCENES = {
    Scene.SUCCEED: Simulation(),
    Scene.SLOW: Simulation(queue_s=0.1, run_s=0.2),
    Scene.FAIL: Simulation(fail=1),
    Scene.FILTERED: Simulation(fail=1, fail_code=Code.NODE_REFUSED),
    Scene.HANG: Simulation(hang=1),
    Scene.DEAF: Simulation(hang=1, deaf=True),
    Scene.LOST: Simulation(lose=1),
    Scene.NEVER_CAME: Simulation(drop=1),
    Scene.BUSY: Simulation(refuse=1),
    Scene.RATE_LIMITED: Simulation(refuse=1, refuse_code=Code.RATE_LIMITED, retry_after_s=7),
    Scene.UNAUTHORIZED: Simulation(refuse=1, refuse_code=Code.UNAUTHORIZED),
    Scene.UNPAID: Simulation(refuse=1, refuse_code=Code.NOT_CONFIGURED),
    Scene.INVALID: Simulation(refuse=1, refuse_code=Code.BAD_REQUEST),
    Scene.EXPIRED: Simulation(kept_s=0),
}


class SimulatedRig(Rig):
    secrets = ()

    def __init__(self) -> None:
        self.settings = load()
        self.dead = load(simulated="kept_s=1")
        self.jobs = Memory()
        self.opened: list[SimulatedBackend] = []
        self.content = b""
        self.plan = Simulation()

    def make(self, settings: Settings, target: str | None) -> SimulatedBackend:
        plan = Simulation(outages=ALWAYS) if settings == self.dead else self.plan
        one = SimulatedBackend(plan, target=target or "here", jobs=self.jobs)
        self.opened.append(one)
        return one

    def play(self, scene: Scene) -> None:
        self.plan = SCENES[scene]
        for one in self.opened:
            one.simulation = self.plan

    @property
    def submits(self) -> int:
        return sum(one.submits for one in self.opened)

    @property
    def accepted(self) -> int:
        return len(self.jobs.records)

    def stopped(self, handle: Handle) -> bool:
        return self.jobs.records[handle.attempt_id].cancelled_at is not None

    def urls(self) -> list[str]:
        return []


def pictures(data: bytes) -> list[list[bytes]]:
    """Decode with a library that is not ours: each picture as its pixels, three bytes each."""
    shown = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            assert (frame.width, frame.height) == (192, 108)
            plane = frame.reformat(format="rgb24").planes[0]
            raw, step = bytes(plane), plane.line_size
            at = [y * step + x * 3 for y in range(frame.height) for x in range(frame.width)]
            shown.append([raw[n : n + 3] for n in at])
    return shown


class TestSimulated(BackendContract):
    backend = SimulatedBackend
    lacks: ClassVar = dict.fromkeys(
        set(Scene) - set(SCENES), "it has no wire on which this could happen"
    )

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        return self._rig.make(settings, target)

    @pytest.fixture
    def rig(self) -> Rig:
        from pennyreel.backends import _simulated_pictures

        self._rig = SimulatedRig()
        self._rig.content = _simulated_pictures.png()
        return self._rig

    def test_the_same_attempt_sent_again_is_not_run_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        work = self.work()
        assert one.submit(work) == one.submit(work)
        assert rig.accepted == 1

    def test_it_says_that_it_is_simulated(self, one: Backend, told: Told) -> None:
        assert "simulated" in one.health().detail
        handle, result = self.run(one, told)
        assert "SIMULATED" in result.warnings[0]
        assert "SIMULATED" in result.artifacts[0].name
        assert one.abilities().quality == 0
        assert b"SIMULATED" in bytes(self.fetch(one, handle, result).data)


@pytest.mark.parametrize(("kind", "frames", "ending"), [("image", 1, "png"), ("video", 6, "gif")])
def test_its_files_are_real_and_show_that_they_are_not(kind: str, frames: int, ending: str) -> None:
    one, events = SimulatedBackend(), []
    prompt = Prompt("a boat", kind=kind)
    handle = one.submit(Work("a", {}, prompt=prompt, need=Need(kind=kind)))
    result = one.follow(handle, on_event=events.append, deadline=Deadline(20), cancel=CancelToken())
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken())
    assert result.artifacts[0].name == f"SIMULATED.{ending}"
    assert sink.sha256 == result.artifacts[0].sha256
    shown = pictures(bytes(sink.data))
    assert len(shown) == frames
    ink = 9 * sum(bits.bit_count() for letter in _word() for bits in letter)
    assert [p.count(bytes((255, 214, 10))) for p in shown] == [ink] * frames
    assert len({b"".join(p) for p in shown}) == frames


def _word() -> Iterator[tuple[int, ...]]:
    from pennyreel.backends._simulated_pictures import _LETTERS, WORD

    assert WORD == "SIMULATED"
    return (_LETTERS[letter] for letter in WORD)


class Virtual:
    """A clock that passes at once."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float, woken: threading.Event) -> None:
        self.at += seconds


def test_an_hour_passes_at_once_by_a_clock_of_one_s_own() -> None:
    clock = Virtual()
    plan = Simulation(queue_s=600, run_s=1500, sku="sim/slow", unit=Unit.GPU_SECOND)
    one = SimulatedBackend(plan, clock=clock, poll_s=math.inf)
    need = Need(workflow=True, size=2.0)
    handle = one.submit(Work("a", GRAPH, need=need))
    result = one.follow(
        handle, on_event=lambda _: None, deadline=Deadline(None), cancel=CancelToken()
    )
    assert clock.at == pytest.approx(3600)
    billed = one.billed(need, result)
    assert (billed.sku, billed.unit, billed.amount) == ("sim/slow", Unit.GPU_SECOND, 3000)


def test_an_attempt_s_fate_is_the_seed_s_and_its_own() -> None:
    plan = Simulation(refuse=0.2, drop=0.1, lose=0.1, fail=0.3, run_s=10, spread=0.5, seed=3)
    ids = [f"attempt-{n}" for n in range(4000)]
    first = [plan.fate(i, 0) for i in ids]
    assert [plan.fate(i, 0) for i in reversed(ids)] == first[::-1]
    assert [replace(plan, seed=4).fate(i, 0) for i in ids] != first
    share = sum(f.refused is not None for f in first) / len(first)
    assert share == pytest.approx(0.2, abs=0.03)
    failed = [f for f in first if f.taken and f.ends]
    assert len(failed) / sum(f.taken for f in first) == pytest.approx(0.3, abs=0.03)
    runs = [f.run_s for f in first]
    assert min(runs) >= 5
    assert max(runs) <= 15
    assert all(f.answered for f in first if f.refused)


def test_an_outage_ends(tmp_path: Any) -> None:
    clock = Virtual()
    one = SimulatedBackend(Simulation(outages=((10, 20),)), clock=clock)
    reachable = []
    for at in (9, 10, 19.9, 20):
        clock.at = at
        reachable.append(one.health().reachable)
    assert reachable == [True, False, False, True]


def test_a_job_s_time_limit_ends_it_at_the_server() -> None:
    one = SimulatedBackend(Simulation(hang=1), clock=Virtual())
    handle = one.submit(Work("a", GRAPH, timeout_s=30))
    with pytest.raises(JobTimeout) as caught:
        one.follow(handle, on_event=lambda _: None, deadline=Deadline(None), cancel=CancelToken())
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_processes_share_its_jobs(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.01")
    code = (
        "from pennyreel.backends.base import Work;"
        "from pennyreel.backends.simulated import SimulatedBackend as B;"
        "from pennyreel.config import load;"
        "print(B.open(load()).submit(Work('a' * 32, {})))"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    one = SimulatedBackend.open(load())
    handle = Handle.parse(text)
    assert one.lookup("a" * 32) == handle
    result = one.follow(
        handle, on_event=lambda _: None, deadline=Deadline(20), cancel=CancelToken()
    )
    assert result.artifacts
    assert [p.suffix for p in (home / "simulated").iterdir()] == [".json"]
    assert json.loads(next((home / "simulated").iterdir()).read_text())["attempt_id"] == "a" * 32


@pytest.mark.parametrize("text", ["run_s", "run_s=x", "run_s=-1", "speed=1", "run_s=nan"])
def test_a_number_that_is_none_is_named(text: str) -> None:
    with pytest.raises(SetupNeeded, match="PENNYREEL_SIMULATED") as caught:
        Simulation.parse(text)
    assert "run_s" in caught.value.hint


def test_it_is_there_by_name_and_is_never_chosen(home: Any) -> None:
    assert "simulated" in registry.BUILTIN
    assert "simulated" not in registry.names()
    with Client() as client, pytest.raises(SetupNeeded):
        client.run(GRAPH)
    with Client(backend="simulated", out_dir=home / "out") as client:
        result = client.run(GRAPH)
    assert result.backend == "simulated"
    assert result.paths[0].name.startswith("SIMULATED")
    assert any("SIMULATED" in warning for warning in result.warnings)
