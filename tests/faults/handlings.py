"""The functions that the cases depend on, and what the worker would be without each.

A key names a function of the worker (`#` and what of it); its value is what stands in for it.
`without.py` puts all of them into a worker, where each is used while the switch's file names it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _false(*_: Any, **__: Any) -> bool:
    return False


async def _later_nothing(*_: Any, **__: Any) -> None:
    return None


def _no_limit_of_reruns(execution: Any, problem: PennyreelError, tried: list[str]) -> str | None:
    remedy: str | None = type(execution)._remedy.original(execution, problem, [])
    return remedy if len(tried) < 5 else None


def _unpaid(execution: Any, problem: PennyreelError, tried: list[str]) -> str | None:
    execution.paid = False
    remedy: str | None = type(execution)._remedy.original(execution, problem, tried)
    return remedy


def _plain_failure(data: Any) -> PennyreelError:
    return error(Code.EXECUTION_FAILED, str(data.get("exception_message")))


def _no_grace(run: Any, *args: Any) -> Any:
    run._session.down_grace_s = 0.0
    return type(run)._wait.original(run, *args)


def _only_when_told(run: Any, seconds: float, deadline: Deadline, cancel: CancelToken) -> None:
    """No polling: the next look is when the websocket says so."""
    with run._changed:
        while not run._look and run._problem is None and not cancel.cancelled:
            if not run._changed.wait(deadline.left(1.0)) and deadline.expired:
                break
        run._look = False


def _one_connection(socket: Any) -> None:
    """No second connection."""
    if socket._socket is not None:
        socket._closing.wait(600)
    type(socket)._connect.original(socket)


async def _post_once(scaler: Any, session: Any, result: dict[str, Any], job: Any) -> int | None:
    from runpod.serverless.modules import rp_http

    from pennyreel_worker.loop import _json

    url = rp_http.JOB_DONE_URL.replace("$ID", str(job["id"])) + "&isStream=false"
    status: int | None = (await scaler._try_post(session, url, _json(result), {}))[0]
    return status


async def _refusal_untold(scaler: Any, session: Any, result: dict[str, Any], job: Any) -> None:
    await scaler._send(session, result, job)


async def _unconfirmed_is_failed(scaler: Any, session: Any, result: Any, job: Any) -> None:
    """Take an answer that was lost for a result that was lost."""
    if await _post_once(scaler, session, result, job) is None:
        problem = error(Code.RESULT_REFUSED, "the post was not confirmed")
        await _post_once(scaler, session, {"error": problem.info.encode()}, job)


async def _dies_of_a_poll(scaler: Any, session: Any) -> list[Any]:
    return list(await scaler.jobs_fetcher(session, 1) or ())


async def _dies_of_a_stop_poll(scaler: Any, session: Any) -> None:
    while True:
        for job_id in await scaler.stop_signals_fetcher(session):
            await scaler.stop_job(job_id)


async def _dies_of_a_progress_post(reporter: Any) -> None:
    while not reporter._closed:
        await reporter._news.wait()
        reporter._news.clear()
        if reporter._pending:
            with contextlib.suppress(asyncio.CancelledError):
                await reporter._post(reporter._pending.pop(0).wire())


def _untranslated(problem: Exception, _doing: str) -> Exception:
    return problem


def _as_it_came(_cutter: Any, problem: Exception) -> Exception:
    return problem


def _without_a_limit(
    _store: Any, _doing: str, start: Callable[[Any], Any], _deadline: Any, _cancel: Any
) -> None:
    from pennyreel_worker.storage import _Watch

    start(_Watch()).result()


async def _polls_without_pause(scaler: Any, session: Any) -> list[Any]:
    with contextlib.suppress(Exception):
        return list(await asyncio.wait_for(scaler.jobs_fetcher(session, 1), 90) or ())
    return []


async def _stop_unremembered(scaler: Any, job_id: str) -> bool:
    known = scaler.jobs_tasks.get(job_id)
    return bool(known and known.cancel())


async def _no_drain(scaler: Any) -> None:
    for task in list(scaler.jobs_tasks.values()):
        task.cancel()


@contextlib.contextmanager
def _no_limit(_deadline: Deadline, _cancel: CancelToken) -> Iterator[None]:
    yield


def _whole_lines(output: Iterable[bytes]) -> Iterator[str]:
    for line in output:
        yield line.decode("utf-8", "replace").rstrip()


def _both_modes(comfy: Any, command: list[str]) -> list[str]:
    return [*command, "--lowvram"] if comfy._small else command


def _for_ever(_job: Any) -> float:
    return 1e9


HANDLINGS: dict[str, Callable[..., Any]] = {
    # ComfyUI
    "pennyreel_worker.comfy:Comfy._revive": _nothing,
    "pennyreel_worker.comfy:Comfy.condemn": _nothing,
    "pennyreel_worker.comfy:Comfy.shrink": _nothing,
    "pennyreel_comfy.waiting:CancelToken.cancel": _nothing,
    "pennyreel_worker.comfy:Comfy._in_mode": _both_modes,
    "pennyreel_worker.comfy:_tied": list,
    "pennyreel_worker.execution:_almost_within": _no_limit,
    "pennyreel_comfy.process:lines": _whole_lines,
    "pennyreel_worker.execution:Execution._remedy": _nothing,
    "pennyreel_worker.execution:Execution._remedy#limit": _no_limit_of_reruns,
    "pennyreel_worker.execution:Execution._remedy#paid": _unpaid,
    "pennyreel_comfy.session:execution_failure": _plain_failure,
    "pennyreel_comfy.session:Run._check_stall": _nothing,
    "pennyreel_comfy.session:Run._wait": _no_grace,
    "pennyreel_comfy.session:Run._sleep": _only_when_told,
    "pennyreel_comfy.session:Session._known": _false,
    "pennyreel_comfy.eventsocket:EventSocket._connect": _one_connection,
    # the worker
    "pennyreel_worker.app:Worker.breaks": _nothing,
    "pennyreel_worker.app:Worker.give_up": _nothing,
    "pennyreel_worker.app:Worker._judge": _nothing,
    "pennyreel_worker.app:Worker._patience_s": _for_ever,
    "pennyreel_comfy.process:ComfyProcess._too_slow": _nothing,
    "pennyreel_worker.lifecycle:_end_forks_with_us": _nothing,
    # the platform
    "pennyreel_worker.loop:Scaler._send": _post_once,
    "pennyreel_worker.loop:Scaler._post": _refusal_untold,
    "pennyreel_worker.loop:Scaler._poll": _polls_without_pause,
    "pennyreel_worker.loop:Scaler._refuse": _later_nothing,
    "pennyreel_worker.loop:Scaler._drain": _no_drain,
    "pennyreel_worker.loop:Scaler._cut_off": _later_nothing,
    "pennyreel_worker.loop:Scaler._signalled": _nothing,
    "pennyreel_worker.loop:Scaler.stop_job": _stop_unremembered,
    "pennyreel_worker.loop:Scaler._post#lost": _unconfirmed_is_failed,
    "pennyreel_worker.loop:Scaler._poll#first": _dies_of_a_poll,
    "pennyreel_worker.loop:Scaler.monitor_stop_signals": _dies_of_a_stop_poll,
    "pennyreel_worker.reporting:Reporter._run": _dies_of_a_progress_post,
    # S3 and inputs
    "botocore.retries.standard:RetryHandler.needs_retry": _nothing,
    "pennyreel_worker.storage:_translate": _untranslated,
    "pennyreel_worker.storage:Store._transfer": _without_a_limit,
    "pennyreel_comfy.fetch:_Cutter.translate": _as_it_came,
    "pennyreel_comfy.cutting:Cutter.check": _nothing,
    "pennyreel_worker.delivery:inline": _nothing,
}
