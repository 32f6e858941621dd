"""What the feed of an exchange follows, and how that is changed while it runs.

Tier 1 (the symbols of the settings, or the most traded ones) and what was added by hand are for
everybody; what users subscribed to lies in the database. A change is written down first, in
``following:{exchange}`` or in the database, and then the running feed is told: whatever happens in
between, the next feed follows the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from livermore.adapters import store, subscriptions
from livermore.adapters.bans import Bans
from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.dialect import Dialect
from livermore.errors import (
    CommandRefused,
    ConfigurationError,
    DatabaseError,
    LivermoreError,
    NotRunning,
    RestError,
    StoreError,
    StoreUnusable,
    UnknownSymbol,
)
from livermore.market.chosen import Chosen, decode_chosen, encode_chosen
from livermore.market.mode import Mode
from livermore.market.product import (
    Change,
    Followed,
    Product,
    Resolution,
    resolve,
    top,
    unknown_symbol,
)
from livermore.market.tiers import place, tier_one
from livermore.runtime.backoff import Backoff
from livermore.runtime.feed import Feed, Plan
from livermore.runtime.journal import Journal
from livermore.runtime.rest import SHARE, Budget, Rest
from livermore.runtime.supervise import supervise

if TYPE_CHECKING:
    from livermore.adapters.postgres import Database

ASK_FOR = 30.0
"""Seconds for what the exchange lists; a ban may last longer than a person waits."""
NOWHERE = "unix:///dev/null"
"""A Redis that does not answer: without one the budget is of this process alone."""
REFRESH = 3600.0
"""Seconds between two looks at what is most traded, give or take :data:`JITTER`."""
JITTER = 0.1
LOOK = 5.0
"""Seconds between two looks at whether there is a feed, and at what another daemon follows that we
stand by for."""


@attrs.define(eq=False)
class Following:
    """One exchange: what its feed is told, and the feed, once there is one."""

    plan: Plan
    redis: Redis | None = None
    database: Database | None = None
    chance: Callable[[], float] = lambda: 0.5
    feed: Feed | None = None
    chosen: Chosen = attrs.Factory(Chosen)
    notices: tuple[str, ...] = ()
    """What a person should know about how the symbols of the settings were chosen."""
    _known: Chosen | None = attrs.field(default=None, init=False)
    """What Redis holds of it."""
    _changing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _away: str = attrs.field(default="", init=False)
    """Why the database is of no use now."""

    def __attrs_post_init__(self) -> None:
        self.plan = attrs.evolve(self.plan, choose=self.choose)

    @property
    def name(self) -> str:
        """The exchange."""
        return self.plan.dialect.name

    @property
    def mode(self) -> Mode:
        """What the feed is there for."""
        return self.chosen.mode

    async def run(self, live: Callable[[], Awaitable[None]]) -> None:
        """Run ``live``, and keep what it follows up to date as long as it runs."""
        await self.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(
                    supervise, f"symbols of {self.name}", self._keep_fresh, self._journal,
                    chance=self.chance,
                )
            )  # fmt: skip
            await live()
            nursery.cancel_scope.cancel()

    async def start(self) -> None:
        """Recall what was followed. Waits for a Redis that is away."""
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            try:
                await self._recall()
            except StoreUnusable:
                raise
            except StoreError as error:
                if backoff.failures == 0:
                    self._journal.warning("what is followed cannot be read", why=str(error))
                await trio.sleep(backoff.next(self.chance()))
            else:
                return

    def pause(self) -> None:
        """Also for the feeds that come after this one."""
        self.plan = attrs.evolve(self.plan, paused=True)
        if self.feed is not None:
            self.feed.pause()

    def resume(self) -> None:
        """The opposite of :meth:`pause`."""
        self.plan = attrs.evolve(self.plan, paused=False)
        if self.feed is not None:
            self.feed.resume()

    # -- changes --------------------------------------------------------------------------

    async def refresh(self, *, anew: bool = True) -> Change:
        """Ask the exchange (unless that was done a moment ago) and the database, and follow what
        comes of it.

        Raises :class:`LivermoreError` where the exchange or Redis does not answer; then everything
        stays as it is.
        """
        async with self._changing:
            await self._recall()
            listed = await self.listing(anew=anew)
            change = await self._apply()
            await self._write_listing(listed)
            return change

    async def reread(self) -> Change:
        """Follow what users and commands want now; raises :class:`StoreError`."""
        async with self._changing:
            await self._recall()
            return await self._apply()

    async def add(self, symbols: Sequence[str], user: str = "") -> Change:
        """Follow ``symbols`` as well, all of them or none: for everybody, or for ``user`` alone.

        Raises :class:`UnknownSymbol`, :class:`ConfigurationError` for a user without a database,
        and what else :meth:`refresh` raises.
        """
        async with self._changing:
            found = resolve(await self.listing(), symbols)
            names = [product.symbol for product in found.products]
            if user:
                work = subscriptions.add(self.name, user, names)
                await self._database().run_in_thread(work)
            else:
                self._check_mode()
            await self._recall()
            if not user:
                added = dict.fromkeys([*self.chosen.added, *names])
                removed = [one for one in self.chosen.removed if one not in names]
                await self._remember(added=tuple(added), removed=tuple(removed))
            return await self._apply()

    async def remove(self, symbols: Sequence[str], user: str = "") -> Change:
        """Follow ``symbols`` no more, all of them or none; raises as :meth:`add`.

        Without a ``user`` that is for everybody; who subscribed to it goes on alone.
        """
        async with self._changing:
            await self._recall()
            names = self._named(symbols, user)
            if user:
                work = subscriptions.remove(self.name, user, names)
                await self._database().run_in_thread(work)
                await self._recall()
            else:
                added = [one for one in self.chosen.added if one not in names]
                removed = dict.fromkeys(
                    [*self.chosen.removed, *(one for one in names if one in self._everybodys())]
                )
                await self._remember(added=tuple(added), removed=tuple(removed))
            return await self._apply()

    async def switch(self, mode: Mode) -> Change:
        """Work in ``mode`` from now on; raises :class:`CommandRefused` where that is not possible.

        And what :meth:`refresh` raises.
        """
        async with self._changing:
            await self._recall()
            if mode is Mode.POSITION_MONITOR and not self.chosen.followers(positions=True):
                raise CommandRefused(
                    f"{self.name}: no position is known: livermore positions --sync"
                )
            await self._remember(mode=mode)
            return await self._apply()

    async def change(
        self, symbols: tuple[str, ...] | None, count: int, shared: frozenset[str] = frozenset()
    ) -> Change:
        """The settings name these ``symbols`` now, or so many of the most traded ones."""
        async with self._changing:
            self.plan = attrs.evolve(self.plan, symbols=symbols, top=count, shared=shared)
            return await self._apply()

    async def listed(
        self, symbols: tuple[str, ...] | None, count: int, shared: frozenset[str] = frozenset()
    ) -> Resolution:
        """What the exchange has of ``symbols``, or its ``count`` most traded ones.

        Raises :class:`~livermore.errors.LivermoreError` when it does not know one of them or
        cannot be asked.
        """
        products = await self.listing(anew=True)
        found = (
            Resolution(top(products, count))
            if symbols is None
            else resolve(products, symbols, shared)
        )
        if not found.products:
            raise UnknownSymbol(f"{self.name} lists nothing to follow: name --symbols")
        return found

    def choose(self, listed: Sequence[Product]) -> Sequence[Followed]:
        """Everything to follow of what is ``listed``, as it is known now: for a feed that begins.

        What changed while none ran is as it was: its keys have to be moved or removed, and that is
        a change. Raises :class:`UnknownSymbol` for a symbol of the settings that is not listed.
        """
        if self.plan.symbols is not None:
            self.plan.unlisted(resolve(listed, self.plan.symbols, self.plan.shared).unlisted)
        placed = self._choose(listed)
        if not placed and self.mode is Mode.SCALPER_MACDV and not self.chosen.removed:
            raise UnknownSymbol(f"{self.name} lists nothing to follow: name --symbols")
        by_symbol = {product.symbol: product for product in listed}
        before = {
            symbol: Followed(by_symbol[symbol], owner)
            for symbol, owner in self.chosen.beside
            if symbol in by_symbol
        }
        return [*({one.symbol: one for one in placed} | before).values()]

    def _choose(self, listed: Sequence[Product]) -> Sequence[Followed]:
        """As :meth:`choose`; what is listed no more is left out."""
        chosen, plan = self.chosen, self.plan
        by_symbol = {product.symbol: product for product in listed}
        shared: list[Product] = []
        if plan.symbols is not None:
            found = resolve(listed, plan.symbols, plan.symbols)
            gone = [one.symbol for one in found.products if one.symbol in chosen.removed]
            again = [f"{one} was removed by hand: livermore symbols add {one}" for one in gone]
            self._notice((*found.notices, *again))
            tier = [one for one in found.products if one.symbol not in chosen.removed]
        else:
            tier = list(tier_one(listed, plan.top, chosen.tier, chosen.removed))
        self.chosen = attrs.evolve(chosen, tier=tuple(product.symbol for product in tier))
        positions = chosen.mode is Mode.POSITION_MONITOR
        if not positions:
            shared = [*tier, *(by_symbol[one] for one in chosen.added if one in by_symbol)]
        return place(shared, chosen.followers(positions=positions), by_symbol)

    # -- parts ----------------------------------------------------------------------------

    @property
    def _journal(self) -> Journal:
        return self.feed.journal if self.feed is not None else Journal(self.name)

    def _notice(self, notices: tuple[str, ...]) -> None:
        for text in notices:
            if text not in self.notices:
                self._journal.info("notice", text=text)
        if self.feed is not None:
            others = [text for text in self.feed.report.notices if text not in self.notices]
            self.feed.report.notices = [*notices, *others]
        self.notices = notices

    def _check_mode(self) -> None:
        if self.mode is Mode.POSITION_MONITOR:
            raise CommandRefused(
                f"{self.name} follows positions alone: livermore ctl switch-mode "
                f"{Mode.SCALPER_MACDV.value}"
            )

    def _database(self) -> Database:
        if self.database is None:
            raise ConfigurationError(
                "symbols of a user need a database: set LIVERMORE_DATABASE_URL, "
                "then: livermore db apply (docs/users.md)"
            )
        return self.database

    def _everybodys(self) -> Collection[str]:
        """Symbols of Tier 1, whatever is removed now."""
        return {*self.chosen.tier, *(self.plan.symbols or ())}

    def _named(self, symbols: Sequence[str], user: str) -> list[str]:
        """The symbols as they are followed; raises :class:`UnknownSymbol`."""
        followers = self.chosen.followers(positions=False)
        everybodys = {*self._everybodys(), *self.chosen.added} - {*self.chosen.removed}
        known = {one for one, users in followers.items() if user in users} if user else everybodys
        others = self.feed.report.aliases if self.feed is not None else {}
        names = []
        for text in symbols:
            symbol = text.strip().upper().replace("/", "-")
            name = symbol if symbol in known else others.get(symbol, symbol)
            if name in known:
                names.append(name)
            elif user:
                raise UnknownSymbol(f"{user} does not follow {symbol} on {self.name}")
            elif name in followers:
                raise UnknownSymbol(
                    f"{symbol} is followed for {', '.join(followers[name])} alone: "
                    f"livermore symbols remove {symbol} --user {followers[name][0]}"
                )
            else:
                hint = unknown_symbol(symbol, known).removeprefix("unknown symbol ")
                raise UnknownSymbol(f"{self.name} does not follow {hint}")
        return names

    async def _apply(self) -> Change:
        """Tell the running feed; where none runs, the next one follows it anyway."""
        if self.feed is None or not self.feed.listed:
            await self._remember()
            return Change()
        wanted = self._choose(self.feed.listed)
        tier = self.chosen.tier
        try:
            change = await self.feed.follow(wanted)
        except NotRunning:
            return Change()  # the next one asks
        beside = [(one.symbol, one.owner) for one in wanted if one.owner or one.symbol not in tier]
        self.chosen = attrs.evolve(self.chosen, beside=tuple(sorted(beside)))
        with contextlib.suppress(StoreError):  # what was wanted is written; the next time tells
            await self._remember()
        return change

    async def listing(self, *, anew: bool = False) -> Sequence[Product]:
        """What the exchange lists. Raises :class:`LivermoreError` where it cannot be asked."""
        if self.feed is not None and self.feed.listed and not anew:
            return self.feed.listed
        if self.feed is None:
            plan = self.plan
            return await ask_listing(plan.dialect, plan.rest_url, self.redis, plan.bans)
        with trio.move_on_after(ASK_FOR):
            return await self.feed.relist()
        raise RestError(f"{self.name} does not answer within {ASK_FOR:.0f} s")

    async def _keep_fresh(self) -> None:
        """Look at what is most traded, and at who follows what, about every hour."""
        due, seen = 0.0, None
        while True:
            feed = self.feed
            try:
                if feed is not None and feed.report.standby:
                    await self._recall()  # whoever we stand by for changes it
                elif feed is not None and feed.listed and feed is not seen:
                    seen, due = feed, self._next()
                    await self.refresh(anew=False)  # it has just asked
                elif feed is not None and feed is seen and due <= trio.current_time():
                    due = self._next()
                    await self._use(feed)
                    if not feed.paused:
                        await self.refresh()
            except LivermoreError as error:
                self._journal.warning(
                    "what is followed was not refreshed", why=str(error),
                    next="it stays as it is, and is looked at again in an hour",
                )  # fmt: skip
            await trio.sleep(LOOK)

    def _next(self) -> float:
        return trio.current_time() + REFRESH * (1 + JITTER * (2 * self.chance() - 1))

    async def _use(self, feed: Feed) -> None:
        """What is followed is used: a candle of a day is written once a day only."""
        if self.redis is None:
            return
        series = [
            series
            for one in feed.followed
            for series in store.all_series(self.name, one.symbol, one.owner)
        ]
        replies = await self.redis.run_each(store.renew(series, self.chance), "publish")
        store.raise_unless_foreign(replies)

    # -- what is remembered ---------------------------------------------------------------

    async def _recall(self) -> None:
        """Read what was chosen; raises :class:`StoreError`. The database may be away."""
        if self.redis is not None:
            call = ("HGETALL", store.following_key(self.name))
            [reply] = await self.redis.run_each([call], "read")
            store.raise_unless_foreign([reply])
            if reply and not isinstance(reply, StoreError):
                self._known = self.chosen = decode_chosen(reply)
            else:
                self._known = None  # it was emptied, or is somebody else's: what we know stays
        if self.database is None:
            return
        try:
            found = await self.database.run_in_thread(subscriptions.read(self.name))
        except DatabaseError as error:
            self._say_away(str(error))
        else:
            self._say_away("")
            self.chosen = attrs.evolve(self.chosen, subscriptions=found)

    async def _remember(self, **changes: Any) -> None:
        """Write down what is chosen, with ``changes``. Raises :class:`StoreError`."""
        fresh = attrs.evolve(self.chosen, **changes)
        known = encode_chosen(self._known) if self._known is not None else {}
        fields = [
            part
            for name, text in encode_chosen(fresh).items()
            if known.get(name) != text
            for part in (name, text)
        ]
        if self.redis is not None and fields:
            call = ("HSET", store.following_key(self.name), *fields)
            [reply] = await self.redis.run_each([call], "publish")
            if isinstance(reply, StoreError) and (changes or not store.is_foreign(reply)):
                raise reply
            self._known = None if isinstance(reply, StoreError) else fresh
        self.chosen = fresh

    async def _write_listing(self, listed: Sequence[Product]) -> None:
        if self.database is None:
            return
        ranks = {one.symbol: rank for rank, one in enumerate(top(listed, len(listed)), start=1)}
        work = subscriptions.write_listing(self.name, listed, ranks)
        try:
            await self.database.run_in_thread(work)
        except DatabaseError as error:
            self._say_away(str(error))

    def _say_away(self, why: str) -> None:
        """Once per outage."""
        if why and not self._away:
            self._journal.warning(
                "the database is of no use now", why=why,
                next="what users subscribed to last stays followed",
            )  # fmt: skip
        elif self._away and not why:
            self._journal.info("the database is back")
        self._away = why


async def ask_listing(
    dialect: Dialect, rest_url: str, redis: Redis | None, bans: Bans | None = None
) -> Sequence[Product]:
    """What an exchange lists, within its budget; raises :class:`LivermoreError`."""
    redis = Redis(NOWHERE) if redis is None else redis
    budget = Budget(redis, dialect.name, SHARE * dialect.rest_per_second, bans)
    with trio.move_on_after(ASK_FOR):
        async with Http(rest_url) as http:
            return await Rest(dialect, http, budget, lambda: None).products()
    raise RestError(f"{dialect.name} does not answer within {ASK_FOR:.0f} s")
