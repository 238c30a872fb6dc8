"""`CaptureServer` speaks protocol v1: it refuses the same requests as PostHog, and gives a verdict on each event."""

from __future__ import annotations

import gzip
import http.client
import json

import pytest

from atotelemetry.testing import Answer, CaptureServer

PATH = "/i/v1/analytics/events"
ID, OTHER = "0190c0de-0000-7000-8000-000000000001", "0190c0de-0000-7000-8000-000000000002"
HEADERS = {
    "Authorization": "Bearer phc_test",
    "Content-Type": "application/json",
    "User-Agent": "test/1",
    "PostHog-Sdk-Info": "test/1",
    "PostHog-Attempt": "1",
    "PostHog-Request-Id": ID,
    "PostHog-Request-Timestamp": "2030-01-02T03:04:05Z",
}
EVENT = {"event": "e", "uuid": ID, "distinct_id": "me", "timestamp": "2030-01-02T03:04:05Z", "properties": {"n": 1}}
BATCH = {"created_at": "2030-01-02T03:04:05Z", "batch": [EVENT]}


@pytest.fixture
def server():
    with CaptureServer() as running:
        yield running


def post(server, body=BATCH, path=PATH, method="POST", **headers):
    """Send a request; header names are written with underscores, and None leaves one out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    known = {name: value for name, value in {**HEADERS, **given}.items() if value is not None}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**known, "Content-Length": str(len(data))}.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def with_event(**fields):
    event = {**EVENT, **fields}
    return {**BATCH, "batch": [{name: value for name, value in event.items() if value is not ...}]}


def test_an_event_is_kept(server):
    """The answer names it, and says ok."""
    status, body = post(server)
    assert (status, json.loads(body)) == (200, {"results": {ID: {"result": "ok"}}})
    assert server.events == [EVENT]
    assert server.requests[0].api_key == "phc_test"


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", f"{PATH}?ip=1"])
def test_ways_to_write_the_path(server, path):
    """With a slash at the end, and with a query."""
    assert post(server, path=path)[0] == 200


def test_a_compressed_body(server):
    """It is read like any other."""
    data = gzip.compress(json.dumps(BATCH).encode())
    assert post(server, data, Content_Encoding="gzip")[0] == 200
    assert server.events == [EVENT]


@pytest.mark.parametrize(
    ("request_", "status", "tag"),
    [
        ({"Authorization": None}, 401, "missing_authorization"),
        ({"Authorization": "Basic abc"}, 400, "invalid_header_value"),
        ({"Authorization": "Bearer phx_personal"}, 401, "invalid_api_token"),
        ({"Authorization": "Bearer "}, 401, "invalid_api_token"),
        ({"PostHog_Sdk_Info": None}, 400, "missing_required_headers"),
        ({"PostHog_Attempt": None}, 400, "missing_required_headers"),
        ({"PostHog_Request_Id": None}, 400, "missing_required_headers"),
        ({"PostHog_Request_Timestamp": None}, 400, "missing_required_headers"),
        ({"User_Agent": None}, 400, "missing_required_headers"),
        ({"Content_Type": None}, 400, "missing_required_headers"),
        ({"Content_Type": "text/plain"}, 415, "unsupported_content_type"),
        ({"Content_Encoding": "lz4"}, 415, "unsupported_encoding"),
        ({"PostHog_Attempt": "0"}, 400, "invalid_header_value"),
        ({"PostHog_Attempt": "x"}, 400, "invalid_header_value"),
        ({"PostHog_Request_Id": "x"}, 400, "invalid_header_value"),
        ({"PostHog_Request_Timestamp": "soon"}, 400, "invalid_header_value"),
        ({"body": b""}, 400, "empty_body"),
        ({"body": b"{"}, 400, "request_parsing_error"),
        ({"body": b'{"created_at": "x", "batch": [NaN]}'}, 400, "request_parsing_error"),
        ({"body": b"x", "Content_Encoding": "gzip"}, 400, "request_decoding_error"),
        ({"body": [EVENT]}, 400, "request_parsing_error"),
        ({"body": {"batch": [EVENT]}}, 400, "request_parsing_error"),
        ({"body": {**BATCH, "created_at": "soon"}}, 400, "invalid_batch"),
        ({"body": {**BATCH, "batch": []}}, 400, "empty_batch"),
        ({"body": {**BATCH, "historical_migration": "yes"}}, 400, "request_parsing_error"),
        ({"body": {**BATCH, "batch": [EVENT, EVENT]}}, 400, "duplicate_event_uuid"),
        ({"body": with_event(uuid="x")}, 400, "invalid_event_uuid"),
        ({"body": with_event(uuid=...)}, 400, "request_parsing_error"),
        ({"body": with_event(distinct_id=7)}, 400, "request_parsing_error"),
        ({"body": with_event(timestamp=...)}, 400, "request_parsing_error"),
        ({"body": with_event(session_id=7)}, 400, "request_parsing_error"),
        ({"method": "PUT"}, 405, "method_not_allowed"),
    ],
)
def test_a_request_that_posthog_refuses(server, request_, status, tag):
    """With its status, and its own error object."""
    answered, body = post(server, **request_)
    assert (answered, json.loads(body)["error"]) == (status, tag)
    assert server.events == []


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({"event": ""}, "missing_event_name"),
        ({"event": "x" * 201}, "event_name_too_long"),
        ({"distinct_id": " "}, "missing_distinct_id"),
        ({"distinct_id": "x" * 201}, "distinct_id_too_large"),
        ({"timestamp": "2030-01-02T03:04:05"}, "invalid_event_timestamp"),
        ({"timestamp": "2030-01-02"}, "invalid_event_timestamp"),
        ({"properties": []}, "malformed_event_properties"),
        ({"options": []}, "invalid_options"),
        ({"options": {"cookieless_mode": "perhaps"}}, "invalid_options"),
        ({"options": {"product_tour_id": True}}, "invalid_options"),
    ],
)
def test_an_event_that_posthog_drops(server, fields, details):
    """It costs itself alone, and the answer says why."""
    body = {**BATCH, "batch": [{**EVENT, **fields}, {**EVENT, "uuid": OTHER}]}
    status, answer = post(server, body)
    expected = {ID: {"result": "drop", "details": details}, OTHER: {"result": "ok"}}
    assert (status, json.loads(answer)["results"]) == (200, expected)
    assert [event["uuid"] for event in server.events] == [OTHER]


def test_verdicts_on_demand(server):
    """By the name of an event or by its uuid; events dropped or wanted again do not count as accepted."""
    server.respond(Answer(results={"e": "retry", OTHER: {"result": "drop", "details": "billing_limit_exceeded"}}))
    status, answer = post(server, {**BATCH, "batch": [EVENT, {**EVENT, "event": "f", "uuid": OTHER}]})
    expected = {ID: {"result": "retry"}, OTHER: {"result": "drop", "details": "billing_limit_exceeded"}}
    assert (status, json.loads(answer)["results"]) == (200, expected)
    assert server.events == []
    server.respond()
    post(server)
    assert server.wait_for_events(1) == [EVENT]


@pytest.mark.parametrize(
    ("protocol", "path", "status"),
    [("v0", PATH, 404), ("v1", PATH, 200), ("v1", "/batch/", 404), ("v0", "/batch/", 200)],
)
def test_a_server_of_one_protocol(protocol, path, status):
    """It does not have the endpoints of the other."""
    body = BATCH if path == PATH else {"api_key": "k", "batch": [EVENT]}
    with CaptureServer(protocol=protocol) as server:
        assert post(server, body, path)[0] == status
