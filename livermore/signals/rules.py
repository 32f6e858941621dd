"""What rules remember of a series, and what they say of its next closed candle.

Evaluation goes through the candles of one series once, in order, and can be taken back: a
:class:`Memory` holds a journal of its states. What is corrected is rewound and evaluated again;
only then is it known which alerts a correction made and which it unmade::

    rewind(memory, corrected.open_time, tf_ms)
    outcome = evaluate(rules, memory, points_from_there_on, tf_ms, previous=the_one_before)

An alert is the same one when rule, open time, direction and level (or stages) are the same. Until
evaluation has come past the candle of an alert again, the alert stands.

What lies before the moment a rule first looked at a series is silent: no alert is told of it, but
its state (what is disarmed, used up or cooling down) is as if there had been one.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Literal

import msgspec

from livermore.errors import MalformedMessage
from livermore.signals.rule import (
    BEYOND,
    DEFAULT_RULES,
    FIRST_LEVEL,
    LEVEL_STEP,
    Kind,
    Rule,
    rule_from,
)
from livermore.signals.stage import Stage
from livermore.signals.state import Natural

__all__ = [
    "DEFAULT_RULES",
    "NOTHING",
    "Alerted",
    "Fate",
    "Fired",
    "Kind",
    "Memory",
    "Outcome",
    "Point",
    "Rule",
    "Track",
    "adopt",
    "decode_memory",
    "encode_memory",
    "evaluate",
    "reach",
    "rewind",
    "rule_from",
    "unknown",
]

KEPT = 1000
"""Newest slots that can be rewound, as many as there are stored candles."""

FEWEST_OBSERVED = 100
"""Traded candles under which a reading alerts nobody."""

INWARD = 10
"""Points that MACD-V has to come back inside of a level before the level is armed again."""

ENDED = 140.0
"""Under this the excursion of a reversal has ended."""

TURNING_UP, TURNING_DOWN = 0.05, -0.03
"""Of abs(macdv): beyond this the histogram says so."""

Direction = Literal["up", "down"]
Mark = float | str | None
Positive = Annotated[float, msgspec.Meta(ge=0)]


class Point(msgspec.Struct, frozen=True, gc=False):
    """A closed candle with its reading, as rules see it; the numbers are None where withheld."""

    open_time: int
    macdv: float | None
    signal: float | None
    histogram: float | None
    stage: Stage | None
    close: float
    observed: int
    """Traded candles since the anchor."""
    assumed: bool = False
    """Whether the candle is empty and nobody has confirmed that."""


class Fate(enum.IntEnum):
    """What became of an alert."""

    STANDS = 0
    SILENT = 1
    """Nobody was told: it lies before the rule's first look."""
    WITHDRAWN = 2


class Alerted(msgspec.Struct, frozen=True, array_like=True):
    """An alert of a series, as far as it is remembered."""

    rule: str
    open_time: Natural
    direction: Direction
    mark: Mark
    """The level, or the stages ``oversold -> rebounding``."""
    reissue: Natural = 0
    """How often an alert of this rule and open time was withdrawn before."""
    fate: Fate = Fate.STANDS

    @property
    def level(self) -> float | None:
        """What was crossed, of a level rule: 150 for a crossing below -150 as well."""
        return None if isinstance(self.mark, str) else self.mark


class Fired(msgspec.Struct, frozen=True):
    """A rule that a closed candle met."""

    rule: str
    kind: Kind
    open_time: int
    direction: Direction
    level: float | None
    what: str
    """For people, without symbol and timeframe: ``crossed above 150``."""
    strength: float
    """How far the value lies beyond what the rule asks for."""
    reissue: int
    """How often an alert of this rule and open time was withdrawn before."""
    corrected: bool
    """Whether evaluation had been past this candle before it was rewound."""


