"""What an untrusted graph may not do is refused; what looks like it in a prompt is not."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from comfy.preflight.graphs import diffusion, image, node, text
from pennyreel_comfy.preflight import NodeCatalogue, check, paid_nodes, refusal, refused_nodes
from pennyreel_comfy.preflight.paths import path_like, unsafe
from pennyreel_comfy.preflight.tables import table
from pennyreel_contract import Code

ESCAPES = [
    "/etc/passwd",
    "../../secret.png",
    "a/../../b.png",
    "..",
    "a\\..\\..\\b",
    "C:\\Windows\\win.ini",
    "c:/x",
    "\\\\host\\share",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "https://example.com/a.png",
    "ftp://h/x",
    "  /etc/passwd",
    '"/etc/passwd"',
    "ok.png\n/etc/passwd",
    "a\0b",
    "\u00a0/etc/passwd",
    "\u3000../x",
    "\x1f/etc/passwd",
    "\x85~/x",
    "\ufeff/etc/passwd",
    '\u00a0"/etc/passwd"',
    "\"\u200b'` /etc/passwd`'\u200b\"",
    "ok.png\n\u2003'../x'",
]
INSIDE = ["x", "a/b.png", "ComfyUI", "%date:yyyy-MM-dd%/x", "a..b", "v1.0/x", "...", "", "a: b"]
PROMPTS = [
    "/imagine a cat and/or a dog, ../.. in a jar",
    "http://example.com/a.png in the style of a 1990s website",
    "/etc/passwd written on a wall",
    "file:///etc/passwd",
    "C:\\Windows on a screen",
    "a cat [output]",
    "~/home sweet home",
]


@pytest.mark.parametrize("value", ESCAPES)
def test_a_path_that_leads_out_is_refused_in_any_node(value: str, catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["3"]["inputs"]["filename_prefix"] = value
    graph["8"] = node("SomeUnknownNode", output_path=value, imageFile=value, text=value)
    graph["9"] = node("LoadImage", image=value)
    found = refused_nodes(graph, catalogue)
    assert {(f.node, f.input) for f in found} == {
        *{("3", "filename_prefix"), ("8", "output_path"), ("8", "imageFile"), ("9", "image")},
    }
    assert {f.code for f in found} == {Code.NODE_REFUSED}
    refused = refusal(found)
    assert refused is not None
    assert refused.code == Code.NODE_REFUSED


@pytest.mark.parametrize("value", [*ESCAPES, "other.png [output]"])
def test_files_are_held_inside_while_nothing_is_known_of_the_classes(value: str) -> None:
    graph = {"1": node("LoadImage", image=value), "2": node("VHS_LoadVideo", video=value)}
    assert [f.node for f in refused_nodes(graph, {})] == ["1", "2"]
    assert refused_nodes({**image(), "1": node("LoadImage", image="mine.png")}, {}) == []


@pytest.mark.parametrize("value", INSIDE)
def test_a_path_that_stays_inside_is_fine(value: str, catalogue: NodeCatalogue) -> None:
    graph = image()
    graph["3"]["inputs"]["filename_prefix"] = value
    graph["8"] = node("SomeUnknownNode", output_path=value)
    assert unsafe(value) is None
    assert refused_nodes(graph, catalogue) == []


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_never_refused(prompt: str, catalogue: NodeCatalogue) -> None:
    graph = diffusion("x.safetensors")
    graph["2"]["inputs"]["text"] = prompt
    graph["7"] = node(
        "CustomText", prompt=prompt, text_positive=prompt, string=prompt, value=prompt
    )
    graph["8"] = node("StringConcatenate", string_a=prompt, string_b="", delimiter="/")
    graph["9"] = node("SomeEncoder", text=["8", 0], profile=prompt)
    assert refused_nodes(graph, catalogue) == []


def test_other_jobs_files_are_refused_and_own_ones_are_not(catalogue: NodeCatalogue) -> None:
    def reading(name: str) -> bool:
        graph = {"1": node("LoadImage", image=name), "2": node("LoadVideo", file=name)}
        return len(refused_nodes(graph, catalogue)) == 2

    assert reading("other.png [output]")
    assert reading("other.png[temp]")
    assert reading('"other.png [output]\u00a0"')
    assert not reading("mine.png [input]")
    assert not reading("attempt/mine.png")
    assert refused_nodes({"1": node("LoadImageOutput", image="x.png")}, catalogue)


@pytest.mark.parametrize(
    "class_type",
    [
        "VHS_LoadVideoPath",
        "VHS_LoadVideoFFmpegPath",
        "VHS_LoadImagesPath",
        "VHS_LoadImagePath",
        "VHS_LoadAudio",
        "ADE_LoadCameraPosesFromPath",
        "Load Image Batch",
        "Save Text File",
        "LoadImageFromUrl",
        "LoadImagesFromURL",
        "Load Image From Url (mtb)",
        "LoadImagesFromDir //Inspire",
        "IPAdapterLoadEmbeds",
        "AnyNodeLocal",
        "PythonCodeExecutor",
        "Griptape Code: Run Python [DEPRECATED]",
        "KY_Eval_Python",
        "Shell Command",
        "Load Video From URL",
        "Load Images From Folder",
        "SaveImageDataSetToFolder",
        "SaveImageTextDataSetToFolder",
        "SaveTrainingDataset",
    ],
)
def test_nodes_that_reach_past_a_job_are_refused_whatever_their_inputs(
    class_type: str, catalogue: NodeCatalogue
) -> None:
    (found,) = refused_nodes({"1": node(class_type, anything=["2", 0])}, catalogue)
    assert (found.node, found.class_type, found.input) == ("1", class_type, None)
    assert found.suggestion


def test_no_pattern_hits_a_node_that_stays_inside(recorded: dict[str, Any]) -> None:
    harmless = [
        *(
            "VHS_LoadVideo",
            "VHS_LoadImages",
            "VHS_LoadAudioUpload",
            "VHS_VideoCombine",
            "LoadImage",
        ),
        *(
            "LoadVideo",
            "LoadAudio",
            "CheckpointLoaderSimple",
            "ExecutionBlocker",
            "GetFileNameFromURL",
        ),
        *("ADE_LoadAnimateDiffModel", "If ANY execute A else B", "DM_ShellGradient", "PathFollow"),
        *("ImageFromBatch", "CR Load LoRA", "LoraLoaderModelOnly", "Load Face Swap Model (mtb)"),
    ]
    patterns = [p for rule in table("unsafe")["rule"] for p in rule.get("patterns", ())]
    assert patterns
    for name in harmless:
        assert [p for p in patterns if re.search(p, name)] == [], name
        assert refused_nodes({"1": node(name)}, recorded) == []


def test_the_operator_may_allow_a_class_or_all(catalogue: NodeCatalogue) -> None:
    graph = {
        "1": node("VHS_LoadVideoPath", video="/data/x.mp4"),
        "2": node("LoadImage", image="/x.png"),
    }
    assert len(refused_nodes(graph, catalogue)) == 2
    (left,) = refused_nodes(graph, catalogue, frozenset({"VHS_LoadVideoPath"}))
    assert left.node == "2"
    assert refused_nodes(graph, catalogue, frozenset({"*"})) == []


def test_a_path_that_comes_by_a_link_is_followed(info: dict[str, Any]) -> None:
    info["SomeReader"] = {"input": {"required": {"file_path": ["STRING", {}]}}, "output": []}
    graph = text()
    graph["1"]["inputs"]["value"] = "/etc/passwd"
    graph["4"] = node("SomeReader", file_path=["1", 0])
    (found,) = refused_nodes(graph, info)
    assert found.node == "4"
    assert "node 1" in found.message
    graph["1"]["inputs"]["value"] = "fine.txt"
    assert refused_nodes(graph, info) == []
    graph["5"] = node("StripWhitespace", text="\u00a0/etc/passwd")
    graph["4"]["inputs"]["file_path"] = ["5", 0]
    assert [f.node for f in refused_nodes(graph, info)] == ["4"]
    graph["4"]["inputs"]["file_path"] = ["2", 0]  # "." and "./x" may be joined there
    (found,) = refused_nodes(graph, info)
    assert "put together by node 2" in found.message


def test_files_that_are_no_texts_may_be_linked(info: dict[str, Any]) -> None:
    info["SomeRemover"] = {"input": {"required": {"filenames": ["VHS_FILENAMES", {}]}}}
    graph = {
        "1": node("VHS_VideoCombine", images=["9", 0], format="video/h264-mp4", pix_fmt="yuv420p"),
        "2": node("SomeRemover", filenames=["1", 0]),
    }
    assert refused_nodes(graph, info) == []
    assert refused_nodes(graph, {}) == []


def test_a_prefix_may_be_put_together_but_not_of_steps_up(catalogue: NodeCatalogue) -> None:
    graph = text()
    graph["4"] = node("SaveImage", images=["9", 0], filename_prefix=["2", 0])
    assert refused_nodes(graph, catalogue) == []
    graph["1"]["inputs"]["value"] = "../x"
    assert [f.node for f in refused_nodes(graph, catalogue)] == ["4"]


def test_a_prefix_of_a_class_that_nobody_knows_to_hold_it_is_a_path(info: dict[str, Any]) -> None:
    info["SomeSaver"] = {
        "input": {"required": {"filename_prefix": ["STRING", {}]}},
        "python_module": "custom_nodes.some_pack",
    }
    graph = text()
    graph["4"] = node("SomeSaver", filename_prefix=["2", 0])
    (found,) = refused_nodes(graph, info)
    assert "put together by node 2" in found.message
    graph["4"]["inputs"]["filename_prefix"] = ["1", 0]
    assert refused_nodes(graph, info) == []
    info["VHS_VideoCombine"] = info["SomeSaver"]
    graph["4"] = node("VHS_VideoCombine", filename_prefix=["2", 0])
    assert refused_nodes(graph, info) == []


def test_what_is_linked_where_nothing_is_declared_may_be_no_text_put_together(
    info: dict[str, Any],
) -> None:
    graph = text()
    graph["4"] = node("SaveImage", images=["9", 0], output_path=["2", 0])
    assert [f.input for f in refused_nodes(graph, info)] == ["output_path"]
    graph["2"] = node("EmptyImage", width=1, height=1, batch_size=1, color=["1", 0])
    assert refused_nodes(graph, info) == []


@pytest.mark.parametrize(
    "name",
    ["other/in.png", "./other/in.png", '"other/in.png"', "other\\x", "other [input]", "other"],
)
def test_what_belongs_to_another_job_is_not_read(name: str, info: dict[str, Any]) -> None:
    info["SomeFolder"] = {"input": {"required": {"directory": [["other", "mine"], {}]}}}
    info["SomeReader"] = {"input": {"required": {"file_path": ["STRING", {}]}}}
    foreign = frozenset({"other"})
    graph = {
        "1": node("LoadImage", image=name),
        "2": node("SomeFolder", directory=name),
        "3": node("SomeReader", file_path=["4", 0]),
        "4": node("PrimitiveString", value=name),
    }
    found = refused_nodes(graph, info, foreign=foreign)
    assert [f.node for f in found] == ["1", "2", "3"]
    assert all("other jobs" in f.message for f in found)
    assert [f.node for f in refused_nodes(graph, {}, foreign=foreign)] == ["1", "2", "3"]
    for fine in ("mine/other.png", "another/x.png"):
        graph["1"]["inputs"]["image"] = graph["2"]["inputs"]["directory"] = fine
        graph["4"]["inputs"]["value"] = fine
        assert refused_nodes(graph, info, foreign=foreign) == []


def test_the_names_of_other_jobs_are_told_by_no_finding(info: dict[str, Any]) -> None:
    others = ["attempt-of-another", "attempt-of-yet-another"]
    info["SomeFolder"] = {"input": {"required": {"directory": [others, {}]}}}
    info["LoadImage"]["input"]["required"]["image"][0][:] = [f"{one}.png" for one in others]
    for asked in ("attempt-of-anothe", "attempt-of-another.safetensors", "x"):
        graph = {
            "1": node("SomeFolder", directory=asked),
            "2": node("LoadImage", image=f"{asked}.pn"),
            "3": node("PreviewImage", images=["2", 0]),
        }
        told = [f for f in check(graph, info) if f.input in ("directory", "image")]
        assert told
        assert "another'" not in str(told).replace(f"'{asked}'", "")
        assert "another.png" not in str(told)


def test_a_model_or_sampler_that_comes_by_a_link_is_fine(catalogue: NodeCatalogue) -> None:
    graph = diffusion("x.safetensors")
    graph["7"] = node("SomeSelector", model="a.safetensors", sampler="euler", other=["2", 0])
    graph["1"]["inputs"]["ckpt_name"] = ["7", 0]
    graph["4"]["inputs"]["sampler_name"] = ["7", 1]
    assert refused_nodes(graph, catalogue) == []


def test_a_circle_of_texts_is_followed_once(catalogue: NodeCatalogue) -> None:
    graph = {
        "1": node("StringConcatenate", string_a=["2", 0], string_b=["2", 0]),
        "2": node("StringConcatenate", string_a=["1", 0], string_b=["1", 0]),
        "3": node("SaveImage", images=["9", 0], filename_prefix=["1", 0]),
    }
    assert refused_nodes(graph, catalogue) == []


def test_a_wrapped_value_is_no_way_around(catalogue: NodeCatalogue) -> None:
    for value in ({"__value__": "/etc/passwd"}, {"__value__": ["a", "/etc/passwd"]}):
        assert refused_nodes({"1": node("LoadImage", image=value)}, catalogue)


def test_names_of_inputs_are_read_by_words() -> None:
    for name in ("path", "image_path", "imagePath", "folder", "url", "videourl", "file_name"):
        assert path_like(name, None), name
    for name in ("profile", "text", "prompt", "direction", "filter", "curl_strength", "image"):
        assert not path_like(name, None), name


def test_a_value_that_the_server_itself_offers_is_fine(info: dict[str, Any]) -> None:
    info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0].append("/abs/x.safetensors")
    assert refused_nodes(diffusion("/abs/x.safetensors"), info) == []
    assert refused_nodes(diffusion("/abs/y.safetensors"), info)


def test_paid_nodes_are_told_once_each(catalogue: NodeCatalogue) -> None:
    graph = {**image(), "7": node("OpenAIDalle3"), "8": node("OpenAIDalle3"), "9": node("Unknown")}
    assert paid_nodes(graph, catalogue) == ["OpenAIDalle3"]
    assert paid_nodes(image(), catalogue) == []


def test_a_graph_of_no_shape_is_left_to_the_check(catalogue: NodeCatalogue) -> None:
    graph: dict[str, Any] = {"1": 5, "2": {"class_type": 3}, "3": {"class_type": "X", "inputs": 1}}
    assert refused_nodes(graph, catalogue) == []
    assert paid_nodes(graph, catalogue) == []


def test_every_rule_has_a_reason_and_no_class_has_two() -> None:
    rules = table("unsafe")["rule"]
    names = [name for rule in rules for name in rule["classes"]]
    assert all(rule["reason"] for rule in rules)
    assert len(names) == len(set(names))


def test_names_of_files_in_an_object_are_looked_at(catalogue: NodeCatalogue) -> None:
    """Load3D takes the files' names of four pictures in an object, and asks nobody about them."""
    names = {"image": "fine.png", "mask": "fine.png", "normal": "fine.png", "recording": ""}
    graph = {"1": node("Load3D", model_file="3d/a.glb", image=names)}
    assert refused_nodes(graph, catalogue) == []
    for bad in (*ESCAPES, "other.png [output]"):
        graph["1"]["inputs"]["image"] = {**names, "normal": bad}
        assert [f.input for f in refused_nodes(graph, catalogue)] == ["image"], bad
    for deep in ({"a": [{"b": "/etc/passwd"}]}, ["a.png", "b.png", "/etc/passwd"]):
        graph["1"]["inputs"]["image"] = deep
        assert [f.input for f in refused_nodes(graph, catalogue)] == ["image"]


