"""Google's video APIs on loopback: Gemini Omni Flash by API key, Veo on Vertex by OAuth.

    with GoogleApis() as google:
        google.script(Plan(end="filtered"))  # the fate of the next submit
        ...  # any client, with base URL google.base_url and key google.config.api_key
        google.charges  # what Google would bill

Reading order: `server` wires, `store` keeps the jobs, `interactions` and `vertex` are the two
APIs, `oauth` gives tokens. What Google does not document is marked UNVERIFIED where it is decided.
"""

from __future__ import annotations

from pennyreel_emulators.google.config import GoogleConfig, OmniModel, Plan, VeoModel
from pennyreel_emulators.google.server import GoogleApis
from pennyreel_emulators.google.store import Charge, Seen

__all__ = ["Charge", "GoogleApis", "GoogleConfig", "OmniModel", "Plan", "Seen", "VeoModel"]
