"""`sender/proxy.py`: the way of a request, held against a proxy and a server that note their visitors."""

import base64
import contextlib
import os
import socket
import sys
import urllib.request

import pytest

from atotelemetry.sender.batch import Request
from atotelemetry.sender.connection import Network
from atotelemetry.sender.delivery import Delivery
from atotelemetry.sender.outcome import DELIVERED, REJECTED
from atotelemetry.sender.proxy import find_way
from support_sender import PATIENCE, Staller, event, read_request, run_sender, to

REQUEST = Request("/capture/", b'{"api_key":"k","event":"e","distinct_id":"me"}')
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
DIRECT, PROXY = "direct", "proxy"

NAME, SUB, IDNA = "http://telemetry.example:{T}", "http://a.b.telemetry.example:{T}", "http://bücher.example:{T}"
SECURE, V4, V6, ZONE = (
    "https://telemetry.example:{T}",
    "http://127.0.0.1:{T}",
    "http://[::1]:{T}",
    "http://[fe80::1%25lo]",
)
BY_PROXY = {"HTTP_PROXY": "http://{P}"}


def except_for(no_proxy):
    return {**BY_PROXY, "NO_PROXY": no_proxy}


CGI = ({"http_proxy": "http://{P}", "REQUEST_METHOD": "POST"}, PROXY)
# Rows of Windows' own are below: it has one variable of a name, in whatever case that is written.
# {P} is the proxy's host and port, {T} the server's port. Expected is a way, or a part of the reason for none.
TABLE = [
    # which variable
    (NAME, {}, DIRECT),
    (NAME, BY_PROXY, PROXY),
    (NAME, {"http_proxy": "http://{P}"}, PROXY),
    (NAME, {"Http_Proxy": "http://{P}"}, PROXY),
    (NAME, {"http_proxy": "http://{P}", "HTTP_PROXY": "http://dead:1"}, PROXY),
    (NAME, {"http_proxy": "", "HTTP_PROXY": "http://{P}"}, DIRECT),
    (NAME, {"HTTPS_PROXY": "http://{P}"}, DIRECT),
    (NAME, {"ALL_PROXY": "http://{P}"}, PROXY),
    (NAME, {"all_proxy": "http://{P}", "ALL_PROXY": "http://dead:1"}, PROXY),
    (NAME, {"HTTP_PROXY": "http://{P}", "ALL_PROXY": "http://dead:1"}, PROXY),
    (NAME, {"HTTP_PROXY": "", "ALL_PROXY": "http://{P}"}, PROXY),
    (NAME, {**BY_PROXY, "REQUEST_METHOD": "POST"}, DIRECT),  # a CGI script
    (NAME, *CGI),
    (SECURE, {"HTTPS_PROXY": "http://{P}"}, PROXY),
    (SECURE, {"https_proxy": "http://{P}", "HTTPS_PROXY": "http://dead:1"}, PROXY),
    (SECURE, {"https_proxy": "", "ALL_PROXY": "http://{P}"}, PROXY),
    (SECURE, BY_PROXY, DIRECT),
    (SECURE, {"HTTPS_PROXY": "http://{P}", "NO_PROXY": "telemetry.example"}, DIRECT),
    # how a proxy is written
    (NAME, {"HTTP_PROXY": "{P}"}, PROXY),
    (NAME, {"HTTP_PROXY": " http://{P} "}, PROXY),
    (NAME, {"HTTP_PROXY": "HTTP://{P}/"}, PROXY),
    (NAME, {"HTTP_PROXY": "http://me:secret@{P}/"}, PROXY),
    (NAME, {"HTTP_PROXY": "me:secret@{P}"}, PROXY),
    # a proxy that cannot be used: only where it applies
    (NAME, {"HTTP_PROXY": "ftp://{P}"}, "HTTP_PROXY cannot be used: a proxy of the kind ftp is not supported"),
    (NAME, {"all_proxy": "socks4://{P}"}, "all_proxy cannot be used: a proxy of the kind socks4 is not supported"),
    (NAME, {"HTTP_PROXY": "http://proxy:port"}, "HTTP_PROXY cannot be used: its port is no number"),
    (NAME, {"HTTP_PROXY": "http://pro xy:80"}, "HTTP_PROXY cannot be used: it holds a space"),
    (NAME, {"HTTP_PROXY": "http://[::1"}, "HTTP_PROXY cannot be used: its brackets hold no IPv6 address"),
    (NAME, {"HTTP_PROXY": "http://"}, "HTTP_PROXY cannot be used: it names no host"),
    (SECURE, {"https_proxy": "nonsense://{P}"}, "https_proxy cannot be used: "),
    (NAME, {"HTTPS_PROXY": "ftp://{P}"}, DIRECT),
    (NAME, {"HTTPS_PROXY": " http://proxy:notaport"}, DIRECT),
    (NAME, {"ALL_PROXY": "socks5://{P}", "NO_PROXY": "telemetry.example"}, DIRECT),
    (NAME, {"ALL_PROXY": "ftp://{P}", "HTTP_PROXY": "http://{P}"}, PROXY),
    # NO_PROXY: names
    (NAME, {"NO_PROXY": "telemetry.example"}, DIRECT),
    (NAME, except_for("telemetry.example"), DIRECT),
    (NAME, except_for("Telemetry.EXAMPLE"), DIRECT),
    (NAME, except_for("example"), DIRECT),
    (NAME, except_for(".example"), DIRECT),
    (NAME, except_for("*.example"), DIRECT),
    (NAME, except_for("telemetry.example."), DIRECT),
    (NAME, except_for(".telemetry.example"), DIRECT),
    (SUB, except_for("telemetry.example"), DIRECT),
    (NAME, except_for("other.example"), PROXY),
    (NAME, except_for("lemetry.example"), PROXY),
    (NAME, except_for("a.telemetry.example"), PROXY),
    (NAME, except_for("*"), DIRECT),
    (NAME, except_for("other.example,*"), DIRECT),
    (NAME, except_for("other.example , telemetry.example"), DIRECT),
    (NAME, except_for("other.example telemetry.example"), DIRECT),
    (NAME, except_for(",, ,"), PROXY),
    (NAME, {**BY_PROXY, "no_proxy": "telemetry.example", "NO_PROXY": "other.example"}, DIRECT),
    (NAME, {**BY_PROXY, "no_proxy": "", "NO_PROXY": "telemetry.example"}, PROXY),
    (NAME, except_for("telemetry.example:{T}"), DIRECT),
    (SUB, except_for("telemetry.example:{T}"), DIRECT),
    (NAME, except_for("telemetry.example:1"), PROXY),
    (NAME, except_for("http://telemetry.example"), DIRECT),
    (NAME, except_for("https://telemetry.example"), PROXY),
    (IDNA, except_for("bücher.example"), DIRECT),
    (IDNA, except_for(".bücher.example"), DIRECT),
    (IDNA, except_for("xn--bcher-kva.example"), DIRECT),
    (NAME, except_for(".bücher.example"), PROXY),
    # NO_PROXY: addresses and networks
    (V4, except_for("127.0.0.1"), DIRECT),
    (V4, except_for("127.0.0.1:{T}"), DIRECT),
    (V4, except_for("127.0.0.1:1"), PROXY),
    (V4, except_for("127.0.0.0/8"), DIRECT),
    (V4, except_for("127.0.0.1/255.0.0.0"), DIRECT),
    (V4, except_for("10.0.0.0/8"), PROXY),
    (V4, except_for("localhost"), PROXY),
    (V4, except_for("127.0.0.1,fe80::/10"), DIRECT),
    (NAME, except_for("127.0.0.0/8"), PROXY),
    (V6, except_for("::1"), DIRECT),
    (V6, except_for("[::1]"), DIRECT),
    (V6, except_for("[::1]:{T}"), DIRECT),
    (V6, except_for("[::1]:1"), PROXY),
    (V6, except_for("::/64"), DIRECT),
    (V6, except_for("fe80::/10"), PROXY),
    (ZONE, except_for("fe80::/10"), DIRECT),
    (ZONE, except_for("fe80::1"), DIRECT),
    # NO_PROXY: entries that cannot be read are skipped
    (NAME, except_for("foo:*"), PROXY),
    (NAME, except_for("foo:*,telemetry.example"), DIRECT),
    (NAME, except_for("[::1,telemetry.example"), DIRECT),
    (NAME, except_for("10.0.0.0/99,<local>,telemetry.example"), DIRECT),
    (V4, except_for("127.0.0.0/8:x"), PROXY),
]
if sys.platform == "win32":
    TABLE = [row for row in TABLE if len({name.upper() for name in row[1]}) == len(row[1]) and row[1:] != CGI]
    TABLE += [(NAME, CGI[0], DIRECT)]  # all that Python can tell there


