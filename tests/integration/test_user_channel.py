"""Two users with rules of their own over one market: each hears only the own alerts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from livermore.adapters import outbox
from livermore.adapters.redis import Redis
from livermore.adapters.user_channel import UserChannel, user_channel
from livermore.adapters.users import User
from livermore.config import Settings
from livermore.errors import ChannelError, ChannelRefused
from livermore.profile.merging import merged, opened
from livermore.runtime.delivery import Delivery
from livermore.runtime.journal import Journal
from livermore.signals.message import When, message_of
from tests.integration.test_alerting import FIRST, M5, AlertDesk, candle
from tests.integration.test_outbox import BLIND, alert
from tests.integration.test_readings import T0
from tests.integration.test_scripts import Ears

FILE = Settings(state_dir=Path("/nowhere"), alerts=())
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def user(sub: str, exchange: str, *rules: dict[str, Any]) -> User:
    return User(
        id=1, provider="local", sub=sub, role="user", enabled=True, revision=0,
        settings={"alerts": list(rules)}, created_at=WHEN, updated_at=WHEN,
        follows=[(exchange, "BTC-USD")],
    )  # fmt: skip


async def told(desk: AlertDesk) -> None:
    """Wait until every entry was sent to everybody whom it is for."""
    with trio.fail_after(100):
        while True:
            reply = await desk.lanes.one(*outbox.all_marks(desk.exchange))
            marks = outbox.read_marks(reply)
            entries = await desk.entries()
            if all(one and one.final for row in entries for one in marks.of(row).values()):
                return
            await trio.sleep(0.05)


async def test_two_users_hear_only_their_own_alerts_and_who_listens_to_the_exchange_hears_all(
    valkey_url: str,
):
    desk = AlertDesk(valkey_url)
    users = [
        user("alice", desk.exchange, {"rule": "level", "timeframes": ["5m"]}),
        user("auth0|bob", desk.exchange, {"rule": "reversal", "timeframes": ["5m"]}),
    ]
    found = merged(FILE, users, desk.exchange)
    assert found.troubles == ()
    desk.rules = found.rules
    desk.now = T0 + FIRST * M5.ms
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(FIRST)))
    channels, troubles = opened(found, desk.lanes, {})
    assert troubles == ()
    delivery = Delivery(
        desk.lanes, desk.exchange, desk.lease, channels,
        clock=lambda: desk.now, chance=lambda: 0.5, journal=Journal(desk.exchange),
    )  # fmt: skip
    names = [one.name for one in channels]
    await desk.lanes.run([outbox.begin(desk.exchange, desk.lease.epoch, names)], "alerts")
    ears = Ears(valkey_url)
    async with delivery.running():
        await desk.slots(FIRST, 420)
        delivery.wake()
        await told(desk)
    heard: dict[str, list[dict[str, Any]]] = {}
    for channel, payload in ears.heard():
        if ":alerts" in channel:
            heard.setdefault(channel, []).append(json.loads(payload))
    ears.close()
    desk.shut()
    alice, bob = heard[user_channel("alice")], heard["channel:user:auth0|bob:alerts"]
    every = heard[f"channel:exchange:{desk.exchange}:alerts:BTC-USD"]
    assert {one["rule"] for one in alice} == {"level@alice"}
    assert {one["rule"] for one in bob} == {"reversal@auth0/bob"}
    for theirs in (alice, bob):
        rule = theirs[0]["rule"]
        ids = [one["id"] for one in theirs]
        assert sorted(ids) == sorted(one["id"] for one in every if one["rule"] == rule)
        assert len(set(ids)) == len(ids)
    assert len(every) == len(alice) + len(bob)
    assert {one["source_exchange_id"] for one in every} == {desk.exchange}
    first = next(one for one in every if one["id"] == alice[0]["id"])
    # What is late is told to be late when it is sent; else both tell the same.
    free = {"stream_id", "late", "holds"}
    assert {k: v for k, v in alice[0].items() if k not in free} == {
        k: v for k, v in first.items() if k not in free
    }


@pytest.mark.parametrize("server", ["valkey_url", "cluster_url"])
async def test_each_entry_is_published_by_itself_with_what_is_doubtful_about_it(
    request: pytest.FixtureRequest, server: str
):
    url = request.getfixturevalue(server)
    redis = Redis(url)
    channel = UserChannel("@alice", "alice", redis)
    ears = Ears(url)
    both = [alert(1), alert(2)]
    late = message_of(both, dropped_before=3, when=When(both[0].close_time + 600_000))
    await channel.send(late)
    await channel.send(message_of([BLIND], possibly_repeated=True))
    heard = [(name, json.loads(text)) for name, text in ears.heard() if "user" in name]
    ears.close()
    redis.close()
    assert {name for name, _ in heard} == {"channel:user:alice:alerts"}
    first, second, blind = (said for _, said in heard)
    assert [first["symbol"], first["open_time"]] == ["BTC-USD", both[0].open_time]
    assert (first["late"], first["dropped_before"]) == (True, 3)
    assert "dropped_before" not in second
    assert "possibly_repeated" not in first
    assert blind == {**msgspec.to_builtins(BLIND), "possibly_repeated": True}


async def test_a_redis_that_is_away_loses_nothing_since_it_is_asked_again():
    redis = Redis("redis://127.0.0.1:1")
    channel = UserChannel("@alice", "alice", redis)
    with pytest.raises(ChannelError) as caught:
        await channel.send(message_of([BLIND]))
    assert caught.value.uncertain
    with pytest.raises(ChannelRefused):
        await channel.edit("", message_of([BLIND]))
    redis.close()
