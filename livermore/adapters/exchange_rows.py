"""The rows of exchanges: facts, as the dialects know them.

What the operator knows better is in another table, ``exchange_overrides``, which nothing here
writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from livermore.adapters.postgres import Connection
from livermore.dialect import Dialect


@attrs.frozen
class Override:
    """What the operator knows better of one exchange; None: the fact holds."""

    exchange_id: str
    websocket_url: str | None = None
    rest_url: str | None = None
    allowed: bool | None = None
    active: bool | None = None
    note: str | None = None


def overrides(connection: Connection) -> Mapping[str, Override]:
    """By exchange."""
    columns = ", ".join(field.name for field in attrs.fields(Override))
    with connection.cursor(row_factory=class_row(Override)) as cursor:
        rows = cursor.execute(f"SELECT {columns} FROM exchange_overrides".encode()).fetchall()
    return {row.exchange_id: row for row in rows}


def facts(dialect: Dialect, country: str | None) -> dict[str, Any]:
    """The row of one exchange, by column; ``country`` is where we are, where that was said."""
    geo, fees = dialect.geo, dialect.fees
    return {
        "id": dialect.name,
        "title": dialect.title,
        "websocket_url": dialect.websocket_url,
        "rest_url": dialect.rest_url,
        "documentation": dialect.documentation or None,
        "timeframes": [str(timeframe) for timeframe in dialect.timeframe_names],
        "limits": Jsonb(
            {
                "symbols_per_connection": dialect.products_per_connection,
                "streams_per_connection": dialect.streams_per_connection,
                "messages_per_second": dialect.messages_per_second,
                "messages_shared": dialect.messages_shared,
                "maximum_age": dialect.maximum_age,
                "rest_weight": dialect.rest_per_second * dialect.rest_window,
                "rest_window": dialect.rest_window,
                "rest_rows": dialect.rest_rows,
            }
        ),
        "maker_fee": fees.maker,
        "taker_fee": fees.taker,
        "fee_note": fees.note or None,
        "geo_refuses": sorted(geo.refuses),
        "geo_only": sorted(geo.only),
        "geo_alternative": geo.alternative or None,
        "geo_note": geo.note or None,
        "country": country,
        "allowed": None if country is None else geo.serves(country),
        "active": True,
    }


def seed(
    connection: Connection, dialects: Iterable[Dialect], country: str | None
) -> Mapping[str, str]:
    """Write the rows; by exchange what became of each: new, changed, same or retired.

    An exchange that is not spoken any more is retired (not active): others may refer to it.
    """
    before = {name for (name,) in connection.execute("SELECT id FROM exchanges FOR UPDATE")}
    done = {}
    for dialect in dialects:
        row = facts(dialect, country)
        columns, values = ", ".join(row), ", ".join(["%s"] * len(row))
        changes = ", ".join(f"{name} = excluded.{name}" for name in row)
        old = ", ".join(f"exchanges.{name}" for name in row)
        new = ", ".join(f"excluded.{name}" for name in row)
        written = connection.execute(
            f"INSERT INTO exchanges ({columns}) VALUES ({values}) ON CONFLICT (id) "
            f"DO UPDATE SET {changes}, seeded_at = now() "
            f"WHERE ({old}) IS DISTINCT FROM ({new})".encode(),
            list(row.values()),
        ).rowcount
        done[dialect.name] = ("changed" if dialect.name in before else "new") if written else "same"
    retired = connection.execute(
        "UPDATE exchanges SET active = false, seeded_at = now() "
        "WHERE active AND id <> ALL(%s) RETURNING id",
        [list(done)],
    )
    return done | {name: "retired" for (name,) in retired}
