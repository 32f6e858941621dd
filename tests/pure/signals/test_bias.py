"""Which side a symbol leans to, compared with the sentence that says it."""

import itertools

import numpy as np

from livermore.market.timeframe import TIMEFRAMES
from livermore.signals.bias import BEARISH, BIASES, BULLISH, WEIGHTS, Bias, biases
from livermore.signals.stage import STAGES, Stage


def one(*stages: Stage | None) -> tuple[Bias | None, int]:
    codes = np.array([[-1 if s is None else STAGES.index(s) for s in stages]])
    [leaning], [known] = biases(codes)
    return (None if leaning < 0 else BIASES[leaning]), int(known)


def test_every_stage_but_ranging_is_on_exactly_one_side():
    assert not BULLISH & BEARISH
    assert set(Stage) - BULLISH - BEARISH == {Stage.RANGING}
    assert tuple(WEIGHTS) == TIMEFRAMES


def test_a_bias_needs_one_and_a_half_times_the_weight_of_the_other_side():
    up, down, flat = Stage.RALLYING, Stage.REVERSING, Stage.RANGING
    assert one(down, flat, flat, flat, flat) == (Bias.BEARISH, 5)
    assert one(down, up, flat, flat, flat) == (Bias.BULLISH, 5)  # 3 against 2: just enough
    assert one(flat, flat, down, up, flat) == (Bias.NEUTRAL, 5)  # 5 against 4
    assert one(flat, flat, down, flat, up) == (Bias.BULLISH, 5)  # 6 against 4
    assert one(flat, flat, flat, down, up) == (Bias.NEUTRAL, 5)  # 6 against 5
    assert one(flat, flat, flat, flat, flat) == (Bias.NEUTRAL, 5)


def test_a_timeframe_without_a_stage_does_not_speak():
    assert one(None, None, None, None, None) == (None, 0)
    assert one(None, None, None, None, Stage.OVERSOLD) == (Bias.BULLISH, 1)


def test_all_mixtures_agree_with_the_sum_of_weights():
    for stages in itertools.product(
        [Stage.OVERSOLD, Stage.RETRACING, Stage.RANGING, None], repeat=5
    ):
        bull = sum(w for w, s in zip(WEIGHTS.values(), stages, strict=True) if s in BULLISH)
        bear = sum(w for w, s in zip(WEIGHTS.values(), stages, strict=True) if s in BEARISH)
        if all(s is None for s in stages):
            wanted = None
        elif bull and bull >= 1.5 * bear:
            wanted = Bias.BULLISH
        elif bear and bear >= 1.5 * bull:
            wanted = Bias.BEARISH
        else:
            wanted = Bias.NEUTRAL
        assert one(*stages)[0] is wanted, stages
