"""How often a market trades at all: what an indicator over it is worth."""

from __future__ import annotations

import enum

import numpy as np

from livermore.signals.state import Ints


class Liquidity(enum.StrEnum):
    """A tier, by the share of empty candles: under 20 % is high, under 50 % medium."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


TIERS = tuple(Liquidity)
"""What the codes of :func:`tiers` index."""


def tiers(empty: Ints, count: Ints) -> Ints:
    """Codes into :data:`TIERS` of series with ``empty`` empty ones among ``count`` candles."""
    return np.where(5 * empty < count, 0, np.where(2 * empty < count, 1, 2)).astype(np.int64)
