"""What clients say on a websocket, and what the exchange makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from livermore.simulator.coinbase import words
from livermore.simulator.exchange import Stage
from livermore.simulator.pace import Pace
from livermore.simulator.socket import Socket

WITHOUT_PRODUCTS = frozenset({"heartbeats", "status"})


class Wish(msgspec.Struct):
    """A subscribe or unsubscribe message; whatever else it holds (jwt, …) is ignored."""

    type: str
    channel: str
    product_ids: list[str] | None = None


_decoder = msgspec.json.Decoder(Wish)


class Subscribers(Protocol):
    """Who keeps the lists."""

    def subscribe(self, socket: Socket, channel: str, asked: dict[str, str]) -> None: ...

    def unsubscribe(self, socket: Socket, channel: str, asked: Iterable[str] | None) -> None: ...


class Desk:
    """Takes client messages for all sockets; their rate counts per address."""

    def __init__(self, stage: Stage, voice: Subscribers) -> None:
        self._market = stage.market
        self._voice = voice
        self._faults = stage.faults
        self._stats = stage.stats
        self._pace = Pace(stage.limits.client_messages)
        self._monotonic = stage.monotonic

    def hear(self, socket: Socket, text: str | bytes) -> None:
        """Act on one message; whatever is wrong with it is answered with an error frame."""
        self._stats.client_messages += 1
        if not self._pace.take(socket.address, self._monotonic()):
            self._stats.rejected_messages += 1
            self._stats.over_rate += 1
            socket.say(words.error("rate limit exceeded"))
            return
        try:
            wish = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            socket.say(words.error(f"failed to parse message: {error}"))
            return
        if wish.channel not in words.CHANNELS:
            socket.say(words.error(f"channel {wish.channel} is not supported"))
        elif wish.type == "subscribe":
            self._subscribe(socket, wish)
        elif wish.type == "unsubscribe":
            self._voice.unsubscribe(socket, wish.channel, wish.product_ids or None)
        else:
            socket.say(words.error(f"type {wish.type} is not supported"))

    def _subscribe(self, socket: Socket, wish: Wish) -> None:
        if not wish.product_ids:
            if wish.channel not in WITHOUT_PRODUCTS:
                socket.say(words.error("product_ids are required"))
                return
            self._voice.subscribe(socket, wish.channel, {"": ""})
            return
        # Assumed: unknown ids are left out silently (in a real capture 14 of 100 ids brought
        # neither data nor an error); only a message without any known id is an error.
        asked = {
            name: spoken
            for name in wish.product_ids
            if (spoken := words.spoken_name(name, self._market)) is not None
        }
        if not asked:
            socket.say(words.error(f"no product found: {', '.join(wish.product_ids)[:200]}"))
            return
        if self._faults:
            asked = self._let_in(socket, asked)
        if asked:
            self._voice.subscribe(socket, wish.channel, asked)

    def _let_in(self, socket: Socket, asked: dict[str, str]) -> dict[str, str]:
        """What is left of ``asked`` (as asked -> as spoken) when faults have turned some away."""
        for active in self._faults.active("reject"):
            refused = [n for n, spoken in asked.items() if spoken in active.fault.symbols]
            if refused:
                # Coinbase Exchange says it so, and ignores the whole message. What Advanced Trade
                # does is not recorded.
                socket.say(words.error(f"{', '.join(refused)[:200]} is not a valid product"))
                socket.subscribed.set()
                if active.fault.options["whole"]:
                    return {}
                asked = {name: spoken for name, spoken in asked.items() if name not in refused}
        for active in self._faults.active("ack-some"):
            socket.subscribed.set()
            share = active.fault.options["share"]
            asked = {n: spoken for n, spoken in asked.items() if not self._faults.strikes(share)}
        return asked
