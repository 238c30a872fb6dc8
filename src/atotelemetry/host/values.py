"""The slow path of `capture`: any value becomes plain JSON data, whatever it is and whatever it does.

Runs in the host, on the thread that captures, and only for an event that `msgspec` refused as it stood. The walk
follows msgspec's rules wherever it has one (leaves are even converted by it), so that one odd value does not change how
its neighbours look; whatever has no JSON form becomes its `repr`. Three bounds keep a hostile value harmless: levels,
number of values (shared between properties so that a huge one starves nobody), and the set of open containers, which
finds cycles. A value is judged by its class, never by what it answers itself: a mock answers yes to every question.
`cut_to_fit` then brings an event that is too large under the limit.
"""

from __future__ import annotations

import sys
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    Converter: TypeAlias = Callable[["_Walk", Any, int], Any]

__all__ = ["CUT_PROPERTY", "cut_to_fit", "plain", "plain_text"]

CUT_PROPERTY = "$atotelemetry_cut"
"""The property in which `cut_to_fit` lists what it cut."""

# PostHog parses with serde_json, which refuses the whole body beyond 128 levels; the event itself takes a few of them.
_MAX_DEPTH = 100
# Values below the properties of one event. 900 KiB hold more of the smallest ones, but nobody reads so many, and the
# host waits for the walk.
_MAX_VALUES = 100_000
_MAX_REPR = 1024
_MAX_ARRAY = 10_000
# Beyond about a thousand digits a number is no longer read but described; this also stays clear of the interpreter's
# limit on turning integers into text.
_MAX_INTEGER_BITS = 3400
_READ_ATTEMPTS = 20

_SMALLEST_INTEGER = -(2**63)
_LARGEST_INTEGER = 2**64 - 1
_INFINITY = float("inf")

_CYCLE = "<cycle>"
_TOO_DEEP = "<nested too deeply>"
_TOO_MANY = "<too many values>"
_UNREADABLE = "<unreadable>"


def plain(value: object) -> Any:
    """Return `value` as new, exact builtins that any JSON encoder takes.

    What comes back consists only of dict (with exact str keys), list, str without lone surrogates, int within 64 bits,
    finite float, bool and None. A dict always gives a dict. Values that msgspec encodes by itself look as msgspec would
    have them; anything else with an obvious JSON form gets that, and the rest its `repr`, cut to 1024 characters.

    Other threads may change the containers meanwhile. Never raises an `Exception`; KeyboardInterrupt and SystemExit are
    the host's and pass through.
    """
    try:
        walk = _Walk()
        # Not `isinstance`, which believes what an object says about its own class.
        if issubclass(type(value), dict):
            return walk.properties(value)  # type: ignore[arg-type]
        return walk.value(value, 0)
    except Exception:
        # Only reached with next to no stack or memory left, so nothing is called here.
        return {_UNREADABLE: _TOO_DEEP} if issubclass(type(value), dict) else _UNREADABLE


def plain_text(value: object, limit: int = _MAX_REPR) -> str:
    """Return the text of an event name or a distinct_id: `str(value)`, at most `limit` characters, no lone surrogates.

    A str subclass gives its characters (not what its `__str__` says) and an Enum member its value, as they would be
    encoded as property values; bytes are read as UTF-8. Never raises an `Exception`.
    """
    try:
        return _cut_text(_without_surrogates(_text(value)), limit)
    except Exception:
        return _UNREADABLE


def cut_to_fit(properties: dict[str, Any], limit_bytes: int, encode: Callable[[Any], bytes]) -> dict[str, Any]:
    """Return a copy of `properties` whose encoding is no longer than `limit_bytes`.

    `properties` are plain already and `encode` is what will encode them. The longest values are cut first: a string
    keeps its beginning and says how long it was, a container becomes a text that says how large it was. Where that does
    not suffice, as with a hundred thousand small properties, the last ones are left out. The property named
    `CUT_PROPERTY` lists what was cut. Never raises an `Exception`.
    """
    try:
        return _cut_to_fit(properties, limit_bytes, encode)
    except Exception:
        return {}


