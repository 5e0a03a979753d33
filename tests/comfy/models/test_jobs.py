"""Models that jobs ask for: under their own sum, fetched once, kept while used, gone in order."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.models.library import Library, safetensors, sha256
from fakes.waits import eventually
from pennyreel_comfy.models import Ensured, Entry, Hosts, JobModels, Manifest, Root, Shelf
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import BadRequest, JobCancelled, JobFailed, ModelNeed

DATA = safetensors(300_000)
SHA = sha256(DATA)
Make = Callable[..., JobModels]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(library: Library, tmp_path: Path, clock: Clock) -> Make:
    def models(**changes: Any) -> JobModels:
        given: dict[str, Any] = {
            "hosts": Hosts([library.host]),
            "most": 50_000_000,
            "disk_bytes": 50_000_000,
            "roots": [tmp_path / "own"],
            "clock": clock,
            **changes,
        }
        return JobModels(tmp_path / "jobs", **given)

    return models


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The worker's own folder of LoRAs."""
    folder = tmp_path / "own" / "loras"
    folder.mkdir(parents=True)
    return folder


def need(url: str | None = None, **changes: Any) -> ModelNeed:
    given: dict[str, Any] = {"folder": "loras", "name": "x.safetensors", "url": url, **changes}
    return ModelNeed(**given)


def ensure(models: JobModels, *needs: ModelNeed, **options: Any) -> Ensured:
    return models.ensure(needs, **{"deadline": Deadline(30), **options})


def stored(models: JobModels) -> set[str]:
    return {
        path.relative_to(models.root).as_posix()
        for path in models.root.rglob("*")
        if path.is_file() and ".pennyreel" not in path.parts
    }


def leases(models: JobModels) -> list[Path]:
    return list((models.root / ".pennyreel" / "leases").glob("*"))


def test_a_file_is_kept_under_its_sum_and_comes_once(library: Library, make: Make) -> None:
    url, models = library.put("/x", DATA), make()
    for _ in range(2):
        done = ensure(models, need(url, sha256=SHA))
        assert done.names == {("loras", "x.safetensors"): f"{SHA}.safetensors"}
        done.release()
        done.release()
    assert (models.root / "loras" / f"{SHA}.safetensors").read_bytes() == DATA
    assert library.count("/x") == 1
    assert leases(models) == []


def test_two_jobs_that_use_one_name_get_each_their_own(library: Library, make: Make) -> None:
    other = safetensors(200_000)
    first, second = library.put("/x", DATA), library.put("/other", other)
    models = make()
    one, two = ensure(models, need(first)), ensure(models, need(second))
    assert one.names != two.names
    assert stored(models) == {f"loras/{SHA}.safetensors", f"loras/{sha256(other)}.safetensors"}
    one.release()
    two.release()


