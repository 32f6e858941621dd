"""Where everything lies in Redis: keys, channels, and candles as text.

Calls are built here and run by :mod:`livermore.adapters.redis`, so that one batch carries many.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import msgspec

from livermore.adapters.redis import DIGESTS, Call, answered, script
from livermore.adapters.wire import Packed, bulk
from livermore.errors import ImpossibleCandle, MalformedMessage, StoreError
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import TIMEFRAMES, Timeframe

KEEP = 1000
"""Closed candles per series."""
PRIVATE = 24 * 3600 * 1000
"""How long (ms) the keys of one user stay after their last use, give or take :data:`JITTER`."""
JITTER = 0.1
"""So that what was written together does not expire together."""
TOLD = 24 * 3600 * 1000
"""How long (ms) it is remembered what was last announced of older candles."""


@attrs.frozen
class Keys:
    """Keys and channels of one series."""

    candles: str
    companion: str
    indicator: str
    close_channel: str
    correct_channel: str
    update_channel: str
    indicator_channel: str
    identity: str


@functools.cache
def keys(series: Series) -> Keys:
    """Keys and channels of ``series``."""
    exchange, symbol, tf = series.exchange, series.symbol, series.timeframe.value
    private = "user" if series.owner else ""
    candles = f"{private}candles:{series.name}"
    channel = f"channel:exchange:{exchange}"
    return Keys(
        candles=candles,
        companion=f"series:{{{candles}}}",
        indicator=f"{private}indicator:{series.name}:macdv",
        close_channel=f"{channel}:candle:close:{symbol}:{tf}",
        correct_channel=f"{channel}:candle:correct:{symbol}:{tf}",
        update_channel=f"{channel}:candle:update:{symbol}:{tf}",
        indicator_channel=f"{channel}:indicator:{symbol}:{tf}:macdv",
        identity=f'"exchange":"{exchange}","symbol":"{symbol}","timeframe":"{tf}",',
    )


def ticker_key(exchange: str, symbol: str) -> str:
    """Last ticker of a symbol."""
    return f"ticker:{exchange}:{symbol}"


def ticker_channel(exchange: str, symbol: str) -> str:
    """Where tickers of a symbol are published."""
    return f"channel:exchange:{exchange}:ticker:{symbol}"


def lifecycle_channel(exchange: str) -> str:
    """Where what happens to a feed is published."""
    return f"channel:exchange:{exchange}:lifecycle"


def status_key(exchange: str) -> str:
    """Status of the running feed."""
    return f"exchange:{exchange}:status"


def lease_key(exchange: str) -> str:
    """Who writes this exchange."""
    return f"lease:{exchange}"


def budget_key(exchange: str) -> str:
    """REST budget of this exchange."""
    return f"budget:{exchange}"


def gaps_key(exchange: str) -> str:
    """Ledger of gaps of this exchange."""
    return f"gaps:{exchange}"


def following_key(exchange: str) -> str:
    """What is followed beside the settings, and in which mode."""
    return f"following:{exchange}"


# -- who holds an exchange, and what it says beside its candles ---------------------------------


@attrs.frozen
class Held:
    """Who holds an exchange and who waits for it, for people; ``left`` is in ms."""

    holder: str
    left: int
    standbys: tuple[str, ...]


def held_calls(exchange: str) -> list[Call]:
    """Ask who holds ``exchange``."""
    key = lease_key(exchange)
    return [("HGETALL", key), ("PTTL", key)]


def held(replies: Sequence[Any]) -> Held | None:
    """The replies to :func:`held_calls`; None when nobody holds it."""
    found, left = replies
    fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    if b"holder" not in fields:
        return None
    waiting = [fields[name].partition(b" ")[2] for name in sorted(fields) if b"standby " in name]
    return Held(
        process_text(fields.get(b"description", b"")), max(0, left), (*map(process_text, waiting),)
    )


def process_text(description: bytes) -> str:
    """``process 12 on box, since …`` from what a process says of itself."""
    try:
        who = msgspec.json.decode(description or b"{}")
    except msgspec.DecodeError:
        who = None
    if not isinstance(who, dict):
        who = {}
    since = f", since {who['since']}" if "since" in who else ""
    return f"process {who.get('pid', '?')} on {who.get('host', '?')}{since}"


def publish(
    key: str, channel: str, text: str | bytes, *, epoch: int, seconds: int | None = None
) -> Call:
    """Publish ``text``, and store it for ``seconds``. The reply is -1 where ``key`` tells of a
    later epoch: it is the key itself, or one that belongs to the same thing."""
    return script("publish", (key,), channel, text, "" if seconds is None else seconds, epoch)


def keep(key: str, text: bytes, seconds: int, epoch: int) -> Call:
    """As :func:`publish`, stored and not published."""
    return script("publish", (key,), "", text, seconds, epoch)


def forget(key: str, epoch: int) -> Call:
    """As :func:`publish`: what is stored goes."""
    return script("publish", (key,), "", "", 0, epoch)


SUCCEEDED = -1
"""What these calls reply where they were not heard."""


# -- keys of somebody else --------------------------------------------------------------------


def types(series: Series) -> dict[str, str]:
    """What type Redis should give the keys of ``series``, where they exist."""
    named = keys(series)
    return {named.candles: "zset", named.companion: "hash", named.indicator: "string"}


def exchange_types(exchange: str) -> dict[str, str]:
    """As :func:`types`, of what the exchange can go on without for a while."""
    keys = (budget_key(exchange), gaps_key(exchange), following_key(exchange))
    return dict.fromkeys(keys, "hash")


def is_foreign(reply: object) -> bool:
    """Whether a call was refused because its key holds a value that is not ours."""
    return (
        type(reply) is StoreError
        and answered(reply)
        and "WRONGTYPE" in str(reply.__cause__).upper()
    )


def raise_unless_foreign(replies: Iterable[object]) -> None:
    """Raise the worst error among ``replies`` that is about more than one key."""
    errors = [r for r in replies if isinstance(r, StoreError) and not is_foreign(r)]
    if errors:
        raise next((error for error in errors if type(error) is not StoreError), errors[0])


def foreign_text(key: str) -> str:
    """What is wrong with a key of somebody else, and the next step."""
    return (
        f"{key} holds another type of value than ours, another program uses it: "
        "rename or delete it, or use another database"
    )


# -- candles as text --------------------------------------------------------------------------


class StoredCandle(msgspec.Struct):
    """A member of the sorted set."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    kind: str
    evidence: str
    as_of: int
    revision: int


