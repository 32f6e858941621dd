"""Several exchanges in one process: what one of them will not do is not the others' end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from livermore import daemon, exchanges
from livermore.adapters import outbox, store
from livermore.config import Own, Settings
from livermore.errors import Refused, UnknownSymbol
from livermore.exchanges.coinbase import COINBASE
from livermore.runtime.feed import Feed
from livermore.signals.alert import Blindness
from livermore.simulator import Simulator
from tests.simulator.whole_daemon import exchange, limited, lines, stored

OTHER = attrs.evolve(COINBASE, name="other", title="Other")
ONLY_THERE = "SOL-USD"


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both speak as Coinbase does."""
    monkeypatch.setattr(exchanges, "DIALECTS", {"coinbase": COINBASE, "other": OTHER})


@attrs.define
class Door:
    """The other exchange's REST, which may be shut for legal reasons."""

    url: str
    shut: bool
    refused: int = 0


@contextlib.asynccontextmanager
async def door(simulator: Simulator, *, shut: bool) -> AsyncIterator[Door]:
    """A way to ``simulator``'s REST."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    found = Door(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", shut)

    async def welcome(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        head = bytearray()
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        target = head.split(b" ", 2)[1].decode()
        if found.shut:
            found.refused += 1
            status, body = 451, b"not where you are"
        else:
            async with httpx.AsyncClient(trust_env=False) as client:
                reply = await client.get(simulator.rest_url + target)
            status, body = reply.status_code, reply.content
        said = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(said.encode() + body)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, welcome, listeners)
        yield found
        nursery.cancel_scope.cancel()


@attrs.define
class World:
    """A daemon of two exchanges, the simulators of both, and the other's door."""

    settings: Settings
    simulator: Simulator
    other: Simulator
    door: Door
    running: daemon.Running

    async def until(self, what: Callable[[], object], within: float = 40) -> None:
        with trio.fail_after(within):
            while not what():  # noqa: ASYNC110 - what is waited for tells nobody
                await trio.sleep(0.05)

    def feed(self, name: str) -> Feed | None:
        return self.running.feeds.get(name)

    def state(self, name: str) -> str:
        feed = self.feed(name)
        return feed.report.condition(feed.now()).state if feed is not None else ""

    def live(self, *names: str) -> bool:
        return all(self.state(name) == "live" for name in names)

    async def status(self, name: str) -> dict[str, Any] | None:
        text = await stored(self.running.redis_url, lambda c: c.one("GET", store.status_key(name)))
        return json.loads(text) if text else None


@contextlib.asynccontextmanager
async def world(
    url: str, directory: Path, *, shut: bool = False, **settings: Any
) -> AsyncIterator[World]:
    async with (
        exchange(symbols=2, speed=20.0) as simulator,
        exchange(symbols=3, speed=20.0, seed=8) as other,
        door(other, shut=shut) as way,
        trio.open_nursery() as nursery,
    ):
        given = Settings(
            **{
                "state_dir": directory / "state",
                "exchanges": ("coinbase", "other"),
                "top": 1,
                "redis_url": url,
                "own": {
                    "coinbase": Own(
                        rest_url=simulator.rest_url, websocket_url=simulator.websocket_url
                    ),
                    "other": Own(rest_url=way.url, websocket_url=other.websocket_url),
                },
                "metrics_port": 0,
                **settings,
            }
        )
        running = await nursery.start(daemon.serve, given)
        yield World(given, simulator, other, way, running)
        nursery.cancel_scope.cancel()


async def test_an_exchange_that_refuses_us_at_the_start_is_left_out_and_asked_no_more(
    valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "livermore")
    async with limited(), world(valkey_url, tmp_path, shut=True) as both:
        await both.until(lambda: both.live("coinbase") and both.state("other") == "ended")
        asked = both.door.refused
        assert asked == 1
        [said] = lines(caplog, "not followed any more")
        assert said.name == "livermore.other"
        assert vars(said)["fields"]["why"] == "coinbase: 451 not where you are"
        await both.until(lambda: both.running.feeds["coinbase"].history_whole)
        found = await both.status("other")
        assert found is not None
        assert (found["state"], found["missing"]) == ("ended", "nothing is followed")
        assert found["why"] == "coinbase: 451 not where you are"
        async with httpx.AsyncClient(trust_env=False) as client:
            ready = await client.get(both.running.metrics_url + "/readyz")
            alive = await client.get(both.running.metrics_url + "/livez")
            metrics = (await client.get(both.running.metrics_url + "/metrics")).text
        assert ready.status_code == 503
        assert "other: ended since" in ready.text
        assert "451 not where you are" in ready.text
        assert alive.status_code == 200
        assert 'livermore_state{exchange="other",state="ended"} 1.0' in metrics
        assert both.door.refused == asked, "it is not asked again"
        assert len(lines(caplog, "not followed any more")) == 1
        assert await stored(valkey_url, lambda c: c.one("EXISTS", store.lease_key("other"))) == 0
    for name in ("coinbase", "other"):
        assert await both.status(name) is None, "no status outlives its daemon"


