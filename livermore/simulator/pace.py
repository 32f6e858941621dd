"""A sliding window per client address: how the exchange counts what clients send."""

from __future__ import annotations

from collections import deque


class Pace:
    """At most ``limit`` takes per ``window`` seconds for each address."""

    def __init__(self, limit: int, window: float = 1.0) -> None:
        self._limit = limit
        self._window = window
        self._taken: dict[str, deque[float]] = {}

    def take(self, address: str, now: float) -> bool:
        """Count one; False when it was one too many (which then does not count)."""
        taken = self._taken.setdefault(address, deque())
        while taken and taken[0] <= now - self._window:
            taken.popleft()
        if len(taken) >= self._limit:
            return False
        taken.append(now)
        return True

    def forget(self, address: str) -> None:
        """It is gone."""
        self._taken.pop(address, None)
