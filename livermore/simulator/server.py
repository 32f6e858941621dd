"""The simulated exchange as a whole: its listeners, one feed, one clock."""

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
from livermore.simulator.agenda import Agenda
from livermore.simulator.chaos import CHAOS, SLOT, schedule
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.exchange import Exchange, Stage
from livermore.simulator.faults import Active, Faults, read_fault
from livermore.simulator.feed import Feed
from livermore.simulator.gate import Gate
from livermore.simulator.http import Reply, Request, Stream, address_of, serve_http
from livermore.simulator.market import Market
from livermore.simulator.rest import Rest
from livermore.simulator.roster import played
from livermore.simulator.scenario import read_scenario
from livermore.simulator.settings import SimulatorSettings
from livermore.simulator.stats import Stats
from livermore.simulator.trades import NS

_LOG = logging.getLogger("livermore.simulator")


@attrs.frozen(eq=False)
class Simulator:
    """A running simulator, for those in the same process."""

    exchange: Exchange
    websocket_url: str
    """Without a path."""
    rest_url: str
    control_url: str
    market: Market
    clock: ExchangeClock
    faults: Faults
    stats: Stats
    feed: Feed
    tls_websocket_url: str = ""
    """The same over TLS, where the settings ask for it."""
    tls_rest_url: str = ""

    def inject(self, **said: object) -> Active:
        """Begin a fault now: ``inject(fault="mute", symbol="BTC-USD", **{"for": 60})``."""
        known = self.exchange
        return self.feed.inject(read_fault(said, self.market, known.channels, known.faults))


async def serve(
    settings: SimulatorSettings,
    *,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; starts with the :class:`Simulator`. Sockets end with the scope."""
    exchange = played(settings.exchange)
    start = int(time.time() * 1000) if settings.start is None else settings.start
    clock = ExchangeClock(start * NS, settings.speed, trio.current_time)
    market = Market(
        exchange.listings(settings.symbols, settings.seed),
        settings.seed,
        start,
        settings.history_days,
        settings.replay,
    )
    scenario = _scenario(settings, market, start)
    planned = read_scenario(scenario, market, exchange.channels, exchange.faults)
    stage = Stage(
        market,
        clock,
        Faults(settings.seed),
        Stats(),
        Agenda(clock),
        settings.allowed,
        settings.seed,
        trio.current_time,
    )
    feed = Feed(stage, exchange.voice(stage))
    rest = Rest(stage, exchange.routes(stage))
    gate = Gate(stage, feed)
    door = control.Control(exchange, market, clock, stage.faults, feed, stage.stats, settings.seed)
    for plan in planned:
        feed.plan(clock.start + int(plan.at * 1_000_000_000), plan.fault)

    def answer(request: Request) -> Reply:
        if request.path.startswith(control.PATH):
            return door.answer(request)
        return rest.answer(request)

    async def on_web(stream: Stream) -> None:
        await serve_http(stream, address_of(stream), answer, lambda: clock.now() / 1e9)

    handlers = (_patient(on_web), _patient(gate.welcome))
    plain = await _listeners(settings)
    at, sockets = (f"{settings.host}:{_port(listener)}" for listener in plain)
    listeners = list(zip(handlers, plain, strict=True))
    simulator = Simulator(
        exchange,
        f"ws://{sockets}",
        f"http://{at}",
        f"http://{at}{control.PATH}",
        market,
        clock,
        stage.faults,
        stage.stats,
        feed,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        for handler, listener in listeners:
            await nursery.start(partial(trio.serve_listeners, handler, [listener]))
        if settings.tls is not None:
            ports = []
            for handler in handlers:
                serving = partial(
                    trio.serve_ssl_over_tcp,
                    handler,
                    0,
                    settings.tls,
                    host=settings.host,
                    https_compatible=True,
                )
                ports.append(_port((await nursery.start(serving))[0].transport_listener))
            simulator = attrs.evolve(
                simulator,
                tls_rest_url=f"https://{settings.host}:{ports[0]}",
                tls_websocket_url=f"wss://{settings.host}:{ports[1]}",
            )
        task_status.started(simulator)


def _scenario(
    settings: SimulatorSettings, market: Market, start: int
) -> pathlib.Path | list[dict[str, Any]] | None:
    if settings.scenario != CHAOS:
        return settings.scenario
    boundary = SLOT - start / 1000 % SLOT
    made = schedule(
        settings.seed, market.followed, boundary=boundary, exchange=played(settings.exchange)
    )
    return list(made.faults)


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


def _patient(
    handler: Callable[[Any], Awaitable[None]],
) -> Callable[[Any], Awaitable[None]]:
    """A client that breaks off, or that we fail to answer, ends alone: the exchange goes on."""

    async def handle(stream: Stream) -> None:
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
