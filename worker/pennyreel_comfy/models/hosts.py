"""Which hosts models come from, where those may redirect to, and which of them sees which token."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from urllib.parse import urlsplit

from pennyreel_comfy.addresses import Target, parse
from pennyreel_comfy.fetch import Policy
from pennyreel_contract import Code, PennyreelError, error

HUGGING_FACE = "huggingface.co"
CIVITAI = "civitai.com"

ORIGINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # Hugging Face names its hosts in "Downloading behind a proxy or firewall" of its
        # documentation; all of them end so.
        HUGGING_FACE: ("*.huggingface.co", "*.hf.co"),
        # Seen in civitai's own issues (975, 2113): Backblaze under their name, and their bucket
        # at Cloudflare. Others can have a bucket there, too, so nobody may start from it.
        CIVITAI: ("*.civitai.com", "civitai-delivery-worker-prod*.r2.cloudflarestorage.com"),
    }
)
"""Where a download may start, and which hosts that one may redirect to."""

_TOKEN_NAMES = {HUGGING_FACE: "HF_TOKEN", CIVITAI: "CIVITAI_API_KEY"}


class Hosts:
    """The allow-list for one process, with its tokens. Prints no token.

    An operator adds `models.example.com`, `*.example.com` (public, https), or `minio.lan:9000`: a
    host with its port may be private and may speak plain http.
    """

    def __init__(
        self,
        extra: Collection[str] = (),
        *,
        hf_token: str | None = None,
        civitai_token: str | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        """Keep them. `tokens` are for other hosts, by host, or `host:port` where that is added."""
        self._extra = frozenset(_bare(host) for host in extra if host.strip())
        self.private = frozenset(host for host in self._extra if _has_port(host))
        """The `host:port` pairs that may have private addresses."""
        given = {HUGGING_FACE: hf_token, CIVITAI: civitai_token, **(tokens or {})}
        self._tokens = {host: token for host, token in given.items() if token}

    def check(self, url: str) -> None:
        """Refuse a URL that no download may start from.

        Raises:
            BadRequest: `model_refused`, `address_refused`.

        """
        self._origin(parse(url))

    def policy(self, url: str, headers: Mapping[str, str] | None = None) -> Policy:
        """Return the rule for all hops of one download from `url`; `headers` go to each of them."""
        origin = self._origin(parse(url))
        also = ORIGINS.get(origin, ())

        def judge(target: Target) -> Mapping[str, str]:
            if target.host != origin and not self._listed(target, also):
                raise _refused(target, f"{origin} redirects to it")
            self._secure(target)
            return {**(headers or {}), **self._token(target)}

        return judge

    def hint(self, url: str, status: int) -> str | None:
        """Say what a refusal by the host may be about."""
        host = (urlsplit(url).hostname or "").lower()
        name = _TOKEN_NAMES.get(host)
        if status not in {401, 403} or name is None:
            return None
        if host in self._tokens:
            return f"Check that the account of {name} may have it: accept its licence on {host}."
        return f"Set {name}, and accept the model's licence on {host}."

    def _origin(self, target: Target) -> str:
        if target.host not in ORIGINS and not self._listed(target, ()):
            raise _refused(target, "it is none that models are taken from")
        self._secure(target)
        return target.host

    def _listed(self, target: Target, also: Collection[str]) -> bool:
        """Whether one of the patterns means this host. One with a port means that port only."""
        if f"{target.host}:{target.port}" in self.private:
            return True
        patterns = [*also, *(self._extra - self.private)]
        return any(fnmatchcase(target.host, pattern) for pattern in patterns)

    def _secure(self, target: Target) -> None:
        if not target.secure and f"{target.host}:{target.port}" not in self.private:
            raise error(
                Code.MODEL_REFUSED,
                f"models are not taken over plain http from {target.host}",
                hint="Use https. A host of your own is allowed with its port: HOST:PORT.",
            )

    def _token(self, target: Target) -> dict[str, str]:
        # By https on its usual port; elsewhere only where the operator named this very port. That a
        # hop without https is one of these has been seen to.
        usual = target.secure and target.port == 443
        token = self._tokens.get(target.host if usual else f"{target.host}:{target.port}")
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def _bare(text: str) -> str:
    """Return `host` or `host:port` of what an operator wrote, who may have pasted a whole URL."""
    host = text.strip().lower().rpartition("://")[2].partition("/")[0]
    return host.replace("[", "").replace("]", "")  # an IPv6 address is written without, inside


def _has_port(host: str) -> bool:
    _, colon, port = host.rpartition(":")
    return bool(colon) and port.isdigit()


def _refused(target: Target, why: str) -> PennyreelError:
    return error(
        Code.MODEL_REFUSED,
        f"models are not downloaded from {target.host}: {why}",
        hint=f"Use {' or '.join(ORIGINS)}, or have it allowed: --allow-host {target.host}, "
        "and in a worker PENNYREEL_MODEL_HOSTS.",
    )
