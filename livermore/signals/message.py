"""What people are told: entries of the outbox, put into words.

A message has a title, lines, and either a table of all timeframes (one alert) or a row per alert
(several). How it looks is the channel's business: :func:`headline` and :func:`body` take the marks
of its language as a :class:`Style`. Names and reasons come from outside; they are cut to one
printable line here, and escaped by the style.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import attrs

from livermore.market.timeframe import DAY, HOUR, LENGTHS, MINUTE, Timeframe
from livermore.signals.alert import LATE, Alert, Blindness, Entry, Recovery, Withdrawal


class MessageKind(enum.StrEnum):
    """What a message is about."""

    ALERT = "alert"
    COMBINED = "combined"
    LATE = "late"
    WITHDRAWN = "withdrawn"
    BLIND = "blind"
    RECOVERY = "recovery"
    SAMPLE = "sample"


class Colour(enum.StrEnum):
    """What its colour says."""

    UP = "up"
    DOWN = "down"
    MIXED = "mixed"
    BLIND = "blind"
    RECOVERY = "recovery"
    WITHDRAWN = "withdrawn"


@attrs.frozen
class Row:
    """One alert among several; ``struck`` where it was withdrawn."""

    text: str
    struck: bool = False


@attrs.frozen
class When:
    """When alerts are told: at the exchange's time ``at`` (ms), where that matters."""

    at: int | None = None
    unknown: bool = False
    """They waited, and for how long is not known."""

    def late(self, alert: Alert) -> bool:
        """Whether ``alert`` is late by then, if it was not already when it was found."""
        waited = self.at is not None and self.at - alert.close_time > LATE
        return alert.late or waited or self.unknown

    def holds(self, alert: Alert) -> bool | None:
        """Whether ``alert`` still holds; None where too long ago somebody looked, or nobody."""
        old = self.at is not None and self.at - alert.triggered > LATE
        return None if old or self.unknown else alert.holds


FOUND = When()
"""At the moment they were found."""


@attrs.frozen(kw_only=True)
class Message:
    """One message. ``entries`` are what it tells of, in the order of ``rows``."""

    id: str
    """Of its entries: the same however often it is sent."""
    kind: MessageKind
    title: str
    colour: Colour
    lines: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    table: tuple[str, ...] = ()
    """Columns aligned by spaces."""
    entries: tuple[Entry, ...] = ()
    possibly_repeated: bool = False
    """Whether it may have been sent before."""
    dropped_before: int = 0
    """How many older messages of its channel were dropped."""
    when: When = FOUND


def _same(text: str) -> str:
    return text


@attrs.frozen
class Style:
    """The marks of a language; the default is plain text."""

    escape: Callable[[str], str] = _same
    strike: Callable[[str], str] = _same
    block: Callable[[str], str] = _same
    """Around text whose columns are aligned."""
    length: Callable[[str], int] = len


PLAIN = Style()
MOST = 3500
"""Characters of a plain body."""
LONGEST = 120
"""Characters of a name or a reason."""


# -- messages of entries ----------------------------------------------------------------------


def message_of(
    entries: Sequence[Entry],
    *,
    possibly_repeated: bool = False,
    dropped_before: int = 0,
    when: When = FOUND,
) -> Message:
    """The message that tells of ``entries``: one of any type, or several alerts.

    Alerts that are late by ``when`` say so. Among several, a :class:`Withdrawal` stands for its
    alert, struck out. Raises ``ValueError`` for
    none, and for a blindness or its end among others.
    """
    if len(entries) == 1:
        built = _single(entries[0], when)
    else:
        alerts = [entry for entry in entries if isinstance(entry, Alert | Withdrawal)]
        if not alerts or len(alerts) != len(entries):
            raise ValueError("several entries in one message are alerts, and at least one")
        built = _several(alerts, when)
    return attrs.evolve(
        built,
        possibly_repeated=possibly_repeated,
        dropped_before=max(0, dropped_before),
        when=when,
    )


