"""Keys of one user on real servers: apart from the shared ones, and gone together when unused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from livermore.adapters import store
from livermore.adapters.redis import Call, Client, script
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.timeframe import Timeframe

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms
PRIVATE = Series("coinbase", "ADA-USD", M5, "alice")
SHARED = Series("coinbase", "ADA-USD", M5)
DAY = store.PRIVATE


@pytest.fixture(params=["valkey", "redis", "cluster"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(request.getfixturevalue(f"{request.param}_url"))
    yield client
    client.close()


def candle(series: Series, number: int) -> Candle:
    return Candle(series, T0 + number * M5.ms, 1.0, 2.0, 0.5, 1.5, 3.0, evidence=Evidence.STREAM)


def write(series: Series, *numbers: int, chance: float = 0.5, history: bool = False) -> Call:
    life = store.life(series, lambda: chance)
    candles = [candle(series, number) for number in numbers]
    return store.write(series, 7, candles, history=history, life=life)


def left(client: Client, series: Series) -> list[int]:
    """Milliseconds left of the candles, their companion and the reading; -1 for ever, -2 gone."""
    named = store.keys(series)
    keys = (named.candles, named.companion, named.indicator)
    return [int(one) for one in client.run([("PTTL", key) for key in keys])]


def age(client: Client, *keys: str) -> None:
    client.run([("PEXPIRE", key, 100_000) for key in keys])


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_they_expire_after_a_day_give_or_take_a_tenth(client: Client, chance: float, share: float):
    client.run([write(PRIVATE, 0, 1, chance=chance)])
    for one in left(client, PRIVATE)[:2]:
        assert share * DAY - 60_000 < one <= share * DAY


def test_shared_ones_never_expire(client: Client):
    client.run([write(SHARED, 0), write(SHARED, 1), store.reading(SHARED, b'{"open_time":1}')])
    assert left(client, SHARED) == [-1, -1, -1]
    assert store.renew([SHARED], lambda: 0.5) == []


@pytest.mark.parametrize("numbers", [(2,), (2, 3), (0,)], ids=["next", "several", "same"])
def test_a_write_renews_candles_and_companion_to_the_same_moment(
    client: Client, numbers: tuple[int, ...]
):
    named = store.keys(PRIVATE)
    client.run([write(PRIVATE, 0, 1)])
    age(client, named.candles)
    client.run([write(PRIVATE, *numbers)])
    ends = client.run([script("whole", (named.candles, named.companion))])  # it is there
    assert ends[0][-1]
    candles, companion, _ = left(client, PRIVATE)
    assert DAY - 60_000 < companion <= candles <= companion + 60_000


def test_the_same_reading_again_is_use(client: Client):
    named = store.keys(PRIVATE)
    text = b'{"open_time":5,"revision":0,"epoch":7,"macdv":1}'
    call = store.reading(PRIVATE, text, life=DAY)
    client.run([call])
    age(client, named.indicator)
    assert client.run([call]) == [0]
    assert left(client, PRIVATE)[2] > DAY - 60_000
    later = store.reading(PRIVATE, text.replace(b":5", b":6"), life=DAY)
    age(client, named.indicator)
    assert client.run([later]) == [1]
    assert left(client, PRIVATE)[2] > DAY - 60_000


def test_readers_renew_what_is_there_and_make_nothing(client: Client):
    client.run(store.renew([PRIVATE], lambda: 0.5))
    assert left(client, PRIVATE) == [-2, -2, -2]
    named = store.keys(PRIVATE)
    client.run([write(PRIVATE, 0), store.reading(PRIVATE, b'{"open_time":1}', life=DAY)])
    age(client, named.candles, named.companion, named.indicator)
    client.run(store.renew([PRIVATE, SHARED], lambda: 0.5))
    assert all(one > DAY - 60_000 for one in left(client, PRIVATE))
    assert left(client, SHARED) == [-2, -2, -2]


@pytest.mark.parametrize(("name", "more"), [("epoch", ()), ("asked", (5,))])
def test_a_companion_alone_does_not_stay_for_ever(client: Client, name: str, more: tuple[int, ...]):
    client.run([script(name, (store.keys(PRIVATE).companion,), 7, *more)])
    assert 0 < left(client, PRIVATE)[1] <= DAY
    client.run([script(name, (store.keys(SHARED).companion,), 7, *more)])
    assert left(client, SHARED)[1] == -1


def test_what_was_unused_begins_anew_and_nothing_of_it_is_resumed(client: Client):
    named = store.keys(PRIVATE)
    edge = store.Edge(T0, b"after", b"before")
    client.run([store.write(PRIVATE, 7, [candle(PRIVATE, 0)], edge=edge, life=DAY)])
    client.run([script("renew", (named.candles, named.companion), 1)])
    while left(client, PRIVATE)[:2] != [-2, -2]:
        pass  # a millisecond
    client.run([write(PRIVATE, 10, 11, 12, history=True)])
    known = store.read_companion(client.one(*store.companion(PRIVATE)))
    assert (known.edge_time, known.edge, known.version) == (None, b"", 1)
    assert known.cursor == candle(PRIVATE, 12).open_time, "its history is no news"


def test_private_and_shared_candles_of_a_symbol_do_not_meet(client: Client):
    client.run([write(PRIVATE, 0, 1), write(SHARED, 5)])
    for series, times in ((PRIVATE, [0, 1]), (SHARED, [5])):
        members = client.one(*store.newest_call(series, 10))
        found, damaged = store.decode_candles(series, members)
        assert ([(c.open_time - T0) // M5.ms for c in found], damaged) == (times, 0)
        assert all(one.series == series for one in found)
