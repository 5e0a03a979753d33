"""Run the model templates on a real ComfyUI, on the CPU, with tiny models of random weights.

    python bench/prove_models.py COMFY_DIR [--python PY] [--only TEMPLATE] [--json]

It proves that the shipped graphs are right for the real nodes: names, links, options, files. It
says nothing about how good or how fast the real models are. COMFY_DIR is a ComfyUI folder whose
custom_nodes holds the packs that the templates need; the models it makes there take 5.1 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from pennyreel_comfy.templates import Template, load

ROOT = Path(__file__).resolve().parents[1]
MAKER = ROOT / "tests" / "programs" / "make_tiny_models.py"
START_S, JOB_S = 180, 900
PREFIX = "pennyreel_tiny"


class Case(NamedTuple):
    """A template with parameters that suit the tiny models."""

    template: str
    note: str
    models: tuple[str, ...]
    parameters: dict[str, Any]
    frames: int


_SMALL = {"width": 64, "height": 64, "steps": 2, "prompt": "a paper boat"}
_MOVING = {
    **_SMALL,
    "checkpoint": f"{PREFIX}_sd15_animatediff.safetensors",
    "motion_module": f"{PREFIX}_motion_v3.safetensors",
}
CASES = (
    Case("hello-video", "64 frames", (), {}, 64),
    Case("sd15-image", "", ("sd15",), {**_SMALL, "checkpoint": f"{PREFIX}_sd15.safetensors"}, 1),
    Case("sdxl-image", "", ("sdxl",), {**_SMALL, "checkpoint": f"{PREFIX}_sdxl.safetensors"}, 1),
    Case("animatediff-v3", "16 frames", ("sd15-animatediff", "motion-v3"), _MOVING, 16),
    Case(
        "animatediff-v3",
        "24 frames, 2 windows",
        ("sd15-animatediff", "motion-v3"),
        {**_MOVING, "frames": 24},
        24,
    ),
)


def main() -> int:
    """Run what the command line asks for; 0 if all is as it should be."""
    options = _options()
    folder: Path = options.comfy_dir.resolve()
    cases = [case for case in CASES if options.only in (None, case.template)]
    templates = {case.template: load(case.template) for case in cases}
    if not (folder / "main.py").is_file():
        print(f"{folder} is no ComfyUI folder: it has no main.py", file=sys.stderr)
        return 2
    packs, missing = _packs(folder, templates.values())
    if missing:
        print("missing in custom_nodes:", *missing, sep="\n  ", file=sys.stderr)
        return 2
    models = sorted({name for case in cases for name in case.models})
    _run([options.python, str(MAKER), str(folder), *models], quiet=options.json)
    with tempfile.TemporaryDirectory() as place, _comfyui(options.python, folder, place) as url:
        rows = [_prove(case, templates[case.template], url, Path(place) / "out") for case in cases]
        system = requests.get(f"{url}/system_stats", timeout=10).json()["system"]
    report = {
        "bench": "prove_models",
        "comfyui": system["comfyui_version"],
        "torch": system["pytorch_version"],
        "python": system["python_version"].split()[0],
        "packs": packs,
        "rows": rows,
        "ok": all(row["ok"] for row in rows),
    }
    if not options.json:
        _table(rows)
    print(json.dumps(report))
    return 0 if report["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("comfy_dir", type=Path, help="ComfyUI's folder")
    parser.add_argument("--python", default=sys.executable, help="ComfyUI's Python")
    parser.add_argument("--only", choices=sorted({case.template for case in CASES}))
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    return parser.parse_args()


def _packs(folder: Path, templates: Any) -> tuple[dict[str, str], list[str]]:
    """Return the version of each pack that the templates need, and the ones not there."""
    found: dict[str, str] = {}
    missing: list[str] = []
    needed = {pack.name: pack for template in templates for pack in template.needs.node_packs}
    there = {path.name.lower(): path for path in (folder / "custom_nodes").iterdir()}
    for name, pack in needed.items():
        path = there.get(name.lower())
        if path is None:
            missing.append(f"{name}: git clone {pack.url} (tried with {pack.commit})")
        else:
            found[name] = _version(path)
    return found, missing


def _version(path: Path) -> str:
    with contextlib.suppress(OSError):
        for line in (path / "pyproject.toml").read_text("utf-8").splitlines():
            if line.startswith("version"):
                return line.partition("=")[2].strip(" \"'")
    return "unknown"


@contextlib.contextmanager
def _comfyui(python: str, folder: Path, place: str) -> Iterator[str]:
    """Start ComfyUI on a free port of the loopback interface; the environment is passed on."""
    page = Path(place) / "web"
    page.mkdir()
    (page / "index.html").write_text("<p>No editor here.</p>", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--front-end-root", str(page), "--output-directory", str(Path(place) / "out")]
    url = f"http://127.0.0.1:{port}"
    log = Path(place) / "comfyui.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(command, cwd=folder, stdout=sink, stderr=subprocess.STDOUT)
    try:
        _wait_until_up(url, child, log)
        yield url
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_up(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/system_stats", timeout=2).ok:
                return
        time.sleep(0.2)
    tail = log.read_text("utf-8", "replace")[-3000:]
    raise SystemExit(f"ComfyUI did not start:\n{tail}")


def _prove(case: Case, template: Template, url: str, out: Path) -> dict[str, Any]:
    """Run a case twice, with two seeds: models to load first, then loaded."""
    seconds = []
    found: dict[str, Any] = {}
    for seed in (1, 2):
        graph = template.render({**case.parameters, "seed": seed}).graph
        began = time.monotonic()
        file, problem = _submit(url, graph)
        seconds.append(round(time.monotonic() - began, 1))
        if file is None:
            found = {"ok": False, "problem": problem}
            break
        found = _probe(out / file["subfolder"] / file["filename"])
        found["ok"] = found["frames"] == case.frames
    return {
        "template": case.template,
        "case": case.note,
        "nodes": len(template.graph),
        **found,
        "seconds_first": seconds[0],
        "seconds_warm": seconds[-1] if len(seconds) > 1 else None,
    }


def _submit(url: str, graph: dict[str, Any]) -> tuple[dict[str, str] | None, str]:
    """Run a graph; return its first file, or what went wrong."""
    answer = requests.post(f"{url}/prompt", json={"prompt": graph}, timeout=30)
    if not answer.ok or answer.json()["node_errors"]:
        return None, answer.text[:2000]
    key = answer.json()["prompt_id"]
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        entry = requests.get(f"{url}/history/{key}", timeout=30).json().get(key)
        if entry:
            files = [
                file
                for output in entry["outputs"].values()
                for kind in ("images", "gifs")
                for file in output.get(kind, ())
            ]
            return (files[0], "") if files else (None, _failure(entry["status"]))
        time.sleep(0.1)
    return None, f"no end in {JOB_S} s"


def _failure(status: dict[str, Any]) -> str:
    for name, data in status["messages"]:
        if name == "execution_error":
            return f"{data['node_type']}: {data['exception_message']}".strip()
    return "no files"


def _probe(path: Path) -> dict[str, Any]:
    tool = shutil.which("ffprobe")
    if tool is None:
        raise SystemExit("ffprobe is missing: install ffmpeg")
    fields = "codec_name,width,height,nb_read_frames"
    command = [tool, "-v", "error", "-count_frames", "-select_streams", "v:0"]
    command += ["-show_entries", f"stream={fields}", "-of", "json", str(path)]
    stream = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    stream = stream["streams"][0]
    return {
        "codec": stream["codec_name"],
        "size": f"{stream['width']}x{stream['height']}",
        "frames": int(stream["nb_read_frames"]),
        "bytes": path.stat().st_size,
    }


def _run(command: list[str], *, quiet: bool) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)


def _table(rows: list[dict[str, Any]]) -> None:
    heads = ("template", "case", "frames", "size", "codec", "seconds_first", "seconds_warm", "ok")
    lines = [heads, *([str(row.get(head, "-")) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for row in rows:
        if "problem" in row:
            print(f"{row['template']}: {row['problem']}")


if __name__ == "__main__":
    sys.exit(main())
