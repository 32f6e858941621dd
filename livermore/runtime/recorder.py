"""The flight recorder: what each connection heard lately, kept for when something was not right.

Each connection has a :class:`Ring`, bounded in bytes and age. It is made of segments; each begins
with what the tracker knew and goes on with everything it was told, so that any segment is a place
to start from. Finished segments are packed in a thread, which makes them some ten times smaller.

A gap, a correction or a mismatch is an :class:`Incident`. The first one of a kind becomes a bundle
(:mod:`livermore.adapters.incidents`) a moment later, so that what comes with it is in it; the
next of that kind not before a while has passed: an outage is one bundle.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import attrs
import msgspec
import trio

from livermore import __version__
from livermore.adapters import incidents
from livermore.adapters.incidents import Heard
from livermore.dialect import Dialect
from livermore.market.candle import Candle, Series
from livermore.market.recording import Cause, Header, Row, Step, What, remember, row_of
from livermore.market.tracker import Tracker
from livermore.runtime.journal import Journal

REMEMBERED = 1200.0
"""Seconds a ring reaches back at most."""
SEGMENT = 60.0
"""Seconds of a segment. The first is shorter: the others begin in the middle of a minute."""
SEGMENTS = 8
"""Into so many segments the memory is divided, where it is full before their time is."""
MINUTE, BUSY = 60_000, 1_000
"""Ms after a full minute in which no segment begins, unless there is no room."""
SPARE = 4
"""The part of the room of a segment that is left for them."""
OVERHEAD = 160
"""Bytes an entry takes beside its text: with it, the bound on bytes is one on entries as well."""
COLLECT = 15.0
"""Seconds between an incident and its bundle, and at least so many on a connection: within them
the tracker has said what it makes of what it lacks."""
PATIENCE = 600.0
"""Seconds that a bundle waits for a connection to come back, to hold what was made of it."""
QUIET = 600.0
"""Seconds between two bundles of a kind."""
LISTED = 1000
"""Ranges, and candles, that a header has room for."""
BEFORE = 12
"""Stored slots before the affected ones that go with them."""


class Kind(enum.Enum):
    """What was not right."""

    GAP = "gap"
    """Closed candles we should have and did not."""
    CORRECTION = "correction"
    """What was stored was not what it should have been."""
    MISMATCH = "mismatch"
    """Two of the exchange's channels contradict each other."""


@attrs.frozen
class Incident:
    """Slots ``first`` to ``last`` (open times, both included) that were not right."""

    kind: Kind
    series: Series
    first: int
    last: int
    cause: str
    held: Sequence[Candle] = ()
    """What was stored, where it was corrected."""
    said: Sequence[Candle] = ()
    """What it was corrected to."""


# -- one connection ---------------------------------------------------------------------------


@attrs.define(eq=False)
class _Segment:
    began: float
    clock: int | None
    """Exchange time."""
    entries: list[Heard | Step]
    size: int = 0
    packed: bytes | None = None


