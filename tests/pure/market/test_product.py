"""Which products are followed, and how their volumes are compared."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import UnknownSymbol
from livermore.market.product import Product, aliases, dollar_rates, resolve, top, unknown_symbol


def product(
    symbol: str,
    volume: float = 0.0,
    price: float | None = 1.0,
    *,
    tradable: bool = True,
    alias: str | None = None,
) -> Product:
    base, quote = symbol.split("-")
    return Product(symbol, symbol.replace("-", ""), base, quote, tradable, alias, price, volume)


def symbols(products: tuple[Product, ...]) -> list[str]:
    return [p.symbol for p in products]


LISTED = [
    product("BTC-USD", 900.0, 100.0),
    product("BTC-USDC", 900.0, 100.0, alias="BTC-USD"),
    product("ETH-USD", 500.0, 10.0),
    product("DOGE-USD", 5.0, 0.1, tradable=False),
]


def test_symbols_are_resolved_in_the_order_asked() -> None:
    assert symbols(resolve(LISTED, ["ETH-USD", "BTC-USD"]).products) == ["ETH-USD", "BTC-USD"]


@pytest.mark.parametrize("spelling", ["btc-usd", " BTC-USD ", "BTC/USD"])
def test_spelling_is_forgiven(spelling: str) -> None:
    resolution = resolve(LISTED, [spelling])
    assert symbols(resolution.products) == ["BTC-USD"]
    assert resolution.notices == ()


def test_an_alias_is_followed_as_its_market_and_said_so_once() -> None:
    resolution = resolve(LISTED, ["BTC-USDC", "BTC-USD", "BTC-USDC"])
    assert symbols(resolution.products) == ["BTC-USD"]
    assert resolution.notices == ("BTC-USDC is the same market as BTC-USD: followed as BTC-USD",)


def test_an_alias_of_nothing_listed_is_followed_itself() -> None:
    resolution = resolve([product("X-USDC", alias="X-USD")], ["X-USDC"])
    assert symbols(resolution.products) == ["X-USDC"]
    assert resolution.notices == ()


def test_aliases_are_followed_to_the_end() -> None:
    listed = [product("A-X", alias="B-X"), product("B-X", alias="C-X"), product("C-X")]
    assert symbols(resolve(listed, ["A-X", "B-X"]).products) == ["C-X"]


def test_aliases_that_go_in_a_circle_mean_one_market() -> None:
    listed = [product("A-X", alias="B-X"), product("B-X", alias="A-X")]
    assert symbols(resolve(listed, ["B-X", "A-X"]).products) == ["A-X"]
    own = [product("A-X", alias="A-X")]
    assert resolve(own, ["A-X"]).notices == ()


def test_a_symbol_that_does_not_trade_is_followed_with_a_notice() -> None:
    resolution = resolve(LISTED, ["DOGE-USD"])
    assert symbols(resolution.products) == ["DOGE-USD"]
    assert resolution.notices == ("DOGE-USD is listed but not trading now",)


def test_an_unknown_symbol_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownSymbol, match=r"^unknown symbol BTCUSD: did you mean BTC-USD"):
        resolve(LISTED, ["ETH-USD", "btcusd"])
    with pytest.raises(UnknownSymbol, match=r"^unknown symbol QQQQ$"):
        resolve(LISTED, ["QQQQ"])


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("BCT-USD", ": did you mean BTC-USD?"),
        ("BTC-USDC", ": did you mean BTC-USD or BTC-EUR?"),
        ("BTC-UDS", ": did you mean BTC-USD or BTC-EUR?"),
        ("BTC", ": did you mean BTC-EUR or BTC-USD?"),
        ("DOGEUSD", ": did you mean DOGE-USD?"),
        ("DOG-USD", ": did you mean DOGE-USD?"),
        ("NOPE-USD", ""),
        ("NOPEUSD", ""),
        ("-USD", ""),
        ("", ""),
    ],
)
def test_a_hint_compares_bases_not_the_quote_most_share(written: str, hint: str) -> None:
    listed = ["BTC-USD", "BTC-EUR", "DOGE-USD", "ETH-USD"]
    if written == "BCT-USD":
        listed.remove("BTC-EUR")
    assert unknown_symbol(written, listed) == f"unknown symbol {written}{hint}"


def test_the_other_names_of_followed_markets_are_known() -> None:
    listed = [
        product("A-USD"),
        product("A-USDC", alias="A-USD"),
        product("A-X", alias="A-USDC"),
        product("B-USD"),
        product("B-USDC", alias="B-USD"),
        product("C-USDC", alias="C-USD"),
    ]
    followed = [listed[0], listed[5]]
    assert aliases(listed, followed) == {"A-USDC": "A-USD", "A-X": "A-USD"}


def test_the_most_traded_come_first_and_no_more_than_asked() -> None:
    assert symbols(top(LISTED, 10)) == ["BTC-USD", "ETH-USD"]
    assert symbols(top(LISTED, 1)) == ["BTC-USD"]
    assert top(LISTED, 0) == ()
    assert top(LISTED, -1) == ()


def test_an_alias_counts_once() -> None:
    assert "BTC-USDC" not in symbols(top(LISTED, 10))


def test_an_alias_of_nothing_listed_counts_itself() -> None:
    assert symbols(top([product("X-USDC", 5.0, alias="X-USD")], 9)) == ["X-USDC"]


def test_stablecoins_and_money_are_not_followed() -> None:
    listed = [
        product("USDT-USD", 1e9),
        product("USDC-EUR", 1e9, 0.9),
        product("EUR-USD", 1e9, 1.1),
        product("PYUSD-USD", 1e9),
        product("BFUSD-USDT", 1e9),
        product("AEUR-USDT", 1e9),
        product("SOL-USD", 1.0),
    ]
    assert symbols(top(listed, 10)) == ["SOL-USD"]


def test_equal_volumes_are_ordered_by_name() -> None:
    listed = [product("B-USD", 5.0), product("A-USD", 5.0)]
    assert symbols(top(listed, 2)) == ["A-USD", "B-USD"]


def test_a_base_is_followed_in_usd_even_where_another_dollar_trades_more() -> None:
    listed = [product("SOL-USDT", 1e6), product("SOL-USD", 10.0), product("ADA-USD", 20.0)]
    assert symbols(top(listed, 2)) == ["ADA-USD", "SOL-USD"]


def test_a_dead_usd_market_does_not_hide_a_live_one() -> None:
    listed = [product("SOL-USD", 0.0), product("SOL-USDT", 10.0)]
    assert symbols(top(listed, 2)) == ["SOL-USDT"]


def test_a_closed_usd_market_does_not_hide_an_open_one() -> None:
    listed = [product("SOL-USD", 99.0, tradable=False), product("SOL-USDT", 10.0)]
    assert symbols(top(listed, 2)) == ["SOL-USDT"]


def test_any_dollar_comes_before_other_money() -> None:
    listed = [product("USDC-EUR", 1.0, 0.5), product("SOL-EUR", 99.0), product("SOL-USDC", 10.0)]
    assert symbols(top(listed, 2)) == ["SOL-USDC"]


def test_among_dollars_other_than_usd_the_more_traded_is_followed() -> None:
    listed = [product("SOL-USDC", 10.0), product("SOL-USDT", 99.0)]
    assert symbols(top(listed, 2)) == ["SOL-USDT"]


def test_volumes_in_other_currencies_are_compared_in_dollars() -> None:
    listed = [
        product("BTC-USD", 1.0, 50_000.0),
        product("USDC-EUR", 1.0, 0.5),
        product("A-BTC", 1.0, 0.001),  # 50 000 dollars
        product("B-EUR", 30_000.0, 1.0),  # 60 000 dollars
        product("C-USD", 55_000.0),
        product("D-GBP", 1e9),  # nobody says what a pound is worth
    ]
    assert symbols(top(listed, 3)) == ["B-EUR", "C-USD", "A-BTC"]
    assert "D-GBP" not in symbols(top(listed, 10))


@pytest.mark.parametrize("volume", [math.nan, math.inf, -1.0])
def test_a_volume_that_is_no_volume_does_not_rank(volume: float) -> None:
    assert symbols(top([product("A-USD", volume), product("B-USD", 1.0)], 5)) == ["B-USD"]


def test_rates_come_from_direct_pairs_in_either_direction() -> None:
    rates = dollar_rates([product("BTC-USDT", 1.0, 200.0), product("USDC-EUR", 1.0, 0.8)])
    assert rates == {"USD": 1.0, "USDC": 1.0, "USDT": 1.0, "BTC": 200.0, "EUR": 1.25}


def test_rates_are_found_through_other_currencies() -> None:
    rates = dollar_rates(
        [
            product("X-Y", 1.0, 2.0),
            product("Y-BTC", 1.0, 0.5),
            product("BTC-EUR", 1.0, 80.0),
            product("USDC-EUR", 1.0, 0.8),
        ]
    )
    assert (rates["EUR"], rates["BTC"], rates["Y"], rates["X"]) == (1.25, 100.0, 50.0, 100.0)


def test_a_direct_dollar_pair_beats_a_way_round() -> None:
    rates = dollar_rates(
        [
            product("ETH-BTC", 1e9, 0.9),
            product("BTC-USD", 1e9, 100.0),
            product("ETH-USD", 1.0, 10.0),
        ]
    )
    assert rates["ETH"] == 10.0


def test_the_most_traded_pair_sets_the_rate() -> None:
    rates = dollar_rates([product("A-USD", 1.0, 7.0), product("A-USDT", 50.0, 9.0)])
    assert rates["A"] == 9.0


def test_usd_sets_the_rate_where_nothing_says_what_trades_more() -> None:
    rates = dollar_rates([product("A-USDT", 0.0, 9.0), product("A-USD", 0.0, 7.0)])
    assert rates["A"] == 7.0


@pytest.mark.parametrize("price", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_no_price_is_no_rate(price: float | None) -> None:
    assert "A" not in dollar_rates([product("A-USD", 1.0, price)])
    assert "EUR" not in dollar_rates([product("USDC-EUR", 1.0, price)])


CURRENCIES = st.sampled_from(["USD", "USDT", "EUR", "BTC", "A", "B"])
NUMBERS = st.floats() | st.none() | st.sampled_from([0.0, 1.0, 1e300, 1e-300])


@given(st.lists(st.tuples(CURRENCIES, CURRENCIES, NUMBERS, st.floats(), CURRENCIES), max_size=12))
def test_no_listing_makes_rates_that_are_no_rates(
    rows: list[tuple[str, str, float | None, float, str]],
) -> None:
    listed = [
        Product(f"{b}-{q}", b + q, b, q, alias=f"{a}-{q}", price=price, quote_volume=volume)
        for b, q, price, volume, a in rows
    ]
    assert all(0 < rate < math.inf for rate in dollar_rates(listed).values())
    bases = [p.base for p in top(listed, 100)]
    assert len(bases) == len(set(bases))
    for p in listed:
        assert resolve(listed, [p.symbol]).products


def test_what_another_exchange_may_list_is_left_out_and_said() -> None:
    found = resolve(LISTED, ["BTC-USD", "SOL-USD", "EHT-USD"], {"BTC-USD", "SOL-USD", "EHT-USD"})
    assert symbols(found.products) == ["BTC-USD"]
    assert found.notices == ("2 of 3 symbols are not listed here (SOL-USD, EHT-USD)",)
    assert found.unlisted["EHT-USD"] == "unknown symbol EHT-USD: did you mean ETH-USD?"
    with pytest.raises(UnknownSymbol, match="unknown symbol SOL-USD"):
        resolve(LISTED, ["BTC-USD", "SOL-USD"], {"BTC-USD"})
