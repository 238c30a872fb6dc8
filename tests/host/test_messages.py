"""The texts of exceptions: in the words of `str`, and never more than an event may cost, whatever they are made of."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import itertools
import json
import operator
import pathlib
import types
import uuid
import weakref
from decimal import Decimal

import attrs
import msgspec
import pytest

from atotelemetry.host.messages import Reader
from atotelemetry.host.values import Walk
from support_exceptions import caught, described, printed, raise_
from support_values import peak_of, plain


@dataclasses.dataclass
class Node:
    left: object
    right: object


@attrs.define
class Leaf:
    left: object
    right: object


class Row(msgspec.Struct, gc=False):
    left: object
    right: object


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024  # untyped ones are the ones of old
Colour = enum.Enum("Colour", "RED")


class Named:
    def __repr__(self):
        return "<named>"

    def __str__(self):
        return "name"


class Spoken(Exception):
    def __str__(self):
        return f"spoken of {self.args}"


ORDINARY = [
    ValueError(),
    ValueError("text"),
    ValueError("é\n"),
    ValueError(5),
    ValueError("a", 5, None, 1.5, b"c"),
    KeyError("key"),
    KeyError(("a", 1)),
    KeyError(datetime.date(2026, 1, 2)),
    KeyError(Colour.RED, 1),
    LookupError([1, (2,), {"a": {3}}, [{}, []]]),
    ValueError(datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)),  # noqa: UP017  # as it prints itself
    ValueError("late", datetime.datetime(2026, 1, 2), uuid.UUID(int=1)),  # noqa: DTZ001
    ValueError(pathlib.PurePosixPath("a/b"), Decimal("1.50"), Node, print),
    ValueError(Named()),
    ValueError("name", Named(), Named()),
    ValueError(Node(Node(1, 2), "x"), Leaf(Leaf(1, 2), "x"), Row(Row(1, 2), "x"), Pair(1, "x")),
    ValueError(Node(1, Leaf(2, Row(3, 4)))),
    ValueError(collections.deque([1], 2), types.SimpleNamespace(a=[1]), collections.OrderedDict(a=1)),
    ValueError(functools.partial(print, 1).args, range(5), {"a": 1}.keys(), slice(1, 2)),
    RuntimeError(ValueError("inner")),
    ValueError("inner", ImportError("no module", name="m"), ExceptionGroup("group", [ValueError(1)])),
    RuntimeError(Spoken(1), ValueError("a", Spoken(2))),
    Spoken(Named(), Named()),
    OSError(2, "No such file", "name"),
    OSError(18, "Across", pathlib.PurePosixPath("a"), None, "b"),
    OSError("only text"),
    ImportError("no module", name="m"),
    SyntaxError("bad", ("file.py", 1, 1, "text", 1, 2)),
    UnicodeDecodeError("utf-8", b"\xff" * 1_000_000, 0, 1, "invalid start byte"),
    UnicodeEncodeError("ascii", "\xff" * 1_000_000, 0, 1, "not ASCII"),
    ExceptionGroup("group", [ValueError(1)] * 3),
    StopIteration(Pair(1, 2)),
]


@pytest.mark.parametrize("error", ORDINARY, ids=lambda error: f"{type(error).__name__}: {error}"[:40])
def test_words_of_ordinary_exceptions(error):
    """The text of an exception is `str` of it to the letter, and so is the text of one that it is the argument of."""
    assert Reader(Walk()).text(error, "exception") == str(error)
    assert Reader(Walk()).text(RuntimeError(error), "exception") == str(error)


def doubled(make):
    """Return sixty objects, each with the one before in it twice: no `repr` of it ever ends."""
    return functools.reduce(lambda inner, _: make(inner, inner), range(60), 1)


GRAPHS = {
    "lists": lambda a, b: [a, b],
    "tuples": lambda a, b: (a, b),
    "dicts": lambda a, b: {1: a, 2: b},
    "list subclasses": lambda a, b: type("Own", (list,), {})([a, b]),
    "dataclasses": Node,
    "attrs": Leaf,
    "structs": Row,
    "named tuples": Pair,
    "namespaces": lambda a, b: types.SimpleNamespace(a=a, b=b),
    "exceptions": ValueError,
    "deques": lambda a, b: collections.deque([a, b]),
}
USES = {
    "one argument": ValueError,
    "a key": KeyError,
    "two arguments": lambda graph: ValueError("bad graph", graph),
    "a file's name": lambda graph: OSError(1, "m", graph),
    "a file's error": lambda graph: OSError(1, graph),
    "a module": ImportError,
    "a syntax error": lambda graph: SyntaxError(graph, (graph, graph, 1, graph, 1, 5)),
    "an exit": SystemExit,
    "a note": lambda graph: noted([graph]),
    "notes": lambda graph: noted({1: graph}),
    "an inner exception": lambda graph: RuntimeError(ValueError(graph)),
    "the name of a module": lambda graph: ValueError("a", ImportError("m", name=graph, path=graph)),
}


def noted(notes):
    error = ValueError("noted")
    error.__notes__ = notes
    return error


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_shared_parts(graph, use):
    """Objects that share their parts spell out more text than there is memory: their text is cut."""
    walk = Walk()
    Reader(walk).text(USES[use](doubled(GRAPHS[graph])), "exception")
    Reader(walk).notes(USES[use](doubled(GRAPHS[graph])))
    assert walk.left > 2_000, "enough for the properties"


class Endless(list):
    def __iter__(self):
        return itertools.repeat("n")


LARGE = {
    "a long text": lambda: ValueError("x" * 50_000_000),
    "a long key": lambda: KeyError("x" * 50_000_000),
    "a long text among others": lambda: ValueError("x" * 50_000_000, 1),
    "long bytes": lambda: ValueError(bytes(50_000_000), 1),
    "a large dict": lambda: KeyError(dict.fromkeys(range(500_000))),
    "many arguments": lambda: ValueError(*range(500_000)),
    "many arguments of an argument": lambda: ValueError("a", ValueError(*range(3_000_000))),
    "a huge integer": lambda: ValueError(1 << 10_000_000, 1),
    "endless notes": lambda: noted(Endless(["a"])),
    "many notes": lambda: noted(type("Own", (list,), {})(["n"] * 300_000)),
    "many long notes": lambda: ExceptionGroup("g", [noted(["n" * 10_000] * 100) for _ in range(49)]),
    "many lines": lambda: ExceptionGroup("g", [noted(["\n" * 10_000] * 100) for _ in range(49)]),
    "long lines in many": lambda: ExceptionGroup("\n" * 10_000, [ValueError("\n" * 10_000)] * 49),
    "carets": lambda: SyntaxError("m", ("f", 1, 1, "text", 1, 200_000_000)),
    "carets before": lambda: SyntaxError("m", ("f", 1, 200_000_000, "text", 1, 200_000_000)),
    "a long statement": lambda: SyntaxError("m" * 20_000_000, ("f" * 20_000_000, 1, 1, "x" * 20_000_000, 1, 5)),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory(name):
    """Whatever is large is cut before it is copied: a description takes less than 16 MiB."""
    error = caught(raise_, LARGE[name]())
    described(ValueError("warm"))
    assert peak_of(lambda: described(error)) < 16 * 2**20


def test_calls_into_the_hosts_code():
    """An event makes 64 at most, whatever they are made for: texts, notes, links, names of classes."""
    asked = []

    class Meta(type):
        def __getattribute__(cls, name):
            asked.append(name)
            return type.__getattribute__(cls, name)

    class Asking(Exception, metaclass=Meta):
        def __str__(self):
            asked.append("str")
            return "text"

        @property
        def __notes__(self):
            asked.append("notes")
            return [self, [self] * 10]

        @property
        def __cause__(self):
            asked.append("cause")
            return Asking()

    properties = described(Asking())
    assert len(asked) == 64
    assert properties["$exception_message"] == "text"


def test_one_at_a_time():
    """Of many objects each is a call, so a clock may stop them; the text has them in its words all the same."""
    calls = []

    class Asked(Named):
        def __repr__(self):
            calls.append(1)
            return "<asked>"

    reader = Reader(Walk())
    text = reader.text(ValueError("a", *[Asked() for _ in range(100)]), "exception")
    assert len(calls) == 64
    assert text.startswith("('a', <asked>, <asked>")
    assert "(not asked)" in text
    assert reader.text(ValueError([Asked()]), "exception") == "['<Asked object (not asked)>']"


ITERATED = {
    kind: type("Own", (kind,), {"__iter__": lambda _: itertools.islice(counted(), 1000), "items": lambda _: counted()})
    for kind in (set, frozenset, collections.deque, collections.OrderedDict)
}
CALLS: list[object] = []


def counted():
    for number in range(1000):
        CALLS.append(number)
        yield number, number


@pytest.mark.parametrize("kind", ITERATED)
def test_a_container_with_its_own_iteration(kind):
    """A `repr` in C would call it, for as long as it goes on: what the container holds is read past it."""
    CALLS.clear()
    value = ITERATED[kind]({1: 2})
    shown = "{'1': 2}" if issubclass(kind, dict) else "[1]"
    assert Reader(Walk()).text(ValueError("a", value), "exception") == f"('a', {shown})"
    assert Reader(Walk()).text(ValueError([value]), "exception") == f"[{shown}]"
    assert not CALLS


WRITTEN = """
import attrs, dataclasses
@dataclasses.dataclass(repr=False)
class Part:
    x: int
    def __repr__(self):
        calls.append(1)
        return "<part>"
