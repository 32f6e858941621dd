"""Gaps become REST requests, replies become history, one page at a time.

All causes are one thing: a start, a reconnect, lost frames, a mute symbol, a person asking. The
queue is in memory and in the ledger ``gaps:{exchange}``, so that other processes can follow it and
append to it. Newest and shortest timeframe first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis, script
from livermore.dialect import Dialect
from livermore.errors import LivermoreError, MalformedMessage, RestError, StoreError
from livermore.market.candle import Evidence, Series
from livermore.market.gap import (
    SECOND_LOOK,
    SETTLED,
    Gap,
    Lane,
    Outcome,
    decode_gap,
    encode_gap,
    merge,
    pages,
)
from livermore.market.history import deeper, read_page, wanted, window
from livermore.market.timeframe import TIMEFRAMES
from livermore.market.tracker import Missing, Suspect
from livermore.runtime.backoff import Backoff
from livermore.runtime.lease import Lease
from livermore.runtime.rest import Rest
from livermore.runtime.writer import Writer

WORKERS = 6
"""Requests under way at once: the budget is spent even when replies are slow."""
ALLOWANCE = 15_000
"""After a slot's end (ms), when the stream has had its chance and its absence is a gap."""
LOOK_AFTER = 31_000
"""After a slot's end (ms), when a REST reply is no longer a guess of a cache."""
ATTEMPTS = 12
"""Tries after which a gap that REST never fills ends as unfillable."""
REMEMBERED = 24 * 3600 * 1000
"""How long (ms) an ended gap stays in the ledger."""
RECHECK = 1.5
"""Seconds between two looks at the store for a gap whose next request is not due."""
POLL = 2.0
"""Seconds between two looks at the ledger for what others appended."""

_RANK = {timeframe: rank for rank, timeframe in enumerate(TIMEFRAMES)}


@attrs.define
class Progress:
    """How far the history is."""

    done: int = 0
    total: int = 0
    requests: int = 0
    looks: int = 0
    differed: int = 0


