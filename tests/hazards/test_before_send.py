"""`before_send`: the host's own last word about each event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support_hosts import needs_senders
from support_listen import LISTEN

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

UUID = "01900000-0000-7000-8000-000000000000"


def test_sees_and_changes_the_whole_event(hosts: Hosts) -> None:
    """It gets every field, the common properties merged in, and every field that it changes arrives changed."""
    source = f"""
import datetime
def before_send(event):
    seen.append({{**event, "properties": dict(event["properties"])}})
    return {{
        "uuid": {UUID!r},
        "event": "changed",
        "distinct_id": "somebody else",
        "timestamp": datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        "properties": {{"new": [1, {{2}}, object], "kept": event["properties"]["kept"]}},
        "context": {{"changed": True}},
    }}
seen = []
client = new_client(before_send=before_send, properties={{"common": 1, "overruled": 1}})
uuid = client.capture(
    "original", distinct_id="me", properties={{"kept": 3, "overruled": 2}}, context={{"original": True}}
)
assert uuid == {UUID!r}
(event,) = seen
assert event.keys() == {{"uuid", "event", "distinct_id", "timestamp", "properties", "context"}}, event
assert len(event["uuid"]) == 36 and event["uuid"] != uuid
assert datetime.datetime.fromisoformat(event["timestamp"]).tzinfo == datetime.UTC
assert (event["event"], event["distinct_id"], event["context"]) == ("original", "me", {{"original": True}})
assert event["properties"] == {{"common": 1, "overruled": 2, "kept": 3}}
"""
    hosts.assert_runs(source, options=("-X", "dev", "-W", "error"))
    (event,) = hosts.server.wait_for_events(1)
    properties = {name: value for name, value in event.pop("properties").items() if not name.startswith("$")}
    assert event == {
        "uuid": UUID,
        "event": "changed",
        "distinct_id": "somebody else",
        "timestamp": "2020-01-02T03:04:05.000006Z",
        "context": {"changed": True},
    }
    assert properties == {"new": [1, [2], "object"], "kept": 3}


def test_changes_in_place(hosts: Hosts) -> None:
    """It may also change the event that it was given; what the caller's dict holds stays as it was."""
    source = """
def before_send(event):
    event["properties"]["added"] = True
    del event["properties"]["secret"]
    return event
client = new_client(before_send=before_send)
properties = {"secret": "s", "kept": 1}
client.capture("in place", distinct_id="me", properties=properties)
assert properties == {"secret": "s", "kept": 1}
"""
    hosts.assert_runs(source)
    (event,) = hosts.server.wait_for_events(1)
    assert (event["properties"]["kept"], event["properties"]["added"]) == (1, True)
    assert "secret" not in event["properties"]


def test_exceptions_pass_through_it(hosts: Hosts) -> None:
    """What `capture_exception` sends can be changed and dropped like everything else."""
    source = """
def before_send(event):
    if event["properties"]["$exception_type"] == "KeyError":
        return None
    event["properties"]["$exception_message"] = "[scrubbed]"
    return event
client = new_client(before_send=before_send)
assert client.capture_exception(ValueError("password: hunter2"), distinct_id="me")
assert client.capture_exception(KeyError("dropped"), distinct_id="me") is None
"""
    hosts.assert_runs(source)
    (event,) = hosts.server.wait_for_events(1)
    hosts.wait_until_no_sender()
    assert event["properties"]["$exception_message"] == "[scrubbed]"
    assert hosts.arrived() == {"$exception": 1}


def test_none_drops_the_event(hosts: Hosts) -> None:
    """None drops the event, which `capture` and `stats` say, and which is no failed delivery."""
    source = """
client = new_client(before_send=lambda event: event if event["event"] == "kept" else None)
assert client.capture("dropped", distinct_id="me") is None
assert client.capture("kept", distinct_id="me")
assert client.flush(20, delivered=True) is True
stats = client.stats
assert (stats.captured, stats.handed_over, stats.dropped_by_reason) == (2, 1, {"before_send": 1}), stats
"""
    hosts.assert_runs(source, arrived=["kept"])


