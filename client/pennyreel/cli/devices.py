"""`pennyreel devices`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pennyreel.cli.common import echo_json, interrupts, say

if TYPE_CHECKING:
    from pennyreel.fleet.devices import Detector, Device, Devices

_NO_GPU = (
    "pennyreel backends         what can run jobs without one",
    "pennyreel comfyui install  ComfyUI runs on the processor, too, slowly",
    "PENNYREEL_DEVICES='NAME:24GB' pennyreel devices  if there is one that was not seen",
)


@click.command("devices")
@click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    default=2.0,
    show_default=True,
    metavar="S",
    type=click.FloatRange(min=0.2),
    help="With --watch: seconds between two looks.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="As one JSON object; one a look with --watch."
)
def command(watch: bool, interval_s: float, as_json: bool) -> None:  # fmt: skip
    """Show this machine's GPUs with their memory and load, its processor and its RAM.

    Takes two seconds at most and costs nothing.
    """
    from pennyreel import config
    from pennyreel.fleet.devices import detector

    looking = detector(config.load())
    if watch:
        with interrupts():
            try:
                _watch(looking, interval_s, as_json=as_json)
            except KeyboardInterrupt:
                return
    else:
        _show(looking.detect(), as_json=as_json)


def _show(found: Devices, *, as_json: bool) -> None:
    if as_json:
        echo_json(found.to_json())
        return
    for line in _lines(found):
        click.echo(line)
    for problem in found.problems:
        say(f"note: {problem}")


def _watch(looking: Detector, interval_s: float, *, as_json: bool) -> None:
    never = threading.Event()
    if as_json or not sys.stdout.isatty():
        while True:
            _show(looking.detect(), as_json=as_json)
            never.wait(interval_s)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            found = looking.detect()
            notes = [f"note: {problem}" for problem in found.problems]
            live.update(Text("\n".join([*_lines(found), *notes])), refresh=True)
            never.wait(interval_s)


def _lines(found: Devices) -> Iterator[str]:
    """Yield the table, then the processor, the RAM, and what to do without a GPU."""
    rows = [("", "NAME", "VENDOR", "FREE / TOTAL", "LOAD", "TOLD BY")]
    rows += [_row(device) for device in found.devices]
    if found.devices:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    else:
        yield "no GPU was found"
    host = found.host
    counts = [f"{n} {what}" for n, what in ((host.cores, "cores"), (host.threads, "threads")) if n]
    yield f"CPU  {', '.join([host.cpu or 'unknown', *counts])}"
    yield f"RAM  {_memory(host.ram_free_bytes, host.ram_total_bytes)}"
    if not found.gpus:
        yield from (f"next: {line}" for line in _NO_GPU)


def _row(device: Device) -> tuple[str, str, str, str, str, str]:
    memory = _memory(device.memory_free_bytes, device.memory_total_bytes)
    if device.memory_total_bytes is None and device.unified:
        memory = "some of the RAM"
    elif device.shared_bytes and device.vendor == "amd":
        memory += f" + {_gb(device.shared_bytes)} GB shared"
    elif device.unified:
        memory += " of the RAM"
    load = "" if device.utilisation_percent is None else f"{device.utilisation_percent} %"
    sources = "+".join([device.source, *device.also])
    mark = "" if device.index is None else str(device.index)
    name = f"{device.name} at {device.host}" if device.host else device.name
    return (mark, name, device.vendor, memory, load, f"{sources}, {device.confidence}")


def _memory(free: int | None, total: int | None) -> str:
    if total is None:
        return "unknown"
    return f"{'?' if free is None else _gb(free)} / {_gb(total)} GB"


def _gb(size: int) -> str:
    """Return binary gigabytes, as GPUs are sold."""
    return f"{size / (1 << 30):.1f}"
