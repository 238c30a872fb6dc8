"""The address of a server: may it be one, and how to repeat it in public.

Pure; used by both processes. It does not import `urllib.parse`, which would cost the host a millisecond at its start.
"""

from __future__ import annotations

__all__ = ["ATOPILE_HOST", "fault_of_address", "fault_of_authority", "without_credentials"]

ATOPILE_HOST = "https://telemetry.atopileapi.com"
"""Where atopile's events go, unless a variable says otherwise."""

_HIGHEST_PORT = 65535


def fault_of_address(address: object) -> str:
    """Return why `address` cannot be a server's base URL, or an empty string.

    The reason never repeats a user or a password.
    """
    if not isinstance(address, str):
        return f"the host must be a text, not {type(address).__name__}"
    shown = repr(without_credentials(address))
    scheme, separator, rest = address.strip().partition("://")
    authority = rest.partition("/")[0].rpartition("@")[2]
    if not separator or scheme.lower() not in ("http", "https") or not authority:
        return f"the host must be an http:// or https:// URL, not {shown}"
    # Even an empty query would swallow the path behind it.
    if "?" in rest or "#" in rest:
        return f"the host must be a URL without query and fragment, not {shown}"
    fault = _fault_of_text(rest) or fault_of_authority(authority)
    return f"the host {shown} is no URL: {fault}" if fault else ""


def without_credentials(address: str) -> str:
    """Return `address`, which need not be a valid URL, without the user and password in it.

    A password may hold any character, in an address that somebody typed. So everything goes up to the last "@" that
    has a ":" before it, though it may stand in a path. A "…" marks the place where that is not certain.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    before, at, after = rest.rpartition("@")
    certain = not any(character in before for character in "/?#")
    if not at or (":" not in before and not certain):
        return address
    return f"{scheme}{separator}{'' if certain else '…@'}{after}"


def fault_of_authority(authority: str) -> str:
    """Return a fault of `host`, `host:port`, `[IPv6]` or `[IPv6]:port` (RFC 3986, section 3.2), or an empty string.

    The reason repeats nothing of the address: a wrong one may hold a password.
    """
    if authority.startswith("["):
        name, closed, port = authority[1:].partition("]")
        if not closed or (name and ":" not in name) or (port and port[0] != ":"):
            return "its brackets hold no IPv6 address"
        port = port[1:]
    else:
        name, _, port = authority.partition(":")
    if not name:
        return "it names no host"
    if " " in authority:
        return "it holds a space"
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _HIGHEST_PORT):
        return f"its port is no number up to {_HIGHEST_PORT}"
    return ""


def _fault_of_text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of an environment variable that are no text in its encoding
            return "it is not readable as text"
    if any(character < " " or character == "\x7f" for character in text):
        return "it holds a control character"
    return ""