class Listener(Staller):
    """Answers every request with 200, or speaks TLS to nobody, and notes the first line of each."""

    def __init__(self):
        self.heads = []
        super().__init__(self._note)

    def _note(self, connection):
        while request := read_request(connection) if connection.recv(1, socket.MSG_PEEK) != b"\x16" else b"TLS":
            self.heads.append(request.decode())
            if request == b"TLS":
                connection.shutdown(socket.SHUT_RDWR)
                return
            if request.startswith(b"CONNECT "):
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            else:
                connection.sendall(OK)


class Lines(list):
    """The lines of a sender's journal."""

    detail = list.append


@pytest.fixture
def proxy():
    with Listener() as running:
        yield running


@pytest.fixture
def server(monkeypatch):
    """Run a server that every name and address leads to, at every port that is not the proxy's."""
    with Listener() as running:
        resolve = socket.getaddrinfo

        def to_loopback(host, port, *arguments, **options):
            return resolve("127.0.0.1", running.port if host.startswith("fe80") else port, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
        yield running


def set_variables(monkeypatch, variables, **places):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(**places))


@contextlib.contextmanager
def delivery_to(host, lines):
    network = Network(user_agent="test/1", request_timeout=PATIENCE, directory=None, journal=lines)
    delivery = Delivery(host=host, network=network, compression=None, journal=lines)
    try:
        yield delivery
    finally:
        delivery.close()


