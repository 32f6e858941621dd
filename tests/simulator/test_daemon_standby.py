"""Real daemons that are killed, stopped or cut off, and those that stand by for it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from livermore.adapters import store
from livermore.adapters.redis import DIGESTS, Client
from livermore.adapters.valkey import valkey_binary
from tests.integration.command_line import Livermore
from tests.proxy import Proxy, _Wire, proxied
from tests.servers import RedisServer, running_server
from tests.simulator.test_daemon_process import (
    Process,
    ask,
    run,
    simulator,
    started,
    status,
    until,
)
from tests.simulator.whole_daemon import check

pytestmark = pytest.mark.timeout(170)
SYMBOL = "BTC-USD"


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, str]]:
    with simulator("--speed", "60") as urls:
        yield urls


def livermore_in(room: Path) -> Livermore:
    room.mkdir()
    return Livermore(room, "")


def daemon(
    room: Livermore, exchange: dict[str, str], url: str, *words: str
) -> contextlib.AbstractContextManager[Process]:
    return started(run(room, exchange, "--redis-url", url, "--symbols", SYMBOL, *words))


def lease_of(url: str) -> store.Held | None:
    with contextlib.closing(Client(url)) as client:
        return store.held(client.run(store.held_calls("coinbase")))


def wrong_in(url: str, exchange: dict[str, str]) -> list[Any]:
    """What differs from the truth of this moment, once that had its time to be stored."""
    now = httpx.get(exchange["control"] + "/now").json()["now"]
    deadline = time.monotonic() + 20
    with contextlib.closing(Client(url)) as client:
        while True:
            result = check(client, exchange["control"], "coinbase", [SYMBOL], now)
            if not result["wrong"] or time.monotonic() > deadline:
                wrong: list[Any] = result["wrong"]
                return wrong
            time.sleep(0.3)


def takes_over(process: Process, within: float = 20) -> None:
    process.says("lease taken", within)
    process.says("connection live", within=30)
    process.says("history 5/5", within=30)


def lapse(url: str) -> None:
    """The rest of the holder's half minute."""
    ask(url, "PEXPIRE", "lease:coinbase", 200)


# -- the half minute in full --------------------------------------------------------------------


@attrs.define
class Pair:
    """A holder, and one that stands by."""

    how: str
    url: str
    holder: Process
    standby: Process
    proxy: Proxy

    def break_holder(self) -> None:
        if self.how == "network":
            self.proxy.silent = True
        else:
            self.holder.popen.send_signal(
                signal.SIGKILL if self.how == "killed" else signal.SIGSTOP
            )


def test_a_standby_takes_over_within_45_seconds_and_fills_the_difference(
    tmp_path: Path, server_directory: Path, exchange: dict[str, str]
):
    """All three ways at once, since each takes as long as a lease lasts."""
    with contextlib.ExitStack() as stack:
        pairs: list[Pair] = []
        for how in ("killed", "stopped", "network"):
            server = stack.enter_context(
                running_server(valkey_binary(), server_directory / how, persistent=False)
            )
            proxy = stack.enter_context(proxied(str(server.socket)))
            rooms = [livermore_in(tmp_path / f"{how}-{who}") for who in ("holder", "standby")]
            holder = stack.enter_context(daemon(rooms[0], exchange, proxy.url))
            holder.says("lease taken", within=40)
            standby = stack.enter_context(daemon(rooms[1], exchange, server.url, "--standby"))
            pairs.append(Pair(how, server.url, holder, standby, proxy))
        for pair in pairs:
            pair.holder.says("history 5/5", within=40)
            line = pair.standby.says("standing by", within=40)
            assert f"held by process {pair.holder.popen.pid} on " in line
        for pair in pairs:
            pair.break_holder()
        broken = time.monotonic()
        for pair in pairs:
            pair.standby.says("lease taken", within=broken + 45 - time.monotonic())
        for pair in pairs:
            takes_over(pair.standby)
            assert status(pair.url)["pid"] == pair.standby.popen.pid
            assert wrong_in(pair.url, exchange) == [], pair.how
        for pair in pairs:
            pair.proxy.silent = False
            if pair.how != "killed":
                pair.holder.popen.send_signal(signal.SIGCONT)
        for pair in pairs:
            if pair.how != "killed":
                assert pair.holder.ends(20) == 5, pair.how
                assert f"held by process {pair.standby.popen.pid} on " in pair.holder.lines[-1]
            assert status(pair.url)["pid"] == pair.standby.popen.pid, pair.how
            assert wrong_in(pair.url, exchange) == [], pair.how
            pair.standby.stops()


