"""Commands that read the store, run as a person runs them, against a real Valkey."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from livermore.adapters import store
from livermore.adapters.redis import Client, script
from livermore.cli.store import stored_series
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.gap import Gap, Outcome, encode_gap
from livermore.market.timeframe import Timeframe
from tests.integration.command_line import Livermore

NOW = 1_800_000_000_000 + 20_000
"""The exchange's time, 2027-01-15T08:00:20Z: 20 s after the end of a slot."""
BTC = Series("coinbase", "BTC-USD", Timeframe.M5)
LAST = Timeframe.M5.last_closed(NOW)
MINUTES = 60_000


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


@pytest.fixture
def client(valkey_url: str) -> Iterator[Client]:
    client = Client(valkey_url)
    yield client
    client.close()


def candle(time: int, series: Series = BTC, close: float = 100.5) -> Candle:
    return Candle(series, time, 100.0, 102.25, 99.5, close, 3.25, Kind.TRADED, Evidence.REST, time)


def put(client: Client, candles: Sequence[Candle], *, asked: bool = True) -> None:
    series = candles[0].series
    calls = [store.write(series, 1, candles, history=True)]
    if asked:
        calls.append(script("asked", (store.keys(series).companion,), 1, candles[0].open_time))
    client.run(calls)


def slots(count: int, series: Series = BTC) -> list[int]:
    """The newest ``count`` closed slots."""
    ms = series.timeframe.ms
    last = series.timeframe.last_closed(NOW)
    return [last - ms * back for back in reversed(range(count))]


STATUS = {
    "exchange": "coinbase",
    "title": "Coinbase",
    "pid": 4711,
    "host": "box",
    "version": "0.1.0",
    "epoch": 3,
    "state": "live",
    "since": NOW - 3_600_000,
    "note": "all 1 symbols are seen",
    "clock": NOW,
    "started": NOW - 3_700_000,
    "symbols": ["BTC-USD"],
    "rejected": {"DOG-USD": "not listed"},
    "notices": ["BTC-USDC is the same market as BTC-USD"],
    "connections": [
        {
            "name": "coinbase/1",
            "state": "live",
            "since": NOW - 60_000,
            "symbols": 1,
            "frames": 1234,
            "reconnects": 0,
            "error": None,
        }
    ],
    "newest_close": NOW - 20_000,
    "newest_close_age": 20_000,
    "close_lag": {"p50": 150, "p99": 900, "count": 12},
    "history": {"done": 5, "total": 5},
    "gaps": 0,
    "budget": {"per_second": 8.0, "used_last_minute": 3, "refusals": 0},
    "reconnects": 0,
    "pending": 0,
    "counts": {"malformed": 1},
}


def say_status(client: Client, ttl: int = 45, **changes: object) -> None:
    said = json.dumps({**STATUS, **changes})
    client.one("SET", store.status_key("coinbase"), said, "EX", ttl)


def only_btc_5m(found: dict[str, object]) -> list[tuple[str, str, int]]:
    gaps = found["gaps"]
    assert isinstance(gaps, list)
    return [(g["first"], g["last"], g["candles"]) for g in gaps]


# -- candles ----------------------------------------------------------------------------------


def test_candles_shows_the_newest_twenty_oldest_first(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(30)])
    done = livermore("candles", "BTC-USD", "5m")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == 21
    assert lines[-1].startswith("2027-01-15T07:55:00Z")
    assert lines[-1].split()[1:] == "100 102.25 99.5 100.5 3.25 traded rest 0".split()
    assert "\x1b" not in done.stdout


def test_candles_as_json_and_csv_hold_the_exact_values(livermore: Livermore, client: Client):
    price = 0.1 + 0.2
    first, second = slots(2)
    written = attrs.evolve(candle(first), open=price, low=price, high=1e22, volume=1e-9, close=1.0)
    put(client, [written, empty(BTC, second, 1.0, Evidence.ASSUMED, 0)])
    document = json.loads(livermore("candles", "btc/usd", "5m", "--json").stdout)
    assert document["symbol"] == "BTC-USD"
    assert document["damaged"] == 0
    one, two = document["candles"]
    assert (one["open"], one["high"], one["volume"]) == (price, 1e22, 1e-9)
    assert (two["kind"], two["evidence"], two["close"]) == ("empty", "assumed", 1.0)
    rows = list(csv.DictReader(io.StringIO(livermore("candles", "BTC-USD", "5m", "--csv").stdout)))
    assert [float(row["open"]) for row in rows] == [price, 1.0]
    assert rows[0]["open_time"] == "2027-01-15T07:50:00Z"


