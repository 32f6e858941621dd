"""Commands where several exchanges are stored or run, against a real Valkey."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from livermore.adapters import outbox, store
from livermore.adapters.redis import Client
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.signals.alert import Blindness
from tests.integration.command_line import Livermore
from tests.integration.test_cli_store import LAST, NOW, STATUS, wait_for_listener

MS = Timeframe.M5.ms
COINBASE = Series("coinbase", "BTC-USD", Timeframe.M5)
BINANCE = Series("binance", "BTC-USDT", Timeframe.M5)


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


@pytest.fixture
def client(valkey_url: str) -> Iterator[Client]:
    client = Client(valkey_url)
    yield client
    client.close()


def runs(client: Client, exchange: str, *symbols: str, **said: object) -> None:
    status = {**STATUS, "exchange": exchange, "title": exchange.title(), "symbols": symbols, **said}
    client.one("SET", store.status_key(exchange), json.dumps(status), "EX", 45)


def both_run(client: Client) -> None:
    runs(client, "coinbase", "BTC-USD", "ETH-USD", aliases={"BTC-USDC": "BTC-USD"})
    runs(client, "binance", "BTC-USDT", "ETH-USD")


def price(slot: int) -> float:
    return 100 + 10 * math.sin(slot * slot)


def put(
    client: Client, series: Series, count: int = 5, *, late: int = 0, history: bool = True
) -> list[Candle]:
    """The newest candles of a market that moves ``late`` slots behind another."""
    found = []
    for slot in range(count):
        time = LAST - (count - 1 - slot) * MS
        close = price(slot - late)
        prices = close, close + 1, close - 1, close, 3.0
        found.append(Candle(series, time, *prices, Kind.TRADED, Evidence.REST, time))
    client.run([store.write(series, 1, found, history=history)])
    return found


def tick(client: Client, series: Series, price: float, age: int = 300, **more: object) -> None:
    said = {"exchange": series.exchange, "symbol": series.symbol, "price": price, **more}
    text = json.dumps({**said, "time": NOW - age})
    client.one("SET", store.ticker_key(series.exchange, series.symbol), text, "EX", 60)


# -- exchanges --------------------------------------------------------------------------------


def test_exchanges_are_listed_with_their_state_and_without_a_redis(
    livermore: Livermore, client: Client
):
    runs(client, "binance", "BTC-USDT", state="ended", note="nothing is followed: 451")
    found = {one["exchange"]: one for one in json.loads(livermore("exchanges", "--json").stdout)}
    assert {"coinbase", "binance", "binance_us"} <= found.keys()
    one = found["binance"]
    assert (one["running"], one["state"], one["note"]) == (
        True,
        "ended",
        "nothing is followed: 451",
    )
    assert one["since"] == "2027-01-15T07:00:20Z"
    assert one["limits"]["streams_per_connection"] == 1024
    assert one["geo"]["served"] is None
    assert (found["coinbase"]["running"], found["coinbase"]["state"]) == (False, None)
    text = livermore("exchanges").stdout
    assert "ended since 2027-01-15T07:00:20Z · nothing is followed: 451" in text
    assert "\x1b" not in text
    for url in ("redis://127.0.0.1:1", ""):
        done = livermore("exchanges", "--json", LIVERMORE_REDIS_URL=url)
        assert done.returncode == 0
        assert json.loads(done.stdout)[0]["running"] is (None if url else False)


def test_exchanges_say_whether_they_serve_a_country(livermore: Livermore):
    done = livermore("exchanges", "--json", LIVERMORE_COUNTRY="us")
    served = {one["exchange"]: one["geo"]["served"] for one in json.loads(done.stdout)}
    assert (served["binance"], served["binance_us"]) == (False, True)
    assert "US: NOT served" in livermore("exchanges", "--country", "us").stdout
    assert "did you mean US?" in livermore("exchanges", "--country", "usa").stderr
    done = livermore("exchanges", "--country", "uk")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "livermore: --country: 'uk' is no country code of ISO 3166-1, such as US or DE: "
        "did you mean GB?\n"
    )


# -- compare ----------------------------------------------------------------------------------


def compared(livermore: Livermore, *words: str) -> dict[str, Any]:
    done = livermore("compare", "BTC-USD@coinbase", "BTC-USDT@binance", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_young_tickers_are_compared(livermore: Livermore, client: Client):
    both_run(client)
    put(client, COINBASE)
    put(client, BINANCE)
    tick(client, COINBASE, 100.1, bid=100.0, ask=100.2)
    tick(client, BINANCE, 99.9, age=10_300)
    found = compared(livermore)
    assert found["difference"]["of"] == "tickers"
    assert found["difference"]["price"] == 0.2
    assert found["difference"]["basis_points"] == pytest.approx(20)
    one, other = found["markets"]
    assert (one["price"], one["bid"], one["ask"]) == (100.1, 100.0, 100.2)
    assert other["bid"] is None
    # Since then the exchange's clock ran on.
    assert 300 <= one["age"] < 30_000
    assert other["age"] - one["age"] >= 10_000
    assert 20_000 <= other["close_age"] < 50_000
    assert found["remarks"] == ["USD is not USDT: the difference holds their rate as well"]


def test_prices_of_different_moments_are_not_compared(livermore: Livermore, client: Client):
    both_run(client)
    tick(client, COINBASE, 100.1)
    tick(client, BINANCE, 99.9, age=10_301)
    put(client, COINBASE)
    held = put(client, BINANCE, 5)
    last = attrs.evolve(held[-1], high=200.0, close=100.5, as_of=NOW)
    client.run([store.write(BINANCE, 1, [last])])
    found = compared(livermore)["difference"]
    assert (found["of"], found["at"]) == ("closes", "2027-01-15T08:00:00Z")
    assert found["price"] == pytest.approx(price(4) - 100.5)


def test_without_two_prices_of_one_moment_there_is_no_difference(
    livermore: Livermore, client: Client
):
    both_run(client)
    tick(client, COINBASE, 100.1)
    found = compared(livermore)
    assert found["difference"] is None
    assert found["lead"]["verdict"] == "not enough"
    assert found["markets"][1]["close"] is None
    text = livermore("compare", "BTC-USD@coinbase", "BTC-USDT@binance").stdout
    assert "difference: none: no prices of one moment are stored" in text
    assert "led: not enough: 0 pairs of returns, 30 needed" in text


def test_an_empty_candle_is_no_price(livermore: Livermore, client: Client):
    both_run(client)
    put(client, COINBASE, 3)
    held = put(client, BINANCE, 3)
    gone = empty(BINANCE, held[-1].open_time, held[-2].close, Evidence.REST, NOW * 2)
    client.run([store.write(BINANCE, 1, [gone])])
    found = compared(livermore)
    assert found["difference"]["at"] == "2027-01-15T07:55:00Z"
    assert found["markets"][1]["close_time"] == "2027-01-15T07:55:00Z"


def test_who_led_is_told_with_what_it_rests_on(livermore: Livermore, client: Client):
    both_run(client)
    put(client, COINBASE, 200)
    put(client, BINANCE, 200, late=1)
    lead = compared(livermore)["lead"]
    assert (lead["leader"], lead["verdict"]) == ("BTC-USD@coinbase", "BTC-USD@coinbase")
    assert (lead["slots"], lead["pairs"]) == (288, 198)
    assert lead["correlations"][0] == pytest.approx(1)
    assert compared(livermore, "--last", "40")["lead"]["pairs"] == 38
    assert compared(livermore, "--last", "31")["lead"]["verdict"] == "not enough"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("BTC-USD", "BTC-USDT@binance"), 2, "BTC-USD: say where, such as BTC-USD@coinbase"),
        (("BTC-USD@coinbase", "BTC-USD@Coinbase"), 2, "name two markets"),
        (("BTC-USD@coinbase", "BTC-USD@nobody"), 2, "unknown exchange 'nobody'"),
        (("ETH-USD@coinbase", "XYZW-EUR@binance"), 2, "livermore symbols add XYZW-EUR@binance"),
        (("BTC-USD@coinbase", "BCT-USDT@binance"), 2, "did you mean BTC-USDT?"),
        (("BTC-USD@coinbase", "BTC-USD@binance_us"), 3, "livermore run binance_us"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    livermore: Livermore, client: Client, words: tuple[str, ...], code: int, message: str
):
    both_run(client)
    done = livermore("compare", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_names_of_one_market_are_not_compared(livermore: Livermore, client: Client):
    both_run(client)
    done = livermore("compare", "BTC-USDC@coinbase", "BTC-USD@coinbase")
    assert (done.returncode, done.stdout) == (2, "")
    notice, line = done.stderr.splitlines()
    assert notice == "BTC-USDC is the same market as BTC-USD: followed as BTC-USD"
    assert line == ("livermore: BTC-USDC@coinbase and BTC-USD@coinbase are one market: name two")


# -- those that were made for one -------------------------------------------------------------


def told(livermore: Livermore, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in livermore(*words).stdout.splitlines()]


def exchanges_of(found: Sequence[dict[str, Any]]) -> list[str]:
    return [str(one["exchange"]) for one in found]


def test_readers_show_all_that_run_and_one_that_is_named(livermore: Livermore, client: Client):
    both_run(client)
    put(client, COINBASE)
    put(client, BINANCE)
    for command in ("status", "gaps", "scan", "indicators"):
        assert exchanges_of(told(livermore, command, "--json")) == ["coinbase", "binance"], command
        assert exchanges_of(told(livermore, command, "--json", "-e", "binance")) == ["binance"]
    text = livermore("status").stdout
    assert "Coinbase" in text
    assert "Binance" in text
    text = livermore("gaps", "--since", "20m", "-t", "5m").stdout
    assert text.index("coinbase:") < text.index("binance:")
    done = livermore("gaps", "-s", "BTC-USDT", "--json")
    assert [json.loads(line)["exchange"] for line in done.stdout.splitlines()] == ["binance"]
    assert done.returncode == 6, "its other timeframes were never asked for"


def test_without_a_daemon_what_is_stored_is_shown(livermore: Livermore, client: Client):
    put(client, BINANCE)
    assert exchanges_of(told(livermore, "gaps", "--json")) == ["binance"]
    done = livermore("candles", "BTC-USDT", "5m", "--json")
    assert json.loads(done.stdout)["exchange"] == "binance"
    assert livermore("status").returncode == 3


def test_a_symbol_is_looked_for_where_it_is(livermore: Livermore, client: Client):
    both_run(client)
    ours = attrs.evolve(COINBASE, symbol="ETH-USD")
    put(client, ours, 3)
    put(client, attrs.evolve(BINANCE, symbol="ETH-USD"), 4)
    put(client, BINANCE, 5)
    for words, exchange, count in (
        (("BTC-USDT",), "binance", 5),
        (("eth/usd@coinbase",), "coinbase", 3),
        (("ETH-USD", "-e", "binance"), "binance", 4),
    ):
        done = livermore("candles", words[0], "5m", "--json", *words[1:])
        found = json.loads(done.stdout)
        assert (found["exchange"], len(found["candles"])) == (exchange, count)
    done = livermore("candles", "ETH-USD", "5m")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "livermore: ETH-USD is here more than once: say ETH-USD@coinbase or ETH-USD@binance\n"
    )
    done = livermore("candles", "BTC-USDT@binance", "5m", "-e", "coinbase")
    assert "contradict each other" in done.stderr
    assert livermore("candles", "NOPE-USD", "5m").returncode == 2


def test_what_works_for_one_exchange_wants_to_know_which(livermore: Livermore, client: Client):
    both_run(client)
    for words in (("backfill", "--dry-run"), ("verify",), ("indicators", "--watch")):
        done = livermore(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "several exchanges here, coinbase, binance: say which" in done.stderr


def test_tail_hears_all_and_says_of_which_it_speaks(livermore: Livermore, client: Client):
    both_run(client)
    with livermore.start("tail") as process:
        assert process.stdout is not None
        wait_for_listener(client)
        for series in (COINBASE, BINANCE):
            put(client, series, 1, history=False)
        lines = [process.stdout.readline().split()[1:4] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert lines == [["coinbase", "BTC-USD", "5m"], ["binance", "BTC-USDT", "5m"]]


def blindness(exchange: str) -> Blindness:
    return Blindness(
        id=f"blind|{exchange}|1|1", source_exchange_id=exchange, series=1, of=1, named=["X-Y 5m"],
        since=NOW - 60_000, why="gone", triggered=NOW - 1000,
    )  # fmt: skip


def test_alerts_of_all_exchanges_are_listed_and_followed(livermore: Livermore, client: Client):
    both_run(client)
    for exchange in ("coinbase", "binance"):
        client.run([outbox.post(exchange, 1, {}, [outbox.posting(blindness(exchange))])])
    found = told(livermore, "alerts", "--json")
    assert [one["source_exchange_id"] for one in found] == ["coinbase", "binance"]
    found = told(livermore, "alerts", "--json", "-e", "binance")
    assert [one["source_exchange_id"] for one in found] == ["binance"]
    with livermore.start("alerts", "--follow") as process:
        assert process.stdout is not None
        first = [process.stdout.readline().split()[1] for _ in range(2)]
        late = msgspec.structs.replace(blindness("binance"), id="blind|binance|2|2")
        client.run([outbox.post("binance", 1, {}, [outbox.posting(late)])])
        assert process.stdout.readline().split()[1] == "binance"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert first == ["coinbase", "binance"]
