"""What is asked of every backend before a job goes anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.routing.conftest import TOKEN, ended, started
from client.support import Reply, Scripted
from fakes.waits import eventually
from pennyreel import survey
from pennyreel.backends import registry
from pennyreel.backends.base import Backend
from pennyreel.backends.simulated import SimulatedBackend
from pennyreel.config import Settings, load
from pennyreel.errors import Code, error
from pennyreel.fleet.devices import Devices, detect
from pennyreel.money import catalog
from pennyreel.money.caps import Scope
from pennyreel.money.ledger import Ledger
from pennyreel.need import Lacks, Need
from pennyreel.routing.facts import Facts, Fit, Place, Rules
from pennyreel.routing.policy import decide
from pennyreel.survey import COLD_S, OVERHEAD_S, Survey
from pennyreel.types import Health

GB = 2**30
NEED = Need(template="animatediff-v3", profile="animatediff-v3", vram_min_bytes=6 * GB)
Make = Callable[..., Survey]


class Backends:
    """Simulated ones under the names that are asked for."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.asked: list[str] = []

    def __call__(self, name: str, target: str | None) -> Backend:
        found = self.made.get(name)
        if found is None:
            raise error(Code.NOT_CONFIGURED, f"no key of {name}", hint=f"Set the key of {name}.")
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def add(self, name: str, health: Callable[[], Health] | None = None) -> None:
        made = SimulatedBackend(name=name)
        outer = self

        def asked() -> Health:
            outer.asked.append(name)
            return health() if health else Health(name, True, "fine", target="here")

        made.health = asked  # type: ignore[method-assign]
        self.made[name] = made


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    monkeypatch.setattr(registry, "names", lambda: ["comfyui", "replicate", "runpod"])
    return Backends()


@pytest.fixture
def make(home: Path, backends: Backends, ledger: Ledger) -> Make:
    def survey_of(devices: Devices | None = None, **settings: Any) -> Survey:
        table = catalog.load(home)
        return Survey(
            load(**settings), backends, ledger, table,
            devices=lambda _: devices or machine(),
        )  # fmt: skip

    return survey_of


def machine(gpus: str = "none") -> Devices:
    """This machine, with other GPUs."""
    return detect(Settings(home=Path("/nowhere"), devices=gpus))


def by_name(found: list[Facts]) -> dict[str, Facts]:
    return {one.backend: one for one in found}


def test_what_cannot_be_opened_is_explained_with_its_price(make: Make, backends: Backends) -> None:
    backends.add("replicate")
    found = by_name(make().facts(NEED))
    assert found["replicate"].available
    closed = found["runpod"]
    assert (closed.available, closed.why) == (False, "no key of runpod")
    assert closed.fix == "Set the key of runpod."
    assert closed.price.likely is not None, "as the table has it"
    assert closed.place is Place.RENTED


def test_the_time_of_what_cannot_be_opened_is_the_ways_and_counts_as_estimated(make: Make) -> None:
    closed = by_name(make().facts(NEED))["runpod"]
    (way,) = [w for w in catalog.load(Path("/nowhere")).ways if w.backend == "runpod"]
    assert closed.seconds is not None
    assert way.seconds is not None
    assert closed.seconds.samples == 0
    assert closed.seconds.basis.startswith("an estimate")
    most = way.seconds[2] + OVERHEAD_S[2] + COLD_S[2]
    assert (closed.seconds.low, closed.seconds.high) == (way.seconds[0] + OVERHEAD_S[0], most)


def test_how_many_of_a_backends_attempts_went_well_is_known_from_the_ledger(
    make: Make, backends: Backends, ledger: Ledger
) -> None:
    backends.add("replicate")
    for n, code in enumerate(["done", "done", "done", "timeout", "done"]):
        ledger.record_job(f"j{n}", request_sha256=str(n), need=NEED)
        ledger.reserve(f"a{n}", 0, job_id=f"j{n}", backend="replicate")
        ledger.settle(f"a{n}", 0, code=code)
    found = by_name(make().facts(NEED))
    assert found["replicate"].success == 0.8
    assert found["runpod"].success is None


def test_each_of_googles_backends_has_the_price_of_its_own_way(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "names", lambda: ["gemini", "veo", "veo-fast"])
    found = by_name(make().facts(NEED))
    prices = {name: one.price.likely for name, one in found.items()}
    assert prices["veo"] == 1_600_000
    assert prices["veo-fast"] == 400_000
    assert prices["gemini"] not in (None, prices["veo-fast"])


def test_one_without_a_key_is_no_way_for_what_it_could_not_do(
    make: Make, backends: Backends
) -> None:
    backends.add("comfyui")
    told = decide(make().facts(Need(workflow=True)), Need(workflow=True), Rules(), now=0.0)
    found = {c.backend: c.verdict.value for c in told.candidates}
    assert found["replicate"] == "misfit", "a token would not help"
    assert found["runpod"] == "unavailable", "a key would"


