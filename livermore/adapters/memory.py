"""Giving memory back to the system.

What a replay of many series or a long reply took is free afterwards, but in pieces between what
stays, such as the recorder's frames: the C library keeps those pages for later. Over days a daemon
seems to grow by what it once needed for a moment (*measured*: 10-20 MB with 50 symbols).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


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
