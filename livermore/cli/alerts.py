"""``livermore alerts``: what was found and who was told; with ``test``, whether they would be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
import typer

from livermore.cli import options, output, store, times
from livermore.cli.database import open_database
from livermore.cli.latest import doubt
from livermore.cli.options import Exchange, Json, Place, Symbol, placed, remember
from livermore.errors import (
    ChannelError,
    ChannelRefused,
    ConfigurationError,
    MalformedMessage,
    StoreError,
    StoreUnusable,
    UsageError,
)

if TYPE_CHECKING:
    from rich.text import Text

    from livermore.adapters.channel import Channel, ChannelSettings
    from livermore.adapters.outbox import Marks, Row
    from livermore.adapters.redis import Client
    from livermore.config import Settings
    from livermore.signals.alert import Alert, Entry

SHOWN = 200
"""Rows of the table; JSON has them all."""
PAUSE = 0.5
"""Seconds between two looks for new ones."""
NARROW = 100
"""Columns under which times are short and the stage is left out."""
TIGHT = 76
"""Columns under which the latency is left out as well."""
TIMES = frozenset({"open_time", "close_time", "last_price_time", "triggered", "since"})
FAILED = 1
BLIND = ("blind", "recovery")
"""What ``--rule`` calls entries that no rule of the configuration's candles made."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(rich_markup_mode="markdown")
    group.callback(
        invoke_without_command=True,
        epilog="Example: `livermore alerts --since 7d --symbol BTC-USD`, "
        "`livermore alerts --rule blind`, `livermore alerts --follow --json`, "
        "`livermore alerts test`.",
    )(_unless_another(placed(alerts)))
    group.command(
        "test",
        epilog="Example: `livermore alerts test`, `livermore alerts test --channel desk`, "
        "`livermore alerts test --user alice`. "
        "Exit code 1 if a channel did not take the sample, 4 if its settings are wrong.",
    )(placed(test))
    app.add_typer(group, name="alerts")


def _unless_another(command: Any) -> Any:
    """``command`` where no other command of its group is named; else its options are theirs."""

    def called(**given: Any) -> int | None:
        context: typer.Context = given["context"]
        if context.invoked_subcommand is None:
            code: int = command(**given)
            return code
        shared = {name: given[name] for name in ("redis_url", "state_dir", "config")}
        remember(context, {**(context.obj or {}), **{k: v for k, v in shared.items() if v}})
        return None

    called.__doc__ = command.__doc__
    called.__annotations__ = command.__annotations__
    vars(called)["__signature__"] = vars(command)["__signature__"]
    return called


# -- what was found ---------------------------------------------------------------------------


def alerts(
    place: Place,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From 24h ago, or 2026-01-02T03:00:00Z, on.")
    ] = "24h",
    symbol: Symbol = None,
    rule: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only of this rule, such as level, reversal, blind."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")
    ] = False,
    exchange: Exchange = None,
    json: Json = False,
) -> int:
    """List alerts, and whether they were sent: of several exchanges one after the other."""
    only, given = options.limits(symbol, exchange)
    settings = place.settings()
    with store.open_store(settings, given) as client:
        chosen = store.look_at(client, settings, only, given)
        several, looked = len(chosen) > 1, dict[str, tuple[Wanted, Found]]()
        for name, known, status in chosen:
            wanted = Wanted(times.since(since, store.now(status)), known, rule)
            found = look(client, name, wanted)
            looked[name] = wanted, found
            if json:
                for row in found.rows:
                    output.document(_document(row, found))
            elif follow:
                for row in found.rows:
                    output.line(_line(row, several=several))
            else:
                if several:
                    output.line(f"{name}:")
                _show(found, wanted)
            if status is None:
                output.say(f"no daemon is running for {name} now: nothing new is found")
            elif (why := doubt(name, status)) is not None:
                output.say(why)
        names = [known.name for known in settings.alerts]
        nothing = not any(found.rows for _, found in looked.values())
        if rule is not None and rule not in (*names, *BLIND) and nothing:
            output.say(f"no rule is called {rule} here: {', '.join(names) or 'there is none'}")
        if follow:
            try:
                for name, row in _new(
                    client, {at: found.last for at, (_, found) in looked.items()}
                ):
                    wanted, found = looked[name]
                    if not wanted.fits(row.entry):
                        continue
                    if json:
                        output.document(_document(row, attrs.evolve(found, rows=[row])))
                    else:
                        output.line(_line(row, several=several))
            except KeyboardInterrupt:
                return 0
    return 0


