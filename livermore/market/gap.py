"""A gap: closed candles we should have and do not. All causes are one thing."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator

import attrs
import msgspec

from livermore.errors import MalformedMessage
from livermore.market.candle import Series
from livermore.market.certificate import Compared
from livermore.market.timeframe import Timeframe

SECOND_LOOK = 60_000
"""Two REST replies at least this far apart (ms) that omit a slot prove it empty."""
SETTLED = 120_000
"""A REST reply asked for this long (ms) after a slot's end proves it empty by a newer row."""
VERIFY = "to be verified"
"""The cause of a range of the ledger that lacks nothing: a person wants it compared with REST."""


class Lane(enum.IntEnum):
    """Who goes first when REST requests are scarce."""

    LIVE = 0
    REPAIR = 1
    VERIFICATION = 2
    BY_HAND = 3


class Outcome(enum.Enum):
    """What became of a gap."""

    OPEN = "open"
    FILLED = "filled"
    UNFILLABLE = "unfillable"


@attrs.frozen
class Gap:
    """A range of missing slots of one series, ``first`` to ``last`` open time, both missing.

    ``found``, ``next_try`` and ``ended`` are times of the exchange's clock in ms.
    """

    series: Series
    first: int
    last: int
    cause: str
    found: int
    lane: Lane = Lane.REPAIR
    attempts: int = 0
    next_try: int = 0
    omitted_at: int | None = None
    """When a REST reply first omitted what is still missing."""
    outcome: Outcome = Outcome.OPEN
    ended: int | None = None
    note: str = ""
    compared: Compared | None = None
    """What came of comparing it, where its cause is :data:`VERIFY`."""

    @property
    def name(self) -> str:
        """Its field in the ledger."""
        name = f"{self.series.symbol}:{self.series.timeframe.value}:{self.first}"
        name = f"{self.series.owner}:{name}" if self.series.owner else name
        return f"{name}:verify" if self.cause == VERIFY else name

    @property
    def slots(self) -> int:
        """How many candles it lacks."""
        return (self.last - self.first) // self.series.timeframe.ms + 1


class _Row(msgspec.Struct, omit_defaults=True):
    symbol: str
    timeframe: str
    first: int
    last: int
    cause: str
    found: int
    lane: int = 1
    attempts: int = 0
    next_try: int = 0
    omitted_at: int | None = None
    outcome: str = "open"
    ended: int | None = None
    note: str = ""
    compared: tuple[int, int, int, int, int, int, int] | None = None
    owner: str = ""


_decoder = msgspec.json.Decoder(_Row)


def encode_gap(gap: Gap) -> bytes:
    """The gap as the ledger holds it."""
    return msgspec.json.encode(
        _Row(
            gap.series.symbol, gap.series.timeframe.value, gap.first, gap.last, gap.cause,
            gap.found, int(gap.lane), gap.attempts, gap.next_try, gap.omitted_at,
            gap.outcome.value, gap.ended, gap.note,
            gap.compared.figures if gap.compared else None,  # type: ignore[arg-type]
            gap.series.owner,
        )
    )  # fmt: skip


@functools.lru_cache(maxsize=16_384)  # the ledger is read every few seconds, most of it unchanged
def decode_gap(exchange: str, text: bytes) -> Gap:
    """An entry of the ledger; raises :class:`MalformedMessage` when it is not one of ours."""
    try:
        row = _decoder.decode(text)
        series = Series(exchange, row.symbol, Timeframe(row.timeframe), row.owner)
        gap = Gap(
            series, row.first, row.last, row.cause, row.found, Lane(row.lane), row.attempts,
            row.next_try, row.omitted_at, Outcome(row.outcome), row.ended, row.note,
            Compared(*row.compared) if row.compared else None,
        )  # fmt: skip
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedMessage(f"gaps:{exchange} holds what is no gap ({error})", text) from None
    if (
        not 0 <= gap.first <= gap.last
        or gap.first % series.timeframe.ms
        or gap.last % series.timeframe.ms
    ):
        raise MalformedMessage(f"gaps:{exchange} holds an impossible range", text)
    return gap


def pages(first: int, last: int, timeframe: Timeframe, rows: int) -> Iterator[tuple[int, int]]:
    """Cut ``first..last`` into pages of at most ``rows`` slots, newest first, ends included.

    Neighbouring pages share the seam candle: a download that did not lost one candle in 301.
    """
    if rows < 2:
        raise ValueError("a page holds at least a candle and the seam")
    if first > last:
        return
    step = (rows - 1) * timeframe.ms
    while True:
        start = max(first, last - step)
        yield start, last
        if start == first:
            return
        last = start


def merge(ranges: Iterable[tuple[int, int]], timeframe: Timeframe) -> list[tuple[int, int]]:
    """Ranges in order, those that touch or overlap made one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + timeframe.ms:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
