"""Charts: what is on the picture, and the command that draws it from a real store."""

from __future__ import annotations

import csv
import itertools
import json
import math
import struct
import threading
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from livermore.adapters import store
from livermore.adapters.chart import draw, draw_png, draw_svg, stored
from livermore.adapters.picture import Box, Fonts, Line, Ring, Shape, Words
from livermore.adapters.redis import Client
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.signals.anchor import Start
from livermore.signals.course import readings_along, states_along
from livermore.signals.outline import outline
from livermore.signals.state import States
from tests.integration.command_line import Livermore

BTC = Series("coinbase", "BTC-USD", Timeframe.H1)
START = 1_772_323_200_000
"""2026-03-01, midnight."""
COLUMNS = ("open", "high", "low", "close", "volume")
SIZES = ((800, 500), (400, 600), (360, 300), (1600, 900))


def wave(count: int, series: Series = BTC) -> list[Candle]:
    closes = [round(100 + 10 * math.sin(k / 7) + 3 * math.sin(k / 2), 2) for k in range(count + 1)]
    return [
        Candle(
            series, START + k * series.timeframe.ms, a, max(a, b) + 0.5, min(a, b) - 0.5, b,
            2.0 + k % 5, Kind.TRADED, Evidence.REST,
        )
        for k, (a, b) in enumerate(itertools.pairwise(closes))
    ]  # fmt: skip


def shapes_of(candles: list[Candle], *, bars=60, size=(800, 500), note="") -> list[Shape]:
    readings = readings_along(Start(None, candles), bars)
    return draw(outline(candles[-bars:], readings, bars), size, Fonts(), note)


def png_of(candles: list[Candle], **more) -> bytes:
    return draw_png(candles[-60:], readings_along(Start(None, candles), 60), **more)


def real(shared_dir: Path, name: str, series: Series) -> list[Candle]:
    """Recorded candles; slots they leave out are empty."""
    found: list[Candle] = []
    with (shared_dir / "candles" / name).open(newline="") as file:
        for row in csv.DictReader(file):
            time = int(row["ts_ms"])
            while found and found[-1].close_time < time:
                last = found[-1]
                found.append(empty(series, last.close_time, last.close, Evidence.REST, 0))
            first, high, low, close, volume = (float(row[key]) for key in COLUMNS)
            found.append(
                Candle(series, time, first, high, low, close, volume, Kind.TRADED, Evidence.REST)
            )
    return found


# -- what is drawn ----------------------------------------------------------------------------


def test_every_candle_has_a_body_a_wick_and_a_volume():
    parts = Counter(shape.part for shape in shapes_of(wave(300)))
    assert (parts["candle"], parts["wick"], parts["volume"], parts["histogram"]) == (60,) * 4
    assert not {"empty", "missing", "unconfirmed", "withheld", "note"} & set(parts)


def test_there_are_lines_at_50_and_150_both_ways_in_order():
    lines = {s.part: s.points for s in shapes_of(wave(300)) if isinstance(s, Line)}
    heights = [lines[f"level{level}"][0][1] for level in ("+150", "+50", "-50", "-150")]
    zero = lines["zero"][0][1]
    assert heights == sorted(heights)
    assert heights[1] < zero < heights[2]
    assert heights[0] - zero == pytest.approx(-3 * (zero - heights[1]))
    assert all(points[0][1] == points[-1][1] for name, points in lines.items() if "level" in name)


def test_a_price_stands_where_its_scale_puts_it():
    candles = wave(300)
    drawn = outline(candles[-60:], readings_along(Start(None, candles), 60), 60)
    wicks = [s.points for s in shapes_of(candles) if s.part == "wick" and isinstance(s, Line)]
    tops, bottoms = [p[0][1] for p in wicks], [p[-1][1] for p in wicks]
    shown = candles[-60:]
    assert tops.index(min(tops)) == max(range(60), key=lambda k: shown[k].high)
    assert bottoms.index(max(bottoms)) == min(range(60), key=lambda k: shown[k].low)
    per_price = (max(bottoms) - min(tops)) / (
        max(c.high for c in shown) - min(c.low for c in shown)
    )
    for k in range(60):
        assert bottoms[k] - tops[k] == pytest.approx(per_price * (shown[k].high - shown[k].low))
    assert drawn.price.low < min(c.low for c in shown)


