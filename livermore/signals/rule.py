"""A rule: what is worth an alert, as the configuration says it.

Free of numpy, because every command reads the configuration. What rules do is in ``rules.py``.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import attrs

from livermore.errors import UsageError
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.signals.stage import Stage

T = TypeVar("T")
D = TypeVar("D")

COOLDOWN = 3
"""Candles."""

FIRST_LEVEL = 150
LEVEL_STEP = 50

BEYOND = 150.0
"""Where a reversal is looked for."""

LONGEST_COOLDOWN = 1000
FARTHEST = 500
"""Candles back that a move is measured over: half of what is stored."""

_MEANING = 1
"""Rises when this program reads the same rule in another way."""


class Kind(enum.StrEnum):
    """What a rule looks for."""

    LEVEL = "level"
    REVERSAL = "reversal"
    BLIND = "blind"
    STAGE = "stage"
    MOVE = "move"


@attrs.frozen(kw_only=True)
class Rule:
    """What is worth an alert, where it is looked for and who is told.

    Raises ``ValueError`` for a rule that its kind gives no meaning to.
    """

    name: str
    kind: Kind
    symbols: tuple[str, ...] | None = None
    """None means every followed one, as in ``timeframes`` and ``channels``."""
    timeframes: tuple[Timeframe, ...] | None = None
    levels: tuple[float, ...] | None = None
    """Of a level rule, ascending; None means 150, 200, 250 and so on without end."""
    cooldown: int = COOLDOWN
    """Candles."""
    channels: tuple[str, ...] | None = None
    from_: tuple[Stage, ...] | None = None
    """Of a stage rule; None means from any, as in ``to``."""
    to: tuple[Stage, ...] | None = None
    percent: float = 0.0
    """Of a move rule, as are ``candles``."""
    candles: int = 0
    enabled: bool = True
    quiet: float = attrs.field(init=False, repr=False, eq=False)
    """Nothing comes of a MACD-V that is no further from 0; negative where there is no such bound.

    So it is where nothing is disarmed and no excursion is used up.
    """

    def __attrs_post_init__(self) -> None:
        if (self.kind is Kind.MOVE) != (self.percent > 0) or (self.percent > 0) != bool(
            self.candles
        ):
            raise ValueError("percent and candles: a move rule needs both, no other has them")
        if self.levels is not None and (
            self.kind is not Kind.LEVEL or list(self.levels) != sorted(set(self.levels))
        ):
            raise ValueError("levels: a level rule has them, ascending, each once")
        first = FIRST_LEVEL if self.levels is None else self.levels[0]
        quiet = {Kind.LEVEL: first, Kind.REVERSAL: BEYOND}.get(self.kind, -1.0)
        object.__setattr__(self, "quiet", quiet)

    def covers(self, symbol: str, timeframe: Timeframe) -> bool:
        """Whether closed candles of that series can meet it."""
        return (
            self.enabled
            and self.kind is not Kind.BLIND
            and (self.symbols is None or symbol in self.symbols)
            and (self.timeframes is None or timeframe in self.timeframes)
        )

    def digest(self) -> str:
        """Short text that changes when another series of alerts would follow from the candles."""
        parts: list[str] = [str(_MEANING), self.kind, str(self.cooldown)]
        if self.kind is Kind.LEVEL:
            parts.append("*" if self.levels is None else ",".join(map(repr, self.levels)))
        elif self.kind is Kind.STAGE:
            parts += [
                "*" if some is None else ",".join(sorted(some)) for some in (self.from_, self.to)
            ]
        elif self.kind is Kind.MOVE:
            parts += [repr(self.percent), str(self.candles)]
        return " ".join(parts)


DEFAULT_RULES = (
    Rule(name="level", kind=Kind.LEVEL),
    Rule(name="reversal", kind=Kind.REVERSAL),
    Rule(name="blind", kind=Kind.BLIND),
)

_OF_SERIES = ("symbols", "timeframes", "cooldown")
_KEYS: Mapping[Kind, tuple[str, ...]] = {
    Kind.LEVEL: (*_OF_SERIES, "levels"),
    Kind.REVERSAL: _OF_SERIES,
    Kind.BLIND: (),
    Kind.STAGE: (*_OF_SERIES, "from", "to"),
    Kind.MOVE: (*_OF_SERIES, "percent", "candles"),
}
_OF_ALL = ("rule", "name", "channels", "enabled")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


def rule_from(table: Mapping[str, object]) -> Rule:
    """The rule that a table ``[[alerts]]`` describes; its symbols are canonical already.

    Raises ``ValueError`` with one line: which key is wrong, what is wanted there.
    """
    if "rule" not in table:
        raise ValueError(f"rule is missing: use one of {', '.join(Kind)}")
    kind = Kind(_one_of("rule", table["rule"], list(Kind)))
    known = (*_OF_ALL, *_KEYS[kind])
    for key in table:
        if key in known:
            continue
        owners = [other for other, keys in _KEYS.items() if key in keys]
        if owners:
            raise ValueError(f"{key} belongs to {' and '.join(owners)} rules, not to {kind}")
        raise ValueError(f"unknown key {_quoted(key)}{_near(key, known)}")

    name = _read(table, "name", _name, str(kind))
    if name != kind and name in [*Kind, "withdrawn"]:
        raise ValueError(f"name: {name} means something else: choose another name")
    percent, candles = 0.0, 0
    if kind is Kind.MOVE:
        if missing := [key for key in ("percent", "candles") if key not in table]:
            raise ValueError(f"{missing[0]} is missing: such as percent = 3.0 with candles = 12")
        percent = _positive("percent", table["percent"])
        candles = _whole("candles", table["candles"], 1, FARTHEST)
    return Rule(
        name=name,
        kind=kind,
        symbols=_read(table, "symbols", _names, None),
        timeframes=_read(table, "timeframes", _timeframes, None),
        levels=_read(table, "levels", _levels, None),
        cooldown=_read(table, "cooldown", _cooldown, candles or COOLDOWN),
        channels=_read(table, "channels", _names, None),
        from_=_read(table, "from", _stages, None),
        to=_read(table, "to", _stages, None),
        percent=percent,
        candles=candles,
        enabled=_read(table, "enabled", _flag, True),
    )


def _read(
    table: Mapping[str, object], key: str, parse: Callable[[str, object], T], default: D
) -> T | D:
    return parse(key, table[key]) if key in table else default


def _name(key: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{key}: letters, digits, - and _ are wanted, not {_quoted(value)}")
    return value


def _names(key: str, value: object) -> tuple[str, ...]:
    """In the order given, each once."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{key}: a list of names is wanted, not {_quoted(value)}")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise ValueError(f"{key}: a name is wanted, not {_quoted(item)}")
    return tuple(dict.fromkeys(item.strip() for item in value))


