"""What every exchange that can be asked about accounts must keep, run over the registry.

An exchange that can gives examples of its replies in :data:`REPLIES`, and a key in :data:`KEYS`.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import jwt
import jwt.types
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.dialect import Account, Credentials, Request
from livermore.errors import MalformedMessage
from livermore.exchanges import DIALECTS
from livermore.market.account import Balance, Fault, Fill, Rights, Side
from livermore.market.product import Product
from livermore.market.wire import query
from tests.pure.exchanges.test_contract import damaged

NOW = 1_763_600_200_123
CURVE = ec.derive_private_key(7, ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRODUCT = Product("BTC-USD", "BTCUSD", "BTC", "USD")


def pem(key: Any, form: Any = serialization.PrivateFormat.PKCS8, password: bytes = b"") -> str:
    hidden = serialization.BestAvailableEncryption(password) if password else None
    shown = hidden or serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, form, shown).decode())


SEC1 = pem(CURVE, serialization.PrivateFormat.TraditionalOpenSSL)
BOTH = EDWARDS.private_bytes_raw() + EDWARDS.public_key().public_bytes_raw()
HMAC_KEY = {
    "key": "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A",
    "secret": "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j",
}
"""The one that Binance's documentation signs its example with."""
KEYS = {
    "coinbase": {"key": "organizations/o/apiKeys/k", "secret": SEC1},
    "binance": HMAC_KEY,
    "binance_us": HMAC_KEY,
}

ORDER = {
    "order_id": "o-1",
    "product_id": "BTC-USD",
    "side": "BUY",
    "status": "CANCELLED",
    "filled_size": "0.5",
    "average_filled_price": "100.25",
    "filled_value": "50.125",
    "total_fees": "0.3",
    "created_time": "2025-11-20T00:56:40.5Z",
    "last_fill_time": "2025-11-20T00:56:41.123456789Z",
}
TRADE = {
    "symbol": "BTCUSD",
    "id": 7,
    "orderId": 8,
    "price": "100.25",
    "qty": "0.5",
    "quoteQty": "50.125",
    "commission": "0.0005",
    "commissionAsset": "BTC",
    "time": NOW,
    "isBuyer": True,
    "isMaker": False,
}
BINANCE_REPLIES: dict[str, Any] = {
    "balances": {
        "canTrade": True,
        "commissionRates": {"maker": "0.0015", "taker": "0.002"},
        "balances": [
            {"asset": "BTC", "free": "1.5", "locked": "0.25"},
            {"asset": "ZERO", "free": "0.000", "locked": "0"},
        ],
    },
    "fills": [TRADE],
    "rights": {
        "canTrade": True,
        "enableReading": True,
        "enableSpotAndMarginTrading": True,
        "enableWithdrawals": False,
    },
}
BINANCE_REPLIES["fees"] = BINANCE_REPLIES["balances"]
REPLIES: dict[str, dict[str, Any]] = {
    "coinbase": {
        "balances": {
            "accounts": [
                {
                    "currency": "BTC",
                    "available_balance": {"value": "1.5", "currency": "BTC"},
                    "hold": {"value": "0.25", "currency": "BTC"},
                }
            ],
            "has_next": True,
            "cursor": "c-1",
        },
        "fills": {
            "orders": [ORDER, ORDER | {"order_id": "o-2", "status": "OPEN", "filled_size": "0"}],
            "has_next": False,
            "cursor": "",
        },
        "fees": {
            "total_volume": 1234.5,
            "total_fees": "0.75",
            "fee_tier": {
                "pricing_tier": "Intro 1",
                "maker_fee_rate": "0.0015",
                "taker_fee_rate": "0.002",
            },
        },
        "rights": {"can_view": True, "can_trade": True, "can_transfer": False},
    },
    "binance": BINANCE_REPLIES,
    "binance_us": BINANCE_REPLIES,
}
KNOWN = {name: one.account for name, one in DIALECTS.items() if one.account is not None}
every_account = pytest.mark.parametrize(("name", "account"), KNOWN.items(), ids=list(KNOWN))


