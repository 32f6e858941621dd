"""Coinbase Advanced Trade for those with a key: what they have, what they traded, what they pay.

Every request carries a fresh JWT that names the request and lives for two minutes. Keys come as
PEM (elliptic curve P-256, in either of its two forms, or Ed25519), from an environment often with
``\\n`` spelled out, or, Ed25519 alone, as base64 of 32 or 64 bytes.

An order stands for all of its trades: filled size and value are sums, its fee is in the quote.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from livermore.dialect import Account, Credentials, Page, Part, Request
from livermore.errors import MalformedMessage
from livermore.market.account import (
    ZERO,
    Balance,
    Fault,
    FeeTier,
    Fill,
    Rights,
    Side,
    possible,
)
from livermore.market.product import Product
from livermore.market.wire import decoded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ROOT = "/api/v3/brokerage"
NAME = "coinbase"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LIFE = 120
"""Seconds, the longest that is accepted."""
ROWS = "250"
"""The documented maximum."""
NO_PEM = "neither a PEM (-----BEGIN … PRIVATE KEY-----) nor base64 of an Ed25519 key"


def complaints(credentials: Credentials) -> Mapping[str, str]:
    """What is wrong with a key by itself."""
    found = {}
    if not credentials["key"].strip() or any(one.isspace() for one in credentials["key"].strip()):
        found["key"] = "it is no key name, such as organizations/…/apiKeys/…"
    try:
        _private_key(credentials["secret"])
    except ValueError as error:
        found["secret"] = str(error)
    return found


def sign(request: Request, host: str, credentials: Credentials, now: int, nonce: str) -> Request:
    """With a token for this one request. Raises ``ValueError`` for a key with complaints."""
    import jwt  # slow to import

    key, algorithm = _private_key(credentials["secret"])
    name = credentials["key"].strip()
    claims = {
        "sub": name,
        "iss": "cdp",
        "nbf": now // 1000,
        "exp": now // 1000 + LIFE,
        "uri": f"GET {host}{request.path}",
    }
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": name, "nonce": nonce})
    return attrs.evolve(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


def _private_key(text: str) -> tuple[EllipticCurvePrivateKey | Ed25519PrivateKey, str]:
    """The key and its algorithm; raises ``ValueError`` with nothing of ``text`` in it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = text.replace("\\n", "\n").strip().strip("\"'").strip()
    if not text.startswith("-----BEGIN"):
        try:
            raw = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"it is {NO_PEM}") from None
        if len(raw) not in (32, 64):  # the private half, or both
            raise ValueError(f"it is {NO_PEM}")
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw[:32]), "EdDSA"
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise ValueError("it is a PEM that needs a password: take the one without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is a PEM that cannot be read: is a line missing?") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key, "EdDSA"
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key, "ES256"
    raise ValueError("it is a key of another kind: Coinbase gives out P-256 and Ed25519")


def fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault | None:
    """A 401 says no more than that; a 403 in their own words is about the key's rights."""
    if status == 401:
        return Fault.KEY
    if status == 403 and (b"PERMISSION_DENIED" in body or b"required scopes" in body):
        return Fault.RIGHTS
    return None


class Money(msgspec.Struct):
    value: Decimal


class RestAccount(msgspec.Struct):
    currency: str
    available_balance: Money
    hold: Money | None = None


class RestAccounts(msgspec.Struct):
    accounts: list[RestAccount]
    has_next: bool = False
    cursor: str | None = ""


class RestOrder(msgspec.Struct):
    order_id: str
    product_id: str
    side: str
    filled_size: Any = None
    average_filled_price: Any = None
    filled_value: Any = None
    total_fees: Any = None
    created_time: str = ""
    last_fill_time: str | None = None


class RestOrders(msgspec.Struct):
    orders: list[RestOrder]
    has_next: bool = False
    cursor: str | None = ""


class RestTier(msgspec.Struct):
    pricing_tier: str = ""
    maker_fee_rate: Any = None
    taker_fee_rate: Any = None


class RestSummary(msgspec.Struct):
    fee_tier: RestTier
    total_volume: Decimal | None = None
    total_fees: Decimal | None = None


class RestRights(msgspec.Struct):
    can_view: bool
    can_trade: bool
    can_transfer: bool


