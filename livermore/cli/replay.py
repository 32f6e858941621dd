"""``livermore replay``: what the tracker makes of a recorded incident, always the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
import typer

from livermore.cli import output, times
from livermore.cli.options import Json, Place, placed
from livermore.errors import LivermoreError, MalformedMessage, UsageError
from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.incidents import Bundle
    from livermore.market.recording import Header, Played, Row

MISMATCH = 7
SHOWN = 40
"""Rows of each table; JSON has them all."""
COMPARED = 1000
"""Slots of the affected ranges that are compared one by one."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "replay",
        epilog="Example: `livermore replay` lists the bundles, `livermore replay FILE --json` "
        "replays one. Exit code 7 when the tracker knows something else now than it did then.",
    )(placed(replay))


def replay(
    place: Place,
    bundle: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A file, or its name in the list.")
    ] = None,
    json: Json = False,
) -> int:
    """Run an incident bundle through the dialect and the tracker; without one, list them."""
    from livermore.adapters import incidents

    # A path says all; only a name needs the settings.
    path = None if bundle is None else Path(bundle)
    if path is None or not path.exists():
        directory = place.settings().state_dir / incidents.DIRECTORY
        if path is None:
            return _list(directory, json)
        if path.name == str(path):
            path = directory / path
    opened = incidents.Bundle(path)
    timeframe, played = _play(opened)
    slots = compare(opened.header, timeframe, played)
    if json:
        output.document(_document(opened, played, slots))
    else:
        _show(opened, played, slots)
    if not opened.whole:
        output.say(f"{path.name} is cut off: replayed as far as it goes")
    return MISMATCH if played.differs_at is not None else 0


def _play(bundle: Bundle) -> tuple[Timeframe, Played]:
    from livermore.dialect import tracker_of
    from livermore.exchanges import dialect as dialect_of
    from livermore.market.recording import play

    header = bundle.header
    try:
        dialect = dialect_of(header.exchange)
        timeframe = Timeframe(header.timeframe)
    except (UsageError, ValueError) as error:
        raise MalformedMessage(
            f"{bundle.path} cannot be replayed by this version: {error}"
        ) from None
    series = [
        (native, Series(dialect.name, symbol, timeframe))
        for native, symbol in header.series.items()
    ]
    tracker = tracker_of(dialect, series)
    return timeframe, play(tracker, dialect.read, bundle.steps(), dialect.name, timeframe)


# -- what was made of it, beside what was known -----------------------------------------------


@attrs.frozen
class Slot:
    """An affected slot: what the replay made of it, and what was stored or said of it."""

    symbol: str
    open_time: int
    replayed: Candle | None
    missing: str
    """Why the tracker gave it up, where it did."""
    suspect: str
    known: Mapping[str, Candle]
    """``held``, ``said``, ``stored``, as far as the bundle tells."""

    @property
    def agrees(self) -> dict[str, bool]:
        """Whether the replayed candle has the values of the known ones."""
        if self.replayed is None:
            return {}
        return {name: self.replayed.same_values(one) for name, one in self.known.items()}


def compare(header: Header, timeframe: Timeframe, played: Played) -> list[Slot]:
    """The affected slots of this connection, in order."""
    closed = {(c.candle.series.symbol, c.candle.open_time): c.candle for c in played.closed}
    missing = {(m.series.symbol, m.open_time): m.cause for _, m in played.missing}
    suspects = {(s.series.symbol, s.open_time): s.cause for _, s in played.suspects}
    known: dict[tuple[str, int], dict[str, Candle]] = {}
    for name, rows in (("held", header.held), ("said", header.said), ("stored", header.stored)):
        for row in rows or ():
            slot = known.setdefault((row.symbol, row.open_time), {})
            slot[name] = row.candle(header.exchange, timeframe)
    own = set(header.series.values())
    affected: dict[tuple[str, int], None] = {}
    for one in header.affected:
        if one.symbol in own and 0 <= one.first <= one.last:
            newest = min(one.last, one.first + COMPARED * timeframe.ms)
            for open_time in range(one.first, newest + 1, timeframe.ms):
                affected[one.symbol, open_time] = None
        if len(affected) >= COMPARED:
            break
    return [
        Slot(*key, closed.get(key), missing.get(key, ""), suspects.get(key, ""), known.get(key, {}))
        for key in sorted(affected)
    ]


# -- printing ---------------------------------------------------------------------------------


def _list(directory: Path, json: bool) -> int:
    from livermore.adapters import incidents

    found: list[tuple[Path, Header | None, str]] = []
    for path in incidents.listing(directory):
        try:
            found.append((path, incidents.Bundle(path).header, ""))
        except LivermoreError as error:
            found.append((path, None, str(error)))
    if json:
        output.document(
            [{"file": str(path), **_about(header), "error": why} for path, header, why in found]
        )
    elif found:
        table = output.table("found", "kind", "connection", "cause", "file", loose=("cause",))
        for path, header, why in found:
            if header is None:
                table.add_row("–", "–", "–", why, path.name)
            else:
                table.add_row(
                    times.iso(header.found), header.kind, header.connection, _cause(header),
                    path.name,
                )  # fmt: skip
        output.show(table)
    else:
        output.line(f"no incidents in {directory}")
    return 0