def sample_message(now: int) -> Message:
    """What ``alerts test`` sends; ``now`` is epoch ms."""
    return Message(
        id=f"sample|{now}",
        kind=MessageKind.SAMPLE,
        title="this channel works",
        colour=Colour.RECOVERY,
        lines=(
            "No alert was met: somebody asked for a sample, and its numbers are made up.",
            f"sent {_second(now)}",
        ),
        table=(
            "      MACD-V  stage",
            "  5m   12.30  rebounding",
            "* 1h  152.31  overbought",
            "  1d  -48.07  retracing",
        ),
    )


def _single(entry: Entry, when: When) -> Message:
    if isinstance(entry, Withdrawal):
        return _withdrawn(entry)
    if isinstance(entry, Blindness):
        return _blind(entry)
    if isinstance(entry, Recovery):
        return _recovered(entry)
    return _alert(entry, when)


def _alert(alert: Alert, when: When) -> Message:
    lines = [_values(alert), _price(alert), _candle(alert)]
    late = when.late(alert)
    if late:
        lines.append(f"late: {_age(alert, when, 'the end of its candle')}; {_holds(alert, when)}")
    if alert.corrected:
        lines.append("a correction of the candle made it")
    if alert.reissue:
        lines.append("it was sent before, and withdrawn")
    found = f", {'found ' if late else ''}{_lasting(alert.latency)} after the end of its candle"
    found = "" if alert.late else found
    lines.append(f"{_clean(alert.source_exchange_id)}, rule {_clean(alert.rule)}{found}")
    return Message(
        id=_id(alert),
        kind=MessageKind.LATE if late else MessageKind.ALERT,
        title=_title(alert),
        colour=_direction(alert),
        lines=tuple(lines),
        table=_table(alert),
        entries=(alert,),
    )


def _withdrawn(entry: Withdrawal) -> Message:
    alert = entry.alert
    return Message(
        id=_id(entry),
        kind=MessageKind.WITHDRAWN,
        title=_title(alert),
        colour=Colour.WITHDRAWN,
        lines=(
            f"withdrawn: {_clean(entry.why)}",
            f"it said {_values(alert)}",
            _candle(alert),
            f"{_clean(alert.source_exchange_id)}, rule {_clean(alert.rule)}, "
            f"withdrawn {_second(entry.triggered)}",
        ),
        entries=(entry,),
    )


def _blind(entry: Blindness) -> Message:
    named = [_clean(name) for name in entry.named[:10]]
    more = max(0, entry.series - len(named))
    listed = ", ".join(named) + (f" and {more} more" if named and more else "")
    exchange = _clean(entry.source_exchange_id)
    # The newest trade of a halt, and the start of who follows nothing yet, end no candle.
    ended = entry.of and entry.since % Timeframe.M5.ms == 0 and not entry.why.startswith("halted")
    lines = [
        f"{'no closed candle ' if ended else ''}since {_second(entry.since)}: "
        f"{_clean(entry.why, 300)}",
        *([listed] if listed else []),
        "what happens there is not seen, and no alert comes from it",
    ]
    return Message(
        id=entry.id,
        kind=MessageKind.BLIND,
        title=f"{exchange}, "
        + (f"{entry.series} of {entry.of} series" if entry.of else "nothing is followed yet"),
        colour=Colour.BLIND,
        lines=tuple(lines),
        entries=(entry,),
    )


def _recovered(entry: Recovery) -> Message:
    lines = [f"blind since {_second(entry.since)}"]
    if entry.still:
        lines.append(f"{entry.still} series are still blind")
    return Message(
        id=entry.id,
        kind=MessageKind.RECOVERY,
        title=f"{_clean(entry.source_exchange_id)}, {entry.recovered} series are back after "
        f"{_lasting(entry.lasted)}",
        colour=Colour.RECOVERY,
        lines=tuple(lines),
        entries=(entry,),
    )


def _kind(entries: Sequence[Alert | Withdrawal], when: When) -> MessageKind:
    """Of a message of several."""
    if all(isinstance(entry, Withdrawal) for entry in entries):
        return MessageKind.WITHDRAWN
    late = all(when.late(_told(entry)) for entry in entries)
    return MessageKind.LATE if late else MessageKind.COMBINED


