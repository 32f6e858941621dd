"""Two users of one daemon: what one follows is private, what both follow is shared.

The clock is ten times as fast as ours, the exchange's six times as fast as that.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.cli import main
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from tests.integration.test_following import seed
from tests.simulator.whole_daemon import (
    EXCHANGE,
    Daemon,
    agree,
    check_announcements,
    exchange,
    listening,
    now_of,
    running,
    stored,
)

RATE = 10.0
SPEED = 6.0
LIMIT = 100
M5 = Timeframe.M5.ms
pytestmark = pytest.mark.timeout(LIMIT + 10)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Ten seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


def held(symbol: str, owner: str, client: Client) -> list[tuple[str, int]]:
    """Keys of a symbol that are there, with the milliseconds that are left of each."""
    found = []
    for series in store.all_series(EXCHANGE, symbol, owner):
        for key in store.types(series):
            left = int(client.one("PTTL", key))
            if left != -2:
                found.append((key, left))
    return found


async def closes(daemon: Daemon, count: int = 1) -> None:
    """Wait until so many more slots have ended, and a little."""
    left = M5 - now_of(daemon.simulator) % M5 + (count - 1) * M5 + 20_000
    await trio.sleep(left / 1000 / SPEED)


async def test_the_second_user_moves_a_symbol_to_the_shared_pool_without_a_gap(
    valkey_url: str, prepared_url: str, tmp_path: Path, fast_clock: Any, monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    seed(prepared_url, "alice", "bob")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVERMORE_REDIS_URL", valkey_url)
    monkeypatch.setenv("LIVERMORE_DATABASE_URL", prepared_url)
    monkeypatch.setenv("LIVERMORE_STATE_DIR", str(tmp_path))

    async def livermore(*words: str) -> Any:
        code = await trio.to_thread.run_sync(main, [*words, "--json"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    begun = partial(running, url=valkey_url, directory=tmp_path, top=2, database_url=prepared_url)
    with trio.fail_after(LIMIT * RATE), listening(valkey_url) as heard:
        async with exchange(speed=SPEED, symbols=6) as simulator:
            monkeypatch.setenv("LIVERMORE_REST_URL", simulator.rest_url)
            async with begun(simulator) as daemon:
                await daemon.whole()
                feed = daemon.feed
                tier = [*daemon.symbols]
                coin = next(
                    one.symbol
                    for one in feed.listed
                    if one.quote == "USD" and one.tradable and one.symbol not in tier
                )
                await livermore("symbols", "add", coin, "--user", "alice")
                await closes(daemon)
                alone = await stored(valkey_url, partial(held, coin, "alice"))
                assert len(alone) >= 2 * len(TIMEFRAMES)
                low, high = 0.88 * store.PRIVATE, 1.1 * store.PRIVATE
                assert all(low < left <= high for _, left in alone), alone
                assert await stored(valkey_url, partial(held, coin, "")) == []
                told = await livermore("candles", coin, "5m", "--user", "alice")
                assert len(told["candles"]) == 20

                await livermore("symbols", "add", coin, "--user", "bob")
                assert await stored(valkey_url, partial(held, coin, "alice")) == []
                shared = await stored(valkey_url, partial(held, coin, ""))
                assert {left for _, left in shared} == {-1}
                assert len(shared) >= len(alone), "nothing was lost on the way"
                await closes(daemon, 2)
                [row] = [
                    one
                    for one in (await livermore("symbols", "list"))["symbols"]
                    if one["symbol"] == coin
                ]
                assert (row["tier"], row["owner"]) == (2, "")
                assert row["followers"] == ["alice", "bob"]
                await agree(valkey_url, simulator, [*tier, coin])
                assert feed is daemon.feed

            def audit(client: Client) -> None:
                assert check_announcements(client, heard, [*tier, coin], in_order=False) >= 2

            await stored(valkey_url, audit)

            async with begun(simulator) as daemon:
                await daemon.whole()
                assert [*daemon.symbols] == [*tier, coin], "as it was before"
                for user in ("alice", "bob"):
                    await livermore("symbols", "remove", coin, "--user", user)
                assert [*daemon.symbols] == tier
                await closes(daemon)
                for owner in ("", "alice", "bob"):
                    assert await stored(valkey_url, partial(held, coin, owner)) == []
