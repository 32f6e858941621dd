"""What ``tail`` listens to, and how it words what it hears."""

from __future__ import annotations

import fnmatch

import pytest

from livermore.adapters.store import keys
from livermore.cli.tail import as_json, described, patterns, understood
from livermore.market.candle import Series
from livermore.market.timeframe import TIMEFRAMES, Timeframe

BTC = keys(Series("coinbase", "BTC-USD", Timeframe.M5))
CHANNELS = {
    "close": BTC.close_channel,
    "correction": BTC.correct_channel,
    "forming": BTC.update_channel,
    "reading": BTC.indicator_channel,
}


def heard(*words: object, forming: bool = False) -> set[str]:
    exchange, symbol, timeframes = words
    wanted = patterns(exchange, symbol, timeframes, forming=forming)  # type: ignore[arg-type]
    return {
        name
        for name, channel in CHANNELS.items()
        if any(fnmatch.fnmatchcase(channel, pattern) for pattern in wanted)
    }


def test_forming_candles_are_heard_only_when_asked_for():
    assert heard("coinbase", None, TIMEFRAMES) == {"close", "correction", "reading"}
    assert heard("coinbase", None, TIMEFRAMES, forming=True) == set(CHANNELS)


def test_symbol_timeframe_and_exchange_narrow_what_is_heard():
    assert heard("coinbase", "BTC-USD", [Timeframe.M5]) == {"close", "correction", "reading"}
    assert heard("coinbase", "ETH-USD", TIMEFRAMES) == set()
    assert heard("coinbase", None, [Timeframe.H1]) == set()
    assert heard("kucoin", None, TIMEFRAMES) == set()


@pytest.mark.parametrize(("name", "channel"), CHANNELS.items())
def test_each_channel_is_called_by_its_kind(name: str, channel: str):
    assert understood(channel, b'{"a":1}') == (name, {"a": 1})


@pytest.mark.parametrize("payload", [b"", b"[1]", b"\xff", b"{"])
def test_what_is_no_object_is_not_understood(payload: bytes):
    assert understood(BTC.close_channel, payload)[1] is None
    assert understood("channel:other", payload)[0] is None


def test_json_has_iso_times_and_no_inner_state():
    said = {"open_time": 1_800_000_000_000, "as_of": 0, "macdv": 1.5, "state": {"ema12": 1}}
    assert as_json(said) == {
        "open_time": "2027-01-15T08:00:00Z",
        "as_of": "1970-01-01T00:00:00Z",
        "macdv": 1.5,
    }


def test_anything_at_all_makes_one_line():
    for said in ({}, {"open_time": "x", "close": None, "symbol": 7}, {"macdv": "nan"}):
        for word in ("close", "reading"):
            assert "\n" not in described(word, said)
