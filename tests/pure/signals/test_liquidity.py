"""Tiers at their bounds."""

import numpy as np
import pytest

from livermore.signals.liquidity import TIERS, Liquidity, tiers


@pytest.mark.parametrize(
    ("empty", "count", "tier"),
    [
        (0, 60, Liquidity.HIGH),
        (199, 1000, Liquidity.HIGH),
        (200, 1000, Liquidity.MEDIUM),
        (499, 1000, Liquidity.MEDIUM),
        (500, 1000, Liquidity.LOW),
        (1000, 1000, Liquidity.LOW),
    ],
)
def test_a_share_on_the_bound_is_in_the_tier_below(empty: int, count: int, tier: Liquidity):
    [code] = tiers(np.array([empty]), np.array([count]))
    assert TIERS[code] is tier
