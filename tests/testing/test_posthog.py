"""What the capture server accepts and refuses: PostHog's own rules."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atotelemetry.testing import Answer, CaptureServer
from support_capture_server import UUID, batch, client, event, post


def nested(depth):
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"in": value}
    return value


# -- accepting


def test_batch_is_accepted(server):
    """A batch is answered as PostHog does, and its events are there when the client has its answer."""
    assert post(server, batch(event("one"), event("two"))) == (200, '{"status": 1}')
    assert [e["event"] for e in server.events] == ["one", "two"]
    (request,) = server.requests
    assert (request.method, request.path, request.status) == ("POST", "/batch/", 200)
    assert (request.api_key, request.sent_at) == ("phc_test", "2026-01-02T03:04:05Z")
    assert request.accepted
    assert request.answer == Answer()
    assert abs(time.time() - request.received_at) < 60


def test_single_event_shape(server):
    """A lone event reads the same as one of a batch: the key belongs to the request, not to the event."""
    assert post(server, {"api_key": "phc_test", **event()}, "/capture/")[0] == 200
    assert server.events == [event()]
    assert server.requests[0].api_key == "phc_test"


def test_array_of_events_with_their_own_key(server):
    """An array of events is accepted with the key in the events."""
    assert post(server, [event(properties={"token": "phc_inside"})], "/e/")[0] == 200
    assert server.requests[0].api_key == "phc_inside"


@pytest.mark.parametrize(
    "path", ["/capture", "/capture/", "/batch", "/batch/", "/e", "/e/", "/i/v0/e", "/i/v0/e/?ip=1"]
)
def test_every_path_takes_every_shape(server, path):
    """All of PostHog's capture paths take batches and single events, with and without a slash or a query."""
    assert post(server, batch(event()), path)[0] == 200
    assert post(server, {"api_key": "phc_test", **event()}, path)[0] == 200
    assert len(server.events) == 2


def test_gzip(server):
    """A gzip body is recorded decompressed, beside its length on the wire."""
    plain = json.dumps(batch(*[event()] * 50)).encode()
    packed = gzip.compress(plain)
    assert post(server, packed, headers={"Content-Encoding": "gzip"})[0] == 200
    assert server.requests[0].body == plain
    assert server.requests[0].wire_bytes == len(packed)
    assert len(server.events) == 50


def test_chunked_body(server):
    """A body without a length is read chunk by chunk."""
    plain = json.dumps(batch(event())).encode()
    with client(server) as connection:
        connection.request("POST", "/batch/", iter([plain[:10], plain[10:]]), encode_chunked=True)
        assert connection.getresponse().status == 200
    assert server.requests[0].body == plain
    assert server.requests[0].wire_bytes == len(plain)


def test_headers_ignore_case(server):
    """A recorded header is found by its name in any case."""
    post(server, batch(event()), headers={"User-Agent": "atopile/1.0"})
    assert server.requests[0].headers["user-AGENT"] == "atopile/1.0"


def test_connection_numbers_prove_keep_alive(server):
    """Requests on one TCP connection carry the same number, those on another a different one."""
    with client(server) as connection:
        post(server, batch(event()), connection=connection)
        post(server, batch(event()), connection=connection)
    post(server, batch(event()))
    assert [request.connection for request in server.requests] == [0, 0, 1]
    assert server.connection_count == 2


def test_sixty_four_clients_at_once(server):
    """Clients that all connect at the same moment are all served."""
    at_once = threading.Barrier(64)

    def send(number):
        at_once.wait(10)
        return post(server, batch(event(f"from {number}")))[0]

    with ThreadPoolExecutor(64) as clients:
        assert set(clients.map(send, range(64))) == {200}
    assert {e["event"] for e in server.events} == {f"from {number}" for number in range(64)}


# -- judging


