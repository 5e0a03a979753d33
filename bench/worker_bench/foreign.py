"""Runs another worker's handler: a program.

    python foreign.py serve HANDLER    by RunPod's SDK, as its own image would
    python foreign.py time HANDLER     job by job from standard input; answers seconds on its output

HANDLER is a file, or a module's name, that has `handler(job)`. Its ComfyUI is BENCH_COMFY_HOST; a
module attribute COMFY_HOST (the stock worker's is a constant) is set to that. A file's neighbours
can be imported, and those in `src` beside it: the stock worker's image puts both into one folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType


def main() -> None:
    mode, named = sys.argv[1:3]
    del sys.argv[1:]  # the SDK reads the command line, too
    answers = sys.stdout
    if mode == "time":
        sys.stdout = sys.stderr  # whatever it prints, its import included, is no answer
    module = _load(named)
    if hasattr(module, "COMFY_HOST"):
        module.COMFY_HOST = os.environ["BENCH_COMFY_HOST"]
    if mode == "serve":
        import runpod  # noqa: PLC0415 - only where it is needed

        runpod.serverless.start({"handler": module.handler})
        return
    for line in sys.stdin:
        job = json.loads(line)
        began = time.perf_counter()
        answer = module.handler(job)
        spent = time.perf_counter() - began
        print(
            json.dumps({"seconds": spent, "error": answer.get("error")}), file=answers, flush=True
        )


def _load(named: str) -> ModuleType:
    path = Path(named)
    if not path.is_file():
        return importlib.import_module(named)
    folder = path.resolve().parent
    sys.path[:0] = [str(folder), str(folder / "src")]
    spec = importlib.util.spec_from_file_location("foreign_handler", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{named} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
