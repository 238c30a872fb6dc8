"""The texts and links of the host's exceptions, asked for in bounds.

Runs in the host, on the thread that captures, and only once an exception is described. An attribute or a text may be
code of the host's: each such call is one of the event's (see `values.Walk`). What C can tell is not asked. Before a
`repr` is made, the memory behind it is measured, and what is reached twice counts twice: a few objects that share their
parts can spell out more text than there is memory.
"""

from __future__ import annotations

import sys
from _collections import OrderedDict  # type: ignore[import-not-found]
from gc import get_referents

from msgspec import Struct

from atotelemetry.facts.text import clip
from atotelemetry.host.classes import (
    FUNCTION,
    HARMLESS,
    PROXIES,
    attribute,
    deque,
    is_data,
    is_in_c,
    looks_up_in_c,
    stored,
    struct_fields,
)
from atotelemetry.host.debug import attempt, is_for_the_host
from atotelemetry.host.guarded import MAX_LINE_BYTES, MAX_MESSAGE_BYTES, is_exception
from atotelemetry.host.kinds import NotAsked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from atotelemetry.host.values import Walk

__all__ = ["Reader"]

_MAX_NOTES = 100  # of one exception
_MAX_NOTES_BYTES = 128 * 1024  # of an event; the text of all of it has less
_MAX_LINES = 10_000  # of the texts of an event: each is printed by itself
_LEAST_BYTES = 64  # of a text
_MAX_MEASURED_BYTES = 256 * 1024  # behind one text
_MAX_TEXT_BYTES = 64 * 1024  # of the texts in a value that is cut
_FIXED_BYTES = 64  # of an object that is not looked into
_METHOD_OF_C = type(object.__sizeof__)
_NAMED = {*HARMLESS, id(FUNCTION), id(type(sys))}  # ids of types with a `repr` that is short
_MAX_NAMES = 1_000  # in the code of a generated `__repr__`
# Types of the standard library whose `repr` in C asks other objects than those that the collector knows.
_ASKING = {
    *("AST", "BufferedRandom", "BufferedReader", "BufferedWriter", "FileIO", "TextIOWrapper", "Future", "Task"),
    *("CallableProxyType", "ProxyType", "ReferenceType", "module", "datetime", "time"),
}
# Those that look up each key once more, which may have a `__hash__` of the host's.
_KEYED = {"OrderedDict", "odict_keys", "odict_values", "odict_items", "SimpleNamespace"}
_ITERATED = (set, frozenset, deque, OrderedDict)  # their `repr` in C calls these methods, also those of a subclass
_ITERATION = "__iter__", "__len__", "__length_hint__", "items"
_args = BaseException.__dict__["args"].__get__
_name, _path = (ImportError.__dict__[name].__get__ for name in ("name", "path"))

_SAID = {
    id(kind.__str__): [(kind if name in kind.__dict__ else BaseException).__dict__[name].__get__ for name in names]
    for kind, *names in (
        (OSError, "args", "errno", "strerror", "filename", "filename2"),
        (ImportError, "args", "msg"),
        (SyntaxError, "msg", "filename", "lineno"),
        (BaseExceptionGroup, "message"),
        (UnicodeDecodeError, "encoding", "reason"),
        (UnicodeEncodeError, "encoding", "reason"),
        (UnicodeTranslateError, "reason"),
    )
}
"""How to read the fields in the text of a built-in exception, by the id of the `__str__` that makes it."""


