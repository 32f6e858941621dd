#!/usr/bin/env python3
"""How long after a candle's end its alert is heard, and how much of that is ours.

    python scripts/bench_alerts.py [--minutes 16] [--symbols 50]

A whole daemon in a process of its own follows the simulated exchange, at the pace of real time, in
another one. A rule that nearly every close meets makes the alerts; this process hears them on Redis
pub/sub, and ends with the boundary at which all five timeframes close.

The daemon's sockets lead through this process, which reads along. The exchange's last word on a
slot is the first frame with a trade of the symbol beyond the slot's end, at the moment it is read
here, before it is passed on; or the exchange's clock passing the end by two seconds, where that is
sooner: nothing but that says that nothing more will come. That clock is known here from the frame
that was the quickest of all. A slot counts that began after the daemon had its history.

What is printed, in milliseconds:

heard       from the candle's end until the alert was heard here, by the exchange's clock
latency     as the alert itself says it: from the candle's end until it was written
ours        from the exchange's last word until the alert was heard here
candle      the same for the announcement of the candle

Prints JSON; judges nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio
from wsproto.frame_protocol import FrameProtocol

from livermore.adapters import outbox, store
from livermore.adapters.redis import Client
from livermore.adapters.valkey import find_private_valkey
from livermore.errors import MalformedMessage
from livermore.exchanges.coinbase import COINBASE
from livermore.market.events import Trades
from livermore.market.timeframe import Timeframe, iso
from livermore.signals.alert import Alert, decode_entry

EXCHANGE = "coinbase"
ROOT = Path(__file__).resolve().parents[1]
M5 = Timeframe.M5.ms
MIDNIGHT = 1_795_046_400_000  # 2026-11-19T00:00:00Z
AFTER = 10
"""Seconds that are listened after the last boundary."""
RULES = """\
[[alerts]]
rule = "move"
percent = 1e-6
candles = 1
cooldown = 0
"""


def monotonic() -> float:
    """This machine's clock in ms."""
    return time.monotonic() * 1000


@attrs.define
class Words:
    """What the exchange said, and when (monotonic ms)."""

    proofs: dict[tuple[str, int], float] = attrs.Factory(dict)
    """Symbol and end of a slot -> when the first trade beyond it was read."""
    offset: float = float("inf")
    """Monotonic time less the exchange's, by the quickest frame."""
    frames: int = 0
    _newest: dict[str, int] = attrs.Factory(dict)

    def hear(self, text: str, moment: float) -> None:
        """Read one frame along."""
        self.frames += 1
        try:
            frame = COINBASE.read(text)
        except MalformedMessage:
            return
        if frame.stamp is not None:
            self.offset = min(self.offset, moment - frame.stamp)
        for event in frame.events:
            if isinstance(event, Trades) and not event.snapshot:
                newest = max(trade.time for trade in event.trades)
                before = self._newest.get(event.native, newest)
                for end in range(before - before % M5 + M5, newest + 1, M5):
                    self.proofs.setdefault((event.native, end), moment)
                self._newest[event.native] = max(before, newest)

    def last(self, symbol: str, end: int) -> tuple[float, str]:
        """When the last word on the slot before ``end`` was said, and what it was."""
        clock = self.offset + end + COINBASE.settle
        trade = self.proofs.get((symbol, end), float("inf"))
        return (trade, "trade") if trade < clock else (clock, "clock")


# -- the sockets, read along ------------------------------------------------------------------


async def relay(url: str, words: Words, task_status: trio.TaskStatus[str]) -> None:
    """Pass every connection on to ``url``; starts with the URL to use instead."""
    host, _, port = url.removeprefix("ws://").partition(":")

    async def carry(near: trio.SocketStream) -> None:
        with contextlib.suppress(OSError):
            far = await trio.open_tcp_stream(host, int(port))
            async with far, near, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, near, far, nursery.cancel_scope)
                await _pass_on(far, near, nursery.cancel_scope, Reader(words))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    await trio.serve_listeners(carry, listeners)


