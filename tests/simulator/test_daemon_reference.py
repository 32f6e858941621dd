"""Real candles through the whole daemon give the alerts of the reference columns, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.alert_judge import alerts_of
from tests.recorded.test_alert_reference import FILES, recorded, reference

ROOT = Path(__file__).resolve().parents[2]
RUN = "tests.simulator.reference_run"


@recorded
@pytest.mark.timeout(400)
def test_real_candles_through_sockets_and_store_give_the_alerts_of_the_reference(tmp_path: Path):
    """With a restart, wrong candles on the stream and an outage where the alerts are."""
    ran = subprocess.run(
        [sys.executable, "-m", RUN, "--directory", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["lives"] == 2
    assert told["connections"] >= 3
    assert told["twice"] == []
    wanted = []
    for timeframe in ("5m", "15m"):
        name = f"binance_BTC-USDT_{timeframe}"
        rows = [row for row in reference(name) if row.open_time + FILES[name] <= told["ended"]]
        wanted += [
            [timeframe, one.rule, one.open_time, one.direction, one.level]
            for one in alerts_of(rows, FILES[name], since=told["started"])
        ]
    assert len(wanted) == 4, "the stretch has alerts"
    assert told["standing"] == sorted(wanted)