@dataclasses.dataclass
class Inner(Part):
    pass
class Read(Inner):
    x = property(lambda self: calls.append(1), lambda self, x: None)
@attrs.define(repr=False)
class Leaf:
    x: int
    __repr__ = Part.__repr__
@attrs.define
class Shown:
    x: int = attrs.field(repr=lambda x: calls.append(1) or "x")
"""


@pytest.mark.parametrize("file", ["<stdin>", "<string>"])
@pytest.mark.parametrize("name", ["Part", "Read", "Leaf", "Shown"])
def test_a_repr_that_no_library_made(name, file):
    """Code of the host's in a dataclass or attrs class is called within the event's 64, wherever it was compiled."""
    made = {"calls": []}
    exec(compile(WRITTEN, file, "exec"), made)
    Reader(Walk()).text(ValueError("a", [made[name](1) for _ in range(1000)]), "exception")
    assert len(made["calls"]) <= 64
    made["calls"].clear()
    inner = made["Inner"](made["Inner"](1))
    assert Reader(Walk()).text(ValueError("a", inner), "exception") == str(ValueError("a", inner))


def test_names_of_many_classes():
    """A generic alias in C asks each class for names: one metaclass of the host's, and it is not shown."""
    asked = []

    def ask(cls, name="name"):
        asked.append(name)
        return type.__getattribute__(cls, name)

    for own in ({"__getattribute__": ask}, {"__getattr__": ask}, {"__origin__": property(ask)}):
        meta = type("Meta", (type,), own)
        alias = types.GenericAlias(tuple, (meta("Asked", (), {}),) * 300)
        asked.clear()
        assert Reader(Walk()).text(ValueError("a", alias), "exception") == "('a', '<GenericAlias object>')"
        assert plain({"alias": alias}) == {"alias": "<GenericAlias object>"}
        assert not asked
    assert Reader(Walk()).text(ValueError("a", list[Colour]), "exception") == str(ValueError("a", list[Colour]))


