"""``livermore service unit``: Livermore as a service of systemd."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from livermore.cli import output
from livermore.cli.options import Place, placed
from livermore.errors import UsageError

HOW = """
Livermore as a service of systemd: started at boot, watched, started anew when it fails.

As root, for a service of the machine:

1. `useradd --system --home-dir /var/lib/livermore --shell /usr/sbin/nologin livermore`
2. `livermore service unit > /etc/systemd/system/livermore.service`
3. `systemctl daemon-reload && systemctl enable --now livermore`

Or without root, for a service of yours:

1. `livermore service unit --user > ~/.config/systemd/user/livermore.service`
2. `systemctl --user daemon-reload && systemctl --user enable --now livermore`
3. `loginctl enable-linger` (it then runs while you are not logged in)

Settings are read from `livermore.toml` in `/etc/livermore` (`~/.config/livermore` with `--user`),
secrets such as `LIVERMORE_REDIS_URL=…` from `livermore.env` beside it (mode 0600).
`systemctl reload livermore` follows the symbols that `livermore.toml` names now;
`systemctl status livermore` says in a line how it is.
"""

NAME = "livermore"
WATCHDOG = 60
"""Seconds without a sign of life after which systemd takes it for dead; one comes every second."""
START = 180
"""Seconds: the private Valkey may have a big file to load."""
STOP = 30
"""Seconds: ten for the daemon, the rest for a private Valkey that writes its file."""
AGAIN = 5
"""Seconds until it is started anew. A lease of one that was killed lapses after 30."""
HOPELESS = "2 4"
"""Exit codes a person must mend: usage; configuration, an exchange that refuses us. A lease (5)
lapses, a Redis (1) comes back."""

HEAD = """\
# {title}. Printed by: livermore service unit
#
#   save as       {place}
#   settings      {settings}/livermore.toml
#   secrets       {settings}/livermore.env, mode 0600: LIVERMORE_REDIS_URL=…
#   start         {control} daemon-reload && {control} enable --now livermore
#   new symbols   {control} reload livermore
#   look          {look}
"""
"""Above the unit, for the person who reads it."""

UNIT = """
[Unit]
Description={title}
{after}# It never gives up: blind for a night is worse than a line every few seconds.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec={again}s
# Usage, configuration, an exchange that serves nobody here: only a person can mend them.
RestartPreventExitStatus={hopeless}
TimeoutStartSec={start}s
TimeoutStopSec={stop}s
# Fed by the turns of the writer, idle ones included: an outage of the exchange or of Redis
# restarts nothing, a daemon that hangs is.
WatchdogSec={watchdog}s
# The daemon is told to stop, and it stops the private Valkey itself, once all is written.
KillMode=mixed
LimitNOFILE=65536
LimitCORE=0
UMask=0077
# Where it hung, if the watchdog ends it.
Environment=PYTHONFAULTHANDLER=1
ConfigurationDirectory=livermore
WorkingDirectory=%E/livermore
EnvironmentFile=-%E/livermore/livermore.env
"""

OF_THE_MACHINE = """\
User={user}
{state}CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp={tmp}
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
RemoveIPC=yes
"""

HARDENED = """\
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy={target}
"""


AFTER = """\
Wants=network-online.target
After=network-online.target redis.service redis-server.service valkey.service valkey-server.service
"""

STATE = """\
StateDirectory=livermore
StateDirectoryMode=0700
Environment=LIVERMORE_STATE_DIR=%S/livermore
"""

NAMED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")


def program() -> list[str]:
    """How the Livermore that runs now is started, by absolute paths."""
    entry = Path(sys.executable).with_name("livermore")
    if os.access(entry, os.X_OK):
        return [str(entry)]
    return [sys.executable, "-m", "livermore.cli"]


@attrs.frozen
class Service:
    """What is printed: which exchanges, by which program, for whom."""

    exchanges: Sequence[str]
    program: Sequence[str]
    paths: Mapping[str, str]
    """Given ``config`` and ``state_dir``."""
    user: bool
    run_as: str
    standby: bool

    def text(self) -> str:
        """The unit."""
        of_the_machine = not self.user
        ours = shlex.join(self.program)
        look = f"{ours} status"
        if of_the_machine:
            state = self.paths.get("state_dir", "/var/lib/livermore")
            look = f"sudo -u {self.run_as} {ours} --state-dir {shlex.quote(state)} status"
        values = {
            "title": f"Livermore: candles of {', '.join(self.exchanges)}",
            "place": "~/.config/systemd/user/livermore.service"
            if self.user
            else "/etc/systemd/system/livermore.service",
            "settings": "~/.config/livermore" if self.user else "/etc/livermore",
            "control": "systemctl --user" if self.user else "systemctl",
            "look": look,
            "after": AFTER if of_the_machine else "",
            "command": self.command(),
            "again": AGAIN,
            "hopeless": HOPELESS,
            "start": START,
            "stop": STOP,
            "watchdog": WATCHDOG,
            "user": self.run_as,
            "state": f"ReadWritePaths={quoted(self.paths['state_dir'])}\n"
            if "state_dir" in self.paths
            else STATE,
            "home": "read-only" if self.needs(HOMES) else "yes",
            "tmp": "no" if self.needs(TEMPORARY) else "yes",
            "target": "default.target" if self.user else "multi-user.target",
        }
        parts = (HEAD, UNIT, OF_THE_MACHINE if of_the_machine else "", HARDENED)
        return "".join(parts).format_map(values)

    def command(self) -> str:
        """What is run."""
        words = [*self.program, "run", *self.exchanges]
        for name, path in self.paths.items():
            words += [f"--{name.replace('_', '-')}", path]
        if self.standby:
            words.append("--standby")
        return " ".join(quoted(word) for word in words)

    def needs(self, places: Sequence[str]) -> bool:
        """Whether anything it reads or runs lies in one of ``places``."""
        used = [Path(path) for path in (*self.program[:1], sys.prefix, *self.paths.values())]
        used += [path.resolve() for path in (*used, Path(sys.executable), Path(__file__))]
        return any(path.is_relative_to(place) for path in used for place in places)


def quoted(word: str) -> str:
    """``word`` as systemd reads it again; see ``systemd.service(5)``, command lines."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(word) & set(" \t\"'\\;") else escaped


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help=HOW, rich_markup_mode="markdown")
    group.callback(invoke_without_command=True)(service)
    group.command("unit", epilog="Example: `livermore service unit -e coinbase --user`.")(
        placed(unit)
    )
    app.add_typer(group, name="service")


