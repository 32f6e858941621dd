"""``livermore explain``: a reading taken apart, computed anew from what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
import typer

from livermore.cli import latest, options, output, store, times
from livermore.cli.gaps import ALLOWANCE
from livermore.cli.options import Json, OneExchange, Place, placed
from livermore.cli.store import Status
from livermore.errors import MalformedMessage, StoreError, UsageError
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.signals.anchor import Start
    from livermore.signals.explanation import Explanation, Seed
    from livermore.signals.reading import Reading
    from livermore.signals.state import State

DIFFERS = 7
"""Exit code, as that of ``verify`` where what is stored is wrong."""

LABELS = {"ema12": "EMA12", "ema26": "EMA26", "atr26": "ATR26", "signal": "signal"}


@attrs.frozen
class Stored:
    """What is stored of one series: where its recursion begins, and its newest reading."""

    series: Series
    candles: Sequence[Candle]
    damaged: int
    start: Start
    corrected: int
    """Version of the newest change that was not an append."""
    reading: Reading | None
    version: int
    """Up to which the reading has followed the series."""
    trouble: str | None
    """Why there is no reading."""


@attrs.frozen
class Verdict:
    """What the stored reading says beside the computed one."""

    text: str
    differences: dict[str, tuple[Any, Any]] = attrs.field(factory=dict)
    same: bool | None = None
    """None where the two cannot be compared."""


class _Followed(msgspec.Struct):
    version: int = 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "explain",
        epilog="Example: `livermore explain BTC-USD 1h`, "
        "`livermore explain BTC-USD 5m 2026-01-02T03:05:00Z --candles all`, "
        "`livermore explain BTC-USD 4h 2d --json`. "
        "Exit code 7 when the stored reading is not what its candles lead to.",
    )(placed(explain))


def explain(
    place: Place,
    symbol: options.SymbolArgument,
    timeframe: Annotated[str, typer.Argument(metavar="TF", help="5m, 15m, 1h, 4h or 1d.")],
    time: Annotated[
        str | None,
        typer.Argument(
            metavar="[TIME]",
            help="A time within the candle, 2026-01-02T03:05:00Z or 2h (ago); "
            "without it, the newest that is stored.",
            show_default=False,
        ),
    ] = None,
    candles: Annotated[
        str, typer.Option("--candles", metavar="N|all", help="How many of the candles to list.")
    ] = "10",
    exchange: OneExchange = None,
    user: options.User = None,
    json: Json = False,
) -> int:
    """Show every term of a reading, the candles it rests on and what is uncertain about it."""
    from livermore.signals import explanation

    shown = _count(candles)
    wanted, length = options.marked(symbol, exchange), Timeframe.parse(timeframe)
    settings = place.of(user).settings()
    with store.open_store(settings, wanted[1]) as client:
        where, name, status = store.find(client, settings, *wanted)
        [series] = store.series_of(client, settings, where, [name], status, [length])
        found = read_stored(client, series)
    now = latest.clock(status)
    found_at = choose(found, time, now)
    told = explanation.explain(found.start, found_at)
    verdict = compare(told, found)
    remarks = remarks_on(told, found, verdict, None if time is not None else now)
    if json:
        output.document(document(told, found, verdict, remarks, status))
    else:
        _show(told, verdict, remarks, shown)
    if (why := latest.doubt(series.exchange, status)) is not None:
        output.say(why)
    return DIFFERS if verdict.same is False else 0


def read_stored(client: Client, series: Series) -> Stored:
    """Everything a recursion over ``series`` begins with."""
    from livermore.adapters.store import decode_candles, keys, read_companion, whole
    from livermore.signals.anchor import Start, start_of
    from livermore.signals.reading import decode_reading

    everything, text = client.run_each([whole(series), ("GET", keys(series).indicator)])
    if isinstance(everything, StoreError):
        raise everything
    *fields, members = everything
    candles, damaged = decode_candles(series, members)
    try:
        known = read_companion(fields)
        start = start_of(candles, known.edge_time, known.edge, known.base)
        corrected = known.corrected
    except MalformedMessage as error:
        start, corrected = Start(None, candles, error.reason), 0
    reading, version, trouble = None, 0, None
    if text is None:
        trouble = latest.NONE_STORED
    elif isinstance(text, StoreError):
        trouble = f"the stored reading cannot be read: {text}"
    else:
        try:
            reading, _ = decode_reading(text)
            version = msgspec.json.decode(text, type=_Followed).version
        except (MalformedMessage, msgspec.MsgspecError) as error:
            trouble = f"the stored reading is not understood: {error}"
    return Stored(series, candles, damaged, start, corrected, reading, version, trouble)


def choose(found: Stored, time: str | None, now: int) -> int:
    """Open time of the candle that is meant; raises :class:`UsageError` with what there is."""
    series, step = found.series, found.series.timeframe.ms
    if not found.candles:
        raise UsageError(
            f"no candles of {series} are stored (see: livermore gaps --symbol {series.symbol})"
        )
    oldest, newest = found.candles[0].open_time, found.candles[-1].open_time
    if time is None:
        return newest
    slot = series.timeframe.floor(times.since(time, now, "TIME"))
    if any(candle.open_time == slot for candle in found.candles):
        if all(candle.open_time != slot for candle in found.start.candles):
            raise UsageError(
                f"{series} at {times.iso(slot)} lies before the replay edge: "
                "the candles that led to its reading are not stored any more"
            )
        return slot
    if slot + step > now:
        raise UsageError(
            f"the {series} candle of {times.iso(slot)} is not closed yet: it ends at "
            f"{times.iso(slot + step)} (the newest that is stored is {times.iso(newest)})"
        )
    if oldest < slot < newest:
        raise UsageError(
            f"the {series} candle of {times.iso(slot)} is missing, it is a gap "
            f"(see: livermore gaps --symbol {series.symbol})"
        )
    raise UsageError(
        f"no {series} candle of {times.iso(slot)} is stored: "
        f"there are those from {times.iso(oldest)} to {times.iso(newest)}"
    )


def compare(told: Explanation, found: Stored) -> Verdict:
    """Whether the stored reading is what the candles lead to."""
    from livermore.signals.explanation import differences

    reading, at = found.reading, told.candle.open_time
    if reading is None:
        return Verdict(found.trouble or latest.NONE_STORED)
    if reading.open_time != at:
        where = f"the stored reading is of {times.iso(reading.open_time)}"
        if at == found.candles[-1].open_time:
            return Verdict(f"{where}: it has not followed the newest candle yet")
        return Verdict(f"{where}: those of older candles are not kept")
    differing = differences(told.reading, reading)
    if not differing:
        return Verdict("the stored reading is the same", same=True)
    if found.version < found.corrected:
        return Verdict("the stored reading has not followed the newest correction yet", differing)
    return Verdict("THE STORED READING DIFFERS", differing, same=False)


def remarks_on(told: Explanation, found: Stored, verdict: Verdict, now: int | None) -> list[str]:
    """What is uncertain; ``now`` (ms) where the newest candle was asked for."""
    remarks = []
    timeframe = found.series.timeframe
    if now is not None:
        late = timeframe.last_closed(now - ALLOWANCE) - told.candle.open_time
        if late > 0:
            ago = times.length(now - told.candle.close_time)
            remarks.append(
                f"old: this candle ended {ago} ago, of the {late // timeframe.ms} closed since "
                "none is stored"
            )
    remarks += told.uncertain
    if found.damaged:
        remarks.append(f"{found.damaged} members of the stored series are damaged and left out")
    if found.reading is not None and verdict.same is not None and found.reading.halted:
        remarks.append("the exchange was halted when this reading was made")
    return remarks


def difference_lines(verdict: Verdict) -> list[str]:
    """One per field."""
    return [
        f"{name}: computed {_brief(ours)}, stored {_brief(theirs)}"
        for name, (ours, theirs) in verdict.differences.items()
    ]


# -- for people -------------------------------------------------------------------------------


def _show(told: Explanation, verdict: Verdict, remarks: Sequence[str], shown: int | None) -> None:
    from rich.table import Table
    from rich.text import Text

    candle, reading = told.candle, told.reading
    span = f"{times.iso(candle.open_time)} to {times.iso(candle.close_time)}"
    output.line(f"{told.series} {span}, {told.series.exchange}")
    if reading.macdv is None:
        output.line(f"MACD-V is withheld: {reading.withheld}")
    else:
        output.line(
            f"MACD-V {reading.macdv:.2f}  signal {output.number(reading.signal, 2)}  "
            f"histogram {output.number(reading.histogram, 2)}"
        )
        output.line(f"{reading.stage}: {told.bound}")
    output.line("")

    terms = output.table("", "before", "at", "how", right=("before", "at"), loose=("how",))
    for term, before, at, how in term_rows(told):
        terms.add_row(Text(term, style="bold"), before, at, how)
    output.show(terms)
    output.line("")

    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    said = [(name, Text(fact)) for name, fact in fact_rows(told, verdict)]
    said += [("", Text(text, style="red")) for text in difference_lines(verdict)]
    said += [("uncertain", Text(text, style="yellow")) for text in remarks]
    above = ""
    for name, text in said if remarks else [*said, ("uncertain", Text("nothing"))]:
        facts.add_row("" if name == above else name, text)
        above = name or above
    output.show(facts)

    listed = told.used if shown is None else told.used[len(told.used) - shown :]
    output.line("")
    output.line(f"the newest {len(listed)} of {len(told.used)} candles:")
    columns = ("open", "high", "low", "close", "volume")
    table = output.table(
        "open time", *columns, "kind", "evidence", "revision", right=(*columns, "revision")
    )
    for one in listed:
        figures = (one.open, one.high, one.low, one.close, one.volume)
        skipped = " (not in ATR)" if one.kind is Kind.EMPTY else ""
        table.add_row(
            times.iso(one.open_time),
            *(output.number(value) for value in figures),
            one.kind.value + skipped,
            one.evidence.label,
            str(one.revision),
        )
    output.show(table, whole=True)


def term_rows(told: Explanation) -> list[tuple[str, str, str, str]]:
    """Term, its value at the candle before and at this one, and how the one led to the other."""
    at, before = told.at, told.before
    apart = before is not None and at.open_time - before.open_time > told.series.timeframe.ms
    where = f"the candle before is of {times.iso(before.open_time)}" if before and apart else ""
    rows = [("close", _figure(None if before is None else before.close), _figure(at.close), where)]
    for term, length in (("ema12", 12), ("ema26", 26)):
        was, now = (None if s is None else getattr(s, term) for s in (before, at))
        how = f"{_figure(was)} + ({_figure(at.close)} - {_figure(was)}) * 2/{length + 1}"
        rows.append((LABELS[term], _figure(was), _figure(now), _how(was, now, how, length)))
    true_range = told.true_range
    was = None if before is None else before.atr26
    if true_range is None:
        rows.append(("true range", "", "–", "none: nothing traded"))
        how = "as before: an empty candle is skipped"
    else:
        parts = [
            f"{word} {_figure(value)}"
            for word, value in (
                ("high - low", true_range.high_low),
                ("|high - close before|", true_range.high_close),
                ("|low - close before|", true_range.low_close),
            )
            if value is not None
        ]
        rows.append(("true range", "", _figure(true_range.value), f"max of {', '.join(parts)}"))
        how = f"{_figure(was)} + ({_figure(true_range.value)} - {_figure(was)}) / 26"
    rows.append(("ATR26", _figure(was), _figure(at.atr26), _how(was, at.atr26, how, 26)))
    was = None if before is None else before.macdv
    how = f"100 * ({_figure(at.ema12)} - {_figure(at.ema26)}) / {_figure(at.atr26)}"
    if at.macdv is None:
        how = "not yet" if at.ema26 is None or at.atr26 is None else "no volatility"
    rows.append(("MACD-V", _points(was), _points(at.macdv), how))
    was = None if before is None else before.signal
    how = f"{_points(was)} + ({_points(at.macdv)} - {_points(was)}) * 2/10"
    if at.macdv is None and at.signal is not None:
        how = "stands still: there is no MACD-V"
    rows.append(("signal", _points(was), _points(at.signal), _how(was, at.signal, how, 9)))
    rows.append(
        ("histogram", _points(_histogram(before)), _points(_histogram(at)), "MACD-V - signal")
    )
    return rows


def _how(was: float | None, now: float | None, how: str, length: int) -> str:
    if now is None:
        return "not yet"
    return f"begins: the mean of the first {length}" if was is None else how


def fact_rows(told: Explanation, verdict: Verdict) -> list[tuple[str, str]]:
    """What the reading rests on."""
    reading, used = told.reading, told.used
    traded = sum(candle.kind is Kind.TRADED for candle in used)
    known = Counter(candle.evidence for candle in used)
    evidence = ", ".join(f"{known[one]} {one.label}" for one in reversed(Evidence) if known[one])
    revised = sum(candle.revision > 0 for candle in used)
    rows = [
        ("anchor", anchor_text(told)),
        (
            "candles",
            f"{len(used)} used: {traded} traded, {len(used) - traded} empty "
            f"(skipped by the ATR); {evidence}; {revised} revised",
        ),
        (
            "observed",
            f"{reading.observed} traded and {reading.empty} empty since the anchor, "
            + ("warm" if reading.warm else "not warm")
            + (f", liquidity {reading.liquidity}" if reading.liquidity else ""),
        ),
    ]
    rows += [("seed", seed_text(seed)) for seed in told.seeds]
    if reading.crossover is not None:
        n = reading.crossover.candles
        rows.append(("crossover", f"{reading.crossover.side} the signal for {n} candles"))
    rows.append(("stored", verdict.text))
    return rows


def anchor_text(told: Explanation) -> str:
    """Where the recursion begins."""
    first = times.iso(told.used[0].open_time)
    state = told.start.state
    if state is None:
        return f"{first}, the oldest stored candle"
    terms = ", ".join(
        f"{LABELS[name]} {_figure(getattr(state, name))}" for name in ("ema12", "ema26", "atr26")
    )
    return (
        f"not stored any more; the state at {times.iso(state.open_time)} is carried, after "
        f"{state.count} candles ({state.observed} traded): {terms}, "
        f"signal {_points(state.signal)}"
    )


def seed_text(seed: Seed) -> str:
    """How a term began."""
    label = LABELS[seed.term]
    if seed.carried:
        return f"{label}: before the replay edge, in the carried state"
    if seed.last is None:
        return f"{label}: not yet, needs {seed.length} {seed.of}"
    began = "before the replay edge" if seed.first is None else times.iso(seed.first)
    return (
        f"{label}: {_figure(seed.value)}, the mean of the first {seed.length} {seed.of}, "
        f"{began} to {times.iso(seed.last)}"
    )


def _histogram(state: State | None) -> float | None:
    if state is None or state.macdv is None or state.signal is None:
        return None
    return state.macdv - state.signal


def _figure(value: float | None) -> str:
    """To ten digits: enough to compute it again by hand."""
    return output.number(None if value is None else float(f"{value:.10g}"))


def _points(value: float | None) -> str:
    return output.number(value, 4)


def _brief(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        return " ".join(map(str, msgspec.structs.astuple(value)))
    return "none" if value is None else str(value)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--candles {text}: write a number, or all")
    return int(text[:9])


# -- for programs -----------------------------------------------------------------------------


def document(
    told: Explanation,
    found: Stored,
    verdict: Verdict,
    remarks: Sequence[str],
    status: Status | None,
) -> dict[str, Any]:
    """Everything, with ISO times; numbers that do not exist are null."""
    reading, candle, start = told.reading, told.candle, told.start
    known = Counter(one.evidence.label for one in told.used)
    return {
        "exchange": told.series.exchange,
        "symbol": told.series.symbol,
        "timeframe": told.series.timeframe.value,
        "open_time": times.iso(candle.open_time),
        "close_time": times.iso(candle.close_time),
        "newest": candle.open_time == found.candles[-1].open_time,
        "daemon": latest.daemon_document(status),
        "macdv": reading.macdv,
        "signal": reading.signal,
        "histogram": reading.histogram,
        "stage": reading.stage,
        "bound": told.bound,
        "withheld": reading.withheld,
        "warm": reading.warm,
        "observed": reading.observed,
        "empty": reading.empty,
        "liquidity": reading.liquidity,
        "crossover": reading.crossover,
        "calm": told.at.calm,
        "at": _state(told.at),
        "before": _state(told.before),
        "true_range": None
        if told.true_range is None
        else {**attrs.asdict(told.true_range), "value": told.true_range.value},
        "terms": [
            dict(zip(("term", "before", "at", "how"), row, strict=True)) for row in term_rows(told)
        ],
        "anchor": {
            "kind": "oldest stored candle" if start.state is None else "carried state",
            "first": times.iso(told.used[0].open_time),
            "state": _state(start.state),
            "lost": start.lost,
        },
        "seeds": [
            {**attrs.asdict(seed), "first": _time(seed.first), "last": _time(seed.last)}
            for seed in told.seeds
        ],
        "missing": [times.iso(slot) for slot in told.missing],
        "uncertain": [*remarks],
        "stored": {
            "same": verdict.same,
            "text": verdict.text,
            "open_time": None if found.reading is None else times.iso(found.reading.open_time),
            "revision": found.reading and found.reading.revision,
            "halted": found.reading and found.reading.halted,
            "differences": {
                name: {"computed": ours, "stored": theirs}
                for name, (ours, theirs) in verdict.differences.items()
            },
        },
        "used": {
            "count": len(told.used),
            "carried": told.carried,
            "traded": sum(one.kind is Kind.TRADED for one in told.used),
            "empty": sum(one.kind is Kind.EMPTY for one in told.used),
            "evidence": {one.label: known[one.label] for one in Evidence},
            "revised": sum(one.revision > 0 for one in told.used),
            "damaged": found.damaged,
        },
        "candles": [_candle(one) for one in told.used],
    }


def _candle(one: Candle) -> dict[str, Any]:
    return {
        "open_time": times.iso(one.open_time),
        **{name: getattr(one, name) for name in ("open", "high", "low", "close", "volume")},
        "kind": one.kind.value,
        "evidence": one.evidence.label,
        "revision": one.revision,
    }


def _state(state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    said = msgspec.structs.asdict(state)
    return {**said, "open_time": _time(state.open_time), "gap_time": _time(state.gap_time or None)}


def _time(time: int | None) -> str | None:
    return None if time is None else times.iso(time)
