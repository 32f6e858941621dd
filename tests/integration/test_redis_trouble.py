"""The adapter when the network tears, a primary becomes a replica, a slot moves, a master dies."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
import redis.cluster

from livermore.adapters import store
from livermore.adapters.redis import AHEAD, DIGESTS, Client, answered, script
from livermore.errors import StoreError
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from tests.proxy import Proxy, proxied
from tests.servers import Cluster, RedisServer, free_port

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms


def write(symbol: str, slot: int = 0) -> tuple[object, ...]:
    series = Series("coinbase", symbol, M5)
    return store.write(series, 1, [Candle(series, T0 + slot * M5.ms, 1.0, 2.0, 1.0, 2.0, 3.0)])


def told(url: str, work: Callable[[], object]) -> list[bytes]:
    """What is published while ``work`` is done, and whatever still comes within half a second."""
    with redis.Redis.from_url(url) as one, one.pubsub(ignore_subscribe_messages=True) as ears:
        ears.psubscribe("channel:*")
        ears.get_message(timeout=1)
        work()
        found: list[bytes] = []
        while (message := ears.get_message(timeout=0.5)) is not None:
            found.append(message["data"])
        return found


# -- torn connections: no retries of the library --------------------------------------------------


def counting(number: int) -> list[tuple[Any, ...]]:
    return [("INCR", "count")] * number


def publishing(number: int) -> list[tuple[Any, ...]]:
    return [script("publish", ("k",), "channel:x", b"%d" % n, "") for n in range(number)]


@pytest.mark.parametrize("reply", [0, 1], ids=["no answer", "half an answer"])
@pytest.mark.parametrize("number", [1, 5])
def test_a_command_whose_answer_is_lost_was_sent_once(
    own_valkey: RedisServer, proxy: Proxy, number: int, reply: int
):
    client = Client(proxy.url)
    client.one("SET", "count", 0)
    cut = proxy.cut("INCR", reply=reply)
    replies = client.run_each(counting(number))
    assert cut.made.wait(5)
    assert all(isinstance(one, StoreError) and not answered(one) for one in replies)
    assert client.one("GET", "count") == b"%d" % number
    assert proxy.accepted == 2, "the next call connects anew, nothing before it"
    client.close()


@pytest.mark.parametrize("reply", [0, 3], ids=["no answer", "half an answer"])
@pytest.mark.parametrize("number", [1, 5])
def test_a_message_whose_answer_is_lost_was_published_once(
    own_valkey: RedisServer, proxy: Proxy, number: int, reply: int
):
    client = Client(proxy.url)
    client.run([script("publish", ("k",), "other", "", "")])  # the script is known

    def lose() -> None:
        cut = proxy.cut(DIGESTS["publish"], reply=reply)
        replies = client.run_each(publishing(number))
        assert cut.made.wait(5)
        assert all(isinstance(one, StoreError) for one in replies)

    assert told(own_valkey.url, lose) == [b"%d" % n for n in range(number)]
    client.close()


def test_of_a_batch_that_is_cut_in_the_middle_each_candle_is_announced_once(
    own_valkey: RedisServer, proxy: Proxy
):
    client = Client(proxy.url)
    client.run([write("OTHER-USD")])
    calls = [write(f"S{number}-USD") for number in range(50)]

    def lose_and_ask_again() -> None:
        cut = proxy.cut("candles:coinbase:S20-USD", request=30)
        assert all(isinstance(one, StoreError) for one in client.run_each(calls))
        assert cut.made.wait(5)
        codes = b"".join(reply[2] for reply in client.run(calls))
        assert codes == b"s" * 20 + b"a" * 30

    heard = told(own_valkey.url, lose_and_ask_again)
    assert len(heard) == len(set(heard)) == 50
    client.close()


def test_of_a_long_batch_that_is_cut_the_replies_that_came_are_kept(
    own_valkey: RedisServer, proxy: Proxy
):
    client = Client(proxy.url)
    client.run([write("OTHER-USD")])
    calls = [write(f"S{number}-USD") for number in range(2 * AHEAD + 50)]
    cut = proxy.cut(f"candles:coinbase:S{2 * AHEAD + 20}-USD", request=30)
    replies = client.run_each(calls)
    assert cut.made.wait(5)
    assert [reply[2] for reply in replies[:AHEAD]] == [b"a"] * AHEAD
    came = [isinstance(reply, list) for reply in replies]
    assert came == sorted(came, reverse=True)
    assert not any(came[2 * AHEAD :])
    codes = b"".join(reply[2] for reply in client.run(calls))
    assert codes == b"s" * (2 * AHEAD + 20) + b"a" * 30
    client.close()


def test_silence_is_an_error_after_the_timeout_and_its_call_is_run_once(
    own_valkey: RedisServer, proxy: Proxy
):
    client = Client(proxy.url, timeout=0.4)
    client.one("SET", "count", 0)
    proxy.delay = 1.0
    with pytest.raises(StoreError, match="Timeout"):
        client.one("INCR", "count")
    proxy.delay = 0.0
    assert client.one("GET", "count") == b"1"
    client.close()


def test_an_answer_that_takes_a_second_is_waited_for_and_told(
    own_valkey: RedisServer, proxy: Proxy
):
    client = Client(proxy.url)
    client.one("PING")
    assert client.took < 0.5
    proxy.delay = 0.7
    assert client.run(counting(300))[-1] == 300
    assert 0.7 <= client.took < 2.5
    client.close()


def test_connections_to_nodes_that_are_gone_are_closed(replicated_cluster: Cluster):
    """The library drops them open: over days of failovers a daemon would run out of descriptors."""
    gc.collect()  # what others left is their business
    client = Client(f"redis+cluster://127.0.0.1:{replicated_cluster.nodes[1].port}")
    calls = [write(f"S{number}-USD") for number in range(40)]
    client.run(calls)
    replicated_cluster.nodes[0].kill()
    for _ in range(300):
        if not any(isinstance(reply, StoreError) for reply in client.run_each(calls)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("nobody took over")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        client.close()
        del client
        gc.collect()
    assert [str(one.message) for one in told] == []


# -- what a server says of itself -------------------------------------------------------------


def test_what_a_server_refuses_to_all_is_not_taken_for_the_fault_of_one_call(
    own_valkey: RedisServer,
):
    client = Client(own_valkey.url)
    with own_valkey.client() as one:
        one.config_set("maxmemory", 1)
        [full] = client.run_each([write("A-USD")])
        one.config_set("maxmemory", 0)
        one.replicaof("127.0.0.1", free_port())
        [replica] = client.run_each([write("A-USD")])
        one.replicaof("NO", "ONE")
        one.set(store.keys(Series("coinbase", "A-USD", M5)).candles, "mine")
    [foreign] = client.run_each([write("A-USD")])
    assert ["full" in str(full), "read-only" in str(replica)] == [True, True]
    assert [answered(error) for error in (full, replica, foreign)] == [False, False, True]
    client.close()


def test_after_a_failover_behind_one_address_the_new_primary_is_found(
    own_valkey: RedisServer, valkey_server: RedisServer, valkey_url: str
):
    """The old primary lives on as a replica, with our connections; new ones lead to the new one."""
    with proxied(str(own_valkey.socket)) as proxy:
        client = Client(proxy.url)
        client.run([write("A-USD")])
        with own_valkey.client() as one:
            one.replicaof("127.0.0.1", free_port())
        proxy.target = str(valkey_server.socket)
        with pytest.raises(StoreError, match="read-only"):
            client.run([write("A-USD", 1)])
        assert client.run([write("A-USD", 1)])[0][2] == b"a"
        client.close()


# -- clusters ---------------------------------------------------------------------------------


@contextlib.contextmanager
def hearing(node: RedisServer) -> Iterator[list[bytes]]:
    """Closes announced anywhere in the cluster of ``node`` within the block."""
    heard: list[bytes] = []
    stop = threading.Event()
    with node.client() as client, client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.psubscribe("channel:*:close:*")
        ears.get_message(timeout=1)

        def listen() -> None:
            while not stop.is_set() or heard_one():
                heard_one()

        def heard_one() -> bool:
            message = ears.get_message(timeout=0.3)
            if message is not None:
                heard.append(message["data"])
            return message is not None

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            stop.set()
            thread.join()


def command(node: RedisServer, *words: object) -> Any:
    with node.client() as one:
        return one.execute_command(*words)


def slot_of(node: RedisServer, key: str) -> int:
    return int(command(node, "CLUSTER KEYSLOT", key))


def owner(cluster: Cluster, slot: int) -> int:
    bounds = (5461, 10923, 16384)
    return next(number for number, bound in enumerate(bounds) if slot < bound)


def test_a_slot_that_moves_while_it_is_written_loses_and_repeats_nothing(
    cluster: Cluster, cluster_url: str
):
    """A candle is written at every step of a resharding, from a client that saw none of it."""
    series = Series("coinbase", "MOVED-USD", M5)
    named = store.keys(series)
    slot = slot_of(cluster.nodes[0], named.candles)
    start = owner(cluster, slot)
    source, target = cluster.nodes[start], cluster.nodes[(start + 1) % 3]
    ids = [command(node, "CLUSTER MYID") for node in (source, target)]
    client = Client(cluster_url)
    codes: list[bytes] = []

    def close(slot_number: int) -> None:
        reply = client.run([write("MOVED-USD", slot_number), write("STAYS-USD", slot_number)])
        codes.append(reply[0][2])
        assert reply[0][:2] == [slot_number + 1, slot_number + 1], "stored, and the version"

    def move(key: str) -> None:
        command(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 3000)

    with hearing(cluster.nodes[0]) as heard:
        close(0)
        command(target, "CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        command(source, "CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        close(1)  # both keys are still here
        move(named.candles)
        [torn] = client.run_each([write("MOVED-USD", 2)])  # one key here, one there
        assert type(torn) is StoreError, "a moment later it works"
        assert "moving slots" in str(torn)
        assert answered(torn), "the others go on"
        move(named.companion)
        command(target, "SCRIPT", "FLUSH")
        close(2)  # ASK: the target serves it to those who were sent there
        for node in (target, source, *cluster.nodes):
            command(node, "CLUSTER SETSLOT", slot, "NODE", ids[1])
        close(3)  # MOVED
        close(4)
        # And back, from a client that knows it is there.
        command(source, "CLUSTER SETSLOT", slot, "IMPORTING", ids[1])
        command(target, "CLUSTER SETSLOT", slot, "MIGRATING", ids[0])
        move_back = ("MIGRATE", "127.0.0.1", source.port, "", 0, 3000, "KEYS")
        command(target, *move_back, named.candles, named.companion)
        for node in cluster.nodes:
            command(node, "CLUSTER SETSLOT", slot, "NODE", ids[0])
        close(5)
    client.close()
    assert codes == [b"a"] * 6
    moved = [one for one in heard if b"MOVED-USD" in one]
    assert len(moved) == len(set(moved)) == 6


def test_a_slot_may_go_to_a_node_that_joined_after_we_connected(cluster: Cluster, cluster_url: str):
    client = Client(cluster_url)
    key = next(
        f"k{n}" for n in range(100) if owner(cluster, slot_of(cluster.nodes[0], f"k{n}")) == 0
    )
    slot = slot_of(cluster.nodes[0], key)
    source, target = cluster.nodes[0], cluster.nodes[1]
    ids = [command(node, "CLUSTER MYID") for node in (source, target)]
    try:
        client.one("PING")
        # To our client the target is unknown, as a node would be that has just joined.
        nodes = client._redis.nodes_manager.nodes_cache
        for name in [name for name in nodes if name.endswith(f":{target.port}")]:
            del nodes[name]
        command(target, "CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        command(source, "CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        assert client.one("SET", key, 1) is True
        assert client.run([("INCR", key)] * 3) == [2, 3, 4]
    finally:
        for node in (target, source, *cluster.nodes):
            command(node, "CLUSTER SETSLOT", slot, "NODE", ids[1])
        command(source, "CLUSTER SETSLOT", slot, "IMPORTING", ids[1])
        command(target, "CLUSTER SETSLOT", slot, "MIGRATING", ids[0])
        command(target, "MIGRATE", "127.0.0.1", source.port, key, 0, 3000)
        for node in (source, target, *cluster.nodes):
            command(node, "CLUSTER SETSLOT", slot, "NODE", ids[0])
    client.close()


def test_a_replica_that_takes_over_serves_what_its_master_did(replicated_cluster: Cluster):
    client = Client(replicated_cluster.url, timeout=1.0)
    symbols = [f"S{number}-USD" for number in range(30)]
    client.run([write(symbol) for symbol in symbols])
    replicated_cluster.nodes[0].kill()
    waiting: Sequence[str] = symbols
    codes: dict[str, bytes] = {}
    errors: set[type] = set()
    deadline = time.monotonic() + 30
    with hearing(replicated_cluster.nodes[1]) as heard:
        while waiting:
            assert time.monotonic() < deadline
            replies = client.run_each([write(symbol, 1) for symbol in waiting])
            errors |= {type(reply) for reply in replies if isinstance(reply, StoreError)}
            codes.update(
                (symbol, reply[2])
                for symbol, reply in zip(waiting, replies, strict=True)
                if not isinstance(reply, StoreError)
            )
            waiting = [symbol for symbol in waiting if symbol not in codes]
            time.sleep(0.1)
    assert errors == {StoreError}, "none that ends a daemon"
    assert set(codes.values()) == {b"a"}
    client.close()
    second = [one for one in heard if str(T0 + M5.ms).encode() in one]
    assert len(second) == len(set(second)) == 30
