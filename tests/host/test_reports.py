"""What a client remembers of exceptions: that one was reported, and how often its like came."""

from __future__ import annotations

import pytest

from atotelemetry.host.reports import Repeats, Reports
from atotelemetry.host.stats import Lost
from support_client import Recorder
from support_exceptions import caught, caught_with_odd_globals


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_ten_in_ten_seconds():
    """The eleventh of a kind within ten seconds is dropped, and so is each one until the first is ten seconds old."""
    clock = Clock()
    repeats = Repeats(clock)
    assert [repeats.admit("a") for _ in range(13)] == [0] * 10 + [None] * 3
    clock.now += 9.9
    assert repeats.admit("a") is None
    assert repeats.admit("b") == 0


def test_the_next_one_says_how_many_there_were():
    """Those dropped are counted, once."""
    clock = Clock()
    repeats = Repeats(clock)
    for _ in range(14):
        repeats.admit("a")
    clock.now += 10.1
    assert [repeats.admit("a") for _ in range(2)] == [4, 0]


def test_a_window_that_slides():
    """Ten a second for a minute are ten in every ten seconds."""
    clock = Clock()
    repeats = Repeats(clock)
    admitted = []
    for _ in range(600):
        clock.now += 0.1
        if repeats.admit("a") is not None:
            admitted.append(clock.now)
    assert 55 <= len(admitted) <= 61
    assert all(later - earlier > 9.9 for earlier, later in zip(admitted, admitted[10:], strict=False))


def test_many_kinds_take_bounded_memory():
    """A program with hundreds of different exceptions is not remembered in full."""
    repeats = Repeats(Clock())
    while repeats.admit("first") is not None:
        pass
    for number in range(300):
        assert repeats.admit(str(number)) == 0
    assert repeats.admit("first") == 0, "forgotten"


def fail(kind=ValueError):
    raise kind("x")


def fail_elsewhere():
    raise ValueError("x")


def test_a_kind_is_the_type_and_the_place():
    """Only exceptions of one type from one function are of a kind."""

    class Other(ValueError):
        pass

    reports = Reports("app", "", (), True)
    for _ in range(10):
        assert reports.claim(caught(fail))
    with pytest.raises(Lost, match="repeated"):
        reports.claim(caught(fail))
    assert reports.claim(caught(fail_elsewhere))
    assert reports.claim(caught(fail, Other))
    assert reports.claim(ValueError("never raised"))


def test_what_is_dropped_may_come_again(monkeypatch):
    """An exception that came too often is not reported: a hook that sees it again, when there is room, reports it."""
    clock = Clock()
    monkeypatch.setattr("atotelemetry.host.reports.Repeats", lambda: Repeats(clock))
    reports = Reports("app", "", (), True)
    for _ in range(10):
        reports.claim(caught(fail))
    error = caught(fail)
    for _ in range(2):
        with pytest.raises(Lost, match="repeated"):
            reports.claim(error)
    clock.now += 10.1
    assert reports.claim(error)[:2] == (error, 2)
    assert reports.claim(error) is None


def test_interrupted():
    """An exception that Ctrl-C kept from the queue is not reported either."""
    reports = Reports("app", "", (), True)
    error, disarm = caught_with_odd_globals(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        reports.claim(error)
    disarm()
    assert reports.claim(error)[:2] == (error, 0)


def test_released():
    """An exception whose event was lost may be claimed again."""
    reports = Reports("app", "", (), True)
    error = caught(fail)
    claim = reports.claim(error)
    assert claim[:2] == (error, 0)
    assert reports.claim(error) is None
    reports.release(claim)
    assert reports.claim(error)[:2] == (error, 0)


def test_a_lost_event_takes_no_room():
    """Of those that were released none counts among the ten, and the next one still says how many were dropped."""
    clock = Clock()
    reports = Reports("app", "", (), True)
    reports._repeats = Repeats(clock)
    for _ in range(30):
        reports.release(reports.claim(caught(fail)))
    assert all(reports.claim(caught(fail)) for _ in range(10))
    with pytest.raises(Lost, match="repeated"):
        reports.claim(caught(fail))
    clock.now += 10.1
    reports.release(reports.claim(caught(fail)))
    assert [reports.claim(caught(fail))[1] for _ in range(2)] == [1, 0]


def test_what_before_send_dropped_does_not_count(new_client):
    """After any number that `before_send` dropped, one that it takes is sent."""
    taken = []
    recorder = Recorder(new_client(before_send=lambda event: event if taken else None))
    for _ in range(12):
        assert recorder.client.capture_exception(caught(fail)) is None
    taken.append(True)
    assert recorder.client.capture_exception(caught(fail))
    assert recorder.client.stats.dropped_by_reason == {"before_send": 12}
