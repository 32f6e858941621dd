"""The commands, and what stands before them."""

from __future__ import annotations

import typer

import livermore
from livermore.cli import (
    alerts,
    candles,
    chart,
    compare,
    completion,
    credentials,
    ctl,
    db,
    demo,
    doctor,
    exchanges,
    explain,
    fees,
    gaps,
    indicators,
    network,
    positions,
    replay,
    run,
    scan,
    settings,
    simulate,
    status,
    symbols,
    tail,
    unit,
    users,
    verify,
)
from livermore.cli.options import ConfigFile, RedisUrl, StateDir, remember

app = typer.Typer(
    name="livermore",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Live crypto market data that can be trusted.",
    epilog="Begin with `livermore demo` (no network, no settings) or `livermore run coinbase`.",
)

usage_errors: tuple[type[BaseException], ...] = (typer.BadParameter.__mro__[2], typer.Abort)
"""What the parser raises: the base class itself has moved between versions of typer."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"livermore {livermore.__version__}")
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Live crypto market data that can be trusted."""
    remember(context, {"redis_url": redis_url, "state_dir": state_dir, "config": config})


for _group in (
    run,
    ctl,
    status,
    network,
    exchanges,
    credentials,
    positions,
    fees,
    candles,
    indicators,
    scan,
    explain,
    compare,
    chart,
    alerts,
    symbols,
    gaps,
    verify,
    tail,
    replay,
    simulate,
    demo,
    users,
    settings,
    db,
    doctor,
    unit,
    completion,
):
    _group.register(app)
