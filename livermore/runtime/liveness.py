"""Whether what is silent is quiet or mute: REST is asked, and only its answer replaces a socket.

A socket that is open, acknowledged and beating may still deliver nothing: of all symbols, or of one
among many. Silence alone proves nothing, a quiet market is silent too. So a symbol that is silent
for longer than its own pace explains, whose tickers speak of trades that do not arrive, or whose
candle channel stays away is *probed*: does REST show trades the connection did not deliver? If so
the symbol is mute: nothing of it is closed by the clock, its connection is replaced, and status
says so until it speaks again.

Where REST does not answer nobody knows. A connection that brings nothing at all meanwhile stays,
but it is *unheard*: status says that we are blind, and nothing of it is closed by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from livermore.errors import LivermoreError, Refused
from livermore.market.gap import Lane
from livermore.market.history import Row
from livermore.market.product import Product
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Silence, Tracker
from livermore.runtime.connection import Connection, Health, State
from livermore.runtime.rest import Rest

EVERY = 2.0
"""Seconds between two looks at who is silent."""
PROBES = 2
"""REST requests a look may cost."""
FIRST = 10.0
"""Seconds of silence no symbol is asked about."""
FACTOR = 3.0
"""So many times its longest silence of the last hour makes a symbol's silence worth a request."""
TOLD = 5.0
"""Seconds for which tickers may speak of a trade before it arrives."""
STARVED = 30.0
"""Seconds for which trades may arrive before the candle channel shows them."""
ANSWER = 10.0
"""Seconds a request may wait for its grant and its answer: silence elsewhere is looked at too."""
AGAIN = 4.0
"""Seconds to the second request where only two together can tell."""
CONFIRM = 3.0
"""Seconds in which what REST shows may still arrive."""
PATIENCE = 60.0
MOST_PATIENCE = 960.0
"""Seconds between two replacements of a connection for a mute symbol: doubling, first and most."""
UNANSWERED = 30.0
"""Seconds for which REST says nothing before its silence is more than a mishap."""
UNHEARD = 60.0
"""Least seconds without any data on a connection, and more than a timeframe it may have to last."""
HALTED = 600_000
"""Milliseconds without a trade of any symbol after which the exchange is halted."""


@attrs.define(eq=False)
class Shard:
    """One connection and what is known of its silence."""

    tracker: Tracker
    health: Health
    connection: Connection
    patience: float = PATIENCE
    replaced_at: float | None = None
    next_probe: dict[str, tuple[float, float]] = attrs.Factory(dict)
    """Native id -> since when it is silent, and the silence (s) at which it is asked about next."""
    shown: dict[tuple[str, int], float] = attrs.Factory(dict)
    """Volume REST showed of a running slot that we do not hold whole."""
    mute: dict[str, Silence] = attrs.Factory(dict)
    products: list[Product] = attrs.Factory(list)
    """What the connection carries."""
    scope: trio.CancelScope | None = None
    """Of the task that keeps it connected, while that runs."""

    def forget(self, native: str) -> None:
        """Watch this product no more."""
        self.next_probe.pop(native, None)
        self.shown = {key: volume for key, volume in self.shown.items() if key[0] != native}
        self.mute.pop(native, None)
        self.show_mute()

    def show_mute(self) -> None:
        """Status shows who is mute."""
        self.health.mute = frozenset(one.symbol for one in self.mute.values())
        self.health.mute_since = min((one.since for one in self.mute.values()), default=0.0)


