"""What an exchange allows."""

from __future__ import annotations

from typing import Any, Final

import attrs

USUAL: Final[Any] = None
"""As the exchange documents it."""


@attrs.frozen
class Limits:
    """What the exchange allows. Requests and messages count in real seconds: a client paces itself
    by its own clock, whatever the speed of the simulated one."""

    rest_rate: int = USUAL
    """Weight of requests in ``rest_window``, per client address."""
    client_messages: int = USUAL
    """A second, per client address or connection."""
    connections: int = USUAL
    """New connections in ``connection_window``, per client address."""
    subscribe_within: float = USUAL
    """Real seconds until a connection without a subscription is dropped; inf: never."""
    outbox_bytes: int = 32 * 1024 * 1024
    """Waiting bytes per connection, beyond which frames are dropped (not memory)."""
    rest_window: float = USUAL
    """Real seconds."""
    connection_window: float = USUAL
    """Real seconds."""
    streams: int = USUAL
    """Subscriptions of one connection."""
    ping_every: float = USUAL
    """Real seconds between the exchange's pings; inf: it sends none."""
    pong_within: float = USUAL
    """Real seconds without any answer to them after which a connection is dropped."""
    maximum_age: float = USUAL
    """Simulated seconds after which a connection is dropped; inf: never."""

    def over(self, usual: Limits) -> Limits:
        """These, and ``usual`` where nothing was said."""
        said = attrs.asdict(self, filter=lambda _, value: value is not USUAL)
        return attrs.evolve(usual, **said)
