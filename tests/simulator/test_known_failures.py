"""What went wrong in earlier systems of this kind, and the test that fails without its cure.

close event carrying the newly opened candle
    pure/market/test_tracker.py::test_a_slot_closes_at_the_first_trade_beyond_its_end_and_not_before
sequence compared across connections keeps a stale candle
    simulator/test_known_failures.py::test_a_new_connection_is_believed_though_its_numbers_begin_anew
reconnect backfill that never runs
    simulator/test_daemon_faults.py::test_an_exchange_that_refuses_is_asked_by_one_chain_of_tries
two reconnect chains after one failed connect
    tasks/test_reconnects.py::test_one_failed_connect_begins_one_chain_of_tries
a watchdog firing during the wait and opening parallel sockets
    tasks/test_reconnects.py::test_no_watchdog_opens_a_second_socket_during_a_wait_or_a_slow_connect
    tasks/test_reconnects.py::test_a_socket_that_falls_mute_is_closed_before_the_next_is_opened
pause undone by a reconnect
    tasks/test_reconnects.py::test_what_is_ended_during_a_wait_or_a_connect_stays_ended
a closed higher-timeframe candle keeping its first-second values
    pure/market/test_folding.py::test_a_corrected_child_folds_its_running_parents_again
    integration/test_writer.py::test_the_last_child_closes_its_parents_in_the_same_turn_shortest_first
"element 0" of a reply taken for the newest
    pure/market/test_history.py::test_order_and_repetition_of_rows_do_not_matter
reading computed before its candle arrived
    integration/test_readings.py::test_a_reading_waits_for_its_candle_to_be_stored
a reader seeing the hole between delete and add
    integration/test_reader.py::test_candles_are_written_by_the_script_alone_one_step_per_series
    integration/test_reader.py::test_a_reader_that_never_rests_sees_each_slot_once
snapshot rows treated as closes
    pure/market/test_tracker.py::test_a_snapshot_row_is_never_a_close_and_a_stale_one_is_not_forming
late trade counted in the next interval
    pure/market/test_tracker.py::test_a_late_trade_corrects_its_own_slot_and_the_empties_behind_it
0 for "not ready"
    pure/signals/test_macdv.py::test_the_first_numbers_come_at_their_index_and_nothing_before
    pure/signals/test_reading.py::test_numbers_are_withheld_with_a_reason_or_all_there
an old reading looking current
    integration/test_scripts.py::test_an_older_reading_and_an_older_epoch_are_refused
    integration/test_readings.py::test_a_slot_missing_within_the_last_150_withholds_until_it_is_repaired
tickers keeping a dead candle stream alive
    tasks/test_liveness.py::test_tickers_do_not_keep_a_dead_trade_channel_alive
    pure/market/test_tracker.py::test_a_ticker_without_its_trade_keeps_the_clock_from_closing
unbounded queue while a sink is down
    integration/test_writer.py::test_what_is_too_much_to_keep_becomes_gaps_and_the_newest_stays
status keys outliving their owner
    simulator/test_known_failures.py::test_what_an_owner_says_of_itself_ends_with_it
clocks 5 s fast or slow
    pure/market/test_clock.py::test_a_constant_skew_is_the_exchanges_time
    simulator/test_known_failures.py::test_an_exchange_whose_clock_is_5_s_off_has_the_same_candles
gap between history and live
    simulator/test_known_failures.py::test_the_slot_in_which_it_began_is_neither_lost_nor_guessed
early REST reply outranking the true close
    pure/market/test_candle.py::test_rest_read_too_early_is_no_better_than_the_stream
    pure/market/test_history.py::test_a_row_read_soon_after_its_end_ranks_as_stream
two empty looks inside one cache lag
    simulator/test_known_failures.py::test_two_empty_looks_inside_one_cache_lag_prove_nothing
    pure/market/test_history.py::test_a_first_look_before_the_slots_end_is_no_look
float volumes published as corrections
    integration/test_scripts.py::test_volumes_are_the_same_within_1e_9_relative
a client library's own retries repeating a command
    integration/test_redis_adapter.py::test_a_stalled_server_is_an_error_after_three_seconds_and_runs_the_call_once
    integration/test_redis_trouble.py::test_a_command_whose_answer_is_lost_was_sent_once
"""

from __future__ import annotations

import ast
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.market.candle import Kind, Series
from livermore.market.events import Trade, Trades
from livermore.market.history import Row, read_page
from livermore.market.timeframe import Timeframe
from livermore.runtime.lease import LASTS
from livermore.runtime.status import STATUS_TTL
from livermore.runtime.writer import TICKER_TTL
from tests.pure.market.test_tracker import T0, Wire
from tests.simulator.whole_daemon import (
    EXCHANGE,
    START,
    agree,
    check_announcements,
    exchange,
    listening,
    now_of,
    running,
    stored,
)

TESTS = Path(__file__).parents[1]
M5 = Timeframe.M5

pytestmark = pytest.mark.timeout(90)


