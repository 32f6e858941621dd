"""What every simulated exchange has to bring, and what they have in common."""

from __future__ import annotations

import attrs
import pytest

from livermore.errors import ConfigurationError
from livermore.simulator import Limits, SimulatorSettings
from livermore.simulator.limits import USUAL
from livermore.simulator.roster import PLAYED, played


@pytest.mark.parametrize("name", PLAYED)
def test_every_exchange_says_all_its_limits(name):
    values = attrs.asdict(PLAYED[name].limits)
    assert [field for field, value in values.items() if value is USUAL] == []


def test_limits_override_only_what_they_name():
    settings = SimulatorSettings("binance", limits=Limits(rest_rate=77))
    assert settings.allowed == attrs.evolve(PLAYED["binance"].limits, rest_rate=77)
    assert SimulatorSettings("binance").allowed == PLAYED["binance"].limits
    assert SimulatorSettings("binance_us", rest_rate=5).allowed.rest_rate == 5
    assert SimulatorSettings("coinbase").allowed.rest_rate == 10


def test_an_exchange_that_cannot_be_played_is_refused():
    for ask in (played, SimulatorSettings):
        with pytest.raises(ConfigurationError, match="only coinbase, binance, binance_us"):
            ask("nyse")


@pytest.mark.parametrize("name", PLAYED)
def test_the_followed_come_first_and_no_symbol_or_id_comes_twice(name):
    listed = PLAYED[name].listings(70, 7)
    assert [one.followed for one in listed[:70]] == [True] * 70
    assert not any(one.followed for one in listed[70:])
    assert len({one.symbol for one in listed}) == len({one.native for one in listed}) == len(listed)
    assert all(one.symbol == f"{one.base}-{one.quote}" for one in listed)
    rates = [one.rate for one in listed[:70]]
    assert rates == sorted(rates, reverse=True)


def test_the_same_base_follows_the_same_path_everywhere():
    paths = {
        name: [one.path or one.symbol for one in exchange.listings(20, 7)[:20]]
        for name, exchange in PLAYED.items()
    }
    assert paths["binance"] == paths["binance_us"] == paths["coinbase"]
