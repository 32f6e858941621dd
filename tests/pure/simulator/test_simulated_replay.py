"""Replayed candles come out exactly as they went in."""

from __future__ import annotations

import csv
import pathlib
from decimal import Decimal

import pytest

from livermore.errors import ConfigurationError
from livermore.market.timeframe import DAY
from livermore.simulator.listing import listings
from livermore.simulator.market import Market
from livermore.simulator.replay import read_replay
from livermore.simulator.slots import SLOT
from livermore.simulator.trades import NS

REAL = pathlib.Path(__file__).parents[4] / "shared" / "candles" / "coinbase_BTC-USD_5m.csv"
HEAD = "ts_ms,open,high,low,close,volume\n"
MIDNIGHT = 1_763_596_800_000


def written(path: pathlib.Path, *rows: str) -> pathlib.Path:
    file = path / "candles.csv"
    file.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return file


def test_real_candles_are_reproduced_to_the_last_digit():
    if not REAL.exists():
        pytest.skip(f"NO REAL CANDLES: {REAL} is absent")
    with REAL.open(newline="") as file:
        rows = list(csv.DictReader(file))
    start = MIDNIGHT + 400 * DAY + 12_345_678
    market = Market(listings(3, 7), 7, start, 200, (("BTC-USD", REAL),))
    replay = read_replay(REAL, start)
    assert replay.shift % DAY == 0
    first, last = int(rows[0]["ts_ms"]) + replay.shift, int(rows[-1]["ts_ms"]) + replay.shift
    assert first < start < last, "some of it is history, some is still to come"
    listing = market.listing("BTC-USD")
    tape = market.tape("BTC-USD")
    known = {
        candle.open_time: candle.row
        for candle in market.candles("BTC-USD", SLOT, first, last, (last + SLOT) * NS)
    }
    assert sorted(known) == [int(row["ts_ms"]) + replay.shift for row in rows]
    for number, row in enumerate(rows):
        open_time = int(row["ts_ms"]) + replay.shift
        made = known[open_time]
        if number % 50 == 0:
            assert tape.trades(open_time // SLOT).fold() == made
        values = (made.open, made.high, made.low, made.close)
        assert [Decimal(v) / listing.tick for v in values] == [
            Decimal(row[name]) for name in ("open", "high", "low", "close")
        ]
        assert Decimal(made.volume) / listing.unit == Decimal(row["volume"])


def test_a_file_around_the_start_stays_where_it_is(tmp_path):
    file = written(
        tmp_path,
        f"{MIDNIGHT},10,12,9,11,5",
        f"{MIDNIGHT + SLOT},11,11,11,11,0",
        f"{MIDNIGHT + 2 * SLOT},11,13,10,12.5,7.25",
    )
    market = Market(listings(3, 7), 7, MIDNIGHT + SLOT, 5, (("ABC-USD", file),))
    tape = market.tape("ABC-USD")
    assert tape.row(MIDNIGHT // SLOT).count >= 4
    assert tape.row(MIDNIGHT // SLOT + 1).count == 0, "a filler is an empty slot"
    assert tape.row(MIDNIGHT // SLOT + 2).close == 1250
    assert "ABC-USD" in market.followed
    after = tape.slots(MIDNIGHT // SLOT + 3, 50)
    assert abs(after.open[after.count > 0][0] / 1250 - 1) < 0.05, "it goes on from its last price"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{MIDNIGHT},10,12,9,x,5", "not numbers"),
        (f"{MIDNIGHT + 1},10,12,9,11,5", "five-minute candles in order"),
        (f"{MIDNIGHT},10,9,9,11,5", "no trades can make"),
    ],
)
def test_a_file_that_is_no_candles_is_refused_in_one_line(tmp_path, row, message):
    with pytest.raises(ConfigurationError, match=message):
        read_replay(written(tmp_path, row), MIDNIGHT)


def test_an_absent_file_and_a_strange_head_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_replay(tmp_path / "absent.csv", MIDNIGHT)
    (tmp_path / "strange.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigurationError, match="ts_ms,open"):
        read_replay(tmp_path / "strange.csv", MIDNIGHT)
