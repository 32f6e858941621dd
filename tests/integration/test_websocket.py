"""The socket adapter against real servers that end in their own ways."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket
import wsproto
from wsproto import events

from livermore.adapters import websocket
from livermore.adapters.websocket import BUFFER, QUEUE, Socket, open_socket
from livermore.errors import ConnectionLost


async def hang_up(request: trio_websocket.WebSocketRequest) -> None:
    socket = await request.accept()
    await socket.send_message("last words")
    await socket._stream.aclose()


async def close(request: trio_websocket.WebSocketRequest) -> None:
    socket = await request.accept()
    await socket.send_message("last words")
    await socket.aclose(1001, "going away")


@pytest.mark.parametrize("end", [hang_up, close])
async def test_a_server_that_ends_first_leaves_no_descriptor_open(end) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, end, "127.0.0.1", 0, None)
            opened: list[int] = []
            for _ in range(12):
                with pytest.raises(ConnectionLost):
                    async with open_socket(
                        f"ws://127.0.0.1:{server.port}", maximum_message=1 << 20
                    ) as socket:
                        assert await socket.get() == "last words"
                        await socket.get()
                opened.append(len(os.listdir("/proc/self/fd")))
            assert opened[-1] <= opened[1]
            nursery.cancel_scope.cancel()


async def test_an_error_inside_is_raised_as_it_is_not_in_a_group() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                trio_websocket.serve_websocket, close, "127.0.0.1", 0, None
            )
            with pytest.raises(ConnectionLost, match="1001 going away"):
                async with open_socket(
                    f"ws://127.0.0.1:{server.port}", maximum_message=1 << 20
                ) as socket:
                    await socket.get()
                    await socket.get()
            nursery.cancel_scope.cancel()


async def test_a_server_that_accepts_and_says_nothing_is_given_up(autojump_clock) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    started = trio.current_time()
    with trio.fail_after(60), pytest.raises(ConnectionLost, match="no answer within 10 s"):
        async with open_socket(f"ws://127.0.0.1:{port}", maximum_message=1 << 20):
            pass
    assert trio.current_time() - started == pytest.approx(10, abs=0.1)
    await listeners[0].aclose()


async def answer(reply: bytes, stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    if reply:
        await stream.send_all(reply)
    await stream.aclose()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "refused with HTTP 403"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP 200|no WebSocket answers"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no WebSocket answers|hung up"),
        (b"", "the server hung up"),
    ],
)
async def test_a_server_that_does_not_upgrade_is_named_at_once(reply: bytes, said: str) -> None:
    started = trio.current_time()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trio.serve_tcp, functools.partial(answer, reply), 0)
            listeners = await nursery.start(functools.partial(serve, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(ConnectionLost, match=said):
                async with open_socket(f"ws://127.0.0.1:{port}", maximum_message=1 << 20):
                    pass
            nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 5


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ws://127.0.0.1:1/", "cannot connect to ws://127.0.0.1:1/"),
        ("http://127.0.0.1/", "use ws:// or wss://"),
        ("ws://127.0.0.1:port/", "cannot connect"),
    ],
)
async def test_an_unusable_address_is_named(url: str, said: str) -> None:
    with trio.fail_after(15), pytest.raises(ConnectionLost, match=said):
        async with open_socket(url, maximum_message=1 << 20):
            pass


# -- messages taken past the library ---------------------------------------------------------


def message(payload: bytes, *, first: int = 0x81) -> bytes:
    size = len(payload)
    length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
    return bytes([first]) + length + payload


Serve = Callable[[trio.SocketStream, trio.Event], Awaitable[None]]
"""Is told when the client has closed."""


@asynccontextmanager
async def connected(
    serve: Serve, *, early: bytes = b""
) -> AsyncIterator[tuple[Socket, trio.MemoryReceiveChannel[events.Event]]]:
    """A socket to a server that sends ``early`` with its upgrade and does ``serve``.

    And what else the server hears; it answers the close of its client.
    """
    tell, heard = trio.open_memory_channel[events.Event](math.inf)

    async def upgrade(stream: trio.SocketStream) -> None:
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        closed = trio.Event()

        async def hear() -> None:
            while not closed.is_set():
                protocol.receive_data(bytes(await stream.receive_some()) or None)
                for event in protocol.events():
                    tell.send_nowait(event)
                    if isinstance(event, events.CloseConnection):
                        closed.set()

        protocol.receive_data(bytes(await stream.receive_some()))
        assert isinstance(next(protocol.events()), events.Request)
        try:
            await stream.send_all(protocol.send(events.AcceptConnection()) + early)
            async with trio.open_nursery() as both:
                both.start_soon(hear)
                both.start_soon(serve, stream, closed)
            await stream.send_all(message(b"\x03\xe8", first=0x88))
        except* trio.BrokenResourceError:
            pass  # the client did not wait

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listen = functools.partial(trio.serve_tcp, upgrade, 0, host="127.0.0.1")
            listeners = await nursery.start(listen)
            port = listeners[0].socket.getsockname()[1]
            async with open_socket(f"ws://127.0.0.1:{port}", maximum_message=10_000) as socket:
                yield socket, heard
            nursery.cancel_scope.cancel()


def sends(data: bytes, *, at_once: int = 1 << 20) -> Serve:
    async def serve(stream: trio.SocketStream, closed: trio.Event) -> None:
        for at in range(0, len(data), at_once):
            await stream.send_all(data[at : at + at_once])

    return serve


async def all_of(socket: Socket) -> tuple[list[str | bytes], str]:
    """Every frame until the end, and how it ended."""
    found: list[str | bytes] = []
    while True:
        try:
            found.append(await socket.get())
        except ConnectionLost as lost:
            return found, str(lost)


async def test_pings_between_messages_are_answered_with_their_payload() -> None:
    data = b"".join(
        message(b"%d" % number) + (message(b"p%d" % number, first=0x89) if number % 3 == 0 else b"")
        for number in range(10)
    )
    async with connected(sends(data)) as (socket, heard):
        assert [await socket.get() for _ in range(10)] == list(map(str, range(10)))
        pongs = [await heard.receive() for _ in range(4)]
        assert pongs == [
            events.Pong(b"p0"),
            events.Pong(b"p3"),
            events.Pong(b"p6"),
            events.Pong(b"p9"),
        ]


async def test_frames_that_come_with_the_upgrade_are_not_lost() -> None:
    async with connected(sends(b""), early=message(b"first") + message(b"second")) as (socket, _):
        assert [await socket.get(), await socket.get()] == ["first", "second"]


async def test_long_messages_and_fragments_keep_their_place_among_short_ones() -> None:
    whole = "é" * 4000
    data = (
        message(b"1")
        + message(b"2a", first=0x01)
        + message(b"ping", first=0x89)
        + message(b"2b", first=0x80)
        + message(b"3", first=0x82)
        + message(whole.encode())
        + message(b"5")
    )

    for serve in (sends(data), sends(data, at_once=3)):
        async with connected(serve) as (socket, _):
            found = [await socket.get() for _ in range(5)]
            assert found == ["1", "2a2b", b"3", whole, "5"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (message(b"\x03\xe9going away", first=0x88), "1001 going away"),
        (message(b"", first=0x88), "1005"),
        (message(b"\xff"), "1007"),
        (message(b"x", first=0xC1), "1002 Reserved bit set"),
        (message(b"x", first=0x83), "1002 Invalid opcode"),
        (message(b"x" * 10_001), "1009 Exceeded maximum message size"),
    ],
)
async def test_what_was_sent_before_the_end_arrives_and_the_end_is_named(
    end: bytes, said: str
) -> None:
    data = b"".join(message(b"%d" % number) for number in range(300)) + end + message(b"too late")
    async with connected(sends(data)) as (socket, _):
        found, lost = await all_of(socket)
        if "1009" not in said:  # the library throws away what waits when it refuses
            assert found == list(map(str, range(300)))
        assert "too late" not in found
        assert f"the exchange closed the connection: {said}" in lost


async def test_a_frame_that_was_cut_off_is_no_message() -> None:
    async def cut(stream: trio.SocketStream, closed: trio.Event) -> None:
        await stream.send_all(message(b"whole") + message(b"cut off")[:-1])
        await stream.send_eof()

    async with connected(cut) as (socket, _):
        found, lost = await all_of(socket)
        assert found == ["whole"]
        assert "1006" in lost


async def test_a_ping_that_crosses_our_goodbye_is_no_failure() -> None:
    async def ping(stream: trio.SocketStream, closed: trio.Event) -> None:
        await closed.wait()
        await stream.send_all(message(b"still there?", first=0x89))

    async with connected(ping):
        pass


async def test_a_server_that_sends_what_nobody_reads_has_to_wait() -> None:
    count, payload = 0, b"x" * 1000
    block = b"".join(message(payload) for _ in range(64))

    async def flood(stream: trio.SocketStream, closed: trio.Event) -> None:
        nonlocal count
        while not closed.is_set():
            await stream.send_all(block)
            count += 64

    async with connected(flood) as (socket, _):
        before = -1
        while before != count:
            before = count
            await trio.testing.wait_all_tasks_blocked(0.2)
        kernel = 16 << 20  # what both ends' buffers may hold
        assert count * 1000 < QUEUE * BUFFER * 1.1 + kernel
        for _ in range(count):
            assert await socket.get() == payload.decode()
        assert count > before  # it went on


async def test_a_wait_that_is_cancelled_loses_no_frame() -> None:
    release = trio.Event()

    async def twice(stream: trio.SocketStream, closed: trio.Event) -> None:
        for part in range(2):
            await stream.send_all(
                b"".join(message(b"%d" % n) for n in range(part * 50, part * 50 + 50))
            )
            await release.wait()

    async with connected(twice) as (socket, _):
        found: list[str | bytes] = []
        while len(found) < 100:
            with trio.CancelScope() as scope:
                if len(found) % 2:
                    scope.cancel()
                found.append(await socket.get())
            if scope.cancelled_caught:
                found.append(await socket.get())
            if len(found) == 50:
                release.set()
        assert found == list(map(str, range(100)))


async def test_waiting_for_a_frame_lets_others_run_although_it_is_here() -> None:
    data = b"".join(message(b"%d" % number) for number in range(10))
    async with connected(sends(data)) as (socket, _):
        await socket.get()
        for number in range(1, 10):
            with trio.testing.assert_checkpoints():
                assert await socket.get() == str(number)
        assert socket.get_nowait() is None


async def test_our_end_is_answered_behind_messages_that_nobody_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", math.inf)

    async def flood(stream: trio.SocketStream, closed: trio.Event) -> None:
        while not closed.is_set():
            await stream.send_all(message(b"more") * 1000)

    async with connected(flood) as (socket, heard):
        assert await socket.get() == "more"
    assert isinstance(heard.receive_nowait(), events.CloseConnection)
