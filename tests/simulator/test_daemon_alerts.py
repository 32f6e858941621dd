"""From candles to people: the whole daemon, its rules, and a receiver at the end of a webhook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from livermore import daemon as daemon_module
from livermore.adapters import outbox, store
from livermore.adapters.channel import ChannelSettings
from livermore.adapters.redis import Client
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from livermore.signals.alert import Alert, Blindness, Withdrawal
from livermore.signals.rule import DEFAULT_RULES, rule_from
from tests.receiver import Receiver, receiving
from tests.servers import RedisServer
from tests.simulator.whole_daemon import EXCHANGE, Daemon, agree, exchange, running, stored

pytestmark = pytest.mark.timeout(150)
KEY = "a key nobody may see"
PERCENT = 0.05
MOVES = rule_from(
    {"rule": "move", "percent": PERCENT, "candles": 1, "cooldown": 0, "timeframes": ["5m", "15m"]}
)
M5 = Timeframe.M5
RATE = 30.0


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("DESK_KEY", KEY)
    with receiving() as found:
        yield found


def settings(receiver: Receiver) -> dict[str, Any]:
    desk = ChannelSettings(
        name="desk", kind="webhook", url=receiver.url("/in"), secret_env="DESK_KEY"
    )
    return {"alerts": (*DEFAULT_RULES, MOVES), "channels": (desk,)}


def messages(receiver: Receiver) -> list[dict[str, Any]]:
    return [request.json for request in receiver.requests]


def told(receiver: Receiver, kind: str) -> list[dict[str, Any]]:
    """Entries of one type, in the order of their messages."""
    return [e for m in messages(receiver) for e in m["entries"] if e["type"] == kind]


async def heard(daemon: Daemon, receiver: Receiver, kind: str, count: int = 1) -> None:
    await daemon.until(lambda: len(told(receiver, kind)) >= count, 40)


def entries(client: Client) -> list[outbox.Row]:
    reply = client.one(*outbox.after(EXCHANGE, outbox.BEGINNING, 10_000))
    return [row for row in outbox.rows(reply) if isinstance(row, outbox.Row)]


def moved(client: Client, symbols: Sequence[str], since: int) -> set[str]:
    """Ids of the moves that what is stored shows, of candles that closed behind ``since``."""
    found = set()
    for symbol in symbols:
        for timeframe in (M5, Timeframe.M15):
            series = Series(EXCHANGE, symbol, timeframe)
            members = client.one(*store.range_call(series, "-inf", "+inf"))
            candles, _ = store.decode_candles(series, members)
            for before, candle in pairwise(candles):
                if candle.close_time <= since or candle.open_time != before.close_time:
                    continue
                if abs(candle.close / before.close - 1) * 100 >= PERCENT:
                    found.add(f"move|{EXCHANGE}|{symbol}|{timeframe.value}|{candle.open_time}")
    return found


async def test_every_move_is_told_once_through_a_restart_and_an_outage(
    valkey_url: str, tmp_path: Path, receiver: Receiver
):
    with trio.fail_after(140):
        async with exchange(symbols=8) as simulator:
            async with running(
                simulator, valkey_url, tmp_path, top=8, **settings(receiver)
            ) as daemon:
                await daemon.whole(60)
                await heard(daemon, receiver, "alert", 20)
                symbols = list(daemon.symbols)
            await trio.sleep(6)  # a slot closes and nobody is there
            async with running(
                simulator, valkey_url, tmp_path, top=8, **settings(receiver)
            ) as daemon:
                await daemon.whole(60)
                simulator.inject(fault="refuse", **{"for": 500.0})
                simulator.inject(fault="drop")
                await daemon.until(lambda: daemon.told()[0] == "blind")
                await daemon.whole(60)
                await trio.sleep(8)
                await agree(valkey_url, simulator, symbols)
                writer, readings = daemon.feed.report.writer, daemon.feed.report.readings
                assert writer is not None
                assert readings is not None
                rows = await stored(valkey_url, entries)
                last = max(r.entry.close_time for r in rows if isinstance(r.entry, Alert))
            rows = await stored(valkey_url, entries)
    alerts = [row.entry for row in rows if isinstance(row.entry, Alert)]
    gone = {row.entry.alert.id for row in rows if isinstance(row.entry, Withdrawal)}
    moves = [one for one in alerts if one.rule == "move" and one.close_time <= last]
    assert len({one.id for one in moves}) == len(moves) - len(gone), "one was told twice"
    since = min(one.close_time for one in moves) - 1
    wanted = await stored(valkey_url, lambda client: moved(client, symbols, since))
    wanted = {text for text in wanted if int(text.rsplit("|", 1)[1]) + M5.ms <= last}
    of_5m = {one.id for one in moves if one.timeframe is M5} - gone
    assert of_5m == {text for text in wanted if "|5m|" in text}
    assert len(of_5m) > 40
    # Each reached the receiver once, and nothing else did.
    sent = Counter(one["id"] for one in told(receiver, "alert"))
    assert set(sent.values()) == {1}
    assert {one.id for one in alerts} == set(sent)
    assert KEY not in str(messages(receiver))
    # More than five at one close are one message; what was found late is a digest.
    kinds = Counter(message["kind"] for message in messages(receiver))
    # Two minutes are two seconds here: on a busy machine a combined message is a late one.
    assert kinds["combined"] + kinds["late"] >= 4, kinds
    assert kinds["late"] >= 1, kinds
    by_close = Counter(
        (m["kind"], m["entries"][0]["close_time"])
        for m in messages(receiver)
        if m["kind"] == "alert"
    )
    assert max(by_close.values(), default=0) <= 5


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Half a minute in one of our seconds; so many requests as well, by the clock of Redis."""
    dialect = attrs.evolve(COINBASE, rest_per_second=RATE * COINBASE.rest_per_second)
    monkeypatch.setattr(daemon_module, "dialect_of", lambda name: dialect)
    return trio.testing.MockClock(rate=RATE)


