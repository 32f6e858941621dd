"""Schedules of disturbances: the same for the same seed, of every kind, calm at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from livermore.simulator import chaos
from livermore.simulator.chaos import CALM, LEFT_OUT, LENGTH, MAKERS, OWN, schedule
from livermore.simulator.faults import KINDS
from livermore.simulator.roster import PLAYED
from livermore.simulator.scenario import read_scenario

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")
MANY = range(1, 61)


def test_a_seed_is_a_schedule_and_another_seed_is_another():
    assert schedule(7, SYMBOLS) == schedule(7, SYMBOLS)
    assert schedule(7, SYMBOLS) != schedule(8, SYMBOLS)


def test_every_kind_of_fault_is_in_the_schedules_the_suite_runs():
    assert set(MAKERS) == set(KINDS) - LEFT_OUT
    for seed in MANY:
        found = Counter(fault["fault"] for fault in schedule(seed, SYMBOLS).faults)
        assert len(found) >= 12, seed
    four = {fault["fault"] for seed in (1, 2, 3, 4) for fault in schedule(seed, SYMBOLS).faults}
    assert four == set(MAKERS)


def test_a_schedule_is_a_scenario_the_simulator_takes():
    for seed in MANY:
        planned = read_scenario(list(schedule(seed, SYMBOLS).faults), SYMBOLS)
        assert len(planned) == len(schedule(seed, SYMBOLS).faults)


def test_the_end_is_undisturbed():
    for seed in MANY:
        made = schedule(seed, SYMBOLS)
        assert made.faults
        # Tenths of seconds are rounded, twice.
        assert all(f["at"] + f.get("for", 0.0) <= LENGTH - CALM + 0.2 for f in made.faults)
        assert all(d.at >= 0 and d.at + d.seconds <= LENGTH - CALM + 0.2 for d in made.disturbances)


def test_faults_come_alone_and_together():
    alone = together = 0
    for seed in MANY:
        faults = [f for f in schedule(seed, SYMBOLS).faults if "for" in f]
        for one in faults:
            others = [o for o in faults if o is not one]
            meets = any(
                o["at"] < one["at"] + one["for"] and one["at"] < o["at"] + o["for"] for o in others
            )
            alone, together = alone + (not meets), together + meets
    assert alone > 200
    assert together > 200


def test_the_daemon_and_its_redis_are_disturbed_as_well():
    kinds = Counter(d.kind for seed in MANY for d in schedule(seed, SYMBOLS).disturbances)
    assert min(kinds[k] for k in (chaos.RESTART, chaos.KILL, chaos.PAUSE_REDIS)) > 30
    assert min(kinds[k] for k in (chaos.RESTART_REDIS, chaos.EMPTY_REDIS)) > 5


@pytest.mark.parametrize("name", PLAYED)
def test_every_exchange_has_a_schedule_with_its_own_faults_that_it_takes(name):
    exchange = PLAYED[name]
    symbols = [one.symbol for one in exchange.listings(4, 7) if one.followed]
    found = set()
    for seed in MANY:
        faults = schedule(seed, symbols, exchange=exchange).faults
        planned = read_scenario(list(faults), symbols, exchange.channels, exchange.faults)
        assert len(planned) == len(faults)
        found |= {fault["fault"] for fault in faults}
    # Who is not served at all does not come back within a schedule.
    assert found == set(exchange.faults) - LEFT_OUT - {"geo"}


def test_every_fault_of_some_exchange_can_be_scheduled_or_is_left_out():
    kinds = {kind for exchange in PLAYED.values() for kind in exchange.kinds}
    assert kinds - {"geo"} == set(OWN)


def test_a_schedule_for_coinbase_is_what_it_was_before_there_were_others():
    assert schedule(7, SYMBOLS) == schedule(7, SYMBOLS, exchange=PLAYED["coinbase"])
    assert schedule(7, SYMBOLS) != schedule(7, SYMBOLS, exchange=PLAYED["binance"])
