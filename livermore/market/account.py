"""What somebody has at an exchange, and what it cost, as far as his own trades explain it.

Money is :class:`~decimal.Decimal`, as the exchange wrote it. The cost of a position is the average
cost of what was bought, fees included. It is known only where the trades add up to the balance:
what was deposited, or bought with something that is no cash, has a price nobody told us.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal

import attrs

from livermore.market.product import DOLLARS, FIAT, STABLECOINS, Product, market

CASH = STABLECOINS | FIAT
"""Currencies that are no position."""
CLOSE = Decimal("1e-6")
"""Of a balance: by so much trades may miss it, as mean prices are rounded."""
PLACES = Decimal("1e-10")
"""What is computed is rounded to this."""
WIDE = Context(prec=100)
LARGEST = Decimal("1e18")
"""No account holds as much of anything, and nobody pays as much."""
ZERO = Decimal(0)


def possible(*amounts: Decimal) -> bool:
    """Whether these can be amounts of anything: finite, not negative, not absurd."""
    return all(amount.is_finite() and 0 <= amount < LARGEST for amount in amounts)


@attrs.frozen
class Balance:
    """Of one currency: what is free, and what is held by open orders."""

    currency: str
    available: Decimal
    held: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        """All of it."""
        return self.available + self.held


class Side(enum.Enum):
    """Of a trade, as its owner sees it."""

    BUY = "buy"
    SELL = "sell"


@attrs.frozen(kw_only=True)
class Fill:
    """What was traded of one product, in a trade or a whole order: ``quantity`` for ``value``.

    ``value`` is in the quote and without the fee; ``time`` is epoch ms.
    """

    native: str
    identity: str
    side: Side
    quantity: Decimal
    value: Decimal
    time: int
    fee: Decimal = ZERO
    fee_currency: str | None = None
    """None: the quote."""


@attrs.frozen(kw_only=True)
class FeeTier:
    """What the account pays, as fractions of the traded value. None: the exchange does not say."""

    maker: Decimal | None
    taker: Decimal | None
    name: str = ""
    volume: Decimal | None = None
    """Traded in 30 days, in ``currency``."""
    paid: Decimal | None = None
    """Fees in that time."""
    currency: str = "USD"


@attrs.frozen
class Rights:
    """What a key may do. None: the exchange does not say."""

    view: bool | None
    trade: bool | None
    transfer: bool | None

    @property
    def beyond_viewing(self) -> tuple[str, ...]:
        """What it may do that nothing here needs."""
        told = {"trade": self.trade, "transfer": self.transfer}
        return tuple(name for name, allowed in told.items() if allowed)


class Fault(enum.Enum):
    """Why an exchange does not take a signed request."""

    KEY = "key"
    """It does not accept the key: unknown, deleted, expired, or limited to other addresses."""
    SIGNATURE = "signature"
    """It knows the key; the secret is another's."""
    RIGHTS = "rights"
    """The key may not view."""
    CLOCK = "clock"
    """The request looks too old, or made in the future."""


@attrs.frozen(kw_only=True)
class Position:
    """So much of a currency, and what it is worth on its market."""

    currency: str
    quantity: Decimal
    symbol: str | None
    """The market it is valued on; None: the exchange lists none."""
    held: Decimal = ZERO
    """What open orders hold of it."""
    quote: str | None = None
    price: Decimal | None = None
    cost_basis: Decimal | None = None
    """What all of it cost, in the quote. None: not known, ``note`` says why."""
    note: str = ""

    @property
    def value(self) -> Decimal | None:
        """In the quote."""
        return None if self.price is None else _rounded(self.quantity * self.price)

    @property
    def average(self) -> Decimal | None:
        """Cost of one."""
        return None if self.cost_basis is None else _rounded(self.cost_basis / self.quantity)

    @property
    def pnl(self) -> Decimal | None:
        """What is gained or lost if it is sold at the price now, before fees."""
        if self.value is None or self.cost_basis is None:
            return None
        return self.value - self.cost_basis

    @property
    def pnl_percent(self) -> Decimal | None:
        """The same in percent of the cost."""
        if self.pnl is None or not self.cost_basis:
            return None
        return round(100 * self.pnl / self.cost_basis, 4)


def cash(balances: Iterable[Balance]) -> tuple[Balance, ...]:
    """Balances that are no positions, and not empty."""
    return tuple(one for one in balances if one.currency in CASH and one.total)


def held(balances: Iterable[Balance]) -> tuple[Balance, ...]:
    """Balances that are positions."""
    return tuple(one for one in balances if one.currency not in CASH and one.total > 0)


