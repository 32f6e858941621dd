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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series, empty
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


PACES = {"LIQUID": 2_500, "MIDDLE": 45_000, "RARE": 420_000, "NEVER": 0}
"""Mean milliseconds between two trades."""


class Exchange:
    """Trades of a few symbols over some slots, and what is published about them."""

    def __init__(
        self, seed: int, slots: int, *, restart: bool = False, unruly: bool = False, skew: int = 0
    ) -> None:
        self.chance = random.Random(seed)
        self.end = T0 + slots * MS
        self.skew = skew
        self.trades: dict[str, list[Trade]] = {}
        self.published: dict[str, list[int]] = {}
        said: list[Emission] = []
        for native, pace in PACES.items():
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
        trades: list[Trade] = []
        published: list[int] = []
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
                series(native),
                open_time,
                state.open,
                state.high,
                state.low,
                state.close,
                state.volume,
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
                state = self.state(
                    native, (time // MS - back) * MS, time - chance.randrange(15_000)
                )
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
            [(native, series(native)) for native in PACES],
            settle=SETTLE,
            sample_lag=LAG,
            sample_every=10_000,
            sample_delay=6_000,
        )
        self.heard = Heard()
        self.now = 0.0

    def moment(self, time: int) -> float:
        return (time - T0) / 1000 + 1_000

    def play(self) -> Heard:
        first = self.line.connections[0][0]
        if self.line.taught:
            for native in PACES:
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
        frames += [
            (e.time, [e.event], False) for e in self.exchange.said if start + 150 < e.time < end
        ]
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
        for time, number, said, ack in numbered:
            calm = time >= line.calm_from
            stamp = time + self.exchange.skew
            if not calm and (wild or chance.random() < line.wild):
                wild = wild - 1 if wild else chance.randrange(3)
                stamp += chance.choice((-3_600_000, 3_600_000, 200_000)) if wild != 1 else 3_600_000
            malformed = 0
            events = list(said)
            if not calm and chance.random() < line.damaged:
                events, malformed = [left for one in said if (left := _damage(one))], 1
            events = [attrs.evolve(e, time=stamp) if isinstance(e, Ticker) else e for e in events]
            self._read(Frame(stamp, number, events, malformed), time)
            if ack:
                tracker.acknowledged(PACES, self.now)
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
            waiting.clear()


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
    for native in PACES:
        doubted_before = False
        for open_time in range(first, last, MS):
            key = (native, open_time)
            doubted = key in heard.missing or key in heard.suspects
            assert key in heard.stored or key in heard.missing, f"{key} was skipped"
            if key in heard.stored and not doubted:
                candle, truth = flattened(heard, key), exchange.truth(*key)
                if truth is None:
                    assert candle.kind is Kind.EMPTY, f"{key} never traded"
                    pytest.fail(f"{key} was closed at an unknown price")
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
    max_examples=60,
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
            st.lists(
                st.tuples(st.integers(0, span), st.sampled_from((900, 5_000, 40_000))), max_size=2
            )
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


@pytest.mark.parametrize("seed", range(3))
def test_an_undisturbed_run_closes_every_slot_by_trades_and_doubts_nothing(seed: int) -> None:
    exchange = Exchange(seed, 5)
    heard = Session(exchange, Line([(T0 + 500, exchange.end)]), seed).play()
    last = exchange.end - MS
    own = {key for key in heard.missing | heard.suspects if key[1] > T0 and key[0] != "NEVER"}
    assert own == set()
    check(exchange, heard, T0, last)
    for open_time in range(T0 + MS, last, MS):
        end = open_time + MS
        at = bisect.bisect_left([t.time for t in exchange.trades["LIQUID"]], end)
        first_beyond = min(exchange.published["LIQUID"][at], end + SETTLE)
        assert first_beyond - 1 <= heard.closed_at["LIQUID", open_time] <= first_beyond + 25
        assert end <= heard.closed_at["RARE", open_time] <= end + SETTLE + 25


# -- one thing at a time --------------------------------------------------------------------------

