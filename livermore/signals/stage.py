"""Names for where MACD-V stands against its signal, and the rule that gives exactly one.

The rule is the published one with its holes closed: lower bounds are inclusive, and MACD-V equal to
its signal counts as above it, so every pair of numbers has a stage. (Exactly -150 has none in the
original, nor has 50 that equals its signal.)
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALM = 50.0
"""A close is calm while ``abs(macdv)`` is under this."""

CALM_CLOSES = 25
"""More calm closes in a row than this, the newest included, are a range."""


class Stage(enum.StrEnum):
    """Where a market stands."""

    OVERSOLD = "oversold"
    OVERBOUGHT = "overbought"
    RALLYING = "rallying"
    REBOUNDING = "rebounding"
    REVERSING = "reversing"
    RETRACING = "retracing"
    RANGING = "ranging"


STAGES = tuple(Stage)
"""What the codes of :func:`stages` index."""

_OVERSOLD, _OVERBOUGHT, _RALLYING, _REBOUNDING, _REVERSING, _RETRACING, _RANGING = range(
    len(STAGES)
)


def stage(macdv: float, signal: float, calm: int) -> Stage:
    """The stage of one reading; ``calm`` counts the calm closes in a row up to this one."""
    if macdv < -150:
        return Stage.OVERSOLD
    if macdv >= signal:
        if macdv >= 150:
            return Stage.OVERBOUGHT
        if macdv >= 50:
            return Stage.RALLYING
        return Stage.RANGING if calm > CALM_CLOSES else Stage.REBOUNDING
    if macdv < -50:
        return Stage.REVERSING
    return Stage.RANGING if calm > CALM_CLOSES else Stage.RETRACING


def stages(
    macdv: NDArray[np.float64], signal: NDArray[np.float64], calm: NDArray[np.int64]
) -> NDArray[np.int64]:
    """:func:`stage` over arrays of one shape: codes into :data:`STAGES`, -1 for no number."""
    ranging = calm > CALM_CLOSES
    above: NDArray[Any] = np.where(ranging, _RANGING, _REBOUNDING)
    above = np.where(macdv >= 150, _OVERBOUGHT, np.where(macdv >= 50, _RALLYING, above))
    below = np.where(macdv < -50, _REVERSING, np.where(ranging, _RANGING, _RETRACING))
    codes = np.where(macdv < -150, _OVERSOLD, np.where(macdv >= signal, above, below))
    return np.where(np.isnan(macdv) | np.isnan(signal), -1, codes).astype(np.int64)
