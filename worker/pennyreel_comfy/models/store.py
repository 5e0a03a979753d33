"""Models from a manifest in a folder: fetched, several at once, checked, cleared out."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from pennyreel_comfy.models.digests import STATE, Digests, sha256_of
from pennyreel_comfy.models.download import Rules, Want, download
from pennyreel_comfy.models.lock import locked, tried
from pennyreel_comfy.models.manifest import Entry
from pennyreel_comfy.models.names import check_pinned, place
from pennyreel_comfy.models.parts import Part, disk_error, remove
from pennyreel_comfy.models.roots import Root, locate
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

PARALLEL = 3
"""Files at once: more only share the same line."""

How = Literal["present", "downloaded", "failed"]
Verdict = Literal["good", "missing", "different", "unpinned"]


@dataclass(frozen=True)
class Pulled:
    """What became of one entry."""

    entry: Entry
    how: How
    path: Path
    size: int = 0
    sha256: str = ""
    problem: PennyreelError | None = None


class Verified(NamedTuple):
    """What a file is, read anew."""

    entry: Entry
    verdict: Verdict
    sha256: str = ""


class Stale(NamedTuple):
    """Something that may go."""

    path: Path
    size: int


class Store:
    """The folder that has a folder for each kind of models, as ComfyUI's own `models`."""

    def __init__(self, root: Path) -> None:
        """Keep the path; nothing is made yet."""
        self.root = root.absolute()
        self._as_root = Root(self.root)
        self._digests = Digests()

    def path(self, entry: Entry) -> Path:
        """Return where an entry's file is, or where it will be."""
        found = locate([self._as_root], entry.folder, entry.name)
        return found[1] if found else place(self.root, entry.folder, entry.name)

    def has(self, entry: Entry) -> bool:
        """Whether a file of its name, and of its size where that is known, is there."""
        path = self.path(entry)
        return path.is_file() and entry.bytes in (None, path.stat().st_size)

    def pull(
        self,
        entries: Sequence[Entry],
        rules: Rules,
        *,
        parallel: int = PARALLEL,
        force: bool = False,
    ) -> list[Pulled]:
        """Download what is missing. One that fails does not keep the others from coming.

        Args:
            entries: which ones.
            rules: hosts, limits, deadline, cancel token, progress.
            parallel: files at once.
            force: replace files that are there with another content.

        Returns:
            What became of each, in their order.

        Raises:
            JobCancelled: it was cancelled; what there is stays, and is resumed the next time.

        """
        with ThreadPoolExecutor(max(1, parallel), "models") as pool:
            waiting = [pool.submit(self._one, entry, rules, force) for entry in entries]
            try:
                done = [future.result() for future in waiting]
            except BaseException:  # Ctrl-C, here in the main thread: the others are to end, too
                rules.cancel.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        rules.cancel.check()
        return done

    def copy(self, pulled: Sequence[Pulled], target: Path) -> None:
        """Copy these files, and nothing else of the store, to another root, with their checksums.

        For a build that keeps its downloads: an image gets only what was asked for.

        Raises:
            JobFailed: `disk_full`.

        """
        root = Root(target.absolute())
        for one in pulled:
            path = place(root.path, one.entry.folder, one.entry.name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(one.path, path)  # its time, too, by which its checksum is known
            except OSError as problem:
                raise disk_error(problem, path) from None
            if one.sha256:
                self._digests.remember(root, path, one.sha256)

    def verify(
        self, entries: Sequence[Entry], *, deadline: Deadline, cancel: CancelToken
    ) -> Iterator[Verified]:
        """Read the entries' files anew and compare them. Yields each when it is known.

        Raises:
            BadRequest: `bad_input`: one cannot be read.

        """
        for entry in entries:
            path = self.path(entry)
            if not path.is_file():
                yield Verified(entry, "missing")
                continue
            try:
                digest = sha256_of(path, deadline=deadline, cancel=cancel)
            except OSError as problem:
                raise error(Code.BAD_INPUT, f"{path} cannot be read: {problem.strerror}") from None
            self._digests.remember(self._as_root, path, digest)
            same: Verdict = "good" if digest == entry.sha256 else "different"
            yield Verified(entry, same if entry.sha256 else "unpinned", digest)

    def prune(self, *, dry_run: bool = False) -> list[Stale]:
        """Remove beginnings of downloads that nobody is at work on; return those that went.

        With `dry_run`, return those that would go.
        """
        return prune_parts(self.root, dry_run=dry_run)

    def _one(self, entry: Entry, rules: Rules, force: bool) -> Pulled:
        path = place(self.root, entry.folder, entry.name)
        try:
            return self._pull(entry, path, rules, force)
        except PennyreelError as problem:
            if rules.cancel.cancelled:
                raise
            return Pulled(entry, "failed", path, problem=problem)
        except OSError as problem:
            ours = error(Code.DISK_FULL, f"{entry.key} cannot be stored: {problem.strerror}")
            return Pulled(entry, "failed", path, problem=ours)

    def _pull(self, entry: Entry, path: Path, rules: Rules, force: bool) -> Pulled:
        check_pinned(entry.name, entry.sha256)
        there = self._present(entry, rules)
        if there is not None and there.problem is None:
            return there  # without the lock, which a folder that is only read cannot have
        part = part_of(self.root, f"{entry.folder}/{entry.name}")
        with locked(
            part.with_suffix(".lock"),
            deadline=rules.deadline,
            cancel=rules.cancel,
            doing=f"waiting for another download of {entry.key}",
        ):
            there = self._present(entry, rules)
            if there is not None and (there.problem is None or not force):
                return there
            want = Want(entry.url, entry.key, entry.sha256, entry.bytes)
            with Part(part, deadline=rules.deadline, cancel=rules.cancel) as opened:
                got = download(want, opened, rules)
                opened.move(path)
            self._digests.remember(self._as_root, path, got.sha256)
            return Pulled(entry, "downloaded", path, got.size, got.sha256)

    def _present(self, entry: Entry, rules: Rules) -> Pulled | None:
        """Return the verdict on a file that is there already."""
        found = locate([self._as_root], entry.folder, entry.name)
        if found is None:
            return None
        path = found[1]
        done = Pulled(entry, "present", path, path.stat().st_size)
        if entry.sha256 is None and entry.bytes in (None, done.size):
            return done
        digest = self._digests.of(self._as_root, path, deadline=rules.deadline, cancel=rules.cancel)
        if digest == entry.sha256:
            return replace(done, sha256=digest)
        different = error(
            Code.MODEL_REFUSED,
            f"{entry.key} is there with another content: {done.size} bytes, sha256 {digest}",
            hint="Move it away, or replace it with --force.",
        )
        return replace(done, how="failed", sha256=digest, problem=different)


def part_of(root: Path, key: str) -> Path:
    """Return where the beginning of a download is kept: on the disk that it will be moved on.

    Args:
        root: a folder of models.
        key: what it is, beginning with its folder. That one may be a link to another disk, or a
            mount: then it is kept in there.

    """
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    folder = root / key.partition("/")[0]
    home = folder if _elsewhere(folder, root) else root
    return home / STATE / "parts" / f"{name}.part"


def _elsewhere(folder: Path, root: Path) -> bool:
    try:
        return folder.stat().st_dev != root.stat().st_dev
    except OSError:
        return False


def prune_parts(root: Path, *, dry_run: bool = False) -> list[Stale]:
    """Remove the parts below `root` that nobody is at work on, the oldest first."""
    places = f"{STATE}/parts/*.part"
    parts = [(p.stat().st_mtime, p) for p in (*root.glob(places), *root.glob(f"*/{places}"))]
    found = []
    for _, part in sorted(parts):
        with tried(part.with_suffix(".lock")) as idle:
            if idle and part.exists():
                found.append(Stale(part, part.stat().st_size))
                if not dry_run:
                    remove(part)
    return found
