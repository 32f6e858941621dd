"""Whose key a command takes, out of which variables, and asking an exchange with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import attrs
import typer

from livermore.cli.database import open_database
from livermore.cli.options import Place, known_exchange
from livermore.config import Settings, variables
from livermore.errors import ConfigurationError

if TYPE_CHECKING:
    from livermore.adapters.users import User
    from livermore.dialect import Dialect
    from livermore.runtime.account import Key, Keyholder

T = TypeVar("T")

ExchangeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="EXCHANGE", help="Such as coinbase.  [default: all whose variables are set]"
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", metavar="USER", help="Whose key.  [default: the only user's]"),
]
RestUrl = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Another REST server, such as a simulator; of several exchanges coinbase=URL.",
    ),
]


@attrs.frozen
class Owner:
    """Whose keys they are, and the variables he named: exchange -> part -> name."""

    user: str | None
    named: Mapping[str, Mapping[str, str]]

    def parts(self, dialect: Dialect) -> dict[str, str]:
        """Part of a key -> its variable."""
        from livermore.runtime.account import variables_of

        return variables_of(dialect, self.named.get(dialect.name, {}))

    def key(self, dialect: Dialect) -> Key:
        """Raises :class:`ConfigurationError` where it is not set, or no key."""
        from livermore.runtime.account import key_of

        named = self.named.get(dialect.name, {})
        return key_of(dialect, named, variables(self.parts(dialect).values()))

    def has(self, dialect: Dialect) -> bool:
        """Whether any of its variables is set."""
        return any(value.strip() for value in variables(self.parts(dialect).values()).values())


def settings_of(
    place: Place,
    exchange: str | None,
    user: str | None,
    rest_url: Sequence[str] | None,
    country: str | None,
) -> Settings:
    """The settings of a command that asks ``exchange``, or all whose variables are set."""
    settings = place.settings(user=user, rest_url=rest_url or None, country=country)
    if exchange is not None:
        settings.check_urls([known_exchange(exchange)])
    return settings


def owner_of(settings: Settings, command: str, *, needed: bool = False) -> Owner:
    """The user a command means. Without a database, or users: nobody, and the usual variables.

    Raises :class:`ConfigurationError` where one is ``needed`` or named, and there is no database.
    """
    if settings.database_url is None and settings.user is None and not needed:
        return Owner(None, {})
    from livermore.adapters import users
    from livermore.adapters.postgres import Connection

    def look(connection: Connection) -> User | None:
        if settings.user is None and not needed and not users.everyone(connection, enabled=True):
            return None
        return users.chosen(connection, settings.user)

    with open_database(settings, command) as database:
        user = database.run(look)
    if user is None:
        return Owner(None, {})
    from livermore.exchanges import DIALECTS
    from livermore.profile.contents import credential_names
    from livermore.profile.document import parse

    said = parse(dict(user.settings))
    return Owner(user.sub, {name: credential_names(said, name) for name in DIALECTS})


def chosen(owner: Owner, exchange: str | None) -> Sequence[Dialect]:
    """The exchange that was named, or all of which a variable is set.

    Raises :class:`ConfigurationError` where there is none.
    """
    from livermore.exchanges import DIALECTS, dialect

    if exchange is not None:
        return [dialect(known_exchange(exchange))]
    asked = [one for one in DIALECTS.values() if one.account is not None]
    if found := [one for one in asked if owner.has(one)]:
        return found
    first, *others = asked
    raise ConfigurationError(
        f"no key is set: put one of {first.title} that may only view into "
        f"{' and '.join(owner.parts(first).values())}"
        f" (others: {', '.join(one.name for one in others)}; see: livermore credentials check)"
    )


def ask(
    settings: Settings, dialect: Dialect, key: Key, work: Callable[[Keyholder], Awaitable[T]]
) -> T:
    """What ``work`` finds out with ``key``. Raises :class:`LivermoreError`."""
    import trio

    from livermore import daemon
    from livermore.adapters.bans import Bans
    from livermore.runtime.account import keyholder

    daemon.check_served(dialect, settings.country)
    url = settings.of(dialect.name).rest_url or dialect.rest_url
    bans = Bans.of(settings.state_dir, dialect.name)

    async def run() -> T:
        async with (
            daemon.open_store(settings) as redis,
            keyholder(redis, dialect, url, key, bans) as holder,
        ):
            return await work(holder)

    return trio.run(run)


def plain(value: Any) -> str | None:
    """An amount as JSON has it: text, exact, without an exponent."""
    if value is None:
        return None
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
