"""Connections of a sender: proxies, certificates, how many there are."""

import contextlib
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

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


OPENSSLS_VERDICT = pytest.mark.posix("OpenSSL's verdict: under Wine an incomplete chain is trusted")
UNKNOWN_AUTHORITY = pytest.param("unknown authority", marks=OPENSSLS_VERDICT)


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority():
    """Return a certificate authority that no operating system knows."""
    # Where its library cannot be loaded, as under Wine, there is no TLS to test.
    return pytest.importorskip("trustme", exc_type=ImportError).CA()


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


def subject_hash(authority):
    """Return the name that OpenSSL looks for in a directory of certificates."""
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    return (
        subprocess.run(command, input=authority.cert_pem.bytes(), capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )


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


@pytest.mark.parametrize("wrong", [UNKNOWN_AUTHORITY, "another host", "expired"])
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
    advice = {
        "unknown authority": "set SSL_CERT_FILE to a file with its authority's certificate",
        "another host": "use the name that the certificate is for",
        "expired": "renew the server's certificate, or set this machine's clock",
    }
    assert drop.endswith(f": {advice[wrong]}")
    assert sum(line.startswith("POST ") for line in done.lines) == 1


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_file_of_certificates(authority, trusting, variable, place):
    """Each variable counts; a relative path is seen from the host's directory, where the sender is not."""
    path = Path(trusting["SSL_CERT_FILE"])
    env = {variable: str(path) if place == "absolute" else path.name}
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(hello(server.url, cwd=str(path.parent)), event("e"), env=env)
        assert done.exit_code == 0, done.stderr
        assert names(server.events) == ["e"]


@pytest.mark.posix("directories as OpenSSL hashes them")
@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_a_directory_of_certificates(authority, trusting, tmp_path, variable):
    """Its files are named as OpenSSL wants them; SSL_CERT_DIR may list several."""
    shutil.copy(trusting["SSL_CERT_FILE"], tmp_path / f"{subject_hash(authority)}.0")
    value = f"/no/such/directory{os.pathsep}{tmp_path}" if variable == "SSL_CERT_DIR" else str(tmp_path)
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(event("e"), arguments=to(server.url), env={variable: value})
        assert done.exit_code == 0, done.stderr


@OPENSSLS_VERDICT
@pytest.mark.parametrize(
    ("first", "second"), [("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
)
def test_the_first_variable_wins(authority, trusting, tmp_path, first, second):
    """OpenSSL's, then requests', then curl's: what a later one names is not trusted."""
    import trustme

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    env = {first: str(tmp_path / "other.pem"), second: trusting["SSL_CERT_FILE"]}
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(event("e"), arguments=to(server.url), env=env)
        assert done.exit_code == 1
        assert "TLS: the server's certificate is not trusted" in done.stderr


# Whom certifi trusts, as far as this test is concerned: the authority in a file.
CERTIFI = "import certifi, os; certifi.where = lambda: os.environ['TEST_CERTIFI']"
EMPTY_SYSTEM = """
import ssl, truststore._openssl
ssl.get_default_verify_paths = lambda: ssl.DefaultVerifyPaths(None, None, "", "", "", "")
truststore._openssl._CA_FILE_CANDIDATES.clear()
"""


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the system's store is never empty there")
def test_a_system_without_certificates(authority, trusting):
    """In a bare container certifi's are trusted, and the log says so."""
    env = {"TEST_CERTIFI": trusting["SSL_CERT_FILE"]}
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(event("e"), arguments=to(server.url), env=env, patch=CERTIFI + EMPTY_SYSTEM)
        assert done.exit_code == 0, done.stderr
    assert done.lines.count("the system has no certificates: trusting those of certifi") == 1


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the system's store is never empty there")
def test_variables_that_name_no_certificates(authority, trusting, tmp_path):
    """A file that is missing, a directory that is empty: each is said, and certifi's certificates are trusted."""
    env = {"SSL_CERT_FILE": "missing.pem", "SSL_CERT_DIR": str(tmp_path), "TEST_CERTIFI": trusting["SSL_CERT_FILE"]}
    with serve_tls(authority.issue_cert("localhost")) as server:
        done = run_sender(event("e"), arguments=to(server.url), env=env, patch=CERTIFI)
        assert done.exit_code == 0, done.stderr
    assert "SSL_CERT_FILE: missing.pem cannot be used: [Errno 2] No such file or directory" in done.lines
    assert any(line.startswith(f"SSL_CERT_DIR: {tmp_path} holds no certificates") for line in done.lines)
    assert "SSL_CERT_FILE has no certificates: trusting those of certifi" in done.lines


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


@OPENSSLS_VERDICT
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


def test_a_proxy_of_an_unknown_kind_is_final(server):
    """With the reason; and nothing goes around it."""
    done = run_sender(event("e"), arguments=to(server.url), env={"HTTP_PROXY": "nonsense://127.0.0.1:1"})
    assert done.exit_code == 1
    assert server.requests == []
    assert done.dropped() == ["e"]
    assert "HTTP_PROXY cannot be used: " in done.stderr


@OPENSSLS_VERDICT
def test_a_proxy_that_is_reached_by_tls(authority, trusting):
    """Its certificate has to be one that the person trusts, as the server's has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    def behave(connection):
        with context.wrap_socket(connection, server_side=True) as encrypted:
            asked.append(read_request(encrypted).partition(b"\r\n")[0])
            encrypted.sendall(answer)

    for env, kind in ((trusting, 0), ({}, 1)):
        asked = []
        with Staller(behave) as proxy:
            address = f"https://localhost:{proxy.port}"
            done = run_sender(event("e"), arguments=to("http://x.example"), env={**env, "HTTP_PROXY": address})
        assert done.exit_code == kind, done.stderr
        assert asked == ([b"POST http://x.example/capture/ HTTP/1.1"] if env else [])


# ---- redirects


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_host_is_followed(server, status):
    """With the same body, on the same connection, and at no cost in retries."""
    server.script(Answer(status=status, headers=[("Location", "/i/v0/e/")]))
    done = run_sender(event("e"), arguments=to(server.url, max_retries=0))
    assert done.exit_code == 0, done.stderr
    first, second = server.requests
    assert (first.path, second.path) == ("/capture/", "/i/v0/e/")
    assert first.body == second.body
    assert server.connection_count == 1
    assert f", redirected to {server.url}/i/v0/e/" in done.stderr


def test_a_redirect_to_https_of_the_same_host_is_followed(authority, trusting):
    """With the certificates that https asks for, and the proxy that https goes through."""
    with serve_tls(authority.issue_cert("localhost")) as secure, CaptureServer() as server, Proxy() as proxy:
        server.respond(Answer(status=308, headers=[("Location", f"{secure.url}/capture/")]))
        host = f"http://localhost:{server.port}"
        env = {**trusting, "HTTPS_PROXY": proxy.url()}
        done = run_sender(event("one", 1), event("two", 2), arguments=to(host, endpoint="capture"), env=env)
        assert done.exit_code == 0, done.stderr
        assert names(secure.events) == ["one", "two"]
        assert set(proxy.asked) == {f"CONNECT localhost:{secure.port} HTTP/1.1"}


def test_redirects_are_followed_twice_at_most(server):
    """The third is final."""
    server.respond(Answer(status=307, headers=[("Location", "/again/")]))
    done = run_sender(event("e"), arguments=to(server.url, max_retries=3))
    assert done.exit_code == 1
    assert len(server.requests) == 3
    assert "dropped 1 event (e): HTTP 307: it redirects to /again/" in done.lines


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://localhost:{other}/capture/"),
        (308, "http://127.0.0.1:{other}/capture/"),
        (307, "//example.invalid/capture/"),
        (307, "https://me:secret@example.invalid/"),
        (307, "ftp://127.0.0.1/"),
        (307, None),
        (301, "/elsewhere/"),
        (302, "/elsewhere/"),
        (303, "/elsewhere/"),
    ],
)
def test_any_other_redirect_is_final(server, status, location):
    """Nothing is ever sent to another host, or to another service on the same one."""
    with CaptureServer() as other:
        place = [("Location", location.format(other=other.port))] if location else []
        server.respond(Answer(status=status, headers=place))
        done = run_sender(event("e"), arguments=to(server.url, max_retries=3))
        assert other.connection_count == 0
    assert done.exit_code == 1
    assert len(server.requests) == 1
    assert f"dropped 1 event (e): HTTP {status}" in done.stderr
    assert "secret" not in done.stderr


def test_https_never_becomes_http(authority, trusting):
    """A redirect from https to http of the same host is final."""
    with serve_tls(authority.issue_cert("localhost")) as secure, CaptureServer() as server:
        secure.respond(Answer(status=307, headers=[("Location", f"http://localhost:{server.port}/capture/")]))
        done = run_sender(event("e"), arguments=to(secure.url), env=trusting)
        assert done.exit_code == 1
        assert server.connection_count == 0


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
