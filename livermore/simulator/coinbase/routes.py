"""Coinbase's REST as it answers: routes, limits, and candles that are a moment behind."""

from __future__ import annotations

from livermore.market.timeframe import MINUTE
from livermore.simulator.chance import key_of, once
from livermore.simulator.coinbase import account, app, words
from livermore.simulator.exchange import Stage
from livermore.simulator.http import Reply, Request, json_reply
from livermore.simulator.listing import Listing
from livermore.simulator.pace import Pace
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY
from livermore.simulator.tape import SLOT_NS
from livermore.simulator.trades import NS

ROOT = "/api/v3/brokerage"
MOST_ROWS = 350
MOST_TRADES = 100
_LONGEST = 13
"""Characters of a whole number: more than any epoch second has."""
_SECOND = 1_000 * NS
_CACHED = (("cache-control", "public, max-age=14400"), ("vary", "Origin"))
_TOO_MANY = (
    "start and end argument is invalid - number of candles requested should be less than 350 "
)
_RATE_LIMITED = {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}


class Routes:
    """Answers requests; synchronous, one at a time."""

    def __init__(self, stage: Stage) -> None:
        self._market = stage.market
        self._clock = stage.clock
        self._faults = stage.faults
        self._pace = Pace(stage.limits.rest_rate, stage.limits.rest_window)
        self._monotonic = stage.monotonic
        self._key = key_of(stage.seed, "rest")
        self._products: tuple[int, list[dict[str, object]]] = (-1, [])
        self._accounts = account.Desk(stage)

    def turned_away(self, request: Request) -> Reply | None:
        """Nobody is."""
        return None

    def too_many(self, wait: float | None) -> Reply:
        """A 429; ``wait``: seconds in ``Retry-After``."""
        headers = () if wait is None else (("retry-after", f"{wait:g}"),)
        return json_reply(429, _RATE_LIMITED, headers)

    def admit(self, request: Request) -> Reply | None:
        """Count a request; the refusal when it is one too many."""
        if self._pace.take(request.address, self._monotonic()):
            return None
        return self.too_many(None)

    def answer(self, request: Request) -> Reply:
        """The reply to one request."""
        if (private := self._accounts.answer(request)) is not None:
            return private
        if request.method not in {"GET", "HEAD"}:
            return _refused(405, "METHOD_NOT_ALLOWED", f"{request.method} is not allowed")
        path = request.path.removeprefix(ROOT)
        if path == request.path:
            now = self._clock.now() + self._clock.skew
            if (reply := app.answer(path, self._market, now)) is not None:
                return reply
            return _refused(404, "NOT_FOUND", f"no route {request.path}")
        path = path.removeprefix("/market")
        if path == "/time":
            return json_reply(200, words.time_reply(self._clock.now() + self._clock.skew))
        match path.strip("/").split("/"):
            case ["products"]:
                return self._product_list(request)
            case ["products", symbol]:
                return self._product(symbol)
            case ["products", symbol, "candles"]:
                return self._candles(symbol, request)
            case ["products", symbol, "ticker"]:
                return self._ticker(symbol, request)
        return _refused(404, "NOT_FOUND", f"no route {request.path}")

    # --- candles

    def _candles(self, symbol: str, request: Request) -> Reply:
        spoken = words.spoken_name(symbol, self._market)
        if spoken is None:
            return _no_product(symbol)
        length = words.GRANULARITIES.get(request.first("granularity") or "")
        if length is None:
            return _invalid(f"granularity {request.first('granularity')!r} is not supported")
        limit = _whole(request.first("limit"), MOST_ROWS)
        start, end = _whole(request.first("start"), 0), _whole(request.first("end"), 0)
        if limit is None or start is None or end is None or limit < 0:
            return _invalid("start, end and limit must be whole numbers")
        limit = min(limit or MOST_ROWS, MOST_ROWS)
        now = self._seen_at(spoken)
        first, last = start * 1000, end * 1000
        if not last:
            last = self._clock.now() // NS if not first else first + (limit - 1) * length
        if not start:
            # The newest ``limit`` slots; a quiet product then simply has fewer rows.
            first = last // length * length - (limit - 1) * length
        if last < first:
            return _invalid("start must not be after end")
        first = -(-first // length) * length
        # Both ends count: 350 rows pass, a span of 351 does not.
        if last // length - first // length + 1 > MOST_ROWS:
            return _invalid(_TOO_MANY)
        rows = self._market.candles(spoken, length, first, last, now)
        rows = [row for row in rows if not self._left_out(spoken)]
        listing = self._market.listing(spoken)
        body = [words.candle_row(listing, row) for row in reversed(rows)][:limit]
        return json_reply(200, {"candles": body}, _CACHED)

    def _seen_at(self, symbol: str) -> int:
        """REST's view is a cache: for 0.2 to 2 s the last trades are not in it."""
        now = self._clock.now()
        lag = 0.2 + 1.8 * once(self._key ^ self._market.tape(symbol).key, now // _SECOND)
        stale = self._faults.one("stale-rest")
        if stale is not None:
            lag += stale.options["seconds"]
        return now - int(lag * _SECOND)

    def _left_out(self, symbol: str) -> bool:
        return any(
            (not active.fault.symbols or symbol in active.fault.symbols)
            and self._faults.strikes(active.fault.options["share"])
            for active in self._faults.active("sparse-rest")
        )

    # --- products

    def _product_list(self, request: Request) -> Reply:
        rows = self._product_rows()
        wanted = request.query.get("product_ids")
        if wanted:
            rows = [row for row in rows if row["product_id"] in wanted]
        kind = request.first("product_type")
        if kind and kind not in {"SPOT", "UNKNOWN_PRODUCT_TYPE"}:
            rows = []
        total = len(rows)
        offset = _whole(request.first("offset"), 0)
        limit = _whole(request.first("limit"), 0)
        if offset is None or limit is None or offset < 0 or limit < 0:
            return _invalid("limit and offset must be whole numbers")
        rows = rows[offset : offset + limit] if limit else rows[offset:]
        return json_reply(200, {"products": rows, "num_products": total}, _CACHED)

    def _product(self, symbol: str) -> Reply:
        for row in self._product_rows():
            if row["product_id"] == symbol:
                return json_reply(200, row, _CACHED)
        return _no_product(symbol)

    def _product_rows(self) -> list[dict[str, object]]:
        """All rows, made anew once per minute: 24-hour figures of a thousand products cost time."""
        now = self._clock.now()
        made, rows = self._products
        if made != now // (MINUTE * NS):
            rows = []
            for listing in self._market.listings:
                rows += self._rows_of(listing, now)
            self._products = (now // (MINUTE * NS), rows)
        return rows

    def _rows_of(self, listing: Listing, now: int) -> list[dict[str, object]]:
        day = self._market.day_before(listing.symbol, now // SLOT_NS)
        price = self._market.last_price(listing.symbol, now)
        rows = [words.product_row(listing, price, day)]
        if words.has_alias(listing):
            rows.append(words.product_row(listing, price, day, usdc=True))
        return rows

    def _ticker(self, symbol: str, request: Request) -> Reply:
        spoken = words.spoken_name(symbol, self._market)
        if spoken is None:
            return _no_product(symbol)
        limit = _whole(request.first("limit"), MOST_TRADES)
        if limit is None or limit < 1:
            return _invalid("limit must be a whole number")
        limit = min(limit, MOST_TRADES)
        now = self._seen_at(spoken)
        tape, listing = self._market.tape(spoken), self._market.listing(spoken)
        slot = now // SLOT_NS
        oldest = max(slot - 2 * SLOTS_PER_DAY, self._market.listed_since // SLOT)
        trades: list[dict[str, str]] = []
        while len(trades) < limit and slot >= oldest:
            if tape.row(slot).count:
                made = tape.trades(slot)
                stop = made.before(now)
                start = max(0, stop - (limit - len(trades)))
                for at in range(stop - 1, start - 1, -1):
                    trades.append(
                        {
                            "trade_id": str(made.first_id + at),
                            "product_id": symbol,
                            "price": words.number(int(made.price[at]), listing.price_decimals),
                            "size": words.number(int(made.size[at]), listing.size_decimals),
                            "time": words.rfc3339_micro(int(made.time[at])),
                            "side": "BUY" if made.buy[at] else "SELL",
                            "bid": "",
                            "ask": "",
                            "exchange": "coinbase",
                        }
                    )
            slot -= 1
        price = self._market.last_price(spoken, now)
        book = {
            "best_bid": words.number(max(1, price - 1), listing.price_decimals),
            "best_ask": words.number(price, listing.price_decimals),
        }
        return json_reply(200, {"trades": trades, **book}, _CACHED)


def _whole(text: str | None, default: int) -> int | None:
    """A whole number, the default where nothing was said, None where it is no number."""
    if text is None or text == "":
        return default
    plain = len(text) <= _LONGEST and text.isascii() and text.removeprefix("-").isdigit()
    return int(text) if plain else None


def _refused(status: int, error: str, message: str) -> Reply:
    return json_reply(status, {"error": error, "message": message})


def _no_product(symbol: str) -> Reply:
    return _refused(404, "NOT_FOUND", f"Product {symbol} not supported")


def _invalid(details: str) -> Reply:
    return json_reply(
        400, {"error": "INVALID_ARGUMENT", "error_details": details, "message": details}
    )
