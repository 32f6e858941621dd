"""The test that matters: the whole daemon under four fixed schedules of disturbances.

Each is two hours of a market in a minute of ours, in a process of its own, two at a time. More of
them: ``python scripts/soak.py --seeds 1-200 --jobs 2``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SEEDS = (1, 2, 3, 4)
SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"

pytestmark = [
    pytest.mark.timeout(700),
    pytest.mark.xdist_group("chaos"),  # one worker starts them, two at a time
]


def _soak() -> Any:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # attrs looks its classes' modules up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Future[Any]]]:
    """The verdict on each seed, as it comes."""
    directory = tmp_path_factory.mktemp("chaos")
    soak = _soak()
    with ThreadPoolExecutor(2) as pool:
        yield {seed: pool.submit(soak.run_seed, seed, directory) for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_store_is_the_truth_in_the_end(
    verdicts: dict[int, Future[Any]], seed: int
):
    verdict = verdicts[seed].result()
    assert verdict["problems"] == []
    assert verdict["ok"]
    assert verdict["faults"] >= 20
    assert verdict["slots"] > 6 * 5 * 250
    assert verdict["closes"] > 150
    assert verdict["readings"] == 30
