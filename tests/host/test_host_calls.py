"""Calls into the host's code are counted and timed, whatever shape the code has; unread parts are marked."""

from __future__ import annotations

import collections
import collections.abc
import contextvars
import dataclasses
import datetime
import functools
import itertools
import json
import operator
import os
import pathlib
import re
import types

import attrs
import msgspec
import pytest

from atotelemetry.host import values
from atotelemetry.host.values import Walk
from support_hostile import run_host
from support_values import peak_of, plain

CALLS: list[object] = []


class Remote(collections.abc.Mapping):
    """Fetches each of its values from somewhere."""

    def __init__(self, size=3000, make=lambda: 1):
        self.size, self.make = size, make

    def __getitem__(self, key):
        CALLS.append(key)
        return self.make()

    def __iter__(self):
        return iter(range(self.size))

    def __len__(self):
        return self.size

    def __repr__(self):
        return "Remote()"


def calls_for(value):
    CALLS.clear()
    return plain(value), len(CALLS)


# Mappings


def test_each_step_of_a_mapping_is_a_call():
    """A Mapping of the host's is read one entry at a time, within the 64 calls of the event; then it says so."""
    result, calls = calls_for([Remote(), Remote(5), Remote(3)])
    assert calls == 63
    assert result[0] == {**{str(number): 1 for number in range(63)}, "<too many values>": "<1 more>"}
    assert result[1:] == ["<Remote object (not asked)>"] * 2
    assert calls_for({"a": Remote(5)}) == ({"a": {str(number): 1 for number in range(5)}}, 5)


@pytest.mark.limits
def test_a_mapping_that_waits_is_not_asked_for_long(monkeypatch):
    """Waiting costs no CPU: a fifth of a second by the clock is enough, too."""
    now = [100.0]
    monkeypatch.setattr(values, "monotonic", lambda: now[0])
    monkeypatch.setattr(values, "_MAX_SECONDS", 60.0)

    class Slow(Remote):
        def __getitem__(self, key):
            now[0] += 0.06
            return super().__getitem__(key)

    result, calls = calls_for([Slow(), Slow()])
    assert calls == 4
    assert len(result[0]) == 5
    assert result[1] == "<Slow object (not asked)>"


def test_a_mappings_values_are_cut_one_by_one():
    """No more than one of its values is held whole."""
    assert peak_of(lambda: plain({"a": Remote(make=lambda: bytes(1_000_000))})) < 8_000_000


def test_mappings_without_code_of_the_hosts_are_no_calls():
    """The standard library's own keep their values in dicts, which are read as any dict."""
    many = {f"k{number}": number for number in range(300)}
    proxy = types.MappingProxyType(many)
    chain = collections.ChainMap(many, {"k1": 2, "last": 3})
    result = plain([proxy, types.MappingProxyType(Remote(2)), collections.UserDict(many), chain, *[proxy] * 70])
    assert result[0] == result[2] == result[-1] == many
    assert result[1] == {"0": 1, "1": 1}
    assert result[3] == dict(chain)
    assert list(result[3]) == list(chain)


def test_mappings_are_found_without_code_of_the_hosts():
    """No `__subclasshook__` is asked, and what is registered as a Mapping is one."""

    class Hooked(collections.abc.Mapping):
        @classmethod
        def __subclasshook__(cls, kind):
            CALLS.append(kind)
            return NotImplemented

    class Table:
        def items(self):
            return [("a", 1)]

    class Later(Table):
        pass

    class Unlike:
        def __repr__(self):
            return "unlike"

    collections.abc.MutableMapping.register(Table)
    assert calls_for([Table(), Unlike()]) == ([{"a": 1}, "unlike"], 0)
    Hooked.register(Unlike)
    assert calls_for([Later(), Unlike()])[0][0] == {"a": 1}
    assert not CALLS


def test_the_environment_is_read_whole(monkeypatch):
    """Also one with more variables than calls."""
    for number in range(100):
        monkeypatch.setenv(f"VARIABLE_{number}", "x")
    assert plain({"e": os.environ})["e"].items() >= dict(os.environ).items()


# Dataclasses


@dataclasses.dataclass
class Holder:
    a: object


@dataclasses.dataclass
class Config:
    a: int = 1
    b: int = 2
    missing: int = dataclasses.field(init=False)

    def __getattr__(self, name):
        CALLS.append(name)
        if name.startswith("_"):
            raise AttributeError(name)
        return f"made up {name}"


