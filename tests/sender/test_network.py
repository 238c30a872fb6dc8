"""Citizenship: proxies, certificates, connections."""

import contextlib
import datetime
import socket
import ssl
import threading

import pytest
import trustme

from atotelemetry.testing import Answer, CaptureServer
from support_sender import END, RunningSender, Staller, closed_port, event, events, hello, read_request, run_sender, to


class Proxy(Staller):
    """A forward proxy that knows CONNECT and absolute addresses, and remembers what it was asked."""

    def __init__(self, refuse=b""):
        self.asked = []
        self._refuse = refuse
        super().__init__(self._forward)

    def _forward(self, connection):
        request = read_request(connection)
        if not request:
            return
        line, _, rest = request.partition(b"\r\n")
        self.asked.append(line.decode())
        if self._refuse:
            connection.sendall(self._refuse)
            self._forward(connection)
            return
        method, target, version = line.split()
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            first = b""
        else:
            host, _, port = target.decode().split("/")[2].rpartition(":")
            path = b"/" + target.split(b"/", 3)[3]
            first = b" ".join((method, path, version)) + b"\r\n" + rest
        with socket.create_connection((host, int(port)), timeout=20) as upstream:
            if method == b"CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.sendall(first)
            back = threading.Thread(target=pump, args=(upstream, connection), daemon=True)
            back.start()
            pump(connection, upstream)
            back.join(20)


def pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority():
    """Return a certificate authority that no operating system knows."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority, tmp_path_factory):
    """Return an environment in which a person trusts that authority."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return {"SSL_CERT_FILE": str(path)}


def serve_tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return CaptureServer(ssl_context=context)


def names(events):
    return [event["event"] for event in events]


# ---- certificates


def test_a_certificate_that_the_environment_trusts(authority, trusting):
    """`SSL_CERT_FILE` names the authority; several requests share one TLS connection."""
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(events(3), arguments=to(server.url, endpoint="capture"), env=trusting)
        assert done.exit_code == 0, done.stderr
        assert names(server.events) == ["e0", "e1", "e2"]
        assert {request.connection for request in server.requests} == {server.requests[0].connection}


@pytest.mark.parametrize("wrong", ["unknown authority", "another host", "expired"])
def test_a_certificate_that_does_not_verify_is_final(authority, trusting, wrong):
    """A clear reason, no retry, and never anything in the clear."""
    env = {} if wrong == "unknown authority" else trusting
    name = "example.org" if wrong == "another host" else "localhost"
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    certificate = authority.issue_cert(name, not_after=past if wrong == "expired" else None)
    with serve_tls(certificate) as server:
        done = run_sender(event("secret"), arguments=to(server.url, max_retries=3), env=env)
        assert done.exit_code == 1
        assert server.requests == []
        assert server.connection_count <= 2  # localhost may have two addresses
    (drop,) = [line for line in done.lines if line.startswith("dropped ")]
    assert drop.startswith("dropped 1 event (secret): TLS: the server's certificate is not trusted: ")
    assert sum(line.startswith("POST ") for line in done.lines) == 1


def test_a_certificate_of_the_systems_store_is_not_asked_for_over_http(server):
    """A certificate file that is nonsense harms nobody who does not use TLS."""
    done = run_sender(event("e"), arguments=to(server.url), env={"SSL_CERT_FILE": "/no/such/file"})
    assert done.exit_code == 0, done.stderr


def test_a_server_that_speaks_no_tls_gets_nothing_in_the_clear():
    """What was to be encrypted stays encrypted."""
    seen = []

    def behave(connection):
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Staller(behave) as server:
        done = run_sender(event("secret"), arguments=to(server.url("https"), max_retries=0))
    assert done.exit_code == 1
    assert b"secret" not in b"".join(seen)
    assert done.dropped() == ["secret"]


# ---- proxies


def test_http_goes_through_its_proxy(server):
    """As `HTTP_PROXY` says."""
    with Proxy() as proxy:
        done = run_sender(event("e"), arguments=to(server.url), env={"HTTP_PROXY": proxy.url()})
        assert done.stderr.count(f", through the proxy {proxy.url().removeprefix('http://')}") == 1
        assert done.exit_code == 0, done.stderr
        assert proxy.asked == [f"POST {server.url}/capture/ HTTP/1.1"]
    assert names(server.events) == ["e"]


