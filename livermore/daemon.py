"""Opens resources outside in, runs the feeds, closes inside out.

``serve`` is the daemon as an async function: it runs until cancelled or until something ends it for
good. ``main`` is the process around it: signals, time limit, exit code.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from livermore import __version__
from livermore.adapters.bans import Bans
from livermore.adapters.channels import open_channels
from livermore.adapters.memory import collect_rarely, give_back, set_aside
from livermore.adapters.redis import Redis
from livermore.adapters.systemd import Notifier, status
from livermore.adapters.urls import websocket_address
from livermore.adapters.valkey import open_private_valkey, revive_private_valkey
from livermore.config import DEFAULT_TOP, Own, Settings, channel_variables, manager
from livermore.control.announcing import Announcer
from livermore.control.command import Command
from livermore.control.desk import Desk
from livermore.control.memory import PAUSED, STOPPED, check_free, forget, lives, place_of, recall
from livermore.control.operator import Operator, mode_of
from livermore.control.registry import Instance, describe_fleet, keep_registered
from livermore.dialect import Dialect
from livermore.errors import (
    CommandRefused,
    ConfigurationError,
    Fenced,
    LivermoreError,
    Refused,
    StoreError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
)
from livermore.exchanges import DIALECTS
from livermore.exchanges import dialect as dialect_of
from livermore.market.lifecycle import State
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.profile.merging import Merged, same_channels
from livermore.profile.people import People, with_alerts
from livermore.runtime.backfill import Filled, Report, Wish, fill
from livermore.runtime.blind import LOOK, Blind, Look, look_at, watch_blind
from livermore.runtime.certification import Certified, certificates
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.fleet import Change, Fleet
from livermore.runtime.following import Following
from livermore.runtime.journal import Journal
from livermore.runtime.lease import ASK
from livermore.runtime.supervise import first_of, supervise
from livermore.runtime.watchdog import notify
from livermore.signals.alert import Entry
from livermore.signals.rule import Kind

if TYPE_CHECKING:
    from livermore.adapters.postgres import Database

REVIVE = 3.0
"""Seconds between two looks at whether the private Valkey answers."""
ASIDE = 3600.0
"""Seconds between two times that all memory is looked through for garbage, at least."""
TRIM = 10.0
"""Seconds between two times that memory nobody uses goes back to the system."""
FOLLOWED = frozenset({"symbols", "top", "own", "alerts", "channels"})
"""The settings that a reload follows, URLs of an exchange apart."""
LOOK_AT_FOLLOWED = 2.0
"""Seconds between two looks at what is followed, where users' rules depend on it."""
LISTENS = 3.0
"""Seconds that feeds wait until commands are heard."""
ENDS = (TakenError, UnknownSymbol, StoreUnusable, ConfigurationError, Refused)
"""What only a person can mend: it ends a feed for good."""


@attrs.frozen
class Running:
    """What :func:`serve` reports once it runs."""

    redis: Redis
    feeds: Mapping[str, Feed]
    fleet: Fleet
    reload: Callable[[], Awaitable[str]]
    """Follows what the settings name now, and says what changed; raises :class:`LivermoreError`."""
    expected: Sequence[str]
    """The exchanges that are meant to be followed now."""
    metrics_url: str = ""
    """Where metrics and health are served, if they are."""
    endings: Endings = attrs.Factory(lambda: Endings([]))
    """Which of the feeds ended for good."""

    @property
    def followings(self) -> Sequence[Following]:
        """What the feeds follow."""
        cells = [self.fleet.cell(name) for name in self.expected]
        return [cell.following for cell in cells if cell.following is not None]

    @property
    def redis_url(self) -> str:
        """Where the candles are."""
        return self.redis.url


@attrs.define
class Endings:
    """Feeds that ended for good beside others that go on."""

    exchanges: Sequence[str]
    errors: dict[str, LivermoreError] = attrs.Factory(dict)
    """By exchange, in the order of their ends."""
    stays: bool = False
    """Whether the process waits for commands also when nothing runs any more."""
    told: Callable[[str, LivermoreError], object] = lambda exchange, error: None

    def add(self, exchange: str, error: LivermoreError) -> None:
        """Raises the first error when this was the last feed."""
        self.errors[exchange] = error
        if len(self.errors) == len(self.exchanges) and not self.stays:
            raise next(iter(self.errors.values()))
        self.told(exchange, error)


