"""What all exchanges' messages have in common: values that may be anything, and words of others."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from livermore.errors import MalformedMessage

Shape = TypeVar("Shape")

LATEST = 253_402_300_800_000
"""Epoch ms up to the year 10000, the first that no calendar here can tell."""
MOST = 2**63
"""Ids, counters and sequence numbers below this are believed."""


def converted(value: object, kind: type[Shape]) -> Shape | None:
    """``value`` as a ``kind``, numbers in quotes included; None where it is none."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except ValueError:
        return None


def decoded(body: bytes, kind: type[Shape], exchange: str, what: str) -> Shape:
    """A reply as a ``kind``, numbers in quotes included; raises :class:`MalformedMessage`."""
    try:
        body.decode()  # msgspec does not look into the text it skips
        return msgspec.json.decode(body, type=kind, strict=False)
    except (ValueError, RecursionError) as error:  # deep nesting exhausts the stack
        raise MalformedMessage(
            f"{exchange}: unreadable {what} reply ({one_line(str(error), 80)})", body
        ) from None


def unreadable(exchange: str, error: Exception, frame: bytes | str) -> MalformedMessage:
    """What a frame that cannot be decoded is refused with."""
    if isinstance(error, RecursionError):
        return MalformedMessage(f"{exchange}: frame nested too deep", frame)
    return MalformedMessage(f"{exchange}: unreadable frame ({one_line(str(error), 80)})", frame)


def figure(value: str | float | None) -> float | None:
    """A figure that may be missing; an empty, unreadable or negative one is."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def one_line(text: str, length: int = 200) -> str:
    """Somebody else's words as part of a message of ours: printable, at most ``length`` letters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * length])
    return " ".join(printable.split())[:length].rstrip()


def query(params: Mapping[str, str]) -> str:
    """Parameters as they stand in a URL, and as they are signed."""
    return urlencode(params, quote_via=quote, safe="")


def retry_after(headers: Mapping[str, str], *, untold: float, least: float, most: float) -> float:
    """``Retry-After`` in seconds, within bounds; if it is a date, against the reply's ``Date``."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        return min(max(float(told), least), most)
    try:
        now = email.utils.parsedate_to_datetime(headers.get("date", ""))
        wait = (email.utils.parsedate_to_datetime(told) - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return untold
    return min(max(wait, least), most)
