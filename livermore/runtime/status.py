"""What a running feed says of itself, so that a person sees at once whether it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np
import trio

from livermore import __version__
from livermore.adapters import store
from livermore.market.timeframe import iso
from livermore.market.tracker import Tracker
from livermore.runtime.alerting import Alerting
from livermore.runtime.condition import Condition, soon
from livermore.runtime.connection import Health, State
from livermore.runtime.delivery import Delivery
from livermore.runtime.liveness import Liveness
from livermore.runtime.readings import Readings
from livermore.runtime.repairs import DEEPER, HISTORY, Repairs
from livermore.runtime.rest import Budget
from livermore.runtime.verification import Verification
from livermore.runtime.writer import Writer

STATUS_EVERY = 2.0
STATUS_TTL = 45
"""Seconds."""
HANGS = 45.0
"""Seconds without a sign of life after which the writer hangs: far more than its longest turn."""

UNTRIED = 10_000
"""Milliseconds after which a gap that nobody could ask for yet is told."""
DAMAGED = 0.2
"""Share of a connection's frames that cannot be read, from which on it is told."""
DAMAGED_FOR = 10.0
"""Seconds over which they are counted."""


@attrs.define
class Report:
    """The parts of a feed that have something to say; they join as they start."""

    exchange: str
    title: str
    description: dict[str, object] = attrs.Factory(dict)
    epoch: int = 0
    note: str = ""
    standby: str = ""
    """What a feed that stands by waits for: who holds the exchange, or why Redis does not say."""
    foreign: Sequence[str] = ()
    """Keys of ours that hold somebody else's value."""
    slow: float = 0.0
    """Seconds Redis needs for an answer, while that is long."""
    symbols: Sequence[str] = ()
    owners: Mapping[str, str] = attrs.Factory(dict)
    """Of those that only one user follows: whose they are."""
    aliases: Mapping[str, str] = attrs.Factory(dict)
    """Other names of followed markets -> the symbol they are followed as."""
    rejected: Mapping[str, str] = attrs.Factory(dict)
    """Symbols the exchange does not serve, and why."""
    notices: list[str] = attrs.Factory(list)
    started_following: bool = False
    healths: Sequence[Health] = ()
    trackers: Sequence[Tracker] = ()
    budget: Budget | None = None
    writer: Writer | None = None
    readings: Readings | None = None
    repairs: Repairs | None = None
    liveness: Liveness | None = None
    verification: Verification | None = None
    alerting: Alerting | None = None
    delivery: Delivery | None = None
    paused: bool = False
    """Whether a person wants nothing collected for now."""
    resumed: int | None = None
    """When that ended last (exchange ms)."""
    lost: str = ""
    """Why the feed broke off, where it did; it starts again at ``again_at`` (monotonic)."""
    again_at: float = 0.0
    ended: str = ""
    """Why the feed ended for good, where other exchanges of the process go on."""
    _state: str = "starting"
    _since: int = 0
    _counted: dict[str, tuple[float, int, int]] = attrs.Factory(dict)
    """Connection -> when its frames were counted last, all of them, and the damaged ones."""
    _shares: dict[str, float] = attrs.Factory(dict)

    def state(self, clock: int | None) -> tuple[str, int, str]:
        """State, since when (exchange ms), and one line that says why and what happens next."""
        condition = self.condition(clock)
        return condition.state, condition.since, condition.note

    def condition(self, clock: int | None) -> Condition:
        """How the feed is. ``clock`` is the exchange's time in ms, where it is known."""
        moment = trio.current_time()
        found = self._judge(clock, moment)
        if self.foreign:
            more = f" (and {len(self.foreign) - 1} more keys)" if len(self.foreign) > 1 else ""
            foreign = f"{store.foreign_text(self.foreign[0])}{more}"
            found = attrs.evolve(found, why="; ".join(filter(None, (foreign, found.why))))
        ban = self.budget.banned if self.budget is not None else None
        if ban is not None:
            banned = f"REST is not asked before {iso(ban.until)}, it refused us: {ban.why}"
            found = attrs.evolve(found, why="; ".join(filter(None, (banned, found.why))))
        if self.slow:
            slow = f"Redis needs {self.slow:.1f} s for an answer"
            found = attrs.evolve(found, why="; ".join(filter(None, (found.why, slow))))
        if found.state != self._state or not self._since:
            begun = self._begun(moment) if found.state == "blind" else moment
            started = self.description.get("started")
            if clock is not None:
                self._since = clock - int((moment - begun) * 1000)
            else:  # before the exchange said what time it is
                self._since = started if isinstance(started, int) else 0
            self._state = found.state
        return attrs.evolve(found, since=self._since)

    def _begun(self, moment: float) -> float:
        """Monotonic time since when we are blind: before it was noticed."""
        away = self.writer.turns.away_since if self.writer is not None else None
        if away is not None:
            return away
        heard = [h.heard_at for h in self.healths if h.state is not State.LIVE and h.heard_at]
        mute = [h.mute_since for h in self.healths if h.state is State.LIVE and h.mute]
        live = [h.unheard_since for h in self.healths if h.state is State.LIVE]
        unheard = [since for since in live if since is not None]
        return min([*heard, *mute, *unheard], default=moment)

    def _judge(self, clock: int | None, moment: float) -> Condition:
        """The first of what can be wrong, the worst first."""
        if self.ended:
            return Condition(
                state="ended",
                missing="nothing is followed",
                why=self.ended,
                next="restart it once that is mended; the other exchanges go on",
            )
        if self.lost:
            return Condition(
                state="blind",
                missing="nothing is followed",
                why=self.lost,
                next=f"starting again {soon(self.again_at - moment)}",
            )
        if self.standby:
            return Condition(
                state="standby", why=self.standby, next="takes over once the exchange is free"
            )
        if self.paused:
            return Condition(
                state="paused",
                missing="nothing is collected",
                why="it was paused",
                next=f"resume it: livermore ctl resume --exchange {self.exchange}",
            )
        if not self.started_following or self.writer is None or self.repairs is None:
            state = "connecting" if self.note else "starting"
            missing = "nothing is followed yet" if self.note else ""
            return Condition(state=state, missing=missing, why=self.note)
        if not self.alive(moment):
            hung = f"the writer hangs since {moment - self.writer.turns.beat:.0f} s"
            return Condition(
                state="blind", missing="nothing is stored", why=hung, next="restart this daemon"
            )
        if self.writer.turns.away_since is not None:
            return Condition(
                state="blind",
                missing="what closes is neither stored nor published",
                why=self.writer.turns.away_why,
                next=f"{self.writer.waiting()} closed candles wait in memory; trying again",
            )
        if self.readings is not None and self.readings.work.away_why:
            return Condition(
                state="blind",
                missing="readings are not published",
                why=self.readings.work.away_why,
                next="trying again",
            )
        slots = self._slots(self.repairs, clock)
        if not self.symbols:
            return Condition(
                state="live", missing="nothing is followed", why="no symbol is wanted",
                next="add one: livermore symbols add",
            )  # fmt: skip
        found = self._sockets(moment) or self._silent()
        if found is None and slots.state == "live":
            found = self._halted()
        if found is None and slots.state == "live" and not slots.missing:
            found = self._damaged(moment) or self._left_out()
        return found or slots

    def alive(self, moment: float) -> bool:
        """Whether the writer turns, idle turns and those that fail included.

        An outage, of the exchange or of Redis, does not stop it. ``moment`` is monotonic time.
        """
        over = self.lost or self.ended
        beat = self.writer.turns.beat if self.writer is not None and not over else 0.0
        return not beat or moment - beat < HANGS

    def _sockets(self, moment: float) -> Condition | None:
        """What the connections do not bring."""
        down = [health for health in self.healths if health.state is not State.LIVE]
        if not down:
            return None
        symbols = sum(health.symbols for health in down)
        missing = f"no data for {symbols} of {len(self.symbols)} symbols"
        failed = [health for health in down if health.reconnects]
        if not failed:
            return Condition(state="connecting", missing=missing, next="connecting")
        why = next((health.error for health in failed if health.error), "the connection is new")
        waiting = [health.again_at for health in failed if health.state is State.WAITING]
        again = f"reconnecting {soon(min(waiting) - moment)}" if waiting else "reconnecting"
        return Condition(state="blind", missing=missing, why=why, next=again)

    def _silent(self) -> Condition | None:
        """What live connections do not bring."""
        if self.rejected and self.rejected.keys() >= set(self.symbols):
            return attrs.evolve(self._left_out() or Condition(state=""), state="blind")
        unheard = [health for health in self.healths if health.unheard_since is not None]
        if unheard:
            symbols = sum(health.symbols for health in unheard)
            return Condition(
                state="blind",
                missing=f"no data for {symbols} of {len(self.symbols)} symbols",
                why="nothing arrives, and REST does not say whether anything is traded",
                next="REST is asked again",
            )
        mute = sorted(symbol for health in self.healths for symbol in health.mute)
        if not mute:
            return None
        named = ", ".join(mute[:3]) + (", …" if len(mute) > 3 else "")
        return Condition(
            state="blind",
            missing=f"no data for {len(mute)} of {len(self.symbols)} symbols ({named})",
            why="REST shows trades that did not arrive",
            next="REST fills the candles until they do",
        )

    def _left_out(self) -> Condition | None:
        """What the exchange does not serve."""
        if not self.rejected:
            return None
        named = ", ".join(sorted(self.rejected)[:3]) + (", …" if len(self.rejected) > 3 else "")
        return Condition(
            state="live",
            missing=f"{len(self.rejected)} of {len(self.symbols)} symbols are not served ({named})",
            why=next(iter(self.rejected.values())),
            next="asked for again every ten minutes",
        )

    def _damaged(self, moment: float) -> Condition | None:
        """What arrives and cannot be read."""
        for health in self.healths:
            before = self._counted.setdefault(health.name, (moment, health.frames, 0))
            frames, malformed = health.frames - before[1], health.malformed - before[2]
            if moment - before[0] >= DAMAGED_FOR:
                self._counted[health.name] = (moment, health.frames, health.malformed)
                self._shares[health.name] = malformed / frames if frames >= 10 else 0.0
        name, share = max(self._shares.items(), key=lambda one: one[1], default=("", 0.0))
        if share < DAMAGED:
            return None
        return Condition(
            state="live",
            missing=f"{share:.0%} of the frames of {name} cannot be read",
            why="the exchange or the line damages them",
            next="what they do not prove is asked of REST",
        )

    def _halted(self) -> Condition | None:
        """What the exchange itself does not do."""
        if self.liveness is None or self.liveness.halted_since is None:
            return None
        return Condition(
            state="halted",
            missing=f"no trade of any symbol since {iso(self.liveness.halted_since)}",
            why="the exchange is halted, or its market sleeps",
            next="empty candles are stored once REST confirms them",
        )

    def _slots(self, repairs: Repairs, clock: int | None) -> Condition:
        """What the store lacks."""
        lasting = [
            gap
            for gap in repairs.open_gaps
            if gap.cause != DEEPER and (gap.attempts or (clock or 0) - gap.found >= UNTRIED)
        ]
        progress = repairs.progress
        history = {gap.series for gap in lasting if gap.cause == HISTORY}
        lacking = max(progress.total - progress.done, len(history))
        if lacking:
            return Condition(
                state="backfilling",
                missing=f"history of {lacking} of {progress.total} series",
                why=next((gap.note for gap in lasting if gap.note), "not all was asked for yet"),
                next="REST is asked for it",
            )
        if not lasting:
            return Condition(state="live")
        gap = min(lasting, key=lambda gap: gap.found)
        candles = sum(gap.slots for gap in lasting)
        wait = min(gap.next_try for gap in lasting) - clock if clock else 0
        banned = self.budget is not None and self.budget.banned is not None
        return Condition(
            state="live",
            missing=f"{_count(candles, 'candle')} in {_count(len(lasting), 'gap')} "
            f"since {iso(gap.found)}",
            why=f"first {gap.series}: {gap.cause}" + (f" ({gap.note})" if gap.note else ""),
            next="REST is asked again " + ("then" if banned else soon(wait / 1000)),
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def report_text(report: Report, clock: int | None, moment: float) -> bytes:
    """The status as it is stored. ``moment`` is monotonic time."""
    condition = report.condition(clock)
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
        "state": condition.state,
        "since": condition.since or None,
        "note": condition.note,
        "missing": condition.missing,
        "why": condition.why,
        "next": condition.next,
        "clock": clock,
        "symbols": list(report.symbols),
        "owners": dict(report.owners),
        "aliases": dict(report.aliases),
        "rejected": dict(report.rejected),
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
                "mute": sorted(health.mute),
                "starved": sorted(health.starved),
                "error": health.error if health.state is not State.LIVE else "",
            }
            for health in report.healths
        ],
        "newest_close": newest or None,
        "newest_close_age": max(0, clock - newest) if newest and clock else None,
        "close_lag": lags,
        "history": {"done": repairs.progress.done, "total": repairs.progress.total}
        if repairs and not report.ended
        else None,
        "gaps": None if report.ended else len(repairs.open_gaps) if repairs else 0,
        "looks": attrs.asdict(repairs.progress) if repairs else None,
        "verification": {
            **attrs.asdict(report.verification.figures),
            "behind": report.verification.behind(),
        }
        if report.verification
        else None,
        "budget": {
            "per_second": budget.per_second,
            "used_last_minute": budget.used(60.0),
            "refusals": budget.refusals,
            "banned": {"until": ban.until, "why": ban.why} if (ban := budget.banned) else None,
        }
        if budget
        else None,
        "alerts": {name: attrs.asdict(one) for name, one in report.delivery.figures.items()}
        if report.delivery
        else None,
        "reconnects": sum(health.reconnects for health in report.healths),
        "pending": writer.waiting() if writer else 0,
        "counts": counts,
    }
    return msgspec.json.encode(status)
