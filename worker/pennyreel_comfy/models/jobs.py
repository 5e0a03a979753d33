"""Models that jobs ask for: by URL under their sha256, or by name among the worker's own.

    ensured = models.ensure(request.models, deadline=deadline, cancel=cancel)
    graph = rename_models(graph, ensured.names)
    …run and deliver…
    ensured.release()

A job's file is `ROOT/FOLDER/SHA256.ENDING`: two jobs that call different files by the same name
never get each other's. Those used longest ago make room for new ones; a file in use never does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pennyreel_comfy.fetch import stream
from pennyreel_comfy.models.answers import check_answer
from pennyreel_comfy.models.digests import Digests
from pennyreel_comfy.models.download import Got, Progress, Rules, Want, download, translated
from pennyreel_comfy.models.eviction import Shelf
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_comfy.models.lock import locked
from pennyreel_comfy.models.manifest import Manifest
from pennyreel_comfy.models.names import check_pinned, checked_name, known_folder, suffix_of
from pennyreel_comfy.models.parts import Part
from pennyreel_comfy.models.records import Lease, Seen
from pennyreel_comfy.models.roots import Root, as_root, locate
from pennyreel_comfy.models.store import PARALLEL, part_of
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, ModelNeed, PennyreelError, error

FRESH_S = 300.0
"""For so long a URL without a checksum is taken to lead to the same file, and is not asked."""


@dataclass(frozen=True)
class Ensured:
    """A job's models, there until `release`."""

    names: dict[tuple[str, str], str]
    """(folder, name as the graph has it) -> the name to tell ComfyUI, where that differs."""
    warnings: tuple[str, ...]
    lease: Lease | None

    def release(self) -> None:
        """Let the files go; a second call does nothing."""
        if self.lease is not None:
            self.lease.release()


@dataclass(frozen=True)
class _Job:
    """What one call of `ensure` hands down."""

    rules: Rules
    lease: Lease
    warnings: list[str]


