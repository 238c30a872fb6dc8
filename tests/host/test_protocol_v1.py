"""`TelemetryClient(protocol="v1")`: the server's verdicts in a host, and an event's options."""

from __future__ import annotations

import queue

import pytest

from atotelemetry import TelemetryClient
from atotelemetry.testing import Answer, CaptureServer


@pytest.fixture
def server():
    with CaptureServer() as running:
        yield running


def test_verdicts_are_counted_by_their_reasons(server, new_client):
    """`stats.lost_by_reason` and `on_error` say how many events the server did not keep, and why."""
    heard = queue.SimpleQueue()
    server.respond(
        Answer(
            results={
                "over": {"result": "drop", "details": "billing_limit_exceeded"},
                "big": {"result": "drop", "details": "event_too_big"},
                "odd": {"result": "drop", "details": "invalid_options"},
                "again": "retry",
            }
        )
    )
    client = new_client(server.url, protocol="v1", max_retries=0, on_error=lambda *loss: heard.put(loss))
    for name in ("kept", "over", "over", "big", "odd", "again"):
        client.capture(name, distinct_id="me")
    assert not client.flush(30, delivered=True)
    lost = {"over quota": 2, "event too big": 1, "invalid options": 1, "not stored": 1}
    assert client.stats.lost_by_reason == lost
    assert client.stats.delivered == 1
    assert dict(heard.get(timeout=30) for _ in lost) == lost


def test_everything_is_delivered(server, new_client):
    """A flush that waits for delivery is True when the server keeps every event."""
    client = new_client(server.url, protocol="v1")
    for number in range(5):
        client.capture("built", distinct_id="me", properties={"n": number})
    assert client.flush(30, delivered=True)
    assert [event["properties"]["n"] for event in server.events] == list(range(5))
    assert {request.path for request in server.requests} == {"/i/v1/analytics/events"}


@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_options_of_an_event(server, new_client, protocol):
    """They win over properties, reach a server of either protocol, and leave the caller's dict alone."""
    client = new_client(server.url, protocol=protocol)
    given = {"n": 1, "$cookieless_mode": False}
    options = {"cookieless_mode": True, "disable_skew_correction": True, "product_tour_id": None, "made_up": 1}
    client.capture("built", distinct_id="me", properties=given, options=options)
    client.capture("bare", distinct_id="me", options={"process_person_profile": False})
    assert client.flush(30, delivered=True)
    assert given == {"n": 1, "$cookieless_mode": False}
    built, bare = server.events
    if protocol == "v1":
        assert built["options"] == {"cookieless_mode": True, "disable_skew_correction": True}
        assert bare["options"] == {"process_person_profile": False}
        assert "$cookieless_mode" not in built["properties"]
    else:
        assert (built["properties"]["$cookieless_mode"], built["properties"]["$ignore_sent_at"]) == (True, True)
        assert bare["properties"]["$process_person_profile"] is False
    assert built["properties"]["n"] == 1
    assert "made_up" not in str(built)


def test_a_protocol_that_does_not_exist():
    """It is a mistake in the host's code."""
    with pytest.raises(ValueError, match="protocol must be one of v0, v1, not 'v2'"):
        TelemetryClient("key", "http://127.0.0.1:9", protocol="v2")
