"""Everybody's rules and channels as those of one exchange.

Rules and channels of a user bear the user's name behind theirs, ``level@alice``, so that they never
clash; a rule looks at what its user follows and tells that user's channels alone. The file's rules
tell the file's channels alone. Without users everything is as the file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from livermore.adapters.channel import Channel, ChannelSettings
from livermore.adapters.channels import open_channels
from livermore.adapters.redis import Redis
from livermore.adapters.user_channel import UserChannel
from livermore.config import Settings, channel_variables
from livermore.errors import ConfigurationError
from livermore.profile.document import parse
from livermore.signals.rule import Kind, Rule

if TYPE_CHECKING:
    from livermore.adapters.users import User

NOWHERE = "-"
"""No channel is called so: for rules that tell none. (None would mean all.)"""


@attrs.frozen
class Trouble:
    """What of a user is left away, and why, in a line without secrets."""

    user: str
    why: str


@attrs.frozen(kw_only=True)
class Merged:
    """What alerts on one exchange, and whom."""

    rules: tuple[Rule, ...]
    channels: tuple[ChannelSettings, ...]
    """The file's."""
    theirs: Mapping[str, tuple[ChannelSettings, ...]] = attrs.Factory(dict)
    """By user."""
    troubles: tuple[Trouble, ...] = ()


def merged(settings: Settings, users: Iterable[User], exchange: str) -> Merged:
    """The rules and channels of the file and of all ``users`` that are enabled.

    What is broken of one user is left away and told; the others stay.
    """
    rules: list[Rule] = []
    blind: list[str] = []
    theirs: dict[str, tuple[ChannelSettings, ...]] = {}
    troubles: list[Trouble] = []
    names: set[str] = set()
    for user in users:
        if not user.enabled:
            continue
        if user.sub in names:
            why = f"another user is called {user.sub}: {user.provider} is left away"
            troubles.append(Trouble(user.sub, why))
            continue
        names.add(user.sub)
        try:
            said = parse(user.settings)
        except ConfigurationError as error:
            troubles.append(Trouble(user.sub, f"settings of {user.sub}: {error}"))
            continue
        if not said.of(exchange).enabled:
            continue
        # Also of who follows nothing yet: a first symbol must not need another channel.
        theirs[user.sub] = tuple(
            attrs.evolve(one, name=of_user(one.name, user.sub)) for one in said.channels
        )
        followed = user.symbols(exchange) - said.disabled(exchange)
        for rule in said.alerts if followed else ():
            told = said.channels if rule.channels is None else rule.channels
            channels = [one if isinstance(one, str) else one.name for one in told]
            to = (*(of_user(one, user.sub) for one in channels), of_user("", user.sub))
            if rule.kind is Kind.BLIND:
                blind += to
            elif symbols := followed.intersection(rule.symbols or followed):
                rules.append(
                    attrs.evolve(
                        rule,
                        name=of_user(rule.name, user.sub),
                        symbols=tuple(sorted(symbols)),
                        channels=to,
                    )
                )
    if not theirs:
        return Merged(rules=settings.alerts, channels=settings.channels, troubles=tuple(troubles))
    ours = tuple(_only(settings.channels, rule) for rule in settings.alerts)
    return Merged(
        rules=(*_with_blind(ours, blind), *rules),
        channels=settings.channels,
        theirs=theirs,
        troubles=tuple(troubles),
    )


def same_channels(one: Merged, other: Merged) -> bool:
    """Whether they tell the same channels: then rules can change while alerts are delivered."""
    return (one.channels, one.theirs) == (other.channels, other.theirs)


def of_user(name: str, user: str) -> str:
    """What a user's rule or channel is called among all; without a ``name`` the user's own channel.

    ``|`` separates parts of keys and of alerts' ids; no user has a ``/``.
    """
    return f"{name}@{user.replace('|', '/')}"


def opened(
    found: Merged, redis: Redis, variables: Mapping[str, str] | None = None
) -> tuple[tuple[Channel, ...], tuple[Trouble, ...]]:
    """The channels, every user's own among them, and what of users could not be opened.

    ``variables`` are those of the environment, unless given. Raises :class:`ConfigurationError`
    for the file's.
    """
    channels: list[Channel] = list(_opened(found.channels, variables))
    troubles = []
    for user, theirs in found.theirs.items():
        channels.append(UserChannel(of_user("", user), user, redis))
        for one in theirs:
            try:
                channels += _opened([one], variables)
            except ConfigurationError as error:
                troubles.append(Trouble(user, str(error)))
    return tuple(channels), tuple(troubles)


def _opened(
    some: Sequence[ChannelSettings], variables: Mapping[str, str] | None
) -> tuple[Channel, ...]:
    return open_channels(some, channel_variables(some, variables))


def _only(channels: Sequence[ChannelSettings], rule: Rule) -> Rule:
    """``rule`` of the file, beside which there are channels that it does not mean."""
    if rule.channels is not None:
        return rule
    return attrs.evolve(rule, channels=tuple(one.name for one in channels) or (NOWHERE,))


def _with_blind(rules: Sequence[Rule], channels: Sequence[str]) -> tuple[Rule, ...]:
    """One blind rule for all: blindness is of the exchange, and told once."""
    if not channels:
        return tuple(rules)
    ours = next((rule for rule in rules if rule.kind is Kind.BLIND), None)
    if ours is None:
        return (*rules, Rule(name="blind", kind=Kind.BLIND, channels=tuple(channels)))
    both = attrs.evolve(ours, channels=tuple(dict.fromkeys((*(ours.channels or ()), *channels))))
    return tuple(both if rule is ours else rule for rule in rules)
