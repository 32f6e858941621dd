"""Options that commands share, and how they become settings.

``--redis-url``, ``--state-dir`` and ``--config`` are understood before and after the command's
name; after it wins.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
import typer

from livermore.config import Settings, from_surroundings, parse_symbol
from livermore.errors import UsageError
from livermore.market.timeframe import Timeframe

RedisUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Redis or Valkey to use; without one, the private Valkey."),
]
StateDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where the private Valkey and our notes live.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Settings to read instead of ./livermore.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Exchange = Annotated[
    str, typer.Option("--exchange", "-e", metavar="NAME", help="The exchange to look at.")
]
Symbol = Annotated[
    str | None, typer.Option("--symbol", "-s", metavar="SYMBOL", help="Only this symbol.")
]
TimeframeName = Annotated[
    str | None,
    typer.Option("--timeframe", "-t", metavar="TF", help="Only this one of 5m 15m 1h 4h 1d."),
]

_SHARED = {"redis_url": RedisUrl, "state_dir": StateDir, "config": ConfigFile}


@attrs.frozen
class Place:
    """Where a command should look: the shared options as they were given."""

    flags: Mapping[str, str | None]

    def settings(self, **more: object) -> Settings:
        """The settings, with further flags of the command."""
        flags: dict[str, object] = {**self.flags, **more}
        config = flags.pop("config", None)
        return from_surroundings(flags, config if isinstance(config, str) else None)


def remember(context: typer.Context, given: Mapping[str, str | None]) -> None:
    """Keep the shared options given before the command's name."""
    context.obj = {name: value for name, value in given.items() if value is not None}


def placed(command: Callable[..., int]) -> Callable[..., int]:
    """Give ``command`` the shared options, as its first argument: a :class:`Place`."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _SHARED.items()
    ]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

    @functools.wraps(command)
    def with_place(**given: Any) -> int:
        before = given.pop("context").obj or {}
        after = {name: given.pop(name) for name in _SHARED}
        flags = {**before, **{name: value for name, value in after.items() if value is not None}}
        return command(Place(flags), **given)

    signature = inspect.Signature([*parameters, *shared, context], return_annotation=int)
    vars(with_place)["__signature__"] = signature
    with_place.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    del with_place.__wrapped__  # its annotations would be read instead
    return with_place


def known_exchange(name: str) -> str:
    """The exchange called ``name``; raises :class:`UsageError` naming the known ones."""
    from livermore.exchanges import dialect

    return dialect(name).name


def timeframes(text: str | None) -> tuple[Timeframe, ...]:
    """Those named in ``text`` (with commas), or all of them, shortest first."""
    if text is None:
        return tuple(Timeframe)
    named = {Timeframe.parse(word.strip()) for word in text.split(",")}
    return tuple(timeframe for timeframe in Timeframe if timeframe in named)


def symbol(text: str) -> str:
    """The symbol as it is stored; raises :class:`UsageError`."""
    try:
        return parse_symbol(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
