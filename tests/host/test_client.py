"""`TelemetryClient`: its settings, its counters, what it starts and when, and how it all ends."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref

import pytest

from atotelemetry.host import feeder
from atotelemetry.host.client import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.testing import Answer
from support_client import HOST, TIMESTAMP, run_host
from support_home import files_below
from support_hosts import needs_proc
from support_processes import SLOWER


@pytest.fixture
def stuck(new_client, monkeypatch):
    """Return a maker of clients whose feeder's thread never begins; after the test they forget their events."""
    clients = []
    monkeypatch.setattr(feeder, "start_new_thread", lambda *_: None)

    def make(**settings) -> TelemetryClient:
        clients.append(new_client(**settings))
        return clients[-1]

    yield make
    for client in clients:
        client.after_fork_in_child(unharmed=True)


# Construction


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "both"},
        {"endpoint": ""},
        {"queue_size": 0},
        {"queue_size": -1},
        {"max_retries": -1},
        {"request_timeout": 0},
        {"sender_deadline": -0.5},
        # What JSON cannot say, or the sender would not understand.
        {"request_timeout": float("inf")},
        {"sender_deadline": float("nan")},
        {"request_timeout": "5"},
        {"max_retries": 1.5},
        {"queue_size": 2.5},
        {"app": None},
        {"app_version": 1.2},
        {"in_app": "tool"},
        {"in_app": (1,)},
        {"scrub": "argv"},
        {"scrub": None},
        {"compression": "gzip"},
        {"before_send": 5},
        {"on_error": "log"},
        {"patient": 1},
        {"queue_size": True},
        {"properties": ["edition"]},
        {"run_properties": "email"},
        {"run_properties": ("emial",)},
    ],
    ids=str,
)
def test_a_wrong_setting_is_a_mistake_that_raises(wrong):
    """A mistake in the host's own code is told at once, and the text names what is wrong."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TelemetryClient("key", "http://127.0.0.1:9", **wrong)


def test_a_wrong_setting_is_told_with_what_is_allowed():
    """The text says what the option may be, so nobody has to look it up."""
    for wrong, allowed in (
        ({"compression": "gzip"}, "compression must be True, False or None, not 'gzip'"),
        ({"endpoint": "both"}, "endpoint must be one of auto, capture, batch, not 'both'"),
        ({"before_send": 5}, "before_send must be a function, not 5"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(allowed)}$"):
            TelemetryClient("key", "http://127.0.0.1:9", **wrong)
    with pytest.raises(ValueError, match=r"run_properties must be a tuple of app_version, email, .*, project, not "):
        TelemetryClient("key", "http://127.0.0.1:9", run_properties=("emial",))


def test_a_client_says_what_it_is_and_not_its_key():
    """In a shell, a log or a failing test."""
    made = TelemetryClient("secret", "http://127.0.0.1:9", app="mytool")
    assert repr(made) == "TelemetryClient(app='mytool', host='http://127.0.0.1:9', disabled=False)"


def test_an_unknown_setting_raises():
    """A misspelt keyword is no silent no-op."""
    with pytest.raises(TypeError, match="ednpoint"):
        TelemetryClient("key", "http://127.0.0.1:9", ednpoint="auto")  # type: ignore[call-arg]


@pytest.mark.parametrize(("key", "host"), [("", "http://127.0.0.1:9"), ("key", ""), ("", "")])
def test_without_key_or_host_a_client_is_disabled(key, host, debug_lines):
    """There is nothing it could send to: it does nothing, and says so once."""
    client = TelemetryClient(key, host)
    assert client.disabled
    assert client.capture("built", distinct_id="me") is None
    assert client.capture_exception(ValueError("x")) is None
    assert debug_lines() == ["telemetry is off: no api_key or no host"]
    assert (client.stats.captured, client.flush(), client.shutdown()) == (0, True, True)


def test_a_sender_and_what_it_runs_never_captures(monkeypatch):
    """In a process that carries the sender's mark a client is disabled, so no sender ever starts a sender."""
    monkeypatch.setenv("ATO_TELEMETRY_SENDER", "1")
    assert TelemetryClient("key", "http://127.0.0.1:9").disabled


def test_a_client_that_is_let_go_is_collected(new_client):
    """A program that makes many clients keeps none of them alive, not even through the exit hook."""
    client = TelemetryClient("key", "http://127.0.0.1:9")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


