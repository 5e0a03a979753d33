"""Typed calls to a ComfyUI server, and the one table that turns its failures into our errors.

Thread-safe: each thread has its own `requests.Session`. No call retries by itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import requests

from pennyreel_comfy.multipart import FileForm
from pennyreel_comfy.rejections import rejection
from pennyreel_comfy.sessions import WHOLE_S, Watched, bounded, never_sent, take
from pennyreel_contract import Code, PennyreelError, error

CONNECT_S = 5.0
READ_S = 30.0
UPLOAD_S = 600.0
UPLOADED_S = 3600.0
"""Seconds for a whole upload; `UPLOAD_S` are for its answer."""

MAX_ANSWER = 64 << 20
"""Bytes taken of an answer: /object_info has 0.8, and some tens of MB with every pack there is."""

CHUNK = 1 << 20
_MAY_BE_MISSING = ("/history/", "/models/", "/object_info/", "/system_stats")


@dataclass(frozen=True)
class Accepted:
    """ComfyUI's answer to POST /prompt. `node_errors` name outputs that it silently dropped."""

    prompt_id: str
    node_errors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Queue:
    """Prompt ids by place."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


class ComfyHttp:
    """One ComfyUI server by its base URL, such as `http://127.0.0.1:8188`.

    `headers` go to this server only; redirects are refused so that they never go elsewhere.
    """

    def __init__(self, base_url: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Keep the address; nothing is sent."""
        try:
            parts = urlsplit(base_url)
            right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            right = False
        if not right:
            raise error(
                Code.BAD_REQUEST,
                f"{_plain(base_url)!r} is not a ComfyUI address",
                hint="Write it like http://127.0.0.1:8188",
            )
        self.base_url = parts._replace(scheme=parts.scheme.lower()).geturl().rstrip("/")
        self._shown = _plain(self.base_url)
        self._headers = dict(headers or {})
        self._local = threading.local()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._has_jobs: bool | None = None

    def close(self) -> None:
        """Close idle connections; further calls open new ones."""
        for session in list(self._sessions):
            session.close()

    @property
    def ws_url(self) -> str:
        """The websocket's address, without the client id."""
        return "ws" + self.base_url[len("http") :] + "/ws"

    @property
    def headers(self) -> dict[str, str]:
        """Headers for this server."""
        return dict(self._headers)

    def system_stats(self, *, timeout: float = CONNECT_S) -> dict[str, Any]:
        """GET /system_stats: versions and devices; the cheapest sign of life."""
        body = self._json("GET", "/system_stats", timeout=timeout)
        if not isinstance(body, dict) or "system" not in body:
            raise error(
                Code.COMFY_UNAVAILABLE,
                f"{self._shown} answers, but is not ComfyUI",
                hint="Check the address and port.",
                retryable=False,
            )
        return body

    def prompt(
        self,
        graph: Mapping[str, Any],
        *,
        client_id: str,
        prompt_id: str,
        extra_data: Mapping[str, Any] | None = None,
    ) -> Accepted:
        """POST /prompt.

        Raises:
            BadRequest: the graph was refused; nothing was queued.
            OutcomeUnknown: sent, no answer; look `prompt_id` up.

        """
        body: dict[str, Any] = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        if extra_data:
            body["extra_data"] = extra_data
        with self._call("POST", "/prompt", json=body, unsafe=True) as reply:
            if reply.status_code in {502, 504} or reply.status_code > 504:
                raise error(  # a proxy's: the server behind it may have taken the job
                    Code.UNKNOWN_OUTCOME, f"{self._shown}/prompt answers {reply.status_code}"
                )
            if reply.status_code not in {200, 400, 413, 500}:
                raise self._refused(reply, "/prompt")
            if reply.status_code != 200:
                raise rejection(reply.status_code, _body(reply), graph)
            answer = _body(reply)
        if not isinstance(answer, dict):
            raise error(Code.UNKNOWN_OUTCOME, f"{self._shown}/prompt gave an unreadable answer")
        return Accepted(str(answer.get("prompt_id", prompt_id)), answer.get("node_errors") or {})

    def queue(self, *, timeout: float = READ_S) -> Queue:
        """GET /queue."""
        body = self._json("GET", "/queue", timeout=timeout)
        try:
            ids = [
                tuple(str(item[1]) for item in body[key])
                for key in ("queue_running", "queue_pending")
            ]
        except (TypeError, LookupError):
            raise error(
                Code.COMFY_UNAVAILABLE, f"{self._shown}/queue gave an unreadable answer"
            ) from None
        return Queue(*ids)

    def history(self, prompt_id: str, *, timeout: float = READ_S) -> dict[str, Any] | None:
        """GET /history/ID: the entry of an ended job, else None."""
        body = self._json("GET", f"/history/{prompt_id}", timeout=timeout)
        entry = body.get(prompt_id) if isinstance(body, dict) else None
        return entry if isinstance(entry, dict) else None

    def forget(self, prompt_id: str) -> None:
        """Delete the job's history entry."""
        self._json("POST", "/history", json={"delete": [prompt_id]})

    def dequeue(self, prompt_id: str, *, timeout: float = READ_S) -> None:
        """Take a pending job out of the queue; does nothing to a running one."""
        self._json("POST", "/queue", json={"delete": [prompt_id]}, timeout=timeout)

    def interrupt(self, prompt_id: str, *, timeout: float = READ_S) -> None:
        """Stop this job if it is the one that runs (servers since 0.3.64 check the id)."""
        self._json("POST", "/interrupt", json={"prompt_id": prompt_id}, timeout=timeout)

    def cancel_job(self, prompt_id: str, *, timeout: float = READ_S) -> bool:
        """POST /api/jobs/ID/cancel, where the server has it (0.38); False where it has not."""
        if self._has_jobs is False:
            return False
        with self._call("POST", f"/api/jobs/{prompt_id}/cancel", timeout=timeout) as reply:
            self._has_jobs = reply.status_code not in {404, 405} or _is_job_404(reply)
            return reply.status_code == 200

    def free(self, *, unload_models: bool = True) -> None:
        """POST /free: give memory back."""
        self._json("POST", "/free", json={"unload_models": unload_models, "free_memory": True})

    def object_info(
        self, node_class: str | None = None, *, within: float | None = None
    ) -> dict[str, Any]:
        """GET /object_info: every node class with its inputs (about 0.8 MB), or one.

        `within`: seconds for the whole answer; as for any, unless given.
        """
        path = "/object_info" if node_class is None else f"/object_info/{quote(node_class, '')}"
        body = self._json("GET", path, timeout=within or READ_S, whole=within or WHOLE_S)
        return body if isinstance(body, dict) else {}

    def models(self, folder: str | None = None, *, timeout: float = READ_S) -> list[str]:
        """GET /models: the folders, or one folder's files."""
        path = "/models" if folder is None else f"/models/{quote(folder, '')}"
        body = self._json("GET", path, timeout=timeout)
        return [str(name) for name in body] if isinstance(body, list) else []

    def upload(self, name: str, content: BinaryIO, *, subfolder: str = "") -> str:
        """POST /upload/image (any file type); returns the name under which graphs find it."""
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        form = FileForm("image", name, content, fields)
        kind = {"Content-Type": form.content_type}
        with self._call(
            "POST", "/upload/image", data=form, headers=kind, timeout=UPLOAD_S, whole=UPLOADED_S
        ) as reply:
            if reply.status_code == 413:
                raise error(Code.INPUT_TOO_LARGE, f"ComfyUI refuses {name}: too large to upload")
            if reply.status_code == 400:
                raise error(Code.BAD_INPUT, f"ComfyUI refuses the upload of {name}")
            if reply.status_code != 200:
                raise self._refused(reply, "/upload/image")
            answer = _body(reply)
        if not isinstance(answer, dict) or "name" not in answer:
            raise error(Code.COMFY_UNAVAILABLE, "ComfyUI gave an unreadable answer to an upload")
        folder = str(answer.get("subfolder") or "")
        return f"{folder}/{answer['name']}" if folder else str(answer["name"])

    @contextmanager
    def view(self, filename: str, subfolder: str, kind: str) -> Iterator[Iterator[bytes]]:
        """GET /view as a stream of chunks of at most 1 MiB."""
        params = {"filename": filename, "subfolder": subfolder, "type": kind}
        with self._streamed("GET", "/view", params=params) as reply:
            if reply.status_code == 404:
                raise error(
                    Code.OUTPUT_MISSING, f"ComfyUI says it made {filename}, but /view has it not"
                )
            if reply.status_code != 200:
                raise self._refused(reply, "/view")
            try:
                yield reply.iter_content(CHUNK)
            except requests.RequestException as problem:
                raise self._unavailable(problem) from None

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._call(method, path, **options) as reply:
            if reply.status_code == 404 and path.startswith(_MAY_BE_MISSING):
                return {}
            if reply.status_code != 200:
                raise self._refused(reply, path)
            return _body(reply)

    def _refused(self, reply: requests.Response, path: str) -> PennyreelError:
        """Tell what a status means that is not about the request's content."""
        if reply.status_code == 429:  # a proxy's; ComfyUI has none
            return error(
                Code.RATE_LIMITED,
                f"{self._shown}{path} answers 429",
                detail={"retry_after_s": _seconds(reply.headers.get("Retry-After", ""))},
            )
        refused = reply.status_code in {401, 403}
        return error(
            Code.UNAUTHORIZED if refused else Code.COMFY_UNAVAILABLE,
            f"{self._shown}{path} answers {reply.status_code}",
        )

    @contextmanager
    def _call(
        self,
        method: str,
        path: str,
        *,
        timeout: float = READ_S,
        whole: float | None = None,
        unsafe: bool = False,
        **options: Any,
    ) -> Iterator[requests.Response]:
        """Send one request and read its whole answer, which takes `whole` seconds at most.

        `unsafe`: a lost answer means that the outcome is unknown.
        """
        try:
            with (
                bounded(timeout if whole is None else whole),
                self._send(method, path, timeout=timeout, **options) as reply,
            ):
                take(reply, MAX_ANSWER)
        except requests.RequestException as problem:
            if unsafe and not never_sent(problem):
                raise error(
                    Code.UNKNOWN_OUTCOME, f"{self._shown}{path} was sent, no answer came"
                ) from None
            raise self._unavailable(problem) from None
        yield reply

    @contextmanager
    def _streamed(self, method: str, path: str, **options: Any) -> Iterator[requests.Response]:
        """Send one request and let its answer be read in pieces, however long that takes."""
        try:
            reply = self._send(method, path, timeout=READ_S, **options)
        except requests.RequestException as problem:
            raise self._unavailable(problem) from None
        with reply:
            yield reply

    def _send(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        return self._session().request(
            method,
            self.base_url + path,
            headers={**self._headers, **(headers or {})},
            timeout=(CONNECT_S, timeout),
            allow_redirects=False,
            stream=True,
            **options,
        )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            self._sessions.add(session)
            for scheme in ("http://", "https://"):
                session.mount(scheme, Watched())
            # Environment proxies and .netrc would send a local job elsewhere.
            session.trust_env = urlsplit(self.base_url).hostname not in {
                "127.0.0.1",
                "localhost",
                "::1",
            }
        return session

    def _unavailable(self, problem: Exception) -> PennyreelError:
        kind = type(problem).__name__
        return error(
            Code.COMFY_UNAVAILABLE,
            f"no ComfyUI answers at {self._shown} ({kind})",
            detail={"silent": isinstance(problem, requests.ReadTimeout)},
        )


def _seconds(text: str) -> float | None:
    """Read a Retry-After; one that names a date is nobody's here."""
    return float(text) if text.strip().isdecimal() else None


def _plain(url: str) -> str:
    """Return an address without a user's name and password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://{tail}" if at else url


def _is_job_404(reply: requests.Response) -> bool:
    """Tell "no such job" from "no such route": only the former answers in JSON."""
    return reply.status_code == 404 and "json" in reply.headers.get("Content-Type", "")


def _body(reply: requests.Response) -> Any:
    try:
        return reply.json()
    except (ValueError, RecursionError):
        return reply.text
