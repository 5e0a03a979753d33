"""Asks every backend what the policy has to know of it: health, price, time, how well it suits.

Backends are asked at once, none longer than PROBE_S; what one said is shared by all processes for
FRESH_S. Nothing here costs money, and nothing here chooses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from pennyreel import localcomfy
from pennyreel.backends import registry
from pennyreel.backends.base import COMFY, Backend
from pennyreel.config import Settings, dev_stack, is_loopback, marked
from pennyreel.errors import PennyreelError
from pennyreel.fleet.devices import Devices, detect, fits
from pennyreel.money import estimates
from pennyreel.money.catalog import Catalog, Way
from pennyreel.money.estimates import Hint, Sample, Seconds
from pennyreel.money.ledger import Ledger
from pennyreel.money.pricing import clip_price, metered, price
from pennyreel.money.records import Labels
from pennyreel.need import Need, Unit, Usage
from pennyreel.provision import stock
from pennyreel.routing.breaker import Breaker
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.facts import Facts, Fit, Left, Place, names
from pennyreel.types import Health
from pennyreel_comfy import templates

PROBE_S = 8.0
"""How long a backend may take to say how it is."""

REST_S = 4.0
"""How much longer all the rest that is asked of it may take, which needs no network."""

FRESH_S = 30.0

OVERHEAD_S = (0.5, 2.0, 10.0)
"""Low, likely, high seconds of sending a job and fetching its files."""

COLD_S = (0.0, 20.0, 120.0)
"""The same of a worker's cold start, where no worker waits."""

_PLACES = {"comfyui": Place.LOCAL, "dev": Place.SIMULATED, "runpod": Place.RENTED}
_FITS = {
    "good": Fit.GOOD,
    "tight": Fit.TIGHT,
    "below": Fit.BELOW,
    "none": Fit.CPU,
    "unknown": Fit.UNKNOWN,
}
_ANYTHING = replace(COMFY, prompts=True)
"""Of a backend that cannot be opened, and whose class does not tell what it could do."""

_ELSEWHERE = ", or use another backend: pennyreel doctor"
"""What backends say to who has only them; here the others stand beside it."""

_LATER = "Try again later, or name it: it is tried then whatever its health."

T = TypeVar("T")
Opener = Callable[[str, "str | None"], Backend]


