"""Which symbols everybody follows, and in whose keys the others live.

Tier 1 are the exchange's most traded products. Tier 2 is what users follow beside them: private to
the one user who does, in the pool that all share as soon as it is more than one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from livermore.market.product import Followed, Product, market, top

SHARE = 0.1
"""Of the places: so far below the last one a follower may fall, above it a newcomer must be."""
LEAST = 2
"""Places, at least."""


def margin(count: int) -> int:
    """Ranks around the last of ``count`` places in which nothing changes."""
    return max(LEAST, math.ceil(SHARE * count))


def tier_one(
    products: Sequence[Product],
    count: int,
    before: Collection[str] = (),
    without: Collection[str] = (),
) -> tuple[Product, ...]:
    """The ``count`` most traded products by rank, with hysteresis; ``before`` were in it.

    Those that are called ``without`` are left out, and with them the other markets of their base.

    Who was in it stays until it falls :func:`margin` ranks below the last place. Who was not enters
    a free place, or displaces the lowest from :func:`margin` ranks above the last place.
    """
    best = top(products, len(products), {*before, *without})
    ranked = [product for product in best if product.symbol not in without]
    edge = margin(count)
    kept = [
        product
        for rank, product in enumerate(ranked, start=1)
        if rank <= (count + edge if product.symbol in before else count - edge)
    ][: max(0, count)]
    names = {product.symbol for product in kept}
    free = [product for product in ranked if product.symbol not in names]
    chosen = names | {product.symbol for product in free[: max(0, count - len(kept))]}
    return tuple(product for product in ranked if product.symbol in chosen)


def place(
    shared: Iterable[Product],
    followers: Mapping[str, Collection[str]],
    listed: Mapping[str, Product],
) -> tuple[Followed, ...]:
    """Everything that is followed, and in whose keys.

    ``shared`` is for everybody: Tier 1 and what was added without a user. ``followers`` has the
    users of each symbol, by any name it is ``listed`` by; what is not listed is left out.
    """
    placed = {product.symbol: Followed(product) for product in shared}
    users: dict[str, set[str]] = {}
    for symbol, some in followers.items():
        if some and symbol in listed:
            users.setdefault(market(listed[symbol], listed).symbol, set()).update(some)
    for symbol in sorted(users.keys() - placed.keys()):
        first, *others = users[symbol]
        placed[symbol] = Followed(listed[symbol], "" if others else first)
    return tuple(placed.values())


class Depth(enum.StrEnum):
    """How easily a market takes an order."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


DEPTHS = (
    (Depth.HIGH, 50_000_000.0, 0.0010),
    (Depth.MEDIUM, 5_000_000.0, 0.0050),
)
"""A tier, the least 24 h volume in dollars and the widest spread of it."""


def depth(volume: float, spread: float | None) -> Depth:
    """The liquidity of a market by its 24 h ``volume`` in dollars and its relative ``spread``.

    A ``spread`` that is not known, as while no ticker tells it, decides nothing.
    """
    for tier, least, widest in DEPTHS:
        if volume >= least and (spread is None or spread <= widest):
            return tier
    return Depth.LOW


def spread(bid: float | None, ask: float | None) -> float | None:
    """Distance of the two in parts of their middle; None unless both make sense."""
    if bid is None or ask is None or not 0 < bid <= ask < math.inf:
        return None
    return 2 * (ask - bid) / (ask + bid)
