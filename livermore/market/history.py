"""What to ask REST for, and what its answers prove. Matched by open time, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from livermore.errors import ImpossibleCandle
from livermore.market.candle import Candle, Evidence, Kind, Series, empty, rest_evidence
from livermore.market.gap import SECOND_LOOK, SETTLED
from livermore.market.timeframe import Timeframe

DEPTH = 300
"""Candles asked for at first: a MACD-V from 300 errs by 0.0005 points (p95)."""
OBSERVED = 200
"""Traded candles wanted; history is deepened until they are there."""
DEEPEST = 1000
"""Slots behind the newest that are ever asked for."""
BELATED = 300_000
"""After a slot's end (ms), until when a reply may be behind what the stream told of it."""


@attrs.frozen
class Row:
    """A candle as REST tells it: no series, no evidence yet. ``open_time`` in ms."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@attrs.frozen
class Page:
    """What one REST reply proves about a range."""

    candles: tuple[Candle, ...]
    """Ascending; traded and proved empty."""
    unproved: tuple[int, ...]
    """Ended slots of the range the reply omits without proving them empty."""
    impossible: int = 0
    newest: int = -1
    """Open time of the reply's newest row: only that one can be half a candle."""
    omitted: frozenset[int] = frozenset()
    """Slots of ``candles`` that are proved empty by having no row."""
    kept: tuple[int, ...] = ()
    """Slots the reply shows otherwise than held, and does not decide, see :func:`against`."""


def read_page(
    series: Series,
    rows: Sequence[Row],
    first: int,
    last: int,
    asked_at: int,
    *,
    omitted_at: int | None = None,
    price_before: float | None = None,
    omits_empties: bool = True,
) -> Page:
    """What ``rows`` (in any order), asked for at ``asked_at`` (exchange ms), prove.

    ``first..last`` is the range they were asked for.

    ``omitted_at``: when an earlier reply was asked for that omitted what is missing; it says
    nothing about a slot that ended later. ``price_before``: close of the stored candle just before
    ``first``. A slot that has not ended is dropped. An omitted slot is empty when it ended >= 2 min
    ago and the reply holds a newer row, or when two replies >= 60 s apart omit it; and only where
    the price it rests at is known. A slot with an impossible row is neither known nor omitted.
    """
    ms = series.timeframe.ms
    known: dict[int, Candle] = {}
    damaged: set[int] = set()
    impossible = 0
    newest = -1
    for row in rows:
        end = row.open_time + ms
        try:
            candle = _candle(series, row, Evidence.STREAM, asked_at)
        except ImpossibleCandle:
            impossible += 1
            damaged.add(series.timeframe.floor(row.open_time))
            continue
        if row.open_time > asked_at:
            impossible += 1  # a slot that has not begun
            continue
        newest = max(newest, row.open_time)
        there = known.get(row.open_time)
        # Of two rows for a slot the one with more volume is the later state.
        if end <= asked_at and (there is None or there.volume < candle.volume):
            known[row.open_time] = attrs.evolve(candle, evidence=rest_evidence(end, asked_at))
    candles: list[Candle] = []
    proved_empty: list[int] = []
    unproved: list[int] = []
    # The seam candle before the range may be in the reply and gives the price to start from.
    price = known[first - ms].close if first - ms in known else price_before
    for open_time in range(first, last + 1, ms):
        end = open_time + ms
        if end > asked_at:
            break
        there = known.get(open_time)
        omitted = open_time not in damaged and (
            (newest > open_time and asked_at - end >= SETTLED)
            or (omitted_at is not None and end <= omitted_at <= asked_at - SECOND_LOOK)
        )
        if there is not None:
            candles.append(there)
            price = there.close
        elif omits_empties and omitted and price is not None:
            candles.append(empty(series, open_time, price, Evidence.REST, asked_at))
            proved_empty.append(open_time)
        else:
            unproved.append(open_time)
            price = None  # perhaps it traded: what comes after it has no known price
    return Page(
        tuple(candles), tuple(unproved), impossible, newest, omitted=frozenset(proved_empty)
    )


