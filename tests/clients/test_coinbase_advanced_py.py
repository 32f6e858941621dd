"""coinbase-advanced-py, unchanged, sees on the simulated Coinbase what there is."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest

from tests.clients.exchange import (
    START,
    Candle,
    Exchange,
    figures,
    simulated,
    slots,
    traded,
)

SLOT = 300_000
GRANULARITIES = {
    "5m": "FIVE_MINUTE",
    "15m": "FIFTEEN_MINUTE",
    "1h": "ONE_HOUR",
    "4h": "FOUR_HOUR",
    "1d": "ONE_DAY",
}
Frame = dict[str, Any]
WATCHED = ["BTC-USD", "ETH-USD", "DOGE-USD"]


async def test_rest_gives_the_true_candles_newest_first_and_leaves_out_the_empty(certificate):
    wanted = [
        (symbol, timeframe, with_key)
        for timeframe in GRANULARITIES
        for symbol, with_key in (("BTC-USD", False), ("CRV-USD", True))
    ]
    asked = []
    for symbol, timeframe, with_key in wanted:
        first, last = slots(timeframe, 300)
        asked.append(
            {
                "product_id": symbol,
                "start": str(first // 1000),
                "end": str(last // 1000),
                "granularity": GRANULARITIES[timeframe],
                "key": with_key,
            }
        )
    async with simulated("coinbase", certificate, "--rest-rate", "100") as exchange:
        heard = await exchange.ask("coinbase_rest.py", candles=asked, symbol="BTC-USD")
        empty = 0
        for (symbol, timeframe, _), rows in zip(wanted, heard["candles"], strict=True):
            truth = await exchange.truth(symbol, timeframe, *slots(timeframe, 300))
            told = {int(row["start"]) * 1000: figures(row) for row in rows}
            assert len(truth) == 300
            assert told == {at: figures(row) for at, row in traded(truth).items()}
            assert list(told) == sorted(told, reverse=True)
            empty += len(truth) - len(told)
        assert empty > 50, "a market so quiet was meant to have empty candles"

        listed = {row["product_id"]: row for row in heard["products"]}
        assert heard["num_products"] == heard["with_key"] == len(listed)
        assert {"BTC-USD", "CRV-USD", "BTC-USDC", "ETH-BTC"} < set(listed)
        bitcoin = heard["product"]
        assert (bitcoin["base_currency_id"], bitcoin["quote_currency_id"]) == ("BTC", "USD")
        assert bitcoin["product_id"] == "BTC-USD" == listed["BTC-USDC"]["alias"]
        assert float(bitcoin["approximate_quote_24h_volume"]) > 0
        newest = heard["trades"]["trades"]
        assert float(bitcoin["price"]) == pytest.approx(float(newest[0]["price"]), rel=0.01)

        assert START <= int(heard["time"]["epoch_millis"]) <= await exchange.now()
        ids = [int(trade["trade_id"]) for trade in newest]
        assert ids == list(range(ids[0], ids[0] - 20, -1)), "contiguous, newest first"

        assert heard["unknown"]["status"] == 404
        assert "Product NOPE-USD not supported" in heard["unknown"]["said"]
        assert heard["too_many"]["status"] == 400
        assert "number of candles requested should be less than 350" in heard["too_many"]["said"]


@pytest.mark.parametrize("over", ["websocket", "secure_websocket"])
async def test_a_websocket_hears_trades_candles_and_tickers_that_agree_with_the_truth(
    certificate, over
):
    async with simulated("coinbase", certificate, "--speed", "100") as exchange:
        frames = await exchange.ask("coinbase_websocket.py", symbols=WATCHED, candles=4, over=over)
        assert [frame["sequence"] for frame in frames] == list(range(len(frames)))
        assert sorted({frame["channel"] for frame in frames}) == [
            *("candles", "heartbeats", "market_trades", "subscriptions", "ticker")
        ]
        assert states(frames)[3] == {
            "candles": WATCHED,
            "market_trades": WATCHED,
            "ticker": WATCHED,
            "heartbeats": ["heartbeats"],
        }
        beats = [event["heartbeat_counter"] for event in events(frames, "heartbeats")]
        assert beats == list(range(beats[0], beats[0] + len(beats)))
        await agree(exchange, frames)


# --- what frames say


async def agree(exchange: Exchange, frames: list[Frame]) -> None:
    """Trades, candles and tickers of one connection are what the truth says."""
    now = await exchange.now()
    for symbol in WATCHED:
        truth = traded(await exchange.truth(symbol, "5m", START - 400 * SLOT, now))
        summed = summed_trades(frames, symbol)
        assert len(summed) >= 2, f"{symbol}: too few whole slots were heard"
        for open_time, candle in summed.items():
            assert figures(candle) == pytest.approx(figures(truth[open_time]), rel=1e-9)
        snapshot, *updates = candle_frames(frames, symbol)
        for row in sorted(snapshot, key=start)[:-1]:
            assert figures(row) == figures(truth[start(row)])
        final = 0
        for row in itertools.chain(snapshot, *updates):
            if start(row) not in truth:
                continue  # it still runs
            candle = truth[start(row)]
            assert float(row["open"]) == candle["open"]
            assert candle["low"] <= float(row["low"]) <= float(row["high"]) <= candle["high"]
            assert float(row["volume"]) <= candle["volume"]
            final += [row] in updates and figures(row) == figures(candle)
        assert final >= 1, f"{symbol}: no final candle was heard"
        spoken = [float(row["price"]) for row in trades(frames, symbol)]
        tickers = ticker_rows(until_last_trades(frames, symbol), symbol)
        assert len(tickers) > 10
        assert {float(row["price"]) for row in tickers} <= set(spoken)
        assert all(float(row["best_bid"]) < float(row["best_ask"]) for row in tickers)


def summed_trades(frames: list[Frame], symbol: str) -> dict[int, Candle]:
    """Candles made of the trades heard, by open time (ms); only those heard whole."""
    by_slot: dict[int, list[Frame]] = {}
    for trade in trades(frames, symbol):
        at = datetime.datetime.fromisoformat(trade["time"]).timestamp() * 1000
        by_slot.setdefault(int(at) // SLOT * SLOT, []).append(trade)
    found = {}
    for open_time, rows in list(by_slot.items())[1:-1]:
        prices = [float(row["price"]) for row in rows]
        found[open_time] = {
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": sum(float(row["size"]) for row in rows),
        }
    return found


def until_last_trades(frames: list[Frame], symbol: str) -> list[Frame]:
    """Trades follow the ticker they cause: behind the last of them a ticker may stand alone."""
    last = max(at for at, frame in enumerate(frames) if trades([frame], symbol))
    return frames[:last]


def events(frames: list[Frame], channel: str) -> list[Frame]:
    return [e for frame in frames if frame["channel"] == channel for e in frame["events"]]


def states(frames: list[Frame]) -> list[dict[str, list[str]]]:
    """What each acknowledgement says is subscribed."""
    return [event["subscriptions"] for event in events(frames, "subscriptions")]


def start(row: Frame) -> int:
    """Open time, ms."""
    return int(row["start"]) * 1000


def candle_frames(frames: list[Frame], symbol: str) -> list[list[Frame]]:
    """The rows of each frame about ``symbol``, the snapshot's first."""
    told = [
        event for event in events(frames, "candles") if event["candles"][0]["product_id"] == symbol
    ]
    assert [event["type"] for event in told] == ["snapshot"] + ["update"] * (len(told) - 1)
    return [event["candles"] for event in told]


def ticker_rows(frames: list[Frame], symbol: str) -> list[Frame]:
    rows = [row for event in events(frames, "ticker") for row in event["tickers"]]
    return [row for row in rows if row["product_id"] == symbol]


def trades(frames: list[Frame], symbol: str) -> list[Frame]:
    """Oldest first; their ids are contiguous from the snapshot on."""
    rows = [row for event in events(frames, "market_trades") for row in reversed(event["trades"])]
    rows = [row for row in rows if row["product_id"] == symbol]
    ids = [int(row["trade_id"]) for row in rows]
    assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else True, "a trade is missing"
    return rows
