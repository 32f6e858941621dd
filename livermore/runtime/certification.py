"""Comparing with REST because a person asked: by the daemon that holds the lease, or here and now.

With a daemon running, the ranges go into its ledger and come back with what was found; otherwise
the lease is taken, the same comparing is done here, and the lease is given back. What a certificate
says of the candles is read from the store afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.bans import Bans
from livermore.adapters.http import Http
from livermore.adapters.redis import Redis
from livermore.dialect import Dialect
from livermore.errors import MalformedMessage, StoreError
from livermore.market.candle import Candle
from livermore.market.certificate import Certificate, Compared, certify
from livermore.market.clock import ExchangeClock
from livermore.market.gap import SETTLED, VERIFY, Gap, Lane, Outcome, decode_gap, encode_gap
from livermore.runtime.backfill import (
    FOLLOW,
    UNTOUCHED,
    Report,
    Wish,
    bounds,
    lacking,
    meet,
    repairing,
    running,
)
from livermore.runtime.lease import Lease
from livermore.runtime.repairs import Repairs
from livermore.runtime.rest import SHARE, Budget, Rest
from livermore.runtime.verification import verified

BATCH = 100
"""Series compared together: their candles are in memory at once."""
WORKERS = 4
"""Requests under way at once, where no daemon makes them."""


@attrs.frozen
class Certified:
    """What was certified; ``by`` says who compared: ``daemon`` or ``this command``."""

    certificates: tuple[Certificate, ...]
    by: str
    notices: tuple[str, ...] = ()


Compare = Callable[[Sequence[Gap], Callable[[int], None]], Awaitable[Sequence[Gap]]]
"""Has ranges compared, telling how many are done; returns them as they ended, in order."""


async def certificates(
    redis: Redis,
    dialect: Dialect,
    rest_url: str,
    wish: Wish,
    report: Report,
    *,
    stored_only: bool,
    holder: str,
    description: dict[str, object],
    chance: Callable[[], float],
    bans: Bans | None = None,
) -> Certified:
    """Compare what is stored of ``wish`` with REST. Raises :class:`LivermoreError`.

    The newest two minutes are left out: no reply is final about them. With ``stored_only``, where
    no daemon follows them, only that counts of a series which was asked for or is there.
    """
    clock = ExchangeClock()

    def now() -> int | None:
        return clock.read(trio.current_time())

    async with Http(rest_url) as http:
        per_second = SHARE * dialect.rest_per_second
        rest = Rest(dialect, http, Budget(redis, dialect.name, per_second, bans), now)
        met = await meet(redis, dialect, rest, clock, wish)
        moment = now() or 0
        ranges = [
            Gap(one, first, last, VERIFY, moment, Lane.BY_HAND)
            for timeframe in wish.timeframes
            for first, last in [bounds(timeframe, wish.since, moment - SETTLED)]
            for one in met.series(dialect.name, timeframe)
            if first <= last
        ]
        if stored_only and not met.by_daemon:
            surveys = await _surveys(redis, ranges)
            ranges = [
                begun
                for gap, survey in zip(ranges, surveys, strict=True)
                if (begun := _begun(gap, survey)) is not None
            ]
        if met.by_daemon:
            text = "the daemon compares"

            async def compare(gaps: Sequence[Gap], done: Callable[[int], None]) -> Sequence[Gap]:
                return await _by_daemon(redis, dialect.name, gaps, done)

            found = await _certify_all(redis, ranges, compare, report, text)
            return Certified(found, "daemon", met.notices)
        lease = Lease(redis, dialect.name, holder, description)
        await lease.take()
        try:
            async with repairing(redis, dialect, rest, lease, met.natives, now, chance) as (
                repairs,
                _,
            ):

                async def compare_here(
                    gaps: Sequence[Gap], done: Callable[[int], None]
                ) -> Sequence[Gap]:
                    return await _here(repairs, dialect, gaps, now, done)

                found = await _certify_all(redis, ranges, compare_here, report, "comparing")
        finally:
            with trio.CancelScope(shield=True):
                await lease.release()
        return Certified(found, "this command", met.notices)


def _begun(gap: Gap, survey: store.Survey) -> Gap | None:
    """The part of ``gap`` that somebody asked for, or that is there without having been."""
    if survey.asked_from is not None:
        return gap
    if survey.oldest is None or survey.oldest > gap.last:
        return None
    return attrs.evolve(gap, first=max(gap.first, survey.oldest))


async def _certify_all(
    redis: Redis, ranges: Sequence[Gap], compare: Compare, report: Report, text: str
) -> tuple[Certificate, ...]:
    found: list[Certificate] = []
    report(0, len(ranges), text)
    for start in range(0, len(ranges), BATCH):
        batch = ranges[start : start + BATCH]
        before = await _stored(redis, batch)
        surveys = await _surveys(redis, batch)
        # Of a series without a candle there is nothing to compare: its history is a backfill's.
        held = [gap for gap, survey in zip(batch, surveys, strict=True) if survey.stored]

        def done(count: int, start: int = start, extra: int = len(batch) - len(held)) -> None:
            report(start + extra + count, len(ranges), text)

        ended = {gap.series: gap for gap in await compare(held, done)} if held else {}
        after = await _stored(redis, batch)
        surveys = await _surveys(redis, batch)
        found += [
            _certificate(gap, ended.get(gap.series), was, is_, survey)
            for gap, was, is_, survey in zip(batch, before, after, surveys, strict=True)
        ]
    report(len(ranges), len(ranges), "done")
    return tuple(found)


def _certificate(
    gap: Gap,
    ended: Gap | None,
    before: Sequence[Candle],
    after: Sequence[Candle],
    survey: store.Survey,
) -> Certificate:
    first = gap.first
    if survey.stored >= store.KEEP and survey.oldest is not None:
        first = max(first, survey.oldest)  # trimmed meanwhile: newer ones came
    missing = sum((end - start) for start, end in survey.missing) // gap.series.timeframe.ms
    missing += len(survey.missing)
    wanted = sum(
        (end - max(start, first)) // gap.series.timeframe.ms + 1
        for start, end in lacking(survey)
        if end >= first
    )
    problem = ""
    if ended is None:
        problem = "nothing is stored of it" if wanted else ""
    elif ended.outcome is not Outcome.FILLED or ended.compared is None:
        problem = ended.note or "the daemon did not compare it"
    return certify(
        gap.series,
        first,
        gap.last,
        before=[candle for candle in before if candle.open_time >= first],
        after=after,
        absent=missing - wanted,
        compared=ended.compared or Compared() if ended else Compared(),
        problem=problem,
        note=ended.note if ended and not problem else "",
    )


async def _stored(redis: Redis, gaps: Sequence[Gap]) -> list[list[Candle]]:
    calls = [store.range_call(gap.series, gap.first, gap.last) for gap in gaps]
    replies = await redis.run(calls, "read")
    return [
        store.decode_candles(gap.series, members)[0]
        for gap, members in zip(gaps, replies, strict=True)
    ]


async def _surveys(redis: Redis, gaps: Sequence[Gap]) -> list[store.Survey]:
    calls = [store.survey(gap.series, gap.first, gap.last) for gap in gaps]
    replies = await redis.run(calls, "read")
    return [store.surveyed(gap.series, reply) for gap, reply in zip(gaps, replies, strict=True)]


# -- by ourselves -----------------------------------------------------------------------------


async def _here(
    repairs: Repairs,
    dialect: Dialect,
    gaps: Sequence[Gap],
    now: Callable[[], int | None],
    done: Callable[[int], None],
) -> Sequence[Gap]:
    ended: dict[str, Gap] = {}
    waiting = list(reversed(gaps))

    async def work() -> None:
        while waiting:
            gap = waiting.pop()
            while gap.outcome is Outcome.OPEN:
                await trio.sleep(max(0, gap.next_try - (now() or gap.found)) / 1000)
                gap = await verified(repairs, dialect, gap, now() or gap.found)
            ended[gap.name] = gap
            done(len(ended))

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(work)
    return [ended[gap.name] for gap in gaps]


# -- by the daemon ----------------------------------------------------------------------------


async def _by_daemon(
    redis: Redis, exchange: str, gaps: Sequence[Gap], done: Callable[[int], None]
) -> Sequence[Gap]:
    """Put the ranges into the ledger, wait for what becomes of them, and take them out again."""
    key = store.gaps_key(exchange)
    calls = [("HSET", key, gap.name, encode_gap(gap)) for gap in gaps]
    try:
        await redis.run(calls, "publish")
        return await _followed(redis, exchange, gaps, done)
    finally:
        with trio.move_on_after(FOLLOW * 10, shield=True), contextlib.suppress(StoreError):
            await redis.run([("HDEL", key, *(gap.name for gap in gaps))], "publish")


async def _followed(
    redis: Redis, exchange: str, gaps: Iterable[Gap], done: Callable[[int], None]
) -> Sequence[Gap]:
    ended: dict[str, Gap] = {gap.name: gap for gap in gaps}
    waiting = list(ended)
    idle_since = trio.current_time()
    while waiting:
        await trio.sleep(FOLLOW)
        entries = await redis.one("HMGET", store.gaps_key(exchange), *waiting)
        before = len(waiting)
        for name, text in zip(list(waiting), entries, strict=True):
            gap = _ended(exchange, ended[name], text)
            if gap is not None:
                ended[name] = gap
                waiting.remove(name)
        if len(waiting) < before:
            idle_since = trio.current_time()
            done(len(ended) - len(waiting))
        elif (
            trio.current_time() - idle_since > UNTOUCHED and await running(redis, exchange) is None
        ):
            raise StoreError("the daemon ended meanwhile: start it again, or verify without it")
    return list(ended.values())


def _ended(exchange: str, gap: Gap, text: bytes | None) -> Gap | None:
    """What became of ``gap``, None while it is open."""
    if text is None:
        vanished = "its entry in the ledger vanished"
        return attrs.evolve(gap, outcome=Outcome.UNFILLABLE, note=vanished)
    try:
        current = decode_gap(exchange, text)
    except MalformedMessage as error:
        return attrs.evolve(gap, outcome=Outcome.UNFILLABLE, note=str(error))
    return None if current.outcome is Outcome.OPEN else current
