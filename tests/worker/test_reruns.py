"""What is done for a graph when ComfyUI is at fault: once more, and never with paid nodes.

The faults are the scripted fake's; tests/faults has the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes.waits import eventually, gone
from pennyreel_comfy.session import Session
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import ErrorInfo, parse_result
from worker.support import S3, SAVE, Bench, becomes, comfy_of, node, play, request, settings_of


@pytest.fixture
def own() -> Iterator[Bench]:
    """A worker with a ComfyUI of its own, which may be ended."""
    settings = settings_of(PENNYREEL_STALL_S="0.5")
    with comfy_of(settings) as comfy:
        comfy.start()
        comfy.first_ready()
        comfy.catalogue()
        made = Bench(comfy, settings)
        yield made
        made.worker.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def runs(log: Path) -> list[str]:
    return log.read_text("utf-8").splitlines()


def test_a_job_whose_comfyui_died_is_run_once_more(own: Bench, log: Path) -> None:
    result = own.good(request({"1": node("FakeCrash", log=str(log), times=1), **SAVE}))
    assert len(runs(log)) == 2
    assert result.artifacts
    assert "started anew" in " ".join(result.warnings)
    assert own.left() == []


@pytest.mark.parametrize("kind", ["FakeCrash", "FakePaid"])
def test_a_graph_that_comfyui_died_too_early_to_get_is_run_once(
    own: Bench, log: Path, kind: str
) -> None:
    """It dies between the look at its state and the submit: nothing has run, or was paid for."""
    ready, deaths = own.comfy.ready, iter([True])

    def dying(*args: Any, **kwargs: Any) -> Session:
        session = ready(*args, **kwargs)
        if next(deaths, False):
            child = psutil.Process(own.comfy.process.pid)
            child.kill()
            eventually(lambda: gone(child))
        return session

    own.comfy.ready = dying  # type: ignore[method-assign]
    result = own.good(request({"1": node(kind, log=str(log), times=0), **SAVE}))
    assert len(runs(log)) == 1
    assert result.warnings == ()
    assert result.artifacts


def test_one_that_dies_again_is_given_up(own: Bench, log: Path) -> None:
    problem = own.bad(request({"1": node("FakeCrash", log=str(log))}))
    assert (problem.code, problem.retryable) == ("comfy_crashed", True)
    assert len(runs(log)) == 2
    assert own.good(request()).artifacts


def test_a_graph_with_paid_nodes_is_never_run_a_second_time(own: Bench, log: Path) -> None:
    problem = own.bad(request({"1": node("FakePaid", log=str(log))}))
    assert (problem.code, problem.retryable) == ("comfy_crashed", False)
    assert "may have run" in problem.hint
    assert len(runs(log)) == 1
    assert own.good(request()).artifacts


def test_a_full_gpu_is_emptied_and_the_job_run_again(own: Bench, log: Path) -> None:
    pid = own.comfy.process.pid
    result = own.good(request({"1": node("FakeMemory", log=str(log), times=1), **SAVE}))
    assert len(runs(log)) == 2
    assert "unloaded" in " ".join(result.warnings)
    assert own.fake()["freed"] == [{"unload_models": True, "free_memory": True}]
    assert own.comfy.process.pid == pid


def test_on_a_cpu_there_is_no_smaller_mode_to_try(own: Bench, log: Path) -> None:
    assert own.bad(request({"1": node("FakeMemory", log=str(log))})).code == "out_of_memory"
    assert len(runs(log)) == 2


def test_a_gpu_that_stays_full_is_used_in_the_low_memory_mode_for_this_kind_of_job_alone(
    log: Path,
) -> None:
    settings = settings_of(PENNYREEL_COMFYUI_OPTIONS='["--device", "cuda"]')
    with comfy_of(settings) as comfy:
        bench = Bench(comfy, settings)
        bench.good(request())
        graph = {"1": node("FakeMemory", log=str(log), times=2), **SAVE}
        result = bench.good(request(graph))
        assert ["--lowvram" in line for line in runs(log)] == [False, False, True]
        assert "low-memory mode" in " ".join(result.warnings)
        bench.good(request(graph))  # at once in the mode that it needs
        assert ["--lowvram" in line for line in runs(log)][3:] == [True]
        bench.good(request())
        bench.good(request({"1": node("FakeCrash", log=str(log), times=0), **SAVE}))
        assert "--lowvram" not in runs(log)[-1]
        bench.worker.close()


def test_the_low_memory_mode_takes_the_place_of_the_operators_own() -> None:
    """ComfyUI takes one of them at most, and does not start with two."""
    wanted = '["--highvram", "--fast", "--gpu-only"]'
    with comfy_of(settings_of(PENNYREEL_COMFYUI_OPTIONS=wanted)) as comfy:
        assert {"--highvram", "--fast", "--gpu-only"} < set(comfy._command(1))
        comfy.shrink("large")
        comfy.ready(Deadline(60), kind="large")
        small = list(comfy._command(1))
        assert "--fast" in small
        assert {"--highvram", "--gpu-only", "--lowvram"} & set(small) == {"--lowvram"}
        comfy.ready(Deadline(60), kind="another")
        assert "--highvram" in comfy._command(1)


def test_where_the_operator_has_chosen_a_smaller_mode_there_is_none_to_try(log: Path) -> None:
    with comfy_of(
        settings_of(PENNYREEL_COMFYUI_OPTIONS='["--device", "cuda", "--novram"]')
    ) as comfy:
        bench = Bench(comfy, settings_of())
        problem = bench.bad(request({"1": node("FakeMemory", log=str(log))}))
        assert (problem.code, len(runs(log))) == ("out_of_memory", 2)
        bench.worker.close()


def test_a_worker_where_job_after_job_crashes_asks_for_its_replacement(own: Bench) -> None:
    crash = {"1": node("FakeCrash")}
    own.bad(request(crash))
    own.bad(request(crash))
    own.good(request())  # so it was the jobs
    assert [own.run(request(crash)).keys() for _ in range(3)] == [
        {"error"},
        {"error"},
        {"error", "refresh_worker"},
    ]


def test_a_job_without_progress_is_ended_and_comfyui_replaced(own: Bench) -> None:
    pid = own.comfy.process.pid
    problem = own.bad(request({"1": node("FakeStuck", seconds=60)}))
    assert (problem.code, problem.retryable) == ("stalled", True)
    assert "0.5 s at node 1" in problem.message
    result = own.good(request())
    assert result.artifacts
    assert result.warnings == (), "the next job does not have to find out that it hangs"
    assert own.comfy.process.pid != pid


def test_a_slow_job_that_makes_progress_is_left_alone(own: Bench) -> None:
    result = own.good(request({"1": node("FakeSleep", seconds=1.5), **SAVE}))
    assert result.warnings == ()


def test_a_repeat_of_a_paid_attempt_that_was_cancelled_is_not_run(own: Bench, log: Path) -> None:
    graph = {"1": node("FakePaid", log=str(log), times=0), "2": node("FakeSleep", seconds=20)}

    async def story() -> dict[str, Any]:
        body = request(graph)
        first = asyncio.create_task(own.job(body))
        await becomes(lambda: own.fake()["running"])
        repeat = asyncio.create_task(own.job(dict(body)))
        await asyncio.sleep(0)
        first.cancel()
        return await repeat

    before = len(own.prompts())
    problem = ErrorInfo.decode(play(story())["error"])
    assert (problem.code, problem.retryable) == ("cancelled", False)
    assert len(own.prompts()) == before + 1


def test_a_job_whose_successor_needs_another_mode_still_gets_its_result(log: Path) -> None:
    """The successor restarts ComfyUI: not before the former one has read how it ended."""
    settings = settings_of(PENNYREEL_COMFYUI_OPTIONS='["--device", "cuda"]')
    with comfy_of(settings) as comfy:
        bench = Bench(comfy, settings)
        bench.good(request())
        graph = {"1": node("FakeMemory", log=str(log), times=2), **SAVE}
        bench.good(request(graph))  # from now on this kind runs in the low-memory mode

        async def both() -> list[dict[str, Any]]:
            plain = request({"1": node("FakeSleep", seconds=0.5), **SAVE})
            return list(await asyncio.gather(bench.job(plain), bench.job(request(graph))))

        for reply in play(both()):
            assert parse_result(reply).warnings == ()
        bench.worker.close()


def test_a_paid_attempt_that_comes_again_after_its_worker_was_lost_is_not_run(
    make_bench: Callable[..., Bench], s3: S3, log: Path
) -> None:
    graph = {"1": node("FakePaid", log=str(log)), **SAVE}
    body = request(graph)
    first = make_bench(**s3.env())
    assert first.bad(body).code == "comfy_crashed"
    again = make_bench(**s3.env()).bad(dict(body))
    assert (again.code, again.retryable) == ("unknown_outcome", False)
    assert len(runs(log)) == 1
    other = request({"1": node("FakePaid", log=str(log), times=0), **SAVE})
    assert first.good(other).artifacts
    assert first.good(dict(other)).replayed


def test_no_graph_is_run_that_could_not_be_looked_at(
    own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI lives, and does not say what its nodes are: what they may open is not known."""
    before = len(own.prompts())
    monkeypatch.setattr(own.comfy, "catalogue", lambda **_: None)
    problem = own.bad(request())
    assert (problem.code, problem.retryable) == ("comfy_crashed", True)
    assert "which nodes" in problem.message
    assert len(own.prompts()) == before
    monkeypatch.undo()
    assert own.good(request()).artifacts
