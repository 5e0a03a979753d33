"""When the next job is asked for, and in which order jobs get the GPU."""

from __future__ import annotations

import threading

import pytest

from fakes.waits import eventually
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled, JobTimeout
from pennyreel_worker.gate import Gate
from pennyreel_worker.pacing import FIRST_LEAD_S, SLOW_S, Durations, Pace, kind_of, shape_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def busy(pace: Pace, left: float | None) -> None:
    pace.taken("a")
    pace.prepared("a")
    pace.running("a", lambda: left)


def test_an_idle_worker_asks_at_once() -> None:
    assert Pace(2).wait_s() == 0


def test_nothing_is_asked_for_while_a_job_is_prepared_or_waits_for_the_gpu() -> None:
    pace = Pace(2)
    pace.taken("a")
    assert pace.wait_s() is None
    pace.prepared("a")
    assert pace.wait_s() is None


def test_a_job_whose_inputs_are_long_in_coming_keeps_the_gpu_from_no_job_that_waits(
    clock: Clock,
) -> None:
    pace = Pace(2, clock=clock)
    pace.asked(0.1)  # answered at once: there is a queue
    pace.taken("slow")
    assert pace.wait_s() == pytest.approx(SLOW_S)
    clock.now += SLOW_S
    assert pace.wait_s() == 0
    pace.asked(0.1)
    pace.taken("quick")
    assert pace.wait_s() is None
    pace.prepared("quick")
    pace.running("quick", lambda: 0.0)
    assert pace.wait_s() is None
    pace.gone("quick")
    assert pace.wait_s() == 0
    pace.prepared("slow")  # the GPU is its own
    assert pace.wait_s() is None


def test_without_a_queue_a_slow_job_is_waited_for_since_others_are_idle(clock: Clock) -> None:
    pace = Pace(2, clock=clock)
    pace.asked(30.0)
    pace.taken("slow")
    clock.now += 100 * SLOW_S
    assert pace.wait_s() is None


@pytest.mark.parametrize(
    ("left", "wait"), [(10.0, 0.25), (2.1, 0.1), (2.0, 0.0), (0.0, 0.0), (None, 0.25)]
)
def test_the_second_job_is_asked_for_within_the_lead_of_the_first_ones_end(
    left: float | None, wait: float
) -> None:
    pace = Pace(2, lead_s=2.0)
    busy(pace, left)
    assert pace.wait_s() == pytest.approx(wait)


def test_a_job_that_is_being_delivered_keeps_nobody_out() -> None:
    pace = Pace(2, lead_s=0.0)
    busy(pace, 50.0)
    pace.executed("a")
    assert pace.wait_s() == 0
    pace.taken("b")
    assert pace.wait_s() is None


def test_no_more_than_two_are_held_and_no_more_than_one_where_that_is_set() -> None:
    for hold in (1, 2):
        pace = Pace(hold)
        for n in range(hold):
            assert pace.wait_s() == 0
            pace.taken(str(n))
            pace.executed(str(n))
        assert pace.wait_s() is None
        pace.gone("0")
        assert pace.wait_s() == 0


def test_the_lead_is_what_taking_and_preparing_took(clock: Clock) -> None:
    pace = Pace(2, clock=clock)
    assert pace.lead_s == FIRST_LEAD_S
    for n, took in enumerate((0.2, 3.0, 0.1)):
        pace.asked(40.0 if n == 1 else 0.5)  # the poll had to wait for a job to come
        pace.taken(str(n))
        clock.now += took
        pace.prepared(str(n))
        pace.gone(str(n))
    assert pace.lead_s == pytest.approx(3.0 + 0.5 + 0.05)


def test_without_a_queue_one_slow_job_has_no_other_taken_from_idle_workers(clock: Clock) -> None:
    pace = Pace(2, clock=clock)
    for n, took in enumerate((0.2, 50.0, 0.1)):
        pace.asked(0.1)
        pace.taken(str(n))
        clock.now += took
        pace.prepared(str(n))
        pace.gone(str(n))
    assert pace.lead_s == pytest.approx(50.0 + 0.1 + 0.05)
    pace.asked(20.0)
    assert pace.lead_s == pytest.approx(0.2 + 0.1 + 0.05)


def test_a_lead_that_is_set_is_not_measured(clock: Clock) -> None:
    pace = Pace(2, lead_s=7.0, clock=clock)
    pace.taken("a")
    pace.prepared("a")
    assert pace.lead_s == 7.0


