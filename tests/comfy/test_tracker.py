"""A job's events become one percentage that never falls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel_comfy.events import (
    Cached,
    Errored,
    Event,
    Executed,
    Executing,
    Interrupted,
    NodeStates,
    NodeSteps,
    Started,
    Succeeded,
    parse,
)
from pennyreel_comfy.tracker import MAX_TIMINGS, REST, NodeClock, Position, Tracker
from pennyreel_comfy.weights import weights

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple"},
    "2": {"class_type": "KSampler", "inputs": {"steps": 20}},
    "3": {"class_type": "VAEDecode"},
    "4": {"class_type": "SaveImage"},
}
NODES = st.sampled_from([*GRAPH, "5", "1:2", "2.0.0.1"])
NUMBERS = st.floats(-10, 1000, allow_nan=False)
EVENTS = st.one_of(
    st.builds(Started, st.just("p")),
    st.builds(Cached, st.just("p"), st.lists(NODES, max_size=4).map(tuple)),
    st.builds(Executing, st.just("p"), st.none() | NODES),
    st.builds(NodeSteps, st.just("p"), NODES, NUMBERS, NUMBERS),
    st.builds(
        NodeStates,
        st.just("p"),
        st.dictionaries(
            NODES, st.tuples(NUMBERS, NUMBERS, st.sampled_from(["running", "finished", "odd"]))
        ),
    ),
    st.builds(Executed, st.just("p"), NODES, st.just({})),
    st.builds(Succeeded, st.just("p")),
)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@given(st.lists(EVENTS, max_size=40), st.floats(0, 10))
def test_the_fraction_never_falls_and_stays_between_0_and_1(
    events: list[Event], pause: float
) -> None:
    clock = Clock()
    tracker = Tracker(GRAPH, clock=clock)
    last = 0.0
    for event in events:
        clock.now += pause
        position = tracker.feed(event)
        if position is not None:
            assert last <= position.fraction <= 1.0
            assert position.eta_s is None or position.eta_s >= 0
            last = position.fraction


def test_a_sampler_weighs_more_than_the_nodes_around_it() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    tracker.feed(Executing("p", "1"))
    before = tracker.feed(Executing("p", "2"))
    after = tracker.feed(NodeSteps("p", "2", 10, 20))
    assert before is not None
    assert after is not None
    assert after.fraction - before.fraction > 0.3
    assert (after.node, after.node_class, after.step, after.steps) == ("2", "KSampler", 10, 20)


def sampler(latent: str, **inputs: object) -> dict[str, object]:
    return {"class_type": "KSamplerAdvanced", "inputs": {"latent_image": [latent, 0], **inputs}}


def test_a_sampler_counts_by_its_steps() -> None:
    graph = {
        "1": sampler("0", steps=20),
        "2": sampler("1", steps=5),
        "3": sampler("2", steps=30, start_at_step=20, end_at_step=10_000),
        "4": sampler("3", sigmas=["5", 0]),
        "5": {"class_type": "BasicScheduler", "inputs": {"steps": 8}},
        "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "7": sampler("4", steps=["9", 0]),
        "8": {"class_type": "UltimateSDUpscale", "inputs": {"image": ["7", 0], "steps": 12}},
    }
    found = weights(graph)
    assert [found[n] for n in "12345678"] == [20.0, 5.0, 10.0, 8.0, 1.0, 1.0, 20.0, 12.0]


@pytest.mark.parametrize("steps", [-3, 0, 10**30, True, "20", None, 2.5])
def test_no_number_of_steps_upsets_the_weights(steps: object) -> None:
    graph = {"1": sampler("0", steps=steps, start_at_step=steps, end_at_step=steps)}
    assert 1.0 <= weights(graph)["1"] <= 10_000.0


def test_a_node_that_no_output_needs_is_not_waited_for() -> None:
    graph = {**GRAPH, "8": {"class_type": "KSampler", "inputs": {"steps": 500}}}
    tracker = Tracker(graph, runs=set(GRAPH), clock=Clock())
    tracker.feed(Executing("p", "2"))
    found = tracker.feed(NodeSteps("p", "2", 20, 20))
    assert found is not None
    assert found.fraction > 0.7


def expanded(done: int, steps: float = 0.0) -> NodeStates:
    states = {f"7.0.0.{n}": (1.0, 1.0, "finished") for n in range(done)}
    return NodeStates("p", {**states, f"7.0.0.{done}": (steps, 4.0, "running")})


def test_what_a_node_expands_into_moves_that_node_and_has_no_end_that_is_known() -> None:
    clock = Clock()
    graph = {"7": {"class_type": "Loop"}, "8": {"class_type": "A"}}
    tracker = Tracker(graph, clock=clock)
    tracker.feed(Executing("p", "7"))
    found = []
    for done in range(4):
        clock.now += 2.0
        found += [tracker.feed(expanded(done)), tracker.feed(expanded(done, 2.0))]
    told = [p for p in found if p is not None]
    assert {(p.node, p.node_class) for p in told} == {("7", "Loop")}
    assert told[-1].steps == 4
    fractions = [p.fraction for p in told]
    assert fractions == sorted(set(fractions))  # each moves on
    assert fractions[-1] < 0.5
    assert [p.eta_s for p in told] == [None] * len(told)
    assert tracker.remaining_s() is None
    clock.now += 2.0
    after = tracker.feed(Executing("p", "8"))
    assert after is not None
    assert (after.fraction, after.eta_s) == (0.5, 10.0)


def test_a_node_that_goes_through_a_list_has_no_end_that_is_known() -> None:
    clock = Clock()
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}}
    tracker = Tracker(graph, clock=clock)
    tracker.feed(Executing("p", "1"))
    clock.now += 2.0
    tracker.feed(NodeSteps("p", "1", 4, 4))
    clock.now += 1.0
    again = tracker.feed(NodeSteps("p", "1", 2, 4))
    assert again is not None
    assert (again.fraction, again.step, again.eta_s) == (0.5, 2, None)
    clock.now += 1.0
    after = tracker.feed(Executing("p", "2"))
    assert after is not None
    assert after.eta_s == 4.0


def test_former_runs_know_how_long_a_list_takes() -> None:
    clock = Clock()
    tracker = Tracker({"1": {"class_type": "A"}}, expected_s=10.0, clock=clock)
    tracker.feed(Executing("p", "1"))
    clock.now += 2.0
    tracker.feed(NodeSteps("p", "1", 4, 4))
    again = tracker.feed(NodeSteps("p", "1", 1, 4))
    assert again is not None
    assert again.eta_s == 8.0


def test_the_same_event_twice_moves_nothing() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    assert tracker.feed(NodeSteps("p", "2", 1, 4)) is not None
    assert tracker.feed(NodeSteps("p", "2", 1, 4)) is None
    assert tracker.feed(Succeeded("p")) is None


def test_all_nodes_done_is_all_of_it() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    states = dict.fromkeys(GRAPH, (1.0, 1.0, "finished"))
    assert tracker.feed(NodeStates("p", states)) == Position(1.0, eta_s=0.0)


def test_a_graph_without_nodes_can_be_followed() -> None:
    tracker = Tracker({}, clock=Clock())
    assert tracker.feed(Cached("p", ("1",))) is None
    position = tracker.feed(Executing("p", "7"))
    assert position == Position(0.0, "7")


def halfway(began: float) -> Position | None:
    clock = Clock(began)
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}}
    tracker = Tracker(graph, clock=clock)
    tracker.feed(Executing("p", "1"))
    clock.now += 5.0
    return tracker.feed(NodeSteps("p", "1", 10, 10))


def test_time_left_follows_from_the_time_gone() -> None:
    found = halfway(1000.0)
    assert found is not None
    assert found.eta_s == 5.0


def test_a_clock_may_begin_at_zero() -> None:
    found = halfway(0.0)
    assert found is not None
    assert found.eta_s == 5.0


def test_cached_nodes_do_not_make_the_rest_look_fast() -> None:
    clock = Clock()
    tracker = Tracker({str(n): {"class_type": "A"} for n in range(10)}, clock=clock)
    tracker.feed(Cached("p", tuple(str(n) for n in range(8))))
    clock.now += 4.0
    found = tracker.feed(NodeSteps("p", "8", 1, 1))
    assert found is not None
    assert found.eta_s == 4.0


def test_former_runs_tell_the_time_left_before_the_job_shows_it() -> None:
    clock = Clock()
    tracker = Tracker(GRAPH, expected_s=10.0, clock=clock)
    assert tracker.remaining_s() == 10.0  # not begun
    tracker.feed(Started("p"))
    clock.now += 4.0
    assert tracker.remaining_s() == 6.0  # no event tells of it: the clock does
    found = tracker.feed(Executing("p", "1"))
    assert found is not None
    assert found.eta_s == 6.0


def test_a_run_that_is_slower_than_former_ones_is_believed_more_the_further_it_is() -> None:
    clock = Clock()
    graph = {str(n): {"class_type": "A"} for n in range(10)}
    tracker = Tracker(graph, expected_s=10.0, clock=clock)
    tracker.feed(Executing("p", "0"))
    clock.now += 4.0
    early = tracker.feed(NodeSteps("p", "0", 1, 1))  # a tenth: at this pace 36 s more
    assert early is not None
    assert early.eta_s == 9.0
    clock.now += 4.0
    tracker.feed(NodeStates("p", {str(n): (1.0, 1.0, "finished") for n in range(8)}))
    late = tracker.feed(Executing("p", "8"))
    assert late is not None
    assert late.eta_s == 2.0  # both agree now


def test_nodes_weigh_what_they_took_in_former_runs() -> None:
    """By their classes alone, both would be half of the job to the very end of the first."""
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "Loader"}}
    clock = Clock()
    took = {"1": 9.5, "2": 0.5, "3": 20.0}
    tracker = Tracker(graph, expected_s=10.0, node_s=took, clock=clock)
    tracker.feed(Started("p"))
    tracker.feed(Cached("p", ("3",)))
    for step in range(1, 20):
        clock.now += 0.5
        tracker.feed(NodeSteps("p", "1", step, 19))
        assert tracker.remaining_s() == pytest.approx(10.0 - 0.5 * step, abs=0.11)
    unknown = Tracker(graph, node_s={"1": 1.0}, clock=clock)
    found = unknown.feed(NodeStates("p", {"2": (1.0, 1.0, "finished")}))
    assert found is not None
    assert 0 < found.fraction < 0.01


def test_a_job_that_outlasts_its_estimate_by_far_is_unknown_again() -> None:
    clock = Clock()
    tracker = Tracker(GRAPH, expected_s=10.0, clock=clock)
    tracker.feed(Started("p"))
    clock.now += 12.0
    assert tracker.remaining_s() == 0.0
    clock.now += 10.0
    assert tracker.remaining_s() is None


def test_without_former_runs_and_without_news_nobody_knows() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    assert tracker.remaining_s() is None
    tracker.feed(Started("p"))
    assert tracker.remaining_s() is None


def test_a_job_that_has_ended_takes_no_more_time() -> None:
    for end in (Succeeded("p"), Executing("p", None), Errored("p"), Interrupted("p")):
        tracker = Tracker(GRAPH, expected_s=10.0, clock=Clock())
        tracker.feed(Started("p"))
        tracker.feed(end)
        assert tracker.remaining_s() == 0.0


def test_states_alone_name_the_node_and_its_steps() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    states = {"1": (1.0, 1.0, "finished"), "2": (3.0, 20.0, "running")}
    found = tracker.feed(NodeStates("p", states))
    assert found is not None
    assert (found.node, found.node_class, found.step, found.steps) == ("2", "KSampler", 3, 20)


def both(node: str, state: str) -> NodeStates:
    return NodeStates("p", {node: (float(state == "finished"), 1.0, state)})


EXECUTING = [Executing("p", "1"), 6.0, Executing("p", "2"), 3.0, Executing("p", "4"), 1.0]
STATES = [
    *(both("1", "running"), 6.0, both("1", "finished")),
    *(both("2", "running"), 3.0, both("2", "finished")),
    *(both("4", "running"), 1.0, both("4", "finished")),
]
REAL = [
    *(both("1", "running"), Executing("p", "1"), 6.0, both("1", "finished")),
    *(both("2", "running"), Executing("p", "2"), 1.0, NodeSteps("p", "2", 1, 2), 2.0),
    *(NodeSteps("p", "2", 2, 2), both("2", "finished")),
    *(both("4", "running"), Executing("p", "4"), 1.0, Executed("p", "4", {})),
    both("4", "finished"),
]


@pytest.mark.parametrize("news", [EXECUTING, STATES, REAL], ids=["executing", "states", "both"])
def test_each_node_is_timed_by_whichever_events_come(news: list[Event | float]) -> None:
    clock = Clock()
    nodes = NodeClock(GRAPH, clock=clock)
    for item in (Started("p"), Cached("p", ("3",)), *news, Succeeded("p")):
        if isinstance(item, float):
            clock.now += item
        else:
            nodes.feed(item)
    clock.now += 100.0  # delivery is nobody's
    nodes.feed(Executing("p", None))
    assert [(t.node, t.node_class, t.seconds) for t in nodes.timings()] == [
        ("1", "CheckpointLoaderSimple", 6.0),
        ("2", "KSampler", 3.0),
        ("4", "SaveImage", 1.0),
    ]


def test_a_node_is_timed_even_when_its_end_is_never_told() -> None:
    clock = Clock()
    nodes = NodeClock(GRAPH, clock=clock)
    nodes.feed(Executing("p", "2"))
    clock.now += 7.0
    assert [(t.node, t.seconds) for t in nodes.timings()] == [("2", 7.0)]


def test_what_a_node_expands_into_counts_as_that_node() -> None:
    clock = Clock()
    nodes = NodeClock({"7": {"class_type": "Loop"}, "8:1": {"class_type": "A"}}, clock=clock)
    for node in ("7", "7.0.0.3", "7.0.0.4", "8:1"):
        nodes.feed(Executing("p", node))
        clock.now += 1.0
    nodes.feed(Succeeded("p"))
    assert {t.node: t.seconds for t in nodes.timings()} == {"7": 3.0, "8:1": 1.0}


def test_a_huge_graph_tells_its_longest_nodes_only() -> None:
    clock = Clock()
    nodes = NodeClock({}, clock=clock)
    for n in range(500):
        nodes.feed(Executing("p", str(n)))
        clock.now += n
    found = nodes.timings()
    assert [t.node for t in found[:2]] == ["499", "498"]
    assert [t.node for t in found[-2:]] == ["400", REST]
    assert len(found) == MAX_TIMINGS + 1
    assert sum(t.seconds for t in found) == sum(range(500))


def test_a_graph_that_was_cached_whole_takes_no_time_whatever_former_runs_took() -> None:
    tracker = Tracker(GRAPH, expected_s=10.0, clock=Clock())
    tracker.feed(Started("p"))
    found = tracker.feed(Cached("p", tuple(GRAPH)))
    assert found == Position(1.0, eta_s=0.0)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 10)), max_size=40))
def test_the_nodes_never_take_longer_than_the_job(news: list[tuple[Event, float]]) -> None:
    clock = Clock()
    nodes = NodeClock(GRAPH, clock=clock)
    for event, pause in news:
        nodes.feed(event)
        clock.now += pause
    found = nodes.timings()
    assert all(t.seconds >= 0 for t in found)
    assert sum(t.seconds for t in found) <= clock.now - 1000.0 + 0.001 * len(found)


def test_a_graph_that_is_run_once_more_starts_over_but_its_percentage_does_not_fall() -> None:
    clock = Clock()
    tracker, nodes = Tracker(GRAPH, expected_s=10.0, clock=clock), NodeClock(GRAPH, clock=clock)

    def feed(event: Event) -> Position | None:
        nodes.feed(event)
        return tracker.feed(event)

    feed(Started("p"))
    feed(Executing("p", "1"))
    clock.now += 9.0
    before = feed(Executing("p", "2"))
    feed(Errored("p"))
    feed(Started("q"))
    assert tracker.remaining_s() == 10.0
    again = feed(Executing("q", "1"))
    clock.now += 2.0
    feed(Succeeded("q"))
    assert before is not None
    assert again is not None
    assert again.fraction == before.fraction
    assert [(t.node, t.seconds) for t in nodes.timings()] == [("1", 2.0)]


RECORDINGS = Path(__file__).parent / "recordings"


@pytest.mark.parametrize("version", ["v0.3.64", "v0.3.75"])
@pytest.mark.parametrize("drop", ["nothing", "executing", "progress_state"])
def test_the_nodes_of_a_real_run_add_up_to_its_execution(version: str, drop: str) -> None:
    recording = json.loads((RECORDINGS / version / "model_ad_gen2_v3.json").read_text("utf-8"))
    clock = Clock(0.0)
    nodes = NodeClock(recording["workflow"], clock=clock)
    moments = {}
    for message in recording["ws"]:
        clock.now = message["t_ms"] / 1000
        moments.setdefault(message.get("type"), clock.now)
        if message.get("type") != drop or (drop == "executing" and not message["data"]["node"]):
            nodes.feed(parse(json.dumps({"type": message.get("type"), "data": message["data"]})))
    found = {t.node_class: t.seconds for t in nodes.timings()}
    whole = moments["execution_success"] - moments["execution_start"]
    assert sum(found.values()) == pytest.approx(whole, rel=0.02)
    assert max(found, key=lambda kind: found[kind]) == "KSampler"
