"""What goes to clients, as far as faults and sockets have to know it."""

from __future__ import annotations

from typing import Protocol


class Frame(Protocol):
    """A frame for everyone who subscribed."""

    @property
    def channel(self) -> str:
        """``subscriptions`` are answers, which no fault touches; ``heartbeats`` carry no data."""

    @property
    def symbol(self) -> str | None:
        """None where the frame concerns no single product."""

    @property
    def time(self) -> int:
        """ns; when it is due."""

    def encode(self, sequence: int, skew: int) -> bytes:
        """The whole frame for one connection, of which it is number ``sequence``.

        ``skew``: ns by which the exchange's stamps are off.
        """
