"""Real candles through writer, readings and rules over a real store.

The alerts that stand in the end are those that a plain script finds in reference readings, whatever
happened in between.

The clock of these tests stands still: no lease lapses while the machine is busy.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from livermore.adapters import outbox, store
from livermore.adapters.redis import Redis
from livermore.errors import StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Pending
from livermore.runtime.alerting import Alerting, Shown
from livermore.runtime.lease import Lease
from livermore.runtime.readings import Readings
from livermore.runtime.writer import Writer
from livermore.signals.alert import LATE, Alert, Withdrawal
from livermore.signals.rules import DEFAULT_RULES
from tests.alert_judge import Found, alerts_of
from tests.recorded.test_alert_reference import (
    CANDLES,
    EXPECTED,
    FILES,
    SPARSE,
    recorded,
    reference,
    table,
)
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(300)

NAMES = itertools.count()
LABELS = {"5m": "5m", "15m": "15m", "1h": "1h", "1m": "5m"}
"""Minutes are stored as if they were five: there is no shorter timeframe."""


class Crash(Exception):
    """The process ends here."""


class Mortal(Alerting):
    """Rules whose process can end when a reading is stored and its alerts are not."""

    dies = False

    async def commit(self, beside: Shown) -> None:
        if self.dies:
            raise Crash
        await super().commit(beside)


class Desk:
    """A process with one series: writer, readings and rules, as a feed joins them."""

    def __init__(self, url: str, timeframe: Timeframe, now: int) -> None:
        self.exchange = f"alerts_{'abcdefghij'[next(NAMES) % 10]}{next(NAMES)}"
        self.series = Series(self.exchange, "BTC-USDT", timeframe)
        self.lanes = Redis(url)
        self.now = now

    async def start(self) -> None:
        """What it knows is what the store holds."""
        self.lease = Lease(self.lanes, self.exchange, "me", {})
        await self.lease.take()
        self.pending = Pending()
        rules = [attrs.evolve(rule, timeframes=(self.series.timeframe,)) for rule in DEFAULT_RULES]
        self.alerting = Mortal(
            self.lanes, self.lease, rules, clock=lambda: self.now, price=lambda symbol: None
        )
        self.readings = Readings(self.lanes, self.lease, lambda: 0.5, self.alerting)
        self.writer = Writer(
            self.lanes,
            self.lease,
            self.pending,
            clock=lambda: self.now,
            stored=self.readings.submit,
            edge=self.readings.edge,
            missing=lambda slots: None,
            suspects=lambda slots: None,
            back=lambda: None,
            chance=lambda: 0.5,
        )
        symbol = self.series.symbol
        series = store.all_series(self.exchange, symbol)
        await self.alerting.start(series)
        await self.readings.start(series)
        await self.writer.seed(store.all_series(self.exchange, symbol), self.now)

    async def write(self, candles: Iterable[Candle]) -> None:
        for candle in candles:
            self.pending.closes.setdefault(candle.series, {})[candle.open_time] = candle
        await self.writer.finish()

    async def repair(self, candles: Sequence[Candle]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            await self.writer.history(self.series, candles)
            nursery.cancel_scope.cancel()

    async def told(self) -> tuple[list[Alert], list[Withdrawal]]:
        rows = outbox.rows(
            await self.lanes.one(*outbox.after(self.exchange, outbox.BEGINNING, 10_000))
        )
        entries = [row.entry for row in rows if isinstance(row, outbox.Row)]
        assert len(entries) == len(rows)
        return (
            [entry for entry in entries if isinstance(entry, Alert)],
            [entry for entry in entries if isinstance(entry, Withdrawal)],
        )

    async def standing(self) -> Counter[Found]:
        """What was told and not withdrawn."""
        alerts, withdrawals = await self.told()
        standing = Counter(map(found, alerts))
        standing.subtract(Counter(found(one.alert) for one in withdrawals))
        return +standing

    def shut(self) -> None:
        self.lanes.close()


def found(alert: Alert) -> Found:
    level = None if alert.level is None else int(alert.level)
    return Found(alert.rule, alert.open_time, alert.direction, level)


@attrs.define
class Tape:
    """The candles of a file, and the alerts they must give."""

    series: Series
    candles: Sequence[Candle]
    right: Counter[Found]
    near: set[int]
    """Open times at which an alert is not far: there most goes wrong."""


def tape(name: str, desk: Desk) -> Tape:
    """``name`` as candles of the desk's series: where it has another length, retimed."""
    rows = reference(name)
    lines = table((EXPECTED if name == SPARSE else CANDLES) / f"{name}.csv")[: len(rows)]
    start, was, length = rows[0].open_time, FILES[name], desk.series.timeframe.ms
    first = start - start % length

    def retimed(open_time: int) -> int:
        return first + (open_time - start) // was * length

    rows = [row._replace(open_time=retimed(row.open_time)) for row in rows]
    near = {row.open_time for row in rows if row.v is not None and abs(row.v) > 125}
    candles: list[Candle] = []
    for line in lines:
        time = retimed(int(line["ts_ms"]))
        opened, high, low, close, volume = (
            float(line[key]) for key in ("open", "high", "low", "close", "volume")
        )
        if line.get("synthetic") == "1":
            candle = empty(desk.series, time, close, Evidence.STREAM, time + length)
        else:
            candle = Candle(
                desk.series, time, opened, high, low, close, volume, as_of=time + length
            )
        candles.append(candle)
    return Tape(desk.series, candles, Counter(alerts_of(rows, length)), near)


