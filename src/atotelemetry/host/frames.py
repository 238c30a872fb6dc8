"""The frames of an exception as PostHog reads them: owner, name, and source lines.

Runs in the host, on the thread that captures an exception. `facts/places.py` has the rules.
"""

from __future__ import annotations

import sys
from _collections import deque  # type: ignore[import-not-found]
from itertools import accumulate, chain, islice, repeat, takewhile

from atotelemetry.facts.places import (
    OWN_PACKAGE,
    folded,
    gap_frame,
    is_in,
    is_installed,
    new_frame,
    place,
    slashes,
    standard_library,
)
from atotelemetry.facts.text import clip
from atotelemetry.host.debug import attempt
from atotelemetry.host.guarded import MAX_LINE_BYTES, read, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary
    from types import FrameType, TracebackType
    from typing import Any

__all__ = ["Frames", "chosen", "function_of", "own_packages", "stack_of_the_caller", "traceback_entries"]

_CONTEXT_LINES = 5  # on each side, as PostHog's UI shows them
_MAX_CONTEXT_BYTES = 64 * 1024  # of an event, without the lines that failed
_MAX_CALLERS = 1_000
_MAX_ENTRIES = 16_384  # of tracebacks, of an event

_dict_of = type.__dict__["__dict__"].__get__(type(sys))["__dict__"].__get__
_DECORATOR = f"{OWN_PACKAGE}.host.block"


