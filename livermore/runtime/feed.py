"""One exchange, from its lease to its last status.

``run`` takes the lease or stands by until it can, learns what is listed, and then holds three
circles: the connections (each supervised, so that a lost socket restarts that shard only), the
readings, and the pipeline that writes. It ends when cancelled, giving the lease back, or with
:class:`TakenError` when another daemon has it.

What is followed changes while it runs (``follow``), and it can collect nothing for a while
(``pause``): neither ends it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from livermore.adapters import incidents, last_words, outbox, store
from livermore.adapters.bans import Bans
from livermore.adapters.channel import Channel
from livermore.adapters.http import Http
from livermore.adapters.redis import Call, Redis, script
from livermore.dialect import Dialect
from livermore.errors import (
    Fenced,
    LeaseLost,
    MalformedMessage,
    NotRunning,
    Refused,
    RestError,
    StoreError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
)
from livermore.market.candle import Candle, Series
from livermore.market.clock import ExchangeClock
from livermore.market.product import Change, Followed, Product, aliases, resolve, top
from livermore.market.timeframe import iso
from livermore.market.tracker import Pending
from livermore.runtime.alerting import Alerting
from livermore.runtime.backoff import Backoff
from livermore.runtime.delivery import Delivery
from livermore.runtime.journal import WAITING, Journal
from livermore.runtime.lease import Lease
from livermore.runtime.liveness import Liveness, Shard
from livermore.runtime.readings import Readings
from livermore.runtime.recorder import Incident, Kind, Recorder
from livermore.runtime.repairs import ALLOWANCE, Repairs
from livermore.runtime.rest import SHARE, Budget, Rest
from livermore.runtime.roster import DEMO_HINT, Roster
from livermore.runtime.sight import watch
from livermore.runtime.status import STATUS_EVERY, STATUS_TTL, Report, report_text
from livermore.runtime.supervise import first_of
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
NEWEST = 4
"""Candles that are read of each series when it is taken up."""
SAY_HISTORY = 2.0
"""Seconds between two log lines on the history's progress."""
TIME_EVERY = 60.0
"""Seconds between two times that REST is asked for the time, where no frame tells it."""


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
    choose: Callable[[Sequence[Product]], Sequence[Followed]] | None = None
    """Given what is listed, says what is followed, instead of ``symbols`` and ``top``; that may be
    nothing."""
    paused: bool = False
    """Whether nothing is collected before :meth:`Feed.resume`."""
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


@attrs.define(eq=False)
class _Wish:
    """What is to be followed, and what became of that."""

    wanted: Sequence[Followed]
    change: Change | None = None