# --- The walk -----------------------------------------------------------------------------------------------------


class _Walk:
    """One conversion: how many values it may still visit, and which containers it is inside of."""

    __slots__ = ("left", "open", "types")

    def __init__(self) -> None:
        self.left = _MAX_VALUES
        self.open: set[int] = set()
        self.types = _known_types()

    def properties(self, properties: dict[Any, Any]) -> dict[str, Any]:
        """Convert the outermost dict, whose values share the allowance.

        Each may use half of what is left: one that is huge (or small, but refers to itself a million times over) still
        leaves enough for those after it, and together they cannot exceed the whole.
        """
        pairs, more = self.read(dict.items(properties), _MAX_VALUES)
        self.open.add(id(properties))
        left = _MAX_VALUES
        result: dict[str, Any] = {}
        clashes: dict[str, int] = {}
        for key, value in pairs:
            self.left = share = left // 2
            name = key if type(key) is str and key.isascii() else _key(self, key)
            if name in result:
                name = _unused(name, result, clashes)
            result[name] = self.value(value, 1)
            left -= share - self.left
        if more:
            result[_unused(_TOO_MANY, result, clashes)] = _count_more(properties, len(pairs))
        return result

    def value(self, value: Any, depth: int) -> Any:
        """Convert one value that stands `depth` levels below the outermost one."""
        kind = type(value)
        if kind is str:
            return value if value.isascii() else _without_surrogates(value)
        if kind is int:
            return value if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER else _large_integer(value)
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if -_INFINITY < value < _INFINITY else None
        if depth > _MAX_DEPTH:
            return _TOO_DEEP
        try:
            convert = self.types.exact.get(kind) or _converter_for(kind, self.types)
            return convert(self, value, depth)
        except RecursionError:
            # The host was deep in its own calls. There may be no room for even one call here.
            return _TOO_DEEP
        except Exception:
            # The value's own code failed, or the value was gone (a released memoryview): say what it is instead.
            try:
                return _described(value)
            except Exception:
                return _UNREADABLE

    def read(self, values: Iterable[Any], limit: int) -> tuple[list[Any], bool]:
        """Take up to `limit` values at once; also say whether there were more.

        Taken before any is looked at, because looking runs other code and lets other threads change the container. A
        change in the middle of the taking itself shows as RuntimeError: then again, from the start.
        """
        attempt = 1
        while True:
            try:
                taken = list(islice(values, limit + 1))
            except RecursionError:
                raise
            except RuntimeError:
                if attempt == _READ_ATTEMPTS:
                    raise
                attempt += 1
                continue
            if len(taken) > limit:
                del taken[limit:]
                return taken, True
            return taken, False

    def items(self, owner: object, values: Iterable[Any], depth: int) -> list[Any] | str:
        """Convert the values of the container `owner` to a list."""
        if id(owner) in self.open:
            return _CYCLE
        taken, more = self.read(values, self.left)
        if more and not taken:
            return _TOO_MANY
        self.left -= len(taken)
        self.open.add(id(owner))
        try:
            result = [self.value(item, depth + 1) for item in taken]
        finally:
            self.open.discard(id(owner))
        if more:
            result.append(_count_more(owner, len(taken)))
        return result

    def entries(self, owner: object, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any] | str:
        """Convert the keys and values of the mapping or object `owner` to a dict."""
        if id(owner) in self.open:
            return _CYCLE
        taken, more = self.read(pairs, self.left)
        if more and not taken:
            return _TOO_MANY
        self.left -= len(taken)
        self.open.add(id(owner))
        result: dict[str, Any] = {}
        clashes: dict[str, int] = {}
        try:
            for key, item in taken:
                name = key if type(key) is str and key.isascii() else _key(self, key)
                if name in result:
                    name = _unused(name, result, clashes)
                result[name] = self.value(item, depth + 1)
        finally:
            self.open.discard(id(owner))
        if more:
            result[_unused(_TOO_MANY, result, clashes)] = _count_more(owner, len(taken))
        return result

    def inside(self, owner: object, value: Any, depth: int) -> Any:
        """Convert what `owner` gave for itself, which may hold `owner` again."""
        if id(owner) in self.open:
            return _CYCLE
        self.open.add(id(owner))
        try:
            return self.value(value, depth + 1)
        finally:
            self.open.discard(id(owner))


