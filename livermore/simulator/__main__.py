"""``python -m livermore.simulator coinbase --speed 60``: one line of JSON when it is ready."""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import sys

import trio

from livermore.errors import ConfigurationError
from livermore.simulator import Simulator, SimulatorSettings, serve
from livermore.simulator.chaos import CHAOS


def settings_of(arguments: list[str] | None = None) -> SimulatorSettings:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m livermore.simulator", description=__doc__)
    parser.add_argument("exchange", nargs="?", default="coinbase")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--symbols", type=int, default=25)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--start", type=int, help="simulated start, epoch ms")
    parser.add_argument("--replay", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--symbol", action="append", default=[], help="one for each --replay")
    parser.add_argument(
        "--scenario", type=lambda text: CHAOS if text == CHAOS else pathlib.Path(text)
    )
    parser.add_argument("--rest-rate", type=int)
    parser.add_argument("--json", action="store_true", help="accepted; it is always JSON")
    said = parser.parse_args(arguments)
    if len(said.replay) != len(said.symbol):
        parser.error("each --replay needs its --symbol")
    return SimulatorSettings(
        exchange=said.exchange,
        host=said.host,
        port=said.port,
        symbols=said.symbols,
        seed=said.seed,
        speed=said.speed,
        start=said.start,
        replay=tuple(zip(said.symbol, said.replay, strict=True)),
        scenario=said.scenario,
        rest_rate=said.rest_rate,
    )


def announcement(simulator: Simulator, exchange: str) -> str:
    """The line on standard output."""
    return json.dumps(
        {
            "exchange": exchange,
            "websocket": simulator.websocket_url,
            "rest": simulator.rest_url,
            "control": simulator.control_url,
        }
    )


async def run(settings: SimulatorSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(serve, settings)
            sys.stdout.write(announcement(simulator, settings.exchange) + "\n")
            sys.stdout.flush()
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main() -> int:
    status = 0
    try:
        trio.run(run, settings_of())
    except* ConfigurationError as group:
        sys.stderr.write(f"{_innermost(group)}\n")
        status = 4
    return status


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
