"""Reads classes of the host's, and the attributes of their objects, without running the host's code.

Runs in the host, on the thread that captures. A metaclass, a property or a descriptor may run anything. So attributes
are looked up in the namespaces of the classes. Classes of other modules are never imported: a module that is not there
has made no value.
"""

from __future__ import annotations

import decimal
import os
import sys
from _collections import deque  # type: ignore[import-not-found]
from _weakref import CallableProxyType, ProxyType
from enum import Flag
from gc import get_referents
from uuid import NAMESPACE_DNS

from msgspec import Struct

from atotelemetry.host.cut import MAX_REPR, clipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "FUNCTION",
    "HARMLESS",
    "MEMBER",
    "PROXIES",
    "UUID",
    "Decimal",
    "Enum",
    "Mapping",
    "attribute",
    "deque",
    "full_name",
    "has",
    "instance_dict",
    "is_brief",
    "is_data",
    "is_exactly",
    "is_from",
    "is_in_c",
    "is_subclass",
    "looks_up_in_c",
    "mro",
    "name_of",
    "namespace",
    "of_module",
    "read",
    "stored",
    "struct_config",
    "struct_defaults",
    "struct_encode_fields",
    "struct_fields",
]

# Past a metaclass, which may run code of the host's for any of these.
mro, namespace, _name, _qualified_name, _module = (
    type.__dict__[name].__get__ for name in ("__mro__", "__dict__", "__name__", "__qualname__", "__module__")
)
struct_fields, struct_encode_fields, struct_defaults, struct_config = (
    namespace(type(Struct))[f"__struct_{name}__"].__get__ for name in ("fields", "encode_fields", "defaults", "config")
)
# Not by their names: a test of the host's may have replaced those for the first event.
Decimal: Any = type(decimal.Context().create_decimal(0))
Enum: Any = mro(Flag)[-2]
Mapping: Any = mro(os._Environ)[2]  # noqa: SLF001 - of all its subclasses the one that is always there
UUID: Any = type(NAMESPACE_DNS)

FUNCTION: Any = type(lambda: 0)
_MODULE = type(sys)
_dict_of = namespace(_MODULE)["__dict__"].__get__
is_subclass = type.__subclasscheck__  # of the base, then of the class: `issubclass` asks a metaclass
_MISSING = object()
_NAMES = "__origin__", "__args__", "__qualname__", "__module__"  # asked for by an alias, a method or a weak reference
_FEW = 16  # classes, such as pydantic's models, whose metaclass answers for names
_MAX_ITEM_BYTES = 256  # of numpy; a `repr` shows a thousand
MEMBER = type(type(sys.flags).__dict__["debug"])  # the descriptor of a slot
_GETTER = type(type.__dict__["__name__"])  # that of a `__dict__`
_IN_C = type(object.__repr__)  # a method that is written in C

HARMLESS = frozenset(map(id, (type(len), type(None), bool, float, complex, type(...), type(NotImplemented))))
"""Ids of the only types with a `repr` that is surely short and runs nothing else."""

PROXIES = frozenset(map(id, (ProxyType, CallableProxyType)))
"""Ids of the types whose `str` is that of another object."""


def attribute(kind: type, name: str) -> Any:
    """Return the attribute `name` of `kind` or of a base, without running descriptors or a metaclass's code."""
    for base in mro(kind):
        found = namespace(base).get(name, _MISSING)
        if found is not _MISSING:
            return found
    return None


def has(name: str) -> Callable[[type], bool]:
    """Return a test for classes with an attribute."""
    return lambda kind: attribute(kind, name) is not None


def of_module(module: str, name: str) -> Any:
    """Return what is in the dict of a module: one that is lazy, missing or no module at all is not asked."""
    found = sys.modules.get(module)
    return dict.get(_dict_of(found), name) if issubclass(type(found), _MODULE) else None


def is_from(module: str, name: str) -> Callable[[type], bool]:
    """Return a test for a class of a module that is looked up, never imported: else it cannot have made the value."""

    def test(kind: type) -> bool:
        base = of_module(module, name)
        return issubclass(type(base), type) and is_subclass(base, kind)

    return test


