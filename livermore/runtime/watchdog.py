"""What the service manager hears of the feeds: ready, a line on how they are, and that they live.

The watchdog is fed by the writers' turns, idle ones and those that fail included: an exchange that
is down and a Redis that is away are no reason to be started anew, a writer that hangs is. Where
none runs (a feed that starts, stands by or waits for its next try) only the event loop can hang,
and that one runs as long as this task does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from livermore.adapters.systemd import LONGEST, Notifier, status
from livermore.runtime.feed import Feed

LOOK = 1.0
"""Seconds between two looks at the feeds, at most."""


async def notify(
    notifier: Notifier,
    feeds: Mapping[str, Feed],
    exchanges: Sequence[str],
    watchdog: float | None,
) -> None:
    """Tell the manager of ``feeds`` until cancelled; its patience is ``watchdog`` seconds, if any.

    Ready is who holds every lease, or stands by for it: an exchange that cannot be reached does not
    make a start fail. One that will not serve us does not either, beside others that run.
    """
    ready = False
    said = ""
    try:
        while True:
            reports = {name: feeds[name].report for name in exchanges if name in feeds}
            if not ready and len(reports) == len(exchanges):
                serve = all(one.epoch or one.standby or one.ended for one in reports.values())
                ready = serve and notifier.tell("READY=1")
            told = [one.condition(feeds[name].now()).line(name) for name, one in reports.items()]
            line = status("; ".join(fitting(told)) or ("starting" if exchanges else "idle"))
            if line != said and notifier.tell(line):
                said = line
            moment = trio.current_time()
            if watchdog is not None and all(one.alive(moment) for one in reports.values()):
                notifier.tell("WATCHDOG=1")
            await trio.sleep(LOOK if watchdog is None else min(LOOK, watchdog / 4))
    finally:
        notifier.tell("STOPPING=1")


def fitting(lines: Sequence[str]) -> Sequence[str]:
    """``lines``, each cut to its share where all together are longer than a status."""
    if len("; ".join(lines)) <= LONGEST:
        return lines
    room = LONGEST // len(lines) - len("; ")
    return [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
