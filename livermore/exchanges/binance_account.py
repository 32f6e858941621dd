"""Binance.com and Binance.US for those with a key: what they have, what they traded, what they pay.

A request is signed over its parameters, as they stand in the URL, with the exchange's time in them:
it is good for a few seconds. Only keys with an HMAC secret ("system generated") are known here.

Trades are told per product and from the oldest on; their fee is in whatever the account pays fees
with. What a key may do is told by Binance.com alone.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from decimal import Decimal

import attrs
import msgspec

from livermore.dialect import Account, Credentials, Page, Part, Request
from livermore.errors import MalformedMessage
from livermore.market.account import Balance, Fault, FeeTier, Fill, Rights, Side, possible
from livermore.market.product import Product
from livermore.market.wire import LATEST, MOST, decoded, query

WINDOW = 5_000
"""Milliseconds for which a request is good, as it is without saying so."""
TRADES = 1_000
"""The documented maximum of ``limit``."""

FAULTS = {
    -2015: Fault.KEY,  # key, address or right: they do not say which
    -2014: Fault.KEY,
    -1022: Fault.SIGNATURE,
    -1021: Fault.CLOCK,
    -1002: Fault.RIGHTS,
}


@attrs.frozen(kw_only=True)
class Member:
    """What tells one exchange of the family from the other."""

    name: str
    variables: str
    """How the variables begin that a key is taken from."""
    weight_of_account: int
    weight_of_trades: int
    omits_zeros: bool
    """Whether it can be asked to leave out what the account has nothing of."""
    tells_rights: bool


def complaints(credentials: Credentials) -> Mapping[str, str]:
    """What is wrong with a key by itself."""
    found = {}
    for part in ("key", "secret"):
        value = credentials[part].strip()
        if not value or not value.isascii() or any(one.isspace() for one in value):
            found[part] = "it is no line of letters and digits"
    if credentials["secret"].strip().startswith("-----BEGIN"):
        found["secret"] = "it is a PEM: make a key of the kind “system generated” (HMAC)"
    return found


def sign(request: Request, host: str, credentials: Credentials, now: int, nonce: str) -> Request:
    """With time and signature among the parameters, the key in a header."""
    params = {**request.params, "recvWindow": str(WINDOW), "timestamp": str(now)}
    signed = hmac.new(
        credentials["secret"].strip().encode(), query(params).encode(), hashlib.sha256
    )
    return attrs.evolve(
        request,
        params={**params, "signature": signed.hexdigest()},
        headers={**request.headers, "X-MBX-APIKEY": credentials["key"].strip()},
    )


class RestComplaint(msgspec.Struct):
    code: int = 0


def fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault | None:
    """By their code; a 401 without one is about the key."""
    try:
        code = msgspec.json.decode(body, type=RestComplaint).code
    except (ValueError, RecursionError):
        code = 0
    if 200 <= status < 300:
        return None
    return FAULTS.get(code, Fault.KEY if status == 401 else None)


class RestBalance(msgspec.Struct):
    asset: str
    free: Decimal
    locked: Decimal


class RestBalances(msgspec.Struct):
    balances: list[RestBalance]


class RestRates(msgspec.Struct):
    maker: Decimal
    taker: Decimal


class RestAccount(msgspec.Struct, rename="camel"):
    can_trade: bool = True
    commission_rates: RestRates | None = None


class RestTrade(msgspec.Struct, rename="camel"):
    id: int
    symbol: str
    qty: Decimal
    quote_qty: Decimal
    commission: Decimal
    commission_asset: str
    time: int
    is_buyer: bool


class RestRights(msgspec.Struct, rename="camel"):
    enable_reading: bool
    enable_spot_and_margin_trading: bool = False
    enable_margin: bool = False
    enable_futures: bool = False
    enable_vanilla_options: bool = False
    enable_portfolio_margin_trading: bool = False
    enable_fix_api_trade: bool = False
    enable_withdrawals: bool = False
    enable_internal_transfer: bool = False
    permits_universal_transfer: bool = False


def read_balances(member: Member, request: Request, body: bytes) -> Page[Balance]:
    """All in one page; what the account has nothing of is left out."""
    rows = []
    for wire in decoded(body, RestBalances, member.name, "account").balances:
        if not wire.asset or not possible(wire.free, wire.locked):
            raise MalformedMessage(f"{member.name}: impossible balance of {wire.asset}", body)
        if wire.free or wire.locked:
            rows.append(Balance(wire.asset, wire.free, wire.locked))
    return Page(tuple(rows))


def fills_requests(member: Member, products: Sequence[Product]) -> Sequence[Request]:
    """One for each product, from its first trade on."""
    return tuple(
        Request(
            "/api/v3/myTrades",
            {"symbol": product.native, "fromId": "0", "limit": str(TRADES)},
            member.weight_of_trades,
        )
        for product in products
    )


def read_fills(member: Member, request: Request, body: bytes) -> Page[Fill]:
    """Trades, oldest first; a full page is followed by the next."""
    wires = decoded(body, list[RestTrade], member.name, "trades")
    first = int(request.params["fromId"])
    rows = []
    for wire in wires:
        if (
            not first <= wire.id < MOST
            or not possible(wire.qty, wire.quote_qty, wire.commission)
            or not wire.qty
            or not 0 < wire.time < LATEST
        ):
            raise MalformedMessage(f"{member.name}: a trade that cannot be", body)
        rows.append(
            Fill(
                native=wire.symbol,
                identity=f"{wire.id:020}",
                side=Side.BUY if wire.is_buyer else Side.SELL,
                quantity=wire.qty,
                value=wire.quote_qty,
                time=wire.time,
                fee=wire.commission,
                fee_currency=wire.commission_asset,
            )
        )
    if len(wires) < TRADES:
        return Page(tuple(rows))
    after = max(wire.id for wire in wires) + 1
    return Page(tuple(rows), attrs.evolve(request, params={**request.params, "fromId": str(after)}))


def read_fees(member: Member, body: bytes) -> FeeTier:
    """What the account pays; the volume behind it is not told."""
    rates = decoded(body, RestAccount, member.name, "account").commission_rates
    if rates is None:
        return FeeTier(maker=None, taker=None)
    if not possible(rates.maker, rates.taker):
        raise MalformedMessage(f"{member.name}: impossible rates", body)
    return FeeTier(maker=rates.maker, taker=rates.taker)


def read_rights(member: Member, body: bytes) -> Rights:
    """What the key may do; where that is not told, that it may view, as it got an answer."""
    if not member.tells_rights:
        account = decoded(body, RestAccount, member.name, "account")
        return Rights(view=True, trade=None if account.can_trade else False, transfer=None)
    told = decoded(body, RestRights, member.name, "key permissions")
    return Rights(
        view=told.enable_reading,
        trade=told.enable_spot_and_margin_trading
        or told.enable_margin
        or told.enable_futures
        or told.enable_vanilla_options
        or told.enable_portfolio_margin_trading
        or told.enable_fix_api_trade,
        transfer=told.enable_withdrawals
        or told.enable_internal_transfer
        or told.permits_universal_transfer,
    )


def account(member: Member) -> Account:
    """How ``member`` is asked."""
    asked = Request(
        "/api/v3/account",
        {"omitZeroBalances": "true"} if member.omits_zeros else {},
        member.weight_of_account,
    )
    return Account(
        wants=(
            Part("key", "API key", f"{member.variables}_API_KEY"),
            Part("secret", "secret key", f"{member.variables}_API_SECRET"),
        ),
        complaints=complaints,
        sign=sign,
        fault=fault,
        balances_request=asked,
        read_balances=functools.partial(read_balances, member),
        fills_requests=functools.partial(fills_requests, member),
        read_fills=functools.partial(read_fills, member),
        fees_request=asked,
        read_fees=functools.partial(read_fees, member),
        rights_request=Request("/sapi/v1/account/apiRestrictions")
        if member.tells_rights
        else asked,
        read_rights=functools.partial(read_rights, member),
    )


BINANCE = account(
    Member(
        name="binance",
        variables="BINANCE",
        weight_of_account=20,
        weight_of_trades=20,
        omits_zeros=True,
        tells_rights=True,
    )
)

BINANCE_US = account(
    Member(
        name="binance_us",
        variables="BINANCE_US",
        weight_of_account=10,
        weight_of_trades=10,
        omits_zeros=False,  # not documented
        tells_rights=False,
    )
)