@pytest.mark.parametrize("where", ["rest", "socket"])
async def test_an_exchange_that_refuses_us_later_is_left_out_and_people_are_told(
    valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
):
    caplog.set_level("INFO", "livermore")
    async with limited(), world(valkey_url, tmp_path) as both:
        await both.until(lambda: both.live("coinbase", "other"))
        if where == "rest":
            both.door.shut = True  # the comparison of the next close asks
        else:
            both.other.inject(fault="refuse", status=451, **{"for": 36_000})
            both.other.inject(fault="drop")
        await both.until(lambda: both.state("other") == "ended")
        assert "451" in both.running.feeds["other"].report.ended
        asked, since = both.door.refused, both.running.feeds["coinbase"].report.writer
        assert since is not None
        closes = since.turns.closes
        await both.until(lambda: since.turns.closes > closes)
        assert both.live("coinbase")
        assert both.door.refused == asked
        assert len(lines(caplog, "not followed any more")) == 1
        page = await stored(valkey_url, lambda c: c.one(*outbox.after("other", outbox.BEGINNING)))
        [told] = [row.entry for row in outbox.rows(page) if isinstance(row, outbox.Row)]
        assert isinstance(told, Blindness)
        assert told.why.startswith("ended: coinbase: 451")
        assert told.series == told.of == 5


async def test_who_takes_an_ended_exchange_over_is_not_talked_over(valkey_url: str, tmp_path: Path):
    async with limited(), world(valkey_url, tmp_path, shut=True) as both:
        await both.until(lambda: both.state("other") == "ended")
        both.door.shut = False
        alone = attrs.evolve(both.settings, exchanges=("other",), metrics_port=None)
        async with trio.open_nursery() as nursery:
            second = await nursery.start(daemon.serve, alone)
            await both.until(
                lambda: "other" in second.feeds and second.feeds["other"].history_whole
            )
            for _ in range(100):  # while both speak
                await trio.sleep(0.05)
                found = await both.status("other")
                assert found is not None
                assert found["epoch"] > 0
                assert found["state"] != "ended"
            assert both.state("other") == "ended"
            nursery.cancel_scope.cancel()


async def test_a_symbol_that_one_exchange_lists_is_followed_there_and_told_on_the_other(
    valkey_url: str, tmp_path: Path
):
    symbols = ("BTC-USD", ONLY_THERE, "ETH-USD@coinbase")
    async with limited(), world(valkey_url, tmp_path, top=None, symbols=symbols) as both:
        await both.until(lambda: both.live("coinbase", "other"))
        coinbase, other = (both.running.feeds[name].report for name in ("coinbase", "other"))
        assert coinbase.symbols == ["BTC-USD", "ETH-USD"]
        assert coinbase.notices == [f"1 of 3 symbols are not listed here ({ONLY_THERE})"]
        assert (other.symbols, other.notices) == (["BTC-USD", ONLY_THERE], [])


async def test_a_single_exchange_that_refuses_us_ends_the_daemon(valkey_url: str, tmp_path: Path):
    async with limited():
        with pytest.RaisesGroup(pytest.RaisesExc(Refused, match="451"), flatten_subgroups=True):
            async with world(valkey_url, tmp_path, shut=True, exchanges=("other",)):
                await trio.sleep_forever()


async def test_a_symbol_that_no_exchange_lists_ends_the_daemon(valkey_url: str, tmp_path: Path):
    async with limited():
        with pytest.RaisesGroup(
            pytest.RaisesExc(UnknownSymbol, match="none of coinbase, other lists it"),
            flatten_subgroups=True,
        ):
            symbols = ("BTC-USD", "NOPE-USD")
            async with world(valkey_url, tmp_path, top=None, symbols=symbols):
                await trio.sleep_forever()


async def test_a_reload_changes_the_exchange_whose_symbols_changed_and_no_other(
    valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "livermore")
    async with limited(), world(valkey_url, tmp_path) as both:
        await both.until(lambda: both.live("coinbase", "other"))
        before = both.running.feeds["other"]
        coinbase = attrs.evolve(both.settings.own["coinbase"], symbols=("ETH-USD",))
        fresh = attrs.evolve(both.settings, own={**both.settings.own, "coinbase": coinbase})
        kept = await daemon.reload(both.settings, lambda: fresh, both.running)
        assert kept == fresh
        await both.until(lambda: both.running.feeds["coinbase"].report.symbols == ["ETH-USD"])
        assert both.running.feeds["other"] is before
        [said] = lines(caplog, "symbols reloaded")
        assert said.name == "livermore.coinbase"
        moved = attrs.evolve(coinbase, rest_url="http://127.0.0.1:1")
        wrong = attrs.evolve(fresh, own={**fresh.own, "coinbase": moved})
        assert await daemon.reload(kept, lambda: wrong, both.running) == kept
        [said] = lines(caplog, "other changes need a restart")
        assert vars(said)["fields"] == {"settings": "rest_url of coinbase"}


async def test_a_reload_does_not_ask_an_exchange_that_ended(
    valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "livermore")
    async with limited(), world(valkey_url, tmp_path, shut=True) as both:
        await both.until(lambda: both.live("coinbase") and both.state("other") == "ended")
        fresh = attrs.evolve(both.settings, top=None, symbols=("ETH-USD",))
        kept = await daemon.reload(both.settings, lambda: fresh, both.running)
        assert kept.symbols == ("ETH-USD",)
        await both.until(lambda: both.running.feeds["coinbase"].report.symbols == ["ETH-USD"])
        assert both.door.refused == 1
        assert both.state("other") == "ended"
