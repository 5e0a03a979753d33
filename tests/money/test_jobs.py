"""Jobs and attempts are recorded before they are sent, and each is followed by one process."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

import pytest

from money.support import Clock, Place, job, reserve
from pennyreel.errors import BadRequest
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Labels
from pennyreel.need import Need
from pennyreel.types import Handle

HANDLE = Handle("runpod", "ep", "r-1", "a")


def test_a_job_is_recorded_with_its_labels_and_found_again(ledger: Ledger) -> None:
    need = Need(kind="video", width=512, models=(("checkpoints", "x.safetensors"),))
    labels = Labels(project="film", user="ada", template="animatediff-v3")
    told = ledger.record_job(
        "job-1", request_sha256="aa", need=need, labels=labels,
        backends=("comfyui", "runpod"), policy="fastest",
    )  # fmt: skip
    assert told == ledger.job("job-1") == ledger.job("job")
    assert told.need == json.loads(json.dumps(asdict(need)))
    assert (told.project, told.user, told.template) == ("film", "ada", "animatediff-v3")
    assert (told.backends, told.policy, told.state) == (("comfyui", "runpod"), "fastest", "open")


def test_recording_a_job_again_changes_nothing_unless_it_is_another(ledger: Ledger) -> None:
    first = ledger.record_job("j", request_sha256="aa", need=Need())
    again = ledger.record_job("j", request_sha256="aa", need=Need(width=9), policy="best")
    assert again == first
    with pytest.raises(BadRequest, match="with another request"):
        ledger.record_job("j", request_sha256="bb", need=Need())


def test_an_attempt_goes_forward_only(ledger: Ledger, clock: Clock) -> None:
    reserve(ledger, "a", 10)
    for state in ("sent", "accepted", "running"):
        clock.forward(seconds=1)
        ledger.mark("a", state, handle=HANDLE if state == "accepted" else None)  # type: ignore[arg-type]
    late = ledger.mark("a", "accepted", handle="runpod:ep/other@a")
    assert (late.state, late.where) == ("running", HANDLE)
    assert [t - late.intended_ms for t in (late.sent_ms, late.accepted_ms, late.running_ms)] == [  # type: ignore[operator]
        1000, 2000, 3000,
    ]  # fmt: skip
    ended = ledger.settle("a", 7, code="execution_failed")
    assert (ended.state, ended.code) == ("ended", "execution_failed")
    for state in ("sent", "running", "unknown"):
        assert ledger.mark("a", state) == ended  # type: ignore[arg-type]


def test_an_unknown_attempt_may_turn_out_to_run(ledger: Ledger) -> None:
    reserve(ledger, "a", 10)
    ledger.mark("a", "sent")
    assert ledger.mark("a", "unknown", code="unknown_outcome").state == "unknown"
    assert ledger.mark("a", "sent").state == "unknown"
    assert ledger.mark("a", "accepted", handle=HANDLE).state == "accepted"
    assert ledger.mark("a", "unknown").state == "unknown"


def test_jobs_are_listed_by_state_and_label_newest_first(ledger: Ledger, clock: Clock) -> None:
    outcomes = [None, "done", "unknown_outcome", "cancelled", "out_of_memory", "timeout"]
    for number, outcome in enumerate(outcomes):
        clock.forward(seconds=1)
        job(ledger, f"j{number}", project="film" if number % 2 else "ad")
        if outcome:
            ledger.end_job(f"j{number}", outcome)
    found = {s: [j.job_id for j in ledger.jobs(state=s)] for s in ("open", "done", "unknown")}
    assert found == {"open": ["j0"], "done": ["j1"], "unknown": ["j2"]}
    assert [j.job_id for j in ledger.jobs(state="cancelled")] == ["j3"]
    assert [j.job_id for j in ledger.jobs(state="failed")] == ["j5", "j4"]
    assert [j.job_id for j in ledger.jobs(limit=2)] == ["j5", "j4"]
    assert [j.job_id for j in ledger.jobs(labels=Labels(project="ad"))] == ["j4", "j2", "j0"]
    assert [j.state for j in ledger.jobs()][-3:] == ["unknown", "done", "open"]
    with pytest.raises(BadRequest, match="no job is in state 'lost'"):
        ledger.jobs(state="lost")


def test_a_job_is_shown_with_its_attempts_and_what_it_cost(ledger: Ledger) -> None:
    job(ledger, "j")
    ledger.reserve("a", 50, job_id="j", backend="runpod")
    ledger.release("a", code="rate_limited")
    ledger.reserve("b", 70, job_id="j", backend="gemini", target="veo")
    ledger.settle("b", 65)
    ended = ledger.end_job("j", "done", {"files": 1, "seconds": 2.5, "served_by": "gemini"})
    assert (ended.spent, ended.reserved) == (65, 0)
    assert [(a.backend, a.code, a.spent) for a in ended.attempts] == [
        ("runpod", "rate_limited", 0),
        ("gemini", "done", 65),
    ]
    told = ended.to_json()
    assert told["summary"] == {"files": 1, "seconds": 2.5, "served_by": "gemini"}
    assert told["attempts"][1]["ended"] == "2026-11-27T12:00:00.000Z"
    assert told["spent_microusd"] == 65
    assert "claimed_by" not in json.dumps(told)


def test_what_is_done_stays_done_but_an_unknown_job_may_end_well(ledger: Ledger) -> None:
    job(ledger, "j")
    ledger.end_job("j", "unknown_outcome")
    assert ledger.end_job("j", "done").state == "done"
    assert ledger.end_job("j", "timeout").state == "done"


def test_an_id_has_to_be_of_one_job(ledger: Ledger) -> None:
    job(ledger, "abc1")
    job(ledger, "abc2")
    assert ledger.job("abc1").job_id == "abc1"
    for given, told in (
        ("abc", "several jobs"),
        ("x", "no such job"),
        ("%", "no such"),
        ("", "no"),
    ):
        with pytest.raises(BadRequest, match=told):
            ledger.job(given)


def test_decisions_are_kept_in_order(ledger: Ledger, clock: Clock) -> None:
    job(ledger, "j")
    for chosen in ("runpod", "gemini"):
        ledger.record_decision("j", {"chosen": chosen, "candidates": [{"backend": "x"}]})
        clock.forward(seconds=1)
    assert [d["chosen"] for d in ledger.decisions("j")] == ["runpod", "gemini"]
    with pytest.raises(BadRequest, match="no JSON"):
        ledger.record_decision("j", {"price": float("nan")})
    with pytest.raises(BadRequest, match="characters"):
        ledger.record_decision("j", {"prompt": "x" * 600_000})


def test_a_summary_holds_numbers_and_short_texts_only(ledger: Ledger) -> None:
    job(ledger, "j")
    for bad in ({"prompt": "x" * 201}, {"files": ["a"]}, {"data": b"x"}):
        with pytest.raises(BadRequest):
            ledger.end_job("j", "done", bad)  # type: ignore[arg-type]


def test_an_open_attempt_is_resumed_by_one_process_only(
    ledger: Ledger, place: Place, clock: Clock
) -> None:
    reserve(ledger, "a", 10, claim_s=60)
    reserve(ledger, "b", 10, claim_s=60)
    reserve(ledger, "ended", 10)
    ledger.settle("ended", 1)
    with place.open(clock) as other, place.open(clock) as third:
        assert other.claim_open(60) == []
        assert not other.claim("a", 60)
        clock.forward(seconds=30)
        assert ledger.claim("b", 60)
        clock.forward(seconds=30)
        assert [a.attempt_id for a in other.claim_open(60)] == ["a"]
        assert third.claim_open(60) == []
        assert not ledger.claim("a", 60)
        assert not other.claim("ended", 60)
        other.unclaim("a")
        assert third.claim("a", 60)
    assert ledger.claim("a", 60)  # closing lets go


def test_of_many_resumers_each_attempt_gets_one(place: Place) -> None:
    with place.open() as first:
        for number in range(12):
            reserve(first, f"a{number}", 1)
    taken: list[list[str]] = []

    def resume() -> None:
        with place.open() as one:
            taken.append([a.attempt_id for a in one.claim_open(60)])
            barrier.wait(30)  # nobody closes, and so lets go, before all have asked

    barrier = threading.Barrier(6)
    threads = [threading.Thread(target=resume) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(a for one in taken for a in one) == sorted(f"a{n}" for n in range(12))


@pytest.mark.parametrize("name", ["", " x", "x\n", "x" * 201])
def test_a_label_fits_into_a_line(name: str) -> None:
    with pytest.raises(BadRequest, match="the project is no name"):
        Labels(project=name)


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            reserve(ledger, f"t{number}", 5)
            ledger.settle(f"t{number}", 3)
        except Exception as problem:  # noqa: BLE001 - shown below
            failed.append(problem)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert ledger.spending("backend")[0].spent == 75


def ended(ledger: Ledger, backend: str, codes: list[str], clock: Clock) -> None:
    for n, code in enumerate(codes):
        attempt = f"{backend}-{n}-{clock.now.timestamp():.0f}"
        clock.forward(seconds=1)
        reserve(ledger, attempt, 10, backend=backend)
        ledger.settle(attempt, 1, code=code)


def test_the_share_that_went_well_is_of_each_backends_latest_ended_attempts(
    ledger: Ledger, clock: Clock
) -> None:
    assert ledger.shares() == {}
    ended(ledger, "runpod", ["done"] * 4, clock)
    reserve(ledger, "open", 10, backend="runpod")
    ended(ledger, "runpod", ["cancelled"] * 3, clock)
    assert ledger.shares() == {}, "four tell nothing, nor do open or cancelled ones"
    ended(ledger, "runpod", ["out_of_memory"], clock)
    ended(ledger, "veo", ["timeout"] * 5, clock)
    assert ledger.shares() == {"runpod": 0.8, "veo": 0.0}
    ended(ledger, "runpod", ["done"] * 49, clock)
    assert ledger.shares()["runpod"] == 0.98, "of the last 50 one failed"
    ended(ledger, "runpod", ["done"], clock)
    assert ledger.shares()["runpod"] == 1.0