@attrs.define
class Liveness:
    """Watches the shards of one exchange. :meth:`run` ends when cancelled."""

    shards: list[Shard]
    rest: Rest
    timeframe: Timeframe
    clock: Callable[[], int | None]
    say: Callable[[str, dict[str, object]], None]
    halted: Callable[[bool], None]
    """Hears when the exchange halts and when it trades again."""
    halted_since: int | None = None
    """Exchange time (ms) of the newest trade before the halt."""
    probes: int = 0
    _began: int | None = None
    _in_vain: tuple[float, float] | None = None
    """First and newest request that was not answered, since one was."""

    async def run(self) -> None:
        """Look every :data:`EVERY` seconds until cancelled."""
        while True:
            await trio.sleep(EVERY)
            self.look_for_halt()
            for shard in self.shards:
                self._look_for_data(shard, trio.current_time())
            due: list[tuple[float, Shard, Silence]] = []
            for shard in self.shards:
                due += self._due(shard, trio.current_time())
            # Those whose silence exceeds their own pace the most: first of all the busiest.
            due.sort(key=lambda one: one[0], reverse=True)
            for _, shard, silence in due[:PROBES]:
                await self._probe(shard, silence)

    # -- halts ----------------------------------------------------------------------------

    def look_for_halt(self) -> None:
        """Whether all followed symbols have been silent for :data:`HALTED`."""
        now, moment = self.clock(), trio.current_time()
        newest = max((shard.tracker.newest_trade for shard in self.shards), default=-1)
        if self.halted_since is not None and newest > self.halted_since:
            lasted = newest - self.halted_since
            self.halted_since = None
            self._tell(False)
            self.say("the exchange trades again", {"halted_s": lasted // 1000})
        live = all(shard.health.state is State.LIVE for shard in self.shards)
        live = live and any(shard.tracker.silences(moment) for shard in self.shards)
        if now is None or not live or any(shard.mute for shard in self.shards):
            self._began = None
            return
        if self._began is None:
            self._began = now  # what was traded while we were away may not have been heard
        if self.halted_since is None and now - max(newest, self._began) >= HALTED:
            self.halted_since = newest if newest > 0 else self._began
            self._tell(True)
            self.say(
                "the exchange is halted",
                {"silent_s": (now - self.halted_since) // 1000, "symbols": self._symbols(),
                 "next": "empty candles wait until REST confirms them"},
            )  # fmt: skip

    def _tell(self, halted: bool) -> None:
        for shard in self.shards:
            shard.tracker.halted = halted
        self.halted(halted)

    def _symbols(self) -> int:
        return sum(shard.health.symbols for shard in self.shards)

    # -- unheard connections --------------------------------------------------------------

    def _look_for_data(self, shard: Shard, now: float) -> None:
        """Whether nothing arrives for longer than is usual while REST does not say why."""
        before, shard.health.unheard_since = shard.health.unheard_since, self._unheard(shard, now)
        if before is None and shard.health.unheard_since is not None:
            for one in shard.tracker.silences(now):
                shard.tracker.doubt(one.native)
        elif before is not None and shard.health.unheard_since is None:
            mute = shard.health.mute
            silences = shard.tracker.silences(now)
            shard.tracker.trust((s.native for s in silences if s.symbol not in mute), now)

    def _unheard(self, shard: Shard, now: float) -> float | None:
        """Since when nothing arrives that REST could vouch for; None where that is not so."""
        silences = shard.tracker.silences(now)
        if shard.health.state is not State.LIVE or not silences or self._in_vain is None:
            return None
        first, newest = self._in_vain
        heard = max(shard.tracker.fed_at, *(one.since for one in silences))
        if newest <= heard or now - first < UNANSWERED:
            return None
        if all(one.seconds < _pace(one) for one in silences):
            return None  # for each of its symbols this is usual
        # Where the pace is not known, or slow, the candle channel may speak of every close alone.
        longest = self.timeframe.ms / 1000 + UNHEARD
        pace = min((_pace(one) for one in silences if one.usual > 0), default=longest)
        return heard if now - heard >= min(longest, max(UNHEARD, pace)) else None

    # -- mute symbols ---------------------------------------------------------------------

    def _due(self, shard: Shard, now: float) -> Iterable[tuple[float, Shard, Silence]]:
        """Symbols worth a request: how far beyond their pace their silence is, most first."""
        if shard.health.state is not State.LIVE:
            shard.next_probe.clear()
            shard.shown.clear()
            return
        silences = shard.tracker.silences(now)
        served = {one.native for one in silences}
        if shard.mute.keys() - served:
            shard.mute = {n: one for n, one in shard.mute.items() if n in served}
            shard.show_mute()
        starved: dict[str, float] = {}
        for one in silences:
            muted = shard.mute.get(one.native)
            if muted is not None and one.spoke and one.since > muted.since:
                self._speaks(shard, muted, now)
            since, limit = shard.next_probe.get(one.native, (one.since, 0.0))
            if since != one.since:  # it has spoken since
                limit = 0.0
                for key in [key for key in shard.shown if key[0] == one.native]:
                    del shard.shown[key]
            told = one.told is not None and one.told >= TOLD
            unsampled = one.unsampled is not None and one.unsampled >= STARVED
            if unsampled:
                starved[one.symbol] = one.unsampled or 0.0
                if one.symbol not in shard.health.starved:
                    yield (1.0, shard, one)  # do its trades arrive, at least?
                    continue
            pace = _pace(one)
            if one.seconds >= max(limit, TOLD if told else pace):
                asked = any(native == one.native for native, _ in shard.shown)
                yield (one.seconds / pace + 1e6 * (told + asked), shard, one)
        if shard.health.starved != starved.keys():
            new = starved.keys() - shard.health.starved
            shard.health.starved = frozenset(starved)
            if new:
                self.say(
                    "the candle channel is starved",
                    {"name": shard.health.name, "symbols": sorted(new),
                     "next": "candles close by their trades, without a cross-check"},
                )  # fmt: skip

    def _speaks(self, shard: Shard, muted: Silence, now: float) -> None:
        del shard.mute[muted.native]
        shard.show_mute()
        seconds = round(now - muted.since, 1)
        self.say("a mute symbol speaks again", {"symbol": muted.symbol, "seconds": seconds})

    async def _probe(self, shard: Shard, silence: Silence) -> None:
        """Ask REST for the running slot and the one before it."""
        native = silence.native
        now = self.clock()
        if now is None:
            return
        running = self.timeframe.floor(now)
        self.probes += 1
        rows: Sequence[Row] | None = None
        asked_at = trio.current_time()
        with trio.move_on_after(ANSWER):
            try:
                rows, _ = await self.rest.candles(
                    native, self.timeframe, running - self.timeframe.ms, running, Lane.LIVE
                )
            except Refused:
                raise
            except LivermoreError:
                pass
        if rows is None:  # it said nothing; others are asked about first
            shard.next_probe[native] = (silence.since, silence.seconds + ANSWER)
            first, _ = self._in_vain or (asked_at, asked_at)
            self._in_vain = first, asked_at
            return
        self._in_vain = None
        shard.next_probe[native] = (silence.since, 2 * silence.seconds)
        shown = {row.open_time: row.volume for row in rows}
        if (native, running) not in shard.shown and shard.tracker.held(native, running) is None:
            shard.next_probe[native] = (silence.since, silence.seconds + AGAIN)
        if not self._undelivered(shard, native, shown, running):
            if native in shard.mute and shard.tracker.held(native, running) is not None:
                self._speaks(shard, shard.mute[native], trio.current_time())
            return
        await trio.sleep(CONFIRM)
        if shard.health.state is not State.LIVE or not self._still(shard, silence):
            return
        self._judge(shard, silence)

    def _undelivered(
        self, shard: Shard, native: str, shown: dict[int, float], running: int
    ) -> bool:
        """Whether REST shows volume that did not arrive.

        Where we do not hold a slot whole, volume that grows between two probes of one silence.
        """
        found = False
        for open_time in (running - self.timeframe.ms, running):
            volume = shown.get(open_time, 0.0)
            held = shard.tracker.held(native, open_time)
            if held is None:
                held = shard.shown.setdefault((native, open_time), volume)
            found = found or volume > held * (1 + 1e-9)
        earliest = running - self.timeframe.ms
        for key in [key for key in shard.shown if key[0] == native and key[1] < earliest]:
            del shard.shown[key]
        return found

    @staticmethod
    def _still(shard: Shard, silence: Silence) -> bool:
        """Whether the symbol has not spoken since."""
        return any(
            one.native == silence.native and one.since == silence.since
            for one in shard.tracker.silences(trio.current_time())
        )

    def _judge(self, shard: Shard, silence: Silence) -> None:
        """The symbol is mute: doubt it, say so, and replace the connection unless it just was."""
        now = trio.current_time()
        shard.tracker.doubt(silence.native)
        if shard.replaced_at is not None and now - shard.replaced_at > 2 * MOST_PATIENCE:
            shard.patience, shard.replaced_at = PATIENCE, None
        replace = shard.replaced_at is None or now - shard.replaced_at >= shard.patience
        if silence.native not in shard.mute:
            self.say(
                "a symbol is mute",
                {
                    "symbol": silence.symbol,
                    "seconds": round(now - silence.since, 1),
                    "why": "REST shows trades that did not arrive",
                    "next": "a new connection" if replace else "REST fills its candles",
                },
            )
        shard.mute[silence.native] = silence
        shard.show_mute()
        if replace:
            if shard.replaced_at is not None:
                shard.patience = min(MOST_PATIENCE, 2 * shard.patience)
            shard.replaced_at = now
            shard.connection.replace(
                f"{shard.health.name}: REST shows trades of {silence.symbol} that did not arrive"
            )


def _pace(silence: Silence) -> float:
    """Seconds of silence that the symbol's own pace explains."""
    return max(FIRST, FACTOR * silence.usual)
