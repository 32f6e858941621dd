"""``livermore users``: who may have settings, symbols and alerts of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from livermore.cli import output
from livermore.cli.database import open_database
from livermore.cli.options import Json, Place, placed
from livermore.config import near, parse_user
from livermore.errors import UsageError

if TYPE_CHECKING:
    from livermore.adapters.users import User

Sub = Annotated[
    str, typer.Argument(metavar="USER", help="What the identity provider calls the user.")
]
RELOAD = "a running daemon takes it over with: livermore ctl reload-settings"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        rich_markup_mode="markdown",
        epilog="Example: `livermore users add alice`, `livermore users list --json`.",
    )
    group.command(
        "add",
        epilog="Example: `livermore users add alice`, "
        "`livermore users add 'auth0|5f7c' --provider auth0 --role admin`.",
    )(placed(add))
    group.command("list", epilog="Example: `livermore users list --json`.")(placed(list_))
    group.command(
        "disable",
        epilog="Example: `livermore users disable bob`. Settings and history stay.",
    )(placed(disable))
    group.command("enable", epilog="Example: `livermore users enable bob`.")(placed(enable))
    app.add_typer(group, name="users", help="Who has settings, symbols and alerts of their own.")


def add(
    place: Place,
    sub: Sub,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="The identity provider that knows the user.")
    ] = "local",
    role: Annotated[str, typer.Option(metavar="ROLE", help="user or admin.")] = "user",
    json: Json = False,
) -> int:
    """Add a user."""
    import re

    from livermore.adapters import users

    name = _user(sub)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", provider):
        raise UsageError(f"--provider {provider[:64]!r}: small letters, digits and _.- are wanted")
    if role not in users.ROLES:
        known = ", ".join(users.ROLES)
        raise UsageError(f"--role {role}: there is none{near(role, users.ROLES)} ({known})")
    with open_database(place.settings(), "users") as database:
        made = database.run(lambda c: users.add(c, name, provider=provider, role=role))
    if json:
        output.document(document(made))
    else:
        output.line(f"user {made.sub} is added")
        output.say(f"next: livermore settings edit --user {_shell(made.sub)}")
    return 0


def list_(place: Place, json: Json = False) -> int:
    """List all users."""
    from livermore.adapters import users

    with open_database(place.settings(), "users") as database:
        found = database.run(users.everyone)
    if json:
        for user in found:
            output.document(document(user))
        return 0
    table = output.table("user", "provider", "role", "state", "symbols", "changed")
    for user in found:
        table.add_row(
            user.sub,
            user.provider,
            user.role,
            "enabled" if user.enabled else "disabled",
            str(len(user.follows)),
            iso(user.updated_at),
        )
    if found:
        output.show(table, whole=True)
    else:
        output.say("there is no user yet: livermore users add NAME")
    return 0


def disable(place: Place, sub: Sub, json: Json = False) -> int:
    """Leave a user out: nothing is followed for them, nothing is sent to them."""
    return _enable(place, sub, enabled=False, json=json)


def enable(place: Place, sub: Sub, json: Json = False) -> int:
    """Let a user in again."""
    return _enable(place, sub, enabled=True, json=json)


def _enable(place: Place, sub: str, *, enabled: bool, json: bool) -> int:
    from livermore.adapters import users

    name = _user(sub)
    with open_database(place.settings(), "users") as database:
        user = database.run(lambda c: users.enable(c, name, enabled=enabled))
    if json:
        output.document(document(user))
    else:
        output.line(f"user {user.sub} is {'enabled' if enabled else 'disabled'}")
        output.say(RELOAD)
    return 0


def document(user: User) -> dict[str, Any]:
    """A user as JSON, without the settings."""
    return {
        "user": user.sub,
        "provider": user.provider,
        "role": user.role,
        "enabled": user.enabled,
        "symbols": sorted(f"{symbol}@{exchange}" for exchange, symbol in user.follows),
        "revision": user.revision,
        "created": iso(user.created_at),
        "changed": iso(user.updated_at),
    }


def iso(moment: Any) -> str:
    """A time of the database as all times are shown."""
    text: str = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return text


def _user(text: str) -> str:
    try:
        return parse_user(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
