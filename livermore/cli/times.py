"""Times and durations as people write and read them; inside they are epoch ms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from livermore.config import parse_duration
from livermore.errors import UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(time: int) -> str:
    """``2026-01-02T03:05:00Z``; milliseconds only where there are some."""
    try:
        moment = EPOCH + timedelta(milliseconds=time)
    except OverflowError:
        return f"{time} ms"
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{time % 1000:03d}Z" if time % 1000 else "Z")


def since(text: str, now: int, asked: str = "--since") -> int:
    """``2h`` ago, or an ISO time (UTC unless it says otherwise), as epoch ms.

    Raises :class:`UsageError`, naming what ``asked`` for it.
    """
    try:
        return max(0, (now - parse_duration(text)) // 1000 * 1000)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        time = (moment - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{asked} {text!r} is no time: write 2h, 7d or 2026-01-02T03:05:00Z"
        ) from None
    if time > now:
        raise UsageError(f"{asked} {text} lies in the future (it is {iso(now)})")
    return max(0, time)


def length(ms: float) -> str:
    """A duration in its two largest units: ``850 ms``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if ms < 1000:
        return f"{max(0, ms):.0f} ms"
    seconds = int(ms // 1000)
    for size, unit, smaller, rest in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            left = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {left} {rest}" if left else "")
    return f"{seconds} s"
