#!/usr/bin/env python3
"""Write the golden vectors of MACD-V: made-up candles, and the readings that are right for them.

    python scripts/golden.py [FILE]

The numbers are TA-Lib's, not ours: only what no library has (which candles the ATR sees, stages,
what is withheld) is written here, once more and plainly. The file says how to read it. The
candles come from seeds, so a second run writes the same ones on every machine.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import talib

FILE = Path(__file__).resolve().parents[1] / "tests/pure/signals/golden/macdv.json"
FIVE_MINUTES = 300_000
START = 1_700_000_100_000

ABOUT = """
MACD-V of made-up five-minute candles, to compare another implementation with. Free to use.
candles: open_time in ms; empty 1 = nothing traded, flat at the previous close. Open and volume do not matter.
ema12, ema26: of the close, of empty candles too; begun with the mean of the first 12 and 26.
atr26: Wilder's, of traded candles only; begun with the mean of the first 26 true ranges. The true range of the first candle is high - low.
macdv: 100 * (ema12 - ema26) / atr26; null until index 25, before 26 candles traded, and while atr26 is not above 1e-11 of the close.
signal: EMA of 9 over the macdv there are, begun with the mean of the first 9; it stands still where macdv is null. histogram: macdv - signal.
stage: of macdv and signal, as in `stages`, withheld or not. calm counts the closes in a row with |macdv| < 50.
cross: how many macdv in a row, this one included, are at or above the signal, or (negative) below it; 0 before there is a signal. It stands still where macdv is null.
withheld: 1 where no reading may be shown: under 60 candles, under 26 traded ones, a slot missing within the last 150, no macdv or no signal.
Agreement: 1e-9, for the averages relative to their size. No stage here hangs on a last digit.
Made with TA-Lib. Its ATR leaves out the first true range, so it is fed one bar more, before the first traded one, whose close makes that range what it should be.
""".strip().splitlines()  # noqa: E501

Candle = tuple[int, float, float, float, bool]
"""Open time, high, low, close, whether it is empty."""


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{lay_out(document())}\n")


def document() -> dict[str, Any]:
    """All that the file says."""
    cases = {}
    for name, (about, candles) in made_up().items():
        open_time, high, low, close, empty = zip(*candles, strict=True)
        columns = {"open_time": open_time, "high": high, "low": low, "close": close}
        columns |= {"empty": tuple(int(nothing) for nothing in empty)}
        expected = readings(candles)
        check_margins(name, expected)
        cases[name] = {"about": about, "candles": columns, "expected": expected}
    return {
        "about": ABOUT,
        "made_with": {"ta-lib": talib.__version__},
        "timeframe_ms": FIVE_MINUTES,
        "tolerance": 1e-9,
        "stages": bounds(),
        "cases": cases,
    }


# -- candles ----------------------------------------------------------------------------------


def made_up() -> dict[str, tuple[str, list[Candle]]]:
    """Name -> what is special about it, and its candles."""
    still = walk("vanishing", 260, swing=0)
    return {
        "traded": (
            "every candle traded; macdv from index 25, signal from index 33",
            walk("traded", 120),
        ),
        "sparse": (
            "more than half are empty, also among those that begin the averages",
            walk("sparse", 400, empty=lambda i, dice: dice < 0.55),
        ),
        "empty_first": (
            "the first nine are empty: the ATR begins nine candles later",
            walk("empty_first", 120, empty=lambda i, dice: i < 9 or dice < 0.1),
        ),
        "hardly_traded": (
            "one in eight traded: long after the 60th candle there is no ATR yet",
            walk("hardly_traded", 300, empty=lambda i, dice: i % 8 > 0),
        ),
        "flat": (
            "one price without any range: no macdv until it moves, then the signal nine later",
            walk("flat", 90, swing=0) + walk("flat", 90, begin=90),
        ),
        "flat_later": (
            "it stops moving and moves again: the ATR shrinks and macdv is calm",
            [
                *walk("flat_later", 80),
                *walk("flat_later", 60, begin=80, swing=0),
                *walk("flat_later", 80, begin=140),
            ],
        ),
        "vanishing": (
            "one close throughout, then ranges of nothing: macdv is 0 while the ATR is above "
            "1e-11 of the close, then null, and the signal stands still until it moves",
            [
                *[(at, high + 1e-6, low, close, no) for at, high, low, close, no in still[:30]],
                *still[30:],
                *walk("vanishing", 60, begin=260),
            ],
        ),
        "gap": (
            "one slot is missing at 80 and forty at 120: what is there enters, and readings wait",
            [c for i, c in enumerate(walk("gap", 380)) if i != 80 and not 120 <= i < 160],
        ),
        "long": (
            "trends, crashes and calm, all stages among them",
            walk("long", 1_200, empty=lambda i, dice: dice < 0.05, trend=30),
        ),
        "tiny": (
            "a price of a few ten-millionths",
            walk("tiny", 150, unit=lambda ticks: ticks / 1e10),
        ),
        "huge": (
            "a price of billions",
            walk("huge", 150, unit=lambda ticks: ticks * 250_000.0),
        ),
    }


def walk(
    seed: str,
    n: int,
    *,
    begin: int = 0,
    swing: int = 40,
    trend: int = 0,
    unit: Callable[[int], float] = lambda ticks: ticks / 100,
    empty: Callable[[int, float], bool] = lambda i, dice: False,
) -> list[Candle]:
    """``n`` candles from slot ``begin`` on: a walk in whole ticks that starts at 10,000 of them.

    It jumps between candles, so that the previous close is often outside the next range.
    """
    dice = random.Random(f"{seed} {begin}")

    def roll(reach: int) -> int:  # from random() alone, which no version of Python changes
        return int(dice.random() * (2 * reach + 1)) - reach

    price, drift, candles = 10_000, 0, []
    for i in range(n):
        if trend and i % 60 == 0:
            drift = roll(trend)
        nothing = empty(i, dice.random())
        high = low = price
        if not nothing:
            first = price + roll(swing)
            price = max(1_000, first + roll(swing) + drift)
            high = max(first, price) + abs(roll(swing // 2))
            low = min(first, price) - abs(roll(swing // 2))
        at = START + (begin + i) * FIVE_MINUTES
        candles.append((at, unit(high), unit(low), unit(price), nothing))
    return candles


# -- readings ---------------------------------------------------------------------------------


def readings(candles: Sequence[Candle]) -> dict[str, list[Any]]:
    """What is expected after each of ``candles``, by column; null where there is no number."""
    n = len(candles)
    close = [candle[3] for candle in candles]
    traded = [i for i in range(n) if not candles[i][4]]
    for i in range(1, n):
        if candles[i][4] and candles[i][1:4] != (close[i - 1],) * 3:
            raise ValueError(f"candle {i} is empty and not flat at the previous close")

    ema12, ema26 = average(close, 12), average(close, 26)
    ranges = true_range_averages(candles, traded)
    atr26 = [
        ranges[seen - 1] if (seen := sum(at <= i for at in traded)) else None for i in range(n)
    ]
    macdv: list[float | None] = []
    for price, fast, slow, atr in zip(close, ema12, ema26, atr26, strict=True):
        if fast is None or slow is None or atr is None or atr <= 1e-11 * price:
            macdv.append(None)
        else:
            macdv.append(100 * (fast - slow) / atr)

    line = average([v for v in macdv if v is not None], 9)
    signal: list[float | None] = []
    histogram: list[float | None] = []
    stages: list[str | None] = []
    crosses: list[int] = []
    withheld: list[int] = []
    values = calm = cross = gap = 0
    for i, v in enumerate(macdv):
        values += v is not None
        calm = calm + 1 if v is not None and abs(v) < 50 else 0
        if i and candles[i][0] > candles[i - 1][0] + FIVE_MINUTES:
            gap = candles[i][0] - FIVE_MINUTES
        s = line[values - 1] if values else None
        signal.append(s)
        absent = v is None or s is None
        histogram.append(None if v is None or s is None else v - s)
        stages.append(None if v is None or s is None else stage(v, s, calm))
        if v is not None and s is not None:
            above = v >= s
            cross = (cross if (cross > 0) == above else 0) + (1 if above else -1)
        crosses.append(cross)
        observed = sum(at <= i for at in traded)
        recent = gap > 0 and candles[i][0] - gap <= 150 * FIVE_MINUTES
        withheld.append(int(i + 1 < 60 or observed < 26 or recent or absent))
    return {
        "ema12": ema12,
        "ema26": ema26,
        "atr26": atr26,
        "macdv": macdv,
        "signal": signal,
        "histogram": histogram,
        "stage": stages,
        "cross": crosses,
        "withheld": withheld,
    }


def average(numbers: Sequence[float], n: int) -> list[float | None]:
    """TA-Lib's EMA."""
    return listed(talib.EMA(np.array(numbers, np.float64), timeperiod=n))