class Ring:
    """What one connection's tracker was told lately.

    ``limit`` in bytes; one frame, or what the tracker knows, may exceed it. ``moment`` is monotonic
    time.
    """

    def __init__(
        self, name: str, tracker: Tracker, natives: dict[str, str], limit: int,
        wake: Callable[[], None], moment: Callable[[], float],
    ) -> None:  # fmt: skip
        self.name = name
        self.natives = natives
        """Native id -> symbol."""
        self.began: int | None = None
        """Exchange time of the first connection."""
        self.serving_since: float | None = None
        """Monotonic time at which the connection first acknowledged something; None without it."""
        self._tracker = tracker
        self._limit = limit
        self._wake = wake
        self._closed: deque[_Segment] = deque()
        self._open: _Segment | None = None
        self._entries: list[Heard | Step] = []
        self._moment = moment
        self._space = 0
        """Bytes the open segment may take."""
        self._room = 0
        """What is left of them."""
        self._spare = 0
        """What is left for a moment in which candles end."""
        self._until = -1.0
        """Monotonic time at which it ends."""
        tracker.witness = self.told

    def heard(self, now: float, frame: str | bytes) -> None:
        """A frame, before the tracker takes it. For every one of them: no more than an append."""
        if (now >= self._until or self._room <= self._spare) and not self._has_to_wait(now):
            self._turn(now)
        self._entries.append((now, frame))
        self._room -= len(frame) + OVERHEAD

    def told(self, what: str, about: object, now: float | None) -> None:
        """Anything else, before the tracker acts on it."""
        at = self._moment() if now is None else now
        if (at >= self._until or self._room <= self._spare) and not self._has_to_wait(at):
            self._turn(at)
        if what == "connected" and self.began is None:
            self.began = self._tracker.clock.read(at)
        if what == "lost":
            self.serving_since = None
        elif what == "acknowledged" and self.serving_since is None:
            self.serving_since = at
        natives = [about] if isinstance(about, str) else about if isinstance(about, list) else []
        candle = row_of(about) if isinstance(about, Candle) else None
        time = about if isinstance(about, int) else 0
        self._entries.append(Step(at, cast(What, what), natives=natives, candle=candle, time=time))
        self._room -= OVERHEAD + 32 * len(natives)

    @property
    def size(self) -> int:
        """Bytes held, about."""
        return sum(one.size for one in self._closed) + self._space - self._room

    @property
    def reaches(self) -> int | None:
        """Exchange time of the oldest entry."""
        oldest = self._closed[0] if self._closed else self._open
        return None if oldest is None else oldest.clock

    def _turn(self, now: float) -> None:
        """Close the open segment and begin another: from here on, what the tracker knows now."""
        if self._open is not None:
            self._open.size = self._space - self._room
            self._closed.append(self._open)
        state = remember(self._tracker)
        self._entries = [Step(now, "state", state=msgspec.Raw(state))]
        self._open = _Segment(now, self._tracker.clock.read(now), self._entries)
        # With little memory and many symbols, what is known takes more than its share.
        self._space = max(self._limit // SEGMENTS, 2 * len(state))
        self._room = self._space - len(state)
        self._spare = self._room // SPARE
        self._until = now + self._lasts(self._open.clock)
        held = sum(one.size for one in self._closed) + self._space
        while self._closed:
            following = self._closed[1] if len(self._closed) > 1 else self._open
            if held <= self._limit and following.began >= now - REMEMBERED:
                break
            held -= self._closed.popleft().size
        self._wake()

    def _has_to_wait(self, now: float) -> bool:
        """Whether the next segment has to: candles end, and there is room for their frames."""
        if self._room <= 0 or self._open is None:
            return False
        clock = self._tracker.clock.read(now)
        return clock is not None and clock % MINUTE < BUSY

    @staticmethod
    def _lasts(clock: int | None) -> float:
        """Seconds of a segment that begins at ``clock``: the next begins in the middle of a minute.

        To remember costs milliseconds, and at the full minute candles end.
        """
        if clock is None:
            return SEGMENT
        return (SEGMENT / 2 - clock / 1000) % SEGMENT or SEGMENT

    # -- for the recorder

    def unpacked(self) -> _Segment | None:
        """A closed segment that is not packed yet."""
        return next((one for one in self._closed if one.packed is None), None)

    def since(self, time: int) -> Sequence[_Segment]:
        """End the open segment and return all from ``time`` (exchange ms) on, as far as known."""
        self._turn(self._moment())
        found = list(self._closed)
        while len(found) > 1 and (found[1].clock or 0) <= time:
            del found[0]
        return found

    def ending(self) -> Sequence[Step]:
        """The last lines of a bundle, after :meth:`since`."""
        assert self._open is not None  # since() began it
        state = self._open.entries[0]
        assert isinstance(state, Step)
        return [state, Step(state.at, "end")]


# -- all of a feed ----------------------------------------------------------------------------


@attrs.define
class _Case:
    """Incidents of one kind, on their way to a bundle."""

    due: float
    latest: float
    incidents: list[Incident] = attrs.Factory(list)
    unlisted: int = 0


class Recorder:
    """The rings of one exchange, and what becomes of incidents. :meth:`run` ends when cancelled."""

    def __init__(
        self,
        dialect: Dialect,
        directory: Path,
        limit: int,
        journal: Journal,
        *,
        clock: Callable[[], int | None],
        stored: Callable[[Series, int, int], Awaitable[Sequence[Candle] | None]],
    ) -> None:
        self._dialect = dialect
        self._directory = directory
        self._limit = limit
        self._journal = journal
        self._clock = clock
        self._stored = stored
        self._rings: list[Ring] = []
        self._ring_of: dict[str, Ring] = {}
        self._cases: dict[Kind, _Case] = {}
        self._quiet_until: dict[Kind, float] = {}
        self._unsaved: dict[Kind, int] = {}
        self._changed = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self.saved = 0

    def attach(self, name: str, tracker: Tracker, natives: dict[str, str], shards: int) -> Ring:
        """Record what ``tracker`` is told; the memory is shared evenly by ``shards``."""
        ring = Ring(
            name, tracker, natives, self._limit // max(1, shards), self._wake, trio.current_time
        )
        self._rings.append(ring)
        self._ring_of.update((symbol, ring) for symbol in natives.values())
        return ring

    def follow(self, name: str, natives: dict[str, str]) -> None:
        """A connection carries these from now on."""
        ring = self.ring(name)
        for symbol in ring.natives.values():
            del self._ring_of[symbol]
        ring.natives = natives
        self._ring_of.update((symbol, ring) for symbol in natives.values())

    def detach(self, name: str) -> None:
        """A connection is not used any more."""
        self.follow(name, {})
        self._rings = [ring for ring in self._rings if ring.name != name]

    def ring(self, name: str) -> Ring:
        """The ring of a connection by its name."""
        return next(ring for ring in self._rings if ring.name == name)

    def report(self, incident: Incident) -> None:
        """Something was not right. What no frame can explain is left out.

        That is what began before we listened, and what is only a consequence in a longer timeframe.
        """
        ring = self._ring_of.get(incident.series.symbol)
        if ring is None or incident.series.timeframe is not self._dialect.streamed:
            return
        end = incident.last + incident.series.timeframe.ms
        reaches = ring.began if incident.kind is Kind.GAP else ring.reaches
        begins = incident.first if incident.kind is Kind.GAP else end
        if reaches is None or begins < reaches:
            return
        kind, now = incident.kind, trio.current_time()
        case = self._cases.get(kind)
        if case is None:
            if now < self._quiet_until.get(kind, now):
                self._unsaved[kind] = self._unsaved.get(kind, 0) + 1
                return
            case = self._cases[kind] = _Case(now + COLLECT, now + PATIENCE)
            self._wake()
        if len(case.incidents) < LISTED:
            case.incidents.append(incident)
        else:
            case.unlisted += 1

    def _wake(self) -> None:
        self._changed.set()

    # -- the task

    async def run(self) -> None:
        """Pack what is full, save what is due."""
        while True:
            due = min((case.due for case in self._cases.values()), default=trio.current_time() + 60)
            with trio.move_on_at(due):
                await self._changed.wait()
            self._changed = trio.Event()
            for ring in self._rings:
                while (segment := ring.unpacked()) is not None:
                    await self._pack(segment)
            now = trio.current_time()
            for kind, case in [*self._cases.items()]:
                symbol = case.incidents[0].series.symbol
                if symbol not in self._ring_of:
                    del self._cases[kind]  # it is not followed any more
                    continue
                ring = self._ring_of[symbol]
                since = now if ring.serving_since is None else ring.serving_since
                if case.due <= now < case.latest and now < since + COLLECT:
                    case.due = min(since + COLLECT, case.latest)
                elif case.due <= now:
                    await self._save(kind, self._cases.pop(kind), ring)

    async def _pack(self, segment: _Segment) -> None:
        packed = await trio.to_thread.run_sync(
            incidents.pack, segment.entries, limiter=self._limiter
        )
        segment.packed, segment.size = packed, len(packed)
        segment.entries = []

    async def _save(self, kind: Kind, case: _Case, ring: Ring) -> None:
        self._quiet_until[kind] = trio.current_time() + QUIET
        first = case.incidents[0]
        own = [one for one in case.incidents if one.series.symbol in ring.natives.values()]
        segments = ring.since(min(one.first for one in own))
        ending = ring.ending()
        for segment in segments:
            if segment.packed is None:
                await self._pack(segment)
        header = Header(
            version=__version__,
            exchange=self._dialect.name,
            timeframe=self._dialect.streamed.value,
            connection=ring.name,
            kind=kind.value,
            found=self._clock() or first.first,
            recorded_from=segments[0].clock,
            affected=[
                Cause(one.series.symbol, one.first, one.last, one.cause) for one in case.incidents
            ],
            unlisted=case.unlisted,
            unsaved=self._unsaved.pop(kind, 0),
            facts={name: getattr(self._dialect, name) for name in FACTS},
            series=ring.natives,
            stored=await self._around(own),
            held=[row_of(candle) for one in own for candle in one.held][:LISTED],
            said=[row_of(candle) for one in own for candle in one.said][:LISTED],
        )
        members = [one.packed for one in segments if one.packed is not None]
        try:
            members.append(
                await trio.to_thread.run_sync(incidents.pack, ending, limiter=self._limiter)
            )
            path = await trio.to_thread.run_sync(
                incidents.save, self._directory, header, members, limiter=self._limiter
            )
        except OSError as error:
            self._journal.warning(
                "an incident could not be saved", kind=kind.value, why=error.strerror or str(error)
            )
            return
        self.saved += 1
        symbols = len({one.series.symbol for one in case.incidents})
        self._journal.info(
            "incident saved", kind=kind.value, cause=first.cause, symbols=symbols, file=path.name,
            next=f"livermore replay {path.name}",
        )  # fmt: skip

    async def _around(self, own: Sequence[Incident]) -> list[Row] | None:
        """What the store holds of the affected slots, and a little before them."""
        rows: list[Row] = []
        wanted: dict[Series, tuple[int, int]] = {}
        for one in own:
            before = one.first - BEFORE * one.series.timeframe.ms
            known = wanted.get(one.series, (before, one.last))
            wanted[one.series] = (min(before, known[0]), max(one.last, known[1]))
        for series, (first, last) in wanted.items():
            if len(rows) >= LISTED:
                break
            candles = await self._stored(series, first, last)
            if candles is None:
                return None
            rows += map(row_of, candles)
        return rows[:LISTED]


FACTS = ("settle", "sample_lag", "sample_every", "sample_delay")
"""What of a dialect a tracker is given."""
