"""``livermore symbols``: what is followed, for whom, and what else there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import attrs
import typer

from livermore.cli import latest, options, output, store
from livermore.cli.options import Exchange, Json, OneExchange, Place, placed
from livermore.config import DEFAULT_TOP, Settings
from livermore.errors import LivermoreError, NotRunning, UnknownSymbol, UsageError
from livermore.market.chosen import Chosen, decode_chosen
from livermore.market.product import Product, dollar_rates, top, unknown_symbol
from livermore.market.tiers import depth, spread
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.cli.store import Status
    from livermore.market.product import Change
    from livermore.runtime.following import Following

T = TypeVar("T")
WAIT = 300.0
"""Seconds for a daemon to fetch the history of what is new."""
FOUND = 20
"""Rows of a search; JSON has them all."""

User = Annotated[
    str | None,
    typer.Option("--user", "-u", metavar="NAME", help="For this user alone.  [LIVERMORE_USER]"),
]
Some = Annotated[
    list[str], typer.Argument(metavar="SYMBOL…", help="Such as SOL-USD or SOL-USDT@binance.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        rich_markup_mode="markdown",
        epilog="Example: `livermore symbols list`, `livermore symbols search sol`, "
        "`livermore symbols add SOL-USD --user alice`.",
    )
    for name, command, example in (
        ("list", list_, "livermore symbols list --user alice"),
        ("search", search, "livermore symbols search doge"),
        ("add", add, "livermore symbols add SOL-USD ADA-USD --user alice"),
        ("remove", remove, "livermore symbols remove SOL-USD"),
        ("refresh", refresh, "livermore symbols refresh --exchange coinbase"),
        ("metrics", metrics, "livermore symbols metrics --json"),
    ):
        group.command(name, epilog=f"Example: `{example}`")(placed(command))
    app.add_typer(group, name="symbols", help="What is followed, for whom, and what else there is.")


@attrs.frozen
class Row:
    """A symbol that is followed."""

    symbol: str
    tier: int
    owner: str
    """The one user in whose keys it lives, "" for the pool that all share."""
    followers: tuple[str, ...]
    """Users; of Tier 1 and of what was added for everybody only those who asked for it."""
    by_hand: bool
    state: str
    why: str | None = None

    @property
    def whose(self) -> str:
        """Who follows it, for people."""
        names = ["everybody"] if self.tier == 1 or self.by_hand else []
        return ", ".join([*names, *self.followers]) or "–"


@attrs.frozen
class Metric:
    """How a symbol trades; ``volume`` is of 24 h in dollars, ``spread`` a share of the price."""

    symbol: str
    tier: int
    rank: int | None
    volume: float | None
    price: float | None
    spread: float | None
    liquidity: str | None
    owner: str
    followers: tuple[str, ...]
    by_hand: bool


def list_(place: Place, exchange: Exchange = None, user: User = None, json: Json = False) -> int:
    """List what is followed: for everybody, or as well for one user."""
    settings = place.of(user).settings()
    given = None if exchange is None else options.known_exchange(exchange)
    with store.open_store(settings) as client:
        for name in store.exchanges(client, settings, given):
            status, chosen = store.read_status(client, name), read_chosen(client, name)
            rows = followed(client, name, status, chosen, settings.user)
            if json:
                output.document(
                    {
                        "exchange": name,
                        "running": status is not None,
                        "mode": chosen.mode.value,
                        "symbols": [attrs.asdict(row) for row in rows],
                        "removed": chosen.removed,
                    }
                )
                continue
            table = output.table(
                "symbol", "tier", "keys", "followed by", "state", loose=("followed by", "state")
            )
            for row in rows:
                state = f"{row.state}: {row.why}" if row.why else row.state
                table.add_row(row.symbol, str(row.tier), row.owner or "shared", row.whose, state)
            output.line(f"{name}: {len(rows)} symbols, {chosen.mode.value}")
            if rows:
                output.show(table)
            if chosen.removed:
                output.line(f"removed by hand: {', '.join(chosen.removed)}")
    return 0


def search(
    place: Place,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Part of a name, such as doge.")],
    exchange: OneExchange = None,
    json: Json = False,
) -> int:
    """Look for symbols among all that the exchange lists, the most traded first."""
    settings, name = _one(place, exchange, None)
    listed = _listing(settings, name)
    wanted = text.strip().upper().replace("/", "-")
    volumes = volumes_of(listed)
    found = [one for one in listed if wanted in one.symbol or wanted == one.native.upper()]
    found.sort(key=lambda one: (-volumes[one.symbol], one.symbol))
    if json:
        documents = [
            {
                "symbol": one.symbol,
                "volume": volumes[one.symbol],
                "price": one.price,
                "tradable": one.tradable,
                "alias": one.alias,
            }
            for one in found
        ]
        output.document({"exchange": name, "listed": len(listed), "symbols": documents})
        return 0
    if not found:
        raise UnknownSymbol(f"{name}: {unknown_symbol(wanted, [one.symbol for one in listed])}")
    table = output.table("symbol", "24 h volume", "price", "", right=("24 h volume", "price"))
    for one in found[:FOUND]:
        note = f"the same market as {one.alias}" if one.alias else ""
        note = note if one.tradable else "not trading now"
        table.add_row(one.symbol, money(volumes[one.symbol]), output.number(one.price), note)
    output.show(table)
    if len(found) > FOUND:
        output.say(f"… and {len(found) - FOUND} more (--json has them all)")
    return 0


def add(
    place: Place, symbols: Some, exchange: OneExchange = None, user: User = None, json: Json = False
) -> int:
    """Follow more symbols: for everybody, or for one user. All of them or none."""
    return _change(place, "add-symbol", symbols, exchange, user, json=json)


def remove(
    place: Place, symbols: Some, exchange: OneExchange = None, user: User = None, json: Json = False
) -> int:
    """Follow fewer symbols. What nobody follows any more is removed from Redis."""
    return _change(place, "remove-symbol", symbols, exchange, user, json=json)


def refresh(place: Place, exchange: OneExchange = None, json: Json = False) -> int:
    """Look now at what is most traded, as a daemon does every hour."""
    settings, name = _one(place, exchange, None)
    answer: tuple[str, dict[str, Any]]
    try:
        answer = _tell(settings, name, "refresh-symbols", {}, json=json)
    except NotRunning:
        if settings.database_url is None:
            raise

        async def work(following: Following) -> Change:
            return await following.refresh()

        _alone(settings, name, work)
        answer = ("no daemon follows it; the listing in the database is new", {})
    return _said(name, *answer, json=json)


def metrics(
    place: Place,
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="SYMBOL…", help="Only these.")
    ] = None,
    exchange: OneExchange = None,
    user: User = None,
    json: Json = False,
) -> int:
    """Show volume, price, spread and liquidity of what is followed, and who follows it."""
    settings, name = _one(place.of(user), exchange, None)
    wanted = [options.symbol(text) for text in symbols or ()]
    with store.open_store(settings) as client:
        status, chosen = store.read_status(client, name), read_chosen(client, name)
        rows = followed(client, name, status, chosen, settings.user)
        known = [row.symbol for row in rows]
        for symbol in wanted:
            if symbol not in known:
                raise UnknownSymbol(f"{name}: {unknown_symbol(symbol, known)}")
        rows = [row for row in rows if not wanted or row.symbol in wanted]
        tickers = _tickers(client, name, [row.symbol for row in rows])
    listed = _listing(settings, name)
    by_symbol = {one.symbol: one for one in listed}
    volumes = volumes_of(listed)
    ranks = {one.symbol: rank for rank, one in enumerate(top(listed, len(listed)), start=1)}
    rows.sort(key=lambda row: (-volumes.get(row.symbol, 0.0), row.symbol))
    found = []
    for row in rows:
        product, ticker = by_symbol.get(row.symbol), tickers.get(row.symbol, {})
        volume, width = volumes.get(row.symbol), spread(ticker.get("bid"), ticker.get("ask"))
        found.append(
            Metric(
                row.symbol, row.tier, ranks.get(row.symbol), volume,
                ticker.get("price") or (product.price if product else None), width,
                None if volume is None else depth(volume, width).value,
                row.owner, row.followers, row.by_hand,
            )
        )  # fmt: skip
    if json:
        output.document({"exchange": name, "symbols": [attrs.asdict(one) for one in found]})
        return 0
    right = ("rank", "24 h volume", "price", "spread")
    table = output.table(
        "symbol", "tier", *right, "liquidity", "followed by", right=right, loose=("followed by",)
    )
    for row, one in zip(rows, found, strict=True):
        table.add_row(
            one.symbol, str(one.tier), str(one.rank or "–"), money(one.volume),
            output.number(one.price), percent(one.spread), one.liquidity or "–", row.whose,
        )  # fmt: skip
    output.show(table)
    return 0


# -- what is known ----------------------------------------------------------------------------


def read_chosen(client: Client, exchange: str) -> Chosen:
    """What was chosen beside the settings; what cannot be read is nothing."""
    from livermore.adapters.store import following_key

    [reply] = client.run_each([("HGETALL", following_key(exchange))])
    return Chosen() if isinstance(reply, LivermoreError) else decode_chosen(reply)


def followed(
    client: Client, exchange: str, status: Status | None, chosen: Chosen, user: str | None
) -> list[Row]:
    """What a daemon follows, or would; for everybody, and of the users' for ``user`` or all."""
    followers = chosen.followers()
    symbols = status.symbols if status is not None else _unfollowed(chosen)
    rows = []
    for symbol in symbols:
        users = followers.get(symbol, [])
        owner = status.owner(symbol) if status is not None else None
        if owner is None:
            alone = symbol not in {*chosen.tier, *chosen.added} and len(users) == 1
            owner = users[0] if alone else ""
        tier = 1 if symbol in chosen.tier else 2
        by_hand = symbol in chosen.added
        if user in (None, owner) or not owner:
            rows.append(Row(symbol, tier, owner, tuple(users), by_hand, "not running"))
    return _with_states(client, exchange, status, rows) if status is not None else rows


