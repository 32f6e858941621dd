#!/usr/bin/env python3
"""Frames per second, and how long a close takes to Redis and to its reading, beside cryptofeed.

    python scripts/bench_binance.py [--symbols 100,500,1000] [--frames 200000] [--rounds 2]
                             [--records frame|full] [--without-cryptofeed]

Binance's five-minute klines over TLS on loopback, with a certificate made for it. One process sends
the same bytes to each consumer in turn: Livermore (connection -> tracker -> writer -> readings, and
the flight recorder), and cryptofeed with its Redis sorted sets, in an environment of its own that
is made under the user's cache directory the first time. The sender, a real Valkey (over TCP, which
is all that cryptofeed can) and who watches it have one core, the consumer the other. What is sent
is encoded and encrypted before the clock starts.

sustained  Frames that close nothing, as fast as they are taken; every one must be counted by the
           consumer. cryptofeed makes a candle of each and stores it, the clock stops when Redis has
           taken the last; ``closed only``, its own default, parses them and drops them. Livermore
           tracks the running candle and publishes it twice a second.
burst      A second in which every symbol's running candle comes once, a quarter of silence, and
           every symbol's flagged frame at one instant. A candle is readable when Valkey says that
           its sorted set was changed, a reading when its key was set: told by keyspace
           notifications, on the same clock. ``all`` counts the readings of all timeframes.
records    One TLS record per frame, as a server that writes every frame by itself makes them, or
           full ones.

Where Livermore's time goes: its sustained run is repeated with less of it, and the difference is
what the part costs. Prints JSON; judges nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import hiredis
import msgspec
import numpy as np
import trio
import wsproto
from bench_pipeline import BEFORE, M5, MIDNIGHT, _measure, history, nothing_stored, summary
from wsproto import events

from livermore.adapters import store
from livermore.adapters.memory import collect_rarely, set_aside
from livermore.adapters.redis import Client, Redis
from livermore.adapters.valkey import valkey_binary
from livermore.adapters.websocket import open_socket
from livermore.dialect import tracker_of
from livermore.errors import ConnectionLost
from livermore.exchanges.binance import BINANCE
from livermore.market.candle import Candle, Series
from livermore.market.folding import fold_all
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.market.tracker import Missing, Pending, Tracker
from livermore.runtime.connection import Connection, Health, State
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.recorder import Recorder
from livermore.runtime.writer import Writer

CRYPTOFEED = "cryptofeed==2.4.1"
MEMORY = 32 << 20
FIRST = MIDNIGHT - (BEFORE + 1) * M5
"""The slot in which the sustained run falls, and the first to be closed."""
RECORD = 16384
SPREAD = 50
"""The frames of a slot's last second come in so many parts."""
PARTS = ("socket", "read", "tracker", "all")
"""How much of Livermore takes part: each holds the one before."""
OTHERS = {"cryptofeed": [], "cryptofeed, closed only": ["--closed-only"]}
"""What it is told; its own default is the second."""
HERE = Path(__file__).resolve().parent


def natives(count: int) -> list[str]:
    """What is listed here."""
    return [f"S{number:04d}USDT" for number in range(count)]


def symbol_of(native: str) -> str:
    """Base and quote."""
    return f"{native.removesuffix('USDT')}-USDT"


def kline(native: str, slot: int, stamp: int, step: int, *, closed: bool) -> bytes:
    """One WebSocket frame with a combined kline event, as a server sends it."""
    price, volume = 100 + step % 17 * 0.25, 1 + step * 0.125
    event = {
        "stream": f"{native.lower()}@kline_5m",
        "data": {
            "e": "kline",
            "E": stamp,
            "s": native,
            "k": {
                "t": slot,
                "T": slot + M5 - 1,
                "s": native,
                "i": "5m",
                "f": 19862761,
                "L": 19862761 + step,
                "o": "100.00000000",
                "c": f"{price:.8f}",
                "h": "104.00000000",
                "l": "100.00000000",
                "v": f"{volume:.8f}",
                "n": step + 1,
                "x": closed,
                "q": f"{volume * price:.8f}",
                "V": f"{volume / 2:.8f}",
                "Q": f"{volume * price / 2:.8f}",
                "B": "0",
            },
        },
    }
    data = msgspec.json.encode(event)
    return b"\x81\x7e" + len(data).to_bytes(2, "big") + data


