"""The wire: whatever is done to the bytes of a stream, only the damaged lines are lost, and each one is reported."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atotelemetry import wire
from atotelemetry.wire import (
    MAX_ANSWER_BYTES,
    MAX_EVENT_BYTES,
    PROTOCOL_VERSION,
    AnswerDecoder,
    CorruptLine,
    End,
    Event,
    Forked,
    Hello,
    LineDecoder,
    LineError,
    LineTooLong,
    NotAnEvent,
    Outcome,
    OutgoingEvent,
    Ready,
    Watch,
    encode,
)

UUID = "0193b5a4-7c1e-7d33-9c1e-8f2a7d9b6e10"
GOOD = b'{"event":"good"}'
CHUNK_BYTES = 64 * 1024

UNICODE = st.characters(codec="utf-8")  # without lone surrogates, which have no UTF-8
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(UNICODE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(UNICODE), inner, max_size=4),
    max_leaves=10,
)


def event_line(name: str = "built", properties: object = None, context: object = None) -> bytes:
    return encode(OutgoingEvent(UUID, name, "me", "2026-01-02T03:04:05.000006Z", properties or {}, context))


def decode(*parts: bytes) -> list:
    """Decode a whole stream that arrives in these parts."""
    decoder = LineDecoder()
    messages = [message for part in parts for message in decoder.feed(part)]
    return messages + decoder.close()


def told(messages: list) -> list:
    """Say comparably what was decoded: `Raw` compares by identity."""
    said = []
    for message in messages:
        if isinstance(message, LineError):
            said.append((type(message).__name__, str(message)))
        else:
            said.append(json.loads(encode(message)) if not isinstance(message, Event) else fields(message))
    return said


def fields(event: Event) -> tuple:
    return (
        event.event,
        event.uuid,
        event.distinct_id,
        event.timestamp,
        bytes(event.properties),
        bytes(event.context),
        event.size_bytes,
    )


def event_of(size_bytes: int) -> bytes:
    """Return a good event line that is exactly so long."""
    head, tail = b'{"event":"big","properties":{"a":"', b'"}}'
    return head + b"x" * (size_bytes - len(head) - len(tail)) + tail


STREAM = (
    b'{"type":"hello","protocol":1,"api_key":"key","host":"http://127.0.0.1"}\n'
    + event_line("first", {"a": "é\n"})
    + b"\n\r\n"
    + b'{"event":"bro\n'
    + event_line("second", {"b": [1, None]}, {"ip": "0"})
    + b"\r\n[]\n"
    + b'{"type":"end","captured":2,"dropped":0}\n'
    + b'{"event":"after the end"}'
)


# Round trips


@given(st.text(UNICODE, min_size=1), st.text(UNICODE), st.dictionaries(st.text(UNICODE), JSON, max_size=5))
def test_any_text_and_any_json_comes_back(name, distinct_id, properties):
    """Whatever JSON an event holds, one line carries it whole."""
    line = encode(OutgoingEvent(UUID, name, distinct_id, "now", properties, properties))
    assert b"\n" not in line
    (event,) = decode(line + b"\n")
    assert (event.event, event.distinct_id, event.uuid, event.timestamp) == (name, distinct_id, UUID, "now")
    assert json.loads(bytes(event.properties)) == json.loads(bytes(event.context)) == properties


def test_an_event_comes_back_as_it_was_encoded():
    """Every field of an encoded event is read back, and its size is that of its line."""
    line = event_line("built", {"ok": True}, {"k": "v"})
    (event,) = decode(line + b"\n")
    assert fields(event) == (
        "built",
        UUID,
        "me",
        "2026-01-02T03:04:05.000006Z",
        b'{"ok":true}',
        b'{"k":"v"}',
        len(line),
    )
    assert event.type is None


def test_an_event_line_holds_what_posthog_takes_and_nothing_else():
    """The keys of a line are PostHog's; `context` is there only when there is one."""
    assert list(json.loads(event_line())) == ["uuid", "event", "distinct_id", "timestamp", "properties"]
    assert list(json.loads(event_line(context={"k": 1})))[-1] == "context"
    assert b"\n" not in event_line("two\nlines", {"a": "b\nc"}), "a line is one line whatever it holds"


def test_a_hello_comes_back_as_it_was_encoded():
    """Every setting of a hello survives the pipe, its common properties byte for byte."""
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        api_key="key",
        host="https://example.invalid",
        app="tool",
        app_version="1.2",
        endpoint="batch",
        compression=False,
        max_retries=3,
        request_timeout=1.5,
        sender_deadline=9.0,
        properties=msgspec.Raw(b'{"a": 1.50}'),
        run_properties=("email",),
        cwd="/somewhere",
        watch=Watch(pid=7, started=123456, began=1700000000.5, crash=True, hang_after=300.0, vanished="gone"),
    )
    (read,) = decode(encode(hello) + b"\n")
    assert type(read) is Hello
    for name in Hello.__struct_fields__:
        mine, theirs = getattr(hello, name), getattr(read, name)
        assert (bytes(mine) == bytes(theirs)) if name == "properties" else (mine == theirs), name


