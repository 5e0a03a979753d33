"""Runs the worker by a version of RunPod's SDK that it was never tried with, as it believes.

It says so when the SDK's loop runs no more jobs: what is taken after that, the SDK loses.
"""

import runpy
import sys
from typing import Any

import runpod
from runpod.serverless.modules.rp_scale import JobScaler

ENDED = "the loop runs no more jobs"
_run_jobs = JobScaler.run_jobs


async def run_jobs(self: Any, session: Any) -> None:
    await _run_jobs(self, session)
    sys.stderr.write(f"{ENDED}\n")


if __name__ == "__main__":
    runpod.__version__ = "9.9.9"
    JobScaler.run_jobs = run_jobs
    sys.argv = ["pennyreel_worker", *sys.argv[1:]]
    runpy.run_module("pennyreel_worker", run_name="__main__", alter_sys=True)