class Reader:
    """Reads the host's exceptions for one event; `walk` counts what that costs."""

    __slots__ = ("_kinds", "_lines", "_notes_bytes", "_shapes", "walk")

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._notes_bytes = _MAX_NOTES_BYTES
        self._lines = _MAX_LINES
        self._kinds: dict[int, tuple[bool, bool]] = {}  # by id: classes of exceptions, which their walk keeps alive
        self._shapes: dict[int, tuple[type, Callable[[Any], int], int, bool]] = {}  # with the types, which stay alive

    def read(self, value: object, name: str, default: Any = None) -> Any:
        """Return an attribute; `default` if there is none, or if it raises."""
        kind = type(value)
        known = self._kinds.get(id(kind))
        if known is None:
            known = is_in_c(kind, "__getattribute__"), attribute(kind, "__getattr__") is None
            self._kinds[id(kind)] = known
        found = attribute(kind, name)
        if known[0] and (known[1] if found is None else is_data(found)):
            return attempt(getattr, value, name, default, default=default)
        return attempt(self.walk.ask, getattr, value, name, default, default=default)

    def read_text(self, value: object, name: str) -> str | None:
        """Return an attribute that is to be a text; None if it is anything else, or empty."""
        text = self.read(value, name)
        return text if type(text) is str and text else None

    def text(self, value: object, what: str, limit_bytes: int = MAX_MESSAGE_BYTES) -> str:
        """Return `str(value)`, cut, or the standard library's words for a `__str__` that raises."""
        try:
            text = self._shown(str, value)
        except BaseException as error:
            if is_for_the_host(error):
                raise
            text = f"<{what} str() failed>"
        text = _clipped(text, limit_bytes if self._lines > 0 else _LEAST_BYTES)
        self._lines -= text.count("\n")
        return text

    def notes(self, exception: BaseException) -> list[str] | str | bytes | None:
        """Return the notes for printing."""
        notes = self.read(exception, "__notes__")
        if notes is None or type(notes) is str or type(notes) is bytes:  # printed as the standard library prints them
            return notes and notes[:MAX_LINE_BYTES]
        base = next((base for base in (list, tuple) if issubclass(type(notes), base)), None)
        if base is None:
            shown = attempt(self._shown, repr, notes, default="<__notes__ repr() failed>")
            return [_clipped(shown, MAX_MESSAGE_BYTES)]
        kept: list[str] = []
        for note in base.__getitem__(notes, slice(_MAX_NOTES)):
            limit = min(MAX_MESSAGE_BYTES, self._notes_bytes // 8)
            if limit < _LEAST_BYTES or self._lines <= 0:
                break
            kept.append(self.text(note, "note", limit))
            self._notes_bytes -= len(kept[-1])
        count = base.__len__(notes) - len(kept)
        return [*kept, f"[{count} more notes]"] if count > 0 else kept

    def _shown(self, show: Callable[[Any], str], value: Any) -> str:
        """Return the `str` or `repr` of a value, as `show` says."""
        kind = type(value)
        written = attribute(kind, "__str__" if show is str else "__repr__")
        is_of_c = is_in_c(kind, "__str__" if show is str else "__repr__")
        if kind is bytes or (issubclass(kind, str) and is_of_c):
            base: Any = str if issubclass(kind, str) else bytes
            return show(base.__getitem__(value, slice(MAX_MESSAGE_BYTES + 1)))
        if show is str and id(kind) in PROXIES:
            return self.walk.text(value)
        measured = value
        if show is str and is_exception(value):
            if written is BaseException.__str__ or written is KeyError.__str__:
                given = _args(value)
                if len(given) == 1:
                    return self._shown(str if written is BaseException.__str__ else repr, given[0])
                return self._listed(given) if given else ""
            measured = tuple(getter(value) for getter in _SAID.get(id(written), ())) or value
        calls = self._calls(measured) if is_of_c or show is repr else 1
        try:
            if calls <= 1:
                return self.walk.ask(show, value) if calls else show(value)
        except NotAsked:
            pass
        # A quarter of what is left: the properties need some, too.
        walk, left, kept = self.walk, self.walk.left * 3 // 4, max(self.walk.bytes - _MAX_TEXT_BYTES, 0)
        walk.left -= left
        walk.bytes -= kept
        plain = walk.value(measured, 1)
        walk.left += left
        walk.bytes += kept
        return show(plain)

    def _listed(self, values: Iterable[Any]) -> str:
        """Return the `repr` of a tuple of two or more values."""
        parts, size = [], 0
        for value in values:
            parts.append(self._shown(repr, value))
            size += str.__len__(parts[-1])
            if size > MAX_MESSAGE_BYTES:
                break
        return f"({', '.join(parts)})"

    def _calls(self, shown: Any) -> int:
        """Return how often the text of a value calls code of the host's; more than once if the text may be long."""
        room = most = min(_MAX_MEASURED_BYTES, max(self.walk.left, 0) << 4)
        shapes = self._shapes
        calls = 0
        waiting = [shown]
        for value in waiting:
            kind = type(value)
            _, size, asked, is_open = shapes.get(id(kind)) or shapes.setdefault(id(kind), (kind, *_shape(kind)))
            room -= size(value)
            calls += asked
            if room < 0 or calls > 1:
                calls = 2
                break
            if is_open:
                waiting += _parts(value, kind)
        self.walk.left -= (most - max(room, 0)) >> 5
        return calls


def _clipped(text: str, limit_bytes: int) -> str:
    """Cut a text, also of a class that is derived from `str`."""
    return clip(str.__getitem__(text, slice(limit_bytes + 1)), limit_bytes)


def _shape(kind: type) -> tuple[Callable[[Any], int], int, bool]:
    """Return how a type's objects are measured, the calls that one text makes (2: many), and if it has their parts."""
    shown = attribute(kind, "__repr__")
    if is_in_c(kind, "__repr__"):
        base = shown.__objclass__
        is_open = base.__module__.partition(".")[0] in sys.stdlib_module_names or issubclass(kind, Struct)
        is_iterated = kind is not base and base in _ITERATED
        if is_iterated and any(attribute(kind, name) is not attribute(base, name) for name in _ITERATION):
            return _fixed, 2, False
        if base.__name__ in _KEYED:
            return _size_with_keys, 0, True
        # An alias such as `list[…]` looks for names in its parts, and so does a method in its function.
        asked = not is_open or base.__name__ in _ASKING or not looks_up_in_c(kind)
    else:
        asked = not _is_generated(kind, shown)
        is_open = not asked or attribute(kind, "_fields") is not None
    if not is_open or shown is object.__repr__ or id(kind) in _NAMED or issubclass(kind, type):
        return _fixed, asked, False
    if issubclass(kind, int):
        return _digits, asked, False
    size = attribute(kind, "__sizeof__")
    return (size if type(size) is _METHOD_OF_C else object.__sizeof__), asked, True


def _is_generated(kind: type, shown: Any) -> bool:
    """Tell whether dataclasses or attrs made a `__repr__`, and it runs no other code of the host's."""
    function: Any = shown.__dict__.get("__wrapped__", shown) if type(shown) is FUNCTION else None
    if type(function) is not FUNCTION:
        return False
    code = function.__code__
    # Not by a file name like "<string>" alone: so is the code of `python -c`.
    is_made = code.co_qualname[:14] == "__create_fn__." or code.co_filename[:17] == "<attrs generated "
    if not is_made or attribute(kind, "__getattr__") is not None:
        return False
    if not is_in_c(kind, "__getattribute__") or not is_in_c(type(kind), "__getattribute__"):
        return False
    names = code.co_names
    if "getattr" in names:  # attrs, for fields that may be empty
        names += tuple(name for name in code.co_consts if type(name) is str)
    # attrs knows a field's own function as `…_repr`. Else all names are read of the object, which may have properties.
    return len(names) <= _MAX_NAMES and all(
        not str.endswith(name, "_repr")
        and ((found := attribute(kind, name)) is None or type(found) is FUNCTION or is_data(found))
        for name in names
    )


def _fixed(_value: object) -> int:
    return _FIXED_BYTES


def _digits(value: int) -> int:
    return _FIXED_BYTES + (int.bit_length(value) ** 2 >> 12)  # digits cost the square of their number


def _size_with_keys(value: Any) -> int:
    """Return the size of a table, or of one that is viewed; too much if any key is not exactly a text or a number."""
    size = 0
    for table in (value,) if issubclass(type(value), dict) else get_referents(value):
        if issubclass(type(table), dict):
            size += dict.__sizeof__(table)
            if size > _MAX_MEASURED_BYTES or any(
                type(key) is not str and type(key) is not int for key in [*dict.keys(table)]
            ):
                return _MAX_MEASURED_BYTES + 1
    return size


def _parts(value: Any, kind: type) -> Sequence[Any]:
    """Return the objects in a text of `value`, without code of the host's."""
    if issubclass(kind, ImportError):
        return _args(value), _name(value), _path(value)  # its `repr` has all of them from Python 3.15 on
    if issubclass(kind, BaseException):
        return (_args(value),)  # not each of them: the tuple is measured first
    if kind is range:
        return value.start, value.stop, value.step
    if issubclass(kind, Struct):  # without `gc` it tells the collector nothing
        return [stored(value, name) for name in struct_fields(kind)]
    return get_referents(value)
