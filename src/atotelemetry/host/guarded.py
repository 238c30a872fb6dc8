"""Reads the host's objects: their attributes may raise, lie or be huge. Cuts texts to a size.

Runs in the host, on the thread that captures, and only once an exception is described.
"""

from __future__ import annotations

from atotelemetry.facts.text import clip, encodable
from atotelemetry.host.debug import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_MESSAGE_BYTES",
    "clip_middle",
    "is_exception",
    "notes_of",
    "plain_type_name",
    "read",
    "read_text",
    "text_of",
]

MAX_MESSAGE_BYTES = 8 * 1024
MAX_LINE_BYTES = 300  # where PostHog cuts a context line
_MAX_NOTES = 100


def is_exception(value: object) -> bool:
    """Tell whether `value` is an exception."""
    return issubclass(type(value), BaseException)  # not `isinstance`, which believes a mock's `__class__`


def read(value: object, name: str, *, default: Any) -> Any:
    """Read an attribute of the host's object. Like the standard library, let nothing out that a property raises."""
    return attempt(getattr, value, name, default, default=default)


def text_of(value: object, what: str) -> str:
    """Return `str(value)`, or the standard library's words for a `__str__` that raises."""
    text = attempt(str, value, default=f"<{what} str() failed>")
    return text if type(text) is str else str.__str__(text)


def read_text(value: object, name: str) -> str | None:
    """Read an attribute that is to be a text; None if it is anything else, or empty."""
    text = read(value, name, default=None)
    return text if type(text) is str and text else None


def plain_type_name(kind: type) -> str:
    """Return the name of a class."""
    return read_text(kind, "__name__") or "<unknown>"


def notes_of(exception: BaseException) -> object:
    """Return the notes for printing, in bounds."""
    notes = read(exception, "__notes__", default=None)
    if type(notes) in (str, bytes):
        return notes[:MAX_LINE_BYTES]
    if type(notes) not in (list, tuple):
        return notes
    kept = [clip(text_of(note, "note"), MAX_MESSAGE_BYTES) for note in notes[:_MAX_NOTES]]
    if len(notes) > _MAX_NOTES:
        kept.append(f"[{len(notes) - _MAX_NOTES} more notes]")
    return kept


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
