"""Hugging Face's Inference Providers: a prompt becomes a video or an image at somebody's GPU.

The Hub says for nothing who serves a model. One POST through its router starts a job and is never
repeated; after it come looks, by an id that is in the handle. It is a paid service: a few cents of
credit a month are free, then the provider's own price is billed to the Hugging Face account.
Files are fetched from the provider's host, without the token.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from pennyreel import _http
from pennyreel.backends import _hf_offers as offers
from pennyreel.backends import _hf_results as results
from pennyreel.backends._hf_api import ANSWER_S, Hub, Router, unknown
from pennyreel.backends._hf_follow import Follower
from pennyreel.backends._hf_job import Remote, wish
from pennyreel.backends._hf_kept import Answers
from pennyreel.backends._hf_offers import AUTO, Offer
from pennyreel.backends._hf_providers import PROVIDERS, usable
from pennyreel.backends._hf_words import Seen, as_object
from pennyreel.backends.base import OnEvent, Work, pause, told_id, unsent, untold
from pennyreel.config import (
    HF_IMAGE_MODEL,
    HF_ROUTER_URL,
    HF_URL,
    HF_VIDEO_MODEL,
    Secret,
    Settings,
    is_loopback,
)
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.types import Handle, Health, Sink, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

KEPT = "kept"
"""Stands for a job's id where its result came with the answer."""

_CHUNK = 1 << 20


