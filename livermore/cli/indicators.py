"""``livermore indicators``: MACD-V of every symbol, one column per timeframe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import latest, options, output, store, times
from livermore.cli.latest import Latest
from livermore.cli.options import Exchange, Json, Place, Symbol, placed
from livermore.cli.status import AWAY
from livermore.cli.store import Status
from livermore.errors import UsageError
from livermore.market.timeframe import TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from livermore.signals.reading import Reading

PAUSE = 2.0
"""Seconds between two looks."""

ORDERS = ("symbol", "macdv", "extreme", *(timeframe.value for timeframe in TIMEFRAMES))

SHORT = {
    "oversold": "os",
    "overbought": "ob",
    "rallying": "ra",
    "rebounding": "rb",
    "reversing": "rv",
    "retracing": "rt",
    "ranging": "rg",
    "halted": "ha",
    "bullish": "bull",
    "bearish": "bear",
    "neutral": "neut",
    "medium": "med",
}
"""How words are written where there is little room."""


@attrs.frozen
class Row:
    """One symbol: its newest readings, all timeframes, and what they say together."""

    symbol: str
    readings: Mapping[Timeframe, Latest]
    bias: str | None
    """Of the current readings; None where none of them has a stage."""
    bias_timeframes: int
    """How many have one."""

    def value(self, timeframe: Timeframe) -> float | None:
        """MACD-V where it is current."""
        current = self.readings[timeframe].current
        return None if current is None else current.macdv


@attrs.frozen
class Board:
    """What a look at the store found."""

    exchange: str
    status: Status | None
    now: int
    timeframes: Sequence[Timeframe]
    rows: Sequence[Row]
    of: int
    """How many symbols there are, shown or not."""

    @property
    def shown(self) -> list[Latest]:
        """Every cell."""
        return [row.readings[timeframe] for row in self.rows for timeframe in self.timeframes]


@attrs.frozen
class Wanted:
    """What a person asked for."""

    exchange: str
    symbol: str | None
    timeframes: Sequence[Timeframe]
    stage: str | None
    order: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "indicators",
        epilog="Example: `livermore indicators`, "
        "`livermore indicators --stage oversold --timeframe 1h,4h --sort 1h`, "
        "`livermore indicators --watch`.",
    )(placed(indicators))


def indicators(
    place: Place,
    symbol: Symbol = None,
    timeframe: Annotated[
        str | None,
        typer.Option(
            "--timeframe", "-t", metavar="TF", help="Only these of 5m 15m 1h 4h 1d, with commas."
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Only symbols that are in it, such as oversold."),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="ORDER",
            help="symbol; macdv (highest first, in the first column) or a timeframe for that one; "
            "extreme (furthest from 0 in any column).",
        ),
    ] = "symbol",
    why: Annotated[bool, typer.Option("--why", help="Say below why numbers are missing.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Renew it every 2 seconds, until Ctrl-C.")
    ] = False,
    exchange: Exchange = None,
    user: options.User = None,
    json: Json = False,
) -> int:
    """Show MACD-V and stage of every symbol in every timeframe."""
    from livermore.signals.stage import Stage

    if stage is not None and stage not in tuple(Stage):
        raise UsageError(f"unknown stage {stage!r}: use one of {', '.join(Stage)}")
    if sort not in ORDERS:
        raise UsageError(f"--sort {sort}: use one of {', '.join(ORDERS)}")
    only, given = options.limits(symbol, exchange)
    wanted = Wanted(given or "", only, options.timeframes(timeframe), stage, sort)
    place = place.of(user)
    settings = place.settings()
    with store.open_store(settings, given) as client:
        if watch:
            name = store.sole_exchange(client, settings, given)
            names = [(name, only)]
        else:
            names = [(at, name) for at, name, _ in store.look_at(client, settings, only, given)]
    if watch:
        return _watch(place, attrs.evolve(wanted, exchange=names[0][0]), json=json, why=why)
    for name, known in names:
        board = _read(place, attrs.evolve(wanted, exchange=name, symbol=known))
        if json:
            output.document(document(board))
        else:
            if len(names) > 1:
                output.line(f"{name}:")
            _print(board, wanted, why=why)
    return 0


def _read(place: Place, wanted: Wanted) -> Board:
    settings = place.settings()
    with store.open_store(settings) as client:
        status = store.read_status(client, wanted.exchange)
        series = latest.followed(client, wanted.exchange, status, settings.user)
        symbols = list(dict.fromkeys(one.symbol for one in series))
        if wanted.symbol is not None:
            symbols = [
                store.known_symbol(client, wanted.exchange, wanted.symbol, status, settings.user)
            ]
        now = latest.clock(status)
        # All timeframes of a symbol, also those that are not shown: the bias is of all.
        asked = store.series_of(client, settings, wanted.exchange, symbols, status)
        return board_of(wanted, status, latest.read_latest(client, asked, now), now)


def board_of(wanted: Wanted, status: Status | None, found: Sequence[Latest], now: int) -> Board:
    """The rows that are ``wanted``, in order; ``found`` has every timeframe of every symbol."""
    width = len(TIMEFRAMES)
    rows = [_row(found[at : at + width]) for at in range(0, len(found), width)]
    kept = [row for row in rows if wanted.stage is None or _is_in(row, wanted)]
    return Board(wanted.exchange, status, now, wanted.timeframes, _sorted(kept, wanted), len(rows))


def _row(found: Sequence[Latest]) -> Row:
    import numpy as np

    from livermore.signals.bias import BIASES, biases
    from livermore.signals.stage import STAGES

    current = [one.current for one in found]
    codes = [-1 if r is None or r.stage is None else STAGES.index(r.stage) for r in current]
    leaning, known = biases(np.array([codes]))
    bias = None if leaning[0] < 0 else str(BIASES[leaning[0]])
    by_timeframe = {one.series.timeframe: one for one in found}
    return Row(found[0].series.symbol, by_timeframe, bias, int(known[0]))


def _is_in(row: Row, wanted: Wanted) -> bool:
    return any(
        current is not None and current.stage == wanted.stage
        for current in (row.readings[timeframe].current for timeframe in wanted.timeframes)
    )


def _sorted(rows: Sequence[Row], wanted: Wanted) -> list[Row]:
    """By symbol among equals; what has no current value comes last."""
    key: Callable[[Row], float | None]
    if wanted.order == "symbol":
        return sorted(rows, key=lambda row: row.symbol)
    if wanted.order == "extreme":

        def key(row: Row) -> float | None:
            values = [row.value(timeframe) for timeframe in wanted.timeframes]
            return max((abs(value) for value in values if value is not None), default=None)
    else:
        first = wanted.order == "macdv"
        column = wanted.timeframes[0] if first else Timeframe.parse(wanted.order)

        def key(row: Row) -> float | None:
            return row.value(column)

    return sorted(rows, key=lambda row: (-_or_last(key(row)), row.symbol))


def _or_last(value: float | None) -> float:
    return float("-inf") if value is None else value


# -- on a screen ------------------------------------------------------------------------------


def _print(board: Board, wanted: Wanted, *, why: bool) -> None:
    for what in _parts(board, wanted, why=why, width=output.data().width):
        if isinstance(what, str):
            output.line(what)
        else:
            output.show(what, whole=True)
    if (doubt := latest.doubt(board.exchange, board.status)) is not None:
        output.say(doubt)


def _parts(board: Board, wanted: Wanted, *, why: bool, width: int) -> list[Table | str]:
    """The table as wide as there is room for, and what has to be said below it."""
    if not board.rows:
        if wanted.stage is not None and board.of:
            where = "/".join(timeframe.value for timeframe in board.timeframes)
            return [f"none of {board.of} symbols is {wanted.stage} in {where}"]
        return [f"nothing of {board.exchange} is followed or stored"]
    shown, legend = table(board, width)
    parts: list[Table | str] = [shown, *([legend] if legend else [])]
    reasons = [(one.series, one.why) for one in board.shown if one.why is not None]
    if why:
        parts += [f"{series}: {reason}" for series, reason in reasons]
    return parts


def table(board: Board, width: int) -> tuple[Table, str]:
    """The fullest table that fits ``width`` columns, and a line that says what its signs mean."""
    from rich.console import Console
    from rich.measure import Measurement

    ruler = Console(width=output.WIDE)
    for detail in (2, 1, 0):
        made = _table(board, detail)
        if Measurement.get(ruler, ruler.options, made).maximum <= width:
            break
    return made, _legend(board, detail)


def _table(board: Board, detail: int) -> Table:
    """``detail`` 2: words; 1: abbreviations; 0: values alone."""
    from rich.text import Text

    names = [timeframe.value for timeframe in board.timeframes]
    extra = ("bias", "liquidity" if detail == 2 else "liq") if detail else ()
    made = output.table("symbol", *names, *extra)
    if detail < 2:
        made.padding = (0, 1, 0, 0)
    for row in board.rows:
        cells = [cell(row.readings[timeframe], detail) for timeframe in board.timeframes]
        if detail:
            cells += [_bias(row, detail), Text(_word(_liquidity(board, row), detail))]
        made.add_row(Text(row.symbol), *cells)
    return made


def cell(one: Latest, detail: int) -> Text:
    """One reading. An old one is dim and says how old it is: in the place of its stage, or, where
    there is little room, of its value."""
    from rich.text import Text

    reading = one.reading
    if reading is None or reading.macdv is None:
        return Text(f"{'–':>7}", style="dim")
    value, word = _figure(reading), ""
    age = f"{_age(one)} old"
    if one.old:
        value, word = (value, f" {age}") if detail == 2 else (age, "")
    elif detail:
        word = " " + _word("halted" if reading.halted else reading.stage, detail)
    return Text.assemble(" " * (7 - len(value)), (value + word, _style(one)))


def _figure(reading: Reading) -> str:
    return f"{'' if reading.warm else '~'}{reading.macdv:.1f}"


def _age(one: Latest) -> str:
    """In its largest unit: ``3h``."""
    minutes = (one.age or 0) // 60_000
    if minutes < 60:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 48 * 60 else f"{minutes // 1440}d"


def _style(one: Latest) -> str:
    """The zone: strong beyond 150, plain beyond 50."""
    reading = one.reading
    if reading is None or reading.macdv is None or one.old:
        return "dim"
    if reading.halted:
        return "yellow"
    colour = "green" if reading.macdv > 0 else "red"
    if abs(reading.macdv) >= 150:
        return f"bold reverse {colour}"
    return colour if abs(reading.macdv) >= 50 else ""


def _word(word: str | None, detail: int) -> str:
    if word is None:
        return "–"
    return str(word) if detail == 2 else SHORT.get(word, str(word))


def _bias(row: Row, detail: int) -> Text:
    """Of fewer than all timeframes, it says so."""
    from rich.text import Text

    if row.bias is None:
        return Text("–", style="dim")
    some = ""
    if row.bias_timeframes < len(TIMEFRAMES):
        some = f" {row.bias_timeframes}/{len(TIMEFRAMES)}" if detail == 2 else "?"
    colour = {"bullish": "green", "bearish": "red"}.get(row.bias, "")
    return Text(_word(row.bias, detail) + some, colour)


def _liquidity(board: Board, row: Row) -> str | None:
    """Of the shortest timeframe that is shown: the one with most empty candles."""
    reading = row.readings[board.timeframes[0]].reading
    return None if reading is None else reading.liquidity


def _legend(board: Board, detail: int) -> str:
    """What the signs in the table mean, as far as they occur."""
    found = [one for one in board.shown if one.reading is not None]
    said = []
    if any(one.why is not None for one in board.shown):
        said.append("– withheld or not stored (--why)")
    if any(one.reading.macdv is not None and not one.reading.warm for one in found if one.reading):
        said.append("~ not warm yet")
    if detail == 1:
        used = {_said(one) for one in found} - {None}
        said += [f"{SHORT[word]} {word}" for word in SHORT if word in used]
        if any(row.bias and row.bias_timeframes < len(TIMEFRAMES) for row in board.rows):
            said.append(f"? of fewer than {len(TIMEFRAMES)} timeframes")
    return " · ".join(said)


def _said(one: Latest) -> str | None:
    """The word in its cell."""
    reading = one.current
    if reading is None:
        return None
    return "halted" if reading.halted else reading.stage


def document(board: Board) -> dict[str, Any]:
    """Everything, one entry per symbol."""
    return {
        "exchange": board.exchange,
        "time": times.iso(board.now),
        "daemon": latest.daemon_document(board.status),
        "symbols": [
            {
                "symbol": row.symbol,
                "bias": row.bias,
                "bias_timeframes": row.bias_timeframes,
                "liquidity": _liquidity(board, row),
                "readings": {
                    timeframe.value: latest.reading_document(row.readings[timeframe])
                    for timeframe in board.timeframes
                },
            }
            for row in board.rows
        ],
    }


# -- again and again --------------------------------------------------------------------------


def _watch(place: Place, wanted: Wanted, *, json: bool, why: bool) -> int:
    """Renew until Ctrl-C; where no terminal is, print anew when something changed."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    board: Board | None = _read(place, wanted)  # a wrong name or setting ends it at once
    console = output.data()
    try:
        if json or not console.is_terminal:
            _follow(place, wanted, board, json=json, why=why)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                if board is not None:
                    live.update(Group(*_screen(board, wanted, console, why=why)), refresh=True)
                time.sleep(PAUSE)
                try:
                    board = _read(place, wanted)
                except AWAY as error:
                    # What is on the screen is not renewed any more: it goes.
                    board = None
                    live.update(Text.assemble(("● ", "red"), str(error)), refresh=True)
    except KeyboardInterrupt:
        return 0