def _several(entries: Sequence[Alert | Withdrawal], when: When) -> Message:
    alerts = [_told(entry) for entry in entries]
    kind = _kind(entries, when)
    # A digest is read from its top: what still holds first.
    late = kind is MessageKind.LATE
    ordered = sorted(
        entries,
        key=lambda one: (_rank(one, when) if late else 0, -_told(one).strength, _told(one).id),
    )
    closes = {alert.close_time for alert in alerts}
    directions = {_direction(alert) for alert in alerts}
    exchanges = ", ".join(sorted({_clean(alert.source_exchange_id) for alert in alerts}))
    digest = hashlib.sha256("\n".join(sorted(_id(entry) for entry in entries)).encode())
    colour = directions.pop() if len(directions) == 1 else Colour.MIXED
    return Message(
        id=f"{_kind(entries, FOUND)}|{len(entries)}|{digest.hexdigest()[:32]}",
        kind=kind,
        title=f"{len(entries)} alerts, {exchanges}",
        colour=Colour.WITHDRAWN if kind is MessageKind.WITHDRAWN else colour,
        lines=(
            f"candles that ended {_minute(min(closes))}"
            + (f" to {_minute(max(closes))}" if len(closes) > 1 else ""),
        ),
        rows=tuple(_row(entry, when, timed=len(closes) > 1) for entry in ordered),
        entries=tuple(ordered),
    )


def _row(entry: Alert | Withdrawal, when: When, *, timed: bool) -> Row:
    alert = _told(entry)
    parts = [f"MACD-V {alert.macdv:.2f}"]
    if alert.stage is not None:
        parts.append(str(alert.stage))
    parts.append(f"price {_amount(alert.last_price)}")
    if timed:
        parts.append(f"candle ended {_minute(alert.close_time)}")
    if isinstance(entry, Withdrawal):
        parts.append(f"withdrawn: {_clean(entry.why)}")
    elif when.late(alert):
        parts.append(f"late, {_age(alert, when, 'its candle')}, {_holds(alert, when)}")
    return Row(f"{_title(alert)}: {', '.join(parts)}", isinstance(entry, Withdrawal))


def _told(entry: Alert | Withdrawal) -> Alert:
    return entry.alert if isinstance(entry, Withdrawal) else entry


def _rank(entry: Alert | Withdrawal, when: When) -> int:
    if isinstance(entry, Withdrawal):
        return 3
    return {True: 0, None: 1, False: 2}[when.holds(entry)]


def _id(entry: Alert | Withdrawal) -> str:
    if isinstance(entry, Withdrawal):
        return f"withdrawn|{_id(entry.alert)}"
    return f"{entry.id}#{entry.reissue}" if entry.reissue else entry.id


# -- words ------------------------------------------------------------------------------------


def _title(alert: Alert) -> str:
    return f"{_clean(alert.symbol, 40)} {alert.timeframe} {_clean(alert.what)}"


def _direction(alert: Alert) -> Colour:
    return {"up": Colour.UP, "down": Colour.DOWN}.get(alert.direction, Colour.MIXED)


def _holds(alert: Alert, when: When) -> str:
    holds = when.holds(alert)
    if holds is None:
        return "not known whether it still holds"
    return "it still holds" if holds else "it no longer holds"


def _age(alert: Alert, when: When, what: str) -> str:
    """How long after ``what`` a late alert is told."""
    if when.unknown:
        return f"not known how long after {what}"
    age = alert.latency if when.at is None else when.at - alert.close_time
    return f"{_lasting(age)} after {what}"


def _values(alert: Alert) -> str:
    parts = [f"MACD-V {alert.macdv:.2f}"]
    if alert.signal is not None:
        parts.append(f"signal {alert.signal:.2f}")
    if alert.histogram is not None:
        parts.append(f"histogram {alert.histogram:.2f}")
    if alert.stage is not None:
        parts.append(str(alert.stage))
    if alert.bias is not None:
        known = f" ({alert.bias_timeframes} of 5)" if alert.bias_timeframes else ""
        parts.append(f"bias {_clean(alert.bias)}{known}")
    return ", ".join(parts)


