"""A graph is told the names that its models have on the disk, and nothing else in it changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pennyreel_comfy import templates
from pennyreel_comfy.models import rename_models
from pennyreel_contract import BadRequest

NEW = "0" * 64 + ".safetensors"
NAMES = {("loras", "x.safetensors"): NEW}


def graph(class_type: str = "LoraLoader", **inputs: Any) -> dict[str, dict[str, Any]]:
    return {"1": {"class_type": class_type, "inputs": inputs}}


@pytest.mark.parametrize(
    "field",
    [
        "lora_name", "ckpt_name", "model_name", "vae_name", "unet_name", "clip_name", "clip_name1",
        "control_net_name", "lora", "lora_01", "ipadapter_file", "style_model_name", "name",
        "upscale_model", "text_encoder", "text_encoder_name", "motion_model", "model_path",
    ],
)  # fmt: skip
def test_inputs_that_load_a_model_have_its_new_name(field: str) -> None:
    before = graph(**{field: "x.safetensors", "strength": 1.0})
    kept = copy.deepcopy(before)
    after = rename_models(before, NAMES)
    assert after["1"]["inputs"] == {field: NEW, "strength": 1.0}
    assert before == kept


@pytest.mark.parametrize(
    "field", ["text", "prompt", "filename_prefix", "title", "positive_prompt", "seed", "image"]
)
def test_texts_that_only_read_like_one_are_left_alone(field: str) -> None:
    before = graph("CLIPTextEncode", **{field: "x.safetensors"})
    assert rename_models(before, NAMES) == before


@pytest.mark.parametrize(
    "value",
    ["X.safetensors", "sub/x.safetensors", "x.safetensors ", "x", "ax.safetensors", 1, None,
     ["x.safetensors", 0]],
)  # fmt: skip
def test_only_the_very_name_is_renamed(value: Any) -> None:
    before = graph(lora_name=value)
    assert rename_models(before, NAMES) == before


def test_rows_of_settings_in_one_input_are_looked_into() -> None:
    row = {"on": True, "lora": "x.safetensors", "strength": 1}
    after = rename_models(graph("Power Lora Loader", lora_1=row), NAMES)
    assert after["1"]["inputs"]["lora_1"] == {**row, "lora": NEW}


def test_the_folder_decides_where_two_have_a_name() -> None:
    names = {("loras", "x.safetensors"): "lora.sft", ("checkpoints", "x.safetensors"): "ckpt.sft"}
    both = {
        **graph("LoraLoader", lora_name="x.safetensors"),
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    }
    after = rename_models(both, names)
    assert after["1"]["inputs"]["lora_name"] == "lora.sft"
    assert after["2"]["inputs"]["ckpt_name"] == "ckpt.sft"
    with pytest.raises(BadRequest) as caught:
        rename_models(graph("SomeLoader", model_name="x.safetensors"), names)
    assert caught.value.code == "bad_workflow"
    assert "'1'" in str(caught.value)


def test_an_embedding_is_renamed_inside_a_prompt() -> None:
    names = {("embeddings", "bad.pt"): "new.pt"}
    text = "a boat, embedding:bad, (embedding:bad.pt:1.2), embedding:badly, bad.pt"
    after = rename_models(graph("CLIPTextEncode", text=text), names)
    assert after["1"]["inputs"]["text"] == (
        "a boat, embedding:new.pt, (embedding:new.pt:1.2), embedding:badly, bad.pt"
    )


def test_every_model_of_every_template_can_be_renamed() -> None:
    for template in templates.list_templates():
        rendered = template.render()
        names = {(m.folder, m.name): f"{n}.sft" for n, m in enumerate(rendered.models)}
        after = str(rename_models(rendered.graph, names))
        for model in rendered.models:
            assert model.name not in after


def test_no_names_change_nothing() -> None:
    before = graph(lora_name="x.safetensors")
    assert rename_models(before, {}) == before
