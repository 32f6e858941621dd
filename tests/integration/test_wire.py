"""Scripts in the event loop, against a real Valkey: what happens to replies when things break."""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from redis.exceptions import NoScriptError, ResponseError
from trio.testing import MockClock

from livermore.adapters import redis as module
from livermore.adapters import store
from livermore.adapters.redis import Call, Later, Redis, ask_with_scripts, at_once
from livermore.adapters.valkey import valkey_binary
from livermore.adapters.wire import AT_ONCE, TOGETHER, Wire
from livermore.errors import Fenced, StoreError, StoreUnusable
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port

M5 = Timeframe.M5
T0 = 1_750_000_200_000


def write(symbol: str, slot: int = 0) -> Call:
    series = Series("coinbase", symbol, M5)
    return store.write(series, 1, [Candle(series, T0 + slot * M5.ms, 1.0, 2.0, 1.0, 2.0, 3.0)])


def codes(replies: list[object]) -> str:
    return "".join(
        "!" if isinstance(one, StoreError) else one[2].decode()  # type: ignore[index]
        for one in replies
    )


@pytest.fixture
def lanes(own_valkey: RedisServer) -> Iterator[Redis]:
    lanes = Redis(own_valkey.url)
    yield lanes
    lanes.close()


async def test_scripts_are_loaded_where_they_are_not_known_and_run_once(
    lanes: Redis, own_valkey: RedisServer
):
    calls = [write(f"S{n}-USD") for n in range(3 * AT_ONCE + 7)]
    assert codes(await lanes.run_each(calls)) == "a" * len(calls)
    with own_valkey.client() as client:
        client.script_flush()
    assert codes(await lanes.run_each(calls)) == "s" * len(calls)
    with own_valkey.client() as client:
        client.script_flush()
    with pytest.raises(StoreError, match="FENCED"):
        await lanes.run([store.write(Series("coinbase", "S1-USD", M5), 0, [])])


