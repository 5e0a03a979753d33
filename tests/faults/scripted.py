"""A ComfyUI for the faults that need no real one: the fake, with a way to fail at its start.

    python scripted.py --how FILE --device TYPE … --port N

FILE says what it does as it starts: good | exit | once (exit, and be good from then on) | hang |
slow (take a minute). With --lowvram, FakeMemory has memory enough.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.comfyui import FakeComfy, Prompt, play


async def script(fake: FakeComfy, prompt: Prompt) -> None:
    if "--lowvram" in sys.argv:
        prompt.graph = {
            node: {**value, "class_type": value["class_type"].replace("FakeMemory", "FakeNothing")}
            for node, value in prompt.graph.items()
        }
    await play(fake, prompt)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--how", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--port", type=int, required=True)
    modes = parser.add_mutually_exclusive_group()  # as the real one has it
    for mode in ("--highvram", "--lowvram"):
        modes.add_argument(mode, action="store_true")
    for name in ("output", "input", "temp"):
        parser.add_argument(f"--{name}-directory", type=Path)
    options, _ = parser.parse_known_args()
    how = options.how.read_text().strip()
    if how == "once":
        options.how.write_text("good")
    if how in {"exit", "once"}:
        sys.exit("scripted: told to exit at the start")
    if how in {"hang", "slow"}:
        time.sleep(60)
    temp = options.temp_directory
    fake = FakeComfy(
        script,
        port=options.port,
        output=options.output_directory,
        inputs=options.input_directory,
        temp=temp / "temp" if temp else None,
    )
    fake.device = options.device
    asyncio.run(fake.serve())


if __name__ == "__main__":
    main()