def test_empty_candles_are_rings_without_body_and_volume():
    candles = wave(290)
    for _ in range(10):
        last = candles[-1]
        candles.append(empty(BTC, last.close_time, last.close, Evidence.REST, 0))
    shapes = shapes_of(candles)
    parts = Counter(shape.part for shape in shapes)
    assert (parts["candle"], parts["volume"]) == (50, 50)
    rings = [shape for shape in shapes if isinstance(shape, Ring)]
    assert len(rings) == 10
    assert len({ring.y for ring in rings}) == 1
    assert any(isinstance(s, Words) and s.text == "o 10 empty" for s in shapes)


def test_a_gap_is_a_band_in_both_panels_and_no_line_crosses_it():
    candles = wave(300)
    readings = readings_along(Start(None, candles), 60)
    missing = slice(240 + 40, 240 + 43)
    del candles[missing], readings[40:43]
    shapes = draw(outline(candles[-57:], readings, 60), (800, 500), Fonts())
    bands = [s for s in shapes if isinstance(s, Box) and s.part == "missing"]
    assert len(bands) == 2
    assert len({(band.left, band.right) for band in bands}) == 1
    left, right = bands[0].left, bands[0].right
    assert right - left == pytest.approx(3 * (shapes_step(shapes)), rel=1e-6)
    for shape in shapes:
        if isinstance(shape, Line) and shape.part in ("macdv", "signal", "wick", "empty"):
            xs = [x for x, _ in shape.points]
            assert max(xs) < left or min(xs) > right, shape
    assert any(isinstance(s, Line) and s.part == "macdv" and s.points[0][0] > right for s in shapes)
    assert any(isinstance(s, Words) and s.text == "3 missing" for s in shapes)


def shapes_step(shapes: Sequence[Shape]) -> float:
    """Width of a slot."""
    xs = sorted(s.points[0][0] for s in shapes if isinstance(s, Line) and s.part == "wick")
    return min(b - a for a, b in itertools.pairwise(xs))


def test_withheld_readings_are_not_drawn_and_say_why():
    shapes = shapes_of(wave(40))
    parts = Counter(shape.part for shape in shapes)
    assert not {"macdv", "signal", "histogram", "stage"} & set(parts)
    said = [s.text for s in shapes if isinstance(s, Words) and s.part in ("values", "withheld")]
    assert said == [
        "withheld",
        "MACD-V withheld: fewer than 60 candles: 40",
    ]


def test_macdv_has_the_colour_of_its_stage():
    from livermore.adapters.chart import STAGE_COLOURS

    candles = wave(300)
    stages = {r.stage for r in readings_along(Start(None, candles), 60)}
    shapes = shapes_of(candles)
    colours = {s.colour for s in shapes if isinstance(s, Line) and s.part == "macdv"}
    assert len(stages) >= 3
    assert colours == {STAGE_COLOURS[stage] for stage in stages if stage is not None}
    assert len(set(STAGE_COLOURS.values())) == 7
    named = {s.text for s in shapes if isinstance(s, Words) and s.part == "legend"}
    assert {str(stage) for stage in stages} <= named


def test_candles_that_rest_has_not_confirmed_are_underlined():
    candles = wave(300)
    candles[-4:] = [attrs.evolve(c, evidence=Evidence.STREAM) for c in candles[-4:]]
    assert Counter(s.part for s in shapes_of(candles))["unconfirmed"] == 4


def test_the_head_names_exchange_series_close_time_and_stage():
    candles = wave(300)
    said = {s.part: s.text for s in shapes_of(candles, note="beware") if isinstance(s, Words)}
    texts = [s.text for s in shapes_of(candles) if isinstance(s, Words) and s.part == "title"]
    assert texts == ["BTC-USD 1h", "coinbase"]
    assert said["close"] == f"close {candles[-1].close:,} at 2026-03-13 12:00 UTC"
    assert said["stage"] == readings_along(Start(None, candles), 1)[0].stage
    assert said["note"] == "beware"


def priced(candle: Candle, factor: float) -> Candle:
    """At another price, of six figures."""
    first, high, low, last = (
        float(f"{price * factor:.6g}")
        for price in (candle.open, candle.high, candle.low, candle.close)
    )
    return attrs.evolve(candle, open=first, high=high, low=low, close=last)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("price", [1.0, 543.21, 4.8e-8])
