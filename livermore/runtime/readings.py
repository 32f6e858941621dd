"""The only writer of an exchange's readings: follows what was stored, in order per series.

The common case, one new newest candle per series, is one vectorised step over all of them. Whatever
else happened to a series (a correction, a repair, a start) is replayed exactly from the oldest
state the store keeps. No windows of candles are held in memory.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from itertools import repeat

import attrs
import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from livermore.adapters import store
from livermore.adapters.redis import Redis, answered
from livermore.errors import Fenced, MalformedMessage, StoreError
from livermore.market.candle import Candle, Kind, Series
from livermore.market.timeframe import TIMEFRAMES
from livermore.runtime.alerting import Alerting
from livermore.runtime.backoff import Backoff
from livermore.runtime.lease import Lease
from livermore.signals.alert import Beside
from livermore.signals.anchor import Start, edge_states, start_of
from livermore.signals.bias import BIASES, Bias, biases
from livermore.signals.macdv import advance, replay
from livermore.signals.reading import (
    Reading,
    build_readings,
    decode_reading,
    encode_announced,
    encode_reading,
)
from livermore.signals.stage import STAGES
from livermore.signals.state import State, States

MOST_STEPS = 20
"""Candles appended to one series at once that are stepped; more are replayed with other series."""
REPLAYED_AT_ONCE = 20
"""Series per replay: bounds its memory, and for how long nothing else has its turn."""

NEAR = 200
"""Candles within which a correction of price that changed a reading still shows in the newest."""
BREATHE = 100
"""Readings that are built in one go: others have their turn in between."""

MOST_PUT_OFF = 20
"""Turns in a row, in a burst of closes, that write no progress of the rules that found nothing."""
SOON = 0.5
"""Seconds of such a burst after which what the rules found is handed on."""

GIVE_WAY = 0.05
"""Seconds for which readings wait at most until the closes that wait are written."""
PAUSE = 0.004
"""Seconds without such a close, after which readings take their turn: of a thousand that close at
one instant the last are here some milliseconds after the first are written."""
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
    shown: int = 0
    """Open time of the newest reading that was stored; 0 where nothing is known of one."""
    untold: bool = False
    """Whether readings behind a correction were computed and not told."""


@attrs.frozen
class _Found:
    """What a replay starts from, and what is known of the series."""

    series: Series
    begin: Start
    head: _Head
    before: State
    cursor: int | None
    corrected_from: int | None
    changed_from: int | None


@attrs.frozen
class _Text:
    """A reading to be told, of the candle at ``time``."""

    time: int
    text: bytes
    older: bool = False
    """Of a candle that is not the newest: announced, not stored."""


class Readings:
    """Owns the indicator state of one exchange's series. :meth:`run` ends when cancelled."""

    def __init__(
        self,
        redis: Redis,
        lease: Lease,
        chance: Callable[[], float],
        alerting: Alerting | None = None,
        first: Callable[[], bool] = lambda: False,
    ) -> None:
        self._redis = redis
        self._first = first
        self._alerting = alerting
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
        self._doubted: set[Series] = set()
        """Those of them that became it since a replay began."""
        self._unpublished: dict[Series, list[_Text]] = {}
        self._corrected: dict[Series, int] = {}
        """Series whose corrected readings are among them, and the version they are of."""
        self._codes = np.full(0, -1, np.int64)
        """The stage that is shown of each row."""
        self._lengths = np.zeros(0, np.int64)
        self._rows_of: dict[str, NDArray[np.int64]] = {}
        """The rows of each symbol's series, shortest timeframe first; -1 where there is none."""
        self._foreign: set[Series] = set()
        """Series whose newest reading waits: its key is somebody else's."""
        self._unresumed: list[Series] = []
        """Series of which it is not known yet where they stand."""
        self._free: list[int] = []
        """Rows of series that are not followed any more."""
        self._turning = trio.Lock()
        self._wake = trio.Event()
        self._halted = False
        self._put_off = 0
        """How often in a row it waited to be written what the rules found and how far they are."""
        self._put_off_at = 0.0
        self._shut_out = False
        """Whether a key that alerts need is somebody else's."""
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
                self._doubt([series])  # not the store it was: somebody emptied it
            head.told = written.version
        if self._alerting is not None and series in self._alerting.held:
            self._doubt([series])  # REST may have spoken of what its alerts wait for
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
        self._doubt(one for one in series if one in self._heads)
        self._wake.set()

    def _doubt(self, series: Iterable[Series]) -> None:
        """Go through these again, also where that is being done just now."""
        doubted = set(series)
        self._stale |= doubted
        self._doubted |= doubted

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

    def shown(self, symbols: Iterable[str]) -> dict[str, dict[str, Beside]]:
        """The newest reading of every timeframe of each of ``symbols`` that has one."""
        found: dict[str, dict[str, Beside]] = {symbol: {} for symbol in symbols}
        counts = self._states.column("count")
        listed = [
            (row, Series(self._lease.exchange, symbol, timeframe))
            for symbol in found
            for timeframe, row in zip(TIMEFRAMES, self._rows_of.get(symbol, ()), strict=False)
            if row >= 0 and counts[row]
        ]
        if not listed:
            return found
        rows, series = zip(*listed, strict=True)
        for one, (reading, _) in zip(
            series, self._built(np.array(rows), series, [0] * len(rows), None), strict=True
        ):
            found[one.symbol][one.timeframe.value] = Beside(
                reading.open_time, reading.macdv, reading.signal, reading.histogram,
                reading.stage, reading.withheld,
            )  # fmt: skip
        return found

    def bias(self, symbol: str, close_time: int) -> tuple[Bias | None, int]:
        """The bias of ``symbol`` at ``close_time`` (ms), and of how many timeframes it is."""
        rows = self._rows_of.get(symbol)
        if rows is None:
            return None, 0
        [leaning], [known] = biases(self._current(rows[None, :], np.array([close_time])))
        return None if leaning < 0 else BIASES[leaning], int(known)

    # -- the task -------------------------------------------------------------------------

    async def start(self, series: Sequence[Series]) -> None:
        """Resume every series from its stored reading, or replay it.

        Before any of them is written; while this runs no turn may be under way, see :meth:`still`.
        """
        fresh = [one for one in series if one not in self._heads]
        self._place(fresh)
        self._unresumed += fresh
        while some := self._unresumed[:500]:
            await self._resume(some)
            del self._unresumed[: len(some)]
        self._wake.set()

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No turn is under way within the block."""
        async with self._turning:
            yield

    def forget(self, series: Collection[Series]) -> None:
        """Follow these no more. Between turns only, see :meth:`still`."""
        gone = set(series)
        for one in gone & self._heads.keys():
            row = self._heads.pop(one).row
            self._free.append(row)
            rows = self._rows_of[one.symbol]
            rows[rows == row] = -1
            if (rows < 0).all():
                del self._rows_of[one.symbol]
            for kept in (self._edges, self._sent, self._unpublished, self._corrected):
                kept.pop(one, None)
        self._stale -= gone
        self._foreign -= gone
        self._queue = [written for written in self._queue if written.series not in gone]
        self._unresumed = [one for one in self._unresumed if one not in gone]
        if self._alerting is not None:
            self._alerting.forget(gone)

    async def run(self) -> None:
        """Follow the writer; raises :class:`~livermore.errors.Fenced` under a newer holder."""
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            if not (
                self._queue
                or self._stale
                or self._unpublished.keys() - self._foreign
                or (self._alerting is not None and self._alerting.waiting and not self._shut_out)
            ):
                self._wake = trio.Event()
                with trio.move_on_after(RETRY if self._foreign or self._shut_out else math.inf):
                    await self._wake.wait()
            await self._give_way()
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

    async def _give_way(self) -> None:
        """Candles come first while some wait to be written: who computes delays who writes."""
        with trio.move_on_after(GIVE_WAY):
            while True:
                while self._first():
                    self._wake = trio.Event()
                    await self._wake.wait()
                await trio.sleep(PAUSE)
                if not self._first():
                    return

    async def turn(self) -> None:
        """Bring every reading up to what was stored."""
        async with self._turning:
            await self._turn()

    async def _turn(self) -> None:
        await self._refresh()
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
        if self._alerting is not None:
            # REST may have spoken of what they wait for before it was known that they do.
            self._stale.update(one.series for one in queue if one.series in self._alerting.held)
        await self._publish()
        trouble = await self._alert()
        while self._stale:
            # What is distrusted meanwhile is distrusted by the rules as well: first they read anew.
            await self._refresh()
            some = list(self._stale)[:REPLAYED_AT_ONCE]
            self._doubted.clear()
            await self._replay(some)
            self._stale.difference_update(set(some) - self._doubted)
            await self._publish()
            trouble = await self._alert() or trouble
        if trouble is not None:
            raise trouble

    async def _refresh(self) -> None:
        """Let the rules read anew what they distrust."""
        if self._alerting is None:
            return
        for one in await self._alerting.refresh():
            # What was found behind a correction, and not handed on, has to be found once more.
            self._corrected.pop(one, None)

    async def _alert(self) -> StoreError | None:
        """Hand on what the rules found; returns why that is not possible now.

        Readings go on without it. In a cluster the outbox may be away alone.
        """
        if self._alerting is not None and self._alerting.waiting:
            if not self._put_off:
                self._put_off_at = trio.current_time()
            if self._queue and (
                trio.current_time() - self._put_off_at < SOON
                if self._alerting.urgent
                else self._put_off < MOST_PUT_OFF
            ):
                self._put_off += 1  # readings come first: what is handed on together costs less
                return None
            self._put_off = 0
            try:
                await self._alerting.commit(self)
            except StoreError as error:
                self._shut_out = store.is_foreign(error)
                if type(error) is not StoreError:
                    raise
                return None if self._shut_out else error
            self._shut_out = False
        await self._settle_corrections()
        return None

    def _new_candles(self, written: store.Written) -> list[Candle] | None:
        """The candles to step over, or None when only a replay is exact."""
        head = self._heads.get(written.series)
        if head is None:
            self._place([written.series])
            return None
        appended = written.having("a")
        newest = self._states.column("open_time").item(head.row)
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
        for one in series[: len(self._free)]:
            self._place_at(one, self._free.pop())
        series = [one for one in series if one not in self._heads]
        for one, row in zip(series, self._states.extend(len(series)).tolist(), strict=True):
            self._heads[one] = _Head(row)
            rows = self._rows_of.setdefault(one.symbol, np.full(len(TIMEFRAMES), -1))
            rows[TIMEFRAMES.index(one.timeframe)] = row
        more = np.array([one.timeframe.ms for one in series], np.int64)
        self._lengths = np.concatenate([self._lengths, more])
        self._codes = np.concatenate([self._codes, np.full(len(series), -1)])
        self._before.extend(len(series))
        self._after.extend(len(series))

    def _place_at(self, one: Series, row: int) -> None:
        """Where another series stood that is not followed any more."""
        self._heads[one] = _Head(row)
        rows = self._rows_of.setdefault(one.symbol, np.full(len(TIMEFRAMES), -1))
        rows[TIMEFRAMES.index(one.timeframe)] = row
        self._lengths[row], self._codes[row] = one.timeframe.ms, -1
        for states in (self._states, self._before, self._after):
            states.put(np.array([row]), States.fresh(1))

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
            # A history that is loaded for the first time is told by its newest reading alone.
            self._build(
                [(written.series, candle) for _, written, candle in layer],
                [
                    not written.history or candle is fresh[-1] or head.shown > 0
                    for (head, written, candle), fresh in zip(layer, lists, strict=True)
                ],
            )
            depth += 1
        self._move_edges([(head, written) for head, written, _ in work])

    def _step_one_by_one(
        self, work: list[tuple[_Head, store.Written, list[Candle]]], depth: int
    ) -> None:
        for head, written, fresh in work:
            for candle in fresh[depth:]:
                if candle.open_time > int(self._states.column("open_time")[head.row]):
                    self._advance(self._states, [head.row], [candle])
                    self._build([(written.series, candle)], [True])

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

    def _build(
        self, newest: Sequence[tuple[Series, Candle]], told: Sequence[bool] | None = None
    ) -> None:
        """Readings of series that stand at the given candles: for publishing, and for the rules."""
        if not newest:
            return
        heads = [self._heads[series] for series, _ in newest]
        rows = np.array([head.row for head in heads])
        series = [one for one, _ in newest]
        built = self._built(rows, series, [candle.revision for _, candle in newest], rows)
        unpublished, alerting = self._unpublished, None if told is None else self._alerting
        for (one, candle), head, (reading, state), tell in zip(
            newest, heads, built, told or repeat(True, len(newest)), strict=True
        ):
            if tell:
                # Where it stood: a restart trusts the state unless something changed since.
                text = _Text(candle.open_time, encode_reading(reading, state, head.version))
                waiting = unpublished.get(one)
                if waiting is None:
                    unpublished[one] = [text]
                else:
                    waiting.append(text)
            if alerting is not None:
                alerting.follow(one, candle, reading)

    def _built(
        self,
        at: NDArray[np.int64],
        series: Sequence[Series],
        revisions: Sequence[int],
        rows: NDArray[np.int64] | None,
        states: States | None = None,
    ) -> list[tuple[Reading, State]]:
        """Readings; ``rows`` are those of the newest candles of series, which have a bias."""

        def leaning(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            self._codes[rows] = codes
            beside = np.array([self._rows_of[one.symbol] for one in series])
            ends = self._states.column("open_time")[rows] + self._lengths[rows]
            return biases(self._current(beside, ends))

        return build_readings(
            self._states if states is None else states,
            at,
            exchange=self._lease.exchange,
            epoch=self._lease.epoch,
            symbols=[one.symbol for one in series],
            timeframes=[one.timeframe for one in series],
            revisions=revisions,
            halted=self._halted,
            bias=None if rows is None else leaning,
        )

    def _current(self, rows: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Stage codes of ``rows``, shape (k, 5), without those that were old at ``ends``.

        What closes at the same moment may be read a little later: the one before still counts.
        """
        until = self._states.column("open_time")[rows] + 2 * self._lengths[rows]
        return np.where((rows >= 0) & (until >= ends[:, None]), self._codes[rows], -1)

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
        self._save_edges([(head, c.series, c.open_time) for head, c in moving.values()])

    def _save_edges(self, found: Sequence[tuple[_Head, Series, int]]) -> None:
        rows = np.array([head.row for head, _, _ in found], np.int64)
        texts = zip(self._after.to_jsons(rows), self._before.to_jsons(rows), strict=True)
        for (head, series, time), (after, before) in zip(found, texts, strict=True):
            head.edge_time = time
            self._edges[series] = store.Edge(time, after, before)

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
                if self._alerting is not None:
                    self._alerting.begin(one)
                continue
            try:
                known = store.read_companion(fields)
                newest = store.decode_candle(one, members[0])
                if text is None:
                    raise MalformedMessage("no reading")
                reading, state = decode_reading(text)
                version = _version.decode(text).version
                if known.edge_time is not None:
                    edges = (known.edge_time, *edge_states(known.edge_time, known.edge, known.base))
            except (MalformedMessage, msgspec.MsgspecError):
                behind.append(one)
                continue
            head.shown = state.open_time
            if (
                version < known.corrected
                or version > known.version
                or state.open_time != newest.open_time
                or known.corrected_from is not None
            ):
                behind.append(one)
                continue
            if self._alerting is not None and not self._alerting.resume(one, newest, reading):
                behind.append(one)
            if reading.stage is not None:
                self._codes[head.row] = STAGES.index(reading.stage)
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
        found: list[_Found] = []
        for one, reply in zip(series, replies, strict=True):
            if isinstance(reply, StoreError):
                if not store.is_foreign(reply):
                    raise reply
                continue  # somebody else's key: the writer tells, its next success leads here again
            await trio.lowlevel.checkpoint()
            *fields, members = reply
            stored, _ = store.decode_candles(one, members)
            head = self._heads[one]
            cursor = corrected_from = changed_from = None
            try:
                known = store.read_companion(fields)
                head.version = known.version
                cursor, corrected_from = known.cursor, known.corrected_from
                changed_from = known.changed_from
                begin = start_of(stored, known.edge_time, known.edge, known.base)
            except MalformedMessage:
                begin = Start(None, stored)
            if begin.candles:
                before = self._states.state(head.row)
                found.append(_Found(one, begin, head, before, cursor, corrected_from, changed_from))
        if not found:
            return
        self.work.replayed += len(found)
        rows = np.array([each.head.row for each in found])
        for each in found:
            state = each.begin.state
            start = States.fresh(1) if state is None else States.of([state])
            self._states.put(np.array([each.head.row]), start)
        # First up to the replay edge of the full series, then to the head.
        cuts = [max(0, len(each.begin.candles) - store.KEEP) for each in found]
        lists = [each.begin.candles for each in found]
        courses = [self._run_through(rows, [c[:cut] for c, cut in zip(lists, cuts, strict=True)])]
        self._before.put(rows, self._states.take(rows))
        courses.append(
            self._run_through(rows, [c[cut : cut + 1] for c, cut in zip(lists, cuts, strict=True)])
        )
        self._after.put(rows, self._states.take(rows))
        full: list[tuple[_Head, Series, int]] = []
        for each, cut in zip(found, cuts, strict=True):
            each.head.edge_time = 0
            if len(each.begin.candles) >= store.KEEP:
                full.append((each.head, each.series, each.begin.candles[cut].open_time))
        self._save_edges(full)
        courses.append(
            self._run_through(rows, [c[cut + 1 :] for c, cut in zip(lists, cuts, strict=True)])
        )
        for k, each in enumerate(found):
            self._unpublished.pop(each.series, None)
            course = States.joined([part[k] for part in courses if part])
            await self._tell_older(each, course)
            if self._alerting is not None:
                self._alerting.follow_again(
                    each.series, each.begin.candles, course, each.corrected_from, each.changed_from
                )
            await trio.lowlevel.checkpoint()
        self._build([(each.series, each.begin.candles[-1]) for each in found])

    async def _tell_older(self, found: _Found, course: States) -> None:
        """Readings behind the newest one that were never told, or that a correction changed."""
        candles, head = found.begin.candles, found.head
        newest, length = candles[-1].open_time, candles[-1].series.timeframe.ms
        corrected = found.corrected_from
        wanted = {c.open_time for c in candles[:-1] if 0 < head.shown < c.open_time}
        if corrected is not None:
            self._corrected[found.series] = head.version
            # The EMAs forget slowly: what changed nothing in the newest one changed nothing nearby.
            same = not head.untold and course.state(len(course) - 1) == found.before
            head.untold = True
            if same and newest - corrected < NEAR * length:
                wanted.add(corrected)
            else:
                wanted.update(c.open_time for c in candles[:-1] if c.open_time >= corrected)
        silent = found.cursor if found.cursor is not None else 0
        at = [
            k for k, candle in enumerate(candles[:-1])
            if candle.open_time in wanted and candle.open_time >= silent
        ]  # fmt: skip
        for begin in range(0, len(at), BREATHE):
            some = at[begin : begin + BREATHE]
            built = self._built(
                np.array(some), [found.series] * len(some),
                [candles[k].revision for k in some], None, course,
            )  # fmt: skip
            self._unpublished.setdefault(found.series, []).extend(
                _Text(reading.open_time, encode_announced(reading), older=True)
                for reading, _ in built
            )
            await trio.lowlevel.checkpoint()

    def _run_through(
        self, rows: NDArray[np.int64], lists: Sequence[Sequence[Candle]]
    ) -> list[States]:
        """Let the candles enter; returns, per row, the states after each of its candles."""
        depth = max(map(len, lists), default=0)
        if depth == 0:
            return []
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
        steps = replay(self._states, rows, times, high, low, close, flat, tf, present)
        return [steps.course(k, present) for k in range(len(lists))]

    # -- publishing -----------------------------------------------------------------------

    async def _publish(self) -> None:
        if not self._unpublished:
            return
        listed = [(series, text) for series, texts in self._unpublished.items() for text in texts]
        if not self._lease.valid():
            raise StoreError("the lease lapsed: readings wait")
        replies = await self._redis.run_each(
            [
                store.reading(
                    series, one.text, older=one.older, life=store.life(series, self._chance)
                )
                for series, one in listed
            ],
            "readings",
        )
        failed: list[StoreError] = []
        self._foreign.clear()
        for (series, one), reply in zip(listed, replies, strict=True):
            if isinstance(reply, StoreError):
                if store.is_foreign(reply):
                    self._foreign.add(series)
                else:
                    failed.append(reply)
                continue
            texts = self._unpublished.get(series, [])
            if one in texts:
                texts.remove(one)
            head = self._heads[series]
            head.shown = max(head.shown, one.time)
            if not texts:
                self._unpublished.pop(series, None)
        if failed or self._foreign:
            # What waits is bounded: the newest reading of each series. Older ones are made anew.
            for series, texts in self._unpublished.items():
                if len(texts) > 1 and series not in self._foreign:
                    self._stale.add(series)
                    self._corrected.pop(series, None)
                del texts[:-1]
        self.work.published += sum(1 for reply in replies if reply == 1)
        if failed:
            raise next((error for error in failed if type(error) is not StoreError), failed[0])

    async def _settle_corrections(self) -> None:
        """The readings behind corrections are told: nobody needs to tell them again."""
        told = [
            (series, version) for series, version in self._corrected.items()
            if series not in self._unpublished
        ]  # fmt: skip
        if not told:
            return
        replies = await self._redis.run_each(
            [store.recomputed(series, self._lease.epoch, version) for series, version in told],
            "readings",
        )
        store.raise_unless_foreign(replies)
        for series, _ in told:
            del self._corrected[series]
            self._heads[series].untold = False