def positions(
    balances: Iterable[Balance], fills: Iterable[Fill], products: Sequence[Product]
) -> tuple[Position, ...]:
    """What the balances are worth and what they cost, the most valuable first.

    ``fills``: all that the account ever traded of what it holds, in any order.
    """
    listed = {product.symbol: product for product in products}
    books = _booked(fills, listed)
    found = [_position(one, books.get(one.currency, _Book()), listed) for one in held(balances)]

    def rank(one: Position) -> tuple[bool, Decimal, str]:
        return one.quote not in DOLLARS, -(one.value or ZERO), one.currency

    return tuple(sorted(found, key=rank))


@attrs.define
class _Book:
    """How much trades made of a currency, and what that cost; None: not known."""

    quantity: Decimal = ZERO
    cost: Decimal | None = ZERO
    market: Product | None = None
    """Where it was bought."""
    why: str = ""
    """The cost is not known."""
    note: str = ""
    short: bool = False
    """More was sold than bought: not all came by trading."""

    def add(self, quantity: Decimal, cost: Decimal | None, where: Product) -> None:
        if self.cost is not None:
            if cost is None:
                self._lose(f"it came from selling {where.symbol}")
            elif self.market is not None and self.market.quote != where.quote:
                self._lose(f"it was bought for {self.market.quote} and for {where.quote}")
            else:
                self.cost += cost
                self.market = where
        self.quantity += quantity

    def take(self, quantity: Decimal) -> None:
        if self.quantity and self.cost is not None:
            self.cost -= self.cost * quantity / self.quantity
        self.quantity -= quantity
        self.short = self.short or self.quantity < 0
        if not self.quantity:  # what comes now has nothing to do with what was before
            self.cost, self.market, self.why, self.note = ZERO, None, "", ""

    def pay(self, fee: Decimal) -> None:
        """A fee in the quote."""
        if self.cost is not None:
            self.cost += fee

    def _lose(self, why: str) -> None:
        self.cost, self.why = None, why


def _booked(fills: Iterable[Fill], listed: Mapping[str, Product]) -> dict[str, _Book]:
    by_native = {product.native: product for product in listed.values()}
    books: dict[str, _Book] = {}
    for fill in sorted(fills, key=lambda one: (one.time, one.identity)):
        product = by_native.get(fill.native)
        if product is None:  # not listed any more; if it matters, the balance does not add up
            continue
        where = market(product, listed)
        base, quote = (books.setdefault(name, _Book()) for name in (product.base, product.quote))
        fee_currency = fill.fee_currency or product.quote
        in_quote = fill.fee if fee_currency == product.quote else ZERO
        if fill.side is Side.BUY:
            quote.take(fill.value + in_quote)
            base.add(fill.quantity, fill.value, where)
            base.pay(in_quote)
            if fee_currency == product.base:  # less came for the same money
                base.quantity -= fill.fee
        else:
            base.take(fill.quantity + (fill.fee if fee_currency == product.base else ZERO))
            quote.add(fill.value - in_quote, None, where)
        if fill.fee and fee_currency not in (product.base, product.quote):
            books.setdefault(fee_currency, _Book()).take(fill.fee)
            base.note = f"without the fees paid in {fee_currency}"
    return books


def _position(balance: Balance, book: _Book, listed: Mapping[str, Product]) -> Position:
    cost, note = book.cost, book.why or book.note
    if book.short or abs(book.quantity - balance.total) > CLOSE * balance.total:
        cost, note = None, "trades do not add up to it: not all was bought and sold here"
    where = book.market if cost is not None else None
    where = listed.get(where.symbol) if where is not None else best_market(balance.currency, listed)
    price = None if where is None or where.price is None else Decimal(repr(where.price))
    return Position(
        currency=balance.currency,
        quantity=balance.total,
        held=balance.held,
        symbol=None if where is None else where.symbol,
        quote=None if where is None else where.quote,
        price=price,
        cost_basis=None if cost is None else _rounded(cost),
        note=note,
    )


def best_market(currency: str, listed: Mapping[str, Product]) -> Product | None:
    """Where ``currency`` is worth what: in USD, else in another dollar, else where it trades most.

    None where it trades nowhere.
    """
    markets = [
        product
        for product in listed.values()
        if product.base == currency and product.tradable and market(product, listed) is product
    ]

    def rank(one: Product) -> tuple[int, float, str]:
        return (one.quote in DOLLARS) + (one.quote == "USD"), one.quote_volume, one.symbol

    return max(markets, key=rank, default=None)


def _rounded(value: Decimal) -> Decimal:
    """To ten places, without zeros at the end."""
    return Decimal(f"{WIDE.quantize(value, PLACES):f}".rstrip("0").rstrip("."))
