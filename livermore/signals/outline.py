"""What a chart shows, before anybody draws it: slots, scales and ticks.

A slot is a place on the time axis. One without a candle keeps its place, so that a gap is seen, and
lines end before it and begin anew after it: what is missing is never bridged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from attrs import frozen

from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import Timeframe
from livermore.signals.reading import Reading

LEVELS = (150.0, -150.0, 50.0, -50.0)
"""Of MACD-V, always in sight; the outer ones first."""

REACH = 175.0
"""The scale of MACD-V reaches at least so far, both ways, and as far beyond as there are values."""

_MINUTE, _DAY = 60_000, 86_400_000
_STEPS = (
    *(n * _MINUTE for n in (5, 15, 30, 60, 120, 180, 240, 360, 720)),
    *(n * _DAY for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)


@frozen
class Slot:
    """A place on the time axis; without a candle it is missing."""

    open_time: int
    candle: Candle | None
    reading: Reading | None

    @property
    def empty(self) -> bool:
        """Whether the exchange traded nothing in it."""
        return self.candle is not None and self.candle.kind is Kind.EMPTY

    @property
    def unconfirmed(self) -> bool:
        """Whether it holds a candle that REST has not confirmed yet."""
        return self.candle is not None and self.candle.evidence is not Evidence.REST


@frozen
class Scale:
    """A range of values, ``low`` < ``high``."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        return (value - self.low) / (self.high - self.low)


@frozen
class Outline:
    """The newest slots of a series, and the scales they need."""

    series: Series
    slots: Sequence[Slot]
    newest: Candle
    reading: Reading
    """At ``newest``."""
    price: Scale
    volume: Scale
    macdv: Scale

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Gaps: index of the first slot, and of the one after the last."""
        return [*_runs([slot.candle is None for slot in self.slots])]

    @property
    def lines(self) -> list[tuple[int, int]]:
        """Where MACD-V goes on without interruption, as indices like those of ``missing``."""
        return [*_runs([s.reading is not None and s.reading.macdv is not None for s in self.slots])]


def outline(candles: Sequence[Candle], readings: Sequence[Reading], bars: int) -> Outline:
    """The newest ``bars`` slots, up to the newest of ``candles``; fewer where these begin later.

    ``candles`` ascend, ``readings`` are those at each of them. Raises ``ValueError`` without any.
    """
    if not candles:
        raise ValueError("no chart of no candles")
    newest = candles[-1]
    ms = newest.series.timeframe.ms
    first = max(candles[0].open_time, newest.open_time - (bars - 1) * ms)
    at = {c.open_time: (c, r) for c, r in zip(candles, readings, strict=True)}
    slots = [
        Slot(time, *at.get(time, (None, None))) for time in range(first, newest.open_time + 1, ms)
    ]
    shown = [slot.candle for slot in slots if slot.candle is not None]
    values = [
        value * 1.08
        for slot in slots
        if slot.reading is not None
        for value in (slot.reading.macdv, slot.reading.signal, slot.reading.histogram)
        if value is not None
    ]
    return Outline(
        newest.series,
        slots,
        newest,
        readings[-1],
        _prices(min(c.low for c in shown), max(c.high for c in shown)),
        Scale(0.0, max(c.volume for c in shown) or 1.0),
        Scale(min([-REACH, *values]), max([REACH, *values])),
    )


def behind(newest: Candle, now: int) -> int:
    """How many closed slots there are after ``newest`` at ``now`` (ms, exchange's clock)."""
    last = newest.series.timeframe.last_closed(now)
    return max(0, (last - newest.open_time) // newest.series.timeframe.ms)


def price_ticks(scale: Scale, most: int) -> list[tuple[float, str]]:
    """Round prices within ``scale`` and how they are written, lowest first."""
    raw = (scale.high - scale.low) / max(1, most)
    power = math.floor(math.log10(raw))
    step = next(n for n in (1, 2, 5, 10) if n * 10.0**power >= raw * (1 - 1e-9))
    unit = Decimal(step).scaleb(power) if step < 10 else Decimal(1).scaleb(power + 1)
    k = math.ceil(Decimal(scale.low) / unit)
    ticks = []
    while k * unit <= Decimal(scale.high):
        ticks.append((float(k * unit), f"{k * unit:,f}"))
        k += 1
    return ticks


def time_ticks(slots: Sequence[Slot], timeframe: Timeframe, most: int) -> list[tuple[int, str]]:
    """Indices of slots that begin at round times (UTC), and how they are written."""
    span = len(slots) * timeframe.ms
    step = next((s for s in _STEPS if s >= timeframe.ms and span <= s * most), _STEPS[-1])
    return [
        (k, _time(slot.open_time, step))
        for k, slot in enumerate(slots)
        if not slot.open_time % step
    ]


def _time(time: int, step: int) -> str:
    """``13:05``, ``16 Mar``, ``Mar 2021``: as much as tells ticks of this step apart."""
    at = datetime.fromtimestamp(time // 1000, UTC)
    month = _MONTHS[at.month - 1]
    if step >= 20 * _DAY:
        return f"{month} {at.year}"
    return f"{at:%H:%M}" if time % _DAY else f"{at.day} {month}"


def moment(time: int) -> str:
    """``2021-03-16 13:05 UTC``."""
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def figure(value: float) -> str:
    """A price or a volume exactly as it is."""
    return f"{Decimal(repr(value)):,f}".removesuffix(".0")


_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def _prices(low: float, high: float) -> Scale:
    """With some air around them, also where all are one."""
    air = (high - low) * 0.04 or high * 0.005
    return Scale(low - air, high + air)


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    first = None
    for k, flag in enumerate([*flags, False]):
        if flag and first is None:
            first = k
        elif not flag and first is not None:
            yield first, k
            first = None