@attrs.define
class Unlisted:
    """Symbols that are meant for whichever exchange lists them: one of them has to."""

    exchanges: Sequence[str]
    found: dict[str, Mapping[str, str]] = attrs.Factory(dict)
    """Exchange -> what it does not list, with the message that says so."""
    known: trio.Event = attrs.Factory(trio.Event)
    """Every exchange has said what it lists."""

    def hear(self, exchange: str, unlisted: Mapping[str, str]) -> None:
        """What one exchange does not list."""
        if exchange in self.exchanges:
            self.found[exchange] = unlisted
        if self.found and len(self.found) == len(self.exchanges):
            self.known.set()

    def check(self) -> None:
        """Raises :class:`UnknownSymbol` for what none of them lists."""
        first, *others = (self.found[name] for name in self.exchanges)
        for symbol, message in first.items():
            if all(symbol in other for other in others):
                raise UnknownSymbol(f"{message} (none of {', '.join(self.exchanges)} lists it)")

    async def watch(self) -> None:
        """:meth:`check` it as soon as all is known."""
        await self.known.wait()
        self.check()


T = TypeVar("T")
Watch = Callable[[Mapping[str, Feed]], Awaitable[None]]
Again = Callable[[], Settings]
"""Reads the settings again, from the same sources."""


