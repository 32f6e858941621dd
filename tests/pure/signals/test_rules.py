from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.errors import MalformedMessage
from livermore.market.timeframe import Timeframe
from livermore.signals import rules as rules_module
from livermore.signals.rules import (
    DEFAULT_RULES,
    Alerted,
    Fate,
    Fired,
    Kind,
    Memory,
    Outcome,
    Point,
    Rule,
    adopt,
    decode_memory,
    encode_memory,
    evaluate,
    reach,
    rewind,
    rule_from,
    unknown,
)
from livermore.signals.stage import STAGES, Stage
from tests.pure.signals import reference_rules as reference

TF = 300_000
START = 5_900_000 * TF
LEVEL = Rule(name="level", kind=Kind.LEVEL)
REVERSAL = Rule(name="reversal", kind=Kind.REVERSAL)
STAGE = Rule(name="stage", kind=Kind.STAGE)


def at(slot: int) -> int:
    return START + slot * TF


def point(
    slot: int,
    macdv: float | None,
    histogram: float = 0.0,
    stage: Stage = Stage.RANGING,
    close: float = 100.0,
    observed: int = 500,
    assumed: bool = False,
) -> Point:
    if macdv is None:
        return Point(at(slot), None, None, None, None, close, observed, assumed)
    return Point(at(slot), macdv, macdv - histogram, histogram, stage, close, observed, assumed)


def points(*values: float | None) -> list[Point]:
    return [point(slot, value) for slot, value in enumerate(values)]


def memory_of(*rules: Rule, since: int = 0) -> Memory:
    memory = Memory()
    adopt(rules, memory, (), TF, now=since)
    return memory


def run(rules: Sequence[Rule], several: Sequence[Point], since: int = 0) -> Outcome:
    return evaluate(rules, memory_of(*rules, since=since), several, TF, previous=None)