# -- the exchange -----------------------------------------------------------------------------


class Subscriber:
    """One connection of a consumer."""

    def __init__(self, stream: socket.socket, context: ssl.SSLContext) -> None:
        self.stream = stream
        self.natives: list[str] = []
        self.lock = threading.Lock()
        """Held by who encrypts, until it is sent: records are numbered."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def serve(self) -> None:
        """Upgrade, then answer what is asked, until the other side goes."""
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        with contextlib.suppress(OSError, ssl.SSLError, wsproto.utilities.ProtocolError):
            while data := self._read():
                protocol.receive_data(data)
                for event in protocol.events():
                    if isinstance(event, events.Request):
                        _, _, streams = event.target.partition("?streams=")
                        self._follow(filter(None, streams.split("/")))
                        self._send(protocol.send(events.AcceptConnection()))
                    elif isinstance(event, events.Ping | events.CloseConnection):
                        self._send(protocol.send(event.response()))
                    elif isinstance(event, events.TextMessage):
                        asked = json.loads(event.data)
                        self._follow(asked["params"])
                        answer = json.dumps({"result": None, "id": asked["id"]})
                        self._send(protocol.send(events.TextMessage(data=answer)))
        self.natives = []
        self.stream.close()

    def encrypted(self, frames: Sequence[bytes], records: str) -> bytes:
        """What to send for ``frames``; :attr:`lock` must be held until it is sent."""
        if records == "frame":
            for frame in frames:
                self._tls.write(frame)
        else:
            data = b"".join(frames)
            for at in range(0, len(data), RECORD):
                self._tls.write(data[at : at + RECORD])
        return self._out.read()

    def _follow(self, streams: Any) -> None:
        for stream in streams:
            native, _, what = stream.partition("@")
            if what == "kline_5m":
                self.natives.append(native.upper())

    def _read(self) -> bytes:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError), self.lock:
                return self._tls.read(65536)
            with self.lock:
                self.stream.sendall(self._out.read())
            data = self.stream.recv(65536)
            if not data:
                return b""
            self._in.write(data)

    def _send(self, data: bytes) -> None:
        with self.lock:
            self._tls.write(data)
            self.stream.sendall(self._out.read())


def exchange(directory: Path, records: str) -> None:
    """Serve sockets; lines on standard input say what to prepare and when to send it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    subscribers: list[Subscriber] = []

    def accept() -> None:
        while True:
            stream, _ = listener.accept()
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            subscribers.append(Subscriber(stream, context))
            threading.Thread(target=subscribers[-1].serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    tell({"port": listener.getsockname()[1]})
    for line in sys.stdin:
        order = json.loads(line)
        current = [one for one in subscribers if one.natives]
        frames = [list(order_frames(order, one.natives)) for one in current]
        parts = SPREAD if order["kind"] == "before" else 1
        for one in current:
            one.lock.acquire()
        data = [
            [one.encrypted(some[at::parts], records) for at in range(parts)]
            for one, some in zip(current, frames, strict=True)
        ]
        tell({"frames": sum(map(len, frames)), "bytes": sum(len(b) for some in data for b in some)})
        sys.stdin.readline()
        senders = [
            threading.Thread(target=send_spread, args=(one.stream, some))
            for one, some in zip(current, data, strict=True)
        ]
        sent = time.monotonic()
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        for one in current:
            one.lock.release()
        tell({"sent": sent, "written": time.monotonic()})


def send_spread(stream: socket.socket, parts: Sequence[bytes]) -> None:
    """All parts within a second; one part at once."""
    begun = time.monotonic()
    for number, part in enumerate(parts):
        time.sleep(max(0.0, begun + number / len(parts) - time.monotonic()))
        stream.sendall(part)


def order_frames(order: dict[str, Any], own: Sequence[str]) -> Iterator[bytes]:
    """What one connection is sent."""
    slot, kind = order["slot"], order["kind"]
    if kind == "sustained":
        for step in range(order["each"]):
            for native in own:
                yield kline(native, slot, slot + 60_000 + step, step, closed=False)
    elif kind == "before":  # the last seconds of the slot
        for place, native in enumerate(own):
            yield kline(native, slot, slot + M5 - 1500 + place * 1000 // len(own), 7, closed=False)
    else:
        for place, native in enumerate(own):
            yield kline(native, slot, slot + M5 + 5 + place // 4, 50_000, closed=True)


def tell(what: object) -> None:
    """To who started this process."""
    print(json.dumps(what), flush=True)


# -- Livermore --------------------------------------------------------------------------------


def candles_of(native: str) -> Iterator[tuple[Series, list[Candle]]]:
    """History of every timeframe; parents are what their children make of them."""
    children: list[Candle] = []
    for timeframe in TIMEFRAMES:
        series = Series("binance", symbol_of(native), timeframe)
        folded = {candle.open_time: candle for candle in fold_all(series, children)}
        made = history(series, timeframe.floor(FIRST) - timeframe.ms)
        children = [folded.get(one.open_time, one) for one in made]
        yield series, children


async def livermore(url: str, redis_port: str, count: int, part: str, directory: Path) -> None:
    """As much of the pipeline as ``part`` says."""
    names = natives(count)
    size = BINANCE.products_per_connection
    shards = [names[at : at + size] for at in range(0, count, size)]
    counted: list[Callable[[], int]] = []
    where: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        if part in ("socket", "read"):
            for shard in shards:
                counted.append(await nursery.start(read_only, url, shard, part == "read"))
        else:
            trackers = await follow(nursery, url, redis_port, shards, part, directory, where)
            counted.extend([lambda t=one: t.counts.frames for one in trackers])  # type: ignore[misc]
        collect_rarely()  # as the daemon does
        set_aside()
        tell({"connected": len(shards)})

        def frames() -> int:
            return sum(one() for one in counted)

        before = frames()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            wanted, began = json.loads(line)["until"], time.process_time()
            where.clear()
            tell({"ready": True})
            while frames() < before + wanted:  # noqa: ASYNC110
                await trio.sleep(0.005)
            at, cpu = time.monotonic(), time.process_time() - began
            tell({"at": at, "cpu": cpu})
            before += wanted
            if json.loads(line).get("where"):
                await trio.to_thread.run_sync(sys.stdin.readline)
                tell({"where": {k: round(v, 1) for k, v in where.items()}})
        nursery.cancel_scope.cancel()


async def read_only(
    url: str, shard: Sequence[str], read: bool, *, task_status: trio.TaskStatus[Callable[[], int]]
) -> None:
    """A socket whose frames are counted, or read and counted."""
    count = 0
    with contextlib.suppress(ConnectionLost):
        async with open_socket(url, maximum_message=BINANCE.maximum_message) as opened:
            for subscription in BINANCE.subscribe(shard):
                await opened.send(subscription.frame)
                await opened.get()
            task_status.started(lambda: count)
            burst = 0
            while True:
                frame = opened.get_nowait() if burst < 64 else None
                burst = 0 if frame is None else burst + 1
                if frame is None:
                    frame = await opened.get()
                if read:
                    BINANCE.read(frame)
                count += 1


async def follow(
    nursery: trio.Nursery,
    url: str,
    redis_port: str,
    shards: Sequence[Sequence[str]],
    part: str,
    directory: Path,
    where: dict[str, float],
) -> list[Tracker]:
    """Connections and trackers, and for ``all`` the rest; returns once they are live."""
    pending = Pending()
    trackers: list[Tracker] = []
    healths: list[Health] = []
    wake: Callable[[], None] = lambda: None  # noqa: E731
    recorder: Recorder | None = None

    def now() -> int:
        moment = trio.current_time()
        known = [tracker.clock.read(moment) for tracker in trackers]
        return max((time for time in known if time is not None), default=FIRST)

    if part == "all":
        redis = Redis(f"redis://127.0.0.1:{redis_port}")
        lease = Lease(redis, "binance", "bench", {})
        await lease.take()
        lease.valid_until = math.inf  # nobody else is here, and renewing is not what is measured
        readings = Readings(redis, lease, random.random, first=lambda: writer.closing())  # noqa: PLW0108 - it comes later

        def missing(slots: Any) -> None:
            where["missing"] = where.get("missing", 0) + len(list[Missing](slots))

        writer = Writer(
            redis, lease, pending, clock=now, stored=readings.submit, edge=readings.edge,
            missing=missing, suspects=lambda slots: None, back=lambda: None, chance=random.random,
        )  # fmt: skip
        every = [name for shard in shards for name in shard]
        for at in range(0, len(every), 20):
            calls = [
                store.write(series, lease.epoch, candles, history=True)
                for native in every[at : at + 20]
                for series, candles in candles_of(native)
            ]
            await redis.run(calls)
        followed = [Series("binance", symbol_of(n), tf) for tf in TIMEFRAMES for n in every]
        await readings.start(followed)
        await readings.turn()
        await writer.seed(followed, FIRST)
        _measure(writer, readings, where)
        wake = writer.wake
        recorder = Recorder(
            BINANCE, directory, MEMORY, Journal("binance"), clock=lambda: None,
            stored=nothing_stored,
        )  # fmt: skip
        for task in (recorder.run, writer.run, readings.run):
            nursery.start_soon(task)
    for number, shard in enumerate(shards):
        series = [(native, Series("binance", symbol_of(native), Timeframe.M5)) for native in shard]
        trackers.append(tracker_of(BINANCE, series, pending))
        healths.append(Health(f"b/{number}", len(shard)))
        connection = Connection(
            BINANCE, url, shard, trackers[-1], healths[-1], wake, lambda _: None, lambda _: None
        )
        if recorder is not None:
            own = {native: symbol_of(native) for native in shard}
            connection.heard = recorder.attach(
                healths[-1].name, trackers[-1], own, len(shards)
            ).heard
        nursery.start_soon(connection.live)
    while not all(health.state is State.LIVE for health in healths):  # noqa: ASYNC110
        await trio.sleep(0.05)
    return trackers


# -- who watches ------------------------------------------------------------------------------


class Watcher:
    """Hears from Valkey what was written when."""

    def __init__(self, port: int) -> None:
        self._client = Client(f"redis://127.0.0.1:{port}")
        self._stream = socket.create_connection(("127.0.0.1", port))
        for channel in (b"__keyevent@0__:zadd", b"__keyevent@0__:set"):
            self._stream.sendall(
                b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(channel), channel)
            )
        self._reader = hiredis.Reader()

    def empty(self) -> None:
        """Nothing is stored any more."""
        self._client.one("FLUSHALL")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Valkey tells, and has the work of it, in here only."""
        self._client.one("CONFIG", "SET", "notify-keyspace-events", "Ez$")
        yield
        self._client.one("CONFIG", "SET", "notify-keyspace-events", "")

    def take(self, seconds: float, enough: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Key -> when it was first written, until ``enough`` or the time is over."""
        heard: dict[str, float] = {}
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not enough(heard):
            self._stream.settimeout(left)
            try:
                data = self._stream.recv(1 << 20)
            except TimeoutError:
                break
            at = time.monotonic()
            if not data:
                sys.exit("bench_binance: Valkey hung up on who watches")
            self._reader.feed(data)
            while (told := self._reader.gets()) is not False:
                if told[0] == b"message":
                    heard.setdefault(told[2].decode(), at)
        return heard


# -- the bench --------------------------------------------------------------------------------


@attrs.define
class Child:
    """A process that is told lines and answers them."""

    process: subprocess.Popen[str]

    def ask(self, what: object = None) -> dict[str, Any]:
        """The next line it says, after it was told ``what``."""
        self.tell(what)
        return self.hear()

    def tell(self, what: object) -> None:
        """One line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """One line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench_binance: {self.process.args!r} ended ({self.process.wait()})")
        return dict(json.loads(line))


@contextlib.contextmanager
def child(core: int, *command: object, environment: dict[str, str]) -> Iterator[Child]:
    """A process on a core of its own, and its end."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.wait()


@attrs.define
class Bench:
    """What every run needs."""

    directory: Path
    exchange: Child
    url: str
    redis_port: int
    watcher: Watcher
    environment: dict[str, str]
    frames: int
    cryptofeed: Path | None

    @contextlib.contextmanager
    def consumer(self, who: str, count: int, part: str = "all") -> Iterator[Child]:
        """One that follows ``count`` symbols and is connected."""
        self.watcher.empty()
        command: list[object] = [sys.executable, __file__, "--role", "livermore", self.url]
        command += [self.redis_port, count, part, self.directory]
        if who != "livermore":
            command = [self.cryptofeed, HERE / "cryptofeed_candles.py"]
            command += [self.url.removesuffix("/stream"), self.redis_port]
            command += [*natives(count), *OTHERS[who]]
        with child(0, *command, environment=self.environment) as consumer:
            consumer.hear()
            yield consumer

    def send(self, consumer: Child, kind: str, slot: int, **more: Any) -> dict[str, Any]:
        """Prepare and send; what the consumer needed for it."""
        prepared = self.exchange.ask({"kind": kind, "slot": slot, **more})
        consumer.ask({"until": prepared["frames"], "where": kind == "burst"})
        self.exchange.tell("go")
        return {**self.exchange.hear(), **prepared, **consumer.hear()}

    def sustained(self, consumer: Child, count: int) -> dict[str, float]:
        """As fast as it goes."""
        each = self.frames // count
        # The first frames make what later ones change, and wake what sleeps.
        self.send(consumer, "sustained", FIRST, each=max(1, 5000 // count))
        done = self.send(consumer, "sustained", FIRST, each=each)
        return {
            "frames": done["frames"],
            "frames_per_second": round(done["frames"] / (done["at"] - done["sent"])),
            "cpu_us_per_frame": round(done["cpu"] / done["frames"] * 1e6, 2),
        }

    def bursts(self, consumer: Child, count: int, ours: bool) -> dict[str, Any]:
        """Boundary after boundary; latencies in ms by kind of boundary."""
        found: dict[str, dict[str, list[float]]] = {}
        where: dict[str, float] = {}
        for boundary in range(FIRST + M5, MIDNIGHT + 1, M5):
            slot = boundary - M5
            kind = "midnight" if boundary == MIDNIGHT else "15m" if boundary % (3 * M5) == 0 else ""
            self.send(consumer, "before", slot)
            self.watcher.take(0.25, lambda heard: False)  # what came of that
            timeframes = [tf for tf in TIMEFRAMES if boundary % tf.ms == 0] if ours else []
            wanted = count * (1 + len(timeframes)) if ours else count

            def enough(heard: dict[str, float], wanted: int = wanted) -> bool:
                return len(heard) >= wanted and sum(map(matters, heard)) >= wanted

            began = self.send(consumer, "burst", slot)
            heard = self.watcher.take(10.0, enough)
            if ours:
                for part, ms in consumer.ask()["where"].items():
                    where[part] = round(where.get(part, 0) + ms, 1)
            late = {key: (at - began["sent"]) * 1000 for key, at in heard.items()}
            into = found.setdefault(kind or "5m only", {"candles": [], "frames_read": []})
            into["frames_read"].append((began["at"] - began["sent"]) * 1000)
            into["candles"] += [ms for key, ms in late.items() if is_candle(key)]
            if ours:
                first = [ms for key, ms in late.items() if key.endswith(":5m:macdv")]
                into.setdefault("readings", []).extend(first)
                rest = [ms for key, ms in late.items() if key.endswith(":macdv")]
                into.setdefault("all", []).extend(rest)
            into.setdefault("cpu_ms", []).append(round(began["cpu"] * 1000, 1))
            time.sleep(0.3)
        told: dict[str, Any] = {
            kind: {
                what: [round(v, 1) for v in values] if what == "cpu_ms" else summary(values)
                for what, values in some.items()
            }
            for kind, some in found.items()
        }
        if where:
            told["where the time goes, ms in all rounds"] = where
        return told


def is_candle(key: str) -> bool:
    """Whether it is a five-minute series, of either."""
    return key.startswith("candles-") or (key.startswith("candles:") and key.endswith(":5m"))


def matters(key: str) -> bool:
    """Whether it is waited for."""
    return is_candle(key) or key.endswith(":macdv")


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--role"]:
        role, *rest = sys.argv[2:]
        if role == "exchange":
            exchange(Path(rest[0]), rest[1])
        else:
            trio.run(livermore, rest[0], rest[1], int(rest[2]), rest[3], Path(rest[4]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", default="100,500,1000")
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--records", choices=("frame", "full"), default="frame")
    parser.add_argument("--without-cryptofeed", action="store_true")
    given = parser.parse_args()
    os.sched_setaffinity(0, {1})
    consumers = ["livermore"]
    python: Path | None = None
    if not given.without_cryptofeed:
        python = cryptofeed_environment()
        consumers += OTHERS
    result: dict[str, Any] = {"records": given.records, "sustained": {}, "burst": {}}
    with tempfile.TemporaryDirectory(prefix="livermore-bench-") as made:
        directory = Path(made)
        certificate = make_certificate(directory)
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        with (
            valkey(directory) as port,
            child(
                1, sys.executable, __file__, "--role", "exchange", directory, given.records,
                environment=environment,
            ) as sender,
        ):  # fmt: skip
            bench = Bench(
                directory, sender, f"wss://localhost:{sender.hear()['port']}/stream", port,
                Watcher(port), environment, given.frames, python,
            )  # fmt: skip
            for count in map(int, given.symbols.split(",")):
                of: dict[str, Any] = result["sustained"].setdefault(f"{count} symbols", {})
                bursts: dict[str, Any] = result["burst"].setdefault(f"{count} symbols", {})
                for number in range(given.rounds):
                    for who in consumers:
                        with bench.consumer(who, count) as consumer:
                            of.setdefault(who, []).append(bench.sustained(consumer, count))
                            if number == 0 and "only" not in who:  # there they are the same
                                with bench.watcher.listening():
                                    bursts[who] = bench.bursts(consumer, count, who == "livermore")
                parts: dict[str, float] = {}
                for part in PARTS[:-1]:
                    with bench.consumer("livermore", count, part) as consumer:
                        parts[part] = bench.sustained(consumer, count)["cpu_us_per_frame"]
                parts["all"] = float(
                    np.median([one["cpu_us_per_frame"] for one in of["livermore"]])
                )
                of["where livermore's time goes, us per frame"] = {
                    "TLS and frames": parts["socket"],
                    "dialect.read": round(parts["read"] - parts["socket"], 2),
                    "connection and tracker": round(parts["tracker"] - parts["read"], 2),
                    "recorder, writer, readings": round(parts["all"] - parts["tracker"], 2),
                }
    print(json.dumps(result, indent=1))
    return 0


def make_certificate(directory: Path) -> Path:
    """Of localhost, signed by itself."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", f"{directory}/key.pem", "-out", f"{directory}/certificate.pem"]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return directory / "certificate.pem"


@contextlib.contextmanager
def valkey(directory: Path) -> Iterator[int]:
    """A server on a free port, without a file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    options = f"--port {port} --bind 127.0.0.1 --save".split()
    server = subprocess.Popen(
        [valkey_binary(), *options, "", "--dir", directory], stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > until:
                sys.exit("bench_binance: Valkey does not start")
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


def cryptofeed_environment() -> Path:
    """Its Python; made the first time, which takes minutes and the package registry."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    room = cache / "livermore-bench" / CRYPTOFEED.replace("==", "-")
    python = room / "bin" / "python"
    if not (room / "made").exists():
        print(f"bench_binance: installing {CRYPTOFEED} in {room}", file=sys.stderr)
        shutil.rmtree(room, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", room], check=True)
        wanted = [CRYPTOFEED, "redis", "uvloop"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (room / "made").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