class Feed:
    """The life of one exchange in this process."""

    def __init__(self, plan: Plan, redis: Redis, chance: Callable[[], float]) -> None:
        self.plan = plan
        self.journal = Journal(plan.dialect.name)
        self._redis = redis
        self._chance = chance
        self._clock = ExchangeClock()
        self._pending = Pending()
        self.listed: Sequence[Product] = ()
        """What the exchange lists, as far as it was asked."""
        self.followed: tuple[Followed, ...] = ()
        self._products: Sequence[Product] = ()
        self._rest: Rest | None = None
        self._lease = Lease(redis, plan.dialect.name, plan.holder, plan.description)
        self.report = Report(exchange=plan.dialect.name, title=plan.dialect.title)
        self.report.description = plan.description
        self._wishes: deque[_Wish] = deque()
        self._changing = trio.Lock()
        """Held while what is followed changes, and while all of it is looked at."""
        self._collecting: trio.CancelScope | None = None
        """Of all that asks the exchange."""
        self._sockets: trio.Nursery | None = None
        self._over = False
        self._guests: set[trio.CancelScope] = set()
        """Of requests that others make through this feed."""
        self._news = trio.Event()
        """Set, and replaced, when something changed that somebody may wait for."""
        self._series: Sequence[Series] = ()
        self.newest: dict[Series, int] = {}
        """Followed series -> close time of its newest stored candle, 0 for none; empty until what
        is stored is known."""
        self._history_said = False
        self._say_history_at = 0.0
        self._scan_wanted = trio.Event()
        self._asked_doubts = 0
        """How often Redis may have been emptied since that was last forgotten: a page that was on
        its way then was noted in it as asked for, and what it brought is gone."""
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
        self.report.paused = plan.paused
        self.roster = Roster(
            plan.dialect, plan.websocket_url, self._pending, self.journal, self._recorder,
            clock=self.now, chance=chance,
            live=lambda: self._scan_wanted.set(),  # noqa: PLW0108 - it is replaced
            left_out=self._leave_out,
        )  # fmt: skip
        self.report.healths = self.roster.healths
        self.report.trackers = self.roster.trackers

    def now(self) -> int | None:
        """The exchange's time in ms: the furthest any of its connections has heard."""
        moment = trio.current_time()
        known = [tracker.clock.read(moment) for tracker in self.roster.trackers]
        heard = [time for time in known if time is not None]
        return max(heard, default=self._clock.read(moment))

    async def run(self) -> None:
        """See the module. Once in the life of a feed.

        Raises :class:`TakenError`, :class:`StoreError` and :class:`UnknownSymbol`.
        """
        try:
            await self._run()
        finally:
            self._over = True
            self._tell_waiters()

    async def _run(self) -> None:
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
                self._rest = rest
                self._tell_waiters()
                try:
                    await self._learn_products(rest)
                    await self._follow(rest)
                finally:
                    self._over = True
                    for scope in self._guests:
                        scope.cancel()
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

        owner = self.report.owners.get(alert.symbol, "")
        series = Series(alert.source_exchange_id, alert.symbol, alert.timeframe, owner)
        reply = await self._redis.one(*store.whole(series))

        def work() -> bytes | None:
            known = chart.stored(series, reply, BARS)
            return chart.draw_png(known.candles, known.readings) if known.candles else None

        return await trio.to_thread.run_sync(work, limiter=self._drawing)

    async def stay_ended(self, why: str) -> None:
        """Say why nothing is followed any more until cancelled; a successor's status stays."""
        self._over = True
        self._tell_waiters()
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

    def alert_by(self, rules: tuple[Rule, ...]) -> None:
        """Look for ``rules`` from now on; what they tell are channels that are there already."""
        self.plan = attrs.evolve(self.plan, rules=rules)
        if self.report.alerting is not None and self.report.readings is not None:
            self.report.readings.distrust(self.report.alerting.change(rules))

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
            self._asked_doubts += 1
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
        self.listed = products
        if self.plan.choose is not None:
            self._set_followed(self.plan.choose(products))
            self._tell_following()
            return
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
        self._set_followed([Followed(product) for product in self._products])
        self._tell_following()

    def _set_followed(self, followed: Iterable[Followed]) -> None:
        """What is followed, and what status says of it."""
        self.followed = tuple({one.symbol: one for one in followed}.values())
        self._products = [one.product for one in self.followed]
        self._series = [series for one in self.followed for series in self._series_of(one)]
        self.report.symbols = [one.symbol for one in self.followed]
        self.report.owners = {one.symbol: one.owner for one in self.followed if one.owner}
        self.report.aliases = aliases(self.listed, self._products)

    def _series_of(self, one: Followed) -> tuple[Series, ...]:
        return store.all_series(self.plan.dialect.name, one.symbol, one.owner)

    def _tell_following(self) -> None:
        self.journal.info("following", symbols=len(self._products), listed=len(self.listed))
        self._tell_rules()

    def _tell_rules(self) -> None:
        """Which rules are in force, and which of them look for what is not followed."""
        names = ", ".join(rule.name for rule in self.plan.rules if rule.enabled)
        channels = ", ".join(channel.name for channel in self.plan.channels)
        self.journal.info("alert rules", rules=names or "none", channels=channels or "none")
        self._tell_strange_rules()

    def _tell_strange_rules(self) -> None:
        for rule in self.plan.rules:
            strange = sorted(set(rule.symbols or ()) - set(self.report.symbols))
            if rule.enabled and strange:
                self.journal.warning(
                    "a rule names symbols that are not followed", rule=rule.name,
                    symbols=",".join(strange), next="follow them, or mend the rule",
                )  # fmt: skip

    async def _follow(self, rest: Rest) -> None:
        dialect = self.plan.dialect
        series = self._series
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
        readings = Readings(
            self._redis, self._lease, self._chance, alerting,
            first=lambda: writer.closing(),  # noqa: PLW0108
        )  # fmt: skip
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
            owners=self.report.owners,
        )  # fmt: skip
        self.report.writer, self.report.readings, self.report.repairs = writer, readings, repairs
        self.report.alerting = alerting
        self._repairs = repairs
        self.roster.wake = writer.wake
        self.roster.begin(self.followed)
        await self._patiently(lambda: alerting.start(series))
        await self._patiently(lambda: readings.start(series))
        await self._patiently(lambda: writer.seed(series, self.now() or 0))
        newest = await self._patiently(lambda: self._newest(series))
        self._learn(newest)
        await self._patiently(repairs.read_ledger)
        lacking = await self._patiently(lambda: repairs.scan(series, "history"))
        repairs.progress.total = len(series)
        repairs.progress.done = len(series) - (lacking or 0)
        self.report.started_following = True
        self._progressed(repairs)
        liveness = Liveness(
            self.roster.shards,
            rest,
            dialect.streamed,
            clock=self.now,
            say=lambda event, fields: self.journal.warning(event, **fields),
            halted=readings.halt,
        )
        self.report.liveness = liveness
        native = self.listed[0].native if self.listed else ""
        one = dialect.candles_request(native, dialect.streamed, 0, 0)
        weight = one.weight  # the budget counts what a request weighs
        verification = Verification(
            dialect, self._redis, repairs, series,
            requests_per_second=rest.budget.per_second / weight,
            clock=self.now,
            say=lambda event, fields: self.journal.info(event, **fields),
            chance=self._chance,
        )  # fmt: skip
        self.report.verification = verification
        for candles in newest.values():
            verification.resume(candles)
        try:
            async with trio.open_nursery() as pipeline:
                pipeline.start_soon(writer.run)
                pipeline.start_soon(readings.run)
                if self._recorder is not None:
                    pipeline.start_soon(self._recorder.run)
                pipeline.start_soon(self._serve_wishes)
                pipeline.start_soon(self._collect, verification, liveness)
                if not dialect.stamped:
                    pipeline.start_soon(self._keep_time, rest)
        finally:
            with trio.move_on_after(FINISH, shield=True):
                await writer.finish()
                try:
                    await readings.turn()
                except StoreError as error:
                    self.journal.warning("readings not written", why=str(error))

    async def _collect(self, verification: Verification, liveness: Liveness) -> None:
        """All that asks the exchange: it ends with a pause, and begins anew after it."""
        while True:
            await self._until(lambda: not self.paused)
            with trio.CancelScope() as self._collecting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._repairs.run)
                    nursery.start_soon(self._scan)
                    nursery.start_soon(verification.run)
                    nursery.start_soon(liveness.run)
                    for shard in liveness.shards:
                        nursery.start_soon(self.roster.keep_connected, shard)
                    self._sockets = nursery
            self._sockets = None

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

    async def _newest(self, series: Sequence[Series]) -> dict[Series, list[Candle]]:
        """The :data:`NEWEST` newest stored candles of each series, ascending."""
        calls = [store.newest_call(one, NEWEST) for one in series]
        replies = await self._redis.run_each(calls, "read")
        store.raise_unless_foreign(replies)
        newest: dict[Series, list[Candle]] = {}
        for one, reply in zip(series, replies, strict=True):
            members = [] if isinstance(reply, StoreError) else reply
            newest[one] = store.decode_candles(one, members)[0]
        return newest

    def _learn(self, newest: Mapping[Series, Sequence[Candle]]) -> None:
        """Where the stored candles of each series end; of the streamed ones the trackers learn."""
        for one, candles in newest.items():
            self.newest[one] = candles[-1].close_time if candles else 0
            if candles and one.timeframe is self.plan.dialect.streamed:
                self.roster.tracker_of[one.symbol].learn(candles[-1])

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
        freed = [one for one in freed if one in self.newest]
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
                self.roster.tracker_of[written.series.symbol].learn(known[-1])

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
        self._tell_waiters()

    @property
    def history(self) -> tuple[int, int]:
        """Series whose history is whole, and how many there are; (0, 0) before that is known."""
        repairs = self.report.repairs
        return (repairs.progress.done, repairs.progress.total) if repairs else (0, 0)

    @property
    def history_whole(self) -> bool:
        """Whether nothing of the history is missing any more."""
        done, total = self.history
        return self.report.started_following and total <= done

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
                async with self._changing:
                    served = [s for s in self._series if s.symbol not in self.report.rejected]
                    if cause == AFTER_A_BREAK:
                        await self._raise_epochs(served)
                    if doubts := self._asked_doubts:
                        await self._repairs.forget_asked(served)
                        self._asked_doubts -= doubts  # one may have come meanwhile
                    await self._repairs.scan(served, cause)
                    if self.report.readings is not None:
                        await self.report.readings.look()
            except StoreError:
                self._scan_wanted.set()
                await trio.sleep(1.0)

    async def _keep_time(self, rest: Rest) -> None:
        """Where no frame says when it was sent, the clock is REST's."""
        while True:
            await trio.sleep(TIME_EVERY)
            if self.paused:
                continue
            try:
                time = await rest.time()
            except (RestError, MalformedMessage):
                continue
            for tracker in self.report.trackers:
                tracker.told_time(time, trio.current_time())

    # -- for who commands it --------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether nothing is collected because a person wants it so."""
        return self.report.paused

    @property
    def phase(self) -> str:
        """``starting``, ``warming`` while history is missing, ``active``, or ``paused``."""
        if self.paused:
            return "paused"
        if not self.report.started_following:
            return "starting"
        return "active" if self.history_whole else "warming"

    async def next_phase(self, known: str) -> str:
        """The phase, once it is not ``known``. Raises :class:`NotRunning` when the feed ends."""
        await self._until(lambda: self.phase != known)
        return self.phase

    def pause(self) -> None:
        """Close the sockets and ask REST nothing; lease, status and delivery live on."""
        if self.paused:
            return
        self.report.paused = True
        if self._collecting is not None:
            self._collecting.cancel()
        self.journal.info("paused", next="nothing is collected until it is resumed")
        self._tell_waiters()

    def resume(self) -> None:
        """Collect again; what closed meanwhile is repaired as after an outage."""
        if not self.paused:
            return
        self.report.paused, self.report.resumed = False, self.now()
        self._scan_wanted.set()
        self.journal.info("resumed", next="what closed meanwhile is repaired")
        self._tell_waiters()

    async def relist(self) -> Sequence[Product]:
        """Ask what the exchange lists now, within the feed's budget.

        Raises :class:`RestError`, :class:`MalformedMessage`, and :class:`NotRunning` when the feed
        ends before it could ask.
        """
        await self._until(lambda: bool(self.listed))
        with trio.CancelScope() as scope:
            self._guests.add(scope)
            try:
                if self._rest is not None and not self._over:
                    self.listed = await self._rest.products()
            finally:
                self._guests.discard(scope)
        await self._until(lambda: not self._over)
        self.report.aliases = aliases(self.listed, self._products)
        return self.listed

    async def follow(self, wanted: Sequence[Followed]) -> Change:
        """Follow just these from now on; returns what is new and what is gone.

        What stays is not disturbed. It waits for the feed to have begun, and for Redis; it is
        applied also when the caller is cancelled. Raises :class:`NotRunning` when the feed ends
        before that.
        """
        wish = _Wish(tuple(wanted))
        self._wishes.append(wish)
        self._tell_waiters()
        await self._until(lambda: wish.change is not None)
        assert wish.change is not None
        return wish.change

    async def whole(
        self, symbols: Iterable[str], told: Callable[[int, int], object] = lambda done, total: None
    ) -> None:
        """Wait until nothing is missing of the history of ``symbols``, as far as they are followed.

        ``told`` hears how many of how many series that is so of, whenever it changes. Raises
        :class:`NotRunning` when the feed ends.
        """
        names, said = frozenset(symbols), (-1, -1)

        def look() -> bool:
            nonlocal said
            if not self.report.started_following:
                return False
            total = sum(one.symbol in names for one in self._series)
            done = total - self._repairs.lacking(names)
            if said != (done, total):
                said = done, total
                told(done, total)
            return done >= total

        await self._until(look)

    def _tell_waiters(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _until(self, what: Callable[[], bool]) -> None:
        while not what():
            if self._over:
                name = self.plan.dialect.name
                raise NotRunning(f"the feed of {name} ended: it is asked again once it runs")
            await self._news.wait()

    # -- what is followed changes ---------------------------------------------------------

    async def _serve_wishes(self) -> None:
        while True:
            await self._until(lambda: bool(self._wishes))
            wish = self._wishes[0]
            wish.change = await self._change(wish.wanted)
            self._wishes.popleft()
            self._tell_waiters()

    async def _change(self, wanted: Sequence[Followed]) -> Change:
        """One step after the other, and each of them until Redis lets it be done."""
        known = {one.symbol: one for one in self.followed}
        asked = {one.symbol: one for one in wanted}
        for symbol in known.keys() & asked.keys():  # its listing may be newer: it is the same one
            asked[symbol] = attrs.evolve(asked[symbol], product=known[symbol].product)
        gone = tuple(one for symbol, one in known.items() if asked.get(symbol) != one)
        new = tuple(one for symbol, one in asked.items() if known.get(symbol) != one)
        if not new and not gone:
            return Change()
        async with self._changing:
            if leaving := [one for one in gone if one.symbol not in asked]:
                await self._leave(leaving)
            for one in new:
                if one.symbol in known:
                    await self._move(known[one.symbol], one)
            if joining := [one for one in new if one.symbol not in known]:
                await self._join(joining)
            self._set_followed(asked.values())
        self.journal.info(
            "what is followed changed", new=",".join(one.symbol for one in new) or "none",
            gone=",".join(one.symbol for one in gone) or "none", symbols=len(self.followed),
        )  # fmt: skip
        self._tell_strange_rules()
        return Change(new, gone)

    async def _join(self, joining: Sequence[Followed]) -> None:
        """As at a start, for these alone."""
        writer, _ = self._parts()
        series = [series for one in joining for series in self._series_of(one)]
        await self._patiently(lambda: self._look_at_keys(series))
        await self._patiently(lambda: self._raise_epochs(series))
        await self._patiently(lambda: self._begin_reading(series))
        await self._patiently(lambda: writer.seed(series, self.now() or 0))
        newest = await self._patiently(lambda: self._newest(series))
        self._set_followed([*self.followed, *joining])
        for one in joining:
            opened = self.roster.attach(one)
            if opened is not None:
                self._begin_shard(opened)
            self._repairs.follow(one.symbol, one.product.native, one.owner)
        self._learn(newest)
        self.newest.update(dict.fromkeys(series, 0))  # what is old was followed by nobody
        if self.report.verification is not None:
            self.report.verification.follow(series)
            for candles in newest.values():
                self.report.verification.resume(candles)
        await self._scan_new(series)

    async def _leave(self, leaving: Sequence[Followed]) -> None:
        """Nothing of these waits any more, nothing more comes, and then nothing is stored."""
        writer, readings = self._parts()
        symbols = {one.symbol for one in leaving}
        series = [series for one in leaving for series in self._series_of(one)]
        async with writer.still(), readings.still():
            self._set_followed([one for one in self.followed if one.symbol not in symbols])
            if (now := self.now()) is not None:  # what their connections have heard may go with it
                self._clock = ExchangeClock()
                self._clock.hear(now, trio.current_time())
            for one in leaving:
                self.roster.detach(one)
            writer.forget(series)
            readings.forget(series)
            self._forget(series)
        await self._patiently(lambda: self._remove(series, symbols))

    async def _move(self, before: Followed, after: Followed) -> None:
        """The same product in other keys: what is stored comes along, and what waits."""
        writer, readings = self._parts()
        pairs = list(zip(self._series_of(before), self._series_of(after), strict=True))
        old, series = [one for one, _ in pairs], [one for _, one in pairs]
        await self._patiently(lambda: self._look_at_keys(series))
        await self._patiently(lambda: self._raise_epochs(series))

        async def carry_over() -> None:
            async with writer.still():
                await self._copy(pairs)
                for one, another in pairs:
                    writer.move(one, another)
                    self._repairs.move(one, another)
                    self.newest[another] = self.newest[one]
                self._set_followed([after if one == before else one for one in self.followed])
                product = after.product
                tracker = self.roster.tracker_of[product.symbol]
                tracker.move(product.native, self.roster.streamed(after))
                readings.forget(old)
                self._forget(old)
                self._repairs.follow(product.symbol, product.native, after.owner)
                if self.report.verification is not None:
                    self.report.verification.follow(series)

        async with readings.still():
            await self._patiently(carry_over)
            await self._patiently(lambda: self._begin_reading(series, still=True))
        await self._patiently(lambda: self._remove(old, ()))
        await self._scan_new(series)

    def _begin_shard(self, shard: Shard) -> None:
        if self.report.liveness is not None:
            shard.tracker.halted = self.report.liveness.halted_since is not None
        if self._sockets is not None:
            self._sockets.start_soon(self.roster.keep_connected, shard)

    def _leave_out(self, rejected: Mapping[str, str]) -> None:
        """What the exchange does not serve, by symbol, and why."""
        self.report.rejected = rejected
        self._repairs.leave_out(rejected)

    def _parts(self) -> tuple[Writer, Readings]:
        assert self.report.writer is not None
        assert self.report.readings is not None
        return self.report.writer, self.report.readings

    async def _begin_reading(self, series: Sequence[Series], *, still: bool = False) -> None:
        """``still``: no turn of the readings is under way already."""
        assert self.report.alerting is not None
        _, readings = self._parts()
        async with contextlib.AsyncExitStack() as stack:
            if not still:
                await stack.enter_async_context(readings.still())
            await self.report.alerting.start(series)
            await readings.start(series)

    async def _scan_new(self, series: Sequence[Series]) -> None:
        lacking = await self._patiently(lambda: self._repairs.scan(series, "history"))
        progress = self._repairs.progress
        progress.total += len(series)
        progress.done += len(series) - (lacking or 0)
        self._progressed(self._repairs)

    def _forget(self, series: Collection[Series]) -> None:
        """Those of the parts that hold nothing over a turn."""
        self._repairs.forget(series)
        if self.report.verification is not None:
            self.report.verification.forget(series)
        for one in series:
            self.newest.pop(one, None)
        self._foreign = {key: one for key, one in self._foreign.items() if one not in series}

    async def _copy(self, pairs: Sequence[tuple[Series, Series]]) -> None:
        replies = await self._redis.run(
            [call for before, _ in pairs for call in store.read_all(before)]
        )
        calls: list[Call] = []
        for k, (_, after) in enumerate(pairs):
            life = store.life(after, self._chance)
            calls += store.adopt(after, self._lease.epoch, replies[3 * k : 3 * k + 3], life)
        store.raise_unless_foreign(await self._redis.run_each(calls))

    async def _remove(self, series: Sequence[Series], symbols: Collection[str]) -> None:
        """Delete what is stored of ``series``, and of ``symbols`` what is stored beside them.

        In the lane in which repairs write: what is on its way there comes before.
        """
        if not self._lease.valid():
            raise StoreError("the lease lapsed: nothing is removed until it is ours again")
        exchange, epoch = self.plan.dialect.name, self._lease.epoch
        calls = [call for one in series for call in store.remove(one, epoch)]
        calls += [store.forget(store.ticker_key(exchange, one), epoch) for one in symbols]
        if symbols:
            fields = [outbox.memory_field(one) for one in series]
            calls.append(("HDEL", outbox.rules_key(exchange), *fields))
        store.raise_unless_foreign(await self._redis.run_each(calls, "publish"))
        await self._repairs.clear_ledger(series)

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