_stored = msgspec.json.Decoder(StoredCandle)


def decode_candle(series: Series, member: bytes) -> Candle:
    """A stored member as a candle; raises :class:`MalformedMessage` when it is not one of ours."""
    try:
        row = _stored.decode(member)
        return Candle(
            series, row.open_time, row.open, row.high, row.low, row.close, row.volume,
            Kind(row.kind), Evidence.parse(row.evidence), row.as_of, row.revision,
        )  # fmt: skip
    except (msgspec.MsgspecError, ValueError, KeyError, ImpossibleCandle) as error:
        raise MalformedMessage(
            f"{keys(series).candles} holds what is no candle ({error})", member
        ) from None


def decode_candles(series: Series, members: Iterable[bytes]) -> tuple[list[Candle], int]:
    """Candles in order, and how many members were not candles of ours."""
    candles: list[Candle] = []
    damaged = 0
    for member in members:
        try:
            candles.append(decode_candle(series, member))
        except MalformedMessage:
            damaged += 1
    return candles, damaged


def prices(candle: Candle) -> str:
    """Open, high, low and close as JSON text; floats by ``repr``, the shortest that round-trips."""
    return (
        f'"open":{candle.open!r},"high":{candle.high!r},'
        f'"low":{candle.low!r},"close":{candle.close!r}'
    )


# -- writing ----------------------------------------------------------------------------------


@attrs.frozen
class Edge:
    """Where the indicator can be replayed from: state after and before the candle at ``time``."""

    time: int
    after: bytes
    before: bytes


APPENDED = "a"
"""The codes of what nearly every write brings: one new newest candle."""


@attrs.frozen
class Written:
    """What the script made of a batch. ``codes`` has one letter per candle, see ``candles.lua``."""

    series: Series
    candles: Sequence[Candle]
    stored: int
    version: int
    codes: str
    oldest: bytes
    corrected_version: int
    history: bool = False

    @property
    def appended_only(self) -> bool:
        """Whether nothing happened but new newest candles (or nothing at all)."""
        return self.codes == APPENDED or not self.codes.strip("asvwto")

    def having(self, codes: str) -> list[Candle]:
        """The candles that got one of ``codes``."""
        if len(self.codes) == 1:
            return [*self.candles] if self.codes in codes else []
        return [c for c, code in zip(self.candles, self.codes, strict=True) if code in codes]


