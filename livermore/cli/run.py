"""``livermore run`` and ``livermore backfill``: the commands that do the work."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Json, OneExchange, Place, placed
from livermore.errors import NotRunning, UsageError
from livermore.market.gap import Gap

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.runtime.backfill import Filled, Report

REMAIN = 6


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "run",
        epilog="Example: `livermore run coinbase`, "
        "`livermore run coinbase --symbols BTC-USD,ETH-USD --for 60s`, "
        "`livermore run coinbase binance --symbols BTC-USD,BTC-USDT@binance`. "
        "Of several exchanges one that will not serve us is left out, and the others go on.",
    )(placed(run))
    app.command(
        "backfill",
        epilog="Example: `livermore backfill --symbol BTC-USD --since 2h --dry-run`. "
        "Exit code 6 while gaps remain.",
    )(placed(backfill))


def run(
    place: Place,
    exchanges: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXCHANGE", help="Such as coinbase (see: livermore exchanges)."),
    ] = None,
    symbols: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Follow these, such as BTC-USD,ETH-USD: of several exchanges, wherever they are "
            "listed; BTC-USDT@binance there alone.",
        ),
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(metavar="N", help="Follow the N most traded of each.  [default: 50]"),
    ] = None,
    country: options.Country = None,
    run_for: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End cleanly after 60s, 2h, …")
    ] = None,
    idle: Annotated[
        bool | None,
        typer.Option(
            "--idle", help="Connect to nothing, and wait for livermore ctl.", show_default=False
        ),
    ] = None,
    autostart: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Follow these from the start on, such as coinbase."),
    ] = None,
    standby: Annotated[
        bool | None,
        typer.Option(
            "--standby",
            help="Where another daemon holds the exchange, wait and take over when it ends.",
            show_default=False,
        ),
    ] = None,
    rest_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Another REST server, such as a simulator; of several exchanges "
            "coinbase=URL (repeatable).",
        ),
    ] = None,
    websocket_url: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Another WebSocket server, likewise.")
    ] = None,
    json_logs: Annotated[
        bool | None,
        typer.Option("--json-logs", "--json", help="Log JSON lines.", show_default=False),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(metavar="PORT", help="Serve /metrics, /livez and /readyz here; 0: any port."),
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="On this address.  [default: 127.0.0.1]")
    ] = None,
    recorder: Annotated[
        str | None,
        typer.Option(
            metavar="MIB", help="Memory for frames that explain an incident, or off.  [default: 32]"
        ),
    ] = None,
) -> int:
    """Follow exchanges until stopped: candles and readings into Redis, closes on pub/sub.

    Without an exchange it is idle: it connects to nothing and waits for livermore ctl.
    """
    read = functools.partial(
        _checked,
        place,
        exchanges=tuple(exchanges) if exchanges else None,
        symbols=symbols,
        top=top,
        country=country,
        run_for=run_for,
        idle=idle,
        autostart=autostart,
        standby=standby,
        rest_url=rest_url or None,
        websocket_url=websocket_url or None,
        json_logs=json_logs,
        log_level=log_level,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        recorder=recorder,
    )
    settings = read()
    if settings.idle and exchanges:
        raise UsageError("--idle connects to nothing: leave the exchanges away, or --idle")
    from livermore import daemon
    from livermore.cli import logs

    console = logs.configure(settings)
    watch = None if console is None else functools.partial(logs.show_history, console)
    daemon.main(settings, watch, again=read)
    return 0


def _checked(place: Place, **flags: object) -> Settings:
    settings = place.settings(**flags)
    settings.check_exchanges()
    return settings


def backfill(
    place: Place,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", "-s", metavar="SYMBOL", help="This one (repeatable); else all."),
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
    exchange: OneExchange = None,
    rest_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another REST server, such as a simulator.")
    ] = None,
    country: options.Country = None,
    json: Json = False,
) -> int:
    """Fill gaps now: by the running daemon, or, where none runs, by this command."""
    from livermore import daemon

    settings = store.of_one(place, exchange, country=country, rest_url=rest_url)
    name = settings.exchanges[0]
    named = tuple(options.symbol(part) for text in symbol or () for part in text.split(","))
    known, now = _known(settings, name)
    if not named and not known:
        raise UsageError(
            f"no daemon of {name} says what it follows: name symbols, such as --symbol BTC-USD"
        )
    request = daemon.BackfillRequest(
        exchange=name,
        symbols=tuple(dict.fromkeys(named or known)),
        timeframes=options.timeframes(timeframe),
        since_ms=None if since is None else times.since(since, now),
        dry_run=dry_run,
    )
    with progress() as report:
        filled = daemon.backfill(settings, request, report)
    for notice in filled.notices:
        output.say(notice)
    if json:
        output.document(_document(filled))
    else:
        _show(filled, dry_run=dry_run)
    return REMAIN if filled.remaining else 0


def _known(settings: Settings, exchange: str) -> tuple[list[str], int]:
    """The symbols that are followed or stored, and the exchange's time."""
    try:
        with store.open_store(settings) as client:
            status = store.read_status(client, exchange)
            known = [series.symbol for series in store.followed(client, exchange, status)]
            return known, store.now(status)
    except NotRunning:
        return [], store.now()


def _show(filled: Filled, *, dry_run: bool) -> None:
    shown = filled.planned if dry_run else filled.remaining
    if shown:
        table = output.table(
            *("symbol", "tf", "from", "to", "candles", "note"), right=("candles",), loose=("note",)
        )
        for gap in shown:
            table.add_row(
                gap.series.symbol,
                gap.series.timeframe.value,
                times.iso(gap.first),
                times.iso(gap.last),
                str(gap.slots),
                gap.note or "–",
            )
        output.show(table)
    ranges, candles = len(filled.planned), sum(gap.slots for gap in filled.planned)
    if not ranges:
        output.line("nothing is missing")
    elif dry_run:
        output.line(f"{candles} candles in {ranges} ranges would take {filled.requests} requests")
    else:
        left = sum(gap.slots for gap in filled.remaining)
        by = "the running daemon" if filled.by == "daemon" else filled.by
        never = f", {filled.absent} the exchange does not have" if filled.absent else ""
        filled_now = candles - left - filled.absent
        output.line(f"{filled_now} of {candles} candles filled by {by}{never}, {left} remain")


def _document(filled: Filled) -> dict[str, object]:
    return {
        "by": filled.by,
        "requests": filled.requests,
        "planned": [_range(gap) for gap in filled.planned],
        "remaining": [_range(gap) for gap in filled.remaining],
        "absent": filled.absent,
        "notices": filled.notices,
    }


def _range(gap: Gap) -> dict[str, object]:
    return {
        "symbol": gap.series.symbol,
        "timeframe": gap.series.timeframe.value,
        "first": times.iso(gap.first),
        "last": times.iso(gap.last),
        "candles": gap.slots,
        "note": gap.note,
    }


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
