"""The checkout's own environments: made once, from hash-locked packages.

``.venv`` is what Livermore runs and is tested in. ``.nox/clients`` holds the client libraries of
others, which tests drive and Livermore never imports: their dependencies are not ours.

Nothing but the standard library is needed. A stamp says what was installed, so a second start costs
a few milliseconds; a file lock lets two starts at once make it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
CLIENTS = CHECKOUT / ".nox" / "clients"
LOCKS = {
    "runtime": "requirements.lock",
    "dev": "requirements-dev.lock",
    "clients": "requirements-clients.lock",
}
OFFLINE = (
    "name resolution",
    "Network is unreachable",
    "NewConnectionError",
    "ConnectTimeoutError",
    "Connection refused",
    "ProxyError",
    "No matching distribution found",
)


def say(text: str) -> None:
    print(f"livermore: {text}", file=sys.stderr, flush=True)


def give_up(text: str) -> NoReturn:
    say(text)
    sys.exit(4)


def prepare(kind: str) -> Path:
    """Make or refresh the environment for ``kind`` (a key of ``LOCKS``); its Python."""
    if not _is_ready(kind):
        with alone():
            if not _is_ready(kind):  # the other start may have made it while we waited
                _make(kind)
    return _python(_room(kind))


def install_debian(package: str, why: str) -> bool:
    """Install one of Debian's packages if we may (inside :func:`alone`); False if it failed."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    say(f"installing {package}: {why}")
    install = [
        *(apt, "-o", "DPkg::Lock::Timeout=120"),
        *("install", "--yes", "--no-install-recommends", package),
    ]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, [apt, "update"], install):
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if command is install and done.returncode == 0:
            return True
    last = [line for line in done.stderr.splitlines() if line.startswith("E:")][-1:] or ["E: ?"]
    say(f"could not install {package}: {last[0]}")
    return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One start at a time installs. Not to be nested."""
    try:
        file = (CHECKOUT / ".venv.lock").open("a")
    except OSError as error:
        give_up(f"cannot write to {CHECKOUT} ({error.strerror}); use a checkout of your own")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another start that is installing")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _room(kind: str) -> Path:
    return CLIENTS if kind == "clients" else VENV


def _python(room: Path) -> Path:
    return room / "bin" / "python"


def _stamp(room: Path) -> Path:
    return room / "livermore.json"


def _log(room: Path) -> Path:
    return room / "install.log"


def _wanted(kind: str) -> dict[str, str]:
    """What the stamp says of an environment that needs nothing done."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    ours = [] if kind == "clients" else [project["build-system"], project["project"]]
    installed = json.dumps(ours).encode()
    locked = (CHECKOUT / LOCKS[kind]).read_bytes()
    return {
        "python": sys.version,
        "checkout": str(CHECKOUT),
        kind: hashlib.sha256(installed + locked).hexdigest(),
    }


def _stamped(room: Path) -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(_stamp(room).read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def _is_ready(kind: str) -> bool:
    room = _room(kind)
    wanted = _wanted(kind).items() <= _stamped(room).items()
    return wanted and os.access(_python(room), os.X_OK)


def _make(kind: str) -> None:
    room = _room(kind)
    stamp = _stamped(room)
    same = all(
        stamp.get(name, value) == value for name, value in _wanted(kind).items() if name != kind
    )
    if not same or not _works(_python(room)):
        _create(room)
    _stamp(room).unlink(missing_ok=True)
    say(f"installing packages into {room}, once")
    _log(room).unlink(missing_ok=True)
    _pip(room, "--require-hashes", "--requirement", str(CHECKOUT / LOCKS[kind]))
    if kind != "clients":
        _pip(room, "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT))
    # The development packages are the same versions as at run time and more.
    kinds = ("runtime", "dev") if kind == "dev" else (kind,)
    made = {name: value for each in kinds for name, value in _wanted(each).items()}
    _stamp(room).write_text(json.dumps(made, indent=1))


def _works(python: Path) -> bool:
    """Whether it runs, has pip and is of our version."""
    try:
        probe = "import pip, sys; print(sys.version)"
        found = subprocess.run(
            [python, "-I", "-c", probe], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return found.returncode == 0 and found.stdout.strip() == sys.version.strip()


def _create(room: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python{version}-venv"
        of_debian = sys.base_prefix == "/usr"
        if not of_debian or not install_debian(package, f"{sys.executable} lacks venv"):
            give_up(
                f"{sys.executable} cannot make environments; "
                f"run: apt-get install {package} (or your system's like of it), then start again"
            )
    say(f"creating {room}")
    made = subprocess.run(
        [sys.executable, "-I", "-m", "venv", "--clear", str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        said = (made.stderr.strip() or made.stdout.strip() or "no reason given").splitlines()[-1]
        give_up(f"cannot create {room}: {said}")


def _pip(room: Path, *arguments: str) -> None:
    log_file = _log(room)
    command = [
        *(
            str(_python(room)),
            "-I",
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
        ),
        *("--quiet", "--retries", "2", "--prefer-binary", *arguments),
    ]
    with log_file.open("a") as log:
        done = subprocess.run(
            command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode == 0:
        return
    said = log_file.read_text(errors="replace")
    if any(sign in said for sign in OFFLINE):
        give_up(
            f"cannot download packages: is there a network? Details in {log_file}; then start again"
        )
    errors = [line for line in said.splitlines() if line.lower().startswith("error")]
    what = (errors or ["pip failed"])[0]
    give_up(f"cannot install packages: {what}; details in {log_file}")


if __name__ == "__main__":
    prepare(sys.argv[1])
