"""Fixtures every kind of test may use.

Servers are started once per run (per worker) and cleaned before each test that asks for one. A test
that stops, kills or pauses its server asks for ``own_valkey`` instead, which is nobody else's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from livermore.adapters.valkey import valkey_binary
from tests.postgres import PostgresServer, find_binaries, running_postgres
from tests.proxy import Proxy, proxied
from tests.servers import Cluster, RedisServer, find_redis_server, running_server, server_room

CHECKOUT = Path(__file__).resolve().parent.parent


# Timing never decides a test: a machine may be slow, or busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """Where servers live: a short path, and nothing in it survives the run."""
    with server_room() as directory:
        yield directory


@pytest.fixture(scope="session")
def valkey_server(server_directory: Path) -> Iterator[RedisServer]:
    with running_server(valkey_binary(), server_directory / "valkey", persistent=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[RedisServer]:
    binary = find_redis_server(server_directory)
    if binary is None:
        pytest.skip("NO redis-server ON THIS MACHINE: not tested on Redis, only on Valkey")
    with running_server(binary, server_directory / "redis", persistent=False) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(server_directory: Path) -> Iterator[Cluster]:
    """Three masters, from the same binary as the private Valkey."""
    cluster = Cluster(server_directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> str:
    """URL of an empty Valkey."""
    valkey_server.clean()
    return valkey_server.url


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty Redis."""
    redis_server.clean()
    return redis_server.url


@pytest.fixture(params=["valkey", "redis"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty server of either make: a test that asks for this runs on both."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def cluster_url(cluster: Cluster) -> str:
    """``redis+cluster://`` URL of an empty cluster of three masters."""
    cluster.clean()
    return cluster.url


@pytest.fixture
def own_valkey(server_directory: Path) -> Iterator[RedisServer]:
    """A Valkey of this test's own, to stop, restart, kill, pause and resume. It keeps its data."""
    directory = Path(tempfile.mkdtemp(prefix="own-", dir=server_directory))
    with running_server(valkey_binary(), directory) as server:
        yield server


@pytest.fixture
def proxy(own_valkey: RedisServer) -> Iterator[Proxy]:
    """A network to break, between the test and ``own_valkey``."""
    with proxied(str(own_valkey.socket)) as proxy:
        yield proxy


@pytest.fixture
def replicated_cluster(server_directory: Path) -> Iterator[Cluster]:
    """Three masters of this test's own, the first with a replica."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="own-", dir=server_directory)), replicas=1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def postgres_binaries(server_directory: Path) -> Path:
    binaries = find_binaries(server_directory)
    if binaries is None:
        pytest.skip("NO PostgreSQL ON THIS MACHINE: nothing was tested on a database")
    return binaries


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path, postgres_binaries: Path) -> Iterator[PostgresServer]:
    with running_postgres(postgres_binaries, server_directory / "postgres") as server:
        yield server


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database."""
    name = postgres_server.fresh()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def prepared_database(postgres_server: PostgresServer) -> str:
    """Name of a database with our tables, a template that nobody writes."""
    name = postgres_server.fresh()
    postgres_server.execute((CHECKOUT / "schema.sql").read_text(), name)
    return name


@pytest.fixture
def prepared_url(postgres_server: PostgresServer, prepared_database: str) -> Iterator[str]:
    """URL of a database with our tables, all of them empty."""
    name = postgres_server.fresh(prepared_database)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def own_postgres(server_directory: Path, postgres_binaries: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, to stop, start, kill and pause."""
    directory = server_directory / f"own-{time.monotonic_ns()}"
    with running_postgres(postgres_binaries, directory) as server:
        yield server


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The directory of recorded frames and candles, beside the checkout."""
    directory = CHECKOUT.parent / "shared"
    if not directory.is_dir():
        pytest.skip(f"NO RECORDINGS: {directory} is not there, nothing real was read")
    return directory
