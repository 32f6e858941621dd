"""The socket adapter against real servers that end in their own ways."""

from __future__ import annotations

import functools
import os

import pytest
import trio
import trio_websocket

from livermore.adapters.websocket import open_socket
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
