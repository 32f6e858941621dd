"""What a command must be so that it is run."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.control.command import (
    EXPIRES,
    PRIORITIES,
    SKEW,
    Command,
    correlation_of,
    encode,
    parse,
)
from livermore.errors import CommandRefused

NOW = 1_790_000_000_000
SECRET = "a secret that both sides know"
PAYLOADS: dict[str, dict[str, Any]] = {
    "switch-mode": {"mode": "position-monitor"},
    "add-symbol": {"symbols": ["SOL-USD", "ADA-USD"]},
    "remove-symbol": {"symbols": ["SOL-USD"]},
    "force-backfill": {"symbols": [], "timeframe": "5m", "since": NOW},
    "clear-cache": {"symbols": ["SOL-USD"]},
}


def command(kind: str = "pause", **changes: Any) -> Command:
    return attrs.evolve(
        Command(
            correlation="0123456789abcdef", exchange="coinbase", type=kind,
            payload=PAYLOADS.get(kind, {}), issued_at=NOW, expires_at=NOW + EXPIRES, user="alice",
        ),
        **changes,
    )  # fmt: skip


def fields(**changes: Any) -> bytes:
    return json.dumps({**attrs.asdict(command()), **changes}).encode()


@pytest.mark.parametrize("kind", PRIORITIES)
@pytest.mark.parametrize("secret", [None, SECRET])
def test_every_command_is_read_as_it_was_written(kind: str, secret: str | None):
    one = command(kind)
    assert parse(encode(one, secret).encode(), "coinbase", NOW, secret) == one


def test_without_a_secret_of_ours_a_signature_is_not_looked_at():
    one = command()
    assert parse(encode(one, SECRET).encode(), "coinbase", NOW, None) == one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("correlation", "fedcba9876543210"),
        ("exchange", "binance"),
        ("type", "resume"),
        ("issued_at", NOW - 1),
        ("expires_at", NOW + EXPIRES - 1),
        ("user", "mallory"),
    ],
)
def test_no_field_of_a_signed_command_can_be_exchanged(name: str, value: object):
    given = json.loads(encode(command(), SECRET))
    with pytest.raises(CommandRefused, match="wrongly signed"):
        parse(json.dumps({**given, name: value}).encode(), "coinbase", NOW, SECRET)


def test_nor_can_its_payload():
    given = json.loads(encode(command("add-symbol"), SECRET))
    given["payload"]["symbols"].append("DOGE-USD")
    with pytest.raises(CommandRefused, match="wrongly signed"):
        parse(json.dumps(given).encode(), "coinbase", NOW, SECRET)


@pytest.mark.parametrize("signature", [None, "", 7, "00" * 32, "ÿ"])
def test_what_is_not_signed_by_who_knows_the_secret_is_refused(signature: object):
    with pytest.raises(CommandRefused, match="signed") as caught:
        parse(fields(signature=signature), "coinbase", NOW, SECRET)
    assert SECRET not in str(caught.value)


def test_a_command_is_run_until_it_expires_and_then_no_more():
    text = encode(command(), None).encode()
    assert parse(text, "coinbase", NOW + EXPIRES - 1, None) == command()
    with pytest.raises(CommandRefused, match=r"expired 0\.0 s ago"):
        parse(text, "coinbase", NOW + EXPIRES, None)


def test_nobody_makes_a_command_that_is_valid_for_longer_or_from_tomorrow():
    with pytest.raises(CommandRefused, match="valid for longer"):
        parse(fields(expires_at=NOW + EXPIRES + 1), "coinbase", NOW, None)
    late = NOW + SKEW + 1
    with pytest.raises(CommandRefused, match="valid for longer"):
        parse(fields(issued_at=late, expires_at=late + 1), "coinbase", NOW, None)


def test_a_command_for_another_exchange_is_foreign():
    with pytest.raises(CommandRefused, match="meant for 'coinbase', not for binance"):
        parse(fields(), "binance", NOW, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"type": "buy"}, "unknown command 'buy'"),
        ({"payload": {"symbols": []}}, "unknown field 'symbols' of the payload"),
        ({"payload": []}, "payload is missing or no dict"),
        ({"issued_at": True}, "issued_at is missing or no int"),
        ({"issued_at": 1.5}, "issued_at is missing or no int"),
        ({"correlation": "../../etc"}, "correlation: 8 to 64"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"type": "add-symbol"}, "add-symbol needs symbols"),
        ({"type": "add-symbol", "payload": {"symbols": [1]}}, "symbols is a list"),
        ({"type": "add-symbol", "payload": {"symbols": ["A-B"] * 1001}}, "up to 1000"),
        ({"type": "switch-mode", "payload": {"mode": ""}}, "switch-mode needs mode"),
    ],
)
def test_what_is_no_command_is_refused_in_one_line(changes: dict[str, Any], complaint: str):
    with pytest.raises(CommandRefused) as caught:
        parse(fields(**changes), "coinbase", NOW, None)
    assert complaint in str(caught.value)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_damaged_input_is_refused(text: bytes):
    with pytest.raises(CommandRefused):
        parse(text, "coinbase", NOW, None)
    assert isinstance(correlation_of(text), str)


@given(
    st.fixed_dictionaries({}, optional={
        name: st.none() | st.integers() | st.text(max_size=10) | st.lists(st.text(max_size=5))
        | st.dictionaries(st.text(max_size=8), st.integers(), max_size=2)
        for name in attrs.asdict(command())
    })
)  # fmt: skip
def test_a_command_with_fields_of_any_kind_is_read_or_refused(changes: dict[str, Any]):
    try:
        found = parse(fields(**changes), "coinbase", NOW, None)
    except CommandRefused as error:
        assert "\n" not in str(error)
    else:
        assert found.exchange == "coinbase"
        assert NOW < found.expires_at <= found.issued_at + EXPIRES


def test_what_makes_quiet_goes_before_what_makes_work():
    order = sorted(PRIORITIES, key=lambda kind: PRIORITIES[kind])
    assert order[:4] == ["pause", "resume", "start", "stop"]
    assert order[4:] == [
        "reload-settings", "switch-mode", "add-symbol", "remove-symbol", "refresh-symbols",
        "force-backfill", "clear-cache", "status",
    ]  # fmt: skip