async def _pass_on(
    source: trio.SocketStream,
    target: trio.SocketStream,
    scope: trio.CancelScope,
    reader: Reader | None = None,
) -> None:
    with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            moment = monotonic()
            await target.send_all(data)
            if reader is not None:
                reader.read(bytes(data), moment)
    scope.cancel()


class Reader:
    """The server's side of one WebSocket: its frames, as they pass."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._head: bytes | None = b""
        self._frames = FrameProtocol(client=True, extensions=[])
        self._pieces: list[str] = []

    def read(self, data: bytes, moment: float) -> None:
        """Take what was read at ``moment``."""
        if self._head is not None:
            self._head, ended, data = (self._head + data).partition(b"\r\n\r\n")
            if not ended:
                return
            self._head = None
        self._frames.receive_bytes(data)
        for frame in self._frames.received_frames():
            if isinstance(frame.payload, str):
                self._pieces.append(frame.payload)
                if frame.message_finished:
                    self._words.hear("".join(self._pieces), moment)
                    self._pieces.clear()


# -- what Redis said --------------------------------------------------------------------------


@attrs.frozen
class Heard:
    """An alert, or the announcement of a candle."""

    moment: float
    """Monotonic ms."""
    channel: str
    payload: bytes


def listen(url: str, heard: list[Heard], stopped: threading.Event) -> None:
    """Hear alerts and closed candles; runs in a thread."""
    client = Client(url)
    try:
        closes = f"channel:exchange:{EXCHANGE}:candle:close:*"
        for channel, payload in client.messages([outbox.all_channel(EXCHANGE), closes], stopped):
            if payload is not None:
                heard.append(Heard(monotonic(), channel, payload))
    finally:
        client.close()


def status(url: str) -> dict[str, Any]:
    """What the daemon says of itself; empty before it does."""
    client = Client(url)
    try:
        [text] = client.run([("GET", store.status_key(EXCHANGE))])
    finally:
        client.close()
    return json.loads(text) if text else {}


# -- the run ----------------------------------------------------------------------------------


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, ended at the end."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stderr=file, text=True, **more
        ) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()
            started.wait(20)


class Failed(Exception):
    """It came to nothing; in one line."""


async def run(symbols: int, minutes: float, directory: Path) -> dict[str, Any]:
    """Follow the exchange up to its midnight; what was measured. Raises :class:`Failed`."""
    start = MIDNIGHT - int(minutes * 60_000) + AFTER * 1000
    exchange = f"livermore.simulator {EXCHANGE} --symbols {symbols} --start {start}".split()
    (directory / "livermore.toml").write_text(RULES)
    words, heard = Words(), list[Heard]()
    whole: int | None = None
    said: dict[str, Any] = {}
    with process(exchange, directory / "exchange.log", stdout=subprocess.PIPE) as simulator:
        assert simulator.stdout is not None
        urls = json.loads(await trio.to_thread.run_sync(simulator.stdout.readline))
        async with trio.open_nursery() as nursery:
            through = await nursery.start(relay, urls["websocket"], words)
            follow = [
                *f"livermore.cli run {EXCHANGE} --top {symbols}".split(),
                "--config", str(directory / "livermore.toml"),
                "--state-dir", str(directory / "state"),
                "--rest-url", urls["rest"], "--websocket-url", through,
            ]  # fmt: skip
            with process(follow, directory / "daemon.log") as daemon:
                url = await started(daemon, directory / "state")
                stopped = threading.Event()
                thread = threading.Thread(target=listen, args=(url, heard, stopped), daemon=True)
                if url:
                    thread.start()
                    with trio.move_on_after(minutes * 60 + AFTER):
                        whole, said = await followed(daemon, url, words)
                    stopped.set()
                    await trio.to_thread.run_sync(thread.join)
                ended = daemon.poll()
            nursery.cancel_scope.cancel()
    if ended is not None:
        raise Failed(f"the daemon ended with {ended}: see {directory}/daemon.log")
    if whole is None:
        raise Failed("the history was not whole in time: give it more --minutes")
    return {**figures(heard, words, whole), "daemon": facts(said)}


async def started(daemon: subprocess.Popen[str], state_dir: Path) -> str:
    """The URL of the daemon's Valkey, as soon as there is one; empty when the daemon ended."""
    while daemon.poll() is None:
        if url := await trio.to_thread.run_sync(find_private_valkey, state_dir):
            return url
        await trio.sleep(0.2)
    return ""


