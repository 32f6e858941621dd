"""What a feed follows: chosen by the exchange, by hand and by users, and kept over every end.

A real Valkey and a real PostgreSQL; the feed is one that takes down what it is told.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import psycopg
import pytest

from livermore.adapters import store, subscriptions
from livermore.adapters.postgres import Database
from livermore.adapters.redis import Redis
from livermore.errors import (
    CommandRefused,
    ConfigurationError,
    DatabaseUnusable,
    NotRunning,
    UnknownSymbol,
    UsageError,
)
from livermore.exchanges.coinbase import COINBASE
from livermore.market.chosen import MANUAL, POSITION, Subscription
from livermore.market.mode import Mode
from livermore.market.product import Change, Followed, Product
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.following import Following
from livermore.runtime.journal import Journal
from livermore.runtime.status import Report
from tests.postgres import PostgresServer

BASES = ["BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "LTC", "UNI"]


def listing(*bases: str) -> list[Product]:
    return [
        Product(f"{base}-USD", f"{base}-USD", base, "USD", price=1.0, quote_volume=1e6 - rank)
        for rank, base in enumerate(bases or BASES)
    ]


@attrs.define
class FakeFeed:
    """Takes down what it is told to follow."""

    listed: Sequence[Product] = attrs.Factory(listing)
    followed: tuple[Followed, ...] = ()
    report: Report = attrs.Factory(lambda: Report("coinbase", "Coinbase"))
    journal: Journal = attrs.Factory(lambda: Journal("coinbase"))
    over: bool = False
    paused: bool = False

    async def relist(self) -> Sequence[Product]:
        return self.listed

    async def follow(self, wanted: Sequence[Followed]) -> Change:
        if self.over:
            raise NotRunning("it ended")
        before, self.followed = self.followed, tuple(wanted)
        return Change(
            tuple(one for one in wanted if one not in before),
            tuple(one for one in before if one not in wanted),
        )

    @property
    def placed(self) -> dict[str, str]:
        return {one.symbol: one.owner for one in self.followed}


@attrs.define
class World:
    """One exchange: each :meth:`begin` is a new life of the process."""

    redis: Redis
    database: Database | None
    plan: Plan

    async def begin(self, listed: Sequence[Product] | None = None) -> tuple[Following, FakeFeed]:
        following = Following(self.plan, self.redis, self.database)
        await following.start()
        feed = FakeFeed(listing() if listed is None else listed)
        following.feed = cast(Feed, feed)
        await feed.follow(following.choose(feed.listed))
        return following, feed


def plan(**changes: Any) -> Plan:
    made = Plan(
        dialect=COINBASE, websocket_url="ws://x", rest_url="http://x", symbols=None, top=3,
        holder="us", description={},
    )  # fmt: skip
    return attrs.evolve(made, **changes)


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[World]:
    with contextlib.closing(Redis(valkey_url)) as redis:
        yield World(redis, None, plan())


def seed(url: str, *users: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO exchanges (id, title, websocket_url, rest_url, timeframes)"
            " VALUES ('coinbase', 'Coinbase', 'wss://x', 'https://x', '{5m}')"
        )
        for user in users:
            connection.execute(
                "INSERT INTO users (identity_provider, identity_sub) VALUES ('local', %s)", [user]
            )


@pytest.fixture
async def peopled(world: World, prepared_url: str) -> AsyncIterator[World]:
    """With a database, and two users in it."""
    seed(prepared_url, "alice", "bob")
    with contextlib.closing(Database(prepared_url)) as database:
        world.database = database
        yield world


TIER = {"BTC-USD": "", "ETH-USD": "", "SOL-USD": ""}


async def test_what_is_added_and_removed_by_hand_comes_back_after_a_kill(world: World):
    following, feed = await world.begin()
    assert feed.placed == TIER
    change = await following.add(["ada/usd"])
    assert [one.symbol for one in change.new] == ["ADA-USD"]
    await following.remove(["BTC-USD"])
    expected = {"ETH-USD": "", "SOL-USD": "", "XRP-USD": "", "ADA-USD": ""}
    assert feed.placed == expected, "the place of the removed one is filled"
    _, again = await world.begin()
    assert again.placed == expected
    following, feed = await world.begin()
    await following.add(["BTC-USD"])
    assert "BTC-USD" in (await world.begin())[1].placed
    await following.remove(["ADA-USD"])
    assert "ADA-USD" not in (await world.begin())[1].placed


async def test_of_several_symbols_all_are_followed_or_none(world: World):
    following, feed = await world.begin()
    with pytest.raises(UnknownSymbol, match="unknown symbol ADO-USD: did you mean ADA-USD"):
        await following.add(["DOT-USD", "ADO-USD"])
    with pytest.raises(UnknownSymbol, match="coinbase does not follow DOT-USD"):
        await following.remove(["BTC-USD", "DOT-USD"])
    assert feed.placed == TIER
    assert (await world.begin())[1].placed == TIER


async def test_tier_one_does_not_flap_also_over_a_kill(world: World):
    following, _ = await world.begin()
    await following.reread()
    swapped = listing("BTC", "ETH", "XRP", "SOL", "ADA", "DOT", "LTC")
    following, feed = await world.begin(swapped)
    assert feed.placed == TIER
    feed.listed = listing("BTC", "XRP", "ADA", "DOT", "LTC", "ETH", "SOL")
    change = await following.refresh()
    assert [one.symbol for one in change.gone] == ["ETH-USD", "SOL-USD"]
    assert sorted(feed.placed) == ["ADA-USD", "BTC-USD", "XRP-USD"]


async def test_a_feed_that_ended_meanwhile_loses_no_wish(world: World):
    following, feed = await world.begin()
    feed.over = True
    assert await following.add(["ADA-USD"]) == Change()
    assert "ADA-USD" in (await world.begin())[1].placed


async def test_a_symbol_of_the_settings_that_is_listed_no_more_stops_no_refresh(world: World):
    world.plan = plan(symbols=("BTC-USD", "UNI-USD"))
    following, feed = await world.begin()
    feed.listed = listing("BTC", "ETH")
    change = await following.refresh()
    assert [one.symbol for one in change.gone] == ["UNI-USD"]
    with pytest.raises(UnknownSymbol, match="UNI-USD"):  # where a feed begins a person must hear
        await world.begin(listing("BTC", "ETH"))


async def test_damage_in_what_is_remembered_is_as_if_it_was_not_there(world: World):
    await (await world.begin())[0].add(["ADA-USD"])
    key = store.following_key("coinbase")
    await world.redis.one("HSET", key, "mode", "dancing", "removed", "{", lane="write")
    await world.redis.one("HSET", key, "subscriptions", '[["x"]]', "tier", "[1]", lane="write")
    following, feed = await world.begin()
    assert following.mode is Mode.SCALPER_MACDV
    assert feed.placed == {**TIER, "ADA-USD": ""}


async def test_a_key_of_somebody_else_is_no_obstacle_to_following(world: World):
    await world.redis.one("SET", store.following_key("coinbase"), "theirs", lane="write")
    following, feed = await world.begin()
    assert feed.placed == TIER
    await following.refresh()
    with pytest.raises(Exception, match="another type of value"):
        await following.add(["ADA-USD"])  # it would be forgotten
    assert feed.placed == TIER


async def test_a_redis_that_lost_everything_is_told_again(world: World):
    following, _ = await world.begin()
    await following.add(["ADA-USD"])
    await world.redis.one("FLUSHALL", lane="write")
    await following.refresh()
    assert "ADA-USD" in (await world.begin())[1].placed


async def test_a_user_needs_a_database_and_everybody_else_does_not(world: World):
    following, _ = await world.begin()
    with pytest.raises(ConfigurationError, match="need a database: set LIVERMORE_DATABASE_URL"):
        await following.add(["ADA-USD"], "alice")


async def test_one_user_has_a_symbol_alone_two_share_it(peopled: World):
    following, feed = await peopled.begin()
    change = await following.add(["ADA-USD"], "alice")
    assert [(one.symbol, one.owner) for one in change.new] == [("ADA-USD", "alice")]
    await following.add(["ADA-USD", "BTC-USD"], "bob")
    assert feed.placed == {**TIER, "ADA-USD": ""}
    assert (await peopled.begin())[1].placed == feed.placed
    await following.remove(["ADA-USD"], "alice")
    assert feed.placed == {**TIER, "ADA-USD": "bob"}
    with pytest.raises(UnknownSymbol, match="alice does not follow BTC-USD"):
        await following.remove(["BTC-USD"], "alice")
    with pytest.raises(UnknownSymbol, match="followed for bob alone: livermore symbols remove"):
        await following.remove(["ADA-USD"])
    with pytest.raises(UsageError, match="there is no user carol"):
        await following.add(["ADA-USD"], "carol")


async def test_what_changed_while_no_feed_ran_is_a_change_for_the_next_one(
    peopled: World, prepared_url: str
):
    following, _ = await peopled.begin()
    await following.add(["ADA-USD", "DOT-USD"], "alice")
    with psycopg.connect(prepared_url) as connection:
        connection.execute("DELETE FROM user_symbol_subscriptions WHERE symbol = 'DOT-USD'")
    assert peopled.database is not None
    peopled.database.run(subscriptions.add("coinbase", "bob", ["ADA-USD"]))
    following, feed = await peopled.begin()
    assert feed.placed == {**TIER, "ADA-USD": "alice", "DOT-USD": "alice"}, "its keys are there"
    await following.refresh(anew=False)
    assert feed.placed == {**TIER, "ADA-USD": ""}
    assert (await peopled.begin())[1].placed == feed.placed


async def test_what_enters_tier_one_is_shared_from_then_on(peopled: World):
    following, feed = await peopled.begin()
    await following.add(["ADA-USD"], "alice")
    feed.listed = listing("ADA", "DOT", "LTC", "UNI", "XRP", "BTC", "ETH", "SOL")
    change = await following.refresh()
    assert Followed(feed.listed[0]) in change.new
    assert feed.placed["ADA-USD"] == ""


async def test_a_disabled_user_follows_nothing(peopled: World, prepared_url: str):
    following, feed = await peopled.begin()
    await following.add(["ADA-USD"], "alice")
    with psycopg.connect(prepared_url) as connection:
        connection.execute("UPDATE users SET enabled = false")
    await following.reread()
    assert feed.placed == TIER
    with pytest.raises(UsageError, match="alice is disabled"):
        await following.add(["ADA-USD"], "alice")


async def test_positions_alone_are_followed_in_that_mode_also_after_a_kill(peopled: World):
    assert peopled.database is not None
    following, feed = await peopled.begin()
    await following.add(["ADA-USD"], "alice")
    with pytest.raises(CommandRefused, match="no position is known"):
        await following.switch(Mode.POSITION_MONITOR)
    peopled.database.run(subscriptions.hold("coinbase", "alice", ["DOT-USD", "BTC-USD"]))
    await following.switch(Mode.POSITION_MONITOR)
    expected = {"BTC-USD": "alice", "DOT-USD": "alice"}
    assert feed.placed == expected
    with pytest.raises(CommandRefused, match="positions alone"):
        await following.add(["LTC-USD"])
    following, feed = await peopled.begin()
    assert (following.mode, feed.placed) == (Mode.POSITION_MONITOR, expected)
    await following.switch(Mode.SCALPER_MACDV)
    assert feed.placed == {**TIER, "ADA-USD": "alice", "DOT-USD": "alice"}


async def test_while_the_database_is_away_what_was_known_last_is_followed(
    world: World, own_postgres: PostgresServer
):
    own_postgres.execute("CREATE DATABASE ours", "postgres")
    own_postgres.execute((Path(__file__).parents[2] / "schema.sql").read_text(), "ours")
    url = own_postgres.url("ours")
    seed(url, "alice")
    with contextlib.closing(Database(url, 2.0)) as world.database:
        following, feed = await world.begin()
        await following.add(["ADA-USD"], "alice")
        own_postgres.stop()
        assert await following.refresh() == Change()
        assert await following.refresh() == Change()
        _, again = await world.begin()
        assert again.placed == feed.placed == {**TIER, "ADA-USD": "alice"}
        own_postgres.start()
        await following.remove(["ADA-USD"], "alice")
        assert feed.placed == TIER
    said = [one["event"] for one in map(json.loads, feed.journal.take())]
    assert said == ["the database is of no use now", "the database is back"]


async def test_the_listing_is_in_the_database_with_ranks(peopled: World, prepared_url: str):
    following, feed = await peopled.begin()
    await following.refresh()
    feed.listed = [*listing("ETH", "BTC"), Product("we:ird", "w", "we", "ird")]
    await following.refresh()
    with psycopg.connect(prepared_url) as connection:
        rows = connection.execute(
            "SELECT symbol, rank, active FROM exchange_symbols ORDER BY active DESC, rank, symbol"
        ).fetchall()
    gone = [(f"{base}-USD", None, False) for base in sorted(set(BASES) - {"BTC", "ETH"})]
    assert rows == [("ETH-USD", 1, True), ("BTC-USD", 2, True), *gone]


def test_a_position_and_a_wish_are_two_reasons(prepared_url: str):
    seed(prepared_url, "alice")
    with contextlib.closing(Database(prepared_url)) as database:
        database.run(subscriptions.add("coinbase", "alice", ["ADA-USD", "ADA-USD"]))
        database.run(subscriptions.hold("coinbase", "alice", ["ADA-USD", "BTC-USD"]))
        database.run(subscriptions.hold("coinbase", "alice", ["ADA-USD"]))
        assert database.run(subscriptions.read("coinbase")) == (
            Subscription("alice", "ADA-USD", MANUAL),
            Subscription("alice", "ADA-USD", POSITION),
        )
        database.run(subscriptions.remove("coinbase", "alice", ["ADA-USD"]))
        with pytest.raises(UsageError, match="alice has a position in ADA-USD"):
            database.run(subscriptions.remove("coinbase", "alice", ["ADA-USD"]))
        with pytest.raises(DatabaseUnusable, match="does not know kraken: run livermore db seed"):
            database.run(subscriptions.add("kraken", "alice", ["ADA-USD"]))


def test_of_several_subscriptions_all_go_or_none(prepared_url: str):
    seed(prepared_url, "alice")
    with contextlib.closing(Database(prepared_url)) as database:
        database.run(subscriptions.add("coinbase", "alice", ["ADA-USD", "BTC-USD"]))
        with pytest.raises(UnknownSymbol, match="does not follow DOT-USD"):
            database.run(subscriptions.remove("coinbase", "alice", ["ADA-USD", "DOT-USD"]))
        assert len(database.run(subscriptions.read("coinbase"))) == 2


async def test_private_keys_in_use_stay_and_nothing_else_is_touched(peopled: World):
    following, feed = await peopled.begin()
    await following.add(["ADA-USD"], "alice")
    [daily] = (s for s in store.all_series("coinbase", "ADA-USD", "alice") if s.timeframe.ms > 8e7)
    named = store.keys(daily)
    shared = store.keys(store.all_series("coinbase", "BTC-USD")[0])
    for key in (named.candles, named.companion, named.indicator, shared.candles):
        await peopled.redis.run([("SET", key, "x"), ("PEXPIRE", key, 50_000)])
    await following._use(cast(Feed, feed))
    left = [await peopled.redis.one("PTTL", key) for key in attrs.astuple(named)[:3]]
    assert all(0.89 * store.PRIVATE < one < 1.11 * store.PRIVATE for one in left), left
    assert await peopled.redis.one("PTTL", shared.candles) <= 50_000
