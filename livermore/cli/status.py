"""``livermore status``: what the running daemon says about itself.

The daemon's words are taken as they are; a field that is missing is shown as missing. How old they
are is part of the answer: a daemon that died is still quoted until its status lapses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Exchange, Json, Place, placed
from livermore.cli.store import Status
from livermore.cli.words import Budget, ChannelWords, Words
from livermore.errors import MalformedMessage, NotRunning, StoreError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from livermore.adapters.store import Held

OLD = 20_000
"""Age (ms) from which a status is called old: it is renewed every few seconds."""

EARLIEST = 1_000_000_000_000
"""Numbers from here on (2001) are epoch ms; smaller ones are ages in seconds."""

AWAY = (NotRunning, StoreError, MalformedMessage)
"""What may pass while one watches."""

COLOURS = {"live": "green", "blind": "red", "ended": "red"}
"""Every other state is yellow."""
TIMES = frozenset({"since", "clock", "started", "newest_close"})
"""Fields that hold epoch ms, in the status and in its connections."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "status",
        epilog="Example: `livermore status --watch`, `livermore status -e binance --json`. "
        "Exit code 3 when no daemon is running.",
    )(placed(status))


def status(
    place: Place,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Renew it every second, until Ctrl-C.")
    ] = False,
    exchange: Exchange = None,
    json: Json = False,
) -> int:
    """Show whether we see the market, and if not, since when and why.

    Of several exchanges that run, one after the other; with --json one line each.
    """
    given = None if exchange is None else options.known_exchange(exchange)
    if watch:
        return _watch(place, given, json)
    for name, found in _read_all(place, given):
        if json:
            output.document(document(found))
        else:
            output.show(panel(name, found), most=MOST_COLUMNS)
    return 0


def _read_all(place: Place, given: str | None) -> list[tuple[str, Status]]:
    """Of the ``given`` exchange, or of all that run; raises :class:`NotRunning` for none."""
    return [(name, _read(place, name)) for name in _names(place, given)]


def _names(place: Place, given: str | None) -> list[str]:
    """The exchanges to look at: where none runs, the first one that might."""
    if given is not None:
        return [given]
    from livermore.exchanges import DIALECTS

    settings, found, trouble = place.settings(), list[str](), None
    try:
        with store.open_store(settings) as client:
            found = store.running(client)
    except StoreError as error:
        trouble = error
    except NotRunning:
        pass
    found += [name for name in DIALECTS if name not in found and store.last_words(settings, name)]
    if trouble is not None and not found:
        raise trouble
    return found or [*settings.exchanges, store.DEFAULT_EXCHANGE][:1]


def not_running(exchange: str, held: Held | None = None) -> NotRunning:
    """No daemon speaks for ``exchange``, though ``held`` may say that one did, or that one will."""
    if held is not None:
        lapses = f"{held.holder} still holds it for {times.length(held.left)}"
        waits = "; ".join(f"{who} stands by" for who in held.standbys)
        return NotRunning(
            f"no daemon is running for {exchange}: {lapses}"
            + (f", then takes over: {waits}" if waits else "")
        )
    return NotRunning(
        f"no daemon is running for {exchange}; start one with: livermore run {exchange}"
    )


def _read(place: Place, exchange: str) -> Status:
    """What the daemon said last, in Redis or, while that does not take it, beside it."""
    settings = place.settings()
    found, held, trouble = None, None, None
    try:
        with store.open_store(settings) as client:
            found = store.read_status(client, exchange)
            held = store.read_held(client, exchange)
    except (NotRunning, StoreError) as error:
        trouble = error
    left = store.last_words(settings, exchange)
    if left is not None and (found is None or left.age < found.age):
        return left
    if isinstance(trouble, StoreError):
        raise trouble
    if found is None:
        raise not_running(exchange, held) from trouble
    return attrs.evolve(found, standbys=held.standbys) if held is not None else found


def _watch(place: Place, given: str | None, json: bool) -> int:
    """Renew until Ctrl-C. That the daemon or Redis is away is something to watch, not an end."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    place.settings()  # a wrong setting ends it at once
    console = output.data()
    try:
        if json or not console.is_terminal:
            while True:
                try:
                    for name, found in _read_all(place, given):
                        output.document(document(found)) if json else output.line(line(name, found))
                except AWAY as error:
                    output.say(f"livermore: {error}")
                time.sleep(1)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                shown: RenderableType
                try:
                    shown = Group(*(panel(*one) for one in _read_all(place, given)))
                except AWAY as error:
                    shown = Text.assemble(("● ", "red"), str(error))
                live.update(shown, refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return 0


def document(found: Status) -> dict[str, Any]:
    """The daemon's words with ISO times; ``age`` (ms) is how long ago it said them."""
    said = with_iso_times(found.raw)
    connections = found.raw.get("connections") or ()
    connections = [with_iso_times(one) for one in connections]
    return {**said, "connections": connections, "standbys": [*found.standbys], "age": found.age}


