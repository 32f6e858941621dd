"""The schema a database should have, the one it has, and the way from one to the other.

``schema.sql`` is the only source: it is run in a throw-away schema (that of temporary tables, which
needs no right to create anything), read back from PostgreSQL's own catalogue, and rolled back. Both
catalogues then speak the same words.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

import livermore
from livermore.adapters.catalogue import Catalogue, Column, Table, namespace_of, read_catalogue
from livermore.adapters.postgres import Connection, Database
from livermore.errors import DatabaseError, DatabaseUnusable

LOCK = 0x4C49564D
"""Of the advisory lock under which a schema is changed; it must not change."""


@attrs.frozen
class Step:
    """A statement on the way."""

    statement: str
    destructive: bool = False
    """Whether it loses data, or a rule that data is held to."""
    extra: bool = False
    """Whether it only removes what the database has beyond ours: one can live with that."""


def desired_schema() -> str:
    """``schema.sql``: in the package where that was built, else at the root of the checkout."""
    built = importlib.resources.files("livermore.adapters").joinpath("schema.sql")
    if built.is_file():
        return built.read_text("utf-8")
    return Path(livermore.__file__).parents[1].joinpath("schema.sql").read_text("utf-8")


def drift(connection: Connection) -> list[Step]:
    """What would bring the database to the desired schema; nothing is changed."""
    here = namespace_of(connection, "nspname = current_schema()")
    if here is None:
        raise DatabaseUnusable(
            "the search_path names no schema that exists: CREATE SCHEMA it, or mend search_path"
        )
    actual = read_catalogue(connection, here)
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path TO pg_temp")
        connection.execute(desired_schema().encode())
        temporary = namespace_of(connection, "oid = pg_my_temp_schema()")
        assert temporary is not None
        desired = read_catalogue(connection, temporary)
    return list(plan(actual, desired, statements(desired_schema())))


def apply(connection: Connection, *, force: bool = False) -> list[Step]:
    """Bring the database to the desired schema, unless that would destroy something.

    Returns the steps; where one is destructive and ``force`` is not given, none was taken. Whoever
    else applies at the same time waits.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    steps = drift(connection)
    if force or not any(step.destructive for step in steps):
        for step in steps:
            connection.execute(step.statement.encode())
        if left := drift(connection) if steps else ():
            raise DatabaseError(f"the schema cannot be reached: {left[0].statement} is left over")
    return steps


async def check_database(url: str, exchanges: Sequence[str]) -> None:
    """Whether a daemon of ``exchanges`` can use the database at ``url``, before anything starts.

    Raises :class:`DatabaseError` where it does not answer, :class:`DatabaseUnusable` where it lacks
    what we need; both say what to do.
    """
    database = Database(url)
    try:
        await database.run_in_thread(lambda connection: check(connection, exchanges))
    finally:
        database.close()


def check(connection: Connection, exchanges: Sequence[str]) -> list[Step]:
    """The drift one can live with; raises :class:`DatabaseUnusable` for what keeps us from working.

    ``exchanges`` are those whose rows are needed.
    """
    steps = drift(connection)
    needed = [step for step in steps if not step.extra]
    if needed:
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        first = " ".join(needed[0].statement.partition("(")[0].split())
        raise DatabaseUnusable(
            f"the database lacks what this version needs ({first}{more}): run livermore db apply"
        )
    known = {name for (name,) in connection.execute("SELECT id FROM exchanges")}
    if missing := [name for name in exchanges if name not in known]:
        raise DatabaseUnusable(
            f"the database has no row of {', '.join(missing)}: run livermore db seed"
        )
    return steps


def statements(text: str) -> Mapping[str, str]:
    """The statements of ``schema.sql`` by the name of the table or index that they create."""
    bare = re.sub(r"^\s*--.*\n", "", text, flags=re.MULTILINE)
    found = {}
    for statement in re.split(r";\s*(?:\n|$)", bare):
        name = re.match(r"\s*CREATE (?:TABLE|(?:UNIQUE )?INDEX) (\w+)", statement)
        if name is not None:
            found[name[1]] = statement.strip()
    return found


def plan(actual: Catalogue, desired: Catalogue, create: Mapping[str, str]) -> Iterator[Step]:
    """The steps from one to the other, in an order in which they can be taken."""
    known = [
        (name, actual[name], desired[name]) for name in create if name in desired.keys() & actual
    ]
    for name, old, new in known:
        yield from _removed(name, old, new)
    for name, old, new in known:
        yield from _changed_columns(name, old, new)
    yield from (Step(create[name]) for name in create if name in desired.keys() - actual)
    for foreign in (False, True):  # what foreign keys refer to comes before them
        for name, old, new in known:
            for constraint, words in new.constraints.items():
                if (
                    words.startswith("FOREIGN KEY") is foreign
                    and old.constraints.get(constraint) != words
                ):
                    yield Step(f"ALTER TABLE {name} ADD CONSTRAINT {constraint} {words}")
    for name, new in desired.items():
        old_indexes = actual[name].indexes if name in actual else {}
        for index, words in new.indexes.items():
            if old_indexes.get(index) != words:
                yield Step(create.get(index, words))


def _removed(name: str, old: Table, new: Table) -> Iterator[Step]:
    for index, words in old.indexes.items():
        if new.indexes.get(index) != words:
            yield Step(f"DROP INDEX {quoted(index)}", True, index not in new.indexes)
    for constraint, words in reversed(list(old.constraints.items())):
        if new.constraints.get(constraint) != words:
            drop = f"ALTER TABLE {name} DROP CONSTRAINT {quoted(constraint)}"
            yield Step(drop, True, constraint not in new.constraints)
    for column in old.columns:
        if column not in new.columns:
            yield Step(f"ALTER TABLE {name} DROP COLUMN {quoted(column)}", True, True)


def _changed_columns(name: str, old: Table, new: Table) -> Iterator[Step]:
    for column, wanted in new.columns.items():
        if column not in old.columns:
            yield Step(f"ALTER TABLE {name} ADD COLUMN {column} {wanted.words}")
        elif old.columns[column] != wanted:
            alter = f"ALTER TABLE {name} ALTER COLUMN {column}"
            for words, destructive in _altered(column, old.columns[column], wanted):
                yield Step(f"{alter} {words}", destructive)


def _altered(column: str, old: Column, new: Column) -> Iterator[tuple[str, bool]]:
    if old.identity and not new.identity:
        yield "DROP IDENTITY", True
    if old.default is not None and new.default is None:
        yield "DROP DEFAULT", True
    if old.type != new.type:
        yield f"TYPE {new.type} USING {column}::{new.type}", True
    if new.default is not None and new.default != old.default:
        yield f"SET DEFAULT {new.default}", False
    if new.not_null and not old.not_null:
        yield "SET NOT NULL", False
    if old.not_null and not new.not_null:
        yield "DROP NOT NULL", True
    if new.identity and not old.identity:
        yield f"ADD GENERATED {new.identity} AS IDENTITY", False
    elif new.identity != old.identity:
        yield f"SET GENERATED {new.identity}", False


def quoted(name: str) -> str:
    """A name that others may have chosen, as SQL needs it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
