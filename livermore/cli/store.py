"""The store as a command sees it: opened once, read synchronously, never written."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from livermore.cli import output
from livermore.cli.options import Place
from livermore.cli.words import Words, words_of
from livermore.config import Settings
from livermore.errors import (
    MalformedMessage,
    NotRunning,
    StoreError,
    UnknownSymbol,
    UsageError,
)
from livermore.market.candle import Series
from livermore.market.product import same_market, unknown_symbol
from livermore.market.timeframe import TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.adapters.store import Held

DEFAULT_EXCHANGE = "coinbase"
"""Where nothing runs, nothing is stored and nothing is set."""
STATUS_TTL = 45_000
"""How long a daemon's status outlives it (ms)."""


@contextmanager
def open_store(settings: Settings, exchange: str | None = None) -> Iterator[Client]:
    """The configured Redis, or the private Valkey if it runs; starts nothing.

    ``exchange`` is what a person asked for, if he said so: he is told how to start that.

    The private one stays while it is open, also when the daemon that started it ends.

    Raises :class:`NotRunning` when there is neither, :class:`StoreError` when it does not answer.
    """
    from livermore.adapters.redis import Client
    from livermore.adapters.valkey import join_private_valkey

    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(join_private_valkey(settings.state_dir))
        if url is None:
            name = exchange or next(iter(settings.exchanges), DEFAULT_EXCHANGE)
            raise NotRunning(
                f"no Redis is configured and no private Valkey runs in {settings.state_dir}; "
                f"start one with: livermore run {name} (or give --redis-url)"
            )
        client = Client(url)
        stack.callback(client.close)
        client.one("PING")
        yield client


@attrs.frozen
class Status:
    """What a running daemon last said about itself, and how long ago (ms)."""

    words: Words
    raw: dict[str, Any]
    """All of it, also what we do not know."""
    age: int
    standbys: tuple[str, ...] = ()
    """Processes that wait to take over."""

    @property
    def symbols(self) -> list[str]:
        """The symbols it follows."""
        return self.words.symbols or []

    def owner(self, symbol: str) -> str | None:
        """In whose keys ``symbol`` lives, "" for the shared pool; None where it is not followed."""
        return (self.words.owners or {}).get(symbol, "") if symbol in self.symbols else None


def read_status(client: Client, exchange: str) -> Status | None:
    """The daemon's status, or None when no daemon speaks for ``exchange``."""
    from livermore.adapters.store import status_key

    key = status_key(exchange)
    text, left = client.run([("GET", key), ("PTTL", key)])
    if text is None:
        return None
    return _status(key, exchange, text, max(0, STATUS_TTL - left) if left > 0 else 0)


def read_held(client: Client, exchange: str) -> Held | None:
    """Who holds ``exchange`` and who waits for it; None also where that cannot be read."""
    from livermore.adapters.store import held, held_calls

    replies = client.run_each(held_calls(exchange))
    return None if any(isinstance(reply, StoreError) for reply in replies) else held(replies)


def last_words(settings: Settings, exchange: str) -> Status | None:
    """The status that a daemon on this machine left for while Redis does not take it."""
    from livermore.adapters import last_words

    found = last_words.read(settings.state_dir, exchange)
    if found is None:
        return None
    text, age = found
    path = last_words.path_in(settings.state_dir, exchange)
    return _status(str(path), exchange, text, round(age * 1000))


def _status(where: str, exchange: str, text: bytes, age: int) -> Status:
    try:
        raw = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise MalformedMessage(f"{where} holds what is no status ({error})", text) from None
    return Status(words_of(exchange, raw), raw, age)


def running(client: Client) -> list[str]:
    """The exchanges of which a daemon speaks here."""
    from livermore.adapters.store import status_key
    from livermore.exchanges import DIALECTS

    replies = client.run([("EXISTS", status_key(name)) for name in DIALECTS])
    return [name for name, there in zip(DIALECTS, replies, strict=True) if there]


