"""One exchange, from its lease to its last status.

``run`` takes the lease or stands by until it can, learns what is listed, and then holds three
circles: the connections (each supervised, so that a lost socket restarts that shard only), the
readings, and the pipeline that writes. It ends when cancelled, giving the lease back, or with
:class:`TakenError` when another daemon has it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from livermore.adapters import incidents, last_words, outbox, store
from livermore.adapters.bans import Bans
from livermore.adapters.channel import Channel
from livermore.adapters.http import Http
from livermore.adapters.redis import Call, Redis, script
from livermore.dialect import Dialect, tracker_of
from livermore.errors import (
    ConnectionLost,
    Fenced,
    LeaseLost,
    MalformedMessage,
    Refused,
    RestError,
    StoreError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
)
from livermore.market.candle import Candle, Series
from livermore.market.clock import ExchangeClock
from livermore.market.product import Product, aliases, resolve, top
from livermore.market.timeframe import iso
from livermore.market.tracker import Pending, Tracker
from livermore.runtime.alerting import Alerting
from livermore.runtime.backoff import Backoff
from livermore.runtime.connection import Connection, Health, Pace, State
from livermore.runtime.delivery import Delivery
from livermore.runtime.journal import WAITING, Journal
from livermore.runtime.lease import Lease
from livermore.runtime.liveness import Liveness, Shard
from livermore.runtime.readings import Readings
from livermore.runtime.recorder import Incident, Kind, Recorder
from livermore.runtime.repairs import ALLOWANCE, Repairs
from livermore.runtime.rest import SHARE, Budget, Rest
from livermore.runtime.sight import watch
from livermore.runtime.status import STATUS_EVERY, STATUS_TTL, Report, report_text
from livermore.runtime.supervise import first_of, supervise
from livermore.runtime.verification import Verification
from livermore.runtime.writer import Writer
from livermore.signals.alert import Alert, Blindness, Entry
from livermore.signals.rule import Kind as RuleKind
from livermore.signals.rule import Rule

T = TypeVar("T")

FINISH = 3.0
"""Seconds the last batch may take at shutdown."""
AFTER_A_BREAK = "found after a break"
SLOW = 0.5
"""Seconds; an answer of Redis that takes longer is slow, two of them in a row are said."""
BARS = 60
"""Candles in the chart of an alert."""
NAMED = 10
"""Series that are named where all of them ended."""
TOLD_AT_ONCE = 100
MOST_UNPOSTED = 1000
"""Entries that wait for a Redis that is away; the oldest go."""
SAY_HISTORY = 2.0
"""Seconds between two log lines on the history's progress."""
NOT_HERE = 451
"""Unavailable for legal reasons: no other try will be answered otherwise."""
DEMO_HINT = "to see Livermore work without a network: livermore demo"


@attrs.frozen(kw_only=True)
class Plan:
    """What a feed is told: which exchange, where, and what to follow."""

    dialect: Dialect
    websocket_url: str
    rest_url: str
    symbols: tuple[str, ...] | None
    top: int
    shared: frozenset[str] = frozenset()
    """Those of the symbols that may be listed by another exchange of this process instead."""
    unlisted: Callable[[Mapping[str, str]], object] = lambda unlisted: None
    """Hears which of those this exchange does not list, and the messages that say so."""
    holder: str
    description: dict[str, object]
    bans: Bans | None = None
    """Where a ban is kept for the next start."""
    standby: bool = False
    """Wait for an exchange that another daemon holds, instead of ending."""
    state_dir: Path | None = None
    """Where the status lies while Redis does not take it, and incident bundles."""
    recorder: int = 0
    """Bytes of frames the flight recorder keeps; 0: it is off."""
    rules: tuple[Rule, ...] = ()
    """What is worth an alert."""
    channels: tuple[Channel, ...] = ()
    """Where alerts go."""


