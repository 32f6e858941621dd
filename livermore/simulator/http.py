"""HTTP/1.1 on a stream: requests in, replies out, misbehaviour included in the reply."""

from __future__ import annotations

import http
import urllib.parse
from collections.abc import Callable, Mapping
from wsgiref.handlers import format_date_time

import attrs
import h11
import msgspec
import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
_READ = 65_536
_MOST = 1 << 20
"""Bytes of a request's body."""
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


@attrs.frozen
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    address: str
    """The client's IP address."""
    no_cache: bool = False
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """By lower-case names. Not in the repr: they may hold a key."""
    target: str = attrs.field(default="", repr=False)
    """Path and query as they came."""

    def first(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[0] if values else None


@attrs.frozen
class Reply:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json; charset=utf-8"
    delay: float = 0.0
    """Seconds to wait before the first byte."""
    drip: float = 0.0
    """Seconds between pieces of the body, when it is to arrive in sixteen of them."""
    hang_up: bool = False
    """Break off in the middle of the body."""


def socket_of(stream: Stream) -> trio.socket.SocketType:
    """The socket below."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket


def address_of(stream: Stream) -> str:
    """The client's IP address."""
    return str(socket_of(stream).getpeername()[0])


def json_reply(
    status: int, value: object, headers: tuple[tuple[str, str], ...] = (), delay: float = 0.0
) -> Reply:
    return Reply(status, msgspec.json.encode(value), headers, delay=delay)


async def serve_http(
    stream: trio.abc.Stream,
    address: str,
    answer: Callable[[Request], Reply],
    wall: Callable[[], float],
) -> None:
    """Answer requests on ``stream`` until the client leaves; any stream will do, TLS included.

    ``wall``: epoch seconds for the Date header.
    """
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            request = await _request(connection, stream, address)
            if request is None:
                return
            reply = answer(request)
            await _send(connection, stream, request, reply, wall())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the client left in the middle: its right
    except h11.RemoteProtocolError as error:
        if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            refusal = Reply(error.error_status_hint, b"", headers=(("connection", "close"),))
            with trio.move_on_after(1), _leaving():
                await _send(connection, stream, None, refusal, wall())
    finally:
        await trio.aclose_forcefully(stream)


class _leaving:
    """Nobody is left to tell."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, trio.BrokenResourceError)


async def _request(
    connection: h11.Connection, stream: trio.abc.ReceiveStream, address: str
) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MOST:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _made(head, bytes(body), address)
        else:
            return None


def _made(head: h11.Request, body: bytes, address: str) -> Request:
    try:
        target = urllib.parse.urlsplit(head.target.decode("ascii"))
    except ValueError as error:
        raise h11.RemoteProtocolError(f"the target is no path: {error}") from None
    cache = b",".join(value for name, value in head.headers if name == b"cache-control")
    return Request(
        head.method.decode("ascii"),
        target.path,
        urllib.parse.parse_qs(target.query, keep_blank_values=True),
        body,
        address,
        b"no-cache" in cache.lower(),
        {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
        head.target.decode("ascii"),
    )


async def _send(
    connection: h11.Connection,
    stream: trio.abc.SendStream,
    request: Request | None,
    reply: Reply,
    wall: float,
) -> None:
    if reply.delay:
        await trio.sleep(reply.delay)
    headers = [
        ("date", format_date_time(wall)),
        ("content-type", reply.content_type),
        ("content-length", str(len(reply.body))),
        *reply.headers,
    ]
    response = h11.Response(
        status_code=reply.status,
        reason=_PHRASES.get(reply.status, ""),
        headers=headers,
    )
    data = connection.send(response)
    assert data is not None
    if request is not None and request.method == "HEAD":
        await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
        return
    if reply.hang_up:
        await stream.send_all(data + reply.body[: len(reply.body) // 2])
        connection.send_failed()
        return
    if reply.drip:
        await stream.send_all(data)
        step = max(1, len(reply.body) // 16)
        for at in range(0, len(reply.body), step):
            await trio.sleep(reply.drip)
            piece = connection.send(h11.Data(data=reply.body[at : at + step]))
            await stream.send_all(piece or b"")
        connection.send(h11.EndOfMessage())
        return
    data += connection.send(h11.Data(data=reply.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
