"""Reads the host's objects: their attributes may raise, lie or be huge. Cuts texts to a size.

Runs in the host, on the thread that captures, and only once an exception is described.
"""

from __future__ import annotations

from atotelemetry.facts.text import encodable
from atotelemetry.host.debug import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_MESSAGE_BYTES",
    "clip_middle",
    "is_exception",
    "read",
    "read_text",
]

MAX_MESSAGE_BYTES = 8 * 1024
MAX_LINE_BYTES = 300  # where PostHog cuts a context line


def is_exception(value: object) -> bool:
    """Tell whether `value` is an exception."""
    return issubclass(type(value), BaseException)  # not `isinstance`, which believes a mock's `__class__`


def read(value: object, name: str, *, default: Any) -> Any:
    """Read an attribute of the host's object. Like the standard library, let nothing out that a property raises."""
    return attempt(getattr, value, name, default, default=default)


def read_text(value: object, name: str) -> str | None:
    """Read an attribute that is to be a text; None if it is anything else, or empty."""
    text = read(value, name, default=None)
    return text if type(text) is str and text else None


def clip_middle(text: str, limit_bytes: int) -> str:
    """Like `clip`, but keep both ends: a stack trace begins with the root cause and ends with the caught exception."""
    if len(text) <= limit_bytes:
        whole = encodable(text, limit_bytes)
        if len(whole) >= len(text):
            return whole
    half = limit_bytes // 2
    head = encodable(text[:half], half)
    tail = encodable(text[-half:][::-1], half)[::-1]
    return f"{head}\n[{len(text) - len(head) - len(tail)} characters left out]\n{tail}"
