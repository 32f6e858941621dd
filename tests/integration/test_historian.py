"""Alerts in the outbox and in the database: once, also across outages of either."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters import exchange_rows, outbox
from livermore.adapters.postgres import Database
from livermore.adapters.redis import Client, Redis
from livermore.exchanges import DIALECTS
from livermore.runtime.historian import Historian, keep_histories
from livermore.runtime.journal import Journal
from livermore.signals.alert import Alert, Entry, Recovery, Withdrawal
from tests.integration.test_outbox import BLIND, alert
from tests.postgres import PostgresServer
from tests.servers import RedisServer

EXCHANGE = "coinbase"
ENDED = Recovery("blind|coinbase|1|1", EXCHANGE, 3, 0, 1, 60_000, 61_000)
WHY = "the candle was corrected"


@pytest.fixture
def prepared(prepared_url: str) -> Iterator[Database]:
    database = Database(prepared_url, timeout=60)
    database.run(lambda connection: exchange_rows.seed(connection, DIALECTS.values(), None))
    yield database
    database.close()


def post(client: Client, *entries: Entry, keep: int = 100) -> list[str]:
    postings = [outbox.posting(entry) for entry in entries]
    return outbox.posted(client.one(*outbox.post(EXCHANGE, 1, {}, postings, keep=keep)))


def history(database: Database, columns: str) -> list[tuple[Any, ...]]:
    query = f"SELECT {columns} FROM alert_history ORDER BY id".encode()
    return database.run(lambda connection: connection.execute(query).fetchall())


def progress(client: Client) -> dict[str, str]:
    found = client.one("HGETALL", outbox.history_key(EXCHANGE))
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {key.decode(): value.decode() for key, value in pairs}


@asynccontextmanager
async def kept(redis_url: str, database: Database) -> AsyncIterator[None]:
    """The history is kept during the block."""
    redis = Redis(redis_url)
    historian = Historian(EXCHANGE, redis, database, Journal(EXCHANGE), lambda: 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(historian.run)
        yield
        nursery.cancel_scope.cancel()
    redis.close()


async def until(fits: Callable[[], bool]) -> None:
    while True:
        if await trio.to_thread.run_sync(fits):
            return
        await trio.sleep(0.5)


@pytest.fixture(params=["valkey", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def hurry() -> MockClock:
    """The waits between two tries are short for us; databases keep real time."""
    return MockClock(rate=100)


async def test_every_entry_becomes_one_row_and_a_withdrawal_marks_its_alert(
    redis_url: str, prepared: Database, hurry: MockClock
):
    client = Client(redis_url)
    again = alert(0, reissue=1, revision=2)
    first, *_, fourth = post(client, alert(0), alert(1), BLIND, ENDED)
    async with kept(redis_url, prepared):
        await until(lambda: len(history(prepared, "1")) == 4)
        post(client, Withdrawal(alert(0), first, WHY, 5_000), again)
        await until(lambda: len(history(prepared, "1")) == 6)
        last = outbox.ids(client.one(*outbox.before(EXCHANGE, None, 1)))
        await until(lambda: progress(client).get("cursor") == last[0])
    rows = history(prepared, "kind, alert_id, reissue, revision, stream_id, withdrawn_why")
    assert rows[:3] == [
        ("alert", alert(0).id, 0, 0, first, WHY),
        ("alert", alert(1).id, 0, 0, rows[1][4], None),
        ("blind", BLIND.id, 0, None, rows[2][4], None),
    ]
    assert rows[3] == ("recovery", BLIND.id, 0, None, fourth, None)
    assert rows[4][:3] == ("withdrawal", alert(0).id, 0)
    assert rows[5][:4] == ("alert", alert(0).id, 1, 2)
    entry, opened, triggered, symbol, timeframe = history(
        prepared,
        "entry, extract(epoch FROM open_time) * 1000, extract(epoch FROM triggered_at) * 1000,"
        " symbol, timeframe",
    )[1]
    assert msgspec.convert(entry, Alert) == alert(1)
    assert (int(opened), int(triggered)) == (alert(1).open_time, alert(1).triggered)
    assert (symbol, timeframe) == ("BTC-USD", "1h")
    client.close()


async def test_nothing_is_written_twice_when_the_place_is_forgotten_or_the_outbox_comes_back(
    valkey_url: str, prepared: Database, hurry: MockClock
):
    client = Client(valkey_url)
    first, _ = post(client, alert(0), alert(1))
    async with kept(valkey_url, prepared):
        await until(lambda: len(history(prepared, "1")) == 2)
        await until(lambda: "cursor" in progress(client))
        client.one("DEL", outbox.history_key(EXCHANGE))  # a process that died before it said so
        await until(lambda: "told" in progress(client))
        cursor = progress(client)["cursor"]
        # A Redis that lost what is newest: new entries lie before our place.
        client.one("HSET", outbox.history_key(EXCHANGE), "cursor", "9999999999999-0")
        post(client, Withdrawal(alert(7), first, WHY, 5_000))  # of an alert nobody has any more
        await until(lambda: len(history(prepared, "1")) == 4)
        # A Redis that lost everything: the alert is found anew, and was withdrawn all the same.
        client.one("FLUSHALL")
        post(client, alert(7))
        await until(lambda: "told" in progress(client))
    rows = history(prepared, "kind, alert_id, withdrawn_why")
    assert sorted(rows) == [
        ("alert", alert(0).id, None),
        ("alert", alert(1).id, None),
        ("alert", alert(7).id, WHY),
        ("withdrawal", alert(7).id, None),
    ]
    assert cursor != "0-0"
    client.close()


async def test_a_database_that_stops_is_waited_for_and_gets_what_came_meanwhile(
    own_postgres: PostgresServer,
    valkey_url: str,
    hurry: MockClock,
    caplog: pytest.LogCaptureFixture,
):
    from livermore.adapters import schema

    caplog.set_level(logging.INFO, "livermore")
    database = Database(own_postgres.url(), timeout=60)
    database.run(schema.apply)
    database.run(lambda connection: exchange_rows.seed(connection, DIALECTS.values(), None))
    client = Client(valkey_url)
    post(client, alert(0))

    def said(event: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.message == event]

    async with kept(valkey_url, database):
        await until(lambda: len(history(database, "1")) == 1)
        await trio.to_thread.run_sync(own_postgres.kill)
        post(client, *(alert(number) for number in range(1, 9)), keep=5)
        await until(lambda: bool(said("the alert history is not written")))
        await trio.sleep(300)  # many tries
        assert len(said("the alert history is not written")) == 1
        await trio.to_thread.run_sync(own_postgres.start)
        await until(lambda: bool(said("the alert history is written again")))
        await until(lambda: progress(client).get("told") == "3")
    rows = history(database, "alert_id")
    assert rows == [(alert(number).id,) for number in (0, 4, 5, 6, 7, 8)]
    [lost] = said("the alert history lost entries")
    assert lost.fields["entries"] == 3  # type: ignore[attr-defined]
    assert progress(client)["lost"] == "3"
    database.close()
    client.close()


async def test_what_is_dropped_before_the_database_ever_answered_is_counted(
    own_postgres: PostgresServer, valkey_url: str, hurry: MockClock
):
    own_postgres.stop()
    client = Client(valkey_url)
    post(client, alert(0), keep=3)
    async with kept(valkey_url, Database(own_postgres.url())):
        await until(lambda: progress(client).get("cursor") == "0-0")
    post(client, *(alert(number) for number in range(1, 5)), keep=3)
    assert progress(client)["lost"] == "2"
    client.close()


async def test_what_the_database_never_takes_is_said_and_does_not_hold_up_the_rest(
    valkey_url: str, prepared: Database, hurry: MockClock, caplog: pytest.LogCaptureFixture
):
    client = Client(valkey_url)
    post(client, alert(0))
    client.one("XADD", outbox.stream_key(EXCHANGE), "*", "claim", "x", "entry", "none of ours")
    damaged = msgspec.structs.replace(BLIND, why="a NUL: \0")
    post(client, damaged, msgspec.structs.replace(BLIND, id="late", triggered=10**17), alert(1))
    async with kept(valkey_url, prepared):
        await until(lambda: len(history(prepared, "1")) == 2)
        await until(lambda: progress(client).get("cursor", "0-0") != "0-0")
    assert history(prepared, "alert_id") == [(alert(0).id,), (alert(1).id,)]
    [record] = [one for one in caplog.records if one.message.endswith("does not take entries")]
    assert record.fields["entries"] == 3  # type: ignore[attr-defined]
    client.close()


async def test_redis_away_is_waited_for_as_well(
    own_valkey: RedisServer, prepared: Database, hurry: MockClock
):
    client = Client(own_valkey.url)
    async with kept(own_valkey.url, prepared):
        await trio.to_thread.run_sync(own_valkey.stop)
        await trio.sleep(20)
        await trio.to_thread.run_sync(own_valkey.start)
        post(client, alert(0))
        await until(lambda: len(history(prepared, "1")) == 1)
    client.close()


async def test_two_daemons_on_one_database_write_every_entry_once(
    valkey_url: str, prepared: Database, prepared_url: str, hurry: MockClock
):
    client = Client(valkey_url)
    redis, other = Redis(valkey_url), Redis(valkey_url)
    async with trio.open_nursery() as nursery:
        for one in (redis, other):
            nursery.start_soon(keep_histories, DIALECTS, one, prepared_url, lambda: 0.5)
        for page in range(4):
            post(client, *(alert(10 * page + number) for number in range(10)))
            await trio.sleep(1)
        await until(lambda: len(history(prepared, "1")) >= 40)
        nursery.cancel_scope.cancel()
    assert len(history(prepared, "DISTINCT alert_id, id")) == 40
    [untouched] = client.run([("EXISTS", outbox.history_key("binance"))])
    assert untouched == 0, "of an exchange without alerts nothing is written down"
    for one in (redis, other):
        one.close()
    client.close()
