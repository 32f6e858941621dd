"""Higher timeframes from five-minute candles, level by level: 15m from 5m, 1h from 15m, and so on.

OHLC of a fold is exact; its volume is the sum, its evidence that of its weakest child, and it is
empty when all its children are. A parent with a missing child is not folded: it comes from REST.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import attrs

from livermore.market.candle import Candle, Kind, Series
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.market.tracker import Forming, moved

PARENT = dict(itertools.pairwise(TIMEFRAMES))
CHILD = {parent: child for child, parent in PARENT.items()}


@functools.cache
def parent_series(series: Series) -> Series | None:
    """The series one level up, None above the highest."""
    parent = PARENT.get(series.timeframe)
    return None if parent is None else Series(series.exchange, series.symbol, parent, series.owner)


@functools.cache
def child_series(series: Series) -> Series | None:
    """The series one level down, None below the lowest."""
    child = CHILD.get(series.timeframe)
    return None if child is None else Series(series.exchange, series.symbol, child, series.owner)


def fold(parent: Series, open_time: int, children: Sequence[Candle]) -> Candle | None:
    """The candle of ``parent`` at ``open_time``; None unless ``children`` (ascending) fill it."""
    child = CHILD[parent.timeframe]
    first, last = children_range(parent.timeframe, open_time)
    if [c.open_time for c in children] != list(range(first, last + 1, child.ms)):
        return None
    weakest = min(children, key=lambda c: c.strength)
    evidence, as_of = weakest.evidence, weakest.as_of
    traded = [c for c in children if c.kind is Kind.TRADED]
    if not traded:
        price = children[-1].close
        return Candle(
            parent, open_time, price, price, price, price, 0.0, Kind.EMPTY, evidence, as_of
        )
    # Open and close are those of the first and last trade: an empty child has none of its own.
    return Candle(
        parent,
        open_time,
        traded[0].open,
        max(c.high for c in traded),
        min(c.low for c in traded),
        traded[-1].close,
        math.fsum(c.volume for c in traded),
        Kind.TRADED,
        evidence,
        as_of,
    )


def fold_all(parent: Series, children: Iterable[Candle]) -> Iterator[Candle]:
    """Every complete candle of ``parent`` that ``children`` (ascending) make."""
    slot: list[Candle] = []
    open_time = -1
    for candle in children:
        own = parent.timeframe.floor(candle.open_time)
        if own != open_time:
            slot, open_time = [], own
        slot.append(candle)
        folded = fold(parent, open_time, slot)
        if folded is not None:
            yield folded


@attrs.define
class _Window:
    open_time: int
    children: dict[int, Candle]


class Folder:
    """Keeps the children of every running parent, so that the last one closes it at once."""

    def __init__(self) -> None:
        self._windows: dict[Series, _Window] = {}

    def take(self, candle: Candle) -> list[Candle]:
        """Parents that ``candle`` completes (or changes while they are the newest), lowest first.

        A candle older than the running parents returns nothing: its parents are folded again from
        what the store holds, see :meth:`is_old`.
        """
        parents: list[Candle] = []
        series: Series | None
        while (series := parent_series(candle.series)) is not None:
            open_time = series.timeframe.floor(candle.open_time)
            window = self._windows.get(series)
            if window is None or window.open_time < open_time:
                window = self._windows[series] = _Window(open_time, {})
            elif window.open_time > open_time:
                break
            known = window.children.get(candle.open_time)
            if known is not None and known.strength > candle.strength:
                break  # the store keeps the stronger one as well
            window.children[candle.open_time] = candle
            if len(window.children) < series.timeframe.ms // candle.series.timeframe.ms:
                break
            folded = fold(series, open_time, [window.children[t] for t in sorted(window.children)])
            if folded is None:
                break
            parents.append(folded)
            candle = folded
        return parents

    def running(self, forming: Forming) -> list[Forming]:
        """The running parents of a running candle, lowest first, as far as they are whole."""
        parents: list[Forming] = []
        series: Series | None
        while (series := parent_series(forming.series)) is not None:
            open_time = series.timeframe.floor(forming.open_time)
            window = self._windows.get(series)
            known = window.children if window and window.open_time == open_time else {}
            slots = range(open_time, forming.open_time, forming.series.timeframe.ms)
            if any(slot not in known for slot in slots):
                break  # what one child is missing of cannot be shown
            traded = [known[slot] for slot in slots if known[slot].kind is Kind.TRADED]
            forming = Forming(
                series,
                open_time,
                traded[0].open if traded else forming.open,
                max([forming.high, *(candle.high for candle in traded)]),
                min([forming.low, *(candle.low for candle in traded)]),
                forming.close,
                math.fsum([forming.volume, *(candle.volume for candle in traded)]),
                forming.as_of,
            )
            parents.append(forming)
        return parents

    def forget(self, series: Series) -> None:
        """Keep nothing of a series, child or parent."""
        self._windows.pop(series, None)

    def move(self, before: Series, after: Series) -> None:
        """The children that are kept for ``before`` are of ``after`` from now on."""
        window, child = self._windows.pop(before, None), child_series(after)
        if window is not None and child is not None:
            self._windows[after] = _Window(window.open_time, moved(window.children, child))

    def is_old(self, candle: Candle) -> bool:
        """Whether the parent of ``candle`` lies before the one whose children are kept."""
        series = parent_series(candle.series)
        if series is None:
            return False
        window = self._windows.get(series)
        return window is not None and window.open_time > series.timeframe.floor(candle.open_time)

    def seed_range(self, child: Series, now: int) -> tuple[int, int]:
        """First and last open time of the children of the running parent at ``now``."""
        parent = PARENT[child.timeframe]
        return parent.floor(now), parent.floor(now) + parent.ms - child.timeframe.ms


def children_range(parent: Timeframe, open_time: int) -> tuple[int, int]:
    """First and last open time of the children of one parent slot."""
    return open_time, open_time + parent.ms - CHILD[parent].ms