class Outcome(msgspec.Struct, frozen=True):
    """What an evaluation came to."""

    fired: Sequence[Fired] = ()
    """New alerts, in order. One that stood before a rewind and still does is not among them."""
    unmade: Sequence[Alerted] = ()
    """Alerts that were told and no longer follow from the candles."""
    held: int | None = None
    """Open time of an assumed-empty candle that would alert; nothing from there on is evaluated."""


class Track(msgspec.Struct, array_like=True):
    """Where one rule stands in a series.

    ``up`` and ``down`` are the highest level that is disarmed upwards and downwards (with it are
    all inside of it; 0: none is); of a reversal: 1 while an excursion is used up, above and below.
    """

    digest: str
    since: Natural
    """Candles that closed at or before this are silent (ms)."""
    up: Positive = 0.0
    down: Positive = 0.0
    journal: list[tuple[Natural, Positive, Positive]] = msgspec.field(default_factory=list)
    """Of the newest :data:`KEPT` slots: what changed it, with ``up`` and ``down`` before that."""


class Memory(msgspec.Struct, array_like=True):
    """All that the rules remember of one series. Times are open times in ms."""

    cursor: Natural = 0
    """Everything up to this slot has been evaluated; 0: nothing has."""
    reached: Natural = 0
    """The farthest that the cursor has been when it was rewound."""
    tracks: dict[str, Track] = msgspec.field(default_factory=dict)
    """By name of the rule."""
    alerted: list[Alerted] = msgspec.field(default_factory=list)
    """Ascending, as is what is in doubt."""
    doubted: list[Alerted] = msgspec.field(default_factory=list)
    """Told, rewound, and not evaluated again yet."""


class _Match(msgspec.Struct, frozen=True, gc=False):
    direction: Direction
    mark: Mark
    strength: float
    what: str


NOTHING = Outcome()
"""What nearly every evaluation comes to."""
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Memory)
_open_time = attrgetter("open_time")


# -- from candle to candle ---------------------------------------------------------------------


def evaluate(
    rules: Sequence[Rule],
    memory: Memory,
    points: Sequence[Point],
    tf_ms: int,
    *,
    previous: Point | None,
) -> Outcome:
    """Take ``points``, ascending, of a series with slots of ``tf_ms``, into ``memory``.

    Points up to the cursor are not evaluated again; they are what later ones are compared with.
    ``previous`` is the newest known one before ``points``. With fewer than :func:`reach` points
    before the first new one, what needs them does not alert. ``rules`` are those that cover the
    series, each of them adopted by ``memory``.
    """
    tracks, cursor = memory.tracks, memory.cursor
    busy, quiet = bool(memory.doubted), math.inf
    for rule in rules:
        track = tracks[rule.name]
        if track.up or track.down:
            busy = True
        quiet = min(quiet, rule.quiet)
    first = 0
    if points and points[0].open_time <= cursor:
        first = len(points) - 1
        if points[first].open_time <= cursor or points[first - 1].open_time > cursor:
            first = bisect_right(points, cursor, key=_open_time)
    fired: list[Fired] = []
    unmade: list[Alerted] = []
    for i in range(first, len(points)):
        point = points[i]
        macdv = point.macdv
        if busy or (macdv is not None and not -quiet <= macdv <= quiet):
            steps = _look(rules, memory, points, i, previous, tf_ms)
            if steps is None:
                return Outcome(fired, unmade, point.open_time)
            _settle(memory, point, steps, tf_ms, fired, unmade)
            busy = bool(memory.doubted)
            for track in tracks.values():
                if track.up or track.down:
                    busy = True
        memory.cursor = point.open_time
    return Outcome(fired, unmade) if fired or unmade else NOTHING