@dataclasses.dataclass
class Watched:
    a: int = 1

    def __getattribute__(self, name):
        CALLS.append(name)
        return super().__getattribute__(name)


def test_a_dataclass_is_only_asked_for_fields_that_it_does_not_hold():
    """Of a class with a `__getattr__` all that it holds is read as of any other; no field is lost without a mark."""
    result, calls = calls_for([Config() for _ in range(100)])
    assert calls == 64
    assert result[:64] == [{"a": 1, "b": 2, "missing": "made up missing"}] * 64
    assert result[64:] == [{"a": 1, "b": 2, "missing": "<not asked>"}] * 36


def test_a_dataclass_that_answers_itself_is_asked_for_each_field():
    """A `__getattribute__` may say anything; what it was not asked is marked."""
    result, calls = calls_for([Watched(2) for _ in range(70)])
    assert calls == 64
    assert result == [{"a": 2}] * 64 + [{"a": "<not asked>"}] * 6


def test_what_was_not_asked_is_listed_with_the_event(recorder):
    """In the event's list of cut properties; also for a dataclass captured inside a `repr`, which is asked nothing."""

    class Shown:
        def __repr__(self):
            recorder.client.capture("inner", distinct_id="me", properties={"config": Config(), "n": 1})
            return "shown"

    recorder.client.capture("outer", distinct_id="me", properties={"shown": Shown()})
    inner, outer = (json.loads(line)["properties"] for line in recorder.lines)
    config = {"a": 1, "b": 2, "missing": "<not asked>"}
    assert inner == {"config": config, "n": 1, "$atotelemetry_cut": ["config"]}
    assert outer == {"shown": "shown"}


# Texts, numbers and bytes of subclasses


def test_subclasses_are_cut_before_they_are_copied(recorder):
    """As a value, a key, a name, an id, a time or a uuid: a hundred times a megabyte leaves no copy."""
    capture = recorder.client.capture
    text, number, data = (
        type("Own", (kind,), {"__str__": list, "__len__": list})(value)
        for kind, value in ((str, "x" * 5_000_000), (int, 1 << 40_000_000), (bytes, b"x" * 5_000_000))
    )
    for value in (text, number, data):
        assert peak_of(lambda value=value: plain([{value: value}] * 20)) < 4_000_000
        assert peak_of(lambda value=value: capture(value, distinct_id=value, timestamp=value, uuid=value)) < 1_000_000


def test_bytes_of_a_subclass_are_no_calls():
    """Their own `__buffer__`, which Python asks since 3.12, is not run."""

    class Data(bytes):
        def __buffer__(self, flags):
            CALLS.append(flags)
            return memoryview(b"other")

    assert calls_for([Data(b"x")] * 100) == (["eA=="] * 100, 0)
    assert Walk().text(Data(b"x")) == "x"
    assert not CALLS


def test_a_long_memoryview_keeps_its_beginning():
    """Also one that skips bytes."""
    result = plain(memoryview(bytes(16_000_000))[::2])
    assert result.startswith("AAAA")
    assert result.endswith("… [cut: 8000000 bytes]")


# Reprs in C, which spell out all that a value refers to


LISTS: list = functools.reduce(lambda inner, _: [inner, inner], range(18), [1])


