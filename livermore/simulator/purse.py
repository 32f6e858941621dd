"""Who has a key at a simulated exchange, and what is in his purse.

The purse is made of orders, and the orders of the market: from the same seed and start come the
same trades, at prices that were paid. What is left of them is the balance, but for one currency of
which some was deposited: its trades do not explain what there is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal

import attrs

from livermore.simulator.chance import key_of, once
from livermore.simulator.listing import Listing
from livermore.simulator.market import Market
from livermore.simulator.trades import NS

ORDERS = 260
"""More than a page of them, wherever orders come in pages of 250."""
MARKETS = 4
DEPOSITED = 1
"""The place of the symbol whose currency was deposited, too."""
HELD = 2
"""The place of the one of which some is held by an open order."""
_DAYS = 20
_CENTS = Decimal("1e-8")


@attrs.frozen
class Key:
    """A key as its owner got it."""

    name: str
    """What tests call it."""
    rights: frozenset[str]
    """Of view, trade, transfer."""
    key: str
    secret: str = attrs.field(repr=False)

    def as_json(self) -> dict[str, object]:
        """For those who ask the door for tests."""
        return {**attrs.asdict(self), "rights": sorted(self.rights)}


@attrs.frozen
class Order:
    """One that was filled at once. ``time`` in ms; amounts as the exchange writes them."""

    number: int
    """From 1, as they came."""
    listing: Listing
    buy: bool
    size: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    time: int

    @property
    def value(self) -> Decimal:
        """In the quote, without the fee."""
        return self.size * self.price


@attrs.define(eq=False)
class Purse:
    """What the owner of any key has: they are all his."""

    market: Market
    seed: int
    taker: Decimal
    """Share of a trade's value that it costs."""
    fee_of_what_comes: bool
    """Whether a buyer pays in what he bought; else everybody pays in the quote."""

    @functools.cached_property
    def orders(self) -> tuple[Order, ...]:
        """Oldest first."""
        symbols = self.market.followed[:MARKETS]
        key, made, owned = key_of(self.seed, "purse"), list[Order](), dict[str, Decimal]()
        first = max(self.market.start - _DAYS * 86_400_000, self.market.listed_since + 86_400_000)
        step = (self.market.start - first) // (ORDERS + 1)
        for number in range(1, ORDERS + 1):
            listing = self.market.listing(symbols[number % len(symbols)])
            time = first + number * step
            price = Decimal(self.market.last_price(listing.symbol, time * NS)) / listing.tick
            chance = Decimal(str(round(once(key, number), 6)))
            has = owned.get(listing.base, Decimal(0))
            buy = not has or chance > Decimal("0.35")
            size = (1 + 400 * chance) / price if buy else has * chance
            size = size.quantize(Decimal(1) / listing.unit, ROUND_DOWN)
            if not size:
                continue
            in_base = buy and self.fee_of_what_comes
            fee = (self.taker * size * (1 if in_base else price)).quantize(_CENTS)
            owned[listing.base] = has + (size if buy else -size) - (fee if in_base else 0)
            paid_in = listing.base if in_base else listing.quote
            made.append(Order(number, listing, buy, size, price, fee, paid_in, time))
        return tuple(made)

    @functools.cached_property
    def balances(self) -> Mapping[str, tuple[Decimal, Decimal]]:
        """Currency -> free and held."""
        total: dict[str, Decimal] = {}
        for order in self.orders:
            sign = 1 if order.buy else -1
            for currency, change in (
                (order.listing.base, sign * order.size),
                (order.listing.quote, -sign * order.value),
                (order.fee_currency, -order.fee),
            ):
                total[currency] = total.get(currency, Decimal(0)) + change
        symbols = self.market.followed[:MARKETS]
        listings = [self.market.listing(symbol) for symbol in symbols]
        total[listings[0].quote] += Decimal(100_000)
        if len(listings) > DEPOSITED:
            total[listings[DEPOSITED].base] += Decimal("1.5")
        held = {listings[HELD].base: total[listings[HELD].base] / 4} if len(listings) > HELD else {}
        found = {}
        for currency, exact in total.items():
            amount = exact.quantize(_CENTS)
            kept = held.get(currency, Decimal(0)).quantize(_CENTS)
            found[currency] = (amount - kept, kept)
        return {**found, "USDC": (Decimal("250.5"), Decimal(0))}

    @functools.cached_property
    def traded(self) -> Decimal:
        """Value of all orders."""
        return sum((order.value for order in self.orders), Decimal(0))

    @functools.cached_property
    def paid(self) -> Decimal:
        """Fees of all orders, in the quote."""
        return (self.traded * self.taker).quantize(_CENTS)
