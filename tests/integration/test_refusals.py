"""``livermore run`` where an exchange will not serve us: a line, an exit code, and no loop."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command_line import Livermore
from tests.receiver import Receiver, answer, receiving

BODY = {"code": 0, "msg": "Service unavailable from a restricted location"}
NOWHERE = "ws://127.0.0.1:1"


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


@contextlib.contextmanager
def refusing() -> Iterator[Receiver]:
    """An exchange's REST that answers 451 to everything."""
    with receiving() as exchange:
        exchange.script += [answer(451, BODY)] * 100
        yield exchange


def where(name: str, exchange: Receiver) -> list[str]:
    url = exchange.url("")
    return [f"--rest-url={name}={url}", f"--websocket-url={name}={NOWHERE}"]


@pytest.mark.parametrize(
    ("name", "step"),
    [("binance", "livermore run binance_us"), ("binance_us", "livermore run binance")],
)
def test_who_does_not_serve_us_ends_the_daemon_in_one_line_with_the_alternative(
    livermore: Livermore, name: str, step: str
):
    with refusing() as exchange:
        done = livermore("run", name, *where(name, exchange), "--log-level", "error")
        asked = len(exchange.requests)
    assert (done.returncode, done.stdout, asked) == (4, "", 1)
    [line] = done.stderr.splitlines()
    assert line.startswith(f"livermore: {name}: 451")
    assert line.endswith(step)


def test_a_country_that_is_not_served_is_told_without_asking(livermore: Livermore):
    with refusing() as exchange:
        words = ("run", "binance", *where("binance", exchange), "--log-level", "error")
        done = livermore(*words, "--country", "us")
        again = livermore(*words, LIVERMORE_COUNTRY="US")
        filled = livermore(
            "backfill", "-e", "binance", "-s", "BTC-USDT", "--country", "US",
            f"--rest-url={exchange.url('')}",
        )  # fmt: skip
        assert exchange.requests == []
    for one in (done, again, filled):
        assert (one.returncode, one.stdout) == (4, "")
        assert one.stderr.startswith("livermore: binance: Binance does not serve US ")
        assert one.stderr.endswith("use Binance.US instead: livermore run binance_us\n")


def test_doctor_tells_it_before_anything_runs(livermore: Livermore):
    with refusing() as exchange:
        words = ("doctor", "-e", "binance", *where("binance", exchange), "--json")
        checks = {one["check"]: one for one in json.loads(livermore(*words).stdout)["checks"]}
        assert checks["REST"]["verdict"] == "fail"
        assert "451" in checks["REST"]["text"]
        asked = len(exchange.requests)
        found = livermore(*words, "--country", "US")
        checks = {one["check"]: one for one in json.loads(found.stdout)["checks"]}
        assert (found.returncode, checks["country"]["verdict"]) == (1, "fail")
        assert checks["country"]["exchange"] == "binance"
        assert "REST" not in checks
        assert len(exchange.requests) == asked


def test_of_several_the_one_that_refuses_is_shown_while_the_others_are_tried(
    livermore: Livermore,
):
    with refusing() as binance, receiving() as coinbase:
        coinbase.script += [answer(503)] * 100
        words = [*where("binance", binance), *where("coinbase", coinbase)]
        with livermore.start("run", "coinbase", "binance", *words) as process:
            assert process.stderr is not None
            told: list[str] = []
            while not any("not followed any more" in line for line in told):
                told.append(process.stderr.readline())
                assert told[-1], told
            deadline = time.monotonic() + 30
            while True:
                done = livermore("status", "--json")
                states = [json.loads(line)["state"] for line in done.stdout.splitlines()]
                if states == ["connecting", "ended"]:
                    break
                assert time.monotonic() < deadline, done
                time.sleep(0.2)
            shown = livermore("status", "-e", "binance").stdout
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
            assert process.returncode == 0
        assert len(binance.requests) == 1
    assert "nothing is followed: binance: 451" in " ".join(shown.replace("│", " ").split())
    assert "".join([*told, err]).count("not followed any more") == 1
    assert livermore("status").returncode == 3


def test_when_all_refuse_the_first_one_says_why_it_ends(livermore: Livermore):
    with refusing() as one, refusing() as other:
        words = [*where("binance", one), *where("binance_us", other)]
        done = livermore("run", "binance", "binance_us", *words)
    assert done.returncode == 4
    *log, line = done.stderr.splitlines()
    assert sum("not followed any more" in text for text in log) == 2
    assert line.startswith(("livermore: binance: 451", "livermore: binance_us: 451"))
