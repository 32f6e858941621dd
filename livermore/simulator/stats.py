"""What the simulator counts, for tests that ask whether a client behaved."""

from __future__ import annotations

from collections import Counter

import attrs


@attrs.define
class Stats:
    rest_requests: int = 0
    rest_429: int = 0
    rest_418: int = 0
    """Refused because the address is banned."""
    connections: int = 0
    """Open now."""
    connections_total: int = 0
    refused: int = 0
    """Connections turned away before a websocket was made."""
    frames: int = 0
    dropped_frames: int = 0
    """Frames an overfull outbox or a fault swallowed."""
    client_messages: int = 0
    rejected_messages: int = 0
    """Client messages beyond the rate."""
    over_rate: int = 0
    """Requests, connections and messages turned away because a client was too fast: no fault."""
    paths: Counter[str] = attrs.field(factory=Counter)

    def as_json(self) -> dict[str, object]:
        values = attrs.asdict(self, recurse=False)
        values["paths"] = dict(self.paths)
        return values
