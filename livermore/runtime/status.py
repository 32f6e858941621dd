"""What a running feed says of itself, so that a person sees at once whether it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from livermore import __version__
from livermore.adapters import store
from livermore.market.tracker import Tracker
from livermore.runtime.connection import Health, State
from livermore.runtime.readings import Readings
from livermore.runtime.repairs import Repairs
from livermore.runtime.rest import Budget
from livermore.runtime.writer import Writer

STATUS_EVERY = 2.0
STATUS_TTL = 45
"""Seconds."""


@attrs.define
class Report:
    """The parts of a feed that have something to say; they join as they start."""

    exchange: str
    title: str
    description: dict[str, object] = attrs.Factory(dict)
    epoch: int = 0
    note: str = ""
    foreign: Sequence[str] = ()
    """Keys of ours that hold somebody else's value."""
    symbols: Sequence[str] = ()
    aliases: Mapping[str, str] = attrs.Factory(dict)
    """Other names of followed markets -> the symbol they are followed as."""
    notices: list[str] = attrs.Factory(list)
    started_following: bool = False
    healths: Sequence[Health] = ()
    trackers: Sequence[Tracker] = ()
    budget: Budget | None = None
    writer: Writer | None = None
    readings: Readings | None = None
    repairs: Repairs | None = None
    _state: str = "starting"
    _since: int = 0

    def state(self, clock: int | None) -> tuple[str, int, str]:
        """State, since when (exchange ms), and one line that says why and what happens next."""
        state, note = self._judge()
        if self.foreign:
            more = f" (and {len(self.foreign) - 1} more keys)" if len(self.foreign) > 1 else ""
            foreign = f"{store.foreign_text(self.foreign[0])}{more}"
            note = f"{foreign}; {note}" if note else foreign
        if state != self._state or not self._since:
            self._state, self._since = state, clock or 0
        return state, self._since, note

    def _judge(self) -> tuple[str, str]:
        if not self.started_following or self.writer is None or self.repairs is None:
            return ("connecting" if self.note else "starting"), self.note
        if self.writer.turns.away_since is not None:
            waiting = self.writer.waiting()
            return (
                "blind",
                f"{self.writer.turns.away_why}; {waiting} closed candles wait in memory; "
                "trying again",
            )
        down = [
            health for health in self.healths if health.state in (State.CONNECTING, State.WAITING)
        ]
        if down:
            symbols = sum(health.symbols for health in down)
            why = next((health.error for health in down if health.error), "connecting")
            return (
                "blind",
                f"no data for {symbols} of {len(self.symbols)} symbols: {why}; reconnecting",
            )
        progress = self.repairs.progress
        if progress.done < progress.total:
            return "backfilling", f"history: {progress.done}/{progress.total} series"
        lasting = [gap for gap in self.repairs.open_gaps if gap.attempts > 0]
        if lasting:
            gap = lasting[0]
            note = f"{len(lasting)} gaps open, first {gap.series}: {gap.cause}; {gap.note}"
            return "live", f"{note}; REST is asked again"
        return "live", ""


def report_text(report: Report, clock: int | None, moment: float) -> bytes:
    """The status as it is stored. ``moment`` is monotonic time."""
    state, since, note = report.state(clock)
    writer, repairs, readings, budget = (
        report.writer,
        report.repairs,
        report.readings,
        report.budget,
    )
    newest = writer.turns.newest_close if writer else 0
    lags: dict[str, Any] = {"p50": None, "p99": None, "count": 0}
    if writer and writer.turns.lags:
        p50, p99 = np.percentile(np.array(writer.turns.lags), [50, 99])
        lags = {"p50": int(p50), "p99": int(p99), "count": len(writer.turns.lags)}
    counts: dict[str, int] = {}
    for tracker in report.trackers:
        for name, value in attrs.asdict(tracker.counts).items():
            counts[name] = counts.get(name, 0) + value
    counts["malformed"] = counts.get("malformed", 0) + sum(
        health.malformed for health in report.healths
    )
    if writer:
        counts["stored"] = writer.turns.closes
        counts["corrections"] = writer.turns.corrections
    if readings:
        counts["readings"] = readings.work.published
    status = {
        **report.description,
        "exchange": report.exchange,
        "title": report.title,
        "version": __version__,
        "epoch": report.epoch,
        "state": state,
        "since": since or None,
        "note": note,
        "clock": clock,
        "symbols": list(report.symbols),
        "aliases": dict(report.aliases),
        "rejected": {},
        "notices": report.notices,
        "connections": [
            {
                "name": health.name,
                "state": health.state.value,
                "since": clock - int((moment - health.since) * 1000)
                if clock and health.since
                else None,
                "symbols": health.symbols,
                "frames": health.frames,
                "reconnects": health.reconnects,
                "unconfirmed": sorted(health.unconfirmed),
                "error": health.error if health.state is not State.LIVE else "",
            }
            for health in report.healths
        ],
        "newest_close": newest or None,
        "newest_close_age": max(0, clock - newest) if newest and clock else None,
        "close_lag": lags,
        "history": {"done": repairs.progress.done, "total": repairs.progress.total}
        if repairs
        else None,
        "gaps": len(repairs.open_gaps) if repairs else 0,
        "looks": attrs.asdict(repairs.progress) if repairs else None,
        "budget": {
            "per_second": budget.per_second,
            "used_last_minute": budget.used(60.0),
            "refusals": budget.refusals,
        }
        if budget
        else None,
        "reconnects": sum(health.reconnects for health in report.healths),
        "pending": writer.waiting() if writer else 0,
        "counts": counts,
    }
    return msgspec.json.encode(status)
