"""One channel of an exchange: what waits for it, what is under way, what became of the rest.

An entry is marked ``sending``, sent, and marked ``sent``; who finds it ``sending`` says that it may
be a repetition. Messages go one after the other, so a channel that is dead keeps what waits, up to
a bound. While Redis is away nothing can be marked and nothing of the outbox is sent; what
:meth:`Sender.tell` is given goes all the same.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import trio

from livermore.adapters import outbox
from livermore.adapters.channel import Channel
from livermore.adapters.outbox import SENDING, WITHDRAWN, Posting, Progress, Row
from livermore.adapters.redis import Redis
from livermore.errors import (
    ChannelBusy,
    ChannelError,
    ChannelRefused,
    Fenced,
    StoreError,
    StoreUnusable,
)
from livermore.runtime.backoff import Backoff
from livermore.runtime.gathering import Gathering
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.signals.alert import Alert, Entry, Withdrawal
from livermore.signals.message import Message, When, message_of

LANE = "alerts"
MOST = 200
"""Messages that wait for a channel; the oldest go."""
REMEMBERED = 2000
"""Entries of which it is remembered what became of them: a store that was lost does not know."""
CHARTS = 20
"""Charts that wait to be drawn; the oldest go."""
CHART_TRIES = 3
"""How often a chart is offered to a channel that is busy."""
CRASHES = 3
"""How often a message may break the channel's own code before it is dropped."""
UNDATED = 60.0
"""Seconds for which alerts wait for the exchange's time, without which none can be called late."""
LOOK = 1.0
"""Seconds between two looks at whether Redis and the lease are there again."""

Draw = Callable[[Alert], Awaitable[bytes | None]]
"""The chart of an alert as PNG; None where there is none."""


@attrs.frozen
class Figures:
    """Of one channel. ``failed`` counts tries, the others entries of the outbox."""

    sent: int
    failed: int
    dropped: int
    """Ever."""
    pending: int
    why: str
    """Why it takes no messages at the moment; empty when it does."""


@attrs.define(eq=False)
class _Job:
    """One message. ``rows`` without an id are not of the outbox."""

    rows: list[Row]
    number: int
    """The later it came, the larger."""
    repeated: bool = False
    tried: bool = False
    flying: bool = False
    crashes: int = 0

    @property
    def entries(self) -> list[Entry]:
        return [row.entry for row in self.rows]

    @property
    def fresh(self) -> bool:
        """Whether nobody can have seen it, and it tells of alerts."""
        told = self.tried or self.repeated
        return not told and all(isinstance(entry, Alert) for entry in self.entries)

    @property
    def stored(self) -> list[str]:
        return [row.id for row in self.rows if row.id]


@attrs.define(eq=False)
class _Chart:
    claim: str
    alert: Alert
    message_id: str
    message: Message


