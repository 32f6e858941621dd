"""Users and their settings in PostgreSQL. Functions of a connection, for ``Database.run``.

Settings are a document that is read elsewhere; here it is JSON. It changes by compare-and-set, and
every change is kept with who made it. What other tables must know of it (exchanges with the names
of their credentials' variables, symbols) is written in the same transaction.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from psycopg import errors
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from livermore.adapters.postgres import Connection
from livermore.errors import Conflict, DatabaseUnusable, UsageError

ROLES = ("user", "admin")


@attrs.frozen(kw_only=True)
class User:
    """A subject of an identity provider."""

    id: int
    provider: str
    sub: str
    """In keys and channels of Redis this is the user."""
    role: str
    enabled: bool
    settings: Mapping[str, Any]
    """The document, perhaps of an older form."""
    revision: int
    """How often the settings were changed."""
    created_at: datetime
    updated_at: datetime
    follows: Sequence[Sequence[str]] = ()
    """Exchange and symbol of all that is followed for this user, each once."""

    def symbols(self, exchange: str) -> frozenset[str]:
        """What is followed for this user on ``exchange``."""
        return frozenset(symbol for where, symbol in self.follows if where == exchange)


@attrs.frozen(kw_only=True)
class Revision:
    """The settings after a change."""

    revision: int
    settings: Mapping[str, Any]
    changed_at: datetime
    changed_by: str
    what: str


@attrs.frozen(kw_only=True)
class Use:
    """What a user's settings say of an exchange; names of variables, None where none is named."""

    exchange: str
    enabled: bool
    key: str | None = None
    secret: str | None = None
    passphrase: str | None = None


_SELECT = """
    SELECT id, identity_provider AS provider, identity_sub AS sub, role, enabled, settings,
           settings_revision AS revision, created_at, updated_at,
           COALESCE((SELECT jsonb_agg(DISTINCT jsonb_build_array(exchange_id, symbol))
                     FROM user_symbol_subscriptions WHERE user_id = users.id), '[]') AS follows
    FROM users"""


def everyone(connection: Connection, *, enabled: bool = False) -> list[User]:
    """All users, or the ``enabled`` ones, oldest first."""
    where = " WHERE enabled" if enabled else ""
    with connection.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(f"{_SELECT}{where} ORDER BY id").fetchall()


def find(connection: Connection, sub: str) -> User:
    """The user called ``sub``; raises :class:`UsageError` naming one that is near."""
    with connection.cursor(row_factory=class_row(User)) as cursor:
        found = cursor.execute(f"{_SELECT} WHERE identity_sub = %s ORDER BY id", [sub]).fetchone()
    if found is not None:
        return found
    known = [user.sub for user in everyone(connection)]
    near = difflib.get_close_matches(sub, known, n=1, cutoff=0.6)
    hint = f": did you mean {near[0]}?" if near else f": livermore users add {sub}"
    raise UsageError(f"there is no user {sub}{hint}")


def chosen(connection: Connection, sub: str | None) -> User:
    """The user a command means: ``sub``, or the one who alone is enabled.

    Raises :class:`UsageError` where that is nobody, or anybody.
    """
    if sub is not None:
        return find(connection, sub)
    enabled = everyone(connection, enabled=True)
    if not enabled:
        raise UsageError("there is no user yet: livermore users add NAME")
    if len(enabled) > 1:
        some = ", ".join(user.sub for user in enabled[:5])
        raise UsageError(f"say whose, with --user or LIVERMORE_USER: {some}")
    return enabled[0]


def add(connection: Connection, sub: str, *, provider: str = "local", role: str = "user") -> User:
    """A new user. Raises :class:`UsageError` where there is one of that name.

    Keys and channels have the name alone, so two providers cannot have the same.
    """
    connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
    taken = connection.execute(
        "SELECT identity_provider FROM users WHERE identity_sub = %s", [sub]
    ).fetchone()
    if taken is not None:
        raise UsageError(f"there is a user {sub} already, of the identity provider {taken[0]}")
    connection.execute(
        "INSERT INTO users (identity_provider, identity_sub, role) VALUES (%s, %s, %s)",
        [provider, sub, role],
    )
    return find(connection, sub)


