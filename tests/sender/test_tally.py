"""`sender/tally.py`: each event counted once, losses by a few reasons."""

from atotelemetry.sender import reasons
from atotelemetry.sender.journal import Journal
from atotelemetry.sender.tally import Tally

SILENT = Journal(to_stderr=False, verbose=False, log_path=None)


def test_reasons_without_end_do_not_fill_the_memory():
    """A server may say something new each time."""
    tally = Tally(SILENT)
    for number in range(1000):
        tally.drop(1, f"HTTP 400: request {number}", "refused (400)")
    assert sum(tally.dropped.values()) == 1000
    assert len(tally.dropped) <= 51


def test_causes_without_end_do_not_fill_an_answer():
    """Some are counted as `other`."""
    tally = Tally(SILENT)
    for status in range(400, 600):
        tally.drop(1, "no", reasons.of_status(status))
    assert sum(tally.lost.values()) == 200
    assert len(tally.lost) <= 51
    assert tally.lost[reasons.OTHER] == 150


def test_an_event_without_a_fate_is_no_success():
    """Whatever was read must be delivered or dropped in the end; until then it may still be lost."""
    tally = Tally(SILENT)
    assert tally.complete
    tally.read = 3
    assert not tally.complete
    tally.delivered = 3
    assert tally.complete
    tally.read = 4
    assert (tally.complete, tally.undecided) == (False, 1)


def test_the_summary_names_what_is_wrong():
    """And only that."""
    tally = Tally(SILENT)
    tally.read, tally.bad_lines, tally.unread = 1, 1, True
    tally.drop(1, "HTTP 400", "refused (400)")
    assert str(tally) == "1 event read, 0 delivered, 1 dropped (1 x HTTP 400), 1 bad line, input left unread"
