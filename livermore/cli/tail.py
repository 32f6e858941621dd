"""``livermore tail``: closes, corrections and readings as they are published."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from livermore.cli import options, output, store, times
from livermore.cli.options import Exchange, Json, Place, TimeframeName, placed
from livermore.market.timeframe import TIMEFRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from livermore.market.timeframe import Timeframe

WORDS = {"close": "close", "correct": "correction", "update": "forming", "macdv": "reading"}
"""What the kinds of channel are called here."""


TERMS = (("MACD-V", "macdv"), ("signal", "signal"), ("histogram", "histogram"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "tail",
        epilog="Example: `livermore tail BTC-USD --timeframe 5m,1h`, `livermore tail --json`",
    )(placed(tail))


def tail(
    place: Place,
    symbol: Annotated[
        str | None, typer.Argument(metavar="SYMBOL", help="Only this symbol.")
    ] = None,
    timeframe: TimeframeName = None,
    forming: Annotated[
        bool, typer.Option("--forming", help="Also candles that are not closed yet.")
    ] = False,
    exchange: Exchange = None,
    json: Json = False,
) -> int:
    """Print what is published, line by line, until Ctrl-C."""
    only, given = options.limits(symbol, exchange)
    chosen = options.timeframes(timeframe)
    stopped, settings = threading.Event(), place.settings()
    with store.open_store(settings, given) as client:
        found = store.look_at(client, settings, only, given)
        if all(status is None for _, _, status in found):
            name = found[0][0] if given or only else "any exchange"
            output.say(f"no daemon is running for {name} now; waiting for one (Ctrl-C ends this)")
        # Without a word of it, also of exchanges that begin later.
        names = [(name, known) for name, known, _ in found if given or only] or [("*", None)]
        heard = {name for name, _, _ in found}
        wanted = [p for one in names for p in patterns(*one, chosen, forming=forming)]
        try:
            for channel, payload in client.messages(wanted, stopped):
                heard.add(exchange_of(channel))
                word, said = understood(channel, payload)
                if word is None or said is None:
                    output.say(f"{channel}: not understood: {payload[:120]!r}")
                elif json:
                    output.document({"type": word, **as_json(said)})
                else:
                    where = exchange_of(channel) if len(heard) > 1 else ""
                    output.line(described(word, said, where))
        except KeyboardInterrupt:
            return 0
    return 0


def patterns(
    exchange: str, symbol: str | None, timeframes: Sequence[Timeframe], *, forming: bool
) -> list[str]:
    """The channels to listen to, as glob patterns."""
    of = symbol or "*"
    names = ["*"] if len(timeframes) == len(TIMEFRAMES) else [tf.value for tf in timeframes]
    kinds = ["close", "correct", *(["update"] if forming else [])]
    root = f"channel:exchange:{exchange}"
    return [f"{root}:candle:{k}:{of}:{tf}" for k in kinds for tf in names] + [
        f"{root}:indicator:{of}:{tf}:macdv" for tf in names
    ]


def exchange_of(channel: str) -> str:
    """The exchange a channel is of."""
    return channel.split(":")[2]


def kind(channel: str) -> str:
    """``close``, ``correct``, ``update`` or ``macdv``."""
    words = channel.split(":")
    return words[4] if len(words) > 4 and words[3] == "candle" else words[-1]


def understood(channel: str, payload: bytes) -> tuple[str | None, dict[str, Any] | None]:
    """What kind of message it is and what it says; None for what we do not know."""
    return WORDS.get(kind(channel)), decoded(payload)


def decoded(payload: bytes | None) -> dict[str, Any] | None:
    """The JSON object, or None where there is none."""
    if payload is None:
        return None
    try:
        said = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return said if isinstance(said, dict) else None


def as_json(said: Mapping[str, Any]) -> dict[str, Any]:
    """What was published with ISO times, without the indicator's inner state."""
    return {
        key: times.iso(value) if key in ("open_time", "as_of") and isinstance(value, int) else value
        for key, value in said.items()
        if key != "state"
    }


def described(word: str, said: Mapping[str, Any], exchange: str = "") -> str:
    """One line: open time, symbol, timeframe, and what happened."""
    time = said.get("open_time")
    of = f"{exchange:<10} " if exchange else ""
    where = (
        f"{times.iso(time) if isinstance(time, int) else '?':<20} {of}"
        f"{said.get('symbol', '?')!s:<12} {said.get('timeframe', '?')!s:<3} {word:<10}"
    )
    if word == "reading":
        if said.get("withheld"):
            return f"{where} MACD-V withheld: {said['withheld']}"
        figures = " ".join(f"{label} {_figure(said.get(key), 2)}" for label, key in TERMS)
        warm = "" if said.get("warm", True) else " (not warm yet)"
        return f"{where} {figures} {said.get('stage') or '–'}{warm}"
    fields = ("open", "high", "low", "close", "volume")
    figures = " ".join(f"{field[0]} {_figure(said.get(field))}" for field in fields)
    rest = [str(said[key]) for key in ("kind", "evidence") if said.get(key) is not None]
    if said.get("revision"):
        rest.append(f"revision {said['revision']}")
    return " ".join([where, figures, *rest])


def _figure(value: object, places: int | None = None) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return output.number(float(value), places)
    return "–" if value is None else str(value)
