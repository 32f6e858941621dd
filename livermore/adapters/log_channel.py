"""The log as a channel: one line per alert, with its figures."""

from __future__ import annotations

import logging

import trio

from livermore.errors import ChannelRefused
from livermore.market.timeframe import iso
from livermore.signals.alert import Alert, Entry, Withdrawal
from livermore.signals.message import Message, MessageKind, When, headline, message_of

_LOG = logging.getLogger("livermore.alerts")


class LogChannel:
    """Writes to the logger ``livermore.alerts``: blindness as a warning, the rest for information.

    Whatever the log level is: an alert that is written nowhere was not sent.
    """

    edits = False

    def __init__(self, name: str) -> None:
        self.name = name
        _LOG.setLevel(logging.INFO)

    async def send(self, message: Message) -> str:
        """Write ``message``."""
        await trio.lowlevel.checkpoint()
        if message.dropped_before:
            fields = {"channel": self.name, "count": message.dropped_before}
            _LOG.warning("older messages were dropped", extra={"fields": fields})
        if not message.entries:
            _LOG.info("%s", headline(message), extra={"fields": {"id": message.id}})
        for entry in message.entries:
            one = message_of(
                [entry], possibly_repeated=message.possibly_repeated, when=message.when
            )
            level = logging.WARNING if one.kind is MessageKind.BLIND else logging.INFO
            _LOG.log(level, "%s", headline(one), extra={"fields": _fields(entry, message.when)})
        return ""

    async def edit(self, message_id: str, message: Message) -> None:
        """Refused: what is in a log stays."""
        raise ChannelRefused(f"{self.name}: a log cannot be edited")

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Refused: a log has no pictures."""
        raise ChannelRefused(f"{self.name}: a log takes no picture")


def _fields(entry: Entry, when: When) -> dict[str, object]:
    if isinstance(entry, Withdrawal):
        return {"why": entry.why, "id": entry.alert.id}
    if isinstance(entry, Alert):
        known = {
            "macdv": round(entry.macdv, 2),
            "stage": entry.stage,
            "bias": entry.bias,
            "price": entry.last_price,
            "candle": iso(entry.open_time),
            "latency_ms": entry.latency,
            "holds": when.holds(entry) if entry.late else None,
            "id": entry.id,
        }
        return {key: value for key, value in known.items() if value is not None}
    fields: dict[str, object] = {"since": iso(entry.since), "id": entry.id}
    why = getattr(entry, "why", None)
    return fields if why is None else {"why": why, **fields}