async def test_an_exchange_that_goes_away_is_told_and_so_is_its_return(
    valkey_url: str, tmp_path: Path, receiver: Receiver, fast_clock: Any
):
    with trio.fail_after(140 * RATE):
        async with (
            exchange(symbols=4, speed=1.0) as simulator,
            running(simulator, valkey_url, tmp_path, **settings(receiver)) as daemon,
        ):
            await daemon.whole(60)
            assert told(receiver, "blind") == []
            simulator.inject(fault="refuse", **{"for": 500.0})
            simulator.inject(fault="5xx", **{"for": 500.0})  # else REST fills what is missing
            simulator.inject(fault="drop")
            await heard(daemon, receiver, "blind")
            await heard(daemon, receiver, "recovery")
            await daemon.whole(60)
            await trio.sleep(400)
    blind, recoveries = told(receiver, "blind"), told(receiver, "recovery")
    # Those that turn blind a little later are told a minute later, in one entry.
    assert len(blind) <= 3
    assert sum(one["series"] for one in blind) >= 3
    assert blind[0]["why"].startswith("blind")
    assert sum(one["recovered"] for one in recoveries) == sum(one["series"] for one in blind)
    assert recoveries[-1]["still"] == 0
    assert recoveries[0]["lasted"] > 300_000


async def test_a_redis_that_is_away_keeps_nobody_from_being_told(
    own_valkey: RedisServer, tmp_path: Path, receiver: Receiver
):
    with trio.fail_after(140):
        async with (
            exchange(symbols=4) as simulator,
            running(simulator, own_valkey.url, tmp_path, **settings(receiver)) as daemon,
        ):
            await daemon.whole(60)
            await trio.to_thread.run_sync(own_valkey.stop)
            why = "blind: what closes is neither stored nor published"
            await daemon.until(lambda: any(why in e["why"] for e in told(receiver, "blind")), 40)
            await trio.to_thread.run_sync(own_valkey.start)
            recovered = len(told(receiver, "recovery"))
            await heard(daemon, receiver, "recovery", recovered + 1)
            await daemon.whole(60)
            await trio.sleep(3)
            await agree(own_valkey.url, simulator, daemon.symbols)
            rows = await stored(own_valkey.url, entries)
    ids = [one["id"] for one in told(receiver, "blind")]
    assert len(ids) == len(set(ids))
    # What was told directly lies in the outbox as well, once Redis is there.
    assert {row.entry.id for row in rows if isinstance(row.entry, Blindness)} == set(ids)
