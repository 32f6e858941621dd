"""``docs/users.md`` as a reader types it: every command works, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx
import pytest

from tests.postgres import PASSWORD, PostgresServer
from tests.simulator.test_daemon_process import simulator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "users.md"
MARK = "== step "
pytestmark = pytest.mark.timeout(400)


@attrs.define
class Step:
    command: str
    shown: list[str] = attrs.Factory(list)


def steps(text: str) -> Iterator[Step]:
    """The commands of the page, in order, and what it shows of their output."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        found: list[Step] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line.removeprefix("$ ")))
            elif line:
                found[-1].shown.append(line)
        yield from found


def missing(shown: list[str], said: list[str]) -> list[str]:
    """Lines of the page that were not printed, in that order; ``…`` stands for anything."""
    lacking, at = [], 0
    for line in shown:
        # Columns are as wide as what is in them.
        words = [" *".join(map(re.escape, part.split())) for part in line.split("…")]
        pattern = re.compile(r"\s*" + ".*".join(words) + r"\s*")
        found = next((i for i, one in enumerate(said[at:], at) if pattern.fullmatch(one)), None)
        if found is None:
            lacking.append(line)
        else:
            at = found + 1
    return lacking


def test_every_step_of_the_page_works_as_printed(
    own_postgres: PostgresServer, valkey_url: str, tmp_path: Path
):
    found = list(steps(PAGE.read_text()))
    assert len(found) > 30
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    program = f"{shlex.quote(sys.executable)} -m livermore.cli"
    (bin_ / "livermore").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (bin_ / "livermore").chmod(0o755)
    script = ["set -u"]
    for number, step in enumerate(found):
        script += [f"echo '{MARK}{number}'", step.command]
        if step.command.endswith("&"):
            script += ["daemon=$!", "until livermore network >/dev/null 2>&1; do sleep 0.1; done"]
        else:
            script.append(f"echo '{MARK}{number} ended '$?")
    script += ["kill $daemon", "wait $daemon", "echo 'ended '$?"]
    listed = ("--symbols", "8")
    with simulator(*listed) as coinbase, simulator(*listed, exchange="binance") as binance:
        keys = httpx.get(f"{coinbase['control']}/keys", trust_env=False).json()["keys"]
        view = next(one for one in keys if one["name"] == "view")
        environment = {
            "PATH": f"{bin_}:{own_postgres.binaries}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "PGHOST": str(own_postgres.directory),
            "PGUSER": "livermore",
            "PGPASSWORD": PASSWORD,
            "LIVERMORE_REDIS_URL": valkey_url,
            "LIVERMORE_TOP": "2",
            "LIVERMORE_REST_URL": f"coinbase={coinbase['rest']},binance={binance['rest']}",
            "LIVERMORE_WEBSOCKET_URL": (
                f"coinbase={coinbase['websocket']},binance={binance['websocket']}"
            ),
            "DESK_SECRET": "a secret that the desk knows",
            "ALICE_CB_KEY": view["key"],
            "ALICE_CB_SECRET": view["secret"],
        }
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path, env=environment, check=False, timeout=360,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    parts = re.split(rf"^{MARK}(\d+)\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    problems = []
    for number, step in enumerate(found):
        text = printed.get(number, "")
        if not step.command.endswith("&") and f"{MARK}{number} ended 0" not in text:
            problems.append(f"$ {step.command}\nfailed:\n{text}")
        elif lacking := missing(step.shown, text.splitlines()):
            problems.append(f"$ {step.command}\ndid not print {lacking}, but:\n{text}")
    assert not problems, "\n".join(problems)
    assert done.stdout.endswith("ended 0\n"), done.stdout[-2000:]