def _unfollowed(chosen: Chosen) -> list[str]:
    shared = [*chosen.tier, *(one for one in chosen.added if one not in chosen.tier)]
    return [*shared, *sorted(chosen.followers().keys() - set(shared))]


def _with_states(client: Client, exchange: str, status: Status, rows: Sequence[Row]) -> list[Row]:
    """A symbol is warming until its shortest timeframe has a reading that is warm."""
    from livermore.market.candle import Series

    words = status.words
    shortest = [Series(exchange, row.symbol, Timeframe.M5, row.owner) for row in rows]
    found = []
    for row, one in zip(rows, latest.read_latest(client, shortest, 0), strict=True):
        why = (words.rejected or {}).get(row.symbol)
        if why is not None:
            found.append(attrs.evolve(row, state="rejected", why=why))
        elif words.state not in (None, "live", "backfilling"):
            found.append(attrs.evolve(row, state=words.state))
        elif one.reading is None or one.reading.withheld or not one.reading.warm:
            found.append(attrs.evolve(row, state="warming"))
        else:
            found.append(attrs.evolve(row, state="live"))
    return found


def _tickers(client: Client, exchange: str, symbols: Iterable[str]) -> dict[str, dict[str, Any]]:
    import msgspec

    from livermore.adapters.store import ticker_key

    names = list(symbols)
    found = {}
    replies = client.run_each([("GET", ticker_key(exchange, name)) for name in names])
    for name, reply in zip(names, replies, strict=True):
        with suppress(msgspec.DecodeError, TypeError):
            said = msgspec.json.decode(reply)
            if isinstance(said, dict):
                found[name] = said
    return found


