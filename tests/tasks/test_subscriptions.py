"""What a connection carries changes while its socket lives: only that is said, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.dialect import Subscription
from livermore.exchanges.coinbase import CHANNELS
from livermore.market.candle import Series
from livermore.market.timeframe import Timeframe
from livermore.runtime.connection import ACKNOWLEDGED, LEFT, State
from tests.tasks.test_connection import (
    NATIVES,
    Line,
    acknowledged,
    beats,
    line,
)
from tests.tasks.test_handover import FakeSocket, Scene, scene

__all__ = ["line", "scene"]  # the fixtures

NEW = ("ADA-USD", "DOT-USD")


def follow(line: Line, new: Sequence[str] = (), gone: Sequence[str] = ()) -> None:
    """As the feed does it."""
    for native in new:
        line.tracker.add(native, Series("coinbase", native, Timeframe.M5))
        line.connection.follow([native], ())
    for native in gone:
        line.tracker.forget(native)
        line.connection.follow((), [native])


def sent(line: Line) -> list[tuple[str, str, list[str]]]:
    found = [frame for _, frame in line.socket.sent]
    return [(str(f["type"]), str(f["channel"]), list(f.get("product_ids", ()))) for f in found]  # type: ignore[call-overload]


def promised(line: Line) -> set[str]:
    """Products the connection promises to deliver."""
    return {one.native for one in line.tracker.silences(trio.current_time())}


async def alive(line: Line, nursery: trio.Nursery) -> None:
    nursery.start_soon(line.live)
    await trio.sleep(1)
    await line.socket.say.send(acknowledged(NATIVES))
    await beats(line, 2 * ACKNOWLEDGED)
    assert line.state() is State.LIVE
    line.socket.sent.clear()


async def test_new_products_are_asked_for_on_the_open_socket_and_nothing_else_is(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            follow(line, NEW)
            await beats(line, 2, every=0.1)
            assert sent(line) == [("subscribe", channel, [*NEW]) for channel in CHANNELS]
            assert promised(line) == set(NATIVES)
            assert line.health.rejected == {}
            await line.socket.say.send(acknowledged([*NATIVES, *NEW]))
            await trio.sleep(0.1)
            assert promised(line) == {*NATIVES, *NEW}
            assert line.states == [State.SUBSCRIBING, State.LIVE]
            assert line.health.symbols == 6
            nursery.cancel_scope.cancel()


async def test_what_is_left_is_unsubscribed_and_its_late_frames_are_nobodys(
    line: Line, autojump_clock: MockClock
):
    trades = {
        "channel": "market_trades", "client_id": "", "timestamp": "2026-01-02T03:04:05.678Z",
        "sequence_num": 9, "events": [{"type": "update", "trades": [
            {"trade_id": "7", "product_id": "BTC-USD", "price": "1", "size": "1", "side": "BUY",
             "time": "2026-01-02T03:04:05.600Z"}
        ]}],
    }  # fmt: skip
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            follow(line, gone=["BTC-USD"])
            await beats(line, 2)
            assert sent(line) == [("unsubscribe", channel, ["BTC-USD"]) for channel in CHANNELS]
            await line.socket.say.send(json.dumps(trades))
            await line.socket.say.send(acknowledged(NATIVES))  # was on its way
            await beats(line, 30)
            assert line.tracker.counts.foreign == 1
            assert line.tracker.pending.size() == 0
            assert promised(line) == set(NATIVES[1:])
            assert line.states == [State.SUBSCRIBING, State.LIVE]
            nursery.cancel_scope.cancel()


async def test_a_new_one_that_is_not_confirmed_costs_the_others_nothing(
    line: Line, autojump_clock: MockClock
):
    many = [f"S{n}-USD" for n in range(20)]  # far more than half of all
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            follow(line, many)
            await beats(line, ACKNOWLEDGED - 2)
            assert line.health.rejected == {}
            await beats(line, 5)
            assert set(line.health.rejected) == set(many)
            assert line.ended is None
            assert promised(line) == set(NATIVES)
            await line.socket.say.send(acknowledged([*NATIVES, *many]))
            await trio.sleep(0.1)
            assert line.health.rejected == {}
            assert line.states == [State.SUBSCRIBING, State.LIVE]
            nursery.cancel_scope.cancel()


async def test_one_that_an_error_names_is_not_served_and_its_removal_ends_that(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(2000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            follow(line, NEW)
            await beats(line, 2)
            message = json.dumps({"type": "error", "message": "ADA-USD is delisted"})
            await line.socket.say.send(message)
            await line.socket.say.send(acknowledged([*NATIVES, "DOT-USD"]))
            await trio.sleep(0.1)
            assert line.health.rejected == {"ADA-USD": "ADA-USD is delisted"}
            follow(line, gone=["ADA-USD"])
            line.socket.sent.clear()
            await beats(line, 700)
            assert line.health.rejected == {}
            assert [kind for kind, _, _ in sent(line)] == ["unsubscribe"] * 3
            nursery.cancel_scope.cancel()


async def test_one_that_comes_back_at_once_is_asked_for_when_nothing_old_is_on_its_way(
    line: Line, autojump_clock: MockClock
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            follow(line, gone=["BTC-USD"])
            await trio.sleep(0.6)
            follow(line, ["BTC-USD"])
            await line.socket.say.send(acknowledged(NATIVES))  # of before it was left
            await beats(line, 10)
            assert promised(line) == set(NATIVES[1:])
            assert sent(line) == [
                (kind, channel, ["BTC-USD"])
                for kind in ("unsubscribe", "subscribe")
                for channel in CHANNELS
            ]
            moments = [moment for moment, _ in line.socket.sent]
            assert moments[3] - moments[2] >= LEFT
            await line.socket.say.send(acknowledged(NATIVES))
            await trio.sleep(0.1)
            assert promised(line) == set(NATIVES)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after", [0.05, 0.3, 0.45])
async def test_what_changes_while_a_socket_subscribes_is_said_behind_it(
    line: Line, autojump_clock: MockClock, after: float
):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await trio.sleep(after)
            follow(line, ["ADA-USD"], ["BTC-USD"])
            await beats(line, 3)
            wanted = [*NATIVES[1:], "ADA-USD"]
            await line.socket.say.send(acknowledged(wanted))
            await trio.sleep(0.1)
            assert line.state() is State.LIVE
            assert promised(line) == set(wanted)
            asked: dict[str, set[str]] = {}
            for kind, channel, natives in sent(line):
                known = asked.setdefault(channel, set())
                (known.update if kind == "subscribe" else known.difference_update)(natives)
            assert all(asked[channel] == set(wanted) for channel in CHANNELS)
            nursery.cancel_scope.cancel()


async def test_the_next_socket_asks_for_what_is_wanted_then(line: Line, autojump_clock: MockClock):
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await alive(line, nursery)
            nursery.cancel_scope.cancel()
        follow(line, NEW, ["SOL-USD"])  # nobody is connected
        line.socket.sent.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)
            await beats(line, 8)
            wanted = [n for n in NATIVES if n != "SOL-USD"] + [*NEW]
            assert sent(line)[1:] == [("subscribe", channel, wanted) for channel in CHANNELS]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after", [0.0, 0.05, 1.0, 2.5])
async def test_both_sockets_of_a_handover_are_told(
    scene: Scene, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, after: float
):
    """``after`` seconds after the next one was asked for; the exchange needs 100 ms to answer."""
    sent: dict[FakeSocket, list[str]] = {}

    async def send(socket: FakeSocket, frame: str) -> None:
        sent.setdefault(socket, []).append(json.loads(frame)["id"])
        await trio.sleep(0.1)
        socket.tell(ack=json.loads(frame)["id"])

    monkeypatch.setattr(FakeSocket, "send", send)
    scene.connection.dialect = attrs.evolve(
        scene.connection.dialect,
        subscribe=lambda natives: [
            Subscription("kline", json.dumps({"id": native}), frozenset([native]), native)
            for native in natives
        ],
        unsubscribe=lambda natives: [json.dumps({"id": f"-{native}"}) for native in natives],
    )
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.live)
            await trio.sleep(1)
            assert scene.state() is State.LIVE
            scene.sockets[0].tell(closing=True)
            await trio.sleep(after)
            scene.tracker.add("ETH", Series("binance", "ETH-USDT", Timeframe.M5))
            scene.tracker.forget("BTC")
            scene.connection.follow(["ETH"], ["BTC"])
            await trio.sleep(10)
            assert scene.open_sockets() == 1
            assert scene.connection.health.handovers == 1
            assert scene.ended is None
            assert [one.native for one in scene.tracker.silences(trio.current_time())] == ["ETH"]
            nursery.cancel_scope.cancel()
    first, second = (sent[socket] for socket in scene.sockets)
    if after < 2:
        assert first == ["BTC", "-BTC", "ETH"]
    assert second in (["BTC", "-BTC", "ETH"], ["ETH"])
