"""``livermore db``: make our tables, tell what differs, write the rows of the exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from livermore.cli import output
from livermore.cli.database import open_database
from livermore.cli.options import Country, Json, Place, placed

if TYPE_CHECKING:
    from livermore.adapters.schema import Step

DRIFT = 7
PATIENCE = 600.0
"""Seconds a change of the schema may take: tables may be large."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        rich_markup_mode="markdown",
        epilog="Example: `livermore db apply`, `livermore db check --json`.",
    )
    group.command(
        "apply",
        epilog="Example: `livermore db apply --dry-run`, `livermore db apply`. Exit code 7 when it "
        "stops because something would be dropped or changed; then nothing was applied.",
    )(placed(apply))
    group.command(
        "check",
        epilog="Example: `livermore db check`, `livermore db check --json`. Exit code 7 where the "
        "two differ.",
    )(placed(check))
    group.command(
        "seed",
        epilog="Example: `livermore db seed --country US`. What the operator wrote into "
        "exchange_overrides stays.",
    )(placed(seed))
    app.add_typer(group, name="db", help="The PostgreSQL of LIVERMORE_DATABASE_URL.")


def apply(
    place: Place,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the statements, as SQL.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where that loses data or rules.")
    ] = False,
    json: Json = False,
) -> int:
    """Make the tables, or add what is missing: all of it or nothing."""
    from livermore.adapters import schema

    with open_database(place.settings(), "db apply", timeout=PATIENCE) as database:
        steps = database.run(
            schema.drift if dry_run else lambda connection: schema.apply(connection, force=force)
        )
        shown = database.shown
    stopped = not force and any(step.destructive for step in steps)
    if json:
        _document(steps, ok=not stopped, applied=not (dry_run or stopped))
    elif dry_run or stopped:
        _show(steps)
    if stopped:
        step = "look at it, save what you need, then: livermore db apply --force"
        output.say(f"{shown}: this would lose data or rules, nothing was applied: {step}")
        return DRIFT
    if not steps:
        output.say(f"{shown}: nothing to do, the schema is that of this version")
    elif dry_run:
        output.say(f"{shown}: {_many(steps)} to run; nothing was applied")
    else:
        output.say(f"{shown}: {_many(steps)} applied; next: livermore db seed")
    return 0


def check(place: Place, json: Json = False) -> int:
    """Compare the database with the schema of this version; nothing is changed."""
    from livermore.adapters import schema

    with open_database(place.settings(), "db check") as database:
        steps = database.run(schema.drift)
        shown = database.shown
    if json:
        _document(steps, ok=not steps)
    else:
        _show(steps)
    if not steps:
        output.say(f"{shown}: the schema is that of this version")
        return 0
    output.say(f"{shown}: it differs; {_many(steps)} would mend it: livermore db apply")
    return DRIFT


def seed(place: Place, country: Country = None, json: Json = False) -> int:
    """Write what is known of each exchange: URLs, limits, fees, where it serves."""
    from livermore.adapters import exchange_rows
    from livermore.exchanges import DIALECTS

    settings = place.settings(country=country)
    with open_database(settings, "db seed") as database:
        done = database.run(
            lambda connection: exchange_rows.seed(connection, DIALECTS.values(), settings.country)
        )
    if json:
        output.document(done)
    else:
        for name, what in done.items():
            output.line(f"{name}  {what}")
    return 0


def _document(steps: Sequence[Step], **more: bool) -> None:
    output.document({**more, "steps": [attrs.asdict(step) for step in steps]})


def _show(steps: Sequence[Step]) -> None:
    for step in steps:
        mark = "-- destructive:\n" if step.destructive else ""
        output.line(f"{mark}{step.statement};")


def _many(steps: Sequence[Step]) -> str:
    return "1 statement" if len(steps) == 1 else f"{len(steps)} statements"
