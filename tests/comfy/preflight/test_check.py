"""The preflight's findings: what, where, what to do about it, and whether it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy.preflight.graphs import Graph, diffusion, image, node, two_outputs
from pennyreel_comfy.preflight import Finding, NodeCatalogue, check, refusal, sentences
from pennyreel_comfy.preflight.packs import near, near_file, pack_of
from pennyreel_comfy.preflight.tables import table
from pennyreel_comfy.rejections import rejection
from pennyreel_contract import Code

RECORDINGS = Path(__file__).parents[1] / "recordings"
GOOD = "sd_xl_base_1.0.safetensors"


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, sentences(findings)
    return findings[0]


def recorded_refusals() -> list[Path]:
    # bad_list is no JSON object, which graph.parse refuses.
    return sorted(p for p in RECORDINGS.glob("v*/bad_*.json") if p.stem != "bad_list")


@pytest.mark.parametrize("path", recorded_refusals(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_recorded_verdict_is_foretold_with_the_same_code(
    path: Path, catalogue: NodeCatalogue
) -> None:
    recording = json.loads(path.read_text("utf-8"))
    graph, reply = recording["workflow"], recording["prompt_reply"]
    refused = refusal(check(graph, catalogue))
    if reply["status"] == 200:
        assert refused is None
        return
    assert refused is not None
    if path.stem != "bad_ui_format":  # which ComfyUI answers with a bare 500
        assert refused.code == rejection(reply["status"], reply["body"], graph).code


def test_a_good_graph_has_no_findings(catalogue: NodeCatalogue) -> None:
    assert check(image(), catalogue) == []
    assert check(diffusion(GOOD), catalogue) == []
    assert refusal([]) is None


def test_everything_wrong_is_told_at_once(catalogue: NodeCatalogue) -> None:
    graph = diffusion("nope.safetensors")
    graph["3"]["inputs"]["width"] = 1
    graph["4"]["inputs"].pop("seed")
    graph["4"]["inputs"]["sampler_name"] = "eulr"
    graph["5"]["inputs"]["vae"] = ["1", 0]
    graph["6"]["inputs"]["images"] = ["55", 0]
    graph["7"] = node("VHS_NoSuchThing")
    findings = check(graph, catalogue)
    assert {(f.node, f.input) for f in findings} == {
        *{("7", None), ("1", "ckpt_name"), ("3", "width"), ("4", "seed"), ("4", "sampler_name")},
        *{("5", "vae"), ("6", "images")},
    }
    refused = refusal(findings)
    assert refused is not None
    assert refused.code == Code.UNKNOWN_NODE
    assert refused.info.detail["count"] == 2  # the rest stands behind a link that leads nowhere
    graph["6"]["inputs"]["images"] = ["5", 0]
    refused = refusal(check(graph, catalogue))
    assert refused is not None
    assert refused.info.detail["count"] == 6
    assert "node 3 (EmptyLatentImage).width" in str(refused)


def test_a_missing_model_is_named_with_its_folder_and_the_ones_close_by(
    catalogue: NodeCatalogue,
) -> None:
    found = only(check(diffusion("DreamShaper-8.safetensors"), catalogue))
    assert found.code is Code.MISSING_MODEL
    assert found.type == "value_not_in_list"
    assert "models/checkpoints" in found.message
    assert found.suggestion == "Did you mean 'SD15/dreamshaper_8.safetensors'?"


def test_a_path_with_the_other_slashes_leads_to_the_file(catalogue: NodeCatalogue) -> None:
    found = only(check(diffusion("SD15\\dreamshaper_8.safetensors"), catalogue))
    assert found.suggestion == "Did you mean 'SD15/dreamshaper_8.safetensors'?"


def test_a_model_on_its_way_counts_as_there(catalogue: NodeCatalogue) -> None:
    graph = diffusion("new/one.safetensors")
    assert check(graph, catalogue, arriving={"new/one.safetensors"}) == []
    assert check(graph, catalogue, arriving={"new/other.safetensors"})


def test_an_unknown_class_names_the_pack_that_has_it(catalogue: NodeCatalogue) -> None:
    graph = {**image(), "4": node("Seed (rgthree)"), "5": node("EmptyImag")}
    first, second = check(graph, catalogue)
    assert "rgthree-comfy: https://github.com/rgthree/rgthree-comfy" in first.suggestion
    assert second.suggestion.startswith("Did you mean 'EmptyImage'")
    assert first.refuses
    assert second.refuses


@pytest.mark.parametrize(
    ("class_type", "pack"),
    [
        ("ADE_UseEvolvedSampling", "ComfyUI-AnimateDiff-Evolved"),
        ("VHS_VideoCombine", "ComfyUI-VideoHelperSuite"),
        ("IPAdapterUnifiedLoader", "ComfyUI_IPAdapter_plus"),
        ("ACN_AdvancedControlNetApply", "ComfyUI-Advanced-ControlNet"),
        ("FaceDetailer", "ComfyUI-Impact-Pack"),
        ("UltralyticsDetectorProvider", "ComfyUI-Impact-Subpack"),
        ("GetImageSizeAndCount", "ComfyUI-KJNodes"),
        ("RIFE VFI", "ComfyUI-Frame-Interpolation"),
        ("DWPreprocessor", "comfyui_controlnet_aux"),
        ("Power Lora Loader (rgthree)", "rgthree-comfy"),
        ("Image Save", "was-node-suite-comfyui"),
        ("ImageResize+", "ComfyUI_essentials"),
        ("easy fullLoader", "ComfyUI-Easy-Use"),
        ("UnetLoaderGGUF", "ComfyUI-GGUF"),
        ("WanVideoSampler", "ComfyUI-WanVideoWrapper"),
        ("Florence2Run", "ComfyUI-Florence2"),
        ("GroundingDinoSAMSegment (segment anything)", "comfyui_segment_anything"),
        ("Sam2Segmentation", "ComfyUI-segment-anything-2"),
        ("CR Apply LoRA Stack", "ComfyUI_Comfyroll_CustomNodes"),
        ("Efficient Loader", "efficiency-nodes-comfyui"),
        ("KSampler //Inspire", "ComfyUI-Inspire-Pack"),
        ("UltimateSDUpscale", "ComfyUI_UltimateSDUpscale"),
        ("LTXVApplySTG", "ComfyUI-LTXVideo"),
    ],
)
def test_widely_used_packs_are_known(class_type: str, pack: str) -> None:
    found = pack_of(class_type)
    assert found is not None
    assert found.name == pack
    assert found.url.startswith("https://github.com/")


def test_no_class_of_comfyui_itself_is_ascribed_to_a_pack(recorded: dict[str, Any]) -> None:
    own = [n for n, i in recorded.items() if not i["python_module"].startswith("custom_nodes.")]
    assert own
    assert [name for name in own if pack_of(name)] == []
    assert pack_of("NobodysNode") is None


def test_each_entry_of_the_table_of_packs_can_be_found() -> None:
    for entry in table("packs")["pack"]:
        names = [*entry.get("classes", ()), *(f"{p}x" for p in entry.get("prefixes", ()))]
        assert names or entry["suffixes"]
        for name in names:
            found = pack_of(name)
            assert found is not None
            assert found.name == entry["name"], name


def test_near_names_are_the_same_but_for_case_or_alike() -> None:
    assert near("ksampler", ["KSampler", "KSamplerAdvanced"]) == ["KSampler"]
    assert near("KSamplr", ["KSampler", "VAEDecode"]) == ["KSampler"]
    assert near("zzz", ["KSampler"]) == []
    assert near_file("A/B.safetensors", ["x/b.safetensors"]) == ["x/b.safetensors"]


def test_a_bad_output_beside_a_good_one_only_warns(catalogue: NodeCatalogue) -> None:
    graph = two_outputs()
    graph["5"]["inputs"] = {}
    found = only(check(graph, catalogue))
    assert not found.refuses
    assert refusal([found]) is None


def test_a_fault_that_no_output_reads_only_warns(catalogue: NodeCatalogue) -> None:
    graph = {**image(), "9": node("EmptyImage", width=0, height=1, batch_size=1, color=0)}
    assert not only(check(graph, catalogue)).refuses
    graph["3"]["inputs"].pop("images")
    refused = refusal(check(graph, catalogue))
    assert refused is not None
    assert refused.info.detail["count"] == 1
    assert len(refused.info.detail["warnings"]) == 1  # type: ignore[arg-type]


def test_a_dangling_link_by_which_comfyui_would_hang_refuses_whatever_else_is_good(
    catalogue: NodeCatalogue,
) -> None:
    graph = two_outputs()
    graph["3"]["inputs"]["extra"] = ["77", 0]
    found = only(check(graph, catalogue))
    assert (found.node, found.input, found.refuses) == ("3", "extra", True)
    graph["3"]["inputs"].pop("extra")
    graph["5"]["inputs"]["extra"] = ["8", 0]  # what it leads to is looked at by nobody either
    graph["8"] = node("ImageBatch", image1=["1", 0], image2=["1", 0])
    assert check(graph, catalogue) == []
    graph["8"]["inputs"]["more"] = ["77", 0]
    found = only(check(graph, catalogue))
    assert (found.node, found.input, found.refuses) == ("8", "more", True)


def test_a_dangling_link_of_a_node_that_will_not_run_only_warns(
    catalogue: NodeCatalogue, info: dict[str, Any]
) -> None:
    aside = {**image(), "9": node("PrimitiveString", value="x", extra=["77", 0])}
    assert not only(check(aside, catalogue)).refuses
    dropped = two_outputs()
    dropped["5"]["inputs"] = {"extra": ["77", 0]}
    assert not any(found.refuses for found in check(dropped, catalogue))
    info["ImageScale"]["input"]["required"]["image"] = ["IMAGE", {"lazy": True}]
    lazy = image()
    lazy["1"]["inputs"]["extra"] = ["77", 0]
    assert not only(check(lazy, info)).refuses


def test_a_circle_by_inputs_that_nobody_declares_refuses_where_no_output_is_without(
    catalogue: NodeCatalogue,
) -> None:
    graph = image()
    graph["1"]["inputs"]["extra"] = ["3", 0]
    found = only(check(graph, catalogue))
    assert (found.type, found.refuses) == ("dependency_cycle", True)
    assert not only(check({**two_outputs(), **graph}, catalogue)).refuses


def test_what_a_custom_node_may_judge_by_itself_only_warns(
    catalogue: NodeCatalogue, info: dict[str, Any]
) -> None:
    video = {
        "1": node("EmptyImage", width=1, height=1, batch_size=1, color=7),
        "2": node(
            "VHS_VideoCombine",
            images=["1", 0],
            frame_rate=0,
            loop_count=0,
            filename_prefix="x",
            format="video/nope",
            pingpong=False,
            save_output=True,
        ),
    }
    findings = check(video, catalogue)
    assert {f.input for f in findings} == {"frame_rate", "format"}
    assert refusal(findings) is None
    info["VHS_VideoCombine"]["python_module"] = "nodes"
    assert refusal(check(video, info)) is not None


def test_a_choice_that_comfyui_does_not_hold_to_its_list_only_warns(
    info: dict[str, Any],
) -> None:
    options = info["ImageScale"]["input"]["required"]["crop"][0]
    info["ImageScale"]["input"]["required"]["crop"] = ["COMBO", {"options": options}]
    graph = image()
    graph["2"]["inputs"]["crop"] = "nope"
    assert not only(check(graph, info)).refuses
    info["ImageScale"]["input"]["required"]["crop"] = ["COMBO", {"remote": {"route": "/x"}}]
    assert check(graph, info) == []


def upscaled(model: str) -> Graph:
    graph = image()
    graph["4"] = node("UpscaleModelLoader", model_name=model)
    graph["2"] = node("ImageUpscaleWithModel", upscale_model=["4", 0], image=["1", 0])
    return graph


@pytest.fixture
def upscalers(info: dict[str, Any]) -> dict[str, Any]:
    """Two classes as ComfyUI 0.3.75 has them: it holds no model against this list."""
    options = {"multiselect": False, "options": ["4x/sharp.pth"]}
    info["UpscaleModelLoader"] = {
        "input": {"required": {"model_name": ["COMBO", options]}},
        "output": ["UPSCALE_MODEL"],
        "python_module": "comfy_extras.nodes_upscale_model",
    }
    info["ImageUpscaleWithModel"] = {
        "input": {"required": {"upscale_model": ["UPSCALE_MODEL", {}], "image": ["IMAGE", {}]}},
        "output": ["IMAGE"],
        "python_module": "comfy_extras.nodes_upscale_model",
    }
    return info


def test_a_missing_model_that_only_the_run_would_show_refuses(upscalers: dict[str, Any]) -> None:
    assert check(upscaled("4x/sharp.pth"), upscalers) == []
    for name in ("4x/shrap.pth", "sharp.pth", "4x\\sharp.pth"):
        found = only(check(upscaled(name), upscalers))
        assert (found.code, found.input, found.refuses) == ("missing_model", "model_name", True)
        assert "models/upscale_models" in found.message
        assert found.suggestion == "Did you mean '4x/sharp.pth'?"
    assert check(upscaled("new.pth"), upscalers, arriving={"new.pth"}) == []


def test_such_a_model_only_warns_where_the_run_may_do_without(upscalers: dict[str, Any]) -> None:
    for name in ("4X/Sharp.pth", "./4x//sharp.pth"):  # the disk may know it by this name
        assert not only(check(upscaled(name), upscalers)).refuses
    beside = {**two_outputs(), **upscaled("nope.pth"), "4": two_outputs()["4"]}
    beside["6"] = upscaled("nope.pth")["4"]
    beside["2"]["inputs"]["upscale_model"] = ["6", 0]
    assert not only(check(beside, upscalers)).refuses
    upscalers["ImageUpscaleWithModel"]["input"]["required"]["upscale_model"][1]["lazy"] = True
    assert not only(check(upscaled("nope.pth"), upscalers)).refuses
    upscalers["ImageUpscaleWithModel"]["input"]["required"]["upscale_model"][1].clear()
    upscalers["UpscaleModelLoader"]["python_module"] = "custom_nodes.somebody"
    assert not only(check(upscaled("nope.pth"), upscalers)).refuses


def test_models_in_a_list_that_grows_are_looked_up_in_all_lists(catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["2"]["inputs"] |= {
        "lora_1": {"on": True, "lora": "SD15/dreamshaper_8.safetensors", "strength": 1},
        "lora_2": {"on": True, "lora": "dreamshaper_8.safetensors", "strength": 1},
        "lora_3": {"on": False, "lora": "nope.safetensors", "strength": 1},
        "lora_4": {"on": True, "lora": "dreamshapr_8.safetensors", "strength": 1},
    }
    found = only(check(graph, catalogue))
    assert (found.code, found.input, found.refuses) == ("missing_model", "lora_4", False)
    assert "dreamshaper_8.safetensors" in found.suggestion


def test_a_list_is_no_value_for_one_choice(catalogue: NodeCatalogue) -> None:
    for value in ([], ["disabled"], ["nope"]):
        graph = image()
        graph["2"]["inputs"]["crop"] = {"__value__": value}
        found = only(check(graph, catalogue))
        assert (found.input, found.refuses) == ("crop", True)


def test_what_is_no_name_for_an_input_file_is_told(catalogue: NodeCatalogue) -> None:
    for value in (True, 5, {"a": 1}, None):
        graph = {**image(), "1": node("LoadImage", image=value)}
        assert only(check(graph, catalogue)).input == "image"


def test_several_choices_are_each_looked_up(info: dict[str, Any]) -> None:
    info["ImageScale"]["input"]["required"]["crop"] = [["a", "b"], {"multiselect": True}]
    graph = image()
    graph["2"]["inputs"]["crop"] = {"__value__": ["b", "a"]}
    assert check(graph, info) == []
    graph["2"]["inputs"]["crop"] = {"__value__": ["b", "c"]}
    assert not only(check(graph, info)).refuses


def test_inputs_that_grow_or_match_are_left_to_comfyui(info: dict[str, Any]) -> None:
    info["ImageScale"]["input"]["required"]["crop"] = ["COMFY_AUTOGROW_V3", {}]
    graph = image()
    graph["2"]["inputs"].pop("crop")
    graph["2"]["inputs"]["crop.crop0"] = ["1", 0]
    assert check(graph, info) == []


def test_files_that_the_job_brings_count_as_there(catalogue: NodeCatalogue) -> None:
    graph = {**image(), "1": node("LoadImage", image="cat.png [input]")}
    assert only(check(graph, catalogue)).code is Code.BAD_INPUT
    assert check(graph, catalogue, files={"cat.png"}) == []
    graph["1"] = node("LoadImage", image="example.png")
    assert check(graph, catalogue) == []


def test_types_in_common_fit_and_any_fits_all(info: dict[str, Any]) -> None:
    graph = image()
    info["EmptyImage"]["output"] = ["MASK"]
    assert refusal(check(graph, info)) is not None
    for kind in ("*", "MASK, IMAGE", "COMFY_MATCHTYPE_V3"):
        info["EmptyImage"]["output"] = [kind]
        assert check(graph, info) == []


def test_a_circle_is_told_by_its_path(catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["1"] = node("ImageBatch", image1=["2", 0], image2=["2", 0])
    found = only(check(graph, catalogue))
    assert found.type == "dependency_cycle"
    assert found.refuses
    assert " -> " in found.message


def test_every_circle_is_told_and_a_graph_of_nothing_else_is_refused(
    catalogue: NodeCatalogue,
) -> None:
    graph = two_outputs()
    graph["2"]["inputs"]["image"] = ["2", 0]
    assert not only(check(graph, catalogue)).refuses
    graph["4"] = node("ImageBatch", image1=["6", 0], image2=["6", 0])
    graph["6"] = node("ImageBatch", image1=["4", 0], image2=["6", 0])
    findings = check(graph, catalogue)
    assert all(found.refuses for found in findings)
    assert [found.type for found in findings] == ["dependency_cycle"] * len(findings)
    assert {"2"} < {found.node for found in findings}


def test_circles_by_the_thousand_are_all_found(catalogue: NodeCatalogue) -> None:
    count = 20_000
    chain = {
        str(n): node("ImageBatch", image1=[str(n), 0], image2=[str(min(n + 1, count - 1)), 0])
        for n in range(count)
    }
    links = [[str((n + 1) % count), 0] for n in range(count)]
    ring = {str(n): node("ImageBatch", image1=to, image2=to) for n, to in enumerate(links)}
    for graph, most in ((chain, count), (ring, 1)):
        graph["end"] = node("SaveImage", images=["0", 0], filename_prefix="x")
        assert len(check(graph, catalogue)) == most


def test_names_close_by_are_looked_for_only_where_they_are_shown(info: dict[str, Any]) -> None:
    graph = image() | {str(n): node("EmptyImag") for n in range(100, 300)}
    findings = check(graph, info)
    assert len(findings) == 200
    assert sum(bool(found.suggestion) for found in findings) == 50


def test_a_long_chain_is_no_circle_and_no_recursion(catalogue: NodeCatalogue) -> None:
    graph: Graph = {"0": node("EmptyImage", width=1, height=1, batch_size=1, color=7)}
    for number in range(1, 3000):
        before = [str(number - 1), 0]
        graph[str(number)] = node("ImageBatch", image1=before, image2=before)
    graph["end"] = node("SaveImage", images=["2999", 0], filename_prefix="x")
    assert check(graph, catalogue) == []


def test_the_editors_format_is_explained(catalogue: NodeCatalogue) -> None:
    refused = refusal(check({"nodes": [], "links": []}, catalogue))
    assert refused is not None
    assert refused.code == Code.UI_FORMAT
    assert "Export (API)" in str(refused)


def test_an_unknown_output_node_is_not_told_as_no_output(catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["3"]["class_type"] = "SaveImageNicely"
    assert [f.code for f in check(graph, catalogue)] == [Code.UNKNOWN_NODE]


def test_long_values_are_cut(catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["1"]["inputs"]["width"] = "x" * 100_000
    refused = refusal(check(graph, catalogue))
    assert refused is not None
    assert len(refused.info.encode()) < 5000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(graph=st.dictionaries(st.text(max_size=3), JSON, max_size=4), value=JSON)
def test_no_json_object_makes_it_raise(
    recorded: dict[str, Any], graph: dict[str, Any], value: Any
) -> None:
    check(graph, recorded)
    for field in ("width", "images", "crop", "image"):
        spoiled = image()
        for one in spoiled.values():
            one["inputs"][field] = value
        refusal(check(spoiled, recorded))


def test_thousands_of_outputs_are_weighed_in_time_and_room(catalogue: NodeCatalogue) -> None:
    """Output by output, these would be two hundred million entries: more than the machine has."""
    count = 20_000
    graph = {"t0": node("PrimitiveString", value="x")}
    for n in range(1, count):
        graph[f"t{n}"] = node(
            "StringConcatenate", string_a=[f"t{n - 1}", 0], string_b="x", delimiter=""
        )
        graph[f"s{n}"] = node("PreviewAny", source=[f"t{n}", 0])
    began = time.perf_counter()
    assert [f for f in check(graph, catalogue) if f.refuses] == []
    graph["t0"]["inputs"] = {}
    assert [f.node for f in check(graph, catalogue) if f.refuses] == ["t0"]
    graph["s0"] = node("PreviewAny", source="fine")
    assert [f for f in check(graph, catalogue) if f.refuses] == []
    assert time.perf_counter() - began < 20
