"""A model comes whole and checked, goes on where it broke off, and from allowed hosts only."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy.models.library import Library, safetensors, sha256
from fakes.waits import eventually
from pennyreel_comfy.models import Hosts, Progress, Rules
from pennyreel_comfy.models import download as download_module
from pennyreel_comfy.models import parts as parts_module
from pennyreel_comfy.models.answers import _page_hint
from pennyreel_comfy.models.download import Got, Want, download
from pennyreel_comfy.models.parts import Part
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import BadRequest, JobCancelled, JobFailed, JobTimeout, PennyreelError

DATA = safetensors(3_000_000)
SHA = sha256(DATA)
Opened = Callable[[], Library]


def rules_for(*hosts: str, **changes: Any) -> Rules:
    given: dict[str, Any] = {
        "hosts": Hosts(hosts),
        "most": 100_000_000,
        "deadline": Deadline(30),
        "cancel": CancelToken(),
        "pauses_s": (0.01, 0.01),
        **changes,
    }
    return Rules(**given)


def get(url: str, part: Path, rules: Rules, **want: Any) -> Got:
    with Part(part, deadline=rules.deadline, cancel=rules.cancel) as opened:
        given: dict[str, Any] = {"label": "loras/x.safetensors", **want}
        return download(Want(url, **given), opened, rules)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


def test_a_file_comes_whole_and_is_summed_on_its_way(library: Library, part: Path) -> None:
    url = library.put("/x", DATA)
    seen: list[Progress] = []
    got = get(url, part, rules_for(library.host, progress=seen.append), sha256=SHA, size=len(DATA))
    assert (got.sha256, got.size) == (SHA, len(DATA))
    assert part.read_bytes() == DATA
    assert seen[-1] == ("loras/x.safetensors", len(DATA), len(DATA))
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_a_transfer_that_breaks_goes_on_where_it_was(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[1_000_000, 1_200_000])
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert [a.start for a in library.asked] == [0, 1_000_000, 2_200_000]
    assert library.asked[1].headers["If-Range"] == library.files["/x"].etag


def test_one_that_never_gets_any_further_is_given_up(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[500_000, 0, 0, 0, 0])
    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host))
    assert (caught.value.code, caught.value.retryable) == ("model_download_failed", True)
    assert library.count("/x") == 3
    assert part.stat().st_size == 500_000


@pytest.mark.parametrize("cuts", [[500_000, 400_000] * 20, [500_000, 500_000] * 20])
def test_one_that_only_begins_anew_is_given_up(
    cuts: list[int], library: Library, part: Path
) -> None:
    url = library.put("/x", DATA, ranges=False, cuts=cuts)
    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host))
    assert (caught.value.code, caught.value.retryable) == ("model_download_failed", True)
    assert library.count("/x") == 3


def test_a_length_that_is_not_true_ends_in_an_error(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, announced=len(DATA) + 1000)
    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host))
    assert caught.value.code == "model_download_failed"
    assert library.count("/x") == 3


def test_a_host_that_sends_more_than_there_is_does_not_fill_the_disk(
    library: Library, part: Path
) -> None:
    url = library.put("/x", DATA * 20, length=False)
    with pytest.raises(JobFailed, match="more than"):
        get(url, part, rules_for(library.host), size=len(DATA))
    assert part.stat().st_size == 0


def test_a_known_size_finds_out_what_was_cut_short(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, length=False, cuts=[2_000_000])
    assert get(url, part, rules_for(library.host), size=len(DATA)).sha256 == SHA


def test_what_others_fill_a_disk_with_ends_a_download_in_time(
    library: Library, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = library.put("/x", DATA)
    monkeypatch.setattr(download_module, "ROOM_STEP", 1_000_000)

    def filled(_: Progress) -> None:
        monkeypatch.setattr(parts_module, "MIN_FREE_BYTES", 1 << 60)

    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host, progress=filled))
    assert caught.value.code == "disk_full"
    assert 0 < part.stat().st_size < len(DATA)


def test_what_an_earlier_call_left_is_gone_on_with(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[2_000_000, 0, 0])
    with pytest.raises(JobFailed):
        get(url, part, rules_for(library.host))
    library.asked.clear()
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert [a.start for a in library.asked] == [2_000_000]


def test_a_file_that_changed_meanwhile_is_begun_anew(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[2_000_000, 0, 0])
    with pytest.raises(JobFailed):
        get(url, part, rules_for(library.host))
    other = safetensors(2_500_000)
    library.put("/x", other)
    assert get(url, part, rules_for(library.host)).sha256 == sha256(other)
    assert part.read_bytes() == other


def test_a_part_of_another_url_is_not_gone_on_with(library: Library, part: Path) -> None:
    first = library.put("/first", DATA, cuts=[2_000_000, 0, 0])
    with pytest.raises(JobFailed):
        get(first, part, rules_for(library.host))
    second = library.put("/second", safetensors(2_500_000))
    get(second, part, rules_for(library.host))
    assert part.read_bytes() == library.files["/second"].data


def test_a_host_without_ranges_sends_it_all_again(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, ranges=False, cuts=[2_000_000])
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert part.read_bytes() == DATA
    assert library.asked[1].start == 2_000_000


def test_without_an_etag_only_a_known_checksum_lets_it_go_on(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, etag="", cuts=[2_000_000])
    get(url, part, rules_for(library.host))
    assert [a.start for a in library.asked] == [0, 0]
    library.asked.clear()
    part.unlink()
    library.files["/x"].cuts = [2_000_000]
    get(url, part, rules_for(library.host), sha256=SHA)
    assert [a.start for a in library.asked] == [0, 2_000_000]


def test_a_part_that_was_spoilt_is_found_out_and_begun_anew(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[2_000_000, 0, 0])
    with pytest.raises(JobFailed):
        get(url, part, rules_for(library.host), sha256=SHA)
    spoilt = bytearray(part.read_bytes())
    spoilt[1_000_000] ^= 1
    part.write_bytes(spoilt)
    assert get(url, part, rules_for(library.host), sha256=SHA).sha256 == SHA
    assert part.read_bytes() == DATA


def test_a_part_longer_than_the_file_is_begun_anew(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, cuts=[2_000_000, 0, 0])
    with pytest.raises(JobFailed):
        get(url, part, rules_for(library.host))
    part.write_bytes(DATA + b"more")
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert part.read_bytes() == DATA


def test_another_checksum_is_an_error_and_nothing_stays(library: Library, part: Path) -> None:
    url = library.put("/x", DATA)
    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host), sha256="0" * 64)
    assert (caught.value.code, caught.value.retryable) == ("model_download_failed", False)
    assert SHA in str(caught.value)
    assert list(part.parent.iterdir()) == []
    assert library.count("/x") == 1


def test_another_size_than_the_known_one_is_not_even_fetched(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, hold_at=100)
    with pytest.raises(JobFailed, match="not 17"):
        get(url, part, rules_for(library.host), size=17)
    library.go_on.set()


@pytest.mark.parametrize("length", [True, False])
def test_more_bytes_than_allowed_are_refused(length: bool, library: Library, part: Path) -> None:
    url = library.put("/x", DATA, length=length)
    with pytest.raises(BadRequest) as caught:
        get(url, part, rules_for(library.host, most=len(DATA) - 1))
    assert caught.value.code == "model_refused"
    assert part.stat().st_size == 0


@pytest.mark.parametrize("length", [True, False])
def test_what_the_disk_has_no_room_for_is_not_begun(
    length: bool, library: Library, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "MIN_FREE_BYTES", 1 << 60)
    url = library.put("/x", DATA, length=length)
    with pytest.raises(JobFailed) as caught:
        get(url, part, rules_for(library.host))
    assert (caught.value.code, caught.value.retryable) == ("disk_full", True)
    assert part.stat().st_size == 0


@pytest.mark.parametrize("content", [b"\x80\x04\x95 a pickle", b"PK\x03\x04", b"<html>", b""])
@pytest.mark.parametrize("ending", [".safetensors", ".sft", ".gguf", ".SAFETENSORS"])
def test_what_only_calls_itself_safe_is_refused(
    content: bytes, ending: str, library: Library, part: Path
) -> None:
    url = library.put("/x", content)
    pinned = sha256(content)
    with pytest.raises(BadRequest) as caught:
        get(url, part, rules_for(library.host), label=f"loras/x{ending}", sha256=pinned)
    assert caught.value.code == "model_refused"
    assert list(part.parent.iterdir()) == []


def test_a_truncated_safetensors_file_is_refused(library: Library, part: Path) -> None:
    url = library.put("/x", DATA[:-1])
    with pytest.raises(BadRequest, match="its size differ"):
        get(url, part, rules_for(library.host))


@pytest.mark.parametrize(
    ("status", "retryable"), [(404, False), (403, False), (401, False), (503, True), (429, True)]
)
def test_a_refusal_by_the_host_is_told(
    status: int, retryable: bool, library: Library, part: Path
) -> None:
    url = library.put("/x", b"", status=status)
    with pytest.raises(JobFailed, match=str(status)) as caught:
        get(f"{url}?token=SECRET", part, rules_for(library.host))
    assert (caught.value.code, caught.value.retryable) == ("model_download_failed", retryable)
    assert "SECRET" not in str(caught.value.info)


def test_a_pause_that_the_host_asks_for_is_kept(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, status=429, headers={"Retry-After": "1"})

    def answers() -> None:
        eventually(lambda: library.count("/x") == 2)
        library.put("/x", DATA)

    thread = threading.Thread(target=answers)
    thread.start()
    began = time.monotonic()
    assert get(url, part, rules_for(library.host, pauses_s=(0.01,) * 20)).sha256 == SHA
    thread.join()
    assert time.monotonic() - began >= library.count("/x") - 1 >= 2


def test_a_pause_that_would_take_for_ever_is_told_instead(library: Library, part: Path) -> None:
    url = library.put("/x", b"", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(JobFailed, match="answers 429") as caught:
        get(url, part, rules_for(library.host))
    assert (caught.value.retryable, caught.value.info.detail) == (True, {"retry_after_s": 3600})
    assert library.count("/x") == 1


def test_a_page_is_not_taken_for_a_model(library: Library, part: Path) -> None:
    given = {"Content-Type": "text/html; charset=utf-8"}
    url = library.put("/login", b"<!doctype html><title>Log in", headers=given)
    for sha256_ in (None, SHA):
        with pytest.raises(BadRequest, match="web page") as caught:
            get(url, part, rules_for(library.host), sha256=sha256_)
        assert caught.value.code == "model_refused"
    told = library.put(
        "/told", b'{"error":"Unauthorized"}', headers={"Content-Type": "application/json"}
    )
    with pytest.raises(BadRequest, match="a message, not"):
        get(told, part, rules_for(library.host))
    assert "CIVITAI_API_KEY" in _page_hint("https://civitai.com/api/download/models/1", Hosts())


def test_a_file_that_comes_packed_is_not_kept(library: Library, part: Path) -> None:
    url = library.put("/x", gzip.compress(DATA), headers={"Content-Encoding": "gzip"})
    with pytest.raises(JobFailed, match="packed") as caught:
        get(url, part, rules_for(library.host))
    assert not caught.value.retryable
    assert library.count("/x") == 1


def test_a_date_is_enough_to_go_on_from(library: Library, part: Path) -> None:
    dated = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    url = library.put("/x", DATA, etag="", headers=dated, cuts=[2_000_000])
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert [a.start for a in library.asked] == [0, 2_000_000]
    assert library.asked[1].headers["If-Range"] == dated["Last-Modified"]


def test_a_cancellation_ends_it_at_once_and_keeps_what_came(library: Library, part: Path) -> None:
    url, token = library.put("/x", DATA, hold_at=2_000_000), CancelToken()

    def cancel() -> None:
        eventually(lambda: part.exists() and part.stat().st_size > 0)
        token.cancel()

    timer = threading.Thread(target=cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        get(url, part, rules_for(library.host, cancel=token))
    timer.join()
    assert 0 < part.stat().st_size <= 2_000_000
    library.files["/x"].hold_at = None
    library.asked.clear()
    assert get(url, part, rules_for(library.host)).sha256 == SHA
    assert library.asked[0].start > 0


def test_a_deadline_ends_it(library: Library, part: Path) -> None:
    url = library.put("/x", DATA, hold_at=2_000_000)
    with pytest.raises(JobTimeout):
        get(url, part, rules_for(library.host, deadline=Deadline(0.5)))


# Hosts and tokens.


def test_a_host_that_is_not_listed_is_never_asked(library: Library, part: Path) -> None:
    url = library.put("/x", DATA)
    for host in ("127.0.0.1", "127.0.0.1:1", "other.example"):
        with pytest.raises(BadRequest) as caught:
            get(url, part, rules_for(host))
        assert caught.value.code in {"model_refused", "address_refused"}
    assert library.asked == []


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://huggingface.co/a/b/resolve/main/x.safetensors", True),
        ("https://civitai.com/api/download/models/1", True),
        ("http://huggingface.co/a", False),
        ("https://huggingface.co.evil.example/a", False),
        ("https://evil-huggingface.co/a", False),
        ("https://cdn-lfs.huggingface.co/a", False),
        ("https://civitai-delivery-worker-prod.x.r2.cloudflarestorage.com/a", False),
        ("https://models.lan.example/a", True),
        ("https://a.wild.example/a", True),
        ("https://wild.example/a", False),
        ("http://store.lan:9000/a", True),
        ("http://store.lan:9001/a", False),
        ("http://[fd00::1]:9000/a", True),
        ("http://pasted.lan:9000/a", True),
        ("http://pasted.lan/a", False),
        ("https://me:pw@huggingface.co/a", False),
        ("file:///etc/passwd", False),
    ],
)
def test_a_download_starts_at_listed_hosts_only(url: str, allowed: bool) -> None:
    hosts = Hosts(
        ["models.lan.example", "*.wild.example", "Store.lan:9000", "[fd00::1]:9000",
         "http://Pasted.lan:9000/bucket"]
    )  # fmt: skip
    if allowed:
        hosts.check(url)
        return
    with pytest.raises(BadRequest) as caught:
        hosts.check(url)
    assert "pw" not in str(caught.value)


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
    open_library: Opened, part: Path
) -> None:
    here, there = open_library(), open_library()
    target = there.put("/x", DATA)
    url = here.put("/x", b"", status=302, location=target)
    with pytest.raises(BadRequest) as caught:
        get(url, part, rules_for(here.host))
    assert caught.value.code == "model_refused"
    assert there.asked == []
    assert get(url, part, rules_for(here.host, there.host)).sha256 == SHA


@pytest.mark.parametrize(
    ("start", "target", "allowed"),
    [
        ("https://huggingface.co/a", "https://us.aws.cdn.hf.co/x?sig", True),
        ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co/x", True),
        ("https://huggingface.co/a", "https://cdn-lfs-us-1.huggingface.co/x", True),
        ("https://huggingface.co/a", "https://b2.civitai.com/x", False),
        ("https://huggingface.co/a", "http://cdn-lfs.hf.co/x", False),
        ("https://huggingface.co/a", "https://hf.co.evil.example/x", False),
        ("https://civitai.com/a", "https://b2.civitai.com/x", True),
        ("https://civitai.com/a", "https://civitai-delivery-worker-prod.5a.r2.cloudflarestorage.com/x",
         True),
        ("https://civitai.com/a", "https://other.5a.r2.cloudflarestorage.com/x", False),
        ("https://civitai.com/a", "https://169.254.169.254/x", False),
    ],
)  # fmt: skip
def test_each_host_redirects_to_its_own_stores_only(start: str, target: str, allowed: bool) -> None:
    from pennyreel_comfy.addresses import parse

    policy = Hosts(hf_token="HF-SECRET", civitai_token="CV-SECRET").policy(start)
    assert "Authorization" in policy(parse(start))
    if allowed:
        assert policy(parse(target)) == {}
        return
    with pytest.raises(PennyreelError) as caught:
        policy(parse(target))
    assert "SECRET" not in str(caught.value)


def test_a_token_goes_to_its_own_host_and_to_no_other(open_library: Opened, part: Path) -> None:
    here, there = open_library(), open_library()
    url = here.put("/x", b"", status=302, location=there.put("/x", DATA))
    hosts = Hosts([here.host, there.host], tokens={here.host: "SECRET"})
    get(url, part, rules_for(hosts=hosts))
    assert here.asked[0].headers["Authorization"] == "Bearer SECRET"
    assert all("Authorization" not in asked.headers for asked in there.asked)
    assert "SECRET" not in repr(hosts) + repr(vars(rules_for(hosts=hosts))["hosts"])


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://huggingface.co/x", True),
        ("https://huggingface.co:8443/x", False),
        ("https://civitai.com/x", False),
        ("https://cdn-lfs.huggingface.co/x", False),
    ],
)
def test_a_token_needs_https_and_the_usual_port(url: str, sent: bool) -> None:
    from pennyreel_comfy.addresses import parse

    hosts = Hosts(["cdn-lfs.huggingface.co", "huggingface.co"], hf_token="SECRET")
    assert ("Authorization" in hosts.policy(url)(parse(url))) is sent


def test_a_gated_model_says_which_token_is_missing() -> None:
    assert "HF_TOKEN" in (Hosts().hint("https://huggingface.co/x", 401) or "")
    said = Hosts(hf_token="SECRET").hint("https://huggingface.co/x", 403) or ""
    assert "licence" in said
    assert "SECRET" not in said
    assert Hosts().hint("https://huggingface.co/x", 404) is None
