"""One exception as the properties of a `$exception` event.

Runs in the host, on the thread that captures, often deep inside an `except` block. PostHog reads an exception in two
ways: old dashboards a trio of strings, today's error tracking the structured `$exception_list`. Both come from one
walk over the exceptions and one `TracebackException` each: no frame is visited and no source line looked up twice.
Everything is bounded before it is built: exceptions, frames, texts, and the size of a source file worth opening.
Exceptions are the host's objects, so whatever is asked of them may raise or lie; the answer is then replaced, never
the event lost.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from traceback import FrameSummary, StackSummary, TracebackException
    from types import TracebackType
    from typing import Any

__all__ = ["current_exception", "exception_properties", "mark_reported"]

_MAX_EXCEPTIONS = 50  # in `$exception_list`; as many as PostHog's own SDK sends
_MAX_WALKED = 200  # exceptions looked at, so that an endless chain ends
_MAX_GROUP_WIDTH = 49  # members of one group; the standard library prints 15 of them
_MAX_LISTED_FRAMES = 128  # per exception: the outermost and the innermost half
_MAX_LISTED_FRAMES_IN_ALL = 256
_MIN_LISTED_FRAMES = 8
_MIN_PRINTED_FRAMES = 8
_MAX_PRINTED_FRAMES_IN_ALL = 600
_MAX_PRINTED_FRAMES = 200  # per exception, counted as printed: a repeated line counts three times at most
_PRINTED_REPEATS = 3  # the standard library prints a repeated line three times and then says how often it follows
_MAX_STATEMENT_LINES = 200
_MAX_STATEMENT_CHARACTERS = 4_000  # 3.13 parses all of a statement for its carets
_MAX_NOTES = 100

_MAX_MESSAGE_BYTES = 8 * 1024
_MAX_ALL_VALUES_BYTES = 32 * 1024  # PostHog cuts one `value` at 10,000 bytes
_MIN_VALUE_BYTES = 512
_MAX_STACK_TRACE_BYTES = 72 * 1024
_MAX_TYPE_BYTES = 255  # where PostHog cuts it
_MAX_NAME_BYTES = 300
_MAX_LINE_BYTES = 300  # where PostHog cuts a context line
_MAX_FORMATTED_LINE_CHARACTERS = 2_000
_MAX_SOURCE_FILE_BYTES = 4 * 1024 * 1024
_SUGGESTED_FROM = ("name", "name_from", "obj")

_OWN_PACKAGE = __name__.partition(".")[0]
_MARK = "__atotelemetry_reported__"
# The descriptor behind `exception.__dict__`. It reaches the real one whatever a subclass makes of `__setattr__`,
# `__getattribute__` or `__dict__`, so there is no exception that cannot be marked.
_attributes_of = BaseException.__dict__["__dict__"].__get__
_lazy_classes: dict[str, Any] = {}


def current_exception(exception: object = None) -> BaseException | None:
    """Find the exception that a caller means.

    `exception` is what PostHog's and the standard library's functions take: an exception, a `sys.exc_info()` tuple, or
    None or True for the exception being handled. Anything else means none. Never raises.
    """
    if exception is None or exception is True:
        return sys.exc_info()[1]
    if _is_exception(exception):
        return exception  # type: ignore[return-value]  # mypy does not follow `issubclass(type(...))`
    if type(exception) is tuple and len(exception) == 3:  # noqa: PLR2004  # (type, value, traceback)
        value = exception[1]
        if _is_exception(value):
            _adopt_traceback(value, exception[2])
            return value  # type: ignore[no-any-return]
    return None


def mark_reported(exception: BaseException) -> bool:
    """Note that this exception object is reported; True the first time, False when it already was. Never raises.

    The mark lives on the object, so it dies with it and keeps nothing alive. It names the object, since a copy (or an
    unpickled exception from another process) inherits the attributes of its original and is still another exception.
    One dictionary operation decides: a signal handler or another thread in between cannot make two of us the first.
    """
    mark = (id(exception),)
    try:
        attributes = _attributes_of(exception)
        found = attributes.setdefault(_MARK, mark)
        if found is mark:
            return True
        if found == mark:
            return False
        attributes[_MARK] = mark
    except Exception:
        # Two reports of one exception are better than none.
        return True
    return True


def exception_properties(
    exception: BaseException,
    *,
    distinct_id: str,
    handled: bool = True,
    project_root: str | None = None,
) -> dict[str, object]:
    """Describe `exception` as PostHog reads it.

    `distinct_id` is the person for the old dashboards; `handled` is False when nothing caught the exception.
    `project_root` is a directory whose files are the application's own even where they would otherwise count as a
    library's, as with a CLI that is itself installed in site-packages; packages installed below it remain libraries.
    Of an application that is a single module it is that file. A directory of everybody's packages is no root.

    Returns `$exception_message`, `$exception_type`, `$exception_stack_trace` (what `traceback.format_exception` gives,
    joined), `$exception_person`, `$exception_list` and `$exception_level`: built-in values, ready for JSON, less than
    300 KiB in all but contrived cases. Never raises.

    Source of the protocol facts: PostHog's ingestion, `rust/cymbal` in github.com/PostHog/posthog. `$exception_list`
    must not be empty; an entry needs `type`; a frame needs `platform` to be read as Python's, and `filename` and
    `function` that are not null; `in_app` counts as true when it is missing; `lineno` is a 32-bit unsigned number or
    null; `handled` is read from the first entry alone. An issue's fingerprint is made of the types and of the
    `filename` and `function` of in-app frames, and of the message where there is no `stacktrace`: that is why an
    exception without frames has none.
    """
    try:
        message = _clip(_text_of(exception, "exception"), _MAX_MESSAGE_BYTES)
        try:
            stack_trace, entries = _describe(exception, message, handled=handled, project_root=project_root)
        except Exception as error:
            stack_trace, entries = _describe_briefly(exception, message, handled=handled)
            _say_why(error)
        return {
            "$exception_message": message,
            "$exception_type": _clip(_claimed_type_name(exception), _MAX_TYPE_BYTES),
            "$exception_stack_trace": _clip_middle(stack_trace, _MAX_STACK_TRACE_BYTES),
            "$exception_person": distinct_id,
            "$exception_list": entries,
            "$exception_level": "error",
        }
    except Exception:
        # The recursion limit is so near that nothing can be called: no call, then.
        return {
            "$exception_message": "",
            "$exception_type": "Exception",
            "$exception_stack_trace": "",
            "$exception_person": distinct_id,
            "$exception_list": [{"type": "Exception", "value": "", "module": None, "mechanism": {"type": "generic"}}],
            "$exception_level": "error",
        }


def _describe(
    exception: BaseException, message: str, *, handled: bool, project_root: str | None
) -> tuple[str, list[dict[str, object]]]:
    """Return the text of the whole stack trace, and the entries of `$exception_list`."""
    root, complete = _walk(exception, message)
    shown = list(_in_order(root))
    chosen = _chosen(shown)
    printed_count, listed_count = _printed_count(len(shown)), _listed_count(len(chosen))
    for node, _, _ in shown:
        _render(node, printed_count, listed_count)
    try:
        stack_trace = _format(shown)
    except Exception:
        # A SyntaxError with fields that are no numbers, for instance, breaks the standard library's formatting.
        for node, _, _ in shown:
            _render(node, printed_count, listed_count, plain=True)
        stack_trace = _format(shown)
    if not complete:
        stack_trace += "[further exceptions left out]\n"
    return stack_trace, _entries(chosen, handled=handled, project_root=project_root)


def _describe_briefly(exception: BaseException, message: str, *, handled: bool) -> tuple[str, list[dict[str, object]]]:
    """Do the same with the type and the message alone."""
    name = _clip(_type_name(exception), _MAX_TYPE_BYTES)
    mechanism = {"type": "generic", "handled": bool(handled), "exception_id": 0}
    return f"{name}: {message}\n", [{"type": name, "value": message, "module": None, "mechanism": mechanism}]


def _say_why(error: Exception) -> None:
    # Not needed for an exception that behaves.
    from atotelemetry.host.debug import debug

    debug("an exception could not be described in full: %s", type(error).__name__)


# -- The walk over the exceptions ------------------------------------------------------------------------------------


class _Node:
    """One exception in its place: what it came from, what it holds, and how it is printed."""

    __slots__ = (
        "cause",
        "context",
        "entries",
        "exception",
        "members",
        "message",
        "rendering",
        "summaries",
        "suppressed",
        "width",
    )

    # What `_render` adds: every traceback entry, the crash site last, and the summaries of those that are used.
    entries: list[TracebackType]
    summaries: dict[int, FrameSummary]
    rendering: TracebackException

    def __init__(self, exception: BaseException, message: str | None = None) -> None:
        self.exception = exception
        self.message = _clip(_text_of(exception, "exception"), _MAX_MESSAGE_BYTES) if message is None else message
        self.cause: _Node | None = None
        self.context: _Node | None = None
        self.members: list[_Node] = []
        self.width: int | None = None  # of an exception group, before it was cut
        self.suppressed = bool(_read(exception, "__suppress_context__", default=False))

    @property
    def visible_context(self) -> _Node | None:
        """The context that is shown: a cause takes its place and `from None` hides it."""
        return None if self.suppressed or self.cause is not None else self.context


def _walk(exception: BaseException, message: str) -> tuple[_Node, bool]:
    """Link `exception` to everything behind it; also tell whether that was all of it.

    In the order of the standard library's `TracebackException`, last found first, and like there a hidden context
    counts as found: where two exceptions share a third, it is shown under the same one.
    """
    root = _Node(exception, message)
    found = {id(exception)}
    waiting = [root]
    count = 1
    complete = True
    while waiting:
        node = waiting.pop()
        cause = _linked(node.exception, "__cause__", found)
        if cause is not None:
            found.add(id(cause))
        context = _linked(node.exception, "__context__", found)
        members, width = _members(node.exception)
        if count >= _MAX_WALKED:
            complete = complete and cause is None and context is None and not members
            continue
        if cause is not None:
            node.cause = _Node(cause)
            waiting.append(node.cause)
        if context is not None:
            found.add(id(context))
            node.context = _Node(context)
            waiting.append(node.context)
        if members:
            found.update(map(id, members))
            node.members = list(map(_Node, members))
            node.width = width
            waiting.extend(node.members)
        count += (cause is not None) + (context is not None) + len(members)
    return root, complete


def _linked(exception: BaseException, name: str, found: set[int]) -> BaseException | None:
    value = _read(exception, name, default=None)
    return value if _is_exception(value) and id(value) not in found else None


def _members(exception: BaseException) -> tuple[list[BaseException], int]:
    """Return the first members of an exception group, and how many there are; nothing for other exceptions."""
    members = _read(exception, "exceptions", default=()) if issubclass(type(exception), BaseExceptionGroup) else ()
    if type(members) is not tuple:
        return [], 0
    return [member for member in members[:_MAX_GROUP_WIDTH] if _is_exception(member)], len(members)


def _is_exception(value: object) -> bool:
    return issubclass(type(value), BaseException)  # not `isinstance`, which believes a mock's `__class__`


def _in_order(root: _Node) -> Iterator[tuple[_Node, _Node | None, str | None]]:
    """Yield what is shown, with its parent and its relation to it: the caught exception first, its root cause last."""
    waiting: list[tuple[_Node, _Node | None, str | None]] = [(root, None, None)]
    while waiting:
        node, parent, source = waiting.pop()
        yield node, parent, source
        waiting.extend((member, node, "member") for member in reversed(node.members))
        if node.cause is not None:
            waiting.append((node.cause, node, "cause"))
        elif node.visible_context is not None:
            waiting.append((node.visible_context, node, "context"))


# -- Printing it -----------------------------------------------------------------------------------------------------


class _Alone:
    """What a `TracebackException` asks of one exception, without its chain and with answers that do not raise.

    The chain is linked by `_format` instead: `TracebackException` would follow it without bounds.
    """

    __slots__ = ("__notes__", "__suppress_context__", "_exception", "_message")

    __cause__ = None
    __context__ = None
    exceptions = ()

    def __init__(self, node: _Node) -> None:
        self._exception = node.exception
        self._message = node.message
        self.__suppress_context__ = node.suppressed
        self.__notes__ = _notes(node.exception)

    @property  # type: ignore[misc]
    def __class__(self) -> type[BaseException]:  # type: ignore[override]
        return type(self._exception)

    def __str__(self) -> str:
        return self._message

    def __getattr__(self, name: str) -> Any:
        # Without these it makes no suggestion ("Did you mean"). To make one it would import the module that failed,
        # once more, read properties of the host's objects, and name a variable of the host's.
        if name in _SUGGESTED_FROM:
            raise AttributeError(name)
        # Where a SyntaxError points to.
        try:
            return getattr(self._exception, name)
        except KeyboardInterrupt:
            raise
        except BaseException:
            raise AttributeError(name) from None


def _printed_count(exceptions: int) -> int:
    """Return how many frames are printed of each of so many exceptions."""
    return min(_MAX_PRINTED_FRAMES, max(_MIN_PRINTED_FRAMES, _MAX_PRINTED_FRAMES_IN_ALL // exceptions))


def _render(node: _Node, printed_count: int, listed_count: int, *, plain: bool = False) -> None:
    """Give `node` its `TracebackException`, its stack of at most `printed_count` frames, and the summaries to list.

    `plain` when its own fields are known not to be printable.
    """
    # Milliseconds to import, though a host that raises mostly has it.
    from traceback import TracebackException

    entries = _traceback_entries(node.exception)
    kept, printed = _choose(entries, printed_count, listed_count)
    # An explicit limit, because `sys.tracebacklimit` is about what is printed, not about what is known.
    options: dict[str, Any] = {"limit": max(len(kept), 1), "lookup_lines": False}
    rebuilt = _rebuilt([entries[index] for index in kept]) if len(kept) < len(entries) else None
    start = rebuilt or (entries[0] if entries else None)
    kind = type(node.exception)
    try:
        if plain:
            kind = _plain_type(kind)
        node.rendering = TracebackException(kind, _Alone(node), start, **options)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        raise
    except BaseException:
        # Nothing that it does for a better message (it lists the attributes of the object that lacked one) is let out.
        node.rendering = TracebackException(_plain_type(kind), _Alone(node), start, **options)  # type: ignore[arg-type]
    summaries = [_tamed(summary) for summary in node.rendering.stack]
    node.entries = entries
    node.summaries = dict(zip(kept, summaries, strict=True))
    node.rendering.stack = _printable(node.summaries, printed)


def _format(shown: Sequence[tuple[_Node, _Node | None, str | None]]) -> str:
    """Link the renderings and return the text of the first with all that hangs on it."""
    texts: dict[tuple[object, ...], str] = {}
    for node, _, _ in shown:
        rendering = node.rendering
        stack: Any = rendering.stack
        stack.texts = texts
        context = node.visible_context
        rendering.__cause__ = None if node.cause is None else node.cause.rendering
        rendering.__context__ = None if context is None else context.rendering
        rendering.exceptions = None
        if node.width is not None:
            members = [member.rendering for member in node.members]
            # Only the first fifteen are printed, but the rest are counted.
            rendering.exceptions = members + members[-1:] * (node.width - len(members))
    return "".join(shown[0][0].rendering.format())


def _traceback_entries(exception: BaseException) -> list[TracebackType]:
    from types import TracebackType  # loaded along with `traceback`

    entries = []
    entry = _read(exception, "__traceback__", default=None)
    while type(entry) is TracebackType:
        entries.append(entry)
        entry = entry.tb_next
    return entries


def _choose(
    entries: Sequence[TracebackType], printed_count: int, listed_count: int
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Choose the frames worth summarising, and the runs of them to print.

    Returns the indexes of the former, and for the latter triples: the first index, how many frames stand on the same
    line, and how many of these are printed. A run that is all left out has 0 there. A summary costs microseconds and
    printing one ten times that, so this decides before either, for a recursion of 100,000 frames too.
    """
    limit = getattr(sys, "tracebacklimit", None)
    printable = entries[: max(limit, 0)] if type(limit) is int else entries
    runs: list[tuple[int, int, int]] = []
    code, line, first = None, None, 0
    for index, entry in enumerate(printable):
        here, lineno = entry.tb_frame.f_code, entry.tb_lineno
        if here is not code or lineno != line:
            if index:
                runs.append(_run(first, index))
            code, line, first = here, lineno, index
    if printable:
        runs.append(_run(first, len(printable)))
    runs = _without_middle(runs, printed_count)

    if len(entries) <= listed_count:
        return list(range(len(entries))), runs
    head, tail = _ends(len(entries), listed_count)
    kept = {*head, *tail}
    for first, _, count in runs:
        kept.update(range(first, first + count))
    return sorted(kept), runs


