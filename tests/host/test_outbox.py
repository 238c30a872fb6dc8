"""The outbox: each event reaches one pipe as a whole, in order, and is counted once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atotelemetry.host.outbox import Outbox

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8)
# A pipe takes so many bytes; None: it breaks, and another one begins with the hello.
STEPS = st.lists(st.one_of(st.integers(1, 40), st.none()), max_size=30)


@given(LINES, STEPS)
def test_every_event_reaches_one_pipe_as_a_whole(lines: list[bytes], steps: list[int | None]) -> None:
    """A line that breaks off in one pipe is repeated in the next; no other line is."""
    outbox = Outbox()
    for line in lines:
        outbox.add(line)
    pipes = [b""]
    outbox.begin(b"hello")
    counted = 0
    for step in [*steps, 10_000]:
        if step is None:
            outbox.begin(b"hello")
            pipes.append(b"")
            continue
        taken = bytes(outbox.rest()[:step])
        pipes[-1] += taken
        counted += outbox.wrote(len(taken))
        assert counted + len(outbox) == len(lines)
    whole = [pipe.split(b"\n")[:-1] for pipe in pipes]  # no reader uses a part behind the last line break
    assert all(read[:1] in ([], [b"hello"]) for read in whole)
    assert [line for read in whole for line in read[1:]] == lines
    assert counted == len(lines)


@given(LINES, st.integers(0, 60))
def test_dropped_and_counted_are_all(lines: list[bytes], size_bytes: int) -> None:
    """An event that was not written as a whole is dropped, once, and nothing is left."""
    outbox = Outbox()
    for line in lines:
        outbox.add(line)
    outbox.begin(b"hello")
    taken = outbox.rest()[:size_bytes]
    counted = outbox.wrote(len(taken))
    assert counted + outbox.clear() == len(lines)
    assert (len(outbox), bytes(outbox.rest())) == (0, b"")


def test_a_line_that_is_cut_is_given_up():
    """The pipe has a part of it. It counts as one event, its rest is not written, and the next pipe is whole."""
    outbox = Outbox()
    outbox.begin(b"hello")
    outbox.add(b"first")
    outbox.add(b"second")
    assert outbox.cut() == 0
    assert not outbox.cut_off
    outbox.wrote(len(b"hello\nfir"))
    assert outbox.cut() == 1
    assert outbox.cut_off
    assert outbox.clear() == 1
    assert bytes(outbox.rest()) == b""
    outbox.begin(b"hello")
    assert not outbox.cut_off


def test_a_hello_that_is_cut_is_no_event():
    """It is given up all the same."""
    outbox = Outbox()
    outbox.begin(b"hello")
    outbox.add(b"first")
    outbox.wrote(2)
    assert (outbox.cut(), outbox.cut_off, len(outbox)) == (0, True, 1)
