"""``livermore verify``: by the command itself, or by the daemon that runs; its exit codes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from livermore import daemon
from livermore.adapters import store
from livermore.adapters.redis import Client, Redis
from livermore.cli.verify import code as code_of
from livermore.config import Settings
from livermore.errors import TakenError, UnknownSymbol, UsageError
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Series
from livermore.market.certificate import Certificate, Compared, certify, content_hash
from livermore.market.gap import SETTLED, VERIFY, Gap, Lane, encode_gap
from livermore.market.history import DEPTH
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.runtime.backfill import Wish, fill
from livermore.runtime.certification import Certified, certificates
from livermore.runtime.lease import Lease
from livermore.simulator import Limits, Simulator, SimulatorSettings
from livermore.simulator import serve as simulate
from tests.integration.command_line import Livermore

pytestmark = pytest.mark.timeout(60)
BTC, ETH = "BTC-USD", "ETH-USD"
HOUR, SLOT = Timeframe.H1, Timeframe.M5
START = 1_767_268_800_000 + 120_000  # two minutes into a slot
NEWEST = SLOT.last_closed(START)
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


@attrs.define(slots=False)
class Verifying:
    """``livermore verify`` as a function, in this process, and ``backfill`` to have something."""

    url: str
    simulator: Simulator
    reports: list[tuple[int, int, str]] = attrs.Factory(list)

    def report(self, done: int, total: int, text: str) -> None:
        self.reports.append((done, total, text))

    async def __call__(
        self,
        *symbols: str,
        timeframes: tuple[Timeframe, ...] = (SLOT,),
        since: int | None = None,
        stored_only: bool = False,
    ) -> Certified:
        redis = Redis(self.url)
        try:
            return await certificates(
                redis, COINBASE, self.simulator.rest_url, Wish(symbols, timeframes, since),
                self.report, stored_only=stored_only, holder="by hand", description={"pid": 1},
                chance=lambda: 0.5,
            )  # fmt: skip
        finally:
            redis.close()

    async def backfill(
        self, *symbols: str, timeframes: tuple[Timeframe, ...] = (SLOT,), since: int | None = None
    ) -> None:
        redis = Redis(self.url)
        try:
            filled = await fill(
                redis, COINBASE, self.simulator.rest_url, Wish(symbols, timeframes, since),
                self.report, dry_run=False, holder="by hand", description={"pid": 1},
                chance=lambda: 0.5,
            )  # fmt: skip
            assert filled.remaining == ()
        finally:
            redis.close()

    async def ask(self, *call: Any) -> Any:
        def work() -> Any:
            client = Client(self.url)
            try:
                return client.one(*call)
            finally:
                client.close()

        return await trio.to_thread.run_sync(work)

    async def members(self, series: Series) -> list[bytes]:
        found: list[bytes] = await self.ask(*store.range_call(series, "-inf", "+inf"))
        return found

    async def candles(self, series: Series) -> list[Candle]:
        found, damaged = store.decode_candles(series, await self.members(series))
        assert damaged == 0
        return found

    async def edit(self, series: Series, slot: int, old: bytes, new: bytes) -> None:
        """Change the text of a stored candle as somebody with an editor would."""
        [member] = await self.ask(*store.range_call(series, slot, slot))
        assert old in member, member
        await self.ask("ZREM", store.keys(series).candles, member)
        await self.ask("ZADD", store.keys(series).candles, slot, member.replace(old, new))

    async def corrupt(self, series: Series, slot: int) -> Candle:
        """A close that is wrong by 1 %; returns the candle as it was."""
        [was] = [one for one in await self.candles(series) if one.open_time == slot]
        close = (was.low + was.high) / 2 + 1e-7
        old, new = f'"close":{was.close!r}', f'"close":{close!r}'
        await self.edit(series, slot, old.encode(), new.encode())
        return was

    @property
    def pages(self) -> int:
        """Pages of candles the exchange was asked for."""
        paths = self.simulator.stats.paths
        return sum(count for path, count in paths.items() if path.endswith("/candles"))


def summary(one: Certificate) -> tuple[int, int, int, int]:
    return one.expected, one.confirmed, one.corrected, one.missing


# -- by itself --------------------------------------------------------------------------------


async def test_a_store_that_is_what_the_exchange_shows_is_certified(any_redis_url: str):
    async with exchange() as simulator:
        verifying = Verifying(any_redis_url, simulator)
        await verifying.backfill(BTC, ETH, timeframes=TIMEFRAMES)
        before = {t: await verifying.members(of(BTC, t)) for t in TIMEFRAMES}
        verifying.reports.clear()
        found = await verifying(BTC, ETH, timeframes=TIMEFRAMES)
        assert found.by == "this command"
        assert len(found.certificates) == 10
        for one in found.certificates:
            assert summary(one) == (DEPTH, DEPTH, 0, 0), one
            assert one.traded + one.empty == DEPTH
            assert one.agreed
            assert not one.problem
            stored = await verifying.candles(one.series)
            assert one.content == content_hash(c for c in stored if one.first <= c.open_time)
        assert verifying.reports[0] == (0, 10, "comparing")
        assert verifying.reports[-1] == (10, 10, "done")
        assert not await verifying.ask("EXISTS", "lease:coinbase"), "the lease was given back"
        for timeframe in TIMEFRAMES:
            after = [c.revision for c in await verifying.candles(of(BTC, timeframe))]
            assert set(after) == {0}
            assert len(after) == len(before[timeframe])


async def test_two_stores_with_the_same_candles_have_the_same_hash(valkey_url: str, redis_url: str):
    async with exchange() as simulator:
        hashes = []
        for url in (valkey_url, redis_url):
            verifying = Verifying(url, simulator)
            await verifying.backfill(BTC)
            [one] = (await verifying(BTC)).certificates
            hashes.append(one.content)
        assert hashes[0] == hashes[1]


async def test_a_candle_edited_by_hand_is_found_corrected_and_announced_once(any_redis_url: str):
    async with exchange() as simulator:
        verifying = Verifying(any_redis_url, simulator)
        await verifying.backfill(BTC)
        [whole] = (await verifying(BTC)).certificates
        slot = NEWEST - 100 * SLOT.ms
        was = await verifying.corrupt(of(BTC, SLOT), slot)
        with hearing(verifying.url) as heard:
            [one] = (await verifying(BTC)).certificates
            assert summary(one) == (DEPTH, DEPTH, 1, 0)
            assert not one.agreed
            [mismatch] = one.mismatches
            assert mismatch.open_time == slot
            assert mismatch.before is not None
            assert mismatch.after is not None
            assert mismatch.before.close != was.close
            assert mismatch.after.same_values(was)
            assert one.content == whole.content
            [again] = (await verifying(BTC)).certificates
            assert again.agreed
            told = [json.loads(text) for text in heard()]
        assert [message["open_time"] for message in told] == [slot]
        assert told[0]["close"] == was.close


@contextlib.contextmanager
def hearing(url: str) -> Any:
    """What was announced as corrections of BTC's five minutes so far."""
    client = Client(url)
    ears = client._connect().pubsub(ignore_subscribe_messages=True)
    ears.subscribe(store.keys(of(BTC, SLOT)).correct_channel)
    ears.get_message(timeout=1)

    def heard() -> list[bytes]:
        found = []
        while (message := ears.get_message(timeout=0.3)) is not None:
            found.append(message["data"])
        return found

    try:
        yield heard
    finally:
        ears.close()
        client.close()


