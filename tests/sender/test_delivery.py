"""`sender/delivery.py` and `sender/connection.py`: what a response means, and how one request is made."""

import socket
import threading

import httpx
import pytest

from atotelemetry.sender.batch import Request
from atotelemetry.sender.connection import Network, _read
from atotelemetry.sender.delivery import Delivery, user_agent
from atotelemetry.sender.journal import Journal
from atotelemetry.sender.outcome import (
    DELIVERED,
    REFUSED,
    REJECTED,
    RETRY,
    STALE,
    TOO_LARGE,
    Outcome,
    judge,
    parse_retry_after,
)
from atotelemetry.testing import Answer, CaptureServer
from support_sender import PATIENCE, Staller, closed_port, deafness, drip, read_request, silence

NOW = 1_000_000_000.0  # 2001-09-09 01:46:40 UTC
REQUEST = Request("/capture/", b'{"api_key":"k","event":"e","distinct_id":"me"}')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, DELIVERED),
        (202, DELIVERED),
        (204, DELIVERED),
        (301, REJECTED),
        (304, REJECTED),
        (307, REJECTED),
        (400, REFUSED),
        (401, REJECTED),
        (403, REJECTED),
        (404, REJECTED),
        (408, RETRY),
        (413, TOO_LARGE),
        (422, REJECTED),
        (429, RETRY),
        (500, RETRY),
        (503, RETRY),
        (599, RETRY),
    ],
)
def test_what_a_status_means(status, kind):
    """The table of outcomes."""
    assert judge(status, None, "", NOW).kind == kind


def test_a_verdict_says_why():
    """Status and the beginning of what the server said."""
    assert judge(400, None, "bad event", NOW) == Outcome(REFUSED, "HTTP 400: bad event", None, "refused (400)", 400)
    assert judge(503, "7", "", NOW) == Outcome(RETRY, "HTTP 503", 7.0, "server error (503)", 503)
    assert judge(401, "7", "", NOW) == Outcome(REJECTED, "HTTP 401", None, "refused (401)", 401)
    assert judge(413, None, "", NOW) == Outcome(TOO_LARGE, "HTTP 413", None, "refused (413)", 413)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("9" * 400, float("inf")),
        ("Sun, 09 Sep 2001 01:46:50 GMT", 10.0),
        ("Sunday, 09-Sep-01 01:46:50 GMT", 10.0),
        ("Sun Sep  9 01:46:50 2001", 10.0),
        ("Sun, 09 Sep 2001 01:46:50 -0000", 10.0),
        ("Sun, 09 Sep 2001 03:46:50 +0200", 10.0),
        ("Sun, 09 Sep 2001 01:46:30 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Sun, 99 Sep 2001 01:46:50 GMT", None),
        ("Sun, 09 Sep 99999 01:46:50 GMT", None),
        (",,,", None),
    ],
)
def test_how_long_a_server_asks_us_to_wait(value, seconds):
    """Seconds, or an HTTP date in any of its three forms; garbage asks for nothing."""
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("app", "version", "expected"),
    [
        ("atopile", "1.2.3", "atopile/1.2.3"),
        ("my app", "1 (beta)", "my-app/1--beta-"),
        ("café\r\nX-Evil: 1", "1", "caf---X-Evil--1/1"),
        ("no-such-distribution", None, "no-such-distribution/unknown"),
        ("httpx", None, f"httpx/{httpx.__version__}"),
        ("", "", "atotelemetry/unknown"),
    ],
)
def test_the_user_agent_is_a_valid_header(app, version, expected):
    """Whatever the host calls itself; an installed distribution's version is looked up."""
    assert user_agent(app, version) == expected


# ---- one request after another


