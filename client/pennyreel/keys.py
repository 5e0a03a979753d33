"""Secrets in the system's own store: Keychain, Credential Locker, Secret Service, KWallet.

The package `keyring` speaks to them; it is the extra `keyring`, and imported at the first use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pennyreel_contract import Code, PennyreelError, error

SERVICE = "pennyreel"
"""Under this name the store keeps them; the account is the setting's name."""

_T = TypeVar("_T")


def read(name: str, service: str, env: str) -> str:
    """Return a secret; the store may ask its user to unlock it.

    Args:
        name: the setting.
        service: see SERVICE.
        env: the variable that gives it instead.

    Raises:
        SetupNeeded: it is not there, or there is no store.

    """
    found = _asked(lambda keyring: keyring.get_password(service, name), env)
    if found is None:
        raise error(
            Code.NOT_CONFIGURED,
            f"the config file says that {name} is in the keyring ({service}), and it is not there",
            hint=f"Run: pennyreel config set {name}, or set {env}.",
        )
    return str(found)


def write(name: str, text: str, env: str) -> None:
    """Store a secret, and see that it is there: some stores drop what they are given.

    Raises:
        SetupNeeded: there is no store that keeps it.

    """
    _asked(lambda keyring: keyring.set_password(SERVICE, name, text), env)
    if _asked(lambda keyring: keyring.get_password(SERVICE, name), env) != text:
        raise _no_store("it does not keep what it is given", env)


def remove(name: str, service: str, env: str) -> None:
    """Forget a secret; one that is not there is forgotten already. Raises SetupNeeded."""
    if _asked(lambda keyring: keyring.get_password(service, name), env) is not None:
        _asked(lambda keyring: keyring.delete_password(service, name), env)


def _asked(ask: Callable[[Any], _T], env: str) -> _T:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise error(
            Code.NOT_INSTALLED,
            "the system's keyring needs the package keyring, which is not installed",
            hint=f"Run: pip install 'pennyreel[keyring]', or set {env}, which needs nothing.",
        ) from None
    try:
        return ask(keyring)
    except Exception as problem:  # noqa: BLE001 - each store has exceptions of its own
        raise _no_store(_why(problem), env) from None


def _why(problem: Exception) -> str:
    """Name the kind; a store's own words may quote what it was given."""
    with suppress(ImportError):
        from keyring import errors  # noqa: PLC0415 - see above

        if isinstance(problem, errors.NoKeyringError):
            return "there is none on this system"
        if isinstance(problem, errors.KeyringLocked):
            return "it is locked"
    return type(problem).__name__


def _no_store(why: str, env: str) -> PennyreelError:
    return error(
        Code.NOT_CONFIGURED,
        f"the system's keyring cannot be used: {why}",
        hint=f"Set {env} in the environment instead; it wins over the keyring and needs nothing.",
    )
