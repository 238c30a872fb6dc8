"""The breaker: a note on disk that the network to a server failed. Hosts then start no sender for a while.

A leaf, used by both processes. One small file for each server, in the user's cache directory. Only senders write it
(`sender/breaker.py`); hosts read it before they start one.
"""

from __future__ import annotations

import os

__all__ = ["PAUSE", "cache_directory", "encode", "note_of", "pause_left", "read"]

_FAILURES = 2
"""So many senders in a row whose first attempt failed by the network open the breaker."""

PAUSE = 60.0
"""Seconds for which it stays open after the last of them."""

_MOST_BYTES = 4096
_PORTS = {"http": "80", "https": "443"}
_PUNCTUATION = "._-"


def cache_directory() -> str | None:
    """Return the user's cache directory, which need not exist; None where it is not the effective user's own."""
    directory = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(directory):  # to be ignored then (XDG Base Directory Specification)
        directory = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(directory):
        return None  # no home
    for existing in (directory, os.path.dirname(directory)):
        try:
            owner = os.stat(existing).st_uid
        except (OSError, ValueError):
            continue
        return directory if not hasattr(os, "geteuid") or owner == os.geteuid() else None
    return None


def note_of(app: str, address: str) -> str | None:
    """Return the path of the note about a server, given its base URL; None where there is no place for it."""
    plain = app[:1].isalnum() and all(letter.isalnum() or letter in _PUNCTUATION for letter in app) and app.isascii()
    directory = cache_directory() if plain else None
    if directory is None:
        return None
    import binascii  # `hashlib` would load OpenSSL into the host

    checksum = binascii.crc32(_origin(address).encode("utf-8", "surrogateescape"))
    return os.path.join(directory, app, f"network-{checksum:08x}.json")


def read(path: str) -> tuple[int, float]:
    """Return a note's count of failures in a row, and the time of the last; zeros if it cannot be read."""
    try:
        # Not a pipe's reader: somebody may have put one there.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            data = os.read(descriptor, _MOST_BYTES)
        finally:
            os.close(descriptor)
        # Two plain numbers: a host that looks here does not load `json`, which takes milliseconds.
        pairs = (pair.partition(":") for pair in data.decode("ascii").strip("{} \n").split(","))
        note = {name.strip(' "'): float(value) for name, _, value in pairs}
        return int(note["failures"]), note["at"]
    except (OSError, ValueError, KeyError, OverflowError):
        return 0, 0.0


def encode(failures: int, at: float) -> bytes:
    """Return the content of a note."""
    return b'{"failures": %d, "at": %.3f}\n' % (failures, at)


def pause_left(app: str, address: str, now: float) -> float:
    """Return for how many seconds from `now` (since the epoch) no sender should start for a server."""
    directory = cache_directory()
    # Where no network ever failed there is nothing to load for the name of the note.
    if directory is None or not os.path.isdir(os.path.join(directory, app)):
        return 0.0
    path = note_of(app, address)
    if path is None:
        return 0.0
    failures, at = read(path)
    is_recent = 0 <= now - at < PAUSE  # a time to come is a clock that was wrong
    return at + PAUSE - now if failures >= _FAILURES and is_recent else 0.0


def _origin(address: str) -> str:
    """Return `scheme://host:port` of a base URL, in lower case and without user and password."""
    scheme, _, rest = address.strip().lower().partition("://")
    authority = rest.partition("/")[0].rpartition("@")[2]
    name, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():  # none, or the colons of an IPv6 address
        name, port = authority.rstrip(":"), _PORTS.get(scheme, "")
    return f"{scheme}://{name}:{port}"
