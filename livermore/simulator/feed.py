"""The exchange's websockets as a whole: who is there, and the faults that befall them."""

from __future__ import annotations

from livermore.simulator.exchange import Stage, Voice
from livermore.simulator.faults import Active, Fault
from livermore.simulator.socket import Socket

_SECOND = 1_000_000_000


class Feed:
    """Runs the agenda; begins and ends faults."""

    def __init__(self, stage: Stage, voice: Voice) -> None:
        self.voice = voice
        self._stage = stage
        self._agenda = stage.agenda

    @property
    def sockets(self) -> dict[Socket, None]:
        """The open ones."""
        return self._stage.sockets

    async def run(self) -> None:
        """Say what is due until cancelled."""
        await self._agenda.run()

    def produce(self, now: int, most: int) -> bool:
        """Do ``most`` of what is due up to ``now`` (ns), oldest first; True when some is left."""
        return self._agenda.produce(now, most)

    def leave(self, socket: Socket) -> None:
        """Forget a socket that ended."""
        self.sockets.pop(socket, None)
        self.voice.leave(socket)

    def plan(self, time: int, fault: Fault) -> None:
        """Begin a fault at a simulated time (ns)."""

        def begin(due: int) -> None:
            self._begin(fault, due)

        self._agenda.at(time, begin)
        self._agenda.changed.set()

    def inject(self, fault: Fault) -> Active:
        """Begin a fault now."""
        active = self._begin(fault, self._stage.clock.now())
        self._agenda.changed.set()
        return active

    def _begin(self, fault: Fault, now: int) -> Active:
        faults = self._stage.faults
        active = faults.begin(fault, now)
        options = fault.options
        match fault.kind:
            case "drop":
                for socket in self._matching(options["symbols"], options["channels"]):
                    if faults.strikes(options["share"]):
                        socket.drop(options["code"])
            case "huge":
                for socket in list(self.sockets):
                    socket.say(b'{"channel":"huge","filler":"%b"}' % (b"x" * options["bytes"]))
            case "half-open":
                for socket in list(self.sockets):
                    if faults.strikes(options["share"]):
                        socket.freeze(active.until)
            case "skew":
                self._stage.clock.skew = int(options["seconds"] * _SECOND)
            case "halt":
                self._halt(active)
            case _:
                self.voice.begin(active)
        self._agenda.at(active.until, self._expire)
        return active

    def _expire(self, due: int) -> None:
        for active in self._stage.faults.expire(due):
            match active.fault.kind:
                case "skew":
                    still = self._stage.faults.one("skew")
                    seconds = still.options["seconds"] if still else 0.0
                    self._stage.clock.skew = int(seconds * _SECOND)
                case "half-open":
                    for socket in list(self.sockets):
                        if socket.frozen_until is not None and socket.frozen_until <= due:
                            socket.thaw()
                            socket.drop()
                case "late-correction":
                    self.voice.corrected(active, due)

    def _halt(self, active: Active) -> None:
        market = self._stage.market
        known = [s for s in active.fault.symbols if s in market]
        if active.fault.symbols and not known:
            return
        market.halt(active.since, active.until, known or None)
        self.voice.halted(active)

    def _matching(self, symbols: list[str], channels: list[str]) -> list[Socket]:
        return [
            socket
            for socket in self.sockets
            if not (symbols or channels)
            or any(
                (not channels or channel in channels)
                and (not symbols or set(symbols) & set(state.values()))
                for channel, state in socket.subscriptions.items()
            )
        ]
