"""One GPU that several sources tell of becomes one device. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pennyreel.fleet.devices.model import (
    APPLE,
    CERTAIN,
    CPU,
    HIGH,
    LOW,
    MEDIUM,
    NVIDIA,
    OTHER,
    UNKNOWN,
    Device,
)
from pennyreel.fleet.devices.names import plain

_STRENGTH = (
    "override", "comfyui", "nvml", "nvidia-smi", "sysfs", "registry", "sysctl", "system_profiler",
)  # fmt: skip
_TRUST = (CERTAIN, HIGH, MEDIUM, LOW)
# ComfyUI comes last: it names no PCI address, and is matched with what the others have found.
_ORDER = (*_STRENGTH[2:], *_STRENGTH[:2])
_TOOLS = frozenset({"nvml", "nvidia-smi"})
_LISTS = frozenset({"sysfs", "registry"})
_SAME = 0.08
"""Sources may differ by this share on how much memory one GPU has: some leave out a reserve."""


def merge(found: Iterable[Device]) -> tuple[Device, ...]:
    """Return each GPU once: those that a ComfyUI runs on first, then the larger ones."""
    groups: list[list[Device]] = []
    for device in sorted(map(_sane, found), key=lambda d: _ORDER.index(d.source)):
        group = _group(device, groups)
        if group is None:
            groups.append([device])
        else:
            group.append(device)
    whole = [_one(group) for group in _plausible(groups)]
    return tuple(sorted(whole, key=lambda d: (not d.comfyui, -(d.budget_bytes or 0))))


def doubts(devices: Iterable[Device]) -> Iterator[str]:
    """Yield what a person should know of the devices."""
    for device in devices:
        if device.vendor == NVIDIA and {device.source, *device.also} <= _LISTS:
            told = f" (driver: {device.driver})" if device.driver else ""
            yield f"{device.name} is in this machine, but NVIDIA's driver does not answer{told}"
        if device.kind == CPU and device.comfyui:
            where = f" at {device.host}" if device.host else ""
            yield f"the ComfyUI{where} runs on the processor"


def _sane(device: Device) -> Device:
    """Return a device without what cannot be: no source is believed in that."""
    total, free = _size(device.memory_total_bytes), device.memory_free_bytes
    load = device.utilisation_percent
    return replace(
        device,
        # A name goes to a terminal; one with control characters would write there at will.
        name="".join(c for c in device.name if c.isprintable())[:80].strip(),
        memory_total_bytes=total,
        memory_free_bytes=None if free is None or free < 0 else min(free, total or free),
        shared_bytes=_size(device.shared_bytes),
        utilisation_percent=load if load is not None and 0 <= load <= 100 else None,
        driver="".join(c for c in device.driver if c.isprintable())[:60],
    )


def _size(size: int | None) -> int | None:
    return size if size is not None and 0 < size < 1 << 50 else None


def _group(device: Device, groups: Sequence[list[Device]]) -> list[Device] | None:
    """Return the group of the same GPU: by PCI address, else by name, else by vendor and size."""
    others = [
        g for g in groups
        if g[0].host == device.host
        and device.source not in {d.source for d in g}
        and (g[0].kind == CPU) == (device.kind == CPU)
    ]  # fmt: skip
    if device.bus:
        same = next((g for g in others if device.bus in {d.bus for d in g}), None)
        if same is not None:
            return same
        others = [g for g in others if not any(d.bus for d in g)]
    for alike in (_named_alike, _sized_alike):
        same = next((g for g in others if any(alike(device, d) for d in g)), None)
        if same is not None:
            return same
    # DirectML tells neither name nor vendor; where there is one GPU it is that.
    return others[0] if device.vendor == OTHER and not device.name and len(others) == 1 else None


def _named_alike(one: Device, other: Device) -> bool:
    return one.vendor == other.vendor and bool(one.name) and plain(one.name) == plain(other.name)


def _sized_alike(one: Device, other: Device) -> bool:
    if one.vendor != other.vendor or one.vendor == OTHER:
        return False
    if one.vendor == APPLE:  # there is one
        return True
    sizes = one.memory_total_bytes, other.memory_total_bytes
    if sizes[0] is None or sizes[1] is None:
        return True
    # ComfyUI's own figure of a GPU in RAM counts the shared part in, and rounds it its own way.
    if one.unified and other.unified:
        return True
    return abs(sizes[0] - sizes[1]) <= _SAME * max(sizes[0], sizes[1])


def _plausible(groups: Sequence[list[Device]]) -> list[list[Device]]:
    """Leave out what only a list names while NVIDIA's own tool does not: a card that is gone, or
    that was handed to a virtual machine.
    """
    answered = any(d.source in _TOOLS for g in groups for d in g)
    return [
        g for g in groups
        if not (answered and g[0].vendor == NVIDIA and {d.source for d in g} <= _LISTS)
    ]  # fmt: skip


def _one(group: Sequence[Device]) -> Device:
    by_strength = sorted(group, key=lambda d: _STRENGTH.index(d.source))
    first, rest = by_strength[0], by_strength[1:]
    # ComfyUI tells a kind by the name alone; the driver knows.
    by_driver = [*rest, first] if first.source == "comfyui" else by_strength
    known = [d for d in by_strength if d.memory_total_bytes is not None]
    memory = min(known, key=lambda d: _TRUST.index(d.confidence), default=first)
    kind = next((d for d in by_driver if d.kind != UNKNOWN), first)
    name = next((d.name for d in by_strength if d.name), "")
    vendor = next((d.vendor for d in by_strength if d.vendor != OTHER), OTHER)
    shared = next((d.shared_bytes for d in group if d.shared_bytes is not None), None)
    # Of a unified GPU the whole may have been counted already: then nothing comes on top.
    adds = memory.shared_bytes if kind.unified else shared
    return replace(
        first,
        name=name or ("Apple GPU" if vendor == APPLE else "GPU"),
        vendor=vendor,
        kind=kind.kind,
        unified=kind.unified,
        memory_total_bytes=memory.memory_total_bytes,
        memory_free_bytes=memory.memory_free_bytes,
        shared_bytes=adds,
        confidence=memory.confidence,
        utilisation_percent=next(
            (d.utilisation_percent for d in by_strength if d.utilisation_percent is not None), None
        ),
        index=next((d.index for d in by_driver if d.index is not None), None),
        driver=next((d.driver for d in by_strength if d.driver), ""),
        bus=next((d.bus for d in by_strength if d.bus), ""),
        also=tuple(d.source for d in rest),
    )
