"""REST inside the exchange's budget, which all processes on one Redis share.

Without Redis only server time, products and accounts may be asked, one per second. A refusal (429)
stops everyone for as long as the exchange says, also after a restart.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.bans import LONGEST, Ban, Bans
from livermore.adapters.http import Http, Reply
from livermore.adapters.redis import Redis, script
from livermore.dialect import Dialect, Request
from livermore.errors import (
    ConfigurationError,
    LivermoreError,
    MalformedMessage,
    RateLimited,
    Refused,
    RestError,
    StoreError,
)
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.product import Product
from livermore.market.timeframe import Timeframe, iso
from livermore.runtime.journal import Journal

SHARE = 0.8
"""Of the documented limit."""
CLOSEST = 0.9
"""Of the even spacing: two requests of this process are never closer."""
REPEAT = 5.0
"""Seconds between two times that Redis is told of a ban in force."""
SAME = 1.0
"""Seconds by which a ban must end later to be another one: the clocks of its tellers differ."""
SAY = 600.0
"""Seconds between two log lines while the exchange refuses us again and again."""
WHY = 200
"""Characters of what the exchange said."""


@attrs.define
class Budget:
    """Grants requests, ``per_second`` of them.

    A ban is remembered in memory, in ``bans`` (the state directory) and in Redis; whichever of them
    forgets is told again by the others.
    """

    redis: Redis
    exchange: str
    per_second: float
    bans: Bans | None = None
    wall: Callable[[], float] = time.time
    """Seconds since the epoch, for what outlives this process."""
    journal: Journal = attrs.field(
        default=attrs.Factory(lambda self: Journal(self.exchange), takes_self=True)
    )
    refusals: int = 0
    ban: Ban | None = None
    """The last one, in force or over."""
    _granted: deque[tuple[float, int]] = attrs.Factory(lambda: deque(maxlen=6000))
    """When, and what each weighed."""
    _stop_until: float = 0.0
    _next: float = 0.0
    _next_alone: float = 0.0
    _recalled: bool = False
    _repeat_at: float = 0.0
    """When Redis is told of the ban again: it may have been emptied."""
    _banned_since: float | None = None
    _say_at: float = 0.0
    _full_until: float = 0.0
    _say_full_at: float = 0.0

    async def grant(self, lane: Lane, weight: int = 1) -> None:
        """Wait until one request may be sent. Raises :class:`StoreError` when Redis is away."""
        space = int(1_000_000 / self.per_second)
        call = script("budget", (store.budget_key(self.exchange),), space, int(lane), weight)
        self._recall()
        while True:
            await self._wait_out()
            granted, wait, *why = (await self.redis.run([call], "publish"))[0]
            if int(granted) < 0:
                await self._stop(wait / 1_000_000, why[0].decode("utf-8", "replace"))
                await trio.sleep(min(REPEAT, wait / 1_000_000))
                continue
            # A moment more than asked: two requests a hair closer than allowed are what 429 is for.
            await trio.sleep(wait / 1_000_000 + (0.0 if int(granted) else 0.001))
            if int(granted):
                # Grants that waited together behind something slow must not be spent together.
                moment = max(trio.current_time(), self._next)
                self._next = moment + CLOSEST * weight / self.per_second
                await trio.sleep_until(moment)
            # Refused while this one waited: it would be one request into the ban.
            if int(granted) and self._closed_until <= trio.current_time():
                self._granted.append((trio.current_time(), weight))
                return

    async def grant_alone(self, weight: int = 1) -> None:
        """The slow pace for when Redis is away: one per second, in this process only."""
        self._recall()
        last = self._granted[-1][0] if self._granted else -1.0
        self._next_alone = max(self._next_alone, last + 1.0)
        while True:
            moment = max(trio.current_time(), self._next_alone, self._closed_until)
            self._next_alone = moment + 1.0
            await trio.sleep_until(moment)
            if self._closed_until <= trio.current_time():
                self._granted.append((trio.current_time(), weight))
                return

    async def refused(self, seconds: float, why: str) -> None:
        """The exchange told us to stay away."""
        self.refusals += 1
        await self._stop(seconds, why)
        with contextlib.suppress(StoreError):  # remembered here, and told to Redis when it is back
            await self._tell_redis(seconds, why, 1)

    def told(self, used: int, limit: float, left: float) -> None:
        """What this address has used of the exchange's running window, which ends in ``left`` s.

        Others may share the address: beyond our share of ``limit`` we wait for the next window.
        """
        if used < SHARE * limit:
            return
        until = trio.current_time() + left
        if until > self._full_until:
            self._full_until = until
            if until > self._say_full_at:
                self._say_full_at = until + SAY
                self.journal.info(
                    "the exchange's budget is used up", used=used, limit=round(limit),
                    next=f"REST waits {left:.0f} s",
                )  # fmt: skip

    def answered(self) -> None:
        """The exchange serves us."""
        if self._banned_since is not None:
            after = round(trio.current_time() - self._banned_since)
            self._banned_since = None
            self.journal.info("REST serves us again", after_seconds=after)

    @property
    def banned(self) -> Ban | None:
        """The ban in force."""
        return self.ban if self._stop_until > trio.current_time() else None

    @property
    def _closed_until(self) -> float:
        return max(self._stop_until, self._full_until)

    def used(self, seconds: float) -> int:
        """What the requests of this process weighed in the last ``seconds``."""
        since = trio.current_time() - seconds
        return sum(weight for moment, weight in self._granted if moment > since)

    async def _wait_out(self) -> None:
        """Until no ban is in force and the window has room."""
        await trio.sleep_until(self._full_until)
        while (left := self._stop_until - trio.current_time()) > 0:
            if self.ban is not None and trio.current_time() >= self._repeat_at:
                with contextlib.suppress(StoreError):
                    await self._tell_redis(left, self.ban.why, 0)
            await trio.sleep(max(0.0, min(REPEAT, self._stop_until - trio.current_time())))

    async def _tell_redis(self, seconds: float, why: str, refusals: int) -> None:
        self._repeat_at = trio.current_time() + REPEAT
        length = int(seconds * 1_000_000)
        call = script("ban", (store.budget_key(self.exchange),), length, why[:WHY], refusals)
        await self.redis.run([call], "publish")

    def _recall(self) -> None:
        """What the state directory knows, once."""
        if self._recalled or self.bans is None:
            return
        self._recalled = True
        try:
            known = self.bans.read()
        except (MalformedMessage, ConfigurationError) as error:
            self.journal.warning("a ban may be forgotten", why=str(error), next="it is not read")
            return
        left = known.left(int(self.wall() * 1000)) / 1000 if known is not None else 0.0
        if known is not None and left > 0:
            self._remember(left, known.why)

    async def _stop(self, seconds: float, why: str) -> None:
        """Remember a ban, here and in the state directory."""
        if self._remember(seconds, why) and self.bans is not None and self.ban is not None:
            try:
                await trio.to_thread.run_sync(self.bans.write, self.ban)
            except ConfigurationError as error:
                self.journal.warning("a ban is not kept for a restart", why=str(error))

    def _remember(self, seconds: float, why: str) -> bool:
        """Whether it is longer than what was known."""
        moment, seconds = trio.current_time(), min(seconds, LONGEST / 1000)
        if seconds <= 0 or moment + seconds <= self._stop_until + SAME:
            return False
        now = int(self.wall() * 1000)
        self._stop_until = moment + seconds
        self.ban = Ban(now, now + max(1, int(seconds * 1000)), why[:WHY])
        if self._banned_since is None or moment >= self._say_at:
            self._say_at = moment + SAY
            self.journal.warning(
                "REST refuses us", why=why, until=iso(self.ban.until), next="it is not asked before"
            )
        if self._banned_since is None:
            self._banned_since = moment
        return True


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

        Raises :class:`~livermore.errors.RestError`, :class:`StoreError`, and :class:`Refused` where
        the exchange does not serve us at all: it does not even say what time it is.
        """
        request = self.dialect.candles_request(native, timeframe, first, last)
        try:
            reply, asked_at = await self._ask(request, lane)
        except Refused as refused:
            await self.time()
            raise RestError(str(refused)) from refused
        return self.dialect.read_candles(reply.body), asked_at

    async def products(self) -> Sequence[Product]:
        """What the exchange lists."""
        bodies = [
            (await self._ask(request, Lane.LIVE, without_redis=True))[0].body
            for request in self.dialect.products_requests()
        ]
        return self.dialect.read_products(bodies)

    async def time(self) -> int:
        """The exchange's clock in ms, read half a round trip ago."""
        request = self.dialect.time_request()
        return self.dialect.read_time(
            (await self._ask(request, Lane.LIVE, without_redis=True))[0].body
        )

    async def ask_signed(
        self, request: Request, sign: Callable[[Request], Request]
    ) -> tuple[Reply, LivermoreError | None]:
        """The reply to a request of a person about his account, and the error it means, if any.

        It is signed when its turn has come: signatures are good for seconds. Raises
        :class:`RestError` where there is no reply.
        """
        reply, _, error = await self._exchange(
            request, Lane.BY_HAND, without_redis=True, signed=sign
        )
        if error is None:
            self.budget.answered()
        return reply, error

    async def _ask(
        self, request: Request, lane: Lane, *, without_redis: bool = False
    ) -> tuple[Reply, int]:
        reply, asked_at, error = await self._exchange(request, lane, without_redis=without_redis)
        if error is not None:
            raise error
        self.budget.answered()
        return reply, asked_at

    async def _exchange(
        self,
        request: Request,
        lane: Lane,
        *,
        without_redis: bool,
        signed: Callable[[Request], Request] = lambda request: request,
    ) -> tuple[Reply, int, LivermoreError | None]:
        try:
            await self.budget.grant(lane, request.weight)
        except StoreError:
            if not without_redis:
                raise
            await self.budget.grant_alone(request.weight)
        asked_at = self.clock() or 0
        request = signed(request)
        reply = await self.http.get(request.path, request.params, request.headers)
        self._account(reply)
        error = self.dialect.refusal(reply.status, reply.headers, reply.body)
        if isinstance(error, RateLimited):
            await self.budget.refused(error.wait, str(error))
        return reply, asked_at, error

    def _account(self, reply: Reply) -> None:
        used = self.dialect.used_weight(reply.headers)
        if used is not None:
            window = self.dialect.rest_window * 1000
            left = window - (self.clock() or 0) % window  # the exchange's minutes, by its clock
            self.budget.told(used, self.dialect.rest_per_second * window / 1000, left / 1000)