def told(rules: Rule | Sequence[Rule], several: Sequence[Point], since: int = 0):
    """Slot and text of each alert."""
    rules = [rules] if isinstance(rules, Rule) else rules
    return [((one.open_time - START) // TF, one.what) for one in run(rules, several, since).fired]


# -- level --------------------------------------------------------------------------------------


def test_a_level_is_crossed_from_on_it_to_beyond_it():
    assert told(LEVEL, points(150, 150.01)) == [(1, "crossed above 150")]
    assert told(LEVEL, points(149, 150)) == []
    assert told(LEVEL, points(150.01, 151)) == []
    assert told(LEVEL, points(-150, -150.01)) == [(1, "crossed below -150")]
    assert told(LEVEL, points(-149, -150)) == []


def test_coming_back_over_a_level_is_no_crossing():
    assert told(LEVEL, points(190, 120, 10)) == []
    assert told(LEVEL, points(-190, -120, -10)) == []


def test_of_several_levels_crossed_at_once_the_most_extreme_alerts():
    assert told(LEVEL, points(0, 263)) == [(1, "crossed above 250")]
    assert told(LEVEL, points(200, -200.5)) == [(1, "crossed below -200")]


def test_levels_go_on_without_end():
    (fired,) = run([LEVEL], points(99_980, 100_020)).fired
    assert (fired.level, fired.strength) == (100_000, 20)


def test_a_level_alerts_again_only_after_coming_back_inside_by_ten_points():
    rule = Rule(name="level", kind=Kind.LEVEL, cooldown=0)
    assert told(rule, points(149, 151, 140.01, 151)) == [(1, "crossed above 150")]
    assert [slot for slot, _ in told(rule, points(149, 151, 140, 151))] == [1, 3]
    assert told(rule, points(-149, -151, -140.01, -151)) == [(1, "crossed below -150")]
    assert [slot for slot, _ in told(rule, points(-149, -151, -140, -151))] == [1, 3]


def test_a_crossing_disarms_the_levels_inside_of_it():
    rule = Rule(name="level", kind=Kind.LEVEL, cooldown=0)
    # 150 was never alone; at 145 it is disarmed still, at 185 200 is armed again.
    assert told(rule, points(0, 210, 145, 160)) == [(1, "crossed above 200")]
    assert [slot for slot, _ in told(rule, points(0, 210, 185, 201))] == [1, 3]


def test_a_level_that_is_not_armed_arms_none_beyond_it():
    rule = Rule(name="level", kind=Kind.LEVEL, levels=(150.0, 155.0), cooldown=0)
    assert told(rule, points(140, 156, 148, 152, 157)) == [(1, "crossed above 155")]
    assert told(rule, points(-140, -156, -148, -152, -157)) == [(1, "crossed below -155")]


def test_the_directions_are_armed_apart():
    assert told(LEVEL, points(0, 151, -151)) == [
        (1, "crossed above 150"),
        (2, "crossed below -150"),
    ]


def test_a_level_cools_down_for_three_candles_and_another_level_does_not():
    again = points(0, 151, 0, 0, 151, 0, 151)  # at 4 it is cooling down, at 6 no more
    assert [slot for slot, _ in told(LEVEL, again)] == [1, 6]
    assert [slot for slot, _ in told(LEVEL, points(0, 151, 0, 201))] == [1, 3]
    slow = Rule(name="level", kind=Kind.LEVEL, cooldown=4)
    assert [slot for slot, _ in told(slow, points(0, 151, 0, 0, 0, 151))] == [1]


def test_a_crossing_needs_a_previous_reading():
    assert told(LEVEL, points(151, 152)) == []
    assert told(LEVEL, points(0, None, 151)) == []
    assert told(LEVEL, [point(0, 0), point(2, 151)]) == []
    # Nothing was disarmed by what had no previous reading.
    assert told(LEVEL, points(0, None, 151, 149, 151)) == [(4, "crossed above 150")]


def test_a_reading_without_a_previous_one_arms_again():
    rule = Rule(name="level", kind=Kind.LEVEL, cooldown=0)
    several = [point(0, 0), point(1, 151), point(3, 140), point(4, 151)]
    assert [slot for slot, _ in told(rule, several)] == [1, 4]


def test_the_levels_a_rule_names_are_the_ones_it_has():
    rule = Rule(name="near", kind=Kind.LEVEL, levels=(50.0, 162.5))
    assert told(rule, points(0, 55, 151, 201)) == [
        (1, "crossed above 50"),
        (3, "crossed above 162.5"),
    ]


def test_a_reading_of_fewer_than_100_observed_candles_alerts_nobody_and_disarms():
    few = [point(0, 0), point(1, 151, observed=99), point(2, 145), point(3, 151)]
    assert told(LEVEL, few) == []
    assert told(LEVEL, [point(0, 0, observed=99), point(1, 151, observed=100)]) != []


# -- reversal -----------------------------------------------------------------------------------


def turning(*values: tuple[float | None, float]) -> list[Point]:
    return [point(slot, macdv, histogram) for slot, (macdv, histogram) in enumerate(values)]


def test_a_reversal_needs_both_readings_beyond_150_and_a_histogram_beyond_its_buffer():
    assert told(REVERSAL, turning((-160, -5), (-155, 7.76))) == [(1, "oversold and turning up")]
    assert told(REVERSAL, turning((-160, -5), (-160, 8))) == []  # 5 % is not more than 5 %
    assert told(REVERSAL, turning((-150, -5), (-155, 50))) == []
    assert told(REVERSAL, turning((-155, -5), (-150, 50))) == []
    assert told(REVERSAL, turning((160, 5), (200, -6.01))) == [(1, "overbought and turning down")]
    assert told(REVERSAL, turning((160, 5), (200, -6))) == []
    assert told(REVERSAL, turning((150, 5), (200, -50))) == []
    assert told(REVERSAL, turning((200, 5), (150, -50))) == []
    assert told(REVERSAL, turning((200, 5), (None, 0), (200, -50))) == []


def test_an_excursion_has_one_reversal_until_it_has_ended():
    rule = Rule(name="reversal", kind=Kind.REVERSAL, cooldown=0)
    low, turn = (-160.0, -5.0), (-160.0, 50.0)
    for between, slots in [
        ((-140.0, 0.0), [1]),
        ((-139.9, 0.0), [1, 4]),
        ((170.0, 0.0), [1, 4]),
        ((None, 0.0), [1]),
    ]:
        several = turning(low, turn, between, low, turn)
        assert [slot for slot, _ in told(rule, several)] == slots, between
    high, back = (160.0, 5.0), (160.0, -50.0)
    for between, slots in [
        ((140.0, 0.0), [1]),
        ((139.9, 0.0), [1, 4]),
        ((-170.0, 0.0), [1, 4]),
        ((None, 0.0), [1]),
    ]:
        several = turning(high, back, between, high, back)
        assert [slot for slot, _ in told(rule, several)] == slots, between


def test_a_reversal_cools_down_also_over_excursions():
    low, turn = (-160.0, -5.0), (-160.0, 50.0)
    assert [s for s, _ in told(REVERSAL, turning(low, turn, (0, 0), low, turn, turn))] == [1, 5]


def test_a_reversal_that_may_not_alert_leaves_the_excursion_to_the_next():
    several = turning((-160, -5), (-160, 50), (-160, 50))
    several[1] = point(1, -160, 50, observed=99)
    assert told(REVERSAL, several) == [(2, "oversold and turning up")]


# -- stage and move -----------------------------------------------------------------------------


def staged(*names: str | None) -> list[Point]:
    return [
        point(slot, None) if name is None else point(slot, 10, 1, Stage(name))
        for slot, name in enumerate(names)
    ]


def test_another_stage_than_that_of_the_previous_reading_alerts():
    assert told(STAGE, staged("ranging", "ranging", "rallying")) == [(2, "ranging -> rallying")]
    assert told(STAGE, staged("ranging", None, "rallying")) == []


def test_a_stage_rule_looks_at_the_stages_it_names():
    rule = Rule(name="s", kind=Kind.STAGE, from_=(Stage.OVERSOLD,), to=(Stage.REBOUNDING,))
    assert told(rule, staged("oversold", "rebounding")) != []
    assert told(rule, staged("ranging", "rebounding")) == []
    assert told(rule, staged("oversold", "reversing")) == []


def test_a_stage_cools_down_whichever_stage_it_is_entered_from():
    several = staged("ranging", "rallying", "reversing", "rallying", "ranging")
    assert [slot for slot, _ in told(STAGE, several)] == [1, 2, 4]
    several = staged("ranging", "rallying", "ranging", "ranging", "ranging", "rallying")
    assert [slot for slot, _ in told(STAGE, several)] == [1, 2, 5]


def closing(*closes: float) -> list[Point]:
    return [point(slot, 1, close=close) for slot, close in enumerate(closes)]


def test_a_move_is_measured_from_the_close_n_slots_before():
    rule = Rule(name="move", kind=Kind.MOVE, percent=3.0, candles=2, cooldown=2)
    assert told(rule, closing(100, 100, 103)) == [(2, "rose 3.0 % in 2 candles")]
    assert told(rule, closing(100, 100, 96.8)) == [(2, "fell 3.2 % in 2 candles")]
    assert told(rule, closing(100, 101, 102.9)) == []
    half = Rule(name="move", kind=Kind.MOVE, percent=50.0, candles=1)
    assert told(half, closing(100, 150)) == [(1, "rose 50.0 % in one candle")]
    assert told(rule, closing(100, 103)) == []
    (fired,) = run([rule], closing(100, 100, 105)).fired
    assert fired.strength == pytest.approx(2.0)


def test_a_move_needs_a_candle_in_every_slot_between():
    rule = Rule(name="move", kind=Kind.MOVE, percent=3.0, candles=2, cooldown=2)
    first, _, last = closing(100, 100, 105)
    assert told(rule, [first, last]) == []
    assert told(rule, [first, point(1, None), last]) != []  # a withheld reading is of a candle


def test_a_move_cools_down_per_direction():
    rule = Rule(name="move", kind=Kind.MOVE, percent=3.0, candles=1, cooldown=2)
    assert [s for s, _ in told(rule, closing(100, 104, 109, 114, 119))] == [1, 4]
    assert [s for s, _ in told(rule, closing(100, 104, 98))] == [1, 2]


def test_the_point_before_the_first_is_enough_for_a_move_over_one_candle():
    rule = Rule(name="move", kind=Kind.MOVE, percent=3.0, candles=1)
    before, last = closing(100, 104)
    assert evaluate([rule], memory_of(rule), [last], TF, previous=before).fired


# -- what may alert -----------------------------------------------------------------------------


def test_what_closed_before_the_first_look_is_silent_and_sets_the_state():
    several = points(0, 151, 149, 151, 0, 151)
    assert told(LEVEL, several, since=at(2)) == [(5, "crossed above 150")]
    assert told(LEVEL, several, since=at(6)) == []
    # An excursion that had its reversal by then has none left.
    several = turning((-160, -5), (-160, 50), *[(-160.0, 50.0)] * 9)
    assert told(REVERSAL, several, since=at(1)) != []
    assert told(REVERSAL, several, since=at(2)) == []


def test_an_assumed_empty_candle_that_would_alert_holds_the_series():
    rules = (LEVEL, STAGE)
    memory = memory_of(*rules)
    several = [
        point(0, 149),
        point(1, 151, stage=Stage.OVERBOUGHT, assumed=True),
        point(2, 201, stage=Stage.OVERBOUGHT),
    ]
    outcome = evaluate(rules, memory, several, TF, previous=None)
    assert (outcome.fired, outcome.held, memory.cursor) == ([], at(1), at(0))
    assert encode_memory(memory) == encode_memory(decode_memory(encode_memory(memory)))
    before = encode_memory(memory)
    assert evaluate(rules, memory, several, TF, previous=None).held == at(1)
    assert encode_memory(memory) == before
    several[1] = point(1, 151, stage=Stage.OVERBOUGHT)
    outcome = evaluate(rules, memory, several, TF, previous=None)
    assert [(one.rule, one.open_time) for one in outcome.fired] == [
        ("level", at(1)),
        ("stage", at(1)),
        ("level", at(2)),
    ]
    assert outcome.held is None


def test_an_assumed_empty_candle_that_would_not_alert_holds_nothing():
    memory = memory_of(LEVEL)
    several = [point(0, 151), point(1, 149, assumed=True), point(2, 151)]
    outcome = evaluate([LEVEL], memory, several, TF, previous=None)
    assert [one.open_time for one in outcome.fired] == [at(2)]
    silent = memory_of(LEVEL, since=at(9))
    several = [point(0, 149), point(1, 151, assumed=True)]
    assert evaluate([LEVEL], silent, several, TF, previous=None).held is None


def test_an_alert_says_how_far_it_lies_beyond():
    rules = (LEVEL, REVERSAL, STAGE)
    several = [point(0, -160, 0), point(1, -230, 40, Stage.OVERSOLD)]
    assert {one.rule: one.strength for one in run(rules, several).fired} == {
        "level": 30,
        "reversal": 40,
        "stage": 230,
    }


def test_points_up_to_the_cursor_are_not_evaluated_again():
    memory = memory_of(LEVEL)
    several = points(0, 151, 0, 0, 0, 0)
    evaluate([LEVEL], memory, several, TF, previous=None)
    longer = [*several, point(6, 151)]
    outcome = evaluate([LEVEL], memory, longer, TF, previous=None)
    assert [one.open_time for one in outcome.fired] == [at(6)]


# -- what corrections make and unmake -----------------------------------------------------------


def corrected(
    memory: Memory, several: Sequence[Point], slot: int, rules: Sequence[Rule] = (LEVEL,)
) -> Outcome:
    rewind(memory, at(slot), TF)
    return evaluate(rules, memory, several, TF, previous=None)


def test_an_alert_that_a_correction_leaves_is_neither_told_again_nor_withdrawn():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151, 160), TF, previous=None)
    outcome = corrected(memory, points(0, 152, 160), 1)
    assert (list(outcome.fired), list(outcome.unmade)) == ([], [])