def _follow(place: Place, wanted: Wanted, board: Board | None, *, json: bool, why: bool) -> None:
    said: object = None
    while True:
        if board is not None:
            state = board.status and board.status.words.state
            news = (state, [(one.series, one.reading, one.old, one.why) for one in board.shown])
            if news != said:
                said = news
                output.document(document(board)) if json else _print(board, wanted, why=why)
        time.sleep(PAUSE)
        try:
            board = _read(place, wanted)
        except AWAY as error:
            board, said = None, None
            output.say(f"livermore: {error}")


def _screen(board: Board, wanted: Wanted, console: Console, *, why: bool) -> list[Any]:
    """What fits a screen: the first rows, and how many more there are."""
    from rich.text import Text

    clock = times.iso(board.now // 1000 * 1000)
    doubt = latest.doubt(board.exchange, board.status)
    last = Text(f"{clock} {doubt}", style="yellow") if doubt else Text(clock, style="dim")
    shown, *below = _parts(board, wanted, why=why, width=console.width)
    under: list[Any] = [*(Text(str(part), style="dim") for part in below), last]
    # One line for the names of the columns, one for how many more there are, one for the cursor.
    room = max(1, console.height - sum(len(console.render_lines(part)) for part in under) - 3)
    more = len(board.rows) - room
    if more <= 0 or isinstance(shown, str):
        return [shown, *under]
    shown, _ = table(attrs.evolve(board, rows=board.rows[:room]), console.width)
    said = f"… and {more} more symbols: choose with --symbol, --stage or --sort"
    return [shown, Text(said, style="dim", no_wrap=True), *under]
