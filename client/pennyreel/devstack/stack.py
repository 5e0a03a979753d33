"""The stack as one thing that is started and closed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from pennyreel import config
from pennyreel.devstack.s3 import LocalS3
from pennyreel.errors import Code, error
from pennyreel_comfy.install import Installation

if TYPE_CHECKING:
    from typing_extensions import Self

    from pennyreel_emulators.runpod import Event, RunPodPlatform

ENDPOINT = "dev"

# What a worker may know of this machine: never the keys in the user's environment.
_PASS = (
    "PATH",
    "PYTHONPATH",  # a worker of the very code that runs here
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class Options:
    """How large the stack is."""

    workers_min: int = 0
    workers_max: int = 1
    idle_timeout_s: float = 60.0
    port: int = 0
    s3: bool = True
    comfyui: Path | None = None
    """Where ComfyUI is installed; None = where `pennyreel comfyui install` puts it."""

    worker_env: Mapping[str, str] = field(default_factory=dict)


class DevStack:
    """Platform, workers and S3. Use it as a context manager.

    While it runs, `<home>/dev.json` tells clients where it is, so that `--backend dev` finds it.
    """

    def __init__(
        self,
        settings: config.Settings,
        options: Options | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        on_log: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """Keep the settings; nothing starts."""
        self._settings = settings
        self._options = options or Options()
        self._on_event = on_event
        self._on_log = on_log
        self._open = contextlib.ExitStack()
        self.api_key = f"rpa_dev_{secrets.token_hex(12)}"
        self.endpoint = ENDPOINT
        self.platform: RunPodPlatform | None = None
        self.s3: LocalS3 | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """Where clients find it: RUNPOD_ENDPOINT_BASE_URL."""
        return self.platform.base_url if self.platform else ""

    @property
    def state_file(self) -> Path:
        """Tells clients where the stack is."""
        return self._settings.home / "dev.json"

    def start(self) -> None:
        """Start everything; workers come with the first job, or at once with `workers_min`.

        Raises:
            SetupNeeded: an extra or ComfyUI is not installed, or another stack runs already.

        """
        if sys.platform == "win32":
            raise error(
                Code.NOT_CONFIGURED,
                "the dev stack cannot run on Windows: its workers need POSIX process groups",
                hint="Run it in WSL, or use `pennyreel comfyui start`.",
            )
        _check_extras(s3=self._options.s3)
        root = self._options.comfyui or self._settings.comfyui_home
        if Installation.load(root) is None:
            raise error(Code.NOT_INSTALLED, f"there is no ComfyUI in {root}")
        self._check_alone()
        try:
            self._start(root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all of it: no process, thread or file is left."""
        self._open.close()
        self.platform = self.s3 = None

    def _start(self, root: Path) -> None:
        from pennyreel_emulators.runpod import (  # noqa: PLC0415 - an extra
            EndpointConfig,
            PlatformConfig,
            RunPodPlatform,
        )

        work = self._open.enter_context(
            tempfile.TemporaryDirectory(prefix="pennyreel-dev-", ignore_cleanup_errors=True)
        )
        env = {name: os.environ[name] for name in _PASS if name in os.environ}
        env |= {"PENNYREEL_COMFYUI_ROOT": str(root), "PENNYREEL_WORK_DIR": work}
        if self._options.s3:
            self.s3 = LocalS3()
            self._open.callback(self.s3.close)
            self.s3.start()
            env |= self.s3.worker_environment()
        endpoint = EndpointConfig(
            command=(sys.executable, "-m", "pennyreel_worker"),
            env={**env, **self._options.worker_env},
            inherit_environment=False,  # it may hold the keys of a real bucket
            workers_min=self._options.workers_min,
            workers_max=self._options.workers_max,
            idle_timeout_s=self._options.idle_timeout_s,
        )
        self.platform = self._open.enter_context(
            RunPodPlatform(
                PlatformConfig(
                    endpoints={ENDPOINT: endpoint}, api_key=self.api_key, port=self._options.port
                ),
                on_event=self._on_event,
                on_log=self._on_log,
            )
        )
        self._tell()

    def _tell(self) -> None:
        """Write dev.json, readable by this user alone: it holds the stack's key."""
        body = {
            "base_url": self.base_url,
            "endpoint": ENDPOINT,
            "api_key": self.api_key,
            "pid": os.getpid(),
            "s3": self.s3.client_settings() if self.s3 else None,
        }
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.state_file.parent, prefix=".dev-")
        self._open.callback(self._untell)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(body, file)
            Path(name).replace(self.state_file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _untell(self) -> None:
        state = config.dev_stack(self._settings.home)
        if state is not None and state.pid == os.getpid():
            self.state_file.unlink(missing_ok=True)

    def _check_alone(self) -> None:
        state = config.dev_stack(self._settings.home)
        if state is None or state.pid == os.getpid():
            return
        if _answers(state.base_url):
            raise error(
                Code.NOT_CONFIGURED,
                f"a dev stack runs already (pid {state.pid}, {state.base_url})",
                hint="Use it with --backend dev, or stop it with Ctrl-C where it runs.",
            )


def _answers(url: str) -> bool:
    """Whether anything serves there: a stale dev.json's port is closed."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.get(url, timeout=2)
    except requests.RequestException:
        return False
    return True


def _check_extras(*, s3: bool) -> None:
    wanted = ["aiohttp", "runpod", "boto3", *(["moto", "flask"] if s3 else [])]
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise error(
            Code.NOT_CONFIGURED,
            f"the dev stack needs {', '.join(missing)}",
            hint="Run: pip install 'pennyreel[dev]'",
        )
