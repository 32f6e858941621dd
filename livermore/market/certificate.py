"""What can be said of a series after its candles were compared with REST."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from livermore.market.candle import Candle, Evidence, Kind, Series

if TYPE_CHECKING:
    from livermore.market.history import Page


@attrs.frozen
class Compared:
    """How stored slots compared with what REST says of them, as counts."""

    slots: int = 0
    confirmed: int = 0
    corrected: int = 0
    """REST said otherwise and was believed."""
    filled: int = 0
    """Missing ones that REST had."""
    omitted: int = 0
    """Traded ones that REST does not show; trades that were seen happened, so they stay."""
    differing: int = 0
    """REST says otherwise and ours stays: its evidence is later than the reply."""
    undecided: int = 0
    """The reply proves nothing about them, as it was read too early or is behind."""

    def __add__(self, other: Compared) -> Compared:
        return Compared(*(a + b for a, b in zip(self.figures, other.figures, strict=True)))

    def __sub__(self, other: Compared) -> Compared:
        return Compared(*(a - b for a, b in zip(self.figures, other.figures, strict=True)))

    @property
    def figures(self) -> tuple[int, ...]:
        """The counts in the order of the fields."""
        figures: tuple[int, ...] = attrs.astuple(self)
        return figures

    @property
    def mismatches(self) -> int:
        """Slots in which the store was not what REST shows."""
        return self.corrected + self.filled + self.omitted + self.differing


def judge(
    slots: Iterable[int],
    held: Mapping[int, Candle],
    page: Page,
    codes: Mapping[int, str],
    *,
    omits_empties: bool = True,
) -> tuple[Compared, tuple[int, ...]]:
    """How ``slots`` compared, and those of them that another reply may decide.

    ``held`` is what was stored, ``codes`` what the store made of each candle of ``page``: one
    letter, see ``candles.lua``. Where the exchange shows empty slots, one it omits proves nothing.
    """
    told = {candle.open_time: candle for candle in page.candles}
    counts = dict.fromkeys("confirmed corrected filled omitted differing undecided".split(), 0)
    left: list[int] = []
    for open_time in slots:
        code, there = codes.get(open_time, ""), held.get(open_time)
        final = open_time in told and told[open_time].evidence is Evidence.REST
        if code == "t":
            continue  # older than what is kept
        if code in ("c", "v"):
            found = "corrected"
        elif code in ("a", "i"):
            found = "filled"
        elif code == "s" and final:
            found = "confirmed"
        elif code == "w" and final:
            found = "differing"
        elif open_time in page.kept and open_time in page.omitted:
            found = "omitted"
        elif (
            omits_empties
            and there is not None
            and there.kind is Kind.EMPTY
            and there.evidence is Evidence.REST
        ):
            found = "confirmed"  # was proved empty before, and nothing is shown now
        else:
            found = "undecided"
        counts[found] += 1
        if found in ("omitted", "undecided"):
            left.append(open_time)
    return Compared(sum(counts.values()), **counts), tuple(left)


@attrs.frozen
class Mismatch:
    """A slot of which the store held something else before it was compared."""

    open_time: int
    before: Candle | None
    """None where nothing was stored that could be read."""
    after: Candle | None


@attrs.frozen
class Certificate:
    """One series between two open times, both included, as the store holds it after comparing.

    ``expected`` slots had ended and may have had a candle: what the exchange, being asked, never
    had is left out. ``confirmed`` are those with REST evidence.
    """

    series: Series
    first: int
    last: int
    expected: int
    traded: int
    empty: int
    confirmed: int
    missing: int
    content: str
    """SHA-256 in hex, see :func:`content_hash`."""
    compared: Compared
    mismatches: tuple[Mismatch, ...] = ()
    """The corrected and filled ones, ascending."""
    problem: str = ""
    """Why not all of it could be compared."""
    note: str = ""

    @property
    def corrected(self) -> int:
        """Slots that were corrected or filled."""
        return max(len(self.mismatches), self.compared.corrected + self.compared.filled)

    @property
    def agreed(self) -> bool:
        """Whether everything was there and as REST shows it."""
        return not (self.missing or self.mismatches or self.compared.mismatches)


def content_hash(candles: Iterable[Candle]) -> str:
    """SHA-256 of what candles (ascending) say, whatever proves it.

    Of one line per candle, ``open_time,kind,open,high,low,close,volume`` and a line feed; prices as
    the shortest decimal that is exact (Python's ``repr`` of a float), the volume to 15 significant
    digits (its ``.15g``): behind them the sums of a fold differ with the order of their rounding.
    """
    digest = hashlib.sha256()
    for c in candles:
        numbers = f"{c.open!r},{c.high!r},{c.low!r},{c.close!r},{c.volume:.15g}"
        digest.update(f"{c.open_time},{c.kind.value},{numbers}\n".encode())
    return digest.hexdigest()


def mismatches(before: Sequence[Candle], after: Sequence[Candle]) -> tuple[Mismatch, ...]:
    """The slots whose kind or OHLCV is not what it was, or that had no readable candle."""
    held = {candle.open_time: candle for candle in before}
    now = {candle.open_time: candle for candle in after}
    found: list[Mismatch] = []
    for open_time in sorted(held.keys() | now.keys()):
        was, is_ = held.get(open_time), now.get(open_time)
        if was is None or is_ is None or not was.same_values(is_):
            found.append(Mismatch(open_time, was, is_))
    return tuple(found)


def certify(
    series: Series,
    first: int,
    last: int,
    *,
    before: Sequence[Candle],
    after: Sequence[Candle],
    absent: int,
    compared: Compared,
    problem: str = "",
    note: str = "",
) -> Certificate:
    """The certificate of ``first..last``.

    ``before`` and ``after`` are what was stored before and after comparing; ``absent`` counts the
    slots the exchange, being asked, never had.
    """
    expected = max(0, (last - first) // series.timeframe.ms + 1 - absent)
    return Certificate(
        series, first, last, expected,
        traded=sum(candle.kind is Kind.TRADED for candle in after),
        empty=sum(candle.kind is Kind.EMPTY for candle in after),
        confirmed=sum(candle.evidence is Evidence.REST for candle in after),
        missing=max(0, expected - len(after)),
        content=content_hash(after),
        compared=compared,
        mismatches=mismatches(before, after),
        problem=problem,
        note=note,
    )  # fmt: skip
