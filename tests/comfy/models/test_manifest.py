"""models.toml: what ships is sound, an operator's file overrides it, and mistakes are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pennyreel_comfy import templates
from pennyreel_comfy.models import Entry, load, manifest
from pennyreel_comfy.models.names import PICKLES, check_pinned, checked_name, known_folder, place
from pennyreel_contract import BadRequest, PennyreelError, SetupNeeded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GOOD = """
[[models]]
name = "x.safetensors"
folder = "loras"
url = "https://huggingface.co/a/b/resolve/main/x.safetensors"
"""


def entry(**changes: object) -> str:
    values = {"name": "x.safetensors", "folder": "loras", "url": "https://a.example/x", **changes}
    lines = [
        f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}"
        for k, v in values.items()
        if v is not None
    ]
    return "[[models]]\n" + "\n".join(lines) + "\n"


def test_every_model_of_a_template_is_in_the_shipped_manifest() -> None:
    shipped = load()
    models = [model for t in templates.list_templates() for model in t.models]
    assert len(models) >= 4
    for model in models:
        found = shipped.find(model.folder, model.name)
        assert found is not None, model.name
        for field in ("url", "sha256", "bytes", "licence"):
            assert getattr(found, field) == getattr(model, field), (model.name, field)


def test_a_template_finds_all_its_models_in_one_set() -> None:
    shipped = load()
    for name, chosen in (("animatediff-v3", "animatediff"), ("sdxl-image", "sdxl")):
        keys = {one.key for one in shipped.select([chosen])}
        wanted = {f"{m.folder}/{m.name}" for m in templates.load(name).models}
        assert wanted
        assert wanted <= keys


def test_sets_are_chosen_by_name_all_or_none() -> None:
    shipped = load()
    assert shipped.select(["none"]) == ()
    assert {"animatediff", "sdxl"} <= set(shipped.sets)
    everything = shipped.select(["all"])
    assert set(everything) == {one for name in shipped.sets for one in shipped.select([name])}
    assert shipped.select(["sdxl", "all", "sd_xl_base_1.0.safetensors"])[0].sets == ("sdxl",)
    assert len(shipped.select(["all", "sdxl"])) == len(everything)
    with pytest.raises(BadRequest, match="'sdxxl'") as caught:
        shipped.select(["sdxxl"])
    assert "sdxl" in caught.value.hint


def test_every_shipped_entry_says_its_licence_or_that_it_is_not_known() -> None:
    for one in load().entries:
        if one.licence == manifest.UNKNOWN:
            assert "licence" in one.description
        if one.sha256 is None or one.bytes is None:
            assert "not confirmed" in one.description


def test_an_operators_file_adds_and_overrides(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        entry(name="sd_xl_base_1.0.safetensors", folder="checkpoints")
        + entry(name="sub/new.safetensors", folder="clip")
    )
    loaded = load([mine])
    base = loaded.find("checkpoints", "sd_xl_base_1.0.safetensors")
    assert base is not None
    assert (base.url, base.sha256, base.licence) == ("https://a.example/x", None, "unknown")
    assert loaded.find("text_encoders", "sub/new.safetensors") is not None
    assert len(loaded.entries) == len(load().entries) + 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (entry(name=None), "entry 1, name"),
        (GOOD + entry(url=None, name="y.safetensors"), "entry 2 ('y.safetensors'), url"),
        (entry(sha256="abc"), "entry 1 ('x.safetensors'), sha256"),
        (entry(bytes=0), "bytes"),
        (entry(bytes="12"), "bytes"),
        (entry(colour="red"), "entry 1 ('x.safetensors'), colour"),
        (entry(folder="custom_nodes"), "no folder of models"),
        (entry(folder="../checkpoints"), "no folder of models"),
        (entry(name="../x.safetensors"), "entry 1 ('../x.safetensors'), name"),
        (entry(name="x.py"), "does not end like a model"),
        (entry(name="x.ckpt"), "taken with a sha256 only"),
        (entry(url="ftp://a.example/x"), "url"),
        (entry(sets=["A b"]), "sets"),
        (GOOD + GOOD, "loras/x.safetensors is there twice"),
        ("[[models]", "is not TOML"),
        ("[models]\n", "models"),
        ("other = 1\n", "other"),
    ],
)
def test_a_mistake_is_named_by_file_entry_and_field(text: str, told: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    with pytest.raises(SetupNeeded) as caught:
        load([mine])
    assert str(mine) in str(caught.value)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupNeeded, match=r"nowhere\.toml"):
        load([tmp_path / "nowhere.toml"])


def test_what_is_written_is_read_back_as_it_was() -> None:
    awkward = Entry(
        name="a 'b' ü.safetensors",
        folder="loras",
        url='https://a.example/x?a="b"&c=\\',
        sha256="0" * 64,
        bytes=7,
        licence='Their "own" \x7f\n licence',
        sets=("one", "two"),
    )
    for one in (awkward, Entry(name="x.sft", folder="vae", url="https://a.example/x")):
        assert manifest.parse(manifest.written(one).encode(), "it") == (one,)
    assert tomllib.loads(manifest.written(awkward))["models"][0]["licence"] == awkward.licence


# Names.

BAD_NAMES = [
    "", ".", "..", "../x.safetensors", "a/../x.safetensors", "/x.safetensors", "\\x.safetensors",
    "..\\x.safetensors", "a\\..\\..\\x.safetensors", "C:\\x.safetensors", "C:x.safetensors",
    "c:/x.safetensors", "a//x.safetensors", "./x.safetensors", ".hidden.safetensors",
    ".pennyreel/x.safetensors", "a/.git/x.safetensors", "x\0.safetensors", "x\n.safetensors",
    "x.safetensors ", " x.safetensors", "nul.safetensors", "a/CON.safetensors", "x:y.safetensors",
    "x*.safetensors", "a" * 250 + ".safetensors", "x", "x.py", "x.safetensors.exe",
    "~/x.safetensors/", "x.safetensors.",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        place(tmp_path, "loras", name)
    assert caught.value.code == "model_refused"


@pytest.mark.parametrize("name", ["x.safetensors", "a/b/x.CKPT", "a\\x.sft", "ü (1).gguf", "~x.pt"])
def test_ordinary_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    assert checked_name(name) == name.replace("\\", "/")
    assert place(tmp_path, "loras", name).is_relative_to(tmp_path / "loras")


@pytest.mark.parametrize(
    "folder", ["", ".", "..", "/etc", "custom_nodes", "configs", "loras/..", "Loras", "input", "a"]
)
def test_only_comfyuis_folders_of_weights_are_folders(folder: str) -> None:
    with pytest.raises(BadRequest) as caught:
        known_folder(folder)
    assert caught.value.code == "model_refused"


def test_old_names_of_folders_mean_the_new_ones() -> None:
    assert known_folder("clip") == "text_encoders"
    assert known_folder("unet") == "diffusion_models"
    assert known_folder("animatediff_models") == "animatediff_models"


def test_a_link_in_a_folder_does_not_lead_a_download_elsewhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "models"
    (root / "loras").mkdir(parents=True)
    (root / "loras" / "way").symlink_to(outside)
    with pytest.raises(BadRequest, match="leads elsewhere"):
        place(root, "loras", "way/x.safetensors")
    (root / "vae").symlink_to(outside)  # the folder itself may be a link: the operator made it
    assert place(root, "vae", "x.safetensors") == root / "vae" / "x.safetensors"


@pytest.mark.parametrize("ending", [*sorted(PICKLES), ".CKPT", ".Pt"])
def test_a_pickle_needs_a_checksum(ending: str) -> None:
    with pytest.raises(PennyreelError) as caught:
        check_pinned(f"a/x{ending}", None)
    assert caught.value.code == "model_refused"
    check_pinned(f"a/x{ending}", "0" * 64)
    check_pinned("x.safetensors", None)
