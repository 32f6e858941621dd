"""Candles and tickers through ccxt.pro; prints them when enough candles have begun."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import ccxt.pro

asked = json.loads(sys.argv[1])
symbols = asked["symbols"]
exchange = getattr(ccxt.pro, asked["exchange"])(asked["options"])
exchange.urls["api"].update(asked["urls"])
exchange.urls["api"]["ws"].update(asked["websocket_urls"])
candles: dict[str, dict[int, Any]] = {symbol: {} for symbol in symbols}
tickers: dict[str, list[Any]] = {symbol: [] for symbol in symbols}


async def watch_candles(symbol: str) -> None:
    while len(candles[symbol]) < asked["candles"]:
        for row in await exchange.watch_ohlcv(symbol, "5m"):
            candles[symbol][row[0]] = row


async def watch_ticker(symbol: str, name: str) -> None:
    while True:
        tickers[symbol].append(await exchange.watch_ticker(symbol, {"name": name}))


async def main() -> None:
    try:
        await exchange.load_markets()
        watching = [
            asyncio.create_task(watch_ticker(symbol, name))
            for symbol, name in asked["tickers"].items()
        ]
        await asyncio.gather(*map(watch_candles, symbols))
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        cached = {symbol: list(exchange.ohlcvs[symbol]["5m"]) for symbol in symbols}
    finally:
        await exchange.close()
    print(json.dumps({"candles": cached, "tickers": tickers}))


asyncio.run(main())
