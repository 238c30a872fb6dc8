"""The slow path of capture: whatever a property holds, plain JSON data comes out, and the neighbours look as ever."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import itertools
import json
import math
import pathlib
import subprocess
import sys
import threading
import types
import typing
import uuid
import zoneinfo
from unittest import mock

import attrs
import msgspec
import numpy as np
import pydantic
import pytest

from atotelemetry.host.cut import CUT_PROPERTY, cut_to_fit
from atotelemetry.host.values import Walk, plain

encode = msgspec.json.Encoder().encode


class Text(str):
    __slots__ = ()

    def __str__(self):
        raise ValueError


class Whole(int):
    def __int__(self):
        raise ValueError

    def __str__(self):
        raise ValueError


class Real(float):
    def __float__(self):
        raise ValueError


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


class Moment(dt.datetime):
    pass


class Day(dt.date):
    pass


class Clock(dt.time):
    pass


class Span(dt.timedelta):
    pass


class Money(decimal.Decimal):
    pass


class Colour(enum.Enum):
    RED = "red"
    SEVEN = 7
    HALF = 0.5
    PAIR = (1, "x")
    NOTHING = None
    RAW = b"x"
    NESTED = types.MappingProxyType({"a": 1})
    PLACE = object()


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    A = "a"


class OldName(str, enum.Enum):  # noqa: UP042  # what programs wrote before StrEnum
    A = "a"

    def __str__(self):
        return "not this"


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


@attrs.define
class Slotted:
    a: int = 1
    b: object = None
    _hidden: int = 2


@attrs.define(slots=False)
class Open:
    a: int = attrs.field(init=False)
    b: object = None


@attrs.define
class Empty:
    a: int = attrs.field(init=False)
    b: int = 2


class Plain(msgspec.Struct):
    a: int = 1
    b: object = None


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


def assert_plain(value):
    """Everything in `value` is an exact builtin that any JSON encoder takes."""
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) is str
            key.encode()
            assert_plain(item)
    elif type(value) is list:
        for item in value:
            assert_plain(item)
    elif type(value) is str:
        value.encode()
    elif type(value) is int:
        assert -(2**63) <= value < 2**64
    elif type(value) is float:
        assert math.isfinite(value)
    else:
        assert value is None or type(value) is bool


@pytest.mark.parametrize("value", NATIVE, ids=lambda value: type(value).__name__)
def test_looks_as_msgspec_has_it(value):
    """One odd value does not change how its neighbours look: the slow path gives what msgspec gives."""
    result = plain({"value": value, "odd": pathlib.PurePosixPath("a/b")})
    assert_plain(result)
    assert encode(result["value"]) == encode(value)
    assert json.loads(json.dumps(result)) == msgspec.json.decode(encode(result)) == result
    assert result["odd"] == "a/b"


def generator():
    raise AssertionError("a generator is not run")
    yield


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1.5), 1.5),
        (np.float64("nan"), None),
        (np.float32(1.5), 1.5),
        (np.longdouble(1.5), 1.5),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.bytes_(b"x"), "eA=="),
        (np.complex128(1j), "1j"),
        (np.datetime64("2020-01-01T00:00:00.000000001"), "2020-01-01T00:00:00.000000001"),
        (np.datetime64("NaT", "s"), None),
        (np.timedelta64(5, "D"), "5 days"),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array([1.5, math.nan]), [1.5, None]),
        (np.array(7), 7),
        (np.array([{1}, None], dtype=object), [[1], None]),
        (np.array(["2020-01-01"], dtype="datetime64[ns]"), ["2020-01-01T00:00:00.000000000"]),
        (np.zeros(1, dtype=[("a", "i4"), ("b", "f4")])[0], [0, 0.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numpy(value, expected):
    """The scalars and small arrays of numpy become numbers, text and lists."""
    result = plain({"value": value})
    assert result == {"value": expected}
    assert_plain(result)


def test_large_arrays_are_summarised():
    """A large array is not sent whole."""
    assert len(plain(np.zeros((1000, 1000)))) <= 1024


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


class Mean:
    def __repr__(self):
        raise ValueError

    def __str__(self):
        return 7  # noqa: PLE0307


class Liar:
    @property
    def __class__(self):
        raise ValueError


class Guarded:
    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise KeyError(name="x")


class Sly(type):
    @property
    def __name__(cls):
        raise ValueError

    def __getattribute__(cls, name):
        raise ValueError

    def __getattr__(cls, name):
        return 1


class SlyThing(metaclass=Sly):
    __slots__ = ()


class LongRepr:
    def __repr__(self):
        return Text("r" * 5_000_000)


class SurrogateRepr:
    def __repr__(self):
        return "\udcff"


class EndlessRepr:
    def __repr__(self):
        return repr(self)


class NoRepr:
    __repr__ = None


class BadZone(dt.tzinfo):
    def utcoffset(self, moment):
        raise ValueError

    def __repr__(self):
        return "BadZone()"


class BadPath:
    def __fspath__(self):
        raise OSError


class NumberPath:
    def __fspath__(self):
        return 7

    def __repr__(self):
        return "NumberPath()"


class BadMapping(collections.abc.Mapping):
    def __getitem__(self, key):
        raise KeyError(key)

    def __iter__(self):
        yield 1

    def __len__(self):
        return 1

    def __repr__(self):
        return "BadMapping()"


class EndlessMapping(BadMapping):
    def __getitem__(self, key):
        return key

    def __iter__(self):
        return iter(range(10**12))


class FakeDataclass:
    __dataclass_fields__ = "abc"

    def __repr__(self):
        return "FakeDataclass()"


class InfiniteModel:
    __pydantic_validator__ = True

    def model_dump(self, **options):
        return {"a": self, "b": [InfiniteModel(), InfiniteModel()]}


class EchoModel:
    __pydantic_validator__ = True

    def model_dump(self, **options):
        return {"a": [self]}


class SelfEnum(enum.Enum):
    ME = 1


SelfEnum.ME._value_ = [SelfEnum.ME]


def released():
    view = memoryview(bytearray(b"x"))
    view.release()
    return view


def cyclic(kind):
    if kind is list:
        value = [1]
        value.append(value)
    elif kind is dict:
        value = {"a": 1}
        value["self"] = value
    else:
        value = kind()
        value.b = [value]
    return value


def deep(levels, wrap):
    return functools.reduce(lambda inner, _: wrap(inner), range(levels), 1)


def wide(levels):
    """Make a few dozen lists that spell out 2**levels values."""
    return functools.reduce(lambda inner, _: [inner, inner], range(levels), 1)


HOSTILE = {
    "repr raises": (Mean(), "<Mean object (repr raised ValueError)>"),
    "__class__ raises": (Liar(), None),
    "every attribute raises": (Guarded(), "<Guarded object (repr raised "),
    "its class lies": (SlyThing(), None),
    "endless repr": (EndlessRepr(), "<EndlessRepr object (repr raised RecursionError)>"),
    "no repr": (NoRepr(), "<NoRepr object (repr raised TypeError)>"),
    "long repr": (LongRepr(), "rrrr"),
    "surrogate in repr": (SurrogateRepr(), "\ufffd"),
    "generator": (generator(), "<generator object "),
    "lock": (threading.Lock(), "<unlocked "),
    "open file": (sys.__stdin__, None),
    "lone surrogate": ("a\ud800b", "a\ufffdb"),
    "surrogate pair": ("\ud83d\ude00", "😀"),
    "surrogate in a path": (pathlib.PurePosixPath("a\udcff"), "a\ufffd"),
    "surrogate in a subclass": (Text("\udcff"), "\ufffd"),
    "2**64": (2**64, "18446744073709551616"),
    "2**70": (2**70, "1180591620717411303424"),
    "-2**70": (-(2**70), "-1180591620717411303424"),
    "10**5000": (10**5000, "<integer of 16610 bits>"),
    "subclass of int, large": (Whole(2**70), "1180591620717411303424"),
    "zone that raises": (
        dt.datetime(2020, 1, 1, tzinfo=BadZone()),
        "datetime.datetime(2020, 1, 1, 0, 0, tzinfo=BadZone())",
    ),
    "zone that raises, subclass": (Moment(2020, 1, 1, tzinfo=BadZone()), "Moment(2020, 1, 1, 0, 0, tzinfo=BadZone())"),
    "path that raises": (BadPath(), None),
    "path that is a number": (NumberPath(), "NumberPath()"),
    "mapping that raises": (BadMapping(), "BadMapping()"),
    "endless mapping": (EndlessMapping(), None),
    "endless range": (range(10**15), None),
    "fake dataclass": (FakeDataclass(), "FakeDataclass()"),
    "infinite model": (InfiniteModel(), None),
    "model that dumps itself": (EchoModel(), {"a": ["<cycle>"]}),
    "released memoryview": (released(), "<released memory at "),
    "enum that is its own value": (SelfEnum.ME, ["<cycle>"]),
    "mock": (mock.Mock(), "<Mock id="),
    "magic mock": (mock.MagicMock(), "<MagicMock id="),
    "mock of a dict": (mock.Mock(spec=dict), "<Mock spec='dict' id="),
    "mock of a path": (mock.MagicMock(spec=pathlib.Path), "<MagicMock spec='Path' id="),
    "call": (mock.call(1), None),
    "list in itself": (cyclic(list), [1, "<cycle>"]),
    "dict in itself": (cyclic(dict), {"a": 1, "self": "<cycle>"}),
    "struct in itself": (cyclic(Plain), {"a": 1, "b": ["<cycle>"]}),
    "attrs in itself": (cyclic(Slotted), {"a": 1, "b": ["<cycle>"]}),
    "deep list": (deep(5000, lambda inner: [inner]), None),
    "deep dict": (deep(5000, lambda inner: {"a": inner}), None),
    "deep tuple": (deep(5000, lambda inner: (inner,)), None),
    "deep struct": (deep(5000, lambda inner: Plain(1, inner)), None),
    "2**40 values": (wide(40), None),
    "broken raw": (msgspec.Raw(b'{"a":'), None),
    "raw with a line break": (msgspec.Raw(b'{"a":\n1}'), {"a": 1}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_replaced_alone(name):
    """A value that misbehaves becomes something a person understands, and everything else is as it was."""
    value, expected = HOSTILE[name]
    result = plain({"before": 1, "value": value, "after": ["x", {"y": None}], "inside": [value, 2]})
    assert_plain(result)
    assert (result["before"], result["after"], result["inside"][1]) == (1, ["x", {"y": None}], 2)
    if isinstance(expected, str):
        assert result["value"].startswith(expected)
        assert len(result["value"]) <= 1024
    elif expected is not None:
        assert result["value"] == expected
    assert len(encode(result)) < 3_000_000
    assert json.loads(encode(result)) == result


def test_depth_is_cut_where_the_server_would_refuse():
    """Down to a hundred levels nothing is lost; below that a text stands for the rest."""
    shallow = deep(90, lambda inner: [inner])
    assert plain({"v": shallow})["v"] == shallow
    text = encode(plain({"v": deep(150, lambda inner: {"a": inner})}))
    assert b"<nested too deeply>" in text
    assert text.count(b"{") < 110


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({None: 1, True: 2, False: 3}, {"null": 1, "true": 2, "false": 3}),
        ({(1, "a"): 1, frozenset({1}): 2}, {"(1, 'a')": 1, "frozenset({1})": 2}),
        ({pathlib.PurePosixPath("x"): 1, int: 2, Colour.NOTHING: 3}, {"x": 1, "int": 2, "null": 3}),
        ({Whole(5): 1, Real(0.5): 2, np.float64(1.5): 3, np.int8(2): 4}, {"5": 1, "0.5": 2, "1.5": 3, "2": 4}),
        ({"a\ud800": 1, Text("\udcff"): 2}, {"a\ufffd": 1, "\ufffd": 2}),
        ({Mean(): 1}, {"<Mean object (repr raised ValueError)>": 1}),
        ({10**5000: 1}, {"<integer of 16610 bits>": 1}),
    ],
)
def test_keys_of_any_type(mapping, expected):
    """Any key becomes text: as JSON has it where it can, and otherwise what describes it."""
    assert plain(mapping) == expected
    assert plain([types.MappingProxyType(mapping)]) == [expected]


def test_keys_that_look_alike_lose_nothing():
    """Two keys that become the same text both stay, the second one with a number."""
    assert plain({1: "a", "1": "b", "1 (2)": "c"}) == {"1": "a", "1 (2)": "b", "1 (2) (2)": "c"}
    assert plain([dict(zip(("\udcff", "\udcfe", "\udcfd"), (1, 2, 3), strict=True))]) == [
        {"\ufffd": 1, "\ufffd (2)": 2, "\ufffd (3)": 3}
    ]


def test_many_keys_that_look_alike():
    """A great number of equal names is numbered in a time that grows no faster than they do."""
    lone = range(0xDC80, 0xDD00)
    result = plain({f"{chr(a)}{chr(b)}": index for index, (a, b) in enumerate(itertools.product(lone, lone))})
    assert len(result) == 128 * 128
    assert result["\ufffd\ufffd (16384)"] == 128 * 128 - 1


def test_a_huge_property_starves_no_other():
    """Values are bounded in number, and what one property cannot have is still there for the next ones."""
    huge = list(range(1_000_000))
    result = plain({"huge": huge, "same": huge, "later": [[1], {"a": {2}}], "last": 1})
    assert result["later"] == [[1], {"a": [2]}]
    assert result["last"] == 1
    assert result["huge"][:3] == [0, 1, 2]
    assert result["huge"][-1] == f"<{1_000_000 - len(result['huge']) + 1} more>"
    assert 10_000 < len(result["huge"]) < 50_000
    assert 5_000 < len(result["same"]) < 50_000
    assert 10_000 < len(plain(huge)) < 50_000
    assert 10_000 < len(plain(dict.fromkeys(huge, 1))) < 50_000


def test_the_same_value_twice_is_no_cycle():
    """Only a container inside itself is a cycle; one that stands in two places is there twice."""
    shared = [1]
    assert plain({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}


def test_result_shares_nothing_with_the_caller():
    """What the caller changes afterwards does not reach the event."""
    original = {"list": [1], "dict": {"a": [2]}}
    result = plain(original)
    original["list"].append(2)
    original["dict"]["a"].append(3)
    assert result == {"list": [1], "dict": {"a": [2]}}


def test_a_text_that_an_event_can_hold_is_left_whole():
    """How the texts of an event share its size is `cut_to_fit`'s business."""
    text = "x" * 800_000
    assert plain({"text": text})["text"] is text