def against(page: Page, held: Mapping[int, Candle], asked_at: int) -> Page:
    """``page`` without what a reply that is cached or lacks rows cannot say against ``held``.

    Trades that were seen happened: a reply without a row does not make their slot empty. And the
    newest row may be half a candle. Where it shows less volume than is held, ours stays while the
    reply is behind what is held or was asked for within :data:`BELATED` of the slot's end.
    """
    traded = {t for t, one in held.items() if one.kind is Kind.TRADED and one.evidence}
    behind = page.newest < max(traded, default=-1)

    def stays(candle: Candle) -> bool:
        if candle.open_time not in traded:
            return False
        if candle.open_time in page.omitted:
            return True
        there = held[candle.open_time]
        less = candle.volume < there.volume and not candle.same_values(there)
        young = asked_at - candle.close_time < BELATED
        return less and candle.open_time == page.newest and (behind or young)

    kept = tuple(candle.open_time for candle in page.candles if stays(candle))
    left = tuple(candle for candle in page.candles if candle.open_time not in kept)
    return attrs.evolve(page, candles=left, kept=kept)


def settled(candle: Candle) -> bool:
    """Whether REST was asked so long after its end that a reply which lags shows all of it."""
    return candle.evidence is Evidence.REST and candle.as_of - candle.close_time >= SETTLED


def _candle(series: Series, row: Row, evidence: Evidence, as_of: int) -> Candle:
    candle = Candle(
        series, row.open_time, row.open, row.high, row.low, row.close, row.volume,
        Kind.TRADED, evidence, as_of,
    )  # fmt: skip
    if row.volume == 0 and row.high == row.low:
        return attrs.evolve(candle, kind=Kind.EMPTY)  # flat and without volume: nothing was traded
    return candle


def window(timeframe: Timeframe, now: int, depth: int = DEPTH) -> tuple[int, int]:
    """First and last open time of the ``depth`` newest closed slots at ``now``."""
    last = timeframe.last_closed(now)
    return last - (depth - 1) * timeframe.ms, last


def wanted(
    timeframe: Timeframe,
    now: int,
    *,
    missing: Sequence[tuple[int, int]],
    oldest: int | None,
    asked_from: int | None,
    ever: bool = True,
    traded_from: int | None = None,
) -> list[tuple[int, int]]:
    """Ranges that are worth asking for, newest first; none begins before :func:`window` and ends in
    it.

    ``missing`` are the ranges the store lacks of the newest :data:`DEEPEST` slots: between stored
    candles all of them count, before the oldest only those in the window. What lies before the
    oldest stored candle was asked for already from ``asked_from`` on: the exchange had nothing
    there. Where REST was asked and there never was (``ever``) a candle, the first one will come
    from the stream, or, where the symbol began to trade at ``traded_from`` in the midst of one, it
    is asked for.
    """
    if asked_from is not None and not ever:
        if traded_from is None:
            return []
        missing = [(max(start, timeframe.floor(traded_from)), end) for start, end in missing]
    first, last = window(timeframe, now)
    ranges: list[tuple[int, int]] = []
    for start, end in missing:
        within = oldest is not None and oldest < start
        begin, finish = start if within else max(start, first), min(end, last)
        if oldest is not None and finish < oldest and asked_from is not None:
            finish = min(finish, asked_from - timeframe.ms)
        if begin < first <= finish:
            ranges.append((begin, first - timeframe.ms))
            begin = first
        if begin <= finish:
            ranges.append((begin, finish))
    return sorted(ranges, reverse=True)


def deeper(
    timeframe: Timeframe,
    now: int,
    *,
    traded: int,
    oldest_traded: int | None,
    asked_from: int | None,
) -> tuple[int, int] | None:
    """The next range to ask for while fewer than :data:`OBSERVED` are traded, or None.

    It ends where ``oldest_traded`` proves that what the reply omits was empty, and fits one page
    with it; where nothing traded in that page, it goes on a page at a time. What traded is stored,
    however little is known of what was asked for: the range lies before it.
    """
    if traded >= OBSERVED or asked_from is None:
        return None
    if oldest_traded is not None:
        asked_from = min(asked_from, oldest_traded)
    ms = timeframe.ms
    bottom = max(0, timeframe.last_closed(now) - (DEEPEST - 1) * ms)
    if asked_from <= bottom:
        return None
    newer = asked_from if oldest_traded is None else oldest_traded
    start, page = newer, (DEPTH - 1) * ms
    while start >= asked_from:
        start -= page
    start = max(bottom, start)
    return start, max(asked_from, newer) - ms
