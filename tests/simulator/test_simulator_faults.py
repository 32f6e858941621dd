"""Each fault does what it says, to whom it says, for as long as it says."""

from __future__ import annotations

import contextlib
import json

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from livermore.errors import ConfigurationError
from livermore.simulator.coinbase import COINBASE
from livermore.simulator.coinbase.routes import Routes
from livermore.simulator.faults import KINDS, read_fault
from livermore.simulator.scenario import read_scenario
from livermore.simulator.slots import SLOT
from livermore.simulator.trades import NS
from tests.simulator.exchange_client import (
    START,
    client,
    is_of,
    left_alone,
    port_of,
    rest,
    rows,
    simulated,
)

TIME = "/api/v3/brokerage/time"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FIVE = "/api/v3/brokerage/market/products/{}/candles?granularity=FIVE_MINUTE"


def sequences(frames):
    return [frame["sequence_num"] for frame in frames if "sequence_num" in frame]


async def closed(one) -> int:
    with pytest.raises(ConnectionClosed) as caught, trio.fail_after(3):
        while True:
            await one.socket.get_message()
    assert caught.value.reason is not None
    return int(caught.value.reason.code)


async def test_drop_resets_every_socket_or_says_a_code():
    async with simulated() as simulator:
        async with client(simulator) as one:
            await one.subscribe("heartbeats")
            await one.of("subscriptions")
            simulator.inject(fault="drop")
            assert await closed(one) == 1006
        async with client(simulator) as one:
            await one.subscribe("heartbeats")
            await one.of("subscriptions")
            simulator.inject(fault="drop", code=1001)
            assert await closed(one) == 1001
        await left_alone(simulator)


async def test_drop_can_choose_by_symbol():
    async with simulated(speed=30) as simulator, client(simulator) as one, client(simulator) as two:
        await one.subscribe("candles", "BTC-USD")
        await two.subscribe("candles", "ETH-USD")
        await two.of("candles")
        simulator.inject(fault="drop", symbol="BTC-USD")
        await closed(one)
        assert await two.of("candles", "update")


async def knock(simulator) -> bytes:
    """What a newcomer is answered."""
    with trio.fail_after(3):
        async with await trio.open_tcp_stream(
            "127.0.0.1", port_of(simulator.websocket_url)
        ) as stream:
            try:
                await stream.send_all(UPGRADE)
                return bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                return b""


@pytest.mark.parametrize(
    ("status", "answer"), [(0, b""), (503, b"HTTP/1.1 503"), (429, b"HTTP/1.1 429")]
)
async def test_refuse_turns_newcomers_away_until_it_is_over(status, answer):
    async with simulated(speed=20) as simulator, client(simulator) as old:
        await old.subscribe("heartbeats")
        simulator.inject(fault="refuse", status=status, **{"for": 8})
        assert (await knock(simulator))[:12] == answer
        assert await old.of("heartbeats"), "who is in stays in"
        await trio.sleep(0.45)
        assert await knock(simulator) != answer
        async with client(simulator) as one:
            await one.subscribe("heartbeats")
            assert await one.of("heartbeats")
        assert simulator.stats.refused == 1


@pytest.mark.parametrize(
    ("fault", "beating"),
    [
        ({"fault": "ack-then-mute"}, False),
        ({"fault": "ack-then-mute", "heartbeats": True}, True),
        ({"fault": "heartbeats-only"}, True),
    ],
)
async def test_acked_then_silent_then_whole_again(fault, beating):
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(**fault, **{"for": 30})
        await one.subscribe("heartbeats")
        await one.subscribe("market_trades", "BTC-USD")
        heard = {frame["channel"] for frame in await one.listen(0.4)}
        assert heard == ({"subscriptions", "heartbeats"} if beating else {"subscriptions"})
        assert await one.of("market_trades")
        assert await one.of("heartbeats")
        assert sequences(one.frames) == list(range(len(one.frames))), "nothing was lost"


async def test_mute_silences_one_symbol_only():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD", "ETH-USD")
        await one.listen(0.2)
        simulator.inject(fault="mute", symbol="BTC-USD", **{"for": 120})
        muted = rows(await one.listen(0.4), "market_trades", "trades")
        assert {row["product_id"] for row in muted} == {"ETH-USD"}
        await one.until(
            lambda f: any(t["product_id"] == "BTC-USD" for t in f["events"][0]["trades"])
        )


