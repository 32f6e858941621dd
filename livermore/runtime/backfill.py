"""Filling gaps because a person asked: by the daemon that holds the lease, or here and now.

With a daemon running, the gaps go into its ledger and their progress is followed there. Otherwise
the lease is taken, the same repairs run for these gaps alone, and the lease is given back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.bans import Bans
from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.dialect import Dialect
from livermore.errors import MalformedMessage, StoreError, UnknownSymbol, UsageError
from livermore.market.candle import Series
from livermore.market.clock import ExchangeClock
from livermore.market.gap import Gap, Lane, Outcome, decode_gap, encode_gap, pages
from livermore.market.history import DEEPEST, window
from livermore.market.product import resolve, same_market, unknown_symbol
from livermore.market.timeframe import Timeframe, iso
from livermore.market.tracker import Pending
from livermore.runtime.journal import Journal
from livermore.runtime.lease import Lease
from livermore.runtime.repairs import ALLOWANCE, Repairs
from livermore.runtime.rest import SHARE, Budget, Rest
from livermore.runtime.writer import Writer

FOLLOW = 0.3
"""Seconds between two looks at the ledger."""
TRIES = 3
"""Failed requests after which a range is left for later."""
UNTOUCHED = 20.0
"""Seconds after which a daemon that does not take the gaps up is said to be stuck."""

Report = Callable[[int, int, str], None]
"""Told how many of how many ranges are done, and what is being done."""


@attrs.frozen
class Wish:
    """What a person asked for; ``since`` in ms, None for the depth the indicator wants."""

    symbols: tuple[str, ...]
    timeframes: tuple[Timeframe, ...]
    since: int | None


@attrs.frozen
class Filled:
    """What was planned and what of it the store still lacks, as ranges that do not overlap.

    ``by`` says who did it: ``daemon``, ``this command`` or ``nobody``. ``absent`` counts the
    planned candles that the exchange, being asked, turned out never to have had.
    """

    planned: tuple[Gap, ...]
    requests: int
    remaining: tuple[Gap, ...]
    by: str
    notices: tuple[str, ...] = ()
    absent: int = 0


async def fill(
    redis: Redis,
    dialect: Dialect,
    rest_url: str,
    wish: Wish,
    report: Report,
    *,
    dry_run: bool,
    holder: str,
    description: dict[str, object],
    chance: Callable[[], float],
    bans: Bans | None = None,
) -> Filled:
    """Plan and, unless ``dry_run``, fill. Raises :class:`~livermore.errors.LivermoreError`."""
    clock = ExchangeClock()

    def now() -> int | None:
        return clock.read(trio.current_time())

    async with Http(rest_url) as http:
        per_second = SHARE * dialect.rest_per_second
        rest = Rest(dialect, http, Budget(redis, dialect.name, per_second, bans), now)
        met = await meet(redis, dialect, rest, clock, wish)
        notices = met.notices
        planned = await plan(redis, met, dialect, wish, now() or 0)
        requests = sum(
            sum(1 for _ in pages(gap.first, gap.last, gap.series.timeframe, dialect.rest_rows))
            for gap in planned
        )
        if dry_run or not planned:
            return Filled(planned, requests, planned if dry_run else (), "nobody", notices)
        if met.by_daemon:
            told = await _by_daemon(redis, dialect.name, planned, report)
            remaining, absent = await _left(redis, planned, told)
            return Filled(planned, requests, remaining, "daemon", notices, absent)
        lease = Lease(redis, dialect.name, holder, description)
        await lease.take()
        try:
            told = await _here(
                redis, dialect, rest, lease, met.natives, planned, report, now, chance
            )
        finally:
            with trio.CancelScope(shield=True):
                await lease.release()
        remaining, absent = await _left(redis, planned, told)
        return Filled(planned, requests, remaining, "this command", notices, absent)


@attrs.frozen
class Met:
    """Who does what was asked for, and the names of what it is about."""

    by_daemon: bool
    symbols: tuple[str, ...]
    natives: Mapping[str, str]
    notices: tuple[str, ...]
    owners: Mapping[str, str] = attrs.Factory(dict)
    """Symbol -> the one user in whose keys the daemon has it."""

    def series(self, exchange: str, timeframe: Timeframe) -> list[Series]:
        """Those of one timeframe."""
        owner = self.owners.get
        return [Series(exchange, one, timeframe, owner(one, "")) for one in self.symbols]


async def meet(redis: Redis, dialect: Dialect, rest: Rest, clock: ExchangeClock, wish: Wish) -> Met:
    """Find the daemon that runs, or else ask the exchange; ``clock`` is set either way.

    Raises :class:`UnknownSymbol`, :class:`StoreError` and :class:`~livermore.errors.RestError`.
    """
    status = await running(redis, dialect.name)
    if status is not None:
        symbols, notices = _followed(status, wish.symbols)
        clock.hear(int(status["clock"] or 0), trio.current_time())
        owners = status.get("owners")
        return Met(True, symbols, {}, notices, owners if isinstance(owners, dict) else {})
    clock.hear(await rest.time(), trio.current_time())
    resolution = resolve(await rest.products(), wish.symbols)
    natives = {product.symbol: product.native for product in resolution.products}
    return Met(False, tuple(natives), natives, resolution.notices)


async def running(redis: Redis, exchange: str) -> Mapping[str, Any] | None:
    """Status of the daemon that runs this exchange, None when none does."""
    text = await redis.one("GET", store.status_key(exchange))
    try:
        status = json.loads(text) if text else None
    except ValueError:
        return None
    return (
        status
        if isinstance(status, dict) and status.get("clock") and status.get("symbols")
        else None
    )


def _followed(
    status: Mapping[str, Any], wanted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The symbols a daemon knows ``wanted`` by, and notices; raises :class:`UnknownSymbol`."""
    aliases = status.get("aliases")
    aliases = aliases if isinstance(aliases, dict) else {}
    chosen: dict[str, None] = {}
    notices: list[str] = []
    for symbol in wanted:
        name = symbol if symbol in status["symbols"] else aliases.get(symbol, symbol)
        if name not in status["symbols"]:
            hint = unknown_symbol(symbol, status["symbols"]).removeprefix("unknown symbol ")
            raise UnknownSymbol(f"the running daemon does not follow {hint}")
        if name != symbol:
            notices.append(same_market(symbol, name))
        chosen[name] = None
    return tuple(chosen), tuple(notices)


