"""Positions of users in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from livermore.adapters import subscriptions, users
from livermore.adapters.positions import write
from livermore.adapters.postgres import Connection, Database
from livermore.errors import DatabaseUnusable, UsageError
from livermore.market.account import Position

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


@pytest.fixture
def database(prepared_url: str) -> Iterator[Database]:
    found = Database(prepared_url)

    def seed(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO exchanges (id, title, websocket_url, rest_url, timeframes)"
            " VALUES ('coinbase', 'Coinbase', 'wss://x', 'https://x', '{5m}')"
        )
        users.add(connection, "ada")
        users.add(connection, "bob")

    found.run(seed)
    yield found
    found.close()


def position(currency: str, quantity: str = "2", **more: Any) -> Position:
    told = {"symbol": f"{currency}-USD", "quote": "USD", "price": Decimal(10), **more}
    return Position(currency=currency, quantity=Decimal(quantity), **told)


def rows(database: Database, user: str = "ada") -> list[tuple[Any, ...]]:
    return database.run(
        lambda connection: connection.execute(
            "SELECT asset, symbol, quantity, held, price, average_price, cost_basis,"
            " unrealized_pnl, currency, as_of FROM positions JOIN users ON users.id = user_id"
            " WHERE identity_sub = %s ORDER BY asset",
            [user],
        ).fetchall()
    )


def followed(database: Database, source: str) -> Sequence[str]:
    found = database.run(subscriptions.read("coinbase"))
    return [one.symbol for one in found if (one.user, one.source) == ("ada", source)]


def test_positions_are_kept_as_they_were_told_and_followed(database: Database):
    whole = position("BTC", held=Decimal("0.5"), cost_basis=Decimal(15))
    unknown = position("ETH", note="it was deposited")
    unlisted = Position(currency="OLD", quantity=Decimal("0.1"), symbol=None)
    assert database.run(write("coinbase", "ada", [whole, unknown, unlisted], NOW)) is True
    amounts = tuple(map(Decimal, ("2", "0.5", "10", "7.5", "15", "5")))
    assert rows(database) == [
        ("BTC", "BTC-USD", *amounts, "USD", NOW),
        ("ETH", "ETH-USD", Decimal(2), Decimal(0), Decimal(10), None, None, None, "USD", NOW),
        ("OLD", None, Decimal("0.1"), Decimal(0), None, None, None, None, None, NOW),
    ]
    assert followed(database, "position") == ["BTC-USD", "ETH-USD"]
    assert rows(database, "bob") == []


def test_what_is_not_held_any_more_is_gone_and_what_was_added_by_hand_stays(database: Database):
    database.run(subscriptions.add("coinbase", "ada", ["BTC-USD", "DOGE-USD"]))
    database.run(write("coinbase", "ada", [position("BTC"), position("ETH")], NOW))
    database.run(write("coinbase", "ada", [position("ETH", "3")], NOW + timedelta(seconds=1)))
    assert [(row[0], row[2]) for row in rows(database)] == [("ETH", Decimal(3))]
    assert followed(database, "position") == ["ETH-USD"]
    assert followed(database, "manual") == ["BTC-USD", "DOGE-USD"]


def test_what_is_older_than_what_is_there_changes_nothing(database: Database):
    database.run(write("coinbase", "ada", [position("BTC")], NOW))
    before = NOW - timedelta(milliseconds=1)
    assert database.run(write("coinbase", "ada", [position("ETH")], before)) is False
    assert [row[0] for row in rows(database)] == ["BTC"]
    assert followed(database, "position") == ["BTC-USD"]


def test_dust_is_kept_and_not_followed(database: Database):
    some = [
        position("DUST", "0.0999"),
        position("LEAST", "0.1"),
        position("NOPRICE", "0.0001", price=None),
        position("COIN", "0.0001", symbol="COIN-BTC", quote="BTC"),
    ]
    database.run(write("coinbase", "ada", some, NOW))
    assert [row[0] for row in rows(database)] == ["COIN", "DUST", "LEAST", "NOPRICE"]
    assert followed(database, "position") == ["COIN-BTC", "LEAST-USD", "NOPRICE-USD"]


def test_nobody_who_is_not_there_or_not_let_in_gets_positions(database: Database):
    with pytest.raises(UsageError, match="there is no user eve"):
        database.run(write("coinbase", "eve", [position("BTC")], NOW))
    database.run(lambda connection: users.enable(connection, "bob", enabled=False))
    with pytest.raises(UsageError, match="disabled"):
        database.run(write("coinbase", "bob", [position("BTC")], NOW))
    with pytest.raises(DatabaseUnusable, match="db seed"):
        database.run(write("binance", "ada", [position("BTC")], NOW))
    assert rows(database) == rows(database, "bob") == []