@pytest.mark.parametrize("name", ["notes.txt [output]", "notes.txt [temp]"])
def test_a_choice_that_comfyui_does_not_check_is_no_way_to_other_folders(name: str) -> None:
    info = {
        "GeminiInputFiles": {
            "input": {"required": {"file": ["COMBO", {"options": ["a.txt"]}]}},
            "python_module": "comfy_api_nodes.nodes_gemini",
        }
    }
    (found,) = refused_nodes({"1": node("GeminiInputFiles", file=name)}, info)
    assert "other jobs" in found.message


FILTER = "none [o]; movie=/etc/passwd"


@pytest.mark.parametrize(
    "value",
    [
        FILTER,
        "none[x];[x]metadata=mode=print:file=/var/x/.bashrc",
        {"dither": FILTER},
        ["a", "b", FILTER],
        {"__value__": FILTER},
        ["1", 0],
        ["2", 0],
        "ok\n-y",
    ],
)
def test_what_becomes_part_of_a_command_is_one_plain_word(value: Any, info: dict[str, Any]) -> None:
    """VideoHelperSuite puts `dither` into a filter of ffmpeg, which can read and write any file."""
    graph = text()
    graph["1"]["inputs"]["value"] = FILTER
    graph["4"] = node(
        "VHS_VideoCombine", images=["9", 0], format="video/ffmpeg-gif", dither="sierra2_4a"
    )
    assert refused_nodes(graph, info) == []
    graph["4"]["inputs"]["dither"] = value
    assert [f.input for f in refused_nodes(graph, info)] == ["dither"]
    del graph["4"]["inputs"]["dither"]
    graph["4"]["inputs"]["manual_format_widgets"] = value
    assert [f.input for f in refused_nodes(graph, info)] == ["manual_format_widgets"]


