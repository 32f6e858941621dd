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
    str | None,
    typer.Option(
        "--exchange", "-e", metavar="NAME", help="Only this exchange.  [default: all that run]"
    ),
]
OneExchange = Annotated[
    str | None,
    typer.Option(
        "--exchange", "-e", metavar="NAME", help="The exchange.  [default: the one that runs]"
    ),
]
Country = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="Where you are, such as US: exchanges that do not serve it are not asked.",
    ),
]
SymbolArgument = Annotated[
    str,
    typer.Argument(
        metavar="SYMBOL", help="Such as BTC-USD, or BTC-USDT@binance where several exchanges run."
    ),
]
Symbol = Annotated[
    str | None, typer.Option("--symbol", "-s", metavar="SYMBOL", help="Only this symbol.")
]
TimeframeName = Annotated[
    str | None,
    typer.Option("--timeframe", "-t", metavar="TF", help="Only this one of 5m 15m 1h 4h 1d."),
]
User = Annotated[
    str | None,
    typer.Option(
        "--user", "-u", metavar="NAME", help="Also what only this user follows.  [LIVERMORE_USER]"
    ),
]

_SHARED = {"redis_url": RedisUrl, "state_dir": StateDir, "config": ConfigFile}


@attrs.frozen
class Place:
    """Where a command should look: the shared options as they were given."""

    flags: Mapping[str, str | None]

    def of(self, user: str | None) -> Place:
        """The same for ``user``, where one is given."""
        return self if user is None else Place({**self.flags, "user": user})

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


def marked(text: str, exchange: str | None) -> tuple[str, str | None]:
    """Symbol and exchange of ``BTC-USDT@binance``, or of a symbol and ``--exchange``.

    Raises :class:`UsageError` for what is neither, and where they contradict each other.
    """
    name, mark, where = text.partition("@")
    wanted = None if exchange is None else known_exchange(exchange)
    found = known_exchange(where) if mark else wanted
    if wanted not in (None, found):
        raise UsageError(f"{text} and --exchange {wanted} contradict each other")
    return symbol(name), found


def limits(text: str | None, exchange: str | None) -> tuple[str | None, str | None]:
    """As :func:`marked`, of options that may both be left away."""
    if text is not None:
        return marked(text, exchange)
    return None, None if exchange is None else known_exchange(exchange)


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
