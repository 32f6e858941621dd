"""Owns what alert rules remember of one exchange's series; what they find goes to the outbox.

It is fed by the readings: every closed candle once, in order per series; after a correction, a
repair or a start all candles from there on. What is remembered, the claim of an alert and its entry
in the outbox change in one script, so that a restart goes on behind the last candle that was
evaluated: nothing is left out, nothing is told twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs
import numpy as np

from livermore.adapters import outbox
from livermore.adapters.redis import Call, Redis
from livermore.errors import MalformedMessage, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.runtime.lease import Lease
from livermore.signals import rules as rules_
from livermore.signals.alert import LATE, Alert, Beside, Withdrawal
from livermore.signals.bias import Bias
from livermore.signals.reading import Reading, shown
from livermore.signals.rules import Alerted, Fired, Memory, Point, Rule
from livermore.signals.stage import STAGES, Stage, stages
from livermore.signals.state import States, numbers


class Shown(Protocol):
    """What an alert tells beside the rule that was met."""

    def shown(self, symbols: Iterable[str]) -> dict[str, dict[str, Beside]]:
        """The newest reading of every timeframe, of each symbol."""

    def bias(self, symbol: str, close_time: int) -> tuple[Bias | None, int]:
        """The bias of a symbol, and of how many timeframes it is."""


@attrs.frozen
class _Found:
    """A rule that was met, and the candle that met it."""

    series: Series
    fired: Fired
    point: Point
    revision: int
    corrected: bool


@attrs.define
class Alerting:
    """The rules of one exchange. The methods are called by the readings, in their task."""

    redis: Redis
    lease: Lease
    rules: Sequence[Rule]
    clock: Callable[[], int | None]
    price: Callable[[str], tuple[float, int] | None]
    """Last price of a symbol and its time (exchange ms)."""
    verify: Callable[[Series, int], object] = lambda series, open_time: None
    """Compare the candle of that open time with REST at once."""
    say: Callable[[str, dict[str, object]], None] = lambda event, fields: None
    posted: Callable[[], object] = lambda: None
    """Hears that the outbox has new entries."""
    held: dict[Series, int] = attrs.field(factory=dict, init=False)
    """Series that wait for REST to speak of a candle, and its open time."""
    fired: int = attrs.field(default=0, init=False)
    withdrawn: int = attrs.field(default=0, init=False)
    _memories: dict[Series, Memory] = attrs.field(factory=dict, init=False)
    _recent: dict[Series, list[Point]] = attrs.field(factory=dict, init=False)
    """The newest points of each series, as many as its rules look back."""
    _rules: dict[Series, tuple[Rule, ...]] = attrs.field(factory=dict, init=False)
    _dirty: set[Series] = attrs.field(factory=set, init=False)
    _found: list[_Found] = attrs.field(factory=list, init=False)
    _unmade: list[tuple[Series, Alerted]] = attrs.field(factory=list, init=False)
    _doubts: int = attrs.field(default=0, init=False)
    """How often what is remembered was distrusted since it was read."""
    _wanted: tuple[Rule, ...] | None = attrs.field(default=None, init=False)
    """Rules that take the place of those there are."""
    _unread: set[Series] = attrs.field(factory=set, init=False)
    """Series of which it is not known yet what is remembered."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to :meth:`commit`."""
        return bool(self._dirty)

    @property
    def urgent(self) -> bool:
        """Whether that is more than how far the rules have come."""
        return bool(self._found or self._unmade)

    async def start(self, series: Sequence[Series]) -> None:
        """Read what is remembered of ``series``. Before the readings start."""
        exchange = self.lease.exchange
        for at in range(0, len(series), 500):
            some = series[at : at + 500]
            fields = [outbox.memory_field(one) for one in some]
            texts = await self.redis.one(*outbox.read_memories(exchange, fields))
            unlooked = [
                field
                for one, field, text in zip(some, fields, texts, strict=True)
                if text is not None and not self._covering(one)
            ]
            if unlooked:  # a rule that covers them again begins anew: no candle from now on alerts
                await self.redis.one("HDEL", outbox.rules_key(exchange), *unlooked)
            for one, text in zip(some, texts, strict=True):
                if not self._covering(one):
                    continue
                try:
                    memory = rules_.decode_memory(text) if text else None
                except MalformedMessage as error:
                    self.say("what the rules remember is damaged", {"why": str(error)})
                    memory = None
                if memory is not None:
                    self._memories[one] = memory
                # Without one the stored candles make it, silently.

    def forget(self, series: Iterable[Series]) -> None:
        """These are not followed any more."""
        gone = set(series)
        known: dict[Series, object]
        for known in (self.held, self._memories, self._recent, self._rules):  # type: ignore[assignment]
            for one in gone:
                known.pop(one, None)
        self._dirty -= gone
        self._found = [one for one in self._found if one.series not in gone]
        self._unmade = [one for one in self._unmade if one[0] not in gone]

    def distrust(self) -> None:
        """Somebody else may have held the exchange: what is remembered is read anew."""
        self._doubts += 1

    def change(self, rules: Iterable[Rule]) -> list[Series]:
        """Look for ``rules`` from the next turn on; rules that stay know what they knew.

        The series that are returned must be gone through again.
        """
        self._wanted = tuple(rules)
        return self._changed()

    def _changed(self) -> list[Series]:
        wanted = self._wanted or ()
        return [one for one, rules in self._rules.items() if rules != _covering(wanted, one)]

    async def refresh(self) -> set[Series]:
        """Read anew what is distrusted. The series returned must be gone through after it."""
        anew: set[Series] = set()
        if self._wanted is not None:
            changed = self._changed()
            self.forget(changed)
            self._unread.update(changed)
            self.rules, self._wanted = self._wanted, None
        if self._unread:
            await self.start(list(self._unread))
            for one in self._unread:
                self.begin(one)
            anew |= self._unread
            self._unread.clear()
        doubts = self._doubts
        if not doubts:
            return anew
        series = list(self._rules)
        for known in (
            self.held, self._memories, self._recent, self._dirty, self._found, self._unmade
        ):  # fmt: skip
            known.clear()
        await self.start(series)
        self._doubts -= doubts  # what came meanwhile may be of what was read already
        return anew.union(series)

    def resume(self, series: Series, newest: Candle, reading: Reading) -> bool:
        """Go on behind ``newest``; False when the stored candles have to be gone through."""
        rules = self._covering(series)
        if not rules:
            return True
        memory = self._memories.get(series)
        if (
            memory is None
            or memory.cursor != newest.open_time
            or memory.doubted
            or rules_.reach(rules) > 1
            or _strange(memory, rules)
        ):
            return False
        self._recent[series] = [_point(newest, reading)]
        return True

    def begin(self, series: Series) -> None:
        """Nothing of ``series`` is stored; what is remembered of it may be of other rules."""
        rules, memory = self._covering(series), self._memories.get(series)
        if memory is not None and _strange(memory, rules):
            tf_ms = series.timeframe.ms
            rules_.adopt(rules, memory, (), tf_ms, now=self.clock() or memory.cursor + tf_ms)

    def follow(self, series: Series, candle: Candle, reading: Reading) -> None:
        """A new newest candle and its reading."""
        rules = self._covering(series)
        if not rules or series in self.held:
            return  # one that waits is gone through again as soon as it is written
        memory = self._memories.get(series) or self._memory(series, rules, candle.close_time)
        point = _point(candle, reading)
        recent = self._recent.setdefault(series, [])
        recent.append(point)
        outcome = rules_.evaluate(rules, memory, recent, series.timeframe.ms, previous=None)
        if len(recent) > 1 and len(recent) > rules_.reach(rules):
            del recent[0]
        self._dirty.add(series)
        if outcome is rules_.NOTHING:
            return
        if outcome.fired or outcome.held is not None or outcome.unmade:
            self._take(series, outcome, {point.open_time: (point, candle.revision)})

    def follow_again(
        self,
        series: Series,
        candles: Sequence[Candle],
        course: States,
        corrected_from: int | None,
        changed_from: int | None = None,
    ) -> None:
        """All candles of ``series``, oldest first; ``course`` has the state after each of them.

        Those not evaluated yet are; from ``corrected_from`` on all are. What ``changed_from`` makes
        is due to a correction, not to candles that were missing.
        """
        rules = self._covering(series)
        if not rules or not candles:
            return
        tf_ms = series.timeframe.ms
        self.held.pop(series, None)
        newest = candles[-1].close_time
        memory = self._memory(series, rules, newest)
        stale = _strange(memory, rules)
        reach = rules_.reach(rules)
        if corrected_from is not None:
            # What its oldest candles are compared with is not stored any more: they stay as judged.
            oldest = candles[min(reach, len(candles) - 1)].open_time
            corrected_from = max(corrected_from, oldest)
            corrected_from = _unless_lost(corrected_from, candles, course, memory)
        first = 0 if stale else memory.cursor + 1
        if corrected_from is not None:
            first = min(first, corrected_from)
        at = max(0, next((k for k, c in enumerate(candles) if c.open_time >= first), len(candles)))
        begin = max(0, min(at, len(candles)) - reach)
        points = points_of(candles, course, begin)
        if corrected_from is not None:
            rules_.rewind(memory, corrected_from, tf_ms)
        if stale:
            rules_.adopt(rules, memory, points, tf_ms, now=self.clock() or newest)
        outcome = rules_.evaluate(rules, memory, points, tf_ms, previous=None)
        self._recent[series] = points[-reach:]
        self._dirty.add(series)
        seen = {p.open_time: (p, c.revision) for p, c in zip(points, candles[begin:], strict=True)}
        self._take(series, outcome, seen, changed_from)

    async def commit(self, beside: Shown) -> None:
        """Write what changed, and put what was found into the outbox.

        Raises :class:`StoreError`, and then keeps all of it for the next time.
        """
        if not self.lease.valid():
            raise StoreError("the lease lapsed: alerts wait")
        series, found, unmade = list(self._dirty), list(self._found), list(self._unmade)
        known = await self._entries([claim(*one) for one in unmade])
        # What was unmade before anybody was told of it is not told.
        void = {claim(*one) for one, (_, told) in zip(unmade, known, strict=True) if told is None}
        met = [one for one in found if claim(one.series, one.fired) not in void]
        now = self.clock() or 0
        readings = beside.shown({one.series.symbol for one in met})
        entries = [
            outbox.posting(self._alert(one, now, beside, readings), self._channels(one.fired.rule))
            for one in met
        ]
        for (_, alerted), (entry, told) in zip(unmade, known, strict=True):
            if told is not None:
                why = "a correction of its candles unmade it"
                withdrawal = Withdrawal(told, entry, why, now)
                entries.append(outbox.posting(withdrawal, self._channels(alerted.rule)))
        memories = {
            outbox.memory_field(one): rules_.encode_memory(self._memories[one]) for one in series
        }
        await self.redis.run(
            [outbox.post(self.lease.exchange, self.lease.epoch, memories, entries)], "readings"
        )
        if entries:
            self.posted()
        self._dirty.difference_update(series)
        del self._found[: len(found)], self._unmade[: len(unmade)]
        self.fired += len(met)
        self.withdrawn += len(entries) - len(met)

    # -- parts ------------------------------------------------------------------------------

    def _covering(self, series: Series) -> tuple[Rule, ...]:
        rules = self._rules.get(series)
        if rules is None:
            rules = self._rules[series] = _covering(self.rules, series)
        return rules

    def _channels(self, name: str) -> tuple[str, ...]:
        rule = next((rule for rule in self.rules if rule.name == name), None)
        return () if rule is None or rule.channels is None else rule.channels

    def _memory(self, series: Series, rules: Sequence[Rule], newest: int) -> Memory:
        """``newest`` is the end of the newest candle at hand: what lies before it is history."""
        memory = self._memories.get(series)
        if memory is None:
            memory = self._memories[series] = Memory()
            rules_.adopt(rules, memory, (), series.timeframe.ms, now=self.clock() or newest)
        return memory

    def _take(
        self,
        series: Series,
        outcome: rules_.Outcome,
        seen: Mapping[int, tuple[Point, int]],
        changed_from: int | None = None,
    ) -> None:
        for fired in outcome.fired:
            point, revision = seen[fired.open_time]
            corrected = fired.corrected and changed_from is not None
            corrected = corrected and fired.open_time >= (changed_from or 0)
            self._found.append(_Found(series, fired, point, revision, corrected))
            self.verify(series, fired.open_time)
        del self._found[: -outbox.KEEP]  # the outbox holds no more
        self._unmade += [(series, alerted) for alerted in outcome.unmade]
        if outcome.held is not None:
            self.held[series] = outcome.held
            self.verify(series, outcome.held)

    async def _entries(self, claims: Sequence[str]) -> list[tuple[str, Alert | None]]:
        """The entry of each claim, its id first; None where it is not in the outbox any more."""
        if not claims:
            return []
        exchange = self.lease.exchange
        ids = await self.redis.one("HMGET", outbox.claims_key(exchange), *claims)
        calls: list[Call] = [
            ("XRANGE", outbox.stream_key(exchange), i or b"0-1", i or b"0-1") for i in ids
        ]
        found: list[tuple[str, Alert | None]] = []
        for reply in await self.redis.run(calls, "read"):
            row = next(iter(outbox.rows(reply)), None)
            if isinstance(row, outbox.Row) and isinstance(row.entry, Alert):
                found.append((row.id, row.entry))
            else:
                found.append(("", None))
        return found

    def _alert(
        self, found: _Found, now: int, beside: Shown, shown: Mapping[str, dict[str, Beside]]
    ) -> Alert:
        series, fired, point = found.series, found.fired, found.point
        close_time = fired.open_time + series.timeframe.ms
        readings = shown[series.symbol]
        late = found.corrected or now - close_time > LATE
        price, time = self.price(series.symbol) or (point.close, close_time)
        if time < close_time:  # no ticker came since
            price, time = point.close, close_time
        bias, timeframes = beside.bias(series.symbol, close_time)
        return Alert(
            id=identity(series, fired.rule, fired.open_time),
            rule=fired.rule,
            kind=fired.kind.value,
            what=fired.what,
            direction=fired.direction,
            source_exchange_id=series.exchange,
            symbol=series.symbol,
            timeframe=series.timeframe,
            open_time=fired.open_time,
            close_time=close_time,
            close=point.close,
            last_price=price,
            last_price_time=time,
            macdv=point.macdv if point.macdv is not None else 0.0,
            signal=point.signal,
            histogram=point.histogram,
            stage=point.stage,
            bias=bias,
            readings=readings,
            revision=found.revision,
            triggered=now,
            latency=now - close_time,
            strength=fired.strength,
            level=fired.level,
            late=late,
            holds=self._holds(found, readings, price) if late else None,
            corrected=found.corrected,
            reissue=fired.reissue,
            bias_timeframes=timeframes,
        )

    def _holds(self, found: _Found, readings: Mapping[str, Beside], price: float) -> bool | None:
        """Whether the newest reading, or of a move the last price, still says it."""
        fired = found.fired
        if fired.kind is not rules_.Kind.MOVE:
            return holds(fired, readings.get(found.series.timeframe.value))
        rule = next((rule for rule in self.rules if rule.name == fired.rule), None)
        if rule is None:
            return None
        sign = 1 if fired.direction == "up" else -1
        before = found.point.close / (1 + sign * (fired.strength + rule.percent) / 100)
        return sign * (price / before - 1) * 100 >= rule.percent


