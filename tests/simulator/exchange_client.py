"""A plain client for the simulated exchange: what a test says and hears."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from livermore.simulator import Limits, Simulator, SimulatorSettings, serve

START = 1_763_600_200_000
"""Simulated start: a third into a five-minute slot."""
ROOMY = Limits(rest_rate=1_000, client_messages=1_000, connections=1_000)
Frame = dict[str, Any]


@contextlib.asynccontextmanager
async def simulated(**settings: Any) -> AsyncIterator[Simulator]:
    """A running simulator that ends with the block, which must end within ten seconds."""
    settings = {"symbols": 8, "start": START, "history_days": 30, "limits": ROOMY, **settings}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(serve, SimulatorSettings(**settings))
            yield simulator
            nursery.cancel_scope.cancel()


class Client:
    """One websocket and everything it has heard."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []

    async def say(self, type: str, channel: str, *ids: str, **more: Any) -> None:
        said = {"type": type, "channel": channel, **more}
        if ids:
            said["product_ids"] = list(ids)
        await self.socket.send_message(json.dumps(said))

    async def subscribe(self, channel: str, *ids: str) -> None:
        await self.say("subscribe", channel, *ids)

    async def hear(self) -> Frame:
        with trio.fail_after(5):
            frame: Frame = json.loads(await self.socket.get_message())
        self.frames.append(frame)
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that fits."""
        with trio.fail_after(8):
            while not wanted(frame := await self.hear()):
                pass
        return frame

    async def of(self, channel: str, kind: str | None = None) -> Frame:
        """The next frame of a channel (and event type)."""
        return await self.until(lambda frame: is_of(frame, channel, kind))

    async def listen(self, seconds: float) -> list[Frame]:
        """Everything heard within so many seconds."""
        heard = len(self.frames)
        with trio.move_on_after(seconds):
            while True:
                self.frames.append(json.loads(await self.socket.get_message()))
        return self.frames[heard:]


@contextlib.asynccontextmanager
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    port = port_of(simulator.websocket_url)
    # The stream is ours to close: trio-websocket leaves it open when the server closes first.
    async with (
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
        trio.open_nursery() as nursery,
    ):
        socket = await wrap_client_stream(
            nursery, stream, f"127.0.0.1:{port}", "/", max_message_size=1 << 24
        )
        async with socket:
            yield Client(socket)


async def left_alone(simulator: Simulator) -> None:
    """Wait until the simulator has no connection left."""
    with trio.fail_after(2):
        while simulator.stats.connections:  # noqa: ASYNC110 (it counts for tests of other programs)
            await trio.sleep(0.01)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def rest(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=simulator.rest_url, timeout=5) as http:
        yield http


def is_of(frame: Frame, channel: str, kind: str | None = None) -> bool:
    return frame.get("channel") == channel and (
        kind is None or frame["events"][0].get("type") == kind
    )


def rows(frames: list[Frame], channel: str, key: str, kind: str | None = None) -> list[Frame]:
    """What these frames carry, in the order of the frames."""
    return [
        row
        for frame in frames
        if is_of(frame, channel, kind)
        for event in frame["events"]
        for row in event[key]
    ]
