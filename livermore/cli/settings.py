"""``livermore settings``: what a user set, as one document in the database."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import output
from livermore.cli.database import open_database
from livermore.cli.options import Json, Place, placed
from livermore.cli.users import RELOAD, iso
from livermore.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from livermore.adapters.postgres import Database
    from livermore.adapters.users import User
    from livermore.profile.document import Change, Document

Whose = Annotated[
    str | None,
    typer.Option(
        "--user", "-u", metavar="USER", help="Whose settings.  [default: those of the only user]"
    ),
]
PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="Such as runtime.log_level or alerts.deep.cooldown.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        rich_markup_mode="markdown",
        epilog="Example: `livermore settings show`, "
        "`livermore settings set runtime.log_level debug`.",
    )
    for name, command, epilog in (
        ("show", show, "Example: `livermore settings show --user alice`."),
        ("get", get, "Example: `livermore settings get runtime.log_level`."),
        (
            "set",
            set_,
            "Example: `livermore settings set runtime.log_level debug`, "
            "`livermore settings set symbols '[\"BTC-USD@coinbase\"]'`, "
            '`livermore settings set alerts.deep \'{"rule": "level", "levels": [200]}\'`, '
            "`livermore settings set alerts.deep null` (takes it away).",
        ),
        ("edit", edit, "Example: `EDITOR=nano livermore settings edit --user alice`."),
        ("export", export, "Example: `livermore settings export alice.json --user alice`."),
        (
            "import",
            import_,
            "Example: `livermore settings import alice.json --dry-run`. A file that ends in .toml "
            "is read as TOML, all others as JSON.",
        ),
        ("history", history, "Example: `livermore settings history --limit 5 --json`."),
    ):
        group.command(name, epilog=epilog)(placed(command))
    app.add_typer(group, name="settings", help="What a user set, kept in the database.")


# -- reading -----------------------------------------------------------------------------------


def show(place: Place, user: Whose = None, json: Json = False) -> int:
    """Show all settings of a user, also those that have their defaults."""
    from livermore.profile import document

    with _of(place, user) as (_, whose):
        said = _read(whose)
    whole = document.whole(said)
    if json:
        output.document(
            {"user": whose.sub, "revision": whose.revision, "said": said, "settings": whole}
        )
        return 0
    table = output.table("setting", "value", "", loose=("value",))
    named = {change.path for change in document.diff({}, said)}
    for path, value in _leaves({key: whole[key] for key in whole if key != "version"}):
        own = any(path == one or path.startswith(one + ".") for one in named)
        table.add_row(path, _shown(value), "" if own else "default")
    output.show(table)
    return 0


def get(place: Place, path: PathArgument, user: Whose = None, json: Json = False) -> int:
    """Print what holds at a path."""
    from livermore.profile import document

    with _of(place, user) as (_, whose):
        value = document.get(_read(whose), path)
    output.line(json_.dumps(value, ensure_ascii=False) if json else _shown(value))
    return 0


def export(
    place: Place,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to.  [default: stdout]")
    ] = None,
    user: Whose = None,
    json: Json = False,
) -> int:
    """Write what a user set as JSON, as `import` reads it."""
    from livermore.profile import document

    with _of(place, user) as (_, whose):
        text = document.text(whose.settings)
    if file is None:
        output.line(text.rstrip("\n"))
        return 0
    try:
        file.write_text(text)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from None
    if json:
        output.document({"user": whose.sub, "revision": whose.revision, "file": str(file)})
    else:
        output.line(f"{file}: settings of {whose.sub}, revision {whose.revision}")
    return 0


def history(
    place: Place,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Only the newest.")] = 20,
    user: Whose = None,
    json: Json = False,
) -> int:
    """List who changed what in a user's settings, newest first."""
    from livermore.adapters import users

    with _of(place, user) as (database, whose):
        found = database.run(lambda c: users.history(c, whose, limit + 1))
    for at, one in enumerate(found[:limit]):
        older = found[at + 1].settings if at + 1 < len(found) else {}
        changes = _changes(older, one.settings)
        if json:
            output.document(
                {
                    "user": whose.sub,
                    "revision": one.revision,
                    "time": iso(one.changed_at),
                    "by": one.changed_by,
                    "what": one.what,
                    "changes": [attrs.asdict(change) for change in changes],
                }
            )
            continue
        output.line(f"{one.revision}  {iso(one.changed_at)}  {one.changed_by}  {one.what}")
        for change in changes:
            output.line(f"    {_told(change)}")
    if not found:
        output.say(f"the settings of {whose.sub} were never changed")
    return 0


