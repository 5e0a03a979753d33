"""The RunPod entry: parse, run, reply. One async function, since only so can a job be cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from pennyreel_contract import InfoRequest, parse_request
from pennyreel_worker.app import Worker
from pennyreel_worker.delivery import limit_of
from pennyreel_worker.job import Dialect
from pennyreel_worker.log import log, to_error
from pennyreel_worker.stock import (
    Refusal,
    failed_node,
    is_stock,
    parse,
    parse_stock,
    stock_error,
    stock_result,
)
from pennyreel_worker.whose import of_job


async def handle(worker: Worker, job: dict[str, Any]) -> dict[str, Any]:
    """Answer one job of the platform: a result, or a dict whose `error` makes it FAILED."""
    body, job_id = parse(job.get("input")), str(job["id"])
    with of_job(job_id):
        return await _answer(worker, job, body, job_id)


async def _answer(worker: Worker, job: dict[str, Any], body: object, job_id: str) -> dict[str, Any]:
    try:
        if is_stock(body):
            reply = await _stock(worker, job, body, job_id)
        else:
            reply = await _ours(worker, job, body, job_id)
    except asyncio.CancelledError:
        log.info("cancelled by the platform", extra={"job": job_id})
        raise  # the SDK needs it, and posts nothing
    if worker.settings.refresh_worker or worker.broken:
        reply["refresh_worker"] = True
    return reply


async def _ours(worker: Worker, job: dict[str, Any], body: object, job_id: str) -> dict[str, Any]:
    try:
        request = parse_request(body)
        if isinstance(request, InfoRequest):
            return await worker.info()
        return (await worker.run(request, job)).wire()
    except Exception as problem:  # noqa: BLE001 - the last resort: a bug is an error, too
        return {"error": to_error(problem, job_id).info.encode()}


async def _stock(worker: Worker, job: dict[str, Any], body: object, job_id: str) -> dict[str, Any]:
    try:
        stock = parse_stock(body, job_id)
        dialect = Dialect(stock.names, failed_node, stock.comfy_org_api_key)
        result = await worker.run(stock.request, job, dialect)
        return stock_result(result, stock.request.workflow, limit_of(job_id, worker.settings))
    except Refusal as refusal:
        return {"error": str(refusal)}
    except Exception as problem:  # noqa: BLE001 - as above
        return stock_error(to_error(problem, job_id))
