"""REST inside the exchange's budget, which all processes on one Redis share.

Without Redis only server time and products may be asked, one per second. A refusal (429) stops
everyone for as long as the exchange says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.http import Http, Reply
from livermore.adapters.redis import Redis, script
from livermore.dialect import Dialect, Request
from livermore.errors import RateLimited, StoreError
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.product import Product
from livermore.market.timeframe import Timeframe

SHARE = 0.8
"""Of the documented limit."""
CLOSEST = 0.9
"""Of the even spacing: two requests of this process are never closer."""


@attrs.define
class Budget:
    """Grants requests. ``allowed`` is in requests per second."""

    redis: Redis
    exchange: str
    per_second: float
    refusals: int = 0
    _granted: deque[float] = attrs.Factory(lambda: deque(maxlen=6000))
    _stop_until: float = 0.0
    _next: float = 0.0

    async def grant(self, lane: Lane, weight: int = 1) -> None:
        """Wait until one request may be sent. Raises :class:`StoreError` when Redis is away."""
        space = int(1_000_000 / self.per_second)
        call = script("budget", (store.budget_key(self.exchange),), space, int(lane), weight)
        while True:
            pause = self._stop_until - trio.current_time()
            if pause > 0:
                await trio.sleep(pause)
            granted, wait = (await self.redis.run([call], "publish"))[0]
            # A moment more than asked: two requests a hair closer than allowed are what 429 is for.
            await trio.sleep(wait / 1_000_000 + (0.0 if int(granted) else 0.001))
            if int(granted):
                # Grants that waited together behind something slow must not be spent together.
                moment = max(trio.current_time(), self._next)
                self._next = moment + CLOSEST / self.per_second
                await trio.sleep_until(moment)
            # Refused while this one waited: it would be one request into the ban.
            if int(granted) and self._stop_until <= trio.current_time():
                self._granted.append(trio.current_time())
                return

    async def grant_alone(self) -> None:
        """The slow pace for when Redis is away: one per second, in this process only."""
        last = self._granted[-1] if self._granted else -1.0
        await trio.sleep(
            max(0.0, last + 1.0 - trio.current_time(), self._stop_until - trio.current_time())
        )
        self._granted.append(trio.current_time())

    async def refused(self, seconds: float, why: str) -> None:
        """The exchange told us to stay away."""
        self.refusals += 1
        self._stop_until = max(self._stop_until, trio.current_time() + seconds)
        call = script(
            "ban", (store.budget_key(self.exchange),), int(seconds * 1_000_000), why[:200]
        )
        try:
            await self.redis.run([call], "publish")
        except StoreError:
            return  # remembered in memory

    def used(self, seconds: float) -> int:
        """Requests of this process in the last ``seconds``."""
        since = trio.current_time() - seconds
        return sum(1 for moment in self._granted if moment > since)


@attrs.define
class Rest:
    """One exchange's REST, in its dialect."""

    dialect: Dialect
    http: Http
    budget: Budget
    clock: Callable[[], int | None]
    """The exchange's time in ms, once it is known."""

    async def candles(
        self, native: str, timeframe: Timeframe, first: int, last: int, lane: Lane
    ) -> tuple[Sequence[Row], int]:
        """Rows between two open times, ascending, and the exchange's time when they were asked for.

        Raises :class:`~livermore.errors.RestError` and :class:`StoreError`.
        """
        reply, asked_at = await self._ask(
            self.dialect.candles_request(native, timeframe, first, last), lane
        )
        return self.dialect.read_candles(reply.body), asked_at

    async def products(self) -> Sequence[Product]:
        """What the exchange lists."""
        request = self.dialect.products_request()
        return self.dialect.read_products(
            (await self._ask(request, Lane.LIVE, without_redis=True))[0].body
        )

    async def time(self) -> int:
        """The exchange's clock in ms, read half a round trip ago."""
        request = self.dialect.time_request()
        return self.dialect.read_time(
            (await self._ask(request, Lane.LIVE, without_redis=True))[0].body
        )

    async def _ask(
        self, request: Request, lane: Lane, *, without_redis: bool = False
    ) -> tuple[Reply, int]:
        try:
            await self.budget.grant(lane, request.weight)
        except StoreError:
            if not without_redis:
                raise
            await self.budget.grant_alone()
        asked_at = self.clock() or 0
        reply = await self.http.get(request.path, request.params)
        error = self.dialect.refusal(reply.status, reply.headers, reply.body)
        if isinstance(error, RateLimited):
            await self.budget.refused(error.wait, str(error))
        if error is not None:
            raise error
        return reply, asked_at
