"""The outbox of an exchange in Redis: what alert rules remember, what they found, who was told.

Calls are built here and run by :mod:`livermore.adapters.redis`. All keys of an exchange share a
slot: the name of the stream is the hash tag of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from livermore.adapters.redis import Call, script
from livermore.errors import MalformedMessage
from livermore.market.candle import Series
from livermore.signals.alert import (
    Alert,
    Entry,
    Recovery,
    Withdrawal,
    decode_entry,
    encode_entry,
)

KEEP = 10_000
"""Entries per exchange; the oldest go."""
PAGE = 500
"""Entries read at once."""
BEGINNING = "0-0"
"""Before every stream id."""
NO_SYMBOL = "exchange"
"""In the place of a symbol, for what is about the whole exchange; a symbol has a dash."""


def stream_key(exchange: str) -> str:
    """The entries, oldest first."""
    return f"alerts:{exchange}"


def rules_key(exchange: str) -> str:
    """What rules remember of each series, and the epoch of who writes it."""
    return f"rules:{{alerts:{exchange}}}"


def claims_key(exchange: str) -> str:
    """Claim -> stream id."""
    return f"claims:{{alerts:{exchange}}}"


def marks_key(exchange: str) -> str:
    """How far each channel is."""
    return f"outbox:{{alerts:{exchange}}}"


def history_key(exchange: str) -> str:
    """How far the database is with it: ``cursor``, how many were ``lost``, and ``told`` of them."""
    return f"history:{{alerts:{exchange}}}"


def types(exchange: str) -> dict[str, str]:
    """What type Redis should give these keys, where they exist."""
    hashes = _keys(exchange)[1:]
    return {stream_key(exchange): "stream", **dict.fromkeys(hashes, "hash")}


def all_channel(exchange: str) -> str:
    """Where every entry is published."""
    return f"channel:alerts:{exchange}"


def symbol_channel(exchange: str, symbol: str) -> str:
    """Where the alerts of a symbol and their withdrawals are published.

    What is about no symbol is published under :data:`NO_SYMBOL`.
    """
    return f"channel:exchange:{exchange}:alerts:{symbol or NO_SYMBOL}"


def memory_field(series: Series) -> str:
    """Where :func:`rules_key` holds what rules remember of ``series``."""
    return f"{series.symbol}:{series.timeframe.value}"


def claim_of(entry: Entry) -> str:
    """What makes an entry the same as one that is in the outbox already."""
    if isinstance(entry, Alert):
        return f"{entry.id}#{entry.reissue}" if entry.reissue else entry.id
    if isinstance(entry, Withdrawal):
        return f"withdrawn|{claim_of(entry.alert)}"
    if isinstance(entry, Recovery) and not entry.id.startswith("recovery|"):
        return f"recovery|{entry.id}"
    return entry.id


def symbol_of(entry: Entry) -> str:
    """The symbol it is about; empty where it is about the exchange."""
    if isinstance(entry, Withdrawal):
        return entry.alert.symbol
    return entry.symbol if isinstance(entry, Alert) else ""


# -- writing ----------------------------------------------------------------------------------


@attrs.frozen
class Posting:
    """An entry on its way into the outbox. No ``channels``: all of them."""

    claim: str
    entry: Entry
    channels: tuple[str, ...] = ()


def posting(entry: Entry, channels: Iterable[str] | None = None) -> Posting:
    """``entry`` under its claim."""
    return Posting(claim_of(entry), entry, tuple(channels or ()))


def post(
    exchange: str,
    epoch: int,
    memories: Mapping[str, bytes],
    entries: Sequence[Posting],
    *,
    keep: int = KEEP,
) -> Call:
    """Keep ``memories`` (:func:`memory_field` -> text) and add ``entries``, together or not at all.

    A claim that is known adds nothing: the call may be repeated. The reply is for :func:`posted`.
    """
    arguments: list[str | bytes | int] = [epoch, keep, all_channel(exchange), len(memories)]
    for field, text in memories.items():
        arguments += [field, text]
    for one in entries:
        arguments += [
            one.claim,
            encode_entry(one.entry),
            ",".join(one.channels),
            symbol_channel(exchange, symbol_of(one.entry)),
        ]
    return script("alerts", _keys(exchange), *arguments)


def _keys(exchange: str) -> tuple[str, ...]:
    return (
        *(stream_key(exchange), rules_key(exchange), claims_key(exchange), marks_key(exchange)),
        history_key(exchange),
    )


def posted(reply: Sequence[bytes]) -> list[str]:
    """The stream ids of the entries, in order."""
    return [stream_id.decode() for stream_id in reply]


def read_memories(exchange: str, fields: Sequence[str]) -> Call:
    """Ask what rules remember; the reply holds one text per field, or None."""
    return ("HMGET", rules_key(exchange), *fields)


# -- reading ----------------------------------------------------------------------------------


@attrs.frozen
class Row:
    """An entry as it lies in the outbox. No ``channels``: all of them."""

    id: str
    claim: str
    entry: Entry
    channels: tuple[str, ...] = ()

    def goes_to(self, channel: str) -> bool:
        """Whether it is for ``channel``."""
        return not self.channels or channel in self.channels


def after(exchange: str, stream_id: str, count: int = PAGE) -> Call:
    """Ask for the entries behind ``stream_id``, oldest first."""
    return ("XRANGE", stream_key(exchange), f"({stream_id}", "+", "COUNT", count)


def before(exchange: str, stream_id: str | None, count: int = PAGE) -> Call:
    """Ask for the entries before ``stream_id``, None for the newest; newest first."""
    end = "+" if stream_id is None else f"({stream_id}"
    return ("XREVRANGE", stream_key(exchange), end, "-", "COUNT", count)


def only(exchange: str, stream_id: str) -> Call:
    """Ask for one entry."""
    return ("XRANGE", stream_key(exchange), stream_id, stream_id)


def ids(reply: Sequence[Any]) -> list[str]:
    """The stream ids in a reply to :func:`after` or :func:`before`."""
    return [stream_id.decode() for stream_id, _ in reply]


def rows(reply: Sequence[Any]) -> list[Row | MalformedMessage]:
    """A reply to :func:`after` or :func:`before`, what is no entry of ours as an error."""
    return [_row(stream_id.decode(), fields) for stream_id, fields in reply]


def _row(stream_id: str, fields: Mapping[bytes, bytes]) -> Row | MalformedMessage:
    try:
        names = fields.get(b"channels", b"").decode()
        claim = fields.get(b"claim", b"").decode()
        entry = decode_entry(fields.get(b"entry", b""))
    except (MalformedMessage, UnicodeDecodeError) as error:
        return MalformedMessage(f"entry {stream_id} of the outbox is none of ours ({error})")
    return Row(stream_id, claim, entry, tuple(filter(None, names.split(","))))


def order(stream_id: str) -> tuple[int, int]:
    """For comparing stream ids."""
    time, _, number = stream_id.partition("-")
    return int(time), int(number or 0)


# -- delivery ---------------------------------------------------------------------------------

SENDING = "sending"
WITHDRAWN = "withdrawn"
"""Final: an alert that was withdrawn before it was sent, and its withdrawal."""


def sent(message_id: str, *, combined: bool = False, at: int | None = None) -> str:
    """What was sent; ``combined``: in one message with others, at ``at`` (exchange ms)."""
    if not combined:
        return " ".join(filter(None, ["sent", message_id]))
    words = ["sent", message_id or "-", "combined", "" if at is None else str(at)]
    return " ".join(filter(None, words))


def dropped(why: str) -> str:
    """The mark of what is not sent any more."""
    return f"dropped {' '.join(why.split())[:200]}"


@attrs.frozen
class Delivered:
    """A mark, read. ``state`` is sending, sent, dropped or withdrawn."""

    state: str
    message_id: str = ""
    combined: bool = False
    why: str = ""
    at: int | None = None
    """Exchange ms when a combined message was sent, where that is known."""

    @property
    def final(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.state != SENDING


def read_mark(mark: str) -> Delivered:
    """A mark as it is kept."""
    state, _, rest = mark.partition(" ")
    if state == "dropped":
        return Delivered(state, why=rest)
    message_id, _, more = rest.partition(" ")
    how, _, at = more.partition(" ")
    return Delivered(
        state,
        "" if message_id == "-" else message_id,
        how == "combined",
        at=int(at) if at.isdecimal() else None,
    )


@attrs.frozen
class Progress:
    """How far one channel is: all up to ``cursor`` is final, ``marks`` are of what lies behind."""

    cursor: str
    dropped: int
    told: int
    """Of the dropped ones; those a later message spoke of."""
    marks: Mapping[str, str]


def _delivery_keys(exchange: str) -> tuple[str, ...]:
    return (stream_key(exchange), rules_key(exchange), marks_key(exchange))


def begin(exchange: str, epoch: int, channels: Sequence[str], start: str = "") -> Call:
    """Ask how far ``channels`` are, and refuse every older epoch from here on.

    A channel that was never there starts behind ``start``, or with what is new. What is known of
    channels that are not named is forgotten. The reply is for :func:`begun`.
    """
    return script("delivery", _delivery_keys(exchange), "begin", epoch, start, *channels)


def begun(channels: Sequence[str], reply: Sequence[Any]) -> dict[str, Progress]:
    """The reply to :func:`begin`, by channel."""
    found = {}
    for name, (cursor, lost, told, pairs) in zip(channels, reply, strict=True):
        texts = [text.decode() for text in pairs]
        marks = dict(zip(texts[::2], texts[1::2], strict=True))
        found[name] = Progress(cursor.decode(), int(lost), int(told), marks)
    return found


def mark(
    exchange: str,
    epoch: int,
    channel: str,
    cursor: str,
    marks: Mapping[str, str],
    *,
    told: int | None = None,
) -> Call:
    """Write marks (stream id -> mark) and the cursor of a channel.

    The reply is how many entries were ever dropped for it.
    """
    pairs = [text for pair in marks.items() for text in pair]
    said = "" if told is None else told
    keys = _delivery_keys(exchange)
    return script("delivery", keys, "mark", epoch, channel, cursor, said, *pairs)


def served(exchange: str) -> Call:
    """Ask which channels :func:`begin` named last, with commas."""
    return ("HGET", marks_key(exchange), "channels")


def mark_field(channel: str, stream_id: str) -> str:
    """Where :func:`marks_key` holds a mark."""
    return f"{channel}|{stream_id}"


@attrs.frozen
class Marks:
    """What :func:`marks_key` holds, for people."""

    fields: Mapping[str, str]

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of the daemon that ran last."""
        return tuple(filter(None, self.fields.get("channels", "").split(",")))

    def dropped(self, channel: str) -> int:
        """How many entries were ever dropped for ``channel``."""
        text = self.fields.get(f"dropped|{channel}", "0")
        return int(text) if text.isdigit() else 0

    def having(self, channel: str, mark: str) -> list[str]:
        """The stream ids that bear ``mark`` on ``channel``."""
        return [
            stream_id
            for field, text in self.fields.items()
            for name, _, stream_id in (field.partition("|"),)
            if name == channel and text == mark
        ]

    def of(self, row: Row) -> dict[str, Delivered | None]:
        """By channel what became of ``row``; None where it waits.

        A channel that is newer than the entry, or that it is not for, is not among them.
        """
        found: dict[str, Delivered | None] = {}
        for name in self.channels:
            if not row.goes_to(name):
                continue
            text = self.fields.get(mark_field(name, row.id))
            if text is not None:
                found[name] = read_mark(text)
            elif order(row.id) > order(self.fields.get(f"cursor|{name}", BEGINNING)):
                found[name] = None
        return found


def all_marks(exchange: str) -> Call:
    """Ask for the marks of every channel; the reply is for :func:`read_marks`."""
    return ("HGETALL", marks_key(exchange))


def read_marks(reply: Any) -> Marks:
    """The reply to :func:`all_marks`."""
    pairs = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return Marks(
        {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in pairs.items()}
    )
