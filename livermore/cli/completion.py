"""``livermore completion``: what a shell needs to complete commands, options and names."""

from __future__ import annotations

from typing import Annotated

import typer

from livermore.cli import output
from livermore.config import COMPLETION_VARIABLE
from livermore.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "completion",
        epilog="Example: `livermore completion bash > ~/.local/share/bash-completion/completions/"
        "livermore`, `livermore completion zsh > ~/.zfunc/_livermore`, "
        "`livermore completion fish > ~/.config/fish/completions/livermore.fish`.",
    )(completion)


def completion(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="SHELL",
            help="bash, zsh or fish.",
            autocompletion=lambda incomplete: [one for one in SHELLS if one.startswith(incomplete)],
        ),
    ],
) -> int:
    """Print a completion script for a shell."""
    from typer._completion_shared import get_completion_script

    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell[:20]!r}: bash, zsh or fish")
    output.line(
        get_completion_script(prog_name="livermore", complete_var=COMPLETION_VARIABLE, shell=shell)
    )
    return 0
