"""The only writer of an exchange's candles.

A turn takes everything that waits: closes (folded upwards at once), then one history page, then
updates and tickers. What Redis does not accept stays and is merged with what comes: newest per
slot wins, so an outage costs memory per slot, not per frame. Only repairs wait for the writer.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence

import attrs
import msgspec
import trio

from livermore.adapters import store
from livermore.adapters.redis import Call, Later, Redis, answered, at_once, script
from livermore.errors import LeaseLost, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series
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
from livermore.market.tracker import Forming, Missing, Pending, Suspect, moved
from livermore.runtime.backoff import Backoff
from livermore.runtime.histogram import BATCHES, LAGS, TOOK, Histogram
from livermore.runtime.lease import Lease

SHOW = 0.5
"""Seconds between two turns for updates and tickers; the newest of each wins."""
SHOWN_AT_ONCE = 200
PARENTS_SHOWN = 4
"""Of so many shows one carries the running candles of the higher timeframes as well."""
TICKER_TTL = 60
SETTLES = 15_000
"""Milliseconds after its end from which a slot is history to whoever begins with a series."""
IN_A_ROW = 8
"""How often in a row what closed meanwhile is written before anything else."""
PACE = 0.25
"""Seconds a turn waits at least after one in which a series was refused."""
RETRY = 2.0
"""Seconds between two tries at a series whose key is somebody else's."""
HELD = 300
"""Closed candles kept of such a series; the older ones are asked of REST once it is ours again."""
MOST_WAITING = 200_000
"""Closed candles kept while Redis is away; beyond that the oldest become gaps."""

CONTRADICTED = "the stream contradicts what is stored"
"""Why REST is asked for what it said before."""

_RANK = {timeframe: rank for rank, timeframe in enumerate(TIMEFRAMES)}
Batch = dict[Series, dict[int, Candle]]


@attrs.define(eq=False)
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
    all_lags: Histogram = attrs.Factory(lambda: Histogram(LAGS))
    """The same in seconds, since the start."""
    batches: Histogram = attrs.Factory(lambda: Histogram(BATCHES))
    """Candles written at once."""
    took: Histogram = attrs.Factory(lambda: Histogram(TOOK))
    """Seconds that took."""
    beat: float = 0.0
    """Monotonic time of its last sign of life: a turn's begin, idle or not, or a reply of Redis
    within one, errors included. An outage does not stop it; only a writer that hangs does."""
    newest_close: int = 0
    away_since: float | None = None
    """Monotonic time since when Redis does not take what we write."""
    away_why: str = ""


