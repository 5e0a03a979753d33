"""Other machines: their commands, files, registry and drivers, from the files in data/."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pynvml

from pennyreel.fleet.devices.model import Device, Host
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed
from pennyreel.fleet.devices.registry import DISPLAYS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GIB = 1 << 30
DATA = Path(__file__).parent / "data"
RAM = Host(ram_total_bytes=16 * GIB, ram_free_bytes=9 * GIB)


def load(name: str) -> dict[str, Any]:
    return tomllib.loads((DATA / f"{name}.toml").read_text("utf-8"))


def ram() -> Host:
    return RAM


class Commands:
    """Answers commands by the last part of their path; what it does not know is not there."""

    def __init__(self, outputs: Mapping[str, str | Exception]) -> None:
        self._outputs = outputs
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.asked.append(list(command))
        answer = self._outputs.get(command[0].rpartition("/")[2], NotHere(command[0]))
        if isinstance(answer, Exception):
            raise answer
        return answer


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below /sys/class/drm of a root, and return the root."""
    drm = root / "sys/class/drm"
    drm.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (drm / name).parent.mkdir(parents=True, exist_ok=True)
        (drm / name).write_bytes(f"{text}\n".encode())
    return root


class Entries:
    """The registry's class of display adapters."""

    def __init__(self, entries: Mapping[str, Mapping[str, object]]) -> None:
        self._keys = {f"{DISPLAYS}\\{name}": values for name, values in entries.items()}

    def subkeys(self, path: str) -> list[str]:
        below = [k.rpartition("\\")[2] for k in self._keys if k.rpartition("\\")[0] == path]
        if not below:
            raise FileNotFoundError(path)
        return [*below, "Properties"]

    def values(self, path: str) -> Mapping[str, object]:
        if path.endswith("Properties"):
            raise PermissionError(path)
        return {name: _binary(value) for name, value in self._keys[path].items()}


def _binary(value: object) -> object:
    if isinstance(value, str) and value.startswith("hex:"):
        return bytes.fromhex(value[4:])
    return value


class Nvml:
    """A driver's library, by the functions and errors of the real pynvml."""

    NVMLError = pynvml.NVMLError

    def __init__(
        self, gpus: Sequence[Mapping[str, Any]], *, init: int | None = None, old: bool = False
    ) -> None:
        """`gpus`: name, total, free, load, bus; a number in place of one is an NVML error."""
        self._gpus = gpus
        self._init = init
        self._old = old
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        _raise(self._init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "610.57.04"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Mapping[str, Any]:  # noqa: N802
        _raise(self._gpus[index].get("handle_error"))
        return self._gpus[index]

    def nvmlDeviceGetName(self, handle: Mapping[str, Any]) -> object:  # noqa: N802
        return handle["name"].encode() if self._old else handle["name"]

    def nvmlDeviceGetMemoryInfo(self, handle: Mapping[str, Any]) -> object:  # noqa: N802
        _raise(handle.get("error"))
        return _Record(total=handle["total"], free=handle["free"])

    def nvmlDeviceGetUtilizationRates(self, handle: Mapping[str, Any]) -> object:  # noqa: N802
        _raise(handle.get("busy_error"))
        return _Record(gpu=handle["load"], memory=0)

    def nvmlDeviceGetPciInfo(self, handle: Mapping[str, Any]) -> object:  # noqa: N802
        return _Record(busId=handle["bus"].encode() if self._old else handle["bus"])


class _Record:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def _raise(code: int | None) -> None:
    if code is not None:
        raise pynvml.NVMLError(code)


class Told:
    """A probe that answers so, or does so."""

    def __init__(self, name: str, answer: list[Device] | Exception | Callable[[], Any]) -> None:
        self.name = name
        self._answer = answer
        self.asked = 0

    def look(self) -> list[Device]:
        self.asked += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        found: list[Device] = self._answer() if callable(self._answer) else self._answer
        return found


FAILED = ProbeFailed("it does not work")


@contextmanager
def server(answer: Callable[[], tuple[int, object]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An HTTP server on loopback that answers each GET with a status and JSON.

    Yields its URL and the headers of each request. It is the standard library's, since this runs
    on Windows, too, where the other tests' servers do not.
    """
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            status, body = answer()
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # who asked may have left
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: here.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{here.server_address[1]}", seen
    finally:
        here.shutdown()
        here.server_close()
        thread.join(10)