def _run(first: int, end: int) -> tuple[int, int, int]:
    return first, end - first, min(end - first, _PRINTED_REPEATS)


def _without_middle(runs: list[tuple[int, int, int]], printed_count: int) -> list[tuple[int, int, int]]:
    """Replace what is too much to print, in the middle of `runs`, with one run of which nothing is printed."""
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


def _rebuilt(entries: Sequence[TracebackType]) -> TracebackType | None:
    """Chain copies of these traceback entries: the originals belong to the host."""
    chain: TracebackType | None = None
    for entry in reversed(entries):
        chain = type(entry)(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return chain


def _printable(summaries: dict[int, FrameSummary], runs: Sequence[tuple[int, int, int]]) -> StackSummary:
    """Build the stack to print: where a line repeats, the last printed summary stands for all that follow it."""
    from traceback import FrameSummary

    stack = _stack_class()()
    for first, length, count in runs:
        if not count:
            stack.gap = FrameSummary(f"<{length} frames left out>", None, "", lookup_line=False)
            stack.append(stack.gap)
            continue
        printed = [summaries[index] for index in range(first, first + count)]
        stack.extend(printed)
        stack.extend(printed[-1:] * (length - count))
    return stack  # type: ignore[no-any-return]


def _stack_class() -> Any:
    """Return the class of printable stacks, made once: its base is not imported before an exception is described."""
    found = _lazy_classes.get("stack")
    if found is not None:
        return found
    from traceback import StackSummary

    class PrintableStack(StackSummary):
        """A stack that is cheap where lines repeat, and prints a frame without its source where that cannot be done.

        `format_frame_summary` is the standard library's hook for what is printed of a frame.
        """

        # What is printed of the frames of an event: a recursion and a chain have the same ones again and again.
        texts: dict[tuple[object, ...], str]
        gap: FrameSummary | None = None
        previous: FrameSummary | None = None

        def format_frame_summary(self, frame_summary: FrameSummary, **options: Any) -> str:
            if frame_summary is self.gap:
                return f"  [{frame_summary.filename[1:-1]}]\n"
            if frame_summary is self.previous:
                return ""  # counted by the caller, not printed
            self.previous = frame_summary
            place = (frame_summary.filename, frame_summary.lineno, frame_summary.name)
            key = (*place, frame_summary.end_lineno, frame_summary.colno, frame_summary.end_colno)
            text = self.texts.get(key)
            if text is not None:
                return text
            try:
                text = super().format_frame_summary(frame_summary, **options)
            except Exception:
                # The file changed since it was imported, or its loader fails.
                text = '  File "{}", line {}, in {}\n'.format(*place)
            if not frame_summary.filename.startswith("<"):  # such a name may stand for several sources
                self.texts[key] = text
            return text

    _lazy_classes["stack"] = PrintableStack
    return PrintableStack


def _tamed(summary: FrameSummary) -> FrameSummary:
    """Return `summary`, or one without the part of its source that would cost too much to print."""
    from traceback import FrameSummary

    place = summary.filename, summary.lineno, summary.name
    try:
        if _costs_too_much_to_read(summary.filename):
            return FrameSummary(*place, line="")
        if _is_long_statement(summary):
            summary = FrameSummary(*place, lookup_line=False)
        line = summary.line or ""
        if len(line) > _MAX_FORMATTED_LINE_CHARACTERS:
            return FrameSummary(*place, line=_clip(line, _MAX_LINE_BYTES))
        return summary
    except Exception:
        # A loader of the host's that cannot give the source.
        return FrameSummary(*place, line="")


def _is_long_statement(summary: FrameSummary) -> bool:
    """Tell whether a frame's statement has more lines, or text in them, than is worth parsing."""
    first, last = summary.lineno or 0, summary.end_lineno or 0
    if last <= first:
        return False
    if last - first > _MAX_STATEMENT_LINES:
        return True
    import linecache  # loaded along with `traceback`

    lines = linecache.getlines(summary.filename)[first - 1 : last]
    return sum(map(len, lines)) > _MAX_STATEMENT_CHARACTERS


def _costs_too_much_to_read(filename: str) -> bool:
    """Tell whether looking up a line of this file might read something huge, or wait for a pipe or a terminal."""
    import linecache  # loaded along with `traceback`
    import os
    import stat

    if filename.startswith("<"):
        return False  # not a file, and not opened as one
    cached = linecache.cache.get(filename)
    if cached is not None and len(cached) > 1:
        return False
    try:
        status = os.stat(filename)
    except (OSError, ValueError):
        return False  # it cannot be opened either; its loader may know the source
    return not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SOURCE_FILE_BYTES


def _plain_type(kind: type[BaseException]) -> type[BaseException]:
    """Make a stand-in of the same name for an exception class whose instances cannot be printed."""
    module = _read(kind, "__module__", default=None)
    names = {"__module__": module if type(module) is str else "<unknown>"}
    return type(_plain_type_name(kind), (Exception,), names)


# -- The entries of $exception_list ----------------------------------------------------------------------------------


def _chosen(
    shown: Sequence[tuple[_Node, _Node | None, str | None]],
) -> list[tuple[_Node, _Node | None, str | None]]:
    """Return what is listed: an exception that is a member and a context is printed twice and listed once."""
    chosen: dict[int, tuple[_Node, _Node | None, str | None]] = {}
    for node, parent, source in shown:
        chosen.setdefault(id(node.exception), (node, parent, source))
        if len(chosen) == _MAX_EXCEPTIONS:
            break
    return list(chosen.values())


def _listed_count(exceptions: int) -> int:
    """Return how many frames are listed of each of so many exceptions."""
    return min(_MAX_LISTED_FRAMES, max(_MIN_LISTED_FRAMES, _MAX_LISTED_FRAMES_IN_ALL // exceptions))


def _entries(
    chosen: Sequence[tuple[_Node, _Node | None, str | None]], *, handled: bool, project_root: str | None
) -> list[dict[str, object]]:
    numbers = {id(node.exception): number for number, (node, _, _) in enumerate(chosen)}
    value_bytes = min(_MAX_MESSAGE_BYTES, max(_MIN_VALUE_BYTES, _MAX_ALL_VALUES_BYTES // len(chosen)))
    frame_count = _listed_count(len(chosen))
    sources = _Sources(project_root)
    entries = []
    for number, (node, parent, source) in enumerate(chosen):
        mechanism: dict[str, object] = {
            "type": "chained" if parent else "generic",
            "handled": bool(handled),
            "exception_id": number,
        }
        if parent is not None:
            mechanism["parent_id"] = numbers[id(parent.exception)]
            mechanism["source"] = source
        if node.width is not None:
            mechanism["is_exception_group"] = True
        module = _read(type(node.exception), "__module__", default=None)
        entry: dict[str, object] = {
            "type": _clip(_type_name(node.exception), _MAX_TYPE_BYTES),
            "value": _clip(node.message, value_bytes),
            "module": _clip(module, _MAX_NAME_BYTES) if type(module) is str and module != "builtins" else None,
            "mechanism": mechanism,
        }
        frames = _frames(node, frame_count, sources)
        if frames:
            entry["stacktrace"] = {"type": "raw", "frames": frames}
        entries.append(entry)
    return entries


def _frames(node: _Node, count: int, sources: _Sources) -> list[dict[str, object]]:
    """Return `count` frames at most, entry point first, crash site last; one more in the middle stands for the rest."""
    head, tail = _ends(len(node.entries), count)
    left_out = tail.start - head.stop
    frames = [sources.frame(node.entries[index], node.summaries[index]) for index in (*head, *tail)]
    if left_out:
        frames.insert(len(head), _gap(left_out))
    return frames


def _ends(total: int, count: int) -> tuple[range, range]:
    """Return the first and the last of `total` indexes, `count` at most in both."""
    head = min(total, count // 2)
    return range(head), range(max(head, total - (count - count // 2)), total)


def _gap(left_out: int) -> dict[str, object]:
    return {
        "platform": "python",
        "filename": "<left out>",
        "abs_path": None,
        "function": f"<{left_out} frames left out>",
        "module": None,
        "lineno": None,
        "context_line": None,
        "in_app": False,
        "synthetic": True,
    }


class _Sources:
    """Says of each source file where it is, what to call it and whose it is; each is worked out once per event."""

    __slots__ = ("_known", "_library", "_module", "_root")

    def __init__(self, project_root: str | None) -> None:
        import os
        import traceback

        self._known: dict[tuple[str, str | None], tuple[str, str, bool]] = {}
        # `os` may be frozen into the interpreter; this one is a file of the standard library.
        self._library = _directory(os.path.dirname(traceback.__file__))
        root = _directory(project_root)
        # Whatever led to a directory of everybody's packages: it is not the application's.
        self._root = None if root is None or root.endswith(("/site-packages/", "/dist-packages/")) else root
        self._module = root and root.removesuffix("/")

    def frame(self, entry: TracebackType, summary: FrameSummary) -> dict[str, object]:
        # `exec` takes subclasses of dict, which may have a `get` of their own.
        module = dict.get(entry.tb_frame.f_globals, "__name__")
        if type(module) is not str:
            module = None
        key = summary.filename, module
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._place(*key)
        filename, path, in_app = known
        lineno = summary.lineno
        line = summary.line
        return {
            "platform": "python",
            "filename": filename,
            "abs_path": path,
            "function": _clip(summary.name, _MAX_NAME_BYTES) or "<unknown>",
            "module": module and _clip(module, _MAX_NAME_BYTES),
            "lineno": lineno if lineno is not None and lineno >= 0 else None,
            "context_line": _clip(line, _MAX_LINE_BYTES) if line else None,
            "in_app": in_app,
        }

    def _place(self, filename: str, module: str | None) -> tuple[str, str, bool]:
        """Return a short name, the absolute path, and whether the file is the application's."""
        import os

        if filename.startswith("<") or not filename:
            name = _clip(filename, _MAX_NAME_BYTES) or "<unknown>"
            return name, name, False
        try:
            path = os.path.abspath(filename)
        except (OSError, ValueError):
            path = filename  # the working directory is gone
        comparable = _comparable(path)
        inside = comparable[len(self._root) :] if self._root and comparable.startswith(self._root) else None
        if module is not None and (module == _OWN_PACKAGE or module.startswith(_OWN_PACKAGE + ".")):
            in_app = False  # our decorator is in the stack of what it wraps
        elif inside is not None:
            in_app = not _is_installed("/" + inside)
        elif comparable == self._module:
            in_app = True
        else:
            in_app = not _is_installed(comparable) and not (self._library and comparable.startswith(self._library))
        parts = path.replace(os.sep, "/").split("/")
        return _clip(_short_name(parts, module, inside), _MAX_NAME_BYTES), _clip(path, 2 * _MAX_NAME_BYTES), in_app


def _short_name(parts: Sequence[str], module: str | None, inside: str | None) -> str:
    """Name a file as its module does (`package/module.py`), the same on every machine: issues are grouped by it."""
    names = module.split(".") if module else []
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    size = len(names) + (stem == "__init__")
    tail = list(parts[-size:]) if size else []
    if names and [*tail[:-1], *([stem] if stem != "__init__" else [])] == names:
        return "/".join(tail)
    if inside is not None:
        return "/".join(parts[-(inside.count("/") + 1) :])
    return parts[-1]


def _is_installed(path: str) -> bool:
    return "/site-packages/" in path or "/dist-packages/" in path


def _directory(path: str | None) -> str | None:
    """Return `path` so that the comparable path of every file below it starts with it."""
    import os

    if not path:
        return None
    try:
        return _comparable(os.path.abspath(path)).rstrip("/") + "/"
    except (OSError, ValueError, TypeError):
        return None


def _comparable(path: str) -> str:
    import os

    return os.path.normcase(path).replace("\\", "/") if os.sep == "\\" else path


# -- Asking objects that may misbehave -------------------------------------------------------------------------------


def _read(value: object, name: str, *, default: Any) -> Any:
    """Read an attribute of the host's object. Like the standard library, let nothing out that a property raises."""
    try:
        return getattr(value, name, default)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return default


def _text_of(value: object, what: str) -> str:
    """Return `str(value)`, or what the standard library prints when that fails."""
    try:
        text = str(value)
        return text if type(text) is str else str.__str__(text)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<{what} str() failed>"


def _notes(exception: BaseException) -> object:
    """Return the notes for printing, in bounds."""
    notes = _read(exception, "__notes__", default=None)
    if type(notes) in (str, bytes):
        return notes[:_MAX_LINE_BYTES]
    if type(notes) not in (list, tuple):
        return notes
    kept = [_clip(_text_of(note, "note"), _MAX_MESSAGE_BYTES) for note in notes[:_MAX_NOTES]]
    if len(notes) > _MAX_NOTES:
        kept.append(f"[{len(notes) - _MAX_NOTES} more notes]")
    return kept


def _type_name(exception: BaseException) -> str:
    return _plain_type_name(type(exception))


def _plain_type_name(kind: type) -> str:
    name = _read(kind, "__name__", default=None)
    return name if type(name) is str and name else "<unknown>"


def _claimed_type_name(exception: BaseException) -> str:
    """Return `exception.__class__.__name__`, which is what the old dashboards show."""
    name = _read(_read(exception, "__class__", default=None), "__name__", default=None)
    return name if type(name) is str and name else _type_name(exception)


def _adopt_traceback(exception: BaseException, traceback: object) -> None:
    """Give an exception the traceback that came beside it, where it has none of its own."""
    if traceback is None or _read(exception, "__traceback__", default=None) is not None:
        return
    try:
        BaseException.with_traceback(exception, traceback)  # type: ignore[arg-type]
    except TypeError:
        return  # not a traceback


def _clip(text: str, limit_bytes: int) -> str:
    """Return `text` as JSON can carry it, cut to about `limit_bytes` of UTF-8; the end says so."""
    kept = _encodable(text[:limit_bytes], limit_bytes)
    if len(text) <= limit_bytes and len(kept) >= len(text):
        return kept
    return f"{kept}... [cut]"


def _clip_middle(text: str, limit_bytes: int) -> str:
    """Like `_clip`, but keep both ends: a stack trace starts with the root cause and ends with what was caught."""
    if len(text) <= limit_bytes:
        whole = _encodable(text, limit_bytes)
        if len(whole) >= len(text):
            return whole
    half = limit_bytes // 2
    head = _encodable(text[:half], half)
    tail = _encodable(text[-half:][::-1], half)[::-1]
    return f"{head}\n[{len(text) - len(head) - len(tail)} characters left out]\n{tail}"


def _encodable(text: str, limit_bytes: int) -> str:
    """Return what fits of `text`, with `?` for lone surrogates: they have no UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace")[:limit_bytes].decode("utf-8", "ignore")
