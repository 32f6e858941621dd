"""Data on stdout, talk on stderr; colour and bars only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.segment import Segment, Segments
from rich.table import Table

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
            name, justify="right" if name in right else "left", no_wrap=name not in loose
        )
    return made


def number(value: float | None, places: int | None = None) -> str:
    """A figure as a person reads it; the shortest that is exact unless ``places`` is given."""
    if value is None:
        return "–"
    if places is not None:
        return f"{value:.{places}f}"
    text = f"{Decimal(repr(value)):f}"
    return text.removesuffix(".0")
