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
from pennyreel.routing.pacing import MINUTE_S, Pace, place
from routing.support import Books, Cell, Scene, ScriptedBackend, fails

NOW = 1_800_000_000.0


def most_in_a_minute(turns: list[float]) -> int:
    return max(sum(t <= other < t + MINUTE_S for other in turns) for t in turns)


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 30).map(lambda s: round(s, 1)), min_size=1, max_size=60),
)
def test_no_minute_has_more_turns_than_the_limit(limit: int, pauses: list[float]) -> None:
    now, turns = NOW, list[float]()
    for seconds in pauses:
        now += seconds
        turn = place(turns[-limit:], limit, now)
        earlier = [t for t in turns if turn - MINUTE_S <= t]
        assert turn == now or len(earlier) >= limit, "nobody waits without need"
        turns.append(turn)
    assert most_in_a_minute(turns) <= limit


def test_a_job_keeps_its_turn_and_each_backend_has_its_own_line() -> None:
    cell = Cell()
    first, second = Pace(cell, 1), Pace(cell, 1)
    assert first.turn("a:1", NOW, 600).at == NOW
    assert second.turn("a:1", NOW, 600).at == NOW + 60
    assert second.turn("a:1", NOW + 60, 600).at == NOW + 60, "it comes back for it"
    assert second.turn("b", NOW, 600).at == NOW


def test_who_would_wait_for_too_long_takes_no_turn_from_others() -> None:
    cell = Cell()
    for n in range(3):
        assert Pace(cell, 1).turn("a", NOW, 600).at == NOW + 60 * n
    hasty = Pace(cell, 1)
    told = hasty.turn("a", NOW, 100)
    assert (told.given, told.at) == (False, NOW + 180)
    assert "pennyreel config set moves_per_minute" in hasty.full(told, NOW).hint
    assert Pace(cell, 1).turn("a", NOW, 600).at == NOW + 180


def test_no_limit_asks_nobody() -> None:
    cell = Cell()
    assert all(Pace(cell, 0).turn("a", NOW, 0).at == NOW for _ in range(100))
    assert cell.kept == {}


def test_what_somebody_else_wrote_there_is_read_as_nothing() -> None:
    cell = Cell()
    cell.put_breaker("moves a", {"turns": "soon"}, version=0)
    assert Pace(cell, 1).turn("a", NOW, 60).at == NOW


def test_threads_that_share_a_ledger_share_the_line(tmp_path: Path) -> None:
    turns: list[float] = []
    start = threading.Barrier(8)
    ledger = Ledger.open(load({"PENNYREEL_HOME": str(tmp_path)}))

    def ask() -> None:
        start.wait(30)
        paces = [Pace(ledger, 4) for _ in range(5)]
        turns.extend(pace.turn("runpod:e", NOW, 3600).at for pace in paces)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ledger.close()
    assert sorted(turns) == [NOW + MINUTE_S * (n // 4) for n in range(40)]


FREE = Option("a")
PAID = Option("b", reserve_microusd=1000, cancels=True, engine="other")
DEAR = Option("c", reserve_microusd=50_000, cancels=True, engine="another")


def moving(cell: Cell, *, patience_s: float = 3600.0) -> tuple[Scene, ScriptedBackend]:
    """A job whose free backend is down."""
    down = ScriptedBackend("a", submits=[fails(Code.BACKEND_UNAVAILABLE, retryable=False)])
    paid, dear = ScriptedBackend("b"), ScriptedBackend("c")
    option = Option("b", reserve_microusd=1000, cancels=True, patience_s=patience_s)
    scene = Scene(down, paid, dear, books=Books(FREE, option, DEAR), cell=cell)
    scene.driver._pace = Pace(cell, 1)
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
            if "its turn is in" in text:
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
        scene = Scene(ScriptedBackend(first.backend), books=Books(first), cell=cell)
        scene.driver._pace = Pace(cell, 1)
        assert scene.driver.run().outcome is Outcome.DONE
    assert not any(name.startswith("moves") for name in cell.kept)
