"""Opening, health, abilities and money: nothing is sent, and nothing is spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from backends.rig import Rig, Scene, plays
from backends.suite.base import Suite, Told
from client.support import GRAPH
from pennyreel.backends.base import Backend, Work
from pennyreel.config import Settings
from pennyreel.errors import (
    BadRequest,
    SetupNeeded,
)
from pennyreel.need import Need, Unit, misfits
from pennyreel_contract import Result


class Opening(Suite):
    """What is known before a job is."""

    def test_opening_sends_nothing(self, rig: Rig, one: Backend) -> None:
        assert rig.urls() == []
        assert one.name == self.backend.name
        assert one.target

    def test_without_a_key_it_names_the_setting(
        self, rig: Rig, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = {f.name for f in fields(Settings)}
        for name, variable in self.keys.items():
            with monkeypatch.context() as patch, self.raises(told, SetupNeeded) as caught:
                patch.delenv(variable, raising=False)
                without = {name: None} if name in ours else {}
                self.backend.open(replace(rig.settings, **without))  # type: ignore[arg-type]
            assert variable in f"{caught.value} {caught.value.hint}"

    def test_health_is_free(self, rig: Rig, one: Backend, told: Told) -> None:
        health = one.health()
        assert health.reachable
        assert (health.backend, health.target) == (one.name, one.target)
        assert health.detail
        assert rig.submits == rig.accepted == 0
        told.texts.append(json.dumps(health.to_json()))

    def test_health_of_a_dead_server_says_what_to_do(
        self, rig: Rig, opened: Callable[..., Backend], told: Told
    ) -> None:
        health = opened(rig.dead).health()
        assert not health.reachable
        assert health.detail
        assert health.hint
        told.texts.append(json.dumps(health.to_json()))

    @plays(Scene.UNAUTHORIZED)
    def test_health_with_a_key_that_is_refused_does_not_raise(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.UNAUTHORIZED)
        told.texts.append(json.dumps(one.health().to_json()))
        assert rig.submits == 0

    def test_abilities_are_known_without_asking(self, rig: Rig, one: Backend) -> None:
        able = one.abilities()
        assert able == one.abilities()
        assert able.kinds
        assert able.workflows or able.prompts
        assert 0 <= able.quality <= 3
        assert rig.urls() == []

    def test_abilities_fit_the_job_it_runs_and_nothing_beyond(self, one: Backend) -> None:
        able, need = one.abilities(), self.work().need
        assert list(misfits(need, able)) == []
        assert list(misfits(replace(need, kind="smell"), able))
        asked = {
            "workflow": able.workflows,
            "image_input": able.image_input,
            "lora": able.lora,
            "negative_prompt": able.negative_prompt,
            "seed": able.seed,
        }
        for name, can in asked.items():
            wanted = replace(need, **{name: True})  # type: ignore[arg-type]
            assert bool(list(misfits(wanted, able))) == (not can), name

    def test_a_graph_is_refused_unsent_by_what_runs_none(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        if not one.abilities().workflows:
            with self.raises(told, BadRequest):
                one.submit(Work("f" * 32, GRAPH, need=Need(workflow=True)))
            assert rig.submits == 0

    # Money.

    def test_usage_is_told_without_asking(self, rig: Rig, one: Backend) -> None:
        usage = one.usage(self.work().need)
        assert usage.sku
        assert usage.sku == usage.sku.strip()
        assert usage.amount is None or usage.amount >= 0
        assert min(usage.startup_s, usage.idle_s) >= 0
        if usage.unit is not Unit.GPU_SECOND:
            assert usage.amount is not None, "only GPU seconds are not known before the run"
        assert rig.urls() == []

    def test_what_is_billed_is_of_the_unit_and_sku_that_was_told(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.SUCCEED)
        need = self.work().need
        before = one.usage(need)
        _, result = self.run(one, told)
        calls = rig.submits
        after = one.billed(need, result)
        assert (after.sku, after.unit) == (before.sku, before.unit)
        assert after.amount is not None
        assert after.amount >= 0
        if before.amount is not None:
            assert after.amount <= before.amount
        assert rig.submits == calls

    def test_what_a_result_says_too_little_of_is_not_billed_as_nothing(self, one: Backend) -> None:
        need = self.work().need
        silent = one.billed(need, Result(attempt_id="a" * 32))
        assert silent.sku == one.usage(need).sku
        if silent.unit is Unit.GPU_SECOND:
            assert silent.amount is None
