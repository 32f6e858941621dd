"""Users and their settings on a real PostgreSQL, as an operator meets them."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from livermore.adapters import users
from livermore.adapters.postgres import Connection, Database
from livermore.adapters.redis import Client
from livermore.cli import main
from livermore.errors import Conflict, DatabaseUnusable, UsageError
from tests.integration.command_line import Livermore
from tests.integration.test_cli_readings import say_status


@pytest.fixture
def database(prepared_url: str) -> Iterator[Database]:
    found = Database(prepared_url)
    found.run(_seed)
    yield found
    found.close()


def _seed(connection: Connection) -> None:
    for name in ("coinbase", "binance"):
        connection.execute(
            "INSERT INTO exchanges (id, title, websocket_url, rest_url, timeframes)"
            " VALUES (%s, %s, 'wss://x', 'https://x', '{5m}')",
            [name, name],
        )


@attrs.frozen
class Said:
    stdout: str
    stderr: str


@attrs.frozen
class Operator:
    """Somebody at the command line. Commands run in this process: there are many of them."""

    room: Path
    database_url: str
    monkeypatch: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]

    def __call__(self, *words: str, code: int = 0, **more: Any) -> Said:
        with self.monkeypatch.context() as context:
            for name in [name for name in os.environ if name.startswith("LIVERMORE_")]:
                context.delenv(name)
            environment = {"LIVERMORE_DATABASE_URL": self.database_url, **more}
            for name, value in {"HOME": str(self.room), "VISUAL": "", **environment}.items():
                context.setenv(name, value)
            context.setattr(tempfile, "tempdir", str(self.room))
            context.chdir(self.room)
            found = main(words)
        out, err = self.captured.readouterr()
        assert found == code, (out, err)
        if code:
            assert err.startswith("livermore: ")
            assert err.count("\n") == 1
        return Said(out, err)

    def json(self, *words: str, **more: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--json", **more).stdout.splitlines()]


@pytest.fixture
def operator(
    tmp_path: Path,
    database: Database,
    prepared_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Operator:
    return Operator(tmp_path, prepared_url, monkeypatch, capfd)


def editor(room: Path, *steps: str) -> str:
    """An editor that runs the next of ``steps`` (Python with the text as ``text``) at each call."""
    script = room / "editor.py"
    (room / "steps.json").write_text(json.dumps(steps))
    script.write_text(
        "import json, pathlib, sys\n"
        f"todo = pathlib.Path({str(room / 'steps.json')!r})\n"
        "step, *rest = json.loads(todo.read_text())\n"
        "todo.write_text(json.dumps(rest))\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "room = todo.parent\n"
        "text = file.read_text()\n"
        "(room / f'seen{len(rest)}').write_text(text)\n"
        "exec(step)\n"
        "file.write_text(text)\n"
    )
    command = room / "editor"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$1"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return str(command)


# -- users ------------------------------------------------------------------------------------


def test_a_user_is_added_once_left_out_and_let_in_again(database: Database):
    added = database.run(lambda c: users.add(c, "alice", role="admin"))
    assert (added.sub, added.provider, added.role, added.enabled) == (
        "alice", "local", "admin", True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="alice already, of the identity provider local"):
        database.run(lambda c: users.add(c, "alice", provider="auth0"))
    database.run(lambda c: users.enable(c, "alice", enabled=False))
    assert database.run(lambda c: users.everyone(c, enabled=True)) == []
    with pytest.raises(UsageError, match="did you mean alice"):
        database.run(lambda c: users.enable(c, "alise", enabled=True))
    database.run(lambda c: users.enable(c, "alice", enabled=True))
    assert [user.sub for user in database.run(users.everyone)] == ["alice"]


def test_of_many_who_add_the_same_user_at_once_one_does(database: Database, prepared_url: str):
    done: list[str] = []

    def one(provider: str) -> None:
        own = Database(prepared_url)
        try:
            own.run(lambda c: users.add(c, "alice", provider=provider))
            done.append(provider)
        except UsageError:
            pass
        finally:
            own.close()

    threads = [threading.Thread(target=one, args=(f"p{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1


def test_the_only_user_who_is_enabled_is_meant_where_nobody_is_named(database: Database):
    with pytest.raises(UsageError, match="livermore users add"):
        database.run(lambda c: users.chosen(c, None))
    database.run(lambda c: users.add(c, "alice"))
    database.run(lambda c: users.add(c, "bob"))
    with pytest.raises(UsageError, match="--user or LIVERMORE_USER: alice, bob"):
        database.run(lambda c: users.chosen(c, None))
    database.run(lambda c: users.enable(c, "alice", enabled=False))
    assert database.run(lambda c: users.chosen(c, None)).sub == "bob"
    assert database.run(lambda c: users.chosen(c, "alice")).sub == "alice"


def test_who_writes_over_somebody_elses_change_hears_who_made_it_and_changes_nothing(
    database: Database,
):
    alice = database.run(lambda c: users.add(c, "alice"))
    first = {"version": 1, "runtime": {"log_level": "debug"}}
    database.run(lambda c: users.write(c, alice, first, by="eve@desk", what="edit"))
    other = {"version": 1, "symbols": ["BTC-USD@coinbase"]}
    with pytest.raises(Conflict, match=r"eve@desk changed the settings of alice .*revision 1"):
        database.run(
            lambda c: users.write(
                c, alice, other, by="me", what="set", follows=[("coinbase", "BTC-USD")]
            )
        )
    now = database.run(lambda c: users.find(c, "alice"))
    assert (now.settings, now.revision, now.follows) == (first, 1, [])
    assert [one.what for one in database.run(lambda c: users.history(c, now))] == ["edit"]


def test_settings_keep_what_other_tables_know_of_them_and_leave_what_was_added_by_hand(
    database: Database,
):
    alice = database.run(lambda c: users.add(c, "alice"))
    database.run(
        lambda c: c.execute(
            "INSERT INTO user_symbol_subscriptions (user_id, exchange_id, symbol, source)"
            " VALUES (%s, 'coinbase', 'BTC-USD', 'manual')",
            [alice.id],
        )
    )
    use = users.Use(exchange="coinbase", enabled=True, key="K", secret="S")
    pairs = [("coinbase", "BTC-USD"), ("binance", "ETH-USDT")]
    after = database.run(
        lambda c: users.write(c, alice, {}, by="me", what="x", uses=[use], follows=pairs)
    )
    assert after.symbols("coinbase") == {"BTC-USD"}
    assert after.symbols("binance") == {"ETH-USDT"}
    rows = database.run(
        lambda c: c.execute(
            "SELECT exchange_id, enabled, key_variable, secret_variable FROM user_exchanges"
        ).fetchall()
    )
    assert rows == [("coinbase", True, "K", "S")]
    other = users.Use(exchange="binance", enabled=False)
    last = database.run(lambda c: users.write(c, after, {}, by="me", what="y", uses=[other]))
    assert [last.symbols("coinbase"), last.symbols("binance")] == [{"BTC-USD"}, frozenset()]
    rows = database.run(
        lambda c: c.execute("SELECT exchange_id, enabled FROM user_exchanges").fetchall()
    )
    assert rows == [("binance", False)]
    with pytest.raises(DatabaseUnusable, match="livermore db seed"):
        database.run(
            lambda c: users.write(c, last, {}, by="me", what="z", follows=[("kucoin", "A-B")])
        )
    assert database.run(lambda c: users.find(c, "alice")).revision == 2


# -- the command line --------------------------------------------------------------------------


def test_two_users_are_told_apart_and_the_environment_names_one(operator: Operator):
    operator("users", "add", "alice")
    operator("users", "add", "auth0|5f7c", "--provider", "auth0")
    operator("users", "add", "a b", code=2)
    operator("users", "add", "carol", "--role", "root", code=2)
    operator("settings", "show", code=2)
    bob: dict[str, Any] = {"LIVERMORE_USER": "auth0|5f7c"}
    operator("settings", "set", "runtime.log_level", "debug", **bob)
    assert operator("settings", "get", "runtime.log_level", **bob).stdout == "debug\n"
    assert operator("settings", "get", "runtime.log_level", "-u", "alice").stdout == "info\n"
    operator("users", "disable", "alice")
    assert operator("settings", "get", "runtime.log_level").stdout == "debug\n"
    listed = operator.json("users", "list")
    assert [(one["user"], one["enabled"], one["revision"]) for one in listed] == [
        ("alice", False, 0), ("auth0|5f7c", True, 1),
    ]  # fmt: skip


def test_a_wrong_value_or_path_is_refused_in_one_line_and_changes_nothing(operator: Operator):
    operator("users", "add", "alice")
    for path, value, said in (
        ("runtime.log_level", "inf", "runtime.log_level: unknown level 'inf': did you mean info?"),
        ("runtim.log_level", "info", "runtim: unknown key: did you mean runtime?"),
        ("symbols", "BTC-USD", "symbols: BTC-USD: say of which exchange"),
        ("alerts.deep", '{"rule": "level", "channels": ["desk"]}', "no channel is called 'desk'"),
        ("version", "7", "version: livermore itself keeps it"),
    ):
        assert said in operator("settings", "set", path, value, code=2).stderr
    told = operator("settings", "get", "alerts.deep", code=2).stderr
    assert "there is no such setting (level, reversal, blind)" in told
    assert operator("settings", "history").stdout == ""


def test_what_is_exported_is_imported_again_and_a_dry_run_only_shows_it(
    operator: Operator, tmp_path: Path
):
    operator("users", "add", "alice")
    operator("users", "add", "bob")
    to = ("--user", "alice")
    operator("settings", "set", "symbols", '["btc-usd@coinbase"]', *to)
    operator("settings", "set", "channels.desk", '{"kind":"discord","url_env":"DESK_URL"}', *to)
    operator("settings", "set", "alerts.deep", '{"rule":"level","levels":[200]}', *to)
    file = str(tmp_path / "alice.json")
    operator("settings", "export", file, *to)
    shown = operator("settings", "import", file, "--dry-run", "--user", "bob").stdout
    assert 'symbols: – → ["BTC-USD@coinbase"]' in shown
    assert operator("settings", "export", "--user", "bob").stdout == "{}\n"
    operator("settings", "import", file, "--user", "bob")
    assert operator("settings", "import", file, "--user", "bob").stdout == "nothing is different\n"
    both = [operator.json("settings", "show", "--user", one)[0] for one in ("alice", "bob")]
    assert both[0]["settings"] == both[1]["settings"]
    assert (both[0]["revision"], both[1]["revision"]) == (3, 1)
    listed = operator.json("users", "list")
    assert [one["symbols"] for one in listed] == [["BTC-USD@coinbase"]] * 2
    toml = tmp_path / "carol.toml"
    toml.write_text('symbols = ["ETH-USD@coinbase"]\n[runtime]\nmode = "position-monitor"\n')
    told = operator("settings", "import", str(toml), *to).stdout
    assert "runtime.mode: – → position-monitor" in told
    [newest, *_] = operator.json("settings", "history", *to)
    assert newest["revision"] == 4
    assert newest["what"] == "import carol.toml"
    assert {"path": "channels", "before": [{"name": "desk", "kind": "discord",
            "url_env": "DESK_URL"}], "after": None} in newest["changes"]  # fmt: skip


def test_an_edit_that_is_wrong_is_opened_again_with_the_complaint(
    operator: Operator, tmp_path: Path
):
    operator("users", "add", "alice")
    wrong = """text = '{"runtime": {"log_level": "deubg"}}'"""
    right = "text = text.replace('deubg', 'debug')"
    told = operator("settings", "edit", EDITOR=editor(tmp_path, wrong, right))
    assert told.stdout == "runtime.log_level: – → debug\n"
    seen = (tmp_path / "seen0").read_text()
    assert "# WRONG: runtime.log_level: unknown level 'deubg': did you mean debug?" in seen
    assert '"deubg"' in seen
    assert list(tmp_path.glob("livermore-settings-*")) == []
    assert "nothing was changed" in operator(
        "settings", "edit", EDITOR="false", VISUAL=editor(tmp_path, "pass")
    ).stderr  # fmt: skip


def test_who_gives_up_an_edit_or_was_overtaken_in_it_keeps_the_text(
    operator: Operator, tmp_path: Path
):
    operator("users", "add", "alice")
    wrong = """text = '{"runtime": 5}'"""
    told = operator("settings", "edit", EDITOR=editor(tmp_path, wrong, "pass"), code=4).stderr
    assert "runtime: a table is wanted (your text is kept in " in told
    overtaken = (
        "import os, psycopg\n"
        "with psycopg.connect(os.environ['LIVERMORE_DATABASE_URL']) as connection:\n"
        "    connection.execute('UPDATE users SET settings_revision = 1')\n"
        "    connection.execute('INSERT INTO user_settings_history (user_id, revision, settings,'\n"
        "        ' settings_version, changed_by) SELECT id, 1, settings, 1, %s FROM users',"
        " ['eve'])\n"
        """text = '{"runtime": {"log_level": "debug"}}'"""
    )
    told = operator("settings", "edit", EDITOR=editor(tmp_path, overtaken), code=1).stderr
    assert "eve changed the settings of alice meanwhile, at 20" in told
    kept = told.rpartition("kept in ")[2].strip().rstrip(")")
    assert operator("settings", "get", "runtime.log_level").stdout == "info\n"
    text = Path(kept).read_text()
    assert '"debug"' in text
    assert stat.S_IMODE(Path(kept).stat().st_mode) == 0o600


def test_without_a_database_or_its_tables_one_line_says_what_to_do(
    operator: Operator, tmp_path: Path, database_url: str
):
    for words in (("users", "list"), ("settings", "show")):
        told = operator(*words, code=4, LIVERMORE_DATABASE_URL="").stderr
        assert f"livermore {words[0]} needs a database: set LIVERMORE_DATABASE_URL" in told
        told = operator(*words, code=4, LIVERMORE_DATABASE_URL=database_url).stderr
        assert "run livermore db apply" in told


def test_scan_looks_for_what_the_user_set_where_one_is_named(operator: Operator, valkey_url: str):
    operator("users", "add", "alice")
    operator("settings", "set", "scanner", '{"near": [200], "within": 5, "timeframe": ["4h"]}')
    client = Client(valkey_url)
    say_status(client, 1_795_176_000_000)
    client.close()
    place: dict[str, Any] = {"LIVERMORE_REDIS_URL": valkey_url}
    [found] = operator.json("scan", "--user", "alice", "--within", "7", **place)
    assert (found["levels"], found["within"], found["left_out"]) == ([200], 7, {"not stored": 1})
    [found] = operator.json("scan", **place)
    assert (found["levels"], found["within"], found["left_out"]) == ([150], 10, {"not stored": 5})
    away = {**place, "LIVERMORE_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
    done = operator("scan", "--user", "alice", "--json", **away)
    assert json.loads(done.stdout)["levels"] == [150]
    assert "what alice set for scan is not known: PostgreSQL" in done.stderr


def test_a_sample_goes_through_the_channels_of_the_user_who_is_named(operator: Operator):
    operator("users", "add", "alice")
    told = operator("alerts", "test", "--user", "alice", code=4).stderr
    assert "alice has no channel but the one in Redis, channel:user:alice:alerts" in told
    operator("settings", "set", "channels.mine", '{"kind": "log"}')
    operator("alerts", "test", "--user", "alise", code=2)
    livermore = Livermore(operator.room, "")  # what logs is another process: it sets up logging
    done = livermore(
        "alerts", "test", "--user", "alice", "--json", LIVERMORE_DATABASE_URL=operator.database_url
    )
    one = json.loads(done.stdout)
    assert (one["channel"], one["ok"]) == ("mine", True)
