"""Chance without a generator: numbers that depend on a key and an index only.

A counter-based hash (splitmix64) makes any slot of any symbol computable without the slots
before it, in any order, in any process: the market is a function, not a history of calls.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def key_of(*parts: int | str) -> int:
    """A 64-bit key for these parts, the same in every process (``hash`` is salted)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(key: int, index: Ints) -> Floats:
    """One number in [0, 1) for each index."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def once(key: int, index: int) -> float:
    """The same number as :func:`uniform` for a single index, without arrays."""
    z = (index * _GOLDEN + key) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    z ^= z >> 31
    return float(z >> 11) * 2.0**-53