def test_what_a_format_really_takes_may_be_said(info: dict[str, Any]) -> None:
    graph = text()
    graph["1"]["inputs"]["value"] = "yuv420p"
    graph["3"] = node("EmptyImage", width=1, height=1, batch_size=1, color=0)
    graph["4"] = node(
        "VHS_VideoCombine", images=["3", 0], format="video/h264-mp4", frame_rate=8.0,
        filename_prefix="a b/%date:yyyy%", crf=19, pix_fmt="yuv420p10le", save_metadata=True,
        profile="4444xq", level="3", latents=["3", 0], trim_to_audio=False,
        videopreview={"hidden": False, "params": {"filename": "a b.mp4", "format": "video/x"}},
    )  # fmt: skip
    assert refused_nodes(graph, info) == []
    graph["4"]["inputs"]["pix_fmt"] = ["1", 0]
    assert refused_nodes(graph, info) == []


@pytest.mark.parametrize("count", [50, 50_000])
def test_a_name_takes_no_time_however_long_it_is(count: int) -> None:
    """The patterns' square time would hold the interpreter's lock: nothing else would go on."""
    names = ["load" * count, "Load" * count + "Path", "a_" * count + "file_path"]
    began = time.perf_counter()
    for name in names:
        graph = {"1": node(name, **{name: "x"})}
        refused = [f.message for f in refused_nodes(graph, {})]
        assert refused == ["this worker does not run it: no node has so long a name"] or count == 50
    assert time.perf_counter() - began < 5


