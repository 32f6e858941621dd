"""A seeded schedule of disturbances: two market hours in which everything goes wrong, then a calm.

The same seed is the same schedule. Every kind of fault comes, alone and on top of others, for
seconds or for many minutes, often around the end of a slot; the last quarter of an hour is
undisturbed, so that all can heal. What befalls the daemon and its Redis is in the schedule as data:
whoever runs them has to do it, the simulated exchange cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs

from livermore.simulator.chance import key_of, once
from livermore.simulator.coinbase import COINBASE
from livermore.simulator.exchange import Exchange

T = TypeVar("T")

CHAOS: Final = "chaos"
"""The name of this scenario."""
LENGTH = 7_200.0
"""Seconds of the market in a schedule."""
CALM = 900.0
"""Seconds at its end without faults."""
SHORTEST, LONGEST = 3.0, 1_200.0
"""Seconds that a fault lasts."""
ALONE = 0.45
"""Share of episodes that are a single fault."""
AT_THE_END = 0.35
"""Share of episodes that begin around the end of a slot."""
SLOT = 300.0

RESTART, KILL = "restart", "kill"
PAUSE_REDIS, RESTART_REDIS, EMPTY_REDIS = "pause redis", "restart redis", "empty redis"


@attrs.frozen
class Disturbance:
    """What befalls the daemon or its Redis: ``kind`` is one of the names above."""

    at: float
    kind: str
    seconds: float
    """How long it stays away; 0 where it does not."""


@attrs.frozen
class Schedule:
    """``faults`` as in a scenario file, ``disturbances`` by time."""

    faults: Sequence[dict[str, Any]]
    disturbances: Sequence[Disturbance]


@attrs.frozen
class Scene:
    """Whom and what things can befall."""

    symbols: Sequence[str]
    channels: Sequence[str]
    kinds: Sequence[str]


def schedule(
    seed: int,
    symbols: Sequence[str],
    *,
    length: float = LENGTH,
    calm: float = CALM,
    boundary: float = 180.0,
    exchange: Exchange = COINBASE,
) -> Schedule:
    """What happens in ``length`` seconds. ``boundary``: seconds until the first end of a slot."""
    dice = _Dice(key_of(seed, CHAOS))
    end = max(0.0, length - calm)
    scene = Scene(symbols, exchange.disturbed, [*MAKERS, *(k for k in OWN if k in exchange.kinds)])
    faults = sorted(_faults(dice, scene, end, boundary), key=lambda fault: fault["at"])
    return Schedule(faults, _disturbances(dice, end))


def _faults(dice: _Dice, scene: Scene, end: float, boundary: float) -> list[dict[str, Any]]:
    faults: list[dict[str, Any]] = []
    deck: list[str] = []
    at = dice.between(0.0, 120.0)
    while at < end - SHORTEST:
        if dice.one() < AT_THE_END:
            slots = math.ceil((at - boundary) / SLOT)
            at = max(at, boundary + slots * SLOT + dice.between(-8.0, 12.0))
        count = 1 if dice.one() < ALONE else 2 + int(3 * dice.one())
        begin = until = at
        for _ in range(count):
            if begin >= end - SHORTEST:
                break
            if not deck:
                deck = dice.shuffled(scene.kinds)
            kind = deck.pop()
            fault = {"at": round(begin, 1), "fault": kind, **_MAKERS[kind](dice, scene)}
            if kind not in ONCE:
                lasts = min(dice.spread(SHORTEST, LONGEST), end - begin)
                fault["for"] = round(lasts, 1)
                until = max(until, begin + lasts)
            faults.append(fault)
            begin += dice.between(0.0, 45.0)
        at = until + dice.spread(3.0, 120.0)
    return faults


def _disturbances(dice: _Dice, end: float) -> list[Disturbance]:
    found: list[Disturbance] = []

    def some(kind: str, most: int, shortest: float, longest: float) -> None:
        for _ in range(int(dice.one() * (most + 1))):
            seconds = dice.spread(shortest, longest) if longest else 0.0
            at = dice.between(20.0, end - seconds)
            found.append(Disturbance(round(at, 1), kind, round(seconds, 1)))

    some(RESTART, 2, 1.0, 400.0)
    some(KILL, 2, 1.0, 400.0)
    some(PAUSE_REDIS, 2, 3.0, 240.0)
    some(RESTART_REDIS, 1, 1.0, 120.0)
    if dice.one() < 0.25:
        found.append(Disturbance(round(dice.between(60.0, end), 1), EMPTY_REDIS, 0.0))
    return sorted(found, key=lambda one: one.at)


class _Dice:
    """Throws that depend on the key and on how many there were before."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._thrown = 0

    def one(self) -> float:
        """In [0, 1)."""
        self._thrown += 1
        return once(self._key, self._thrown)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.one()

    def spread(self, low: float, high: float) -> float:
        """As likely between 3 and 30 as between 30 and 300."""
        return float(low * (high / low) ** self.one())

    def pick(self, values: Sequence[T]) -> T:
        return values[int(self.one() * len(values))]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        return [values[i] for _, i in sorted((self.one(), i) for i in range(len(values)))]

    def some(self, values: Sequence[T], most: int) -> list[T]:
        """One to ``most`` of them."""
        return self.shuffled(values)[: 1 + int(self.one() * most)]


