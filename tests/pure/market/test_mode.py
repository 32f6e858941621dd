"""The modes a feed has, and the one it does not have."""

from __future__ import annotations

import pytest

from livermore.errors import CommandRefused
from livermore.market.mode import Mode, parse_mode


def test_modes_are_called_as_they_are_written() -> None:
    assert parse_mode("scalper-macdv") is Mode.SCALPER_MACDV
    assert parse_mode("position-monitor") is Mode.POSITION_MONITOR


def test_order_books_are_refused_as_not_available_not_as_unknown() -> None:
    with pytest.raises(CommandRefused, match="not available: choose scalper-macdv, position-mon"):
        parse_mode("scalper-orderbook")
    with pytest.raises(CommandRefused, match="unknown mode 'scalping': choose"):
        parse_mode("scalping")
