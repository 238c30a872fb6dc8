"""The fast path: copies ordinary values in a few microseconds, or says that they are not ordinary.

Runs in the host, on the thread that captures. msgspec holds borrowed references while it encodes, so it is only ever
given what cannot run Python code and cannot change meanwhile: exact built-ins in containers of our own. Ordinary are
scalars, and lists, tuples and dicts of them, nested a few levels. A container is copied first and checked then. All
together are bounded, so that the encoded event stays below some ten megabytes. Anything else takes the walk in
`values`.
"""

from __future__ import annotations

import marshal
from itertools import chain

from atotelemetry.host.lazy import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["copy_of_ordinary"]

_ROOM = 600_000
"""Characters that one event may hold on the fast path. JSON takes six bytes at most for one."""

_MAX_DEPTH = 12
_MAX_ENTRIES = 256  # of a dict
_MAX_LENGTH = 10_000  # of a list
_FEW = 16  # values that are looked at one by one
_MAX_TEXT = 128  # characters of a text in a long list
_NUMBER, _CONTAINER = 24, 64  # characters that one counts as; the second bounds their number
_MAX_ROWS, _MAX_ROW = 2_000, 8
_ROW = 300  # characters that a row of numbers counts as
_MAX_NAMES = 4_096  # characters of the names in a dict
_MAX_CHECKED = 64
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**63 - 1
_SMALL, _SMALL_NEGATIVE = 2**30 - 1, -(2**30) + 1  # Python compares integers between them faster

_SCALARS = frozenset((str, int, float, bool, type(None))).issuperset
_NUMBERS = frozenset((int, float, bool, type(None))).issuperset
_TEXTS = frozenset((str,)).issuperset
_DICTS = frozenset((dict,)).issuperset
_chain = chain.from_iterable


class _NotOrdinary(Exception):
    """A value that the fast path does not take."""


def copy_of_ordinary(value: Any, room: int = _ROOM, depth: int = 0) -> tuple[Any, int]:
    """Copy an exact dict, list or tuple; also return how many characters of `room` are left, less than 0 for too many.

    Raises an `Exception` if it is not ordinary, and anything that a metaclass of the host's raises.
    """
    copied: Any
    values: Any
    names: Any = None
    if type(value) is dict:
        if len(value) > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise _NotOrdinary
        copied = value.copy()
        names = tuple(copied)
        if names not in _checked_names:
            _check_names(names)
        values = copied.values()
    else:
        if len(value) > _MAX_LENGTH or depth > _MAX_DEPTH:
            raise _NotOrdinary
        copied = values = list(value)
        if len(copied) > _FEW:
            kinds = set(map(type, copied))
            if _SCALARS(kinds) or (_DICTS(kinds) and len(copied) <= _MAX_ROWS):
                return _long_list(copied, kinds, room)
    room -= _CONTAINER
    has_containers = False
    # Most have none, and a loop over values alone is the fastest.
    for item in values:
        kind = type(item)
        if kind is str:
            room -= len(item)
        elif kind is int:
            if (item > _SMALL or item < _SMALL_NEGATIVE) and not _SMALLEST_INTEGER <= item <= _LARGEST_INTEGER:
                raise _NotOrdinary
        elif kind is float or kind is bool or item is None:
            continue
        elif kind is list or kind is dict or kind is tuple:
            has_containers = True
        else:
            raise _NotOrdinary
    if has_containers:
        for name in names or range(len(copied)):
            item = copied[name]
            kind = type(item)
            if kind is list or kind is dict or kind is tuple:
                if room < 0:
                    raise _NotOrdinary
                copied[name], room = copy_of_ordinary(item, room, depth + 1)
    return copied, room


# The names of dicts that were looked at before. A program's events have the same names again and again.
_checked_names: set[tuple[str, ...]] = set()


def _check_names(names: tuple[Any, ...]) -> None:
    """Raise unless all keys of a dict are exact strs, and not long."""
    if not _TEXTS(map(type, names)) or sum(map(len, names)) > _MAX_NAMES:
        raise _NotOrdinary
    if len(_checked_names) >= _MAX_CHECKED:
        _checked_names.clear()
    _checked_names.add(names)


def _long_list(copied: list[Any], kinds: set[type], room: int) -> tuple[list[Any], int]:
    """Check a list of scalars or of small dicts, in a call or two."""
    shapes = _loaded[0] if _loaded else _load_shapes()
    if _DICTS(kinds):
        return _rows(shapes, copied, room)
    of_one = _NUMBER if _NUMBERS(kinds) else _MAX_TEXT
    return shapes.convert((copied,), shapes.Values).values, room - len(copied) * of_one


def _rows(shapes: Any, copied: list[Any], room: int) -> tuple[list[Any], int]:
    # One call checks and copies the dicts.
    try:
        return shapes.convert((copied,), shapes.Numbers).rows, room - len(copied) * _ROW
    except ValueError:
        pass  # there are texts, or floats
    # It makes a float of a Decimal where it is told of floats, so that they are looked at before.
    try:
        rows: list[Any] = shapes.convert((copied,), shapes.Rows).rows
    except ValueError:
        if max(map(len, copied)) > _MAX_ROW or not _SCALARS(map(type, _chain(map(dict.values, copied)))):
            raise
        rows = shapes.convert((copied,), shapes.RowsWithFloats).rows
    # `convert` lets subclasses of str pass, which could run code while they are encoded. `marshal` takes only exact
    # built-ins, and is the fastest way to look at all of them.
    return rows, room - 6 * len(marshal.dumps(rows))


_loaded: list[Any] = []


def _load_shapes() -> Any:
    """Make the types that msgspec checks."""
    _loaded.append(load("atotelemetry.host.shapes"))
    return _loaded[0]
