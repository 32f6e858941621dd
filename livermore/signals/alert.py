"""What an alert says, as it is stored, published and sent.

An entry of the outbox is one of four things: an alert, its withdrawal, a blindness, its end. All
are JSON with a ``type``; numbers that do not exist are null, never 0.
"""

from __future__ import annotations

import msgspec

from livermore.errors import MalformedMessage
from livermore.market.timeframe import Timeframe
from livermore.signals.stage import Stage
from livermore.signals.state import Natural

LATE = 120_000
"""Milliseconds after its candle's end from which on an alert is late."""


class Beside(msgspec.Struct, frozen=True):
    """The newest reading of the same symbol in one timeframe, where the alert's is one of them."""

    open_time: Natural
    macdv: float | None
    signal: float | None
    histogram: float | None
    stage: Stage | None
    withheld: str | None = None


class Alert(msgspec.Struct, frozen=True, tag_field="type", tag="alert"):
    """A rule that was met by a closed candle. Times are epoch ms of the exchange's clock."""

    id: str
    """``{rule}|{exchange}|{symbol}|{timeframe}|{open_time}``."""
    rule: str
    """Name of the rule, as configured."""
    kind: str
    """Kind of the rule: level, reversal, stage, move."""
    what: str
    """For people, without symbol and timeframe: ``crossed above 150``."""
    direction: str
    """``up`` or ``down``."""
    source_exchange_id: str
    symbol: str
    timeframe: Timeframe
    open_time: Natural
    close_time: Natural
    """First ms after the candle."""
    close: float
    """Of the candle that triggered it."""
    last_price: float
    """The newest price that is known: of the last ticker, else the close."""
    last_price_time: Natural
    macdv: float
    signal: float | None
    histogram: float | None
    stage: Stage | None
    bias: str | None
    readings: dict[str, Beside]
    """Timeframe -> its newest reading, the alert's own included."""
    revision: Natural
    """Of the candle that triggered it."""
    triggered: Natural
    """When the rule was met."""
    latency: int
    """From the end of the candle until then, ms."""
    strength: float = 0.0
    """For sorting: how far the value lies beyond what the rule asks for."""
    level: float | None = None
    late: bool = False
    """Found more than two minutes after the end of its candle, or by a correction."""
    holds: bool | None = None
    """Of a late one: whether the newest reading still says so; null when that is not known."""
    corrected: bool = False
    """Whether a correction made it."""
    reissue: Natural = 0
    """How often an alert of this id was withdrawn before."""
    bias_timeframes: Natural = 0
    """How many timeframes had a current stage for the bias."""


class Withdrawal(msgspec.Struct, frozen=True, tag_field="type", tag="withdrawal"):
    """A correction unmade an alert."""

    alert: Alert
    entry: str
    """Of the alert in the stream."""
    why: str
    triggered: Natural
    source_exchange_id: str = ""
    """Of the alert: who listens to several exchanges finds it in every entry."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "source_exchange_id", self.alert.source_exchange_id)


class Blindness(msgspec.Struct, frozen=True, tag_field="type", tag="blind"):
    """Closed candles that should be here and are not, or an exchange that is halted."""

    id: str
    """``blind|{exchange}|{since}|{number}``."""
    source_exchange_id: str
    series: Natural
    """How many series have no newer candle."""
    of: Natural
    """How many are followed."""
    named: list[str]
    """The first of them, ``BTC-USD 5m``."""
    since: Natural
    """End of the newest candle of the one that is silent for longest."""
    why: str
    """In one line: state and note of the feed."""
    triggered: Natural


class Recovery(msgspec.Struct, frozen=True, tag_field="type", tag="recovery"):
    """The end of a blindness, or of a part of it."""

    id: str
    source_exchange_id: str
    recovered: Natural
    still: Natural
    """How many are blind yet."""
    since: Natural
    lasted: Natural
    """Milliseconds."""
    triggered: Natural


Entry = Alert | Withdrawal | Blindness | Recovery

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """``entry`` as JSON."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """What :func:`encode_entry` wrote; raises :class:`MalformedMessage`."""
    try:
        found: Entry = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not an alert: {error}", data) from error
    return found
