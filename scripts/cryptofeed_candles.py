#!/usr/bin/env python3
"""cryptofeed, as its users would have it: candles of Binance into Redis. For bench_binance.py.

    cryptofeed_candles.py [--closed-only] WSS_URL REDIS_PORT NATIVE...

Runs in an environment of its own. A line on standard input, ``{"until": N}``, is answered when so
many frames were received since the line before, and Redis has taken what they said.

``--closed-only`` is its default, and drops every frame that closes nothing; without it every frame
becomes a candle.
"""

# mypy: ignore-errors
# Others' libraries, which are not installed where this is checked.

from __future__ import annotations

import asyncio
import json
import sys
import time

from cryptofeed import FeedHandler
from cryptofeed.backends.redis import CandlesRedis
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols

QUOTE = "USDT"


def main() -> None:
    """Connects, says so, and answers until standard input ends."""
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    url, port, *natives = [word for word in sys.argv[1:] if word not in options]
    listing = {
        "symbols": [
            {
                "symbol": native,
                "status": "TRADING",
                "baseAsset": native.removesuffix(QUOTE),
                "quoteAsset": QUOTE,
                "filters": [{"tickSize": "0.00000001"}],
            }
            for native in natives
        ]
    }
    # What it would have asked REST for.
    Symbols.set(Binance.id, *Binance._parse_symbol_data(listing))
    Binance.websocket_endpoints = [WebsocketEndpoint(url)]
    config = {
        "log": {"filename": "/dev/null", "level": "WARNING"},
        "uvloop": True,
    }
    handler = FeedHandler(config=config)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    backend = CandlesRedis(host="127.0.0.1", port=int(port))
    feed = Binance(
        symbols=[f"{native.removesuffix(QUOTE)}-{QUOTE}" for native in natives],
        channels=[CANDLES],
        candle_interval="5m",
        candle_closed_only="--closed-only" in options,
        callbacks={CANDLES: backend},
        config=config,
    )
    handler.add_feed(feed)
    handler.run(start_loop=False, install_signal_handlers=False)
    loop.run_until_complete(answer(feed, backend))


def received(feed: Binance) -> int:
    """Frames of all connections."""
    return sum(getattr(one.conn, "received", 0) for one in feed.connection_handlers)


async def answer(feed: Binance, backend: CandlesRedis) -> None:
    """One line for every line."""
    while not all(getattr(one.conn, "is_open", False) for one in feed.connection_handlers):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    say({"connected": len(feed.connection_handlers)})
    before = received(feed)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wanted = json.loads(line)["until"]
        began = time.process_time()
        say({"ready": True})
        while received(feed) < before + wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await backend.queue.join()
        say({"at": time.monotonic(), "cpu": time.process_time() - began})
        before += wanted


def say(what: object) -> None:
    """To who started this."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