def identity(series: Series, rule: str, open_time: int) -> str:
    """What makes an alert the same one."""
    return f"{rule}|{series.exchange}|{series.symbol}|{series.timeframe.value}|{open_time}"


def claim(series: Series, alerted: Alerted | Fired) -> str:
    """Of an alert that is remembered or new; as :func:`outbox.claim_of` gives it for its entry."""
    text = identity(series, alerted.rule, alerted.open_time)
    return f"{text}#{alerted.reissue}" if alerted.reissue else text


def holds(fired: Fired, newest: Beside | None) -> bool | None:
    """Whether the newest reading still says what a rule found; None when that is not known."""
    if newest is None or newest.macdv is None or newest.histogram is None:
        return None
    up = fired.direction == "up"
    if fired.kind is rules_.Kind.LEVEL and fired.level is not None:
        return newest.macdv > fired.level if up else newest.macdv < -fired.level
    if fired.kind is rules_.Kind.REVERSAL:  # turning up is said of an oversold market
        turning = newest.histogram > 0 if up else newest.histogram < 0
        return turning and (newest.macdv < 0 if up else newest.macdv > 0)
    if fired.kind is rules_.Kind.STAGE:
        return newest.stage is not None and fired.what.endswith(f" {newest.stage.value}")
    return None