class Writer:
    """Owns the stored candles of one exchange. :meth:`run` ends when cancelled."""

    def __init__(
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
        self._touched: dict[Series, set[int]] = {}
        """Parents whose children changed: folded again from the store before the turn ends."""
        self._refused: list[StoreError] = []
        """What the server refused in this turn, series by series."""
        self._foreign: dict[Series, float] = {}
        """Series whose key is somebody else's, and the monotonic time of the next try."""
        self._to_show: list[Forming | tuple[str, Ticker]] = []
        self._show_epoch = 0
        """The epoch these came under: under a later one another may have said something newer."""
        self._newest: dict[Series, int] = {}
        """Open time of the newest close of what is streamed: no slot up to there runs any more."""
        self._shows = 0
        self._parents_shown = False
        """Whether those of the higher timeframes are shown beside what is to be shown."""
        self.prices: dict[str, tuple[float, int]] = {}
        """Symbol -> the last price of its tickers, and the exchange's time of it (ms)."""
        self._followed: Sequence[Series] = ()
        self._left: set[Series] = set()
        """Series that were followed and are not any more: a page of theirs comes too late."""
        self._writing = False
        self._turning = trio.Lock()
        self._wake = trio.Event()
        self.turns = Turns()

    # -- for others -----------------------------------------------------------------------

    def wake(self) -> None:
        """Something waits."""
        self._wake.set()

    async def history(self, series: Series, candles: Sequence[Candle]) -> store.Written | None:
        """Store one page of history; returns what became of it. Raises :class:`StoreError`."""
        if not candles or series in self._left:
            return None
        page = _Page(series, candles)
        self._pages.append(page)
        self.wake()
        await page.done.wait()
        if page.error is not None:
            raise page.error
        return page.result

    async def seed(self, series: Collection[Series], now: int) -> None:
        """Follow ``series``: load the children of every running parent, to go on folding."""
        children = frozenset(CHILD.values())
        wanted = [one for one in series if one.timeframe in children]
        wanted.sort(key=lambda s: _RANK[s.timeframe])
        calls: list[Call] = []
        for one in wanted:
            first, last = self._folder.seed_range(one, now)
            # And those of the parent before it, which a crash may have left unwritten.
            calls.append(store.range_call(one, 2 * first - last - one.timeframe.ms, last))
        replies = await self._redis.run_each(calls)
        store.raise_unless_foreign(replies)
        self._followed = [*self._followed, *wanted]
        self._left.difference_update(series)
        for one, members in zip(wanted, replies, strict=True):
            if isinstance(members, StoreError):
                continue  # nothing of ours is there
            candles, _ = store.decode_candles(one, members)
            for candle in candles:
                # A crash may have come between a child and its parent: finish what was begun.
                self._fold(self._past, candle)

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No turn is under way within the block."""
        async with self._turning:
            yield

    def forget(self, series: Collection[Series]) -> None:
        """Follow these no more: nothing of them waits. Between turns only, see :meth:`still`."""
        self._left.update(series)
        self._followed = [one for one in self._followed if one not in self._left]
        for one in series:
            self._batch.pop(one, None)
            self._past.pop(one, None)
            self._touched.pop(one, None)
            self._newest.pop(one, None)
            self._folder.forget(one)
            self.prices.pop(one.symbol, None)
        self._leave(series)

    def move(self, before: Series, after: Series) -> None:
        """What waits of ``before`` is of ``after`` from now on. Between turns only."""
        self._left.add(before)
        self._left.discard(after)
        self._followed = [after if one == before else one for one in self._followed]
        for batch in (self._batch, self._past):
            if slots := batch.pop(before, None):
                batch[after] = moved(slots, after)
        if touched := self._touched.pop(before, None):
            self._touched[after] = touched
        if (newest := self._newest.pop(before, None)) is not None:
            self._newest[after] = newest
        self._folder.move(before, after)
        self._leave([before])

    def _leave(self, series: Collection[Series]) -> None:
        symbols = {one.symbol for one in series}
        self._to_show = [
            shown
            for shown in self._to_show
            if (
                shown.series not in series
                if isinstance(shown, Forming)
                else shown[0] not in symbols
            )
        ]
        for one in series:
            self._foreign.pop(one, None)
        for page in [page for page in self._pages if page.series in series]:
            self._pages.remove(page)
            page.error = StoreError(f"{page.series} is not followed any more")
            page.done.set()

    @property
    def foreign(self) -> Iterable[Series]:
        """Series that are not written because a key of theirs is somebody else's."""
        return tuple(self._foreign)

    def waiting(self) -> int:
        """Closed candles that Redis has not taken yet."""
        batches = (self._batch, self._past)
        return self._pending.size() + sum(
            len(slots) for batch in batches for slots in batch.values()
        )

    # -- the task -------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn; raises :class:`~livermore.errors.Fenced` when a newer holder writes."""
        backoff = Backoff(first=0.25, most=5.0)
        shown = 0.0
        while True:
            with trio.move_on_after(max(0.0, shown + SHOW - trio.current_time())):
                await self._wake.wait()
            self._wake = trio.Event()
            self.turns.beat = trio.current_time()
            try:
                async with at_once(self._turning):
                    await self._turn()
                    if trio.current_time() - shown >= SHOW:
                        await self._show()
                        if not self._to_show:
                            shown = trio.current_time()  # else the rest follows the next turn
                    if self.turns.away_since is not None:
                        await self._prove()
            except (StoreError, LeaseLost) as error:
                if type(error) is not StoreError and isinstance(error, StoreError):
                    raise  # fenced, or no store at all: waiting does not help
                self._away(error)
                delay = backoff.next(self._chance())
                if isinstance(error, StoreError) and answered(error):
                    # One series is refused: the others go on meanwhile, if not frame by frame.
                    await trio.sleep(PACE)
                    with trio.move_on_after(max(0.0, delay - PACE)):
                        await self._wake.wait()
                else:
                    await trio.sleep(delay)
                self._wake.set()
                continue
            backoff.reset()
            if self.turns.away_since is not None:
                self.turns.away_since = None
                self._back()

    async def _prove(self) -> None:
        """Whether Redis takes writes again: a turn that had none does not show it.

        What is written is needed anyway: an empty server that came back knows no epoch.
        """
        self._check_lease()
        epoch = self._lease.epoch
        calls = [script("epoch", (store.keys(one).companion,), epoch) for one in self._followed]
        store.raise_unless_foreign(await self._redis.run_each(calls))

    def _check_lease(self) -> None:
        if not self._lease.valid():
            raise LeaseLost("the lease lapsed: nothing is written until it is ours again")

    async def finish(self) -> None:
        """The last turn, at shutdown: what is closed is written, history is not."""
        self._pages.clear()
        try:
            async with self._turning:
                await self._turn()
        except (StoreError, LeaseLost) as error:
            self._away(error)

    def _away(self, error: StoreError | LeaseLost) -> None:
        if self.turns.away_since is None:
            self.turns.away_since = trio.current_time()
        self.turns.away_why = str(error)
        if isinstance(error, StoreError) and answered(error):
            return  # the pages of other series go on
        self._to_show = []
        for page in self._pages:
            page.error = StoreError(str(error))
            page.done.set()
        self._pages.clear()

    async def _turn(self) -> None:
        started = trio.current_time()
        self._refused.clear()
        await self._write_closes()
        await self._write_past()
        if self._pages:
            await self._write_closes()
            await self._write_page(self._pages[0])
            if self._pages:
                self._wake.set()
        await self._refold()
        self.turns.turns += 1
        self.turns.last_turn = trio.current_time()
        self.turns.slowest = max(self.turns.slowest, self.turns.last_turn - started)
        if self._refused:
            raise self._refused[0]

    async def _write_closes(self) -> None:
        """What closed by now: where Redis is slow it does not wait for the rest of a turn.

        What closes while some are written goes next; what became of them is looked at afterwards.
        """
        results: list[store.Written] = []
        self._writing = True
        try:
            for _ in range(IN_A_ROW):
                self._collect()
                await self._write(self._batch, results, history=False)
                if self._refused or not self._pending.closes:
                    break
        finally:
            self._writing = False
            self._account(results, self._clock())

    def closing(self) -> bool:
        """Whether candles that closed wait to be written, or are being written."""
        return self._writing or bool(self._pending.closes)

    def _collect(self) -> None:
        """Take what the trackers left, fold it upwards, and pass gaps and doubts on."""
        pending = self._pending
        closes, pending.closes = pending.closes, {}
        past, pending.past = pending.past, {}
        newest = self._newest
        for batch, source in ((self._past, past), (self._batch, closes)):
            for series, slots in source.items():
                for open_time in sorted(slots):
                    candle = slots[open_time]
                    self._put(batch, candle)
                    self._fold(batch, candle)
                if slots and open_time > newest.get(series, -1):
                    newest[series] = open_time
        missing, pending.missing = pending.missing, {}
        if missing:
            self._missing(missing.values())
        suspects, pending.suspects = pending.suspects, {}
        if suspects:
            self._suspects(suspects.values())
        self._bound()

    def _fold(self, batch: Batch, candle: Candle) -> None:
        """Put the parents that ``candle`` completes, unless REST may have spoken of them itself."""
        for parent in self._folder.take(candle):
            if parent.evidence is Evidence.REST:
                self._touched.setdefault(parent.series, set()).add(parent.open_time)
            else:
                self._put(batch, parent)

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

    async def _write(self, batch: Batch, results: list[store.Written], *, history: bool) -> None:
        """Store a batch, shortest timeframe first; what Redis took leaves it for ``results``.

        Of one timeframe those are first that can be joined: others between them would part them.
        """
        moment = trio.current_time()
        due = [series for series in batch if self._foreign.get(series, moment) <= moment]
        if not due:
            return
        ordered = sorted(due, key=lambda series: _RANK[series.timeframe])
        listed = [[batch[series][t] for t in sorted(batch[series])] for series in ordered]
        alone = [len(some) != 1 or some[0].kind is not Kind.TRADED for some in listed]
        if any(alone):
            ranks = [
                (_RANK[one.timeframe], apart) for one, apart in zip(ordered, alone, strict=True)
            ]
            places = sorted(range(len(ranks)), key=ranks.__getitem__)
            ordered, listed = [ordered[n] for n in places], [listed[n] for n in places]
        replies = await self._store(ordered, listed, history=history)
        for series, candles, reply in zip(ordered, listed, replies, strict=True):
            if not isinstance(reply, StoreError):
                del batch[series]
                results.append(store.written(series, candles, reply, history=history))
            elif store.is_foreign(reply):
                for candle in candles[:-HELD]:
                    del batch[series][candle.open_time]
        self._raise_unless_refused(ordered, replies)

    async def _write_past(self) -> None:
        """What is no news."""
        results: list[store.Written] = []
        try:
            await self._write(self._past, results, history=True)
        finally:
            self._account(results, None)

    async def _write_page(self, page: _Page) -> None:
        [reply] = await self._store([page.series], [page.candles], history=True)
        if isinstance(reply, StoreError):
            self._raise_unless_refused([page.series], [reply])
            page.error = reply
        else:
            page.result = store.written(page.series, page.candles, reply, history=True)
            for candle in page.candles:
                self._fold(self._past, candle)
            self._account([page.result], None)
        self._pages.popleft()
        page.done.set()
        await self._write_past()

    async def _store(
        self, ordered: Sequence[Series], listed: Sequence[Sequence[Candle]], *, history: bool
    ) -> list[object]:
        """The replies, in order. Raises :class:`LeaseLost` when we may not write."""
        self._check_lease()
        settled = (self._clock() or 0) - SETTLES if history else 0
        epoch = self._lease.epoch

        def write(place: int) -> Call:
            series = ordered[place]
            ms = series.timeframe.ms
            return store.write(
                series,
                epoch,
                listed[place],
                history=history,
                edge=self._edge(series),
                settled=max(0, settled // ms - 1) * ms,
                life=store.life(series, self._chance),
            )

        calls = Later(write, len(ordered))
        asked = trio.current_time()
        replies = await self._redis.run_each(calls)
        self.turns.beat = trio.current_time()
        self.turns.took.take(self.turns.beat - asked)
        self.turns.batches.take(sum(map(len, listed)))
        return replies

    def _raise_unless_refused(self, asked: Iterable[Series], replies: Iterable[object]) -> None:
        """Raise what stops everything; a refusal of one series waits for the turn's end.

        One whose key is somebody else's is no outage: it is tried again beside the others.
        """
        for series, reply in zip(asked, replies, strict=True):
            if store.is_foreign(reply):
                self._foreign[series] = trio.current_time() + RETRY
            elif isinstance(reply, StoreError):
                if type(reply) is not StoreError or not answered(reply):
                    raise reply
                self._refused.append(reply)

    def _account(self, results: Iterable[store.Written], now: int | None) -> None:
        for result in results:
            self._account_for(result, now)

    def _account_for(self, result: store.Written, now: int | None) -> None:
        """Count, tell the readings, and queue a look for what contradicts the store."""
        self._stored(result)
        if self._foreign.pop(result.series, None) is not None:
            self._back()
        turns, appended = self.turns, result.codes.count("a")
        turns.closes += appended
        if appended:
            newest = result.candles[-1]
            close_time = newest.close_time
            turns.newest_close = max(turns.newest_close, close_time)
            if now is not None and newest.volume > 0:
                turns.lags.append(now - close_time)
                turns.all_lags.take((now - close_time) / 1000)
        self._touch(result)
        if result.codes == store.APPENDED:
            return
        turns.corrections += result.codes.count("c") + result.codes.count("v")
        if "w" in result.codes or "o" in result.codes:
            self.turns.refused += 1
            self._suspects(
                Suspect(result.series, candle.open_time, CONTRADICTED)
                for candle in result.having("w")
                if candle.evidence is not Evidence.ASSUMED
            )
            self._missing(
                Missing(result.series, candle.open_time, "the candle before it is missing")
                for candle in result.having("o")
            )

    def _touch(self, result: store.Written) -> None:
        """Remember the parents of what changed; running ones are in the folder already."""
        series = result.series
        parent = parent_series(series)
        if parent is None:
            return
        # Also what came back as "same": its evidence may have risen, or a reply that told was lost.
        changed = [] if result.codes == store.APPENDED else result.having("icvws")
        changed += [c for c in result.having("a") if self._folder.is_old(c)]
        if changed:
            slots = self._touched.setdefault(parent, set())
            slots.update(parent.timeframe.floor(candle.open_time) for candle in changed)

    async def _refold(self) -> None:
        """Parents of changed children, folded again from what the store holds, level by level."""
        while self._touched:
            await self._write_closes()
            touched = dict(self._touched)
            calls: list[Call] = []
            asked: list[Series] = []
            for parent, slots in touched.items():
                first, last = min(slots), children_range(parent.timeframe, max(slots))[1]
                child = child_series(parent)
                assert child is not None
                asked += [child, parent]
                calls += [
                    store.range_call(child, first, last),
                    store.range_call(parent, first, max(slots)),
                ]
            replies = await self._redis.run_each(calls)
            self._raise_unless_refused(asked, replies)
            self._touched.clear()
            for (parent, slots), children, parents in zip(
                touched.items(), replies[::2], replies[1::2], strict=True
            ):
                if not isinstance(children, StoreError) and not isinstance(parents, StoreError):
                    self._fold_again(parent, slots, children, parents)
            await self._write_past()

    def _fold_again(
        self, parent: Series, slots: set[int], children: Sequence[bytes], parents: Sequence[bytes]
    ) -> None:
        """Write what ``children`` make of ``parent`` where the stored ``parents`` differ."""
        child = child_series(parent)
        assert child is not None
        stored = store.decode_candles(child, children)[0]
        known = {c.open_time: c for c in store.decode_candles(parent, parents)[0]}
        for folded in fold_all(parent, stored):
            if folded.open_time not in slots:
                continue
            there = known.get(folded.open_time)
            if there is not None and attrs.evolve(there, revision=0) == folded:
                continue
            if (
                there is not None
                and there.evidence is Evidence.REST
                and not there.same_values(folded)
            ):
                self._suspects([Suspect(parent, folded.open_time, "its children say otherwise")])
                continue
            self._put(self._past, folded)
            self._fold(self._past, folded)

    async def _show(self) -> None:
        """Publish some of the newest forming candles and tickers; they are never kept for later.

        A few at a time, and made only then: a close must not wait until all of them are out.
        """
        if not self._to_show:
            self._to_show = self._what_to_show()
        count = SHOWN_AT_ONCE // (len(TIMEFRAMES) if self._parents_shown else 1)
        some, self._to_show = self._to_show[:count], self._to_show[count:]
        if some:
            self._check_lease()
            await self._redis.run([call for one in some for call in self._shown(one)], "show")

    def _what_to_show(self) -> list[Forming | tuple[str, Ticker]]:
        """The newest of each symbol; of every some of these the higher timeframes are shown too."""
        pending = self._pending
        forming, pending.forming = pending.forming, {}
        tickers, pending.tickers = pending.tickers, {}
        self.prices.update((s, (ticker.price, ticker.time)) for s, ticker in tickers.items())
        self._show_epoch = self._lease.epoch
        self._parents_shown = self._shows % PARENTS_SHOWN == 0
        self._shows += 1
        return [*forming.values(), *tickers.items()]

    def _shown(self, one: Forming | tuple[str, Ticker]) -> Iterator[Call]:
        epoch = self._show_epoch
        if isinstance(one, Forming):
            if one.open_time <= self._newest.get(one.series, -1):
                return  # it closed while it waited to be shown
            for running in (one, *(self._folder.running(one) if self._parents_shown else ())):
                named = store.keys(running.series)
                text = forming_text(running)
                yield store.publish(named.companion, named.update_channel, text, epoch=epoch)
            return
        exchange, (symbol, ticker) = self._lease.exchange, one
        key, channel = store.ticker_key(exchange, symbol), store.ticker_channel(exchange, symbol)
        text = ticker_text(exchange, symbol, ticker, epoch)
        yield store.publish(key, channel, text, epoch=epoch, seconds=TICKER_TTL)


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
    epoch: int
    """Of who wrote it: an older holder does not replace it."""


def forming_text(one: Forming) -> bytes:
    """The running candle as it is published."""
    series = one.series
    return msgspec.json.encode(
        _FormingText(
            series.exchange, series.symbol, series.timeframe.value, one.open_time,
            one.open, one.high, one.low, one.close, one.volume, one.as_of,
        )
    )  # fmt: skip


def ticker_text(exchange: str, symbol: str, ticker: Ticker, epoch: int) -> bytes:
    """The ticker as it is stored and published."""
    return msgspec.json.encode(
        _TickerText(
            exchange,
            symbol,
            ticker.price,
            ticker.time,
            ticker.bid,
            ticker.ask,
            ticker.volume_24h,
            epoch,
        )
    )