def test_no_text_lies_on_another_or_outside_of_the_picture(size, price):
    series = Series("binance_us", "1000000MOG-USDT", Timeframe.M15)
    candles = [priced(candle, price) for candle in wave(300, series)]
    for shown in (candles, candles[:150] + candles[155:], candles[:20]):
        fonts, boxes = Fonts(), []
        for shape in shapes_of(shown, size=size, note="OLD: 1 closed candle is missing"):
            if isinstance(shape, Words) and shape.text:
                wide = fonts.width(shape.text, shape.size)
                left = shape.x - {"l": 0.0, "m": wide / 2, "r": wide}[shape.align]
                half = shape.size * 0.45
                boxes.append((left, shape.y - half, left + wide, shape.y + half, shape.text))
        for k, (left, top, right, bottom, text) in enumerate(boxes):
            assert left >= 0, text
            assert right <= size[0], text
            assert top >= 0, text
            assert bottom <= size[1], text
            for other in boxes[k + 1 :]:
                apart = (
                    right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
                )
                assert apart, (text, other[4])


# -- the picture ------------------------------------------------------------------------------


def pixels(png: bytes) -> tuple[int, int]:
    """Width and height; every chunk of the file is checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds = 8, []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + data
        )
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_a_png_of_the_size_asked_for(size):
    assert pixels(png_of(wave(300), size=size)) == size


def test_the_same_candles_give_the_same_picture_in_any_thread():
    candles = wave(300)
    first, found = png_of(candles), []
    threads = [threading.Thread(target=lambda: found.append(png_of(candles))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 6
    assert png_of(candles[:-1]) != first


def test_a_picture_drawn_in_bands_has_no_seams(monkeypatch):
    from livermore.adapters import picture

    candles = wave(300)
    banded = png_of(candles)
    monkeypatch.setattr(picture, "BAND", 100_000_000)
    assert png_of(candles) == banded


def test_an_svg_holds_the_same_shapes():
    candles = wave(300)
    readings = readings_along(Start(None, candles), 60)
    root = ET.fromstring(draw_svg(candles[-60:], readings, note='<&"'))
    assert root.get("viewBox") == "0 0 800 500"
    parts = Counter(element.get("class") for element in root)
    assert (parts["candle"], parts["wick"], parts["level+150"], parts["level-50"]) == (60, 60, 1, 1)
    assert [e.text for e in root if e.get("class") == "note"] == ['<&"']


def test_a_chart_of_one_candle_is_drawn():
    assert pixels(png_of(wave(1))) == (800, 500)


def test_real_candles_are_drawn(shared_dir):
    series = Series("binance", "BTC-USDT", Timeframe.H1)
    dense = real(shared_dir, "binance_BTC-USDT_1h.csv", series)
    assert pixels(png_of(dense[:900])) == (800, 500)
    sparse = Series("binance", "XRP-ETH", Timeframe.M5)
    quiet = real(shared_dir, "sparse_XRP-ETH_5m.csv", sparse)[:600]
    shown = Counter(c.kind for c in quiet[-60:])
    rings = [s for s in shapes_of(quiet) if isinstance(s, Ring)]
    assert len(rings) == shown[Kind.EMPTY] > 0


# -- from the store ---------------------------------------------------------------------------


@pytest.fixture
def client(valkey_url: str) -> Iterator[Client]:
    client = Client(valkey_url)
    yield client
    client.close()


@pytest.fixture
def livermore(tmp_path: Path, valkey_url: str) -> Livermore:
    return Livermore(tmp_path, valkey_url)


def put(client: Client, candles: list[Candle], edge: store.Edge | None = None) -> None:
    client.run([store.write(candles[0].series, 1, candles, history=True, edge=edge)])


def test_readings_are_computed_from_the_edge_that_the_store_keeps(client):
    candles = wave(400)
    states = states_along(Start(None, candles))
    before, after = (States.of([states.state(k)]).to_json(0) for k in (99, 100))
    put(client, candles[100:], store.Edge(candles[100].open_time, after, before))
    reply = client.run([store.whole(BTC)])[0]
    assert stored(BTC, reply, 60).readings == readings_along(Start(None, candles), 60)
    # Without it they are those of a series that begins there.
    client.run([("HDEL", store.keys(BTC).companion, "edge_time", "edge", "base")])
    alone = stored(BTC, client.run([store.whole(BTC)])[0], 60)
    assert alone.readings == readings_along(Start(None, candles[100:]), 60)
    assert [c.open_time for c in alone.candles] == [c.open_time for c in candles[-60:]]


def test_damaged_members_are_a_gap_and_counted(client):
    candles = wave(300)
    put(client, candles)
    key, time = store.keys(BTC).candles, candles[280].open_time
    client.run([("ZREMRANGEBYSCORE", key, time, time), ("ZADD", key, time, b"rubbish")])
    found = stored(BTC, client.run([store.whole(BTC)])[0], 60)
    assert found.damaged == 1
    assert outline(found.candles, found.readings, 60).missing == [(40, 41)]


def test_the_command_writes_a_png_and_says_so(livermore, client):
    put(client, wave(300))
    done = livermore("chart", "BTC-USD", "1h", "-o", "chart.png")
    assert (done.returncode, done.stdout) == (0, "")
    assert "chart.png: BTC-USD 1h up to 2026-03-13 12:00 UTC" in done.stderr
    assert pixels((livermore.room / "chart.png").read_bytes()) == (800, 500)


def test_an_old_chart_says_that_it_is_old(livermore, client):
    put(client, wave(300))
    done = livermore("chart", "BTC-USD", "1h", "-o", "chart.svg", "--size", "400x600")
    root = ET.fromstring((livermore.room / "chart.svg").read_bytes())
    note = " ".join(str(e.text) for e in root if e.get("class") == "note")
    assert note.startswith("OLD: ")
    assert "no daemon is running for coinbase" in note
    assert note in done.stderr


@pytest.mark.parametrize(
    ("state", "late", "said"),
    [
        ("live", 0, ""),
        ("live", 1, "OLD: 1 closed candle is missing after this one"),
        ("halted", 0, "coinbase is halted"),
        ("blind", 2, "OLD: 2 closed candles are missing after this one; coinbase is blind"),
    ],
)
def test_what_a_running_daemon_does_not_see_is_said(livermore, client, state, late, said):
    candles = wave(300)
    put(client, candles)
    clock = candles[-1].close_time + late * BTC.timeframe.ms + 60_000
    words = {"state": state, "clock": clock, "symbols": ["BTC-USD"]}
    client.run([("SET", store.status_key("coinbase"), json.dumps(words), "PX", 45_000)])
    done = livermore("chart", "BTC-USD", "1h", "-o", "chart.svg")
    root = ET.fromstring((livermore.room / "chart.svg").read_bytes())
    assert " ".join(str(e.text) for e in root if e.get("class") == "note") == said
    assert (said in done.stderr) if said else ("OLD" not in done.stderr)


def test_the_terminal_is_drawn_into_where_no_file_is_named(livermore, client):
    put(client, wave(300))
    done = livermore("chart", "BTC-USD", "1h")
    assert done.returncode == 0
    assert done.stdout.startswith("BTC-USD 1h coinbase")
    assert "•" in done.stdout
    assert "\x1b" not in done.stdout
    assert livermore("chart", "BTC-USD", "1h", "--terminal").stdout == done.stdout
    plain = livermore("chart", "BTC-USD", "1h", PYTHONIOENCODING="ascii")
    assert plain.stdout.isascii()


def test_a_picture_can_be_piped(livermore, client):
    put(client, wave(300))
    script = """