def read_balances(request: Request, body: bytes) -> Page[Balance]:
    """Wallets; several of one currency are told apart by nobody here, and added up."""
    reply = decoded(body, RestAccounts, NAME, "accounts")
    rows = []
    for wire in reply.accounts:
        available, hold = wire.available_balance.value, wire.hold.value if wire.hold else ZERO
        if not wire.currency or not possible(available, hold):
            raise MalformedMessage(f"{NAME}: impossible balance of {wire.currency}", body)
        rows.append(Balance(wire.currency, available, hold))
    return Page(tuple(rows), _next(request, reply, body))


def fills_requests(products: Sequence[Product]) -> Sequence[Request]:
    """All orders, whatever they were of."""
    return (Request(f"{ROOT}/orders/historical/batch", {"limit": ROWS}),)


def read_fills(request: Request, body: bytes) -> Page[Fill]:
    """Of the orders those that were filled, if only in part."""
    reply = decoded(body, RestOrders, NAME, "orders")
    rows = []
    for wire in reply.orders:
        size, fee = _amount(wire.filled_size, body), _amount(wire.total_fees, body)
        if not size:
            continue
        value = _amount(wire.filled_value, body) or size * _amount(wire.average_filled_price, body)
        time = _milliseconds(wire.last_fill_time or wire.created_time)
        if wire.side not in ("BUY", "SELL") or time is None or not value:
            raise MalformedMessage(f"{NAME}: an order that cannot be", body)
        rows.append(
            Fill(
                native=wire.product_id,
                identity=wire.order_id,
                side=Side(wire.side.lower()),
                quantity=size,
                value=value,
                time=time,
                fee=fee,
            )
        )
    return Page(tuple(rows), _next(request, reply, body))


def _next(request: Request, reply: RestAccounts | RestOrders, body: bytes) -> Request | None:
    if not reply.has_next:
        return None
    if not reply.cursor or reply.cursor == request.params.get("cursor"):
        raise MalformedMessage(f"{NAME}: there is more, and it is not said where", body)
    return attrs.evolve(request, params={**request.params, "cursor": reply.cursor})


def read_fees(body: bytes) -> FeeTier:
    """The tier, and what was traded in the 30 days that it is made of."""
    reply = decoded(body, RestSummary, NAME, "transaction summary")
    rates = [
        _amount(rate, body) if rate not in (None, "") else None
        for rate in (reply.fee_tier.maker_fee_rate, reply.fee_tier.taker_fee_rate)
    ]
    for told in (reply.total_volume, reply.total_fees):
        if told is not None and not possible(told):
            raise MalformedMessage(f"{NAME}: an impossible transaction summary", body)
    return FeeTier(
        maker=rates[0],
        taker=rates[1],
        name=reply.fee_tier.pricing_tier,
        volume=reply.total_volume,
        paid=reply.total_fees,
    )


def read_rights(body: bytes) -> Rights:
    """What the key may do."""
    reply = decoded(body, RestRights, NAME, "key permissions")
    return Rights(reply.can_view, reply.can_trade, reply.can_transfer)


def _amount(value: object, body: bytes) -> Decimal:
    """Text or a number; nothing is 0."""
    if value is None or value == "":
        return ZERO
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        amount = Decimal("NaN")
    if not possible(amount):
        raise MalformedMessage(f"{NAME}: an amount that cannot be", body)
    return amount


def _milliseconds(text: str) -> int | None:
    try:
        since = datetime.fromisoformat(text) - EPOCH
    except (TypeError, ValueError):  # without a zone, or no time at all
        return None
    return since // timedelta(milliseconds=1) if since.days >= 0 else None


ACCOUNT = Account(
    wants=(
        Part("key", "key name", "COINBASE_API_KEY"),
        Part("secret", "private key", "COINBASE_API_SECRET"),
    ),
    complaints=complaints,
    sign=sign,
    fault=fault,
    balances_request=Request(f"{ROOT}/accounts", {"limit": ROWS}),
    read_balances=read_balances,
    fills_requests=fills_requests,
    read_fills=read_fills,
    fees_request=Request(f"{ROOT}/transaction_summary", {"product_type": "SPOT"}),
    read_fees=read_fees,
    rights_request=Request(f"{ROOT}/key_permissions"),
    read_rights=read_rights,
)
