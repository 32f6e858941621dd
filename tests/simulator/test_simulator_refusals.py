"""Subscriptions that are not served: left out without a word, or answered with an error."""

from __future__ import annotations

from livermore.simulator.chaos import schedule
from tests.simulator.exchange_client import client, rows, simulated

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")


def told(frame) -> list[str]:
    [event] = frame["events"]
    return sorted(event["subscriptions"].get("ticker", []))


async def test_a_share_of_the_subscriptions_is_neither_acknowledged_nor_served():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="ack-some", share=0.5, **{"for": 30})
        await one.subscribe("ticker", *SYMBOLS)
        served = told(await one.of("subscriptions"))
        assert 0 < len(served) < len(SYMBOLS)
        tickers = rows(await one.listen(0.5), "ticker", "tickers")
        assert sorted({row["product_id"] for row in tickers}) == served
        await one.subscribe("ticker", *SYMBOLS)  # the fault is over
        assert told(await one.of("subscriptions")) == sorted(SYMBOLS)


async def test_a_rejected_symbol_is_named_and_the_others_are_served():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="reject", symbol="ETH-USD", **{"for": 30})
        await one.subscribe("ticker", *SYMBOLS)
        error = await one.until(lambda frame: frame.get("type") == "error")
        assert error == {"type": "error", "message": "ETH-USD is not a valid product"}
        assert told(await one.of("subscriptions")) == ["BTC-USD", "SOL-USD", "XRP-USD"]
        tickers = rows(await one.listen(0.3), "ticker", "tickers")
        assert "ETH-USD" not in {row["product_id"] for row in tickers}


async def test_a_rejected_symbol_can_cost_the_whole_message():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="reject", symbol="ETH-USD", whole=True, **{"for": 600})
        await one.subscribe("ticker", *SYMBOLS)
        await one.until(lambda frame: frame.get("type") == "error")
        await one.subscribe("ticker", "BTC-USD")
        assert told(await one.of("subscriptions")) == ["BTC-USD"]


async def test_chaos_is_the_schedule_of_the_seed():
    async with simulated(scenario="chaos", seed=3, speed=600) as simulator:
        boundary = 300 - simulator.clock.start / 1e9 % 300
        planned = schedule(3, simulator.market.followed, boundary=boundary).faults
        assert planned[0]["at"] < 200
        async with client(simulator) as one:
            await one.subscribe("heartbeats")
            seen: set[str] = set()
            while not seen:
                await one.hear()
                seen = {active["fault"] for active in simulator.faults.as_json(0)}  # type: ignore[misc]
            passed = (simulator.clock.now() - simulator.clock.start) / 1e9
        # One, unless the machine stood still: a moment of ours is a minute there.
        begun = {fault["fault"] for fault in planned if fault["at"] <= passed}
        assert seen <= begun
        assert len(begun) < 8
