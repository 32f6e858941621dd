"""What the feed of an exchange follows, and how that is changed while it runs.

A changed list is a new feed in the same process: the old one writes its last batch and keeps the
lease, the new one takes it anew, under a higher epoch, and repairs what closed in between, as after
a restart. A list that the exchange cannot serve is refused before anything ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.errors import RestError, UnknownSymbol
from livermore.market.product import Product, Resolution, resolve, top
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.rest import SHARE, Budget, Rest

ASK_FOR = 30.0
"""Seconds for what the exchange lists; a ban may last longer than a person waits."""


@attrs.define
class Following:
    """One exchange: what its feed is told now, and the feed, once there is one."""

    plan: Plan
    feed: Feed | None = None
    _scope: trio.CancelScope | None = None

    async def run(self, live: Callable[[], Awaitable[None]]) -> None:
        """Run ``live`` until cancelled; it is ended and called again whenever the plan changes."""
        while True:
            try:
                with trio.CancelScope() as self._scope:
                    await live()
            except BaseException:
                if self.feed is not None and self.feed.handing_on:
                    await self.feed.give_back()  # ended for good just then: nobody takes it over
                raise

    @property
    def name(self) -> str:
        """The exchange."""
        return self.plan.dialect.name

    async def listed(
        self,
        redis: Redis,
        symbols: tuple[str, ...] | None,
        count: int,
        shared: frozenset[str] = frozenset(),
    ) -> Resolution:
        """What the exchange has of ``symbols``, or its ``count`` most traded ones.

        Raises :class:`~livermore.errors.LivermoreError` when it does not know one of them or
        cannot be asked.
        """
        dialect = self.plan.dialect
        # The running feed's knows of refusals that Redis may have lost.
        budget = self.feed.report.budget if self.feed is not None else None
        if budget is None:
            per_second = SHARE * dialect.rest_per_second
            budget = Budget(redis, dialect.name, per_second, self.plan.bans)
        products: Sequence[Product] | None = None
        with trio.move_on_after(ASK_FOR):
            async with Http(self.plan.rest_url) as http:
                products = await Rest(dialect, http, budget, lambda: None).products()
        if products is None:
            raise RestError(f"{dialect.name} does not answer within {ASK_FOR:.0f} s")
        found = (
            Resolution(top(products, count))
            if symbols is None
            else resolve(products, symbols, shared)
        )
        if not found.products:
            raise UnknownSymbol(f"{dialect.name} lists nothing to follow: name --symbols")
        return found

    def change(
        self,
        symbols: tuple[str, ...] | None,
        count: int,
        listed: Sequence[str],
        shared: frozenset[str] = frozenset(),
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Follow these from now on, they are ``listed``; returns what is new and what is gone.

        Where that is nothing the feed just goes on.
        """
        self.plan = attrs.evolve(self.plan, symbols=symbols, top=count, shared=shared)
        before = self.feed.report.symbols if self.feed is not None else ()
        new = [symbol for symbol in listed if symbol not in before]
        gone = [symbol for symbol in before if symbol not in listed]
        if new or gone:
            if self.feed is not None:
                self.feed.handing_on = True
            if self._scope is not None:
                self._scope.cancel()
        return new, gone
