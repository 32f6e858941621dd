"""What one value of a document may be, and the place of the one that may not."""

from __future__ import annotations

import functools
import operator
import re
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
import cattrs
from cattrs.cols import is_mapping
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn

from livermore.config import PREFIX, near, parsed
from livermore.errors import CommandRefused, UsageError
from livermore.exchanges import DIALECTS
from livermore.market.mode import Mode, parse_mode
from livermore.market.timeframe import Timeframe

Flag = Annotated[bool, "flag"]
Name = Annotated[str, "name"]
Zone = Annotated[str, "zone"]
Locale = Annotated[str, "locale"]
Currency = Annotated[str, "currency"]
Exchange = Annotated[str, "exchange"]
Variable = Annotated[str, "variable"]
Part = Annotated[str, "part"]
LogLevel = Annotated[str, "log level"]
Exchanges = Annotated[tuple[str, ...], "exchanges"]
Symbols = Annotated[tuple[str, ...], "symbols"]
Marked = Annotated[tuple[str, ...], "marked"]
Levels = Annotated[tuple[float, ...], "levels"]
Distance = Annotated[float, "distance"]
Timeframes = Annotated[tuple[str, ...], "timeframes"]

PARTS = ("key", "secret", "passphrase")
"""Of which credentials consist."""


class Wrong(ValueError):
    """A value that cannot be; the message says what is wanted."""


def converter() -> cattrs.Converter:
    """Structures tables strictly: each key is known, each value is read by its own reader."""
    made = cattrs.Converter(unstruct_collection_overrides={tuple: list})

    def reading(read: Callable[[object], Any]) -> Callable[[object, object], Any]:
        def hook(value: object, _: object) -> Any:
            try:
                return read(value)
            except ValueError as error:
                raise Wrong(str(error)) from None

        return hook

    def table(structure: Callable[..., Any]) -> Callable[[object, object], Any]:
        def hook(value: object, kind: object) -> Any:
            if not isinstance(value, dict):
                raise Wrong("a table is wanted")
            return structure(value, kind)

        return hook

    for kind, read in _READERS.items():
        made.register_structure_hook_func(functools.partial(operator.eq, kind), reading(read))
    made.register_structure_hook_factory(
        attrs.has,
        lambda cls: table(make_dict_structure_fn(cls, made, _cattrs_forbid_extra_keys=True)),
    )
    made.register_structure_hook_factory(
        is_mapping,
        lambda cls: table(make_mapping_structure_fn(cls, made, detailed_validation=True)),
    )
    return made


def complaint(error: BaseException) -> str:
    """In one line the path of the first thing that is wrong, and what is wanted there."""
    path: list[str] = []
    while isinstance(error, BaseValidationError):
        error = error.exceptions[0]
        notes = (AttributeValidationNote, IterableValidationNote)
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, notes):
                path.append(str(getattr(note, "name", None) or getattr(note, "index", "")))
                break
    if isinstance(error, ForbiddenExtraKeysError):
        [key, *_] = sorted(error.extra_fields)
        known = [field.name for field in attrs.fields(error.cl)]
        hint = near(key, known) or f" ({', '.join(known)})"
        return f"{'.'.join([*path, _short(key)])}: unknown key{hint}"
    what = str(error) if isinstance(error, Wrong) else "not understood"
    return f"{'.'.join(map(_short, path))}: {what}"


def _short(text: str) -> str:
    return text if re.fullmatch(r"[\w-]{1,40}", text) else repr(text)[:80]


def _text(wanted: str, pattern: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if (
            not isinstance(value, str)
            or not re.fullmatch(pattern, value)
            or not value.isprintable()
        ):
            raise Wrong(f"{wanted} is wanted, not {_short(str(value))}")
        return value

    return read


def _exchange(value: object) -> str:
    if value not in DIALECTS:
        raise Wrong(
            f"unknown exchange {_short(str(value))}{near(str(value).lower(), DIALECTS)}"
            f" (known: {', '.join(sorted(DIALECTS))})"
        )
    return str(value)


def _zone(value: object) -> str:
    try:
        return zoneinfo.ZoneInfo(str(value)).key
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        hint = near(str(value), zoneinfo.available_timezones())
        raise Wrong(
            f"a timezone such as Europe/Berlin is wanted, not {_short(str(value))}{hint}"
        ) from None


def _variable(value: object) -> str:
    """Never quotes the value: it may be the secret itself."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", value):
        raise Wrong(
            "the name of an environment variable in capitals is wanted; the secret itself belongs "
            "into that variable"
        )
    if value.startswith(PREFIX):
        raise Wrong(f"names that begin with {PREFIX} are settings: choose another")
    return value


def _mode(value: object) -> Mode:
    try:
        return parse_mode(str(value))
    except CommandRefused as error:
        raise Wrong(str(error)) from None


def _part(value: object) -> str:
    if value not in PARTS:
        raise Wrong(f"unknown part of credentials{near(str(value), PARTS)} ({', '.join(PARTS)})")
    return str(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"true or false is wanted, not {_short(str(value))}")
    return value


def _number(value: object, least: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= 1e6:  # type: ignore[operator]
        raise Wrong(f"a number from {least:g} to 1000000 is wanted, not {_short(str(value))}")
    return float(value)  # type: ignore[arg-type]


def _levels(value: object) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("a list of positive numbers is wanted, such as [150, 200]")
    return tuple(sorted({_number(one, 0.01) for one in value}))


def _list(key: str) -> Callable[[object], tuple[str, ...]]:
    """A list as the setting ``key`` has it, that may be empty."""

    def read(value: object) -> tuple[str, ...]:
        if isinstance(value, Mapping):
            raise Wrong("a list of names is wanted, not a table")
        found: tuple[str, ...] = () if value in ([], ()) else parsed(key, value)
        return found

    return read


def _marked(value: object) -> tuple[str, ...]:
    symbols = _list("symbols")(value)
    for symbol in symbols:
        if "@" not in symbol:
            raise Wrong(f"{symbol}: say of which exchange it is, such as {symbol}@coinbase")
    return symbols


def _timeframes(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words:
        raise Wrong("a list of timeframes is wanted, such as [5m, 1h]")
    try:
        named = {Timeframe.parse(str(word).strip()) for word in words}
    except UsageError as error:
        raise Wrong(str(error)) from None
    return tuple(timeframe.value for timeframe in Timeframe if timeframe in named)


_READERS: Mapping[Any, Callable[[object], Any]] = {
    Flag: _flag,
    Name: _text("a name of up to 64 letters", r"\S(.{0,62}\S)?"),
    Locale: _text("a locale such as de-DE", r"[a-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,3}"),
    Currency: _text("a currency such as USD", r"[A-Z0-9]{2,10}"),
    Part: _part,
    Zone: _zone,
    Exchange: _exchange,
    Variable: _variable,
    LogLevel: lambda value: parsed("log_level", value),
    Mode: _mode,
    Exchanges: _list("exchanges"),
    Symbols: _list("symbols"),
    Marked: _marked,
    Levels: _levels,
    Distance: lambda value: _number(value, 0),
    Timeframes: _timeframes,
}
