"""What is shown on a narrow terminal is folded, and nothing of it is cut."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from livermore.cli import exchanges, network
from livermore.control.registry import Instance, Running, Seen
from livermore.exchanges import DIALECTS

WHY = "binance_us: 451: it serves nobody where we ask from"
ONE = Running("coinbase", state="live", symbols=50, mode="full", since=3600, error="")
OTHER = Running(
    "binance_us", state="ended", symbols=0, mode="position-monitor", since=60, error=WHY
)
SEEN = [
    Seen(Instance("a", "trading-box-17.example.org", 471123, "1", 86_500, (ONE, OTHER), {}), 1200),
    Seen(Instance("b", "desk", 7, "1", 10, (), {}), 9000),
]


def lines(what: RenderableType, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(what)
    found = captured.get().splitlines()
    assert max(map(len, found)) <= width
    return found


def test_instances_are_a_table_where_there_is_room():
    head, *rows = lines(network.table(SEEN), 200)
    assert head.split() == [
        "instance", "exchange", "state", "symbols", "mode", "for", "up", "heartbeat", "error",
    ]  # fmt: skip
    assert len(rows) == 3


@pytest.mark.parametrize("width", [60, 80, 100])
def test_instances_are_blocks_where_there_is_none(width: int):
    found = lines(network.table(SEEN), width)
    words = " ".join(" ".join(found).split())
    assert found[0] == "trading-box-17.example.org:471123"
    assert "exchange coinbase · state live · symbols 50 · mode full" in words
    assert f"error {WHY}" in words
    assert "desk:7 state idle · up 10 s · heartbeat 9 s late" in words
    assert "…" not in words


@pytest.mark.parametrize("name", DIALECTS)
def test_the_way_to_the_documentation_is_whole(name: str):
    dialect = DIALECTS[name]
    found = lines(exchanges.block(dialect, None, "", None), 60)
    assert dialect.documentation in "".join(line[12:].strip() for line in found)
