"""The scripts on real servers: what is stored, what is announced, and that the two never part."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livermore.adapters import store
from livermore.adapters.redis import Client, script
from livermore.adapters.wire import unpacked
from livermore.errors import Fenced, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import Timeframe

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms
ASSUMED, STREAM, REST = Evidence
NAMES = itertools.count()


@pytest.fixture(params=["valkey", "redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


class Ears:
    """Hears everything that is published, in order."""

    def __init__(self, url: str) -> None:
        if "+cluster" in url:
            client = redis.cluster.RedisCluster.from_url(url.replace("+cluster", ""))
            nodes = [(node.host, node.port) for node in client.get_primaries()]
            client.close()
            self._servers = [redis.Redis(host=host, port=port) for host, port in nodes]
        else:
            self._servers = [redis.Redis.from_url(url)]
        self._pubsub = self._servers[0].pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("channel:*", "end:*")
        self._pubsub.get_message(timeout=1)
        self._pubsub.get_message(timeout=1)
        self.heard()  # what other tests said may still be on its way between the nodes

    def heard(self) -> list[tuple[str, bytes]]:
        """Channel and payload since the last call; what every server published before is in it."""
        for number, server in enumerate(self._servers):
            server.publish(f"end:{number}", "")
        found: list[tuple[str, bytes]] = []
        ends = 0
        deadline = time.monotonic() + 5
        while ends < len(self._servers):
            assert time.monotonic() < deadline, "the end was not heard"
            message = self._pubsub.get_message(timeout=0.2)
            if message is None:
                continue
            channel = message["channel"].decode()
            if channel.startswith("end:"):
                ends += 1
            else:
                found.append((channel, message["data"]))
        return found

    def close(self) -> None:
        self._pubsub.close()
        for server in self._servers:
            server.close()


class Desk:
    """One series on one server, written through the script."""

    def __init__(self, url: str, series: Series | None = None) -> None:
        self.client = Client(url)
        self.series = series or Series("coinbase", f"S{next(NAMES)}-USD", M5)
        self.keys = store.keys(self.series)

    def candle(
        self,
        slot: int,
        close: float = 100.0,
        volume: float = 1.0,
        evidence: Evidence = STREAM,
        as_of: int = 0,
        kind: Kind = Kind.TRADED,
    ) -> Candle:
        low, high = min(close, 100.0), max(close, 101.0)
        if kind is Kind.EMPTY:
            low = high = close
            volume = 0.0
        opened = close if kind is Kind.EMPTY else 100.0
        time = T0 + slot * M5.ms
        return Candle(
            self.series, time, opened, high, low, close, volume, kind, evidence, as_of or time
        )

    def empty(
        self, slot: int, price: float = 100.0, evidence: Evidence = ASSUMED, as_of: int = 0
    ) -> Candle:
        return self.candle(slot, price, 0.0, evidence, as_of, Kind.EMPTY)

    def call(
        self,
        candles: Sequence[Candle],
        *,
        epoch: int = 1,
        history: bool = False,
        edge: store.Edge | None = None,
    ) -> store.Written:
        call = store.write(self.series, epoch, candles, history=history, edge=edge)
        [reply] = self.client.run([call])
        return store.written(self.series, candles, reply, history=history)

    def put(self, *candles: Candle, epoch: int = 1, history: bool = False) -> str:
        """The codes."""
        return self.call(candles, epoch=epoch, history=history).codes

    def members(self) -> list[bytes]:
        found: list[bytes] = self.client.one("ZRANGE", self.keys.candles, 0, -1)
        return found

    def stored(self) -> list[Candle]:
        candles, damaged = store.decode_candles(self.series, self.members())
        assert damaged == 0
        return candles

    def at(self, slot: int) -> Candle:
        [found] = [c for c in self.stored() if c.open_time == T0 + slot * M5.ms]
        return found

    def field(self, name: str) -> bytes | None:
        found: bytes | None = self.client.one("HGET", self.keys.companion, name)
        return found


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    desk = Desk(url)
    yield desk
    desk.client.close()


@pytest.fixture
def ears(url: str) -> Iterator[Ears]:
    ears = Ears(url)
    yield ears
    ears.close()


def as_announced(desk: Desk, member: bytes) -> bytes:
    return b"{" + desk.keys.identity.encode() + member[1:]


# -- codes ------------------------------------------------------------------------------------


def test_each_kind_of_input_gets_its_code(desk):
    assert desk.put(desk.candle(0), desk.candle(1), desk.candle(4)) == "aaa"
    assert desk.put(desk.candle(2)) == "i"
    assert desk.put(desk.candle(4, close=100.5)) == "c"
    assert desk.put(desk.candle(4, close=100.5, volume=2.0)) == "v"
    assert desk.put(desk.candle(4, close=100.5, volume=2.0)) == "s"
    assert desk.put(desk.candle(4, close=99.0, evidence=ASSUMED)) == "w"
    assert desk.put(desk.candle(4, close=100.5, volume=2.0, evidence=ASSUMED)) == "s"


def test_an_empty_without_any_known_price_is_not_written(desk):
    call = unpacked(store.write(desk.series, 1, [desk.empty(0)]))
    nameless = (*call[:-4], "", *call[-3:])
    [reply] = desk.client.run([nameless])
    assert store.written(desk.series, [desk.empty(0)], reply).codes == "o"
    assert desk.members() == []


def test_the_later_as_of_wins_within_one_rank(desk):
    desk.put(desk.candle(0, close=100.5, as_of=T0 + 10))
    assert desk.put(desk.candle(0, close=99.5, as_of=T0 + 9)) == "w"
    assert desk.put(desk.candle(0, close=99.5, as_of=T0 + 10)) == "c"
    assert desk.put(desk.candle(0, close=98.5, as_of=T0 + 11)) == "c"
    assert desk.at(0).close == 98.5


def test_rest_asked_earlier_still_beats_the_stream(desk):
    desk.put(desk.candle(0, close=100.5, as_of=T0 + 10))
    assert desk.put(desk.candle(0, close=99.5, evidence=REST, as_of=T0)) == "c"
    assert desk.put(desk.candle(0, close=98.5, as_of=T0 + 99)) == "w"
    assert desk.at(0).close == 99.5
    assert desk.at(0).evidence is REST


# -- revisions --------------------------------------------------------------------------------


def test_a_revision_rises_by_one_exactly_when_kind_or_values_change(desk, ears):
    steps = [
        (desk.candle(0), 0),
        (desk.candle(0, as_of=T0 + 1), 0),
        (desk.candle(0, evidence=REST, as_of=T0 + 2), 0),
        (desk.candle(0, close=100.5, evidence=REST, as_of=T0 + 3), 1),
        (desk.candle(0, close=100.5, volume=1.5, evidence=REST, as_of=T0 + 4), 2),
        (desk.empty(0, 100.0, REST, T0 + 5), 3),
        (desk.candle(0, close=100.0, volume=0.0, evidence=REST, as_of=T0 + 6), 4),
    ]
    for candle, revision in steps:
        desk.put(candle)
        assert desk.at(0).revision == revision
    revisions = [int(re.findall(rb'"revision":(\d+)', text)[0]) for _, text in ears.heard()]
    assert revisions == [0, 1, 2, 3, 4]


def test_more_evidence_for_the_same_values_changes_the_evidence_and_publishes_nothing(desk, ears):
    desk.put(desk.candle(0))
    version = desk.field("version")
    ears.heard()
    assert desk.put(desk.candle(0, evidence=REST, as_of=T0 + 7)) == "s"
    assert (desk.at(0).evidence, desk.at(0).as_of, desk.at(0).revision) == (REST, T0 + 7, 0)
    assert ears.heard() == []
    assert desk.field("version") == version


@pytest.mark.parametrize(
    ("volume", "code"),
    [(1e6 * (1 + 9e-10), "s"), (1e6 * (1 - 9e-10), "s"), (1e6 * (1 + 2e-9), "v"), (0.0, "v")],
)
def test_volumes_are_the_same_within_1e_9_relative(desk, volume, code):
    desk.put(desk.candle(0, volume=1e6))
    assert desk.put(desk.candle(0, volume=volume)) == code


def test_a_change_of_volume_alone_is_no_change_a_reading_would_see(desk, ears):
    desk.put(desk.candle(0))
    first = desk.call([desk.candle(0, volume=3.0)])
    assert (first.codes, first.version, first.corrected_version) == ("v", 2, 0)
    second = desk.call([desk.candle(0, close=99.0, volume=3.0)])
    assert (second.codes, second.version, second.corrected_version) == ("c", 3, 3)
    assert [channel for channel, _ in ears.heard()] == [
        desk.keys.close_channel, desk.keys.correct_channel, desk.keys.correct_channel
    ]  # fmt: skip


# -- empties ----------------------------------------------------------------------------------


def test_an_empty_lies_flat_at_the_close_stored_before_it_not_at_its_own_price(desk):
    assert desk.put(desk.candle(0, close=100.5), desk.empty(1, 77.0)) == "aa"
    found = desk.at(1)
    assert (found.open, found.high, found.low, found.close, found.volume) == (100.5,) * 4 + (0.0,)
    assert found.kind is Kind.EMPTY


def test_an_empty_with_nothing_before_it_lies_at_its_own_price(desk):
    desk.put(desk.empty(5, 77.0))
    assert desk.at(5).close == 77.0


def test_a_stronger_empty_with_nothing_before_it_brings_its_own_price(desk):
    desk.put(desk.empty(5, 77.0))
    assert desk.put(desk.empty(5, 78.0, REST)) == "c"
    assert desk.put(desk.empty(5, 79.0, STREAM)) == "s"
    assert desk.at(5).close == 78.0


def test_empties_are_flattened_again_behind_a_changed_close(desk, ears):
    desk.put(desk.candle(0), *(desk.empty(slot) for slot in (1, 2, 3)), desk.candle(4))
    ears.heard()
    desk.put(desk.candle(0, close=99.25, as_of=T0 + 5))
    assert [c.close for c in desk.stored()] == [99.25, 99.25, 99.25, 99.25, 100.0]
    assert [c.revision for c in desk.stored()] == [1, 1, 1, 1, 0]
    told = [as_announced(desk, member) for member in desk.members()[:4]]
    assert ears.heard() == [(desk.keys.correct_channel, text) for text in told]


def test_an_inserted_candle_flattens_the_empties_behind_it(desk, ears):
    desk.put(desk.empty(1, 77.0), desk.empty(2, 77.0), desk.candle(3))
    ears.heard()
    assert desk.put(desk.candle(0, close=99.5)) == "i"
    assert [c.close for c in desk.stored()] == [99.5, 99.5, 99.5, 100.0]


def test_a_traded_candle_that_becomes_empty_takes_the_empties_behind_it_along(desk):
    desk.put(desk.candle(0, close=99.5), desk.candle(1, close=101.0), desk.empty(2))
    assert desk.put(desk.empty(1, 1.0, REST)) == "c"
    assert [c.close for c in desk.stored()] == [99.5, 99.5, 99.5]


def test_an_empty_lies_at_the_close_that_the_same_batch_gave_the_newest_before_it(desk):
    desk.put(desk.empty(1, 51.0))
    desk.put(desk.empty(0, 52.0), desk.empty(2, 53.0))
    assert [c.close for c in desk.stored()] == [52.0, 52.0, 52.0]


def test_flattening_stops_at_a_hole_and_at_a_traded_candle(desk):
    desk.put(desk.candle(0), desk.empty(1), desk.empty(3, 55.0), desk.candle(4), desk.empty(5))
    desk.put(desk.candle(0, close=99.0, as_of=T0 + 9))
    assert [c.close for c in desk.stored()] == [99.0, 99.0, 55.0, 100.0, 100.0]


# -- announcing -------------------------------------------------------------------------------


def test_history_is_silent_and_later_closes_are_announced_in_order(desk, ears):
    desk.put(*(desk.candle(slot) for slot in range(5)), history=True)
    desk.put(desk.candle(-2), desk.candle(-1), history=True)
    assert ears.heard() == []
    desk.put(desk.candle(5), desk.candle(6), desk.candle(8))
    desk.put(desk.candle(7), history=True)
    told = [
        (channel, int(re.findall(rb'"open_time":(\d+)', text)[0])) for channel, text in ears.heard()
    ]
    slots = (5, 6, 8, 7)  # a repaired candle beyond the cursor is news, whoever brings it
    assert told == [(desk.keys.close_channel, T0 + slot * M5.ms) for slot in slots]


def test_of_an_emptied_series_the_page_that_comes_first_may_be_an_old_one(desk, ears):
    old = [desk.candle(0), desk.candle(1)]
    settled = desk.candle(4).open_time
    desk.client.run([store.write(desk.series, 1, old, history=True, settled=settled)])
    desk.put(desk.candle(2), desk.candle(3), desk.candle(4), history=True)
    assert ears.heard() == []
    desk.put(desk.candle(5))
    assert len(ears.heard()) == 1


def test_a_correction_of_history_is_announced(desk, ears):
    desk.put(desk.candle(0), desk.candle(1), history=True)
    desk.put(desk.candle(0, close=99.0, evidence=REST), history=True)
    [(channel, text)] = ears.heard()
    assert channel == desk.keys.correct_channel
    assert text == as_announced(desk, desk.members()[0])


@pytest.mark.parametrize("restored", [False, True])
def test_a_lost_companion_keeps_no_repaired_candle_silent(desk, ears, restored):
    """Nobody knows any more what was announced: what is inserted was not, it was not there."""
    desk.put(*(desk.candle(slot) for slot in (0, 1, 3, 4)), history=True)
    desk.client.one("DEL", desk.keys.companion)
    if restored:
        [found] = desk.client.run([store.survey(desk.series, T0, T0)])
        oldest = store.surveyed(desk.series, found).oldest
        assert oldest is not None
        desk.client.run([script("asked", (desk.keys.companion,), 1, "", oldest)])
    desk.put(desk.candle(2), history=True)
    desk.put(desk.candle(-2), history=True)
    desk.put(desk.candle(5))
    times = [int(re.findall(rb'"open_time":(\d+)', text)[0]) for _, text in ears.heard()]
    assert times == [T0 + slot * M5.ms for slot in (2, 5)]
    [found] = desk.client.run([store.survey(desk.series, T0, T0)])
    assert store.surveyed(desk.series, found).asked_from is None


def test_a_series_that_began_with_the_stream_announces_its_first_close(desk, ears):
    desk.put(desk.candle(3))
    desk.put(desk.candle(0), desk.candle(1), history=True)
    assert [text for _, text in ears.heard()] == [as_announced(desk, desk.members()[-1])]


def test_what_is_announced_is_what_is_stored_byte_for_byte(desk, ears):
    odd = attrs.evolve(
        desk.candle(0),
        open=0.1 + 0.2, high=1.2345678901234567e8, low=1e-8, close=123.45600000000002,
        volume=1.7976931348623157e308,
    )  # fmt: skip
    desk.put(odd)
    desk.put(attrs.evolve(odd, close=5e-8, as_of=T0 + 10))
    told = ears.heard()
    assert told[1][1] == as_announced(desk, desk.members()[0])
    assert told[1][1].startswith(b'{"exchange":"coinbase","symbol":"')


NUMBERS = st.floats(min_value=1e-12, max_value=1e15, allow_subnormal=False)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(NUMBERS, min_size=4, max_size=4), volume=st.floats(0, 1e300))
def test_no_number_changes_on_its_way_through_the_script(any_redis_url, numbers, volume):
    desk = Desk(any_redis_url)
    low, opened, close, high = sorted(numbers)
    candle = Candle(desk.series, T0, opened, high, low, close, volume)
    desk.put(candle)
    desk.put(attrs.evolve(candle, evidence=REST))
    [found] = desk.stored()
    assert found == attrs.evolve(candle, evidence=REST)
    desk.client.close()


# -- epochs -----------------------------------------------------------------------------------


def test_a_lower_epoch_is_refused_by_every_script_and_writes_nothing(desk, ears):
    desk.put(desk.candle(0), epoch=5)
    before = desk.members(), desk.client.one("HGETALL", desk.keys.companion)
    ears.heard()
    for call in (
        store.write(desk.series, 4, [desk.candle(0, close=99.0, evidence=REST), desk.candle(1)]),
        script("epoch", (desk.keys.companion,), 4),
        script("asked", (desk.keys.companion,), 4, T0),
    ):
        with pytest.raises(Fenced):
            desk.client.run([call])
    assert (desk.members(), desk.client.one("HGETALL", desk.keys.companion)) == before
    assert ears.heard() == []


def test_a_higher_epoch_raises_what_the_series_accepts(desk):
    desk.put(desk.candle(0), epoch=5)
    desk.put(desk.candle(1), epoch=7)
    with pytest.raises(Fenced, match="another daemon"):
        desk.put(desk.candle(2), epoch=6)
    desk.client.run([script("epoch", (desk.keys.companion,), 9)])
    with pytest.raises(Fenced):
        desk.put(desk.candle(2), epoch=8)


# -- again ------------------------------------------------------------------------------------


def test_the_same_call_twice_changes_and_announces_nothing(desk, ears):
    desk.put(desk.candle(0), desk.candle(2, close=99.0), desk.empty(3))
    batch = [
        desk.candle(1),
        desk.candle(2, close=98.0, evidence=REST),
        desk.empty(3),
        desk.candle(4),
    ]
    desk.put(*batch)
    before = desk.members(), desk.client.one("HGETALL", desk.keys.companion)
    ears.heard()
    assert set(desk.put(*batch)) == {"s"}
    assert (desk.members(), desk.client.one("HGETALL", desk.keys.companion)) == before
    assert ears.heard() == []


class DeafProxy:
    """Passes everything to the server and, once, loses the answer with the connection."""

    def __init__(self, path: Path, server: str) -> None:
        self.url = f"unix://{path}"
        self.deaf = False
        self._server = server.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._server)

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := far.recv(65536):
                    if self.deaf:
                        self.deaf = False
                        break
                    near.sendall(data)
            for end in (near, far):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=back, daemon=True).start()
        with contextlib.suppress(OSError), near, far:
            while data := near.recv(65536):
                far.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_lost_reply_and_a_repeated_batch_announce_each_candle_once(valkey_url, server_directory):
    proxy = DeafProxy(server_directory / f"deaf-{next(NAMES)}", valkey_url)
    ears = Ears(valkey_url)
    try:
        client = Client(proxy.url)
        desks = [Desk(valkey_url) for _ in range(50)]
        calls = [store.write(d.series, 1, [d.candle(0), d.candle(1)]) for d in desks]
        client.one("PING")
        client.run([store.write(d.series, 1, [d.candle(-1)]) for d in desks])
        ears.heard()
        proxy.deaf = True
        with pytest.raises(StoreError):
            client.run(calls)
        client.run(calls)
        told = ears.heard()
        assert len(told) == len(set(told)) == 100
        client.close()
    finally:
        proxy.close()
        ears.close()
        for d in desks:
            d.client.close()


# -- trimming ---------------------------------------------------------------------------------


def full(desk: Desk, count: int = store.KEEP) -> None:
    for start in range(0, count, 250):
        slots = range(start, min(count, start + 250))
        desk.put(*(desk.candle(slot) for slot in slots), history=True)


def test_only_what_the_edge_absorbed_is_trimmed(desk):
    full(desk)
    result = desk.call([desk.candle(1000), desk.candle(1001)])
    assert result.stored == 1002
    assert result.oldest == desk.members()[0]
    edge = store.Edge(T0, b"after", b"before")
    assert desk.call([desk.candle(1002)], edge=edge).stored == 1002
    assert desk.stored()[0].open_time == T0 + M5.ms
    edge = store.Edge(T0 + 9 * M5.ms, b"after", b"before")
    result = desk.call([desk.candle(1003)], edge=edge)
    assert result.stored == store.KEEP
    assert desk.stored()[0].open_time == T0 + 4 * M5.ms


def test_what_lies_before_a_full_series_is_not_taken(desk):
    full(desk)
    assert desk.put(desk.candle(-1), history=True) == "t"
    assert len(desk.members()) == store.KEEP


def test_an_edge_can_be_told_again_with_another_state_but_never_goes_back(desk):
    full(desk)
    desk.call([desk.candle(999)], edge=store.Edge(T0, b"wrong", b"before"))
    desk.call([desk.candle(999)], edge=store.Edge(T0, b"right", b"before"))
    assert desk.field("edge") == b"right"
    desk.call([desk.candle(999)], edge=store.Edge(T0 - M5.ms, b"older", b"before"))
    assert desk.field("edge") == b"right"


def test_a_candle_corrected_at_the_edge_is_not_trimmed_with_the_state_it_made_wrong(desk):
    full(desk)
    desk.call([desk.candle(999)], edge=store.Edge(T0, b"after", b"before"))
    changed = desk.candle(0, close=99.0, evidence=REST)
    result = desk.call([changed, desk.candle(1000)])
    assert (result.codes, result.stored) == ("ca", 1001)
    assert desk.stored()[0].open_time == T0
    assert desk.call([desk.candle(1001)], edge=store.Edge(T0, b"new", b"before")).stored == 1001


# -- damage -----------------------------------------------------------------------------------

GOOD = (
    '{"open_time":%d,"open":100.0,"high":101.0,"low":100.0,"close":100.0,"volume":1.0,'
    '"kind":"traded","evidence":"rest","as_of":1,"revision":3}'
)
DAMAGED = [
    b"not json",
    b"{}",
    (GOOD % T0)[:-20].encode(),
    (GOOD % (T0 + M5.ms)).encode(),
    (GOOD % T0).replace("traded", "bought").encode(),
    (GOOD % T0).replace('"rest"', '"hearsay"').encode(),
    (GOOD % T0).replace("101.0", "null").encode(),
    (GOOD % T0).replace('"volume":1.0', '"volume":NaN').encode(),
    b"\xff\xfe",
]


@pytest.mark.parametrize("member", DAMAGED)
@pytest.mark.parametrize("newest", [True, False])
def test_a_damaged_member_is_replaced_by_the_weakest_candle_and_missing_until_then(
    any_redis_url, member, newest
):
    desk = Desk(any_redis_url)
    desk.put(desk.candle(-1))
    if not newest:
        desk.put(desk.candle(1))
    desk.client.one("ZADD", desk.keys.candles, T0, member)
    [reply] = desk.client.run([store.survey(desk.series, T0 - M5.ms, T0)])
    survey = store.surveyed(desk.series, reply)
    if not member.startswith(b'{"open_time":%d,"open":' % T0):
        assert survey.missing == ((T0, T0),)
        assert survey.stored == (1 if newest else 2)
    result = desk.call([desk.candle(0, evidence=ASSUMED)])
    assert result.codes == "i"
    assert [c.open_time for c in desk.stored()][:2] == [T0 - M5.ms, T0]
    assert result.stored == len(desk.members())
    desk.client.close()


def test_a_member_twice_at_one_time_ends_as_one_when_it_is_corrected(desk):
    desk.put(desk.candle(0))
    desk.client.one("ZADD", desk.keys.candles, T0, b"somebody else's")
    assert desk.put(desk.candle(0, close=99.0, evidence=REST)) == "c"
    assert [c.close for c in desk.stored()] == [99.0]


@pytest.mark.parametrize("field", ["epoch", "cursor", "version", "edge_time", "corrected"])
def test_a_damaged_companion_does_not_stop_a_series(desk, field):
    desk.put(desk.candle(0))
    desk.client.one("HSET", desk.keys.companion, field, "?")
    assert desk.put(desk.candle(1)) == "a"
    desk.client.run([script("epoch", (desk.keys.companion,), 2)])


@pytest.mark.parametrize("which", ["candles", "companion"])
def test_a_key_of_another_type_is_named_and_nothing_is_written_or_announced(desk, ears, which):
    key = getattr(desk.keys, which)
    desk.client.one("SET", key, "mine")
    with pytest.raises(StoreError, match="another type"):
        desk.put(desk.candle(0))
    assert desk.client.one("GET", key) == b"mine"
    other = desk.keys.companion if which == "candles" else desk.keys.candles
    assert desk.client.one("EXISTS", other) == 0
    assert ears.heard() == []


# -- order ------------------------------------------------------------------------------------


@st.composite
def inputs(draw: st.DrawFn) -> list[list[tuple[int, float | None, float, Evidence, int]]]:
    """Batches of (slot, close or None for empty, volume, evidence, as_of), in some order."""
    chosen = draw(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.sampled_from([None, None, 100.0, 100.25, 100.5]),
                st.sampled_from([1.0, 2.0]),
                st.sampled_from(list(Evidence)),
            ),
            min_size=1,
            max_size=14,
        )
    )
    moments = draw(st.permutations(range(1, len(chosen) + 1)))
    batches: list[list[tuple[int, float | None, float, Evidence, int]]] = [[]]
    for (slot, close, volume, evidence), as_of in zip(chosen, moments, strict=True):
        if batches[-1] and (batches[-1][-1][0] >= slot or draw(st.booleans())):
            batches.append([])
        batches[-1].append((slot, close, volume, evidence, as_of))
    return batches


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=inputs(), history=st.booleans())
def test_any_order_of_the_same_inputs_ends_with_the_strongest_of_each_slot(
    any_redis_url, batches, history
):
    """Everything but ``revision`` is the same in any order: it counts the changes on the way."""
    desk = Desk(any_redis_url)
    strongest: dict[int, Candle] = {}
    for batch in batches:
        candles = [
            desk.candle(slot, close, volume, evidence, as_of)
            if close is not None
            else desk.empty(slot, 50.0 + as_of, evidence, as_of)
            for slot, close, volume, evidence, as_of in batch
        ]
        for (slot, *_), candle in zip(batch, candles, strict=True):
            if slot not in strongest or candle.strength > strongest[slot].strength:
                strongest[slot] = candle
        result = desk.call(candles, history=history)
        assert "o" not in result.codes
    expected: list[Candle] = []
    for _, candle in sorted(strongest.items()):
        price = None
        if expected and expected[-1].close_time == candle.open_time:
            price = expected[-1].close
        if candle.kind is Kind.EMPTY and price is not None:
            expected.append(attrs.evolve(candle, open=price, high=price, low=price, close=price))
        else:
            expected.append(candle)
    assert [attrs.evolve(c, revision=0) for c in desk.stored()] == expected
    desk.client.close()


# -- readings ---------------------------------------------------------------------------------


def text(
    time: int = T0, revision: int = 0, epoch: int = 1, macdv: float = 1.5, version: int = 1
) -> bytes:
    return (
        b'{"open_time":%d,"revision":%d,"epoch":%d,"symbol":"BTC-USD","macdv":%r,'
        b'"state":{"x":1},"version":%d}' % (time, revision, epoch, macdv, version)
    )


def publish(desk: Desk, reading: bytes) -> int:
    return int(desk.client.run([store.reading(desk.series, reading)])[0])


def test_a_reading_is_announced_without_the_state_and_stored_with_it(desk, ears):
    assert publish(desk, text()) == 1
    assert desk.client.one("GET", desk.keys.indicator) == text()
    announced = b'{"open_time":%d,"revision":0,"epoch":1,"symbol":"BTC-USD","macdv":1.5}' % T0
    assert ears.heard() == [(desk.keys.indicator_channel, announced)]


def test_a_reading_that_says_the_same_is_not_announced_again(desk, ears):
    publish(desk, text())
    ears.heard()
    assert publish(desk, text()) == 0
    assert publish(desk, text(epoch=2, version=9)) == 0
    assert desk.client.one("GET", desk.keys.indicator) == text(epoch=2, version=9)
    assert ears.heard() == []
    assert publish(desk, text(epoch=2, macdv=1.25)) == 1


def test_an_older_reading_and_an_older_epoch_are_refused(desk, ears):
    publish(desk, text(epoch=3))
    ears.heard()
    assert publish(desk, text(time=T0 - M5.ms, epoch=3)) == -1
    with pytest.raises(Fenced):
        publish(desk, text(time=T0 + M5.ms, epoch=2))
    assert desk.client.one("GET", desk.keys.indicator) == text(epoch=3)
    assert ears.heard() == []


def test_a_survey_names_every_hole_and_changes_nothing(desk):
    desk.put(desk.candle(1), desk.empty(2), desk.candle(5), desk.candle(9))
    [reply] = desk.client.run([store.survey(desk.series, T0, T0 + 9 * M5.ms)])
    found = store.surveyed(desk.series, reply)
    holes = [((a - T0) // M5.ms, (b - T0) // M5.ms) for a, b in found.missing]
    assert holes == [(0, 0), (3, 4), (6, 8)]
    assert (found.stored, found.traded) == (4, 3)
    assert (found.oldest, found.newest) == (T0 + M5.ms, T0 + 9 * M5.ms)
    assert found.asked_from is None
    desk.client.run([script("asked", (desk.keys.companion,), 1, T0)])
    desk.client.run([script("asked", (desk.keys.companion,), 1, T0 + M5.ms)])
    [reply] = desk.client.run([store.survey(desk.series, T0, T0)])
    assert store.surveyed(desk.series, reply).asked_from == T0
