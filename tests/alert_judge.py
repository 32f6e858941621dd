"""Which alerts a course of readings must give, by the text of the rules: lists and loops, no more.

It shares nothing with the code it judges. What is stored, corrected or found late is not its
matter: it is given what was true in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FIRST, STEP = 150, 50
"""Levels: 150, 200, 250, … without end."""
BACK = 10
"""Points inside of a level at which it is armed again."""
FEWEST = 100
"""Traded candles under which nothing alerts."""
COOLDOWN = 3
"""Candles."""


class Row(NamedTuple):
    """A closed candle and what is known at it; ``v`` and ``h`` are None where it is withheld."""

    open_time: int
    v: float | None
    h: float | None
    observed: int
    assumed: bool = False
    """Assumed to be empty: REST has not spoken."""


class Found(NamedTuple):
    """An alert that must be."""

    rule: str
    open_time: int
    direction: str
    level: int | None


def alerts_of(rows: Sequence[Row], timeframe: int, since: int = 0) -> list[Found]:
    """All alerts of the level and the reversal rule, in order of time.

    Those of candles that closed at or before ``since`` are silent: they set the state, nobody is
    told. Ends before an assumed-empty candle that would alert.
    """
    found: list[Found] = []
    rows = sorted(rows, key=lambda row: row.open_time)
    for index, row in enumerate(rows):
        past = rows[:index]
        new = [*_levels(past, row, timeframe, found), *_reversals(past, row, timeframe, found)]
        new = [one for one in new if row.observed >= FEWEST]
        if new and row.assumed and row.open_time + timeframe > since:
            break
        found += new
    return [one for one in found if one.open_time + timeframe > since]


def _before(rows: Sequence[Row], open_time: int, timeframe: int) -> float | None:
    """MACD-V of the slot right before, or None."""
    for row in rows[-1:]:
        if row.open_time == open_time - timeframe:
            return row.v
    return None


def _cools(found: Sequence[Found], new: Found, timeframe: int) -> bool:
    """Whether the same was told at one of the few candles before."""
    for one in reversed(found):
        if one.open_time + COOLDOWN * timeframe < new.open_time:
            return False
        if one._replace(open_time=new.open_time) == new:
            return True
    return False


# -- levels -----------------------------------------------------------------------------------


def _levels(
    past: Sequence[Row], row: Row, timeframe: int, found: Sequence[Found]
) -> Sequence[Found]:
    for direction, sign in (("up", 1), ("down", -1)):
        level = _crossed(past, row, timeframe, sign)
        if level is None:
            continue
        new = Found("level", row.open_time, direction, level)
        if _armed(past, timeframe, sign, level) and not _cools(found, new, timeframe):
            return [new]
    return []


def _crossed(past: Sequence[Row], row: Row, timeframe: int, sign: int) -> int | None:
    """The most extreme level that is crossed at ``row``, or None."""
    before = _before(past, row.open_time, timeframe)
    if before is None or row.v is None:
        return None
    highest = None
    level = FIRST
    while level < sign * row.v:
        if sign * before <= level:
            highest = level
        level += STEP
    return highest


def _armed(past: Sequence[Row], timeframe: int, sign: int, level: int) -> bool:
    """Whether nothing disarmed ``level`` since it was last armed: looked up backwards."""
    for index in range(len(past) - 1, -1, -1):
        earlier = past[index]
        crossed = _crossed(past[:index], earlier, timeframe, sign)
        if crossed is not None and crossed >= level:
            return False
        if earlier.v is not None and sign * earlier.v <= level - BACK:
            return True
    return True


# -- reversals --------------------------------------------------------------------------------


def _reversals(
    past: Sequence[Row], row: Row, timeframe: int, found: Sequence[Found]
) -> Sequence[Found]:
    before = _before(past, row.open_time, timeframe)
    if before is None or row.v is None or row.h is None:
        return []
    if before < -150 and row.v < -150 and row.h > 0.05 * abs(row.v):
        new = Found("reversal", row.open_time, "up", None)
    elif before > 150 and row.v > 150 and row.h < -0.03 * abs(row.v):
        new = Found("reversal", row.open_time, "down", None)
    else:
        return []
    told = [one.open_time for one in found if one.rule == "reversal"]
    if told and not _ended(past, told[-1]):
        return []
    return [] if _cools(found, new, timeframe) else [new]


def _ended(past: Sequence[Row], told: int) -> bool:
    """Whether the excursion that was told at ``told`` ended since."""
    [sign] = {row.v > 0 for row in past if row.open_time == told and row.v is not None}
    later = [row.v for row in past if row.open_time > told and row.v is not None]
    return any(abs(v) < 140 or (v > 0) != sign for v in later)
