"""Commands that run for a while, and what every command has in common."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from livermore.adapters.valkey import find_private_valkey, valkey_binary
from tests.integration.command_line import Livermore
from tests.servers import running_server

COMMANDS = (
    "run", "backfill", "status", "exchanges", "candles", "compare", "gaps", "tail", "simulate",
    "demo", "doctor", "positions", "fees", "credentials", "symbols", "users", "settings", "db",
)  # fmt: skip


@pytest.fixture
def livermore(tmp_path: Path) -> Livermore:
    """No Redis is configured, and nothing runs."""
    return Livermore(tmp_path, "")


@contextlib.contextmanager
def simulator(livermore: Livermore, *words: str) -> Iterator[dict[str, str]]:
    with livermore.start("simulate", "coinbase", "--symbols", "3", "--json", *words) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (0, "", "")


def test_help_is_quick_and_names_every_command(livermore: Livermore):
    begun = time.monotonic()
    done = livermore("--help")
    took = time.monotonic() - begun
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", done.stdout, re.MULTILINE), command
    assert took < 2, "0.14 s on an idle machine"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(livermore: Livermore, command: str):
    done = livermore(command, "--help")
    assert done.returncode == 0
    assert f"Example: livermore {command}" in done.stdout


@pytest.mark.parametrize(
    "module", ["redis", "trio", "numpy", "httpx", "cryptography", "livermore.exchanges"]
)
def test_nothing_slow_is_imported_before_a_command_needs_it(livermore: Livermore, module: str):
    code = f"import sys, livermore.cli.app; sys.exit({module!r} in sys.modules)"
    with livermore.python("-c", code) as process:
        assert process.wait(20) == 0


def test_version(livermore: Livermore):
    assert re.fullmatch(r"livermore \d+\.\d+\.\d+\n", livermore("--version").stdout)
    with livermore.python("-m", "livermore", "--version") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, livermore("--version").stdout, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("statsu",), 2, "No such command 'statsu'. Did you mean 'status'?"),
        (("gaps", "--jsno"), 2, "No such option: --jsno"),
        (("candles",), 2, "Missing argument 'SYMBOL'"),
        (("candles", "BTC-USD", "6m"), 2, "unknown timeframe '6m': use one of 5m, 15m"),
        (("candles", "BTCUSD", "5m"), 2, "'BTCUSD' is not a symbol"),
        (("candles", "A-B", "5m", "--last", "0"), 2, "--last 0: write a number"),
        (("candles", "A-B", "5m", "--csv", "--json"), 2, "exclude each other"),
        (("gaps", "-e", "coinbsae"), 2, "did you mean coinbase?"),
        (("run", "coinbase", "--idle"), 2, "--idle connects to nothing"),
        (("run", "coinbase", "--top", "many"), 2, "--top: a whole number"),
        (("run", "coinbase", "--country", "Uk"), 2, "did you mean GB?"),
        (("run", "coinbase", "binance", "--rest-url", "http://x"), 2, "such as coinbase=http://…"),
        (("run", "coinbase", "--rest-url", "binance=http://x"), 2, "is meant for binance"),
        (("run", "coinbase", "--websocket-url", "binance=ws://x"), 2, "--websocket-url: a URL is"),
        (("doctor", "-e", "coinbase", "--rest-url", "binance=http://x"), 2, "meant for binance"),
        (("backfill", "-e", "coinbase", "--rest-url", "binance=http://x"), 2, "only coinbase"),
        (("verify", "-e", "coinbase", "--rest-url", "binance=http://x"), 2, "only coinbase"),
        (("fees", "coinbase", "--rest-url", "binance=http://x"), 2, "only coinbase is asked"),
        (("run", "coinbase", "--symbols", "A-B@binance"), 2, "livermore run coinbase binance"),
        (("candles", "A-B", "5m", "-e", "binance"), 3, "start one with: livermore run binance (or"),
        (("gaps", "-e", "binance_us"), 3, "start one with: livermore run binance_us (or"),
        (("compare", "BTC-USD", "BTC-USDT@binance"), 2, "BTC-USD: say where"),
        (("run", "coinbase", "--for", "60"), 2, "--for: write a duration with its unit"),
        (("run", "coinbase", "--top", "3", "--symbols", "A-B"), 2, "exclude each other"),
        (("demo", "--for", "x"), 2, "--for: write a duration"),
        (("demo", "--speed", "0"), 2, "speed is 0"),
        (("simulate", "coinbase", "--replay", "x.csv"), 2, "give one for each"),
        (("simulate", "coinbase", "--speed", "0"), 2, "speed is 0"),
        (("simulate", "coinbase", "--scenario", "no.json"), 4, "no.json: "),
        (("backfill",), 2, "name symbols"),
        (("backfill", "--since", "never", "-s", "A-B"), 2, "--since 'never' is no time"),
        (("status", "--config", "no.toml"), 4, "no.toml: no such file"),
        (("status", "--redis-url", "http://x"), 4, "unknown scheme 'http'"),
        (("status", "--redis-url", "redis://127.0.0.1?passwrd=x"), 4, "did you mean password?"),
        (("doctor", "--redis-url", "redis://127.0.0.1?passwrd=x"), 4, "unknown option passwrd"),
        (("run", "coinbase", "--redis-url", "redis://127.0.0.1?db=x"), 4, "option db: a whole"),
        (("status", "--state-dir", ""), 2, "--state-dir: a directory is wanted"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    livermore: Livermore, words: tuple[str, ...], code: int, message: str
):
    done = livermore(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("livermore: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_wrong_setting_ends_every_command_with_4(livermore: Livermore):
    (livermore.room / "livermore.toml").write_text("tpo = 3\n")
    for words in (("status",), ("gaps",), ("doctor",), ("run", "coinbase")):
        done = livermore(*words)
        assert done.returncode == 4
        assert done.stderr == (
            "livermore: livermore.toml: unknown setting 'tpo': did you mean top?\n"
        )


def test_what_is_no_redis_is_a_matter_of_configuration(livermore: Livermore):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with livermore.start("status", "--redis-url", url) as process:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "does not speak the Redis protocol" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_simulate_says_its_urls_in_one_line_and_ends_with_0(
    livermore: Livermore, how: signal.Signals
):
    with livermore.start("simulate", "coinbase", "--symbols", "3") as process:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        assert urls["exchange"] == "coinbase"
        assert urls["websocket"].startswith("ws://127.0.0.1:")
        with urllib.request.urlopen(urls["rest"] + "/api/v3/brokerage/time") as reply:
            assert "epochMillis" in json.load(reply)
        process.send_signal(how)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (0, "", "")


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {check["check"]: check for check in json.loads(done.stdout)["checks"]}


def test_doctor_finds_nothing_wrong_where_nothing_is_and_leaves_nothing_behind(
    livermore: Livermore,
):
    with simulator(livermore, "--speed", "1") as urls:
        where = ("--rest-url", urls["rest"], "--websocket-url", urls["websocket"])
        done = livermore("doctor", "--json", *where)
    assert done.returncode == 0, done.stdout
    found = checks(done)
    assert {check["verdict"] for check in found.values()} == {"pass"}
    assert "will start a private Valkey" in found["Redis"]["text"]
    assert "WebSocket" in found
    assert list(livermore.room.iterdir()) == []


def test_doctor_gives_each_failure_a_next_step(livermore: Livermore):
    nowhere = ("--rest-url", "http://127.0.0.1:1", "--websocket-url", "ws://127.0.0.1:1")
    redis = ("--redis-url", "redis://:hunter2@127.0.0.1:1")
    (livermore.room / "file").write_text("")
    done = livermore("doctor", "--json", "--state-dir", "file/state", *redis, *nowhere)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout
    found = checks(done)
    failed = {name for name, check in found.items() if check["verdict"] == "fail"}
    assert failed == {"state directory", "Redis", "REST", "WebSocket"}
    assert all(found[name]["step"] for name in failed)
    assert not json.loads(done.stdout)["ok"]


def test_doctor_notices_a_clock_that_is_off(livermore: Livermore):
    with simulator(livermore, "--speed", "1000") as urls:
        time.sleep(0.2)
        where = ("--rest-url", urls["rest"], "--websocket-url", urls["websocket"])
        found = checks(livermore("doctor", "--json", *where))
    assert found["clock"]["verdict"] == "warn"
    assert "behind" in found["clock"]["text"]


def test_doctor_judges_a_real_server(livermore: Livermore, server_directory: Path):
    nowhere = ("--rest-url", "http://127.0.0.1:1", "--websocket-url", "ws://127.0.0.1:1")
    room = server_directory / "judged"
    with running_server(valkey_binary(), room, persistent=False) as server:
        with server.client() as client:
            client.config_set("maxmemory", "20mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        found = checks(livermore("doctor", "--json", "--redis-url", server.url, *nowhere))
        assert found["Redis"]["verdict"] == "pass"
        assert found["Redis"]["text"].startswith("Valkey ")
        assert found["eviction"]["verdict"] == "fail"
        assert found["persistence"]["verdict"] == "warn"
        assert found["memory"]["verdict"] == "fail"
        with server.client() as client:
            client.config_set("maxmemory", "0")
            client.config_set("appendonly", "yes")
        found = checks(livermore("doctor", "--json", "--redis-url", server.url, *nowhere))
        assert found["eviction"]["verdict"] == "warn"
        assert found["persistence"]["verdict"] == "pass"
        assert found["memory"]["verdict"] == "pass"


def test_run_can_be_watched_from_another_terminal_and_leaves_nothing_running(
    livermore: Livermore,
):
    with simulator(livermore, "--speed", "20") as urls:
        where = ("--rest-url", urls["rest"], "--websocket-url", urls["websocket"])
        with livermore.start("run", "coinbase", "--top", "2", *where) as daemon:
            deadline = time.monotonic() + 60
            while True:
                done = livermore("status", "--json")
                if done.returncode == 0 and json.loads(done.stdout)["state"] == "live":
                    break
                assert done.returncode in (0, 3)
                assert time.monotonic() < deadline, done
                time.sleep(0.3)
            symbols = json.loads(done.stdout)["symbols"]
            assert len(symbols) == 2
            candles = json.loads(livermore("candles", symbols[0], "1h", "--json").stdout)
            assert len(candles["candles"]) == 20
            assert livermore("gaps", "--timeframe", "1d,4h").returncode == 0
            planned = livermore("backfill", "--dry-run", "--json", "-s", symbols[0], *where[:2])
            assert json.loads(planned.stdout) == {
                "by": "nobody",
                "requests": 0,
                "planned": [],
                "remaining": [],
                "absent": 0,
                "notices": [],
            }
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(15) == 0
            daemon.communicate()
    assert livermore("status").returncode == 3
    assert find_private_valkey(livermore.room / ".local/state/livermore") is None


def test_a_backfill_without_a_daemon_fills_and_counts(livermore: Livermore):
    with simulator(livermore, "--speed", "1") as urls:
        where = ("--rest-url", urls["rest"], "-s", "BTC-USD", "--timeframe", "1h", "--json")
        with private_valkey(livermore):
            plan = livermore("backfill", "--dry-run", *where)
            assert plan.returncode == 6
            planned = json.loads(plan.stdout)["planned"]
            assert [(p["symbol"], p["timeframe"]) for p in planned] == [("BTC-USD", "1h")]
            done = livermore("backfill", *where)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["remaining"] == []
            assert "done" in done.stderr
            stored = livermore("candles", "BTC-USD", "1h", "--last", "all", "--json")
            assert len(json.loads(stored.stdout)["candles"]) == planned[0]["candles"]
            again = livermore("backfill", *where)
            assert (again.returncode, json.loads(again.stdout)["planned"]) == (0, [])


@contextlib.contextmanager
def private_valkey(livermore: Livermore) -> Iterator[None]:
    """Somebody else uses it as well, so that it outlives each command."""
    code = (
        "import sys; from pathlib import Path; from livermore.adapters.valkey import *\n"
        "with open_private_valkey(Path.home() / '.local/state/livermore'):\n"
        "    print(flush=True); sys.stdin.read()"
    )
    with livermore.python("-c", code, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(timeout=20)


def test_the_demo_needs_nothing_and_leaves_nothing(livermore: Livermore):
    done = livermore("demo", "--symbols", "2", "--speed", "120", "--for", "12s")
    assert done.returncode == 0, done.stderr
    assert " live" in done.stderr
    assert re.search(r"^20\d\d-\S+Z \S+-USD\s+5m  (close|reading)", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout + done.stderr
    assert list(livermore.room.iterdir()) == []


def test_the_demo_as_json_is_what_is_published(livermore: Livermore):
    done = livermore("demo", "--symbols", "2", "--speed", "120", "--for", "8s", "--json")
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"close", "reading"} <= {one["type"] for one in said}
    assert all(one["open_time"].endswith("Z") for one in said)


ENDS = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])


@ENDS
def test_a_command_that_is_interrupted_ends_with_0(livermore: Livermore, how: signal.Signals):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # answers nobody
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with livermore.start("gaps", "--redis-url", url) as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(how)
                out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "livermore: interrupted\n")


def test_a_command_started_in_the_background_of_a_script_ends_by_sigterm(livermore: Livermore):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            f"from livermore.cli import main; sys.exit(main(['gaps', '--redis-url', '{url}']))"
        )
        with livermore.python("-c", code) as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                process.communicate()


@ENDS
def test_tail_and_a_watched_status_end_with_0(livermore: Livermore, how: signal.Signals):
    with private_valkey(livermore):
        for words in (("tail",), ("status", "--watch")):
            with livermore.start(*words) as process:
                assert process.stderr is not None
                process.stderr.readline()  # that no daemon runs
                process.send_signal(how)
                assert process.wait(10) == 0
                assert "Traceback" not in process.communicate()[1]


@ENDS
@pytest.mark.parametrize("later", [0.0, 0.03, 0.1])
def test_an_impatient_second_signal_changes_nothing(
    livermore: Livermore, how: signal.Signals, later: float
):
    with livermore.start("run", "coinbase", "--rest-url", "http://127.0.0.1:1") as process:
        assert process.stderr is not None
        assert "lease taken" in process.stderr.readline()
        process.send_signal(how)
        time.sleep(later)
        process.send_signal(how)
        _, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert find_private_valkey(livermore.room / ".local/state/livermore") is None


@ENDS
def test_an_interrupted_backfill_gives_the_exchange_back(livermore: Livermore, how: signal.Signals):
    with simulator(livermore, "--speed", "1") as urls:
        where = ("--rest-url", urls["rest"], "-s", "BTC-USD,ETH-USD,SOL-USD")
        with livermore.start("backfill", *where) as process:
            assert process.stderr is not None
            assert "asking the exchange" in process.stderr.readline()
            process.send_signal(how)
            _, err = process.communicate(timeout=10)
        assert (process.returncode, err.splitlines()[-1]) == (0, "livermore: interrupted")
        state_dir = livermore.room / ".local/state/livermore"
        assert find_private_valkey(state_dir) is None
        assert livermore("backfill", *where, "--timeframe", "1d").returncode in (0, 6)


def test_who_listens_keeps_the_private_valkey_of_a_daemon_that_ends(livermore: Livermore):
    state_dir = livermore.room / ".local/state/livermore"
    with contextlib.ExitStack() as daemon:
        daemon.enter_context(private_valkey(livermore))
        with livermore.start("tail") as process:
            assert process.stderr is not None
            assert "waiting for one" in process.stderr.readline()
            daemon.close()
            assert find_private_valkey(state_dir) is not None
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            process.communicate()
    assert find_private_valkey(state_dir) is None