# -- fencing ------------------------------------------------------------------------------------


class Holding(Proxy):
    """Keeps the first request that contains ``marker`` once it is armed, and hears its answer."""

    def __init__(self, target: str | int, marker: str) -> None:
        self.armed = threading.Event()
        self.kept = threading.Event()
        self.go = threading.Event()
        self.answer = b""
        self._marker = marker.encode()
        self._kept_on: _Wire | None = None
        super().__init__(target)

    def _there(self, wire: _Wire, _: object) -> None:
        with contextlib.suppress(OSError):
            while chunk := wire.near.recv(1 << 22):
                if self.armed.is_set() and not self.kept.is_set() and self._marker in chunk:
                    self._kept_on = wire
                    self.kept.set()
                    self.go.wait()
                wire.far.sendall(chunk)
        self._end(wire)

    def _hear(self, wire: _Wire, answers: Any) -> None:
        with contextlib.suppress(OSError):
            while chunk := wire.far.recv(1 << 22):
                if wire is self._kept_on:
                    self.answer += chunk
                answers.put((time.monotonic(), chunk))
        answers.put((time.monotonic(), b""))


@pytest.mark.parametrize("comes_back", ["ends", "stands by"])
def test_one_that_was_stopped_in_the_middle_of_a_write_changes_nothing_when_it_returns(
    tmp_path: Path, own_valkey: RedisServer, exchange: dict[str, str], comes_back: str
):
    url = own_valkey.url
    words = ("--standby",) if comes_back == "stands by" else ()
    proxy = Holding(str(own_valkey.socket), DIGESTS["candles"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(proxy))
        stack.callback(proxy.go.set)
        old = stack.enter_context(
            daemon(livermore_in(tmp_path / "old"), exchange, proxy.url, *words)
        )
        old.says("history 5/5")
        new = stack.enter_context(
            daemon(livermore_in(tmp_path / "new"), exchange, url, "--standby")
        )
        new.says("standing by")
        proxy.armed.set()
        assert proxy.kept.wait(20), "no close was written"
        old.popen.send_signal(signal.SIGSTOP)
        lapse(url)
        takes_over(new)
        proxy.go.set()
        until(lambda: proxy.answer)
        replies = proxy.answer.split(b"\r\n")[:-1]
        assert all(reply.startswith(b"-FENCED") for reply in replies), replies
        spoke: set[int] = set()
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                spoke.add(status(url).get("pid", 0))

        listener = threading.Thread(target=listen)
        listener.start()
        said = len(old.lines)
        old.popen.send_signal(signal.SIGCONT)
        try:
            if comes_back == "ends":
                assert old.ends(20) == 5
            else:
                old.says("standing by")
                time.sleep(3)
        finally:
            stop.set()
            listener.join()
        assert spoke == {new.popen.pid}, "the status is the successor's throughout"
        told = [line for line in old.lines[said:] if f"held by process {new.popen.pid}" in line]
        assert told, old.lines[said:]
        assert wrong_in(url, exchange) == []
        epoch = ask(url, "HGET", "lease:coinbase", "epoch")
        for series in store.all_series("coinbase", SYMBOL):
            assert ask(url, "HGET", store.keys(series).companion, "epoch") == epoch
        if comes_back == "ends":
            assert len(told) == 1, told
            new.stops()
            return
        # And back again: it goes on as a holder like any other.
        new.popen.kill()
        lapse(url)
        until(lambda: sum("lease taken" in line for line in old.lines) == 2)
        until(lambda: status(url).get("state") == "live", within=30)
        assert status(url)["pid"] == old.popen.pid
        assert wrong_in(url, exchange) == []
        old.stops()


# -- what a person sees -------------------------------------------------------------------------


def test_one_that_stands_by_is_shown_and_leaves_nothing_behind(
    tmp_path: Path, valkey_url: str, exchange: dict[str, str]
):
    room = livermore_in(tmp_path / "room")
    with daemon(room, exchange, valkey_url) as holder:
        holder.says("history 5/5")
        with daemon(room, exchange, valkey_url) as refused:
            assert refused.ends() == 5
        assert "livermore run coinbase --standby" in refused.lines[-1]
        with (
            daemon(room, exchange, valkey_url, "--standby") as first,
            daemon(room, exchange, valkey_url, "--standby") as second,
        ):
            first.says("standing by")
            second.says("standing by")
            shown = json.loads(room("status", "--redis-url", valkey_url, "--json").stdout)
            assert shown["pid"] == holder.popen.pid
            waiting = {f"process {one.popen.pid} on" for one in (first, second)}
            assert {" ".join(who.split()[:3]) for who in shown["standbys"]} == waiting
            assert f"process {first.popen.pid}" in room("status", "--redis-url", valkey_url).stdout
            second.stops()
            found = lease_of(valkey_url)
            assert found is not None
            assert len(found.standbys) == 1, "a signal ends the wait, and the name goes with it"
            holder.popen.kill()
            holder.popen.wait(10)
            ask(valkey_url, "DEL", "exchange:coinbase:status")  # it lapsed
            gone = room("status", "--redis-url", valkey_url)
            assert gone.returncode == 3
            assert f"process {first.popen.pid} on" in gone.stderr
            assert "stands by" in gone.stderr
            lapse(valkey_url)
            takes_over(first)
            first.stops()
    assert (
        ask(
            valkey_url,
            "EXISTS",
            "lease:coinbase",
        )
        == 0
    )


def test_a_free_exchange_is_taken_at_once_with_standby_as_well(
    tmp_path: Path, valkey_url: str, exchange: dict[str, str]
):
    with daemon(livermore_in(tmp_path / "room"), exchange, valkey_url, "--standby") as only:
        takes_over(only)
        assert not any("standing by" in line for line in only.lines)
        only.stops()


def test_epochs_from_a_clock_of_redis_that_was_ahead_lock_nobody_out(
    tmp_path: Path, valkey_url: str, exchange: dict[str, str]
):
    room = livermore_in(tmp_path / "room")
    with daemon(room, exchange, valkey_url) as first:
        takes_over(first)
        first.stops()
    ahead = 9_000_000_000_000
    for series in store.all_series("coinbase", SYMBOL):
        ask(valkey_url, "HSET", store.keys(series).companion, "epoch", ahead)
    with daemon(room, exchange, valkey_url) as second:
        second.says("lease taken anew")
        takes_over(second)
        assert int(ask(valkey_url, "HGET", "lease:coinbase", "epoch")) > ahead
        assert wrong_in(valkey_url, exchange) == []
        second.stops()


# -- bans ---------------------------------------------------------------------------------------


def test_a_ban_outlives_the_process_and_an_emptied_redis(tmp_path: Path, valkey_url: str):
    room = livermore_in(tmp_path / "room")
    with simulator() as urls:

        def asked() -> int:
            count: int = httpx.get(urls["control"] + "/stats").json()["rest_requests"]
            return count

        fault = {"fault": "429", "for": 3, "retry_after": 60}
        httpx.post(urls["control"] + "/faults", json=fault).raise_for_status()
        with daemon(room, urls, valkey_url) as first:
            line = first.says("REST refuses us")
            assert "rate_limit_exceeded" in line
            first.popen.kill()
            first.popen.wait(10)
        before = asked()
        time.sleep(3)  # the fault is over, the ban is not
        ask(valkey_url, "FLUSHALL")
        with daemon(room, urls, valkey_url) as second:
            second.says("REST refuses us")
            until(lambda: "REST is not asked before" in status(valkey_url).get("note", ""))
            shown = room("status", "--redis-url", valkey_url).stdout
            assert "REST is not asked before" in " ".join(shown.replace("│", " ").split())
            assert asked() == before
            until(lambda: ask(valkey_url, "HGET", "budget:coinbase", "banned_until"))
            assert second.stops() < 8, "also while it waits"
            assert asked() == before
