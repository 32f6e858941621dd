"""Tells people when closed candles stop coming, and when they come again.

A series is blind when its newest closed candle ended longer ago than its timeframe and a minute;
one that never had a candle counts from the end of the slot in which it was first followed. What
is told is grouped: one entry for all that turn blind together, at most one further a minute for
those that were not told yet, one for the end. A longer timeframe of a symbol that was told adds no
entry of its own. What is blind for good hides nothing: later outages, and their ends, are told
beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import attrs
import trio

from livermore.market.candle import Series
from livermore.market.timeframe import MINUTE, Timeframe
from livermore.runtime.status import Report
from livermore.signals.alert import Blindness, Entry, Recovery

GRACE = MINUTE
"""How much later (ms) than its timeframe a closed candle may be here."""
FURTHER = MINUTE
"""Least time (ms) between two entries that tell of blind series."""
PARTLY = 5 * MINUTE
"""How long (ms) some are back before it is told while others are blind yet."""
FLAPPING = 5 * MINUTE
"""Blind again so soon (ms) after it was told to be back, a series is told :data:`FURTHER` later."""
NAMED = 10
"""Series an entry names."""
LOOK = 1.0
"""Seconds between two looks."""


@attrs.frozen(kw_only=True)
class Look:
    """What there is to see of one exchange at a moment."""

    now: int | None
    """The exchange's time (ms), where it is known."""
    newest: Mapping[Series, int]
    """Followed series -> close time of its newest stored candle, 0 for none; empty when what is
    followed is not known yet."""
    halted: int | None
    """Newest trade (exchange ms) of an exchange that is halted."""
    why: str
    """State and note of the feed, in one line."""


def look_at(report: Report, now: int | None, newest: Mapping[Series, int]) -> Look | None:
    """What ``report`` shows; None while another daemon follows the exchange, or nobody does.

    What closed in a pause that a person wanted is not told to be missing.
    """
    if report.standby or report.ended or report.paused:
        return None
    if report.started_following and not report.symbols:
        return None
    if (since := report.resumed) is not None:
        newest = {one: max(end, one.timeframe.floor(since)) for one, end in newest.items()}
    condition = report.condition(now)
    return Look(
        now=now,
        newest=newest,
        halted=report.liveness.halted_since if report.liveness is not None else None,
        why=f"{condition.state}: {condition.note or 'no closed candle arrives'}",
    )


@attrs.frozen
class _Told:
    """Since when something was told to be blind (exchange ms), and when (monotonic ms)."""

    since: int
    at: int


