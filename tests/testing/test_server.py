"""The capture server: how it answers, waits, starts and stops, and speaks TLS."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from atotelemetry.testing import Answer, CaptureServer, RecordedRequest
from support_capture_server import batch, client, event, post, server_threads


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
        pytest.param(
            Answer(reset=True), ConnectionResetError, marks=pytest.mark.posix("Wine has no reset by SO_LINGER")
        ),
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


def test_wait_for_a_crash(server):
    """wait_for_crash takes no other exception for one, and says what did arrive."""
    reported = [{"mechanism": {"type": "generic"}}], [], None, [{"mechanism": {"type": "signal"}}]
    for described in reported[:-1]:
        post(server, batch(event("$exception", properties={"$exception_list": described})))
    post(server, batch(event("built")))
    with pytest.raises(TimeoutError, match=r"no crash was reported within 0\.01 s; 4 events were accepted"):
        server.wait_for_crash(timeout=0.01)
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(server.wait_for_crash)
        post(server, batch(event("$exception", properties={"$exception_list": reported[-1]})))
        assert waiting.result(10)["properties"]["$exception_list"] == reported[-1]


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


@pytest.mark.posix("POSIX's words for a taken port")
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
    # Where its library cannot be loaded, as under Wine, there is no TLS to test.
    return pytest.importorskip("trustme", exc_type=ImportError).CA()


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
