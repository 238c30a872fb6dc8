"""The table of `values`: which types are recognised, and how a value of each becomes plain.

Runs in the host, on the thread that captures. A handler takes the walk, the value and its depth. It reads the value
with the base class's methods, in C: a subclass's own may do anything, and msgspec ignores them, too. Where only the
host's own code can answer, it is called through `walk.ask`.
"""

from __future__ import annotations

import os
from _abc import _get_dump, get_cache_token  # type: ignore[import-not-found]
from gc import get_referents

from msgspec import UNSET, Raw, Struct, to_builtins

from atotelemetry.host.classes import (
    FUNCTION,
    MEMBER,
    UUID,
    Decimal,
    Enum,
    Mapping,
    attribute,
    deque,
    full_name,
    has,
    instance_dict,
    is_exactly,
    is_from,
    is_in_c,
    is_subclass,
    looks_up_in_c,
    mro,
    name_of,
    namespace,
    of_module,
    read,
    stored,
    struct_config,
    struct_defaults,
    struct_encode_fields,
    struct_fields,
)
from atotelemetry.host.cut import MAX_REPR, clipped, cut_mark
from atotelemetry.host.debug import attempt
from atotelemetry.ids import hyphenated
from atotelemetry.wire import decode_json, decode_msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from atotelemetry.host.values import Walk

    Handler: TypeAlias = Callable[[Walk, Any, int], Any]

__all__ = ["EXACT", "NotAsked", "Times", "described", "enum_value", "first_bytes", "handler", "utc_moment", "uuid"]

_MAX_ARRAY = 10_000
_MAX_ITEMS_BYTES = 128 * 1024  # of JSON that somebody made earlier, or of an array
_MAX_PARTS = 4096  # of a path
_SHORT = 32
_BITS = 64
_READ_ATTEMPTS = 5
_MISSING = object()


class NotAsked(Exception):
    """The event has used up its calls into the host's own code."""


class Times:
    """The classes of `datetime`, from a value made by msgspec, in C: a test of the host's may have replaced them.

    Not globals, which such a test replaces, too.
    """

    _moment = decode_msgpack(b"\xd6\xff\0\0\0\0")
    datetime: Any = type(_moment)
    date: Any = datetime.__mro__[1]
    time: Any = type(_moment.timetz())
    timedelta: Any = type(_moment - _moment)
    timezone: Any = type(_moment.tzinfo)


def handler(kind: type) -> Handler:
    """Return how to convert a value of class `kind`."""
    for test, found in _TABLE:
        if issubclass(kind, test) if isinstance(test, type) else test(kind):
            return found
    return described


def described(walk: Walk, value: Any, _depth: int) -> Any:
    """Convert a value that no other line of the table is for."""
    return walk.described(value)


# ---- containers


def _items_of(kind: Any) -> Handler:
    """Return how to convert a built-in container of this type, or of a subclass, to a list."""
    return lambda walk, value, depth: walk.items(walk.copied(kind.__iter__, value), kind.__len__(value), depth)


def _view_of(method: Any) -> Handler:
    """Return how to convert a view of a dict to a list."""
    kind = type(method({}))

    def convert(walk: Walk, value: Any, depth: int) -> Any:
        (table,) = get_referents(value)
        if type(value) is not kind:  # of an OrderedDict, which has an order of its own
            keys = walk.copied(dict.keys, table)
            # It looks up each key in turn, and any other key may have a `__hash__` of the host's.
            if len(keys) == dict.__len__(table) and all(type(key) is str or type(key) is int for key in keys):
                return _items_of(type(value))(walk, value, depth)
        return walk.items(walk.copied(method, table), dict.__len__(table), depth)

    return convert


