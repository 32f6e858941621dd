"""What a channel is: a way by which messages reach people or programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import attrs

if TYPE_CHECKING:
    from livermore.signals.message import Message

KINDS = ("apprise", "discord", "log", "webhook")


@attrs.frozen(kw_only=True)
class ChannelSettings:
    """One ``[[channels]]`` table. Secrets are named by their environment variable, never held."""

    name: str
    kind: str
    """One of :data:`KINDS`."""
    url: str | None = attrs.field(default=None, repr=False)
    """Of a webhook whose URL is no secret."""
    url_env: str | None = None
    """Name of the variable that holds the URL."""
    secret_env: str | None = None
    """Name of the variable that holds the key of a webhook's signature."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables it needs."""
        return tuple(name for name in (self.url_env, self.secret_env) if name is not None)


DEFAULT_CHANNELS = (ChannelSettings(name="log", kind="log"),)


class Channel(Protocol):
    """Each call sends once and within about ten seconds, or raises; none retries.

    :class:`~livermore.errors.ChannelError`: another try may succeed (:class:`ChannelBusy`: not
    before the time it names). :class:`~livermore.errors.ChannelRefused`: it will not. Neither they
    nor a log nor a repr quote a secret, nor what the other side answered.
    """

    @property
    def name(self) -> str:
        """As configured."""

    @property
    def edits(self) -> bool:
        """Whether :meth:`edit` and :meth:`attach` work; elsewhere they are refused."""

    async def send(self, message: Message) -> str:
        """Send ``message``; returns its id over there, empty where there is none."""

    async def edit(self, message_id: str, message: Message) -> None:
        """Put ``message`` in the place of what was sent as ``message_id``; a picture goes."""

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Show a picture under ``message``, which was sent as ``message_id``."""


def check_url(url: str) -> None:
    """That ``url`` can be posted to; raises ``ValueError``, which never quotes it."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("a URL that cannot be taken apart") from None
    if any(not 32 < ord(letter) < 127 for letter in url.strip()):
        raise ValueError("a URL that holds a space or a letter that must be percent-encoded")
    if parts.scheme not in {"https", "http"} or not host:
        raise ValueError("not a URL: write https://HOST/PATH")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("plain http to another machine: write https://")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user or a password, which are not sent: leave them out")


def _is_loopback(host: str) -> bool:
    import ipaddress  # rarely asked, and settings are read at every start

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
