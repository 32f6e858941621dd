"""Memory that is free goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
