"""What happens to a feed, said once: to the log, and to the lifecycle channel.

In a storm the same event is said a few times, and then once more with how many there were.
"""

from __future__ import annotations

import logging
from collections import deque

import attrs
import msgspec
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call

WAITING = 200
"""Lifecycle messages kept while Redis is away; the oldest go first (the log has them all)."""
MOST = 20
"""Times an event is said within ``WINDOW`` seconds; the rest of them is counted and summed up."""
WINDOW = 10.0


@attrs.define
class _Storm:
    """How often an event was said since ``begun`` (monotonic), and what was not said any more."""

    level: int
    begun: float
    said: int = 0
    more: int = 0
    candles: int = 0


@attrs.define
class Journal:
    """One exchange's events. ``event`` is a short sentence, ``fields`` its figures."""

    exchange: str
    _log: logging.Logger = attrs.field(init=False)
    _waiting: deque[bytes] = attrs.field(factory=lambda: deque(maxlen=WAITING), init=False)
    _storms: dict[str, _Storm] = attrs.field(factory=dict, init=False)

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
        moment = trio.current_time()
        storm = self._storms.get(event)
        if storm is not None and moment - storm.begun >= WINDOW:
            self._sum_up(event)
            storm = None
        if storm is None:
            storm = self._storms[event] = _Storm(level, moment)
        if storm.said >= MOST:
            storm.more += 1
            candles = fields.get("candles", 0)
            storm.candles += candles if isinstance(candles, int) else 0
            return
        storm.said += 1
        self._tell(level, event, fields)

    def sum_up(self) -> None:
        """Say what was not said yet."""
        for event in list(self._storms):
            self._sum_up(event)

    def _sum_up(self, event: str) -> None:
        storm = self._storms.pop(event)
        if storm.more:
            candles = {"candles": storm.candles} if storm.candles else {}
            within = round(trio.current_time() - storm.begun, 1)
            self._tell(
                storm.level, event, {"more": storm.more, **candles, "within": f"{within:g} s"}
            )

    def _tell(self, level: int, event: str, fields: dict[str, object]) -> None:
        self._log.log(level, event, extra={"fields": fields})
        message = {"exchange": self.exchange, "event": event, **fields}
        self._waiting.append(msgspec.json.encode(message, enc_hook=str))

    def take(self) -> list[bytes]:
        """What waits for the lifecycle channel; it is forgotten here."""
        moment = trio.current_time()
        for event in [e for e, storm in self._storms.items() if moment - storm.begun >= WINDOW]:
            self._sum_up(event)
        texts = list(self._waiting)
        self._waiting.clear()
        return texts

    def call(self, text: bytes, epoch: int) -> Call:
        """Publish one of them, unless a later holder than that of ``epoch`` has a status."""
        channel = store.lifecycle_channel(self.exchange)
        return store.publish(store.status_key(self.exchange), channel, text, epoch=epoch)
