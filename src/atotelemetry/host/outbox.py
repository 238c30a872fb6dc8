"""The lines on their way into one pipe, and the number of bytes that it has of the first.

Pure: no descriptor, no clock, no thread. A pipe may stop taking bytes anywhere, and its reader may die at any moment.
Then the lines that it did not take as a whole start again in the next pipe.
"""

from __future__ import annotations

__all__ = ["Outbox"]


class Outbox:
    """Lines in order, the first of them perhaps partly written."""

    def __init__(self) -> None:
        self._hello: list[bytes] = []
        self._lines: list[bytes] = []
        self._written = 0  # number of bytes in the pipe, of the hello or the first line
        self.cut_off = False
        """Whether the pipe has a part of a line that was dropped."""

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: bytes) -> None:
        """Put an event at the end."""
        self._lines.append(line)

    def append(self, mark: bytes) -> None:
        """Put a line behind the last event; it counts as no event."""
        self._lines[-1] += b"\n" + mark

    def begin(self, *hello: bytes) -> None:
        """Begin a new pipe, where the lines start again. A `hello` goes first, and counts as no event."""
        self._hello = [*hello]
        self._written = 0
        self.cut_off = False

    def rest(self) -> memoryview:
        """Return the bytes still to be written."""
        return memoryview(b"\n".join([*self._hello, *self._lines, b""]))[self._written :]

    def wrote(self, count: int) -> int:
        """Note that the pipe took so many bytes; return how many events are now in it as a whole."""
        self._written += count
        if self._hello and self._written > len(self._hello[0]):
            self._written -= len(self._hello[0]) + 1
            self._hello = []
        events = 0
        if not self._hello:
            while events < len(self._lines) and self._written > len(self._lines[events]):
                self._written -= len(self._lines[events]) + 1
                events += 1
            del self._lines[:events]
        return events

    def clear(self) -> int:
        """Drop every event; return how many there were."""
        count = len(self._lines)
        self._lines.clear()
        self._hello = []
        self._written = 0
        return count

    def cut(self) -> int:
        """Give up a line of which the pipe has a part; return 1 if it is an event, else 0."""
        if not self._written:
            return 0
        self.cut_off = True
        self._written = 0
        if self._hello:
            self._hello = []
            return 0
        del self._lines[0]
        return 1
