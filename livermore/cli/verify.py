"""``livermore verify``: the store compared with the exchange, and a certificate per series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Json, OneExchange, Place, placed
from livermore.cli.run import progress
from livermore.errors import NotRunning, UsageError
from livermore.market.candle import Candle
from livermore.market.certificate import Certificate, Mismatch

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.runtime.certification import Certified

MISMATCH = 7
NOT_COMPARED = 1
SHOWN = 60
"""Rows of a table; JSON has them all."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "verify",
        epilog="Example: `livermore verify`, `livermore verify --symbol BTC-USD --since 2d "
        "--timeframe 1h --json`. Exit code 7 when the store was not what the exchange shows, also "
        "where that was corrected at once, or while a candle is missing; a second run then tells "
        "whether all is well. 1 when the exchange did not answer for all of it; 0 when all agrees.",
    )(placed(verify))


def verify(
    place: Place,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", "-s", metavar="SYMBOL", help="This one (repeatable); else all."),
    ] = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", "-t", metavar="TF", help="5m, 15m, 1h, 4h or 1d.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From 2h ago, or 2026-01-02T03:00:00Z, on.  [default: the newest 300 candles]",
        ),
    ] = None,
    exchange: OneExchange = None,
    rest_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another REST server, such as a simulator.")
    ] = None,
    country: options.Country = None,
    json: Json = False,
) -> int:
    """Compare stored candles with the exchange now, correct them, and certify the rest.

    The newest two minutes are left out: no answer of an exchange is final about them.
    """
    from livermore import daemon

    settings = store.of_one(place, exchange, country=country, rest_url=rest_url)
    name = settings.exchanges[0]
    named = tuple(options.symbol(part) for text in symbol or () for part in text.split(","))
    known, now = _known(settings, name)
    request = daemon.VerifyRequest(
        exchange=name,
        symbols=tuple(dict.fromkeys(named or known)),
        timeframes=options.timeframes(timeframe),
        named=bool(named),
        since_ms=None if since is None else times.since(since, now),
    )
    with progress() as report:
        found = daemon.verify(settings, request, report)
    for notice in found.notices:
        output.say(notice)
    if not found.certificates:
        raise UsageError("nothing is stored that this could be said of: use a longer --since")
    if json:
        output.document(_document(name, found))
    else:
        _show(name, found.certificates)
    return code(found.certificates)


def code(certificates: Sequence[Certificate]) -> int:
    """The exit code: what differs goes before what could not be compared."""
    if not all(one.agreed for one in certificates):
        return MISMATCH
    return NOT_COMPARED if any(one.problem for one in certificates) else 0


def _known(settings: Settings, exchange: str) -> tuple[list[str], int]:
    """The symbols that are followed or stored, and the exchange's time."""
    with store.open_store(settings, exchange) as client:
        status = store.read_status(client, exchange)
        known = [series.symbol for series in store.followed(client, exchange, status)]
        if not known:
            raise NotRunning(
                f"nothing of {exchange} is stored here; start with: livermore run {exchange}"
            )
        return known, store.now(status)


# -- for a person -----------------------------------------------------------------------------


def _show(exchange: str, certificates: Sequence[Certificate]) -> None:
    figures = ("expected", "traded", "empty", "confirmed", "corrected", "missing")
    table = output.table("symbol", "tf", *figures, "content", right=figures)
    # What needs a look is never cut off.
    ordered = sorted(certificates, key=lambda one: one.agreed and not one.problem)
    for one in ordered[:SHOWN]:
        table.add_row(
            one.series.symbol,
            one.series.timeframe.value,
            *(str(getattr(one, name)) for name in figures),
            one.content[:12],
        )
    output.show(table, whole=True)
    if len(ordered) > SHOWN:
        output.say(f"… and {len(ordered) - SHOWN} more series (--json has them all)")
    differing = [(one, mismatch) for one in certificates for mismatch in one.mismatches]
    for one, mismatch in differing[:SHOWN]:
        output.line(f"{one.series} {times.iso(mismatch.open_time)}: {_difference(mismatch)}")
    if len(differing) > SHOWN:
        output.say(f"… and {len(differing) - SHOWN} more (--json has them all)")
    for one in certificates:
        if one.compared.omitted:
            output.line(f"{one.series}: {one.note or 'REST does not show all that traded'}")
        if one.compared.differing:
            output.line(
                f"{one.series}: {one.compared.differing} candles differ and stay: "
                "what is stored claims to be newer than the answer"
            )
        if one.problem:
            output.say(f"{one.series} was not compared: {one.problem}")
    output.line(_summary(exchange, certificates))


def _summary(exchange: str, certificates: Sequence[Certificate]) -> str:
    expected = sum(one.expected for one in certificates)
    confirmed = sum(one.confirmed for one in certificates)
    parts = [
        f"{sum(one.corrected for one in certificates)} corrected",
        f"{sum(one.missing for one in certificates)} missing",
    ]
    omitted = sum(one.compared.omitted for one in certificates)
    differing = sum(one.compared.differing for one in certificates)
    parts += [f"{omitted} that {exchange} does not show"] if omitted else []
    parts += [f"{differing} that differ"] if differing else []
    failed = sum(bool(one.problem) for one in certificates)
    parts += [f"{failed} series not compared"] if failed else []
    return (
        f"{confirmed} of {expected} candles in {len(certificates)} series confirmed by {exchange}: "
        + ", ".join(parts)
    )


def _difference(mismatch: Mismatch) -> str:
    before, after = mismatch.before, mismatch.after
    if before is None:
        return "was missing or damaged, stored now"
    if after is None:
        return "is gone"
    names = [
        name
        for name in ("kind", "open", "high", "low", "close", "volume")
        if _value(before, name) != _value(after, name)
    ]
    changes = (f"{name} {_value(before, name)} → {_value(after, name)}" for name in names)
    return "corrected: " + ", ".join(changes)


def _value(candle: Candle, name: str) -> str:
    return candle.kind.value if name == "kind" else output.number(getattr(candle, name))


# -- for a program ----------------------------------------------------------------------------


def _document(exchange: str, found: Certified) -> dict[str, object]:
    return {
        "exchange": exchange,
        "by": found.by,
        "agreed": all(one.agreed and not one.problem for one in found.certificates),
        "certificates": [_row(one) for one in found.certificates],
        "notices": found.notices,
    }


def _row(one: Certificate) -> dict[str, Any]:
    return {
        "symbol": one.series.symbol,
        "timeframe": one.series.timeframe.value,
        "first": times.iso(one.first),
        "last": times.iso(one.last),
        "expected": one.expected,
        "traded": one.traded,
        "empty": one.empty,
        "confirmed": one.confirmed,
        "corrected": one.corrected,
        "missing": one.missing,
        "omitted": one.compared.omitted,
        "differing": one.compared.differing,
        "undecided": one.compared.undecided,
        "sha256": one.content,
        "agreed": one.agreed,
        "problem": one.problem,
        "note": one.note,
        "mismatches": [
            {
                "open_time": times.iso(mismatch.open_time),
                "before": _candle(mismatch.before),
                "after": _candle(mismatch.after),
            }
            for mismatch in one.mismatches
        ],
    }


def _candle(candle: Candle | None) -> dict[str, object] | None:
    if candle is None:
        return None
    return {
        "kind": candle.kind.value,
        **{name: getattr(candle, name) for name in ("open", "high", "low", "close", "volume")},
        "evidence": candle.evidence.label,
        "revision": candle.revision,
    }
