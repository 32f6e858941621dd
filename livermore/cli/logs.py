"""How a daemon's log looks: lines for people, JSON for machines, a bar while history loads."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio
from rich.console import Console

from livermore.cli import output

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.runtime.feed import Feed

LOOK = 0.2
"""Seconds between two looks at the progress."""


class Lines(logging.Formatter):
    """``05:19:21 coinbase: connection live name=coinbase/1 symbols=25``"""

    def format(self, record: logging.LogRecord) -> str:
        """One line; warnings carry a ``!``."""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        name = record.name.removeprefix("livermore").removeprefix(".")
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        if text == "history":
            text, fields = f"history {fields['done']}/{fields['total']} series", {}
        detail = "".join(f" {key}={_shown(value)}" for key, value in fields.items())
        mark = "! " if record.levelno >= logging.WARNING else ""
        return f"{moment} {mark}{name + ': ' if name else ''}{text}{detail}"


class JsonLines(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, event, and the event's figures."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(entry, default=str)


class _Through(logging.Handler):
    """Prints above the bar instead of through it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(
            self.format(record), markup=False, highlight=False, soft_wrap=True,
            style="yellow" if record.levelno >= logging.WARNING else None,
        )  # fmt: skip


def configure(settings: Settings) -> Console | None:
    """The daemon's log goes to stderr, libraries keep quiet; returns a console where a bar fits."""
    console = output.talk()
    bar = console.is_terminal and not settings.json_logs
    handler: logging.Handler = _Through(console) if bar else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.json_logs else Lines())
    root = logging.getLogger("livermore")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(settings.log_level.upper())
    return console if bar else None


async def show_history(console: Console, feeds: Mapping[str, Feed]) -> None:
    """A bar per exchange while its history loads; it goes when the last one is whole."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("series"),
        TimeElapsedColumn(),
    )
    while True:
        waiting = {name: feed for name, feed in feeds.items() if _loads(feed)}
        if not waiting:
            await trio.sleep(LOOK)
            continue
        with Progress(*columns, console=console, transient=True, redirect_stderr=False) as bar:
            tasks = {name: bar.add_task(f"{name} history", total=None) for name in waiting}
            while waiting:
                for name in waiting:
                    done, total = feeds[name].history
                    bar.update(tasks[name], completed=done, total=total or None)
                await trio.sleep(LOOK)
                waiting = {
                    name: feeds[name] for name in waiting if name in feeds and _loads(feeds[name])
                }


def _loads(feed: Feed) -> bool:
    """Whether a history is on its way: not to one that stands by, or has ended."""
    return not (feed.history_whole or feed.report.standby or feed.report.ended)


def _shown(value: object) -> str:
    """In one line, whatever an exchange or a server put into it."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)
