"""Gaps become REST requests, replies become history, one page at a time.

All causes are one thing: a start, a reconnect, lost frames, a mute symbol, a person asking. The
queue is in memory and in the ledger ``gaps:{exchange}``, so that other processes can follow it and
append to it. Newest and shortest timeframe first.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis, script
from livermore.dialect import Dialect
from livermore.errors import LivermoreError, MalformedMessage, Refused, StoreError
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.certificate import Compared, judge
from livermore.market.gap import (
    SECOND_LOOK,
    SETTLED,
    VERIFY,
    Gap,
    Lane,
    Outcome,
    decode_gap,
    encode_gap,
    merge,
    pages,
)
from livermore.market.history import DEEPEST, Page, Row, against, deeper, read_page, wanted, window
from livermore.market.timeframe import TIMEFRAMES, iso
from livermore.market.tracker import DIFFERS, Missing, Suspect
from livermore.runtime.backoff import Backoff
from livermore.runtime.lease import Lease
from livermore.runtime.recorder import Incident, Kind
from livermore.runtime.rest import Rest
from livermore.runtime.writer import CONTRADICTED, SETTLES, Writer

HISTORY = "history"
"""The cause of a gap that is there because nobody asked yet."""
DEEPER = "deeper history"
"""The cause of a gap that is there because too few candles of the newest 300 traded."""
WORKERS = 6
"""Requests under way at once: the budget is spent even when replies are slow."""
ALLOWANCE = SETTLES
"""After a slot's end (ms), when the stream has had its chance and its absence is a gap."""
LOOK_AFTER = 31_000
"""After a slot's end (ms), when a REST reply is no longer a guess of a cache."""
LOOKS = 3
"""Looks at a suspect slot that no reply shows; what is stored then stays."""
REMEMBERED_LOOKS = 10_000
ATTEMPTS = 12
"""Tries after which a gap that REST never fills ends as unfillable."""
REMEMBERED = 24 * 3600 * 1000
"""How long (ms) an ended gap stays in the ledger."""
MOST_ENDED = 5_000
"""Ended gaps the ledger keeps at most: the oldest go."""
GIVEN_UP = 600 * 1000
MOST_GIVEN_UP = 4 * 3600 * 1000
"""How long (ms) a scan leaves slots alone that were unfillable: doubling, first and most."""
STILL_OPEN = frozenset({3, 6, 10})
"""Tries after which it is said that a gap stays open."""
RECHECK = 1.5
"""Seconds between two looks at the store for a gap whose next request is not due."""
IDLE = 0.25
"""Seconds between two looks at what has become due."""
ASIDE = 5.0
"""Seconds until a series is tried again whose key is somebody else's."""
POLL = 2.0
"""Seconds between two looks at the ledger for what others appended."""
GONE = "it is not followed any more"

_RANK = {timeframe: rank for rank, timeframe in enumerate(TIMEFRAMES)}


@attrs.define
class Progress:
    """How far the history is."""

    done: int = 0
    total: int = 0
    requests: int = 0
    looks: int = 0
    differed: int = 0
    filled: int = 0
    """Gaps that were filled, history apart."""
    unfillable: int = 0