async def serve(
    settings: Settings,
    again: Again | None = None,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the feeds of ``settings``, and those that commands start, until cancelled.

    ``again`` reads the settings again where a command wants it.
    Raises :class:`LivermoreError` when it cannot go on.
    """
    if settings.database_url is not None:
        from livermore.adapters import schema  # psycopg is for those who want it

        await schema.check_database(settings.database_url, settings.exchanges or tuple(DIALECTS))
    async with open_store(settings) as redis, open_database(settings) as database:
        feeds: dict[str, Feed] = {}
        expected: list[str] = []
        try:
            async with trio.open_nursery() as nursery:
                if settings.redis_url is None:
                    nursery.start_soon(keep_private_valkey, settings.state_dir, redis)
                nursery.start_soon(keep_small)
                if settings.database_url is not None:
                    from livermore.runtime.historian import keep_histories

                    nursery.start_soon(
                        keep_histories, DIALECTS, redis, settings.database_url, random.random
                    )
                metrics_url = ""
                if settings.metrics_port is not None:
                    from livermore.runtime import health  # 50 ms for those who want it

                    listeners = await health.open_listeners(
                        settings.metrics_host, settings.metrics_port
                    )
                    metrics_url = health.url_of(listeners[0])
                    sources = health.sources(expected, feeds)
                    nursery.start_soon(
                        health.keep_health, listeners, settings.metrics_host, sources, random.random
                    )
                running = await start_fleet(
                    nursery, settings, again, redis, database, feeds, expected, metrics_url
                )
                task_status.started(running)
                await trio.sleep_forever()
        except BaseException as error:
            if only_cancelled(error):  # who was stopped by a failure comes back to what he was told
                with trio.move_on_after(1, shield=True):
                    await forget(redis, tuple(DIALECTS), place_of(settings.state_dir))
            raise


def only_cancelled(error: BaseException) -> bool:
    """Whether nothing else happened."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


async def start_fleet(
    nursery: trio.Nursery,
    settings: Settings,
    again: Again | None,
    redis: Redis,
    database: Database | None,
    feeds: dict[str, Feed],
    expected: list[str],
    metrics_url: str,
) -> Running:
    """Start what the settings name, and what a process that was killed here had been told."""
    place = place_of(settings.state_dir)
    instance = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    began = trio.current_time()
    first = [] if settings.idle else [*settings.exchanges]
    first += [name for name in settings.autostart if name not in first]
    marks = dict(await recall(redis, tuple(DIALECTS), place))
    for name in [name for name in marks if name not in first]:
        if await lives(redis, name):  # another daemon of this place
            del marks[name]
    for name, mark in marks.items():
        if mark == STOPPED and name in first:
            first.remove(name)
        elif mark != STOPPED and name not in first:
            first.append(name)
    unlisted = Unlisted([name for name in first if settings.of(name).shared])
    endings = Endings(expected, stays=settings.idle or not first)
    announcer = Announcer(redis, instance)
    journal = Journal("control")
    now = settings
    found: dict[str, Merged] = {}
    people = People(database, journal)
    for name in () if settings.idle or settings.exchanges else await people.autostart():
        if name not in first and marks.get(name) != STOPPED:
            first.append(name)

    async def make(exchange: str, paused: bool) -> Following:
        if exchange not in first:
            # By a command: whoever gave it wants to hear that somebody else has it.
            if not settings.standby:
                await check_free(redis, exchange)
            check_served(dialect_of(exchange), now.country)
        plan = await people.overridden(plan_of(now, exchange, unlisted), now.of(exchange))
        # The lease of our own last life lapses.
        standby = plan.standby or (exchange in marks and exchange not in settings.exchanges)
        plan = attrs.evolve(plan, standby=standby)
        plan = attrs.evolve(plan, paused=True) if paused else plan
        found[exchange] = await people.merged(now, exchange)
        plan = with_alerts(plan, found[exchange], redis)
        return Following(plan, redis, database, random.random)

    async def realert() -> str:
        """Alert by what users and file want now; says what changed."""
        changed = []
        for following in running.followings:
            name = following.name
            wanted, before = await people.merged(now, name), found.get(name)
            if wanted == before:
                continue
            plan = with_alerts(following.plan, wanted, redis)  # may complain: then nothing changed
            same = before is not None and same_channels(wanted, before)
            if same:
                plan = attrs.evolve(plan, channels=following.plan.channels)
            found[name], following.plan = wanted, plan
            if same and following.feed is not None:
                following.feed.alert_by(wanted.rules)
                changed.append(f"{name}: rules changed")
            else:
                fleet.renew(name)
                changed.append(f"{name}: rules and channels changed")
        return "; ".join(changed)

    async def keep_alerting() -> None:
        """A user's rules look at what the user follows, whoever changed that."""
        known: dict[str, object] = {}
        while True:
            await trio.sleep(LOOK_AT_FOLLOWED)
            feeds_now = [cell.feed for cell in fleet.cells.values() if cell.feed is not None]
            followed = {feed.plan.dialect.name: feed.followed for feed in feeds_now}
            if followed != known:
                known = dict(followed)
                try:
                    await realert()
                except LivermoreError as error:
                    journal.warning("alerts stay as they are", why=str(error))

    async def live(following: Following) -> None:
        async with trio.open_nursery() as both:
            if any(rule.kind is Kind.BLIND and rule.enabled for rule in following.plan.rules):
                both.start_soon(tell_blindness, following.name, feeds)
            await keep_feeding(following, redis, feeds, settings.country, endings)

    def told(change: Change) -> None:
        name = change.exchange
        if change.after is State.STARTING and name not in expected:
            expected.append(name)
        if change.after in (State.STARTING, State.IDLE):
            endings.errors.pop(name, None)
        if change.after is State.IDLE:
            feeds.pop(name, None)
            expected.remove(name)
            endings.stays = True
            journal.info("stopped", of=name, next=f"livermore ctl start --exchange {name}")
        announcer.tell(change)

    fleet = Fleet(nursery, make, live, told)
    endings.told = fleet.failed

    async def reload_now() -> str:
        nonlocal now
        if again is None:
            raise ConfigurationError("these settings came from no source that can be read again")
        now, text = await reloaded(now, again, running)
        for following in running.followings:
            await following.reread()
        return "; ".join(filter(None, (text, await realert())))

    running = Running(redis, feeds, fleet, reload_now, expected, metrics_url, endings)

    async def backfill_now(command: Command, report: Report) -> Filled:
        return await fill_now(redis, plan_of(now, command.exchange), feeds, command, report)

    operator = Operator(fleet, redis, place, reload_now, backfill_now)
    desk = Desk(
        redis, instance, tuple(DIALECTS), fleet, operator.acts(), settings.control_secret,
        chance=random.random,
    )  # fmt: skip

    def describe() -> Instance:
        return Instance(
            instance, socket.gethostname(), os.getpid(), __version__,
            round(trio.current_time() - began, 1),
            describe_fleet(fleet, functools.partial(mode_of, fleet)), dict(desk.counts),
        )  # fmt: skip

    nursery.start_soon(unlisted.watch)
    nursery.start_soon(announcer.run)
    nursery.start_soon(fleet.watch)
    if database is not None:
        nursery.start_soon(
            functools.partial(
                supervise, "rules of users", keep_alerting, journal, chance=random.random
            )
        )
    nursery.start_soon(
        functools.partial(supervise, "control", desk.run, journal, chance=random.random)
    )
    registered = functools.partial(keep_registered, redis, describe, fleet.next_change)
    nursery.start_soon(
        functools.partial(supervise, "registry", registered, journal, chance=random.random)
    )
    with trio.move_on_after(LISTENS):  # a Redis that went away meanwhile is waited for by itself
        await desk.listening.wait()
    for name in first:
        if marks.get(name) == PAUSED:
            journal.info("paused by a command", of=name, next=f"livermore ctl resume -e {name}")
        try:
            await fleet.start(name, paused=marks.get(name) == PAUSED)
        except Refused as error:
            if len(first) == 1 and not endings.stays:
                raise
            journal.warning("not followed", of=name, why=str(error))
    if not first:
        journal.info("idle", next="livermore ctl start --exchange coinbase")
    return running


async def keep_small(now: Callable[[], float] = time.time) -> None:
    """Give back what a moment of much work took; look for garbage far from where candles end."""
    collect_rarely()
    due = 6 * TRIM  # until then what lives long is made
    while True:
        await trio.sleep(TRIM)
        await trio.to_thread.run_sync(give_back)
        due -= TRIM
        if due <= 0 and 20 <= now() % 60 < 40:
            set_aside()
            due = ASIDE


async def keep_private_valkey(state_dir: Path, redis: Redis) -> None:
    """Start the private Valkey anew when it died; its data and its address stay the same."""
    said = False
    while True:
        await trio.sleep(REVIVE)
        try:
            await redis.one("PING")
            said = False
        except StoreError as error:
            if not said:  # once per outage
                logging.getLogger("livermore").warning(
                    "the private Valkey does not answer",
                    extra={"fields": {"why": str(error), "next": "it is started anew"}},
                )
            said = True
            with contextlib.suppress(ConfigurationError, StoreError):
                await trio.to_thread.run_sync(revive_private_valkey, state_dir)


async def keep_feeding(
    following: Following,
    redis: Redis,
    feeds: dict[str, Feed],
    country: str | None,
    endings: Endings,
) -> None:
    """One feed for good: a bug restarts it, what only a person can mend ends it.

    The others go on. The end of the last one raises what ended the first. Where several are run,
    an exchange that another daemon holds is waited for.
    """
    name = following.name
    journal = Journal(name)

    async def live() -> None:
        while True:
            feeds[name] = following.feed = Feed(following.plan, redis, random.random)
            try:
                await feeds[name].run()
            except* TakenError as error:
                if not following.plan.standby and len(endings.exchanges) == 1:
                    raise
                journal.warning(
                    "another daemon holds the exchange", why=str(first_of(error)),
                    next="it is taken over once it is free",
                )  # fmt: skip
                # Nobody starts one feed of several anew, and it may be the lease of our own last
                # life, which lapses.
                following.plan = attrs.evolve(following.plan, standby=True)
                await trio.sleep(ASK)
            else:
                return

    def failed(why: str, wait: float) -> None:
        if name in feeds:
            report = feeds[name].report
            report.lost, report.again_at = why, trio.current_time() + wait

    ended: Exception | None = None
    try:
        check_served(following.plan.dialect, country)
        await following.run(
            lambda: supervise(
                f"feed {name}", live, journal, chance=random.random, failed=failed, ends=ENDS
            )
        )
    except* ENDS as error:
        ended = first_of(error)
    assert isinstance(ended, LivermoreError)
    if name not in feeds:
        feeds[name] = Feed(following.plan, redis, random.random)
    if len(endings.exchanges) > 1:
        feeds[name].journal.warning(
            "not followed any more", why=str(ended), next="restart once that is mended"
        )
    endings.add(name, ended)
    await supervise(
        f"status of {name}",
        lambda: feeds[name].stay_ended(str(ended)),
        journal,
        chance=random.random,
    )


def check_served(dialect: Dialect, country: str | None) -> None:
    """Raises :class:`Refused` where ``dialect`` says that it does not serve ``country``."""
    if country is None or dialect.geo.serves(country):
        return
    note = f" ({dialect.geo.note})" if dialect.geo.note else ""
    other = DIALECTS.get(dialect.geo.alternative)
    step = "leave it away (see: livermore exchanges)"
    if other is not None and other.geo.serves(country):
        step = f"use {other.title} instead: livermore run {other.name}"
    raise Refused(f"{dialect.name}: {dialect.title} does not serve {country}{note}: {step}")


async def tell_blindness(name: str, feeds: Mapping[str, Feed]) -> None:
    """Tell people when closed candles stop coming, also while the feed breaks off."""

    def look() -> Look | None:
        feed = feeds.get(name)
        return look_at(feed.report, feed.now(), feed.newest) if feed is not None else None

    async def post(entries: Sequence[Entry]) -> None:
        while not feeds[name].delivering:
            if feeds[name].report.standby:
                return
            await trio.sleep(LOOK)
        with contextlib.suppress(Fenced):  # its successor tells
            await feeds[name].tell(entries)

    blind = Blind(name, round(time.time() * 1000), trio.current_time())
    # Of a bug in it only the telling is lost for a moment, not the daemon.
    await supervise(
        f"watch over {name}",
        lambda: watch_blind(blind, look, post),
        Journal(name),
        chance=random.random,
    )


async def reload(settings: Settings, again: Again, running: Running) -> Settings:
    """:func:`reloaded`; whatever is wrong is told in a line, and all stays as it is."""
    try:
        return (await reloaded(settings, again, running))[0]
    except LivermoreError as error:
        why = {"why": str(error), "next": "the old symbols stay; mend it and reload again"}
        logging.getLogger("livermore").warning("not reloaded", extra={"fields": why})
        return settings


async def reloaded(settings: Settings, again: Again, running: Running) -> tuple[Settings, str]:
    """Follow what the settings name now, as far as that changed: those in force, and what changed.

    Raises :class:`LivermoreError`, and then all is as it was.
    """
    log = logging.getLogger("livermore")
    fresh = await trio.to_thread.run_sync(again)
    names = [following.name for following in running.followings]
    wanted = attrs.evolve(fresh, exchanges=settings.exchanges)
    told = {name: wanted.of(name) for name in names}
    changed = [
        following
        for following in running.followings
        if _followed(told[following.name]) != _followed(settings.of(following.name))
        and following.name not in running.endings.errors
    ]
    lists = [
        await following.listed(own.symbols, own.top or DEFAULT_TOP, own.shared)
        for following, own in ((one, told[one.name]) for one in changed)
    ]
    unlisted = Unlisted([name for name, own in told.items() if own.shared])
    for following, listed in zip(changed, lists, strict=True):
        unlisted.hear(following.name, listed.unlisted)
    if unlisted.known.is_set():
        unlisted.check()
    said = []
    for following, listed in zip(changed, lists, strict=True):
        own, symbols = told[following.name], [product.symbol for product in listed.products]
        change = await following.change(own.symbols, own.top or DEFAULT_TOP, own.shared)
        new, gone = ([one.symbol for one in some] for some in (change.new, change.gone))
        journal = Journal(following.name)
        some = {"new": ",".join(new) or "none", "gone": ",".join(gone) or "none"}
        journal.info("symbols reloaded", symbols=len(symbols), **some)
        said.append(f"{following.name}: {len(symbols)} symbols, {len(new)} new, {len(gone)} gone")
    for following in running.followings:
        if following not in changed and following.name not in running.endings.errors:
            with contextlib.suppress(StoreError):
                await following.reread()  # users may follow something else
    if not changed:
        because = {"because": f"{fresh.symbols_by} names them"} if fresh.symbols_by else {}
        log.info("the symbols stay as they are", extra={"fields": because})
        said.append("the symbols stay as they are")
    if others := _others(settings, fresh):
        log.warning(
            "other changes need a restart", extra={"fields": {"settings": ",".join(others)}}
        )
        said.append(f"changes of {', '.join(others)} need a restart")
    kept = attrs.evolve(
        settings,
        symbols=fresh.symbols,
        top=fresh.top,
        alerts=fresh.alerts,
        channels=fresh.channels,
        own={
            name: attrs.evolve(
                settings.own.get(name, Own()),
                symbols=fresh.own.get(name, Own()).symbols,
                top=fresh.own.get(name, Own()).top,
            )
            for name in settings.own.keys() | fresh.own.keys()
        },
    )
    return kept, "; ".join(said)


def _followed(own: Own) -> tuple[object, ...]:
    """What a reload follows."""
    return own.symbols, own.top, own.shared


def _others(settings: Settings, fresh: Settings) -> list[str]:
    """What changed and is followed by no reload, by name."""
    names = {
        field.name
        for field in attrs.fields(Settings)
        if field.eq
        and field.name not in FOLLOWED
        and getattr(fresh, field.name) != getattr(settings, field.name)
    }
    for name in settings.exchanges:
        before, after = settings.own.get(name, Own()), fresh.own.get(name, Own())
        for key in ("rest_url", "websocket_url"):
            if getattr(before, key) != getattr(after, key):
                names.add(f"{key} of {name}")
    return sorted(names)


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Redis]:
    """The Redis of the settings, or the private Valkey, checked before anything starts."""
    async with contextlib.AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            private = open_private_valkey(settings.state_dir)
            url = await trio.to_thread.run_sync(private.__enter__)

            async def leave() -> None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(private.__exit__, None, None, None)

            stack.push_async_callback(leave)
        redis = Redis(url)
        stack.callback(redis.close)
        try:
            await redis.one("PING")
        except StoreUnusable:
            raise
        except StoreError as error:
            raise StoreError(
                f"{error}: start that Redis, or leave --redis-url and LIVERMORE_REDIS_URL away "
                "to use a private one"
            ) from error
        yield redis


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database | None]:
    """The database of the settings, where there is one; nothing is connected yet."""
    if settings.database_url is None:
        yield None
        return
    from livermore.adapters.postgres import Database

    with contextlib.closing(Database(settings.database_url)) as database:
        yield database


