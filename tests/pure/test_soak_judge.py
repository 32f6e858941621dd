"""What the soak makes of its samples, and what the comparison with the truth makes of a reading."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe, iso

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str) -> Any:
    """A script as a library: it is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs looks its classes' modules up
    spec.loader.exec_module(module)
    return module


soak, truth = script("soak"), script("check_truth")

# -- days of the market -----------------------------------------------------------------------


def flat(i: int) -> int:
    return 0


def rising(i: int) -> int:
    return i


def samples(
    count: int = 40,
    rss: Callable[[int], float] = flat,
    queue: Callable[[int], int] = flat,
    name: str = "pending",
    closes: Callable[[int], int] = rising,
) -> list[Any]:
    """Looks at a daemon of 60 MB whose memory waves by one per cent and whose queues by three."""
    found = []
    for i in range(count):
        lengths = {"pending": i % 4, "gaps": i % 3, "ledger": 200 + i % 4}
        lengths[name] += queue(i)
        wave = 60e6 * (1 + 0.005 * (i % 3 - 1))
        found.append(
            soak.Sample(
                at=10.0 * i,
                rss=int(wave + rss(i)),
                state="live",
                closes=closes(i),
                clock=i,
                requests=i,
                **lengths,
            )
        )
    return found


def test_the_growth_of_a_line_is_its_rise():
    assert soak.growth([5.0] * 9) == 0
    assert soak.growth([2.0 * i for i in range(11)]) == pytest.approx(20.0)
    assert soak.growth([-3.0 * i for i in range(5)]) == pytest.approx(-12.0)
    assert soak.growth([1.0, 3.0, 1.0, 3.0, 1.0]) == pytest.approx(0.0)


def test_a_flat_series_passes():
    assert soak.judge(samples()) == []


def test_what_grows_before_the_second_half_passes():
    assert soak.judge(samples(rss=lambda i: 2e6 * min(i, 18))) == []


def test_growing_memory_is_told():
    (problem,) = soak.judge(samples(rss=lambda i: 0.2e6 * i))
    assert problem.startswith("memory grew by 3.")


def test_memory_that_rises_for_a_moment_is_told():
    (problem,) = soak.judge(samples(rss=lambda i: 30e6 * (i == 30)))
    assert problem == "memory rose to 90 MB from 60 MB"


@pytest.mark.parametrize("name", soak.QUEUES)
def test_a_growing_queue_is_told(name: str):
    (problem,) = soak.judge(samples(queue=lambda i: 5 * i, name=name))
    assert problem.startswith(f"{name} grew by 9")


@pytest.mark.parametrize("count", [0, 1, 10])
def test_too_few_samples_are_no_verdict(count: int):
    assert soak.judge(samples(count)) == [f"{count} samples are too few to judge"]
    assert soak.judge(samples(12)) == []


def test_a_daemon_that_stores_nothing_is_told():
    problems = soak.judge(samples(closes=lambda i: min(i, 20)))
    assert problems == ["no candle closed in the second half"]


# -- readings ---------------------------------------------------------------------------------

MS = Timeframe.M5.ms
FIRST = 1_750_000_200_000
SERIES = Series("coinbase", "BTC-USD", Timeframe.M5)


def market(count: int, empty: int = 0) -> dict[int, dict[str, Any]]:
    """A truth of ``count`` slots, the oldest ``empty`` of them without a trade."""
    rows = {}
    for i in range(count):
        close = 100 + (i * 7 % 13) / 10
        low, high = (close, close) if i < empty else (close - 1, close + 1)
        kind = "empty" if i < empty else "traded"
        rows[FIRST + i * MS] = {"close": close, "high": high, "low": low, "kind": kind}
    return rows


def wrong(
    rows: dict[int, dict[str, Any]], withheld: str | None, lost: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """What is wrong with a reading at the newest of ``rows``, all stored but ``lost``."""
    stored = rows.keys() - {FIRST + i * MS for i in lost}
    macdv, signal, _ = truth.recursion([rows[slot] for slot in sorted(stored)])
    if withheld is not None:
        macdv = signal = None
    reading = {
        "open_time": max(rows),
        "count": len(stored),
        "withheld": withheld,
        "macdv": macdv,
        "signal": signal,
    }
    counts = {"withheld": 0}
    found = truth.check_reading(reading, SERIES, max(rows) + MS, stored, FIRST, rows, counts)
    differing = list(found)
    assert counts["withheld"] == (withheld is not None)
    return differing


@pytest.mark.parametrize(
    ("rows", "lost"),
    [(market(60), ()), (market(100, empty=66), ()), (market(300), (148,))],
)
def test_a_reading_that_nothing_withholds_is_right(
    rows: dict[int, dict[str, Any]], lost: tuple[int, ...]
):
    assert wrong(rows, None, lost) == []


@pytest.mark.parametrize(
    ("rows", "withheld", "lost"),
    [
        (market(59), "fewer than 60 candles: 59", ()),
        (market(60), "fewer than 60 candles: 59", (30,)),
        (market(100, empty=75), "fewer than 26 observed candles: 25", ()),
        (market(300), f"missing candle within the last 150: {iso(FIRST + 149 * MS)}", (149,)),
        (market(300), f"missing candle within the last 150: {iso(FIRST + 298 * MS)}", (200, 298)),
        (market(100, empty=70), "fewer than 9 MACD-V values: 5", ()),
    ],
)
def test_a_true_reason_is_right_and_numbers_in_its_place_are_wrong(
    rows: dict[int, dict[str, Any]], withheld: str, lost: tuple[int, ...]
):
    assert wrong(rows, withheld, lost) == []
    assert {"withheld", "expected"} <= wrong(rows, None, lost)[0].keys()


@pytest.mark.parametrize(
    ("rows", "withheld", "lost"),
    [
        (market(60), "fewer than 60 candles: 59", ()),
        (market(59), "fewer than 60 candles: 58", ()),
        (market(200), "fewer than 26 observed candles: 25", ()),
        (market(100, empty=74), "fewer than 26 observed candles: 25", ()),
        (market(300), f"missing candle within the last 150: {iso(FIRST + 200 * MS)}", ()),
        (market(300), f"missing candle within the last 150: {iso(FIRST + 200 * MS)}", (210,)),
        (market(300), f"missing candle within the last 150: {iso(FIRST + 148 * MS)}", (148,)),
        (market(200), "no volatility", ()),
        (market(200), "fewer than 9 MACD-V values: 8", ()),
        (market(200), "fewer than one likes", ()),
    ],
)
def test_a_reason_that_does_not_hold_is_wrong(
    rows: dict[int, dict[str, Any]], withheld: str, lost: tuple[int, ...]
):
    (difference, *_) = wrong(rows, withheld, lost)
    assert difference["withheld"] == withheld
    assert difference["expected"] != withheld


def test_numbers_beside_a_reason_are_wrong():
    rows = market(59)
    reading = {
        "open_time": max(rows),
        "count": 59,
        "withheld": "fewer than 60 candles: 59",
        "macdv": 1.0,
        "signal": None,
    }
    found = truth.check_reading(
        reading, SERIES, max(rows) + MS, rows.keys(), FIRST, rows, {"withheld": 0}
    )
    assert [one["reading"] for one in found] == ["macdv"]
