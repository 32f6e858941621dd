"""The newest readings as they lie in Redis, and whether they are still current."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from livermore.cli import store, times
from livermore.cli.gaps import ALLOWANCE
from livermore.cli.status import OLD, not_running, seconds
from livermore.cli.store import Status
from livermore.errors import MalformedMessage, NotRunning, StoreError
from livermore.market.candle import Series

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.signals.reading import Reading

NONE_STORED = "no reading is stored"


@attrs.frozen
class Latest:
    """The newest reading of one series at a moment of the exchange's clock."""

    series: Series
    reading: Reading | None
    trouble: str | None
    """Why there is no reading."""
    now: int

    @property
    def age(self) -> int | None:
        """Milliseconds since the end of its candle."""
        if self.reading is None:
            return None
        return max(0, self.now - self.reading.open_time - self.series.timeframe.ms)

    @property
    def old(self) -> bool:
        """Whether it is not of the newest closed candle."""
        newest = self.series.timeframe.last_closed(self.now - ALLOWANCE)
        return self.reading is not None and self.reading.open_time < newest

    @property
    def why(self) -> str | None:
        """Why there is no number."""
        return self.trouble if self.reading is None else self.reading.withheld

    @property
    def current(self) -> Reading | None:
        """The reading where it has numbers and is not old."""
        return None if self.old or self.why is not None else self.reading


def read_latest(client: Client, chosen: Sequence[Series], now: int) -> list[Latest]:
    """The newest readings of ``chosen``, all asked for at once."""
    from livermore.adapters.store import is_foreign, keys
    from livermore.signals.reading import decode_reading

    named = [keys(series).indicator for series in chosen]
    found = []
    for series, key, reply in zip(
        chosen, named, client.run_each([("GET", key) for key in named]), strict=True
    ):
        reading, trouble = None, None
        if isinstance(reply, StoreError):
            if not is_foreign(reply):
                raise reply
            trouble = f"{key} holds what is no reading"
        elif reply is None:
            trouble = NONE_STORED
        else:
            try:
                reading, _ = decode_reading(reply)
            except MalformedMessage as error:
                trouble = f"the stored reading is not understood: {error.reason}"
        found.append(Latest(series, reading, trouble, now))
    return found


def followed(
    client: Client, exchange: str, status: Status | None, user: str | None = None
) -> list[Series]:
    """The series whose readings are to be expected; raises :class:`NotRunning` for none."""
    series = store.followed(client, exchange, status, user)
    if not series and status is None:
        raise NotRunning(f"nothing of {exchange} is stored here, and {not_running(exchange)}")
    return series


def clock(status: Status | None) -> int:
    """The exchange's time now as its daemon knows it, or ours."""
    if status is None or status.words.exchange_time is None:
        return store.now()
    return store.now(status) + status.age


def doubt(exchange: str, status: Status | None) -> str | None:
    """Why nothing newer may be there, in one line; None where the daemon sees the market."""
    if status is None:
        return f"{not_running(exchange)} (readings may be old)"
    if status.age >= OLD:
        said = times.length(status.age)
        return f"the daemon of {exchange} said nothing for {said}: readings may be old"
    words = status.words
    if words.state in (None, "live"):
        return None
    since = f" since {seconds(words.since)}" if words.since else ""
    return f"{exchange} is {words.state}{since}: {words.note or 'no reason is given'}"


def daemon_document(status: Status | None) -> dict[str, Any] | None:
    """What is known of the daemon; null where none runs."""
    if status is None:
        return None
    return {"state": status.words.state, "note": status.words.note, "age": status.age}


def reading_document(one: Latest) -> dict[str, Any]:
    """One reading with ISO times; numbers that do not exist are null."""
    reading = one.reading
    said: dict[str, Any] = {
        "symbol": one.series.symbol,
        "timeframe": one.series.timeframe.value,
        "open_time": None,
        "age": one.age,
        "old": one.old,
        "macdv": None,
        "signal": None,
        "histogram": None,
        "stage": None,
    }
    if reading is None:
        return {**said, "withheld": one.trouble}
    return {
        **said,
        "open_time": times.iso(reading.open_time),
        "macdv": reading.macdv,
        "signal": reading.signal,
        "histogram": reading.histogram,
        "stage": reading.stage,
        "withheld": reading.withheld,
        "crossover": reading.crossover,
        "liquidity": reading.liquidity,
        "observed": reading.observed,
        "empty": reading.empty,
        "warm": reading.warm,
        "halted": reading.halted,
        "revision": reading.revision,
    }
