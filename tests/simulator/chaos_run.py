"""One seed of the test that matters: the whole daemon under a schedule of disturbances.

    python -m tests.simulator.chaos_run --seed 7 --directory /tmp/chaos
    python -m tests.simulator.chaos_run --seed 7 --exchanges binance
    python -m tests.simulator.chaos_run --seed 7 --exchanges coinbase,binance

Two hours of a market pass in a minute: Trio's clock runs 120 times as fast as ours, for the daemon
and for the simulated exchange. Redis is a real server of this run's own; its clock cannot be
hurried, so our scripts are told a time that runs as fast (rate budget and lease count by it). What
the scripts publish they also note in a list, in the same step: a subscriber may miss what is
published while Redis restarts, the list does not.

Each minute of the market the store is looked at: what it lacks must be told, by an open gap or by a
state that is not ``live``.

Prints one JSON object. Exit 0 when everything is as it must be, 7 when something is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec
import redis
import trio

from livermore import daemon
from livermore.adapters import http, outbox, store
from livermore.adapters import redis as adapter
from livermore.adapters.valkey import valkey_binary
from livermore.config import Own, Settings
from livermore.errors import LivermoreError, MalformedMessage, StoreError
from livermore.market.candle import Candle, Evidence, Series, same_volume
from livermore.market.candle import Kind as CandleKind
from livermore.market.gap import Outcome, decode_gap
from livermore.market.history import window
from livermore.market.timeframe import Timeframe, iso
from livermore.runtime import lease
from livermore.runtime.alerting import claim
from livermore.runtime.feed import Feed
from livermore.signals.alert import Alert, Withdrawal
from livermore.signals.anchor import Start
from livermore.signals.course import readings_along
from livermore.signals.reading import Reading
from livermore.signals.rules import Fate, decode_memory
from livermore.simulator import Simulator, SimulatorSettings, chaos
from livermore.simulator import serve as simulate
from livermore.simulator.chaos import Disturbance, Schedule
from livermore.simulator.roster import PLAYED
from livermore.simulator.trades import NS
from tests import alert_judge
from tests.servers import RedisServer, server_room
from tests.simulator.whole_daemon import START, check, ledger

RATE = 120.0
LISTED = 25
FOLLOWED = (1, 3, 6, 9, 14, 19)
"""Ranks of the followed among the listed: from a trade a second to one in ten minutes."""
DAYS = 120
"""Of history: a longer one is made anew for each long request, which takes the exchange a while."""
REQUEST_WITHIN = 12.0
"""Seconds (of the fast clock) for a REST request: 100 ms of ours, on a busy machine."""
REDIS_WITHIN = 0.6
"""Real seconds for a call of Redis: more than a minute of the fast clock."""
STALL = 0.02
"""Real seconds between two looks at the clock beyond which it was not us who ran."""
LEASE = 120.0
"""Seconds of the fast clock: one of ours, so that a busy machine does not end it."""
HEALED = 100.0
"""Seconds after the last end of a slot before it is judged."""
PATIENCE = 2
"""More slots in which it may heal: on a busy machine a minute passes in no time."""
TELL_WITHIN = 120_000
"""After a slot's end (ms of the exchange), when its absence from the store must be told."""
NOTES = "chaos:published"

PROLOGUE = """
local plain = redis
local redis = setmetatable({call = function(command, ...)
  if command == 'TIME' then
    local now = plain.call('TIME')
    local passed = ((tonumber(now[1]) - ORIGIN) * 1000000 + tonumber(now[2])) * RATE
    local seconds = math.floor(passed / 1000000)
    return {string.format('%d', ORIGIN + seconds), string.format('%d', passed - seconds * 1000000)}
  end
  local given = {...}
  if command == 'PEXPIRE' then
    local lasts = math.ceil(tonumber(given[2]) / RATE)
    return plain.call('PEXPIRE', given[1], string.format('%d', lasts))
  end
  if command == 'PUBLISH' and not string.find(given[1], ':update:', 1, true)
      and not string.find(given[1], ':ticker:', 1, true) then
    plain.call('RPUSH', 'NOTES', given[1] .. ' ' .. given[2])
  end
  return plain.call(command, ...)
end}, {__index = plain})
"""


