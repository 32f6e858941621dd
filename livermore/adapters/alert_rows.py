"""The rows of ``alert_history``: every entry of an outbox once, whatever is written twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from livermore.adapters.outbox import Row, claim_of
from livermore.adapters.postgres import Connection
from livermore.signals.alert import Alert, Blindness, Entry, Withdrawal, encode_entry

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REFUSED = (psycopg.DataError, psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)
"""What the database says of a row that it will never take."""
INSERT = """
INSERT INTO alert_history (
    exchange_id, claim, kind, alert_id, reissue, rule, symbol, timeframe, open_time, revision,
    triggered_at, entry, withdrawn_at, withdrawn_why, stream_id
) VALUES (
    %(exchange)s, %(claim)s, %(kind)s, %(alert_id)s, %(reissue)s, %(rule)s, %(symbol)s,
    %(timeframe)s, %(open_time)s, %(revision)s, %(triggered)s, %(entry)s::text::jsonb,
    %(withdrawn)s, %(why)s, %(stream_id)s
)
ON CONFLICT (exchange_id, claim) DO UPDATE
    SET withdrawn_at = excluded.withdrawn_at, withdrawn_why = excluded.withdrawn_why
    WHERE excluded.withdrawn_at IS NOT NULL AND alert_history.withdrawn_at IS NULL
"""


def write(connection: Connection, exchange: str, entries: Sequence[Row]) -> list[str]:
    """Write entries of the outbox; those that are there stay. Returns why some were refused.

    A withdrawal also marks the alert it unmakes, or brings it along where it is not there.
    """
    try:
        rows = [row for entry in entries for row in rows_of(exchange, entry)]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(INSERT, rows)
    except (*REFUSED, OverflowError):
        pass
    else:
        return []
    refused = []
    for entry in entries:
        try:
            with connection.transaction():
                for row in rows_of(exchange, entry):
                    connection.execute(INSERT, row)
        except (*REFUSED, OverflowError) as error:
            refused.append(f"{entry.id}: {' '.join(str(error).splitlines()[:1])}")
    return refused


def rows_of(exchange: str, row: Row) -> Iterator[dict[str, Any]]:
    """The rows of one entry, by column. Raises ``OverflowError`` for times beyond the year 9999."""
    entry = row.entry
    if isinstance(entry, Withdrawal):
        claim = claim_of(entry.alert)
        unmade = {"withdrawn": at(entry.triggered), "why": entry.why, "stream_id": entry.entry}
        yield {**_columns(exchange, claim, entry.alert, entry.entry), **unmade}
    yield _columns(exchange, row.claim or claim_of(entry), entry, row.id)


def _columns(exchange: str, claim: str, entry: Entry, stream_id: str) -> dict[str, Any]:
    alert = entry.alert if isinstance(entry, Withdrawal) else entry
    of_candle = dict.fromkeys(("rule", "symbol", "timeframe", "open_time", "revision"))
    if isinstance(alert, Alert):
        of_candle = {
            "rule": alert.rule,
            "symbol": alert.symbol,
            "timeframe": str(alert.timeframe),
            "open_time": at(alert.open_time),
            "revision": alert.revision,
        }
    return {
        "exchange": exchange,
        "claim": claim,
        "kind": kind_of(entry),
        "alert_id": alert.id,
        "reissue": alert.reissue if isinstance(alert, Alert) else 0,
        **of_candle,
        "triggered": at(entry.triggered),
        "entry": encode_entry(entry).decode(),
        "withdrawn": None,
        "why": None,
        "stream_id": stream_id,
    }


def kind_of(entry: Entry) -> str:
    """What it is, as its column and its JSON call it."""
    if isinstance(entry, Alert):
        return "alert"
    if isinstance(entry, Withdrawal):
        return "withdrawal"
    return "blind" if isinstance(entry, Blindness) else "recovery"


def at(moment: int) -> datetime:
    """Epoch ms as the database has times."""
    return EPOCH + timedelta(milliseconds=moment)