@dataclass(frozen=True)
class Survey:
    """What the facts are gathered from."""

    settings: Settings
    opener: Opener
    ledger: Ledger
    catalog: Catalog
    labels: Labels = field(default_factory=Labels)
    devices: Callable[[Settings], Devices] = detect

    def facts(self, need: Need, *, named: str | None = None) -> list[Facts]:
        """Return what is known of each backend now; of `named` too, where it has to be named.

        Never raises for a backend's sake: one that cannot be asked is not available, and why.
        """
        wanted = list(self._candidates(named))
        own = None if need.vram_min_bytes == 0 else self.devices(self.settings)
        asked = [_asked(partial(self._one, need, *one, own, named)) for one in wanted]
        shares = self.ledger.shares()
        wait(asked, PROBE_S + REST_S)
        found = [
            future.result() if future.done() else self._silent(*one, named)
            for one, future in zip(wanted, asked, strict=True)
        ]
        return [replace(one, success=shares.get(one.backend)) for one in found]

    def _candidates(self, named: str | None) -> Iterator[tuple[str, str | None]]:
        """Yield whom to ask: where one is named, nobody else hears of the job."""
        only = None if named is None else named.partition(":")[0]
        for name in registry.names():
            if only not in {None, name}:
                continue
            if name == "dev" and dev_stack(self.settings.home) is None and named != "dev":
                continue
            yield name, None
        if named is not None and named in registry.NAMED_ONLY:
            yield named, None
        server = localcomfy.running(self.settings.comfyui_home)
        ours = server is not None and server.url != self.settings.comfyui_url
        if server is not None and ours and only in {None, "comfyui"}:
            yield "comfyui", server.url

    def _one(
        self, need: Need, name: str, target: str | None, own: Devices | None, named: str | None
    ) -> Facts:
        try:
            return self._told(need, name, self.opener(name, target), own, named)
        except PennyreelError as problem:
            return self._closed(name, str(problem), problem.hint)
        except Exception as problem:  # noqa: BLE001 - another package's backend spoils no other's
            return self._closed(name, f"unforeseen: {type(problem).__name__}", "")

    def _told(
        self, need: Need, name: str, backend: Backend, own: Devices | None, named: str | None
    ) -> Facts:
        health = self._health(backend)
        able, usage = backend.abilities(), backend.usage(need)
        place = _place(name, backend.target)
        gpu, fit, device = self._device(need, place, name, own)
        seconds = self._seconds(need, gpu, usage)
        idle = health.workers.get("idle") or health.workers.get("ready")
        warm = None if not health.workers else bool(idle)
        lacks = stock.lacks(self.settings, self.ledger, need, backend, place, health)
        breaker = self._breaker(name, backend.target)
        told = Facts(
            backend=name,
            abilities=able,
            price=price(usage, self.catalog, seconds, warm=warm),
            meter=metered(usage, self.catalog) if able.ends_late else None,
            target=backend.target,
            place=place,
            available=health.reachable,
            why=health.detail,
            fix="" if health.reachable else health.hint,
            seconds=_in_all(seconds, place, warm, usage),
            fit=fit,
            device=device,
            gpu=gpu or usage.sku,
            breaker_until=breaker.open_until,
            breaker_code=breaker.code,
            budgets=self._budgets(name),
            checked=time.time(),
        )
        if lacks is not None:  # named or not: it would only refuse the job
            return replace(told, available=False, lacks=True, why=lacks.why, fix=lacks.fix)
        return _tried(told, named)

    def _silent(self, name: str, target: str | None, named: str | None) -> Facts:
        """Return the facts of a backend that has not answered in time."""
        told = self._closed(name, _late(PROBE_S + REST_S), _LATER)
        return _tried(replace(told, target=target or ""), named)

    def _closed(self, name: str, why: str, fix: str) -> Facts:
        way = next((w for w in self.catalog.ways if w.backend == name), None)
        usage, place = Usage(name, Unit.RUN, 1.0), _PLACES.get(name, Place.HOSTED)
        nobody = price(usage, self.catalog)
        return Facts(
            backend=name,
            abilities=registry.could(name) or _ANYTHING,
            price=nobody if way is None else clip_price(way, self.catalog),
            place=place,
            seconds=None if way is None else _in_all(self._by_way(way), place, None, usage),
            available=False,
            why=why,
            fix=fix.replace(_ELSEWHERE, ""),
        )

    def _by_way(self, way: Way) -> Seconds | None:
        """Return how long the clip takes that a way's price is of, as far as the table says."""
        row = self.catalog.row(way.sku)
        told = way.seconds or (None if row is None else row.seconds)
        return (
            None if told is None else Seconds(*told, basis=f"an estimate for a clip: {way.title}")
        )

    def _health(self, backend: Backend) -> Health:
        """Ask, or use what another process has heard; for PROBE_S."""
        elsewhere = not is_loopback(backend.target)
        name = marked(self.settings, backend.name, f"health {backend.name}:{backend.target}")
        asked = _asked(
            lambda: self.ledger.probed(
                name,
                lambda: backend.health().to_json(),
                fresh_s=FRESH_S,
                limit_s=PROBE_S,
                # One on this machine says so at once, and may be there in a moment.
                keep=lambda answer: elsewhere or bool(answer["reachable"]),
            )
        )
        try:
            told = asked.result(PROBE_S)
        except FutureTimeout:
            return Health(backend.name, False, _late(PROBE_S), _LATER, backend.target)
        known = {k: v for k, v in told.answer.items() if k in Health.__dataclass_fields__}
        return Health(**{**known, "devices": tuple(known.get("devices") or ())})

    def _device(
        self, need: Need, place: Place, name: str, own: Devices | None
    ) -> tuple[str, Fit, str]:
        """Return the GPU's name for estimates, how well it suits, and its name for a person."""
        if place is not Place.LOCAL or name != "comfyui":
            gpu = self._pool() if name == "runpod" else ""
            return gpu, Fit.UNKNOWN if place is Place.OWN else Fit.GOOD, gpu
        if own is None:  # it runs on any machine
            return "cpu", Fit.GOOD, ""
        judged = fits(own, need.vram_min_bytes, need.vram_good_bytes)
        best = max(own.gpus, key=lambda d: d.budget_bytes or 0, default=None)
        gpu = "cpu" if best is None else best.name
        return gpu, _FITS[judged.verdict], own.host.cpu if best is None else best.name

    def _pool(self) -> str:
        """Return the GPU pool of the RunPod endpoint: as the user says, else as RunPod does."""
        pools = self.catalog.pools
        return self.settings.runpod_gpu or pools.get(self.settings.runpod_endpoint or "", "")

    def _seconds(self, need: Need, gpu: str, usage: Usage) -> Seconds | None:
        """Return how long it runs there: learned, by the template's hint, or by the catalogue."""
        learned = self.ledger.learned(need.profile, gpu or usage.sku) if need.profile else ()
        history = {gpu or usage.sku: [Sample(s) for s in reversed(learned)]}
        told = estimates.expected(
            gpu or usage.sku,
            need.size,
            history=history,
            hint=_hint(need),
            speeds=self.catalog.speeds,
        )
        row = self.catalog.row(usage.sku)
        if told is None and row is not None and row.seconds is not None:
            return Seconds(*row.seconds, basis=row.source)
        return told

    def _breaker(self, name: str, target: str) -> Breaker:
        shared = Breakers(self.ledger, kept_as=partial(marked, self.settings))
        return shared.state(f"{name}:{target}" if target else name)

    def _budgets(self, name: str) -> tuple[Left, ...]:
        labels = {"backend": name, "project": self.labels.project, "user": self.labels.user}
        found = []
        for one in self.ledger.budgets():
            scope = one.cap.scope
            if scope.kind == "all" or labels.get(scope.kind) == scope.name:
                raise_it = f"pennyreel budget set {scope} --{one.cap.period} AMOUNT"
                resets = str(one.to_json()["resets"] or "")
                found.append(Left(str(scope), one.cap.period, one.left, resets, raise_it))
        return tuple(found)


