"""Where the recursion over what is stored begins.

A series of fewer candles than the store keeps begins with its oldest one. One that lost its oldest
candles keeps the states of the recursion at the replay edge, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from livermore.errors import MalformedMessage
from livermore.market.candle import Candle
from livermore.signals.state import State, decode_state


@frozen
class Start:
    """From where a series is replayed."""

    state: State | None
    """Before the first of ``candles``; None where that is the anchor itself."""
    candles: Sequence[Candle]
    """Those that enter the recursion, oldest first."""
    lost: str | None = None
    """Why the states that were kept lead nowhere; the oldest candle is the anchor then."""


def start_of(
    candles: Sequence[Candle], edge_time: int | None, after: bytes, before: bytes
) -> Start:
    """Where to begin with ``candles``, all that are stored of one series, oldest first.

    ``after`` and ``before`` are the states around the candle at ``edge_time`` (ms), if there is an
    edge.
    """
    if edge_time is None or not candles:
        return Start(None, candles)
    try:
        past, base = edge_states(edge_time, after, before)
    except MalformedMessage as error:
        return Start(None, candles, error.reason)
    if candles[0].open_time <= edge_time:
        # What is older than the edge is in the state before it.
        return Start(base, [c for c in candles if c.open_time >= edge_time])
    if candles[0].open_time == edge_time + candles[0].series.timeframe.ms:
        return Start(past, candles)
    return Start(None, candles, "what lay between the replay edge and the oldest candle is lost")


def edge_states(edge_time: int, after: bytes, before: bytes) -> tuple[State, State]:
    """State after and before the candle at the replay edge; raises :class:`MalformedMessage`."""
    past, base = decode_state(after), decode_state(before)
    if past.open_time != edge_time or base.count != past.count - 1:
        raise MalformedMessage("the replay edge of a series does not fit its states")
    return past, base