def test_long_chains_of_texts_are_judged_in_time(catalogue: NodeCatalogue) -> None:
    count = 4000
    graph: dict[str, Any] = {"t0": node("PrimitiveString", value="x")}
    for n in range(1, count):
        graph[f"t{n}"] = node("StringConcatenate", string_a=[f"t{n - 1}", 0], string_b="b")
        graph[f"s{n}"] = node("SaveImage", images=["i", 0], filename_prefix=[f"t{n}", 0])
    began = time.perf_counter()
    assert refused_nodes(graph, catalogue) == []
    graph["t0"]["inputs"]["value"] = "../x"
    assert len(refused_nodes(graph, catalogue)) == count - 1
    assert time.perf_counter() - began < 5


def test_a_model_that_another_job_brought_is_not_named(info: dict[str, Any]) -> None:
    digest = "0123456789abcdef" * 4
    models = frozenset({f"{digest}.safetensors"})
    options = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
    options[:] = ["own.safetensors", f"{digest}.safetensors"]
    graph = diffusion(f"{digest}.safetensors")
    assert [f.node for f in refused_nodes(graph, info, models=models)] == ["1"]
    assert refused_nodes(graph, info) == []
    graph = diffusion("own.safetensors")
    assert refused_nodes(graph, info, models=models) == []
    graph["8"] = node("SomePack", rows=[{"lora": f"embedding:{digest}.pt"}])
    assert [f.node for f in refused_nodes(graph, info, models=models)] == ["8"]
    told = str(check(diffusion("x.safetensors"), NodeCatalogue(info, models)))
    assert "own.safetensors" in told
    assert digest not in told


