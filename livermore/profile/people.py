"""What the users of the database want of a daemon; a database that is away changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from livermore.adapters.redis import Redis
from livermore.adapters.urls import websocket_address
from livermore.config import Own, Settings
from livermore.errors import ConfigurationError, DatabaseError, Refused
from livermore.profile.document import parse
from livermore.profile.merging import Merged, merged, opened
from livermore.runtime.feed import Plan
from livermore.runtime.journal import Journal

if TYPE_CHECKING:
    from livermore.adapters.exchange_rows import Override
    from livermore.adapters.postgres import Database
    from livermore.adapters.users import User


@attrs.define
class People:
    """The users that are enabled, as they were read last."""

    database: Database | None
    journal: Journal
    known: Sequence[User] = ()
    overrides: Mapping[str, Override] = attrs.Factory(dict)

    async def merged(self, settings: Settings, exchange: str) -> Merged:
        """What alerts on ``exchange`` now, and whom."""
        return merged(settings, await self._read(), exchange)

    async def autostart(self) -> Sequence[str]:
        """Exchanges that a user wants to be followed from the start on."""
        names: dict[str, None] = {}
        for user in await self._read():
            try:
                names.update(dict.fromkeys(parse(user.settings).runtime.autostart))
            except ConfigurationError as error:
                self.journal.warning("settings cannot be used", user=user.sub, why=str(error))
        return tuple(names)

    async def overridden(self, plan: Plan, own: Own) -> Plan:
        """``plan`` with the addresses an operator wrote down, where settings name none.

        Raises :class:`Refused` for an exchange that is switched off or not allowed from here.
        """
        one = (await self._overrides()).get(plan.dialect.name)
        if one is None:
            return plan
        for forbidden, why in (
            (one.active, "switched off"),
            (one.allowed, "not allowed from here"),
        ):
            if forbidden is False:
                note = f" ({one.note})" if one.note else ""
                raise Refused(
                    f"{one.exchange_id} is {why}{note}: that is what exchange_overrides says in "
                    "the database"
                )
        return attrs.evolve(
            plan,
            rest_url=own.rest_url or one.rest_url or plan.rest_url,
            websocket_url=(
                plan.websocket_url
                if own.websocket_url or not one.websocket_url
                else websocket_address(plan.dialect, one.websocket_url)
            ),
        )

    async def _overrides(self) -> Mapping[str, Override]:
        if self.database is not None:
            from livermore.adapters.exchange_rows import overrides

            try:
                self.overrides = await self.database.run_in_thread(overrides)
            except DatabaseError as error:
                self.journal.warning("overrides cannot be read", why=str(error))
        return self.overrides

    async def _read(self) -> Sequence[User]:
        if self.database is not None:
            from livermore.adapters import users  # psycopg is for those who want it

            try:
                read = functools.partial(users.everyone, enabled=True)
                self.known = tuple(await self.database.run_in_thread(read))
            except DatabaseError as error:
                self.journal.warning(
                    "users cannot be read", why=str(error), next="they stay as they were"
                )
        return self.known


def with_alerts(plan: Plan, found: Merged, redis: Redis) -> Plan:
    """``plan`` with these rules and channels; what of users is left away is told.

    Raises :class:`ConfigurationError` for a channel of the file.
    """
    channels, troubles = opened(found, redis)
    journal = Journal(plan.dialect.name)
    for trouble in (*found.troubles, *troubles):
        journal.warning("left away", user=trouble.user, why=trouble.why)
    return attrs.evolve(plan, rules=found.rules, channels=channels)