def body(name: str, what: str) -> bytes:
    return json.dumps(REPLIES[name][what]).encode()


def key(name: str, **other: str) -> Credentials:
    return Credentials({**KEYS[name], **other})


def fills_request(account: Account) -> Request:
    return account.fills_requests([PRODUCT])[0]


def everything(name: str, account: Account, reply: bytes) -> list[Any]:
    """What all readers make of one reply."""
    asked = fills_request(account)
    reads = (
        lambda: account.read_balances(account.balances_request, reply),
        lambda: account.read_fills(asked, reply),
        lambda: account.read_fees(reply),
        lambda: account.read_rights(reply),
    )
    found: list[Any] = []
    for read in reads:
        try:
            found.append(read())
        except MalformedMessage as error:
            assert str(error).startswith(f"{name}: ")
    return found


# -- all of them ------------------------------------------------------------------------------


def test_every_exchange_with_accounts_has_examples():
    assert set(KNOWN) == set(REPLIES) == set(KEYS)


@every_account
def test_a_key_has_parts_whose_variables_are_no_settings_and_nobody_elses(name, account):
    variables = [part.variable for part in account.wants]
    assert [part.name for part in account.wants] == ["key", "secret"]
    assert not any(one.startswith("LIVERMORE_") for one in variables)
    others = {part.variable for other, one in KNOWN.items() if other != name for part in one.wants}
    assert not others & set(variables)


@every_account
def test_balances_fills_fees_and_rights_are_read(name, account):
    page = account.read_balances(account.balances_request, body(name, "balances"))
    assert page.rows == (Balance("BTC", Decimal("1.5"), Decimal("0.25")),)
    [found] = account.read_fills(fills_request(account), body(name, "fills")).rows
    assert isinstance(found, Fill)
    assert (found.side, found.quantity, found.value) == (
        *(Side.BUY, Decimal("0.5"), Decimal("50.125")),
    )
    fees = account.read_fees(body(name, "fees"))
    assert (fees.maker, fees.taker) == (Decimal("0.0015"), Decimal("0.002"))
    assert account.read_rights(body(name, "rights")).view is True


@every_account
@pytest.mark.parametrize("amount", ["-0.1", "NaN", "Infinity", "1e18", "much"])
def test_a_balance_that_cannot_be_spoils_the_reply(name, account, amount):
    for there in ("1.5", "0.25"):
        reply = body(name, "balances").replace(f'"{there}"'.encode(), f'"{amount}"'.encode())
        with pytest.raises(MalformedMessage, match=f"{name}: "):
            account.read_balances(account.balances_request, reply)


@every_account
def test_a_signed_request_asks_for_the_same_and_hides_its_headers(name, account):
    asked = fills_request(account)
    signed = account.sign(asked, "api.example.com", key(name), NOW, "n-1")
    assert (signed.path, signed.weight) == (asked.path, asked.weight)
    assert dict(asked.params).items() <= dict(signed.params).items()
    shown = repr(signed) + repr(key(name))
    assert all(value not in shown for value in [*KEYS[name].values(), *signed.headers.values()])
    assert signed != account.sign(asked, "api.example.com", key(name), NOW + 1000, "n-2")


@every_account
@pytest.mark.parametrize("part", ["key", "secret"])
@pytest.mark.parametrize("value", ["", "two words here", "-----BEGIN EC PRIVATE KEY-----\nSECRET"])
def test_a_part_that_cannot_be_is_told_without_any_of_it(name, account, part, value):
    found = account.complaints(key(name, **{part: value}))
    assert set(found) == {part}
    assert not any(word in found[part] for word in ("SECRET", "two", "words"))
    assert account.complaints(key(name)) == {}


