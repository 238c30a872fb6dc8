"""Whatever is done to the bytes of a stream, only the damaged lines are lost, and each one is reported."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atotelemetry.wire import (
    MAX_EVENT_BYTES,
    CorruptLine,
    Event,
    LineDecoder,
    LineError,
    LineTooLong,
    NotAnEvent,
)
from support_wire import GOOD, UUID, decode, event_line, event_of

CHUNK_BYTES = 64 * 1024


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=40))
def test_damage_costs_the_damaged_lines_alone(lines):
    """A byte overwritten anywhere loses its own line and no other, and every loss is reported with its number."""
    stream = b""
    for number, (is_hit, place) in enumerate(lines):
        line = bytearray(event_line(f"event {number}", {"n": number}))
        if is_hit:
            line[int(place * len(line))] = 0
        stream += line + b"\n"
    messages = decode(stream)
    hit = [number for number, (is_hit, _) in enumerate(lines) if is_hit]
    events = [message.event for message in messages if isinstance(message, Event)]
    assert events == [f"event {number}" for number in range(len(lines)) if number not in hit]
    assert [message.line_number - 1 for message in messages if isinstance(message, LineError)] == hit


# Lines that are lost


@pytest.mark.parametrize(
    ("line", "kind", "detail"),
    [
        (b'{"event":"cut o', CorruptLine, "not valid JSON ("),
        (b"hello", CorruptLine, "not valid JSON ("),
        (b"\x00\xff\xfe", CorruptLine, "not valid JSON ("),
        (b'{"event":"\xff"}', CorruptLine, "not valid JSON ("),
        (b'{"event":"e","properties":{"a":}}', CorruptLine, "not valid JSON ("),
        (b'{"event":"e","properties":{"a":NaN}}', CorruptLine, "not valid JSON ("),
        (b'{"event":"e"} {"event":"e"}', CorruptLine, "not valid JSON ("),
        (b'{"event":"e","properties":' + b"[" * 400_000 + b"]" * 400_000 + b"}", CorruptLine, "not valid JSON ("),
        (b"[]", NotAnEvent, "not an event (Expected `object`"),
        (b'"text"', NotAnEvent, "not an event (Expected `object`"),
        (b"null", NotAnEvent, "not an event (Expected `object`"),
        (b"17", NotAnEvent, "not an event (Expected `object`"),
        (b"{}", NotAnEvent, "not an event (`event` is missing or empty)"),
        (b'{"event":""}', NotAnEvent, "not an event (`event` is missing or empty)"),
        (b'{"properties":{}}', NotAnEvent, "not an event (`event` is missing or empty)"),
        (b'{"event":5}', NotAnEvent, "not an event (Expected `str`"),
        (b'{"event":"e","properties":[]}', NotAnEvent, "not an event (`properties` is not an object)"),
        (b'{"event":"e","properties":"no"}', NotAnEvent, "not an event (`properties` is not an object)"),
        (b'{"event":"e","properties":1}', NotAnEvent, "not an event (`properties` is not an object)"),
        (b'{"event":"e","context":true}', NotAnEvent, "not an event (`context` is not an object)"),
        (b'{"event":"e","distinct_id":[]}', NotAnEvent, "not an event (Expected `int | str | null`"),
        (b'{"event":"e","timestamp":1}', NotAnEvent, "not an event (Expected `str | null`"),
        (b'{"type":"hello"}', NotAnEvent, "not an event (Object missing required field"),
        (b'{"type":"forked","event":7}', NotAnEvent, "not an event (Expected `str`"),
        (b'{"type":"end","captured":"many"}', NotAnEvent, "not an event (Expected `int`"),
    ],
)
def test_a_bad_line_costs_itself_alone(line, kind, detail):
    """What is no message of the protocol is reported with its line number, and its neighbours arrive."""
    before, error, after = decode(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert (before.event, after.event) == ("good", "good")
    assert type(error) is kind
    assert error.line_number == 2
    assert str(error).startswith(f"line 2: {detail}")


@pytest.mark.parametrize(
    "uuid",
    [
        *("", "x", UUID[:-1], UUID + "0", "g" + UUID[1:], "_" * 32, " " * 32, "1_" * 16),
        *("0x" + "1" * 30, "\u0663" * 32, "019301930193019301930193019301930"[:32] + "----"),
    ],
)
def test_a_uuid_that_posthog_would_refuse_costs_its_line_alone(uuid):
    """One bad uuid in a batch would have the whole batch refused, so it never gets there."""
    error, after = decode(b'{"event":"e","uuid":"' + uuid.encode() + b'"}\n' + GOOD + b"\n")
    assert type(error) is NotAnEvent
    assert str(error) == f"line 1: not an event (`uuid` is no UUID: {uuid!r})"
    assert after.event == "good"


def test_a_huge_bad_uuid_is_not_repeated_in_the_report():
    """The report of a bad uuid shows its beginning, not all of it."""
    (error,) = decode(b'{"event":"e","uuid":"' + b"9" * 10_000 + b'"}\n')
    assert len(str(error)) < 200


def test_blank_lines_are_nothing_but_counted():
    """Empty lines and lines of white space are skipped, and keep the numbers of those after them right."""
    messages = decode(b"\n\n  \n\r\n\t\n" + GOOD + b"\n\n{\n\n")
    assert [type(message) for message in messages] == [Event, CorruptLine]
    assert messages[1].line_number == 8


def test_a_byte_order_mark_costs_nothing():
    """Some editors begin a file with one; anywhere else it is no JSON."""
    assert [type(message) for message in decode(b"\xef", b"\xbb\xbf" + GOOD + b"\n")] == [Event]
    assert decode(b"\xef\xbb\xbf\n") == []
    assert [type(message) for message in decode(GOOD + b"\n\xef\xbb\xbf" + GOOD + b"\n")] == [Event, CorruptLine]


@pytest.mark.parametrize("value", [b"7", b'"x"', b"[[]]"])
def test_a_line_has_no_say_in_its_own_size(value):
    """Whatever it has under that name."""
    line = b'{"event":"good","size_bytes":' + value + b"}"
    (message,) = decode(line)
    assert message.size_bytes == len(line)


@pytest.mark.parametrize(
    ("line", "is_hello"),
    [
        (b'{"type":"hello","protocol":1,"api_k', True),
        (b'{"event":"torn","dist{ "type" :\t"hello", "protocol":1,"api_key":"k","host":"h"}', True),
        (b'{"type":"hello","protocol":1,"api_key":"k"}', True),
        (b'{"type":"hello","x":"' + b"x" * MAX_EVENT_BYTES + b'"}', True),
        (b'{"protocol":1,"api_key":"k","host":"h","type":"hello","app":', True),
        (b'{"protocol":"one","type":"hello"}', True),
        # Events that only speak of one: they cost themselves, as any other.
        (b'{"event":"x","distinct_id":1.5,"properties":{"type":"hello"}}', False),
        (b'{"event":"x","properties":{"type":"hello"},"distinct', False),
        (b'{"event":"x","properties":{"type":"hello","x":"' + b"x" * MAX_EVENT_BYTES + b'"}}', False),
        (b'{"event":"torn","properties":{"text":"\\"type\\":\\"hello\\""', False),
        (b'{"event":""}', False),
        (b"x" * (MAX_EVENT_BYTES + 1), False),
    ],
)
def test_a_damaged_hello_is_told_from_other_damage(line, is_hello):
    """After it, nothing may go to where the stream before it went."""
    for parts in ([line + b"\n"], [line[:20], line[20:], b"\n"]):
        error, after = decode(*parts, GOOD + b"\n")
        assert isinstance(error, LineError)
        assert error.is_hello == is_hello
        assert isinstance(after, Event)


def test_windows_line_ends_are_taken():
    """A stream that was edited on Windows is read like any other."""
    (event, end) = decode(GOOD + b"\r\n" + b'{"type":"end","captured":1}\r\n')
    assert event.event == "good"
    assert end.captured == 1


def test_a_last_line_without_newline_counts():
    """Who writes a stream by hand may forget the last newline."""
    decoder = LineDecoder()
    assert decoder.feed(GOOD) == []
    (event,) = decoder.close()
    assert event.event == "good"
    assert decoder.line_number == 1


def test_a_torn_last_line_is_reported():
    """The line that a dying host could not finish is lost, and said to be."""
    first, torn = decode(GOOD + b"\n" + GOOD[:-2])
    assert first.event == "good"
    assert type(torn) is CorruptLine
    assert torn.line_number == 2


def test_the_end_of_an_ended_stream_is_nothing():
    """After the last newline nothing is left to report."""
    assert decode() == []
    assert len(decode(GOOD + b"\n")) == 1


# Size


def test_a_line_of_exactly_the_limit_is_taken():
    """The limit itself is still an event, in one piece and in many."""
    line = event_of(MAX_EVENT_BYTES)
    assert len(line) == MAX_EVENT_BYTES
    for parts in ([line + b"\n"], [line, b"\n"], [line[:1000], line[1000:] + b"\n"], [line]):
        (event,) = decode(*parts)
        assert (event.event, event.size_bytes) == ("big", MAX_EVENT_BYTES)


def test_a_line_over_the_limit_costs_itself_alone():
    """One byte too many loses the line, once, with its number; the lines around it arrive."""
    long = event_of(MAX_EVENT_BYTES + 1)
    for parts in (
        [GOOD + b"\n" + long + b"\n" + GOOD + b"\n"],
        [GOOD + b"\n" + long[:50], long[50:] + b"\n" + GOOD + b"\n"],
        [GOOD + b"\n" + long, b"\n" + GOOD],
        [GOOD + b"\n" + long, long, long + b"\n" + GOOD],
    ):
        before, error, after = decode(*parts)
        assert (before.event, after.event) == ("good", "good")
        assert type(error) is LineTooLong
        assert str(error) == f"line 2: longer than {MAX_EVENT_BYTES} bytes"


def test_an_endless_line_is_never_kept():
    """Fifty megabytes without a newline are reported once and take no more memory than one line may."""
    decoder = LineDecoder()
    chunk = b"x" * CHUNK_BYTES
    tracemalloc.start()
    try:
        messages = [message for _ in range(800) for message in decoder.feed(chunk)]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert messages == []
    # A bytearray grows ahead of its need by an eighth, and has the old and the new block while it moves.
    assert peak_bytes < 2 * (MAX_EVENT_BYTES * 9 // 8 + CHUNK_BYTES)
    error, event = decoder.feed(b"\n" + GOOD + b"\n")
    assert (type(error), event.event) == (LineTooLong, "good")
    assert decoder.line_number == 2


def test_the_decoder_keeps_no_more_than_one_line():
    """However much comes, what is kept between two calls is at most one unfinished line of the limit."""
    parts = (event_of(MAX_EVENT_BYTES), b"x", b"y" * 10_000_000, b"z\n" + GOOD, b"\n" * 1000, b"a" * 500)
    tracemalloc.start()
    try:
        decoder = LineDecoder()
        for part in parts:
            decoder.feed(part)
            kept_bytes = tracemalloc.get_traced_memory()[0]
            assert kept_bytes < MAX_EVENT_BYTES * 9 // 8 + CHUNK_BYTES  # a bytearray grows by an eighth
    finally:
        tracemalloc.stop()
    assert decoder.close()[0].line_number == decoder.line_number


def test_an_endless_line_that_ends_with_the_stream_is_reported_once():
    """The end of the stream finishes the line."""
    decoder = LineDecoder()
    assert decoder.feed(b"x" * (MAX_EVENT_BYTES + 1)) == []
    assert [type(message) for message in decoder.close()] == [LineTooLong]
    assert decoder.line_number == 1
