"""Commands over a real Redis: heard once, by the right instance, in the right order, or refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio

from livermore.adapters.redis import Client, Redis
from livermore.control import memory
from livermore.control.announcing import Announcer, network_log
from livermore.control.command import (
    EXPIRES,
    Answer,
    Command,
    commands_channel,
    encode,
    redis_time,
    responses_channel,
    send,
)
from livermore.control.desk import Desk, Done, Progress
from livermore.control.registry import (
    Instance,
    Running,
    instance_key,
    keep_registered,
    read_instances,
)
from livermore.errors import CommandRefused, NotRunning, TakenError, UsageError
from livermore.market.lifecycle import State
from livermore.runtime.fleet import Change, Fleet

SECRET = "a secret that both sides know"


@attrs.define
class FakeFleet:
    """States of exchanges, and no feeds."""

    states: dict[str, State] = attrs.Factory(dict)

    def cell(self, exchange: str) -> Any:
        @attrs.frozen
        class Cell:
            state: State
            feed: None = None

        return Cell(self.states.get(exchange, State.IDLE))


@attrs.define
class World:
    """One instance; every command is written down, and does what ``acts`` says."""

    url: str
    desk: Desk
    ran: list[str] = attrs.Factory(list)
    go: trio.Event = attrs.Factory(trio.Event)

    async def send(self, kind: str, payload: Any = None, **more: Any) -> Answer:
        def work() -> Answer:
            client = Client(self.url)
            try:
                return send(client, "coinbase", kind, payload, **{"timeout": 20.0, **more})
            finally:
                client.close()

        return await trio.to_thread.run_sync(work)

    async def publish(self, text: str, exchange: str = "coinbase") -> None:
        await in_thread(self.url, lambda c: c.run([("PUBLISH", commands_channel(exchange), text)]))

    async def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 15
        while not what():
            assert time.monotonic() < deadline
            await trio.sleep(0.02)


async def in_thread(url: str, work: Callable[[Client], Any]) -> Any:
    def run() -> Any:
        client = Client(url)
        try:
            return work(client)
        finally:
            client.close()

    return await trio.to_thread.run_sync(run)


@asynccontextmanager
async def instance(
    url: str, name: str = "one", secret: str | None = None, state: State = State.ACTIVE
) -> AsyncIterator[World]:
    redis = Redis(url)
    world: World

    async def act(command: Command, progress: Progress) -> Done:
        world.ran.append(command.type)
        if command.type == "clear-cache":
            await progress("half", done=1, total=2)
            await world.go.wait()
        if command.type == "stop":
            raise CommandRefused("it does not want to")
        if command.type == "start":

            async def follow(progress: Progress) -> Done:
                await world.go.wait()
                return Done("up")

            return Done("starting", follow=follow)
        return Done(f"{command.type} by {name}", {"symbols": list(command.symbols)})

    class Acts(dict[str, Any]):
        def __missing__(self, kind: str) -> Any:
            return act

    fleet = cast(Fleet, FakeFleet({"coinbase": state}))
    desk = Desk(redis, name, ("coinbase", "binance"), fleet, Acts(), secret)
    world = World(url, desk)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.run)
                await listening(url)
                yield world
                nursery.cancel_scope.cancel()
    finally:
        redis.close()


async def listening(url: str, count: int = 1) -> None:
    """Until so many hear commands."""
    if "cluster" in url:
        await trio.sleep(1)
        return
    for _ in range(500):
        [found] = await in_thread(url, lambda c: c.run([("CLIENT", "LIST", "TYPE", "PUBSUB")]))
        if found.count(b" psub=2 ") >= count:
            return
        await trio.sleep(0.02)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("make", ["valkey_url", "redis_url", "cluster_url"])
async def test_a_command_is_heard_run_and_answered(make: str, request: pytest.FixtureRequest):
    url: str = request.getfixturevalue(make)
    async with instance(url) as one:
        answer = await one.send("add-symbol", {"symbols": ["SOL-USD"]})
        assert answer == Answer("one", "add-symbol by one", {"symbols": ["SOL-USD"]})
        assert one.ran == ["add-symbol"]
        assert one.desk.counts == {"run": 1}


async def test_who_sends_learns_within_two_seconds_that_nobody_listens(valkey_url: str):
    begun = time.monotonic()
    with pytest.raises(NotRunning, match="nobody listens for commands of coinbase"):
        await in_thread(valkey_url, lambda c: send(c, "coinbase", "pause"))
    assert time.monotonic() - begun < 10


async def test_what_fails_is_an_error_and_the_next_command_is_run(valkey_url: str):
    async with instance(valkey_url) as one:
        with pytest.raises(CommandRefused, match="it does not want to"):
            await one.send("stop")
        with pytest.raises(CommandRefused, match="coinbase is active already"):
            await one.send("start")
        assert (await one.send("pause")).text == "pause by one"
        assert one.desk.counts == {"failed": 2, "run": 1}


async def test_one_at_a_time_and_the_most_urgent_first(valkey_url: str):
    async with instance(valkey_url) as one:
        heard: list[str] = []
        async with trio.open_nursery() as nursery:

            async def ask(kind: str, payload: Any = None) -> None:
                await one.send(kind, payload, heard=lambda text, data: heard.append(text))

            nursery.start_soon(ask, "clear-cache")
            await one.until(lambda: heard)
            for kind, payload in (
                ("force-backfill", {}), ("add-symbol", {"symbols": ["A-B"]}),
                ("reload-settings", {}), ("pause", {}),
            ):  # fmt: skip
                nursery.start_soon(ask, kind, payload)
            await one.until(lambda: len(one.desk._queues["coinbase"]) == 4)
            assert one.ran == ["clear-cache"]
            assert (await one.send("status")).text == "status by one", "it waits for nobody"
            one.go.set()
        assert heard == ["half"]
    order = ["clear-cache", "status", "pause", "reload-settings", "add-symbol", "force-backfill"]
    assert one.ran == order


async def test_what_takes_long_is_followed_while_others_run(valkey_url: str):
    async with instance(valkey_url, state=State.IDLE) as one:
        answers: list[str] = []

        async def start() -> None:
            answers.append((await one.send("start")).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await one.until(lambda: one.ran)
            assert (await one.send("reload-settings")).text == "reload-settings by one"
            assert answers == []
            one.go.set()
        assert answers == ["up"]


async def test_unsigned_wrongly_signed_and_foreign_commands_are_refused_and_counted(
    valkey_url: str,
):
    async with instance(valkey_url, secret=SECRET) as one:
        with pytest.raises(CommandRefused, match="refused: not signed"):
            await one.send("pause")
        with pytest.raises(CommandRefused, match="refused: wrongly signed"):
            await one.send("pause", secret="another secret, just as long")
        assert (await one.send("pause", secret=SECRET)).text == "pause by one"
        now = await in_thread(valkey_url, lambda c: redis_time(c, "00000000"))
        foreign = Command(
            correlation="1234567890", exchange="binance", type="stop", issued_at=now,
            expires_at=now + 9000,
        )  # fmt: skip
        await one.publish(encode(foreign, SECRET))
        await one.publish("{")
        await one.until(lambda: one.desk.counts["refused"] == 4)
        assert one.ran == ["pause"]


async def test_a_command_that_comes_again_or_late_is_not_run(valkey_url: str):
    async with instance(valkey_url, secret=SECRET) as one:
        now = await in_thread(valkey_url, lambda c: redis_time(c, "00000000"))
        pause = Command(
            correlation="1234567890", exchange="coinbase", type="pause", issued_at=now,
            expires_at=now + EXPIRES,
        )  # fmt: skip
        for _ in range(3):
            await one.publish(encode(pause, SECRET))
        old = attrs.evolve(pause, correlation="0987654321", issued_at=now - 9, expires_at=now - 1)
        await one.publish(encode(old, SECRET))
        await one.until(lambda: one.desk.counts["refused"] == 3)
        assert one.ran == ["pause"]


async def test_of_two_instances_the_one_that_has_the_exchange_runs_it(valkey_url: str):
    async with (
        instance(valkey_url, "idle", state=State.IDLE) as idle,
        instance(valkey_url, "busy") as busy,
    ):
        await listening(valkey_url, 2)
        for _ in range(3):
            assert (await busy.send("pause")).instance == "busy"
        assert idle.ran == []
        assert idle.desk.counts == {}


async def test_of_two_idle_instances_one_starts_it(valkey_url: str):
    async with (
        instance(valkey_url, "a", state=State.IDLE) as one,
        instance(valkey_url, "b", state=State.IDLE) as other,
    ):
        await listening(valkey_url, 2)
        one.go.set()
        other.go.set()
        assert (await one.send("start")).instance in ("a", "b")
        assert len(one.ran + other.ran) == 1


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        (State.STOPPING, "pause", "coinbase is stopping.*wait until it is idle"),
        (State.STARTING, "force-backfill", "coinbase is starting.*wait until it follows"),
        (State.FAILED, "resume", "coinbase is failed"),
    ],
)
async def test_what_makes_no_sense_now_is_refused_with_the_next_step(
    valkey_url: str, state: State, kind: str, said: str
):
    async with instance(valkey_url, state=state) as one:
        with pytest.raises(CommandRefused, match=said):
            await one.send(kind)
        assert one.ran == []
        assert (await one.send("reload-settings")).text == "reload-settings by one"


async def test_who_ends_takes_no_more_commands_and_says_so_by_silence(valkey_url: str):
    async with instance(valkey_url) as one:
        assert (await one.send("pause")).text == "pause by one"
    with pytest.raises(NotRunning):
        await in_thread(valkey_url, lambda c: send(c, "coinbase", "pause"))


async def test_a_redis_that_was_away_is_listened_to_again(own_valkey: Any):
    async with instance(own_valkey.url) as one:
        await trio.to_thread.run_sync(own_valkey.stop)
        await trio.sleep(0.5)
        await trio.to_thread.run_sync(own_valkey.start)
        await listening(own_valkey.url)
        assert (await one.send("pause")).text == "pause by one"


async def test_no_answer_is_missed_that_comes_at_once(valkey_url: str):
    """The answers are listened to before the command is out."""
    begun, done = threading.Event(), threading.Event()

    def answer_at_once(client: Client) -> None:
        stopped = threading.Event()
        begun.set()
        for _, text in client.messages([commands_channel("coinbase")], done):
            one = json.loads(text)["correlation"]
            said = {"correlation": one, "status": "success", "instance": "x", "text": "at once",
                    "data": {}}  # fmt: skip
            other = Client(valkey_url)
            other.run([("PUBLISH", responses_channel(one), json.dumps(said))])
            other.close()
        stopped.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, valkey_url, answer_at_once)
            await trio.to_thread.run_sync(begun.wait)
            for _ in range(250):
                [count] = await in_thread(valkey_url, lambda c: c.run([("PUBSUB", "NUMPAT")]))
                if count:
                    break
                await trio.sleep(0.02)
            for _ in range(20):
                sent = await in_thread(valkey_url, lambda c: send(c, "coinbase", "pause"))
                assert sent.text == "at once"
            done.set()


async def test_what_is_no_command_is_said_before_it_is_sent(valkey_url: str):
    with pytest.raises(UsageError, match="unknown command 'buy'"):
        await in_thread(valkey_url, lambda c: send(c, "coinbase", "buy"))


@pytest.mark.parametrize("make", ["valkey_url", "cluster_url"])
async def test_instances_are_seen_and_gone_when_they_end(make, request: pytest.FixtureRequest):
    url: str = request.getfixturevalue(make)
    redis = Redis(url)

    def describe() -> Instance:
        feed = Running("coinbase", "active", 3.0, 50, "scalper-macdv", "")
        return Instance("box:7:abc", "box", 7, "1", 9.0, (feed,), {"run": 1})

    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_registered, redis, describe, trio.sleep_forever)
                seen: Any = []
                while not seen:
                    await trio.sleep(0.02)
                    seen = await in_thread(url, read_instances)
                assert [one.instance for one in seen] == [describe()]
                assert 0 <= seen[0].age < 10_000
                left = await in_thread(
                    url, lambda c: c.run([("PTTL", instance_key("box:7:abc"))])[0]
                )
                assert 0 < left <= 15_000, "who is killed is gone after three heartbeats"
                nursery.cancel_scope.cancel()
            assert await in_thread(url, read_instances) == []
    finally:
        redis.close()


async def test_every_change_is_published_and_kept_also_over_an_outage(own_valkey: Any):
    redis = Redis(own_valkey.url)
    announcer = Announcer(redis, "box:7:abc", lambda: 1_790_000_000.0)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(announcer.run)
                announcer.tell(Change("coinbase", State.IDLE, State.STARTING))
                await trio.sleep(0.2)
                await trio.to_thread.run_sync(own_valkey.stop)
                announcer.tell(Change("coinbase", State.STARTING, State.FAILED, "451"))
                await trio.sleep(0.2)
                await trio.to_thread.run_sync(own_valkey.start)
                rows: list[Any] = []
                while len(rows) < 2:
                    await trio.sleep(0.1)
                    rows = await in_thread(
                        own_valkey.url,
                        lambda c: c.run([("XRANGE", network_log("coinbase"), "-", "+")])[0],
                    )
                nursery.cancel_scope.cancel()
        told = [json.loads(fields[b"event"]) for _, fields in rows]
        assert [one["event"] for one in told] == ["exchange:connecting", "exchange:failed"]
        assert told[1] == {
            "event": "exchange:failed", "exchange": "coinbase", "from": "starting", "to": "failed",
            "instance": "box:7:abc", "time": 1_790_000_000_000, "why": "451",
        }  # fmt: skip
    finally:
        redis.close()


async def test_what_a_command_made_of_a_feed_is_known_to_the_next_process_of_that_place(
    valkey_url: str,
):
    redis = Redis(valkey_url)
    names = ("coinbase", "binance")
    try:
        await memory.remember(redis, "coinbase", "box:/a", memory.PAUSED)
        await memory.remember(redis, "binance", "box:/b", memory.STOPPED)
        assert await memory.recall(redis, names, "box:/a") == {"coinbase": "paused"}
        await memory.forget(redis, names, "box:/a")
        assert await memory.recall(redis, names, "box:/a") == {}
        assert await memory.recall(redis, names, "box:/b") == {"binance": "stopped"}
    finally:
        redis.close()


async def test_an_exchange_that_is_held_is_free_for_nobody(valkey_url: str):
    redis = Redis(valkey_url)
    try:
        await memory.check_free(redis, "coinbase")
        held = {"holder": "x", "epoch": "1", "description": '{"pid": 7, "host": "elsewhere"}'}
        flat = [word for pair in held.items() for word in pair]
        await in_thread(valkey_url, lambda c: c.run([("HSET", "lease:coinbase", *flat)]))
        with pytest.raises(TakenError, match="held by process 7 on elsewhere"):
            await memory.check_free(redis, "coinbase")
        assert not await memory.lives(redis, "coinbase"), "it is on another machine"
    finally:
        redis.close()