@pytest.mark.parametrize("text", ["x" * 50_000_000, "ü" * 5_000_000], ids=["ascii", "not ascii"])
def test_a_text_that_no_event_can_hold_is_cut_first(text):
    """Before it is copied or looked at; what is left of it says how long it was."""
    result = plain({"text": text, "list": [text], "after": "a" * 1000})
    for cut in (result["text"], result["list"][0]):
        kept, mark = cut.split("…")
        assert text.startswith(kept)
        assert 100_000 < len(kept) < 1_000_000
        assert mark == f" [cut: {len(text)} characters]"
    assert result["after"] == "a" * 1000


def test_containers_that_another_thread_changes():
    """Dicts, lists, sets and deques that change all the time are taken as they were at some moment."""
    table, row, group, queue = {}, [], set(), collections.deque()
    properties = {"odd": pathlib.PurePosixPath("x"), "table": table, "row": row, "group": group, "queue": queue}
    stop, running = threading.Event(), threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            table[number % 997] = [number]
            table.pop(number * 7 % 997, None)
            group.symmetric_difference_update({number % 97, number % 89})
            row.append({"n": number})
            queue.append(number)
            if len(row) > 300:
                row.clear()
                queue.clear()
            running.set()

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        assert running.wait(10)
        for _ in range(60):
            result = plain(properties)
            assert [type(item) for item in result.values()] == [str, dict, list, list, list]
            assert_plain(result)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_a_container_that_changes_during_a_read():
    """A container that another thread changed while it was read is read again."""
    reads = []

    class Busy(collections.abc.Mapping):
        def __iter__(self):
            reads.append(1)
            yield "a"
            if len(reads) < 4:
                raise RuntimeError("dictionary changed size during iteration")

        def __len__(self):
            return 1

        def __getitem__(self, key):
            return key

    assert plain({"value": Busy()}) == {"value": {"a": "a"}}


