"""`sender/protocol_v1.py` and `sender/endpoints.py`: requests, verdicts, and servers that know only older endpoints."""

import datetime
import json
import socket
import uuid

import pytest

from atotelemetry.sender.batch import Prepared
from atotelemetry.sender.outcome import DELIVERED, RETRY, Outcome
from atotelemetry.sender.protocol_v1 import Exchange, to_v1
from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.version import __version__
from support_sender import END, KEY, RunningSender, Staller, event, events, hello, read_request, run_sender, to

PATH = "/i/v1/analytics/events"


@pytest.fixture
def server():
    with CaptureServer() as running:
        yield running


def v1(server, **options):
    return to(server.url, protocol="v1", **options)


def names(events):
    return [event["event"] for event in events]


def envelope(request):
    body = json.loads(request.body)
    del body["batch"]
    return body


def a_time(text):
    return text.endswith("Z") and datetime.datetime.fromisoformat(text)


# ---- a request


def test_a_request(server):
    """Path, headers and envelope; the key is in a header and nowhere else."""
    done = run_sender(hello(server.url, capture_protocol="v1", app="my-cli", app_version="1"), events(2), END)
    assert done.exit_code == 0, done.stderr
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", PATH)
    headers = request.headers
    assert headers.get_all("Authorization") == [f"Bearer {KEY}"]
    assert headers.get_all("Content-Type") == ["application/json"]
    assert headers["User-Agent"] == "my-cli/1"
    assert headers["PostHog-Sdk-Info"] == f"atotelemetry/{__version__}"
    assert headers["PostHog-Attempt"] == "1"
    assert uuid.UUID(headers["PostHog-Request-Id"])
    assert a_time(headers["PostHog-Request-Timestamp"])
    assert list(envelope(request)) == ["created_at"]
    assert a_time(envelope(request)["created_at"])
    assert KEY.encode() not in request.body
    assert names(server.events) == ["e0", "e1"]
    assert set(server.events[0]) == {"event", "uuid", "distinct_id", "timestamp", "properties"}
    assert "$lib" not in server.events[0]["properties"]
    assert server.events[0]["properties"]["$python_version"]


def test_a_lone_event_has_no_endpoint_of_its_own(server):
    """One path for all, compressed above a small size as ever."""
    done = run_sender(event("e", properties={"text": "x" * 5000}), arguments=v1(server))
    assert done.exit_code == 0, done.stderr
    (request,) = server.requests
    assert (request.path, request.headers["Content-Encoding"]) == (PATH, "gzip")


@pytest.mark.parametrize("wanted", [True, False])
def test_an_import_of_old_events_is_marked(server, wanted):
    """The mark is there only if the host asks for it."""
    line = hello(server.url, capture_protocol="v1", historical_migration=wanted)
    assert run_sender(line, event("e"), END).exit_code == 0
    assert envelope(server.requests[0]).get("historical_migration") == (True if wanted else None)


@pytest.mark.parametrize("protocol", ["v0", "v1"])
@pytest.mark.parametrize("disable", [True, False])
def test_geoip(server, protocol, disable):
    """PostHog is asked not to look up a place, unless the host wants it."""
    line = hello(server.url, capture_protocol=protocol, disable_geoip=disable)
    assert run_sender(line, event("e"), END).exit_code == 0
    assert server.events[0]["properties"].get("$geoip_disable") == (True if disable else None)


def test_an_import_by_the_older_protocol_is_marked_too(server):
    """A batch carries the mark, so a lone event is a batch."""
    assert run_sender(hello(server.url, historical_migration=True), event("e"), END).exit_code == 0
    (request,) = server.requests
    assert request.path == "/batch/"
    assert json.loads(request.body)["historical_migration"] is True


# ---- an event


def moved(properties, **fields):
    known = {"event": "e", "uuid": "u", "distinct_id": "me", "timestamp": "2030-01-02T03:04:05Z"}
    return json.loads(to_v1(json.dumps({**known, **fields, "properties": properties}).encode()))


