"""Text from files, events and servers, made safe to print and to send; names made from names.

A leaf, used by every process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bounded", "clip", "encodable", "environment_prefix", "number_between", "printable", "shortened"]

_LIMIT = 1000
_SHORT = {9: r"\t", 10: r"\n", 13: r"\r"}
_BASIC_PLANE = 0xFFFF  # JSON's escapes have four digits: a character above takes two of them


def printable(text: str, *, keep: str = "") -> str:
    r"""Return `text` with a JSON escape (`\u001b`) for every character that a terminal might obey or hide.

    These are control, bidirectional, invisible and line-breaking characters, DEL, and lone surrogates. Characters in
    `keep` stay. JSON is still the same JSON afterwards.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(ord(character)) for character in text
    )


def _escape(code: int) -> str:
    if code <= _BASIC_PLANE:
        return _SHORT.get(code) or f"\\u{code:04x}"
    code -= _BASIC_PLANE + 1
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


def bounded(text: str) -> str:
    """Return a text that JSON can carry: no lone surrogates, at most 1000 characters."""
    return text[:_LIMIT].encode("utf-8", "replace").decode("utf-8")


def clip(text: str, limit_bytes: int) -> str:
    """Return `text` as JSON can carry it, cut to about `limit_bytes` of UTF-8; the end says so."""
    kept = encodable(text[:limit_bytes], limit_bytes)
    if len(text) <= limit_bytes and len(kept) >= len(text):
        return kept
    return f"{kept}... [cut]"


def shortened(text: str, most: int = 40) -> str:
    """Return the beginning of `text`, at most so many characters: by default enough to recognise it."""
    return text if len(text) <= most else text[: most - 1] + "…"


def encodable(text: str, limit_bytes: int) -> str:
    """Return the part of `text` that fits, with `?` for lone surrogates: they have no UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")


def number_between(lowest: float, highest: float, kind: type[int | float] = float) -> Callable[[str], int | float]:
    """Return a function that reads such a number for argparse."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not lowest <= value <= highest:
            from argparse import ArgumentTypeError

            whole = "whole " if kind is int else ""
            raise ArgumentTypeError(f"{text!r} is no {whole}number from {lowest:g} to {highest:g}")
        return value

    return read


def environment_prefix(app: str) -> str:
    """Return the beginning of the names of `app`'s environment variables: ATO for atopile, MY_TOOL for "my-tool"."""
    if app == "atopile":
        return "ATO"
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in app.upper())
