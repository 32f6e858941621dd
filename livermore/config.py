"""Settings: flags > ``LIVERMORE_*`` environment > ``livermore.toml`` > defaults.

The only reader of environment and files. Every setting has one parser for all of its sources, and
every complaint names the source: ``LIVERMORE_TOP``, ``top in ./livermore.toml``, ``--top``. A value
that is wrong in a source nobody looks at (a flag overrides it) is still wrong, and is said so.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import attrs

from livermore.adapters.channel import DEFAULT_CHANNELS, KINDS, ChannelSettings, check_url
from livermore.adapters.redis_url import check_options
from livermore.errors import ConfigurationError, LivermoreError, UsageError
from livermore.market.country import parse_country
from livermore.signals.rule import DEFAULT_RULES, Kind, Rule, rule_from

FILE = "livermore.toml"
PREFIX = "LIVERMORE_"
FILE_VARIABLE = "LIVERMORE_CONFIG"
"""Names the file, like ``--config``."""

COMPLETION_VARIABLE = "_LIVERMORE_COMPLETE"
"""What a shell sets when it asks what could be typed next."""
SECRETS = frozenset({"LIVERMORE_DATABASE_URL", "LIVERMORE_CONTROL_SECRET"})
"""Variables that hold secrets: they are settings which only the environment can say."""
LEAST_SECRET = 16
"""Characters of a secret that commands are signed with."""

DEFAULT_TOP = 50
MIB = 1024 * 1024
DEFAULT_RECORDER = 32 * MIB
LOG_LEVELS = ("debug", "info", "warning", "error")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
LONGEST = 100 * 365 * 86_400_000
"""Milliseconds; a longer duration is a slip of the finger."""


@attrs.frozen(kw_only=True)
class Own:
    """What one exchange is told; None: nothing of that."""

    symbols: tuple[str, ...] | None = None
    top: int | None = None
    rest_url: str | None = None
    websocket_url: str | None = None
    shared: frozenset[str] = frozenset()
    """Those of the symbols that are meant for whichever exchange lists them."""

    @property
    def follows(self) -> bool:
        """Whether it is told by itself what to follow."""
        return self.symbols is not None or self.top is not None


@attrs.frozen(kw_only=True)
class Settings:
    """What a run is told. ``symbols`` is None when the ``top`` most traded are followed."""

    state_dir: Path
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None
    """``BTC-USD`` for every exchange that lists it, ``BTC-USDT@binance`` for that one."""
    top: int | None = None
    redis_url: str | None = attrs.field(default=None, repr=False)
    """None means the private Valkey in ``state_dir``. Not in the repr: it may hold a password."""
    database_url: str | None = attrs.field(default=None, repr=False)
    """PostgreSQL, from the environment alone. None: users, positions and history need one."""
    control_secret: str | None = attrs.field(default=None, repr=False)
    """What commands are signed with, from the environment alone. None: they need no signature."""
    user: str | None = None
    """Whose settings and symbols a command means; None where nobody said."""
    rest_url: str | None = None
    websocket_url: str | None = None
    own: Mapping[str, Own] = attrs.Factory(dict)
    """What is said of one exchange alone, and goes before what is said of all."""
    country: str | None = None
    """Where we are (ISO 3166-1 alpha-2), where a person said so."""
    idle: bool = False
    """Connect to nothing, and wait for commands."""
    autostart: tuple[str, ...] = ()
    """Exchanges that are followed from the start on, beside those that are run."""
    run_for: float | None = None
    """Seconds, then a clean end."""
    standby: bool = False
    """Wait for an exchange that another daemon holds."""
    json_logs: bool = False
    log_level: str = "info"
    metrics_port: int | None = None
    """Where metrics and health are served; 0 takes a free one, None serves none."""
    metrics_host: str = "127.0.0.1"
    recorder: int = DEFAULT_RECORDER
    """Bytes of frames the flight recorder keeps for incident bundles, per exchange; 0: off."""
    alerts: tuple[Rule, ...] = DEFAULT_RULES
    """What alerts; rules that are switched off are not among them."""
    channels: tuple[ChannelSettings, ...] = DEFAULT_CHANNELS
    """Where alerts go."""
    symbols_by: str = attrs.field(default="", eq=False)
    """The flag or variable that names the symbols or the top; empty where file or default do."""

    typed_urls: Mapping[str, frozenset[str]] = attrs.field(factory=dict, eq=False)
    """``rest_url`` or ``websocket_url`` -> the exchanges of which a flag names one."""

    def of(self, exchange: str) -> Own:
        """What ``exchange`` is told, by itself or with all."""
        own = self.own.get(exchange, Own())
        symbols, top, shared = own.symbols, own.top, frozenset[str]()
        if not own.follows:
            top = self.top
            if self.symbols is not None:
                split = [symbol.partition("@") for symbol in self.symbols]
                meant = [(symbol, to) for symbol, _, to in split if to in ("", exchange)]
                symbols = tuple(dict.fromkeys(symbol for symbol, _ in meant))
                if sum(not self.own.get(name, own).follows for name in self.exchanges) > 1:
                    shared = frozenset(symbols) - {symbol for symbol, to in meant if to}
        return Own(
            symbols=symbols,
            top=top,
            rest_url=own.rest_url or self.rest_url,
            websocket_url=own.websocket_url or self.websocket_url,
            shared=shared,
        )

    def check_exchanges(self) -> None:
        """Raise :class:`UsageError` where it is not clear what is meant for which exchange."""
        marked = {symbol.partition("@")[2] for symbol in self.symbols or ()} - {""}
        strange = sorted(marked.difference(self.exchanges))
        if strange and self.symbols_by == flag_name("symbols"):
            raise UsageError(
                f"--symbols: symbols are meant for {', '.join(strange)}, which is not run: "
                f"livermore run {' '.join((*self.exchanges, *strange))}"
            )
        if self.exchanges:
            self.check_urls({*self.exchanges, *self.autostart})
        for name in self.exchanges:
            if self.of(name).symbols == ():
                raise UsageError(
                    f"no symbol is meant for {name}: name one, such as BTC-USD@{name}, "
                    "or leave that exchange away"
                )
        if len(self.exchanges) > 1:
            for key, scheme in (("rest_url", "http"), ("websocket_url", "ws")):
                if getattr(self, key) is not None:
                    raise UsageError(
                        f"{flag_name(key)}: several exchanges run: say whose it is, such as "
                        f"{self.exchanges[0]}={scheme}://…"
                    )

    def check_urls(self, asked: Collection[str]) -> None:
        """Raise :class:`UsageError` where somebody typed a URL of an exchange that is not asked."""
        for key, named in self.typed_urls.items():
            if others := ", ".join(sorted(named.difference(asked))):
                raise UsageError(
                    f"{flag_name(key)}: a URL is meant for {others}, but only "
                    f"{', '.join(sorted(asked))} is asked: name {others}, or leave that URL away"
                )


@attrs.frozen
class _Source:
    """Where a value came from: how to name it in a complaint, and which kind of error that is."""

    name: str
    error: type[LivermoreError]
    base: Path
    """What relative paths are relative to."""
    home: str


def from_surroundings(flags: Mapping[str, object], config: str | None = None) -> Settings:
    """The settings of this process: :func:`load` with its environment and working directory."""
    return load(flags, os.environ, config=config, cwd=Path(os.curdir))


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    config: str | None = None,
    cwd: Path,
) -> Settings:
    """Settings from all sources. Flags that are None and variables that are empty do not count.

    Raises :class:`ConfigurationError` for environment and file, :class:`UsageError` for a flag; the
    message is one line and names the source.
    """
    home = environ.get("HOME", "")
    values: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    typed: dict[str, frozenset[str]] = {}
    file = _file(config or environ.get(FILE_VARIABLE) or None, cwd, home)
    # Weakest first, so that a stronger source replaces what it names.
    for given, name_of, error, base in (
        file,
        (
            _variables(environ),
            lambda key: PREFIX + key.upper(),
            ConfigurationError,
            cwd,
        ),
        (
            {key: value for key, value in flags.items() if value is not None},
            flag_name,
            UsageError,
            cwd,
        ),
    ):
        parsed = {
            key: (_PARSERS.get(key) or _TABLES.get(key) or _FROM_ENVIRONMENT[key])(
                value, _Source(name_of(key), error, base, home)
            )
            for key, value in given.items()
        }
        if "symbols" in parsed and "top" in parsed:
            raise error(f"{name_of('symbols')} and {name_of('top')} exclude each other: keep one")
        # They answer one question, so the stronger source answers it alone.
        if asked := parsed.keys() & {"symbols", "top"}:
            values.pop("symbols", None)
            values.pop("top", None)
            _forget(own, "symbols", "top")
            if given is not file[0]:
                values["symbols_by"] = name_of(*asked)
        for key in parsed.keys() & {"rest_url", "websocket_url"}:
            urls = dict(parsed.pop(key))
            if "" in urls:
                _forget(own, key)
                values[key] = urls.pop("")
            for exchange, url in urls.items():
                own.setdefault(exchange, {})[key] = url
            if name_of is flag_name:
                typed[key] = frozenset(urls)
        if isinstance(tables := parsed.get("exchanges"), Mapping):
            parsed["exchanges"] = tuple(tables)
            for exchange, table in tables.items():
                own.setdefault(exchange, {}).update(table)
        values.update(parsed)
    if "alerts" in values:
        _check_channels(values["alerts"], values.get("channels", DEFAULT_CHANNELS), file)
    if "symbols" not in values:
        values.setdefault("top", DEFAULT_TOP)
    if "state_dir" not in values:
        values["state_dir"] = default_state_dir(environ)
    return Settings(
        own={name: Own(**said) for name, said in own.items() if said}, typed_urls=typed, **values
    )


def _forget(own: Mapping[str, dict[str, Any]], *keys: str) -> None:
    """What a stronger source says of all exchanges replaces what a weaker one said of one."""
    for said in own.values():
        for key in keys:
            said.pop(key, None)


@attrs.frozen
class Manager:
    """What a service manager such as systemd told the process it started; see ``sd_notify(3)``."""

    address: str | None
    """Where it listens; None: nobody started us who wants to hear."""
    watchdog: float | None
    """Seconds of silence after which it takes us for dead, if it watches."""


def manager(environ: Mapping[str, str] | None = None, pid: int | None = None) -> Manager:
    """The service manager of this process. What another process was told does not count."""
    known = os.environ if environ is None else environ
    told = known.get("WATCHDOG_USEC", "")
    ours = known.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
    watchdog = int(told) / 1e6 if ours and re.fullmatch(r"[0-9]{1,18}", told) else 0.0
    return Manager(known.get("NOTIFY_SOCKET") or None, watchdog or None)


def channel_variables(
    channels: Iterable[ChannelSettings], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the environment holds of the variables that ``channels`` name: secrets."""
    return variables((name for one in channels for name in one.variables), environ)


