"""The older API on Coinbase's host: the currencies that clients ask for before the products."""

from __future__ import annotations

import uuid

from livermore.simulator.coinbase.words import rfc3339
from livermore.simulator.http import Reply, json_reply
from livermore.simulator.listing import Listing
from livermore.simulator.market import Market

ROOT = "/v2/"
_FIAT = frozenset({"USD", "EUR", "GBP"})
_SECOND = 1_000_000_000


def answer(path: str, market: Market, now: int) -> Reply | None:
    """The reply to a path under ``ROOT``; None where there is no such route. ``now``: ns."""
    match path.removeprefix(ROOT):
        case "time":
            return _data({"iso": rfc3339(now), "epoch": now // _SECOND})
        case "currencies":
            return _data([_fiat(*one) for one in _names(market.listings) if one[0] in _FIAT])
        case "currencies/crypto":
            codes = [one for one in _names(market.listings) if one[0] not in _FIAT]
            return _data([_crypto(*one, rank) for rank, one in enumerate(codes)])
        case "exchange-rates":
            return _data({"currency": "USD", "rates": {"USD": "1.0", **_rates(market, now)}})
    return None


def _data(value: object) -> Reply:
    return json_reply(200, {"data": value})


def _fiat(code: str, name: str) -> dict[str, object]:
    return {"id": code, "name": name, "min_size": "0.01"}


def _crypto(code: str, name: str, rank: int) -> dict[str, object]:
    return {
        "asset_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, code)),
        "code": code,
        "name": name,
        "color": "#0433FF",
        "sort_index": 100 + rank,
        "exponent": 8,
        "type": "crypto",
        "address_regex": "^(?:0x)?[0-9a-fA-F]{40}$",
    }


def _rates(market: Market, now: int) -> dict[str, str]:
    """What a dollar buys."""
    dollars = [one for one in market.listings if one.quote == "USD"]
    return {
        one.base: f"{one.tick / market.last_price(one.symbol, now):.16f}".rstrip("0")
        for one in dollars
    }


def _names(listings: list[Listing]) -> list[tuple[str, str]]:
    """Code and name of every currency, by code."""
    names = {one.quote: one.quote_name for one in listings} | {
        one.base: one.name for one in listings
    }
    return sorted(names.items())
