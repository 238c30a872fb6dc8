"""Every outcome of a delivery, by real sender processes against a real server."""

import json
import threading
import time
from email.utils import formatdate

import pytest

from atotelemetry.sender.lanes import MAX_IN_FLIGHT
from atotelemetry.testing import Answer, CaptureServer
from support_deadline import SLOWER
from support_sender import END, KEY, PATIENCE, RunningSender, closed_port, event, events, hello, run_sender, to


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


def names(events):
    return [event["event"] for event in events]


def test_what_was_handed_over_is_delivered(server):
    """The whole stream: hello, events, end."""
    done = run_sender(hello(server.url, properties={"run": 7}), events(3), END)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert names(server.events) == ["e0", "e1", "e2"]
    first = server.events[0]
    assert first["uuid"] == "0190c0de-0000-7000-8000-000000000000"
    assert first["timestamp"] == "2030-01-02T03:04:05.678901Z"
    assert first["distinct_id"] == "me"
    assert first["properties"]["number"] == 0
    assert first["properties"]["run"] == 7
    assert first["properties"]["$lib"] == "atotelemetry"
    assert server.requests[0].api_key == KEY


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=503),
        Answer(status=429),
        Answer(reset=True),
        Answer(drop=True),
        Answer(garbage=True),
    ],
    ids=["503", "429", "reset", "closed", "garbage"],
)
def test_what_may_succeed_is_tried_again(server, failure):
    """The same events, with the same ids and times, in the same order; only `sent_at` is new."""
    server.script(failure)
    done = run_sender(events(3), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    first, second = server.requests
    assert first.events == second.events
    assert first.sent_at is not None
    assert second.sent_at is not None
    assert first.sent_at < second.sent_at
    assert second.received_at - first.received_at >= 0.45
    assert names(server.events) == ["e0", "e1", "e2"]


def test_a_timeout_is_tried_again(server):
    """A server that says nothing is asked once more."""
    server.script(Answer(hang=True))
    done = run_sender(events(2), arguments=to(server.url, timeout=0.5 * SLOWER))
    assert done.exit_code == 0, done.stderr
    assert names(server.events) == ["e0", "e1"]
    assert len(server.requests) == 2


def test_no_more_retries_than_were_asked_for(server):
    """Then the events are dropped, with the reason."""
    server.respond(Answer(status=503, body="busy"))
    done = run_sender(event("lost"), arguments=to(server.url, max_retries=2))
    assert done.exit_code == 1
    assert len(server.requests) == 3
    assert done.dropped() == ["lost"]
    assert "dropped 1 event (lost): HTTP 503: busy" in done.lines
    assert done.summary == "done: 1 event read, 0 delivered, 1 dropped (1 x HTTP 503: busy)"


def test_a_server_that_is_down_is_tried_again():
    """Refused connections count as failures that may pass."""
    done = run_sender(event("lost"), arguments=to(f"http://127.0.0.1:{closed_port()}"))
    assert done.exit_code == 1
    assert done.dropped() == ["lost"]
    assert sum(line.startswith("POST ") for line in done.lines) == 2
    assert any(line.startswith("retry 1 of 1 in 0.") for line in done.lines)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_may_ask_for_more_time(server, form):
    """`Retry-After` wins over our own half second."""

    def answer(_):
        value = "1" if form == "seconds" else formatdate(time.time() + 2.0, usegmt=True)  # of which up to one is lost
        return Answer(status=429, headers=[("Retry-After", value)])

    server.script(answer)
    done = run_sender(event("late"), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    first, second = server.requests
    assert second.received_at - first.received_at >= 0.95


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_asks_for_too_much_time_is_not_waited_for(server, form):
    """A retry past the deadline would never happen, so the sender does not stay for it."""
    value = "3600" if form == "seconds" else formatdate(time.time() + 3600, usegmt=True)
    server.respond(Answer(status=503, headers=[("Retry-After", value)]))
    done = run_sender(event("lost"), arguments=to(server.url, max_retries=5))
    assert done.exit_code == 1
    assert done.seconds < 10
    assert len(server.requests) == 1
    assert "dropped 1 event (lost): HTTP 503: Service Unavailable; no time left for a retry" in done.lines


@pytest.mark.parametrize("status", [402, 410, 401])
def test_a_final_answer_is_final(server, status):
    """Dropped at once: no retry, no halving; redirects have tests of their own."""
    server.respond(Answer(status=status, body="no"))
    done = run_sender(events(2), arguments=to(server.url, max_retries=3))
    assert done.exit_code == 1
    assert [request.path for request in server.requests] == ["/batch/"]
    assert done.dropped() == ["e0", "e1"]
    assert f"dropped 2 events (e0, e1): HTTP {status}: no" in done.lines


def test_one_bad_event_costs_no_other(server):
    """PostHog refuses the whole batch for it: the bad one is found, the rest delivered in order."""

    def judge(request):
        return Answer(status=400, body="bad event") if "e5" in names(request.events) else Answer()

    server.respond(judge)
    done = run_sender(events(20), arguments=to(server.url))
    assert done.exit_code == 1
    assert names(server.events) == [f"e{number}" for number in range(20) if number != 5]
    assert done.dropped() == ["e5"]
    assert done.summary == "done: 20 events read, 19 delivered, 1 dropped (1 x HTTP 400: bad event)"


def test_a_request_that_is_too_large_is_halved(server):
    """413 for several events: each half is sent by itself."""
    server.respond(lambda request: Answer(status=413) if len(request.events) > 3 else Answer())
    done = run_sender(events(10), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert names(server.events) == [f"e{number}" for number in range(10)]
    assert max(len(request.events) for request in server.requests if request.accepted) <= 3


def test_a_lone_event_that_is_too_large_is_dropped(server):
    """There is nothing to halve."""
    server.respond(Answer(status=413))
    done = run_sender(event("huge"), arguments=to(server.url))
    assert (done.exit_code, done.dropped(), len(server.requests)) == (1, ["huge"], 1)


def test_no_event_is_sent_again_once_it_was_accepted(server):
    """A failure of one half does not touch the other."""
    answers = iter([Answer(status=413), Answer(), Answer(status=503), Answer()])
    server.respond(lambda _: next(answers))
    done = run_sender(events(4), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert [names(request.events) for request in server.requests] == [
        ["e0", "e1", "e2", "e3"],
        ["e0", "e1"],
        ["e2", "e3"],
        ["e2", "e3"],
    ]


@pytest.mark.parametrize(
    ("endpoint", "count", "paths"),
    [
        ("auto", 1, ["/capture/"]),
        ("auto", 3, ["/batch/"]),
        ("capture", 3, ["/capture/"] * 3),
        ("batch", 1, ["/batch/"]),
    ],
)
def test_the_endpoint_mode(server, endpoint, count, paths):
    """For servers that only have one of the two; `capture` reuses its connection for each event."""
    done = run_sender(hello(server.url, endpoint=endpoint), events(count), END)
    assert done.exit_code == 0
    assert [request.path for request in server.requests] == paths
    assert server.connection_count == 1
    assert names(server.events) == [f"e{number}" for number in range(count)]


@pytest.mark.parametrize("by", ["hello", "option"])
@pytest.mark.parametrize(("wanted", "used"), [("always", True), ("never", False)])
def test_the_compression_mode(server, wanted, used, by):
    """As the host says, or the person."""
    line = event("e", properties={"p": "x" * (100 if used else 3000)})
    if by == "hello":
        done = run_sender(hello(server.url, compression=used), line, END)
    else:
        done = run_sender(line, arguments=to(server.url, compression=wanted))
    assert done.exit_code == 0, done.stderr
    assert (server.requests[0].headers.get("Content-Encoding") == "gzip") == used


def test_requests_fill_up_when_there_is_a_backlog(server):
    """A thousand events each, in order, on a few connections."""
    done = run_sender(events(3500), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert sorted(len(request.events) for request in server.requests) == [500, 1000, 1000, 1000]
    for request in server.requests:
        first = int(request.events[0]["event"][1:])
        assert names(request.events) == [f"e{first + number}" for number in range(len(request.events))]
    assert len({event["uuid"] for event in server.events}) == 3500
    assert server.connection_count <= MAX_IN_FLIGHT


def test_a_backlog_is_several_requests_at_once(server):
    """Behind a far server: four are on their way before the first is answered, and never more."""
    all_there = threading.Barrier(MAX_IN_FLIGHT)
    open_now, most = set(), []

    def meet(request):
        open_now.add(id(request))
        most.append(len(open_now))
        all_there.wait(PATIENCE)
        open_now.discard(id(request))
        return Answer()

    server.respond(meet)
    done = run_sender(events(8000), arguments=to(server.url, timeout=PATIENCE, deadline=2 * PATIENCE))
    assert done.exit_code == 0, done.stderr
    assert (len(server.requests), server.connection_count, max(most)) == (8, MAX_IN_FLIGHT, MAX_IN_FLIGHT)
    assert sorted(names(server.events)) == sorted(f"e{number}" for number in range(8000))


def test_what_comes_while_a_request_is_on_its_way_is_the_next_one(server):
    """A slow server is no reason for more requests or connections: a few events wait, and go together."""
    arrived, may_go_on = threading.Event(), threading.Event()

    def hold(_):
        arrived.set()
        assert may_go_on.wait(PATIENCE)
        return Answer()

    server.respond(hold)
    with RunningSender(*to(server.url, timeout=PATIENCE)) as sender:
        sender.write(event("first", 1))
        assert arrived.wait(PATIENCE)
        for number in range(50):
            sender.write(event(f"e{number}", number))
        may_go_on.set()
        done = sender.finish()
    assert done.exit_code == 0, done.stderr
    assert names(server.events) == ["first", *(f"e{number}" for number in range(50))]
    assert server.connection_count == 1


def test_large_events_fill_requests_by_size(server):
    """No request is larger than four mebibytes, and none needs to be halved."""
    done = run_sender(events(60, properties={"p": "x" * 150_000}), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert len(server.events) == 60
    assert 3 <= len(server.requests) <= 5
    assert max(len(request.body) for request in server.requests) <= 4 * 1024 * 1024


def test_twenty_thousand_events_arrive(server):
    """Each once, within a few seconds."""
    done = run_sender(events(20_000), arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert sorted(names(server.events)) == sorted(f"e{number}" for number in range(20_000))
    assert done.summary == "done: 20000 events read, 20000 delivered, 0 dropped"


def test_a_second_stream_goes_where_its_own_hello_says(server):
    """Recorded streams can be put one after another; none is sent with another's key or properties."""
    with CaptureServer() as other:
        done = run_sender(
            hello(server.url, properties={"run": 1}),
            event("first", 1),
            END,
            hello(other.url, properties={"run": 2}, api_key="other"),
            event("second", 2),
            END,
            hello(server.url, properties={"run": 1}),
            event("third", 3),
        )
        assert done.exit_code == 0, done.stderr
        assert [(event["event"], event["properties"]["run"]) for event in server.events] == [("first", 1), ("third", 1)]
        assert [(event["event"], event["properties"]["run"]) for event in other.events] == [("second", 2)]
        assert {request.api_key for request in other.requests} == {"other"}


def test_a_lines_values_arrive_as_they_were_written(server):
    """Nothing is decoded further than needed: numbers keep their digits, texts their escapes."""
    raw = b'{"event":"e","distinct_id":"me","properties":{"price":1.10,"text":"\\u00e9\\n","deep":{"a":[1.0,2e3]}}}\n'
    done = run_sender(raw, arguments=to(server.url))
    assert done.exit_code == 0, done.stderr
    assert b'"price":1.10,"text":"\\u00e9\\n","deep":{"a":[1.0,2e3]}' in server.requests[0].body
    assert json.loads(server.requests[0].body)