def variables(names: Iterable[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the environment holds of the variables ``names``: secrets."""
    known = os.environ if environ is None else environ
    return {name: known[name] for name in names if name in known}


def editor(environ: Mapping[str, str] | None = None) -> str:
    """The command that a person edits text with, as git and crontab find it."""
    known = os.environ if environ is None else environ
    return known.get("VISUAL", "").strip() or known.get("EDITOR", "").strip() or "vi"


def asks_for_completions(environ: Mapping[str, str] | None = None) -> bool:
    """Whether it is a shell that runs us, to learn what could be typed next."""
    return COMPLETION_VARIABLE in (os.environ if environ is None else environ)


def flag_name(key: str) -> str:
    """How a setting is spelled on the command line."""
    return "--for" if key == "run_for" else "--" + key.replace("_", "-")


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/livermore`` or ``~/.local/state/livermore``.

    A relative ``XDG_STATE_HOME`` is ignored, as its specification wants it.
    """
    state = environ.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():
        return Path(state) / "livermore"
    home = environ.get("HOME", "")
    if Path(home).is_absolute():
        return Path(home) / ".local" / "state" / "livermore"
    raise ConfigurationError(
        "no place for the state directory: HOME is not set; "
        "use --state-dir DIR or LIVERMORE_STATE_DIR"
    )


def near(word: str, known: Iterable[str]) -> str:
    """``: did you mean top?``, or nothing when nothing is near."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {found[0]}?" if found else ""


_Given = tuple[Mapping[str, object], Callable[[str], str], type[LivermoreError], Path]


def _variables(environ: Mapping[str, str]) -> dict[str, object]:
    given: dict[str, object] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == FILE_VARIABLE:
            continue
        if name in SECRETS:
            if environ[name].strip():
                given[name.removeprefix(PREFIX).lower()] = environ[name]
            continue
        key = name.removeprefix(PREFIX).lower()
        if key in _TABLES:
            raise ConfigurationError(
                f"environment: {name}: {key} are tables, so they are written in {FILE}"
            )
        if key not in _PARSERS or name != name.upper():
            known = [PREFIX + known.upper() for known in _PARSERS]
            raise ConfigurationError(
                f"environment: unknown setting {name}"
                f"{near(name.upper(), [*known, *SECRETS, FILE_VARIABLE])}"
            )
        if environ[name].strip():
            given[key] = environ[name]
    return given


def _file(named: str | None, cwd: Path, home: str) -> _Given:
    path = cwd / FILE
    if named is not None:
        path = cwd / _expanded(named, home, "the configuration file", ConfigurationError)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        if named is None:
            return ({}, str, ConfigurationError, cwd)
        raise ConfigurationError(f"{path}: no such file: check --config") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigurationError(f"{path}: cannot be read: {reason}") from None
    try:
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {_one_line(str(error))}") from None
    for key in given:
        if key not in _PARSERS and key not in _TABLES:
            known = [*_PARSERS, *_TABLES]
            raise ConfigurationError(f"{path}: unknown setting {key!r}{near(key, known)}")
    return (given, lambda key: f"{key} in {path}", ConfigurationError, path.parent)


def parse_duration(text: str) -> int:
    """Milliseconds of ``60s``, ``2h``, ``15m``, ``1d``, ``1h30m``; raises ``ValueError``."""
    compact = text.strip().lower()
    if not _DURATION.fullmatch(compact):
        raise ValueError("write a duration with its unit, such as 60s, 15m, 2h or 1d")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(compact))
    if not 1 <= total <= LONGEST:
        raise ValueError("a duration lies between 1 millisecond and 100 years")
    return round(total)


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|[smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


def parse_symbol(text: str) -> str:
    """``btc/usd`` as ``BTC-USD``; raises ``ValueError`` for what cannot be a symbol."""
    symbol = text.strip().upper().replace("/", "-")
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError(f"{_quoted(text)} is not a symbol: write BASE-QUOTE, such as BTC-USD")
    return symbol


# The separators of keys and lists, and what a glob would read, cannot be part of a symbol.
_SYMBOL = re.compile(r"[^\s:,@{}*?\[\]\\^/-]+(-[^\s:,@{}*?\[\]\\^/-]+)+")


def parse_user(text: str) -> str:
    """``text`` as what an identity provider calls a user; raises ``ValueError``."""
    user = text.strip()
    if not _USER.fullmatch(user):
        raise ValueError(
            f"{_quoted(text)} is not a user: up to 64 letters, digits and _.@|-, a letter or a "
            "digit first"
        )
    return user


_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@|-]{0,63}")


def parsed(key: str, value: object) -> Any:
    """``value`` as the setting ``key`` would be read from the file; raises ``ValueError``."""
    try:
        return _PARSERS[key](value, _Source("", ConfigurationError, Path(), ""))
    except ConfigurationError as error:
        raise ValueError(str(error).removeprefix(": ")) from None


def alerting(
    alerts: object, channels: object
) -> tuple[tuple[Rule, ...], tuple[ChannelSettings, ...]]:
    """Rules and channels of tables such as the file's; raises :class:`ConfigurationError`."""
    rules = _alerts(alerts, _Source("alerts", ConfigurationError, Path(), ""))
    known = _channels(channels, _Source("channels", ConfigurationError, Path(), ""))
    _check_channels(rules, known, ({"alerts": alerts}, str, ConfigurationError, Path()))
    return rules, known


def _wrong(source: _Source, what: str) -> LivermoreError:
    return source.error(f"{source.name}: {what}")


def _words(value: object, source: _Source) -> tuple[str, ...]:
    """A list, or text with commas; repeated words count once."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise _wrong(source, f"a list of names is wanted, not {_quoted(value)}")
    words = [part.strip() for item in items for part in item.split(",")]
    if not any(words):
        raise _wrong(source, "the list is empty")
    return tuple(dict.fromkeys(filter(None, words)))


def _exchanges(
    value: object, source: _Source
) -> tuple[str, ...] | Mapping[str, Mapping[str, object]]:
    """Names, or in the file tables of them: what each is told."""
    if isinstance(value, dict):
        return {_exchange(name, source): _own(name, table, source) for name, table in value.items()}
    return _names(value, source)


def _names(value: object, source: _Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_exchange(word, source) for word in _words(value, source)))


def _exchange(name: str, source: _Source) -> str:
    from livermore.exchanges import dialect  # its codecs are worth 50 ms of every start

    try:
        return dialect(name).name
    except UsageError as error:
        if source.error is UsageError:
            raise
        raise _wrong(source, str(error)) from None


def _own(name: str, table: object, source: _Source) -> Mapping[str, object]:
    """One of the ``[exchanges.NAME]`` tables."""
    where = attrs.evolve(source, name=source.name.replace("exchanges", f"exchanges.{name}", 1))
    if not isinstance(table, dict):
        raise _wrong(where, f"write [exchanges.{name}], a table")
    parsers: Mapping[str, Callable[[object, _Source], object]] = {
        "symbols": _plain_symbols,
        "top": _count,
        "rest_url": _rest_url,
        "websocket_url": _websocket_url,
    }
    for key in table:
        if key not in parsers:
            raise _wrong(where, f"unknown key {_quoted(key)}{near(key, parsers)}")
    if "symbols" in table and "top" in table:
        raise _wrong(where, "symbols and top exclude each other: keep one")
    return {
        key: parsers[key](said, attrs.evolve(where, name=f"{key} of {where.name}"))
        for key, said in table.items()
    }


def _plain_symbols(value: object, source: _Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_symbol(word, source) for word in _words(value, source)))


def _symbols(value: object, source: _Source) -> tuple[str, ...]:
    """Symbols, some of them marked with the exchange they are meant for."""
    found = []
    for word in _words(value, source):
        text, mark, exchange = word.partition("@")
        name = _exchange(exchange, source) if mark else ""
        found.append(_symbol(text, source) + mark + name)
    return tuple(dict.fromkeys(found))


def _symbol(word: str, source: _Source) -> str:
    try:
        return parse_symbol(word)
    except ValueError as error:
        raise _wrong(source, str(error)) from None


def _count(value: object, source: _Source) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 10_000:
        raise _wrong(source, f"a whole number from 1 to 10000 is wanted, not {_quoted(value)}")
    return number


def _port(value: object, source: _Source) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 65_535:
        raise _wrong(source, f"a port from 0 to 65535 is wanted, not {_quoted(value)}")
    return number


def _recorder(value: object, source: _Source) -> int:
    """Bytes."""
    if value is False or (isinstance(value, str) and value.strip().lower() == "off"):
        return 0
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 4 <= number <= 4096:
        raise _wrong(source, f"off, or a number of MiB from 4 to 4096, not {_quoted(value)}")
    return number * MIB


def _host(value: object, source: _Source) -> str:
    host = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9A-Za-z._:%-]{1,255}", host):
        raise _wrong(
            source, f"a host name or address such as 127.0.0.1 is wanted, not {_quoted(value)}"
        )
    return host


def _country(value: object, source: _Source) -> str:
    if not isinstance(value, str):
        raise _wrong(source, f'a country code such as "US" is wanted, not {_quoted(value)}')
    try:
        return parse_country(value)
    except ValueError as error:
        raise _wrong(source, str(error)) from None


def _seconds(value: object, source: _Source) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            raise _wrong(source, f'write the duration with its unit, such as "{value}s"')
    elif isinstance(value, str):
        try:
            return parse_duration(value) / 1000
        except ValueError as error:
            raise _wrong(source, f"{error}, not {_quoted(value)}") from None
    raise _wrong(source, f'a duration such as "60s" is wanted, not {_quoted(value)}')


def _flag(value: object, source: _Source) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    found = known.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise _wrong(source, f"true or false is wanted, not {_quoted(value)}")
    return found


def _level(value: object, source: _Source) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in LOG_LEVELS:
        names = ", ".join(LOG_LEVELS)
        raise _wrong(source, f"unknown level {_quoted(value)}{near(word, LOG_LEVELS)} ({names})")
    return word


def _directory(value: object, source: _Source) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise _wrong(source, f"a directory is wanted, not {_quoted(value)}")
    return source.base / _expanded(str(value), source.home, source.name, source.error)


def _expanded(text: str, home: str, who: str, error: type[LivermoreError]) -> Path:
    if text == "~" or text.startswith("~/"):
        if not Path(home).is_absolute():
            raise error(f"{who}: {text} needs HOME, which is not set")
        return Path(home, text[2:])
    return Path(text)


def _url(value: object, source: _Source, schemes: tuple[str, ...]) -> SplitResult:
    """Never quotes the value: it may hold a password."""
    forms = ", ".join(f"{scheme}://" for scheme in schemes)
    if not isinstance(value, str):
        raise _wrong(source, f"a URL is wanted ({forms})")
    try:
        parts = urlsplit(value.strip())
        _ = parts.port
    except ValueError:
        raise _wrong(
            source, "the URL cannot be taken apart: check its port, and percent-encode its password"
        ) from None
    if parts.scheme not in schemes:
        raise _wrong(source, f"unknown scheme {_quoted(parts.scheme)}: use {forms}")
    if any(ord(character) <= 32 for character in value.strip()):
        raise _wrong(source, "the URL holds a space or a line break")
    if parts.scheme not in ("unix", "postgresql", "postgres") and not parts.hostname:
        raise _wrong(source, "the URL names no host")
    return parts


def _redis_url(value: object, source: _Source) -> str:
    # What cannot be a Redis is a matter of configuration, wherever it was said.
    parts = _url(value, attrs.evolve(source, error=ConfigurationError), REDIS_SCHEMES)
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+/?", parts.path):
        raise ConfigurationError(
            f"{source.name}: after the host only a database number may follow; "
            "a / # ? or @ in the password is written %2F %23 %3F %40"
        )
    if parts.scheme == "unix" and len(parts.path) < 2:
        raise ConfigurationError(f"{source.name}: unix:// needs the path of a socket")
    try:
        check_options(str(value).strip())
    except ValueError as error:
        raise ConfigurationError(f"{source.name}: {error}") from None
    return str(value).strip()


def _database_url(value: object, source: _Source) -> str:
    parts = _url(value, source, ("postgresql", "postgres"))
    if not parts.path.strip("/"):
        raise _wrong(source, "the URL names no database: postgresql://HOST/DATABASE")
    return str(value).strip()


def _control_secret(value: object, source: _Source) -> str:
    secret = str(value).strip()
    if len(secret) < LEAST_SECRET:
        raise _wrong(source, f"a secret has at least {LEAST_SECRET} characters")
    return secret


def _user(value: object, source: _Source) -> str:
    try:
        return parse_user(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _wrong(source, str(error)) from None


def _rest_url(value: object, source: _Source) -> str:
    _url(value, source, ("https", "http"))
    return str(value).strip().rstrip("/")


def _websocket_url(value: object, source: _Source) -> str:
    _url(value, source, ("wss", "ws"))
    return str(value).strip()


def _rest_urls(value: object, source: _Source) -> Mapping[str, str]:
    return _marked(value, source, _rest_url)


def _websocket_urls(value: object, source: _Source) -> Mapping[str, str]:
    return _marked(value, source, _websocket_url)


def _marked(
    value: object, source: _Source, parse: Callable[[object, _Source], str]
) -> Mapping[str, str]:
    """URLs by exchange, from ``binance=http://…`` with commas; an unmarked one is of "" (all)."""
    given = value if isinstance(value, list | tuple) and value else [value]
    items = [item for item in given if isinstance(item, str)]
    if len(items) < len(given):
        raise _wrong(source, "a URL is wanted, or one for each exchange: binance=http://…")
    found: dict[str, str] = {}
    for item in items:
        for word in item.split(",") if _MARKED.match(item) else [item]:
            name, _, url = word.strip().partition("=") if _MARKED.match(word) else ("", "", word)
            exchange = _exchange(name, source) if name else ""
            if exchange in found:
                raise _wrong(source, f"two URLs of {exchange or 'all exchanges'}: keep one")
            found[exchange] = parse(url, source)
    return found


_MARKED = re.compile(r"\s*[A-Za-z_]+=")


def _alerts(value: object, source: _Source) -> tuple[Rule, ...]:
    """The ``[[alerts]]`` tables, and the blind rule where none of them is one."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise _wrong(source, "write [[alerts]], one table for each rule")
    found: dict[str, Rule] = {}
    for number, table in enumerate(value, start=1):
        at = _table(source, "alerts", number, table.get("name", table.get("rule")))
        try:
            one = rule_from(_with_canonical_symbols(table))
        except ValueError as error:
            raise _wrong(at, str(error)) from None
        if one.name in found:
            raise _wrong(at, f"another rule is called {one.name}: give this one another name")
        if one.kind is Kind.BLIND and any(other.kind is Kind.BLIND for other in found.values()):
            raise _wrong(at, "there is a blind rule already, and it is of all that is followed")
        found[one.name] = one
    if all(one.kind is not Kind.BLIND for one in found.values()):
        found |= {one.name: one for one in DEFAULT_RULES if one.kind is Kind.BLIND}
    return tuple(one for one in found.values() if one.enabled)


def _with_canonical_symbols(table: Mapping[str, object]) -> Mapping[str, object]:
    symbols = table.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(one, str) for one in symbols):
        return table  # the rule says what is wrong with it
    try:
        return {**table, "symbols": [parse_symbol(one) for one in symbols]}
    except ValueError as error:
        raise ValueError(f"symbols: {error}") from None


def _check_channels(
    rules: Iterable[Rule], channels: Iterable[ChannelSettings], file: _Given
) -> None:
    tables, name_of, error, base = file
    given: Any = tables["alerts"]
    numbers = {table.get("name", table["rule"]): n for n, table in enumerate(given, start=1)}
    known = [one.name for one in channels]
    for rule in rules:
        for name in rule.channels or ():
            if name not in known:
                source = _Source(name_of("alerts"), error, base, "")
                raise _wrong(
                    _table(source, "alerts", numbers[rule.name], rule.name),
                    f"channels: no channel is called {_quoted(name)}{near(name, known)}"
                    f" ({', '.join(known) or 'there is none'})",
                )


def _channels(value: object, source: _Source) -> tuple[ChannelSettings, ...]:
    """The ``[[channels]]`` tables. Never quotes an address: it may be a secret in a wrong place."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise _wrong(source, "write [[channels]], one table for each channel")
    found: dict[str, ChannelSettings] = {}
    for number, table in enumerate(value, start=1):
        one = _channel(table, _table(source, "channels", number, table.get("name")))
        if one.name in found:
            raise _wrong(
                _table(source, "channels", number, one.name), "another channel has this name"
            )
        found[one.name] = one
    return tuple(found.values())


def _channel(table: Mapping[str, object], source: _Source) -> ChannelSettings:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        names = ", ".join(KINDS)
        if kind is None:
            raise _wrong(source, f"kind is missing: one of {names}")
        shown = _quoted(kind) if isinstance(kind, str) and kind.isalnum() else "that"
        raise _wrong(source, f"no kind {shown}{near(str(kind), KINDS)} ({names})")
    taken = {"name", "kind", *_CHANNEL_KEYS[kind]}
    for key in table:
        if key not in taken:
            if kind in {"discord", "apprise"} and key == "url":
                raise _wrong(source, "this URL is a secret: name its variable with url_env")
            raise _wrong(source, f"unknown key {_quoted(key)}{near(key, taken)}")
    name = table.get("name", kind)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name):
        raise _wrong(source, "name: a letter, then up to 39 letters, digits, - and _")
    for key in ("url_env", "secret_env"):
        _variable_name(table.get(key), key, source)
    url = table.get("url")
    if "url" in taken and (url is None) == ("url_env" not in table):
        raise _wrong(source, "either url or url_env is wanted")
    for key in _CHANNEL_KEYS[kind]:
        if key != "url" and key not in table and not (key == "url_env" and url is not None):
            raise _wrong(source, f"{key} is missing: the name of an environment variable")
    if url is not None:
        if not isinstance(url, str):
            raise _wrong(source, "url: a URL is wanted")
        try:
            check_url(url)
        except ValueError as error:
            raise _wrong(source, f"url: {error}") from None
        url = url.strip()
    return ChannelSettings(
        name=name,
        kind=kind,
        url=url,
        **{key: str(table[key]) for key in ("url_env", "secret_env") if key in table},
    )


_CHANNEL_KEYS: Mapping[str, tuple[str, ...]] = {
    "apprise": ("url_env",),
    "discord": ("url_env",),
    "log": (),
    "webhook": ("url", "url_env", "secret_env"),
}


def _variable_name(value: object, key: str, source: _Source) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", value):
        raise _wrong(
            source,
            f"{key} wants the name of an environment variable in capitals, such as "
            f"DESK_{key[:-4].upper()}; the secret itself belongs into that variable",
        )
    if value.startswith(PREFIX):
        raise _wrong(source, f"{key}: names that begin with {PREFIX} are settings: choose another")


def _table(source: _Source, key: str, number: int, name: object) -> _Source:
    """``source`` for the table ``number`` of ``key``: ``channels 2 (desk) in ./livermore.toml``."""
    known = f" ({name})" if isinstance(name, str) and re.fullmatch(r"[\w-]{1,40}", name) else ""
    where = source.name.removeprefix(key)
    return attrs.evolve(source, name=f"{key} {number}{known}{where}")


def _quoted(value: object) -> str:
    return _one_line(repr(value))[:80]


def _one_line(text: str) -> str:
    return " ".join(text.split())


_PARSERS: Mapping[str, Callable[[object, _Source], Any]] = {
    "exchanges": _exchanges,
    "symbols": _symbols,
    "top": _count,
    "redis_url": _redis_url,
    "rest_url": _rest_urls,
    "websocket_url": _websocket_urls,
    "country": _country,
    "user": _user,
    "state_dir": _directory,
    "idle": _flag,
    "autostart": _names,
    "run_for": _seconds,
    "standby": _flag,
    "json_logs": _flag,
    "log_level": _level,
    "metrics_port": _port,
    "metrics_host": _host,
    "recorder": _recorder,
}

_TABLES: Mapping[str, Callable[[object, _Source], Any]] = {
    "alerts": _alerts,
    "channels": _channels,
}
"""What only the file can say."""

_FROM_ENVIRONMENT: Mapping[str, Callable[[object, _Source], Any]] = {
    "database_url": _database_url,
    "control_secret": _control_secret,
}
"""What only the environment can say."""
