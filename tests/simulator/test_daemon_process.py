"""The daemon as a process: what it says on stderr, how it ends, and with which code."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.adapters.valkey import find_private_valkey
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from tests.integration.command_line import Livermore
from tests.receiver import answer, receiving
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(90)
SLOTS = Series("coinbase", "BTC-USD", Timeframe.M5)
HOURS = Series("coinbase", "BTC-USD", Timeframe.H1)


@pytest.fixture
def livermore(tmp_path: Path) -> Livermore:
    """No Redis is configured, and nothing runs."""
    return Livermore(tmp_path, "")


@attrs.define
class Process:
    """A process whose lines on stderr are read while it runs."""

    popen: subprocess.Popen[str]
    lines: list[str] = attrs.Factory(list)

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line.rstrip("\n"))

    def says(self, text: str, within: float = 20) -> str:
        """Wait for the line with ``text``."""
        until(lambda: any(text in line for line in list(self.lines)), within, lambda: self.lines)
        return next(line for line in self.lines if text in line)

    def ends(self, within: float = 12) -> int:
        """Its exit code; everything it said has been read, and it is no traceback."""
        code = self.popen.wait(within)
        self._reader.join(5)
        assert not any("Traceback" in line for line in self.lines), self.lines
        return code

    def stops(self, how: signal.Signals = signal.SIGTERM, within: float = 10) -> float:
        """A signal ends it with 0 in time; returns the seconds it took."""
        begun = time.monotonic()
        self.popen.send_signal(how)
        assert self.ends(within) == 0, self.lines
        return time.monotonic() - begun

    _reader: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()


def until(
    what: Callable[[], object], within: float = 20, show: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline, show()
        time.sleep(0.03)


@contextlib.contextmanager
def started(popen: subprocess.Popen[str]) -> Iterator[Process]:
    process = Process(popen)
    try:
        yield process
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(10)
        process._reader.join(5)
        for pipe in (popen.stdout, popen.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def simulator(*words: str, exchange: str = "coinbase") -> Iterator[dict[str, str]]:
    """A simulated exchange in a process of its own."""
    command = [sys.executable, "-m", "livermore.simulator", exchange, "--symbols", "3", *words]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, str]]:
    with simulator() as urls:
        yield urls


def run(livermore: Livermore, exchange: dict[str, str], *words: str) -> subprocess.Popen[str]:
    where = ("--rest-url", exchange["rest"], "--websocket-url", exchange["websocket"])
    return livermore.start("run", "coinbase", *where, *words)


def stored(url: str, series: Series) -> int:
    """How many candles of ``series`` there are; none of them is damaged."""
    client = Client(url)
    try:
        members = client.one(*store.range_call(series, "-inf", "+inf"))
    finally:
        client.close()
    candles, damaged = store.decode_candles(series, members)
    assert damaged == 0
    return len(candles)


def status(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        ask(url, "GET", "exchange:coinbase:status") or b'{"state":""}'
    )
    return found


def ask(url: str, *call: object) -> Any:
    client = Client(url)
    try:
        return client.one(*call)
    finally:
        client.close()


# -- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_history_ends_it_with_0_and_nothing_half_written(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str, how: signal.Signals
):
    with started(run(livermore, exchange, "--redis-url", valkey_url)) as daemon:
        daemon.says("history ")
        until(lambda: ask(valkey_url, "ZCARD", store.keys(SLOTS).candles))
        assert daemon.stops(how) < 5
        assert f"stopping because={how.name}" in daemon.lines[-1]
        assert not any("history 15/15" in line for line in daemon.lines)
    assert stored(valkey_url, SLOTS) >= 299, "a page is there as a whole, or not at all"
    assert ask(valkey_url, "EXISTS", "lease:coinbase") == 0
    assert ask(valkey_url, "EXISTS", "exchange:coinbase:status") == 0


def test_a_signal_while_it_waits_to_reconnect_ends_it(livermore: Livermore, valkey_url: str):
    port = free_port()
    with simulator("--port", str(port)) as urls:
        nowhere = {**urls, "websocket": "ws://127.0.0.1:1"}
        with started(run(livermore, nowhere, "--redis-url", valkey_url)) as daemon:
            line = daemon.says("connection coinbase/1 lost")
            assert "cannot connect to ws://127.0.0.1:1" in line
            assert "livermore demo" in line
            assert daemon.stops() < 5


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_signal_while_redis_is_away_ends_it(
    livermore: Livermore, exchange: dict[str, str], own_valkey: RedisServer, how: str
):
    words = ("--redis-url", own_valkey.url, "--symbols", "BTC-USD")
    with started(run(livermore, exchange, *words)) as daemon:
        daemon.says("history 5/5")
        if how == "gone":
            own_valkey.stop()
        else:
            own_valkey.pause()
        line = daemon.says("Redis is away")
        assert "! coinbase: Redis is away" in line
        took = daemon.stops()
        if how == "silent":
            own_valkey.resume()
        assert took < 10


def test_for_ends_it_with_0(livermore: Livermore, exchange: dict[str, str], valkey_url: str):
    begun = time.monotonic()
    with started(run(livermore, exchange, "--redis-url", valkey_url, "--for", "3s")) as daemon:
        assert daemon.ends() == 0
    assert 3 <= time.monotonic() - begun < 9
    assert ask(valkey_url, "EXISTS", "lease:coinbase") == 0


# -- what is not there ------------------------------------------------------------------------


def test_an_exchange_that_cannot_be_reached_is_said_in_a_line_and_waited_for(
    livermore: Livermore, valkey_url: str
):
    port = free_port()
    urls = {
        "rest": f"http://127.0.0.1:{port}",
        "websocket": f"ws://127.0.0.1:{port + 1}",
    }
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USD")
    with started(run(livermore, urls, *words)) as daemon:
        line = daemon.says("the exchange cannot be reached")
        assert f"cannot reach http://127.0.0.1:{port}" in line
        assert "livermore demo" in line
        until(lambda: status(valkey_url)["state"] == "connecting")
        assert "livermore demo" in status(valkey_url)["note"]
        until(lambda: sum("cannot be reached" in line for line in daemon.lines) == 2)
        with simulator("--port", str(port)):
            daemon.says("connection live", within=30)
            daemon.says("history 5/5")
            assert daemon.stops() < 5


def test_a_redis_that_cannot_be_reached_is_one_line_and_1(
    livermore: Livermore, exchange: dict[str, str]
):
    url = f"redis://:hunter2@127.0.0.1:{free_port()}"
    with started(run(livermore, exchange, "--redis-url", url)) as daemon:
        assert daemon.ends() == 1
    [line] = daemon.lines
    assert "hunter2" not in line
    assert "start that Redis" in line


def test_what_is_no_redis_is_one_line_and_4(livermore: Livermore, exchange: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with started(run(livermore, exchange, "--redis-url", url)) as daemon:
            listener.settimeout(20)
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                assert daemon.ends() == 4
    [line] = daemon.lines
    assert "does not speak the Redis protocol" in line


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_state_directory_that_cannot_be_used_is_one_line_and_4(
    livermore: Livermore, exchange: dict[str, str], what: str
):
    (livermore.room / "file").write_text("")
    place = "file" if what == "a file" else "file/state"
    with started(run(livermore, exchange, "--state-dir", place)) as daemon:
        assert daemon.ends() == 4, daemon.lines
    [line] = daemon.lines
    assert "file" in line


def test_an_unknown_symbol_is_one_line_and_2(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-UDS")
    with started(run(livermore, exchange, *words)) as daemon:
        assert daemon.ends() == 2
    assert re.search("unknown symbol BTC-UDS: did you mean BTC-US", daemon.lines[-1])
    assert ask(valkey_url, "EXISTS", "lease:coinbase") == 0


# -- who is not served ------------------------------------------------------------------------


def test_who_is_not_served_ends_with_a_code_that_systemd_does_not_start_again(
    livermore: Livermore, valkey_url: str
):
    unit = livermore("service", "unit", "-e", "binance").stdout
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert prevented is not None, unit
    with simulator(exchange="binance") as binance:
        words = ["run", "binance", "--redis-url", valkey_url, "--rest-url", binance["rest"]]
        socket_of = ["--websocket-url", binance["websocket"]]
        with receiving() as edge:
            edge.script += [answer(451)] * 20
            at_the_edge = ["--websocket-url", edge.url("").replace("http:", "ws:")]
            with started(livermore.start(*words, *at_the_edge)) as daemon:
                codes = [daemon.ends(20)]
        with started(livermore.start(*words, *socket_of, "--country", "US")) as daemon:
            codes.append(daemon.ends())
        httpx.post(binance["control"] + "/faults", json={"fault": "geo"}).raise_for_status()
        with started(livermore.start(*words, *socket_of)) as daemon:
            codes.append(daemon.ends())
    assert "451" in daemon.lines[-1]
    assert [str(code) in prevented[1].split() for code in codes] == [True] * 3, codes


# -- who holds the exchange -------------------------------------------------------------------


def test_a_second_daemon_ends_with_5_and_a_killed_one_is_followed_when_its_lease_lapsed(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USD")
    with started(run(livermore, exchange, *words)) as first:
        first.says("history 5/5")
        with started(run(livermore, exchange, *words)) as second:
            assert second.ends() == 5
        assert f"held by process {first.popen.pid} on {socket.gethostname()}" in second.lines[-1]
        assert "stop that daemon" in second.lines[-1]
        first.popen.kill()
        first.popen.wait(10)
    with started(run(livermore, exchange, *words)) as third:
        assert third.ends() == 5
    assert f"held by process {first.popen.pid}" in third.lines[-1]
    assert re.search(r"its lease runs \d+ s more", third.lines[-1])
    before = stored(valkey_url, HOURS)
    ask(valkey_url, "PEXPIRE", "lease:coinbase", 500)  # the rest of its half minute
    time.sleep(0.6)
    with started(run(livermore, exchange, *words)) as fourth:
        fourth.says("connection live")
        assert fourth.says("history ").endswith("history 5/5 series"), "it is still there"
        epoch = ask(valkey_url, "HGET", "lease:coinbase", "epoch")
        for series in store.all_series("coinbase", "BTC-USD"):
            known = ask(valkey_url, "HGET", store.keys(series).companion, "epoch")
            assert known == epoch, "the one before is refused by every series"
        fourth.stops()
    assert stored(valkey_url, HOURS) >= before


def test_one_that_was_stopped_for_long_leaves_the_exchange_to_its_successor(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USD")
    with started(run(livermore, exchange, *words)) as first:
        first.says("history 5/5")
        first.popen.send_signal(signal.SIGSTOP)
        ask(valkey_url, "DEL", "lease:coinbase")  # it lapsed
        with started(run(livermore, exchange, *words)) as second:
            second.says("connection live")
            first.popen.send_signal(signal.SIGCONT)
            assert first.ends() == 5
            assert f"held by process {second.popen.pid}" in first.lines[-1]
            holder = json.loads(ask(valkey_url, "HGET", "lease:coinbase", "description"))
            assert holder["pid"] == second.popen.pid
            assert ask(valkey_url, "EXISTS", "exchange:coinbase:status")
            second.stops()


# -- the private Valkey -----------------------------------------------------------------------


def test_without_a_url_it_brings_its_own_store_and_finds_its_data_again(
    livermore: Livermore, exchange: dict[str, str]
):
    state = livermore.room / "state"
    words = ("--state-dir", str(state), "--symbols", "BTC-USD")
    with started(run(livermore, exchange, *words)) as daemon:
        daemon.says("history 5/5")
        url = find_private_valkey(state)
        assert url is not None
        count = stored(url, HOURS)
        assert daemon.stops() < 8
    assert find_private_valkey(state) is None
    with started(run(livermore, exchange, *words)) as daemon:
        assert daemon.says("history ").endswith("history 5/5 series"), "nothing is missing"
        url = find_private_valkey(state)
        assert url is not None
        assert stored(url, HOURS) >= count > 250
        daemon.stops(signal.SIGINT)
    assert find_private_valkey(state) is None


def test_json_logs_are_one_object_per_line(
    livermore: Livermore, exchange: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USDC", "--json-logs", "--for", "4s")
    with started(run(livermore, exchange, *words)) as daemon:
        assert daemon.ends() == 0
    entries = [json.loads(line) for line in daemon.lines]
    assert all({"time", "level", "logger", "event"} <= entry.keys() for entry in entries)
    events = [entry["event"] for entry in entries]
    assert {"lease taken", "following", "history", "connection live"} <= set(events)
    [notice] = [entry["text"] for entry in entries if entry["event"] == "notice"]
    assert notice == "BTC-USDC is the same market as BTC-USD: followed as BTC-USD"