async def test_what_cannot_be_read_and_what_is_gone_are_found_and_stored_again(valkey_url: str):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        series = of(BTC, SLOT)
        held = await verifying.candles(series)
        torn, gone = NEWEST - 50 * SLOT.ms, NEWEST - 60 * SLOT.ms
        await verifying.edit(series, torn, b'"open"', b'"opne"')
        await verifying.ask("ZREMRANGEBYSCORE", store.keys(series).candles, gone, gone)
        [one] = (await verifying(BTC)).certificates
        assert [mismatch.open_time for mismatch in one.mismatches] == [gone, torn]
        assert summary(one) == (DEPTH, DEPTH, 2, 0)
        assert not one.agreed
        after = await verifying.candles(series)
        assert [(c.open_time, c.close) for c in after] == [(c.open_time, c.close) for c in held]
        assert (await verifying(BTC)).certificates[0].agreed


async def test_a_candle_that_claims_to_be_newer_than_the_answer_stays_and_is_told(
    valkey_url: str,
):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        slot = NEWEST - 10 * SLOT.ms
        await verifying.corrupt(of(BTC, SLOT), slot)
        await verifying.edit(of(BTC, SLOT), slot, b'"as_of":1', b'"as_of":9')
        [one] = (await verifying(BTC)).certificates
        assert one.compared.differing == 1
        assert not one.agreed


async def test_a_series_younger_than_the_window_is_whole(valkey_url: str):
    async with exchange(history_days=30) as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC, timeframes=(Timeframe.D1,))
        [one] = (await verifying(BTC, timeframes=(Timeframe.D1,))).certificates
        assert 25 < one.expected <= 31
        assert (one.missing, one.agreed, one.confirmed) == (0, True, one.expected)


