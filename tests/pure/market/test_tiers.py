"""Who is in Tier 1, who stays there, and in whose keys the others live."""

from __future__ import annotations

import itertools
import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.product import Followed, Product, is_leveraged, top
from livermore.market.tiers import Depth, depth, margin, place, spread, tier_one


def product(symbol: str, volume: float, price: float | None = 1.0) -> Product:
    base, quote = symbol.split("-")
    return Product(symbol, symbol, base, quote, price=price, quote_volume=volume)


def listing(*bases: str) -> list[Product]:
    """Products by rank, the most traded first."""
    return [product(f"{base}-USD", 1000.0 - rank) for rank, base in enumerate(bases)]


def names(products: tuple[Product, ...]) -> list[str]:
    return [one.base for one in products]


BASES = [f"C{number:02}" for number in range(80)]


def test_at_first_the_most_traded_are_in_it() -> None:
    assert names(tier_one(listing(*BASES), 50)) == BASES[:50]


def test_who_swaps_places_at_the_edge_does_not_flap() -> None:
    before = [f"{base}-USD" for base in BASES[:50]]
    swapped = [*BASES[:49], BASES[50], BASES[49], *BASES[51:]]
    for order in (swapped, BASES) * 3:
        chosen = tier_one(listing(*order), 50, before)
        assert {one.symbol for one in chosen} == set(before)
        before = [one.symbol for one in chosen]


@pytest.mark.parametrize(("rank", "stays"), [(55, True), (56, False)])
def test_a_follower_stays_until_it_falls_clearly_below(rank: int, stays: bool) -> None:
    before = [f"{base}-USD" for base in BASES[:50]]
    others = [base for base in BASES if base != "C00"]
    order = [*others[: rank - 1], "C00", *others[rank - 1 :]]
    assert ("C00" in names(tier_one(listing(*order), 50, before))) is stays


@pytest.mark.parametrize(("rank", "enters"), [(46, False), (45, True)])
def test_a_newcomer_displaces_the_lowest_from_clearly_above_alone(rank: int, enters: bool) -> None:
    before = [f"{base}-USD" for base in BASES[:50]]
    order = [*BASES[: rank - 1], "NEW", *BASES[rank - 1 :]]
    chosen = names(tier_one(listing(*order), 50, before))
    assert ("NEW" in chosen, "C49" in chosen) == (enters, not enters)


def test_a_free_place_is_filled_by_rank() -> None:
    before = [f"{base}-USD" for base in BASES[:50] if base != "C10"]
    order = [base for base in BASES if base != "C10"]
    assert names(tier_one(listing(*order), 50, before)) == order[:50]


@given(
    order=st.permutations(BASES[:30]),
    before=st.sets(st.sampled_from([f"{base}-USD" for base in BASES[:35]])),
    count=st.integers(0, 35),
    seed=st.integers(),
)
def test_it_is_as_large_as_there_is_room_and_does_not_depend_on_the_order(
    order: list[str], before: set[str], count: int, seed: int
) -> None:
    products = listing(*order)
    chosen = tier_one(products, count, before)
    assert len(chosen) == min(count, len(products))
    assert names(chosen) == sorted(names(chosen), key=order.index), "by rank"
    shuffled = random.Random(seed).sample(products, len(products))
    assert tier_one(shuffled, count, before) == chosen
    again = tier_one(products, count, {one.symbol for one in chosen})
    assert again == chosen, "nothing changes while nothing changes"
    edge = margin(count)
    for rank, one in enumerate(products, start=1):
        if one.symbol in before and rank <= count - edge:
            assert one in chosen
        if rank > count + edge and len(before) == count:
            kept = sum(p.symbol in before for p in products[: count + edge])
            assert one not in chosen or kept < count


@given(st.lists(st.permutations(BASES[:12]), min_size=2, max_size=6))
def test_one_rank_of_noise_changes_nothing(orders: list[list[str]]) -> None:
    """Neighbours swap from hour to hour: who is in it stays the same."""
    before = [f"{base}-USD" for base in BASES[:6]]
    for noise in orders:
        order = list(BASES[:12])
        for place_, _ in zip(range(0, 11, 2), noise, strict=False):
            if noise.index(order[place_]) > noise.index(order[place_ + 1]):
                order[place_], order[place_ + 1] = order[place_ + 1], order[place_]
        chosen = tier_one(listing(*order), 6, before)
        assert {one.symbol for one in chosen} == set(before)


def test_the_market_of_a_base_stays_until_another_trades_clearly_more() -> None:
    def chosen(usdt: float, usdc: float) -> str:
        products = [product("XRP-USDT", usdt), product("XRP-USDC", usdc)]
        return tier_one(products, 1, ["XRP-USDT"])[0].symbol

    assert chosen(100.0, 199.0) == "XRP-USDT"
    assert chosen(100.0, 201.0) == "XRP-USDC"


