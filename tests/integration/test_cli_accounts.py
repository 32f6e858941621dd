"""``positions``, ``fees`` and ``credentials`` as a person runs them, on simulated exchanges."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from livermore.adapters.postgres import Database
from livermore.cli import main
from tests.integration.command_line import Livermore

REPORTED = {"BTC": True, "ETH": False, "SOL": True, "XRP": True}
"""What the purse holds, and whether its trades explain it."""


@attrs.frozen
class Exchange:
    """A simulated one in another process, and the keys it gave out, by what they may."""

    name: str
    rest: str
    websocket: str
    keys: Mapping[str, tuple[str, str]]


@contextlib.contextmanager
def simulated(name: str) -> Iterator[Exchange]:
    command = [sys.executable, "-m", "livermore.simulator", name, "--symbols", "8"]
    with subprocess.Popen(
        [*command, "--rest-rate", "100000"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        given = httpx.get(f"{told['control']}/keys", trust_env=False).json()["keys"]
        keys = {one["name"]: (one["key"], one["secret"]) for one in given}
        yield Exchange(name, told["rest"], told["websocket"], keys)
        process.terminate()


@pytest.fixture(scope="module")
def coinbase() -> Iterator[Exchange]:
    with simulated("coinbase") as exchange:
        yield exchange


@pytest.fixture(scope="module")
def binance() -> Iterator[Exchange]:
    with simulated("binance") as exchange:
        yield exchange


@attrs.frozen
class Said:
    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@attrs.define
class Person:
    """Somebody at the command line, with secrets in the environment that nobody may see."""

    room: Path
    redis_url: str
    monkeypatch: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]
    environment: dict[str, str] = attrs.Factory(dict)
    heard: str = ""

    def has(self, exchange: Exchange, which: str = "view", names: str = "") -> None:
        """Put a key into the environment, its line ends spelled out."""
        prefix = names or exchange.name.upper()
        key, secret = exchange.keys[which]
        self.environment[f"{prefix}_API_KEY"] = key
        self.environment[f"{prefix}_API_SECRET"] = secret.strip().replace("\n", "\\n")

    def __call__(self, *words: str) -> Said:
        with self.monkeypatch.context() as context:
            for name in list(os.environ):
                if name.startswith(("LIVERMORE_", "COINBASE_", "BINANCE_")):
                    context.delenv(name)
            known = {"HOME": str(self.room), "LIVERMORE_REDIS_URL": self.redis_url}
            for name, value in {**known, **self.environment}.items():
                context.setenv(name, value)
            context.setattr(tempfile, "tempdir", str(self.room))
            context.chdir(self.room)
            code = main(words)
        out, err = self.captured.readouterr()
        self.heard += out + err
        return Said(code, out, err)

    def heard_no_secret(self) -> bool:
        """Whether no key, and no line of one, was ever printed."""
        secrets = [
            piece[:24]
            for name, value in self.environment.items()
            if not name.startswith("LIVERMORE_")
            for piece in value.split("\\n")
            if piece and not piece.startswith("-----")
        ]
        assert secrets
        return not any(secret in self.heard for secret in secrets)


@pytest.fixture
def person(
    tmp_path: Path,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Person:
    return Person(tmp_path, valkey_url, monkeypatch, capfd)


def where(*exchanges: Exchange) -> list[str]:
    return [word for one in exchanges for word in ("--rest-url", f"{one.name}={one.rest}")]


def test_every_exchange_whose_key_is_set_is_asked(person: Person, coinbase, binance):
    person.has(coinbase)
    person.has(binance, "trade")
    urls = where(coinbase, binance)

    told = person("positions", "--json", *urls)
    assert told.code == 0
    assert [one["exchange"] for one in told.lines] == ["coinbase", "binance"]
    for one in told.lines:
        rows = {row["currency"]: row for row in one["positions"]}
        assert {name: row["cost_basis"] is not None for name, row in rows.items()} == REPORTED
        assert all(float(row["value"]) > 0 for row in rows.values())
        assert one["kept"] is None
    assert told.lines[0]["warning"] is None
    assert "may trade" in told.lines[1]["warning"]

    fees = person("fees", "--json", *urls).lines
    assert [(one["exchange"], one["maker"], one["taker"]) for one in fees] == [
        ("coinbase", "0.006", "0.012"),
        ("binance", "0.001", "0.001"),
    ]
    assert float(fees[0]["volume_30d"]) > 1000
    assert fees[1]["volume_30d"] is None

    [checked] = person("credentials", "check", "--json", *urls).lines
    by_name = {one["exchange"]: one for one in checked}
    assert by_name["coinbase"]["accepted"] is by_name["binance"]["accepted"] is True
    assert by_name["binance"]["rights"] == {"view": True, "trade": True, "transfer": False}
    assert by_name["binance_us"]["accepted"] is None
    assert by_name["binance_us"]["variables"]["key"] == {
        "name": "BINANCE_US_API_KEY",
        "set": False,
    }
    assert person.heard_no_secret()


def test_a_person_reads_tables_and_is_warned(person: Person, binance):
    person.has(binance, "trade")
    told = person("positions", *where(binance))
    assert told.code == 0
    assert told.stdout.startswith("binance ")
    assert "ETH: its cost is not known" in told.stdout
    assert "in the 3 whose cost is known" in told.stdout
    assert "warning: binance: the key in BINANCE_API_KEY and BINANCE_API_SECRET" in told.stderr
    assert "maker 0.1 %, taker 0.1 %" in person("fees", "binance", *where(binance)).stdout
    checked = person("credentials", "check", *where(binance))
    assert "BINANCE_API_KEY set, BINANCE_API_SECRET set" in checked.stdout
    assert checked.code == 0
    assert person.heard_no_secret()


def test_what_is_wrong_with_a_key_is_one_line_with_the_step(person: Person, coinbase, binance):
    unset = person("positions")
    assert unset.code == 4
    assert "COINBASE_API_KEY and COINBASE_API_SECRET" in unset.stderr
    assert person("credentials", "check").code == 4

    person.environment["BINANCE_API_KEY"] = "half-a-key-that-nobody-may-see"
    half = person("fees", "binance", *where(binance))
    assert "BINANCE_API_SECRET is not set" in half.stderr
    person.environment["COINBASE_API_KEY"] = "organizations/o/apiKeys/that-nobody-may-see"
    person.environment["COINBASE_API_SECRET"] = "-----BEGIN EC PRIVATE KEY-----\\nnobody-may-see"
    broken = person("positions", "coinbase", *where(coinbase))
    assert "COINBASE_API_SECRET: it is a PEM that cannot be read" in broken.stderr
    checked = person("credentials", "check", "--json", *where(coinbase, binance))
    assert checked.code == 4
    assert {one["accepted"] for one in checked.lines[0]} == {None}, "nobody was asked"
    person.has(coinbase)
    person.environment["COINBASE_API_KEY"] = "organizations/o/apiKeys/that-nobody-may-see"
    foreign = person("positions", "coinbase", *where(coinbase))
    assert "401 Unauthorized (check COINBASE_API_KEY and COINBASE_API_SECRET" in foreign.stderr
    for told in (unset, half, broken, foreign):
        assert (told.code, told.stdout, told.stderr.count("\n")) == (4, "", 1)

    [checked] = person("credentials", "check", "coinbase", "--json", *where(coinbase)).lines
    assert checked[0]["accepted"] is False
    nowhere = person("credentials", "check", "coinbase", "--rest-url", "http://127.0.0.1:1")
    assert nowhere.code == 1, "nobody has said that the key is wrong"
    assert person.heard_no_secret()


def test_positions_of_a_user_come_from_his_variables_and_are_kept(
    person: Person, coinbase, prepared_url: str
):
    refused = person("positions", "--sync")
    assert (refused.code, refused.stderr.count("\n")) == (4, 1)
    assert "needs a database: set LIVERMORE_DATABASE_URL" in refused.stderr
    assert person("positions", "--user", "ada").code == 4

    person.environment["LIVERMORE_DATABASE_URL"] = prepared_url
    for words in (
        ("db", "seed"),
        ("users", "add", "ada"),
        ("settings", "set", "exchanges.coinbase.credentials.key", "DESK_API_KEY"),
        ("settings", "set", "exchanges.coinbase.credentials.secret", "DESK_API_SECRET"),
    ):
        done = person(*words)
        assert done.code == 0, done.stderr
    person.has(coinbase, "ed25519", names="DESK")
    told = person("positions", "--sync", *where(coinbase))
    assert told.code == 0, told.stderr
    assert "4 positions of ada kept; the next daemon that runs follows" in told.stderr
    [checked] = person("credentials", "check", "coinbase", "--json", *where(coinbase)).lines
    assert checked[0]["variables"]["secret"] == {"name": "DESK_API_SECRET", "set": True}
    assert (checked[0]["user"], checked[0]["accepted"]) == ("ada", True)

    database = Database(prepared_url)
    try:
        rows = database.run(
            lambda connection: connection.execute(
                "SELECT asset, symbol, cost_basis IS NOT NULL, source FROM positions"
                " LEFT JOIN user_symbol_subscriptions USING (user_id, exchange_id, symbol)"
                " ORDER BY asset"
            ).fetchall()
        )
        everything = database.run(_everything)
    finally:
        database.close()
    assert rows == [
        (name, f"{name}-USD", explained, "position") for name, explained in REPORTED.items()
    ]
    person.heard += everything
    assert person.heard_no_secret(), "nor did anything go into the database"


@pytest.mark.timeout(240)
def test_a_daemon_that_runs_follows_positions_as_soon_as_they_are_kept(
    person: Person, coinbase, prepared_url: str
):
    person.environment["LIVERMORE_DATABASE_URL"] = prepared_url
    person.has(coinbase)
    assert person("db", "seed").code == person("users", "add", "ada").code == 0
    words = ("--top", "2", *where(coinbase), "--websocket-url", coinbase.websocket)
    daemon = Livermore(person.room, person.redis_url)
    with daemon.start("run", "coinbase", *words, LIVERMORE_DATABASE_URL=prepared_url) as process:
        while followed(person) != ["BTC-USD", "ETH-USD"]:
            assert process.poll() is None
        told = person("positions", "--sync", *where(coinbase))
        assert "4 positions of ada kept, their symbols are followed" in told.stderr
        assert followed(person) == ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"]
        process.terminate()
        _, said = process.communicate(timeout=30)
    person.heard += said
    assert person.heard_no_secret()


def followed(person: Person) -> list[str]:
    """What the daemon says that it follows."""
    told = person("status", "--json")
    return sorted(told.lines[0].get("symbols", ())) if told.code == 0 else []


def _everything(connection: Any) -> str:
    tables = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    ).fetchall()
    return str([connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables])