def write(
    series: Series,
    epoch: int,
    candles: Sequence[Candle],
    *,
    history: bool = False,
    settled: int = 0,
    edge: Edge | None = None,
    life: int = 0,
) -> Call:
    """Store ``candles`` (ascending). An empty takes the close stored before it, if there is one.

    Of ``history`` ``settled`` is the open time it ends with; the first of it that is stored makes
    all up to there silent.
    ``life`` is that of a private series, see :func:`life`.
    """
    key, start, joins = _packed(series, epoch)
    saved = NO_EDGE if edge is None else _edge(edge.time, edge.after, edge.before)
    told = bulk(settled) if history else NOTHING
    parts = [
        b"*%d\r\n" % (ARGUMENTS + 5 * len(candles)),
        start, told, saved, bulk(life) if life else NOTHING,
    ]  # fmt: skip
    for candle in candles:
        shown = prices(candle) if candle.kind is Kind.TRADED else repr(candle.close)
        volume = repr(candle.volume)
        # Figures are ASCII: as many bytes as characters.
        parts.append(
            f"{_figure(candle.open_time)}${len(shown)}\r\n{shown}\r\n"
            f"${len(volume)}\r\n{volume}\r\n{EVIDENCE[candle.evidence]}"
            f"{_figure(candle.as_of)}".encode()
        )
    packed = Packed(b"".join(parts))
    if len(candles) == 1 and candles[0].kind is Kind.TRADED:
        packed.joins = joins
    return ("EVALSHA", DIGESTS["candles"], 2, key, packed)


ARGUMENTS = 16
"""What a write consists of before its first candle."""
NOTHING = bulk("")
NO_EDGE = NOTHING * 3
EVIDENCE = [bulk(int(one)).decode() for one in Evidence]


@functools.lru_cache(maxsize=64)
def _figure(time: int) -> str:
    """A time as it is sent: those of candles that are written together are few."""
    return bulk(time).decode()


def _edge(time: int, after: bytes, before: bytes) -> bytes:
    return b"%b%b%b" % (_figure(time).encode(), bulk(after), bulk(before))


@functools.lru_cache(maxsize=20_000)
def _packed(series: Series, epoch: int) -> tuple[str, bytes, tuple[int, int, int]]:
    """The first key of a write, what of it is the same every time, ready to be sent, and where that
    can be joined with others, where it is of one traded candle."""
    named = keys(series)
    start = b"".join([bulk("EVALSHA"), bulk(DIGESTS["candles"]), bulk(2)])
    both = bulk(named.candles) + bulk(named.companion)
    words: tuple[str | int, ...] = (
        epoch, KEEP, series.timeframe.ms, named.close_channel, named.correct_channel,
        named.identity,
    )  # fmt: skip
    first = len(b"*%d\r\n" % (ARGUMENTS + 5)) + len(start)
    joins = (first, first + len(both), ARGUMENTS + 5 - 3)
    return named.candles, start + both + b"".join([bulk(word) for word in words]), joins


def written(
    series: Series, candles: Sequence[Candle], reply: Any, *, history: bool = False
) -> Written:
    """The reply to :func:`write`."""
    stored, version, codes, oldest, corrected = reply
    return Written(
        series, candles, int(stored), int(version), codes.decode(), oldest, int(corrected), history
    )


# -- readings ---------------------------------------------------------------------------------


@attrs.frozen
class Companion:
    """What the indicator needs of a series' companion hash."""

    version: int
    corrected: int
    """Version of the last change that was not an append."""
    edge_time: int | None
    edge: bytes
    base: bytes
    cursor: int | None = None
    """The newest candle that was stored silently."""
    corrected_from: int | None = None
    """The oldest candle that was inserted or corrected since readings were told."""
    changed_from: int | None = None
    """The oldest of those that were there before, and were corrected."""


def companion(series: Series) -> Call:
    """Ask for the companion of ``series``."""
    named = keys(series).companion
    fields = (
        "version",
        "corrected",
        "edge_time",
        "edge",
        "base",
        "cursor",
        "corrected_from",
        "changed_from",
    )
    return ("HMGET", named, *fields)


def read_companion(reply: Sequence[bytes | None]) -> Companion:
    """The reply to :func:`companion`; raises :class:`MalformedMessage`."""
    version, corrected, edge_time, edge, base, cursor, corrected_from, changed_from = reply
    try:
        return Companion(
            int(version or 0),
            int(corrected or 0),
            int(edge_time) if edge_time else None,
            edge or b"",
            base or b"",
            int(cursor) if cursor else None,
            int(corrected_from) if corrected_from else None,
            int(changed_from) if changed_from else None,
        )
    except ValueError:
        raise MalformedMessage("a series hash holds what is no version", repr(reply)) from None


def whole(series: Series) -> Call:
    """Ask for the companion and every member of ``series`` at one moment: the fields of
    :func:`companion`, then the members."""
    named = keys(series)
    return script("whole", (named.candles, named.companion))


def reading(series: Series, text: bytes, *, older: bool = False, life: int = 0) -> Call:
    """Store and announce a reading; one of an ``older`` candle is announced alone, unless the last
    one announced of it within a day says the same.

    ``life`` as of :func:`write`.
    """
    named = keys(series)
    if older:
        both = (named.indicator, f"told:{{{named.indicator}}}")
        return script("reading", both, text, named.indicator_channel, "1", life or "", TOLD)
    return script("reading", (named.indicator,), text, named.indicator_channel, "", life or "")


