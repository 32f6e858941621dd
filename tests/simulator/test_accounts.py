"""Accounts at simulated exchanges: what our client finds there, and what they refuse."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import attrs
import httpx
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from livermore.adapters.redis import Redis
from livermore.errors import ConfigurationError, KeyRefused, UsageError
from livermore.exchanges import DIALECTS
from livermore.market.account import Position, Rights
from livermore.runtime.account import Holdings, Keyholder, key_of, keyholder, variables_of, warning
from livermore.simulator import Simulator
from livermore.simulator.purse import Key, Order, Purse
from tests.simulator.exchange_client import START, simulated

SEED = 7
ACCOUNTS = "/api/v3/brokerage/accounts"
EXCHANGES = ("coinbase", "binance", "binance_us")
NOT_TOLD = {"binance_us"}
"""Do not say what a key may do."""


def given_key(exchange: Simulator, name: str) -> Key:
    return next(one for one in exchange.exchange.keys(SEED) if one.name == name)


@contextlib.asynccontextmanager
async def holding(exchange: Simulator, url: str, key: Key) -> AsyncIterator[Keyholder]:
    """Our client, with ``key`` as it comes out of an environment."""
    dialect, redis = DIALECTS[exchange.exchange.name], Redis(url)
    environment = dict(
        zip(variables_of(dialect, {}).values(), (key.key, escaped(key.secret)), strict=True)
    )
    try:
        ours = key_of(dialect, {}, environment)
        async with keyholder(redis, dialect, exchange.rest_url, ours) as holder:
            yield holder
    finally:
        redis.close()


def escaped(secret: str) -> str:
    return secret.strip().replace("\n", "\\n")


def purse_of(exchange: Simulator) -> Purse:
    routes = exchange.exchange.name
    rate, of_what_comes = ("0.012", False) if routes == "coinbase" else ("0.001", True)
    return Purse(exchange.market, SEED, Decimal(rate), of_what_comes)


def cost_of(orders: tuple[Order, ...], base: str) -> Decimal:
    """The average cost of what is left, reckoned plainly."""
    quantity, cost = Decimal(0), Decimal(0)
    for order in orders:
        if order.listing.base != base:
            continue
        in_base = order.fee if order.fee_currency == base else Decimal(0)
        if order.buy:
            quantity += order.size - in_base
            cost += order.value + (Decimal(0) if in_base else order.fee)
        else:
            cost *= 1 - order.size / quantity
            quantity -= order.size
    return cost


@pytest.mark.parametrize("name", EXCHANGES)
async def test_positions_are_what_is_in_the_purse_and_cost_what_was_paid(name, valkey_url):
    async with simulated(exchange=name) as exchange:
        async with holding(exchange, valkey_url, given_key(exchange, "view")) as holder:
            found = await holder.holdings()
            used = holder.rest.budget.used(60)
        purse = purse_of(exchange)
        assert len(purse.orders) > 250
        quantities = {one.currency: one.quantity for one in found.positions}
        cash = {one.currency: one.total for one in found.cash}
        assert quantities | cash == {
            currency: free + held for currency, (free, held) in purse.balances.items()
        }
        by_symbol = {one.symbol: one for one in found.positions}
        assert set(by_symbol) == set(exchange.market.followed[:4])
        for symbol, one in by_symbol.items():
            if one.currency == "ETH":
                assert one.cost_basis is None, "a part of it was deposited"
                assert one.note
                continue
            assert one.cost_basis is not None
            assert abs(one.cost_basis - cost_of(purse.orders, one.currency)) < Decimal("1e-6")
            assert close(one, exchange, symbol)
        assert by_symbol[exchange.market.followed[2]].held > 0
        assert exchange.stats.over_rate == 0
        assert used >= exchange.stats.rest_requests, "what was asked went through the budget"


def close(one: Position, exchange: Simulator, symbol: str | None) -> bool:
    """Whether it is valued at about what the market pays."""
    assert symbol is not None
    listing = exchange.market.listing(symbol)
    price = exchange.market.last_price(symbol, exchange.clock.now()) / listing.tick
    return one.price is not None and float(one.price) == pytest.approx(price, rel=0.02)


async def test_orders_come_in_pages_and_all_of_them_are_asked_for(valkey_url):
    async with simulated() as exchange:
        async with holding(exchange, valkey_url, given_key(exchange, "view")) as holder:
            fills = await holder.fills(())
        orders = purse_of(exchange).orders
        assert len(fills) == len(orders)
        assert sum(one.fee for one in fills) == sum(one.fee for one in orders)
        assert exchange.stats.paths["/api/v3/brokerage/orders/historical/batch"] == 2


async def test_a_trade_key_is_taken_and_said_so_and_an_ed25519_key_is_like_any_other(valkey_url):
    async with simulated() as exchange:
        found: dict[str, Holdings] = {}
        for name in ("ed25519", "trade"):
            async with holding(exchange, valkey_url, given_key(exchange, name)) as holder:
                rights = await holder.rights()
                assert rights == Rights(view=True, trade=name == "trade", transfer=False)
                told = warning(DIALECTS["coinbase"], rights, ["A", "B"])
                assert (told is None) == (name == "ed25519")
                assert told is None or "A and B may trade" in told
                found[name] = await holder.holdings()
        assert {one.quantity for one in found["trade"].positions} == {
            one.quantity for one in found["ed25519"].positions
        }


@pytest.mark.parametrize("name", EXCHANGES)
async def test_a_key_that_may_not_view_is_refused_with_its_variables_and_the_step(name, valkey_url):
    async with simulated(exchange=name) as exchange:
        key = given_key(exchange, "transfer")
        async with holding(exchange, valkey_url, key) as holder:
            for ask in (holder.rights, holder.fees, holder.balances):
                with pytest.raises(KeyRefused) as refused:
                    await ask()
                text = str(refused.value)
                for variable in variables_of(DIALECTS[name], {}).values():
                    assert variable in text
                assert "view" in text


@pytest.mark.parametrize("name", EXCHANGES)
async def test_a_foreign_secret_is_refused_and_nothing_of_the_key_is_told(name, valkey_url, caplog):
    caplog.set_level(logging.DEBUG)
    async with simulated(exchange=name) as exchange:
        ours, other = given_key(exchange, "view"), given_key(exchange, "trade")
        mixed = Key("mixed", ours.rights, ours.key, other.secret)
        said = []
        async with holding(exchange, valkey_url, mixed) as holder:
            with pytest.raises(KeyRefused) as refused:
                await holder.balances()
            said += [str(refused.value), repr(refused.value), repr(holder), repr(holder.key)]
        async with holding(exchange, valkey_url, ours) as holder:
            await holder.fees()
            said += [repr(holder), repr(holder.rest)]
        everything = "\n".join([*said, caplog.text])
        for key in (ours, other):
            for secret in pieces(key):
                assert secret not in everything
        assert "Bearer" not in everything


def pieces(key: Key) -> Iterator[str]:
    """What of a key must be seen nowhere: all lines of it, and the beginning of each."""
    for line in (key.key, *key.secret.strip().splitlines()):
        if not line.startswith("-----"):
            yield line[:24]


async def test_a_clock_that_is_wrong_is_set_once_and_the_request_repeated(valkey_url):
    async with simulated(exchange="binance") as exchange:
        async with holding(exchange, valkey_url, given_key(exchange, "view")) as holder:
            holder.clock.hear(START - 600_000, trio.current_time())
            assert (await holder.fees()).maker == Decimal("0.001")
            assert exchange.stats.paths["/api/v3/time"] == 1
            await holder.fees()
            assert exchange.stats.paths["/api/v3/time"] == 1
        assert exchange.stats.paths["/api/v3/account"] == 3


async def test_a_key_leaves_this_machine_only_encrypted(valkey_url):
    redis, dialect = Redis(valkey_url), DIALECTS["binance"]
    key = key_of(dialect, {}, {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": "s"})
    try:
        for url in ("http://api.binance.com", "http://127.0.0.1.example.com", "http://10.0.0.1"):
            with pytest.raises(ConfigurationError, match="not encrypted"):
                async with keyholder(redis, dialect, url, key):
                    pass
        for url in ("https://api.binance.com", "http://localhost:1", "http://[::1]:1"):
            async with keyholder(redis, dialect, url, key):
                pass
    finally:
        redis.close()


def test_an_exchange_that_knows_no_accounts_says_so():
    with pytest.raises(UsageError, match="Coinbase cannot be asked about accounts"):
        variables_of(attrs.evolve(DIALECTS["coinbase"], account=None), {})


# -- what Coinbase refuses --------------------------------------------------------------------

Claims = dict[str, Any]


async def ask_coinbase(
    exchange: Simulator,
    change: Callable[[Claims, Claims], object] = lambda claims, head: None,
    *,
    name: str = "view",
    secret: Any = None,
    algorithm: str = "ES256",
    method: str = "GET",
    path: str = ACCOUNTS,
) -> httpx.Response:
    """A request with a token that is as it should be, but for what ``change`` does to it."""
    key, host = given_key(exchange, name), exchange.rest_url.removeprefix("http://")
    now = exchange.clock.now() // 1_000_000_000
    claims: Claims = {
        "sub": key.key,
        "iss": "cdp",
        "nbf": now,
        "exp": now + 120,
        "uri": f"{method} {host}{path}",
    }
    head: Claims = {"kid": key.key, "nonce": "1"}
    change(claims, head)
    private: Any = secret or load_pem_private_key(key.secret.encode(), None)
    token = jwt.encode(claims, private, algorithm=algorithm, headers=head)
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        authorization = {"Authorization": f"Bearer {token}"}
        return await http.request(method, exchange.rest_url + path, headers=authorization)


def says(**changed: Any) -> Callable[[Claims, Claims], object]:
    return lambda claims, head: claims.update(changed)


def moved(seconds: int) -> Callable[[Claims, Claims], object]:
    return lambda claims, head: claims.update(
        nbf=claims["nbf"] + seconds, exp=claims["exp"] + seconds
    )


CHANGES: dict[str, Callable[[Claims, Claims], object]] = {
    "expired": moved(-121),
    "of the future": moved(60),
    "too long a life": lambda claims, head: claims.update(exp=claims["exp"] + 1),
    "another's name": says(sub="organizations/o/apiKeys/k"),
    "another issuer": says(iss="nobody"),
    "no uri": lambda claims, head: claims.pop("uri"),
    "another path": lambda claims, head: claims.update(
        uri=claims["uri"].replace("accounts", "transaction_summary")
    ),
    "with the query": lambda claims, head: claims.update(uri=claims["uri"] + "?limit=250"),
    "another method": lambda claims, head: claims.update(uri=claims["uri"].replace("GET", "POST")),
    "another host": lambda claims, head: claims.update(uri=f"GET api.coinbase.com{ACCOUNTS}"),
    "an unknown key": lambda claims, head: head.update(kid="organizations/o/apiKeys/k"),
    "no nonce": lambda claims, head: head.pop("nonce"),
    "times that are none": says(nbf="now"),
}


async def test_coinbase_believes_a_whole_token_alone():
    async with simulated() as exchange:
        whole = await ask_coinbase(exchange)
        assert (whole.status_code, len(whole.json()["accounts"])) == (200, 6)
        for what, change in CHANGES.items():
            refused = await ask_coinbase(exchange, change)
            assert (refused.status_code, refused.text.strip()) == (401, "Unauthorized"), what
        forged = await ask_coinbase(exchange, secret=ec.generate_private_key(ec.SECP256R1()))
        shared = await ask_coinbase(exchange, secret="x" * 32, algorithm="HS256")
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            bare = await http.get(exchange.rest_url + ACCOUNTS)
            told = {"Authorization": "Bearer nonsense"}
            nonsense = await http.get(exchange.rest_url + ACCOUNTS, headers=told)
        for refused in (forged, shared, bare, nonsense):
            assert refused.status_code == 401


async def test_who_may_view_may_not_trade_and_nobody_is_served_an_order():
    async with simulated() as exchange:
        order: dict[str, Any] = {"method": "POST", "path": "/api/v3/brokerage/orders"}
        viewer = await ask_coinbase(exchange, **order)
        assert (viewer.status_code, viewer.json()["error"]) == (403, "PERMISSION_DENIED")
        assert (await ask_coinbase(exchange, name="trade", **order)).status_code == 405
        assert (await ask_coinbase(exchange, name="transfer")).status_code == 403


async def test_tokens_age_by_our_clock_where_the_exchanges_runs_faster(valkey_url):
    async with (
        simulated(speed=10_000.0) as exchange,  # two minutes there are 12 ms here
        holding(exchange, valkey_url, given_key(exchange, "view")) as holder,
    ):
        for _ in range(3):
            assert (await holder.fees()).name == "Intro 1"


# -- what Binance refuses ---------------------------------------------------------------------


async def ask_binance(exchange: Simulator, key: Key, **changed: Any) -> tuple[int, int]:
    """Status and code of a request for the account; None leaves a parameter away."""
    params: dict[str, Any] = {
        "recvWindow": "5000",
        "timestamp": str(exchange.clock.now() // 1_000_000),
    }
    after, sent = changed.pop("after", {}), changed.pop("sent", key.key)
    params = {k: v for k, v in {**params, **changed}.items() if v is not None}
    signature = hmac.new(key.secret.encode(), urlencode(params).encode(), hashlib.sha256)
    params |= {"signature": signature.hexdigest(), **after}
    params = {k: v for k, v in params.items() if v is not None}
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        url = f"{exchange.rest_url}/api/v3/account?{urlencode(params)}"
        reply = await http.get(url, headers={"X-MBX-APIKEY": sent} if sent else {})
    return reply.status_code, reply.json().get("code", 0)


@pytest.mark.parametrize("name", ["binance", "binance_us"])
async def test_binance_believes_a_whole_signature_alone(name):
    async with simulated(exchange=name) as exchange:
        view = given_key(exchange, "view")
        now = exchange.clock.now() // 1_000_000
        assert await ask_binance(exchange, view) == (200, 0)
        assert await ask_binance(exchange, view, recvWindow=None) == (200, 0)
        wrong = Key("wrong", view.rights, view.key, "secret")
        unknown = Key("unknown", view.rights, "a" * 64, view.secret)
        refusals = {
            (401, -2014): [ask_binance(exchange, view, sent=one) for one in ("", "no key")],
            (401, -2015): [
                ask_binance(exchange, unknown),
                ask_binance(exchange, given_key(exchange, "transfer")),
            ],
            (400, -1022): [
                ask_binance(exchange, wrong),
                ask_binance(exchange, view, after={"recvWindow": "6000"}),
                ask_binance(exchange, view, after={"omitZeroBalances": "true"}),
            ],
            (400, -1021): [
                ask_binance(exchange, view, timestamp=str(now - 6_000)),
                ask_binance(exchange, view, timestamp=str(now + 60_000)),
            ],
            (400, -1131): [ask_binance(exchange, view, recvWindow="60001")],
            (400, -1102): [
                ask_binance(exchange, view, timestamp=None),
                ask_binance(exchange, view, after={"signature": None}),
            ],
        }
        for expected, asked in refusals.items():
            for one in asked:
                assert await one == expected


async def test_what_a_key_may_do_is_not_told_where_that_cannot_be_asked(valkey_url):
    for name in ("binance", "binance_us"):
        async with simulated(exchange=name) as exchange:
            async with holding(exchange, valkey_url, given_key(exchange, "trade")) as holder:
                rights = await holder.rights()
            trade = None if name in NOT_TOLD else True
            assert (rights.view, rights.trade) == (True, trade)
