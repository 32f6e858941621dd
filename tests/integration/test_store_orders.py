"""The life of a candle on a real store: what came in decides what is stored, not the order of it.

Free of the order are kind, prices, volume, evidence and ``as_of`` of a series, to the last byte,
and of the parents folded from it. ``revision`` is not: it counts the changes a slot went through,
and who hears the final word first goes through none. What holds of it in any order: it is announced
once for each number from 0 up, so who heard everything has what is stored.

A parent of which REST spoke itself may differ from its children. Where the order left it so, a look
is queued, and the exchange's answer to that is the same in any order.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from livermore.adapters import store
from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.folding import CHILD, fold
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Suspect
from tests.integration.test_readings import M5, T0, Desk, assert_equal, candle
from tests.integration.test_writer import Ears

M15, H1 = Timeframe.M15, Timeframe.H1
FIRST, LAST = 9, 14
"""Slots heard of in any order: two quarters of an hour, the first of which ends the hour."""
KNOWN = range(-12, FIRST)
"""Slots that are stored before, confirmed."""
PARENTS = ((M15, 9), (M15, 12), (H1, 0))
"""Timeframe and first slot of the parents they make."""
ASSUMED, STREAM, REST = Evidence
CONFIRMED = T0 + 1000 * M5.ms
NAMES = itertools.count()


@attrs.frozen
class Input:
    """Something that came in about a slot. ``as_of`` differs between any two of a story."""

    slot: int
    close: float | None
    """None: nothing traded."""
    volume: float
    evidence: Evidence
    as_of: int
    repaired: bool = False
    """Whether it is a page of history (REST, also one read early), or from the stream."""
    timeframe: Timeframe = M5

    def candle(self, series: Series) -> Candle:
        time = T0 + self.slot * M5.ms
        stamp = time + M5.ms + self.as_of
        if self.close is None:
            # At the price its sender believed in; the store knows better.
            return empty(series, time, 77.0 + self.as_of, self.evidence, stamp)
        high, low = max(101.0, self.close), min(99.0, self.close)
        return Candle(
            series, time, 100.0, high, low, self.close, self.volume,
            Kind.TRADED, self.evidence, stamp,
        )  # fmt: skip


CLOSES = st.sampled_from([None, None, 100.0, 100.25, 100.5])
VOLUMES = st.sampled_from([1.0, 1.0 * (1 + 4e-10), 2.0])
"""The first two are the same volume, summed in another order."""


@st.composite
def stories(draw: st.DrawFn, *, asked: bool) -> list[Input]:
    """Every slot once at least, some several times; if ``asked``, parents from REST as well."""
    slots = [*range(FIRST, LAST + 1), *draw(st.lists(st.integers(FIRST, LAST), max_size=8))]
    parents = draw(st.lists(st.sampled_from(PARENTS), max_size=3)) if asked else []
    moments = draw(st.permutations(range(1, len(slots) + len(parents) + 1)))
    story: list[Input] = []
    for slot, as_of in zip(slots, moments, strict=False):
        close = draw(CLOSES)
        # What was assumed is empty; a reply of REST that was read early ranks as the stream.
        evidence = draw(st.sampled_from([STREAM, REST] if close else list(Evidence)))
        repaired = evidence is REST or (evidence is STREAM and draw(st.booleans()))
        story.append(Input(slot, close, draw(VOLUMES), evidence, as_of, repaired))
    for (timeframe, slot), as_of in zip(parents, moments[len(slots) :], strict=True):
        close = draw(st.sampled_from([100.0, 100.5]))
        story.append(Input(slot, close, draw(VOLUMES), REST, as_of, True, timeframe))
    return story


# -- telling it --------------------------------------------------------------------------------


@attrs.define
class Teller:
    """Tells one story to a store: in some order, in turns, with restarts and lost replies."""

    desk: Desk
    chance: random.Random
    before: list[Input] = attrs.Factory(list)

    async def tell(self, story: Sequence[Input]) -> None:
        waiting: list[Input] = []
        for one in self.chance.sample(story, len(story)):
            # What waits for a turn holds one candle of a slot, the newest.
            if self.chance.random() < 0.5 or any(one.slot == other.slot for other in waiting):
                await self._write(waiting)
                waiting = []
            waiting.append(one)
            if self.chance.random() < 0.2:
                await self._write(waiting)
                await self.desk.start()  # a new process under a higher epoch
                waiting = [self.before[-1]]  # hears again what was said last
        await self._write(waiting)
        await self.desk.readings.turn()

    async def _write(self, waiting: Sequence[Input]) -> None:
        desk = self.desk
        streamed = sorted((one for one in waiting if not one.repaired), key=lambda one: one.slot)
        if streamed:
            candles = [one.candle(desk.series()) for one in streamed]
            if self.chance.random() < 0.2:  # a reply is lost: written, and nobody knows
                await desk.lanes.run([store.write(desk.series(), desk.lease.epoch, candles)])
            await desk.close(*candles, reading=self.chance.random() < 0.5)
        for timeframe in (M5, M15, H1):
            series = desk.series(timeframe)
            mine = [one for one in waiting if one.repaired and one.timeframe is timeframe]
            if mine:
                mine.sort(key=lambda one: one.slot)
                await desk.history([one.candle(series) for one in mine])
        self.before += waiting


def resting(found: Candle, before: Candle) -> Candle:
    """An empty as it is stored: flat at the close stored before it."""
    return empty(found.series, found.open_time, before.close, found.evidence, found.as_of)


@attrs.define
class Told:
    """What a story left."""

    desk: Desk
    candles: dict[tuple[Timeframe, int], Candle] = attrs.Factory(dict)
    """By timeframe and first slot; revisions aside."""
    members: dict[tuple[Timeframe, int], bytes] = attrs.Factory(dict)

    async def look(self) -> None:
        for timeframe in (M5, M15, H1):
            series = self.desk.series(timeframe)
            members = await self.desk.lanes.one(*store.range_call(series, T0 - H1.ms, "+inf"))
            candles, damaged = store.decode_candles(series, members)
            assert not damaged
            for member, one in zip(members, candles, strict=True):
                slot = (one.open_time - T0) // M5.ms
                self.candles[timeframe, slot] = attrs.evolve(one, revision=0)
                self.members[timeframe, slot] = _REVISION.sub(b"}", member)

    def fold(self, timeframe: Timeframe, slot: int) -> Candle:
        """A parent as its stored children make it."""
        step = CHILD[timeframe].ms // M5.ms
        slots = range(slot, slot + timeframe.ms // M5.ms, step)
        children = [self.candles[CHILD[timeframe], one] for one in slots]
        found = fold(self.desk.series(timeframe), T0 + slot * M5.ms, children)
        assert found is not None
        before = self.candles[timeframe, slot - timeframe.ms // M5.ms]
        return resting(found, before) if found.kind is Kind.EMPTY else found

    @property
    def doubted(self) -> set[tuple[Timeframe, int]]:
        """Slots of which REST is asked again."""
        return {(one.series.timeframe, (one.open_time - T0) // M5.ms) for one in self.desk.suspects}


_REVISION = re.compile(rb',"revision":\d+}$')


async def tell(url: str, story: Sequence[Input], order: int) -> Told:
    """Tell it to a series of its own; what is announced meanwhile is what is stored."""
    desk = Desk(url, (f"S{next(NAMES)}-USD",), exchange="coinbase")
    desk.now = T0 + LAST * M5.ms + 60_000
    await desk.start()
    await desk.history([candle(desk, slot, rest=True) for slot in KNOWN])
    desk.suspects.clear()
    ears = Ears(url)
    await Teller(desk, random.Random(order)).tell(story)
    await check_announced(desk, ears)
    ears.close()
    left = Told(desk)
    await left.look()
    return left


async def check_announced(desk: Desk, ears: Ears) -> None:
    """Of each slot the revisions from 0 to the stored one, once and in order."""
    heard: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for kind, name, slot, revision in ears.candles():
        heard.setdefault((name, slot), []).append((kind, revision))
    for timeframe in (M5, M15, H1):
        for one in await desk.stored(desk.series(timeframe)):
            slot = (one.open_time - T0) // M5.ms
            if slot in KNOWN and (timeframe, slot) != (H1, 0):
                continue
            wanted = [("close", 0), *(("correct", n) for n in range(1, one.revision + 1))]
            assert heard.pop((timeframe.value, slot)) == wanted, (timeframe, slot)
    assert not heard


def strongest(story: Sequence[Input], series: Series, before: Candle) -> list[Candle]:
    """What §4.1 says of a series: the strongest of each slot, empties flat at what precedes."""
    expected: list[Candle] = []
    for slot in range(FIRST, LAST + 1):
        mine = [one for one in story if (one.timeframe, one.slot) == (M5, slot)]
        found = max((one.candle(series) for one in mine), key=lambda one: one.strength)
        if found.kind is Kind.EMPTY:
            found = resting(found, before)
        expected.append(found)
        before = found
    return expected


# -- any order -----------------------------------------------------------------------------------


ORDERS = st.tuples(st.integers(0, 999), st.integers(0, 999))
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PROPERTY
@example(  # the same slots are heard of twice, so that some empties find nothing before them
    story=[
        *(Input(slot, None, 1.0, ASSUMED, slot - 8) for slot in range(FIRST, LAST + 1)),
        Input(12, None, 1.0, ASSUMED, 7),
        Input(9, None, 1.0, ASSUMED, 8),
    ],
    orders=(0, 0),
)
@given(story=stories(asked=False), orders=ORDERS)
def test_any_order_of_the_same_inputs_leaves_the_same_bytes_and_they_are_the_strongest(
    valkey_url, story, orders
):
    async def run() -> None:
        one, other = [await tell(valkey_url, story, order) for order in orders]
        for left in (one, other):
            expected = strongest(story, left.desk.series(), left.candles[M5, FIRST - 1])
            assert [left.candles[M5, slot] for slot in range(FIRST, LAST + 1)] == expected
            assert_equal(await left.desk.reading(), await left.desk.stored())
            left.desk.shut()
        five = [slot for slot in one.members if slot[0] is M5]
        assert [one.members[slot] for slot in five] == [other.members[slot] for slot in five]

    trio.run(run)


@PROPERTY
@given(story=stories(asked=False), orders=ORDERS)
def test_any_order_leaves_parents_that_are_the_fold_of_their_children_or_doubted(
    valkey_url, story, orders
):
    async def run() -> None:
        one, other = [await tell(valkey_url, story, order) for order in orders]
        for left in (one, other):
            for parent in PARENTS:
                if parent not in left.doubted:
                    assert left.candles[parent] == left.fold(*parent)
                assert left.candles[parent].same_values(left.fold(*parent)) or (
                    left.candles[parent].evidence is REST and parent in left.doubted
                )
            left.desk.shut()
        doubted = one.doubted | other.doubted
        if PARENTS[0] not in doubted:  # the others begin at its close, or contain it
            for parent in set(PARENTS) - doubted:
                assert one.members[parent] == other.members[parent]

    trio.run(run)


@PROPERTY
@given(story=stories(asked=True), orders=ORDERS)
def test_any_order_leaves_parents_rest_spoke_of_as_rest_answers_the_looks_that_are_queued(
    valkey_url, story, orders
):
    async def run() -> None:
        one, other = [await tell(valkey_url, story, order) for order in orders]
        for left in (one, other):
            # The exchange's own bars: as it said last, or else what its trades make.
            for timeframe, slot in PARENTS:
                said = [s for s in story if (s.timeframe, s.slot) == (timeframe, slot)]
                own = left.fold(timeframe, slot)
                if said:
                    newest = max(said, key=lambda s: s.as_of)
                    own = newest.candle(left.desk.series(timeframe))
                if (timeframe, slot) in left.doubted:
                    answer = attrs.evolve(own, evidence=REST, as_of=CONFIRMED)
                    await left.desk.history([answer])
                    await left.look()
                assert left.candles[timeframe, slot].same_values(own)
            left.desk.shut()

    trio.run(run)


# -- one case each ------------------------------------------------------------------------------


@pytest.fixture
async def desk(valkey_url):
    desk = Desk(valkey_url)
    desk.now = T0 + 6 * M5.ms
    await desk.start()
    yield desk
    desk.shut()


def quiet(desk: Desk, slot: int, evidence: Evidence, price: float = 77.0) -> Candle:
    time = T0 + slot * M5.ms
    return empty(desk.series(), time, price, evidence, time + M5.ms)


async def test_an_empty_behind_empties_that_its_own_batch_flattens_anew_lies_flat_with_them(desk):
    await desk.close(candle(desk, 0), quiet(desk, 2, ASSUMED), quiet(desk, 3, ASSUMED))
    assert [c.close for c in await desk.stored()][1:] == [77.0, 77.0]
    await desk.close(candle(desk, 1), quiet(desk, 4, STREAM))
    _, traded, *empties = await desk.stored()
    assert [c.close for c in empties] == [traded.close] * 3
    assert [c.revision for c in empties] == [1, 1, 0]


async def test_a_parent_is_confirmed_once_all_its_children_are(desk):
    """Also one whose successor runs already; and nothing is announced for it."""
    await desk.close(*(candle(desk, slot) for slot in range(5)))
    ears = Ears(desk.lanes.url)
    for slot in range(3):
        [bar] = await desk.stored(desk.series(M15))
        assert bar.evidence is STREAM
        await desk.history([candle(desk, slot, rest=True)])
    [bar] = await desk.stored(desk.series(M15))
    assert (bar.evidence, bar.revision) == (REST, 0)
    assert ears.candles() == []
    ears.close()


async def test_a_bar_that_rest_gave_is_not_replaced_by_its_confirmed_children_but_asked_again(desk):
    """The exchange's own long bars differ from the sum of the short ones now and then."""
    await desk.close(*(candle(desk, slot) for slot in range(3)))
    [bar] = await desk.stored(desk.series(M15))
    said = attrs.evolve(bar, high=bar.high + 1, evidence=REST, as_of=T0 + M5.ms, revision=0)
    await desk.history([said])
    later = [attrs.evolve(candle(desk, slot, rest=True), as_of=CONFIRMED) for slot in range(3)]
    desk.suspects.clear()
    await desk.history(later)
    [bar] = await desk.stored(desk.series(M15))
    assert (bar.high, bar.revision) == (said.high, 1)
    assert Suspect(desk.series(M15), T0, "its children say otherwise") in desk.suspects


async def test_weaker_words_that_differ_are_not_written_and_rest_is_asked(desk):
    await desk.history([candle(desk, 0, rest=True), candle(desk, 1, rest=True)])
    await desk.close(candle(desk, 0, shift=1.0), attrs.evolve(candle(desk, 1), volume=9.0))
    assert [(c.evidence, c.revision) for c in await desk.stored()] == [(REST, 0), (REST, 0)]
    assert [(s.open_time - T0) // M5.ms for s in desk.suspects] == [0, 1]
    desk.suspects.clear()
    await desk.close(quiet(desk, 1, ASSUMED))  # an assumption is no witness
    assert (await desk.stored())[1].kind is Kind.TRADED
    assert desk.suspects == []
