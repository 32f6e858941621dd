"""``livermore symbols`` without a daemon, and readers of what only one user follows.

The commands run in this process, beside a simulated exchange.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client, script
from livermore.cli import main
from livermore.market.candle import Candle, Series
from livermore.market.chosen import Chosen, decode_chosen
from livermore.market.timeframe import Timeframe
from livermore.simulator import SimulatorSettings
from livermore.simulator import serve as simulate
from tests.integration.test_following import seed

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms


@attrs.define
class Terminal:
    """The command line, called in a thread."""

    capsys: pytest.CaptureFixture[str]
    client: Client

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output, and talk."""
        code = await trio.to_thread.run_sync(main, words)
        said = self.capsys.readouterr()
        return code, said.out, said.err

    async def read(self, *words: str) -> Any:
        """What a command that must succeed says as JSON."""
        code, out, err = await self(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def chosen(self) -> Chosen:
        return decode_chosen(self.client.one("HGETALL", store.following_key("coinbase")))


@pytest.fixture
async def terminal(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> AsyncIterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    settings = SimulatorSettings(symbols=6, start=T0)
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(simulate, settings)
            for name, value in (
                ("REDIS_URL", valkey_url),
                ("REST_URL", simulator.rest_url),
                ("STATE_DIR", str(tmp_path)),
                ("EXCHANGES", "coinbase"),
            ):
                monkeypatch.setenv(f"LIVERMORE_{name}", value)
            client = Client(valkey_url)
            yield Terminal(capsys, client)
            client.close()
            nursery.cancel_scope.cancel()


async def test_without_a_daemon_the_next_one_is_told(terminal: Terminal):
    found = (await terminal.read("symbols", "search", "eth-usd"))["symbols"]
    assert [one["symbol"] for one in found][:1] == ["ETH-USD"]
    code, out, _ = await terminal("symbols", "add", "eth/usd,sol-usd")
    assert (code, out.strip()) == (
        0, "coinbase: no daemon runs: ETH-USD, SOL-USD will be followed once one does",
    )  # fmt: skip
    assert terminal.chosen().added == ("ETH-USD", "SOL-USD")
    code, _, err = await terminal("symbols", "add", "XRP-USD", "ETC-USDD")
    assert code == 2
    assert "unknown symbol ETC-USDD: did you mean" in err
    code, _, err = await terminal("symbols", "remove", "ETH-USD", "DOGE-USD")
    assert (code, terminal.chosen().added) == (2, ("ETH-USD", "SOL-USD")), "all or none"
    assert "coinbase does not follow DOGE-USD" in err
    assert (await terminal("symbols", "remove", "ETH-USD"))[0] == 0
    told = await terminal.read("symbols", "list")
    assert (told["running"], told["mode"]) == (False, "scalper-macdv")
    assert [(row["symbol"], row["tier"], row["by_hand"]) for row in told["symbols"]] == [
        ("SOL-USD", 2, True)
    ]
    [metric] = (await terminal.read("symbols", "metrics"))["symbols"]
    assert metric["volume"] > 0
    assert metric["liquidity"] in ("high", "medium", "low")
    code, out, _ = await terminal("symbols", "metrics")
    assert code == 0
    assert "everybody" in out


async def test_what_needs_a_database_or_a_daemon_says_so_in_a_line(terminal: Terminal):
    code, _, err = await terminal("symbols", "add", "ETH-USD", "--user", "alice")
    assert code == 4
    assert "need a database: set LIVERMORE_DATABASE_URL, then: livermore db apply" in err
    code, _, err = await terminal("symbols", "refresh")
    assert (code, err.count("\n")) == (3, 1), err
    code, _, err = await terminal("symbols", "search", "NOSUCH")
    assert code == 2


async def test_a_users_symbols_lie_in_the_database(
    terminal: Terminal, prepared_url: str, monkeypatch: pytest.MonkeyPatch
):
    seed(prepared_url, "alice", "bob")
    monkeypatch.setenv("LIVERMORE_DATABASE_URL", prepared_url)
    assert (await terminal("symbols", "add", "ETH-USD", "SOL-USD", "-u", "alice"))[0] == 0
    monkeypatch.setenv("LIVERMORE_USER", "bob")
    assert (await terminal("symbols", "add", "SOL-USD"))[0] == 0
    code, _, err = await terminal("symbols", "remove", "ETH-USD")
    assert (code, "bob does not follow ETH-USD" in err) == (2, True)
    monkeypatch.delenv("LIVERMORE_USER")
    told = await terminal.read("symbols", "list")
    assert {row["symbol"]: (row["owner"], row["followers"]) for row in told["symbols"]} == {
        "ETH-USD": ("alice", ["alice"]),
        "SOL-USD": ("", ["alice", "bob"]),
    }
    assert (await terminal.read("symbols", "refresh"))["exchange"] == "coinbase"
    with psycopg.connect(prepared_url) as connection:
        rows = connection.execute("SELECT count(*) FROM exchange_symbols WHERE rank = 1").fetchone()
    assert rows == (1,)


async def test_readers_look_at_the_shared_key_first_then_at_the_users(terminal: Terminal):
    client = terminal.client

    def store_candles(symbol: str, owner: str, close: float) -> None:
        series = Series("coinbase", symbol, M5, owner)
        candle = Candle(series, T0, 1.0, 9.0, 0.5, close, 3.0)
        client.run([store.write(series, 7, [candle], life=store.life(series, lambda: 0.5))])

    store_candles("ETH-USD", "", 1.0)
    store_candles("ETH-USD", "alice", 2.0)
    store_candles("SOL-USD", "alice", 3.0)

    async def close(symbol: str, *words: str) -> float:
        told = await terminal.read("candles", symbol, "5m", *words)
        [candle] = told["candles"]
        return float(candle["close"])

    assert await close("ETH-USD") == await close("ETH-USD", "--user", "alice") == 1.0
    named = store.keys(Series("coinbase", "SOL-USD", M5, "alice"))
    client.run([script("renew", (named.candles, named.companion), 60_000)])
    assert await close("SOL-USD", "--user", "alice") == 3.0
    left = client.run([("PTTL", named.candles), ("PTTL", named.companion)])
    assert min(left) > 20 * 3600 * 1000, "what is used stays"
    for words in ((), ("--user", "bob")):
        code, _, err = await terminal("candles", "SOL-USD", "5m", *words)
        assert (code, "unknown symbol SOL-USD" in err) == (2, True), err
    told = await terminal.read("indicators", "--user", "alice")
    assert [row["symbol"] for row in told["symbols"]] == ["ETH-USD", "SOL-USD"]
