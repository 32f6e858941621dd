"""A simulated exchange's websocket, at the other end of a socket pair of its own."""

from __future__ import annotations

import socket as sockets

import pytest
import trio
import wsproto
import wsproto.events as ws

from livermore.simulator.faults import Faults
from livermore.simulator.socket import Socket
from livermore.simulator.stats import Stats


@pytest.fixture
async def pair(nursery):
    """A simulated socket that runs, and the client's stream and protocol."""
    ours, theirs = (
        trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in sockets.socketpair()
    )
    one = Socket(1, "127.0.0.1", ours, Faults(1), Stats(), 1 << 20, lambda: 0)
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    await theirs.send_all(client.send(ws.Request(host="exchange", target="/stream")))
    assert await one.accept(None, lambda target: None) == "/stream"
    client.receive_data(bytes(await theirs.receive_some()))
    assert [type(event) for event in client.events()] == [ws.AcceptConnection]
    ended = trio.Event()

    async def serve() -> None:
        await one.run(lambda message: None, lambda: None)
        ended.set()

    nursery.start_soon(serve)
    with trio.fail_after(30):
        yield one, ended, theirs, client
        await theirs.aclose()
        await ended.wait()


async def test_a_client_is_pinged(pair):
    one, _, stream, client = pair
    one.ping(b"17")
    client.receive_data(bytes(await stream.receive_some()))
    (ping,) = client.events()
    assert bytes(ping.payload) == b"17"
    await stream.send_all(client.send(ping.response()))
    await one.answered.wait()


async def test_who_said_goodbye_is_not_pinged(pair):
    one, ended, stream, client = pair
    await stream.send_all(client.send(ws.CloseConnection(code=1000)))
    await ended.wait()
    assert not one.scope.cancel_called  # it ended by the client's word alone
    one.ping(b"17")
    assert not one.pinged.is_set()
    client.receive_data(bytes(await stream.receive_some()))
    assert [type(event) for event in client.events()] == [ws.CloseConnection]


async def test_a_ping_after_our_own_goodbye_goes_nowhere(pair):
    one, ended, stream, client = pair
    one.drop(1001)
    one.ping(b"17")
    assert not one.pinged.is_set()
    client.receive_data(bytes(await stream.receive_some()))
    (close,) = client.events()
    assert close.code == 1001
    await stream.send_all(client.send(close.response()))
    await ended.wait()


async def test_a_socket_that_is_closed_is_dropped_without_harm(pair):
    one, ended, stream, client = pair
    await stream.send_all(client.send(ws.CloseConnection(code=1000)))
    await ended.wait()
    await one._stream.aclose()
    one.drop()
    assert one.scope.cancel_called
