"""A connection's life, written down so that a tracker can live it again.

A recording is a sequence of :class:`Step`: everything a tracker was told, in order, each with the
monotonic time it was told, and now and then what the tracker knew at that point (a *state*). From a
state on, the same steps lead the same tracker to the next state; :func:`play` says whether they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import attrs
import cattrs
import msgspec

from livermore.errors import LivermoreError, MalformedMessage
from livermore.market.candle import Candle, Evidence, Kind, Series
from livermore.market.events import Frame
from livermore.market.timeframe import Timeframe
from livermore.market.tracker import Counts, Missing, Suspect, Tracker, _Tape

LATEST = 1e10
"""Monotonic seconds; a later time is damage."""
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a tracker raises when it is wrong, not its input: the feed's supervisor met it as well."""
FAILURES = 100
"""Of these so many are kept; the others are counted."""


class Cause(msgspec.Struct, frozen=True):
    """A range of slots something is wrong with; ``first`` and ``last`` are open times."""

    symbol: str
    first: int
    last: int
    why: str


class Row(msgspec.Struct, frozen=True):
    """A candle as a recording holds it."""

    symbol: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    kind: str
    evidence: str
    as_of: int = 0
    revision: int = 0

    def candle(self, exchange: str, timeframe: Timeframe) -> Candle:
        """Raises :class:`MalformedMessage` when it is none."""
        try:
            return Candle(
                Series(exchange, self.symbol, timeframe), self.open_time, self.open, self.high,
                self.low, self.close, self.volume, Kind(self.kind), Evidence.parse(self.evidence),
                self.as_of, self.revision,
            )  # fmt: skip
        except (ValueError, KeyError, LivermoreError) as error:
            raise MalformedMessage(f"a recorded candle is none ({error})") from None


class Header(msgspec.Struct, kw_only=True, frozen=True):
    """What a recording is of, and why it was kept. Times are exchange ms."""

    livermore: Literal["incident"] = "incident"
    format: Literal[1] = 1
    version: str
    exchange: str
    timeframe: str
    connection: str
    kind: str
    """``gap``, ``correction`` or ``mismatch``."""
    found: int
    recorded_from: int | None
    affected: list[Cause]
    """What it is about, of this connection and others, as far as there is room."""
    unlisted: int = 0
    """Ranges beyond that."""
    unsaved: int = 0
    """Incidents of this kind since the last bundle that had none of their own."""
    facts: dict[str, int | None]
    """What the dialect said of the exchange's ways."""
    series: dict[str, str]
    """Native id -> symbol of the connection's products."""
    stored: list[Row] | None = None
    """What the store held around the affected slots when this was saved; None: it was away."""
    held: list[Row] = []
    """Corrections: what was stored before."""
    said: list[Row] = []
    """Corrections: what REST said."""


def row_of(candle: Candle) -> Row:
    """The candle, to be written down."""
    return Row(
        candle.series.symbol, candle.open_time, candle.open, candle.high, candle.low, candle.close,
        candle.volume, candle.kind.value, candle.evidence.label, candle.as_of, candle.revision,
    )  # fmt: skip


What = Literal[
    "frame", "binary", "connected", "lost", "acknowledged", "ignored", "doubted", "trusted",
    "halted", "resumed", "tick", "learned", "handed over", "told the time", "added", "forgotten",
    "state", "end",
]  # fmt: skip


class Step(msgspec.Struct, omit_defaults=True, frozen=True):
    """One thing a tracker was told, ``at`` monotonic seconds; or, as ``state``, what it knew."""

    at: float
    what: What
    text: str = ""
    """The frame."""
    data: bytes = b""
    """The frame, where frames are binary (base64 in the file)."""
    natives: list[str] = []
    """Products that were acknowledged, ignored, doubted, trusted or forgotten; of one that was
    added, also its symbol."""
    candle: Row | None = None
    """A stored candle the tracker learned of."""
    time: int = 0
    """The exchange's (ms), where no frame told it."""
    state: msgspec.Raw = msgspec.Raw()


# -- what a tracker knows ---------------------------------------------------------------------

SETTINGS = frozenset(
    {"_settle_after", "_sample_every", "_sample_delay", "_give_up_after", "_timeframe"}
)
"""Attributes of a tracker that are given to it."""
TOLD = frozenset({"pending", "rejected", "witness"})
"""Attributes that are others': what it says, not what it knows."""
PARTS = frozenset({"clock", "counts", "_tapes", "_by_series"})