def _range(walk: Walk, value: Any, depth: int) -> Any:
    ends = (value.start, value.stop, value.step)
    if max(map(int.bit_length, ends)) > _BITS:
        return walk.spelled("range", ends, (), depth)
    # Not `len`, which refuses more than 2**63.
    size = max(0, (value.stop - value.start + value.step - (1 if value.step > 0 else -1)) // value.step)
    return walk.items(value, size, depth)


def _dict(walk: Walk, value: Any, depth: int) -> Any:
    return walk.entries(walk.copied(dict.items, value, 2), dict.__len__(value), depth)


_registered: tuple[object, list[Any]] = (None, [])


def _is_mapping(kind: type) -> bool:
    """Whether a class is a Mapping, or registered as one."""
    # Not by `issubclass`: that asks a `__subclasshook__` of each Mapping of the host's.
    global _registered  # noqa: PLW0603 - good until another class is registered anywhere
    known, references = _registered
    if known != (token := get_cache_token()):
        bases: list[Any] = [Mapping]
        seen, references = {id(Mapping)}, []
        for base in bases:
            if looks_up_in_c(type(base)):
                references += attempt(_get_dump, base, default=[()])[0]
            new = [derived for derived in type.__subclasses__(base) if id(derived) not in seen]
            seen.update(map(id, new))
            bases += new
        _registered = token, references
    registered = (reference() for reference in references)
    return is_subclass(Mapping, kind) or any(base is not None and is_subclass(base, kind) for base in registered)


def _mapping(walk: Walk, value: Any, depth: int) -> Any:
    for _ in range(_READ_ATTEMPTS):
        try:
            return walk.entries(walk.steps(value), 0, depth)
        except RecursionError:
            raise
        except RuntimeError:
            continue  # it changed while it was read
    return walk.described(value)


def _chain_map(walk: Walk, value: Any, depth: int) -> Any:
    tables = walk.value(vars(value)["maps"], depth)
    if any(type(table) is not dict for table in tables):
        return tables  # something was cut, and its `repr` would show all of it
    return {name: item for table in reversed(tables) for name, item in table.items()}


# ---- texts and bytes


def first_bytes(value: Any, limit: int) -> tuple[bytes, int]:
    """Return at most the first `limit` bytes, and how many there are."""
    kind: Any = type(value)
    if kind is memoryview:
        size = value.nbytes
        return (value[: limit // (size // value.shape[0])] if size > limit else value).tobytes(), size
    # Not as a buffer: a subclass may have a `__buffer__` of its own (PEP 688).
    kind = bytes if issubclass(kind, bytes) else bytearray
    return bytes(kind.__getitem__(value, slice(limit))), kind.__len__(value)


def _bytes(walk: Walk, value: Any, _depth: int) -> Any:
    kept, size = first_bytes(value, max(walk.bytes // 9, _SHORT) * 3)
    walk.bytes -= len(kept) * 4 // 3
    text: str = to_builtins(kept)
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
    return walk.value(decode_json(text), depth + 1)


def _path(walk: Walk, value: Any, _depth: int) -> Any:
    kind = type(value)
    if not is_exactly("pathlib", name_of(kind))(kind):
        return walk.clean(walk.ask(os.fsdecode, value))
    # The standard library's own paths may come in any number, and join their parts only now.
    parts = stored(value, "_parts") or stored(value, "_raw_paths") or []
    if len(parts) <= _MAX_PARTS and (size := sum(map(str.__len__, parts))) <= _MAX_ITEMS_BYTES:
        walk.charge(size >> 6)
        return walk.clean(os.fsdecode(value))
    walk.marks += 1
    return f"<long {name_of(kind)}>"


def _function(_walk: Walk, value: Any, _depth: int) -> Any:
    return clipped(f"<function {clipped(FUNCTION.__dict__['__qualname__'].__get__(value))} at {id(value):#x}>")


def _method(_walk: Walk, value: Any, _depth: int) -> Any:
    function = attribute(type(value), "__func__").__get__(value)
    is_plain = type(function) is FUNCTION
    name = clipped(FUNCTION.__dict__["__qualname__"].__get__(function)) if is_plain else name_of(type(function))
    return clipped(f"<bound method {name}>")


def _match(walk: Walk, value: Any, _depth: int) -> Any:
    start, end = value.span()
    return walk.described(value) if end - start > MAX_REPR else clipped(walk.ask(repr, value))


# ---- numbers, ids and times


def uuid(value: Any) -> str:
    """Return the text of a UUID, also of a subclass that overrides `__str__`. Raises if it has no number."""
    number = UUID.__dict__["int"].__get__(value)
    if type(number) is not int or not 0 <= number < 1 << 128:
        raise ValueError(number)
    return hyphenated(f"{number:032x}")


def _decimal(walk: Walk, value: Any, _depth: int) -> Any:
    size_bytes = Decimal.__sizeof__(value)
    if size_bytes > MAX_REPR:
        return walk.rest(size_bytes)
    walk.left -= size_bytes >> 6
    return Decimal.__str__(value)


def _datetime(walk: Walk, value: Any, _depth: int) -> Any:
    kind = Times.datetime
    time = kind.timetz(value)
    return to_builtins(kind.combine(kind.date(value), time, _zone(walk, kind, value, time.tzinfo)))


def utc_moment(walk: Walk, value: Any) -> str:
    """Return a datetime or a date as an instant in UTC. Raises if it is out of range, or if its zone raises."""
    kind = Times.datetime
    if not issubclass(type(value), kind):
        value = kind.combine(value, Times.time())
    time = kind.timetz(value)
    zone = _zone(walk, kind, value, time.tzinfo)
    moment = kind.combine(kind.date(value), time.replace(tzinfo=None))
    if zone is not None:
        moment -= zone.utcoffset(None)
    return f"{moment.isoformat()}Z"


def _time(walk: Walk, value: Any, _depth: int) -> Any:
    kind = Times.time
    fields = (kind.__dict__[name].__get__(value) for name in ("hour", "minute", "second", "microsecond"))
    return to_builtins(kind(*fields, _zone(walk, kind, value, kind.tzinfo.__get__(value))))


def _zone(walk: Walk, kind: Any, value: Any, zone: Any) -> Any:
    """Return the zone of a datetime or time as an offset, without code of the host's."""
    if zone is None or type(zone) is Times.timezone:
        return zone
    of_the_library = is_exactly("zoneinfo", "ZoneInfo")(type(zone))
    offset = kind.utcoffset(value) if of_the_library else walk.ask(kind.utcoffset, value)
    return None if offset is None else Times.timezone(offset)


def _timedelta(_walk: Walk, value: Any, _depth: int) -> Any:
    kind = Times.timedelta
    return to_builtins(kind(*(kind.__dict__[name].__get__(value) for name in ("days", "seconds", "microseconds"))))


# ---- objects


def enum_value(value: Any) -> Any:
    """Return the value of an Enum's member, also if its class overrides `value`."""
    return instance_dict(value)["_value_"]


def _is_enum(kind: type) -> bool:
    return issubclass(kind, Enum) and not issubclass(kind, (int, str))


def _enum(walk: Walk, value: Any, depth: int) -> Any:
    inner = enum_value(value)
    if type(inner) is object:
        # A placeholder with a meaningless address; the member's name has a meaning.
        return clipped(f"{name_of(type(value))}.{clipped(instance_dict(value)['_name_'])}")
    return walk.value(inner, depth + 1)


def _struct(walk: Walk, value: Any, depth: int) -> Any:
    kind = type(value)
    config, names = struct_config(kind), struct_fields(kind)
    walk.charge(len(names) * len(mro(kind)) >> 2)
    # A field can be deleted; it then counts as one that was never set.
    fields = [stored(value, name, UNSET) for name in names]
    tag = [(config.tag_field, config.tag)] * (config.tag is not None)
    if config.array_like:
        values = [*(text for _, text in tag), *(None if item is UNSET else item for item in fields)]
        return walk.items(values, len(values), depth)
    # Defaults belong to the last fields.
    defaults = [*struct_defaults(kind)] if config.omit_defaults else []
    defaults[:0] = [_MISSING] * (len(fields) - len(defaults))
    known = zip(struct_encode_fields(kind), fields, defaults, strict=True)
    pairs = [(name, item) for name, item, default in known if item is not UNSET and not _is_default(item, default)]
    return walk.entries(tag + pairs, len(tag + pairs), depth)


def _is_default(item: Any, default: Any) -> bool:
    # msgspec's rule: the same object, or an empty list, dict or set if the default makes one.
    kind = type(item)
    is_empty = (kind is list or kind is dict or kind is set) and not item
    return item is default or (is_empty and stored(default, "factory") is kind)


def _dataclass(walk: Walk, value: Any, depth: int) -> Any:
    kind = type(value)
    fields = attribute(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return walk.described(value)
    walk.charge(len(fields) * len(mro(kind)) >> 1)
    own = instance_dict(value)
    is_computed = attribute(kind, "__getattribute__") is not attribute(object, "__getattribute__")
    pairs = []
    for name in fields.copy():
        item = UNSET if is_computed else own.get(name, UNSET)
        if item is UNSET:
            item = _field(walk, value, name, is_computed=is_computed)
        if item is not UNSET:
            pairs.append((name, item))
    return walk.entries(pairs, len(pairs), depth)


def _field(walk: Walk, value: Any, name: str, *, is_computed: bool) -> Any:
    """Return the value of a field outside the object's own dict."""
    # As in msgspec: a field without a value of its own is left out, even if its class has a default.
    kind = type(value)
    descriptor = attribute(kind, name)
    is_slot = type(descriptor) is MEMBER
    try:
        if is_slot and not is_computed:
            return descriptor.__get__(value)
    except AttributeError:
        pass  # never filled
    is_property = not is_slot and attribute(type(descriptor), "__set__") is not None
    try:
        may_answer = is_computed or is_property or attribute(kind, "__getattr__") is not None
        return walk.ask(getattr, value, name) if may_answer else UNSET
    except NotAsked:
        return "<not asked>"
    except Exception:
        return UNSET  # it has none, or a property failed: nothing to show


def _attrs(walk: Walk, value: Any, depth: int) -> Any:
    # As in msgspec: everything public in `__dict__`, declared or not, then the filled public slots.
    bases = [namespace(base) for base in mro(type(value))[:-1]]  # `object` has no slots
    walk.charge(sum(map(len, bases)) >> 2)  # all are looked through for slots
    pairs = walk.copied(dict.items, instance_dict(value), 2)
    for base in bases:
        pairs += [(name, read(slot, value, UNSET)) for name, slot in tuple(base.items()) if type(slot) is MEMBER]
    public = [(name, item) for name, item in pairs if type(name) is str and name[:1] != "_" and item is not UNSET]
    return walk.entries(public, len(public), depth)


def _exception(walk: Walk, value: Any, depth: int) -> Any:
    if not is_in_c(type(value), "__repr__"):
        return walk.described(value)
    return walk.spelled(name_of(type(value)), attribute(BaseException, "args").__get__(value), (), depth)


def _simple_namespace(walk: Walk, value: Any, depth: int) -> Any:
    kind = type(value)
    name = "namespace" if is_exactly("types", "SimpleNamespace")(kind) else name_of(kind)
    return walk.spelled(name, (), walk.copied(dict.items, instance_dict(value), 2), depth)


def _partial(walk: Walk, value: Any, depth: int) -> Any:
    kind = of_module("functools", "partial")
    name = "functools.partial" if type(value) is kind else name_of(type(value))
    function, arguments, keywords = (attribute(kind, field).__get__(value) for field in ("func", "args", "keywords"))
    return walk.spelled(name, (function, *arguments), walk.copied(dict.items, keywords, 2), depth)


def _array(walk: Walk, value: Any, _depth: int) -> Any:
    return walk.described(of_module("array", "array").__getitem__(value, slice(MAX_REPR)))


def _numpy_scalar(walk: Walk, value: Any, depth: int) -> Any:
    scalar: Any = of_module("numpy", "generic")
    kind = scalar.dtype.__get__(value).kind
    if scalar.nbytes.__get__(value) > _MAX_ITEMS_BYTES:
        return walk.described(value)
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
    array: Any = of_module("numpy", "ndarray")
    lists, count = 0, 1
    for side in array.shape.__get__(value):
        lists += count
        count *= side or 1  # a million rows of no columns are a million lists
    if count > _MAX_ARRAY or lists > 3 * _MAX_ARRAY or array.nbytes.__get__(value) > _MAX_ITEMS_BYTES:
        return walk.described(value)
    items = array.astype(value, str) if array.dtype.__get__(value).kind in "mM" else value
    return walk.value(array.tolist(items), depth + 1)


def _pydantic(walk: Walk, value: Any, depth: int) -> Any:
    # Its warnings, about values that are not of the declared type, would go to the host's stderr.
    return walk.value(walk.ask(lambda: value.model_dump(warnings=False)), depth + 1)


# In msgspec's order: a class with several of these bases counts as the first of them.
_TABLE: list[tuple[type | Callable[[type], bool], Handler]] = [
    # A MagicMock's class has `__fspath__` and the like; it is described as a mock all the same.
    (is_from("unittest.mock", "NonCallableMock"), described),
    (type, lambda _walk, value, _depth: full_name(value)),
    (FUNCTION, _function),
    (is_from("types", "MethodType"), _method),
    (is_exactly("re", "Match"), _match),
    (list, _items_of(list)),
    (dict, _dict),
    (Struct, _struct),
    (tuple, _items_of(tuple)),
    (_is_enum, _enum),
    (UUID, lambda _walk, value, _depth: uuid(value)),
    (set, _items_of(set)),
    (frozenset, _items_of(frozenset)),
    # Dataclasses and attrs classes may have one of the types below as a base, and are their fields even so.
    (has("__dataclass_fields__"), _dataclass),
    (has("__attrs_attrs__"), _attrs),
    (str, lambda walk, value, _depth: walk.clean(value)),
    (int, lambda walk, value, _depth: walk.integer(value)),
    (float, lambda walk, value, depth: walk.value(float.__float__(value), depth)),
    *((kind, _bytes) for kind in (bytes, bytearray, memoryview)),
    (Times.datetime, _datetime),
    (Times.date, lambda _walk, value, _depth: Times.date.isoformat(value)),
    (Times.time, _time),
    (Times.timedelta, _timedelta),
    (Decimal, _decimal),
    (deque, _items_of(deque)),
    (BaseException, _exception),
    (Raw, _raw),
    (range, _range),
    *((type(method({})), _view_of(method)) for method in (dict.keys, dict.values, dict.items)),
    (is_from("types", "SimpleNamespace"), _simple_namespace),
    (is_from("functools", "partial"), _partial),
    (is_from("array", "array"), _array),
    (is_from("numpy", "generic"), _numpy_scalar),
    (is_from("numpy", "ndarray"), _numpy_array),
    # By its attributes: asking pydantic for BaseModel may import half of it.
    (lambda kind: has("__pydantic_validator__")(kind) and has("model_dump")(kind), _pydantic),
    (has("__fspath__"), _path),
    (type(type.__dict__), lambda walk, value, depth: walk.value(get_referents(value)[0], depth)),  # a MappingProxyType
    (is_exactly("collections", "UserDict"), lambda walk, value, depth: walk.value(vars(value)["data"], depth)),
    (is_exactly("collections", "UserList"), lambda walk, value, _depth: walk.text(vars(value)["data"])),
    (is_exactly("collections", "UserString"), lambda walk, value, _: clipped(repr(walk.text(vars(value)["data"])))),
    (is_exactly("collections", "ChainMap"), _chain_map),
    (is_exactly("os", "_Environ"), lambda walk, value, depth: walk.entries([*value.items()], len(value), depth)),
    (_is_mapping, _mapping),
]
EXACT = {id(kind): found for kind, found in _TABLE if isinstance(kind, type)}
"""How to convert a value of exactly one of these types, by id."""