def test_an_alert_that_no_longer_follows_is_unmade_and_made_anew_when_it_does_again():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151, 160), TF, previous=None)
    outcome = corrected(memory, points(0, 100, 100), 1)
    assert [(one.open_time, one.level) for one in outcome.unmade] == [(at(1), 150)]
    assert not outcome.fired
    for reissue in (1, 2):
        (again,) = corrected(memory, points(0, 151, 151), 1).fired
        assert (again.open_time, again.reissue, again.corrected) == (at(1), reissue, True)
        (gone,) = corrected(memory, points(0, 100, 100), 1).unmade
        assert gone.reissue == reissue


def test_an_alert_of_another_level_is_another_alert():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151), TF, previous=None)
    outcome = corrected(memory, points(0, 201), 1)
    assert [(one.level, one.reissue) for one in outcome.unmade] == [(150, 0)]
    assert [(one.level, one.reissue) for one in outcome.fired] == [(200, 1)]


def test_an_alert_of_another_direction_or_of_other_stages_is_another_alert():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151), TF, previous=None)
    outcome = corrected(memory, points(0, -151), 1)
    assert [one.direction for one in outcome.unmade] == ["up"]
    assert [one.direction for one in outcome.fired] == ["down"]
    memory = memory_of(STAGE)
    evaluate([STAGE], memory, staged("ranging", "rallying"), TF, previous=None)
    outcome = corrected(memory, staged("retracing", "rallying"), 0, [STAGE])
    assert [one.mark for one in outcome.unmade] == ["ranging -> rallying"]
    assert [one.what for one in outcome.fired] == ["retracing -> rallying"]


