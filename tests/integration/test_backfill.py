"""Filling gaps because a person asked: by the command itself, or by the daemon that runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from livermore import daemon
from livermore.adapters import store
from livermore.adapters.redis import Client, Redis
from livermore.config import Settings
from livermore.errors import TakenError, UnknownSymbol, UsageError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Series
from livermore.market.history import DEPTH
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.runtime.backfill import Filled, Wish, fill
from livermore.runtime.lease import Lease
from livermore.simulator import Limits, Simulator, SimulatorSettings
from livermore.simulator import serve as simulate
from livermore.simulator.http import Reply, Request, serve_http
from livermore.simulator.trades import NS
from tests.integration.command_line import Livermore

pytestmark = pytest.mark.timeout(60)
BTC, ETH = "BTC-USD", "ETH-USD"
HOUR, SLOT = Timeframe.H1, Timeframe.M5
START = 1_767_268_800_000 + 120_000  # two minutes into a slot
ROOMY = Limits(rest_rate=1000)


def of(symbol: str, timeframe: Timeframe) -> Series:
    return Series("coinbase", symbol, timeframe)


@contextlib.asynccontextmanager
async def exchange(**settings: Any) -> AsyncIterator[Simulator]:
    """A simulated exchange; the block must end within fifty seconds."""
    given = SimulatorSettings(**{"symbols": 3, "start": START, "limits": ROOMY, **settings})
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(simulate, given)
            nursery.cancel_scope.cancel()


@attrs.define
class Asking:
    """``livermore backfill`` as a function, in this process."""

    url: str
    simulator: Simulator
    rest_url: str = attrs.field()
    reports: list[tuple[int, int, str]] = attrs.Factory(list)

    @rest_url.default
    def _of_the_simulator(self) -> str:
        return self.simulator.rest_url

    def report(self, done: int, total: int, text: str) -> None:
        self.reports.append((done, total, text))

    async def __call__(
        self,
        *symbols: str,
        timeframes: tuple[Timeframe, ...] = (HOUR,),
        since: int | None = None,
        dry_run: bool = False,
    ) -> Filled:
        redis = Redis(self.url)
        try:
            return await fill(
                redis, COINBASE, self.rest_url, Wish(symbols, timeframes, since),
                self.report, dry_run=dry_run, holder="by hand", description={"pid": 1},
                chance=lambda: 0.5,
            )  # fmt: skip
        finally:
            redis.close()

    async def stored(self, series: Series) -> list[int]:
        def work() -> list[int]:
            client = Client(self.url)
            try:
                members = client.one(*store.range_call(series, "-inf", "+inf"))
            finally:
                client.close()
            candles, damaged = store.decode_candles(series, members)
            assert damaged == 0
            return [candle.open_time for candle in candles]

        return await trio.to_thread.run_sync(work)

    async def ask(self, *call: Any) -> Any:
        def work() -> Any:
            client = Client(self.url)
            try:
                return client.one(*call)
            finally:
                client.close()

        return await trio.to_thread.run_sync(work)

    @property
    def pages(self) -> int:
        """Pages of candles the exchange was asked for."""
        paths = self.simulator.stats.paths
        return sum(count for path, count in paths.items() if path.endswith("/candles"))


async def forget(asking: Asking, series: Series, slots: list[int]) -> None:
    for slot in slots:
        await asking.ask("ZREMRANGEBYSCORE", store.keys(series).candles, slot, slot)


# -- by itself --------------------------------------------------------------------------------


async def test_it_fills_what_is_missing_and_a_second_run_does_nothing(any_redis_url: str):
    async with exchange() as simulator:
        asking = Asking(any_redis_url, simulator)
        filled = await asking(BTC, timeframes=TIMEFRAMES)
        assert (filled.by, filled.remaining) == ("this command", ())
        assert [gap.series.timeframe for gap in filled.planned] == list(TIMEFRAMES)
        assert filled.requests == asking.pages == 5
        for timeframe in TIMEFRAMES:
            slots = await asking.stored(of(BTC, timeframe))
            assert len(slots) == DEPTH
            assert slots == list(range(slots[0], slots[-1] + 1, timeframe.ms))
        assert asking.reports[-1] == (5, 5, "done")
        again = await asking(BTC, timeframes=TIMEFRAMES)
        assert (again.planned, again.by) == ((), "nobody")
        assert asking.pages == 5
        assert not await asking.ask("EXISTS", "lease:coinbase"), "the lease was given back"


async def test_a_dry_run_asks_for_no_candles_and_writes_nothing(any_redis_url: str):
    async with exchange() as simulator:
        asking = Asking(any_redis_url, simulator)
        filled = await asking(BTC, ETH, timeframes=(SLOT, HOUR), dry_run=True)
        assert (filled.by, filled.requests) == ("nobody", 4)
        assert filled.planned == filled.remaining
        order = [(gap.series.timeframe, gap.series.symbol) for gap in filled.planned]
        assert order == [(SLOT, BTC), (SLOT, ETH), (HOUR, BTC), (HOUR, ETH)]
        assert asking.pages == 0
        assert await asking.ask("KEYS", "*") == [b"budget:coinbase"]


async def test_only_what_is_missing_is_asked_for(valkey_url: str):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        await asking(BTC)
        slots = await asking.stored(of(BTC, HOUR))
        await forget(asking, of(BTC, HOUR), slots[100:103])
        before = asking.pages
        filled = await asking(BTC)
        assert [(gap.first, gap.last) for gap in filled.planned] == [(slots[100], slots[102])]
        assert asking.pages == before + 1
        assert await asking.stored(of(BTC, HOUR)) == slots


async def test_what_the_exchange_does_not_have_is_asked_for_once(valkey_url: str):
    """Listed thirty days ago: there are no three hundred days."""
    async with exchange(history_days=30) as simulator:
        asking = Asking(valkey_url, simulator)
        filled = await asking(BTC, timeframes=(Timeframe.D1,))
        assert [gap.slots for gap in filled.planned] == [DEPTH]
        assert filled.remaining == ()
        assert filled.absent == DEPTH - len(await asking.stored(of(BTC, Timeframe.D1)))
        assert 25 < len(await asking.stored(of(BTC, Timeframe.D1))) <= 31
        again = await asking(BTC, timeframes=(Timeframe.D1,))
        assert again.planned == ()
        assert asking.pages == 1


async def test_one_that_was_interrupted_is_resumed(valkey_url: str):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: asking(BTC, ETH, timeframes=TIMEFRAMES))
            while asking.pages < 4:  # noqa: ASYNC110 - the simulator only counts
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert not await asking.ask("EXISTS", "lease:coinbase"), "the lease was given back"
        done = asking.pages
        assert done < 10
        filled = await asking(BTC, ETH, timeframes=TIMEFRAMES)
        assert filled.remaining == ()
        assert len(filled.planned) < 10
        assert asking.pages <= 12
        for symbol in (BTC, ETH):
            for timeframe in TIMEFRAMES:
                assert len(await asking.stored(of(symbol, timeframe))) == DEPTH


async def test_since_reaches_deeper_and_no_further_than_1000(valkey_url: str):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        newest = SLOT.last_closed(START)
        filled = await asking(BTC, timeframes=(SLOT,), since=newest - 700 * SLOT.ms)
        assert filled.requests == asking.pages == 3
        slots = await asking.stored(of(BTC, SLOT))
        assert slots[0] == newest - 700 * SLOT.ms
        assert len(slots) == 701
        with pytest.raises(UsageError) as caught:
            await asking(BTC, timeframes=(SLOT,), since=newest - 1000 * SLOT.ms)
        said = str(caught.value)
        assert "further back than the newest 1000 candles of 5m" in said
        assert "use a longer timeframe, or --since 20" in said
        assert asking.pages == 3


async def test_what_the_exchange_does_not_answer_remains(valkey_url: str):
    """A newer candle is stored already: nothing may be concluded from a reply that never came."""
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        await asking(BTC)
        await asking.ask("DEL", store.keys(of(BTC, HOUR)).candles)
        await asking.ask("DEL", store.keys(of(BTC, HOUR)).companion)
        now = simulator.clock.now() // NS
        await asking(BTC, since=now - 3 * HOUR.ms)
        held = await asking.stored(of(BTC, HOUR))
        assert len(held) < 5
        await asking.ask("HDEL", store.keys(of(BTC, HOUR)).companion, "asked_from")
        filled = await only_candles_fail(asking)
        assert [gap.series for gap in filled.remaining] == [of(BTC, HOUR)]
        assert "503" in filled.remaining[0].note
        assert len(await asking.stored(of(BTC, HOUR))) == len(held)


async def only_candles_fail(asking: Asking) -> Filled:
    """A backfill of BTC's hours while REST answers everything but candles."""
    products = COINBASE.products_requests()[0].path
    real = asking.simulator.rest_url
    async with httpx.AsyncClient(trust_env=False) as client:
        answers = {
            path: (
                await client.get(real + path, params=dict(COINBASE.products_requests()[0].params))
            )
            for path in (products, COINBASE.time_request().path)
        }

    def answer(request: Request) -> Reply:
        known = answers.get(request.path)
        return Reply(200, known.content) if known else Reply(503, b"")

    async def on_web(stream: trio.SocketStream) -> None:
        await serve_http(stream, "127.0.0.1", answer, lambda: START / 1000)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, on_web, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        filled = await Asking(asking.url, asking.simulator, url)(BTC)
        nursery.cancel_scope.cancel()
    return filled


