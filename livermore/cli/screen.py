"""The demo's screen: a header, symbols × timeframes, and what happened last.

Pure: a :class:`View` and the size of the terminal go in, something rich can print comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from livermore.cli import times
from livermore.cli.status import COLOURS, seconds
from livermore.cli.words import Words
from livermore.market.timeframe import TIMEFRAMES, Timeframe

ZONES = {
    "overbought": "bold bright_green",
    "rallying": "green",
    "rebounding": "cyan",
    "ranging": "dim",
    "retracing": "yellow",
    "reversing": "red",
    "oversold": "bold bright_red",
}
"""Colours of MACD-V by stage."""
BARS = "▁▂▃▄▅▆▇█"
STAGES_FROM, SPARKS_FROM = 112, 140
"""Columns from which stages are written out and prices are drawn."""
FEWEST_LINES = 3
"""Of the ticker at the bottom; symbols make room for them."""


@attrs.frozen
class Row:
    """A symbol: its last price, its newest five-minute closes, its newest readings."""

    symbol: str
    price: float | None
    closes: Sequence[float]
    readings: Mapping[Timeframe, Mapping[str, Any]]


@attrs.frozen
class View:
    """All that is shown, read from Redis as any consumer would."""

    title: str
    words: Words
    rows: Sequence[Row]
    events: Sequence[tuple[str, Mapping[str, Any]]]
    """What was published, oldest first: its kind, as ``tail`` calls it, and what it said."""


def screen(view: View, width: int, height: int) -> RenderableType:
    """The view in exactly the lines there are."""
    room = height - 6  # the header with its border and note, the table's head, the rule
    shown = max(1, min(len(view.rows), room - FEWEST_LINES))
    events = view.events[-(room - shown) :] if room > shown else ()
    parts: list[RenderableType] = [header(view), board(view.rows[:shown], width)]
    if events:
        hidden = len(view.rows) - shown
        parts.append(legend(width, f"{hidden} more symbols do not fit" if hidden > 0 else ""))
        parts += [brief(word, said) for word, said in events]
    return Group(*parts)


def legend(width: int, note: str) -> Text:
    """A rule that says what the colours mean, or what is left out."""
    words = [(note, "dim")] if note else list(ZONES.items())
    line = Text(" ")
    for word, style in words:
        line.append(word, style=style).append(" ")
    side = "─" * max(0, (width - 1 - len(line)) // 2)
    return Text.assemble((side, "dim"), line, (side, "dim"), no_wrap=True, overflow="crop")


def header(view: View) -> RenderableType:
    """What we are, whether we see, and why not."""
    words = view.words
    state = words.state or "starting"
    colour = COLOURS.get(state, "yellow")
    facts = [state]
    if words.exchange_time is not None:
        facts.append(f"exchange time {seconds(words.exchange_time)}")
    if words.newest_close:
        facts.append(f"newest close {seconds(words.newest_close)[11:16]}")
    if words.gaps is not None:
        facts.append(f"{words.gaps} gaps")
    line = Text.assemble(("● ", colour), " · ".join(facts), no_wrap=True, overflow="ellipsis")
    note = Text(words.note or lag(words), style="dim", no_wrap=True, overflow="ellipsis")
    return Panel(
        Group(line, note),
        title=Text(view.title, style="bold"),
        title_align="left",
        border_style=colour,
        box=box.ROUNDED,
        padding=(0, 1),
    )


def lag(words: Words) -> str:
    """How soon closes are stored, where that is known."""
    if words.close_lag is None or words.close_lag.p50 is None:
        return ""
    after = times.length(words.close_lag.p50)
    return f"{len(words.symbols or ())} symbols, closes stored {after} after the end"


def board(rows: Sequence[Row], width: int) -> RenderableType:
    """Symbols by timeframes."""
    stages = width >= STAGES_FROM
    drawn = width >= SPARKS_FROM or 100 <= width < STAGES_FROM
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("symbol", no_wrap=True)
    table.add_column("last", justify="right", no_wrap=True)
    if drawn:
        table.add_column("two hours", no_wrap=True)
    for timeframe in TIMEFRAMES:
        name = f"MACD-V {timeframe}" if stages else str(timeframe)
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells: list[RenderableType] = [Text(row.symbol), Text(price(row.price))]
        if drawn:
            cells.append(Text(sparks(row.closes), style="dim"))
        cells += [reading(row.readings.get(timeframe), stages=stages) for timeframe in TIMEFRAMES]
        table.add_row(*cells)
    return table


def reading(said: Mapping[str, Any] | None, *, stages: bool) -> Text:
    """MACD-V in the colour of its stage; dots while there is none."""
    value = said.get("macdv") if said else None
    if said is None or not isinstance(value, int | float):
        return Text("·" if said is None else "··", style="dim")
    stage = str(said.get("stage") or "")
    text = f"{value:+.1f}" + (f" {stage}" if stages and stage else "")
    return Text(text, style=ZONES.get(stage, ""))


def price(value: float | None) -> str:
    """A price exactly as it is, however small."""
    return "–" if value is None else f"{Decimal(repr(value)):,f}".removesuffix(".0")


def amount(value: float) -> str:
    """A volume, to five figures."""
    return f"{Decimal(f'{value:.5g}'):,f}"


def sparks(closes: Sequence[float]) -> str:
    """Closes as a row of little bars."""
    if not closes:
        return ""
    low, high = min(closes), max(closes)
    step = (high - low) / (len(BARS) - 1)
    return "".join(BARS[round((close - low) / step)] if step > 0 else BARS[0] for close in closes)


def brief(word: str, said: Mapping[str, Any]) -> Text:
    """What was published, on one short line. Corrections and readings stand out."""
    time = said.get("open_time")
    at = times.iso(time)[11:16] if isinstance(time, int) else "?"
    where = f"{at} {said.get('symbol', '?')!s:<10} {said.get('timeframe', '?')!s:<3} {word:<10} "
    if word == "reading":
        stage = str(said.get("stage") or "")
        value = said.get("macdv")
        if isinstance(value, int | float):
            return _line(where + f"MACD-V {value:+.1f} {stage}", ZONES.get(stage, ""))
        return _line(where + f"withheld: {said.get('withheld')}", "dim")
    figures = " ".join(
        f"{name} {spelled(float(value))}"
        for name, spelled in (("close", price), ("volume", amount))
        if isinstance(value := said.get(name), int | float)
    )
    proof = " ".join(str(said[key]) for key in ("kind", "evidence") if key in said)
    return _line(f"{where}{figures} {proof}", "yellow" if word == "correction" else "dim")


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def plain(view: View) -> str:
    """The state in one line, where there is no screen."""
    words = (view.title, view.words.state or "starting", view.words.note)
    return " · ".join(word for word in words if word)
