"""The adapter on real servers: no retries, one line per failure, lanes that do not wait."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client, Redis, answered, script
from livermore.adapters.redis_url import shown
from livermore.adapters.valkey import valkey_binary
from livermore.errors import ConfigurationError, StoreError, StoreUnusable
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from tests.servers import Cluster, RedisServer, free_port, running_server

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms
NAMES = itertools.count()


def write(symbol: str, slot: int = 0) -> tuple[object, ...]:
    series = Series("coinbase", symbol, M5)
    return store.write(series, 1, [Candle(series, T0 + slot * M5.ms, 1.0, 2.0, 1.0, 2.0, 3.0)])


@pytest.fixture(params=["valkey", "redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = Client(url)
    yield client
    client.close()


# -- batches ----------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_calls_whatever_node_runs_them(client):
    count = 5_000
    calls = [("SET", f"k{number}", number) for number in range(count)]
    assert client.run(calls) == [True] * count
    reads = [("GET", f"k{number}") for number in range(count)]
    assert client.run(reads) == [b"%d" % number for number in range(count)]


def test_scripts_and_commands_share_a_batch(client):
    calls = [write(f"S{number}-USD") for number in range(30)]
    calls.append(("SET", "plain", "text", "EX", 60))
    calls += [script("publish", (f"k{n}",), "channel:x", "text", "60") for n in range(30)]
    replies = client.run(calls)
    assert [reply[2] for reply in replies[:30]] == [b"a"] * 30
    assert replies[30] is True
    assert client.one("GET", "k7") == b"text"


def test_scripts_are_loaded_again_after_they_were_flushed(client, url, request):
    client.run([write(f"S{number}-USD") for number in range(30)])
    if "cluster" in url:
        cluster: Cluster = request.getfixturevalue("cluster")
        for node in cluster.nodes:
            with node.client() as one:
                one.script_flush()
    else:
        client.one("SCRIPT", "FLUSH")
    replies = client.run([write(f"S{number}-USD", 1) for number in range(30)])
    assert [reply[2] for reply in replies] == [b"a"] * 30
    assert client.run([write("S1-USD", 1)])[0][2] == b"s"


def test_a_refused_call_is_in_its_place_and_the_others_are_run(client):
    keys = store.keys(Series("coinbase", "S3-USD", M5))
    client.one("SET", keys.candles, "mine")
    calls = [write(f"S{number}-USD") for number in range(10)]
    replies = client.run_each(calls)
    refused = [number for number, reply in enumerate(replies) if isinstance(reply, StoreError)]
    assert refused == [3]
    assert answered(replies[3])
    assert "another type" in str(replies[3])
    with pytest.raises(StoreError, match="another type"):
        client.run(calls)
    assert client.run([write("S9-USD")])[0][2] == b"s"


def test_an_empty_batch_asks_nobody():
    assert Client("unix:///nowhere").run([]) == []


# -- servers that stall, stop and come back ---------------------------------------------------


def test_a_stalled_server_is_an_error_after_three_seconds_and_runs_the_call_once(own_valkey):
    client = Client(own_valkey.url)
    client.run([("SET", "count", 0), write("A-USD")])
    own_valkey.pause()
    started = time.monotonic()
    with pytest.raises(StoreError, match="Timeout"):
        client.run([("INCR", "count")])
    assert 2.5 < time.monotonic() - started < 4.5
    own_valkey.resume()
    assert client.one("GET", "count") == b"1"
    client.close()


def test_a_stalled_server_costs_one_timeout_not_one_per_call_or_chunk(own_valkey):
    client = Client(own_valkey.url, timeout=0.5)
    client.one("SET", "count", 0)
    own_valkey.pause()
    started = time.monotonic()
    replies = client.run_each([("INCR", "count")] * 1500)
    assert time.monotonic() - started < 2
    assert all(isinstance(reply, StoreError) and not answered(reply) for reply in replies)
    own_valkey.resume()
    assert int(client.one("GET", "count")) <= 400
    client.close()


@pytest.fixture
def own_cluster(server_directory: Path) -> Iterator[Cluster]:
    directory = server_directory / f"own-cluster-{next(NAMES)}"
    directory.mkdir()
    cluster = Cluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_a_stalled_node_of_a_cluster_runs_calls_once_and_holds_back_only_its_own(own_cluster):
    client = Client(own_cluster.url, timeout=0.7)
    keys = [f"count{number}" for number in range(60)]
    client.run([("SET", key, 0) for key in keys])
    own_cluster.nodes[0].pause()
    started = time.monotonic()
    replies = client.run_each([("INCR", key) for key in keys])
    took = time.monotonic() - started
    lost = [key for key, reply in zip(keys, replies, strict=True) if isinstance(reply, StoreError)]
    assert 5 < len(lost) < 55
    assert took < 2
    own_cluster.nodes[0].resume()
    time.sleep(0.2)
    deadline = time.monotonic() + 10
    while True:  # the cluster needs a moment to believe the node again
        found = client.run_each([("GET", key) for key in keys])
        if not any(isinstance(value, StoreError) for value in found):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found == [b"1"] * 60
    client.close()


def test_a_cluster_is_found_again_when_the_node_of_the_url_is_gone(own_cluster):
    client = Client(own_cluster.url, timeout=1.0)
    keys = [f"count{number}" for number in range(60)]
    for node in own_cluster.nodes:
        with node.client() as one:
            one.config_set("cluster-require-full-coverage", "no")
    client.run([("SET", key, 0) for key in keys])
    own_cluster.nodes[0].kill()
    first = client.run_each([("INCR", key) for key in keys])
    second = client.run_each([("INCR", key) for key in keys])
    there = [number for number, reply in enumerate(first) if not isinstance(reply, StoreError)]
    assert 5 < len(there) < 55
    assert [second[number] for number in there] == [2] * len(there)
    client.close()


def test_a_restarted_server_costs_one_error_and_its_scripts_are_loaded_again(own_valkey):
    client = Client(own_valkey.url)
    client.run([write("A-USD"), write("B-USD")])
    own_valkey.restart()
    with contextlib.suppress(StoreError):
        client.run([write("A-USD", 1), write("B-USD", 1)])
    client.run([write("A-USD", 1), write("B-USD", 1)])
    assert client.one("ZCARD", "candles:coinbase:A-USD:5m") == 2
    own_valkey.stop()
    with pytest.raises(StoreError) as caught:
        client.run([write("A-USD", 2)])
    assert type(caught.value) is StoreError
    assert "\n" not in str(caught.value)
    client.close()


# -- messages for a person --------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret@127.0.0.1:{port}/0",
        "redis://:s3cret@127.0.0.1:{port}/0",
        "redis://s3cret@127.0.0.1:{port}/0",
        "redis://:s3c/ret@127.0.0.1:{port}",
        "redis://:s3c#ret@127.0.0.1:{port}",
        "redis://:s3c?ret@127.0.0.1:{port}",
        "redis://:s3c[ret@127.0.0.1:{port}",
        "redis://:s3c@ret@127.0.0.1:{port}",
        "redis://127.0.0.1:{port}/0?password=s3cret",
        "redis+cluster://:s3cret@127.0.0.1:{port}",
        "unix://:s3cret@/nowhere/socket",
        "http://:s3cret@127.0.0.1/",
        "redis://127.0.0.1:{port}/0?passwrd=s3cret",
        "redis://127.0.0.1:{port}/0?passwrd=s3cret&db=abc",
        "redis://127.0.0.1:{port}/0?s3cret",
        "redis://user:{port}?s3cret=x@127.0.0.1",
    ],
)
def test_a_password_is_in_no_message(url):
    url = url.format(port=free_port())
    with pytest.raises((StoreError, ConfigurationError)) as caught:
        Client(url).run([("PING",)])
    said = f"{caught.value} {shown(url)}"
    assert "s3c" not in said
    assert "ret" not in said.replace("retr", "")
    assert "***" in said


def test_a_wrong_password_says_what_to_check(own_valkey):
    with own_valkey.client() as one:
        one.config_set("requirepass", "right")
    for url in (own_valkey.url, own_valkey.url.replace("unix://", "unix://:wrong@")):
        with pytest.raises(StoreUnusable, match="user and password") as caught:
            Client(url).run([("PING",)])
        assert "wrong@" not in str(caught.value)


def test_missing_rights_are_for_a_person_to_mend(own_valkey):
    with own_valkey.client() as one:
        one.execute_command("ACL SETUSER weak on >pw ~* &* +@read +ping +hello +client")
    client = Client(own_valkey.url.replace("unix://", "unix://weak:pw@"))
    with pytest.raises(StoreUnusable, match="rights"):
        client.run([write("A-USD")])
    client.close()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def handle_one_request(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_is_no_redis_is_called_so():
    with socketserver.TCPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        port = server.server_address[1]
        with pytest.raises(StoreUnusable, match="does not speak the Redis protocol"):
            Client(f"redis://127.0.0.1:{port}").run([("PING",)])
        server.shutdown()


def test_a_node_of_a_cluster_addressed_as_one_server_is_called_so(cluster_url):
    client = Client(cluster_url.replace("+cluster", ""))
    with pytest.raises(StoreUnusable, match=r"redis\+cluster://"):
        client.run([write(f"S{number}-USD") for number in range(30)])
    client.close()


def test_a_read_only_replica_is_called_so(own_valkey, server_directory):
    port = free_port()
    with running_server(
        valkey_binary(), server_directory / f"primary-{next(NAMES)}", port=port, persistent=False
    ):
        with own_valkey.client() as one:
            one.replicaof("127.0.0.1", port)
        client = Client(own_valkey.url)
        with pytest.raises(StoreError, match="read-only replica"):
            client.run([write("A-USD")])
        client.close()


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_full_server_says_so_in_one_line_and_keeps_the_candle_it_was_to_correct(
    kind, request, server_directory
):
    binary = valkey_binary()
    if kind == "redis":
        request.getfixturevalue("redis_server")
        binary = server_directory / "redis-server"
        if not binary.exists():
            pytest.skip("redis-server has no link here")
    with running_server(
        binary, server_directory / f"full-{next(NAMES)}", persistent=False
    ) as server:
        client = Client(server.url)
        client.run([write("A-USD")])
        with server.client() as one:
            one.config_set("maxmemory", "1mb")
            one.config_set("maxmemory-policy", "noeviction")
        series = Series("coinbase", "A-USD", M5)
        changed = Candle(series, T0, 1.0, 2.5, 1.0, 2.5, 3.0, as_of=9)
        with pytest.raises(StoreError, match="full") as caught:
            client.run([store.write(series, 1, [changed])])
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        members = client.one("ZRANGE", "candles:coinbase:A-USD:5m", 0, -1)
        assert len(members) == 1
        assert b'"close":2.0' in members[0]
        client.close()


# -- lanes ------------------------------------------------------------------------------------


async def test_a_stalled_write_does_not_delay_the_lease(own_valkey):
    lanes = Redis(own_valkey.url)
    took: list[float] = []

    async def lease() -> None:
        for _ in range(20):
            started = trio.current_time()
            await lanes.one("PING", lane="lease")
            took.append(trio.current_time() - started)
            await trio.sleep(0.05)

    with trio.fail_after(20):
        await lanes.run([("PING",), ("DEL", "nothing")], "write")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease)
            with pytest.raises(StoreError):  # waits for a list that stays empty, as a stall would
                await lanes.run([("BLPOP", "nothing", 0)], "write")
    assert len(took) == 20
    assert max(took) < 0.5
    lanes.close()


async def test_a_lane_lets_one_batch_in_at_a_time(valkey_url):
    lanes = Redis(valkey_url)
    replies: list[int] = []

    async def ask() -> None:
        replies.extend(await lanes.run([("INCR", "n")] * 500))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
    assert replies == list(range(1, 3001))
    lanes.close()


async def test_a_cancelled_write_is_not_abandoned_half_way(valkey_url):
    lanes = Redis(valkey_url)
    with trio.move_on_after(0.001):
        await lanes.run([("INCR", "n")] * 5_000)
    assert await lanes.one("GET", "n") in (None, b"5000")
    lanes.close()


async def test_what_is_asked_of_a_stalled_server_for_alerts_is_left_behind(own_valkey):
    lanes = Redis(own_valkey.url)
    await lanes.one("PING", lane="alerts")
    own_valkey.pause()
    began = time.monotonic()
    with trio.move_on_after(0.1) as scope:
        await lanes.one("PING", lane="alerts")
    assert scope.cancelled_caught
    assert time.monotonic() - began < 2.5
    own_valkey.resume()
    assert await lanes.one("PING", lane="alerts")
    lanes.close()


# -- listening --------------------------------------------------------------------------------


def test_messages_arrive_with_their_channel_and_end_within_a_second(url):
    client, stopped = Client(url), threading.Event()
    found: list[tuple[str, bytes]] = []
    ready = threading.Event()

    def listen() -> None:
        for channel, payload in client.messages(["channel:x*"], stopped):
            found.append((channel, payload))
            ready.set()

    thread = threading.Thread(target=listen)
    thread.start()
    speaker = Client(url)
    deadline = time.monotonic() + 5
    while not ready.is_set() and time.monotonic() < deadline:
        speaker.run([script("publish", ("k",), "channel:x", b"\x00text", "")])
        ready.wait(0.05)
    stopped.set()
    started = time.monotonic()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - started < 1
    assert found[0] == ("channel:x", b"\x00text")
    speaker.close()
    client.close()


def test_listening_to_a_server_that_goes_away_is_a_store_error(own_valkey):
    client, stopped = Client(own_valkey.url), threading.Event()
    messages = client.messages(["channel:*"], stopped)
    threading.Timer(0.3, own_valkey.kill).start()
    with pytest.raises(StoreError):
        next(messages)
    client.close()


def test_a_client_of_redis_py_says_the_same_of_our_servers(own_valkey: RedisServer):
    with redis.Redis.from_url(own_valkey.url) as other:
        Client(own_valkey.url).run([("SET", "a", b"\xff")])
        assert other.get("a") == b"\xff"