async def plan(redis: Redis, met: Met, dialect: Dialect, wish: Wish, now: int) -> tuple[Gap, ...]:
    """What is missing, newest and shortest timeframe first. Raises :class:`UsageError`."""
    settled = now - ALLOWANCE
    gaps: list[Gap] = []
    for timeframe in wish.timeframes:
        first, last = bounds(timeframe, wish.since, settled)
        if first > last:
            continue
        series = met.series(dialect.name, timeframe)
        replies = await redis.run([store.survey(one, first, last) for one in series], "read")
        for one, reply in zip(series, replies, strict=True):
            found = store.surveyed(one, reply)
            gaps.extend(
                Gap(one, start, end, "asked for by hand", now, Lane.BY_HAND, next_try=now)
                for start, end in lacking(found)
            )
    return tuple(gaps)


def bounds(timeframe: Timeframe, since: int | None, settled: int) -> tuple[int, int]:
    """First and last open time of what is asked for; raises :class:`UsageError` if too deep."""
    first, last = window(timeframe, settled)
    if since is not None:
        first = timeframe.ceil(since)
        oldest = last - (DEEPEST - 1) * timeframe.ms
        if first < oldest:
            raise UsageError(
                f"--since reaches further back than the newest {DEEPEST} candles "
                f"of {timeframe}: use a longer timeframe, or --since {iso(oldest)}"
            )
    return first, last


def lacking(found: store.Survey) -> list[tuple[int, int]]:
    """The missing ranges worth asking for, newest first: not what the exchange never had."""
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(found.missing, reverse=True):
        finish = end
        if found.asked_from is not None and (found.oldest is None or end < found.oldest):
            finish = min(end, found.asked_from - found.series.timeframe.ms)
        if start <= finish:
            ranges.append((start, finish))
    return ranges