X = "BTC-USD"
BTC = series(X)


class Wire:
    """A tracker of one symbol (and a silent other) and frames by hand; ``at`` in ms after T0."""

    def __init__(self, *, price: float | None = 10.0, acknowledged: bool = True) -> None:
        self.tracker = Tracker(
            [(X, BTC), ("Q", series("Q"))],
            settle=SETTLE,
            sample_lag=LAG,
            sample_every=10_000,
            sample_delay=6_000,
        )
        self.sequence = -1
        self.time = T0 - MS
        self.missing: list[tuple[str, int]] = []
        self.suspects: list[tuple[str, int]] = []
        self.closes: list[tuple[str, Candle]] = []
        if price is not None:
            for one in (BTC, series("Q")):
                self.tracker.learn(Candle(one, T0 - MS, price, price, price, price, 1.0))
        self.connect(-1_000, acknowledged=acknowledged)

    def now(self, at: int) -> float:
        return 5_000 + at / 1000

    def connect(self, at: int, *events: Event, acknowledged: bool = True) -> None:
        self.sequence = -1
        self.tracker.connected(self.now(at))
        self.say(at)
        for event in events:
            self.say(at, event)
        if acknowledged:
            self.tracker.acknowledged([X, "Q"], self.now(at))

    def say(self, at: int, *events: Event, read_at: int | None = None, malformed: int = 0) -> None:
        self.sequence += 1
        frame = Frame(T0 + at, self.sequence, list(events), malformed)
        self.tracker.take(frame, self.now(at if read_at is None else read_at))
        self.drain()

    def trade(self, at: int, *ids: int, price: float = 10.0, snapshot: bool = False) -> None:
        """Trades made at ``at``, heard 200 ms later."""
        trades = [Trade(number, price, Decimal(1), T0 + at) for number in ids]
        self.say(at + 200, Trades(X, trades, snapshot))

    def beat(self, start: int, end: int, step: int = 1_000) -> None:
        for at in range(start, end, step):
            self.say(at, Heartbeat(0))

    def drain(self) -> None:
        pending = self.tracker.pending
        # The slot before the first was running when we came.
        self.missing += [(one.symbol, (t - T0) // MS) for one, t in pending.missing if t >= T0]
        self.suspects += [(one.symbol, (t - T0) // MS) for one, t in pending.suspects]
        for one, slots in pending.closes.items():
            self.closes += [(one.symbol, slots[t]) for t in sorted(slots)]
        for waiting in (pending.closes, pending.missing, pending.suspects):
            waiting.clear()

    def of(self, symbol: str, slot: int) -> list[Candle]:
        return [c for s, c in self.closes if s == symbol and c.open_time == T0 + slot * MS]


def sample(slot: int, volume: float, price: float = 10.0, *, snapshot: bool = False) -> Sample:
    return Sample(X, T0 + slot * MS, price, price, price, price, volume, snapshot)


def test_a_slot_closes_at_the_first_trade_beyond_its_end_and_not_before() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.trade(MS - 100, 2)
    assert wire.of(X, 0) == []
    wire.trade(MS, 3)
    assert [c.volume for c in wire.of(X, 0)] == [2.0]


def test_a_slot_without_later_trades_closes_when_the_clock_passes_its_end_by_settle() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, MS + SETTLE, 500)
    assert wire.of(X, 0) == []
    wire.say(MS + SETTLE)
    assert [c.volume for c in wire.of(X, 0)] == [1.0]
    assert [c.evidence for c in wire.of("Q", 0)] == [Evidence.ASSUMED]


def test_our_own_pause_closes_nothing_before_what_waited_was_read() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, MS - 5_000)
    wire.tracker.tick(wire.now(MS + 9_000))
    wire.drain()
    assert not wire.closes
    assert not wire.missing
    late = Trades(X, [Trade(2, 12.0, Decimal(1), T0 + MS - 3_000)])
    wire.say(MS - 2_800, late, read_at=MS + 9_000)
    for at in range(MS - 2_000, MS + 9_000, 500):
        wire.say(at, read_at=MS + 9_000)
    assert [c.close for c in wire.of(X, 0)] == [12.0]
    assert wire.missing == []


def test_sequence_numbers_of_two_connections_are_not_compared() -> None:
    wire = Wire()
    wire.beat(0, 20_000)
    wire.tracker.lost()
    wire.connect(21_000)
    wire.sequence = 700
    wire.tracker.lost()
    wire.connect(22_000)
    assert wire.tracker.counts.breaks == 0


def test_a_snapshot_row_is_never_a_close_and_a_stale_one_is_not_forming() -> None:
    wire = Wire(acknowledged=False)
    wire.say(MS + 100, sample(0, 7.0, snapshot=True))
    wire.beat(MS + 200, MS + 10_000)
    assert wire.of(X, 0) == []
    assert (X, 0) in wire.missing
    assert BTC not in wire.tracker.pending.forming
    wire.say(MS + 10_000, sample(1, 1.0, snapshot=True))
    assert wire.tracker.pending.forming[BTC].open_time == T0 + MS


@pytest.mark.parametrize("meanwhile", [(), (3,)])
def test_a_blip_heals_when_the_snapshot_goes_on_from_the_id_we_know(meanwhile: tuple[int]) -> None:
    wire = Wire()
    wire.trade(1_000, 1, 2)
    wire.tracker.lost()
    trades = [Trade(n, 10.0, Decimal(1), T0 + n // 3 * 1_000 + 1_000) for n in (1, 2, *meanwhile)]
    wire.connect(4_000, Trades(X, trades, snapshot=True), acknowledged=False)
    wire.beat(5_000, MS + 3_000)
    assert [c.volume for c in wire.of(X, 0)] == [2.0 + len(meanwhile)]
    assert (X, 0) not in wire.missing + wire.suspects


def test_an_old_snapshot_of_trades_neither_heals_nor_begins_anew() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.trade(2_000, 2)
    wire.tracker.lost()
    stale = Trades(X, [Trade(1, 10.0, Decimal(1), T0 + 1_000)], snapshot=True)
    wire.connect(4_000, stale, acknowledged=False)
    wire.beat(5_000, MS + 12_000)
    assert wire.of(X, 0) == []
    assert (X, 0) in wire.missing


def test_a_lost_frame_costs_only_the_slot_and_the_series_that_do_not_heal() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.sequence += 1
    wire.trade(3_000, 2)
    wire.beat(4_000, MS + 12_000)
    assert wire.missing == [("Q", 0)]
    wire.tracker.learn(Candle(series("Q"), T0, 10.0, 10.0, 10.0, 10.0, 1.0))
    wire.beat(MS + 12_000, 2 * MS + 12_000)
    assert wire.missing == [("Q", 0)], "the next slot starts clean"
    assert [c.volume for c in wire.of(X, 0)] == [2.0]
    assert [c.kind for c in wire.of("Q", 1)] == [Kind.EMPTY]


def test_a_slot_with_a_missing_id_does_not_close_by_the_clock() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.trade(2_000, 3)
    wire.beat(3_000, MS + 7_000)
    assert wire.of(X, 0) == []
    wire.say(MS + 7_100, Trades(X, [Trade(2, 10.0, Decimal(1), T0 + 1_500)]))
    assert [c.volume for c in wire.of(X, 0)] == [3.0]


def test_a_first_trade_that_was_not_the_first_makes_its_slot_doubted() -> None:
    wire = Wire()
    wire.trade(20_000, 78)
    wire.trade(19_000, 77)
    wire.beat(21_000, MS + 12_000)
    assert wire.of(X, 0) == []
    assert (X, 0) in wire.missing


def test_a_missing_id_does_not_hold_up_the_slots_behind_it() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.sequence += 1
    wire.trade(3_000, 3)
    wire.say(MS + 6_700, sample(0, 3.0))
    wire.beat(MS + 7_000, MS + 9_000)
    assert [c.volume for c in wire.of(X, 0)] == [3.0]
    assert wire.suspects == [(X, 0)]
    wire.trade(MS + 20_000, 4)
    wire.trade(2 * MS, 5)
    assert [c.volume for c in wire.of(X, 1)] == [1.0]
    assert wire.suspects == [(X, 0)]


def test_the_first_trade_after_a_lost_frame_is_not_taken_for_the_first_of_all() -> None:
    wire = Wire()
    wire.sequence += 1  # perhaps there was a trade in it
    wire.trade(20_000, 78)
    wire.beat(21_000, MS + 12_000)
    assert wire.of(X, 0) == []
    assert (X, 0) in wire.missing


def test_doubt_from_a_break_outlives_the_skipping_of_older_missing_ids() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.trade(2_000, 3)
    wire.beat(3_000, MS + 7_500)
    wire.sequence += 1  # id 4 was in it
    wire.beat(MS + 7_500, 2 * MS + 4_000)
    assert wire.of(X, 1) == []


def test_a_loss_soon_after_the_clock_closed_a_slot_makes_that_slot_suspect() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, MS + 4_000)
    assert [c.volume for c in wire.of(X, 0)] == [1.0]
    wire.sequence += 1  # id 2 was in it, a late trade of the closed slot
    wire.trade(MS + 5_000, 3)
    wire.beat(MS + 6_000, 2 * MS + 12_000)
    assert (X, 0) in wire.suspects


def test_a_damaged_row_is_doubted_like_a_lost_frame() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.say(2_000, Trades(X, [Trade(2, 10.0, Decimal(1), T0 + 2_000)]), malformed=1)
    wire.beat(3_000, MS + 4_000)
    assert wire.of(X, 0) == []


@pytest.mark.parametrize(("volume", "suspected"), [(2.0, []), (2.5, [(X, 0)])])
def test_a_final_sample_that_differs_makes_the_slot_suspect(
    volume: float, suspected: list[tuple[str, int]]
) -> None:
    wire = Wire()
    wire.trade(1_000, 1, 2)
    wire.trade(MS + 100, 3)
    wire.say(MS + 6_700, sample(0, volume))
    assert wire.suspects == suspected


def test_an_early_sample_with_more_volume_than_the_slot_makes_it_suspect() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.say(16_700, sample(0, 5.0))
    wire.beat(17_000, MS + 3_000)
    assert [c.volume for c in wire.of(X, 0)] == [1.0]
    assert wire.suspects == [(X, 0)]


def test_a_ticker_without_its_trade_keeps_the_clock_from_closing() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, 60_000)
    wire.say(60_000, Ticker(X, 11.0, T0 + 60_000))
    wire.beat(61_000, MS + 1_000)
    wire.say(MS + 1_500, Ticker(X, 11.0, T0 + MS + 1_500))
    wire.beat(MS + 2_000, MS + 7_500)
    assert wire.of(X, 0) == []


def test_a_late_trade_corrects_its_own_slot_and_the_empties_behind_it() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, 2 * MS + 3_000)
    late = Trade(2, 11.0, Decimal(1), T0 + MS - 1)
    wire.say(2 * MS + 4_000, Trades(X, [late]))
    assert [(c.close, c.volume) for c in wire.of(X, 0)] == [(10.0, 1.0), (11.0, 2.0)]
    assert [c.close for c in wire.of(X, 1)] == [10.0, 11.0]
    wire.beat(2 * MS + 5_000, 3 * MS + 3_000)
    assert [c.close for c in wire.of(X, 2)] == [11.0]


def test_a_trade_too_late_to_be_summed_makes_its_slot_suspect() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, (KEPT + 2) * MS)
    wire.say((KEPT + 2) * MS, Trades(X, [Trade(2, 11.0, Decimal(1), T0 + 5_000)]))
    assert wire.suspects == [(X, 0)]