class Repairs:
    """The repair queue of one exchange. :meth:`run` ends when cancelled."""

    def __init__(
        self,
        dialect: Dialect,
        redis: Redis,
        lease: Lease,
        rest: Rest,
        writer: Writer,
        natives: Mapping[str, str],
        *,
        clock: Callable[[], int | None],
        say: Callable[[str, dict[str, object]], None],
        progressed: Callable[[], None],
        chance: Callable[[], float],
        incident: Callable[[Incident], None] = lambda incident: None,
        owners: Mapping[str, str] | None = None,
    ) -> None:
        """``natives``: symbol -> the exchange's id; ``owners``: symbol -> whose it alone is."""
        self._dialect = dialect
        self._redis = redis
        self._lease = lease
        self._rest = rest
        self._writer = writer
        self._natives = dict(natives)
        self._owners = dict(owners or {})
        self._clock = clock
        self._say = say
        self._progressed = progressed
        self._incident = incident
        self._chance = chance
        self._open: dict[str, Gap] = {}
        self._busy: set[str] = set()
        self._recheck: dict[str, float] = {}
        """Monotonic time at which an open gap is surveyed again: the stream may have filled it."""
        self._looks: dict[tuple[Series, int], tuple[int, str]] = {}
        self._looked: dict[tuple[Series, int], tuple[int, int]] = {}
        """How often REST was asked about a suspect slot and showed nothing that decides, and when
        it was asked first (exchange ms)."""
        self._aside: dict[Series, float] = {}
        """Series a key of which is somebody else's, and the monotonic time of the next try."""
        self._unwritten: dict[str, Gap] = {}
        """What the ledger did not take: its key is somebody else's."""
        self._changed = trio.Event()
        self._wanting: set[Series] = set()
        self._left_out: Mapping[str, str] = {}
        """Symbols the exchange does not serve, and why."""
        self._given_up: dict[Series, dict[int, tuple[int, int]]] = {}
        """Slots that were unfillable: until when they are left alone (exchange ms), how long."""
        self.to_verify: dict[str, Gap] = {}
        """Ranges of the ledger that lack nothing and are to be compared with REST."""
        self._remembers = False
        """Whether the ledger was read once."""
        self._doubts = 0
        """How often it was forgotten what was asked for: a reply from before says nothing of it."""
        self._reading = trio.Lock()
        """Held while the ledger is read: what was read is not what is there a moment later."""
        self._asking: dict[trio.CancelScope, Series] = {}
        """What is under way, and for which series."""
        self.progress = Progress()

    @property
    def open_gaps(self) -> Sequence[Gap]:
        """What is not repaired yet."""
        return tuple(self._open.values())

    @property
    def foreign(self) -> Iterable[Series]:
        """Series that cannot be repaired: a key they need may be somebody else's."""
        return tuple(self._aside)

    @property
    def wanting(self) -> int:
        """Series that lack something."""
        return len(self._wanting)

    def lacking(self, symbols: Collection[str]) -> int:
        """How many series of these symbols lack something."""
        return sum(one.symbol in symbols for one in self._wanting)

    # -- what is followed -----------------------------------------------------------------

    def follow(self, symbol: str, native: str, owner: str = "") -> None:
        """Repair the series of this symbol as well."""
        self._natives[symbol] = native
        if owner:
            self._owners[symbol] = owner

    def forget(self, series: Collection[Series]) -> None:
        """Repair these no more: what is queued goes, and what is under way ends."""
        gone = set(series)
        for one in gone:
            if one.owner == self._owners.get(one.symbol, ""):
                self._natives.pop(one.symbol, None)
                self._owners.pop(one.symbol, None)
            self._aside.pop(one, None)
            self._given_up.pop(one, None)
        for scope, one in self._asking.items():
            if one in gone:
                scope.cancel()
        for gaps in (self._open, self._unwritten, self.to_verify):
            for name in [name for name, gap in gaps.items() if gap.series in gone]:
                del gaps[name]
                self._recheck.pop(name, None)
        self._looks = {key: look for key, look in self._looks.items() if key[0] not in gone}
        self._looked = {key: look for key, look in self._looked.items() if key[0] not in gone}
        progress, lacking = self.progress, self.progress.total - self.progress.done
        self._wanting -= gone
        progress.total -= len(gone)
        progress.done = progress.total - min(lacking, len(self._wanting))
        self._progressed()

    def move(self, before: Series, after: Series) -> None:
        """What is to be looked at of ``before`` is of ``after`` from now on."""
        for one, open_time in [key for key in self._looks if key[0] == before]:
            self._looks[after, open_time] = self._looks.pop((one, open_time))

    async def clear_ledger(self, series: Collection[Series]) -> None:
        """Nothing about these is in the ledger any more."""
        gone, exchange = set(series), self._lease.exchange
        key = store.gaps_key(exchange)
        async with self._reading:
            [reply] = await self._redis.run_each([("HGETALL", key)], "publish")
            store.raise_unless_foreign([reply])
            names: list[bytes] = []
            for name, text in [] if isinstance(reply, StoreError) else _pairs(reply):
                with contextlib.suppress(MalformedMessage):
                    names += [name] if decode_gap(exchange, text).series in gone else []
            if names:
                await self._redis.run([("HDEL", key, *names)], "publish")

    @contextlib.contextmanager
    def _for(self, series: Series) -> Iterator[trio.CancelScope]:
        """What is done in the block ends when ``series`` is not followed any more."""
        with trio.CancelScope() as scope:
            self._asking[scope] = series
            try:
                yield scope
            finally:
                del self._asking[scope]

    # -- for others -----------------------------------------------------------------------

    def missing(self, slots: Iterable[Missing]) -> None:
        """The tracker gave slots up."""
        ranges: dict[tuple[Series, str], list[tuple[int, int]]] = {}
        for slot in slots:
            ranges.setdefault((slot.series, slot.cause), []).append(
                (slot.open_time, slot.open_time)
            )
        found: list[Gap] = []
        for (series, cause), listed in ranges.items():
            for first, last in merge(listed, series.timeframe):
                found += self.add(series, first, last, cause, Lane.LIVE)
        self._say_found(found)

    def suspects(self, slots: Iterable[Suspect]) -> None:
        """Stored slots to compare with REST once it can be trusted."""
        for slot in slots:
            if self.leaves_out(slot.series):
                continue
            due = slot.open_time + slot.series.timeframe.ms + LOOK_AFTER
            self._looks.setdefault((slot.series, slot.open_time), (due, slot.cause))
            if slot.cause == DIFFERS:
                one = Incident(Kind.MISMATCH, slot.series, slot.open_time, slot.open_time, DIFFERS)
                self._incident(one)
        self._changed.set()

    def add(self, series: Series, first: int, last: int, cause: str, lane: Lane) -> Sequence[Gap]:
        """A gap; a range that is known already is not added twice. Returns what is new."""
        now = self._clock()
        if now is None or self.leaves_out(series):
            return ()
        if cause != DEEPER:
            self._wanting.add(series)
        alone = cause in (HISTORY, DEEPER)
        if not alone:
            first, last = self._without_known(series, first, last)
            if first > last:
                return ()
        beside: Gap | None = None
        for known in self._open.values():
            if known.series != series or not known.first <= first:
                continue
            if last <= known.last:
                return ()
            if first <= known.last + series.timeframe.ms and not alone:
                beside = known if known.cause not in (HISTORY, DEEPER) else beside
        if beside is not None:
            # One gap that grows: one request for all of it. What joined is asked for at once.
            self._open[beside.name] = self._unwritten[beside.name] = attrs.evolve(
                beside, last=last, lane=min(lane, beside.lane), omitted_at=None, attempts=0,
                next_try=now,
            )  # fmt: skip
            self._changed.set()
            return (Gap(series, first, last, cause, now, lane),)
        gap = Gap(series, first, last, cause, now, lane, next_try=now)
        same = self._open.get(gap.name)
        if same is not None:
            # The slots that joined were in no look before: their second one is still to come.
            omitted_at = same.omitted_at if last <= same.last else None
            gap = attrs.evolve(same, last=max(last, same.last), omitted_at=omitted_at)
        self._open[gap.name] = gap
        self._unwritten[gap.name] = gap
        self._changed.set()
        return (gap,)

    def _without_known(self, series: Series, first: int, last: int) -> tuple[int, int]:
        """``first..last`` without what open gaps hold of its ends; empty where they hold all.

        A scan cuts what lacks where the newest slots begin, a slot later each time.
        """
        ms = series.timeframe.ms
        known = sorted((g.first, g.last) for g in self._open.values() if g.series == series)
        for start, end in known:
            if start <= first <= end:
                first = end + ms
        for start, end in reversed(known):
            if start <= last <= end:
                last = start - ms
        return first, last

    def _say_found(self, gaps: Sequence[Gap]) -> None:
        """One line for all that went missing at once; history is no news."""
        news = [gap for gap in gaps if gap.cause not in (HISTORY, DEEPER)]
        for gap in news:
            self._incident(Incident(Kind.GAP, gap.series, gap.first, gap.last, gap.cause))
        if news:
            self._say(
                "gaps found",
                {
                    "gaps": len(news),
                    "candles": sum(gap.slots for gap in news),
                    "cause": news[0].cause,
                    "series": str(news[0].series),
                    "first": iso(news[0].first),
                    "next": "REST is asked",
                },
            )

    def leaves_out(self, series: Series) -> bool:
        """Whether nothing can be asked about ``series``."""
        symbol = series.symbol
        unknown = symbol not in self._natives or series.owner != self._owners.get(symbol, "")
        return unknown or symbol in self._left_out

    def leave_out(self, symbols: Mapping[str, str]) -> None:
        """Symbols the exchange does not serve, with its reason: their gaps end as unfillable."""
        self._left_out = symbols
        now = self._clock() or 0
        for name, gap in list(self._open.items()):
            if gap.series.symbol in symbols:
                why = symbols[gap.series.symbol]
                self._unwritten[name] = attrs.evolve(
                    gap, outcome=Outcome.UNFILLABLE, ended=now, note=why
                )
                del self._open[name]
                self._recheck.pop(name, None)
                self._wanting.discard(gap.series)
        self._progressed()

    def _drop_old(self, now: int) -> None:
        """What lies behind the newest slots we keep is not missed any more."""
        for name, gap in list(self._open.items()):
            timeframe = gap.series.timeframe
            oldest = timeframe.last_closed(now) - (DEEPEST - 1) * timeframe.ms
            if gap.last < oldest and name not in self._busy:
                self._unwritten[name] = attrs.evolve(
                    gap, outcome=Outcome.UNFILLABLE, ended=now,
                    note=f"older than the newest {DEEPEST} candles",
                )  # fmt: skip
                del self._open[name]
                self._recheck.pop(name, None)
                self.progress.unfillable += 1

    async def forget_asked(self, series: Sequence[Series]) -> None:
        """What was asked for is not known: what lacks is asked for once more.

        Deeper history that waits was to follow what was asked for then, and would leave a hole.
        """
        self._doubts += 1
        under_way = set(self._asking.values())
        for gaps in (self._open, self._unwritten):
            for name, gap in list(gaps.items()):
                if gap.cause == DEEPER and gap.series not in under_way:
                    del gaps[name]
        calls = [("HDEL", store.keys(one).companion, "asked_from") for one in series]
        store.raise_unless_foreign(await self._redis.run_each(calls, "publish"))

    async def scan(self, series: Sequence[Series], cause: str, lane: Lane = Lane.REPAIR) -> int:
        """Add what the store lacks; returns how many series lack something.

        All of the newest slots are to be there, and behind them what lies between stored candles.
        A series whose key is somebody else's is left out.
        """
        now = self._clock()
        if now is None:
            return 0
        settled = now - ALLOWANCE
        self._drop_old(settled)
        calls = [store.survey(one, *window(one.timeframe, settled, DEEPEST)) for one in series]
        replies = await self._redis.run_each(calls, "read")
        store.raise_unless_foreign(replies)
        lacking = 0
        new: list[Gap] = []
        lost: list[Call] = []
        began: dict[str, int] = {}
        for one, reply in zip(series, replies, strict=True):
            if self.leaves_out(one):
                continue
            if isinstance(reply, StoreError):
                self._aside[one] = trio.current_time() + ASIDE
                continue
            self._aside.pop(one, None)
            found = store.surveyed(one, reply)
            ranges = wanted(
                one.timeframe,
                settled,
                missing=found.missing,
                oldest=found.oldest,
                asked_from=found.asked_from,
                ever=found.cursor is not None,
                traded_from=began.get(one.symbol),
            )
            ranges = self._not_given_up(one, ranges, now)
            if one.timeframe is self._dialect.streamed and found.oldest is not None:
                began[one.symbol] = found.oldest
            first_fetch = found.asked_from is None
            begins, _ = window(one.timeframe, settled)
            for first, last in ranges:
                before = found.oldest is None or last < found.oldest
                new += self.add(
                    one,
                    first,
                    last,
                    HISTORY if before else cause,
                    # A hole behind them comes after what everybody needs first.
                    lane if last >= begins else max(lane, Lane.VERIFICATION),
                )
            if not ranges and not first_fetch:
                self._deepen(found, settled)
            if found.oldest is not None and (found.cursor is None or (first_fetch and not ranges)):
                # Its companion was lost: what it should tell is written anew.
                since = "" if ranges else min(found.oldest, begins)
                companion = store.keys(one).companion
                lost.append(script("asked", (companion,), self._lease.epoch, since, found.oldest))
            lacking += bool(ranges)
        self._say_found(new)
        store.raise_unless_foreign(await self._redis.run_each(lost, "publish"))
        return lacking

    def _not_given_up(
        self, series: Series, ranges: list[tuple[int, int]], now: int
    ) -> list[tuple[int, int]]:
        """``ranges`` without the slots that were found unfillable a short while ago."""
        given_up = self._given_up.get(series)
        if given_up is None:
            return ranges
        for slot in [slot for slot, (end, _) in given_up.items() if now - end >= REMEMBERED]:
            del given_up[slot]
        if not given_up:
            del self._given_up[series]
        slots = [
            (slot, slot)
            for first, last in ranges
            for slot in range(first, last + 1, series.timeframe.ms)
            if given_up.get(slot, (0, 0))[0] <= now
        ]
        return merge(slots, series.timeframe)[::-1]

    def _give_up(self, gap: Gap) -> None:
        given_up = self._given_up.setdefault(gap.series, {})
        for slot in range(gap.first, gap.last + 1, gap.series.timeframe.ms):
            wait = min(MOST_GIVEN_UP, max(GIVEN_UP, 2 * given_up.get(slot, (0, 0))[1]))
            given_up[slot] = ((gap.ended or 0) + wait, wait)

    def _deepen(self, found: store.Survey, now: int) -> bool:
        """Ask for more where too few traded candles are stored; whether there is more to ask for.

        After what everybody needs first: from the newest 300 a reading is good, from more exact.
        """
        further = deeper(
            found.series.timeframe,
            now,
            traded=found.traded,
            oldest_traded=found.oldest_traded,
            asked_from=found.asked_from,
        )
        if further is None:
            return False
        self.add(found.series, *further, DEEPER, Lane.VERIFICATION)
        return True

    async def read_ledger(self) -> None:
        """Take up what the ledger holds: a predecessor left it, or another process asks for it.

        A ledger whose key is somebody else's holds nothing.
        """
        async with self._reading:
            await self._read_ledger()

    async def _read_ledger(self) -> None:
        exchange = self._lease.exchange
        [reply] = await self._redis.run_each([("HGETALL", store.gaps_key(exchange))], "read")
        store.raise_unless_foreign([reply])
        if isinstance(reply, StoreError):
            return
        now = self._clock() or 0
        stale: list[bytes] = []
        ended: list[tuple[int, bytes]] = []
        for name, text in _pairs(reply):
            try:
                gap = decode_gap(exchange, text)
            except MalformedMessage:
                stale.append(name)
                continue
            if gap.outcome is Outcome.OPEN and gap.cause == VERIFY:
                self.to_verify.setdefault(gap.name, gap)
            elif gap.outcome is Outcome.OPEN:
                known = {gap.name} & (self._open.keys() | self._unwritten.keys() | self._busy)
                if not known and not self.leaves_out(gap.series):
                    self._open[gap.name] = gap
                    if gap.cause != DEEPER:
                        self._wanting.add(gap.series)
                    self._changed.set()
            elif now - (gap.ended or 0) > REMEMBERED:
                stale.append(name)
                continue
            elif gap.attempts >= ATTEMPTS and not self._remembers:
                self._give_up(gap)
            if gap.outcome is not Outcome.OPEN:
                ended.append((gap.ended or 0, name))
        self._remembers = True
        if len(ended) > MOST_ENDED:
            stale += [name for _, name in sorted(ended)[: len(ended) - MOST_ENDED]]
        if stale:
            await self._redis.one("HDEL", store.gaps_key(exchange), *stale)
        await self._write_ledger()

    async def _write_ledger(self) -> None:
        """Tell the ledger what it does not know yet; a worker tells of its own gap itself."""
        unwritten = [gap for name, gap in self._unwritten.items() if name not in self._busy]
        if not unwritten:
            return
        key = store.gaps_key(self._lease.exchange)
        replies = await self._redis.run_each(
            [("HSET", key, gap.name, encode_gap(gap)) for gap in unwritten], "publish"
        )
        store.raise_unless_foreign(replies)
        for gap, reply in zip(unwritten, replies, strict=True):
            if not isinstance(reply, StoreError) and self._unwritten.get(gap.name) is gap:
                del self._unwritten[gap.name]

    # -- the task -------------------------------------------------------------------------

    async def run(self) -> None:
        """Repair until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_ledger)
            for _ in range(WORKERS):
                nursery.start_soon(self._work)

    async def _follow_ledger(self) -> None:
        while True:
            with contextlib.suppress(StoreError):  # the writer tells that Redis is away
                await self.read_ledger()
            await trio.sleep(POLL)

    async def _work(self) -> None:
        backoff = Backoff(first=0.5, most=10.0)
        while True:
            gap = self._take()
            look = self._take_look() if gap is None else None
            try:
                if gap is not None:
                    with self._for(gap.series):
                        await self._repair(gap)
                elif look is not None:
                    await self._look(look)
                else:
                    self._changed = trio.Event()
                    with trio.move_on_after(IDLE):
                        await self._changed.wait()
            except StoreError as error:
                series = gap.series if gap is not None else look[0] if look is not None else None
                if series is not None and store.is_foreign(error):
                    self._aside[series] = trio.current_time() + ASIDE  # the others go on
                await trio.sleep(backoff.next(self._chance()))
            else:
                backoff.reset()
                if gap is not None:
                    self._aside.pop(gap.series, None)
            finally:
                if gap is not None:
                    self._busy.discard(gap.name)

    def _take(self) -> Gap | None:
        """The most urgent gap that is due and nobody works on."""
        now = self._clock()
        if now is None:
            return None
        moment = trio.current_time()
        due = [
            gap
            for name, gap in self._open.items()
            if name not in self._busy
            and self._aside.get(gap.series, moment) <= moment
            and (gap.next_try <= now or self._recheck.get(name, moment) < moment)
        ]
        if not due:
            return None
        gap = min(due, key=lambda g: (g.lane, _RANK[g.series.timeframe], -g.last))
        self._busy.add(gap.name)
        return gap

    def _take_look(self) -> tuple[Series, int, int, str] | None:
        """Suspect slots of one series that are due: series, first, last, cause."""
        now = self._clock()
        if now is None or not self._looks:
            return None
        moment = trio.current_time()
        due = [
            key
            for key, (at, _) in self._looks.items()
            if at <= now and self._aside.get(key[0], moment) <= moment
        ]
        if not due:
            return None
        series, newest = max(due, key=lambda key: key[1])
        slots = heapq.nlargest(self._dialect.rest_rows, (t for one, t in due if one == series))
        first = newest
        span = (self._dialect.rest_rows - 1) * series.timeframe.ms
        cause = self._looks[series, newest][1]
        for open_time in slots:
            if newest - open_time <= span:
                first = min(first, open_time)
                del self._looks[series, open_time]
        return series, first, newest, cause

    async def _look(self, look: tuple[Series, int, int, str]) -> None:
        """Compare stored slots with REST; its word replaces ours."""
        series, first, last, cause = look
        slots = range(first, last + 1, series.timeframe.ms)
        before = [self._looked.get((series, open_time)) for open_time in slots]
        moments = [known[1] for known in before if known is not None]
        omitted_at = max(moments) if len(moments) == len(before) else None
        try:
            asked = await self.compare(series, first, last, cause, omitted_at=omitted_at)
        except (StoreError, trio.Cancelled):
            self._look_again(series, slots, cause)
            raise
        if asked.problem:
            # Not answered is not agreed: look again.
            self._look_again(series, slots, cause)
            await trio.sleep(1.0)
            return
        if cause == CONTRADICTED and asked.compared.corrected == 0:
            # REST says it again: it may be behind what we heard a moment ago.
            asked = attrs.evolve(asked, undecided=slots)
        self._look_later(series, asked, cause)

    async def compare(
        self,
        series: Series,
        first: int,
        last: int,
        cause: str,
        *,
        lane: Lane = Lane.VERIFICATION,
        omitted_at: int | None = None,
    ) -> Asked:
        """Compare stored slots, at most a page of them, with REST; its word replaces ours.

        What is newer is asked for along with them: it shows how far the reply goes.
        ``omitted_at``: when an earlier reply omitted those that are undecided.
        """
        running = series.timeframe.floor(self._clock() or last)
        span = (self._dialect.rest_rows - 1) * series.timeframe.ms
        plan = [(first, max(last, min(first + span, running)))]
        with self._for(series) as scope:
            asked = await self._ask(series, first, last, plan, lane, omitted_at)
        if scope.cancelled_caught:
            return Asked(problem=GONE)
        if asked.problem:
            return asked
        self.progress.looks += 1
        changed = asked.written.having("cv") if asked.written else []
        if changed:
            self.progress.differed += len(changed)
            self._say(
                "REST corrected what was stored",
                {"series": str(series), "candles": len(changed), "cause": cause},
            )
        return asked

    def _tell_corrections(self, written: store.Written, held: Mapping[int, Candle]) -> None:
        """What REST corrected, and what was held there before."""
        said = written.having("cv")
        if said:
            times = [candle.open_time for candle in said]
            self._incident(
                Incident(
                    Kind.CORRECTION, written.series, times[0], times[-1], "REST says otherwise",
                    [held[time] for time in times if time in held], said,
                )
            )  # fmt: skip

    def _look_again(self, series: Series, slots: Iterable[int], cause: str) -> None:
        """Nothing was answered; a series that is not served is left."""
        if self.leaves_out(series):
            return
        due = (self._clock() or 0) + LOOK_AFTER
        for open_time in slots:
            self._looks.setdefault((series, open_time), (due, cause))

    def _look_later(self, series: Series, asked: Asked, cause: str) -> None:
        """Slots that a reply does not decide: another one may, a few times."""
        for open_time in asked.undecided:
            tries, since = self._looked.pop((series, open_time), (0, asked.at))
            if tries + 1 < LOOKS:
                self._looked[series, open_time] = tries + 1, since
                due = (self._clock() or open_time) + SECOND_LOOK
                self._looks.setdefault((series, open_time), (due, cause))
        while len(self._looked) > REMEMBERED_LOOKS:
            del self._looked[next(iter(self._looked))]

    async def _repair(self, gap: Gap) -> None:
        """One try: ask REST for what is still missing, unless it is too early to ask again."""
        doubts = self._doubts
        survey = await self._survey(gap)
        asked: Asked | None = None
        if survey.missing and gap.next_try <= (self._clock() or 0):
            gap = attrs.evolve(gap, attempts=gap.attempts + 1)
            first, last = survey.missing[0][0], survey.missing[-1][1]
            plan = self._plan(gap.series, first, last, survey)
            asked = await self._ask(gap.series, first, last, plan, gap.lane, gap.omitted_at)
            if not asked.problem:
                await self._note_asked(gap, doubts)
            survey = await self._survey(gap)
        elif not survey.missing and gap.cause == DEEPER:
            await self._note_asked(gap, doubts)  # all is there: as good as asked for
        left = self._left(gap, survey)
        if left and asked is None:
            self._recheck[gap.name] = trio.current_time() + recheck(gap)
            return
        await self._settle(gap, left, asked or Asked(), survey)

    async def _note_asked(self, gap: Gap, doubts: int) -> None:
        """Remembered for good: nobody asks again for what the exchange does not have.

        Not what is from before a doubt, ``doubts`` being how many there were then.
        """
        if doubts == self._doubts:
            companion = store.keys(gap.series).companion
            call = script("asked", (companion,), self._lease.epoch, gap.first)
            await self._redis.run([call], "publish")

    @staticmethod
    def _left(gap: Gap, survey: store.Survey) -> int:
        """Slots of the gap that are still missing.

        What lies before the oldest candle never was there, if REST was asked for it and answered.
        """
        ms = gap.series.timeframe.ms
        if survey.oldest is None:
            asked = survey.asked_from is not None and survey.asked_from <= gap.first
            return 0 if gap.cause in (HISTORY, DEEPER) and gap.attempts and asked else gap.slots
        left = 0
        for first, last in survey.missing:
            left += max(0, (last - max(first, survey.oldest)) // ms + 1)
            before = min(last, survey.oldest - ms)
            if survey.asked_from is not None:
                before = min(before, survey.asked_from - ms)
            left += max(0, (before - first) // ms + 1)
        return left

    def _plan(
        self, series: Series, first: int, last: int, survey: store.Survey
    ) -> list[tuple[int, int]]:
        """Pages to ask for, newest first. A page that has room takes along what proves more.

        That is the candle before the range, whose close the empties behind it rest at, and what is
        newer than the range: an omitted slot is empty only if the reply holds a newer row.
        """
        ms, rows = series.timeframe.ms, self._dialect.rest_rows
        running = series.timeframe.floor(self._clock() or last)
        if survey.oldest_traded is not None and survey.oldest_traded > last:
            last = survey.oldest_traded  # the newer row
        elif survey.oldest is not None:
            first = max(0, first - ms)
        span = (rows - 1) * ms
        if last - first <= span:
            return [(first, max(last, min(first + span, running)))]
        return list(pages(first, last, series.timeframe, rows))

    async def _settle(self, gap: Gap, left: int, asked: Asked, survey: store.Survey) -> None:
        """Write the ledger: filled, another try, or unfillable."""
        series = gap.series
        now = self._clock() or gap.found
        # More of the series may have gone missing while this was asked for.
        last = self._open.get(gap.name, gap).last
        grown, gap = last > gap.last, attrs.evolve(gap, last=max(last, gap.last))
        if grown:  # what joined was asked for by nobody yet
            gap = attrs.evolve(gap, attempts=0, next_try=now, omitted_at=None, note="")
        elif left == 0:
            gap = attrs.evolve(gap, outcome=Outcome.FILLED, ended=now, note="")
        elif gap.attempts >= ATTEMPTS and not asked.problem:
            note = f"REST did not give {left} of {gap.slots} candles in {gap.attempts} tries"
            gap = attrs.evolve(gap, outcome=Outcome.UNFILLABLE, ended=now, note=note)
            self._give_up(gap)
        else:
            wait = min(60_000, 2_000 * 2 ** min(gap.attempts - 1, 5))
            omitted_at = gap.omitted_at
            if asked.unproved:
                omitted_at = omitted_at if omitted_at is not None else asked.at
                # Another answer helps once it proves something: a second look, or a settled one.
                settled = gap.last + series.timeframe.ms + SETTLED
                moments = [omitted_at + SECOND_LOOK, *([settled] if settled > now else [])]
                wait = max(wait, min(moments) + 1_000 - now)
            note = asked.problem or f"REST does not show {left} of {gap.slots} candles yet"
            gap = attrs.evolve(gap, next_try=now + wait, omitted_at=omitted_at, note=note)
            if asked.at and gap.attempts in STILL_OPEN and gap.cause != DEEPER:
                self._say(
                    "gap still open",
                    {
                        "series": str(series),
                        "first": iso(gap.first),
                        "candles": gap.slots,
                        "cause": gap.cause,
                        "attempts": gap.attempts,
                        "next_try": iso(gap.next_try),
                        "note": note,
                    },
                )
        if gap.outcome is Outcome.OPEN:
            self._open[gap.name] = gap
            self._recheck[gap.name] = trio.current_time() + recheck(gap)
        else:
            self._open.pop(gap.name, None)
            self._recheck.pop(gap.name, None)
        try:
            written = await self.write_entry(gap)
        except StoreError:
            # The ledger may have taken it all the same: then nobody would ever end it here.
            if not self.leaves_out(series):
                again = attrs.evolve(gap, outcome=Outcome.OPEN, ended=None)
                self._open.setdefault(gap.name, again)
            raise
        if written:
            self._unwritten.pop(gap.name, None)
        else:
            self._unwritten[gap.name] = gap
        if gap.outcome is not Outcome.OPEN:
            self._finished(gap, survey, now)

    async def write_entry(self, gap: Gap) -> bool:
        """Whether the ledger took ``gap``: not while its key, or the lease, is somebody else's."""
        if not self._lease.valid():
            return False
        call: Call = ("HSET", store.gaps_key(self._lease.exchange), gap.name, encode_gap(gap))
        [reply] = await self._redis.run_each([call], "publish")
        store.raise_unless_foreign([reply])
        return not isinstance(reply, StoreError)

    def _finished(self, gap: Gap, survey: store.Survey, now: int) -> None:
        if gap.cause in (HISTORY, DEEPER):
            if gap.outcome is Outcome.FILLED and survey.asked_from is not None:
                # Whoever filled it, what follows lies behind it: else it could follow for ever.
                further = min(survey.asked_from, gap.first)
                survey = attrs.evolve(survey, asked_from=further)
            self._deepen(survey, now - ALLOWANCE)
        if gap.series in self._wanting and not any(
            other.series == gap.series and other.cause != DEEPER for other in self._open.values()
        ):
            self._wanting.discard(gap.series)
            self._progressed()
        if gap.cause not in (HISTORY, DEEPER) or gap.outcome is Outcome.UNFILLABLE:
            self.progress.filled += gap.outcome is Outcome.FILLED
            self.progress.unfillable += gap.outcome is Outcome.UNFILLABLE
            self._say(
                f"gap {gap.outcome.value}",
                {
                    "series": str(gap.series),
                    "first": iso(gap.first),
                    "candles": gap.slots,
                    "cause": gap.cause,
                    "attempts": gap.attempts,
                    "seconds": max(0, now - gap.found) // 1000,
                    **({"note": gap.note} if gap.note else {}),
                },
            )

    async def _survey(self, gap: Gap) -> store.Survey:
        reply = (await self._redis.run([store.survey(gap.series, gap.first, gap.last)], "read"))[0]
        return store.surveyed(gap.series, reply)

    async def _ask(
        self,
        series: Series,
        first: int,
        last: int,
        plan: Sequence[tuple[int, int]],
        lane: Lane,
        omitted_at: int | None = None,
    ) -> Asked:
        """Ask for the pages of ``plan`` and store what they prove about ``first..last``."""
        ms = series.timeframe.ms
        rows: dict[int, Row] = {}
        moments: list[int] = []
        problem = ""
        native = self._natives.get(series.symbol)
        if native is None:
            return Asked(problem=GONE)  # left a moment ago, while something was awaited
        for start, end in plan:
            try:
                found, at = await self._rest.candles(native, series.timeframe, start, end, lane)
            except (StoreError, Refused):
                raise
            except LivermoreError as error:
                problem = str(error)
                break
            self.progress.requests += 1
            moments.append(at)
            rows.update((row.open_time, row) for row in found)
            answered_from = start
        if not moments:
            return Asked(problem=problem)
        if problem:
            first = max(
                first, answered_from
            )  # pages come newest first: only this much was answered
        until = max(end for _, end in plan)
        members = await self._redis.one(*store.range_call(series, first - ms, until))
        held = {one.open_time: one for one in store.decode_candles(series, members)[0]}
        # All pages together: what lies between the rows of two pages is in neither of them.
        page = read_page(
            series,
            [rows[open_time] for open_time in sorted(rows)],
            first,
            last,
            min(moments),
            omitted_at=omitted_at,
            price_before=held[first - ms].close if first - ms in held else None,
            omits_empties=self._dialect.empties_omitted,
        )
        page = against(page, held, min(moments))
        if page.impossible:
            fields: dict[str, object] = {"series": str(series), "candles": page.impossible}
            self._say("REST sent impossible candles", fields)
        written = await self._writer.history(series, page.candles)
        if written is not None:
            self._tell_corrections(written, held)
        # What was read too early to be final is looked at again.
        self.suspects(
            Suspect(series, candle.open_time, "read before it settled")
            for candle in page.candles
            if candle.evidence is not Evidence.REST
        )
        given = zip(page.candles, written.codes, strict=True) if written else ()
        codes = {candle.open_time: code for candle, code in given}
        slots = range(first, min(last, series.timeframe.last_closed(min(moments))) + 1, ms)
        compared, undecided = judge(
            slots, held, page, codes, omits_empties=self._dialect.empties_omitted
        )
        self._look_behind(series, page, codes, min(moments))
        omitted = [slot for slot in page.kept if slot in page.omitted]
        return Asked(written, page.unproved, min(moments), problem, compared, undecided, omitted)

    def _look_behind(self, series: Series, page: Page, codes: Mapping[int, str], at: int) -> None:
        """The newest candle of a reply may be half of one, where it was news.

        One that was missing, while the reply is young. One that changed what was there, until a
        reply changes it no more: a cache is behind, or the exchange's clock is ahead.
        """
        end = page.newest + series.timeframe.ms
        code = codes.get(page.newest, "")
        if code in ("c", "v") or (code in ("a", "i") and at - end < SETTLED):
            due = max(at, end + SETTLED - SECOND_LOOK) + SECOND_LOOK
            self._looks.setdefault((series, page.newest), (due, "newest of its reply"))


def _pairs(reply: Any) -> Iterable[tuple[bytes, bytes]]:
    """Fields and values of a hash."""
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)


def recheck(gap: Gap) -> float:
    """Seconds until the store is looked at again for a gap whose request is not due."""
    return RECHECK * min(10, 1 + gap.attempts)


@attrs.frozen
class Asked:
    """What became of one question: what was stored, what stayed open, and why."""

    written: store.Written | None = None
    unproved: Sequence[int] = ()
    at: int = 0
    problem: str = ""
    compared: Compared = attrs.field(factory=Compared)
    undecided: Sequence[int] = ()
    """Slots of what was compared that another reply may decide."""
    omitted: Sequence[int] = ()
    """Those of them that traded, and that the reply lacks though it goes further."""
