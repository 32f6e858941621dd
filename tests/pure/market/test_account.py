"""What holdings cost, as far as trades explain it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest

from livermore.market.account import Balance, Fill, Position, Rights, Side, cash, positions
from livermore.market.product import Product

D = Decimal


def listed(symbol: str, price: float | None = 100.0, **more: Any) -> Product:
    base, _, quote = symbol.partition("-")
    return Product(symbol, base + quote, base, quote, price=price, quote_volume=1000.0, **more)


def fill(symbol: str, side: str, quantity: str, value: str, time: int, **more: Any) -> Fill:
    told = {"fee": D(more.pop("fee", "0")), **more}
    return Fill(
        native=symbol.replace("-", ""),
        identity=f"{time:05}",
        side=Side(side),
        quantity=D(quantity),
        value=D(value),
        time=time,
        **told,
    )


def only(balance: str, *fills: Fill, products: tuple[Product, ...] = ()) -> Position:
    """The position in BTC."""
    held = [Balance("BTC", D(balance)), Balance("USD", D(5))]
    [found] = positions(held, fills, products or (listed("BTC-USD"),))
    return found


def test_the_cost_is_the_average_of_what_was_bought_with_its_fees():
    found = only(
        "3",
        fill("BTC-USD", "buy", "1", "80", 1, fee="2"),
        fill("BTC-USD", "buy", "3", "120", 2, fee="6"),
        fill("BTC-USD", "sell", "1", "500", 3, fee="9"),
    )
    assert (found.symbol, found.quote, found.price) == ("BTC-USD", "USD", D(100))
    assert found.cost_basis == D(156), "three quarters of 80 + 2 + 120 + 6"
    assert (found.average, found.value, found.pnl) == (D(52), D(300), D(144))
    assert found.pnl_percent == D("92.3077")
    assert found.note == ""


def test_fills_count_in_the_order_of_their_time_and_not_as_they_came():
    bought = fill("BTC-USD", "buy", "2", "100", 1)
    sold = fill("BTC-USD", "sell", "2", "300", 2)
    again = fill("BTC-USD", "buy", "1", "90", 3)
    for told in ((bought, sold, again), (again, sold, bought)):
        assert only("1", *told).cost_basis == D(90)


@pytest.mark.parametrize("balance", ["1.1", "0.9"])
def test_a_balance_that_the_fills_do_not_explain_has_no_cost(balance):
    found = only(balance, fill("BTC-USD", "buy", "1", "80", 1))
    assert (found.cost_basis, found.pnl, found.pnl_percent) == (None, None, None)
    assert "do not add up" in found.note
    assert found.value == D(100) * D(balance), "its worth is known all the same"


def test_a_balance_without_any_fill_has_no_cost():
    assert only("1").cost_basis is None


def test_more_sold_than_bought_leaves_no_cost_even_if_the_sum_is_right():
    found = only(
        "1",
        fill("BTC-USD", "sell", "1", "80", 1),  # of one that was deposited
        fill("BTC-USD", "buy", "2", "160", 2),
    )
    assert found.cost_basis is None


def test_what_came_from_selling_another_coin_has_no_cost_until_it_is_sold():
    products = (listed("BTC-USD"), listed("ETH-BTC"), listed("ETH-USD"))
    swapped = (
        fill("ETH-USD", "buy", "10", "100", 1),
        fill("ETH-BTC", "sell", "10", "1", 2),
    )
    found = only("1", *swapped, products=products)
    assert found.cost_basis is None
    assert "ETH-BTC" in found.note
    after = (fill("BTC-USD", "sell", "1", "100", 3), fill("BTC-USD", "buy", "1", "70", 4))
    assert only("1", *swapped, *after, products=products).cost_basis == D(70)


def test_spending_a_coin_on_another_takes_its_share_of_the_cost_along():
    products = (listed("BTC-USD"), listed("ETH-BTC"))
    found = only(
        "1.5",
        fill("BTC-USD", "buy", "2", "200", 1),
        fill("ETH-BTC", "buy", "10", "0.4", 2, fee="0.1"),
        products=products,
    )
    assert found.cost_basis == D(150)


def test_two_currencies_paid_for_one_coin_are_never_added_up():
    products = (listed("BTC-USD"), listed("BTC-EUR", 90.0))
    found = only(
        "2",
        fill("BTC-USD", "buy", "1", "80", 1),
        fill("BTC-EUR", "buy", "1", "70", 2),
        products=products,
    )
    assert found.cost_basis is None
    assert "USD" in found.note
    assert "EUR" in found.note


def test_a_coin_bought_for_one_currency_is_valued_in_that():
    products = (listed("BTC-USD"), listed("BTC-EUR", 90.0))
    found = only("1", fill("BTC-EUR", "buy", "1", "70", 1), products=products)
    assert (found.symbol, found.cost_basis, found.pnl) == ("BTC-EUR", D(70), D(20))


def test_another_name_of_a_market_is_that_market():
    products = (listed("BTC-USD"), listed("BTC-USDC", alias="BTC-USD"))
    found = only(
        "2",
        fill("BTC-USD", "buy", "1", "80", 1),
        fill("BTC-USDC", "buy", "1", "90", 2),
        products=products,
    )
    assert (found.symbol, found.cost_basis) == ("BTC-USD", D(170))


def test_a_fee_in_the_coin_makes_less_of_it_for_the_same_money():
    found = only("0.999", fill("BTC-USD", "buy", "1", "80", 1, fee="0.001", fee_currency="BTC"))
    assert found.cost_basis == D(80)


def test_a_fee_in_a_third_currency_is_not_in_the_cost_and_that_is_said():
    products = (listed("BTC-USD"), listed("BNB-USD"))
    bought = fill("BNB-USD", "buy", "1", "500", 1)
    paid = fill("BTC-USD", "buy", "1", "80", 2, fee="0.1", fee_currency="BNB")
    held = [Balance("BTC", D(1)), Balance("BNB", D("0.9"))]
    found = {one.currency: one for one in positions(held, [bought, paid], products)}
    assert (found["BTC"].cost_basis, found["BTC"].note) == (D(80), "without the fees paid in BNB")
    assert (found["BNB"].cost_basis, found["BNB"].note) == (D(450), "")


def test_stablecoins_and_fiat_are_cash():
    held = [Balance(name, D(1)) for name in ("USD", "EUR", "USDC", "USDT", "DOGE")]
    assert [one.currency for one in cash([*held, Balance("GBP", D(0))])] == [
        *("USD", "EUR", "USDC", "USDT")
    ]
    assert [one.currency for one in positions(held, (), ())] == ["DOGE"]


def test_what_open_orders_hold_is_a_part_of_the_position():
    [found] = positions([Balance("BTC", D(1), D(3))], (), (listed("BTC-USD"),))
    assert (found.quantity, found.held) == (D(4), D(3))


def test_a_coin_that_is_listed_nowhere_has_no_price():
    [found] = positions([Balance("OLD", D(7))], (), (listed("BTC-USD"),))
    assert (found.symbol, found.price, found.value, found.pnl) == (None, None, None, None)


def test_a_market_in_dollars_goes_before_a_busier_one():
    products = (
        attrs.evolve(listed("BTC-EUR"), quote_volume=1e9),
        attrs.evolve(listed("BTC-USDT"), quote_volume=1e6),
        attrs.evolve(listed("BTC-USD"), tradable=False),
    )
    assert only("1", products=products).symbol == "BTC-USDT"


def test_the_most_valuable_comes_first_and_dollars_before_the_rest():
    products = (listed("A-USD", 1.0), listed("B-USD", 5.0), listed("C-BTC", 9.0))
    held = [Balance(name, D(1)) for name in "CAB"]
    assert [one.currency for one in positions(held, (), products)] == ["B", "A", "C"]


def test_large_and_small_amounts_stay_exact():
    found = only(
        "123456789012345.12345678",
        fill("BTC-USD", "buy", "123456789012345.12345678", "987654321098765.43", 1),
    )
    assert found.cost_basis == D("987654321098765.43")
    assert found.value == D("12345678901234512.345678")


def test_rights_that_nobody_told_are_not_rights():
    assert Rights(True, None, None).beyond_viewing == ()
    assert Rights(True, True, True).beyond_viewing == ("trade", "transfer")
