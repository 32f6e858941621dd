"""Rules over real readings and a real store: what is found once, withdrawn, made up for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import pytest

from livermore.adapters import outbox, store
from livermore.adapters.redis import Redis
from livermore.errors import StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Pending
from livermore.runtime import readings as readings_
from livermore.runtime.alerting import Alerting
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.writer import Writer
from livermore.signals.alert import Alert, Withdrawal
from livermore.signals.rule import DEFAULT_RULES, Rule, rule_from
from livermore.signals.rules import decode_memory
from tests.integration.test_readings import T0, Desk

M5 = Timeframe.M5
FIRST = 240
"""Slots that lie there before the rules look."""


class AlertDesk(Desk):
    """A desk whose readings feed the rules."""

    rules: Sequence[Rule] = DEFAULT_RULES

    async def start(self) -> None:
        self.lease = Lease(self.lanes, self.exchange, "me", {})
        await self.lease.take()
        self.pending = Pending()
        self.verified: list[tuple[Series, int]] = []
        self.alerting = Alerting(
            self.lanes, self.lease, self.rules,
            clock=lambda: self.now,
            price=lambda symbol: (123.0, self.now - 5),
            verify=lambda series, open_time: self.verified.append((series, open_time)),
        )  # fmt: skip
        self.readings = Readings(self.lanes, self.lease, lambda: 0.5, self.alerting)
        self.writer = Writer(
            self.lanes, self.lease, self.pending,
            clock=lambda: self.now,
            stored=self.readings.submit,
            edge=self.readings.edge,
            missing=self.missing.extend,
            suspects=self.suspects.extend,
            back=self._is_back,
            chance=lambda: 0.5,
        )  # fmt: skip
        series = [one for symbol in self.symbols for one in store.all_series(self.exchange, symbol)]
        await self.alerting.start(series)
        await self.readings.start(series)
        await self.writer.seed(series, self.now)

    async def slots(self, first: int, end: int) -> None:
        """Close these slots of a market that swings, each at its time."""
        for slot in range(first, end):
            self.now = T0 + (slot + 1) * M5.ms + 1500
            await self.close(candle(self, slot))

    async def entries(self) -> list[outbox.Row]:
        reply = await self.lanes.one(*outbox.after(self.exchange, outbox.BEGINNING, 10_000))
        found = [row for row in outbox.rows(reply) if isinstance(row, outbox.Row)]
        assert len(found) == len(reply)
        return found

    async def alerts(self) -> list[Alert]:
        """Those of the five-minute series."""
        entries = [row.entry for row in await self.entries()]
        return [e for e in entries if isinstance(e, Alert) and e.timeframe is M5]

    async def restart(self) -> None:
        await self.start()
        await self.readings.turn()


def price(slot: int) -> float:
    """Swings that are wide enough for every level and narrow enough for calm between them."""
    return 1000 + 60 * math.sin(slot / 22) + 14 * math.sin(slot / 5.3) + slot * 7919 % 13 / 9


def candle(desk: Desk, slot: int, *, shift: float = 0.0, rest: bool = False) -> Candle:
    time = T0 + slot * M5.ms
    opened, close = price(slot - 1), price(slot) + shift
    evidence = Evidence.REST if rest else Evidence.STREAM
    return Candle(
        desk.series(), time, opened, max(opened, close) + 0.2, min(opened, close) - 0.2, close,
        1.0, Kind.TRADED, evidence, time + M5.ms,
    )  # fmt: skip


@pytest.fixture
async def desk(valkey_url):
    found = AlertDesk(valkey_url)
    found.now = T0 + FIRST * M5.ms
    await found.start()
    await found.close(*(candle(found, slot) for slot in range(FIRST)))
    yield found
    found.shut()


def names(alerts: Sequence[Alert]) -> list[tuple[str, int, str, float | None]]:
    return [(a.rule, (a.open_time - T0) // M5.ms, a.direction, a.level) for a in alerts]


async def test_history_alerts_nobody_and_what_closes_from_then_on_does(desk):
    assert await desk.alerts() == []
    await desk.slots(FIRST, 600)
    found = await desk.alerts()
    assert {a.kind for a in found} == {"level", "reversal"}
    assert len(found) >= 8
    for alert in found:
        assert alert.open_time >= T0 + FIRST * M5.ms
        assert alert.triggered - alert.close_time == alert.latency == 1500
        assert (alert.last_price, alert.last_price_time) == (123.0, alert.triggered - 5)
        assert alert.close == pytest.approx(price((alert.open_time - T0) // M5.ms))
        assert abs(alert.macdv) > 150
        assert not alert.late
        assert alert.holds is None
        assert set(alert.readings) >= {"5m", "15m"}
        assert alert.readings["5m"].macdv == alert.macdv
        assert (desk.series(), alert.open_time) in desk.verified
    assert len({alert.id for alert in found}) == len(found)
    assert not any(isinstance(row.entry, Withdrawal) for row in await desk.entries())


async def test_restarts_in_between_change_nothing(desk, valkey_url):
    await desk.slots(FIRST, 600)
    undisturbed = names(await desk.alerts())
    other = AlertDesk(valkey_url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    for slot in range(FIRST, 600, 7):
        await other.slots(slot, min(600, slot + 7))
        await other.restart()
    assert names(await other.alerts()) == undisturbed
    other.shut()


async def test_a_crash_between_the_reading_and_its_alert_loses_none(desk, monkeypatch):
    await desk.slots(FIRST, 600)
    undisturbed = names(await desk.alerts())
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))

    async def crash(alerting: Alerting, beside: object) -> None:
        raise StoreError("crash")

    for slot in range(FIRST, 600):
        if slot % 3 == 0:
            with monkeypatch.context() as patched:
                patched.setattr(Alerting, "commit", crash)
                with pytest.raises(StoreError):
                    await other.slots(slot, slot + 1)
            await other.restart()
        else:
            await other.slots(slot, slot + 1)
    assert names(await other.alerts()) == undisturbed
    other.shut()


async def test_what_closed_during_an_outage_is_told_late_and_says_whether_it_holds(desk):
    await desk.slots(FIRST, 600)
    undisturbed = names(await desk.alerts())
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    other.now = T0 + 600 * M5.ms + 1500
    await other.history([candle(other, slot, rest=True) for slot in range(FIRST, 600)])
    await other.readings.turn()
    found = await other.alerts()
    assert names(found) == undisturbed
    newest = (await other.reading()).macdv
    for alert in found:
        assert alert.late == (alert.close_time < other.now - 120_000)
        assert alert.latency == other.now - alert.close_time
        if alert.late and alert.kind == "level":
            assert newest is not None
            assert alert.level is not None
            beyond = newest > alert.level if alert.direction == "up" else newest < -alert.level
            assert alert.holds == beyond
    assert any(alert.late for alert in found)
    other.shut()


async def test_a_correction_withdraws_what_it_unmakes_and_tells_what_it_makes(desk):
    slot = FIRST
    while not (found := await desk.alerts()):
        await desk.slots(slot, slot + 1)
        slot += 1
    [alert] = found
    at = (alert.open_time - T0) // M5.ms
    assert at == slot - 1
    sign = 1 if alert.macdv > 0 else -1
    # The closes before it did not go that far: MACD-V was not beyond the level.
    await desk.close(candle(desk, at, shift=-sign * 60, rest=True))
    rows = await desk.entries()
    [withdrawal] = [row.entry for row in rows if isinstance(row.entry, Withdrawal)]
    assert withdrawal.alert == alert
    assert withdrawal.entry == rows[0].id
    # And now they did.
    await desk.close(attrs.evolve(candle(desk, at, rest=True), as_of=desk.now))
    again = (await desk.alerts())[-1]
    assert (again.id, again.reissue) == (alert.id, 1)
    assert again.late
    assert again.corrected
    # The same once more, also after a restart: nothing is told again.
    await desk.restart()
    assert len(await desk.entries()) == 3


async def test_a_correction_that_changes_no_alert_is_silent(desk):
    await desk.slots(FIRST, 600)
    before = await desk.entries()
    await desk.close(candle(desk, 420, shift=0.01, rest=True))
    assert await desk.entries() == before


async def test_an_assumed_empty_candle_waits_until_rest_has_spoken(desk):
    """It rests at the close before it, and still moves the averages."""
    slot = FIRST
    while not await desk.alerts():
        await desk.slots(slot, slot + 1)
        slot += 1
    [alert] = await desk.alerts()
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, s) for s in range(FIRST)))
    at = (alert.open_time - T0) // M5.ms
    await other.slots(FIRST, at)
    # The averages need a push: the close before goes as far as the two together did.
    push = (price(at) - price(at - 1)) * 3
    await other.close(attrs.evolve(candle(other, at - 1, shift=push, rest=True), as_of=other.now))
    told = len(await other.entries())
    time = T0 + at * M5.ms
    other.now = time + M5.ms + 1500
    await other.close(empty(other.series(), time, 1.0, Evidence.ASSUMED, time + M5.ms))
    if other.alerting.held:
        assert other.alerting.held == {other.series(): time}
        assert len(await other.entries()) == told
        await other.slots(at + 1, at + 3)
        assert len([a for a in await other.alerts() if a.open_time >= time]) == 0
        await other.close(empty(other.series(), time, 1.0, Evidence.REST, time + 3 * M5.ms))
        assert not other.alerting.held
        assert next(a.open_time for a in await other.alerts() if a.open_time >= time) == time
    else:
        pytest.fail("this market does not cross a level in an empty candle: choose another")
    other.shut()


async def test_a_rule_that_is_new_looks_at_history_silently(desk):
    await desk.slots(FIRST, 400)
    before = len(await desk.entries())
    desk.rules = (*DEFAULT_RULES, rule_from({"rule": "stage"}))
    await desk.restart()
    assert len(await desk.entries()) == before
    await desk.slots(400, 480)
    assert {a.rule for a in (await desk.alerts())[before:]} >= {"stage"}


async def test_rules_that_cover_other_series_look_at_none_of_this(valkey_url):
    desk = AlertDesk(valkey_url)
    desk.rules = (rule_from({"rule": "level", "symbols": ["ETH-USD"]}),)
    desk.now = T0 + FIRST * M5.ms
    await desk.start()
    await desk.close(*(candle(desk, slot) for slot in range(FIRST)))
    await desk.slots(FIRST, 300)
    assert await desk.entries() == []
    assert await desk.lanes.one("EXISTS", outbox.rules_key(desk.exchange)) == 0
    desk.shut()


async def test_alerts_of_one_close_tell_each_symbol_its_own_readings(valkey_url):
    desk = AlertDesk(valkey_url, ["BTC-USD", "ETH-USD"])
    desk.rules = (rule_from({"rule": "move", "percent": 1e-4, "candles": 1, "cooldown": 0}),)
    desk.now = T0 + FIRST * M5.ms
    await desk.start()

    def both(slot: int) -> list[Candle]:
        one = candle(desk, slot)
        turned = attrs.evolve(
            one, series=desk.series(symbol="ETH-USD"), open=2000 - one.open, high=2000 - one.low,
            low=2000 - one.high, close=2000 - one.close,
        )  # fmt: skip
        return [one, turned]

    await desk.close(*(each for slot in range(FIRST) for each in both(slot)))
    desk.now = T0 + (FIRST + 1) * M5.ms + 1500
    await desk.close(*both(FIRST))
    found = await desk.alerts()
    assert {a.symbol for a in found} == {"BTC-USD", "ETH-USD"}
    for alert in found:
        assert alert.readings["5m"].macdv == alert.macdv
        fifteen = await desk.reading(desk.series(Timeframe.M15, alert.symbol))
        assert alert.readings["15m"].macdv == fifteen.macdv
    assert len({a.macdv for a in found}) == 2
    desk.shut()


async def waits(desk: AlertDesk) -> tuple[AlertDesk, int, Candle]:
    """Another desk just before a slot whose empty candle would alert, and what makes it so."""
    slot = FIRST
    while not await desk.alerts():
        await desk.slots(slot, slot + 1)
        slot += 1
    at = slot - 1
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, s) for s in range(FIRST)))
    await other.slots(FIRST, at)
    other.now = T0 + (at + 1) * M5.ms + 1500
    push = (price(at) - price(at - 1)) * 3
    return other, at, attrs.evolve(candle(other, at - 1, shift=push, rest=True), as_of=other.now)


def nothing(desk: AlertDesk, slot: int, evidence: Evidence) -> Candle:
    time = T0 + slot * M5.ms
    return empty(desk.series(), time, 1.0, evidence, time + (1 + 2 * evidence) * M5.ms)


async def test_rest_may_speak_of_an_empty_candle_before_the_rules_have_seen_it(desk):
    other, at, push = await waits(desk)
    await other.close(push)
    await other.close(nothing(other, at, Evidence.ASSUMED), reading=False)
    await other.close(nothing(other, at, Evidence.REST))
    assert not other.alerting.held
    assert (await other.alerts())[-1].open_time == T0 + at * M5.ms
    other.shut()


async def test_rest_may_speak_while_the_candles_are_being_read(desk, monkeypatch):
    other, at, push = await waits(desk)
    await other.close(push, nothing(other, at, Evidence.ASSUMED), reading=False)
    ask = other.lanes.run_each

    async def answer(calls, lane="write"):
        replies = await ask(calls, lane)
        monkeypatch.undo()
        await other.close(nothing(other, at, Evidence.REST), reading=False)
        return replies

    monkeypatch.setattr(other.lanes, "run_each", answer)
    await other.readings.turn()  # a correction is replayed
    await other.readings.turn()
    assert not other.alerting.held
    assert (await other.alerts())[-1].open_time == T0 + at * M5.ms
    other.shut()


async def test_candles_that_were_lost_unmake_no_alert(desk):
    await desk.slots(FIRST, 600)
    before = await desk.entries()
    keys = store.keys(desk.series())
    await desk.lanes.one("DEL", keys.candles)
    await desk.lanes.one("DEL", keys.companion)
    desk.now = T0 + 601 * M5.ms + 1500
    await desk.close(candle(desk, 600))
    await desk.history([candle(desk, slot, rest=True) for slot in range(301, 601)])
    await desk.readings.turn()
    assert await desk.entries() == before


async def test_other_rules_over_candles_that_were_lost_begin_anew(desk):
    await desk.slots(FIRST, FIRST + 5)
    for series in store.all_series(desk.exchange, "BTC-USD"):
        keys = store.keys(series)
        for key in (keys.candles, keys.companion, keys.indicator):
            await desk.lanes.one("DEL", key)
    desk.rules = (*DEFAULT_RULES, rule_from({"rule": "move", "percent": 1e-4, "candles": 1}))
    await desk.start()
    await desk.slots(FIRST + 9, FIRST + 10)
    assert (await desk.reading()).count == 1


async def test_an_outbox_of_somebody_else_holds_up_no_reading_and_loses_no_alert(desk):
    await desk.slots(FIRST, 600)
    undisturbed = names(await desk.alerts())
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    key = outbox.stream_key(other.exchange)
    await other.lanes.one("SET", key, "theirs")
    for slot in range(FIRST, 555):
        wrong = slot % 9 == 0
        await other.slots(slot, slot + 1) if not wrong else await other.close(
            candle(other, slot, shift=50.0)
        )
        if slot % 9 == 4:
            other.now = T0 + (slot + 1) * M5.ms + 2000
            right = attrs.evolve(candle(other, slot - 4, rest=True), as_of=other.now)
            await other.close(right)
    assert (await other.reading()).macdv == pytest.approx(await macdv_at(desk, 554))
    await other.lanes.one("DEL", key)
    await other.slots(555, 600)
    rows = await other.entries()
    assert not any(isinstance(row.entry, Withdrawal) for row in rows)
    assert sorted(names(await other.alerts())) == sorted(undisturbed)
    other.shut()


async def macdv_at(desk: AlertDesk, slot: int) -> float | None:
    """As the candles up to there give it."""
    fresh = AlertDesk(desk.lanes.url)
    await fresh.start()
    await fresh.close(*(candle(fresh, s) for s in range(slot + 1)))
    found = (await fresh.reading()).macdv
    fresh.shut()
    return found


async def test_a_successor_silences_the_rules_of_the_one_before(desk):
    await desk.slots(FIRST, 260)
    other = Lease(Redis(desk.lanes.url), desk.exchange, "them", {}, epoch=desk.lease.epoch)
    await other.redis.one("DEL", store.lease_key(desk.exchange))
    await other.take()
    await other.redis.run([outbox.post(desk.exchange, other.epoch, {}, [])], "write")
    with pytest.raises(StoreError, match="older"):
        await desk.slots(260, 600)
    other.redis.close()


async def test_a_repair_of_missing_candles_is_no_correction(desk):
    slot = FIRST
    while not await desk.alerts():
        await desk.slots(slot, slot + 1)
        slot += 1
    [alert] = await desk.alerts()
    at = (alert.open_time - T0) // M5.ms
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, s) for s in range(FIRST)))
    await other.slots(FIRST, at - 1)
    await other.slots(at, at + 1)  # the slot before it was lost
    assert await other.alerts() == []
    other.now += 2_500
    await other.close(candle(other, at - 1, rest=True))
    [found] = await other.alerts()
    assert (found.open_time, found.latency) == (alert.open_time, 4_000)
    assert (found.late, found.corrected, found.holds) == (False, False, None)
    other.shut()


async def test_a_price_older_than_the_candle_is_not_the_last_one(desk):
    old = (1.0, desk.now - 86_400_000)
    object.__setattr__(desk.alerting, "price", lambda symbol: old)
    await desk.slots(FIRST, 400)
    for alert in await desk.alerts():
        assert (alert.last_price, alert.last_price_time) == (alert.close, alert.close_time)
    assert await desk.alerts()


async def test_a_late_move_holds_while_the_price_stays_there(desk):
    desk.rules = (rule_from({"rule": "move", "percent": 1.0, "candles": 3}),)
    await desk.restart()
    desk.now = T0 + 330 * M5.ms + 1500
    last = price(320)
    object.__setattr__(desk.alerting, "price", lambda symbol: (last, desk.now))
    await desk.history([candle(desk, slot, rest=True) for slot in range(FIRST, 330)])
    await desk.readings.turn()
    found = await desk.alerts()
    assert {alert.holds for alert in found} == {True, False}
    for alert in found:
        base = price((alert.open_time - T0) // M5.ms - 3)
        moved = (last / base - 1) * (100 if alert.direction == "up" else -100)
        assert alert.holds == (moved >= 1.0)


async def test_what_another_holder_told_meanwhile_is_not_told_again(desk):
    """The lease lapsed, somebody else held the exchange and gave it back."""
    await desk.slots(FIRST, 300)
    other = AlertDesk(desk.lanes.url, exchange=desk.exchange)
    other.now = desk.now
    await desk.lanes.one("DEL", store.lease_key(desk.exchange))
    await other.restart()
    await other.slots(300, 480)
    told = names(await other.alerts())
    await other.lanes.one("DEL", store.lease_key(desk.exchange))
    await desk.lease.take(at_least=other.lease.epoch)
    desk.now = other.now
    desk.alerting.distrust()
    desk.readings.distrust([desk.series()])
    await desk.readings.turn()
    assert names(await desk.alerts()) == told
    # What the other one made is withdrawn by us.
    made = (await desk.alerts())[-1]
    at = (made.open_time - T0) // M5.ms
    sign = 1 if made.macdv > 0 else -1
    await desk.close(candle(desk, at, shift=-sign * 60, rest=True))
    rows = await desk.entries()
    assert made in [row.entry.alert for row in rows if isinstance(row.entry, Withdrawal)]
    other.shut()


async def test_what_is_distrusted_while_it_is_gone_through_is_gone_through_again(desk, monkeypatch):
    """Else the rules, which read anew what they remember, begin with the next close: silently."""
    await desk.slots(FIRST, 480)
    undisturbed = await desk.alerts()
    at = (undisturbed[-1].open_time - T0) // M5.ms
    other = AlertDesk(desk.lanes.url)
    other.now = T0 + FIRST * M5.ms
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    await other.slots(FIRST, at)
    ask = other.lanes.run_each

    async def lose(calls, lane="write"):
        replies = await ask(calls, lane)
        if lane == "read":  # the candles are there; now the lease lapses and Redis is emptied
            monkeypatch.undo()
            await other.lanes.one("DEL", outbox.rules_key(other.exchange))
            other.alerting.distrust()
            other.readings.distrust([other.series()])
        return replies

    monkeypatch.setattr(other.lanes, "run_each", lose)
    other.readings.distrust([other.series()])
    replayed = other.readings.work.replayed
    await other.readings.turn()
    assert other.readings.work.replayed == replayed + 2
    await other.slots(at, at + 1)
    assert names(await other.alerts())[-1] == names(undisturbed)[-1]
    other.shut()


async def test_what_is_distrusted_while_it_is_read_is_read_once_more(desk, monkeypatch):
    """The lease lapses a second time after its old holder's memory was read."""
    await desk.slots(FIRST, 300)
    begun = []
    start = Alerting.start

    async def lapse(self: Alerting, series: Sequence[Series]) -> None:
        await start(self, series)
        begun.append(len(series))
        if len(begun) == 1:
            self.distrust()
        if len(begun) == 2:
            raise StoreError("Redis is away")

    monkeypatch.setattr(Alerting, "start", lapse)
    desk.alerting.distrust()
    followed = await desk.alerting.refresh()
    assert desk.series() in followed
    with pytest.raises(StoreError):
        await desk.alerting.refresh()
    assert await desk.alerting.refresh() == followed, "it was not read"
    assert await desk.alerting.refresh() == set()
    assert begun == [len(followed)] * 3


