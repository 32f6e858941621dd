"""The text of the alert rules once more, as lists and loops: nothing is remembered or taken back.

Independent of ``livermore.signals``: rows are anything with ``open_time``, ``macdv``,
``histogram``, ``stage``, ``close``, ``observed`` and ``assumed``; ``macdv`` is None where withheld.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Found = tuple[int, str, float | str | None]
"""Open time, direction, level or stages."""
Row = Any


def alerts(
    checks: Sequence[tuple[str, Callable[..., tuple[list[Found], int | None]]]],
    rows: Sequence[Row],
    tf: int,
    since: int = 0,
) -> tuple[set[tuple[str, int, str, float | str | None]], int | None]:
    """What all ``checks`` (by name) alert, and where the series has to wait for REST, if at all."""
    found = {name: check(rows, tf, since) for name, check in checks}
    held = min((at for _, at in found.values() if at is not None), default=None)
    return {
        (name, *alert)
        for name, (several, _) in found.items()
        for alert in several
        if alert[0] + tf > since and (held is None or alert[0] < held)
    }, held


def level(levels: Sequence[float] | None = None, cooldown: int = 3):
    def check(rows: Sequence[Row], tf: int, since: int) -> tuple[list[Found], int | None]:
        highest = max([abs(row.macdv) for row in rows if row.macdv is not None], default=0)
        all_levels = levels or [float(n) for n in range(150, math.ceil(highest) + 100, 50)]
        disarmed: dict[str, set[float]] = {"up": set(), "down": set()}
        found: list[Found] = []
        for i, row in enumerate(rows):
            if row.macdv is None:
                continue
            before = previous(rows, i, tf)
            for direction, sign in (("up", 1), ("down", -1)):
                v = sign * row.macdv
                for one in list(disarmed[direction]):
                    if v <= one - 10:
                        disarmed[direction].remove(one)
                if before is None:
                    continue
                crossed = [one for one in all_levels if sign * before.macdv <= one < v]
                if not crossed:
                    continue
                most = max(crossed)
                armed = most not in disarmed[direction]
                disarmed[direction] |= {one for one in all_levels if one <= most}
                recent = [
                    at
                    for at, *rest in found
                    if rest == [direction, most] and row.open_time <= at + cooldown * tf
                ]
                if armed and not recent and row.observed >= 100:
                    if row.assumed and row.open_time + tf > since:
                        return found, row.open_time
                    found.append((row.open_time, direction, most))
        return found, None

    return check


def reversal(cooldown: int = 3):
    def check(rows: Sequence[Row], tf: int, since: int) -> tuple[list[Found], int | None]:
        found: list[Found] = []
        used = ""  # the excursion that had its alert: "low" or "high"
        for i, row in enumerate(rows):
            v, h = row.macdv, row.histogram
            if v is None:
                continue
            if abs(v) < 140 or (used == "low" and v > 0) or (used == "high" and v < 0):
                used = ""
            before = previous(rows, i, tf)
            if before is None:
                continue
            for side, direction, matched in (
                ("low", "up", before.macdv < -150 and v < -150 and h > 0.05 * abs(v)),
                ("high", "down", before.macdv > 150 and v > 150 and h < -0.03 * abs(v)),
            ):
                recent = [
                    at
                    for at, other, _ in found
                    if other == direction and row.open_time <= at + cooldown * tf
                ]
                if matched and used != side and not recent and row.observed >= 100:
                    if row.assumed and row.open_time + tf > since:
                        return found, row.open_time
                    found.append((row.open_time, direction, None))
                    used = side
        return found, None

    return check


def stage(from_: Sequence[str] | None = None, to: Sequence[str] | None = None, cooldown: int = 3):
    def check(rows: Sequence[Row], tf: int, since: int) -> tuple[list[Found], int | None]:
        found: list[Found] = []
        for i, row in enumerate(rows):
            before = previous(rows, i, tf)
            if row.macdv is None or before is None or row.stage == before.stage:
                continue
            if (from_ and before.stage not in from_) or (to and row.stage not in to):
                continue
            recent = [
                at
                for at, _, what in found
                if str(what).endswith(f"-> {row.stage}") and row.open_time <= at + cooldown * tf
            ]
            if not recent and row.observed >= 100:
                if row.assumed and row.open_time + tf > since:
                    return found, row.open_time
                down = row.stage == "oversold" or row.histogram < 0
                what = f"{before.stage} -> {row.stage}"
                found.append((row.open_time, "down" if down else "up", what))
        return found, None

    return check


def move(percent: float, candles: int, cooldown: int | None = None):
    pause = candles if cooldown is None else cooldown

    def check(rows: Sequence[Row], tf: int, since: int) -> tuple[list[Found], int | None]:
        closes = {row.open_time: row.close for row in rows}
        found: list[Found] = []
        for row in rows:
            times = [row.open_time - k * tf for k in range(candles + 1)]
            if row.macdv is None or not all(time in closes for time in times):
                continue
            moved = (row.close / closes[times[-1]] - 1) * 100
            direction = "up" if moved > 0 else "down"
            recent = [
                at
                for at, other, _ in found
                if other == direction and row.open_time <= at + pause * tf
            ]
            if abs(moved) >= percent and not recent and row.observed >= 100:
                if row.assumed and row.open_time + tf > since:
                    return found, row.open_time
                found.append((row.open_time, direction, None))
        return found, None

    return check


def previous(rows: Sequence[Row], i: int, tf: int) -> Row | None:
    """The reading of the slot right before, if there is one that is not withheld."""
    if i == 0 or rows[i - 1].open_time != rows[i].open_time - tf or rows[i - 1].macdv is None:
        return None
    return rows[i - 1]
