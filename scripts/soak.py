#!/usr/bin/env python3
"""Run the whole daemon through seeded schedules of disturbances, or for days of a market.

    python scripts/soak.py --seeds 1-200 --jobs 2
    python scripts/soak.py --seeds 17 --verbose
    python scripts/soak.py --seeds 1-200 --exchanges coinbase,binance
    python scripts/soak.py --memory --symbols 50 --days 10 --rate 240

A seed is two hours of a market in a minute: everything goes wrong, then a calm, and then the store,
what was announced and the readings must be what the exchange's truth makes of them. One line per
seed; the same seed is the same schedule. The log of a failed one is kept in the directory named.

``--memory`` follows an undisturbed daemon for days of the market and judges whether its memory and
its queues stay flat.

Exit 0 when all is well, 1 when something is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from livermore.adapters import store
from livermore.adapters.redis import Client
from livermore.adapters.valkey import find_private_valkey

EXCHANGE = "coinbase"
ROOT = Path(__file__).resolve().parents[1]
RUN = "tests.simulator.chaos_run"
WITHIN = 300.0
"""Seconds for one seed, which takes a minute."""


def seeds_of(text: str) -> list[int]:
    """``1-10``, ``7`` or ``1-3,9``."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def run_seed(seed: int, directory: Path, exchanges: str = EXCHANGE) -> dict[str, Any]:
    """The verdict on one seed, from a process of its own."""
    command = [
        sys.executable, "-m", RUN, "--seed", str(seed), "--exchanges", exchanges,
        "--directory", str(directory),
    ]  # fmt: skip
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        return failed(seed, f"no end within {WITHIN:.0f} s", time.monotonic() - begun)
    (directory / f"seed-{seed}.err").write_text(done.stderr)
    try:
        verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return failed(seed, f"exit {done.returncode}: {last}", time.monotonic() - begun)
    return verdict


def failed(seed: int, why: str, seconds: float) -> dict[str, Any]:
    """The verdict on a run that did not come to one."""
    return {"seed": seed, "ok": False, "seconds": round(seconds, 1), "problems": [why]}


def line(verdict: dict[str, Any]) -> str:
    """One seed on one line."""
    shown = ("faults", "closes", "corrections", "slots", "reconnects", "rest_requests", "cpu")
    figures = "  ".join(f"{name} {verdict[name]}" for name in shown if name in verdict)
    text = f"seed {verdict['seed']:<5} {'ok  ' if verdict['ok'] else 'FAIL'}  {figures}"
    text += f"  {verdict['seconds']} s"
    problems = verdict["problems"]
    if problems:
        text += f"  {len(problems)} problems: {problems[0]}"
    return text


def soak(
    seeds: Sequence[int], jobs: int, directory: Path, exchanges: str = EXCHANGE
) -> Iterator[dict[str, Any]]:
    """Verdicts as they come, in the order of the seeds; logs of good seeds are removed."""
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(lambda seed: run_seed(seed, directory, exchanges), seeds):
            if verdict["ok"] and len(seeds) > 1:
                for file in directory.glob(f"seed-{verdict['seed']}.*"):
                    file.unlink()
                shutil.rmtree(directory / f"state-{verdict['seed']}", ignore_errors=True)
            yield verdict


# -- days of the market -----------------------------------------------------------------------

SAMPLE_EVERY = 10.0
SLACK = 0.03
"""Of the middle value: growth over the second half of the run that is no growth."""
QUEUES = ("pending", "gaps", "ledger")


@attrs.frozen
class Sample:
    """One look at the daemon: bytes and lengths, ``at`` in seconds since the start."""

    at: float
    rss: int
    pending: int
    gaps: int
    ledger: int
    state: str
    closes: int
    clock: int
    requests: int


