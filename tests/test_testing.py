from __future__ import annotations

import gzip
import http.client
import json
import math
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import trustme

from atotelemetry.testing import Answer, CaptureServer, RecordedRequest

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"


def event(name="started", **fields):
    return {"event": name, "distinct_id": "someone", "properties": {}, "uuid": UUID, **fields}


def batch(*events):
    return {"api_key": "phc_test", "batch": list(events), "sent_at": "2026-01-02T03:04:05Z"}


def nested(depth):
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"in": value}
    return value


def client(server):
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10))


def post(server, payload: Any, path="/batch/", headers=None, connection=None):
    """Send a payload (bytes as they are, everything else as JSON); return status and text of the answer."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    if connection is None:
        with client(server) as fresh:
            return post(server, body, path, headers, fresh)
    connection.request("POST", path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def server_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("capture-server")]


@pytest.fixture
def server():
    with CaptureServer() as running:
        yield running
    assert server_threads() == []


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


def test_failure_that_was_asked_for_outranks_the_judge(server):
    """A scripted failure stands before PostHog: also a bad request gets it, and it uses up its place in the script."""
    server.script(Answer(status=503))
    assert post(server, b"no JSON")[0] == 503
    assert post(server, b"no JSON")[0] == 400


# -- answering


def test_script_then_respond(server):
    """Scripted answers come once each and in order, then the answer set by respond(), until that is taken back."""
    server.respond(Answer(status=500))
    server.script(Answer(status=429, headers=[("Retry-After", "2")]), Answer(body="fine"))
    server.script(Answer(status=408))
    answers = [post(server, batch(event())) for _ in range(5)]
    assert answers == [
        (429, "Too Many Requests"),
        (200, "fine"),
        (408, "Request Timeout"),
        (500, "Internal Server Error"),
        (500, "Internal Server Error"),
    ]
    server.respond()
    assert post(server, batch(event()))[0] == 200
    assert len(server.events) == 2  # of the two that were answered 2xx


def test_answer_may_be_a_function_of_the_request(server):
    """A callable sees the recorded request, with its events, and decides."""
    server.respond(lambda request: Answer(status=413 if len(request.events) > 1 else 200))
    assert post(server, batch(event(), event()))[0] == 413
    assert post(server, batch(event()))[0] == 200


def test_headers_and_body_of_an_answer(server):
    """An answer's headers are sent, one that the server would send itself instead of its own; bytes go as they are."""
    server.script(Answer(status=302, body=b"\xff\x00", headers=[("Location", "/x"), ("Content-Type", "a/b")]))
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        response = connection.getresponse()
        assert response.read() == b"\xff\x00"
        assert (response.status, response.headers["Location"]) == (302, "/x")
        assert response.headers.get_all("Content-Type") == ["a/b"]


@pytest.mark.parametrize("answer", [Answer(status=204), Answer(status=599), Answer(body="")])
def test_unusual_answers_keep_the_connection_in_step(server, answer):
    """Answers without a body and with unknown status codes leave the connection usable."""
    server.script(answer)
    with client(server) as connection:
        assert post(server, batch(event()), connection=connection)[0] == answer.status
        assert post(server, batch(event()), connection=connection) == (200, '{"status": 1}')
    assert server.connection_count == 1


def test_delay(server):
    """A delayed answer does not come, and accepts nothing, before its time; stop() does not wait for it."""
    server.script(Answer(delay=0.1), Answer(delay=60))
    begun = time.monotonic()
    assert post(server, batch(event()))[0] == 200
    assert time.monotonic() - begun >= 0.1
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event("late"))))
        server.wait_for_requests(2)
        assert len(server.events) == 1
        server.stop()
        assert time.monotonic() - begun < 5
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
    assert len(server.events) == 1


def test_hang_lasts_until_the_server_stops(server):
    """A hanging request gets no byte and no status, and ends when the server stops, which is at once."""
    server.respond(Answer(hang=True))
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        (request,) = server.wait_for_requests(1)
        connection.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 2
        connection.sock.settimeout(5)
        assert connection.sock.recv(1) == b""
    assert (request.status, request.accepted, server.events) == (None, False, [])


def test_hang_ends_with_its_client(server):
    """A client that gives up frees the thread that hung for it."""
    server.respond(Answer(hang=True))
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        server.wait_for_requests(1)
        (hanging,) = [thread for thread in server_threads() if thread.name == "capture-server-0"]
    hanging.join(5)
    assert not hanging.is_alive()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(reset=True), ConnectionResetError),
        (Answer(drop=True), http.client.RemoteDisconnected),
        (Answer(garbage=True), http.client.BadStatusLine),
    ],
    ids=["reset", "drop", "garbage"],
)
def test_broken_answers(server, answer, error):
    """A reset, a closed connection and bytes that are not HTTP arrive as such, and accept nothing."""
    server.script(answer)
    with pytest.raises(error) as caught:
        post(server, batch(event()))
    assert caught.type is error
    assert server.events == []
    assert server.requests[0].status is None
    assert post(server, batch(event()))[0] == 200


