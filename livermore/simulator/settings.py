"""What a simulator is told before it starts."""

from __future__ import annotations

import pathlib
import ssl
from typing import Any, Literal

import attrs

from livermore.errors import ConfigurationError
from livermore.simulator.limits import Limits
from livermore.simulator.roster import played


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
    """Where nothing is said: the exchange's own."""
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """A server's context: REST, control and websockets are then served over TLS as well."""

    @exchange.validator
    def _known_exchange(self, _: object, value: str) -> None:
        played(value)

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
    def allowed(self) -> Limits:
        """What is allowed, whole."""
        whole = self.limits.over(played(self.exchange).limits)
        return whole if self.rest_rate is None else attrs.evolve(whole, rest_rate=self.rest_rate)
