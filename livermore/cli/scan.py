"""``livermore scan``: symbols whose MACD-V is close to a level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from livermore.cli import latest, options, output, store, times
from livermore.cli.database import open_database
from livermore.cli.latest import Latest
from livermore.cli.options import Exchange, Json, Place, TimeframeName, placed
from livermore.errors import ConfigurationError, DatabaseError, UsageError

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.config import Settings
    from livermore.market.timeframe import Timeframe
    from livermore.profile.contents import Scanner
    from livermore.signals.reading import Reading


@attrs.frozen
class Near:
    """A reading close to ``level``, which has its sign."""

    found: Latest
    reading: Reading
    macdv: float
    level: float

    @property
    def distance(self) -> float:
        """Points from the level: positive beyond it, seen from zero."""
        return abs(self.macdv) - abs(self.level)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "scan",
        epilog="Example: `livermore scan`, `livermore scan --near 150,200 --within 5`, "
        "`livermore scan --timeframe 4h --json`.",
    )(placed(scan))


def scan(
    place: Place,
    near: Annotated[
        str | None,
        typer.Option(
            metavar="LEVELS", help="Levels of MACD-V, meant with both signs.  [default: 150]"
        ),
    ] = None,
    within: Annotated[
        float | None, typer.Option(metavar="POINTS", help="How close is close.  [default: 10]")
    ] = None,
    timeframe: TimeframeName = None,
    exchange: Exchange = None,
    user: options.User = None,
    json: Json = False,
) -> int:
    """List the symbols whose MACD-V is close to a level, nearest first."""
    settings = place.of(user).settings()
    if (scanner := _of_user(settings)) is not None:
        near = near or ",".join(f"{level:g}" for level in scanner.near)
        within = scanner.within if within is None else within
        timeframe = timeframe or ",".join(scanner.timeframe or ()) or None
        exchange = exchange or scanner.exchange
    levels = _levels("150" if near is None else near)
    within = 10.0 if within is None else within
    if not 0 <= within < math.inf:
        raise UsageError(f"--within {within:g}: write a number of points from 0 up")
    wanted = options.timeframes(timeframe)
    _, given = options.limits(None, exchange)
    with store.open_store(settings, given) as client:
        names = store.exchanges(client, settings, given)
        for name in names:
            if len(names) > 1 and not json:
                output.line(f"{name}:")
            _scan(client, name, wanted, levels, within, user=settings.user, json=json)
    return 0


def _of_user(settings: Settings) -> Scanner | None:
    """What the user looks for, where one is named who has settings."""
    if settings.user is None or settings.database_url is None:
        return None
    from livermore.adapters import users
    from livermore.profile.document import parse

    try:
        with open_database(settings, "scan") as database:
            whose = database.run(lambda c: users.chosen(c, settings.user))
        return parse(whose.settings).scanner
    except (DatabaseError, ConfigurationError) as error:
        output.say(f"what {settings.user} set for scan is not known: {error}")
        return None


def _scan(
    client: Client,
    name: str,
    wanted: Collection[Timeframe],
    levels: Sequence[float],
    within: float,
    *,
    user: str | None,
    json: bool,
) -> None:
    status = store.read_status(client, name)
    chosen = [s for s in latest.followed(client, name, status, user) if s.timeframe in wanted]
    now = latest.clock(status)
    readings = latest.read_latest(client, chosen, now)
    hits, left_out = close_to(readings, levels, within)
    if json:
        output.document(
            {
                "exchange": name,
                "time": times.iso(now),
                "daemon": latest.daemon_document(status),
                "levels": levels,
                "within": within,
                "looked_at": len(readings) - sum(left_out.values()),
                "left_out": left_out,
                "near": [_document(hit) for hit in hits],
            }
        )
    else:
        _show(hits)
        output.line(summary(hits, len(readings), left_out, levels, within))
    if (why := latest.doubt(name, status)) is not None:
        output.say(why)


def close_to(
    readings: Sequence[Latest], levels: Sequence[float], within: float
) -> tuple[list[Near], dict[str, int]]:
    """The readings ``within`` so many points of a level, nearest first.

    And how many were not looked at, by reason: ``old``, ``withheld``, ``not stored``.
    """
    hits = []
    left_out: Counter[str] = Counter()
    for one in readings:
        reading = one.current
        if reading is None or reading.macdv is None:
            left_out[_reason(one)] += 1
            continue
        level = min(levels, key=lambda level: abs(abs(reading.macdv or 0.0) - level))
        hit = Near(one, reading, reading.macdv, math.copysign(level, reading.macdv))
        if abs(hit.distance) <= within:
            hits.append(hit)
    hits.sort(
        key=lambda hit: (
            abs(hit.distance),
            hit.found.series.symbol,
            hit.found.series.timeframe.ms,
        )
    )
    return hits, dict(left_out)


def summary(
    hits: Sequence[Near],
    of: int,
    left_out: dict[str, int],
    levels: Sequence[float],
    within: float,
) -> str:
    """What was looked at, what was found, what was left out."""
    looked = of - sum(left_out.values())
    close = f"within {within:g} of {' or '.join(f'±{level:g}' for level in levels)}"
    found = f"{len(hits)} of {looked} readings" if hits else f"none of {looked} readings"
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(left_out.items()))
    return f"{found} {close}" + (f"; left out: {reasons}" if reasons else "")


def _reason(one: Latest) -> str:
    if one.reading is None:
        return "not stored" if one.trouble == latest.NONE_STORED else "not understood"
    return "old" if one.old else "withheld"


def _show(hits: Sequence[Near]) -> None:
    if not hits:
        return
    figures = ("MACD-V", "level", "distance")
    table = output.table("symbol", "tf", *figures, "signal", "stage", "", right=figures)
    for hit in hits:
        series, reading = hit.found.series, hit.reading
        notes = ["not warm"] * (not reading.warm) + ["halted"] * reading.halted
        table.add_row(
            series.symbol,
            series.timeframe.value,
            f"{hit.macdv:.2f}",
            f"{hit.level:g}",
            f"{hit.distance:+.2f}",
            "–" if reading.histogram is None else side(reading.histogram),
            str(reading.stage or "–"),
            ", ".join(notes),
        )
    output.show(table, whole=True)


def side(histogram: float) -> str:
    """Where MACD-V stands: above its signal it gains on its own average."""
    return "above" if histogram >= 0 else "below"


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(sorted({float(word) for word in text.split(",")}))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level < math.inf for level in levels):
        raise UsageError(f"--near {text}: write positive numbers such as 150 or 150,200")
    return levels


def _document(hit: Near) -> dict[str, Any]:
    return {**latest.reading_document(hit.found), "level": hit.level, "distance": hit.distance}