@pytest.mark.parametrize("headers", [(), [("Connection", "close")]], ids=["unannounced", "announced"])
def test_close_after_the_answer(server, headers):
    """With close=True, or a header that says so, the connection ends right after a whole answer."""
    server.script(Answer(headers=headers, close=not headers))
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        sock = connection.sock
        with connection.getresponse() as response:
            assert response.read() == b'{"status": 1}'
            assert response.headers["Connection"] == ("close" if headers else None)
            if not headers:
                assert sock.recv(1) == b""
    assert len(server.events) == 1


def test_trickle_with_a_body(server):
    """A trickled answer with a body arrives whole, slowly, and leaves the connection usable."""
    server.script(Answer(body="ok", trickle=0.001))
    begun = time.monotonic()
    with client(server) as connection:
        assert post(server, batch(event()), connection=connection) == (200, "ok")
        assert time.monotonic() - begun > 0.05  # a millisecond for each byte of the head
        assert post(server, batch(event()), connection=connection)[0] == 200
    assert server.connection_count == 1


def test_trickle_without_a_body_never_ends(server):
    """A trickled answer without a body keeps on coming until the server stops, which is at once."""
    server.script(Answer(trickle=0.0001))
    with client(server) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        with connection.getresponse() as response:
            assert response.length is None
            assert response.read(20) == b" " * 20
            server.stop()
            assert response.read().strip() == b""


def test_on_request_sees_the_outcome():
    """on_request is called with every request, refused and unanswered ones too, once it has its status."""
    seen: list[tuple[int | None, int]] = []

    def note(request: RecordedRequest):
        seen.append((request.status, len(request.events)))

    with CaptureServer(on_request=note) as server:
        post(server, batch(event(), event()))
        post(server, b"no JSON")
        server.script(Answer(drop=True))
        with pytest.raises(http.client.RemoteDisconnected):
            post(server, batch(event()))
    assert seen == [(200, 2), (400, 0), (None, 1)]


def test_on_request_is_never_called_twice_at_a_time():
    """Requests that arrive together on several connections are shown to on_request one after the other."""
    inside = threading.Lock()
    overlaps: list[RecordedRequest] = []

    def note(request: RecordedRequest):
        if not inside.acquire(blocking=False):
            overlaps.append(request)
            return
        time.sleep(0.005)  # long enough for the others to get here, if they could
        inside.release()

    with CaptureServer(on_request=note) as server, ThreadPoolExecutor(8) as clients:
        assert {status for status, _ in clients.map(lambda _: post(server, batch(event())), range(16))} == {200}
    assert overlaps == []


def test_stop_from_on_request_does_not_wait_for_requests_behind_it():
    """They wait for the callback to return, which waits for them."""
    inside, stopped, seconds = threading.Event(), threading.Event(), []

    def stop(_: RecordedRequest):
        inside.set()
        server.wait_for_requests(3)
        begun_at = time.monotonic()
        server.stop()
        seconds.append(time.monotonic() - begun_at)
        stopped.set()

    def send():
        with pytest.raises((OSError, http.client.HTTPException)):
            post(server, batch(event()))

    server = CaptureServer(on_request=stop)
    server.start()
    with ThreadPoolExecutor(3) as clients:
        sent = [clients.submit(send)]
        assert inside.wait(10)
        sent += [clients.submit(send) for _ in range(2)]
        for future in sent:
            future.result(30)
    assert stopped.wait(30)
    assert len(seconds) == 1, "the others were shown to it, too"
    assert seconds[0] < 3


# -- waiting


def test_waits_for_events_that_are_still_to_come(server):
    """wait_for_events returns when the last event it waits for is accepted."""
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(server.wait_for_events, 3)
        post(server, batch(event("one"), event("two")))
        assert not waiting.done()
        post(server, batch(event("three")))
        assert [e["event"] for e in waiting.result(10)] == ["one", "two", "three"]


def test_timeout_says_what_did_arrive(server):
    """The errors of both waits name the requests, what became of them, and their events."""
    with pytest.raises(
        TimeoutError, match=r"1 requests did not arrive within 0\.01 s; no request came, on 0 connections"
    ):
        server.wait_for_requests(1, timeout=0.01)
    post(server, batch(event("lost", uuid="bad")))
    post(server, batch(event("found")))
    with pytest.raises(TimeoutError) as caught:
        server.wait_for_events(2, timeout=0.01)
    text = str(caught.value)
    assert "2 events did not arrive" in text
    assert "1 events were accepted, 2 requests came" in text
    assert "POST /batch/: 400" in text
    assert "invalid uuid 'bad'" in text
    assert "'found'" in text


