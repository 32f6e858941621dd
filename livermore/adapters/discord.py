"""Discord webhooks: an embed per message, edited when it is withdrawn or gets its chart.

Facts from Discord's documentation (Webhook Resource, Rate Limits, Uploading Files). The URL that
Discord shows has no version and means one that counts ``Retry-After`` in milliseconds, so version
10 is asked for: there it is seconds.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import attrs
import msgspec
import trio

from livermore.adapters.channel import check_url
from livermore.adapters.http import Reply
from livermore.adapters.post import LONGEST_WAIT, Post, request, told_to_wait
from livermore.errors import ChannelBusy, ChannelError, ChannelRefused
from livermore.signals.message import Colour, Message, Style, body, headline

MOST_TITLE = 256
MOST_TEXT = 4096
"""UTF-16 units; with the title well under the 6000 of a whole message."""

PICTURE = "chart.png"
COLOURS = {
    Colour.UP: 0x26A69A,
    Colour.DOWN: 0xEF5350,
    Colour.MIXED: 0x5C6BC0,
    Colour.BLIND: 0xFFA000,
    Colour.RECOVERY: 0x42A5F5,
    Colour.WITHDRAWN: 0x9E9E9E,
}
UNKNOWN_WEBHOOK = 10015
EARLIER = 0.05
"""Seconds added to what a limit names: its decimals end somewhere."""


class _Sent(msgspec.Struct):
    id: str


class _Complaint(msgspec.Struct):
    code: int = 0
    retry_after: float | None = None
    everywhere: bool = msgspec.field(default=False, name="global")


def webhook_url(text: str) -> str:
    """The URL that is asked; raises ``ValueError``, without quoting it."""
    check_url(text)
    parts = urlsplit(text.strip())
    found = re.fullmatch(r"/api(?:/v[0-9]+)?/webhooks/([0-9]+)/([A-Za-z0-9_-]+)/?", parts.path)
    if found is None:
        raise ValueError("no webhook of Discord: https://discord.com/api/webhooks/NUMBER/TOKEN")
    return f"{parts.scheme}://{parts.netloc}/api/v10/webhooks/{found[1]}/{found[2]}?{parts.query}"


class Discord:
    """One webhook. What Discord says of its limits is remembered, and nothing sent before."""

    edits = True

    def __init__(self, name: str, url: str, post: Post, variable: str) -> None:
        self.name = name
        self._variable = variable
        address, _, query = webhook_url(url).partition("?")
        self._address = address
        # A thread of a forum is named with every request.
        self._thread = parse_qs(query).get("thread_id", [])[-1:]
        self._post = post
        self._until: dict[str, float] = {}
        """Method -> monotonic time before which nothing is sent; ``*`` is every method."""
        self._gone = ""
        """Why nothing is ever sent again."""

    async def send(self, message: Message) -> str:
        """Send ``message``; returns its id."""
        reply = await self._ask("POST", "", {"wait": "true"}, _payload(message))
        try:
            return _sents.decode(reply.body).id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return ""  # it is there, and cannot be edited

    async def edit(self, message_id: str, message: Message) -> None:
        """Put ``message`` in the place of another; its picture goes."""
        await self._ask(
            "PATCH", _path(self.name, message_id), {}, _payload(message, attachments=[])
        )

    async def attach(self, message_id: str, message: Message, png: bytes) -> None:
        """Show ``message`` again, with a picture."""
        shown = {"id": 0, "filename": PICTURE, "description": headline(message)[:1000]}
        payload = _payload(message, picture=PICTURE, attachments=[shown])
        await self._ask("PATCH", _path(self.name, message_id), {}, payload, png)

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        payload: bytes,
        png: bytes | None = None,
    ) -> Reply:
        if self._gone:
            raise ChannelRefused(self._gone)
        until = max(self._until.get(method, 0.0), self._until.get("*", 0.0))
        if (wait := until - trio.current_time()) > 0:
            raise ChannelBusy(f"{self.name}: Discord's limit lasts {wait:.1f} s more", wait)
        if self._thread:
            query = {**query, "thread_id": self._thread[0]}
        url = self._address + path + ("?" + urlencode(query) if query else "")
        if png is None:
            asked = request(
                method, url, headers={"Content-Type": "application/json"}, content=payload
            )
        else:
            asked = request(
                method,
                url,
                headers={},
                files={
                    "payload_json": (None, payload, "application/json"),
                    "files[0]": (PICTURE, png, "image/png"),
                },
            )
        reply = await self._post.ask(asked)
        self._heed(method, reply)
        return reply

    def _heed(self, method: str, reply: Reply) -> None:
        """Remember limits; raises what the status means."""
        now = trio.current_time()
        if reply.headers.get("x-ratelimit-remaining") == "0":
            after = reply.headers.get("x-ratelimit-reset-after", "")
            if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", after):
                self._until[method] = now + float(after) + EARLIER
        if 200 <= reply.status < 300:
            return
        said = _complaint(reply.body)
        status = reply.status
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            waits = [told_to_wait(reply), None if said is None else said.retry_after]
            known = [wait for wait in waits if wait is not None and 0 <= wait <= LONGEST_WAIT]
            if not known:
                raise ChannelError(
                    f"{self.name}: Discord takes no more now, until when is not said"
                )
            wait = max(known) + EARLIER
            # What is not Discord's own reply comes from before it, and is about this machine.
            key = "*" if said is None or said.everywhere else method
            self._until[key] = max(self._until.get(key, 0.0), now + wait)
            raise ChannelBusy(f"{self.name}: Discord takes no more for {wait:.1f} s", wait)
        if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
            # 503 means that it was not looked at; of the others nobody knows.
            uncertain = status != HTTPStatus.SERVICE_UNAVAILABLE
            raise ChannelError(f"{self.name}: Discord answers {status}", uncertain=uncertain)
        code = said.code if said is not None else 0
        if status == HTTPStatus.UNAUTHORIZED or (
            status == HTTPStatus.NOT_FOUND and (method == "POST" or code == UNKNOWN_WEBHOOK)
        ):
            self._gone = (
                f"{self.name}: Discord knows no such webhook ({status}): make a new one, "
                f"put its URL into {self._variable} and start again"
            )
            raise ChannelRefused(self._gone)
        detail = f"{status}, code {code}" if code else str(status)
        raise ChannelRefused(f"{self.name}: Discord refuses the message ({detail})")


def embed(message: Message, picture: str | None = None) -> dict[str, Any]:
    """``message`` as Discord shows it, within its bounds."""
    title = headline(message, DISCORD)
    while DISCORD.length(title) > MOST_TITLE:
        message = attrs.evolve(message, title=message.title[:-9] + "…")
        title = headline(message, DISCORD)
    shown: dict[str, Any] = {
        "title": title,
        "description": body(message, DISCORD, MOST_TEXT),
        "color": COLOURS[message.colour],
    }
    if picture is not None:
        shown["image"] = {"url": f"attachment://{picture}"}
    return shown


def _payload(
    message: Message,
    *,
    picture: str | None = None,
    attachments: list[dict[str, Any]] | None = None,
) -> bytes:
    said: dict[str, Any] = {
        "embeds": [embed(message, picture)],
        "allowed_mentions": {"parse": []},
    }
    if attachments is not None:
        said["attachments"] = attachments
    return msgspec.json.encode(said)


def _escaped(text: str) -> str:
    """No name or reason is read as a mark, a mention or a link."""
    return _MARKS.sub(r"\\\g<0>", text)


_MARKS = re.compile(r"[\\*_~`|<>\[\]@#]|:(?=//)")


def _block(text: str) -> str:
    return "```\n" + text.replace("`", "'") + "\n```"


DISCORD = Style(
    escape=_escaped,
    strike=lambda text: f"~~{text}~~",
    block=_block,
    length=lambda text: len(text.encode("utf-16-le", "surrogatepass")) // 2,
)


def _path(name: str, message_id: str) -> str:
    if not re.fullmatch(r"[0-9]{1,24}", message_id):
        raise ChannelRefused(f"{name}: what was sent has no id, so it cannot be edited")
    return f"/messages/{message_id}"


def _complaint(reply: bytes) -> _Complaint | None:
    """What Discord says of a refusal; None where the reply is not Discord's."""
    try:
        return _complaints.decode(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


_sents = msgspec.json.Decoder(_Sent)
_complaints = msgspec.json.Decoder(_Complaint)
