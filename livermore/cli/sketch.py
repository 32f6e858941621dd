"""A chart in the terminal: candles with their volume, MACD-V and its signal.

Pure: candles, readings and the size of the terminal go in, lines that rich can print come out.
Without colours a rising candle is told from a falling one by its filling, and where the encoding
has no lines and blocks, by ASCII.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import attrs
from rich.text import Text

from livermore.cli.screen import BARS, ZONES
from livermore.market.candle import Candle
from livermore.signals.outline import (
    LEVELS,
    Outline,
    figure,
    moment,
    outline,
    price_ticks,
    time_ticks,
)
from livermore.signals.reading import Reading

RISING, FALLING, QUIET, MISSING, WARNING = "green", "red", "magenta", "red", "yellow"
NARROWEST = 30
"""Columns of the smallest sketch there is."""


@attrs.frozen
class Signs:
    """What things are drawn with."""

    rising: str
    falling: str
    wick: str
    empty: str
    missing: str
    volume: str
    level: str
    zero: str
    macdv: str
    signal: str


COLOURED = Signs("█", "█", "│", "o", "░", BARS, "┈", "─", "•", "·")
UNCOLOURED = attrs.evolve(COLOURED, rising="▒")
ASCII = Signs("+", "#", "|", "o", ":", ".-=*#", "-", "-", "*", ".")


def signs(encoding: str, *, coloured: bool) -> Signs:
    """Those that a terminal with ``encoding`` can show."""
    try:
        "".join(attrs.astuple(COLOURED)).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return COLOURED if coloured else UNCOLOURED


def sketch(
    candles: Sequence[Candle],
    readings: Sequence[Reading],
    *,
    bars: int,
    width: int,
    height: int,
    using: Signs,
    note: str = "",
) -> list[Text]:
    """The lines of a chart of the newest ``bars`` slots, or of as many as there are columns for."""
    width = max(width, NARROWEST)
    axis = _axis(outline(candles, readings, bars))
    drawn = outline(candles, readings, max(1, min(bars, width - axis)))
    axis = _axis(drawn)
    step = 2 if 2 * len(drawn.slots) <= width - axis else 1
    rows = max(15, min(36, height - 8))
    lower = max(7, min(11, rows * 2 // 5) | 1)  # odd: 0 has a row of its own
    head = [*_head(drawn, width, note)]
    if len(drawn.slots) < min(bars, len(candles)):
        head.append(Text(f"the newest {len(drawn.slots)}: there is no room for more", style="dim"))
    upper = _upper(drawn, using, rows - lower, step)
    below = _lower(drawn, using, lower, step)
    lines = [*head, *upper.lines(), *below.lines(), _times(drawn, step), _legend(drawn, using)]
    for line in lines:
        line.truncate(width)
    return lines


@attrs.define
class _Panel:
    """Cells by row (from above) and column, and what stands at the right of some rows."""

    rows: int
    columns: int
    cells: dict[tuple[int, int], tuple[str, str]] = attrs.field(factory=dict)
    labels: dict[int, tuple[str, str]] = attrs.field(factory=dict)

    def put(self, row: int, column: int, sign: str, style: str) -> None:
        self.cells[row, column] = (sign, style)

    def row(self, part: float) -> int:
        """The row of a place on a scale, 0 below."""
        return round((1 - part) * (self.rows - 1))

    def lines(self) -> Iterator[Text]:
        for row in range(self.rows):
            line = Text()
            for column in range(self.columns):
                line.append(*self.cells.get((row, column), (" ", "")))
            label, style = self.labels.get(row, ("", ""))
            yield line.append(" ").append(label, style)


def _axis(drawn: Outline) -> int:
    labels = [figure(drawn.newest.close), *(label for _, label in price_ticks(drawn.price, 4))]
    return 1 + max(6, *map(len, labels))


def _head(drawn: Outline, width: int, note: str) -> Iterator[Text]:
    reading, close = drawn.reading, drawn.newest
    stage = str(reading.stage or "")
    yield Text.assemble(
        (str(drawn.series), "bold"), f" {drawn.series.exchange}  ", (stage, ZONES.get(stage, ""))
    )
    quiet = ", empty" if drawn.slots[-1].empty else ""
    yield Text(f"close {figure(close.close)} at {moment(close.close_time)}{quiet}")
    if reading.macdv is not None and reading.signal is not None and reading.histogram is not None:
        yield Text(
            f"MACD-V {reading.macdv:.1f}  signal {reading.signal:.1f}  "
            f"histogram {reading.histogram:.1f}"
        )
    else:
        note = "\n".join(filter(None, (f"MACD-V withheld: {reading.withheld}", note)))
    for line in note.splitlines():
        yield from (Text(part, style=WARNING) for part in textwrap.wrap(line, width))


def _upper(drawn: Outline, using: Signs, rows: int, step: int) -> _Panel:
    panel = _Panel(rows, len(drawn.slots) * step)
    floor = rows - 1  # of the volume

    def row(price: float) -> int:
        return round((1 - drawn.price.place(price)) * (floor - 1))

    for value, label in price_ticks(drawn.price, max(2, rows // 4)):
        panel.labels[row(value)] = (label, "dim")
    panel.labels[row(drawn.newest.close)] = (figure(drawn.newest.close), "bold")
    for k, slot in enumerate(drawn.slots):
        column, candle = k * step, slot.candle
        if candle is None:
            for r in range(rows):
                panel.put(r, column, using.missing, MISSING)
            continue
        if slot.empty:
            panel.put(row(candle.close), column, using.empty, QUIET)
            continue
        rises = candle.close >= candle.open
        sign, style = (using.rising, RISING) if rises else (using.falling, FALLING)
        for r in range(row(candle.high), row(candle.low) + 1):
            panel.put(r, column, using.wick, style)
        for r in range(
            row(max(candle.open, candle.close)), row(min(candle.open, candle.close)) + 1
        ):
            panel.put(r, column, sign, style)
        part = drawn.volume.place(candle.volume)
        panel.put(floor, column, using.volume[round(part * (len(using.volume) - 1))], "dim")
    return panel


def _lower(drawn: Outline, using: Signs, rows: int, step: int) -> _Panel:
    panel = _Panel(rows, len(drawn.slots) * step)

    def row(value: float) -> int:
        return panel.row(drawn.macdv.place(value))

    for level in (0.0, *reversed(LEVELS)):  # the outer ones win where two share a row
        for column in range(panel.columns):
            panel.put(row(level), column, using.level if level else using.zero, "dim")
        panel.labels[row(level)] = (f"{level:.0f}", "dim")
    for k, slot in enumerate(drawn.slots):
        if slot.candle is None:
            for r in range(rows):
                panel.put(r, k * step, using.missing, MISSING)
    for first, last in drawn.lines:
        before = None
        for k in range(first, last):
            reading = drawn.slots[k].reading
            assert reading is not None
            assert reading.macdv is not None
            assert reading.signal is not None
            panel.put(row(reading.signal), k * step, using.signal, "")
            now = row(reading.macdv)
            between = range(now, now + 1)
            if before is not None and abs(before - now) > 1:
                between = range(min(now, before + 1), max(now, before - 1) + 1)
            for r in between:
                panel.put(r, k * step, using.macdv, ZONES.get(str(reading.stage), ""))
            before = now
    if drawn.reading.macdv is not None:
        style = ZONES.get(str(drawn.reading.stage), "")
        panel.labels[row(drawn.reading.macdv)] = (f"{drawn.reading.macdv:.1f}", style)
    return panel


def _times(drawn: Outline, step: int) -> Text:
    columns = len(drawn.slots) * step
    line = ""
    for index, label in time_ticks(drawn.slots, drawn.series.timeframe, max(1, columns // 9)):
        if index * step > len(line) or index == 0:
            line = line.ljust(index * step) + label
    return Text(line, style="dim")


def _legend(drawn: Outline, using: Signs) -> Text:
    """What the signs mean, of what is seen."""
    slots = drawn.slots
    items = [
        (f"{using.rising} rising", RISING),
        (f"{using.falling} falling", FALLING),
        (f"{using.macdv} MACD-V", ""),
        (f"{using.signal} signal", ""),
    ]
    if quiet := sum(slot.empty for slot in slots):
        items.append((f"{using.empty} {quiet} empty", QUIET))
    if gone := sum(slot.candle is None for slot in slots):
        items.append((f"{using.missing} {gone} missing", MISSING))
    if unsure := sum(slot.unconfirmed for slot in slots):
        items.append((f"{unsure} not confirmed", WARNING))
    line = Text()
    for text, style in items:
        line.append(text, style).append("  ")
    return line
