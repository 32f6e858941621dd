"""What every test of a client library needs: the libraries, and a certificate they know."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.clients.exchange import CLIENTS, PROGRAMS, Certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Made by the libraries' own Python: no test runs where they are not installed."""
    if not os.access(CLIENTS, os.X_OK):
        pytest.fail(
            f"THE CLIENT LIBRARIES ARE NOT INSTALLED: no {CLIENTS}; "
            "run: python3 scripts/environment.py clients (or: nox -s clients)",
            pytrace=False,
        )
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run([CLIENTS, "-I", PROGRAMS / "certificate.py", folder], check=True)
    return Certificate(folder / "certificate.pem", folder / "key.pem")
