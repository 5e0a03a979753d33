"""A job's outputs: every kind is found, every name is plain, no path leaves its folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel_comfy.outputs import OutputFile, collect, locate, mime_of, plain_name
from pennyreel_contract import JobFailed, PennyreelError

SURROGATES = st.characters()  # lone surrogates and NUL included
NAMES = st.text(SURROGATES, max_size=40) | st.sampled_from(
    ["..", ".", "", "/", "\\", "../x", "..\\x", "/etc/passwd", "C:\\x", "a/../../b", "x\0y", "~",
     "a" * 300, "\u20ac" * 200, "ab " + "c" * 199, "a." * 150]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | NAMES
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["filename", "subfolder", "type", "images", "text", "gifs"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def made(filename: str, subfolder: str = "", kind: str = "output") -> OutputFile:
    return OutputFile("1", plain_name(filename), filename, subfolder, kind, "file", "x/y")


def entry(**outputs: Any) -> dict[str, Any]:
    return {"outputs": outputs}


def item(filename: str, **more: str) -> dict[str, str]:
    return {"filename": filename, "subfolder": "", "type": "output", **more}


@given(NAMES)
def test_a_plain_name_is_one_part_that_any_system_takes(name: str) -> None:
    plain = plain_name(name)
    assert plain
    assert plain not in {".", ".."}
    assert not set(plain) & set('<>:"/\\|?*\0\n')
    assert plain == plain.strip(" .")
    assert len(plain.encode()) <= 255
    assert plain_name(plain) == plain


@given(ANYTHING)
def test_any_history_entry_is_read(outputs: Any) -> None:
    files, texts = collect({"outputs": outputs}, temp=True)
    names = [f.name.casefold() for f in files]
    assert len(set(names)) == len(names)
    assert all(isinstance(t.text, str) for t in texts)


@given(NAMES, NAMES, NAMES)
def test_no_path_leaves_its_folder_and_nothing_else_is_raised(
    filename: str, subfolder: str, kind: str
) -> None:
    with tempfile.TemporaryDirectory() as root:
        try:
            found = locate(made(filename, subfolder, kind), {kind: Path(root)})
        except PennyreelError:
            return
        assert found.is_relative_to(Path(root).resolve())


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [
        ("secret", ".."),
        ("../secret", ""),
        ("secret", "a/../.."),
        ("{outside}/secret", ""),
        ("secret", "{outside}"),
        ("link/secret", ""),
        ("loop", ""),
        ("x\0y", ""),
        ("x" * 5000, ""),
        ("", ""),
        (".", "a"),
    ],
)
def test_a_name_that_is_no_file_inside_is_refused(
    filename: str, subfolder: str, tmp_path: Path
) -> None:
    root = tmp_path / "output"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("no")
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    wanted = made(filename.format(outside=tmp_path), subfolder.format(outside=tmp_path))
    with pytest.raises(JobFailed) as caught:
        locate(wanted, {"output": root})
    assert caught.value.code == "output_missing"


def test_a_file_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_text("yes")
    assert locate(made("x.png", "a"), {"output": tmp_path}).read_text() == "yes"
    with pytest.raises(JobFailed, match="is new"):
        locate(made("x.png", "a", "vault"), {"output": tmp_path})


def test_files_under_any_key_are_found_in_order_and_once() -> None:
    files, texts = collect(
        entry(
            a={"images": [item("x.png")], "animated": [True]},
            b={"gifs": [item("v.mp4", format="video/h264-mp4")], "odd": item("m.glb")},
            c={"text": ["hello"], "images": [item("x.png")]},
        )
    )
    assert [(f.node, f.name, f.kind) for f in files] == [
        ("a", "x.png", "image"), ("b", "v.mp4", "video"), ("b", "m.glb", "model3d"),
    ]  # fmt: skip
    assert [(t.node, t.text) for t in texts] == [("c", "hello")]


def test_previews_come_only_on_request() -> None:
    made_by = entry(a={"images": [item("p.png", type="temp")]})
    assert collect(made_by)[0] == []
    assert [f.temp for f in collect(made_by, temp=True)[0]] == [True]


def test_outputs_are_chosen_by_node_and_by_kind() -> None:
    all_of_it = entry(a={"images": [item("x.png")]}, b={"audio": [item("x.wav")], "text": ["t"]})
    assert [f.name for f in collect(all_of_it, nodes=["b"])[0]] == ["x.wav"]
    files, texts = collect(all_of_it, kinds=["image"])
    assert ([f.name for f in files], texts) == (["x.png"], [])
    assert len(collect(all_of_it, kinds=["text"])[1]) == 1


def test_the_same_name_in_two_folders_gets_a_number() -> None:
    files, _ = collect(
        entry(
            a={"images": [item("x.png"), item("x.png", subfolder="b"), item("X.PNG")]},
            b={"images": [item("x-2.png")], "other": [item("noend"), item("noend", subfolder="b")]},
        )
    )
    assert [f.name for f in files] == [
        "x.png", "x-2.png", "X-3.PNG", "x-2-2.png", "noend", "noend-2",
    ]  # fmt: skip


def test_a_text_and_a_file_never_have_the_same_name() -> None:
    files, texts = collect(entry(a={"text": ["t"], "files": [item("node-a-text-0.txt")]}))
    assert files[0].name.casefold() != texts[0].name.casefold()


def test_a_texts_name_is_plain_whatever_its_node_is_called() -> None:
    _, texts = collect(entry(**{"../../3:1": {"text": ["t"]}}))
    assert plain_name(texts[0].name) == texts[0].name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.MP4", ("video", "video/mp4")),
        ("a.webm", ("video", "video/webm")),
        ("a.gif", ("image", "image/gif")),
        ("a.webp", ("image", "image/webp")),
        ("a.flac", ("audio", "audio/flac")),
        ("a.glb", ("model3d", "model/gltf-binary")),
        ("a.safetensors", ("file", "application/octet-stream")),
        ("a", ("file", "application/octet-stream")),
        ("a.nothing-known", ("file", "application/octet-stream")),
    ],
)
def test_kind_and_type_follow_from_the_ending(name: str, expected: tuple[str, str]) -> None:
    assert mime_of(name) == expected
