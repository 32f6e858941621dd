"""An outage is told where a person or a machine looks: status, /readyz, /metrics, the log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse

from livermore.adapters import last_words
from livermore.runtime.condition import STATES
from tests.integration.command_line import Livermore
from tests.servers import RedisServer
from tests.simulator.whole_daemon import Daemon, exchange, lines, running

pytestmark = pytest.mark.timeout(90)
FOUR = re.compile(r"(coinbase: )?\w+ since [-0-9TZ:]{20}: .+: .+; .+", re.IGNORECASE)
"""State, since when, what is missing: why; what happens next."""


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }


class Looking:
    """Asks a daemon over HTTP."""

    def __init__(self, daemon: Daemon, client: httpx.AsyncClient) -> None:
        self._daemon = daemon
        self._client = client

    async def get(self, path: str) -> tuple[int, str]:
        reply = await self._client.get(self._daemon.metrics_url + path)
        return reply.status_code, reply.text

    async def metrics(self) -> dict[tuple[str, ...], float]:
        return samples((await self.get("/metrics"))[1])

    async def ready(self, wanted: int, saying: str = "") -> str:
        """Wait for the answer, and for these words in it; return it."""
        while True:
            status, text = await self.get("/readyz")
            assert (await self.get("/livez"))[0] == 200, "an outage is no reason for a restart"
            if status == wanted and saying in text:
                return text.strip()
            await trio.sleep(0.05)


def fields_of(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = record.fields
    return found


async def test_a_lost_exchange_is_told_and_so_is_its_return(
    valkey_url: str, tmp_path: Path, caplog: Any
):
    caplog.set_level("INFO")
    with trio.fail_after(80):
        async with (
            exchange(symbols=3) as simulator,
            running(simulator, valkey_url, tmp_path, metrics_port=0) as daemon,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            looking = Looking(daemon, client)
            await looking.ready(503)
            await daemon.whole()
            assert (await looking.ready(200)).startswith("coinbase: live since ")
            before = await looking.metrics()
            assert before["livermore_state", "coinbase", "live"] == 1
            assert before["livermore_frames_total", "coinbase"] > 100
            assert before["livermore_history_series_whole", "coinbase"] == 15
            assert before["livermore_writer_batch_candles_count", "coinbase"] > 0
            assert before["livermore_rest_budget_used_last_minute", "coinbase"] >= 15
            assert before["livermore_reconnects_total", "coinbase"] == 0
            assert before["livermore_blind", "coinbase"] == 0
            assert "process_resident_memory_bytes" in {name for name, *_ in before}
            await daemon.until(lambda: daemon.feed.report.writer.turns.closes > 3)  # type: ignore[union-attr]

            simulator.inject(fault="refuse", **{"for": 240})
            simulator.inject(fault="drop")
            text = await looking.ready(503, "no data for 3 of 3 symbols: ")
            assert FOUR.fullmatch(text), text
            await looking.ready(503, "; reconnecting in ")
            found = await looking.metrics()
            assert found["livermore_state", "coinbase", "blind"] == 1
            assert sum(found["livermore_state", "coinbase", state] for state in STATES) == 1
            await daemon.until(lambda: lines(caplog, "blind"))
            await looking.ready(200)
            await daemon.until(lambda: lines(caplog, "sees again"))
            found = await looking.metrics()
            assert found["livermore_reconnects_total", "coinbase"] >= 1
            assert found["livermore_close_lag_seconds_count", "coinbase"] > 0
            assert found["livermore_closes_total", "coinbase"] > 3
            assert found["livermore_newest_close_age_seconds", "coinbase"] < 600
        [blind] = lines(caplog, "blind")
        assert {"since", "missing", "why", "next"} <= fields_of(blind).keys()
        [again] = lines(caplog, "sees again")
        assert fields_of(again)["after_seconds"] > 0


async def test_a_redis_that_is_away_is_told_by_everything_that_does_not_live_in_it(
    own_valkey: RedisServer, tmp_path: Path, caplog: Any
):
    caplog.set_level("INFO")
    livermore = Livermore(tmp_path, own_valkey.url)
    state = tmp_path / "state"

    async def status(*words: str) -> tuple[int, str]:
        words = ("status", "--state-dir", str(state), *words)
        done = await trio.to_thread.run_sync(lambda: livermore(*words))
        return done.returncode, done.stdout + done.stderr

    with trio.fail_after(80):
        async with (
            exchange(symbols=3) as simulator,
            running(simulator, own_valkey.url, tmp_path, metrics_port=0) as daemon,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            looking = Looking(daemon, client)
            await daemon.whole()
            await looking.ready(200)
            assert not last_words.path_in(state, "coinbase").exists()
            await trio.to_thread.run_sync(own_valkey.stop)
            text = await looking.ready(503, "neither stored nor published")
            assert FOUR.fullmatch(text), text
            assert "closed candles wait in memory; trying again" in text
            found = await looking.metrics()
            assert found["livermore_redis_away", "coinbase"] == 1
            await daemon.until(last_words.path_in(state, "coinbase").exists)
            left = last_words.path_in(state, "coinbase")
            await daemon.until(lambda: b"neither stored" in left.read_bytes())
            code, shown = await status()
            assert code == 0, shown
            told = " ".join(shown.replace("│", " ").split())
            assert FOUR.search(told), told
            assert "neither stored nor published" in told
            _, document = await status("--json")
            said = json.loads(document)
            assert said["state"] == "blind"
            assert all(said[part] for part in ("since", "missing", "why", "next"))

            await trio.to_thread.run_sync(own_valkey.start)
            await looking.ready(200)
            await daemon.until(lambda: lines(caplog, "Redis is back"))
            await daemon.until(lambda: not last_words.path_in(state, "coinbase").exists())
            code, shown = await status()
            assert code == 0, shown
            assert (await looking.metrics())["livermore_redis_away", "coinbase"] == 0
    assert len(lines(caplog, "Redis is away")) == 1
    assert fields_of(lines(caplog, "Redis is back")[0])["after_seconds"] > 0
    assert len([r for r in caplog.records if r.getMessage() == "blind"]) == 1


async def test_gaps_that_rest_does_not_fill_are_told_with_the_next_try(
    valkey_url: str, tmp_path: Path
):
    with trio.fail_after(80):
        async with (
            exchange(symbols=3) as simulator,
            running(simulator, valkey_url, tmp_path, metrics_port=0) as daemon,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            looking = Looking(daemon, client)
            await daemon.whole()
            simulator.inject(fault="429", **{"for": 3000})
            simulator.inject(fault="drop")
            simulator.inject(fault="refuse", **{"for": 400})
            text = await looking.ready(200, "candle")
            assert FOUR.fullmatch(text), text
            wanted = (
                r"\d+ candles? in \d+ gaps? since [-0-9TZ:]{20}: .*first [A-Z]+-USD \d+[mhd]: "
                r".*; REST is asked again .+"
            )
            assert re.search(wanted, text), text
            found = await looking.metrics()
            assert found["livermore_gaps_open", "coinbase"] >= 1
            assert found["livermore_gaps_open_candles", "coinbase"] >= 1
            assert found["livermore_rest_refusals_total", "coinbase"] >= 1


async def test_a_daemon_that_ends_leaves_no_words_behind(own_valkey: RedisServer, tmp_path: Path):
    path = last_words.path_in(tmp_path / "state", "coinbase")
    with trio.fail_after(80):
        async with (
            exchange(symbols=3) as simulator,
            running(simulator, own_valkey.url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await trio.to_thread.run_sync(own_valkey.stop)
            await daemon.until(path.exists)
        assert not path.exists()
