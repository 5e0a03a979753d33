"""`python -m pennyreel_comfy.models pull SET… --root DIR`: models for an image or a volume.

It reads no variable of the environment: a token comes in a file, as a build's secrets do.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pennyreel_comfy.models import Hosts, Progress, Pulled, Rules, Store, load
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

NO_LIMIT = 1 << 50
LINE_S = 10.0
"""Progress is told at most this often: a build's log is read, not watched."""


def main(argv: Sequence[str]) -> int:
    """Pull, and return the exit code: 0, 1 where something is missing, 130 when interrupted."""
    options = _parser().parse_args(argv)
    cancel = CancelToken()
    try:
        entries = load(options.manifest).select(options.wanted)
        hosts = Hosts(
            options.allow_host,
            hf_token=_secret(options.hf_token_file),
            civitai_token=_secret(options.civitai_token_file),
        )
        limit = Deadline(options.timeout)
        rules = Rules(hosts, NO_LIMIT, limit, cancel, progress=_Lines())
        store = Store(options.root)
        done = store.pull(entries, rules, force=options.force)
        if options.copy_to is not None:
            store.copy([one for one in done if one.problem is None], options.copy_to)
    except PennyreelError as problem:
        _complain(problem)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. What has come stays: running it again resumes.\n")
        return 130
    for one in done:
        _tell(one)
    return 1 if any(one.problem for one in done) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pennyreel_comfy.models")
    commands = parser.add_subparsers(required=True)
    pull = commands.add_parser("pull", help="download models of a manifest")
    pull.add_argument("wanted", nargs="*", metavar="NAME|SET", help="or all, or none")
    pull.add_argument("--root", type=Path, required=True, help="ComfyUI's folder of models")
    pull.add_argument("--copy-to", type=Path, metavar="DIR", help="copy just these files there")
    pull.add_argument("--manifest", type=Path, action="append", default=[], help="one more file")
    pull.add_argument("--allow-host", action="append", default=[], help="one more host")
    pull.add_argument("--hf-token-file", type=Path, help="Hugging Face's token")
    pull.add_argument("--civitai-token-file", type=Path, help="civitai's key")
    pull.add_argument("--timeout", type=float, metavar="S", help="seconds for all of it")
    pull.add_argument("--force", action="store_true", help="replace files that differ")
    return parser


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(
            Code.NOT_CONFIGURED,
            f"{path} cannot be read ({type(problem).__name__})",
            hint="Write the token into that file, or leave the option out.",
        ) from None


class _Lines:
    """Writes progress as plain lines, now and then."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._told = time.monotonic()

    def __call__(self, event: Progress) -> None:
        with self._guard:
            if time.monotonic() - self._told < LINE_S:
                return
            self._told = time.monotonic()
        of = f" of {event.total / 1e9:.2f}" if event.total else ""
        _say(f"    {event.label}: {event.done / 1e9:.2f}{of} GB")


def _tell(one: Pulled) -> None:
    if one.problem is not None:
        _complain(one.problem)
        return
    _say(f"{one.how:10} {one.entry.key} ({one.size} bytes, licence: {one.entry.licence})")


def _complain(problem: PennyreelError) -> None:
    sys.stderr.write(f"error[{problem.code}]: {problem}\n  {problem.hint}\n")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
