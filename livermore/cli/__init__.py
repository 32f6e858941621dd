"""The command line: one small module per group of commands; each parses, calls, prints.

Data goes to stdout, talk to stderr. A failure is one line, ``livermore: <message>``, and an exit
code: 0 ok, 1 error, 2 usage, 3 not running, 4 configuration, 5 taken, 6 gaps remain, 7 mismatch.
Ctrl-C and SIGTERM end every command, with 0.

Modules are imported at every start, so whatever is slow to import (Redis, Trio, numpy) is imported
inside the commands.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from livermore.errors import LivermoreError, StoreError, StoreUnusable, exit_code

INTERRUPTED = 130
"""What typer returns for a Ctrl-C; no command of ours does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (the console entry point exits with it)."""
    # A name or a sign that the terminal cannot show must not end a command.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _interruptible(at_the_end=arguments is None):
            code = _command(list(sys.argv[1:] if arguments is None else arguments))
            sys.stdout.flush()
    except KeyboardInterrupt:
        # Between the making of a coroutine and its first step there is a moment for a Ctrl-C.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        print("livermore: interrupted", file=sys.stderr)
        return 0
    except BrokenPipeError:
        # The reader has what it wanted. What is still buffered must not complain at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


@contextmanager
def _interruptible(*, at_the_end: bool) -> Iterator[None]:
    """SIGTERM is a Ctrl-C: leases are given back, and a private Valkey is not left alone.

    A shell lets what it starts with ``&`` ignore Ctrl-C; a SIGTERM has to end that too. Where the
    process ends as well, a second signal finds nothing to end and must not change the exit code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    ours = {
        signal.SIGINT: signal.default_int_handler,  # Trio puts its own in this one's place
        signal.SIGTERM: lambda *_: signal.raise_signal(signal.SIGINT),
    }
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if at_the_end else handler)


def _command(arguments: list[str]) -> int:
    from livermore.cli.app import app, usage_errors
    from livermore.config import asks_for_completions

    if completing := asks_for_completions():
        from typer._completion_classes import completion_init

        completion_init()
    try:
        if not arguments and not completing:
            app(["--help"], prog_name="livermore", standalone_mode=False)
            return 2
        result = app(arguments, prog_name="livermore", standalone_mode=False)
    except usage_errors as error:
        return complain(_said(error), 2)
    except LivermoreError as error:
        return complain(_with_next_step(error), exit_code(error))
    except SystemExit as error:
        # typer answers a closed pipe on its own, with an exit code that reads like a failure
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    except BaseExceptionGroup as group:
        # Nurseries wrap what happened in them; a person wants the one thing that is ours.
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        known, others = group.split((LivermoreError, BrokenPipeError))
        if known is None or others is not None:
            raise
        first = next(_leaves(known))
        if isinstance(first, BrokenPipeError):
            raise first from None
        assert isinstance(first, LivermoreError)
        return complain(_with_next_step(first), exit_code(first))
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def complain(message: str, code: int) -> int:
    """Say why, in one line on stderr, and hand the exit code on."""
    print("livermore: " + " ".join(message.split()), file=sys.stderr)
    return code


def _said(error: BaseException) -> str:
    """What the parser complains about, with the way to the command's help."""
    said = getattr(error, "format_message", lambda: str(error))() or "aborted"
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "livermore"
    return f"{said} (see: {path} --help)"


def _with_next_step(error: LivermoreError) -> str:
    """A store that does not answer is the one failure whose message cannot know the next step."""
    if isinstance(error, StoreError) and not isinstance(error, StoreUnusable):
        return f"{error} (next: livermore doctor)"
    return str(error)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