@attrs.frozen
class Wanted:
    """What a person asked for; ``since`` is epoch ms."""

    since: int
    symbol: str | None
    rule: str | None

    def fits(self, entry: Entry) -> bool:
        """Whether ``entry`` is that."""
        alert = alert_of(entry)
        if alert is None:
            return self.symbol is None and self.rule in (None, *BLIND)
        return self.symbol in (None, alert.symbol) and self.rule in (None, alert.rule)


@attrs.frozen
class Found:
    """What the outbox holds, oldest first."""

    rows: Sequence[Row]
    marks: Marks
    last: str
    """Stream id of the newest entry, wanted or not."""
    damaged: int = 0

    @property
    def withdrawn(self) -> set[str]:
        """Stream ids of alerts that were withdrawn."""
        from livermore.signals.alert import Withdrawal

        return {row.entry.entry for row in self.rows if isinstance(row.entry, Withdrawal)}

    def state(self, row: Row) -> str:
        """In a word what became of it, with the channels where not all are alike."""
        if row.id in self.withdrawn:
            return "withdrawn"
        told = self.marks.of(row)
        if not told:
            return "no channel"
        waits = [name for name, one in told.items() if one is None or not one.final]
        lost = [name for name, one in told.items() if one is not None and one.state == "dropped"]
        for word, names in (("pending", waits), ("dropped", lost)):
            if names:
                return word if len(names) == len(told) else f"{word}: {', '.join(names)}"
        return "sent"


def look(client: Client, exchange: str, wanted: Wanted) -> Found:
    """Read the outbox from its newest entry backwards."""
    from livermore.adapters import outbox

    rows: list[Row] = []
    damaged, before, last = 0, None, outbox.BEGINNING
    while True:
        page = client.one(*outbox.before(exchange, before))
        ids = outbox.ids(page)
        if before is None and ids:
            last = ids[0]
        read = outbox.rows(page)
        known = [row for row in read if not isinstance(row, MalformedMessage)]
        damaged += len(read) - len(known)
        rows += [row for row in known if row.entry.triggered >= wanted.since]
        # A whole page from before: entries are in the order of their finding, or nearly so.
        if len(ids) < outbox.PAGE or all(row.entry.triggered < wanted.since for row in known):
            break
        before = ids[-1]
    marks = outbox.read_marks(client.one(*outbox.all_marks(exchange)))
    rows = [row for row in reversed(rows) if wanted.fits(row.entry)]
    return Found(rows, marks, last, damaged)


