"""Each of the usual complaints has a test that is there, and the page says which."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pennyreel_contract import ErrorInfo
from worker.complaints import COMPLAINTS, PAGE, Complaint, address, functions, renewed
from worker.support import FAKE, Bench, comfy_of, request, settings_of

BLACKWELL = (
    "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current"
    " PyTorch installation."
)
DRIVER = "RuntimeError: The NVIDIA driver on your system is too old (found version 12020)."
UNUSABLE = {
    "blackwell": (BLACKWELL, "NVIDIA GeForce RTX 5090, sm_120"),
    "driver": (DRIVER, "driver"),
}


@pytest.mark.parametrize("one", COMPLAINTS.values(), ids=COMPLAINTS)
def test_each_complaint_has_tests_that_are_there(one: Complaint) -> None:
    assert one.threads
    assert all(address(thread) for thread in one.threads)
    assert one.tests
    for test in one.tests:
        file, _, name = test.partition("::")
        assert name.startswith("test_")
        assert name in functions(file), test


def test_they_are_numbered_without_a_gap() -> None:
    assert list(COMPLAINTS) == list(range(1, 16))


def test_the_page_has_the_table_as_it_is() -> None:
    text = PAGE.read_text("utf-8")
    assert text == renewed(text), "run: python tests/worker/complaints.py"


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_gpu_that_torch_cannot_use_is_named_before_any_job_runs(
    tmp_path: Path, case: str
) -> None:
    """torch only warns: such a ComfyUI starts and answers, and would fail each job."""
    line, named = UNUSABLE[case]
    program = tmp_path / "main.py"
    program.write_text(
        f"import runpy\nprint({line!r}, flush=True)\n"
        f"runpy.run_path({str(FAKE)!r}, run_name='__main__')\n"
    )
    settings = settings_of(PENNYREEL_COMFYUI_COMMAND=json.dumps([sys.executable, str(program)]))
    with comfy_of(settings) as comfy:
        bench = Bench(comfy, settings)
        try:
            reply = bench.run(request())
            assert bench.prompts() == []
        finally:
            bench.worker.close()
    problem = ErrorInfo.decode(reply["error"])
    assert problem.code == "comfy_start_failed"
    assert named in problem.message
    assert problem.hint
    assert reply.get("refresh_worker") is True, "another start on this machine would be vain"
