"""Every kind of fault alone, across the end of a slot: the store is the truth again afterwards.

The clock of these runs is twenty times as fast as ours: an exchange's minute takes three seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from livermore import daemon as daemon_module
from livermore.adapters import http
from livermore.exchanges.coinbase import COINBASE
from livermore.market.timeframe import Timeframe
from livermore.runtime import connection
from livermore.simulator.faults import KINDS
from tests.simulator.whole_daemon import (
    START,
    Daemon,
    agree,
    check_announcements,
    exchange,
    lines,
    listening,
    now_of,
    running,
    stored,
)

M5 = Timeframe.M5.ms
RATE = 20.0
BEFORE = 30.0
"""Seconds of the exchange from the first word of a fault to the end of a slot."""
LIMIT = int(RATE) * 10
"""Requests in a second of the exchange: what the budget grants in one of ours may come at once."""
WITHIN = 60.0
"""Real seconds for what takes a few: a busy machine fails nothing."""

pytestmark = pytest.mark.timeout(240)

Said = Mapping[str, Any]
"""What is said of a fault; ``after``: seconds of the exchange after the one before."""

DROP: Said = {"fault": "drop"}
AWAY: tuple[Said, ...] = ({"fault": "refuse", "for": 60.0}, DROP)
"""For a minute nothing is heard: REST has to be asked."""
REST = {"429", "5xx", "slow-rest", "cut-rest", "stale-rest", "sparse-rest"}

CASES: Mapping[str, tuple[Said, ...]] = {
    "drop": ({"after": 28.0},),
    "refuse": ({"for": 60.0}, DROP),
    "ack-then-mute": ({"for": 60.0},),
    "ack-some": ({"share": 0.5, "for": 60.0}, DROP),
    "reject": ({"symbols": ["ETH-USD"], "for": 60.0}, DROP),
    "heartbeats-only": ({"for": 90.0},),
    "mute": ({"symbols": ["BTC-USD"], "for": 90.0},),
    "lose": ({"share": 0.3, "for": 60.0},),
    "duplicate": ({"share": 0.5, "for": 60.0},),
    "reorder": ({"share": 0.3, "for": 60.0},),
    "garbage": ({"share": 0.1, "for": 60.0},),
    "truncate": ({"share": 0.1, "for": 60.0},),
    "huge": ({"bytes": 4_000_000, "after": 28.0},),
    "half-open": ({"for": 60.0},),
    "stream-differs": ({"symbols": ["BTC-USD"], "for": 60.0},),
    "late-correction": ({"symbols": ["BTC-USD"], "for": 60.0},),
    "429": ({"retry_after": 1, "for": 120.0}, *AWAY),
    "5xx": ({"for": 120.0}, *AWAY),
    "slow-rest": ({"delay": 6.0, "for": 120.0}, *AWAY),
    "cut-rest": ({"for": 120.0}, *AWAY),
    "stale-rest": ({"seconds": 40.0, "for": 120.0}, *AWAY),
    "sparse-rest": ({"share": 0.5, "for": 330.0},),
    "skew": ({"seconds": 5.0, "for": 90.0}, {"after": 25.0, "seconds": -8.0, "for": 40.0}),
    "halt": ({"for": 120.0},),
}
"""For each kind what is said of it, and what it takes to be felt.

New connections only are refused, rejected and half acknowledged: a socket is dropped beside those.
REST is asked when something is missing, and to compare: what it leaves out beside a gap has no
other witness, so there it has to be the comparison.
"""


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Twenty seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


@pytest.fixture(autouse=True)
def fast_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are granted by the clock of Redis, which is ours: as many in a second of Trio."""
    dialect = attrs.evolve(COINBASE, rest_per_second=RATE * COINBASE.rest_per_second)
    monkeypatch.setattr(daemon_module, "dialect_of", lambda name: dialect)


async def quiet(daemon: Daemon) -> None:
    """Until nothing is wrong any more, and nothing missing."""

    def healed() -> bool:
        repairs = daemon.feed.report.repairs
        assert repairs is not None
        report = daemon.feed.report
        return daemon.told() == ("live", "") and not report.rejected and not repairs.open_gaps

    await daemon.until(healed, WITHIN)


def test_every_kind_has_a_case_and_every_case_a_kind():
    assert CASES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_across_the_end_of_a_slot_leaves_no_trace_in_the_store(
    valkey_url: str,
    tmp_path: Path,
    fast_clock: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    kind: str,
):
    monkeypatch.setattr(connection, "ASK_AGAIN", 60.0)
    if kind != "slow-rest":  # four seconds of this clock are none on a busy machine
        monkeypatch.setattr(http, "DEADLINE", RATE)
    begin = START + 80_000  # 100 seconds before midnight
    with listening(valkey_url) as heard:
        async with (
            exchange(
                symbols=3, speed=1.0, start=begin, history_days=15, rest_rate=LIMIT
            ) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole(WITHIN)
            left = M5 - now_of(simulator) % M5
            await trio.sleep((left / 1000 - BEFORE) % (M5 / 1000))
            requests = simulator.stats.rest_requests
            for said in CASES[kind]:
                await trio.sleep(said.get("after", 0.0))
                options = {name: value for name, value in said.items() if name != "after"}
                simulator.inject(**{"fault": kind, **options})
            await daemon.until(lambda: not simulator.faults, WITHIN)
            requests = simulator.stats.rest_requests - requests
            await quiet(daemon)
            await agree(valkey_url, simulator, daemon.symbols, WITHIN)
            symbols = list(daemon.symbols)
            assert len(symbols) == 3
            assert simulator.stats.over_rate == 0
            assert bool(simulator.stats.rest_429) == (kind == "429")
            assert requests or kind not in REST, "it was not felt"
            assert simulator.stats.refused or kind != "refuse", "it was not felt"
    assert lines(caplog, "the exchange rejected something") or kind != "reject", "it was not felt"
    assert not lines(caplog, "failed unexpectedly")
    await stored(
        valkey_url, lambda client: check_announcements(client, heard, symbols, in_order=False)
    )