def test_ids_that_begin_anew_are_not_taken_for_duplicates() -> None:
    wire = Wire()
    wire.trade(1_000, 900)
    wire.trade(60_000, 1, price=12.0)
    wire.beat(61_000, MS + 12_000)
    assert wire.of(X, 0) == []
    assert (X, 0) in wire.missing
    wire.trade(MS + 20_000, 2)
    wire.trade(2 * MS, 3)
    assert [c.volume for c in wire.of(X, 1)] == [1.0]


@pytest.mark.parametrize(("price", "acknowledged"), [(None, True), (10.0, False), (10.0, True)])
def test_an_empty_is_assumed_only_at_a_known_price_on_an_acknowledged_connection(
    price: float | None, acknowledged: bool
) -> None:
    wire = Wire(price=price, acknowledged=acknowledged)
    wire.beat(0, MS + 9_000)
    assumed = price is not None and acknowledged
    assert [c.evidence for c in wire.of("Q", 0)] == [Evidence.ASSUMED] * assumed
    assert (("Q", 0) in wire.missing) is not assumed


def test_nothing_is_given_up_within_grace_after_a_reconnect() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.tracker.lost()
    back = MS + 20_000
    wire.connect(back, acknowledged=False)
    wire.beat(back + 100, back + int(GRACE * 1000) - 100, 100)
    assert wire.missing == []
    wire.beat(back + int(GRACE * 1000), back + 5_000)
    assert set(wire.missing) == {(X, 0), ("Q", 0)}


