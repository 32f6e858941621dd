"""Which connection carries what, and how that changes while they run.

Products are dealt out to shards when a feed begins. One that comes later goes to the shard that
carries the fewest, or opens another; a shard that carries nothing any more is closed. The sockets
of the others are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import trio

from livermore.dialect import Dialect, tracker_of
from livermore.errors import ConnectionLost, MalformedMessage, Refused
from livermore.market.candle import Series
from livermore.market.product import Followed
from livermore.market.tracker import Pending, Tracker
from livermore.runtime.connection import Connection, Health, Pace, State
from livermore.runtime.journal import Journal
from livermore.runtime.liveness import Shard
from livermore.runtime.recorder import Recorder
from livermore.runtime.supervise import supervise

NOT_HERE = 451
"""Unavailable for legal reasons: no other try will be answered otherwise."""
DEMO_HINT = "to see Livermore work without a network: livermore demo"

T = TypeVar("T")


def deal(dialect: Dialect, ranked: Sequence[T]) -> list[Sequence[T]]:
    """What each connection carries. By rank: one lost socket is not all of the large symbols."""
    count = -(-len(ranked) // dialect.products_per_connection)
    count = max(count, min(len(ranked), dialect.least_connections))
    return [ranked[shard::count] for shard in range(count)]


class Roster:
    """The shards of one exchange."""

    def __init__(
        self,
        dialect: Dialect,
        url: str,
        pending: Pending,
        journal: Journal,
        recorder: Recorder | None,
        *,
        clock: Callable[[], int | None],
        chance: Callable[[], float],
        live: Callable[[], object],
        left_out: Callable[[Mapping[str, str]], object],
    ) -> None:
        """``live`` hears that something is delivered that was not; ``left_out`` what is not served,
        by symbol, with the reason."""
        self._dialect = dialect
        self._url = url
        self._pending = pending
        self._journal = journal
        self._recorder = recorder
        self._clock = clock
        self._chance = chance
        self._live = live
        self._left_out = left_out
        self._pace = Pace(dialect.messages_per_second)
        self.wake: Callable[[], None] = lambda: None
        """Of the writer: something waits."""
        self.shards: list[Shard] = []
        self.trackers: list[Tracker] = []
        self.healths: list[Health] = []
        self.tracker_of: dict[str, Tracker] = {}
        """By symbol."""
        self.rejected: Mapping[str, str] = {}

    # -- what is carried ------------------------------------------------------------------

    def begin(self, followed: Sequence[Followed]) -> None:
        """Deal out what a feed begins with."""
        dealt = deal(self._dialect, followed)
        for some in dealt:
            self._open(some, len(dealt))

    def attach(self, one: Followed) -> Shard | None:
        """Carry a product as well; returns the shard that was opened for it, if one was."""
        opened: Shard | None = None
        room = [s for s in self.shards if len(s.products) < self._dialect.products_per_connection]
        if not room or len(self.shards) < min(
            self._dialect.least_connections, len(self.tracker_of) + 1
        ):
            opened = self._open((), len(self.shards) + 1)
            room = [opened]
        shard = min(room, key=lambda shard: len(shard.products))
        shard.products.append(one.product)
        self.tracker_of[one.symbol] = shard.tracker
        shard.tracker.add(one.product.native, self.streamed(one))
        shard.connection.follow([one.product.native], ())
        self._record(shard)
        return opened

    def detach(self, one: Followed) -> None:
        """Carry a product no more; a connection that carries nothing is closed."""
        native, tracker = one.product.native, self.tracker_of.pop(one.symbol)
        shard = next(shard for shard in self.shards if shard.tracker is tracker)
        shard.products[:] = [other for other in shard.products if other.symbol != one.symbol]
        tracker.forget(native)
        shard.forget(native)
        shard.connection.follow((), [native])
        self._record(shard)
        if one.symbol in self.rejected:
            self._now_rejected({s: why for s, why in self.rejected.items() if s != one.symbol})
        if not shard.products:
            self.shards.remove(shard)
            self.trackers.remove(tracker)
            self.healths.remove(shard.health)
            if self._recorder is not None:
                self._recorder.detach(shard.health.name)
            if shard.scope is not None:
                shard.scope.cancel()

    def streamed(self, one: Followed) -> Series:
        """The series that the exchange streams."""
        return Series(self._dialect.name, one.symbol, self._dialect.streamed, one.owner)

    def _open(self, followed: Sequence[Followed], shards: int) -> Shard:
        dialect = self._dialect
        numbers = [int(health.name.rpartition("/")[2]) for health in self.healths]
        name = f"{dialect.name}/{max(numbers, default=0) + 1}"
        products = [one.product for one in followed]
        tracker = tracker_of(
            dialect, ((one.product.native, self.streamed(one)) for one in followed), self._pending
        )
        known = self._clock()
        if known is not None:
            # The REST server's time: the first stamp of a socket is not believed alone either.
            tracker.clock.hear(known, trio.current_time())
        if self._recorder is not None:
            natives = {product.native: product.symbol for product in products}
            self._recorder.attach(name, tracker, natives, shards)
        health = Health(name, len(products))
        shard = Shard(
            tracker, health, self._connection(tracker, health, [p.native for p in products]),
            products=products,
        )  # fmt: skip
        shard.connection.rejected = lambda messages: self._reject(shard, messages)
        self.trackers.append(tracker)
        self.healths.append(health)
        self.shards.append(shard)
        self.tracker_of.update((product.symbol, tracker) for product in products)
        return shard

    def _record(self, shard: Shard) -> None:
        if self._recorder is not None:
            natives = {product.native: product.symbol for product in shard.products}
            self._recorder.follow(shard.health.name, natives)

    # -- connections ----------------------------------------------------------------------

    def _connection(self, tracker: Tracker, health: Health, natives: Sequence[str]) -> Connection:
        journal, dialect = self._journal, self._dialect

        def changed(state: State) -> None:
            journal.debug("connection", name=health.name, state=state.value)
            if state is State.LIVE:
                journal.info("connection live", name=health.name, symbols=health.symbols)
                self._live()

        def malformed(error: MalformedMessage) -> None:
            journal.debug("malformed frame", name=health.name, why=str(error))

        def handing_over(what: str, why: str) -> None:
            because = {"because": why} if why else {}
            journal.info(what, name=health.name, **because)

        return Connection(
            dialect, self._url, natives, tracker, health, self.wake, changed, malformed,
            self._pace if dialect.messages_shared else Pace(dialect.messages_per_second),
            heard=self._recorder.ring(health.name).heard if self._recorder is not None else None,
            chance=self._chance, handing_over=handing_over,
        )  # fmt: skip

    async def keep_connected(self, shard: Shard) -> None:
        """One chain of tries until the shard is closed: a lost socket restarts this one only."""
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
                refusal = self._dialect.refusal(lost.status, {}, b"")
                raise (refusal or lost) from lost

        with trio.CancelScope() as shard.scope:
            await supervise(
                f"connection {health.name}", live, self._journal,
                chance=self._chance, failed=failed, hint=DEMO_HINT, ends=(Refused,),
            )  # fmt: skip

    def _reject(self, shard: Shard, messages: Sequence[str]) -> None:
        """What the exchange does not serve is not followed; what it serves after all is."""
        name = shard.health.name
        for message in messages:
            self._journal.warning("the exchange rejected something", name=name, message=message)
        rejected = dict(self.rejected)
        for product in shard.products:
            why = shard.health.rejected.get(product.native)
            if why is None:
                if rejected.pop(product.symbol, None) is not None:
                    self._journal.info("a symbol is served after all", symbol=product.symbol)
                    self._live()
            elif product.symbol not in rejected:
                rejected[product.symbol] = why
                self._journal.warning("a symbol is not served", symbol=product.symbol, why=why)
        self._now_rejected(rejected)

    def _now_rejected(self, rejected: Mapping[str, str]) -> None:
        self.rejected = rejected
        self._left_out(rejected)
