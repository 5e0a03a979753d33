"""A program: the vendor's own client, told by JSON on stdin what to make, tells what came of it.

It is a process of its own because huggingface_hub reads HF_ENDPOINT when it is imported, and has
the router's address as a constant.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from huggingface_hub import HfApi, InferenceClient, constants
from huggingface_hub.inference import _client
from huggingface_hub.inference._providers import PROVIDERS


def main() -> None:
    """Read {"url", "wishes": [{"provider", "call", "token", "args": {…}}]}; print a list."""
    told = json.load(sys.stdin)
    constants.INFERENCE_PROXY_TEMPLATE = told["url"] + "/{provider}"
    # This provider took the address from the constant when it was imported.
    PROVIDERS["hf-inference"]["text-to-image"].base_url = told["url"] + "/hf-inference"
    _client._bytes_to_image = lambda content: content  # it would want Pillow
    sys.stdout.write(json.dumps([make(w) for w in told["wishes"]]))


def make(wish: dict[str, Any]) -> dict[str, Any]:
    """Return {"data"} in base64, or {"error", "status"}."""
    if wish["call"] == "whoami":
        return {"data": HfApi().whoami(token=wish["token"])["name"]}
    client = InferenceClient(
        provider=wish["provider"], api_key=wish["token"], bill_to=wish.get("bill_to"), timeout=20
    )
    try:
        made = getattr(client, wish["call"])(**wish["args"])
    except Exception as problem:  # noqa: BLE001 - it is what the test asks about
        status = getattr(getattr(problem, "response", None), "status_code", None)
        return {"error": f"{type(problem).__name__}: {problem}", "status": status}
    return {"data": base64.b64encode(made).decode()}


if __name__ == "__main__":
    main()
