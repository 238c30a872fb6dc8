"""Ids: the layout of version 7, sorted by time, never twice, also across forks."""

from __future__ import annotations

import os
import time

import pytest

from atotelemetry.ids import Uuid7
from support_client import UUID7, run_host


def test_a_hundred_thousand_ids_are_unique_and_sort_by_time():
    """However fast they are made, no two ids are alike, and a later one is never smaller."""
    new_uuid = Uuid7()
    ids = [new_uuid(time.time_ns()) for _ in range(100_000)]
    assert len(set(ids)) == len(ids)
    assert all(UUID7.fullmatch(text) for text in ids[::1000])
    assert ids == sorted(ids)


def test_ids_of_one_tick_of_the_clock_still_sort():
    """With a clock that stands still the ids still differ and grow."""
    new_uuid = Uuid7()
    ids = [new_uuid(1_700_000_000_123_456_789) for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {text[:13] for text in ids} == {"018bcfe5-687b"}
    assert len({text[:24] for text in ids}) == 1


def test_ids_carry_the_milliseconds():
    """The first 48 bits are the milliseconds since the epoch, with all their digits; also for a clock before it."""
    moments = (0, 1, 1_700_000_000_123, 2**48 - 1, -1)
    heads = [Uuid7()(milliseconds * 1_000_000 + 999_999)[:13] for milliseconds in moments]
    assert heads == ["00000000-0000", "00000000-0001", "018bcfe5-687b", "ffffffff-ffff", "ffffffff-ffff"]


def test_ids_follow_a_clock_that_moves_on_and_back():
    """Each id has the milliseconds of its own moment, and one made in an earlier tick is never made again."""
    ticks = [5, 5, 6, 6, 5, 7, 5]
    new_uuid = Uuid7()
    ids = [new_uuid(tick * 1_000_000) for tick in ticks]
    assert [int(text[:13].replace("-", ""), 16) for text in ids] == ticks
    assert len(set(ids)) == len(ticks)


def test_two_generators_never_agree():
    """The random part of each process's ids is its own."""
    tails = {Uuid7()(0)[19:] for _ in range(200)}
    assert len(tails) == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_ids_differ_across_forks(server):
    """Children forked from a process that has captured make ids of their own."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside any thread
client.capture("parent", distinct_id="me")
for child in range(3):
    pid = os.fork()
    if not pid:
        for number in range(200):
            client.capture("child", distinct_id="me", properties={"child": child})
        client.flush()
        os._exit(0)
    os.waitpid(pid, 0)
client.capture("parent", distinct_id="me")
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stderr) == (0, "")
    events = server.wait_for_events(602, timeout=30)
    assert len({event["uuid"] for event in events}) == 602
