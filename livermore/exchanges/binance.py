"""Binance.com and Binance.US: public market data, no key; for those with one, see beside it.

The two speak one language: this file builds both, and :class:`Member` holds what differs.

Its peculiarities, and what is made of them:

- A candle is closed when its frame says so (``x``), 0.005-2 s after its end, and by nothing else.
- A slot without trades is a flat candle without volume, on the socket and in REST. A row that is
  missing in REST is an outage of the exchange and never an empty candle.
- Ids run base and quote together (``USDCUSDT``): only exchangeInfo says where they part. Streams
  are named in lower case, everything else in upper case: events carry the payload's id, and no
  name of a stream is ever turned back into one.
- Answers to what was asked list nothing: they repeat an id. So an id is made of what was asked.
- A ticker comes once a second while anything of it changes, a mere quote too.

A frame is decoded by msgspec in one go. Only if that fails is it taken apart, so that a damaged
stamp does not cost the candle beside it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice

import attrs
import msgspec

from livermore.dialect import (
    Account,
    CloseRule,
    Dialect,
    Fees,
    Geo,
    Request,
    Row,
    Subscription,
)
from livermore.errors import (
    LivermoreError,
    MalformedMessage,
    RateLimited,
    Refused,
    RestError,
    UnknownSymbol,
)
from livermore.exchanges import binance_account
from livermore.market.events import (
    Closing,
    Confirmed,
    Event,
    Frame,
    Rejected,
    Sample,
    Ticker,
    Unknown,
)
from livermore.market.product import Product
from livermore.market.timeframe import DAY, Timeframe
from livermore.market.wire import (
    LATEST,
    MOST,
    Shape,
    converted,
    decoded,
    figure,
    one_line,
    retry_after,
    unreadable,
)

INTERVALS = {timeframe: timeframe.value for timeframe in Timeframe}
"""All of them begin at multiples of their length in UTC, unless a time zone is asked for."""

STREAMED = INTERVALS[Timeframe.M5]

CHANNELS = {"kline": f"@kline_{STREAMED}", "ticker": "@ticker"}
"""What is subscribed per product, in this order, and how the streams of it end."""

STREAMS_PER_FRAME = 200
"""No more was seen to be asked for in one frame by those who ask for many."""

GRID = Timeframe.M5.ms
"""The starts of all timeframes here are multiples."""

REPLY_ROWS = 1000
"""The documented maximum of ``limit``; 500 come without it."""

LEVERAGED = ("UP", "DOWN", "BULL", "BEAR")
"""How leveraged tokens are named after the asset they are made of."""

SHORTEST_LEVERAGED = 3
"""Letters of that asset: JUP is no leveraged J, and SUP no leveraged S."""

SEPARATORS = frozenset(" -/:,@{}*?[]\\^")
"""An asset named with one of these would make a symbol that is no symbol."""

WAITS = {418: 120.0, 429: 60.0}
"""Seconds to stay away where it is not said how long: the shortest ban, the window that counts."""

LONGEST_BAN = 259_200.0
"""Seconds: documented are bans of two minutes to three days."""

UNKNOWN_SYMBOL = "-1121"


@attrs.frozen(kw_only=True)
class Member:
    """What tells one exchange of the family from the other."""

    name: str
    title: str
    websocket_url: str
    rest_url: str
    documentation: str
    weight_per_minute: int
    weight_of_candles: int
    weight_of_listing: int
    weight_of_tickers: int
    listing: Mapping[str, str] = attrs.field(factory=dict)
    """Parameters of exchangeInfo; one that a member does not know, it refuses."""
    geo: Geo
    elsewhere: str
    """What to do where it serves nobody."""
    fees: Fees
    account: Account


class KlineRow(msgspec.Struct, gc=False):
    open_time: int = msgspec.field(name="t")
    interval: str = msgspec.field(name="i")
    open: float = msgspec.field(name="o")
    high: float = msgspec.field(name="h")
    low: float = msgspec.field(name="l")
    close: float = msgspec.field(name="c")
    volume: float = msgspec.field(name="v")
    closed: bool = msgspec.field(name="x")


class KlineEvent(msgspec.Struct, tag_field="e", tag="kline", gc=False):
    stamp: int = msgspec.field(name="E")
    native: str = msgspec.field(name="s")
    row: KlineRow = msgspec.field(name="k")


class TickerEvent(msgspec.Struct, tag_field="e", tag="24hrTicker", gc=False):
    stamp: int = msgspec.field(name="E")
    native: str = msgspec.field(name="s")
    price: float = msgspec.field(name="c")
    bid: str | float | None = msgspec.field(name="b", default=None)
    ask: str | float | None = msgspec.field(name="a", default=None)
    volume: str | float | None = msgspec.field(name="v", default=None)


class ShutdownEvent(msgspec.Struct, tag_field="e", tag="serverShutdown", gc=False):
    stamp: int = msgspec.field(name="E")


AnyEvent = KlineEvent | TickerEvent | ShutdownEvent

_EVENTS: Mapping[object, type[AnyEvent]] = {
    "kline": KlineEvent,
    "24hrTicker": TickerEvent,
    "serverShutdown": ShutdownEvent,
}


class Combined(msgspec.Struct, gc=False):
    data: AnyEvent


# Not strict: a number in quotes is a number, and the other way round.
_COMBINED = msgspec.json.Decoder(Combined, strict=False)
_RAW = msgspec.json.Decoder(AnyEvent, strict=False)


def read(member: Member, frame: bytes | str) -> Frame:
    """What ``frame`` means; raises :class:`MalformedMessage`, and nothing else."""
    try:
        text = frame if isinstance(frame, str) else frame.decode()
        try:
            if text.startswith('{"stream":'):
                return _understand(_COMBINED.decode(text).data)
            return _understand(_RAW.decode(text))
        except msgspec.ValidationError:
            return _read_by_parts(member, text)
    # msgspec's and Unicode's errors are ValueErrors; deep nesting exhausts the stack.
    except (ValueError, RecursionError) as error:
        raise unreadable(member.name, error, frame) from None


def _understand(wire: AnyEvent) -> Frame:
    stamp: int | None = wire.stamp
    malformed = 0
    if not 0 < wire.stamp < LATEST:  # of microseconds, too: none were asked for
        stamp, malformed = None, 1
    event: Event | None
    if type(wire) is KlineEvent:
        event = _sample(wire.native, wire.row)
    elif type(wire) is TickerEvent:
        event = _ticker(wire, stamp)
    else:
        event = Closing()
    if event is None:
        return Frame(stamp, None, [], malformed + 1)
    return Frame(stamp, None, [event], malformed)


def _sample(native: str, row: KlineRow) -> Event | None:
    if row.interval != STREAMED:
        return Unknown(one_line(f"kline_{row.interval}", 40))
    if not native or not _possible(row):
        return None
    return Sample(
        native, row.open_time, row.open, row.high, row.low, row.close, row.volume, False, row.closed
    )


def _ticker(wire: TickerEvent, stamp: int | None) -> Ticker | None:
    if stamp is None or not wire.native or not 0 < wire.price < math.inf:
        return None
    bid, ask = figure(wire.bid) or None, figure(wire.ask) or None
    return Ticker(wire.native, wire.price, stamp, bid, ask, figure(wire.volume))


def _read_by_parts(member: Member, text: str) -> Frame:
    """The way for answers, unknown streams and damaged payloads."""
    wire = msgspec.json.decode(text)
    if not isinstance(wire, dict):
        raise MalformedMessage(f"{member.name}: frame is not an object", text)
    stream = wire.get("stream")
    data = wire if stream is None else wire.get("data")
    payload = data if isinstance(data, dict) else {}
    kind = payload.get("e")
    stamp = converted(payload.get("E"), int)
    if isinstance(kind, str) and kind in _EVENTS:
        # Whatever is wrong with the stamp: 0 is none, and the rest may be whole.
        event = converted(payload | {"E": stamp or 0}, _EVENTS[kind])
        if event is not None:
            return _understand(event)
        believed = stamp is not None and 0 < stamp < LATEST
        return Frame(stamp if believed else None, None, [], 2 - believed)
    if not isinstance(kind, str):
        if isinstance(stream, str) and stream:
            # Some have no kind: then the stream's own name, without the product before it.
            kind = stream if stream.startswith("!") else stream.partition("@")[2] or stream
        elif stream is None and wire.keys() & {"result", "error", "code"}:
            return Frame(None, None, [_answer(wire, text)])
        else:
            raise MalformedMessage(f"{member.name}: frame names no event", text)
    known = stamp is not None and 0 < stamp < LATEST
    return Frame(stamp if known else None, None, [Unknown(one_line(kind, 40))])


def _answer(wire: dict[str, object], text: str) -> Event:
    """What became of something we asked on the socket."""
    token = wire.get("id")
    if isinstance(token, str):
        token = one_line(token, 40)
    else:
        token = str(token) if type(token) is int and abs(token) < MOST else ""
    said = wire if "code" in wire else wire.get("error")
    if said is not None:
        message = converted(said.get("msg"), str) if isinstance(said, dict) else None
        return Rejected(one_line(message or text), token)
    if "result" in wire and wire["result"] is None and token:
        return Confirmed(token)
    return Unknown("result")  # of a question we do not ask


def _possible(row: KlineRow | RestKline) -> bool:
    """Whether a market can have made this candle; a NaN fails every comparison."""
    return (
        0 < row.low <= row.open <= row.high < math.inf
        and row.low <= row.close <= row.high
        and 0 <= row.volume < math.inf
        and 0 <= row.open_time < LATEST
        and row.open_time % GRID == 0
    )


def subscribe(natives: Sequence[str]) -> Sequence[Subscription]:
    """Streams of one channel per frame, the candles of all products first."""
    wanted = list(dict.fromkeys(natives))
    subscriptions: list[Subscription] = []
    for channel, ending in CHANNELS.items():
        for some in _batches(wanted):
            frame, token = _request("SUBSCRIBE", some, ending)
            subscriptions.append(Subscription(channel, frame, frozenset(some), token))
    return subscriptions


def unsubscribe(natives: Sequence[str]) -> Sequence[str]:
    """The same frames, the other way round."""
    wanted = list(dict.fromkeys(natives))
    return tuple(
        _request("UNSUBSCRIBE", some, ending)[0]
        for ending in CHANNELS.values()
        for some in _batches(wanted)
    )


def _batches(natives: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(natives)
    while some := list(islice(rest, STREAMS_PER_FRAME)):
        yield some


def _request(method: str, natives: Sequence[str], ending: str) -> tuple[str, str]:
    """The frame and the id that its answer repeats.

    An id of 32 bits without sign (Binance.US takes no other kind), made of what is asked for: two
    requests of one connection are told apart with nothing to remember. Letters beyond ASCII have
    the lower case that Unicode gives them, those of China none.
    """
    params = [native.lower() + ending for native in natives]
    number = zlib.crc32(" ".join((method, *params)).encode())
    frame = {"method": method, "params": params, "id": number}
    return msgspec.json.encode(frame).decode(), str(number)


class RestKline(msgspec.Struct, array_like=True):
    """The first six of twelve."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class RestSymbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_asset: str
    quote_asset: str
    status: str = ""
    is_spot_trading_allowed: bool = True
    permissions: list[str] = []
    permission_sets: list[list[str]] = []