def _count_more(owner: object, taken: int) -> str:
    """Say how many values of `owner` were left out."""
    try:
        return f"<{len(owner) - taken} more>"  # type: ignore[arg-type]  # what has no length has no number to tell
    except Exception:
        return _TOO_MANY


# --- Keys ---------------------------------------------------------------------------------------------------------


def _key(walk: _Walk, key: Any) -> str:
    """Return the text of a dict key: as msgspec or else the json module writes it, or else what describes it."""
    kind = type(key)
    if kind is str:
        return _without_surrogates(key)
    if key is None:
        return "null"
    if kind is bool:
        return "true" if key else "false"
    try:
        if issubclass(kind, float):
            number = float.__float__(key)
            finite = -_INFINITY < number < _INFINITY
            return walk.types.encode(number).decode() if finite else str(number)
        if issubclass(kind, walk.types.enum) and not issubclass(kind, (int, str)):
            return _key(walk, key._value_)
        text = walk.value(key, _MAX_DEPTH)
        if type(text) is bool or text is None:
            return _key(walk, text)
        # A tuple, for instance, has no text of its own.
        return str(text) if type(text) in (str, int) else _described(key)
    except Exception:
        return _described(key)  # the key's own code failed


def _unused(name: str, taken: dict[str, Any], clashes: dict[str, int]) -> str:
    """Return `name`, numbered if `taken` has it (1 and "1" are two keys, but one name)."""
    candidate = name
    while candidate in taken:
        # Counted per name, or a million equal names would be searched a million times over.
        clashes[name] = number = clashes.get(name, 1) + 1
        candidate = f"{name} ({number})"
    return candidate


# --- Text ---------------------------------------------------------------------------------------------------------