class Blind:
    """What was told of one exchange's blindness. Values in, entries out; restarts need no memory,
    since the same blindness has the same id.

    Inside, ``now``, ``since`` and ends are the exchange's ms; ``at`` is monotonic ms.
    """

    def __init__(self, exchange: str, wall: int, moment: float) -> None:
        """``wall`` (ms) is what our own clock says at ``moment`` (monotonic seconds).

        It stands in for the exchange's until that is known, and no candle is judged by it.
        """
        self._exchange = exchange
        self._clock = wall, round(moment * 1000)
        self._began: int | None = None
        """When the first look was."""
        self._ends: dict[Series, int] = {}
        """Followed series -> end of its newest closed candle, or of the slot before it was
        followed."""
        self._told: dict[Series, _Told] = {}
        """Series told to be blind and not yet told to be back."""
        self._back: dict[Series, int] = {}
        """Those of them that are not blind any more -> since when."""
        self._whole: _Told | None = None
        """Everything is told to be blind: a halt, or an exchange not reached at all."""
        self._last: int | None = None
        """When an entry told of blind series last."""
        self._recovered: dict[Series, int] = {}
        """Series -> when it was told to be back."""
        self._issued: set[str] = set()

    def forget(self) -> None:
        """Another daemon follows the exchange, and tells."""
        self._began = self._whole = self._last = None
        for state in (self._ends, self._told, self._back, self._recovered):
            state.clear()

    def look(self, seen: Look, moment: float) -> Sequence[Entry]:
        """What is to be told at ``moment`` (monotonic seconds)."""
        at = round(moment * 1000)
        now = self._read(seen.now, at)
        if self._began is None:
            self._began = at
        if seen.newest:
            # What is followed first was meant to be followed from the first look on.
            self._follow(seen.newest, now if self._ends else now - (at - self._began))
        blind = [one for one, end in self._ends.items() if now > _due(one, end)]
        blind.sort(key=lambda one: one.timeframe.ms)
        whole = seen.halted
        if not self._ends and at - self._began > Timeframe.M5.ms + GRACE:
            whole = now - (at - self._began)  # not even what is followed is known
        return [
            *self._recoveries(blind, whole, now, at),
            *self._blindnesses(blind, whole, now, at, seen.why),
        ]

    def _read(self, known: int | None, at: int) -> int:
        """The exchange's time, as well as it is known."""
        stamp, heard_at = self._clock
        now = stamp + at - heard_at
        if known is not None:
            if not self._ends and self._whole is not None:
                # Told by our own clock, as the exchange's was not known.
                self._whole = attrs.evolve(self._whole, since=self._whole.since + known - now)
            now = known
        self._clock = now, at
        return now

    def _follow(self, newest: Mapping[Series, int], since: int) -> None:
        """Take over what is followed and what is stored of it; an end is never taken back."""
        self._ends = {
            one: max(end, self._ends.get(one, 0)) or one.timeframe.floor(since)
            for one, end in newest.items()
        }
        for state in (self._told, self._back, self._recovered):
            for one in state.keys() - newest.keys():
                del state[one]

    # -- the end --------------------------------------------------------------------------

    def _recoveries(
        self, blind: Sequence[Series], whole: int | None, now: int, at: int
    ) -> Iterable[Entry]:
        if self._whole is not None:
            self._tell(self._ends, self._whole.since, self._whole.at)
        if whole is not None:
            return
        self._whole = None
        still = set(blind)
        for one in self._told:
            if one in still:
                self._back.pop(one, None)
            else:
                self._back.setdefault(one, at)
        if not self._back:
            return
        waiting = [told for one, told in self._told.items() if one in still]
        # What was blind before those were told is not waited for.
        begun = min(self._told[one].at for one in self._back)
        awaited = any(told.at >= begun for told in waiting)
        if not awaited or at - min(self._back.values()) > PARTLY:
            since = min(self._told[one].since for one in self._back)
            until = now - (at - max(self._back.values()))
            yield Recovery(
                id=f"recovery|{self._exchange}|{since}|{now}",
                source_exchange_id=self._exchange,
                recovered=len(self._back),
                still=len(still),
                since=since,
                lasted=max(0, until - since),
                triggered=now,
            )
            for one in self._back:
                del self._told[one]
                self._recovered[one] = at
            self._back.clear()

    def _tell(self, some: Iterable[Series], since: int, at: int) -> None:
        for one in some:
            self._told.setdefault(one, _Told(since, at))

    # -- the beginning --------------------------------------------------------------------

    def _blindnesses(
        self, blind: Sequence[Series], whole: int | None, now: int, at: int, why: str
    ) -> Iterable[Entry]:
        if self._whole is not None or (self._last is not None and at - self._last < FURTHER):
            return
        if whole is not None:
            self._whole, self._last = _Told(whole, at), at
            every = sorted(self._ends, key=lambda one: one.timeframe.ms)
            yield self._blindness(every, len(every), whole, 0, now, why)
            return
        # The shortest timeframe of each symbol that is blind; the others say nothing new.
        shortest = {one.symbol: one for one in reversed(blind) if one in self._told}
        fresh: list[Series] = []
        for one in blind:
            if one in self._told or self._waits(one, now, at):
                continue
            shorter = shortest.get(one.symbol)
            if shorter is None or shorter.timeframe.ms > one.timeframe.ms:
                shortest[one.symbol] = one
            elif shorter in self._told:
                self._tell([one], self._told[shorter].since, at)
                continue
            fresh.append(one)
        if not fresh:
            return
        named = [one for one in fresh if shortest[one.symbol] is one]
        since = min(self._ends[one] for one in named)
        until = max(_due(one, self._ends[one]) for one in named)
        self._tell(fresh, since, at)
        self._last = at
        yield self._blindness(named, len(fresh), since, (until - since) // MINUTE, now, why)

    def _waits(self, one: Series, now: int, at: int) -> bool:
        """Whether it is too soon to tell again of what was just told to be back."""
        blind_for = now - _due(one, self._ends[one])
        recovered = self._recovered.get(one)
        flaps = recovered is not None and at - blind_for - recovered < FLAPPING
        return flaps and blind_for <= FURTHER

    def _blindness(
        self, named: Sequence[Series], series: int, since: int, number: int, now: int, why: str
    ) -> Blindness:
        """``number`` is the same after a restart; where two entries would share it, it rises."""
        while (name := f"blind|{self._exchange}|{since}|{number}") in self._issued:
            number += 1
        self._issued.add(name)
        return Blindness(
            id=name,
            source_exchange_id=self._exchange,
            series=series,
            of=len(self._ends),
            named=[str(one) for one in named[:NAMED]],
            since=since,
            why=why,
            triggered=now,
        )


def _due(one: Series, end: int) -> int:
    """Until when the next candle of ``one`` may be missing, if the newest ended at ``end``."""
    return end + one.timeframe.ms + GRACE


async def watch_blind(
    blind: Blind,
    look: Callable[[], Look | None],
    post: Callable[[Sequence[Entry]], Awaitable[None]],
) -> None:
    """Look every second and ``post`` what is to be told, until cancelled.

    ``post`` must reach people also while Redis is away: that is a blindness as well.
    """
    while True:
        seen = look()
        if seen is None:
            blind.forget()
        elif entries := blind.look(seen, trio.current_time()):
            await post(entries)
        await trio.sleep(LOOK)