def volumes_of(listed: Sequence[Product]) -> dict[str, float]:
    """24 h volume of each in dollars, 0 where its quote cannot be converted."""
    rates = dollar_rates(listed)
    return {one.symbol: one.quote_volume * rates.get(one.quote, 0.0) for one in listed}


def money(dollars: float | None) -> str:
    """A volume as a person compares it."""
    if dollars is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if dollars >= size:
            return f"${dollars / size:.1f}{letter}"
    return f"${dollars:.0f}"


def percent(share: float | None) -> str:
    """A spread in percent."""
    return "–" if share is None else f"{100 * share:.3f} %"


# -- asking and changing ----------------------------------------------------------------------


def _one(place: Place, exchange: str | None, user: str | None) -> tuple[Settings, str]:
    given = None if exchange is None else options.known_exchange(exchange)
    settings = store.of_one(place.of(user), given)
    return settings, settings.exchanges[0]


def _listing(settings: Settings, exchange: str) -> Sequence[Product]:
    async def work(following: Following) -> Sequence[Product]:
        return await following.listing()

    return _alone(settings, exchange, work)


def _change(
    place: Place, kind: str, texts: Sequence[str], exchange: str | None, user: str | None, *,
    json: bool,
) -> int:  # fmt: skip
    marked = [options.marked(part, exchange) for text in texts for part in text.split(",")]
    where = {name for _, name in marked}
    if len(where) > 1:
        raise UsageError("symbols of several exchanges: one command for each of them")
    symbols = list(dict.fromkeys(symbol for symbol, _ in marked))
    settings, name = _one(place, where.pop(), user)
    try:
        answer = _tell(settings, name, kind, {"symbols": symbols}, json=json)
    except NotRunning:
        answer = _write_down(settings, name, kind, symbols)
    return _said(name, *answer, json=json)


