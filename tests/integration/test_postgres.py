"""PostgreSQL as it is: away, killed, frozen, slow, locked, and with a password nobody may see."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from livermore.adapters.postgres import Connection, Database
from livermore.errors import ConfigurationError, Conflict, DatabaseError, DatabaseUnusable
from tests.postgres import PASSWORD, PostgresServer

NEW_USER = "INSERT INTO users (identity_provider, identity_sub) VALUES ('local', %s)"


@pytest.fixture
def database(prepared_url: str) -> Iterator[Database]:
    database = Database(prepared_url)
    yield database
    database.close()


def users(connection: Connection) -> list[str]:
    return [sub for (sub,) in connection.execute("SELECT identity_sub FROM users ORDER BY 1")]


def add(*subs: str) -> Any:
    def work(connection: Connection) -> None:
        for sub in subs:
            connection.execute(NEW_USER, [sub])

    return work


def test_work_that_fails_leaves_nothing_behind_and_the_next_goes_on(database: Database):
    database.run(add("ann"))

    def fails(connection: Connection) -> None:
        add("bob")(connection)
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="of ours"):
        database.run(fails)
    with pytest.raises(Conflict, match="faster"):
        database.run(add("carl", "ann"))
    database.run(add("dora"))
    assert database.run(users) == ["ann", "dora"]


def test_work_whose_error_somebody_swallows_is_not_committed(database: Database):
    def swallows(connection: Connection) -> None:
        add("ann")(connection)
        with pytest.raises(psycopg.errors.UniqueViolation):
            add("ann")(connection)

    # PostgreSQL answers such a COMMIT with a ROLLBACK, and psycopg says nothing of it.
    with pytest.raises(DatabaseError, match="nothing of it was done"):
        database.run(swallows)
    assert database.run(users) == []


async def test_work_in_threads_takes_turns(database: Database):
    await database.run_in_thread(add("ann"))
    assert await database.run_in_thread(users) == ["ann"]


def test_times_come_back_in_utc(postgres_server: PostgresServer, prepared_url: str):
    name = prepared_url.rpartition("/")[2]
    postgres_server.execute(f"ALTER DATABASE {name} SET TimeZone TO 'Asia/Tokyo'")
    database = Database(prepared_url)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    found = database.run(lambda c: c.execute("SELECT %s::timestamptz", [moment]).fetchone())
    database.close()
    assert found == (moment,)
    assert found[0].utcoffset().total_seconds() == 0


def test_a_server_killed_in_the_middle_of_work_ends_it_and_is_used_again_when_back(
    own_postgres: PostgresServer,
):
    database = Database(own_postgres.url())
    database.run(lambda c: c.execute("CREATE TABLE notes (text text)"))

    def killed(connection: Connection) -> None:
        connection.execute("INSERT INTO notes VALUES ('half done')")
        own_postgres.kill()
        connection.execute("INSERT INTO notes VALUES ('the rest')")

    with pytest.raises(DatabaseError, match="does not answer"):
        database.run(killed)
    with pytest.raises(DatabaseError, match=r"does not answer.*LIVERMORE_DATABASE_URL"):
        database.run(lambda c: None)
    own_postgres.start()
    assert database.run(lambda c: c.execute("SELECT * FROM notes").fetchall()) == []
    # A connection that died while nobody used it is no error at all.
    own_postgres.stop()
    own_postgres.start()
    assert database.run(lambda c: c.execute("SELECT 1").fetchone()) == (1,)
    database.close()


def test_a_server_that_freezes_in_the_middle_of_work_does_not_hold_the_thread(prepared_url: str):
    database = Database(prepared_url, timeout=0.5)
    pids: list[int] = []

    def frozen(connection: Connection) -> None:
        pids.append(connection.info.backend_pid)
        os.kill(pids[0], signal.SIGSTOP)
        connection.execute("SELECT 1")

    try:
        with pytest.raises(DatabaseError):  # it ends at all
            database.run(frozen)
    finally:
        os.kill(pids[0], signal.SIGCONT)
    assert database.run(users) == []
    database.close()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(prepared_url: str):
    database = Database(prepared_url, timeout=0.3)
    with pytest.raises(DatabaseError, match="too slow"):
        database.run(lambda c: c.execute("SELECT pg_sleep(60)"))
    holding, done = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.execute("LOCK TABLE users")
        holding.set()
        done.wait(20)

    other = Database(prepared_url, timeout=30)
    thread = threading.Thread(target=other.run, args=[hold])
    thread.start()
    try:
        assert holding.wait(20)
        with pytest.raises(DatabaseError, match="too slow"):
            database.run(users)
    finally:
        done.set()
        thread.join()
    assert database.run(users) == []
    database.close()
    other.close()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ((f":{PASSWORD}@", ":wr0ng-s3cret@"), DatabaseUnusable, "refuses us.*password"),
        ((r"/\w+$", "/nowhere"), DatabaseUnusable, "refuses us.*does not exist.*check user"),
        (("//livermore", "//nobody"), DatabaseUnusable, "refuses us.*password authentication"),
        (("%2Fpostgres/", "%2Fnowhere/"), DatabaseError, "does not answer.*check that it runs"),
        (("@.*", "@127.0.0.1:1/x"), DatabaseError, "does not answer.*check that it runs"),
        (("@.*", "@/h#st/x?a=b&c"), ConfigurationError, "not understood.*%XX"),
        (("@.*", "@host:p0rt/x"), DatabaseError, "LIVERMORE_DATABASE_URL"),
    ],
)
def test_what_is_wrong_with_the_way_there_is_said_without_the_password(
    prepared_url: str, change: tuple[str, str], error: type[Exception], says: str
):
    url = re.sub(*change, prepared_url)
    with pytest.raises(error, match=says) as caught:
        database = Database(url)
        try:
            assert "s3cret" not in database.shown + repr(database)
            database.run(lambda c: None)
        finally:
            database.close()
    seen = str(caught.value) + repr(caught.value.__cause__)
    assert "s3cret" not in seen
    assert "\n" not in str(caught.value)
    if error is DatabaseError:
        assert not isinstance(caught.value, DatabaseUnusable), "it may be back in a moment"


def test_a_database_without_our_tables_says_how_to_get_them(database_url: str):
    database = Database(database_url)
    with pytest.raises(DatabaseUnusable, match="run livermore db apply"):
        database.run(users)
    database.close()


def test_an_error_quotes_no_row(database: Database):
    # DETAIL of a check holds the row: it may hold what nobody should read in a log.
    with pytest.raises(DatabaseError) as caught:
        database.run(
            lambda c: c.execute(
                "INSERT INTO users (identity_provider, identity_sub, role) "
                "VALUES ('local', 'very-private', 'emperor')"
            )
        )
    assert "users_role_check" in str(caught.value)
    assert "very-private" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_replica_is_no_database_for_us(database: Database):
    def on_a_replica(connection: Connection) -> None:
        connection.execute("SET LOCAL transaction_read_only TO on")
        add("ann")(connection)

    with pytest.raises(DatabaseUnusable, match="read-only replica"):
        database.run(on_a_replica)
