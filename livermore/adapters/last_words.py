"""A daemon's status in its state directory, for while Redis does not take it.

Commands of the same user read it there, so that an outage of Redis is told like any other.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

KEPT = 45.0
"""Seconds after which it says nothing of today any more: its daemon is gone."""


def path_in(state_dir: Path, exchange: str) -> Path:
    """Where it is."""
    return state_dir / f"status-{exchange}.json"


def leave(state_dir: Path, exchange: str, text: bytes) -> str:
    """Write it, all or nothing; returns why that is impossible, or nothing."""
    path = path_in(state_dir, exchange)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(text)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        return f"{path}: {error.strerror or error}"
    return ""


def take_back(state_dir: Path, exchange: str) -> None:
    """Remove it: Redis has the status again, or there is no daemon any more."""
    with contextlib.suppress(OSError):
        path_in(state_dir, exchange).unlink()


def read(state_dir: Path, exchange: str) -> tuple[bytes, float] | None:
    """The status and its age in seconds, unless it is too old or there is none."""
    path = path_in(state_dir, exchange)
    try:
        text, written = path.read_bytes(), path.stat().st_mtime
    except OSError:
        return None
    age = max(0.0, time.time() - written)
    return (text, age) if age < KEPT else None
