"""Redis, Valkey or a cluster: synchronous redis-py behind worker threads, one hop per batch.

Scripts of the hottest lanes take a shorter way where there is neither a cluster nor TLS, see
:mod:`~livermore.adapters.wire`.

What was measured and shapes this file: redis-py's default retries held one call for 59 s and ran an
INCR twice, so there are none here; its cluster pipeline sends what a stalled node did not answer
again, call by call (a command may run twice), and its redirections end in an AttributeError at a
node it does not know yet, so calls are dealt to the nodes here, each node gets a plain pipeline,
and MOVED and ASK are followed here; a lane (writes, lease, reads) has its own connection and its
own one-thread limiter, so that a slow batch never delays the lease.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import attrs
import redis
import redis.cluster
import redis.exceptions
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from livermore.adapters.redis_url import check_options, shown
from livermore.adapters.wire import Wire, packed, unpacked
from livermore.errors import ConfigurationError, Fenced, StoreError, StoreUnusable

SOCKET_TIMEOUT = 3.0
CHUNK = 400
"""Calls per round trip, where one waits for the replies."""
AHEAD = 100
"""Scripts sent before the replies of as many before them are read: Redis works while we pack."""
REROUTED = 2
"""How often a call follows a slot to another node of the cluster before it is an error."""


def _script_text(name: str) -> str:
    """A script with the text of those it includes."""
    text = importlib.resources.files("livermore.adapters").joinpath(f"lua/{name}.lua").read_text()
    return _INCLUDE.sub(lambda found: _script_text(found["name"]), text)


_INCLUDE = re.compile(r"^-- include (?P<name>\w+)\n", re.MULTILINE)
SCRIPTS = {
    name: _script_text(name)
    for name in (
        "adopt", "alerts", "asked", "ban", "budget", "candles", "closes", "command", "delivery",
        "epoch", "lease", "publish", "reading", "recomputed", "remove", "renew", "survey", "whole",
    )
}  # fmt: skip
DIGESTS = {
    name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    for name, text in SCRIPTS.items()
}
NAMES = {digest: name for name, digest in DIGESTS.items()}

FAILURES = (
    redis.exceptions.RedisError,
    redis.exceptions.RedisClusterException,  # is no RedisError
    OSError,
)

Call = tuple[Any, ...]
"""A command and its arguments. The first key of a script is its fourth element."""


def script(name: str, keys: Sequence[str], *arguments: str | bytes | float) -> Call:
    """A call of one of our scripts."""
    return ("EVALSHA", DIGESTS[name], len(keys), *keys, *arguments)


KEYED = frozenset(
    "DEL EXISTS EXPIRE GET GETRANGE HDEL HEXISTS HGET HGETALL HLEN HMGET HSET HVALS INCR PERSIST"
    " PEXPIRE PTTL SET STRLEN TTL TYPE XADD XLEN XRANGE XREVRANGE ZADD ZCARD ZCOUNT ZRANGE"
    " ZRANGEBYSCORE ZREM ZREVRANGE ZSCORE".split()
)
"""Commands whose first argument is their only key."""


def key_of(call: Call) -> str | bytes | None:
    """The key that says which node of a cluster runs ``call``; None when it has none we know of."""
    if call[0] == "EVALSHA":
        return call[3] if int(call[2]) else None
    return call[1] if call[0] in KEYED and len(call) > 1 else None


class Client:
    """One connection's worth of Redis, synchronous. Used by one thread at a time."""

    def __init__(self, url: str, timeout: float = SOCKET_TIMEOUT) -> None:
        self.url = url
        self.shown = shown(url)
        self.timeout = timeout
        self.is_cluster = url.startswith(("redis+cluster://", "rediss+cluster://"))
        self._redis: Any = None
        self._silent: str | None = None
        """A node of the cluster that did not answer: who serves what is asked of the others."""
        self.took = 0.0
        """Seconds the newest round trip took."""
        if not url.startswith(
            ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")
        ):
            raise ConfigurationError(
                f"Redis URL {self.shown!r} is not understood: "
                "use redis://, rediss://, unix:// or redis+cluster://"
            )
        try:
            check_options(url)
        except ValueError as error:
            raise ConfigurationError(f"Redis URL {self.shown!r}: {error}") from None

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
                        self.url.replace("+cluster", "", 1),
                        retry=never,
                        require_full_coverage=False,
                        **options,
                    )
                else:
                    self._redis = redis.Redis.from_url(
                        self.url, retry=never, retry_on_error=[], max_connections=2, **options
                    )
            except ValueError:
                # Not what the parser says: it quotes the part of the password it stumbled over.
                raise ConfigurationError(
                    f"Redis URL {self.shown!r} is not understood: write special characters "
                    "in user and password as %XX (/ is %2F, # is %23, @ is %40)"
                ) from None
            except FAILURES as error:
                raise translate(error, self.shown) from error
        return self._redis

    def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        if self._redis is not None:
            with contextlib.suppress(*FAILURES):
                self._redis.close()
            if self.is_cluster:
                close_all(connections_of(self._redis).values())
            self._redis = None

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Replies in order. Raises :class:`StoreError` if one of them did not come or is an error.

        Nothing is retried but a call whose script the server did not know, or that another node of
        a cluster serves: it was not run.
        """
        return raise_first(self.run_each(calls))

    def one(self, *call: Any) -> Any:
        """The reply to one command."""
        return self.run([call])[0]

    def run_each(self, calls: Sequence[Call]) -> list[Any]:
        """As :meth:`run`, with a :class:`StoreError` in the place of each reply that is not there.

        Where a lost connection carried the call, that says nothing about whether it was run.
        """
        replies: list[Any] = [None] * len(calls)
        places: Sequence[int] = range(len(calls))
        for _ in range(1 + REROUTED):
            try:
                routes = self._routes(calls, places)
            except StoreError as error:
                for i in places:
                    replies[i] = error
                break
            for server, name, some in routes:
                self._run_on(server, name, calls, some, replies)
            if not self.is_cluster:
                break
            places = [i for i in places if isinstance(replies[i], redis.exceptions.MovedError)]
            if not places:
                break
            for i in places:
                self._redis.nodes_manager.move_slot(replies[i])
        return self.translated(replies)

    def translated(self, replies: list[Any]) -> list[Any]:
        """The library's errors among ``replies`` as ours, one for all that are the same one."""
        translated: dict[int, StoreError] = {}
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception) and not isinstance(reply, StoreError):
                if id(reply) not in translated:
                    translated[id(reply)] = translate(reply, self.shown, cluster=self.is_cluster)
                    translated[id(reply)].__cause__ = reply
                replies[i] = translated[id(reply)]
        return replies

    def connection(self) -> Any:
        """A connection of its own, connected; raises what redis-py raises."""
        pool = self._connect().connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def _run_on(
        self,
        server: Any,
        name: str,
        calls: Sequence[Call],
        places: Sequence[int],
        replies: list[Any],
    ) -> None:
        """Run the calls at ``places`` on one server; what came of each goes into ``replies``."""
        scripts = all(calls[i][0] == "EVALSHA" for i in places)
        chunk = max(1, len(places)) if scripts else CHUNK
        trouble: list[Exception] = []
        for start in range(0, len(places), chunk):
            some = places[start : start + chunk]
            asked = time.monotonic()
            try:
                answers = self._ask(server, [calls[i] for i in some])
            except FAILURES as error:
                self._lost(name)
                for i in places[start:]:
                    replies[i] = error
                return
            self.took = time.monotonic() - asked
            for i, answer in zip(some, answers, strict=True):
                replies[i] = answer
                if isinstance(answer, Exception):
                    trouble.append(answer)
        if any(map(is_lost, trouble)):
            self._lost(name)

    def _routes(
        self, calls: Sequence[Call], places: Sequence[int]
    ) -> list[tuple[Any, str, Sequence[int]]]:
        """Which server runs which of ``places``: connection, its name, places in ``calls``."""
        client = self._connect()
        if not self.is_cluster:
            return [(client, "", places)]
        if self._silent is not None:
            client = self._ask_the_others(client, self._silent)
            self._silent = None
        routes: dict[str, tuple[Any, str, list[int]]] = {}
        for i in places:
            key = key_of(calls[i])
            try:
                node = None if key is None else client.get_node_from_key(key)
            except FAILURES:
                node = None  # nobody serves it: the client says so when asked
            if node is None:
                routes[f" {i}"] = (client, "", [i])
                continue
            if node.name not in routes:
                routes[node.name] = (client.get_redis_connection(node), node.name, [])
            routes[node.name][2].append(i)
        return list(routes.values())

    def _ask_the_others(self, client: Any, silent: str) -> Any:
        """Learn who serves what; the client to go on with.

        The node of the URL may be gone for good, or all nodes but that name: either may serve.
        """
        before = connections_of(client)
        try:
            client.nodes_manager.initialize(last_failed_node_name=silent)
        except FAILURES:
            self._redis = None
            try:
                fresh = self._connect()
            except StoreError:
                self._redis = client
                raise
            close_all(before.values())
            close_all(connections_of(client).values())
            return fresh
        # The library forgets those of nodes that are gone, and leaves them open.
        now = connections_of(client)
        close_all(one for which, one in before.items() if which not in now)
        return client

    def _lost(self, name: str) -> None:
        """A server did not answer: the next call connects anew, in a cluster to that node only."""
        if self.is_cluster:
            self._silent = name
        else:
            self.close()

    def _ask(self, server: Any, calls: Sequence[Call]) -> list[Any]:
        """What one server answers, errors of single calls in their places."""
        replies = self._with_scripts(server, calls)
        if self.is_cluster:
            # A slot on its way to another node, which serves it to those who ask it to.
            leaving: dict[tuple[str, int], list[int]] = {}
            for i, reply in enumerate(replies):
                if type(reply) is redis.exceptions.AskError:
                    leaving.setdefault((reply.host, reply.port), []).append(i)
            for address, places in leaving.items():
                for i, answer in zip(
                    places, self._ask_newcomer(address, [calls[i] for i in places]), strict=True
                ):
                    replies[i] = answer
        return replies

    def _ask_newcomer(self, address: tuple[str, int], calls: Sequence[Call]) -> Sequence[Any]:
        """What the node answers to which the slot of ``calls`` is on its way."""
        client = self._connect()
        node = client.get_node(*address)
        if node is None:
            node = redis.cluster.ClusterNode(*address, redis.cluster.PRIMARY)  # type: ignore[no-untyped-call]
            client.nodes_manager.nodes_cache[node.name] = node
        try:
            return self._with_scripts(client.get_redis_connection(node), calls, asking=True)
        except FAILURES as error:
            return [error] * len(calls)

    def _with_scripts(
        self, server: Any, calls: Sequence[Call], *, asking: bool = False
    ) -> list[Any]:
        """Run the calls; those whose script the server did not know once more, with it."""
        replies = self._pipeline(server, calls, asking=asking)
        unknown = [i for i, reply in enumerate(replies) if is_unknown_script(reply)]
        if unknown:
            for name in {NAMES[calls[i][1]] for i in unknown}:
                server.script_load(SCRIPTS[name])
            again = self._pipeline(server, [calls[i] for i in unknown], asking=asking)
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return replies

    @staticmethod
    def _pipeline(server: Any, calls: Sequence[Call], *, asking: bool = False) -> list[Any]:
        if asking:
            pipeline = server.pipeline(transaction=False)
            for call in calls:
                pipeline.execute_command("ASKING")
                pipeline.execute_command(*unpacked(call))
            return list(pipeline.execute(raise_on_error=False))[1::2]
        if len(calls) == 1:
            try:
                return [server.execute_command(*unpacked(calls[0]))]
            except redis.exceptions.ResponseError as error:
                return [error]
        if is_scripts(calls):
            return _scripts(server, calls)
        pipeline = server.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return list(pipeline.execute(raise_on_error=False))

    def info(self) -> dict[str, Any]:
        """INFO of the server, or of one node of the cluster."""
        try:
            info = self._connect().info()
        except FAILURES as error:
            self._lost("")
            raise translate(error, self.shown) from error
        if self.is_cluster and info and all(isinstance(value, dict) for value in info.values()):
            info = next(iter(info.values()))
        return dict(info)

    def messages(
        self,
        patterns: Sequence[str],
        stopped: threading.Event,
        listening: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[str, bytes]]:
        """Channel and payload of what is published on ``patterns``, until ``stopped`` is set.

        ``listening`` is called once everything is heard.
        """
        wanted = len(patterns)
        try:
            with self._connect().pubsub() as pubsub:
                pubsub.psubscribe(*patterns)
                while not stopped.is_set():
                    message = pubsub.get_message(timeout=0.25)
                    if message is None:
                        continue
                    if message["type"] == "psubscribe":
                        wanted -= 1
                        if wanted == 0:
                            listening()
                    elif message["type"] == "pmessage":
                        yield message["channel"].decode("utf-8", "replace"), message["data"]
        except FAILURES as error:
            self.close()
            raise translate(error, self.shown) from error

    def answers(self, channel: str, call: Call, left: Callable[[], float]) -> Iterator[bytes]:
        """Payloads that come on ``channel``, after ``call`` is run; while ``left()`` seconds are.

        It listens before it calls: what answers at once is not missed.
        """
        try:
            with self._connect().pubsub() as pubsub:
                pubsub.subscribe(channel)
                called = False
                while (wait := left()) > 0:
                    message = pubsub.get_message(timeout=min(wait, 0.25))
                    if message is None:
                        continue
                    if message["type"] == "subscribe" and not called:
                        self.run([call])
                        called = True
                    elif message["type"] == "message":
                        yield message["data"]
        except FAILURES as error:
            self.close()
            raise translate(error, self.shown) from error