@every_account
def test_an_answer_is_no_fault(name, account):
    for what in REPLIES[name]:
        assert account.fault(200, {}, body(name, what)) is None
    for status in (429, 500, 503):
        assert account.fault(status, {}, b"<html>busy</html>") is None
    assert account.fault(401, {}, b"Unauthorized") is Fault.KEY


@every_account
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_replies_lead_to_no_other_error_and_to_no_impossible_amount(name, account, data):
    reply = data.draw(damaged(list(REPLIES[name].values())))
    for found in everything(name, account, reply):
        rows = getattr(found, "rows", ())
        for row in rows:
            amounts = (
                (row.available, row.held)
                if isinstance(row, Balance)
                else (row.quantity, row.value, row.fee)
            )
            assert all(amount.is_finite() and amount >= 0 for amount in amounts)


# -- Coinbase ---------------------------------------------------------------------------------

COINBASE = KNOWN["coinbase"]


@pytest.mark.parametrize(
    ("secret", "algorithm", "public"),
    [
        (SEC1, "ES256", CURVE.public_key()),
        (SEC1.replace("\n", "\\n"), "ES256", CURVE.public_key()),
        (f'"{SEC1.strip()}"', "ES256", CURVE.public_key()),
        (pem(CURVE), "ES256", CURVE.public_key()),
        (pem(EDWARDS), "EdDSA", EDWARDS.public_key()),
    ],
    ids=["sec1", "literal-n", "quoted", "pkcs8", "ed25519-pem"],
)
def test_a_token_of_any_kind_of_key_names_the_request_and_lives_two_minutes(
    secret, algorithm, public
):
    claims_of(secret, algorithm, public)


@pytest.mark.parametrize("raw", [BOTH, BOTH[:32]], ids=["64-bytes", "32-bytes"])
def test_an_ed25519_key_may_come_as_base64(raw):
    import base64

    text = base64.b64encode(raw).decode()
    claims_of(text[:20] + "\n" + text[20:] + "\n", "EdDSA", EDWARDS.public_key())


def claims_of(secret: str, algorithm: str, public: Any) -> None:
    credentials = key("coinbase", secret=secret)
    assert COINBASE.complaints(credentials) == {}
    asked = Request("/api/v3/brokerage/accounts", {"limit": "250"})
    signed = COINBASE.sign(asked, "localhost:8443", credentials, NOW, "n-1")
    kind, token = signed.headers["Authorization"].split(" ")
    assert kind == "Bearer"
    head = jwt.get_unverified_header(token)
    assert head == {"alg": algorithm, "typ": "JWT", "kid": KEYS["coinbase"]["key"], "nonce": "n-1"}
    unchecked: jwt.types.Options = {"verify_exp": False, "verify_nbf": False}
    assert jwt.decode(token, public, algorithms=[algorithm], options=unchecked) == {
        "sub": KEYS["coinbase"]["key"],
        "iss": "cdp",
        "nbf": NOW // 1000,
        "exp": NOW // 1000 + 120,
        "uri": "GET localhost:8443/api/v3/brokerage/accounts",
    }


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (pem(CURVE, password=b"xyzzy"), "password"),
        (pem(ec.derive_private_key(7, ec.SECP384R1())), "another kind"),
        (pem(rsa.generate_private_key(65537, 2048)), "another kind"),
        ("bm9wZQ==", "neither"),
        (SEC1[: len(SEC1) // 2], "cannot be read"),
    ],
    ids=["encrypted", "p384", "rsa", "short", "cut"],
)
def test_a_private_key_of_no_use_is_refused_with_the_reason(secret, why):
    assert why in COINBASE.complaints(key("coinbase", secret=secret))["secret"]


def test_the_next_page_is_asked_for_with_the_cursor_and_an_endless_one_is_refused():
    asked = COINBASE.balances_request
    page = COINBASE.read_balances(asked, body("coinbase", "balances"))
    assert page.next is not None
    assert page.next.params == {"limit": "250", "cursor": "c-1"}
    with pytest.raises(MalformedMessage):
        COINBASE.read_balances(page.next, body("coinbase", "balances"))


