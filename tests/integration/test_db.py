"""``livermore db``, ``doctor`` and ``run`` with a database, as a person runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from livermore.exchanges import DIALECTS
from tests.integration.command_line import Livermore
from tests.postgres import PASSWORD, PostgresServer


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


def test_without_a_database_the_commands_say_how_to_get_one(livermore: Livermore):
    for command in ("apply", "check", "seed"):
        done = livermore("db", command)
        assert done.returncode == 4
        assert done.stderr == (
            f"livermore: livermore db {command} needs a database: set LIVERMORE_DATABASE_URL, "
            "then: livermore db apply (docs/users.md)\n"
        )


def test_from_an_empty_database_to_one_that_serves_and_back(
    livermore: Livermore, database_url: str, postgres_server: PostgresServer
):
    name = database_url.rpartition("/")[2]
    url = {"LIVERMORE_DATABASE_URL": database_url}
    # A daemon and doctor say what is missing before anything starts.
    run = livermore("run", "coinbase", **url)
    assert (run.returncode, run.stdout) == (4, "")
    assert re.search(r"the database lacks.*run livermore db apply\n$", run.stderr)
    assert run.stderr.count("\n") == 1
    checked = livermore("db", "check", "--json", **url)
    assert checked.returncode == 7
    assert json.loads(checked.stdout)["ok"] is False

    # What --dry-run prints is SQL that does it.
    dry = livermore("db", "apply", "--dry-run", **url)
    assert dry.returncode == 0
    assert dry.stderr.endswith("nothing was applied\n")
    assert livermore("db", "check", **url).returncode == 7
    postgres_server.execute(dry.stdout, name)
    assert livermore("db", "check", **url).returncode == 0
    assert "nothing to do" in livermore("db", "apply", **url).stderr

    run = livermore("run", "coinbase", **url)
    assert run.returncode == 4
    assert "no row of coinbase: run livermore db seed" in run.stderr
    assert json.loads(livermore("db", "seed", "--json", **url).stdout) == dict.fromkeys(
        DIALECTS, "new"
    )

    # Something destructive stops, says what, and goes on when it is told to.
    postgres_server.execute("ALTER TABLE positions ADD COLUMN mine text", name)
    stopped = livermore("db", "apply", **url)
    assert stopped.returncode == 7
    assert stopped.stdout == "-- destructive:\nALTER TABLE positions DROP COLUMN mine;\n"
    assert "nothing was applied" in stopped.stderr
    assert "livermore db apply --force" in stopped.stderr
    assert livermore("db", "apply", "--json", **url).returncode == 7
    forced = json.loads(livermore("db", "apply", "--force", "--json", **url).stdout)
    assert (forced["ok"], forced["applied"], len(forced["steps"])) == (True, True, 1)
    assert livermore("db", "check", **url).returncode == 0


def test_a_wrong_password_is_said_and_none_is_shown(livermore: Livermore, prepared_url: str):
    url = {"LIVERMORE_DATABASE_URL": prepared_url.replace(PASSWORD, "wr0ng-s3cret")}
    doctor = livermore("doctor", "--rest-url", "http://127.0.0.1:1", "--json", **url)
    [finding] = [one for one in json.loads(doctor.stdout)["checks"] if one["check"] == "database"]
    assert finding["verdict"] == "fail"
    assert "refuses us" in finding["text"]
    assert finding["step"].startswith("check user, password and database")
    done = livermore("db", "check", **url)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    for said in (doctor.stdout, doctor.stderr, done.stdout, done.stderr):
        assert "s3cret" not in said


def test_a_database_that_is_away_ends_a_command_with_the_next_step(
    livermore: Livermore, prepared_url: str
):
    url = {"LIVERMORE_DATABASE_URL": prepared_url.replace("%2Fpostgres/", "%2Fnowhere/")}
    for words in (["db", "check"], ["run", "coinbase"]):
        done = livermore(*words, **url)
        assert done.returncode == 1
        assert re.search(r"does not answer.*check that it runs", done.stderr)
        assert done.stderr.count("\n") == 1
