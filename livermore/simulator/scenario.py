"""A schedule of faults: a list of ``{"at": seconds, "fault": …}``, in a JSON or TOML file."""

from __future__ import annotations

import pathlib
import tomllib
from collections.abc import Container, Mapping
from typing import Any

import attrs
import msgspec

from livermore.errors import ConfigurationError
from livermore.simulator.faults import BOUNDS, KINDS, Fault, Kind, check, read_fault


@attrs.frozen
class Planned:
    at: float
    """Simulated seconds after the start."""
    fault: Fault


def read_scenario(
    source: pathlib.Path | list[dict[str, Any]] | None,
    listed: Container[str],
    channels: Container[str] | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> list[Planned]:
    """The faults to come; raises ConfigurationError naming the entry that is wrong.

    ``listed``: the symbols there are; ``channels``: the channels there are, None: any.
    """
    if source is None:
        return []
    name = str(source) if isinstance(source, pathlib.Path) else "scenario"
    entries = _loaded(source) if isinstance(source, pathlib.Path) else source
    if isinstance(entries, dict):
        entries = entries.get("faults")  # TOML has no list at its top: [[faults]]
    if not isinstance(entries, list):
        raise ConfigurationError(f"{name}: must be a list of faults ([[faults]] in TOML)")
    planned = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ConfigurationError(f"{name}: entry {number} is not an object")
        at: Any = entry.get("at")
        check(f"{name}: entry {number}: ", "at", at, BOUNDS["at"])
        try:
            planned.append(Planned(float(at), read_fault(entry, listed, channels, kinds)))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: entry {number}: {error}") from None
    return sorted(planned, key=lambda plan: plan.at)


def _loaded(path: pathlib.Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    try:
        if path.suffix == ".toml":
            return tomllib.loads(data.decode())
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