def test_an_alert_stands_until_evaluation_has_come_past_its_candle():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 0, 0, 151), TF, previous=None)
    waiting = [point(0, 149), point(1, 151, assumed=True), point(2, 0), point(3, 0)]
    outcome = corrected(memory, waiting, 0)
    assert (list(outcome.unmade), outcome.held) == ([], at(1))
    waiting[1] = point(1, 151)
    outcome = evaluate([LEVEL], memory, waiting, TF, previous=None)
    assert [one.open_time for one in outcome.unmade] == [at(3)]


def test_an_alert_of_a_candle_that_is_withheld_now_is_unmade():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151), TF, previous=None)
    assert [one.open_time for one in corrected(memory, points(0, None), 1).unmade] == [at(1)]


def test_only_what_was_evaluated_before_counts_as_corrected():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 0), TF, previous=None)
    outcome = corrected(memory, points(0, 151, 201), 1)
    assert [one.corrected for one in outcome.fired] == [True, False]


def test_two_rewinds_reach_as_far_as_the_first():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 0, 0, 0), TF, previous=None)
    corrected(memory, points(0, 0), 1)
    (fired,) = corrected(memory, points(0, 0, 0, 151), 1).fired
    assert (fired.open_time, fired.corrected) == (at(3), True)


def test_a_cooldown_is_known_at_the_oldest_candle_that_can_be_rewound():
    rule = Rule(name="level", kind=Kind.LEVEL, cooldown=4)
    several = points(*[0] * 11, 151, 0, 0, 0, 151, *[0] * 998, 151)
    memory = memory_of(rule)
    fired = evaluate([rule], memory, several, TF, previous=None).fired
    assert [one.open_time for one in fired] == [at(11), at(1014)]
    outcome = corrected(memory, several, 15, [rule])
    assert (list(outcome.fired), list(outcome.unmade)) == ([], [])


