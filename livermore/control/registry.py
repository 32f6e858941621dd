"""Who is there: every instance on this Redis says so again and again, and is gone when it stops."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import trio

from livermore.adapters.redis import Call, Client, Redis
from livermore.control.command import claim
from livermore.errors import StoreError
from livermore.runtime.fleet import Fleet

HEARTBEAT = 5.0
"""Seconds."""
TTL = 15_000
"""Milliseconds: three heartbeats."""
INDEX = "livermore:instances"
"""Sorted set: instance -> when it said so last, by the clock of Redis in ms."""


def instance_key(instance: str) -> str:
    """What an instance says of itself; JSON."""
    return f"livermore:instance:{instance}"


class Running(msgspec.Struct, frozen=True):
    """One exchange of an instance. ``since`` is how many seconds it is in its state."""

    exchange: str
    state: str
    since: float
    symbols: int
    mode: str
    error: str


class Instance(msgspec.Struct, frozen=True):
    """What an instance says of itself. ``uptime`` in seconds."""

    id: str
    host: str
    pid: int
    version: str
    uptime: float
    exchanges: tuple[Running, ...]
    commands: dict[str, int]
    """How many were run, failed and refused."""


@attrs.frozen
class Seen:
    """An instance, and the age of its heartbeat in ms."""

    instance: Instance
    age: int


async def keep_registered(
    redis: Redis, describe: Callable[[], Instance], changed: Callable[[], Awaitable[object]]
) -> None:
    """Say that we are there, every few seconds and when something ``changed``, until cancelled;
    then say that we are not."""
    try:
        while True:
            one = describe()
            with contextlib.suppress(StoreError):  # whoever looks sees the old heartbeat
                await redis.run([_set(one), ("ZADD", INDEX, await _now(redis), one.id)], "control")
            with trio.move_on_after(HEARTBEAT):
                await changed()
    finally:
        with trio.move_on_after(1, shield=True):
            gone = describe().id
            await redis.run_each([("DEL", instance_key(gone)), ("ZREM", INDEX, gone)], "control")


def _set(one: Instance) -> Call:
    return ("SET", instance_key(one.id), msgspec.json.encode(one), "PX", TTL)


async def _now(redis: Redis) -> int:
    return now_of(await redis.run([time_call()], "control"))


def time_call() -> Call:
    """Ask for the time of Redis."""
    return claim("time", "")


def now_of(replies: Sequence[Any]) -> int:
    """The reply to :func:`time_call`, in ms."""
    return int(replies[0][0])


def read_instances(client: Client) -> Sequence[Seen]:
    """Who is there, the longest running first; of who is gone the index is tidied.

    Raises :class:`StoreError`.
    """
    now = now_of(client.run([time_call()]))
    [listed] = client.run([("ZRANGE", INDEX, 0, -1, "WITHSCORES")])
    beats = _pairs(listed)
    texts = client.run([("GET", instance_key(name)) for name in beats]) if beats else []
    seen, gone = [], []
    for (name, beat), text in zip(beats.items(), texts, strict=True):
        try:
            if text is not None:
                one = msgspec.json.decode(text, type=Instance)
                seen.append(Seen(one, max(0, now - beat)))
                continue
        except msgspec.DecodeError:
            pass
        if now - beat > TTL:
            gone.append(name)
    if gone:
        client.run([("ZREM", INDEX, *gone)])
    return sorted(seen, key=lambda one: (-one.instance.uptime, one.instance.id))


def _pairs(listed: Sequence[Any]) -> Mapping[str, int]:
    """Members and scores, flat or in pairs as the protocol's version has them."""
    flat: list[Any] = []
    for item in listed:
        flat += item if isinstance(item, list | tuple) else [item]
    return {
        name.decode("utf-8", "replace"): int(float(score))
        for name, score in zip(flat[::2], flat[1::2], strict=True)
    }


def describe_fleet(fleet: Fleet, mode: Callable[[str], str]) -> tuple[Running, ...]:
    """What there is to say of each exchange of this process."""
    moment = trio.current_time()
    return tuple(
        Running(
            exchange=name,
            state=cell.state.value,
            since=round(moment - cell.since, 1),
            symbols=len(cell.feed.report.symbols) if cell.feed is not None else 0,
            mode=mode(name),
            error=cell.why or (cell.feed.report.lost if cell.feed is not None else ""),
        )
        for name, cell in sorted(fleet.cells.items())
    )