class RestListing(msgspec.Struct):
    symbols: list[msgspec.Raw]


class RestTicker(msgspec.Struct, rename="camel"):
    symbol: str
    last_price: str | float | None = None
    quote_volume: str | float | None = None


class RestTime(msgspec.Struct, rename="camel"):
    server_time: int


class RestComplaint(msgspec.Struct):
    code: int | str = ""
    msg: str = ""


def candles_request(
    member: Member, native: str, timeframe: Timeframe, start: int, end: int
) -> Request:
    """``start`` and ``end`` are open times in ms, both included; the oldest row comes first."""
    buckets = (end - start) // timeframe.ms + 1
    return Request(
        "/api/v3/klines",
        {
            "symbol": native,
            "interval": INTERVALS[timeframe],
            "startTime": str(start),
            "endTime": str(end),
            "limit": str(min(max(buckets, 1), REPLY_ROWS)),
        },
        member.weight_of_candles,
    )


def read_candles(member: Member, body: bytes) -> Sequence[Row]:
    """Rows, ascending, one per open time. One damaged row spoils the reply.

    A row left out silently would later pass for an outage of the exchange.
    """
    rows: dict[int, Row] = {}
    for wire in decoded(body, list[RestKline], member.name, "candles"):
        if not _possible(wire):
            raise MalformedMessage(
                f"{member.name}: impossible candle at {wire.open_time} in the reply", repr(wire)
            )
        row = Row(wire.open_time, wire.open, wire.high, wire.low, wire.close, wire.volume)
        known = rows.get(row.open_time)
        if known is None or row.volume > known.volume:  # within a slot volume only grows
            rows[row.open_time] = row
    return [rows[open_time] for open_time in sorted(rows)]


