"""From what a caller names to work ready to be sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH, LOADING, Reply, Script, Scripted
from pennyreel import BadRequest
from pennyreel.backends.base import Work
from pennyreel.workload import Order, build


def order(workflow: Any, **changes: Any) -> Order:
    empty: dict[str, Any] = {
        "set": {}, "set_text": {}, "inputs": {}, "parameters": {}, "parameters_text": {}
    }  # fmt: skip
    return Order(workflow=workflow, **{**empty, **changes})


def make(workflow: Any, **changes: Any) -> Work:
    return build(order(workflow, **changes))


def test_a_workflow_may_be_a_path_a_graph_a_url_or_a_template_s_name(
    tmp_path: Path, scripted: Callable[[Script], Scripted]
) -> None:
    (tmp_path / "g.json").write_text(json.dumps(GRAPH))
    server = scripted(lambda _: Reply(body=GRAPH))
    for given in (tmp_path / "g.json", str(tmp_path / "g.json"), GRAPH, f"{server.url}/g.json"):
        assert make(given).graph == GRAPH
    assert make("hello-video").graph


def test_the_caller_s_graph_stays_as_it_is() -> None:
    before = json.dumps(GRAPH)
    work = make(GRAPH, set={"1.width": 128}, set_text={"2.filename_prefix": "x"}, seed=9)
    assert json.dumps(GRAPH) == before
    assert work.graph["1"]["inputs"] == {"width": 128, "height": 64, "seed": 9}
    assert work.graph["2"]["inputs"]["filename_prefix"] == "x"


def test_text_becomes_what_the_old_value_was() -> None:
    assert make(GRAPH, set_text={"1.width": "7"}).graph["1"]["inputs"]["width"] == 7
    with pytest.raises(BadRequest, match="number"):
        make(GRAPH, set_text={"1.width": "wide"})


@pytest.mark.parametrize("place", ["1.image", "1", "photo", "photo.image"])
def test_a_file_may_be_given_by_node_id_or_title_with_or_without_the_input(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "new.png").write_bytes(b"png")
    work = make(LOADING, inputs={place: tmp_path / "new.png"})
    assert work.graph["1"]["inputs"]["image"] == "new.png"
    assert [(s.name, s.size) for s in work.sources] == [("new.png", 3)]


def test_a_node_without_one_file_input_asks_for_its_name(tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(b"png")
    with pytest.raises(BadRequest) as caught:
        make(GRAPH, inputs={"1": tmp_path / "new.png"})
    assert "1.INPUT" in caught.value.hint


def test_two_files_of_one_name_get_two_names_and_one_file_twice_is_one(tmp_path: Path) -> None:
    graph = {str(n): {"class_type": "LoadImage", "inputs": {"image": "x"}} for n in range(4)}
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.png").write_bytes(name.encode())
    a, b = tmp_path / "a" / "p.png", tmp_path / "b" / "p.png"
    work = make(graph, inputs={"0": a, "1": b, "2": a, "3": b})
    assert [work.graph[str(n)]["inputs"]["image"] for n in range(4)] == [
        "p.png", "p-2.png", "p.png", "p-2.png"
    ]  # fmt: skip
    assert [s.name for s in work.sources] == ["p.png", "p-2.png"]


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (b"\x89PNG\r\n", ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"....ftypisom", ".mp4"),
        (b"RIFF....WEBPVP8", ".webp"),
        (b"RIFF....WAVEfmt", ".wav"),
        (b"?", ".bin"),
    ],
)
def test_bytes_get_a_name_that_loaders_accept(data: bytes, ending: str) -> None:
    work = make(LOADING, inputs={"1.image": data})
    assert work.sources[0].name == f"input-1-image{ending}"
    assert work.graph["1"]["inputs"]["image"] == work.sources[0].name


def test_bytes_may_bring_a_name_and_it_is_made_harmless() -> None:
    work = make(LOADING, inputs={"1": ("../../x.png", b"data")})
    assert work.sources[0].name == "x.png"


def test_a_url_is_passed_on_by_reference() -> None:
    work = make(LOADING, inputs={"1": "https://example.com/a%20b.png?sig=SECRET"})
    assert work.sources[0].name == "a b.png"
    assert "SECRET" not in repr(work)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": {"1": "missing.png"}}, "missing.png"),
        ({"inputs": {"1": "ftp://host/x.png"}}, "ftp"),
        ({"set": {"9.x": 1}}, "9"),
        ({"parameters": {"a": 1}}, "template"),
        ({"nodes": ["77"]}, "77"),
        ({"kinds": ["smell"]}, "kinds"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"metadata": {"k": "x" * 20_000}}, "metadata"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        make(LOADING, **changes)


def test_a_missing_file_and_an_unknown_template_are_told_apart() -> None:
    with pytest.raises(BadRequest, match="no file"):
        make("missing.json")
    with pytest.raises(BadRequest, match="hello-video"):
        make("hello-vdeo")


def test_a_workflow_url_that_fails_says_so(scripted: Callable[[Script], Scripted]) -> None:
    server = scripted(lambda _: Reply(404))
    with pytest.raises(BadRequest, match="404"):
        make(f"{server.url}/g.json?sig=SECRET")


def test_a_template_takes_parameters_and_a_seed() -> None:
    work = make("hello-video", seed=77)
    assert work.seed == 77
    drawn = make("hello-video")
    assert drawn.seed is not None
    with pytest.raises(BadRequest):
        make("hello-video", parameters_text={"nonsense": "1"})


def test_the_digest_tells_requests_apart_and_ignores_the_attempt() -> None:
    one, same, other = make(GRAPH), make(GRAPH), make(GRAPH, seed=8)
    assert one.attempt_id != same.attempt_id
    assert one.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    "given",
    [
        "http://exa mple/x.png?sig=SECRET", "http://[::1/SECRET", "https://h:abc/SECRET", "s3://SECRET",
        "s3://SECRET/", "https:///SECRET", "weird://SECRET",
    ],
)  # fmt: skip
def test_an_input_that_is_no_url_is_named_and_not_quoted(given: str) -> None:
    with pytest.raises(BadRequest) as caught:
        make(LOADING, inputs={"1.image": given})
    assert caught.value.code == "bad_input"
    assert "SECRET" not in str(caught.value.info)


def test_a_workflow_s_address_that_is_no_url_is_told() -> None:
    for given in ("http://[::1/SECRET", "http://a b/SECRET", "https://h:abc/SECRET"):
        with pytest.raises(BadRequest, match="no http") as caught:
            make(given)
        assert "SECRET" not in str(caught.value.info)


def test_a_node_s_title_makes_a_plain_file_name() -> None:
    titled = {**LOADING, "1": {**LOADING["1"], "_meta": {"title": "Load/Image"}}}
    work = make(titled, inputs={"Load/Image.image": b"\x89PNG"})
    assert "/" not in work.sources[0].name
    assert work.sources[0].name.endswith(".png")
