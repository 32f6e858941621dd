"""Where the exchange says itself that a candle is closed (Binance), nothing else closes one.

Its frames are cumulative: each shows the whole slot so far, so whatever was lost before is healed
by the next, and the flagged one is the candle. A slot whose flag has not come ``settle`` after its
end is missing, and REST is asked; a flag that comes later still counts.

Frames of other symbols, stamped after the end, may arrive seconds before a flag: they prove nothing
here. A symbol that trades nothing is flagged all the same, flat and without volume: that is an
empty candle in the exchange's own words.
"""

from __future__ import annotations

from livermore.market.candle import same_volume
from livermore.market.events import Sample, Ticker
from livermore.market.tracker import BELIEVED, HEARD, KEPT, Tracker, _closed, _Tape

UNHEARD = 5_000
"""Ms beyond ``settle`` after which a slot is missing although the socket itself is behind."""
TWICE = "the exchange closed it twice, differently"
"""The cause of what two flags contradict."""


class FlagTracker(Tracker):
    """Closes by the exchange's flag. ``last_time`` and ``arrived`` are of a tape's newest frame."""

    def held(self, native: str, open_time: int) -> float | None:
        """Volume of a slot as we hold it; None where that is not known."""
        tape = self._tapes.get(native)
        if tape is None:
            return None
        if (closed := tape.closed.get(open_time)) is not None:
            return closed.volume
        if tape.whole_since is None:
            return None
        known = tape.samples.get(open_time)
        if known is not None:
            # What traded since an older connection's frame was not ours to hear.
            return known[1].volume if known[0] >= tape.whole_since else None
        return 0.0 if tape.whole_since <= open_time else None

    def _take_ticker(self, tape: _Tape, event: Ticker, now: float) -> None:
        """A price that is not the newest frame's is of a trade whose frame has not arrived."""
        if tape.told_at is not None or event.time <= tape.arrived:
            return
        newest = max(tape.samples, default=None)
        if newest is not None and tape.samples[newest][1].close != event.price:
            tape.told_at = now

    def _take_sample(self, tape: _Tape, sample: Sample, stamp: int | None, now: float) -> None:
        time = self.clock.read(now)
        if time is None:
            return
        heard = time if stamp is None else min(stamp, time)
        open_time = sample.open_time
        end = open_time + self._timeframe.ms
        early = sample.closed and end > time + BELIEVED
        if open_time > time + BELIEVED or early or sample.snapshot:
            self.counts.malformed += not sample.snapshot
            return
        self._own(tape, time)
        self._keep_pace(tape, heard, now)
        tape.spoke = True
        tape.unsampled_at = None
        tape.arrived = tape.last_time = max(tape.arrived, heard)
        known = tape.samples.get(open_time)
        if known is not None and not _newer(known, heard, sample):
            self.counts.duplicates += 1
            return
        if sample.volume > (known[1].volume if known is not None else 0.0):
            tape.newest_time = max(tape.newest_time, min(heard, end - 1))
        tape.samples[open_time] = (heard, sample)
        while len(tape.samples) > KEPT:
            del tape.samples[min(tape.samples)]
        if open_time not in tape.samples:
            return  # long over: REST was asked for it
        if sample.closed and tape.closed_to is not None and open_time <= tape.closed_to:
            self._close_flagged(tape, open_time)  # late, or another time
        self._settle(tape, time)
        self._show_forming(tape, time)

    def _settle(self, tape: _Tape, time: int | None) -> None:
        if time is None or tape.ignored:
            return
        ms = self._timeframe.ms
        tape.closed_to = self._own(tape, time)
        while True:
            open_time = tape.closed_to + ms
            end = open_time + ms
            known = tape.samples.get(open_time)
            if known is not None and known[1].closed:
                self._close_flagged(tape, open_time)
            elif time < end + self._settle_after:
                return
            elif (
                self._connected
                and (self.clock.stamp or 0) < end + HEARD
                and time < end + self._settle_after + UNHEARD
            ) or (self._connected and self._now < self._patient_until):
                return  # the socket is behind: nothing may be concluded from silence
            else:
                self._miss(tape, open_time)
            tape.closed_to = open_time
            self._forget(tape)

    def _late(self, floor: int, time: int) -> int:
        due = time - self._settle_after
        return due - due % self._timeframe.ms - self._timeframe.ms

    def _close_flagged(self, tape: _Tape, open_time: int) -> None:
        candle = _closed(tape.series, *tape.samples[open_time])
        if candle is None:
            self._miss(tape, open_time)
            return
        before = tape.closed.get(open_time)
        tape.closed[open_time] = candle
        if before is not None:
            if before.same_values(candle):
                return
            self._suspect(tape.series, open_time, TWICE)
        else:
            self.counts.closes += 1
        tape.missed.pop(open_time, None)
        self.pending.missing.pop((tape.series, open_time), None)
        self.pending.closes.setdefault(tape.series, {})[open_time] = candle
        if tape.before is None or tape.before[0] <= open_time:
            tape.before = (open_time, candle.close)

    def _why_missing(self, tape: _Tape, open_time: int) -> str:
        if not self._connected:
            return "no connection"
        if tape.whole_since is None or tape.whole_since > open_time + self._timeframe.ms:
            return "the connection was lost when it ended"
        return "the exchange did not close it"


def _newer(known: tuple[int, Sample], heard: int, sample: Sample) -> bool:
    """Whether ``sample`` says more of its slot than what is known: nothing but a flag is final."""
    before, newest = known
    if sample.closed != newest.closed:
        return sample.closed
    if sample.closed:
        return heard >= before
    grown = sample.volume > newest.volume
    return heard >= before and (grown or same_volume(sample.volume, newest.volume))
