"""Alerts in words: what is said, what is never left out, and what cannot be smuggled in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.timeframe import Timeframe
from livermore.signals.alert import Alert, Beside, Blindness, Entry, Recovery, Withdrawal
from livermore.signals.message import (
    Colour,
    Message,
    MessageKind,
    Style,
    When,
    body,
    headline,
    message_of,
    sample_message,
)
from livermore.signals.stage import Stage

NOON = 1_795_176_000_000  # 2026-11-20 12:00 UTC
HOUR = 3_600_000


def beside(macdv: float | None, stage: Stage | None, open_time: int, **more: Any) -> Beside:
    return Beside(open_time, macdv, None, None, stage, **more)


def alert(symbol: str = "BTC-USD", **changes: Any) -> Alert:
    told = Alert(
        id=f"level|coinbase|{symbol}|1h|{NOON - HOUR}",
        rule="level",
        kind="level",
        what="crossed above 150",
        direction="up",
        source_exchange_id="coinbase",
        symbol=symbol,
        timeframe=Timeframe.H1,
        open_time=NOON - HOUR,
        close_time=NOON,
        close=67_100.5,
        last_price=67_123.45,
        last_price_time=NOON + 1_000,
        macdv=152.314,
        signal=140.0,
        histogram=12.314,
        stage=Stage.OVERBOUGHT,
        bias="bullish",
        readings={
            "1d": beside(-48.07, Stage.RETRACING, NOON - 36 * HOUR),
            "5m": beside(12.3, Stage.REBOUNDING, NOON - 300_000),
            "4h": beside(None, None, NOON - 4 * HOUR, withheld="fewer than 60 candles: 12"),
            "15m": beside(7.0, Stage.REBOUNDING, NOON - 900_000 - 900_000),
            "1h": beside(152.314, Stage.OVERBOUGHT, NOON - HOUR),
        },
        revision=0,
        triggered=NOON + 2_340,
        latency=2_340,
        strength=2.314,
        level=150.0,
    )
    return msgspec.structs.replace(told, **changes)


def withdrawal(**changes: Any) -> Withdrawal:
    return Withdrawal(alert(**changes), "1-0", "REST says the close was 66,900", NOON + HOUR)


BLIND = Blindness(
    id="blind|coinbase|1|1",
    source_exchange_id="coinbase",
    series=12,
    of=50,
    named=["BTC-USD 5m", "ETH-USD 5m"],
    since=NOON,
    why="connection lost: reset",
    triggered=NOON + 400_000,
)


# -- one alert --------------------------------------------------------------------------------


def test_an_alert_says_what_where_and_every_figure_with_its_time():
    message = message_of([alert()])
    assert headline(message) == "BTC-USD 1h crossed above 150"
    assert body(message).splitlines() == [
        "MACD-V 152.31, signal 140.00, histogram 12.31, overbought, bias bullish",
        "price 67,123.45 at 2026-11-20 12:00:01 UTC; the candle closed at 67,100.5",
        "candle from 2026-11-20 11:00 UTC to 2026-11-20 12:00 UTC",
        "coinbase, rule level, 2.3 s after the end of its candle",
        "      MACD-V  stage",
        "  5m   12.30  rebounding",
        " 15m    7.00  rebounding (candle of 2026-11-20 11:30 UTC)",
        "* 1h  152.31  overbought",
        "  4h    none  withheld: fewer than 60 candles: 12",
        "  1d  -48.07  retracing",
    ]
    assert (message.kind, message.colour) == (MessageKind.ALERT, Colour.UP)


def test_a_number_that_does_not_exist_is_left_out_and_never_zero():
    bare = alert(signal=None, histogram=None, stage=None, bias=None, readings={})
    message = message_of([bare])
    assert body(message).splitlines()[0] == "MACD-V 152.31"
    assert message.table == ()


@pytest.mark.parametrize(
    ("price", "said"),
    [(1.234e-8, "0.00000001234"), (0.1, "0.1"), (1e6, "1,000,000.0"), (123.456789, "123.456789")],
)
def test_prices_keep_every_digit_and_have_no_exponent(price: float, said: str):
    assert f"price {said} at" in body(message_of([alert(last_price=price)]))


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (True, "it still holds"),
        (False, "it no longer holds"),
        (None, "not known whether it still holds"),
    ],
)
def test_a_late_alert_says_so_first_and_whether_it_still_holds(holds: bool | None, said: str):
    message = message_of([alert(late=True, holds=holds, latency=2 * HOUR + 300_000)])
    assert headline(message) == "late: BTC-USD 1h crossed above 150"
    assert f"late: 2 h 5 min after the end of its candle; {said}" in body(message)
    assert message.kind is MessageKind.LATE


def test_an_alert_made_by_a_correction_or_sent_before_says_so():
    said = body(message_of([alert(late=True, corrected=True, reissue=1)]))
    assert "a correction of the candle made it" in said
    assert "it was sent before, and withdrawn" in said
    assert "correction" not in body(message_of([alert(late=True)]))


@pytest.mark.parametrize(("age", "late"), [(120_000, False), (120_001, True)])
def test_an_alert_that_is_sent_late_says_so_and_how_old_it_is_then(age: int, late: bool):
    message = message_of([alert()], when=When(NOON + age))
    assert (message.kind is MessageKind.LATE) is headline(message).startswith("late: ") is late
    said = "late: 2 min after the end of its candle; not known whether it still holds"
    assert (said in body(message)) is late
    assert ("rule level, found 2.3 s after the end of its candle" in body(message)) is late
    assert message.id == message_of([alert()]).id


def test_whether_it_still_holds_is_not_known_of_what_waited():
    told = alert(late=True, holds=True, triggered=NOON + HOUR, latency=HOUR)
    for seconds, said in ((120, "it still holds"), (121, "not known whether it still holds")):
        text = body(message_of([told], when=When(NOON + HOUR + seconds * 1000)))
        assert f"late: 1 h 2 min after the end of its candle; {said}" in text
    text = body(message_of([told], when=When(unknown=True)))
    assert "late: not known how long after the end of its candle; not known whether" in text


def test_a_digest_of_what_waited_gives_the_age_of_each_and_keeps_its_id():
    many = [alert(symbol=f"S{n}-USD", id=str(n), strength=float(n)) for n in (1, 2)]
    digest = message_of(many, when=When(NOON + 2 * HOUR))
    assert headline(digest) == "late: 2 alerts, coinbase"
    assert [row.text.partition("price 67,123.45, ")[2] for row in digest.rows] == [
        "late, 2 h after its candle, not known whether it still holds"
    ] * 2
    assert digest.id == message_of(many).id
    held = alert(symbol="S0-USD", id="0", late=True, holds=True, strength=1.5)
    order = [row.text[:2] for row in message_of([*many, held], when=digest.when).rows]
    assert order == ["S2", "S0", "S1"], "whether it holds was asked two hours ago"
    combined = message_of([*many, alert(id="x", close_time=NOON + 2 * HOUR)], when=digest.when)
    assert combined.kind is MessageKind.COMBINED
    assert ["late" in row.text for row in combined.rows].count(True) == 2


def test_what_may_be_a_repetition_carries_a_mark_in_title_and_text():
    message = message_of([alert()], possibly_repeated=True)
    assert headline(message).startswith("possibly repeated: ")
    assert "it may have been sent before" in body(message)
    assert "may have" not in body(message_of([alert()]))


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "1 older message was dropped"), (12, "12 older messages were dropped"), (0, None)],
)
def test_dropped_messages_are_counted_in_the_next_one(count: int, said: str | None):
    text = body(message_of([alert()], dropped_before=count))
    assert "dropped" not in text if said is None else said in text


def test_a_withdrawal_says_what_is_withdrawn_and_why():
    message = message_of([withdrawal()])
    assert headline(message) == "withdrawn: BTC-USD 1h crossed above 150"
    assert body(message).splitlines()[0] == "withdrawn: REST says the close was 66,900"
    assert (message.colour, message.table) == (Colour.WITHDRAWN, ())


def test_blindness_names_some_counts_the_rest_and_says_why():
    message = message_of([BLIND])
    assert headline(message) == "blind: coinbase, 12 of 50 series"
    text = body(message)
    assert "no closed candle since 2026-11-20 12:00:00 UTC: connection lost: reset" in text
    assert "BTC-USD 5m, ETH-USD 5m and 10 more" in text


def test_who_follows_nothing_yet_lacks_no_series_and_no_candle():
    message = message_of([msgspec.structs.replace(BLIND, series=0, of=0, named=[])])
    assert headline(message) == "blind: coinbase, nothing is followed yet"
    assert message.lines[0] == "since 2026-11-20 12:00:00 UTC: connection lost: reset"


@pytest.mark.parametrize(("since", "why"), [(NOON, "halted: no trade"), (NOON + 1_234, "live: x")])
def test_a_halt_is_told_since_its_newest_trade_which_ends_no_candle(since: int, why: str):
    message = message_of([msgspec.structs.replace(BLIND, since=since, why=why)])
    assert message.lines[0].startswith("since 2026-11-20 12:00:0")
    assert "candle" not in message.lines[0]


def test_a_recovery_says_how_long_it_was_and_who_is_blind_yet():
    entry = Recovery("recovery|1", "coinbase", 10, 2, NOON, 840_000, NOON + 840_000)
    message = message_of([entry])
    assert headline(message) == "recovery: coinbase, 10 series are back after 14 min"
    assert "2 series are still blind" in body(message)


def test_a_sample_is_no_data():
    message = sample_message(NOON)
    assert message.kind is MessageKind.SAMPLE
    assert message.entries == ()
    assert headline(message).startswith("sample: ")
    assert "made up" in body(message)


# -- several ----------------------------------------------------------------------------------


def test_of_many_alerts_the_strongest_comes_first():
    many = [alert(symbol=f"S{n}-USD", strength=float(n)) for n in (3, 1, 7, 5, 2, 6)]
    message = message_of(many)
    assert headline(message) == "6 alerts, coinbase"
    assert body(message).splitlines()[:2] == [
        "candles that ended 2026-11-20 12:00 UTC",
        "S7-USD 1h crossed above 150: MACD-V 152.31, overbought, price 67,123.45",
    ]
    firsts = [row.text.split("-")[0] for row in message.rows]
    assert firsts == ["S7", "S6", "S5", "S3", "S2", "S1"]
    assert [entry.symbol for entry in message.entries if isinstance(entry, Alert)] == [
        f"{first}-USD" for first in firsts
    ]
    assert message.kind is MessageKind.COMBINED


def test_a_digest_of_late_ones_begins_with_what_still_holds_and_dates_each():
    holding = [False, None, True]
    many = [
        alert(
            symbol=f"S{n}-USD", late=True, holds=holds, close_time=NOON + n * HOUR, strength=9.0 - n
        )
        for n, holds in enumerate(holding)
    ]
    message = message_of(many)
    assert headline(message) == "late: 3 alerts, coinbase"
    assert [row.text.rpartition(", ")[2] for row in message.rows] == [
        "it still holds",
        "not known whether it still holds",
        "it no longer holds",
    ]
    assert "candle ended 2026-11-20 14:00 UTC" in message.rows[0].text
    assert "2026-11-20 12:00 UTC to 2026-11-20 14:00 UTC" in message.lines[0]


def test_a_withdrawn_one_among_several_is_struck_and_the_rest_is_not():
    gone = withdrawal(symbol="ETH-USD", id="x")
    message = message_of([alert(), gone])
    assert [(row.text.split()[0], row.struck) for row in message.rows] == [
        ("BTC-USD", False),
        ("ETH-USD", True),
    ]
    assert message.kind is MessageKind.COMBINED
    both = message_of([withdrawal(), gone])
    assert (both.kind, both.colour) == (MessageKind.WITHDRAWN, Colour.WITHDRAWN)


def test_directions_that_differ_have_no_colour_of_either():
    assert message_of([alert(), alert(direction="down", id="x")]).colour is Colour.MIXED
    assert message_of([alert(direction="down"), alert(direction="down", id="x")]).colour is (
        Colour.DOWN
    )


def test_none_at_all_and_blindness_among_alerts_are_no_message():
    wrong: list[list[Entry]] = [[], [alert(), BLIND], [BLIND, BLIND]]
    for entries in wrong:
        with pytest.raises(ValueError, match="several entries"):
            message_of(entries)


# -- identity ---------------------------------------------------------------------------------


def test_the_id_depends_on_the_entries_alone():
    one, other = alert(), alert(symbol="ETH-USD", id="y")
    assert message_of([one]).id == one.id
    assert message_of([one], possibly_repeated=True, dropped_before=3).id == one.id
    assert message_of([alert(reissue=2)]).id == f"{one.id}#2"
    assert message_of([withdrawal()]).id == f"withdrawn|{one.id}"
    assert message_of([one, other]).id == message_of([other, one]).id
    ids = {message_of(x).id for x in ([one], [one, other], [one, other, alert(id="z")])}
    assert len(ids) == 3


# -- bounds and strangers ---------------------------------------------------------------------


def test_rows_that_do_not_fit_are_counted_and_none_is_cut():
    many = [alert(symbol=f"S{n:04}-USD", strength=-float(n)) for n in range(3_000)]
    message = message_of(many)
    text = body(message)
    assert len(text) <= 3_500
    *rows, last = text.splitlines()[1:]
    assert rows == [row.text for row in message.rows[: len(rows)]]
    assert last == f"and {3_000 - len(rows)} more: livermore alerts"
    assert len(rows) > 40


def test_the_marks_of_a_language_are_put_around_and_its_length_counts():
    style = Style(
        escape=lambda text: text.replace("-", "=="),
        strike=lambda text: f"<s>{text}</s>",
        block=lambda text: f"<pre>{text}</pre>",
        length=lambda text: 2 * len(text),
    )
    assert headline(message_of([withdrawal()]), style) == (
        "withdrawn: <s>BTC==USD 1h crossed above 150</s>"
    )
    text = body(message_of([alert()]), style, 10_000)
    assert "MACD==V 152.31" in text
    assert "<pre>      MACD-V  stage\n" in text
    short = body(message_of([alert()]), style, 700)
    assert "<pre>" not in short  # the table goes before a line does
    assert "candle from" in short
    assert 2 * len(short) <= 700


TEXT = st.text(max_size=300)


@given(TEXT, TEXT, TEXT, TEXT, st.integers(0, 2**62), st.floats(allow_nan=False))
def test_whatever_outsiders_write_stays_in_its_line(
    symbol: str, what: str, why: str, withheld: str, time: int, price: float
):
    told = alert(
        symbol=symbol,
        what=what,
        bias=why,
        rule=why,
        last_price_time=time,
        latency=-time,
        last_price=price,
        readings={"1h": beside(None, None, 0, withheld=withheld), why: beside(price, None, time)},
    )
    plain: list[Message] = [message_of([alert()]), message_of([alert(), alert(id="x")])]
    gone = Withdrawal(told, "1-0", why, time)
    strange = [message_of([told]), message_of([told, msgspec.structs.replace(told, id=why)])]
    for message, known in zip(strange, plain, strict=True):
        assert len(message.lines) == len(known.lines)
        assert len(message.rows) == len(known.rows)
        texts = [message.title, *message.lines, *message.table, *(r.text for r in message.rows)]
        assert all(text.isprintable() for text in texts)
    for message in (*strange, message_of([gone]), message_of([gone, told])):
        assert headline(message).isprintable()
        assert len(headline(message)) < 200
        assert len(body(message)) <= 3_500
    blind = msgspec.structs.replace(BLIND, why=why, named=[symbol] * 40, since=time, series=2**40)
    assert all(line.isprintable() for line in message_of([blind]).lines)
    assert len(body(message_of([blind]))) <= 3_500