async def _left(
    redis: Redis, planned: Sequence[Gap], told: Sequence[Gap]
) -> tuple[tuple[Gap, ...], int]:
    """What the store lacks of the planned ranges now, and how much of them never existed.

    ``told`` are gaps that are known to be open: they say how often and why in vain.
    """
    calls = [store.survey(gap.series, gap.first, gap.last) for gap in planned]
    replies = await redis.run(calls, "read")
    left: list[Gap] = []
    missing = 0
    for gap, reply in zip(planned, replies, strict=True):
        found = store.surveyed(gap.series, reply)
        missing += sum((end - start) // gap.series.timeframe.ms + 1 for start, end in found.missing)
        for start, end in lacking(found):
            about = [
                one
                for one in told
                if one.series == gap.series and one.first <= end and one.last >= start
            ]
            why = max(about, key=lambda one: (one.name == gap.name, one.attempts), default=gap)
            left.append(attrs.evolve(why, first=start, last=end))
    return tuple(left), missing - sum(gap.slots for gap in left)


async def _by_daemon(
    redis: Redis, exchange: str, planned: Sequence[Gap], report: Report
) -> tuple[Gap, ...]:
    """Hand the gaps to the daemon and follow them in its ledger."""
    key = store.gaps_key(exchange)
    waiting = {gap.name: gap for gap in planned}
    for gap in planned:
        known = _open_gap(exchange, await redis.one("HGET", key, gap.name))
        if known is not None and gap.last <= known.last:
            waiting[gap.name] = known  # tries that were made before do not count
        else:
            await redis.run([("HSET", key, gap.name, encode_gap(gap))], "publish")
    left: list[Gap] = []
    idle_since = trio.current_time()
    while waiting:
        report(len(planned) - len(waiting), len(planned), "the daemon asks for them")
        await trio.sleep(FOLLOW)
        names = list(waiting)
        entries = await redis.one("HMGET", key, *names)
        for name, text in zip(names, entries, strict=True):
            gap = waiting[name]
            current = None
            try:
                current = decode_gap(exchange, text) if text is not None else None
            except MalformedMessage:
                current = None
            if current is None or current.outcome is Outcome.FILLED:
                del waiting[name]
            elif current.outcome is Outcome.UNFILLABLE or current.attempts > gap.attempts:
                left.append(current)
                del waiting[name]
            else:
                continue
            idle_since = trio.current_time()
        if (
            waiting
            and trio.current_time() - idle_since > UNTOUCHED
            and await running(redis, exchange) is None
        ):
            raise StoreError(
                "the daemon ended meanwhile: the ranges stay in its ledger; start it again"
            )
    report(len(planned), len(planned), "done")
    return tuple(left)


def _open_gap(exchange: str, text: bytes | None) -> Gap | None:
    try:
        gap = decode_gap(exchange, text) if text is not None else None
    except MalformedMessage:
        return None
    return gap if gap is not None and gap.outcome is Outcome.OPEN else None


async def _here(
    redis: Redis,
    dialect: Dialect,
    rest: Rest,
    lease: Lease,
    natives: Mapping[str, str],
    planned: Sequence[Gap],
    report: Report,
    now: Callable[[], int | None],
    chance: Callable[[], float],
) -> tuple[Gap, ...]:
    """Repair these gaps under our own lease; returns those that stay open.

    What an earlier run left in the ledger is taken up as well, but not waited for.
    """
    names = {gap.name for gap in planned}
    async with repairing(redis, dialect, rest, lease, natives, now, chance) as (repairs, nursery):
        for gap in planned:
            repairs.add(gap.series, gap.first, gap.last, gap.cause, gap.lane)
        nursery.start_soon(repairs.run)
        while True:
            still = [
                gap for gap in repairs.open_gaps
                if gap.name in names
                and (gap.attempts == 0 or (gap.attempts < TRIES and gap.omitted_at is None))
            ]  # fmt: skip
            report(len(planned) - len(still), len(planned), "asking the exchange")
            if not still:
                break
            await trio.sleep(0.1)
        left = tuple(repairs.open_gaps)
    report(len(planned), len(planned), "done")
    return left


@contextlib.asynccontextmanager
async def repairing(
    redis: Redis,
    dialect: Dialect,
    rest: Rest,
    lease: Lease,
    natives: Mapping[str, str],
    now: Callable[[], int | None],
    chance: Callable[[], float],
) -> AsyncIterator[tuple[Repairs, trio.Nursery]]:
    """Repairs under our own lease, their writer running; all of it ends with the block."""
    journal = Journal(dialect.name)
    writer = Writer(
        redis, lease, Pending(),
        clock=now, stored=lambda _: None, edge=lambda _: None,
        missing=lambda _: None, suspects=lambda _: None, back=lambda: None, chance=chance,
    )  # fmt: skip
    repairs = Repairs(
        dialect, redis, lease, rest, writer, natives,
        clock=now, say=lambda event, fields: journal.debug(event, **fields),
        progressed=lambda: None, chance=chance,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        nursery.start_soon(lease.hold, lambda: None)
        yield repairs, nursery
        nursery.cancel_scope.cancel()
