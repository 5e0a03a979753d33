"""The scripted ComfyUI as a child that no graph can break: a node that raises is a failed job."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # its environment is not the tests'

from fakes.comfyui import FakeComfy, Prompt, play


async def script(fake: FakeComfy, prompt: Prompt) -> None:
    try:
        await play(fake, prompt)
    except Exception as problem:  # noqa: BLE001 - the real one takes every exception of a node
        said = {"node_id": "?", "node_type": "?", "exception_type": type(problem).__name__}
        fake.finish(prompt, "error", [["execution_error", {**said, "exception_message": "x"}]])
        await fake.send(prompt, "execution_error")
        await fake.send(prompt, "executing", node=None)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--output-directory", "--input-directory", "--temp-directory"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()
    fake = FakeComfy(
        script,
        port=options.port,
        output=options.output_directory,
        inputs=options.input_directory,
        temp=options.temp_directory / "temp",
    )
    asyncio.run(fake.serve())


if __name__ == "__main__":
    main()
