"""Data on stdout, talk on stderr; colour and bars only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import attrs
import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

WIDE = 500
"""Columns where nobody is watching: a pipe has no edge to wrap at."""


def data() -> Console:
    """The console for data."""
    watched = sys.stdout.isatty()
    return Console(
        file=sys.stdout, highlight=False, soft_wrap=False, width=None if watched else WIDE
    )


def talk() -> Console:
    """The console for talk."""
    watched = sys.stderr.isatty()
    return Console(file=sys.stderr, highlight=False, width=None if watched else WIDE)


def say(text: str) -> None:
    """One line of talk."""
    print(text, file=sys.stderr, flush=True)


def show(what: RenderableType, *, whole: bool = False, most: int = WIDE) -> None:
    """Print a table or a panel as data, at ``most`` so many columns wide.

    A ``whole`` one rather overflows the terminal than cuts its figures.
    """
    console = data()
    options = console.options.update(width=min(console.width, most))
    if whole:
        wanted = Measurement.get(console, options.update(width=WIDE), what).maximum
        options = options.update(width=max(console.width, wanted))
    # Written by hand: rich would turn a closed pipe into an exit code of 1.
    lines = console.render_lines(what, options, pad=False)
    text = Segments(segment for line in lines for segment in (*line, Segment.line()))
    with console.capture() as captured:
        console.print(text, end="", soft_wrap=True)
    for line_ in captured.get().splitlines():
        sys.stdout.write(line_.rstrip() + "\n")


def line(text: str) -> None:
    """One line of data, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def document(value: Any) -> None:
    """One JSON document on one line."""
    line(msgspec.json.encode(value).decode())


def table(*columns: str, right: Sequence[str] = (), loose: Sequence[str] = ()) -> Table:
    """A quiet table: no lines, figures to the ``right``; only ``loose`` columns are wrapped."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in loose,
            overflow="fold",
        )
    return made


LOOSE = 24
"""Columns that words which are wrapped need to be readable."""
NOTHING = ("", "–")


@attrs.frozen
class Rows:
    """A table; where its columns do not fit, a block of lines for each row: nothing is cut."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Text]]
    right: Sequence[str] = ()
    loose: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.width() <= options.max_width:
            yield self._table()
            return
        for row in self.rows:
            yield from self._block(row, max(1, options.max_width - 2))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        if self.width() <= options.max_width:
            return Measurement.get(console, options, self._table())
        return Measurement(1, options.max_width)

    def _table(self) -> Table:
        made = table(*self.columns, right=self.right, loose=self.loose)
        for row in self.rows:
            made.add_row(*row)
        return made

    def width(self) -> int:
        """Columns that the table needs."""
        wanted = 0
        for place, name in enumerate(self.columns):
            widest = max([len(name), *(row[place].cell_len for row in self.rows)])
            wanted += min(widest, LOOSE) if name in self.loose else widest
        return wanted + 2 * len(self.columns)

    def _block(self, row: Sequence[Text], room: int) -> Iterator[RenderableType]:
        """The first cell, then what there is of the others, as many on a line as fit."""
        if row[0].plain:
            yield Text(row[0].plain, style="bold", overflow="fold")
        line = Text()
        for name, cell in zip(self.columns[1:], row[1:], strict=True):
            if cell.plain in NOTHING:
                continue
            said = Text.assemble((f"{name} ", "dim"), cell)
            if line.plain and (name in self.loose or line.cell_len + said.cell_len + 3 > room):
                yield Padding(line, (0, 0, 0, 2))
                line = Text()
            line = Text(" · ").join([line, said]) if line.plain else said
        if line.plain:
            yield Padding(line, (0, 0, 0, 2))


def number(value: float | None, places: int | None = None) -> str:
    """A figure as a person reads it; the shortest that is exact unless ``places`` is given."""
    if value is None:
        return "–"
    if places is not None:
        return f"{value:.{places}f}"
    text = f"{Decimal(repr(value)):f}"
    return text.removesuffix(".0")