def test_a_clock_that_leaps_ahead_and_returns_invents_no_slot_and_stops_none() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, 100_000)
    for _ in range(3):
        wire.say(3_600_000 + 100_000, read_at=100_000)
    assert wire.closes == []
    wire.beat(101_000, 2 * MS)
    wire.trade(2 * MS, 2)
    wire.beat(2 * MS + 1_000, 3 * MS + 3_000)
    assert [c.volume for c in wire.of(X, 2)] == [1.0]
    assert [c.kind for c in wire.of("Q", 2)] == [Kind.EMPTY] or ("Q", 2) in wire.missing


def test_a_clock_set_to_another_century_is_survived() -> None:
    wire = Wire()
    for _ in range(3):
        wire.say(3_000_000_000_000, read_at=10_000)
    assert 0 < len(wire.missing) <= 2_002


def test_a_trade_from_the_future_ends_no_slot() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    future = Trade(2, 10.0, Decimal(1), T0 + 2_000 + BELIEVED + MS)
    wire.say(2_000, Trades(X, [future]))
    wire.trade(3_000, 3)
    assert wire.closes == []
    assert wire.tracker.counts.malformed == 1


def test_a_sample_without_volume_is_an_empty_candle() -> None:
    wire = Wire(price=None)
    wire.say(MS + 6_700, sample(0, 0.0))
    wire.beat(MS + 7_000, MS + 9_000)
    assert [c.kind for c in wire.of(X, 0)] == [Kind.EMPTY]