def test_what_is_of_any_type_is_no_way_to_a_file(info: dict[str, Any]) -> None:
    """ComfyUI passes it for a choice of files, and ADE_LoadCameraPoses opens what it is given."""
    info["ADE_LoadCameraPoses"] = {"input": {"required": {"pose_filename": [["a.txt"], {}]}}}
    info["VHS_Unbatch"] = {"input": {"required": {"batched": ["*", {}]}}, "output": ["*"]}
    graph = {
        "1": node("PrimitiveString", value="/etc/passwd"),
        "2": node("VHS_Unbatch", batched=["1", 0]),
        "3": node("ADE_LoadCameraPoses", pose_filename=["2", 0]),
        "4": node("SaveImage", images=["2", 0], filename_prefix="x"),
        "5": node("CheckpointLoaderSimple", ckpt_name=["2", 0]),
    }
    (found,) = refused_nodes(graph, info)
    assert (found.node, found.input) == ("3", "pose_filename")
    for number in (-1, 1, -7):
        graph["3"]["inputs"]["pose_filename"] = ["2", number]
        assert [f.node for f in refused_nodes(graph, info)] == ["3"], number
    graph["3"]["inputs"]["pose_filename"] = ["2", 0]
    info["VHS_Unbatch"]["output"] = ["STRING,COMBO"]
    assert [f.node for f in refused_nodes(graph, info)] == ["3"]
    info["VHS_Unbatch"]["output"] = ["IMAGE"]
    assert refused_nodes(graph, info) == []


@pytest.mark.parametrize("name", ["[temp]", ". [temp]", "x [output]", '"[output]"'])
def test_a_choice_of_folders_is_no_way_to_what_other_jobs_make(
    name: str, info: dict[str, Any]
) -> None:
    """VHS_LoadImages reads the temp folder by such a name, with the previews of the other job."""
    info["VHS_LoadImages"] = {"input": {"required": {"directory": [["mine"], {}]}}}
    info["SomeReader"] = {"input": {"required": {"file_path": ["STRING", {}]}}}
    graph = {
        "1": node("VHS_LoadImages", directory=name),
        "2": node("SomeReader", file_path=["3", 0]),
        "3": node("PrimitiveString", value=name),
        "4": node("SaveImage", images=["1", 0], filename_prefix=name.strip('"')),
    }
    assert [f.node for f in refused_nodes(graph, info)] == ["1", "2"]
