"""Who follows what, and what an exchange lists, in PostgreSQL.

Each function says what is to be done in a transaction, see
:meth:`livermore.adapters.postgres.Database.run`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from livermore.errors import DatabaseUnusable, UnknownSymbol, UsageError
from livermore.market.chosen import MANUAL, POSITION, SETTINGS, Subscription
from livermore.market.product import Product

if TYPE_CHECKING:
    from livermore.adapters.postgres import Connection

T = TypeVar("T")
Work: TypeAlias = "Callable[[Connection], T]"

_SYMBOL = re.compile(r"[^\s:,@{}*?/-]+(-[^\s:,@{}*?/-]+)+")
"""What the table takes."""


def read(exchange: str) -> Work[tuple[Subscription, ...]]:
    """What the enabled users follow of ``exchange``."""

    def work(connection: Connection) -> tuple[Subscription, ...]:
        rows = connection.execute(
            "SELECT identity_sub, symbol, source FROM user_symbol_subscriptions"
            " JOIN users ON users.id = user_id WHERE exchange_id = %s AND enabled"
            " ORDER BY 1, 2, 3",
            [exchange],
        )
        return tuple(Subscription(*row) for row in rows)

    return work


def add(exchange: str, user: str, symbols: Sequence[str]) -> Work[None]:
    """``user`` follows ``symbols``, because a person says so. Raises :class:`UsageError`."""

    def work(connection: Connection) -> None:
        _check_exchange(connection, exchange)
        connection.execute(
            "INSERT INTO user_symbol_subscriptions (user_id, exchange_id, symbol, source)"
            " SELECT %s, %s, symbol, %s FROM unnest(%s::text[]) AS symbol ON CONFLICT DO NOTHING",
            [_user_id(connection, user), exchange, MANUAL, list(symbols)],
        )

    return work


def remove(exchange: str, user: str, symbols: Sequence[str]) -> Work[None]:
    """``user`` does not follow ``symbols`` any more: all of them or none.

    Raises :class:`UnknownSymbol` for one that was not followed, and :class:`UsageError` for one
    that is followed because of a position.
    """

    def work(connection: Connection) -> None:
        rows = connection.execute(
            "DELETE FROM user_symbol_subscriptions WHERE user_id = %s AND exchange_id = %s"
            " AND symbol = ANY(%s) AND source = %s RETURNING symbol",
            [_user_id(connection, user), exchange, list(symbols), MANUAL],
        )
        left = sorted(set(symbols) - {symbol for (symbol,) in rows})
        if not left:
            return
        found = connection.execute(
            "SELECT source FROM user_symbol_subscriptions JOIN users ON users.id = user_id"
            " WHERE identity_sub = %s AND exchange_id = %s AND symbol = %s",
            [user, exchange, left[0]],
        )
        sources = {source for (source,) in found}
        if SETTINGS in sources:
            raise UsageError(
                f"{left[0]} stands in the settings of {user}: livermore settings edit --user {user}"
            )
        if POSITION in sources:
            raise UsageError(f"{user} has a position in {left[0]}: it is followed as long as that")
        raise UnknownSymbol(f"{user} does not follow {left[0]} on {exchange}")

    return work


def hold(exchange: str, user: str, symbols: Iterable[str]) -> Work[None]:
    """``user`` has positions in ``symbols`` and in no others. Raises :class:`UsageError`."""
    wanted = sorted(set(symbols))

    def work(connection: Connection) -> None:
        _check_exchange(connection, exchange)
        who = _user_id(connection, user)
        connection.execute(
            "DELETE FROM user_symbol_subscriptions WHERE user_id = %s AND exchange_id = %s"
            " AND source = %s AND symbol <> ALL(%s)",
            [who, exchange, POSITION, wanted],
        )
        connection.execute(
            "INSERT INTO user_symbol_subscriptions (user_id, exchange_id, symbol, source)"
            " SELECT %s, %s, symbol, %s FROM unnest(%s::text[]) AS symbol ON CONFLICT DO NOTHING",
            [who, exchange, POSITION, wanted],
        )

    return work


def write_listing(
    exchange: str, products: Iterable[Product], ranks: Mapping[str, int]
) -> Work[None]:
    """What ``exchange`` lists now, with the rank of those that have one; others are not active.

    Raises :class:`DatabaseUnusable` where the database does not know the exchange.
    """
    rows = [one for one in products if _SYMBOL.fullmatch(one.symbol)]

    def work(connection: Connection) -> None:
        _check_exchange(connection, exchange)
        connection.execute(
            "INSERT INTO exchange_symbols AS known (exchange_id, symbol, native, base, quote,"
            " quote_volume_24h, price, rank, active, refreshed_at)"
            " SELECT %s, listed.*, now() FROM unnest(%s::text[], %s::text[], %s::text[],"
            " %s::text[], %s::float8[], %s::float8[], %s::int[], %s::bool[]) AS listed"
            " ON CONFLICT (exchange_id, symbol) DO UPDATE SET native = excluded.native,"
            " base = excluded.base, quote = excluded.quote,"
            " quote_volume_24h = excluded.quote_volume_24h, price = excluded.price,"
            " rank = excluded.rank, active = excluded.active,"
            " refreshed_at = excluded.refreshed_at",
            [
                exchange,
                [one.symbol for one in rows],
                [one.native for one in rows],
                [one.base for one in rows],
                [one.quote for one in rows],
                [one.quote_volume for one in rows],
                [one.price for one in rows],
                [ranks.get(one.symbol) for one in rows],
                [one.tradable for one in rows],
            ],
        )
        connection.execute(
            "UPDATE exchange_symbols SET active = false, rank = NULL"
            " WHERE exchange_id = %s AND symbol <> ALL(%s) AND active",
            [exchange, [one.symbol for one in rows]],
        )

    return work


def _check_exchange(connection: Connection, exchange: str) -> None:
    found = connection.execute("SELECT 1 FROM exchanges WHERE id = %s", [exchange]).fetchone()
    if found is None:
        raise DatabaseUnusable(f"the database does not know {exchange}: run livermore db seed")


def _user_id(connection: Connection, user: str) -> int:
    """Raises :class:`UsageError` where there is no such user, or none who may use this."""
    from livermore.adapters import users

    found = users.find(connection, user)
    if not found.enabled:
        raise UsageError(f"user {user} is disabled: livermore users enable {user}")
    return found.id