def test_an_order_without_a_value_is_worth_its_size_at_its_mean_price():
    orders = {"orders": [{**ORDER, "filled_value": "", "last_fill_time": None}]}
    [found] = COINBASE.read_fills(fills_request(COINBASE), json.dumps(orders).encode()).rows
    assert (found.value, found.fee, found.fee_currency) == (
        *(Decimal("50.125"), Decimal("0.3"), None),
    )
    assert found.time == 1_763_600_200_500


@pytest.mark.parametrize(
    ("changed", "value"),
    [("side", "UNKNOWN"), ("last_fill_time", "soon"), ("filled_size", "-1"), ("total_fees", "NaN")],
)
def test_an_order_that_cannot_be_spoils_the_reply(changed, value):
    reply = json.dumps({"orders": [ORDER | {changed: value}]}).encode()
    with pytest.raises(MalformedMessage):
        COINBASE.read_fills(fills_request(COINBASE), reply)


def test_a_403_in_their_words_is_about_rights_and_any_other_is_not():
    said = json.dumps({"error": "PERMISSION_DENIED", "error_details": "Missing required scopes"})
    assert COINBASE.fault(403, {}, said.encode()) is Fault.RIGHTS
    assert COINBASE.fault(403, {}, b"<html>blocked</html>") is None


# -- Binance ----------------------------------------------------------------------------------

BINANCE = KNOWN["binance"]


def test_a_signature_is_that_of_the_documentation():
    asked = Request(
        "/api/v3/order",
        {
            "symbol": "LTCBTC",
            "side": "BUY",
            "type": "LIMIT",
            "timeInForce": "GTC",
            "quantity": "1",
            "price": "0.1",
        },
    )
    signed = BINANCE.sign(asked, "", key("binance"), 1_499_827_319_559, "")
    assert signed.params["signature"] == (
        "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    )
    assert list(signed.params)[-3:] == ["recvWindow", "timestamp", "signature"]
    assert signed.headers == {"X-MBX-APIKEY": HMAC_KEY["key"]}


def test_what_is_signed_is_what_stands_in_the_url():
    assert query({"symbol": "币安人生USDT", "a": "x y&z"}) == (
        "symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT&a=x%20y%26z"
    )


def test_a_full_page_of_trades_is_followed_by_the_next_and_another_is_the_last():
    asked = fills_request(BINANCE)
    assert asked.params == {"symbol": "BTCUSD", "fromId": "0", "limit": "1000"}
    full = json.dumps([TRADE | {"id": number} for number in range(1000)]).encode()
    page = BINANCE.read_fills(asked, full)
    assert page.next is not None
    assert page.next.params["fromId"] == "1000"
    assert BINANCE.read_fills(page.next, b"[]").next is None
    with pytest.raises(MalformedMessage):  # the same again would never end
        BINANCE.read_fills(page.next, full)


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (401, -2015, Fault.KEY),
        (401, -2014, Fault.KEY),
        (400, -1022, Fault.SIGNATURE),
        (400, -1021, Fault.CLOCK),
        (400, -1121, None),
        (400, -1102, None),
    ],
)
def test_codes_tell_why_a_request_was_not_taken(status, code, fault):
    assert BINANCE.fault(status, {}, json.dumps({"code": code, "msg": "m"}).encode()) is fault


def test_what_a_key_may_do_is_told_by_binance_com_alone():
    told = BINANCE.read_rights(body("binance", "rights"))
    assert told == Rights(view=True, trade=True, transfer=False)
    there = KNOWN["binance_us"]
    assert there.rights_request == there.balances_request
    assert there.read_rights(body("binance_us", "balances")) == Rights(True, None, None)
    assert "omitZeroBalances" not in there.balances_request.params


def test_a_pem_is_told_to_be_of_the_wrong_kind():
    assert "PEM" in BINANCE.complaints(key("binance", secret=SEC1))["secret"]