@pytest.mark.parametrize(("host", "variables", "expected"), TABLE)
def test_the_way(monkeypatch, proxy, server, host, variables, expected):
    """As the variables say, a request goes through the proxy, past it, or nowhere, with the reason."""
    places = {"P": f"127.0.0.1:{proxy.port}", "T": server.port}
    set_variables(monkeypatch, variables, **places)
    lines = Lines()
    with delivery_to(host.format(**places), lines) as delivery:
        outcome = delivery.post(REQUEST, 1)
    seen = (len(proxy.heads), len(server.heads))
    assert "secret" not in "".join(lines) + outcome.reason
    if expected not in (DIRECT, PROXY):
        assert (seen, outcome.kind) == ((0, 0), REJECTED)
        assert expected in outcome.reason or (sys.platform == "win32" and expected.partition(" ")[2] in outcome.reason)
        return
    assert seen == ((1, 0) if expected == PROXY else (0, 1)), lines
    assert (f", through the proxy 127.0.0.1:{proxy.port}" in lines[-1]) == (expected == PROXY)


def test_unreadable_entries_are_said_once(monkeypatch, proxy, server):
    """One line for a whole sender, however many requests and connections it makes."""
    set_variables(monkeypatch, except_for("foo:*, ok.example, http://me:secret@[::1"), P=f"127.0.0.1:{proxy.port}")
    lines = Lines()
    network = Network(user_agent="test/1", request_timeout=PATIENCE, directory=None, journal=lines)
    for _ in range(2):
        delivery = Delivery(host="http://telemetry.example", network=network, compression=None, journal=lines)
        assert delivery.post(REQUEST, 1).kind == DELIVERED
        delivery.close()
    said = [line for line in lines if "NO_PROXY" in line]
    assert said == ["NO_PROXY: skipped, because unreadable: 'foo:*', 'http://[::1'"]


@pytest.mark.parametrize(("host", "variables", "expected"), TABLE)
def test_side_by_side_with_urllib(monkeypatch, host, variables, expected):
    """A server that urllib reaches without a proxy, we do; and the other way round, for entries in a form it knows."""
    places = {"P": "proxy.example:3128", "T": 8000}
    set_variables(monkeypatch, variables, **places)
    scheme, _, authority = host.format(**places).partition("://")
    authority = authority.encode("idna").decode().lower()
    name = authority[1:].partition("]")[0] if authority[0] == "[" else authority.rpartition(":")[0]
    no_proxy = next((value for variable, value in variables.items() if variable.lower() == "no_proxy"), "")
    way = find_way(scheme, name, 8000, os.environ, Lines().append)
    direct = not way.address and not way.fault
    settings = urllib.request.getproxies_environment()
    named = settings.get(scheme) or settings.get("all")
    if not named or urllib.request.proxy_bypass_environment(authority):
        assert direct
    elif not any(part in no_proxy for part in ("*", "/", " ", "[", "::", "ü", "example.")):
        assert not direct


# ---- passwords


@pytest.mark.parametrize("password", ["secret", "sec/ret", "sec#ret", "sec?ret", "sec@ret", "sec:ret", "sec%2Fret"])
def test_a_password_reaches_the_proxy_and_nobody_else(monkeypatch, proxy, server, password):
    """Whatever character it holds, encoded or not, it is in the header for the proxy and in no line."""
    set_variables(monkeypatch, {"HTTP_PROXY": f"http://me:{password}@127.0.0.1:{proxy.port}"})
    lines = Lines()
    with delivery_to("http://telemetry.example", lines) as delivery:
        assert delivery.post(REQUEST, 1).kind == DELIVERED
    (head,) = proxy.heads
    sent = next(line for line in head.splitlines() if line.lower().startswith("proxy-authorization: basic "))
    expected = f"me:{password}".replace("%2F", "/")
    assert base64.b64decode(sent.split()[-1]).decode() == expected
    assert "ret" not in "".join(lines)


