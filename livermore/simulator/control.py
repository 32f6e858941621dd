"""The door tests use: the truth, the counts, and faults on command. No exchange has it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec

from livermore.errors import ConfigurationError, UsageError
from livermore.market.timeframe import Timeframe
from livermore.simulator.clock import ExchangeClock
from livermore.simulator.exchange import Exchange
from livermore.simulator.faults import Faults, read_fault
from livermore.simulator.feed import Feed
from livermore.simulator.http import Reply, Request, json_reply
from livermore.simulator.listing import Listing
from livermore.simulator.market import Candle, Market
from livermore.simulator.purse import Key
from livermore.simulator.stats import Stats
from livermore.simulator.trades import NS

PATH = "/control"
_NEWEST = 1000


@attrs.frozen
class Control:
    exchange: Exchange
    market: Market
    clock: ExchangeClock
    faults: Faults
    feed: Feed
    stats: Stats
    seed: int = 0

    def answer(self, request: Request) -> Reply:
        """The reply to a request under ``/control``."""
        match request.method, request.path.removeprefix(PATH).strip("/"):
            case "GET", "truth":
                return self._truth(request)
            case "GET", "stats":
                return json_reply(200, {**self.stats.as_json(), "now": self._now()})
            case "GET", "now":
                return json_reply(200, {"now": self._now(), "speed": self.clock.speed})
            case "GET", "symbols":
                return json_reply(200, {"symbols": self._symbols()})
            case "GET", "keys":
                return json_reply(200, {"keys": [one.as_json() for one in self._keys()]})
            case "GET", "faults":
                now = self.clock.now()
                kinds = {
                    name: {"what": k.what, **k.options} for name, k in self.exchange.faults.items()
                }
                return json_reply(200, {"active": self.faults.as_json(now), "kinds": kinds})
            case "POST", "faults":
                return self._inject(request)
        return json_reply(404, {"error": f"no {request.method} {request.path}"})

    def _now(self) -> int:
        return self.clock.now() // NS

    def _keys(self) -> Sequence[Key]:
        return self.exchange.keys(self.seed)

    def _symbols(self) -> list[dict[str, object]]:
        return [
            {"symbol": listing.symbol, "trades_per_slot": listing.rate, "silence": listing.silence}
            for listing in map(self.market.listing, self.market.followed)
        ]

    def _truth(self, request: Request) -> Reply:
        symbol = request.first("symbol")
        if symbol is None or symbol not in self.market:
            return json_reply(400, {"error": f"unknown symbol {symbol!r}"})
        try:
            length = Timeframe.parse(request.first("timeframe") or "").ms
            until = int(request.first("until") or self._now())
            since = int(request.first("since") or until - (until % length) - _NEWEST * length)
        except (UsageError, ValueError) as error:
            return json_reply(400, {"error": str(error)})
        # Nothing is true outside of what has happened, and looking for it would take for ever.
        since = min(max(since, self.market.listed_since), self._now())
        until = min(until, self._now())
        listing = self.market.listing(symbol)
        candles = self.market.truth(symbol, length, since, until, self.clock.now())
        return json_reply(200, {"candles": [true_candle(listing, candle) for candle in candles]})

    def _inject(self, request: Request) -> Reply:
        try:
            said = msgspec.json.decode(request.body, type=dict[str, object])
            fault = read_fault(said, self.market, self.exchange.channels, self.exchange.faults)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return json_reply(400, {"error": f"the body is not a JSON object: {error}"})
        except ConfigurationError as error:
            return json_reply(400, {"error": str(error)})
        active = self.feed.inject(fault)
        return json_reply(200, active.as_json(self.clock.now()))


def true_candle(listing: Listing, candle: Candle) -> dict[str, object]:
    """A candle of the truth in plain numbers."""
    row, tick = candle.row, listing.tick
    return {
        "open_time": candle.open_time,
        "open": row.open / tick,
        "high": row.high / tick,
        "low": row.low / tick,
        "close": row.close / tick,
        "volume": row.volume / listing.unit,
        "kind": "traded" if row.count else "empty",
    }
