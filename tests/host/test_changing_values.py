"""Values that change while they are read: each is read as it was at some moment, or is left out."""

from __future__ import annotations

import collections
import pathlib
import sys
import threading

from support_values import assert_plain, plain


def test_containers_that_another_thread_changes():
    """Dicts, lists, sets and deques that change all the time are taken as they were at some moment."""
    table, row, group, queue = {}, [], set(), collections.deque()
    properties = {"odd": pathlib.PurePosixPath("x"), "table": table, "row": row, "group": group, "queue": queue}
    stop, running = threading.Event(), threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            table[number % 997] = [number]
            table.pop(number * 7 % 997, None)
            group.symmetric_difference_update({number % 97, number % 89})
            row.append({"n": number})
            queue.append(number)
            if len(row) > 300:
                row.clear()
                queue.clear()
            running.set()

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        assert running.wait(10)
        for _ in range(60):
            result = plain(properties)
            assert [type(item) for item in result.values()] == [str, dict, list, list, list]
            assert_plain(result)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_a_container_that_changes_during_a_read():
    """A container that another thread changed while it was read is read again."""
    reads = []

    class Busy(collections.abc.Mapping):
        def __iter__(self):
            reads.append(1)
            yield "a"
            if len(reads) < 4:
                raise RuntimeError("dictionary changed size during iteration")

        def __len__(self):
            return 1

        def __getitem__(self, key):
            return key

    assert plain({"value": Busy()}) == {"value": {"a": "a"}}


def test_a_container_that_changes_during_every_read():
    """A container that never holds still is described; it is not tried forever, and nothing is raised."""

    class Restless(collections.abc.Mapping):
        def __iter__(self):
            raise RuntimeError("changed")

        def __len__(self):
            return 1

        def __getitem__(self, key):
            return key

        def __repr__(self):
            return "Restless()"

    assert plain({"value": Restless(), "n": 1}) == {"value": "Restless()", "n": 1}
