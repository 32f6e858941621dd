"""Opens resources outside in, runs the feeds, closes inside out.

``serve`` is the daemon as an async function: it runs until cancelled or until something ends it for
good. ``main`` is the process around it: signals, time limit, exit code.
"""

from __future__ import annotations

import contextlib
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
from typing import TypeVar

import attrs
import trio

from livermore.adapters.bans import Bans
from livermore.adapters.channels import open_channels
from livermore.adapters.memory import give_back
from livermore.adapters.redis import Redis
from livermore.adapters.systemd import Notifier, status
from livermore.adapters.valkey import open_private_valkey, revive_private_valkey
from livermore.config import DEFAULT_TOP, Settings, channel_variables, manager
from livermore.errors import (
    ConfigurationError,
    Fenced,
    LivermoreError,
    Refused,
    StoreError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
)
from livermore.exchanges import dialect as dialect_of
from livermore.market.timeframe import Timeframe
from livermore.runtime.backfill import Filled, Report, Wish, fill
from livermore.runtime.blind import LOOK, Blind, Look, look_at, watch_blind
from livermore.runtime.certification import Certified, certificates
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.following import Following
from livermore.runtime.journal import Journal
from livermore.runtime.lease import ASK
from livermore.runtime.supervise import first_of, supervise
from livermore.runtime.watchdog import notify
from livermore.signals.alert import Entry
from livermore.signals.rule import Kind

REVIVE = 3.0
"""Seconds between two looks at whether the private Valkey answers."""
TRIM = 10.0
"""Seconds between two times that memory nobody uses goes back to the system."""
FOLLOWED = frozenset({"symbols", "top"})
"""The settings that a reload follows."""


@attrs.frozen
class Running:
    """What :func:`serve` reports once it runs."""

    redis: Redis
    feeds: Mapping[str, Feed]
    followings: Sequence[Following]
    metrics_url: str = ""
    """Where metrics and health are served, if they are."""

    @property
    def redis_url(self) -> str:
        """Where the candles are."""
        return self.redis.url


T = TypeVar("T")
Watch = Callable[[Mapping[str, Feed]], Awaitable[None]]
Again = Callable[[], Settings]
"""Reads the settings again, from the same sources."""


async def serve(
    settings: Settings, *, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the feeds of ``settings`` until cancelled.

    Raises :class:`LivermoreError` when it cannot go on.
    """
    async with open_store(settings) as redis:
        feeds: dict[str, Feed] = {}
        async with trio.open_nursery() as nursery:
            if settings.redis_url is None:
                nursery.start_soon(keep_private_valkey, settings.state_dir, redis)
            nursery.start_soon(keep_small)
            metrics_url = ""
            if settings.metrics_port is not None:
                from livermore.runtime import health  # 50 ms for those who want it

                listeners = await health.open_listeners(
                    settings.metrics_host, settings.metrics_port
                )
                metrics_url = health.url_of(listeners[0])
                sources = health.sources(settings.exchanges, feeds)
                nursery.start_soon(
                    health.keep_health, listeners, settings.metrics_host, sources, random.random
                )
            followings = [Following(plan) for plan in plans(settings)]
            for following in followings:
                nursery.start_soon(keep_feeding, following, redis, feeds)
                if any(rule.kind is Kind.BLIND and rule.enabled for rule in settings.alerts):
                    nursery.start_soon(tell_blindness, following.plan.dialect.name, feeds)
            task_status.started(Running(redis, feeds, followings, metrics_url))


async def keep_small() -> None:
    """Give back what a moment of much work took."""
    while True:
        await trio.sleep(TRIM)
        await trio.to_thread.run_sync(give_back)


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


async def keep_feeding(following: Following, redis: Redis, feeds: dict[str, Feed]) -> None:
    """One feed for good: a bug restarts it, what only a person can mend ends it."""
    name = following.plan.dialect.name
    journal = Journal(name)

    async def live() -> None:
        while True:
            feeds[name] = following.feed = Feed(following.plan, redis, random.random)
            try:
                await feeds[name].run()
            except* TakenError as error:
                if not following.plan.standby:
                    raise
                journal.warning("another daemon took over", why=str(first_of(error)))
                await trio.sleep(ASK)
            else:
                return

    def failed(why: str, wait: float) -> None:
        if name in feeds:
            report = feeds[name].report
            report.lost, report.again_at = why, trio.current_time() + wait

    await following.run(
        lambda: supervise(
            f"feed {name}",
            live,
            journal,
            chance=random.random,
            failed=failed,
            ends=(TakenError, UnknownSymbol, StoreUnusable, ConfigurationError, Refused),
        )
    )


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
    """Follow what the settings name now, as far as that changed; returns those in force.

    Whatever is wrong with them is told in a line, and all stays as it is.
    """
    log = logging.getLogger("livermore")
    try:
        fresh = await trio.to_thread.run_sync(again)
        count = fresh.top or DEFAULT_TOP
        changed = {
            field.name
            for field in attrs.fields(Settings)
            if field.eq and getattr(fresh, field.name) != getattr(settings, field.name)
        }
        lists = [
            await following.listed(running.redis, fresh.symbols, count)
            for following in running.followings
            if changed & FOLLOWED
        ]
    except LivermoreError as error:
        told = {"why": str(error), "next": "the old symbols stay; mend it and reload again"}
        log.warning("not reloaded", extra={"fields": told})
        return settings
    for following, listed in zip(running.followings, lists, strict=False):
        new, gone = following.change(fresh.symbols, count, listed)
        journal = Journal(following.plan.dialect.name)
        some = {"new": ",".join(new) or "none", "gone": ",".join(gone) or "none"}
        journal.info("symbols reloaded", symbols=len(listed), **some)
    if not changed & FOLLOWED:
        told = {"because": f"{fresh.symbols_by} names them"} if fresh.symbols_by else {}
        log.info("the symbols stay as they are", extra={"fields": told})
    if changed - FOLLOWED:
        told = {"settings": ",".join(sorted(changed - FOLLOWED))}
        log.warning("other changes need a restart", extra={"fields": told})
    return attrs.evolve(settings, symbols=fresh.symbols, top=fresh.top)


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


def plans(settings: Settings) -> Iterator[Plan]:
    """One plan per exchange of the settings."""
    host, pid = socket.gethostname(), os.getpid()
    channels = open_channels(settings.channels, channel_variables(settings.channels))
    started = datetime.now(UTC)
    for name in settings.exchanges:
        dialect = dialect_of(name)
        yield Plan(
            dialect=dialect,
            websocket_url=settings.websocket_url or dialect.websocket_url,
            rest_url=settings.rest_url or dialect.rest_url,
            symbols=settings.symbols,
            top=settings.top or DEFAULT_TOP,
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


def verify(settings: Settings, request: VerifyRequest, report: Report) -> Certified:
    """Compare the store with REST now, see :mod:`livermore.runtime.certification`.

    Raises :class:`LivermoreError`.
    """

    async def run() -> Certified:
        plan = next(plans(attrs.evolve(settings, exchanges=(request.exchange,))))
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

    async def reload_when_asked(again: Again, running: Running) -> None:
        now = settings
        async for _ in hangups:
            notifier.reloading()
            now = await reload(now, again, running)
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
            running = await nursery.start(serve, settings)
            nursery.start_soon(notify, notifier, running.feeds, settings.exchanges, told.watchdog)
            if again is not None:
                nursery.start_soon(reload_when_asked, again, running)
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
