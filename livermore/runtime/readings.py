"""The only writer of an exchange's readings: follows what was stored, in order per series.

The common case, one new newest candle per series, is one vectorised step over all of them. Whatever
else happened to a series (a correction, a repair, a start) is replayed exactly from the oldest
state the store keeps. No windows of candles are held in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import attrs
import msgspec
import numpy as np
import trio

from livermore.adapters import store
from livermore.adapters.redis import Redis, answered
from livermore.errors import Fenced, MalformedMessage, StoreError
from livermore.market.candle import Candle, Kind, Series
from livermore.runtime.backoff import Backoff
from livermore.runtime.lease import Lease
from livermore.signals.macdv import advance, replay
from livermore.signals.reading import build_readings, decode_reading
from livermore.signals.state import State, States, decode_state

MOST_STEPS = 20
"""Candles appended to one series at once that are stepped; more are replayed with other series."""
REPLAYED_AT_ONCE = 100
"""Series per replay: bounds the memory of a restart."""

RETRY = 2.0
"""Seconds between two tries at a reading whose key is somebody else's."""


class _Version(msgspec.Struct):
    version: int = 0


_version = msgspec.json.Decoder(_Version)
_BEGINNING = re.compile(rb'{"open_time":(\d+),')


def _time_of(reading: bytes) -> int:
    """Of what candle a stored reading is; 0 when it is none of ours."""
    found = _BEGINNING.match(reading)
    return int(found[1]) if found else 0


@attrs.define
class Work:
    """What was done, for status and benchmarks."""

    published: int = 0
    replayed: int = 0
    behind: int = 0
    away_why: str = ""
    """Why readings wait, while Redis does not take or give what they need."""


@attrs.define
class _Head:
    """Where one series stands; ``row`` is its place in the arrays."""

    row: int
    version: int = -1
    """Of the store's series, as far as the state has followed it."""
    told: int = -1
    """The newest version the writer told of."""
    edge_time: int = 0


