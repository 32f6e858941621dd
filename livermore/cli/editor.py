"""A text in a person's editor, until it is right."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from livermore.config import editor
from livermore.errors import LivermoreError, UsageError

T = TypeVar("T")


@contextmanager
def edited(text: str, about: str, read: Callable[[str], T]) -> Iterator[T | None]:
    """What ``read`` makes of ``text`` after a person edited it; None where it was left as it is.

    What ``read`` complains about stands above the text when it is opened again. Where nothing comes
    of it, here or in the block, the text is kept in a file and the error says where.
    """
    handle, name = tempfile.mkstemp(prefix="livermore-settings-", suffix=".json")
    os.close(handle)
    file = Path(name)
    try:
        yield _until_right(file, text, about, read)
    except LivermoreError as error:
        if not file.exists() or _without_notes(file.read_text()) == text:
            file.unlink(missing_ok=True)
            raise
        raise type(error)(f"{error} (your text is kept in {file})") from None
    file.unlink(missing_ok=True)


def _until_right(file: Path, text: str, about: str, read: Callable[[str], T]) -> T | None:
    notes, shown = [about, "Lines that begin with # are left away."], text
    while True:
        file.write_text("".join(f"# {note}\n" for note in notes) + shown)
        _open(file)
        try:
            after = _without_notes(file.read_text())
        except (OSError, UnicodeDecodeError):
            raise UsageError("the editor left no text: nothing was changed") from None
        if after == text:
            return None
        try:
            return read(after)
        except LivermoreError as error:
            if after == shown:  # whoever leaves it as it is gives up
                raise
            notes, shown = [about, f"WRONG: {error}", "Leave it as it is to give up."], after


def _open(file: Path) -> None:
    command = editor()
    try:
        done = subprocess.run([*shlex.split(command), str(file)], check=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"the editor {command!r} does not start ({error}): set EDITOR") from None
    if done.returncode:
        raise LivermoreError(f"the editor ended with {done.returncode}: nothing was changed")


def _without_notes(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith("#"))
