"""``livermore credentials``: which keys are set, and what exchanges say to them; never a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import typer

from livermore.cli import keys, output
from livermore.cli.keys import ExchangeArgument, Owner, RestUrl, UserOption
from livermore.cli.options import Country, Json, Place, known_exchange, placed
from livermore.errors import ConfigurationError, KeyRefused, LivermoreError, exit_code

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.dialect import Dialect
    from livermore.market.account import Rights
    from livermore.runtime.account import Keyholder

UNUSABLE = 4


@attrs.frozen(kw_only=True)
class Found:
    """What is known of the key of one exchange; ``accepted`` is None where nobody was asked."""

    exchange: str
    variables: Mapping[str, str]
    unset: tuple[str, ...]
    accepted: bool | None = None
    rights: Rights | None = None
    problem: str | None = None
    warning: str | None = None
    code: int = 0

    @property
    def missing(self) -> bool:
        """Whether nothing of it is set."""
        return len(self.unset) == len(self.variables)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(rich_markup_mode="markdown")
    group.callback(epilog="Example: `livermore credentials check`.")(_about)
    group.command(
        "check",
        epilog="Example: `livermore credentials check`, `livermore credentials check coinbase "
        "--json`. Exit code 4 where a key is missing or not accepted, 1 where an exchange did not "
        "answer. Values are never shown.",
    )(placed(check))
    app.add_typer(group, name="credentials")


def _about() -> None:
    """Keys of exchanges: only the names of their variables are known, never their values."""


def check(
    place: Place,
    exchange: ExchangeArgument = None,
    user: UserOption = None,
    rest_url: RestUrl = None,
    country: Country = None,
    json: Json = False,
) -> int:
    """Say which variables are set, whether the exchange accepts them, and for what."""
    from livermore.exchanges import DIALECTS, dialect

    settings = keys.settings_of(place, exchange, user, rest_url, country)
    owner = keys.owner_of(settings, "credentials check")
    known = [one for one in DIALECTS.values() if one.account is not None]
    chosen = known if exchange is None else [dialect(known_exchange(exchange))]
    found = [_checked(settings, owner, one) for one in chosen]
    if json:
        output.document([_document(one, owner) for one in found])
    else:
        _show(found)
    if exchange is not None or all(one.missing for one in found):
        return max(UNUSABLE if one.missing else one.code for one in found)
    return max(one.code for one in found)


def _checked(settings: Settings, owner: Owner, dialect: Dialect) -> Found:
    from livermore.config import variables
    from livermore.runtime.account import warning

    names = owner.parts(dialect)
    there = variables(names.values())
    unset = tuple(name for name in names.values() if not there.get(name, "").strip())
    found = Found(exchange=dialect.name, variables=names, unset=unset)
    if found.missing:
        return found
    try:
        key = owner.key(dialect)
    except ConfigurationError as error:
        return attrs.evolve(found, problem=str(error), code=UNUSABLE)
    try:
        rights = keys.ask(settings, dialect, key, _look)
    except KeyRefused as error:
        return attrs.evolve(found, accepted=False, problem=str(error), code=UNUSABLE)
    except LivermoreError as error:
        return attrs.evolve(found, problem=str(error), code=exit_code(error))
    told = warning(dialect, rights, names.values())
    return attrs.evolve(found, accepted=True, rights=rights, warning=told)


async def _look(holder: Keyholder) -> Rights:
    rights = await holder.rights()
    await holder.fees()  # what it may view it must also be able to
    return rights


def _show(found: list[Found]) -> None:
    from rich.text import Text

    table = output.table("exchange", "variables", "accepted", "may", loose=("variables", "may"))
    for one in found:
        names = ", ".join(
            f"{name} {'not set' if name in one.unset else 'set'}" for name in one.variables.values()
        )
        word, colour = {True: ("yes", "green"), False: ("no", "red"), None: ("–", "")}[one.accepted]
        table.add_row(one.exchange, names, Text(word, style=colour), _may(one.rights))
    output.show(table)
    for one in found:
        if one.problem:
            output.say(one.problem)
        if one.warning:
            output.say(f"warning: {one.warning}")


def _may(rights: Rights | None) -> str:
    if rights is None:
        return "–"
    told = {"view": rights.view, "trade": rights.trade, "transfer": rights.transfer}
    may = ", ".join(name for name, allowed in told.items() if allowed)
    unknown = [name for name, allowed in told.items() if allowed is None]
    return may + (f"; it does not say whether {' or '.join(unknown)}" if unknown else "")


def _document(one: Found, owner: Owner) -> dict[str, Any]:
    return {
        "exchange": one.exchange,
        "user": owner.user,
        "variables": {
            part: {"name": name, "set": name not in one.unset}
            for part, name in one.variables.items()
        },
        "accepted": one.accepted,
        "rights": None if one.rights is None else attrs.asdict(one.rights),
        "problem": one.problem,
        "warning": one.warning,
    }
