"""Who is told what and when, on virtual time: a real Valkey, and channels that behave as told.

Redis is asked without a thread: virtual time would take a thread's work for idleness.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters import outbox
from livermore.adapters.redis import Call, Client, Redis
from livermore.errors import (
    ChannelBusy,
    ChannelError,
    ChannelRefused,
    Fenced,
    LivermoreError,
    StoreError,
)
from livermore.market.timeframe import Timeframe
from livermore.runtime.delivery import DRAIN, DRAIN_AWAY, Delivery
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.sender import MOST, Draw
from livermore.signals.alert import (
    Alert,
    Blindness,
    Entry,
    Recovery,
    Withdrawal,
    encode_entry,
)
from livermore.signals.message import Message

H1 = Timeframe.H1
T0 = 1_760_000_400_000 // H1.ms * H1.ms
"""A candle ends here, and virtual time is 0."""
EXCHANGE = "coinbase"


def alert(number: int = 0, **changes: Any) -> Alert:
    symbol = f"S{number}-USD"
    made = Alert(
        id=f"level|coinbase|{symbol}|1h|{T0 - H1.ms}", rule="level", kind="level",
        what="crossed above 150", direction="up", source_exchange_id=EXCHANGE, symbol=symbol,
        timeframe=H1, open_time=T0 - H1.ms, close_time=T0, close=100.5, last_price=100.25,
        last_price_time=T0, macdv=151.25, signal=120.5, histogram=30.75, stage=None, bias=None,
        readings={}, revision=0, triggered=T0 + 500, latency=500, strength=float(number),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def late(number: int = 0) -> Alert:
    return alert(number, late=True, holds=True)


BLIND = Blindness("blind|coinbase|1|1", EXCHANGE, 3, 5, ["S1-USD 5m"], T0, "stalled", T0)
RECOVERY = Recovery("recovery|coinbase|1|2", EXCHANGE, 3, 0, T0, 9, T0 + 18)


@attrs.define
class FakeChannel:
    """Takes ``takes`` seconds for a message, or what ``trouble`` says of it."""

    name: str = "desk"
    edits: bool = False
    takes: float = 0.0
    trouble: Callable[[Message], Exception | None] = lambda message: None
    said: list[tuple[float, str, Message]] = attrs.Factory(list)
    """When, how (send, edit, attach), and what."""
    attach_trouble: Exception | Callable[[], Exception | None] | None = None
    tries: int = 0
    busy: bool = False

    async def send(self, message: Message) -> str:
        await self._say("send", message)
        return f"m{len(self.said)}"

    async def edit(self, message_id: str, message: Message) -> None:
        assert self.edits
        await self._say(f"edit {message_id}", message)

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        trouble = self.attach_trouble() if callable(self.attach_trouble) else self.attach_trouble
        if trouble is not None:
            raise trouble
        await self._say(f"attach {png.decode()} to {message_id}", message)

    async def _say(self, how: str, message: Message) -> None:
        assert not self.busy or "attach" in how, "one after the other"
        self.busy = True
        try:
            self.tries += 1
            await trio.sleep(self.takes)
            if (error := self.trouble(message)) is not None:
                raise error
            self.said.append((round(trio.current_time(), 3), how, message))
        finally:
            self.busy = False

    @property
    def times(self) -> list[float]:
        return [moment for moment, _, _ in self.said]

    @property
    def kinds(self) -> list[str]:
        return [message.kind.value for _, _, message in self.said]

    @property
    def entries(self) -> list[list[Entry]]:
        return [list(message.entries) for _, _, message in self.said]

    @property
    def hows(self) -> list[str]:
        return [how for _, how, _ in self.said]


def dead(error: LivermoreError, until: float = math.inf) -> Callable[[Message], Exception | None]:
    return lambda message: error if trio.current_time() < until else None


@attrs.define
class Inline:
    """A real server, asked on the spot; ``away`` is one that does not answer."""

    client: Client
    away: bool = False
    lost: str = ""
    """A mark that is written, and nobody hears of it: the process ends there."""

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        assert lane == "alerts", "nothing else may wait for it"
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreError("Redis is away")
        if self.lost and any(self.lost in str(word) for call in calls for word in call):
            raise StoreError("Redis is away")
        return self.client.run(calls)


@attrs.define
class World:
    """One outbox and whoever delivers it."""

    redis: Inline
    channels: list[FakeChannel]
    epoch: int = 1
    draw: Draw | None = None
    ahead: int = 0
    """By how much the exchange's clock is ahead of the virtual one, ms."""
    dated_from: float = 0.0
    """When the exchange's time becomes known."""
    delivery: Delivery = attrs.field(init=False)
    lease: Lease = attrs.field(init=False)

    @asynccontextmanager
    async def delivering(self, *, first: bool = True) -> AsyncIterator[None]:
        redis = cast(Redis, self.redis)
        self.lease = Lease(redis, EXCHANGE, "us", {}, epoch=self.epoch, valid_until=math.inf)
        self.delivery = Delivery(
            redis, EXCHANGE, self.lease, self.channels,
            clock=self.now,
            chance=lambda: 0.5, journal=Journal(EXCHANGE), draw=self.draw,
        )  # fmt: skip
        with trio.fail_after(100_000):
            async with self.delivery.running():
                if first:
                    await trio.sleep(0.01)  # the outbox was read: what comes is new
                yield

    def now(self) -> int | None:
        moment = trio.current_time()
        return T0 + self.ahead + round(moment * 1000) if moment >= self.dated_from else None

    def post(self, *entries: Entry, channels: Sequence[str] = ()) -> list[str]:
        postings = [outbox.posting(entry, channels) for entry in entries]
        ids = self.redis.client.run([outbox.post(EXCHANGE, self.epoch, {}, postings)])[0]
        self.delivery.wake()
        return outbox.posted(ids)

    def register(self) -> None:
        """The channels were there before."""
        names = [channel.name for channel in self.channels]
        self.redis.client.run([outbox.begin(EXCHANGE, self.epoch, names)])

    def put(self, *entries: Entry) -> list[str]:
        postings = [outbox.posting(entry) for entry in entries]
        return outbox.posted(
            self.redis.client.run([outbox.post(EXCHANGE, self.epoch, {}, postings)])[0]
        )

    def states(self, channel: str = "desk") -> list[str]:
        """By entry, its mark."""
        page = self.redis.client.one(*outbox.after(EXCHANGE, outbox.BEGINNING))
        marks = outbox.read_marks(self.redis.client.one(*outbox.all_marks(EXCHANGE)))
        return [marks.fields.get(f"{channel}|{one}", "-") for one in outbox.ids(page)]

    def counted(self, channel: str = "desk") -> int:
        marks = outbox.read_marks(self.redis.client.one(*outbox.all_marks(EXCHANGE)))
        return marks.dropped(channel)


