"""What a schema of PostgreSQL holds, as far as ``schema.sql`` can say it.

Two catalogues are equal where the databases behave alike: the order of columns, owners, rights and
comments do not count. Tables that ``schema.sql`` does not name are somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from livermore.adapters.postgres import Connection


@attrs.frozen
class Column:
    """A column; ``default`` is an expression, ``identity`` ALWAYS, BY DEFAULT or empty."""

    type: str
    not_null: bool
    default: str | None
    identity: str

    @property
    def words(self) -> str:
        """As DDL, behind its name."""
        parts = [self.type]
        if self.identity:
            parts.append(f"GENERATED {self.identity} AS IDENTITY")
        if self.default is not None:
            parts.append(f"DEFAULT {self.default}")
        return " ".join(parts + ["NOT NULL"] * self.not_null)


@attrs.frozen
class Table:
    """A table: its columns, constraints and further indexes, by name."""

    columns: Mapping[str, Column]
    constraints: Mapping[str, str]
    """As ``ALTER TABLE … ADD CONSTRAINT name`` takes them."""
    indexes: Mapping[str, str]
    """Those no constraint made, as the statements that make them."""


Catalogue = Mapping[str, Table]


def read_catalogue(connection: Connection, namespace: int) -> Catalogue:
    """The tables in the schema with the oid ``namespace``, which must be first in the path."""
    tables: dict[str, tuple[dict[str, Column], dict[str, str], dict[str, str]]] = {
        name: ({}, {}, {}) for (name,) in connection.execute(TABLES, [namespace])
    }
    for table, name, *what in connection.execute(COLUMNS, [namespace]):
        tables[table][0][name] = Column(*what)
    for table, name, definition in connection.execute(CONSTRAINTS, [namespace]):
        tables[table][1][name] = definition
    for table, name, definition, valid in connection.execute(INDEXES, [namespace]):
        tables[table][2][name] = unqualified(definition) + ("" if valid else " -- invalid")
    return {name: Table(*parts) for name, parts in tables.items()}


def unqualified(index: str) -> str:
    """The statement of an index without the schema, which PostgreSQL always names."""
    return re.sub(r' ON (?:ONLY )?(?:"[^"]+"|[^ ".]+)\.', " ON ", index, count=1)


def namespace_of(connection: Connection, which: str) -> int | None:
    """The oid of the schema that fits a condition; None where there is none."""
    row = connection.execute(
        f"SELECT oid::int8 FROM pg_namespace WHERE {which}".encode()
    ).fetchone()
    return row[0] if row else None


TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = %s::int8::oid AND relkind IN ('r', 'p') ORDER BY relname
"""
COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    CASE a.attgenerated WHEN '' THEN '' ELSE 'generated: ' END || pg_get_expr(d.adbin, d.adrelid),
    CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' ELSE '' END
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = %s::int8::oid AND c.relkind IN ('r', 'p')
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
CONSTRAINTS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = %s::int8::oid AND c.relkind IN ('r', 'p')
    AND k.contype IN ('c', 'p', 'u', 'f', 'x')
ORDER BY c.relname, array_position(ARRAY['p', 'u', 'x', 'c', 'f'], k.contype::text), k.conname
"""
INDEXES = """
SELECT c.relname, n.relname, pg_get_indexdef(i.indexrelid), i.indisvalid
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class n ON n.oid = i.indexrelid
WHERE c.relnamespace = %s::int8::oid AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (
        SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
    )
ORDER BY c.relname, n.relname
"""
