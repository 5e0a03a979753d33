"""Runs the worker and writes, in order, what it started and imported: AUDIT start, AUDIT runpod."""

import runpy
import sys

seen: set[str] = set()


def hook(event: str, args: tuple[object, ...]) -> None:
    what = ""
    if event == "subprocess.Popen" and "comfyui.py" in str(args[1]):
        what = "start"
    elif event == "import" and args[0] in {"runpod", "boto3"}:
        what = str(args[0])
    if what and what not in seen:
        seen.add(what)
        sys.stderr.write(f"AUDIT {what}\n")


sys.addaudithook(hook)
sys.argv = ["pennyreel_worker", *sys.argv[1:]]
runpy.run_module("pennyreel_worker", run_name="__main__", alter_sys=True)
