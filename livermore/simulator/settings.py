"""What a simulator is told before it starts."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import attrs

from livermore.errors import ConfigurationError

EXCHANGES = ("coinbase",)


@attrs.frozen
class Limits:
    """What the exchange allows. Requests and messages count per client address, in real seconds:
    a client paces itself by its own clock, whatever the speed of the simulated one."""

    rest_rate: int = 10
    client_messages: int = 8
    connections: int = 8
    """New connections a second."""
    subscribe_within: float = 5.0
    """Real seconds until a connection without a subscription is dropped."""
    outbox_bytes: int = 32 * 1024 * 1024
    """Waiting bytes per connection, beyond which frames are dropped (not memory)."""


@attrs.frozen
class SimulatorSettings:
    """One simulated exchange."""

    exchange: str = attrs.field(default="coinbase")
    host: str = "127.0.0.1"
    port: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """REST and control; 0 is any free port. The websocket takes the next port, or any free one."""
    symbols: int = 25
    seed: int = 7
    speed: float = 1.0
    start: int | None = None
    """Simulated time (epoch ms) at the start; None is the wall clock's now."""
    history_days: int = 400
    replay: tuple[tuple[str, pathlib.Path], ...] = ()
    """(symbol, CSV file) pairs."""
    scenario: pathlib.Path | list[dict[str, Any]] | Literal["chaos"] | None = None
    """Faults to come: a JSON or TOML file, the list itself, or a schedule made of the seed."""
    rest_rate: int | None = None
    """Shorthand for ``limits.rest_rate``."""
    limits: Limits = attrs.field(factory=Limits)

    @exchange.validator
    def _known_exchange(self, _: object, value: str) -> None:
        if value not in EXCHANGES:
            raise ConfigurationError(
                f"simulator: cannot play {value!r}, only {', '.join(EXCHANGES)}"
            )

    def __attrs_post_init__(self) -> None:
        for name, low, high in (
            ("symbols", 1, 2_000),
            ("speed", 0.001, 10_000),
            ("history_days", 2, 2_000),
            ("port", 0, 65_534),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigurationError(f"simulator: {name} is {value}, use {low} to {high}")

    @property
    def requests_per_second(self) -> int:
        return self.limits.rest_rate if self.rest_rate is None else self.rest_rate
