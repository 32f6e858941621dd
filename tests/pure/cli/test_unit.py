"""The unit that is printed: what it runs, for whom, and what it never says."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from livermore.cli import unit
from livermore.cli.unit import Service, quoted
from livermore.runtime.status import HANGS

PROGRAM = ("/opt/livermore/bin/livermore",)


def service(paths: Mapping[str, str] | None = None, **changes: object) -> Service:
    given = {
        "exchanges": ("coinbase",),
        "program": PROGRAM,
        "paths": paths or {},
        "user": False,
        "run_as": "livermore",
        "standby": False,
        **changes,
    }
    return Service(**given)  # type: ignore[arg-type]


def setting(text: str, name: str) -> list[str]:
    """The values of ``name``, in order."""
    return re.findall(rf"^{name}=(.*)$", text, flags=re.MULTILINE)


def test_it_runs_the_program_that_printed_it():
    [command] = setting(service(program=unit.program()).text(), "ExecStart")
    first = command.split()[0]
    assert Path(first).is_absolute()
    assert Path(first).parent == Path(sys.executable).parent
    assert command.endswith(" run coinbase")


def test_what_was_asked_for_is_on_its_command_line():
    paths = {"config": "/etc/my livermore.toml", "state_dir": "/srv/livermore"}
    text = service(paths, exchanges=("coinbase", "kucoin"), standby=True).text()
    assert setting(text, "ExecStart") == [
        "/opt/livermore/bin/livermore run coinbase kucoin "
        '--config "/etc/my livermore.toml" --state-dir /srv/livermore --standby'
    ]
    assert setting(text, "ReadWritePaths") == ["/srv/livermore"]
    assert not setting(text, "StateDirectory")


def test_without_a_state_directory_systemd_makes_one_and_the_daemon_uses_it():
    text = service().text()
    assert setting(text, "StateDirectory") == ["livermore"]
    assert "LIVERMORE_STATE_DIR=%S/livermore" in setting(text, "Environment")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("/opt/x", "/opt/x"),
        ("/a b", '"/a b"'),
        ("50%", "50%%"),
        ("$HOME", "$$HOME"),
        ('say "x"\\', '"say \\"x\\"\\\\"'),
    ],
)
def test_a_word_is_spelled_as_systemd_reads_it(word: str, wanted: str):
    assert quoted(word) == wanted


@pytest.mark.parametrize(
    ("paths", "name", "wanted"),
    [
        ({"config": "/etc/x.toml"}, "PrivateTmp", "yes"),
        ({"config": "/tmp/x.toml"}, "PrivateTmp", "no"),
        ({"state_dir": "/home/jesse/state"}, "ProtectHome", "read-only"),
    ],
)
def test_what_it_needs_is_not_hidden_from_it(
    paths: dict[str, str], name: str, wanted: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "prefix", "/opt/livermore")  # wherever this checkout lies
    monkeypatch.setattr(sys, "executable", "/opt/livermore/bin/python")
    monkeypatch.setattr(unit, "__file__", "/opt/livermore/unit.py")
    assert setting(service(paths).text(), name) == [wanted]


def test_a_program_in_a_home_directory_can_be_read():
    assert service(program=("/home/jesse/.venv/bin/livermore",)).needs(unit.HOMES)


def test_a_restart_is_tried_where_it_can_help_and_the_watchdog_waits_longer_than_a_hang():
    text = service().text()
    assert setting(text, "Restart") == ["on-failure"]
    hopeless = setting(text, "RestartPreventExitStatus")[0].split()
    assert hopeless == ["2", "4"], "a lease lapses (5), a Redis comes back (1)"
    assert int(setting(text, "WatchdogSec")[0].removesuffix("s")) > HANGS
    assert setting(text, "KillMode") == ["mixed"], "the private Valkey is stopped by the daemon"


def test_a_service_of_a_user_claims_nothing_that_takes_rights():
    text = service(user=True).text()
    for name in ("User", "CapabilityBoundingSet", "ProtectSystem", "PrivateTmp", "StateDirectory"):
        assert not setting(text, name), name
    assert setting(text, "WantedBy") == ["default.target"]
    assert setting(text, "NoNewPrivileges") == ["yes"]
