"""What a document of settings says, in values; what it leaves away has its default.

Rules and channels are read by the parsers of the file's ``[[alerts]]`` and ``[[channels]]``.
Symbols say of which exchange they are, ``BTC-USDT@binance``; a disabled one without that is
disabled everywhere. Secrets are never in a document: it names the variables that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import cattrs
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from livermore.adapters.channel import ChannelSettings
from livermore.config import alerting
from livermore.errors import ConfigurationError
from livermore.exchanges import DIALECTS
from livermore.market.mode import Mode
from livermore.profile import values
from livermore.signals.rule import DEFAULT_RULES, Rule

DEFAULT_ALERTS: tuple[Mapping[str, object], ...] = tuple(
    {"rule": rule.name} for rule in DEFAULT_RULES
)
"""The tables of who names no rules, as in the file."""


@attrs.frozen(kw_only=True)
class Profile:
    """Who the user is."""

    public_name: values.Name | None = None
    primary_exchange: values.Exchange | None = None
    timezone: values.Zone | None = None
    locale: values.Locale | None = None
    currency: values.Currency | None = None


@attrs.frozen(kw_only=True)
class Runtime:
    """What a daemon does for the user."""

    autostart: values.Exchanges = ()
    mode: Mode = Mode.SCALPER_MACDV
    log_level: values.LogLevel = "info"


@attrs.frozen(kw_only=True)
class OfExchange:
    """What the user says of one exchange."""

    enabled: values.Flag = True
    """Whether the user's rules look there."""
    credentials: Mapping[values.Part, values.Variable] = attrs.Factory(dict)
    """Part of the credentials -> name of the variable that holds it."""


@attrs.frozen(kw_only=True)
class Scanner:
    """What ``livermore scan`` looks for where nothing else is said."""

    near: values.Levels = (150.0,)
    within: values.Distance = 10.0
    """Points."""
    timeframe: values.Timeframes | None = None
    """None means all of them."""
    exchange: values.Exchange | None = None


@attrs.frozen(kw_only=True)
class UserSettings:
    """A document, read."""

    profile: Profile = Profile()
    runtime: Runtime = Runtime()
    exchanges: Mapping[values.Exchange, OfExchange] = attrs.Factory(dict)
    symbols: values.Marked = ()
    disabled_symbols: values.Symbols = ()
    scanner: Scanner = Scanner()
    alerts: tuple[Rule, ...] = DEFAULT_RULES
    """Rules that are switched off are not among them."""
    channels: tuple[ChannelSettings, ...] = ()

    def of(self, exchange: str) -> OfExchange:
        """What is said of ``exchange``."""
        return self.exchanges.get(exchange, OfExchange())

    @property
    def follows(self) -> tuple[tuple[str, str], ...]:
        """Exchange and symbol of what is named and not disabled."""
        split = (symbol.partition("@") for symbol in self.symbols)
        return tuple((to, one) for one, _, to in split if one not in self.disabled(to))

    def disabled(self, exchange: str) -> frozenset[str]:
        """The symbols nothing is to be heard of, on ``exchange``."""
        split = (symbol.partition("@") for symbol in self.disabled_symbols)
        return frozenset(symbol for symbol, _, to in split if to in ("", exchange))


def credential_names(settings: UserSettings, exchange: str) -> Mapping[str, str]:
    """Part of the credentials -> name of its variable, as far as the user named them."""
    return dict(settings.of(exchange).credentials)


def parse(said: Mapping[str, Any]) -> UserSettings:
    """What a document of the current version says, without ``version``.

    Raises :class:`ConfigurationError` with one line: the path and what is wanted there.
    """
    rest = {key: value for key, value in said.items() if key not in ("alerts", "channels")}
    try:
        settings: UserSettings = _converter.structure(rest, UserSettings)
    except BaseValidationError as error:
        raise ConfigurationError(values.complaint(error)) from None
    rules, channels = alerting(said.get("alerts", list(DEFAULT_ALERTS)), said.get("channels", []))
    return attrs.evolve(settings, alerts=rules, channels=channels)


def whole(said: Mapping[str, Any]) -> dict[str, Any]:
    """The document with everything it leaves away; rules and channels as tables.

    Raises :class:`ConfigurationError`.
    """
    settings = parse(said)
    everywhere = {name: settings.of(name) for name in DIALECTS}
    made: dict[str, Any] = _converter.unstructure(attrs.evolve(settings, exchanges=everywhere))
    made["alerts"] = list(said.get("alerts", DEFAULT_ALERTS))
    made["channels"] = list(said.get("channels", []))
    return made


def _made() -> cattrs.Converter:
    made = values.converter()
    beside = override(omit=True)  # read by the parsers of the file's tables
    made.register_structure_hook(
        UserSettings,
        make_dict_structure_fn(
            UserSettings, made, _cattrs_forbid_extra_keys=True, alerts=beside, channels=beside
        ),
    )
    made.register_unstructure_hook(
        UserSettings,
        make_dict_unstructure_fn(UserSettings, made, alerts=beside, channels=beside),
    )
    return made


_converter = _made()
