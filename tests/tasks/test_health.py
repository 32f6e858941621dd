"""Metrics and health over HTTP: what is answered, and what clients cannot do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import httpx
import pytest
import trio
import trio.testing
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from trio.testing import MockClock

from livermore import daemon
from livermore.adapters.http_server import MOST_HEAD, WITHIN, Answer, Question, serve_one
from livermore.adapters.redis import Redis
from livermore.errors import ConfigurationError
from livermore.exchanges.coinbase import COINBASE
from livermore.runtime.connection import State
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.following import Following
from livermore.runtime.health import (
    MOST_CLIENTS,
    answers,
    keep_health,
    open_listeners,
    serve_health,
    sources,
    url_of,
)
from livermore.runtime.metrics import Source
from livermore.runtime.repairs import DEEPER, HISTORY
from livermore.runtime.status import HANGS
from tests.tasks.test_condition import World, gap

# -- what is answered -------------------------------------------------------------------------


def asked(world: World, *more: World) -> Callable[[str], tuple[int, str]]:
    worlds = {"coinbase": world, **{f"other{n}": one for n, one in enumerate(more)}}
    answer = answers(
        lambda: {name: Source(one.report, one.clock()) for name, one in worlds.items()}
    )

    def ask(path: str) -> tuple[int, str]:
        reply = answer(Question(path))
        return reply.status, reply.body.decode()

    return ask


def samples(text: str) -> dict[tuple[str, ...], float]:
    """``(name, label values …)`` -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }


async def test_ready_is_who_is_not_blind(autojump_clock: MockClock):
    await trio.sleep(1000)
    world, other = World(), World()
    ask = asked(world, other)
    assert ask("/readyz") == (
        200,
        "coinbase: live since 2027-01-15T08:00:00Z\nother0: live since 2027-01-15T08:00:00Z\n",
    )
    other.redis_away()
    status, text = ask("/readyz")
    assert status == 503
    healthy, blind = text.splitlines()
    assert healthy == "coinbase: live since 2027-01-15T08:00:00Z"
    assert blind == other.condition().line("other0")
    other.writer.turns.away_since = None
    assert ask("/readyz")[0] == 200
    world.repairs.progress.done = 3  # candles are followed, what is older comes
    assert ask("/readyz")[0] == 200
    world.report.started_following = False
    assert ask("/readyz")[0] == 503


async def test_an_exchange_whose_feed_did_not_begin_is_not_ready_but_alive(
    autojump_clock: MockClock,
):
    answer = answers(sources(["coinbase", "kucoin"], {}))
    reply = answer(Question("/readyz"))
    assert (reply.status, reply.body) == (503, b"coinbase: starting\nkucoin: starting\n")
    assert answer(Question("/livez")).status == 200
    assert answers(sources([], {}))(Question("/readyz")).status == 503


async def test_no_outage_makes_it_look_dead_but_a_writer_that_hangs_does(
    autojump_clock: MockClock,
):
    await trio.sleep(1000)
    world = World()
    ask = asked(world)
    world.writer.turns.beat = trio.current_time()
    world.drop(*world.healths)
    world.redis_away()
    assert ask("/livez") == (200, "alive\n")
    await trio.sleep(HANGS)
    assert ask("/livez") == (503, "the writer hangs: coinbase\n")
    world.report.lost = "it broke"  # it does not hang, it is started again
    assert ask("/livez")[0] == 200
    assert ask("/readyz")[0] == 503


async def test_metrics_say_what_the_feed_counted(autojump_clock: MockClock):
    await trio.sleep(1000)
    world = World()
    turns = world.writer.turns
    turns.closes, turns.corrections, turns.newest_close = 40, 2, world.clock() - 90_000
    for lag in (0.2, 0.3, 400.0):
        turns.all_lags.take(lag)
    turns.batches.take(300)
    turns.took.take(0.02)
    world.writer.closed = 7
    world.healths[0].frames, world.healths[1].frames = 1000, 500
    world.healths[0].malformed = 3
    world.drop(world.healths[1])
    world.repairs.open_gaps = [gap(), gap(HISTORY), gap(DEEPER)]
    world.repairs.progress.filled = 5
    text = asked(world)("/metrics")[1]
    found = samples(text)
    for name, value in {
        ("livermore_closes_total", "coinbase"): 40,
        ("livermore_corrections_total", "coinbase"): 2,
        ("livermore_newest_close_age_seconds", "coinbase"): 90,
        ("livermore_close_lag_seconds_bucket", "coinbase", "0.1"): 0,
        ("livermore_close_lag_seconds_bucket", "coinbase", "0.25"): 1,
        ("livermore_close_lag_seconds_bucket", "coinbase", "300.0"): 2,
        ("livermore_close_lag_seconds_bucket", "coinbase", "+Inf"): 3,
        ("livermore_close_lag_seconds_count", "coinbase"): 3,
        ("livermore_close_lag_seconds_sum", "coinbase"): 400.5,
        ("livermore_writer_batch_candles_bucket", "coinbase", "100.0"): 0,
        ("livermore_writer_batch_candles_bucket", "coinbase", "300.0"): 1,
        ("livermore_writer_batch_seconds_sum", "coinbase"): 0.02,
        ("livermore_pending", "coinbase"): 7,
        ("livermore_frames_total", "coinbase"): 1500,
        ("livermore_malformed_total", "coinbase"): 3,
        ("livermore_reconnects_total", "coinbase"): 1,
        ("livermore_connections", "coinbase", "live"): 1,
        ("livermore_connections", "coinbase", "waiting"): 1,
        ("livermore_gaps_open", "coinbase"): 1,
        ("livermore_gaps_open_candles", "coinbase"): 2,
        ("livermore_gaps_ended_total", "coinbase", "filled"): 5,
        ("livermore_gaps_ended_total", "coinbase", "unfillable"): 0,
        ("livermore_history_series_whole", "coinbase"): 15,
        ("livermore_redis_away", "coinbase"): 0,
        ("livermore_state", "coinbase", "blind"): 1,
        ("livermore_state", "coinbase", "live"): 0,
        ("livermore_blind", "coinbase"): 1,
    }.items():
        assert found[name] == value, name
    world.redis_away()
    await trio.sleep(12)
    found = samples(asked(world)("/metrics")[1])
    assert found["livermore_redis_away", "coinbase"] == 1
    assert found["livermore_redis_away_seconds", "coinbase"] == 12


