"""Nothing goes wrong: the store is the truth, and everything was said once."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from livermore.adapters.redis import Client
from livermore.market.product import STABLECOINS
from tests.simulator.whole_daemon import (
    agree,
    check_announcements,
    exchange,
    limited,
    listening,
    running,
    stored,
)


@pytest.mark.timeout(90)
async def test_an_undisturbed_run_equals_the_truth_and_announces_everything_once(
    valkey_url: str, tmp_path: Path
):
    with trio.fail_after(80), listening(valkey_url) as heard:
        async with exchange(symbols=8) as simulator:
            async with running(simulator, valkey_url, tmp_path, top=8) as daemon:
                await daemon.whole()
                await daemon.until(lambda: len(heard.of("candle:close")) > 8 * 9, 40)
                result = await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
                assert len(symbols) == 8
            assert result["slots"] > 8 * 5 * 250
            assert result["readings"] == 40
            assert result["revisions"] == 0, "nothing needed a correction"
            assert simulator.stats.rest_429 == 0
            assert simulator.stats.connections_total == 1

    def audit(client: Client) -> int:
        return check_announcements(client, heard, symbols)

    assert await stored(valkey_url, audit) > 8 * 9


@pytest.mark.timeout(90)
async def test_a_run_on_a_cluster_equals_the_truth(cluster_url: str, tmp_path: Path):
    async with limited(), exchange(symbols=4) as simulator:
        with listening(cluster_url) as heard:
            async with running(simulator, cluster_url, tmp_path) as daemon:
                await daemon.whole()
                await trio.sleep(6)
                await agree(cluster_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
    assert await stored(cluster_url, lambda client: check_announcements(client, heard, symbols))


@pytest.mark.timeout(90)
async def test_the_history_of_25_symbols_takes_few_requests_and_no_429(
    valkey_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async with limited(), exchange(symbols=25, speed=1.0) as simulator:
        begun = trio.current_time()
        async with running(simulator, valkey_url, tmp_path, top=25) as daemon:
            await daemon.until(
                lambda: (
                    daemon.feeds and daemon.feed.history[1] == 125 and daemon.feed.history_whole
                ),
                within=60,
            )
            took = trio.current_time() - begun
            requests = simulator.stats.rest_requests
            with capsys.disabled():
                print(f"\nhistory of 25 symbols: {took:.1f} s, {requests} requests")
            assert requests <= 160
            assert simulator.stats.rest_429 == 0
            await agree(valkey_url, simulator, daemon.symbols)


# -- what is followed -------------------------------------------------------------------------


async def test_the_most_traded_are_followed_and_no_stablecoins(valkey_url: str, tmp_path: Path):
    async with limited(), exchange(symbols=12, speed=1.0) as simulator:
        async with running(simulator, valkey_url, tmp_path, top=5) as daemon:
            await daemon.until(lambda: daemon.feeds and daemon.symbols)
            followed = list(daemon.symbols)
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{simulator.rest_url}/api/v3/brokerage/market/products"
            products = (await client.get(url)).json()["products"]
    volumes = {
        row["product_id"]: float(row["approximate_quote_24h_volume"])
        for row in products
        if row["quote_currency_id"] == "USD" and not row["alias"]
    }
    assert len(followed) == 5
    assert not {symbol.split("-")[0] for symbol in followed} & STABLECOINS
    assert [volumes[symbol] for symbol in followed] == sorted(
        (volumes[symbol] for symbol in followed), reverse=True
    )
    left = [
        volume
        for symbol, volume in volumes.items()
        if symbol not in followed and symbol.split("-")[0] not in STABLECOINS
    ]
    assert max(left) <= volumes[followed[-1]]
    assert any(symbol.split("-")[0] in STABLECOINS for symbol in volumes), "one was there to follow"


async def test_an_alias_is_followed_under_the_name_of_its_market(valkey_url: str, tmp_path: Path):
    async with limited(), exchange(symbols=4, speed=1.0) as simulator:
        given = {"top": None, "symbols": ("BTC-USDC", "ETH-USD")}
        async with running(simulator, valkey_url, tmp_path, **given) as daemon:
            await daemon.until(lambda: daemon.feeds and daemon.symbols)
            assert list(daemon.symbols) == ["BTC-USD", "ETH-USD"]
            assert daemon.feed.report.notices == [
                "BTC-USDC is the same market as BTC-USD: followed as BTC-USD"
            ]