class Job(list):
    def run(self):
        pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Job(LISTS).run, "<bound method Job.run>"),
        (slice(LISTS), "<slice object>"),
        (slice(1, "x"), "slice(1, 'x', None)"),
        (itertools.repeat(LISTS), "<repeat object>"),
        (itertools.repeat((1, 2)), "repeat((1, 2))"),
        (operator.itemgetter(LISTS), "<itemgetter object>"),
        (operator.itemgetter("a"), "operator.itemgetter('a')"),
        (contextvars.ContextVar("v", default=LISTS), "<ContextVar object>"),
        (types.GenericAlias(list, (LISTS,)), "<GenericAlias object>"),
        (dict[str, list[int | None]], "dict[str, list[int | None]]"),
        (re.match("x*", "x" * 100_000), "<Match object>"),
        (re.search("y", "x" * 100_000 + "y"), "<re.Match object; span=(100000, 100001), match='y'>"),
        (re.compile("(?P<a>x)"), "re.compile('(?P<a>x)')"),
        (slice(10**5000), "<slice object>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_repr_in_c_is_called_if_it_is_short(value, expected):
    """It may take as long as the lists in it are deep, and nothing can stop it."""
    assert plain({"v": value}) == {"v": expected}
    assert Walk().text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (collections.deque([LISTS]), "[[[["),
        (ValueError(LISTS), "ValueError([[["),
        (ValueError("x"), "x"),
        (types.SimpleNamespace(a=LISTS), "namespace(a=[[["),
        (types.SimpleNamespace(a=1), "namespace(a=1)"),
        (functools.partial(print, LISTS), "functools.partial('<built-in function print>', [[["),
        ({1: LISTS}.values(), "[[[["),
        (Holder(LISTS), "{'a': [[["),
        (Holder(1), "Holder(a=1)"),
        (collections.UserDict(a=LISTS), "{'a': [[["),
        (collections.UserList(LISTS), "[[[["),
        (collections.UserList([1, "x"]), "[1, 'x']"),
        (1 << 1_000_000, "<integer of 1000001 bits>"),
        (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "2026-01-01 00:00:00+00:00"),
        (1.5, "1.5"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_name_or_id_is_walked_unless_it_is_short(value, expected):
    """As a property is; a small value gives what `str` has for it."""
    walk = Walk()
    assert walk.text(value).startswith(expected)
    walk.value(value, 0)
    assert walk.calls >= 63


def test_a_class_with_an_odd_name():
    """Its name is cut, and no code of its own runs."""

    class Name(str):
        __slots__ = ()

        def __format__(self, spec):
            CALLS.append(spec)
            return "formatted"

    kind = type("Kind", (), {"__module__": "m"})
    kind.__name__ = kind.__qualname__ = Name("x" * 5_000_000)
    function = types.FunctionType((lambda: 0).__code__, {})
    function.__qualname__ = Name("x" * 5_000_000)
    values = [kind(), kind, function, types.MethodType(function, 1)]
    peak = peak_of(lambda: plain(values * 20))
    assert peak < 1_000_000
    result, calls = calls_for(values)
    assert calls == 0
    assert [text[:20] for text in result] == [
        "<m.xxxxxxxxxxxxxxxxx",
        "m.xxxxxxxxxxxxxxxxxx",
        "<function xxxxxxxxxx",
        "<bound method xxxxxx",
    ]


# Costs that no value shows


def drained(kind):
    """Return a container of one value with room for 300,000: a step to the next value passes all that room."""
    made = kind(dict.fromkeys(range(300_000)))
    for key in range(299_999):
        made.pop(key, None) if kind is dict else made.discard(key)
    return made


FIELDS = [f"f{number}" for number in range(500)]
UNSET_FIELDS = [(name, int, dataclasses.field(default=0, init=False)) for name in FIELDS]
PRIVATE_FIELDS = {f"_{name}": attrs.field(default=0) for name in FIELDS}


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: drained(dict), 20),
        (lambda: drained(set), 20),
        (lambda: drained(dict).keys(), 20),
        (msgspec.defstruct("Defaults", [(name, int, 0) for name in FIELDS], omit_defaults=True), 400),
        (lambda: object.__new__(dataclasses.make_dataclass("Unset", UNSET_FIELDS)), 400),
        (attrs.make_class("Private", PRIVATE_FIELDS, slots=True), 1000),
        (functools.reduce(lambda base, _: type("Deep", (base,), {}), range(500), object), 1000),
    ],
    ids=["dict", "set", "keys", "Struct", "dataclass", "attrs", "bases"],
)
def test_a_value_pays_for_what_it_does_not_show(make, most):
    """The room in a container, fields that are left out, bases: each value of a list costs what it takes to read."""
    value = make()
    result = plain([value] * 3000)
    first = plain(value)
    shown = [item for item in result if item not in ("<too many values>", result[-1])]
    assert 1 <= len(shown) <= most
    assert all(type(item) is type(first) for item in shown)
    assert result[len(shown)] == "<too many values>" or result[len(shown)].endswith(" more>")


def test_a_type_pays_for_its_bases():
    """Each of them is looked through for every line of the table, once for the type."""
    base = functools.reduce(lambda base, _: type("Deep", (base,), {}), range(60), object)
    result = plain([type("Own", (base,), {})() for _ in range(2000)])
    assert 500 <= sum(item.endswith(">") and " object at 0x" in item for item in result) <= 1000


