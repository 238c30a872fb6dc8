"""`Stats`: what became of the events, and no event counted twice."""

from __future__ import annotations

import threading

from atotelemetry.host.stats import Counter, Stats


def test_an_event_that_moves_on_while_it_is_counted_is_not_counted_twice(new_client, monkeypatch):
    """The numbers are read in the order opposite to an event's way, or more would have left than came."""
    client = new_client()

    class Moving:
        """A feeder that hands over an event, captured just now, whenever it is asked for anything."""

        def fate(self):
            self.added()
            return client.counts.handed_over, {}

        def added(self):
            client.counts.capture()
            client.counts.handed_over += 1
            return 0

    with monkeypatch.context() as patch:
        patch.setattr(client, "_feeder", Moving())
        for number in range(1, 4):
            stats = client.stats
            assert (stats.captured, stats.handed_over, stats.queued) == (2 * number, 2 * number, 0)
            assert (stats.delivered, stats.on_the_way) == (2 * number - 1, 1)


def test_stats_say_what_became_of_the_events():
    """The counts always add up, and show themselves readably."""
    stats = Stats(10, 6, {"queue full": 2, "error": 1}, 3, {"sender died": 2})
    assert (stats.captured, stats.handed_over, stats.dropped, stats.queued) == (10, 6, 3, 1)
    assert (stats.delivered, stats.lost, stats.on_the_way) == (3, 2, 1)
    assert repr(stats) == (
        "Stats(captured=10, queued=1, dropped=3, handed_over=6, delivered=3, lost=2, on_the_way=1, "
        "dropped_by_reason={'queue full': 2, 'error': 1}, lost_by_reason={'sender died': 2})"
    )


def test_a_counter_counts_across_threads():
    """No increment is lost however many threads count, and looking does not count."""
    counter = Counter()
    assert counter.value == 0
    threads = [threading.Thread(target=lambda: [counter.add() for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == counter.value == 40_000
