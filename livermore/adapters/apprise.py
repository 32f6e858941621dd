"""Everything else there is (Telegram, e-mail, ntfy, Slack, …), through Apprise.

Apprise is synchronous and cannot be cancelled, so it runs in a thread of its own, one at a time;
one that takes too long is left behind. It says whether a message went through, not why not. It and
what it sends with write URLs and tokens into their logs, so these loggers lead nowhere.
"""

from __future__ import annotations

import functools
import logging
import warnings
from typing import TYPE_CHECKING

import trio

from livermore.errors import ChannelError, ChannelRefused, ConfigurationError
from livermore.signals.message import Colour, Message, body, headline

if TYPE_CHECKING:
    import apprise

DEADLINE = 15.0
"""Seconds; Apprise itself waits 4 s for a connection and 4 s for each answer."""

TALKATIVE = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib")
LOOKS = {
    Colour.UP: "success",
    Colour.DOWN: "failure",
    Colour.MIXED: "info",
    Colour.BLIND: "warning",
    Colour.RECOVERY: "info",
    Colour.WITHDRAWN: "warning",
}


class AppriseChannel:
    """One Apprise URL."""

    edits = False

    def __init__(self, name: str, service: apprise.Apprise, deadline: float = DEADLINE) -> None:
        self.name = name
        self._service = service
        self._deadline = deadline
        # One that was left behind keeps its place until it ends: they cannot pile up.
        self._limiter = trio.CapacityLimiter(1)

    async def send(self, message: Message) -> str:
        """Hand ``message`` over; it has no id over there."""
        notify = functools.partial(
            self._service.notify,
            title=headline(message),
            body=body(message) or headline(message),
            notify_type=LOOKS[message.colour],
            body_format="text",
        )
        began = False

        def run() -> bool:
            nonlocal began
            began = True
            return bool(notify())

        sent: bool | None = None
        with trio.move_on_after(self._deadline):
            sent = await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)
        if sent is None:
            raise ChannelError(
                f"{self.name}: not sent within {self._deadline:g} s", uncertain=began
            )
        if not sent:
            raise ChannelError(f"{self.name}: Apprise could not send it", uncertain=True)
        return ""

    async def edit(self, message_id: str, message: Message) -> None:
        """Refused: Apprise only sends."""
        raise ChannelRefused(f"{self.name}: what Apprise sent cannot be edited")

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Refused: Apprise only sends."""
        raise ChannelRefused(f"{self.name}: what Apprise sent takes no picture")


def open_apprise(name: str, url: str, variable: str) -> AppriseChannel:
    """The channel for ``url``, which came from ``variable``; raises :class:`ConfigurationError`."""
    try:
        import apprise  # as large as everything else together, and only where it is used
    except ImportError:
        raise ConfigurationError(
            f"channel {name}: Apprise is not installed: pip install 'livermore[apprise]'"
        ) from None
    for talkative in TALKATIVE:
        logger = logging.getLogger(talkative)
        logger.propagate = False
        logger.handlers[:] = [logging.NullHandler()]
    asset = apprise.AppriseAsset(app_id="Livermore", app_desc="Livermore", app_url="")
    service = apprise.Apprise(asset=asset)
    with warnings.catch_warnings(action="ignore"):  # it loads all its plugins here, old ones too
        known = service.add(url)
    if not known:
        raise ConfigurationError(
            f"channel {name}: what {variable} holds is not a URL that Apprise knows: "
            "see https://appriseit.com/services"
        )
    return AppriseChannel(name, service)