def hurry_redis(rate: float) -> None:
    """Our scripts count time as the fast clock does, and note what they publish."""
    prologue = (
        PROLOGUE.replace("ORIGIN", str(int(time.time()) - 1000))
        .replace("RATE", f"{rate:g}")
        .replace("NOTES", NOTES)
    )
    for name, text in list(adapter.SCRIPTS.items()):
        first, _, rest = text.partition("\n")
        whole = f"{first}\n{prologue}{rest}" if first.startswith("#!") else prologue + text
        digest = hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest()
        adapter.SCRIPTS[name] = whole
        adapter.DIGESTS[name] = digest
        adapter.NAMES[digest] = name


class MortalRedis(adapter.Redis):
    """A Redis that a killed process does not reach any more."""

    living: list[MortalRedis] = []  # noqa: RUF012 - the run's own

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.dead = False
        self.living[:] = [self]
        for lane in self._lanes.values():
            lane.client.timeout = REDIS_WITHIN

    async def run(self, calls: Sequence[adapter.Call], lane: str = "write") -> list[Any]:
        if self.dead:
            raise StoreError("killed")
        return await super().run(calls, lane)

    async def run_each(self, calls: Sequence[adapter.Call], lane: str = "write") -> list[Any]:
        if self.dead:
            return [StoreError("killed") for _ in calls]
        return await super().run_each(calls, lane)


@attrs.define
class PatientClock(trio.abc.Clock):
    """Runs ``rate`` times as fast as ours while we do; when the machine lets us wait, it waits.

    Otherwise a run on a busy machine would test the machine: 100 ms are twelve seconds here.
    """

    rate: float
    _time: float = 0.0
    _seen: float = 0.0
    _asleep: float = 0.0
    """Seconds that were to pass until the next look at the clock."""

    def start_clock(self) -> None:
        self._seen = time.perf_counter()

    def current_time(self) -> float:
        now = time.perf_counter()
        self._time += min(now - self._seen, self._asleep + STALL) * self.rate
        self._seen, self._asleep = now, 0.0
        return self._time

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self._asleep = max(0.0, deadline - self.current_time()) / self.rate
        return self._asleep


# -- the log ----------------------------------------------------------------------------------