def joined(*marks: tuple[int, float], late: int = 0) -> Wire:
    """Connected in the middle of slot 0, where a trade of 1 is made every second and a half."""
    wire = Wire(acknowledged=False)
    ids = iter(range(100, 1000))
    events: list[tuple[int, str, float]] = [
        (at + 200, "trade", at) for at in range(200_000, MS + 1_000, 1_500)
    ]
    events += [(mark + 6_700 + late, "sample", volume) for mark, volume in marks]
    wire.connect(200_000)
    for at, kind, value in sorted(events):
        if kind == "trade":
            wire.trade(int(value), next(ids))
        else:
            wire.say(at, sample(0, value))
    wire.beat(MS + 1_500, MS + 3_500, 500)
    return wire


def volume_at(mark: int, before: float = 500.0) -> float:
    return before + len(range(200_000, mark, 1_500))


def test_a_slot_joined_in_the_middle_is_whole_by_two_samples_and_the_trades_between() -> None:
    wire = joined(*((mark, volume_at(mark)) for mark in (210_000, 220_000, 250_000)))
    [candle] = wire.of(BTC.symbol, 0)
    assert candle.volume == volume_at(MS)
    assert candle.evidence is Evidence.STREAM
    assert (BTC.symbol, 0) in wire.suspects, "it is compared with REST"
    assert wire.missing == []