def plans(settings: Settings) -> Iterator[Plan]:
    """One plan per exchange of the settings."""
    for name in settings.exchanges:
        yield plan_of(settings, name)


def plan_of(settings: Settings, name: str, unlisted: Unlisted | None = None) -> Plan:
    """What the feed of one exchange is told; ``unlisted`` hears what it does not find."""
    host, pid = socket.gethostname(), os.getpid()
    channels = open_channels(settings.channels, channel_variables(settings.channels))
    started = datetime.now(UTC)
    dialect, own = dialect_of(name), settings.of(name)
    return Plan(
        dialect=dialect,
        websocket_url=websocket_address(dialect, own.websocket_url),
        rest_url=own.rest_url or dialect.rest_url,
        symbols=own.symbols,
        top=own.top or DEFAULT_TOP,
        shared=own.shared,
        unlisted=functools.partial(unlisted.hear, name) if unlisted else lambda unlisted: None,
        bans=Bans.of(settings.state_dir, name),
        standby=settings.standby,
        state_dir=settings.state_dir,
        recorder=settings.recorder,
        rules=settings.alerts,
        channels=channels,
        holder=f"{host}:{pid}:{uuid.uuid4().hex[:12]}",
        description={
            "pid": pid,
            "host": host,
            "since": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "started": int(started.timestamp() * 1000),
        },
    )