def exchanges(client: Client, settings: Settings, given: str | None) -> list[str]:
    """The ``given`` exchange, or all that run; where none does, those that candles are stored of.

    And where there is nothing at all, those of the settings, or Coinbase.
    """
    if given is not None:
        return [given]
    if found := running(client):
        return found
    from livermore.adapters.store import parse_candles_key

    series = (parse_candles_key(name) for name in _names(client, "candles:*"))
    stored = sorted({one.exchange for one in series if one is not None})
    return stored or list(settings.exchanges) or [DEFAULT_EXCHANGE]


def sole_exchange(client: Client, settings: Settings, given: str | None) -> str:
    """As :func:`exchanges`, where it has to be one; raises :class:`UsageError`."""
    found = exchanges(client, settings, given)
    if len(found) > 1:
        raise UsageError(
            f"there are several exchanges here, {', '.join(found)}: say which, such as "
            f"--exchange {found[0]}"
        )
    return found[0]


def of_one(place: Place, given: str | None, **flags: object) -> Settings:
    """The settings of a command that works for one exchange; as :func:`sole_exchange`."""
    settings = place.settings(exchanges=None if given is None else (given,), **flags)
    if given is None:
        names: Sequence[str] = ()
        with suppress(NotRunning), open_store(settings) as client:
            names = [sole_exchange(client, settings, None)]
        names = names or settings.exchanges or [DEFAULT_EXCHANGE]
        if len(names) > 1:
            raise UsageError(f"say which exchange, such as --exchange {names[0]}")
        settings = attrs.evolve(settings, exchanges=(names[0],))
    settings.check_urls(settings.exchanges)
    return settings


def having(
    client: Client, names: Sequence[str], symbol: str, user: str | None = None
) -> list[tuple[str, str, Status | None]]:
    """Those of the exchanges that ``symbol`` is followed or stored of: with its name there.

    Raises :class:`UnknownSymbol` or :class:`NotRunning` when there is none.
    """
    found, errors = [], []
    for exchange in names:
        status = read_status(client, exchange)
        try:
            known = known_symbol(client, exchange, symbol, status, user)
            found.append((exchange, known, status))
        except (UnknownSymbol, NotRunning) as error:
            errors.append(error)
    if not found:
        raise min(errors, key=lambda error: isinstance(error, NotRunning))
    return found


def look_at(
    client: Client, settings: Settings, symbol: str | None, given: str | None
) -> list[tuple[str, str | None, Status | None]]:
    """The ``given`` exchange or all that there are here: with the name of ``symbol`` there, if any.

    Raises as :func:`having`.
    """
    names = exchanges(client, settings, given)
    if symbol is None:
        return [(name, None, read_status(client, name)) for name in names]
    return [*having(client, names, symbol, settings.user)]


def find(
    client: Client, settings: Settings, symbol: str, given: str | None
) -> tuple[str, str, Status | None]:
    """The exchange ``symbol`` is followed or stored of, its name there, and what runs there.

    Raises :class:`UsageError` where that are several, and as :func:`having`.
    """
    found = having(client, exchanges(client, settings, given), symbol, settings.user)
    if len(found) > 1:
        named = [f"{name}@{exchange}" for exchange, name, _ in found]
        raise UsageError(f"{symbol} is here more than once: say {' or '.join(named)}")
    return found[0]


def now(status: Status | None = None) -> int:
    """The exchange's time as its daemon knows it, or ours."""
    if status is not None and (clock := status.words.exchange_time) is not None:
        return clock
    return round(time.time() * 1000)


def stored_series(client: Client, exchange: str, user: str | None = None) -> list[Series]:
    """Every series of ``exchange`` that has candles, by symbol, shortest timeframe first.

    Those of ``user`` as well, where they are not in the pool that all share.
    """
    from livermore.adapters.store import parse_candles_key

    ours: dict[tuple[str, Timeframe], Series] = {}
    for pattern in ([f"usercandles:{user}:{exchange}:*"] if user else []) + [
        f"candles:{exchange}:*"
    ]:
        for series in map(parse_candles_key, _names(client, pattern)):
            if series is not None and series.exchange == exchange:
                ours[series.symbol, series.timeframe] = series
    return sorted(ours.values(), key=lambda series: (series.symbol, series.timeframe.ms))


