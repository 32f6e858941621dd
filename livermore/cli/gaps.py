"""``livermore gaps``: closed candles we should have and do not.

The truth is a look at the store, slot by slot; the daemon's ledger only adds why a slot is missing
and when it is asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Exchange, Json, Place, Symbol, TimeframeName, placed
from livermore.errors import MalformedMessage
from livermore.market.candle import Series
from livermore.market.gap import VERIFY, Gap, Outcome, decode_gap

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.adapters.store import Survey

ALLOWANCE = 15_000
"""After a slot's end (ms), when its candle has to be there."""
REMAIN = 6
SHOWN = 40
"""Rows of the table; JSON has them all."""


@attrs.frozen
class Missing:
    """A range of missing slots, with what the ledger knows about it, if anything."""

    series: Series
    first: int
    last: int
    entry: Gap | None

    @property
    def slots(self) -> int:
        """How many candles it lacks."""
        return (self.last - self.first) // self.series.timeframe.ms + 1


@attrs.frozen
class Findings:
    """What a look at the store found.

    ``bare`` series hold no candle, so nothing is known of them; of those in ``unasked`` no history
    was ever asked for, so something is missing there for certain.
    """

    exchange: str
    since: int
    until: int
    series: int
    missing: Sequence[Missing]
    bare: Sequence[Series]
    unasked: Sequence[Series]
    ended: Sequence[Gap]
    """What the ledger says was filled or given up since then, newest first."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "gaps",
        epilog="Example: `livermore gaps --since 2h`, `livermore gaps --ended`, "
        "`livermore gaps --symbol BTC-USD --json`. "
        "Exit code 6 while gaps remain, 0 when there are none.",
    )(placed(gaps))


def gaps(
    place: Place,
    symbol: Symbol = None,
    timeframe: TimeframeName = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From 2h ago, or 2026-01-02T03:00:00Z, on.")
    ] = "24h",
    ended: Annotated[
        bool, typer.Option("--ended", help="Also those that were filled or given up.")
    ] = False,
    exchange: Exchange = None,
    json: Json = False,
) -> int:
    """List the candles that should be stored and are not."""
    wanted = set(options.timeframes(timeframe))
    only, given = options.limits(symbol, exchange)
    settings, remain = place.settings(), False
    with store.open_store(settings, given) as client:
        chosen = store.look_at(client, settings, only, given)
        for name, known, status in chosen:
            series = [
                one
                for one in store.followed(client, name, status, settings.user)
                if one.timeframe in wanted and known in (None, one.symbol)
            ]
            now = store.now(status)
            found = look(client, name, series, times.since(since, now), now)
            remain = remain or bool(found.missing or found.unasked)
            if json:
                output.document(_document(found, ended=ended))
            else:
                if len(chosen) > 1:
                    output.line(f"{name}:")
                if ended:
                    _show_ended(found.ended)
                _show(found, now)
            if status is not None and status.words.state not in (None, "live"):
                note = status.words.note or "no reason is given"
                output.say(f"{name} is {status.words.state}: {note}")
    return REMAIN if remain else 0


def look(client: Client, exchange: str, chosen: Sequence[Series], since: int, now: int) -> Findings:
    """Compare the store with the slots that have ended between ``since`` and ``now`` (ms)."""
    from livermore.adapters.store import survey, surveyed

    bounds = [(s.timeframe.ceil(since), s.timeframe.last_closed(now - ALLOWANCE)) for s in chosen]
    calls = [survey(s, *bound) for s, bound in zip(chosen, bounds, strict=True)]
    surveys = [surveyed(s, r) for s, r in zip(chosen, client.run(calls), strict=True)]
    ledger = _ledger(client, exchange)
    missing = [
        Missing(survey.series, first, last, _entry(ledger, survey.series, first, last))
        for survey in surveys
        for first, last in known_missing(survey)
    ]
    missing.sort(key=lambda gap: (-gap.last, gap.series.timeframe.ms, gap.series.symbol))
    bare = [survey for survey in surveys if not survey.stored]
    unasked = [survey.series for survey in bare if survey.asked_from is None]
    over = [
        gap
        for gap in ledger
        if gap.outcome is not Outcome.OPEN and gap.series in chosen and (gap.ended or 0) >= since
    ]
    over.sort(key=lambda gap: (-(gap.ended or 0), -gap.last, gap.series.timeframe.ms))
    bare_series = [survey.series for survey in bare]
    return Findings(exchange, since, now, len(chosen), missing, bare_series, unasked, over)


def known_missing(survey: Survey) -> list[tuple[int, int]]:
    """The missing ranges from the oldest candle on: what lies before was never promised."""
    if survey.oldest is None:
        return []
    oldest = survey.oldest
    return [(max(first, oldest), last) for first, last in survey.missing if last >= oldest]


def _ledger(client: Client, exchange: str) -> list[Gap]:
    from livermore.adapters.store import gaps_key

    entries = []
    reply = client.one("HVALS", gaps_key(exchange))
    for text in reply:
        try:
            entries.append(decode_gap(exchange, text))
        except MalformedMessage:
            continue  # the store is the truth; a damaged note only loses the reason
    return [gap for gap in entries if gap.cause != VERIFY]


def _entry(ledger: Sequence[Gap], series: Series, first: int, last: int) -> Gap | None:
    """The entry that says most about a range: open ones first, then the one that covers most."""
    about = [g for g in ledger if g.series == series and g.first <= last and g.last >= first]
    return max(
        about,
        key=lambda g: (g.outcome is Outcome.OPEN, min(g.last, last) - max(g.first, first), g.found),
        default=None,
    )


def _show(found: Findings, now: int) -> None:
    if found.missing:
        table = output.table(
            *("symbol", "tf", "missing from", "candles", "cause", "tries", "next try"),
            right=("candles", "tries"),
            loose=("cause", "next try"),
        )
        for gap in found.missing[:SHOWN]:
            entry = gap.entry
            table.add_row(
                gap.series.symbol,
                gap.series.timeframe.value,
                times.iso(gap.first),
                str(gap.slots),
                entry.cause if entry else "not in the ledger",
                str(entry.attempts) if entry else "–",
                _next(entry, now),
            )
        output.show(table)
        if len(found.missing) > SHOWN:
            output.say(f"… and {len(found.missing) - SHOWN} more ranges (--json has them all)")
    total = sum(gap.slots for gap in found.missing)
    of = len({gap.series for gap in found.missing})
    output.line(
        f"{total} candles missing in {of} of {found.series} series since {times.iso(found.since)}"
        if found.missing
        else f"no gaps in {found.series - len(found.bare)} series since {times.iso(found.since)}"
    )
    if found.bare:
        names = ", ".join(map(str, found.bare[:3])) + (", …" if len(found.bare) > 3 else "")
        why = "their history was not fetched yet" if found.unasked else "the exchange has none"
        output.say(f"{len(found.bare)} series hold no candle: {names} ({why})")
    if not found.series:
        output.say(
            f"nothing of {found.exchange} is stored; start with: livermore run {found.exchange}"
        )


def _show_ended(gaps: Sequence[Gap]) -> None:
    if not gaps:
        return
    table = output.table(
        *("symbol", "tf", "was missing from", "candles", "cause", "tries", "outcome", "after"),
        right=("candles", "tries"),
        loose=("cause", "outcome"),
    )
    for gap in gaps[:SHOWN]:
        table.add_row(
            gap.series.symbol,
            gap.series.timeframe.value,
            times.iso(gap.first),
            str(gap.slots),
            gap.cause,
            str(gap.attempts),
            _next(gap, 0),
            times.length(max(0, (gap.ended or gap.found) - gap.found)),
        )
    output.show(table)
    if len(gaps) > SHOWN:
        output.say(f"… and {len(gaps) - SHOWN} more that ended (--json has them all)")


def _next(entry: Gap | None, now: int) -> str:
    if entry is None:
        return "–"
    if entry.outcome is not Outcome.OPEN:
        return f"{entry.outcome.value}: {entry.note}" if entry.note else str(entry.outcome.value)
    return f"in {times.length(entry.next_try - now)}" if entry.next_try > now else "now"


def _document(found: Findings, *, ended: bool) -> dict[str, object]:
    told: dict[str, object] = {
        "ended": [
            {**_where(gap), **_known(gap), "ended": times.iso(gap.ended or gap.found)}
            for gap in found.ended
        ]
    }
    return {
        "exchange": found.exchange,
        "since": times.iso(found.since),
        "until": times.iso(found.until),
        "series": found.series,
        "missing": sum(gap.slots for gap in found.missing),
        "without_candles": [str(series) for series in found.bare],
        "never_asked_for": [str(series) for series in found.unasked],
        "gaps": [{**_where(gap), **_known(gap.entry)} for gap in found.missing],
        **(told if ended else {}),
    }


def _where(gap: Missing | Gap) -> dict[str, object]:
    return {
        "symbol": gap.series.symbol,
        "timeframe": gap.series.timeframe.value,
        "first": times.iso(gap.first),
        "last": times.iso(gap.last),
        "candles": gap.slots,
    }


def _known(entry: Gap | None) -> dict[str, object]:
    if entry is None:
        return {"cause": None}
    return {
        "cause": entry.cause,
        "found": times.iso(entry.found),
        "attempts": entry.attempts,
        "next_try": times.iso(entry.next_try) if entry.next_try else None,
        "outcome": entry.outcome.value,
        "note": entry.note,
    }
