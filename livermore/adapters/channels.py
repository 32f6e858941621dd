"""From settings to channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx

from livermore.adapters.apprise import open_apprise
from livermore.adapters.channel import Channel, ChannelSettings, check_url
from livermore.adapters.discord import Discord, webhook_url
from livermore.adapters.log_channel import LogChannel
from livermore.adapters.post import Post, tls_for
from livermore.adapters.webhook import Webhook
from livermore.errors import ConfigurationError


def open_channels(
    settings: Sequence[ChannelSettings], variables: Mapping[str, str]
) -> tuple[Channel, ...]:
    """The channels of ``settings``, in order; ``variables`` hold what they name.

    Nothing is sent or connected, and nothing needs closing. Raises :class:`ConfigurationError`
    naming the channel and the variable, never a value.
    """
    return tuple(_open(one, variables) for one in settings)


def _open(one: ChannelSettings, variables: Mapping[str, str]) -> Channel:
    if one.kind == "log":
        return LogChannel(one.name)
    url, source = one.url or "", "its url"
    if one.url_env is not None:
        url, source = _value(one, one.url_env, variables), one.url_env
    if one.kind == "apprise":
        return open_apprise(one.name, url, source)
    try:
        check_url(url)
        _ = httpx.URL(url).host
        if one.kind == "discord":
            post = Post(one.name, tls_for(url))
            return Discord(one.name, webhook_url(url), post, source)
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError(f"channel {one.name}: {source}: not a URL") from None
    except ValueError as error:
        raise ConfigurationError(f"channel {one.name}: {source}: {error}") from None
    secret = _value(one, one.secret_env or "", variables)
    return Webhook(one.name, url, secret.encode(), Post(one.name, tls_for(url)))


def _value(one: ChannelSettings, variable: str, variables: Mapping[str, str]) -> str:
    value = variables.get(variable, "").strip()
    if not value:
        raise ConfigurationError(
            f"channel {one.name}: the environment variable {variable or 'secret_env'} is not set"
        )
    return value