# -- changing ----------------------------------------------------------------------------------


def set_(
    place: Place,
    path: PathArgument,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="JSON, or text; null takes away what was said.")
    ],
    user: Whose = None,
    json: Json = False,
) -> int:
    """Change one setting."""
    from livermore.profile import document

    with _of(place, user) as (database, whose):
        made = document.set(whose.settings, path, _value(value))
        _write(database, whose, made, f"set {path}", json=json)
    return 0


def import_(
    place: Place,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote; - for stdin.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    user: Whose = None,
    json: Json = False,
) -> int:
    """Replace all settings of a user by those of a file."""
    from livermore.profile import document

    try:
        made = document.read(_parsed(_text(file), toml=file.suffix == ".toml"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    with _of(place, user) as (database, whose):
        if dry_run:
            _tell(whose, _changes(whose.settings, made), json=json)
            output.say("nothing was changed")
        else:
            _write(database, whose, made, f"import {file.name}", json=json)
    return 0


def edit(place: Place, user: Whose = None, json: Json = False) -> int:
    """Edit the settings of a user in $VISUAL or $EDITOR, as JSON."""
    from livermore.cli.editor import edited
    from livermore.profile import document

    with _of(place, user) as (database, whose):
        before = document.text(whose.settings)
        about = f"settings of {whose.sub}, revision {whose.revision}"
        with edited(before, about, lambda text: document.read(_parsed(text))) as made:
            if made is None or made == whose.settings:
                output.say("nothing was changed")
            else:
                _write(database, whose, made, "edit", json=json)
    return 0


# -- parts -------------------------------------------------------------------------------------


@contextmanager
def _of(place: Place, user: str | None) -> Iterator[tuple[Database, User]]:
    from livermore.adapters import users

    settings = place.settings(user=user)
    with open_database(settings, "settings") as database:
        yield database, database.run(lambda c: users.chosen(c, settings.user))


def _read(whose: User) -> Document:
    from livermore.profile import document

    try:
        return document.read(whose.settings)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"settings of {whose.sub}: {error} (livermore settings edit)"
        ) from None


def _write(database: Database, whose: User, made: Document, what: str, *, json: bool) -> None:
    from livermore.adapters import users
    from livermore.profile import document

    changes = _changes(whose.settings, made)
    if changes:
        meant = document.parse(made)
        uses = [
            users.Use(exchange=name, enabled=said.enabled, **dict(said.credentials))
            for name, said in meant.exchanges.items()
        ]
        whose = database.run(
            lambda c: users.write(
                c, whose, made, by=_by(), what=what, uses=uses, follows=meant.follows
            )
        )
    _tell(whose, changes, json=json)
    if changes:
        output.say(RELOAD)


def _changes(before: Document, after: Document) -> list[Change]:
    from livermore.profile import document

    # Whoever has not changed a word need not know of forms.
    return [change for change in document.diff(before, after) if change.path != "version"]


def _tell(whose: User, changes: list[Change], *, json: bool) -> None:
    if json:
        told = [attrs.asdict(change) for change in changes]
        output.document({"user": whose.sub, "revision": whose.revision, "changes": told})
    elif not changes:
        output.line("nothing is different")
    else:
        for change in changes:
            output.line(_told(change))


def _told(change: Change) -> str:
    before, after = ("–" if v is None else _shown(v) for v in (change.before, change.after))
    return f"{change.path}: {before} → {after}"


def _leaves(node: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value and key not in ("alerts", "channels"):
            yield from _leaves(value, f"{at}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for table in value:
                yield f"{key}.{table.get('name', table.get('rule', table.get('kind')))}", table
        else:
            yield f"{at}{key}", value


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "–" if value is None else json_.dumps(value, ensure_ascii=False)


def _value(text: str) -> Any:
    """JSON where it is, else the text."""
    try:
        return json_.loads(text)
    except (ValueError, RecursionError):
        return text


def _parsed(text: str, *, toml: bool = False) -> Any:
    import tomllib

    try:
        return tomllib.loads(text) if toml else json_.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if toml else "JSON"
        raise ConfigurationError(f"not valid {kind}: {' '.join(str(error).split())}") from None


def _text(file: Path) -> str:
    import sys

    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: cannot be read: not UTF-8 text") from None


def _by() -> str:
    """Who sits here."""
    import os
    import pwd
    import socket

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
