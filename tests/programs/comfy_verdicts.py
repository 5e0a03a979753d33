"""Let ComfyUI's own code judge graphs, without a server and without running any.

    <ComfyUI's python> comfy_verdicts.py COMFY_DIR [ComfyUI's arguments] < GRAPHS

It prints /object_info as one line; then, for each line of JSON that it is given, the verdict of
execution.validate_prompt on it: whether it is accepted, the error's type, and the errors by node as
[type, input]. A thousand graphs take a second or two.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any


def main() -> None:
    folder = sys.argv.pop(1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints
    os.chdir(folder)
    sys.path.insert(0, folder)
    import main as comfyui  # ComfyUI's main.py

    loop, server, _ = comfyui.start_comfyui()
    logging.disable()
    print(_object_info(loop, server), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_verdict(loop, json.loads(line))), file=answers, flush=True)


def _object_info(loop: asyncio.AbstractEventLoop, server: Any) -> str:
    route = next(r for r in server.routes if r.method == "GET" and r.path == "/object_info")
    text: str = loop.run_until_complete(route.handler(None)).text
    return text


def _verdict(loop: asyncio.AbstractEventLoop, graph: Any) -> dict[str, Any]:
    import execution  # ComfyUI's execution.py

    try:
        accepted, error, outputs, nodes = loop.run_until_complete(
            execution.validate_prompt("x", graph, None)
        )
    except Exception as problem:  # noqa: BLE001 - the server answers with status 500
        return {"accepted": False, "type": repr(problem), "outputs": [], "nodes": {}}
    told = {
        key: [[e["type"], e["extra_info"].get("input_name")] for e in node["errors"]]
        for key, node in nodes.items()
    }
    kind = error["type"] if error else None
    return {"accepted": accepted, "type": kind, "outputs": outputs, "nodes": told}


if __name__ == "__main__":
    main()