def test_room_for_more_than_an_event_may_cost():
    """Such a container is not read at all, and takes nothing from the others."""
    table = dict.fromkeys(range(3_000_000))
    for key in range(2_999_999):
        del table[key]
    assert plain({"a": table, "b": [{1}]}) == {"a": "<too many values>", "b": [[1]]}


def test_a_range_of_huge_integers():
    """Its ends are described by their sizes."""
    huge = 1 << 1_000_000
    expected = "range('<integer of 1000001 bits>', '<integer of 1000001 bits>', 1)"
    assert plain(range(huge, huge + 1000)) == expected
    assert plain(range(2**63, 2**63 + 2)) == [2**63, 2**63 + 1]


# Code of the host's in odd places


class Base(msgspec.Struct):
    a: int = 1


class Shadowed(Base):
    @property
    def a(self):
        CALLS.append("a")
        return 5


class Kept:
    __attrs_attrs__ = ()

    def __init__(self):
        self.a = 1


class OwnDict(Kept):
    @property
    def __dict__(self):
        CALLS.append("__dict__")
        return {"b": 2}


def test_properties_over_what_an_object_holds_are_no_calls():
    """A field is read from the slot of the class that declared it, as msgspec does; so is an object's dict."""
    assert calls_for([Shadowed()] * 100) == ([{"a": 1}] * 100, 0)
    assert calls_for([OwnDict()] * 100) == ([{"a": 1}] * 100, 0)


def test_a_modules_loader_is_a_call():
    """The `repr` of a module asks it."""

    class Spec:
        name = "m"
        origin = None
        has_location = False

        @property
        def loader(self):
            CALLS.append("loader")

    module = types.ModuleType("m")
    module.__spec__ = Spec()
    result, calls = calls_for([module] * 100)
    assert 1 <= calls <= 64
    assert result[-1] == "<module object (not asked)>"


@pytest.mark.parametrize("kind", [pathlib.PurePosixPath, pathlib.PureWindowsPath])
def test_a_long_path(kind):
    """Its parts are bounded before they are joined."""
    path = kind("a/" * 1_000_000)
    peak = peak_of(lambda: [*plain([path] * 3), Walk().text(path)])
    assert peak < 1_000_000
    assert plain(path) == f"<long {kind.__name__}>"
    assert plain(kind("a/" * 1000)) == str(kind("a/" * 1000))


@pytest.mark.parametrize(
    "name", ["decimal.Decimal", "uuid.UUID", "collections.deque", "enum.Enum", "collections.abc.Mapping", "os.PathLike"]
)
def test_classes_that_a_test_replaces_for_the_first_event(name):
    """Later events are as they would have been: the real classes are used."""
    said = run_host(f"""
import collections, collections.abc, decimal, enum, json, pathlib, typing, uuid  # typing needs the real classes
from unittest import mock
class Colour(enum.Enum):
    RED = "red"
class Table(collections.abc.Mapping):
    def __getitem__(self, key): return key
    def __iter__(self): return iter("a")
    def __len__(self): return 1
class Thing:
    def __repr__(self): return "thing"
values = [decimal.Decimal(1), collections.deque([1]), Colour.RED, Table(), Thing(), uuid.UUID(int=7)]
with mock.patch("{name}"):
    client.capture("first", distinct_id="me", properties={{"v": values}})
print(client.capture(Colour.RED, distinct_id="me", uuid=values[-1], properties={{"v": values}}))
events = [json.loads(line) for line in lines]
print(events[1]["event"], events[0]["properties"] == events[1]["properties"], json.dumps(events[1]["properties"]["v"]))
""")
    uuid = "00000000-0000-0000-0000-000000000007"
    assert said == f'{uuid}\nred True ["1", [1], "red", {{"a": "a"}}, "thing", "{uuid}"]\n'


def test_an_alias_of_a_class_whose_metaclass_answers():
    """As one of a pydantic model: it is named."""
    model = type("Meta", (type,), {"__getattr__": type.__getattribute__})("Model", (), {})
    shown = f"{model.__module__}.Model"
    result = plain({"many": list[model], "maybe": model | None})
    assert result == {"many": f"list[{shown}]", "maybe": f"{shown} | None"}
