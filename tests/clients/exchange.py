"""A simulated exchange as a process, and the client libraries of others that are let loose on it.

A library runs where it is installed, in ``.nox/clients``: a program in ``programs/`` uses it as its
users do and prints what it returned as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from livermore.market.timeframe import Timeframe

CLIENTS = Path(__file__).resolve().parents[2] / ".nox" / "clients" / "bin" / "python"
PROGRAMS = Path(__file__).resolve().parent / "programs"
START = 1_763_600_200_000
"""Simulated start (ms): a third into a five-minute slot."""
_WITHIN = 60
"""Seconds for a library to do all it is asked."""
Candle = dict[str, Any]


@attrs.frozen
class Certificate:
    """Of localhost and 127.0.0.1, known to the programs."""

    shown: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.shown, self.key)
        return context


@attrs.frozen
class Exchange:
    """Where a simulated exchange is, with and without TLS."""

    websocket: str
    rest: str
    secure_websocket: str
    secure_rest: str
    control: str
    certificate: Certificate

    async def truth(self, symbol: str, timeframe: str, since: int, until: int) -> dict[int, Candle]:
        """Every closed candle by open time (ms), ``since`` … ``until`` inclusive."""
        asked: dict[str, str | int] = {
            "symbol": symbol,
            "timeframe": timeframe,
            "since": since,
            "until": until,
        }
        return {row["open_time"]: row for row in (await self._get("truth", **asked))["candles"]}

    async def now(self) -> int:
        """The exchange's time, ms."""
        return int((await self._get("now"))["now"])

    async def symbols(self) -> list[str]:
        """Symbols that trade, canonical, busiest first."""
        return [row["symbol"] for row in (await self._get("symbols"))["symbols"]]

    async def reaches(self, time: int) -> None:
        """Wait until it is ``time`` (ms) there."""
        while await self.now() < time:  # noqa: ASYNC110 (another process's clock)
            await trio.sleep(0.05)

    async def connected(self) -> None:
        """Wait until a websocket is open."""
        while (await self.stats())["connections"] == 0:  # noqa: ASYNC110 (another process's)
            await trio.sleep(0.05)

    async def stats(self) -> dict[str, Any]:
        return await self._get("stats")

    async def inject(self, **fault: object) -> None:
        """Begin a fault now."""
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.post(f"{self.control}/faults", json=fault)).raise_for_status()

    async def _get(self, what: str, **asked: str | int) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as http:
            reply = await http.get(f"{self.control}/{what}", params=asked)
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()
        return found

    async def ask(self, program: str, **asked: object) -> Any:
        """What ``program`` prints, given where the exchange is and ``asked``."""
        urls = {
            "websocket": self.websocket,
            "rest": self.rest,
            "secure_websocket": self.secure_websocket,
            "secure_rest": self.secure_rest,
        }
        known = str(self.certificate.shown)
        command = [
            *(str(CLIENTS), "-I", "-X", "faulthandler"),
            *(str(PROGRAMS / program), json.dumps(urls | asked)),
        ]
        # Nothing of this machine's: no proxy, no keys, no other certificates.
        environment = {"REQUESTS_CA_BUNDLE": known, "SSL_CERT_FILE": known, "LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile() as stderr:
            with trio.move_on_after(_WITHIN) as patience:
                done = await trio.run_process(
                    command,
                    capture_stdout=True,
                    stderr=stderr,
                    check=False,
                    env=environment,
                    deliver_cancel=_abort,
                )
            stderr.seek(0)
            said = stderr.read().decode()
        assert not patience.cancelled_caught, f"{program} took over {_WITHIN} s:\n{said}"
        assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{said}"
        return json.loads(done.stdout.splitlines()[-1])


async def _abort(process: trio.Process) -> None:
    """It then says where it was."""
    process.send_signal(signal.SIGABRT)
    await process.wait()


@contextlib.asynccontextmanager
async def simulated(
    exchange: str, certificate: Certificate, *options: str, start: int | None = START
) -> AsyncIterator[Exchange]:
    """A simulator's process, and its ports with TLS beside the plain ones. It starts at ``start``
    (ms), or now."""
    command = [sys.executable, "-m", "livermore.simulator", exchange]
    if start is not None:
        command += ["--start", str(start)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [*command, *options],
                stdout=subprocess.PIPE,
            )
        )
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, f"the simulator of {exchange} ended"
                line += piece
        told = json.loads(line)
        web = await nursery.start(_serve_tls, certificate, told["rest"])
        sockets = await nursery.start(_serve_tls, certificate, told["websocket"])
        yield Exchange(
            told["websocket"],
            told["rest"],
            f"wss://localhost:{sockets}",
            f"https://localhost:{web}",
            told["control"],
            certificate,
        )
        process.terminate()
        with trio.fail_after(10):
            assert await process.wait() == 0
        nursery.cancel_scope.cancel()


async def _serve_tls(
    certificate: Certificate,
    url: str,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take TLS off and hand on to ``url``; starts with the port."""
    port = int(url.rpartition(":")[2])

    async def hand_on(client: trio.SSLStream[trio.SocketStream]) -> None:
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_pump, client, server)
            await _pump(server, client)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(client)

    serve = partial(
        trio.serve_ssl_over_tcp,
        hand_on,
        0,
        certificate.context(),
        host="127.0.0.1",
        https_compatible=True,
    )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        task_status.started(listeners[0].transport_listener.socket.getsockname()[1])


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    """Hand on until either side leaves, in whatever manner."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for piece in source:
            await sink.send_all(piece)


def slots(timeframe: str, count: int, until: int = START) -> tuple[int, int]:
    """Open times (ms) of the first and last of ``count`` candles closed a whole one ago."""
    length = Timeframe.parse(timeframe).ms
    last = until // length * length - 2 * length
    return last - (count - 1) * length, last


def traded(candles: dict[int, Candle]) -> dict[int, Candle]:
    return {at: candle for at, candle in candles.items() if candle["kind"] == "traded"}


def figures(candle: Candle) -> tuple[float, ...]:
    """Open, high, low, close and volume of a row of the truth, or of one with the same names."""
    return tuple(float(candle[name]) for name in ("open", "high", "low", "close", "volume"))
