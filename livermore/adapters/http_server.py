"""One small question over HTTP/1.1, one reply, and the connection is closed.

For metrics and health: GET and HEAD only, and what a client may cost is bounded in bytes and
seconds, whether it is slow, silent or speaks something else. Who starts :func:`serve_one` bounds
how many there are at once.
"""

from __future__ import annotations

import http
from collections.abc import Callable

import attrs
import h11
import trio

WITHIN = 5.0
"""Seconds for the whole exchange."""
LINGER = 0.5
"""Seconds in which what the client still sends is read: closing over it could lose the reply."""
MOST_HEAD = 16_384
"""Bytes of a request's head."""
_READ = 4_096


@attrs.frozen
class Question:
    """What is asked for: a path without its query, and which form of answer is liked."""

    path: str
    accept: str = ""


@attrs.frozen
class Answer:
    """A status code and a body."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


async def serve_one(stream: trio.abc.Stream, answer: Callable[[Question], Answer]) -> None:
    """Answer one request on ``stream`` and close it. Whatever the client does is no error."""
    try:
        with trio.move_on_after(WITHIN):
            await _exchange(stream, answer)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # it left in the middle: its right
    finally:
        await trio.aclose_forcefully(stream)


async def _exchange(stream: trio.abc.Stream, answer: Callable[[Question], Answer]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
    try:
        request = await _request(connection, stream)
    except h11.RemoteProtocolError as error:
        if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await _reply(connection, stream, _plain(error.error_status_hint), head=False)
        return
    if request is None:
        return
    method = request.method.decode("ascii")
    if method not in {"GET", "HEAD"}:
        reply = _plain(405)
    else:
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        reply = answer(
            Question(request.target.decode("latin-1").partition("?")[0], accept.decode("latin-1"))
        )
    await _reply(connection, stream, reply, head=method == "HEAD")


async def _request(connection: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None


async def _reply(
    connection: h11.Connection, stream: trio.abc.Stream, reply: Answer, *, head: bool
) -> None:
    headers = [
        ("content-type", reply.content_type),
        ("content-length", str(len(reply.body))),
        ("cache-control", "no-store"),
        ("connection", "close"),
        *([("allow", "GET, HEAD")] if reply.status == 405 else []),
    ]
    phrase = http.HTTPStatus(reply.status).phrase
    response = h11.Response(status_code=reply.status, reason=phrase, headers=headers)
    data = connection.send(response) or b""
    await stream.send_all(data + (b"" if head else reply.body))
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    with trio.move_on_after(LINGER):
        while await stream.receive_some(_READ):
            pass


def _plain(status: int) -> Answer:
    return Answer(status, f"{http.HTTPStatus(status).phrase}\n".encode())


NOT_FOUND = _plain(404)
