"""HTTP for the backends: keys stay with their origin, nothing is retried but reads."""

from pennyreel._http.addresses import shown
from pennyreel._http.answers import MAX_PAUSE_S, answer_text, backoff, retry_after
from pennyreel._http.api import CLIP_S, MAX_CLIP, Api
from pennyreel._http.downloads import download
from pennyreel._http.transport import READ_S, Key
from pennyreel_comfy.sessions import MAX_JSON, WHOLE_S, TooLarge, TooSlow, never_sent, within

__all__ = [
    "CLIP_S",
    "MAX_CLIP",
    "MAX_JSON",
    "MAX_PAUSE_S",
    "READ_S",
    "WHOLE_S",
    "Api",
    "Key",
    "TooLarge",
    "TooSlow",
    "answer_text",
    "backoff",
    "download",
    "never_sent",
    "retry_after",
    "shown",
    "within",
]