def test_last_and_since_choose_candles(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(30)])
    say_status(client)

    def count(*words: str) -> int:
        found = json.loads(livermore("candles", "BTC-USD", "5m", "--json", *words).stdout)
        return len(found["candles"])

    assert count("--last", "3") == 3
    assert count("--last", "all") == 30
    assert count("--since", "1h") == 11  # of the exchange's hour, not of ours
    assert count("--since", "2027-01-15T07:45:00Z") == 3
    assert count("--since", "1h", "--last", "2") == 2


def test_damaged_members_are_counted_and_told(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(3)])
    client.one("ZADD", store.keys(BTC).candles, LAST + 1, "not a candle")
    done = livermore("candles", "BTC-USD", "5m", "--json")
    assert json.loads(done.stdout)["damaged"] == 1
    assert len(json.loads(done.stdout)["candles"]) == 3
    assert "1 members of candles:coinbase:BTC-USD:5m are damaged" in done.stderr


def test_an_unknown_symbol_names_the_nearest(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(3)])
    done = livermore("candles", "BTC-UDS", "5m")
    assert done.returncode == 2
    assert done.stderr == "livermore: unknown symbol BTC-UDS: did you mean BTC-USD?\n"
    assert "coinbase has BTC-USD here" in livermore("candles", "XYZW-EUR", "5m").stderr


def test_another_name_of_a_followed_market_is_that_market(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(3)])
    unknown = livermore("candles", "BTC-USDC", "5m")
    assert unknown.returncode == 2
    assert "did you mean BTC-USD?" in unknown.stderr
    say_status(client, aliases={"BTC-USDC": "BTC-USD"})
    notice = "BTC-USDC is the same market as BTC-USD: followed as BTC-USD\n"
    done = livermore("candles", "btc/usdc", "5m", "--json")
    assert (done.returncode, done.stderr) == (0, notice)
    assert json.loads(done.stdout)["symbol"] == "BTC-USD"
    assert len(json.loads(done.stdout)["candles"]) == 3
    done = livermore("gaps", "-s", "BTC-USDC", "-t", "5m", "--since", "10m", "--json")
    assert done.returncode == 0
    assert notice in done.stderr
    assert json.loads(done.stdout)["series"] == 1


def test_tail_listens_to_a_followed_market_by_its_other_name(livermore: Livermore, client: Client):
    say_status(client, aliases={"BTC-USDC": "BTC-USD"})
    with livermore.start("tail", "BTC-USDC", "-t", "5m") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "is the same market as BTC-USD" in process.stderr.readline()
        deadline = time.monotonic() + 20
        while not client.one("PUBSUB", "NUMPAT") and time.monotonic() < deadline:
            time.sleep(0.02)
        put(client, [candle(slots(1)[0])])
        client.run([store.write(BTC, 1, [candle(slots(1)[0] + 5 * MINUTES)])])
        assert "BTC-USD" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_with_nothing_stored_and_no_daemon_the_answer_is_how_to_start_one(livermore: Livermore):
    for words in (("candles", "BTC-USD", "5m"), ("gaps", "--symbol", "BTC-USD")):
        done = livermore(*words)
        assert done.returncode == 3
        assert "start one with: livermore run coinbase" in done.stderr


def test_a_known_symbol_without_candles_is_not_an_error(livermore: Livermore, client: Client):
    say_status(client)
    done = livermore("candles", "BTC-USD", "1d", "--json")
    assert (done.returncode, json.loads(done.stdout)["candles"]) == (0, [])
    assert "no candles of BTC-USD 1d are stored" in done.stderr


def test_a_closed_pipe_ends_quietly(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(900)])
    with livermore.start("candles", "BTC-USD", "5m", "--last", "all") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_a_pipe_that_was_closed_before_the_first_line_ends_quietly(
    livermore: Livermore, client: Client
):
    say_status(client)
    with livermore.start("status", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


# -- gaps -------------------------------------------------------------------------------------


def test_no_gaps_is_said_with_what_was_looked_at(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(30)])
    say_status(client, symbols=["BTC-USD"])
    done = livermore("gaps", "--since", "1h", "--timeframe", "5m")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no gaps in 1 series since 2027-01-15T07:00:20Z\n"


