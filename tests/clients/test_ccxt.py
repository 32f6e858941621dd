"""ccxt and ccxt.pro, unchanged, see on the simulated exchanges what there is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.exchange import START, Exchange, figures, simulated, slots, traded

BINANCES = [("binance", "binance"), ("binance_us", "binanceus")]
TIMEFRAMES = ("5m", "15m", "1h", "4h", "1d")
ROWS = 200
SLOT = 300_000
ODD = {
    "binance": ["1INCH-USDT", "USDC-USDT", "FDUSD-USDT", "BNB-ETH", "币安人生-USDT"],
    "binance_us": ["1INCH-BTC", "USDC-USDT", "BTC-USDT", "BNB-ETH"],
    "coinbase": ["BTC-USDC", "USDT-USDC", "ETH-BTC"],
}
"""Also listed: most cannot be split by guessing, and one is not ASCII."""


def where(library: str, exchange: Exchange) -> dict[str, Any]:
    """What a user of ccxt sets to send it elsewhere."""
    if library == "coinbase":
        return {"exchange": library, "options": {}, "urls": {"rest": exchange.rest}}
    return {
        "exchange": library,
        "options": {"options": {"fetchMarkets": {"types": ["spot"]}}},
        "urls": {"public": f"{exchange.rest}/api/v3"},
        "websocket_urls": {"spot": f"{exchange.websocket}/ws"},
    }


def theirs(symbol: str) -> str:
    """How ccxt spells it."""
    return symbol.replace("-", "/")


def rows_of(candles: list[list[float]]) -> dict[int, tuple[float, ...]]:
    """What ccxt returned, oldest first, as figures by open time."""
    times = [int(row[0]) for row in candles]
    assert times == sorted(set(times))
    return {int(row[0]): tuple(row[1:]) for row in candles}


@pytest.mark.parametrize(("name", "library"), [*BINANCES, ("coinbase", "coinbase")])
async def test_rest_gives_markets_tickers_and_the_true_candles(certificate, name, library):
    # Of Coinbase it asks just ten times a second: what jitter makes of that is no matter here.
    roomy = ("--rest-rate", "20") if name == "coinbase" else ()
    async with simulated(name, certificate, *roomy) as exchange:
        symbols = await exchange.symbols()
        busy, quiet, odd = symbols[0], symbols[-1], ODD[name][-1]
        known = [
            timeframe for timeframe in TIMEFRAMES if (library, timeframe) != ("coinbase", "4h")
        ]
        wanted = [(symbol, timeframe) for timeframe in known for symbol in (busy, quiet)]
        wanted.append((odd, "5m"))
        asked = [
            (theirs(symbol), timeframe, slots(timeframe, ROWS)[0], ROWS)
            for symbol, timeframe in wanted
        ]
        heard = await exchange.ask(
            "ccxt_rest.py", candles=asked, symbol=theirs(busy), **where(library, exchange)
        )
        empty = 0
        for (symbol, timeframe), candles in zip(wanted, heard["candles"], strict=True):
            first, last = slots(timeframe, ROWS)
            truth = await exchange.truth(symbol, timeframe, first, last)
            assert len(truth) == ROWS
            # Of Coinbase the library asks for one slot more than it was told to.
            told = {at: row for at, row in rows_of(candles).items() if at <= last}
            # Coinbase leaves empty candles out; Binance sends them flat, without volume.
            expected = traded(truth) if name == "coinbase" else truth
            assert told == {at: figures(row) for at, row in expected.items()}
            empty += len(truth) - len(traded(truth))
        assert empty > 50, "a market so quiet was meant to have empty candles"

        markets = heard["markets"]
        for symbol in (*symbols, *ODD[name]):
            base, quote = symbol.split("-")
            native = symbol if name == "coinbase" else base + quote
            assert markets[theirs(symbol)] == {
                "id": native,
                "base": base,
                "quote": quote,
                "active": True,
                "spot": True,
            }
        assert not all(market["active"] for market in markets.values()), "some are halted"
        assert {theirs(symbol) for symbol in symbols} <= set(heard["tickers"])
        newest = list((await exchange.truth(busy, "5m", *slots("5m", 1))).values())[-1]
        for ticker in (heard["ticker"], heard["tickers"][theirs(busy)]):
            assert ticker["last"] == pytest.approx(newest["close"], rel=0.02)
            assert ticker["symbol"] == theirs(busy)
        assert heard["ticker"]["bid"] < heard["ticker"]["ask"]
        assert START <= heard["time"] <= await exchange.now()
        assert "NOPE" in heard["refused"]
        assert (await exchange.stats())["over_rate"] == 0, "its own pace is within the limits"


@pytest.mark.parametrize(("name", "library"), BINANCES)
async def test_a_websocket_hears_the_true_candles_and_tickers(certificate, name, library):
    async with simulated(name, certificate, "--speed", "100") as exchange:
        watched = [(await exchange.symbols())[0], ODD["binance"][-1]]
        if name == "binance_us":
            watched[1] = "ETH-USD"
        tickers = dict(zip(map(theirs, watched), ("ticker", "miniTicker"), strict=True))
        heard = await exchange.ask(
            "ccxt_websocket.py",
            symbols=[*tickers],
            tickers=tickers,
            candles=4,
            **where(library, exchange),
        )
        for symbol in watched:
            truth = await exchange.truth(symbol, "5m", START - SLOT, await exchange.now())
            told = rows_of(heard["candles"][theirs(symbol)])
            times = list(told)
            assert times == list(range(times[0], times[0] + len(times) * SLOT, SLOT))
            assert len(times) >= 4
            for at in times[:-1]:
                assert told[at] == figures(truth[at])
            said = heard["tickers"][theirs(symbol)]
            assert len(said) > 5
            low = min(candle["low"] for candle in truth.values())
            high = max(candle["high"] for candle in truth.values())
            for ticker in said:
                assert ticker["symbol"] == theirs(symbol)
                # The candle that runs at the end is not in the truth.
                assert low * 0.98 <= ticker["last"] <= high * 1.02
                if tickers[theirs(symbol)] == "ticker":
                    assert ticker["bid"] < ticker["ask"]
        assert (await exchange.stats())["over_rate"] == 0
