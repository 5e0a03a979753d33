"""Who asks for what, and when: a mix of requests, users with and without a GPU, days and bursts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from pennyreel.need import Need

DAY_S = 86_400.0


@dataclass(frozen=True)
class Sort:
    """A sort of request and its share of all."""

    name: str
    share: float
    need: Need


_T = "animatediff-v3"
SORTS = (
    Sort("a short clip from a prompt", 0.40, Need(template=_T, profile=_T)),
    Sort("at least 16 frames", 0.20, Need(template=_T, frames=16, profile=_T)),
    Sort("a workflow of the user's own", 0.15, Need(workflow=True, profile=_T)),
    Sort("with a LoRA", 0.10, Need(template=_T, lora=True, profile=_T)),
    Sort("from an image", 0.15, Need(template=_T, image_input=True, profile=_T)),
)


@dataclass(frozen=True)
class Wish:
    """One job that somebody wants."""

    number: int
    at: float
    sort: Sort
    user: int
    gpu: bool


def wishes(jobs: int, *, gpu_share: float, per_hour: float, seed: int) -> Iterator[Wish]:
    """Yield jobs in the order of their times.

    Nights have a quarter of the mean, evenings nearly twice; one arrival in fifty begins a burst
    of 5 to 30 within a minute, by one user.
    """
    random = Random(seed)  # noqa: S311 - a simulation
    users = max(50, jobs // 50)
    at, number = 0.0, 0
    pending: list[tuple[float, int]] = []
    while number < jobs:
        swing = 1.0 + 0.75 * math.sin(2 * math.pi * (at / DAY_S - 0.25))
        at += random.expovariate(per_hour / 3600.0 * swing / 1.35)
        user = random.randrange(users)
        pending.append((at, user))
        if random.random() < 0.02:
            size = random.randint(5, 30)
            pending += [(at + random.uniform(0, 60), user) for _ in range(size)]
        pending.sort()
        while pending and number < jobs and pending[0][0] <= at:
            when, who = pending.pop(0)
            gpu = (who * 7919) % 1000 < gpu_share * 1000
            yield Wish(number, when, _sort(random), who, gpu)
            number += 1


def _sort(random: Random) -> Sort:
    return random.choices(SORTS, [s.share for s in SORTS])[0]