async def test_twenty_thousand_calls_at_once_come_back_in_their_order(lanes: Redis):
    """More than fits into what lies between us and the server, both ways."""
    calls = [write(f"S{n % 100}-USD", n // 100) for n in range(20_000)]
    replies = await lanes.run_each(calls)
    assert codes(replies) == "a" * 20_000
    assert [reply[0] for reply in replies] == [n // 100 + 1 for n in range(20_000)]


async def test_many_closes_are_few_calls_and_each_has_its_own_reply(
    lanes: Redis, own_valkey: RedisServer
):
    """Also those that are not simply the next candle, and those that are refused."""
    symbols = [f"S{n}-USD" for n in range(2 * AT_ONCE + 7)]
    foreign, late, several, fenced = symbols[3], symbols[14], symbols[60], symbols[61]

    def make(slot: int, place: int) -> Call:
        if slot == 2 and symbols[place] == several:
            series = Series("coinbase", several, M5)
            three = [Candle(series, T0 + n * M5.ms, 1.0, 2.0, 1.0, 2.0, 3.0) for n in (2, 3, 4)]
            return store.write(series, 1, three)
        early = symbols[place] == late and slot == 2
        return write(symbols[place], 0 if early else slot)

    async def round_of(slot: int) -> list[object]:
        with own_valkey.client() as client:
            client.config_resetstat()
            replies = await lanes.run_each(Later(lambda n: make(slot, n), len(symbols)))
            asked.append(client.info("commandstats")["cmdstat_evalsha"]["calls"])
        return replies

    asked: list[int] = []
    assert codes(await round_of(0)) == "a" * len(symbols), "the first of a series is asked alone"
    with own_valkey.client() as client:
        client.delete(f"candles:coinbase:{foreign}:5m")
        client.set(f"candles:coinbase:{foreign}:5m", "mine")
        client.hset(store.keys(Series("coinbase", fenced, M5)).companion, "epoch", 9)
    replies = await round_of(1)
    assert codes(replies) == "aaa!" + "a" * 57 + "!" + "a" * (len(symbols) - 62)
    assert store.is_foreign(replies[3])
    assert isinstance(replies[61], Fenced)
    replies = await round_of(2)
    found = codes(replies)
    assert found[3] == found[63] == "!"
    assert found[14] == "s"
    assert found[60:63] == "aaa", "three candles are one call of their own"
    assert asked[0] == len(symbols) + math.ceil(len(symbols) / TOGETHER)
    assert asked[1] == math.ceil(len(symbols) / TOGETHER) + 2
    with own_valkey.client() as client:
        client.script_flush()
    assert codes(await round_of(5)).replace("!", "a") == "a" * len(symbols)
    with own_valkey.client() as client:
        client.config_resetstat()
        await lanes.run_each(Later(lambda n: make(6, n), len(symbols)))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls == asked[1], "the script of many was loaded again as well"


@pytest.fixture
def node(server_directory: Path) -> Iterator[RedisServer]:
    """A server that is a whole cluster."""
    port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    directory = server_directory / f"node{port}"
    node = RedisServer(valkey_binary(), directory, port=port, persistent=False, options=options)
    node.start()
    try:
        with node.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 20
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield node
    finally:
        node.stop()


def scripts_run(server: RedisServer) -> int:
    """Scripts the server was asked for since the last time, refused ones as well."""
    with server.client() as client:
        told = client.info("commandstats").get("cmdstat_evalsha", {})
        client.config_resetstat()
    return int(told.get("calls", 0)) + int(told.get("rejected_calls", 0))


async def test_a_node_of_a_cluster_takes_many_closes_one_by_one_and_is_not_asked_twice_for_ever(
    node: RedisServer,
):
    """It refuses a call whose keys lie in several slots, and the plain URL does not tell."""
    lanes = Redis(node.url)
    counts = []
    for slot in range(4):
        replies = await lanes.run_each(Later(lambda n, slot=slot: write(f"S{n}-USD", slot), 100))  # type: ignore[misc]
        assert codes(replies) == "a" * 100
        assert [reply[0] for reply in replies] == [slot + 1] * 100
        counts.append(scripts_run(node))
    assert counts[2:] == [100, 100]
    with node.client() as client:
        client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    replies = await lanes.run_each(Later(lambda n: write(f"S{n}-USD", 4), 100))
    assert codes(replies) == "a" * 100
    assert scripts_run(node) == 100 + 100 // TOGETHER, (
        "who answers on a new connection may be another"
    )
    lanes.close()


class Answering:
    """A server that answers what it is told to, call by call, on one connection."""

    def __init__(self, *answers: bytes) -> None:
        self.connected = Connected()
        self.wire = Wire(5.0)
        self.wire.use(self.connected)
        self.connected.server.sendall(b"".join(answers))

    def heard(self) -> int:
        """How many calls came."""
        self.connected.server.setblocking(False)
        return self.connected.server.recv(1 << 20).count(b"EVALSHA")

    def close(self) -> None:
        self.wire.close()
        self.connected.server.close()


async def test_a_server_that_refuses_everything_for_a_while_gets_joined_calls_afterwards():
    calls = [write(f"S{n}-USD") for n in range(3)]
    busy = b"-BUSY Redis is busy running a script\r\n"
    server = Answering(*[busy] * 4, b"*3\r\n+a\r\n+b\r\n+c\r\n")
    assert ["busy" in str(one) for one in await server.wire.ask_together(calls, "0")] == [True] * 3
    assert server.heard() == 1 + 3
    assert await server.wire.ask_together(calls, "0") == [b"a", b"b", b"c"]
    assert server.heard() == 1
    server.close()


async def test_of_a_joined_call_that_is_refused_each_gets_its_own_answer():
    calls = [write(f"S{n}-USD") for n in range(3)]
    server = Answering(b"-CROSSSLOT no\r\n", b"+a\r\n-ERR mine\r\n+c\r\n", b"+d\r\n+e\r\n+f\r\n")
    one, two, three = await server.wire.ask_together(calls, "0")
    assert [one, str(two), three] == [b"a", "ERR mine", b"c"]
    assert await server.wire.ask_together(calls, "0") == [b"d", b"e", b"f"]
    assert server.heard() == 1 + 3 + 3
    server.close()


async def test_of_many_closes_that_are_cut_nothing_is_run_twice(
    lanes: Redis, own_valkey: RedisServer, proxy: Proxy
):
    cut = Redis(proxy.url)
    calls = [Later(lambda n, slot=slot: write(f"S{n}-USD", slot), 250) for slot in range(2)]  # type: ignore[misc]
    assert codes(await cut.run_each(calls[0])) == "a" * 250
    made = proxy.cut("candles:coinbase:S220-USD", request=30)
    told = codes(await cut.run_each(calls[1]))
    assert made.made.wait(5)
    assert len(told) == 250
    assert told == "a" * told.count("a") + "!" * told.count("!")
    assert told[-1] == "!"
    again = codes(await cut.run_each(calls[1]))
    assert again == "s" * again.count("s") + "a" * again.count("a"), "what was run is the same now"
    assert again.count("s") >= told.count("a")
    cut.close()


async def test_while_redis_works_the_event_loop_goes_on(lanes: Redis, proxy: Proxy):
    slow = Redis(proxy.url)
    await slow.run([write("A-USD")])
    proxy.delay = 0.5
    beats = itertools.count()
    async with trio.open_nursery() as nursery:

        async def beat() -> None:
            while True:
                await trio.sleep(0.01)
                next(beats)

        nursery.start_soon(beat)
        assert codes(await slow.run_each([write("A-USD", 1)])) == "a"
        nursery.cancel_scope.cancel()
    assert next(beats) > 10
    assert slow.took("write") >= 0.5
    slow.close()


async def test_a_connection_that_was_ended_meanwhile_is_no_error(
    lanes: Redis, own_valkey: RedisServer
):
    assert codes(await lanes.run_each([write("A-USD")])) == "a"
    with own_valkey.client() as client:
        client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    assert codes(await lanes.run_each([write("A-USD", 1)])) == "a"
    own_valkey.restart()
    assert codes(await lanes.run_each([write("B-USD")])) == "a"


async def test_of_a_batch_that_is_cut_nothing_is_run_twice(
    lanes: Redis, own_valkey: RedisServer, proxy: Proxy
):
    cut = Redis(proxy.url)
    await cut.run([write("OTHER-USD")])
    calls = [write(f"S{n}-USD") for n in range(250)]
    made = proxy.cut("candles:coinbase:S220-USD", request=30)
    told = codes(await cut.run_each(calls))
    assert made.made.wait(5)
    assert "!" in told
    assert told.strip("!").strip("a") == ""
    assert told == "a" * told.count("a") + "!" * told.count("!")
    again = codes(await cut.run_each(calls))
    assert again == "s" * again.count("s") + "a" * again.count("a"), "what was run is the same now"
    assert again.count("s") >= told.count("a")
    assert codes(await lanes.run_each(calls)) == "s" * 250
    cut.close()


@pytest.mark.parametrize("rate", [0.0, 60.0])
async def test_silence_is_an_error_after_real_seconds_whatever_the_clock_says(
    own_valkey: RedisServer, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock, rate: float
):
    """With a clock that stands still nothing but real time ends it."""
    monkeypatch.setattr(module, "SOCKET_TIMEOUT", 1.0)
    lanes = Redis(own_valkey.url)
    mock_clock.rate = rate
    if rate == 0.0:
        mock_clock.autojump_threshold = 0.0
    await lanes.run([write("A-USD")])
    own_valkey.pause()
    begun = time.monotonic()
    [reply] = await lanes.run_each([write("A-USD", 1)])
    took = time.monotonic() - begun
    own_valkey.resume()
    assert "Timeout" in str(reply)
    assert 0.9 < took < 5.0
    # The connection is another: what comes late answers nobody.
    [reply] = await lanes.run_each([write("B-USD")])
    assert reply[0] == 1
    lanes.close()


async def test_a_server_that_does_not_read_is_an_error_as_well(
    own_valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SOCKET_TIMEOUT", 1.0)
    lanes = Redis(own_valkey.url)
    await lanes.run([write("A-USD")])
    own_valkey.pause()
    replies = await lanes.run_each([write(f"S{n}-USD") for n in range(20_000)])
    own_valkey.resume()
    assert all("Timeout" in str(one) for one in replies)
    assert codes(await lanes.run_each([write("A-USD", 1)])) == "a"
    lanes.close()


class Connected:
    """What redis-py hands over, at the other end of which the test answers."""

    def __init__(self) -> None:
        self._sock, self.server = socket.socketpair()
        self._parser = self

    @staticmethod
    def parse_error(text: str) -> Exception:
        return (NoScriptError if text.startswith("NOSCRIPT") else ResponseError)(text)

    def disconnect(self) -> None:
        self._sock.close()


@pytest.mark.parametrize(
    ("said", "kept", "why"),
    [
        (b":1\r\nwhat is this?\r\n:2\r\n", [1], "rotocol error"),
        (b":1\r\n*2\r\n:1\r\n", [1], "closed by server"),
        (b"", [], "closed by server"),
        (b"-ERR no\r\n>2\r\n+told\r\n+unasked\r\n:7\r\n$9\r\nhalf", ["no", 7], "closed by server"),
    ],
)
async def test_what_is_no_reply_is_an_error_in_every_place_that_is_left(
    said: bytes, kept: list[object], why: str
):
    connected = Connected()
    wire = Wire(5.0)
    wire.use(connected)
    connected.server.sendall(said)
    connected.server.shutdown(socket.SHUT_WR)
    replies = await wire.ask([("PING",)] * 4)
    there = [str(one) if isinstance(one, ResponseError) else one for one in replies[: len(kept)]]
    assert [str(one).removeprefix("ERR ") if isinstance(one, str) else one for one in there] == kept
    assert all(why in str(one) for one in replies[len(kept) :])
    assert not wire.is_open()
    connected.server.close()


async def test_a_connection_that_is_lost_behind_an_unknown_script_is_not_asked_to_load_it():
    connected = Connected()
    wire = Wire(5.0)
    wire.use(connected)
    connected.server.sendall(b"-NOSCRIPT No matching script.\r\n")
    connected.server.shutdown(socket.SHUT_WR)
    calls = [write("A-USD"), write("B-USD")]
    replies = await wire.ask(calls)
    await ask_with_scripts(wire, calls, replies)
    assert ["NOSCRIPT" in str(replies[0]), "closed by server" in str(replies[1])] == [True, True]
    connected.server.close()


async def test_who_is_cancelled_waits_for_the_reply(lanes: Redis, own_valkey: RedisServer):
    await lanes.run([write("A-USD")])
    with trio.CancelScope() as scope:
        scope.cancel()
        await lanes.run_each([write("A-USD", 1)])
    assert scope.cancelled_caught, "who was cancelled before does not begin"
    own_valkey.pause()
    came: list[object] = []

    async def ask() -> None:
        came.extend(await lanes.run_each([write("A-USD", 1)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
        own_valkey.resume()
    assert codes(came) == "a"
    assert codes(await lanes.run_each([write("A-USD", 1)])) == "s"


async def test_a_server_that_is_away_refuses_or_is_a_replica_says_so(
    own_valkey: RedisServer,
):
    lanes = Redis(own_valkey.url)
    with own_valkey.client() as client:
        client.config_set("maxmemory", 1)
        [full] = await lanes.run_each([write("A-USD")])
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", 1)
        [replica] = await lanes.run_each([write("A-USD")])
        client.replicaof("NO", "ONE")
        assert codes(await lanes.run_each([write("A-USD")])) == "a"
    own_valkey.stop()
    replies = await lanes.run_each([write("A-USD"), write("B-USD")])
    assert all(isinstance(one, StoreError) for one in replies)
    assert replies[0] is replies[1]
    assert "full" in str(full)
    assert "read-only" in str(replica)
    lanes.close()


async def test_users_passwords_and_databases_of_the_url_hold(own_valkey: RedisServer):
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">p/w d", "~*", "&*", "+@all")
    url = own_valkey.url.replace("unix://", "unix://me:p%2Fw%20d@") + "?db=3"
    lanes = Redis(url)
    assert codes(await lanes.run_each([write("A-USD")])) == "a"
    with own_valkey.client() as client:
        assert client.dbsize() == 0
        client.execute_command("SELECT", 3)
        assert client.dbsize() == 2
    lanes.close()
    wrong = Redis(url.replace("p%2Fw", "other"))
    with pytest.raises(StoreUnusable, match="refuses us"):
        await wrong.run([write("A-USD")])
    wrong.close()


async def test_a_lane_of_threads_answers_the_same(lanes: Redis):
    calls = [write(f"S{n}-USD") for n in range(20)]
    assert codes(await lanes.run_each(calls, "lease")) == "a" * 20
    assert await lanes.run_each(calls, "lease") == await lanes.run_each(calls, "write")


@pytest.mark.parametrize("lock", [trio.Lock, lambda: trio.CapacityLimiter(1)])
async def test_what_nobody_holds_is_held_before_others_have_their_turn(lock: Callable[[], Any]):
    held, turns = lock(), []

    async def other() -> None:
        turns.append("other")
        async with at_once(held):
            turns.append("other has it")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with at_once(held):
            turns.append("ours")
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        turns.append("given back")
    assert turns == ["ours", "other", "given back", "other has it"]
