"""A plain client for the simulated Binances: what a test says and hears, down to the pongs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import trio
import wsproto
import wsproto.events as ws

from livermore.simulator import Simulator, SimulatorSettings, serve

START = 1_763_600_200_000
"""Simulated start: a third into a five-minute slot."""
Frame = Any


class Gone(Exception):
    """The exchange has ended the connection."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


@contextlib.asynccontextmanager
async def simulated(exchange: str = "binance", **settings: Any) -> AsyncIterator[Simulator]:
    """A running simulator that ends with the block, which must end within twenty seconds."""
    settings = {"symbols": 8, "start": START, "history_days": 30, **settings}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(serve, SimulatorSettings(exchange=exchange, **settings))
            yield simulator
            nursery.cancel_scope.cancel()


class Client:
    """One websocket and everything it has heard. It answers pings only if told to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.frames: list[Frame] = []
        self.pings: list[bytes] = []
        self.pongs = True
        self.waiting: list[Frame] = []
        self.status = 101
        self._text = ""

    async def open(self, path: str) -> None:
        """Shake hands; ``status`` is the answer."""
        await self._send(ws.Request(host="localhost", target=path))
        while True:
            for event in await self._more():
                if isinstance(event, ws.RejectConnection):
                    self.status = event.status_code
                    return
                if isinstance(event, ws.AcceptConnection):
                    return

    async def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
        await self._send(ws.TextMessage(data=text))

    async def ask(self, method: str, *params: Any, id: Any = 1) -> Frame:
        """Say it and wait for its answer."""
        await self.say({"method": method, "params": list(params), "id": id})
        return await self.until(lambda frame: "result" in frame or "code" in frame)

    async def subscribe(self, *streams: str) -> None:
        assert (await self.ask("SUBSCRIBE", *streams)) == {"result": None, "id": 1}

    async def ping(self) -> None:
        await self._send(ws.Ping())

    async def pong(self, payload: bytes) -> None:
        await self._send(ws.Pong(payload=payload))

    async def hear(self) -> Frame:
        """The next frame; raises Gone when there will be none."""
        while not self.waiting:
            await self._listen()
        self.frames.append(self.waiting.pop(0))
        return self.frames[-1]

    async def until(self, wanted: Callable[[Frame], object], seconds: float = 8) -> Frame:
        """The first frame that fits."""
        with trio.fail_after(seconds):
            while not wanted(frame := await self.hear()):
                pass
        return frame

    async def listen(self, seconds: float) -> list[Frame]:
        """Everything heard within so many seconds."""
        heard = len(self.frames)
        with trio.move_on_after(seconds):
            while True:
                await self.hear()
        return self.frames[heard:]

    async def end(self, seconds: float = 5) -> int:
        """Wait for the close frame; its code."""
        with trio.fail_after(seconds):
            try:
                while True:
                    await self.hear()
            except Gone as gone:
                return gone.code

    async def _listen(self) -> None:
        for event in await self._more():
            if isinstance(event, ws.TextMessage):
                self._text += event.data
                if event.message_finished:
                    self.waiting.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, ws.Ping):
                self.pings.append(bytes(event.payload))
                if self.pongs:
                    await self._send(event.response())
            elif isinstance(event, ws.CloseConnection):
                raise Gone(event.code)

    async def _more(self) -> list[Any]:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            raise Gone(1006) from None
        self.protocol.receive_data(bytes(data) or None)
        return list(self.protocol.events())

    async def _send(self, event: Any) -> None:
        await self.stream.send_all(self.protocol.send(event))


@contextlib.asynccontextmanager
async def client(simulator: Simulator, path: str = "/stream") -> AsyncIterator[Client]:
    port = int(simulator.websocket_url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        one = Client(stream)
        with trio.fail_after(5):
            await one.open(path)
        yield one


@contextlib.asynccontextmanager
async def rest(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{simulator.rest_url}/api/v3/", timeout=5) as http:
        yield http


def candles(frames: list[Frame], stream: str, *, closed: bool | None = None) -> list[Frame]:
    """The ``k`` of a combined stream's frames."""
    found = [frame["data"]["k"] for frame in frames if frame.get("stream") == stream]
    return [k for k in found if closed is None or k["x"] is closed]


def of(stream: str, *, closed: bool = False) -> Callable[[Frame], bool]:
    """Whether a frame is of a combined stream, and (if that is wanted) closes a candle."""

    def fits(frame: Frame) -> bool:
        if frame.get("stream") != stream:
            return False
        return not closed or frame["data"]["k"]["x"] is True

    return fits
