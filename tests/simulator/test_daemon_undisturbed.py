"""Nothing goes wrong: the store is the truth, and everything was said once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from livermore.adapters.redis import Client
from tests.servers import Cluster
from tests.simulator.whole_daemon import (
    agree,
    check_announcements,
    exchange,
    listening,
    running,
    stored,
)


@pytest.mark.timeout(90)
async def test_an_undisturbed_run_equals_the_truth_and_announces_everything_once(
    valkey_url: str, tmp_path: Path
):
    with trio.fail_after(80), listening(valkey_url) as heard:
        async with exchange(symbols=8) as simulator:
            async with running(simulator, valkey_url, tmp_path, top=8) as daemon:
                await daemon.whole()
                await trio.sleep(12)
                result = await agree(valkey_url, simulator, daemon.symbols)
                symbols = list(daemon.symbols)
                assert len(symbols) == 8
            assert result["slots"] > 8 * 5 * 250
            assert result["readings"] == 40
            assert result["revisions"] == 0, "nothing needed a correction"
            assert simulator.stats.rest_429 == 0
            assert simulator.stats.connections_total == 1

    def audit(client: Client) -> int:
        return check_announcements(client, heard, symbols)

    assert await stored(valkey_url, audit) > 8 * 12
