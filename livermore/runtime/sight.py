"""A line in the log when a feed turns blind, and one when it sees again."""

from __future__ import annotations

from collections.abc import Callable

import trio

from livermore.market.timeframe import iso
from livermore.runtime.condition import Condition
from livermore.runtime.journal import Journal
from livermore.runtime.status import Report

LOOK = 1.0
"""Seconds between two looks."""


async def watch(report: Report, journal: Journal, clock: Callable[[], int | None]) -> None:
    """Say when the feed turns blind and when it sees again, until cancelled.

    A start is no blindness before something went wrong: what it does is in the log.
    """
    blind: tuple[float, Condition] | None = None
    while True:
        condition = report.condition(clock())
        if condition.state == "blind" and blind is None:
            blind = trio.current_time(), condition
            journal.warning(
                "blind", since=iso(condition.since), missing=condition.missing,
                why=condition.why, next=condition.next,
            )  # fmt: skip
        elif blind is not None and not condition.blind:
            begun, first = blind
            journal.info(
                "sees again", after_seconds=round(trio.current_time() - begun, 1),
                state=condition.state, was=first.missing, because=first.why,
            )  # fmt: skip
            blind = None
        await trio.sleep(LOOK)
