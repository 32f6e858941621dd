"""How long to wait before the next try."""

from __future__ import annotations

import attrs


@attrs.define
class Backoff:
    """Delays in seconds, ``first`` doubling to ``most``, spread so that many do not come at once.

    ``chance`` is a source of numbers in [0, 1).
    """

    first: float = 1.0
    most: float = 60.0
    failures: int = 0

    def next(self, chance: float) -> float:
        """The delay before the next try, counted from the failure now."""
        delay = min(self.most, self.first * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return delay * (0.75 + 0.5 * chance)

    def reset(self) -> None:
        """A healthy run: the next failure waits shortly again."""
        self.failures = 0
