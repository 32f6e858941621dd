"""``explain``, ``indicators`` and ``scan`` over what a writer and its readings stored."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.cli.times import iso
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.timeframe import Timeframe
from tests.integration.command_line import Livermore
from tests.integration.test_readings import T0, Desk, candle, nothing, recursion

M5 = Timeframe.M5
FIELDS = ("macdv", "signal", "histogram", "stage", "observed", "empty", "warm", "withheld")


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


@pytest.fixture
def client(valkey_url: str) -> Iterator[Client]:
    client = Client(valkey_url)
    yield client
    client.close()


def series(symbol: str = "BTC-USD", timeframe: Timeframe = M5) -> Series:
    return Series("coinbase", symbol, timeframe)


def slot_time(slot: int) -> int:
    return T0 + slot * M5.ms


def say_status(client: Client, clock: int, **changes: object) -> None:
    said = {"state": "live", "clock": clock, "symbols": ["BTC-USD"], **changes}
    client.one("SET", store.status_key("coinbase"), json.dumps(said), "EX", 45)


def stored_reading(client: Client, of: Series) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.one("GET", store.keys(of).indicator))
    return found


def change_reading(client: Client, of: Series, **changes: object) -> None:
    """As damage would, the state behind it included."""
    reading = stored_reading(client, of)
    state = {**reading["state"], **{k: v for k, v in changes.items() if k in reading["state"]}}
    text = json.dumps({**reading, **changes, "state": state}, separators=(",", ":"))
    client.one("SET", store.keys(of).indicator, text)


def live(
    url: str,
    slots: Sequence[int],
    *,
    quiet: int = 0,
    symbols: Sequence[str] = ("BTC-USD",),
    then: Sequence[int] = (),
) -> list[Candle]:
    """Closes at ``slots``, every ``quiet``-th empty, stored and read, ``then`` one by one.

    The candles of the first symbol as they were stored when all were.
    """
    told: list[Candle] = []

    async def run() -> None:
        desk = Desk(url, symbols, "coinbase")
        await desk.start()

        def of(slot: int) -> list[Candle]:
            one = nothing(desk, slot) if quiet and slot % quiet == 1 else candle(desk, slot)
            return [attrs.evolve(one, series=desk.series(symbol=symbol)) for symbol in symbols]

        for at in range(0, len(slots), 200):
            await desk.close(*(c for slot in slots[at : at + 200] for c in of(slot)))
        told.extend(await desk.stored())
        for slot in then:
            await desk.close(*of(slot))
            told.append((await desk.stored())[-1])
        desk.shut()

    trio.run(run)
    return told


def explained(livermore: Livermore, *words: str, code: int = 0) -> dict[str, Any]:
    done = livermore("explain", *words, "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- explain ----------------------------------------------------------------------------------


def test_the_newest_reading_is_explained_and_is_what_is_stored(
    livermore: Livermore, client: Client
):
    candles = live(livermore.url, range(240), quiet=7)
    say_status(client, slot_time(240) + 20_000)
    for timeframe in (M5, Timeframe.M15):
        found = explained(livermore, "BTC-USD", timeframe.value)
        assert found["newest"] is True
        assert found["stored"]["same"] is True
        reading = stored_reading(client, series(timeframe=timeframe))
        assert {name: found[name] for name in FIELDS} == {name: reading[name] for name in FIELDS}
    found = explained(livermore, "BTC-USD", "5m")
    expected = recursion(candles)
    assert found["macdv"] == pytest.approx(expected.macdv, abs=1e-9)
    assert found["at"]["atr26"] == pytest.approx(expected.atr, rel=1e-9)
    assert (found["anchor"]["kind"], found["anchor"]["first"]) == ("oldest stored candle", iso(T0))
    assert found["used"]["traded"] == expected.observed
    assert found["used"]["empty"] == expected.count - expected.observed > 0
    assert found["used"]["evidence"] == {"assumed": 0, "stream": 240, "rest": 0}
    assert any("240 candles are not confirmed by REST" in text for text in found["uncertain"])
    assert len(found["candles"]) == 240


def test_an_older_reading_is_explained_by_the_candles_up_to_it(
    livermore: Livermore, client: Client
):
    candles = live(livermore.url, range(240))
    say_status(client, slot_time(240) + 20_000)
    inside = iso(slot_time(150) + 123_000)
    found = explained(livermore, "BTC-USD", "5m", inside)
    assert (found["open_time"], found["newest"]) == (iso(slot_time(150)), False)
    assert found["macdv"] == pytest.approx(recursion(candles[:151]).macdv, abs=1e-9)
    assert found["stored"]["same"] is None
    assert "those of older candles are not kept" in found["stored"]["text"]
    ago = explained(livermore, "BTC-USD", "5m", "2h")
    assert ago["open_time"] == iso(M5.floor(slot_time(240) + 20_000 - 7_200_000))


def test_beyond_what_is_kept_the_carried_state_leads_to_the_same_reading(
    livermore: Livermore, client: Client
):
    candles = live(livermore.url, range(1000), quiet=5, then=range(1000, 1004))
    assert len(candles) == 1004
    say_status(client, slot_time(1004) + 20_000)
    found = explained(livermore, "BTC-USD", "5m")
    assert found["stored"]["same"] is True
    assert found["anchor"]["kind"] == "carried state"
    assert found["used"]["carried"] + found["used"]["count"] == 1004
    assert found["used"]["carried"] > 0
    assert found["at"]["atr26"] == pytest.approx(recursion(candles).atr, rel=1e-12)
    assert found["macdv"] == pytest.approx(recursion(candles).macdv, abs=1e-9)
    assert all(seed["carried"] for seed in found["seeds"] if seed["term"] == "ema12") is (
        found["used"]["carried"] >= 12
    )
    client.one("HSET", store.keys(series()).companion, "edge", "{}")
    found = explained(livermore, "BTC-USD", "5m", code=7)
    assert found["anchor"]["kind"] == "oldest stored candle"
    assert any("is of no use" in text for text in found["uncertain"])


def test_a_stored_reading_that_is_not_what_its_candles_lead_to_is_told(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240))
    say_status(client, slot_time(240) + 20_000)
    wrong = stored_reading(client, series())["ema12"] * 1.001
    change_reading(client, series(), ema12=wrong)
    found = explained(livermore, "BTC-USD", "5m", code=7)
    assert found["stored"]["differences"]["ema12"]["stored"] == wrong
    done = livermore("explain", "BTC-USD", "5m")
    assert done.returncode == 7
    assert "THE STORED READING DIFFERS" in done.stdout
    assert f"stored {wrong}" in done.stdout
    client.one("SET", store.keys(series()).indicator, "{}")
    found = explained(livermore, "BTC-USD", "5m")
    assert found["stored"]["same"] is None
    assert "not understood" in found["stored"]["text"]


def test_a_reading_that_has_not_followed_yet_is_not_called_wrong(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240))
    say_status(client, slot_time(242))

    def write(slot: int, close: float) -> None:
        high, low = max(close, 100) + 1, min(close, 100) - 1
        asked = slot_time(slot) + 10 * M5.ms
        one = Candle(series(), slot_time(slot), 100, high, low, close, 1, as_of=asked)
        epoch = int(client.one("HGET", store.keys(series()).companion, "epoch"))
        client.run([store.write(series(), epoch, [attrs.evolve(one, evidence=Evidence.REST)])])

    write(230, 107.0)
    found = explained(livermore, "BTC-USD", "5m")
    assert found["stored"]["same"] is None
    assert "has not followed the newest correction yet" in found["stored"]["text"]
    write(240, 101.0)
    found = explained(livermore, "BTC-USD", "5m")
    assert found["open_time"] == iso(slot_time(240))
    assert "has not followed the newest candle yet" in found["stored"]["text"]


def test_a_missing_slot_is_told_with_what_it_withholds(livermore: Livermore, client: Client):
    live(livermore.url, [slot for slot in range(240) if slot != 200])
    say_status(client, slot_time(240) + 20_000)
    found = explained(livermore, "BTC-USD", "5m")
    assert found["macdv"] is None
    assert found["missing"] == [iso(slot_time(200))]
    done = livermore("explain", "BTC-USD", "5m")
    assert "MACD-V is withheld: missing candle within the last 150" in done.stdout
    done = livermore("explain", "BTC-USD", "5m", iso(slot_time(200)))
    assert done.returncode == 2
    assert "is missing, it is a gap (see: livermore gaps --symbol BTC-USD)" in done.stderr


def test_what_cannot_be_explained_is_one_line_with_what_there_is(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(30))
    say_status(client, slot_time(30) + 20_000, symbols=["BTC-USD", "ETH-USD"])
    for words, told in (
        (("BTC-USD", "5m", iso(slot_time(30))), "is not closed yet: it ends at"),
        (("BTC-USD", "5m", iso(T0 - 1)), f"from {iso(T0)} to {iso(slot_time(29))}"),
        (("BTC-USD", "5m", iso(slot_time(40))), "lies in the future"),
        (("BTC-USD", "5m", "yesterday"), "TIME 'yesterday' is no time"),
        (("ETH-USD", "5m"), "no candles of ETH-USD 5m are stored"),
        (("BTC-UDS", "5m"), "did you mean BTC-USD?"),
        (("BTC-USD", "2h"), "use one of 5m, 15m, 1h, 4h, 1d"),
        (("BTC-USD", "5m", "--candles", "x"), "write a number, or all"),
    ):
        done = livermore("explain", *words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert told in done.stderr


def test_for_people_there_are_terms_formulas_and_the_newest_candles(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240), quiet=7)
    say_status(client, slot_time(240) + 20_000)
    out = livermore("explain", "BTC-USD", "5m", "--candles", "3").stdout
    reading = stored_reading(client, series())
    terms = [f"{reading[name]:.10g}".rstrip("0") for name in ("ema12", "ema26", "atr26")]
    assert f"100 * ({terms[0]} - {terms[1]}) / {terms[2]}" in out
    assert f"MACD-V {reading['macdv']:.2f}" in out
    assert "the stored reading is the same" in out
    assert "the newest 3 of 240 candles:" in out
    assert len(out[out.index("the newest 3") :].splitlines()) == 5
    assert out.splitlines()[-1].startswith(iso(slot_time(239)))
    out = livermore("explain", "BTC-USD", "5m", "--candles", "all").stdout
    assert len(out[out.index("the newest 240") :].splitlines()) == 242
    assert "\x1b" not in out


def test_that_candles_are_late_is_said_and_that_no_daemon_runs(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240))
    say_status(client, slot_time(245) + 20_000, state="blind", note="no frames")
    done = livermore("explain", "BTC-USD", "5m", "--json")
    assert any("of the 5 closed since none is stored" in x for x in explain_said(done.stdout))
    assert "coinbase is blind: no frames" in done.stderr
    client.one("DEL", store.status_key("coinbase"))
    done = livermore("explain", "BTC-USD", "5m", "--json")
    assert "no daemon is running for coinbase" in done.stderr
    assert explain_said(done.stdout)[0].startswith("old: ")
    assert done.returncode == 0


def explain_said(text: str) -> list[str]:
    found: list[str] = json.loads(text)["uncertain"]
    return found


# -- indicators -------------------------------------------------------------------------------


def test_one_row_per_symbol_with_what_is_stored(livermore: Livermore, client: Client):
    live(livermore.url, range(240), symbols=("BTC-USD", "ETH-USD"))
    say_status(client, slot_time(240) + 20_000, symbols=["BTC-USD", "ETH-USD", "NEW-USD"])
    found = json.loads(livermore("indicators", "--json").stdout)
    assert [row["symbol"] for row in found["symbols"]] == ["BTC-USD", "ETH-USD", "NEW-USD"]
    reading = stored_reading(client, series())
    assert found["symbols"][0]["readings"]["5m"]["macdv"] == reading["macdv"]
    assert found["symbols"][0]["readings"]["5m"]["old"] is False
    withheld = found["symbols"][0]["readings"]["1h"]
    assert (withheld["macdv"], withheld["withheld"]) == (None, "fewer than 60 candles: 20")
    assert found["symbols"][2]["readings"]["5m"]["withheld"] == "no reading is stored"
    lines = livermore("indicators", "--timeframe", "5m,1h", "--why").stdout.splitlines()
    value, stage = f"{reading['macdv']:.1f}", reading["stage"]
    assert lines[1].split()[:4] == ["BTC-USD", value, stage, "–"]
    assert "BTC-USD 1h: fewer than 60 candles: 20" in lines
    only = json.loads(livermore("indicators", "-s", "eth/usd", "--json").stdout)
    assert [row["symbol"] for row in only["symbols"]] == ["ETH-USD"]


def test_a_reading_from_before_the_newest_close_is_old(livermore: Livermore, client: Client):
    live(livermore.url, range(240))
    say_status(client, slot_time(252) + 20_000)
    found = json.loads(livermore("indicators", "--json").stdout)["symbols"][0]["readings"]["5m"]
    assert (found["old"], found["age"] // 60_000) == (True, 60)
    assert "1h old" in livermore("indicators").stdout
    client.one("DEL", store.status_key("coinbase"))
    done = livermore("indicators", "--stage", "oversold")
    assert done.returncode == 0
    assert "none of 1 symbols is oversold" in done.stdout
    assert "no daemon is running for coinbase" in done.stderr


def test_a_key_of_somebody_else_hides_no_other_reading(livermore: Livermore, client: Client):
    live(livermore.url, range(240), symbols=("BTC-USD", "ETH-USD"))
    say_status(client, slot_time(240) + 20_000, symbols=["BTC-USD", "ETH-USD"])
    key = store.keys(series("ETH-USD")).indicator
    client.one("DEL", key)
    client.one("LPUSH", key, "mine")
    client.one("SET", store.keys(series("ETH-USD", Timeframe.M15)).indicator, "damaged")
    found = json.loads(livermore("indicators", "--json").stdout)["symbols"]
    assert found[0]["readings"]["5m"]["macdv"] is not None
    assert "holds what is no reading" in found[1]["readings"]["5m"]["withheld"]
    assert "not understood" in found[1]["readings"]["15m"]["withheld"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("indicators", "--stage", "x"), "use one of oversold, overbought"),
        (("indicators", "--sort", "x"), "use one of symbol, macdv, extreme"),
        (("indicators", "--timeframe", "2h"), "unknown timeframe '2h'"),
        (("indicators", "--symbol", "BTC-UDS"), "did you mean BTC-USD?"),
        (("scan", "--near", "x"), "write positive numbers"),
        (("scan", "--near", "-150"), "write positive numbers"),
        (("scan", "--within", "-1"), "from 0 up"),
        (("scan", "--within", "nan"), "from 0 up"),
    ],
)
def test_words_that_mean_nothing_are_refused_in_one_line(
    livermore: Livermore, client: Client, words: tuple[str, ...], told: str
):
    say_status(client, slot_time(240))
    done = livermore(*words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr


def test_watching_prints_again_what_changed_and_outlives_the_daemon(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240))
    say_status(client, slot_time(240) + 20_000)
    with livermore.start("indicators", "--watch", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["symbols"][0]["readings"]["5m"]["old"] is False
        say_status(client, slot_time(252) + 20_000)
        second = json.loads(process.stdout.readline())
        assert second["symbols"][0]["readings"]["5m"]["old"] is True
        client.one("DEL", store.status_key("coinbase"))
        assert json.loads(process.stdout.readline())["daemon"] is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.communicate()


# -- scan -------------------------------------------------------------------------------------


def test_scan_finds_what_is_close_and_counts_what_it_cannot_judge(
    livermore: Livermore, client: Client
):
    live(livermore.url, range(240))
    say_status(client, slot_time(240) + 20_000)
    value = abs(stored_reading(client, series())["macdv"])
    near = f"{value + 3:.6f}"
    done = livermore("scan", "--near", near, "--within", "5", "--timeframe", "5m")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith("BTC-USD  5m ")
    assert done.stdout.splitlines()[1].split()[4] == "-3.00"
    found = json.loads(livermore("scan", "--near", near, "--within", "5", "--json").stdout)
    assert next(one["timeframe"] for one in found["near"]) == "5m"
    assert found["left_out"]["withheld"] >= 2
    done = livermore("scan", "--near", "9000", "-t", "5m")
    assert (done.returncode, done.stdout) == (0, "none of 1 readings within 10 of ±9000\n")


def test_scan_does_not_take_an_old_reading_for_a_current_one(livermore: Livermore, client: Client):
    live(livermore.url, range(240))
    say_status(client, slot_time(252) + 20_000)
    found = json.loads(livermore("scan", "--within", "1000", "--timeframe", "5m", "--json").stdout)
    assert (found["near"], found["left_out"], found["looked_at"]) == ([], {"old": 1}, 0)


# -- nothing there ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("explain", "BTC-USD", "1h"), ("indicators",), ("scan",)])
def test_with_nothing_stored_and_no_daemon_the_answer_is_how_to_start_one(
    livermore: Livermore, words: tuple[str, ...]
):
    done = livermore(*words)
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "start one with: livermore run coinbase" in done.stderr


@pytest.mark.parametrize("words", [("explain", "BTC-USD", "1h"), ("indicators",), ("scan",)])
def test_an_unreachable_redis_is_one_line_without_its_password(
    livermore: Livermore, words: tuple[str, ...]
):
    done = livermore(*words, "--redis-url", "redis://:hunter2@127.0.0.1:1/0")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "redis://:***@127.0.0.1:1/0" in done.stderr
