"""The registry of exchanges."""

from __future__ import annotations

import pytest

from livermore.errors import UsageError
from livermore.exchanges import DIALECTS, dialect


@pytest.mark.parametrize("name", DIALECTS)
def test_an_exchange_is_found_by_its_name(name: str) -> None:
    assert dialect(name) is DIALECTS[name]
    assert dialect(f" {name.upper()} ") is DIALECTS[name]


def test_an_unknown_exchange_is_refused_with_the_nearest_and_the_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        dialect("conbase")
    assert "'conbase': did you mean coinbase?" in str(refused.value)
    for near in ("binanceus", "binance.us", "binance-us"):
        with pytest.raises(UsageError, match=r"did you mean binance_us\?"):
            dialect(near)
    for other in ("zzzzzz", "nowhere", "bitbase"):
        with pytest.raises(UsageError) as refused:
            dialect(other)
        assert "did you mean" not in str(refused.value)
    assert all(name in str(refused.value) for name in DIALECTS)


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DIALECTS["nowhere"] = dialect("coinbase")  # type: ignore[index]