UNREADABLE = (
    msgspec.MsgspecError, cattrs.BaseValidationError, cattrs.ForbiddenExtraKeysError,
    cattrs.StructureHandlerNotFoundError, LivermoreError,
)  # fmt: skip
"""What decoding a state may raise beside those."""


class _State(msgspec.Struct):
    clock: tuple[int | None, float, tuple[int, float] | None]
    scalars: dict[str, bool | int | float | None]
    counts: dict[str, int]
    tapes: dict[str, dict[str, Any]]


def remember(tracker: Tracker) -> bytes:
    """What ``tracker`` knows, as JSON. Some microseconds per symbol."""
    clock = tracker.clock
    return msgspec.json.encode(
        {
            "clock": (clock.stamp, clock.heard_at, clock._doubted),
            "scalars": {
                name: value
                for name, value in vars(tracker).items()
                if name not in SETTINGS and name not in TOLD and name not in PARTS
            },
            "counts": tracker.counts,
            "tapes": tracker._tapes,
        }
    )


def recall(tracker: Tracker, state: bytes) -> None:
    """Make a new ``tracker`` of the same series know what another remembered.

    Raises :class:`MalformedMessage` when this version does not understand it.
    """
    try:
        said = _states.decode(state)
        counts = Counts(**said.counts)
        tapes = {native: _converter.structure(tape, _Tape) for native, tape in said.tapes.items()}
        known = vars(tracker).keys() - SETTINGS - TOLD - PARTS
        if said.scalars.keys() != known or tapes.keys() != tracker._tapes.keys():
            raise MalformedMessage("a recorded state is of another version")
        if any(tape.series != tracker._tapes[native].series for native, tape in tapes.items()):
            raise MalformedMessage("a recorded state is of other series")
    except MalformedMessage:
        raise
    except (*BUGS, *UNREADABLE) as error:
        raise MalformedMessage(f"a recorded state is not understood ({error})") from None
    clock = tracker.clock
    clock.stamp, clock.heard_at, clock._doubted = said.clock
    tracker.counts = counts
    vars(tracker).update(said.scalars)
    for native, tape in tapes.items():
        own = tracker._tapes[native]
        for field in attrs.fields(_Tape):
            setattr(own, field.name, getattr(tape, field.name))


def _series(value: Any, _: object) -> Series:
    # Whose keys it lived in made no difference to what was heard.
    return Series(value["exchange"], value["symbol"], Timeframe(value["timeframe"]))


def _bare(value: Any) -> Any:
    """What is known of a product, without the names of its series: they were compared before."""
    if isinstance(value, dict):
        return {key: _bare(one) for key, one in value.items() if key != "series"}
    return [_bare(one) for one in value] if isinstance(value, list) else value


_states = msgspec.json.Decoder(_State)
_converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
_converter.register_structure_hook(Series, _series)
_converter.register_structure_hook(type(None), lambda value, _: None)
_converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))


# -- living it again --------------------------------------------------------------------------


@attrs.frozen
class Closed:
    """A candle the tracker closed, and at which exchange time; ``past`` ones ended before us."""

    candle: Candle
    at: int | None
    by: str
    """The step that led to it."""
    past: bool = False


@attrs.define
class Played:
    """What a tracker made of a recording, in order."""

    steps: int = 0
    frames: int = 0
    malformed: int = 0
    """Frames that the dialect refused."""
    closed: list[Closed] = attrs.Factory(list)
    missing: list[tuple[int | None, Missing]] = attrs.Factory(list)
    """With the exchange time at which it was said."""
    suspects: list[tuple[int | None, Suspect]] = attrs.Factory(list)
    failures: list[str] = attrs.Factory(list)
    failed: int = 0
    began_without_state: str = ""
    """Why the tracker began knowing nothing, where it did."""
    compared: int = 0
    """Recorded states the tracker was compared with."""
    differs: Sequence[str] = ()
    """Products of which it knew something else at the first that differed."""
    differs_at: float | None = None
    counts: Mapping[str, int] = attrs.Factory(dict)