async def test_lost_frames_leave_gaps_in_the_sequence():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD")
        await one.listen(0.1)
        simulator.inject(fault="lose", share=0.3)
        await one.listen(0.5)
        seen = sequences(one.frames)
        assert seen == sorted(set(seen))
        assert len(seen) < seen[-1] + 1
        assert simulator.stats.dropped_frames >= seen[-1] + 1 - len(seen)


async def test_duplicates_repeat_a_number_and_reordering_swaps_two():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD")
        await one.listen(0.1)
        simulator.inject(fault="duplicate", share=0.3, **{"for": 20})
        await one.listen(0.5)
        seen = sequences(one.frames)
        assert len(seen) > len(set(seen))
        assert sorted(set(seen)) == list(range(seen[-1] + 1))
        await one.listen(0.5)  # until it is over
        simulator.inject(fault="reorder", share=0.5, **{"for": 20})
        later = sequences(await one.listen(0.5))
        assert later != sorted(later)
        assert len(set(later)) == len(later)


async def test_a_frame_held_back_for_reordering_is_not_kept_for_ever():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD")
        simulator.inject(fault="reorder", share=1.0, **{"for": 10})
        await one.listen(0.6)
        seen = sequences(one.frames)
        assert sorted(seen) == list(range(max(seen) + 1))


@pytest.mark.parametrize("fault", ["garbage", "truncate"])
async def test_damaged_frames_are_no_json(fault):
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("heartbeats")
        await one.of("subscriptions")
        simulator.inject(fault=fault, share=1.0)
        with pytest.raises(json.JSONDecodeError):
            await one.listen(2)


async def test_a_huge_frame_is_huge():
    async with simulated() as simulator, client(simulator) as one:
        await one.subscribe("heartbeats")
        await one.of("subscriptions")
        simulator.inject(fault="huge", bytes=2_000_000)
        frame = await one.of("huge")
        assert len(frame["filler"]) == 2_000_000


async def test_half_open_is_silent_and_deaf_and_then_reset():
    async with simulated(speed=20) as simulator, client(simulator) as one:
        await one.subscribe("heartbeats")
        await one.of("heartbeats")
        simulator.inject(fault="half-open", **{"for": 15})
        await one.listen(0.05)
        assert await one.listen(0.3) == []
        await one.subscribe("candles", "BTC-USD")
        assert await one.listen(0.2) == []
        assert await closed(one) == 1006


