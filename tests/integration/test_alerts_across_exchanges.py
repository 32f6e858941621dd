"""One consumer hears the alerts of every exchange, and of which it is."""

from __future__ import annotations

import json
import time

import redis

from livermore.adapters import outbox
from livermore.adapters.redis import Call
from livermore.signals.alert import Alert, Blindness, Recovery, decode_entry
from tests.integration.test_alerting import FIRST, AlertDesk, candle
from tests.integration.test_readings import M5, T0

PATTERN = "channel:exchange:*:alerts:*"


async def desk_of(url: str, exchange: str, symbol: str) -> AlertDesk:
    """A feed's writer, readings and rules, with history behind it."""
    desk = AlertDesk(url, (symbol,), exchange)
    desk.now = T0 + FIRST * M5.ms
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(FIRST)))
    return desk


def blinded(desk: AlertDesk) -> Call:
    """No candle comes any more, then candles come again."""
    of, now = desk.exchange, desk.now
    blind = Blindness(f"blind|{of}|{now}|0", of, 1, 1, ["x 5m"], now, "blind: no line", now)
    back = Recovery(f"recovery|{of}|{now}", of, 1, 0, now, 9, now + 9)
    return outbox.post(of, desk.lease.epoch, {}, [outbox.posting(one) for one in (blind, back)])


async def test_a_consumer_of_all_exchanges_hears_each_alert_once_with_its_exchange(valkey_url):
    desks = [
        await desk_of(valkey_url, "coinbase", "BTC-USD"),
        await desk_of(valkey_url, "binance", "BTC-USDT"),
    ]
    with redis.Redis.from_url(valkey_url) as client, client.pubsub() as ears:
        ears.psubscribe(PATTERN)
        assert ears.get_message(timeout=5)["type"] == "psubscribe"
        for desk in desks:
            await desk.slots(FIRST, 420)
            await desk.lanes.run([blinded(desk)], "alerts")
        posted = {desk.exchange: [row.entry for row in await desk.entries()] for desk in desks}
        heard: list[tuple[str, bytes]] = []
        deadline = time.monotonic() + 10
        while len(heard) < sum(map(len, posted.values())):
            assert time.monotonic() < deadline, (len(heard), posted)
            message = ears.get_message(timeout=0.1)
            if message is not None:
                heard.append((message["channel"].decode(), message["data"]))
        assert ears.get_message(timeout=0.2) is None, "and nothing else"
    for desk in desks:
        alerts = [one for one in posted[desk.exchange] if isinstance(one, Alert)]
        assert alerts, "a market that moved nobody proves nothing"
        beginning = f"channel:exchange:{desk.exchange}:alerts:"
        texts = [text for at, text in heard if at.startswith(beginning)]
        assert [at.removeprefix(beginning) for at, _ in heard if at.startswith(beginning)] == [
            outbox.symbol_of(one) or "exchange" for one in posted[desk.exchange]
        ]
        assert [decode_entry(text) for text in texts] == posted[desk.exchange]
        assert {json.loads(text)["source_exchange_id"] for text in texts} == {desk.exchange}
        desk.shut()
