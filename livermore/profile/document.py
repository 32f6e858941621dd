"""The document of a user's settings: JSON that holds what was said, changed by paths.

A path names a place: ``runtime.log_level``, ``exchanges.coinbase.enabled``. Tables of a list go by
their name: ``alerts.deep.cooldown``. A document is either right as a whole or not made at all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from livermore.config import near
from livermore.errors import ConfigurationError, UsageError
from livermore.profile import contents

Document = Mapping[str, Any]
Migration = Callable[[dict[str, Any]], dict[str, Any]]

VERSION = 1
"""Of the form documents have now."""
MIGRATIONS: Mapping[int, Migration] = {}
"""By version: what makes of such a document one of the next."""
LONGEST = 64 * 1024
"""Bytes of a document as JSON."""
DEEPEST = 8

_LISTS = {"alerts": "rule", "channels": "kind"}
"""Lists of tables -> the key that names a table which has no ``name``."""


@attrs.frozen
class Change:
    """What is said at a path; None where nothing is."""

    path: str
    before: Any
    after: Any


def migrated(
    said: Document, *, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS
) -> Document:
    """``said`` in the form of ``version``, which is the current one.

    Raises :class:`ConfigurationError` for one of a later program, and for one nobody can read.
    """
    found = said.get("version", version)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ConfigurationError(f"version: a whole number is wanted, such as {version}")
    if found > version:
        raise ConfigurationError(
            f"version: these settings have form {found}, and this livermore knows forms up to "
            f"{version}: update livermore"
        )
    document = copy.deepcopy(dict(said))
    while found < version:
        if found not in migrations:
            raise ConfigurationError(f"version: settings of form {found} are not known")
        document = migrations[found](document)
        found += 1
    return {**document, "version": version}


def read(said: object) -> Document:
    """A document that is right, in the current form; raises :class:`ConfigurationError`."""
    _check_storable(said)
    if not isinstance(said, dict):
        raise ConfigurationError("settings are a table")
    body = _body(_without_nothing(said))
    return {"version": VERSION, **_canonical(body, contents.whole(body))}


def parse(document: Document) -> contents.UserSettings:
    """What ``document`` means; raises :class:`ConfigurationError`."""
    return contents.parse(_body(document))


def whole(document: Document) -> Document:
    """``document`` with all it leaves away; raises :class:`ConfigurationError`."""
    return {"version": VERSION, **contents.whole(_body(document))}


def get(document: Document, path: str) -> Any:
    """What holds at ``path``, said or not; raises :class:`UsageError` where there is no such."""
    keys = _keys(path)
    node: Any = _opened(whole(document))
    for at, key in enumerate(keys, start=1):
        known = node if isinstance(node, dict) else {}
        if key not in known:
            hint = near(key, known) or (f" ({', '.join(known)})" if known else "")
            raise UsageError(f"{'.'.join(keys[:at])}: there is no such setting{hint}")
        node = known[key]
    return list(node.values()) if isinstance(node, _Tables) else node


def set(document: Document, path: str, value: Any) -> Document:
    """``document`` with ``value`` said at ``path``; None: nothing is said there any more.

    Raises :class:`UsageError` with the path and what is wanted.
    """
    return patch(document, {path: value})


def patch(document: Document, changes: Mapping[str, Any]) -> Document:
    """``document`` with all of ``changes`` (path -> value), see :func:`set`, or none of them."""
    try:
        made = dict(migrated(document))
        for path, value in changes.items():
            _check_storable(value)
            made = _changed(made, _keys(path), copy.deepcopy(value))
        return read(made)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None


def diff(before: Document, after: Document) -> list[Change]:
    """What leads from one to the other: a :func:`patch` with the ``after`` of each path."""
    known = [dict(table) for table in contents.DEFAULT_ALERTS]
    if "alerts" not in before and after.get("alerts", known) != known:
        before = {**before, "alerts": known}
    one, other = _opened(before), _opened(after)
    for key in _LISTS:
        if not _same_order(one.get(key), other.get(key)):
            one[key], other[key] = before.get(key), after.get(key)
    return list(_differences((), one, other))


def text(document: Document) -> str:
    """The document as a person edits it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# -- parts -------------------------------------------------------------------------------------


class _Tables(dict[str, Any]):
    """A list of tables, by their names."""


def _body(document: Document) -> dict[str, Any]:
    return {key: value for key, value in migrated(document).items() if key != "version"}