def _tell(
    settings: Settings, exchange: str, kind: str, payload: dict[str, Any], *, json: bool
) -> tuple[str, dict[str, Any]]:
    """Tell the daemon that runs; raises :class:`NotRunning` where none does."""
    from livermore.cli.ctl import tell

    with store.open_store(settings) as client:
        answer = tell(client, settings, exchange, kind, payload, timeout=WAIT, json=json)
    return answer.text, dict(answer.data)


def _write_down(
    settings: Settings, exchange: str, kind: str, symbols: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Where no daemon runs, the next one follows it."""
    user = settings.user or ""

    async def work(following: Following) -> Change:
        await following.start()
        if kind == "add-symbol":
            return await following.add(symbols, user)
        return await following.remove(symbols, user)

    _alone(settings, exchange, work, kept=not user)
    names = ", ".join(symbols)
    if kind == "add-symbol":
        return f"no daemon runs: {names} will be followed once one does", {"symbols": symbols}
    return f"no daemon runs: {names} will not be followed", {"symbols": symbols}


def _alone(
    settings: Settings,
    exchange: str,
    work: Callable[[Following], Awaitable[T]],
    *,
    kept: bool = False,
) -> T:
    """The result of ``work``, beside no feed.

    What is to be ``kept`` needs a Redis: raises :class:`NotRunning` where there is none.
    """
    import trio

    from livermore.adapters.bans import Bans
    from livermore.adapters.redis import Redis
    from livermore.daemon import check_served
    from livermore.exchanges import dialect as dialect_of
    from livermore.runtime.feed import Plan
    from livermore.runtime.following import Following

    dialect, own = dialect_of(exchange), settings.of(exchange)
    check_served(dialect, settings.country)
    plan = Plan(
        dialect=dialect, websocket_url="", rest_url=own.rest_url or dialect.rest_url,
        symbols=own.symbols, top=own.top or DEFAULT_TOP, holder="", description={},
        bans=Bans.of(settings.state_dir, exchange),
    )  # fmt: skip
    with ExitStack() as stack:
        redis = None
        try:
            client = stack.enter_context(store.open_store(settings))
            redis = Redis(client.url)
            stack.callback(redis.close)
        except NotRunning:
            if kept:
                raise
        database = None
        if settings.database_url is not None:
            from livermore.adapters.postgres import Database

            database = Database(settings.database_url)
            stack.callback(database.close)
        following = Following(plan, redis, database)
        return trio.run(work, following)


def _said(exchange: str, text: str, data: dict[str, Any], *, json: bool) -> int:
    if json:
        output.document({"exchange": exchange, "text": text, "data": data})
    else:
        output.line(f"{exchange}: {text}")
    return 0
