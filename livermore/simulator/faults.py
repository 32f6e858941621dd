"""Misbehaviour on command: what kinds there are, which are active, what they do to a frame.

Durations and times are simulated seconds. Adding a kind is one line in ``KINDS`` and one question
at the place where the exchange would do the right thing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Container, Iterable, Mapping
from typing import Any

import attrs

from livermore.errors import ConfigurationError
from livermore.simulator.chance import key_of, once
from livermore.simulator.frame import Frame

_SECOND = 1_000_000_000


@attrs.frozen
class Kind:
    """One kind of fault and what may be said about it beside ``fault`` and ``at``."""

    what: str
    options: Mapping[str, Any]
    """Option -> default; the default's type is the option's type. None: optional number."""
    lasts: bool = True
    """Takes ``for`` (seconds); others happen once."""


_WHERE: dict[str, Any] = {"symbols": [], "channels": []}

KINDS: dict[str, Kind] = {
    "drop": Kind(
        "close sockets, with a close frame if a code is given; share < 1 leaves some",
        {**_WHERE, "code": 0, "share": 1.0},
        lasts=False,
    ),
    "refuse": Kind("turn new connections away; status 0 closes without an answer", {"status": 0}),
    "ack-then-mute": Kind("subscriptions are acked, then no data", {"heartbeats": False}),
    "ack-some": Kind("a share of new subscriptions is neither acked nor served", {"share": 0.5}),
    "reject": Kind(
        "new subscriptions of some symbols are answered with an error; whole: the others beside "
        "them in a message as well",
        {"symbols": [], "whole": False},
    ),
    "heartbeats-only": Kind("no data but heartbeats", {}),
    "mute": Kind("some symbols or channels fall silent", dict(_WHERE)),
    "lose": Kind("frames are lost: a gap in sequence_num", {**_WHERE, "share": 0.05}),
    "duplicate": Kind("frames come twice", {**_WHERE, "share": 0.2}),
    "reorder": Kind("frames change places with the next one", {**_WHERE, "share": 0.2}),
    "garbage": Kind("frames are replaced with something else", {**_WHERE, "share": 0.05}),
    "truncate": Kind("frames end too early", {**_WHERE, "share": 0.05}),
    "huge": Kind("one frame of so many bytes to everyone", {"bytes": 4_000_000}, lasts=False),
    "half-open": Kind("sockets stay open and go dead, then are reset", {"share": 1.0}),
    "stream-differs": Kind("the stream shows volumes that REST never confirms", dict(_WHERE)),
    "late-correction": Kind(
        "the stream shows wrong volumes, then corrects the candles it spoilt", dict(_WHERE)
    ),
    "429": Kind("REST refuses everything", {"retry_after": None}),
    "5xx": Kind("REST fails", {"status": 503, "share": 1.0}),
    "slow-rest": Kind("REST waits; in the client's seconds", {"delay": 3.0, "drip": 0.0}),
    "cut-rest": Kind("REST breaks off in the middle of a body", {"share": 1.0}),
    "stale-rest": Kind("REST knows nothing of the last seconds", {"seconds": 60.0}),
    "sparse-rest": Kind("REST leaves out rows that exist", {**_WHERE, "share": 0.05}),
    "skew": Kind("the exchange's stamps are off by so many seconds", {"seconds": 5.0}),
    "halt": Kind("nothing trades", {"symbols": []}),
}


_DAY = 86_400

BOUNDS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "at": ((0, 366 * _DAY),),
    "for": ((0, 7 * _DAY),),
    "share": ((0, 1),),
    "bytes": ((1, 64 * 1024 * 1024),),
    "retry_after": ((0, _DAY),),
    "delay": ((0, 60),),
    "lead": ((0, _DAY),),
    "drip": ((0, 60),),
    "skew seconds": ((-_DAY, _DAY),),
    "stale-rest seconds": ((0, _DAY),),
    "late-flag seconds": ((0, 3_600),),
    "5xx status": ((500, 599),),
    "refuse status": ((0, 0), (400, 599)),
    # 0 is no close frame; those left out are never sent, or mean nothing yet (RFC 6455, 7.4).
    "drop code": ((0, 0), (1000, 1003), (1007, 1014), (3000, 4999)),
}
"""Numbers an option may be, both ends included, by its name or by ``fault option``."""


@attrs.frozen
class Fault:
    """A fault that is asked for."""

    kind: str
    seconds: float
    options: dict[str, Any]

    @property
    def symbols(self) -> list[str]:
        return list(self.options.get("symbols", ()))


@attrs.frozen
class Active:
    """A fault that is going on."""

    number: int
    fault: Fault
    since: int
    until: int

    def touches(self, frame: Frame) -> bool:
        options = self.fault.options
        symbols, channels = options.get("symbols"), options.get("channels")
        if symbols and frame.symbol not in symbols:
            return False
        return not channels or frame.channel in channels

    def as_json(self, now: int) -> dict[str, object]:
        return {
            "number": self.number,
            "fault": self.fault.kind,
            **self.fault.options,
            "left": (self.until - now) / _SECOND,
        }


def read_fault(
    said: Mapping[str, Any],
    listed: Container[str],
    channels: Container[str] | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> Fault:
    """Check what was asked for; raises ConfigurationError naming the mistake in one line.

    ``listed``: the symbols there are; ``channels``: the channels there are, None: any.
    """
    name = said.get("fault")
    if not isinstance(name, str) or name not in kinds:
        raise ConfigurationError(f"unknown fault {shown(name)}: use one of {', '.join(kinds)}")
    kind = kinds[name]
    known = {"fault", "at", *kind.options, *({"for"} if kind.lasts else ())}
    said = _singular(said, known)
    if unknown := sorted(set(said) - known):
        raise ConfigurationError(
            f"fault {name}: unknown {_listing(unknown)}; known: {', '.join(sorted(known))}"
        )
    options = {option: _option(name, option, said, kind) for option in kind.options}
    seconds = said.get("for", 60.0) if kind.lasts else 0.0
    for option, value in {**options, "for": seconds, "at": said.get("at", 0)}.items():
        check(f"fault {name}: ", option, value, BOUNDS.get(f"{name} {option}", BOUNDS.get(option)))
    named = set(options.get("channels", ()))
    if strange := sorted(one for one in named if channels is not None and one not in channels):
        raise ConfigurationError(f"fault {name}: unknown channel {_listing(strange)}")
    if strange := sorted({one for one in options.get("symbols", ()) if one not in listed}):
        raise ConfigurationError(f"fault {name}: unknown symbol {_listing(strange)}")
    return Fault(name, float(seconds), options)


def check(
    where: str, option: str, value: object, bounds: tuple[tuple[float, float], ...] | None
) -> None:
    """Raise ConfigurationError if a number is out of bounds, or none where one has to be."""
    if bounds is None or (value is None and option == "retry_after"):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not any(low <= value <= high for low, high in bounds):  # type: ignore[operator]
        use = " or ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in bounds)
        raise ConfigurationError(f"{where}'{option}' is {shown(value)}, use {use}")


def shown(value: object) -> str:
    """What somebody said, short and on one line, whatever it is."""
    return reprlib.repr(value)


def _listing(names: list[str], most: int = 5) -> str:
    more = ", …" if len(names) > most else ""
    return ", ".join(shown(name)[1:-1] for name in names[:most]) + more


def _singular(said: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """``symbol`` and ``channel`` are short for lists of one."""
    plain = dict(said)
    for one, many in (("symbol", "symbols"), ("channel", "channels")):
        if many in known and one in plain and many not in plain:
            plain[many] = [plain.pop(one)]
    return plain


def _option(name: str, option: str, said: Mapping[str, Any], kind: Kind) -> Any:
    default = kind.options[option]
    value = said.get(option, default)
    if default is None:
        fine = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    elif isinstance(default, bool):
        fine = isinstance(value, bool)
    elif isinstance(default, list):
        fine = isinstance(value, list) and all(isinstance(each, str) for each in value)
    elif isinstance(default, int):
        fine = isinstance(value, int) and not isinstance(value, bool)
    else:
        fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine:
        wanted = "a number" if default is None else f"like {default!r}"
        raise ConfigurationError(f"fault {name}: {option} is {shown(value)}, must be {wanted}")
    return value


class Faults:
    """The faults of one simulator."""

    def __init__(self, seed: int) -> None:
        self._key = key_of(seed, "faults")
        self._thrown = 0
        self._begun = 0
        self._active: list[Active] = []

    def __bool__(self) -> bool:
        return bool(self._active)

    def begin(self, fault: Fault, now: int) -> Active:
        self._begun += 1
        active = Active(self._begun, fault, now, now + int(fault.seconds * _SECOND))
        self._active.append(active)
        return active

    def expire(self, now: int) -> list[Active]:
        """Forget what is over and say what it was."""
        over = [active for active in self._active if active.until <= now]
        if over:
            self._active = [active for active in self._active if active.until > now]
        return over

    def active(self, kind: str) -> Iterable[Active]:
        return (active for active in self._active if active.fault.kind == kind)

    def one(self, kind: str) -> Fault | None:
        """The newest active fault of a kind."""
        found = [active.fault for active in self.active(kind)]
        return found[-1] if found else None

    def strikes(self, share: float) -> bool:
        """Throw: true with this probability, the same for the same seed and order."""
        self._thrown += 1
        return share >= 1.0 or once(self._key, self._thrown) < share

    def hits(self, kind: str, frame: Frame) -> bool:
        """Whether a fault of this kind befalls this frame."""
        return any(
            active.touches(frame) and self.strikes(active.fault.options.get("share", 1.0))
            for active in self.active(kind)
        )

    def silences(self, frame: Frame) -> bool:
        """Whether the exchange does not even try to send this frame."""
        if frame.channel == "subscriptions":
            return False
        for active in self._active:
            kind = active.fault.kind
            if kind == "ack-then-mute":
                if frame.channel != "heartbeats" or not active.fault.options["heartbeats"]:
                    return True
            elif kind == "heartbeats-only":
                if frame.channel != "heartbeats":
                    return True
            elif kind == "mute" and active.touches(frame):
                return True
        return False

    def as_json(self, now: int) -> list[dict[str, object]]:
        return [active.as_json(now) for active in self._active]
