"""A socket that is open and says nothing of use, a market that is only quiet, an outage of an hour.

The clock of these runs is ten times as fast as ours; where ``speed`` is 6, an exchange's minute
takes one of our seconds.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import attrs
import httpx
import msgspec
import pytest
import trio
import trio.testing

from livermore import daemon as daemon_module
from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.exchanges.binance import BINANCE
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.gap import Outcome
from livermore.market.timeframe import Timeframe
from livermore.simulator import Simulator, SimulatorSettings
from livermore.simulator import serve as simulate
from tests.simulator.whole_daemon import (
    EXCHANGE,
    START,
    Daemon,
    agree,
    check_announcements,
    exchange,
    ledger,
    lines,
    listening,
    now_of,
    running,
    stored,
)

M5 = Timeframe.M5.ms
HOUR = Timeframe.H1.ms
RATE = 10.0
SPEED = 6.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Ten seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


@pytest.fixture
def slower_clock() -> trio.testing.MockClock:
    """For what must happen within a few seconds, whatever the machine does beside it."""
    return trio.testing.MockClock(rate=5.0)


@pytest.fixture(autouse=True)
def fast_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are granted by the clock of Redis, which is ours: as many in a second of Trio."""
    dialect = attrs.evolve(COINBASE, rest_per_second=RATE * COINBASE.rest_per_second)
    monkeypatch.setattr(daemon_module, "dialect_of", lambda name: dialect)


async def boundary(daemon: Daemon, before: float, speed: float = SPEED) -> None:
    """Until so many seconds of the exchange before the next end of a five-minute slot."""
    left = M5 - now_of(daemon.simulator) % M5
    await trio.sleep(max(0.0, left / 1000 - before) / speed)


async def audit(url: str, heard: Any, symbols: list[str]) -> None:
    await stored(url, lambda client: check_announcements(client, heard, symbols, in_order=False))


async def noticed(daemon: Daemon, words: str) -> float:
    """Seconds of the daemon's clock until its status says so."""
    begun = trio.current_time()
    await daemon.until(lambda: words in daemon.told()[1])
    return trio.current_time() - begun


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "mute", "symbols": ["BTC-USD"]},
        {"fault": "mute", "symbols": ["BTC-USD"], "channels": ["market_trades"]},
        {"fault": "heartbeats-only"},
        {"fault": "ack-then-mute", "heartbeats": True},
    ],
    ids=["one symbol", "its trades alone", "all symbols", "acknowledged and never sent"],
)
async def test_what_a_beating_socket_does_not_deliver_is_noticed_and_healed(
    valkey_url: str, tmp_path: Path, fast_clock: Any, fault: dict[str, Any]
):
    with trio.fail_after(90 * RATE), listening(valkey_url) as heard:
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(**fault, **{"for": 360.0})
            seconds = await noticed(daemon, "REST shows trades")
            assert seconds <= 30
            state, note = daemon.told()
            assert state == "blind"
            assert "no data for" in note or "that did not arrive" in note
            await daemon.whole(40)
            assert simulator.stats.connections_total >= 2
            await trio.sleep(60)
            await agree(valkey_url, simulator, daemon.symbols)
            symbols = list(daemon.symbols)
    await audit(valkey_url, heard, symbols)


async def test_where_nothing_arrives_and_rest_fails_state_readiness_metric_and_alert_say_blind(
    valkey_url: str, tmp_path: Path, fast_clock: Any, monkeypatch: Any
):
    dialect = attrs.evolve(BINANCE, rest_per_second=RATE * BINANCE.rest_per_second)
    monkeypatch.setattr(daemon_module, "dialect_of", lambda _: dialect)
    why = "nothing arrives, and REST does not say whether anything is traded"
    with trio.fail_after(110 * RATE), listening(valkey_url, "binance") as heard:
        async with (
            exchange(exchange="binance", symbols=4, speed=1.0) as simulator,
            running(simulator, valkey_url, tmp_path, metrics_port=0) as daemon,
        ):
            await daemon.whole(40)
            # So that a candle is missing for long enough to alert, before REST answers again.
            await boundary(daemon, 150.0, speed=1.0)
            sockets = simulator.stats.connections_total
            simulator.inject(fault="heartbeats-only", **{"for": 330.0})
            simulator.inject(fault="5xx", **{"for": 280.0})
            began = trio.current_time()
            await daemon.until(lambda: why in daemon.told()[1], 25)
            assert trio.current_time() - began <= 120
            assert daemon.told()[0] == "blind"
            assert simulator.stats.connections_total == sockets
            async with httpx.AsyncClient(base_url=daemon.metrics_url) as http:
                assert (await http.get("/readyz")).status_code == 503
                figures = (await http.get("/metrics")).text
            assert 'livermore_blind{exchange="binance"} 1' in figures
            # REST answers again and shows what did not arrive.
            await daemon.until(lambda: simulator.stats.connections_total > sockets, 40)
            await daemon.whole(40)
            await agree(valkey_url, simulator, daemon.symbols)
    told = [one for one in heard.of("alerts:exchange") if one["type"] == "blind"]
    assert told
    assert all(one["why"].startswith("blind: no data for") for one in told), told