def by_rest(candle: Candle, asked: int) -> Candle:
    return attrs.evolve(candle, evidence=Evidence.REST, as_of=asked)


def wrong(candle: Candle, dice: random.Random) -> Candle:
    """The same candle as a stream that lies would have it."""
    close = candle.close * (1 + dice.choice([-1, 1]) * dice.uniform(0.002, 0.02))
    high, low = max(candle.high, close), min(candle.low, close)
    return attrs.evolve(candle, close=close, high=high, low=low)


@attrs.define
class Trouble:
    """What goes wrong with so many candles of a hundred."""

    wrong: float = 0.0
    """Stored wrong, corrected by REST up to 40 candles later."""
    lost: float = 0.0
    """Up to 30 are lost with it, and repaired up to 60 candles later."""
    restart: float = 0.0
    crash: float = 0.0
    """Between the candle and its reading, or between that and its alerts."""
    outage: float = 0.0
    """Redis is away for some turns."""


async def play(
    desk: Desk, tape: Tape, trouble: Trouble, seed: int, away: Callable[[bool], None] | None = None
) -> None:
    """Let the candles close one after the other, and repair what went wrong."""
    dice = random.Random(seed)

    def happens(percent: float, candle: Candle | None = None) -> bool:
        near = candle is not None and candle.open_time in tape.near
        return 100 * dice.random() < percent * (20 if near else 1)

    due: list[tuple[int, list[Candle], bool]] = []
    lost: list[Candle] = []
    losing = gone = 0
    at = 0
    while at < len(tape.candles):
        some = tape.candles[at : at + dice.choice([1, 1, 2, 7])]
        at += len(some)
        desk.now = some[-1].close_time + 1_500
        closing: list[Candle] = []
        for candle in some:
            if not losing and happens(trouble.lost, candle):
                losing = dice.randint(1, 30)
            if losing:
                losing -= 1
                lost.append(candle)
                if not losing:
                    due.append((at + dice.randint(1, 60), lost, True))
                    lost = []
            elif candle.kind is Kind.EMPTY and candle.open_time in tape.near:
                # As it is live: REST speaks later.
                closing.append(attrs.evolve(candle, evidence=Evidence.ASSUMED))
                due.append((at + dice.randint(1, 9), [candle], False))
            elif candle.kind is Kind.TRADED and happens(trouble.wrong, candle):
                closing.append(wrong(candle, dice))
                due.append((at + dice.randint(1, 40), [candle], False))
            else:
                closing.append(candle)
        if away is not None and not gone and happens(trouble.outage):
            gone = dice.randint(1, 5)
            away(True)
        await desk.write(closing)
        if gone:
            with pytest.raises(StoreError):
                await desk.lanes.one("PING")
            gone -= 1
            if gone:
                continue
            assert away is not None
            away(False)
        desk.alerting.dies = happens(trouble.crash, some[-1])
        if happens(trouble.crash, some[-1]):
            await desk.start()
        try:
            await desk.readings.turn()
        except Crash:
            await desk.start()
            await desk.readings.turn()
        desk.alerting.dies = False
        ready, due = [one for one in due if one[0] <= at], [one for one in due if one[0] > at]
        for _, candles, history in ready:
            await mend(desk, candles, history)
        if happens(trouble.restart):
            await desk.start()
    if lost:
        due.append((at, lost, True))
    for _, candles, history in due:
        await mend(desk, candles, history)


