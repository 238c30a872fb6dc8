"""`facts/address.py`: which addresses may be a server's, and how to repeat one."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import httpx
import pytest

from atotelemetry import Telemetry, TelemetryClient
from atotelemetry.facts.address import fault_of_address, without_credentials

GOOD = [
    "http://127.0.0.1:8000",
    "https://eu.i.posthog.com",
    "https://eu.i.posthog.com/",
    "HTTPS://Telemetry.Example/ingest/",
    " https://telemetry.example\n",
    "http://[::1]:8000",
    "http://[fe80::1%25eth0]",
    "https://bücher.example",
    "https://me:p%40ss@telemetry.example:8443/a/b",
    "http://localhost:",
    "http://single",
]
BAD = [
    ("127.0.0.1:8000", "an http:// or https:// URL"),
    ("telemetry.example", "an http:// or https:// URL"),
    ("htp://x", "an http:// or https:// URL"),
    ("ftp://telemetry.example", "an http:// or https:// URL"),
    ("https:telemetry.example", "an http:// or https:// URL"),
    ("https://", "an http:// or https:// URL"),
    ("https:///path", "an http:// or https:// URL"),
    ("https://me:secret@", "an http:// or https:// URL"),
    ("  ", "an http:// or https:// URL"),
    ("https://:80", "it names no host"),
    ("https://x/?a=1", "without query and fragment"),
    ("https://x?", "without query and fragment"),
    ("https://x/#a", "without query and fragment"),
    ("http://[::1", "no IPv6 address"),
    ("http://[::1]8000", "no IPv6 address"),
    ("http://[telemetry]", "no IPv6 address"),
    ("http://[]", "it names no host"),
    ("http://x:port", "its port"),
    ("http://x:65536", "its port"),
    ("http://x:٣", "its port"),
    ("http://x:-1", "its port"),
    ("http://a b", "a space"),
    ("http://x/\ty", "a control character"),
    ("http://caf\udce9", "not readable"),
    (5, "must be a text"),
    (b"http://x", "must be a text"),
]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_that_may_be_one(address):
    """Also with a path, a user, an IPv6 address with its zone, a name in any script."""
    assert fault_of_address(address) == ""
    assert httpx.URL(address.strip()).host


@pytest.mark.parametrize(("address", "words"), BAD)
def test_an_address_that_can_never_work(address, words):
    """The reason names its fault."""
    assert words in fault_of_address(address)


@pytest.mark.parametrize("address", [*GOOD, *(address for address, _ in BAD if isinstance(address, str))])
def test_the_check_is_no_laxer_than_urllib(address):
    """An address that `urllib.parse` cannot read, or finds no host in, is refused."""
    try:
        parts = urlsplit(address.strip())
        readable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != -1
    except ValueError:
        readable = False
    assert readable or fault_of_address(address)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://telemetry.example/a", "https://telemetry.example/a"),
        ("https://me:secret@telemetry.example:8443/a", "https://telemetry.example:8443/a"),
        ("https://me@telemetry.example", "https://telemetry.example"),
        ("https://me:s@cret@telemetry.example", "https://telemetry.example"),
        ("https://me:sec/ret@telemetry.example", "https://…@telemetry.example"),
        ("https://me:sec#ret@telemetry.example", "https://…@telemetry.example"),
        ("https://me:sec?ret@telemetry.example", "https://…@telemetry.example"),
        ("https://me:1/secret@telemetry.example", "https://…@telemetry.example"),
        ("https://https://me:secret@telemetry.example", "https://…@telemetry.example"),
        ("me:secret@telemetry.example", "telemetry.example"),
        ("https://telemetry.example/@team", "https://telemetry.example/@team"),
        ("", ""),
    ],
)
def test_an_address_is_repeated_without_its_password(address, public):
    """Whatever character is in it; a path that only might hold one is cut, too."""
    assert without_credentials(address) == public
    assert "secret" not in fault_of_address(address)


@pytest.mark.parametrize(("address", "words"), BAD)
def test_a_client_refuses_it(address, words):
    """It is a mistake in the host's code, and raises where it is made."""
    with pytest.raises(ValueError, match=words):
        TelemetryClient("key", address)


def test_the_persons_address_never_raises(monkeypatch, caplog):
    """A variable is the person's: telemetry is off, and a DEBUG line names the variable."""
    monkeypatch.setenv("DO_NOT_TRACK", "")
    monkeypatch.setenv("MYTOOL_TELEMETRY", "on")
    monkeypatch.setenv("MYTOOL_SERVICES_TELEMETRY_URL", "me:secret@telemetry.example")
    with caplog.at_level(logging.DEBUG, "atotelemetry"):
        telemetry = Telemetry(app="mytool", api_key="key", host="https://telemetry.example")
    assert telemetry.client.disabled
    assert telemetry.capture_event("built") is None
    assert "MYTOOL_SERVICES_TELEMETRY_URL: the host must be an http:// or https:// URL" in caplog.text
    assert "secret" not in caplog.text


def test_the_programmers_address_raises(monkeypatch):
    """Also through `Telemetry`."""
    monkeypatch.delenv("MYTOOL_SERVICES_TELEMETRY_URL", raising=False)
    with pytest.raises(ValueError, match="the host must be"):
        Telemetry(app="mytool", api_key="key", host="telemetry.example")
