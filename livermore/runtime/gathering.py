"""Which alerts are told together: those of one close, and those that are late.

Values in, groups out; moments are monotonic seconds, times epoch ms of the exchange's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from livermore.adapters.outbox import Row
from livermore.signals.alert import Alert
from livermore.signals.message import When

SETTLE = 3.0
"""Seconds after a candle's end for which the alerts of its close are gathered."""
STRAGGLE = 0.3
"""The same from the first that comes after that."""
CROWD = 5
"""More alerts than these at one close become one message."""
QUIET = 5.0
"""Seconds without another late alert after which the late ones are told; the same for those of a
close of which a crowd was told already."""
LONGEST = 60.0
"""Seconds after the first of them at which they are told in any case."""
CLOSES = 50
"""Closes that are remembered."""


@attrs.frozen
class Group:
    """What goes into one message, strongest first; ``repeated``: it may have been sent before."""

    rows: tuple[Row, ...]
    repeated: bool


@attrs.define(eq=False)
class _Gathered:
    close_time: int | None
    """None: late ones, or what one message told that may have been sent before."""
    repeated: bool
    begun: float
    due: float
    rows: list[Row] = attrs.Factory(list)


@attrs.define
class Gathering:
    """What one channel is going to be told of alerts."""

    _gathered: dict[tuple[int | None, bool], _Gathered] = attrs.Factory(dict)
    _told: dict[int, int] = attrs.Factory(dict)
    """Close time -> alerts of it that :meth:`due` gave out."""

    def add(
        self, row: Row, alert: Alert, moment: float, now: int | None, *, repeated: bool
    ) -> None:
        """``alert`` came in ``row``.

        Messages go one after the other, so all that are ``repeated`` were one, and stay it.
        """
        late = When(now).late(alert)
        close_time = None if late or repeated else alert.close_time
        found = self._gathered.get((close_time, repeated))
        if found is None:
            due = moment + (QUIET if late else self._patience(alert, now))
            found = _Gathered(close_time, repeated, moment, due)
            self._gathered[close_time, repeated] = found
        elif late:
            found.due = min(moment + QUIET, found.begun + LONGEST)
        found.rows.append(row)

    def crowded(self, close_time: int) -> bool:
        """Whether so many of a close were given out that they are told together."""
        return self._told.get(close_time, 0) > CROWD

    def _patience(self, alert: Alert, now: int | None) -> float:
        if self.crowded(alert.close_time):
            return QUIET
        left = 0.0 if now is None else alert.close_time / 1000 + SETTLE - now / 1000
        return min(left, SETTLE) if left > 0 else STRAGGLE

    def take_out(self, stream_id: str) -> Group | None:
        """Forget an entry; None where it is not here."""
        for key, one in self._gathered.items():
            for row in [row for row in one.rows if row.id == stream_id]:
                one.rows.remove(row)
                if not one.rows:
                    del self._gathered[key]
                return Group((row,), one.repeated)
        return None

    def due(self, moment: float) -> Iterator[Group]:
        """What is to be told now; it is forgotten here. ``math.inf``: everything."""
        for key in [key for key, one in self._gathered.items() if one.due <= moment]:
            one = self._gathered.pop(key)
            rows = tuple(sorted(one.rows, key=_strength, reverse=True))
            crowd = one.close_time is None
            if one.close_time is not None:
                self._told[one.close_time] = self._told.get(one.close_time, 0) + len(rows)
                crowd = self.crowded(one.close_time)
                while len(self._told) > CLOSES:
                    del self._told[min(self._told)]
            groups = [rows] if crowd else [(row,) for row in rows]
            yield from (Group(group, one.repeated) for group in groups)

    @property
    def next_due(self) -> float:
        """When :meth:`due` has something."""
        return min((one.due for one in self._gathered.values()), default=math.inf)

    def __len__(self) -> int:
        return sum(len(one.rows) for one in self._gathered.values())


def _strength(row: Row) -> float:
    return row.entry.strength if isinstance(row.entry, Alert) else 0.0
