"""One ComfyUI job's websocket events, as ours."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any

from pennyreel.backends.base import OnEvent
from pennyreel.types import Progressed, Queued, Started
from pennyreel_comfy.events import Cached, Event, Executing, Image, NodeStates, NodeSteps
from pennyreel_comfy.events import Started as RunStarted
from pennyreel_comfy.tracker import Position, Tracker

SOCKET_OUTPUT = "SaveImageWebsocket"
"""Sends its images by the websocket, as results; others send previews by it."""


class Listener:
    """Turns one job's websocket events into ours; what came before `attach` is not lost."""

    def __init__(self, graph: Mapping[str, Any], *, preview: bool) -> None:
        self._graph = graph
        self._tracker = Tracker(graph)
        self._preview = preview
        self._lock = threading.Lock()
        self._on_event: OnEvent | None = None
        self._started = False
        self._last: Progressed | None = None

    def attach(self, on_event: OnEvent | None) -> None:
        """Begin to tell `on_event`, first of where the job is."""
        with self._lock:
            self._on_event = on_event
            if on_event is None:
                return
            on_event(Started() if self._started else Queued())
            if self._last is not None:
                on_event(self._last)

    def __call__(self, event: Event) -> None:
        """Take one event (reader thread)."""
        with self._lock:
            if not self._started and isinstance(
                event, (RunStarted, Cached, Executing, NodeSteps, NodeStates)
            ):
                self._started = True
                self._tell(Started())
            if isinstance(event, Image):
                self._show(event)
                return
            position = self._tracker.feed(event)
            if position is not None:
                self._last = _progress(position)
                self._tell(self._last)

    def _show(self, image: Image) -> None:
        node_class = self._graph.get(image.node or "", {}).get("class_type")
        if not self._preview or node_class == SOCKET_OUTPUT:
            return
        before = self._last or Progressed(0.0, "executing")
        data = base64.b64encode(image.data).decode()
        self._tell(
            Progressed(
                **{**vars(before), "preview": f"data:{image.mime};base64,{data}"},
            )
        )

    def _tell(self, event: Started | Progressed) -> None:
        if self._on_event is not None:
            self._on_event(event)


def _progress(position: Position) -> Progressed:
    return Progressed(
        percent=round(100 * position.fraction, 1),
        stage="executing",
        node=position.node,
        node_class=position.node_class or None,
        step=position.step,
        steps=position.steps,
        eta_s=position.eta_s,
    )