def test_a_short_hello_takes_the_defaults():
    """What a hello does not say has its default, so that a person can write one by hand."""
    (hello,) = decode(b'{"type":"hello","protocol":1,"api_key":"k","host":"h"}\n')
    assert (hello.app, hello.endpoint, hello.max_retries, hello.run_properties) == ("atopile", "auto", 1, ())
    assert bytes(hello.properties) == b"{}"
    assert encode(hello) == b'{"type":"hello","protocol":1,"api_key":"k","host":"h"}'


def test_an_end_comes_back_as_it_was_encoded():
    """The counts of an end are read back, and are 0 when it has none."""
    assert decode(encode(End(captured=7, dropped=2)) + b"\n") == [End(captured=7, dropped=2)]
    assert decode(b'{"type":"end"}\n') == [End(captured=0, dropped=0)]


def test_a_forked_comes_back_as_it_was_encoded():
    """The mark of a fork is a line of its own; later versions may say more in it."""
    assert encode(Forked()) == b'{"type":"forked"}'
    assert decode(b'{"type":"forked"}\n{"type":"forked","child":7}\n') == [Forked(), Forked()]


def test_a_watch_says_what_it_can():
    """A system without start times gives none, and each report may be wanted alone."""
    hello = b'{"type":"hello","protocol":1,"api_key":"k","host":"h","watch":{"pid":7,"began":1}}\n'
    assert decode(hello)[0].watch == Watch(pid=7, began=1.0)
    (error,) = decode(hello.replace(b'"pid":7,', b""))
    assert error.is_hello, "a watch without a process is a hello that cannot be used"


def test_raw_values_are_never_touched():
    """The bytes of `properties` and `context` come out as they went in: spaces, escapes and long numbers included."""
    properties = b'{"b" : 1.50e+3,  "a":"\\u00e9\\/", "n":123456789012345678901234567890, "x":[ {} ]}'
    context = b'{ "deep": {"z":1, "a":2} }'
    (event,) = decode(b'{"event":"e","properties":  ' + properties + b' ,"context":' + context + b"}\n")
    assert bytes(event.properties) == properties
    assert bytes(event.context) == context
    assert encode({"p": event.properties}) == b'{"p":' + properties + b"}"


def test_what_an_event_line_lacks_is_empty():
    """A line may hold nothing but `event`; what is null counts as missing."""
    expected = ("e", None, None, None)
    bare, null = decode(b'{"event":"e"}\n{"event":"e","uuid":null,"distinct_id":null,"timestamp":null}\n')
    assert fields(bare)[:4] == fields(null)[:4] == expected
    assert (bytes(bare.properties), bytes(bare.context)) == (b"", b"")
    (nulls,) = decode(b'{"event":"e","properties":null,"context":null}\n')
    assert (bytes(nulls.properties), bytes(nulls.context)) == (b"null", b"null")


def test_unknown_fields_are_ignored():
    """A stream of a later version, or of a person, may say more than this reader knows."""
    stream = b'{"event":"e","$set":{"a":1},"more":[1]}\n{"type":"end","later":true}\n'
    event, end = decode(stream)
    assert event.event == "e"
    assert end == End()


def test_a_number_as_distinct_id_is_kept():
    """PostHog takes a number for a distinct_id, so the reader does."""
    (event,) = decode(b'{"event":"e","distinct_id":42}\n')
    assert event.distinct_id == 42


@pytest.mark.parametrize("uuid", [UUID, UUID.upper(), UUID.replace("-", "")])
def test_every_form_of_a_uuid_is_taken(uuid):
    """With hyphens, in capitals, or plain."""
    (event,) = decode(b'{"event":"e","uuid":"' + uuid.encode() + b'"}\n')
    assert event.uuid == uuid


# Any cut


def test_every_cut_of_a_stream_gives_the_same_messages():
    """Wherever a stream is cut in two, what is decoded is the same."""
    whole = told(decode(STREAM))
    assert [entry[0] if isinstance(entry, tuple) else entry["type"] for entry in whole] == [
        "hello",
        "first",
        "CorruptLine",
        "second",
        "NotAnEvent",
        "end",
        "after the end",
    ]
    for position in range(len(STREAM) + 1):
        assert told(decode(STREAM[:position], STREAM[position:])) == whole, f"cut at {position}"


def test_one_byte_at_a_time_gives_the_same_messages():
    """The smallest pieces there are change nothing, and neither do empty ones."""
    assert told(decode(*(STREAM[i : i + 1] for i in range(len(STREAM))))) == told(decode(STREAM))
    assert told(decode(b"", STREAM, b"")) == told(decode(STREAM))