class Log(logging.Handler):
    """Every event as a JSON line with the market's time; what must not happen is kept."""

    def __init__(self, file: Path) -> None:
        super().__init__(logging.INFO)
        self.simulator: Simulator | None = None
        self.bad: list[str] = []
        self.events: Counter[str] = Counter()
        self.late = 0
        self._file = file.open("w", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = record.getMessage(), getattr(record, "fields", {})
        self.events[event] += 1
        if "unexpectedly" in event or record.levelno >= logging.ERROR or record.exc_info:
            self.bad.append(f"{event} {fields}")
        self.late += "did not answer within" in str(fields)
        self.write(event, {"level": record.levelname, **fields})

    def write(self, event: str, fields: dict[str, object]) -> None:
        now = 0 if self.simulator is None else self.simulator.clock.now() // NS
        moment = time.strftime("%H:%M:%S", time.gmtime(now / 1000))
        into = "" if self.simulator is None else f"{(now - START) / 1000:.1f}"
        line = {"time": moment, "second": into, "event": event, **fields}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()


# -- the run ----------------------------------------------------------------------------------


@attrs.frozen
class Life:
    """What a store held at its end, and everything published for it: emptied, it begins anew."""

    published: Sequence[bytes]
    cursors: dict[Series, int | None]
    members: dict[Series, Sequence[bytes]]


@attrs.frozen
class Venue:
    """One exchange of a run: who it is, what befalls it, who of it is followed."""

    exchange: str
    schedule: Schedule
    simulator: Simulator
    symbols: tuple[str, ...]

    @property
    def series(self) -> list[Series]:
        return [one for symbol in self.symbols for one in store.all_series(self.exchange, symbol)]


@attrs.define
class Run:
    """One seed. What befalls the daemon and its Redis is in the first exchange's schedule."""

    seed: int
    venues: Sequence[Venue]
    server: RedisServer
    settings: Settings
    log: Log
    lives: list[Life] = attrs.Factory(list)
    ended: list[str] = attrs.Factory(list)
    """Why the daemon ended when nobody ended it."""
    feeds: dict[str, Feed] = attrs.Factory(dict)
    reconnects: int = 0
    waited: int = 0
    """Symbols the daemon says, at the end, that the exchange does not serve."""
    checked: dict[str, Any] = attrs.Factory(dict)
    redis_away: bool = False
    samples: Counter[str] = attrs.Factory(Counter)
    """Looks at the store during the run, and how many slots lacked and were told at them."""
    untold: dict[tuple[Series, int], str] = attrs.Factory(dict)
    """Slots that lacked at two looks in a row while nothing said so: when it was seen."""
    _begun: float = attrs.Factory(trio.current_time)

    @property
    def series(self) -> list[Series]:
        return [one for venue in self.venues for one in venue.series]

    @property
    def disturbances(self) -> Sequence[Disturbance]:
        return self.venues[0].schedule.disturbances

    def now(self) -> int:
        """The exchanges' true time in ms."""
        return self.venues[0].simulator.clock.now() // NS

    async def until(self, second: float) -> None:
        await trio.sleep_until(self._begun + second)

    async def keep_daemon(self) -> None:
        """As a service manager does: whatever ends is started anew, after what is scheduled."""
        due = [one for one in self.disturbances if one.kind in (chaos.RESTART, chaos.KILL)]
        while True:
            after = 1.0
            async with trio.open_nursery() as nursery:
                if due and self._begun + due[0].at > trio.current_time():
                    nursery.start_soon(self._end_daemon, due[0], nursery.cancel_scope)
                try:
                    await self._serve()
                except* LivermoreError as group:
                    error: BaseException = group
                    while isinstance(error, BaseExceptionGroup):
                        error = error.exceptions[0]
                    self.ended.append(f"{type(error).__name__}: {error}")
                    self.log.write("daemon ended", {"why": self.ended[-1]})
                nursery.cancel_scope.cancel()
            self.reconnects += sum(
                health.reconnects for feed in self.feeds.values() for health in feed.report.healths
            )
            self.feeds = {}
            while due and self._begun + due[0].at <= trio.current_time():
                after = max(after, due.pop(0).seconds)
            await trio.sleep(after)

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            started: daemon.Running = await nursery.start(daemon.serve, self.settings)
            assert isinstance(started.feeds, dict)
            self.feeds = started.feeds

    async def _end_daemon(self, one: Disturbance, scope: trio.CancelScope) -> None:
        await self.until(one.at)
        self.log.write(one.kind, {"seconds": one.seconds})
        if one.kind == chaos.KILL:
            for connection in MortalRedis.living:
                connection.dead = True
        scope.cancel()

    async def disturb_redis(self) -> None:
        for one in self.disturbances:
            if one.kind not in (chaos.PAUSE_REDIS, chaos.RESTART_REDIS, chaos.EMPTY_REDIS):
                continue
            await self.until(one.at)
            self.log.write(one.kind, {"seconds": one.seconds})
            self.redis_away = one.kind != chaos.EMPTY_REDIS
            if one.kind == chaos.PAUSE_REDIS:
                self.server.pause()
                await trio.sleep(one.seconds)
                self.server.resume()
            elif one.kind == chaos.RESTART_REDIS:
                await trio.to_thread.run_sync(self.server.stop)
                await trio.sleep(one.seconds)
                await trio.to_thread.run_sync(self.server.start)
            else:
                self.lives.append(await trio.to_thread.run_sync(self.look, True))
            self.redis_away = False

    async def watch(self) -> None:
        """Each minute: what the store lacks must be told; a slot is noted at its second look."""
        before: set[tuple[Series, int]] = set()
        while True:
            await trio.sleep(60.0)
            untold: set[tuple[Series, int]] = set()
            for venue in self.venues:
                feed = self.feeds.get(venue.exchange)
                skipped = feed is None or self.redis_away
                found = None if feed is None or skipped else await self._find_untold(venue, feed)
                self.samples["skipped" if found is None else "looks"] += 1
                untold |= found or set()
            for series, open_time in sorted(untold & before, key=str):
                seen = self.untold.setdefault((series, open_time), iso(self.now()))
                self.log.write(
                    "untold", {"series": str(series), "slot": iso(open_time), "seen": seen}
                )
            before = untold

    async def _find_untold(self, venue: Venue, feed: Feed) -> set[tuple[Series, int]] | None:
        """Slots that the store lacks and nobody is told of; None where it cannot be said.

        What lies before the oldest stored candle was never promised: at what price an empty slot
        rests there, nobody knows. Where the exchange's stamps are behind, nobody is told before it
        says itself that a slot ended.
        """
        said = self.now() + min(0, venue.simulator.clock.skew) // NS
        first, last = window(Timeframe.M5, said - TELL_WITHIN)
        try:
            stored, entries = await trio.to_thread.run_sync(self._look_for, venue, first, last)
        except redis.RedisError:
            return None
        if self.redis_away or self.feeds.get(venue.exchange) is not feed:
            return None
        lacking = {
            (series, open_time)
            for series, times in stored.items()
            for open_time in range(max(first, min(times, default=first)), last + 1, Timeframe.M5.ms)
            if open_time not in times
        }
        state, _, _ = feed.report.state(feed.now())
        gaps = [decode_gap(venue.exchange, text) for text in entries]
        gaps += feed.report.repairs.open_gaps if feed.report.repairs else ()
        untold = {
            (series, open_time)
            for series, open_time in lacking
            if state == "live"
            and series.symbol not in feed.report.rejected
            and not any(
                gap.outcome is Outcome.OPEN
                and gap.series == series
                and gap.first <= open_time <= gap.last
                for gap in gaps
            )
        }
        self.samples["told"] += len(lacking) - len(untold)
        return untold

    def _look_for(
        self, venue: Venue, first: int, last: int
    ) -> tuple[dict[Series, set[int]], list[bytes]]:
        """Open times of the stored 5m candles in a range, and the entries of the ledger."""
        shortest = [series for series in venue.series if series.timeframe is Timeframe.M5]
        with self.server.client() as client, client.pipeline(transaction=True) as pipeline:
            for series in shortest:
                pipeline.zrangebyscore(store.keys(series).candles, first, last, withscores=True)
            pipeline.hvals(store.gaps_key(venue.exchange))
            *found, entries = pipeline.execute()
        times = [{int(score) for _, score in members} for members in found]
        return dict(zip(shortest, times, strict=True)), entries

    def look(self, empty: bool = False) -> Life:
        """What there is at one moment; ``empty`` ends it in the same moment."""
        with self.server.client() as client, client.pipeline(transaction=True) as pipeline:
            pipeline.lrange(NOTES, 0, -1)
            for series in self.series:
                named = store.keys(series)
                pipeline.hget(named.companion, "cursor")
                pipeline.zrangebyscore(named.candles, "-inf", "+inf")
            if empty:
                pipeline.flushall()
            published, *rest = pipeline.execute()[: 1 + 2 * len(self.series)]
        cursors = [None if cursor is None else int(cursor) for cursor in rest[::2]]
        return Life(
            published,
            dict(zip(self.series, cursors, strict=True)),
            dict(zip(self.series, rest[1::2], strict=True)),
        )

    def unhealed(self) -> str:
        """What is not as it should be before a calm end, in one line."""
        found = ((venue.exchange, self._unhealed(venue)) for venue in self.venues)
        return "; ".join(f"{exchange}: {what}" for exchange, what in found if what)

    def _unhealed(self, venue: Venue) -> str:
        feed = self.feeds.get(venue.exchange)
        if feed is None:
            return "no daemon runs"
        state, _, note = feed.report.state(feed.now())
        if state != "live" or note:
            return f"{state} {note}".strip()
        if feed.report.rejected:
            return f"not served: {dict(feed.report.rejected)}"
        if not feed.history_whole:
            return f"history {feed.history}"
        if feed.report.repairs is None or feed.report.writer is None:
            return "it has just begun"
        if gaps := feed.report.repairs.open_gaps:
            return f"{len(gaps)} gaps open: {gaps[0]}"
        last = self.now() - self.now() % Timeframe.M5.ms
        for series, end in feed.newest.items():
            if series.timeframe is Timeframe.M5 and end < last:
                return f"the newest candle of {series} ended {iso(end)}"
        if feed.report.readings is not None and (why := feed.report.readings.work.away_why):
            return f"readings wait: {why}"
        waiting = feed.report.writer.waiting()
        return f"{waiting} candles wait" if waiting else ""

    async def heal(self) -> str:
        """Wait for the end; returns what had not healed by then."""
        await self.until(chaos.LENGTH)
        slot = Timeframe.M5.ms
        for self.waited in range(1 + PATIENCE):
            await trio.sleep((slot - self.now() % slot) / 1000 + HEALED)
            unhealed = self.unhealed()
            if not unhealed:
                break
        return unhealed


# -- the verdict ------------------------------------------------------------------------------


def judge_life(life: Life, number: int) -> Iterator[str]:
    """Announcements: complete, one for each revision, in their order, as stored."""
    told: dict[tuple[Series, int], list[dict[str, Any]]] = defaultdict(list)
    readings: dict[str, str] = {}
    for line in life.published:
        channel, _, text = line.decode().partition(" ")
        if ":candle:" in channel:
            message = json.loads(text)
            kind = "close" if ":candle:close:" in channel else "correct"
            if (kind == "close") != (message["revision"] == 0):
                yield f"life {number}: {channel} carries revision {message['revision']}"
            exchange = channel.split(":")[2]
            series = Series(exchange, message["symbol"], Timeframe(message["timeframe"]))
            told[series, message["open_time"]].append(message)
        elif ":indicator:" in channel:
            message = json.loads(text)
            message.pop("epoch", None)
            same = json.dumps(message)
            if readings.get(channel) == same:
                yield f"life {number}: a reading was announced twice: {text[:200]}"
            readings[channel] = same
    for series, members in life.members.items():
        candles, damaged = store.decode_candles(series, members)
        if damaged:
            yield f"life {number}: {series}: {damaged} damaged"
        cursor = life.cursors[series]
        for candle in candles:
            heard = told.pop((series, candle.open_time), [])
            if problem := _of_candle(candle, cursor, heard):
                yield f"life {number}: {series} {candle.open_time} {problem}"
        oldest = candles[0].open_time if candles else 0
        for (other, open_time), heard in told.items():
            if other == series and open_time >= oldest:
                yield f"life {number}: {series} {open_time} announced, not stored: {heard[-1]}"


def _of_candle(candle: Candle, cursor: int | None, heard: list[dict[str, Any]]) -> str:
    silent = cursor is not None and candle.open_time <= cursor
    revisions = [message["revision"] for message in heard]
    wanted = list(range(1 if silent else 0, candle.revision + 1))
    if revisions != wanted:
        return f"revisions announced {revisions}, expected {wanted}"
    for name in ("open", "high", "low", "close"):
        if heard and heard[-1][name] != getattr(candle, name):
            return f"announced {name} {heard[-1][name]}, stored {getattr(candle, name)}"
    if heard and not same_volume(heard[-1]["volume"], candle.volume):
        return f"announced volume {heard[-1]['volume']}, stored {candle.volume}"
    if heard and heard[-1]["kind"] != candle.kind.value:
        return f"announced {heard[-1]['kind']}, stored {candle.kind.value}"
    return ""


def told_readings(life: Life) -> dict[Series, dict[int, Reading]]:
    """The last reading that was announced of each candle."""
    found: dict[Series, dict[int, Reading]] = defaultdict(dict)
    for line in life.published:
        channel, _, text = line.partition(b" ")
        if b":indicator:" in channel:
            one = msgspec.json.decode(text, type=Reading)
            exchange = channel.decode().split(":")[2]
            found[Series(exchange, one.symbol, one.timeframe)][one.open_time] = one
    return found


def judge_readings(life: Life) -> Iterator[str]:
    """What was announced last of each candle is what the candles, as they are now, make of it.

    Of what is stored silently nothing need be announced; what was is held to the same.
    """
    told = told_readings(life)
    for series, members in life.members.items():
        candles, _ = store.decode_candles(series, members)
        if not candles or len(candles) >= store.KEEP:
            continue  # its anchor is gone
        cursor = life.cursors[series]
        for wanted in readings_along(Start(None, candles), len(candles)):
            heard = told[series].get(wanted.open_time)
            if heard is None:
                if cursor is not None and wanted.open_time > cursor:
                    yield f"no reading of {series} {iso(wanted.open_time)} was announced"
                continue
            if cursor is not None and wanted.open_time <= cursor and heard.count != wanted.count:
                continue  # the newest of a history that was deepened since
            # A change of volume alone is a revision of the candle, and of no reading.
            if (heard.withheld, heard.count, heard.stage) != (
                wanted.withheld, wanted.count, wanted.stage
            ) or abs((heard.macdv or 0) - (wanted.macdv or 0)) > 1e-9:  # fmt: skip
                yield f"{series} {iso(wanted.open_time)}: announced {heard}, should be {wanted}"


def judge_alerts(client: adapter.Client, exchange: str, life: Life, lives: int) -> Iterator[str]:
    """The alerts that stand are those that the rules' text demands of the stored candles."""
    entries = list(outbox.rows(client.one(*outbox.after(exchange, "0-0", 10_000))))
    standing: Counter[str] = Counter()
    for row in entries:
        if isinstance(row, MalformedMessage):
            yield str(row)
        elif isinstance(row.entry, Alert):
            standing[row.claim] += 1
        elif isinstance(row.entry, Withdrawal):
            standing[outbox.claim_of(row.entry.alert)] -= 1
    if twice := [claim for claim, count in standing.items() if count not in (0, 1)]:
        yield f"told or withdrawn twice: {twice}"
    remembered: set[str] = set()
    own = {one: members for one, members in life.members.items() if one.exchange == exchange}
    for series, members in own.items():
        candles, _ = store.decode_candles(series, members)
        [text] = client.one(*outbox.read_memories(exchange, [outbox.memory_field(series)]))
        if not candles or len(candles) >= store.KEEP:
            continue
        if text is None:
            yield f"nothing is remembered of {series}"
            continue
        memory = decode_memory(text)
        behind = [one for one in candles if one.open_time > memory.cursor]
        # No alert fires on an assumed-empty slot before REST has spoken: it is waited for.
        waits = bool(behind) and (
            behind[0].kind is CandleKind.EMPTY and behind[0].evidence is Evidence.ASSUMED
        )
        if (behind and not waits) or memory.doubted:
            yield f"{series}: evaluated up to {iso(memory.cursor)}, doubts {memory.doubted}"
        rows = [
            alert_judge.Row(
                one.open_time, one.macdv, one.histogram, one.observed,
                candle.kind is CandleKind.EMPTY and candle.evidence is Evidence.ASSUMED,
            )
            for one, candle in zip(
                readings_along(Start(None, candles), len(candles)), candles, strict=True
            )
        ]  # fmt: skip
        since = {memory.tracks[name].since for name in ("level", "reversal")}
        wanted = alert_judge.alerts_of(rows, series.timeframe.ms, min(since))
        found = [one for one in memory.alerted if one.fate is Fate.STANDS]
        of = sorted((one.rule, one.open_time, one.direction, one.level) for one in found)
        if len(since) > 1 or of != sorted(tuple(one) for one in wanted):
            yield f"alerts of {series}: {of}, should be {sorted(wanted)}"
        remembered.update(claim(series, one) for one in found)
    told = {text for text, count in standing.items() if count > 0}
    followed = {str(series) for series, some in own.items() if len(some) < store.KEEP}
    for text in told - remembered:
        _, _, symbol, timeframe, _ = text.split("|")
        if f"{symbol} {timeframe}" in followed:
            yield f"{text} was told, does not stand and was not withdrawn"
    if lives == 1 and remembered - told:
        yield f"stand and were not told: {remembered - told}"


def judge_ledger(client: adapter.Client, exchange: str, life: Life) -> Iterator[str]:
    """Nothing stays open, and what was given up came by another way: the exchange has it all."""
    for gap in ledger(client, exchange):
        outcome = gap.get("outcome", "open")
        series = Series(exchange, gap["symbol"], Timeframe(gap["timeframe"]))
        if outcome == "filled":
            continue
        times = {one.open_time for one in store.decode_candles(series, life.members[series])[0]}
        first = max(gap["first"], min(times, default=0))
        slots = range(first, gap["last"] + 1, series.timeframe.ms)
        if outcome == "open" or not times.issuperset(slots):
            yield f"gap {gap}"


@attrs.define
class Verdict:
    seed: int
    problems: list[str]
    counts: dict[str, Any]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "ok": not self.problems,
            **self.counts,
            "seconds": round(self.seconds, 1),
            "problems": self.problems[:40],
        }