def true_range_averages(candles: Sequence[Candle], traded: Sequence[int]) -> list[float | None]:
    """TA-Lib's ATR of the traded candles alone, one for each of them.

    The close before a traded candle is that of the traded one before it, as empty ones are flat.
    """
    if not traded:
        return []
    first = traded[0]
    before = candles[first - 1][3] if first else candles[0][2]  # its own low widens no range
    bars = [(before, before, before), *(candles[i][1:4] for i in traded)]
    high, low, close = (np.array(column, np.float64) for column in zip(*bars, strict=True))
    return listed(talib.ATR(high, low, close, timeperiod=26))[1:]


def listed(numbers: Any) -> list[float | None]:
    """As Python's own, null for NaN."""
    return [None if np.isnan(x) else float(x) for x in numbers]


def stage(v: float, s: float, calm: int) -> str:
    """The rule, row by row; equal to the signal counts as above it."""
    calm_for_long = calm > 25
    rows = [
        ("oversold", v < -150),
        ("overbought", v >= 150 and v >= s),
        ("rallying", 50 <= v < 150 and v >= s),
        ("ranging", -150 <= v < 50 and v >= s and calm_for_long),
        ("rebounding", -150 <= v < 50 and v >= s and not calm_for_long),
        ("reversing", -150 <= v < -50 and v < s),
        ("ranging", v >= -50 and v < s and calm_for_long),
        ("retracing", v >= -50 and v < s and not calm_for_long),
    ]
    (name,) = [name for name, met in rows if met]
    return name


