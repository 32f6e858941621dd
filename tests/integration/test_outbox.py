"""The outbox on real servers: what is kept, what is announced, and who was told."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
import pytest
import trio

from livermore.adapters import outbox
from livermore.adapters.outbox import SENDING, WITHDRAWN, Marks, Row, dropped, sent
from livermore.adapters.redis import Client, Redis, script
from livermore.errors import ChannelRefused, Fenced, MalformedMessage, StoreError
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from livermore.runtime.delivery import Delivery
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.signals.alert import (
    Alert,
    Blindness,
    Entry,
    Recovery,
    Withdrawal,
    decode_entry,
    encode_entry,
)
from livermore.signals.message import Message
from livermore.signals.stage import Stage
from tests.integration.test_scripts import Ears
from tests.proxy import Proxy

H1 = Timeframe.H1
T0 = 1_760_000_400_000 // H1.ms * H1.ms
NAMES = itertools.count()


@pytest.fixture(params=["valkey", "redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def alert(number: int = 0, symbol: str = "BTC-USD", **changes: Any) -> Alert:
    open_time = T0 + number * H1.ms
    made = Alert(
        id=f"level|coinbase|{symbol}|1h|{open_time}", rule="level", kind="level",
        what="crossed above 150", direction="up", source_exchange_id="coinbase", symbol=symbol,
        timeframe=H1, open_time=open_time, close_time=open_time + H1.ms, close=100.5,
        last_price=100.25, last_price_time=open_time + H1.ms + 400, macdv=151.25, signal=120.5,
        histogram=30.75, stage=Stage.OVERBOUGHT, bias="bearish", readings={}, revision=0,
        triggered=open_time + H1.ms + 500, latency=500, strength=1.25, level=150.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


BLIND = Blindness("blind|coinbase|1|1", "coinbase", 3, 5, ["BTC-USD 5m"], T0, "stalled", T0 + 9)


@attrs.define
class Desk:
    """The outbox of one exchange on one server."""

    client: Client
    exchange: str = attrs.Factory(lambda: f"x{next(NAMES)}")

    def post(
        self, *entries: Entry, epoch: int = 1, keep: int = 100, channels: Sequence[str] = (),
        memories: dict[str, bytes] | None = None,
    ) -> list[str]:  # fmt: skip
        postings = [outbox.posting(entry, channels) for entry in entries]
        call = outbox.post(self.exchange, epoch, memories or {}, postings, keep=keep)
        return outbox.posted(self.client.run([call])[0])

    def rows(self, after: str = outbox.BEGINNING) -> list[Row]:
        found = outbox.rows(self.client.one(*outbox.after(self.exchange, after)))
        return [row for row in found if isinstance(row, Row)]

    def begin(self, *names: str, epoch: int = 1, start: str = "") -> list[outbox.Progress]:
        reply = self.client.run([outbox.begin(self.exchange, epoch, names, start)])[0]
        return list(outbox.begun(names, reply).values())

    def mark(
        self, channel: str, cursor: str, marks: dict[str, str], epoch: int = 1,
        told: int | None = None,
    ) -> int:  # fmt: skip
        call = outbox.mark(self.exchange, epoch, channel, cursor, marks, told=told)
        return int(self.client.run([call])[0])

    def marks(self) -> Marks:
        return outbox.read_marks(self.client.one(*outbox.all_marks(self.exchange)))

    def claims(self) -> set[str]:
        found = self.client.one("HGETALL", outbox.claims_key(self.exchange))
        return {claim.decode() for claim in found}

    def memories(self, *fields: str) -> list[bytes | None]:
        [found] = self.client.run([outbox.read_memories(self.exchange, fields)])
        return list(found)


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    client = Client(url)
    yield Desk(client)
    client.close()


# -- adding -----------------------------------------------------------------------------------


def test_an_entry_and_what_the_rules_remember_are_kept_together_and_announced(url: str, desk: Desk):
    field = outbox.memory_field(Series("coinbase", "BTC-USD", H1))
    ears = Ears(url)
    [first] = desk.post(alert(), memories={field: b'{"a":1}'}, channels=("desk", "log"))
    withdrawal = Withdrawal(alert(), first, "the candle was corrected", T0)
    second, third = desk.post(withdrawal, BLIND)
    heard = ears.heard()
    ears.close()
    assert desk.memories(field, "other") == [b'{"a":1}', None]
    assert desk.rows() == [
        Row(first, alert().id, alert(), ("desk", "log")),
        Row(second, f"withdrawn|{alert().id}", withdrawal),
        Row(third, BLIND.id, BLIND),
    ]
    everything = outbox.all_channel(desk.exchange)
    symbol = outbox.symbol_channel(desk.exchange, "BTC-USD")
    nobodys = f"channel:exchange:{desk.exchange}:alerts:exchange"
    assert [channel for channel, _ in heard] == [
        *(everything, symbol, everything, symbol),
        *(everything, nobodys),
    ]
    said = json.loads(heard[1][1])
    assert heard[1][1] == heard[0][1]
    assert next(iter(said.items())) == ("stream_id", first)
    assert (said["type"], said["macdv"], said["stage"]) == ("alert", 151.25, "overbought")


def test_a_claim_adds_one_entry_however_often_it_comes(url: str, desk: Desk):
    ids = desk.post(alert(0), alert(1))
    ears = Ears(url)
    assert desk.post(alert(0), alert(1), alert(2), memories={"a:1h": b"2"})[:2] == ids
    heard = ears.heard()
    ears.close()
    assert [row.entry for row in desk.rows()] == [alert(0), alert(1), alert(2)]
    assert len(heard) == 2, "of the new one alone"
    assert desk.memories("a:1h") == [b"2"]


def test_what_is_about_no_symbol_is_heard_once_where_all_alerts_are(url: str, desk: Desk):
    recovery = Recovery("recovery|x", desk.exchange, 3, 0, T0, 9, T0 + 18)
    ears = Ears(url)
    desk.post(BLIND, recovery, alert())
    desk.post(BLIND, recovery, alert())
    heard = [one for one in ears.heard() if one[0].startswith("channel:exchange:")]
    ears.close()
    of_all = outbox.symbol_channel(desk.exchange, "")
    assert fnmatch.fnmatchcase(of_all, "channel:exchange:*:alerts:*")
    assert "-" not in of_all.rpartition(":")[2], "or it could be a symbol"
    assert [channel for channel, _ in heard] == [
        *(of_all, of_all),
        outbox.symbol_channel(desk.exchange, "BTC-USD"),
    ]
    assert [json.loads(said)["type"] for _, said in heard] == ["blind", "recovery", "alert"]


def test_a_withdrawal_says_of_which_exchange_it_is():
    said = json.loads(encode_entry(Withdrawal(alert(), "1-0", "corrected", T0)))
    assert said["source_exchange_id"] == alert().source_exchange_id
    del said["source_exchange_id"]  # as it was written before
    assert decode_entry(json.dumps(said).encode()) == Withdrawal(alert(), "1-0", "corrected", T0)


def test_what_was_withdrawn_and_comes_again_is_another_entry(desk: Desk):
    again = alert(reissue=1)
    withdrawal = Withdrawal(again, "1-1", "corrected again", T0)
    assert len(set(desk.post(alert(), again, Withdrawal(alert(), "1-0", "", T0), withdrawal))) == 4


def test_a_recovery_is_not_taken_for_the_blindness_it_ends(desk: Desk):
    recovery = Recovery(BLIND.id, "coinbase", 3, 0, T0, 9, T0 + 18)
    assert len(set(desk.post(BLIND, recovery))) == 2


def test_who_was_succeeded_adds_nothing_remembers_nothing_and_marks_nothing(desk: Desk):
    desk.begin("log")
    [first] = desk.post(alert(0), epoch=7, memories={"a:1h": b"new"})
    with pytest.raises(Fenced) as raised:
        desk.post(alert(1), epoch=6, memories={"a:1h": b"old"})
    assert raised.value.epoch == 7
    with pytest.raises(Fenced):
        desk.mark("log", first, {first: sent("1")}, epoch=6)
    with pytest.raises(Fenced):
        desk.begin("log", epoch=6)
    assert len(desk.rows()) == 1
    assert desk.memories("a:1h") == [b"new"]
    assert desk.marks().of(desk.rows()[0]) == {"log": None}


def test_whoever_begins_to_deliver_fences_out_the_one_before(desk: Desk):
    desk.begin("log", epoch=9)
    with pytest.raises(Fenced):
        desk.post(alert(), epoch=8)
    desk.client.run([script("epoch", (outbox.rules_key(desk.exchange),), 10)])
    with pytest.raises(Fenced):
        desk.begin("log", epoch=9)


@pytest.mark.parametrize("which", range(4))
def test_a_key_of_somebody_else_is_named_and_nothing_is_half_done(desk: Desk, which: int):
    key = list(outbox.types(desk.exchange))[which]
    desk.client.one("SET", key, "theirs")
    with pytest.raises(StoreError, match="another type"):
        desk.post(alert(), memories={"a:1h": b"1"})
    left = [name for name in outbox.types(desk.exchange) if desk.client.one("EXISTS", name)]
    assert left == [key]


# -- the cap ----------------------------------------------------------------------------------


def test_the_oldest_go_with_all_that_is_known_of_them(desk: Desk):
    desk.begin("log", "desk")
    ids = desk.post(*map(alert, range(6)), keep=4)
    desk.mark("log", ids[1], {i: sent(f"m{i}") for i in ids[:2]})
    desk.mark("log", ids[3], {i: sent(f"m{i}") for i in ids[2:4]})
    desk.mark("desk", ids[2], {ids[2]: sent("")})
    desk.post(alert(6), keep=4)
    assert [row.id for row in desk.rows()][:-1] == ids[3:]
    assert desk.claims() == {alert(n).id for n in (3, 4, 5, 6)}
    kept = {field for field in desk.marks().fields if field.startswith(("log|", "desk|"))}
    assert kept == {f"log|{ids[3]}"}


def test_what_goes_before_it_was_sent_is_counted_as_dropped_for_its_channels(desk: Desk):
    desk.begin("log", "desk", "idle")
    first, second = desk.post(alert(0), alert(1), channels=("log", "desk"), keep=10)
    desk.mark("log", second, {first: sent("1"), second: dropped("refused")})
    desk.mark("desk", outbox.BEGINNING, {first: sent("2"), second: SENDING})
    [third] = desk.post(alert(2), keep=10)
    desk.post(alert(3), keep=1)
    marks = desk.marks()
    assert marks.dropped("log") == 2, "what was refused and the third"
    assert marks.dropped("desk") == 2, "what was begun and the third"
    assert marks.dropped("idle") == 1, "the first two were not for it"
    assert third not in {row.id for row in desk.rows()}
    assert [row.entry for row in desk.rows()] == [alert(3)]


def test_what_a_channel_was_never_to_be_told_is_not_dropped_for_it(desk: Desk):
    desk.post(alert(0))
    desk.begin("log")
    desk.post(alert(1), keep=1)
    assert desk.marks().dropped("log") == 0


# -- delivery ---------------------------------------------------------------------------------


def test_a_new_channel_is_told_what_is_new(desk: Desk):
    [old] = desk.post(alert(0))
    [progress] = desk.begin("log")
    assert progress == outbox.Progress(old, 0, 0, {})
    [new] = desk.post(alert(1))
    assert [p.cursor for p in desk.begin("log", "desk")] == [old, new]
    assert desk.marks().of(desk.rows()[0]) == {}
    assert desk.begin("third", start=outbox.BEGINNING)[0].cursor == outbox.BEGINNING


def test_an_outbox_that_was_lost_hides_nothing_by_an_old_cursor(desk: Desk):
    desk.post(alert(0))
    desk.begin("log")
    stream = outbox.stream_key(desk.exchange)
    desk.client.one("DEL", stream)
    assert desk.begin("log")[0].cursor == outbox.BEGINNING
    desk.mark("log", "7-0", {})
    desk.client.one("XADD", stream, "5-0", "a", "b")
    assert desk.begin("log")[0].cursor == outbox.BEGINNING


def test_what_lies_behind_the_cursor_is_known_to_the_next_one(desk: Desk):
    desk.begin("log")
    ids = desk.post(*map(alert, range(5)))
    marks = {ids[0]: sent("a"), ids[1]: SENDING, ids[2]: sent("b c"), ids[3]: dropped("full\nup")}
    assert desk.mark("log", ids[0], marks, told=0) == 1
    assert desk.mark("log", ids[0], marks, told=1) == 1, "a call may be repeated"
    [progress] = desk.begin("log", epoch=2)
    assert (progress.cursor, progress.dropped, progress.told) == (ids[0], 1, 1)
    assert progress.marks == {i: marks[i] for i in ids[1:3]} | {ids[3]: "dropped full up"}


def test_what_was_sent_stays_sent(desk: Desk):
    desk.begin("log")
    [one] = desk.post(alert())
    desk.mark("log", outbox.BEGINNING, {one: sent("7")})
    assert desk.mark("log", one, {one: SENDING}) == 0
    assert desk.mark("log", one, {one: dropped("too late")}) == 0
    state = desk.marks().of(desk.rows()[0])["log"]
    assert state == outbox.Delivered("sent", "7")


def test_nothing_is_marked_that_is_not_in_the_outbox(desk: Desk):
    desk.begin("log")
    desk.mark("log", "5-0", {"5-0": sent("7"), "6-0": dropped("gone")})
    assert set(desk.marks().fields) == {"channels", "cursor|log", "dropped|log"}
    assert desk.marks().dropped("log") == 0


def test_channels_that_are_not_configured_any_more_are_forgotten(desk: Desk):
    desk.begin("log", "desk", "cursor")
    [one] = desk.post(alert())
    for name in ("log", "desk", "cursor"):
        desk.mark(name, outbox.BEGINNING, {one: dropped("refused")}, told=1)
    assert len(desk.begin("log", "cursor")) == 2
    fields = set(desk.marks().fields)
    assert fields == {"channels"} | {
        field.format(name=name)
        for name in ("log", "cursor")
        for field in ("cursor|{name}", "dropped|{name}", "told|{name}", f"{{name}}|{one}")
    }


@pytest.mark.parametrize("message_id", ["", "12345", "a/b"])
@pytest.mark.parametrize("combined", [False, True])
def test_a_mark_says_what_was_sent_and_whether_alone(message_id: str, combined: bool):
    found = outbox.read_mark(sent(message_id, combined=combined))
    assert found == outbox.Delivered("sent", message_id, combined)
    late = outbox.read_mark(sent(message_id, combined=combined, at=1_760_000_000_000))
    at = 1_760_000_000_000 if combined else None
    assert late == outbox.Delivered("sent", message_id, combined, at=at)
    assert outbox.read_mark(WITHDRAWN).final
    assert not outbox.read_mark(SENDING).final


def test_entries_are_read_in_pages_from_both_ends(desk: Desk):
    ids = desk.post(*map(alert, range(5)))
    page = desk.client.one(*outbox.after(desk.exchange, ids[1], 2))
    assert outbox.ids(page) == ids[2:4]
    page = desk.client.one(*outbox.before(desk.exchange, None, 2))
    assert outbox.ids(page) == [ids[4], ids[3]]
    page = desk.client.one(*outbox.before(desk.exchange, ids[3], 2))
    assert outbox.ids(page) == [ids[2], ids[1]]
    assert outbox.order("10-2") > outbox.order("9-10") > outbox.order("9-2")


def test_what_somebody_else_put_into_the_stream_is_named_and_hides_nothing(desk: Desk):
    desk.client.one("XADD", outbox.stream_key(desk.exchange), "*", "a", b"\xff")
    [one] = desk.post(alert())
    foreign, row = outbox.rows(desk.client.one(*outbox.after(desk.exchange, outbox.BEGINNING)))
    assert isinstance(foreign, MalformedMessage)
    assert isinstance(row, Row)
    assert row.id == one
    desk.begin("log", start=outbox.BEGINNING)
    desk.post(alert(1), keep=1)
    assert [row.entry for row in desk.rows()] == [alert(1)]


# -- a network that breaks --------------------------------------------------------------------


@pytest.mark.parametrize("reply", [0, 3])
def test_a_lost_reply_leaves_one_entry_when_the_call_is_repeated(proxy: Proxy, reply: int):
    client = Client(proxy.url, timeout=2.0)
    desk = Desk(client)
    desk.post(alert(0))
    cut = proxy.cut(alert(1).id, reply=reply)
    with pytest.raises(StoreError):
        desk.post(alert(1), memories={"a:1h": b"1"})
    assert cut.made.wait(5)
    ids = desk.post(alert(1), memories={"a:1h": b"1"})
    assert [row.id for row in desk.rows()][1:] == ids
    assert desk.memories("a:1h") == [b"1"]
    client.close()


@pytest.mark.parametrize("arrives", [0, 20, 200])
def test_a_request_torn_in_the_middle_does_nothing(proxy: Proxy, arrives: int):
    client = Client(proxy.url, timeout=2.0)
    desk = Desk(client)
    desk.post(alert(0))
    cut = proxy.cut(alert(1).id, request=arrives)
    with pytest.raises(StoreError):
        desk.post(alert(1), memories={"a:1h": b"1"})
    assert cut.made.wait(5)
    assert [row.entry for row in desk.rows()] == [alert(0)]
    assert desk.memories("a:1h") == [None]
    assert len(desk.post(alert(1))) == 1
    client.close()


def test_marks_written_over_a_connection_that_breaks_count_once(proxy: Proxy):
    client = Client(proxy.url, timeout=2.0)
    desk = Desk(client)
    desk.begin("log")
    [one] = desk.post(alert(0))
    cut = proxy.cut("dropped nobody", reply=0)
    with pytest.raises(StoreError):
        desk.mark("log", one, {one: dropped("nobody there")})
    assert cut.made.wait(5)
    assert desk.mark("log", one, {one: dropped("nobody there")}) == 1
    client.close()


# -- the whole way ----------------------------------------------------------------------------


@attrs.define
class Ear:
    """A channel that hears; ``heard`` is set by the first message."""

    name: str = "ear"
    edits: bool = False
    messages: list[Message] = attrs.Factory(list)
    heard: trio.Event = attrs.Factory(trio.Event)

    async def send(self, message: Message) -> str:
        await trio.lowlevel.checkpoint()
        self.messages.append(message)
        self.heard.set()
        return "42"

    async def edit(self, message_id: str, message: Message) -> None:
        raise ChannelRefused("no")

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        raise ChannelRefused("no")


async def test_what_is_added_reaches_a_channel_and_is_marked(desk: Desk):
    redis = Redis(desk.client.url)
    lease = Lease(redis, desk.exchange, "us", {}, epoch=5, valid_until=math.inf)
    ear = Ear()
    delivery = Delivery(
        redis, desk.exchange, lease, [ear],
        clock=lambda: T0, chance=lambda: 0.5, journal=Journal(desk.exchange),
    )  # fmt: skip
    desk.begin("ear", epoch=5)
    with trio.fail_after(20):
        async with delivery.running():
            call = outbox.post(desk.exchange, 5, {}, [outbox.posting(BLIND)])
            await redis.run([call], "readings")
            delivery.wake()
            await ear.heard.wait()
    redis.close()
    assert [message.entries for message in ear.messages] == [(BLIND,)]
    [row] = desk.rows()
    assert desk.marks().of(row) == {"ear": outbox.Delivered("sent", "42")}
    assert desk.marks().fields["cursor|ear"] == row.id
    assert delivery.figures["ear"].sent == 1
    with pytest.raises(Fenced):
        desk.post(alert(), epoch=4)