async def test_what_a_correction_unmade_and_was_not_handed_on_is_found_again(desk, monkeypatch):
    """Its readings are told, Redis does not take the withdrawal, and the lease lapses."""
    slot = FIRST
    while not (found := await desk.alerts()):
        await desk.slots(slot, slot + 1)
        slot += 1
    [alert] = found
    at = (alert.open_time - T0) // M5.ms
    sign = 1 if alert.macdv > 0 else -1

    async def away(alerting: Alerting, beside: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Alerting, "commit", away)
        with pytest.raises(StoreError):
            await desk.close(candle(desk, at, shift=-sign * 60, rest=True))
    desk.alerting.distrust()
    desk.readings.distrust([desk.series()])
    await desk.readings.turn()
    rows = await desk.entries()
    assert [row.entry.alert for row in rows if isinstance(row.entry, Withdrawal)] == [alert]


async def test_a_rule_that_covers_a_series_again_is_silent_about_the_time_between(desk):
    await desk.slots(FIRST, 300)
    desk.rules = (rule_from({"rule": "level", "symbols": ["ETH-USD"]}),)
    await desk.restart()
    before = len(await desk.entries())
    await desk.slots(300, 500)
    desk.rules = DEFAULT_RULES
    await desk.restart()
    assert len(await desk.entries()) == before
    await desk.slots(500, 700)
    assert len(await desk.entries()) > before


