"""Images built, entered and removed by buildah, in a store of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_BUILD_S = 1800
_COMMAND_S = 300


class Store:
    """A folder with images and containers, which nothing else on the machine sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir(parents=True)
        self._options = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]

    def argv(self, *arguments: str) -> list[str]:
        verb, *rest = arguments
        return ["buildah", *self._options, verb, *rest]

    @property
    def env(self) -> dict[str, str]:
        # No namespaces of its own: containers of CI may not make any. Caches go beside the store.
        return {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._temporary)}

    def run(
        self, *arguments: str, timeout: float = _COMMAND_S, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*arguments),
            capture_output=True,
            text=True,
            env=self.env,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done

    def import_folder(self, folder: Path, name: str) -> None:
        container = self.run("from", "scratch").stdout.strip()
        self.run("add", "--quiet", container, str(folder), "/")
        self.run("commit", "--quiet", "--rm", container, name)

    def build(
        self,
        context: Path,
        name: str,
        *,
        arguments: Mapping[str, str],
        volumes: Sequence[str] = (),
        secrets: Sequence[str] = (),
        check: bool = True,
    ) -> str:
        """Build the Dockerfile in `context`; return what the build said."""
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        options += [f"--volume={volume}" for volume in volumes]
        options += [f"--secret={secret}" for secret in secrets]
        # The format that knows HEALTHCHECK.
        done = self.run(
            *("bud", "--layers", "--network=host", "--format=docker", f"--tag={name}", *options),
            str(context),
            timeout=_BUILD_S,
            check=check,
        )
        return done.stdout + done.stderr

    def inspect(self, name: str) -> dict[str, Any]:
        said = self.run("inspect", "--type=image", name).stdout
        found: dict[str, Any] = json.loads(said)
        return found

    def config(self, name: str) -> dict[str, Any]:
        config: dict[str, Any] = self.inspect(name)["Docker"]["config"]
        return config

    @contextlib.contextmanager
    def container(self, name: str) -> Iterator[Container]:
        identity = self.run("from", name).stdout.strip()
        try:
            yield Container(self, identity, self.config(name), self.run("mount", identity))
        finally:
            self.run("rm", identity)

    def remove(self) -> None:
        self.run("rm", "--all", check=False)
        self.run("rmi", "--all", "--force", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """A container of an image, entered as the image's configuration says."""

    def __init__(
        self,
        store: Store,
        identity: str,
        config: dict[str, Any],
        mounted: subprocess.CompletedProcess[str],
    ) -> None:
        self._store = store
        self.identity = identity
        self.config = config
        self.root = Path(mounted.stdout.strip())

    def run(
        self, *command: str, user: str = "", volumes: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        options = [f"--volume={volume}" for volume in volumes]
        options += [f"--user={user}"] if user else []
        return self._store.run("run", *options, self.identity, "--", *command, check=check)

    def healthy(self) -> subprocess.CompletedProcess[str]:
        """Run the image's own HEALTHCHECK."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(*command, check=False)

    @contextlib.contextmanager
    def started(
        self,
        env: Mapping[str, str],
        *,
        command: Sequence[str] | None = None,
        volumes: Sequence[str] = (),
    ) -> Iterator[Entry]:
        """Start the image's own entry point, with its command or another one."""
        argv = [*self.config["Entrypoint"], *(command or self.config["Cmd"])]
        options = [f"--env={name}={value}" for name, value in env.items()]
        options += [f"--volume={volume}" for volume in volumes]
        process = subprocess.Popen(
            self._store.argv("run", "--network=host", *options, self.identity, "--", *argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._store.env,
        )
        entry = Entry(process, self.root, self.config["Entrypoint"][0])
        try:
            yield entry
        finally:
            entry.close()


class Entry:
    """The running entry point: its log, its processes, its end."""

    def __init__(self, process: subprocess.Popen[str], root: Path, program: str) -> None:
        self._process = process
        self._root = root
        self._program = program
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def processes(self) -> dict[int, list[str]]:
        """Return the command line of each process in the container, by its id here."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "root").samefile(self._root):
                    line = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
                    if line:
                        found[int(folder.name)] = line.rstrip("\0").split("\0")
        return found

    def uids(self) -> set[int]:
        """Return the users whose processes run in the container."""
        uids = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                uids.add(Path(f"/proc/{pid}").stat().st_uid)
        return uids

    def terminate(self) -> None:
        """Send SIGTERM where a container engine sends it: to the entry point."""
        (pid,) = [pid for pid, argv in self.processes().items() if argv[0] == self._program]
        os.kill(pid, signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def said(self, text: str) -> bool:
        assert self._process.poll() is None or any(text in line for line in self.log), self.log
        return any(text in line for line in self.log)

    def close(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._reader.join(20)
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self.log.append(line.rstrip("\n"))
