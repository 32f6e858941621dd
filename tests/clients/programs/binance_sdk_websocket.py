"""Streams of binance-sdk-spot; prints what it heard until enough candles were closed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from binance_common.configuration import ConfigurationWebSocketStreams
from binance_sdk_spot.spot import Spot

asked = json.loads(sys.argv[1])
unknown: list[str] = []
"""What the library says of messages that belong to no stream."""


class Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (said := record.getMessage()).startswith("Received message: "):
            unknown.append(said)


logging.basicConfig(level=logging.INFO, handlers=[Listener()])


async def main() -> None:
    client = Spot(
        config_ws_streams=ConfigurationWebSocketStreams(stream_url=asked["websocket"])
    ).websocket_streams
    klines: list[Any] = []
    tickers: list[Any] = []
    events: list[str] = []
    await client.create_connection()
    client.on_connection("error", lambda error: events.append(f"error: {error}"))
    client.on_connection("close", lambda: events.append("close"))
    for symbol in asked["symbols"]:
        stream = await client.kline(symbol=symbol.lower(), interval="5m")
        stream.on("message", lambda said: klines.append(said.to_dict()))
        stream = await client.ticker(symbol=symbol.lower())
        stream.on("message", lambda said: tickers.append(said.to_dict()))
    subscribed = await client.list_subscribe()
    closed = 0
    while closed < asked["closed"]:
        await asyncio.sleep(0.1)
        closed = min(
            sum(said["s"] == symbol and said["k"]["x"] for said in klines)
            for symbol in asked["symbols"]
        )
    before = len(klines)
    while len(klines) == before:  # noqa: ASYNC110 (the library calls back)
        await asyncio.sleep(0.1)
    await client.unsubscribe(subscribed["result"])
    left = await client.list_subscribe()
    events.append("leaving")
    await client.close_connection(close_session=True)
    print(
        json.dumps(
            {
                "klines": klines,
                "tickers": tickers,
                "events": events,
                "unknown": unknown,
                "subscribed": subscribed,
                "left": left,
            }
        )
    )


asyncio.run(main())