def test_jobs_at_the_same_time_download_a_file_once(library: Library, make: Make) -> None:
    url, models = library.put("/x", DATA, hold_at=100_000), make()
    done: list[Ensured] = []
    threads = [
        threading.Thread(target=lambda: done.append(ensure(models, need(url, sha256=SHA))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert library.held.wait(20)
    assert stored(models) == set(), "ComfyUI never sees a part of one"
    library.go_on.set()
    for thread in threads:
        thread.join(30)
    assert stored(models) == {f"loras/{SHA}.safetensors"}
    assert len(done) == 4
    assert library.count("/x") == 1
    for one in done:
        one.release()


def test_an_unknown_content_is_not_fetched_again_while_it_is_fresh(
    library: Library, make: Make, clock: Clock
) -> None:
    url, models = library.put("/x", DATA), make()
    ensure(models, need(url)).release()
    ensure(models, need(url)).release()
    assert library.count("/x") == 1
    clock.now += 400
    ensure(models, need(url)).release()
    assert library.asked[-1].headers["If-None-Match"] == library.files["/x"].etag
    clock.now += 400
    other = safetensors(100_000)
    library.put("/x", other)
    done = ensure(make(), need(url))  # another process would see the same
    assert done.names["loras", "x.safetensors"] == f"{sha256(other)}.safetensors"
    done.release()


def test_a_host_that_is_down_leaves_what_is_here_with_a_warning(
    library: Library, make: Make, clock: Clock
) -> None:
    url, models = library.put("/x", DATA), make()
    ensure(models, need(url)).release()
    clock.now += 400
    library.files["/x"].status = 503
    library.files["/x"].etag = ""
    done = ensure(models, need(url))
    assert "earlier job" in done.warnings[0]
    done.release()
    clock.now += 400
    library.files["/x"].status = 403  # it no longer may be had: that is no fault of the line
    with pytest.raises(JobFailed, match=r"loras/x\.safetensors: .* 403") as caught:
        ensure(models, need(url))
    assert (caught.value.code, caught.value.retryable) == ("model_download_failed", False)


def test_without_a_url_and_a_sum_nothing_is_done(make: Make) -> None:
    models = make()
    done = ensure(models, need(), need(folder="some_pack", name="x.onnx"))
    assert (done.names, done.lease) == ({}, None)
    assert not models.root.exists()


def test_an_own_file_of_the_same_content_is_used_as_it_is(
    library: Library, make: Make, own: Path
) -> None:
    (own / "x.safetensors").write_bytes(DATA)
    url = library.put("/x", DATA)
    done = ensure(make(), need(url, sha256=SHA))
    assert done.names == {}
    assert library.asked == []
    done.release()


def test_an_own_file_of_another_content_is_not_what_was_asked_for(
    library: Library, make: Make, own: Path
) -> None:
    (own / "x.safetensors").write_bytes(b"mine")
    url, models = library.put("/x", DATA), make()
    done = ensure(models, need(url, sha256=SHA))
    assert done.names == {("loras", "x.safetensors"): f"{SHA}.safetensors"}
    done.release()
    with pytest.raises(BadRequest) as caught:
        ensure(models, need(sha256=SHA))
    assert caught.value.code == "model_refused"
    assert (own / "x.safetensors").read_bytes() == b"mine"


def test_an_own_file_is_read_for_its_sum_once(make: Make, own: Path) -> None:
    path = own / "x.safetensors"
    path.write_bytes(DATA)
    models = make()
    ensure(models, need(sha256=SHA)).release()
    stamp = path.stat().st_mtime
    path.write_bytes(b"y" * len(DATA))
    os.utime(path, (stamp, stamp))
    ensure(models, need(sha256=SHA)).release()  # believed, not read
    os.utime(path, (stamp + 2, stamp + 2))
    with pytest.raises(BadRequest):
        ensure(models, need(sha256=SHA))


def test_a_repository_that_the_platform_cached_is_not_downloaded(
    library: Library, make: Make, tmp_path: Path
) -> None:
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / SHA).write_bytes(DATA)
    (snapshot / "x.safetensors").symlink_to(repository / "blobs" / SHA)
    url = library.put("/x", DATA)
    done = ensure(make(roots=[Root(snapshot, "cached")]), need(url, sha256=SHA))
    assert done.names == {}
    assert library.asked == []
    done.release()
    assert [p.name for p in snapshot.iterdir()] == ["x.safetensors"]


def test_a_known_url_has_its_sum_from_the_manifest(library: Library, make: Make, own: Path) -> None:
    data = b"\x80\x04 a pickle"
    url = library.put("/x", data)
    known = Manifest((Entry(name="x.ckpt", folder="loras", url=url, sha256=sha256(data)),))
    models = make(manifest=known)
    done = ensure(models, need(url, name="x.ckpt"))
    assert done.names["loras", "x.ckpt"] == f"{sha256(data)}.ckpt"
    done.release()
    with pytest.raises(BadRequest, match="sha256 only"):
        ensure(models, need(f"{url}?other", name="x.ckpt"))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x.ckpt"}, {"name": "x.PTH"}, {"name": "x.bin"}, {"name": "x.pkl"},
        {"folder": "custom_nodes"}, {"folder": "nothing"}, {"name": "nul.safetensors"},
        {"name": "x.py"}, {"url": "http://127.0.0.1:1/x"}, {"url": "https://evil.example/x"},
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_before_anything_is_asked(
    changes: dict[str, str], library: Library, make: Make
) -> None:
    good = library.put("/good", DATA)
    models = make()
    with pytest.raises(BadRequest) as caught:
        ensure(models, need(good, name="good.safetensors"), need(**{"url": good, **changes}))
    assert caught.value.code == "model_refused"
    assert library.asked == []
    assert leases(models) == []


def test_two_needs_that_contradict_each_other_are_refused(library: Library, make: Make) -> None:
    one, two = library.put("/one", DATA), library.put("/two", DATA)
    with pytest.raises(BadRequest, match="two values of url"):
        ensure(make(), need(one), need(two))
    done = ensure(make(), need(one), need(one, sha256=SHA))
    assert library.count("/one") == 1
    done.release()


def test_a_failed_download_lets_go_of_all_of_the_jobs_files(library: Library, make: Make) -> None:
    models = make()
    good = need(library.put("/x", DATA), name="good.safetensors")
    with pytest.raises(JobFailed) as caught:
        ensure(models, good, need(library.put("/y", DATA), sha256="0" * 64))
    assert caught.value.code == "model_download_failed"
    assert leases(models) == []
    assert ensure(models, good).release() is None


def test_the_first_failure_ends_the_other_downloads(library: Library, make: Make) -> None:
    models = make()
    held = need(library.put("/held", DATA, hold_at=100_000), name="held.safetensors")
    gone = need(f"http://{library.host}/gone", name="gone.safetensors")
    with pytest.raises(JobFailed, match="404"):
        ensure(models, held, gone)
    assert not library.go_on.is_set()
    assert leases(models) == []


def test_a_cancelled_job_stops_all_its_downloads(library: Library, make: Make) -> None:
    urls = [library.put(f"/{n}", safetensors(9_000_000), hold_at=5_000_000) for n in range(3)]
    models, token = make(), CancelToken()
    seen: set[str] = set()

    def cancel() -> None:
        eventually(lambda: len(seen) == 3)
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(JobCancelled):
        ensure(
            models,
            *(need(url, name=f"{n}.safetensors") for n, url in enumerate(urls)),
            cancel=token,
            progress=lambda told: seen.add(told.label),
        )
    thread.join()
    assert leases(models) == []
    assert stored(models) == set()


# Room.


@pytest.fixture
def three(library: Library) -> list[ModelNeed]:
    """Three files of about 300 kB."""
    made = []
    for number in range(3):
        data = safetensors(300_000)
        url = library.put(f"/{number}", data)
        made.append(need(url, sha256=sha256(data), name=f"{number}.safetensors"))
    return made


def test_what_was_used_longest_ago_goes_first(make: Make, three: list[ModelNeed]) -> None:
    models = make(disk_bytes=700_000)
    a, b, c = three
    ensure(models, a).release()
    ensure(models, b).release()
    ensure(models, a).release()  # used again: b is the oldest now
    ensure(models, c).release()
    assert stored(models) == {f"loras/{n.sha256}.safetensors" for n in (a, c)}


def test_a_file_in_use_never_goes(make: Make, three: list[ModelNeed]) -> None:
    models = make(disk_bytes=700_000)
    a, b, c = three
    held = ensure(models, a)
    ensure(models, b).release()
    ensure(make(disk_bytes=700_000), c).release()  # as another process of this worker would
    assert stored(models) == {f"loras/{n.sha256}.safetensors" for n in (a, c)}
    both = ensure(models, c)
    with pytest.raises(JobFailed) as caught:
        ensure(models, b)
    assert (caught.value.code, caught.value.retryable) == ("disk_full", True)
    held.release()
    both.release()
    ensure(models, b).release()
    assert stored(models) == {f"loras/{n.sha256}.safetensors" for n in (b, c)}


HOLDER = """
import sys
from pathlib import Path
from pennyreel_comfy.models import Hosts, JobModels
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import ModelNeed

root, host, url, sha256 = sys.argv[1:]
models = JobModels(Path(root), hosts=Hosts([host]), most=10**9, disk_bytes=10**9)
need = ModelNeed(folder="loras", name="x.safetensors", url=url, sha256=sha256)
held = models.ensure([need], deadline=Deadline(30))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(library: Library, tmp_path: Path) -> Iterator[Callable[[ModelNeed], Any]]:
    """A process that uses a model until it is told or killed."""
    running: list[subprocess.Popen[str]] = []

    def hold(one: ModelNeed) -> subprocess.Popen[str]:
        given = [str(tmp_path / "jobs"), library.host, str(one.url), str(one.sha256)]
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in running:
        process.kill()
        process.communicate()


def test_a_killed_process_no_longer_keeps_its_files(
    make: Make, three: list[ModelNeed], holder: Callable[[ModelNeed], Any]
) -> None:
    a, b, _ = three
    process = holder(a)
    models = make(disk_bytes=400_000)
    with pytest.raises(JobFailed):
        ensure(models, b)
    assert stored(models) == {f"loras/{a.sha256}.safetensors"}
    process.kill()
    process.wait()
    ensure(models, b).release()
    assert stored(models) == {f"loras/{b.sha256}.safetensors"}
    assert leases(models) == []


def test_a_lost_record_is_made_anew_from_the_disk(make: Make, three: list[ModelNeed]) -> None:
    models = make(disk_bytes=700_000)
    a, b, c = three
    ensure(models, a, b).release()
    (models.root / ".pennyreel" / "record.json").write_text("{ spoilt")
    ensure(models, c).release()
    assert len(stored(models)) == 2
    assert f"loras/{c.sha256}.safetensors" in stored(models)


def test_a_file_larger_than_all_the_room_is_refused(library: Library, make: Make) -> None:
    with pytest.raises(BadRequest, match="more than the 100000 bytes"):
        ensure(make(disk_bytes=100_000), need(library.put("/x", DATA)))


def test_only_files_that_jobs_had_downloaded_ever_go(
    make: Make, three: list[ModelNeed], own: Path
) -> None:
    models = make(disk_bytes=400_000)
    (own / "x.safetensors").write_bytes(DATA)
    strange = models.root / "loras" / "mine.safetensors"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(DATA)
    for one in three:
        ensure(models, one).release()
    assert stored(models) == {"loras/mine.safetensors", f"loras/{three[2].sha256}.safetensors"}
    assert (own / "x.safetensors").exists()


def test_a_folder_that_cannot_be_written_to_is_told(library: Library, make: Make) -> None:
    models = make()
    models.root.write_text("a file")
    with pytest.raises(JobFailed) as caught:
        ensure(models, need(library.put("/x", DATA)))
    assert caught.value.code == "disk_full"


def test_what_another_download_left_makes_room_first(
    make: Make, three: list[ModelNeed], library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = make(disk_bytes=400_000)
    broken = need(library.put("/broken", DATA, cuts=[100_000]), name="broken.safetensors")
    library.files["/broken"].status = 200
    token = CancelToken()
    with pytest.raises(JobCancelled):
        ensure(models, broken, cancel=token, progress=lambda _: token.cancel())
    parts = models.root / ".pennyreel" / "parts"
    assert list(parts.glob("*.part"))
    ensure(models, three[0]).release()
    ensure(models, three[1]).release()
    assert list(parts.glob("*.part")) == []
    assert stored(models) == {f"loras/{three[1].sha256}.safetensors"}


def test_clearing_leaves_what_is_in_use(make: Make, three: list[ModelNeed]) -> None:
    models = make()
    a, b, c = three
    held = ensure(models, a)
    ensure(models, b, c).release()
    shelf = Shelf(models.root, 10**9, Clock())
    would = shelf.clear(dry_run=True)
    assert len(stored(models)) == 3
    assert shelf.clear() == would
    assert {one.path.name for one in would} == {f"{n.sha256}.safetensors" for n in (b, c)}
    assert stored(models) == {f"loras/{a.sha256}.safetensors"}
    held.release()
