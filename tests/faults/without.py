"""The worker with ways to take its handling of faults out: `python without.py SWITCH`.

While the file SWITCH names a function of `handlings.HANDLINGS`, what stands in for it is called.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.handlings import HANDLINGS


def wrapped(name: str, original: Callable[..., Any], other: Callable[..., Any], file: Path) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        off = file.read_text() == name
        return (other if off else original)(*args, **kwargs)

    # One function may be wrapped more than once: in different parts.
    call.original = getattr(original, "original", original)  # type: ignore[attr-defined]
    return call


def main() -> None:
    file = Path(sys.argv.pop(1))
    for name, other in HANDLINGS.items():
        module, _, path = name.partition("#")[0].partition(":")
        owner: Any = importlib.import_module(module)
        *inner, attribute = path.split(".")
        for part in inner:
            owner = getattr(owner, part)
        original = vars(owner)[attribute]
        if isinstance(original, staticmethod):
            setattr(owner, attribute, staticmethod(wrapped(name, original.__func__, other, file)))
        else:
            setattr(owner, attribute, wrapped(name, original, other, file))
    runpy.run_module("pennyreel_worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
