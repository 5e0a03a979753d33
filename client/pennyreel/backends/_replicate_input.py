"""What Hotshot-XL at Replicate takes, and a job in its words."""

from __future__ import annotations

import hashlib
from typing import Any

from pennyreel.backends.base import Prompt, Work
from pennyreel.errors import Code, PennyreelError, error

SIDES = (256, 320, 384, 448, 512, 576, 640, 672, 704, 768, 832, 896, 960, 1024)
"""What either side may have (predict.py of github.com/lucataco/cog-hotshot-xl, ef7cadb)."""

FRAMES, SECONDS = 8, 1.0

_EXACT_SEED = 1 << 53
"""Above it, a server that reads JSON numbers as doubles would take another seed."""


def minted_seed(attempt_id: str) -> int:
    """Return the seed of an attempt whose user gave none: 31 bits of its id's sha256."""
    return int(hashlib.sha256(attempt_id.encode()).hexdigest()[:8], 16) & 0x7FFFFFFF


def inputs(work: Work) -> dict[str, Any]:
    """Return the model's input; what is left out, the model has a default for.

    Raises:
        BadRequest: the model does not make what is asked for.

    """
    prompt = work.prompt
    if prompt is None:
        raise _refused("runs no workflows, only prompts")
    _check(prompt)
    seed = minted_seed(work.attempt_id) if work.seed is None else work.seed % _EXACT_SEED
    optional = {
        "negative_prompt": prompt.negative,
        "width": prompt.width,
        "height": prompt.height,
    }
    return {
        "prompt": prompt.text,
        **{name: value for name, value in optional.items() if value is not None},
        "mp4": prompt.format != "gif",
        "seed": seed,
    }


def _check(prompt: Prompt) -> None:
    """Refuse here what would be less than asked for, or a 422 there."""
    sides = [n for n in (prompt.width, prompt.height) if n is not None and n not in SIDES]
    for wrong, what in (
        (prompt.kind != "video", f"makes no {prompt.kind}"),
        (not prompt.text.strip(), "needs a prompt"),
        (bool(sides), f"makes no side of {sides}: only {', '.join(map(str, SIDES))}"),
        ((prompt.frames or 0) > FRAMES, f"makes {FRAMES} frames, not {prompt.frames}"),
        ((prompt.seconds or 0) > SECONDS, f"makes {SECONDS:g} s, not {prompt.seconds}"),
        (prompt.format not in {None, "mp4", "gif"}, f"makes mp4 and gif, no {prompt.format}"),
        (prompt.image is not None, "takes no image"),
        (prompt.audio, "makes no sound"),
    ):
        if wrong:
            raise _refused(what)


def _refused(what: str) -> PennyreelError:
    return error(
        Code.BAD_REQUEST,
        f"Hotshot-XL at Replicate {what}",
        hint="Change the request, or use another backend: pennyreel quote shows which can.",
    )
