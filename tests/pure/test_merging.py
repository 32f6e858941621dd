"""Everybody's rules as those of one exchange: who hears what, and that nobody is in the way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.adapters.redis import Redis
from livermore.adapters.users import User
from livermore.config import Settings
from livermore.errors import ConfigurationError
from livermore.profile.merging import NOWHERE, Merged, merged, opened
from livermore.signals.rule import DEFAULT_RULES, Kind, Rule

FILE = Settings(state_dir=Path("/nowhere"))
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
WEBHOOK = {"kind": "webhook", "name": "desk", "url_env": "DESK_URL", "secret_env": "DESK_KEY"}


def user(sub: str, *symbols: str, enabled: bool = True, **said: Any) -> User:
    pairs = [(exchange, one) for one, _, exchange in (s.partition("@") for s in symbols)]
    return User(
        id=1, provider="local", sub=sub, role="user", enabled=enabled, settings=said, revision=0,
        created_at=WHEN, updated_at=WHEN, follows=pairs,
    )  # fmt: skip


def rules(found: Merged, name: str) -> Rule:
    [rule] = [rule for rule in found.rules if rule.name == name]
    return rule


def test_without_users_all_is_as_the_file_says():
    for users in ((), (user("bob", "BTC-USD@coinbase", enabled=False),)):
        found = merged(FILE, users, "coinbase")
        assert found == Merged(rules=FILE.alerts, channels=FILE.channels)


def test_each_hears_of_what_is_followed_there_less_what_is_disabled_and_on_own_channels_alone():
    alice = user(
        "alice", "BTC-USD@coinbase", "ETH-USD@coinbase", "SOL-USDT@binance",
        disabled_symbols=["ETH-USD"], channels=[WEBHOOK, {"kind": "log"}],
        alerts=[{"rule": "level", "channels": ["desk"]}, {"rule": "reversal"}],
    )  # fmt: skip
    bob = user(
        "auth0|5f7c", "ETH-USD@coinbase", "DOGE-USD@coinbase",
        alerts=[
            {"rule": "level", "name": "deep", "levels": [200], "symbols": ["eth-usd", "BTC-USD"]},
            {"rule": "move", "percent": 3, "candles": 4, "symbols": ["BTC-USD"]},
            {"rule": "reversal", "enabled": False},
        ],
    )  # fmt: skip
    found = merged(FILE, [alice, bob], "coinbase")
    assert [rule.name for rule in found.rules] == [
        "level", "reversal", "blind", "level@alice", "reversal@alice", "deep@auth0/5f7c",
    ]  # fmt: skip
    assert rules(found, "level").channels == ("log",)
    assert rules(found, "level").symbols is None
    assert rules(found, "level@alice").symbols == ("BTC-USD",)
    assert rules(found, "level@alice").channels == ("desk@alice", "@alice")
    assert rules(found, "reversal@alice").channels == ("desk@alice", "log@alice", "@alice")
    assert rules(found, "deep@auth0/5f7c").symbols == ("ETH-USD",)
    assert rules(found, "deep@auth0/5f7c").channels == ("@auth0/5f7c",)
    assert rules(found, "blind").channels == (
        "log", "desk@alice", "log@alice", "@alice", "@auth0/5f7c",
    )  # fmt: skip
    there = merged(FILE, [alice, bob], "binance")
    assert rules(there, "level@alice").symbols == ("SOL-USDT",)
    assert [rule.name for rule in there.rules if "@auth0" in rule.name] == []


def test_who_does_not_use_an_exchange_hears_nothing_of_it_not_even_that_it_is_blind():
    off = user("alice", "BTC-USD@coinbase", exchanges={"coinbase": {"enabled": False}})
    found = merged(FILE, [off, user("bob")], "coinbase")
    assert [(rule.name, rule.channels) for rule in found.rules] == [
        (rule.name, ("log",)) for rule in DEFAULT_RULES
    ]


def test_a_symbol_more_changes_rules_and_no_channel():
    before = merged(FILE, [user("bob", channels=[WEBHOOK])], "coinbase")
    after = merged(FILE, [user("bob", "BTC-USD@coinbase", channels=[WEBHOOK])], "coinbase")
    assert (before.channels, before.theirs) == (after.channels, after.theirs)
    assert len(after.rules) == len(before.rules) + 2


def test_the_files_rules_reach_no_user_even_where_the_file_has_no_channel():
    bare = attrs.evolve(FILE, channels=())
    found = merged(bare, [user("alice", "BTC-USD@coinbase")], "coinbase")
    assert rules(found, "level").channels == (NOWHERE,)


def test_users_are_told_of_blindness_where_the_files_rule_for_it_is_switched_off():
    quiet = attrs.evolve(FILE, alerts=())
    found = merged(quiet, [user("alice", "BTC-USD@coinbase")], "coinbase")
    [blind] = [rule for rule in found.rules if rule.kind is Kind.BLIND]
    assert blind.channels == ("@alice",)


def test_what_is_broken_of_one_user_is_told_and_stops_no_other():
    broken = user("eve", "BTC-USD@coinbase", runtime={"log_level": "loud"})
    newer = user("fay", "BTC-USD@coinbase", version=99)
    same = attrs.evolve(user("alice", "A-B@coinbase"), provider="auth0")
    found = merged(FILE, [broken, newer, user("alice", "BTC-USD@coinbase"), same], "coinbase")
    assert rules(found, "level@alice").symbols == ("BTC-USD",)
    assert [(one.user, one.why.partition(": ")[0]) for one in found.troubles] == [
        ("eve", "settings of eve"), ("fay", "settings of fay"),
        ("alice", "another user is called alice"),
    ]  # fmt: skip


def test_a_channel_that_cannot_be_opened_leaves_its_user_the_own_channel_and_others_theirs():
    users = [user(sub, "BTC-USD@coinbase", channels=[WEBHOOK]) for sub in ("alice", "bob")]
    found = merged(FILE, users, "coinbase")
    redis = Redis("redis://127.0.0.1:1")
    variables = {"DESK_URL": "https://example.com/s3cret", "DESK_KEY": "k3y"}
    channels, troubles = opened(found, redis, variables)
    assert [one.name for one in channels] == ["log", "@alice", "desk@alice", "@bob", "desk@bob"]
    assert troubles == ()
    channels, troubles = opened(found, redis, {"DESK_URL": "ftp://s3cret", "DESK_KEY": "k3y"})
    assert [one.name for one in channels] == ["log", "@alice", "@bob"]
    assert [one.user for one in troubles] == ["alice", "bob"]
    assert "s3cret" not in str(troubles)
    own = attrs.evolve(found, channels=(*found.channels, *found.theirs["bob"]))
    with pytest.raises(ConfigurationError):
        opened(own, redis, {})


SUBS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@|-]{0,6}", fullmatch=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(SUBS, unique=True, max_size=5), st.sets(st.sampled_from(["level", "a-b", "A_"])))
def test_names_of_rules_and_channels_never_clash_and_can_be_part_of_keys(
    subs: list[str], names: set[str]
):
    said: dict[str, Any] = {
        "alerts": [{"rule": "level", "name": name} for name in sorted(names)],
        "channels": [{"kind": "log", "name": "log"}],
    }
    found = merged(FILE, [user(sub, "BTC-USD@coinbase", **said) for sub in subs], "coinbase")
    channels = [one.name for some in found.theirs.values() for one in some]
    told = {name for rule in found.rules for name in rule.channels or ()}
    for all_of_them in ([rule.name for rule in found.rules], [*channels, "log"]):
        assert len(set(all_of_them)) == len(all_of_them)
        assert not any(set(name) & set("|,:{}* ") for name in (*all_of_them, *told))