def listed() -> dict[str, list[tuple[str, str]]]:
    """Failure -> file and name of its tests, as the docstring has them."""
    assert __doc__ is not None
    found: dict[str, list[tuple[str, str]]] = {}
    failure = ""
    for line in filter(str.strip, __doc__.splitlines()[1:]):
        if line.startswith(" "):
            file, _, name = line.strip().partition("::")
            found[failure].append((file, name))
        else:
            failure = line
            assert failure not in found
            found[failure] = []
    return found


def test_every_failure_has_a_test_and_every_test_is_there():
    failures = listed()
    assert len(failures) == 23
    for failure, tests in failures.items():
        assert tests, failure
        for file, name in tests:
            tree = ast.parse((TESTS / file).read_text())
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            names = {node.name for node in tree.body if isinstance(node, functions)}
            assert name.startswith("test_")
            assert name in names, f"{failure}: {file} has no {name}"


def test_a_new_connection_is_believed_though_its_numbers_begin_anew():
    """Its first frames are lower in number than the last of the one before, and are newer."""
    wire = Wire()
    wire.trade(1_000, 1)
    wire.beat(2_000, 200_000, 250)
    wire.tracker.lost()
    shown = Trades("BTC-USD", [Trade(1, 10.0, Decimal(1), T0 + 1_000)], snapshot=True)
    wire.connect(201_000, shown)  # nothing was traded meanwhile
    wire.beat(202_000, M5.ms + 3_000)
    [closed] = wire.of("BTC-USD", 0)
    assert (closed.close, closed.volume) == (10.0, 1.0)
    assert wire.missing == wire.suspects == []


@pytest.mark.parametrize("apart", [0, 5, 31, 59])
def test_two_empty_looks_inside_one_cache_lag_prove_nothing(apart: int):
    """Replies of REST may be half a minute old: both may show the same moment."""
    one = Series(EXCHANGE, "BTC-USD", M5)
    row = Row(T0, 100.0, 100.0, 100.0, 100.0, 1.0)
    missing = T0 + M5.ms
    looked = missing + M5.ms + 1_000

    def empties(seconds: int) -> list[int]:
        asked_at = looked + seconds * 1000
        page = read_page(one, [row], T0, missing, asked_at, omitted_at=looked)
        return [c.open_time for c in page.candles if c.kind is Kind.EMPTY]

    assert empties(apart) == []
    assert empties(60) == [missing]


async def test_what_an_owner_says_of_itself_ends_with_it(valkey_url: str, tmp_path: Path):
    """Orderly at once, and after a crash by itself: nothing tells of a daemon that is gone."""

    def lifetimes(client: Client) -> dict[str, int]:
        keys = ["status", "lease", "ticker"]
        named = [
            store.status_key(EXCHANGE),
            store.lease_key(EXCHANGE),
            store.ticker_key(EXCHANGE, "BTC-USD"),
        ]
        return dict(zip(keys, client.run([("PTTL", key) for key in named]), strict=True))

    with trio.fail_after(80):
        async with exchange(symbols=4) as simulator:
            async with running(
                simulator, valkey_url, tmp_path, top=None, symbols=("BTC-USD",)
            ) as daemon:
                await daemon.whole()
                await trio.sleep(1)
                left = await stored(valkey_url, lifetimes)
                assert 0 < left["status"] <= STATUS_TTL * 1000 == 45_000
                assert 0 < left["lease"] <= LASTS * 1000 == 30_000
                assert 0 < left["ticker"] <= TICKER_TTL * 1000 == 60_000
            left = await stored(valkey_url, lifetimes)
            assert left["status"] == left["lease"] == -2, "the keys are gone"


@pytest.mark.parametrize("seconds", [5, -5])
async def test_an_exchange_whose_clock_is_5_s_off_has_the_same_candles(
    valkey_url: str, tmp_path: Path, seconds: int
):
    with trio.fail_after(80), listening(valkey_url) as heard:
        async with exchange(symbols=4) as simulator:
            simulator.inject(fault="skew", seconds=seconds, **{"for": 3600.0})
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                await trio.sleep(11)  # two slots at sixty times
                await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
            assert simulator.stats.connections_total == 1

    def audit(client: Client) -> int:
        return check_announcements(client, heard, symbols, in_order=False)

    assert await stored(valkey_url, audit) > 0


async def test_the_slot_in_which_it_began_is_neither_lost_nor_guessed(
    valkey_url: str, tmp_path: Path
):
    """History ends before it and the stream begins within it."""
    with trio.fail_after(80):
        async with exchange(symbols=4) as simulator:
            began = M5.floor(now_of(simulator))
            assert began < START + 600_000
            async with running(simulator, valkey_url, tmp_path) as daemon:
                await daemon.whole()
                await daemon.until(lambda: now_of(simulator) > began + 2 * M5.ms + 40_000)
                await agree(valkey_url, simulator, daemon.symbols)

                def slots(client: Client) -> list[list[int]]:
                    series = [Series(EXCHANGE, symbol, M5) for symbol in daemon.symbols]
                    calls = [store.range_call(one, began - M5.ms, began + M5.ms) for one in series]
                    return [
                        [c.open_time for c in store.decode_candles(one, members)[0]]
                        for one, members in zip(series, client.run(calls), strict=True)
                    ]

                wanted = [began - M5.ms, began, began + M5.ms]
                assert await stored(valkey_url, slots) == [wanted] * len(daemon.symbols)
