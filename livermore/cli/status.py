"""``livermore status``: what the running daemon says about itself.

The daemon's words are taken as they are; a field that is missing is shown as missing. How old they
are is part of the answer: a daemon that died is still quoted until its status lapses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Exchange, Json, Place, placed
from livermore.cli.store import Status
from livermore.errors import NotRunning, StoreError

if TYPE_CHECKING:
    from rich.console import RenderableType

OLD = 20_000
"""Age (ms) from which a status is called old: it is renewed more often than that."""

COLOURS = {"live": "green", "blind": "red", "backfilling": "yellow", "connecting": "yellow"}
TIMES = frozenset({"since", "clock", "started", "newest_close"})
"""Fields that hold epoch ms, in the status and in its connections."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "status",
        epilog="Example: `livermore status --watch`, `livermore status --json`. "
        "Exit code 3 when no daemon is running.",
    )(placed(status))


def status(
    place: Place,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Renew it every second, until Ctrl-C.")
    ] = False,
    exchange: Exchange = "coinbase",
    json: Json = False,
) -> int:
    """Show whether we see the market, and if not, since when and why."""
    name = options.known_exchange(exchange)
    if watch:
        return _watch(place, name, json)
    found = _read(place, name)
    if json:
        output.document(document(found))
    else:
        output.show(panel(name, found))
    return 0


def not_running(exchange: str) -> NotRunning:
    """No daemon speaks for ``exchange``."""
    return NotRunning(
        f"no daemon is running for {exchange}; start one with: livermore run {exchange}"
    )


def _read(place: Place, exchange: str) -> Status:
    settings = place.settings()
    try:
        with store.open_store(settings) as client:
            found = store.read_status(client, exchange)
    except NotRunning as error:
        raise not_running(exchange) from error
    if found is None:
        raise not_running(exchange)
    return found


