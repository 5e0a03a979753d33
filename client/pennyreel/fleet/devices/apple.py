"""Apple's own GPUs, which use the machine's RAM: sysctl, and ioreg for how busy they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pennyreel.fleet.devices.model import APPLE, GIB, INTEGRATED, LOW, MEDIUM, Device, Host
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed, Run, number

SYSCTL = "/usr/sbin/sysctl"
IOREG = ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
NAMES = (
    "hw.memsize",
    "machdep.cpu.brand_string",
    "hw.optional.arm64",
    "sysctl.proc_translated",
    "iogpu.wired_limit_mb",
)

_BUSY = re.compile(r'"Device Utilization %"\s*=\s*(\d{1,3})\b')


class AppleProbe:
    """Runs sysctl."""

    name = "sysctl"

    def __init__(self, run: Run, host: Callable[[], Host]) -> None:
        """`host` tells how much of the RAM is free."""
        self._run = run
        self._host = host

    def look(self) -> list[Device]:
        """Return the GPU of Apple's chip; raises NotHere on a Mac with Intel's."""
        told = parse(self._run([SYSCTL, "-i", *NAMES]))
        chip = told.get("machdep.cpu.brand_string", "")
        # Under Rosetta Python itself believes that it runs on Intel's. UNVERIFIED: sysctl, which
        # Python starts, tells 1 then; hw.optional.arm64 tells the chip either way.
        translated = told.get("sysctl.proc_translated") == "1"
        if not (translated or told.get("hw.optional.arm64") == "1" or chip.startswith("Apple")):
            raise NotHere("Apple's GPU")
        ram = number(told.get("hw.memsize"))
        if ram is None:
            raise ProbeFailed("sysctl does not tell the memory")
        most = budget(ram, number(told.get("iogpu.wired_limit_mb")))
        free = self._host().ram_free_bytes
        virtual = "virtual" in chip.lower()
        return [
            Device(
                name=chip or "Apple GPU",
                vendor=APPLE,
                kind=INTEGRATED,
                memory_total_bytes=most,
                memory_free_bytes=None if free is None else min(free, most),
                unified=True,
                utilisation_percent=self._busy(),
                index=0,
                source=self.name,
                confidence=LOW if virtual else MEDIUM,
                driver="Metal, but Python runs under Rosetta" if translated else "Metal",
            )
        ]

    def _busy(self) -> int | None:
        try:
            found = [int(n) for n in _BUSY.findall(self._run(IOREG))]
        except ProbeFailed:
            return None
        return max((n for n in found if n <= 100), default=None)


def budget(ram: int, wired_limit_mb: int | None = None) -> int:
    """Return what Metal lets one program use of the RAM: two thirds, three quarters of much.

    As `recommendedMaxWorkingSetSize` says: 10922 of 16384 MB, 21845 of 32768, 49152 of 65536
    (ggml-org/llama.cpp 2011 and 1870, abetlen/llama-cpp-python 687). UNVERIFIED: from 36 GB on it
    is three quarters. A limit that the user has set by sysctl goes before.
    """
    if wired_limit_mb and wired_limit_mb << 20 <= ram:
        return wired_limit_mb << 20
    return ram * 3 // 4 if ram >= 36 * GIB else ram * 2 // 3


def parse(text: str) -> Mapping[str, str]:
    """Return what sysctl printed: `name: value`, one a line."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
