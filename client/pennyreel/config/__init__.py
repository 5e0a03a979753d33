"""The only reader of the environment and of the config file.

An argument wins over the environment, that over the file, that over the default. The file is
`config.toml` in the user's config folder, or what PENNYREEL_CONFIG names; `FIELDS` is the table
of everything that can be set. In the place of a secret the file may say that it is in the system's
keyring, `{ keyring = "pennyreel" }`: so the keyring ranks where the file does, and is asked only
for what it has, when that is used.

Read it in this order: `settings`, `fields`, `reading`, `file`, `values`.
"""

from __future__ import annotations

from pennyreel.config.addresses import is_loopback, key_may_travel, well_formed
from pennyreel.config.dev import DevStack, dev_stack
from pennyreel.config.fields import FIELDS, Field
from pennyreel.config.file import CONFIG_ENV, file_path
from pennyreel.config.marks import marked
from pennyreel.config.reading import Origin, load, origins
from pennyreel.config.secret import Secret
from pennyreel.config.settings import (
    COMFYUI_URL,
    GEMINI_URL,
    HF_IMAGE_MODEL,
    HF_ROUTER_URL,
    HF_URL,
    HF_VIDEO_MODEL,
    REPLICATE_URL,
    RUNPOD_API_URL,
    RUNPOD_URL,
    S3,
    Settings,
)
from pennyreel.config.values import checked, converted, field_name

__all__ = [
    "COMFYUI_URL",
    "CONFIG_ENV",
    "FIELDS",
    "GEMINI_URL",
    "HF_IMAGE_MODEL",
    "HF_ROUTER_URL",
    "HF_URL",
    "HF_VIDEO_MODEL",
    "REPLICATE_URL",
    "RUNPOD_API_URL",
    "RUNPOD_URL",
    "S3",
    "DevStack",
    "Field",
    "Origin",
    "Secret",
    "Settings",
    "checked",
    "converted",
    "dev_stack",
    "field_name",
    "file_path",
    "is_loopback",
    "key_may_travel",
    "load",
    "marked",
    "origins",
    "well_formed",
]