class Repairs:
    """The repair queue of one exchange. :meth:`run` ends when cancelled."""

    def __init__(  # noqa: PLR0913 - what it connects
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
    ) -> None:
        self._dialect = dialect
        self._redis = redis
        self._lease = lease
        self._rest = rest
        self._writer = writer
        self._natives = natives
        self._clock = clock
        self._say = say
        self._progressed = progressed
        self._chance = chance
        self._open: dict[str, Gap] = {}
        self._busy: set[str] = set()
        self._recheck: dict[str, float] = {}
        """Monotonic time at which an open gap is surveyed again: the stream may have filled it."""
        self._looks: dict[tuple[Series, int], tuple[int, str]] = {}
        self._changed = trio.Event()
        self._wanting: set[Series] = set()
        self.progress = Progress()

    @property
    def open_gaps(self) -> Sequence[Gap]:
        """What is not repaired yet."""
        return tuple(self._open.values())

    @property
    def wanting(self) -> int:
        """Series that lack something."""
        return len(self._wanting)

    # -- for others -----------------------------------------------------------------------

    def missing(self, slots: Iterable[Missing]) -> None:
        """The tracker gave slots up."""
        ranges: dict[tuple[Series, str], list[tuple[int, int]]] = {}
        for slot in slots:
            ranges.setdefault((slot.series, slot.cause), []).append((slot.open_time, slot.open_time))
        for (series, cause), listed in ranges.items():
            for first, last in merge(listed, series.timeframe):
                self.add(series, first, last, cause, Lane.LIVE)

    def suspects(self, slots: Iterable[Suspect]) -> None:
        """Stored slots to compare with REST once it can be trusted."""
        for slot in slots:
            due = slot.open_time + slot.series.timeframe.ms + LOOK_AFTER
            self._looks.setdefault((slot.series, slot.open_time), (due, slot.cause))
        self._changed.set()

    def add(self, series: Series, first: int, last: int, cause: str, lane: Lane) -> None:
        """A gap; a range that is known already is not added twice."""
        now = self._clock()
        if now is None or series.symbol not in self._natives:
            return
        for known in self._open.values():
            if known.series == series and known.first <= first and last <= known.last:
                return
        gap = Gap(series, first, last, cause, now, lane, next_try=now)
        same = self._open.get(gap.name)
        if same is not None:
            gap = attrs.evolve(same, last=max(last, same.last))
        self._open[gap.name] = gap
        self._wanting.add(series)
        self._changed.set()

    async def scan(self, series: Sequence[Series], cause: str, lane: Lane = Lane.REPAIR) -> int:
        """Add what the store lacks of the newest slots; returns how many series lack something."""
        now = self._clock()
        if now is None:
            return 0
        settled = now - ALLOWANCE
        calls = [store.survey(one, *window(one.timeframe, settled)) for one in series]
        replies = await self._redis.run(calls, "read")
        lacking = 0
        for one, reply in zip(series, replies, strict=True):
            found = store.surveyed(one, reply)
            ranges = wanted(
                one.timeframe, settled, missing=found.missing, oldest=found.oldest, asked_from=found.asked_from
            )
            first_fetch = found.asked_from is None
            for first, last in ranges:
                self.add(one, first, last, "history" if first_fetch or last < (found.oldest or 0) else cause, lane)
            if not ranges and not first_fetch:
                ranges = self._deepen(found, settled)
            lacking += bool(ranges)
        return lacking

    def _deepen(self, found: store.Survey, now: int) -> list[tuple[int, int]]:
        further = deeper(
            found.series.timeframe, now, traded=found.traded, oldest=found.oldest, asked_from=found.asked_from
        )
        if further is None:
            return []
        self.add(found.series, *further, "history", Lane.REPAIR)
        return [further]

    async def read_ledger(self) -> None:
        """Take up what the ledger holds: what a predecessor left and what other processes ask for."""
        exchange = self._lease.exchange
        reply = await self._redis.one("HGETALL", store.gaps_key(exchange))
        entries = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        now = self._clock() or 0
        stale: list[bytes] = []
        for name, text in entries:
            try:
                gap = decode_gap(exchange, text)
            except MalformedMessage:
                stale.append(name)
                continue
            if gap.outcome is Outcome.OPEN:
                if gap.name not in self._open and gap.series.symbol in self._natives:
                    self._open[gap.name] = gap
                    self._changed.set()
            elif now - (gap.ended or 0) > REMEMBERED:
                stale.append(name)
        if stale:
            await self._redis.one("HDEL", store.gaps_key(exchange), *stale)

    # -- the task -------------------------------------------------------------------------

    async def run(self) -> None:
        """Repair until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_ledger)
            for _ in range(WORKERS):
                nursery.start_soon(self._work)

    async def _follow_ledger(self) -> None:
        while True:
            try:
                await self.read_ledger()
            except StoreError:
                pass  # the writer tells that Redis is away
            await trio.sleep(POLL)

    async def _work(self) -> None:
        backoff = Backoff(first=0.5, most=10.0)
        while True:
            gap = self._take()
            if gap is None:
                look = self._take_look()
                if look is None:
                    self._changed = trio.Event()
                    with trio.move_on_after(0.25):
                        await self._changed.wait()
                    continue
                job: Callable[[], object] = lambda look=look: self._look(look)  # type: ignore[misc]
                name = ""
            else:
                name = gap.name
                job = lambda gap=gap: self._repair(gap)  # type: ignore[misc] # noqa: E731
            try:
                await job()  # type: ignore[misc]
            except StoreError:
                await trio.sleep(backoff.next(self._chance()))
            else:
                backoff.reset()
            finally:
                self._busy.discard(name)

    def _take(self) -> Gap | None:
        """The most urgent gap that is due and nobody works on."""
        now = self._clock()
        if now is None:
            return None
        moment = trio.current_time()
        due = [
            gap
            for name, gap in self._open.items()
            if name not in self._busy and (gap.next_try <= now or self._recheck.get(name, moment) < moment)
        ]
        if not due:
            return None
        gap = min(due, key=lambda g: (g.lane, _RANK[g.series.timeframe], -g.last))
        self._busy.add(gap.name)
        return gap

    def _take_look(self) -> tuple[Series, int, int, int, str] | None:
        """A run of suspect slots of one series that are due: series, first, last, count, cause."""
        now = self._clock()
        if now is None or not self._looks:
            return None
        due = [key for key, (at, _) in self._looks.items() if at <= now]
        if not due:
            return None
        series, newest = max(due, key=lambda key: key[1])
        slots = heapq.nlargest(self._dialect.rest_rows, (t for one, t in due if one == series))
        first = newest
        span = (self._dialect.rest_rows - 1) * series.timeframe.ms
        cause = self._looks[series, newest][1]
        count = 0
        for open_time in slots:
            if newest - open_time <= span:
                first = min(first, open_time)
                count += 1
                del self._looks[series, open_time]
        return series, first, newest, count, cause

    async def _look(self, look: tuple[Series, int, int, int, str]) -> None:
        """Compare stored slots with REST; its word replaces ours."""
        series, first, last, _, cause = look
        try:
            result = await self._fetch(series, first, last, Lane.VERIFICATION, None)
        except (RestError, StoreError):
            # Not answered is not agreed: look again.
            self.suspects([Suspect(series, t, cause) for t in range(first, last + 1, series.timeframe.ms)])
            await trio.sleep(1.0)
            return
        self.progress.looks += 1
        changed = result.written.having("cv") if result.written else []
        if changed:
            self.progress.differed += len(changed)
            self._say("REST corrected what was stored", {"series": str(series), "slots": len(changed), "cause": cause})

    async def _repair(self, gap: Gap) -> None:
        """One try: ask REST for what is still missing, unless it is too early for another answer."""
        survey = await self._survey(gap)
        problem = ""
        omitted = False
        asked = False
        if survey.missing and gap.next_try <= (self._clock() or 0):
            asked = True
            gap = attrs.evolve(gap, attempts=gap.attempts + 1)
            first, last = survey.missing[0][0], survey.missing[-1][1]
            try:
                for page_first, page_last in self._pages(gap, first, last, survey):
                    fetched = await self._fetch(gap.series, page_first, page_last, gap.lane, gap.omitted_at)
                    omitted = omitted or bool(fetched.unproved)
            except RestError as error:
                problem = str(error)
            if not problem:
                # Remembered for good: nobody asks again for what the exchange does not have.
                asked_from = script("asked", (store.keys(gap.series).companion,), self._lease.epoch, gap.first)
                await self._redis.run([asked_from])
            survey = await self._survey(gap)
        left = self._left(gap, survey)
        now = self._clock() or gap.found
        if left and not asked:
            self._recheck[gap.name] = trio.current_time() + RECHECK
            return
        await self._settle(gap, left, now, problem, omitted=omitted, survey=survey)

    @staticmethod
    def _left(gap: Gap, survey: store.Survey) -> int:
        """Slots of the gap that are still missing. What lies before the oldest candle never was there."""
        if survey.oldest is None:
            return 0 if gap.cause == "history" and gap.attempts and survey.asked_from is not None else gap.slots
        ms = gap.series.timeframe.ms
        return sum((last - max(first, survey.oldest)) // ms + 1 for first, last in survey.missing if last > survey.oldest)

    def _pages(
        self, gap: Gap, first: int, last: int, survey: store.Survey
    ) -> Iterable[tuple[int, int]]:
        """What to ask for, newest first; small ranges take the seam candles on both sides along."""
        ms, rows = gap.series.timeframe.ms, self._dialect.rest_rows
        slots = (last - first) // ms + 1
        if survey.oldest is not None and slots + 2 <= rows:
            first, last = first - ms, last + ms
        elif survey.oldest is not None and survey.oldest > last:
            last = min(survey.oldest, last + ms * rows)  # deeper: the oldest stored candle is the seam
        return pages(max(0, first), last, gap.series.timeframe, rows)

    async def _settle(
        self, gap: Gap, left: int, now: int, problem: str, *, omitted: bool, survey: store.Survey
    ) -> None:
        """Write the ledger: filled, another try, or unfillable."""
        series = gap.series
        if left == 0:
            self._open.pop(gap.name, None)
            gap = attrs.evolve(gap, outcome=Outcome.FILLED, ended=now, note="")
            self._finished(gap, survey, now)
        elif gap.attempts >= ATTEMPTS and not problem:
            self._open.pop(gap.name, None)
            note = f"REST did not give {left} of {gap.slots} candles in {gap.attempts} tries"
            gap = attrs.evolve(gap, outcome=Outcome.UNFILLABLE, ended=now, note=note)
            self._say("gap is unfillable", {"series": str(series), "first": gap.first, "note": note})
            self._finished(gap, survey, now)
        else:
            wait = min(60_000, 2_000 * 2 ** min(gap.attempts, 5))
            omitted_at = gap.omitted_at
            if omitted and omitted_at is None:
                omitted_at = now
            next_try = now + wait
            if omitted and omitted_at is not None:
                # Another look makes sense once it can prove something.
                next_try = min(
                    max(now + 2_000, omitted_at + SECOND_LOOK + 1_000),
                    max(now + 2_000, gap.last + series.timeframe.ms + SETTLED + 1_000),
                )
            self._recheck[gap.name] = trio.current_time() + RECHECK
            gap = attrs.evolve(
                gap, next_try=next_try, omitted_at=omitted_at, note=problem or f"{left} candles still missing"
            )
            self._open[gap.name] = gap
        await self._redis.run([self._entry(gap)], "publish")

    def _entry(self, gap: Gap) -> Call:
        return ("HSET", store.gaps_key(self._lease.exchange), gap.name, encode_gap(gap))

    def _finished(self, gap: Gap, survey: store.Survey, now: int) -> None:
        self._recheck.pop(gap.name, None)
        if gap.cause == "history" and self._deepen(survey, now - ALLOWANCE):
            return
        if gap.series in self._wanting and not any(g.series == gap.series for g in self._open.values()):
            self._wanting.discard(gap.series)
            self._progressed()
        if gap.cause != "history":
            self._say(
                f"gap {gap.outcome.value}",
                {"series": str(gap.series), "candles": gap.slots, "cause": gap.cause,
                 "seconds": max(0, now - gap.found) // 1000},
            )  # fmt: skip

    async def _survey(self, gap: Gap) -> store.Survey:
        reply = (await self._redis.run([store.survey(gap.series, gap.first, gap.last)], "read"))[0]
        return store.surveyed(gap.series, reply)

    async def _fetch(
        self, series: Series, first: int, last: int, lane: Lane, omitted_at: int | None
    ) -> Fetched:
        """Ask for one page and store what it proves."""
        price: float | None = None
        ms = series.timeframe.ms
        members = await self._redis.one(*store.range_call(series, first - ms, first - ms))
        if members:
            before, _ = store.decode_candles(series, members)
            price = before[0].close if before else None
        native = self._natives[series.symbol]
        try:
            rows, asked_at = await self._rest.candles(native, series.timeframe, first, last, lane)
        except (StoreError, RestError):
            raise
        except LivermoreError as error:
            raise RestError(str(error)) from error
        self.progress.requests += 1
        page = read_page(
            series, rows, first, last, asked_at,
            omitted_at=omitted_at, price_before=price, omits_empties=self._dialect.empties_omitted,
        )  # fmt: skip
        if page.impossible:
            self._say("REST sent impossible candles", {"series": str(series), "count": page.impossible})
        written = await self._writer.history(series, page.candles)
        # What was read too early to be final is looked at again.
        self.suspects(
            Suspect(series, c.open_time, "read before it settled")
            for c in page.candles
            if c.evidence is not Evidence.REST
        )
        return Fetched(written, page.unproved)


@attrs.frozen
class Fetched:
    """What became of one page."""

    written: store.Written | None
    unproved: Sequence[int]