def test_a_withdrawn_alert_cools_nothing_down():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151), TF, previous=None)
    outcome = corrected(memory, points(0, 100, 151), 1)
    assert [one.open_time for one in outcome.fired] == [at(2)]


def test_rewinding_a_thousand_candles_is_exact():
    rule = Rule(name="level", kind=Kind.LEVEL, cooldown=1)
    several = [point(slot, (0, 151, 145, 205)[slot % 4]) for slot in range(2500)]
    whole, part = memory_of(rule), memory_of(rule)
    evaluate([rule], whole, several, TF, previous=None)
    evaluate([rule], part, several[:1500], TF, previous=None)
    rewind(whole, at(1500), TF)
    assert (whole.tracks["level"].up, whole.cursor) == (part.tracks["level"].up, part.cursor)
    outcome = evaluate([rule], whole, several, TF, previous=None)
    assert (list(outcome.fired), list(outcome.unmade), whole.doubted) == ([], [], [])
    assert len(encode_memory(whole)) < 70_000


def test_what_is_remembered_of_a_quiet_series_is_small():
    rules = [rule for rule in DEFAULT_RULES if rule.kind is not Kind.BLIND]
    memory = memory_of(*rules, since=at(0))
    evaluate(rules, memory, [point(slot, 30) for slot in range(3000)], TF, previous=None)
    assert len(encode_memory(memory)) < 130


# -- first looks --------------------------------------------------------------------------------


def test_a_rule_that_comes_later_is_silent_about_what_the_others_have_seen():
    memory = memory_of(LEVEL)
    several = turning((-160, -5), (-160, 50), (-160, 50))
    evaluate([LEVEL], memory, several, TF, previous=None)
    both = (LEVEL, REVERSAL)
    assert unknown(both, memory) == [REVERSAL]
    more = [*several, point(3, -160, 50), point(4, 0), point(5, -160, 50), point(6, -160, 50)]
    adopt(both, memory, more, TF, now=at(1))  # by a clock that is behind
    assert unknown(both, memory) == []
    assert memory.tracks["reversal"].since == at(3)
    outcome = evaluate(both, memory, more, TF, previous=None)
    assert [(one.rule, one.open_time) for one in outcome.fired] == [
        ("level", at(5)),
        ("reversal", at(6)),
    ]


def test_a_rule_that_means_something_else_now_looks_for_the_first_time():
    memory = memory_of(LEVEL)
    evaluate([LEVEL], memory, points(0, 151), TF, previous=None)
    changed = Rule(name="level", kind=Kind.LEVEL, levels=(150.0, 155.0))
    assert unknown([changed], memory) == [changed]
    adopt([changed], memory, points(0, 151), TF, now=at(2))
    assert [one.fate for one in memory.alerted] == [Fate.SILENT]
    outcome = evaluate([changed], memory, points(0, 151, 156), TF, previous=None)
    assert [one.level for one in outcome.fired] == [155]


def test_a_rule_that_is_gone_is_forgotten_with_its_alerts():
    memory = memory_of(LEVEL, REVERSAL)
    evaluate((LEVEL, REVERSAL), memory, points(0, 151), TF, previous=None)
    adopt([REVERSAL], memory, (), TF, now=at(2))
    assert (list(memory.tracks), memory.alerted) == (["reversal"], [])


def test_a_digest_changes_with_the_meaning_and_with_nothing_else():
    assert LEVEL.digest() == Rule(name="x", kind=Kind.LEVEL, channels=("a",)).digest()
    assert LEVEL.digest() == Rule(name="x", kind=Kind.LEVEL, symbols=("A-USD",)).digest()
    different = [
        LEVEL,
        REVERSAL,
        STAGE,
        Rule(name="x", kind=Kind.LEVEL, cooldown=4),
        Rule(name="x", kind=Kind.LEVEL, levels=(150.0,)),
        Rule(name="x", kind=Kind.STAGE, from_=(Stage.RANGING,)),
        Rule(name="x", kind=Kind.STAGE, to=(Stage.RANGING,)),
        Rule(name="x", kind=Kind.MOVE, percent=1.0, candles=2),
        Rule(name="x", kind=Kind.MOVE, percent=2.0, candles=2),
        Rule(name="x", kind=Kind.MOVE, percent=1.0, candles=3),
    ]
    assert len({rule.digest() for rule in different}) == len(different)


def test_a_rule_reaches_back_as_far_as_it_measures():
    assert reach(DEFAULT_RULES) == reach(()) == 1
    assert reach([LEVEL, Rule(name="m", kind=Kind.MOVE, percent=1.0, candles=12)]) == 12


# -- against the reference ----------------------------------------------------------------------