async def mend(desk: Desk, candles: Sequence[Candle], history: bool) -> None:
    said = [by_rest(candle, desk.now) for candle in candles]
    await (desk.repair(said) if history else desk.write(said))
    await desk.readings.turn()


async def check(desk: Desk, tape: Tape) -> tuple[list[Alert], list[Withdrawal]]:
    standing = await desk.standing()
    assert sorted((standing - tape.right).elements()) == [], "too many"
    assert sorted((tape.right - standing).elements()) == [], "missing"
    alerts, withdrawals = await desk.told()
    names = Counter((alert.id, alert.reissue) for alert in alerts)
    assert max(names.values(), default=0) <= 1, "told twice"
    for alert in alerts:
        assert alert.late == (alert.corrected or alert.latency > LATE)
    return alerts, withdrawals


def timeframe_of(name: str) -> Timeframe:
    return Timeframe.parse(LABELS[name.split("_")[2]])


@pytest.fixture(params=[name for name in FILES if not name.endswith(("4h", "1d"))])
def name(request: pytest.FixtureRequest) -> str:
    """A file that gives alerts."""
    found: str = request.param
    return found


@recorded
async def test_a_quiet_replay_gives_the_alerts_of_the_reference_and_none_is_late(
    name, valkey_url, mock_clock: MockClock
):
    desk = Desk(valkey_url, timeframe_of(name), 0)
    played = tape(name, desk)
    desk.now = played.candles[0].open_time
    await desk.start()
    for candle in played.candles:
        desk.now = candle.close_time + 1_500
        await desk.write([candle])
        await desk.readings.turn()
    alerts, withdrawals = await check(desk, played)
    assert alerts
    assert not withdrawals
    assert not any(alert.late for alert in alerts)
    desk.shut()


@recorded
async def test_corrections_gaps_restarts_and_crashes_change_nothing_in_the_end(
    name, valkey_url, mock_clock: MockClock
):
    desk = Desk(valkey_url, timeframe_of(name), 0)
    played = tape(name, desk)
    desk.now = played.candles[0].open_time
    await desk.start()
    await play(desk, played, Trouble(wrong=0.5, lost=0.1, restart=1, crash=1), 1)
    alerts, withdrawals = await check(desk, played)
    assert any(alert.late for alert in alerts)
    assert withdrawals or name.endswith("1h"), "too little went wrong"
    desk.shut()


@recorded
async def test_an_outage_of_redis_changes_nothing_in_the_end(
    own_valkey: RedisServer, mock_clock: MockClock
):
    desk = Desk(own_valkey.url, timeframe_of(SPARSE), 0)
    played = tape(SPARSE, desk)
    desk.now = played.candles[0].open_time
    await desk.start()
    outages = 0

    def away(gone: bool) -> None:
        nonlocal outages
        outages += gone
        if gone:
            own_valkey.kill()
        else:
            own_valkey.start()

    await play(desk, played, Trouble(wrong=0.5, lost=0.1, restart=0.5, outage=1), 3, away)
    assert outages >= 3
    alerts, withdrawals = await check(desk, played)
    assert any(alert.late for alert in alerts)
    assert withdrawals, "too little went wrong"
    desk.shut()