def test_names_of_many_objects():
    """It asks objects in it, too."""
    asked = []
    kind = type("Asked", (list,), {"__getattr__": lambda _, name: asked.append(name)})
    alias = types.GenericAlias(tuple, tuple(kind() for _ in range(300)))
    assert Reader(Walk()).text(ValueError("a", alias), "exception") == "('a', '<GenericAlias object>')"
    assert not asked


@pytest.mark.parametrize("look", [lambda table: table, *map(operator.methodcaller, ("keys", "values", "items"))])
def test_a_table_that_looks_its_keys_up(look):
    """A `repr` of an OrderedDict, of a view of one, and of a namespace takes the hash of each key: no key's own."""
    hashes = []

    class Key:
        def __hash__(self):
            hashes.append(1)
            return 7

    table = collections.OrderedDict([(Key(), 1), (Key(), 2)])
    space = types.SimpleNamespace()
    vars(space)[type("Name", (str,), {"__hash__": lambda name: hashes.append(1) or str.__hash__(name)})("a")] = 1
    hashes.clear()
    for value in (look(table), space):
        assert Reader(Walk()).text(ValueError("a", value), "exception").startswith("('a', ")
    assert not hashes
    ordinary = collections.OrderedDict(a=1, b=2)
    assert Reader(Walk()).text(ValueError("a", look(ordinary)), "x") == str(ValueError("a", look(ordinary)))


def test_a_text_that_captures(recorder):
    """An exception that captures itself while it is asked for its text yields one event for each, never 2^n."""
    client, lines = recorder.client, recorder.lines

    class Session(Exception):
        def __str__(self):
            client.capture_exception(Session(), distinct_id="me")
            client.capture_exception(Session(), distinct_id="me")
            return "S"

    assert client.capture_exception(Session(), distinct_id="me")
    messages = [json.loads(line)["properties"]["$exception_message"] for line in lines]
    assert messages == ["Session()"] * 2 + ["S"]


@pytest.mark.parametrize("notes", [["a\nb", Named(), 5], ("a",), type("Own", (list,), {})(["a"]), {"a": [1]}, 5, [[1]]])
def test_words_of_notes(notes):
    """Notes of any kind are printed as the standard library prints them."""
    error = caught(raise_, noted(notes))
    assert described(error)["$exception_stack_trace"].rstrip() == printed(error).rstrip()


class Items(list):
    pass


def test_a_proxy_is_the_object_behind_it():
    """Its text is asked for and bounded as that object's; one whose object is gone is described."""
    jobs = [Items(range(1_000_000)), Items([1]), Named.__repr__]
    many, few, function = map(weakref.proxy, jobs)
    for text in (lambda value: Walk().text(value), lambda value: Reader(Walk()).text(ValueError(value), "exception")):
        assert peak_of(lambda text=text: text(many)) < 4_000_000
        assert text(many).startswith("[0, 1, 2, ")
        assert text(few) == "[1]"
        assert text(function).startswith("<function Named.__repr__ at ")
    gone = weakref.proxy(Items())
    assert Walk().text(gone).startswith("<weakproxy at ")


class Meta(type(msgspec.Struct)):
    def __getattribute__(cls, name):
        CALLS.append(name)
        return type.__getattribute__(cls, name)


def test_a_struct_with_a_metaclass():
    """Its fields, defaults and configuration are read without it."""

    class First(msgspec.Struct, metaclass=Meta, omit_defaults=True):
        a: list
        b: int = 1

    value = First([1])
    error = ValueError("x", value)
    expected = str(error)
    CALLS.clear()
    assert plain([value] * 100) == [{"a": [1]}] * 100
    assert Reader(Walk()).text(error, "exception") == expected
    assert not Walk().text(First(doubled(GRAPHS["lists"]))).startswith("First(")
    assert not CALLS