def test_clear(server):
    """clear() forgets requests and events, and the next wait counts from nothing."""
    post(server, batch(event("old")))
    server.clear()
    assert (server.requests, server.events) == ([], [])
    post(server, batch(event("new")))
    assert [e["event"] for e in server.wait_for_events(1)] == ["new"]
    with pytest.raises(TimeoutError):
        server.wait_for_events(2, timeout=0.01)


def test_request_forgotten_while_delayed_is_not_counted(server):
    """A request that was still delayed when clear() came counts for no later wait."""
    release = threading.Event()

    def late(_request):
        release.wait(10)
        return Answer()

    server.script(late)
    with ThreadPoolExecutor(1) as clients:
        sending = clients.submit(post, server, batch(event("old")))
        server.wait_for_requests(1)
        server.clear()
        release.set()
        assert sending.result(10)[0] == 200
    with pytest.raises(TimeoutError):
        server.wait_for_events(1, timeout=0.01)


# -- life


def test_stop_leaves_nothing(server):
    """A stopped server has no thread, refuses connections, breaks idle ones, and keeps its url and what it recorded."""
    with client(server) as connection:
        post(server, batch(event()), connection=connection)
        server.stop()
        assert connection.sock.recv(1) == b""
    assert server_threads() == []
    with pytest.raises(ConnectionRefusedError):
        post(server, batch(event()))
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert len(server.events) == 1
    server.stop()  # once more does nothing


def test_started_again_it_keeps_its_port(server):
    """A server can go away and come back, as one does in an outage."""
    url = server.url
    post(server, batch(event()))
    server.stop()
    server.start()
    assert server.url == url
    assert post(server, batch(event()))[0] == 200
    assert len(server.events) == 2


def test_port_before_the_start():
    """Without a given port there is no url before the start."""
    with pytest.raises(RuntimeError):
        _ = CaptureServer().url


def test_started_twice(server):
    """Starting a running server is a mistake that is told."""
    with pytest.raises(RuntimeError):
        server.start()


def test_port_that_is_taken(server):
    """A port that somebody else listens on is refused, and nothing stays behind."""
    other = CaptureServer(port=server.port)
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()


def test_clients_that_misbehave_are_silent_and_unrecorded(server, capfd):
    """Bytes that are no HTTP, bad lengths and a client that leaves inside its body leave no record and no output."""
    for sent in (
        b"\x16\x03\x01\x00\xff\r\n\r\n",
        b"POST /batch/ HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /batch/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /batch/ HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"POST /batch/ HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n{",
        b"",
    ):
        with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert server.requests == []
    assert capfd.readouterr() == ("", "")
    assert post(server, batch(event()))[0] == 200


# -- TLS


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def https_server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with CaptureServer(ssl_context=context) as running:
        yield running
    assert server_threads() == []


def https_client(server, context):
    return closing(http.client.HTTPSConnection("localhost", server.port, timeout=10, context=context))


def test_https(https_server, authority):
    """With an SSL context the server speaks https, and resets and stops like the plain one."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert https_server.url == f"https://localhost:{https_server.port}"
    with https_client(https_server, context) as connection:
        assert post(https_server, batch(event()), connection=connection)[0] == 200
        assert post(https_server, batch(event()), connection=connection)[0] == 200
    assert [request.connection for request in https_server.requests] == [0, 0]
    https_server.script(Answer(reset=True), Answer(hang=True))
    with https_client(https_server, context) as connection, pytest.raises(ConnectionResetError):
        post(https_server, batch(event()), connection=connection)
    with https_client(https_server, context) as connection:
        connection.request("POST", "/batch/", json.dumps(batch(event())))
        https_server.wait_for_requests(4)
        https_server.stop()
        with pytest.raises((OSError, http.client.HTTPException)):
            connection.getresponse()


def test_https_client_that_does_not_trust_us(https_server, capfd):
    """A refused certificate ends that connection alone, silently."""
    with (
        https_client(https_server, ssl.create_default_context()) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        post(https_server, batch(event()), connection=connection)
    assert https_server.requests == []
    assert capfd.readouterr() == ("", "")


def test_stalled_handshake_blocks_nobody(https_server, authority):
    """A client that connects and never begins TLS holds up neither other clients nor stop()."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with socket.create_connection(("127.0.0.1", https_server.port), 10):
        with https_client(https_server, context) as connection:
            assert post(https_server, batch(event()), connection=connection)[0] == 200
        begun = time.monotonic()
        https_server.stop()
        assert time.monotonic() - begun < 2