async def test_since_reaches_deeper_in_several_pages_and_no_further_than_1000(valkey_url: str):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        since = NEWEST - 900 * SLOT.ms
        await verifying.backfill(BTC, since=since)
        before = verifying.pages
        await verifying.corrupt(of(BTC, SLOT), since)
        [one] = (await verifying(BTC, since=since)).certificates
        assert verifying.pages - before == 4
        assert (one.first, one.expected, one.corrected) == (since, 901, 1)
        with pytest.raises(UsageError, match="further back than the newest 1000 candles of 5m"):
            await verifying(BTC, since=NEWEST - 1100 * SLOT.ms)


async def test_the_newest_two_minutes_are_left_out(valkey_url: str):
    """At 12:02:00 the slot that ended at noon is taken, a moment before it is not."""
    async with exchange(start=NEWEST + SLOT.ms + SETTLED - 30_000) as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        [one] = (await verifying(BTC)).certificates
        assert one.last == NEWEST - SLOT.ms
    async with exchange(start=NEWEST + SLOT.ms + SETTLED) as simulator:
        [one] = (await Verifying(valkey_url, simulator)(BTC)).certificates
        assert one.last == NEWEST


async def test_what_traded_and_is_not_shown_stays_and_is_no_agreement(valkey_url: str):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        before = [(c.open_time, c.close, c.kind) for c in await verifying.candles(of(BTC, SLOT))]
        sparse = simulator.inject(fault="sparse-rest", share=0.05, **{"for": 600.0})
        [one] = (await verifying(BTC)).certificates
        assert 3 < one.compared.omitted < 40
        assert (one.corrected, one.missing, one.agreed) == (0, 0, False)
        assert one.note.startswith("REST does not show 20")
        after = [(c.open_time, c.close, c.kind) for c in await verifying.candles(of(BTC, SLOT))]
        assert after == before
        simulator.faults.expire(sparse.until)
        assert (await verifying(BTC)).certificates[0].agreed


async def test_a_stale_answer_changes_nothing_and_decides_nothing_of_what_it_lacks(
    valkey_url: str,
):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        before = [(c.open_time, c.volume) for c in await verifying.candles(of(BTC, SLOT))]
        simulator.inject(fault="stale-rest", seconds=1000.0, **{"for": 600.0})
        [one] = (await verifying(BTC)).certificates
        assert one.compared.undecided in (3, 4), "and the one its last row is half of"
        assert (one.corrected, one.compared.mismatches) == (0, 0)
        after = [(c.open_time, c.volume) for c in await verifying.candles(of(BTC, SLOT))]
        assert after == before


async def test_what_the_exchange_does_not_answer_for_is_a_problem_and_no_agreement(
    valkey_url: str,
):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)

        def fail(done: int, total: int, text: str) -> None:
            if text == "comparing" and not done:  # products and time were asked for
                simulator.inject(fault="5xx", **{"for": 3600.0})

        verifying.report = fail  # type: ignore[method-assign]
        [one] = (await verifying(BTC)).certificates
        assert "503" in one.problem
        assert one.agreed, "nothing contradicts it"


async def test_what_was_never_asked_for_is_missing_if_it_was_named(valkey_url: str):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC, timeframes=(HOUR,))
        found = await verifying(BTC, timeframes=(SLOT, HOUR))
        five, hour = found.certificates
        assert summary(five) == (DEPTH, 0, 0, DEPTH)
        assert five.problem == "nothing is stored of it"
        assert hour.agreed
        found = await verifying(BTC, timeframes=(SLOT, HOUR), stored_only=True)
        assert [one.series for one in found.certificates] == [of(BTC, HOUR)]
        with pytest.raises(UnknownSymbol, match="did you mean BTC-USD"):
            await verifying("BTC-UDS")


async def test_a_lease_that_somebody_holds_without_a_status_ends_it(valkey_url: str):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        before = verifying.pages
        redis = Redis(valkey_url)
        lease = Lease(redis, "coinbase", "somebody", {"pid": 7, "host": "elsewhere"})
        await lease.take()
        with pytest.raises(TakenError, match="process 7 on elsewhere"):
            await verifying(BTC)
        await lease.release()
        redis.close()
        assert verifying.pages == before


