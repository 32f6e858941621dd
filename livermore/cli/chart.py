"""``livermore chart``: a series as a picture, or drawn in the terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from livermore.cli import latest, options, output, store
from livermore.cli.gaps import ALLOWANCE
from livermore.cli.options import OneExchange, Place, placed
from livermore.cli.store import Status
from livermore.errors import LivermoreError, UsageError
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.chart import Stored

STDOUT = "-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "chart",
        epilog="Example: `livermore chart BTC-USD 1h -o chart.png`, `livermore chart BTC-USD 4h`, "
        "`livermore chart ETH-USD 1d --bars 200 --size 1600x900 -o - > eth.png`",
    )(placed(chart))


def chart(
    place: Place,
    symbol: options.SymbolArgument,
    timeframe: Annotated[str, typer.Argument(metavar="TF", help="5m, 15m, 1h, 4h or 1d.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write a .png or .svg; - is a PNG on stdout."
        ),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Draw it in the terminal, as without -o.")
    ] = False,
    bars: Annotated[
        int, typer.Option("--bars", min=1, max=1000, metavar="N", help="The newest N slots.")
    ] = 60,
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Of the picture, in pixels.")
    ] = "800x500",
    exchange: OneExchange = None,
    user: options.User = None,
) -> int:
    """Draw closed candles with volume, MACD-V, its signal and its histogram."""
    pixels = _size(size)
    if out is not None and terminal:
        raise UsageError("--terminal and -o exclude each other")
    if out == STDOUT and sys.stdout.isatty():
        raise UsageError("-o - would fill the terminal with a PNG: add > chart.png, or drop -o -")
    if out not in (None, STDOUT) and Path(str(out)).suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"-o {out}: a chart is a .png or an .svg file")
    wanted, length = options.marked(symbol, exchange), Timeframe.parse(timeframe)
    settings = place.of(user).settings()
    with store.open_store(settings, wanted[1]) as client:
        from livermore.adapters.chart import stored
        from livermore.adapters.store import keys, whole

        where, name, status = store.find(client, settings, *wanted)
        [series] = store.series_of(client, settings, where, [name], status, [length])
        key = keys(series).candles
        found = stored(series, client.run([whole(series)])[0], bars)
    if found.damaged:
        output.say(
            f"{found.damaged} members of {key} are damaged and left out: "
            "a running daemon replaces them"
        )
    if not found.candles:
        raise LivermoreError(
            f"no candles of {series} are stored (see: livermore gaps -e {series.exchange})"
        )
    note = _note(found, status)
    if out is None:
        _print(found, bars, note)
        return 0
    if note:
        output.say(f"{series}: {note}")
    _write(out, _picture(found, bars, pixels, note, svg=out.lower().endswith(".svg")))
    if out != STDOUT:
        output.say(f"{out}: {series} up to {_moment(found)}")
    return 0


def _note(found: Stored, status: Status | None) -> str:
    """What a reader must know before he believes that this is now."""
    from livermore.signals.outline import behind

    newest = found.candles[-1]
    exchange = newest.series.exchange
    parts = []
    slots = behind(newest, latest.clock(status) - ALLOWANCE)
    if slots:
        are = "s are" if slots > 1 else " is"
        parts.append(f"OLD: {slots} closed candle{are} missing after this one")
    if status is None:
        parts.append(f"no daemon is running for {exchange}")
    elif status.words.state not in (None, "live", "backfilling"):
        parts.append(f"{exchange} is {status.words.state}")
    return "; ".join(parts)


def _moment(found: Stored) -> str:
    from livermore.signals.outline import moment

    return moment(found.candles[-1].close_time)


def _print(found: Stored, bars: int, note: str) -> None:
    from livermore.cli.sketch import signs, sketch

    console = output.data()
    lines = sketch(
        found.candles,
        found.readings,
        bars=bars,
        width=console.width,
        height=console.height,
        using=signs(
            sys.stdout.encoding,
            coloured=console.color_system is not None and not console.no_color,
        ),
        note=note,
    )
    for line in lines:
        output.show(line)


def _picture(found: Stored, bars: int, size: tuple[int, int], note: str, *, svg: bool) -> bytes:
    from livermore.adapters.chart import draw_png, draw_svg

    draw = draw_svg if svg else draw_png
    return draw(found.candles, found.readings, bars=bars, size=size, note=note)


def _write(out: str, picture: bytes) -> None:
    if out == STDOUT:
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
        return
    try:
        Path(out).write_bytes(picture)
    except OSError as error:
        raise LivermoreError(
            f"cannot write {out}: {error.strerror}; choose another place with -o"
        ) from None


def _size(text: str) -> tuple[int, int]:
    from livermore.adapters.chart import LARGEST, SMALLEST

    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(SMALLEST <= pixels <= LARGEST for pixels in size):
        raise UsageError(f"--size {text}: write 800x500, each from {SMALLEST} to {LARGEST} pixels")
    return size
