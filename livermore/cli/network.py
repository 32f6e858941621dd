"""``livermore network``: every instance on this Redis, and what it does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from livermore.cli import output, store, times
from livermore.cli.options import Json, Place, placed

if TYPE_CHECKING:
    from livermore.cli.output import Rows
    from livermore.control.registry import Seen

EVERY = 1.0
"""Seconds between two looks."""
LATE = 7_500
"""Milliseconds: a heartbeat and a half."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "network",
        epilog="Example: `livermore network`, `livermore network --watch`, "
        "`livermore network --json`. Exit code 3 when there is nobody.",
    )(placed(network))


def network(
    place: Place,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Renew it every second, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> int:
    """Show all instances: host, exchanges, state, symbols, uptime, heartbeat, last error."""
    from livermore.control.registry import read_instances
    from livermore.errors import NotRunning

    with store.open_store(place.settings()) as client:
        if watch:
            return _watch(lambda: read_instances(client), json=json)
        seen = read_instances(client)
    if json:
        output.document(document(seen))
    elif seen:
        output.show(table(seen))
    if not seen:
        raise NotRunning("no instance is on this Redis: start one with livermore run")
    return 0


def _watch(look: Any, *, json: bool) -> int:
    from rich.live import Live
    from rich.text import Text

    from livermore.errors import StoreError

    if json:
        while True:
            output.document(document(look()))
            time.sleep(EVERY)
    console = output.data()
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            try:
                seen = look()
                shown: Any = table(seen) if seen else Text("no instance is on this Redis")
            except StoreError as error:
                shown = Text(str(error))
            live.update(shown, refresh=True)
            time.sleep(EVERY)


def table(seen: Sequence[Seen]) -> Rows:
    """One row per instance and exchange."""
    from rich.text import Text

    return output.Rows(
        ("instance", "exchange", "state", "symbols", "mode", "for", "up", "heartbeat", "error"),
        [[Text(cell) for cell in row] for row in _rows(seen)],
        right=("symbols", "for", "up", "heartbeat"), loose=("error",),
    )  # fmt: skip


def _rows(seen: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    for one in seen:
        instance = one.instance
        name = f"{instance.host}:{instance.pid}"
        beat = f"{one.age / 1000:.0f} s" + (" late" if one.age > LATE else "")
        ends = (times.length(round(instance.uptime * 1000)), beat)
        if not instance.exchanges:
            yield (name, "–", "idle", "–", "–", "–", *ends, "")
        for each in instance.exchanges:
            yield (
                name, each.exchange, each.state, str(each.symbols), each.mode,
                times.length(round(each.since * 1000)), *ends, each.error,
            )  # fmt: skip
            name = ""


def document(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """The same as JSON."""
    import msgspec

    return [{**msgspec.to_builtins(one.instance), "heartbeat_age_ms": one.age} for one in seen]
