"""A job's events become one percentage that never falls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pennyreel_comfy.events import (
    Cached,
    Event,
    Executed,
    Executing,
    NodeStates,
    NodeSteps,
    Started,
    Succeeded,
)
from pennyreel_comfy.tracker import Position, Tracker

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple"},
    "2": {"class_type": "KSampler"},
    "3": {"class_type": "VAEDecode"},
    "4": {"class_type": "SaveImage"},
}
NODES = st.sampled_from([*GRAPH, "5", "1:2"])
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


def test_the_same_event_twice_moves_nothing() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    assert tracker.feed(NodeSteps("p", "2", 1, 4)) is not None
    assert tracker.feed(NodeSteps("p", "2", 1, 4)) is None
    assert tracker.feed(Succeeded("p")) is None


def test_all_nodes_done_is_all_of_it() -> None:
    tracker = Tracker(GRAPH, clock=Clock())
    states = dict.fromkeys(GRAPH, (1.0, 1.0, "finished"))
    assert tracker.feed(NodeStates("p", states)) == Position(1.0)


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
