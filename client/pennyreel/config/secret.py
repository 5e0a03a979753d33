"""A text that does not print itself."""

from __future__ import annotations

from collections.abc import Callable


class Secret:
    """A text that does not print itself; `reveal` is the only way to it.

    It may be given as a function that gets it, called when it is first revealed.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | Callable[[], str]) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Hand it to its own server and to nothing else.

        Raises:
            SetupNeeded: it is to come from the keyring, and does not.

        """
        if not isinstance(self._text, str):
            self._text = self._text()
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.reveal()

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be pickled")
