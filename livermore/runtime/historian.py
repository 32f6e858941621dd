"""From the outbox of an exchange to the table ``alert_history``, as the database allows.

The outbox is what waits while the database is away: it is capped, and what it dropped before the
database had it is counted. An entry is written once by its claim, so that it does not matter how
often it is tried: after a crash, beside another daemon, or from an outbox that came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from livermore.adapters import alert_rows, outbox
from livermore.adapters.outbox import Row
from livermore.adapters.postgres import Database
from livermore.adapters.redis import Redis
from livermore.errors import DatabaseError, StoreError
from livermore.runtime.backoff import Backoff
from livermore.runtime.journal import Journal
from livermore.runtime.supervise import supervise

POLL = 2.0
"""Seconds between two looks at the outbox."""
LANE = "read"


async def keep_histories(
    exchanges: Iterable[str], redis: Redis, url: str, chance: Callable[[], float]
) -> None:
    """:func:`keep_history` of each of ``exchanges`` in the database at ``url``."""
    database = Database(url)
    try:
        async with trio.open_nursery() as nursery:
            for name in exchanges:
                nursery.start_soon(keep_history, name, redis, database, Journal(name), chance)
    finally:
        database.close()


async def keep_history(
    exchange: str,
    redis: Redis,
    database: Database,
    journal: Journal,
    chance: Callable[[], float],
) -> None:
    """Write what is in the outbox and what comes, until cancelled. Nothing else waits for it."""
    historian = Historian(exchange, redis, database, journal, chance)
    await supervise("alert history", historian.run, journal, chance=chance)


class Historian:
    """Writes the history of one exchange."""

    def __init__(
        self,
        exchange: str,
        redis: Redis,
        database: Database,
        journal: Journal,
        chance: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._redis = redis
        self._database = database
        self._journal = journal
        self._chance = chance
        self._away = False
        """Whether it was said that the database takes nothing."""

    async def run(self) -> None:
        """Write, until cancelled; the databases' and Redis' errors are waited out here."""
        backoff = Backoff(first=1.0, most=30.0)
        while True:
            wait = POLL
            try:
                if await self._page():
                    wait = 0
                backoff.reset()
            except DatabaseError as error:
                wait = backoff.next(self._chance())
                if not self._away:  # once per outage
                    self._journal.warning(
                        "the alert history is not written",
                        why=str(error),
                        next=f"up to {outbox.KEEP} entries wait in Redis",
                    )
                self._away = True
            except StoreError as error:
                wait = backoff.next(self._chance())
                self._journal.debug("the alert history is not read", why=str(error))
            await trio.sleep(wait)

    async def _page(self) -> bool:
        """Write one page of the outbox; whether there is more."""
        cursor, lost, told = await self._progress()
        [page] = await self._redis.run([outbox.after(self._exchange, cursor)], LANE)
        if not page and lost == told and not self._away:
            return False
        rows = outbox.rows(page)
        ours = [row for row in rows if isinstance(row, Row)]
        refused = [str(row) for row in rows if not isinstance(row, Row)]
        refused += await self._database.run_in_thread(
            lambda connection: alert_rows.write(connection, self._exchange, ours)
        )
        cursor = next(reversed(outbox.ids(page)), cursor)
        await self._redis.one("HSET", self._key, "cursor", cursor, "told", lost, lane=LANE)
        if self._away:
            self._journal.info("the alert history is written again", entries=len(ours))
            self._away = False
        if lost > told:
            self._journal.warning(
                "the alert history lost entries", entries=lost - told, because="the outbox is full"
            )
        if refused:
            self._journal.warning(
                "the alert history does not take entries", entries=len(refused), why=refused[0]
            )
        return len(page) >= outbox.PAGE

    @property
    def _key(self) -> str:
        return outbox.history_key(self._exchange)

    async def _progress(self) -> tuple[str, int, int]:
        """Up to where the outbox was written, how many entries were lost, and said to be."""
        calls = [
            ("HMGET", self._key, "cursor", "lost", "told"),
            outbox.before(self._exchange, None, 1),
        ]
        (cursor, lost, told), newest = await self._redis.run(calls, LANE)
        known = cursor.decode() if cursor else outbox.BEGINNING
        end = next(iter(outbox.ids(newest)), outbox.BEGINNING)
        if cursor is None and newest:
            # From here on it counts what it drops, whether the database answers or not.
            await self._redis.one("HSET", self._key, "cursor", known, lane=LANE)
        if outbox.order(known) > outbox.order(end):
            known = outbox.BEGINNING  # the outbox was lost: what is in it now is new
        return known, int(lost or 0), int(told or 0)
