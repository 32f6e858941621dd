"""Every closed candle is compared with REST: by itself within an interval, by hand when asked.

The store is the memory of what is done: evidence ``rest`` is what was compared, and where REST was
asked so early that its reply may have been behind, it is compared once more. A turn asks for
everything of one series that is not, in one page, so a budget too small for the round only makes
the round longer. It goes through the same door as history, in its own lane and at its own pace,
and never holds up what is live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from livermore.adapters import store
from livermore.adapters.redis import Redis
from livermore.dialect import Dialect
from livermore.errors import StoreError
from livermore.market.candle import Candle, Evidence, Series
from livermore.market.certificate import Compared
from livermore.market.gap import SECOND_LOOK, SETTLED, Gap, Lane, Outcome
from livermore.market.history import settled, window
from livermore.market.rounds import LOOK_AFTER, SHARE, Rounds
from livermore.market.timeframe import HOUR, iso
from livermore.market.tracker import Suspect
from livermore.runtime.backoff import Backoff
from livermore.runtime.repairs import Asked, Repairs

WORKERS = 3
"""Requests under way at once, so that a slow REST does not hold up the round."""
IDLE = 1.0
"""Seconds between two looks at whose turn it is, or at what a person asked for."""
AGAIN = 60.0
"""Seconds until a series is tried again of which REST did not answer."""
NEWER = 10
"""Slots of a page left for what is newer: it shows how far the reply goes."""
REMEMBERED = 10_000
TRIES = 3
"""Failed requests after which a range that a person asked for is left."""
ROUND = "verification"
BEHIND = "not confirmed before an absence"
"""The cause of a look at what no turn reaches any more."""


@attrs.define
class Figures:
    """What was compared by itself since the start, for status and metrics."""

    compared: Compared = attrs.field(factory=Compared)
    requests: int = 0
    failures: int = 0


class Verification:
    """The comparing of one exchange. :meth:`run` ends when cancelled."""

    def __init__(
        self,
        dialect: Dialect,
        redis: Redis,
        repairs: Repairs,
        series: Sequence[Series],
        *,
        requests_per_second: float,
        clock: Callable[[], int | None],
        say: Callable[[str, dict[str, object]], None],
        chance: Callable[[], float],
    ) -> None:
        self._dialect = dialect
        self._redis = redis
        self._repairs = repairs
        self._clock = clock
        self._say = say
        self._chance = chance
        self._apart = 1 / (SHARE * requests_per_second)
        self._next = 0.0
        self._rounds = Rounds(series, trio.current_time())
        self._omitted_at: dict[Series, int] = {}
        """When a reply first omitted what is still undecided (exchange ms)."""
        self._told: dict[tuple[Series, int], None] = {}
        """Slots of which was said that REST omits them."""
        self._until: dict[Series, int] = {}
        """Open time of the oldest slot that is not confirmed, where that is known."""
        self._busy: set[str] = set()
        self.figures = Figures()

    # -- for others -----------------------------------------------------------------------

    def first(self, series: Series, open_time: int) -> None:
        """Compare this candle as soon as REST can be trusted, before all others."""
        settled = open_time + series.timeframe.ms + LOOK_AFTER
        wait = max(0, settled - (self._clock() or settled)) / 1000
        self._rounds.soon(series, trio.current_time() + wait)

    def resume(self, newest: Iterable[Candle]) -> None:
        """Compare first what a predecessor took from a REST that may have been behind: that it was
        going to look again, nobody remembers. What lies behind the page of a turn is looked at."""
        now = self._clock()
        if now is None:
            return
        behind: list[Suspect] = []
        for candle in newest:
            if settled(candle):
                continue
            # Less than a page, for what passes until the turn.
            depth = self._dialect.rest_rows - 2 * NEWER
            first, _ = window(candle.series.timeframe, now - LOOK_AFTER, depth)
            if candle.open_time < first:
                behind.append(Suspect(candle.series, candle.open_time, BEHIND))
            elif candle.evidence is Evidence.REST:
                wait = max(0, candle.close_time + SETTLED + 1_000 - now) / 1000
                self._rounds.soon(candle.series, trio.current_time() + wait)
        self._repairs.suspects(behind)

    def stored(self, written: store.Written) -> None:
        """The writer stored something: an empty slot that is only assumed is compared first."""
        if written.history or written.series.timeframe is not self._dialect.streamed:
            return
        for candle in written.having("ai"):
            if candle.evidence is Evidence.ASSUMED:
                self.first(written.series, candle.open_time)

    def follow(self, series: Sequence[Series]) -> None:
        """Compare these as well from now on."""
        self._rounds.add(series, trio.current_time())

    def forget(self, series: Iterable[Series]) -> None:
        """Compare these no more."""
        gone = set(series)
        self._rounds.forget(gone)
        for one in gone:
            self._until.pop(one, None)
            self._omitted_at.pop(one, None)
        self._told = {key: None for key in self._told if key[0] not in gone}

    def behind(self) -> int:
        """By how much (ms) the candle most behind its time is not confirmed yet; 0: none is."""
        now = self._clock() or 0
        bounds = (
            slot + series.timeframe.ms + min(series.timeframe.ms, HOUR)
            for series, slot in self._until.items()
        )
        return max(0, now - min(bounds, default=now))

    # -- the tasks ------------------------------------------------------------------------

    async def run(self) -> None:
        """Compare until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._go_round)
                nursery.start_soon(self._serve)
            nursery.start_soon(self._tell)

    async def _tell(self) -> None:
        """Once an hour: what was compared and what differed."""
        before, requests, failures = self.figures.compared, 0, 0
        while True:
            await trio.sleep(HOUR / 1000)
            figures = self.figures
            self._say(
                "verified in the last hour",
                {
                    **attrs.asdict(figures.compared - before),
                    "requests": figures.requests - requests,
                    "failures": figures.failures - failures,
                    "behind": self.behind() // 1000,
                },
            )
            before, requests, failures = figures.compared, figures.requests, figures.failures

    async def _go_round(self) -> None:
        backoff = Backoff(first=1.0, most=AGAIN)
        while True:
            moment = trio.current_time()
            series = self._rounds.take(moment)
            if series is None:
                await trio.sleep(min(IDLE, self._rounds.due_in(moment)))
                continue
            try:
                done = await self._turn(series)
            except StoreError as error:
                done = store.is_foreign(error)  # the others go on
            if done:
                backoff.reset()
            else:
                self._rounds.soon(series, trio.current_time() + AGAIN)
                await trio.sleep(backoff.next(self._chance()))

    async def _turn(self, series: Series) -> bool:
        """Compare what is not confirmed of ``series``; whether that could be done."""
        now = self._clock()
        if now is None:
            return False
        ms = series.timeframe.ms
        last = series.timeframe.last_closed(now - LOOK_AFTER)
        size = self._dialect.rest_rows - NEWER
        call = store.range_call(series, last - (size - 1) * ms, last)
        [members] = await self._redis.run([call], "read")
        held = store.decode_candles(series, members)[0]
        unconfirmed = [c.open_time for c in held if c.evidence is not Evidence.REST]
        hasty = [
            c.open_time
            for c in held
            if c.evidence is Evidence.REST and not settled(c) and c.close_time + SETTLED <= now
        ]
        open_times = sorted(unconfirmed + hasty)
        if series not in self._rounds:
            return True  # not followed any more
        if not open_times or self._repairs.leaves_out(series):
            self._until[series] = last + ms
            return True
        self._until[series] = min(unconfirmed, default=last + ms)
        await self._pace()
        asked = await self._repairs.compare(
            series, open_times[0], last, ROUND, omitted_at=self._omitted_at.get(series)
        )
        if series not in self._rounds:
            return True
        if asked.problem:
            self.figures.failures += 1
            return False
        self.figures.requests += 1
        self._until[series] = min(asked.undecided, default=last + ms)
        self._account(series, asked)
        return True

    def _account(self, series: Series, asked: Asked) -> None:
        """Count, tell what REST does not show, and look again where that decides something."""
        compared = asked.compared
        if compared.omitted:
            new = [slot for slot in asked.omitted if (series, slot) not in self._told]
            self._told.update(((series, slot), None) for slot in new)
            while len(self._told) > REMEMBERED:
                del self._told[next(iter(self._told))]
            if new:
                self._say(
                    "REST does not show what traded",
                    {"series": str(series), "candles": len(new), "first": iso(new[0])},
                )
            compared = attrs.evolve(compared, omitted=len(new))
        self.figures.compared += compared
        if not asked.undecided:
            self._omitted_at.pop(series, None)
            return
        since = self._omitted_at.get(series)
        if since is None or asked.at - since >= SECOND_LOOK:
            self._omitted_at[series] = asked.at
        if asked.at - (asked.undecided[-1] + series.timeframe.ms) < SETTLED:
            self._rounds.soon(series, trio.current_time() + SECOND_LOOK / 1000)

    async def _pace(self) -> None:
        """Wait until the next request of the round may go: it leaves most of the budget alone."""
        moment = max(self._next, trio.current_time())
        self._next = moment + self._apart
        await trio.sleep_until(moment)

    # -- by hand --------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Compare the ranges that people put into the ledger."""
        while True:
            now = self._clock() or 0
            waiting = (
                gap
                for name, gap in self._repairs.to_verify.items()
                if name not in self._busy and gap.next_try <= now
            )
            gap = next(waiting, None)
            if gap is None:
                await trio.sleep(IDLE / 2)
                continue
            self._busy.add(gap.name)
            try:
                await self._answer(gap)
            except StoreError:
                await trio.sleep(IDLE)  # it stays in the ledger
            finally:
                self._busy.discard(gap.name)

    async def _answer(self, gap: Gap) -> None:
        gap = await verified(self._repairs, self._dialect, gap, self._clock() or gap.found)
        if gap.name not in self._repairs.to_verify:
            return  # its series is not followed any more, and nothing of it stays
        told = await self._repairs.write_entry(gap)
        if gap.outcome is Outcome.OPEN:
            self._repairs.to_verify[gap.name] = gap
        elif told:
            self._repairs.to_verify.pop(gap.name, None)