def test_one_that_hangs_does_not_hold_up_the_rest(
    make: Make, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PROBE_S", 1.5)
    go_on = threading.Event()

    def hangs() -> Health:
        go_on.wait(30)
        return Health("runpod", True, "at last", target="here")

    backends.add("replicate")
    backends.add("runpod", hangs)
    try:
        found = by_name(make().facts(NEED))
        assert found["replicate"].available
        assert not found["runpod"].available
        assert "has not answered within 1.5 s" in found["runpod"].why
        assert found["runpod"].price.sku == "simulated", "its price is known all the same"
        named = by_name(make().facts(NEED, named="runpod"))
        assert named["runpod"].available, "one that is named is tried all the same"
    finally:
        go_on.set()
    eventually(lambda: not _threads())


def test_one_that_hangs_in_all_it_does_is_left_out(
    make: Make, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PROBE_S", 1.0)
    monkeypatch.setattr(survey, "REST_S", 1.0)
    go_on = threading.Event()
    backends.add("replicate")
    backends.add("runpod")
    backends.made["runpod"].usage = lambda _: go_on.wait(30)
    try:
        found = by_name(make().facts(NEED))
    finally:
        go_on.set()
    assert found["replicate"].available
    assert not found["runpod"].available
    eventually(lambda: not _threads())


@pytest.mark.parametrize("member", ["abilities", "usage", "health", "open"])
def test_a_strangers_exception_spoils_only_its_own(
    member: str, make: Make, backends: Backends
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("Bearer secret")

    backends.add("replicate")
    backends.add("runpod")
    if member == "open":
        backends.made["runpod"] = ZeroDivisionError("Bearer secret")
    else:
        setattr(backends.made["runpod"], member, broken)
    found = by_name(make().facts(NEED))
    assert found["replicate"].available
    assert not found["runpod"].available
    assert found["runpod"].why == "unforeseen: ZeroDivisionError"


def test_any_backend_may_tell_what_it_lacks(make: Make, backends: Backends) -> None:
    need = replace(NEED, classes=("A",), models=(("vae", "a.safetensors"),))
    answers: list[Any] = [Lacks(("A",), need.models), None, Lacks(), ZeroDivisionError("x")]
    backends.add("replicate")

    def lacks(asked: Need) -> Lacks | None:
        assert asked is need
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    backends.made["replicate"].lacks = lacks
    for named in (None, "replicate"):
        answers.insert(0, answers[0])
        told = by_name(make().facts(need, named=named))["replicate"]
        assert not told.available, "named or not: it would only refuse the job"
        assert told.why == "it lacks the model vae/a.safetensors and the node class A"
        assert "put a.safetensors into its models/vae" in told.fix
    answers.pop(0)
    for number in range(3):
        other = replace(need, classes=(str(number),))
        need = other
        told = by_name(make().facts(other))["replicate"]
        assert told.available, "what is not known is not missing"
    assert answers == []


def test_a_local_one_that_was_down_is_asked_anew_at_once(make: Make, backends: Backends) -> None:
    answers = [False, True]
    backends.add("comfyui", lambda: Health("comfyui", answers.pop(0), "x", target="x"))
    backends.made["comfyui"].target = "http://127.0.0.1:9"
    assert not by_name(make().facts(NEED))["comfyui"].available
    assert by_name(make().facts(NEED))["comfyui"].available, "it was started in between"


def test_what_was_heard_is_used_again_for_a_while(make: Make, backends: Backends) -> None:
    backends.add("replicate")
    for _ in range(3):
        make().facts(NEED)
    assert backends.asked == ["replicate"]


def test_only_by_its_name_is_the_simulated_one_asked(make: Make, backends: Backends) -> None:
    backends.add("simulated")
    assert "simulated" not in by_name(make().facts(NEED))
    found = by_name(make().facts(NEED, named="simulated"))
    assert found["simulated"].place is Place.SIMULATED


def test_its_budgets_and_its_learned_seconds_are_told(
    make: Make, backends: Backends, ledger: Ledger
) -> None:
    backends.add("replicate")
    ledger.set_budget(Scope.parse("backend:replicate"), "day", 500_000)
    ledger.set_budget(Scope.parse("backend:runpod"), "day", 1)
    for seconds in (40.0, 42.0, 44.0):
        ledger.learn("animatediff-v3", "simulated", seconds)
    told = by_name(make().facts(NEED))["replicate"]
    assert [(b.scope, b.microusd) for b in told.budgets] == [("backend:replicate", 500_000)]
    assert "budget set backend:replicate --day" in told.budgets[0].fix
    assert told.seconds is not None
    assert 30 < told.seconds.likely < 60
    assert told.seconds.basis != "the template's hint"


@pytest.mark.parametrize(
    ("gpus", "fit"),
    [("none", Fit.CPU), ("RTX 3090:24GB", Fit.GOOD), ("GTX 1050:2GB", Fit.BELOW)],
)
def test_this_machines_gpu_decides_how_well_it_suits(
    gpus: str, fit: Fit, make: Make, backends: Backends
) -> None:
    backends.add("comfyui")
    backends.made["comfyui"].target = "http://127.0.0.1:8188"
    here = machine(gpus)
    need = replace(NEED, vram_good_bytes=8 * GB)
    told = by_name(make(here).facts(need))["comfyui"]
    assert (told.place, told.fit) == (Place.LOCAL, fit)
    anywhere = by_name(make(here).facts(replace(NEED, vram_min_bytes=0)))["comfyui"]
    assert anywhere.fit is Fit.GOOD
    backends.made["comfyui"].target = "http://10.0.0.7:8188"
    other = by_name(make(here).facts(need))["comfyui"]
    assert (other.place, other.fit) == (Place.OWN, Fit.UNKNOWN)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A Replicate that takes its time to say how it is."""
    both = threading.Event()

    def script(_: Any) -> Reply:
        both.wait(1.0)
        return Reply(200, {})

    with Scripted(script) as server:
        monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
        monkeypatch.setenv("REPLICATE_BASE_URL", server.url)
        yield server


def test_of_many_processes_one_asks(slow: Scripted) -> None:
    several = [started("quote", "a boat", "--json") for _ in range(3)]
    for ran in map(ended, several):
        assert ran.code == 0, ran.err
        (told,) = [c for c in ran.json["candidates"] if c["backend"] == "replicate"]
        assert told["verdict"] != "unavailable", told["reasons"]
    assert len(slow.requests) == 1


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "pennyreel-survey"]
