"""Which error leads to which exit code, and that a person gets one line."""

from __future__ import annotations

import pytest

from livermore import errors
from livermore.cli import complain
from livermore.cli.output import number
from livermore.errors import LivermoreError, exit_code

CODES: list[tuple[LivermoreError, int]] = [
    (errors.LivermoreError("x"), 1),
    (errors.UsageError("x"), 2),
    (errors.UnknownSymbol("x"), 2),
    (errors.NotRunning("x"), 3),
    (errors.ConfigurationError("x"), 4),
    (errors.StoreUnusable("x"), 4),
    (errors.Refused("x"), 4),
    (errors.KeyRefused("x"), 4),
    (errors.TakenError("x"), 5),
    (errors.StoreError("x"), 1),
    (errors.Fenced("x"), 1),
    (errors.RateLimited("x", 1), 1),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_each_kind_of_error_has_its_exit_code(error: LivermoreError, code: int):
    assert exit_code(error) == code


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert complain("first\n  second", 4) == 4
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "livermore: first second\n")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (100.0, "100"), (0.1 + 0.2, "0.30000000000000004"), (1e-9, "0.000000001")],
)
def test_numbers_are_exact_and_never_in_powers_of_ten(value: float | None, text: str):
    assert number(value) == text


def test_places_round_where_they_are_asked_for():
    assert number(51.239, 2) == "51.24"
