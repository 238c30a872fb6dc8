"""`sender/batch.py`: which events go into a request, and what its body says."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atotelemetry.sender.batch import (
    MADE_UP_BYTES,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_EVENTS,
    Exchange,
    Prepared,
    fill,
    prepare,
)
from atotelemetry.wire import LineDecoder

ENVELOPE_BYTES = 1024  # kept free for what a request holds beside its events


def decode(line):
    (message,) = LineDecoder().feed(line + b"\n")
    return message


def prepared(line, common=None):
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in (common or {}).items()}
    return prepare(decode(line), raw, uuid="made-up-uuid", distinct_id="made-up-id", timestamp="made-up-time")


def request(events, *, api_key, endpoint):
    exchange = Exchange(events, api_key=api_key, endpoint=endpoint, historical_migration=False)
    return exchange.request("now", again=False)


def test_a_whole_event_is_sent_as_it_came():
    """Ids, time, values and context are what the line said."""
    line = b'{"uuid":"0190c0de-0000-7000-8000-000000000001","event":"e","distinct_id":"me","timestamp":"t"'
    done = prepared(line + b',"properties":{"a":1.50,"b":[1, 2]},"context":{"ip":null}}')
    assert json.loads(done.body) == {
        "uuid": "0190c0de-0000-7000-8000-000000000001",
        "event": "e",
        "distinct_id": "me",
        "timestamp": "t",
        "properties": {"a": 1.5, "b": [1, 2]},
        "context": {"ip": None},
    }
    assert b'"a":1.50,"b":[1, 2]' in done.body  # values are not encoded again
    assert (done.uuid, done.name) == ("0190c0de-0000-7000-8000-000000000001", "e")


def test_what_a_line_does_not_say_is_made_up():
    """A line written by hand needs no more than an event."""
    assert json.loads(prepared(b'{"event":"e"}').body) == {
        "uuid": "made-up-uuid",
        "event": "e",
        "distinct_id": "made-up-id",
        "timestamp": "made-up-time",
        "properties": {},
    }


def test_a_number_as_distinct_id_becomes_text():
    """A person's database key is a fine id; PostHog's is a text."""
    assert json.loads(prepared(b'{"event":"e","distinct_id":7}').body)["distinct_id"] == "7"


def test_an_events_own_properties_win():
    """Common properties fill in what an event does not say itself."""
    done = prepared(b'{"event":"e","properties":{"a":"own","n":null}}', {"a": "common", "b": 2, "n": 3})
    assert json.loads(done.body)["properties"] == {"a": "own", "b": 2, "n": None}


def test_integers_that_no_server_reads_become_text():
    """In properties and in context."""
    done = json.loads(
        prepared(b'{"event":"e","properties":{"n":1%s},"context":{"n":2%s}}' % (b"0" * 400, b"0" * 30)).body
    )
    assert done["properties"] == {"n": "1" + "0" * 400}
    assert done["context"] == {"n": "2" + "0" * 30}


def test_no_event_gains_more_than_it_is_counted_for():
    """What a line lacks never adds more than `MADE_UP_BYTES` beside the common properties."""
    line = b'{"event":"e"}'
    common = {"$process_person_profile": msgspec.Raw(b"false")}
    uuid = "0190c0de-0000-7000-8000-000000000001"
    done = prepare(decode(line), common, uuid=uuid, distinct_id=uuid, timestamp="2030-01-02T03:04:05.678901Z")
    assert len(done.body) <= len(line) + MADE_UP_BYTES


def test_a_request_takes_at_most_a_thousand_events():
    """As many as fit by number."""
    assert fill([10] * 5000, endpoint="auto") == MAX_REQUEST_EVENTS
    assert fill([10] * 3, endpoint="batch") == 3


def test_a_request_takes_at_most_four_mebibytes():
    """As many as fit by size; the body itself stays below the limit."""
    body = b'{"p":"' + b"x" * 99_990 + b'"}'
    count = fill([len(body)] * 100, endpoint="auto")
    made = request([Prepared("u", "e", body)] * count, api_key="k" * 40, endpoint="auto")
    assert len(made.body) <= MAX_REQUEST_BYTES < len(made.body) + len(body) + 1024
    assert fill([1000] * 10, endpoint="auto", limit_bytes=5000) == 3


def test_the_first_event_always_goes():
    """An event larger than the limit is sent alone; the server may judge."""
    assert fill([MAX_REQUEST_BYTES * 2, 10], endpoint="auto") == 1
    assert fill([10, MAX_REQUEST_BYTES * 2], endpoint="auto") == 1


def test_the_capture_endpoint_takes_one_event():
    """It has no batch shape."""
    assert fill([10, 10], endpoint="capture") == 1


RUNS = st.tuples(st.sampled_from([1, 2, 700, 1500]), st.sampled_from([10, 1000, 70_000]) | st.integers(1, 5_000_000))


@given(st.lists(RUNS, min_size=1, max_size=6), st.sampled_from([MAX_REQUEST_BYTES, 64 * 1024]))
def test_requests_cover_the_events_in_order(runs, limit_bytes):
    """Whatever the sizes, a request takes as much as fits, and exceeds the limits only for a lone event."""
    sizes = [size for count, size in runs for _ in range(count)]
    while sizes:
        count = fill(sizes, endpoint="auto", limit_bytes=limit_bytes)
        assert 1 <= count <= MAX_REQUEST_EVENTS
        assert count == 1 or sum(sizes[:count]) + count <= limit_bytes
        full = count in (len(sizes), MAX_REQUEST_EVENTS)
        assert full or sum(sizes[: count + 1]) + count + 1 + ENVELOPE_BYTES > limit_bytes
        del sizes[:count]


@pytest.mark.parametrize(
    ("count", "endpoint", "path", "is_batch"),
    [
        (1, "auto", "/capture/", False),
        (2, "auto", "/batch/", True),
        (1, "batch", "/batch/", True),
        (2, "batch", "/batch/", True),
        (1, "capture", "/capture/", False),
    ],
)
def test_the_endpoint_mode_decides_path_and_shape(count, endpoint, path, is_batch):
    """A lone event has PostHog's single-event shape, several its batch shape; a mode may insist on one."""
    made = request([Prepared("u", "e", b'{"event":"e"}')] * count, api_key='k"ey', endpoint=endpoint)
    assert made.path == path
    body = json.loads(made.body)
    assert body == (
        {"api_key": 'k"ey', "batch": [{"event": "e"}] * count, "sent_at": "now"}
        if is_batch
        else {"api_key": 'k"ey', "event": "e"}
    )