@pytest.mark.parametrize(
    "value",
    [
        "ftp://me:secret@127.0.0.1:1",
        "http://me:secret",
        "me:secret",
        "http://me:secret@127.0.0.1:x",
        "http://me:1/secret@[::1",
        "me:secret://127.0.0.1:1",
        "socks4://me:secret@127.0.0.1:1",
        "http://me:secret@127.0.0.1:1",
        "http://me:sec/secret@127.0.0.1:1",
    ],
)
def test_a_password_is_in_no_reason(value):
    """Neither where the proxy cannot be used nor where nobody listens."""
    done = run_sender(event("e"), arguments=to("http://127.0.0.1:9", max_retries=0), env={"HTTP_PROXY": value})
    assert done.exit_code == 1
    assert done.dropped() == ["e"]
    assert "secret" not in done.stderr


# ---- the system's settings


@pytest.mark.parametrize(
    ("settings", "bypassed", "variables", "expected"),
    [
        ({"http": "http://{P}"}, False, {}, PROXY),
        ({"http": "http://{P}"}, True, {}, DIRECT),
        ({"https": "http://{P}"}, False, {}, DIRECT),
        ({"http": "http://{P}"}, False, {"NO_PROXY": "telemetry.example"}, DIRECT),
        ({"http": "http://{P}"}, False, {"FTP_PROXY": "http://x"}, DIRECT),
        ({"http": "socks4://{P}"}, False, {}, "the system's proxy cannot be used: "),
    ],
)
def test_the_settings_of_the_system(monkeypatch, proxy, server, settings, bypassed, variables, expected):
    """As with urllib they count where no variable about proxies is set at all (Windows and macOS have some)."""
    set_variables(monkeypatch, variables)
    place = f"127.0.0.1:{proxy.port}"
    found = {scheme: address.format(P=place) for scheme, address in settings.items()}
    monkeypatch.setattr(urllib.request, "getproxies", lambda: found)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda _: bypassed)
    with delivery_to(f"http://telemetry.example:{server.port}", Lines()) as delivery:
        outcome = delivery.post(REQUEST, 1)
    if expected in (DIRECT, PROXY):
        assert (len(proxy.heads), len(server.heads)) == ((1, 0) if expected == PROXY else (0, 1))
    else:
        assert expected in outcome.reason or (sys.platform == "win32" and expected.partition(" ")[2] in outcome.reason)


# ---- SOCKS


def socks5(user_and_password=b""):
    """Return a behaviour: a SOCKS 5 proxy (RFC 1928, RFC 1929) that answers the request behind it itself."""

    def behave(connection):
        method = b"\x02" if user_and_password else b"\x00"
        assert connection.recv(3) == b"\x05\x01" + method
        connection.sendall(b"\x05" + method)
        if user_and_password:
            user, _, password = user_and_password.partition(b":")
            expected = b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
            connection.sendall(b"\x01\x00" if connection.recv(512) == expected else b"\x01\x01")
        if connection.recv(512).startswith(b"\x05\x01\x00"):
            connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
            read_request(connection)
            connection.sendall(OK)

    return behave


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy(scheme):
    """With the extra `socks`, `ALL_PROXY` may name one."""
    with Staller(socks5()) as proxy:
        env = {"ALL_PROXY": proxy.url(scheme)}
        done = run_sender(event("e"), arguments=to("http://telemetry.example"), env=env)
    assert done.exit_code == 0, done.stderr
    assert f", through the proxy 127.0.0.1:{proxy.port}" in done.stderr


def test_a_socks_proxy_with_a_password():
    """It gets them, and nobody else does."""
    with Staller(socks5(b"me:sec/ret")) as proxy:
        env = {"all_proxy": f"socks5://me:sec/ret@127.0.0.1:{proxy.port}"}
        done = run_sender(event("e"), arguments=to("http://telemetry.example"), env=env)
    assert done.exit_code == 0, done.stderr
    assert "ret" not in done.stderr


def test_a_socks_proxy_without_the_extra():
    """The reason names the package to install, and the event goes nowhere else."""
    with Listener() as server:
        env = {"ALL_PROXY": "socks5://me:secret@127.0.0.1:1"}
        patch = "import sys; sys.modules['socksio'] = None"
        done = run_sender(event("e"), arguments=to(server.url()), env=env, patch=patch)
    assert done.exit_code == 1
    reason = "ALL_PROXY cannot be used: a SOCKS proxy needs the package socksio (pip install 'atotelemetry[socks]')"
    assert f"dropped 1 event (e): {reason}" in done.lines
    assert server.heads == []