class Readings:
    """Owns the indicator state of one exchange's series. :meth:`run` ends when cancelled."""

    def __init__(self, redis: Redis, lease: Lease, chance: Callable[[], float]) -> None:
        self._redis = redis
        self._lease = lease
        self._chance = chance
        self._heads: dict[Series, _Head] = {}
        self._states = States.fresh(0)
        self._before = States.fresh(0)
        self._after = States.fresh(0)
        self._edges: dict[Series, store.Edge] = {}
        self._sent: dict[Series, store.Edge] = {}
        self._queue: list[store.Written] = []
        self._stale: set[Series] = set()
        self._unpublished: dict[Series, list[bytes]] = {}
        self._foreign: set[Series] = set()
        """Series whose newest reading waits: its key is somebody else's."""
        self._wake = trio.Event()
        self._halted = False
        self.work = Work()

    # -- for others -----------------------------------------------------------------------

    def halt(self, halted: bool) -> None:
        """Whether the exchange is halted: the readings from now on say so."""
        self._halted = halted

    def submit(self, written: store.Written) -> None:
        """The writer stored something."""
        series, news = written.series, bool(written.codes.strip("stwo"))
        sent = self._sent.pop(series, None)
        if sent is not None and self._edges.get(series) is sent:
            del self._edges[series]
        head = self._heads.get(series)
        if head is not None:
            if written.version < head.told or (news and written.version == head.told):
                self._stale.add(series)  # not the store it was: somebody emptied it
            head.told = written.version
        # A version we did not follow: the reply that told of it was lost.
        if news or head is None or written.version != head.version or self._stale:
            self._queue.append(written)
            self._wake.set()

    def edge(self, series: Series) -> store.Edge | None:
        """What the next write of ``series`` should save as its replay edge, until a write has."""
        edge = self._edges.get(series)
        if edge is not None:
            self._sent[series] = edge
        return edge

    @property
    def foreign(self) -> Iterable[Series]:
        """Series whose reading is not stored because its key is somebody else's."""
        return tuple(self._foreign)

    def distrust(self, series: Iterable[Series]) -> None:
        """Compute these anew from the store."""
        self._stale.update(series)
        self._wake.set()

    async def look(self) -> None:
        """Compute anew what Redis lost: evicted, or older than what it had acknowledged."""
        times = self._states.column("open_time")
        known = [
            (one, int(times[head.row]))
            for one, head in self._heads.items()
            if times[head.row] and one not in self._unpublished
        ]
        calls = [("GETRANGE", store.keys(one).indicator, 0, 40) for one, _ in known]
        replies = await self._redis.run_each(calls, "read")
        store.raise_unless_foreign(replies)
        lost = [
            one
            for (one, time), reply in zip(known, replies, strict=True)
            if not isinstance(reply, StoreError) and _time_of(reply) < time
        ]
        if lost:
            self.distrust(lost)

    # -- the task -------------------------------------------------------------------------

    async def start(self, series: Sequence[Series]) -> None:
        """Resume every series from its stored reading, or replay it. Before the writer runs."""
        fresh = [one for one in series if one not in self._heads]
        self._place(fresh)
        for at in range(0, len(fresh), 500):
            await self._resume(fresh[at : at + 500])

    async def run(self) -> None:
        """Follow the writer; raises :class:`~livermore.errors.Fenced` under a newer holder."""
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            if not (self._queue or self._stale or self._unpublished.keys() - self._foreign):
                self._wake = trio.Event()
                with trio.move_on_after(RETRY if self._foreign else math.inf):
                    await self._wake.wait()
            try:
                await self.turn()
            except Fenced:
                raise
            except StoreError as error:
                self.work.away_why = str(error)
                await trio.sleep(backoff.next(self._chance()))
            else:
                self.work.away_why = ""
                backoff.reset()

    async def turn(self) -> None:
        """Bring every reading up to what was stored."""
        queue, self._queue = self._queue, []
        self.work.behind = len(queue)
        steps: list[tuple[_Head, store.Written, list[Candle]]] = []
        for written in queue:
            fresh = self._new_candles(written)
            if fresh is None:
                self._stale.add(written.series)
            elif fresh and written.series not in self._stale:
                steps.append((self._heads[written.series], written, fresh))
        self._step(steps)
        await self._publish()
        while self._stale:
            some = list(self._stale)[:REPLAYED_AT_ONCE]
            await self._replay(some)
            self._stale.difference_update(some)
            await self._publish()

    def _new_candles(self, written: store.Written) -> list[Candle] | None:
        """The candles to step over, or None when only a replay is exact."""
        head = self._heads.get(written.series)
        if head is None:
            self._place([written.series])
            return None
        appended = written.having("a")
        newest = int(self._states.column("open_time")[head.row])
        fresh = [c for c in appended if c.open_time > newest]
        if written.version <= head.version:
            return None if fresh else []  # a replay has seen it already
        if (
            not written.appended_only
            or written.version > head.version + 1
            or len(fresh) > MOST_STEPS
        ):
            return None
        if len(fresh) < len(appended) or not (appended or "v" in written.codes):
            return None  # what made this version was not told, or not stored where we look
        head.version = written.version  # a changed volume moves the version alone
        return fresh

    def _place(self, series: Sequence[Series]) -> None:
        for one, row in zip(series, self._states.extend(len(series)).tolist(), strict=True):
            self._heads[one] = _Head(row)
        self._before.extend(len(series))
        self._after.extend(len(series))

    # -- one step -------------------------------------------------------------------------

    def _step(self, work: list[tuple[_Head, store.Written, list[Candle]]]) -> None:
        depth = 0
        while True:
            lists = [fresh for _, _, fresh in work if len(fresh) > depth]
            layer = [
                (head, written, fresh[depth]) for head, written, fresh in work if len(fresh) > depth
            ]
            if not layer:
                break
            # A series may have been written twice since the last turn: one candle per step and row.
            rows = [head.row for head, _, _ in layer]
            if len(set(rows)) < len(rows):
                self._step_one_by_one(work, depth)
                break
            self._advance(self._states, rows, [candle for _, _, candle in layer])
            last = [
                (written.series, candle)
                for (_, written, candle), fresh in zip(layer, lists, strict=True)
                if not written.history or candle is fresh[-1]
            ]
            self._build(last)
            depth += 1
        self._move_edges([(head, written) for head, written, _ in work])

    def _step_one_by_one(
        self, work: list[tuple[_Head, store.Written, list[Candle]]], depth: int
    ) -> None:
        for head, written, fresh in work:
            for candle in fresh[depth:]:
                if candle.open_time > int(self._states.column("open_time")[head.row]):
                    self._advance(self._states, [head.row], [candle])
                    self._build([(written.series, candle)])

    @staticmethod
    def _advance(states: States, rows: Sequence[int], candles: Sequence[Candle]) -> None:
        at = np.array(rows)
        times = np.array([c.open_time for c in candles])
        lengths = np.array([c.series.timeframe.ms for c in candles])
        high = np.array([c.high for c in candles])
        low = np.array([c.low for c in candles])
        close = np.array([c.close for c in candles])
        empty = np.array([c.kind is Kind.EMPTY for c in candles])
        if empty.any():
            # Stored flat at the close stored before it, which need not be the one its sender knew.
            resting = empty & (states.column("open_time")[at] + lengths == times)
            price = states.column("close")[at]
            high, low, close = (np.where(resting, price, x) for x in (high, low, close))
        advance(states, at, times, high, low, close, empty, lengths)

    def _build(self, newest: Sequence[tuple[Series, Candle]]) -> None:
        """Encode the readings of series that stand at the given candles, for publishing."""
        if not newest:
            return
        heads = [self._heads[series] for series, _ in newest]
        built = build_readings(
            self._states,
            np.array([head.row for head in heads]),
            exchange=self._lease.exchange,
            epoch=self._lease.epoch,
            symbols=[series.symbol for series, _ in newest],
            timeframes=[series.timeframe for series, _ in newest],
            revisions=[candle.revision for _, candle in newest],
            halted=self._halted,
        )
        for (series, _), head, (_, text) in zip(newest, heads, built, strict=True):
            # Where it stood: a restart trusts the state unless something changed behind it since.
            self._unpublished.setdefault(series, []).append(
                b'%b,"version":%d}' % (text[:-1], head.version)
            )

    def _move_edges(self, work: Sequence[tuple[_Head, store.Written]]) -> None:
        """Full series lose their oldest candle at the next write: the edge takes it first."""
        moving: dict[int, tuple[_Head, Candle]] = {}
        for head, written in work:
            if not written.oldest:
                continue
            try:
                oldest = store.decode_candle(written.series, written.oldest)
            except MalformedMessage:
                continue
            if oldest.open_time <= head.edge_time:
                continue
            counted = int(self._states.column("count")[head.row])
            follows = head.edge_time in (0, oldest.open_time - written.series.timeframe.ms)
            if (
                written.stored != store.KEEP
                or not follows
                or (head.edge_time == 0 and counted != store.KEEP)
            ):
                self._stale.add(written.series)  # its edge is found by a replay
            else:
                moving[head.row] = (head, oldest)
        if not moving:
            return
        rows = np.array(list(moving))
        first = np.array(
            [row for row, (head, _) in moving.items() if head.edge_time == 0], np.int64
        )
        self._after.put(first, States.fresh(len(first)))
        self._before.put(rows, self._after.take(rows))
        self._advance(self._after, rows.tolist(), [candle for _, candle in moving.values()])
        for head, candle in moving.values():
            self._save_edge(head, candle.series, candle.open_time)

    def _save_edge(self, head: _Head, series: Series, time: int) -> None:
        head.edge_time = time
        self._edges[series] = store.Edge(
            time, self._after.to_json(head.row), self._before.to_json(head.row)
        )

    # -- from the store -------------------------------------------------------------------

    async def _resume(self, series: Sequence[Series]) -> None:
        calls: list[tuple[object, ...]] = []
        for one in series:
            named = store.keys(one)
            calls += [
                store.companion(one),
                ("GET", named.indicator),
                store.newest_call(one, 1),
                ("ZRANGE", named.candles, 0, 0),
                ("ZCARD", named.candles),
            ]
        replies = await self._redis.run_each(calls, "read")
        for reply in replies:
            if isinstance(reply, StoreError) and (
                type(reply) is not StoreError or not answered(reply)
            ):
                raise reply
        behind: list[Series] = []
        full: list[tuple[_Head, store.Written]] = []
        for i, one in enumerate(series):
            head = self._heads[one]
            answers = replies[5 * i : 5 * i + 5]
            if any(isinstance(answer, StoreError) for answer in answers):
                behind.append(one)
                continue
            fields, text, members, first, card = answers
            if not members:
                head.version = 0
                continue
            try:
                known = store.read_companion(fields)
                newest = store.decode_candle(one, members[0])
                if text is None:
                    raise MalformedMessage("no reading")
                _, state = decode_reading(text)
                version = _version.decode(text).version
                if known.edge_time is not None:
                    edges = (known.edge_time, *edge_states(known))
            except (MalformedMessage, msgspec.MsgspecError):
                behind.append(one)
                continue
            if (
                version < known.corrected
                or version > known.version
                or state.open_time != newest.open_time
            ):
                behind.append(one)
                continue
            row = np.array([head.row])
            self._states.put(row, States.of([state]))
            head.version = head.told = known.version
            if known.edge_time is not None:
                head.edge_time = edges[0]
                self._after.put(row, States.of([edges[1]]))
                self._before.put(row, States.of([edges[2]]))
            if card >= store.KEEP:
                full.append(
                    (
                        head,
                        store.Written(one, (), card, known.version, "", first[0], known.corrected),
                    )
                )
        self._move_edges(full)
        self._stale.update(behind)

    async def _replay(self, series: Sequence[Series]) -> None:
        """Compute ``series`` from the oldest state the store keeps, all at once."""
        replies = await self._redis.run_each([store.whole(one) for one in series], "read")
        found: list[tuple[Series, list[Candle], States]] = []
        for one, reply in zip(series, replies, strict=True):
            if isinstance(reply, StoreError):
                if not store.is_foreign(reply):
                    raise reply
                continue  # somebody else's key: the writer tells, its next success leads here again
            *fields, members = reply
            candles, _ = store.decode_candles(one, members)
            start, head = States.fresh(1), self._heads[one]
            try:
                known = store.read_companion(fields)
                head.version = known.version
                if known.edge_time is not None and candles:
                    after, before = edge_states(known)
                    if candles[0].open_time <= known.edge_time:
                        # What is older than the edge is in the state before it.
                        start = States.of([before])
                        candles = [c for c in candles if c.open_time >= known.edge_time]
                    elif candles[0].open_time == known.edge_time + one.timeframe.ms:
                        start = States.of([after])
                    # Else what lay between is lost: the oldest stored candle becomes the anchor.
            except MalformedMessage:
                # A damaged state: the oldest stored candle becomes the anchor.
                start = States.fresh(1)
            if candles:
                found.append((one, candles, start))
        if not found:
            return
        self.work.replayed += len(found)
        rows = np.array([self._heads[one].row for one, _, _ in found])
        for row, (_, _, start) in zip(rows, found, strict=True):
            self._states.put(np.array([row]), start)
        # First up to the replay edge of the full series, then to the head.
        cuts = [max(0, len(candles) - store.KEEP) for _, candles, _ in found]
        self._run_through(
            rows, [candles[:cut] for (_, candles, _), cut in zip(found, cuts, strict=True)]
        )
        self._before.put(rows, self._states.take(rows))
        self._run_through(
            rows, [candles[cut : cut + 1] for (_, candles, _), cut in zip(found, cuts, strict=True)]
        )
        self._after.put(rows, self._states.take(rows))
        for (one, candles, _), cut in zip(found, cuts, strict=True):
            head = self._heads[one]
            head.edge_time = 0
            if len(candles) >= store.KEEP:
                self._save_edge(head, one, candles[cut].open_time)
        self._run_through(
            rows, [candles[cut + 1 :] for (_, candles, _), cut in zip(found, cuts, strict=True)]
        )
        for one, _, _ in found:
            self._unpublished.pop(one, None)
        self._build([(one, candles[-1]) for one, candles, _ in found])

    def _run_through(
        self, rows: np.ndarray[tuple[int], np.dtype[np.int64]], lists: Sequence[Sequence[Candle]]
    ) -> None:
        depth = max(map(len, lists), default=0)
        if depth == 0:
            return
        shape = (depth, len(lists))
        times, present, flat = (
            np.zeros(shape, np.int64), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        )  # fmt: skip
        high, low, close = np.ones(shape), np.ones(shape), np.ones(shape)
        for k, candles in enumerate(lists):
            m = len(candles)
            if not m:
                continue
            times[:m, k] = [c.open_time for c in candles]
            high[:m, k] = [c.high for c in candles]
            low[:m, k] = [c.low for c in candles]
            close[:m, k] = [c.close for c in candles]
            flat[:m, k] = [c.kind is Kind.EMPTY for c in candles]
            present[:m, k] = True
        tf = np.array([candles[0].series.timeframe.ms if candles else 1 for candles in lists])
        replay(self._states, rows, times, high, low, close, flat, tf, present)

    # -- publishing -----------------------------------------------------------------------

    async def _publish(self) -> None:
        if not self._unpublished:
            return
        listed = [(series, text) for series, texts in self._unpublished.items() for text in texts]
        if not self._lease.valid():
            raise StoreError("the lease lapsed: readings wait")
        replies = await self._redis.run_each(
            [store.reading(series, text) for series, text in listed], "readings"
        )
        failed: list[StoreError] = []
        self._foreign.clear()
        for (series, text), reply in zip(listed, replies, strict=True):
            if store.is_foreign(reply):
                self._foreign.add(series)
                continue
            if isinstance(reply, StoreError):
                failed.append(reply)
                continue
            texts = self._unpublished.get(series, [])
            if text in texts:
                texts.remove(text)
            if not texts:
                self._unpublished.pop(series, None)
        if failed or self._foreign:
            # What waits is bounded: the newest reading of each series.
            self._unpublished = {series: texts[-1:] for series, texts in self._unpublished.items()}
        self.work.published += sum(1 for reply in replies if reply == 1)
        if failed:
            raise next((error for error in failed if type(error) is not StoreError), failed[0])


def edge_states(known: store.Companion) -> tuple[State, State]:
    """State after and before the candle at the replay edge; raises :class:`MalformedMessage`."""
    after, before = decode_state(known.edge), decode_state(known.base)
    if after.open_time != known.edge_time or before.count != after.count - 1:
        raise MalformedMessage("the replay edge of a series does not fit its states")
    return after, before