def test_missing_slots_are_found_by_looking_and_explained_by_the_ledger(
    livermore: Livermore, client: Client
):
    times = slots(30)
    put(client, [candle(t) for t in times if t not in (times[10], times[11], times[20])])
    gap = Gap(BTC, times[10], times[11], "lost frames", NOW, attempts=2, next_try=NOW + 60_000)
    client.one("HSET", store.gaps_key("coinbase"), gap.name, encode_gap(gap), "other", "junk")
    say_status(client)
    done = livermore("gaps", "--timeframe", "5m", "--json")
    assert done.returncode == 6
    found = json.loads(done.stdout)
    assert (found["missing"], found["series"]) == (3, 1)
    newest, older = found["gaps"]
    assert (newest["first"], newest["candles"], newest["cause"]) == (
        "2027-01-15T07:10:00Z",
        1,
        None,
    )
    assert (older["first"], older["last"], older["candles"]) == (
        "2027-01-15T06:20:00Z",
        "2027-01-15T06:25:00Z",
        2,
    )
    assert (older["cause"], older["attempts"], older["outcome"]) == ("lost frames", 2, "open")
    told = livermore("gaps", "--timeframe", "5m").stdout
    assert "lost frames" in told
    assert "in 1 min" in told
    assert "not in the ledger" in told
    assert told.endswith("3 candles missing in 1 of 1 series since 2027-01-14T08:00:20Z\n")


def test_gaps_that_ended_are_listed_when_asked_for(livermore: Livermore, client: Client):
    times = slots(30)
    put(client, [candle(t) for t in times])
    filled = Gap(
        BTC, times[10], times[11], "lost frames", NOW - 90_000, attempts=2,
        outcome=Outcome.FILLED, ended=NOW - 30_000,
    )  # fmt: skip
    given_up = Gap(
        BTC, times[3], times[3], "no connection", NOW - 60_000, attempts=12,
        outcome=Outcome.UNFILLABLE, ended=NOW - 20_000, note="REST did not give 1 of 1 candles",
    )  # fmt: skip
    long_ago = attrs.evolve(filled, first=times[1], last=times[1], ended=NOW - 2 * 86_400_000)
    for gap in (filled, given_up, long_ago):
        client.one("HSET", store.gaps_key("coinbase"), gap.name, encode_gap(gap))
    say_status(client)
    done = livermore("gaps", "--timeframe", "5m", "--ended", "--json")
    assert done.returncode == 0
    assert [
        (g["first"], g["outcome"], g["attempts"]) for g in json.loads(done.stdout)["ended"]
    ] == [
        ("2027-01-15T05:45:00Z", "unfillable", 12),
        ("2027-01-15T06:20:00Z", "filled", 2),
    ]
    told = livermore("gaps", "--timeframe", "5m", "--ended").stdout
    assert "lost frames" in told
    assert "REST did not give 1 of 1" in told
    assert "1 min" in told
    assert "ended" not in json.loads(livermore("gaps", "--timeframe", "5m", "--json").stdout)


def test_gaps_says_when_the_daemon_is_blind(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(30)])
    say_status(client, state="blind", note="the socket is silent")
    done = livermore("gaps", "--timeframe", "5m")
    assert (done.returncode, done.stderr) == (0, "coinbase is blind: the socket is silent\n")


def test_slots_before_the_oldest_candle_are_not_gaps(livermore: Livermore, client: Client):
    times = slots(30)
    put(client, [candle(t) for t in times[25:]])
    say_status(client)
    done = livermore("gaps", "--timeframe", "5m", "--since", "7d")
    assert done.returncode == 0


def test_a_slot_that_just_ended_is_not_missing_yet(livermore: Livermore, client: Client):
    put(client, [candle(t) for t in slots(5)[:-1]])
    say_status(client, clock=NOW - 6000)  # 14 s after its end
    assert livermore("gaps", "--timeframe", "5m").returncode == 0
    say_status(client, clock=NOW - 4000)  # 16 s
    assert livermore("gaps", "--timeframe", "5m").returncode == 6


def test_a_followed_series_whose_history_was_never_asked_for_is_not_complete(
    livermore: Livermore, client: Client
):
    put(client, [candle(t) for t in slots(5)])
    say_status(client)
    done = livermore("gaps", "--json")
    assert done.returncode == 6
    assert json.loads(done.stdout)["never_asked_for"] == [
        "BTC-USD 15m",
        "BTC-USD 1h",
        "BTC-USD 4h",
        "BTC-USD 1d",
    ]
    assert "their history was not fetched yet" in livermore("gaps").stderr


