"""One exception as the properties of a `$exception` event.

Runs in the host, on the thread that captures, often deep inside an `except` block. PostHog reads an exception in two
ways: old dashboards read a trio of strings, error tracking reads the structured `$exception_list`. Both come from one
walk over the exceptions and one summary of each frame. Exceptions, frames, texts and source files are bounded before
they are read. An exception is the host's object, so each attribute of it may raise or lie. Such an answer is replaced;
the event is not lost.
"""

from __future__ import annotations

import sys

from atotelemetry.facts.places import MAX_NAME_BYTES
from atotelemetry.facts.text import clip
from atotelemetry.host.classes import attribute
from atotelemetry.host.debug import attempt, debug, is_for_the_host
from atotelemetry.host.frames import Frames, chosen, stack_of_the_caller, traceback_entries
from atotelemetry.host.guarded import MAX_MESSAGE_BYTES, clip_middle, is_exception
from atotelemetry.host.messages import Reader
from atotelemetry.host.stack_trace import print_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from traceback import FrameSummary, TracebackException
    from types import TracebackType
    from typing import TypeAlias

    from atotelemetry.host.values import Walk

__all__ = ["current_exception", "exception_properties", "mark_reported", "unmark_reported"]

_MAX_EXCEPTIONS = 50  # in `$exception_list`; as many as PostHog's own SDK sends
_MAX_WALKED = 200  # exceptions looked at, so that an endless chain ends
_MAX_ENTRIES_WALKED = 300_000  # of tracebacks; then the other exceptions have none
_MAX_GROUP_WIDTH = 49  # members of one group; the standard library prints 15 of them
_MAX_LISTED_FRAMES = 128  # per exception: the outermost and the innermost half
_MAX_LISTED_FRAMES_IN_ALL = 256
_MIN_LISTED_FRAMES = 8

_MAX_ALL_VALUES_BYTES = 32 * 1024  # PostHog cuts one `value` at 10,000 bytes
_MIN_VALUE_BYTES = 512
_MAX_STACK_TRACE_BYTES = 72 * 1024
_MAX_TYPE_BYTES = 255  # where PostHog cuts it