def products_requests(member: Member) -> Sequence[Request]:
    """The listings, halted ones included, and the volume and price of the last 24 h of all."""
    return (
        Request("/api/v3/exchangeInfo", member.listing, member.weight_of_listing),
        Request("/api/v3/ticker/24hr", weight=member.weight_of_tickers),
    )


def read_products(member: Member, bodies: Sequence[bytes]) -> Sequence[Product]:
    """Spot listings but leveraged tokens; a damaged row is left out, where not all are damaged."""
    listing, statistics = bodies
    listed = decoded(listing, RestListing, member.name, "products").symbols
    rows = [row for row in _readable(listed, RestSymbol) if _named(row)]
    told = decoded(statistics, list[msgspec.Raw], member.name, "tickers")
    tickers = {row.symbol: row for row in _readable(told, RestTicker)}
    if (listed and not rows) or (told and not tickers):
        what, body = ("tickers", statistics) if rows else ("products", listing)
        raise MalformedMessage(f"{member.name}: no row of the {what} reply can be read", body)
    bases = {row.base_asset for row in rows}
    return [_product(row, tickers.get(row.symbol)) for row in rows if not _leveraged(row, bases)]


def _readable(raws: Sequence[msgspec.Raw], kind: type[Shape]) -> Iterator[Shape]:
    for raw in raws:
        with contextlib.suppress(ValueError, RecursionError):
            yield msgspec.json.decode(raw, type=kind, strict=False)


