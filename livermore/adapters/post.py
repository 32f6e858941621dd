"""One HTTP request whose URL is a secret, and what came back of it.

httpx builds the request and h11 carries it: httpx's own client logs every URL, and closes a TLS
connection where no cancellation reaches it. One connection per request; nothing is kept, followed
or decompressed, and an error never quotes the URL or what the other side said.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import os
import re
import socket
import ssl
from collections.abc import Mapping

import attrs
import h11
import httpx
import trio

from livermore import __version__
from livermore.adapters.http import Reply
from livermore.errors import ChannelError

DEADLINE = 10.0
"""Seconds for a whole request."""

MOST_HEAD = 65_536
MOST_BODY = 262_144
"""Bytes of a reply that are read; the rest is left."""

LONGEST_WAIT = 86_400.0
"""Seconds; what tells us to wait longer is believed this far."""

_READ = 65_536


@attrs.frozen
class Post:
    """Sends requests for the channel ``name``, which is how its errors begin."""

    name: str
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """For https."""
    deadline: float = DEADLINE

    async def ask(self, request: httpx.Request) -> Reply:
        """The reply, whatever its status; of one that stops in the middle, what there was.

        Raises :class:`ChannelError`, ``uncertain`` once the request was under way.
        """
        talk = _Talk(self.name, request, self.tls)
        with trio.move_on_after(self.deadline):
            await talk.run()
        if talk.status is None:
            raise ChannelError(
                f"{self.name}: no answer within {self.deadline:g} s"
                if talk.sending
                else f"{self.name}: no connection within {self.deadline:g} s",
                uncertain=talk.sending,
            )
        return Reply(talk.status, talk.headers, bytes(talk.body))


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None = None,
    files: Mapping[str, tuple[str | None, bytes, str]] | None = None,
) -> httpx.Request:
    """A request with ``content``, or with ``files``: name -> (file name, bytes, media type)."""
    ours = {
        "User-Agent": f"livermore/{__version__}",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    built = httpx.Request(method, url, headers={**ours, **headers}, content=content, files=files)
    built.read()
    return built


@attrs.define
class _Talk:
    """A connection, the request on it, and how far the reply is."""

    name: str
    request: httpx.Request = attrs.field(repr=False)
    tls: ssl.SSLContext | None
    sending: bool = False
    status: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytearray = attrs.field(factory=bytearray)

    async def run(self) -> None:
        """Connect, send, read; raises :class:`ChannelError` where no status came."""
        stream = await self._connect()
        try:
            self.sending = True
            await self._exchange(stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            if self.status is None:
                raise ChannelError(
                    f"{self.name}: sent, and the answer broke off or cannot be read", uncertain=True
                ) from None
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        url = self.request.url
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            tcp = await trio.open_tcp_stream(host, port)
        except (OSError, UnicodeError) as error:
            raise ChannelError(f"{self.name}: cannot connect: {_why(error)}") from None
        if url.scheme != "https":
            return tcp
        assert self.tls is not None
        stream = trio.SSLStream(tcp, self.tls, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(tcp)
            if isinstance(error, trio.BrokenResourceError):
                raise ChannelError(f"{self.name}: no TLS: {_why(error)}") from None
            raise
        return stream

    async def _exchange(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        target = self.request.url.raw_path
        data = [
            connection.send(
                h11.Request(
                    method=self.request.method, target=target, headers=self.request.headers.raw
                )
            ),
            connection.send(h11.Data(data=self.request.content)),
            connection.send(h11.EndOfMessage()),
        ]
        with contextlib.suppress(trio.BrokenResourceError):  # they may have answered, then closed
            await stream.send_all(b"".join(part for part in data if part))
        while len(self.body) < MOST_BODY:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_READ)))
            elif isinstance(event, h11.Response):
                headers = {
                    name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers
                }
                self.headers, self.status = headers, event.status_code
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return


def told_to_wait(reply: Reply) -> float | None:
    """Seconds of ``Retry-After``; a date counts against the reply's own. None where it is not."""
    told = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", told):
        return min(float(told), LONGEST_WAIT)
    try:
        now = email.utils.parsedate_to_datetime(reply.headers.get("date", ""))
        wait = (email.utils.parsedate_to_datetime(told) - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(wait, 0.0), LONGEST_WAIT)


def tls_for(url: str) -> ssl.SSLContext | None:
    """What a https URL needs: the certificates this machine trusts."""
    return ssl.create_default_context() if url.startswith("https:") else None


def _why(error: BaseException) -> str:
    """The reason of a failed connection in a few words: an error code's, never the text of it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "failed").replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return "its host is not known"
    if isinstance(error, BaseExceptionGroup):
        return _why(error.exceptions[0])
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    if error.__cause__ is not None:
        return _why(error.__cause__)
    return "the connection broke"
