"""torchvision imports beside a torch that lacks its operators, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pennyreel_comfy.install as package

SHIM = Path(package.__file__).with_name("torchvision_shim.py.txt")

TORCH = """
class library:
    @staticmethod
    def register_fake(op, func=None, /, *, lib=None):
        def register(f):
            if op == "torchvision::broken":
                raise RuntimeError("this one is another matter")
            if op.startswith("torchvision::") or op == "other::absent":
                raise RuntimeError("operator %s does not exist" % op)
            return f
        return register if func is None else register(func)
"""


def python(folder: Path, code: str, torchvision: str) -> subprocess.CompletedProcess[str]:
    (folder / "torch.py").write_text(TORCH)
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(torchvision)
    (folder / "torchvision" / "transforms.py").write_text("")
    (folder / "shim.py").write_text(SHIM.read_text())
    argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


GOOD = "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(): pass\n"
GOOD += "torch.library.register_fake('torchvision::roi', lambda: 1)\n"


def test_without_the_shim_it_does_not_import(tmp_path: Path):
    done = python(tmp_path, "import torchvision", GOOD)
    assert "operator torchvision::nms does not exist" in done.stderr


def test_with_the_shim_it_does_and_torch_is_as_before(tmp_path: Path):
    code = """
import shim
assert "torch" not in sys.modules
import torch
before = torch.library.register_fake
import torchvision, torchvision.transforms
assert torch.library.register_fake is before
assert type(torchvision.__spec__.loader).__name__ == "SourceFileLoader"
assert torchvision.__loader__ is torchvision.__spec__.loader
assert not any(type(f).__module__ == "shim" for f in sys.meta_path)
print(torchvision.nms)
"""
    done = python(tmp_path, code, GOOD)
    assert done.returncode == 0, done.stderr
    assert "function nms" in done.stdout


@pytest.mark.parametrize("op", ["torchvision::broken", "other::absent"])
def test_other_errors_are_not_swallowed(tmp_path: Path, op: str):
    done = python(tmp_path, "import shim, torchvision", GOOD.replace("torchvision::nms", op))
    assert "RuntimeError" in done.stderr


def test_a_missing_torchvision_is_still_missing(tmp_path: Path):
    code = f"import shutil; shutil.rmtree({str(tmp_path / 'torchvision')!r})\n"
    done = python(tmp_path, code + "import shim, torchvision", GOOD)
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr
