"""What Coinbase tells those with a key, once it believes them: tokens checked, rows in pages."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from livermore.simulator.coinbase.words import rfc3339
from livermore.simulator.exchange import Stage
from livermore.simulator.http import Reply, Request, json_reply
from livermore.simulator.purse import Key, Order, Purse
from livermore.simulator.trades import NS

ROOT = "/api/v3/brokerage"
LIFE = 120
"""Seconds, the longest that a token may live."""
ISSUERS = ("cdp", "coinbase-cloud")
MAKER, TAKER = Decimal("0.006"), Decimal("0.012")
PAGES = {"accounts": (49, 250), "orders": (100, 250)}
"""Rows that come without asking, and the most."""
_SECOND = 1_000_000_000
_VIEWED = frozenset(
    {
        "/accounts",
        "/orders/historical/batch",
        "/transaction_summary",
        "/key_permissions",
    }
)
_UNAUTHORIZED = Reply(401, b"Unauthorized\n", content_type="text/plain; charset=utf-8")


def keys(seed: int) -> Sequence[Key]:
    """One that may view, of either kind; one that may trade, and one that may not view."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    def name(of: str) -> str:
        org, own = (uuid.uuid5(uuid.NAMESPACE_DNS, f"{seed} {part}") for part in ("org", of))
        return f"organizations/{org}/apiKeys/{own}"

    def pem(of: str) -> str:
        key = _private(seed, of)
        form = PrivateFormat.TraditionalOpenSSL
        return str(key.private_bytes(Encoding.PEM, form, NoEncryption()).decode())

    both = _edwards(seed).private_bytes_raw() + _edwards(seed).public_key().public_bytes_raw()
    may = frozenset({"view"})
    return (
        Key("view", may, name("view"), pem("view")),
        Key("ed25519", may, name("ed25519"), base64.b64encode(both).decode()),
        Key("trade", may | {"trade"}, name("trade"), pem("trade")),
        Key("transfer", frozenset({"transfer"}), name("transfer"), pem("transfer")),
    )


def _private(seed: int, of: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    number = int.from_bytes(hashlib.sha256(f"{seed} {of}".encode()).digest()[:31], "big")
    return ec.derive_private_key(number + 1, ec.SECP256R1())


def _edwards(seed: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.from_private_bytes(
        hashlib.sha256(f"{seed} ed25519".encode()).digest()
    )


class Desk:
    """Answers whoever proves who he is; synchronous."""

    def __init__(self, stage: Stage) -> None:
        self._clock = stage.clock
        self._seed = stage.seed
        self._purse = Purse(stage.market, stage.seed, TAKER, fee_of_what_comes=False)
        self._keys: dict[str, tuple[Key, Any, str]] = {}

    def answer(self, request: Request) -> Reply | None:
        """The reply; None to what needs no key."""
        path = request.path.removeprefix(ROOT)
        trading = path.startswith("/orders") and path not in _VIEWED
        if path == request.path or not (trading or path in _VIEWED):
            return None
        key = self._believed(request)
        if key is None:
            return _UNAUTHORIZED
        if ("trade" if trading else "view") not in key.rights:
            said = "Missing required scopes"
            denied = {"error": "PERMISSION_DENIED", "error_details": said, "message": said}
            return json_reply(403, denied)
        if trading or request.method not in {"GET", "HEAD"}:
            return json_reply(405, {"error": "METHOD_NOT_ALLOWED", "message": "nobody trades here"})
        match path:
            case "/accounts":
                return self._page(request, "accounts", "uuid", self._accounts())
            case "/orders/historical/batch":
                rows = [_order_row(order) for order in reversed(self._purse.orders)]
                return self._page(request, "orders", "order_id", rows)
            case "/transaction_summary":
                return json_reply(200, self._summary())
        return json_reply(
            200,
            {
                **{f"can_{right}": right in key.rights for right in ("view", "trade", "transfer")},
                "portfolio_uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, "portfolio")),
                "portfolio_type": "DEFAULT",
            },
        )

    # --- who asks

    def _believed(self, request: Request) -> Key | None:
        import jwt

        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not self._keys:
            self._keys = {key.key: (key, *self._public(key)) for key in keys(self._seed)}
        try:
            head = jwt.get_unverified_header(token)
            known, public, algorithm = self._keys[head["kid"]]
            said = jwt.decode(
                token,
                public,
                algorithms=[algorithm],
                options={"verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except (jwt.InvalidTokenError, KeyError, TypeError):
            return None
        uris = said.get("uris")
        named = uris if isinstance(uris, list) else [said.get("uri")]
        believed = (
            kind == "Bearer"
            and bool(head.get("nonce"))
            and said.get("sub") == known.key
            and said.get("iss") in ISSUERS
            and f"{request.method} {request.headers.get('host')}{request.path}" in named
            and self._lives(said.get("nbf"), said.get("exp"))
        )
        return known if believed else None

    def _public(self, key: Key) -> tuple[Any, str]:
        if key.name == "ed25519":
            return _edwards(self._seed).public_key(), "EdDSA"
        return _private(self._seed, key.name).public_key(), "ES256"

    def _lives(self, begun: object, ends: object) -> bool:
        """Its age counts in real seconds: whoever made it goes by his own clock."""
        if not isinstance(begun, int) or not isinstance(ends, int):
            return False
        now = (self._clock.now() + self._clock.skew) / _SECOND
        age = (now - begun) / self._clock.speed
        return 0 < ends - begun <= LIFE and -LIFE / 4 <= age < ends - begun

    # --- what is told

    def _page(
        self, request: Request, what: str, identity: str, rows: list[dict[str, Any]]
    ) -> Reply:
        usual, most = PAGES[what]
        text = request.first("limit") or ""
        count = min(int(text), most) if text.isdigit() and int(text) else usual
        after = request.first("cursor")
        at = 0
        if after:
            places = [place for place, row in enumerate(rows) if row[identity] == after]
            if not places:
                said = {"error": "INVALID_ARGUMENT", "message": "invalid cursor"}
                return json_reply(400, said)
            at = places[0] + 1
        some = rows[at : at + count]
        more = at + count < len(rows)
        body = {what: some, "has_next": more, "cursor": some[-1][identity] if more else ""}
        return json_reply(200, {**body, "size": len(some)} if what == "accounts" else body)

    def _accounts(self) -> list[dict[str, Any]]:
        fiat = {"USD", "EUR", "GBP"}
        rows = []
        for currency, (free, held) in sorted(self._purse.balances.items()):
            wallet = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self._seed} {currency}")
            rows.append(
                {
                    "uuid": str(wallet),
                    "name": f"{currency} Wallet",
                    "currency": currency,
                    "available_balance": {"value": f"{free:f}", "currency": currency},
                    "default": True,
                    "active": True,
                    "created_at": "2021-05-31T09:59:59Z",
                    "updated_at": "2024-01-15T10:30:00Z",
                    "deleted_at": None,
                    "type": f"ACCOUNT_TYPE_{'FIAT' if currency in fiat else 'CRYPTO'}",
                    "ready": True,
                    "hold": {"value": f"{held:f}", "currency": currency},
                    "retail_portfolio_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, "portfolio")),
                    "platform": "ACCOUNT_PLATFORM_CONSUMER",
                }
            )
        return rows

    def _summary(self) -> dict[str, object]:
        traded, paid = float(self._purse.traded), float(self._purse.paid)
        return {
            "total_volume": traded,
            "total_fees": paid,
            "fee_tier": {
                "pricing_tier": "Intro 1",
                "usd_from": "0",
                "usd_to": "10000",
                "taker_fee_rate": f"{TAKER}",
                "maker_fee_rate": f"{MAKER}",
                "aop_from": "",
                "aop_to": "",
            },
            "margin_rate": None,
            "goods_and_services_tax": None,
            "advanced_trade_only_volume": traded,
            "advanced_trade_only_fees": paid,
            "coinbase_pro_volume": 0,
            "coinbase_pro_fees": 0,
            "total_balance": "",
            "has_promo_fee": False,
        }


def _order_row(order: Order) -> dict[str, Any]:
    time = rfc3339(order.time * NS)
    return {
        "order_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"order {order.number}")),
        "product_id": order.listing.symbol,
        "user_id": "",
        "order_configuration": {"market_market_ioc": {"base_size": f"{order.size:f}"}},
        "side": "BUY" if order.buy else "SELL",
        "client_order_id": f"{order.number}",
        "status": "FILLED",
        "time_in_force": "IMMEDIATE_OR_CANCEL",
        "created_time": time,
        "completion_percentage": "100.00",
        "filled_size": f"{order.size:f}",
        "average_filled_price": f"{order.price:f}",
        "fee": "",
        "number_of_fills": "1",
        "filled_value": f"{order.value:f}",
        "pending_cancel": False,
        "size_in_quote": False,
        "total_fees": f"{order.fee:f}",
        "size_inclusive_of_fees": False,
        "total_value_after_fees": f"{order.value + (order.fee if order.buy else -order.fee):f}",
        "trigger_status": "INVALID_ORDER_TYPE",
        "order_type": "MARKET",
        "reject_reason": "REJECT_REASON_UNSPECIFIED",
        "settled": True,
        "product_type": "SPOT",
        "reject_message": "",
        "cancel_message": "",
        "order_placement_source": "RETAIL_ADVANCED",
        "outstanding_hold_amount": "0",
        "is_liquidation": False,
        "last_fill_time": time,
    }
