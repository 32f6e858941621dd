"""A candle, what it belongs to and how well we know it.

Times are integer epoch milliseconds UTC. A candle here is always *closed*: forming candles are
:class:`~livermore.market.events.Sample` and never reach the store.
"""

from __future__ import annotations

import enum
import math

import attrs

from livermore.errors import ImpossibleCandle
from livermore.market.timeframe import Timeframe

REST_SETTLED = 30_000
"""REST read less than this (ms) after a candle's end lags and is cached: it ranks as stream."""

VOLUME_TOLERANCE = 1e-9
"""Relative difference under which two volumes are the same: sums of floats differ a little."""


class Kind(enum.Enum):
    """Whether the exchange traded in the slot."""

    TRADED = "traded"
    EMPTY = "empty"


class Evidence(enum.IntEnum):
    """How well a candle is known, weakest first."""

    ASSUMED = 0
    STREAM = 1
    REST = 2

    @property
    def label(self) -> str:
        """The word used in the store and on channels."""
        return self.name.lower()

    @classmethod
    def parse(cls, label: str) -> Evidence:
        """The evidence called ``label``; raises ``KeyError`` for another word."""
        return cls[label.upper()]


@attrs.frozen(cache_hash=True, order=False)
class Series:
    """One exchange's candles of one symbol in one timeframe.

    ``owner`` is the one user in whose private keys they live, "" for the pool that all share.
    """

    exchange: str
    symbol: str
    timeframe: Timeframe = attrs.field(hash=False)
    owner: str = attrs.field(default="", eq=False)  # the name says it: nothing is compared twice
    name: str = attrs.field(init=False)

    @name.default
    def _name(self) -> str:
        name = f"{self.exchange}:{self.symbol}:{self.timeframe.value}"
        return f"{self.owner}:{name}" if self.owner else name

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe.value}"


@attrs.frozen
class Candle:
    """A closed candle. Impossible values raise :class:`ImpossibleCandle`."""

    series: Series
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    kind: Kind = Kind.TRADED
    evidence: Evidence = Evidence.STREAM
    as_of: int = 0
    revision: int = 0

    def __attrs_post_init__(self) -> None:
        check(self.series, self.open_time, self.open, self.high, self.low, self.close, self.volume)

    @property
    def close_time(self) -> int:
        """First millisecond of the next candle."""
        return self.open_time + self.series.timeframe.ms

    @property
    def strength(self) -> tuple[int, int]:
        """Order of evidence: the stronger rank wins, within one rank the later ``as_of``."""
        return (self.evidence, self.as_of)

    def same_values(self, other: Candle) -> bool:
        """Whether kind and OHLCV agree (volume within :data:`VOLUME_TOLERANCE`)."""
        return (
            self.kind is other.kind
            and self.open == other.open
            and self.high == other.high
            and self.low == other.low
            and self.close == other.close
            and same_volume(self.volume, other.volume)
        )


def same_volume(a: float, b: float) -> bool:
    """Whether two volumes differ by no more than rounding."""
    return abs(a - b) <= VOLUME_TOLERANCE * max(abs(a), abs(b))


def check(
    series: Series,
    open_time: int,
    open: float,
    high: float,
    low: float,
    close: float,
    volume: float,
) -> None:
    """Raise :class:`ImpossibleCandle` unless a market can have made these values."""
    # A NaN fails every comparison, so this also refuses it; infinity fails the upper bound.
    if (
        0 < low <= open <= high < math.inf
        and low <= close <= high
        and 0 <= volume < math.inf
        and open_time >= 0
        and open_time % series.timeframe.ms == 0
    ):
        return
    raise ImpossibleCandle(
        f"{series.exchange}: impossible candle {series} at {open_time}: "
        f"open {open} high {high} low {low} close {close} volume {volume}"
    )


def empty(series: Series, open_time: int, price: float, evidence: Evidence, as_of: int) -> Candle:
    """A slot without trades: flat at the previous close, volume 0."""
    return Candle(series, open_time, price, price, price, price, 0.0, Kind.EMPTY, evidence, as_of)


def rest_evidence(close_time: int, asked_at: int) -> Evidence:
    """What a row asked for at ``asked_at`` proves about a candle that ended at ``close_time``."""
    return Evidence.REST if asked_at - close_time >= REST_SETTLED else Evidence.STREAM
