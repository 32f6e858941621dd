"""What a process that was killed comes back to: which feeds a command started, paused or stopped.

It is kept per host and state directory, so that nobody takes up what another machine was told, and
only of commands: a process that ends by itself forgets it, and starts with what it is told then.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from livermore.adapters import store
from livermore.adapters.redis import Redis
from livermore.errors import StoreError, TakenError

STARTED, PAUSED, STOPPED = "started", "paused", "stopped"


def memory_key(exchange: str) -> str:
    """Hash: place -> what a command made of the feed there."""
    return f"control:{exchange}"


def place_of(state_dir: Path) -> str:
    """Where a process runs, the same after a restart."""
    return f"{socket.gethostname()}:{state_dir.absolute()}"


async def recall(redis: Redis, exchanges: Sequence[str], place: str) -> Mapping[str, str]:
    """What commands made of the feeds of a process that did not end by itself."""
    replies = await redis.run_each(
        [("HGET", memory_key(name), place) for name in exchanges], "control"
    )
    return {
        name: reply.decode()
        for name, reply in zip(exchanges, replies, strict=True)
        if isinstance(reply, bytes)
    }


async def remember(redis: Redis, exchange: str, place: str, what: str) -> None:
    """Come back to this. Raises :class:`StoreError`."""
    await redis.run([("HSET", memory_key(exchange), place, what)], "control")


async def forget(redis: Redis, exchanges: Sequence[str], place: str) -> None:
    """The process ends by itself; a Redis that is away keeps the memory."""
    await redis.run_each([("HDEL", memory_key(name), place) for name in exchanges], "control")


async def lives(redis: Redis, exchange: str) -> bool:
    """Whether a process of this machine that is alive holds the exchange."""
    try:
        text = await redis.one("HGET", store.lease_key(exchange), "description", lane="control")
        held = json.loads(text or b"{}")
        pid, host = int(held["pid"]), held["host"]
    except (StoreError, ValueError, KeyError, TypeError):
        return False
    return host == socket.gethostname() and _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def check_free(redis: Redis, exchange: str) -> None:
    """Raises :class:`TakenError` where another daemon holds the exchange."""
    held = store.held(await redis.run(store.held_calls(exchange), "control"))
    if held is not None:
        holder = f"{exchange} is held by {held.holder}"
        raise TakenError(
            f"{holder} (its lease runs {held.left / 1000:.0f} s more): stop it there first", holder
        )