LIMIT_LINES = (event_of(MAX_EVENT_BYTES), event_of(MAX_EVENT_BYTES + 1))
SMALL_LINES = st.one_of(
    st.sampled_from([GOOD, b"", b"{}", b"{", event_of(5000)]),
    st.builds(event_line, st.text(UNICODE, min_size=1), st.dictionaries(st.text(UNICODE), JSON, max_size=3)),
    st.binary(max_size=30),
)


@given(
    st.lists(SMALL_LINES | st.sampled_from(LIMIT_LINES), max_size=12).map(b"\n".join),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_no_cut_of_a_stream_changes_its_messages(stream, places):
    """Wherever a stream of good, bad and oversized lines is cut, and however often, the messages are the same."""
    cuts = sorted(int(place * len(stream)) for place in places)
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert b"".join(parts) == stream
    assert told(decode(*parts)) == told(decode(stream))


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
    assert [type(message) for message in messages] == [LineTooLong]
    # A bytearray grows ahead of its need by an eighth, and has the old and the new block while it moves.
    assert peak_bytes < 2 * (MAX_EVENT_BYTES * 9 // 8 + CHUNK_BYTES)
    (event,) = decoder.feed(b"\n" + GOOD + b"\n")
    assert event.event == "good"
    assert decoder.line_number == 2


def test_the_decoder_keeps_no_more_than_one_line():
    """However much comes, what is kept between two calls is at most one unfinished line of the limit."""
    decoder = LineDecoder()
    for part in (event_of(MAX_EVENT_BYTES), b"x", b"y" * 10_000_000, b"z\n" + GOOD, b"\n" * 1000, b"a" * 500):
        decoder.feed(part)
        assert len(decoder._partial) <= MAX_EVENT_BYTES
    assert decoder.close()[0].line_number == decoder.line_number


def test_an_endless_line_that_ends_with_the_stream_is_reported_once():
    """The end of the stream finishes a line that was given up already; it counts, and there is no second report."""
    decoder = LineDecoder()
    assert [type(message) for message in decoder.feed(b"x" * (MAX_EVENT_BYTES + 1))] == [LineTooLong]
    assert decoder.close() == []
    assert decoder.line_number == 1


# Errors


def test_the_errors_are_one_tree():
    """Every lost line is a `LineError`."""
    for kind in (CorruptLine, NotAnEvent, LineTooLong):
        assert issubclass(kind, LineError)
        error = kind(3, "why")
        assert (error.line_number, error.detail, error.args) == (3, "why", (3, "why"))


def test_the_errors_say_what_happened():
    """Each error's text is made from its fields."""
    assert str(LineError(4, "why")) == "line 4: why"
    assert str(CorruptLine(4, "why")) == "line 4: not valid JSON (why)"
    assert str(NotAnEvent(4, "why")) == "line 4: not an event (why)"
    assert str(LineTooLong(4)) == f"line 4: longer than {MAX_EVENT_BYTES} bytes"


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", {1.5: {None: object()}}],
    ids=["object", "lone surrogate", "nested object"],
)
def test_values_without_json_form_are_the_callers_business(value):
    """`encode` says by an ordinary exception that a value must be made plain first."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        event_line(properties={"a": value})


def test_the_limit_is_that_of_the_design():
    """900 KiB, protocol version 1."""
    assert (wire.MAX_EVENT_BYTES, wire.PROTOCOL_VERSION) == (900 * 1024, 1)


ANSWERS = [Ready(), Outcome(delivered=3, dropped={"refused (401)": 2}), Outcome(delivered=4, last=True)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_arrive_however_the_pipe_cuts_them(size):
    """The host reads whatever is there at the moment."""
    data = b"".join(encode(answer) + b"\n" for answer in ANSWERS)
    decoder = AnswerDecoder()
    read = [answer for start in range(0, len(data), size) for answer in decoder.feed(data[start : start + size])]
    assert read == ANSWERS


NO_ANSWERS = [b"", b"{", b"\xff", b"null", b'{"type":"hello"}', b'{"type":"outcome","delivered":"x"}']


@pytest.mark.parametrize("line", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
def test_a_line_that_is_no_answer_is_ignored(line):
    """Whatever writes to that pipe, the answers after it are read."""
    assert AnswerDecoder().feed(line + b'\n{"type":"ready"}\n') == [Ready()]


def test_an_endless_answer_takes_no_memory():
    """A host reads the pipe for as long as it lives."""
    decoder = AnswerDecoder()
    chunk = b'{"type":"ready",' + b'"a":1,' * 10_000
    decoder.feed(chunk)
    tracemalloc.start()
    for _ in range(100):
        decoder.feed(chunk)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held_bytes < 4 * MAX_ANSWER_BYTES
    assert decoder.feed(b'"a":1}\n{"type":"ready"}\n') == [Ready()]


def test_an_end_may_ask_to_discard():
    """The person said no meanwhile."""
    assert decode(b'{"type":"end","captured":3,"discard":true}\n') == [End(captured=3, discard=True)]
    assert encode(End(captured=3)) == b'{"type":"end","captured":3}'
