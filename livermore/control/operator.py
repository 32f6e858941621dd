"""What each command does to the fleet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from livermore.adapters.redis import Redis
from livermore.control.command import Command
from livermore.control.desk import Act, Done, Progress
from livermore.control.memory import PAUSED, STARTED, STOPPED, remember
from livermore.errors import CommandRefused
from livermore.market.lifecycle import State
from livermore.market.mode import Mode, parse_mode
from livermore.market.product import Change
from livermore.runtime.backfill import Filled, Report
from livermore.runtime.feed import Feed
from livermore.runtime.fleet import Cell, Fleet
from livermore.runtime.following import Following

TELL_EVERY = 1.0
"""Seconds between two words on how far something is."""

Backfill = Callable[[Command, Report], Awaitable[Filled]]


@attrs.define
class Operator:
    """``reload`` reads the settings again and says what came of it; ``place`` is where we run."""

    fleet: Fleet
    redis: Redis
    place: str
    reload: Callable[[], Awaitable[str]]
    backfill: Backfill
    standby: bool = False

    def acts(self) -> Mapping[str, Act]:
        """By command."""
        return {
            "start": self.start,
            "stop": self.stop,
            "pause": self.pause,
            "resume": self.resume,
            "reload-settings": self.reload_settings,
            "switch-mode": self.switch_mode,
            "add-symbol": self.add_symbol,
            "remove-symbol": self.remove_symbol,
            "refresh-symbols": self.refresh_symbols,
            "force-backfill": self.force_backfill,
            "clear-cache": self.clear_cache,
            "status": self.status,
        }

    async def start(self, command: Command, progress: Progress) -> Done:
        """Follow an exchange from now on, also after a kill."""
        await self.fleet.start(command.exchange)
        await remember(self.redis, command.exchange, self.place, STARTED)
        return Done("starting", follow=self._until_up(command.exchange))

    async def stop(self, command: Command, progress: Progress) -> Done:
        """Follow it no more."""
        await progress("stopping")
        await self.fleet.stop(command.exchange)
        await remember(self.redis, command.exchange, self.place, STOPPED)
        return Done("stopped", self._state(command.exchange))

    async def pause(self, command: Command, progress: Progress) -> Done:
        """Close the sockets; lease, status and control live on."""
        await remember(self.redis, command.exchange, self.place, PAUSED)
        self.fleet.pause(command.exchange)
        return Done("paused", self._state(command.exchange))

    async def resume(self, command: Command, progress: Progress) -> Done:
        """Go on, and repair what closed meanwhile."""
        await remember(self.redis, command.exchange, self.place, STARTED)
        self.fleet.resume(command.exchange)
        return Done("resuming", follow=self._until_up(command.exchange))

    async def reload_settings(self, command: Command, progress: Progress) -> Done:
        """Follow what file, environment and users name now."""
        return Done(await self.reload())

    async def switch_mode(self, command: Command, progress: Progress) -> Done:
        """Follow only positions, or all there is."""
        mode = parse_mode(str(command.payload["mode"]))
        change = await self._following(command).switch(mode)
        return self._changed(command, change, f"mode {mode.value}")

    async def add_symbol(self, command: Command, progress: Progress) -> Done:
        """Follow more."""
        change = await self._following(command).add(command.symbols, command.user)
        return self._changed(command, change, "")

    async def remove_symbol(self, command: Command, progress: Progress) -> Done:
        """Follow less; what is not followed any more goes from Redis."""
        change = await self._following(command).remove(command.symbols, command.user)
        return self._changed(command, change, "")

    async def refresh_symbols(self, command: Command, progress: Progress) -> Done:
        """Ask the exchange what is most traded, and the database who follows what."""
        return self._changed(command, await self._following(command).refresh(), "")

    async def force_backfill(self, command: Command, progress: Progress) -> Done:
        """Fill gaps now."""

        async def follow(progress: Progress) -> Done:
            filled: list[Filled] = []

            async def work(report: Report) -> None:
                filled.append(await self.backfill(command, report))

            await _telling(work, progress)
            remaining = sum(gap.slots for gap in filled[0].remaining)
            candles = sum(gap.slots for gap in filled[0].planned)
            done = candles - remaining - filled[0].absent
            text = f"{done} of {candles} candles filled, {remaining} remain"
            return Done(
                text if candles else "nothing is missing",
                {"filled": done, "planned": candles, "remaining": remaining,
                 "absent": filled[0].absent},
            )  # fmt: skip

        return Done("looking for gaps", follow=follow)

    async def clear_cache(self, command: Command, progress: Progress) -> Done:
        """Remove what is stored of some symbols, or of all, and load it anew."""
        feed = self._feed(command)
        followed = feed.followed
        known = {one.symbol for one in followed}
        strange = [symbol for symbol in command.symbols if symbol not in known]
        if strange:
            raise CommandRefused(f"{command.exchange} does not follow {', '.join(strange)}")
        wanted = set(command.symbols) or known
        await progress(f"removing {len(wanted)} symbols")
        await feed.follow([one for one in followed if one.symbol not in wanted])
        await feed.follow(followed)
        return Done(
            f"{len(wanted)} symbols are loaded anew",
            {"symbols": sorted(wanted)},
            follow=self._until_whole(command, sorted(wanted), "loaded anew"),
        )

    async def status(self, command: Command, progress: Progress) -> Done:
        """How the feed is."""
        state = self._state(command.exchange)
        return Done(str(state["state"]), state)

    # -- what comes of them ---------------------------------------------------------------

    def _following(self, command: Command) -> Following:
        following = self.fleet.cell(command.exchange).following
        if following is None:
            raise CommandRefused(f"{command.exchange} is not followed here: start it first")
        return following

    def _feed(self, command: Command) -> Feed:
        feed = self.fleet.cell(command.exchange).feed
        if feed is None:
            raise CommandRefused(f"{command.exchange} is starting: try again in a moment")
        return feed

    def _state(self, exchange: str) -> dict[str, Any]:
        cell = self.fleet.cell(exchange)
        found: dict[str, Any] = {
            "state": cell.state.value,
            "seconds": round(trio.current_time() - cell.since, 1),
        }
        if cell.why:
            found["why"] = cell.why
        if cell.feed is not None:
            condition, since, note = cell.feed.report.state(cell.feed.now())
            found |= {
                "condition": condition,
                "since": since,
                "note": note,
                "symbols": list(cell.feed.report.symbols),
                "history": list(cell.feed.history),
            }
        return found

    def _changed(self, command: Command, change: Change, first: str) -> Done:
        new = [one.symbol for one in change.new]
        gone = [one.symbol for one in change.gone if one.symbol not in new]
        words = [first] if first else []
        words += [f"new: {', '.join(new)}"] if new else []
        words += [f"gone: {', '.join(gone)}"] if gone else []
        data = {"new": new, "gone": gone}
        text = "; ".join(words) or "nothing changed"
        cell = self.fleet.cell(command.exchange)
        if not new or cell.state is State.PAUSED:
            return Done(text, data)
        return Done(text, data, follow=self._until_whole(command, new, text))

    def _until_up(self, exchange: str) -> Callable[[Progress], Awaitable[Done]]:
        async def follow(progress: Progress) -> Done:
            cell = self.fleet.cell(exchange)
            said = ""
            while cell.state is State.STARTING:
                note = cell.feed.report.standby or cell.feed.report.note if cell.feed else ""
                if note and note != said:
                    await progress(note)
                    said = note
                with trio.move_on_after(TELL_EVERY):
                    await self.fleet.next_change()
            _check_up(cell)
            return Done(cell.state.value, self._state(exchange))

        return follow

    def _until_whole(
        self, command: Command, symbols: Sequence[str], text: str
    ) -> Callable[[Progress], Awaitable[Done]]:
        async def follow(progress: Progress) -> Done:
            async def work(report: Report) -> None:
                feed = self._feed(command)
                await feed.whole(symbols, lambda done, total: report(done, total, "history"))

            await _telling(work, progress)
            return Done(f"{text}; their history is there", {"symbols": list(symbols)})

        return follow


def _check_up(cell: Cell) -> None:
    if cell.state is State.FAILED:
        raise CommandRefused(cell.why)
    if cell.state not in (State.WARMING, State.ACTIVE):
        done = "paused" if cell.state is State.PAUSED else "stopped"
        raise CommandRefused(f"{cell.exchange} was {done} meanwhile")


async def _telling(work: Callable[[Report], Awaitable[None]], progress: Progress) -> None:
    """Do ``work``; what it reports is told every second, as far as it changed."""
    newest: tuple[int, int, str] | None = None

    def report(done: int, total: int, text: str) -> None:
        nonlocal newest
        newest = (done, total, text)

    async def tell() -> None:
        told = None
        while True:
            await trio.sleep(TELL_EVERY)
            if newest is not None and newest != told:
                told = newest
                done, total, text = newest
                await progress(f"{text} {done}/{total}", done=done, total=total)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        await work(report)
        nursery.cancel_scope.cancel()


def mode_of(fleet: Fleet, exchange: str) -> str:
    """The mode of what is followed; that which holds without a word where nothing is."""
    following = fleet.cell(exchange).following
    return following.mode.value if following is not None else Mode.SCALPER_MACDV.value
