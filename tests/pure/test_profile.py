"""The settings document: what may be said where, and what is said of what may not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.adapters.channel import ChannelSettings
from livermore.config import alerting
from livermore.errors import ConfigurationError, UsageError
from livermore.market.mode import Mode
from livermore.profile import contents, document
from livermore.signals.rule import DEFAULT_RULES, Kind

EMPTY = document.read({})

DESK = {"kind": "discord", "name": "desk", "url_env": "DESK_URL"}
DEEP = {"rule": "level", "name": "deep", "levels": [200], "channels": ["desk"]}

FITTING: dict[str, st.SearchStrategy[Any]] = {
    "profile.public_name": st.sampled_from(["Jesse", "the desk", "Ødegård"]),
    "profile.primary_exchange": st.sampled_from(["coinbase", "binance"]),
    "profile.timezone": st.sampled_from(["Europe/Berlin", "UTC"]),
    "profile.locale": st.sampled_from(["de-DE", "en"]),
    "profile.currency": st.sampled_from(["USD", "EUR"]),
    "runtime.autostart": st.lists(st.sampled_from(["coinbase", "binance"]), unique=True),
    "runtime.mode": st.sampled_from([mode.value for mode in Mode]),
    "runtime.log_level": st.sampled_from(["debug", "error"]),
    "exchanges.coinbase.enabled": st.booleans(),
    "exchanges.binance.credentials.key": st.sampled_from(["BINANCE_KEY", "_K9"]),
    "symbols": st.lists(st.sampled_from(["BTC-USD@coinbase", "A-B@binance"]), unique=True),
    "disabled_symbols": st.lists(st.sampled_from(["BTC-USD", "A-B@binance"]), unique=True),
    "scanner.within": st.integers(0, 500),
    "scanner.near": st.just([100, 150]),
    "scanner.timeframe": st.just(["5m", "1h"]),
    "alerts.deep": st.just({"rule": "level", "name": "deep", "levels": [200]}),
    "alerts.level": st.just({"rule": "level", "cooldown": 5}),
    "alerts.level.cooldown": st.integers(0, 1000),
    "alerts": st.just([{"rule": "reversal"}, {"rule": "level"}]),
    "channels.desk": st.just(DESK),
    "channels": st.just([{"kind": "log"}]),
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
words = st.sampled_from(
    [*FITTING, *"alerts.deep.channels alerts.deep.name channels.desk.kind exchanges.coinbase "
     "exchanges.kraken.enabled profile runtime scanner version".split()]
)  # fmt: skip
patches = st.tuples(words | st.text(max_size=20), anything) | words.flatmap(
    lambda path: st.tuples(st.just(path), FITTING.get(path, anything))
)


@settings(deadline=None)
@given(st.lists(patches, max_size=6))
def test_any_sequence_of_patches_gives_a_document_that_is_right_or_one_clear_error(
    changes: list[tuple[str, Any]],
):
    now = EMPTY
    for path, value in changes:
        try:
            after = document.set(now, path, value)
        except UsageError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 400
        else:
            assert document.read(json.loads(document.text(after))) == after
            back = {one.path: one.after for one in document.diff(now, after)}
            assert document.patch(now, back) == after
            now = after
    document.parse(now)
    assert set(document.whole(now)) == {"version", *contents.whole({})}


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(FITTING)).flatmap(
    lambda path: st.tuples(st.just(path), FITTING[path])), max_size=8))  # fmt: skip
def test_what_is_set_is_what_is_read_back_and_unset_is_the_default_again(
    changes: list[tuple[str, Any]],
):
    now = EMPTY
    for path, value in changes:
        with contextlib.suppress(UsageError):  # a rule whose table was taken away
            now = document.set(now, path, value)
            assert document.get(now, path) == value
    for path in now:
        if path != "version":
            now = document.set(now, path, None)
    assert now == EMPTY


@settings(deadline=None)
@given(anything)
def test_nothing_that_is_read_ends_in_another_error(said: Any):
    with contextlib.suppress(ConfigurationError):
        again = document.read(said)
        assert document.read(again) == again


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"profil": {}}, "profil: unknown key: did you mean profile?"),
        ({"runtime": {"log_lvel": "info"}}, "runtime.log_lvel: unknown key: did you mean log_le"),
        ({"profile": []}, "profile: a table is wanted"),
        ({"profile": {"timezone": "Europe/Berln"}}, "did you mean Europe/Berlin?"),
        ({"exchanges": {"coinbse": {}}}, "exchanges.coinbse: unknown exchange coinbse: did you"),
        ({"exchanges": {"coinbase": {"enabled": "yes"}}}, "exchanges.coinbase.enabled: true or f"),
        ({"runtime": {"mode": "scalper-orderbook"}}, "runtime.mode: mode scalper-orderbook is not"),
        ({"runtime": {"autostart": ["coinbas"]}}, "runtime.autostart: unknown exchange 'coinbas'"),
        ({"symbols": ["BTC-USD"]}, "symbols: BTC-USD: say of which exchange it is"),
        ({"scanner": {"near": [0]}}, "scanner.near: a number from 0.01"),
        ({"alerts": [{"rule": "level", "cooldwn": 3}]}, "alerts 1 (level): unknown key 'cooldwn'"),
        ({"alerts": [DEEP]}, "alerts 1 (deep): channels: no channel is called 'desk'"),
        ({"profile": {"public_name": "a\0b"}}, "holds what cannot be printed"),
        ({"version": 2}, "version: these settings have form 2, and this livermore knows forms up"),
        ({"version": True}, "version: a whole number is wanted"),
        ([], "settings are a table"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(said: Any, complaint: str):
    with pytest.raises(ConfigurationError) as caught:
        document.read(said)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"exchanges": {"coinbase": {"credentials": {"secret": "sk-live-1"}}}},
        {"exchanges": {"coinbase": {"credentials": "sk-live-1"}}},
        {"exchanges": {"coinbase": {"credentials": {"secret": ["sk-live-1"]}}}},
        {"channels": [{"kind": "discord", "url": "sk-live-1"}]},
        {"channels": [{"kind": "discord", "url_env": "sk-live-1"}]},
        {"channels": [{"kind": "webhook", "url": "http://sk-live-1@x", "secret_env": "A"}]},
        {"channels": "sk-live-1"},
    ],
)
def test_a_secret_in_the_place_of_its_variables_name_is_refused_and_not_repeated(said: Any):
    with pytest.raises(ConfigurationError) as caught:
        document.read(said)
    assert "sk-live-1" not in str(caught.value)


def test_rules_and_channels_mean_what_they_mean_in_the_file():
    said = document.parse(document.read({"alerts": [DEEP], "channels": [DESK]}))
    assert (said.alerts, said.channels) == alerting([DEEP], [DESK])
    assert [rule.kind for rule in said.alerts] == [Kind.LEVEL, Kind.BLIND]
    assert said.channels == (ChannelSettings(name="desk", kind="discord", url_env="DESK_URL"),)
    assert document.parse(EMPTY).alerts == DEFAULT_RULES


def test_a_rule_is_changed_added_and_taken_away_by_its_name():
    now = document.patch(EMPTY, {"channels.desk": DESK, "alerts.deep": {"rule": "level"}})
    now = document.set(now, "alerts.deep.channels", ["desk"])
    assert now["alerts"][3:] == [{"name": "deep", "rule": "level", "channels": ["desk"]}]
    for path, value in (("channels.desk", None), ("alerts.deep.name", "x"), ("alerts.nope", None)):
        with pytest.raises(UsageError):
            document.set(now, path, value)
    gone = document.patch(now, {"alerts.deep": None, "channels.desk": None})
    assert document.parse(gone).alerts == DEFAULT_RULES


def test_what_is_disabled_is_not_followed_on_that_exchange():
    said = document.parse(document.read({
        "symbols": ["btc/usd@coinbase", "BTC-USDT@binance", "ETH-USD@coinbase"],
        "disabled_symbols": ["ETH-USD", "BTC-USDT@coinbase"],
    }))  # fmt: skip
    assert said.follows == (("coinbase", "BTC-USD"), ("binance", "BTC-USDT"))
    assert said.disabled("binance") == {"ETH-USD"}


def test_credentials_are_named_by_part_as_far_as_they_are_named():
    said = document.set(EMPTY, "exchanges.coinbase.credentials.key", "CB_KEY")
    assert contents.credential_names(document.parse(said), "coinbase") == {"key": "CB_KEY"}
    assert contents.credential_names(document.parse(said), "binance") == {}


def test_documents_of_older_forms_are_migrated_step_by_step_and_those_of_later_ones_refused():
    migrations = {
        5: lambda said: {**said, "level": said.pop("loglevel")},
        6: lambda said: {"runtime": {"log_level": said["level"]}},
    }
    old = {"version": 5, "loglevel": "debug"}
    new = document.migrated(old, version=7, migrations=migrations)
    assert new == {"version": 7, "runtime": {"log_level": "debug"}}
    assert old == {"version": 5, "loglevel": "debug"}
    with pytest.raises(ConfigurationError, match="form 4 are not known"):
        document.migrated({"version": 4}, version=7, migrations=migrations)
    with pytest.raises(ConfigurationError, match="update livermore"):
        document.migrated({"version": 8}, version=7, migrations=migrations)


def test_a_document_is_bounded():
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ConfigurationError, match="tables deep"):
        document.read(deep)
    with pytest.raises(ConfigurationError, match="64 KiB"):
        document.read({"symbols": [f"S{n}-USD@coinbase" for n in range(9000)]})
