"""Client libraries, unchanged, find on the simulated exchanges the account that is there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.clients.exchange import Certificate, Exchange, simulated

Keys = dict[str, tuple[str, str]]


@contextlib.asynccontextmanager
async def account(name: str, certificate: Certificate) -> AsyncIterator[tuple[Exchange, Keys]]:
    """Libraries sign with our wall clock, so the exchange's begins there."""
    async with simulated(name, certificate, "--rest-rate", "100000", start=None) as exchange:
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            given = (await http.get(f"{exchange.control}/keys")).json()["keys"]
        yield exchange, {one["name"]: (one["key"], one["secret"]) for one in given}


async def test_coinbase_advanced_py_is_told_all_with_either_kind_of_key(certificate):
    async with account("coinbase", certificate) as (exchange, keys):
        wrong = (keys["view"][0], keys["trade"][1])
        heard = await exchange.ask(
            "coinbase_account.py",
            keys=[keys["view"], keys["ed25519"], keys["trade"], wrong, keys["transfer"]],
        )
    view, edwards, trade, refused, blind = heard
    currencies = [one["currency"] for one in view["accounts"]]
    assert currencies == ["BTC", "ETH", "SOL", "USD", "USDC", "XRP"]
    assert view["accounts"] == edwards["accounts"] == trade["accounts"]
    assert len({one["order_id"] for one in view["orders"]}) == 250
    assert view["fees"]["fee_tier"]["taker_fee_rate"] == "0.012"
    assert [one["rights"]["can_trade"] for one in (view, edwards, trade)] == [False, False, True]
    assert (refused["status"], refused["said"].strip()) == (401, "Unauthorized")
    assert (blind["status"], "Missing required scopes" in blind["said"]) == (403, True)


@pytest.mark.parametrize(("name", "symbol"), [("binance", "BTCUSDT"), ("binance_us", "BTCUSD")])
async def test_binance_sdk_spot_is_told_balances_and_trades(certificate, name, symbol):
    async with account(name, certificate) as (exchange, keys):
        wrong = (keys["view"][0], keys["trade"][1])
        heard = await exchange.ask(
            "binance_sdk_account.py",
            symbol=symbol,
            keys=[keys["view"], wrong, keys["transfer"]],
        )
    view, refused, blind = heard
    assets = {one["asset"]: float(one["free"]) + float(one["locked"]) for one in view["balances"]}
    assert set(assets) == {"BTC", "ETH", "SOL", "XRP", "USDC", symbol[3:]}
    bought = sum(
        (1 if one["isBuyer"] else -1) * float(one["qty"])
        - (float(one["commission"]) if one["commissionAsset"] == "BTC" else 0)
        for one in view["trades"]
    )
    assert bought == pytest.approx(assets["BTC"]), "trades explain the balance"
    assert view["maker"] == "0.00100000"
    assert "Signature for this request is not valid" in refused["said"]
    assert "Invalid API-key, IP, or permissions for action" in blind["said"]


@pytest.mark.parametrize(
    ("name", "library"),
    [("coinbase", "coinbase"), ("binance", "binance"), ("binance_us", "binanceus")],
)
async def test_ccxt_is_told_the_balance(certificate, name, library):
    async with account(name, certificate) as (exchange, keys):
        where: dict[str, Any] = {"options": {}, "urls": {"rest": exchange.secure_rest}}
        if name != "coinbase":
            rest = f"{exchange.rest}/api/v3"
            spot: dict[str, Any] = {"fetchMarkets": {"types": ["spot"]}}
            spot |= {"fetchCurrencies": False, "fetchMargins": False}
            where = {"options": {"options": spot}, "urls": {"public": rest, "private": rest}}
        heard = await exchange.ask(
            "ccxt_account.py",
            exchange=library,
            symbol="BTC/USD" if name != "binance" else "BTC/USDT",
            trades=name != "coinbase",
            params={"v3": True} if name == "coinbase" else {},
            keys=[keys["view"], (keys["view"][0], keys["trade"][1])],
            **where,
        )
    view, refused = heard
    assert {name for name, total in view["total"].items() if total} == {
        *("BTC", "ETH", "SOL", "XRP", "USDC"),
        "USDT" if name == "binance" else "USD",
    }
    assert (len(view["trades"]) > 50) == (name != "coinbase")
    assert "said" in refused
