"""Says in the bucket, before a graph with paid nodes runs, that it may have run.

A platform may hand a job out again when its worker was lost. Another graph is then rendered again;
one that costs money with every run must not be, by itself.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, error
from pennyreel_worker.storage import Store


def claim(
    store: Store, prefix: str, attempt_id: str, *, deadline: Deadline, cancel: CancelToken
) -> None:
    """Claim an attempt, once.

    Raises:
        OutcomeUnknown: it was claimed before, and no result of it is stored.
        JobFailed: `storage_failed`; nothing has run.

    """
    key = f"{prefix}{attempt_id}.started"
    limits: dict[str, Any] = {"deadline": deadline, "cancel": cancel}
    body = {"attempt_id": attempt_id, "claim": uuid.uuid4().hex}
    there = store.get_json(key, **limits)
    # The platform may have handed it to two workers at once: only one of them can write this.
    if there is None and store.create(key, json.dumps(body).encode(), "application/json", **limits):
        return
    # Ours is there, too, where the store's answer was lost and the call repeated.
    if (there or store.get_json(key, **limits)) != body:
        raise error(
            Code.UNKNOWN_OUTCOME,
            f"attempt {attempt_id} began before and its end is not known; it has paid API nodes",
            hint="See with the API's provider whether it ran; then send it with a new attempt_id.",
        )
