"""What is said to a service manager, on real sockets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from livermore.adapters.systemd import LONGEST, Notifier, status
from tests.notified import listening_manager


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_lines_arrive_in_one_datagram(abstract: bool):
    with listening_manager(abstract=abstract) as manager:
        assert Notifier(manager.address).tell("READY=1", status("all is well"))
        assert manager.hear() == ["READY=1", "STATUS=all is well"]


def test_reloading_carries_the_monotonic_clock():
    with listening_manager() as manager:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier(manager.address).reloading()
        word, stamp = manager.hear()
        assert word == "RELOADING=1"
        name, _, microseconds = stamp.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    "address",
    [None, "", "/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", "/" + "x" * 300],
)
def test_a_manager_that_is_not_there_fails_nothing(address: str | None):
    assert not Notifier(address).tell("READY=1")


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path):
    with listening_manager() as manager:
        notifier = Notifier(manager.address)
        begun = time.monotonic()
        while notifier.tell("WATCHDOG=1"):
            assert time.monotonic() < begun + 60, "the queue of a socket has an end"
        assert not notifier.tell("WATCHDOG=1")
        manager.hear()
        assert notifier.tell("WATCHDOG=1"), "and it is told again once it reads"


def test_a_status_is_one_line_and_not_too_long():
    assert status("a\nREADY=1\n b") == "STATUS=a READY=1 b"
    assert len(status("x" * 10_000)) == len("STATUS=") + LONGEST
    with listening_manager() as manager:
        assert Notifier(manager.address).tell(status("€ \udcff"))