def _without_surrogates(text: str) -> str:
    """Return `text` such that it can be UTF-8: surrogate pairs become their character, lone ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _cut_text(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _large_integer(value: int) -> str:
    """Return the digits of an integer that does not fit into 64 bits: as text, no reader rounds it."""
    bits = value.bit_length()
    return str(value) if bits <= _MAX_INTEGER_BITS else f"<integer of {bits} bits>"


def _described(value: object) -> str:
    """Return `repr(value)`, cut; for a value whose `repr` fails, a text that says so."""
    if issubclass(type(value), (list, dict, set)):
        # Only one that could not be read, and its `repr` would read it again, all of it.
        return _without_surrogates(f"<{_class_name(type(value))} object>")
    try:
        # `str.__str__` makes an exact str of a subclass, whose methods could be anything.
        text = str.__str__(repr(value))
    except Exception as error:
        return _without_surrogates(f"<{_class_name(type(value))} object (repr raised {_class_name(type(error))})>")
    return _without_surrogates(_cut_text(text, _MAX_REPR))


def _class_name(kind: type) -> str:
    # Past a metaclass that defines its own `__name__`.
    return str(type.__dict__["__name__"].__get__(kind))


def _text(value: object) -> str:
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]  # the line above says so
    try:
        enum = sys.modules.get("enum")
        if enum is not None and issubclass(kind, enum.Enum) and not issubclass(kind, str):
            value = value._value_  # type: ignore[attr-defined]  # every Enum member has it
            kind = type(value)
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, (bytes, bytearray)):
            # Not `str(value)`, which gives "b'…'", and an error under `python -bb`.
            return str(memoryview(value), "utf-8", "replace")  # type: ignore[arg-type]
        if issubclass(kind, (list, dict, tuple, set, frozenset)):
            # A few lists that hold each other can spell out more text than there is memory.
            value = plain(value)
        return str.__str__(str(value))
    except Exception:
        return _described(value)


# --- Types and what becomes of them -------------------------------------------------------------------------------


class _KnownTypes:
    """The types to recognise, looked up at first use: naming them earlier would import their modules into the CLI.

    All of these modules are loaded once msgspec is, so nothing is imported here that was not there before.
    """

    __slots__ = (
        "builtin",
        "date",
        "datetime",
        "decimal",
        "decode",
        "encode",
        "enum",
        "exact",
        "families",
        "late_families",
        "mapping",
        "path",
        "time",
        "timedelta",
        "unset",
    )

    def __init__(self) -> None:
        import datetime as dt
        import enum
        import os
        from collections import deque
        from collections.abc import Mapping
        from decimal import Decimal
        from uuid import UUID

        import msgspec

        self.encode: Callable[[Any], bytes] = msgspec.json.encode
        self.decode: Callable[[Any], Any] = msgspec.json.decode
        self.builtin: Callable[[Any], Any] = msgspec.to_builtins
        self.unset: object = msgspec.UNSET
        self.enum = enum.Enum
        self.datetime, self.date, self.time = dt.datetime, dt.date, dt.time
        self.timedelta = dt.timedelta
        self.decimal = Decimal
        self.mapping: type = Mapping
        self.path: type = os.PathLike
        self.exact: dict[type, Converter] = {
            dict: _dict,
            list: _list,
            tuple: _tuple,
            set: _set,
            frozenset: _set,
            deque: _iterable,
            range: _iterable,
            type({}.keys()): _iterable,
            type({}.values()): _iterable,
            type({}.items()): _iterable,
            bytes: _leaf,
            bytearray: _leaf,
            memoryview: _memoryview,
            dt.datetime: _leaf,
            dt.date: _leaf,
            dt.time: _leaf,
            dt.timedelta: _leaf,
            UUID: _leaf,
            Decimal: _leaf,
            type: _type_name,
            msgspec.Raw: _raw,
        }
        # In msgspec's order, which decides what a class with several of these bases is.
        self.families: tuple[tuple[type, Converter], ...] = (
            (type, _type_name),
            (list, _list),
            (dict, _dict),
            (msgspec.Struct, _struct),
            (tuple, _tuple),
            (enum.Enum, _enum),
            (UUID, _leaf),
            (set, _set),
            (frozenset, _set),
        )
        # After dataclasses and attrs classes: those may have one of these as a base, and are their fields even so.
        self.late_families: tuple[tuple[type, Converter], ...] = (
            (str, _text_subclass),
            (int, _integer_subclass),
            (float, _float_subclass),
            (bytes, _bytes_subclass),
            (bytearray, _bytes_subclass),
            (dt.datetime, _datetime_subclass),
            (dt.date, _date_subclass),
            (dt.time, _time_subclass),
            (dt.timedelta, _timedelta_subclass),
            (Decimal, _decimal_subclass),
            (deque, _iterable),
        )


_known: list[_KnownTypes] = []


def _known_types() -> _KnownTypes:
    # Two threads may both build it at the start; one is kept and the other does no harm.
    if not _known:
        _known.append(_KnownTypes())
    return _known[0]


def _converter_for(kind: type, types: _KnownTypes) -> Converter:
    """Return how to convert a value of class `kind`, for a class that is not in the table itself."""
    # A MagicMock's class has `__fspath__` and the like: a mock is a mock, whatever it can imitate.
    mock = _loaded("unittest.mock", "NonCallableMock")
    if mock is not None and issubclass(kind, mock):
        return _repr
    for base, convert in types.families:
        if issubclass(kind, base):
            return convert
    if _class_attribute(kind, "__dataclass_fields__") is not None:
        return _dataclass
    if _class_attribute(kind, "__attrs_attrs__") is not None:
        return _attrs
    for base, convert in types.late_families:
        if issubclass(kind, base):
            return convert
    # What is not loaded cannot have made the value, so these are looked up and never imported.
    scalar, array = _loaded("numpy", "generic"), _loaded("numpy", "ndarray")
    if scalar is not None and issubclass(kind, scalar):
        return _numpy_scalar
    if array is not None and issubclass(kind, array):
        return _numpy_array
    # By its attributes: asking the pydantic package for BaseModel can set off the import of half of pydantic.
    if _class_attribute(kind, "__pydantic_validator__") is not None and _class_attribute(kind, "model_dump"):
        return _pydantic
    if issubclass(kind, types.path):
        return _path
    if issubclass(kind, types.mapping):
        return _mapping
    return _repr


def _loaded(module: str, name: str) -> type | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _class_attribute(kind: type, name: str) -> Any:
    """Return what `kind` or a base defines as `name`, without running a descriptor or a metaclass's `__getattr__`."""
    for base in kind.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def _repr(_walk: _Walk, value: Any, _depth: int) -> Any:
    return _described(value)


