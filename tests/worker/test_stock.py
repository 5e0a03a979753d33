"""As the stock worker-comfyui 5.8.5 speaks (its handler.py), so that only the image is changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.comfyui import PNG
from worker.support import S3, SAVE, Bench, node, request

IMAGE = base64.b64encode(b"an image").decode()


def test_images_come_as_base64(bench: Bench) -> None:
    assert bench.run({"workflow": SAVE}) == {
        "images": [
            {
                "filename": "shot_00001_.png",
                "type": "base64",
                "data": base64.b64encode(PNG).decode(),
            }
        ]
    }


def test_with_a_bucket_they_come_as_urls(s3_bench: Bench) -> None:
    (image,) = s3_bench.run({"workflow": SAVE}, "stock-1")["images"]
    assert (image["filename"], image["type"]) == ("shot_00001_.png", "s3_url")
    assert image["data"].startswith("http://")
    assert "X-Amz-Expires=604800" in image["data"]


def test_a_redelivered_job_is_answered_from_the_bucket(s3_bench: Bench) -> None:
    first = s3_bench.run({"workflow": SAVE}, "stock-2")
    before = len(s3_bench.prompts())
    again = s3_bench.run({"workflow": SAVE}, "stock-2")
    assert len(s3_bench.prompts()) == before
    assert again["images"][0]["filename"] == first["images"][0]["filename"]


def test_videos_stand_among_the_images_and_texts_do_not(bench: Bench) -> None:
    graph = {
        "1": node("FakeOutput", filename="a.mp4", key="gifs", filename_prefix="x"),
        "2": node("FakeOutput", filename="b.png", filename_prefix="x"),
        "3": node("FakeText", text="words"),
        "4": node("FakeOutput", filename="p.png", type="temp"),
    }
    names = [image["filename"] for image in bench.run({"workflow": graph})["images"]]
    assert names == ["a.mp4", "b.png"]


@pytest.mark.parametrize(
    "body",
    [
        {"workflow": SAVE, "images": None, "client_id": "x", "priority": 1, "op": "mine"},
        json.dumps({"workflow": SAVE}),
        {"workflow": SAVE, "images": []},
    ],
)
def test_it_takes_strings_and_fields_it_does_not_know(bench: Bench, body: object) -> None:
    assert len(bench.run(body)["images"]) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, "Please provide input"),
        ("invalid json", "Invalid JSON format in input"),
        ({"images": []}, "Missing 'workflow' parameter"),
        ({"workflow": None}, "Missing 'workflow' parameter"),
        ({}, "Missing 'workflow' parameter"),
        ([], "Missing 'workflow' parameter"),
        ("[]", "Missing 'workflow' parameter"),
        (
            {"workflow": SAVE, "images": [{"name": "a.png"}]},
            "'images' must be a list of objects with 'name' and 'image' keys",
        ),
        (
            {"workflow": SAVE, "images": ""},
            "'images' must be a list of objects with 'name' and 'image' keys",
        ),
        (
            {"workflow": SAVE, "images": ["a.png"]},
            "'images' must be a list of objects with 'name' and 'image' keys",
        ),
    ],
)
def test_it_refuses_in_the_stock_workers_words(bench: Bench, body: object, told: str) -> None:
    assert bench.run(body) == {"error": told}


@pytest.mark.parametrize("image", [IMAGE, f"data:image/png;base64,{IMAGE}", f"image/png,{IMAGE}"])
def test_images_are_given_as_base64_or_data_uri(bench: Bench, image: str) -> None:
    graph = {"1": node("LoadImage", image="sub/in put.png"), **SAVE}
    reply = bench.run({"workflow": graph, "images": [{"name": "sub/in put.png", "image": image}]})
    assert "images" in reply
    assert bench.left() == []


def test_of_two_images_of_one_name_the_later_counts(bench: Bench) -> None:
    graph = {"1": node("LoadImage", image="a.png"), **SAVE}
    images = [{"name": "a.png", "image": "AAAA"}, {"name": "a.png", "image": IMAGE}]
    assert "images" in bench.run({"workflow": graph, "images": images})


def test_names_of_any_length_and_script(bench: Bench) -> None:
    name = "é" * 300 + ".png"
    graph = {"1": node("LoadImage", image=name), **SAVE}
    assert "images" in bench.run({"workflow": graph, "images": [{"name": name, "image": IMAGE}]})


def test_an_image_that_cannot_be_read(bench: Bench) -> None:
    reply = bench.run({"workflow": SAVE, "images": [{"name": "a.png", "image": "%%%"}]})
    assert reply["error"] == "Failed to upload one or more input images"
    assert "not valid base64" in reply["details"][0]


def test_a_failing_node(bench: Bench) -> None:
    reply = bench.run({"workflow": {"7": node("FakeError")}})
    assert reply["error"] == "Job processing failed"
    assert reply["details"] == [
        "Workflow execution error: Node Type: FakeError, Node ID: 7, Message: boom"
    ]
    assert reply["code"] == "execution_failed"


def test_what_was_made_before_a_node_failed_is_returned_beside_the_failure(bench: Bench) -> None:
    graph = {"1": node("SaveImage", filename_prefix="a"), "7": node("FakeError")}
    reply = bench.run({"workflow": graph})
    assert [(i["filename"][:2], i["type"]) for i in reply.pop("images")] == [("a_", "base64")]
    assert reply == {
        "errors": ["Workflow execution error: Node Type: FakeError, Node ID: 7, Message: boom"]
    }
    assert bench.left() == []
    assert bench.fake()["history"] == []


def test_a_failed_job_s_part_is_not_the_answer_to_the_same_job_once_more(
    s3_bench: Bench, s3: S3, tmp_path: Path
) -> None:
    once = node("FakeError", log=str(tmp_path / "log"), times=1)
    graph = {"1": node("SaveImage", filename_prefix="a"), "7": once}
    first = s3_bench.run({"workflow": graph}, "again-1")
    assert first["errors"]
    assert not [key for key in s3.listed() if key.startswith("results/")]
    second = s3_bench.run({"workflow": graph}, "again-1")
    assert "errors" not in second
    assert second["images"]


def test_a_part_that_cannot_be_handed_over_leaves_the_failure_itself(
    make_bench: Callable[..., Bench],
) -> None:
    graph = {"1": node("FakeBig", bytes=3_000_000), "7": node("FakeError")}
    assert make_bench().run({"workflow": graph})["images"]
    bench = make_bench(PENNYREEL_INLINE_MAX_BYTES="100000")
    assert bench.run({"workflow": graph})["code"] == "execution_failed"


def test_a_key_that_a_failing_node_tells_is_not_among_the_errors(bench: Bench) -> None:
    graph = {"1": node("SaveImage", filename_prefix="a"), "7": node("FakeError", tell=True)}
    reply = bench.run({"workflow": graph, "comfy_org_api_key": "CANARY-123456"})
    assert reply["images"]
    assert "401 for" in reply["errors"][0]
    assert "CANARY" not in json.dumps(reply)


def test_one_of_our_requests_fails_as_a_whole(bench: Bench) -> None:
    graph = {"1": node("SaveImage", filename_prefix="a"), "7": node("FakeError")}
    assert bench.bad(request(graph)).code == "execution_failed"


@pytest.mark.parametrize(
    ("workflow", "code"),
    [
        ({"7": node("MagicNode")}, "unknown_node"),
        ({"nodes": []}, "ui_format"),
        ("text", "bad_workflow"),
        ({"7": {"class_type": "\ud800", "inputs": {}}}, "bad_request"),
    ],
)
def test_other_failures_have_the_same_shape(bench: Bench, workflow: object, code: str) -> None:
    reply = bench.run({"workflow": workflow})
    assert set(reply) == {"error", "details", "code", "hint"}
    assert isinstance(reply["error"], str)
    assert all(isinstance(line, str) for line in reply["details"])
    assert reply["code"] == code


def test_nothing_but_previews_is_a_success_without_images(bench: Bench) -> None:
    graph = {"1": node("FakeOutput", filename="p.png", type="temp")}
    assert bench.run({"workflow": graph}) == {"status": "success_no_images", "images": []}


def test_no_output_at_all_is_a_failure(bench: Bench) -> None:
    reply = bench.run({"workflow": {"1": node("FakeNothing")}})
    assert reply["error"] == "Job processing failed"
    assert "no output" in reply["details"][0]


def test_a_key_in_the_request_goes_before_the_environments(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(COMFY_ORG_API_KEY="from-env")
    bench.run({"workflow": SAVE, "comfy_org_api_key": "from-request"})
    assert bench.prompts()[-1]["extra"] == {"api_key_comfy_org": "from-request"}
    bench.run({"workflow": SAVE})
    assert bench.prompts()[-1]["extra"] == {"api_key_comfy_org": "from-env"}


def test_it_posts_no_progress_which_clients_could_take_for_the_result(bench: Bench) -> None:
    bench.run({"workflow": {"1": node("FakeSleep", seconds=0.2), **SAVE}}, "stock-quiet")
    assert [body for job, body in bench.posts if job == "stock-quiet"][:-1] == []


def test_refresh_worker_is_honoured(make_bench: Callable[..., Bench]) -> None:
    assert make_bench(REFRESH_WORKER="true").run({"workflow": SAVE})["refresh_worker"] is True


def test_one_of_our_requests_may_come_as_a_string(bench: Bench) -> None:
    reply = bench.run(json.dumps({"contract": 1, "attempt_id": "attempt-0001", "workflow": SAVE}))
    assert "artifacts" in reply


def test_a_bucket_of_the_month_where_none_is_named(
    make_bench: Callable[..., Bench], s3: S3
) -> None:
    env = s3.env()
    del env["BUCKET_NAME"]
    reply = make_bench(**env).run({"workflow": SAVE})
    assert "BUCKET_NAME" in reply["hint"]  # it has to exist, here as there
