"""At a terminal: the table, the question, and the offer where a setup is all that is missing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client.provision.conftest import MODEL
from client.support import GRAPH
from comfy.models.library import Library
from pennyreel import localcomfy
from pennyreel_comfy.models import Entry
from pennyreel_comfy.process import free_port

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX terminal")


class Terminal:
    """A command whose stdin and stderr are a terminal; stdout is a pipe."""

    def __init__(self, *arguments: str, answer: str) -> None:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "pennyreel", *arguments]
        env = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        with subprocess.Popen(
            command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=env
        ) as process:
            os.close(theirs)
            os.write(ours, answer.encode())
            seen: list[bytes] = []
            reader = threading.Thread(target=self._read, args=(ours, seen))
            reader.start()
            out, _ = process.communicate(timeout=60)
            reader.join()
        os.close(ours)
        self.code, self.out = process.returncode, out.decode()
        self.err = b"".join(seen).decode().replace("\r\n", "\n")

    @staticmethod
    def _read(ours: int, seen: list[bytes]) -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # so a terminal ends
                return
            if not data:
                return
            seen.append(data)


def test_it_asks_once_and_no_changes_nothing(root: Path, file: Path, entry: Entry) -> None:
    ran = Terminal("setup", str(file), answer="n\n")
    assert ran.code == 130
    assert "to install" in ran.err
    assert f"checkpoints/{MODEL}" in ran.err
    assert "CC0-1.0" in ran.err
    assert ran.err.count("go on? [Y/n]") == 1
    assert "nothing was changed" in ran.err
    assert localcomfy.running(root) is None


def test_a_yes_does_it_and_names_the_next_command(
    root: Path, file: Path, entry: Entry, library: Library
) -> None:
    ran = Terminal("setup", str(file), "--allow-host", library.host, answer="y\n")
    assert ran.code == 0, ran.err
    assert "ComfyUI runs at http://127.0.0.1:" in ran.out
    assert f"next: pennyreel run {file}" in ran.err


def test_a_run_offers_the_setup_where_nothing_else_is_missing(
    root: Path, file: Path, entry: Entry
) -> None:
    ran = Terminal("run", str(file), answer="n\n")
    assert "set it up now, and go on? [y/N]" in ran.err
    assert ran.code == 4
    assert "error[not_configured]" in ran.err


def test_a_run_goes_on_after_the_setup_that_was_agreed_to(root: Path, tmp_path: Path) -> None:
    before = localcomfy.start(root, url="http://127.0.0.1:9", port=free_port())
    # It came after ComfyUI was started, which therefore does not know it.
    pack = root / "comfy" / "custom_nodes" / "ComfyUI-VideoHelperSuite"
    pack.mkdir()
    (pack / "classes.json").write_text('["VHS_VideoInfo"]')
    path = tmp_path / "shot.json"
    path.write_text(json.dumps({**GRAPH, "3": {"class_type": "VHS_VideoInfo", "inputs": {}}}))
    ran = Terminal("run", str(path), answer="y\n")
    assert ran.code == 0, ran.err
    assert "then ComfyUI is started anew" in ran.err
    assert "set it up now, and go on? [y/N]" in ran.err
    assert Path(ran.out.strip()).is_file()
    after = localcomfy.running(root)
    assert after is not None
    assert after.pid != before.pid


def test_without_a_terminal_nobody_is_asked(root: Path, file: Path, entry: Entry) -> None:
    command = [sys.executable, "-m", "pennyreel", "run", str(file)]
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 4
    assert "set it up now" not in ran.stderr
    assert "pennyreel setup" in ran.stderr
