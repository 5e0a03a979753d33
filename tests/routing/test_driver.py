"""The router's driver, with backends that follow a script and real threads."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from pennyreel.errors import Code, JobFailed, OutcomeUnknown, Unavailable, error
from pennyreel.need import Unit, Usage
from pennyreel.routing.breaker import Limits
from pennyreel.routing.driver import Left
from pennyreel.routing.failures import failure
from pennyreel.routing.machine import Option, Outcome, Rules, Stage
from pennyreel.types import Queued, Started
from routing.support import QUICK, Books, Cell, Scene, ScriptedBackend, fails, fine

A = Option("a", reserve_microusd=1000, cancels=True, looks_up=True)
B = Option("b", reserve_microusd=2000, cancels=True, engine="other")
DEAR = Option("b", reserve_microusd=500_000, consented=False)
BLIND = Option("a", reserve_microusd=1000)
HANDLE = f"a:t/j1@{'f' * 32}"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> object:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_the_first_option_gets_the_job_and_is_billed() -> None:
    a = ScriptedBackend("a")
    scene = Scene(a, books=Books(A, B))
    ended = scene.driver.run()
    assert ended.outcome is Outcome.DONE
    assert failure(ended) is None
    assert ended.winner == A
    assert a.log == ["submit", "follow"]
    assert a.works[0].attempt_id == scene.books.ids[0]
    assert a.works[0].timeout_s == A.deadline_s, "the server has the deadline too"
    assert a.works[0].queue_s == A.patience_s, "and how long it is waited for before that"
    assert scene.books.strict.costs == {0: 700}
    assert [h.attempt_id for h in scene.fetched] == [scene.books.ids[0]]
    assert any(isinstance(e, Started) for e in scene.heard)
    assert a.closed


def test_what_has_no_cancel_is_kept_as_long_as_it_is_followed() -> None:
    c = ScriptedBackend("c")
    Scene(c, books=Books(Option("c", queue_s=77.0))).driver.run()
    assert c.works[0].queue_s == 77.0


def test_a_forgotten_job_that_may_have_run_is_not_paid_for_twice() -> None:
    a = ScriptedBackend("a", follows=[fails(Code.JOB_GONE, "nobody knows it any more")])
    b = ScriptedBackend("b")
    scene = Scene(a, b, books=Books(A, B))
    assert scene.driver.run().outcome is Outcome.UNKNOWN
    assert (scene.books.strict.costs, b.log) == ({0: 1000}, [])
    assert scene.cell.kept == {}, "it says nothing of the backend"


@pytest.mark.parametrize(("seen", "cost"), [(True, 50), (False, 1000)])
def test_a_job_dropped_from_the_queue_costs_a_start_at_most_and_another_has_it(
    *, seen: bool, cost: int
) -> None:
    def dropped(backend: ScriptedBackend) -> None:
        if seen:
            backend.tell(Queued())
        raise error(Code.TIMEOUT, "dropped", detail={"confirmed_stopped": True})

    woken = replace(A, start_microusd=50)
    a = ScriptedBackend("a", follows=[dropped])
    scene = Scene(a, ScriptedBackend("b"), books=Books(woken, B))
    assert scene.driver.run().winner == B
    assert scene.books.strict.costs == {0: cost, 1: 700}, "unseen, it may have run"


@pytest.mark.parametrize("agree", [True, False])
def test_a_return_that_the_jobs_limit_does_not_cover_any_more_is_asked_about(agree: bool) -> None:
    busy = fails(Code.RATE_LIMITED, "429", detail={"retry_after_s": 0.03})
    a = ScriptedBackend("a", submits=[busy, fine])
    b = ScriptedBackend("b", follows=[fails(Code.OUT_OF_MEMORY)])
    c = ScriptedBackend("c", follows=[fails(Code.OUT_OF_MEMORY)])
    first = replace(A, reserve_microusd=1500, retry_s=0.0)
    others = [Option(name, reserve_microusd=500, engine=name) for name in "bc"]
    scene = Scene(a, b, c, books=Books(first, *others), limits=Limits(base_s=0.01))
    scene.books.strict.most = 2000
    scene.agree = agree
    ended = scene.driver.run()
    assert [ask.n for ask in scene.asked] == [0]
    assert ended.outcome is (Outcome.DONE if agree else Outcome.FAILED)
    assert a.log.count("submit") == (2 if agree else 1)


def test_a_job_that_its_backend_has_forgotten_is_not_looked_for_again() -> None:
    a = ScriptedBackend("a", follows=[fails(Code.JOB_GONE, "it knows no such job")])
    scene = Scene(a, ScriptedBackend("b"), books=Books(A, B))
    assert scene.driver.run().outcome is Outcome.UNKNOWN
    assert a.log == ["submit", "follow"]
    assert scene.books.strict.costs == {0: 1000}, "it may have run"


def test_a_refusal_for_good_moves_on_and_is_told() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.BAD_REQUEST, "no such size")])
    scene = Scene(a, ScriptedBackend("b"), books=Books(A, B))
    ended = scene.driver.run()
    assert ended.winner == B
    assert a.log == ["submit"]
    assert scene.books.strict.costs == {0: 0, 1: 700}
    assert "a: no such size; next: b, at most $0.002" in scene.told


def test_what_was_surely_unsent_is_tried_again_at_the_same_backend() -> None:
    down = fails(Code.BACKEND_UNAVAILABLE, "503", detail={"retry_after_s": 0.01})
    a = ScriptedBackend("a", submits=[down, lambda _: None])
    ended = Scene(a, books=Books(A)).driver.run()
    assert ended.outcome is Outcome.DONE
    assert a.log == ["submit", "submit", "follow"]


def test_a_lost_answer_is_looked_up_and_never_sent_again() -> None:
    a = ScriptedBackend(
        "a",
        submits=[fails(Code.UNKNOWN_OUTCOME)],
        lookups=[fails(Code.UNKNOWN_OUTCOME), lambda _: None],
    )
    ended = Scene(a, books=Books(A, B)).driver.run()
    assert ended.winner == A
    assert a.log == ["submit", "lookup", "lookup", "follow"]


def test_without_a_look_up_it_ends_unknown_and_counts_as_spent() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.UNKNOWN_OUTCOME, "the connection was cut")])
    scene = Scene(a, ScriptedBackend("b"), books=Books(BLIND, B))
    ended = scene.driver.run()
    problem = failure(ended)
    assert isinstance(problem, OutcomeUnknown)
    assert ended.outcome is Outcome.UNKNOWN
    assert scene.books.strict.costs == {0: 1000}
    assert [ask.unknown for ask in scene.asked] == [True]


def test_an_exception_that_nobody_foresaw_counts_as_unknown() -> None:
    def breaks(_: ScriptedBackend) -> None:
        raise ZeroDivisionError("Bearer secret")

    scene = Scene(ScriptedBackend("a", submits=[breaks]), books=Books(BLIND))
    problem = failure(scene.driver.run())
    assert isinstance(problem, OutcomeUnknown)
    assert "secret" not in str(problem)


def test_only_consent_lets_another_follow_an_unknown_one() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.UNKNOWN_OUTCOME)])
    scene = Scene(a, ScriptedBackend("b"), books=Books(BLIND, B))
    scene.agree = True
    ended = scene.driver.run()
    assert ended.winner == B
    assert scene.books.strict.costs == {0: 1000, 1: 700}


BROKEN = fails(Code.OUT_OF_MEMORY, "too little memory")


def over_the_limit(*, agree: bool) -> Scene:
    scene = Scene(ScriptedBackend("a", follows=[BROKEN]), ScriptedBackend("b"), books=Books(A, B))
    scene.books.strict.most = 2500  # a counts as 1000, and b may cost 2000
    scene.agree = agree
    return scene


def test_what_failed_counts_towards_the_jobs_limit() -> None:
    scene = over_the_limit(agree=False)
    ended = scene.driver.run()
    assert ended.outcome is Outcome.FAILED
    assert scene.backends["b"].log == [], "the job would have come to 3000"
    assert [(ask.option, ask.unknown) for ask in scene.asked] == [(B, False)]
    assert any("what was tried before has cost $0.001" in line for line in scene.told)
    problem = failure(ended)
    assert problem is not None
    assert "--max-cost" in str(problem.info.detail["attempts"])


def test_a_yes_lifts_the_jobs_limit_for_what_was_asked() -> None:
    ended = over_the_limit(agree=True).driver.run()
    assert ended.winner == B


SECONDS = Usage("x", Unit.GPU_SECOND, None, startup_s=60.0, idle_s=5.0)


@pytest.mark.parametrize(
    ("detail", "cost"),
    [
        ({"gpu_seconds": 7.0, "queue_seconds": 2.0}, 10 * (7 + 2 + 5)),
        ({"gpu_seconds": 7.0}, 10 * (7 + 60 + 5)),
        ({"gpu_seconds": 0.0, "queue_seconds": 900.0}, 10 * (60 + 5)),
        ({}, 1000),
        ({"gpu_seconds": None}, 1000),
        ({"gpu_seconds": -1}, 1000),
        ({"gpu_seconds": float("nan")}, 1000),
        ({"gpu_seconds": True}, 1000),
    ],
)
@pytest.mark.parametrize("code", [Code.OUT_OF_MEMORY, Code.CANCELLED])
def test_what_a_failure_tells_of_its_time_is_what_it_costs(
    code: Code, detail: dict[str, object], cost: int
) -> None:
    told = {**detail, "confirmed_stopped": True}
    a = ScriptedBackend("a", follows=[fails(code, detail=told)], bills=SECONDS)
    scene = Scene(a, books=Books(A))
    scene.driver.run()
    assert scene.books.strict.costs == {0: cost}


def test_nothing_is_sent_where_the_price_is_not_agreed_to() -> None:
    b = ScriptedBackend("b")
    ended = Scene(b, books=Books(DEAR)).driver.run()
    assert ended.outcome is Outcome.REFUSED
    assert b.log == []
    problem = failure(ended)
    assert problem is not None
    assert problem.code == "consent_required"


def test_at_its_deadline_a_job_is_stopped_before_another_begins() -> None:
    a = ScriptedBackend("a", hangs=True)
    option = Option("a", reserve_microusd=1000, deadline_s=0.05, cancels=True)
    scene = Scene(a, ScriptedBackend("b"), books=Books(option, B))
    ended = scene.driver.run()
    assert ended.winner == B
    assert scene.books.strict.attempts[0].stage is Stage.STOPPED
    assert scene.books.strict.costs[0] == 1000, "it ran: nobody told its bill"


def test_an_unconfirmed_stop_is_tried_again_and_never_moves() -> None:
    a = ScriptedBackend("a", hangs=True, confirms=False)
    option = Option("a", reserve_microusd=1000, deadline_s=0.05, cancels=True)
    b = ScriptedBackend("b")
    scene = Scene(a, b, books=Books(option, B))
    ended = scene.driver.run()
    assert ended.outcome is Outcome.UNKNOWN
    assert a.log.count("follow") == 1 + scene.books.strict.rules.stops
    assert b.log == []


def test_a_user_cancels_a_running_job() -> None:
    a = ScriptedBackend("a", hangs=True)
    scene = Scene(a, books=Books(A, B))
    canceller = threading.Thread(target=lambda: a.running.wait(10) and scene.driver.cancel())
    canceller.start()
    ended = scene.driver.run()
    canceller.join()
    assert ended.outcome is Outcome.CANCELLED
    assert scene.books.strict.cancel


def test_a_result_that_was_faster_than_its_cancel_counts() -> None:
    a = ScriptedBackend("a", hangs=True, finishes=True)
    scene = Scene(a, books=Books(A, B))
    canceller = threading.Thread(target=lambda: a.running.wait(10) and scene.driver.cancel())
    canceller.start()
    ended = scene.driver.run()
    canceller.join()
    assert scene.books.strict.attempts[0].stage is Stage.DONE
    assert ended.outcome is Outcome.UNFETCHED, "paid for; its files were not wanted any more"


def test_a_failure_elsewhere_to_be_avoided_moves_on_and_one_of_the_job_does_not() -> None:
    crash = ScriptedBackend("a", follows=[fails(Code.COMFY_CRASHED)])
    assert Scene(crash, ScriptedBackend("b"), books=Books(A, B)).driver.run().winner == B
    bad = ScriptedBackend("a", follows=[fails(Code.EXECUTION_FAILED, "node 7")])
    same = Option("b", reserve_microusd=2000, engine="a")
    problem = failure(Scene(bad, ScriptedBackend("b"), books=Books(A, same)).driver.run())
    assert isinstance(problem, JobFailed)
    assert problem.code == "execution_failed"


def test_files_that_cannot_be_fetched_are_fetched_again_and_nothing_is_made_again() -> None:
    a = ScriptedBackend("a")
    scene = Scene(a, ScriptedBackend("b"), books=Books(A, B))
    scene.fetches = [fails(Code.STORAGE_FAILED)]
    ended = scene.driver.run()
    assert ended.outcome is Outcome.UNFETCHED
    assert a.log == ["submit", "follow"]
    problem = failure(ended)
    assert problem is not None
    assert "jobs fetch job" in problem.hint


def test_a_result_that_is_gone_is_not_made_again() -> None:
    a = ScriptedBackend("a", follows=[fails(Code.RESULT_EXPIRED)])
    b = ScriptedBackend("b")
    ended = Scene(a, b, books=Books(A, B)).driver.run()
    assert ended.outcome is Outcome.FAILED
    assert b.log == []


def test_all_failures_come_back_as_one_with_what_to_do_about_each() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.UNAUTHORIZED, "401", hint="Check the key.")])
    scene = Scene(a, books=Books(A, B))
    problem = failure(scene.driver.run())
    assert isinstance(problem, Unavailable)
    assert problem.hint == "a: Check the key. b: Set THE_KEY."
    told = problem.info.detail["attempts"]
    assert isinstance(told, list)
    assert [(t["backend"], t["code"]) for t in told if isinstance(t, dict)] == [
        ("a", "unauthorized"),
        ("b", "not_configured"),
    ]


def test_a_backend_that_keeps_failing_is_left_alone_by_the_next_job() -> None:
    cell = Cell()
    down = ScriptedBackend("a", submits=[fails(Code.BACKEND_UNAVAILABLE, "503")])
    assert Scene(down, ScriptedBackend("b"), books=Books(A, B), cell=cell).driver.run().winner == B
    assert down.log == ["submit"] * 3
    again = ScriptedBackend("a")
    assert Scene(again, ScriptedBackend("b"), books=Books(A, B), cell=cell).driver.run().winner == B
    assert again.log == []


@pytest.mark.parametrize("stage", [Stage.SENDING, Stage.ACCEPTED, Stage.STOPPING, Stage.RESERVED])
def test_a_job_goes_on_in_another_process(stage: Stage) -> None:
    a = ScriptedBackend("a")
    books = Books(A, B)
    books.reserve("job", 0, A, "f" * 32)
    if stage is not Stage.RESERVED:
        books.write("job", 0, Stage.SENDING, None, None)
    if stage in {Stage.ACCEPTED, Stage.STOPPING}:
        books.write("job", 0, Stage.ACCEPTED, HANDLE, 1.0)
    if stage is Stage.STOPPING:
        books.write("job", 0, Stage.STOPPING, HANDLE, None)
    ended = Scene(a, books=books).driver.run()
    assert ended.outcome is Outcome.DONE
    assert a.log.count("submit") == (stage is Stage.RESERVED)
    again = Scene(a, books=books).driver.run()
    assert again.resumed
    assert again.outcome is Outcome.DONE


def test_a_job_that_is_left_stays_open_and_is_gone_on_with() -> None:
    a = ScriptedBackend("a")
    books = Books(A, rules=Rules(base_s=3600, most_s=3600))
    scene = Scene(a, books=books)

    def lost(one: ScriptedBackend) -> None:
        scene.driver.leave()
        fails(Code.UNKNOWN_OUTCOME)(one)

    a.submits = [lost]
    with pytest.raises(Left):
        scene.driver.run()
    assert a.log == ["submit"], "the look that was hours away is not waited for"
    assert (books.strict.outcome, books.strict.costs) == (None, {0: 1000})
    assert books.record("job").attempts[0].stage is Stage.SENDING

    books.strict.rules = QUICK
    ended = Scene(a, books=books).driver.run()
    assert ended.outcome is Outcome.DONE
    assert a.log == ["submit", "lookup", "follow"]


def test_what_is_under_way_is_waited_for_unless_nothing_is() -> None:
    a = ScriptedBackend("a", hangs=True)
    scene = Scene(a, books=Books(A))
    a.follows = [lambda _: scene.driver.leave()]
    later = threading.Timer(0.2, lambda: scene.driver.leave(at_once=True))
    later.start()
    with pytest.raises(Left):
        scene.driver.run()
    assert not later.is_alive()
    assert scene.books.record("job").attempts[0].stage is Stage.ACCEPTED
    assert not scene.driver._followers[0].thread.is_alive(), "nobody follows it, and it runs on"
    assert not a.cancelled


def test_a_job_that_is_let_go_runs_on_and_another_driver_ends_it() -> None:
    a = ScriptedBackend("a", hangs=True)
    scene = Scene(a, books=Books(A, B))
    leaver = threading.Thread(target=lambda: a.running.wait(10) and scene.driver.detach())
    leaver.start()
    with pytest.raises(Left):
        scene.driver.run()
    leaver.join()
    assert a.log == ["submit", "follow"]
    assert not a.cancelled, "nothing was stopped"
    assert a.closed
    assert scene.books.strict.attempts[0].stage is Stage.ACCEPTED
    a.hangs = False
    again = Scene(a, ScriptedBackend("b"), books=scene.books)
    assert again.driver.run().winner == A
    assert a.log == ["submit", "follow", "follow"]
    assert scene.books.strict.costs == {0: 700}


def test_a_job_that_is_to_be_let_go_moves_on_until_a_backend_has_it() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.BAD_REQUEST, "no such size")])
    b = ScriptedBackend("b", hangs=True)
    scene = Scene(a, b, books=Books(A, B))
    scene.driver.detach()
    with pytest.raises(Left):
        scene.driver.run()
    assert b.log[0] == "submit"
    assert not b.cancelled
    assert scene.books.strict.attempts[1].stage is Stage.ACCEPTED


def test_a_job_that_nobody_has_ends_though_it_was_to_be_let_go() -> None:
    a = ScriptedBackend("a", submits=[fails(Code.BAD_REQUEST, "no such size")])
    scene = Scene(a, books=Books(A))
    scene.driver.detach()
    assert scene.driver.run().outcome is Outcome.FAILED
