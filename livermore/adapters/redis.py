"""Redis, Valkey or a cluster of them: synchronous redis-py behind worker threads, one hop per batch.

What was measured and shapes this file: redis-py's default retries held one call for 59 s and ran an
INCR twice, so there are none here; a cluster pipeline refuses ``evalsha`` and ``publish``, so
scripts go through ``execute_command`` and publishing is a script; a lane (writes, lease, reads) has
its own connection and its own one-thread limiter, so that a slow batch never delays the lease.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import attrs
import redis
import redis.cluster
import redis.exceptions
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from livermore.errors import ConfigurationError, Fenced, StoreError, StoreUnusable

SOCKET_TIMEOUT = 3.0
CHUNK = 400
"""Calls per round trip: Redis works on one chunk while we pack the next."""

SCRIPTS = {
    name: importlib.resources.files("livermore.adapters").joinpath(f"lua/{name}.lua").read_text()
    for name in (
        "asked", "ban", "budget", "candles", "epoch", "lease", "publish", "reading", "survey"
    )
}  # fmt: skip
DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}
NAMES = {digest: name for name, digest in DIGESTS.items()}

Call = tuple[Any, ...]
"""A command and its arguments. The first key of a script is its fourth element."""


def script(name: str, keys: Sequence[str], *arguments: str | bytes | float) -> Call:
    """A call of one of our scripts."""
    return ("EVALSHA", DIGESTS[name], len(keys), *keys, *arguments)


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    credentials, _, host = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


class Client:
    """One connection's worth of Redis, synchronous. Used by one thread at a time."""

    def __init__(self, url: str, timeout: float = SOCKET_TIMEOUT) -> None:
        self.url = url
        self.shown = without_password(url)
        self.timeout = timeout
        self.is_cluster = url.startswith(("redis+cluster://", "rediss+cluster://"))
        self._redis: Any = None
        if urlsplit(url).scheme not in (
            "redis", "rediss", "unix", "redis+cluster", "rediss+cluster"
        ):  # fmt: skip
            raise ConfigurationError(
                f"Redis URL {self.shown!r} is not understood: "
                "use redis://, rediss://, unix:// or redis+cluster://"
            )

    def _connect(self) -> Any:
        if self._redis is None:
            options: dict[str, Any] = {
                "socket_timeout": self.timeout,
                "socket_connect_timeout": self.timeout,
                "decode_responses": False,
            }
            never = Retry(NoBackoff(), 0)
            try:
                if self.is_cluster:
                    self._redis = redis.cluster.RedisCluster.from_url(
                        self.url.replace("+cluster", "", 1), retry=never, **options
                    )
                else:
                    self._redis = redis.Redis.from_url(
                        self.url, retry=never, retry_on_error=[], max_connections=2, **options
                    )
            except ValueError as error:
                raise ConfigurationError(f"Redis URL {self.shown!r} is not understood: {error}") from None
            except (redis.exceptions.RedisError, OSError) as error:
                raise translate(error, self.shown) from error
        return self._redis

    def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        if self._redis is not None:
            try:
                self._redis.close()
            except (redis.exceptions.RedisError, OSError):
                pass
            self._redis = None

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Replies in order. A reply that is an error of the server raises :class:`StoreError`.

        Nothing is retried but a call whose script the server did not know: it was not run.
        """
        replies: list[Any] = []
        for start in range(0, len(calls), CHUNK):
            replies.extend(self._run_chunk(calls[start : start + CHUNK]))
        return replies

    def one(self, *call: Any) -> Any:
        """The reply to one command."""
        return self.run([call])[0]

    def _run_chunk(self, calls: Sequence[Call]) -> list[Any]:
        try:
            replies = self._pipeline(calls)
            unknown = [i for i, reply in enumerate(replies) if is_unknown_script(reply)]
            if unknown:
                self._load({NAMES[calls[i][1]] for i in unknown})
                for i, reply in zip(unknown, self._pipeline([calls[i] for i in unknown]), strict=True):
                    replies[i] = reply
        except (redis.exceptions.RedisError, OSError) as error:
            self.close()
            raise translate(error, self.shown) from error
        for reply in replies:
            if isinstance(reply, Exception):
                if isinstance(reply, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
                    self.close()
                raise translate(reply, self.shown) from reply
        return replies

    def _pipeline(self, calls: Sequence[Call]) -> list[Any]:
        client = self._connect()
        if len(calls) == 1:
            try:
                return [client.execute_command(*calls[0])]
            except redis.exceptions.ResponseError as error:
                return [error]
        pipeline = client.pipeline() if self.is_cluster else client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return list(pipeline.execute(raise_on_error=False))

    def _load(self, names: set[str]) -> None:
        client = self._connect()
        for name in names:
            client.script_load(SCRIPTS[name])  # a cluster loads it on every master

    def info(self) -> dict[str, Any]:
        """INFO of the server, or of one node of the cluster."""
        try:
            info = self._connect().info()
        except (redis.exceptions.RedisError, OSError) as error:
            self.close()
            raise translate(error, self.shown) from error
        if self.is_cluster and info and all(isinstance(value, dict) for value in info.values()):
            info = next(iter(info.values()))
        return dict(info)

    def messages(self, patterns: Sequence[str], stopped: threading.Event) -> Iterator[tuple[str, bytes]]:
        """Channel and payload of what is published on ``patterns``, until ``stopped`` is set."""
        try:
            with self._connect().pubsub(ignore_subscribe_messages=True) as pubsub:
                pubsub.psubscribe(*patterns)
                while not stopped.is_set():
                    message = pubsub.get_message(timeout=0.25)
                    if message is not None and message["type"] == "pmessage":
                        yield message["channel"].decode("utf-8", "replace"), message["data"]
        except (redis.exceptions.RedisError, OSError) as error:
            self.close()
            raise translate(error, self.shown) from error


def is_unknown_script(reply: object) -> bool:
    """Whether the server answered that it does not know the script."""
    return isinstance(reply, redis.exceptions.NoScriptError)


def translate(error: Exception, shown: str) -> StoreError:
    """A library error as one of ours, in one line with the next step where there is one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "FENCED" in text:
        return Fenced(f"{text}: another daemon took over this exchange")
    if isinstance(error, redis.exceptions.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return StoreUnusable(f"Redis {shown} refuses us: {text}: check the user and password in the URL")
    if "WRONGTYPE" in text:
        return StoreError(
            f"Redis {shown}: a key of ours holds another type of value: {text}: "
            "another program uses our keys; rename or delete them, or use another database"
        )
    if "OOM " in text or "maxmemory" in text:
        return StoreError(f"Redis {shown} is full: {text}: raise maxmemory")
    if "READONLY" in text or isinstance(error, redis.exceptions.ReadOnlyError):
        return StoreError(f"Redis {shown} is a read-only replica: point us at the primary")
    if isinstance(error, redis.exceptions.InvalidResponse) or "Protocol Error" in text:
        return StoreUnusable(f"{shown} does not speak the Redis protocol: {text[:80]}: check host and port")
    if "unknown command" in text.lower():
        return StoreUnusable(f"Redis {shown} lacks a command we need: {text[:120]}")
    return StoreError(f"Redis {shown}: {text}")


LANES = ("write", "readings", "lease", "publish", "read")


@attrs.define
class _Lane:
    client: Client
    limiter: trio.CapacityLimiter


class Redis:
    """The daemon's Redis: every lane has its own connection and lets one thread in at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = without_password(url)
        self._lanes = {lane: _Lane(Client(url), trio.CapacityLimiter(1)) for lane in LANES}

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        """Replies in order, from a worker thread. Raises :class:`StoreError`; never abandons a call."""
        if not calls:
            return []
        chosen = self._lanes[lane]
        return await trio.to_thread.run_sync(chosen.client.run, calls, limiter=chosen.limiter)

    async def one(self, *call: Any, lane: str = "read") -> Any:
        """The reply to one command."""
        return (await self.run([call], lane))[0]

    def close(self) -> None:
        """Close every lane."""
        for lane in self._lanes.values():
            lane.client.close()
