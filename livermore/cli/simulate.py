"""``livermore simulate``: an exchange on loopback that speaks the real protocol."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from livermore.cli import options, output
from livermore.cli.options import Json
from livermore.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from livermore.simulator import SimulatorSettings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "simulate",
        epilog="Example: `livermore simulate coinbase --speed 60`, then "
        "`livermore run coinbase --rest-url URL --websocket-url URL` with the URLs it prints. "
        "With the same --seed, `livermore simulate binance` follows the same prices.",
    )(simulate)


def simulate(
    exchange: Annotated[
        str, typer.Argument(metavar="EXCHANGE", help="Such as binance; a wrong one names all.")
    ],
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65_534, help="REST and control; 0 is any free port."),
    ] = 0,
    symbols: Annotated[int, typer.Option(metavar="N", help="How many products trade.")] = 25,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed is the same market.")] = 7,
    speed: Annotated[
        float, typer.Option(metavar="X", help="How much faster than ours its clock runs.")
    ] = 60.0,
    replay: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.csv", help="Reproduce these candles; with one --symbol each."),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", "-s", metavar="SYMBOL", help="Whose they are.")
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Faults to come, as JSON or TOML; chaos: two hours of all kinds, by the seed.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Simulate an exchange, until Ctrl-C; its URLs are one line of JSON on stdout."""
    import trio

    from livermore.simulator import SimulatorSettings

    files, names = replay or [], symbol or []
    if len(files) != len(names):
        raise UsageError(f"{len(files)} --replay and {len(names)} --symbol: give one for each")
    replays = tuple((options.symbol(n), file) for n, file in zip(names, files, strict=True))
    try:
        settings = SimulatorSettings(
            exchange=options.known_exchange(exchange),
            port=port,
            symbols=symbols,
            seed=seed,
            speed=speed,
            replay=replays,
            scenario="chaos" if scenario == "chaos" else Path(scenario) if scenario else None,
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    trio.run(_serve, settings, json)
    return 0


async def _serve(settings: SimulatorSettings, json: bool) -> None:
    import trio

    from livermore.simulator import serve

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(serve, settings)
            output.document(
                {
                    "exchange": settings.exchange,
                    "websocket": simulator.websocket_url,
                    "rest": simulator.rest_url,
                    "control": simulator.control_url,
                }
            )
            if not json and sys.stderr.isatty():
                output.say(
                    f"{settings.exchange} is simulated at {settings.speed:g} times our speed; "
                    "Ctrl-C ends it. Follow it with:\n"
                    f"  livermore run {settings.exchange} --rest-url {simulator.rest_url} "
                    f"--websocket-url {simulator.websocket_url}"
                )
            async for _ in signals:
                nursery.cancel_scope.cancel()