async def test_every_family_is_told_once_for_all_exchanges(autojump_clock: MockClock):
    text = asked(World(), World())("/metrics")[1]
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert samples(text)["livermore_blind", "other0"] == 0
    unlabelled = {"livermore_info"}
    for family in parse(text):
        if family.name.startswith("livermore_") and family.name not in unlabelled:
            assert {s.labels["exchange"] for s in family.samples} == {"coinbase", "other0"}


async def test_a_feed_that_starts_has_metrics_as_well(autojump_clock: MockClock):
    answer = answers(sources(["coinbase"], {}))
    found = samples(answer(Question("/metrics")).body.decode())
    assert found["livermore_state", "coinbase", "starting"] == 1
    assert ("livermore_closes_total", "coinbase") not in found, "not 0: nobody counted"


async def test_openmetrics_are_served_to_who_asks_for_them(autojump_clock: MockClock):
    world = World()
    answer = answers(lambda: {"coinbase": Source(world.report, world.clock())})
    reply = answer(Question("/metrics", "application/openmetrics-text; version=1.0.0"))
    assert reply.content_type.startswith("application/openmetrics-text")
    assert any(f.name == "livermore_closes" for f in parse_openmetrics(reply.body.decode()))


# -- one client -------------------------------------------------------------------------------


async def conversation(*said: bytes, wait: float = 0.0) -> bytes:
    """All that the server says to a client that says this; it must end by itself."""
    ours, theirs = trio.testing.memory_stream_pair()
    heard = b""
    with trio.fail_after(WITHIN + wait + 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, theirs, lambda question: Answer(200, b"the body"))
            with contextlib.suppress(trio.BrokenResourceError):  # sent away in the middle
                for piece in said:
                    await ours.send_all(piece)
                    await trio.sleep(wait)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await ours.receive_some():
                    heard += bytes(data)
    return heard


async def test_a_question_is_answered_and_the_connection_closed(autojump_clock: MockClock):
    heard = await conversation(b"GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head
    assert b"content-length: 8" in head
    assert body == b"the body"


async def test_head_has_the_length_but_no_body(autojump_clock: MockClock):
    heard = await conversation(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"content-length: 8" in heard
    assert heard.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"DELETE / HTTP/1.0\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"what do you want\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no host
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * MOST_HEAD + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 2 * MOST_HEAD, b"431"),  # and no end
    ],
)
async def test_what_is_no_question_of_ours_is_refused(
    autojump_clock: MockClock, said: bytes, status: bytes
):
    heard = await conversation(said)
    assert heard.startswith(b"HTTP/1.1 " + status), heard[:60]
    if status == b"405":
        assert b"allow: GET, HEAD" in heard


@pytest.mark.parametrize("said", [(), (b"GET / HT",)], ids=["nothing", "half a question"])
async def test_a_silent_client_is_left_in_time(autojump_clock: MockClock, said: tuple[bytes, ...]):
    begun = trio.current_time()
    assert await conversation(*said) == b""
    assert trio.current_time() - begun == pytest.approx(WITHIN)


async def test_a_slow_client_has_as_much_time_as_a_fast_one(autojump_clock: MockClock):
    pieces = [bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]
    begun = trio.current_time()
    assert await conversation(*pieces, wait=1.0) == b""
    assert trio.current_time() - begun <= WITHIN + 2


