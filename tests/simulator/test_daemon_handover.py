"""The whole daemon through the ends of connections that an exchange announces or prescribes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from livermore import daemon as daemon_module
from livermore.adapters import http
from livermore.exchanges import dialect as dialect_of
from livermore.runtime import connection
from livermore.simulator.limits import Limits
from tests.simulator.whole_daemon import (
    Daemon,
    agree,
    check_announcements,
    exchange,
    listening,
    running,
    stored,
)

RATE = 20.0
AGE = 300.0
"""Simulated seconds a connection may live here."""

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Twenty seconds of Trio in one of ours; no autojump, so that threads work."""
    return trio.testing.MockClock(rate=RATE)


@pytest.fixture(autouse=True)
def young_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day is too long to wait for. Requests are granted by the clock of Redis, which is ours."""

    def evolved(name: str) -> Any:
        known = dialect_of(name)
        return attrs.evolve(
            known, maximum_age=int(AGE * 1000), rest_per_second=RATE * known.rest_per_second
        )

    monkeypatch.setattr(daemon_module, "dialect_of", evolved)
    monkeypatch.setattr(http, "DEADLINE", 20.0)  # a second of ours
    monkeypatch.setattr(connection, "PING", 2.0)  # how often a silent socket's age is looked at


def handovers(daemon: Daemon) -> int:
    return min(health.handovers for health in daemon.feed.report.healths)


@pytest.mark.parametrize("name", ["binance", "binance_us"])
async def test_every_connection_is_replaced_before_its_end_and_nothing_is_lost_or_told_twice(
    valkey_url: str, tmp_path: Path, fast_clock: Any, name: str
):
    limits = Limits(maximum_age=AGE, rest_rate=100_000)
    with trio.fail_after(140 * RATE), listening(valkey_url, name) as heard:
        async with (
            exchange(exchange=name, symbols=6, speed=1.0, limits=limits) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            await daemon.until(lambda: handovers(daemon) >= 2, 60)
            assert [one.error for one in daemon.feed.report.healths if one.reconnects] == []
            await agree(valkey_url, simulator, daemon.symbols)
            symbols = list(daemon.symbols)
        assert simulator.stats.connections_total >= 2 * 3
    events = heard.events()
    assert events.count("the next socket goes on") >= 4
    assert "the next socket failed; the old one stays" not in events
    if name == "binance":  # on the other, idle slots are not closed at all
        assert "gaps found" not in events
    await stored(
        valkey_url, lambda client: check_announcements(client, heard, symbols, in_order=False)
    )


async def test_an_announced_shutdown_is_not_waited_for(
    valkey_url: str, tmp_path: Path, fast_clock: Any
):
    with trio.fail_after(120 * RATE), listening(valkey_url, "binance") as heard:
        limits = Limits(rest_rate=100_000)
        async with (
            exchange(exchange="binance", symbols=6, speed=1.0, limits=limits) as simulator,
            running(simulator, valkey_url, tmp_path) as daemon,
        ):
            await daemon.whole()
            simulator.inject(fault="shutdown", lead=240.0)
            await daemon.until(lambda: handovers(daemon) >= 1, 30)
            await trio.sleep(300)
            assert [one.error for one in daemon.feed.report.healths if one.reconnects] == []
            await agree(valkey_url, simulator, daemon.symbols)
    assert "gaps found" not in heard.events()
