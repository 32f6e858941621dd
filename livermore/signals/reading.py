"""A reading: MACD-V at a closed candle with its terms and its stage, or why there is none.

A number that would mislead is withheld, not marked: a consumer that looks only at ``macdv`` sees
null. ``withheld`` gives a reason exactly when MACD-V, signal, histogram and stage are null.

As JSON a reading also carries the :class:`State` of its series at that candle: the last reading
that was stored is all a restart needs. The text begins ``{"open_time":…,"revision":…,"epoch":…,``
in that order, so that whoever stores it can compare these three without parsing the rest.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from livermore.errors import MalformedMessage
from livermore.market.timeframe import Timeframe
from livermore.signals.bias import BIASES, Bias
from livermore.signals.liquidity import TIERS, Liquidity, tiers
from livermore.signals.stage import STAGES, Stage, stages
from livermore.signals.state import (
    SLOW,
    SMOOTH,
    Floats,
    Ints,
    Natural,
    State,
    States,
    check_state,
    numbers,
)

FEWEST_CANDLES = 60
"""Under this many candles there is no reading (at 60 the seed still costs 6 to 8 points at p95)."""

FEWEST_OBSERVED = SLOW
"""Under this many traded candles there is no ATR."""

GAP_SLOTS = 150
"""A slot missing further back than this costs at most 0.016 points."""

WARM = 200
"""With this many traded candles the seed costs 0.02 points at p95."""


class Side(enum.StrEnum):
    """Of its signal; equal counts as above."""

    ABOVE = "above"
    BELOW = "below"


class Crossover(msgspec.Struct, frozen=True):
    """MACD-V is on ``side`` of its signal for ``candles`` closes; at 1 it has just crossed."""

    side: Side
    candles: Natural


class Reading(msgspec.Struct, frozen=True):
    """MACD-V at one closed candle, times in ms; the order of the fields is that of the JSON."""

    open_time: Natural
    revision: Natural
    """Of the candle it was computed from."""
    epoch: Natural
    exchange: str
    symbol: str
    timeframe: Timeframe
    macdv: float | None
    signal: float | None
    histogram: float | None
    stage: Stage | None
    ema12: float | None
    ema26: float | None
    atr26: float | None
    close: float | None
    observed: Natural
    """Traded candles since the anchor."""
    empty: Natural
    """Empty candles since the anchor."""
    count: Natural
    """Both together."""
    warm: bool
    withheld: str | None
    """Why there are no numbers and no stage; null where there are."""
    halted: bool = False
    """Whether the exchange was halted when this was computed: nothing of it traded."""
    liquidity: Liquidity | None = None
    """Tier by the share of empty candles since the anchor; null under 60 candles."""
    crossover: Crossover | None = None
    """On which side of the signal MACD-V is, and for how long; null where it is withheld."""
    bias: Bias | None = None
    """Of the symbol over all timeframes when this was computed; null where none has a stage."""
    bias_timeframes: Natural = 0
    """How many timeframes had a current stage for it."""


class _Carrier(msgspec.Struct, frozen=True):
    state: State


# The code of "none" is -1.
_STAGES = (*STAGES, None)
_BIASES = (*BIASES, None)
_TIERS = (*TIERS, None)

_encoder = msgspec.json.Encoder()
_readings = msgspec.json.Decoder(Reading)
_carriers = msgspec.json.Decoder(_Carrier)


def build_readings(
    states: States,
    rows: Ints,
    *,
    exchange: str,
    epoch: int,
    symbols: Sequence[str],
    timeframes: Sequence[Timeframe],
    revisions: Sequence[int],
    halted: bool = False,
    bias: Callable[[Ints], tuple[Ints, Ints]] | None = None,
) -> list[tuple[Reading, State]]:
    """The readings of ``rows`` at their newest candles, with their states, in their order.

    ``symbols``, ``timeframes`` and ``revisions`` (of those candles) run parallel to ``rows``.
    ``bias`` is given their stages, as codes, and returns what
    :func:`~livermore.signals.bias.biases` makes of them; without it no bias is known.
    Raises ``ValueError`` for a row that has seen no candle.
    """
    at = states.take(rows)
    count, observed = at.column("count"), at.column("observed")
    lengths = np.array([timeframe.ms for timeframe in timeframes], np.int64)
    macdv, signal, missing = shown(at, lengths)
    states_here = at.values()
    reasons: list[str | None] = [None] * len(rows)
    for k in np.flatnonzero(np.isnan(macdv)).tolist():
        reasons[k] = _reason(states_here[k], bool(missing[k]))
    codes = stages(macdv, signal, at.column("calm"))
    nobody = np.full(len(rows), -1)
    leaning, known = bias(codes) if bias is not None else (nobody, nobody + 1)

    built = []
    for (
        state, macdv_, signal_, histogram, code, warm, tier, leans, of, revision, symbol, timeframe,
        reason,
    ) in zip(
        states_here,
        numbers(macdv),
        numbers(signal),
        numbers(macdv - signal),
        codes.tolist(),
        (observed >= WARM).tolist(),
        np.where(count < FEWEST_CANDLES, -1, tiers(count - observed, count)).tolist(),
        leaning.tolist(),
        known.tolist(),
        revisions,
        symbols,
        timeframes,
        reasons,
        strict=True,
    ):  # fmt: skip
        reading = Reading(
            state.open_time,
            revision,
            epoch,
            exchange,
            symbol,
            timeframe,
            macdv_,
            signal_,
            histogram,
            _STAGES[code],
            state.ema12,
            state.ema26,
            state.atr26,
            state.close,
            state.observed,
            state.count - state.observed,
            state.count,
            warm,
            reason,
            halted,
            _TIERS[tier],
            None if reason else _crossover(state.cross),
            _BIASES[leans],
            of,
        )
        built.append((reading, state))
    return built


def shown(at: States, lengths: Ints) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """MACD-V and signal of every row as a reading shows them, NaN where it withholds them.

    And whether a slot is missing within the last 150. ``lengths`` are of the timeframes, in ms.
    Raises ``ValueError`` for a row that has seen no candle.
    """
    open_time, gap_time, count, observed = map(
        at.column, ("open_time", "gap_time", "count", "observed")
    )
    macdv, signal = at.column("macdv"), at.column("signal")
    if not count.all():
        raise ValueError("no reading of a series that has seen no candle")
    missing = (gap_time > 0) & (open_time - gap_time <= GAP_SLOTS * lengths)
    withheld = missing | (count < FEWEST_CANDLES) | (observed < FEWEST_OBSERVED)
    withheld |= np.isnan(macdv) | np.isnan(signal)
    return np.where(withheld, math.nan, macdv), np.where(withheld, math.nan, signal), missing


def _crossover(cross: int) -> Crossover | None:
    if cross == 0:
        return None
    return Crossover(Side.ABOVE if cross > 0 else Side.BELOW, abs(cross))


def encode_announced(reading: Reading) -> bytes:
    """``reading`` as JSON, as it is announced."""
    return _encoder.encode(reading)


def encode_reading(reading: Reading, state: State, version: int | None = None) -> bytes:
    """``reading`` as JSON, with the state of its series at that candle under ``state``.

    And under ``version``, where it is given, that of the series in the store.
    """
    texts = (_encoder.encode(reading)[:-1], _encoder.encode(state))
    if version is None:
        return b'%b,"state":%b}' % texts
    return b'%b,"state":%b,"version":%d}' % (*texts, version)


def decode_reading(data: bytes) -> tuple[Reading, State]:
    """What :func:`encode_reading` wrote.

    Raises :class:`MalformedMessage` on damage: a field that is missing or of the wrong type, a
    state that no candles lead to, numbers on which the reading and its state do not agree.
    """
    try:
        reading, state = _readings.decode(data), _carriers.decode(data).state
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not a reading: {error}", data) from error
    check_state(state, data)
    told = (reading.macdv, reading.signal, reading.histogram)
    if reading.withheld is None and state.macdv is not None and state.signal is not None:
        whole = told == (state.macdv, state.signal, state.macdv - state.signal)
        whole = whole and reading.stage is not None
    else:
        whole = told == (None, None, None) and reading.stage is None
        whole = whole and reading.withheld is not None
    agreed = (
        whole
        and reading.open_time == state.open_time
        and reading.close == state.close
        and (reading.ema12, reading.ema26, reading.atr26) == (state.ema12, state.ema26, state.atr26)
        and (reading.observed, reading.count) == (state.observed, state.count)
        and reading.empty == state.count - state.observed
    )
    if not agreed:
        raise MalformedMessage("a reading and its state do not agree", data)
    return reading, state


def _reason(state: State, missing: bool) -> str:
    """Why the reading at ``state`` is withheld: the first of the reasons, most basic first."""
    if state.count < FEWEST_CANDLES:
        return f"fewer than {FEWEST_CANDLES} candles: {state.count}"
    if state.observed < FEWEST_OBSERVED:
        return f"fewer than {FEWEST_OBSERVED} observed candles: {state.observed}"
    if missing:
        slot = np.datetime64(state.gap_time // 1000, "s")
        return f"missing candle within the last {GAP_SLOTS}: {slot}Z"
    if state.macdv is None:
        return "no volatility"
    return f"fewer than {SMOOTH} MACD-V values: {state.values}"
