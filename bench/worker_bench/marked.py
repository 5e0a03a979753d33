"""Runs the worker and writes down when RunPod's SDK was imported. A program.

    BENCH_SDK_MARKS=FILE python marked.py -m pennyreel_worker

The moment is that at which the outermost import of `runpod` returned, CLOCK_MONOTONIC.
"""

from __future__ import annotations

import builtins
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

_import = builtins.__import__


def _watched(name: str, *args: Any, **kwargs: Any) -> Any:
    module = _import(name, *args, **kwargs)
    if name.partition(".")[0] == "runpod" and _loaded() and builtins.__import__ is _watched:
        builtins.__import__ = _import
        mark = {"pid": os.getpid(), "at": time.monotonic()}
        with Path(os.environ["BENCH_SDK_MARKS"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(mark) + "\n")
    return module


def _loaded() -> bool:
    """Whether the package is whole: a module inside it may import its neighbours on the way."""
    module = sys.modules.get("runpod")
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def main() -> None:
    builtins.__import__ = _watched
    runpy.run_module(sys.argv[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
