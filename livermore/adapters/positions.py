"""What users hold, in PostgreSQL, and that its symbols are followed for them.

Each function says what is to be done in a transaction, see
:meth:`livermore.adapters.postgres.Database.run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from livermore.adapters.postgres import Connection
from livermore.adapters.subscriptions import Work, hold
from livermore.adapters.users import find
from livermore.market.account import Position
from livermore.market.product import DOLLARS

DUST = Decimal(1)
"""Dollars; what is worth less is kept, but not followed."""


def followed(positions: Iterable[Position]) -> tuple[str, ...]:
    """The symbols of ``positions`` that are to be followed: all but those of dust."""
    return tuple(
        one.symbol
        for one in positions
        if one.symbol is not None
        and (one.value is None or one.quote not in DOLLARS or one.value >= DUST)
    )


def write(exchange: str, user: str, positions: Sequence[Position], as_of: datetime) -> Work[bool]:
    """``user`` holds ``positions`` on ``exchange`` and nothing else, as it was ``as_of``.

    Tells whether it was written: what is known to be newer stays. Raises
    :class:`~livermore.errors.UsageError` for a user who is not there, or not let in, and
    :class:`~livermore.errors.DatabaseUnusable` for an exchange that is not there.
    """

    def work(connection: Connection) -> bool:
        who = find(connection, user)
        # Two who do this at once: the second waits, and then sees what the first has written.
        connection.execute("SELECT 1 FROM users WHERE id = %s FOR UPDATE", [who.id])
        newer = connection.execute(
            "SELECT 1 FROM positions WHERE user_id = %s AND exchange_id = %s AND as_of > %s",
            [who.id, exchange, as_of],
        ).fetchone()
        if newer is not None:
            return False
        hold(exchange, user, followed(positions))(connection)
        connection.execute(
            "DELETE FROM positions WHERE user_id = %s AND exchange_id = %s", [who.id, exchange]
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO positions (user_id, exchange_id, asset, symbol, quantity, held, price,"
                " average_price, cost_basis, unrealized_pnl, currency, as_of)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        *(who.id, exchange, one.currency, one.symbol, one.quantity, one.held),
                        *(one.price, one.average, one.cost_basis, one.pnl, one.quote, as_of),
                    )
                    for one in positions
                ],
            )
        return True

    return work
