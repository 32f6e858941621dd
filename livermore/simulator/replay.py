"""Real candles as a source: a CSV file becomes slots, moved by whole days to the simulated start.

If the start lies inside the file it stays where it is. Otherwise it is moved by a whole number of
days so that four fifths of it are history at the start and the rest is still to come; before and
after the file the symbol follows a seeded path through the file's first and last price.
"""

from __future__ import annotations

import csv
import itertools
import pathlib
from decimal import Decimal, InvalidOperation

import attrs
import numpy as np

from livermore.errors import ConfigurationError
from livermore.market.timeframe import DAY
from livermore.simulator.chance import key_of, once
from livermore.simulator.slots import SLOT, Slots
from livermore.simulator.trades import Row, fewest

COLUMNS = ("ts_ms", "open", "high", "low", "close", "volume")
_HISTORY_SHARE = 0.8
_MOST_TRADES = 400


@attrs.frozen(eq=False)
class Replay:
    """A stretch of five-minute rows from a file, on the simulated time axis."""

    slots: Slots
    price_decimals: int
    size_decimals: int
    shift: int
    """How far (ms, whole days) the file was moved."""

    @property
    def first(self) -> int:
        return self.slots.first

    @property
    def end(self) -> int:
        """The slot after the last one."""
        return self.slots.first + len(self.slots)

    @property
    def first_price(self) -> float:
        return float(self.slots.open[0]) / 10.0**self.price_decimals

    @property
    def last_price(self) -> float:
        return float(self.slots.close[-1]) / 10.0**self.price_decimals


def read_replay(path: pathlib.Path, start: int) -> Replay:
    """Read five-minute candles from ``path``; ``start`` (ms) is the simulated start."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigurationError(f"replay {path}: {error.strerror}") from None
    if not rows or any(column not in rows[0] for column in COLUMNS):
        raise ConfigurationError(f"replay {path}: needs the columns {','.join(COLUMNS)}")
    try:
        times = [int(row["ts_ms"]) for row in rows]
        values = [[Decimal(row[column]) for column in COLUMNS[1:]] for row in rows]
    except (InvalidOperation, ValueError, TypeError):
        raise ConfigurationError(f"replay {path}: a row is not numbers") from None
    if any(time % SLOT for time in times) or any(
        later <= earlier for earlier, later in itertools.pairwise(times)
    ):
        raise ConfigurationError(f"replay {path}: rows must be five-minute candles in order")
    price_decimals = max(2, *(_decimals(value) for row in values for value in row[:4]))
    size_decimals = max(_decimals(row[4]) for row in values)
    shift = _shift(times[0], times[-1], start)
    return Replay(
        _slots(path, times, values, price_decimals, size_decimals, shift),
        price_decimals,
        size_decimals,
        shift,
    )


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _shift(first: int, last: int, start: int) -> int:
    if first <= start < last:
        return 0
    wanted = first + int((last - first) * _HISTORY_SHARE)
    return round((start - wanted) / DAY) * DAY


def _slots(
    path: pathlib.Path,
    times: list[int],
    values: list[list[Decimal]],
    price_decimals: int,
    size_decimals: int,
    shift: int,
) -> Slots:
    first = times[0] // SLOT
    length = times[-1] // SLOT - first + 1
    columns = np.zeros((6, length), dtype=np.int64)
    tick, unit = Decimal(10) ** price_decimals, Decimal(10) ** size_decimals
    key = key_of("replay", path.name)
    for time, row in zip(times, values, strict=True):
        at = time // SLOT - first
        opened, high, low, close = (int(value * tick) for value in row[:4])
        volume = int(row[4] * unit)
        if volume == 0:
            continue  # flat filler of an exchange that sends candles without trades
        made = Row(opened, high, low, close, volume, 0)
        needed = fewest(made)
        if volume < needed or not low <= min(opened, close) <= max(opened, close) <= high:
            raise ConfigurationError(f"replay {path}: no trades can make the candle at {time}")
        wanted = 8 + int(once(key, at) * (_MOST_TRADES - 8))
        columns[:, at] = (opened, high, low, close, volume, min(max(wanted, needed), volume))
    return Slots(first + shift // SLOT, SLOT, *columns)