_MARK = "__atotelemetry_reported__"
_MEMBER_MARK = "__atotelemetry_reported_in_group__"
# The descriptor behind `exception.__dict__`. A subclass may define `__setattr__`, `__getattribute__` or `__dict__`.
# This still reaches the real dictionary, so every exception can be marked.
_attributes_of = BaseException.__dict__["__dict__"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__
_members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


def current_exception(exception: object = None) -> BaseException | None:
    """Find the exception that a caller means.

    `exception` is an exception or a `sys.exc_info()` tuple. None and True mean the handled exception, as in PostHog's
    SDK and the standard library. Anything else means none. Never raises.
    """
    if exception is None or exception is True:
        return sys.exc_info()[1]
    if is_exception(exception):
        return exception  # type: ignore[return-value]  # mypy does not follow `issubclass(type(...))`
    if type(exception) is tuple and len(exception) == 3:  # (type, value, traceback)
        value = exception[1]
        if is_exception(value):
            if exception[2] is not None and _traceback_of(value) is None:
                attempt(BaseException.with_traceback, value, exception[2], default=value)  # it may be no traceback
            return value  # type: ignore[no-any-return]
    return None


def mark_reported(exception: BaseException) -> bool:
    """Note that this exception object is reported; True the first time, False when it already was. Never raises.

    With a group all its members are reported, and with all its members a group: `except*` makes new groups of them.
    """
    if _is_marked(exception, _MEMBER_MARK):
        return False
    members = list(_leaves(exception))
    if members and all(_is_marked(member, _MEMBER_MARK) for member in members):
        return False
    # One dictionary operation decides, also against a signal handler or another thread in between.
    if not _mark(exception, _MARK):
        return False
    for member in members:
        _mark(member, _MEMBER_MARK)
    return True


def unmark_reported(exception: BaseException) -> None:
    """Undo `mark_reported` after the event was lost. Never raises."""
    for member in _leaves(exception):
        _marks(member).pop(_MEMBER_MARK, None)
    _marks(exception).pop(_MARK, None)


# The mark lives on the object, so it dies with it and keeps nothing alive. It names the object: a copy, or an unpickled
# exception, has its original's attributes and is another exception.


def _mark(exception: BaseException, name: str) -> bool:
    mark, marks = (id(exception),), _marks(exception)
    found = marks.setdefault(name, mark)
    if found is not mark and found != mark:
        marks[name] = found = mark
    return found is mark


def _is_marked(exception: BaseException, name: str) -> bool:
    return bool(_marks(exception).get(name) == (id(exception),))


def _marks(exception: BaseException) -> dict[str, object]:
    # Of no exception there are none: two reports of one are better than none.
    return attempt(_attributes_of, exception, default={})


def _leaves(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and in its inner groups, up to a limit. Groups themselves are left out."""
    waiting = [exception]
    seen = 0
    while waiting and seen < _MAX_WALKED:
        seen += 1
        current = waiting.pop()
        members = _members(_members_of(current)) if issubclass(type(current), BaseExceptionGroup) else ()
        if members:
            waiting.extend(members)
        elif current is not exception:
            yield current


def exception_properties(
    exception: BaseException,
    walk: Walk,
    *,
    distinct_id: str,
    handled: bool = True,
    own: Sequence[str] = (),
    source_lines: bool = True,
) -> dict[str, object]:
    """Describe `exception` as PostHog reads it.

    `walk` counts what the event costs. `distinct_id` is the person for the old dashboards; `handled` is False when
    nothing caught the exception. `own`: import names of the application's packages and modules; if empty, all code but
    libraries is its own. Without `source_lines` no line of source is read or told.

    Returns `$exception_message`, `$exception_type`, `$exception_stack_trace` (as `traceback.format_exception` prints
    it), `$exception_person`, `$exception_list` and `$exception_level`: plain values, ready for JSON, usually below 300
    KiB. Never raises.

    Source of the protocol facts: PostHog's ingestion, `rust/cymbal` in github.com/PostHog/posthog. `$exception_list`
    must not be empty. An entry needs `type`. A frame needs `platform` to be read as Python's, and `filename` and
    `function` that are not null. `in_app` counts as true when it is missing, and is demoted by path (see `frames`).
    `lineno` is a 32-bit unsigned number or null. `handled` is read from the first entry alone. The fingerprint holds
    the types and the in-app frames' `filename`, `module` and `function`. Without a `stacktrace` it holds the message,
    so an exception that was never raised gets the reporting code's stack.
    """
    # Where the recursion limit is so near that nothing can be called, this is all.
    properties: dict[str, object] = {
        "$exception_message": "",
        "$exception_type": "Exception",
        "$exception_stack_trace": "",
        "$exception_person": distinct_id,
        "$exception_list": [{"type": "Exception", "value": "", "module": None, "mechanism": {"type": "generic"}}],
        "$exception_level": "error",
    }
    try:
        handled = handled if type(handled) is bool else attempt(walk.ask, bool, handled, default=True)
        reader = Reader(walk)
        root = Node(exception, reader)
        try:
            stack_trace, entries = _describe(root, handled, own, source_lines)
        except BaseException as error:
            if is_for_the_host(error):
                raise
            debug("an exception could not be described in full: %s", type(error).__name__)
            name = clip(root.name, _MAX_TYPE_BYTES)
            mechanism = {"type": "generic", "handled": handled, "exception_id": 0}
            stack_trace = f"{name}: {root.message}\n"
            entries = [{"type": name, "value": root.message, "module": None, "mechanism": mechanism}]
        claimed = reader.read(exception, "__class__")  # as the old dashboards show it
        shown = reader.read_text(claimed, "__name__") or reader.read_text(type(exception), "__name__") or "<unknown>"
        return {
            **properties,
            "$exception_message": root.message,
            "$exception_type": clip(shown, _MAX_TYPE_BYTES),
            "$exception_stack_trace": clip_middle(stack_trace, _MAX_STACK_TRACE_BYTES),
            "$exception_list": entries,
        }
    except Exception:
        return properties


def _describe(root: Node, handled: bool, own: Sequence[str], source_lines: bool) -> tuple[str, list[dict[str, object]]]:
    """Return the text of the whole stack trace, and the entries of `$exception_list`."""
    complete = _link(root)
    shown = list(_in_order(root))
    listed = _listed(shown)
    room, without_frames = _MAX_ENTRIES_WALKED, ""
    for node, _, _ in shown:
        if room <= 0:
            without_frames = "[further frames left out]\n"
            break
        node.entries, node.left_out = traceback_entries(node.exception, len(shown))
        room -= len(node.entries) + node.left_out
    if not root.entries:
        root.was_raised = False
        root.entries = stack_of_the_caller()
    count = min(_MAX_LISTED_FRAMES, max(_MIN_LISTED_FRAMES, _MAX_LISTED_FRAMES_IN_ALL // len(listed)))
    for node, _, _ in listed:
        node.plan = chosen(node.entries, node.left_out, count)
    stack_trace = print_all(shown, source_lines=source_lines)
    if not complete:
        stack_trace += "[further exceptions left out]\n"
    stack_trace += without_frames
    return stack_trace, _entries(listed, handled=handled, frames=Frames(own, source_lines=source_lines))


# -- The walk over the exceptions ------------------------------------------------------------------------------------


class Node:
    """One exception with its cause, context and members, its frames, and its printed form."""

    # Set by `print_all`.
    summaries: dict[int, FrameSummary]
    rendering: TracebackException

    def __init__(self, exception: BaseException, reader: Reader) -> None:
        self.exception = exception
        self.reader = reader
        self.message = reader.text(exception, "exception")
        self.notes = reader.notes(exception)
        self.module = reader.read_text(type(exception), "__module__")
        # `Outer.Inner` for a class in a class, as PostHog's SDK gives it.
        self.name = reader.read_text(type(exception), "__qualname__") or "<unknown>"
        self.cause: Node | None = None
        self.context: Node | None = None
        self.members: list[Node] = []
        self.width: int | None = None  # of an exception group, before it was cut
        self.suppressed = reader.read(exception, "__suppress_context__") is True
        self.entries: list[TracebackType] = []  # the crash site last
        self.left_out = 0  # entries, in the middle of them
        self.was_raised = True  # or else `entries` are not of its traceback
        self.plan: list[int] = []  # which frames are listed: see `frames.chosen`

    @property
    def value(self) -> str:
        """PostHog shows this text: the message and the notes; for a group without the number of members."""
        text = self.message
        if self.width is not None and attribute(type(self.exception), "__str__") is BaseExceptionGroup.__str__:
            text = self.reader.text(self.reader.read(self.exception, "message", ""), "exception")
        if type(self.notes) is list:
            text = "\n".join([text, *self.notes])
        return text

    @property
    def visible_context(self) -> Node | None:
        """The visible context: a cause replaces it, and `from None` hides it."""
        return None if self.suppressed or self.cause is not None else self.context


if TYPE_CHECKING:
    Shown: TypeAlias = tuple[Node, Node | None, str | None]  # an exception, its parent, and their relation


def _link(root: Node) -> bool:
    """Link an exception to everything behind it; return whether that was all of it.

    The order is that of the standard library's `TracebackException`: last found first. A hidden context counts as
    found, too. So an exception that two others share is shown under the same one as there.
    """
    found = {id(root.exception)}
    waiting = [root]
    count = 1
    complete = True
    while waiting:
        node = waiting.pop()
        cause, context = (_linked(node, name, found) for name in ("__cause__", "__context__"))
        is_group = issubclass(type(node.exception), BaseExceptionGroup)
        given = node.reader.read(node.exception, "exceptions") if is_group else ()
        members = _members(given)
        if count >= _MAX_WALKED:
            complete = complete and cause is None and context is None and not members
            continue
        node.cause, node.context = cause, context
        if members:
            found.update(map(id, members))
            node.members, node.width = [Node(member, node.reader) for member in members], len(given)
        others = [other for other in (cause, context, *node.members) if other is not None]
        waiting += others
        count += len(others)
    return complete


def _linked(node: Node, name: str, found: set[int]) -> Node | None:
    value = node.reader.read(node.exception, name)
    if not is_exception(value) or id(value) in found:
        return None
    found.add(id(value))
    return Node(value, node.reader)


def _members(given: object) -> list[BaseException]:
    """Return the first members of an exception group."""
    return [member for member in given[:_MAX_GROUP_WIDTH] if is_exception(member)] if type(given) is tuple else []


def _in_order(root: Node) -> Iterator[Shown]:
    """Yield each visible exception, its parent and their relation; the caught one first, the root cause last."""
    waiting: list[Shown] = [(root, None, None)]
    while waiting:
        node, parent, source = waiting.pop()
        yield node, parent, source
        waiting.extend((member, node, "member") for member in reversed(node.members))
        if node.cause is not None:
            waiting.append((node.cause, node, "cause"))
        elif node.visible_context is not None:
            waiting.append((node.visible_context, node, "context"))


# -- The entries of $exception_list ----------------------------------------------------------------------------------


def _listed(shown: Sequence[Shown]) -> list[Shown]:
    """Return the entries to list. An exception that is both a member and a context is printed twice and listed once."""
    listed: dict[int, Shown] = {}
    for node, parent, source in shown:
        listed.setdefault(id(node.exception), (node, parent, source))
        if len(listed) == _MAX_EXCEPTIONS:
            break
    return list(listed.values())


def _entries(listed: Sequence[Shown], *, handled: bool, frames: Frames) -> list[dict[str, object]]:
    numbers = {id(node.exception): number for number, (node, _, _) in enumerate(listed)}
    value_bytes = min(MAX_MESSAGE_BYTES, max(_MIN_VALUE_BYTES, _MAX_ALL_VALUES_BYTES // len(listed)))
    entries = []
    for number, (node, parent, source) in enumerate(listed):
        mechanism: dict[str, object] = {
            "type": "chained" if parent else "generic",
            "handled": handled,
            "exception_id": number,
        }
        if parent is not None:
            mechanism["parent_id"] = numbers[id(parent.exception)]
            mechanism["source"] = source
        if node.width is not None:
            mechanism["is_exception_group"] = True
        module = node.module
        entry: dict[str, object] = {
            "type": clip(node.name, _MAX_TYPE_BYTES),
            "value": clip(node.value, value_bytes),
            "module": clip(module, MAX_NAME_BYTES) if module and module != "builtins" else None,
            "mechanism": mechanism,
        }
        described = frames.described(node.entries, node.summaries, node.plan)
        if described:
            entry["stacktrace"] = {"type": "raw", "frames": described}
            frames.add_context(described, [node.summaries.get(index) for index in node.plan])
        entries.append(entry)
    return entries
