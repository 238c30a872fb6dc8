"""The table of `values`: which types are recognised, and how a value of each becomes plain.

Runs in the host, on the thread that captures. A handler takes the walk, the value and its depth. It reads the value
with the base class's methods, in C: a subclass's own may do anything, and msgspec ignores them, too. Where only the
host's own code can answer, it is called through `walk.ask`.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.host.cut import MAX_REPR, clipped, cut_mark
from atotelemetry.ids import hyphenated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from atotelemetry.host.values import Walk

    Handler: TypeAlias = Callable[[Walk, Any, int], Any]

__all__ = ["Types", "attribute", "enum_value", "harmless", "name_of", "types", "utc_moment", "uuid"]

_MAX_ARRAY = 10_000
_MAX_ITEMS_BYTES = 128 * 1024  # of JSON that somebody made earlier, or of an array
_SHORT = 32

# Past a metaclass, which may run code of the host's for any of these.
_mro, _namespace, name_of, _qualified_name, _module, _base = (
    type.__dict__[name].__get__
    for name in ("__mro__", "__dict__", "__name__", "__qualname__", "__module__", "__base__")
)
_MISSING = object()


class Types:
    """The types to recognise, looked up at first use: earlier, their modules would be imported into the CLI.

    All of these modules are loaded once msgspec is, so nothing is imported here that was not there before.
    """

    def __init__(self) -> None:
        import enum
        from collections import deque
        from collections.abc import Mapping
        from decimal import Decimal
        from uuid import UUID

        import msgspec

        from atotelemetry import wire

        self.encode: Callable[[Any], bytes] = wire.encode
        self.decode: Callable[[Any], Any] = wire.decode_json
        self.builtin: Callable[[Any], Any] = msgspec.to_builtins
        self.unset: object = msgspec.UNSET
        self.enum = enum.Enum
        self.uuid = UUID
        self.decimal = Decimal
        # From a value made by msgspec, in C: a test of the host's may have replaced the class.
        moment = wire.decode_msgpack(b"\xd6\xff\0\0\0\0")
        self.datetime: Any = type(moment)
        self.date: Any = self.datetime.__mro__[1]
        self.time: Any = type(moment.timetz())
        self.timedelta: Any = type(moment - moment)
        self.timezone: Any = type(moment.tzinfo)
        # In msgspec's order: a class with several of these bases counts as the first of them.
        self.early: list[tuple[type, Handler]] = [
            (type, _type),
            (list, _items_of(list)),
            (dict, _dict),
            (msgspec.Struct, _struct),
            (tuple, _items_of(tuple)),
            (enum.Enum, _enum),
            (UUID, uuid),
            (set, _items_of(set)),
            (frozenset, _items_of(frozenset)),
        ]
        # After dataclasses and attrs classes: those may have one of these as a base, and are their fields even so.
        self.late: list[tuple[type, Handler]] = [
            (str, lambda walk, value, depth: walk.value(str.__str__(value), depth)),
            (int, lambda walk, value, depth: walk.value(int.__int__(value), depth)),
            (float, lambda walk, value, depth: walk.value(float.__float__(value), depth)),
            (bytes, _bytes),
            (bytearray, _bytes),
            (self.datetime, _datetime),
            (self.date, lambda walk, value, _depth: walk.types.date.isoformat(value)),
            (self.time, _time),
            (self.timedelta, _timedelta),
            (Decimal, _decimal),
            (deque, _items_of(deque)),
            (BaseException, _exception),
            (memoryview, _memoryview),
            (msgspec.Raw, _raw),
            (range, _range),
            *((kind, _items_of(kind)) for kind in map(type, ({}.keys(), {}.values(), {}.items()))),
        ]
        self.abstract: list[tuple[type, Handler]] = [(os.PathLike, _path), (Mapping, _mapping)]
        # The only types with a `repr` that is surely short and runs nothing else.
        short = (type(types), type(len), type(sys), complex, type(...), type(NotImplemented))
        self.exact = {id(kind): handler for kind, handler in (*self.early, *self.late)} | {
            id(kind): harmless for kind in short
        }

    def handler(self, kind: type) -> Handler:
        """Return how to convert a value of class `kind`."""
        # A MagicMock's class has `__fspath__` and the like; it is described as a mock all the same.
        if _is_from(kind, "unittest.mock", "NonCallableMock"):
            return _described
        for base, handler in self.early:
            if issubclass(kind, base):
                return handler
        if attribute(kind, "__dataclass_fields__") is not None:
            return _dataclass
        if attribute(kind, "__attrs_attrs__") is not None:
            return _attrs
        for base, handler in self.late:
            if issubclass(kind, base):
                return handler
        # These are looked up, never imported: an unloaded module cannot have made the value.
        for module, name, handler in _OF_OTHERS:
            if _is_from(kind, module, name):
                return handler
        # By its attributes: asking pydantic for BaseModel may import half of it.
        if attribute(kind, "__pydantic_validator__") is not None and attribute(kind, "model_dump"):
            return _pydantic
        for base, handler in self.abstract:
            if issubclass(kind, base):
                return handler
        return _described


_made: list[Types] = []


def types() -> Types:
    """Return the types of this process."""
    # Two threads may both build it; one table is kept, and the other does no harm.
    if not _made:
        _made.append(Types())
    return _made[0]


def attribute(kind: type, name: str) -> Any:
    """Return the attribute `name` of `kind` or of a base, without running descriptors or a metaclass's code."""
    for base in _mro(kind):
        found = _namespace(base).get(name, _MISSING)
        if found is not _MISSING:
            return found
    return None