def _timeframes(key: str, value: object) -> tuple[Timeframe, ...]:
    try:
        return tuple(map(Timeframe.parse, _names(key, value)))
    except UsageError as error:
        raise ValueError(f"{key}: {error}") from None


def _stages(key: str, value: object) -> tuple[Stage, ...]:
    from livermore.signals.stage import Stage  # comes with numpy, and few rules name stages

    return tuple(Stage(_one_of(key, name, list(Stage))) for name in _names(key, value))


def _levels(key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"{key}: a list of positive numbers is wanted, such as [150, 200], not {_quoted(value)}"
        )
    return tuple(sorted({_positive(key, item) for item in value}))


def _positive(key: str, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1e6:  # type: ignore[operator]
        raise ValueError(f"{key}: a positive number is wanted, not {_quoted(value)}")
    return float(value)  # type: ignore[arg-type]


def _whole(key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"{key}: a whole number from {least} to {most} is wanted, not {_quoted(value)}"
        )
    return value


def _cooldown(key: str, value: object) -> int:
    return _whole(key, value, 0, LONGEST_COOLDOWN)


def _flag(key: str, value: object) -> bool:
    if value is True or value is False:
        return value
    raise ValueError(f"{key}: true or false is wanted, not {_quoted(value)}")


def _one_of(key: str, value: object, known: Iterable[str]) -> str:
    names = [str(name) for name in known]
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"{key}: unknown {_quoted(value)}{_near(str(value), names)} ({', '.join(names)})"
        )
    return value


def _near(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {found[0]}?" if found else ""


def _quoted(value: object) -> str:
    return " ".join(repr(value).split())[:80]
