"""Any value becomes plain JSON data: a bounded snapshot of exact built-ins that nothing else refers to.

Runs in the host, on the capturing thread, for events that are not ordinary (see `ordinary`). One walk, one table: a
value's exact type, else its first base in the table, decides. Where msgspec has a form for a type, the value gets that
form; else its `repr`.

Bounds hold while walking: units (each value visited, each container copied), bytes of text, levels, and calls into the
host's own code. A container is copied before it is read: other threads, and the host's code, may change it at any
moment. Values are judged by their type: an object may lie about its `__class__`. Cut parts are marked in their place.
"""

from __future__ import annotations

from _thread import _local
from itertools import islice
from time import thread_time

from atotelemetry.host.classes import (
    HARMLESS,
    PROXIES,
    UUID,
    Enum,
    attribute,
    deque,
    full_name,
    has,
    is_brief,
    is_in_c,
    mro,
    name_of,
)
from atotelemetry.host.clock import monotonic
from atotelemetry.host.cut import MAX_REPR, clipped, cut_mark, unused, without_surrogates
from atotelemetry.host.debug import debug, is_for_the_host
from atotelemetry.host.kinds import (
    EXACT,
    NotAsked,
    Times,
    described,
    enum_value,
    first_bytes,
    handler,
    utc_moment,
    uuid,
)
from atotelemetry.host.ordinary import ROOM
from atotelemetry.ids import canonical
from atotelemetry.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from atotelemetry.host.kinds import Handler

__all__ = ["Walk"]

# PostHog's parser (serde_json) refuses the whole body beyond 128 levels; the event itself takes a few.
_MAX_DEPTH = 100
# The cost of one event, about 30 ms at most. A value costs one unit, an entry of a dict two, any object four more, a
# container eight more.
_UNITS = 50_000
_OBJECT, _CONTAINER = 4, 8
_SEARCH = 16  # how much it costs to find out about a type that was not met before
_ALWAYS = 16  # values of a container that are visited although nothing is left: beside one that is huge
_ALWAYS_PROPERTIES = 1024
_MAX_BYTES = 1_800_000  # of texts in one event, as JSON; more than the 900 KiB that it may have in the end
_SHORT = 32  # characters; a shorter text is never cut
_MAX_CALLS = 64  # into the host's own code
_MAX_SECONDS = 0.025  # of CPU, after which no call into the host's own code begins
_MAX_WAIT = 0.2  # seconds by the clock, spent in such calls: the host's code may wait for a network
_MAX_INTEGER_BITS = 3400  # a thousand digits; below the interpreter's limit on turning integers into text
_READ_ATTEMPTS = 5

_WALKED = (list, dict, tuple, set, frozenset, deque, int, UUID)  # their `str` is what the walk has
_STR, _REPR = object.__str__, object.__repr__
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1
_INFINITY = float("inf")
_CYCLE, _TOO_DEEP, _TOO_MANY = "<cycle>", "<nested too deeply>", "<too many values>"
_UNREADABLE = "<unreadable>"

_thread = _local()  # `asking`: this thread is inside a call into the host's own code


class Spent(Exception):
    """The event cannot pay for a value."""


class Raised(Exception):
    """The host's code raised something that is no `Exception`, of the type given."""