async def test_only_what_is_really_missing_remains(valkey_url: str):
    """The newest candle is not shown yet: that one remains, not the range it lies in."""
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        stale = simulator.inject(fault="stale-rest", seconds=2 * 3600.0, **{"for": 7200.0})
        first = await asking(BTC)
        stored = await asking.stored(of(BTC, HOUR))
        assert DEPTH - 4 < len(stored) < DEPTH
        [gap] = first.remaining
        assert gap.slots == DEPTH - len(stored)
        assert gap.last == first.planned[0].last
        assert gap.attempts
        assert "REST does not show" in gap.note
        again = await asking(BTC)
        assert [gap.slots for gap in again.planned] == [gap.slots]
        assert [(one.first, one.last) for one in again.remaining] == [(gap.first, gap.last)]
        assert all(0 <= done <= total for done, total, _ in asking.reports)
        simulator.faults.expire(stale.until)
        last = await asking(BTC)
        assert (last.remaining, last.absent) == ((), 0)
        assert len(await asking.stored(of(BTC, HOUR))) == DEPTH


async def test_an_unknown_symbol_and_an_alias(valkey_url: str):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        with pytest.raises(UnknownSymbol, match="did you mean BTC-USD"):
            await asking("BTC-UDS")
        filled = await asking("BTC-USDC", timeframes=(Timeframe.D1,))
        assert filled.notices == ("BTC-USDC is the same market as BTC-USD: followed as BTC-USD",)
        assert await asking.stored(of(BTC, Timeframe.D1))


