"""What a host's answer means that is no file: a refusal, a page about it, or one to be unpacked."""

from __future__ import annotations

from pennyreel_comfy.fetch import Stream, whole
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_contract import Code, PennyreelError, error


def check_answer(url: str, reply: Stream, hosts: Hosts) -> None:
    """Raise where an answer is no file, or no part of one.

    Raises:
        BadRequest: `model_refused`: it is a web page, such as one to log in, or a message.
        JobFailed: `input_unreachable`: the host refuses, with `retry_after_s` in its detail where
            it asks for a pause; `model_download_failed`: it packed the file.

    """
    if reply.status not in {200, 206}:
        raise _refusal(url, reply, hosts)
    kind = reply.header("Content-Type").partition(";")[0].strip().lower()
    if reply.page or kind == "application/json":
        raise error(
            Code.MODEL_REFUSED,
            f"{reply.name} leads to a {'web page' if reply.page else 'message'}, not to a file",
            hint=_page_hint(url, hosts),
        )
    packed = reply.header("Content-Encoding").strip().lower()
    if packed not in {"", "identity"}:
        raise error(
            Code.MODEL_DOWNLOAD_FAILED,
            f"{reply.name} comes packed ({packed[:40]}), though it was asked for as it is",
            hint="Have its host send models as they are, without a Content-Encoding.",
            retryable=False,
        )


def _refusal(url: str, reply: Stream, hosts: Hosts) -> PennyreelError:
    refusal = reply.refusal()
    pause = whole(reply.header("Retry-After").strip())
    return error(
        Code.INPUT_UNREACHABLE,
        str(refusal),
        hint=hosts.hint(url, reply.status),
        retryable=refusal.retryable,
        detail={} if pause is None else {"retry_after_s": pause},
    )


def _page_hint(url: str, hosts: Hosts) -> str:
    """Say what to do: a host that wants to know who asks may show its log-in instead of a 401."""
    login = hosts.hint(url, 401)
    return "Check that the URL leads to the file itself." + (f" {login}" if login else "")