def _late(seconds: float) -> str:
    return f"it has not answered within {seconds:g} s"


def _asked(ask: Callable[[], T]) -> Future[T]:
    """Ask in a thread that nobody has to wait for, at the program's end neither."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as problem:  # noqa: BLE001 - it is raised by who waits
            answer.set_exception(problem)

    threading.Thread(target=run, name="pennyreel-survey", daemon=True).start()
    return answer


def _tried(facts: Facts, named: str | None) -> Facts:
    """One that is named is tried, whatever its health: its own refusal says more."""
    meant = bool(facts.target) and named is not None and names(named, facts)
    return replace(facts, available=facts.available or meant)


def _place(name: str, target: str) -> Place:
    if name == "simulated":
        return Place.SIMULATED
    if name == "comfyui":
        return Place.LOCAL if is_loopback(target) else Place.OWN
    return _PLACES.get(name, Place.HOSTED)


def _hint(need: Need) -> Hint | None:
    if need.template is None:
        return None
    cost = templates.load(need.template).cost
    return None if cost is None else Hint(cost.seconds, cost.device, cost.estimated)


def _in_all(
    seconds: Seconds | None, place: Place, warm: bool | None, usage: Usage
) -> Seconds | None:
    """Add what comes before and after the run."""
    if seconds is None:
        return None
    cold = COLD_S if place is Place.RENTED and not warm else (0.0, 0.0, 0.0)
    if usage.startup_s and any(cold):
        cold = (0.0, min(cold[1], usage.startup_s), max(cold[2], usage.startup_s))
    low, likely, high = (a + b for a, b in zip(OVERHEAD_S, cold, strict=True))
    return seconds.plus(low, likely, high)
