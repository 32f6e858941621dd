"""The tracker against an exchange that trades at random and a line that misbehaves.

Whatever happens to the frames: what leaves the tracker is the truth, or somebody doubts it.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Sequence
from decimal import Decimal

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series, empty, same_volume
from livermore.market.events import Event, Frame, Heartbeat, Sample, Ticker, Trade, Trades
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import AHEAD, BELIEVED, GRACE, KEPT, Tracker

MS = Timeframe.M5.ms
T0 = 1_700_000_100_000 // MS * MS
SETTLE = 2_000
LAG = 8_000


def series(native: str) -> Series:
    return Series("coinbase", native, Timeframe.M5)


# -- an exchange ----------------------------------------------------------------------------------


@attrs.frozen
class Emission:
    """Something the exchange says at ``time`` to whoever listens."""

    time: int
    event: Event


class Exchange:
    """Trades of a few symbols over some slots, and what is published about them."""

    PACES = {"LIQUID": 2_500, "MIDDLE": 45_000, "RARE": 420_000, "NEVER": 0}

    def __init__(
        self, seed: int, slots: int, *, restart: bool = False, unruly: bool = False, skew: int = 0
    ) -> None:
        self.chance = random.Random(seed)
        self.end = T0 + slots * MS
        self.skew = skew
        self.trades: dict[str, list[Trade]] = {}
        self.published: dict[str, list[int]] = {}
        said: list[Emission] = []
        for native, pace in self.PACES.items():
            said += self._trade(native, pace, restart, unruly)
            said += self._sample(native)
        said += [
            Emission(time, Heartbeat(n)) for n, time in enumerate(range(T0 - MS, self.end, 1_000))
        ]
        self.said = sorted(said, key=lambda one: one.time)

    def _trade(self, native: str, pace: int, restart: bool, unruly: bool) -> Iterable[Emission]:
        chance = self.chance
        times: list[int] = []
        time = T0 - 3 * MS
        while pace and (time := time + int(chance.expovariate(1 / pace))) < self.end:
            times.append(time)
            if chance.random() < 0.3:  # one order fills several
                times += [time] * chance.randrange(3)
        if unruly:  # matched in one order, stamped in another
            for at in range(len(times)):
                if chance.random() < 0.02:
                    times[at] -= chance.randrange(1_500)
        restart_at = chance.randrange(T0 + MS, self.end) if restart else self.end
        number, price = chance.randrange(100, 10**6), 100.0
        trades, published = [], []
        delay = 0
        for time in times:
            if time >= restart_at:
                number, restart_at = 1, self.end
            price = max(1.0, round(price + chance.choice((-0.5, 0.0, 0.5)), 1))
            trades.append(Trade(number, price, Decimal(chance.randrange(1, 999)) / 1000, time))
            number += 1
            flushed = -(-time // 250) * 250 + 100 + chance.randrange(200)
            if unruly and chance.random() < 0.005:
                delay = flushed + chance.randrange(9_000)
            published.append(max(flushed, delay, published[-1] if published else 0))
        self.trades[native], self.published[native] = trades, published
        batches: dict[int, list[Trade]] = {}
        for trade, at in zip(trades, published, strict=True):
            batches.setdefault(at, []).append(trade)
            yield Emission(
                trade.time + 20 + chance.randrange(80), Ticker(native, trade.price, trade.time)
            )
        for at, batch in batches.items():
            yield Emission(at, Trades(native, batch))

    def _sample(self, native: str) -> Iterable[Emission]:
        """States at whole ten seconds, 6.7 s late; the last of a slot may be later or not come."""
        chance = self.chance
        for mark in sorted({-(-(t.time + 1) // 10_000) * 10_000 for t in self.trades[native]}):
            open_time = (mark - 1) // MS * MS
            state = self.state(native, open_time, mark)
            late = mark + 6_650 + chance.randrange(160)
            if mark % MS == 0:
                luck = chance.random()
                if luck < 0.15:
                    continue
                late += chance.randrange(2_000, 8_000) if luck < 0.3 else 0
            if state is not None:
                yield Emission(late, state)

    def state(self, native: str, open_time: int, until: int) -> Sample | None:
        held = [t for t in self.trades[native] if open_time <= t.time < min(until, open_time + MS)]
        if not held:
            return None
        prices = [t.price for t in held]
        volume = float(sum(t.size for t in held))
        return Sample(
            native, open_time, prices[0], max(prices), min(prices), prices[-1], volume
        )  # fmt: skip

    def truth(self, native: str, open_time: int) -> Candle | None:
        """The candle of a slot; None when nothing was ever traded up to its end."""
        state = self.state(native, open_time, open_time + MS)
        if state is not None:
            return Candle(
                series(native), open_time, state.open, state.high, state.low, state.close, state.volume
            )
        before = [t.price for t in self.trades[native] if t.time < open_time]
        if not before:
            return None
        return empty(series(native), open_time, before[-1], Evidence.REST, 0)

    def snapshots(self, time: int) -> list[Event]:
        """What a new subscriber hears first: newest trades, and candles that are lossy and old."""
        chance = self.chance
        events: list[Event] = []
        for native, trades in self.trades.items():
            known = bisect.bisect_right(self.published[native], time)
            depth = chance.choice((5, 50, 300))
            newest = trades[max(0, known - depth) : known]
            for at in range(len(newest) - 1, 0, -1):
                if newest[at - 1].trade_id > newest[at].trade_id:  # the count began anew
                    newest = newest[at:]
                    break
            if newest:
                events.append(Trades(native, newest, snapshot=True))
            for back in range(10):
                state = self.state(native, (time // MS - back) * MS, time - chance.randrange(15_000))
                if state is not None and chance.random() < 0.6:
                    events.append(attrs.evolve(state, snapshot=True))
        chance.shuffle(events)
        return events


# -- the line -------------------------------------------------------------------------------------


@attrs.frozen
class Line:
    """What happens to frames. Probabilities per frame; times are of the exchange."""

    connections: Sequence[tuple[int, int]]
    lost: float = 0.0
    damaged: float = 0.0
    twice: float = 0.0
    swapped: float = 0.0
    wild: float = 0.0
    """Stamps an hour off, alone or in a row."""
    pauses: Sequence[tuple[int, int]] = ()
    """We read nothing in these; then all of it at once."""
    snapshots: bool = True
    taught: bool = True
    """Whether REST repairs what is missing and tells the tracker."""
    calm_from: int = 0
    """From here on nothing goes wrong any more."""


@attrs.define
class Heard:
    """What left the tracker."""

    stored: dict[tuple[str, int], Candle] = attrs.Factory(dict)
    past: dict[tuple[str, int], Candle] = attrs.Factory(dict)
    missing: set[tuple[str, int]] = attrs.Factory(set)
    suspects: set[tuple[str, int]] = attrs.Factory(set)
    order: dict[str, list[int]] = attrs.Factory(dict)
    closed_at: dict[tuple[str, int], int] = attrs.Factory(dict)


class Session:
    """Plays an exchange to a tracker over a line."""

    def __init__(self, exchange: Exchange, line: Line, seed: int) -> None:
        self.exchange, self.line = exchange, line
        self.chance = random.Random(seed)
        self.tracker = Tracker(
            [(native, series(native)) for native in exchange.PACES], settle=SETTLE, sample_lag=LAG
        )
        self.heard = Heard()
        self.now = 0.0

    def moment(self, time: int) -> float:
        return (time - T0) / 1000 + 1_000

    def play(self) -> Heard:
        first = self.line.connections[0][0]
        if self.line.taught:
            for native in self.exchange.PACES:
                candle = self.exchange.truth(native, first // MS * MS - MS)
                if candle is not None:
                    self.tracker.learn(candle)
        for start, end in self.line.connections:
            self._connect(start, min(end, self.exchange.end))
        return self.heard

    def _connect(self, start: int, end: int) -> None:
        tracker, line, chance = self.tracker, self.line, self.chance
        self.now = max(self.now, self.moment(start))
        tracker.connected(self.now)
        frames: list[tuple[int, list[Event], bool]] = [(start + 100, [], True)]
        if line.snapshots:
            for number, event in enumerate(self.exchange.snapshots(start + 150)):
                frames.append((start + 150 + number, [event], False))
        frames += [(e.time, [e.event], False) for e in self.exchange.said if start + 150 < e.time < end]
        frames.sort(key=lambda one: one[0])
        numbered: list[tuple[int, int, list[Event], bool]] = []
        sequence = 0
        for time, events, ack in frames:
            calm = time >= line.calm_from
            copies = 1 + (not calm and chance.random() < line.twice)
            for _ in range(copies):
                numbered.append((time, sequence, events, ack))
                sequence += 1
            if not calm and not ack and chance.random() < line.lost:
                del numbered[-copies:]
        for at in range(1, len(numbered)):
            if numbered[at][0] < line.calm_from and chance.random() < line.swapped:
                numbered[at - 1], numbered[at] = numbered[at], numbered[at - 1]
        wild = 0
        for time, number, events, ack in numbered:
            calm = time >= line.calm_from
            stamp = time + self.exchange.skew
            if not calm and (wild or chance.random() < line.wild):
                wild = wild - 1 if wild else chance.randrange(3)
                stamp += chance.choice((-3_600_000, 3_600_000, 200_000)) if wild != 1 else 3_600_000
            malformed = 0
            if not calm and chance.random() < line.damaged:
                events, malformed = [_damage(event) for event in events if _damage(event)], 1
            events = [
                attrs.evolve(e, time=stamp) if isinstance(e, Ticker) else e for e in events if e
            ]
            self._read(Frame(stamp, number, list(events), malformed), time)
            if ack:
                tracker.acknowledged(self.exchange.PACES, self.now)
                self._drain(time)
        self.now = max(self.now, self.moment(end))
        tracker.lost()

    def _read(self, frame: Frame, time: int) -> None:
        read_at = self.moment(time)
        for begin, finish in self.line.pauses:
            if begin <= time < finish:
                read_at = self.moment(finish)
        while (due := max(0.02, self.tracker.due_in(self.now))) < read_at - self.now:
            if any(self.moment(a) <= self.now + due < self.moment(b) for a, b in self.line.pauses):
                break
            self.now += due
            self.tracker.tick(self.now)
            self._drain(time)
        self.now = max(self.now, read_at)
        self.tracker.take(frame, self.now)
        self._drain(time)

    def _drain(self, time: int) -> None:
        heard, pending = self.heard, self.tracker.pending
        for one, slots in pending.closes.items():
            for open_time in sorted(slots):
                key = (one.symbol, open_time)
                if key not in heard.stored:
                    heard.order.setdefault(one.symbol, []).append(open_time)
                    heard.closed_at[key] = int((self.now - 1_000) * 1000) + T0
                heard.stored[key] = slots[open_time]
        for one, slots in pending.past.items():
            heard.past.update({(one.symbol, t): candle for t, candle in slots.items()})
        for one, open_time in pending.missing:
            heard.missing.add((one.symbol, open_time))
            candle = self.exchange.truth(one.symbol, open_time)
            if self.line.taught and candle is not None and open_time + MS <= time:
                self.tracker.learn(candle)
        heard.suspects.update((one.symbol, t) for one, t in pending.suspects)
        for waiting in (pending.closes, pending.past, pending.missing, pending.suspects):
            waiting.clear()  # type: ignore[attr-defined]


def _damage(event: Event) -> Event | None:
    """The event without its last row."""
    if isinstance(event, Trades) and len(event.trades) > 1:
        return attrs.evolve(event, trades=event.trades[:-1])
    return None


def flattened(heard: Heard, key: tuple[str, int]) -> Candle:
    """What the store makes of a candle: an empty is flat at the close stored before it."""
    candle = heard.stored[key]
    native, open_time = key
    before = (native, open_time - MS)
    if candle.kind is Kind.EMPTY and before in heard.stored:
        price = flattened(heard, before).close
        return empty(candle.series, open_time, price, candle.evidence, 0)
    return candle


def check(exchange: Exchange, heard: Heard, first: int, last: int) -> None:
    """Nothing that left the tracker is wrong without somebody doubting it."""
    for native in exchange.PACES:
        doubted_before = False
        for open_time in range(first, last, MS):
            key = (native, open_time)
            doubted = key in heard.missing or key in heard.suspects
            assert key in heard.stored or key in heard.missing, f"{key} was skipped"
            if key in heard.stored and not doubted:
                candle, truth = flattened(heard, key), exchange.truth(*key)
                if truth is None:
                    assert candle.kind is Kind.EMPTY, f"{key} never traded"
                    assert False, f"{key} was closed at an unknown price"  # noqa: B011
                # What an empty rests at is repaired with the slot before it.
                right = (
                    candle.kind is Kind.EMPTY is truth.kind
                    if doubted_before and truth.kind is Kind.EMPTY
                    else candle.same_values(truth)
                )
                assert right, f"{native} {(open_time - T0) // MS}: {candle} is not {truth}"
            # Doubt about a price reaches as far as the empties behind it.
            empties = key in heard.stored and heard.stored[key].kind is Kind.EMPTY
            doubted_before = doubted or (doubted_before and empties)
    for key, candle in heard.past.items():
        truth = exchange.truth(*key)
        assert truth is not None
        assert candle.same_values(truth) or key in heard.suspects, f"past {key}"
    for native, order in heard.order.items():
        assert order == sorted(order), f"{native} closed out of order"


SEEDS = st.integers(0, 2**32)
PROFILE = settings(
    max_examples=int(__import__("os").environ.get("EX", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def lines(draw: st.DrawFn, slots: int) -> Line:
    """A line with some of its faults, calm in the last two slots."""
    span = (slots - 2) * MS
    starts = draw(st.lists(st.integers(0, span), min_size=1, max_size=4, unique=True))
    starts.sort()
    connections = []
    for number, start in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else slots * MS
        gap = draw(st.sampled_from((300, 2_000, 11_000, 70_000, 400_000, 1_500_000)))
        end = max(start + 1_000, following - gap) if number + 1 < len(starts) else following
        connections.append((T0 + start, T0 + min(end, following)))
    rare = st.sampled_from((0.0, 0.0, 0.002, 0.02, 0.2))
    pauses = [
        (T0 + at, T0 + at + length)
        for at, length in draw(
            st.lists(st.tuples(st.integers(0, span), st.sampled_from((900, 5_000, 40_000))), max_size=2)
        )
    ]
    return Line(
        connections,
        lost=draw(rare),
        damaged=draw(rare),
        twice=draw(rare),
        swapped=draw(rare),
        wild=draw(st.sampled_from((0.0, 0.0, 0.0, 0.001))),
        pauses=pauses,
        snapshots=draw(st.booleans()),
        taught=draw(st.booleans()),
        calm_from=T0 + span,
    )


@PROFILE
@given(
    line=lines(6), seed=SEEDS, restart=st.booleans(), unruly=st.booleans(),
    skew=st.sampled_from((0, 0, 5_000, -5_000)),
)  # fmt: skip
def test_no_wrong_candle_leaves_the_tracker_undoubted(
    line: Line, seed: int, restart: bool, unruly: bool, skew: int
) -> None:
    exchange = Exchange(seed, 6, restart=restart, unruly=unruly, skew=skew)
    heard = Session(exchange, line, seed).play()
    first = -(-line.connections[0][0] // MS) * MS
    check(exchange, heard, first, exchange.end - MS)