@attrs.frozen(kw_only=True)
class BackfillRequest:
    """What ``livermore backfill`` was asked for; ``since_ms`` is epoch ms."""

    exchange: str
    symbols: tuple[str, ...]
    timeframes: tuple[Timeframe, ...]
    since_ms: int | None = None
    dry_run: bool = False


def backfill(settings: Settings, request: BackfillRequest, report: Report) -> Filled:
    """Fill gaps now, see :mod:`livermore.runtime.backfill`. Raises :class:`LivermoreError`."""

    async def run() -> Filled:
        plan = next(plans(attrs.evolve(settings, exchanges=(request.exchange,))))
        check_served(plan.dialect, settings.country)
        async with open_store(settings) as redis:
            return await fill(
                redis,
                plan.dialect,
                plan.rest_url,
                Wish(request.symbols, request.timeframes, request.since_ms),
                report,
                dry_run=request.dry_run,
                holder=plan.holder,
                description=plan.description,
                chance=random.random,
                bans=plan.bans,
            )

    return _run_alone(run)


@attrs.frozen(kw_only=True)
class VerifyRequest:
    """What ``livermore verify`` was asked for; ``since_ms`` is epoch ms.

    ``named``: whether a person named the symbols; else they are what is followed or stored.
    """

    exchange: str
    symbols: tuple[str, ...]
    timeframes: tuple[Timeframe, ...]
    named: bool
    since_ms: int | None = None