async def test_how_far_rules_are_is_written_once_a_burst_is_over(desk, monkeypatch):
    field = outbox.memory_field(desk.series())

    async def cursor() -> int:
        text = await desk.lanes.one("HGET", outbox.rules_key(desk.exchange), field)
        return decode_memory(text).cursor

    before = await cursor()
    slot = FIRST
    desk.now = T0 + (slot + 1) * M5.ms + 1500
    await desk.close(candle(desk, slot), reading=False)
    [*waiting] = desk.readings._queue
    publish = desk.readings._publish

    async def more_comes() -> None:
        await publish()
        desk.readings._queue += waiting

    with monkeypatch.context() as patched:
        patched.setattr(desk.readings, "_publish", more_comes)
        await desk.readings.turn()
    assert (await desk.reading()).open_time == T0 + slot * M5.ms
    assert await cursor() == before
    assert desk.alerting.waiting
    await desk.readings.turn()
    assert await cursor() == T0 + slot * M5.ms
    assert not desk.alerting.waiting


@pytest.mark.parametrize("lasts", [False, True])
async def test_what_rules_found_in_a_burst_is_told_when_it_is_over_or_soon(
    desk, monkeypatch, lasts
):
    other = AlertDesk(desk.lanes.url)
    other.now = desk.now
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    slot = FIRST
    while not await other.alerts():
        await other.slots(slot, slot + 1)
        slot += 1
    other.shut()

    await desk.slots(FIRST, slot - 1)
    desk.now = T0 + slot * M5.ms + 1500
    await desk.close(candle(desk, slot - 1), reading=False)
    [*waiting] = desk.readings._queue
    publish = desk.readings._publish

    async def more_comes() -> None:
        await publish()
        desk.readings._queue += waiting

    with monkeypatch.context() as patched:
        patched.setattr(desk.readings, "_publish", more_comes)
        if lasts:
            patched.setattr(readings_, "SOON", 0.0)
        await desk.readings.turn()
    assert (await desk.reading()).open_time == T0 + (slot - 1) * M5.ms
    assert len(await desk.alerts()) == lasts
    await desk.readings.turn()
    assert len(await desk.alerts()) == 1


