"""Real servers for tests, on unix sockets or free loopback ports, stopped whatever happens.

A guardian process waits at the other end of a pipe: if the test run is killed, it kills what the
run left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from livermore.adapters.valkey import valkey_binary

GUARDIAN = """
import os, pathlib, shutil, signal, sys, time
sys.stdin.read()
room = pathlib.Path(sys.argv[1])
for file in room.glob("*/data/postmaster.pid"):  # SIGKILL would leave its shared memory behind
    try:
        pid = int(file.read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.05)
    except (OSError, ValueError, IndexError):
        pass
for file in [*room.glob("*/running"), *room.glob("*/valkey/valkey.pid")]:
    try:
        os.kill(int(file.read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        pass
shutil.rmtree(room, ignore_errors=True)
"""


@contextlib.contextmanager
def server_room() -> Iterator[Path]:
    """A directory with a short path; servers in it end with the block or with the process."""
    # Not in $TMPDIR: the path of a unix socket has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="lm-", dir="/tmp"))
    directory.chmod(0o711)  # PostgreSQL runs as another user where we are root
    with subprocess.Popen(
        [sys.executable, "-c", GUARDIAN, str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    ):  # leaving closes the pipe and waits
        yield directory


def find_redis_server(directory: Path) -> str | None:
    """Redis of this machine, or None.

    One binary is server and checker, by the name it is called. Where only the checker is installed
    (Debian's ``redis-tools``, which starts no service), it is called by the other name, a link in
    ``directory``.
    """
    server = shutil.which("redis-server")
    checker = shutil.which("redis-check-rdb")
    if server is None and checker is not None:
        link = directory / "redis-server"
        link.symlink_to(checker)
        server = str(link)
    return server


def free_port() -> int:
    """A loopback port nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    """One server process in ``directory``: on a unix socket, or on loopback if given a ``port``.

    It appends every write to a file and flushes it, so that restart and kill keep the data;
    ``persistent=False`` turns that off.
    """

    def __init__(
        self,
        binary: str | Path,
        directory: Path,
        *,
        port: int = 0,
        persistent: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.port = port
        self.socket = directory / "sock"
        append = "yes" if persistent else "no"
        self._command = [
            str(binary),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--unixsocket", str(self.socket), "--save", "", "--appendonly", append),
            *("--appendfsync", "always", "--logfile", str(directory / "log"), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self) -> redis.Redis:
        """A client without retries; close it (``with server.client() as client``)."""
        return redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=3, retry=Retry(NoBackoff(), 0)
        )

    def start(self, *options: str) -> None:
        """Start it and wait until it answers; RuntimeError with its log if it dies instead.

        ``options`` are for this time only.
        """
        assert self._process is None, "the server is running"
        self.directory.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [*self._command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (self.directory / "running").write_text(str(self._process.pid))
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"no server: {(self.directory / 'log').read_text()[-500:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """An orderly end, everything on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """A crash."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """It keeps its connections and says nothing (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def clean(self) -> None:
        """No keys and no scripts."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)
            os.kill(self._process.pid, how)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        (self.directory / "running").unlink(missing_ok=True)


@contextlib.contextmanager
def running_server(
    binary: str | Path, directory: Path, *, port: int = 0, persistent: bool = True
) -> Iterator[RedisServer]:
    server = RedisServer(binary, directory, port=port, persistent=persistent)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Cluster:
    """Three masters on loopback that share the 16384 slots; ``replicas`` of them have a replica.

    The masters are ``nodes[:3]``; ``nodes[3]`` follows ``nodes[0]`` and so on.
    """

    def __init__(self, directory: Path, replicas: int = 0) -> None:
        self.nodes: list[RedisServer] = []
        self._replicas = replicas
        self._directory = directory
        self._buses: dict[int, int] = {}

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> None:
        """Start them, join them, and wait until each says the cluster is whole."""
        for number in range(3 + self._replicas):
            self.nodes.append(self._start_node(number))
        bounds = (0, 5461, 10923, 16384)
        for number, node in enumerate(self.nodes[:3]):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                client.execute_command(
                    "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
                )
        with self.nodes[0].client() as client:
            for node in self.nodes[1:]:
                bus = self._buses[node.port]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + 30
        while not all(self._is_whole(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no cluster: see the logs in {self._directory}")
            time.sleep(0.05)
        for master, replica in zip(self.nodes, self.nodes[3:], strict=False):
            with master.client() as one, replica.client() as other:
                other.execute_command("CLUSTER REPLICATE", one.execute_command("CLUSTER MYID"))
                while other.info("replication").get("master_link_status") != "up":
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"no replica: see the logs in {self._directory}")
                    time.sleep(0.05)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()  # in order it would wait for replicas that it does not have
        self.nodes.clear()

    def clean(self) -> None:
        for node in self.nodes:
            node.clean()
        self._settle()

    def _settle(self) -> None:
        """Until what was published before has come everywhere: nodes pass messages on in order."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in self.nodes]
            ears = [stack.enter_context(client.pubsub()) for client in clients]
            channel = f"settled:{uuid.uuid4()}"
            for ear in ears:
                ear.subscribe(channel)
                ear.get_message(timeout=5)
            for client in clients:
                client.publish(channel, "")
            for ear in ears:
                for _ in clients:
                    if ear.get_message(timeout=5) is None:
                        raise RuntimeError("a node of the cluster passes no messages on")

    def _start_node(self, number: int) -> RedisServer:
        for attempt in range(10):  # another process may take a free port before we do
            directory = self._directory / f"node-{number}-{attempt}"
            port, bus = free_port(), free_port()
            options = (
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
                *("--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(bus)),
                *("--repl-diskless-sync-delay", "0"),
            )
            node = RedisServer(
                valkey_binary(), directory, port=port, persistent=False, options=options
            )
            try:
                node.start()
            except RuntimeError:
                continue
            self._buses[port] = bus
            return node
        raise RuntimeError("found no free port for a node of the cluster")

    def _is_whole(self, node: RedisServer) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        known = str(len(self.nodes))
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", known)
