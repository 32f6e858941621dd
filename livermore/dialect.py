"""What an exchange file must provide: facts as data, and a few pure functions.

The shared runner shards, paces, waits, counts acknowledgements, keeps to the budget; a dialect only
knows one exchange's language. ``read`` is the only door for frames: damaged input leaves it as
:class:`~livermore.errors.MalformedMessage`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs

from livermore.errors import LivermoreError
from livermore.market.account import Balance, Fault, FeeTier, Fill, Rights
from livermore.market.candle import Series
from livermore.market.events import Frame
from livermore.market.flagged import FlagTracker
from livermore.market.history import Row
from livermore.market.product import Product
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Pending, Tracker

__all__ = [
    "Account",
    "CloseRule",
    "Credentials",
    "Dialect",
    "Fees",
    "Geo",
    "Page",
    "Part",
    "Request",
    "Row",
    "Subscription",
    "tracker_of",
]

T = TypeVar("T")


class CloseRule(enum.Enum):
    """How a slot of the streamed timeframe is known to have ended."""

    TRADES = "trades"
    """Contiguous trade ids prove it; the candle channel is cross-check and fallback."""
    FLAG = "flag"
    """The exchange says so; nothing else closes a candle."""
    CLOCK = "clock"
    """The exchange's clock passes the end by ``settle``."""


@attrs.frozen
class Request:
    """A REST request below the exchange's base URL. Parameter values are text."""

    path: str
    params: Mapping[str, str] = attrs.field(factory=dict)
    weight: int = 1
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Not in the repr: they may hold a key."""


@attrs.frozen
class Subscription:
    """One frame to send, and what a positive answer to it will list."""

    channel: str
    frame: str
    natives: frozenset[str]
    token: str = ""
    """Of an answer that lists nothing, but repeats this (:class:`~..market.events.Confirmed`)."""


@attrs.frozen
class Geo:
    """Where the exchange serves nobody. Countries as ISO 3166-1 alpha-2."""

    refuses: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    """Where it serves nobody else; empty: it does not say so."""
    alternative: str = ""
    """Name of the exchange to use instead there."""
    note: str = ""

    def serves(self, country: str) -> bool:
        """Whether somebody in ``country`` is served, as far as is known."""
        return country not in self.refuses and (not self.only or country in self.only)


@attrs.frozen
class Fees:
    """Of the lowest tier, as fractions of the traded value; None: not known."""

    maker: float | None = None
    taker: float | None = None
    note: str = ""


@attrs.frozen
class Part:
    """One part of what an exchange gives its users to prove who they are."""

    name: str
    """As settings call it, such as ``secret``."""
    title: str
    """For people."""
    variable: str
    """The environment variable it is taken from where no other was named."""


@attrs.frozen
class Credentials:
    """A user's key, by the names of its parts. Its values are in no repr."""

    values: Mapping[str, str] = attrs.field(repr=False)

    def __getitem__(self, part: str) -> str:
        return self.values[part]


@attrs.frozen
class Page(Generic[T]):
    """A part of an answer, and the request for the next one, if there is more."""

    rows: tuple[T, ...]
    next: Request | None = None


@attrs.frozen(kw_only=True)
class Account:
    """How a user's own account is asked about. Everything here needs the right to view, no more."""

    wants: tuple[Part, ...]
    complaints: Callable[[Credentials], Mapping[str, str]]
    """Part -> what is wrong with it by itself; never a value or a piece of one."""
    sign: Callable[[Request, str, Credentials, int, str], Request]
    """Request, host, a key without complaints, the exchange's time (ms) and a text never used
    before -> the request as it is sent, for a moment."""
    fault: Callable[[int, Mapping[str, str], bytes], Fault | None]
    """Status, headers, body -> why a signed request was not taken; None: not for its signature."""

    balances_request: Request
    read_balances: Callable[[Request, bytes], Page[Balance]]
    """Readers get the request and its reply, and raise
    :class:`~livermore.errors.MalformedMessage`."""
    fills_requests: Callable[[Sequence[Product]], Sequence[Request]]
    """Products -> the first pages of all that was ever traded of them."""
    read_fills: Callable[[Request, bytes], Page[Fill]]
    fees_request: Request
    read_fees: Callable[[bytes], FeeTier]
    rights_request: Request
    read_rights: Callable[[bytes], Rights]