def test_without_a_daemon_every_stored_series_is_looked_at_by_our_clock(
    livermore: Livermore, client: Client
):
    now = round(time.time() * 1000)
    for symbol in ("BTC-USD", "ETH-USD"):
        series = Series("coinbase", symbol, Timeframe.H4)
        last = Timeframe.H4.last_closed(now - 15_000)
        put(client, [candle(last - 4 * Timeframe.H4.ms, series), candle(last, series)])
    client.one("SET", "candles:coinbase:broken", "x")
    found = livermore("gaps", "--json", "--since", "3d")
    assert found.returncode == 6
    assert {(g["symbol"], g["candles"]) for g in json.loads(found.stdout)["gaps"]} == {
        ("BTC-USD", 3),
        ("ETH-USD", 3),
    }
    one = json.loads(livermore("gaps", "--json", "--since", "3d", "--symbol", "ETH-USD").stdout)
    assert one["series"] == 1


def test_every_page_of_a_big_store_is_looked_at(client: Client):
    client.run([("SET", f"other:{n}", "x") for n in range(3000)])
    symbols = [f"S{n:03}-USD" for n in range(40)]
    for symbol in symbols:
        put(client, [candle(LAST, Series("coinbase", symbol, Timeframe.M5))])
    assert [series.symbol for series in stored_series(client, "coinbase")] == symbols


# -- status -----------------------------------------------------------------------------------


def test_status_without_a_daemon_is_exit_3_with_the_next_step(livermore: Livermore):
    done = livermore("status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "livermore: no daemon is running for coinbase; start one with: livermore run coinbase\n"
    )


def test_status_as_json_is_the_daemons_with_iso_times(livermore: Livermore, client: Client):
    say_status(client)
    said = json.loads(livermore("status", "--json").stdout)
    assert said["clock"] == "2027-01-15T08:00:20Z"
    assert said["connections"][0]["since"] == "2027-01-15T07:59:20Z"
    assert said["newest_close"] == "2027-01-15T08:00:00Z"
    assert said["close_lag"] == STATUS["close_lag"]
    assert said["age"] < 5000


def test_blindness_is_told_with_its_reason(livermore: Livermore, client: Client):
    note = "no candle for 3 min on 2 symbols: the socket is silent; reconnecting in 8 s"
    say_status(client, state="blind", note=note)
    shown = " ".join(livermore("status").stdout.replace("│", " ").split())
    assert f"● blind since 2027-01-15T07:00:20Z: {note}" in shown


def test_a_status_that_is_not_renewed_is_called_old(livermore: Livermore, client: Client):
    say_status(client, ttl=10)
    assert "the daemon may be gone" in livermore("status").stdout
    say_status(client, ttl=44)
    assert "the daemon may be gone" not in livermore("status").stdout