async def test_what_the_stream_shows_differs_and_rest_does_not():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="stream-differs", symbol="BTC-USD", **{"for": 600})
        await one.subscribe("candles", "BTC-USD", "ETH-USD")
        await one.of("candles", "snapshot")
        await one.of("candles", "snapshot")
        async with rest(simulator) as http:
            for symbol, differs in (("BTC-USD", True), ("ETH-USD", False)):
                told = {
                    row["start"]: row["volume"]
                    for row in rows(one.frames, "candles", "candles")
                    if row["product_id"] == symbol
                }
                reply = await http.get(FIVE.format(symbol))
                true = {row["start"]: row["volume"] for row in reply.json()["candles"]}
                closed_slots = [s for s in told if int(s) * 1000 < START // SLOT * SLOT]
                assert all((told[s] != true[s]) is differs for s in closed_slots)


async def test_a_late_correction_comes_after_the_fault():
    async with simulated(speed=600) as simulator, client(simulator) as one:
        await one.subscribe("candles", "BTC-USD")
        await one.of("candles", "snapshot")
        simulator.inject(fault="late-correction", symbol="BTC-USD", **{"for": 700})
        first = START // SLOT
        await one.until(lambda f: simulator.faults.one("late-correction") is None)
        await one.listen(0.1)
        told: dict[int, list[int]] = {}
        for row in rows(one.frames, "candles", "candles", "update"):
            told.setdefault(int(row["start"]) // 300, []).append(
                round(float(row["volume"]) * 10**8)
            )
        volume = simulator.market.tape("BTC-USD").row(first + 1).volume
        assert max(told[first + 1][:-1]) > volume
        assert told[first + 1][-1] == volume


async def test_429_for_a_while_with_and_without_a_hint():
    async with simulated(speed=60) as simulator, rest(simulator) as http:
        simulator.inject(fault="429", **{"for": 12})
        reply = await http.get(TIME)
        assert reply.status_code == 429
        assert "retry-after" not in reply.headers
        await trio.sleep(0.25)
        assert (await http.get(TIME)).status_code == 200
        simulator.inject(fault="429", retry_after=7)
        assert (await http.get(TIME)).headers["retry-after"] == "7"
        assert simulator.stats.rest_429 == 2


async def test_rest_fails_waits_and_breaks_off():
    async with simulated(speed=60) as simulator, rest(simulator) as http:
        simulator.inject(fault="5xx", status=502, **{"for": 60})
        assert (await http.get(TIME)).status_code == 502
        for _ in range(200):
            if (await http.get(TIME)).status_code == 200:
                break
            await trio.sleep(0.1)
        simulator.inject(fault="slow-rest", delay=0.3, **{"for": 60})
        began = trio.current_time()
        assert (await http.get(TIME)).status_code == 200
        assert trio.current_time() - began >= 0.3
        simulator.inject(fault="cut-rest", **{"for": 60})
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(TIME)


async def test_a_dripping_reply_arrives_whole_and_late():
    async with simulated() as simulator, rest(simulator) as http:
        simulator.inject(fault="slow-rest", delay=0, drip=0.02)
        began = trio.current_time()
        assert len((await http.get(FIVE.format("BTC-USD"))).json()["candles"]) > 300
        assert trio.current_time() - began >= 0.3


async def test_rest_can_be_stale_or_leave_rows_out():
    async with simulated() as simulator, rest(simulator) as http:
        whole = (await http.get(FIVE.format("BTC-USD"))).json()["candles"]
        simulator.inject(fault="sparse-rest", share=0.2)
        sparse = (await http.get(FIVE.format("BTC-USD"))).json()["candles"]
        assert 200 < len(sparse) < 320
        simulator.inject(fault="stale-rest", seconds=900)
        stale = (await http.get(FIVE.format("BTC-USD"))).json()["candles"]
        assert int(stale[0]["start"]) <= int(whole[0]["start"]) - 600


async def test_a_skewed_clock_is_wrong_in_every_stamp_and_then_right():
    async with simulated(speed=20) as simulator, client(simulator) as one, rest(simulator) as http:
        await one.subscribe("heartbeats")
        await one.of("heartbeats")
        simulator.inject(fault="skew", seconds=3_600, **{"for": 12})
        told = int((await http.get(TIME)).json()["epochMillis"])
        assert told - simulator.clock.now() // NS == pytest.approx(3_600_000, abs=2_000)
        hours = {(await one.of("heartbeats"))["timestamp"][11:13] for _ in range(4)}
        hours |= {one.frames[-1]["events"][0]["current_time"][11:13]}
        assert any(int(hour) != int(one.frames[0]["timestamp"][11:13]) for hour in hours)
        await trio.sleep(0.5)
        told = int((await http.get(TIME)).json()["epochMillis"])
        assert told - simulator.clock.now() // NS == pytest.approx(0, abs=2_000)


async def test_a_halt_is_part_of_the_truth():
    async with (
        simulated(speed=1500) as simulator,
        client(simulator) as one,
        rest(simulator) as http,
    ):
        await one.subscribe("market_trades", "BTC-USD", "ETH-USD")
        await one.listen(0.1)
        active = simulator.inject(fault="halt", symbols=["BTC-USD"], **{"for": 900})
        while simulator.clock.now() < active.until + 400 * 10**9:
            await one.listen(0.1)
        halted = range(-(-active.since // (SLOT * NS)), active.until // (SLOT * NS))
        reply = await http.get("/control/truth", params={"symbol": "BTC-USD", "timeframe": "5m"})
        kinds = {c["open_time"] // SLOT: c["kind"] for c in reply.json()["candles"]}
        assert halted
        assert {kinds[slot] for slot in halted} == {"empty"}
        for symbol in ("BTC-USD", "ETH-USD"):
            ids = []
            for frame in one.frames:
                for event in frame["events"] if is_of(frame, "market_trades") else ():
                    trades = [t for t in event["trades"] if t["product_id"] == symbol]
                    ids += [int(t["trade_id"]) for t in reversed(trades)]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert kinds[max(kinds)] == "traded"
        body = (await http.get(FIVE.format("BTC-USD"))).json()["candles"]
        assert not {int(row["start"]) * 1000 // SLOT for row in body} & set(halted)


async def test_faults_come_by_the_control_door_and_are_listed():
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.post(
            "/control/faults", json={"fault": "mute", "symbol": "BTC-USD", "for": 60}
        )
        assert reply.status_code == 200
        body = (await http.get("/control/faults")).json()
        (active,) = body["active"]
        assert active["fault"] == "mute"
        assert active["symbols"] == ["BTC-USD"]
        assert 0 < active["left"] <= 60
        assert set(body["kinds"]) == set(KINDS)
        for nonsense in (b"[]", b"nothing", b'{"fault":"tea"}'):
            assert (await http.post("/control/faults", content=nonsense)).status_code == 400


IMPOSSIBLE = [
    ({"fault": "mute", "for": 1e308}, "'for' is 1e+308, use 0 to 604800"),
    ({"fault": "mute", "for": 604_801}, "'for' is 604801"),
    ({"fault": "mute", "for": True}, "'for' is True"),
    ({"fault": "mute", "at": -1}, "'at' is -1"),
    ({"fault": "5xx", "status": 9999}, "'status' is 9999, use 500 to 599"),
    ({"fault": "5xx", "status": 499}, "'status' is 499"),
    ({"fault": "5xx", "status": True}, "status is True"),
    ({"fault": "5xx", "share": 1.5}, "'share' is 1.5, use 0 to 1"),
    ({"fault": "skew", "seconds": 1e300}, "'seconds' is 1e+300, use -86400 to 86400"),
    ({"fault": "skew", "seconds": 1e12}, "'seconds' is"),
    ({"fault": "skew", "seconds": 10**300}, "'seconds' is"),
    ({"fault": "skew", "seconds": -86_401}, "'seconds' is"),
    ({"fault": "stale-rest", "seconds": -1}, "'seconds' is -1"),
    ({"fault": "slow-rest", "delay": -1}, "'delay' is -1, use 0 to 60"),
    ({"fault": "slow-rest", "drip": 1e9}, "'drip' is 1000000000.0"),
    ({"fault": "drop", "code": 99_999}, "'code' is 99999"),
    ({"fault": "drop", "code": 999}, "'code' is 999"),
    ({"fault": "drop", "code": 1006}, "'code' is 1006"),
    ({"fault": "refuse", "status": 7}, "'status' is 7, use 0 or 400 to 599"),
    ({"fault": "huge", "bytes": -5}, "'bytes' is -5, use 1 to 67108864"),
    ({"fault": "huge", "bytes": 10**14}, "'bytes' is"),
    ({"fault": "429", "retry_after": -5}, "'retry_after' is -5, use 0 to 86400"),
    ({"fault": "mute", "symbol": "NOPE-USD"}, "unknown symbol NOPE-USD"),
    ({"fault": "halt", "symbols": ["a\nb"] * 9}, "unknown symbol a\\nb"),
    ({"fault": "tea\n" * 999}, "unknown fault"),
    ({"fault": "drop", "x\n" * 999: 1}, "unknown x\\n"),
]


@pytest.mark.parametrize(("said", "why"), IMPOSSIBLE, ids=[str(s)[:40] for s, _ in IMPOSSIBLE])
async def test_what_no_exchange_could_do_is_refused_in_one_line(said, why):
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.post("/control/faults", json=said)
        assert reply.status_code == 400
        told = reply.json()["error"]
        assert why in told
        assert "\n" not in told
        assert len(told) < 500
        assert (await http.get("/control/faults")).json()["active"] == []
        assert (await http.get(TIME)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"fault":"skew","seconds":NaN}',
        b'{"fault":"skew","seconds":Infinity}',
        b'{"fault":"skew","seconds":1e999}',
        b'{"fault":"skew","seconds":1' + b"0" * 9000 + b"}",
        b'{"fault":"\xff"}',
        b'{"fault":' + b"[" * 100_000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_a_body_that_is_no_json_or_no_number_is_refused(body):
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.post("/control/faults", content=body)
        assert reply.status_code == 400
        assert "error" in reply.json()
        assert (await http.get(TIME)).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"fault": "5xx", "status": 599},
        {"fault": "skew", "seconds": -86_400},
        {"fault": "429", "retry_after": 86_400},
        {"fault": "mute", "for": 604_800},
        {"fault": "halt", "symbols": ["BTC-USD"], "for": 604_800},
    ],
    ids=str,
)
async def test_the_extremes_that_are_allowed_are_played(said):
    async with simulated() as simulator, rest(simulator) as http:
        assert (await http.post("/control/faults", json=said)).status_code == 200
        answered = (await http.get(TIME)).status_code
        assert answered == {"5xx": 599, "429": 429}.get(said["fault"], 200)


async def test_nothing_a_client_sends_ends_the_exchange():
    long = b"x" * (2 << 20)
    http_noise = [
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"POST /control/faults HTTP/1.1\r\nHost: x\r\nContent-Length: 2097152\r\n\r\n" + long,
    ]
    socket_noise = [b"GARBAGE\r\n\r\n", UPGRADE.replace(b"Version: 13", b"Version: 7")]
    async with simulated() as simulator:
        for noise in http_noise:
            await shout(port_of(simulator.rest_url), noise)
        for noise in socket_noise:
            await shout(port_of(simulator.websocket_url), noise)
        async with client(simulator) as one:
            with pytest.raises(ConnectionClosed):
                await one.socket.send_message("[" * (2 << 20))
                await one.hear()
        async with client(simulator) as one:
            await one.socket.send_message('{"type":' + "[" * 100_000)
            assert (await one.hear())["type"] == "error"
        async with rest(simulator) as http:
            for query in ("since=1" + "0" * 30, "since=-1" + "0" * 30 + "&until=1" + "0" * 30):
                asked = f"/control/truth?symbol=BTC-USD&timeframe=1d&{query}"
                assert (await http.get(asked)).status_code == 200
            huge = FIVE.format("BTC-USD") + "&start=1" + "0" * 5000
            assert (await http.get(huge)).status_code == 400
            assert (await http.get(TIME)).status_code == 200


async def shout(port: int, noise: bytes) -> None:
    """Say something and wait until the other side hangs up or answers."""
    with trio.fail_after(3):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(noise)
                await stream.receive_some()


async def test_a_handler_that_raises_ends_its_connection_only(caplog, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on\npurpose")

    async with simulated() as simulator, rest(simulator) as http:
        monkeypatch.setattr(Routes, "answer", fail)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(TIME)
        monkeypatch.undo()
        assert (await http.get(TIME)).status_code == 200
    [line] = [record.getMessage() for record in caplog.records]
    assert line == "connection ended: ZeroDivisionError: on purpose"


async def test_a_scenario_strikes_when_its_time_has_come():
    scenario = [{"at": 10, "fault": "drop"}, {"at": 4, "fault": "429", "for": 1000}]
    async with simulated(speed=20, scenario=scenario) as simulator, client(simulator) as one:
        await one.subscribe("heartbeats")
        async with rest(simulator) as http:
            assert (await http.get(TIME)).status_code == 200
            await closed(one)
            assert simulator.clock.now() - simulator.clock.start >= 10 * 10**9
            assert (await http.get(TIME)).status_code == 429


def test_scenarios_are_json_or_toml(tmp_path):
    toml, plain = tmp_path / "s.toml", tmp_path / "s.json"
    toml.write_text('[[faults]]\nat = 5\nfault = "halt"\nfor = 60\n')
    plain.write_text('[{"at": 5, "fault": "halt", "for": 60}]')
    assert read_scenario(toml, ()) == read_scenario(plain, ())
    assert read_scenario(None, ()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"fault": "drop"}]', "entry 1: 'at' is None"),
        ('[{"at": 1, "fault": "tea"}]', "unknown fault 'tea'"),
        ('[{"at": 1, "fault": "halt", "from": 2}]', "unknown from"),
        ('[{"at": 1, "fault": "halt", "for": "long"}]', "'for' is 'long'"),
        ('[{"at": 1, "fault": "lose", "share": 2}]', "'share' is 2"),
        ('[{"at": 1, "fault": "mute", "channel": "tea"}]', "unknown channel tea"),
        ('[{"at": 1, "fault": "mute", "symbols": "BTC-USD"}]', "symbols is 'BTC-USD'"),
        ('[{"at": 1, "fault": "mute", "symbol": "NOPE-USD"}]', "unknown symbol NOPE-USD"),
        ('[{"at": 1, "fault": "mute", "for": 1e308}]', "'for' is 1e+308, use 0 to 604800"),
        ('[{"at": 1e300, "fault": "drop"}]', "entry 1: 'at' is 1e+300"),
        ('[{"at": true, "fault": "drop"}]', "entry 1: 'at' is True"),
        ("[" * 100_000, "s.json"),
        ('{"at": 1}', "must be a list"),
        ("[1]", "entry 1 is not an object"),
        ("[", "s.json"),
    ],
)
def test_a_bad_scenario_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_scenario(path, {"BTC-USD"}, COINBASE.channels)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_fault_can_be_asked_for_by_name_alone(kind):
    assert read_fault({"fault": kind}, ()).kind == kind