async def run_seed(
    seed: int,
    directory: Path,
    server: RedisServer,
    exchanges: Sequence[str] = ("coinbase",),
    *,
    disturbed: bool = True,
) -> Verdict:
    """The whole run and what is to be said about it."""
    begun, used = time.monotonic(), time.process_time()
    log = Log(directory / f"seed-{seed}.log")
    logger = logging.getLogger("livermore")
    logger.setLevel(logging.INFO)
    logger.addHandler(log)
    tasks = trio.lowlevel.current_statistics().tasks_living
    try:
        async with trio.open_nursery() as nursery:
            venues = [
                await _open(nursery, exchange, seed + 1000 * number, disturbed)
                for number, exchange in enumerate(exchanges)
            ]
            text = json.dumps([attrs.asdict(venue.schedule) for venue in venues], indent=1)
            (directory / f"seed-{seed}.json").write_text(text)
            log.simulator = venues[0].simulator
            settings = Settings(
                state_dir=directory / f"state-{seed}",
                exchanges=tuple(exchanges),
                redis_url=server.url,
                own={
                    venue.exchange: Own(
                        symbols=venue.symbols,
                        rest_url=venue.simulator.rest_url,
                        websocket_url=venue.simulator.websocket_url,
                    )
                    for venue in venues
                },
            )
            run = Run(seed, venues, server, settings, log)
            for venue in venues:
                nursery.start_soon(_tell_minutes, run, venue)
                for fault in venue.schedule.faults:
                    nursery.start_soon(_tell, run, venue, fault)
            async with trio.open_nursery() as keeping:
                keeping.start_soon(run.keep_daemon)
                keeping.start_soon(run.disturb_redis)
                keeping.start_soon(run.watch)
                unhealed = await run.heal()
                until = run.now()
                keeping.cancel_scope.cancel()
            problems = [f"not healed: {unhealed}"] if unhealed else []
            problems += [f"log: {text}" for text in log.bad]
            problems += [
                f"untold: {series} {iso(open_time)} at {seen}"
                for (series, open_time), seen in run.untold.items()
            ]
            await trio.sleep(5.0)
            for venue in venues:
                if open_ := venue.simulator.stats.connections:
                    problems.append(f"{open_} sockets to {venue.exchange} are left open")
            problems += await trio.to_thread.run_sync(_judge, run, until)
            counts = _counts(run, log)
            if over := sum(venue.simulator.stats.over_rate for venue in venues):
                problems.append(f"{over} requests were too fast for the exchange")
            nursery.cancel_scope.cancel()
        left = trio.lowlevel.current_statistics().tasks_living - tasks
        if left:
            problems.append(f"{left} tasks are left")
    finally:
        logger.removeHandler(log)
        log.close()
    counts["cpu"] = round(time.process_time() - used, 1)
    return Verdict(seed, problems, counts, time.monotonic() - begun)


