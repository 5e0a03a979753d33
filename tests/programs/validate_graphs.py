"""Have ComfyUI's own code judge graphs, and run none of them.

    <ComfyUI's python> validate_graphs.py COMFY_DIR WEB_DIR SCRATCH_DIR < GRAPHS > VERDICTS

A graph a line, as JSON; for each comes a line: [whether it may run, error, errors by node].
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any


async def main() -> None:
    folder, web, scratch = sys.argv[1:]
    os.chdir(folder)
    sys.path.insert(0, folder)
    folders = [f"--{kind}-directory" for kind in ("user", "temp", "output", "input")]
    sys.argv = ["main.py", "--cpu", "--front-end-root", web]
    sys.argv += [word for option in folders for word in (option, scratch)]
    import comfy.options

    comfy.options.enable_args_parsing()
    # First: `utils` is a common name, and a node pack may bring its own.
    importlib.import_module("utils.extra_config")
    import execution
    import nodes
    import server

    server.PromptServer(asyncio.get_running_loop())
    await nodes.init_extra_nodes()
    for line in sys.stdin:
        print(json.dumps(await verdict(execution, json.loads(line)), default=str), flush=True)


async def verdict(execution: Any, graph: dict[str, Any]) -> list[Any]:
    good, problem, _, nodes = await execution.validate_prompt("p", graph, None)
    errors = {
        key: [(e["type"], e["extra_info"].get("input_name")) for e in entry["errors"]]
        for key, entry in (nodes or {}).items()
    }
    return [bool(good), problem, errors]


asyncio.run(main())