@pytest.mark.parametrize(
    ("properties", "options"),
    [
        ({"$process_person_profile": False}, {"process_person_profile": False}),
        ({"$cookieless_mode": True}, {"cookieless_mode": True}),
        ({"$ignore_sent_at": True}, {"disable_skew_correction": True}),
        ({"$product_tour_id": "t1"}, {"product_tour_id": "t1"}),
        (
            {"$cookieless_mode": "TRUE", "$ignore_sent_at": "0"},
            {"cookieless_mode": True, "disable_skew_correction": False},
        ),
        ({"$cookieless_mode": 1}, {"cookieless_mode": True}),
        ({"$cookieless_mode": None, "$product_tour_id": None}, None),
        ({"$cookieless_mode": "perhaps", "$process_person_profile": [1], "$product_tour_id": 7}, None),
        ({}, None),
    ],
)
def test_properties_that_are_options_now(properties, options):
    """Under their new names, as the type that the server wants; unset ones are left out."""
    event = moved({"n": 1, **properties})
    assert event.get("options") == options
    assert event["properties"] == {"n": 1}


def test_properties_that_are_fields_now():
    """Session and window are at the root, library and version in the header; everything else stays."""
    kept = {
        "$set": {"a": 1},
        "$set_once": {"b": 2},
        "$groups": {"c": "d"},
        "$geoip_disable": True,
        "n": 12345678901234567890,
    }
    event = moved({"$session_id": "s", "$window_id": "w", "$lib": "x", "$lib_version": "1", **kept})
    assert (event["session_id"], event["window_id"]) == ("s", "w")
    assert event["properties"] == kept


def test_a_context_becomes_a_property():
    """It has no place of its own any more."""
    assert moved({"n": 1}, context={"k": [1]})["properties"] == {"n": 1, "context": {"k": [1]}}


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2030-01-02T03:04:05.678901Z", "2030-01-02T03:04:05.678901Z"),
        ("2030-01-02T05:04:05+02:00", "2030-01-02T03:04:05Z"),
        ("2030-01-02 03:04:05", "2030-01-02T03:04:05Z"),
        ("2030-01-02", "2030-01-02T00:00:00Z"),
        ("soon", "soon"),
    ],
)
def test_times_are_utc(written, sent):
    """A stream that a person wrote may have them in any form; a text that is none is the server's to refuse."""
    assert moved({}, timestamp=written)["timestamp"] == sent


# ---- verdicts


def test_each_event_has_its_own_verdict(server):
    """Kept, kept with a warning, over quota, too big, dropped for another reason, and one that is not named."""
    server.respond(
        Answer(
            results={
                "e0": "ok",
                "e1": {"result": "warning", "details": "person_processing_disabled"},
                "e2": "limited",
                "e3": {"result": "drop", "details": "billing_limit_exceeded"},
                "e4": {"result": "drop", "details": "event_too_big"},
                "e5": {"result": "drop", "details": "invalid_options"},
                "e6": {"result": "sideways"},
            }
        )
    )
    done = run_sender(events(7), arguments=v1(server))
    assert done.exit_code == 1
    assert len(server.requests) == 1
    assert names(server.events) == ["e0", "e1", "e2"]
    assert sorted(done.dropped()) == ["e3", "e4", "e5", "e6"]
    assert "dropped 1 event (e3): the server dropped it: billing_limit_exceeded" in done.lines
    assert "dropped 1 event (e6): the server dropped it: unknown verdict 'sideways'" in done.lines
    assert "verdicts: 1 x ok; 1 x warning (person_processing_disabled); 1 x limited; " in done.stderr
    assert "7 events read, 3 delivered, 4 dropped" in done.summary


def test_an_event_that_is_not_named_is_accepted(server):
    """Silence about an event is consent."""
    server.respond(Answer(body='{"results": {}}'))
    done = run_sender(events(2), arguments=v1(server))
    assert done.exit_code == 0, done.stderr


def test_a_uuid_may_be_written_in_another_form(server):
    """The server names events by canonical uuids."""
    given = "0190C0DE00007000800000000000ABCD"
    server.respond(Answer(results={"e": {"result": "drop", "details": "rejected"}}))
    done = run_sender(event("e", uuid=given), arguments=v1(server))
    assert done.dropped() == ["e"]


