"""A chart of a series: candles with their volume above, MACD-V with its signal below.

Dark, as messengers are at night; on a light page it is a dark picture, readable as well. Text is a
fiftieth of the width, so that it can be read when 800 pixels are shrunk to the width of a phone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from livermore.adapters import store
from livermore.adapters.picture import Box, Fonts, Line, Ring, Shape, Words, to_png, to_svg
from livermore.errors import MalformedMessage
from livermore.market.candle import Candle, Series
from livermore.signals.anchor import Start, start_of
from livermore.signals.course import readings_along
from livermore.signals.outline import (
    LEVELS,
    Outline,
    Scale,
    Slot,
    figure,
    moment,
    outline,
    price_ticks,
    time_ticks,
)
from livermore.signals.reading import Reading
from livermore.signals.stage import STAGES, Stage

SIZE = (800, 500)
"""Of a chart that nobody asked another of: pixels."""

FEWEST_SLOTS = 24
"""That there is room for."""

SMALLEST, LARGEST = 300, 4000
"""Pixels, both ways."""

STAGE_COLOURS = {
    Stage.OVERBOUGHT: "#7dff9b",
    Stage.RALLYING: "#2fb457",
    Stage.REBOUNDING: "#38c6e8",
    Stage.RANGING: "#a9b0bd",
    Stage.RETRACING: "#ffd24d",
    Stage.REVERSING: "#ff8a3d",
    Stage.OVERSOLD: "#ff3b6b",
}
BACKGROUND, GRID, FRAME = "#131722", "#232838", "#3a4256"
TEXT, DIM, WARNING = "#e4e7ee", "#98a1b3", "#ffb020"
RISING, FALLING, QUIET = "#26a69a", "#ef5350", "#c792ea"
RISING_VOLUME, FALLING_VOLUME = "#1d4f50", "#5a2c35"
MISSING, UNCONFIRMED = "#5b2338", "#ffb020"
SIGNAL, HISTOGRAM = "#f2f4f8", "#4a5670"
LEVEL_COLOURS = {150.0: "#8a93a8", 50.0: "#566079", -50.0: "#566079", -150.0: "#8a93a8"}


@attrs.frozen
class Stored:
    """The newest candles of a series, ascending, and the reading at each of them."""

    candles: Sequence[Candle]
    readings: Sequence[Reading]
    damaged: int
    """Members of the sorted set that are no candles of ours."""


def stored(series: Series, reply: Any, bars: int) -> Stored:
    """What the reply to :func:`livermore.adapters.store.whole` holds for a chart of ``bars``.

    The readings are computed from the candles, from the oldest state the store keeps.
    """
    *fields, members = reply
    candles, damaged = store.decode_candles(series, members)
    try:
        known = store.read_companion(fields)
        start = start_of(candles, known.edge_time, known.edge, known.base)
    except MalformedMessage:
        start = Start(None, candles)
    return Stored(start.candles[-bars:], readings_along(start, bars), damaged)


def draw_png(
    candles: Sequence[Candle],
    readings: Sequence[Reading],
    *,
    bars: int = 60,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> bytes:
    """A PNG of the newest ``bars`` slots; ``readings`` are those at each of ``candles``, ascending.

    ``note`` is a warning that stands above. Safe in any thread. Raises ``ValueError`` without
    candles.
    """
    fonts = Fonts()
    shapes = draw(outline(candles, readings, bars), size, fonts, note)
    return to_png(shapes, *size, BACKGROUND, fonts)


def draw_svg(
    candles: Sequence[Candle],
    readings: Sequence[Reading],
    *,
    bars: int = 60,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> bytes:
    """As :func:`draw_png`, an SVG."""
    shapes = draw(outline(candles, readings, bars), size, Fonts(), note)
    return to_svg(shapes, *size, BACKGROUND)


def draw(drawn: Outline, size: tuple[int, int], fonts: Fonts, note: str = "") -> list[Shape]:
    """The shapes of a chart, the lowest first."""
    width, height = size
    letters = max(11, min(24, width // 50, height // 30))
    line = round(letters * 1.45)
    tags = [
        figure(drawn.newest.close),
        *(label for _, label in price_ticks(drawn.price, 5)),
        "-150",
    ]
    margin = max(fonts.width(tag, letters) for tag in tags) + letters

    head = [*_head(drawn, width, letters, line, fonts, note)]
    top = max(shape.y for shape in head) + line
    legend = [*_legend(drawn, width, height, letters, line, fonts)]
    bottom = min(shape.y for shape in legend) - line * 0.7
    times = bottom - line * 0.6
    # A few candles stand at the right, no wider than those of a longer series.
    spare = max(0, FEWEST_SLOTS - len(drawn.slots))
    frame = _Frame(letters * 0.6, width - margin, len(drawn.slots), spare)
    split = top + (times - line * 0.6 - top) * 0.62
    upper = _Panel(frame, top, split - letters * 0.4, drawn)
    lower = _Panel(frame, split + letters * 0.4, times - line * 0.6, drawn)

    shapes: list[Shape] = []
    for index, label in time_ticks(
        drawn.slots, drawn.series.timeframe, max(1, int(frame.width / letters / 6))
    ):
        x = frame.middle(index)
        shapes += [
            Line("grid", [(x, panel.top), (x, panel.bottom)], GRID) for panel in (upper, lower)
        ]
        half = fonts.width(label, letters) / 2
        if half <= x <= frame.right - half / 2:
            shapes.append(Words("time", x, times, label, DIM, letters, "m"))
    for first, last in drawn.missing:
        left, right = frame.edge(first), frame.edge(last)
        for panel in (upper, lower):
            shapes.append(Box("missing", left, panel.top, right, panel.bottom, MISSING))
        if fonts.width("missing", letters) < right - left:
            middle = (upper.top + upper.bottom) / 2
            shapes.append(
                Words("missing", (left + right) / 2, middle, "missing", TEXT, letters, "m")
            )
    shapes += _candles(upper, letters, fonts)
    shapes += _macdv(lower, letters, fonts)
    for panel in (upper, lower):
        corners = [
            (frame.left, panel.bottom),
            (frame.right, panel.bottom),
            (frame.right, panel.top),
        ]
        shapes.append(Line("frame", corners, FRAME))
    return [*shapes, *head, *legend]


@attrs.frozen
class _Frame:
    """Where slots lie from left to right."""

    left: float
    right: float
    slots: int
    spare: int
    """Places before the first of them."""

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def step(self) -> float:
        return self.width / (self.slots + self.spare)

    def edge(self, index: int) -> float:
        """Left edge of a slot."""
        return self.left + (self.spare + index) * self.step

    def middle(self, index: int) -> float:
        return self.edge(index) + self.step / 2


@attrs.frozen
class _Panel:
    frame: _Frame
    top: float
    bottom: float
    drawn: Outline

    def y(self, scale: Scale, value: float, low: float = 0.0, high: float = 1.0) -> float:
        """Of ``value``, where the scale takes the panel from ``low`` to ``high`` (0 is below)."""
        part = low + (high - low) * scale.place(value)
        return self.bottom - part * (self.bottom - self.top)

    def slots(self) -> Iterator[tuple[int, Slot]]:
        return enumerate(self.drawn.slots)


def _head(
    drawn: Outline, width: int, letters: int, line: int, fonts: Fonts, note: str
) -> Iterator[Words]:
    reading, left, y = drawn.reading, letters * 0.6, line * 0.8
    large = round(letters * 1.3)
    title = str(drawn.series)
    yield Words("title", left, y, title, TEXT, large)
    after = left + fonts.width(title, large) + letters * 0.7
    yield Words("title", after, y + 1, drawn.series.exchange, DIM, letters)
    if reading.stage is not None:
        yield Words(
            "stage", width - left, y, reading.stage, STAGE_COLOURS[reading.stage], large, "r"
        )
    y += line * 1.15
    said = f"close {figure(drawn.newest.close)} at {moment(drawn.newest.close_time)}"
    if drawn.slots[-1].empty:
        said += ", empty"
    yield Words("close", left, y, said, TEXT, letters)
    if reading.macdv is not None and reading.signal is not None and reading.histogram is not None:
        values = (
            f"MACD-V {reading.macdv:.1f}  signal {reading.signal:.1f}  "
            f"histogram {reading.histogram:.1f}"
        )
        colour = TEXT
    else:
        values, colour = f"MACD-V withheld: {reading.withheld}", WARNING
    room = width - 2 * left
    if fonts.width(said, letters) + fonts.width(values, letters) + 3 * letters <= room:
        yield Words("values", width - left, y, values, colour, letters, "r")
        values = ""
    for part, text, tint in (("values", values, colour), ("note", note, WARNING)):
        for row in _rows(text, room, letters, fonts):
            y += line
            yield Words(part, left, y, row, tint, letters)


def _rows(text: str, room: float, letters: int, fonts: Fonts) -> list[str]:
    """``text`` broken at spaces, so that each row fits into ``room``."""
    rows: list[str] = []
    for word in text.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and fonts.width(longer, letters) <= room:
            rows[-1] = longer
        else:
            rows.append(word)
    return rows


def _legend(
    drawn: Outline, width: int, height: int, letters: int, line: int, fonts: Fonts
) -> Iterator[Words]:
    """What the colours mean, of what is seen; rows from the bottom up."""
    slots = drawn.slots
    seen = {slot.reading.stage for slot in slots if slot.reading is not None}
    items = [(str(stage), STAGE_COLOURS[stage]) for stage in STAGES if stage in seen]
    if items:
        items = [("MACD-V:", TEXT), *items, ("signal", SIGNAL)]
    quiet = sum(slot.empty for slot in slots)
    gone = sum(slot.candle is None for slot in slots)
    unsure = sum(slot.unconfirmed for slot in slots)
    if quiet:
        items.append((f"o {quiet} empty", QUIET))
    if gone:
        items.append((f"{gone} missing", "#e0608a"))
    if unsure:
        items.append((f"_ {unsure} not confirmed", UNCONFIRMED))
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = letters * 0.6
    for text, colour in items:
        wide = fonts.width(text, letters)
        if rows[-1] and x + wide > width - letters * 0.6:
            rows.append([])
            x = letters * 0.6
        rows[-1].append((text, colour, x))
        x += wide + letters * 0.9
    for k, row in enumerate(rows):
        y = height - line * (len(rows) - k - 0.4)
        yield from (Words("legend", x, y, text, colour, letters) for text, colour, x in row)
    if not items:
        yield Words("legend", 0, height - line * 0.6, "", DIM, letters)


def _candles(panel: _Panel, letters: int, fonts: Fonts) -> Iterator[Shape]:
    drawn, frame = panel.drawn, panel.frame
    body = max(0.7, frame.step * 0.7)

    def price(value: float) -> float:
        return panel.y(drawn.price, value, 0.22, 1.0)

    last = price(drawn.newest.close)
    for value, label in price_ticks(
        drawn.price, max(2, int((panel.bottom - panel.top) / letters / 2.8))
    ):
        y = price(value)
        yield Line("grid", [(frame.left, y), (frame.right, y)], GRID)
        if abs(y - last) > letters * 1.2:
            yield Words("price", frame.right + letters * 0.4, y, label, DIM, letters)
    for k, slot in panel.slots():
        candle = slot.candle
        if candle is None:
            continue
        x, rises = frame.middle(k), candle.close >= candle.open
        left, right = x - body / 2, x + body / 2
        if slot.unconfirmed:
            yield Box(
                "unconfirmed",
                *(frame.edge(k), panel.bottom + 1, frame.edge(k + 1), panel.bottom + 4),
                UNCONFIRMED,
            )
        if slot.empty:
            y = price(candle.close)
            yield Line("empty", [(frame.edge(k), y), (frame.edge(k + 1), y)], QUIET)
            yield Ring("empty", x, y, max(1.5, min(4.5, frame.step * 0.32)), QUIET)
            continue
        tint = RISING_VOLUME if rises else FALLING_VOLUME
        top = panel.y(drawn.volume, candle.volume, 0.0, 0.18)
        yield Box("volume", left, top, right, panel.bottom, tint)
        colour = RISING if rises else FALLING
        yield Line("wick", [(x, price(candle.high)), (x, price(candle.low))], colour, 1.3)
        high, low = price(max(candle.open, candle.close)), price(min(candle.open, candle.close))
        yield Box("candle", left, high, right, max(low, high + 1.2), colour)
    yield Line("last", [(frame.left, last), (frame.right, last)], DIM, 1.0, True)
    yield from _tag(frame, last, figure(drawn.newest.close), TEXT, letters, fonts)


def _macdv(panel: _Panel, letters: int, fonts: Fonts) -> Iterator[Shape]:
    drawn, frame = panel.drawn, panel.frame
    body = max(0.7, frame.step * 0.55)

    def place(value: float) -> float:
        return panel.y(drawn.macdv, value)

    zero, now = place(0.0), drawn.reading.macdv
    taken = [] if now is None else [place(now)]
    yield Line("zero", [(frame.left, zero), (frame.right, zero)], FRAME)
    for k, slot in panel.slots():
        if slot.reading is not None and slot.reading.histogram is not None:
            x, y = frame.middle(k), place(slot.reading.histogram)
            ends = (min(y, zero), max(y, zero))
            yield Box("histogram", x - body / 2, ends[0], x + body / 2, ends[1], HISTOGRAM)
    for level in LEVELS:
        y = place(level)
        yield Line(
            f"level{level:+.0f}",
            [(frame.left, y), (frame.right, y)],
            LEVEL_COLOURS[level],
            1.0,
            True,
        )
        if all(abs(y - other) > letters * 1.1 for other in taken):
            taken.append(y)
            yield Words("level", frame.right + letters * 0.4, y, f"{level:.0f}", DIM, letters)
    for first, last in drawn.lines:
        points = [
            (frame.middle(k), place(r.macdv), place(r.signal), r.stage)
            for k in range(first, last)
            if (r := drawn.slots[k].reading) is not None
            and r.macdv is not None
            and r.signal is not None
            and r.stage is not None
        ]
        yield Line("signal", _line([(x, s) for x, _, s, _ in points], frame), SIGNAL, letters / 13)
        begin = 0
        for k in range(1, len(points) + 1):
            if k < len(points) and points[k][3] is points[begin][3]:
                continue
            # A stage's line begins where the one before it ends.
            part = [(x, v) for x, v, _, _ in points[max(0, begin - 1) : k]]
            yield Line("macdv", _line(part, frame), STAGE_COLOURS[points[begin][3]], letters / 6.5)
            begin = k
    if not drawn.lines:
        middle = (frame.left + frame.right) / 2
        yield Words("withheld", middle, place(25), "withheld", WARNING, letters, "m")
    if now is not None and drawn.reading.stage is not None:
        colour = STAGE_COLOURS[drawn.reading.stage]
        yield from _tag(frame, place(now), f"{now:.1f}", colour, letters, fonts)


def _line(points: list[tuple[float, float]], frame: _Frame) -> list[tuple[float, float]]:
    """A single point is drawn as well, as wide as its candle."""
    if len(points) > 1:
        return points
    (x, y), half = points[0], max(1.0, frame.step * 0.3)
    return [(x - half, y), (x + half, y)]


def _tag(
    frame: _Frame, y: float, text: str, colour: str, letters: int, fonts: Fonts
) -> Iterator[Shape]:
    """A value at the right edge, dark on its colour."""
    half = letters * 0.65
    right = frame.right + fonts.width(text, letters) + letters * 0.8
    yield Box("tag", frame.right + 1, y - half, right, y + half, colour)
    yield Words("tag", frame.right + letters * 0.4, y, text, BACKGROUND, letters)