def _is_from(kind: type, module: str, name: str) -> bool:
    base = vars(sys.modules.get(module, sys)).get(name)
    return isinstance(base, type) and issubclass(kind, base)


def _described(walk: Walk, value: Any, _depth: int) -> Any:
    return walk.described(value)


def harmless(walk: Walk, value: Any, _depth: int) -> Any:
    """Describe a value with a `repr` that is not the host's code."""
    return walk.described(value)


# ---- containers


def _items_of(kind: Any) -> Handler:
    """Return how to convert a built-in container of this type, or of a subclass, to a list."""
    return lambda walk, value, depth: walk.items(walk.copied(kind.__iter__, value), kind.__len__(value), depth)


def _range(walk: Walk, value: Any, depth: int) -> Any:
    # Not `len`, which refuses more than 2**63.
    size = max(0, (value.stop - value.start + value.step - (1 if value.step > 0 else -1)) // value.step)
    return walk.items(value, size, depth)


def _dict(walk: Walk, value: Any, depth: int) -> Any:
    return walk.entries(walk.copied(dict.items, value, 2), dict.__len__(value), depth)


def _mapping(walk: Walk, value: Any, depth: int) -> Any:
    return walk.entries(*walk.yielded(lambda: value.items()), depth)  # noqa: PLW0108 - the look-up is the host's code, too


# ---- texts and bytes


def _bytes(walk: Walk, value: Any, depth: int) -> Any:
    return _memoryview(walk, memoryview(value), depth)


def _memoryview(walk: Walk, value: memoryview, _depth: int) -> Any:
    size = value.nbytes
    limit = max(walk.bytes // 3, _SHORT)
    if size <= limit:
        kept = value.tobytes()
    elif value.contiguous:
        kept = value.cast("B")[: limit - limit % 3].tobytes()
    else:
        return walk.rest(size)
    walk.bytes -= len(kept) * 4 // 3
    text: str = walk.types.builtin(kept)
    if len(kept) == size:
        return text
    walk.marks += 1
    return text + cut_mark(size, "bytes")


def _raw(walk: Walk, value: Any, depth: int) -> Any:
    # JSON that somebody made earlier. Read, not copied: it could hold a line break, which would end our line.
    text = memoryview(value)
    size = text.nbytes
    if size > _MAX_ITEMS_BYTES or size >> 4 > walk.left:
        walk.marks += 1
        return cut_mark(size, "bytes").strip("… ")
    walk.left -= size >> 4
    return walk.value(walk.types.decode(text), depth + 1)


def _path(walk: Walk, value: Any, _depth: int) -> Any:
    kind = type(value)
    # The standard library's own paths may come in any number.
    of_the_library = vars(sys.modules.get("pathlib", sys)).get(name_of(kind)) is kind
    path = os.fsdecode(value) if of_the_library else walk.ask(os.fsdecode, value)
    return walk.clean(str.__str__(path))


def _type(_walk: Walk, value: Any, _depth: int) -> Any:
    module, name = _module(value), _qualified_name(value)
    return clipped(f"{module}.{name}" if type(module) is str and module != "builtins" else name)


# ---- numbers, ids and times


def uuid(walk: Walk, value: Any, _depth: int) -> str:
    """Return the text of a UUID, also of a subclass that overrides `__str__`. Raises if it has no number."""
    number = walk.types.uuid.__dict__["int"].__get__(value)
    if type(number) is not int or not 0 <= number < 1 << 128:
        raise ValueError(number)
    return hyphenated(f"{number:032x}")


def _decimal(walk: Walk, value: Any, _depth: int) -> Any:
    size_bytes = walk.types.decimal.__sizeof__(value)
    if size_bytes > MAX_REPR:
        return walk.rest(size_bytes)
    walk.left -= size_bytes >> 6
    return walk.types.decimal.__str__(value)


def _datetime(walk: Walk, value: Any, _depth: int) -> Any:
    kind = walk.types.datetime
    time = kind.timetz(value)
    return walk.types.builtin(kind.combine(kind.date(value), time, _zone(walk, kind, value, time.tzinfo)))


def utc_moment(walk: Walk, value: Any) -> str:
    """Return a datetime or a date as an instant in UTC. Raises if it is out of range, or if its zone raises."""
    kind = walk.types.datetime
    if not issubclass(type(value), kind):
        value = kind.combine(value, walk.types.time())
    time = kind.timetz(value)
    zone = _zone(walk, kind, value, time.tzinfo)
    moment = kind.combine(kind.date(value), time.replace(tzinfo=None))
    if zone is not None:
        moment -= zone.utcoffset(None)
    return f"{moment.isoformat()}Z"


def _time(walk: Walk, value: Any, _depth: int) -> Any:
    kind = walk.types.time
    fields = (kind.__dict__[name].__get__(value) for name in ("hour", "minute", "second", "microsecond"))
    return walk.types.builtin(kind(*fields, _zone(walk, kind, value, kind.tzinfo.__get__(value))))


def _zone(walk: Walk, kind: Any, value: Any, zone: Any) -> Any:
    """Return the zone of a datetime or time as an offset, without code of the host's."""
    if zone is None or type(zone) is walk.types.timezone:
        return zone
    of_the_library = type(zone) is vars(sys.modules.get("zoneinfo", sys)).get("ZoneInfo")
    offset = kind.utcoffset(value) if of_the_library else walk.ask(kind.utcoffset, value)
    return None if offset is None else walk.types.timezone(offset)


def _timedelta(walk: Walk, value: Any, _depth: int) -> Any:
    kind = walk.types.timedelta
    return walk.types.builtin(
        kind(*(kind.__dict__[name].__get__(value) for name in ("days", "seconds", "microseconds")))
    )


# ---- objects


def enum_value(value: Any) -> Any:
    """Return the value of an Enum's member, also if its class overrides `value`."""
    return object.__getattribute__(value, "_value_")


def _enum(walk: Walk, value: Any, depth: int) -> Any:
    kind = type(value)
    if issubclass(kind, int):
        return walk.value(int.__int__(value), depth)
    if issubclass(kind, str):
        return walk.value(str.__str__(value), depth)
    inner = enum_value(value)
    if type(inner) is object:
        # A placeholder with a meaningless address; the member's name has a meaning.
        return clipped(f"{name_of(kind)}.{object.__getattribute__(value, '_name_')}")
    return walk.value(inner, depth + 1)


def _struct(walk: Walk, value: Any, depth: int) -> Any:
    kind: Any = type(value)
    unset = walk.types.unset
    config = kind.__struct_config__
    fields = []
    for name in kind.__struct_fields__:
        try:
            fields.append(object.__getattribute__(value, name))
        except AttributeError:
            fields.append(unset)  # a field can be deleted; it then counts as one that was never set
    if config.array_like:
        values = [None if item is unset else item for item in fields]
        return walk.items([config.tag, *values] if config.tag is not None else values, 0, depth)
    pairs: list[tuple[str, Any]] = [(config.tag_field, config.tag)] if config.tag is not None else []
    # Defaults belong to the last fields.
    defaults = kind.__struct_defaults__ if config.omit_defaults else ()
    checked_from = len(fields) - len(defaults)
    for position, (name, item) in enumerate(zip(kind.__struct_encode_fields__, fields, strict=True)):
        if item is unset or (position >= checked_from and _is_default(item, defaults[position - checked_from])):
            continue
        pairs.append((name, item))
    return walk.entries(pairs, 0, depth)


def _is_default(item: Any, default: Any) -> bool:
    # msgspec's rule: the same object, or an empty list, dict or set if the default makes one.
    kind = type(item)
    is_empty = (kind is list or kind is dict or kind is set) and not item
    return item is default or (is_empty and getattr(default, "factory", None) is kind)


def _dataclass(walk: Walk, value: Any, depth: int) -> Any:
    kind, unset = type(value), walk.types.unset
    fields = attribute(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return walk.described(value)
    own = _instance_dict(value)
    # As in msgspec: a field without a value of its own is left out, even if its class has a default.
    is_computed = attribute(kind, "__getattr__") is not None or (
        attribute(kind, "__getattribute__") is not attribute(object, "__getattribute__")
    )
    pairs = []
    for name in fields.copy():
        item = unset if is_computed else own.get(name, unset)
        if item is unset:
            item = _field(walk, value, name, is_computed=is_computed)
        if item is not unset:
            pairs.append((name, item))
    return walk.entries(pairs, 0, depth)


def _field(walk: Walk, value: Any, name: str, *, is_computed: bool) -> Any:
    """Return the value of a field outside the object's own dict."""
    descriptor = attribute(type(value), name)
    try:
        if not is_computed and type(descriptor) is _MEMBER:
            return descriptor.__get__(value)
        if is_computed or attribute(type(descriptor), "__set__") is not None:
            return walk.ask(getattr, value, name)
    except Exception:
        return walk.types.unset  # an empty slot, or a property that failed: nothing to show
    return walk.types.unset


def _attrs(walk: Walk, value: Any, depth: int) -> Any:
    # As in msgspec: everything public in `__dict__`, declared or not, then the filled public slots.
    unset = walk.types.unset
    walk.left -= len(_mro(type(value))) * 4  # all its classes are looked through for slots
    pairs = walk.copied(dict.items, _instance_dict(value), 2)
    base: Any = type(value)
    while base is not None:
        for name, slot in tuple(_namespace(base).items()):
            if type(slot) is _MEMBER:
                try:
                    pairs.append((name, slot.__get__(value)))
                except AttributeError:
                    continue
        base = _base(base)
    public = [(name, item) for name, item in pairs if type(name) is str and name[:1] != "_" and item is not unset]
    return walk.entries(public, 0, depth)


def _instance_dict(value: object) -> dict[Any, Any]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return own if type(own) is dict else {}


_MEMBER = type(type(sys.flags).__dict__["debug"])  # the descriptor of a slot


def _exception(walk: Walk, value: Any, depth: int) -> Any:
    if attribute(type(value), "__repr__") is not attribute(BaseException, "__repr__"):
        return walk.described(value)
    return walk.spelled(name_of(type(value)), attribute(BaseException, "args").__get__(value), (), depth)


def _simple_namespace(walk: Walk, value: Any, depth: int) -> Any:
    kind = type(value)
    name = "namespace" if kind is sys.modules["types"].SimpleNamespace else name_of(kind)
    return walk.spelled(name, (), walk.copied(dict.items, _instance_dict(value), 2), depth)


def _partial(walk: Walk, value: Any, depth: int) -> Any:
    kind = sys.modules["functools"].partial
    name = "functools.partial" if type(value) is kind else name_of(type(value))
    function, arguments, keywords = (attribute(kind, field).__get__(value) for field in ("func", "args", "keywords"))
    return walk.spelled(name, (function, *arguments), walk.copied(dict.items, keywords, 2), depth)


def _array(walk: Walk, value: Any, _depth: int) -> Any:
    return walk.described(sys.modules["array"].array.__getitem__(value, slice(MAX_REPR)))


def _numpy_scalar(walk: Walk, value: Any, depth: int) -> Any:
    scalar: Any = sys.modules["numpy"].generic
    kind = scalar.dtype.__get__(value).kind
    if kind in "mM":
        # `item` gives nanoseconds as a bare number; the text is ISO 8601, or "5 days".
        text = str(value)
        return None if text == "NaT" else text
    item = scalar.item(value)
    if type(item) is not type(value):
        return walk.value(item, depth + 1)
    # No Python number is as wide as a long double, so `item` returns it unchanged.
    return walk.value(float(value), depth + 1) if kind == "f" else walk.described(value)


def _numpy_array(walk: Walk, value: Any, depth: int) -> Any:
    array: Any = sys.modules["numpy"].ndarray
    if array.size.__get__(value) > _MAX_ARRAY or array.nbytes.__get__(value) > _MAX_ITEMS_BYTES:
        return walk.described(value)
    items = array.astype(value, str) if array.dtype.__get__(value).kind in "mM" else value
    return walk.value(array.tolist(items), depth + 1)


def _pydantic(walk: Walk, value: Any, depth: int) -> Any:
    # Its warnings, about values that are not of the declared type, would go to the host's stderr.
    return walk.value(walk.ask(lambda: value.model_dump(warnings=False)), depth + 1)


_OF_OTHERS: tuple[tuple[str, str, Handler], ...] = (
    ("types", "SimpleNamespace", _simple_namespace),
    ("functools", "partial", _partial),
    ("array", "array", _array),
    ("numpy", "generic", _numpy_scalar),
    ("numpy", "ndarray", _numpy_array),
)
