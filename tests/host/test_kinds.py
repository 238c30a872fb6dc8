"""Every kind of value that a property may hold, and its JSON form: the one that msgspec has, where it has one."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import pathlib
import sys
import types
import typing
import uuid
import zoneinfo

import attrs
import msgspec
import pydantic
import pytest

from support_values import Colour, Moment, OldName, Plain, Real, Slotted, Text, Whole, assert_plain, encode, plain


class Data(bytes):
    def __bytes__(self):
        raise ValueError


class Table(dict):
    def items(self):
        raise ValueError

    def __iter__(self):
        raise ValueError


class Row(list):
    def __iter__(self):
        raise ValueError


class Day(dt.date):
    pass


class Clock(dt.time):
    pass


class Span(dt.timedelta):
    pass


class Money(decimal.Decimal):
    pass


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    A = "a"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(typing.NamedTuple):
    left: int
    right: object


@dataclasses.dataclass
class Point:
    x: int = 1
    _y: object = None
    shared: typing.ClassVar[int] = 3


@dataclasses.dataclass(slots=True)
class SlotPoint:
    x: int = 1
    y: object = None


@dataclasses.dataclass
class HalfMade:
    x: int = dataclasses.field(init=False)
    default: int = dataclasses.field(default=5, init=False)
    y: int = 2


@dataclasses.dataclass
class Answering:
    x: int = dataclasses.field(init=False)

    def __getattr__(self, name):
        return f"made up {name}" if name == "x" else super().__getattribute__(name)


@dataclasses.dataclass
class Failure(Exception):
    code: int = 3


@dataclasses.dataclass
class TextPoint(str):
    __slots__ = ("x",)
    x: int


@dataclasses.dataclass
class TablePoint(dict):
    x: int = 1


@attrs.define(slots=False)
class Open:
    a: int = attrs.field(init=False)
    b: object = None


@attrs.define
class Empty:
    a: int = attrs.field(init=False)
    b: int = 2


class Tagged(msgspec.Struct, tag=True):
    a: int = 1
    _p: int = 2


class Numbered(msgspec.Struct, tag=5, array_like=True):
    a: int = 1
    b: object = None


class Sparse(msgspec.Struct, omit_defaults=True, rename="camel"):
    first_one: int = 1
    second_one: object = None
    a_list: list = msgspec.field(default_factory=list)
    a_dict: dict = {}  # msgspec makes a new one each time
    a_tuple: tuple = ()


class Unset(msgspec.Struct):
    a: object = msgspec.UNSET
    b: int = 1


class Model(pydantic.BaseModel):
    a: int = 1
    inner: object = None
    where: pathlib.Path = pathlib.PurePosixPath("x")


@pydantic.dataclasses.dataclass
class ModelPoint:
    x: int = 1


def with_extra(value, **extra):
    vars(value).update(extra)
    return value


NEW_YORK = zoneinfo.ZoneInfo("America/New_York")


OFFSET = dt.timezone(dt.timedelta(hours=5, minutes=30))


# Everything that msgspec encodes without help.
NATIVE = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    0.1,
    -0.0,
    1e16,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    "",
    'text "quoted" \x00 ü €  😀',
    b"",
    b"\x00\xff",
    bytearray(b"\x00\xff"),
    memoryview(b"\x00\xff"),
    memoryview(array.array("i", [1, 2])),
    [],
    [1, [2, []]],
    (1, (2, ())),
    {1},
    {"a", "b", 1.5, None},
    frozenset({2, 3}),
    {},
    {"a": {"b": {}}},
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.Counter("aab"),
    Table(a=1),
    Row([1]),
    Pair(1, [2]),
    dt.time(1, 2, 3),
    dt.time(1, 2, 3, 4),
    dt.time(1, 2, 3, tzinfo=dt.UTC),
    dt.time(1, 2, 3, tzinfo=OFFSET),
    dt.time(1, 2, 3, tzinfo=NEW_YORK),
    dt.date(2020, 2, 29),
    dt.datetime(1, 1, 1),  # noqa: DTZ001
    dt.datetime.max,  # noqa: DTZ901
    dt.datetime(2020, 1, 1, 1, 2, 3, 4, dt.UTC),
    dt.datetime(2020, 1, 1, tzinfo=OFFSET),
    dt.datetime(2020, 11, 1, 1, 30, fold=1, tzinfo=NEW_YORK),
    dt.timedelta(0),
    dt.timedelta(days=1, seconds=3661, microseconds=10),
    dt.timedelta(seconds=-1.5),
    dt.timedelta.min,
    uuid.UUID(int=5),
    decimal.Decimal("1.50"),
    decimal.Decimal("1E+5"),
    decimal.Decimal("NaN"),
    *[member for member in Colour if member not in (Colour.NESTED, Colour.PLACE)],
    Level.LOW,
    Name.A,
    OldName.A,
    Permission.READ | Permission.WRITE,
    Point(),
    Point(2, [Point()]),
    with_extra(Point(), undeclared=1),
    SlotPoint(),
    HalfMade(),
    Answering(),
    Failure(),
    TextPoint("a"),
    TablePoint(),
    ModelPoint(),
    Slotted(),
    Slotted(2, [Slotted()]),
    Open(),
    with_extra(Open(), undeclared=1, _hidden=2),
    Empty(),
    Plain(),
    Plain(2, [Plain()]),
    Tagged(),
    Numbered(),
    Sparse(),
    Sparse(2, 3, [1], {"a": 1}, (1,)),
    Sparse(1, [], [], {}),
    Unset(),
    Unset([1]),
    msgspec.Raw(b'{"a":[1,2.5]}'),
    {1: 1, -5: 2, 2**70: 3},
    {1.5: 1, 1e16: 2, math.nan: 3, -math.inf: 4},
    {uuid.UUID(int=1): 1, dt.datetime(2020, 1, 1, tzinfo=dt.UTC): 2, dt.date(2020, 1, 1): 3, dt.time(1, 2): 4},
    {dt.timedelta(1): 1, decimal.Decimal("1.5"): 2, b"x": 3},
    {Colour.RED: 1, Colour.SEVEN: 2, Colour.HALF: 3, Level.LOW: 4, Name.A: 5, OldName.A: 6},
    {Text("x"): 1},
]


@pytest.mark.parametrize("value", NATIVE, ids=lambda value: type(value).__name__)
def test_looks_as_msgspec_has_it(value):
    """One odd value does not change how its neighbours look: the slow path gives what msgspec gives."""
    result = plain({"value": value, "odd": pathlib.PurePosixPath("a/b")})
    assert_plain(result)
    assert encode(result["value"]) == encode(value)
    assert json.loads(json.dumps(result)) == msgspec.json.decode(encode(result)) == result
    assert result["odd"] == "a/b"


def test_views_of_an_ordered_dict():
    """They keep its own order, unless the look-up of its keys would run code of the host's."""
    asked = []

    class Key:
        def __hash__(self):
            asked.append(1)
            return 1

    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert plain([ordered.keys(), ordered.values(), ordered.items()]) == [["b", "a"], [2, 1], [["b", 2], ["a", 1]]]
    ordered[Key()] = 3
    asked.clear()
    assert sorted(plain(ordered.values())) == [1, 2, 3]
    assert not asked


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Text("x"), "x"),
        (Whole(5), 5),
        (Real(1.5), 1.5),
        (Real("nan"), None),
        (Data(b"\x00\xff"), "AP8="),
        (Moment(2020, 1, 1, 1, 2, 3, tzinfo=dt.UTC), "2020-01-01T01:02:03Z"),
        (Moment(2020, 11, 1, 1, 30, fold=1, tzinfo=NEW_YORK), "2020-11-01T01:30:00-05:00"),
        (Day(2020, 1, 1), "2020-01-01"),
        (Clock(1, 2, 3), "01:02:03"),
        (Span(1), "P1D"),
        (Money("1.50"), "1.50"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (pathlib.PureWindowsPath("C:/a"), "C:\\a"),
        (collections.deque([1, {2}]), [1, [2]]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (types.MappingProxyType({"a": Text("x")}), {"a": "x"}),
        (collections.ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserString("a"), "'a'"),
        (memoryview(b"abcd")[::2], "YWM="),
        (Colour.NESTED, {"a": 1}),
        (Colour.PLACE, "Colour.PLACE"),
        (Model(inner=(1,)), {"a": 1, "inner": [1], "where": "x"}),
        (Model, f"{__name__}.Model"),
        (int, "int"),
        (ValueError("x"), "ValueError('x')"),
        (len, "<built-in function len>"),
        (math, repr(math)),
        (..., "Ellipsis"),
        (1j, "1j"),
        (fractions.Fraction(1, 3), "Fraction(1, 3)"),
        (list[int], "list[int]"),
        (types.SimpleNamespace(a=1), "namespace(a=1)"),
        (msgspec.UNSET, "UNSET"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_obvious_json_forms(value, expected):
    """A value that msgspec does not take gets its obvious JSON form, or else its repr."""
    assert plain({"value": value}) == {"value": expected}
    assert_plain(plain({"value": value}))


def test_an_exception_is_a_call_that_would_make_it():
    """Also a large one, or one of a type with a `repr` in C of its own."""
    many = list(range(10_000))
    for error in (ValueError("x", many), ImportError("x", many), ExceptionGroup("x", [ValueError(many)])):
        assert plain(error).startswith(f"{type(error).__name__}('x', ")


def test_pydantic_model_with_wrong_values():
    """A pydantic model that holds what it should not is dumped all the same, without a warning on the host's stderr."""
    assert plain(Model.model_construct(a="no number")) == {"a": "no number", "inner": None, "where": "x"}


def test_pydantic_model_that_does_not_dump():
    """A pydantic model whose own dump fails still says what it is."""

    class Broken(Model):
        @pydantic.model_serializer
        def serialize(self):
            raise ValueError

    assert plain({"m": Broken(), "n": 1}) == {"m": repr(Broken()), "n": 1}


def test_pydantic_model_in_itself():
    """A pydantic model that contains itself ends somewhere."""
    model = Model()
    model.inner = [model]
    result = plain({"m": model, "n": 1})
    assert_plain(result)
    assert result["n"] == 1
    assert "<cycle>" in str(result["m"]) or "Model(" in str(result["m"])


class Lazy(types.ModuleType):
    """A module that is imported once somebody looks for a name in it, as with `importlib.util.LazyLoader`."""

    def __getattribute__(self, name):
        raise AssertionError(f"imported for {name}")


@pytest.mark.parametrize("module", ["numpy", "unittest.mock", "zoneinfo"])
@pytest.mark.parametrize("stand_in", [lambda _: None, lambda _: object(), Lazy], ids=["none", "object", "lazy"])
def test_odd_modules(monkeypatch, module, stand_in):
    """A module that is blocked, no module or not imported yet is left alone, and changes no value."""
    values = [pathlib.Path("a"), collections.UserDict(a=1), collections.ChainMap({"a": 1}), Empty(), Table(), {1}]
    values += [Point(1), dt.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))]
    expected = plain(values)
    monkeypatch.setitem(sys.modules, module, stand_in("lazy"))
    assert plain(values) == expected
