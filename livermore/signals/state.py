"""What a series carries from candle to candle, alone and in rows of many.

In rows it is a structure of arrays, which is what makes one numpy update per batch possible; alone
it is a value, which is what is stored and restored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from attrs import define
from numpy.typing import NDArray

from livermore.errors import MalformedMessage
from livermore.signals.stage import CALM

FAST, SLOW, SMOOTH = 12, 26, 9
"""Lengths of the fast EMA, of the slow EMA and the ATR, and of the signal."""

LEAST_ATR = 1e-11
"""Of the close; with less there is no volatility.

EMAs of a flat price come to rest some units in the last place apart, while the ATR goes on halving
every 18 candles: after some 400 trading candles at one price, as stablecoins have them, MACD-V
would be wrong by 0.01 points, after 800 by thousands. One tick of BTC in 26 candles is 4e-9.
"""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One series at its newest candle; ``None`` is a number that does not exist (yet, or here).

    A msgspec class, as is ``Reading``: one of each is made per close, attrs takes 14 times as long.
    """

    open_time: Natural
    """Of the newest candle, ms; 0 while ``count`` is 0."""
    gap_time: Natural
    """Open time of the newest missing slot that was stepped over, ms; 0 if there is none."""
    count: Natural
    """Candles seen, empty ones included."""
    observed: Natural
    """Traded candles seen."""
    values: Natural
    """MACD-V values seen."""
    calm: Natural
    """Closes in a row, this one included, with ``abs(macdv) < 50``."""
    cross: int
    """MACD-V values in a row, the newest included, on this side of the signal: positive at or above
    it, negative below; 0 before there is a signal."""
    close: float | None
    ema12: float | None
    ema26: float | None
    atr26: float | None
    macdv: float | None
    signal: float | None
    close_sum: float
    """Of the first closes, until 26 have started both EMAs; then 0, as the sums below."""
    range_sum: float
    macdv_sum: float


INTS = State.__struct_fields__[:7]
FLOATS = State.__struct_fields__[7:]
_SUMS = FLOATS.index("close_sum")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(State)


@define(eq=False)
class States:
    """The states of n series, one array per field of :class:`State`; NaN stands for ``None``."""

    _ints: Ints  # (7, capacity)
    _floats: Floats  # (9, capacity)
    _size: int

    @classmethod
    def fresh(cls, n: int) -> States:
        """``n`` series that have seen no candle."""
        floats = np.full((len(FLOATS), n), math.nan)
        floats[_SUMS:] = 0.0
        return cls(np.zeros((len(INTS), n), np.int64), floats, n)

    @classmethod
    def of(cls, states: Iterable[State]) -> States:
        """One row for each of ``states``; the inverse of :meth:`values`."""
        rows = [msgspec.structs.astuple(state) for state in states]
        restored = cls.fresh(len(rows))
        for index, column in enumerate(zip(*rows, strict=True)):
            if index < len(INTS):
                restored._ints[index] = column
            else:
                restored._floats[index - len(INTS)] = np.array(column, np.float64)  # None -> NaN
        return restored

    @classmethod
    def joined(cls, parts: Sequence[States]) -> States:
        """The rows of ``parts``, one after the other."""
        ints = [part._ints[:, : part._size] for part in parts]
        floats = [part._floats[:, : part._size] for part in parts]
        return cls(
            np.concatenate(ints, axis=1), np.concatenate(floats, axis=1), sum(map(len, parts))
        )

    def __len__(self) -> int:
        return self._size

    def column(self, name: str) -> NDArray[Any]:
        """The field ``name`` of every row, shape (n,): a view, cut loose by :meth:`extend`."""
        if name in INTS:
            return self._ints[INTS.index(name), : self._size]
        return self._floats[FLOATS.index(name), : self._size]

    def extend(self, k: int) -> Ints:
        """Add ``k`` fresh rows and return their indices; capacity that must grow doubles."""
        rows = np.arange(self._size, self._size + k)
        if self._size + k > self._ints.shape[1]:
            larger = States.fresh(max(self._size + k, 2 * self._size))
            larger._ints[:, : self._size] = self._ints[:, : self._size]
            larger._floats[:, : self._size] = self._floats[:, : self._size]
            self._ints, self._floats = larger._ints, larger._floats
        self._size += k
        return rows

    def take(self, rows: Ints) -> States:
        """A copy of ``rows``, in their order."""
        ints, floats = self.gather(rows)
        return States(ints, floats, len(rows))

    def put(self, rows: Ints, states: States) -> None:
        """Overwrite ``rows`` (distinct) with ``states``, of the same number."""
        if len(rows) != len(states):
            raise ValueError(f"{len(states)} states for {len(rows)} rows")
        self._check(rows)
        self.scatter(rows, states._ints[:, : len(states)], states._floats[:, : len(states)])

    def values(self) -> list[State]:
        """Every row as a value."""
        ints = [column[: self._size].tolist() for column in self._ints]
        floats = [numbers(column[: self._size]) for column in self._floats]
        return list(map(State, *ints, *floats))

    def state(self, row: int) -> State:
        """One row as a value."""
        return self.take(np.array([row])).values()[0]

    def to_json(self, row: int) -> bytes:
        """One row as JSON that restores to the same bits: floats as their ``repr``, no NaN."""
        return _encoder.encode(self.state(row))

    def to_jsons(self, rows: Ints) -> list[bytes]:
        """As :meth:`to_json`, of many rows for a tenth of the work."""
        return list(map(_encoder.encode, self.take(rows).values()))

    def gather(self, rows: Ints) -> tuple[Ints, Floats]:
        """A copy of ``rows`` as matrices, a line for each of :data:`INTS` and :data:`FLOATS`."""
        self._check(rows)
        return self._ints.take(rows, axis=1), self._floats.take(rows, axis=1)

    def scatter(self, rows: Ints, ints: Ints, floats: Floats) -> None:
        """Write back what :meth:`gather` gave for the same ``rows``."""
        self._ints[:, rows] = ints
        self._floats[:, rows] = floats

    def _check(self, rows: Ints) -> None:
        """Spare capacity is not a row, and -1 is not the last one."""
        if len(rows) and not (rows.min() >= 0 and rows.max() < self._size):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {self._size}")