def series_of(
    client: Client,
    settings: Settings,
    exchange: str,
    symbols: Iterable[str],
    status: Status | None,
    timeframes: Sequence[Timeframe] = TIMEFRAMES,
) -> list[Series]:
    """The series of ``symbols`` where they lie: in the shared pool, else with the user.

    What a daemon follows lies where it says. What lies with a user is used by this, and stays.
    """
    user, found = settings.user, []
    for symbol in symbols:
        owner = status.owner(symbol) if status is not None else None
        if owner is None and user:
            owner = "" if _stored(client, exchange, symbol) else user
        if owner and user not in (None, owner):
            owner = user  # somebody else's
        found += [Series(exchange, symbol, timeframe, owner or "") for timeframe in timeframes]
    _renew(client, found)
    return found


def _stored(client: Client, exchange: str, symbol: str) -> bool:
    """Whether the shared pool has candles of ``symbol``."""
    from livermore.adapters.store import all_series, keys

    shared = all_series(exchange, symbol)
    return any(client.run([("EXISTS", keys(series).candles) for series in shared]))


def _renew(client: Client, used: Iterable[Series]) -> None:
    """Where we may only read, what is private expires all the same."""
    from livermore.adapters.store import renew

    client.run_each(renew(used, random.random))


def _names(client: Client, pattern: str) -> Iterator[str]:
    if client.is_cluster:
        names: Iterator[bytes] = client._connect().scan_iter(match=pattern, count=1000)
    else:
        names = _scan(client, pattern)
    for name in names:
        yield name.decode("utf-8", "replace")


def _scan(client: Client, pattern: str) -> Iterator[bytes]:
    cursor = 0
    while True:
        cursor, names = client.one("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        yield from names
        if not int(cursor):
            return


def followed(
    client: Client, exchange: str, status: Status | None, user: str | None = None
) -> list[Series]:
    """The series a daemon follows, or, where none runs, those that have candles.

    Of what is private those of ``user``, or, where none is given, of everybody a daemon works for.
    """
    from livermore.adapters.store import all_series

    if status is None or not status.symbols:
        found = stored_series(client, exchange, user)
    else:
        owners = {symbol: status.owner(symbol) or "" for symbol in status.symbols}
        found = [
            series
            for symbol, owner in owners.items()
            if not user or owner in ("", user)
            for series in all_series(exchange, symbol, owner)
        ]
    _renew(client, found)
    return found


def known_symbol(
    client: Client, exchange: str, symbol: str, status: Status | None, user: str | None = None
) -> str:
    """The name that ``symbol`` is followed or stored by; another name of it is said on stderr.

    Raises :class:`UnknownSymbol` with the nearest names for one neither followed nor stored.
    """
    if status is not None and symbol in status.symbols:
        return symbol
    name = (status.words.aliases or {}).get(symbol) if status is not None else None
    if name is not None:
        output.say(same_market(symbol, name))
        return name
    known = {series.symbol for series in stored_series(client, exchange, user)}
    known |= set(status.symbols) if status is not None else set()
    if not known:
        raise NotRunning(
            f"nothing of {exchange} is stored here, and no daemon is running for it; "
            f"start one with: livermore run {exchange}"
        )
    if symbol not in known:
        message = unknown_symbol(symbol, known)
        if "did you mean" not in message:
            message += f": {exchange} has {_some(sorted(known))} here; {_follow(exchange, symbol)}"
        raise UnknownSymbol(message)
    return symbol


def _follow(exchange: str, symbol: str) -> str:
    """The way to have ``symbol`` as well."""
    added = f"livermore symbols add {symbol}@{exchange}"
    return f"follow it with: {added}, or by --symbols of livermore run"


def _some(names: list[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
