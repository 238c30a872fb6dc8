"""numpy's scalars, arrays and exceptions. Skipped where numpy cannot be imported, as under Wine."""

from __future__ import annotations

import math
import sys
import tracemalloc

import pytest

from atotelemetry.host.exceptions import exception_properties
from atotelemetry.host.values import Walk
from support_posthog_rules import check_exception_properties, in_app
from support_values import assert_plain, plain

np = pytest.importorskip("numpy", exc_type=ImportError)


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
    assert plain(np.zeros((1000, 1000))).startswith("array([[0., 0., 0., ..., 0., 0., 0.],")
    assert plain(np.array(["x"] * 20_000)).startswith("array(['x', 'x', 'x', ..., 'x'")


def test_large_arrays_whose_summary_may_be_long():
    """Of objects, or of long texts, as a property and as an id."""
    objects = np.empty(20_000, dtype=object)
    objects[0] = [[1]]
    for value in (objects, np.array(["x" * 1000] * 20_000)):
        assert plain(value) == Walk().text(value) == "<ndarray object>"


@pytest.mark.parametrize(
    ("options", "value"),
    [({"threshold": sys.maxsize}, np.zeros(20_000)), ({}, np.zeros((4,) * 8)), ({"edgeitems": 9000}, np.zeros(20_000))],
    ids=["never summarised", "many dimensions", "long ends"],
)
def test_large_arrays_that_numpy_would_show_whole(options, value):
    """A host may have turned summaries off; and one of eight dimensions is no shorter than the array."""
    with np.printoptions(**options):
        assert plain(value) == Walk().text(value) == "<ndarray object>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((3, 0)), [[], [], []]),
        (np.zeros((2_000_000, 0)), "array([], shape=(2000000, 0), dtype=float64)"),
        (np.zeros((5000, 5000, 0)), "array([], shape=(5000, 5000, 0), dtype=float64)"),
        (np.zeros((10_000, *(1,) * 30)), "<ndarray object>"),
        (np.void(b"x" * 10_000_000), "<void object>"),
    ],
    ids=["few rows", "rows without columns", "no layers", "lists of one list", "one large item"],
)
def test_values_that_hold_nothing_but_cost_much(value, expected):
    """Neither a million empty lists are made, nor the text of a million bytes."""
    tracemalloc.start()
    try:
        assert plain(value) == expected
        assert len(Walk().text(value)) < 100
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_five_dimensions():
    """They are spelled out like any array that is not large."""
    value = np.zeros((2, 2, 2, 2, 600))
    assert plain(value) == value.tolist()


def test_keys():
    """Scalars are keys as Python's are."""
    assert plain({np.float64(1.5): 3, np.int8(2): 4}) == {"1.5": 3, "2": 4}


@pytest.mark.parametrize(
    "fail",
    [lambda: np.zeros(3) @ np.zeros((2, 2)), lambda: np.zeros(3)[7], lambda: np.linalg.inv(np.zeros((2, 2)))],
    ids=["product", "index", "linalg"],
)
def test_exceptions(fail):
    """An exception out of numpy's C code keeps PostHog's rules."""
    with pytest.raises(Exception) as caught:
        fail()
    properties = exception_properties(caught.value, Walk(), distinct_id="me", own=[__name__])
    check_exception_properties(properties)
    for frame in properties["$exception_list"][0]["stacktrace"]["frames"]:
        assert in_app(frame) is (frame["module"] == __name__), frame