# What is started, and when


@pytest.mark.posix("threads and children in /proc")
@needs_proc
def test_nothing_is_started_before_the_first_event(server, tmp_path):
    """Importing and making a client starts no thread and no process and writes no file; the first event does."""
    home = tmp_path / "home"
    home.mkdir()
    source = """
print(*burden())
client.capture("built", distinct_id="me")
while client.stats.handed_over < 1 or burden()[1]:  # the process that makes the sender leaves at once
    time.sleep(0.005)
print(*burden())
"""
    done = run_host(source, server.url, HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"))
    assert (done.returncode, done.stderr) == (0, "")
    before, after = done.stdout.splitlines()
    assert before == "1 0"
    assert after == "2 0", "one thread; the sender is nobody's child"
    server.wait_for_events(1)
    assert files_below(home) == []


@pytest.mark.posix("threads and children in /proc")
@needs_proc
@pytest.mark.parametrize("how", ["no key", "from the start", "later"])
def test_a_disabled_client_starts_nothing(server, tmp_path, how):
    """However it came to be disabled, captures start no thread and no process, and nothing is sent or written."""
    home = tmp_path / "home"
    home.mkdir()
    source = {
        "no key": 'client = atotelemetry.TelemetryClient("", sys.argv[1])',
        "from the start": "client.disabled = True",
        "later": "client.flush(); client.stats; client.disabled = True",
    }[how]
    source += """
for number in range(100):
    assert client.capture("built", distinct_id="me") is None
    assert client.capture_exception(ValueError("x")) is None
assert client.flush() and client.flush(delivered=True) and client.shutdown()
print(*burden(), client.stats.captured)
"""
    done = run_host(source, server.url, HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "1 0 0\n")
    assert server.connection_count == 0
    assert files_below(home) == []


def test_disabled_may_be_set_and_taken_back_at_any_time(recorder):
    """As a test suite of the host's does: nothing in between, everything before and after."""
    client = recorder.client
    client.capture("before", distinct_id="me")
    client.disabled = True
    assert client.capture("between", distinct_id="me") is None
    client.disabled = False
    client.capture("after", distinct_id="me")
    assert [event["event"] for event in recorder.events] == ["before", "after"]
    assert client.stats.captured == 2


# The queue


def test_a_full_queue_drops_counts_and_says_so_once(stuck, debug_lines):
    """What does not fit is None for the caller and one more in the count; a log gets one line, not one for each."""
    client = stuck(queue_size=3)
    results = [client.capture("built", distinct_id="me") for _ in range(10)]
    assert [result is not None for result in results] == [True] * 3 + [False] * 7
    stats = client.stats
    assert (stats.captured, stats.handed_over, stats.dropped, stats.queued) == (10, 0, 7, 3)
    assert stats.dropped_by_reason == {"queue full": 7}
    assert debug_lines() == ["dropped an event (queue full); any more are only counted"]


def test_the_queue_holds_256_events_by_default(stuck):
    """The default of the contract, and a flush of at most two seconds."""
    assert (DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT) == (256, 2.0)
    client = stuck()
    assert sum(client.capture("built", distinct_id="me") is not None for _ in range(300)) == 256


def test_an_error_inside_is_counted_never_raised(recorder, monkeypatch, debug_lines):
    """Should this library itself fail, the host sees None and the loss is counted, with one DEBUG line."""
    recorder.client.capture("fine", distinct_id="me")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    for way in ("ordinary_line", "line"):
        monkeypatch.setattr(recorder.client._encoder, way, fail)
    assert recorder.client.capture("built", distinct_id="me") is None
    assert recorder.client.capture("built", distinct_id="me") is None
    assert recorder.client.stats.dropped_by_reason == {"error": 2}
    assert len([line for line in debug_lines() if "bug" in line]) == 1


# The real path


def test_a_lone_event_goes_to_capture(server, new_client):
    """The server sees PostHog's single-event shape, with the key in the body, and the program's name and version."""
    client = new_client(server.url)
    name = client.capture("built", distinct_id="me", properties={"ok": True}, context={"k": 1})
    assert client.flush(20, delivered=True)
    (request,) = server.requests
    assert (request.method, request.path, request.api_key, request.sent_at) == ("POST", "/capture/", "phc_test", None)
    assert request.headers["User-Agent"] == "tool/1.2"
    assert request.headers["Content-Type"] == "application/json"
    body = json.loads(request.body)
    assert set(body) == {"api_key", "uuid", "event", "distinct_id", "timestamp", "properties", "context"}
    assert (body["uuid"], body["event"], body["distinct_id"], body["context"]) == (name, "built", "me", {"k": 1})
    assert body["properties"]["ok"] is True
    assert body["properties"]["$lib"]


def test_several_events_go_to_batch(server, new_client):
    """The server sees PostHog's batch shape, the events in the order of their capture, and when it was sent."""
    client = new_client(server.url)
    names = [client.capture(f"event {number}", distinct_id="me") for number in range(5)]
    assert client.flush(20, delivered=True)
    assert {request.path for request in server.requests} == {"/batch/"}
    body = json.loads(server.requests[0].body)
    assert set(body) == {"api_key", "batch", "sent_at"}
    assert [event["uuid"] for event in server.events] == names
    assert TIMESTAMP.fullmatch(body["sent_at"])
    assert body["sent_at"] >= server.events[0]["timestamp"]


@pytest.mark.parametrize(("endpoint", "count", "paths"), [("capture", 2, ["/capture/"] * 2), ("batch", 1, ["/batch/"])])
def test_the_endpoint_can_be_chosen(server, new_client, endpoint, count, paths):
    """Some proxies know only one of the two."""
    client = new_client(server.url, endpoint=endpoint)
    for _ in range(count):
        client.capture("built", distinct_id="me")
    assert client.flush(20, delivered=True)
    assert [request.path for request in server.requests] == paths


def test_common_properties_are_on_every_event_and_lose_against_its_own(server, new_client):
    """The client's properties are added once, by the sender; what the event says itself wins."""
    client = new_client(server.url, properties={"version": "common", "edition": {1, 2}})
    client.capture("first", distinct_id="me", properties={"version": "own", "$lib": "mine"})
    client.capture("second", distinct_id="me")
    assert client.flush(20, delivered=True)
    first, second = (event["properties"] for event in server.events)
    assert (first["version"], first["$lib"], second["version"]) == ("own", "mine", "common")
    assert first["edition"] == second["edition"] == [1, 2]
    assert second["$lib"] != "mine"


def test_a_huge_event_arrives(server, new_client):
    """Cut and marked, as one event among others."""
    client = new_client(server.url)
    client.capture("huge", distinct_id="me", properties={"huge": "x" * 3_000_000, "small": 1})
    client.capture("small", distinct_id="me")
    assert client.flush(20, delivered=True)
    huge, small = server.events
    assert (huge["event"], huge["properties"]["small"], small["event"]) == ("huge", 1, "small")
    assert huge["properties"]["huge"].startswith("xxx")


def test_flush_hands_over_and_the_next_capture_starts_a_new_sender(server, new_client):
    """After a flush the sender drains and exits by itself; telemetry goes on with another one, perhaps beside it."""
    client = new_client(server.url)
    for name in ("first", "second"):
        client.capture(name, distinct_id="me")
        assert client.flush(10)
        assert client.stats.queued == 0
    assert {event["event"] for event in server.wait_for_events(2, timeout=20)} == {"first", "second"}
    assert {request.connection for request in server.requests} == {0, 1}
    assert client.flush(20, delivered=True)


def test_flush_never_waits_for_the_network(server, new_client):
    """A server that hangs is the sender's business."""
    server.respond(Answer(hang=True))
    # The request ends long before the deadline, which a sender on a busy machine may need to get so far.
    client = new_client(server.url, request_timeout=1.0, max_retries=0)
    client.capture("built", distinct_id="me")
    assert client.flush(10)
    assert client.stats.handed_over == 1
    server.wait_for_requests(1)
    assert not client.flush(20, delivered=True), "nobody accepted it"


def test_delivered_is_true_only_for_what_the_server_accepted(server, new_client):
    """An event that was refused makes it False; the next flush speaks of what came since."""
    client = new_client(server.url)
    server.script(Answer(status=401))
    client.capture("refused", distinct_id="me")
    assert not client.flush(20, delivered=True)
    client.capture("accepted", distinct_id="me")
    assert client.flush(20, delivered=True)
    assert client.flush(delivered=True), "nothing was captured since"


@needs_proc
def test_flush_without_events_is_done_at_once(new_client):
    """There is nothing to hand over, and nothing is started for it."""
    client = new_client()
    threads = os.listdir("/proc/self/task")
    assert client.flush()
    assert client.flush(0)
    assert client.flush(None, delivered=True)
    assert set(os.listdir("/proc/self/task")) <= set(threads)


def test_flush_gives_up_in_time(stuck):
    """With a feeder that does not come to its work a flush is False after its timeout, not later."""
    client = stuck()
    client.capture("built", distinct_id="me")
    started = time.monotonic()
    assert not client.flush(0.05)
    assert 0.04 < time.monotonic() - started < 2 * SLOWER


def test_shutdown_hands_over_and_refuses_everything_after(server, new_client):
    """What was captured is delivered, what comes later is None; a second shutdown is nothing."""
    client = new_client(server.url)
    client.capture("before", distinct_id="me")
    assert client.shutdown()
    assert client.disabled
    assert client.capture("after", distinct_id="me") is None
    assert client.shutdown()
    assert [event["event"] for event in server.wait_for_events(1)] == ["before"]
    assert (client.stats.captured, client.stats.handed_over) == (1, 1)


@pytest.mark.posix("threads and children in /proc")
@needs_proc
def test_after_a_shutdown_nothing_is_left(server):
    """A host that goes on without telemetry soon has no thread and no child of ours, not even a zombie."""
    source = """
import gc, weakref
client.capture("built", distinct_id="me")
assert client.shutdown()
while burden() != (1, 0):
    time.sleep(0.01)
gone = weakref.ref(client)
del client
gc.collect()
print(gone())
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


@needs_proc
def test_at_exit_everything_is_handed_over(server):
    """A program that captures and ends, ends; its events arrive though nobody called flush."""
    source = """
import atexit
for number in range(20):
    client.capture("built", distinct_id="me", properties={"number": number})
# Hooks run in reverse order: ours was registered before this one and after the next.
atexit.register(lambda: print(client.disabled, flush=True))
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    events = server.wait_for_events(20, timeout=20)
    assert [event["properties"]["number"] for event in events] == list(range(20))


def test_exit_costs_no_more_than_its_timeout_whatever_the_server_does(server):
    """With a server that hangs, and a second client, the exit hook still is within FLUSH_TIMEOUT for all."""
    server.respond(Answer(hang=True))
    source = """
import atexit, time
began = []
second = atotelemetry.TelemetryClient("phc_test", sys.argv[1], request_timeout=1, sender_deadline=2)
# This one runs before the package's own hook, the one registered before the first client would run after it.
for number in range(200):
    client.capture("built", distinct_id="me", properties={"text": "x" * 1000})
    second.capture("built", distinct_id="me")
atexit.register(lambda: began.append(time.monotonic()))
"""
    # The hook that is registered first runs last.
    first = "import atexit, time; atexit.register(lambda: print(time.monotonic() - began[0], client.disabled))\n"
    done = subprocess.run(
        [sys.executable, "-c", first + HOST.replace("sender_deadline=30", "sender_deadline=2") + source, server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seconds, disabled = done.stdout.split()
    assert float(seconds) < FLUSH_TIMEOUT + 0.5
    assert disabled == "True"


def test_capture_writes_nothing_to_the_hosts_output(server):
    """Not on success, not for odd values, not when events are lost."""
    source = """
client.capture("built", distinct_id="me", properties={"odd": object()})
client.capture("")
for number in range(1000):
    client.capture("built", distinct_id="me")
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server.wait_for_events(1)


def test_capture_is_safe_from_many_threads(server, new_client):
    """Each event of each thread arrives once."""
    client = new_client(server.url, queue_size=10_000)

    def work(thread: int) -> None:
        for number in range(50):
            client.capture("built", distinct_id="me", properties={"who": f"{thread} {number}"})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(20, delivered=True)
    arrived = [event["properties"]["who"] for event in server.events]
    assert sorted(arrived) == sorted(f"{thread} {number}" for thread in range(20) for number in range(50))
    assert (client.stats.captured, client.stats.handed_over, client.stats.dropped) == (1000, 1000, 0)