def test_https_goes_through_a_tunnel(authority, trusting):
    """As `HTTPS_PROXY` says, and the server's certificate is still the one that counts."""
    with serve_tls(authority.issue_cert("localhost")) as server, Proxy() as proxy:
        done = run_sender(events(2), arguments=to(server.url), env={**trusting, "HTTPS_PROXY": proxy.url()})
        assert done.stderr.count(f", through the proxy {proxy.url().removeprefix('http://')}") == 1
        assert done.exit_code == 0, done.stderr
        assert proxy.asked == [f"CONNECT localhost:{server.port} HTTP/1.1"]
        assert names(server.events) == ["e0", "e1"]


def test_a_tunnel_does_not_lower_the_demands(authority):
    """An unknown authority behind a proxy is as final as without."""
    with serve_tls(authority.issue_cert("localhost")) as server, Proxy() as proxy:
        done = run_sender(event("e"), arguments=to(server.url), env={"HTTPS_PROXY": proxy.url()})
        assert done.exit_code == 1
        assert "TLS: the server's certificate is not trusted" in done.stderr
        assert server.requests == []


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_heeded(server, variable):
    """For the hosts that it names the proxy is not asked."""
    env = {"HTTP_PROXY": f"http://127.0.0.1:{closed_port()}", variable: "127.0.0.1,localhost"}
    done = run_sender(event("e"), arguments=to(server.url), env=env)
    assert done.exit_code == 0, done.stderr
    assert "proxy" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "scheme"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "http"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "https"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "https"),
        (b"", "down"),
    ],
)
def test_a_proxy_that_fails_is_tried_again(answer, scheme):
    """It may be back in a moment; then the events are dropped with its reason."""
    with Proxy(refuse=answer or b"-") as proxy:
        address = f"http://127.0.0.1:{closed_port()}" if scheme == "down" else proxy.url()
        host = "http://example.invalid" if scheme != "https" else "https://example.invalid"
        done = run_sender(event("e"), arguments=to(host), env={"HTTP_PROXY": address, "HTTPS_PROXY": address})
        assert done.exit_code == 1
        assert done.dropped() == ["e"]
        assert sum(line.startswith("POST ") for line in done.lines) == 2
        assert len(proxy.asked) == (0 if scheme == "down" else 2)


@pytest.mark.parametrize("address", ["nonsense://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_a_proxy_of_an_unknown_kind_is_final(server, address):
    """With the reason; and nothing goes around it."""
    done = run_sender(event("e"), arguments=to(server.url), env={"HTTP_PROXY": address})
    assert done.exit_code == 1
    assert server.requests == []
    assert done.dropped() == ["e"]
    assert "proxy" in done.stderr.lower()


# ---- connections


def test_batches_share_one_connection(server):
    """Keep-alive, across batches that come apart in time."""
    with RunningSender(*to(server.url)) as sender:
        for number in range(3):
            sender.write(event("one", number) + event("two", number))
            server.wait_for_events(2 * (number + 1))
        done = sender.finish()
    assert done.exit_code == 0, done.stderr
    assert len(server.requests) >= 3
    assert server.connection_count == 1


def test_a_connection_that_the_server_closed_is_replaced(server):
    """At no cost: not a retry, not an event twice, not a word."""
    # Closed without a word after an answer; under a request on a kept connection; with an announcement.
    server.script(Answer(close=True), Answer(), Answer(drop=True), Answer(), Answer(headers=[("Connection", "close")]))
    done = run_sender(events(6), arguments=to(server.url, endpoint="capture", max_retries=0))
    assert done.exit_code == 0, done.stderr
    assert names(server.events) == [f"e{number}" for number in range(6)]
    assert not any(line.startswith(("retry", "dropped")) for line in done.lines)


def test_the_user_agent_names_the_host_program(server):
    """`<app>/<version of app>`."""
    done = run_sender(hello(server.url, app="my-cli", app_version="1.2"), event("e"), END)
    assert done.exit_code == 0, done.stderr
    assert server.requests[0].headers["User-Agent"] == "my-cli/1.2"


def test_an_http_library_that_is_broken_is_final(server):
    """Nothing to be tried again: the reason is what its import raises, and nobody sees a traceback."""
    patch = """
import sys
class Broken:
    def find_spec(self, name, *rest):
        if name == "httpx":
            raise ImportError("broken httpx")
sys.meta_path.insert(0, Broken())
"""
    done = run_sender(event("lost"), arguments=to(server.url), patch=patch)
    assert done.exit_code == 1
    assert "dropped 1 event (lost): ImportError: broken httpx" in done.lines
    assert not any(line.startswith("retry ") for line in done.lines)
    assert "Traceback" not in done.stderr
