"""Hugging Face on loopback: the Hub's mapping of models, and the router to its providers.

    with HuggingFace() as hub:
        hub.plan(Plan(answer="lost"))
        ...  # any client, with HF_ENDPOINT and the router's base at hub.url, and hub.config.token
        assert hub.billed == 1

Reading order: `server` wires, `store` has the jobs and the bill, `providers` speak each provider's
language, `hub` answers what is free. What is not documented is marked UNVERIFIED where it is
decided.
"""

from __future__ import annotations

from pennyreel_emulators.huggingface.config import IMAGE, MODELS, VIDEO, HubConfig, Plan, Served
from pennyreel_emulators.huggingface.media import mp4, png
from pennyreel_emulators.huggingface.server import Call, HuggingFace
from pennyreel_emulators.huggingface.store import Job

__all__ = [
    "IMAGE",
    "MODELS",
    "VIDEO",
    "Call",
    "HubConfig",
    "HuggingFace",
    "Job",
    "Plan",
    "Served",
    "mp4",
    "png",
]
