"""The simulator as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial

import httpx
import pytest
import trio

from livermore.errors import ConfigurationError
from livermore.simulator import SimulatorSettings, serve
from livermore.simulator.__main__ import settings_of
from tests.simulator.exchange_client import client, left_alone, simulated

COMMAND = [sys.executable, "-m", "livermore.simulator", "coinbase", "--symbols", "5"]


@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGINT])
async def test_one_line_when_ready_and_a_clean_end(last):
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [*COMMAND, "--speed", "60"],
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONWARNINGS": "error"},
                )
            )
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
            told = json.loads(line)
            assert set(told) == {"exchange", "websocket", "rest", "control"}
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{told['control']}/stats")).json()["rest_requests"] == 0
            process.send_signal(last)
            assert await process.wait() == 0
            assert await process.stdout.receive_some() == b"", "exactly one line"


async def test_a_bad_setting_is_one_line_and_status_4(tmp_path):
    scenario = tmp_path / "s.json"
    scenario.write_text('[{"at":0,"fault":"tea"}]')
    with trio.fail_after(20):
        done = await trio.run_process(
            [*COMMAND, "--scenario", str(scenario)], capture_stderr=True, check=False
        )
    assert done.returncode == 4
    assert done.stderr.count(b"\n") == 1
    assert b"unknown fault 'tea'" in done.stderr


def test_flags_become_settings(tmp_path):
    flags = "coinbase --port 9000 --symbols 3 --seed 5 --speed 2 --symbol A-B --replay"
    said = settings_of([*flags.split(), str(tmp_path)])
    assert (said.port, said.symbols, said.seed, said.speed) == (9000, 3, 5, 2.0)
    assert said.replay == (("A-B", tmp_path),)


@pytest.mark.parametrize("wrong", [{"exchange": "mtgox"}, {"symbols": 0}, {"speed": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        SimulatorSettings(**wrong)


async def test_a_given_port_is_rest_and_the_next_is_the_websocket():
    async with simulated() as first:
        port = int(first.rest_url.rpartition(":")[2])
        with pytest.RaisesGroup(
            pytest.RaisesExc(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"),
            flatten_subgroups=True,
            allow_unwrapped=True,
        ):
            await serve(SimulatorSettings(port=port))


async def test_the_end_of_the_scope_is_the_end_of_every_socket():
    async with simulated() as simulator, trio.open_nursery() as nursery:
        async with client(simulator) as one:
            await one.subscribe("heartbeats")
            await one.of("subscriptions")
            assert simulator.stats.connections == 1
        await left_alone(simulator)
        assert not simulator.feed.sockets
        nursery.cancel_scope.cancel()
