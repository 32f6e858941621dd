"""``livermore exchanges``: what each exchange offers and allows, and which of them run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from livermore.cli import output, store, times
from livermore.cli.options import Country, Json, Place, placed
from livermore.cli.status import COLOURS, seconds
from livermore.cli.store import Status
from livermore.errors import MalformedMessage, NotRunning, StoreError

if TYPE_CHECKING:
    from rich.table import Table

    from livermore.dialect import Dialect, Fees, Geo

CLOSES = {
    "trades": "contiguous trades prove it",
    "flag": "the exchange says so",
    "clock": "its clock passes the end",
}
"""How a five-minute candle is known to be closed."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "exchanges",
        epilog="Example: `livermore exchanges`, `livermore exchanges --country US`, "
        "`livermore exchanges --json`. What is said of fees and countries is what is documented or "
        "told, and nothing is looked up: the terms of the exchange decide.",
    )(placed(exchanges))


def exchanges(place: Place, country: Country = None, json: Json = False) -> int:
    """List the exchanges: what they support, their limits, fees and countries, and their state."""
    from livermore.exchanges import DIALECTS

    settings = place.settings(country=country)
    known = list(DIALECTS.values())
    states, trouble = read_states(place, [dialect.name for dialect in known])
    if json:
        output.document(
            [document(one, states.get(one.name), trouble, settings.country) for one in known]
        )
        return 0
    for number, dialect in enumerate(known):
        if number:
            output.line("")
        output.show(block(dialect, states.get(dialect.name), trouble, settings.country))
    return 0


def read_states(place: Place, names: Sequence[str]) -> tuple[Mapping[str, Status], str]:
    """What runs, by exchange, and why that is not known, where it is not.

    That there is no Redis, or none that answers, is no error: then nobody says that he runs.
    """
    settings, found, trouble = place.settings(), dict[str, Status](), ""
    try:
        with store.open_store(settings) as client:
            for name in names:
                try:
                    status = store.read_status(client, name)
                except MalformedMessage:
                    continue
                if status is not None:
                    found[name] = status
    except NotRunning:
        pass
    except StoreError as error:
        trouble = str(error)
    for name in names:
        try:
            left = store.last_words(settings, name)
        except MalformedMessage:
            continue
        if left is not None and (name not in found or left.age < found[name].age):
            found[name] = left
    return found, trouble


def state_of(status: Status | None, trouble: str) -> str:
    """In a line whether it runs, since when, and how it is."""
    if status is None:
        return f"not known: {trouble}" if trouble else "not running"
    words = status.words
    since = f" since {seconds(words.since)}" if words.since else ""
    parts = [(words.state or "unknown") + since]
    if words.note:
        parts.append(words.note)
    if words.state != "ended" and words.started:
        parts.append(f"runs for {times.length(max(0, store.now() - words.started))}")
    return " · ".join(parts)


def rows(dialect: Dialect, country: str | None) -> list[tuple[str, str]]:
    """What is known of it for good, by name."""
    streamed, *folded = dialect.timeframe_names
    assert streamed is dialect.streamed
    names = [f"{streamed} streamed", f"{' '.join(map(str, folded))} folded and verified"]
    found = [
        ("timeframes", ", ".join(names)),
        ("closes", CLOSES[dialect.closes.value]),
        ("sockets", _sockets(dialect)),
        ("REST", _rest(dialect)),
        ("fees", _fees(dialect.fees)),
        ("countries", _countries(dialect.geo, country)),
    ]
    if dialect.documentation:
        found.append(("see", dialect.documentation))
    return found


def _sockets(dialect: Dialect) -> str:
    each = "all connections together" if dialect.messages_shared else "each connection"
    parts = [f"{dialect.products_per_connection} symbols each"]
    if dialect.streams_per_connection is not None:
        parts[0] += f" (it allows {dialect.streams_per_connection} streams)"
    parts.append(f"{dialect.messages_per_second:g} messages/s ({each})")
    if dialect.maximum_age is not None:
        parts.append(f"renewed within {times.length(dialect.maximum_age)}")
    return ", ".join(parts)


def _rest(dialect: Dialect) -> str:
    window = dialect.rest_window
    of = "second" if window == 1 else "minute" if window == 60 else f"{window} s"
    return (
        f"weight {dialect.rest_per_second * window:g} a {of}, of which we use 80 %; "
        f"{dialect.rest_rows} candles a request"
    )


def _fees(fees: Fees) -> str:
    told = [
        f"{who} {share * 100:g} %"
        for who, share in (("maker", fees.maker), ("taker", fees.taker))
        if share is not None
    ]
    return "; ".join(filter(None, [", ".join(told) or "not known here", fees.note]))


def _countries(geo: Geo, country: str | None) -> str:
    where = "no restriction known"
    if geo.only:
        where = f"serves {' '.join(sorted(geo.only))} alone"
    elif geo.refuses:
        where = f"does not serve {' '.join(sorted(geo.refuses))}"
    if geo.note:
        where += f" ({geo.note})"
    if country is not None:
        where += f"; {country}: {'as far as is known' if geo.serves(country) else 'NOT'} served"
    return where


def block(dialect: Dialect, status: Status | None, trouble: str, country: str | None) -> Table:
    """What is known of it and its state, for a person."""
    from rich.table import Table
    from rich.text import Text

    state = (status.words.state or "unknown") if status is not None else ""
    colour = COLOURS.get(state, "yellow" if state else "dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=10, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(dialect.name, style="bold"), Text(dialect.title))
    grid.add_row("state", Text(state_of(status, trouble), style=colour))
    for name, text in rows(dialect, country):
        grid.add_row(name, Text(text))
    return grid


def document(
    dialect: Dialect, status: Status | None, trouble: str, country: str | None
) -> dict[str, Any]:
    """The same as JSON; what is not known is null."""
    geo, fees = dialect.geo, dialect.fees
    words = status.words if status is not None else None
    return {
        "exchange": dialect.name,
        "title": dialect.title,
        "documentation": dialect.documentation or None,
        "timeframes": [str(timeframe) for timeframe in dialect.timeframe_names],
        "streamed": str(dialect.streamed),
        "closes": dialect.closes.value,
        "limits": {
            "symbols_per_connection": dialect.products_per_connection,
            "streams_per_connection": dialect.streams_per_connection,
            "messages_per_second": dialect.messages_per_second,
            "messages_shared": dialect.messages_shared,
            "maximum_age": dialect.maximum_age,
            "rest_weight": dialect.rest_per_second * dialect.rest_window,
            "rest_window": dialect.rest_window,
            "rest_rows": dialect.rest_rows,
        },
        "fees": {"maker": fees.maker, "taker": fees.taker, "note": fees.note or None},
        "geo": {
            "refuses": sorted(geo.refuses),
            "only": sorted(geo.only),
            "alternative": geo.alternative or None,
            "note": geo.note or None,
            "country": country,
            "served": None if country is None else geo.serves(country),
        },
        "running": None if trouble and status is None else status is not None,
        "state": words.state if words is not None else None,
        "since": times.iso(int(words.since)) if words is not None and words.since else None,
        "started": times.iso(int(words.started)) if words is not None and words.started else None,
        "note": words.note if words is not None else trouble or None,
    }
