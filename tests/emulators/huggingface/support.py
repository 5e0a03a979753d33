"""Asks the vendor's own client, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pennyreel_emulators.huggingface import HubConfig, HuggingFace

WAN = "Wan-AI/Wan2.2-TI2V-5B"
FLUX = "black-forest-labs/FLUX.1-dev"
HUNYUAN = "tencent/HunyuanVideo"
MINIMAX = "larryvrh/MiniMax-H3-Turbo-Lora"
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"


def ask(hub: HuggingFace, tmp_path: Path, *wishes: dict[str, Any]) -> list[dict[str, Any]]:
    """Have huggingface_hub make each wish; return what came of it, see sdk.py."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sdk.py"))],
        input=json.dumps({"url": hub.url, "wishes": wishes}),
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def wish(call: str, provider: str, model: str, **args: Any) -> dict[str, Any]:
    """One call of InferenceClient."""
    token = args.pop("token", HubConfig().token)
    bill_to = args.pop("bill_to", None)
    args = {"prompt": "a paper boat", "model": model, **args}
    return {"call": call, "provider": provider, "token": token, "bill_to": bill_to, "args": args}
