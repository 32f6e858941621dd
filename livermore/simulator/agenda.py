"""What is due next, in simulated time.

``produce`` is synchronous: it does everything due up to now in order, and each act is told the
moment it was due, so a fast clock or a late wake of the process changes nothing a client could
tell.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import trio

from livermore.simulator.clock import ExchangeClock

_SHORTEST_NAP = 0.004
"""Real seconds: a fast clock works in batches instead of waking for each frame."""
_AT_ONCE = 64
"""Acts between two chances for the sockets to write."""


class Agenda:
    """A heap of moments (ns) and what to do then."""

    def __init__(self, clock: ExchangeClock) -> None:
        self.changed = trio.Event()
        self._clock = clock
        self._order = itertools.count()
        self._due: list[tuple[int, int, Callable[[int], None]]] = []
        self._produced = clock.now()

    async def run(self) -> None:
        """Do what is due until cancelled."""
        while True:
            if self.produce(self._clock.now(), _AT_ONCE):
                await trio.lowlevel.checkpoint()  # behind: let the sockets write between
                continue
            nap = max(self._clock.real_until(self._due[0][0]), _SHORTEST_NAP)
            with trio.move_on_after(nap):
                await self.changed.wait()
                self.changed = trio.Event()
                await trio.sleep(_SHORTEST_NAP)

    def produce(self, now: int, most: int) -> bool:
        """Do ``most`` of what is due up to ``now`` (ns), oldest first; True when some is left."""
        while self._due and self._due[0][0] <= now:
            if most == 0:
                return True
            most -= 1
            self._produced, _, act = heapq.heappop(self._due)
            act(self._produced)
        self._produced = now
        return False

    def at(self, time: int, act: Callable[[int], None]) -> None:
        """Do ``act`` at ``time`` (ns), or next: never before what has been done already."""
        heapq.heappush(self._due, (max(time, self._produced), next(self._order), act))