@attrs.frozen(kw_only=True)
class Dialect:
    """One exchange. Durations in ms unless the name says otherwise."""

    name: str
    title: str
    websocket_url: str
    """Without the path of :attr:`websocket_path`."""
    rest_url: str
    websocket_path: str = ""
    """What is asked for at that address, or at another that stands in for it."""

    streamed: Timeframe
    timeframe_names: Mapping[Timeframe, str]
    closes: CloseRule
    settle: int
    """After a slot's end, how long its trades may still be on their way."""
    sample_lag: int | None = None
    """After a slot's end, when the candle channel has shown its final state; None: never."""
    sample_every: int | None = None
    """The candle channel shows the state at whole multiples of this, if it does."""
    sample_delay: int = 0
    """How long after such a mark its state is published at the earliest."""
    silent: bool = False
    """Whether a socket may be silent for long while nothing trades: only a ping tells then."""
    ping: str | None = None
    """The frame that keeps a connection alive, sent every 12 s, where the exchange does not count
    pings of the protocol; what it answers is read like any frame. None: those will do."""
    stamped: bool = True
    """Whether frames say when they were sent. Where none does, REST is asked for the time."""
    subscribe_within: int
    """After connecting, when the exchange hangs up on a silent client."""
    products_per_connection: int
    least_connections: int = 1
    """Even if fewer would do: products are dealt out, one lost socket is not all of the large."""
    messages_per_second: float
    """Frames we may send."""
    messages_shared: bool = False
    """Whether that counts all connections of an address together, or each alone."""
    maximum_message: int = 16 * 1024 * 1024
    """Bytes; a larger frame ends the connection."""
    maximum_age: int | None = None
    """Of a connection: before it a new one takes over. None: it may live for good."""
    streams_per_connection: int | None = None
    """Documented limit, which ``products_per_connection`` keeps to; None: none is known."""

    rest_per_second: float
    """Documented weight of requests per second; we use 80 % of it."""
    rest_window: int = 1
    """Seconds over which the exchange counts."""
    used_weight: Callable[[Mapping[str, str]], int | None] = lambda headers: None
    """Headers (lower-case names) -> what this address has used of the running window."""
    rest_rows: int
    """Candles per page that are always answered whole."""
    empties_omitted: bool
    """Whether REST leaves out slots without trades."""

    geo: Geo = Geo()
    fees: Fees = Fees()
    documentation: str = ""
    """Where the exchange documents what this file knows."""

    subscribe: Callable[[Sequence[str]], Sequence[Subscription]]
    """Native ids -> frames, in the order in which they must be sent."""
    unsubscribe: Callable[[Sequence[str]], Sequence[str]]
    read: Callable[[bytes | str], Frame]

    candles_request: Callable[[str, Timeframe, int, int], Request]
    """Native id, timeframe, first and last open time (both included) -> request."""
    read_candles: Callable[[bytes], Sequence[Row]]
    """Reply -> rows, ascending; damaged rows raise :class:`~livermore.errors.MalformedMessage`."""
    products_requests: Callable[[], Sequence[Request]]
    read_products: Callable[[Sequence[bytes]], Sequence[Product]]
    """Replies to all of these, in their order -> listings."""
    time_request: Callable[[], Request]
    read_time: Callable[[bytes], int]
    """Reply -> exchange time in ms."""
    refusal: Callable[[int, Mapping[str, str], bytes], LivermoreError | None]
    """Status, headers (lower-case names), body -> the error it means, None for an answer.

    Asked about every reply: some say in the body of a 200 what went wrong."""

    account: Account | None = None
    """None: not known here how to ask about one."""


def tracker_of(
    dialect: Dialect, series: Iterable[tuple[str, Series]], pending: Pending | None = None
) -> Tracker:
    """A tracker of ``series`` (with their native ids) that knows the exchange's ways."""
    if dialect.closes is CloseRule.FLAG:
        return FlagTracker(series, settle=dialect.settle, sample_lag=None, pending=pending)
    return Tracker(
        series,
        settle=dialect.settle,
        sample_lag=dialect.sample_lag,
        sample_every=dialect.sample_every,
        sample_delay=dialect.sample_delay,
        pending=pending,
    )
