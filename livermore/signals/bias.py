"""Where a symbol leans over all its timeframes.

Each timeframe speaks with its weight for the side its stage is on; ranging speaks for none. A side
that outweighs the other by half is the bias.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livermore.market.timeframe import Timeframe
from livermore.signals.stage import STAGES, Stage

WEIGHTS = {
    Timeframe.M5: 2,
    Timeframe.M15: 3,
    Timeframe.H1: 4,
    Timeframe.H4: 5,
    Timeframe.D1: 6,
}
BULLISH = frozenset({Stage.OVERSOLD, Stage.REBOUNDING, Stage.RALLYING})
"""A falling market that is stretched counts as bullish: it is expected to turn."""
BEARISH = frozenset({Stage.OVERBOUGHT, Stage.RETRACING, Stage.REVERSING})
RATIO = 1.5


class Bias(enum.StrEnum):
    """A leaning."""

    BULLISH = "bullish"
    BEARISH = "bearish"
    NEUTRAL = "neutral"


BIASES = tuple(Bias)
"""What the codes of :func:`biases` index."""

_weights = np.array(list(WEIGHTS.values()))
# The last entry is read by code -1: no stage.
_bull = np.array([*(stage in BULLISH for stage in STAGES), False])
_bear = np.array([*(stage in BEARISH for stage in STAGES), False])


def biases(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes into :data:`BIASES`, -1 where no timeframe has a stage, and how many have one.

    ``codes`` index :data:`STAGES`, -1 for no stage; shape (k, 5), shortest timeframe first.
    """
    bull: NDArray[Any] = _bull[codes] @ _weights
    bear: NDArray[Any] = _bear[codes] @ _weights
    known = np.count_nonzero(codes >= 0, axis=1)
    leaning = np.where((bear > 0) & (bear >= RATIO * bull), 1, 2)
    leaning = np.where((bull > 0) & (bull >= RATIO * bear), 0, leaning)
    return np.where(known > 0, leaning, -1).astype(np.int64), known