def rss(pid: int) -> int:
    """Bytes of a process that are in memory (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(row.split()[1]) * 1024 for row in text.splitlines() if "VmRSS" in row)


def look(begun: float, pid: int, state_dir: Path) -> Sample | None:
    """What the daemon and its status say; None before there is a status."""
    url = find_private_valkey(state_dir)
    if url is None:
        return None
    client = Client(url)
    try:
        text, ledger = client.run([("GET", store.status_key(EXCHANGE)),
                                   ("HLEN", store.gaps_key(EXCHANGE))])  # fmt: skip
    finally:
        client.close()
    if text is None:
        return None
    status = json.loads(text)
    return Sample(
        round(time.monotonic() - begun, 1), rss(pid), status["pending"], status["gaps"], ledger,
        status["state"], status["counts"].get("stored", 0), status["clock"] or 0,
        (status["looks"] or {}).get("requests", 0),
    )  # fmt: skip


def growth(values: Sequence[float]) -> float:
    """How much a straight line through ``values`` rises from the first to the last."""
    count = len(values)
    middle, mean = (count - 1) / 2, statistics.fmean(values)
    spread = sum((i - middle) ** 2 for i in range(count))
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values)) / spread
    return slope * (count - 1)


def judge(samples: Sequence[Sample]) -> list[str]:
    """What does not stay flat in the second half of the run."""
    half = samples[len(samples) // 2 :]
    if len(half) < 6:
        return [f"{len(samples)} samples are too few to judge"]
    problems: list[str] = []
    memory = [float(sample.rss) for sample in half]
    usual = statistics.median(memory)
    if growth(memory) > SLACK * usual:
        problems.append(f"memory grew by {growth(memory) / 1e6:.1f} MB in the second half")
    if max(memory) > (1 + 3 * SLACK) * usual:
        problems.append(f"memory rose to {max(memory) / 1e6:.0f} MB from {usual / 1e6:.0f} MB")
    for name in QUEUES:
        lengths = [float(getattr(sample, name)) for sample in half]
        grown = growth(lengths)
        if grown > max(20.0, 0.25 * statistics.fmean(lengths)):
            problems.append(f"{name} grew by {grown:.0f} to {lengths[-1]:.0f} in the second half")
    if half[-1].closes <= half[0].closes:
        problems.append("no candle closed in the second half")
    return problems


def follow_days(symbols: int, days: float, rate: float, directory: Path) -> dict[str, Any]:
    """Follow a fast exchange with a daemon in a process of its own; samples and verdict."""
    state_dir = directory / "state"
    exchange = [
        sys.executable, "-m", "livermore.simulator", EXCHANGE, "--symbols", str(symbols),
        "--speed", f"{rate:g}",
    ]  # fmt: skip
    samples: list[Sample] = []
    with subprocess.Popen(exchange, cwd=ROOT, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout is not None
        urls = json.loads(simulator.stdout.readline())
        follow = [
            sys.executable, "-m", "livermore.cli", "run", EXCHANGE, "--top", str(symbols),
            "--rest-url", urls["rest"], "--websocket-url", urls["websocket"],
            "--state-dir", str(state_dir),
        ]  # fmt: skip
        with (directory / "daemon.log").open("w") as log:
            daemon = subprocess.Popen(follow, cwd=ROOT, stderr=log, stdout=log)
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < days * 86_400 / rate:
                time.sleep(SAMPLE_EVERY)
                if daemon.poll() is not None:
                    break
                if (sample := look(begun, daemon.pid, state_dir)) is not None:
                    samples.append(sample)
            ended = daemon.poll()
        finally:
            daemon.terminate()
            daemon.wait(20)
            simulator.terminate()
    problems = judge(samples)
    if ended is not None:
        problems.append(f"the daemon ended with {ended}: see {directory}/daemon.log")
    return {
        "ok": not problems,
        "symbols": symbols,
        "market_days": round((samples[-1].clock - samples[0].clock) / 86_400_000, 2)
        if samples
        else 0,
        "seconds": round(time.monotonic() - begun, 1),
        "problems": problems,
        "samples": [attrs.asdict(sample) for sample in samples],
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=seeds_of, metavar="A-B", help="such as 1-10, 7 or 1-3,9")
    parser.add_argument(
        "--exchanges",
        default=EXCHANGE,
        metavar="A,B",
        help="whose market; several run side by side",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="seeds at a time")
    parser.add_argument("--directory", type=Path, help="where logs of failed seeds are kept")
    parser.add_argument("--verbose", action="store_true", help="all problems and the log's path")
    parser.add_argument("--json", action="store_true", help="one JSON object per seed")
    parser.add_argument("--memory", action="store_true", help="follow days of a market instead")
    parser.add_argument("--symbols", type=int, default=50, metavar="N")
    parser.add_argument("--days", type=float, default=10.0, metavar="N", help="of the market")
    parser.add_argument("--rate", type=float, default=240.0, metavar="X", help="its speed")
    given = parser.parse_args()
    if bool(given.seeds) == given.memory:
        parser.error("say --seeds A-B or --memory")
    directory = given.directory or Path(tempfile.mkdtemp(prefix="soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    if given.memory:
        result = follow_days(given.symbols, given.days, given.rate, directory)
        print(json.dumps(result, indent=1))
        return 0 if result["ok"] else 1
    tally: Counter[bool] = Counter()
    for verdict in soak(given.seeds, given.jobs, directory, given.exchanges):
        tally[verdict["ok"]] += 1
        print(json.dumps(verdict) if given.json else line(verdict), flush=True)
        if given.verbose and not given.json:
            for problem in verdict["problems"]:
                print(f"    {problem}")
            print(f"    {directory}/seed-{verdict['seed']}.log")
    if not given.json:
        print(f"{tally[True]} of {sum(tally.values())} seeds are well; logs: {directory}")
    return 1 if tally[False] else 0


if __name__ == "__main__":
    sys.exit(main())
