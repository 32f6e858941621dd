"""``livermore service unit``, read by systemd itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.command_line import Livermore

MOST_EXPOSED = 2.0
"""What ``systemd-analyze security`` calls OK; 10 is a daemon with all rights."""


@pytest.fixture
def livermore(tmp_path: Path) -> Livermore:
    return Livermore(tmp_path, "")


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("NO systemd-analyze ON THIS MACHINE: no unit was read by systemd")
    return found


def analyzed(room: Path, *words: str) -> str:
    """What it says, on both streams; the test fails with it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(room), "XDG_RUNTIME_DIR": str(room)}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [(), ("--user",), ("--standby", "--as", "daemon", "--state-dir", "/srv/my own %s $x")],
    ids=["machine", "user", "everything"],
)
def test_systemd_accepts_it_without_a_word(
    livermore: Livermore, analyze: str, words: tuple[str, ...]
):
    printed = livermore("service", "unit", "--exchange", "coinbase", *words)
    assert printed.returncode == 0, printed.stderr
    path = livermore.room / "livermore.service"
    path.write_text(printed.stdout)
    scope = ("--user",) if words == ("--user",) else ("--system",)
    said = analyzed(livermore.room, analyze, *scope, "verify", str(path))
    assert "livermore" not in said, said


def test_a_mistake_in_it_would_be_seen(livermore: Livermore, analyze: str):
    path = livermore.room / "livermore.service"
    text = livermore("service", "unit").stdout.replace("WatchdogSec=60s", "WatchdogSec=often")
    path.write_text(text)
    assert "often" in analyzed(livermore.room, analyze, "--system", "verify", str(path))


def test_it_is_exposed_to_little(livermore: Livermore, analyze: str):
    path = livermore.room / "livermore.service"
    path.write_text(livermore("service", "unit").stdout)
    limit = f"--threshold={MOST_EXPOSED * 10:.0f}"
    said = analyzed(livermore.room, analyze, "security", "--offline=yes", limit, str(path))
    level = re.search(r"exposure level for livermore.service: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= MOST_EXPOSED


def test_a_url_that_may_hold_a_password_is_not_printed(livermore: Livermore):
    done = livermore("service", "unit", "--redis-url", "redis://:hunter2@there")
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
    assert "livermore.env" in done.stderr
    assert done.stdout == ""
    done = livermore("service", "unit", LIVERMORE_REDIS_URL="redis://:hunter2@there")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("unit", "-e", "coinbasse"), "coinbase"),
        (("unit", "--user", "--as", "me"), "leave --as away"),
        (("unit", "--as", "me\nExecStart=/bin/sh"), "no name of a user"),
        (("unit", "--state-dir", "/srv/" + "x" * 100), "too long"),
        (("unit", "--config", "/etc/a\nb"), "line break"),
        (("units",), "service --help"),
    ],
)
def test_what_cannot_be_a_service_is_one_line_and_2(
    livermore: Livermore, words: tuple[str, ...], said: str
):
    done = livermore("service", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert said in line


def test_how_to_install_it_is_its_help(livermore: Livermore):
    done = livermore("service", "--help")
    assert done.returncode == 0
    for word in ("useradd", "enable --now", "livermore.env", "systemctl reload", "--user"):
        assert word in done.stdout, word
    bare = livermore("service")
    assert bare.returncode == 2
    assert "useradd" in bare.stdout
