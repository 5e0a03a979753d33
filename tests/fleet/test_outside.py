"""Real commands: what they print, how they fail, and that none is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fakes.waits import eventually, gone
from pennyreel.fleet.devices import outside
from pennyreel.fleet.devices.names import is_integrated, plain, vendor_of
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed, number, read, run_command
from pennyreel.fleet.devices.pci import bus_of

# A program that looks by a command that hangs, and ends while that one still runs.
LOOKS = """
import sys
from pennyreel.fleet.devices.detector import Detector
from pennyreel.fleet.devices.model import Host
from pennyreel.fleet.devices.outside import run_command

HANGS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"

class Hangs:
    name = "nvidia-smi"
    def look(self):
        return run_command([sys.executable, "-c", HANGS, sys.argv[1]])

print(Detector([Hangs()], Host).detect().silent[0])
"""


def test_the_output_of_a_command_is_its_text() -> None:
    assert run_command([sys.executable, "-c", "print('ä'.encode())"]).startswith("b'")
    assert (
        run_command([sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'\\xff')"])
        == "\ufffd"
    )


def test_a_command_that_is_not_there_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(NotHere):
        run_command([str(tmp_path / "nvidia-smi")])


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(ProbeFailed, match="ended with 9: no driver"):
        run_command([sys.executable, "-c", "import sys; print('no driver'); sys.exit(9)"])


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "COMMAND_S", 0.3)
    with pytest.raises(ProbeFailed, match="took longer"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not outside._children


def test_a_program_that_ends_before_its_command_leaves_none_behind(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, str(file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "nvidia-smi\n", "")
    pid = int(file.read_text("utf-8"))
    eventually(lambda: not psutil.pid_exists(pid) or gone(psutil.Process(pid)))


@pytest.mark.parametrize(
    ("name", "vendor", "inside"),
    [
        ("NVIDIA GeForce RTX 3090", "nvidia", False),
        ("A100-SXM4-80GB", "nvidia", False),
        ("L40S", "nvidia", False),
        ("NVIDIA GB10", "nvidia", False),
        ("AMD Radeon RX 7900 XTX", "amd", False),
        ("AMD Radeon RX 6800M", "amd", False),
        ("AMD Radeon(TM) Graphics", "amd", True),
        ("AMD Radeon(TM) RX Vega 10 Graphics", "amd", True),
        ("Radeon RX Vega 64", "amd", False),
        ("AMD Radeon 780M Graphics", "amd", True),
        ("Radeon 8060S Graphics", "amd", True),
        ("AMD Instinct MI300X", "amd", False),
        ("Intel(R) Arc(TM) A770 Graphics", "intel", False),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "intel", False),
        ("Arc A770", "intel", False),
        ("Intel(R) Arc(TM) 140V GPU (16GB)", "intel", True),
        ("Intel(R) UHD Graphics 770", "intel", True),
        ("Intel(R) Iris(R) Xe Graphics", "intel", True),
        ("Apple M3 Max", "apple", True),
        ("Moore Threads MTT S80", "other", False),
    ],
)
def test_a_name_tells_the_maker_and_whether_it_is_inside_the_processor(
    name: str, vendor: str, inside: bool
) -> None:
    assert vendor_of(name) == vendor
    assert is_integrated(vendor, name) is inside


def test_two_sources_words_for_one_gpu_compare() -> None:
    assert plain("NVIDIA GeForce RTX 4090") == plain("GeForce RTX 4090")
    assert plain("Intel(R) Arc(TM) A770 Graphics") == plain("Intel Arc A770")
    assert plain("GeForce RTX 4080") != plain("GeForce RTX 4080 SUPER")


def test_addresses_and_numbers_are_read_strictly(tmp_path: Path) -> None:
    assert bus_of("00000000:4E:00.0") == bus_of("0000:4e:00.0") == "0000:4e:00.0"
    assert bus_of("N/A") == bus_of(None) == ""
    assert (number("0x1002"), number(" 12\n"), number("-1"), number("1e3"), number("")) == (
        0x1002, 12, None, None, None,
    )  # fmt: skip
    assert number("9" * 10000) is None
    assert read(tmp_path) is None
