"""The simulated exchange as a whole: two listeners, one feed, one clock."""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from livermore.errors import ConfigurationError
from livermore.simulator import control
from livermore.simulator.chaos import CHAOS, SLOT, schedule
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.faults import Active, Faults, read_fault
from livermore.simulator.feed import Feed
from livermore.simulator.http import Reply, Request, serve_http
from livermore.simulator.market import Market
from livermore.simulator.pace import Pace
from livermore.simulator.rest import Rest
from livermore.simulator.scenario import read_scenario
from livermore.simulator.settings import SimulatorSettings
from livermore.simulator.socket import Socket
from livermore.simulator.stats import Stats
from livermore.simulator.subscription import Desk
from livermore.simulator.trades import NS

_UPGRADE_WITHIN = 10.0
_LOG = logging.getLogger("livermore.simulator")


@attrs.frozen(eq=False)
class Simulator:
    """A running simulator, for those in the same process."""

    websocket_url: str
    rest_url: str
    control_url: str
    market: Market
    clock: ExchangeClock
    faults: Faults
    stats: Stats
    feed: Feed

    def inject(self, **said: object) -> Active:
        """Begin a fault now: ``inject(fault="mute", symbol="BTC-USD", **{"for": 60})``."""
        return self.feed.inject(read_fault(said, self.market))


async def serve(
    settings: SimulatorSettings,
    *,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; starts with the :class:`Simulator`. Sockets end with the scope."""
    start = int(time.time() * 1000) if settings.start is None else settings.start
    market = Market(settings.symbols, settings.seed, start, settings.history_days, settings.replay)
    planned = read_scenario(_scenario(settings, market, start), market)
    clock = ExchangeClock(start * NS, settings.speed, trio.current_time)
    faults, stats = Faults(settings.seed), Stats()
    feed = Feed(market, clock, faults, settings.seed)
    rest = Rest(
        market,
        clock,
        faults,
        stats,
        settings.requests_per_second,
        trio.current_time,
        settings.seed,
    )
    web, sockets = await _listeners(settings)
    at = f"{settings.host}:{_port(web)}"
    simulator = Simulator(
        f"ws://{settings.host}:{_port(sockets)}",
        f"http://{at}",
        f"http://{at}{control.PATH}",
        market,
        clock,
        faults,
        stats,
        feed,
    )
    door = control.Control(market, clock, faults, feed, stats)
    gate = Gate(simulator, settings)
    for plan in planned:
        feed.plan(clock.start + int(plan.at * 1_000_000_000), plan.fault)

    def answer(request: Request) -> Reply:
        if request.path.startswith(control.PATH):
            return door.answer(request)
        return rest.answer(request)

    async def on_web(stream: trio.SocketStream) -> None:
        await serve_http(stream, _address(stream), answer, lambda: clock.now() / 1e9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await nursery.start(partial(trio.serve_listeners, _patient(on_web), [web]))
        await nursery.start(partial(trio.serve_listeners, _patient(gate.welcome), [sockets]))
        task_status.started(simulator)


def _scenario(
    settings: SimulatorSettings, market: Market, start: int
) -> pathlib.Path | list[dict[str, Any]] | None:
    if settings.scenario != CHAOS:
        return settings.scenario
    boundary = SLOT - start / 1000 % SLOT
    return list(schedule(settings.seed, market.followed, boundary=boundary).faults)


class Gate:
    """Where websockets come in: limits, refusals, and who must leave for saying nothing."""

    def __init__(self, simulator: Simulator, settings: SimulatorSettings) -> None:
        limits = settings.limits
        self._simulator = simulator
        self._limits = limits
        self._pace = Pace(limits.connections)
        self._desk = Desk(
            simulator.market,
            simulator.feed,
            simulator.faults,
            simulator.stats,
            limits.client_messages,
            trio.current_time,
        )

    async def welcome(self, stream: trio.SocketStream) -> None:
        """One client, from its handshake to its end."""
        simulator, stats = self._simulator, self._simulator.stats
        socket = Socket(
            stats.connections_total,
            _address(stream),
            stream,
            simulator.faults,
            stats,
            self._limits.outbox_bytes,
            lambda: simulator.clock.skew,
        )
        refusal = simulator.faults.one("refuse")
        if refusal is not None and not refusal.options["status"]:
            stats.refused += 1
            return
        status = refusal.options["status"] if refusal else None
        if status is None and not self._pace.take(socket.address, trio.current_time()):
            status = 429
            stats.over_rate += 1
        accepted = False
        with trio.move_on_after(_UPGRADE_WITHIN):
            accepted = await socket.accept(status)
        if accepted:
            await self._serve(socket)
        else:
            stats.refused += 1

    async def _serve(self, socket: Socket) -> None:
        feed, stats = self._simulator.feed, self._simulator.stats
        stats.connections_total += 1
        stats.connections += 1
        feed.sockets[socket] = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._expect_subscription, socket)
                await socket.run(partial(self._desk.hear, socket))
                nursery.cancel_scope.cancel()
        finally:
            stats.connections -= 1
            feed.leave(socket)

    async def _expect_subscription(self, socket: Socket) -> None:
        with trio.move_on_after(self._limits.subscribe_within):
            await socket.subscribed.wait()
        if not socket.subscribed.is_set():
            socket.drop(1008)


async def _listeners(
    settings: SimulatorSettings,
) -> tuple[trio.SocketListener, trio.SocketListener]:
    try:
        (web,) = await trio.open_tcp_listeners(settings.port, host=settings.host)
        port = settings.port + 1 if settings.port else 0
        (sockets,) = await trio.open_tcp_listeners(port, host=settings.host)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigurationError(f"simulator: cannot listen on {where}: {error}") from None
    return web, sockets


def _port(listener: trio.SocketListener) -> int:
    return int(listener.socket.getsockname()[1])


def _address(stream: trio.SocketStream) -> str:
    return str(stream.socket.getpeername()[0])


def _patient(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A client that breaks off, or that we fail to answer, ends alone: the exchange goes on."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* Exception as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            _LOG.error("connection ended: %s", said[:300])
            await trio.aclose_forcefully(stream)

    return handle
