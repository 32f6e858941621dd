"""Memory that is free goes back to the system, and garbage is looked for in quiet moments."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from livermore import daemon

HOLES = """
from livermore.adapters.memory import give_back

def resident():
    rows = open("/proc/self/status").read().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))

kept = [bytes(1024 * 8) for _ in range(8000)]
del kept[::2], kept[::3]  # pieces between what stays
before = resident()
assert give_back()
print(before - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library keeps free pages this way"
)
def test_free_pages_between_what_stays_are_given_back():
    told = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(told.stdout) > 10_000  # KiB of 42 MB


GARBAGE = """
import gc
from livermore.adapters.memory import MANY, collect_rarely, set_aside

class Loop:
    alive = 0
    def __init__(self):
        Loop.alive += 1
        self.itself = self
    def __del__(self):
        Loop.alive -= 1

collect_rarely()
Loop()
kept = [[] for _ in range(5000)]
assert Loop.alive == 1  # the default would have looked by now
set_aside()
assert Loop.alive == 0
assert gc.get_freeze_count() > 5000
Loop()
set_aside()
assert Loop.alive == 0  # nor does what was set aside hide garbage that it became
kept = [[] for _ in range(MANY + 1000)]
print(gc.get_stats()[0]["collections"])
"""


def test_garbage_is_found_when_it_is_looked_for():
    told = subprocess.run(
        [sys.executable, "-c", GARBAGE], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(told.stdout) >= 1


async def test_garbage_is_looked_for_far_from_where_candles_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    looked: list[float] = []
    monkeypatch.setattr(daemon, "set_aside", lambda: looked.append(trio.current_time()))
    monkeypatch.setattr(daemon, "collect_rarely", lambda: None)

    async def at_once(work: Callable[[], object]) -> object:
        return work()

    monkeypatch.setattr(daemon, "give_back", lambda: True)
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)  # threads know no virtual time
    with trio.move_on_after(3 * 3600):
        await daemon.keep_small(trio.current_time)
    assert [20 <= at % 60 < 40 for at in looked] == [True] * 3
    assert 60 <= looked[0] < 180
    assert all(3600 <= b - a < 3720 for a, b in itertools.pairwise(looked))
