#!/usr/bin/env python3
"""Compare a store with a simulator's truth, slot for slot, and every reading with the recursion.

    python scripts/check_truth.py --redis-url unix:///run/valkey.sock --control http://127.0.0.1:8080/control

Prints one JSON document. Exit 0 when everything agrees, 7 when something differs, 1 when it cannot
look. The recursion and the rules that withhold a reading are written anew here from the definition
of MACD-V, so that they can disagree with ours.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.market.candle import Candle, Kind, Series, same_volume
from livermore.market.timeframe import TIMEFRAMES, iso

DEPTH = 300
"""The newest slots of a series that must be there."""
SETTLED = 60_000
"""Slots that ended within this time (ms of the exchange) are not judged yet."""


def ask(control: str, path: str, **query: object) -> Any:
    """A JSON answer of the simulator's control port."""
    url = f"{control}/{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.load(reply)


def recursion(candles: Sequence[dict[str, Any]]) -> tuple[float | None, float | None, int]:
    """MACD-V and its signal at the last of ``candles``, straight from the definition.

    The third is how many values MACD-V had.
    """
    closes: list[float] = []
    ema12 = ema26 = atr = signal = None
    ranges: list[float] = []
    values: list[float] = []
    macdv = None
    for candle in candles:
        previous = closes[-1] if closes else None
        closes.append(candle["close"])
        n = len(closes)
        ema12 = _ema(ema12, closes, n, 12)
        ema26 = _ema(ema26, closes, n, 26)
        if candle["kind"] == "traded":
            high, low = candle["high"], candle["low"]
            reach = (
                high - low
                if previous is None
                else max(high - low, abs(high - previous), abs(low - previous))
            )
            ranges.append(reach)
            if len(ranges) == 26:
                atr = math.fsum(ranges) / 26
            elif len(ranges) > 26:
                assert atr is not None
                atr = (atr * 25 + reach) / 26
        macdv = None
        if ema12 is not None and ema26 is not None and atr and atr > 1e-11 * closes[-1]:
            macdv = 100 * (ema12 - ema26) / atr
            values.append(macdv)
            signal = _ema(signal, values, len(values), 9)
    return macdv, signal, len(values)


def _ema(before: float | None, values: Sequence[float], n: int, length: int) -> float | None:
    if n < length:
        return None
    if n == length:
        return math.fsum(values[:length]) / length
    assert before is not None
    return before + (values[-1] - before) * 2 / (length + 1)


def differences(truth: dict[str, Any], candle: Candle) -> list[str]:
    """Names of the fields in which a stored candle differs from the truth."""
    wrong = [
        name for name in ("open", "high", "low", "close") if getattr(candle, name) != truth[name]
    ]
    if not same_volume(candle.volume, truth["volume"]):
        wrong.append("volume")
    if candle.kind is not Kind(truth["kind"]):
        wrong.append("kind")
    return wrong


def check(
    client: Client, control: str, exchange: str, symbols: Sequence[str], until: int
) -> dict[str, Any]:
    """Everything that is wrong up to ``until`` (exchange ms)."""
    result: dict[str, Any] = {"slots": 0, "readings": 0, "withheld": 0, "revisions": 0}
    wrong: list[dict[str, Any]] = []
    for symbol in symbols:
        for timeframe in TIMEFRAMES:
            series = Series(exchange, symbol, timeframe)
            found = list(check_series(client, control, series, until, result))
            wrong += [{"series": str(series), **difference} for difference in found]
    return {**result, "wrong": wrong}


