"""Writes the table of docs/reliability.md from the cases: `python tests/faults/table.py`.

`test_table.py` fails where the page is not what this would write.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import (
    cases_comfyui,
    cases_disk,
    cases_services,
    cases_starts,
    cases_stops,
    cases_wire,
)
from faults.case import Case

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- begin generated: faults -->", "<!-- end generated: faults -->"
PARTS = {
    "ComfyUI is killed, hangs, or has no memory": cases_comfyui.CASES,
    "ComfyUI does not start": cases_starts.CASES,
    "The connection to ComfyUI": cases_wire.CASES,
    "The disk": cases_disk.CASES,
    "S3, inputs, the platform": cases_services.CASES,
    "The worker is stopped or killed": cases_stops.CASES,
}


def all_cases() -> list[Case]:
    return [case for cases in PARTS.values() for case in cases]


def table() -> str:
    lines = []
    for title, cases in PARTS.items():
        lines += ["", f"### {title}", ""]
        lines += [
            "| Fault | What is hurt | How | The job's end | Within | Without this it fails |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {c.name} | {c.process} | {c.fault} | {c.expect} | {c.deadline_s:g} s "
            f"| `{handling(c)}` |"
            for c in cases
        ]
    return "\n".join(lines[1:])


def handling(case: Case) -> str:
    """The function's name, as a reader looks for it."""
    return case.handling.partition("#")[0].rpartition(":")[2]


def renewed(text: str) -> str:
    """Return the page with its table written anew."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    assert pattern.search(text), "the page has no place for the table"
    count = f"{BEGIN}\n\n{len(all_cases())} cases.\n\n{table()}\n\n{END}"
    return pattern.sub(lambda _: count, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
