"""The fast path takes exact built-ins only, as copies of its own, and asks no code of the host's about them."""

from __future__ import annotations

import collections
import decimal
import enum

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atotelemetry.host.ordinary import copy_of_ordinary, has_few_names

called: list[str] = []


class Text(str):
    """A str whose instances hold nothing of their own, so that the garbage collector does not know them."""

    __slots__ = ()

    def __hash__(self) -> int:
        called.append("hash")
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        called.append("eq")
        return str.__eq__(self, other)


class Attributes(str):  # noqa: SLOT000 - it is to have a dict
    """A str with a dict."""


class Level(enum.IntEnum):
    """An int that is more."""

    LOW = 1


class Real(float):
    """A float that is more."""


class Rows(collections.UserDict):
    """A Mapping."""

    def __getitem__(self, key: object) -> object:
        called.append("item")
        return super().__getitem__(key)


class Point:
    """An object whose dict may share its keys with others of the class, and lie within the object."""

    def __init__(self, number: int) -> None:
        self.x = number
        self.name = f"point {number}"


ROWS = [
    [{"step": number} for number in range(20)],
    [{"name": f"n{number}", "value": number, "ok": True, "none": None, "share": 0.5} for number in range(20)],
    [{"a": 1}, {"b": "é"}, {}] * 10,
    [vars(Point(number)) for number in range(20)],
]
ODD = [
    *(Text("text"), Attributes("text"), Level.LOW, Real(1.5), decimal.Decimal("1.5"), 2**63, -(2**63) - 1, b"bytes"),
    *(1j, Point(1), int, {1}),
]
ODD_KEYS = [Text("text"), Attributes("text"), 1, 1.5, True, None, Level.LOW, b"bytes"]


@pytest.fixture(autouse=True)
def calls_nothing():
    """No code of the host's runs, whatever a test passes."""
    called.clear()
    yield
    assert not called


@pytest.mark.parametrize("rows", ROWS, ids=["numbers", "all kinds", "other names", "instances"])
def test_a_long_list_of_small_dicts_is_copied(rows):
    """The copies are equal, and the host has none of them."""
    copied, room = copy_of_ordinary({"rows": rows})
    assert copied == {"rows": rows}
    assert all(mine is not theirs for mine, theirs in zip(copied["rows"], rows, strict=True))
    assert 900_000 < room < 1_000_000
    assert msgspec.json.encode(copied) == msgspec.json.encode({"rows": rows})


@pytest.mark.parametrize("beside", [5, 30])
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_values_are_not_ordinary(value, beside):
    """Wherever one stands: in a list or a dict in a list, among few values or many."""
    for values in ([*range(beside), value], [{"a": 1}] * beside + [{"b": "x", "a": value}]):
        with pytest.raises(Exception):  # noqa: B017 - whichever says so first
            copy_of_ordinary({"values": values})


@pytest.mark.parametrize("beside", [[1, 2], [1, "x"], ["x", 1], ["x", 1, "y"]], ids=str)
def test_a_metaclass_is_hardly_asked_for_its_hash(beside):
    """However many values of such a class a long list holds."""
    hashes = []

    class Meta(type):
        def __hash__(cls):
            hashes.append(cls)
            return type.__hash__(cls)

    class Odd(metaclass=Meta):
        pass

    for values in (
        [*beside, *[Odd()] * 1000, beside[1]],
        [Odd()] * 1000,
        [{"a": item} for item in [*beside, *[Odd()] * 1000]],
    ):
        hashes.clear()
        with pytest.raises(Exception):  # noqa: B017
            copy_of_ordinary(values)
        assert len(hashes) <= 2


@pytest.mark.parametrize("value", ["long" * 30, None, [1], {"b": [1]}], ids=str)
def test_one_by_one_where_not_all_are_small_and_flat(value):
    """A list in which one value is larger than the others is copied all the same."""
    for values in ([{"a": 1}] * 30 + [{"a": value}], [{"a": 1}] * 30 + [value], [1] * 30 + [value]):
        copied, room = copy_of_ordinary(values)
        assert copied == values
        assert 990_000 < room < 1_000_000
        assert type(values[-1]) is not dict or copied[-1] is not values[-1]


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: type(key).__name__)
def test_odd_keys_are_not_ordinary(key):
    """Neither in the properties, nor in a dict among few or many."""
    odd = {"a": 1, key: 2}
    called.clear()  # a dict that is made takes the hash of its keys
    for properties in (odd, {"rows": [odd]}, {"rows": [{"a": 1}] * 30 + [odd]}):
        with pytest.raises(Exception):  # noqa: B017
            copy_of_ordinary(properties)