def bounds() -> list[dict[str, Any]]:
    """The stages at and next to every bound."""
    rows = []
    for bound in (-150.0, -50.0, 0.0, 50.0, 150.0):
        for v in (np.nextafter(bound, -1e9), bound, np.nextafter(bound, 1e9)):
            for s in (np.nextafter(v, -1e9), v, np.nextafter(v, 1e9)):
                for calm in (0, 25, 26) if abs(v) < 50 else (0,):
                    row = {"macdv": float(v), "signal": float(s), "calm": calm}
                    rows.append(row | {"stage": stage(float(v), float(s), calm)})
    return rows


def check_margins(name: str, expected: dict[str, list[Any]]) -> None:
    """Raise if a stage of the case ``name`` depends on rounding: then it needs another seed."""
    for i, (v, s) in enumerate(zip(expected["macdv"], expected["signal"], strict=True)):
        if v is not None and s is not None and not v == s == 0:
            margin = min(abs(v - s), *(abs(abs(v) - bound) for bound in (50, 150)))
            if margin < 1e-6:
                raise ValueError(f"{name}, candle {i}: {v} and {s} are too close to call")


# -- the file ---------------------------------------------------------------------------------


def lay_out(value: Any, indent: str = "") -> str:
    """JSON with a line for each column, for each row of the stages and of the text."""
    deeper = indent + " "
    if isinstance(value, dict) and any(isinstance(x, dict | list) for x in value.values()):
        lines = [f"{json.dumps(key)}: {lay_out(x, deeper)}" for key, x in value.items()]
        return "{\n" + ",\n".join(deeper + line for line in lines) + "\n" + indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict | str) and indent == " ":
        return "[\n" + ",\n".join(deeper + json.dumps(x) for x in value) + "\n" + indent + "]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
