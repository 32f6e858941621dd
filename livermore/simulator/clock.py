"""The exchange's time: it runs ``speed`` times as fast as a monotonic clock handed to it."""

from __future__ import annotations

from collections.abc import Callable

import attrs

_BILLION = 1_000_000_000


@attrs.define
class ExchangeClock:
    """Simulated time (ns since the epoch); ``skew`` moves what is *said*, not what is."""

    start: int
    """Simulated time (ns) when the clock was made."""
    speed: float
    monotonic: Callable[[], float]
    """Seconds from any origin; never goes back."""
    skew: int = 0
    """ns added to every stamp the exchange writes."""
    _origin: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._origin = self.monotonic()

    def now(self) -> int:
        """The true simulated time (ns)."""
        return self.start + int((self.monotonic() - self._origin) * self.speed * _BILLION)

    def real_until(self, time: int) -> float:
        """Real seconds until the simulated time (ns); negative when it has passed."""
        return (time - self.now()) / (self.speed * _BILLION)