class HuggingFaceBackend:
    """One account and its choice of models and providers."""

    name = "huggingface"

    def __init__(
        self,
        token: Secret,
        home: Path,
        *,
        endpoint: str = HF_URL,
        router_url: str = HF_ROUTER_URL,
        provider: str = AUTO,
        video_model: str = HF_VIDEO_MODEL,
        image_model: str = HF_IMAGE_MODEL,
        bill_to: str | None = None,
    ) -> None:
        """Keep the addresses; nothing is sent. `home`: where mappings and answers are kept."""
        self._order = _order(provider)
        self.target = ",".join(self._order) or AUTO
        self._models = {"video": video_model, "image": image_model}
        self._hub = Hub(endpoint, token)
        self._router = Router(router_url, token, bill_to)
        self._local = is_loopback(router_url)
        self._offers = offers.Kept(home / "huggingface" / "providers.json")
        self._answers = Answers(home / "huggingface" / "answers")

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build from settings; a target is `auto`, or the providers allowed, in order."""
        if not settings.hf_token:
            raise error(
                Code.NOT_CONFIGURED,
                "no Hugging Face token is set",
                hint="Set HF_TOKEN to a token of huggingface.co/settings/tokens that may make "
                "calls to Inference Providers, or use another backend: pennyreel doctor",
            )
        return cls(
            settings.hf_token,
            settings.home,
            endpoint=settings.hf_endpoint,
            router_url=settings.hf_router_url,
            provider=target or settings.hf_provider,
            video_model=settings.hf_video_model,
            image_model=settings.hf_image_model,
            bill_to=settings.hf_bill_to,
        )

    def abilities(self) -> Abilities:
        """Return what a provider's models can do in general: each has limits of its own.

        A kind that nobody serves, as far as was asked lately, is not among its kinds.

        Whether a cancel ends a job is told of the one provider that would be used, if that is
        known; that fal stops billing then is UNVERIFIED.
        """
        chosen = {kind: self._provider(kind) for kind in self._models}
        served = frozenset(kind for kind, name in chosen.items() if name) or frozenset(chosen)
        known = {chosen[kind] for kind in served}
        return Abilities(
            kinds=served,
            prompts=True,
            formats=frozenset({"mp4", "png", "jpg"}),
            negative_prompt=True,
            seed=True,
            cancels=all(name in PROVIDERS and PROVIDERS[name].cancels for name in known),
            quality=2,
        )

    def usage(self, need: Need) -> Usage:
        """Return one video or one image of the model that would serve it.

        The provider stands in the sku as `auto` until a health check or a job has asked who it is.
        """
        kind = "image" if need.kind == "image" else "video"
        return _usage(self._provider(kind) or AUTO, self._models[kind], kind)

    def billed(self, need: Need, result: Result) -> Usage:
        """Return one video or one image of the model that served it."""
        worker, expected = result.worker, self.usage(need)
        if "provider" not in worker or "model" not in worker:
            return expected
        kind = "image" if worker.get("task") == offers.TASKS["image"] else "video"
        return _usage(worker["provider"], worker["model"], kind, max(1, len(result.artifacts)))

    def lookup(self, attempt_id: str) -> Handle | None:
        """Not possible: the providers do not know our attempts."""
        raise untold(
            "Hugging Face",
            attempt_id,
            "its providers do not know our ids",
            "Look at the usage on https://huggingface.co/settings/billing",
        )

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Ask who serves the model (free), and POST once."""
        limit = deadline or Deadline(None)
        wanted = replace(wish(work), patience_s=limit.left(ANSWER_S))
        offer = self._offer(wanted.kind, limit)
        provider = PROVIDERS[offer.provider]
        call = provider.call(offer, wanted, self._hub.base_url)
        unsent(limit)
        try:
            reply = self._router.submit(
                offer.provider, call.path, call.encode(), call.headers, limit
            )
        except PennyreelError as problem:
            if problem.info.detail.get("status") == 404:
                self._offers.forget(offer.model)
            raise
        taken = provider.accepted(offer, reply)
        if taken is None:
            raise unknown(offer.provider, "the answer names neither a job nor a result")
        if isinstance(taken, Seen):
            self._answers.put(work.attempt_id, taken)
            taken = KEPT
        elif told_id(taken) is None:
            raise unknown(offer.provider, "the answer names no job that could be asked for")
        remote = Remote(
            offer.provider, offer.model, wanted.kind, taken, ignored=", ".join(call.ignored)
        )
        return Handle(self.name, self.target, remote.encode(), work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Look until the job ends."""
        remote = Remote.decode(handle)
        if remote.warning:
            on_event(Warned(remote.warning))
        if remote.job == KEPT:
            seen = self._kept(handle)
        else:
            seen = self._follower(handle, remote).run(on_event, deadline, cancel)
        return results.outcome(
            seen,
            attempt_id=handle.attempt_id,
            provider=remote.provider,
            model=remote.model,
            kind=remote.kind,
        )

    def fetch(
        self,
        handle: Handle,  # noqa: ARG002 - the artifact says it all
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Write what came with the result, or GET its URL without the token."""
        data = results.content(artifact)
        if data is not None:
            sink.restart()
            for start in range(0, len(data), _CHUNK):
                sink.write(data[start : start + _CHUNK])
            return
        if artifact.url is None:
            raise error(Code.OUTPUT_MISSING, f"the provider tells of {artifact.name} but not where")
        _http.download(
            artifact.url,
            sink,
            sha256=artifact.sha256,
            size=artifact.bytes or None,
            local=self._local,
            pause=lambda seconds: pause(cancel, seconds),
            deadline=deadline,
            cancel=cancel,
        )

    def cancel(self, handle: Handle) -> bool:
        """Ask fal for the end and look for it; elsewhere only look whether it has ended."""
        remote = Remote.decode(handle)
        return remote.job == KEPT or self._follower(handle, remote).stop() is not None

    def health(self) -> Health:
        """Ask the Hub who the token is, and who would serve each model."""
        try:
            account = self._hub.whoami()
            told = {kind: self._serving(kind) for kind in self._models}
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        who = f"{account.get('name', '?')} ({'PRO' if account.get('isPro') else 'free'} account)"
        detail = f"{who}: {'; '.join(told_of for told_of, _ in told.values())}"
        hints = [problem.hint for _, problem in told.values() if problem is not None]
        if len(hints) == len(told):
            return Health(self.name, False, detail, hints[0], self.target)
        return Health(self.name, True, detail, _permission(account), self.target)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._hub.close()
        self._router.close()

    def _offer(self, kind: str, limit: Deadline) -> Offer:
        """Return who is to do it; asks the Hub where that is not known."""
        model = self._models[kind]
        found = self._offers.get(model)
        if found is None:
            unsent(limit)
            found = self._hub.offers(model, limit.left(10.0))
            self._offers.put(model, found)
        offer = offers.choose(found, kind, self._order, usable)
        if offer is None:
            raise offers.nobody(model, kind, found, self._order)
        return offer

    def _provider(self, kind: str) -> str:
        """Return who would do it, asking nobody: `auto` where that is not known, '' = nobody."""
        known = self._offers.get(self._models[kind])
        if known is None:
            return self._order[0] if len(self._order) == 1 else AUTO
        offer = offers.choose(known, kind, self._order, usable)
        return offer.provider if offer is not None else ""

    def _serving(self, kind: str) -> tuple[str, PennyreelError | None]:
        """Ask anew who serves a kind; return that for a person, and what is wrong with it."""
        model = self._models[kind]
        try:
            found = self._hub.offers(model)
            self._offers.put(model, found)
            offer = offers.choose(found, kind, self._order, usable)
            if offer is None:
                raise offers.nobody(model, kind, found, self._order)
        except PennyreelError as problem:
            return f"no {kind}s ({problem})", problem
        return f"{kind}s by {offer.provider} ({model})", None

    def _kept(self, handle: Handle) -> Seen:
        seen = self._answers.get(handle.attempt_id)
        if seen is None:
            raise error(
                Code.RESULT_EXPIRED,
                "the result came with the answer and is kept for a day on the machine that asked; "
                "it is not here",
                detail={"handle": str(handle)},
            )
        return seen

    def _follower(self, handle: Handle, remote: Remote) -> Follower:
        def ask(path: str, method: str = "GET", *, refusal_ok: bool = False) -> Any:
            return self._router.look(remote.provider, path, method, refusal_ok=refusal_ok)

        return Follower(
            handle,
            PROVIDERS[remote.provider],
            remote.provider,
            remote.job,
            ask,
        )


def _order(provider: str) -> tuple[str, ...]:
    """Read `auto` or names in order; raises SetupNeeded for a name that we do not speak to."""
    names = tuple(n.strip() for n in provider.split(",") if n.strip())
    if names in {(), (AUTO,)}:
        return ()
    for one in names:
        if one not in PROVIDERS:
            raise error(
                Code.NOT_CONFIGURED,
                f"provider {one[:40]!r} of Hugging Face is not one that we can use",
                hint=f"Set PENNYREEL_HF_PROVIDER to auto, or to some of: {', '.join(PROVIDERS)}",
            )
    return names


def _usage(provider: str, model: str, kind: str, amount: int = 1) -> Usage:
    unit = Unit.IMAGE if kind == "image" else Unit.RUN
    return Usage(f"huggingface/{provider}/{model}", unit, amount)


def _permission(account: dict[str, Any]) -> str:
    """Return what is wrong with a token of chosen permissions, or ''.

    The permission's name is what the Hub's token page is known to use (UNVERIFIED), so its absence
    is told and nothing is refused for it.
    """
    token = as_object(as_object(account.get("auth")).get("accessToken"))
    if token.get("role") != "fineGrained" or "inference.serverless.write" in json.dumps(token):
        return ""
    return "The token may lack the permission to make calls to Inference Providers."