CHECKED: Mapping[str, tuple[Rule, object]] = {
    rule.name: (rule, check)
    for rule, check in [
        (LEVEL, reference.level()),
        (
            Rule(name="near", kind=Kind.LEVEL, levels=(5.0, 145.5, 150.0, 155.0), cooldown=0),
            reference.level([5.0, 145.5, 150.0, 155.0], 0),
        ),
        (REVERSAL, reference.reversal()),
        (Rule(name="hasty", kind=Kind.REVERSAL, cooldown=0), reference.reversal(0)),
        (STAGE, reference.stage()),
        (
            Rule(name="some", kind=Kind.STAGE, from_=STAGES[:4], to=STAGES[2:], cooldown=1),
            reference.stage([*map(str, STAGES[:4])], [*map(str, STAGES[2:])], 1),
        ),
        (
            Rule(name="move", kind=Kind.MOVE, percent=2.0, candles=3, cooldown=3),
            reference.move(2.0, 3),
        ),
    ]
}
EDGES = [0.0, 100.0, 135.5, 139.9, 140.0, 140.1, 145.5, 150.0, 150.1, 155.0, 190.0, 200.0, 200.1]
EDGES += [240.5, 250.0, 260.5, 301.0, 1040.0]
TURNS = [0.0, 0.05, 0.051, -0.03, -0.031, 0.3, -0.3]
SLOTS = 24


