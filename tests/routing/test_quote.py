"""A quote has every backend, available or not; and ways to a better one where there is none."""

from __future__ import annotations

import json
from typing import Any

from pennyreel.money import catalog
from pennyreel.need import Need
from pennyreel.routing.decision import Decision, Outcome
from pennyreel.routing.explain import explained, headline, time_text
from pennyreel.routing.facts import Facts, Rules
from pennyreel.routing.quote import Quote, better, better_text, quote
from routing.candidates import CLIP, NOW, cost, cpu, local, runpod, takes, veo

TABLE = catalog.builtin()
NO_KEY = {"available": False, "why": "no API key is set", "fix": "Set RUNPOD_API_KEY"}


def quoted(*facts: Facts, need: Need = CLIP, **rules: Any) -> Quote:
    return quote(facts, need, Rules(**rules), TABLE, now=NOW)


def test_every_backend_is_in_the_table_with_its_price_time_and_quality() -> None:
    found = quoted(runpod(price=cost(9_000, 30_000)), veo(), local(**NO_KEY))
    lines = found.text().splitlines()
    assert lines[1].startswith("->  runpod:ep ")
    assert "$0.009 to $0.03" in lines[1]
    assert "30 s to 2 min" in lines[1]
    assert "good" in lines[1]
    assert any("gemini" in one and "needs a yes" in one for one in lines)
    assert any("comfyui:here" in one and "no API key is set" in one for one in lines)
    text = found.text()
    assert "gemini, to have it: --max-cost 0.400" in text
    assert "comfyui:here, to have it: Set RUNPOD_API_KEY" in text
    assert "it would go to runpod:ep" in text
    assert found.better == ()


def test_a_quote_is_plain_data() -> None:
    found = quoted(cpu(), runpod(**NO_KEY))
    body = json.loads(json.dumps(found.to_json()))
    assert body["chosen"] == "comfyui:here"
    assert body["better"][0]["backend"] == "comfyui"
    assert Decision.from_json(body) == found.decision


def test_with_neither_gpu_nor_key_the_ways_to_one_are_told_cheapest_first() -> None:
    found = quoted(cpu(600), runpod(**NO_KEY))
    assert found.decision.outcome is Outcome.GO
    likely = [b.clip.likely for b in found.better]
    known = [n for n in likely if n is not None]
    assert known == sorted(known)
    assert likely[: len(known)] == known, "unknown prices come last"
    text = found.text()
    assert "$10.00" in text
    assert "RUNPOD_API_KEY" in text
    assert "15 min" in text
    assert "expect 5 to 20 minutes" in text


def test_a_workflow_is_not_sent_shopping_where_workflows_do_not_run() -> None:
    backends = {b.way.backend for b in better(TABLE, Need(workflow=True))}
    assert backends == {"runpod", "comfyui"}
    assert {b.way.backend for b in better(TABLE)} > backends


def test_the_users_own_prices_are_those_of_the_ways() -> None:
    dear = catalog.load(prices={"runpod/AMPERE_24": {"usd": 1}})
    assert better(dear)[0].clip.high == 0
    assert better(dear)[-2].way.sku == "runpod/AMPERE_24"
    assert "unknown" in better_text(better(dear))


def test_nothing_at_all_is_a_quote_too() -> None:
    found = quoted()
    assert found.chosen is None
    assert "no backend can do this job" in found.text()
    assert len(found.better) == len(TABLE.ways)


def test_a_decision_tells_its_story() -> None:
    need = Need(template="animatediff-v3", width=512, height=512, frames=16, lora=True)
    found = quoted(
        veo(), runpod(success=0.98, checked=NOW - 12), need=need, max_cost=100_000
    ).decision
    text = explained(found)
    assert headline(found) in text
    assert "wanted: video, by template animatediff-v3, 512x512, 16 frames, with LoRA" in text
    assert "at most $0.10" in text
    assert "prices of 2026-11-22" in text
    assert "went well: 98% of its jobs" in text
    assert "asked: 12 s before" in text
    assert "takes no LoRA" in text
    assert "next: --max-cost 0.400" in text


def test_a_headline_without_a_choice_says_what_is_missing() -> None:
    assert "needs" not in headline(quoted(runpod()).decision)
    assert "above $0.05 a job" in headline(quoted(runpod(90_000)).decision)
    assert "no API key is set" in headline(quoted(runpod(**NO_KEY)).decision)


def test_time_is_told_in_words() -> None:
    assert time_text(None) == "unknown time"
    assert time_text(takes(20)) == "10 to 40 s"
    assert time_text(takes(300)) == "2 to 10 min"
    assert time_text(takes(100)) == "50 s to 3 min"
    assert time_text(takes(9000)) == "75 min to 5 h"