@pytest.fixture
def desk() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def world(valkey_url: str, desk: FakeChannel) -> Iterator[World]:
    client = Client(valkey_url)
    yield World(Inline(client), [desk])
    client.close()


# -- what is told together --------------------------------------------------------------------


async def test_alerts_of_a_close_are_told_three_seconds_after_its_end(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(2)
        world.post(alert(5), alert(3))
        await trio.sleep(0.9)
        assert desk.said == []
        await trio.sleep(1)
        assert desk.times == [3.0, 3.0, 3.0]
        assert desk.entries == [[alert(5)], [alert(3)], [alert(1)]], "strongest first"
        await trio.sleep(1)
        assert world.states() == ["sent m3", "sent m1", "sent m2"]


@pytest.mark.parametrize(("count", "messages"), [(5, 5), (6, 1)])
async def test_more_than_five_at_one_close_are_one_message(
    world: World, desk: FakeChannel, autojump_clock: MockClock, count: int, messages: int
):
    async with world.delivering():
        world.post(*map(alert, range(count)))
        await trio.sleep(10)
        assert len(desk.said) == messages
        told = [entry for entries in desk.entries for entry in entries]
        assert told == [alert(n) for n in reversed(range(count))]
        mark = "sent m1 combined" if messages == 1 else "sent m"
        assert all(state.startswith(mark) for state in world.states())


async def test_alerts_of_another_close_are_told_apart(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    before = [alert(n, close_time=T0 - 60_000, id=f"b{n}") for n in range(4)]
    async with world.delivering():
        world.post(*map(alert, range(4)), *before)
        await trio.sleep(10)
        assert desk.times == [0.31] * 4 + [3.0] * 4


async def test_a_straggler_is_told_at_once_and_a_crowd_of_them_together(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(*map(alert, range(4)))
        await trio.sleep(4)
        world.post(alert(4))
        await trio.sleep(0.4)
        assert [round(t, 1) for t in desk.times] == [3.0] * 4 + [4.3]
        world.post(*map(alert, range(5, 8)))
        await trio.sleep(1)
        assert [len(entries) for entries in desk.entries] == [1] * 5 + [3]
        for number in range(8, 12):
            world.post(alert(number))
            await trio.sleep(1)
        await trio.sleep(10)
        assert [len(entries) for entries in desk.entries] == [1] * 5 + [3, 4]


async def test_late_alerts_become_one_digest_once_no_more_come(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        for number in range(3):
            world.post(late(number))
            await trio.sleep(4)
        await trio.sleep(10)
        assert [round(t) for t in desk.times] == [13]
        assert desk.kinds == ["late"]
        assert len(desk.entries[0]) == 3


async def test_a_digest_does_not_wait_for_longer_than_a_minute(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        for number in range(30):
            world.post(late(number))
            await trio.sleep(4)
        assert [round(t) for t in desk.times] == [60]
        assert 14 <= len(desk.entries[0]) <= 16


async def test_what_waited_for_a_dead_channel_for_too_long_is_one_digest_that_says_late(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=1800.0)
    async with world.delivering():
        for number in range(4):
            world.post(alert(number, close_time=T0 + number * 300_000))
            await trio.sleep(300)
        world.post(late(9))
        await trio.sleep(590)
        world.post(alert(5, close_time=T0 + 1_790_000), alert(6, close_time=T0 + 1_790_000))
        await trio.sleep(100)
    [_, _, first], [sent_at, _, digest], *on_time = desk.said
    assert [first.kind, first.entries] == ["late", (alert(0),)], "it was tried"
    assert digest.kind == "late"
    order = [entry.strength for entry in digest.entries if isinstance(entry, Alert)]
    assert order == [9, 3, 2, 1], "whether it holds is known of none"
    age = (sent_at * 1000 - 300_000) / 60_000
    assert f"late, {int(age)} min after its candle, not known whether" in digest.rows[-1].text
    assert [message.kind for _, _, message in on_time] == ["alert", "alert"]
    symbols = [outbox.symbol_of(entry) for [entry] in desk.entries[2:]]
    assert symbols == ["S6-USD", "S5-USD"]


async def test_what_a_daemon_left_behind_an_hour_ago_is_one_digest_that_says_late(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    world.put(*(alert(n, close_time=T0 - n * 300_000) for n in range(4)))
    world.ahead = 3_600_000
    async with world.delivering():
        await trio.sleep(2)
        world.post(late(9))  # what the rules find in the candles of that hour
        await trio.sleep(30)
    [message] = [message for _, _, message in desk.said]
    assert message.kind == "late"
    assert len(message.entries) == 5


@pytest.mark.parametrize(("known", "said"), [(20.0, "1 h after"), (math.inf, "not known how long")])
async def test_a_digest_waits_for_the_exchange_s_time_but_not_for_ever(
    world: World, desk: FakeChannel, autojump_clock: MockClock, known: float, said: str
):
    world.register()
    world.put(alert(1), alert(2))
    world.ahead, world.dated_from = 3_600_000, known
    async with world.delivering():
        world.post(BLIND)
        await trio.sleep(10)
        assert desk.kinds == ["blind"]
        await trio.sleep(60)
        assert desk.kinds == ["blind", "late"], "before the end"
    assert all(said in row.text for row in desk.said[1][2].rows)


async def test_what_may_have_arrived_long_ago_is_the_same_message_and_says_late(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    ids: list[str] = []

    def trouble(message: Message) -> Exception | None:
        ids.append(message.id)
        lost = trio.current_time() < 1000
        return ChannelError("no answer", uncertain=True) if lost else None

    desk.trouble = trouble
    async with world.delivering():
        world.post(*map(alert, range(6)))
        await trio.sleep(60)
        world.post(alert(7, close_time=T0 + 60_000))
        await trio.sleep(5)
    world.put(alert(8, close_time=T0 + 70_000))
    desk.trouble = lambda message: ids.append(message.id)
    world.ahead = 3_600_000
    async with world.delivering():
        await trio.sleep(30)
    assert len(set(ids[:-1])) == 1, "one message, however often"
    [first, other] = [message for _, _, message in desk.said]
    assert [first.kind, first.possibly_repeated, len(first.entries)] == ["late", True, 6]
    assert [other.kind, other.possibly_repeated, len(other.entries)] == ["late", False, 2]


@pytest.mark.parametrize("known", [0.0, 20.0])
async def test_what_was_one_message_before_a_crash_is_one_after_it(
    world: World, desk: FakeChannel, autojump_clock: MockClock, known: float
):
    world.register()
    ids = world.put(alert(1), alert(2), alert(3, close_time=T0 - 300_000))
    marks = dict.fromkeys(ids, outbox.SENDING)
    world.redis.client.run([outbox.mark(EXCHANGE, 1, "desk", outbox.BEGINNING, marks)])
    world.dated_from = known
    async with world.delivering():
        await trio.sleep(40)
    [message] = [message for _, _, message in desk.said]
    assert message.possibly_repeated
    assert len(message.entries) == 3


async def test_what_broke_the_channel_s_code_takes_no_other_with_it(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.takes = 20.0
    errors = [ZeroDivisionError()]
    desk.trouble = lambda message: errors.pop() if errors else None
    async with world.delivering():
        world.post(late(1))
        await trio.sleep(6)
        world.post(late(2))
        await trio.sleep(100)
    assert desk.entries == [[late(1)], [late(2)]]
    assert [message.possibly_repeated for _, _, message in desk.said] == [True, False]


async def test_stragglers_of_a_close_that_waits_are_told_with_it(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=20.0)
    async with world.delivering():
        world.post(BLIND)
        await trio.sleep(1)
        world.post(*map(alert, range(5)))
        await trio.sleep(5)
        world.post(alert(5))
        await trio.sleep(60)
    assert desk.entries == [[BLIND], [alert(n) for n in reversed(range(6))]]
    assert desk.kinds == ["blind", "combined"]


async def test_blindness_is_told_at_once_and_before_alerts_that_wait(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("no"), until=5.0)
    async with world.delivering():
        first, second = (alert(n, close_time=T0 - 9000) for n in (1, 2))
        world.post(first, second)
        await trio.sleep(2)
        world.post(BLIND, RECOVERY)
        await trio.sleep(10)
        assert desk.entries == [[BLIND], [RECOVERY], [second], [first]]
    desk.said.clear()
    desk.trouble = lambda message: None
    started = trio.current_time()
    async with world.delivering():
        world.post(msgspec.structs.replace(BLIND, id="blind|coinbase|2|1"))
        await trio.sleep(0.1)
        assert desk.times == [round(started + 0.01, 3)]


async def test_an_entry_goes_to_its_channels_only(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        world.post(alert(1), channels=["other"])
        world.post(alert(2), channels=["gone"])
        world.post(alert(3))
        await trio.sleep(10)
    assert desk.entries == [[alert(3)]]
    assert other.entries == [[alert(3)], [alert(1)]]
    assert world.states() == ["-", "-", "sent m1"]
    async with world.delivering():
        await trio.sleep(10)
    assert len(desk.said) == 1


# -- channels in trouble ----------------------------------------------------------------------


async def test_a_dead_channel_delays_no_other_and_loses_nothing_for_a_while(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    desk.takes = 10.0
    desk.trouble = dead(ChannelError("desk: no route"), until=600.0)
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        world.post(*map(alert, range(3)))
        await trio.sleep(300)
        assert other.times == [3.0] * 3
        figures = world.delivery.figures
        assert (figures["other"].sent, figures["other"].pending) == (3, 0)
        assert (figures["desk"].sent, figures["desk"].pending) == (0, 3)
        assert 5 < figures["desk"].failed < 12, "less and less often"
        assert figures["desk"].why == "desk: no route"
        await trio.sleep(700)
        assert [len(entries) for entries in desk.entries] == [1, 2]
        assert not any(message.possibly_repeated for _, _, message in desk.said)
        assert world.delivery.figures["desk"].why == ""
    said = [record.message for record in caplog.records]
    assert said.count("a channel is lost") == 1
    assert said.count("a channel is back") == 1


async def test_what_may_have_arrived_is_sent_again_as_possibly_repeated(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    errors = [ChannelError("no answer", uncertain=True), ChannelError("no route")]
    desk.trouble = lambda message: errors.pop(0) if errors else None
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(20)
        [(_, _, message)] = desk.said
        assert message.possibly_repeated


async def test_a_channel_that_is_dead_for_long_keeps_the_newest_and_says_how_many_went(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    desk.trouble = dead(ChannelError("down"), until=500.0)
    count = MOST + 12
    async with world.delivering():
        for number in range(count):
            world.post(alert(number, close_time=T0 + number * 2000))
            await trio.sleep(2)
        await trio.sleep(10)
        assert world.delivery.figures["desk"].pending == MOST
        assert world.counted() == world.delivery.figures["desk"].dropped == 12
        await trio.sleep(200)
        told = [entry for entries in desk.entries for entry in entries]
        numbers = [int(entry.strength) for entry in told if isinstance(entry, Alert)]
        assert sorted(numbers) == list(range(12, count)), "never the newest"
        dropped = [message.dropped_before for _, _, message in desk.said]
        assert dropped == [12] + [0] * (len(dropped) - 1)
    assert world.states()[:12] == ["dropped 200 newer messages waited"] * 12
    assert [r.message for r in caplog.records].count("older messages are dropped") == 1


@pytest.mark.parametrize("blind_first", [True, False])
async def test_the_oldest_goes_whatever_it_tells_of(
    world: World, desk: FakeChannel, autojump_clock: MockClock, blind_first: bool
):
    desk.trouble = dead(ChannelError("down"), until=60.0)
    blinds = [msgspec.structs.replace(BLIND, id=f"blind|coinbase|{n}|1") for n in range(MOST - 1)]
    some = [alert(n, close_time=T0 - 60_000) for n in (1, 2)]
    async with world.delivering():
        for entries in (blinds, some) if blind_first else (some, blinds):
            world.post(*entries)
            await trio.sleep(5)
        await trio.sleep(150)
    told = [entry for entries in desk.entries for entry in entries]
    assert len(told) == MOST
    [gone] = [one for one in (*blinds, *some) if one not in told]
    assert gone == (blinds[0] if blind_first else some[1]), "of one close the strongest is first"


async def test_dropped_ones_are_told_of_once_also_across_restarts(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    ids = world.put(alert(1), alert(2))
    call = outbox.mark(EXCHANGE, 1, "desk", ids[1], dict.fromkeys(ids, outbox.dropped("full")))
    world.redis.client.run([call])
    for number in (3, 4):
        async with world.delivering():
            world.post(alert(number))
            await trio.sleep(10)
    assert [message.dropped_before for _, _, message in desk.said] == [2, 0]


async def test_a_refused_message_is_dropped_with_its_why_and_the_next_one_goes_out(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    desk.trouble = lambda message: (
        ChannelRefused("desk: 400 Bad Request") if alert(2) in message.entries else None
    )
    async with world.delivering():
        world.post(*map(alert, range(4)))
        await trio.sleep(10)
        assert [entries for [entries] in desk.entries] == [alert(3), alert(1), alert(0)]
        assert world.states()[2] == "dropped desk: 400 Bad Request"
        assert desk.tries == 4
        assert world.counted() == 1
    [record] = [r for r in caplog.records if r.message == "a message was refused"]
    assert vars(record)["fields"]["why"] == "desk: 400 Bad Request"


async def test_a_busy_channel_is_left_alone_for_as_long_as_it_says(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    errors = [ChannelBusy("429", 40.0)]
    desk.trouble = lambda message: errors.pop() if errors else None
    async with world.delivering():
        world.post(alert(1), alert(2))
        await trio.sleep(100)
        assert desk.times == [43.0, 43.0]
        assert desk.tries == 3
        assert not desk.said[0][2].possibly_repeated, "it was not taken"
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_message_that_breaks_the_channel_s_code_is_dropped_and_the_rest_goes_out(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = lambda message: ZeroDivisionError() if alert(2) in message.entries else None
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        world.post(alert(1), alert(2))
        await trio.sleep(60)
        assert desk.entries == [[alert(1)]]
        assert world.states() == ["sent m1", "dropped it made the channel fail"]
        assert other.times == [3.0, 3.0]


# -- crashes and successors -------------------------------------------------------------------


async def test_what_was_sent_and_not_marked_is_sent_again_and_says_so(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.redis.lost = "sent m1"
        world.post(alert(1))
        await trio.sleep(60)
        assert len(desk.said) == 1, "this process knows that it was sent"
        world.post(alert(2))
        await trio.sleep(1)
    assert world.states() == ["sending", "-"]
    world.redis.lost = ""
    world.epoch = 2
    async with world.delivering():
        await trio.sleep(10)
    assert desk.entries == [[alert(1)], [alert(1)], [alert(2)]]
    assert [message.possibly_repeated for _, _, message in desk.said] == [False, True, False]
    assert world.states() == ["sent m2", "sent m3"]
    async with world.delivering():
        await trio.sleep(10)
    assert len(desk.said) == 3


async def test_once_redis_is_back_what_was_sent_is_marked_and_not_sent_again(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.redis.lost = "sent m1"
        world.post(alert(1))
        await trio.sleep(60)
        world.redis.lost = ""
        await trio.sleep(5)
        assert world.states() == ["sent m1"]
        assert len(desk.said) == 1


async def test_a_successor_sends_what_waits_and_the_one_before_sends_no_more(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with world.delivering():
            world.post(alert(1))
            await trio.sleep(1)
            names = [channel.name for channel in world.channels]
            world.redis.client.run([outbox.begin(EXCHANGE, 2, names)])
            await trio.sleep_forever()
    assert desk.said == []
    assert trio.current_time() < 10
    world.epoch = 2
    async with world.delivering():
        await trio.sleep(10)
    assert desk.entries == [[alert(1)]]
    assert not desk.said[0][2].possibly_repeated


async def test_whose_lease_lapsed_sends_nothing(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.lease.valid_until = 2.0
        world.post(alert(1), BLIND)
        await trio.sleep(1)
        await trio.sleep(2)
        other = msgspec.structs.replace(BLIND, id="blind|coinbase|2|1")
        world.post(alert(2), other)
        world.delivery.direct(outbox.posting(RECOVERY))
        await trio.sleep(100)
        assert desk.entries == [[BLIND], [RECOVERY]], "what is nobody else's is told all the same"
        world.lease.valid_until = math.inf
        await trio.sleep(2)
        assert desk.entries[2:] == [[other], [alert(1)], [alert(2)]]


async def test_what_others_add_is_found_without_being_told(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.put(BLIND)
        await trio.sleep(1.1)
        assert desk.entries == [[BLIND]]


async def test_more_than_a_page_is_read_at_the_start(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    for start in range(0, outbox.PAGE + 100, 100):
        world.put(*map(late, range(start, start + 100)))
    async with world.delivering():
        await trio.sleep(20)
        [entries] = desk.entries
        assert desk.times == [5.0], "not a page per look"
        assert len(entries) == outbox.PAGE + 100
        [mark] = set(world.states())
        assert mark.startswith("sent m1 combined")


async def test_an_outbox_that_was_lost_begins_anew_and_nothing_is_told_twice(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        world.redis.client.one("FLUSHALL")
        world.post(alert(1), alert(2))  # the rules tell again what they do not remember
        await trio.sleep(10)
        assert desk.entries == [[alert(1)], [alert(2)]]
        assert world.states() == ["sent m1", "sent m2"]


@pytest.mark.parametrize("before", [0.0, 2.0])
async def test_an_emptied_redis_is_noticed_before_or_after_something_new_comes(
    world: World, desk: FakeChannel, autojump_clock: MockClock, before: float
):
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        world.redis.client.one("FLUSHALL")
        await trio.sleep(before)
        # Its clock may be behind: lower ids than before.
        text = encode_entry(BLIND)
        key = outbox.stream_key(EXCHANGE)
        world.redis.client.one("XADD", key, "5-0", "claim", "x", "entry", text, "channels", "")
        await trio.sleep(2)
        assert desk.entries == [[alert(1)], [BLIND]]
        assert world.states() == ["sent m2"]


async def test_what_is_known_of_channels_may_be_lost_alone(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(BLIND)
        await trio.sleep(1)
    desk.trouble = dead(ChannelError("down"), until=20.0)
    async with world.delivering():
        first, second = (alert(n, close_time=T0 - 9000) for n in (1, 2))
        world.post(first)
        await trio.sleep(5)
        world.redis.client.one("DEL", outbox.marks_key(EXCHANGE))
        await trio.sleep(5)
        world.post(second)
        await trio.sleep(60)
        assert desk.entries == [[BLIND], [first], [second]], "once each"
        assert world.states() == ["-", "sent m2", "sent m3"]
        marks = outbox.read_marks(world.redis.client.one(*outbox.all_marks(EXCHANGE)))
        assert marks.channels == ("desk",)


async def test_entries_may_be_lost_alone(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        key = outbox.stream_key(EXCHANGE)
        world.redis.client.one("DEL", key)
        text = encode_entry(BLIND)
        world.redis.client.one("XADD", key, "5-0", "claim", "x", "entry", text, "channels", "")
        await trio.sleep(2)
        assert desk.entries == [[alert(1)], [BLIND]]


async def test_a_channel_that_is_new_beside_an_older_one_is_told_what_is_new(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    world.put(alert(1))
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        world.post(alert(2))
        await trio.sleep(10)
    assert desk.entries == [[alert(2)], [alert(1)]]
    assert other.entries == [[alert(2)]]


async def test_an_outbox_that_goes_back_in_time_repeats_nothing_that_waits(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=20.0)
    async with world.delivering():
        first, second = (alert(n, close_time=T0 - 9000) for n in (1, 2))
        _, lost = world.post(first, second)
        await trio.sleep(5)
        world.redis.client.one("XDEL", outbox.stream_key(EXCHANGE), lost)
        await trio.sleep(60)
        assert desk.entries == [[second], [first]]


async def test_what_is_no_entry_is_said_and_passed_over(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    async with world.delivering():
        world.redis.client.one("XADD", outbox.stream_key(EXCHANGE), "*", "what", "ever")
        world.post(BLIND)
        await trio.sleep(1)
        assert desk.entries == [[BLIND]]
    assert "the outbox holds what is no entry of ours" in [r.message for r in caplog.records]


# -- withdrawals ------------------------------------------------------------------------------


def withdrawal(of: Alert, entry: str) -> Withdrawal:
    return Withdrawal(of, entry, "its candle was corrected", T0 + 9000)


async def test_an_alert_withdrawn_before_it_was_sent_is_not_sent(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        [first, _] = world.post(alert(1), alert(2))
        await trio.sleep(1)
        world.post(withdrawal(alert(1), first))
        await trio.sleep(10)
        assert desk.entries == [[alert(2)]]
        assert world.states() == ["withdrawn", "sent m1", "withdrawn"]
        assert world.counted() == 0


async def test_one_that_waits_for_a_dead_channel_is_not_sent_either_unless_it_was_tried(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=30.0)
    async with world.delivering():
        first, second = world.post(alert(1), alert(2))
        await trio.sleep(10)
        world.post(withdrawal(alert(1), first), withdrawal(alert(2), second))
        await trio.sleep(100)
        assert desk.entries == [[alert(2)], [withdrawal(alert(2), second)]]
        assert world.states() == ["withdrawn", "sent m1", "withdrawn", "sent m2"]


class Slow(Inline):
    """What marks an alert takes longer than it takes to withdraw it."""

    meanwhile: Callable[[], object] | None = None

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        if self.meanwhile and any(outbox.SENDING in map(str, call) for call in calls):
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
            await trio.sleep(2)
        return await super().run(calls, lane)


async def test_an_alert_withdrawn_while_it_is_being_marked_is_not_sent(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    world.redis = slow = Slow(world.redis.client)
    async with world.delivering():
        [entry] = world.post(alert(1))
        slow.meanwhile = lambda: world.post(withdrawal(alert(1), entry))
        await trio.sleep(30)
        assert desk.tries == 0
        assert world.states() == ["withdrawn", "withdrawn"]
        assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_sent_alert_is_edited_where_the_channel_can(
    world: World, desk: FakeChannel, autojump_clock: MockClock, restarted: bool
):
    desk.edits = True
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        [first] = world.post(alert(1))
        await trio.sleep(10)
        if not restarted:
            world.post(withdrawal(alert(1), first))
            await trio.sleep(10)
    if restarted:
        world.put(withdrawal(alert(1), first))
        async with world.delivering():
            await trio.sleep(10)
    assert desk.hows == ["send", "edit m1"]
    assert other.hows == ["send", "send"]
    assert desk.kinds == other.kinds == ["alert", "withdrawn"]
    assert world.states() == ["sent m1", "sent m1"]
    assert world.states("other") == ["sent m1", "sent m2"]


async def test_a_digest_that_is_edited_stays_as_late_as_it_was(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.ahead = 3_600_000
    async with world.delivering():
        [first, _] = world.post(alert(1), alert(2))
        await trio.sleep(30)
    async with world.delivering():
        await trio.sleep(3600)
        world.post(withdrawal(alert(1), first))
        await trio.sleep(30)
    assert desk.kinds == ["late", "late"]
    assert desk.said[0][2].rows[0] == desk.said[1][2].rows[0]


async def test_a_withdrawn_one_among_several_leaves_the_others_in_their_message(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    async with world.delivering():
        ids = world.post(*map(alert, range(6)))
        await trio.sleep(10)
        first = withdrawal(alert(1), ids[1])
        second = withdrawal(alert(4), ids[4])
        world.post(first)
        await trio.sleep(10)
        world.post(second)
        await trio.sleep(10)
    assert desk.hows == ["send", "edit m1", "edit m1"]
    assert desk.entries[1] == [alert(5), alert(4), alert(3), alert(2), first, alert(0)]
    assert desk.entries[2] == [alert(5), second, alert(3), alert(2), first, alert(0)]


async def test_a_message_that_is_gone_is_withdrawn_by_another(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    async with world.delivering():
        [first] = world.post(alert(1))
        await trio.sleep(10)
        errors: list[Exception] = [ChannelRefused("404")]
        desk.trouble = lambda message: errors.pop() if errors else None
        world.post(withdrawal(alert(1), first))
        await trio.sleep(10)
        assert desk.hows == ["send", "send"]
        assert desk.kinds == ["alert", "withdrawn"]


async def test_what_was_dropped_needs_no_withdrawal(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelRefused("400"), until=5.0)
    async with world.delivering():
        [first] = world.post(alert(1))
        await trio.sleep(10)
        world.post(withdrawal(alert(1), first))
        await trio.sleep(10)
        assert desk.said == []
        assert world.states() == ["dropped 400", "withdrawn"]


async def test_one_that_may_have_been_sent_before_a_crash_is_not_withdrawn_in_silence(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    [first] = world.put(alert(1))
    call = outbox.mark(EXCHANGE, 1, "desk", outbox.BEGINNING, {first: outbox.SENDING})
    world.redis.client.run([call])
    world.put(withdrawal(alert(1), first))
    async with world.delivering():
        await trio.sleep(10)
        assert desk.kinds == ["alert", "withdrawn"]
        assert desk.said[0][2].possibly_repeated


# -- Redis is away ----------------------------------------------------------------------------


async def test_a_blindness_is_told_while_redis_is_away_and_only_once(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(1)
        world.redis.away = True
        await trio.sleep(10)
        world.delivery.direct(outbox.posting(BLIND))
        world.delivery.direct(outbox.posting(BLIND))
        world.delivery.direct(outbox.posting(RECOVERY, ["other"]))
        await trio.sleep(2)
        assert desk.entries == [[BLIND]]
        world.redis.away = False
        world.post(BLIND)
        await trio.sleep(20)
        assert desk.entries == [[BLIND], [alert(1)]]
        assert world.states() == ["sent m2", "sent m1"]


async def test_a_blindness_in_the_outbox_does_not_wait_for_redis_either(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=5.0)
    async with world.delivering():
        world.post(alert(1, close_time=T0 - 9000))
        world.post(BLIND)
        await trio.sleep(1)
        world.redis.away = True
        await trio.sleep(20)
        assert desk.entries == [[BLIND]]
        world.redis.away = False
        await trio.sleep(20)
        assert [len(desk.said), world.states()[1]] == [2, "sent m1"]


async def test_what_is_told_directly_is_told_once_also_where_it_is_in_the_outbox(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"), until=20.0)
    async with world.delivering():
        world.delivery.direct(outbox.posting(BLIND))
        await trio.sleep(1)
        world.post(BLIND)  # the reply to the first try was lost
        await trio.sleep(60)
        assert desk.entries == [[BLIND]]
        assert world.states() == ["sent m1"]


async def test_redis_may_be_away_at_the_start(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    world.register()
    world.put(alert(1))
    world.redis.away = True
    async with world.delivering(first=False):
        world.delivery.direct(outbox.posting(BLIND))
        await trio.sleep(60)
        assert desk.entries == [[BLIND]]
        world.redis.away = False
        await trio.sleep(10)
        assert desk.entries == [[BLIND], [alert(1)]]


# -- the end ----------------------------------------------------------------------------------


async def test_what_waits_is_sent_at_the_end(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1), late(2))
    assert desk.entries == [[alert(1)], [late(2)]]
    assert trio.current_time() < 0.1
    assert world.states() == ["sent m1", "sent m2"]


async def test_what_is_added_while_all_is_being_cancelled_is_sent(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    with trio.move_on_after(1):
        async with world.delivering():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(2.5)
                    world.post(alert(1))
    assert desk.entries == [[alert(1)]]
    assert trio.current_time() < 3.6


@pytest.mark.parametrize("redis_too", [False, True])
async def test_the_end_waits_two_seconds_at_most(
    world: World, desk: FakeChannel, autojump_clock: MockClock, redis_too: bool
):
    desk.takes = 60.0
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        world.redis.away = redis_too
        ended = trio.current_time()
    assert trio.current_time() == pytest.approx(ended + DRAIN)
    world.redis.away = False
    desk.takes = 0.0
    async with world.delivering():
        await trio.sleep(10)
    assert [message.possibly_repeated for _, _, message in desk.said] == [True]


async def test_a_dead_channel_does_not_hold_up_the_end(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.trouble = dead(ChannelError("down"))
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        ended = trio.current_time()
    assert trio.current_time() == ended


async def test_a_redis_that_is_away_does_not_hold_up_the_end(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async with world.delivering():
        world.post(alert(1))
        world.redis.away = True
        await trio.sleep(10)
        ended = trio.current_time()
    assert trio.current_time() <= ended + DRAIN_AWAY
    assert desk.said == []


async def test_a_damaged_outbox_does_not_end_the_feed(
    world: World, desk: FakeChannel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    world.register()
    marks = outbox.marks_key(EXCHANGE)
    world.redis.client.one("HSET", marks, "dropped|desk", "not a number")
    async with world.delivering():
        world.put(alert(1))
        await trio.sleep(5)
        world.redis.client.one("HDEL", marks, "dropped|desk")
        await trio.sleep(100)
        assert desk.entries == [[alert(1)]]
        assert any("delivery failed unexpectedly" in one.message for one in caplog.records)


# -- charts -----------------------------------------------------------------------------------


def drawing(seconds: float = 0.2, error: Exception | None = None) -> Draw:
    async def draw(one: Alert) -> bytes | None:
        await trio.sleep(seconds)
        if error is not None:
            raise error
        return f"S{one.strength:.0f}".encode()

    return draw


async def test_a_chart_follows_its_alert_and_no_alert_waits_for_one(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing(1.0)
    world.channels.append(other := FakeChannel("other"))
    async with world.delivering():
        world.post(alert(1), alert(2), BLIND)
        await trio.sleep(10)
        assert desk.hows == ["send"] * 3 + ["attach S2 to m2", "attach S1 to m3"]
        assert desk.times == [0.01, 3.0, 3.0, 4.0, 5.0]
        assert desk.kinds[3:] == ["alert", "alert"]
        assert other.hows == ["send"] * 3


async def test_several_in_one_message_have_no_chart(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing()
    async with world.delivering():
        world.post(*map(alert, range(6)))
        await trio.sleep(10)
        assert desk.hows == ["send"]


@pytest.mark.parametrize("error", [ChannelError("x"), ChannelRefused("x"), None])
async def test_a_chart_that_is_not_taken_does_not_matter_to_any_alert(
    world: World, desk: FakeChannel, autojump_clock: MockClock, error: Exception | None
):
    desk.edits = True
    desk.attach_trouble = error
    world.draw = drawing(error=None if error else ValueError("the drawing is broken"))
    async with world.delivering():
        world.post(*map(alert, range(3)))
        await trio.sleep(10)
        world.post(alert(4))
        await trio.sleep(10)
        assert desk.hows == ["send"] * 4
        assert [round(t, 1) for t in desk.times] == [3.0] * 3 + [10.3]


async def test_a_chart_is_offered_again_as_soon_as_a_busy_channel_says(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing(0.0)
    desk.attach_trouble = lambda: ChannelBusy("429", 20.0) if trio.current_time() < 20 else None
    async with world.delivering():
        world.post(alert(1), alert(2))
        await trio.sleep(5)
        world.post(alert(4))
        await trio.sleep(60)
    assert desk.hows == ["send"] * 3 + [f"attach S{n} to m{k}" for n, k in ((2, 1), (1, 2), (4, 3))]
    assert [round(t, 1) for t in desk.times] == [3.0, 3.0, 5.3, 23.0, 23.0, 23.0]


async def test_a_channel_that_stays_busy_keeps_no_chart_for_ever(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing(0.0)
    errors: list[Exception] = [ChannelBusy("429", 20.0)] * 3
    desk.attach_trouble = lambda: errors.pop() if errors else None
    async with world.delivering():
        world.post(alert(1), alert(2))
        await trio.sleep(100)
    assert desk.hows == ["send", "send", "attach S1 to m2"]
    assert desk.times[-1] == 43.0


async def test_an_alert_that_is_withdrawn_while_its_chart_waits_gets_none(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing(0.0)
    errors: list[Exception] = [ChannelBusy("429", 20.0)]
    desk.attach_trouble = lambda: errors.pop() if errors else None
    async with world.delivering():
        [first] = world.post(alert(1))
        await trio.sleep(10)
        world.post(withdrawal(alert(1), first))
        await trio.sleep(60)
    assert desk.hows == ["send", "edit m1"]


async def test_an_alert_without_a_chart_stays_as_it_is(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    async def nothing(one: Alert) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return None

    desk.edits = True
    world.draw = nothing
    async with world.delivering():
        world.post(alert(1))
        await trio.sleep(10)
        assert desk.hows == ["send"]


async def test_a_withdrawn_alert_gets_no_chart(
    world: World, desk: FakeChannel, autojump_clock: MockClock
):
    desk.edits = True
    world.draw = drawing(2.0)
    async with world.delivering():
        first, second = world.post(alert(1), alert(2))
        await trio.sleep(4)
        world.post(withdrawal(alert(1), first), withdrawal(alert(2), second))
        await trio.sleep(10)
        assert desk.hows == ["send", "send", "edit m2", "edit m1"]