def test_every_change_is_told() -> None:
    pace, changes = Pace(2), []
    pace.on_change = lambda: changes.append(1)
    pace.taken("a")
    pace.prepared("a")
    pace.running("a", lambda: None)
    pace.executed("a")
    pace.gone("a")
    assert len(changes) == 5
    pace.executed("unknown")
    assert pace.wait_s() == 0


def test_a_job_is_as_long_as_its_kind_was() -> None:
    durations = Durations()
    assert durations.expected("k") is None
    durations.learn("k", 10.0)
    durations.learn("k", 20.0)
    assert durations.expected("k") == 15.0
    for n in range(300):
        durations.learn(str(n), 1.0)
    assert durations.expected("k") is None  # it was the oldest


def test_a_node_takes_what_it_took_when_it_last_ran() -> None:
    durations = Durations()
    assert durations.nodes("k", "shape") == {}
    durations.learn_nodes("shape", {"sampler": 3.0})
    assert durations.nodes("k", "shape") == {"sampler": 3.0}
    durations.learn_nodes("k", {"loader": 20.0, "sampler": 10.0})
    durations.learn_nodes("k", {"sampler": 9.0})  # the loader was cached
    assert durations.nodes("k", "shape") == {"loader": 20.0, "sampler": 9.0}
    for n in range(300):
        durations.learn_nodes(str(n), {"n": 1.0})
    assert durations.nodes("k", "shape") == {}


def test_a_graphs_shape_is_its_nodes_and_links_whatever_their_values() -> None:
    def shape(source: str = "2", **inputs: object) -> str:
        node = {"class_type": "KSampler", "inputs": {"model": [source, 0], **inputs}}
        return shape_of({"1": node})

    assert shape(steps=20, cfg=1.0) == shape(steps=50, width=3)
    assert shape("2") != shape("3")
    assert shape_of({"1": {"class_type": "A"}}) != shape_of({"1": {"class_type": "B"}})


def test_prose_and_seeds_do_not_make_another_kind_and_sizes_do() -> None:
    def kind(**inputs: object) -> str:
        return kind_of({"1": {"class_type": "KSampler", "inputs": {"steps": 20, **inputs}}})

    assert kind(seed=1, text="a paper boat") == kind(seed=2, text="a paper plane, at night")
    assert kind(seed=1) == kind(noise_seed=7, filename_prefix="x")
    assert kind(width=512) != kind(width=1024)
    assert kind(sampler_name="euler") != kind(sampler_name="ddim")
    assert kind_of({"1": "no node"}) == kind_of({})


def test_jobs_get_the_gpu_one_at_a_time_and_in_order() -> None:
    gate, order, free = Gate(), [], CancelToken()
    inside, most = [0], [0]

    def job(n: int) -> None:
        with gate.turn(Deadline(10), free):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            order.append(n)
            inside[0] -= 1

    with gate.turn(Deadline(10), free):
        threads = []
        for n in range(5):
            threads.append(threading.Thread(target=job, args=(n,)))
            threads[-1].start()
            eventually(lambda n=n: len(gate._queue) == n + 1)
    for thread in threads:
        thread.join(10)
    assert (order, most) == ([0, 1, 2, 3, 4], [1])


def test_a_turn_that_is_left_early_lets_the_next_in_and_can_be_had_again() -> None:
    gate, free = Gate(), CancelToken()
    with gate.turn(Deadline(5), free) as first:
        first.leave()
        with gate.turn(Deadline(5), free), pytest.raises(JobTimeout, match="waiting for the GPU"):
            first.retake(Deadline(0.05), free)
        first.retake(Deadline(5), free)
        with pytest.raises(JobTimeout), gate.turn(Deadline(0.05), free):
            pass
    with gate.turn(Deadline(0.05), free):
        pass


def test_a_cancelled_job_stops_waiting_for_its_turn() -> None:
    gate, cancel, ended = Gate(), CancelToken(), []

    def waits() -> None:
        try:
            with gate.turn(Deadline(30), cancel):
                pass
        except JobCancelled as problem:
            ended.append(problem.code)

    with gate.turn(Deadline(5), CancelToken()):
        thread = threading.Thread(target=waits)
        thread.start()
        eventually(lambda: len(gate._queue) == 1)
        cancel.cancel()
        thread.join(5)
    assert ended == ["cancelled"]
    with gate.turn(Deadline(0.05), CancelToken()):
        pass