def test_equal_volumes_are_told_apart_by_name_not_by_order() -> None:
    products = [product("XRP-USDT", 5.0), product("XRP-USDC", 5.0), product("ADA-USDT", 5.0)]
    found = {
        tuple(one.symbol for one in top(list(order), 3))
        for order in itertools.permutations(products)
    }
    assert found == {("ADA-USDT", "XRP-USDC")}


def test_who_is_removed_is_not_replaced_by_another_name_of_itself() -> None:
    products = [*listing("BTC", "ETH", "SOL"), product("BTC-USDT", 900.0)]
    products.append(attrs.evolve(products[0], symbol="BTC-USDC", alias="BTC-USD"))
    found = tier_one(products, 2, ["BTC-USD", "ETH-USD"], ["BTC-USD"])
    assert names(found) == ["ETH", "SOL"]


@pytest.mark.parametrize("base", ["BTCUP", "BTCDOWN", "ETHBULL", "ETHBEAR", "BTC3L", "ETH5S"])
def test_leveraged_tokens_are_in_no_tier(base: str) -> None:
    products = [*listing("BTC", "ETH"), product(f"{base}-USD", 9999.0)]
    assert names(top(products, 9)) == ["BTC", "ETH"]


@pytest.mark.parametrize("base", ["JUP", "SYRUP", "PUMP", "SUP", "UP", "SOLS", "BULL"])
def test_coins_that_only_sound_leveraged_are_in_it(base: str) -> None:
    assert not is_leveraged(base, {"BTC", "ETH", "SOL", base, "J", "S"})


# -- placement --------------------------------------------------------------------------------

LISTED = {one.symbol: one for one in listing("BTC", "ETH", "SOL", "XRP")}
BTC, ETH, SOL, XRP = LISTED.values()


def test_one_user_alone_has_a_symbol_to_himself() -> None:
    assert place([BTC], {"SOL-USD": ["alice"]}, LISTED) == (Followed(BTC), Followed(SOL, "alice"))


def test_two_users_share_it() -> None:
    assert place([], {"SOL-USD": {"alice", "bob"}}, LISTED) == (Followed(SOL),)


def test_what_everybody_follows_is_shared_whoever_follows_it() -> None:
    assert place([SOL], {"SOL-USD": ["alice"]}, LISTED) == (Followed(SOL),)


def test_another_name_of_a_market_is_no_other_market() -> None:
    other = attrs.evolve(SOL, symbol="SOL-USDC", alias="SOL-USD")
    listed = LISTED | {"SOL-USDC": other}
    assert place([], {"SOL-USD": ["bob"], "SOL-USDC": ["alice"]}, listed) == (Followed(SOL),)
    assert place([SOL], {"SOL-USDC": ["alice"]}, listed) == (Followed(SOL),)


def test_what_is_not_listed_and_what_nobody_follows_is_left_out() -> None:
    assert place([BTC], {"GONE-USD": ["alice"], "ETH-USD": []}, LISTED) == (Followed(BTC),)


@given(
    st.dictionaries(
        st.sampled_from(list(LISTED)), st.sets(st.sampled_from(["alice", "bob", "carol"]))
    ),
    st.lists(st.sampled_from(list(LISTED.values())), unique=True),
    st.randoms(use_true_random=False),
)
def test_every_symbol_is_in_one_place_whatever_the_order(
    followers: dict[str, set[str]], shared: list[Product], chance: random.Random
) -> None:
    placed = place(shared, followers, LISTED)
    symbols = [one.symbol for one in placed]
    wanted = {one.symbol for one in shared} | {name for name, users in followers.items() if users}
    assert sorted(symbols) == sorted(wanted), "each of them once"
    items = list(followers.items())
    chance.shuffle(items)
    assert place(shared, dict(items), LISTED) == placed
    for one in placed:
        users = followers.get(one.symbol, set())
        assert (one.owner != "") == (one.product not in shared and len(users) == 1)
        assert not one.owner or users == {one.owner}


# -- liquidity --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "width", "tier"),
    [
        (50e6, 0.0010, Depth.HIGH),
        (50e6, None, Depth.HIGH),
        (49e6, 0.0001, Depth.MEDIUM),
        (90e6, 0.0011, Depth.MEDIUM),
        (90e6, 0.0051, Depth.LOW),
        (5e6, 0.0050, Depth.MEDIUM),
        (4e6, 0.0001, Depth.LOW),
        (0.0, None, Depth.LOW),
    ],
)
def test_liquidity_needs_volume_and_a_narrow_spread(
    volume: float, width: float | None, tier: Depth
) -> None:
    assert depth(volume, width) is tier


@pytest.mark.parametrize(
    ("bid", "ask", "width"),
    [(99.0, 101.0, 0.02), (None, 1.0, None), (2.0, 1.0, None), (0.0, 1.0, None), (5.0, 5.0, 0.0)],
)
def test_a_spread_that_makes_no_sense_is_none(
    bid: float | None, ask: float | None, width: float | None
) -> None:
    assert spread(bid, ask) == width
