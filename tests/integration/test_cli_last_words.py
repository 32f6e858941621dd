"""What ``status`` says while Redis does not hold the daemon's status."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from livermore.adapters import last_words
from livermore.adapters.store import status_key
from tests.integration.command_line import Livermore
from tests.servers import RedisServer, free_port

SAID = {"title": "Coinbase", "state": "blind", "since": 1_800_000_000_000, "note": "a: b; c"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / ".local" / "state" / "livermore"


def leave(state: Path, seconds_ago: float = 0.0, **more: object) -> None:
    assert last_words.leave(state, "coinbase", json.dumps({**SAID, **more}).encode()) == ""
    moment = time.time() - seconds_ago
    os.utime(last_words.path_in(state, "coinbase"), (moment, moment))


def gone(tmp_path: Path) -> Livermore:
    return Livermore(tmp_path, f"redis://127.0.0.1:{free_port()}")


def test_words_left_behind_are_shown_when_redis_does_not_answer(tmp_path: Path, state: Path):
    livermore = gone(tmp_path)
    assert livermore("status").returncode == 1
    leave(state, 5)
    done = livermore("status")
    assert done.returncode == 0
    assert "blind since 2027-01-15T08:00:00Z: a: b; c" in done.stdout
    document = json.loads(livermore("status", "--json").stdout)
    assert 5_000 <= document["age"] < 45_000


def test_words_left_behind_are_shown_when_there_is_no_private_valkey(tmp_path: Path, state: Path):
    livermore = Livermore(tmp_path, "")
    assert livermore("status").returncode == 3
    leave(state)
    assert livermore("status").returncode == 0


def test_words_of_a_daemon_that_is_gone_do_not_count(tmp_path: Path, state: Path):
    leave(state, last_words.KEPT + 1)
    assert gone(tmp_path)("status").returncode == 1
    assert Livermore(tmp_path, "")("status").returncode == 3


def test_the_younger_words_count(tmp_path: Path, state: Path, own_valkey: RedisServer):
    livermore = Livermore(tmp_path, own_valkey.url)
    leave(state, 10)
    assert "blind" in livermore("status").stdout, "Redis holds none"
    with own_valkey.client() as client:
        client.set(status_key("coinbase"), json.dumps({**SAID, "state": "live"}), ex=45)
        assert "live" in livermore("status").stdout, "those in Redis are new"
        client.expire(status_key("coinbase"), 15)  # said half a minute ago
        assert "blind" in livermore("status").stdout


def test_words_that_are_damaged_are_one_line(tmp_path: Path, state: Path):
    last_words.leave(state, "coinbase", b'{"state":')
    done = gone(tmp_path)("status")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "status-coinbase.json holds what is no status" in line


def test_a_place_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    assert "file" in last_words.leave(file / "state", "coinbase", b"{}")
    assert last_words.read(file / "state", "coinbase") is None
    directory = tmp_path / "state"
    last_words.path_in(directory, "coinbase").mkdir(parents=True)
    assert last_words.leave(directory, "coinbase", b"{}")
    assert [path.name for path in directory.iterdir()] == ["status-coinbase.json"]


def test_only_the_user_reads_a_directory_made_for_it(tmp_path: Path):
    last_words.leave(tmp_path / "state", "coinbase", b"{}")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