def _watch(place: Place, exchange: str, json: bool) -> int:
    """Renew until Ctrl-C. That the daemon or Redis is away is something to watch, not an end."""
    from rich.live import Live

    place.settings()  # a wrong setting ends it at once
    console = output.data()
    try:
        if json or not console.is_terminal:
            while True:
                try:
                    found = _read(place, exchange)
                    output.document(document(found)) if json else output.line(line(exchange, found))
                except (NotRunning, StoreError) as error:
                    output.say(f"livermore: {error}")
                time.sleep(1)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                shown: RenderableType
                try:
                    shown = panel(exchange, _read(place, exchange))
                except (NotRunning, StoreError) as error:
                    shown = f"[red]●[/] {escape(str(error))}"
                live.update(shown, refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return 0


# -- as JSON ----------------------------------------------------------------------------------


def document(found: Status) -> dict[str, Any]:
    """The daemon's words with ISO times; ``age`` (ms) is how long ago it said them."""
    said = with_iso_times(found.said)
    connections = found.said.get("connections")
    if isinstance(connections, list):
        said["connections"] = [
            with_iso_times(one) if isinstance(one, dict) else one for one in connections
        ]
    return {**said, "age": found.age}


def with_iso_times(said: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the fields that hold times as ISO."""
    return {
        key: times.iso(int(value)) if key in TIMES and is_number(value) else value
        for key, value in said.items()
    }


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether JSON had a number there."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- for a person -----------------------------------------------------------------------------


def line(exchange: str, found: Status) -> str:
    """The whole in one line of plain text."""
    said = found.said
    parts = [_title(exchange, said), str(said.get("state", "unknown"))]
    if said.get("note"):
        parts.append(str(said["note"]))
    if is_number(said.get("newest_close")):
        parts.append(f"newest close {times.iso(int(said['newest_close']))}")
    if is_number(said.get("gaps")):
        parts.append(f"{said['gaps']} gaps")
    return " · ".join(parts)


def panel(exchange: str, found: Status) -> RenderableType:
    """A compact panel: the state and why, figures, connections, what a person should know."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    said = found.said
    state = str(said.get("state", "unknown"))
    colour = COLOURS.get(state, "yellow")
    parts: list[RenderableType] = [Text.assemble(("● ", colour), (_headline(said, state), "bold"))]
    if said.get("note"):
        parts.append(Text(str(said["note"]), style=colour if state != "live" else ""))
    if found.age >= OLD:
        parts.append(
            Text(
                f"these words are {times.length(found.age)} old: the daemon may be gone "
                f"(they lapse after {STATUS_LIFE})",
                style="red",
            )
        )

    figures = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    figures.add_column(style="dim", no_wrap=True)
    figures.add_column()
    for name, value in figures_of(said):
        figures.add_row(name, Text(value))
    parts += ["", figures]

    connections = [c for c in said.get("connections") or () if isinstance(c, dict)]
    if connections:
        parts += ["", _connections(connections, clock_of(said))]
    parts += [Text(f"! {text}", style="yellow") for text in _remarks(said)]
    return Panel(
        Group(*parts),
        title=f"[bold]{escape(_title(exchange, said))}[/]",
        title_align="left",
        border_style=colour,
        box=box.ROUNDED,
        padding=(0, 1),
        expand=False,
    )


STATUS_LIFE = times.length(store.STATUS_TTL)


def escape(text: str) -> str:
    """Text that rich must not read as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def clock_of(said: Mapping[str, Any]) -> int:
    """The exchange's time, or ours where it is not known."""
    clock = said.get("clock")
    return int(clock) if is_number(clock) and clock > 0 else store.now()


def _length(value: object) -> str:
    return times.length(value) if is_number(value) else "?"


def figures_of(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, in the order in which a person asks for them. Missing ones are left out."""
    rows: list[tuple[str, str]] = []
    symbols = said.get("symbols") or ()
    rows.append(("following", f"{len(symbols)} symbols" + _names(symbols)))
    newest, age = said.get("newest_close"), said.get("newest_close_age")
    if is_number(newest):
        old = f", {times.length(age)} ago" if is_number(age) else ""
        rows.append(("newest close", times.iso(int(newest)) + old))
    else:
        rows.append(("newest close", "none yet"))
    lag = said.get("close_lag")
    if isinstance(lag, dict) and lag.get("count"):
        half, most = (_length(lag.get(percentile)) for percentile in ("p50", "p99"))
        after = f"{half} after the end (p50), {most} (p99), {lag['count']} closes"
        rows.append(("closes stored", after))
    history = said.get("history")
    if isinstance(history, dict) and is_number(history.get("total")):
        done, total = history.get("done", 0), history["total"]
        rows.append(("history", "complete" if done >= total else f"{done} of {total} series"))
    if is_number(said.get("gaps")):
        gaps = said["gaps"]
        rows.append(("gaps", f"{gaps} (see: livermore gaps)" if gaps else "none"))
    budget = said.get("budget")
    if isinstance(budget, dict):
        rows.append(("REST", _budget(budget)))
    if said.get("pending"):
        rows.append(("waiting", f"{said['pending']} candles to be written"))
    if is_number(said.get("clock")):
        ours = times.iso(int(said["clock"]) // 1000 * 1000)
        rows.append(("exchange time", ours))
    if is_number(said.get("started")):
        up = times.length(max(0, store.now() - said["started"]))
        who = " ".join(
            f"{word} {said[key]}"
            for word, key in (("process", "pid"), ("on", "host"), ("version", "version"))
            if said.get(key) is not None
        )
        rows.append(("running", f"for {up}, {who}"))
    counts = said.get("counts")
    if isinstance(counts, dict) and counts:
        rows.append(("counts", " · ".join(f"{name} {value}" for name, value in counts.items())))
    return rows


def _headline(said: Mapping[str, Any], state: str) -> str:
    since = said.get("since")
    if not is_number(since):
        return state
    # Both are the exchange's clock where there is one: "for" must not mix two clocks.
    return f"{state} since {times.iso(int(since) // 1000 * 1000)}"


def _title(exchange: str, said: Mapping[str, Any]) -> str:
    return str(said.get("title") or exchange)


def _names(symbols: Any) -> str:
    names = [str(symbol) for symbol in symbols]
    if not names:
        return ""
    return ": " + ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _budget(budget: Mapping[str, Any]) -> str:
    text = f"{budget.get('used_last_minute', 0)} requests in the last minute"
    if is_number(budget.get("per_second")):
        text += f", {budget['per_second']:g} per second allowed"
    if budget.get("refusals"):
        text += f", refused {budget['refusals']} times"
    return text


def _connections(connections: list[dict[str, Any]], clock: int) -> RenderableType:
    table = output.table(
        "connection", "state", "for", "symbols", "frames", "reconnects", "last error",
        right=("symbols", "frames", "reconnects"), loose=("last error",),
    )  # fmt: skip
    for one in connections[:12]:
        state = str(one.get("state", "?"))
        since = one.get("since")
        symbols = one.get("symbols")
        table.add_row(
            escape(str(one.get("name", "?"))),
            f"[{'green' if state == 'live' else 'yellow'}]{escape(state)}[/]",
            times.length(max(0, clock - since)) if is_number(since) else "–",
            str(len(symbols) if isinstance(symbols, list) else symbols or 0),
            str(one.get("frames", "–")),
            str(one.get("reconnects", "–")),
            escape(str(one.get("error") or "–")),
        )
    return table


def _remarks(said: Mapping[str, Any]) -> list[str]:
    rejected = said.get("rejected")
    remarks = [str(notice) for notice in said.get("notices") or ()]
    if isinstance(rejected, dict):
        remarks += [f"{symbol} is not followed: {reason}" for symbol, reason in rejected.items()]
    return remarks[:10] + ([f"… and {len(remarks) - 10} more"] if len(remarks) > 10 else [])
