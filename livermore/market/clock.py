"""The exchange's time, as heard on one connection.

Candles are closed by this clock, never by our wall clock. It is the newest stamp heard plus our
monotonic time since. A stamp that jumps by more than a second against that is believed only when
the next one agrees with it.
"""

from __future__ import annotations

import attrs

JUMP = 1_000
"""Milliseconds a stamp may differ from what was expected before it needs a second witness."""


@attrs.define
class ExchangeClock:
    """Times are ms of the exchange; ``now`` is our monotonic time in seconds."""

    stamp: int | None = None
    heard_at: float = 0.0
    _doubted: tuple[int, float] | None = None

    def hear(self, stamp: int, now: float) -> None:
        """Take a stamp heard at ``now``."""
        if self.stamp is not None:
            expected = self.stamp + (now - self.heard_at) * 1000
            ahead = stamp > self.stamp and abs(stamp - expected) > JUMP
            if ahead or stamp < self.stamp - JUMP:
                doubted, self._doubted = self._doubted, (stamp, now)
                if doubted is None:
                    return
                # Frames come seconds apart, or, read late, all at once: both are agreement.
                apart = stamp - doubted[0]
                if not -JUMP <= apart <= (now - doubted[1]) * 1000 + JUMP:
                    return
            elif stamp <= self.stamp:
                if abs(stamp - expected) <= JUMP:
                    self._doubted = None
                return
        self._doubted = None
        self.stamp = stamp
        self.heard_at = now

    def read(self, now: float) -> int | None:
        """The exchange's time at ``now``, or None before the first stamp."""
        if self.stamp is None:
            return None
        return self.stamp + int((now - self.heard_at) * 1000)