def own_packages(app: str, maker: str, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the import names of the application's own code; none means all but libraries.

    `given` names them outright. By default the package named like `app`, and that of `maker`, the module that made the
    client. For a script, and for a module beside others in a folder, everything but libraries is own.
    """
    if given:
        return tuple(given)
    name = app.replace("-", "_")
    named = (name,) if _is_no_library(name) else ()
    if maker in ("", "__main__"):
        return (*named, "__main__") if named else ()
    parts = maker.split(".")
    for size in range(1, len(parts) + 1):
        package = ".".join(parts[:size])
        if _has(package, "__path__") and _has(package, "__file__"):  # a namespace package has no file
            return (*named, package)
    if len(parts) == 1 and not _has(maker, "__path__") and not is_installed(_path_of(maker)):
        return ()
    return (*named, parts[0])


def _of_module(module: str, name: str) -> Any:  # noqa: ANN401 - whatever it is
    """Return an attribute of a module as it stands in its dict: a `__getattr__`, or one that is lazy, is not asked."""
    found = sys.modules.get(module)
    is_module = issubclass(type(found), type(sys))
    return attempt(dict.get, _dict_of(found), name, default=None) if is_module else read(found, name, default=None)


def _has(module: str, name: str) -> bool:
    return _of_module(module, name) is not None


def _path_of(module: str) -> str:
    path = _of_module(module, "__file__")
    return slashes(path) if type(path) is str else ""


def _is_no_library(module: str) -> bool:
    """Tell whether a module named like the application may be the application."""
    path = _path_of(module)
    if path:
        return not path.startswith(standard_library()) or is_installed(path)
    return _has(module, "__path__")


def traceback_entries(exception: BaseException, share: int = 1) -> tuple[list[TracebackType], int]:
    """Return the entries of an exception's traceback, the crash site last, and the number of those left out.

    They are left out in the middle of the list. `share` is the number of exceptions that share an event.
    """
    half = _MAX_ENTRIES // share // 2
    # The exception's own answer, which no `__getattribute__` of a subclass can change.
    first = BaseException.__dict__["__traceback__"].__get__(exception)
    # All in C: an exception that is raised again and again has an entry for each time.
    walk: Any = takewhile(bool, accumulate(chain((first,), repeat("tb_next")), getattr))
    head = list(islice(walk, half))
    tail = deque(enumerate(walk, 1), half)
    left_out = tail[-1][0] - len(tail) if tail else 0
    return [*head, *(entry for _, entry in tail)], left_out


def stack_of_the_caller() -> list[TracebackType]:
    """Return this thread's stack outside of this package as a traceback, the caller last."""
    from types import TracebackType  # loaded along with `traceback`

    entries: list[TracebackType] = []
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the documented way to see one's caller
    while frame is not None and len(entries) < _MAX_CALLERS:
        if entries or not is_in(OWN_PACKAGE, _raw_module(frame)):
            entries.append(TracebackType(None, frame, frame.f_lasti, frame.f_lineno or 0))
        frame = frame.f_back
    entries.reverse()
    return entries


def chosen(entries: Sequence[TracebackType], left_out: int, count: int) -> list[int]:
    """Choose the frames to list, in order: an index, or below zero the number of frames left out in this place.

    In the middle of `entries`, `left_out` are missing already.

    Our decorator's frame is left out, and a frame with a true `__tracebackhide__`. Of a recursion the first and the
    last round are kept: its depth differs from run to run, and must not make another issue. `count` frames are listed
    at most, from both ends.
    """
    visible = [index for index, entry in enumerate(entries) if not _is_hidden(entry.tb_frame)]
    visible = visible or list(range(len(entries)))
    # Compared by identity: to compare code objects by value is slow.
    kept = folded(visible, [id(entries[index].tb_frame.f_code) for index in visible])
    if left_out:
        place = next((place for place, index in enumerate(kept) if index >= len(entries) // 2), len(kept))
        if kept[place - 1] < 0:
            kept[place - 1] -= left_out
        else:
            kept.insert(place, -left_out)
    if len(kept) <= count:
        return kept
    head, tail = count // 2, count - count // 2
    left_out = sum(-index if index < 0 else 1 for index in kept[head:-tail])
    return [*kept[:head], -left_out, *kept[-tail:]]


def _is_hidden(frame: FrameType) -> bool:
    if _raw_module(frame) == _DECORATOR:
        return True
    # Only a function's local variables: a module's or a class's namespace may be an object of the host's.
    names = frame.f_code.co_varnames
    return "__tracebackhide__" in names and frame.f_locals.get("__tracebackhide__") is True


class Frames:
    """Describes frames for one event: each file is read once, and all source lines share one budget."""

    def __init__(self, own: Sequence[str], *, source_lines: bool) -> None:
        self._own = tuple(own)
        self._source_lines = source_lines
        self._known: dict[tuple[str, str | None], tuple[str, str | None, bool]] = {}
        self._budget = _MAX_CONTEXT_BYTES

    def described(
        self, entries: Sequence[TracebackType], summaries: dict[int, FrameSummary], plan: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Return the frames of one exception, entry point first, crash site last."""
        frames = [gap_frame(-index) if index < 0 else self._frame(entries[index], summaries[index]) for index in plan]
        own = [number for number, frame in enumerate(frames) if frame["in_app"]]
        # The `<module>` frame of a script, of `-m` or of a console script differs, and some have none.
        if len(own) > 1 and frames[own[0]]["function"] == "<module>":
            frames[own[0]]["in_app"] = _raw_module(entries[plan[own[0]]].tb_frame) != "__main__"
        return frames

    def innermost_own(self, entries: Sequence[TracebackType]) -> tuple[str, str]:
        """Return file and function of the innermost frame of the application, or else of the innermost."""
        frames = [entry.tb_frame for entry in reversed(entries[-_MAX_CALLERS:])]
        for frame in frames:
            name = function_of(frame)
            if self._place_of(name[0], _module(frame))[2] and not _is_hidden(frame):
                return name
        return function_of(frames[0]) if frames else ("", "")

    def add_context(self, frames: Sequence[dict[str, Any]], summaries: Sequence[FrameSummary | None]) -> None:
        """Add the lines around each line that failed, while the budget lasts: the application's frames first."""
        if not self._source_lines:
            return
        for in_app in (True, False):
            for frame, summary in zip(reversed(frames), reversed(summaries), strict=True):
                if summary is not None and frame["in_app"] is in_app and frame["context_line"] is not None:
                    self._add_context(frame, summary.filename)

    def _add_context(self, frame: dict[str, Any], filename: str) -> None:
        first = frame["lineno"] - 1
        before = _lines(filename, max(first - _CONTEXT_LINES, 0), first)
        after = _lines(filename, first + 1, first + 1 + _CONTEXT_LINES)
        size = sum(map(len, before)) + sum(map(len, after))
        if size <= self._budget:
            self._budget -= size
            frame["pre_context"], frame["post_context"] = before, after

    def _frame(self, entry: TracebackType, summary: FrameSummary) -> dict[str, Any]:
        module = _module(entry.tb_frame)
        where = self._place_of(summary.filename, module)
        return new_frame(where, summary.name, module, summary.lineno, self._line(summary))

    def _line(self, summary: FrameSummary) -> str | None:
        """Return the line that failed, with its indentation."""
        if not self._source_lines or not summary.lineno or not summary.line:
            return None
        lines = _lines(summary.filename, summary.lineno - 1, summary.lineno)
        return lines[0] if lines else clip(summary.line, MAX_LINE_BYTES)  # that has no indentation

    def _place_of(self, filename: str, module: str | None) -> tuple[str, str | None, bool]:
        key = filename, module
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = place(filename, module, self._own)
        return known


def function_of(frame: FrameType) -> tuple[str, str]:
    """Return file and name of a frame's function; both may be of a class that is derived from `str`."""
    return str.__str__(frame.f_code.co_filename), str.__str__(frame.f_code.co_name)


def _global(frame: FrameType, name: str) -> Any:  # noqa: ANN401 - whatever it is
    # `exec` takes subclasses of dict, with a `get` of their own. Keys of the host's are compared all the same.
    return attempt(dict.get, frame.f_globals, name, None, default=None)


def _raw_module(frame: FrameType) -> str | None:
    name = _global(frame, "__name__")
    return name if type(name) is str else None


def _module(frame: FrameType) -> str | None:
    """Return the import name of a frame's module. `python -m` calls it `__main__`, and its spec knows the name."""
    name = _raw_module(frame)
    if name != "__main__":
        return name
    spec = _global(frame, "__spec__")
    return (read_text(spec, "name") if type(spec) is type(sys.__spec__) else None) or name


def _lines(filename: str, first: int, end: int) -> list[str]:
    """Return some lines of a file, counted from 0."""
    import linecache  # loaded along with `traceback`

    def clipped() -> list[str]:
        return [clip(str.rstrip(line), MAX_LINE_BYTES) for line in linecache.getlines(filename)[first:end]]

    # A loader of the host's may fail, or an importer: on 3.15 archives are asked, too.
    return attempt(clipped, default=[])
