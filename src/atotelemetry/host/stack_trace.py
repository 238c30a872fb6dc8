"""The text of an exception's stack trace, as `traceback.format_exception` gives it, in bounds.

Runs in the host, on the thread that captures an exception. One `TracebackException` is made for each exception, without
its chain and without its frames. Both are added here: the standard library follows a chain without bounds, and loses
all frames to an unreadable one. The summaries of frames serve the structured list, too.
"""

from __future__ import annotations

import linecache
import os
import stat
import sys
from itertools import groupby, islice
from operator import attrgetter
from traceback import FrameSummary, StackSummary, TracebackException

from atotelemetry.facts.text import clip
from atotelemetry.host.classes import is_exactly
from atotelemetry.host.debug import attempt
from atotelemetry.host.frames import function_of
from atotelemetry.host.guarded import MAX_LINE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType
    from typing import Any

    from atotelemetry.host.exceptions import Node, Shown
    from atotelemetry.host.values import Walk

__all__ = ["print_all"]

_MIN_PRINTED_FRAMES = 8
_MAX_PRINTED_FRAMES_IN_ALL = 600
_MAX_PRINTED_FRAMES = 200  # per exception, counted as printed: a repeated line counts three times at most
_PRINTED_REPEATS = 3  # the standard library prints a repeated line three times and then says how often it follows
_MAX_STATEMENT_LINES = 200
_MAX_STATEMENT_CHARACTERS = 4_000  # 3.13 parses all of a statement for its carets
_MAX_FORMATTED_LINE_CHARACTERS = 2_000
_MAX_SOURCE_FILE_BYTES = 4 * 1024 * 1024
_MAX_OFFSET = 10_000  # of a SyntaxError's carets


class _Alone:
    """Stands for one exception in a `TracebackException`: without a chain, and never raising.

    The chain is linked by `_format` instead: `TracebackException` would follow it without bounds.
    """

    # Without other attributes it makes no suggestion ("Did you mean"). A suggestion would import the failed module
    # again, read properties of the host's objects, and name a variable of the host's.

    __cause__ = None
    __context__ = None
    exceptions = ()

    def __init__(self, node: Node) -> None:
        self._node = node
        self.__suppress_context__ = node.suppressed
        self.__notes__ = node.notes
        if not issubclass(type(node.exception), SyntaxError):
            return
        reader = node.reader
        for name in ("msg", "filename", "lineno", "end_lineno", "text"):
            value = reader.read(node.exception, name)
            setattr(self, name, None if value is None else reader.text(value, name))
        for name in ("offset", "end_offset"):
            value = reader.read(node.exception, name)
            setattr(self, name, min(max(value, -1), _MAX_OFFSET) if type(value) is int else None)

    @property  # type: ignore[misc]
    def __class__(self) -> type[BaseException]:  # type: ignore[override]
        return type(self._node.exception)

    def __str__(self) -> str:
        return self._node.message


