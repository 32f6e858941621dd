"""Coinbase Advanced Trade, played: candles as late samples, lossy snapshots, one sequence."""

from __future__ import annotations

import math

from livermore.simulator.coinbase.account import keys
from livermore.simulator.coinbase.routes import Routes
from livermore.simulator.coinbase.voice import Voice
from livermore.simulator.coinbase.words import CHANNELS
from livermore.simulator.exchange import Exchange
from livermore.simulator.limits import Limits
from livermore.simulator.listing import listings

COINBASE = Exchange(
    name="coinbase",
    limits=Limits(
        rest_rate=10,
        rest_window=1.0,
        client_messages=8,
        connections=8,
        connection_window=1.0,
        subscribe_within=5.0,
        streams=2**31,  # none is documented
        ping_every=math.inf,
        pong_within=math.inf,
        maximum_age=math.inf,
    ),
    channels=CHANNELS,
    disturbed=("candles", "market_trades", "ticker", "heartbeats"),
    listings=listings,
    voice=Voice,
    routes=Routes,
    keys=keys,
)
