"""Any value becomes plain JSON data: hostile ones cost themselves alone, and nothing is shared with the caller."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import functools
import gc
import itertools
import json
import pathlib
import sys
import threading
import types
import uuid
from unittest import mock

import msgspec
import pytest

from atotelemetry.host.values import Walk
from support_processes import run_python
from support_values import (
    Colour,
    Moment,
    OldName,
    Plain,
    Real,
    Slotted,
    Text,
    Whole,
    assert_plain,
    encode,
    generator,
    plain,
)


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
        ({Whole(5): 1, Real(0.5): 2}, {"5": 1, "0.5": 2}),
        ({"a\ud800": 1, Text("\udcff"): 2}, {"a\ufffd": 1, "\ufffd": 2}),
        ({Mean(): 1}, {"<Mean object (repr raised ValueError)>": 1}),
        ({10**5000: 1}, {"<integer of 16610 bits>": 1}),
    ],
)
def test_keys_of_any_type(mapping, expected):
    """Any key becomes text: as JSON has it where it can, and otherwise what describes it."""
    assert plain(mapping) == expected
    assert plain([types.MappingProxyType(mapping)]) == [expected]


def test_keys_that_the_event_cannot_pay_for():
    """Each is marked as a whole, not letter by letter."""
    result = plain({"rows": {(number, number): [0] * 60_000 for number in range(3)}})
    assert list(result["rows"]) == ["(0, 0)", "<too many values>", "<too many values> (2)"]


def test_keys_that_look_alike_lose_nothing():
    """Two keys that become the same text both stay, the second one with a number."""
    assert plain({1: "a", "1": "b", "1 (2)": "c"}) == {"1": "a", "1 (2)": "b", "1 (2) (2)": "c"}
    assert plain([dict(zip(("\udcff", "\udcfe", "\udcfd"), (1, 2, 3), strict=True))]) == [
        {"\ufffd": 1, "\ufffd (2)": 2, "\ufffd (3)": 3}
    ]


def test_many_keys_that_look_alike():
    """A great number of equal names is numbered in a time that grows no faster than they do."""
    lone = range(0xDC80, 0xDCE4)
    result = plain({f"{chr(a)}{chr(b)}": index for index, (a, b) in enumerate(itertools.product(lone, lone))})
    assert len(result) == 10_000
    assert result["\ufffd\ufffd (10000)"] == 9_999


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
    # Finalizers of other tests' objects would find no room, either.
    gc.collect()
    gc.disable()
    sys.setrecursionlimit(400)
    try:
        descend()
    except RecursionError:
        pass
    finally:
        sys.setrecursionlimit(limit)
        gc.enable()
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
        (10**5000, "<integer of 16610 bits>"),
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


def test_a_text_is_cut():
    """A name takes no more than 1024 characters."""
    assert Walk().text("a" * 1025) == "a" * 1023 + "…"
    assert Walk().text("a" * 1024) == "a" * 1024


def test_huge_properties_leave_room_for_the_small_ones_behind_them():
    """Each may use half of the rest, so none behind it is left out, however many they are."""
    huge = {f"huge {number}": [[item] for item in range(20_000)] for number in range(40)}
    result = Walk().properties({**huge, "small": 1})
    assert list(result) == [*huge, "small"]
    assert result["small"] == 1


def test_nothing_is_loaded():
    """On behalf of values nothing is imported but msgspec: no numpy, pydantic, attrs or unittest.mock."""
    program = (
        "import sys, msgspec; before = set(sys.modules); from atotelemetry.host.values import Walk;"
        "Walk().properties({'a': object(), 1: {2: 3}, 'c': sys});"
        "new = set(sys.modules) - before - set(sys.builtin_module_names) - {'__future__'};"
        "print(*[name for name in new if name.partition('.')[0] != 'atotelemetry'])"
    )
    assert run_python(program).split() == []


@pytest.mark.posix("paths in bytes")
def test_bytes_paths():
    """A path made of bytes becomes text as well."""

    class BytesPath:
        def __fspath__(self):
            return b"a/\xff"

    assert plain([BytesPath()]) == ["a/\ufffd"]
