"""The way to the server: direct, or through a proxy.

Runs in the sender, on a connection's thread, once for each server. The variables are read as curl, requests and
`urllib.request` read them. Where those differ, going direct wins. Windows and macOS have settings of their own, which
urllib knows. An error here never holds a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from atotelemetry.facts.address import fault_of_authority, without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["UnusableProxy", "Way", "find_way"]

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "socks5", "socks5h")
_SYSTEM = "the system's proxy"


class UnusableProxy(Exception):
    """The proxy that a person wants cannot be used; the text says why."""


class Way(NamedTuple):
    """How a request reaches the server. Without an address: directly."""

    scheme: str = ""
    address: str = ""
    """Host and perhaps port of the proxy."""
    credentials: tuple[str, str] | None = None
    fault: str = ""
    """Why the proxy cannot be used, with the variable that names it."""


def find_way(scheme: str, host: str, port: int | None, environ: Mapping[str, str], log: Callable[[str], object]) -> Way:
    """Return the way to a server.

    `host` is a name in ASCII or an IP address without brackets. `log` is told, once, of entries in NO_PROXY that cannot
    be read.
    """
    from urllib import request  # httpx has loaded it

    variable, proxy = _variable(environ, f"{scheme}_proxy")
    if not proxy:
        variable, proxy = _variable(environ, "all_proxy")
    if _is_excepted(scheme, host, port or _PORTS[scheme], environ, log):
        return Way()
    if not proxy and not request.getproxies_environment():
        # As in `urllib.request.getproxies`: without any such variable the system's settings count.
        settings = request.getproxies()
        variable, proxy = _SYSTEM, settings.get(scheme) or settings.get("all") or ""
        if proxy and request.proxy_bypass(host):
            return Way()
    return _way_through(variable, proxy) if proxy else Way()


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return how a variable is really spelt, and its value. Lower case wins, also when it is empty."""
    # Windows takes any case for the name of a variable, and Python lists all names there in upper case.
    spellings = [spelling for spelling in environ if spelling.lower() == name]
    if name in spellings:
        return name, environ[name].strip()
    if not spellings or (name == "http_proxy" and "REQUEST_METHOD" in environ):
        return "", ""  # a CGI script: a client's header `Proxy:` sets HTTP_PROXY (CVE-2016-1000110)
    return spellings[0], environ[spellings[0]].strip()


def _way_through(variable: str, proxy: str) -> Way:
    """Take a proxy's address apart; a password in it may hold any character."""
    from urllib.parse import unquote

    scheme, separator, rest = proxy.partition("://")
    if not separator:
        scheme, rest = "http", proxy
    scheme = scheme.lower()
    before, at, after = rest.rpartition("@")
    address = after.partition("/")[0]
    fault = fault_of_authority(address)
    if scheme not in _SCHEMES:
        # Before the "://" may stand a password, where somebody forgot the scheme.
        known = scheme if scheme.isascii() and scheme.isalnum() else "that"
        fault = f"a proxy of the kind {known} is not supported (but {', '.join(_SCHEMES)})"
    elif scheme.startswith("socks") and not _has_socksio():
        fault = "a SOCKS proxy needs the package socksio (pip install 'atotelemetry[socks]')"
    if fault:
        return Way(fault=f"{variable} cannot be used: {fault}")
    user, _, password = before.partition(":")
    return Way(scheme, address, (unquote(user), unquote(password)) if at else None)


def _has_socksio() -> bool:
    try:
        import socksio  # noqa: F401 - the HTTP library imports it
    except ImportError:
        return False
    return True


# ---- NO_PROXY


# A name or address, perhaps with a port. An IPv6 address without brackets has none.
_ENTRY = re.compile(r"(?:\[(?P<six>[^\]]*:[^\]]*)\]|(?P<name>[^:\[]*|[^\[]*:[^\[]*:.*))(?::(?P<port>[0-9]+))?")


def _is_excepted(scheme: str, host: str, port: int, environ: Mapping[str, str], log: Callable[[str], object]) -> bool:
    """Whether NO_PROXY says that this server is reached without a proxy."""
    variable, value = _variable(environ, "no_proxy")
    excepted = False
    unreadable = []
    for entry in value.replace(",", " ").split():
        try:
            excepted = _names(entry, scheme, host, port) or excepted
        except ValueError:
            unreadable.append(repr(without_credentials(entry)))
    if unreadable:
        log(f"{variable}: skipped, because unreadable: {', '.join(unreadable)}")
    return excepted


def _names(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this server. Raises `ValueError` when it cannot be read.

    An entry is `*`, a name (with its subdomains), an IP address or a network, perhaps with a port.
    """
    own_scheme, separator, rest = entry.partition("://")
    if separator:
        entry = rest
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        raise ValueError(entry)
    name = parts["six"] or parts["name"] or ""
    network = _network(name)
    address = _address(host)
    if name == "*":
        matches = True
    elif network is not None:
        matches = address is not None and address in network
    else:
        name = _in_ascii(name)
        host = host.rstrip(".").lower()
        matches = address is None and (host == name or host.endswith(f".{name}"))
    same_scheme = not separator or own_scheme.lower() in (scheme, "all")
    return matches and same_scheme and int(parts["port"] or port) == port


def _network(name: str) -> IPv4Network | IPv6Network | None:
    """Return the network that `name` is, a single address included; None if it is a name. Raises `ValueError`."""
    from ipaddress import ip_network

    try:
        return ip_network(name.partition("%")[0], strict=False)  # an IPv6 zone is about the interface, not the address
    except ValueError:
        if "/" in name or ":" in name:
            raise
        return None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import ip_address

    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _in_ascii(name: str) -> str:
    """Return a name as the network writes it, without a leading star and dots."""
    name = name.removeprefix("*").strip(".").lower()
    if not name.isascii():
        import idna  # httpx uses it for the server's name

        name = idna.encode(name, uts46=True).decode("ascii")
    if not name or not all(character.isalnum() or character in "-_." for character in name):
        raise ValueError(name)
    return name
