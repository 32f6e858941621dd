"""What the feeds count anyway, as Prometheus reads it. Nothing is counted for metrics alone.

Counters start again at 0 with their feed, as Prometheus expects of a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import attrs
import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from livermore import __version__
from livermore.market.gap import Outcome
from livermore.runtime.condition import STATES
from livermore.runtime.connection import State
from livermore.runtime.histogram import Histogram
from livermore.runtime.repairs import DEEPER, HISTORY
from livermore.runtime.status import Report


@attrs.frozen
class Source:
    """One exchange: what its feed reports, and its clock (exchange ms, where it is known)."""

    report: Report
    clock: int | None


F = TypeVar("F", CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily)
Sources = Callable[[], Mapping[str, Source]]


def exposition(sources: Sources) -> Callable[[str], tuple[bytes, str]]:
    """A function from an ``Accept`` header to the metrics of this moment and their content type."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Feeds(sources))

    def expose(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return expose


class _Feeds(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> list[Metric]:
        return []  # nothing is asked before the feeds are there

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("livermore_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        families = _Families()
        for exchange, source in self._sources().items():
            _tell(exchange, source, families)
        yield from families.known.values()


@attrs.frozen
class _Families:
    """Every family once, whatever the number of exchanges."""

    known: dict[str, Metric] = attrs.Factory(dict)

    def counter(self, name: str, what: str, value: float, **labels: str) -> None:
        family = self._family(CounterMetricFamily, name, what, labels)
        family.add_metric(list(labels.values()), value)

    def gauge(self, name: str, what: str, value: float, **labels: str) -> None:
        family = self._family(GaugeMetricFamily, name, what, labels)
        family.add_metric(list(labels.values()), value)

    def histogram(self, name: str, what: str, values: Histogram, **labels: str) -> None:
        family = self._family(HistogramMetricFamily, name, what, labels)
        buckets = [
            ("+Inf" if bound == float("inf") else str(bound), count)
            for bound, count in values.buckets()
        ]
        family.add_metric(list(labels.values()), buckets, values.total)

    def _family(self, kind: type[F], name: str, what: str, labels: Mapping[str, str]) -> F:
        family = self.known.setdefault(name, kind(f"livermore_{name}", what, labels=list(labels)))
        assert isinstance(family, kind)
        return family


def _tell(exchange: str, source: Source, families: _Families) -> None:
    report, clock, moment = source.report, source.clock, trio.current_time()

    def counter(name: str, what: str, value: float, **labels: str) -> None:
        families.counter(name, what, value, exchange=exchange, **labels)

    def gauge(name: str, what: str, value: float, **labels: str) -> None:
        families.gauge(name, what, value, exchange=exchange, **labels)

    condition = report.condition(clock)
    for state in dict.fromkeys((*STATES, condition.state)):
        gauge("state", "1 for the state the feed is in.", state == condition.state, state=state)
    gauge("blind", "1 while candles are not followed, see /readyz.", condition.blind)
    gauge("symbols", "Symbols followed.", len(report.symbols))
    gauge("symbols_rejected", "Symbols the exchange does not serve.", len(report.rejected))
    gauge(
        "symbols_mute", "Symbols whose trades REST shows and no connection delivers.",
        sum(len(health.mute) for health in report.healths),
    )  # fmt: skip
    gauge(
        "symbols_starved", "Symbols whose trades arrive without their candle channel.",
        sum(len(health.starved) for health in report.healths),
    )  # fmt: skip

    # -- connections
    states = [health.state for health in report.healths]
    for kind in State:
        gauge("connections", "Sockets by state.", states.count(kind), state=kind.value)
    counter(
        "reconnects", "Connections lost, or not opened.",
        sum(health.reconnects for health in report.healths),
    )  # fmt: skip
    counter("frames", "Frames received.", sum(health.frames for health in report.healths))
    counts = [tracker.counts for tracker in report.trackers]
    counter(
        "malformed", "Frames, and entries of frames, that were damaged.",
        sum(health.malformed for health in report.healths) + sum(one.malformed for one in counts),
    )  # fmt: skip
    counter("trades", "Trades received.", sum(one.trades for one in counts))
    counter(
        "late_trades", "Trades of a slot already closed.", sum(one.late_trades for one in counts)
    )
    counter("breaks", "Breaks in a connection's delivery.", sum(one.breaks for one in counts))

    # -- the writer
    if (writer := report.writer) is not None:
        turns = writer.turns
        counter("closes", "Candles stored and announced as closed.", turns.closes)
        counter("corrections", "Stored candles that were changed.", turns.corrections)
        counter(
            "overflow", "Closes given up, to be asked of REST, as too many waited.", turns.overflow
        )
        gauge("pending", "Closed candles that Redis has not taken yet.", writer.waiting())
        away = turns.away_since
        gauge("redis_away", "1 while Redis does not take what we write.", away is not None)
        gauge(
            "redis_away_seconds", "For how long it does not.",
            0.0 if away is None else moment - away,
        )  # fmt: skip
        gauge(
            "writer_beat_age_seconds", "Since the writer's last sign of life.",
            moment - turns.beat if turns.beat else 0.0,
        )  # fmt: skip
        if turns.newest_close and clock is not None:
            age = max(0, clock - turns.newest_close) / 1000
            gauge("newest_close_age_seconds", "Since the end of the newest closed candle.", age)
        families.histogram(
            "close_lag_seconds", "From a traded candle's end to its announcement.",
            turns.all_lags, exchange=exchange,
        )  # fmt: skip
        families.histogram(
            "writer_batch_candles", "Candles written at once.", turns.batches, exchange=exchange
        )
        families.histogram(
            "writer_batch_seconds", "Seconds that took.", turns.took, exchange=exchange
        )
    if (readings := report.readings) is not None:
        counter("readings", "Readings published.", readings.work.published)

    # -- alerts
    if (alerting := report.alerting) is not None:
        counter("alerts", "Alerts put into the outbox.", alerting.fired)
        counter("alerts_withdrawn", "Alerts that a correction unmade.", alerting.withdrawn)
        gauge("alerts_held", "Series whose alerts wait for REST.", len(alerting.held))
    if (delivery := report.delivery) is not None:
        for name, figures in delivery.figures.items():
            counter("messages_sent", "Entries of the outbox sent.", figures.sent, channel=name)
            counter("messages_failed", "Tries that failed.", figures.failed, channel=name)
            counter(
                "messages_dropped", "Entries that were never sent.", figures.dropped, channel=name
            )
            gauge("messages_pending", "Entries that wait.", figures.pending, channel=name)

    # -- REST
    if (repairs := report.repairs) is not None:
        progress = repairs.progress
        gaps = [gap for gap in repairs.open_gaps if gap.cause not in (HISTORY, DEEPER)]
        gauge("gaps_open", "Gaps being repaired, history apart.", len(gaps))
        gauge("gaps_open_candles", "Candles they lack.", sum(gap.slots for gap in gaps))
        for outcome, ended in (
            (Outcome.FILLED, progress.filled), (Outcome.UNFILLABLE, progress.unfillable)
        ):  # fmt: skip
            what = "Gaps that are over, history that was filled apart."
            counter("gaps_ended", what, ended, outcome=outcome.value)
        gauge("history_series", "Series whose history is wanted.", progress.total)
        gauge("history_series_whole", "Series whose history is whole.", progress.done)
        counter("rest_pages", "Pages of candles that REST answered.", progress.requests)
        counter("rest_looks", "Comparisons of stored candles with REST.", progress.looks)
        counter("rest_differed", "Candles that REST corrected.", progress.differed)
    if (budget := report.budget) is not None:
        gauge("rest_budget_per_second", "Requests REST allows us.", budget.per_second)
        gauge("rest_budget_used_last_minute", "Requests of the last minute.", budget.used(60.0))
        counter("rest_refusals", "Requests refused for their number (429).", budget.refusals)
        gauge("rest_banned", "1 while a refusal is waited out.", budget.banned is not None)
    if (verification := report.verification) is not None:
        compared = attrs.asdict(verification.figures.compared)
        compared.pop("slots")  # their sum
        for word, count in compared.items():
            what = "Stored candles that were compared with REST, by what came of it."
            counter("verified_candles", what, count, result=word)
        behind = verification.behind() / 1000
        gauge("verification_behind_seconds", "By how much the comparisons are late.", behind)
