"""Asking an exchange about somebody's account, with his key and within the rate budget.

Only reads are asked for: the right to view is enough for all of it. Requests carry the exchange's
time, so a wrong clock of ours spoils none. Of a key its variables are named, and never its values.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import attrs
import trio

from livermore.adapters.bans import Bans
from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.adapters.urls import shown
from livermore.dialect import Account, Credentials, Dialect, Page, Request
from livermore.errors import ConfigurationError, KeyRefused, MalformedMessage, UsageError
from livermore.market.account import (
    Balance,
    Fault,
    FeeTier,
    Fill,
    Position,
    Rights,
    cash,
    held,
    positions,
)
from livermore.market.clock import ExchangeClock
from livermore.market.product import Product
from livermore.runtime.rest import SHARE, Budget, Rest

MOST_PAGES = 4_000
"""Of one answer; more is no answer."""

T = TypeVar("T")
Report = Callable[[int, int, str], None]
"""How many are done, of how many, of what."""


@attrs.frozen
class Holdings:
    """What somebody has: positions, the most valuable first, and cash."""

    positions: tuple[Position, ...]
    cash: tuple[Balance, ...]
    as_of: int
    """When it was asked (ms of the exchange)."""


@attrs.frozen
class Key:
    """A key, and the variables it was taken from, by the names of its parts."""

    credentials: Credentials
    variables: Mapping[str, str]


def account_of(dialect: Dialect) -> Account:
    """How the exchange is asked about an account; raises :class:`UsageError` where unknown."""
    if dialect.account is None:
        raise UsageError(f"{dialect.title} cannot be asked about accounts here")
    return dialect.account


def variables_of(dialect: Dialect, named: Mapping[str, str]) -> dict[str, str]:
    """The variable of each part of a key: the ``named`` one, or the usual."""
    return {part.name: named.get(part.name) or part.variable for part in account_of(dialect).wants}


def key_of(dialect: Dialect, named: Mapping[str, str], environment: Mapping[str, str]) -> Key:
    """The key in the environment. Raises :class:`ConfigurationError` where a part is unusable."""
    account, names = account_of(dialect), variables_of(dialect, named)
    unset = [name for name in names.values() if not environment.get(name, "").strip()]
    if unset:
        raise ConfigurationError(
            f"{dialect.name}: {' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set: "
            f"make a key at {dialect.title} that may only view, and put it there"
        )
    credentials = Credentials({part: environment[name] for part, name in names.items()})
    complaints = account.complaints(credentials)
    if complaints:
        told = "; ".join(f"{names[part]}: {what}" for part, what in complaints.items())
        raise ConfigurationError(f"{dialect.name}: {told}")
    return Key(credentials, names)


@attrs.define
class Keyholder:
    """Whoever holds ``key`` at an exchange, asking about his account.

    Everything raises :class:`KeyRefused` where the key is not taken, and what :class:`Rest` raises.
    """

    rest: Rest
    clock: ExchangeClock
    key: Key
    nonce: Callable[[], str] = secrets.token_hex

    @property
    def account(self) -> Account:
        """How the exchange is asked."""
        return account_of(self.rest.dialect)

    async def rights(self) -> Rights:
        """What the key may do."""
        return self.account.read_rights(await self._ask(self.account.rights_request))

    async def fees(self) -> FeeTier:
        """What the account pays."""
        return self.account.read_fees(await self._ask(self.account.fees_request))

    async def balances(self) -> tuple[Balance, ...]:
        """All that the account has."""
        return await self._all(self.account.balances_request, self.account.read_balances)

    async def fills(
        self, products: Sequence[Product], report: Report | None = None
    ) -> tuple[Fill, ...]:
        """All that was ever traded of ``products``; some exchanges tell of others as well."""
        found: list[Fill] = []
        requests = self.account.fills_requests(products)
        for number, request in enumerate(requests):
            if report is not None:
                report(number, len(requests), "markets asked for trades")
            found += await self._all(request, self.account.read_fills)
        return tuple(found)

    async def holdings(self, report: Report | None = None) -> Holdings:
        """Positions with their cost, at the prices of now, and cash."""
        balances = await self.balances()
        as_of = self._now()
        bases = {one.currency for one in held(balances)}
        if not bases:
            return Holdings((), cash(balances), as_of)
        listed = await self.rest.products()
        fills = await self.fills([one for one in listed if one.base in bases], report)
        return Holdings(positions(balances, fills, listed), cash(balances), as_of)

    async def _all(
        self, request: Request | None, read: Callable[[Request, bytes], Page[T]]
    ) -> tuple[T, ...]:
        rows: list[T] = []
        for _ in range(MOST_PAGES):
            if request is None:
                return tuple(rows)
            page = read(request, await self._ask(request))
            rows += page.rows
            request = page.next
        raise MalformedMessage(f"{self.rest.dialect.name}: an answer without end")

    async def _ask(self, request: Request) -> bytes:
        """The answer to a request that is signed now; with the clock set once, if that is asked."""
        if self.clock.read(trio.current_time()) is None:
            await self._set_clock()
        reply, error = await self.rest.ask_signed(request, self._signed)
        fault = self.account.fault(reply.status, reply.headers, reply.body)
        if fault is Fault.CLOCK:
            await self._set_clock()
            reply, error = await self.rest.ask_signed(request, self._signed)
            fault = self.account.fault(reply.status, reply.headers, reply.body)
        if error is None:
            return reply.body
        if fault is None:
            raise error
        raise KeyRefused(f"{error} ({self._step(fault)})")

    def _signed(self, request: Request) -> Request:
        host, credentials = self.rest.http.host, self.key.credentials
        return self.account.sign(request, host, credentials, self._now(), self.nonce())

    def _now(self) -> int:
        now = self.clock.read(trio.current_time())
        assert now is not None, "the clock is set before anything is asked"
        return now

    async def _set_clock(self) -> None:
        # Believed at once: what the clock knew before may be what is wrong.
        self.clock.stamp, self.clock.heard_at = await self.rest.time(), trio.current_time()

    def _step(self, fault: Fault) -> str:
        """What a person can do about it."""
        names = " and ".join(self.key.variables.values())
        match fault:
            case Fault.RIGHTS:
                return f"the key in {names} may not view: give it that right, and no other"
            case Fault.SIGNATURE:
                return f"{names} do not belong together: take both from one key"
            case Fault.CLOCK:
                return "its clock runs away from ours: try again"
        return (
            f"check {names}: deleted, expired, of another exchange, limited to other addresses, "
            "or without the right to view"
        )


@asynccontextmanager
async def keyholder(
    redis: Redis, dialect: Dialect, rest_url: str, key: Key, bans: Bans | None = None
) -> AsyncIterator[Keyholder]:
    """Whoever holds ``key``, with a connection of his own and everybody's budget.

    Raises :class:`ConfigurationError` where the way there is open to anybody's eyes.
    """
    parts = urlsplit(rest_url)
    if parts.scheme != "https" and not _is_here(parts.hostname or ""):
        raise ConfigurationError(
            f"{dialect.name}: {shown(rest_url)} is not encrypted: a key goes over https:// alone"
        )
    clock = ExchangeClock()
    async with Http(rest_url) as http:
        budget = Budget(redis, dialect.name, SHARE * dialect.rest_per_second, bans)
        rest = Rest(dialect, http, budget, lambda: clock.read(trio.current_time()))
        yield Keyholder(rest, clock, key)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def warning(dialect: Dialect, rights: Rights, variables: Iterable[str]) -> str | None:
    """What should be said of a key that may do more than it is needed for."""
    if beyond := rights.beyond_viewing:
        return (
            f"{dialect.name}: the key in {' and '.join(variables)} may {' and '.join(beyond)}: "
            "nothing here needs that, make one that may only view"
        )
    return None
