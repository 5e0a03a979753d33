"""The days and months that money counts in. All of them are UTC's."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from pennyreel.errors import Code, error

PERIODS = ("day", "month", "total")
DAY_MS = 86_400_000


def bounds(period: str, now_ms: int) -> tuple[int, int | None]:
    """Return the period's begin and end around `now_ms`; the end is not in it, None = never."""
    if period == "total":
        return 0, None
    now = moment(now_ms)
    begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return _ms(begin), _ms(begin + timedelta(days=1))
    begin = begin.replace(day=1)
    return _ms(begin), _ms((begin + timedelta(days=32)).replace(day=1))


def moment(ms: int) -> datetime:
    """Return a time for people and libraries, in UTC."""
    # Not fromtimestamp(ms / 1000): a float would lose the last millisecond now and then.
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)


def stamp(ms: int | None) -> str | None:
    """Return 2026-11-27T08:30:00.000Z, or None."""
    if ms is None:
        return None
    return moment(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def since(text: str, now_ms: int) -> int:
    """Read where a list begins: 2026-11-27, or 7d for the last seven days, today included.

    Raises:
        BadRequest: it is neither.

    """
    try:
        if text.endswith("d"):
            days = int(text[:-1])
            if days < 1:
                raise ValueError
            return bounds("day", now_ms)[0] - (days - 1) * DAY_MS
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
        return _ms(day)
    except (ValueError, OverflowError):
        raise error(
            Code.BAD_REQUEST,
            f"{text[:40]!r} is no day",
            hint="Write it like 2026-11-27, or 7d for the last seven days.",
        ) from None


def _ms(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)