@pytest.mark.parametrize(
    ("payload", "path", "status", "reason"),
    [
        (batch(event()), "/elsewhere/", 404, "not found"),
        (batch(event()), "//batch/", 404, "not found"),
        ({"batch": [event()]}, "/batch/", 401, "without an api_key"),
        ({"api_key": "", "batch": [event()]}, "/batch/", 401, "without an api_key"),
        ([event(token="a"), event(token="b")], "/e/", 401, "inconsistent"),
        (b'{"api_key": "k", "batch": [', "/batch/", 400, "failed to parse"),
        (b"", "/batch/", 400, "failed to parse"),
        (json.dumps(batch(event())).encode("utf-16"), "/batch/", 400, "failed to parse"),
        (b"[" * 200_000, "/batch/", 400, "failed to parse"),
        (b'{"api_key": "k", "event": "\xff", "distinct_id": "d"}', "/capture/", 400, "failed to parse"),
        (batch(event(properties={"ratio": math.nan})), "/batch/", 400, "NaN"),
        (batch(event(properties={"ratio": -math.inf})), "/batch/", 400, "Infinity"),
        (b'{"api_key":"k","event":"e","distinct_id":"d","n":1e400}', "/batch/", 400, "number out of range"),
        (batch(event(properties={"n": -(10**400)})), "/batch/", 400, "number out of range"),
        (batch(event(properties={"p": "\ud800"})), "/batch/", 400, "lone surrogate"),
        (batch(event(properties={"\udfff": 1})), "/batch/", 400, "lone surrogate"),
        (batch(event(properties=nested(124))), "/batch/", 400, "recursion limit"),
        (batch(event(), event("")), "/batch/", 400, "event 1 submitted with an empty event name"),
        (batch({"distinct_id": "d"}), "/batch/", 400, "missing field `event`"),
        (batch(event(), event(uuid="no-uuid")), "/batch/", 400, "event 1: invalid uuid 'no-uuid'"),
        (batch(event(uuid=7)), "/batch/", 400, "invalid uuid"),
        (batch(event(properties=[])), "/batch/", 400, "`properties`"),
        (batch({"event": "e"}), "/batch/", 400, "without a distinct_id"),
        (batch(event(distinct_id="")), "/batch/", 400, "without a distinct_id"),
        (batch("no event"), "/batch/", 400, "not an event"),
        ({"api_key": "k", "batch": {}}, "/batch/", 400, "not an event"),
        (7, "/batch/", 400, "not an event"),
        (batch(), "/batch/", 400, "holds no event"),
    ],
)
def test_refuses_what_posthog_refuses(server, payload, path, status, reason):
    """A request that PostHog would refuse is refused whole with its status, in plain text, and still recorded."""
    with client(server) as connection:
        got, text = post(server, payload, path, connection=connection)
        assert (got, reason in text) == (status, True), text
        assert post(server, batch(event("after")), connection=connection)[0] == 200  # the connection is in step
    assert [e["event"] for e in server.events] == ["after"]
    refused = server.requests[0]
    assert (refused.status, refused.accepted, refused.path) == (status, False, path)


@pytest.mark.parametrize("uuid", [None, "", UUID.upper(), UUID.replace("-", "")])
def test_accepts_every_uuid_that_posthog_accepts(server, uuid):
    """A missing, empty, upper-case or hyphenless uuid is no reason to refuse."""
    assert post(server, batch(event(uuid=uuid)))[0] == 200


@pytest.mark.parametrize(
    "value",
    [nested(123), 2**70, -(10**307), 1.7e308, "\U0001f600", "\\ud800"],
    ids=["deep", "beyond 64 bits", "huge", "largest", "surrogate pair", "escaped backslash"],
)
def test_accepts_every_value_that_posthog_accepts(server, value):
    """The most of depth and size, and what only looks like half a character."""
    sent = value if isinstance(value, dict) else {"p": value}
    assert post(server, batch(event(properties=sent)))[0] == 200
    assert server.events[0]["properties"] == sent


def test_distinct_id_may_stand_in_the_properties(server):
    """PostHog takes the distinct_id from the properties, and takes numbers for it."""
    assert post(server, batch({"event": "e", "properties": {"distinct_id": 7}}))[0] == 200


def test_get_is_refused(server):
    """Only POST captures."""
    with client(server) as connection:
        connection.request("GET", "/batch/")
        assert connection.getresponse().status == 405


def test_body_over_the_limit(server):
    """A body over 20 MB is refused with 413, which the client hears although it sends everything first."""
    with client(server) as connection:
        assert post(server, b"x" * (20 * 1024 * 1024 + 1), connection=connection) == (413, "length limit exceeded")
        assert post(server, batch(event()), connection=connection)[0] == 200
    assert server.requests[0].body == b""
    assert server.requests[0].wire_bytes == 20 * 1024 * 1024 + 1


def test_compressed_body_over_the_limit(server):
    """A small body that decompresses to over 20 MB is refused with 413."""
    packed = gzip.compress(bytes(20 * 1024 * 1024 + 1), 1)
    assert post(server, packed, headers={"Content-Encoding": "gzip"})[0] == 413


@pytest.mark.parametrize("body", [b"plain", gzip.compress(b"{}")[:-4]], ids=["no gzip", "cut"])
def test_broken_gzip(server, body):
    """A body that is not what its Content-Encoding says is refused with 400."""
    status, text = post(server, body, headers={"Content-Encoding": "gzip"})
    assert (status, text.startswith("failed to decode request")) == (400, True)
    assert server.requests[0].body == body


def test_without_judging_everything_is_accepted():
    """With judge=False an event that PostHog would refuse is accepted and readable."""
    with CaptureServer(judge=False) as server:
        assert post(server, {"batch": [event("")]}, "/any/path")[0] == 200
        assert post(server, b"no JSON")[0] == 200
        assert server.events == [event("")]