def _about(header: Header | None) -> dict[str, Any]:
    if header is None:
        return {}
    return {
        "exchange": header.exchange,
        "connection": header.connection,
        "kind": header.kind,
        "cause": _cause(header),
        "found": times.iso(header.found),
        "recorded_from": None if header.recorded_from is None else times.iso(header.recorded_from),
        "recorded_by": header.version,
        "ranges": len(header.affected) + header.unlisted,
        "unsaved_before": header.unsaved,
    }


def _cause(header: Header) -> str:
    return header.affected[0].why if header.affected else "unknown"


def _changed_facts(header: Header) -> dict[str, list[int | None]]:
    """What the dialect says otherwise now."""
    from livermore.exchanges import dialect as dialect_of

    now = dialect_of(header.exchange)
    return {
        name: [value, getattr(now, name, None)]
        for name, value in sorted(header.facts.items())
        if getattr(now, name, None) != value
    }


def _document(bundle: Bundle, played: Played, slots: Sequence[Slot]) -> dict[str, Any]:
    return {
        "file": bundle.path.name,
        **_about(bundle.header),
        "whole": bundle.whole,
        "steps": played.steps,
        "frames": played.frames,
        "malformed": played.malformed,
        "began_without_state": played.began_without_state,
        "compared_states": played.compared,
        "as_recorded": played.differs_at is None,
        "differs_at": played.differs_at,
        "differs": list(played.differs),
        "changed_facts": _changed_facts(bundle.header),
        "closed": [
            {**_row(one.candle), "at": one.at, "by": one.by, "past": one.past}
            for one in played.closed
        ],
        "missing": [
            {"symbol": m.series.symbol, "open_time": m.open_time, "at": at, "cause": m.cause}
            for at, m in played.missing
        ],
        "suspects": [
            {"symbol": s.series.symbol, "open_time": s.open_time, "at": at, "cause": s.cause}
            for at, s in played.suspects
        ],
        "failed": played.failed,
        "failures": played.failures,
        "affected": [
            {
                "symbol": slot.symbol,
                "open_time": slot.open_time,
                "replayed": None if slot.replayed is None else _row(slot.replayed),
                "missing": slot.missing,
                "suspect": slot.suspect,
                "known": {name: _row(candle) for name, candle in slot.known.items()},
                "agrees": slot.agrees,
            }
            for slot in slots
        ],
        "counts": dict(played.counts),
    }


def _row(candle: Candle) -> dict[str, Any]:
    from livermore.market.recording import row_of

    row: Row = row_of(candle)
    return msgspec.structs.asdict(row)


def _show(bundle: Bundle, played: Played, slots: Sequence[Slot]) -> None:
    header = bundle.header
    output.line(f"{header.kind} on {header.connection}, found {times.iso(header.found)}")
    more = f", {header.unlisted} more ranges" if header.unlisted else ""
    unsaved = f", {header.unsaved} like it were not saved before" if header.unsaved else ""
    output.line(f"cause: {_cause(header)}; {len(header.affected)} ranges{more}{unsaved}")
    if slots:
        table = output.table(
            "symbol", "open time", "replayed", "volume", "evidence", "beside", "why",
            right=("volume",), loose=("why",),
        )  # fmt: skip
        for slot in slots[:SHOWN]:
            candle = slot.replayed
            table.add_row(
                slot.symbol,
                times.iso(slot.open_time),
                "–" if candle is None else f"{candle.kind.value} {output.number(candle.close)}",
                "–" if candle is None else output.number(candle.volume),
                "–" if candle is None else candle.evidence.label,
                ", ".join(f"{'as' if same else 'not as'} {n}" for n, same in slot.agrees.items())
                or "–",
                slot.missing or slot.suspect or "–",
            )
        output.show(table)
        if len(slots) > SHOWN:
            output.line(f"… and {len(slots) - SHOWN} more slots (--json has them all)")
    past = sum(one.past for one in played.closed)
    output.line(
        f"{played.frames} frames ({played.malformed} malformed): "
        f"{len(played.closed) - past} closed, {past} proved from before, "
        f"{len(played.missing)} missing, {len(played.suspects)} suspect"
    )
    causes: dict[str, int] = {}
    for _, one in played.missing:
        causes[f"missing: {one.cause}"] = causes.get(f"missing: {one.cause}", 0) + 1
    for _, two in played.suspects:
        causes[f"suspect: {two.cause}"] = causes.get(f"suspect: {two.cause}", 0) + 1
    for cause, count in sorted(causes.items()):
        output.line(f"  {count} {cause}")
    for name, (then, now) in _changed_facts(header).items():
        output.line(f"{name} was {then}, is {now}")
    for failure in played.failures:
        output.line(failure)
    if played.began_without_state:
        output.line(f"the tracker began knowing nothing: {played.began_without_state}")
    elif played.differs_at is not None:
        names = ", ".join(played.differs[:5]) + (", …" if len(played.differs) > 5 else "")
        output.line(f"the tracker knows something else than it did then: {names}")
    else:
        output.line(f"the tracker knows what it knew then ({played.compared} states compared)")
