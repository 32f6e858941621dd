"""The exchanges that can be played, by name."""

from __future__ import annotations

from collections.abc import Mapping

from livermore.errors import ConfigurationError
from livermore.simulator.binance import BINANCE, BINANCE_US
from livermore.simulator.coinbase import COINBASE
from livermore.simulator.exchange import Exchange

PLAYED: Mapping[str, Exchange] = {one.name: one for one in (COINBASE, BINANCE, BINANCE_US)}


def played(name: str) -> Exchange:
    """The exchange of this name; raises ConfigurationError when it cannot be played."""
    if name not in PLAYED:
        raise ConfigurationError(f"simulator: cannot play {name!r}, only {', '.join(PLAYED)}")
    return PLAYED[name]
