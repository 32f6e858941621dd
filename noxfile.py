"""The checks, one session each. They run in the environment that runs nox; what ``clients`` needs
besides is installed once, elsewhere.

``python3 scripts/test.py`` makes that environment and runs them all; inside it, ``nox -s types``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "imports", "tests", "integration", "simulator", "clients"]

PYTHON = sys.executable
NOTHING_SELECTED = 5
SIDE_BY_SIDE = ("--numprocesses=3", "--dist=worksteal")
"""These tests mostly wait."""


def pytest(session: nox.Session, folders: Sequence[str], *options: str) -> None:
    """Run the tests in ``folders``, or those the arguments name instead."""
    arguments = [*session.posargs, *options]
    if not any(Path(word.split("::")[0]).exists() for word in arguments if word[0] != "-"):
        found = [folder for folder in folders if any(Path(folder).rglob("test_*.py"))]
        if not found:
            session.skip(f"no tests in {' '.join(folders)} yet")
        arguments = [*found, *arguments]
    if results := os.environ.get("TEST_RESULTS_FOLDER"):
        arguments.append(f"--junit-xml={results}/{session.name}.xml")
    # A selection by name may leave a session without tests; the whole suite may not.
    accepted = [0, NOTHING_SELECTED] if session.posargs else [0]
    session.run(PYTHON, "-m", "pytest", *arguments, external=True, success_codes=accepted)


@nox.session
def lint(session: nox.Session) -> None:
    """Mistakes and layout."""
    session.run(PYTHON, "-m", "ruff", "check", external=True)
    session.run(PYTHON, "-m", "ruff", "format", "--check", "--quiet", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Every type, strictly."""
    session.run(PYTHON, "-m", "mypy", external=True)


@nox.session
def imports(session: nox.Session) -> None:
    """The architecture: who may import whom."""
    session.run(str(Path(PYTHON).with_name("lint-imports")), "--no-cache", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """The pure half, tasks on virtual time, real recordings."""
    pytest(session, ["tests/pure", "tests/tasks", "tests/recorded"])


@nox.session
def integration(session: nox.Session) -> None:
    """Real servers, started here."""
    pytest(session, ["tests/integration"], *SIDE_BY_SIDE)


@nox.session
def simulator(session: nox.Session) -> None:
    """The whole daemon against exchanges that misbehave."""
    pytest(session, ["tests/simulator"], *SIDE_BY_SIDE)


@nox.session
def clients(session: nox.Session) -> None:
    """Client libraries of others against the simulators; they live in ``.nox/clients``."""
    session.run(PYTHON, "scripts/environment.py", "clients", external=True)
    pytest(session, ["tests/clients"], *SIDE_BY_SIDE)


@nox.session
def bench(session: nox.Session) -> None:
    """How fast: ``nox -s bench``. Not part of the checks."""
    scripts = sorted(Path("scripts").glob("bench*.py"))
    if not scripts:
        session.error("no benchmarks found")
    for script in scripts:
        session.run(PYTHON, str(script), *session.posargs, external=True)