def test_status_that_is_not_one_is_told(livermore: Livermore, client: Client):
    client.one("SET", store.status_key("coinbase"), "[1]")
    done = livermore("status")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_watching_outlives_the_daemon_and_ends_with_0_on_ctrl_c(
    livermore: Livermore, client: Client
):
    say_status(client)
    with livermore.start("status", "--watch", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["state"] == "live"
        client.one("DEL", store.status_key("coinbase"))
        assert "no daemon is running" in process.stderr.readline()
        say_status(client, state="blind")
        while json.loads(process.stdout.readline())["state"] != "blind":
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


# -- tail -------------------------------------------------------------------------------------


def wait_for_listener(client: Client) -> None:
    deadline = time.monotonic() + 10
    while not client.one("PUBSUB", "NUMPAT"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_tail_prints_closes_corrections_and_readings(livermore: Livermore, client: Client):
    first, second = slots(2)
    put(client, [candle(first)])
    say_status(client)
    with livermore.start("tail", "BTC-USD") as process:
        assert process.stdout is not None
        wait_for_listener(client)
        client.one("PUBLISH", store.keys(BTC).update_channel, "{}")  # not asked for
        client.run([store.write(BTC, 1, [candle(second)])])
        later = attrs.evolve(candle(second, close=101.5), as_of=second + 10_000_000)
        client.run([store.write(BTC, 1, [later])])
        reading = {"open_time": second, "symbol": "BTC-USD", "timeframe": "5m", "warm": False}
        reading |= {"macdv": 51.239, "signal": 40.0, "histogram": 11.239, "stage": "rallying"}
        channel = store.keys(BTC).indicator_channel
        client.one("PUBLISH", channel, json.dumps(reading | {"state": {}}))
        withheld = reading | {"macdv": None, "withheld": "fewer than 60 candles: 2"}
        client.one("PUBLISH", channel, json.dumps(withheld))
        lines = [process.stdout.readline().split(maxsplit=4) for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 0
    assert [line[:4] for line in lines] == [
        ["2027-01-15T07:55:00Z", "BTC-USD", "5m", word]
        for word in ("close", "correction", "reading", "reading")
    ]
    assert lines[0][4] == "o 100 h 102.25 l 99.5 c 100.5 v 3.25 traded rest\n"
    assert lines[1][4] == "o 100 h 102.25 l 99.5 c 101.5 v 3.25 traded rest revision 1\n"
    assert lines[2][4] == "MACD-V 51.24 signal 40.00 histogram 11.24 rallying (not warm yet)\n"
    assert lines[3][4] == "MACD-V withheld: fewer than 60 candles: 2\n"


def test_tail_as_json_filters_by_symbol_and_timeframe(livermore: Livermore, client: Client):
    with livermore.start("tail", "--json", "--timeframe", "1h", "--forming") as process:
        assert process.stdout is not None
        wait_for_listener(client)
        for timeframe in (Timeframe.M5, Timeframe.H1):
            for symbol in ("BTC-USD", "ETH-USD"):
                series = Series("coinbase", symbol, timeframe)
                client.run([store.write(series, 1, [candle(slots(1, series)[0], series)])])
        hour = store.keys(Series("coinbase", "BTC-USD", Timeframe.H1))
        client.one("PUBLISH", hour.update_channel, '{"open_time":0}')
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert [(x["type"], x.get("symbol")) for x in lines] == [
        ("close", "BTC-USD"),
        ("close", "ETH-USD"),
        ("forming", None),
    ]
    assert lines[0]["open_time"] == "2027-01-15T07:00:00Z"
    assert "waiting for one" in err


# -- Redis that is not there ------------------------------------------------------------------


READERS = [
    ("candles", "BTC-USD", "5m"),
    ("gaps",),
    ("status",),
    ("tail",),
]


@pytest.mark.parametrize("words", READERS)
def test_an_unreachable_redis_is_one_line_with_a_next_step(
    livermore: Livermore, words: tuple[str, ...]
):
    done = livermore(*words, "--redis-url", "redis://:hunter2@127.0.0.1:1/0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("livermore: Redis redis://:***@127.0.0.1:1/0: ")
    assert "livermore doctor" in done.stderr


@pytest.mark.parametrize("words", READERS)
def test_without_a_url_and_a_private_valkey_nothing_is_started(
    livermore: Livermore, words: tuple[str, ...]
):
    state = livermore.room / "state"
    done = livermore(*words, "--state-dir", str(state), LIVERMORE_REDIS_URL="")
    assert done.returncode == 3
    assert "livermore run coinbase" in done.stderr
    assert not state.exists()


def test_shared_options_are_understood_before_and_after_the_command(
    livermore: Livermore, client: Client
):
    say_status(client)
    nowhere = ("--redis-url", "redis://127.0.0.1:1")
    here = ("--redis-url", livermore.url)
    assert livermore(*here, "status", LIVERMORE_REDIS_URL="").returncode == 0
    assert livermore("status", *here, LIVERMORE_REDIS_URL="").returncode == 0
    assert livermore(*nowhere, "status", *here).returncode == 0
    assert livermore(*here, "status", *nowhere).returncode == 1


# -- a cluster --------------------------------------------------------------------------------


def test_on_a_cluster_every_master_is_looked_at(tmp_path: Path, cluster_url: str):
    livermore = Livermore(tmp_path, cluster_url)
    client = Client(cluster_url)
    now = round(time.time() * 1000)
    last = Timeframe.H4.last_closed(now - 15_000)
    symbols = [f"S{n}-USD" for n in range(12)]
    for symbol in symbols:
        series = Series("coinbase", symbol, Timeframe.H4)
        put(client, [candle(last - 2 * Timeframe.H4.ms, series), candle(last, series)])
    done = livermore("gaps", "--json", "--since", "2d")
    assert done.returncode == 6
    found = json.loads(done.stdout)
    assert (found["series"], found["missing"]) == (12, 12)
    assert livermore("candles", "S3-USD", "4h", "--json").returncode == 0
    with livermore.start("tail", "S3-USD", "--json") as process:
        assert process.stdout is not None
        time.sleep(1.5)  # a cluster does not say who listens
        series = Series("coinbase", "S3-USD", Timeframe.M5)
        client.run([store.write(series, 1, [candle(slots(1, series)[0], series)])])
        assert json.loads(process.stdout.readline())["symbol"] == "S3-USD"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        process.communicate()
    client.close()
