"""Micro-dollars: read from what people write, and written for them."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from fractions import Fraction

from pennyreel.errors import Code, error

USD = 1_000_000
"""Micro-dollars in a dollar."""

MOST = 1_000_000_000 * USD


def microusd(given: str | float | Decimal, place: str = "the amount") -> int:
    """Return micro-dollars of dollars as people write them: "0.05", "$2", 2, Decimal("0.018").

    Rounded up: a limit is never read as less than it was meant, a price never as less than it is.

    Raises:
        BadRequest: it is no amount, negative, or above a billion dollars.

    """
    try:
        text = (
            given.strip().removeprefix("$").removesuffix("USD").strip()
            if isinstance(given, str)
            else str(given)
        )
        value = Decimal(text)
    except InvalidOperation:
        raise _refused(given, place) from None
    if not value.is_finite() or value < 0 or value * USD > MOST:
        raise _refused(given, place)
    return int((value * USD).to_integral_value(ROUND_CEILING))


def times(price_microusd: Fraction | int, amount: float) -> int:
    """Return price x amount, rounded up to a whole micro-dollar."""
    exact = Fraction(price_microusd) * Fraction(amount)
    return -(-exact.numerator // exact.denominator)


def dollars(amount: int | None) -> str:
    """Return an amount for a person: $0.018, $12.30, free; unknown where it is None."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "free"
    sign, whole = ("-", -amount) if amount < 0 else ("", amount)
    text = f"{Decimal(whole) / USD:.6f}".rstrip("0")
    head, _, tail = text.partition(".")
    return f"{sign}${head}.{tail.ljust(2, '0')}"


def _refused(given: object, place: str) -> Exception:
    return error(
        Code.BAD_REQUEST,
        f"{place} is no amount in dollars: {str(given)[:40]!r}",
        hint="Write it like 0.05 or $2.",
    )
