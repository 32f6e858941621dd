"""The exchanges we speak to: one file each, none knows another.

A new exchange is its file, a name in :data:`DIALECTS` and its fixtures; the contract test runs over
this registry.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from livermore.dialect import Dialect
from livermore.errors import UsageError
from livermore.exchanges.binance import BINANCE, BINANCE_US
from livermore.exchanges.coinbase import COINBASE

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {known.name: known for known in (COINBASE, BINANCE, BINANCE_US)}
)


def dialect(name: str) -> Dialect:
    """The dialect of the exchange called ``name``; :class:`UsageError` names the known ones."""
    wanted = name.strip().lower()
    if wanted in DIALECTS:
        return DIALECTS[wanted]
    near = difflib.get_close_matches(wanted, DIALECTS, n=1, cutoff=0.7)
    hint = f": did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown exchange {name!r}{hint} (known: {', '.join(sorted(DIALECTS))})")