async def _open(nursery: trio.Nursery, exchange: str, seed: int, disturbed: bool) -> Venue:
    """Start one exchange with its schedule."""
    symbols = chaos_symbols(exchange, seed)
    planned = chaos.schedule(
        seed,
        symbols,
        boundary=chaos.SLOT - START / 1000 % chaos.SLOT,
        exchange=PLAYED[exchange],
    )
    if not disturbed:
        planned = Schedule((), ())
    simulator: Simulator = await nursery.start(
        simulate,
        SimulatorSettings(
            exchange=exchange,
            symbols=LISTED,
            seed=seed,
            speed=1.0,
            start=START,
            history_days=DAYS,
            scenario=list(planned.faults),
        ),
    )
    return Venue(exchange, planned, simulator, symbols)


async def _tell_minutes(run: Run, venue: Venue) -> None:
    """What each minute cost, where there is something to tell."""
    before = 0
    while True:
        await trio.sleep(60.0)
        asked = venue.simulator.stats.rest_requests
        if asked > before + 20:
            feed = run.feeds.get(venue.exchange)
            gaps = feed.report.repairs.open_gaps if feed and feed.report.repairs else ()
            told = {"exchange": venue.exchange, "rest requests": asked - before, "gaps": len(gaps)}
            run.log.write("minute", told)
        before = asked


