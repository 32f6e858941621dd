"""What clients say on a websocket, and what is answered."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from livermore.simulator.binance import words
from livermore.simulator.binance.table import Table
from livermore.simulator.exchange import Stage
from livermore.simulator.socket import Socket

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_LONGEST_ID = 36
_MOST = 2**63
_UNKNOWN, _BOOLEAN, _REQUEST, _JSON = range(4)
"""The codes of errors."""


class Refused(Exception):
    """A message that cannot be acted on."""

    def __init__(self, message: str, code: int = _REQUEST) -> None:
        super().__init__(message)
        self.code = code


class Subscribers(Protocol):
    """Who keeps the lists."""

    def symbols(self, streams: list[str]) -> set[str]: ...

    def subscribe(self, socket: Socket, streams: list[str]) -> None: ...

    def unsubscribe(self, socket: Socket, streams: list[str]) -> None: ...

    def wrap(self, socket: Socket, yes: bool) -> None: ...

    def wraps(self, socket: Socket) -> bool: ...


class Desk:
    """Takes client messages for all sockets."""

    def __init__(self, table: Table, stage: Stage, voice: Subscribers) -> None:
        self._table = table
        self._voice = voice
        self._faults = stage.faults
        self._stats = stage.stats
        self._streams = stage.limits.streams

    def hear(self, socket: Socket, text: str | bytes) -> None:
        """Act on one message and answer it, under the id that it came with."""
        self._stats.client_messages += 1
        try:
            said = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            socket.say(words.refusal(_JSON, "Invalid JSON: expected value at line 1 column 1"))
            return
        if not isinstance(said, dict):
            socket.say(words.refusal(_REQUEST, "Invalid request: expected an object"))
            return
        number = said.get("id")
        try:
            self._check_id(number)
        except Refused as refused:
            socket.say(words.refusal(refused.code, str(refused)))
            return
        try:
            answer = self._act(socket, said)
        except Refused as refused:
            socket.say(words.refusal(refused.code, str(refused), number, numbered="id" in said))
            return
        if answer is not None:
            socket.say(words.result(answer[0], number))

    def _check_id(self, number: object) -> None:
        whole = isinstance(number, int) and not isinstance(number, bool)
        if self._table.ids == "unsigned":
            if not whole or not 0 <= number < 2 * _MOST:  # type: ignore[operator]
                raise Refused("Invalid request: request ID must be an unsigned integer")
        elif isinstance(number, str):
            plain = number.replace("-", "").replace("_", "")
            if len(number) > _LONGEST_ID or not (plain.isascii() and plain.isalnum()):
                raise Refused("Invalid request: request ID must be alphanumeric, up to 36")
        elif number is not None and not (whole and -_MOST <= number < _MOST):  # type: ignore[operator]
            raise Refused("Invalid request: request ID must be an integer, a string or null")

    def _act(self, socket: Socket, said: dict[str, Any]) -> tuple[object] | None:
        """What is answered; None: nothing."""
        if "method" not in said:
            raise Refused("Invalid request: missing field `method` at line 1 column 2")
        method, params = said["method"], said.get("params", [])
        if not isinstance(params, list):
            raise Refused("Invalid request: params must be a list")
        match method:
            case "SUBSCRIBE":
                return self._subscribe(socket, _names(params))
            case "UNSUBSCRIBE":
                self._voice.unsubscribe(socket, _names(params))
                return (None,)
            case "LIST_SUBSCRIPTIONS":
                return ([one for state in socket.subscriptions.values() for one in state],)
            case "SET_PROPERTY":
                return self._set(socket, params)
            case "GET_PROPERTY":
                _check_property(params)
                return (self._voice.wraps(socket),)
        wanted = ", ".join(f"`{one}`" for one in METHODS)
        raise Refused(
            f"Invalid request: unknown variant `{str(method)[:40]}`, expected one of {wanted} "
            "at line 1 column 28"
        )

    def _subscribe(self, socket: Socket, streams: list[str]) -> tuple[object] | None:
        if not streams:
            raise Refused("Invalid request: params must not be empty")
        known = {one for state in socket.subscriptions.values() for one in state}
        if len(known | set(streams)) > self._streams:
            self._stats.over_rate += 1
            raise Refused("Invalid request: too many parameters")
        if self._faults and self._refused(streams):
            socket.subscribed.set()
            raise Refused("Invalid request: invalid stream")
        if any(self._faults.strikes(one.fault.options["share"]) for one in self._some()):
            socket.subscribed.set()
            return None
        self._voice.subscribe(socket, streams)
        return (None,)

    def _refused(self, streams: list[str]) -> bool:
        """Whether a fault refuses one of them, and with it the message."""
        symbols = self._voice.symbols(streams)
        return any(symbols & set(one.fault.symbols) for one in self._faults.active("reject"))

    def _some(self) -> list[Any]:
        return list(self._faults.active("ack-some"))

    def _set(self, socket: Socket, params: list[Any]) -> tuple[object]:
        _check_property(params)
        if len(params) < 2 or not isinstance(params[1], bool):
            raise Refused("Invalid value type: expected Boolean", _BOOLEAN)
        self._voice.wrap(socket, params[1])
        return (None,)


def _names(params: list[Any]) -> list[str]:
    if not all(isinstance(one, str) for one in params):
        raise Refused("Invalid request: stream names must be strings")
    return list(dict.fromkeys(params))


def _check_property(params: list[Any]) -> None:
    if not params or not isinstance(params[0], str):
        raise Refused("Invalid request: property name must be a string")
    if params[0] != "combined":
        raise Refused("Unknown property", _UNKNOWN)