async def test_a_lease_that_somebody_holds_without_a_status_ends_it(valkey_url: str):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        redis = Redis(valkey_url)
        lease = Lease(redis, "coinbase", "somebody", {"pid": 7, "host": "elsewhere"})
        await lease.take()
        with pytest.raises(TakenError, match="process 7 on elsewhere"):
            await asking(BTC)
        await lease.release()
        redis.close()
        assert asking.pages == 0


# -- beside a daemon --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(asking: Asking, directory: Path, *symbols: str) -> AsyncIterator[Any]:
    settings = Settings(
        state_dir=directory,
        exchanges=("coinbase",),
        symbols=symbols,
        redis_url=asking.url,
        rest_url=asking.simulator.rest_url,
        websocket_url=asking.simulator.websocket_url,
    )
    async with trio.open_nursery() as nursery:
        found = await nursery.start(daemon.serve, settings)
        while True:
            await trio.sleep(0.05)
            text = await asking.ask("GET", "exchange:coinbase:status")
            if text and json.loads(text)["state"] == "live":
                break
        yield found.feeds["coinbase"]
        nursery.cancel_scope.cancel()


async def test_a_running_daemon_fills_it_through_its_ledger(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        async with running(asking, tmp_path, BTC):
            slots = await asking.stored(of(BTC, HOUR))
            await forget(asking, of(BTC, HOUR), slots[50:60])
            before = asking.pages
            filled = await asking(BTC)
            assert (filled.by, filled.remaining) == ("daemon", ())
            assert [(gap.first, gap.last) for gap in filled.planned] == [(slots[50], slots[59])]
            assert asking.pages == before + 1, "the daemon asked, and nobody else"
            assert await asking.stored(of(BTC, HOUR)) == slots
            assert (0, 1, "the daemon asks for them") in asking.reports
            again = await asking(BTC)
            assert again.planned == ()
            planned = await asking(BTC, since=slots[0] - 20 * HOUR.ms, dry_run=True)
            assert [gap.slots for gap in planned.planned] == [20]
            with pytest.raises(UnknownSymbol, match="the running daemon does not follow ETH-USD"):
                await asking(ETH)
        text = await asking.ask("HVALS", store.gaps_key("coinbase"))
        ours = [json.loads(one) for one in text]
        [gap] = [one for one in ours if one["cause"] == "asked for by hand"]
        assert gap["outcome"] == "filled"


async def test_a_daemon_that_fills_a_part_leaves_the_rest(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        async with running(asking, tmp_path, BTC):
            slots = await asking.stored(of(BTC, HOUR))
            simulator.inject(fault="stale-rest", seconds=2 * 3600.0, **{"for": 7200.0})
            await forget(asking, of(BTC, HOUR), slots[-10:])
            filled = await asking("BTC-USDC")
            assert filled.by == "daemon"
            assert filled.notices == (
                "BTC-USDC is the same market as BTC-USD: followed as BTC-USD",
            )
            assert sum(gap.slots for gap in filled.planned) == 10
            lacking = set(slots) - set(await asking.stored(of(BTC, HOUR)))
            assert 0 < len(lacking) < 4
            [gap] = filled.remaining
            assert set(range(gap.first, gap.last + 1, HOUR.ms)) == lacking


async def test_tries_that_were_made_before_do_not_end_the_waiting(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        asking = Asking(valkey_url, simulator)
        async with running(asking, tmp_path, BTC):
            slots = await asking.stored(of(BTC, HOUR))
            simulator.inject(fault="5xx", **{"for": 60.0})
            await forget(asking, of(BTC, HOUR), slots[50:60])
            first = await asking(BTC)
            tries = [gap.attempts for gap in first.remaining]
            assert tries
            second = await asking(BTC)
            assert second.remaining == () or second.remaining[0].attempts > tries[0]


# -- the command ------------------------------------------------------------------------------


async def test_its_exit_codes(valkey_url: str, tmp_path: Path):
    livermore = Livermore(tmp_path, valkey_url)

    async def command(*words: str) -> tuple[int, str, str]:
        def work() -> tuple[int, str, str]:
            done = livermore("backfill", "--rest-url", simulator.rest_url, *words)
            return done.returncode, done.stdout, done.stderr

        return await trio.to_thread.run_sync(work)

    async with exchange() as simulator:
        one = ("-s", BTC, "-t", "1h")
        code, out, _ = await command(*one, "--dry-run")
        assert code == 6, "gaps remain"
        assert "300 candles in 1 ranges would take 1 requests" in out
        code, out, err = await command(*one)
        assert (code, "300 of 300 candles filled by this command, 0 remain" in out) == (0, True)
        assert "Traceback" not in err
        code, out, _ = await command(*one)
        assert (code, out.strip()) == (0, "nothing is missing")
        code, _, err = await command("-s", BTC, "-t", "5m", "--since", "2025-12-01T00:00:00Z")
        assert code == 2
        assert "further back than the newest 1000" in err
        code, _, err = await command("-s", "BTC-UDS")
        assert code == 2
        assert "did you mean BTC-USD" in err
        redis = Redis(valkey_url)
        lease = Lease(redis, "coinbase", "somebody", {"pid": 7, "host": "elsewhere"})
        await lease.take()
        code, _, err = await command("-s", ETH, "-t", "1h")
        assert code == 5
        assert "process 7 on elsewhere" in err
        assert len(err.strip().splitlines()) == 1
        await lease.release()
        redis.close()
