"""The line for a paid backend: never more turns in a minute than the limit, over all that ask."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel.config import load
from pennyreel.errors import Code
from pennyreel.money.ledger import Ledger
from pennyreel.routing.machine import Option, Outcome
from pennyreel.routing.pacing import MINUTE_S, Answer, Pace
from routing.support import Books, Cell, Scene, ScriptedBackend, fails

NOW = 1_800_000_000.0


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 30).map(lambda s: round(s, 1)), min_size=1, max_size=60),
)
def test_no_minute_has_more_moves_than_the_limit(limit: int, pauses: list[float]) -> None:
    cell, now, moves = Cell(), NOW, list[float]()
    for seconds in pauses:
        now += seconds
        told = Pace(cell, limit).ask("a", now, 600, 0.0)
        before = [t for t in moves if now - MINUTE_S < t]
        assert told.now == (len(before) < limit), "nobody waits without need"
        if told.now:
            moves.append(now)
        else:
            assert Pace(cell, limit).ask("a", told.at, 600, 0.0).now, "it is told when"
            now = told.at
            moves.append(now)
    assert max(sum(t <= other < t + MINUTE_S for other in moves) for t in moves) <= limit


def test_who_waits_takes_nothing_from_others_and_each_backend_has_its_own_line() -> None:
    cell = Cell()
    assert Pace(cell, 1).ask("a:1", NOW, 600, 0.0).now
    for _ in range(100):  # they are cancelled, or killed
        told = Pace(cell, 1).ask("a:1", NOW + 1, 600, 0.5)
        assert (told.now, told.at) == (False, NOW + 62.5)
    assert Pace(cell, 1).ask("a:1", NOW + 60, 600, 0.0).now
    assert Pace(cell, 1).ask("b", NOW, 600, 0.0).now


def test_who_has_waited_for_too_long_is_told_how_to_allow_more() -> None:
    cell = Cell()
    Pace(cell, 1).ask("a", NOW, 600, 0.0)
    hasty = Pace(cell, 1)
    assert not hasty.ask("a", NOW + 1, 10, 0.0).waits
    assert "pennyreel config set moves_per_minute" in hasty.full().hint
    assert hasty.ask("a", NOW + 7200, 10, 0.0).now, "where there is no line nobody is too late"


def test_a_job_that_comes_back_moves_once_more() -> None:
    cell = Cell()
    mine = Pace(cell, 1)
    assert mine.ask("a", NOW, 600, 0.0).now
    assert not mine.ask("a", NOW + 30, 600, 0.0).now
    assert mine.ask("a", NOW + 60, 600, 0.0).now


def test_processes_with_other_limits_count_alike() -> None:
    cell = Cell()
    assert all(Pace(cell, 30).ask("a", NOW, 600, 0.0).now for _ in range(30))
    assert not Pace(cell, 1).ask("a", NOW + 1, 600, 0.0).now
    assert Pace(cell, 31).ask("a", NOW + 1, 600, 0.0).now
    assert not Pace(cell, 31).ask("a", NOW + 1, 600, 0.0).now


@pytest.mark.parametrize(("ahead", "counts"), [(5.0, True), (86_400.0, False)])
def test_a_clock_that_is_ahead_blocks_nobody_for_long(ahead: float, counts: bool) -> None:
    cell = Cell()
    assert Pace(cell, 1).ask("a", NOW + ahead, 600, 0.0).now
    told = Pace(cell, 1).ask("a", NOW, 600, 0.0)
    assert (told.now, told.at) == ((False, NOW + 60) if counts else (True, 0.0))


def test_no_limit_asks_nobody() -> None:
    cell = Cell()
    assert all(Pace(cell, 0).ask("a", NOW, 0, 0.0).now for _ in range(100))
    assert cell.kept == {}


@pytest.mark.parametrize("kept", ["soon", None, ["x"], {"a": 1}])
def test_what_somebody_else_wrote_there_is_read_as_nothing(kept: object) -> None:
    cell = Cell()
    cell.put_breaker("moves a", {"moves": kept}, version=0)
    assert Pace(cell, 1).ask("a", NOW, 60, 0.0).now


def test_threads_that_share_a_ledger_share_the_limit(tmp_path: Path) -> None:
    told: list[Answer] = []
    start = threading.Barrier(8)
    ledger = Ledger.open(load({"PENNYREEL_HOME": str(tmp_path)}))

    def ask() -> None:
        start.wait(30)
        paces = [Pace(ledger, 13) for _ in range(5)]
        told.extend(pace.ask("runpod:e", NOW, 3600, 0.0) for pace in paces)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ledger.close()
    assert len(told) == 40
    assert sum(one.now for one in told) == 13


FREE = Option("a")
PAID = Option("b", reserve_microusd=1000, cancels=True, engine="other")
DEAR = Option("c", reserve_microusd=50_000, cancels=True, engine="another")


def moving(cell: Cell, *, patience_s: float = 3600.0) -> tuple[Scene, ScriptedBackend]:
    """A job whose free backend is down."""
    down = ScriptedBackend("a", submits=[fails(Code.BACKEND_UNAVAILABLE, retryable=False)])
    paid, dear = ScriptedBackend("b"), ScriptedBackend("c")
    option = Option("b", reserve_microusd=1000, cancels=True, patience_s=patience_s)
    scene = Scene(down, paid, dear, books=Books(FREE, option, DEAR), cell=cell, per_minute=1)
    return scene, paid


def test_a_job_that_moves_waits_for_its_turn_and_goes_to_nothing_dearer() -> None:
    cell = Cell()
    first, _ = moving(cell)
    assert first.driver.run().outcome is Outcome.DONE
    second, paid = moving(cell)
    told = threading.Event()
    tell = second.told.append

    class Told(list[str]):
        def append(self, text: str) -> None:
            tell(text)
            if "asking again in" in text:
                told.set()

    second.told = Told()
    thread = threading.Thread(target=second.driver.run)
    thread.start()
    assert told.wait(30)
    second.driver.cancel()
    thread.join(30)
    assert second.books.strict.outcome is Outcome.CANCELLED
    assert paid.log == []
    assert second.backends["c"].log == []
    assert second.books.strict.costs.get(1) is None, "nothing is held while it waits"


def test_a_job_that_may_not_wait_so_long_is_sent_to_the_next() -> None:
    cell = Cell()
    moving(cell)[0].driver.run()
    second, paid = moving(cell, patience_s=5.0)
    ended = second.driver.run()
    assert (ended.outcome, ended.winner, paid.log) == (Outcome.DONE, DEAR, [])
    assert any("jobs a minute may move here" in text for text in second.told)


@pytest.mark.parametrize("first", [FREE, PAID])
def test_a_first_choice_waits_for_nobody(first: Option) -> None:
    cell = Cell()
    for _ in range(3):
        backend = ScriptedBackend(first.backend)
        scene = Scene(backend, books=Books(first), cell=cell, per_minute=1)
        assert scene.driver.run().outcome is Outcome.DONE
    assert not any(name.startswith("moves") for name in cell.kept)