class Walk:
    """The conversion of one event, and how much it may still cost."""

    __slots__ = ("bytes", "calls", "cut", "ends_at", "kinds", "known", "left", "marks", "open", "room", "wait")

    def __init__(self) -> None:
        self.left = _UNITS
        self.bytes = _MAX_BYTES
        self.room = ROOM  # for the parts that are ordinary
        # A value that captures itself while it is converted would be converted without end.
        self.calls = 0 if getattr(_thread, "asking", False) else _MAX_CALLS
        self.start_clock()
        self.wait = _MAX_WAIT
        self.marks = 0
        self.cut: dict[str, None] = {}
        """The properties in which something was left out."""
        self.open: set[int] = set()  # ids of the values that the walk is inside of
        self.known = EXACT.copy()  # by id, for a look-up by type would run a metaclass's `__hash__`
        self.kinds: list[type] = []  # kept alive, so that an id stays theirs

    def start_clock(self) -> None:
        """Begin to count the time, after which no call into the host's own code begins."""
        self.ends_at = thread_time() + _MAX_SECONDS

    # ---- the parts of an event

    def properties(self, value: object) -> dict[str, Any]:
        """Convert properties or a context to a dict; any other value is kept under a name of ours."""
        try:
            result = self.value(value, 0)
            return result if type(result) is dict else {} if result is None else {"value": result}
        except Exception:
            # Only reached with next to no stack or memory left, so nothing is called here.
            return {_UNREADABLE: _TOO_DEEP}

    def text(self, value: Any) -> str:
        """Return the text of an event name or a distinct_id: `str(value)`, cut.

        A str subclass gives its characters (not what its `__str__` says) and an Enum member its value, as they would be
        as property values; bytes are read as UTF-8.
        """
        try:
            kind = type(value)
            if issubclass(kind, Enum) and not issubclass(kind, str):
                value = enum_value(value)
                kind = type(value)
            if issubclass(kind, str):
                return clipped(value)
            if issubclass(kind, (bytes, bytearray)):
                # Not `str(value)`, which gives "b'…'", and an error under `python -bb`.
                return clipped(first_bytes(value, MAX_REPR * 4)[0].decode("utf-8", "replace"))
            if id(kind) in PROXIES:
                return self.text(self.ask(lambda: value.__sizeof__.__self__))
            in_table = self.handler(kind) is not described
            is_walked = issubclass(kind, _WALKED) or has("__fspath__")(kind)
            if is_walked or (in_table and is_in_c(kind, "__str__") and not is_brief(value)):
                # A few lists that hold each other can spell out more text than there is memory.
                return clipped(str(self.value(value, _MAX_DEPTH - 10)))
            if not in_table and attribute(kind, "__str__") is _STR:
                return self.described(value)
            return clipped(self.ask(str, value))
        except BaseException as error:
            if is_for_the_host(error):
                raise
            return self.described(value)

    def uuid(self, value: Any) -> str | None:
        """Return a UUID, or a text that is one, in its canonical form; None for anything else."""
        kind = type(value)
        try:
            if issubclass(kind, UUID):
                return uuid(value)
            return canonical(str.__getitem__(value, slice(64))) if issubclass(kind, str) else None
        except Exception:
            return None  # a UUID without a number

    def instant(self, value: Any) -> str | None:
        """Return a datetime, a date or an ISO 8601 text as an event's timestamp, in UTC; None for anything else."""
        kind = type(value)
        try:
            if issubclass(kind, str):
                value = Times.datetime.fromisoformat(str.__getitem__(value, slice(64)))
            elif not issubclass(kind, Times.date):
                return None
            return utc_moment(self, value)
        except Exception as error:
            debug("unusable timestamp, taking now: %r", error)
            return None

    # ---- one value

    def value(self, value: Any, depth: int) -> Any:
        """Convert one value that stands `depth` levels below the outermost one."""
        kind = type(value)
        if kind is str:
            return value if len(value) <= _SHORT and value.isascii() else self.clean(value)
        if kind is int:
            return value if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER else self.integer(value)
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if -_INFINITY < value < _INFINITY else None
        if depth > _MAX_DEPTH:
            return _TOO_DEEP
        cost = _OBJECT + (len(mro(kind)) >> 2)  # attributes are looked up along its bases
        if cost > self.left:
            self.marks += 1
            return _TOO_MANY
        self.left -= cost
        this = id(value)
        if this in self.open:
            return _CYCLE
        try:
            self.open.add(this)
            result = self.handler(kind)(self, value, depth)
            if type(result) is str:
                self.left -= min(len(result), MAX_REPR) >> 6  # a description, of which there may be many
            return result
        except Spent:
            self.marks += 1
            return _TOO_MANY
        except RecursionError:
            # The host was deep in its own calls. There may be no room for even one call here.
            return _TOO_DEEP
        except BaseException as error:
            # The value's own code failed, or its metaclass's, or it was gone (a released memoryview): describe it.
            if is_for_the_host(error):
                raise
            return self.described(value)
        finally:
            self.open.discard(this)

    def charge(self, units: int) -> None:
        """Pay for a value before it is looked at. Raises `Spent`."""
        if units > self.left:
            raise Spent
        self.left -= units

    def handler(self, kind: type) -> Handler:
        """Return the converter of a type."""
        found = self.known.get(id(kind))
        if found is None:
            self.left -= _SEARCH + (len(mro(kind)) >> 1)
            found = self.known[id(kind)] = handler(kind)
            self.kinds.append(kind)
        return found

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call into the host's own code, and let out no more than an `Exception`. All such calls are made here."""
        if self.calls <= 0 or self.wait <= 0 or thread_time() > self.ends_at:
            self.marks += 1
            raise NotAsked
        self.calls -= 1
        began = monotonic()
        _thread.asking = True
        try:
            return function(*arguments)
        except BaseException as error:
            if issubclass(type(error), Exception) or is_for_the_host(error):
                raise
            raise Raised(type(error)) from None
        finally:
            _thread.asking = False
            self.wait -= monotonic() - began

    def described(self, value: object) -> str:
        """Return `repr(value)`, cut; if that fails, a text that says so."""
        try:
            kind = type(value)
            name = name_of(kind)
            try:
                if issubclass(kind, (list, dict, set)):
                    # Only one that could not be read, and its `repr` would read it again, all of it.
                    return clipped(f"<{name} object>")
                if attribute(kind, "__repr__") is _REPR:
                    return clipped(f"<{full_name(kind)} object at {id(value):#x}>")
                return clipped(repr(value) if id(kind) in HARMLESS else self.ask(_spelled, value))
            except NotAsked:
                return clipped(f"<{name} object (not asked)>")
            except Exception as error:
                reason = error.args[0] if type(error) is Raised else type(error)
                return clipped(f"<{name} object (repr raised {name_of(reason)})>")
        except Exception:
            return _UNREADABLE  # the end of the stack

    # ---- containers

    def copied(self, iterator: Any, owner: Any, per_value: int = 1) -> list[Any]:
        """Copy as many values of a built-in container as may be visited; each costs `per_value` units."""
        kind = iterator.__objclass__
        # A dict or set that had millions of values still has room for them, and an iterator passes it.
        self.charge(max(0, (kind.__sizeof__(owner) >> 6) - kind.__len__(owner)) >> 6)
        for _ in range(_READ_ATTEMPTS):
            try:
                taken = list(islice(iterator(owner), max(self.left // per_value, _ALWAYS)))
            except RuntimeError:
                continue  # another thread changed its size
            # A copy costs memory while the walk is inside, so a part of the cost is due at once.
            self.left -= len(taken) * (per_value - 1) + (len(taken) >> 3)
            return taken
        raise RuntimeError("changes all the time")

    def steps(self, value: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the entries of a Mapping of the host's. Each is a call, and made plain before the next is read."""
        iterator = self.ask(lambda: iter(value.items()))
        while (entry := self.ask(_step, iterator)) is not None:
            yield entry

    def items(self, taken: Iterable[Any], size: int, depth: int) -> list[Any]:
        """Convert values that were taken of a container of `size` values."""
        self.left -= _CONTAINER
        result: list[Any] = []
        for item in taken:
            self.left -= 1
            if self.left < 0 and len(result) >= _ALWAYS:
                break
            result.append(self.value(item, depth + 1))
        if len(result) < size:
            result.append(self.rest(size - len(result)))
        return result

    def entries(self, taken: Iterable[tuple[Any, Any]], size: int, depth: int) -> dict[str, Any]:
        """Convert keys and values that were taken of a mapping of `size` entries (0: nobody knows)."""
        self.left -= _CONTAINER
        result: dict[str, Any] = {}
        clashes: dict[str, int] = {}
        try:
            for key, item in taken:
                self.left -= 1
                if self.left < 0 and len(result) >= (_ALWAYS if depth else _ALWAYS_PROPERTIES):
                    size = max(size, len(result) + 1)
                    break
                name = self.name(key, result, clashes)
                if depth:
                    result[name] = self.value(item, depth + 1)
                    continue
                # Each property may use half of the rest. So a huge one (or a small one with a million references to
                # itself) leaves enough for those behind it, and together they stay within the whole.
                marks, left = self.marks, self.left
                self.left = left // 2
                result[name] = self.value(item, 1)
                self.left += left - left // 2
                if self.marks != marks:
                    self.cut[name] = None
        except NotAsked:
            if not result:
                raise
            size = len(result) + 1
        if len(result) < size:
            result[unused(_TOO_MANY, result, clashes)] = self.rest(size - len(result))
        return result

    def rest(self, count: int) -> str:
        """Mark that some values were left out."""
        self.marks += 1
        return f"<{count} more>"

    def spelled(self, call: str, arguments: Iterable[Any], keywords: Iterable[tuple[Any, Any]], depth: int) -> str:
        """Return the text of a call that would make the value, like its `repr`, but bounded."""
        self.charge(_CONTAINER)
        parts = [repr(self.value(item, depth + 1)) for item in islice(arguments, _SHORT)]
        parts += [f"{self.key(key)}={self.value(item, depth + 1)!r}" for key, item in islice(keywords, _SHORT)]
        return clipped(f"{call}({', '.join(parts)})")

    # ---- texts

    def clean(self, text: str) -> str:
        """Return the characters of any str, also of a subclass, for JSON, cut to the room left for texts."""
        size = str.__len__(text)
        limit = max(self.bytes // 2, _SHORT)
        given = str.__getitem__(text, slice(limit))
        kept = without_surrogates(given)
        if kept is not given:
            self.left -= min(1 + (size >> 3), _OBJECT)
        if size <= _SHORT:
            return kept
        cost = len(encode(kept))
        is_cut = size > limit
        if cost - 2 > limit:  # escapes, or not ASCII
            kept, cost, is_cut = kept[: len(kept) * limit // cost], limit, True
        self.bytes -= cost
        if is_cut:
            self.marks += 1
            kept += cut_mark(size)
        return kept

    def integer(self, value: int) -> int | str:
        """Return any int, also of a subclass; one beyond 64 bits as text: no reader rounds it."""
        bits = int.bit_length(value)
        self.left -= min(bits, _MAX_INTEGER_BITS) >> 6
        if bits <= _MAX_INTEGER_BITS:
            number = int.__int__(value)
            try:
                return number if _SMALLEST_INTEGER <= number <= _LARGEST_INTEGER else str(number)
            except ValueError:
                pass  # the host has lowered the interpreter's limit
        return f"<integer of {bits} bits>"

    def name(self, key: Any, taken: dict[str, Any], clashes: dict[str, int]) -> str:
        """Return the name of an entry: its key, numbered if `taken` has it already."""
        name = key if type(key) is str and len(key) <= _SHORT and key.isascii() else self.key(key)
        return name if name not in taken else unused(name, taken, clashes)

    def key(self, key: Any) -> str:
        """Return the text of a dict key, as msgspec or else the json module writes it, or else a description."""
        kind = type(key)
        if kind is str:
            return self.clean(key)
        try:
            if issubclass(kind, float):
                number = float.__float__(key)
                finite = -_INFINITY < number < _INFINITY
                return encode(number).decode() if finite else str(number)
            if issubclass(kind, Enum) and not issubclass(kind, (int, str)):
                return self.key(enum_value(key))
            shown = self.value(key, _MAX_DEPTH - 1)
            if issubclass(kind, (tuple, frozenset)) and type(shown) is list:
                shown = ", ".join(map(repr, shown)) + ("," if issubclass(kind, tuple) and len(shown) == 1 else "")
                return clipped(f"({shown})" if issubclass(kind, tuple) else f"frozenset({{{shown}}})")
            if type(shown) is bool or shown is None:
                return encode(shown).decode()
            return str(shown) if type(shown) in (str, int) else self.described(key)
        except Exception:
            return self.described(key)  # the key's own code failed


def _spelled(value: object) -> str:
    """Return the `repr` of a value, unless it is written in C and may be long."""
    kind = type(value)
    return f"<{name_of(kind)} object>" if is_in_c(kind, "__repr__") and not is_brief(value) else repr(value)


def _step(iterator: Iterator[Any]) -> tuple[Any, Any] | None:
    for key, item in iterator:
        return key, item
    return None
