"""What the README says of every command is true of every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from livermore.cli.app import app

WITHOUT_JSON = {"chart", "completion", "service unit"}


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Path and command of all, groups among them."""
    for name, one in getattr(command, "commands", {}).items():
        yield " ".join((*path, name)), one
        yield from commands(one, *path, name)


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_an_example(path: str):
    one = ALL[path]
    assert f"livermore {path}" in (one.help or "") + (one.epilog or "")


@pytest.mark.parametrize("path", [path for path in ALL if not hasattr(ALL[path], "commands")])
def test_every_command_but_those_the_readme_names_has_json(path: str):
    taken = {word for one in ALL[path].params for word in one.opts}
    assert ("--json" in taken) == (path not in WITHOUT_JSON)
