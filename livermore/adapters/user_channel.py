"""The channel every user has: alerts on Redis pub/sub, ``channel:user:{user}:alerts``."""

from __future__ import annotations

from typing import Any

import msgspec

from livermore.adapters.redis import Call, Redis, script
from livermore.errors import ChannelError, ChannelRefused, StoreError
from livermore.signals.alert import Alert, Entry
from livermore.signals.message import Message

LANE = "alerts"


def user_channel(user: str) -> str:
    """Where the alerts a user follows are published."""
    return f"channel:user:{user}:alerts"


class UserChannel:
    """Publishes each entry of a message as it lies in the outbox.

    Beside it stand ``possibly_repeated`` where it may have been published before, and
    ``dropped_before`` where so many older entries were never published here.
    """

    edits = False

    def __init__(self, name: str, user: str, redis: Redis) -> None:
        self.name = name
        self._channel = user_channel(user)
        self._redis = redis

    async def send(self, message: Message) -> str:
        """Publish ``message``; nobody knows who hears it."""
        in_time = sorted(message.entries, key=lambda entry: entry.triggered)
        said = [_said(entry, message) for entry in in_time]
        if said and message.dropped_before:
            said[0]["dropped_before"] = message.dropped_before
        calls: list[Call] = [
            script("publish", (self._channel,), self._channel, msgspec.json.encode(one), "")
            for one in said
        ]
        try:
            await self._redis.run(calls, LANE)
        except StoreError as error:
            raise ChannelError(f"{self.name}: {error}", uncertain=True) from error
        return ""

    async def edit(self, message_id: str, message: Message) -> None:
        """Refused: what was published is gone."""
        raise ChannelRefused(f"{self.name}: what was published cannot be edited")

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Refused: there is no picture in JSON."""
        raise ChannelRefused(f"{self.name}: what was published takes no picture")


def _said(entry: Entry, message: Message) -> dict[str, Any]:
    if isinstance(entry, Alert):
        late, holds = message.when.late(entry), message.when.holds(entry)
        entry = msgspec.structs.replace(entry, late=late, holds=holds)
    said: dict[str, Any] = msgspec.to_builtins(entry)
    if message.possibly_repeated:
        said["possibly_repeated"] = True
    return said
