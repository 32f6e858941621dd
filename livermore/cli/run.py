"""``livermore run`` and ``livermore backfill``: the commands that do the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Exchange, Json, Place, placed
from livermore.errors import UsageError

REMAIN = 6

Report = Callable[[int, int, str], None]
"""Told how many of how many steps are done, and what is being done."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "run",
        epilog="Example: `livermore run coinbase`, "
        "`livermore run coinbase --symbols BTC-USD,ETH-USD --for 60s`",
    )(placed(run))
    app.command(
        "backfill",
        epilog="Example: `livermore backfill --symbol BTC-USD --since 2h --dry-run`. "
        "Exit code 6 while gaps remain.",
    )(placed(backfill))


def run(
    place: Place,
    exchanges: Annotated[
        list[str] | None, typer.Argument(metavar="EXCHANGES...", help="Such as coinbase.")
    ] = None,
    symbols: Annotated[
        str | None, typer.Option(metavar="LIST", help="Follow these, such as BTC-USD,ETH-USD.")
    ] = None,
    top: Annotated[
        str | None, typer.Option(metavar="N", help="Follow the N most traded.  [default: 50]")
    ] = None,
    run_for: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End cleanly after 60s, 2h, …")
    ] = None,
    rest_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another REST server, such as a simulator.")
    ] = None,
    websocket_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another WebSocket server.")
    ] = None,
    json_logs: Annotated[
        bool | None, typer.Option("--json-logs", help="Log JSON lines.", show_default=False)
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
) -> int:
    """Follow exchanges until stopped: candles and readings into Redis, closes on pub/sub."""
    settings = place.settings(
        exchanges=tuple(exchanges) if exchanges else None,
        symbols=symbols,
        top=top,
        run_for=run_for,
        rest_url=rest_url,
        websocket_url=websocket_url,
        json_logs=json_logs,
        log_level=log_level,
    )
    if not settings.exchanges:
        from livermore.exchanges import DIALECTS

        known = ", ".join(sorted(DIALECTS))
        raise UsageError(f"run needs an exchange: livermore run coinbase (known: {known})")
    from livermore import daemon

    return int(daemon.main(settings))


def backfill(
    place: Place,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", "-s", metavar="SYMBOL", help="This symbol; may be repeated."),
    ] = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", "-t", metavar="TF", help="5m, 15m, 1h, 4h or 1d.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From 2h ago, or 2026-01-02T03:00:00Z, on.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked for.")
    ] = False,
    exchange: Exchange = "coinbase",
    rest_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another REST server, such as a simulator.")
    ] = None,
    json: Json = False,
) -> int:
    """Fill gaps now: by the running daemon, or, where none runs, by this command."""
    from livermore import daemon

    settings = place.settings(exchanges=(exchange,), rest_url=rest_url)
    request = daemon.BackfillRequest(
        exchange=settings.exchanges[0],
        symbols=tuple(options.symbol(part) for text in symbol or () for part in text.split(",")),
        timeframes=options.timeframes(timeframe),
        since_ms=None if since is None else times.since(since, store.now()),
        dry_run=dry_run,
    )
    with progress() as report:
        outcome = daemon.backfill(settings, request, report)
    return int(outcome)


@contextmanager
def progress() -> Iterator[Report]:
    """A bar on stderr where a person watches, else a line whenever something new is done."""
    console = output.talk()
    if not console.is_terminal:
        said = ""

        def report_lines(done: int, total: int, text: str) -> None:
            nonlocal said
            if text != said:
                output.say(f"{done}/{total} {text}")
                said = text

        yield report_lines
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("looking", total=None)

        def report_bar(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield report_bar