import subprocess, sys
words = [sys.executable, "-m", "livermore.cli", "chart", "BTC-USD", "1h", "-o", "-"]
print(subprocess.run(words, capture_output=True).stdout[:8].hex())
"""
    with livermore.python("-c", script) as process:
        out, _ = process.communicate(timeout=30)
    assert out.strip() == b"\x89PNG\r\n\x1a\n".hex()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("BTC-USD", "1h", "-o", "chart.jpg"), 2, "a .png or an .svg file"),
        (("BTC-USD", "1h", "-o", "nowhere/chart.png"), 1, "cannot write nowhere/chart.png"),
        (("BTC-USD", "1h", "-o", "x.png", "--terminal"), 2, "exclude each other"),
        (("BTC-USD", "1h", "--size", "10x10"), 2, "from 300 to 4000"),
        (("BTC-USD", "1h", "--bars", "0"), 2, "--bars"),
        (("BTC-USD", "4h", "-o", "x.png"), 1, "no candles of BTC-USD 4h are stored"),
        (("BTC-USD", "2h"), 2, "unknown timeframe '2h'"),
        (("BTX-USD", "1h"), 2, "did you mean BTC-USD?"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(livermore, client, words, code, said):
    put(client, wave(300))
    done = livermore("chart", *words)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout) == (code, "")
    assert last.startswith("livermore: ")
    assert said in last
    assert not [*livermore.room.glob("*.png")]