@pytest.fixture
def make_delivery(monkeypatch):
    """Return a function that makes deliveries, which are closed at the end."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(host, request_timeout=PATIENCE, compression=None):
        journal = Journal(to_stderr=False, verbose=False, log_path=None)
        network = Network(user_agent="test/1", request_timeout=request_timeout, directory=None, journal=journal)
        delivery = Delivery(host=host, network=network, compression=compression, journal=journal)
        made.append(delivery)
        return delivery

    yield make
    for delivery in made:
        delivery.close()
    for thread in threading.enumerate():
        if thread.name == "connection":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_requests_share_one_connection(make_delivery):
    """Also across answers that are errors."""
    with CaptureServer() as server:
        delivery = make_delivery(server.url)
        server.script(Answer(), Answer(status=503), Answer(status=400), Answer(status=204))
        kinds = [delivery.post(REQUEST, 1).kind for _ in range(5)]
        assert kinds == [DELIVERED, RETRY, REFUSED, DELIVERED, DELIVERED]
        assert server.connection_count == 1


def test_a_connection_that_the_server_closed_politely_is_replaced(make_delivery):
    """Announced or noticed in time, it costs nothing."""
    with CaptureServer() as server:
        delivery = make_delivery(server.url)
        server.script(Answer(headers=[("Connection", "close")]))
        assert [delivery.post(REQUEST, 1).kind for _ in range(2)] == [DELIVERED] * 2
        assert server.connection_count == 2


def test_a_connection_that_the_server_closes_under_a_request_is_stale(make_delivery):
    """And the next attempt goes out on a new one."""
    with CaptureServer() as server:
        delivery = make_delivery(server.url)
        server.script(Answer(), Answer(drop=True), Answer())
        assert [delivery.post(REQUEST, 1).kind for _ in range(3)] == [DELIVERED, STALE, DELIVERED]
        assert [request.connection for request in server.requests] == [0, 0, 1]


@pytest.mark.parametrize("failure", [{"drop": True}, {"reset": True}, {"garbage": True}])
def test_a_fresh_connection_that_fails_is_a_failure(make_delivery, failure):
    """Not a stale one: it may be tried again, but that counts."""
    with CaptureServer() as server:
        server.script(Answer(**failure))
        delivery = make_delivery(server.url)
        outcome = delivery.post(REQUEST, 1)
        assert (outcome.kind, outcome.cause) == (RETRY, "network: broken")
        assert delivery.post(REQUEST, 1).kind == DELIVERED


def test_nobody_listens(make_delivery):
    """A refused connection may be accepted later."""
    outcome = make_delivery(f"http://127.0.0.1:{closed_port()}").post(REQUEST, 1)
    assert (outcome.kind, outcome.cause) == (RETRY, "network: connect failed")
    assert "refused" in outcome.reason


@pytest.mark.parametrize("host", ["http://", "http://h:port", "ftp://127.0.0.1", "nonsense"])
def test_an_address_that_cannot_be_one_is_final(make_delivery, host):
    """No retry makes it better."""
    assert make_delivery(host).post(REQUEST, 1).kind == REJECTED


def test_a_request_ends_at_its_limit(make_delivery):
    """Each operation would be in time; the sum is not."""
    with Staller(silence) as server:
        outcome = make_delivery(server.url()).post(REQUEST, 1, 0.3)
        assert outcome == Outcome(RETRY, "no answer within 0.3 s", cause="network: timeout")


def test_a_request_ends_after_three_operations_time(make_delivery):
    """The limit of a sender whose host lives on."""
    with Staller(drip(b"HTTP/1.1 200 OK\r\nx-", 0.02)) as server:
        outcome = make_delivery(server.url(), request_timeout=0.2).post(REQUEST, 1)
        assert outcome == Outcome(RETRY, "no answer within 0.6 s", cause="network: timeout")


@pytest.mark.parametrize(("scheme", "limit"), [("http", 0.2), ("https", 2.0)])
def test_an_abandoned_request_lets_go_of_its_socket(make_delivery, scheme, limit):
    """The server sees the end of the connection though the thread on it was left behind, also in a TLS handshake."""
    gone = threading.Event()

    def behave(connection):
        silence(connection)
        gone.set()

    with Staller(behave) as server:
        make_delivery(server.url(scheme)).post(REQUEST, 1, limit)
        assert gone.wait(PATIENCE)


def test_after_an_abandoned_request_the_next_one_works(make_delivery):
    """On a new thread and a new connection."""
    with CaptureServer() as server:
        server.script(Answer(hang=True))
        delivery = make_delivery(server.url)
        assert delivery.post(REQUEST, 1, 2.0).kind == RETRY
        assert delivery.post(REQUEST, 1).kind == DELIVERED


def test_a_name_server_that_answers_late_brings_no_event_twice(make_delivery, monkeypatch):
    """The attempt it held up was made again by then."""
    answer_now = threading.Event()
    resolve = socket.getaddrinfo
    calls = []

    def slow_at_first(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            answer_now.wait(PATIENCE)
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow_at_first)
    with CaptureServer() as server:
        delivery = make_delivery(server.url)
        assert delivery.post(REQUEST, 1, 0.3).kind == RETRY
        assert delivery.post(REQUEST, 1).kind == DELIVERED
        before = {thread for thread in threading.enumerate() if thread.name == "connection"}
        answer_now.set()
        delivery.close()
        for thread in before:
            thread.join(PATIENCE)
        assert len(server.requests) == 1


def test_accepted_is_accepted_though_the_answer_never_ends(make_delivery):
    """The head of a response decides; the rest is only waited for as long as a kept connection is worth."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"
    with Staller(drip(head, 0.02)) as server:
        assert make_delivery(server.url()).post(REQUEST, 1).kind == DELIVERED


