import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from livermore.signals.stage import STAGES, Stage, stage, stages

EDGES = (-150.0, -50.0, 0.0, 50.0, 150.0)
numbers = st.one_of(
    st.floats(-1e6, 1e6),
    st.sampled_from([x for edge in EDGES for x in (edge, math.nextafter(edge, -math.inf))]),
)


@pytest.mark.parametrize(
    ("macdv", "signal", "calm", "expected"),
    [
        (-150.001, -200, 0, Stage.OVERSOLD),
        (-150.001, 0, 0, Stage.OVERSOLD),
        (-150, -160, 0, Stage.REBOUNDING),
        (-150, -150, 0, Stage.REBOUNDING),
        (-150, -140, 0, Stage.REVERSING),
        (-50.001, -40, 0, Stage.REVERSING),
        (-50, -40, 0, Stage.RETRACING),
        (-50, -50, 0, Stage.REBOUNDING),
        (49.999, 49.999, 0, Stage.REBOUNDING),
        (50, 50, 0, Stage.RALLYING),
        (50, 60, 0, Stage.RETRACING),
        (149.999, 140, 0, Stage.RALLYING),
        (150, 150, 0, Stage.OVERBOUGHT),
        (150, 160, 0, Stage.RETRACING),
        (1000, 2000, 0, Stage.RETRACING),
        (0, 0, 25, Stage.REBOUNDING),
        (0, 0, 26, Stage.RANGING),
        (0, 1, 25, Stage.RETRACING),
        (0, 1, 26, Stage.RANGING),
        # what no series can bring together must still have an answer, and the row of closes loses
        (-60, -50, 26, Stage.REVERSING),
        (60, 50, 26, Stage.RALLYING),
        (200, 50, 26, Stage.OVERBOUGHT),
        (-200, 50, 26, Stage.OVERSOLD),
    ],
)
def test_lower_bounds_are_inclusive_and_equal_counts_as_above(macdv, signal, calm, expected):
    assert stage(macdv, signal, calm) is expected


def holding(macdv: float, signal: float) -> list[Stage]:
    """Each rule on its own, as the definition lists them, without the range."""
    above = macdv >= signal
    rules = {
        Stage.OVERSOLD: macdv < -150,
        Stage.OVERBOUGHT: macdv >= 150 and above,
        Stage.RALLYING: 50 <= macdv < 150 and above,
        Stage.REBOUNDING: -150 <= macdv < 50 and above,
        Stage.REVERSING: -150 <= macdv < -50 and not above,
        Stage.RETRACING: macdv >= -50 and not above,
    }
    return [name for name, holds in rules.items() if holds]


@given(numbers, numbers, st.integers(0, 60))
@example(math.inf, math.inf, 0)
@example(-0.0, 0.0, 26)
def test_exactly_one_rule_holds_for_every_pair_of_numbers(macdv, signal, calm):
    (name,) = holding(macdv, signal)
    if calm > 25 and name in (Stage.REBOUNDING, Stage.RETRACING):
        name = Stage.RANGING
    assert stage(macdv, signal, calm) is name


@given(st.lists(st.tuples(numbers, numbers, st.integers(0, 60)), max_size=50))
def test_the_vectorised_rule_is_the_scalar_one(triples):
    macdv, signal, calm = (np.array([t[i] for t in triples]) for i in range(3))
    codes = stages(macdv, signal, calm)
    assert [STAGES[code] for code in codes] == [stage(*t) for t in triples]


def test_no_number_has_no_stage():
    nan, some = math.nan, 10.0
    codes = stages(np.array([nan, some, nan]), np.array([some, nan, nan]), np.array([0, 30, 30]))
    assert codes.tolist() == [-1, -1, -1]


def test_a_stage_is_written_as_its_word():
    assert str(Stage.REBOUNDING) == "rebounding"
    assert len(STAGES) == 7
