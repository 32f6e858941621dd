"""Giving memory back to the system, and looking for garbage when there is time for it.

What a replay of many series or a long reply took is free afterwards, but in pieces between what
stays, such as the recorder's frames: the C library keeps those pages for later. Over days a daemon
seems to grow by what it once needed for a moment (*measured*: 10-20 MB with 50 symbols).

Python looks for cycles of garbage whenever 700 objects more exist: with a thousand symbols that is
dozens of times while their candles close, 3-7 ms of the 40 in which all are stored, and all that
the daemon holds is looked through again and again. Here there are few cycles to be found.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

MANY = 10_000
"""New objects between two looks for garbage."""


def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library: it has its own ways
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    found: Callable[[int], int] = trim
    return found


_malloc_trim = _trim()


def give_back() -> bool:
    """Free pages go back to the system; whether there were any. A millisecond at 100 MB."""
    return _malloc_trim is not None and bool(_malloc_trim(0))


def collect_rarely() -> None:
    """Look for garbage after many new objects, not after 700."""
    gc.set_threshold(MANY, 10, 10)


def set_aside() -> None:
    """Look through everything now, and not again through what is kept: 50 ms at 1,000 symbols."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
