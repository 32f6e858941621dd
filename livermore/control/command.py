"""Commands over Redis: what they look like, whether they are to be trusted, which goes first.

A command is JSON on ``livermore:commands:{exchange}``; the answers to it, ``ack``, ``progress``,
then ``success`` or ``error``, come on ``livermore:responses:{correlation}``. Its times are those of
Redis, so that no two clocks have to agree. Where a secret is configured, a command is signed with
it: HMAC-SHA256 over its fields. ``parse`` is pure; ``send`` is the one function that transports.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from livermore.adapters.redis import Call, Client, script
from livermore.errors import CommandRefused, LivermoreError, NotRunning, UsageError

EXPIRES = 30_000
"""Milliseconds after which a command must not be run any more."""
SKEW = 2_000
"""Milliseconds; from a Redis that failed over, whose clock is another."""
REMEMBERED = 4 * EXPIRES
"""Milliseconds for which a command that was run is known."""
ANSWERS_WITHIN = 2.0
"""Seconds in which whoever runs a command says that it was heard."""
LONGEST = 65_536
"""Bytes of a command."""

PRIORITIES: Mapping[str, int] = {
    "pause": 0,
    "resume": 1,
    "start": 2,
    "stop": 3,
    "reload-settings": 4,
    "switch-mode": 5,
    "add-symbol": 6,
    "remove-symbol": 6,
    "refresh-symbols": 6,
    "force-backfill": 7,
    "clear-cache": 8,
    "status": 9,
}
"""Command -> its place where several wait; the lowest goes first."""

_PAYLOAD: Mapping[str, Mapping[str, type]] = {
    "switch-mode": {"mode": str},
    "add-symbol": {"symbols": list},
    "remove-symbol": {"symbols": list},
    "force-backfill": {"symbols": list, "timeframe": str, "since": int},
    "clear-cache": {"symbols": list},
}
"""Command -> what its payload may hold; of the others it is empty."""
_NEEDED = {"switch-mode": "mode", "add-symbol": "symbols", "remove-symbol": "symbols"}
MOST_SYMBOLS = 1000
_ID = re.compile(r"[0-9a-zA-Z_-]{8,64}")


def commands_channel(exchange: str) -> str:
    """Where commands for ``exchange`` are published."""
    return f"livermore:commands:{exchange}"


def responses_channel(correlation: str) -> str:
    """Where the answers to one command are published."""
    return f"livermore:responses:{correlation}"


def claim_key(correlation: str) -> str:
    """Which instance runs a command; that it was run is remembered there as well."""
    return f"livermore:command:{correlation}"


@attrs.frozen(kw_only=True)
class Command:
    """What somebody wants of the feed of one exchange. Times in epoch ms of Redis."""

    correlation: str
    exchange: str
    type: str
    payload: Mapping[str, Any] = attrs.Factory(dict)
    issued_at: int
    expires_at: int
    user: str = ""

    @property
    def priority(self) -> int:
        """The lowest goes first."""
        return PRIORITIES[self.type]

    @property
    def symbols(self) -> tuple[str, ...]:
        """Those of the payload."""
        return tuple(self.payload.get("symbols", ()))


@attrs.frozen
class Answer:
    """What came of a command: the data of its ``success``."""

    instance: str
    text: str
    data: Mapping[str, Any]


def encode(command: Command, secret: str | None) -> str:
    """The command as it is published, signed where there is a ``secret``."""
    fields = attrs.asdict(command)
    if secret is not None:
        fields["signature"] = _signature(command, secret)
    return json.dumps(fields, separators=(",", ":"))


def parse(text: bytes, exchange: str, now: int, secret: str | None) -> Command:
    """A command that came on the channel of ``exchange``; ``now`` is the time of Redis in ms.

    Raises :class:`CommandRefused` for one that is damaged, unknown, expired, unsigned, wrongly
    signed or meant for another exchange. The message never holds the signature that is right.
    """
    if len(text) > LONGEST:
        raise CommandRefused(f"a command of {len(text)} bytes: {LONGEST} are the most")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise CommandRefused("not JSON") from None
    if not isinstance(fields, dict):
        raise CommandRefused("not a JSON object")
    command = _read(fields)
    if secret is not None:
        given = fields.get("signature")
        if not isinstance(given, str) or not given:
            raise CommandRefused("not signed: set LIVERMORE_CONTROL_SECRET where it is sent")
        if not hmac.compare_digest(given.encode(), _signature(command, secret).encode()):
            raise CommandRefused("wrongly signed: the secrets of the two sides differ")
    if command.exchange != exchange:
        raise CommandRefused(f"meant for {command.exchange[:40]!r}, not for {exchange}")
    if command.expires_at - command.issued_at > EXPIRES or command.issued_at > now + SKEW:
        raise CommandRefused(f"valid for longer than {EXPIRES // 1000} s")
    if command.expires_at <= now:
        raise CommandRefused(f"expired {(now - command.expires_at) / 1000:.1f} s ago")
    return command


def correlation_of(text: bytes) -> str:
    """The id of what could not be parsed, where it has one that can be answered; else empty."""
    try:
        fields = json.loads(text[:LONGEST])
    except (ValueError, RecursionError):
        return ""
    found = fields.get("correlation") if isinstance(fields, dict) else None
    return found if isinstance(found, str) and _ID.fullmatch(found) else ""


def _read(fields: Mapping[str, Any]) -> Command:
    wrong = fields.keys() - {field.name for field in attrs.fields(Command)} - {"signature"}
    if wrong:
        raise CommandRefused(f"unknown field {sorted(wrong)[0][:40]!r}")
    for name, kind in (("correlation", str), ("exchange", str), ("type", str), ("user", str),
                       ("issued_at", int), ("expires_at", int), ("payload", dict)):  # fmt: skip
        if not isinstance(fields.get(name), kind) or isinstance(fields[name], bool):
            raise CommandRefused(f"{name} is missing or no {kind.__name__}")
    if not _ID.fullmatch(fields["correlation"]):
        raise CommandRefused("correlation: 8 to 64 letters, digits, - and _")
    kind, payload = fields["type"], fields["payload"]
    if kind not in PRIORITIES:
        raise CommandRefused(f"unknown command {kind[:40]!r} ({', '.join(PRIORITIES)})")
    known = _PAYLOAD.get(kind, {})
    for name, value in payload.items():
        if name not in known:
            raise CommandRefused(f"{kind}: unknown field {name[:40]!r} of the payload")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise CommandRefused(f"{kind}: {name} is no {known[name].__name__}")
    symbols = payload.get("symbols", [])
    if len(symbols) > MOST_SYMBOLS or not all(isinstance(one, str) for one in symbols):
        raise CommandRefused(f"{kind}: symbols is a list of up to {MOST_SYMBOLS} names")
    if kind in _NEEDED and not payload.get(_NEEDED[kind]):
        raise CommandRefused(f"{kind} needs {_NEEDED[kind]}")
    return Command(**{field.name: fields[field.name] for field in attrs.fields(Command)})


def _signature(command: Command, secret: str) -> str:
    """Every field, so that none can be exchanged; hexadecimal."""
    text = json.dumps(attrs.asdict(command), sort_keys=True, separators=(",", ":"))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def response(correlation: str, status: str, instance: str, text: str, **data: object) -> str:
    """An answer as it is published; ``status`` is ack, progress, success or error."""
    return json.dumps(
        {"correlation": correlation, "status": status, "instance": instance, "text": text,
         "data": data},
        separators=(",", ":"), default=str,
    )  # fmt: skip


def send(
    client: Client,
    exchange: str,
    type: str,
    payload: Mapping[str, Any] | None = None,
    *,
    user: str = "",
    secret: str | None = None,
    timeout: float = 30.0,
    heard: Callable[[str, Mapping[str, Any]], object] = lambda text, data: None,
) -> Answer:
    """Have a command run, and wait up to ``timeout`` seconds for what came of it.

    ``heard`` is told of progress. The answers are listened to before the command is published.
    Raises :class:`NotRunning` when nobody says within two seconds that it was heard,
    :class:`UsageError` where it is no command, :class:`CommandRefused` where it failed, and
    :class:`LivermoreError` when it is not done in time (it goes on).
    """
    correlation = uuid.uuid4().hex
    now = redis_time(client, correlation)
    command = Command(
        correlation=correlation, exchange=exchange, type=type, payload=dict(payload or {}),
        issued_at=now, expires_at=now + EXPIRES, user=user,
    )  # fmt: skip
    text = encode(command, secret)
    try:
        parse(text.encode(), exchange, now, secret)
    except CommandRefused as error:
        raise UsageError(str(error)) from None
    begun = time.monotonic()
    said, last = "", "it was heard"
    call = ("PUBLISH", commands_channel(exchange), text)
    wait: list[float] = [ANSWERS_WITHIN]

    def left() -> float:
        return wait[0] - (time.monotonic() - begun)

    for reply in client.answers(responses_channel(correlation), call, left):
        answer = json.loads(reply)
        said, wait[0] = answer["status"], timeout
        if said == "success":
            return Answer(answer["instance"], answer["text"], answer["data"])
        if said == "error":
            raise CommandRefused(answer["text"])
        if said == "progress":
            last = answer["text"]
            heard(last, answer["data"])
    if not said:
        raise NotRunning(
            f"nobody listens for commands of {exchange} on this Redis: "
            f"start a daemon (livermore run {exchange}), or see: livermore network"
        )
    raise LivermoreError(f"not done within {timeout:g} s ({last}): it goes on; a longer --timeout")


def redis_time(client: Client, correlation: str) -> int:
    """The clock of Redis, in ms."""
    return int(client.run([claim(correlation, "")])[0][0])


def claim(correlation: str, instance: str) -> Call:
    """Ask for the time of Redis, and, with an ``instance``, to run the command: the first may."""
    return script("command", (claim_key(correlation),), instance, REMEMBERED)
