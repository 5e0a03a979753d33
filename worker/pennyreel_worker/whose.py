"""Which job a line of the log is about, where the line itself does not say.

Of ours, the job in whose context it is written; of ComfyUI's, the job on the GPU.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_job: contextvars.ContextVar[str | None] = contextvars.ContextVar("pennyreel_job", default=None)
_on_gpu: list[str] = []


@contextlib.contextmanager
def of_job(job_id: str) -> Iterator[None]:
    """Put the job's id into each line that is written in this context, by whatever module.

    Tasks that begin in it inherit it, and so do the calls of a `JobPool`.
    """
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


@contextlib.contextmanager
def on_gpu(job_id: str) -> Iterator[None]:
    """Take ComfyUI's lines for this job's while the context lasts."""
    _on_gpu.append(job_id)
    try:
        yield
    finally:
        _on_gpu.remove(job_id)


def job_on_gpu() -> str | None:
    """Return whose lines ComfyUI writes.

    Of two jobs it is the first one: the second has its turn while the first reads how it ended, and
    ComfyUI says of both what it has to say in their order.
    """
    return next(iter(tuple(_on_gpu)), None)


class JobPool(ThreadPoolExecutor):
    """A pool whose calls run in the context of who submits them."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call, as in any pool."""
        call = functools.partial(fn, *args, **kwargs)
        return super().submit(contextvars.copy_context().run, call)


class NameJob(logging.Filter):
    """Adds the context's job to a record that names none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if getattr(record, "job", None) is None and (job := _job.get()) is not None:
            record.job = job
        return True
