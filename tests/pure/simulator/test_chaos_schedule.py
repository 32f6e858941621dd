"""Schedules of disturbances: the same for the same seed, of every kind, calm at the end."""

from __future__ import annotations

from collections import Counter

from livermore.simulator import chaos
from livermore.simulator.chaos import CALM, LEFT_OUT, LENGTH, MAKERS, schedule
from livermore.simulator.faults import KINDS
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