class Sender:
    """Sends the entries of an exchange's outbox to one channel. :meth:`run` ends when cancelled."""

    def __init__(
        self,
        channel: Channel,
        redis: Redis,
        exchange: str,
        lease: Lease,
        *,
        clock: Callable[[], int | None],
        chance: Callable[[], float],
        journal: Journal,
        draw: Draw | None = None,
    ) -> None:
        self.name = channel.name
        self._channel = channel
        self._redis = redis
        self._exchange = exchange
        self._lease = lease
        self._clock = clock
        self._chance = chance
        self._journal = journal
        self._draw = draw if channel.edits else None
        self._gathering = Gathering()
        self._numbers = itertools.count()
        self._begun: float | None = None
        """Monotonic."""
        self._urgent: deque[_Job] = deque()
        """What tells that we are blind, and not any more: before all else."""
        self._ready: deque[_Job] = deque()
        self._order: deque[str] = deque()
        """Stream ids behind the cursor."""
        self._open: set[str] = set()
        """Those that are not final."""
        self._start = self._cursor = self._kept_cursor = outbox.BEGINNING
        self._before: Mapping[str, str] = {}
        """Marks that were there when we began."""
        self._unsaid: dict[str, str] = {}
        """Marks on their way to Redis."""
        self._done: dict[str, str] = {}
        """Claim -> mark of what is final."""
        self._dropped = self._told = self._kept_told = 0
        self._sent = self._failed = 0
        self._why = ""
        self._lost_at = 0.0
        self._backoff = Backoff()
        self._not_before = self._store_at = -math.inf
        """Monotonic: when the channel and Redis are tried again."""
        self._overflowing = False
        self._ending = False
        self.finished = trio.Event()
        """Nothing is left that can be done now, and nothing more will come."""
        self._woken = trio.Event()
        self._charts: deque[_Chart] = deque(maxlen=CHARTS)
        self._chart: _Chart | None = None
        self._charted = trio.Event()
        self._chart_failed = False
        self._editing = trio.Lock()

    # -- for the delivery -----------------------------------------------------------------

    @property
    def figures(self) -> Figures:
        """What it did."""
        return Figures(self._sent, self._failed, self._dropped, self._pending, self._why)

    @property
    def _pending(self) -> int:
        jobs = [*self._urgent, *self._ready]
        return len(self._gathering) + sum(len(job.rows) for job in jobs)

    def begin(self, progress: Progress) -> None:
        """Go on where ``progress`` says; what is read from there on is given to :meth:`take`."""
        self._start = self._cursor = self._kept_cursor = progress.cursor
        self._before = progress.marks
        self._dropped = progress.dropped
        self._told = self._kept_told = progress.told
        self._order.clear()

    def take(self, row: Row) -> None:
        """An entry of the outbox, in order."""
        if outbox.order(row.id) <= outbox.order(self._start):
            return
        self._order.append(row.id)
        if row.id in self._open:
            return  # it waits since before Redis was lost
        before = self._before.get(row.id, "")
        if before and outbox.read_mark(before).final:
            self._remember(row.claim, before)
        elif row.claim in self._done:
            self._finish([row], self._done[row.claim])
        elif row.goes_to(self.name):
            self._open.add(row.id)
            self._queue(row, repeated=before == SENDING)
        self._advance()
        self._woken.set()

    def skip(self, stream_id: str) -> None:
        """An entry that cannot be read."""
        if outbox.order(stream_id) > outbox.order(self._start):
            self._order.append(stream_id)
            self._advance()

    def tell(self, posting: Posting) -> None:
        """Send an entry that did not get into the outbox; if it does after all, once."""
        row = Row("", posting.claim, posting.entry, posting.channels)
        waits = any(row.claim == one.claim for job in self._urgent for one in job.rows)
        if row.goes_to(self.name) and row.claim not in self._done and not waits:
            self._urgent.append(self._job([row]))
            self._woken.set()

    def end(self) -> None:
        """Nothing more will come: what is being gathered is due."""
        self._ending = True
        self._woken.set()

    @property
    def _unkept(self) -> bool:
        moved = self._cursor != self._kept_cursor or self._told != self._kept_told
        return bool(self._unsaid) or moved

    # -- what waits -----------------------------------------------------------------------

    def _job(self, rows: Sequence[Row], *, repeated: bool = False) -> _Job:
        return _Job(list(rows), next(self._numbers), repeated)

    def _queue(self, row: Row, *, repeated: bool) -> None:
        entry = row.entry
        if isinstance(entry, Alert):
            moment, now = trio.current_time(), self._clock()
            self._gathering.add(row, entry, moment, now, repeated=repeated)
        elif isinstance(entry, Withdrawal):
            self._forget_chart(outbox.claim_of(entry.alert))
            if (unsent := self._unsent(entry.entry)) is not None:
                self._finish([unsent, row], WITHDRAWN)
            else:
                self._ready.append(self._job([row], repeated=repeated))
        else:
            for job in self._urgent:
                for number, one in enumerate(job.rows):
                    if one.claim == row.claim:
                        job.rows[number] = row  # it is told already, and gets its mark now
                        return
            self._urgent.append(self._job([row], repeated=repeated))

    def _unsent(self, stream_id: str) -> Row | None:
        """Take an alert out of what waits, unless it may have been sent: then it stays before."""
        if (group := self._gathering.take_out(stream_id)) is not None:
            [row] = group.rows
            if not group.repeated:
                return row
            self._ready.append(self._job([row], repeated=True))
        for job in [job for job in self._ready if not job.tried and not job.repeated]:
            for row in [row for row in job.rows if row.id == stream_id]:
                job.rows.remove(row)
                if not job.rows:
                    self._ready.remove(job)
                return row
        return None

    def _collect(self) -> None:
        """What was gathered for long enough becomes messages; the oldest of too many go."""
        moment = math.inf if self._ending else trio.current_time()
        for group in self._gathering.due(moment):
            self._ready.append(self._job(group.rows, repeated=group.repeated))
        gone = 0
        while len(self._ready) + len(self._urgent) > MOST:
            job = min((*self._ready, *self._urgent), key=lambda job: job.number)
            (self._ready if job in self._ready else self._urgent).remove(job)
            gone += len(job.rows)
            self._finish(job.rows, outbox.dropped(f"{MOST} newer messages waited"))
        if gone and not self._overflowing:
            self._overflowing = True
            self._journal.warning(
                "older messages are dropped", channel=self.name, waiting=MOST, why=self._why
            )

    def _next(self, *, store: bool) -> _Job | None:
        if trio.current_time() < self._not_before:
            return None
        ours = self._lease.valid()
        if store and ours and not self._urgent and self._dated:
            if not self._why:
                self._regroup()
            return next(iter(self._ready), None)
        # A blindness is told with or without Redis.
        return next((job for job in self._urgent if ours or not job.stored), None)

    @property
    def _dated(self) -> bool:
        """Whether it can be told what is late, or has been waited for that for long enough."""
        begun = trio.current_time() if self._begun is None else self._begun
        waited = trio.current_time() - begun >= UNDATED
        return self._clock() is not None or waited or self._ending

    @property
    def _when(self) -> When:
        now = self._clock()
        return When(now, unknown=now is None)

    def _regroup(self) -> None:
        """What waited and was not tried yet is told as one of late ones, or of a close.

        Not before the channel takes messages: until then they are counted, and the oldest go.
        """
        fresh = [job for job in self._ready if job.fresh]
        together: dict[int | None, list[_Job]] = {}
        for job in fresh:
            alerts = [entry for entry in job.entries if isinstance(entry, Alert)]
            late = all(map(self._when.late, alerts))
            together.setdefault(None if late else alerts[0].close_time, []).append(job)
        for close_time, jobs in together.items():
            [first, *others] = jobs
            if close_time is not None and not self._gathering.crowded(close_time):
                continue
            for job in others:
                first.rows += job.rows
                self._ready.remove(job)

    # -- what becomes of it ---------------------------------------------------------------

    def _finish(self, rows: Sequence[Row], mark: str) -> None:
        for row in rows:
            self._remember(row.claim, mark)
            if row.id:
                self._unsaid[row.id] = mark
                self._open.discard(row.id)
        self._advance()

    def _remember(self, claim: str, mark: str) -> None:
        self._done[claim] = mark
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]

    def _advance(self) -> None:
        while self._order and self._order[0] not in self._open:
            self._cursor = self._order.popleft()

    async def _keep(self) -> bool:
        """Write marks and cursor; whether Redis has them all.

        Raises :class:`Fenced` and :class:`StoreUnusable`.
        """
        if trio.current_time() < self._store_at:
            return False
        if not self._unkept:
            return True
        marks, cursor, told = dict(self._unsaid), self._cursor, self._told
        call = outbox.mark(self._exchange, self._lease.epoch, self.name, cursor, marks, told=told)
        try:
            [dropped] = await self._redis.run([call], LANE)
        except (Fenced, StoreUnusable):
            raise
        except StoreError:
            self._store_at = trio.current_time() + LOOK
            return False
        self._dropped = int(dropped)
        self._kept_cursor, self._kept_told = cursor, told
        self._unsaid = {i: m for i, m in self._unsaid.items() if marks.get(i) != m}
        return True

    # -- sending --------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what comes, until cancelled. Raises :class:`Fenced` and :class:`StoreUnusable`."""
        if self._begun is None:
            self._begun = trio.current_time()
        while True:
            self._collect()
            job = self._next(store=await self._keep())
            if job is not None:
                await self._do(job)
                continue
            if self._ending and (self._why or not (self._pending or self._unkept)):
                self.finished.set()
            times = (self._gathering.next_due, self._not_before, self._store_at)
            now = trio.current_time()
            wait = min((time - now for time in times if time > now), default=LOOK)
            with trio.move_on_after(min(wait, LOOK)):
                await self._woken.wait()
            self._woken = trio.Event()

    async def _do(self, job: _Job) -> None:
        if job.flying:  # it broke off where nobody expected it
            job.crashes += 1
            job.repeated = True
        if job.crashes >= CRASHES:
            self._over(job, outbox.dropped("it made the channel fail"))
            return
        if job.stored:
            self._unsaid.update(dict.fromkeys(job.stored, SENDING))
            if not await self._keep() and job not in self._urgent:
                return
            if not job.rows:
                return  # withdrawn meanwhile
        job.tried = job.flying = True
        try:
            mark = await self._send(job)
        except ChannelRefused as error:
            self._failed += 1
            self._journal.warning(
                "a message was refused", channel=self.name, why=str(error), entries=len(job.rows)
            )
            self._over(job, outbox.dropped(str(error)))
        except ChannelError as error:
            job.repeated |= error.uncertain
            self._lost(error)
        except (Fenced, StoreUnusable):
            raise
        except StoreError:
            self._store_at = trio.current_time() + LOOK
        else:
            self._sent += len(job.rows)
            self._over(job, mark)
            self._well()
        job.flying = False

    def _over(self, job: _Job, mark: str) -> None:
        for jobs in (self._urgent, self._ready):
            if job in jobs:
                jobs.remove(job)
        self._finish(job.rows, mark)

    def _lost(self, error: ChannelError) -> None:
        self._failed += 1
        moment = trio.current_time()
        wait = self._backoff.next(self._chance())
        if isinstance(error, ChannelBusy):
            self._backoff.reset()
            wait = max(error.retry_after, 0.0)
        self._not_before = moment + wait
        if not self._why:
            self._lost_at = moment
            event = "a channel is busy" if isinstance(error, ChannelBusy) else "a channel is lost"
            tell = self._journal.info if isinstance(error, ChannelBusy) else self._journal.warning
            tell(event, channel=self.name, why=str(error), retry_in=round(wait, 1))
        self._why = str(error)

    def _well(self) -> None:
        self._backoff.reset()
        self._overflowing = False
        if self._why:
            after = round(trio.current_time() - self._lost_at, 1)
            self._journal.info("a channel is back", channel=self.name, after_seconds=after)
        self._why = ""

    async def _send(self, job: _Job) -> str:
        """Send one message; the mark of what it tells of."""
        [first, *more] = job.entries
        if isinstance(first, Withdrawal):
            return await self._withdraw(first, repeated=job.repeated)
        when = self._when
        message, message_id = await self._say(job.entries, when, repeated=job.repeated)
        if isinstance(first, Alert) and not more and message_id and self._draw is not None:
            chart = _Chart(job.rows[0].claim, first, message_id, message)
            self._charts.append(chart)
            self._charted.set()
        return outbox.sent(message_id, combined=bool(more), at=when.at)

    async def _say(
        self, entries: Sequence[Entry], when: When, *, repeated: bool
    ) -> tuple[Message, str]:
        gone = max(0, self._dropped - self._told)
        message = message_of(entries, possibly_repeated=repeated, dropped_before=gone, when=when)
        message_id = await self._channel.send(message)
        self._told += gone
        return message, message_id

    async def _withdraw(self, entry: Withdrawal, *, repeated: bool) -> str:
        """The message that told of the alert is edited; where that cannot be, another is sent."""
        mark = self._done.get(outbox.claim_of(entry.alert))
        if mark is None:
            field = outbox.mark_field(self.name, entry.entry)
            call = ("HGET", outbox.marks_key(self._exchange), field)
            [found] = await self._redis.run([call], LANE)
            mark = found.decode() if found else SENDING
        told = outbox.read_mark(mark)
        if told.state in ("dropped", "withdrawn"):
            return WITHDRAWN
        if self._channel.edits and told.message_id:
            message = message_of([entry])
            if told.combined:
                message = await self._amended(mark, entry)
            try:
                async with self._editing:
                    await self._channel.edit(told.message_id, message)
            except ChannelRefused as error:
                why = str(error)
                self._journal.debug("a message was not edited", channel=self.name, why=why)
            else:
                return mark
        _, message_id = await self._say([entry], self._when, repeated=repeated)
        return outbox.sent(message_id)

    async def _amended(self, mark: str, withdrawal: Withdrawal) -> Message:
        """The message of all whose mark is ``mark``, without what was withdrawn of it."""
        [reply] = await self._redis.run([outbox.all_marks(self._exchange)], LANE)
        ids = outbox.read_marks(reply).having(self.name, mark)
        calls = [outbox.only(self._exchange, one) for one in ids]
        replies = await self._redis.run(calls, LANE)
        entries = [
            row.entry for found in replies for row in outbox.rows(found) if isinstance(row, Row)
        ]
        told: dict[str, Entry] = {
            outbox.claim_of(one): one for one in entries if isinstance(one, Alert)
        }
        for one in (*entries, withdrawal):
            if isinstance(one, Withdrawal):
                told[outbox.claim_of(one.alert)] = one
        when = When(outbox.read_mark(mark).at)
        return message_of(list(told.values()), when=when)

    # -- charts ---------------------------------------------------------------------------

    async def run_charts(self) -> None:
        """Add charts to what was sent, until cancelled. The alert never waits for them."""
        while True:
            if not self._charts:
                await self._charted.wait()
                self._charted = trio.Event()
                continue
            self._chart = chart = self._charts.popleft()
            assert self._draw is not None
            png = await self._draw(chart.alert)
            if png is None:
                continue
            try:
                await self._attach(chart, png)
            except (ChannelError, ChannelRefused) as error:
                tell = self._journal.debug if self._chart_failed else self._journal.warning
                self._chart_failed = True
                tell("a chart was not added", channel=self.name, why=str(error))

    async def _attach(self, chart: _Chart, png: bytes) -> None:
        """Add a chart, after as long as a busy channel says; those behind it would fare no better.

        Raises :class:`ChannelError` and :class:`ChannelRefused`.
        """
        for left in reversed(range(CHART_TRIES)):
            try:
                async with self._editing:
                    if self._chart is chart:  # not withdrawn meanwhile
                        await self._channel.attach(chart.message_id, chart.message, png)
                return
            except ChannelBusy as error:
                if not left:
                    raise
                await trio.sleep(max(error.retry_after, 0.0))

    def _forget_chart(self, claim: str) -> None:
        if self._chart is not None and self._chart.claim == claim:
            self._chart = None
        for chart in [chart for chart in self._charts if chart.claim == claim]:
            self._charts.remove(chart)