def enable(connection: Connection, sub: str, *, enabled: bool) -> User:
    """Let a user in, or not any more. Nothing is lost by that."""
    user = find(connection, sub)
    connection.execute(
        "UPDATE users SET enabled = %s, updated_at = now() WHERE id = %s", [enabled, user.id]
    )
    return attrs.evolve(user, enabled=enabled)


def write(
    connection: Connection,
    user: User,
    settings: Mapping[str, Any],
    *,
    by: str,
    what: str,
    uses: Iterable[Use] = (),
    follows: Iterable[tuple[str, str]] = (),
) -> User:
    """Change the settings from what ``user`` has to ``settings``.

    ``uses`` and ``follows`` (exchange and symbol) are what other tables must know of them. Raises
    :class:`Conflict` where somebody changed them since ``user`` was read.
    """
    version = settings.get("version", 1)
    changed = connection.execute(
        "UPDATE users SET settings = %s, settings_version = %s, updated_at = now(),"
        " settings_revision = settings_revision + 1"
        " WHERE id = %s AND settings_revision = %s",
        [Jsonb(settings), version, user.id, user.revision],
    )
    if changed.rowcount == 0:
        raise Conflict(_who(connection, user))
    connection.execute(
        "INSERT INTO user_settings_history"
        " (user_id, revision, settings, settings_version, changed_by, what)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        [user.id, user.revision + 1, Jsonb(settings), version, by, what],
    )
    try:
        _spread(connection, user, list(uses), list(follows))
    except errors.ForeignKeyViolation:
        raise DatabaseUnusable(
            "the database does not know all exchanges of these settings: run livermore db seed"
        ) from None
    return find(connection, user.sub)


def history(connection: Connection, user: User, most: int = 1000) -> list[Revision]:
    """The newest ``most`` changes of a user's settings, newest first."""
    with connection.cursor(row_factory=class_row(Revision)) as cursor:
        return cursor.execute(
            "SELECT revision, settings, changed_at, changed_by, what FROM user_settings_history"
            " WHERE user_id = %s ORDER BY revision DESC LIMIT %s",
            [user.id, most],
        ).fetchall()


def _who(connection: Connection, user: User) -> str:
    newest = next(iter(history(connection, user, 1)), None)
    if newest is None:
        return f"the settings of {user.sub} changed meanwhile: look again"
    moment = newest.changed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"{newest.changed_by or 'somebody'} changed the settings of {user.sub} meanwhile, at "
        f"{moment} (revision {newest.revision}): look again"
    )


def _spread(
    connection: Connection, user: User, uses: Sequence[Use], follows: Sequence[tuple[str, str]]
) -> None:
    names = [one.exchange for one in uses]
    connection.execute(
        "DELETE FROM user_exchanges WHERE user_id = %s AND exchange_id <> ALL(%s)", [user.id, names]
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO user_exchanges (user_id, exchange_id, enabled, key_variable,"
            " secret_variable, passphrase_variable) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (user_id, exchange_id) DO UPDATE SET enabled = EXCLUDED.enabled,"
            " key_variable = EXCLUDED.key_variable, secret_variable = EXCLUDED.secret_variable,"
            " passphrase_variable = EXCLUDED.passphrase_variable, updated_at = now()",
            [
                (user.id, one.exchange, one.enabled, one.key, one.secret, one.passphrase)
                for one in uses
            ],
        )
        cursor.execute(
            "DELETE FROM user_symbol_subscriptions WHERE user_id = %s AND source = 'settings'",
            [user.id],
        )
        cursor.executemany(
            "INSERT INTO user_symbol_subscriptions (user_id, exchange_id, symbol, source)"
            " VALUES (%s, %s, %s, 'settings')",
            [(user.id, exchange, symbol) for exchange, symbol in follows],
        )
