"""Two hours of real candles through the whole daemon, with trouble at each moment that matters.

    python -m tests.simulator.reference_run --directory /tmp/reference

A simulated Binance plays a recorded stretch of BTC-USDT, 120 times as fast as it was. The daemon
follows it over its sockets and REST, folds, computes, evaluates its default rules and puts what
they find into its outbox. It is down at the end of one candle that alerts, is shown wrong candles
around another, and without a connection at the end of two more.

Prints one JSON object: the alerts that stand.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import trio

from livermore import daemon
from livermore.adapters import http, outbox
from livermore.adapters import redis as adapter
from livermore.adapters.valkey import valkey_binary
from livermore.config import Own, Settings
from livermore.runtime import lease
from livermore.signals.alert import Alert, Withdrawal
from livermore.simulator import Simulator, SimulatorSettings
from livermore.simulator import serve as simulate
from livermore.simulator.trades import NS
from tests.servers import RedisServer, server_room
from tests.simulator.chaos_run import LEASE, RATE, REQUEST_WITHIN, PatientClock, hurry_redis

CANDLES = Path(__file__).resolve().parents[2].parent / "shared" / "candles"
FILE = CANDLES / "binance_BTC-USDT_5m.csv"
SYMBOL = "BTC-USDT"
START = 1_615_852_800_000 + 42 * 3_600_000 + 180_000
"""Of the market: 505 candles into the file, 22 minutes before the first alert."""
LENGTH = 7_500.0
"""Seconds of the market."""
DOWN = (1_300.0, 90.0)
"""When the daemon ends, and for how long it is away: over the end of a candle that alerts."""
FAULTS: list[dict[str, Any]] = [
    {"at": 2_700.0, "fault": "stream-differs", "symbols": [SYMBOL], "for": 600.0},
    {"at": 6_080.0, "fault": "drop", "code": 0},
    {"at": 6_080.0, "fault": "refuse", "status": 0, "for": 480.0},
]
HEALED = 160.0
"""Seconds after the last end of a slot."""


async def run(server: RedisServer, directory: Path) -> dict[str, Any]:
    """The whole stretch; what stands in the outbox at its end."""
    lives = 0
    async with trio.open_nursery() as nursery:
        simulator: Simulator = await nursery.start(
            simulate,
            SimulatorSettings(
                exchange="binance", symbols=3, speed=1.0, start=START, history_days=60,
                replay=((SYMBOL, FILE),), scenario=FAULTS,
            ),
        )  # fmt: skip
        begun = trio.current_time()
        own = Own(
            symbols=(SYMBOL,), rest_url=simulator.rest_url, websocket_url=simulator.websocket_url
        )
        settings = Settings(
            state_dir=directory / "state", exchanges=("binance",), redis_url=server.url,
            own={"binance": own},
        )  # fmt: skip
        for until in (DOWN[0], LENGTH + HEALED):
            with trio.move_on_at(begun + until):
                lives += 1
                await daemon.serve(settings)
            if until == DOWN[0]:
                await trio.sleep(DOWN[1])
        ended = simulator.clock.now() // NS
        stats = simulator.stats
        nursery.cancel_scope.cancel()
    standing: Counter[tuple[str, str, int, str, float | None]] = Counter()
    late = withdrawn = 0
    client = adapter.Client(server.url)
    try:
        for row in outbox.rows(client.one(*outbox.after("binance", "0-0", 10_000))):
            entry = row.entry if isinstance(row, outbox.Row) else row
            if isinstance(entry, Alert):
                standing[_of(entry)] += 1
                late += entry.late
            elif isinstance(entry, Withdrawal):
                standing[_of(entry.alert)] -= 1
                withdrawn += 1
    finally:
        client.close()
    return {
        "started": START,
        "ended": ended,
        "lives": lives,
        "connections": stats.connections_total,
        "late": late,
        "withdrawn": withdrawn,
        "standing": sorted(one for one in standing.elements()),
        "twice": [one for one, count in standing.items() if count not in (0, 1)],
    }


def _of(alert: Alert) -> tuple[str, str, int, str, float | None]:
    return (alert.timeframe.value, alert.rule, alert.open_time, alert.direction, alert.level)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="reference-"))
    directory.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=directory / "log", level=logging.INFO)
    hurry_redis(RATE)
    http.DEADLINE = REQUEST_WITHIN
    lease.LASTS = LEASE
    with server_room() as room:
        server = RedisServer(valkey_binary(), room / "valkey")
        server.start()
        try:
            result = trio.run(run, server, directory, clock=PatientClock(RATE))
        finally:
            server.kill()
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
