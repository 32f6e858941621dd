"""The feeds of one process: each with its state, started and stopped while the process runs.

The only place that spawns feeds. What a feed does between its start and its end is its own affair;
the fleet looks at its phase, and tells every change of state to whoever wants to know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from livermore.errors import CommandRefused, LivermoreError
from livermore.market.lifecycle import RUNS, State, check_change
from livermore.runtime.feed import Feed
from livermore.runtime.following import Following

LOOK = 0.2
"""Seconds between two looks at the phases of feeds."""


@attrs.frozen
class Change:
    """A feed became something else; ``why`` is for people."""

    exchange: str
    before: State
    after: State
    why: str = ""


@attrs.define
class Cell:
    """One exchange of this process."""

    exchange: str
    state: State = State.IDLE
    why: str = ""
    """Of a failure."""
    since: float = 0.0
    """Monotonic."""
    following: Following | None = None
    scope: trio.CancelScope | None = None
    life: trio.CancelScope | None = None
    """Of the feed that runs now; another may follow it."""
    again: bool = False
    """Whether another feed follows."""
    ended: trio.Event = attrs.Factory(trio.Event)

    @property
    def feed(self) -> Feed | None:
        """The feed, once there is one."""
        return self.following.feed if self.following is not None else None


Live = Callable[[Following], Awaitable[None]]
"""Runs one feed until cancelled; raises :class:`LivermoreError` where it ended for good."""


@attrs.define
class Fleet:
    """``make`` makes what a feed follows, ``live`` runs it, ``told`` hears of each change."""

    nursery: trio.Nursery
    make: Callable[[str, bool], Awaitable[Following]]
    """Exchange, and whether it starts paused. Raises :class:`LivermoreError`."""
    live: Live
    told: Callable[[Change], object]
    cells: dict[str, Cell] = attrs.Factory(dict)
    _changed: trio.Event = attrs.Factory(trio.Event)

    def cell(self, exchange: str) -> Cell:
        """What there is of ``exchange``: idle, if nothing ever was."""
        return self.cells.setdefault(exchange, Cell(exchange, since=trio.current_time()))

    @property
    def running(self) -> tuple[str, ...]:
        """The exchanges that have a feed."""
        return tuple(name for name, cell in self.cells.items() if cell.state in RUNS)

    async def start(self, exchange: str, *, paused: bool = False) -> None:
        """Begin to follow ``exchange``.

        Raises :class:`CommandRefused` where it runs, :class:`LivermoreError` where it cannot.
        """
        cell = self.cell(exchange)
        check_change(exchange, cell.state, State.STARTING)
        if cell.scope is not None:
            await self._end(cell)  # a failed one still says so
        following = await self.make(exchange, paused)
        # Somebody else may have started it meanwhile.
        if cell.state not in (State.IDLE, State.FAILED):
            raise CommandRefused(f"{exchange} is {cell.state.value} already")
        cell.following, cell.scope, cell.ended = following, trio.CancelScope(), trio.Event()
        self._become(cell, State.STARTING)
        if paused:
            self._become(cell, State.PAUSED)
        self.nursery.start_soon(self._live, cell)

    async def stop(self, exchange: str) -> None:
        """End the feed: the last batch is written, the lease given back. Returns when it is."""
        cell = self.cell(exchange)
        if cell.state is State.FAILED:
            await self._end(cell)
            self._become(cell, State.IDLE)
            return
        self._become(cell, State.STOPPING)
        await self._end(cell)
        self._become(cell, State.IDLE)

    def pause(self, exchange: str) -> None:
        """Close the sockets and repair nothing; lease, status and control live on."""
        cell = self.cell(exchange)
        self._become(cell, State.PAUSED)
        assert cell.following is not None
        cell.following.pause()

    def resume(self, exchange: str) -> None:
        """Go on, and repair what closed meanwhile."""
        cell = self.cell(exchange)
        self._become(cell, State.STARTING)
        assert cell.following is not None
        cell.following.resume()

    def renew(self, exchange: str) -> None:
        """Make a new feed from the plan as it is now; the lease stays ours in between."""
        cell = self.cell(exchange)
        if cell.state not in RUNS or cell.life is None:
            return
        cell.again = True
        if cell.feed is not None:
            cell.feed.handing_on = True
        cell.life.cancel()

    async def watch(self) -> None:
        """See how the feeds come on, until cancelled."""
        while True:
            for cell in list(self.cells.values()):
                self.look(cell)
            await trio.sleep(LOOK)

    def look(self, cell: Cell) -> None:
        """Follow the phase of a feed."""
        if cell.feed is None or cell.state not in RUNS:
            return
        phase = State(cell.feed.phase)
        # A pause that was asked for counts from then on, not from when the feed has seen it.
        if phase is not cell.state and State.PAUSED not in (phase, cell.state):
            self._become(cell, phase)

    async def _live(self, cell: Cell) -> None:
        assert cell.scope is not None
        assert cell.following is not None
        try:
            with cell.scope:
                while True:
                    cell.again = False
                    with trio.CancelScope() as cell.life:
                        await self.live(cell.following)
                    if not cell.again:
                        break
        finally:
            if cell.feed is not None and cell.feed.handing_on:
                await cell.feed.give_back()  # ended just then: nobody takes it over
            cell.ended.set()

    def failed(self, exchange: str, error: LivermoreError) -> None:
        """What only a person can mend ended the feed of ``exchange``."""
        self._become(self.cell(exchange), State.FAILED, str(error))

    async def _end(self, cell: Cell) -> None:
        if cell.scope is not None:
            cell.scope.cancel()
            await cell.ended.wait()
        cell.scope = cell.following = None

    def _become(self, cell: Cell, state: State, why: str = "") -> None:
        if state is cell.state:
            return
        check_change(cell.exchange, cell.state, state)
        before, cell.state, cell.why, cell.since = cell.state, state, why, trio.current_time()
        self.told(Change(cell.exchange, before, state, why))
        self._changed.set()
        self._changed = trio.Event()

    async def next_change(self) -> None:
        """Wait until a feed becomes something else."""
        await self._changed.wait()
