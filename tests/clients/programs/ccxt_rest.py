"""REST through ccxt; prints what it returned. ``urls``: where its addresses are put right."""

from __future__ import annotations

import json
import sys

import ccxt

asked = json.loads(sys.argv[1])
exchange = getattr(ccxt, asked["exchange"])(asked["options"])
exchange.urls["api"].update(asked["urls"])
markets = exchange.load_markets()
candles = [exchange.fetch_ohlcv(*want) for want in asked["candles"]]
try:
    exchange.fetch_ohlcv("NOPE/NOPE", "5m")
    refused = ""
except ccxt.BadSymbol as error:
    refused = str(error)
told = ("id", "base", "quote", "active", "spot")
print(
    json.dumps(
        {
            "markets": {name: {key: row[key] for key in told} for name, row in markets.items()},
            "candles": candles,
            "ticker": exchange.fetch_ticker(asked["symbol"]),
            "tickers": exchange.fetch_tickers(),
            "time": exchange.fetch_time(),
            "refused": refused,
        }
    )
)