@pytest.mark.parametrize(
    ("marks", "late"),
    [
        ([210_000], 0),  # one sample alone says nothing of its mark
        ([210_000, 220_000], 10_000),  # ten seconds late: the inferred marks are wrong
        ([], 0),
    ],
)
def test_samples_whose_marks_are_not_confirmed_make_nothing_whole(
    marks: list[int], late: int
) -> None:
    # An uneven second: the trades of two windows must not agree by chance.
    sums = [(mark, volume_at(mark) + mark % 7 * late) for mark in marks]
    wire = joined(*sums, late=late)
    assert wire.of(BTC.symbol, 0) == []


def test_a_trade_lost_after_the_sample_makes_the_slot_doubtful_again() -> None:
    wire = Wire(acknowledged=False)
    wire.connect(200_000)
    for number, at in enumerate(range(200_000, 230_000, 1_000)):
        wire.trade(at, 100 + number)
        if at in (217_000, 227_000):
            wire.say(at - 300, sample(0, 500.0 + len(range(200_000, at - 7_000, 1_000))))
    wire.trade(240_000, 140)  # ids 130 to 139 are lost
    wire.beat(241_000, MS + 3_000)
    wire.trade(MS + 3_000, 141)
    assert wire.of(BTC.symbol, 0) == []


def test_a_reconnect_that_lost_trades_undoes_what_a_sample_made_whole() -> None:
    wire = Wire(acknowledged=False)
    wire.connect(100_000)
    for number, at in enumerate(range(100_000, 130_000, 1_000)):
        wire.trade(at, 100 + number)
        if at in (117_000, 127_000):
            wire.say(at - 300, sample(0, 500.0 + len(range(100_000, at - 7_000, 1_000))))
    wire.tracker.lost()
    wire.connect(200_000)
    snapshot = [Trade(number, 10.0, Decimal(1), T0 + 199_000) for number in range(160, 170)]
    wire.say(200_100, Trades(X, snapshot, True))
    wire.trade(MS + 100, 170)
    wire.beat(MS + 1_000, MS + 4_000, 500)
    assert wire.of(BTC.symbol, 0) == []


def test_the_snapshot_at_the_start_proves_the_slots_it_covers_and_no_other() -> None:
    wire = Wire(acknowledged=False)
    times = [T0 - 3 * MS + 100_000, T0 - MS - 1_000, T0 + 1_000]
    trades = [Trade(n, 10.0, Decimal(1), t) for n, t in enumerate(times)]
    wire.tracker = Tracker([(X, BTC)], settle=SETTLE, sample_lag=LAG)
    wire.connect(9_000, Trades(X, trades, snapshot=True), acknowledged=False)
    past = wire.tracker.pending.past[BTC]
    assert [(t - T0) // MS for t in past] == [-2, -1]
    assert [past[t].kind for t in past] == [Kind.TRADED, Kind.EMPTY]


def test_memory_stays_bounded_over_thousands_of_slots() -> None:
    wire = Wire()
    for slot in range(3_000):
        wire.trade(slot * MS, 2 * slot + (slot % 7 > 3))  # ids are missing now and then
        wire.say(slot * MS + 16_700, sample(slot, 1.0), Ticker(X, 1.0, T0 + slot * MS + 16_700))
        wire.beat(slot * MS + 20_000, (slot + 1) * MS, 70_000)
    tape = wire.tracker._by_series[BTC]
    for kept in (tape.slots, tape.samples, tape.closed, tape.ticked):
        assert len(kept) <= KEPT + 2
    assert len(tape.missed) <= 288
    assert len(tape.ahead) <= 10


def test_trades_that_wait_for_a_missing_id_are_bounded() -> None:
    wire = Wire()
    wire.trade(1_000, 1)
    wire.trade(2_000, *range(3, AHEAD + 10))
    assert len(wire.tracker._by_series[BTC].ahead) <= AHEAD