class Later(Sequence[Call]):
    """Scripts that are made when they are sent: Redis works on the first while others are made.

    Each is about keys of its own. They are run in their order, but for those that could not be
    joined with others where that was tried: these are run behind all, also behind those of a longer
    timeframe. To wait for them before these are sent would cost every batch a round trip.
    ``make`` may be called more than once for one of ``count`` places.
    """

    def __init__(self, make: Callable[[int], Call], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Call: ...

    @overload
    def __getitem__(self, place: slice) -> list[Call]: ...

    def __getitem__(self, place: int | slice) -> Call | list[Call]:
        if isinstance(place, slice):
            return [self._make(i) for i in range(*place.indices(self._count))]
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._make(place)


def is_scripts(calls: Sequence[Call]) -> bool:
    """Whether all of them are scripts."""
    return isinstance(calls, Later) or all(call[0] == "EVALSHA" for call in calls)


def raise_first(replies: list[Any]) -> list[Any]:
    """The replies; raises the first :class:`StoreError` among them."""
    for reply in replies:
        if isinstance(reply, StoreError):
            raise reply
    return replies


async def ask_with_scripts(wire: Wire, calls: Sequence[Call], replies: list[Any]) -> None:
    """Run those of ``calls`` whose script the server did not know once more, with it."""
    unknown = [i for i, reply in enumerate(replies) if is_unknown_script(reply)]
    if not unknown or not wire.is_open():  # it may have been lost behind these
        return
    names = sorted({NAMES[calls[i][1]] for i in unknown})
    if "candles" in names:
        names.append("closes")  # perhaps it is that one which is not known
    loaded = await wire.ask([("SCRIPT", "LOAD", SCRIPTS[name]) for name in names])
    refused = {
        n: reply for n, reply in zip(names, loaded, strict=True) if isinstance(reply, Exception)
    }
    again = [calls[i] for i in unknown]
    answers = [refused.get(NAMES[call[1]]) for call in again]
    if not refused:
        answers = await wire.ask(again)
    for i, reply in zip(unknown, answers, strict=True):
        replies[i] = replies[i] if reply is None else reply


@contextlib.asynccontextmanager
async def at_once(lock: trio.Lock | trio.CapacityLimiter) -> AsyncIterator[None]:
    """Hold ``lock``; where nobody does, without letting others go first: in a burst they have
    milliseconds of frames to read, and Redis would wait for the end of that."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


def connections_of(cluster: Any) -> dict[int, Any]:
    """What a cluster's client has open to its nodes, by identity."""
    nodes = cluster.nodes_manager
    found = [*nodes.nodes_cache.values(), *nodes.startup_nodes.values()]
    open_ones = (node.redis_connection for node in found)
    return {id(one): one for one in open_ones if one is not None}


def close_all(connections: Iterable[Any]) -> None:
    """Close what is not used any more."""
    for one in connections:
        with contextlib.suppress(*FAILURES):
            one.close()
            one.connection_pool.disconnect()


def _scripts(server: Any, calls: Sequence[Call]) -> list[Any]:
    """Run scripts in one round trip, errors in the places of the replies that are not there.

    What a pipeline does, without its work per argument: a close is two scripts of 17 arguments, and
    packing them was a third of its cost (*measured*: 12 against 4 µs a call).
    """
    pool = server.connection_pool
    connection = pool.get_connection()
    replies: list[Any] = []
    try:
        for start in range(0, len(calls) + AHEAD, AHEAD):
            some = calls[start : start + AHEAD]
            if some:
                connection.send_packed_command([b"".join(map(packed, some))])
            while len(replies) < min(start, len(calls)):
                try:
                    replies.append(connection.read_response())
                except redis.exceptions.ResponseError as error:
                    replies.append(error)
    except BaseException as error:
        connection.disconnect()  # replies that were not read must not answer the next call
        if not isinstance(error, FAILURES):
            raise
        replies += [error] * (len(calls) - len(replies))
    finally:
        pool.release(connection)
    return replies


def is_lost(error: Exception) -> bool:
    """Whether the connection is of no use any more.

    The primary may be another by now, at the same address.
    """
    return isinstance(error, redis.exceptions.ReadOnlyError) or not isinstance(
        error, redis.exceptions.ResponseError
    )


def is_unknown_script(reply: object) -> bool:
    """Whether the server answered that it does not know the script."""
    return isinstance(reply, redis.exceptions.NoScriptError)


STATES = frozenset("BUSY CLUSTERDOWN MASTERDOWN MISCONF NOREPLICAS OOM READONLY".split())
"""What a server says that refuses every call like this one, not this one."""


def answered(error: StoreError) -> bool:
    """Whether the server itself refused this one call: others may succeed."""
    cause = error.__cause__
    if not isinstance(cause, redis.exceptions.ResponseError):
        return False
    return (cause.status_code or str(cause).partition(" ")[0]) not in STATES


_KNOWN_EPOCH = re.compile(r"is older than (\d+)")


def translate(error: Exception, shown: str, *, cluster: bool = False) -> StoreError:
    """A library error as one of ours, in one line with the next step where there is one."""
    text = (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(". ")
    if "FENCED" in text:
        known = _KNOWN_EPOCH.search(text)
        message = f"{text}: another daemon took over this exchange"
        return Fenced(message, int(known[1]) if known else 0)
    if (
        isinstance(error, redis.exceptions.AuthenticationError)
        or "NOAUTH" in text
        or "WRONGPASS" in text
    ):
        return StoreUnusable(
            f"Redis {shown} refuses us: {text}: check the user and password in the URL"
        )
    if "WRONGTYPE" in text:
        return StoreError(
            f"Redis {shown}: a key of ours holds another type of value: {text}: "
            "another program uses our keys; rename or delete them, or use another database"
        )
    if "OOM " in text or "maxmemory" in text:
        return StoreError(f"Redis {shown} is full: {text}: raise maxmemory")
    if "MISCONF" in text:
        return StoreError(
            f"Redis {shown} takes no writes, it cannot save to its disk: free space there: {text}"
        )
    if "READONLY" in text or isinstance(error, redis.exceptions.ReadOnlyError):
        return StoreError(f"Redis {shown} is a read-only replica: point us at the primary")
    if isinstance(error, redis.exceptions.InvalidResponse) or "protocol error" in text.lower():
        return StoreUnusable(
            f"{shown} does not speak the Redis protocol: {text[:80]}: check host and port"
        )
    if isinstance(error, redis.exceptions.NoPermissionError) or "can't run this command" in text:
        return StoreUnusable(
            f"Redis {shown} does not allow us what we need: {text}: extend the user's rights"
        )
    if cluster and isinstance(error, redis.exceptions.AskError | redis.exceptions.TryAgainError):
        return StoreError(f"Redis {shown} is moving slots between its nodes: {text}")
    if isinstance(error, redis.exceptions.MovedError):
        return StoreUnusable(
            f"Redis {shown} is a node of a cluster: use redis+cluster:// in the URL"
        )
    if "unknown command" in text.lower():
        return StoreUnusable(f"Redis {shown} lacks a command we need: {text[:120]}")
    return StoreError(f"Redis {shown}: {text}")


LANES = ("write", "readings", "alerts", "lease", "publish", "show", "read", "control")
ABANDONED = "alerts"
"""The lane whose calls are left behind when they are cancelled: each of them may be repeated."""


WIRED = frozenset({"write", "readings", "show"})
"""The lanes whose scripts need no thread where there is neither a cluster nor TLS."""


@attrs.define
class _Lane:
    client: Client
    limiter: trio.CapacityLimiter
    wire: Wire | None = None


class Redis:
    """The daemon's Redis: every lane has its own connection and lets one thread in at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = shown(url)
        plain = url.startswith(("redis://", "unix://"))
        self._lanes = {
            lane: _Lane(
                Client(url),
                trio.CapacityLimiter(1),
                Wire(SOCKET_TIMEOUT) if plain and lane in WIRED else None,
            )
            for lane in LANES
        }

    async def run(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        """Replies in order. Raises :class:`StoreError`.

        No call is abandoned but those of the lane :data:`ABANDONED`.
        """
        if not calls:
            return []
        chosen = self._lanes[lane]
        if chosen.wire is not None and is_scripts(calls):
            return raise_first(await self._run_on_wire(chosen, chosen.wire, calls))
        return await trio.to_thread.run_sync(
            chosen.client.run,
            list(calls),
            limiter=chosen.limiter,
            abandon_on_cancel=lane == ABANDONED,
        )

    async def run_each(self, calls: Sequence[Call], lane: str = "write") -> list[Any]:
        """As :meth:`run`, with a :class:`StoreError` in place of each reply that is not there."""
        if not calls:
            return []
        chosen = self._lanes[lane]
        if chosen.wire is not None and is_scripts(calls):
            return await self._run_on_wire(chosen, chosen.wire, calls)
        made = list(calls)  # whoever makes them is no business of another thread
        return await trio.to_thread.run_sync(chosen.client.run_each, made, limiter=chosen.limiter)

    @staticmethod
    async def _run_on_wire(lane: _Lane, wire: Wire, calls: Sequence[Call]) -> list[Any]:
        """As :meth:`run_each`, in the event loop."""
        replies: list[Any]
        async with at_once(lane.limiter):
            with trio.CancelScope(shield=True):
                asked = time.monotonic()
                try:
                    if not wire.is_open():
                        wire.use(await trio.to_thread.run_sync(lane.client.connection))
                    if isinstance(calls, Later):
                        replies = await wire.ask_together(calls, DIGESTS["closes"])
                    else:
                        replies = await wire.ask(calls)
                    await ask_with_scripts(wire, calls, replies)
                except (*FAILURES, StoreError) as error:
                    replies = [error] * len(calls)
                lane.client.took = time.monotonic() - asked
                if any(isinstance(one, Exception) and is_lost(one) for one in replies):
                    wire.close()
        return lane.client.translated(replies)

    async def one(self, *call: Any, lane: str = "read") -> Any:
        """The reply to one command."""
        return (await self.run([call], lane))[0]

    def took(self, lane: str) -> float:
        """Seconds the newest round trip on a lane took."""
        return self._lanes[lane].client.took

    async def info(self) -> dict[str, Any]:
        """INFO of the server, or of one node of the cluster. Raises :class:`StoreError`."""
        chosen = self._lanes["read"]
        return await trio.to_thread.run_sync(chosen.client.info, limiter=chosen.limiter)

    def close(self) -> None:
        """Close every lane."""
        for lane in self._lanes.values():
            lane.client.close()
            if lane.wire is not None:
                lane.wire.close()
