"""What users and operators wrote into the database, as a daemon takes it; real PostgreSQL."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import trio

from livermore.adapters.exchange_rows import seed
from livermore.adapters.postgres import Database
from livermore.config import Own, Settings
from livermore.daemon import plan_of
from livermore.errors import Refused
from livermore.exchanges import DIALECTS
from livermore.profile.people import People
from livermore.runtime.journal import Journal
from tests.integration.command_line import Livermore
from tests.postgres import PostgresServer


@pytest.fixture
def database(prepared_url: str):
    one = Database(prepared_url)
    one.run(lambda connection: seed(connection, DIALECTS.values(), None))
    yield one
    one.close()


def override(database: Database, **columns: object) -> None:
    names, values = ", ".join(columns), list(columns.values())
    marks = ", ".join(["%s"] * len(values))
    database.run(
        lambda connection: connection.execute(
            f"INSERT INTO exchange_overrides (exchange_id, {names}) "
            f"VALUES ('binance', {marks})".encode(),
            values,
        )
    )


def people(database: Database | None) -> People:
    return People(database, Journal("control"))


async def overridden(database: Database, room: Path, own: Own | None = None):
    settings = Settings(state_dir=room, own={"binance": own} if own else {})
    plan = plan_of(settings, "binance")
    return await people(database).overridden(plan, settings.of("binance"))


async def test_addresses_of_the_operator_hold_where_no_setting_names_one(database, tmp_path: Path):
    override(database, rest_url="https://mirror.test", websocket_url="wss://mirror.test")
    plan = await overridden(database, tmp_path)
    assert plan.rest_url == "https://mirror.test"
    assert plan.websocket_url == "wss://mirror.test/stream"
    plan = await overridden(database, tmp_path, Own(rest_url="https://mine.test"))
    assert plan.rest_url == "https://mine.test"
    assert plan.websocket_url == "wss://mirror.test/stream"


@pytest.mark.parametrize(
    ("column", "said"), [("active", "switched off"), ("allowed", "not allowed from here")]
)
async def test_what_the_operator_forbids_is_refused(database, tmp_path: Path, column, said):
    override(database, **{column: False, "note": "ask Ada"})
    with pytest.raises(Refused, match=f"binance is {said} \\(ask Ada\\)"):
        await overridden(database, tmp_path)


def test_run_does_not_follow_what_the_operator_forbids(
    database, prepared_url, own_valkey, tmp_path
):
    override(database, allowed=False, note="ask Ada")
    livermore = Livermore(tmp_path, own_valkey.url)
    # Nobody listens there: had it gone on, it would have said so.
    refused = livermore(
        "run", "binance", "--rest-url", "http://127.0.0.1:9", LIVERMORE_DATABASE_URL=prepared_url
    )
    assert refused.returncode != 0
    assert "binance is not allowed from here (ask Ada)" in refused.stderr
    assert "127.0.0.1:9" not in refused.stderr


async def test_without_an_override_and_without_a_database_the_facts_hold(database, tmp_path: Path):
    settings = Settings(state_dir=tmp_path)
    plan = plan_of(settings, "coinbase")
    for one in (database, None):
        assert await people(one).overridden(plan, Own()) is plan


async def test_users_stay_as_they_were_read_while_the_database_is_away(
    own_postgres: PostgresServer, caplog
):
    caplog.set_level(logging.WARNING, "livermore")
    schema = (Path(__file__).parents[2] / "schema.sql").read_text()
    database = Database(own_postgres.url(), timeout=2.0)
    try:
        database.run(lambda connection: connection.execute(schema.encode()))
        settings = {"version": 1, "runtime": {"autostart": ["binance"]}}
        database.run(
            lambda connection: connection.execute(
                "INSERT INTO users (identity_provider, identity_sub, settings) "
                "VALUES ('local', 'alice', %s)",
                [json.dumps(settings)],
            )
        )
        known = people(database)
        assert await known.autostart() == ("binance",)
        await trio.to_thread.run_sync(own_postgres.stop)
        assert await known.autostart() == ("binance",)
        assert [one.sub for one in known.known] == ["alice"]
        assert "users cannot be read" in caplog.text
        assert "s3cret" not in caplog.text
    finally:
        database.close()
