"""google-genai, unchanged, pointed at the emulation. No retries: each call is one request."""

from __future__ import annotations

from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from pennyreel_emulators.google import GoogleApis


def by_key(google: GoogleApis, key: str | None = None) -> genai.Client:
    """A client of the Gemini API."""
    return genai.Client(api_key=key or google.config.api_key, http_options=_options(google))


def on_vertex(google: GoogleApis, token: str | None = None) -> genai.Client:
    """A client of Vertex."""
    return genai.Client(
        vertexai=True,
        project=google.config.project,
        location=google.config.location,
        credentials=Credentials(token or google.config.access_tokens[0]),  # type: ignore[no-untyped-call]
        http_options=_options(google),
    )


def _options(google: GoogleApis) -> types.HttpOptions:
    return types.HttpOptions(
        base_url=google.base_url, retry_options=types.HttpRetryOptions(attempts=1)
    )
