"""The predictions: what each is at a given moment. No I/O; the clock is given."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from pennyreel_emulators.replicate import hotshot
from pennyreel_emulators.replicate.config import Behaviour, Config

FINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
_ID = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Bill:
    """What one prediction costs: seconds of `metrics.predict_time` on this hardware."""

    prediction: str
    seconds: float
    hardware: str


@dataclass(eq=False)
class Prediction:
    """One prediction. Times are the platform's clock; `math.inf` = never."""

    id: str
    model: str
    input: Mapping[str, Any] = field(repr=False)
    behaviour: Behaviour
    created: float
    starts: float
    ends: float
    deadline: float = math.inf
    seed: int = 0
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cancelled: float | None = None


class Store:
    """All predictions of the account, oldest first."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self._zero = datetime.now(timezone.utc) - timedelta(seconds=clock())
        self._all: dict[str, Prediction] = {}
        self.behaviours: list[Behaviour] = []

    def create(
        self, model: str, body: Mapping[str, Any], cancel_after_s: float | None
    ) -> Prediction:
        """Accept one; the next scripted behaviour is its own."""
        now = self._clock()
        behaviour = self.behaviours.pop(0) if self.behaviours else self.config.behaviour
        boot = self.config.boot_s if behaviour.boot_s is None else behaviour.boot_s
        run = self.config.run_s if behaviour.run_s is None else behaviour.run_s
        given = dict(body.get("input") or {})
        seed = given.get("seed")
        made = Prediction(
            id="".join(secrets.choice(_ID) for _ in range(26)),
            model=model,
            input=given,
            behaviour=behaviour,
            created=now,
            starts=now + boot,
            ends=math.inf if behaviour.hangs else now + boot + run,
            deadline=math.inf if cancel_after_s is None else now + cancel_after_s,
            seed=secrets.randbelow(65536) if seed is None else seed,
            body=dict(body),
        )
        self._all[made.id] = made
        return made

    def get(self, prediction: str) -> Prediction | None:
        """Find one; they are kept for ever, only their data goes."""
        return self._all.get(prediction)

    def newest(self) -> list[Prediction]:
        """All of them, newest first, as they are listed."""
        return list(reversed(self._all.values()))

    def cancel(self, made: Prediction) -> None:
        """Note a cancel. One that has ended stays as it is (UNVERIFIED: perhaps an error)."""
        if self.status(made) not in FINAL and made.behaviour.cancel == "stops":
            made.cancelled = self._clock()

    def status(self, made: Prediction) -> str:
        """Return its real status now, by its times.

        replicate.com/changelog/2025-10-16-prediction-deadlines: `aborted` where the deadline
        came before it started, else `canceled`. A cancel by hand is always `canceled` here
        (UNVERIFIED: before the start perhaps `aborted`).
        """
        now, stopped = self._clock(), self._stopped(made)
        if stopped <= now and stopped < made.ends:
            late = made.cancelled is None or made.deadline < made.cancelled
            return "aborted" if late and stopped < made.starts else "canceled"
        if now < made.starts:
            return "starting"
        if now < made.ends:
            return "processing"
        return "failed" if made.behaviour.error else "succeeded"

    def view(self, made: Prediction, output: Callable[[Prediction], Any]) -> dict[str, Any]:
        """Return it as the API tells it; `output` makes the addresses of its files."""
        status = self.status(made)
        ended = self._ended(made) if status in FINAL else None
        gone = ended is not None and self._clock() >= ended + self.config.retention_s
        started = made.starts if made.starts <= (ended or self._clock()) else None
        kept: dict[str, Any] = {
            "input": {} if gone else dict(made.input),
            "output": None,
            "logs": None if gone else self._logs(made, status),
        }
        if status == "succeeded" and not gone and made.behaviour.output != "none":
            kept["output"] = output(made)
        metrics: dict[str, float] = {}
        if ended is not None and started is not None:
            metrics = {
                "predict_time": round(ended - started, 6),
                "total_time": ended - made.created,
            }
        return {
            "id": made.id,
            "model": made.model,
            "version": hotshot.VERSION,
            **kept,
            "status": self._told(made, status),
            "error": made.behaviour.error if status == "failed" else None,
            "created_at": self._time(made.created),
            "started_at": self._time(started),
            "completed_at": self._time(ended),
            "data_removed": gone,
            "metrics": metrics,
            "source": "api",
            # That it is told, and its name, is UNVERIFIED: an older specification has it.
            **({} if made.deadline == math.inf else {"deadline": self._time(made.deadline)}),
        }

    def expired(self, made: Prediction) -> bool:
        """Whether its files are gone."""
        return self._clock() >= self._ended(made) + self.config.retention_s

    def bills(self) -> list[Bill]:
        """What has been billed so far.

        Seconds that ran, of public models: setup and queue are not billed, nor `aborted`, but
        `canceled` is (docs: billing; the changelog above). That `failed` is, is UNVERIFIED.
        """
        now = self._clock()
        return [
            Bill(made.id, min(now, self._ended(made)) - made.starts, self.config.hardware)
            for made in self._all.values()
            if made.starts <= min(now, self._ended(made))
        ]

    def _told(self, made: Prediction, status: str) -> str:
        if status in FINAL:
            return made.behaviour.ends_as or status if status == "succeeded" else status
        return made.behaviour.told_as or status

    def _logs(self, made: Prediction, status: str) -> str:
        now = min(self._clock(), self._ended(made))
        if status == "starting" or now < made.starts:
            return ""
        whole = made.ends - made.starts
        share = 1.0 if whole <= 0 else min(1.0, (now - made.starts) / whole)
        return hotshot.logs(made.input, made.seed, share)

    def _stopped(self, made: Prediction) -> float:
        return min(math.inf if made.cancelled is None else made.cancelled, made.deadline)

    def _ended(self, made: Prediction) -> float:
        return min(made.ends, self._stopped(made))

    def _time(self, at: float | None) -> str | None:
        if at is None:
            return None
        moment = self._zero + timedelta(seconds=at)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
