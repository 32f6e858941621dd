"""Which of two markets moved first, as far as their closed candles tell.

The return of a slot is its close against the close of the slot before. One market leads where its
returns go with the *next* returns of the other clearly better than the other way round: Pearson's
correlation of ``r1[t]`` with ``r2[t + 1]`` against that of ``r2[t]`` with ``r1[t + 1]``. What
differs by less than chance makes of markets that know nothing of each other (two standard
deviations of such a difference, ``2·√(2/n)``) is no lead. Nothing is guessed: a pair counts only
where both markets traded in three slots in a row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import attrs

FEWEST = 30
"""Pairs of returns under which nothing is said."""


@attrs.frozen
class Lead:
    """``first`` is how well the first's returns go with the second's next ones, and ``second``.

    Both are None where nothing can be said; ``why`` says why not.
    """

    pairs: int
    first: float | None = None
    second: float | None = None
    why: str = ""

    @property
    def chance(self) -> float | None:
        """The difference that chance makes."""
        return 2 * math.sqrt(2 / self.pairs) if self.pairs else None

    @property
    def leader(self) -> int | None:
        """0 where the first led, 1 where the second did, None where neither did clearly."""
        if self.first is None or self.second is None or self.chance is None:
            return None
        if abs(self.first - self.second) <= self.chance:
            return None
        return 0 if self.first > self.second else 1


def lead(first: Mapping[int, float], second: Mapping[int, float], ms: int) -> Lead:
    """From the closes of traded slots by open time; a slot is ``ms`` long."""
    common = first.keys() & second.keys()
    pairs = [
        tuple(closes[slot + ms] / closes[slot] - 1 for closes in (first, second))
        + tuple(closes[slot + 2 * ms] / closes[slot + ms] - 1 for closes in (first, second))
        for slot in sorted(common)
        if slot + ms in common and slot + 2 * ms in common
    ]
    if len(pairs) < FEWEST:
        return Lead(len(pairs), why=f"not enough: {len(pairs)} pairs of returns, {FEWEST} needed")
    ours, theirs, ours_next, theirs_next = zip(*pairs, strict=True)
    forth, back = correlation(ours, theirs_next), correlation(theirs, ours_next)
    if forth is None or back is None:
        return Lead(len(pairs), why="not enough: one of them did not move")
    return Lead(len(pairs), forth, back)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's, from -1 to 1; None where one of them is always the same."""
    try:
        return statistics.correlation(xs, ys)
    except statistics.StatisticsError:
        return None
