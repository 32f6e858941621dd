"""Lengths of a candle and the grid they lie on. All times are integer epoch ms UTC."""

from __future__ import annotations

import enum
from datetime import UTC, datetime

from livermore.errors import UsageError

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LENGTHS = {"5m": 5 * MINUTE, "15m": 15 * MINUTE, "1h": HOUR, "4h": 4 * HOUR, "1d": DAY}


class Timeframe(enum.Enum):
    """A length of a candle; ``value`` is its name, ``ms`` its length in milliseconds."""

    M5 = "5m"
    M15 = "15m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"

    ms: int

    def __init__(self, label: str) -> None:
        self.ms = LENGTHS[label]

    def __str__(self) -> str:
        return str(self.value)

    def floor(self, time: int) -> int:
        """Open time of the slot that holds ``time`` (ms)."""
        return time - time % self.ms

    def ceil(self, time: int) -> int:
        """First open time at or after ``time`` (ms)."""
        return -(-time // self.ms) * self.ms

    def last_closed(self, now: int) -> int:
        """Open time of the newest slot that has ended at ``now`` (ms)."""
        return self.floor(now) - self.ms

    @classmethod
    def parse(cls, text: str) -> Timeframe:
        """The timeframe called ``text``; raises :class:`UsageError` naming the ones there are."""
        for timeframe in cls:
            if timeframe.value == text:
                return timeframe
        names = ", ".join(t.value for t in cls)
        raise UsageError(f"unknown timeframe {text!r}: use one of {names}")


TIMEFRAMES = tuple(Timeframe)
"""Shortest first: the order in which batches are written."""


def iso(time: int) -> str:
    """``time`` (epoch ms) as people read it: UTC, to the second."""
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