def with_iso_times(said: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the fields that hold times as ISO."""
    return {
        key: times.iso(int(value)) if key in TIMES and value and value >= EARLIEST else value
        for key, value in said.items()
    }


def line(exchange: str, found: Status) -> str:
    """The whole in one line of plain text."""
    words = found.words
    since = f" since {seconds(words.since)}" if words.since else ""
    parts = [words.title or exchange, (words.state or "unknown") + since]
    if words.note:
        parts.append(words.note)
    if words.newest_close:
        parts.append(f"newest close {seconds(words.newest_close)}")
    if words.gaps is not None:
        parts.append(f"{words.gaps} gaps")
    return " · ".join(parts)


def panel(exchange: str, found: Status) -> RenderableType:
    """A compact panel: the state and why, figures, connections, what a person should know."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    words = found.words
    state = words.state or "unknown"
    colour = COLOURS.get(state, "yellow")
    since = f" since {seconds(words.since)}" if words.since else ""
    note = (f": {words.note}", colour if state != "live" else "") if words.note else ""
    parts: list[RenderableType] = [Text.assemble(("● ", colour), (state + since, "bold"), note)]
    if found.age >= OLD:
        old = (
            f"these words are {times.length(found.age)} old: the daemon may be gone "
            f"(they lapse after {times.length(store.STATUS_TTL)})"
        )
        parts.append(Text(old, style="red"))

    figures = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    figures.add_column(style="dim", no_wrap=True)
    figures.add_column(overflow="fold")
    for name, value in figures_of(words):
        figures.add_row(name, Text(value))
    for who in found.standbys:
        figures.add_row("standby", Text(who))
    parts += ["", figures]

    if words.connections:
        parts += ["", _connections(words)]
    parts += [Text(f"! {text}", style="yellow") for text in _remarks(words)]
    return Panel(
        Group(*parts),
        title=Text(words.title or exchange, style="bold"),
        title_align="left",
        border_style=colour,
        box=box.ROUNDED,
        padding=(0, 1),
        expand=False,
    )


MOST_COLUMNS = 100
MOST_REMARKS = 10
MOST_CONNECTIONS = 12


def seconds(time: float) -> str:
    """A time without its milliseconds."""
    return times.iso(int(time) // 1000 * 1000)


def figures_of(words: Words) -> list[tuple[str, str]]:
    """Names and values, in the order in which a person asks for them. Missing ones are left out."""
    symbols = words.symbols or []
    few = ": " + ", ".join(symbols[:6]) + (", …" if len(symbols) > 6 else "") if symbols else ""
    rows = [("following", f"{len(symbols)} symbols{few}")]
    if words.newest_close:
        age = words.newest_close_age
        ago = f", {times.length(age)} ago" if age is not None else ""
        rows.append(("newest close", seconds(words.newest_close) + ago))
    else:
        rows.append(("newest close", "none yet"))
    lag = words.close_lag
    if lag is not None and lag.count and lag.p50 is not None and lag.p99 is not None:
        half, most = times.length(lag.p50), times.length(lag.p99)
        text = f"{half} after the end (p50), {most} (p99), {lag.count} closes"
        rows.append(("closes stored", text))
    history = words.history
    if history is not None and history.done is not None and history.total is not None:
        done = history.done >= history.total > 0
        text = "complete" if done else f"{history.done} of {history.total} series"
        rows.append(("history", text if history.total else "not looked at yet"))
    if words.gaps is not None:
        rows.append(("gaps", f"{words.gaps} (see: livermore gaps)" if words.gaps else "none"))
    if words.budget is not None:
        rows.append(("REST", _budget(words.budget)))
    if words.pending:
        rows.append(("waiting", f"{words.pending} candles to be written"))
    if words.alerts:
        rows.append(("alerts", "\n".join(_channel(*one) for one in words.alerts.items())))
    if words.exchange_time is not None:
        rows.append(("exchange time", seconds(words.exchange_time)))
    if words.started:
        ours = {"process": words.pid, "on": words.host, "version": words.version}
        who = " ".join(f"{word} {value}" for word, value in ours.items() if value is not None)
        rows.append(("running", f"for {times.length(store.now() - words.started)}, {who}"))
    counts = {name: value for name, value in (words.counts or {}).items() if value}
    if counts:
        some = [f"{name.replace('_', ' ')} {value:g}" for name, value in counts.items()]
        rows.append(("counts", " · ".join(some)))
    return rows


def _channel(name: str, channel: ChannelWords) -> str:
    text = f"{name}: {channel.sent or 0} sent"
    if channel.pending:
        text += f", {channel.pending} waiting"
    if channel.dropped:
        text += f", {channel.dropped} dropped"
    return f"{text} ({channel.why})" if channel.why else text


def _budget(budget: Budget) -> str:
    text = f"{budget.used_last_minute or 0:g} requests in the last minute"
    if budget.per_second is not None:
        text += f", {budget.per_second:g} per second allowed"
    if budget.refusals:
        text += f", refused {budget.refusals} times"
    return text


def _connections(words: Words) -> RenderableType:
    from rich.text import Text

    rows = []
    for one in (words.connections or ())[:MOST_CONNECTIONS]:
        symbols = len(one.symbols) if isinstance(one.symbols, list) else one.symbols
        counts = ("–" if n is None else str(n) for n in (symbols, one.frames, one.reconnects))
        rows.append(
            [
                Text(one.name or "?"),
                Text(one.state or "?", style="green" if one.state == "live" else "yellow"),
                Text(_lasting(one.since, words.exchange_time or store.now())),
                *map(Text, counts),
                Text(one.error or "–"),
            ]
        )
    return output.Rows(
        ("connection", "state", "for", "symbols", "frames", "reconnects", "last error"),
        rows,
        right=("symbols", "frames", "reconnects"),
        loose=("last error",),
    )


def _lasting(since: float | None, clock: int) -> str:
    if since is None:
        return "–"
    return times.length(clock - since if since >= EARLIEST else since * 1000)


def _remarks(words: Words) -> list[str]:
    remarks = list(words.notices or ())
    remarks += [
        f"{symbol} is not followed: {why}" for symbol, why in (words.rejected or {}).items()
    ]
    more = len(remarks) - MOST_REMARKS
    return remarks[:MOST_REMARKS] + ([f"… and {more} more"] if more > 0 else [])
