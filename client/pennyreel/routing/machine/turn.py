"""One step in the making: the job as it becomes, and the effects so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pennyreel.routing.machine.effects import Effect, Settle, Told, Wait
from pennyreel.routing.machine.states import Attempt, Job, Option, Stage, Trouble


class Turn:
    """What the parts of a step write to; nobody outside sees it."""

    def __init__(self, job: Job) -> None:
        """Begin with the job as it was."""
        self.job = job
        self.effects: list[Effect] = []

    def do(self, effect: Effect) -> None:
        """Add an effect."""
        self.effects.append(effect)

    def tell(self, text: str, code: str = "", n: int | None = None) -> None:
        """Add a line for the user."""
        self.do(Told(text, code, n))

    def option(self, n: int) -> Option:
        """Return an option."""
        return self.job.options[n]

    def put(self, attempt: Attempt, **changes: Any) -> Attempt:
        """Keep an attempt, changed."""
        changed = replace(attempt, **changes)
        self.job = self.job.put(changed)
        return changed

    def change(self, **changes: Any) -> None:
        """Change the job."""
        self.job = replace(self.job, **changes)

    def call(self, attempt: Attempt, awaits: str, **changes: Any) -> Attempt:
        """Keep an attempt that now awaits the answer to a new call."""
        self.change(calls=self.job.calls + 1)
        return self.put(attempt, awaits=awaits, call=self.job.calls, **changes)

    def answered(self, n: int, call: int, *awaited: str) -> Attempt | None:
        """Return the attempt that this answers; None: it is late, or came twice."""
        attempt = self.job.find(n)
        if attempt is None or attempt.call != call or attempt.awaits not in awaited:
            return None
        return attempt

    def wait(self, attempt: Attempt, then: str, until: float, **changes: Any) -> None:
        """Do something to the attempt later."""
        waiting = self.call(attempt, then, **changes)
        self.do(Wait(attempt.n, waiting.call, until))

    def settle(
        self, attempt: Attempt, stage: Stage, microusd: int | None, trouble: Trouble | None = None
    ) -> None:
        """End an attempt, for good as far as anybody knows."""
        cost = self.option(attempt.n).reserve_microusd if microusd is None else microusd
        self.put(attempt, stage=stage, awaits="", trouble=trouble, cost=cost)
        self.do(Settle(attempt.n, stage, microusd, trouble))
