"""Binance.com and Binance.US, played: one protocol, and a table of what they differ in."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from livermore.simulator.binance.account import keys
from livermore.simulator.binance.listing import listings
from livermore.simulator.binance.routes import Routes
from livermore.simulator.binance.table import CHANNELS, COM, US, Table
from livermore.simulator.binance.voice import Voice
from livermore.simulator.exchange import Exchange
from livermore.simulator.faults import Kind
from livermore.simulator.limits import Limits

_KINDS = {
    "unflagged": Kind(
        "closing frames do not come; idle: only those of candles without trades",
        {"symbols": [], "idle": False, "share": 1.0},
    ),
    "late-flag": Kind(
        "closing frames come later, and nothing of the next candle before them",
        {"symbols": [], "seconds": 15.0},
    ),
    "ban": Kind("REST answers 418 with Retry-After", {"retry_after": 120}),
    "geo": Kind("REST answers 451: nobody is served from here", {}),
}
_SHUTDOWN = Kind(
    "every connection hears serverShutdown, and ends so many seconds later",
    {"lead": 10.0},
    lasts=False,
)


def _exchange(table: Table, **limits: Any) -> Exchange:
    return Exchange(
        name=table.name,
        limits=Limits(
            rest_window=60.0,
            client_messages=5,
            connections=300,
            connection_window=300.0,
            subscribe_within=math.inf,
            streams=1_024,
            maximum_age=86_400.0,
            **limits,
        ),
        channels=CHANNELS | {"heartbeats"},
        disturbed=("kline", "kline", "ticker", "heartbeats"),
        listings=partial(listings, table),
        voice=partial(Voice, table),
        routes=partial(Routes, table),
        keys=partial(keys, table.name),
        kinds={**_KINDS, **({"shutdown": _SHUTDOWN} if table.shuts_down else {})},
    )


BINANCE = _exchange(COM, rest_rate=6_000, ping_every=20.0, pong_within=60.0)
BINANCE_US = _exchange(US, rest_rate=1_200, ping_every=180.0, pong_within=600.0)