def test_a_container_that_changes_during_every_read():
    """A container that never holds still is described; it is not tried forever, and nothing is raised."""

    class Restless(collections.abc.Mapping):
        def __iter__(self):
            raise RuntimeError("changed")

        def __len__(self):
            return 1

        def __getitem__(self, key):
            return key

        def __repr__(self):
            return "Restless()"

    assert plain({"value": Restless(), "n": 1}) == {"value": "Restless()", "n": 1}


def test_called_with_hardly_any_stack_left():
    """A host that is deep in its own calls gets a dict too, however little of it could be read."""
    results = []

    def descend():
        try:
            descend()
        except RecursionError:
            # Here there was still room; going on from the deepest frames upwards meets every amount of it.
            pass
        if len(results) < 200:
            results.append(plain({"a": [{"b": (1, {2})}], "c": Mean(), "d": 1}))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        descend()
    except RecursionError:
        pass
    finally:
        sys.setrecursionlimit(limit)
    assert results
    for result in results:
        assert type(result) is dict
        assert_plain(result)
    assert any("<nested too deeply>" in str(result.get("a")) for result in results)
    assert results[-1] == {"a": [{"b": [1, [2]]}], "c": "<Mean object (repr raised ValueError)>", "d": 1}


def test_interrupts_are_the_hosts():
    """Ctrl-C while a value describes itself is not swallowed."""

    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain({"value": Interrupted()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("event", "event"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (7, "7"),
        (None, "None"),
        (Text("x"), "x"),
        (OldName.A, "a"),
        (Colour.RED, "red"),
        (b"caf\xc3\xa9\xff", "café\ufffd"),
        ("a\ud800b", "a\ufffdb"),
        ("x" * 2000, "x" * 1023 + "…"),
        (Mean(), "<Mean object (repr raised ValueError)>"),
        (SurrogateRepr(), "\ufffd"),
        (10**5000, "<int object (repr raised ValueError)>"),
        (cyclic(list), "[1, '<cycle>']"),
        ((1, "x"), "[1, 'x']"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_text(value, expected):
    """An event name or distinct_id may be anything with a `str`, and even without one there is a text."""
    result = Walk().text(value)
    assert type(result) is str
    assert result == expected


@pytest.mark.parametrize("name", HOSTILE)
def test_plain_text_of_hostile_values(name):
    """Whatever the value does when asked for its text, there is one, and it is short and can be encoded."""
    result = Walk().text(HOSTILE[name][0])
    assert type(result) is str
    assert 0 < len(result.encode()) <= 4096
    assert len(result) <= 1024


def test_plain_text_keeps_to_its_limit():
    """The limit is the caller's."""
    assert Walk().text("abcdef", 3) == "ab…"
    assert Walk().text("abc", 3) == "abc"


LIMIT = 900 * 1024


def test_what_fits_is_copied():
    """Properties that fit come back as they are, in a new dict."""
    properties = {"a": 1, "b": ["x"]}
    result = cut_to_fit(properties, LIMIT, encode)
    assert result == properties
    assert result is not properties


def test_the_longest_text_is_cut():
    """A long text keeps as much of its beginning as fits and says how long it was; the others stay whole."""
    properties = {"short": "s", "long": "0123456789" * 500_000, "list": list(range(1000)), "last": None}
    result = cut_to_fit(properties, LIMIT, encode)
    assert LIMIT - 5000 < len(encode(result)) <= LIMIT
    assert result["long"].startswith("0123456789" * 80_000)
    assert result["long"].endswith("… [cut: 5000000 characters]")
    assert result[CUT_PROPERTY] == ["long"]
    assert {name: result[name] for name in ("short", "list", "last")} == {
        name: properties[name] for name in ("short", "list", "last")
    }


def test_a_large_container_is_replaced():
    """A list or dict is not torn apart: a text says how large it was."""
    value = {"rows": ["x" * 100] * 10_000}
    result = cut_to_fit({"data": value, "n": 1}, LIMIT, encode)
    assert result == {"data": f"[cut: {len(encode(value))} bytes]", "n": 1, CUT_PROPERTY: ["data"]}


@pytest.mark.parametrize(
    "text",
    ["\x00" * 2_000_000, "😀" * 500_000, "\x00" * 150_000 + "a" * 2_000_000, "a" * 500_000 + '"\n\x01' * 500_000],
    ids=["escapes", "emoji", "heavy beginning", "heavy end"],
)
@pytest.mark.parametrize("encoder", [encode, lambda value: json.dumps(value).encode()], ids=["msgspec", "json"])
def test_text_whose_characters_take_several_bytes(text, encoder):
    """Bytes are what is limited: text full of escapes is cut sooner, and still keeps what it can."""
    result = cut_to_fit({"text": text, "n": 1}, LIMIT, encoder)
    assert len(encoder(result)) <= LIMIT
    assert result["n"] == 1
    assert text.startswith(result["text"].split("…")[0])
    assert len(encoder(result)) > LIMIT - 10_000


def test_many_long_texts():
    """Where cutting one does not suffice the next longest follow, and what was short stays whole."""
    properties = {f"p{index}": str(index) * 3000 for index in range(1000)} | {"n": 1, "short": "x" * 60}
    result = cut_to_fit(properties, LIMIT, encode)
    assert len(encode(result)) <= LIMIT
    assert len(result) == len(properties) + 1
    assert (result["n"], result["short"]) == (1, "x" * 60)


def test_a_hundred_thousand_small_properties():
    """Small properties in great number lose their last ones, and the event says how many."""
    properties = {f"property_{index}": index for index in range(100_000)}
    result = cut_to_fit(properties, LIMIT, encode)
    assert LIMIT - 10_000 < len(encode(result)) <= LIMIT
    kept = len(result) - 1
    assert list(result.items())[:kept] == list(properties.items())[:kept]
    assert result[CUT_PROPERTY] == [f"and the last {100_000 - kept} properties"]


def test_names_that_are_too_long():
    """A name can be the large part; it is cut too, and no property vanishes because names became alike."""
    properties = {"n" * 2_000_000: 1, "n" * 2_000_001: 2, "b": 3}
    result = cut_to_fit(properties, LIMIT, encode)
    assert len(encode(result)) < 10_000
    assert sorted(value for name, value in result.items() if name != CUT_PROPERTY) == [1, 2, 3]


@pytest.mark.parametrize("limit", [0, 1, 2, 10, 50, 100, 200, 500, 1000, 5000, 20_000])
def test_every_limit_is_kept(limit):
    """However small the limit, what comes back fits into it."""
    properties = {f"p{index}": "x" * index for index in range(300)} | {"big": "y" * 10_000, "list": [1] * 1000}
    assert len(encode(cut_to_fit(properties, limit, encode))) <= max(limit, 2)


def test_an_encoder_that_fails():
    """Cutting never raises, not even when what is to be measured cannot be encoded."""

    def broken(value):
        raise ValueError

    assert cut_to_fit({"a": 1}, LIMIT, broken) == {}


def test_import_is_cheap():
    """Importing the module loads nothing that a bare interpreter does not have, nor msgspec."""
    program = (
        "import sys; before = set(sys.modules); import atotelemetry.host.values;"
        "new = set(sys.modules) - before - set(sys.builtin_module_names) - {'__future__'};"
        "print(*[name for name in new if name.partition('.')[0] != 'atotelemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout.split(), done.stderr) == ([], "")


def test_no_import_on_behalf_of_others():
    """numpy, pydantic, attrs and unittest.mock are recognised where the host has them and loaded nowhere else."""
    program = (
        "import sys, msgspec; before = set(sys.modules);"
        "from atotelemetry.host.values import plain; plain({'a': object(), 'b': {1: 2}, 'c': sys, 'd': plain});"
        "new = set(sys.modules) - before - set(sys.builtin_module_names) - {'__future__'};"
        "print(*[name for name in new if name.partition('.')[0] != 'atotelemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout.split(), done.stderr) == ([], "")


def test_bytes_paths():
    """A path made of bytes becomes text as well."""

    class BytesPath:
        def __fspath__(self):
            return b"a/\xff"

    assert plain([BytesPath()]) == ["a/\ufffd"]