async def fill_now(
    redis: Redis, plan: Plan, feeds: Mapping[str, Feed], command: Command, report: Report
) -> Filled:
    """What ``force-backfill`` asks of the daemon that runs: gaps in its own ledger."""
    symbols = command.symbols or tuple(feeds[plan.dialect.name].report.symbols)
    named = command.payload.get("timeframe", "")
    try:
        timeframes = (Timeframe(named),) if named else TIMEFRAMES
    except ValueError:
        raise CommandRefused(f"unknown timeframe {named[:20]!r}: 5m, 15m, 1h, 4h or 1d") from None
    wish = Wish(symbols, timeframes, command.payload.get("since"))
    return await fill(
        redis, plan.dialect, plan.rest_url, wish, report,
        dry_run=False, holder=plan.holder, description=plan.description, chance=random.random,
        bans=plan.bans,
    )  # fmt: skip


def verify(settings: Settings, request: VerifyRequest, report: Report) -> Certified:
    """Compare the store with REST now, see :mod:`livermore.runtime.certification`.

    Raises :class:`LivermoreError`.
    """

    async def run() -> Certified:
        plan = next(plans(attrs.evolve(settings, exchanges=(request.exchange,))))
        check_served(plan.dialect, settings.country)
        async with open_store(settings) as redis:
            return await certificates(
                redis,
                plan.dialect,
                plan.rest_url,
                Wish(request.symbols, request.timeframes, request.since_ms),
                report,
                stored_only=not request.named,
                holder=plan.holder,
                description=plan.description,
                chance=random.random,
                bans=plan.bans,
            )

    return _run_alone(run)


