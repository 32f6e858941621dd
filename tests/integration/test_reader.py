"""What another program sees of the candles at any moment: a slot, once filled, is never empty."""

from __future__ import annotations

import re
import threading

import attrs
import pytest

from livermore.adapters import store
from tests.integration.test_readings import M5, T0, Desk, candle, nothing
from tests.servers import RedisServer


@pytest.fixture
async def desk(valkey_url):
    desk = Desk(valkey_url)
    await desk.start()
    yield desk
    desk.shut()


async def life(desk: Desk) -> None:
    """Closes, empties behind them, corrections of both, a repair, and the parents of all."""
    await desk.close(*(candle(desk, slot) for slot in range(4)), nothing(desk, 4), nothing(desk, 5))
    await desk.close(candle(desk, 7))
    for shift in (1.0, 2.0, 3.0):
        changed = candle(desk, 3, shift=shift, rest=True)
        await desk.close(attrs.evolve(changed, as_of=changed.as_of + round(shift)))
    await desk.history([candle(desk, 6, rest=True)])
    assert [c.revision for c in await desk.stored()] == [0, 0, 0, 3, 3, 3, 0, 0]


async def test_candles_are_written_by_the_script_alone_one_step_per_series(
    desk, valkey_server: RedisServer
):
    """Between two commands somebody may read; within a script nobody can."""
    touched: list[tuple[str, str]] = []
    with valkey_server.client() as client, client.monitor() as monitor:
        await life(desk)
        with valkey_server.client() as other:
            other.ping()
        while True:
            said = monitor.next_command()
            if said["command"].upper() == "PING":
                break
            if re.match(r"(Z(ADD|REM)|DEL|UNLINK|RENAME|RESTORE|COPY)", said["command"].upper()):
                touched.append((said["client_type"], said["command"].split()[0].upper()))
    assert {("lua", "ZADD"), ("lua", "ZREM")} <= set(touched)
    assert {client_type for client_type, _ in touched} == {"lua"}


async def test_a_reader_that_never_rests_sees_each_slot_once(desk, valkey_server: RedisServer):
    await desk.close(candle(desk, 0), candle(desk, 1), nothing(desk, 2))
    key = store.keys(desk.series()).candles
    seen: list[int] = []
    stop, looked = threading.Event(), threading.Event()

    def read() -> None:
        with valkey_server.client() as client:
            while not stop.is_set():
                seen.extend(
                    len(client.zrangebyscore(key, T0 + slot * M5.ms, T0 + slot * M5.ms))
                    for slot in range(3)
                )
                looked.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert looked.wait(10)
        for number in range(1, 60):
            changed = candle(desk, 1, shift=number / 10, rest=True)
            await desk.close(attrs.evolve(changed, as_of=changed.as_of + number))
    finally:
        stop.set()
        reader.join()
    assert set(seen) == {1}