async def verified(repairs: Repairs, dialect: Dialect, gap: Gap, now: int) -> Gap:
    """``gap`` after one try to compare all of it, newest page first. Raises :class:`StoreError`.

    Its outcome is ``filled`` with the figures, ``unfillable`` where it cannot be asked about or was
    tried too often, else ``open``.
    """
    series, ms = gap.series, gap.series.timeframe.ms
    if repairs.leaves_out(series):
        note = f"{series.symbol} is not followed"
        return attrs.evolve(gap, outcome=Outcome.UNFILLABLE, ended=now, note=note)
    compared = Compared()
    omitted: list[int] = []
    last = gap.last
    while last >= gap.first:
        first = max(gap.first, last - (dialect.rest_rows - NEWER - 1) * ms)
        asked = await repairs.compare(series, first, last, gap.cause, lane=Lane.BY_HAND)
        if asked.problem:
            tries = gap.attempts + 1
            outcome = Outcome.UNFILLABLE if tries >= TRIES else Outcome.OPEN
            wait = 1_000 * 2**tries
            return attrs.evolve(
                gap, attempts=tries, next_try=now + wait, note=asked.problem, outcome=outcome,
                ended=now if outcome is Outcome.UNFILLABLE else None,
            )  # fmt: skip
        compared += asked.compared
        omitted += asked.omitted
        last = first - ms
    note = f"REST does not show {iso(min(omitted))}" if omitted else ""
    note += f" and {len(omitted) - 1} more" if len(omitted) > 1 else ""
    return attrs.evolve(gap, outcome=Outcome.FILLED, ended=now, note=note, compared=compared)