def _named(row: RestSymbol) -> bool:
    assets = (row.base_asset, row.quote_asset)
    return bool(row.symbol and all(assets)) and not SEPARATORS & set("".join(assets))


def _leveraged(row: RestSymbol, bases: Set[str]) -> bool:
    """Whether a token is a leveraged one. Where nothing is told of permissions, its name says so.

    The name is not enough: JUP and SYRUP are coins like others.
    """
    permissions = {one for some in (row.permissions, *row.permission_sets) for one in some}
    if permissions:
        return "LEVERAGED" in permissions and "SPOT" not in permissions
    of = (row.base_asset.removesuffix(end) for end in LEVERAGED if row.base_asset.endswith(end))
    return any(len(asset) >= SHORTEST_LEVERAGED and asset in bases for asset in of)


def _product(row: RestSymbol, ticker: RestTicker | None) -> Product:
    return Product(
        symbol=f"{row.base_asset}-{row.quote_asset}",
        native=row.symbol,
        base=row.base_asset,
        quote=row.quote_asset,
        tradable=row.status == "TRADING" and row.is_spot_trading_allowed,
        price=(figure(ticker.last_price) or None) if ticker else None,
        quote_volume=(figure(ticker.quote_volume) or 0.0) if ticker else 0.0,
    )


def time_request() -> Request:
    """The exchange's clock."""
    return Request("/api/v3/time")


def read_time(member: Member, body: bytes) -> int:
    """Exchange time, ms."""
    time = decoded(body, RestTime, member.name, "time").server_time
    if not 0 < time < LATEST:
        raise MalformedMessage(f"{member.name}: impossible time", body)
    return time


