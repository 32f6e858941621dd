"""How the feed of an exchange lives: its states, and which of them may follow which.

::

    idle ──start──> starting ──> warming ──> active          (a bug: back to starting)
      ^                │            │           │
      │                └── pause ───┴─── pause ─┴──> paused ──resume──> starting
      │                                                │
      └──── stopping <──────────── stop ───────────────┘
    failed: what only a person can mend; start tries again, stop forgets it
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from livermore.errors import CommandRefused


class State(enum.Enum):
    """Of the feed of one exchange in one process."""

    IDLE = "idle"
    """Nothing is connected and nothing is written."""
    STARTING = "starting"
    """It takes the lease, or waits for it, and learns what is listed."""
    WARMING = "warming"
    """It follows; some history is still missing."""
    ACTIVE = "active"
    PAUSED = "paused"
    """No sockets and no repairs; lease, status and control live on."""
    STOPPING = "stopping"
    """The last batch is written and the lease given back."""
    FAILED = "failed"


NEXT: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.STARTING}),
    State.STARTING: frozenset(
        {State.WARMING, State.ACTIVE, State.PAUSED, State.STOPPING, State.FAILED}
    ),
    State.WARMING: frozenset(
        {State.STARTING, State.ACTIVE, State.PAUSED, State.STOPPING, State.FAILED}
    ),
    State.ACTIVE: frozenset(
        {State.STARTING, State.WARMING, State.PAUSED, State.STOPPING, State.FAILED}
    ),
    State.PAUSED: frozenset({State.STARTING, State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.IDLE, State.FAILED}),
    State.FAILED: frozenset({State.STARTING, State.IDLE}),
}
"""State -> what may follow it."""

RUNS = frozenset({State.STARTING, State.WARMING, State.ACTIVE, State.PAUSED})
"""States in which there is a feed."""

_FROM: Mapping[str, frozenset[State]] = {
    "start": frozenset({State.IDLE, State.FAILED}),
    "stop": RUNS | {State.FAILED},
    "pause": RUNS - {State.PAUSED},
    "resume": frozenset({State.PAUSED}),
    "switch-mode": RUNS,
    "add-symbol": RUNS,
    "remove-symbol": RUNS,
    "force-backfill": RUNS - {State.STARTING, State.PAUSED},
    "clear-cache": RUNS - {State.STARTING, State.PAUSED},
}
"""Command -> states in which it makes sense; the others do in any."""

_STEPS: Mapping[State, str] = {
    State.IDLE: "start it first",
    State.STARTING: "wait until it follows its symbols",
    State.PAUSED: "resume it first",
    State.STOPPING: "wait until it is idle",
    State.FAILED: "mend that and start it",
}

ANNOUNCED: Mapping[State, str] = {
    State.IDLE: "exchange:disconnected",
    State.STARTING: "exchange:connecting",
    State.WARMING: "exchange:connected",
    State.ACTIVE: "exchange:active",
    State.PAUSED: "exchange:paused",
    State.STOPPING: "exchange:disconnecting",
    State.FAILED: "exchange:failed",
}
"""State -> what its beginning is called on the lifecycle channel."""


def check_change(exchange: str, before: State, after: State) -> None:
    """Raises :class:`CommandRefused` where ``after`` may not follow ``before``."""
    if after not in NEXT[before]:
        raise CommandRefused(f"{exchange} is {before.value}: it cannot become {after.value}")


def check_command(command: str, exchange: str, state: State) -> None:
    """Raises :class:`CommandRefused` where ``command`` makes no sense in ``state``."""
    if state in _FROM.get(command, frozenset(State)):
        return
    wanted = {"start": RUNS, "pause": {State.PAUSED}, "stop": {State.IDLE}}.get(command, ())
    if state in wanted:
        raise CommandRefused(f"{exchange} is {state.value} already")
    step = f": {_STEPS[state]}" if state in _STEPS and command != "resume" else ""
    raise CommandRefused(f"{exchange} is {state.value}, so {command} is not possible{step}")
