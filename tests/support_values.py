"""Values of many kinds, and one as an event would have it."""

from __future__ import annotations

import datetime as dt
import enum
import math
import tracemalloc
import types

import attrs
import msgspec

from atotelemetry.host.values import Walk

encode = msgspec.json.Encoder().encode


def plain(value: object):
    """Return `value` as exact built-ins that any JSON encoder takes. A dict always gives a dict."""
    walk = Walk()
    return walk.properties(value) if issubclass(type(value), dict) else walk.value(value, 0)


def peak_of(function):
    """Return the memory in bytes that a call takes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


class Moment(dt.datetime):
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


class OldName(str, enum.Enum):  # noqa: UP042  # what programs wrote before StrEnum
    A = "a"

    def __str__(self):
        return "not this"


@attrs.define
class Slotted:
    a: int = 1
    b: object = None
    _hidden: int = 2


class Plain(msgspec.Struct):
    a: int = 1
    b: object = None


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


def generator():
    raise AssertionError("a generator is not run")
    yield