def check_series(
    client: Client, control: str, series: Series, until: int, counts: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What is wrong with one series; adds to ``counts``."""
    ms = series.timeframe.ms
    text = client.one("GET", store.keys(series).indicator)
    members = client.one(*store.range_call(series, "-inf", "+inf"))
    candles, damaged = store.decode_candles(series, members)
    if damaged:
        yield {"damaged": damaged}
    stored = {candle.open_time: candle for candle in candles}
    if len(stored) < len(candles):
        yield {"two candles in one slot": len(candles) - len(stored)}
    if not stored:
        yield {"empty": True}
        return
    if max(stored) + ms > int(ask(control, "now")["now"]):
        yield {"still forming": max(stored)}
    reading = json.loads(text) if text else None
    anchor = min(stored)
    if reading and reading["count"]:
        anchor = min(anchor, reading["open_time"] - (reading["count"] - 1) * ms)
    window = series.timeframe.last_closed(until) - (DEPTH - 1) * ms
    asked = ask(
        control,
        "truth",
        symbol=series.symbol,
        timeframe=series.timeframe.value,
        since=min(anchor, window),
    )
    truth = {row["open_time"]: row for row in asked["candles"]}
    for open_time, row in truth.items():
        if window <= open_time < min(stored) and row["kind"] == "traded":
            yield {"open_time": open_time, "missing": True, "oldest": min(stored)}
    for open_time in range(min(stored), until, ms):
        if open_time + ms > until - SETTLED:
            break
        counts["slots"] += 1
        candle, true = stored.get(open_time), truth.get(open_time)
        if true is None:
            yield {"open_time": open_time, "unknown to the truth": True}
        elif candle is None:
            yield {"open_time": open_time, "missing": True}
        elif fields := differences(true, candle):
            shown = f"{store.prices(candle)} {candle.volume} {candle.kind.value}"
            shown += f" {candle.evidence.label} revision {candle.revision}"
            yield {"open_time": open_time, "fields": fields, "stored": shown, "true": true}
    counts["revisions"] += sum(candle.revision for candle in candles)
    if reading is None:
        yield {"reading": None}
        return
    counts["readings"] += 1
    yield from check_reading(reading, series, until, stored, anchor, truth, counts)


def check_reading(
    reading: dict[str, Any],
    series: Series,
    until: int,
    stored: Collection[int],
    anchor: int,
    truth: dict[int, dict[str, Any]],
    counts: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """What is wrong with the reading of ``series``; adds to ``counts``.

    ``stored`` are the open times of the stored candles; what the reading stands on that is older is
    taken to have been whole.
    """
    ms = series.timeframe.ms
    where = {"open_time": reading["open_time"], "count": reading["count"]}
    if reading["open_time"] + ms < until - SETTLED - ms:
        yield {"reading is old": reading["open_time"], "newest": max(stored)}
    oldest = min(stored)
    slots = range(anchor, reading["open_time"] + 1, ms)
    missing = {slot for slot in slots if slot >= oldest and slot not in stored}
    history = [truth[slot] for slot in slots if slot in truth and slot not in missing]
    recent = max(missing, default=None)
    if recent is not None and reading["open_time"] - recent > 150 * ms:
        recent = None
    macdv, signal, values = recursion(history)
    reason = why_withheld(history, recent, macdv, values)
    counts["withheld"] += reading["withheld"] is not None
    if reading["withheld"] != reason:
        yield {"withheld": reading["withheld"], "expected": reason, **where}
    for name, value in (("macdv", macdv), ("signal", signal)):
        got = reading[name]
        if got is None or value is None or reading["withheld"] is not None:
            same = got is None and reading["withheld"] is not None
        else:
            same = abs(got - value) <= 1e-9 * max(1.0, abs(value))
        if not same:
            yield {"reading": name, "got": got, "expected": value, **where}


def why_withheld(
    history: Sequence[dict[str, Any]], recent: int | None, macdv: float | None, values: int
) -> str | None:
    """Why there may be no numbers at the last of ``history``; None where there must be.

    ``recent`` is the newest slot that is missing, within the last 150.
    """
    traded = sum(candle["kind"] == "traded" for candle in history)
    if len(history) < 60:
        return f"fewer than 60 candles: {len(history)}"
    if traded < 26:
        return f"fewer than 26 observed candles: {traded}"
    if recent is not None:
        return f"missing candle within the last 150: {iso(recent)}"
    if macdv is None:
        return "no volatility"
    return f"fewer than 9 MACD-V values: {values}" if values < 9 else None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--control", required=True, help="control URL of the simulator")
    parser.add_argument("--exchange", default="coinbase")
    parser.add_argument("--symbols", help="comma-separated; default: those of the running daemon")
    parser.add_argument(
        "--wait", type=float, default=3.0, help="seconds to let the daemon catch up first"
    )
    given = parser.parse_args()
    client = Client(given.redis_url)
    until = int(ask(given.control, "now")["now"])
    time.sleep(given.wait)
    if given.symbols:
        symbols = given.symbols.split(",")
    else:
        status = client.one("GET", store.status_key(given.exchange))
        if status is None:
            print("no daemon is running: name --symbols", file=sys.stderr)
            return 1
        symbols = json.loads(status)["symbols"]
    result = check(client, given.control, given.exchange, symbols, until)
    result["differing"] = len(result["wrong"])
    result["wrong"] = result["wrong"][:50]
    print(json.dumps(result, indent=1))
    return 7 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
