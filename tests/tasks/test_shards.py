"""How what is followed is dealt out to connections."""

from __future__ import annotations

import attrs
import pytest

from livermore.dialect import Dialect
from livermore.exchanges import DIALECTS
from livermore.exchanges.binance import BINANCE
from livermore.runtime.roster import deal


def shards(dialect: Dialect, count: int) -> list[list[str]]:
    return [list(some) for some in deal(dialect, [f"S{n}-USDT" for n in range(count)])]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("count", [1, 2, 50, 199, 200, 201, 1_000])
def test_each_is_on_one_connection_and_none_holds_more_than_it_may(name: str, count: int):
    dialect = DIALECTS[name]
    dealt = shards(dialect, count)
    assert sorted(symbol for shard in dealt for symbol in shard) == sorted(
        f"S{n}-USDT" for n in range(count)
    )
    assert all(1 <= len(shard) <= dialect.products_per_connection for shard in dealt)


def test_one_lost_socket_is_not_all_of_the_large_symbols():
    largest = {f"S{n}-USDT" for n in range(10)}
    for count in (10, 50, 400):
        dealt = shards(BINANCE, count)
        assert len(dealt) >= 2
        assert all(len(largest & set(shard)) <= 5 for shard in dealt)


def test_streams_per_connection_stay_below_the_documented_limit():
    assert BINANCE.streams_per_connection is not None
    natives = [f"S{n}USDT" for n in range(BINANCE.products_per_connection)]
    streams = sum(len(one.natives) for one in BINANCE.subscribe(natives))
    assert streams <= BINANCE.streams_per_connection


def test_where_one_is_enough_there_is_one():
    assert len(shards(attrs.evolve(BINANCE, least_connections=1), 50)) == 1
