"""The fast path: copies ordinary values in a microsecond or two, or says that they are not ordinary.

Runs in the host, on the capturing thread. msgspec holds borrowed references while it encodes. So it is only given exact
built-ins, which run no Python code, in containers of our own, which nobody can change. Ordinary are scalars, and lists,
tuples and dicts of them, nested a few levels. A container is copied first and checked then. The sizes of all are
bounded together: an encoded event stays below six megabytes. Anything else takes the walk in `values`.
"""

from __future__ import annotations

from _operator import countOf
from gc import get_referents

from atotelemetry.host.clock import utc_text
from atotelemetry.host.lazy import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.ids import Uuid7

__all__ = ["ROOM", "copy_of_ordinary", "has_few_names", "line_maker"]

ROOM = 1_000_000
"""Characters that one event may hold on the fast path. JSON takes six bytes at most for one."""

_MAX_DEPTH = 12
_MAX_LENGTH = 10_000  # of a list
_FEW = 16  # values that are looked at one by one
_MAX_TEXT = 80  # characters of a text in a long list
_MAX_NAME = 40  # characters of a name in a dict in such a list
_NUMBER, _CONTAINER = 24, 64  # characters that one counts as; the second bounds their number
_MAX_NAMES = 4_096  # characters of the names in a dict
_MAX_CHECKED = 64
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**63 - 1
_SMALL, _SMALL_NEGATIVE = 2**30 - 1, -(2**30) + 1  # Python compares integers between them faster

# The end of a timestamp. Made with the module: a signal may come in the middle of a loop, and its handler may capture.
_MICROSECONDS = [tens + ones for tens in map("{:02d}".format, range(100)) for ones in map("{}Z".format, range(10))]

_NUMBERS = frozenset((int, float, bool, type(None))).issuperset
_SCALARS = frozenset((str, int, float, bool, type(None))).issuperset
_TEXTS = frozenset((str,)).issuperset


class _NotOrdinary(Exception):
    """A value that the fast path does not take."""


def line_maker(
    wire: Any, new_uuid: Uuid7, now_ns: Callable[[], int]
) -> Callable[[str, str, dict[Any, Any]], tuple[str, bytes]]:
    """Return a function that makes an event's uuid and line. It raises as `copy_of_ordinary` does."""
    # A closure with a loop of its own: a call or a few look-ups of attributes would cost a twentieth of the whole.
    encode, event_of, most_bytes = wire.encode, wire.OutgoingEvent, wire.MAX_EVENT_BYTES
    tail = new_uuid.tail
    # The uuid and the timestamp up to a millisecond. Replaced as a whole: other threads are here, too.
    made: tuple[int | None, str, str] = (None, "", "")
    checked: tuple[str, ...] = ()  # the names of the last event: a comparison is faster than a look-up

    def line(event: str, distinct_id: str, properties: dict[Any, Any]) -> tuple[str, bytes]:
        nonlocal checked, made
        if properties.__sizeof__() > _MAX_DICT_BYTES:
            raise _NotOrdinary
        known = properties.copy()
        names = tuple(known)
        if known.__sizeof__() not in _SIZES_WITH_TEXT_KEYS or (names != checked and names not in _checked_names):
            _check_names(names)
        checked = names
        room = ROOM
        has_containers = False
        for item in known.values():
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
            room = _copy_containers(known, names, room, 0)
        if room < 0:
            raise _NotOrdinary
        now = now_ns() // 1000
        tick = now // 1000
        last, beginning, instant = made
        if tick != last:
            beginning, instant = new_uuid.beginning(tick), f"{utc_text(tick // 1000)}.{tick % 1000:03d}"
            made = (tick, beginning, instant)
        name = f"{beginning}{tail()}"
        line = encode(event_of(name, event, distinct_id, instant + _MICROSECONDS[now % 1000], known))
        if len(line) > most_bytes:
            raise _NotOrdinary
        return name, line

    return line


def copy_of_ordinary(value: Any, room: int = ROOM, depth: int = 0) -> tuple[Any, int]:
    """Copy an exact dict, list or tuple; return how many characters of `room` are left, too (below 0: too many).

    Raises an `Exception` for anything that is not ordinary, and whatever a metaclass of the host's raises.
    """
    copied: Any
    values: Any
    names: Any
    if depth > _MAX_DEPTH:
        raise _NotOrdinary
    if type(value) is dict:
        if value.__sizeof__() > _MAX_DICT_BYTES:
            raise _NotOrdinary
        copied = value.copy()
        names = tuple(copied)
        if copied.__sizeof__() not in _SIZES_WITH_TEXT_KEYS or names not in _checked_names:
            _check_names(names)
        values = copied.values()
    else:
        if len(value) > _MAX_LENGTH:
            raise _NotOrdinary
        copied = values = list(value)
        if len(copied) > _FEW:
            try:
                return _copy_many(copied, room)
            except Exception:
                room -= _CONTAINER  # there are long texts or containers: one by one
        names = range(len(copied))
    room -= _CONTAINER + len(copied) * _NUMBER
    has_containers = False
    for item in values:
        kind = type(item)
        if kind is str:
            room -= len(item)
        elif kind is int:
            if not _SMALLEST_INTEGER <= item <= _LARGEST_INTEGER:
                raise _NotOrdinary
        elif kind is float or kind is bool or item is None:
            continue
        elif kind is list or kind is dict or kind is tuple:
            has_containers = True
        else:
            raise _NotOrdinary
    return copied, _copy_containers(copied, names, room, depth) if has_containers else room