def rewind(memory: Memory, open_time: int, tf_ms: int) -> None:
    """Make ``memory`` what it was before the candle of ``open_time``, one of the newest 1000.

    Alerts from there on are in doubt until evaluation comes past them again.
    """
    if memory.cursor < open_time:
        return
    for track in memory.tracks.values():
        while track.journal and track.journal[-1][0] >= open_time:
            _, track.up, track.down = track.journal.pop()
    kept: list[Alerted] = []
    doubted: list[Alerted] = []
    for alerted in memory.alerted:
        if alerted.open_time < open_time or alerted.fate is Fate.WITHDRAWN:
            kept.append(alerted)
        elif alerted.fate is Fate.STANDS:
            doubted.append(alerted)
    memory.alerted = kept
    memory.doubted = doubted + memory.doubted  # which are later ones, from a rewind before
    memory.reached = max(memory.reached, memory.cursor)
    memory.cursor = max(0, open_time - tf_ms)


def unknown(rules: Iterable[Rule], memory: Memory) -> list[Rule]:
    """Those of ``rules`` that :func:`adopt` has to be called for, with the stored candles."""
    tracks = memory.tracks
    return [
        rule
        for rule in rules
        if rule.name not in tracks or tracks[rule.name].digest != rule.digest()
    ]


def adopt(
    rules: Sequence[Rule], memory: Memory, points: Sequence[Point], tf_ms: int, *, now: int
) -> None:
    """Make ``rules`` the ones that ``memory`` is of.

    A rule that is new to it, or means something else than it did, looks at the series for the first
    time now (ms): ``points``, the stored candles as far as they are known, set its state up to the
    cursor. A rule that is gone is forgotten, with its alerts.
    """
    new = unknown(rules, memory)
    old = {rule.name for rule in rules} - {rule.name for rule in new}
    memory.tracks = {name: track for name, track in memory.tracks.items() if name in old}
    memory.alerted = [alerted for alerted in memory.alerted if alerted.rule in old]
    memory.doubted = [alerted for alerted in memory.doubted if alerted.rule in old]
    since = max(now, memory.cursor + tf_ms) if memory.cursor else now
    first_look = Memory(tracks={rule.name: Track(rule.digest(), since) for rule in new})
    seen = points[: bisect_right(points, memory.cursor, key=_open_time)]
    evaluate(new, first_look, seen, tf_ms, previous=None)
    memory.tracks |= first_look.tracks
    memory.alerted = sorted(memory.alerted + first_look.alerted, key=_open_time)


def reach(rules: Iterable[Rule]) -> int:
    """How many slots before a candle its evaluation looks at."""
    return max((rule.candles for rule in rules), default=0) or 1


_Step = tuple[Rule, Track, float, float, _Match | None]


def _look(
    rules: Sequence[Rule],
    memory: Memory,
    points: Sequence[Point],
    i: int,
    previous: Point | None,
    tf_ms: int,
) -> list[_Step] | None:
    """What each rule comes to at one point: new ``up`` and ``down``, the alert; None is to wait."""
    point = points[i]
    time = point.open_time
    steps: list[_Step] = []
    if point.macdv is None:
        return steps
    last = points[i - 1] if i else previous
    if last is not None and (last.open_time != time - tf_ms or last.macdv is None):
        last = None
    value = None if last is None else last.macdv
    for rule in rules:
        track = memory.tracks[rule.name]
        up, down, match = track.up, track.down, None
        if rule.kind is Kind.LEVEL:
            up, down, match = _level(rule, track, point.macdv, value)
        elif rule.kind is Kind.REVERSAL:
            up, down, match = _reversal(track, point.macdv, point.histogram, value)
        elif rule.kind is Kind.STAGE:
            match = _stage(rule, point, last)
        elif rule.kind is Kind.MOVE:
            back = i - rule.candles
            base = points[back] if back >= 0 else previous if back == -1 else None
            # Slots ascend: with both ends in their places, all between hold a candle.
            if base is not None and base.open_time == time - rule.candles * tf_ms:
                match = _move(rule, point.close, base.close)
        if match is not None and (
            point.observed < FEWEST_OBSERVED or _cooling(rule, memory, time, match, tf_ms)
        ):
            match = None
        if match is not None:
            if point.assumed and time + tf_ms > track.since:
                return None
            if rule.kind is Kind.REVERSAL:
                up, down = (0.0, 1.0) if match.direction == "up" else (1.0, 0.0)
        steps.append((rule, track, up, down, match))
    return steps


