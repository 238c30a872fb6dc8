"""Threads beside which ours cannot run, and points in time."""

from __future__ import annotations

import sys
import threading
import types

import pytest

from atotelemetry.host.threads import Deadline, reason_not_to_start_threads


@pytest.mark.parametrize(
    ("library", "asks"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
@pytest.mark.parametrize("patched", [True, False])
def test_no_thread_beside_coroutines(monkeypatch, library, asks, patched):
    """A library that replaces the threads is asked itself, and only where it is loaded."""
    assert reason_not_to_start_threads() == ""
    monkeypatch.setitem(sys.modules, library, types.SimpleNamespace(**{asks: lambda _: patched}))
    reason = f"{library.partition('.')[0]} has replaced the threads" if patched else ""
    assert reason_not_to_start_threads() == reason


# Time


def test_a_deadline_counts_down_and_never_below_zero():
    """It tells the seconds left, up to a limit, and whether it has passed."""
    deadline = Deadline(60.0)
    assert 59.0 < deadline.remaining() <= 60.0
    assert deadline.remaining(0.5) == 0.5
    assert not deadline.passed()
    for over in (0, -5):
        deadline = Deadline(over)
        assert (deadline.remaining(), deadline.remaining(1.0), deadline.passed()) == (0.0, 0.0, True)


def test_no_deadline_is_for_ever():
    """None never passes, and a lock waits without limit. A longer time than a lock can wait is cut."""
    deadline = Deadline(None)
    assert (deadline.remaining(), deadline.remaining(0.5), deadline.passed()) == (-1.0, 0.5, False)
    assert 0 < Deadline(float("inf")).remaining() <= threading.TIMEOUT_MAX
