"""What ends one exchange for good leaves the others alone; with the last one all is over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore import daemon
from livermore.adapters.http import Reply
from livermore.adapters.redis import Redis
from livermore.adapters.urls import websocket_address
from livermore.config import Own, Settings
from livermore.daemon import Endings, Unlisted, check_served, keep_feeding
from livermore.dialect import Geo
from livermore.errors import (
    ConfigurationError,
    Refused,
    RestError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
    exit_code,
)
from livermore.exchanges.coinbase import COINBASE
from livermore.market.gap import Lane
from livermore.market.timeframe import Timeframe
from livermore.runtime.blind import look_at
from livermore.runtime.feed import Plan
from livermore.runtime.following import Following
from livermore.runtime.journal import Journal
from livermore.runtime.rest import Rest
from livermore.runtime.status import Report

NOWHERE = cast(Redis, None)


class FakeFeed:
    """Ends as it is told, or runs for ever; how often it began is counted."""

    fates: dict[str, Sequence[Exception]]
    begun: list[str]

    def __init__(self, plan: Plan, redis: Redis, chance: object) -> None:
        self.plan, self.name = plan, plan.dialect.name
        self.report = Report(self.name, self.name)
        self.journal = Journal(self.name)
        self.handing_on = False
        self.listed: Sequence[Any] = ()

    async def run(self) -> None:
        count = self.begun.count(self.name)
        self.begun.append(self.name)
        fates = self.fates.get(self.name, ())
        async with trio.open_nursery():  # what a feed raises comes in a group
            await trio.sleep(10)
            if count < len(fates):
                raise fates[count]
            await trio.sleep_forever()

    async def stay_ended(self, why: str) -> None:
        self.report.ended = why
        await trio.sleep_forever()


@attrs.define
class World:
    """Exchanges whose feeds are fakes."""

    names: Sequence[str]
    geo: dict[str, Geo] = attrs.Factory(dict)
    feeds: dict[str, Any] = attrs.Factory(dict)

    async def run(self, seconds: float = 100, country: str | None = None) -> list[str]:
        """For ``seconds``; returns the exchanges that ended."""
        endings = Endings(self.names)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for name in self.names:
                    dialect = attrs.evolve(COINBASE, name=name, geo=self.geo.get(name, Geo()))
                    plan = Plan(
                        dialect=dialect, websocket_url="ws://x", rest_url="http://x",
                        symbols=None, top=1, holder="us", description={},
                    )  # fmt: skip
                    nursery.start_soon(
                        keep_feeding, Following(plan), NOWHERE, self.feeds, country, endings
                    )
        return list(endings.errors)

    def ended(self, name: str) -> str:
        return str(self.feeds[name].report.ended)


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[Exception]]:
    FakeFeed.fates, FakeFeed.begun = {}, []
    monkeypatch.setattr(daemon, "Feed", FakeFeed)
    return FakeFeed.fates


FINAL = [
    Refused("451 for legal reasons"),
    UnknownSymbol("unknown symbol X-Y"),
    StoreUnusable("no Redis"),
    ConfigurationError("wrong"),
]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
async def test_what_ends_one_exchange_leaves_the_others_alone(
    fates, error: Exception, caplog, autojump_clock: MockClock
):
    caplog.set_level(logging.WARNING, "livermore")
    fates["b"] = [error] * 9
    world = World(["a", "b", "c"])
    assert await world.run(seconds=3600) == ["b"]
    assert sorted(FakeFeed.begun) == ["a", "b", "c"], "nothing was begun a second time"
    assert (world.ended("a"), world.ended("b"), world.ended("c")) == ("", str(error), "")
    [said] = caplog.records
    assert (said.name, said.getMessage()) == ("livermore.b", "not followed any more")
    assert said.fields["why"] == str(error)


async def test_a_failure_that_may_pass_restarts_that_exchange_alone(
    fates, autojump_clock: MockClock
):
    fates["b"] = [RestError("503"), ValueError("a bug")]
    world = World(["a", "b"])
    assert await world.run() == []
    assert sorted(FakeFeed.begun) == ["a", "b", "b", "b"]


async def test_beside_others_an_exchange_that_is_taken_is_waited_for(
    fates, caplog, autojump_clock: MockClock
):
    """Nobody starts it anew alone, and its holder may be our own last life, whose lease lapses."""
    caplog.set_level(logging.WARNING, "livermore")
    fates["b"] = [TakenError("held by process 7")]
    world = World(["a", "b"])
    assert await world.run(seconds=60) == []
    assert sorted(FakeFeed.begun) == ["a", "b", "b"]
    assert world.feeds["b"].plan.standby
    assert not world.feeds["a"].plan.standby
    [said] = caplog.records
    assert (said.name, said.getMessage()) == ("livermore.b", "another daemon holds the exchange")


async def test_a_single_exchange_that_is_taken_ends(fates, autojump_clock: MockClock):
    fates["a"] = [TakenError("held by process 7")]
    with pytest.RaisesGroup(TakenError):
        await World(["a"]).run()


async def test_with_the_last_exchange_all_ends_with_what_ended_the_first(
    fates, autojump_clock: MockClock
):
    fates["a"] = [RestError("503"), Refused("451")]  # the later one
    fates["b"] = [UnknownSymbol("unknown symbol X-Y")]
    with pytest.RaisesGroup(pytest.RaisesExc(UnknownSymbol)) as caught:
        await World(["a", "b"]).run()
    error = caught.value.exceptions[0]
    assert isinstance(error, UnknownSymbol)
    assert exit_code(error) == 2


async def test_a_single_exchange_ends_as_it_always_did(fates, caplog, autojump_clock: MockClock):
    fates["a"] = [Refused("451")]
    with pytest.RaisesGroup(pytest.RaisesExc(Refused, match="451")):
        await World(["a"]).run()
    assert not caplog.records, "the command says it"


# -- where we are -----------------------------------------------------------------------------

NOT_US = Geo(
    refuses=frozenset({"US", "CA"}), alternative="binance_us", note="says its documentation"
)


@pytest.mark.parametrize(
    ("country", "step"),
    [
        ("US", "use Binance.US instead: livermore run binance_us"),
        ("CA", "leave it away (see: livermore exchanges)"),  # the other serves the US alone
    ],
)
async def test_who_does_not_serve_our_country_is_not_even_asked(
    fates, country: str, step: str, autojump_clock: MockClock
):
    world = World(["a", "b"], {"b": NOT_US})
    assert await world.run(country=country) == ["b"]
    assert FakeFeed.begun == ["a"]
    assert world.ended("b") == (
        f"b: Coinbase does not serve {country} (says its documentation): {step}"
    )


@pytest.mark.parametrize("country", [None, "DE"])
async def test_elsewhere_and_where_nobody_said_where_we_are_it_is_asked(
    fates, country: str | None, autojump_clock: MockClock
):
    assert await World(["b"], {"b": NOT_US}).run(country=country) == []
    assert FakeFeed.begun == ["b"]


def test_an_exchange_of_some_countries_serves_no_other():
    dialect = attrs.evolve(COINBASE, geo=Geo(only=frozenset({"US"})))
    check_served(dialect, "US")
    check_served(dialect, None)
    with pytest.raises(Refused, match=r"^coinbase: Coinbase does not serve DE: .*"):
        check_served(dialect, "DE")


# -- symbols that several exchanges may list ---------------------------------------------------


def test_a_symbol_that_one_of_them_lists_is_no_mistake():
    unlisted = Unlisted(["a", "b"])
    unlisted.hear("a", {"X-Y": "unknown symbol X-Y"})
    assert not unlisted.known.is_set()
    unlisted.hear("c", {"X-Y": "unknown symbol X-Y"})
    assert not unlisted.known.is_set(), "c was told its own symbols"
    unlisted.hear("b", {"Z-Y": "unknown symbol Z-Y"})
    assert unlisted.known.is_set()
    unlisted.check()


async def test_a_symbol_that_none_of_them_lists_ends_it(autojump_clock: MockClock):
    unlisted = Unlisted(["a", "b"])
    with pytest.RaisesGroup(
        pytest.RaisesExc(UnknownSymbol, match=r"unknown symbol X-Y .*none of a, b lists it")
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unlisted.watch)
            unlisted.hear("a", {"X-Y": "unknown symbol X-Y", "Z-Y": "unknown symbol Z-Y"})
            await trio.sleep(100)
            unlisted.hear("b", {"X-Y": "unknown symbol X-Y"})


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (None, "wss://example:9443/stream"),
        ("ws://127.0.0.1:1", "ws://127.0.0.1:1/stream"),
        ("ws://127.0.0.1:1/", "ws://127.0.0.1:1/stream"),
        ("ws://127.0.0.1:1?x=1", "ws://127.0.0.1:1/stream?x=1"),
        ("ws://127.0.0.1:1/ws", "ws://127.0.0.1:1/ws"),
    ],
)
def test_a_url_without_a_path_gets_that_of_the_exchange(url: str | None, wanted: str):
    dialect = attrs.evolve(COINBASE, websocket_url="wss://example:9443", websocket_path="/stream")
    assert websocket_address(dialect, url) == wanted


def test_a_plan_is_for_the_address_and_the_symbols_of_its_exchange(tmp_path: Path):
    settings = Settings(
        state_dir=tmp_path,
        exchanges=("coinbase", "binance"),
        symbols=("BTC-USD", "BTC-USDT@binance"),
        own={"binance": Own(rest_url="http://a", websocket_url="ws://a:1")},
    )
    coinbase, binance = daemon.plans(settings)
    assert (coinbase.websocket_url, coinbase.rest_url) == (
        COINBASE.websocket_url,
        COINBASE.rest_url,
    )
    assert (binance.websocket_url, binance.rest_url) == ("ws://a:1/stream", "http://a")
    assert coinbase.symbols == ("BTC-USD",)
    assert binance.symbols == ("BTC-USD", "BTC-USDT")
    assert coinbase.shared == binance.shared == {"BTC-USD"}


async def test_of_a_feed_that_ended_nobody_is_told_again_and_again(
    autojump_clock: MockClock,
):
    report = Report("a", "A", started_following=True, symbols=("BTC-USD",))
    assert look_at(report, None, {}) is not None
    report.ended = "451"
    assert look_at(report, None, {}) is None


def test_an_exchange_without_a_path_takes_the_url_as_it_is():
    assert websocket_address(COINBASE, "ws://127.0.0.1:1") == "ws://127.0.0.1:1"


# -- one refusal, and one of everything --------------------------------------------------------


@attrs.define
class FakeHttp:
    """Answers by path, with a status; what was asked is kept."""

    statuses: dict[str, int]
    asked: list[str] = attrs.Factory(list)

    async def get(self, path: str, params: object, headers: object = None) -> Reply:
        self.asked.append(path.rpartition("/")[2])
        status = self.statuses.get(self.asked[-1], 200)
        body = b'{"epochMillis": "1800000000000"}' if status == 200 else b""
        return Reply(status, {}, body)


class FreeBudget:
    async def grant(self, lane: object, weight: int) -> None:
        await trio.lowlevel.checkpoint()

    def answered(self) -> None: ...

    def heard(self, *_: object) -> None: ...


async def candles_of(http: FakeHttp) -> None:
    rest = Rest(COINBASE, cast(Any, http), cast(Any, FreeBudget()), lambda: 0)
    await rest.candles("BTC-USD", Timeframe.M5, 0, 0, Lane.LIVE)


async def test_a_single_refusal_is_not_the_exchanges_last_word(autojump_clock: MockClock):
    http = FakeHttp({"candles": 401})
    with pytest.raises(RestError, match="401"):
        await candles_of(http)
    assert http.asked == ["candles", "time"]


async def test_who_does_not_even_say_what_time_it_is_refuses_us(autojump_clock: MockClock):
    http = FakeHttp({"candles": 451, "time": 451})
    with pytest.raises(Refused, match="451"):
        await candles_of(http)
    assert http.asked == ["candles", "time"]
