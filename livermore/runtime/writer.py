"""The only writer of an exchange's candles.

A turn takes everything that waits: closes (folded upwards at once), then one history page, then
updates and tickers. What Redis does not accept stays and is merged with what comes: newest per
slot wins, so an outage costs memory per slot, not per frame. Only repairs wait for the writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import attrs
import msgspec
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Redis, script
from livermore.errors import LeaseLost, StoreError
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.events import Ticker
from livermore.market.folding import (
    CHILD,
    Folder,
    child_series,
    children_range,
    fold_all,
    parent_series,
)
from livermore.market.timeframe import TIMEFRAMES
from livermore.market.tracker import Forming, Missing, Pending, Suspect
from livermore.runtime.backoff import Backoff
from livermore.runtime.lease import Lease

SHOW = 0.5
"""Seconds between two turns for updates and tickers; the newest of each wins."""
TICKER_TTL = 60
MOST_WAITING = 200_000
"""Closed candles kept while Redis is away; beyond that the oldest become gaps."""

_RANK = {timeframe: rank for rank, timeframe in enumerate(TIMEFRAMES)}
Batch = dict[Series, dict[int, Candle]]


@attrs.define
class _Page:
    """A history page on its way through the writer."""

    series: Series
    candles: Sequence[Candle]
    done: trio.Event = attrs.Factory(trio.Event)
    result: store.Written | None = None
    error: StoreError | None = None


@attrs.define
class Turns:
    """What the writer did, for status, metrics and the watchdog."""

    turns: int = 0
    closes: int = 0
    corrections: int = 0
    refused: int = 0
    overflow: int = 0
    last_turn: float = 0.0
    slowest: float = 0.0
    lags: deque[float] = attrs.Factory(lambda: deque(maxlen=5000))
    """Milliseconds from a traded candle's end to its announcement, by the exchange's clock."""
    newest_close: int = 0
    away_since: float | None = None
    """Monotonic time since when Redis does not take what we write."""
    away_why: str = ""


class Writer:
    """Owns the stored candles of one exchange. :meth:`run` ends when cancelled."""

    def __init__(  # noqa: PLR0913 - what it connects
        self,
        redis: Redis,
        lease: Lease,
        pending: Pending,
        *,
        clock: Callable[[], int | None],
        stored: Callable[[store.Written], None],
        edge: Callable[[Series], store.Edge | None],
        missing: Callable[[Iterable[Missing]], None],
        suspects: Callable[[Iterable[Suspect]], None],
        back: Callable[[], None],
        chance: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._lease = lease
        self._pending = pending
        self._clock = clock
        self._stored = stored
        self._edge = edge
        self._missing = missing
        self._suspects = suspects
        self._back = back
        self._chance = chance
        self._folder = Folder()
        self._batch: Batch = {}
        self._past: Batch = {}
        self._pages: deque[_Page] = deque()
        self._wake = trio.Event()
        self.turns = Turns()
        self.cursor_known: set[Series] = set()

    # -- for others -----------------------------------------------------------------------

    def wake(self) -> None:
        """Something waits."""
        self._wake.set()

    async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
        """Store one page of history; returns what became of it. Raises :class:`StoreError`."""
        if not candles:
            return None
        page = _Page(series, candles)
        self._pages.append(page)
        self.wake()
        await page.done.wait()
        if page.error is not None:
            raise page.error
        return page.result

    async def seed(self, symbols: Iterable[tuple[str, str]], now: int) -> None:
        """Load the children of every running parent, so that a restart goes on folding."""
        wanted = [
            Series(exchange, symbol, child)
            for exchange, symbol in symbols
            for child in CHILD.values()
        ]
        wanted.sort(key=lambda s: _RANK[s.timeframe])
        calls = [store.range_call(s, *self._folder.seed_range(s, now)) for s in wanted]
        replies = await self._redis.run(calls)
        for series, members in zip(wanted, replies, strict=True):
            candles, _ = store.decode_candles(series, members)
            for candle in candles:
                for parent in self._folder.take(candle):
                    # A crash may have come between a child and its parent: finish what was begun.
                    self._put(self._past, parent)

    def waiting(self) -> int:
        """Closed candles that Redis has not taken yet."""
        batches = (self._batch, self._past)
        return self._pending.size() + sum(len(slots) for batch in batches for slots in batch.values())

    # -- the task -------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn; raises :class:`~livermore.errors.Fenced` when a newer holder writes."""
        backoff = Backoff(first=0.25, most=5.0)
        shown = 0.0
        while True:
            with trio.move_on_after(max(0.0, shown + SHOW - trio.current_time())):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                await self._turn()
                if trio.current_time() - shown >= SHOW:
                    await self._show()
                    shown = trio.current_time()
            except (StoreError, LeaseLost) as error:
                if type(error) is not StoreError and isinstance(error, StoreError):
                    raise  # fenced, or no store at all: waiting does not help
                self._away(str(error))
                await trio.sleep(backoff.next(self._chance()))
                self._wake.set()
                continue
            backoff.reset()
            if self.turns.away_since is not None:
                self.turns.away_since = None
                self._back()

    async def finish(self) -> None:
        """The last turn, at shutdown: what is closed is written, history is not."""
        self._pages.clear()
        try:
            await self._turn()
        except (StoreError, LeaseLost) as error:
            self._away(str(error))

    def _away(self, why: str) -> None:
        if self.turns.away_since is None:
            self.turns.away_since = trio.current_time()
        self.turns.away_why = why
        for page in self._pages:
            page.error = StoreError(why)
            page.done.set()
        self._pages.clear()

    async def _turn(self) -> None:
        started = trio.current_time()
        self._collect()
        if (self._batch or self._past or self._pages) and not self._lease.valid():
            raise LeaseLost("the lease lapsed: nothing is written until it is ours again")
        if self._batch:
            await self._write(self._batch, history=False)
        if self._past:
            await self._write(self._past, history=True)
        if self._pages:
            await self._write_page(self._pages[0])
            if self._pages:
                self._wake.set()
        self.turns.turns += 1
        self.turns.last_turn = trio.current_time()
        self.turns.slowest = max(self.turns.slowest, self.turns.last_turn - started)

    def _collect(self) -> None:
        """Take what the trackers left, fold it upwards, and pass gaps and doubts on."""
        pending = self._pending
        closes, pending.closes = pending.closes, {}
        past, pending.past = pending.past, {}
        for batch, source in ((self._past, past), (self._batch, closes)):
            for slots in source.values():
                for open_time in sorted(slots):
                    candle = slots[open_time]
                    self._put(batch, candle)
                    for parent in self._folder.take(candle):
                        self._put(batch, parent)
        missing, pending.missing = pending.missing, {}
        if missing:
            self._missing(missing.values())
        suspects, pending.suspects = pending.suspects, {}
        if suspects:
            self._suspects(suspects.values())
        self._bound()

    @staticmethod
    def _put(batch: Batch, candle: Candle) -> None:
        batch.setdefault(candle.series, {})[candle.open_time] = candle

    def _bound(self) -> None:
        """While Redis is away: drop the oldest beyond the bound, as gaps that will be repaired."""
        excess = self.waiting() - MOST_WAITING
        if excess <= 0:
            return
        dropped: list[Missing] = []
        for batch in (self._past, self._batch):
            for series, slots in list(batch.items()):
                for open_time in sorted(slots)[: max(1, len(slots) // 2)]:
                    del slots[open_time]
                    dropped.append(Missing(series, open_time, "Redis was away too long"))
                if not slots:
                    del batch[series]
        self.turns.overflow += len(dropped)
        self._missing(dropped)

    async def _write(self, batch: Batch, *, history: bool) -> None:
        """Store a batch, shortest timeframe first; it is emptied once Redis took it."""
        ordered = sorted(batch, key=lambda series: _RANK[series.timeframe])
        listed = [[batch[series][t] for t in sorted(batch[series])] for series in ordered]
        calls = [
            store.write(series, self._lease.epoch, candles, history=history, edge=self._edge(series))
            for series, candles in zip(ordered, listed, strict=True)
        ]
        replies = await self._redis.run(calls)
        batch.clear()
        now = self._clock()
        results = [
            store.written(series, candles, reply, history=history)
            for series, candles, reply in zip(ordered, listed, replies, strict=True)
        ]
        for result in results:
            self._account(result, None if history else now)
        await self._refold(results)

    async def _write_page(self, page: _Page) -> None:
        call = store.write(
            page.series, self._lease.epoch, page.candles, history=True, edge=self._edge(page.series)
        )
        reply = (await self._redis.run([call]))[0]
        self._pages.popleft()
        page.result = store.written(page.series, page.candles, reply, history=True)
        self._account(page.result, None)
        page.done.set()
        completed: Batch = {}
        for candle in page.candles:
            for parent in self._folder.take(candle):
                self._put(completed, parent)
        await self._refold([page.result])
        if completed:
            await self._write(completed, history=True)

    def _account(self, result: store.Written, now: int | None) -> None:
        """Count, tell the readings, and queue a look for what contradicts the store."""
        self._stored(result)
        appended = result.codes.count("a")
        self.turns.closes += appended
        self.turns.corrections += result.codes.count("c") + result.codes.count("v")
        if appended:
            newest = result.candles[-1]
            self.turns.newest_close = max(self.turns.newest_close, newest.close_time)
            if now is not None and newest.volume > 0:
                self.turns.lags.append(now - newest.close_time)
        if "w" in result.codes or "o" in result.codes:
            self.turns.refused += 1
            self._suspects(
                Suspect(result.series, candle.open_time, "the stream contradicts what is stored")
                for candle in result.having("w")
                if candle.evidence is not Evidence.ASSUMED
            )
            self._missing(
                Missing(result.series, candle.open_time, "the candle before it is missing")
                for candle in result.having("o")
            )

    async def _refold(self, results: Iterable[store.Written]) -> None:
        """Parents of changed children, folded again from what the store holds, level by level."""
        touched: dict[Series, set[int]] = {}
        for result in results:
            parent = parent_series(result.series)
            changed = result.having("icv") + [c for c in result.having("a") if self._folder.is_old(c)]
            if parent is not None and changed:
                slots = touched.setdefault(parent, set())
                slots.update(parent.timeframe.floor(candle.open_time) for candle in changed)
        if not touched:
            return
        calls: list[Call] = []
        for parent, slots in touched.items():
            first, last = min(slots), children_range(parent.timeframe, max(slots))[1]
            child = child_series(parent)
            assert child is not None  # noqa: S101 - parents have children
            calls += [store.range_call(child, first, last), store.range_call(parent, first, max(slots))]
        replies = await self._redis.run(calls)
        batch: Batch = {}
        for (parent, slots), children, parents in zip(
            touched.items(), replies[::2], replies[1::2], strict=True
        ):
            child = child_series(parent)
            assert child is not None  # noqa: S101 - parents have children
            known = {c.open_time: c for c in store.decode_candles(parent, parents)[0]}
            for folded in fold_all(parent, store.decode_candles(child, children)[0]):
                if folded.open_time not in slots:
                    continue
                there = known.get(folded.open_time)
                if there is not None and there.same_values(folded):
                    continue
                if there is not None and there.evidence is Evidence.REST:
                    cause = "its children say otherwise"
                    self._suspects([Suspect(parent, folded.open_time, cause)])
                    continue
                self._put(batch, folded)
        if batch:
            await self._write(batch, history=True)

    async def _show(self) -> None:
        """Publish the newest forming candles and tickers; they are never kept for later."""
        pending = self._pending
        forming, pending.forming = pending.forming, {}
        tickers, pending.tickers = pending.tickers, {}
        if not forming and not tickers:
            return
        exchange = self._lease.exchange
        calls = [
            script("publish", (store.keys(one.series).companion,),
                   store.keys(one.series).update_channel, forming_text(one), "")
            for one in forming.values()
        ]  # fmt: skip
        calls += [
            script("publish", (store.ticker_key(exchange, symbol),),
                   store.ticker_channel(exchange, symbol), ticker_text(exchange, symbol, ticker), TICKER_TTL)
            for symbol, ticker in tickers.items()
        ]  # fmt: skip
        if self._lease.valid():
            await self._redis.run(calls, "publish")


class _FormingText(msgspec.Struct):
    exchange: str
    symbol: str
    timeframe: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    as_of: int


class _TickerText(msgspec.Struct):
    exchange: str
    symbol: str
    price: float
    time: int
    bid: float | None
    ask: float | None
    volume_24h: float | None


def forming_text(one: Forming) -> bytes:
    """The running candle as it is published."""
    series = one.series
    return msgspec.json.encode(
        _FormingText(
            series.exchange, series.symbol, series.timeframe.value, one.open_time,
            one.open, one.high, one.low, one.close, one.volume, one.as_of,
        )
    )  # fmt: skip


def ticker_text(exchange: str, symbol: str, ticker: Ticker) -> bytes:
    """The ticker as it is stored and published."""
    return msgspec.json.encode(
        _TickerText(exchange, symbol, ticker.price, ticker.time, ticker.bid, ticker.ask, ticker.volume_24h)
    )