async def test_a_client_that_does_not_read_is_left_in_time(autojump_clock: MockClock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    with trio.fail_after(WITHIN + 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, theirs, lambda question: Answer(200, b"x" * 1_000_000))
            await ours.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_a_client_that_left_is_no_error(autojump_clock: MockClock):
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await ours.aclose()
    await serve_one(theirs, lambda question: Answer(200, b"the body"))


# -- the server -------------------------------------------------------------------------------


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, World]]:
    """A server on a free port, and the feed it speaks of."""
    world = World()
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_health, listeners, lambda: {"coinbase": Source(world.report, world.clock())}
        )
        yield url_of(listeners[0]), world
        nursery.cancel_scope.cancel()


async def test_real_clients_are_answered(served: tuple[str, World]):
    url, world = served
    with trio.fail_after(20):
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = await client.get(f"{url}/metrics")
            assert metrics.headers["content-type"].startswith("text/plain; version=")
            assert samples(metrics.text)["livermore_blind", "coinbase"] == 0
            head = await client.head(f"{url}/metrics")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 1000
            assert (await client.get(f"{url}/livez")).status_code == 200
            assert (await client.get(f"{url}/nothing")).status_code == 404
            assert (await client.post(f"{url}/metrics", content=b"x" * 100_000)).status_code == 405
            world.healths[0].state, world.healths[0].reconnects = State.WAITING, 1
            ready = await client.get(f"{url}/readyz")
            assert ready.status_code == 503
            assert ready.text == world.line() + "\n"


async def test_more_clients_than_it_serves_are_closed_and_the_others_answered(
    served: tuple[str, World],
):
    url = served[0]
    port = int(url.rsplit(":", 1)[1])
    with trio.fail_after(20):
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MOST_CLIENTS)]
        one_more = await trio.open_tcp_stream("127.0.0.1", port)
        assert await one_more.receive_some() == b"", "closed unheard"
        await silent[0].send_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in await silent[0].receive_some()
        for stream in (*silent, one_more):
            await stream.aclose()
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:  # until it has noticed that they left
                try:
                    assert (await client.get(f"{url}/livez")).status_code == 200
                    break
                except httpx.TransportError:
                    await trio.sleep(0.01)


async def test_a_bug_in_an_answer_costs_a_second_not_the_daemon(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    ill = True

    def ask() -> dict[str, Source]:
        if ill:
            raise KeyError("broken")
        return {}

    listeners = await open_listeners("127.0.0.1", 0)
    url = url_of(listeners[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_health, listeners, "127.0.0.1", ask, lambda: 0.5)
        port = int(url.rsplit(":", 1)[1])

        async def get() -> bytes:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                return bytes(await stream.receive_some())

        assert await get() == b""
        ill = False
        heard = b""
        while not heard:
            await trio.sleep(0.5)
            try:
                heard = await get()
            except OSError:
                continue  # not there again yet
        assert heard.startswith(b"HTTP/1.1 200"), "at the same port"
        nursery.cancel_scope.cancel()
    assert "metrics failed unexpectedly" in caplog.text


async def test_a_port_in_use_is_one_line_that_says_what_to_do():
    [listener] = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            await open_listeners("127.0.0.1", port)
    message = str(caught.value)
    assert f"cannot listen on 127.0.0.1 port {port}: " in message
    assert "ddress already in use" in message
    assert "--metrics-port" in message


@pytest.mark.parametrize("host", ["no such host", "host.invalid", "192.0.2.1"])
async def test_a_host_that_is_not_ours_is_one_line(host: str):
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        await open_listeners(host, 0)


async def test_an_address_of_version_six_is_a_url_too():
    try:
        [listener] = await open_listeners("::1", 0)
    except ConfigurationError as error:
        pytest.skip(f"NO IPv6 HERE: {error}")
    async with listener:
        assert url_of(listener).startswith("http://[::1]:")


async def test_a_feed_that_broke_is_not_ready_until_it_sees_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    world = World()
    broken = True

    class FakeFeed:
        handing_on = False

        def __init__(self, *_: object) -> None:
            self.report = world.report if broken else World().report

        def now(self) -> int:
            return world.clock()

        async def run(self) -> None:
            if broken:
                raise KeyError("x")  # a bug
            await trio.sleep_forever()

    monkeypatch.setattr(daemon, "Feed", FakeFeed)
    feeds: dict[str, Feed] = {}
    answer = answers(sources(["coinbase"], feeds))
    plan = Plan(
        dialect=COINBASE, websocket_url="ws://x", rest_url="http://x", symbols=None, top=1,
        holder="us", description={},
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            daemon.keep_feeding,
            *(Following(plan), cast(Redis, None), feeds, None, daemon.Endings(["coinbase"])),
        )
        await trio.sleep(0.5)
        reply = answer(Question("/readyz"))
        assert reply.status == 503
        assert b"nothing is followed: 'x'; starting again" in reply.body
        assert answer(Question("/livez")).status == 200
        broken = False
        await trio.sleep(5)
        assert answer(Question("/readyz")).status == 200
        nursery.cancel_scope.cancel()
