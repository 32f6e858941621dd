"""Binance's REST as it answers: weights by the minute, bans, and candles oldest first."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import msgspec

from livermore.simulator.binance import words
from livermore.simulator.binance.account import Desk
from livermore.simulator.binance.table import INTERVALS, Table
from livermore.simulator.binance.words import Spelling
from livermore.simulator.exchange import Stage
from livermore.simulator.http import Reply, Request, json_reply
from livermore.simulator.listing import Listing
from livermore.simulator.market import Candle
from livermore.simulator.slots import SLOT
from livermore.simulator.tape import SLOT_NS
from livermore.simulator.trades import NS, Row

ROOT = "/api/v3/"
MOST_ROWS = 1_000
USUAL_ROWS = 500
_LAG = 50 * NS
"""How far REST is behind."""
_IGNORED = 5
"""Requests after a 429, before its ``Retry-After`` is over, that are still not punished."""
_BAN = 120.0
"""Real seconds."""
_LONGEST = 20
_NOT_FOUND = Reply(
    404, b"<html><body><h2>404 Not found</h2></body></html>", content_type="text/html"
)
_WEIGHT = "x-mbx-used-weight"


@attrs.define
class Account:
    """What an address has used of the running minute."""

    minute: int = -1
    used: int = 0
    ignored: int = 0
    banned_until: float = -math.inf


class Refused(Exception):
    """A request that cannot be answered."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Routes:
    """Answers requests; synchronous, one at a time."""

    def __init__(self, table: Table, stage: Stage) -> None:
        self._table = table
        self._market = stage.market
        self._clock = stage.clock
        self._faults = stage.faults
        self._stats = stage.stats
        self._limits = stage.limits
        self._monotonic = stage.monotonic
        self._accounts: dict[str, Account] = {}
        self._symbols = {one.native: one.symbol for one in stage.market.listings}
        self._days: dict[str, tuple[int, words.Window]] = {}
        self._desk = Desk(table, stage)

    # --- limits

    def turned_away(self, request: Request) -> Reply | None:
        """From where nobody is served, or banned."""
        if self._faults.one("geo"):
            return _error(
                451,
                0,
                "Service unavailable from a restricted location according to 'b. Eligibility' in "
                "https://www.binance.com/en/terms. Please contact customer service if you believe "
                "you received this message in error.",
            )
        ban = self._faults.one("ban")
        if ban is not None:
            self._stats.rest_418 += 1
            return self._banned(ban.options["retry_after"])
        account = self._account(request.address)
        left = account.banned_until - self._monotonic()
        if left > 0:
            self._stats.rest_418 += 1
            self._stats.over_rate += 1
            return self._banned(left)
        return None

    def too_many(self, wait: float | None) -> Reply:
        """A 429; ``wait``: seconds in ``Retry-After``."""
        headers = () if wait is None else (("retry-after", f"{math.ceil(wait)}"),)
        return _error(
            429,
            -1003,
            "Too much request weight used; current limit is "
            f"{self._limits.rest_rate} request weight per 1 MINUTE. Please use WebSocket Streams "
            "for live updates to avoid polling the API.",
            headers,
        )

    def admit(self, request: Request) -> Reply | None:
        """Count a request's weight; the refusal when it is too much."""
        account = self._account(request.address)
        now = self._monotonic()
        account.used += self._weight(request)
        if account.used <= self._limits.rest_rate:
            return None
        account.ignored += 1
        if account.ignored > _IGNORED:
            account.banned_until = now + _BAN
            return self._banned(_BAN)
        window = self._limits.rest_window
        reply = self.too_many((account.minute + 1) * window - now)
        return attrs.evolve(reply, headers=(*reply.headers, *self._used(account)))

    def _account(self, address: str) -> Account:
        account = self._accounts.setdefault(address, Account())
        minute = int(self._monotonic() // self._limits.rest_window)
        if account.minute != minute:
            account.minute, account.used, account.ignored = minute, 0, 0
        return account

    def _used(self, account: Account) -> tuple[tuple[str, str], ...]:
        return ((_WEIGHT, str(account.used)), (f"{_WEIGHT}-1m", str(account.used)))

    def _banned(self, wait: float) -> Reply:
        until = (self._clock.now() + int(wait * 1_000 * NS)) // NS
        return _error(
            418,
            -1003,
            f"Way too much request weight used; IP banned until {until}. Please use WebSocket "
            "Streams for live updates to avoid bans.",
            (("retry-after", f"{math.ceil(wait)}"),),
        )

    def _weight(self, request: Request) -> int:
        private = self._desk.weight(request)
        if private is not None:
            return private
        weights, path = self._table.weights, request.path.removeprefix(ROOT)
        match path:
            case "klines" | "uiKlines":
                return weights.klines
            case "exchangeInfo":
                return weights.exchange_info
            case "ticker/24hr":
                if request.first("symbol"):
                    return weights.ticker_one
                wanted = request.first("symbols")
                count = wanted.count(",") + 1 if wanted else math.inf
                few = weights.ticker_one if count <= 20 else weights.ticker_some
                return few if count <= 100 else weights.ticker_all
            case "ticker/price" | "ticker/bookTicker":
                return weights.price_one if request.first("symbol") else weights.price_all
        return 1

    # --- routes

    def answer(self, request: Request) -> Reply:
        """The reply to one request, with the weight that has been used."""
        try:
            reply = self._desk.answer(request) or self._route(request)
        except Refused as refused:
            reply = _error(400, refused.code, str(refused))
        used = self._used(self._account(request.address))
        return attrs.evolve(reply, headers=(*reply.headers, *used))

    def _route(self, request: Request) -> Reply:
        if request.method not in {"GET", "HEAD"}:
            return _error(405, -1000, f"{request.method} is not allowed")
        if not request.path.startswith(ROOT):
            return _NOT_FOUND
        match request.path.removeprefix(ROOT):
            case "ping":
                return json_reply(200, {})
            case "time":
                return json_reply(200, {"serverTime": self._stamp()})
            case "klines" | "uiKlines":
                return self._klines(request)
            case "exchangeInfo":
                return self._exchange_info(request)
            case "ticker/24hr":
                mini = request.first("type") == "MINI"
                return self._each(request, lambda one: self._day_row(one, mini=mini))
            case "ticker/price":
                return self._each(request, self._price_row)
            case "ticker/bookTicker":
                return self._each(request, self._book_row)
        return _NOT_FOUND

    def _stamp(self) -> int:
        return (self._clock.now() + self._clock.skew) // NS

    def _now(self) -> int:
        """As of when REST answers (ns)."""
        stale = self._faults.one("stale-rest")
        seconds = stale.options["seconds"] if stale else 0.0
        return self._clock.now() - _LAG - int(seconds * 1_000 * NS)

    def _symbol(self, request: Request) -> str:
        native = request.first("symbol")
        if not native:
            raise Refused(
                -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            )
        return self._known(native)

    def _known(self, native: str) -> str:
        if native not in self._symbols:
            raise Refused(-1121, "Invalid symbol.")
        return self._symbols[native]

    # --- candles

    def _klines(self, request: Request) -> Reply:
        symbol = self._symbol(request)
        interval = request.first("interval")
        if not interval:
            raise Refused(
                -1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed."
            )
        if interval not in INTERVALS:
            raise Refused(-1120, "Invalid interval.")
        if request.first("timeZone") not in {None, "0", "+00:00", "00:00"}:
            raise Refused(-1000, "timeZone is not played.")
        length = INTERVALS[interval]
        limit = min(_whole(request, "limit") or USUAL_ROWS, MOST_ROWS)
        start, end = _whole(request, "startTime"), _whole(request, "endTime")
        now = self._now()
        last = min(now // NS if end is None else end, now // NS) // length * length
        listed = -(-self._market.listed_since // length) * length
        if start is None:
            first = max(last - (limit - 1) * length, listed)
        else:
            first = max(-(-start // length) * length, listed)
            last = min(last, first + (limit - 1) * length)
        rows = self._bars(symbol, length, first, last, now)
        spelt = words.spelling(self._table, self._market.listing(symbol))
        body = [
            words.kline_row(spelt, length, open_time, row)
            for open_time, row in rows
            if not self._left_out(symbol)
        ]
        return json_reply(200, body)

    def _bars(
        self, symbol: str, length: int, first: int, last: int, now: int
    ) -> list[tuple[int, Row]]:
        """Every candle from ``first`` to ``last`` (ms), those without trades flat."""
        if last < first:
            return []
        if length >= SLOT or SLOT % length == 0:
            traded = self._market.candles(symbol, length, first, last, now)
        else:  # three minutes
            tape = self._market.tape(symbol)
            times = range(first, last + 1, length)
            traded = [Candle(at, words.bar(tape, at, length, now)) for at in times]
        rows = {candle.open_time: candle.row for candle in traded if candle.row.count}
        price = words.price_before(self._market, symbol, first)
        whole = []
        for open_time in range(first, last + 1, length):
            row = rows.get(open_time)
            if row is not None:
                price = row.close
            elif price is None:
                continue  # it has never traded
            else:
                row = words.flat(price)
            whole.append((open_time, row))
        return whole

    def _left_out(self, symbol: str) -> bool:
        return any(
            (not active.fault.symbols or symbol in active.fault.symbols)
            and self._faults.strikes(active.fault.options["share"])
            for active in self._faults.active("sparse-rest")
        )

    # --- symbols

    def _exchange_info(self, request: Request) -> Reply:
        wanted = self._wanted(request)
        status = request.first("symbolStatus")
        sets = request.first("showPermissionSets") != "false"
        rows = [
            words.symbol_row(self._table, self._market.listing(symbol), permission_sets=sets)
            for symbol in (self._symbols.values() if wanted is None else wanted)
        ]
        body = {
            "timezone": "UTC",
            "serverTime": self._stamp(),
            "rateLimits": words.rate_limits(self._table, self._limits.rest_rate),
            "exchangeFilters": [],
            "symbols": [row for row in rows if status in {None, row["status"]}],
        }
        return json_reply(200, body)

    def _wanted(self, request: Request) -> list[str] | None:
        """The symbols asked for; None: all."""
        one, many = request.first("symbol"), request.first("symbols")
        if one is not None and many is not None:
            raise Refused(-1128, "Combination of optional parameters invalid.")
        if one is not None:
            return [self._symbol(request)]
        if many is None:
            return None
        try:
            names = msgspec.json.decode(many, type=list[str])
        except msgspec.DecodeError:
            raise Refused(-1100, "Illegal characters found in parameter 'symbols'.") from None
        return [self._known(name) for name in names]

    def _each(self, request: Request, row: Callable[[Listing], dict[str, object]]) -> Reply:
        """A row for the one symbol, or a list of them."""
        wanted = self._wanted(request)
        status = request.first("symbolStatus")
        if request.first("symbol") is not None and wanted:
            return json_reply(200, row(self._market.listing(wanted[0])))
        listings = map(self._market.listing, self._symbols.values() if wanted is None else wanted)
        rows = [row(one) for one in listings if status in {None, words.status(one)}]
        return json_reply(200, rows)

    def _day_row(self, listing: Listing, *, mini: bool) -> dict[str, object]:
        now = self._now()
        slot, symbol = now // SLOT_NS, listing.symbol
        known = self._days.get(symbol)
        if known is None or known[0] != slot:
            known = self._days[symbol] = (slot, words.window(self._market, symbol, slot))
        day = known[1].with_running(self._market.partial(symbol, slot, now))
        return words.ticker_row(self._spelt(listing), day, now // NS, mini=mini)

    def _price_row(self, listing: Listing) -> dict[str, object]:
        price = self._market.last_price(listing.symbol, self._now())
        return {"symbol": listing.native, "price": self._spelt(listing).price(price)}

    def _book_row(self, listing: Listing) -> dict[str, object]:
        price, spelt = self._market.last_price(listing.symbol, self._now()), self._spelt(listing)
        return {
            "symbol": listing.native,
            "bidPrice": spelt.price(max(price - 1, 1)),
            "bidQty": spelt.size(listing.unit),
            "askPrice": spelt.price(price),
            "askQty": spelt.size(listing.unit),
        }

    def _spelt(self, listing: Listing) -> Spelling:
        return words.spelling(self._table, listing)


def _whole(request: Request, name: str) -> int | None:
    """A whole number; None where nothing was said."""
    text = request.first(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        raise Refused(
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.",
        )
    return int(text)


def _error(
    status: int, code: int, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> Reply:
    return json_reply(status, {"code": code, "msg": message}, headers)
