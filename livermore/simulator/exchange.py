"""What an exchange's own module provides; all else is common to the exchanges we play.

An exchange has a **voice** (what it says on websockets, and what it makes of what it hears there)
and **routes** (what it answers on REST). Both are handed the **stage**: the market, the clock and
everything else that exchanges have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from livermore.simulator.agenda import Agenda
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.faults import KINDS, Active, Faults, Kind
from livermore.simulator.http import Reply, Request
from livermore.simulator.limits import Limits
from livermore.simulator.listing import Listing
from livermore.simulator.market import Market
from livermore.simulator.purse import Key
from livermore.simulator.stats import Stats

if TYPE_CHECKING:
    from livermore.simulator.socket import Socket


@attrs.frozen(eq=False)
class Stage:
    """What every exchange plays on."""

    market: Market
    clock: ExchangeClock
    faults: Faults
    stats: Stats
    agenda: Agenda
    limits: Limits
    """Whole: what was not asked for is the exchange's own."""
    seed: int
    monotonic: Callable[[], float]
    sockets: dict[Socket, None] = attrs.field(factory=dict)
    """The open ones."""


class Voice(Protocol):
    """An exchange's side of its websockets. Synchronous; times in ns."""

    def refusal(self, target: str) -> int | None:
        """The HTTP status that refuses a websocket at this path and query; None accepts it."""

    def join(self, socket: Socket, target: str) -> None:
        """A websocket has been accepted."""

    def leave(self, socket: Socket) -> None:
        """It has ended: forget it."""

    def hear(self, socket: Socket, text: str | bytes) -> None:
        """Act on a message."""

    def notice(self, socket: Socket) -> None:
        """A ping or pong has come, or a message, of which :meth:`hear` learns next."""

    def begin(self, active: Active) -> None:
        """A fault begins; those that act on sockets, clock and market are done by others."""

    def halted(self, active: Active) -> None:
        """The market has just been halted: what was planned from its trades may be void."""

    def corrected(self, active: Active, due: int) -> None:
        """``late-correction`` ends: say the true candles of what it has spoilt."""


class Routes(Protocol):
    """An exchange's REST. Synchronous."""

    def turned_away(self, request: Request) -> Reply | None:
        """A refusal that is not for being too fast; None where there is none."""

    def too_many(self, wait: float | None) -> Reply:
        """A 429 with ``Retry-After``, or without."""

    def admit(self, request: Request) -> Reply | None:
        """Count the request; the refusal when it is beyond the limit."""

    def answer(self, request: Request) -> Reply:
        """The reply to a request that was let in."""


@attrs.frozen
class Exchange:
    """One exchange that can be played."""

    name: str
    limits: Limits
    """As documented; whole."""
    channels: frozenset[str]
    """What faults may be aimed at. ``heartbeats`` are signs of life without data."""
    listings: Callable[[int, int], list[Listing]]
    """Count of followed symbols, seed -> what it lists, those first, busiest first."""
    voice: Callable[[Stage], Voice]
    routes: Callable[[Stage], Routes]
    disturbed: tuple[str, ...]
    """The channels that a schedule of chaos picks from."""
    kinds: Mapping[str, Kind] = attrs.field(factory=dict)
    """Faults that only this exchange has."""
    keys: Callable[[int], Sequence[Key]] = lambda seed: ()
    """Seed -> the keys that its users have."""

    @property
    def faults(self) -> Mapping[str, Kind]:
        """All kinds that it can be asked for."""
        return {**KINDS, **self.kinds}