async def test_rules_that_change_while_it_runs_leave_the_others_as_they_were(desk, valkey_url):
    other = AlertDesk(valkey_url)
    other.now = desk.now
    await other.start()
    await other.close(*(candle(other, slot) for slot in range(FIRST)))
    await other.slots(FIRST, 600)
    await desk.slots(FIRST, 400)
    move = rule_from({"rule": "move", "percent": 1.0, "candles": 12})
    kept = [rule for rule in desk.rules if rule.name != "reversal"]
    changed = desk.alerting.change([*kept, move])
    assert {one.symbol for one in changed} == {"BTC-USD"}
    desk.readings.distrust(changed)
    await desk.slots(400, 600)
    without = names(await other.alerts())
    other.shut()
    found = names(await desk.alerts())
    assert [one for one in found if one[0] == "level"] == [o for o in without if o[0] == "level"]
    assert [one for one in found if one[0] == "reversal"] == [
        one for one in without if one[0] == "reversal" and one[1] < 400
    ]
    moves = [slot for rule, slot, *_ in found if rule == "move"]
    assert moves
    assert min(moves) >= 400
    assert desk.alerting.change([*kept, move]) == []


async def test_rules_that_change_before_a_series_is_gone_through_again_begin_silently(desk):
    await desk.slots(FIRST, 300)
    before = len(await desk.alerts())
    late = rule_from({"rule": "reversal", "name": "late"})
    desk.alerting.change([late])
    await desk.slots(300, 420)
    assert {alert.rule for alert in (await desk.alerts())[before:]} == {"late"}
