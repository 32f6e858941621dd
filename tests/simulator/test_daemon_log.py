"""What the process says on stderr of its metrics, of an outage, and never of a password."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.command_line import Livermore
from tests.servers import RedisServer, free_port
from tests.simulator.test_daemon_process import run, simulator, started, until

pytestmark = pytest.mark.timeout(90)
SECRET = "hunter2/sword%fish"
QUOTED = "hunter2%2Fsword%25fish"


@pytest.fixture
def livermore(tmp_path: Path) -> Livermore:
    return Livermore(tmp_path, "")


@pytest.fixture(scope="module")
def urls():
    with simulator("--speed", "60") as urls:
        yield urls


def test_a_metrics_port_in_use_is_one_line_and_4(
    livermore: Livermore, urls: dict[str, str], valkey_url: str
):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = ("--redis-url", valkey_url, "--metrics-port", str(port))
        with started(run(livermore, urls, *words)) as daemon:
            assert daemon.ends() == 4
    [line] = daemon.lines
    assert f"metrics: cannot listen on 127.0.0.1 port {port}: " in line
    assert "choose another --metrics-port" in line


def test_metrics_at_any_port_are_announced_and_served_until_the_end(
    livermore: Livermore, urls: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USD", "--metrics-port", "0")
    with started(run(livermore, urls, *words)) as daemon:
        line = daemon.says("metrics and health")
        found = re.search(r"url=(http://127\.0\.0\.1:\d+)", line)
        assert found is not None, line
        url = found[1]
        until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
        text = httpx.get(f"{url}/metrics", trust_env=False).text
        assert 'livermore_blind{exchange="coinbase"} 0.0' in text
        assert daemon.stops() < 8
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez", trust_env=False)


def test_no_metrics_are_served_to_who_did_not_ask(
    livermore: Livermore, urls: dict[str, str], valkey_url: str
):
    words = ("--redis-url", valkey_url, "--symbols", "BTC-USD", "--for", "3s")
    with started(run(livermore, urls, *words)) as daemon:
        assert daemon.ends() == 0
    assert not any("metrics" in line for line in daemon.lines)
    [stopping] = [line for line in daemon.lines if "stopping" in line]
    assert "because='the time given is over'" in stopping


def test_an_outage_of_redis_is_a_few_lines_and_none_holds_the_password(
    livermore: Livermore, urls: dict[str, str], own_valkey: RedisServer
):
    with own_valkey.client() as client:
        client.config_set("requirepass", SECRET)
    url = own_valkey.url.replace("unix://", f"unix://:{QUOTED}@")
    words = ("--redis-url", url, "--symbols", "BTC-USD", "--json-logs", "--log-level", "debug")
    with started(run(livermore, urls, *words, "--metrics-port", "0")) as daemon:
        health = json.loads(daemon.says("metrics and health"))["url"]
        until(lambda: httpx.get(f"{health}/readyz", trust_env=False).status_code == 200)
        own_valkey.kill()
        daemon.says('"event": "blind"')
        daemon.says("Redis is away")
        time.sleep(8)
        ready = httpx.get(f"{health}/readyz", trust_env=False)
        metrics = httpx.get(f"{health}/metrics", trust_env=False).text
        status = livermore("status", "--redis-url", url, "--state-dir", ".local/state/livermore")
        daemon.stops()
    assert ready.status_code == 503
    assert "blind since" in status.stdout, status.stderr
    told = "\n".join([*daemon.lines, ready.text, metrics, status.stdout, status.stderr])
    assert SECRET not in told
    assert QUOTED not in told
    assert "hunter2" not in told
    entries = [json.loads(line) for line in daemon.lines]
    events = [entry["event"] for entry in entries if entry["level"] != "debug"]
    for event in ("Redis is away", "blind", "stopping", "lease taken"):
        assert events.count(event) == 1, (event, events)
    assert max(map(events.count, events)) <= 3, events


def test_a_wrong_password_is_one_line_without_it(
    livermore: Livermore, urls: dict[str, str], own_valkey: RedisServer
):
    with own_valkey.client() as client:
        client.config_set("requirepass", SECRET)
    url = own_valkey.url.replace("unix://", "unix://:hunter3@")
    with started(run(livermore, urls, "--redis-url", url)) as daemon:
        assert daemon.ends() == 4
    [line] = daemon.lines
    assert "refuses us" in line
    assert "hunter" not in line


def test_a_redis_that_was_never_there_is_told_without_the_password(
    livermore: Livermore, urls: dict[str, str]
):
    url = f"redis://user:{QUOTED}@127.0.0.1:{free_port()}/0"
    with started(run(livermore, urls, "--redis-url", url, "--log-level", "debug")) as daemon:
        assert daemon.ends() == 1
    assert "hunter2" not in "\n".join(daemon.lines)
