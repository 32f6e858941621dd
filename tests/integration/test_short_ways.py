"""The scripts have a short way for what nearly every call brings: it does what the long one does.

The long way is the script without its short one. Both are told the same story on keys of their own;
replies, announcements and what is stored are the same bytes. So they are where several series are
told theirs in one call.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from livermore.adapters import store
from livermore.adapters.redis import DIGESTS, SCRIPTS, Call
from livermore.adapters.wire import unpacked
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import Timeframe

M5 = Timeframe.M5
T0 = 1_760_000_100_000 // M5.ms * M5.ms
SERIES = Series("coinbase", "BTC-USD", M5)
NAMES = itertools.count()
PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SHORT = re.compile(r"^-- Nearly every .*?^-- Everything else\.\n", re.DOTALL | re.MULTILINE)
LONG = {name: SHORT.sub("", SCRIPTS[name], count=1) for name in ("candles", "reading")}
REMEMBERED = re.compile(r"return \{card, version|^ +keep\(|^keep\(", re.MULTILINE)
"""What both ways of a script end with."""


@pytest.mark.parametrize("name", LONG)
def test_the_long_way_is_the_script_without_its_short_one(name):
    assert len(REMEMBERED.findall(SCRIPTS[name])) == 2
    assert len(REMEMBERED.findall(LONG[name])) == 1


@attrs.define
class Way:
    """One of the two, on keys of its own; everything it says is heard."""

    server: Any
    ears: Any
    digests: dict[str, str]
    keys: tuple[str, ...] = attrs.field(init=False)
    heard: list[tuple[bytes, bytes]] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        name = f"way{next(NAMES)}"
        self.keys = (f"{name}", f"series:{{{name}}}", f"indicator:{name}")

    def run(self, name: str, call: Call, keep: int | None = None) -> list[Any]:
        """The reply, what was announced, and all that is stored then, in its order."""
        candles, companion, indicator = self.keys
        words = list(unpacked(call))
        words[1] = self.digests[name]
        words[3 : 3 + int(call[2])] = [candles, companion] if name == "candles" else [indicator]
        if keep is not None:
            words[6] = keep
        try:
            reply = self.server.execute_command(*words)
        except redis.ResponseError as error:
            reply = re.sub(r"(?<=user_script:)\d+| script: .*", "", str(error))
        self.server.publish("channel:end", "")
        heard = []
        while (message := self.ears.get_message(timeout=1))["channel"] != b"channel:end":
            heard.append((message["channel"], message["data"]))
        return [reply, heard, *self.stored()]

    def stored(self) -> list[Any]:
        candles, companion, indicator = self.keys
        kinds = [self.server.type(key) for key in self.keys]
        return [
            kinds,
            self.server.zrange(candles, 0, -1, withscores=True) if kinds[0] == b"zset" else None,
            [*self.server.hgetall(companion).items()] if kinds[1] == b"hash" else None,
            self.server.get(indicator),
        ]


@pytest.fixture(params=["valkey", "redis"])
def ways(request):
    server = redis.Redis.from_url(request.getfixturevalue(f"{request.param}_url"))
    for text in (*SCRIPTS.values(), *LONG.values()):
        server.script_load(text)
    long = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in LONG.items()}
    with server.pubsub(ignore_subscribe_messages=True) as ears:
        ears.psubscribe("channel:*")
        ears.get_message(timeout=1)
        yield lambda: (Way(server, ears, DIGESTS), Way(server, ears, long))
    server.close()


# -- candles -----------------------------------------------------------------------------------


@attrs.frozen
class Write:
    """One call: what happened to the keys before it, its epoch, its candles, its edge."""

    slots: tuple[int, ...]
    close: float | None = 100.5
    volume: float = 1.5
    evidence: Evidence = Evidence.STREAM
    as_of: int = 1
    epoch: int = 1
    history: bool = False
    edge: int | None = None
    lost: str = ""

    def call(self) -> Call:
        candles = []
        for slot in self.slots:
            time = T0 + slot * M5.ms
            close = self.close
            price = 77.0 if close is None else close
            candles.append(
                Candle(
                    SERIES, time, price, price, price, price,
                    0.0 if close is None else self.volume,
                    Kind.EMPTY if close is None else Kind.TRADED, self.evidence, time + self.as_of,
                )
            )  # fmt: skip
        edge = None
        if self.edge is not None:
            edge = store.Edge(T0 + self.edge * M5.ms, b"after %d" % self.edge, b"before")
        return store.write(SERIES, self.epoch, candles, history=self.history, edge=edge)


LOST = st.sampled_from([""] * 12 + ["candles", "companion", "cursor", "strange", "type", "garbage"])


@st.composite
def writes(draw: st.DrawFn) -> list[Write]:
    """Mostly the next candle; now and then everything else."""
    slot, story = draw(st.integers(0, 2)), []
    for _ in range(draw(st.integers(2, 14))):
        step = draw(st.sampled_from([1, 1, 1, 1, 1, 2, 0, -1, -3]))
        slot = max(0, slot + step)
        count = draw(st.sampled_from([1, 1, 1, 1, 3]))
        story.append(
            Write(
                slots=tuple(range(slot, slot + count)),
                close=draw(st.sampled_from([100.5, 1e-7, 12345.678901234567, 1e22, None])),
                volume=draw(st.sampled_from([1.5, 0.1 + 0.2, 1e-9])),
                evidence=draw(st.sampled_from(Evidence)),
                as_of=draw(st.integers(0, 3)),
                epoch=draw(st.sampled_from([1] * 8 + [2, 0])),
                history=draw(st.booleans()),
                edge=draw(st.sampled_from([None, None, slot - 6, slot - 4, slot - 2, slot])),
                lost=draw(LOST),
            )
        )
        slot += count - 1
    return story


def lose(way: Way, what: str) -> None:
    """What a crash, an eviction or a stranger leaves behind."""
    candles, companion, _ = way.keys
    if what and way.server.type(candles) == b"string":
        way.server.delete(candles)
    if what == "candles":
        way.server.delete(candles)
    elif what == "companion":
        way.server.delete(companion)
    elif what == "cursor":
        way.server.hset(companion, "cursor", "")
    elif what == "strange":
        way.server.zadd(candles, {"no candle of ours": T0 + 3 * M5.ms, "nor this": 7.5})
    elif what == "misplaced" and way.server.type(candles) in (b"zset", b"none"):
        way.server.zadd(candles, {member(Write((2,)).call()): T0 - M5.ms})
    elif what == "garbage":
        way.server.hset(companion, mapping={"version": "x", "edge_time": "", "corrected": "y"})
    elif what == "type":
        way.server.delete(candles)
        way.server.set(candles, "mine")


def member(call: Call) -> str:
    """The first candle of ``call`` as it is stored."""
    time, prices, volume, rank, as_of = (word.decode() for word in unpacked(call)[16:21])
    evidence = [name.name.lower() for name in Evidence][int(rank)]
    return (
        f'{{"open_time":{time},{prices},"volume":{volume},"kind":"traded",'
        f'"evidence":"{evidence}","as_of":{as_of},"revision":0}}'
    )


SLOTS = [Write((slot,), edge=slot - 4 if slot > 5 else None) for slot in range(12)]


@PROPERTY
@example(story=SLOTS, keep=5)
@example(story=[*SLOTS[:9], Write((9,), edge=2), Write((10,), edge=8)], keep=5)
@example(story=[Write((0,)), Write((1,)), Write((2,), lost="misplaced")], keep=1000)
@example(story=[Write((0, 1, 2, 3, 4, 5, 6, 7), history=True), Write((8,), edge=3)], keep=4)
@example(story=[Write((0, 1, 2, 3, 4, 5, 6, 7), history=True), Write((8,), edge=-1)], keep=4)
@given(story=writes(), keep=st.sampled_from([2, 4, 1000]))
def test_candles_take_the_short_way_to_the_same_bytes(
    ways: Any, story: Sequence[Write], keep: int
) -> None:
    short, long = ways()
    for one in story:
        for way in (short, long):
            lose(way, one.lost)
        assert short.run("candles", one.call(), keep) == long.run("candles", one.call(), keep)
    for way in (short, long):
        way.server.delete(*way.keys)


@PROPERTY
@given(stories=st.lists(writes(), min_size=2, max_size=4), keep=st.sampled_from([2, 4, 1000]))
def test_several_series_take_the_short_way_in_one_call_to_the_same_bytes(
    ways: Any, stories: Sequence[Sequence[Write]], keep: int
) -> None:
    """What the one call leaves is asked by itself, which also tells what is wrong with it."""
    short, long = zip(*(ways() for _ in stories), strict=True)
    for those in itertools.zip_longest(*stories):
        several = [(a, b, one) for a, b, one in zip(short, long, those, strict=True) if one]
        for a, b, one in several:
            lose(a, one.lost)
            lose(b, one.lost)
        joined = [(a, one) for a, _, one in several if len(one.slots) == 1]
        replies = iter(joined and at_once(joined, keep))
        for a, b, one in several:
            expected = b.run("candles", one.call(), keep)
            reply = next(replies) if len(one.slots) == 1 else 0
            if reply == 0:
                assert a.run("candles", one.call(), keep) == expected
            else:
                assert [reply, a.heard, *a.stored()] == expected
    for way in (*short, *long):
        way.server.delete(*way.keys)


def at_once(several: Sequence[tuple[Way, Write]], keep: int) -> list[Any]:
    """The replies of one call; each of ``several`` has what was announced for it."""
    keys: list[str] = []
    arguments: list[Any] = []
    channel = store.keys(SERIES).close_channel.encode()
    for way, one in several:
        words = list(unpacked(one.call()))
        keys += way.keys[:2]
        own = f"channel:{way.keys[0]}"  # so that it is known whose it is
        arguments += [words[5], keep, words[7], own, own, *words[10:]]
    server, ears = several[0][0].server, several[0][0].ears
    call = ("EVALSHA", DIGESTS["closes"], len(keys), *keys, *arguments)
    replies: list[Any] = server.execute_command(*call)
    server.publish("channel:end", "")
    heard: dict[bytes, list[tuple[bytes, bytes]]] = {}
    while (message := ears.get_message(timeout=1))["channel"] != b"channel:end":
        heard.setdefault(message["channel"], []).append((channel, message["data"]))
    for way, _ in several:
        way.heard = heard.get(b"channel:" + way.keys[0].encode(), [])
    return replies


# -- readings ----------------------------------------------------------------------------------


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A reading, and whether it is told as an older one; some are none of ours."""
    text = b'{"open_time":%d,"revision":%d,"epoch":%d,"macdv":%s,"bias":%s,"bias_timeframes":%d' % (
        T0 + draw(st.sampled_from([0, 0, 1, 2, 10, -1])) * M5.ms,
        draw(st.integers(0, 1)),
        draw(st.sampled_from([5, 5, 5, 4, 6])),
        draw(st.sampled_from([b"1.5", b"null"])),
        draw(st.sampled_from([b"null", b'"bullish"'])),
        draw(st.integers(0, 1)),
    )
    if draw(st.booleans()):
        text += b',"state":{"open_time":1,"x":%d},"version":%d' % (
            draw(st.integers(0, 1)),
            draw(st.integers(0, 1)),
        )
    text += b"}"
    strange = draw(st.integers(0, 9)) == 0
    return b"strange" if strange else text, draw(st.integers(0, 4)) == 0


@PROPERTY
@given(story=st.lists(texts(), min_size=2, max_size=8))
def test_readings_take_the_short_way_to_the_same_bytes(
    ways: Any, story: Sequence[tuple[bytes, bool]]
) -> None:
    short, long = ways()
    for text, older in story:
        call = store.reading(SERIES, text, older=older)
        assert short.run("reading", call) == long.run("reading", call)
    for way in (short, long):
        way.server.delete(*way.keys)