def print_all(shown: Sequence[Shown], *, source_lines: bool) -> str:
    """Return the text of the first exception with all that hangs on it.

    Also gives each node the summaries of the frames that its `plan` lists. Without `source_lines` no line of source is
    looked up.
    """
    most = min(_MAX_PRINTED_FRAMES, max(_MIN_PRINTED_FRAMES, _MAX_PRINTED_FRAMES_IN_ALL // len(shown)))
    sources = _Sources(shown[0][0].reader.walk) if source_lines else None
    stacks = [_summarise(node, most, sources) for node, _, _ in shown]
    for (node, _, _), stack in zip(shown, stacks, strict=True):
        node.rendering = _rendering(node, source_lines=source_lines)
        node.rendering.stack = stack
    return _format(shown)


def _summarise(node: Node, most: int, sources: _Sources | None) -> StackSummary:
    """Give `node` the summaries of its listed frames; return the stack to print, with at most `most` frames."""
    runs = _runs(node.entries, node.left_out, most) if node.was_raised else []
    needed = {index for index in node.plan if index >= 0}
    for first, _, count in runs:
        needed.update(range(first, first + count))
    node.summaries = {index: _summary(node.entries[index], sources) for index in sorted(needed)}
    return _printable(node.summaries, runs)


def _rendering(node: Node, *, source_lines: bool) -> TracebackException:
    """Make the `TracebackException` of one exception, without frames."""
    kind = type(node.exception)
    is_syntax = issubclass(kind, SyntaxError) and source_lines  # or else it would tell a line of source
    if type(kind) is not type or node.module is None or is_syntax is not issubclass(kind, SyntaxError):
        # A stand-in of the same name, because a class may have a metaclass of the host's.
        names = {"__module__": node.module or "<unknown>", "__qualname__": node.name}
        kind = type("_", (SyntaxError if is_syntax else Exception,), names)
    alone: Any = _Alone(node)
    return TracebackException(kind, alone, None, lookup_lines=False)


def _format(shown: Sequence[Shown]) -> str:
    """Link the renderings and return the text of the first with all that hangs on it."""
    texts: dict[tuple[object, ...], str] = {}
    for node, _, _ in shown:
        rendering: Any = node.rendering
        stack: Any = rendering.stack
        stack.texts = texts
        context = node.visible_context
        rendering.__cause__ = None if node.cause is None else node.cause.rendering
        rendering.__context__ = None if context is None else context.rendering
        rendering.exceptions = None
        if node.width is not None:
            rendering.exceptions = _Members(node, rendering.max_group_width)
    return "".join(shown[0][0].rendering.format())


class _Members(list[TracebackException]):
    """Stands for all members of a group: `most` are printed, and the rest are counted."""

    def __init__(self, node: Node, most: int) -> None:
        members = [member.rendering for member in node.members]
        super().__init__(members + members[-1:] * most)
        self._width = node.width or 0

    def __len__(self) -> int:
        return self._width


def _runs(entries: Sequence[TracebackType], left_out: int, most: int) -> list[tuple[int, int, int]]:
    """Return the runs of frames to print, as triples.

    A run is its first index, its number of frames on one line, and the number to print; 0 leaves it out. In the middle
    of `entries`, `left_out` are missing already. A summary costs microseconds, and printing it ten times that. So this
    decides before either, also for a recursion of 10,000 frames.
    """
    limit = getattr(sys, "tracebacklimit", None)
    printable = entries[: max(limit, 0)] if type(limit) is int else entries
    runs = []
    first = 0
    gap = len(entries) // 2 if left_out else 0
    for part in (printable[:gap], printable[gap:]):
        if part and first == gap > 0:
            runs.append((gap, left_out, 0))
        codes = map(id, map(attrgetter("tb_frame.f_code"), part))
        for _, group in groupby(zip(codes, map(attrgetter("tb_lineno"), part), strict=True)):
            length = len(list(group))
            runs.append((first, length, min(length, _PRINTED_REPEATS)))
            first += length
    return _without_middle(runs, most)


def _without_middle(runs: list[tuple[int, int, int]], printed_count: int) -> list[tuple[int, int, int]]:
    """Replace the middle of too many `runs` with one unprinted run."""
    if sum(count for _, _, count in runs) <= printed_count:
        return runs
    head, tail = 0, len(runs)
    room = printed_count // 2
    while room > 0:
        room -= runs[head][2]
        head += 1
    room = printed_count // 2
    while room > 0 and tail > head:
        tail -= 1
        room -= runs[tail][2]
    left_out = sum(length for _, length, _ in runs[head:tail])
    gap = [(runs[head][0], left_out, 0)] if left_out else []
    return [*runs[:head], *gap, *runs[tail:]]


def _printable(summaries: dict[int, FrameSummary], runs: Sequence[tuple[int, int, int]]) -> StackSummary:
    """Build the stack to print. Where a line repeats, its last printed summary stands for the rest."""
    stack = _PrintableStack()
    for first, length, count in runs:
        if not count:
            stack.append(_Gap(f"<{length} frames left out>", None, "", lookup_line=False))
            continue
        printed = [summaries[index] for index in range(first, first + count)]
        stack.extend(printed)
        stack.extend(printed[-1:] * (length - count))
    return stack


class _Gap(FrameSummary):
    """Stands for frames that are left out."""


class _PrintableStack(StackSummary):
    """A stack that is cheap where lines repeat, and prints frames without source where there is none.

    `format_frame_summary` is the standard library's hook for the text of a frame.
    """

    # The texts of the frames of an event: a recursion and a chain repeat the same ones.
    texts: dict[tuple[object, ...], str]
    previous: FrameSummary | None = None

    def format_frame_summary(self, frame_summary: FrameSummary, **options: Any) -> str:  # noqa: ANN401 - as the base class
        if type(frame_summary) is _Gap:
            return f"  [{frame_summary.filename[1:-1]}]\n"
        if frame_summary is self.previous:
            return ""  # counted by the caller, not printed
        self.previous = frame_summary
        place = (frame_summary.filename, frame_summary.lineno, frame_summary.name)
        key = (*place, frame_summary.end_lineno, frame_summary.colno, frame_summary.end_colno)
        text = self.texts.get(key)
        if text is not None:
            return text
        format_frame = super().format_frame_summary
        # Without source if the file changed since it was imported, or if its loader fails.
        bare = '  File "{}", line {}, in {}\n'.format(*place)
        text = attempt(lambda: format_frame(frame_summary, **options), default=bare)
        if not frame_summary.filename.startswith("<"):  # one name may stand for several sources
            self.texts[key] = text
        return text


class _Sources:
    """Knows of the files of one event which have a source; `walk` counts the calls into the host's loaders."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._have_none: set[str] = set()

    def has(self, filename: str, frame: FrameType) -> bool:
        """Return whether a file's source is worth reading, and `linecache` has it. A loader is asked once for each."""
        if filename in self._have_none:
            return False
        if (filename.startswith("<") and filename.endswith(">")) or len(linecache.cache.get(filename, ())) > 1:
            return True  # no file, or one that was read before

        lines: list[str] = []

        def load() -> list[str]:
            linecache.lazycache(filename, frame.f_globals)
            return linecache.getlines(filename)

        try:
            status = os.stat(filename)
        except (OSError, ValueError):
            # Its loader may know the source. A call to one of the host's counts.
            loader = attempt(dict.get, frame.f_globals, "__loader__", None, default=None)
            if is_exactly("zipimport", "zipimporter")(type(loader)):
                lines = attempt(load, default=lines)
            else:
                lines = attempt(self._walk.ask, load, default=lines)
        else:
            # A huge file, a pipe or a terminal might take long.
            if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_SOURCE_FILE_BYTES:
                lines = attempt(linecache.getlines, filename, default=lines)
        if not lines:
            self._have_none.add(filename)
        return bool(lines)


def _summary(entry: TracebackType, sources: _Sources | None) -> FrameSummary:
    """Summarise one traceback entry as the standard library does, without odd or huge parts."""
    lineno, end_lineno, colno, end_colno = _position(entry)
    filename, name = function_of(entry.tb_frame)
    bare = FrameSummary(filename, lineno, name, line="")
    if sources is None or not sources.has(filename, entry.tb_frame):
        return bare

    def extracted() -> FrameSummary:
        # `limit`, because of `sys.tracebacklimit`.
        where: Any = iter([(entry.tb_frame, lineno)])
        (summary,) = StackSummary.extract(where, limit=1, lookup_lines=False)
        summary.filename, summary.name = filename, name
        if end_lineno is not None:
            summary.end_lineno, summary.colno, summary.end_colno = end_lineno, colno, end_colno
        return summary

    return attempt(lambda: _tamed(extracted()), default=bare)


def _position(entry: TracebackType) -> tuple[int | None, int | None, int | None, int | None]:
    """Return the executed statement's first and last line and column; None where the code does not tell."""
    try:
        positions = entry.tb_frame.f_code.co_positions()
        found = next(islice(positions, entry.tb_lasti // 2, None), None)  # two bytes for each code unit
        if found is not None and found[0] is not None:
            return found
    except Exception:
        pass  # the line may be known all the same
    return entry.tb_lineno, None, None, None


def _tamed(summary: FrameSummary) -> FrameSummary:
    """Return `summary`, or one without the part of its source that would cost too much to print."""
    place = summary.filename, summary.lineno, summary.name
    if _is_long_statement(summary):
        summary = FrameSummary(*place, lookup_line=False)
    line = summary.line or ""
    if len(line) > _MAX_FORMATTED_LINE_CHARACTERS:
        return FrameSummary(*place, line=clip(line, MAX_LINE_BYTES))
    return summary


def _is_long_statement(summary: FrameSummary) -> bool:
    """Tell whether a frame's statement has more lines, or text in them, than is worth parsing."""
    first, last = summary.lineno or 0, summary.end_lineno or 0
    if last <= first:
        return False
    if last - first > _MAX_STATEMENT_LINES:
        return True
    lines = linecache.getlines(summary.filename)[first - 1 : last]
    return sum(map(len, lines)) > _MAX_STATEMENT_CHARACTERS