# -- beside a daemon --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(verifying: Verifying, directory: Path, *symbols: str) -> AsyncIterator[Any]:
    settings = Settings(
        state_dir=directory,
        exchanges=("coinbase",),
        symbols=symbols,
        redis_url=verifying.url,
        rest_url=verifying.simulator.rest_url,
        websocket_url=verifying.simulator.websocket_url,
    )
    async with trio.open_nursery() as nursery:
        found = await nursery.start(daemon.serve, settings)
        while True:
            await trio.sleep(0.05)
            text = await verifying.ask("GET", "exchange:coinbase:status")
            if text and json.loads(text)["state"] == "live":
                break
        yield found.feeds["coinbase"]
        nursery.cancel_scope.cancel()


async def test_a_running_daemon_compares_through_its_ledger(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        async with running(verifying, tmp_path, BTC) as feed:
            slot = NEWEST - 100 * SLOT.ms
            was = await verifying.corrupt(of(BTC, SLOT), slot)
            found = await verifying("BTC-USDC", timeframes=TIMEFRAMES)
            assert found.by == "daemon"
            assert found.notices == ("BTC-USDC is the same market as BTC-USD: followed as BTC-USD",)
            five, *others = found.certificates
            assert summary(five) == (DEPTH, DEPTH, 1, 0)
            assert five.mismatches[0].open_time == slot
            assert five.compared.corrected == 1
            assert five.mismatches[0].after is not None
            assert five.mismatches[0].after.same_values(was)
            assert all(one.agreed for one in others), others
            assert (0, 5, "the daemon compares") in verifying.reports
            again = await verifying(BTC)
            assert again.certificates[0].agreed
            assert again.certificates[0].content == five.content
            assert not feed.report.repairs.open_gaps
            said = json.loads(await verifying.ask("GET", "exchange:coinbase:status"))
            assert said["verification"]["compared"].keys() >= {"slots", "confirmed", "corrected"}
            assert {"requests", "failures", "behind"} <= said["verification"].keys()
            names = await verifying.ask("HKEYS", store.gaps_key("coinbase"))
            assert not [name for name in names if b"verify" in name], "it cleans up"
            with pytest.raises(UnknownSymbol, match="the running daemon does not follow ETH-USD"):
                await verifying(ETH)


async def test_beside_a_daemon_a_rest_that_fails_is_told_and_no_gap_is_shown(
    valkey_url: str, tmp_path: Path
):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        async with running(verifying, tmp_path, BTC) as feed:
            simulator.inject(fault="5xx", **{"for": 3600.0})
            async with trio.open_nursery() as nursery:
                found: list[Certified] = []

                async def verify() -> None:
                    found.append(await verifying(BTC))

                nursery.start_soon(verify)
                while not feed.report.repairs.to_verify:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                assert not feed.report.repairs.open_gaps
                assert not feed.report.repairs.wanting
            [one] = found[0].certificates
            assert "503" in one.problem
            assert one.agreed


async def test_a_range_that_nobody_waits_for_any_more_is_forgotten(valkey_url: str, tmp_path: Path):
    """Its asker was killed: the daemon compares it, and the entry ends as such."""
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        async with running(verifying, tmp_path, BTC):
            gap = Gap(of(BTC, SLOT), NEWEST - 9 * SLOT.ms, NEWEST, VERIFY, START, Lane.BY_HAND)
            key = store.gaps_key("coinbase")
            await verifying.ask("HSET", key, gap.name, encode_gap(gap))
            while True:
                text = await verifying.ask("HGET", key, gap.name)
                if json.loads(text).get("outcome") == "filled":
                    break
                await trio.sleep(0.05)
            assert json.loads(text)["compared"][:2] == [10, 10]


# -- the command ------------------------------------------------------------------------------


@attrs.frozen
class Command:
    """``livermore verify`` as a person runs it."""

    livermore: Livermore
    simulator: Simulator

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        def work() -> tuple[int, str, str]:
            done = self.livermore("verify", "--rest-url", self.simulator.rest_url, *words)
            return done.returncode, done.stdout, done.stderr

        return await trio.to_thread.run_sync(work)


async def test_it_exits_with_7_when_something_differed_and_then_with_0(
    valkey_url: str, tmp_path: Path
):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        command = Command(Livermore(tmp_path, valkey_url), simulator)
        await verifying.backfill(BTC, ETH, timeframes=(HOUR,))
        slot = HOUR.last_closed(START) - 20 * HOUR.ms
        was = await verifying.corrupt(of(BTC, HOUR), slot)
        code, out, _ = await command("-s", BTC, "-t", "1h")
        assert code == 7
        [line] = [line for line in out.splitlines() if "corrected: close" in line]
        assert line.startswith("BTC-USD 1h 2025-12-31T15:00:00Z: corrected: close ")
        assert float(line.split("→")[1]) == was.close
        assert "\x1b" not in out
        code, out, err = await command("-t", "1h")
        assert code == 0, out
        assert out.splitlines()[-1] == (
            "600 of 600 candles in 2 series confirmed by coinbase: 0 corrected, 0 missing"
        )
        assert "2/2 done" in err


async def test_its_json_has_both_sides_of_a_mismatch(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        command = Command(Livermore(tmp_path, valkey_url), simulator)
        await verifying.backfill(BTC, timeframes=(HOUR,))
        slot = HOUR.last_closed(START) - 20 * HOUR.ms
        was = await verifying.corrupt(of(BTC, HOUR), slot)
        code, out, _ = await command("--json")
        assert code == 7
        document = json.loads(out)
        assert (document["agreed"], document["by"]) == (False, "this command")
        rows = {row["timeframe"]: row for row in document["certificates"]}
        assert rows.keys() == {"1h", "4h", "1d"}, "and what was folded"
        assert rows["4h"]["agreed"]
        row = rows["1h"]
        assert (row["expected"], row["confirmed"], row["missing"]) == (300, 300, 0)
        assert len(row["sha256"]) == 64
        [mismatch] = row["mismatches"]
        assert mismatch["open_time"] == "2025-12-31T15:00:00Z"
        assert mismatch["after"]["close"] == was.close
        assert mismatch["before"]["close"] != was.close


async def test_its_other_exit_codes(valkey_url: str, tmp_path: Path):
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        command = Command(Livermore(tmp_path, valkey_url), simulator)
        code, _, err = await command()
        assert code == 3
        assert "nothing of coinbase is stored here" in err
        await verifying.backfill(BTC, timeframes=(HOUR,))
        code, out, err = await command("-s", BTC, "-t", "5m")
        assert code == 7, "it was named, and it is missing"
        assert "300 missing" in out
        assert "BTC-USD 5m was not compared: nothing is stored of it" in err
        code, _, err = await command("-t", "1h", "--since", "2025-10-01T00:00:00Z")
        assert code == 2
        [line] = err.strip().splitlines()
        assert "further back than the newest 1000 candles of 1h" in line
        code, _, err = await command("-s", "BTC-UDS")
        assert code == 2
        assert "did you mean BTC-USD" in err


def test_what_could_not_be_compared_is_no_success_and_a_mismatch_goes_before_it():
    def certificate(missing: int, problem: str) -> Certificate:
        return certify(
            of(BTC, SLOT), 0, 2 * SLOT.ms, before=[], after=[], absent=3 - missing,
            compared=Compared(), problem=problem,
        )  # fmt: skip

    assert code_of([certificate(0, "")]) == 0
    assert code_of([certificate(0, ""), certificate(0, "503")]) == 1
    assert code_of([certificate(0, "503"), certificate(1, "")]) == 7


async def test_a_range_to_verify_is_not_why_a_candle_is_missing(valkey_url: str, tmp_path: Path):
    livermore = Livermore(tmp_path, valkey_url)
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        await verifying.backfill(BTC)
        gone = NEWEST - 5 * SLOT.ms
        await verifying.ask("ZREMRANGEBYSCORE", store.keys(of(BTC, SLOT)).candles, gone, gone)
        gap = Gap(of(BTC, SLOT), gone - SLOT.ms, NEWEST, VERIFY, START, Lane.BY_HAND)
        await verifying.ask("DEL", store.gaps_key("coinbase"))
        await verifying.ask("HSET", store.gaps_key("coinbase"), gap.name, encode_gap(gap))
        words = ("gaps", "-t", "5m", "--since", "2025-12-31T12:00:00Z", "--json")
        done = await trio.to_thread.run_sync(lambda: livermore(*words))
        entries = json.loads(done.stdout)["gaps"]
        [entry] = [one for one in entries if one["first"] == "2026-01-01T11:30:00Z"]
        assert (entry["candles"], entry["cause"]) == (1, None)


async def test_the_command_beside_a_daemon(valkey_url: str, tmp_path: Path):
    livermore = Livermore(tmp_path, valkey_url)
    async with exchange() as simulator:
        verifying = Verifying(valkey_url, simulator)
        async with running(verifying, tmp_path / "state", BTC):
            await verifying.corrupt(of(BTC, SLOT), NEWEST - 30 * SLOT.ms)
            codes = []
            for _ in range(2):
                done = await trio.to_thread.run_sync(lambda: livermore("verify", "-t", "5m"))
                codes.append(done.returncode)
                assert "the daemon compares" in done.stderr
            assert codes == [7, 0]