def _keys(path: str) -> tuple[str, ...]:
    keys = tuple(path.strip().split("."))
    if not all(keys) or not path.isprintable():
        raise UsageError(f"{path[:80]!r} is not a path: write one such as runtime.log_level")
    if keys[0] == "version" and keys != ("version",):
        raise UsageError(f"{path}: there is no such setting")
    return keys


def _name(key: str, table: Mapping[str, Any]) -> str:
    return str(table.get("name", table.get(_LISTS[key], "")))


def _opened(document: Document) -> dict[str, Any]:
    """A copy in which tables lie by their names, where each has one of its own."""
    made = copy.deepcopy(dict(document))
    for key in _LISTS:
        tables = made.get(key)
        if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
            named = _Tables((_name(key, table), table) for table in tables)
            made[key] = named if len(named) == len(tables) else tables
    return made


def _changed(document: Document, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    if keys == ("version",):
        raise UsageError("version: livermore itself keeps it")
    into = keys[0] in _LISTS and len(keys) > 1
    if into and keys[0] not in document:
        default = contents.DEFAULT_ALERTS if keys[0] == "alerts" else ()
        document = {**document, keys[0]: [dict(table) for table in default]}
    made = _opened(document) if into else copy.deepcopy(dict(document))
    node: Any = made
    for key in keys[:-1]:
        if isinstance(node, _Tables) and key not in node:
            raise UsageError(f"{keys[0]}.{key}: there is none{near(key, node)}")
        node = node.setdefault(key, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise UsageError(f"{'.'.join(keys)}: there is no such setting")
    if value is not None:
        node[keys[-1]] = value
    elif keys[-1] in node:
        del node[keys[-1]]
    else:
        get(document, ".".join(keys))  # nothing is said there, if there is such a place
    if isinstance(node, _Tables) and isinstance(value, dict) and _name(keys[0], value) != keys[1]:
        node[keys[1]] = {"name": keys[1], **value}
    return {key: _closed(key, value) for key, value in made.items()}


def _closed(key: str, tables: Any) -> Any:
    """The list of what was opened; raises :class:`UsageError` where names do not fit any more."""
    if not isinstance(tables, _Tables):
        return tables
    for name, table in tables.items():
        if isinstance(table, dict) and _name(key, table) != name:
            raise UsageError(
                f"{key}.{name}: it would be called {_name(key, table)[:40]!r}: "
                "add one of that name and take this one away"
            )
    return list(tables.values())


def _without_nothing(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    return {key: _without_nothing(value) for key, value in said.items() if value is not None}


def _canonical(said: dict[str, Any], meant: Mapping[str, Any]) -> dict[str, Any]:
    """What is said, as it is meant; empty tables say nothing."""
    made = {
        key: _canonical(value, meant[key]) if isinstance(value, dict) else meant[key]
        for key, value in said.items()
    }
    return {key: value for key, value in made.items() if value != {}}


def _same_order(one: Any, other: Any) -> bool:
    """Whether taking tables away and adding some at the end leads from one to the other."""
    if not isinstance(one, _Tables) or not isinstance(other, _Tables):
        return False
    kept = [name for name in one if name in other]
    return list(other)[: len(kept)] == kept


def _differences(
    path: tuple[str, ...], one: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[Change]:
    for key in dict.fromkeys((*one, *other)):
        before, after, here = one.get(key), other.get(key), (*path, key)
        if here[0] not in _LISTS:  # an empty table says as much as none
            before = {} if before is None and isinstance(after, dict) else before
            after = {} if after is None and isinstance(before, dict) else after
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(here, before, after)
        elif before != after:
            yield Change(".".join(here), before, after)


def _check_storable(said: Any) -> None:
    """That it is JSON, and that the database takes it; raises :class:`ConfigurationError`."""
    waiting = [(said, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ConfigurationError(f"settings are at most {DEEPEST} tables deep")
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            if not value.isprintable():
                raise ConfigurationError(f"{value[:40]!r} holds what cannot be printed")
        elif isinstance(value, float | int):
            if not abs(value) < 2**53:  # nor is a NaN
                raise ConfigurationError("a number is not finite, or too large")
        elif value is not None:
            raise ConfigurationError(f"{type(value).__name__} is nothing that JSON has")
    if len(json.dumps(said)) > LONGEST:
        raise ConfigurationError(f"settings are at most {LONGEST // 1024} KiB")