class Feed:
    """The life of one exchange in this process."""

    def __init__(self, plan: Plan, redis: Redis, chance: Callable[[], float]) -> None:
        self.plan = plan
        self.journal = Journal(plan.dialect.name)
        self._redis = redis
        self._chance = chance
        self._clock = ExchangeClock()
        self._pending = Pending()
        self._trackers: list[Tracker] = []
        self._healths: list[Health] = []
        self._products: Sequence[Product] = ()
        self._lease = Lease(redis, plan.dialect.name, plan.holder, plan.description)
        self.report = Report(exchange=plan.dialect.name, title=plan.dialect.title)
        self.report.description = plan.description
        self._tracker_of: dict[str, Tracker] = {}
        self._series: Sequence[Series] = ()
        self.newest: dict[Series, int] = {}
        """Followed series -> close time of its newest stored candle, 0 for none; empty until what
        is stored is known."""
        self._history_said = False
        self._say_history_at = 0.0
        self._scan_wanted = trio.Event()
        self._pace = Pace(plan.dialect.messages_per_second)
        self._delivery = Delivery(
            redis, plan.dialect.name, self._lease, plan.channels,
            clock=self.now, chance=chance, journal=self.journal, draw=self._draw,
        )  # fmt: skip
        self._unposted: list[outbox.Posting] = []
        """What was told while Redis was away, and is to lie in the outbox as well."""
        self._drawing = trio.CapacityLimiter(1)
        self.delivering = False
        """Whether :meth:`tell` reaches anybody."""
        self._unsaid: list[bytes] = []
        """Lifecycle messages that Redis did not take."""
        self._recorder: Recorder | None = None
        if plan.recorder and plan.state_dir is not None:
            self._recorder = Recorder(
                plan.dialect, plan.state_dir / incidents.DIRECTORY, plan.recorder, self.journal,
                clock=self.now, stored=self._held,
            )  # fmt: skip
        self._away_said = False
        self._away_at = 0.0
        self._took: deque[float] = deque(maxlen=2)
        """Seconds the last statuses took."""
        self._words_left: bool | None = False
        """Whether the status lies in the state directory; None: that is impossible, and said."""
        self._foreign: dict[str, Series | None] = {}
        """Keys that hold somebody else's value, and the series they are of."""
        self.handing_on = False
        """Whether the next feed of this process takes the lease and the status over."""

    def now(self) -> int | None:
        """The exchange's time in ms: the furthest any of its connections has heard."""
        moment = trio.current_time()
        known = [tracker.clock.read(moment) for tracker in self._trackers]
        heard = [time for time in known if time is not None]
        return max(heard, default=self._clock.read(moment))

    async def run(self) -> None:
        """See the module.

        Raises :class:`TakenError`, :class:`StoreError` and :class:`UnknownSymbol`.
        """
        name = self.plan.dialect.name
        try:
            await self._take_lease()
            async with (
                self._delivered(),
                Http(self.plan.rest_url) as http,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._hold_lease)
                nursery.start_soon(self._publish_status)
                nursery.start_soon(watch, self.report, self.journal, self.now)
                rest = Rest(
                    self.plan.dialect, http,
                    Budget(
                        self._redis, name, SHARE * self.plan.dialect.rest_per_second,
                        self.plan.bans, journal=self.journal,
                    ),
                    self.now,
                )  # fmt: skip
                self.report.budget = rest.budget
                await self._learn_products(rest)
                await self._follow(rest)
        except* (Fenced, LeaseLost) as lost:
            # Whoever noticed first: what a person wants to know is who writes now.
            with trio.move_on_after(FINISH, shield=True):
                successor = await self._lease.successor()
            raise successor or TakenError(str(first_of(lost))) from lost
        finally:
            if not self.handing_on:
                await self.give_back()

    @contextlib.asynccontextmanager
    async def _delivered(self) -> AsyncIterator[None]:
        """Alerts reach their channels during the block, and for a moment behind it."""
        async with self._delivery.running():
            self.delivering = True
            self.report.delivery = self._delivery
            try:
                yield
            except* Refused as refused:
                await self._tell_end(str(first_of(refused)))
                raise
            finally:
                self.delivering = False

    async def _tell_end(self, why: str) -> None:
        """People hear that nothing is followed any more, if anything was."""
        now = self.now()
        if now is None or not self.report.started_following:
            return
        if not any(rule.kind is RuleKind.BLIND and rule.enabled for rule in self.plan.rules):
            return
        name = self.plan.dialect.name
        end = Blindness(
            id=f"blind|{name}|{now}|ended",
            source_exchange_id=name,
            series=len(self._series),
            of=len(self._series),
            named=[str(series) for series in self._series[:NAMED]],
            since=now,
            why=f"ended: {why}",
            triggered=now,
        )
        with contextlib.suppress(Fenced), trio.move_on_after(FINISH):  # its successor follows
            await self.tell([end])

    async def tell(self, entries: Sequence[Entry]) -> None:
        """Put what no series met into the outbox, or straight to the channels when Redis is away.

        Raises :class:`Fenced`.
        """
        rules = [rule for rule in self.plan.rules if rule.kind is RuleKind.BLIND]
        names = rules[0].channels if rules else None
        postings = [outbox.posting(entry, names) for entry in entries]
        self._unposted += postings
        if await self._post_unposted():
            for posting in postings:
                self._delivery.direct(posting)

    async def _post_unposted(self) -> bool:
        """Put into the outbox what is not in it yet; whether anything still is not.

        What was told directly has its claim, and is told no second time.
        """
        while (some := self._unposted[:TOLD_AT_ONCE]) and self._lease.valid():
            try:
                await self._redis.run(
                    [outbox.post(self.plan.dialect.name, self._lease.epoch, {}, some)], "alerts"
                )
            except Fenced:
                raise
            except StoreError:
                break
            self._unposted = [one for one in self._unposted if one not in some]
            self._delivery.wake()
        del self._unposted[:-MOST_UNPOSTED]
        return bool(self._unposted)

    async def _draw(self, alert: Alert) -> bytes | None:
        """The chart of an alert, up to the newest candle."""
        from livermore.adapters import chart  # only who sends pictures needs what draws them

        series = Series(alert.source_exchange_id, alert.symbol, alert.timeframe)
        reply = await self._redis.one(*store.whole(series))

        def work() -> bytes | None:
            known = chart.stored(series, reply, BARS)
            return chart.draw_png(known.candles, known.readings) if known.candles else None

        return await trio.to_thread.run_sync(work, limiter=self._drawing)

    async def stay_ended(self, why: str) -> None:
        """Say why nothing is followed any more until cancelled; a successor's status stays."""
        report, key = self.report, store.status_key(self.plan.dialect.name)
        report.ended, report.lost, report.standby, report.slow = why, "", "", 0.0
        try:
            while True:
                text = report_text(report, self.now(), trio.current_time())
                try:
                    away = await self._say(store.keep(key, text, STATUS_TTL, self._lease.epoch))
                except StoreUnusable as error:
                    away = str(error)
                await self._leave_words(text if away else None)
                await trio.sleep(STATUS_EVERY)
        finally:
            await self.give_back()

    async def give_back(self) -> None:
        """Leave the exchange to whoever comes next; also while this is cancelled."""
        with trio.move_on_after(FINISH, shield=True):
            self.journal.sum_up()
            await self._leave_words(None)
            await self._lease.release()
            await self._forget_status()

    async def _take_lease(self) -> None:
        """Take the lease, or stand by until it is ours."""
        if self.plan.standby:
            epoch = await self._lease.stand_by(self._stand_by)
            self.journal.take()  # what was said meanwhile is for the log alone
            self.report.standby = ""
        else:
            epoch = await self._lease.take()
        self.report.epoch = epoch
        self.journal.info("lease taken", epoch=epoch)

    def _stand_by(self, waits_for: str) -> None:
        if waits_for != self.report.standby:
            self.report.standby = waits_for
            self.journal.info(
                "standing by", because=waits_for, next="takes over once the exchange is free"
            )

    async def _hold_lease(self) -> None:
        def retaken() -> None:
            self.report.epoch = self._lease.epoch
            self.journal.warning("lease taken anew", epoch=self._lease.epoch)
            # Somebody may have held it in between, and ended.
            if self.report.alerting is not None:
                self.report.alerting.distrust()
            if self.report.readings is not None:
                self.report.readings.distrust(self._series)
            self._scan_wanted.set()

        await self._lease.hold(retaken)

    async def _learn_products(self, rest: Rest) -> None:
        """Ask for the exchange's time and listings until it answers."""
        backoff = Backoff(first=1.0, most=30.0)
        while True:
            try:
                self._clock.hear(await rest.time(), trio.current_time())
                products = await rest.products()
                break
            except (RestError, MalformedMessage) as error:
                wait = backoff.next(self._chance())
                self.report.note = f"{error}; trying again; {DEMO_HINT}"
                if backoff.failures in (1, 3) or backoff.failures % 10 == 0:
                    self.journal.warning(
                        "the exchange cannot be reached",
                        why=str(error),
                        retry_in=round(wait, 1),
                        hint=DEMO_HINT,
                    )
                await trio.sleep(wait)
        self.report.note = ""
        if self.plan.symbols is not None:
            resolution = resolve(products, self.plan.symbols, self.plan.shared)
            self._products = resolution.products
            self.plan.unlisted(resolution.unlisted)
            for notice in resolution.notices:
                self.journal.info("notice", text=notice)
            self.report.notices = list(resolution.notices)
        else:
            self._products = top(products, self.plan.top)
        if not self._products:
            raise UnknownSymbol(f"{self.plan.dialect.name} lists nothing to follow: name --symbols")
        self.report.symbols = [product.symbol for product in self._products]
        self.report.aliases = aliases(products, self._products)
        self.journal.info("following", symbols=len(self._products), listed=len(products))
        self._tell_rules()

    def _tell_rules(self) -> None:
        """Which rules are in force, and which of them look for what is not followed."""
        names = ", ".join(rule.name for rule in self.plan.rules if rule.enabled)
        channels = ", ".join(channel.name for channel in self.plan.channels)
        self.journal.info("alert rules", rules=names or "none", channels=channels or "none")
        for rule in self.plan.rules:
            strange = sorted(set(rule.symbols or ()) - set(self.report.symbols))
            if rule.enabled and strange:
                self.journal.warning(
                    "a rule names symbols that are not followed", rule=rule.name,
                    symbols=",".join(strange), next="follow them, or mend the rule",
                )  # fmt: skip

    async def _follow(self, rest: Rest) -> None:
        name, dialect = self.plan.dialect.name, self.plan.dialect
        symbols = [product.symbol for product in self._products]
        series = [one for symbol in symbols for one in store.all_series(name, symbol)]
        await self._look_at_server()
        await self._look_at_keys(series)
        await self._patiently(lambda: self._raise_epochs(series))
        alerting = Alerting(
            self._redis, self._lease, self.plan.rules,
            clock=self.now,
            price=lambda symbol: writer.prices.get(symbol),  # noqa: PLW0108 - as those below
            verify=lambda one, open_time: verification.first(one, open_time),  # noqa: PLW0108
            say=lambda event, fields: self.journal.info(event, **fields),
            posted=self._delivery.wake,
        )  # fmt: skip
        readings = Readings(self._redis, self._lease, self._chance, alerting)
        writer = Writer(
            self._redis, self._lease, self._pending,
            clock=self.now,
            stored=lambda written: self._stored(written, readings),
            edge=readings.edge,
            missing=lambda slots: repairs.missing(slots),  # noqa: PLW0108 - they know each other
            suspects=lambda slots: repairs.suspects(slots),  # noqa: PLW0108
            back=self._came_back,
            chance=self._chance,
        )  # fmt: skip
        repairs = Repairs(
            dialect, self._redis, self._lease, rest, writer,
            {product.symbol: product.native for product in self._products},
            clock=self.now,
            say=lambda event, fields: self.journal.info(event, **fields),
            progressed=lambda: self._progressed(repairs),
            chance=self._chance,
            incident=self._report_incident,
        )  # fmt: skip
        self.report.writer, self.report.readings, self.report.repairs = writer, readings, repairs
        self.report.alerting = alerting
        self._series = series
        self._repairs = repairs
        self._make_trackers()
        await self._patiently(lambda: alerting.start(series))
        await self._patiently(lambda: readings.start(series))
        await self._patiently(lambda: writer.seed(((name, s) for s in symbols), self.now() or 0))
        await self._patiently(self._recall)
        await self._patiently(repairs.read_ledger)
        lacking = await self._patiently(lambda: repairs.scan(series, "history"))
        repairs.progress.total = len(series)
        repairs.progress.done = len(series) - (lacking or 0)
        self.report.started_following = True
        self._progressed(repairs)
        liveness = Liveness(
            [
                Shard(tracker, health, self._connection(tracker, health, products, writer))
                for tracker, health, products in zip(
                    self._trackers, self._healths, self._shards(), strict=True
                )
            ],
            rest,
            dialect.streamed,
            clock=self.now,
            say=lambda event, fields: self.journal.warning(event, **fields),
            halted=readings.halt,
        )
        self.report.liveness = liveness
        one = dialect.candles_request(self._products[0].native, dialect.streamed, 0, 0)
        weight = one.weight  # the budget counts what a request weighs
        verification = Verification(
            dialect, self._redis, repairs, series,
            requests_per_second=rest.budget.per_second / weight,
            clock=self.now,
            say=lambda event, fields: self.journal.info(event, **fields),
            chance=self._chance,
        )  # fmt: skip
        self.report.verification = verification
        try:
            async with trio.open_nursery() as pipeline:
                pipeline.start_soon(writer.run)
                pipeline.start_soon(repairs.run)
                pipeline.start_soon(readings.run)
                pipeline.start_soon(self._scan)
                if self._recorder is not None:
                    pipeline.start_soon(self._recorder.run)
                pipeline.start_soon(verification.run)
                pipeline.start_soon(liveness.run)
                for shard in liveness.shards:
                    pipeline.start_soon(self._keep_connected, shard)
        finally:
            with trio.move_on_after(FINISH, shield=True):
                await writer.finish()
                try:
                    await readings.turn()
                except StoreError as error:
                    self.journal.warning("readings not written", why=str(error))

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` until Redis lets it be done."""
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            try:
                return await work()
            except (Fenced, StoreUnusable):
                raise
            except StoreError as error:
                self._say_away(str(error))
                self.report.note = str(error)
                await trio.sleep(backoff.next(self._chance()))

    async def _raise_epochs(self, series: Sequence[Series]) -> None:
        """From here on, whoever held the lease before is refused by every series and the outbox."""
        raised = [store.keys(one).companion for one in series]
        raised.append(outbox.rules_key(self.plan.dialect.name))

        async def try_to() -> Sequence[object]:
            return await self._redis.run_each(
                [script("epoch", (key,), self._lease.epoch) for key in raised]
            )

        replies = await try_to()
        higher = max((reply.epoch for reply in replies if isinstance(reply, Fenced)), default=0)
        if higher:
            # From a time when the clock of Redis was ahead, unless we were succeeded: that it says.
            self.report.epoch = await self._lease.take(at_least=higher)
            self.journal.warning("lease taken anew", epoch=self.report.epoch)
            replies = await try_to()
        store.raise_unless_foreign(replies)

    async def _recall(self) -> None:
        """Where the stored candles of each series end; of the streamed ones the trackers learn."""
        replies = await self._redis.run_each(
            [store.newest_call(one, 1) for one in self._series], "read"
        )
        store.raise_unless_foreign(replies)
        newest = dict.fromkeys(self._series, 0)
        for one, members in zip(self._series, replies, strict=True):
            if isinstance(members, StoreError):
                continue
            candles, _ = store.decode_candles(one, members)
            for candle in candles:
                newest[one] = candle.close_time
                if one.timeframe is self.plan.dialect.streamed:
                    self._tracker_of[one.symbol].learn(candle)
        self.newest = newest

    async def _look_at_server(self) -> None:
        """Say what would make Redis lose what we store."""
        try:
            policy = str((await self._redis.info()).get("maxmemory_policy", "noeviction"))
        except StoreError:
            return  # it does not let us ask
        if policy != "noeviction":
            self.journal.warning(
                "Redis evicts candles when it is full", policy=policy,
                next="CONFIG SET maxmemory-policy noeviction",
            )  # fmt: skip
            self.report.notices.append(f"Redis evicts candles when it is full ({policy})")

    async def _look_at_keys(self, series: Iterable[Series]) -> None:
        """Name the keys of ``series`` and of the exchange that hold somebody else's value.

        Each is told once; a series whose keys are its own again is filled and read again.
        """
        name = self.plan.dialect.name
        wanted = store.exchange_types(name) | outbox.types(name)
        owner: dict[str, Series | None] = dict.fromkeys(wanted)
        for one in series:
            types = store.types(one)
            wanted.update(types)
            owner.update(dict.fromkeys(types, one))
        replies = await self._redis.run_each([("TYPE", key) for key in wanted], "publish")
        freed: list[Series] = []
        for (key, type_), reply in zip(wanted.items(), replies, strict=True):
            if isinstance(reply, StoreError):
                continue
            holds = reply.decode()
            if holds not in (type_, "none"):
                if key not in self._foreign:
                    self._foreign[key] = owner[key]
                    self.journal.warning(
                        "a key of ours holds another type of value", key=key, holds=holds,
                        wanted=type_, next="another program uses it: rename or delete it",
                    )  # fmt: skip
            elif key in self._foreign:
                one_of = self._foreign.pop(key)
                self.journal.info("a key is ours again", key=key)
                if one_of is not None:
                    freed.append(one_of)
        self.report.foreign = tuple(self._foreign)
        if freed and self.report.readings is not None:
            self.report.readings.distrust(freed)
            self._scan_wanted.set()
            await self._raise_epochs(freed)

    def _suspected(self) -> set[Series]:
        """Series a key of which is, or may be, somebody else's."""
        found = {one for one in self._foreign.values() if one is not None}
        for part in (self.report.writer, self.report.readings, self.report.repairs):
            if part is not None:
                found.update(part.foreign)
        return found

    def _stored(self, written: store.Written, readings: Readings) -> None:
        kept = written.having("aicsvw")
        if kept and written.series in self.newest:
            newest = max(self.newest[written.series], kept[-1].close_time)
            self.newest[written.series] = newest
        readings.submit(written)
        if self.report.verification is not None:
            self.report.verification.stored(written)
        if not written.history and (changed := written.having("cv")):
            self.journal.info(
                "the stream corrected what was stored", series=str(written.series),
                candles=len(changed), first=iso(changed[0].open_time),
            )  # fmt: skip
            first, last = changed[0].open_time, changed[-1].open_time
            self._report_incident(
                Incident(Kind.CORRECTION, written.series, first, last, "the stream says otherwise")
            )
        if written.history and written.series.timeframe is self.plan.dialect.streamed:
            known = written.having("aics")
            if known:
                self._tracker_of[written.series.symbol].learn(known[-1])

    def _report_incident(self, incident: Incident) -> None:
        if self._recorder is not None:
            self._recorder.report(incident)

    async def _held(self, series: Series, first: int, last: int) -> Sequence[Candle] | None:
        """What the store holds, None while it is away."""
        try:
            members = await self._redis.one(*store.range_call(series, first, last))
        except StoreError:
            return None
        return store.decode_candles(series, members)[0]

    def _came_back(self) -> None:
        """Redis takes what we write again: it may have come back empty."""
        self._scan_wanted.set()

    def _say_away(self, why: str) -> None:
        """Once per outage: the status cannot tell, it lives in the Redis that is away."""
        if not self._away_said:
            self._away_said = True
            self._away_at = trio.current_time()
            self.journal.warning(
                "Redis is away", why=why, next="closed candles wait in memory; trying again"
            )

    def _say_slow(self, took: float) -> None:
        """Once when Redis answers slowly, and once when it does not any more."""
        self._took.append(took)
        slow = min(self._took) if len(self._took) == self._took.maxlen else 0.0
        if slow > SLOW and not self.report.slow:
            self.journal.warning(
                "Redis is slow", seconds=round(slow, 1), next="candles and readings are late by it"
            )
        elif slow <= SLOW and self.report.slow:
            self.journal.info("Redis is as fast as it was")
        self.report.slow = slow if slow > SLOW else 0.0

    def _progressed(self, repairs: Repairs) -> None:
        progress = repairs.progress
        progress.done = max(progress.done, progress.total - repairs.wanting)
        now = trio.current_time()
        whole = progress.done >= progress.total
        if (whole and not self._history_said) or (not whole and now >= self._say_history_at):
            self.journal.info("history", done=progress.done, total=progress.total)
            self._say_history_at = now + SAY_HISTORY
        self._history_said = whole

    @property
    def history(self) -> tuple[int, int]:
        """Series whose history is whole, and how many there are; (0, 0) before that is known."""
        repairs = self.report.repairs
        return (repairs.progress.done, repairs.progress.total) if repairs else (0, 0)

    @property
    def history_whole(self) -> bool:
        """Whether nothing of the history is missing any more."""
        done, total = self.history
        return 0 < total <= done

    async def _scan(self) -> None:
        """Look for gaps when asked, and at each boundary of the streamed timeframe."""
        last = 0
        ms = self.plan.dialect.streamed.ms
        while True:
            with trio.move_on_after(0.25):
                await self._scan_wanted.wait()
            now = self.now() or 0
            boundary = (now - ALLOWANCE) // ms
            if not self._scan_wanted.is_set() and boundary == last:
                continue
            cause = "found missing" if not self._scan_wanted.is_set() else AFTER_A_BREAK
            self._scan_wanted = trio.Event()
            last = boundary
            try:
                served = [s for s in self._series if s.symbol not in self.report.rejected]
                if cause == AFTER_A_BREAK:
                    await self._raise_epochs(served)
                await self._repairs.scan(served, cause)
                if self.report.readings is not None:
                    await self.report.readings.look()
            except StoreError:
                self._scan_wanted.set()
                await trio.sleep(1.0)

    # -- connections ----------------------------------------------------------------------

    def _connection(
        self, tracker: Tracker, health: Health, products: Sequence[Product], writer: Writer
    ) -> Connection:
        def changed(state: State) -> None:
            self.journal.debug("connection", name=health.name, state=state.value)
            if state is State.LIVE:
                self.journal.info("connection live", name=health.name, symbols=health.symbols)
                self._scan_wanted.set()

        def rejected(messages: Sequence[str]) -> None:
            for message in messages:
                self.journal.warning(
                    "the exchange rejected something", name=health.name, message=message
                )
            self._reject(health, products)

        def malformed(error: MalformedMessage) -> None:
            self.journal.debug("malformed frame", name=health.name, why=str(error))

        def handing_over(what: str, why: str) -> None:
            because = {"because": why} if why else {}
            self.journal.info(what, name=health.name, **because)

        dialect = self.plan.dialect
        pace = self._pace if dialect.messages_shared else Pace(dialect.messages_per_second)
        return Connection(
            self.plan.dialect, self.plan.websocket_url, [p.native for p in products],
            tracker, health, writer.wake, changed, malformed, pace, rejected,
            self._recorder.ring(health.name).heard if self._recorder is not None else None,
            self._chance, handing_over,
        )  # fmt: skip

    async def _keep_connected(self, shard: Shard) -> None:
        """One chain of tries: a lost socket restarts this shard only."""
        health = shard.health

        def failed(why: str, wait: float) -> None:
            health.error = why
            health.reconnects += 1
            health.again_at = trio.current_time() + wait

        async def live() -> None:
            try:
                await shard.connection.live()
            except ConnectionLost as lost:
                if lost.status != NOT_HERE:
                    raise
                refusal = self.plan.dialect.refusal(lost.status, {}, b"")
                raise (refusal or lost) from lost

        await supervise(
            f"connection {health.name}", live, self.journal,
            chance=self._chance, failed=failed, hint=DEMO_HINT, ends=(Refused,),
        )  # fmt: skip

    def _reject(self, health: Health, products: Sequence[Product]) -> None:
        """What the exchange does not serve is not followed; what it serves after all is."""
        rejected = dict(self.report.rejected)
        for product in products:
            why = health.rejected.get(product.native)
            if why is None:
                if rejected.pop(product.symbol, None) is not None:
                    self.journal.info("a symbol is served after all", symbol=product.symbol)
                    self._scan_wanted.set()
            elif product.symbol not in rejected:
                rejected[product.symbol] = why
                self.journal.warning("a symbol is not served", symbol=product.symbol, why=why)
        self.report.rejected = rejected
        self._repairs.leave_out(rejected)

    def _shards(self) -> list[Sequence[Product]]:
        dialect, listed = self.plan.dialect, len(self._products)
        count = -(-listed // dialect.products_per_connection)
        count = max(count, min(listed, dialect.least_connections))
        # Dealt out by rank, so that one lost socket is not all of the large symbols.
        return [self._products[shard::count] for shard in range(count)]

    def _make_trackers(self) -> None:
        dialect = self.plan.dialect
        for number, products in enumerate(self._shards(), start=1):
            self._trackers.append(
                tracker_of(
                    dialect,
                    (
                        (p.native, Series(dialect.name, p.symbol, dialect.streamed))
                        for p in products
                    ),
                    self._pending,
                )
            )
            self._healths.append(Health(f"{dialect.name}/{number}", len(products)))
            known = self._clock.read(trio.current_time())
            if known is not None:
                # The REST server's time: the first stamp of a socket is not believed alone either.
                self._trackers[-1].clock.hear(known, trio.current_time())
            self._tracker_of.update((p.symbol, self._trackers[-1]) for p in products)
            if self._recorder is not None:
                self._recorder.attach(
                    self._healths[-1].name,
                    self._trackers[-1],
                    {p.native: p.symbol for p in products},
                    len(self._shards()),
                )
        self.report.healths = self._healths
        self.report.trackers = self._trackers

    # -- status ---------------------------------------------------------------------------

    async def _publish_status(self) -> None:
        while True:
            text = report_text(self.report, self.now(), trio.current_time())
            key, epoch = store.status_key(self.plan.dialect.name), self._lease.epoch
            why = await self._say(store.keep(key, text, STATUS_TTL, epoch))
            writer = self.report.writer
            if writer is not None and writer.turns.away_since is not None:
                why = why or writer.turns.away_why
            self._say_slow(0.0 if why else self._redis.took("publish"))
            if why:
                self._say_away(why)
            elif self._away_said:
                self._away_said = False
                after = round(trio.current_time() - self._away_at, 1)
                self.journal.info("Redis is back", after_seconds=after)
            await self._leave_words(text if why else None)
            if not why:
                await self._post_unposted()
                with contextlib.suppress(StoreError):  # the next status tells
                    await self._look_at_keys(self._suspected())
            await trio.sleep(STATUS_EVERY)

    async def _leave_words(self, text: bytes | None) -> None:
        """While Redis does not take the status it lies in the state directory."""
        directory, name = self.plan.state_dir, self.plan.dialect.name
        if directory is None or (text is None and not self._words_left):
            return
        if text is None:
            self._words_left = False
            await trio.to_thread.run_sync(last_words.take_back, directory, name)
            return
        trouble = await trio.to_thread.run_sync(last_words.leave, directory, name, text)
        if trouble and self._words_left is not None:
            self.journal.warning("the status cannot be kept for commands", why=trouble)
        self._words_left = None if trouble else True

    async def _say(self, last: Call) -> str:
        """Publish what the journal holds, and ``last`` after it; returns why Redis did not take it.

        Messages it did not take are kept for the next time. Raises :class:`StoreUnusable`.
        """
        messages = [*self._unsaid, *self.journal.take()][-WAITING:]
        self._unsaid = messages  # also when this is cancelled
        calls = [self.journal.call(text, self._lease.epoch) for text in messages]
        replies = await self._redis.run_each([*calls, last], "publish")
        if store.SUCCEEDED in replies:
            self._lease.doubt()
        self._unsaid = [
            message
            for message, reply in zip(messages, replies, strict=False)
            if isinstance(reply, StoreError)
        ]
        failed = [reply for reply in replies if isinstance(reply, StoreError)]
        for error in failed:
            if isinstance(error, StoreUnusable):
                raise error
        return str(failed[0]) if failed else ""

    async def _forget_status(self) -> None:
        """A status must not outlive its owner."""
        with contextlib.suppress(StoreUnusable):
            key = store.status_key(self.plan.dialect.name)
            await self._say(store.forget(key, self._lease.epoch))
