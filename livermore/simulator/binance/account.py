"""What the two Binances tell those with a key: signatures checked as they check them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from decimal import Decimal

from livermore.simulator.binance.table import Table
from livermore.simulator.exchange import Stage
from livermore.simulator.http import Reply, Request, json_reply
from livermore.simulator.purse import Key, Order, Purse
from livermore.simulator.trades import NS

RATE = Decimal("0.001")
"""Of maker and taker."""
USUAL_WINDOW, MOST_WINDOW = 5_000, 60_000
AHEAD = 1_000
"""Milliseconds by which a request may come from the future."""
USUAL_ROWS, MOST_ROWS = 500, 1_000
ACCOUNT, TRADES = "/api/v3/account", "/api/v3/myTrades"
RIGHTS = "/sapi/v1/account/apiRestrictions"
_INVALID_KEY = (401, -2015, "Invalid API-key, IP, or permissions for action.")


def keys(name: str, seed: int) -> Sequence[Key]:
    """One that may view, one that may trade, and one that may not view."""

    def made(of: str, *rights: str) -> Key:
        key, secret = (
            hashlib.sha256(f"{name} {seed} {of} {part}".encode()).hexdigest()
            for part in ("key", "secret")
        )
        return Key(of, frozenset(rights), key, secret)

    return (
        made("view", "view"),
        made("trade", "view", "trade"),
        made("transfer", "transfer"),
    )


class Desk:
    """Answers whoever proves who he is; synchronous."""

    def __init__(self, table: Table, stage: Stage) -> None:
        self._table = table
        self._clock = stage.clock
        self._keys = {one.key: one for one in keys(table.name, stage.seed)}
        self._purse = Purse(stage.market, stage.seed, RATE, fee_of_what_comes=True)
        self._natives = {one.native for one in stage.market.listings}

    def weight(self, request: Request) -> int | None:
        """What it costs; None: it is none of ours."""
        if request.path in (ACCOUNT, TRADES):
            return self._table.weights.account
        return 1 if request.path == RIGHTS else None

    def answer(self, request: Request) -> Reply | None:
        """The reply; None to what needs no key."""
        known = {ACCOUNT, TRADES} | ({RIGHTS} if self._table.tells_rights else set())
        if request.path not in known or request.method not in {"GET", "HEAD"}:
            return None
        refusal = self._refusal(request)
        if refusal is not None:
            status, code, said = refusal
            return json_reply(status, {"code": code, "msg": said})
        if request.path == ACCOUNT:
            return json_reply(200, self._account(request))
        if request.path == TRADES:
            return self._trades(request)
        return json_reply(200, _rights(self._keys[request.headers["x-mbx-apikey"]]))

    # --- who asks

    def _refusal(self, request: Request) -> tuple[int, int, str] | None:
        given = request.headers.get("x-mbx-apikey", "")
        if not given.isalnum():
            return 401, -2014, "API-key format invalid."
        key = self._keys.get(given)
        if key is None or "view" not in key.rights:
            return _INVALID_KEY
        for name in ("timestamp", "signature"):
            if not request.first(name):
                return _missing(name)
        stamp, window = request.first("timestamp") or "", request.first("recvWindow")
        if not stamp.isdigit() or not (window or "0").isdigit():
            return _missing("recvWindow" if stamp.isdigit() else "timestamp")
        length = int(window) if window else USUAL_WINDOW
        if length > MOST_WINDOW:
            return 400, -1131, "recvWindow must be less than 60000."
        # Ages count in real milliseconds: whoever made the request goes by his own clock.
        now = (self._clock.now() + self._clock.skew) / NS
        age = (now - int(stamp)) / self._clock.speed
        if age < -AHEAD:
            return 400, -1021, "Timestamp for this request was 1000ms ahead of the server's time."
        if age > length:
            return 400, -1021, "Timestamp for this request is outside of the recvWindow."
        if not _signed(key, request):
            return 400, -1022, "Signature for this request is not valid."
        return None

    # --- what is told

    def _account(self, request: Request) -> dict[str, object]:
        without = request.first("omitZeroBalances") == "true"
        rows = [
            {"asset": currency, "free": f"{free:.8f}", "locked": f"{held:.8f}"}
            for currency, (free, held) in sorted(self._purse.balances.items())
        ]
        if not without:
            rows.append({"asset": "ZERO", "free": "0.00000000", "locked": "0.00000000"})
        rate = f"{RATE:.8f}"
        return {
            "makerCommission": 10,
            "takerCommission": 10,
            "buyerCommission": 0,
            "sellerCommission": 0,
            "commissionRates": {
                "maker": rate,
                "taker": rate,
                "buyer": "0.00000000",
                "seller": "0.00000000",
            },
            "canTrade": True,
            "canWithdraw": True,
            "canDeposit": True,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": self._purse.orders[-1].time,
            "accountType": "SPOT",
            "balances": rows,
            "permissions": ["SPOT"],
            "uid": 354937868,
        }

    def _trades(self, request: Request) -> Reply:
        native = request.first("symbol")
        if not native:
            _, code, said = _missing("symbol")
            return json_reply(400, {"code": code, "msg": said})
        if native not in self._natives:
            return json_reply(400, {"code": -1121, "msg": "Invalid symbol."})
        text, limit = request.first("fromId"), request.first("limit") or str(USUAL_ROWS)
        count = min(int(limit), MOST_ROWS) if limit.isdigit() else USUAL_ROWS
        ours = [order for order in self._purse.orders if order.listing.native == native]
        if text is not None and text.isdigit():
            ours = [order for order in ours if order.number >= int(text)][:count]
        return json_reply(200, [_trade_row(order) for order in ours[-count:]])


def _missing(name: str) -> tuple[int, int, str]:
    said = f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    return 400, -1102, said


def _signed(key: Key, request: Request) -> bool:
    """Whether the signature is that of everything else in the query, as it came."""
    said = request.target.partition("?")[2].split("&")
    [*rest] = (one for one in said if not one.startswith("signature="))
    ours = hmac.new(key.secret.encode(), "&".join(rest).encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(ours, (request.first("signature") or "").lower())


def _rights(key: Key) -> dict[str, object]:
    return {
        "ipRestrict": False,
        "createTime": 1_698_645_219_000,
        "enableReading": "view" in key.rights,
        "enableWithdrawals": "transfer" in key.rights,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": True,
        "enableSpotAndMarginTrading": "trade" in key.rights,
        "enablePortfolioMarginTrading": False,
    }


def _trade_row(order: Order) -> dict[str, object]:
    return {
        "symbol": order.listing.native,
        "id": order.number,
        "orderId": 1_000 + order.number,
        "orderListId": -1,
        "price": f"{order.price:.8f}",
        "qty": f"{order.size:.8f}",
        "quoteQty": f"{order.value:.8f}",
        "commission": f"{order.fee:.8f}",
        "commissionAsset": order.fee_currency,
        "time": order.time,
        "isBuyer": order.buy,
        "isMaker": False,
        "isBestMatch": True,
    }