async def _tell(run: Run, venue: Venue, fault: dict[str, Any]) -> None:
    """The schedule in the log, beside what the daemon made of it."""
    await run.until(fault["at"])
    run.log.write("fault", {"exchange": venue.exchange, **fault})


def _judge(run: Run, until: int) -> list[str]:
    problems: list[str] = []
    run.lives.append(run.look())
    for number, life in enumerate(run.lives):
        problems += judge_life(life, number)
    client = adapter.Client(run.server.url)
    try:
        problems += judge_readings(run.lives[-1])
        for venue in run.venues:
            problems += judge_ledger(client, venue.exchange, run.lives[-1])
            problems += judge_alerts(client, venue.exchange, run.lives[-1], len(run.lives))
            url = venue.simulator.control_url
            result = check(client, url, venue.exchange, venue.symbols, until)
            problems += [f"store: {difference}" for difference in result.pop("wrong")]
            for name, figure in result.items():
                run.checked[name] = run.checked[name] + figure if name in run.checked else figure
    finally:
        client.close()
    return problems


def _counts(run: Run, log: Log) -> dict[str, Any]:
    every = [venue.simulator.stats for venue in run.venues]
    faults = [fault for venue in run.venues for fault in venue.schedule.faults]
    told = [line.split(b" ", 1)[0] for life in run.lives for line in life.published]
    closes = sum(b":candle:close:" in channel for channel in told)
    corrections = sum(b":candle:correct:" in channel for channel in told)
    return {
        "faults": len(faults),
        "waited": run.waited,
        "lives": len(run.lives),
        "kinds": dict(Counter(fault["fault"] for fault in faults)),
        "disturbances": dict(Counter(one.kind for one in run.disturbances)),
        **run.checked,
        "closes": closes,
        "corrections": corrections,
        "alerts": sum(channel.startswith(b"channel:alerts:") for channel in told),
        "samples": dict(run.samples),
        "connections": sum(stats.connections_total for stats in every),
        "ended": len(run.ended),
        "reconnects": run.reconnects,
        "rest_requests": sum(stats.rest_requests for stats in every),
        "rest_429": sum(stats.rest_429 for stats in every),
        "over_rate": sum(stats.over_rate for stats in every),
        "late": log.late,
        "events": dict(log.events),
    }


def chaos_symbols(exchange: str, seed: int) -> tuple[str, ...]:
    """Who is followed: the ranks of ``FOLLOWED``."""
    listed = PLAYED[exchange].listings(LISTED, seed)
    return tuple(listed[rank].symbol for rank in FOLLOWED)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--exchanges", default="coinbase", metavar="A,B", help="one or several")
    parser.add_argument("--directory", type=Path, help="where the log of the run goes")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--undisturbed", action="store_true", help="nothing goes wrong")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    hurry_redis(given.rate)
    http.DEADLINE = REQUEST_WITHIN
    lease.LASTS = LEASE
    vars(daemon)["Redis"] = MortalRedis
    with server_room() as room:
        server = RedisServer(
            valkey_binary(), room / "valkey", options=("--appendfsync", "everysec")
        )
        server.start()
        try:
            verdict = trio.run(
                partial(run_seed, disturbed=not given.undisturbed),
                given.seed,
                directory,
                server,
                given.exchanges.split(","),
                clock=PatientClock(given.rate),
            )
        finally:
            server.kill()
    print(json.dumps(verdict.as_json()))
    return 7 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