async def test_a_starved_candle_channel_is_told_and_the_socket_stays(
    valkey_url: str, tmp_path: Path, fast_clock: Any, caplog: Any
):
    with trio.fail_after(90 * RATE):
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(fault="mute", channels=["candles"], **{"for": 420.0})
            await daemon.until(lambda: lines(caplog, "the candle channel is starved"))
            assert daemon.feed.report.healths[0].starved
            await trio.sleep(90)
            assert simulator.stats.connections_total == 1
            assert daemon.told()[0] == "live"
            await agree(valkey_url, simulator, daemon.symbols)


async def test_a_market_that_is_quiet_causes_no_reconnect(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(90 * RATE):
        async with (
            exchange(symbols=4, speed=1.0) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(fault="halt", **{"for": 300.0})
            requests = simulator.stats.rest_requests
            await trio.sleep(150)
            assert daemon.told()[0] == "live"
            assert simulator.stats.connections_total == 1
            assert simulator.stats.rest_requests - requests <= 40


@pytest.mark.parametrize("whole", [False, True], ids=["that symbol", "the whole message"])
async def test_a_rejected_symbol_drops_that_symbol_only(
    valkey_url: str, tmp_path: Path, fast_clock: Any, whole: bool
):
    with trio.fail_after(90 * RATE):
        async with exchange(symbols=4, speed=SPEED) as simulator:
            simulator.inject(fault="reject", symbols=["ETH-USD"], whole=whole, **{"for": 86_400.0})
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole(60)
                assert daemon.feed.report.rejected.keys() == {"ETH-USD"}
                assert "not a valid product" in daemon.feed.report.rejected["ETH-USD"]
                others = [symbol for symbol in daemon.symbols if symbol != "ETH-USD"]
                await trio.sleep(70)
                await agree(valkey_url, simulator, others)
                assert daemon.told()[0] == "live"
                assert simulator.stats.connections <= 1
                entries = await stored(valkey_url, ledger)
                left = [e for e in entries if e.get("outcome", "open") == Outcome.OPEN.value]
                assert all(entry["symbol"] != "ETH-USD" for entry in left)
                text = await stored(
                    valkey_url, lambda client: client.one("GET", store.status_key(EXCHANGE))
                )
                assert msgspec.json.decode(text)["rejected"].keys() == {"ETH-USD"}


async def test_a_halt_is_told_and_its_slots_are_empty_when_rest_says_so(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(100 * RATE), listening(valkey_url) as heard:
        async with (
            exchange(symbols=4, speed=SPEED) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(fault="halt", **{"for": 1500.0})
            await daemon.until(lambda: daemon.told()[0] == "halted", 30)
            assert "no trade of any symbol since" in daemon.told()[1]
            await daemon.until(lambda: daemon.told()[0] == "live", 40)
            await trio.sleep(90)
            await agree(valkey_url, simulator, daemon.symbols)
            assert simulator.stats.connections_total == 1
            symbols = list(daemon.symbols)
    await audit(valkey_url, heard, symbols)
    assert "the exchange is halted" in heard.events()
    assert "the exchange trades again" in heard.events()
    flagged = [one for one in heard.of("indicator") if one["halted"]]
    assert flagged
    assert not all(one["halted"] for one in heard.of("indicator"))


async def test_a_blip_of_two_seconds_costs_no_request_and_no_late_close(
    valkey_url: str, tmp_path: Path, slower_clock: Any
):
    """At the end of a slot, with thirty symbols: the chain of trade ids proves what was missed.

    They are followed since before the slot began.
    """
    with trio.fail_after(110 * 5), listening(valkey_url) as heard:
        async with (
            exchange(symbols=30, speed=1.0, start=START - 160_000) as simulator,
            running(simulator, valkey_url, tmp_path, top=30) as daemon,
        ):
            await daemon.until(lambda: daemon.told()[0] in ("backfilling", "live"), 60)
            assert now_of(simulator) % M5 > M5 - 60_000
            await daemon.whole(60)
            repairs = daemon.feed.report.repairs
            assert repairs is not None
            await boundary(daemon, 60.0, 1.0)
            await daemon.until(lambda: not repairs.open_gaps, 10)  # the deeper history as well
            await boundary(daemon, 1.0, 1.0)
            requests, looks = repairs.progress.requests, repairs.progress.looks
            simulator.inject(fault="refuse", **{"for": 2.0})
            simulator.inject(fault="drop")
            await trio.sleep(40)
            assert simulator.stats.connections_total == 2
            gaps = await stored(valkey_url, ledger)
            lost = [gap for gap in gaps if gap["cause"] not in ("history", "deeper history")]
            assert len(lost) <= 3, lost  # of thirty symbols
            asked = repairs.progress.requests - requests - (repairs.progress.looks - looks)
            assert asked <= 6, (asked, gaps[-30:])
            await agree(valkey_url, simulator, daemon.symbols)
            writer = daemon.feed.report.writer
            assert writer is not None
            assert len(writer.turns.lags) >= 15
            assert max(writer.turns.lags) < 10_000
            symbols = list(daemon.symbols)
    await audit(valkey_url, heard, symbols)


@pytest.mark.timeout(240)
async def test_an_outage_of_an_hour_heals_within_two_minutes_and_provokes_no_429(
    valkey_url: str, tmp_path: Path
):
    """A hundred symbols at ten requests a second, by a true clock; the hour passes at once.

    The newest slots of quiet symbols take a minute: two looks must omit them.
    """
    settings: dict[str, Any] = {"symbols": 100, "speed": 1.0, "seed": 3, "history_days": 15}
    with trio.fail_after(230), listening(valkey_url) as heard:
        async with trio.open_nursery() as nursery:
            before: Simulator = await nursery.start(
                simulate_until,
                SimulatorSettings(
                    **settings, start=START - 6 * HOUR, rest_rate=1_000, port=two_ports()
                ),
                over := trio.Event(),
            )
            async with running(before, valkey_url, tmp_path, top=100) as daemon:
                await daemon.until(
                    lambda: EXCHANGE in daemon.feeds and daemon.feed.history_whole, 90
                )
                series = [one for s in daemon.symbols for one in store.all_series(EXCHANGE, s)]
                then = now_of(before)
                over.set()
                await daemon.until(lambda: daemon.told()[0] == "blind")
                assert daemon.feed.report.budget is not None
                daemon.feed.report.budget.per_second = 0.8 * 10  # the history came faster
                port = int(before.rest_url.rsplit(":", 1)[1])
                after: Simulator = await nursery.start(
                    simulate_until,
                    SimulatorSettings(**settings, start=then + HOUR, port=port, rest_rate=10),
                    over := trio.Event(),
                )
                assert after.websocket_url == before.websocket_url
                daemon.simulator = after
                await daemon.until(lambda: daemon.told()[0] == "live", 60)
                back = trio.current_time()
                assert (
                    await lacking(valkey_url, series, now_of(after)) >= 300
                )  # a snapshot of trades proves some
                await daemon.until(lambda: not wanting(daemon), 125)
                healed = trio.current_time() - back
                assert after.stats.rest_429 == before.stats.rest_429 == 0
                await agree(valkey_url, after, daemon.symbols)
                symbols = list(daemon.symbols)
            over.set()
    assert healed < 120, healed
    await audit(valkey_url, heard, symbols)


def two_ports() -> int:
    """A free port that is followed by another."""
    for _ in range(1000):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", port + 1))
                return port
    raise AssertionError("no two free ports side by side")


async def simulate_until(
    settings: SimulatorSettings,
    over: trio.Event,
    *,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """An exchange that is gone once ``over`` is set."""
    async with trio.open_nursery() as nursery:
        task_status.started(await nursery.start(simulate, settings))
        await over.wait()
        nursery.cancel_scope.cancel()


async def lacking(url: str, series: list[Series], now: int) -> int:
    """Closed slots of the last hour the store does not hold."""

    def work(client: Client) -> int:
        count = 0
        for one in series:
            if one.timeframe is not Timeframe.M5:
                continue
            last = one.timeframe.last_closed(now)
            survey = store.surveyed(one, client.one(*store.survey(one, last - 11 * M5, last)))
            count += sum((end - first) // M5 + 1 for first, end in survey.missing)
        return count

    found: int = await stored(url, work)
    return found


def wanting(daemon: Daemon) -> bool:
    """Whether a slot of the newest that everybody needs is still missing."""
    repairs = daemon.feed.report.repairs
    assert repairs is not None
    return any(gap.cause != "deeper history" for gap in repairs.open_gaps)