def test_a_refusal_stands_though_its_text_never_ends(make_delivery):
    """What the server says about it is only for people."""
    with Staller(drip(b"HTTP/1.1 401 Unauthorized\r\n\r\n", 0.02)) as server:
        assert make_delivery(server.url()).post(REQUEST, 1) == Outcome(REJECTED, "HTTP 401", None, "refused (401)", 401)


def test_a_response_is_read_up_to_a_cap_only():
    """A server that sends without end is not listened to for longer than it takes to know what it wants."""
    taken = []

    class EndlessResponse:
        def iter_raw(self):
            while True:
                taken.append(10_000)
                yield b"x" * 10_000

    body, complete = _read(EndlessResponse())
    assert not complete
    assert len(body) == sum(taken) == 70_000  # the cap is 64 KiB


def test_a_server_that_sends_without_end_is_cut_off(make_delivery):
    """Its connection is closed, and of what it said no more than a line is kept."""
    gone = threading.Event()

    def behave(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 503 Busy\r\n\r\n")
        try:
            while True:
                connection.sendall(b"x" * 65536)
        finally:
            gone.set()

    with Staller(behave) as server:
        outcome = make_delivery(server.url()).post(REQUEST, 1)
        assert outcome.kind == RETRY
        assert len(outcome.reason) < 300
        assert gone.wait(PATIENCE)


def test_headers_without_end_are_an_error(make_delivery):
    """The library's own cap."""

    def behave(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x-more: " + b"y" * 1000 + b"\r\n")

    with Staller(behave) as server:
        assert make_delivery(server.url()).post(REQUEST, 1).kind == RETRY


@pytest.mark.parametrize(("count", "kind"), [(100, DELIVERED), (20_000, RETRY)])
@pytest.mark.parametrize("at_once", [True, False])
def test_responses_before_the_response_are_limited(make_delivery, count, kind, at_once):
    """Some of kind 1xx are skipped; very many end the request, however they come."""
    answers = [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"] * count + [b"HTTP/1.1 200 OK\r\n\r\n"]

    def behave(connection):
        read_request(connection)
        for part in [b"".join(answers)] if at_once else answers:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        silence(connection)

    with Staller(behave) as server:
        outcome = make_delivery(server.url()).post(REQUEST, 1)
    assert outcome.kind == kind, outcome
    if kind == RETRY:
        assert outcome.reason == "RemoteProtocolError: more than 262144 bytes before a response"


def test_a_body_may_say_anything(make_delivery):
    """Only heads count, not the text of a response; and each request begins anew."""
    looks_like = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    body = looks_like * 1500

    def behave(connection):
        while read_request(connection):
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
            connection.sendall(looks_like * 6000 + head + body)

    with Staller(behave) as server:
        delivery = make_delivery(server.url())
        assert [delivery.post(REQUEST, 1).kind for _ in range(3)] == [DELIVERED] * 3
        assert len(server.connections) == 1


def test_a_server_that_never_reads_is_given_up(make_delivery):
    """The upload fills the socket's buffers and stops there."""
    large = Request("/batch/", b"x" * 32 * 1024 * 1024)
    with Staller(deafness) as server:
        assert make_delivery(server.url(), compression=False).post(large, 1, 0.5).kind == RETRY


def test_cookies_are_not_kept(make_delivery):
    """Nobody here wants to be recognised."""
    with CaptureServer() as server:
        server.respond(Answer(headers=[("Set-Cookie", "who=me; Path=/")]))
        delivery = make_delivery(server.url)
        assert [delivery.post(REQUEST, 1).kind for _ in range(2)] == [DELIVERED] * 2
        assert [request.headers.get("Cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize(
    ("compression", "size_bytes", "compressed"),
    [(None, 500, False), (None, 5000, True), (True, 10, True), (False, 500_000, False)],
)
def test_bodies_are_compressed_above_a_small_size(make_delivery, compression, size_bytes, compressed):
    """Or always, or never, as the host wants."""
    body = b'{"api_key":"k","event":"e","distinct_id":"%s"}' % (b"x" * size_bytes)
    with CaptureServer() as server:
        delivery = make_delivery(server.url, compression=compression)
        assert delivery.post(Request("/capture/", body), 1).kind == DELIVERED
        (request,) = server.requests
        assert request.headers.get("Content-Encoding") == ("gzip" if compressed else None)
        assert request.body == body
        assert request.headers.get_all("User-Agent") == ["test/1"]
        assert request.headers.get_all("Content-Type") == ["application/json"]


def test_a_path_in_the_host_is_kept(make_delivery):
    """Reverse proxies live there; slashes do not double."""
    assert make_delivery("http://h/ingest/").url("/batch/") == "http://h/ingest/batch/"
    assert make_delivery(" http://h ").url("/batch/") == "http://h/batch/"
