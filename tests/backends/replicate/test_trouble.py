"""Trouble on the way to Replicate: each is told as what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.replicate.support import MANY, TOKEN, follow, job
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.config import Secret
from pennyreel.errors import (
    OutcomeUnknown,
    SetupNeeded,
    Unavailable,
)
from pennyreel.types import Handle
from pennyreel_emulators.replicate import (
    Config,
    Fault,
    RateLimit,
    ReplicatePlatform,
)

# Trouble on the way.


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(500, None, times=2),
        Fault(503, "<html>", times=2),
        Fault(times=2),
        Fault(404, {"detail": "not found"}, times=2),
        Fault(200, "<html>not json</html>", times=2),
        Fault(429, {"detail": "Request was throttled. Your rate limit resets in ~0s."}, times=2),
    ],
)
def test_trouble_in_mid_job_is_looked_through(
    trouble: Fault, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.fault("get", trouble)
    assert follow(one, one.submit(job())).artifacts
    assert len(platform.accepted) == 1


def test_an_api_that_stays_away_leaves_the_outcome_unknown_with_the_handle(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job())
    one._account = replace(one._account, down_grace_s=0.05)
    platform.fault("get", Fault(502, None, times=MANY))
    with pytest.raises(OutcomeUnknown) as caught:
        follow(one, handle)
    assert str(handle) in caught.value.hint


def test_a_prediction_of_another_account_is_not_taken_for_a_failed_one(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    with pytest.raises(OutcomeUnknown, match="knows no prediction"):
        follow(one, Handle("replicate", one.target, "nobodys", "a" * 32))


def test_a_token_that_is_refused_in_mid_job_is_told_at_once(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job())
    platform.configure(token="r8_another_account")
    with pytest.raises(SetupNeeded, match="token"):
        follow(one, handle)


@pytest.mark.parametrize(("headers", "waits"), [({}, 30.0), ({"Retry-After": "7"}, 7.0)])
def test_a_rate_limit_is_told_by_its_header_or_by_its_words(
    headers: dict[str, str], waits: float, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    says = {"detail": "Request was throttled. Your rate limit resets in ~30s."}
    platform.fault("create", Fault(429, says, headers))
    with pytest.raises(Unavailable) as caught:
        one.submit(job())
    assert caught.value.info.detail["retry_after_s"] == waits
    assert len(platform.requests) == 1


def test_an_account_without_a_payment_method_is_throttled() -> None:
    config = Config(token=TOKEN, creates=RateLimit(1, 1.0))
    with ReplicatePlatform(config, clock=lambda: 100.0) as platform:
        one = ReplicateBackend(Secret(TOKEN), base_url=platform.base_url)
        one.submit(job())
        with pytest.raises(Unavailable, match="resets in") as caught:
            one.submit(job())
        assert caught.value.info.detail["retry_after_s"] == 1.0
        assert len(platform.accepted) == 1
        one.close()


def test_an_empty_account_is_sent_to_the_billing_page(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.configure(credit=False)
    with pytest.raises(SetupNeeded) as caught:
        one.submit(job())
    assert "https://replicate.com/account/billing" in caught.value.hint


def test_a_version_that_is_gone_is_a_matter_of_setup(platform: ReplicatePlatform) -> None:
    one = ReplicateBackend(Secret(TOKEN), version="0" * 64, base_url=platform.base_url)
    health = one.health()
    assert not health.reachable
    assert "PENNYREEL_REPLICATE_VERSION" in health.hint
    with pytest.raises(SetupNeeded) as caught:
        one.submit(job())
    assert "PENNYREEL_REPLICATE_VERSION" in caught.value.hint
    one.close()