def play(
    tracker: Tracker,
    read: Callable[[bytes | str], Frame],
    steps: Iterable[Step],
    exchange: str,
    timeframe: Timeframe,
) -> Played:
    """Tell a new ``tracker`` everything again. Raises :class:`MalformedMessage` for damage."""
    played = Played()
    known = False
    for step in steps:
        if not 0 <= step.at < LATEST:
            raise MalformedMessage(f"step {played.steps}: {step.at!r} is no time")
        if step.what == "state":
            if not played.steps and not known:
                try:
                    _follow(tracker, bytes(step.state), exchange, timeframe)
                    recall(tracker, bytes(step.state))
                    known = True
                except MalformedMessage as error:
                    played.began_without_state = str(error)
            elif known and played.differs_at is None:
                played.compared += 1
                played.differs = _difference(tracker, bytes(step.state))
                played.differs_at = step.at if played.differs else None
            continue
        played.steps += 1
        try:
            _tell(tracker, read, step, played, exchange, timeframe)
        except BUGS as error:
            played.failed += 1
            if len(played.failures) < FAILURES:
                said = f"step {played.steps}: {type(error).__name__}: {error}"
                played.failures.append(said)
        _collect(tracker, step, played)
    if not known and not played.began_without_state:
        played.began_without_state = "the recording has no state"
    played.counts = attrs.asdict(tracker.counts)
    return played


def _follow(tracker: Tracker, state: bytes, exchange: str, timeframe: Timeframe) -> None:
    """Make ``tracker`` follow what another followed at the beginning of a recording."""
    try:
        tapes = _states.decode(state).tapes
        named = {native: str(tape["series"]["symbol"]) for native, tape in tapes.items()}
    except (*BUGS, *UNREADABLE):
        return  # who recalls it says so
    for native in tracker._tapes.keys() - named.keys():
        tracker.forget(native)
    for native, symbol in named.items():
        if native not in tracker._tapes:
            tracker.add(native, Series(exchange, symbol, timeframe))


def _tell(
    tracker: Tracker,
    read: Callable[[bytes | str], Frame],
    step: Step,
    played: Played,
    exchange: str,
    timeframe: Timeframe,
) -> None:
    match step.what:
        case "frame" | "binary":
            played.frames += 1
            try:
                frame = read(step.text if step.what == "frame" else step.data)
            except MalformedMessage:
                played.malformed += 1
                return
            tracker.take(frame, step.at)
        case "connected":
            tracker.connected(step.at)
        case "lost":
            tracker.lost()
        case "handed over":
            tracker.handed_over()
        case "acknowledged":
            tracker.acknowledged(step.natives, step.at)
        case "ignored":
            for native in step.natives:
                tracker.ignore(native)
        case "doubted":
            for native in step.natives:
                tracker.doubt(native)
        case "trusted":
            tracker.trust(step.natives, step.at)
        case "added":
            native, symbol = step.natives
            tracker.add(native, Series(exchange, symbol, timeframe))
        case "forgotten":
            for native in step.natives:
                tracker.forget(native)
        case "halted" | "resumed":
            tracker.halted = step.what == "halted"
        case "tick":
            tracker.tick(step.at)
        case "told the time":
            tracker.told_time(step.time, step.at)
        case "learned":
            if step.candle is None:
                raise MalformedMessage(f"step {played.steps}: no candle was learned")
            tracker.learn(step.candle.candle(exchange, timeframe))


def _collect(tracker: Tracker, step: Step, played: Played) -> None:
    """Take what the tracker says, as the writer would."""
    pending = tracker.pending
    if pending.urgent:
        time = tracker.clock.read(step.at)
        for batch, past in ((pending.past, True), (pending.closes, False)):
            played.closed += [
                Closed(candle, time, step.what, past)
                for slots in batch.values()
                for candle in slots.values()
            ]
            batch.clear()
        played.missing += [(time, slot) for slot in pending.missing.values()]
        played.suspects += [(time, slot) for slot in pending.suspects.values()]
        pending.missing.clear()
        pending.suspects.clear()
    pending.forming.clear()
    pending.tickers.clear()


def _difference(tracker: Tracker, recorded: bytes) -> Sequence[str]:
    """Products of which the tracker knows something else; ``all`` when it is about none alone."""
    try:
        before, now = _states.decode(recorded), _states.decode(remember(tracker))
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"a recorded state is not understood ({error})") from None
    natives = sorted(before.tapes.keys() | now.tapes.keys())
    known = [(native, before.tapes.get(native), now.tapes.get(native)) for native in natives]
    found = [native for native, then, after in known if _bare(then) != _bare(after)]
    same = (before.clock, before.scalars, before.counts) == (now.clock, now.scalars, now.counts)
    return found if found or same else ["all"]