def recomputed(series: Series, epoch: int, version: int) -> Call:
    """The readings behind every correction up to ``version`` were announced."""
    return script("recomputed", (keys(series).companion,), epoch, version)


# -- keys of one user -------------------------------------------------------------------------


def life(series: Series, chance: Callable[[], float]) -> int:
    """How long (ms) what is stored of ``series`` now stays unless it is used: 0 for ever."""
    if not series.owner:
        return 0
    return round(PRIVATE * (1 + JITTER * (2 * chance() - 1)))


def renew(series: Iterable[Series], chance: Callable[[], float]) -> list[Call]:
    """Those of ``series`` that are private are used: they stay for a while longer."""
    calls: list[Call] = []
    for one in series:
        if left := life(one, chance):
            named = keys(one)
            calls += [
                script("renew", (named.candles, named.companion), left),
                ("PEXPIRE", named.indicator, left),
            ]
    return calls


# -- series that come and go ------------------------------------------------------------------


def remove(series: Series, epoch: int) -> list[Call]:
    """Everything that is stored of ``series`` goes."""
    named = keys(series)
    return [
        script("remove", (named.candles, named.companion), epoch),
        forget(named.indicator, epoch),
    ]


def read_all(series: Series) -> list[Call]:
    """Ask for everything that is stored of ``series``, for :func:`adopt`."""
    named = keys(series)
    return [
        ("ZRANGE", named.candles, 0, -1),
        ("HGETALL", named.companion),
        ("GET", named.indicator),
    ]


def adopt(series: Series, epoch: int, replies: Sequence[Any], life: int = 0) -> list[Call]:
    """Store as ``series`` what was read of it under another owner; nothing where there was nothing.

    ``life`` as of :func:`write`.
    """
    members, fields, reading = replies
    if not members:
        return []
    named = keys(series)
    if isinstance(fields, dict):
        fields = [text for pair in fields.items() for text in pair]
    arguments: list[str | bytes | int] = [epoch, life or "", len(fields) // 2, *fields]
    for member in members:
        with contextlib.suppress(MalformedMessage):
            arguments += [decode_candle(series, member).open_time, member]
    calls = [script("adopt", (named.candles, named.companion), *arguments)]
    if reading is not None:
        calls.append(("SET", named.indicator, reading, *(("PX", life) if life else ())))
    return calls


# -- looking ----------------------------------------------------------------------------------


@attrs.frozen
class Survey:
    """What a series holds: counts, bounds, and the missing ranges (first and last open time)."""

    series: Series
    stored: int
    traded: int
    oldest: int | None
    newest: int | None
    asked_from: int | None
    cursor: int | None
    missing: tuple[tuple[int, int], ...]
    oldest_traded: int | None = None


def survey(series: Series, first: int, last: int) -> Call:
    """Ask what ``series`` holds between two open times."""
    named = keys(series)
    return script("survey", (named.candles, named.companion), first, last, series.timeframe.ms)


def surveyed(series: Series, reply: Sequence[Any]) -> Survey:
    """The reply to :func:`survey`."""
    numbers = [int(value) for value in reply]
    oldest, newest, asked_from, cursor, oldest_traded = (
        None if n == -1 else n for n in numbers[2:7]
    )
    ranges = numbers[7:]
    missing = tuple(zip(ranges[::2], ranges[1::2], strict=True))
    return Survey(
        series, numbers[0], numbers[1], oldest, newest, asked_from, cursor, missing, oldest_traded
    )


def range_call(series: Series, first: int | str, last: int | str) -> Call:
    """Stored members between two open times (``-inf``, ``+inf``)."""
    return ("ZRANGEBYSCORE", keys(series).candles, first, last)


def newest_call(series: Series, count: int) -> Call:
    """The newest ``count`` stored members, ascending."""
    return ("ZRANGE", keys(series).candles, -count, -1)


_CANDLES_KEY = re.compile(r"^(?:candles|usercandles:([^:]+)):([a-z_]+):([^:]+):(5m|15m|1h|4h|1d)$")


def parse_candles_key(key: str) -> Series | None:
    """The series whose candles lie at ``key``."""
    found = _CANDLES_KEY.match(key)
    return Series(found[2], found[3], Timeframe.parse(found[4]), found[1] or "") if found else None


def all_series(exchange: str, symbol: str, owner: str = "") -> tuple[Series, ...]:
    """The series of one symbol, shortest timeframe first."""
    return tuple(Series(exchange, symbol, timeframe, owner) for timeframe in TIMEFRAMES)
