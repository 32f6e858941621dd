"""Webhooks for programs: signed JSON, and the receiver decides what it means.

``X-Livermore-Signature: sha256=HEX`` is the HMAC-SHA256 of ``X-Livermore-Timestamp`` (epoch
seconds of this try), a full stop and the body. ``X-Livermore-Id`` (percent-encoded) is the same at
every try of one message, so that what comes twice can be told.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import quote

import msgspec

from livermore.adapters.http import Reply
from livermore.adapters.post import Post, request, told_to_wait
from livermore.errors import ChannelBusy, ChannelError, ChannelRefused
from livermore.signals.message import Message, body, headline

AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
"""Refusals that may end by themselves, besides 429 and 5xx."""
NOT_LOOKED_AT = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_EARLY})


class Webhook:
    """One receiver."""

    edits = False

    def __init__(
        self,
        name: str,
        url: str,
        secret: bytes,
        post: Post,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._url = url
        self._secret = secret
        self._post = post
        self._now = now

    async def send(self, message: Message) -> str:
        """Post ``message``; it has no id over there."""
        content = encode_message(message)
        timestamp = str(int(self._now()))
        headers = {
            "Content-Type": "application/json",
            "X-Livermore-Id": quote(message.id, safe="|:#~"),
            "X-Livermore-Timestamp": timestamp,
            "X-Livermore-Signature": signature(self._secret, timestamp, content),
        }
        self._heed(
            await self._post.ask(request("POST", self._url, headers=headers, content=content))
        )
        return ""

    async def edit(self, message_id: str, message: Message) -> None:
        """Refused: what was posted stays."""
        raise ChannelRefused(f"{self.name}: a webhook cannot be edited")

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Refused: there is no picture in JSON."""
        raise ChannelRefused(f"{self.name}: a webhook takes no picture")

    def _heed(self, reply: Reply) -> None:
        status = reply.status
        if 200 <= status < 300:
            return
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500 or status in AGAIN:
            wait = told_to_wait(reply)
            if wait is not None and status in {429, 503}:
                raise ChannelBusy(f"{self.name}: answers {status}, come again in {wait:g} s", wait)
            uncertain = status != HTTPStatus.TOO_MANY_REQUESTS and status not in NOT_LOOKED_AT
            raise ChannelError(f"{self.name}: answers {status}", uncertain=uncertain)
        if 300 <= status < 400:
            raise ChannelRefused(
                f"{self.name}: answers {status}, a redirect, which is not followed: "
                "configure the URL it leads to"
            )
        raise ChannelRefused(f"{self.name}: refuses the message ({status})")


def encode_message(message: Message) -> bytes:
    """``message`` as JSON; its entries as in the stream of alerts."""
    return msgspec.json.encode(
        {
            "id": message.id,
            "kind": message.kind,
            "possibly_repeated": message.possibly_repeated,
            "dropped_before": message.dropped_before,
            "title": headline(message),
            "text": body(message),
            "entries": message.entries,
        }
    )


def signature(secret: bytes, timestamp: str, content: bytes) -> str:
    """What ``X-Livermore-Signature`` says."""
    signed = timestamp.encode() + b"." + content
    return "sha256=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