Options = dict[str, Any]


def _plain(dice: _Dice, scene: Scene) -> Options:
    return {}


def _frames(shares: tuple[float, float]) -> Callable[[_Dice, Scene], Options]:
    """A share of all frames, or of those of some symbols or of one channel."""

    def make(dice: _Dice, scene: Scene) -> Options:
        where: Options = {}
        what = dice.one()
        if what < 0.3:
            where["symbols"] = dice.some(scene.symbols, 3)
        elif what < 0.5:
            where["channels"] = [dice.pick(scene.channels)]
        return {**where, "share": round(dice.spread(*shares), 3)}

    return make


def _drop(dice: _Dice, scene: Scene) -> Options:
    return {"code": dice.pick((0, 0, 1000, 1001, 1011, 1012))}


def _mute(dice: _Dice, scene: Scene) -> Options:
    if dice.one() < 0.7:
        return {"symbols": dice.some(scene.symbols, 3)}
    return {"channels": [dice.pick(scene.channels)]}


def _of_symbols(dice: _Dice, scene: Scene) -> Options:
    return {"symbols": dice.some(scene.symbols, 3)} if dice.one() < 0.6 else {}


def _slow(dice: _Dice, scene: Scene) -> Options:
    dripping = round(dice.between(0.01, 0.5), 2) if dice.one() < 0.4 else 0.0
    return {"delay": round(dice.spread(0.3, 8.0), 2), "drip": dripping}


def _skew(dice: _Dice, scene: Scene) -> Options:
    """A few seconds either way, or a jump: far back, or ahead by less than REST is given to settle.

    An exchange whose every clock is further ahead shows half a candle as one that ended long ago.
    """
    if dice.one() < 0.6:
        far = dice.spread(1.0, 10.0)
        return {"seconds": round(far if dice.one() < 0.5 else -far, 1)}
    ahead = dice.one() < 0.5
    return {"seconds": round(dice.spread(10.0, 25.0) if ahead else -dice.spread(10.0, 400.0), 1)}


MAKERS: dict[str, Callable[[_Dice, Scene], Options]] = {
    "drop": _drop,
    "refuse": lambda dice, scene: {"status": dice.pick((0, 0, 403, 429, 502, 503))},
    "ack-then-mute": lambda dice, scene: {"heartbeats": dice.one() < 0.5},
    "ack-some": lambda dice, scene: {"share": round(dice.between(0.1, 0.9), 2)},
    "reject": lambda dice, scene: {
        "symbols": dice.some(scene.symbols, 2), "whole": dice.one() < 0.2
    },
    "heartbeats-only": _plain,
    "mute": _mute,
    "lose": _frames((0.01, 0.7)),
    "duplicate": _frames((0.02, 1.0)),
    "reorder": _frames((0.02, 0.7)),
    "garbage": _frames((0.01, 0.7)),
    "truncate": _frames((0.01, 0.7)),
    "huge": lambda dice, scene: {"bytes": int(dice.spread(100_000, 20_000_000))},
    "half-open": lambda dice, scene: {"share": 1.0},
    "stream-differs": _of_symbols,
    "late-correction": _of_symbols,
    "429": lambda dice, scene: (
        {"retry_after": int(dice.spread(1, 60))} if dice.one() < 0.5 else {}
    ),
    "5xx": lambda dice, scene: {
        "status": dice.pick((500, 502, 503, 504)), "share": round(dice.between(0.2, 1.0), 2)
    },
    "slow-rest": _slow,
    "cut-rest": lambda dice, scene: {"share": round(dice.between(0.2, 1.0), 2)},
    "stale-rest": lambda dice, scene: {"seconds": round(dice.spread(5.0, 55.0), 1)},
    "skew": _skew,
    "halt": _of_symbols,
}  # fmt: skip
"""For each kind of fault, what is said about it."""
OWN: dict[str, Callable[[_Dice, Scene], Options]] = {
    "shutdown": lambda dice, scene: {"lead": round(dice.spread(0.5, 60.0), 1)},
    "unflagged": lambda dice, scene: {
        **_of_symbols(dice, scene), "share": round(dice.between(0.1, 1.0), 2)
    },
    "late-flag": lambda dice, scene: {
        **_of_symbols(dice, scene), "seconds": round(dice.spread(1.0, 120.0), 1)
    },
    "ban": lambda dice, scene: {"retry_after": int(dice.spread(5, 180))},
}  # fmt: skip
"""The same for kinds that only some exchanges have."""
_MAKERS = {**MAKERS, **OWN}
LEFT_OUT = frozenset({"sparse-rest"})
"""Kinds that do not come: what REST omits, asked long after, was empty. There is no other witness
of the past, so nobody can heal from that."""
ONCE = frozenset({"drop", "huge", "shutdown"})
"""Kinds that happen at a moment."""
