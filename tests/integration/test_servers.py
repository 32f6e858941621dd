"""The servers tests run on are what they claim to be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from tests.servers import RedisServer

CHECKOUT = Path(__file__).resolve().parents[2]

ABANDONED = """
import os, signal, sys
from pathlib import Path
from livermore.adapters.valkey import valkey_binary
from tests.postgres import PostgresServer, find_binaries
from tests.servers import RedisServer, server_room
with server_room() as room:
    if sys.argv[1] == "redis":
        server = RedisServer(valkey_binary(), room / "one")
    else:
        server = PostgresServer(find_binaries(room), room / "one")
    server.start()
    print(room, server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_both_makes_are_empty_at_the_start_of_a_test(any_redis_url):
    with redis.Redis.from_url(any_redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_redis_and_valkey_are_two_different_servers(valkey_url, redis_url):
    with redis.Redis.from_url(valkey_url) as valkey, redis.Redis.from_url(redis_url) as other:
        assert valkey.info("server")["server_name"] == "valkey"
        assert "server_name" not in other.info("server")


@pytest.mark.parametrize("turn", [1, 2])
def test_the_cluster_has_three_masters_and_is_empty(cluster_url, turn):
    [host, port] = cluster_url.removeprefix("redis+cluster://").split(":")
    with RedisCluster(host=host, port=int(port)) as client:
        assert len(client.get_primaries()) == 3
        assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0
        for number in range(50):
            client.set(f"key-{number}", number)
        nodes = {client.get_node_from_key(f"key-{number}").name for number in range(50)}
        assert len(nodes) == 3


def test_an_outage_can_be_made_and_ended(own_valkey):
    with redis.Redis.from_url(own_valkey.url, socket_timeout=0.2, retry=None) as client:
        client.set("candle", "closed")
        own_valkey.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own_valkey.resume()
        own_valkey.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        own_valkey.start()
        assert client.get("candle") == b"closed"
        own_valkey.restart()
        assert client.get("candle") == b"closed"


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_killed_test_run_leaves_no_server_behind(kind, request):
    if kind == "postgres":
        request.getfixturevalue("postgres_binaries")  # or it is skipped
    command = [sys.executable, "-c", ABANDONED, kind]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    [room, pid] = run.stdout.split()
    deadline = time.monotonic() + 30
    while Path(room).exists() or (Path(f"/proc/{pid}/fd").exists() and _runs(int(pid))):
        assert time.monotonic() < deadline, "the server or its files are still there"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_that_cannot_start_says_why(server_directory):
    server = RedisServer("/bin/false", server_directory / "none")
    (server_directory / "none").mkdir()
    (server_directory / "none" / "log").write_text("its reason")
    with pytest.raises(RuntimeError, match="its reason"):
        server.start()
