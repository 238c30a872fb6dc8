"""The wire: every message comes back as it was encoded, however the pipe cuts the stream."""

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
    LineError,
    LineTooLong,
    NotAnEvent,
    Outcome,
    OutgoingEvent,
    Ready,
    Watch,
    encode,
)
from support_wire import GOOD, UUID, decode, event_line, event_of

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
        watch=Watch(
            pid=7, started=123456, began=1700000000.5, crash=True, hang_after=300.0, vanished="gone", own=("a", "b.c")
        ),
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


# Errors


def test_the_errors_are_one_tree():
    """Every lost line is a `LineError`."""
    for kind in (CorruptLine, NotAnEvent, LineTooLong):
        assert issubclass(kind, LineError)
        error = kind(3, "why")
        assert (error.line_number, error.detail, error.args) == (3, "why", (3, "why"))


def test_the_errors_say_what_happened():
    """Each error's text is made from its fields."""
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