def _leaf(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(value)


# Containers are read with the base class's methods: a subclass's own may do anything, and msgspec ignores them too.


def _list(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.items(value, list.__iter__(value), depth)


def _tuple(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.items(value, tuple.__iter__(value), depth)


def _set(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.items(value, _SetItems(value), depth)


class _SetItems:
    """The items of a set, from the start each time: another thread may have added one while they were read."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __iter__(self) -> Any:
        return set.__iter__(self.owner) if issubclass(type(self.owner), set) else frozenset.__iter__(self.owner)


def _dict(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.entries(value, dict.items(value), depth)


def _iterable(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.items(value, value, depth)


def _mapping(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.entries(value, value.items(), depth)


def _memoryview(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(value if value.c_contiguous else value.tobytes())


def _raw(walk: _Walk, value: Any, depth: int) -> Any:
    # JSON that somebody made earlier. Read, not copied: it could hold a line break, which would end our line.
    return walk.inside(value, walk.types.decode(value), depth)


def _type_name(_walk: _Walk, value: Any, _depth: int) -> Any:
    module, name = value.__module__, value.__qualname__
    if type(module) is not str or type(name) is not str:
        return _described(value)
    return _without_surrogates(_cut_text(name if module == "builtins" else f"{module}.{name}", _MAX_REPR))


def _enum(walk: _Walk, value: Any, depth: int) -> Any:
    if isinstance(value, int):
        return walk.value(int.__int__(value), depth)
    if isinstance(value, str):
        return walk.value(str.__str__(value), depth)
    inner = value._value_
    if type(inner) is object:
        # A mere placeholder, whose address says nothing; the member's name does.
        return _without_surrogates(f"{_class_name(type(value))}.{value._name_}")
    return walk.inside(value, inner, depth)


def _struct(walk: _Walk, value: Any, depth: int) -> Any:
    kind, unset = type(value), walk.types.unset
    config = kind.__struct_config__
    # A field can be deleted; it then counts as one that was never set.
    fields = [getattr(value, name, unset) for name in kind.__struct_fields__]
    if config.array_like:
        values = [None if item is unset else item for item in fields]
        return walk.items(value, [config.tag, *values] if config.tag is not None else values, depth)
    pairs: list[tuple[str, Any]] = [(config.tag_field, config.tag)] if config.tag is not None else []
    # Defaults belong to the last fields.
    defaults = kind.__struct_defaults__ if config.omit_defaults else ()
    checked_from = len(fields) - len(defaults)
    for position, (name, item) in enumerate(zip(kind.__struct_encode_fields__, fields, strict=True)):
        if item is unset or (position >= checked_from and _is_default(item, defaults[position - checked_from])):
            continue
        pairs.append((name, item))
    return walk.entries(value, pairs, depth)


def _is_default(item: Any, default: Any) -> bool:
    # msgspec's own rule: the same object, or an empty list, dict or set where the default makes one.
    return item is default or (type(item) in (list, dict, set) and not item and _factory_of(default) is type(item))


def _factory_of(default: Any) -> Any:
    return getattr(default, "factory", None)


def _dataclass(walk: _Walk, value: Any, depth: int) -> Any:
    kind, unset = type(value), walk.types.unset
    fields = _class_attribute(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return _described(value)
    own = _instance_dict(value)
    # As msgspec has it: a field without a value of its own is left out, even where its class has a default for it.
    computed = _class_attribute(kind, "__getattr__") is not None or (
        _class_attribute(kind, "__getattribute__") is not _class_attribute(object, "__getattribute__")
    )
    pairs = []
    for name in fields:
        item = unset
        if name in own and not computed:
            item = own[name]
        elif computed or hasattr(type(_class_attribute(kind, name)), "__set__"):
            try:
                item = getattr(value, name)
            except Exception:
                item = unset  # an empty slot, or a property that failed: nothing to show
        if item is not unset:
            pairs.append((name, item))
    return walk.entries(value, pairs, depth)


def _attrs(walk: _Walk, value: Any, depth: int) -> Any:
    # As msgspec has it: everything public in `__dict__`, declared or not, then the public slots that are filled.
    unset = walk.types.unset
    pairs = list(_instance_dict(value).items())
    member = type(_Walk.__dict__["left"])
    base: type | None = type(value)
    while base is not None:
        for name, slot in base.__dict__.items():
            if type(slot) is member:
                try:
                    pairs.append((name, slot.__get__(value)))
                except AttributeError:
                    continue
        base = base.__base__
    public = [(name, item) for name, item in pairs if type(name) is str and name[:1] != "_" and item is not unset]
    return walk.entries(value, public, depth)


def _instance_dict(value: object) -> dict[Any, Any]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return dict(own) if type(own) is dict else {}


def _text_subclass(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.value(str.__str__(value), depth)


def _integer_subclass(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.value(int.__int__(value), depth)


def _float_subclass(walk: _Walk, value: Any, depth: int) -> Any:
    return walk.value(float.__float__(value), depth)


def _bytes_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(memoryview(value))


def _datetime_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    moment = walk.types.datetime.combine(
        walk.types.date(value.year, value.month, value.day),
        walk.types.time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold),
    )
    return walk.types.builtin(moment)


def _date_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(walk.types.date(value.year, value.month, value.day))


def _time_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    time = walk.types.time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
    return walk.types.builtin(time)


def _timedelta_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(walk.types.timedelta(value.days, value.seconds, value.microseconds))


def _decimal_subclass(walk: _Walk, value: Any, _depth: int) -> Any:
    return walk.types.builtin(walk.types.decimal(value))


def _numpy_scalar(walk: _Walk, value: Any, depth: int) -> Any:
    if value.dtype.kind in "mM":
        # `item` gives nanoseconds as a bare number; the text is ISO 8601, or "5 days".
        text = str(value)
        return None if text == "NaT" else text
    item = value.item()
    if type(item) is not type(value):
        return walk.value(item, depth + 1)
    # There is no Python number as wide as a long double, so `item` gives it back as it was.
    return walk.value(float(value), depth + 1) if value.dtype.kind == "f" else _described(value)


def _numpy_array(walk: _Walk, value: Any, depth: int) -> Any:
    if value.size > min(_MAX_ARRAY, walk.left):
        return _described(value)
    items = value.astype(str) if value.dtype.kind in "mM" else value
    return walk.inside(value, items.tolist(), depth)


def _pydantic(walk: _Walk, value: Any, depth: int) -> Any:
    # Its warnings, about values that are not of the declared type, would go to the host's stderr.
    return walk.inside(value, value.model_dump(warnings=False), depth)


def _path(_walk: _Walk, value: Any, _depth: int) -> Any:
    import os  # loaded in any interpreter

    return _without_surrogates(str.__str__(os.fsdecode(value)))


# --- Cutting to a size --------------------------------------------------------------------------------------------

# Of a string that is cut, this much is kept if possible, and if that is not enough, this much.
_KEPT_BYTES = (1024, 64)
_NOTE_BYTES = 4096
_CUT_STEP = 65_536


def _cut_to_fit(properties: dict[str, Any], limit_bytes: int, encode: Callable[[Any], bytes]) -> dict[str, Any]:
    originals = _with_short_names(properties)
    result = dict(originals)
    name_bytes = {name: len(encode(name)) + 2 for name in result}  # with its colon and comma
    value_bytes = {name: len(encode(value)) for name, value in result.items()}
    total = 1 + sum(name_bytes.values()) + sum(value_bytes.values())
    # The sum is exact for an encoder that writes no spaces. What exceeds it by far is not encoded whole to find out.
    if total <= limit_bytes and len(encode(properties)) <= limit_bytes:
        return dict(properties)
    note_bytes = min(_NOTE_BYTES, limit_bytes // 4)
    room = limit_bytes - note_bytes
    cut: dict[str, None] = {name: None for name in result if name not in properties}
    for kept in _KEPT_BYTES:
        for name in sorted(value_bytes, key=value_bytes.__getitem__, reverse=True):
            size = value_bytes[name]
            if total <= room or size <= kept:
                break
            shorter = _cut_value(originals[name], max(kept, size - (total - room)), encode)
            shorter_size = len(encode(shorter))
            if shorter_size < size:
                result[name] = shorter
                value_bytes[name] = shorter_size
                total -= size - shorter_size
                cut[name] = None
    dropped = 0
    while total > room and result:
        name, _ = result.popitem()
        total -= name_bytes[name] + value_bytes[name]
        cut.pop(name, None)
        dropped += 1
    result.pop(CUT_PROPERTY, None)
    note = _note(list(cut), dropped, note_bytes, encode)
    if note:
        result[CUT_PROPERTY] = note
    # An encoder that does write spaces costs a few more properties.
    while result and len(encode(result)) > limit_bytes:
        for _ in range(len(result) // 8 + 1):
            result.popitem()
    return result


def _cut_value(value: Any, target_bytes: int, encode: Callable[[Any], bytes]) -> str:
    """Return what stands for `value`, in about `target_bytes` if it is a string and can keep its beginning."""
    if not isinstance(value, str):
        return f"[cut: {len(encode(value))} bytes]"
    mark = f"… [cut: {len(value)} characters]"
    return _beginning(value, target_bytes - len(encode(mark)), encode) + mark


def _beginning(text: str, limit_bytes: int, encode: Callable[[Any], bytes]) -> str:
    """Return as much of `text` as its encoding, without the quotes, has within `limit_bytes`."""
    # In large steps while they fit, then in ever smaller ones: each character is encoded a few times at most, however
    # many bytes the ones before or after it take.
    kept, step = 0, _CUT_STEP
    while step and kept < len(text):
        size = len(encode(text[kept : kept + step])) - 2
        if size <= limit_bytes:
            limit_bytes -= size
            kept += step
        else:
            step //= 2
    return text[:kept]


def _with_short_names(properties: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which no name is so long that it would not fit itself."""
    result: dict[str, Any] = {}
    clashes: dict[str, int] = {}
    for name, value in properties.items():
        result[_unused(_cut_text(name, _MAX_REPR), result, clashes)] = value
    return result


def _note(cut: list[str], dropped: int, limit_bytes: int, encode: Callable[[Any], bytes]) -> list[str]:
    """Return the names that were cut, and how many properties are missing, as far as `limit_bytes` allow."""
    last = [f"and the last {dropped} properties"] if dropped else []
    # Name of the property, brackets, colon, comma, and the lines that close the list.
    left = limit_bytes - len(encode(CUT_PROPERTY)) - 4 - len(encode(last)) - len(encode("and 1000000000 more")) - 1
    if left < 0:
        return []
    listed: list[str] = []
    for name in cut:
        left -= len(encode(name)) + 1
        if left < 0:
            return [*listed, f"and {len(cut) - len(listed)} more", *last]
        listed.append(name)
    return listed + last
