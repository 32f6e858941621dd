"""``livermore demo``: a simulated exchange, the daemon and a view of both, in one process.

The view knows nothing but Redis: it reads candles, readings and status, and listens to what is
published, as any consumer would. It runs in threads that end within a second of being told.
"""

from __future__ import annotations

import collections
import functools
import logging
import math
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import output, screen, store, tail
from livermore.cli.words import Words
from livermore.config import Settings, parse_duration
from livermore.errors import ConfigurationError, StoreError, UsageError
from livermore.market.timeframe import TIMEFRAMES

if TYPE_CHECKING:
    from rich.console import Console

    from livermore.adapters.redis import Client
    from livermore.simulator import SimulatorSettings

EXCHANGE = "coinbase"
REFRESH = 0.5
"""Seconds between two looks."""
KEPT_LINES = 60
CLOSES = 24


Lines = collections.deque[tuple[str, Mapping[str, Any]]]
"""What was published: its kind, as ``tail`` calls it, and what it said."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "demo",
        epilog="Example: `livermore demo`, `livermore demo --speed 120 --for 60s`, "
        "`livermore demo --json`",
    )(demo)


def demo(
    speed: Annotated[
        float, typer.Option(metavar="X", help="How much faster than ours the market runs.")
    ] = 60.0,
    symbols: Annotated[int, typer.Option(metavar="N", min=1, max=200, help="How many.")] = 8,
    run_for: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End after 60s, 5m, …")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print what is published as JSON instead of the view.")
    ] = False,
) -> int:
    """See it work: no configuration, no network, nothing left behind. Ctrl-C ends it."""
    import trio

    from livermore.simulator import SimulatorSettings

    try:
        seconds = None if run_for is None else parse_duration(run_for) / 1000
    except ValueError as error:
        raise UsageError(f"--for: {error}, not {run_for!r}") from None
    try:
        plan = SimulatorSettings(exchange=EXCHANGE, speed=speed, symbols=symbols)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    quiet = logging.getLogger("livermore")  # its lines would tear the screen; the status tells them
    quiet.handlers[:] = [logging.NullHandler()]
    quiet.propagate = False
    with tempfile.TemporaryDirectory(prefix="livermore-demo-") as directory:
        trio.run(_demo, Path(directory), plan, seconds, json)
    return 0


async def _demo(
    directory: Path, plan: SimulatorSettings, seconds: float | None, json: bool
) -> None:
    """Simulator outlives daemon outlives view, so that each ends with what it needs still there."""
    import trio

    from livermore import daemon, simulator

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as exchange:
            output.say("starting a simulated exchange and a private Valkey …")
            simulated = await exchange.start(simulator.serve, plan)
            settings = Settings(
                state_dir=directory,
                exchanges=(EXCHANGE,),
                top=plan.symbols,
                rest_url=simulated.rest_url,
                websocket_url=simulated.websocket_url,
                log_level="error",
            )
            async with trio.open_nursery() as feeds:
                running = await feeds.start(daemon.serve, settings)
                title = f"{EXCHANGE}, simulated at {plan.speed:g} times our speed"
                with trio.move_on_after(math.inf if seconds is None else seconds):
                    await _watch(running.redis_url, title, signals, json)
                output.say("ending …")
                feeds.cancel_scope.cancel()
            exchange.cancel_scope.cancel()


async def _watch(url: str, title: str, signals: Any, json: bool) -> None:
    import trio

    stopped = threading.Event()
    lines: Lines = collections.deque(maxlen=KEPT_LINES)
    console = output.data()
    drawn = console.is_terminal and not json
    show = _draw if drawn else functools.partial(_print, json=json)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, _listen, url, lines, stopped)
        nursery.start_soon(trio.to_thread.run_sync, show, url, title, lines, console, stopped)
        try:
            await anext(aiter(signals))
        finally:
            stopped.set()  # threads cannot be cancelled, only asked


def _listen(url: str, lines: Lines, stopped: threading.Event) -> None:
    """Keep the newest of what is published."""
    from livermore.adapters.redis import Client

    client = Client(url)
    chosen = tail.patterns(EXCHANGE, None, TIMEFRAMES, forming=False)
    while not stopped.is_set():
        try:
            for channel, payload in client.messages(chosen, stopped):
                word, said = tail.understood(channel, payload)
                if word is not None and said is not None:
                    lines.append((word, said))
        except StoreError:
            stopped.wait(1)  # the daemon tells the story; we listen again
        finally:
            client.close()


def _draw(url: str, title: str, lines: Lines, console: Console, stopped: threading.Event) -> None:
    from rich.live import Live

    from livermore.adapters.redis import Client

    client = Client(url)
    view = screen.View(title, Words(), (), ())
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stopped.is_set():
            try:
                view = look(client, title, list(lines))
            except StoreError as error:
                view = attrs.evolve(view, words=Words(state="blind", note=str(error)))
            live.update(screen.screen(view, console.width, console.height), refresh=True)
            stopped.wait(REFRESH)
    client.close()


def _print(
    url: str, title: str, lines: Lines, console: Console, stopped: threading.Event, *, json: bool
) -> None:
    from livermore.adapters.redis import Client

    client = Client(url)
    said = ""
    while not stopped.is_set():
        while lines:
            kind, fields = lines.popleft()
            if json:
                output.document({"type": kind, **tail.as_json(fields)})
            else:
                output.line(tail.described(kind, fields))
        try:
            state = screen.plain(look(client, title, ()))
        except StoreError as error:
            state = str(error)
        if state != said:
            output.say(state)
            said = state
        stopped.wait(REFRESH)
    client.close()


def look(client: Client, title: str, lines: Sequence[tuple[str, Mapping[str, Any]]]) -> screen.View:
    """Everything that is shown, in two round trips."""
    from livermore.adapters.store import (
        all_series,
        decode_candles,
        keys,
        newest_call,
        ticker_key,
    )

    status = store.read_status(client, EXCHANGE)
    symbols = status.symbols if status is not None else []
    width = 2 + len(TIMEFRAMES)
    calls: list[tuple[Any, ...]] = []
    for symbol in symbols:
        series = all_series(EXCHANGE, symbol)
        calls += [("GET", ticker_key(EXCHANGE, symbol)), newest_call(series[0], CLOSES)]
        calls += [("GET", keys(one).indicator) for one in series]
    replies = client.run(calls) if calls else []
    rows = []
    for number, symbol in enumerate(symbols):
        ticker, members, *readings = replies[number * width : (number + 1) * width]
        candles, _ = decode_candles(all_series(EXCHANGE, symbol)[0], members)
        closes = [candle.close for candle in candles]
        price = (tail.decoded(ticker) or {}).get("price")
        last = float(price) if isinstance(price, int | float) else closes[-1] if closes else None
        found = {
            timeframe: said
            for timeframe, text in zip(TIMEFRAMES, readings, strict=True)
            if (said := tail.decoded(text)) is not None
        }
        rows.append(screen.Row(symbol, last, closes, found))
    return screen.View(title, status.words if status is not None else Words(), rows, lines)
