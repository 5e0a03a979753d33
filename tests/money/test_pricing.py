"""What a job costs: units x price, with what is billed besides; unknown is never nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel.money import catalog
from pennyreel.money.catalog import Certainty
from pennyreel.money.estimates import Seconds
from pennyreel.money.pricing import Price, price, settled
from pennyreel.need import Unit, Usage

TABLE = catalog.builtin()
THREE_SECONDS = Seconds(20, 40, 100)


def gpu(sku: str, amount: float | None = None, **besides: float) -> Usage:
    return Usage(sku, Unit.GPU_SECOND, amount, **besides)


def test_a_run_on_runpod_is_its_seconds_with_a_start_and_a_tail() -> None:
    found = price(gpu("runpod/AMPERE_24"), TABLE, THREE_SECONDS)
    assert (found.low, found.likely, found.high) == (20 * 190, 105 * 190, 165 * 190)
    assert found.certainty is Certainty.ESTIMATED
    assert found.version == TABLE.version
    assert "docs.runpod.io" in found.source
    assert "2026-06-08" in found.source
    assert "20 to 100" in found.formula


def test_a_warm_worker_is_likely_to_cost_no_start_and_a_cold_one_certain_to() -> None:
    usage = gpu("runpod/AMPERE_24")
    warm = price(usage, TABLE, THREE_SECONDS, warm=True)
    cold = price(usage, TABLE, THREE_SECONDS, warm=False)
    assert (warm.low, warm.likely, warm.high) == (20 * 190, 45 * 190, 165 * 190)
    assert (cold.low, cold.likely, cold.high) == (80 * 190, 105 * 190, 165 * 190)


def test_the_tables_start_and_tail_win_over_the_backends_and_the_users_over_both() -> None:
    usage = gpu("runpod/AMPERE_24", startup_s=120, idle_s=10)
    assert price(usage, TABLE, THREE_SECONDS).high == 165 * 190
    mine = catalog.load(prices={"runpod/AMPERE_24": {"startup_s": 8, "idle_s": 0}})
    assert price(usage, mine, THREE_SECONDS).high == 108 * 190


def test_where_the_table_says_nothing_the_backends_start_and_tail_count() -> None:
    mine = catalog.load(prices={"mine/gpu": {"usd": 0.001, "unit": "gpu_second"}})
    usage = gpu("mine/gpu", startup_s=30, idle_s=10)
    assert price(usage, mine, THREE_SECONDS).high == 140_000


def test_runpods_seconds_are_rounded_up() -> None:
    warm = catalog.load(prices={"runpod/AMPERE_24": {"startup_s": 0, "idle_s": 0.1}})
    assert price(gpu("runpod/AMPERE_24", 3.2), warm).high == 4 * 190


def test_sound_or_none_has_the_price_of_its_resolution() -> None:
    usage = Usage("vertex/veo-3.1-fast-generate-001/720p/silent", Unit.OUTPUT_SECOND, 4)
    assert price(usage, TABLE).high == 400_000
    mine = catalog.load(prices={usage.sku: {"usd": 0.08}})
    assert price(usage, mine).high == 320_000


@pytest.mark.parametrize(
    ("usage", "microusd"),
    [
        (Usage("vertex/veo-3.1-fast-generate-001/720p", Unit.OUTPUT_SECOND, 4), 400_000),
        (Usage("vertex/veo-3.1-generate-001/4k", Unit.OUTPUT_SECOND, 8), 4_800_000),
        (Usage("gemini/omni-1.2-flash/360p", Unit.OUTPUT_SECOND, 3), 90_000),
        (Usage("local", Unit.GPU_SECOND, None), 0),
        (Usage("simulated", Unit.RUN, 1), 0),
    ],
)
def test_a_price_by_output_or_none_at_all_is_one_figure(usage: Usage, microusd: int) -> None:
    found = price(usage, TABLE)
    assert (found.low, found.likely, found.high) == (microusd,) * 3


def test_hotshot_xl_has_a_range_before_it_has_a_history() -> None:
    found = price(gpu("replicate/hotshot-xl"), TABLE)
    assert (found.low, found.likely, found.high) == (14_625, 29_250, 58_500)
    learned = price(gpu("replicate/hotshot-xl"), TABLE, Seconds(18, 18, 18, 9))
    assert learned.likely == 17_550


@pytest.mark.parametrize(
    "usage",
    [
        Usage("huggingface/fal-ai/wan", Unit.RUN, 1),
        Usage("nobody/knows", Unit.RUN, 1),
        Usage("runpod/AMPERE_24", Unit.RUN, 1),
        Usage("vertex/veo-3.1-fast-generate-001/720p", Unit.OUTPUT_SECOND, None),
        gpu("runpod/AMPERE_24"),
        gpu("runpod/AMPERE_24", float("nan")),
        gpu("runpod/AMPERE_24", -1.0),
    ],
)
def test_what_cannot_be_told_is_unknown_and_not_free(usage: Usage) -> None:
    found = price(usage, TABLE)
    assert (found.low, found.likely, found.high) == (None, None, None)
    assert found.certainty is Certainty.UNKNOWN
    assert found.text() == "unknown"
    assert found.formula


def test_the_users_current_is_counted_where_he_says_what_it_costs() -> None:
    table = catalog.load(prices={"local": {"kwh_usd": 0.36, "watts": 500}})
    found = price(gpu("local"), table, Seconds(10, 20, 60))
    assert (found.low, found.likely, found.high) == (500, 1000, 3000)


def test_a_job_that_ended_costs_what_it_took() -> None:
    found = settled(gpu("runpod/AMPERE_24", 31.4), TABLE)
    assert (found.low, found.likely, found.high) == (32 * 190,) * 3
    assert found.certainty is Certainty.KNOWN
    assert settled(gpu("runpod/AMPERE_24", 31.4, startup_s=8), TABLE).high == 40 * 190
    assert settled(gpu("runpod/AMPERE_24", 31.4, startup_s=8, idle_s=10), TABLE).high == 45 * 190
    assert settled(Usage("huggingface/x", Unit.RUN, 1), TABLE).high is None


@given(
    st.sampled_from(sorted(TABLE.rows)),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.lists(st.floats(0, 1e5), min_size=3, max_size=3).map(sorted),
    st.sampled_from([None, True, False]),
)
def test_a_range_rises_and_is_whole_or_unknown(
    sku: str, amount: float | None, seconds: list[float], warm: bool | None
) -> None:
    usage = Usage(sku, TABLE.rows[sku].unit, amount)
    found = price(usage, TABLE, Seconds(*seconds), warm=warm)
    if found.high is None:
        assert (found.low, found.likely) == (None, None)
        assert found.certainty is Certainty.UNKNOWN
    else:
        assert found.low is not None
        assert found.likely is not None
        assert 0 <= found.low <= found.likely <= found.high
    assert Price.from_json(json.loads(json.dumps(found.to_json()))) == found