def test_only_events_that_the_server_wants_again_are_sent_again(server):
    """With the same request id and time of creation, the attempt's number and its time, after the server's pause."""
    again = {"result": "retry", "details": "not_persisted"}
    server.script(Answer(results={"e1": again, "e2": "drop", "e3": again}, headers=[("Retry-After", "1")]))
    done = run_sender(events(4), arguments=v1(server))
    assert done.exit_code == 1
    assert done.dropped() == ["e2"]
    first, second = server.requests
    assert names(second.events) == ["e1", "e3"]
    assert names(server.events) == ["e0", "e1", "e3"]
    assert [request.headers["PostHog-Attempt"] for request in (first, second)] == ["1", "2"]
    for name in ("PostHog-Request-Id", "Authorization"):
        assert first.headers[name] == second.headers[name]
    assert envelope(first) == envelope(second)
    assert first.headers["PostHog-Request-Timestamp"] < second.headers["PostHog-Request-Timestamp"]
    assert second.received_at - first.received_at >= 1.0


def test_an_event_that_is_wanted_again_too_often_is_lost(server):
    """After the last retry, with the reason."""
    server.respond(Answer(results={"e0": "retry"}))
    done = run_sender(events(2), arguments=v1(server))
    assert [names(request.events) for request in server.requests] == [["e0", "e1"], ["e0"]]
    assert "dropped 1 event (e0): HTTP 200: the server wants it again" in done.lines


@pytest.mark.parametrize(
    "body", ["", "OK", "[]", "{}", '{"status": 1}', '{"results": []}', '{"results": {"a": 1}}', b"\xff"]
)
def test_a_success_that_cannot_be_read_is_final(server, body):
    """Nobody knows which events were stored: they count as lost, and are not sent again."""
    server.respond(Answer(body=body))
    done = run_sender(event("e"), arguments=v1(server, max_retries=3))
    assert len(server.requests) == 1
    assert "dropped 1 event (e): HTTP 200, but the verdicts cannot be read" in done.lines


