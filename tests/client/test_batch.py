"""Batches: in order, a few at a time, stopped by a budget, cancelled as one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.support import WRONG
from pennyreel import (
    AsyncClient,
    BadRequest,
    Client,
    JobFailed,
    PennyreelError,
    RunResult,
    batch,
)  # fmt: skip
from pennyreel.errors import Code, error
from pennyreel.money.caps import Scope
from pennyreel.types import Finished, JobEvent, Submitted

WISHES: list[batch.Wish] = ["one", {"prompt": "two", "kind": "image"}, "three", "four", "five"]


def settings(simulated: str = "run_s=0.05") -> dict[str, Any]:
    return {"backend": "simulated", "simulated": simulated}


Many = Callable[..., list[batch.Outcome]]


def sync(how: dict[str, Any], *args: Any, **kwargs: Any) -> list[batch.Outcome]:
    with Client(**how) as client:
        return client.generate_many(*args, **kwargs)


def awaited(how: dict[str, Any], *args: Any, **kwargs: Any) -> list[batch.Outcome]:
    async def story() -> list[batch.Outcome]:
        async with AsyncClient(**how) as client:
            return await client.generate_many(*args, **kwargs)

    return asyncio.run(story())


@pytest.fixture(params=[sync, awaited])
def many(request: pytest.FixtureRequest) -> Many:
    """`Client.generate_many` or `AsyncClient.generate_many`."""
    found: Many = request.param
    return found


def test_results_come_in_the_order_of_the_wishes(many: Many) -> None:
    ended: list[int] = []
    told: list[int] = []
    outcomes = many(
        settings("run_s=0.05,spread=0.9"),
        WISHES,
        on_event=lambda n, _: told.append(n),
        on_end=lambda n, _: ended.append(n),
        seed=5,
    )
    assert [isinstance(o, RunResult) for o in outcomes] == [True] * 5
    kinds = [o.artifacts[0].kind for o in outcomes if isinstance(o, RunResult)]
    assert kinds == ["video", "image", "video", "video", "video"]
    assert {o.seed for o in outcomes if isinstance(o, RunResult)} == {5}
    assert sorted(ended) == sorted(set(told)) == list(range(5))


def test_a_failure_is_the_outcome_of_its_own_wish_alone(many: Many) -> None:
    odd = {"prompt": "two", "lora": "x", "template": "hello-video"}  # which has no lora
    outcomes = many(settings(), ["one", odd, "three"])
    assert [isinstance(o, RunResult) for o in outcomes] == [True, False, True]
    failed = many(settings("fail=1"), ["one", "two"])
    assert all(isinstance(o, JobFailed) for o in failed)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_run_at_once_than_allowed(many: Many, concurrency: int) -> None:
    running: set[int] = set()
    most = 0

    def see(n: int, event: JobEvent) -> None:
        nonlocal most
        if isinstance(event, Submitted):
            running.add(n)
            most = max(most, len(running))
        if isinstance(event, Finished):
            running.discard(n)

    many(settings("run_s=0.15"), WISHES[:3], concurrency=concurrency, on_event=see)
    assert 1 <= most <= concurrency


@pytest.mark.parametrize("concurrency", [1, 2])
def test_as_many_run_at_once_as_allowed(many: Many, concurrency: int) -> None:
    submitted: set[int] = set()

    def see(n: int, event: JobEvent) -> None:
        if isinstance(event, Submitted):
            submitted.add(n)
        if len(submitted) == concurrency:  # none of them ends before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        many(settings("run_s=600"), WISHES[:3], concurrency=concurrency, on_event=see)
    assert submitted == set(range(concurrency))


@pytest.mark.parametrize(
    "wishes", [[{"seed": 1}], ["fine", {"prompt": "x", "sede": 1}], [{"prompt": 5}]]
)
def test_a_wish_that_is_none_is_named_before_anything_is_sent(
    many: Many, wishes: list[Any]
) -> None:
    with pytest.raises(BadRequest, match=f"wish {len(wishes)}"):
        many(settings(), wishes)
    with Client(**settings()) as client:
        assert client.dispatch.ledger.jobs() == []
    with pytest.raises(BadRequest, match="at least 1"):
        many(settings(), WISHES, concurrency=0)


def test_wishes_of_a_wrong_kind_are_all_named_before_anything_is_sent(many: Many) -> None:
    wishes = ["fine", *({"prompt": "x", name: value} for name, value, _ in WRONG), 5]
    with pytest.raises(BadRequest) as caught:
        many(settings(), wishes)
    for number, (_, _, said) in enumerate(WRONG, 2):
        assert f"wish {number}: {said}" in str(caught.value)
    assert f"wish {len(wishes)} is neither a prompt nor" in str(caught.value)
    found: Any = caught.value.info.detail["findings"]
    assert found[0]["number"] == 2
    assert found[0]["field"] == "seconds"
    with Client(**settings()) as client:
        assert client.dispatch.ledger.jobs() == []


def test_no_wishes_have_no_results(many: Many) -> None:
    assert many(settings(), []) == []


def test_an_exception_out_of_a_callback_cancels_all_that_runs(many: Many) -> None:
    submitted: set[int] = set()

    def see(n: int, event: JobEvent) -> None:
        if isinstance(event, Submitted):
            submitted.add(n)
        if len(submitted) == 3:
            raise ZeroDivisionError

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        many(settings("run_s=600"), WISHES, concurrency=3, on_event=see)
    with Client(**settings()) as client:
        jobs = client.dispatch.ledger.jobs()
        assert {job.outcome for job in jobs} == {"cancelled"}
        assert len(jobs) == 3
        assert client.dispatch.ledger.open_attempts() == []
    left = {t for t in threading.enumerate() if t.is_alive()} - before
    for thread in left:
        thread.join(10)
        assert not thread.is_alive()


def test_cancelling_the_task_of_a_batch_cancels_its_jobs_and_confirms() -> None:
    async def story() -> None:
        async with AsyncClient(**settings("run_s=600")) as client:
            submitted: set[int] = set()
            both = asyncio.Event()

            def see(n: int, event: JobEvent) -> None:
                if isinstance(event, Submitted):
                    submitted.add(n)
                if len(submitted) == 2:
                    both.set()

            task = asyncio.ensure_future(client.generate_many(WISHES, concurrency=2, on_event=see))
            await both.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert {j.outcome for j in client.dispatch.ledger.jobs()} == {"cancelled"}

    asyncio.run(story())


class Refused:
    """A job that the budget refuses."""

    def __init__(self, problem: PennyreelError) -> None:
        self.problem = problem

    def events(self) -> Iterator[JobEvent]:
        yield Finished(self.problem.code, self.problem.info)

    def result(self) -> RunResult:
        raise self.problem

    def cancel(self) -> bool:
        return True


BUDGET = [
    error(Code.BUDGET_EXCEEDED, "all/day has $0 left"),
    error(
        Code.NOT_CONFIGURED, "nothing was sent", detail={"attempts": [{"code": "budget_exceeded"}]}
    ),
    error(Code.CONSENT_REQUIRED, "this day may come to $2.01", hint="Allow it: --day-limit 2.01"),
]


@pytest.mark.parametrize("problem", BUDGET, ids=lambda p: p.code)
def test_after_a_budgets_refusal_nothing_more_is_sent(problem: PennyreelError) -> None:
    sent: list[int] = []

    def start(n: int) -> Callable[[], Refused]:
        def send() -> Refused:
            sent.append(n)
            return Refused(problem)

        return send

    outcomes = batch.run([start(n) for n in range(5)], concurrency=1)
    assert sent == [0]
    assert outcomes[0] is problem
    assert all(str(o).startswith("not sent, as the budget refused") for o in outcomes[1:])
    assert {o.code for o in outcomes if isinstance(o, PennyreelError)} == {problem.code}


def test_jobs_that_are_with_their_backends_go_on_after_a_budgets_refusal() -> None:
    begun: list[int] = []

    def refuse(n: int) -> Any:
        begun.append(n)
        raise BUDGET[0]

    starts = [lambda n=n: refuse(n) for n in range(3)]
    outcomes = batch.run(starts, concurrency=1, regardless=True)
    assert (begun, outcomes) == ([0, 1, 2], [BUDGET[0]] * 3)


def test_a_refusal_of_one_dear_job_stops_no_other() -> None:
    dear = error(Code.CONSENT_REQUIRED, "it may cost $1", hint="Allow it: --max-cost 1")
    outcomes = batch.run([lambda: Refused(dear)] * 3, concurrency=1)
    assert all(o is dear for o in outcomes)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_real_budget_lets_through_what_it_can_pay(
    many: Many, concurrency: int, home: Path
) -> None:
    home.mkdir()
    (home / "prices.toml").write_text("[prices.simulated]\nusd = 0.02\n")
    with Client(**settings()) as client:
        client.dispatch.ledger.set_budget(Scope("all"), "day", 50_000)
    outcomes = many(settings(), WISHES, concurrency=concurrency)
    made = [o for o in outcomes if isinstance(o, RunResult)]
    assert [o.cost_microusd for o in made] == [20_000] * 2
    refused = [o for o in outcomes if isinstance(o, PennyreelError)]
    assert len(refused) == 3
    if concurrency == 1:
        assert [str(o).startswith("not sent") for o in refused] == [False, True, True]
        with Client(**settings()) as client:
            assert len(client.dispatch.ledger.jobs()) == 3


def test_ctrl_c_cancels_all_and_tells_how_each_ended() -> None:
    """A KeyboardInterrupt in the caller's thread, as a signal raises it."""
    ends: dict[int, batch.Outcome] = {}
    submitted: set[int] = set()
    stops: list[float] = []

    def see(n: int, event: JobEvent) -> None:
        if isinstance(event, Submitted):
            submitted.add(n)
        if len(submitted) == 2:
            raise KeyboardInterrupt

    with Client(**settings("run_s=600")) as client:
        with pytest.raises(KeyboardInterrupt):
            batch.run(
                [lambda: client.start("a boat")] * 4,
                concurrency=2,
                on_event=see,
                on_end=ends.__setitem__,
                on_stop=lambda: stops.append(time.monotonic()),
            )
        assert len(stops) == 1
        assert sorted(ends) == [0, 1]
        for outcome in ends.values():
            assert isinstance(outcome, PennyreelError)
            assert outcome.code == "cancelled"
            assert outcome.info.detail["confirmed_stopped"] is True
        assert {j.outcome for j in client.dispatch.ledger.jobs()} == {"cancelled"}
