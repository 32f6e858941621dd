"""What the simulated exchange lists: products from very liquid to nearly dead."""

from __future__ import annotations

import math

import attrs

from livermore.simulator.chance import key_of, once

# Base, name, price in USD, decimals of the price, decimals of the size. Order is liquidity.
_KNOWN = (
    ("BTC", "Bitcoin", 88_000.0, 2, 8),
    ("ETH", "Ethereum", 3_000.0, 2, 8),
    ("SOL", "Solana", 130.0, 2, 8),
    ("XRP", "XRP", 1.95, 4, 6),
    ("DOGE", "Dogecoin", 0.125, 5, 1),
    ("ADA", "Cardano", 0.37, 4, 8),
    ("LINK", "Chainlink", 12.5, 3, 2),
    ("AVAX", "Avalanche", 12.2, 2, 8),
    ("SUI", "Sui", 1.49, 4, 1),
    ("LTC", "Litecoin", 68.0, 2, 8),
    ("BCH", "Bitcoin Cash", 590.0, 2, 8),
    ("HBAR", "Hedera", 0.11, 5, 1),
    ("DOT", "Polkadot", 1.9, 3, 8),
    ("UNI", "Uniswap", 4.84, 3, 6),
    ("SHIB", "SHIBA INU", 0.0000078, 8, 0),
    ("AAVE", "Aave", 155.0, 2, 3),
    ("PEPE", "Pepe", 0.000005, 8, 0),
    ("NEAR", "NEAR Protocol", 1.5, 3, 3),
    ("XLM", "Stellar", 0.21, 6, 8),
    ("ICP", "Internet Computer", 3.6, 3, 4),
    ("ZEC", "Zcash", 358.0, 2, 8),
    ("CRV", "Curve DAO", 0.36, 4, 2),
    ("LDO", "Lido DAO", 0.52, 3, 2),
    ("COMP", "Compound", 23.8, 2, 3),
    ("ZRX", "0x", 0.127, 6, 5),
    ("ATOM", "Cosmos", 2.3, 3, 2),
    ("ETC", "Ethereum Classic", 12.0, 2, 8),
    ("ALGO", "Algorand", 0.118, 4, 0),
    ("FIL", "Filecoin", 1.4, 3, 3),
    ("APT", "Aptos", 1.6, 2, 2),
    ("ARB", "Arbitrum", 0.18, 4, 2),
    ("OP", "Optimism", 0.29, 3, 2),
    ("INJ", "Injective", 4.6, 3, 2),
    ("TIA", "Celestia", 0.48, 4, 1),
    ("SEI", "Sei", 0.11, 4, 1),
    ("RENDER", "Render", 1.9, 3, 2),
    ("FET", "Fetch.ai", 0.22, 4, 1),
    ("GRT", "The Graph", 0.036, 4, 2),
    ("SAND", "The Sandbox", 0.155, 4, 2),
    ("MANA", "Decentraland", 0.159, 4, 2),
    ("BONK", "Bonk", 0.0000085, 8, 0),
    ("FLOKI", "FLOKI", 0.000043, 8, 0),
    ("WIF", "dogwifhat", 0.36, 4, 2),
    ("MKR", "Maker", 1_500.0, 2, 6),
    ("SNX", "Synthetix", 0.45, 3, 3),
    ("IMX", "Immutable X", 0.25, 4, 3),
    ("AXS", "Axie Infinity", 1.1, 3, 3),
    ("CHZ", "Chiliz", 0.045, 4, 1),
    ("ENS", "Ethereum Name Service", 9.6, 2, 3),
    ("LRC", "Loopring", 0.055, 4, 6),
    ("BAT", "Basic Attention Token", 0.2, 4, 2),
    ("MLN", "Enzyme", 4.56, 2, 3),
    ("YFI", "yearn.finance", 3_400.0, 2, 6),
    ("KNC", "Kyber Network", 0.21, 4, 1),
    ("BAL", "Balancer", 0.55, 3, 3),
    ("NMR", "Numeraire", 9.8, 2, 3),
    ("REQ", "Request", 0.1, 4, 0),
    ("OXT", "Orchid", 0.03, 4, 0),
    ("SKL", "SKALE", 0.013, 5, 1),
    ("CTSI", "Cartesi", 0.04, 4, 1),
)

BUSIEST = 1_500.0
"""Trades per slot of the first symbol: five per second."""
QUIETEST = 0.15
"""Trades per slot of the last one: about two an hour, when it is not silent altogether."""


