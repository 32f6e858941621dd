"""The private Valkey, with real processes, real signals and real damage."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from livermore.adapters import valkey
from livermore.adapters.valkey import (
    Places,
    binary_folder,
    find_private_valkey,
    join_private_valkey,
    last_words,
    open_private_valkey,
    places_in,
    revive_private_valkey,
    server_arguments,
)
from livermore.errors import ConfigurationError

USER = """
import signal, sys
from pathlib import Path
from livermore.adapters.valkey import open_private_valkey
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with open_private_valkey(Path(sys.argv[1])) as url:
    print(url, flush=True)
    try:
        sys.stdin.readline()
    except KeyboardInterrupt:
        pass
"""

COUNTER = """
import sys
from pathlib import Path
import redis
from livermore.adapters.valkey import open_private_valkey
for _ in range(int(sys.argv[2])):
    with open_private_valkey(Path(sys.argv[1])) as url, redis.Redis.from_url(url) as client:
        client.incr("count")
"""


@pytest.fixture
def state_dir(server_directory: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty state directory with a short path; no server outlives the test."""
    directory = server_directory / f"state-{time.monotonic_ns():x}"
    yield directory
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((directory / "valkey" / "valkey.pid").read_text()), signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


class User:
    """Another process that has the private Valkey open."""

    def __init__(self, state_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def is_running(pid: int) -> bool:
    """A zombie waiting for its reaper runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def put(url: str, key: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def got(url: str, key: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        value: bytes | None = client.get(key)
        return value


def refused(state_dir: Path, words: str | None = None) -> str:
    """The one line with which the private Valkey is refused, in which ``words`` are found."""
    with pytest.raises(ConfigurationError, match=words) as raised, open_private_valkey(state_dir):
        pass
    said = str(raised.value)
    assert "\n" not in said
    return said


def append_only_file(state_dir: Path) -> Path:
    [file] = (state_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    return file


def test_it_listens_on_its_socket_and_on_no_port(state_dir):
    with open_private_valkey(state_dir) as url, redis.Redis.from_url(url) as client:
        assert url == f"unix://{state_dir}/valkey/valkey.sock"
        assert client.info("server")["tcp_port"] == 0
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("save") == {"save": ""}


def test_it_is_given_no_environment_of_ours(state_dir, monkeypatch):
    """It outlives us; what it is given is for its allocator."""
    monkeypatch.setenv("LIVERMORE_WEBHOOK", "secret")
    with open_private_valkey(state_dir) as url:
        given = Path(f"/proc/{server_pid(url)}/environ").read_bytes()
    assert given.startswith(b"GLIBC_TUNABLES=glibc.malloc.tcache_count=")
    assert b"secret" not in given


def test_nobody_else_can_reach_it(state_dir):
    with open_private_valkey(state_dir):
        for path in (state_dir, *state_dir.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_private_directory_is_made_private_again(state_dir):
    (state_dir / "valkey").mkdir(parents=True)
    (state_dir / "valkey").chmod(0o777)
    with open_private_valkey(state_dir):
        assert stat.S_IMODE((state_dir / "valkey").stat().st_mode) == 0o700


def test_the_last_user_stops_it_and_a_restart_keeps_the_data(state_dir):
    with open_private_valkey(state_dir) as url:
        first = server_pid(url)
        put(url, "candle", "closed")
    assert not is_running(first)
    with open_private_valkey(state_dir) as url:
        assert server_pid(url) != first
        assert got(url, "candle") == b"closed"


def test_a_second_user_adopts_it_and_keeps_it_when_the_first_leaves(state_dir):
    with User(state_dir) as first:
        pid = server_pid(first.url)
        with open_private_valkey(state_dir) as url:
            assert url == first.url
            assert server_pid(url) == pid
            first.leave()
            assert server_pid(url) == pid
    assert not is_running(pid)


def test_two_users_in_one_process_count_as_two(state_dir):
    with open_private_valkey(state_dir) as url:
        pid = server_pid(url)
        with open_private_valkey(state_dir):
            pass
        assert server_pid(url) == pid


def test_a_killed_user_does_not_count_any_more(state_dir):
    with User(state_dir) as first, open_private_valkey(state_dir) as url:
        pid = server_pid(url)
        first.kill()
        assert server_pid(url) == pid
    assert not is_running(pid)


def test_what_a_killed_user_left_running_is_adopted(state_dir):
    with User(state_dir) as first:
        pid = server_pid(first.url)
        first.kill()
    assert is_running(pid)
    with open_private_valkey(state_dir) as url:
        assert server_pid(url) == pid
    assert not is_running(pid)


def test_a_ctrl_c_of_its_starter_does_not_reach_it(state_dir):
    with User(state_dir) as first, open_private_valkey(state_dir) as url:
        pid = server_pid(url)
        assert os.getsid(pid) != os.getsid(first.process.pid)
        os.killpg(first.process.pid, signal.SIGINT)
        first.process.wait(30)
        time.sleep(0.2)
        assert server_pid(url) == pid


def test_it_dies_with_the_last_user_also_by_ctrl_c(state_dir):
    with User(state_dir) as only:
        pid = server_pid(only.url)
        os.killpg(only.process.pid, signal.SIGINT)
        only.process.wait(30)
    assert not is_running(pid)


def test_everybody_who_starts_at_once_gets_the_same_one(state_dir):
    with contextlib.ExitStack() as stack:
        starting = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", USER, str(state_dir)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(6)
        ]
        urls = {process.stdout.readline().strip() for process in starting if process.stdout}
        [url] = urls
        pid = server_pid(url)
        with redis.Redis.from_url(url) as client:
            assert client.info("stats")["total_connections_received"] >= 6
        for process in starting:
            process.communicate("\n", timeout=30)
            assert process.returncode == 0
    assert not is_running(pid)


@contextlib.contextmanager
def somebody_starting(state_dir: Path) -> Iterator[None]:
    """As if another process were in the middle of starting or stopping it."""
    with (state_dir / "valkey" / "starting.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_who_starts_looks_or_leaves_waits_for_whoever_is_at_it(state_dir):
    with open_private_valkey(state_dir), User(state_dir) as leaving:
        with somebody_starting(state_dir):
            coming = subprocess.Popen(
                [sys.executable, "-c", COUNTER, str(state_dir), "1"], stderr=subprocess.PIPE
            )
            with pytest.raises(subprocess.TimeoutExpired):
                leaving.process.communicate("\n", timeout=0.6)
            assert coming.poll() is None
        coming.communicate(timeout=30)
        leaving.process.communicate(timeout=30)
        assert (coming.returncode, leaving.process.returncode) == (0, 0)


def test_nobody_waits_for_ever_for_whoever_is_at_it(state_dir, monkeypatch):
    with open_private_valkey(state_dir):
        monkeypatch.setattr(valkey, "GIVE_UP_LOCKING_AFTER", 0.1)
        with somebody_starting(state_dir):
            assert "busy" in refused(state_dir)


def test_nothing_is_lost_when_some_leave_while_others_start(state_dir):
    counting = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(state_dir), "8"], stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in counting:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    assert find_private_valkey(state_dir) is None
    with open_private_valkey(state_dir) as url:
        assert got(url, "count") == b"32"


def test_a_crashed_server_is_revived_at_the_same_url_with_its_data(state_dir):
    with open_private_valkey(state_dir) as url:
        put(url, "candle", "closed")
        assert revive_private_valkey(state_dir) is False
        crashed = server_pid(url)
        os.kill(crashed, signal.SIGKILL)
        assert revive_private_valkey(state_dir) is True
        assert got(url, "candle") == b"closed"
        revived = server_pid(url)
    assert not is_running(revived)


def test_leaving_a_crashed_server_is_no_error(state_dir):
    with open_private_valkey(state_dir) as url:
        os.kill(server_pid(url), signal.SIGKILL)


def test_a_torn_tail_of_the_file_costs_only_the_tail(state_dir):
    with open_private_valkey(state_dir) as url:
        put(url, "first", "whole")
        put(url, "second", "torn")
    file = append_only_file(state_dir)
    os.truncate(file, file.stat().st_size - 5)
    with open_private_valkey(state_dir) as url:
        assert got(url, "first") == b"whole"
        assert got(url, "second") is None


def test_a_damaged_file_is_said_in_one_line_with_the_servers_own_words(state_dir):
    with open_private_valkey(state_dir) as url:
        put(url, "candle", "closed")
    file = append_only_file(state_dir)
    file.write_bytes(b"not what a server writes\r\n" + file.read_bytes())
    said = refused(state_dir, r"does not start: .*[Bb]ad file format")
    assert "move that directory away" in said
    assert find_private_valkey(state_dir) is None


def test_only_the_words_of_this_start_are_quoted(state_dir, monkeypatch):
    (state_dir / "valkey").mkdir(parents=True)
    (state_dir / "valkey" / "valkey.log").write_bytes(b"old words\n")
    monkeypatch.setattr(valkey, "valkey_binary", lambda: Path("/bin/true"))
    assert "does not start: it said nothing" in refused(state_dir)


def test_a_path_too_long_for_a_socket_gets_a_short_one(state_dir):
    deep = state_dir / ("x" * 60) / ("y" * 60)
    with open_private_valkey(deep) as url:
        socket = Path(url.removeprefix("unix://"))
        assert socket.parent == Path(f"/tmp/livermore-{os.geteuid()}")
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        put(url, "candle", "closed")
        assert find_private_valkey(deep) == url
    with open_private_valkey(deep) as url:
        assert got(url, "candle") == b"closed"


def test_the_longest_path_that_needs_no_short_one_works(state_dir):
    tail = len("/valkey/valkey.sock")
    directory = state_dir / ("x" * (valkey.LONGEST_SOCKET_PATH - len(str(state_dir)) - 1 - tail))
    with open_private_valkey(directory) as url:
        assert url == f"unix://{directory}/valkey/valkey.sock"
        assert server_pid(url)


def test_a_path_with_odd_characters_works(state_dir):
    odd = state_dir / "a b?c#d%20'e\"ü"
    with open_private_valkey(odd) as url:
        put(url, "candle", "closed")
    with open_private_valkey(odd) as url:
        assert got(url, "candle") == b"closed"


def test_a_relative_path_and_a_link_lead_to_the_same_one(state_dir, monkeypatch):
    state_dir.mkdir()
    (state_dir / "link").symlink_to(state_dir / "real")
    (state_dir / "real").mkdir()
    monkeypatch.chdir(state_dir)
    with open_private_valkey(Path("real")) as url, open_private_valkey(Path("link")) as other:
        assert url == other


@pytest.mark.parametrize("stranger", ["symlink", "open to others"])
def test_a_short_directory_that_is_not_private_is_refused(state_dir, monkeypatch, stranger):
    state_dir.mkdir()
    short = state_dir / "short"
    if stranger == "symlink":
        (state_dir / "elsewhere").mkdir(mode=0o700)
        short.symlink_to(state_dir / "elsewhere")
    else:
        short.mkdir()
        short.chmod(0o770)
    places = Places(directory=state_dir / "valkey", socket=short / "s.sock")
    monkeypatch.setattr(valkey, "places_in", lambda *_: places)
    refused(state_dir, "not a private directory")


def test_a_file_in_place_of_the_directory_is_refused(state_dir):
    state_dir.write_text("")
    refused(state_dir, r"not a directory; choose a state directory")
    refused(state_dir / "below", "Not a directory")
    state_dir.unlink()


def test_a_directory_that_cannot_be_written_is_refused():
    refused(Path("/proc/livermore"), "cannot use state directory /proc/livermore: ")


def test_a_directory_of_somebody_else_is_refused(state_dir):
    state_dir.mkdir()
    foreign = Path("/usr")
    if os.geteuid() == 0:
        os.chown(state_dir, 12345, 12345)
        foreign = state_dir
    refused(foreign, r"belongs to user \d+, we are user \d+: run as")
    assert not (state_dir / "valkey").exists()


@pytest.fixture
def tiny_disk(state_dir: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    state_dir.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tiny", str(state_dir)],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("NO FULL DISK TO TEST ON: mounting a tmpfs needs root and permission")
    yield state_dir
    subprocess.run(["umount", "--lazy", str(state_dir)], check=True)


def test_a_full_disk_is_refused_in_one_line(tiny_disk):
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "ballast").write_bytes(bytes(1 << 20))
    refused(tiny_disk, "make room")


def test_a_disk_that_fills_up_under_it_refuses_writes_and_lets_it_stop(tiny_disk):
    with open_private_valkey(tiny_disk) as url, redis.Redis.from_url(url) as client:
        pid = server_pid(url)
        client.set("before", "kept")
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            for number in range(400):
                client.set(f"key-{number}", "x" * 4096)
                time.sleep(0.005)
    assert not is_running(pid)
    subprocess.run(["mount", "-o", "remount,size=16m", str(tiny_disk)], check=True)
    with open_private_valkey(tiny_disk) as url:
        assert got(url, "before") == b"kept"


def test_a_read_only_disk_is_refused_in_one_line(tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    refused(tiny_disk, "Read-only file system; choose a state")


def test_a_platform_without_a_binary_is_told_what_to_do(state_dir, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    refused(state_dir, r"riscv64\): start a Redis or Valkey")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\necho it hurts; exit 3\n", "it hurts"),
        ("#!/bin/sh\nexit 0\n", "it said nothing"),
        ("\x7fELF", "cannot run"),
    ],
)
def test_a_binary_that_fails_is_quoted(state_dir, monkeypatch, program, said):
    state_dir.mkdir()
    binary = state_dir / "server"
    binary.write_text(program)
    binary.chmod(0o755)
    monkeypatch.setattr(valkey, "valkey_binary", lambda: binary)
    refused(state_dir, said)


def test_a_failed_start_leaves_no_user_behind(state_dir, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(valkey, "valkey_binary", lambda: Path("/bin/false"))
        refused(state_dir)
    with open_private_valkey(state_dir) as url:
        pid = server_pid(url)
    assert not is_running(pid)


def test_a_server_that_hangs_is_told_apart_from_a_dead_one(state_dir, monkeypatch):
    monkeypatch.setattr(valkey, "READY_WITHIN", 1.0)
    monkeypatch.setattr(valkey, "ANSWER_WITHIN", 0.3)
    with User(state_dir) as user:
        pid = server_pid(user.url)
        os.kill(pid, signal.SIGSTOP)
        try:
            refused(state_dir, rf"process {pid}\) but does not answer")
        finally:
            os.kill(pid, signal.SIGCONT)
        user.leave()
    assert not is_running(pid)


def test_a_server_whose_socket_was_removed_is_replaced_without_loss(state_dir, monkeypatch):
    monkeypatch.setattr(valkey, "SOCKET_MISSED_FOR", 0.2)
    with open_private_valkey(state_dir) as url:
        put(url, "candle", "closed")
        pid = server_pid(url)
        Path(url.removeprefix("unix://")).unlink()
        assert revive_private_valkey(state_dir) is True
        assert not is_running(pid)
        assert got(url, "candle") == b"closed"


def test_the_servers_of_a_directory_made_anew_are_not_ours_to_stop(state_dir):
    moved = state_dir.with_name(state_dir.name + "-moved")
    with contextlib.ExitStack() as old:
        pid = server_pid(old.enter_context(open_private_valkey(state_dir)))
        state_dir.rename(moved)
        try:
            with open_private_valkey(state_dir) as url:
                new = server_pid(url)
                old.close()
                assert server_pid(url) == new
            assert not is_running(new)
        finally:
            os.kill(pid, signal.SIGKILL)
            shutil.rmtree(moved)


def test_looking_for_it_starts_and_makes_nothing(state_dir):
    assert find_private_valkey(state_dir) is None
    with join_private_valkey(state_dir) as url:
        assert url is None
    assert not state_dir.exists()
    with open_private_valkey(state_dir) as url:
        assert find_private_valkey(state_dir) == url
    assert find_private_valkey(state_dir) is None
    with join_private_valkey(state_dir) as url:
        assert url is None


def test_who_looks_in_keeps_it_while_looking(state_dir):
    with User(state_dir) as daemon, join_private_valkey(state_dir) as url:
        assert url == daemon.url
        pid = server_pid(daemon.url)
        daemon.leave()
        assert is_running(pid)
    assert not is_running(pid)


def test_a_log_that_grew_long_is_begun_anew(state_dir):
    (state_dir / "valkey").mkdir(parents=True, mode=0o700)
    log = state_dir / "valkey" / "valkey.log"
    log.write_bytes(b"x" * (valkey.LOG_KEPT + 1))
    with open_private_valkey(state_dir):
        assert log.stat().st_size < valkey.LOG_KEPT
    assert (state_dir / "valkey" / "valkey.log.old").exists()


def test_the_client_that_comes_with_the_binary_is_never_imported(state_dir):
    script = USER.replace("sys.stdin.readline()", "print('valkey' in sys.modules)")
    said = subprocess.run(
        [sys.executable, "-c", script, str(state_dir)], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[1] == "False"


def test_the_place_of_a_socket_follows_from_directory_and_user_alone():
    short, long = Path("/var/lib/livermore"), Path("/" + "x" * 200)
    assert places_in(short, 1) == places_in(short, 2)
    assert places_in(long, 1).socket.parent == Path("/tmp/livermore-1")
    assert places_in(long, 1) == places_in(long, 1)
    assert places_in(long, 1).socket.name != places_in(long / "y", 1).socket.name


def test_no_port_is_ever_asked_for():
    words = server_arguments(places_in(Path("/var/lib/livermore"), 1))
    assert words[words.index("--port") + 1] == "0"


@pytest.mark.parametrize(
    ("system", "machine", "folder"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Linux", "arm64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("FreeBSD", "amd64", "freebsd-x86_64"),
    ],
)
def test_a_platform_has_its_folder_in_the_wheel(system, machine, folder):
    assert binary_folder(system, machine) == folder


def test_a_log_is_quoted_without_dates_and_process_ids():
    log = b"1:M 20 Nov 2026 05:00:00.000 * Ready\n\n1:M 20 Nov 2026 05:00:01.000 # Can't open it\n"
    assert last_words(log) == "Ready / Can't open it"
    assert last_words(b"") == ""