def test_a_success_whose_verdicts_never_come_is_final():
    """The connection breaks after the head: the events may be stored, so they are not sent again."""

    def behave(connection):
        read_request(connection)
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"results": {')
        connection.shutdown(socket.SHUT_RDWR)

    with Staller(behave) as server:
        done = run_sender(event("e"), arguments=to(server.url(), protocol="v1", max_retries=3))
        assert len(server.connections) == 1
    assert "dropped 1 event (e): HTTP 200, but the verdicts cannot be read" in done.lines


# ---- failures of a whole request


@pytest.mark.parametrize("status", [400, 401, 402, 403, 405, 413, 415, 422, 501, 505])
def test_never_again(server, status):
    """A lone event is lost at once; the reason is PostHog's own description."""
    server.respond(Answer(status=status, body='{"error": "some_tag", "error_description": "no, because"}'))
    done = run_sender(event("e"), arguments=v1(server, max_retries=3))
    assert len(server.requests) == 1
    assert f"dropped 1 event (e): HTTP {status}: no, because" in done.lines


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_again(server, status):
    """The same request, with the number of its attempt."""
    server.script(Answer(status=status))
    done = run_sender(event("e"), arguments=v1(server))
    assert done.exit_code == 0, done.stderr
    first, second = server.requests
    assert [request.headers["PostHog-Attempt"] for request in (first, second)] == ["1", "2"]
    assert first.headers["PostHog-Request-Id"] == second.headers["PostHog-Request-Id"]
    assert first.body == second.body


def test_a_network_that_fails_is_tried_again(server):
    """A stale connection costs no attempt; a broken one does."""
    server.script(Answer(), Answer(drop=True), Answer(), Answer(reset=True))
    with RunningSender(*v1(server)) as sender:
        for number in range(3):
            sender.write(event(f"e{number}", number))
            server.wait_for_events(number + 1)
        done = sender.finish()
    assert done.exit_code == 0, done.stderr
    assert [request.headers["PostHog-Attempt"] for request in server.requests][:3] == ["1", "1", "1"]
    assert names(server.events) == ["e0", "e1", "e2"]


def test_a_long_wait_is_cut(server):
    """Half a minute at most, and never beyond the deadline: then the event is lost with the server's reason."""
    body = b'{"uuid": "0190c0de-0000-7000-8000-000000000001", "event": "e", "distinct_id": "me", "timestamp": "x", '
    prepared = Prepared("0190c0de-0000-7000-8000-000000000001", "e", body + b'"properties": {}}')
    exchange = Exchange([prepared], api_key="k", created_at="", historical_migration=False)
    again = b'{"results": {"0190c0de-0000-7000-8000-000000000001": {"result": "retry"}}}'
    for outcome in (
        Outcome(RETRY, "HTTP 503", 86400.0, status=503),
        Outcome(DELIVERED, "HTTP 200", 86400.0, status=200, body=again),
    ):
        assert exchange.judge(outcome).outcome.retry_after == 30.0
    server.respond(Answer(status=503, headers=[("Retry-After", "86400")]))
    done = run_sender(event("e"), arguments=v1(server, deadline=5))
    assert len(server.requests) == 1
    assert "dropped 1 event (e): HTTP 503: Service Unavailable; no time left for a retry" in done.lines


def test_a_bad_event_costs_itself_alone(server):
    """A uuid that occurs twice costs a whole batch: the batch is halved until both are apart."""
    done = run_sender(events(3), event("again", 1), arguments=v1(server))
    assert done.exit_code == 0, done.stderr
    assert sorted(names(server.events)) == ["again", "e0", "e1", "e2"]
    ids = [request.headers["PostHog-Request-Id"] for request in server.requests]
    assert len(set(ids)) == len(ids) > 1


def test_a_batch_that_is_too_large_is_halved(server):
    """As by the older protocol."""
    server.script(Answer(status=413))
    done = run_sender(events(4), arguments=v1(server))
    assert done.exit_code == 0, done.stderr
    assert [len(request.events) for request in server.requests] == [4, 2, 2]


def test_a_key_that_no_header_holds(server):
    """It is refused before anything is sent, and not repeated."""
    done = run_sender(hello(server.url, capture_protocol="v1", api_key="phc\nsecret"), event("e"))
    assert done.exit_code == 2
    assert "the api_key holds a character that cannot be sent" in done.stderr
    assert "secret" not in done.stderr


# ---- servers that know only older endpoints


def test_a_server_without_it():
    """It gets the events by /batch/, as it always did, for the rest of the sender's life; the log has one line."""
    with CaptureServer(protocol="v0") as server:
        properties = {"$session_id": "s", "$process_person_profile": False}
        with RunningSender(*v1(server, max_retries=0)) as sender:
            for number in range(3):
                sender.write(event("one", number, properties=properties) + event("two", number + 10))
                server.wait_for_events(2 * number + 2)
            done = sender.finish()
        assert done.exit_code == 0, done.stderr
        assert [request.path for request in server.requests if request.path != "/batch/"] == [PATH]
        assert done.stderr.count("the server does not have /i/v1/analytics/events (HTTP 404): ") == 1
        sent = server.events[0]["properties"]
        assert (sent["$session_id"], sent["$process_person_profile"], sent["$lib"]) == ("s", False, "atotelemetry")
        assert server.requests[-1].api_key == KEY


def test_a_server_that_is_down_has_it_all_the_same(server):
    """503 says nothing about the protocol."""
    server.script(Answer(status=503))
    assert run_sender(event("e"), arguments=v1(server)).exit_code == 0
    assert [request.path for request in server.requests] == [PATH, PATH]


def only(*paths, status):
    """Return an answer: only these paths are there."""
    return lambda request: Answer() if request.path in paths else Answer(status=status)


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_a_proxy_that_knows_only_single_events(server, status, protocol):
    """No batch is lost: its events go one by one, and those after it, too."""
    server.respond(only("/capture/", status=404 if protocol == "v1" else status))
    done = run_sender(events(3), arguments=to(server.url, protocol=protocol, max_retries=0))
    assert done.exit_code == 0, done.stderr
    assert names(server.events) == ["e0", "e1", "e2"]
    assert [request.path for request in server.requests].count("/batch/") == 1
    assert done.stderr.count("the server does not have /batch/") == 1


@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_a_server_that_knows_nothing_is_not_asked_without_end(server, protocol):
    """Once for each endpoint and event that is alone; a batch after that is lost as a whole."""
    server.respond(Answer(status=404))
    done = run_sender(events(100), arguments=to(server.url, protocol=protocol, max_retries=3))
    assert done.exit_code == 1
    assert len(done.dropped()) == 100
    assert len(server.requests) <= 5


@pytest.mark.parametrize("endpoint", ["batch", "capture"])
def test_an_endpoint_that_a_person_names_is_meant(server, endpoint):
    """There is no other way around its absence."""
    server.respond(Answer(status=404))
    done = run_sender(events(2), arguments=to(server.url, endpoint=endpoint))
    assert done.exit_code == 1
    assert {request.path for request in server.requests} == {f"/{endpoint}/"}
