"""Opens resources outside in, runs the feeds, closes inside out.

``serve`` is the daemon as an async function: it runs until cancelled or until something ends it for
good. ``main`` is the process around it: signals, time limit, exit code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import attrs
import trio

from livermore.adapters.redis import Redis
from livermore.adapters.valkey import open_private_valkey
from livermore.config import Settings
from livermore.errors import (
    ConfigurationError,
    LivermoreError,
    Refused,
    StoreError,
    StoreUnusable,
    TakenError,
    UnknownSymbol,
    UsageError,
)
from livermore.exchanges import dialect as dialect_of
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.journal import Journal
from livermore.runtime.supervise import first_of, supervise

GRACE = 10.0
"""Seconds the whole shutdown may take."""


@attrs.frozen
class Running:
    """What :func:`serve` reports once it runs."""

    redis_url: str


async def serve(
    settings: Settings, *, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the feeds of ``settings`` until cancelled. Raises :class:`LivermoreError` when it cannot go on."""
    async with open_store(settings) as redis:
        async with trio.open_nursery() as nursery:
            for plan in plans(settings):
                nursery.start_soon(keep_feeding, plan, redis)
            task_status.started(Running(redis.url))


async def keep_feeding(plan: Plan, redis: Redis) -> None:
    """One feed for good: a bug restarts it, what only a person can mend ends it."""
    journal = Journal(plan.dialect.name)
    await supervise(
        f"feed {plan.dialect.name}",
        lambda: Feed(plan, redis, random.random).run(),
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
            top=settings.top or 50,
            holder=f"{host}:{pid}:{uuid.uuid4().hex[:12]}",
            description={
                "pid": pid,
                "host": host,
                "since": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "started": int(started.timestamp() * 1000),
            },
        )


def main(settings: Settings) -> int:
    """Run until a signal, the time limit or an error; returns the exit code."""
    configure_logging(settings)
    return trio.run(_run, settings)


async def _run(settings: Settings) -> int:
    ended = ""
    code = 0
    try:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal ended
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                    async for number in received:
                        ended = signal.Signals(number).name
                        break
                logging.getLogger("livermore").info("stopping", extra={"fields": {"because": ended}})
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            if settings.run_for is not None:
                nursery.cancel_scope.deadline = trio.current_time() + settings.run_for
            await serve(settings)
    except* (LivermoreError, OSError) as group:
        error = first_of(group)
        assert error is not None  # noqa: S101 - the group is not empty
        code = report_error(error)
    return code


def report_error(error: Exception) -> int:
    """One line on stderr; returns the exit code it means."""
    sys.stderr.write(f"livermore: {' '.join(str(error).split())}\n")
    return exit_code(error)


def exit_code(error: Exception) -> int:
    """The exit code of an error, as the README lists them."""
    if isinstance(error, TakenError):
        return 5
    if isinstance(error, ConfigurationError | StoreUnusable):
        return 4
    if isinstance(error, UsageError | UnknownSymbol):
        return 2
    return 1


# -- logging ----------------------------------------------------------------------------------


class _Lines(logging.Formatter):
    """``12:00:05 coinbase: connection live name=coinbase/1 symbols=25``"""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        name = record.name.removeprefix("livermore.").removeprefix("livermore")
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        if text == "history" and "total" in fields:
            text, fields = f"history {fields['done']}/{fields['total']} series", {}
        detail = "".join(f" {key}={_shown(value)}" for key, value in fields.items())
        mark = "! " if record.levelno >= logging.WARNING else ""
        return f"{moment} {mark}{name + ': ' if name else ''}{text}{detail}"


class _JsonLines(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(entry, default=str)


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text else text


def configure_logging(settings: Settings) -> None:
    """Log lines of the daemon go to stderr; libraries keep quiet."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if settings.json_logs else _Lines())
    root = logging.getLogger("livermore")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(settings.log_level.upper())
