"""A reading taken apart: every term of MACD-V at one stored candle, and what is uncertain about it.

The numbers are those of :func:`~livermore.signals.macdv.replay` over what is stored, not those of
the reading that is stored beside it: the two are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import iso
from livermore.signals.anchor import Start
from livermore.signals.course import states_along
from livermore.signals.reading import GAP_SLOTS, WARM, Reading, build_readings
from livermore.signals.stage import CALM, CALM_CLOSES, Stage
from livermore.signals.state import FAST, SLOW, SMOOTH, State, States

AGREE = 1e-9
"""Relative difference under which two numbers are the same."""

TOLD_ELSEWHERE = frozenset({"revision", "epoch", "halted", "bias", "bias_timeframes"})
"""Fields of a reading that do not follow from the candles of its series. (A change of volume alone
raises the revision of a candle and recomputes no reading.)"""


@frozen
class Seed:
    """How a term began: as the mean of ``length`` members."""

    term: str
    of: str
    length: int
    carried: bool = False
    """It began before the replay edge: the carried state holds it."""
    first: int | None = None
    """Open time (ms) of the first member; None where that lies before the replay edge."""
    last: int | None = None
    """Open time of the last member; None where there are not yet enough."""
    value: float | None = None


@frozen
class TrueRange:
    """The members of a true range; those with the close before are None at the anchor."""

    high_low: float
    high_close: float | None
    low_close: float | None

    @property
    def value(self) -> float:
        """The largest of them."""
        parts = (self.high_low, self.high_close, self.low_close)
        return max(part for part in parts if part is not None)


@frozen
class Explanation:
    """All terms of one reading."""

    candle: Candle
    start: Start
    used: Sequence[Candle]
    """Candles that entered since ``start``, this one included, oldest first."""
    at: State
    before: State | None
    """At the candle before; None at the anchor."""
    reading: Reading
    """What follows from the candles; its epoch is 0."""
    true_range: TrueRange | None
    """None for an empty candle, which the ATR skips."""
    seeds: Sequence[Seed]
    missing: Sequence[int]
    """Open times of the slots that are missing within the last 150."""
    uncertain: Sequence[str]
    """In words, gravest first."""

    @property
    def series(self) -> Series:
        """Of what."""
        return self.candle.series

    @property
    def carried(self) -> int:
        """Candles that are in the carried state."""
        return 0 if self.start.state is None else self.start.state.count

    @property
    def bound(self) -> str | None:
        """Which bounds made the stage; None where it is withheld."""
        reading = self.reading
        if reading.stage is None or reading.macdv is None or reading.signal is None:
            return None
        return bound_text(reading.stage, reading.macdv, reading.signal, self.at.calm)


def explain(start: Start, open_time: int) -> Explanation:
    """Take the reading at ``open_time`` (ms) apart.

    Raises ``ValueError`` when no candle of ``start`` is at ``open_time``.
    """
    used = [candle for candle in start.candles if candle.open_time <= open_time]
    if not used or used[-1].open_time != open_time:
        raise ValueError(f"no candle at {open_time}")
    candle, series = used[-1], used[-1].series
    course = states_along(Start(start.state, used))
    at = course.state(len(used) - 1)
    before = course.state(len(used) - 2) if len(used) > 1 else start.state
    ((reading, _),) = build_readings(
        course,
        np.array([len(used) - 1]),
        exchange=series.exchange,
        epoch=0,
        symbols=[series.symbol],
        timeframes=[series.timeframe],
        revisions=[candle.revision],
    )
    missing = _missing(at, used)
    return Explanation(
        candle,
        start,
        used,
        at,
        before,
        reading,
        _true_range(candle, before),
        _seeds(start.state, course, used),
        missing,
        _uncertain(reading, start, used, missing),
    )


def differences(computed: Reading, stored: Reading) -> dict[str, tuple[Any, Any]]:
    """Name -> computed and stored value, of what follows from the candles and is not the same."""
    pairs = {
        name: (getattr(computed, name), getattr(stored, name))
        for name in Reading.__struct_fields__
        if name not in TOLD_ELSEWHERE
    }
    return {
        name: (ours, theirs) for name, (ours, theirs) in pairs.items() if not same(ours, theirs)
    }


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values of a reading agree."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=AGREE, abs_tol=AGREE)
    return bool(ours == theirs)


# -- the stage in words -----------------------------------------------------------------------


@frozen
class Bounds:
    """What a stage asks for: ``low <= MACD-V < high``, and where the signal is."""

    low: float | None
    high: float | None
    above: bool | None
    """At or above the signal; None where the signal does not matter."""


BOUNDS = {
    Stage.OVERSOLD: Bounds(None, -150, None),
    Stage.OVERBOUGHT: Bounds(150, None, True),
    Stage.RALLYING: Bounds(50, 150, True),
    Stage.REBOUNDING: Bounds(-150, 50, True),
    Stage.REVERSING: Bounds(-150, -50, False),
    Stage.RETRACING: Bounds(-50, None, False),
}
"""Of every stage but ranging, which replaces rebounding and retracing where it is calm."""


def bound_text(stage: Stage, macdv: float, signal: float, calm: int) -> str:
    """Why ``stage`` is the one: ``50 <= 87.12 < 150, above the signal 80.03``."""
    if stage is Stage.RANGING:
        return f"|MACD-V| < {CALM:g} for {calm} closes in a row, more than {CALM_CLOSES}"
    bounds = BOUNDS[stage]
    low = "" if bounds.low is None else f"{bounds.low:g} <= "
    high = "" if bounds.high is None else f" < {bounds.high:g}"
    places = _places(macdv, signal)
    text = f"{low}{macdv:.{places}f}{high}"
    if bounds.above is not None:
        text += f", {'at or above' if bounds.above else 'below'} the signal {signal:.{places}f}"
    if calm:
        text += f" (calm for {calm} closes, ranging from {CALM_CLOSES + 1})"
    return text


def _places(macdv: float, signal: float) -> int:
    """So many that what is written is still on the same side of every bound."""
    others = (signal, -150.0, -50.0, 50.0, 150.0)
    for places in (2, 4, 8):
        shown = round(macdv, places)
        if all(
            (shown >= round(other, places)) == (macdv >= other)
            and (shown < round(other, places)) == (macdv < other)
            for other in others
        ):
            return places
    return 15


# -- the parts --------------------------------------------------------------------------------


def _true_range(candle: Candle, before: State | None) -> TrueRange | None:
    if candle.kind is Kind.EMPTY:
        return None
    spread = candle.high - candle.low
    if before is None or before.close is None:
        return TrueRange(spread, None, None)
    return TrueRange(spread, abs(candle.high - before.close), abs(candle.low - before.close))


def _seeds(state: State | None, course: States, used: Sequence[Candle]) -> list[Seed]:
    seeds = []
    for term, of, length, counter in (
        ("ema12", "closes", FAST, "count"),
        ("ema26", "closes", SLOW, "count"),
        ("atr26", "observed true ranges", SLOW, "observed"),
        ("signal", "MACD-V values", SMOOTH, "values"),
    ):
        seen = 0 if state is None else getattr(state, counter)
        if seen >= length:
            seeds.append(Seed(term, of, length, carried=True))
            continue
        counts = course.column(counter)
        first, last = (np.flatnonzero(counts == n)[:1].tolist() for n in (1, length))
        seeds.append(
            Seed(
                term,
                of,
                length,
                first=used[first[0]].open_time if first and not seen else None,
                last=used[last[0]].open_time if last else None,
                value=float(course.column(term)[last[0]]) if last else None,
            )
        )
    return seeds


def _missing(at: State, used: Sequence[Candle]) -> list[int]:
    step = used[-1].series.timeframe.ms
    oldest = max(used[0].open_time, at.open_time - GAP_SLOTS * step)
    there = {candle.open_time for candle in used}
    missing = [slot for slot in range(oldest, at.open_time, step) if slot not in there]
    # Before the first of them only the newest missing slot is remembered.
    if at.gap_time and at.open_time - GAP_SLOTS * step <= at.gap_time < oldest:
        missing.insert(0, at.gap_time)
    return missing


def _uncertain(
    reading: Reading, start: Start, used: Sequence[Candle], missing: Sequence[int]
) -> list[str]:
    said = []
    if reading.withheld is not None:
        said.append(f"withheld: {reading.withheld}")
    if start.lost is not None:
        said.append(
            f"the state that was kept is of no use ({start.lost}): "
            "the oldest stored candle is the anchor"
        )
    if missing:
        said.append(
            f"{_counted(len(missing), 'slot')} missing within the last {GAP_SLOTS}: "
            f"{_times(missing)}"
        )
    if not reading.warm:
        said.append(f"not warm: {reading.observed} of {WARM} observed candles")
    for evidence, why in (
        (Evidence.ASSUMED, "assumed empty, REST has not spoken yet"),
        (Evidence.STREAM, "not confirmed by REST"),
    ):
        weak = [candle.open_time for candle in used if candle.evidence is evidence]
        if weak:
            said.append(f"{_counted(len(weak), 'candle')} {why}: {_times(weak)}")
    return said


def _counted(n: int, word: str) -> str:
    return f"{n} {word} is" if n == 1 else f"{n} {word}s are"


def _times(times: Sequence[int], most: int = 3) -> str:
    """The newest of them, newest first."""
    return ", ".join(map(iso, times[: -most - 1 : -1])) + (", …" if len(times) > most else "")
