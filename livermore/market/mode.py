"""What a feed is there for, which decides what it follows."""

from __future__ import annotations

import enum

from livermore.errors import CommandRefused


class Mode(enum.Enum):
    """How a feed works."""

    SCALPER_MACDV = "scalper-macdv"
    """Tier 1, positions, and what was added by hand."""
    POSITION_MONITOR = "position-monitor"
    """Symbols that a user has a position in, and no other."""


NOT_AVAILABLE = frozenset({"scalper-orderbook"})
"""Modes that are known by name and not built."""


def parse_mode(text: str) -> Mode:
    """The mode called ``text``; raises :class:`CommandRefused` for one there is not."""
    known = ", ".join(mode.value for mode in Mode)
    if text in NOT_AVAILABLE:
        raise CommandRefused(f"mode {text} is not available: choose {known}")
    try:
        return Mode(text)
    except ValueError:
        raise CommandRefused(f"unknown mode {text[:40]!r}: choose {known}") from None
