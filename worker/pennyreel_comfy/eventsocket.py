"""The one websocket to a server: a reader thread that keeps it open and hands on its events."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import websocket

from pennyreel_comfy import events
from pennyreel_comfy.echoes import hide_in
from pennyreel_comfy.events import Event

_log = logging.getLogger(__name__)

CONNECT_S = 5.0
QUIET_S = 20.0
"""After this long without a message the server is pinged; a ping that fails means reconnect."""

RENEW_S = 0.01
PROVE_S = 1.0
"""How long a ping's answer is waited for where somebody waits for it."""

MAX_MESSAGE = 256 << 20
"""Bytes taken of a message. Previews have some 100 kB, an image of SaveImageWebsocket is a PNG of a
few MB, and of 8192 x 8192 pixels that are all noise 200 MB."""

BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

# As the client's first message, it makes previews carry their prompt and node ids.
_HELLO = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


class _TooLong(websocket.WebSocketException):
    """A message with more bytes than are taken."""


class _Frames(websocket.frame_buffer):
    """Refuses a message by its announced length, before its bytes fill the memory."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        super().__init__(receive, skip_utf8_validation=False)
        self._before = 0

    def recv_length(self) -> None:
        """Read a frame's length; a message may come in many frames."""
        super().recv_length()
        if self._before + (self.length or 0) > MAX_MESSAGE:
            raise _TooLong(f"a message of more than {MAX_MESSAGE >> 20} MB")

    def recv_frame(self) -> Any:
        """Read a frame."""
        frame: Any = super().recv_frame()
        if frame.opcode < websocket.ABNF.OPCODE_CLOSE:  # control frames come in between
            self._before = 0 if frame.fin else self._before + len(frame.data)
        return frame


class EventSocket:
    """Connects, reads, reconnects with the same client id, until closed.

    `on_event` and `on_reconnect` are called in the reader thread.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        on_event: Callable[[Event], None],
        on_reconnect: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the settings; `start` connects."""
        self._url = f"{url}?clientId={client_id}"
        self._told = dict(headers or {})
        self._headers = [f"{name}: {value}" for name, value in self._told.items()]
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._closing = threading.Event()
        self._open = threading.Event()
        self._attempted = threading.Event()
        self._heard = threading.Event()
        self._lock = threading.Lock()
        self._socket: Any = None  # websocket.WebSocket; its methods carry no types
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin to read; return whether the connection is open after its first attempt."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="pennyreel-comfy-ws", daemon=True
                )
                self._thread.start()
        self._attempted.wait(2 * CONNECT_S)
        return self._open.is_set()

    @property
    def is_open(self) -> bool:
        """Whether it is connected now."""
        return self._open.is_set()

    def prove(self, seconds: float) -> bool:
        """Return whether the server answers a ping now; a connection that is cut shows by it.

        One that does not answer is closed, and what opens in its place within `seconds` counts.
        """
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0 and not self._closing.is_set():
            if not self._open.wait(left):
                break
            with self._lock:
                current = self._socket
            self._heard.clear()
            with contextlib.suppress(OSError, websocket.WebSocketException):
                current.ping()
                if self._heard.wait(min(left, PROVE_S)) and self._open.is_set():
                    return True
            _cut(current)
            self._closing.wait(RENEW_S)  # its reader has to notice first
        return False

    def close(self) -> None:
        """Close the connection and end the reader."""
        self._closing.set()
        with self._lock:
            open_socket, thread = self._socket, self._thread
        if open_socket is not None:
            _cut(open_socket)
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)  # in a handshake it leaves by itself, within CONNECT_S

    def _run(self) -> None:
        failures = 0
        connected_before = False
        while not self._closing.is_set():
            try:
                self._connect()
            except Exception:  # noqa: BLE001 - a broken handshake raises what it likes
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                self._attempted.set()
                self._closing.wait(pause)
                continue
            if connected_before:
                self._on_reconnect()  # first: who finds it open has to find that it was not
            connected_before = True
            self._open.set()
            self._attempted.set()
            if self._read():
                failures = 0
                continue
            # It may say the same again as soon as it is connected.
            self._closing.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    def _connect(self) -> None:
        fresh: Any = websocket.WebSocket(enable_multithread=True)
        fresh.frame_buffer = _Frames(fresh._recv)  # noqa: SLF001 - it has no option for it
        # No Origin: ComfyUI answers 403 when it differs from a loopback Host.
        fresh.connect(
            self._url,
            timeout=CONNECT_S,
            header=self._headers,
            suppress_origin=True,
            redirect_limit=0,  # else the headers would go wherever it says
            http_no_proxy=["127.0.0.1", "localhost", "::1"],
        )
        fresh.settimeout(QUIET_S)
        fresh.send(_HELLO)
        with self._lock:
            self._socket = fresh
        if self._closing.is_set():
            _cut(fresh)

    def _read(self) -> bool:
        """Read until the connection ends; False: a message was too long, and is lost."""
        current = self._socket
        if current is None:
            return True
        pinged = 0.0
        try:
            while not self._closing.is_set():
                try:
                    opcode, data = current.recv_data(control_frame=True)
                except websocket.WebSocketTimeoutException:
                    if pinged:
                        return True  # the ping had no answer either
                    pinged = time.monotonic()
                    current.ping()
                    continue
                pinged = 0.0
                if opcode == websocket.ABNF.OPCODE_PONG:
                    self._heard.set()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    return True
                if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                    continue  # the pong that was waited for
                message = bytes(data) if opcode != 1 else self._text(data)
                try:
                    self._on_event(events.parse(message))
                except Exception:  # noqa: BLE001 - a listener's bug must not end everybody's events
                    _log.exception("a listener failed on an event")
        except _TooLong as problem:
            _log.warning("ComfyUI sent %s: it is dropped, and the websocket opened anew", problem)
            return False
        except (OSError, websocket.WebSocketException):
            return True
        finally:
            self._open.clear()
            current.shutdown()
        return True

    def _text(self, data: bytes) -> str:
        return hide_in(data.decode("utf-8", "replace"), self._told)


def _cut(opened: Any) -> None:
    """Close from another thread: a mere close would leave the reader in its recv."""
    with contextlib.suppress(OSError, AttributeError):
        opened.sock.shutdown(socket.SHUT_RDWR)
