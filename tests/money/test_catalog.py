"""The price table: dated and sourced, and the user's word counts; mistakes are named."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from docs.pages import ROOT, Page
from pennyreel.errors import SetupNeeded
from pennyreel.money import catalog, pricing
from pennyreel.money.catalog import Certainty
from pennyreel.need import Unit


def test_every_row_has_a_date_a_source_and_a_certainty() -> None:
    found = catalog.builtin()
    assert found.version == found.date
    for row in found.rows.values():
        assert re.fullmatch(r"202\d-\d\d-\d\d", row.date), row.sku
        assert row.date <= found.date, row.sku
        assert len(row.source) > 10, row.sku
        assert (row.usd is None) == (row.certainty is Certainty.UNKNOWN), row.sku


def test_a_price_is_read_exactly() -> None:
    row = catalog.builtin().rows["runpod/AMPERE_24"]
    assert row.microusd == 190
    assert catalog.builtin().rows["runpod-pod/RTX 4090/secure"].microusd == Fraction(690_000, 3600)


@pytest.mark.parametrize(
    ("sku", "usd"),
    [
        ("runpod/AMPERE_16", "0.00016"), ("runpod/ADA_24", "0.00031"),
        ("runpod/HOPPER_141", "0.00155"), ("replicate/l40s", "0.000975"),
        ("vertex/veo-3.1-generate-001/720p", "0.40"),
        ("vertex/veo-3.1-fast-generate-001/1080p", "0.12"),
        ("gemini/omni-1.2-flash/360p", "0.03"), ("local", "0"), ("simulated", "0"),
    ],
)  # fmt: skip
def test_the_rows_are_those_of_the_vendors_lists(sku: str, usd: str) -> None:
    assert catalog.builtin().rows[sku].usd == Decimal(usd)


def test_what_is_not_listed_has_its_familys_row_under_its_own_name() -> None:
    row = catalog.builtin().row("huggingface/fal-ai/Wan-AI/Wan2.2-TI2V-5B")
    assert row is not None
    assert row.sku == "huggingface/fal-ai/Wan-AI/Wan2.2-TI2V-5B"
    assert row.certainty is Certainty.UNKNOWN
    assert catalog.builtin().row("nobody") is None


def test_the_users_file_changes_a_price_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text('[prices."runpod/AMPERE_24"]\nusd = 0.0002\n')
    found = catalog.load(tmp_path)
    row, before = found.rows["runpod/AMPERE_24"], catalog.builtin().rows["runpod/AMPERE_24"]
    assert row.usd == Decimal("0.0002")
    assert row.certainty is Certainty.KNOWN
    assert row.source == str(tmp_path / "prices.toml")
    assert (row.startup_s, row.idle_s, row.unit) == (before.startup_s, before.idle_s, before.unit)
    assert found.rows["runpod/ADA_24"] == catalog.builtin().rows["runpod/ADA_24"]


def test_the_config_files_word_comes_last(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[prices.local]\nkwh_usd = 0.1\nwatts = 100\n")
    found = catalog.load(tmp_path, {"local": {"kwh_usd": 0.3}})
    assert found.rows["local"].kwh_usd == Decimal("0.3")
    assert found.rows["local"].watts == 100


def test_the_version_tells_an_overridden_table_from_others() -> None:
    plain = catalog.load()
    one = catalog.load(prices={"local": {"kwh_usd": 0.3}})
    other = catalog.load(prices={"local": {"kwh_usd": 0.4}})
    assert plain.version == catalog.builtin().version
    assert len({plain.version, one.version, other.version}) == 3
    assert one.version.startswith(plain.version + "+")
    assert one.version == catalog.load(prices={"local": {"kwh_usd": 0.3}}).version


def test_a_row_can_be_added() -> None:
    found = catalog.load(prices={"mine/cluster": {"usd": 1.5, "per": "hour", "unit": "gpu_second"}})
    row = found.rows["mine/cluster"]
    assert row.unit is Unit.GPU_SECOND
    assert row.microusd == Fraction(1_500_000, 3600)
    assert row.certainty is Certainty.KNOWN


def test_a_price_of_a_family_is_one_of_each_that_has_no_row() -> None:
    found = catalog.load(prices={"huggingface/*": {"usd": 0.04}})
    row = found.row("huggingface/fal-ai/any")
    assert row is not None
    assert row.microusd == 40_000


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('[prices."runpod/ADA_24"]\nusd = -1', '"runpod/ADA_24": usd'),
        ('[prices."runpod/ADA_24"]\nusd = nan', '"runpod/ADA_24": usd'),
        ('[prices."runpod/ADA_24"]\nusd = "cheap"', '"runpod/ADA_24": usd'),
        ('[prices."runpod/ADA_24"]\nusd = true', '"runpod/ADA_24": usd'),
        ('[prices."runpod/ADA_24"]\nprice = 1', "price is no field"),
        ('[prices."runpod/ADA_24"]\nstartup_s = -3', "startup_s"),
        ('[prices."runpod/ADA_24"]\nper = "fortnight"', "per is one of"),
        ('[prices."runpod/ADA_24"]\nseconds = [3, 2, 1]', "seconds"),
        ('[prices."mine/x"]\nusd = 1', '"mine/x": unit'),
        ('[prices."mine/x"]\nusd = 1\nunit = "run"\nper = "hour"', '"mine/x": per'),
        ('[prices."mine/x"]\nunit = "run"', '"mine/x": usd'),
        ("[prices]\nlocal = 3", '"local"'),
        ("[price.local]\nusd = 0", "price"),
    ],
)
def test_a_mistake_is_named_by_file_entry_and_field(tmp_path: Path, entry: str, told: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(entry)
    with pytest.raises(SetupNeeded) as caught:
        catalog.load(tmp_path)
    assert str(file) in str(caught.value)
    assert told in str(caught.value)
    assert "pennyreel prices" in caught.value.hint


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("usd ==")
    with pytest.raises(SetupNeeded, match=r"prices\.toml cannot be read"):
        catalog.load(tmp_path)


def test_ways_to_a_better_backend_have_a_source_and_a_price_or_say_that_it_is_unknown() -> None:
    found = catalog.builtin()
    assert len(found.ways) >= 5
    for way in found.ways:
        cost = pricing.clip_price(way, found)
        assert way.source
        assert way.setup_minutes > 0
        assert cost.known or way.backend == "huggingface", way.title


def test_every_pool_that_has_a_price_has_a_speed() -> None:
    found = catalog.builtin()
    pools = {s.partition("/")[2] for s in found.rows if s.startswith("runpod/")} - {"*"}
    assert pools <= set(found.speeds)


def test_the_example_in_the_documentation_is_one_that_is_read(tmp_path: Path) -> None:
    (example,) = Page(ROOT / "docs" / "prices.md").fences("toml")
    (tmp_path / "prices.toml").write_text(example)
    rows = catalog.load(tmp_path).rows
    assert rows["runpod/AMPERE_24"].microusd == 180
    assert (rows["runpod/abc123"].unit, rows["runpod/abc123"].startup_s) == (Unit.GPU_SECOND, 20)
    assert rows["huggingface/*"].certainty is Certainty.KNOWN
    assert rows["local"].microusd == Fraction(320) * Fraction("0.3") * 1_000_000 / 3_600_000
