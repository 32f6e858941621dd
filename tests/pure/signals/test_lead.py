"""Which market led: found where there is a lead, and not where there is none or too little."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from livermore.signals.lead import FEWEST, lead

MS = 300_000


def walk(returns: list[float], start: float = 100.0) -> dict[int, float]:
    """Closes by open time."""
    closes = itertools.accumulate(returns, lambda close, step: close * (1 + step), initial=start)
    return {slot * MS: close for slot, close in enumerate(closes)}


def noise(seed: int, count: int = 287, size: float = 1e-3) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(0, size) for _ in range(count)]


def follower(of: list[float], seed: int) -> list[float]:
    """Moves half as much a slot later, and by itself."""
    return [
        0.5 * before + own for before, own in zip([0.0, *of], noise(seed, size=5e-4), strict=False)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_who_moves_a_slot_earlier_led(seed: int):
    returns = noise(seed)
    first, second = walk(returns), walk(follower(returns, seed + 100))
    found = lead(first, second, MS)
    assert (found.leader, found.pairs, found.why) == (0, 286, "")
    turned = lead(second, first, MS)
    assert turned.leader == 1
    assert (turned.first, turned.second) == (found.second, found.first)


@pytest.mark.parametrize("seed", range(5))
def test_who_moves_at_the_same_time_leads_nobody(seed: int):
    returns = noise(seed)
    other = [a + b for a, b in zip(returns, noise(seed + 100, size=2e-4), strict=True)]
    found = lead(walk(returns), walk(other, 5.0), MS)
    assert found.leader is None
    assert found.first is not None


def test_markets_that_know_nothing_of_each_other_seldom_seem_to_lead():
    found = [lead(walk(noise(n)), walk(noise(n + 1000)), MS).leader for n in range(200)]
    assert sum(leader is not None for leader in found) <= 20, "about one in twenty"


def test_the_figures_are_correlations_with_the_next_return_of_the_other():
    first, second = noise(1, 40), noise(2, 40)
    found = lead(walk(first), walk(second), MS)
    xs, ys = first[:-1], second[1:]
    mean_x, mean_y = sum(xs) / 39, sum(ys) / 39
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    below = sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys)
    assert found.first == pytest.approx(above / math.sqrt(below))
    assert found.chance == pytest.approx(2 * math.sqrt(2 / 39))


def test_nothing_is_said_of_too_few():
    found = lead(walk(noise(1, FEWEST)), walk(noise(2, FEWEST)), MS)
    assert (found.leader, found.first, found.pairs) == (None, None, FEWEST - 1)
    assert found.why == f"not enough: {FEWEST - 1} pairs of returns, {FEWEST} needed"
    assert lead(walk(noise(1, FEWEST + 1)), walk(noise(2, FEWEST + 1)), MS).first is not None
    assert lead({}, {}, MS).why.startswith("not enough: 0")
    assert lead({}, {}, MS).chance is None


def test_nothing_is_said_of_a_market_that_did_not_move():
    still = walk([0.0] * 100)
    found = lead(walk(noise(1, 100)), still, MS)
    assert (found.leader, found.why) == (None, "not enough: one of them did not move")


def test_what_is_missing_in_either_is_not_bridged():
    returns = noise(3)
    first, second = walk(returns), walk(follower(returns, 103))
    holed = {time: close for time, close in second.items() if time % (3 * MS)}
    assert lead(first, holed, MS).pairs == 0, "two in a row are no pair of returns"
    del first[50 * MS]
    assert lead(first, second, MS).pairs == 286 - 3
