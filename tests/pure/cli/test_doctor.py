"""How the doctor judges what INFO says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from livermore.cli.doctor import FAIL, PASS, WARN, judged, planned_bytes
from livermore.config import Settings

HEALTHY = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "used_memory": 1_000_000,
}


def verdicts(saves: bool | None = False, **changes: Any) -> dict[str, str]:
    found = list(judged({**HEALTHY, **changes}, lambda: saves, planned_bytes(settings())))
    assert all(finding.step for finding in found if finding.verdict != PASS)
    return {finding.check: finding.verdict for finding in found}


def settings(**changes: Any) -> Settings:
    return Settings(state_dir=Path("/s"), **{"top": 50, **changes})


def test_a_healthy_redis_has_nothing_to_complain_about():
    assert set(verdicts().values()) == {PASS}


@pytest.mark.parametrize(
    ("changes", "check", "verdict"),
    [
        ({"redis_version": "6.2.14"}, "Redis", FAIL),
        ({"redis_version": "6.2.14", "valkey_version": "8.0.1"}, "Redis", PASS),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "Redis", PASS),
        ({"role": "slave"}, "role", FAIL),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", WARN),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 10**9}, "eviction", FAIL),
        ({"aof_enabled": 0}, "persistence", WARN),
        ({"aof_enabled": 0, "saves": True}, "persistence", PASS),
        ({"aof_enabled": 0, "saves": None}, "persistence", WARN),
        ({"maxmemory": 10**9}, "memory", PASS),
        ({"maxmemory": 50 * 10**6}, "memory", FAIL),
    ],
)
def test_what_would_lose_candles_is_told(changes: dict[str, Any], check: str, verdict: str):
    assert verdicts(**changes)[check] == verdict


def test_memory_grows_with_what_is_followed():
    assert planned_bytes(settings()) == 50 * 5 * 1000 * 230
    assert planned_bytes(settings(top=None, symbols=("A-B", "C-D"))) == 2 * 5 * 1000 * 230