class JobModels:
    """The folder of models that jobs asked for, beside the worker's own. Thread-safe."""

    def __init__(
        self,
        root: Path,
        *,
        hosts: Hosts,
        most: int,
        disk_bytes: int,
        roots: Sequence[Root | Path] = (),
        manifest: Manifest | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep the settings; nothing is asked or made.

        Args:
            root: of what is downloaded here, and may be removed again. ComfyUI has to know it
                (`paths_yaml`), and nothing else may lie in it.
            hosts: the allow-list, with its tokens.
            most: bytes that one file may have.
            disk_bytes: bytes that all files in `root` may have.
            roots: where the worker's own models are, in ComfyUI's order: baked in, volumes.
            manifest: models whose URL and checksum are known.
            clock: seconds since 1970.

        """
        self.root = root.absolute()
        self._hosts, self._most, self._clock = hosts, min(most, disk_bytes), clock
        self._roots = [as_root(root) for root in roots]
        self._manifest = manifest
        self._digests = Digests(self.root)
        self._shelf = Shelf(self.root, disk_bytes, clock)

    def files(self) -> frozenset[str]:
        """Return the names of the files that jobs have brought, which are nobody else's to name."""
        return self._shelf.names()

    def ensure(
        self,
        needs: Sequence[ModelNeed],
        *,
        deadline: Deadline,
        cancel: CancelToken | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Ensured:
        """See to it that what `needs` name by URL is here, and that checksums are what they say.

        A need without URL and checksum is not looked at: whoever runs the graph does that.

        Raises:
            BadRequest: `model_refused`, `address_refused`.
            JobFailed: `model_download_failed`, `disk_full`.
            JobTimeout, JobCancelled: as named.

        """
        wanted = _merged([n for n in needs if n.url is not None or n.sha256 is not None])
        if not wanted:
            return Ensured({}, (), None)
        try:
            lease = self._shelf.records.lease()
        except OSError as problem:
            raise _unwritable(problem) from None
        rules = Rules(self._hosts, self._most, deadline, cancel or CancelToken(), progress)
        job = _Job(rules, lease, [])
        try:
            for need in wanted:  # before anything is downloaded
                self._check(need)
            told = self._all(wanted, job)
        except OSError as problem:
            lease.release()
            raise _unwritable(problem) from None
        except BaseException:
            lease.release()
            raise
        names = {(n.folder, n.name): t for n, t in zip(wanted, told, strict=True) if t != n.name}
        return Ensured(names, tuple(job.warnings), lease)

    def _all(self, wanted: Sequence[ModelNeed], job: _Job) -> list[str]:
        """Get each, some at once. The first failure ends the others: the job cannot run."""
        alone = CancelToken()
        job.rules.cancel.on_cancel(alone.cancel)
        ours = replace(job, rules=replace(job.rules, cancel=alone))

        def one(need: ModelNeed) -> str:
            try:
                return self._one(need, ours)
            except BaseException:
                alone.cancel()
                raise

        try:
            with ThreadPoolExecutor(PARALLEL, "models") as pool:
                waiting = [pool.submit(one, need) for need in wanted]
        finally:
            job.rules.cancel.forget(alone.cancel)
        job.rules.cancel.check()
        problems = [p for p in (future.exception() for future in waiting) if p is not None]
        for problem in problems:  # those that only ended because of another one come last
            if not (isinstance(problem, PennyreelError) and problem.code == Code.CANCELLED.value):
                raise problem
        return [future.result() for future in waiting]

    def _check(self, need: ModelNeed) -> None:
        if need.url is None:
            return
        known_folder(need.folder)
        checked_name(need.name)
        check_pinned(need.name, self._pin(need))
        self._hosts.check(need.url)

    def _pin(self, need: ModelNeed) -> str | None:
        """Return its checksum: the job's, or the manifest's for the very same URL."""
        if need.sha256 is not None or self._manifest is None:
            return need.sha256
        entry = self._manifest.find(known_folder(need.folder), need.name)
        return entry.sha256 if entry is not None and entry.url == need.url else None

    def _one(self, need: ModelNeed, job: _Job) -> str:
        """Return the name by which ComfyUI has it."""
        pin = self._pin(need)
        if pin is not None and self._own(need, pin, job):
            return need.name
        if need.url is None:
            return need.name
        folder = known_folder(need.folder)
        key = f"{folder}/{pin or hashlib.sha256(need.url.encode()).hexdigest()}"
        part = part_of(self.root, key + suffix_of(need.name))
        with locked(
            part.with_suffix(".lock"),
            deadline=job.rules.deadline,
            cancel=job.rules.cancel,
            doing=f"waiting for another download of {need.folder}/{need.name}",
        ):
            if pin is not None:
                return self._pinned(need, pin, part, job)
            return self._unpinned(need, part, job)

    def _own(self, need: ModelNeed, pin: str, job: _Job) -> bool:
        """Whether the worker itself has the file, of this very content."""
        try:
            found = locate(self._roots, need.folder, need.name)
        except PennyreelError:  # a folder of some pack's own
            return False
        if found is None:
            return False
        root, path = found
        digest = self._digests.of(root, path, deadline=job.rules.deadline, cancel=job.rules.cancel)
        if digest == pin:
            return True
        if need.url is None:
            raise error(
                Code.MODEL_REFUSED,
                f"this worker's {need.folder}/{need.name} has sha256 {digest}, not {pin}",
                hint="Correct the sha256, or give the URL of the file that is meant.",
            )
        return False

    def _pinned(self, need: ModelNeed, pin: str, part: Path, job: _Job) -> str:
        file = f"{known_folder(need.folder)}/{pin}{suffix_of(need.name)}"
        if self._shelf.take(file, job.lease):
            return Path(file).name
        self._get(need, pin, part, job)
        return Path(file).name

    def _unpinned(self, need: ModelNeed, part: Path, job: _Job) -> str:
        """Get a file whose content only its host knows; ask the host whether it is still that."""
        url = hashlib.sha256(
            f"{need.folder}/{suffix_of(need.name)}/{need.url}".encode()
        ).hexdigest()
        with self._shelf.records.open() as record:
            seen = record.urls.get(url)
        if seen is not None and self._shelf.take(seen.file, job.lease):
            if self._clock() - seen.checked < FRESH_S:
                return Path(seen.file).name
            if self._unchanged(need, seen, job):
                self._note(url, seen.model_copy(update={"checked": self._clock()}))
                return Path(seen.file).name
        got = self._get(need, None, part, job)
        file = f"{known_folder(need.folder)}/{got.sha256}{suffix_of(need.name)}"
        self._note(url, Seen(file=file, validator=got.validator, checked=self._clock()))
        return Path(file).name

    def _unchanged(self, need: ModelNeed, seen: Seen, job: _Job) -> bool:
        """Ask the host; where it does not answer, what is here is better than nothing."""
        headers = {"If-None-Match": seen.validator} if seen.validator.startswith('"') else {}
        assert need.url is not None  # noqa: S101 - only such needs come here
        try:
            with stream(
                need.url,
                deadline=job.rules.deadline,
                allow_hosts=self._hosts.private,
                cancel=job.rules.cancel,
                policy=self._hosts.policy(need.url, headers),
            ) as reply:
                if reply.status == 304:
                    return True
                check_answer(need.url, reply, self._hosts)
                tag = reply.header("ETag") or reply.header("Last-Modified")
                return bool(seen.validator and tag == seen.validator)
        except PennyreelError as problem:
            if problem.code != Code.INPUT_UNREACHABLE.value:
                raise
            if not problem.retryable:
                raise translated(problem, f"{need.folder}/{need.name}") from None
            job.warnings.append(
                f"{need.folder}/{need.name} was taken from an earlier job: {problem}"
            )
            return True

    def _note(self, url: str, seen: Seen) -> None:
        with self._shelf.records.open() as record:
            record.urls[url] = seen

    def _get(self, need: ModelNeed, pin: str | None, part: Path, job: _Job) -> Got:
        """Download into the shelf, and use it."""
        assert need.url is not None  # noqa: S101 - only such needs come here
        want = Want(need.url, f"{need.folder}/{need.name}", pin)
        rules = replace(job.rules, room=self._shelf.make_room)
        with Part(part, deadline=rules.deadline, cancel=rules.cancel) as opened:
            got = download(want, opened, rules)
            file = f"{known_folder(need.folder)}/{got.sha256}{suffix_of(need.name)}"
            self._shelf.put(opened, file, got, job.lease)
        return got


def _unwritable(problem: OSError) -> PennyreelError:
    return error(Code.DISK_FULL, f"models cannot be stored: {problem.strerror}")


def _merged(needs: Sequence[ModelNeed]) -> list[ModelNeed]:
    """Make one of those that mean the same file: a template's and the request's own.

    Raises:
        BadRequest: `bad_request`: two that contradict each other.

    """
    merged: dict[tuple[str, str], ModelNeed] = {}
    for need in needs:
        first = merged.setdefault((need.folder, need.name), need)
        for field in ("url", "sha256"):
            mine, its = getattr(first, field), getattr(need, field)
            if mine and its and mine != its:
                raise error(
                    Code.BAD_REQUEST,
                    f"models: {need.folder}/{need.name} is asked for with two values of {field}",
                )
            first = first.model_copy(update={field: mine or its})
        merged[need.folder, need.name] = first
    return list(merged.values())
