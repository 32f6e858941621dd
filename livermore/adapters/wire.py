"""Scripts on one plain connection to Redis, in the event loop: no thread is woken for them.

What was measured and shapes this file: where a thousand candles close at one instant, the thread
that should write the first of them waited 5-7 ms for the interpreter, busy with frames, and again
after every reply. Here Redis works while frames are read. redis-py connects (addresses, users and
databases are its business), hiredis reads the replies. Clusters and TLS stay with the threads.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import hiredis
import redis.exceptions
import trio

AT_ONCE = 50
"""Calls that are packed and sent before more are: Redis works while we pack."""
CHUNK = 1 << 16
SOON = 0.2
"""Seconds for which a reply is waited for in the event loop, and then in a thread: how long is
waited at all is real time, whatever clock the event loop has."""


TOGETHER = 10
"""Calls that are sent as one, where they can be: of what more save nothing is left to see."""


class Packed(bytes):
    """A whole call as it is sent: the last element of one that was packed when it was made."""

    joins: tuple[int, int, int] | None = None
    """Where its two keys and its arguments begin, and how many words both are, if it can be sent as
    one with others like it."""


def packed(call: tuple[Any, ...]) -> bytes:
    """``call`` as it is sent."""
    last = call[-1]
    return last if type(last) is Packed else hiredis.pack_command(call)


def unpacked(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """``call`` with all its arguments."""
    if type(call[-1]) is not Packed:
        return call
    reader = hiredis.Reader()
    reader.feed(call[-1])
    return (*call[:-1], *reader.gets()[len(call) - 1 :])


def bulk(argument: str | bytes | int) -> bytes:
    """One argument of a call as it is sent."""
    text = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _slices(calls: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    return (calls[start : start + AT_ONCE] for start in range(0, len(calls), AT_ONCE))


def _can_be_joined(call: tuple[Any, ...]) -> bool:
    return getattr(call[-1], "joins", None) is not None


def _is_refused(answer: object) -> bool:
    """Whether the server knows the script and did not run it, or not to its end."""
    return isinstance(answer, redis.exceptions.ResponseError) and not isinstance(
        answer, redis.exceptions.NoScriptError
    )


def _join(calls: Sequence[tuple[Any, ...]], digest: str) -> bytes:
    """One call of the script ``digest`` for several of one other: all keys, then all arguments."""
    keys, arguments, words = [], [], 3
    for call in calls:
        text: Packed = call[-1]
        assert text.joins is not None
        first, then, count = text.joins
        keys.append(text[first:then])
        arguments.append(text[then:])
        words += count
    start = b"".join([bulk("EVALSHA"), bulk(digest), bulk(2 * len(calls))])
    return b"".join([b"*%d\r\n" % words, start, *keys, *arguments])


class Wire:
    """One connection. Used by one task at a time."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._reader: hiredis.Reader | None = None
        self._joins = True
        """Whether this server takes calls that are joined: a node of a cluster does not."""

    def is_open(self) -> bool:
        """Whether there is a connection that nobody has ended since it was used last."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.close()  # ended, or something comes that nobody asked for
        return False

    def use(self, connection: Any) -> None:
        """Take a connection of redis-py that is connected and that nobody else uses."""
        self._connection = connection
        self._socket = connection._sock  # it has no other name
        self._socket.setblocking(False)
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=connection._parser.parse_error,
        )
        self._joins = True

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = self._socket = self._reader = None

    async def ask(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Replies in order, errors in the places of those that are none.

        Where one is no ``ResponseError`` the connection is closed, and what came of the calls it
        stands for is not known.
        """
        replies, error = await self._exchange(
            (len(some), b"".join(map(packed, some))) for some in _slices(calls)
        )
        return replies + [error] * (len(calls) - len(replies))

    async def ask_together(self, calls: Sequence[tuple[Any, ...]], digest: str) -> list[Any]:
        """As :meth:`ask`, for calls whose order is better kept and need not be.

        Several that can be joined are sent as one call of the script ``digest``. That answers with
        a list; what 0 stands for in it is asked by itself afterwards, behind all others. So is each
        of a joined call that is refused as a whole; where one is taken then, none are joined on
        this connection any more.
        """
        sizes: list[int] = []
        """How many calls each that was sent stands for."""

        def joined() -> Iterator[tuple[int, bytes]]:
            for some in _slices(calls):
                before, data = len(sizes), []
                for alike, group in itertools.groupby(some, key=_can_be_joined):
                    those, most = list(group), TOGETHER if alike and self._joins else 1
                    for start in range(0, len(those), most):
                        part = those[start : start + most]
                        data.append(_join(part, digest) if len(part) > 1 else packed(part[0]))
                        sizes.append(len(part))
                yield len(sizes) - before, b"".join(data)

        answers, error = await self._exchange(joined())
        replies: list[Any] = []
        again: list[int] = []
        refused: set[int] = set()
        for size, answer in zip(sizes, answers, strict=False):  # there may be fewer answers
            if size > 1 and _is_refused(answer):
                places = range(len(replies), len(replies) + size)
                again += places
                refused.update(places)
            if size == 1 or isinstance(answer, Exception):
                replies += [answer] * size
                continue
            again += [len(replies) + i for i, one in enumerate(answer) if one == 0]
            replies += answer
        if again:
            alone = [error] * len(again)
            if error is None:
                alone = await self.ask([calls[i] for i in again])
            for i, reply in zip(again, alone, strict=True):
                replies[i] = reply
                if i in refused and not isinstance(reply, Exception):
                    self._joins = False
        return replies + [error] * (len(calls) - len(replies))

    async def _exchange(
        self, sent: Iterable[tuple[int, bytes]]
    ) -> tuple[list[Any], Exception | None]:
        """The replies to all that is sent, and why there are not more. What is sent is made while
        Redis works on what was sent before; with it comes how many calls it is."""
        assert self._reader is not None
        assert self._socket is not None
        replies: list[Any] = []
        wanted = 0
        try:
            for count, data in sent:
                wanted += count
                await self._send(data)
            while self._take(replies, wanted):
                await self._receive()
        except BaseException as error:
            with contextlib.suppress(OSError, redis.exceptions.RedisError):  # what came unread
                while self._take(replies, wanted) and (data := self._socket.recv(CHUNK)):
                    self._reader.feed(data)
            self.close()  # others that come must not answer the next call
            if not isinstance(error, redis.exceptions.RedisError | OSError):
                raise
            return replies, error
        return replies, None

    def _take(self, replies: list[Any], wanted: int) -> bool:
        """Put what was received with the other replies; whether more is wanted."""
        assert self._reader is not None
        while len(replies) < wanted:
            reply = self._reader.gets()
            if reply is False:
                return True
            if not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
        return False

    async def _send(self, data: bytes) -> None:
        assert self._socket is not None
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await self._until(self._socket, select.POLLOUT)

    async def _receive(self) -> None:
        assert self._socket is not None
        assert self._reader is not None
        while True:
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                await self._until(self._socket, select.POLLIN)
            else:
                break
        if not data:
            raise redis.exceptions.ConnectionError("Connection closed by server.")
        self._reader.feed(data)

    async def _until(self, one: socket.socket, what: int) -> None:
        """Wait for the socket; raises redis-py's ``TimeoutError``."""
        begun = time.monotonic()
        with trio.move_on_after(SOON) as soon:
            if what == select.POLLIN:
                await trio.lowlevel.wait_readable(one)
            else:
                await trio.lowlevel.wait_writable(one)
        if not soon.cancelled_caught:
            return
        poll = select.poll()
        poll.register(one, what)
        left = max(0.0, begun + self._timeout - time.monotonic())
        if not await trio.to_thread.run_sync(poll.poll, left * 1000):
            raise redis.exceptions.TimeoutError("Timeout reading from socket")