async def followed(
    daemon: subprocess.Popen[str], url: str, words: Words
) -> tuple[int | None, dict[str, Any]]:
    """Wait for the end: when the history was whole (exchange ms), and the last status."""
    whole: int | None = None
    said: dict[str, Any] = {}
    while daemon.poll() is None and monotonic() - words.offset < MIDNIGHT + AFTER * 1000:
        said = await trio.to_thread.run_sync(status, url) or said
        history = said.get("history") or {"done": 0, "total": 0}
        if whole is None and words.frames and 0 < history["total"] <= history["done"]:
            whole = int(monotonic() - words.offset)
        await trio.sleep(1)
    return whole, said


def facts(said: dict[str, Any]) -> dict[str, Any]:
    """What the daemon said of the run."""
    names = ("state", "note", "reconnects", "close_lag", "gaps")
    return {name: said.get(name) for name in names}


def figures(heard: Sequence[Heard], words: Words, whole: int) -> dict[str, Any]:
    """What the alerts and candles that were heard amount to; ``whole``: exchange ms."""
    measured: dict[str, list[Timed]] = {}
    candles: list[float] = []
    alerts = 0
    for one in heard:
        if one.channel == outbox.all_channel(EXCHANGE):
            alert = decode_entry(one.payload)
            if not isinstance(alert, Alert):
                continue
            alerts += 1
            if alert.close_time - M5 < whole:
                continue
            said, by = words.last(alert.symbol, alert.close_time)
            end = alert.close_time + words.offset
            timed = Timed(by, one.moment - end, alert.latency, one.moment - said)
            measured.setdefault(iso(alert.close_time), []).append(timed)
        else:
            row = json.loads(one.payload)
            tf = Timeframe.parse(row["timeframe"])
            end = row["open_time"] + tf.ms
            if end - M5 >= whole:
                candles.append(one.moment - words.last(row["symbol"], end)[0])
    every = [timed for those in measured.values() for timed in those]
    if not every:
        raise Failed("no alert was heard in time: give it more --minutes")
    return {
        "alerts": alerts,
        "measured": len(every),
        "all": shown(every),
        "candle": summary(candles),
        "by the last word": {
            by: shown([timed for timed in every if timed.by == by])
            for by in sorted({timed.by for timed in every})
        },
        "by boundary": {end: shown(those) for end, those in sorted(measured.items())},
        "frames": words.frames,
    }


@attrs.frozen
class Timed:
    """One alert; ms."""

    by: str
    """The last word: a trade or the clock."""
    heard: float
    latency: float
    ours: float


def shown(those: Sequence[Timed]) -> dict[str, Any]:
    """Percentiles of each."""
    return {name: summary([getattr(timed, name) for timed in those])
            for name in ("heard", "latency", "ours")}  # fmt: skip


def summary(values: Sequence[float]) -> dict[str, float]:
    """Percentiles in ms."""
    if not values:
        return {"count": 0}
    p50, p99 = np.percentile(np.array(values), [50, 99])
    return {
        "count": len(values),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "max_ms": round(max(values), 1),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", type=int, default=50, metavar="N")
    parser.add_argument("--minutes", type=float, default=16.0, metavar="N")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-alerts-"))
    before = os.getloadavg()[0]
    try:
        result = trio.run(run, given.symbols, given.minutes, directory)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    print(
        json.dumps(
            {
                "symbols": given.symbols,
                "minutes": given.minutes,
                "load before": round(before, 2),
                **result,
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
