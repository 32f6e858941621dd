"""The database a command needs, or one line that says how to get one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from livermore.config import Settings
from livermore.errors import ConfigurationError

if TYPE_CHECKING:
    from livermore.adapters.postgres import Database


@contextmanager
def open_database(
    settings: Settings, command: str, *, timeout: float | None = None
) -> Iterator[Database]:
    """The database of ``settings``, closed at the end; ``command`` is who needs it.

    Nothing is connected yet. Raises :class:`ConfigurationError` where none is configured.
    """
    from livermore.adapters.postgres import TIMEOUT, Database

    if settings.database_url is None:
        raise ConfigurationError(
            f"livermore {command} needs a database: set LIVERMORE_DATABASE_URL, "
            "then: livermore db apply (docs/users.md)"
        )
    database = Database(settings.database_url, TIMEOUT if timeout is None else timeout)
    try:
        yield database
    finally:
        database.close()