def _settle(
    memory: Memory,
    point: Point,
    steps: Sequence[_Step],
    tf_ms: int,
    fired: list[Fired],
    unmade: list[Alerted],
) -> None:
    """Remember what one point came to, and tell."""
    time = point.open_time
    for rule, track, up, down, match in steps:
        if up != track.up or down != track.down:
            track.journal.append((time, track.up, track.down))
            track.up, track.down = up, down
            while track.journal[0][0] < time - KEPT * tf_ms:
                del track.journal[0]
        if match is None:
            continue
        if time + tf_ms <= track.since:
            alerted = Alerted(rule.name, time, match.direction, match.mark, 0, Fate.SILENT)
        else:
            known = _forgotten(memory, rule.name, time)
            if known is None:
                reissue = 0
            elif known.fate is Fate.WITHDRAWN:
                reissue = known.reissue + 1
            elif (known.direction, known.mark) == (match.direction, match.mark):
                _remember(memory, known)
                continue
            else:
                unmade.append(known)
                reissue = known.reissue + 1
            alerted = Alerted(rule.name, time, match.direction, match.mark, reissue)
            fired.append(
                Fired(
                    rule.name,
                    rule.kind,
                    time,
                    match.direction,
                    alerted.level,
                    match.what,
                    match.strength,
                    reissue,
                    time <= memory.reached,
                )
            )
        _remember(memory, alerted)
        if memory.alerted[0].open_time < time - KEPT * tf_ms:
            # A cooldown looks back from as far as can be rewound.
            oldest = time - (KEPT + max(rule.cooldown for rule, *_ in steps)) * tf_ms
            while memory.alerted[0].open_time < oldest:
                del memory.alerted[0]
    if memory.doubted:
        for known in [one for one in memory.doubted if one.open_time <= time]:
            memory.doubted.remove(known)
            _remember(memory, msgspec.structs.replace(known, fate=Fate.WITHDRAWN))
            unmade.append(known)


def _remember(memory: Memory, alerted: Alerted) -> None:
    if memory.alerted and memory.alerted[-1].open_time > alerted.open_time:
        insort(memory.alerted, alerted, key=_open_time)
    else:
        memory.alerted.append(alerted)


def _forgotten(memory: Memory, rule: str, time: int) -> Alerted | None:
    """The alert of ``rule`` and ``time`` that was told before, taken out of ``memory``."""
    for alerts in (memory.doubted, memory.alerted):
        for k in range(len(alerts) - 1, -1, -1):
            one = alerts[k]
            if one.open_time < time:
                break
            if one.open_time == time and one.rule == rule:
                return alerts.pop(k)
    return None


def _cooling(rule: Rule, memory: Memory, time: int, match: _Match, tf_ms: int) -> bool:
    oldest = time - rule.cooldown * tf_ms
    for one in reversed(memory.alerted):
        if one.open_time < oldest:
            break
        if one.rule == rule.name and one.fate is not Fate.WITHDRAWN:
            if isinstance(one.mark, str) and isinstance(match.mark, str):
                if one.mark.split()[-1] == match.mark.split()[-1]:  # into the same stage
                    return True
            elif (one.direction, one.mark) == (match.direction, match.mark):
                return True
    return False


# -- the rules ---------------------------------------------------------------------------------


def _level(
    rule: Rule, track: Track, macdv: float, last: float | None
) -> tuple[float, float, _Match | None]:
    up = min(track.up, _largest(rule, macdv, INWARD)) if track.up else 0.0
    down = min(track.down, _largest(rule, -macdv, INWARD)) if track.down else 0.0
    if last is None:
        return up, down, None
    # Downwards is upwards with the signs changed.
    level = _largest(rule, abs(macdv), 0)
    if not level or (last if macdv > 0 else -last) > level:
        return up, down, None
    if level <= (up if macdv > 0 else down):
        return up, down, None  # it is not armed
    strength = abs(macdv) - level
    if macdv > 0:
        return level, down, _Match("up", level, strength, f"crossed above {level:.10g}")
    return up, level, _Match("down", level, strength, f"crossed below -{level:.10g}")