def _copy_containers(copied: Any, names: Any, room: int, depth: int) -> int:
    """Replace the containers among the values by copies; return how much room is left."""
    for name in names:
        item = copied[name]
        kind = type(item)
        if kind is list or kind is dict or kind is tuple:
            if room < 0:
                raise _NotOrdinary
            copied[name], room = copy_of_ordinary(item, room, depth + 1)
    return room


def _copy_many(values: list[Any], room: int) -> tuple[list[Any], int]:
    """Check a list of short scalars, or copy a list of small dicts of them; return the room left, too.

    Raises an `Exception` for any other list.
    """
    # In a few calls in C. A loop would take several times as long.
    names: Any = ()
    copied: Any = values
    scalars = values
    if type(values[0]) is dict:
        copied = [row.copy() for row in values if type(row) is dict and row.__sizeof__() <= _MAX_ROW_BYTES]
        # The values of all. CPython also visits the keys of a dict, unless all of them are exact strs
        # (`dict_traverse` in Objects/dictobject.c). So the keys are exact scalars, too, once these are.
        scalars = get_referents(*copied)
        room -= len(copied) * _NUMBER + len(scalars) * _MAX_NAME
    kind = type(scalars[0])
    # Mostly all are of one type, and counting is fastest. Else the search ends at the first type of the host's: its
    # metaclass may have a `__hash__`.
    is_uniform = type(scalars[-1]) is kind and countOf(map(type, scalars), kind) == len(scalars)
    if _NUMBERS((kind,) if is_uniform else map(type, scalars)):
        room -= len(scalars) * _NUMBER
    elif _SCALARS((kind,) if is_uniform else map(type, scalars)):
        room -= len(scalars) * _MAX_TEXT
    else:
        raise _NotOrdinary
    if room < 0 or len(copied) != len(values):
        raise _NotOrdinary
    if copied is not values:
        names = set().union(*copied)
    convert, shape = _made or _make_shape()
    convert((scalars, names), shape)
    return copied, room


# The names of dicts that were checked before: a program's events have the same names again and again.
_checked_names: set[tuple[str, ...]] = set()


def _check_names(names: tuple[Any, ...]) -> None:
    """Raise unless all keys of a dict are exact strs, and not long."""
    if not _TEXTS(map(type, names)) or sum(map(len, names)) > _MAX_NAMES:
        raise _NotOrdinary
    if len(_checked_names) >= _MAX_CHECKED:
        _checked_names.clear()
    _checked_names.add(names)


def has_few_names(value: object) -> bool:
    """Whether this is a dict of moderate size with exact strs as keys, so that it can be copied and merged at once."""
    return type(value) is dict and value.__sizeof__() in _SIZES_WITH_TEXT_KEYS


def _sizes(key: Callable[[int], object], count: int) -> frozenset[int]:
    """Return the sizes in bytes of dicts with up to `count` such keys."""
    growing: dict[object, None] = {}
    found = {growing.__sizeof__()}
    for number in range(count):
        growing[key(number)] = None
        found.add(growing.__sizeof__())
    return frozenset(found)


# A look-up compares keys, and a key of the host's may do anything then. So they must be known to be exact strs before.
# CPython's dict tells in one step: its table has smaller entries as long as it never had any other key
# (`dictkeys_get_index` and `DK_ENTRY_SIZE` in Objects/dictobject.c). The size of a dict also tells of the room of many
# entries that are gone, through which a copy has to look.
_SIZES_WITH_TEXT_KEYS = _sizes(str, 256) - _sizes(int, 256)
_MAX_DICT_BYTES, _MAX_ROW_BYTES = max(_SIZES_WITH_TEXT_KEYS), max(_sizes(str, 16))

_made: tuple[Any, ...] = ()


def _make_shape() -> tuple[Any, ...]:
    """Make the type by which msgspec checks the lengths of texts and the sizes of integers, in one call."""
    global _made  # noqa: PLW0603 - made at first use: most programs have no long lists
    msgspec, typing = load("msgspec"), load("typing")
    text = typing.Annotated[str, msgspec.Meta(max_length=_MAX_TEXT)]
    integer = typing.Annotated[int, msgspec.Meta(ge=_SMALLEST_INTEGER, le=_LARGEST_INTEGER)]
    name = typing.Annotated[str, msgspec.Meta(max_length=_MAX_NAME)]
    # A Struct, because msgspec remembers how to check one; an array, because the values come in a tuple.
    fields = [("values", typing.List[text | integer | float | bool | None]), ("names", typing.List[name])]
    _made = (msgspec.convert, msgspec.defstruct("Values", fields, array_like=True, gc=False))
    return _made
