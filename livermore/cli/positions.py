"""``livermore positions``: what a user holds, what it is worth and what it cost."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from livermore.cli import keys, output, store, times
from livermore.cli.database import open_database
from livermore.cli.keys import ExchangeArgument, RestUrl, UserOption, plain
from livermore.cli.options import Country, Json, Place, placed
from livermore.cli.run import progress
from livermore.errors import LivermoreError, NotRunning

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.market.account import Position, Rights
    from livermore.runtime.account import Holdings, Keyholder, Report

WAIT = 60.0
"""Seconds for a daemon to look at its symbols."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "positions",
        epilog="Example: `livermore positions coinbase`, `livermore positions --json`, "
        "`livermore positions --sync --user ada`. The key is taken from environment variables, "
        "such as COINBASE_API_KEY and COINBASE_API_SECRET; it needs to view, and no other right. "
        "A cost is told only where all of a balance was bought and sold there.",
    )(placed(positions))


def positions(
    place: Place,
    exchange: ExchangeArgument = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="Keep them in the database, and follow their symbols.")
    ] = False,
    user: UserOption = None,
    rest_url: RestUrl = None,
    country: Country = None,
    json: Json = False,
) -> int:
    """Show what you hold at the exchanges: price, cost, profit and loss."""
    from livermore.runtime.account import warning

    settings = keys.settings_of(place, exchange, user, rest_url, country)
    owner = keys.owner_of(settings, "positions", needed=sync)
    for number, dialect in enumerate(keys.chosen(owner, exchange)):
        key = owner.key(dialect)
        # Of a long account it takes a while, within the rate that is allowed.
        with progress() if sys.stderr.isatty() else nullcontext() as report:
            found, rights = keys.ask(settings, dialect, key, partial(_look, report))
        told = warning(dialect, rights, key.variables.values())
        kept = owner.user is not None and sync and _keep(settings, dialect.name, owner.user, found)
        if json:
            said = {"exchange": dialect.name, "user": owner.user, **_document(found)}
            output.document({**said, "kept": kept if sync else None, "warning": told})
            if kept:
                _tell(settings, dialect.name)
            continue
        if number:
            output.line("")
        _show(dialect.name, found)
        if told:
            output.say(f"warning: {told}")
        if sync:
            told = _tell(settings, dialect.name) if kept else "not kept: what is there is newer"
            output.say(f"{dialect.name}: {len(found.positions)} positions of {owner.user} {told}")
    return 0


async def _look(report: Report | None, holder: Keyholder) -> tuple[Holdings, Rights]:
    rights = await holder.rights()
    return await holder.holdings(report), rights


def _keep(settings: Settings, exchange: str, user: str, found: Holdings) -> bool:
    from livermore.adapters.positions import write

    as_of = datetime.fromtimestamp(found.as_of / 1000, UTC)
    with open_database(settings, "positions --sync") as database:
        return database.run(write(exchange, user, found.positions, as_of))


def _tell(settings: Settings, exchange: str) -> str:
    """Have a daemon that runs look at the symbols now, not within the hour; what became of it."""
    from livermore.cli.ctl import tell

    try:
        with store.open_store(settings) as client:
            tell(client, settings, exchange, "refresh-symbols", {}, timeout=WAIT, json=True)
    except NotRunning:
        return "kept; the next daemon that runs follows their symbols"
    except LivermoreError as error:
        return f"kept; their symbols are followed within the hour ({error})"
    return "kept, their symbols are followed"


# -- for a person -----------------------------------------------------------------------------


def _show(exchange: str, found: Holdings) -> None:
    from rich.text import Text

    if not found.positions:
        output.line(f"{exchange}: no positions")
    else:
        figures = ("quantity", "price", "value", "cost", "P&L", "%")
        table = output.table(exchange, *figures, right=figures)
        for one in found.positions:
            colour = "" if one.pnl is None or not one.pnl else "green" if one.pnl > 0 else "red"
            table.add_row(
                one.symbol or one.currency,
                *(exact(amount) for amount in (one.quantity, one.price)),
                *(money(amount) for amount in (one.value, one.cost_basis)),
                Text(_signed(one.pnl), style=colour),
                Text("–" if one.pnl_percent is None else f"{one.pnl_percent:+.1f}", style=colour),
            )
        output.show(table, whole=True)
    for quote in dict.fromkeys(one.quote for one in found.positions if one.quote is not None):
        output.line(_total(quote, [one for one in found.positions if one.quote == quote]))
    if found.cash:
        told = " · ".join(f"{money(one.total)} {one.currency}" for one in found.cash)
        output.line(f"cash: {told}")
    for one in found.positions:
        if one.note and one.cost_basis is None:
            output.line(f"{one.currency}: its cost is not known: {one.note}")
        elif one.note:
            output.line(f"{one.currency}: cost {one.note}")


def _total(quote: str, some: list[Position]) -> str:
    worth = sum((one.value or Decimal(0) for one in some), Decimal(0))
    known = [one.pnl for one in some if one.pnl is not None]
    text = f"in {quote}: {money(worth)}"
    if unpriced := sum(one.value is None for one in some):
        text += f" without {unpriced} that have no price"
    if known:
        of = "" if len(known) == len(some) else f" in the {len(known)} whose cost is known"
        text += f", P&L {_signed(sum(known, Decimal(0)))}{of}"
    return text


def money(amount: Decimal | None) -> str:
    """An amount as a person reads it: cents, or where it is small, all that counts."""
    if amount is None:
        return "–"
    if amount and abs(amount) < 1:
        return plain(round(amount, 8 if abs(amount) < Decimal("0.001") else 6)) or "0"
    return f"{amount:,.2f}"


def exact(amount: Decimal | None) -> str:
    """An amount with all of its digits."""
    if amount is None:
        return "–"
    whole, _, part = f"{amount:,f}".partition(".")
    return f"{whole}.{part.rstrip('0')}".removesuffix(".")


def _signed(amount: Decimal | None) -> str:
    return "–" if amount is None else ("+" if amount > 0 else "") + money(amount)


# -- for a program ----------------------------------------------------------------------------


def _document(found: Holdings) -> dict[str, object]:
    return {
        "as_of": times.iso(found.as_of),
        "positions": [_row(one) for one in found.positions],
        "cash": [
            {
                "currency": one.currency,
                "available": plain(one.available),
                "held": plain(one.held),
                "total": plain(one.total),
            }
            for one in found.cash
        ],
    }


def _row(one: Position) -> dict[str, object]:
    return {
        "currency": one.currency,
        "symbol": one.symbol,
        "quote": one.quote,
        "quantity": plain(one.quantity),
        "held": plain(one.held),
        "price": plain(one.price),
        "value": plain(one.value),
        "average_price": plain(one.average),
        "cost_basis": plain(one.cost_basis),
        "pnl": plain(one.pnl),
        "pnl_percent": plain(one.pnl_percent),
        "note": one.note or None,
    }