def _new(client: Client, last: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    """What comes behind the ``last`` stream ids by exchange, with the exchange it is of."""
    from livermore.adapters import outbox

    seen, away = dict(last), ""
    while True:
        calls = [outbox.after(exchange, stream_id) for exchange, stream_id in seen.items()]
        pages: Sequence[Any]
        try:
            pages = client.run(calls)
            away = ""
        except StoreUnusable:
            raise
        except StoreError as error:
            if not away:
                output.say(f"livermore: {error}; trying again")
            away = str(error)
            pages = [()] * len(calls)
        for exchange, page in zip(list(seen), pages, strict=True):
            for stream_id, row in zip(outbox.ids(page), outbox.rows(page), strict=True):
                seen[exchange] = stream_id
                if isinstance(row, MalformedMessage):
                    output.say(str(row))
                else:
                    yield exchange, row
        if not any(pages):
            time.sleep(PAUSE)


def alert_of(entry: Entry) -> Alert | None:
    """The alert that ``entry`` is or withdraws; None where it is about the exchange."""
    from livermore.signals.alert import Alert, Withdrawal

    if isinstance(entry, Withdrawal):
        return entry.alert
    return entry if isinstance(entry, Alert) else None


def what_of(entry: Entry) -> str:
    """What happened, in a few words."""
    from livermore.signals.alert import Alert, Blindness, Withdrawal

    if isinstance(entry, Alert):
        again = " (again)" if entry.reissue else ""
        late = {None: "", True: "; still holds", False: "; no longer holds"}[entry.holds]
        return f"{entry.what}{again}" + (f"; late{late}" if entry.late else "")
    if isinstance(entry, Withdrawal):
        return f"withdrawn: {entry.alert.what} ({entry.why})"
    if isinstance(entry, Blindness):
        named = ", ".join(entry.named[:3]) + (", …" if entry.series > 3 else "")
        why = entry.why.removeprefix("blind: ")
        return f"blind: {entry.series} of {entry.of} series ({named}): {why}"
    still = f", {entry.still} are blind yet" if entry.still else ""
    return f"{entry.recovered} series are back after {times.length(entry.lasted)}{still}"


def _show(found: Found, wanted: Wanted) -> None:
    from livermore.signals.alert import Withdrawal

    here = {row.id for row in found.rows}
    # A withdrawal stands beside its alert, where that is shown.
    shown = [
        row
        for row in found.rows
        if not isinstance(row.entry, Withdrawal) or row.entry.entry not in here
    ]
    if not shown:
        output.line(f"no alerts since {times.iso(wanted.since)}")
    else:
        width = output.data().width
        narrow = width < NARROW
        columns = ["time", "symbol", "tf", "what", "value", "stage", "state", "latency"]
        if narrow:
            columns.remove("stage")
        if width < TIGHT:
            columns.remove("latency")
        right = ("value", "latency")
        table = output.table(*columns, right=right, loose=("what", "state"))
        for row in shown[-SHOWN:]:
            cells = _cells(row, found, narrow=narrow)
            table.add_row(*(cells[name] for name in columns))
        output.show(table)
        if len(shown) > SHOWN:
            output.say(f"… and {len(shown) - SHOWN} older ones (--json has them all)")
    for name in found.marks.channels:
        if gone := found.marks.dropped(name):
            output.say(f"{_counted(gone, 'was', 'were')} ever dropped for channel {name}")
    if found.damaged:
        output.say(f"{_counted(found.damaged, 'is', 'are')} damaged")


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'} {one if count == 1 else more}"


def _cells(row: Row, found: Found, *, narrow: bool) -> dict[str, str | Text]:
    from rich.text import Text

    alert = alert_of(row.entry)
    state = found.state(row)
    over = state == "withdrawn"
    moment = times.iso(row.entry.triggered // 1000 * 1000)
    colour = {"up": "green", "down": "red"}.get(alert.direction if alert else "", "")
    if alert is None:
        colour = "green" if row.entry.__class__.__name__ == "Recovery" else "bold red"
    mood = {"pending": "yellow", "dropped": "red"}.get(state.partition(":")[0], "")
    return {
        "time": moment[5:16].replace("T", " ") if narrow else moment,
        "symbol": alert.symbol if alert else "–",
        "tf": alert.timeframe.value if alert else "–",
        "what": Text(_plain(what_of(row.entry)), style="dim strike" if over else colour),
        "value": output.number(alert.macdv if alert else None, 1),
        "stage": str(alert.stage or "–") if alert else "–",
        "state": Text(state, style="dim" if over else mood),
        "latency": times.length(alert.latency) if alert else "–",
    }


def _line(row: Row, *, several: bool = False) -> str:
    from livermore.signals.alert import Withdrawal

    alert = alert_of(row.entry)
    moment = times.iso(row.entry.triggered // 1000 * 1000)
    if several:
        entry = row.entry.alert if isinstance(row.entry, Withdrawal) else row.entry
        moment += f" {entry.source_exchange_id:<10}"
    if alert is None:
        return f"{moment} {'–':<12} {'–':<3} {_plain(what_of(row.entry))}"
    return (
        f"{moment} {alert.symbol:<12} {alert.timeframe.value:<3} {_plain(what_of(row.entry))}, "
        f"MACD-V {output.number(alert.macdv, 2)} {alert.stage or '–'}, "
        f"{times.length(alert.latency)} after the close"
    )


def _plain(text: str) -> str:
    """In one line, whatever an exchange put into it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _document(row: Row, found: Found) -> dict[str, Any]:
    said = msgspec.to_builtins(row.entry)
    told = found.marks.of(row)
    return {
        "type": said.pop("type"),
        "stream_id": row.id,
        **_with_iso_times(said),
        "state": found.state(row).partition(":")[0],
        "channels": {
            name: {"state": "pending"}
            if one is None
            else {k: v for k, v in attrs.asdict(one).items() if v}
            for name, one in told.items()
        },
    }


def _with_iso_times(said: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in said.items():
        if isinstance(value, dict):
            made[key] = _with_iso_times(value)
        else:
            is_time = key in TIMES and isinstance(value, int)
            made[key] = times.iso(value) if is_time else value
    return made


# -- a sample ---------------------------------------------------------------------------------


@attrs.frozen
class Tried:
    """What came of one sample. ``code`` is 0 where it was taken."""

    channel: ChannelSettings
    code: int
    said: str
    seconds: float = 0.0
    message_id: str = ""


def test(
    place: Place,
    channel: Annotated[
        str | None, typer.Option("--channel", "-c", metavar="NAME", help="Only this channel.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", "-u", metavar="NAME", help="This user's channels, not the file's."),
    ] = None,
    json: Json = False,
) -> int:
    """Send a sample through the channels and say what came of it."""
    from livermore.cli import logs
    from livermore.config import near

    settings = place.of(user).settings()
    channels = settings.channels if user is None else _channels_of(settings, user)
    chosen = [one for one in channels if channel in (None, one.name)]
    if not chosen:
        known = [one.name for one in channels]
        if channel is None:
            raise ConfigurationError(
                "no channel is configured: write [[channels]] tables"
                if user is None
                else f"{user} has no channel but the one in Redis, channel:user:{user}:alerts: "
                "livermore settings set channels.NAME '{…}'"
            )
        raise UsageError(
            f"no channel is called {channel}{near(channel, known)} ({', '.join(known)})"
        )
    logs.configure(attrs.evolve(settings, log_level="info"))  # the log is a channel as well
    done = try_channels(settings, chosen)
    if json:
        for one in done:
            output.document(
                {
                    "channel": one.channel.name,
                    "kind": one.channel.kind,
                    "ok": not one.code,
                    "error": one.said if one.code else None,
                    "message_id": one.message_id or None,
                    "seconds": round(one.seconds, 3),
                }
            )
    else:
        table = output.table("channel", "kind", "result", loose=("result",))
        for one in done:
            table.add_row(one.channel.name, one.channel.kind, one.said)
        output.show(table)
    return max(one.code for one in done)


def _channels_of(settings: Settings, user: str) -> Sequence[ChannelSettings]:
    from livermore.adapters import users
    from livermore.profile.document import parse

    with open_database(settings, "alerts test --user") as database:
        return parse(database.run(lambda c: users.find(c, user)).settings).channels


def try_channels(settings: Settings, chosen: Sequence[ChannelSettings]) -> list[Tried]:
    """Send a sample through each of ``chosen``, all at once."""
    import trio

    from livermore.adapters.channels import open_channels
    from livermore.config import channel_variables
    from livermore.errors import exit_code
    from livermore.signals.message import sample_message

    variables = channel_variables(chosen)
    done: dict[str, Tried] = {}

    async def one_by(channel: Channel, one: ChannelSettings) -> None:
        begun = trio.current_time()
        try:
            message_id = await channel.send(sample_message(store.now()))
        except (ChannelError, ChannelRefused) as error:
            said, message_id, code = f"failed: {error}", "", FAILED
        else:
            known = f", message id {message_id}" if message_id else ""
            said, code = f"sent{known}", 0
        done[one.name] = Tried(one, code, said, trio.current_time() - begun, message_id)

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for one in chosen:
                try:
                    [channel] = open_channels([one], variables)
                except ConfigurationError as error:
                    done[one.name] = Tried(one, exit_code(error), f"failed: {error}")
                else:
                    nursery.start_soon(one_by, channel, one)

    trio.run(all_of_them)
    return [done[one.name] for one in chosen]
