"""``livermore doctor``: what would keep ``livermore run`` from working, and what to do about it.

It only looks: nothing is started, written or left behind.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Json, Place, placed
from livermore.errors import (
    ConfigurationError,
    ConnectionLost,
    LivermoreError,
    MalformedMessage,
    Refused,
    StoreError,
)

if TYPE_CHECKING:
    from livermore.config import Settings
    from livermore.dialect import Dialect

PASS, WARN, FAIL = "pass", "warn", "fail"
COLOURS = {PASS: "green", WARN: "yellow", FAIL: "red"}

CANDLE_BYTES = 230
"""Memory per stored candle (measured on Valkey with real candles)."""
KEPT, SERIES_PER_SYMBOL = 1000, 5
OLDEST_PYTHON = (3, 11)
OLDEST_REDIS = 7
CLOCK_OFF = 2000
"""ms by which our clock may differ from the exchange's; nothing depends on it but what logs say."""
DISK_WANTED = 200 * 2**20
MIB = 2**20


@attrs.frozen
class Finding:
    """One line of the report; ``step`` is what to do, where something is to be done."""

    check: str
    verdict: str
    text: str
    step: str | None = None
    exchange: str | None = None
    """None where it is about this machine or Redis."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        epilog="Example: `livermore doctor`, `livermore doctor --redis-url redis://localhost`. "
        "Exit code 1 when something fails.",
    )(placed(doctor))


def doctor(
    place: Place,
    exchange: Annotated[
        list[str] | None,
        typer.Option(
            "--exchange",
            "-e",
            metavar="NAME",
            help="The way to this one (repeatable).  [default: those of the settings, or coinbase]",
        ),
    ] = None,
    country: options.Country = None,
    rest_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Another REST server, such as a simulator; of several exchanges "
            "coinbase=URL (repeatable).",
        ),
    ] = None,
    websocket_url: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Another WebSocket server, likewise.")
    ] = None,
    json: Json = False,
) -> int:
    """Check this machine, Redis and the way to the exchange."""
    settings = place.settings(
        exchanges=tuple(exchange) if exchange else None,
        country=country,
        rest_url=rest_url or None,
        websocket_url=websocket_url or None,
    )
    if not settings.exchanges:
        settings = attrs.evolve(settings, exchanges=(store.DEFAULT_EXCHANGE,))
    settings.check_exchanges()
    found: list[Finding] = []
    if not json and sys.stdout.isatty():
        # Some answers take seconds: show each as it comes.
        for finding in findings(settings):
            found.append(finding)
            _show(finding)
    else:
        found.extend(findings(settings))
        if json:
            output.document({"ok": all(f.verdict != FAIL for f in found), "checks": _rows(found)})
        else:
            for finding in found:
                _show(finding)
    return 1 if any(finding.verdict == FAIL for finding in found) else 0


def findings(settings: Settings) -> Iterator[Finding]:
    """Everything there is to look at, in order."""
    from livermore.exchanges import dialect

    yield python_version()
    yield state_directory(settings.state_dir)
    yield from redis_server(settings)
    if settings.database_url is not None:
        yield database(settings.database_url, settings.exchanges)
    for name in settings.exchanges:
        for finding in exchange_endpoints(settings, dialect(name)):
            text = f"{name}: {finding.text}" if len(settings.exchanges) > 1 else finding.text
            yield attrs.evolve(finding, text=text, exchange=name)


def _rows(found: list[Finding]) -> list[dict[str, Any]]:
    return [attrs.asdict(finding) for finding in found]


def _show(finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=4)
    grid.add_column(width=15)
    grid.add_column(overflow="fold")
    grid.add_row(
        Text(finding.verdict, style=COLOURS[finding.verdict]),
        Text(finding.check, style="bold"),
        Text(finding.text),
    )
    if finding.step:
        grid.add_row("", "", Text(f"→ {finding.step}"))
    output.show(grid)


def python_version() -> Finding:
    """Python itself."""
    ours = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", PASS, ours)
    return Finding("Python", FAIL, f"{ours} is too old", "install Python 3.11 or newer")


def state_directory(directory: Path) -> Finding:
    """Whether we could write there, and whether there is room."""
    check = "state directory"
    exists = directory
    while not exists.exists() and exists != exists.parent:
        exists = exists.parent
    if not exists.is_dir():
        return Finding(check, FAIL, f"{exists} is not a directory", "choose another --state-dir")
    if not os.access(exists, os.W_OK | os.X_OK):
        return Finding(check, FAIL, f"{exists} is not writable", "choose another --state-dir")
    free = shutil.disk_usage(exists).free
    if free < DISK_WANTED:
        return Finding(check, WARN, f"{directory}: {free // MIB} MiB free", "make room on its disk")
    made = "" if exists == directory else " (not there yet: it will be made)"
    return Finding(check, PASS, f"{directory} is writable, {free // MIB} MiB free{made}")


def redis_server(settings: Settings) -> Iterator[Finding]:
    """Whether Redis answers, is new enough, keeps what it holds, and has room."""
    from livermore.adapters.redis import Client
    from livermore.adapters.valkey import find_private_valkey, valkey_binary

    url = settings.redis_url
    try:
        url = url or find_private_valkey(settings.state_dir)
        if url is None:
            valkey_binary()
            yield Finding(
                "Redis", PASS, "none is configured: `livermore run` will start a private Valkey"
            )
            return
        client = Client(url)
    except ConfigurationError as error:
        yield Finding("Redis", FAIL, str(error), "give another --redis-url, or none")
        return
    try:
        info = client.info()
        yield from judged(info, lambda: _saves(client), planned_bytes(settings))
    except StoreError as error:
        step = "check that it runs and that its address and password are right"
        yield Finding("Redis", FAIL, str(error), step)
    finally:
        client.close()


def database(url: str, exchanges: Sequence[str]) -> Finding:
    """Whether PostgreSQL answers, with the schema of this version."""
    from livermore.adapters import schema
    from livermore.adapters.postgres import Database

    check = "database"
    try:
        opened = Database(url)
        try:
            beyond = opened.run(lambda connection: schema.check(connection, exchanges))
        finally:
            opened.close()
    except LivermoreError as error:
        text, _, step = str(error).rpartition(": ")
        return Finding(check, FAIL, text, step)
    if beyond:
        text = f"{opened.shown} holds more than our schema: {beyond[0].statement} would end that"
        return Finding(check, WARN, text, "livermore db check shows it all")
    return Finding(check, PASS, f"{opened.shown} has the schema of this version")


def judged(
    info: Mapping[str, Any], saves: Callable[[], bool | None], planned: int
) -> Iterator[Finding]:
    """What INFO says, judged. ``saves`` tells whether snapshots are configured (None: unknown)."""
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "?")
    major = version.partition(".")[0]
    if name == "Redis" and major.isdigit() and int(major) < OLDEST_REDIS:
        yield Finding(
            "Redis", FAIL, f"Redis {version} is too old", "use Redis 7 or newer, or Valkey"
        )
    else:
        yield Finding("Redis", PASS, f"{name} {version} answers")
    if info.get("role") == "slave":
        yield Finding("role", FAIL, "a read-only replica", "give the URL of its primary")

    policy = str(info.get("maxmemory_policy", "unknown"))
    limit = int(info.get("maxmemory") or 0)
    if policy != "noeviction":
        # Without a limit nothing is ever evicted; with one, candles would vanish without a word.
        step = "CONFIG SET maxmemory-policy noeviction"
        yield Finding("eviction", FAIL if limit else WARN, f"maxmemory-policy is {policy}", step)
    else:
        yield Finding("eviction", PASS, "noeviction")

    if info.get("aof_enabled") in (1, "1"):
        yield Finding("persistence", PASS, "append-only file")
    elif (saved := saves()) is not False:
        text = "snapshots" if saved else "unknown: CONFIG GET is refused"
        step = "turn the append-only file on to lose less in a crash"
        yield Finding("persistence", PASS if saved else WARN, text, None if saved else step)
    else:
        step = "CONFIG SET appendonly yes, or accept that a restart downloads history again"
        yield Finding("persistence", WARN, "it forgets everything when it restarts", step)

    used = int(info.get("used_memory") or 0)
    need = f"about {-(-planned // MIB)} MiB for the planned series"
    if limit and limit - used < planned:
        left = f"{max(0, limit - used) // MIB} MiB left under maxmemory"
        yield Finding("memory", FAIL, f"{left}, {need}", "raise maxmemory or follow fewer symbols")
    else:
        room = f"{(limit - used) // MIB} MiB left under maxmemory" if limit else "no maxmemory"
        yield Finding("memory", PASS, f"{need}; {room}, {used // MIB} MiB used now")


def planned_bytes(settings: Settings) -> int:
    """Memory the followed series will take when they are full."""
    told = [settings.of(name) for name in settings.exchanges or ("",)]
    symbols = sum(len(own.symbols) if own.symbols is not None else own.top or 0 for own in told)
    return symbols * SERIES_PER_SYMBOL * KEPT * CANDLE_BYTES


def _saves(client: Any) -> bool | None:
    try:
        reply = client.one("CONFIG", "GET", "save")
    except StoreError:
        return None
    values = reply.values() if isinstance(reply, dict) else reply[1::2]
    return any(values)


def exchange_endpoints(settings: Settings, dialect: Dialect) -> Iterator[Finding]:
    """Whether REST and WebSocket answer, and how far our clock is off."""
    import trio

    from livermore import daemon
    from livermore.adapters.urls import websocket_address

    if settings.country is not None:
        try:
            daemon.check_served(dialect, settings.country)
        except Refused as error:
            yield Finding("country", FAIL, str(error), "see: livermore exchanges")
            return
        yield Finding("country", PASS, f"nothing is known against {settings.country}")
    own = settings.of(dialect.name)
    yield from trio.run(_rest_time, own.rest_url or dialect.rest_url, dialect)
    yield trio.run(_socket_opens, websocket_address(dialect, own.websocket_url), dialect)


STEP = "check network, DNS, firewall and certificates; a proxy is not used"


async def _rest_time(url: str, dialect: Dialect) -> list[Finding]:
    from livermore.adapters.http import Http

    request = dialect.time_request()
    try:
        async with Http(url) as http:
            before = time.time() * 1000
            reply = await http.get(request.path, request.params)
            after = time.time() * 1000
        refusal = dialect.refusal(reply.status, reply.headers, reply.body)
        if refusal is not None:
            final = isinstance(refusal, Refused)
            step = "another exchange, see: livermore exchanges" if final else "wait, then try again"
            return [Finding("REST", FAIL, f"{url} refuses: {refusal}", step)]
        theirs = dialect.read_time(reply.body)
    except MalformedMessage as error:
        return [Finding("REST", FAIL, f"{url} is not {dialect.title}: {error}", STEP)]
    except LivermoreError as error:
        return [Finding("REST", FAIL, str(error), STEP)]
    took = after - before
    answered = Finding("REST", PASS, f"{url} answered within {times.length(took)}")
    offset = (before + after) / 2 - theirs
    text = f"ours is {times.length(abs(offset))} {'ahead' if offset > 0 else 'behind'}"
    if abs(offset) <= CLOCK_OFF + took / 2:
        return [answered, Finding("clock", PASS, text)]
    step = "synchronise it (NTP); candles close by the exchange's clock all the same"
    return [answered, Finding("clock", WARN, text, step)]


async def _socket_opens(url: str, dialect: Dialect) -> Finding:
    from livermore.adapters.websocket import open_socket

    begun = time.monotonic()
    try:
        async with open_socket(url, maximum_message=dialect.maximum_message):
            took = (time.monotonic() - begun) * 1000
    except ConnectionLost as error:
        return Finding("WebSocket", FAIL, str(error), STEP)
    return Finding("WebSocket", PASS, f"{url} opened within {times.length(took)}")
