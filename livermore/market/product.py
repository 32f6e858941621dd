"""What an exchange lists, and which of it is worth following."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence

import attrs

from livermore.errors import UnknownSymbol

DOLLARS = ("USD", "USDC", "USDT")
"""Quotes that count as the dollar when volumes are compared, in order of preference."""

STABLECOINS = frozenset(
    "USDC USDT DAI PYUSD USDS GUSD PAX USDP TUSD FDUSD BUSD EURC EURT EURI GYEN USD1 RLUSD USDG "
    "USDE CBUSD MUSD ZUSD LUSD FRAX UST USDD GHO CRVUSD SUSD BFUSD XUSD AEUR".split()
)
FIAT = frozenset("USD EUR GBP CAD AUD JPY CHF SGD BRL TRY INR MXN".split())


@attrs.frozen
class Product:
    """One listing. ``quote_volume`` is the last 24 h in the quote currency, ``price`` the last one.

    ``alias`` is the symbol whose market this listing shows under another name, if any.
    """

    symbol: str
    native: str
    base: str
    quote: str
    tradable: bool = True
    alias: str | None = None
    price: float | None = None
    quote_volume: float = 0.0


@attrs.frozen
class Followed:
    """A product that is followed. ``owner`` is the one user in whose private keys it lives, "" for
    the pool that all share."""

    product: Product
    owner: str = ""

    @property
    def symbol(self) -> str:
        """Of the product."""
        return self.product.symbol


@attrs.frozen
class Change:
    """What is followed anew and what no more; with another owner it is both."""

    new: tuple[Followed, ...] = ()
    gone: tuple[Followed, ...] = ()


@attrs.frozen
class Resolution:
    """Symbols to follow, and what a person should know about how they were chosen."""

    products: tuple[Product, ...]
    notices: tuple[str, ...] = ()
    unlisted: Mapping[str, str] = attrs.Factory(dict)
    """Shared symbols that are not listed here -> the message that says so."""


def resolve(
    products: Iterable[Product], symbols: Sequence[str], shared: Container[str] = ()
) -> Resolution:
    """The products called ``symbols``; an alias becomes the product it stands for, with a notice.

    Raises :class:`UnknownSymbol` with the nearest names for a symbol that is not listed. One of
    those that are ``shared`` with other exchanges is left out instead.
    """
    listed = {product.symbol: product for product in products}
    chosen: dict[str, Product] = {}
    notices: dict[str, None] = {}
    unlisted: dict[str, str] = {}
    for wanted in symbols:
        symbol = wanted.strip().upper().replace("/", "-")
        product = listed.get(symbol)
        if product is None:
            message = unknown_symbol(symbol, listed)
            if symbol not in shared:
                raise UnknownSymbol(message)
            unlisted[symbol] = message
            continue
        product = market(product, listed)
        if product.symbol != symbol:
            notices[same_market(symbol, product.symbol)] = None
        if not product.tradable:
            notices[f"{product.symbol} is listed but not trading now"] = None
        chosen[product.symbol] = product
    if unlisted:
        named = ", ".join(list(unlisted)[:3]) + (", …" if len(unlisted) > 3 else "")
        notices[f"{len(unlisted)} of {len(symbols)} symbols are not listed here ({named})"] = None
    return Resolution(tuple(chosen.values()), tuple(notices), unlisted)


def market(product: Product, listed: Mapping[str, Product]) -> Product:
    """The product whose market ``product`` shows: itself, unless its alias is listed."""
    seen = [product.symbol]
    while product.alias and product.alias in listed:
        if product.alias in seen:  # names that stand for each other: the same one for all of them
            return product if product.alias == product.symbol else listed[min(seen)]
        seen.append(product.alias)
        product = listed[product.alias]
    return product


def same_market(symbol: str, name: str) -> str:
    """The notice for ``symbol``, whose market is followed as ``name``."""
    return f"{symbol} is the same market as {name}: followed as {name}"


def aliases(products: Iterable[Product], followed: Iterable[Product]) -> dict[str, str]:
    """Other listed names of the markets that are followed -> the symbol each is followed as."""
    listed = {product.symbol: product for product in products}
    names = {product.symbol for product in followed}
    markets = {symbol: market(product, listed).symbol for symbol, product in listed.items()}
    return {symbol: name for symbol, name in markets.items() if name != symbol and name in names}


def unknown_symbol(symbol: str, listed: Iterable[str]) -> str:
    """A message that names the nearest listed symbols."""
    scored = ((_likeness(symbol, name), name) for name in listed)
    near = [name for score, name in sorted(scored, key=lambda one: (-one[0], one[1])) if score > 0]
    hint = f": did you mean {' or '.join(near[:3])}?" if near else ""
    return f"unknown symbol {symbol}{hint}"


_LIKE = 0.6
"""Two bases, or two names without their dash, are worth confusing from this ratio on: BCT and BTC
(0.67) are, NOPE and DOGE (0.5) are not."""


def _likeness(symbol: str, name: str) -> float:
    """How likely somebody who wrote ``symbol`` meant ``name``: 0 or up to 2.

    Half of it are the bases, for most symbols share their quote.
    """
    base, dash, _ = symbol.partition("-")
    bases = _ratio(base, name.partition("-")[0])
    whole = _ratio(symbol, name)
    if not dash and bases < _LIKE:  # perhaps base and quote, run together
        bases = _ratio(symbol, name.replace("-", ""))
        return bases + whole if bases >= (1 + _LIKE) / 2 else 0.0
    return bases + whole if bases >= _LIKE else 0.0


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


_LEVERAGED = re.compile(r"(.{2,}?)(?:UP|DOWN|BULL|BEAR|[2-5][LS])")
STAYS = 2.0
"""How many times as much another market of a base trades where it replaces the followed one."""


def is_leveraged(base: str, bases: Container[str]) -> bool:
    """Whether ``base`` is a token on a multiple of one of ``bases``, such as BTCUP or ETH3S.

    The name is not enough: JUP and SYRUP are coins like others.
    """
    found = _LEVERAGED.fullmatch(base)
    return found is not None and found[1] in bases


def top(
    products: Sequence[Product], count: int, before: Container[str] = ()
) -> tuple[Product, ...]:
    """The ``count`` most traded products by 24 h volume in USD, one per base.

    A base is followed in USD where it trades in USD, else in another dollar, else where it trades
    most (clearly more than in a market that is followed, one of ``before``); its rank is the volume
    of that market. Aliases count once, stablecoin and fiat pairs and leveraged tokens are left out,
    quotes are converted by the listed prices.
    """
    rates = dollar_rates(products)
    listed = {product.symbol: product for product in products}
    bases = {product.base for product in products}
    best: dict[str, tuple[tuple[int, float], float, Product]] = {}
    for product in products:
        volume = product.quote_volume * rates.get(product.quote, 0.0)
        if (
            not product.tradable
            or market(product, listed).symbol != product.symbol
            or product.base in STABLECOINS
            or product.base in FIAT
            or is_leveraged(product.base, bases)
            or not 0 < volume < math.inf  # a dead market must not stand for a live one
        ):
            continue
        weighed = volume * (STAYS if product.symbol in before else 1.0)
        key = ((product.quote in DOLLARS) + (product.quote == "USD"), weighed)
        known = best.get(product.base)
        if known is None or (key, known[2].symbol) > (known[0], product.symbol):
            best[product.base] = (key, volume, product)
    ranked = sorted(best.values(), key=lambda item: (-item[1], item[2].symbol))
    return tuple(product for _, _, product in ranked[: max(count, 0)])


def dollar_rates(products: Iterable[Product]) -> dict[str, float]:
    """Dollars per unit of each currency that can be converted by the listed prices.

    A currency without a dollar pair is converted through those that have one, and so on outwards;
    among several ways of the same length the most traded pair is taken.
    """
    rates = dict.fromkeys(DOLLARS, 1.0)
    pairs = sorted((p for p in products if p.price), key=_preference)
    while True:
        found: dict[str, tuple[float, float]] = {}
        for pair in pairs:
            price = pair.price or 0.0
            if pair.quote in rates and pair.base not in rates:
                currency, rate = pair.base, price * rates[pair.quote]
                volume = pair.quote_volume * rates[pair.quote]
            elif pair.base in rates and pair.quote not in rates:
                currency, rate = pair.quote, rates[pair.base] / price
                volume = pair.quote_volume * rate
            else:
                continue
            if 0 < rate < math.inf and (currency not in found or volume > found[currency][0]):
                found[currency] = (volume, rate)
        if not found:
            return rates
        rates.update((currency, rate) for currency, (_, rate) in found.items())


def _preference(product: Product) -> int:
    return DOLLARS.index(product.quote) if product.quote in DOLLARS else len(DOLLARS)
