"""``livermore fees``: what an account pays, as the exchange tells it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import typer

from livermore.cli import keys, output
from livermore.cli.keys import ExchangeArgument, RestUrl, UserOption, plain
from livermore.cli.options import Country, Json, Place, placed
from livermore.cli.positions import money

if TYPE_CHECKING:
    from livermore.market.account import FeeTier, Rights
    from livermore.runtime.account import Keyholder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "fees",
        epilog="Example: `livermore fees coinbase`, `livermore fees --json`. "
        "The key is taken from environment variables, see: livermore credentials check.",
    )(placed(fees))


def fees(
    place: Place,
    exchange: ExchangeArgument = None,
    user: UserOption = None,
    rest_url: RestUrl = None,
    country: Country = None,
    json: Json = False,
) -> int:
    """Show the fees that you pay at the exchanges, and what you traded in 30 days."""
    from livermore.runtime.account import warning

    settings = keys.settings_of(place, exchange, user, rest_url, country)
    owner = keys.owner_of(settings, "fees")
    for dialect in keys.chosen(owner, exchange):
        key = owner.key(dialect)
        found, rights = keys.ask(settings, dialect, key, _look)
        told = warning(dialect, rights, key.variables.values())
        if json:
            output.document(
                {
                    "exchange": dialect.name,
                    "user": owner.user,
                    "tier": found.name or None,
                    "maker": plain(found.maker),
                    "taker": plain(found.taker),
                    "volume_30d": plain(found.volume),
                    "fees_30d": plain(found.paid),
                    "currency": found.currency if found.volume is not None else None,
                    "warning": told,
                }
            )
            continue
        output.line(f"{dialect.name}: {_told(found)}")
        if told:
            output.say(f"warning: {told}")
    return 0


async def _look(holder: Keyholder) -> tuple[FeeTier, Rights]:
    rights = await holder.rights()
    return await holder.fees(), rights


def _told(found: FeeTier) -> str:
    parts = [f"maker {_percent(found.maker)}, taker {_percent(found.taker)}"]
    if found.name:
        parts.append(f"tier {found.name}")
    if found.volume is not None:
        text = f"{money(found.volume)} {found.currency} traded in 30 days"
        if found.paid is not None:
            text += f", {money(found.paid)} {found.currency} of fees"
        parts.append(text)
    return "; ".join(parts)


def _percent(share: Decimal | None) -> str:
    return "not told" if share is None else f"{plain(100 * share)} %"