def numbers(array: Floats) -> list[Any]:
    """As a list of ``float | None``: what is not a finite number is none."""
    listed: list[Any] = array.tolist()
    for k in np.flatnonzero(~np.isfinite(array)).tolist():
        listed[k] = None
    return listed


def decode_state(data: bytes) -> State:
    """What :meth:`States.to_json` wrote; raises :class:`MalformedMessage`."""
    try:
        state = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not the state of a series: {error}", data) from error
    check_state(state, data)
    return state


def check_state(state: State, quoted: bytes) -> None:
    """Raise :class:`MalformedMessage`, quoting ``quoted``, if no candles lead to ``state``."""
    floats = msgspec.structs.astuple(state)[len(INTS) :]
    sound = (
        all(x is None or math.isfinite(x) for x in floats)
        and state.observed <= state.count
        and state.calm <= state.values <= max(0, state.count - SLOW + 1)
        and (state.gap_time < state.open_time or state.gap_time == state.open_time == 0)
        and (state.close is None) == (state.count == 0)
        and (state.ema12 is None) == (state.count < FAST)
        and (state.ema26 is None) == (state.count < SLOW)
        and (state.close_sum == 0 or state.count < SLOW)
        and (state.range_sum == 0 or state.observed < SLOW)
        and (state.macdv_sum == 0 or state.values < SMOOTH)
        and (state.atr26 is None) == (state.observed < SLOW)
        and (state.signal is None) == (state.values < SMOOTH)
        and (state.values == 0 or state.atr26 is not None)
        and (
            state.macdv is None
            or (state.values > 0 and (state.atr26 or 0) > LEAST_ATR * (state.close or 0))
        )
        and (state.calm > 0) == (state.macdv is not None and abs(state.macdv) < CALM)
        and (state.cross == 0) == (state.values < SMOOTH)
        and abs(state.cross) <= max(0, state.values - SMOOTH + 1)
        and (
            state.macdv is None
            or state.signal is None
            or (state.cross > 0) == (state.macdv >= state.signal)
        )
    )
    if not sound:
        raise MalformedMessage("no candles lead to this state of a series", quoted)
