"""A write is packed when it is made: the same bytes as if the library packed its arguments."""

from __future__ import annotations

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from livermore.adapters import store
from livermore.adapters.redis import DIGESTS, Call, Later, key_of
from livermore.adapters.wire import packed, unpacked
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import TIMEFRAMES

NAME = st.text(st.characters(exclude_characters=":{}", exclude_categories=["Cs"]), min_size=1)
PRICE = st.floats(1e-12, 1e12)


@st.composite
def candles(draw: st.DrawFn, series: Series) -> list[Candle]:
    found = []
    for slot in draw(st.lists(st.integers(0, 20_000), max_size=4, unique=True)):
        low, high = sorted([draw(PRICE), draw(PRICE)])
        traded = draw(st.booleans())
        found.append(
            Candle(
                series, slot * series.timeframe.ms, low if traded else high, high,
                low if traded else high, high, draw(st.floats(0, 1e15)) if traded else 0.0,
                Kind.TRADED if traded else Kind.EMPTY,
                draw(st.sampled_from(Evidence)), draw(st.integers(0, 2**52)),
            )
        )  # fmt: skip
    return sorted(found, key=lambda candle: candle.open_time)


@given(st.data())
def test_a_packed_write_is_what_the_library_makes_of_its_arguments(data: st.DataObject):
    owner = data.draw(st.sampled_from(["", "me"]))
    series = Series(data.draw(NAME), data.draw(NAME), data.draw(st.sampled_from(TIMEFRAMES)), owner)
    some = data.draw(candles(series))
    epoch, settled = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, 2**52))
    history, life = data.draw(st.booleans()), data.draw(st.sampled_from([0, 86_400_000]))
    edge = None
    if data.draw(st.booleans()):
        edge = store.Edge(
            data.draw(st.integers(0, 2**52)), data.draw(st.binary()), data.draw(st.binary())
        )
    named = store.keys(series)
    # As candles.lua says what it is given.
    arguments: list[str | bytes | int] = [
        epoch, store.KEEP, series.timeframe.ms, named.close_channel, named.correct_channel,
        named.identity, settled if history else "",
    ]  # fmt: skip
    arguments += ["", "", ""] if edge is None else [edge.time, edge.after, edge.before]
    arguments.append(life or "")
    for one in some:
        text = store.prices(one) if one.kind is Kind.TRADED else repr(one.close)
        arguments += [one.open_time, text, repr(one.volume), int(one.evidence), one.as_of]
    plain: Call = (
        "EVALSHA", DIGESTS["candles"], 2, named.candles, named.companion, *arguments
    )  # fmt: skip
    call = store.write(series, epoch, some, history=history, settled=settled, edge=edge, life=life)
    assert packed(call) == packed(plain) == hiredis.pack_command(plain)
    assert hiredis.pack_command(unpacked(call)) == hiredis.pack_command(plain)
    assert key_of(call) == named.candles
    assert call[:3] == plain[:3]


def test_calls_that_are_made_when_they_are_sent_are_a_sequence():
    made: list[int] = []

    def make(place: int) -> Call:
        made.append(place)
        return ("EVALSHA", place)

    calls = Later(make, 5)
    assert made == []
    assert calls[1:3] == [("EVALSHA", 1), ("EVALSHA", 2)]
    assert [call[1] for call in calls] == [0, 1, 2, 3, 4]
    assert len(calls) == 5
    assert list(Later(make, 0)) == []
