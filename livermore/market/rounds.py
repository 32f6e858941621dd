"""Rounds: when each series is compared with REST next, spread evenly over time.

Every series has a turn in each period, at its own phase. One that is asked for sooner goes first,
but every other turn belongs to the round, so that nothing starves when there are too many.
Moments are seconds of one steady clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping

from livermore.market.candle import REST_SETTLED, Series
from livermore.market.timeframe import HOUR, Timeframe

LOOK_AFTER = REST_SETTLED + 1_000
"""After a slot's end (ms), when a REST reply ranks as ``rest``."""
MARGIN = 10_000
"""For the request itself (ms)."""
SHARE = 0.3
"""Of the requests an exchange allows us: at 8 per second the round of some 600 symbols takes just
one interval; with more it takes longer, and one request covers several candles."""


def period(timeframe: Timeframe) -> float:
    """Seconds between two turns, so that a candle is compared within one interval, at most an hour.

    A candle that had not settled at one turn is compared at the next.
    """
    return (min(timeframe.ms, HOUR) - LOOK_AFTER - MARGIN) / 1000


class Rounds:
    """Whose turn it is. Not aware of time: the moment is an argument."""

    def __init__(self, series: Iterable[Series], moment: float) -> None:
        self._phase: dict[Series, float] = {}
        self._due: dict[Series, float] = {}
        self._round: list[tuple[float, int, Series]] = []
        self._soon: dict[Series, float] = {}
        self._urgent: list[tuple[float, int, Series]] = []
        self._count = itertools.count()
        self._was_urgent = False
        self.add(series, moment)

    def add(self, series: Iterable[Series], moment: float) -> None:
        """These have their turns as well, spread evenly."""
        by_timeframe: dict[Timeframe, list[Series]] = {}
        for one in series:
            by_timeframe.setdefault(one.timeframe, []).append(one)
        for timeframe, those in by_timeframe.items():
            for number, one in enumerate(those):
                share = (number + 0.5) / len(those)
                self._phase[one] = moment + share * period(timeframe)
                self._put(one, self._phase[one])

    def forget(self, series: Iterable[Series]) -> None:
        """These have no turn any more."""
        for one in series:
            for kept in (self._phase, self._due, self._soon):
                kept.pop(one, None)

    def __contains__(self, series: Series) -> bool:
        return series in self._phase

    def soon(self, series: Series, due: float) -> None:
        """Give ``series`` a turn of its own at ``due``, before the others."""
        known = self._soon.get(series)
        if series in self._phase and (known is None or due < known):
            self._soon[series] = due
            heapq.heappush(self._urgent, (due, next(self._count), series))

    def take(self, moment: float) -> Series | None:
        """The series whose turn it is; its place in the round is the one after ``moment``."""
        first, second = (
            (self._take_round, self._take_urgent)
            if self._was_urgent
            else (self._take_urgent, self._take_round)
        )
        series = first(moment) or second(moment)
        if series is not None:
            if self._soon.get(series, math.inf) <= moment:
                del self._soon[series]  # this turn serves for both
            self._put(series, self._after(series, moment))
        return series

    def due_in(self, moment: float) -> float:
        """Seconds until the next turn, 0 when one is due."""
        heads = [heap[0][0] for heap in (self._round, self._urgent) if heap]
        return max(0.0, min(heads, default=math.inf) - moment)

    def _take_urgent(self, moment: float) -> Series | None:
        return self._pop(self._urgent, self._soon, moment, urgent=True)

    def _take_round(self, moment: float) -> Series | None:
        return self._pop(self._round, self._due, moment, urgent=False)

    def _pop(
        self,
        heap: list[tuple[float, int, Series]],
        wanted: Mapping[Series, float],
        moment: float,
        *,
        urgent: bool,
    ) -> Series | None:
        while heap and heap[0][0] <= moment:
            due, _, series = heapq.heappop(heap)
            if wanted.get(series) == due:  # else it had its turn, or has another one
                self._was_urgent = urgent
                return series
        return None

    def _put(self, series: Series, due: float) -> None:
        self._due[series] = due
        heapq.heappush(self._round, (due, next(self._count), series))

    def _after(self, series: Series, moment: float) -> float:
        """The first moment of its own phase behind ``moment``."""
        length = period(series.timeframe)
        phase = self._phase[series]
        after = phase + (math.floor((moment - phase) / length) + 1) * length
        return after if after > moment else after + length  # floats round