def series_of(data: bytes) -> list[Point]:
    """Three bytes per slot; zeros are quiet candles."""
    several = []
    for slot in range(SLOTS):
        value, turn, rest = data[3 * slot : 3 * slot + 3]
        if value >= 250:
            continue  # no candle
        macdv = None if value >= 240 else EDGES[value // 2 % len(EDGES)] * (-1) ** value
        several.append(
            point(
                slot,
                macdv,
                TURNS[turn % len(TURNS)] * abs(macdv or 0),
                STAGES[turn // len(TURNS) % len(STAGES)],
                [100.0, 101.0, 102.0, 104.5][rest % 4],
                {60: 100, 61: 99, 62: 99}.get(rest // 4, 500),
                assumed=rest // 4 in (5, 50),
            )
        )
    return several


SERIES = st.binary(min_size=3 * SLOTS, max_size=3 * SLOTS).map(series_of)
PICKED = st.lists(st.sampled_from(sorted(CHECKED)), min_size=1, max_size=4, unique=True)


def checks(names: Sequence[str]):
    return [(name, CHECKED[name][1]) for name in names]


def as_found(one: Fired | Alerted) -> tuple[str, int, str, float | str | None]:
    mark = one.mark if isinstance(one, Alerted) else one.level
    if isinstance(one, Fired) and one.kind is Kind.STAGE:
        mark = one.what
    return (one.rule, one.open_time, one.direction, mark)


def in_batches(
    rules: Sequence[Rule], memory: Memory, several: Sequence[Point], cuts: Sequence[int]
) -> tuple[Memory, list[Fired], list[Alerted], int | None]:
    """What one evaluation comes to when it is many, with the memory stored in between."""
    fired: list[Fired] = []
    unmade: list[Alerted] = []
    held = None
    for end in [*sorted(cuts), len(several)]:
        memory = decode_memory(encode_memory(memory))
        outcome = evaluate(rules, memory, several[:end], TF, previous=None)
        fired += outcome.fired
        unmade += outcome.unmade
        held = outcome.held
    return memory, fired, unmade, held


@settings(max_examples=300)
@given(SERIES, PICKED, st.sampled_from([0, at(8), at(20)]))
def test_the_alerts_are_those_of_the_text(several: list[Point], names: list[str], since: int):
    rules = [CHECKED[name][0] for name in names]
    outcome = run(rules, several, since)
    wanted, held = reference.alerts(checks(names), several, TF, since)
    assert {as_found(one) for one in outcome.fired} == wanted
    assert outcome.held == held
    assert len(outcome.fired) == len(wanted)


@settings(max_examples=200)
@given(SERIES, PICKED, st.lists(st.integers(0, SLOTS), max_size=SLOTS))
def test_batches_and_restarts_change_nothing(
    several: list[Point], names: list[str], cuts: list[int]
):
    rules = [CHECKED[name][0] for name in names]
    whole = memory_of(*rules)
    outcome = evaluate(rules, whole, several, TF, previous=None)
    parts, fired, unmade, held = in_batches(rules, memory_of(*rules), several, cuts)
    assert (fired, unmade, held) == (list(outcome.fired), [], outcome.held)
    assert parts == whole


@settings(max_examples=200)
@given(SERIES, PICKED)
def test_one_point_at_a_time_needs_only_those_in_reach(several: list[Point], names: list[str]):
    rules = [CHECKED[name][0] for name in names]
    whole, single = memory_of(*rules), memory_of(*rules)
    outcome = evaluate(rules, whole, several, TF, previous=None)
    fired: list[Fired] = []
    for k, one in enumerate(several):
        before = several[max(0, k - reach(rules)) : k]
        step = evaluate(
            rules, single, [*before[1:], one], TF, previous=before[0] if before else None
        )
        fired += step.fired
        if step.held is not None:
            break
    assert fired == list(outcome.fired)
    assert single == whole


@settings(max_examples=300, deadline=None)
@given(
    SERIES,
    PICKED,
    st.lists(
        st.tuples(st.integers(0, SLOTS), SERIES, st.lists(st.integers(0, SLOTS), max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0, at(8)]),
)
def test_after_any_corrections_what_stands_is_what_the_corrected_candles_say(
    several: list[Point],
    names: list[str],
    corrections: list[tuple[int, list[Point], list[int]]],
    since: int,
):
    rules = [CHECKED[name][0] for name in names]
    memory = memory_of(*rules, since=since)
    standing: set[tuple[object, ...]] = set()
    claims: list[tuple[object, ...]] = []
    held = None
    for slot, others, cuts in [(0, several, []), *corrections]:
        several = [p for p in several if p.open_time < at(slot)] + [
            p for p in others if p.open_time >= at(slot)
        ]
        rewind(memory, at(slot), TF)
        memory, fired, unmade, held = in_batches(rules, memory, several, cuts)
        for gone in unmade:
            standing.remove((*as_found(gone), gone.reissue))
        for one in fired:
            claims.append((one.rule, one.open_time, one.reissue))
            standing.add((*as_found(one), one.reissue))
    wanted, wanted_held = reference.alerts(checks(names), several, TF, since)
    in_doubt = {as_found(one) for one in memory.doubted}
    assert held == wanted_held
    assert {one[:4] for one in standing} == wanted | in_doubt
    assert all(open_time > memory.cursor for _, open_time, _, _ in in_doubt)
    assert len(claims) == len(set(claims))

    fresh = memory_of(*rules, since=since)
    evaluate(rules, fresh, several, TF, previous=None)
    assert {n: (t.up, t.down, t.journal) for n, t in memory.tracks.items()} == {
        n: (t.up, t.down, t.journal) for n, t in fresh.tracks.items()
    }


@settings(max_examples=100, deadline=None)
@given(SERIES, PICKED, st.integers(0, 10))
def test_what_is_kept_is_enough_to_rewind_the_newest(
    several: list[Point], names: list[str], back: int
):
    rules = [CHECKED[name][0] for name in names]
    several = [Point(*(getattr(p, f) for f in Point.__struct_fields__[:-1])) for p in several]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_module, "KEPT", 10)
        memory = memory_of(*rules)
        fired = list(evaluate(rules, memory, several, TF, previous=None).fired)
        slot = SLOTS - back
        rewind(memory, at(slot), TF)
        part = memory_of(*rules)
        evaluate(
            rules, part, several[: sum(p.open_time < at(slot) for p in several)], TF, previous=None
        )
        assert {n: (t.up, t.down) for n, t in memory.tracks.items()} == {
            n: (t.up, t.down) for n, t in part.tracks.items()
        }
        outcome = evaluate(rules, memory, several, TF, previous=None)
        assert (list(outcome.fired), list(outcome.unmade), memory.doubted) == ([], [], [])
        oldest = at(SLOTS - 1 - 10 - 3 - SLOTS)
        assert all(one.open_time >= oldest for one in memory.alerted)
    assert fired == list(run(rules, several).fired)


# -- as it is stored ----------------------------------------------------------------------------


def stored() -> bytes:
    memory = memory_of(LEVEL, REVERSAL)
    evaluate((LEVEL, REVERSAL), memory, points(0, 151, 0, -151, -201), TF, previous=None)
    rewind(memory, at(3), TF)
    return encode_memory(memory)


def test_a_memory_outlives_its_storage():
    text = stored()
    assert encode_memory(decode_memory(text)) == text
    assert decode_memory(text).doubted


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ((0,), -1),
        ((0,), "x"),
        ((0,), 0),
        ((0,), at(4)),
        ((2, "level", 4, 0, 0), at(3)),
        ((2, "level", 2), -1),
        ((2, "level", 2), "150"),
        ((2,), {}),
        ((3, 0, 2), "sideways"),
        ((3, 0, 5), 7),
        ((3, 0, 0), "nobody"),
        ((4, 0, 5), 2),
        ((4, 0, 1), at(9)),
    ],
)
def test_a_damaged_memory_is_told_from_a_whole_one(where: Sequence[object], value: object):
    document = json.loads(stored())
    place = document
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    with pytest.raises(MalformedMessage):
        decode_memory(json.dumps(document).encode())


@given(st.binary(max_size=40))
def test_what_is_no_memory_is_malformed(data: bytes):
    for text in (data, stored()[: len(data)], b"[" * 5000):
        with pytest.raises(MalformedMessage):
            decode_memory(text)


# -- as it is written ---------------------------------------------------------------------------


def test_a_table_says_all_of_a_rule():
    assert rule_from({"rule": "level"}) == LEVEL
    assert rule_from({"rule": "blind", "enabled": False}) == Rule(
        name="blind", kind=Kind.BLIND, enabled=False
    )
    assert rule_from(
        {
            "rule": "level",
            "name": "big-1",
            "symbols": ["BTC-USD", "BTC-USD"],
            "timeframes": ["1h", "4h"],
            "levels": [200, 150.5, 200],
            "cooldown": 0,
            "channels": ["desk"],
        }
    ) == Rule(
        name="big-1",
        kind=Kind.LEVEL,
        symbols=("BTC-USD",),
        timeframes=(Timeframe.H1, Timeframe.H4),
        levels=(150.5, 200.0),
        cooldown=0,
        channels=("desk",),
    )
    assert rule_from({"rule": "stage", "from": ["oversold"], "to": ["rebounding"]}) == Rule(
        name="stage", kind=Kind.STAGE, from_=(Stage.OVERSOLD,), to=(Stage.REBOUNDING,)
    )
    assert rule_from({"rule": "move", "percent": 3, "candles": 12}) == Rule(
        name="move", kind=Kind.MOVE, percent=3.0, candles=12, cooldown=12
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "rule is missing: use one of level, reversal, blind, stage, move"),
        ({"rule": "levle"}, "rule: unknown 'levle': did you mean level?"),
        ({"rule": 3}, "rule: unknown 3"),
        ({"rule": "level", "level": [150]}, "unknown key 'level': did you mean levels?"),
        ({"rule": "reversal", "levels": [150]}, "levels belongs to level rules, not to reversal"),
        ({"rule": "blind", "cooldown": 3}, "not to blind"),
        ({"rule": "level", "levels": []}, "levels: a list of positive numbers is wanted"),
        ({"rule": "level", "levels": [0]}, "levels: a positive number is wanted, not 0"),
        ({"rule": "level", "levels": [float("nan")]}, "not nan"),
        ({"rule": "level", "levels": [True]}, "not True"),
        ({"rule": "level", "levels": 150}, "levels: a list"),
        ({"rule": "level", "cooldown": -1}, "cooldown: a whole number from 0 to 1000"),
        ({"rule": "level", "cooldown": 2.5}, "not 2.5"),
        ({"rule": "level", "cooldown": True}, "not True"),
        ({"rule": "level", "timeframes": ["2h"]}, "timeframes: unknown timeframe '2h': use one of"),
        ({"rule": "level", "timeframes": "1h"}, "timeframes: a list of names is wanted, not '1h'"),
        ({"rule": "level", "symbols": [1]}, "symbols: a name is wanted, not 1"),
        ({"rule": "level", "channels": []}, "channels: a list of names"),
        ({"rule": "level", "name": "a|b"}, "name: letters, digits, - and _"),
        ({"rule": "level", "name": "blind"}, "name: blind means something else"),
        ({"rule": "level", "enabled": "yes"}, "enabled: true or false is wanted, not 'yes'"),
        ({"rule": "stage", "to": ["rebound"]}, "to: unknown 'rebound': did you mean rebounding?"),
        ({"rule": "move", "candles": 3}, "percent is missing"),
        ({"rule": "move", "percent": 3}, "candles is missing"),
        ({"rule": "move", "percent": 0, "candles": 3}, "percent: a positive number"),
        ({"rule": "move", "percent": 3, "candles": 501}, "candles: a whole number from 1 to 500"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(table: Mapping[str, object], words: str):
    with pytest.raises(ValueError, match=r".") as caught:
        rule_from(table)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_without_meaning_cannot_be_made():
    with pytest.raises(ValueError, match="percent and candles"):
        Rule(name="m", kind=Kind.MOVE, percent=1.0)
    with pytest.raises(ValueError, match="percent and candles"):
        Rule(name="m", kind=Kind.LEVEL, percent=1.0, candles=1)
    with pytest.raises(ValueError, match="levels"):
        Rule(name="m", kind=Kind.LEVEL, levels=(200.0, 150.0))


def test_a_rule_covers_the_series_it_names_and_the_blind_one_none():
    rule = Rule(name="x", kind=Kind.LEVEL, symbols=("A-USD",), timeframes=(Timeframe.H1,))
    assert rule.covers("A-USD", Timeframe.H1)
    assert not rule.covers("B-USD", Timeframe.H1)
    assert not rule.covers("A-USD", Timeframe.M5)
    assert LEVEL.covers("B-USD", Timeframe.D1)
    assert not Rule(name="x", kind=Kind.LEVEL, enabled=False).covers("A-USD", Timeframe.H1)
    assert not DEFAULT_RULES[2].covers("A-USD", Timeframe.H1)
