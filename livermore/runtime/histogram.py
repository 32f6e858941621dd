"""Counts of values by size, kept for ever in constant space; what metrics show as a histogram."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import attrs

LAGS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds from a candle's end to its announcement: ten are promised."""
BATCHES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0)
"""Candles written at once."""
TOOK = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Seconds that took."""


@attrs.define
class Histogram:
    """``bounds`` are the upper ends of its buckets, ascending; above the last is one more."""

    bounds: Sequence[float]
    total: float = 0.0
    _counts: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def take(self, value: float) -> None:
        """Count one value; what is less than nothing counts as nothing."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += max(0.0, value)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Each upper end and how many values were not above it; the last end is infinite."""
        count = 0
        for bound, some in zip((*self.bounds, float("inf")), self._counts, strict=True):
            count += some
            yield bound, count
