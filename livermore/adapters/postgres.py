"""PostgreSQL: synchronous psycopg behind worker threads, one transaction per piece of work.

Work is a function of a connection. It runs in one transaction that is committed when it returns and
rolled back when it raises; it is never run twice, since nobody knows whether a commit that lost its
connection took place. Every transaction ends within a given time, also where the server stopped
answering without a word: then its socket is closed under it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
import trio
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from livermore.adapters.redis_url import without_password
from livermore.errors import ConfigurationError, Conflict, DatabaseError, DatabaseUnusable

TIMEOUT = 5.0
"""Seconds, for connecting and for a transaction."""
GRACE = 1.0
"""Seconds for the server to end an overdue statement itself."""
OLDEST = 140_000
"""The oldest PostgreSQL that is still maintained, as it numbers itself."""

Connection = psycopg.Connection[Any]
T = TypeVar("T")


class Database:
    """One connection to PostgreSQL, opened when it is first needed and again when it was lost.

    Used by one thread at a time; others wait. ``timeout`` is in seconds.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        self.shown = without_password(url)
        self._url = url
        self._timeout = timeout
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._limiter = trio.CapacityLimiter(1)
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # Not what the parser says: it quotes the part of the password it stumbled over.
            raise ConfigurationError(
                f"LIVERMORE_DATABASE_URL {self.shown!r} is not understood: write special "
                "characters in user and password as %XX (/ is %2F, # is %23, @ is %40)"
            ) from None

    def __repr__(self) -> str:
        return f"<Database {self.shown}>"

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of ``work``, done in one transaction.

        Raises :class:`DatabaseError` where that failed, :class:`Conflict` where somebody else was
        faster, and whatever ``work`` raises. Then nothing of it was done, except where the
        connection was lost during the commit.
        """
        with self._lock:
            try:
                connection = self._begin()
                with self._limited(connection):
                    result = work(connection)
                    if connection.info.transaction_status is TransactionStatus.INERROR:
                        # The server would take a COMMIT for a ROLLBACK without a word.
                        raise DatabaseError(f"PostgreSQL {self.shown}: nothing of it was done")
                    connection.commit()
                return result
            except psycopg.Error as error:
                raise self._translated(error) from None
            finally:
                self._tidy()

    async def run_in_thread(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`run`, in a worker thread. It is not abandoned, but ends by its timeout."""
        return await trio.to_thread.run_sync(self.run, work, limiter=self._limiter)

    def close(self) -> None:
        """Drop the connection; the next work opens a new one."""
        with self._lock:
            self._drop()

    def _begin(self) -> Connection:
        """A connection in a new transaction. One that was lost while idle is opened again."""
        if self._connection is not None:
            try:
                return self._started(self._connection)
            except psycopg.OperationalError:
                self._drop()
        self._connection = psycopg.connect(
            self._url,
            prepare_threshold=None,  # a pooler may give each transaction another server
            **self._defaults(),
        )
        if self._connection.info.server_version < OLDEST:
            version = self._connection.info.server_version // 10_000
            raise DatabaseUnusable(
                f"PostgreSQL {self.shown} is version {version}: use {OLDEST // 10_000} or newer"
            )
        return self._started(self._connection)

    def _defaults(self) -> dict[str, Any]:
        """Options of the connection, as far as the URL does not give them."""
        ours = {
            "application_name": "livermore",
            "connect_timeout": max(2, round(self._timeout)),  # 1 would mean 2
            "keepalives_idle": 10,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        }
        return {key: ours[key] for key in ours.keys() - conninfo_to_dict(self._url).keys()}

    def _started(self, connection: Connection) -> Connection:
        with self._limited(connection):
            connection.execute(
                "SELECT set_config('statement_timeout', %s, true), "
                "set_config('TimeZone', 'UTC', true)",
                [str(round(self._timeout * 1000))],
            )
        return connection

    @contextlib.contextmanager
    def _limited(self, connection: Connection) -> Iterator[None]:
        """Close the socket of ``connection`` when the block takes too long."""
        twin = socket.socket(fileno=os.dup(connection.fileno()))

        def cut() -> None:
            with contextlib.suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._timeout + GRACE, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            twin.close()

    def _tidy(self) -> None:
        """Roll back what was not committed, and drop a connection that is of no more use."""
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.closed:
                with self._limited(connection):
                    connection.rollback()
        except psycopg.Error:
            self._drop()
        if connection.closed:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _translated(self, error: psycopg.Error) -> DatabaseError:
        return translate(error, self.shown)


UNUSABLE = re.compile(
    r"password authentication failed|no password supplied|authentication failed|pg_hba\.conf"
    r"|role .* does not exist|database .* does not exist|permission denied for database"
    r"|is not permitted to log in|certificate|does not support SSL|sslmode"
)
"""What a server says to a client that will never get in. Its messages may be in any language: what
is not understood counts as away, and is asked again."""


def translate(error: psycopg.Error, shown: str) -> DatabaseError:
    """An error of the library as one of ours, in one line, without values of rows."""
    who = f"PostgreSQL {shown}"
    said = " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
    text = without_password(said)[:300].rstrip(". ")
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return DatabaseUnusable(f"{who} lacks our tables ({text}): run livermore db apply")
    if isinstance(error, errors.InsufficientPrivilege):
        return DatabaseUnusable(f"{who} does not allow us what we need: {text}: GRANT it")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DatabaseUnusable(f"{who} is a read-only replica: give the URL of its primary")
    if isinstance(
        error, errors.UniqueViolation | errors.SerializationFailure | errors.DeadlockDetected
    ):
        return Conflict(f"{who}: somebody else was faster: {text}: look again")
    if isinstance(error, errors.QueryCanceled):
        return DatabaseError(f"{who} was too slow: {text}: check its load and its locks")
    if error.sqlstate is not None and not isinstance(error, psycopg.OperationalError):
        return DatabaseError(f"{who}: {text}")
    if UNUSABLE.search(text):
        return DatabaseUnusable(
            f"{who} refuses us: {text}: check user, password and database in LIVERMORE_DATABASE_URL"
        )
    return DatabaseError(
        f"{who} does not answer: {text}: check that it runs and LIVERMORE_DATABASE_URL"
    )