def _covering(rules: Iterable[Rule], series: Series) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.covers(series.symbol, series.timeframe))


def _strange(memory: Memory, rules: Sequence[Rule]) -> bool:
    """Whether ``memory`` is of other rules."""
    return len(memory.tracks) != len(rules) or bool(rules_.unknown(rules, memory))


def _unless_lost(
    corrected_from: int, candles: Sequence[Candle], course: States, memory: Memory
) -> int:
    """From where on a correction may unmake alerts.

    One that stands where too few candles are observed for any was told when there were more: that
    the store lost some says nothing against it.
    """
    enough = int(np.searchsorted(course.column("observed"), rules_.FEWEST_OBSERVED))
    end = candles[enough].open_time if enough < len(candles) else candles[-1].close_time
    lost = any(
        corrected_from <= one.open_time < end and one.fate is rules_.Fate.STANDS
        for one in memory.alerted
    )
    return end if lost else corrected_from


def points_of(candles: Sequence[Candle], course: States, begin: int) -> list[Point]:
    """The candles from index ``begin`` on as rules see them."""
    some = candles[begin:]
    if not some:
        return []
    at = course.take(np.arange(begin, len(candles)))
    macdv, signal, _ = shown(at, np.full(len(some), some[0].series.timeframe.ms))
    named: tuple[Stage | None, ...] = (*STAGES, None)
    return [
        Point(c.open_time, v, s, h, named[code], c.close, observed, _assumed(c))
        for c, v, s, h, code, observed in zip(
            some,
            numbers(macdv),
            numbers(signal),
            numbers(macdv - signal),
            stages(macdv, signal, at.column("calm")).tolist(),
            at.column("observed").tolist(),
            strict=True,
        )
    ]


def _point(candle: Candle, reading: Reading) -> Point:
    return Point(
        candle.open_time,
        reading.macdv,
        reading.signal,
        reading.histogram,
        reading.stage,
        candle.close,
        reading.observed,
        _assumed(candle),
    )


def _assumed(candle: Candle) -> bool:
    return candle.kind is Kind.EMPTY and candle.evidence is Evidence.ASSUMED