def service(context: typer.Context) -> None:
    """Show what there is, where no command is named."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def unit(
    place: Place,
    exchange: Annotated[
        list[str] | None,
        typer.Option("--exchange", "-e", metavar="NAME", help="Such as coinbase (repeatable)."),
    ] = None,
    user: Annotated[
        bool, typer.Option("--user", help="For a service of yours instead of the machine's.")
    ] = False,
    run_as: Annotated[
        str | None,
        typer.Option("--as", metavar="USER", help="Whose rights it has.  [default: livermore]"),
    ] = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait for an exchange that another daemon holds.")
    ] = False,
) -> int:
    """Print a unit for systemd; `livermore service --help` says how to install it."""
    if user and run_as is not None:
        raise UsageError("--user is a service of yours: it has your rights, leave --as away")
    if place.flags.get("redis_url") is not None:
        where = "~/.config/livermore" if user else "/etc/livermore"
        raise UsageError(
            "everybody can read a unit, and a Redis URL may hold a password: "
            f"write LIVERMORE_REDIS_URL=… into {where}/livermore.env instead"
        )
    from livermore.adapters.valkey import LONGEST_SOCKET_PATH
    from livermore.cli.options import known_exchange

    if run_as is not None and not NAMED.fullmatch(run_as):
        raise UsageError(f"--as {run_as!r} is no name of a user")
    names = [known_exchange(name) for name in dict.fromkeys(exchange or ["coinbase"])]
    given = {name: place.flags.get(name) for name in ("config", "state_dir")}
    paths = {name: str(Path(path).absolute()) for name, path in given.items() if path is not None}
    for name, path in paths.items():
        if not path.isprintable():
            raise UsageError(
                f"--{name.replace('_', '-')}: a unit cannot name a path with a line break"
            )
    state = paths.get("state_dir")
    longest = LONGEST_SOCKET_PATH - len("/valkey/valkey.sock")
    if state is not None and len(os.fsencode(state)) > longest:
        raise UsageError(f"--state-dir {state}: its path is too long for a socket of a service")
    service = Service(names, program(), paths, user, run_as or NAME, standby)
    output.line(service.text().rstrip("\n"))
    if not user and service.needs(HOMES):
        output.say(
            f"Livermore lies in a home directory: {service.run_as} must be able to read it; "
            "install it under /opt, or say --as with the owner of that directory"
        )
    return 0
