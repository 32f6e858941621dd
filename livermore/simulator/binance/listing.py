"""What the two Binances list: symbols that cannot be split by guessing, and such as are no use."""

from __future__ import annotations

import attrs

from livermore.simulator.binance.table import Table
from livermore.simulator.listing import Listing, followed

# Base, quote, name of the base, price, decimals of price and size, trades per slot, volatility.
_EXTRAS = (
    ("1INCH", "USDT", "1inch", 0.21, 4, 1, 6.0, 0.0020),
    ("1INCH", "BTC", "1inch", 0.0000024, 8, 1, 0.4, 0.0020),
    ("USDC", "USDT", "USD Coin", 0.9998, 4, 0, 40.0, 0.000002),
    ("JUP", "USDT", "Jupiter", 0.31, 4, 1, 7.0, 0.0020),  # its name ends like a token's
    ("BNB", "ETH", "BNB", 0.289, 4, 3, 4.0, 0.0008),
    ("BNB", "BTC", "BNB", 0.0099, 6, 3, 8.0, 0.0008),
    ("ETH", "BTC", "Ethereum", 0.0341, 5, 4, 12.0, 0.0006),
)
_COM_EXTRAS = (
    ("FDUSD", "USDT", "First Digital USD", 0.9985, 4, 0, 30.0, 0.000002),
    ("TUSD", "USDT", "TrueUSD", 0.9980, 4, 0, 2.0, 0.000003),
    ("BTC", "FDUSD", "Bitcoin", 88_120.0, 2, 5, 60.0, 0.0008),
    ("BTC", "USDC", "Bitcoin", 88_010.0, 2, 5, 90.0, 0.0008),
    # An id that is not ASCII, as there are since 2025-12.
    ("币安人生", "USDT", "币安人生", 0.142, 4, 1, 9.0, 0.0030),
)
_US_EXTRAS = (
    ("BTC", "USDT", "Bitcoin", 88_010.0, 2, 6, 300.0, 0.0008),
    ("ETH", "USDT", "Ethereum", 3_001.0, 2, 5, 150.0, 0.0010),
    ("BTC", "USDC", "Bitcoin", 88_000.0, 2, 6, 60.0, 0.0008),
    ("USDT", "USD", "Tether", 0.9994, 4, 2, 60.0, 0.000002),
)


def listings(table: Table, count: int, seed: int) -> list[Listing]:
    """``count`` followed symbols, busiest first, then the others."""
    asked = []
    for rank in range(count):
        one = followed(rank, count, seed)
        asked.append(
            attrs.evolve(
                one,
                symbol=f"{one.base}-{table.quote}",
                quote=table.quote,
                quote_name=table.quote_name,
                rate=one.rate * table.liveliness,
                path=one.symbol,
            )
        )
    extras = [*_EXTRAS, *(_COM_EXTRAS if table.quote == "USDT" else _US_EXTRAS)]
    known = {one.symbol for one in asked}
    others = [_extra(table, *row) for row in extras if f"{row[0]}-{row[1]}" not in known]
    return [*asked, *others, *_useless(table)]


def _extra(
    table: Table,
    base: str,
    quote: str,
    name: str,
    price: float,
    price_decimals: int,
    size_decimals: int,
    rate: float,
    volatility: float,
) -> Listing:
    return Listing(
        f"{base}-{quote}",
        base,
        quote,
        name,
        quote,
        price,
        price_decimals,
        size_decimals,
        rate * table.liveliness,
        volatility,
        followed=False,
    )


def _useless(table: Table) -> list[Listing]:
    """Leveraged tokens, halted and dead symbols."""
    quote = table.quote
    made = [
        # Trades, and a lot: only its name and its permission tell what it is.
        Listing(
            f"BTCUP-{quote}", "BTCUP", quote, "3X Long Bitcoin", quote, 21.0, 3, 2,
            400.0 * table.liveliness, 0.003, followed=False,
        ),
        Listing(
            f"BTCDOWN-{quote}", "BTCDOWN", quote, "3X Short Bitcoin", quote, 0.0031, 6, 2,
            400.0 * table.liveliness, 0.003, followed=False,
        ),
        Listing(
            f"HALT-{quote}", "HALT", quote, "Halted", quote, 4.2, 3, 2,
            300.0 * table.liveliness, 0.003, followed=False, status="HALT",
        ),
        Listing(
            f"OLDC-{quote}", "OLDC", quote, "Old Coin", quote, 0.02, 4, 1, 0.0, 0.004, 1.0,
            followed=False, status="BREAK",
        ),
        # Listed as trading, and nobody does.
        Listing(
            f"DEAD-{quote}", "DEAD", quote, "Dead Coin", quote, 0.5, 4, 1, 0.0, 0.004, 1.0,
            followed=False,
        ),
    ]  # fmt: skip
    return made


LEVERAGED = frozenset({"BTCUP", "BTCDOWN"})
