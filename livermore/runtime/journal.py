"""What happens to a feed, said once: to the log, and to the lifecycle channel."""

from __future__ import annotations

import logging
from collections import deque

import attrs
import msgspec

from livermore.adapters import store
from livermore.adapters.redis import Call, script

WAITING = 200
"""Lifecycle messages kept while Redis is away; the oldest go first (the log has them all)."""


@attrs.define
class Journal:
    """One exchange's events. ``event`` is a short sentence, ``fields`` its figures."""

    exchange: str
    _log: logging.Logger = attrs.field(init=False)
    _waiting: deque[bytes] = attrs.field(factory=lambda: deque(maxlen=WAITING), init=False)
    counts: dict[str, int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._log = logging.getLogger(f"livermore.{self.exchange}")

    def info(self, event: str, **fields: object) -> None:
        """Something to know."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something that makes us blind or doubtful."""
        self._say(logging.WARNING, event, fields)

    def debug(self, event: str, **fields: object) -> None:
        """For the log alone."""
        self._log.debug(event, extra={"fields": fields})

    def _say(self, level: int, event: str, fields: dict[str, object]) -> None:
        self._log.log(level, event, extra={"fields": fields})
        message = {"exchange": self.exchange, "event": event, **fields}
        self._waiting.append(msgspec.json.encode(message, enc_hook=str))

    def calls(self) -> list[Call]:
        """What waits for the lifecycle channel; it is forgotten here."""
        channel = store.lifecycle_channel(self.exchange)
        key = store.status_key(self.exchange)
        calls = [script("publish", (key,), channel, text, "") for text in self._waiting]
        self._waiting.clear()
        return calls