def is_exactly(module: str, name: str) -> Callable[[type], bool]:
    """Return a test for a class of the standard library, without subclasses, whose methods may be the host's."""
    return lambda kind: of_module(module, name) is kind


def name_of(kind: type) -> str:
    """Return the name of a class, cut."""
    return clipped(_name(kind))


def full_name(kind: type) -> str:
    """Return the name of a class with that of its module, cut."""
    module, name = _module(kind), clipped(_qualified_name(kind))
    return clipped(f"{clipped(module)}.{name}" if type(module) is str and module != "builtins" else name)


def is_in_c(kind: type, method: str) -> bool:
    """Whether no Python code is in the method that a class has."""
    return type(attribute(kind, method)) is _IN_C


def is_data(found: object) -> bool:
    """Whether this attribute of a class is read of an object without code of the host's."""
    return type(found) is MEMBER or type(found) is _GETTER or attribute(type(found), "__get__") is None


def looks_up_in_c(kind: type) -> bool:
    """Whether objects of a class are asked for any name, and for those in a `repr`, without Python code."""
    if kind is type:
        return True
    is_looked_up = is_in_c(kind, "__getattribute__") and attribute(kind, "__getattr__") is None
    return is_looked_up and all(is_data(attribute(kind, name)) for name in _NAMES)


def is_brief(value: Any) -> bool:
    """Whether a `repr` or `str` in C is short, even if it spells out all that the value refers to."""
    kind = type(value)
    if any(test(kind) for test in _NAMING):
        return True
    for name in ("ndarray", "generic"):
        if is_from("numpy", name)(kind):
            return _is_brief_array(value, of_module("numpy", name))
    if issubclass(kind, Struct) and not struct_config(kind).gc:
        return False  # it does not tell
    parts = get_referents(value)
    odd = 0
    for part in parts:
        kind = type(part)
        if kind is str or kind is bytes or kind is tuple or kind is frozenset or kind is dict:
            if len(part) > MAX_REPR:
                return False
            parts += (*get_referents(part), *(part if kind is dict else ()))
        elif kind is int:
            if part.bit_length() > MAX_REPR:
                return False
        elif any(test(kind) for test in _SPELLING):
            parts += get_referents(part)
        elif issubclass(kind, type):
            odd += kind is not type(Enum) and not looks_up_in_c(kind)
            if odd > _FEW:
                return False  # each one's metaclass is asked for names
        elif id(kind) not in HARMLESS and kind is not FUNCTION:
            return False
        if len(parts) > MAX_REPR:
            return False
    return True


def _is_brief_array(value: Any, owner: Any) -> bool:
    items, size = owner.dtype.__get__(value), owner.size.__get__(value)
    if size > MAX_REPR:
        # A summary has some items at both ends of each dimension; a host may have turned summaries off.
        options = of_module("numpy", "get_printoptions")()
        if size > options["threshold"]:
            size = min(size, (2 * options["edgeitems"]) ** owner.ndim.__get__(value))
    return not items.hasobject and items.itemsize <= _MAX_ITEM_BYTES and size <= 2 * MAX_REPR


def stored(value: object, name: str, default: Any = None) -> Any:
    """Return an attribute from its object's slot, also past a property of a subclass."""
    for base in mro(type(value)):
        slot = namespace(base).get(name)
        if type(slot) is MEMBER or type(slot) is _GETTER:
            return read(slot, value, default)
    return default


def read(slot: Any, value: object, default: Any) -> Any:
    """Return what is in a slot, `default` if it is empty."""
    try:
        return slot.__get__(value)
    except AttributeError:
        return default


def instance_dict(value: object) -> dict[Any, Any]:
    """Return the dict of an object, or an empty one."""
    found = stored(value, "__dict__")
    return found if type(found) is dict else {}


# A `repr` in C of the first shows names; of the others it shows what they refer to.
_NAMING = [
    *(is_from("types", f"{name}Type") for name in ("Generator", "Coroutine", "AsyncGenerator", "Frame", "Module")),
    *map(is_from, ("builtins", "_io", "_asyncio", "_asyncio"), ("memoryview", "_IOBase", "Future", "Task")),
]
_SPELLING = [*map(is_from, ("types", "types", "re"), ("GenericAlias", "UnionType", "Pattern"))]