def _price(alert: Alert) -> str:
    closed = (
        "" if alert.close == alert.last_price else f"; the candle closed at {_amount(alert.close)}"
    )
    return f"price {_amount(alert.last_price)} at {_second(alert.last_price_time)}{closed}"


def _candle(alert: Alert) -> str:
    return f"candle from {_minute(alert.open_time)} to {_minute(alert.close_time)}"


def _table(alert: Alert) -> tuple[str, ...]:
    """Every timeframe's newest reading; one that is not of its newest candle says of which."""
    now = max(alert.triggered, alert.close_time)
    rows = []
    for name in sorted(alert.readings, key=lambda name: LENGTHS.get(name, 2 * DAY)):
        one = alert.readings[name]
        if one.macdv is None:
            value, said = "none", f"withheld: {_clean(one.withheld or 'no reason known', 60)}"
        else:
            value, said = f"{one.macdv:.2f}", "" if one.stage is None else str(one.stage)
        if name in LENGTHS and one.open_time < Timeframe(name).last_closed(now):
            said += f" (candle of {_minute(one.open_time)})"
        rows.append(("*" if name == str(alert.timeframe) else " ", _clean(name, 5), value, said))
    if not rows:
        return ()
    rows.insert(0, (" ", "", "MACD-V", "stage"))
    width = max(len(value) for _, _, value, _ in rows)
    return tuple(
        f"{own}{name:>3}  {value:>{width}}  {said}".rstrip() for own, name, value, said in rows
    )


def _clean(text: str, most: int = LONGEST) -> str:
    """``text`` in one line of printable characters: no control codes, no change of direction."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * most])
    words = " ".join(printable.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _amount(price: float) -> str:
    """Every digit of it, and no exponent."""
    return f"{Decimal(repr(price)):,f}"


def _minute(time: int) -> str:
    return _moment(time, "%Y-%m-%d %H:%M UTC")


def _second(time: int) -> str:
    return _moment(time, "%Y-%m-%d %H:%M:%S UTC")


def _moment(time: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(time // 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"{time} ms"


def _lasting(time: int) -> str:
    """A length of time (ms) in its two largest units; under a minute to a tenth of a second."""
    time = max(0, time)
    if time < MINUTE:
        return f"{time / 1000:.1f} s"
    for unit, large, part, small in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min")):
        if time >= unit:
            rest = time % unit // part
            return f"{time // unit} {large}" + (f" {rest} {small}" if rest else "")
    return f"{time // MINUTE} min"


# -- how it looks -----------------------------------------------------------------------------


def headline(message: Message, style: Style = PLAIN) -> str:
    """The title with what must not be overlooked before it."""
    marks = ["possibly repeated"] if message.possibly_repeated else []
    if message.kind not in {MessageKind.ALERT, MessageKind.COMBINED}:
        marks.append(str(message.kind))
    title = style.escape(message.title)
    if message.kind is MessageKind.WITHDRAWN:
        title = style.strike(title)
    return f"{', '.join(marks)}: {title}" if marks else title


def body(message: Message, style: Style = PLAIN, most: int = MOST) -> str:
    """Everything below the title, at most ``most`` long by the style's own measure.

    Rows that do not fit are counted; of a message without rows the table goes first.
    """
    above = [style.escape(line) for line in message.lines]
    below = []
    if message.dropped_before:
        some = message.dropped_before
        below.append(
            f"{some} older {'message was' if some == 1 else 'messages were'} dropped: "
            "this channel could not be reached"
        )
    if message.possibly_repeated:
        below.append("it may have been sent before: whether it arrived then is not known")
    # No row is shorter than twenty characters, so more of them cannot fit.
    rows = [
        style.strike(style.escape(row.text)) if row.struck else style.escape(row.text)
        for row in message.rows[: most // 20]
    ]
    table = [style.block("\n".join(message.table))] if message.table else []

    kept = len(rows)
    while True:
        left = len(message.rows) - kept
        more = [f"and {left} more: livermore alerts"] if left else []
        text = "\n".join([*above, *rows[:kept], *more, *table, *below])
        if style.length(text) <= most:
            return text
        if kept:
            kept -= 1
        elif table:
            table = []
        elif above:
            above.pop()
        else:
            return ""
