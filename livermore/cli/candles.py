"""``livermore candles``: what is stored of one series."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Json, OneExchange, Place, placed
from livermore.errors import UsageError
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.redis import Client

COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "kind", "evidence", "revision"
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "candles",
        epilog="Example: `livermore candles BTC-USD 1h --last 5`, "
        "`livermore candles BTC-USD 5m --since 2h --csv`",
    )(placed(candles))


def candles(
    place: Place,
    symbol: options.SymbolArgument,
    timeframe: Annotated[str, typer.Argument(metavar="TF", help="5m, 15m, 1h, 4h or 1d.")],
    last: Annotated[
        str | None, typer.Option(metavar="N|all", help="Only the newest N.  [default: 20]")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From 2h ago, or 2026-01-02T03:00:00Z, on.")
    ] = None,
    exchange: OneExchange = None,
    user: options.User = None,
    json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
) -> int:
    """Show the closed candles of a series, oldest first."""
    if json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    wanted, length = options.marked(symbol, exchange), Timeframe.parse(timeframe)
    count = _count(last, since)
    settings = place.of(user).settings()
    with store.open_store(settings, wanted[1]) as client:
        from livermore.adapters.store import keys

        where, name, status = store.find(client, settings, *wanted)
        [series] = store.series_of(client, settings, where, [name], status, [length])
        key = keys(series).candles
        found, damaged = _read(client, series, since, count, store.now(status))
    if json:
        output.document(
            {
                "exchange": series.exchange,
                "symbol": series.symbol,
                "timeframe": series.timeframe.value,
                "damaged": damaged,
                "candles": [dict(zip(COLUMNS, _row(candle), strict=True)) for candle in found],
            }
        )
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(candle) for candle in found)
    elif found:
        table = output.table("open time", *COLUMNS[1:], right=COLUMNS[1:6])
        for candle in found:
            row = _row(candle)
            table.add_row(
                str(row[0]), *(output.number(float(v)) for v in row[1:6]), *map(str, row[6:])
            )
        output.show(table, whole=True)
    if not found and not damaged:
        output.say(f"no candles of {series} are stored" + (f" since {since}" if since else ""))
    if damaged:
        output.say(
            f"{damaged} members of {key} are damaged and left out: a running daemon replaces them"
        )
    return 0


def _read(
    client: Client, series: Series, since: str | None, count: int | None, now: int
) -> tuple[list[Candle], int]:
    from livermore.adapters.store import decode_candles, newest_call, range_call

    if since is not None:
        call = range_call(series, times.since(since, now), "+inf")
    elif count is not None:
        call = newest_call(series, count)
    else:
        call = range_call(series, "-inf", "+inf")
    found, damaged = decode_candles(series, client.run([call])[0])
    return (found[-count:] if count is not None else found), damaged


def _count(last: str | None, since: str | None) -> int | None:
    if last is None:
        return None if since is not None else 20
    if last == "all":
        return None
    if not last.isascii() or not last.isdigit() or not int(last[:9]) >= 1:
        raise UsageError(f"--last {last}: write a number from 1 up, or all")
    return int(last[:9])


def _row(candle: Candle) -> tuple[str | float | int, ...]:
    return (
        times.iso(candle.open_time), candle.open, candle.high, candle.low, candle.close,
        candle.volume, candle.kind.value, candle.evidence.label, candle.revision,
    )  # fmt: skip