def test_a_key_that_equals_a_known_name_does_not_pass_for_it():
    """It is not even asked: it could lead to another entry's value."""
    copy_of_ordinary({"a": 1, "text": 2})
    odd = {"a": 1, Text("text"): 2}
    called.clear()  # as above
    with pytest.raises(Exception):  # noqa: B017
        copy_of_ordinary(odd)


@pytest.mark.parametrize("count", [1, 5, 6, 20])
def test_a_dict_that_had_another_key_once_is_ordinary(count):
    """Its keys are exact strs now, though its table does not tell."""
    known = dict.fromkeys(map(str, range(count)), 1)
    known[0] = None
    del known[0]
    assert copy_of_ordinary(known)[0] == known


def test_the_size_of_a_dict_tells_the_kind_of_its_keys():
    """No size of a dict with other keys is one that a dict with exact strs as keys has."""
    odd = {}
    for number in range(10_000):
        odd[number] = None
        assert not has_few_names(odd)
        assert has_few_names(dict.fromkeys(map(str, odd))) is (len(odd) <= 341), len(odd)
        if len(odd) > 400:
            return


def test_most_of_a_dict_may_be_gone():
    """A copy would look through all the room of what is gone."""
    gone = dict.fromkeys(map(str, range(100_000)))
    for name in [*gone][1:]:
        del gone[name]
    for value in (gone, [gone], [gone] * 30):
        with pytest.raises(Exception):  # noqa: B017
            copy_of_ordinary({"value": value})


@pytest.mark.parametrize("row", [Rows(a=1), collections.OrderedDict(a=1)], ids=["Mapping", "subclass"])
def test_other_mappings_are_not_ordinary(row):
    """Code of the host's could run."""
    with pytest.raises(Exception):  # noqa: B017
        copy_of_ordinary({"rows": [{"a": 1}] * 30 + [row]})


def test_names_without_end_are_not_ordinary():
    """They are counted before they are encoded."""
    with pytest.raises(Exception):  # noqa: B017
        copy_of_ordinary({"rows": [{"a": 1}] * 30 + [{"long" * 2000: 1}]})


# Bytes stand for a str subclass: Hypothesis puts a value that one strategy made where another one made its own, and
# fails when that is not exactly a str.
ENTRIES = st.dictionaries(
    st.text(max_size=3) | st.integers(0, 3) | st.binary(max_size=3),
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=90)
    | st.decimals()
    | st.binary(max_size=3)
    | st.just(()),
    max_size=3,
)


def with_attributes(value):
    """Return the str subclass that bytes stand for, or any other value as it is."""
    return Attributes(value.decode("latin-1")) if isinstance(value, bytes) else value


@settings(deadline=None, max_examples=200)
@given(number=st.integers(0, 30), rows=st.lists(ENTRIES, max_size=6))
def test_a_list_that_is_taken_is_exact_and_looks_as_msgspec_has_it(number, rows):
    """Whatever stands in a list of dicts: what is taken of it are exact built-ins, and the same JSON."""
    rows = [{with_attributes(key): with_attributes(value) for key, value in row.items()} for row in rows]
    rows = [{"a": 1}] * number + rows
    try:
        copied, _ = copy_of_ordinary({"rows": rows})
    except Exception:
        return
    for row in copied["rows"]:
        assert type(row) is dict
        # A name may be a subclass's that equals a name seen before, as in `test_a_key_that_equals_a_known_name_…`.
        assert {*map(type, row)} <= {str, Attributes}
        assert {type(value) for value in row.values()} <= {type(None), int, float, str, list}
    assert msgspec.json.encode(copied["rows"]) == msgspec.json.encode(rows)
