"""How a feed is: what is missing, since when, why, and what happens next, in one line."""

from __future__ import annotations

import attrs

from livermore.market.timeframe import iso

BLIND = frozenset({"starting", "connecting", "blind", "ended", "paused"})
"""States in which candles are not followed: whoever relies on them must know."""
STATES = (*sorted(BLIND), "backfilling", "halted", "live", "standby")


@attrs.frozen(kw_only=True)
class Condition:
    """``since`` is when the state began (exchange ms), 0 where no clock is known yet."""

    state: str
    since: int = 0
    missing: str = ""
    why: str = ""
    next: str = ""

    @property
    def blind(self) -> bool:
        """Whether we do not see the market."""
        return self.state in BLIND

    @property
    def note(self) -> str:
        """``what is missing: why; what happens next``, as far as there is something to say."""
        said = ": ".join(filter(None, (self.missing, self.why)))
        return "; ".join(filter(None, (said, self.next)))

    def line(self, exchange: str) -> str:
        """All of it."""
        since = f" since {iso(self.since)}" if self.since else ""
        note = f": {self.note}" if self.note else ""
        return f"{exchange}: {self.state}{since}{note}"


def soon(seconds: float) -> str:
    """``in 12 s``, or ``now``."""
    return f"in {seconds:.0f} s" if seconds >= 0.5 else "now"
