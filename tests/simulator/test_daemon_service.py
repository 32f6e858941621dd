"""The daemon as a service: what its manager hears, and what a SIGHUP changes."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from livermore.adapters import store
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from tests.integration.command_line import Livermore
from tests.notified import Listener, listening_manager
from tests.servers import RedisServer, free_port
from tests.simulator.test_daemon_process import (
    ask,
    simulator,
    started,
    status,
    stored,
    until,
)

pytestmark = pytest.mark.timeout(90)
ETH = Series("coinbase", "ETH-USD", Timeframe.H1)
BTC = ("--symbols", "BTC-USD")
PATIENCE = "1000000"
"""Patience of the manager in microseconds: a sign of life comes four times as often."""


@pytest.fixture
def livermore(tmp_path: Path) -> Livermore:
    return Livermore(tmp_path, "")


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, str]]:
    with simulator() as urls:
        yield urls


@pytest.fixture
def manager() -> Iterator[Listener]:
    with listening_manager() as listener:
        yield listener


def run(
    livermore: Livermore,
    exchange: dict[str, str],
    url: str,
    *words: str,
    manager: Listener | None = None,
) -> subprocess.Popen[str]:
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": PATIENCE} if manager else {}
    where = ("--rest-url", exchange["rest"], "--websocket-url", exchange["websocket"])
    return livermore.start("run", "coinbase", *where, "--redis-url", url, *words, **told)


# -- what the manager hears -------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_is_ready_and_live_and_says_when_it_stops(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str, abstract: bool
):
    with (
        listening_manager(abstract=abstract) as manager,
        started(run(livermore, exchange, valkey_url, *BTC, manager=manager)) as daemon,
    ):
        manager.hears("READY=1")
        assert ask(valkey_url, "EXISTS", "lease:coinbase")
        manager.hears("STATUS=coinbase: live", within=60)
        manager.beats(2)
        assert "STOPPING=1" not in manager.told
        daemon.stops()
        assert manager.hear()[-1] == "STOPPING=1"
        assert manager.told.count("READY=1") == 1


def test_an_exchange_that_is_down_at_the_start_fails_no_start(
    livermore: Livermore, valkey_url: str, manager: Listener
):
    port = free_port()
    nowhere = {"rest": f"http://127.0.0.1:{port}", "websocket": f"ws://127.0.0.1:{port}"}
    with started(run(livermore, nowhere, valkey_url, manager=manager)) as daemon:
        manager.hears("READY=1")
        line = manager.hears("STATUS=coinbase: connecting")
        assert f"cannot reach http://127.0.0.1:{port}" in line
        manager.beats(3)
        daemon.stops()


def test_an_outage_of_the_exchange_is_told_and_starves_no_watchdog(
    livermore: Livermore, valkey_url: str, manager: Listener
):
    with contextlib.ExitStack() as stack:
        with simulator() as urls:
            daemon = stack.enter_context(
                started(run(livermore, urls, valkey_url, *BTC, manager=manager))
            )
            manager.hears("STATUS=coinbase: live", within=60)
        line = manager.hears("STATUS=coinbase: blind", after=len(manager.told))
        assert " since 20" in line
        manager.beats(6)
        assert daemon.popen.poll() is None
        daemon.stops()


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_an_outage_of_redis_is_told_and_starves_no_watchdog(
    livermore: Livermore,
    exchange: dict[str, str],
    own_valkey: RedisServer,
    manager: Listener,
    how: str,
):
    """The status in Redis cannot tell: it lives in the Redis that is away."""
    with started(run(livermore, exchange, own_valkey.url, *BTC, manager=manager)) as daemon:
        manager.hears("STATUS=coinbase: live", within=60)
        before = len(manager.told)
        if how == "gone":
            own_valkey.stop()
        else:
            own_valkey.pause()
        daemon.says("Redis is away")
        manager.hears("STATUS=coinbase: blind", after=before)
        manager.beats(6)
        before = len(manager.hear())
        if how == "gone":
            own_valkey.start()
        else:
            own_valkey.resume()
        manager.hears("STATUS=coinbase: live", within=60, after=before)
        daemon.stops()


def test_a_manager_that_goes_away_costs_nothing(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str, manager: Listener
):
    with started(run(livermore, exchange, valkey_url, manager=manager)) as daemon:
        manager.hears("READY=1")
        manager.leave()
        daemon.says("connection live")
        manager.come_back()
        manager.beats(1)
        daemon.stops()


def test_why_it_ended_is_its_last_status(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str, manager: Listener
):
    words = ("--symbols", "BTC-UDS")
    with started(run(livermore, exchange, valkey_url, *words, manager=manager)) as daemon:
        assert daemon.ends() == 2
        assert manager.hear()[-1].startswith("STATUS=unknown symbol BTC-UDS: did you mean")


# -- what a SIGHUP changes --------------------------------------------------------------------


def write(livermore: Livermore, text: str) -> None:
    (livermore.room / "livermore.toml").write_text(text)


def test_a_reload_follows_what_the_file_names_now_and_keeps_the_lease(
    livermore: Livermore, exchange: dict[str, str], own_valkey: RedisServer, manager: Listener
):
    write(livermore, 'symbols = ["BTC-USD"]')
    with own_valkey.client() as client:
        client.config_set("notify-keyspace-events", "KEA")
        ears = client.pubsub()
        ears.psubscribe("__keyevent@0__:del", "__keyevent@0__:expired")
        with started(run(livermore, exchange, own_valkey.url, manager=manager)) as daemon:
            daemon.says("history 5/5")
            manager.hears("STATUS=coinbase: live", within=60)
            epoch = status(own_valkey.url)["epoch"]
            holder = ask(own_valkey.url, "HGET", "lease:coinbase", "holder")
            before = len(manager.hear())
            write(livermore, 'symbols = ["ETH-USD", "BTC-USD"]')
            daemon.popen.send_signal(signal.SIGHUP)
            line = daemon.says("symbols reloaded")
            assert line.endswith("symbols=2 new=ETH-USD gone=none")
            manager.hears("READY=1", after=before)
            told = manager.told[before:]
            assert told.index("RELOADING=1") < told.index("READY=1")
            until(lambda: status(own_valkey.url).get("symbols") == ["ETH-USD", "BTC-USD"])
            until(lambda: stored(own_valkey.url, ETH) > 250)
            assert status(own_valkey.url)["epoch"] == epoch, "the feed goes on"
            assert ask(own_valkey.url, "HGET", "lease:coinbase", "holder") == holder
            gone = {
                message["data"] for message in iter(lambda: ears.get_message(timeout=0.2), None)
            }
            assert not gone & {b"lease:coinbase", b"exchange:coinbase:status"}
            daemon.stops()
        gone = {message["data"] for message in iter(lambda: ears.get_message(timeout=0.5), None)}
        assert gone >= {b"lease:coinbase", b"exchange:coinbase:status"}, "as at any other end"
        ears.close()


def test_a_reload_that_cannot_be_done_is_a_line_and_all_goes_on(
    livermore: Livermore, valkey_url: str, manager: Listener
):
    write(livermore, 'symbols = ["BTC-USD"]')
    port = free_port()
    with contextlib.ExitStack() as stack:
        with simulator("--port", str(port)) as urls:
            daemon = stack.enter_context(started(run(livermore, urls, valkey_url, manager=manager)))
            daemon.says("history 5/5")
            for text, why in (
                ('symbols = ["BTC-USD"', "not valid TOML"),
                ("symbols = 7", "a list of names is wanted"),
                ('symbols = ["BTC-USD", "ETH-UDS"]', "unknown symbol ETH-UDS"),
            ):
                write(livermore, text)
                before = len(manager.hear())
                daemon.popen.send_signal(signal.SIGHUP)
                manager.hears("READY=1", after=before)
                line = daemon.says(why)
                assert "! not reloaded why=" in line
                assert "the old symbols stay" in line
        write(livermore, 'symbols = ["BTC-USD", "ETH-USD"]')
        daemon.popen.send_signal(signal.SIGHUP)
        daemon.says(f"not reloaded why='cannot reach http://127.0.0.1:{port}")
        write(livermore, 'symbols = ["BTC-USD"]')
        daemon.popen.send_signal(signal.SIGHUP)
        daemon.says("the symbols stay")  # nothing to ask the exchange about
        assert sum("following" in line for line in daemon.lines) == 1
        until(lambda: status(valkey_url)["symbols"] == ["BTC-USD"])
        daemon.stops()


def test_a_reload_that_changes_nothing_does_nothing(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str, manager: Listener
):
    write(livermore, 'symbols = ["BTC-USD"]')
    with started(run(livermore, exchange, valkey_url, manager=manager)) as daemon:
        daemon.says("history 5/5")
        daemon.popen.send_signal(signal.SIGHUP)
        assert daemon.says("the symbols stay").endswith("the symbols stay as they are")
        write(livermore, 'symbols = ["BTC-USD"]\njson_logs = true')
        daemon.popen.send_signal(signal.SIGHUP)
        assert "settings=json_logs" in daemon.says("other changes need a restart")
        manager.hears("STATUS=coinbase: live", within=60)
        daemon.stops()
        assert sum("lease taken" in line for line in daemon.lines) == 1


def test_flags_win_over_what_is_reloaded(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    with started(run(livermore, exchange, valkey_url, *BTC)) as daemon:
        daemon.says("history 5/5")
        write(livermore, 'symbols = ["ETH-USD"]')
        daemon.popen.send_signal(signal.SIGHUP)
        assert daemon.says("the symbols stay").endswith("because='--symbols names them'")
        daemon.stops()
    assert stored(valkey_url, ETH) == 0


def test_a_terminal_that_is_closed_ends_it_in_order(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    """The same signal means something else there; a reload in a terminal is still one."""
    ours, theirs = pty.openpty()
    where = ("--rest-url", exchange["rest"], "--websocket-url", exchange["websocket"])
    words = ("run", "coinbase", *where, "--redis-url", valkey_url, "--symbols", "BTC-USD")
    # A session of its own whose terminal is stdin: closing it is a SIGHUP of the kernel's.
    begin = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "from livermore.cli import main; sys.exit(main())"
    )
    try:
        with started(livermore.python("-c", begin, *words, stdin=theirs)) as daemon:
            os.close(theirs)
            daemon.says("history 5/5")
            daemon.popen.send_signal(signal.SIGHUP)
            daemon.says("the symbols stay as they are")
            os.close(ours)
            assert daemon.ends() == 0
            assert "stopping because=SIGHUP" in daemon.lines[-1]
    finally:
        for descriptor in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(descriptor)
    assert ask(valkey_url, "EXISTS", "lease:coinbase", store.status_key("coinbase")) == 0
