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
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import attrs
import trio

from livermore.adapters.redis import Redis
from livermore.adapters.valkey import open_private_valkey, revive_private_valkey
from livermore.config import DEFAULT_TOP, Settings
from livermore.errors import (
    ConfigurationError,
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
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.journal import Journal
from livermore.runtime.supervise import first_of, supervise

REVIVE = 3.0
"""Seconds between two looks at whether the private Valkey answers."""


@attrs.frozen
class Running:
    """What :func:`serve` reports once it runs."""

    redis_url: str
    feeds: Mapping[str, Feed]


Watch = Callable[[Mapping[str, Feed]], Awaitable[None]]


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
            for plan in plans(settings):
                nursery.start_soon(keep_feeding, plan, redis, feeds)
            task_status.started(Running(redis.url, feeds))


async def keep_private_valkey(state_dir: Path, redis: Redis) -> None:
    """Start the private Valkey anew when it died; its data and its address stay the same."""
    while True:
        await trio.sleep(REVIVE)
        try:
            await redis.one("PING")
        except StoreError as error:
            logging.getLogger("livermore").warning(
                "the private Valkey does not answer", extra={"fields": {"why": str(error)}}
            )
            with contextlib.suppress(ConfigurationError, StoreError):
                await trio.to_thread.run_sync(revive_private_valkey, state_dir)


async def keep_feeding(plan: Plan, redis: Redis, feeds: dict[str, Feed]) -> None:
    """One feed for good: a bug restarts it, what only a person can mend ends it."""
    name = plan.dialect.name
    journal = Journal(name)

    async def live() -> None:
        feeds[name] = Feed(plan, redis, random.random)
        await feeds[name].run()

    await supervise(
        f"feed {name}",
        live,
        journal,
        chance=random.random,
        ends=(TakenError, UnknownSymbol, StoreUnusable, ConfigurationError, Refused),
    )


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
    started = datetime.now(UTC)
    for name in settings.exchanges:
        dialect = dialect_of(name)
        yield Plan(
            dialect=dialect,
            websocket_url=settings.websocket_url or dialect.websocket_url,
            rest_url=settings.rest_url or dialect.rest_url,
            symbols=settings.symbols,
            top=settings.top or DEFAULT_TOP,
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
            )

    try:
        return trio.run(run)
    except BaseExceptionGroup as group:
        error = first_of(group)
        if isinstance(error, LivermoreError):
            raise error from None
        raise


def main(settings: Settings, watch: Watch | None = None) -> None:
    """Run until a signal or the time limit; raises :class:`LivermoreError`.

    ``watch`` runs beside the daemon and is given its feeds by exchange.
    """
    trio.run(_run, settings, watch)


async def _run(settings: Settings, watch: Watch | None) -> None:
    ended = ""
    try:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal ended
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                    async for number in received:
                        ended = signal.Signals(number).name
                        break
                logging.getLogger("livermore").info(
                    "stopping", extra={"fields": {"because": ended}}
                )
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            if settings.run_for is not None:
                nursery.cancel_scope.deadline = trio.current_time() + settings.run_for
            running = await nursery.start(serve, settings)
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