def _run_alone(work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``; of a group of errors the one a person can read."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        error = first_of(group)
        if isinstance(error, LivermoreError):
            raise error from None
        raise


def main(settings: Settings, watch: Watch | None = None, again: Again | None = None) -> None:
    """Run until a signal or the time limit; raises :class:`LivermoreError`.

    ``watch`` runs beside the daemon and is given its feeds by exchange. With ``again`` a SIGHUP
    reloads the symbols.
    """
    try:
        trio.run(_run, settings, watch, again)
    except LivermoreError as error:
        Notifier(manager().address).tell(status(str(error)))
        raise


async def _run(settings: Settings, watch: Watch | None, again: Again | None) -> None:
    told = manager()
    notifier = Notifier(told.address)
    terminal = os.isatty(0)
    asked, hangups = trio.open_memory_channel[None](1)  # one that waits is as good as many

    async def reload_when_asked(running: Running) -> None:
        async for _ in hangups:
            notifier.reloading()
            try:
                await running.reload()
            except LivermoreError as error:
                why = {"why": str(error), "next": "the old symbols stay; mend it and reload again"}
                logging.getLogger("livermore").warning("not reloaded", extra={"fields": why})
            notifier.tell("READY=1")

    try:
        async with trio.open_nursery() as nursery:

            def stop(because: str) -> None:
                logging.getLogger("livermore").info(
                    "stopping", extra={"fields": {"because": because}}
                )
                nursery.cancel_scope.cancel()

            async def stop_after(seconds: float) -> None:
                await trio.sleep(seconds)
                stop("the time given is over")

            async def stop_on_signal() -> None:
                caught = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGHUP} if again else set())
                with trio.open_signal_receiver(*caught) as received:
                    async for number in received:
                        # A terminal that was closed says the same as somebody who wants a reload.
                        if number == signal.SIGHUP and terminal <= os.isatty(0):
                            with contextlib.suppress(trio.WouldBlock):
                                asked.send_nowait(None)
                            continue
                        stop(signal.Signals(number).name)
                        break

            nursery.start_soon(stop_on_signal)
            if settings.run_for is not None:
                nursery.start_soon(stop_after, settings.run_for)
            running = await nursery.start(serve, settings, again)
            nursery.start_soon(notify, notifier, running.feeds, running.expected, told.watchdog)
            if again is not None:
                nursery.start_soon(reload_when_asked, running)
            if watch is not None:
                nursery.start_soon(watch, running.feeds)
    except BaseExceptionGroup as group:
        known, others = group.split((LivermoreError, OSError))
        error = first_of(known) if known is not None and others is None else None
        if isinstance(error, LivermoreError):
            raise error from None
        if isinstance(error, OSError):
            raise LivermoreError(str(error)) from error
        raise
