"""Cuts texts to a size, and an event to its limit: its longest properties first.

Pure. Runs in the host, on the thread that captures.
"""

from __future__ import annotations

from _codecs import utf_7_decode, utf_7_encode

from atotelemetry.host.debug import attempt
from atotelemetry.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["CUT_PROPERTY", "MAX_REPR", "clipped", "cut_mark", "cut_to_fit", "unused", "without_surrogates"]

CUT_PROPERTY = "$atotelemetry_cut"
"""The property that lists the cut properties."""

MAX_REPR = 1024
"""Characters of a name, or of a text that describes a value."""

_MARK = "… [cut: "
# A cut string keeps this much if possible, else this much.
_KEPT_BYTES = (1024, 64)
_NOT_CUT_BYTES = 256  # a shorter text gains little: of tens of thousands the last ones are left out instead
_NOTE_BYTES = 4096
_CUT_STEP = 65_536


def clipped(text: str, limit: int = MAX_REPR) -> str:
    """Return the characters of any str, also of a subclass, as JSON takes them, cut to `limit`."""
    is_cut = str.__len__(text) > limit
    # Cut before all else: the rest is not even copied.
    return without_surrogates(str.__getitem__(text, slice(max(limit - is_cut, 0))) + "…" * is_cut)


def without_surrogates(text: str) -> str:
    """Return `text` fit for UTF-8: surrogate pairs become their character, lone ones U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # UTF-7 holds UTF-16 units and joins pairs. It and this "replace" need no error handler, which would be called
        # for each character. A "?" of the text is kept apart from those that stand for lone surrogates.
        joined, _ = utf_7_decode(utf_7_encode(text)[0], None, True)
        known = joined.replace("\uffff", "\uffff!").replace("?", "\uffff.").encode("utf-8", "replace").decode()
        return known.replace("?", "\ufffd").replace("\uffff.", "?").replace("\uffff!", "\uffff")
    return text


def cut_mark(size: int, unit: str = "characters") -> str:
    """Return the end of a text that was cut, which says how long it was."""
    return f"{_MARK}{size} {unit}]"


def unused(name: str, taken: dict[str, Any], clashes: dict[str, int]) -> str:
    """Return `name`, numbered if `taken` has it (1 and "1" are two keys, but one name)."""
    candidate = name
    while candidate in taken:
        # Counted per name, or a million equal names would be searched a million times over.
        clashes[name] = number = clashes.get(name, 1) + 1
        candidate = f"{name} ({number})"
    return candidate


def cut_to_fit(properties: dict[str, Any], limit_bytes: int, cut: Iterable[str] = ()) -> dict[str, Any]:
    """Return a copy of plain `properties` with an encoding of at most `limit_bytes`; `cut` names those cut before.

    The longest values are cut first. A text keeps its beginning and tells its length; a container becomes a text with
    its size. If that is not enough (a hundred thousand small properties), the last ones are left out. The property
    `CUT_PROPERTY` lists all that were cut. Never raises an `Exception`.
    """
    return attempt(_cut_to_fit, properties, limit_bytes, cut, default={})


def _cut_to_fit(properties: dict[str, Any], limit_bytes: int, already: Iterable[str]) -> dict[str, Any]:
    originals: dict[str, Any] = {}
    clashes: dict[str, int] = {}
    for name, value in properties.items():
        # A name may be so long that it would not fit itself.
        originals[name if len(name) < MAX_REPR else unused(clipped(name), originals, clashes)] = value
    result = dict(originals)
    name_bytes = {name: len(encode(name)) + 2 for name in result}  # with its colon and comma
    value_bytes = {name: len(encode(value)) for name, value in result.items()}
    # Exact, because no spaces are written. So properties far too large are never encoded whole.
    total = 1 + sum(name_bytes.values()) + sum(value_bytes.values())
    cut = dict.fromkeys([*already, *(name for name in result if name not in properties)])
    if not cut and total <= limit_bytes:
        return result
    note_bytes = min(_NOTE_BYTES, limit_bytes // 4)
    room = limit_bytes - note_bytes
    for kept in _KEPT_BYTES:
        for name in sorted(value_bytes, key=value_bytes.__getitem__, reverse=True):
            size = value_bytes[name]
            if total <= room or size <= max(kept, _NOT_CUT_BYTES):
                break
            shorter = _cut_value(originals[name], size, max(kept, size - (total - room)))
            shorter_size = len(encode(shorter))
            if shorter_size < size:
                result[name] = shorter
                value_bytes[name] = shorter_size
                total -= size - shorter_size
                cut[name] = None
    dropped = 0
    while total > room and result:
        name, _ = result.popitem()
        total -= name_bytes[name] + value_bytes[name]
        cut.pop(name, None)
        dropped += 1
    result.pop(CUT_PROPERTY, None)
    note = _note(list(cut), dropped, note_bytes)
    if note:
        result[CUT_PROPERTY] = note
    return result


def _cut_value(value: Any, size: int, target_bytes: int) -> str:
    """Return the replacement of a value of `size` bytes; a string keeps its beginning, up to about `target_bytes`."""
    if not isinstance(value, str):
        return f"[cut: {size} bytes]"
    text, _, before = value.rpartition(_MARK)
    mark = _MARK + before if text and before.endswith("]") else cut_mark(len(value))
    return _beginning(value, target_bytes - len(encode(mark))) + mark


def _beginning(text: str, limit_bytes: int) -> str:
    """Return as much of `text` as its encoding, without the quotes, has within `limit_bytes`."""
    # In large steps while they fit, then in ever smaller ones: each character is encoded a few times at most.
    kept, step = 0, _CUT_STEP
    while (step := min(step, limit_bytes, len(text) - kept)) > 0:  # a character has a byte at least
        size = len(encode(text[kept : kept + step])) - 2
        if size <= limit_bytes:
            limit_bytes -= size
            kept += step
        else:
            step = min(step // 2, step * limit_bytes // size)
    return text[:kept]


def _note(cut: list[str], dropped: int, limit_bytes: int) -> list[str]:
    """Return the names that were cut, and how many properties are missing, as far as `limit_bytes` allow."""
    last = [f"and the last {dropped} properties"] if dropped else []
    # Name of the property, brackets, colon, comma, and the lines that close the list.
    left = limit_bytes - len(encode(CUT_PROPERTY)) - 4 - len(encode(last)) - len(encode("and 1000000000 more")) - 1
    if left < 0:
        return []
    listed: list[str] = []
    for name in cut:
        left -= len(encode(name)) + 1
        if left < 0:
            return [*listed, f"and {len(cut) - len(listed)} more", *last]
        listed.append(name)
    return listed + last