@pytest.mark.parametrize("error", ["ValueError('no')", "RecursionError()", "MemoryError()", "StopIteration()"])
def test_raise_drops_the_event(hosts: Hosts, error: str) -> None:
    """An exception in it drops the event, with one DEBUG line; the host does not notice."""
    source = f"""
def before_send(event):
    if event["event"] == "bad":
        raise {error}
    return event
client = new_client(before_send=before_send)
for _ in range(3):
    assert client.capture("bad", distinct_id="me") is None
assert client.capture("good", distinct_id="me")
assert client.flush(20, delivered=True) is False
stats = client.stats
assert (stats.captured, stats.handed_over, stats.dropped_by_reason) == (4, 1, {{"before_send raised": 3}}), stats
say(*heard, sep="\\n")
"""
    done = hosts.assert_runs(LISTEN + source.replace(', sep="\\n"', ""), stdout=None)
    assert done.stdout.startswith("dropped an event (before_send raised): ")
    assert done.stdout.count("\n") == done.stdout.count("dropped") == 1
    hosts.assert_arrived_once("good")


def test_interrupt_in_it_is_the_hosts(hosts: Hosts) -> None:
    """Ctrl-C while it runs comes out of `capture`, as from any other function of the host's."""
    source = """
def before_send(event):
    if event["event"] == "interrupted":
        raise KeyboardInterrupt
    return event
client = new_client(before_send=before_send)
try:
    client.capture("interrupted", distinct_id="me")
except KeyboardInterrupt:
    client.capture("next", distinct_id="me")
assert client.flush(20)
stats = client.stats
assert (stats.captured, stats.handed_over, stats.dropped) == (2, 1, 1), stats
"""
    hosts.assert_runs(source, arrived=["next"])


@pytest.mark.parametrize("off", ["no key", "switched off", "shut down", "a sender's child"])
def test_never_runs_for_a_disabled_client(hosts: Hosts, off: str) -> None:
    """With telemetry off it is not called at all."""
    source = f"""
if {off!r} == "a sender's child":
    os.environ["ATO_TELEMETRY_SENDER"] = "1"
key = "" if {off!r} == "no key" else "key"
client = atotelemetry.TelemetryClient(key, os.environ["TEST_SERVER"], before_send=lambda event: sys.exit("called"))
if {off!r} == "switched off":
    client.disabled = True
if {off!r} == "shut down":
    client.shutdown()
assert client.capture("never", distinct_id="me") is None
assert client.capture_exception(ValueError()) is None
assert client.stats.captured == 0
"""
    hosts.assert_runs(source)
    assert hosts.server.connection_count == 0


def test_odd_answers(hosts: Hosts) -> None:
    """It returns what is no event, or half of one: what can be sent is sent, and nothing is raised."""
    source = """
class Hostile(dict):
    def get(self, *_):
        raise RuntimeError
answers = [
    True, 7, "text", [], {}, object(), Hostile(event="hostile"),
    {"event": ""}, {"event": None}, {"event": "bare"}, {"event": ["list"]}, {"event": 7, "uuid": 7},
    {"event": "properties", "properties": [1, 2]}, {"event": "properties 2", "properties": {1: {2: object}}},
    {"event": "\\udc80", "distinct_id": "\\udc80", "timestamp": "\\udc80", "uuid": "\\udc80", "context": "\\udc80"},
    {"event": "numbers", "distinct_id": 5, "timestamp": 5, "context": {"n": float("nan")}},
    {"event": "big", "properties": {"big": "x" * 5_000_000}},
    {"event": "last", "extra": "ignored"},
]
client = new_client(before_send=lambda event: answers[event["properties"]["number"]])
taken = [client.capture("event", distinct_id="me", properties={"number": n}) for n in range(len(answers))]
assert client.flush(20)
stats = client.stats
assert stats.captured == len(answers) == stats.handed_over + stats.dropped, stats
assert stats.handed_over == len([uuid for uuid in taken if uuid]), (stats, taken)
say(stats.handed_over)
"""
    done = hosts.assert_runs(source, options=("-X", "dev", "-W", "error"), stdout=None)
    hosts.server.wait_for_events(int(done.stdout))
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    assert arrived.total() == int(done.stdout)
    for name in ("bare", "7", "properties", "properties 2", "numbers", "big", "last"):
        assert arrived[name] == 1, name
