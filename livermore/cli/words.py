"""What a daemon says about itself, as far as commands read it.

Every field may be missing or null: a daemon of another version is understood as far as it goes.
Times are epoch ms, ages and lengths are ms.
"""

from __future__ import annotations

from typing import Any

import msgspec

from livermore.errors import MalformedMessage


class Lag(msgspec.Struct):
    """How long after a slot's end its close was stored."""

    p50: float | None = None
    p99: float | None = None
    count: int | None = None


class Progress(msgspec.Struct):
    """How far history is, in series."""

    done: int | None = None
    total: int | None = None


class Budget(msgspec.Struct):
    """REST requests."""

    per_second: float | None = None
    used_last_minute: float | None = None
    refusals: int | None = None


class ChannelWords(msgspec.Struct):
    """One channel of alerts, by entries."""

    sent: int | None = None
    dropped: int | None = None
    pending: int | None = None
    why: str | None = None


class ConnectionWords(msgspec.Struct):
    """One socket. ``since`` is a time, or, where it is small, an age in seconds."""

    name: str | None = None
    state: str | None = None
    since: float | None = None
    symbols: int | list[str] | None = None
    frames: int | None = None
    reconnects: int | None = None
    error: str | None = None


class Words(msgspec.Struct):
    """The whole status."""

    title: str | None = None
    state: str | None = None
    note: str | None = None
    since: float | None = None
    clock: float | None = None
    started: float | None = None
    pid: int | None = None
    host: str | None = None
    version: str | None = None
    symbols: list[str] | None = None
    aliases: dict[str, str] | None = None
    owners: dict[str, str] | None = None
    rejected: dict[str, str] | None = None
    notices: list[str] | None = None
    connections: list[ConnectionWords] | None = None
    newest_close: float | None = None
    newest_close_age: float | None = None
    close_lag: Lag | None = None
    history: Progress | None = None
    gaps: int | None = None
    budget: Budget | None = None
    pending: int | None = None
    alerts: dict[str, ChannelWords] | None = None
    counts: dict[str, float] | None = None

    @property
    def exchange_time(self) -> int | None:
        """The exchange's clock; None while the daemon does not know it."""
        return int(self.clock) if self.clock is not None and self.clock > 0 else None


def words_of(exchange: str, said: Any) -> Words:
    """The status as decoded from JSON; raises :class:`MalformedMessage`."""
    try:
        return msgspec.convert(said, Words)
    except msgspec.ValidationError as error:
        raise MalformedMessage(
            f"the status of {exchange} is not understood ({error}): "
            "its daemon is another version, or another program uses our keys"
        ) from None
