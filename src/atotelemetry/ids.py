"""UUIDs as text: made, recognised and written in one form, without the cost of importing `uuid`.

Pure, but for the operating system's random bytes. Both processes use it.
"""

from __future__ import annotations

import os
from itertools import count

__all__ = ["Uuid7", "canonical", "hyphenated", "is_uuid", "uuid4"]

_HEX_DIGITS = "0123456789abcdef"


class Uuid7:
    """Makes UUIDv7 texts, unique to this process (RFC 9562, section 5.7), of the nanoseconds since 1970.

    An id holds 48 bits of milliseconds, 26 random bits of this process, and a counter with a random start. So ids of
    one millisecond differ, and sort in the order they were made (section 6.2).
    """

    def __init__(self) -> None:
        seed = int.from_bytes(os.urandom(16), "big")
        self._middle = f"-7{seed & 0xFFF:03x}-{0x8000 | seed >> 12 & 0x3FFF:04x}-"
        # Twelve decimal digits serve as hexadecimal ones without cutting.
        self.tail = count(10**11 + (seed >> 26) % (8 * 10**11)).__next__
        """Return the last twelve digits of a new id."""

    def __call__(self, now_ns: int) -> str:
        """Return a new id."""
        return f"{self.beginning(now_ns // 1_000_000)}{self.tail()}"

    def beginning(self, milliseconds: int) -> str:
        """Return the common part of one millisecond's ids: all but their tail."""
        digits = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"  # also for a clock before 1970
        return f"{digits[:8]}-{digits[8:]}{self._middle}"


def uuid4() -> str:
    """Return a new random UUID (RFC 9562, section 5.4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return hyphenated(raw.hex())


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the hyphenated or the plain form, which PostHog's parser takes."""
    if len(text) == 36:  # RFC 9562, section 4
        if not text[8] == text[13] == text[18] == text[23] == "-":
            return False
        text = text.replace("-", "")
    try:
        # `fromhex` skips white space, so both lengths count.
        return len(text) == 32 and len(bytes.fromhex(text)) == 16  # 128 bits
    except ValueError:
        return False


def canonical(text: str) -> str | None:
    """Return the UUID in `text` in lower case with dashes, from any form that `uuid.UUID` takes; None if it is none."""
    digits = text.strip().lower().replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")
    return hyphenated(digits) if len(digits) == 32 and not digits.strip(_HEX_DIGITS) else None  # 128 bits


def hyphenated(digits: str) -> str:
    """Return 32 hexadecimal digits in the form of a UUID."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
