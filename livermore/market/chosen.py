"""What is to be followed of an exchange beside its settings, and how that is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs

from livermore.market.mode import Mode

MANUAL, POSITION, SETTINGS = "manual", "position", "settings"
"""Why a user follows a symbol: a command said so, the exchange, or the user's settings."""


@attrs.frozen(order=True)
class Subscription:
    """A symbol of a user, and why."""

    user: str
    symbol: str
    source: str


@attrs.frozen
class Chosen:
    """All that the feed of an exchange follows comes from this, its settings and its listing."""

    mode: Mode = Mode.SCALPER_MACDV
    added: tuple[str, ...] = ()
    """By hand, for everybody."""
    removed: tuple[str, ...] = ()
    """By hand: not followed for everybody, though the settings or its volume say so."""
    tier: tuple[str, ...] = ()
    """Tier 1 as it was last."""
    subscriptions: tuple[Subscription, ...] = ()
    """As the database had them last."""
    beside: tuple[tuple[str, str], ...] = ()
    """What was followed beside Tier 1 last, and in whose keys that is."""

    def followers(self, *, positions: bool = False) -> dict[str, list[str]]:
        """Symbol -> users, each once; with ``positions`` only of those who have one in it."""
        found: dict[str, list[str]] = {}
        for one in self.subscriptions:
            if positions and one.source != POSITION:
                continue
            users = found.setdefault(one.symbol, [])
            if one.user not in users:
                users.append(one.user)
        return found


def encode_chosen(chosen: Chosen) -> dict[str, str]:
    """The fields of ``following:{exchange}``."""
    rows = [[one.user, one.symbol, one.source] for one in chosen.subscriptions]
    return {
        "mode": chosen.mode.value,
        "added": json.dumps(chosen.added),
        "removed": json.dumps(chosen.removed),
        "tier": json.dumps(chosen.tier),
        "subscriptions": json.dumps(rows),
        "beside": json.dumps(chosen.beside),
    }


def decode_chosen(reply: Mapping[bytes, bytes] | list[bytes]) -> Chosen:
    """The opposite, of a reply to HGETALL; what is damaged or absent is as it is at first."""
    chosen = Chosen()
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    for name, text in reply.items():
        try:
            match name:
                case b"mode":
                    chosen = attrs.evolve(chosen, mode=Mode(text.decode()))
                case b"added":
                    chosen = attrs.evolve(chosen, added=_names(json.loads(text)))
                case b"removed":
                    chosen = attrs.evolve(chosen, removed=_names(json.loads(text)))
                case b"tier":
                    chosen = attrs.evolve(chosen, tier=_names(json.loads(text)))
                case b"subscriptions":
                    rows = tuple(Subscription(*_names(row)) for row in json.loads(text))
                    chosen = attrs.evolve(chosen, subscriptions=rows)
                case b"beside":
                    pairs = [_names(row) for row in json.loads(text)]
                    beside = tuple((symbol, owner) for symbol, owner in pairs)
                    chosen = attrs.evolve(chosen, beside=beside)
        except (ValueError, TypeError):
            continue
    return chosen


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("no list of names")
    return tuple(value)