@attrs.frozen
class Listing:
    """One product and how lively it is."""

    symbol: str
    base: str
    quote: str
    name: str
    quote_name: str
    price: float
    price_decimals: int
    size_decimals: int
    rate: float
    """Mean number of trades in a slot."""
    volatility: float
    """Typical relative move in a slot."""
    silence: float = 0.0
    """Share of three-hour blocks without any trade."""
    followed: bool = True
    """One of the symbols asked for, not one of the extras that make the product list real."""
    status: str = "online"
    disabled: bool = False
    view_only: bool = False
    path: str = ""
    """The symbol whose price path it follows, with the same seed on whatever exchange; its own."""

    @property
    def native(self) -> str:
        """Base and quote without anything between."""
        return self.base + self.quote

    @property
    def tick(self) -> int:
        """Ticks in one unit of the quote."""
        return int(10**self.price_decimals)

    @property
    def unit(self) -> int:
        """Size units in one unit of the base."""
        return int(10**self.size_decimals)


# USDT-USDC and EURC-USDC are products of their own, not aliases of a dollar product.
# Symbol, names of base and quote, price, decimals of price and size, trades per slot, volatility.
_EXTRAS = (
    ("ETH-BTC", "Ethereum", "Bitcoin", 0.0341, 6, 8, 6.0, 0.0006),
    ("SOL-BTC", "Solana", "Bitcoin", 0.00148, 7, 8, 1.5, 0.0009),
    ("BTC-EUR", "Bitcoin", "Euro", 75_500.0, 2, 8, 30.0, 0.0008),
    ("ETH-EUR", "Ethereum", "Euro", 2_570.0, 2, 8, 18.0, 0.0010),
    ("BTC-USDT", "Bitcoin", "Tether", 88_010.0, 2, 8, 25.0, 0.0008),
    ("ETH-USDT", "Ethereum", "Tether", 3_001.0, 2, 8, 15.0, 0.0010),
    ("USDT-USD", "Tether", "US Dollar", 0.9994, 5, 2, 40.0, 0.000002),
    ("DAI-USD", "Dai", "US Dollar", 0.9998, 4, 5, 0.8, 0.000005),
    # Products of their own, delivered under their own name, not aliases:
    ("USDT-USDC", "Tether", "USDC", 0.9993, 4, 2, 20.0, 0.000002),
    ("EURC-USDC", "Euro Coin", "USDC", 1.165, 4, 2, 4.0, 0.00004),
)

_SYLLABLES = ("BA", "CO", "DI", "FU", "GE", "HA", "JO", "KI", "LU", "MO", "NE", "PA", "RO", "SI")


def listings(count: int, seed: int) -> list[Listing]:
    """``count`` followed symbols, busiest first, then the extras."""
    asked = [followed(rank, count, seed) for rank in range(count)]
    extras = [_extra(*row) for row in _EXTRAS]
    gone = Listing(
        "OLDC-USD", "OLDC", "USD", "Old Coin", "US Dollar", 0.02, 4, 1, 0.05, 0.004, 0.9,
        followed=False, status="delisted", disabled=True, view_only=True,
    )  # fmt: skip
    paused = Listing(
        "HALT-USD", "HALT", "USD", "Halted", "US Dollar", 4.2, 3, 2, 0.4, 0.003, 0.5,
        followed=False, status="offline", disabled=True,
    )  # fmt: skip
    looked_at = Listing(
        "VIEW-USD", "VIEW", "USD", "View Only", "US Dollar", 1.3, 4, 2, 0.4, 0.003, 0.3,
        followed=False, view_only=True,
    )  # fmt: skip
    return [*asked, *extras, gone, paused, looked_at]


def _extra(
    symbol: str,
    name: str,
    quote_name: str,
    price: float,
    price_decimals: int,
    size_decimals: int,
    rate: float,
    volatility: float,
) -> Listing:
    base, _, quote = symbol.partition("-")
    return Listing(
        symbol,
        base,
        quote,
        name,
        quote_name,
        price,
        price_decimals,
        size_decimals,
        rate,
        volatility,
        followed=False,
    )


def followed(rank: int, count: int, seed: int) -> Listing:
    """Number ``rank`` of ``count`` symbols, the same on every exchange of this seed."""
    down = (rank / (count - 1)) ** 0.6 if count > 1 else 0.0
    rate = BUSIEST * (QUIETEST / BUSIEST) ** down
    if rank < len(_KNOWN):
        base, name, price, price_decimals, size_decimals = _KNOWN[rank]
    else:
        base = _invented(rank - len(_KNOWN))
        name = base.title()
        price = 10.0 ** (once(key_of(seed, "price", base), 0) * 6.0 - 4.0)
        price_decimals = max(2, 4 - math.floor(math.log10(price)))
        size_decimals = max(0, min(8, 2 + math.floor(math.log10(price))))
    return Listing(
        f"{base}-USD",
        base,
        "USD",
        name,
        "US Dollar",
        price,
        price_decimals,
        size_decimals,
        rate,
        volatility=0.0008 + 0.0022 * down,
        silence=max(0.0, down - 0.75),
    )


def _invented(number: int) -> str:
    n = len(_SYLLABLES)
    name = "".join(_SYLLABLES[number // n**power % n] for power in (0, 1))
    return name + (_SYLLABLES[number // n**2 % n] if number >= n**2 else "X")