def used_weight(headers: Mapping[str, str]) -> int | None:
    """What all requests of this address weighed in the running minute."""
    told = headers.get("x-mbx-used-weight-1m", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 16 else None


def refusal(
    member: Member, status: int, headers: Mapping[str, str], body: bytes
) -> LivermoreError | None:
    """What a reply other than 2xx means.

    A 429 that is ignored becomes a 418: an address is banned, longer every time. A 403 is the
    firewall in front, which may change its mind.
    """
    if 200 <= status < 300:
        return None
    code, said = _complaint(body)
    message = f"{member.name}: {status} {code or said or 'without a reason'}"
    if code and said:
        message = f"{member.name}: {status} {code}: {said}"
    if status == 451:
        said = f" ({why})" if (why := _sentence(said)) else ""
        return Refused(
            f"{member.name}: 451: it serves nobody where we ask from{said}; {member.elsewhere}"
        )
    if status == 401:  # what a key has to do with it is told apart before
        return Refused(message)
    if status in WAITS or "retry-after" in headers:
        wait = retry_after(headers, untold=WAITS.get(status, 10.0), least=1.0, most=LONGEST_BAN)
        return RateLimited(message, wait)
    if code == UNKNOWN_SYMBOL:
        return UnknownSymbol(message)
    return RestError(message)


def _complaint(body: bytes) -> tuple[str, str]:
    """Their code and their words, one line each; a body that is not theirs is all words."""
    try:
        reply = msgspec.json.decode(body, type=RestComplaint)
    except (ValueError, RecursionError):
        reply = RestComplaint()
    code, said = str(reply.code), reply.msg
    if not code and not said:
        said = body.decode("utf-8", "replace")
    return one_line(code, 20), one_line(said)


def _sentence(said: str, most: int = 120) -> str:
    """The first sentence of what they say, without addresses, cut at a word where it is long.

    A letter before a full stop ends no sentence: 'b. Eligibility'.
    """
    first = _END.split(said, maxsplit=1)[0]
    first = " ".join(_ADDRESS.sub("", first).split()).rstrip(".,;:")
    return first if len(first) <= most else first[: most - 1].rpartition(" ")[0] + " …"


_END = re.compile(r"(?<=\w\w)[.!?](?=\s|$)")
_ADDRESS = re.compile(r"(\b(in|at|see|under|on)\s+)?https?://\S+")


def _dialect(member: Member) -> Dialect:
    return Dialect(
        name=member.name,
        title=member.title,
        websocket_url=member.websocket_url,
        websocket_path="/stream",
        rest_url=member.rest_url,
        streamed=Timeframe.M5,
        timeframe_names=INTERVALS,
        closes=CloseRule.FLAG,
        settle=10_000,  # flags came 0.005-2 s after the end
        silent=True,  # thin markets: three of four sent nothing for a minute
        subscribe_within=10_000,  # not documented
        # 400 streams: what one lost socket puts in doubt stays small.
        products_per_connection=200,
        least_connections=2,
        streams_per_connection=1024,
        messages_per_second=3.0,  # documented: 5 per connection, answers to pings included
        maximum_age=DAY,
        rest_per_second=member.weight_per_minute / 60,
        rest_window=60,
        used_weight=used_weight,
        rest_rows=REPLY_ROWS,
        empties_omitted=False,
        geo=member.geo,
        fees=member.fees,
        documentation=member.documentation,
        subscribe=subscribe,
        unsubscribe=unsubscribe,
        read=functools.partial(read, member),
        candles_request=functools.partial(candles_request, member),
        read_candles=functools.partial(read_candles, member),
        products_requests=functools.partial(products_requests, member),
        read_products=functools.partial(read_products, member),
        time_request=time_request,
        read_time=functools.partial(read_time, member),
        refusal=functools.partial(refusal, member),
        account=member.account,
    )


BINANCE = _dialect(
    Member(
        name="binance",
        title="Binance",
        websocket_url="wss://stream.binance.com:9443",
        rest_url="https://api.binance.com",
        documentation="https://developers.binance.com/docs/binance-spot-api-docs",
        weight_per_minute=6_000,
        weight_of_candles=2,
        weight_of_listing=20,
        weight_of_tickers=80,
        # Leveraged tokens stay out, and 2.5 MB come instead of 17.
        listing={"permissions": "SPOT", "showPermissionSets": "false"},
        geo=Geo(
            refuses=frozenset({"US", "CA", "MY", "NL"}),
            alternative="binance_us",
            note="as its users tell; Binance.US serves the US alone",
        ),
        elsewhere="in the US: livermore run binance_us",
        fees=Fees(note="by volume and account: GET /api/v3/account/commission tells yours"),
        account=binance_account.BINANCE,
    )
)

BINANCE_US = _dialect(
    Member(
        name="binance_us",
        title="Binance.US",
        websocket_url="wss://stream.binance.us:9443",
        rest_url="https://api.binance.us",
        documentation="https://github.com/binance-us/binance-us-api-docs",
        weight_per_minute=1_200,
        weight_of_candles=1,
        weight_of_listing=10,
        weight_of_tickers=40,
        geo=Geo(
            only=frozenset({"US"}),
            alternative="binance",
            note="some states are left out",
        ),
        elsewhere="outside the US: livermore run binance",
        fees=Fees(note="by volume and account: GET /api/v3/account tells yours"),
        account=binance_account.BINANCE_US,
    )
)
