"""A ComfyUI that lacks something gets no job, and whoever asks is told what would mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.commands import Cli
from client.provision.conftest import MODEL, workflow
from client.support import GRAPH
from fakes.comfyui import FakeComfy
from pennyreel import Client, SetupNeeded, localcomfy
from pennyreel.routing.decision import Candidate
from pennyreel_comfy.models import Entry
from pennyreel_comfy.process import free_port


def comfyui(what: Any, **terms: Any) -> Candidate:
    """What the quote says of ComfyUI."""
    with Client() as client:
        rows = client.quote_workflow(what, **terms).rows
    return next(row for row in rows if row.backend == "comfyui")


def test_one_that_has_all_gets_the_job(comfy: FakeComfy) -> None:
    assert comfyui(workflow("fake.safetensors")).verdict.value == "chosen"


def test_one_that_lacks_a_model_says_which_and_where_it_goes(
    comfy: FakeComfy, entry: Entry
) -> None:
    row = comfyui(workflow())
    assert row.verdict.value == "unavailable"
    assert row.reasons == (f"it lacks the model checkpoints/{MODEL} (401 kB)",)
    assert row.fixes == (f"put {MODEL} into its models/checkpoints from {entry.url}",)


def test_one_that_lacks_a_pack_says_which_and_where_it_is(comfy: FakeComfy) -> None:
    row = comfyui("animatediff-v3")
    packs = "ComfyUI-AnimateDiff-Evolved, ComfyUI-VideoHelperSuite"
    assert f"the node packs {packs}" in row.reasons[0]
    assert "clone https://github.com/Kosinkadink/ComfyUI-VideoHelperSuite" in row.fixes[0]
    assert "put v3_sd15_mm.ckpt into its models/animatediff_models from " in row.fixes[0]
    assert ", unless it is there; then start it anew" in row.fixes[0], "what loads it is not there"


def test_of_many_things_a_few_are_told(comfy: FakeComfy) -> None:
    more = {f"x{n}": f"NobodysNode{n:03}" for n in range(200)}
    row = comfyui(workflow("fake.safetensors", **more))
    assert "NobodysNode007" in row.fixes[0]
    assert "NobodysNode050" not in row.fixes[0]
    assert "; and 192 more; then start it anew" in row.fixes[0]


def test_a_signature_in_a_models_url_is_not_told(
    comfy: FakeComfy, entry: Entry, home: Path, cli: Cli, file: Path
) -> None:
    signed = entry.url + "?token=SECRET"
    listed = (home / "models.toml").read_text()
    (home / "models.toml").write_text(listed.replace(entry.url, signed))
    row = comfyui(workflow())
    assert entry.url in row.fixes[0]
    ran = cli("quote", file)
    asked = cli("setup", file)
    assert "SECRET" not in ran.out + ran.err + asked.out + asked.err + row.fixes[0]


def test_names_that_steer_a_terminal_do_not_reach_it(comfy: FakeComfy, cli: Cli) -> None:
    odd = workflow("fake.safetensors", a="Evil\x1b[2JNode")
    row = comfyui(odd)
    assert "Evil\ufffd[2JNode" in row.reasons[0]


def test_as_soon_as_it_is_there_the_job_may_go(comfy: FakeComfy) -> None:
    for _ in range(2):
        assert comfyui(workflow()).verdict.value == "unavailable"
    comfy.models["checkpoints"].append(MODEL)
    assert comfyui(workflow()).verdict.value == "chosen"


def test_that_it_has_all_is_asked_once_by_all_processes(comfy: FakeComfy) -> None:
    for _ in range(3):
        assert comfyui(workflow("fake.safetensors")).verdict.value == "chosen"
    asked = [path for _, path in comfy.requests if path.startswith("/object_info")]
    assert len(asked) == 3, "one for each class"
    assert comfyui(GRAPH).verdict.value == "chosen", "another job is asked for anew"
    assert len([p for _, p in comfy.requests if p.startswith("/object_info")]) == 5


def test_named_it_is_refused_before_anything_is_sent(comfy: FakeComfy) -> None:
    with Client() as client, pytest.raises(SetupNeeded) as told:
        client.submit(workflow(), backend="comfyui")
    assert f"it lacks the model checkpoints/{MODEL}" in str(told.value)
    assert f"put {MODEL} into its models/checkpoints" in told.value.hint
    assert ("POST", "/prompt") not in comfy.requests


def test_named_where_none_runs_and_none_is_installed_the_setup_is_the_way(cli: Cli) -> None:
    ran = cli("run", "sd15-image", "--backend", "comfyui")
    assert ran.code == 4
    assert "none is installed here" in ran.err
    assert "next: pennyreel setup sd15-image (installs ComfyUI, 1 model: 2." in ran.err


def test_named_where_only_the_start_is_missing_it_is_tried(
    root: Path, file: Path, placed: Callable[[], None], cli: Cli
) -> None:
    placed()
    ran = cli("run", file, "--backend", "comfyui", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (5, "comfy_unavailable")


def test_one_that_does_not_say_what_it_has_is_given_the_job(
    comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pennyreel.backends.comfyui.LACKS_S", 0.0)
    assert comfyui(workflow()).verdict.value == "chosen"


def test_without_an_installation_the_setup_is_the_way_with_its_size() -> None:
    row = comfyui("sd15-image")
    assert row.verdict.value == "unavailable"
    assert row.reasons[0].startswith("no ComfyUI answers at ")
    assert row.reasons[0].endswith("; none is installed here")
    assert row.fixes[0].startswith("pennyreel setup sd15-image (installs ComfyUI, 1 model: 2.")


def test_an_installed_one_that_is_stopped_is_judged_by_its_disk(
    root: Path, entry: Entry, placed: Callable[[], None]
) -> None:
    row = comfyui(workflow())
    assert row.reasons[0].endswith(
        f"; the installed one lacks the model checkpoints/{MODEL} (401 kB)"
    )
    told = "installs 1 model: 401 kB, about 1 minute"
    assert row.fixes == (f"pennyreel setup WORKFLOW.json ({told})",)
    placed()
    row = comfyui(workflow())
    assert row.fixes == ("Start ComfyUI: pennyreel comfyui start",), "nothing else is missing"


def test_ours_where_it_runs_is_mended_by_setup(root: Path, entry: Entry, cli: Cli) -> None:
    assert cli("comfyui", "start", "--port", str(free_port())).code == 0
    server = localcomfy.running(root)
    assert server is not None
    with Client() as client:
        rows = client.quote_workflow(workflow()).rows
    row = next(row for row in rows if row.target == server.url)
    assert row.reasons == (f"it lacks the model checkpoints/{MODEL} (401 kB)",)
    assert row.fixes[0].startswith("pennyreel setup WORKFLOW.json (installs 1 model: 401 kB")


def test_a_model_that_no_list_knows_is_told_with_its_command(root: Path) -> None:
    row = comfyui(workflow("mine.safetensors"))
    assert "models add URL --folder checkpoints --name mine.safetensors" in row.fixes[0]


def test_one_on_another_machine_that_is_silent_is_not_to_be_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENNYREEL_COMFYUI_URL", "http://comfyui.invalid:8188")
    row = comfyui("sd15-image")
    assert not any("setup" in fix for fix in row.fixes)


def test_values_that_are_set_name_other_models_than_the_template(tmp_path: Path) -> None:
    with Client() as client:
        quoted = client.quote_workflow(
            "sd15-image", parameters_text={"checkpoint": "mine.safetensors"}
        )
    row = next(row for row in quoted.rows if row.backend == "comfyui")
    assert row.fixes[0].startswith("pennyreel setup sd15-image (installs ComfyUI: ")
    assert "models add URL --folder checkpoints --name mine.safetensors" in row.fixes[0]


def test_the_refusal_names_the_setup_first(cli: Cli) -> None:
    ran = cli("generate", "a paper boat", "--kind", "image")
    assert ran.code == 4
    lines = ran.err.splitlines()
    assert "here, on " in lines[2]
    assert "pennyreel setup sd15-image (installs ComfyUI, 1 model: " in lines[2]


def test_quote_tells_the_setup_and_the_start(root: Path, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "shot.json"
    path.write_text(json.dumps(workflow()))
    ran = cli("quote", path)
    assert ran.code == 0
    assert "to have it: " in ran.out
    assert f"models add URL --folder checkpoints --name {MODEL}" in ran.out
