"""binance-sdk-spot, unchanged, sees on the simulated Binances what there is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from tests.clients.exchange import (
    START,
    Candle,
    Exchange,
    figures,
    simulated,
    slots,
    traded,
)

SLOT = 300_000
NOT_ASCII = "币安人生-USDT"
TIMEFRAMES = ("5m", "15m", "1h", "4h", "1d")
WEIGHTS = {"binance": 2, "binance_us": 1}
"""What one request for candles costs."""
PER_MINUTE = {"binance": 6000, "binance_us": 1200}


def native(symbol: str) -> str:
    """Binance's own id of a symbol."""
    return symbol.replace("-", "")


def row(values: list[Any]) -> tuple[float, ...]:
    """Figures of a row of REST."""
    return tuple(float(value) for value in values[1:6])


def told(kline: Candle) -> tuple[float, ...]:
    """Figures of a stream's candle."""
    return tuple(float(kline[name]) for name in "ohlcv")


@pytest.mark.parametrize(
    ("name", "over"), [("binance", "rest"), ("binance", "secure_rest"), ("binance_us", "rest")]
)
async def test_rest_gives_products_tickers_and_the_true_candles_oldest_first(
    certificate, name, over
):
    async with simulated(name, certificate) as exchange:
        symbols = await exchange.symbols()
        busy, quiet = symbols[0], symbols[-1]
        wanted = [(symbol, timeframe) for timeframe in TIMEFRAMES for symbol in (busy, quiet)]
        if name == "binance":
            wanted.append((NOT_ASCII, "5m"))
        asked = []
        for symbol, timeframe in wanted:
            first, last = slots(timeframe, 300)
            bounds = {"start_time": first, "end_time": last, "limit": 1000}
            asked.append({"symbol": native(symbol), "interval": timeframe, **bounds})
        heard = await exchange.ask(
            "binance_sdk_rest.py", candles=asked, symbol=native(busy), over=over
        )
        empty = 0
        for (symbol, timeframe), rows in zip(wanted, heard["klines"], strict=True):
            truth = await exchange.truth(symbol, timeframe, *slots(timeframe, 300))
            assert len(truth) == 300
            assert [int(values[0]) for values in rows] == list(truth)
            for values, candle in zip(rows, truth.values(), strict=True):
                assert row(values) == figures(candle)
                assert (int(values[8]) > 0) == (candle["kind"] == "traded")
                assert int(values[6]) == candle["open_time"] + length(timeframe) - 1
            empty += len(truth) - len(traded(truth))
        assert empty > 50, "a market so quiet was meant to have empty candles"

        weight = WEIGHTS[name]
        for before, after in itertools.pairwise(heard["weights"]):
            assert after in (before + weight, weight), "it rises, or a new minute begins"

        listed = {product["symbol"]: product for product in heard["symbols"]}
        for symbol in symbols:
            product = listed[native(symbol)]
            assert f"{product['baseAsset']}-{product['quoteAsset']}" == symbol
            assert product["status"] == "TRADING"
            assert product["isSpotTradingAllowed"]
        assert any(product["status"] != "TRADING" for product in heard["symbols"])
        assert heard["one"] == listed[native(busy)]
        limits = {limit["rateLimitType"]: limit["limit"] for limit in heard["rate_limits"]}
        assert limits["REQUEST_WEIGHT"] == PER_MINUTE[name]

        tickers = {ticker["symbol"]: ticker for ticker in heard["tickers"]}
        assert {native(symbol) for symbol in symbols} <= set(tickers)
        assert heard["ticker"]["symbol"] == native(busy)
        day = await exchange.truth(busy, "5m", START - 288 * SLOT, START)
        for ticker in (heard["ticker"], tickers[native(busy)]):
            assert float(ticker["lastPrice"]) == pytest.approx(
                list(day.values())[-1]["close"], 0.02
            )
            volume = sum(candle["volume"] for candle in day.values())
            assert float(ticker["volume"]) == pytest.approx(volume, 0.02)
            assert float(ticker["bidPrice"]) < float(ticker["askPrice"])
        assert START <= heard["time"] <= await exchange.now()
        assert "Invalid symbol" in heard["refused"]
        assert (await exchange.stats())["over_rate"] == 0


def length(timeframe: str) -> int:
    minutes = {"5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}
    return minutes[timeframe] * 60_000


async def test_streams_say_when_a_candle_is_closed_and_what_it_was(certificate):
    """Of Binance.com: the library numbers its messages with text, which Binance.US refuses."""
    async with simulated("binance", certificate, "--speed", "100") as exchange:
        watched = [(await exchange.symbols())[0], NOT_ASCII]
        heard = await listen(exchange, watched, closed=3)
        await agree(exchange, watched, heard, closed=3)


async def test_a_told_shutdown_disturbs_neither_the_library_nor_its_candles(certificate):
    async with simulated("binance", certificate, "--speed", "100") as exchange:
        watched = (await exchange.symbols())[:2]
        heard: dict[str, Any] = {}

        async def hear() -> None:
            heard.update(await listen(exchange, watched, closed=3))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await exchange.connected()
            await exchange.reaches(await exchange.now() + SLOT // 2)
            await exchange.inject(fault="shutdown", lead=36_000)
        shutdowns = [said for said in heard["unknown"] if "serverShutdown" in said]
        assert len(shutdowns) == 1
        assert "'stream': '!serverShutdown', 'data': {'e': 'serverShutdown', 'E': " in shutdowns[0]
        await agree(exchange, watched, heard, closed=3)


async def listen(exchange: Exchange, watched: list[str], *, closed: int) -> dict[str, Any]:
    heard: dict[str, Any] = await exchange.ask(
        "binance_sdk_websocket.py", symbols=[native(symbol) for symbol in watched], closed=closed
    )
    return heard


async def agree(
    exchange: Exchange, watched: list[str], heard: dict[str, Any], *, closed: int
) -> None:
    """What the streams said is the truth, and only the closed candle is the last word."""
    names = {native(symbol).lower() for symbol in watched}
    streams = {f"{name}@{kind}" for name in names for kind in ("kline_5m", "ticker")}
    assert set(heard["subscribed"]["result"]) == streams
    assert heard["left"]["result"] == []
    assert heard["events"][:1] == ["leaving"]
    for symbol in watched:
        truth = await exchange.truth(symbol, "5m", START - SLOT, await exchange.now())
        klines = [said for said in heard["klines"] if said["s"] == native(symbol)]
        flagged = [said["k"]["t"] for said in klines if said["k"]["x"]]
        assert flagged == list(range(flagged[0], flagged[0] + len(flagged) * SLOT, SLOT))
        assert len(flagged) >= closed
        for said in klines:
            kline = said["k"]
            assert (kline["s"], kline["i"], kline["T"]) == (
                native(symbol),
                "5m",
                kline["t"] + SLOT - 1,
            )
            assert (said["E"] > kline["T"]) == kline["x"]
            candle = truth.get(kline["t"])
            if kline["x"]:
                assert candle is not None
                assert told(kline) == figures(candle)
            elif kline["n"] == 0:
                assert len({kline[name] for name in "ohlc"}) == 1, "flat until it trades"
            elif candle is not None:
                assert float(kline["v"]) <= candle["volume"]
                assert candle["low"] <= float(kline["l"]) <= float(kline["h"]) <= candle["high"]
        order = [(said["k"]["t"], said["E"]) for said in klines]
        assert order == sorted(order)
        tickers = [said for said in heard["tickers"] if said["s"] == native(symbol)]
        assert len(tickers) > 5
        assert all(float(said["b"]) < float(said["a"]) for said in tickers)