def _largest(rule: Rule, value: float, inward: int) -> float:
    """The highest of the levels L with ``L - inward < value``; 0 where there is none."""
    if rule.levels is not None:
        at = bisect_left(rule.levels, value, key=lambda level: level - inward)
        return rule.levels[at - 1] if at else 0.0
    # Of the whole numbers under ``value``, the highest: nothing is rounded.
    whole = math.ceil(value) - 1 + inward
    if whole < FIRST_LEVEL:
        return 0.0
    return float(whole - (whole - FIRST_LEVEL) % LEVEL_STEP)


def _reversal(
    track: Track, macdv: float, histogram: float | None, last: float | None
) -> tuple[float, float, _Match | None]:
    up = track.up if macdv >= ENDED else 0.0
    down = track.down if macdv <= -ENDED else 0.0
    match = None
    if last is not None and histogram is not None:
        if last < -BEYOND and macdv < -BEYOND and histogram > TURNING_UP * -macdv and not down:
            match = _Match("up", None, abs(histogram), "oversold and turning up")
        elif last > BEYOND and macdv > BEYOND and histogram < TURNING_DOWN * macdv and not up:
            match = _Match("down", None, abs(histogram), "overbought and turning down")
    return up, down, match


def _stage(rule: Rule, point: Point, last: Point | None) -> _Match | None:
    if last is None or point.stage is None or last.stage is None or point.stage is last.stage:
        return None
    if rule.from_ is not None and last.stage not in rule.from_:
        return None
    if rule.to is not None and point.stage not in rule.to:
        return None
    below = point.stage is Stage.OVERSOLD or (point.histogram is not None and point.histogram < 0)
    what = f"{last.stage} -> {point.stage}"
    return _Match("down" if below else "up", what, abs(point.macdv or 0.0), what)


def _move(rule: Rule, close: float, base: float) -> _Match | None:
    moved = (close / base - 1) * 100
    if abs(moved) < rule.percent:
        return None
    shown = f"{abs(moved):.1f}" if abs(moved) >= 1 else f"{abs(moved):.2g}"
    candles = "one candle" if rule.candles == 1 else f"{rule.candles} candles"
    return _Match(
        "up" if moved > 0 else "down",
        None,
        abs(moved) - rule.percent,
        f"{'rose' if moved > 0 else 'fell'} {shown} % in {candles}",
    )


# -- as it is stored ---------------------------------------------------------------------------


def encode_memory(memory: Memory) -> bytes:
    """``memory`` as JSON."""
    return _encoder.encode(memory)


def decode_memory(data: bytes) -> Memory:
    """What :func:`encode_memory` wrote; raises :class:`MalformedMessage` on damage."""
    try:
        memory: Memory = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not the memory of rules: {error}", data) from error
    for name, track in memory.tracks.items():
        times = [0, *(time for time, _, _ in track.journal), memory.cursor + 1]
        numbers = [track.up, track.down, *(x for _, up, down in track.journal for x in (up, down))]
        if sorted(set(times)) != times or not all(map(math.isfinite, numbers)):
            raise MalformedMessage(f"the memory of rule {name} does not fit its cursor", data)
    alerted = memory.alerted + memory.doubted
    if (
        any(sorted(some, key=_open_time) != some for some in (memory.alerted, memory.doubted))
        or any(
            one.open_time > memory.cursor and one.fate is not Fate.WITHDRAWN
            for one in memory.alerted
        )
        or any(
            one.open_time <= memory.cursor or one.fate is not Fate.STANDS for one in memory.doubted
        )
        or not memory.tracks.keys() >= {one.rule for one in alerted}
    ):
        raise MalformedMessage("the alerts of a memory do not fit its cursor and rules", data)
    return memory
