"""``livermore ctl``: change what a daemon does while it runs, wherever its Redis is reached."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Json, Place, placed
from livermore.errors import LivermoreError, NotRunning, UsageError

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.config import Settings
    from livermore.control import Answer


def complete_exchange(incomplete: str) -> list[str]:
    """Exchanges that begin so."""
    from livermore.exchanges import DIALECTS

    return [name for name in sorted(DIALECTS) if name.startswith(incomplete)]


def complete_mode(incomplete: str) -> list[str]:
    """Modes that begin so."""
    from livermore.market.mode import Mode

    return [mode.value for mode in Mode if mode.value.startswith(incomplete)]


Exchange = Annotated[
    str | None,
    typer.Option(
        "--exchange", "-e", metavar="NAME", autocompletion=complete_exchange,
        help="The exchange it is meant for.  [default: the one that is followed]",
    ),
]  # fmt: skip
User = Annotated[
    str | None,
    typer.Option("--user", metavar="SUB", help="On whose behalf.  [default: nobody's]"),
]
Timeout = Annotated[
    str, typer.Option(metavar="TIME", help="Wait so long for what comes of it, such as 5m.")
]
Symbols = Annotated[
    list[str], typer.Argument(metavar="SYMBOL…", help="Such as SOL-USD; several are one command.")
]

SHORT, LONG = "30s", "5m"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="ctl",
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Change what runs while it runs.",
        epilog="Example: `livermore ctl pause`, `livermore ctl start -e binance`, "
        "`livermore ctl add-symbol SOL-USD ADA-USD`, `livermore ctl status --json`. "
        "Exit code 3 when nobody listens; commands are signed where LIVERMORE_CONTROL_SECRET is "
        "set, and daemons that have it take no others.",
    )
    for name, command, example in (
        ("start", start, "livermore ctl start --exchange binance"),
        ("stop", stop, "livermore ctl stop --exchange binance"),
        ("pause", pause, "livermore ctl pause"),
        ("resume", resume, "livermore ctl resume"),
        ("reload-settings", reload_settings, "livermore ctl reload-settings"),
        ("switch-mode", switch_mode, "livermore ctl switch-mode position-monitor"),
        ("add-symbol", add_symbol, "livermore ctl add-symbol SOL-USD ADA-USD"),
        ("remove-symbol", remove_symbol, "livermore ctl remove-symbol SOL-USD"),
        ("force-backfill", force_backfill, "livermore ctl force-backfill -s BTC-USD --since 2h"),
        ("clear-cache", clear_cache, "livermore ctl clear-cache -s BTC-USD"),
        ("status", status, "livermore ctl status --json"),
    ):
        group.command(name, epilog=f"Example: `{example}`")(placed(command))
    app.add_typer(group)


def start(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = LONG,
    json: Json = False,
) -> int:  # fmt: skip
    """Follow an exchange: by an instance that is idle."""
    if exchange is None:
        raise UsageError("ctl start needs an exchange: livermore ctl start --exchange coinbase")
    return _run(place, "start", exchange, {}, user, timeout, json)


def stop(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = SHORT,
    json: Json = False,
) -> int:  # fmt: skip
    """Follow an exchange no more; the process stays, and waits for commands."""
    return _run(place, "stop", exchange, {}, user, timeout, json)


def pause(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = SHORT,
    json: Json = False,
) -> int:  # fmt: skip
    """Close the sockets and repair nothing, until resumed; the exchange stays ours."""
    return _run(place, "pause", exchange, {}, user, timeout, json)


def resume(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = LONG,
    json: Json = False,
) -> int:  # fmt: skip
    """Go on after a pause, and repair what closed meanwhile."""
    return _run(place, "resume", exchange, {}, user, timeout, json)


def reload_settings(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = SHORT,
    json: Json = False,
) -> int:  # fmt: skip
    """Read file, environment and users again, and follow what they name now."""
    return _run(place, "reload-settings", exchange, {}, user, timeout, json)


def switch_mode(
    place: Place,
    mode: Annotated[
        str,
        typer.Argument(
            metavar="MODE", autocompletion=complete_mode, help="scalper-macdv or position-monitor."
        ),
    ],
    exchange: Exchange = None,
    user: User = None,
    timeout: Timeout = LONG,
    json: Json = False,
) -> int:
    """Follow only symbols that are held, or all again."""
    return _run(place, "switch-mode", exchange, {"mode": mode}, user, timeout, json)


def add_symbol(
    place: Place, symbols: Symbols, exchange: Exchange = None, user: User = None,
    timeout: Timeout = LONG, json: Json = False,
) -> int:  # fmt: skip
    """Follow more symbols; returns when their history is there."""
    names = _symbols(symbols)
    return _run(place, "add-symbol", exchange, {"symbols": names}, user, timeout, json)


def remove_symbol(
    place: Place, symbols: Symbols, exchange: Exchange = None, user: User = None,
    timeout: Timeout = SHORT, json: Json = False,
) -> int:  # fmt: skip
    """Follow fewer symbols; what is not followed any more goes from Redis."""
    names = _symbols(symbols)
    return _run(place, "remove-symbol", exchange, {"symbols": names}, user, timeout, json)


Some = Annotated[
    list[str] | None,
    typer.Option("--symbol", "-s", metavar="SYMBOL", help="This one (repeatable); else all."),
]


def force_backfill(
    place: Place,
    symbol: Some = None,
    timeframe: options.TimeframeName = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From 2h ago, or 2026-01-02T03:00:00Z, on.")
    ] = None,
    exchange: Exchange = None,
    user: User = None,
    timeout: Timeout = LONG,
    json: Json = False,
) -> int:
    """Fill gaps now."""
    payload: dict[str, Any] = {"symbols": _symbols(symbol or ())}
    if timeframe is not None:
        payload["timeframe"] = timeframe
    if since is not None:
        payload["since"] = times.since(since, store.now())
    return _run(place, "force-backfill", exchange, payload, user, timeout, json)


def clear_cache(
    place: Place, symbol: Some = None, exchange: Exchange = None, user: User = None,
    timeout: Timeout = LONG, json: Json = False,
) -> int:  # fmt: skip
    """Remove what is stored, and load it anew."""
    payload = {"symbols": _symbols(symbol or ())}
    return _run(place, "clear-cache", exchange, payload, user, timeout, json)


def status(
    place: Place, exchange: Exchange = None, user: User = None, timeout: Timeout = SHORT,
    json: Json = False,
) -> int:  # fmt: skip
    """Ask the daemon itself how a feed is."""
    return _run(place, "status", exchange, {}, user, timeout, json)


def _symbols(given: Sequence[str]) -> list[str]:
    names = (options.symbol(part) for text in given for part in text.split(","))
    return list(dict.fromkeys(names))


def _run(
    place: Place,
    kind: str,
    exchange: str | None,
    payload: Mapping[str, Any],
    user: str | None,
    timeout: str,
    json: bool,
) -> int:
    settings = place.settings(user=user)
    wait = _seconds(timeout)
    with store.open_store(settings) as client:
        name = options.known_exchange(exchange) if exchange else _followed(client)
        answer = tell(client, settings, name, kind, payload, timeout=wait, json=json)
    if json:
        output.document(
            {"exchange": name, "command": kind, "instance": answer.instance, "text": answer.text,
             "data": answer.data},
        )  # fmt: skip
    else:
        output.line(f"{name}: {answer.text}")
        if kind == "status":
            _show(answer.data)
    return 0


def tell(
    client: Client,
    settings: Settings,
    exchange: str,
    kind: str,
    payload: Mapping[str, Any],
    *,
    timeout: float,
    json: bool = False,
) -> Answer:
    """Send a command and say on stderr how far it is. Raises :class:`LivermoreError`."""
    from livermore.control import send

    def heard(text: str, data: Mapping[str, Any]) -> None:
        if not json or sys.stderr.isatty():
            output.say(f"{exchange}: {text}")

    try:
        return send(
            client, exchange, kind, payload,
            user=settings.user or "", secret=settings.control_secret, timeout=timeout, heard=heard,
        )  # fmt: skip
    except (NotRunning, UsageError):
        raise
    except LivermoreError as error:
        text = str(error)
        raise type(error)(text if text.startswith(exchange) else f"{exchange}: {text}") from None


def _followed(client: Client) -> str:
    """The one exchange that an instance follows, or did."""
    from livermore.control.registry import read_instances

    names = {one.exchange for seen in read_instances(client) for one in seen.instance.exchanges}
    if len(names) == 1:
        return names.pop()
    if names:
        raise UsageError(
            f"several exchanges are followed: --exchange wants one of {', '.join(sorted(names))}"
        )
    raise UsageError("no exchange is followed on this Redis: name one with --exchange")


def _seconds(text: str) -> float:
    from livermore.config import parse_duration

    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from None


def _show(data: Mapping[str, Any]) -> None:
    for name in ("condition", "note", "why"):
        if data.get(name):
            output.line(f"  {name}: {data[name]}")
    symbols = data.get("symbols") or ()
    if symbols:
        done, total = data.get("history", (0, 0))
        output.line(f"  {len(symbols)} symbols, history of {done} of {total} series is there")
