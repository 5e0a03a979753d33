"""The providers behind the router that we speak to, and which may be chosen.

A provider is used on its own (`auto`) only where a job can be followed by its id, or where the
answer brings the result within seconds:

    fal-ai        video and image by its queue: followed; has a cancel
    wavespeed     video and image: followed; no cancel
    together      video: followed; no cancel. image: comes with the answer
    replicate     image: comes with the answer. video: only if named, since through the router the
                  answer waits 60 s and a longer job may be beyond reach, yet billed
    hf-inference  image: comes with the answer
    novita        never: the request is held open for the whole video, and whoever loses that
                  connection has paid for a video that nobody can fetch
"""

from __future__ import annotations

from pennyreel.backends._hf_answered import HfInference, Replicate
from pennyreel.backends._hf_followed import Fal, Together, WaveSpeed
from pennyreel.backends._hf_words import Provider

PROVIDERS: dict[str, Provider] = {
    "fal-ai": Fal(),
    "hf-inference": HfInference(),
    "replicate": Replicate(),
    "together": Together(),
    "wavespeed": WaveSpeed(),
}


def usable(provider: str, kind: str) -> bool:
    """Whether a provider may be chosen without being named."""
    return provider in PROVIDERS and kind in PROVIDERS[provider].kinds
