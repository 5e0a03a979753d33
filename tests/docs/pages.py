"""The repository's Markdown, taken apart: code in fences and in backticks, links, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^|\n\n)((?: {4}[^\n]*\n+)+)")
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def prose(self) -> str:
        """Without blocks of code."""
        return _INDENTED.sub("\n\n", _FENCE.sub("", self.text))

    def fences(self, *languages: str) -> list[str]:
        return [body for name, body in _FENCE.findall(self.text) if name in languages]

    def blocks(self) -> list[str]:
        """Shell commands and their output: fenced as sh or console, or indented."""
        indented = _INDENTED.findall(_FENCE.sub("", self.text))
        return [
            *self.fences("sh", "console", "bash"),
            *(re.sub("(?m)^    ", "", b) for b in indented),
        ]

    def inline(self) -> list[str]:
        return [code.replace("\\|", "|") for code in _INLINE.findall(self.prose)]

    def links(self) -> list[str]:
        return _LINK.findall(_INLINE.sub("", self.prose))

    def anchors(self) -> set[str]:
        """The names by which its headings can be linked, as GitHub makes them."""
        plain = (re.sub(r"[^\w\- ]", "", h.lower()) for h in _HEADING.findall(self.text))
        return {name.strip().replace(" ", "-") for name in plain}

    def section(self, heading: str) -> str:
        """What stands below a heading of the second level, up to the next one."""
        return self.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


PAGES = [Page(p) for p in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])]
NAMES = [str(page.path.relative_to(ROOT)) for page in PAGES]


def page(name: str) -> Page:
    return Page(ROOT / name)


def first_column(table: str) -> list[str]:
    """What stands in the first cell of each row, without backticks."""
    cells = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("|")]
    return [cell.strip("`") for cell in cells[2:]]
