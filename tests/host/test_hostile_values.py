"""No value of the host's hurts the host: no crash, no unbounded cost, whatever it is and however it changes."""

from __future__ import annotations

import collections
import datetime
import gc
import json
import sys
import uuid
from unittest import mock

import msgspec
import pytest

from atotelemetry import wire
from atotelemetry.host import values
from support_client import Recorder
from support_hostile import run_host
from support_values import plain

# Values that change while they are read


CHANGES = {
    "a time zone clears the list that it stands in": """
import datetime
class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        log.clear()
        return datetime.timedelta(hours=1)
log = []
log += [datetime.datetime(2026, 1, 1, tzinfo=Zone())] + [f"line {i}" for i in range(1000)]
value = log
""",
    "a repr clears the dict that it stands in": """
class Clears:
    def __repr__(self):
        table.clear()
        return "cleared"
table = {}
table.update({"first": Clears()}, **{f"key {i}": [str(i)] for i in range(1000)})
value = table
""",
    "a dataclass's property clears its object's dict": """
import dataclasses
@dataclasses.dataclass
class Row:
    a: list
    @property
    def b(self):
        vars(self).clear()
        return 1
    @b.setter
    def b(self, value):
        pass
Row.__dataclass_fields__["b"] = Row.__dataclass_fields__["a"]
value = [Row([str(i)]) for i in range(100)]
""",
    "a str subclass's hash clears the rows": """
class Key(str):
    def __hash__(self):
        for row in rows:
            dict.clear(row)
        return str.__hash__(self)
rows = []
rows += [{f"a{i}": i} for i in range(50)] + [{Key("k"): 1, "b": 2}] + [{f"b{i}": i} for i in range(50)]
value = rows
""",
    "a key passes for one name, and then for another": """
import datetime
class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        log.clear()
        return datetime.timedelta(hours=1)
log = []
log += [datetime.datetime(2026, 1, 1, tzinfo=Zone())] + [{str(i): [i, str(i) * 50]} for i in range(2000)]
class Key(str):
    asked = 0
    def __hash__(self):
        Key.asked += 1
        return hash("ba"[Key.asked % 2])
    def __eq__(self, other):
        return True
client.capture("known", distinct_id="me", properties={"b": 5, "a": 1})
lines.clear()
value = {"b": 5}
value[Key("z")] = log
Key.asked = 0
""",
    "a finalizer clears the list while it is copied": """
import gc
class Clears:
    def __init__(self):
        self.me = self
    def __del__(self):
        rows.clear()
gc.set_threshold(5)
rows = [{"a": [i]} for i in range(1000)]
Clears()
value = rows
""",
}


@pytest.mark.parametrize("name", CHANGES)
def test_code_of_the_hosts_that_changes_containers_meanwhile(name):
    """The encoder holds borrowed references, so it never meets a container that anybody else could change."""
    source = """
for _ in range(50):
    client.capture("built", distinct_id="me", properties={"value": value, "after": 1})
assert len(lines) == 50
print("alive")
"""
    assert run_host(CHANGES[name] + source) == "alive\n"


def test_values_beside_a_callers_many_properties():
    """Also the part of an event that `Telemetry` adds, such as a command line's, never meets the encoder as it is."""
    source = """
from atotelemetry.host.event import merged
many = {f"name {i}": i for i in range(400)}
for parts in ({"options": log}, many, {}), ({}, many, {"options": log}):
    client.capture("built", distinct_id="me", properties=merged(*parts))
assert len(lines) == 2
print("alive")
"""
    assert run_host(CHANGES["a time zone clears the list that it stands in"] + source) == "alive\n"


def test_threads_that_replace_rows_with_zoned_moments():
    """The ordinary form of it: a thread replaces a list of rows while another captures the state that holds them."""
    source = """
import datetime, threading
class Zone(datetime.tzinfo):  # as dateutil and pytz write theirs
    def utcoffset(self, when):
        return datetime.timedelta(minutes=sum(range(500)) // 2000)
zone = Zone()
def rows():
    return [{"at": datetime.datetime(2026, 1, 1, tzinfo=zone), "step": f"{i}"} for i in range(50)]
state = {"history": rows()}
stop = threading.Event()
def work():
    while not stop.is_set():
        state["history"] = rows()
        state["history"].pop()
sys.setswitchinterval(1e-6)
thread = threading.Thread(target=work)
thread.start()
for _ in range(300):
    assert client.capture("tick", distinct_id="me", properties=state)
stop.set()
thread.join()
print("alive")
"""
    assert run_host(source) == "alive\n"


# Bounds


LARGE = {
    "shared dataclasses": "functools.reduce(lambda a, _: Node(a, a), range(27), 1)",
    "shared lists": "functools.reduce(lambda a, _: [a, a], range(60), 1)",
    "shared lists, padded": "functools.reduce(lambda a, _: [a, a] + [0] * 50_000, range(40), 1)",
    "shared lists of numbers": "[[*range(9_000), []]] * 1_000",
    "shared lists of dicts": "[[{'a': i} for i in range(9_000)]] * 1_000",
    "shared dicts": "[dict.fromkeys(map(str, range(250)), 1)] * 9_000",
    "shared small dicts": "[dict.fromkeys(map(str, range(16)), 1)] * 9_000",
    "long texts in small dicts": "[{'a': 1}] * 9_000 + [{'a': 'x' * 100_000_000}]",
    "long names in small dicts": "[{'a': 1}] * 9_000 + [{'x' * 100_000_000: 1}]",
    "shared namespaces": "functools.reduce(lambda a, _: types.SimpleNamespace(a=a, b=a), range(27), 1)",
    "shared exceptions": "functools.reduce(lambda a, _: ValueError(a, a), range(27), 1)",
    "shared partials": "functools.reduce(lambda a, _: functools.partial(print, a, a), range(27), 1)",
    "shared deques": "functools.reduce(lambda a, _: collections.deque([a, a]), range(27), 1)",
    "a range": "range(10**9)",
    "an endless set": "Endless([1, 2])",
    "an endless mapping": "EndlessMapping()",
    "a dict of a million": "dict.fromkeys(range(1_000_000))",
    "a list of a million": "list(range(1_000_000))",
    "a long text": "'x' * 200_000_000",
    "a long text that is not ASCII": "'\\u00fc' * 50_000_000",
    "long bytes": "bytes(200_000_000)",
    "a long text of a subclass": "Text('x' * 100_000_000)",
    "a long UserString": "collections.UserString('x' * 50_000_000)",
    "a long text of a subclass, often": "[Text('x' * 16_000_000)] * 100",
    "a huge integer of a subclass": "[Whole(1 << 10**8)] * 100",
    "long bytes of a subclass": "Data(200_000_000)",
    "long bytes, often": "[bytearray(16_000_000), memoryview(bytes(16_000_000))[::2]] * 100",
    "a bound method of shared lists": "types.MethodType(print, LISTS)",
    "a slice of shared lists": "slice(LISTS)",
    "an iterator over shared lists": "itertools.repeat(LISTS)",
    "a static method of shared lists": "staticmethod(LISTS)",
    "a type of shared lists": "types.GenericAlias(list, (LISTS,))",
    "an item of shared lists": "operator.itemgetter(LISTS)",
    "a variable of shared lists": "contextvars.ContextVar('a', default=LISTS)",
    "values of shared lists": "{1: LISTS}.values()",
    "views of a large ordered dict": "[collections.OrderedDict.fromkeys(range(10_000)).values()] * 10_000",
    "an array of shared lists": "Fields([LISTS])",
    "a long match": "re.match('x*', 'x' * 30_000_000)",
    "many texts full of escapes": "[chr(1) * 1000 + str(i) for i in range(20_000)]",
    "many texts of lone surrogates": "['\\ud800' * 40] * 50_000",
    "a long text of lone surrogates": "'\\udc80' * 1_000_000",
    "long names": "{'k' * 1_000_000 + str(i): i for i in range(50)}",
    "large integers": "[10**1000 + i for i in range(50_000)]",
    "a huge integer": "10**1_000_000",
    "objects of many types": "[type(f'C{i}', (), {})() for i in range(5_000)]",
    "attrs objects of a large class": "[attr.s(type('C', (), {f'a{i}': i for i in range(50_000)}))()] * 3_000",
    "an attrs object of a huge class": "attr.s(type('C', (), {f'a{i}': i for i in range(400_000)}))()",
    "a chain of large dicts": "collections.ChainMap(*[dict.fromkeys(range(1_000_000))] * 30)",
    "a large dict in a chain without a list": "odd_chain((dict.fromkeys(range(1_000_000)),))",
    "large raw JSON": "msgspec.Raw(b'[' + b'[],' * 200_000 + b'1]')",
}


BOUNDED = """
import collections, collections.abc, contextvars, dataclasses, functools, itertools, json, operator, os, re, time, types
import attr, msgspec
sys.set_int_max_str_digits(0)  # a host may
@dataclasses.dataclass
class Node:
    left: object
    right: object
Text, Whole, Data = (type(f"My{kind.__name__}", (kind,), {}) for kind in (str, int, bytes))
Fields = msgspec.defstruct("Fields", ["a"], gc=False)
LISTS = functools.reduce(lambda a, _: [a, a], range(24), 1)
class Endless(set):
    def __iter__(self):
        return itertools.count()
class EndlessMapping(collections.abc.Mapping):
    def __getitem__(self, key):
        return key
    def __iter__(self):
        return itertools.count()
    def __len__(self):
        return 1
def odd_chain(maps):
    chain = collections.ChainMap()
    chain.maps = maps
    return chain
def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
client.capture("warm", properties={"n": [1], "o": object(), "t": "x" * 1000})
for name, source in SOURCES.items():
    value = eval(source)
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the mark falls to what is used now
    before, began = peak(), time.thread_time()
    assert client.capture(name, distinct_id="me", properties={"before": 1, "value": value, "after": [1, "x"]})
    spent, gained = time.thread_time() - began, peak() - before
    line = lines[-1]
    properties = json.loads(line)["properties"]
    assert (properties["before"], properties["after"]) == (1, [1, "x"]), name
    assert len(line) <= 900 * 1024, (name, len(line))
    # Four times what is promised: a regression here is one of seconds and of hundreds of megabytes.
    assert spent < 0.2, (name, spent)
    assert gained < 24, (name, gained)
    began = time.thread_time()
    assert client.capture(value, distinct_id=value)
    spent, gained = time.thread_time() - began, peak() - before
    event = json.loads(lines[-1])
    assert max(len(event["event"]), len(event["distinct_id"])) <= 1024, name
    assert spent < 0.2, (name, spent)
    assert gained < 24, (name, gained)
    del value, properties, line, event
    lines.clear()
print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_every_value_has_a_bounded_cost():
    """However large a value is, and however often its parts refer to each other, one capture is short and small.

    As a property, and as a name and an id.
    """
    assert run_host(f"SOURCES = {LARGE!r}\n{BOUNDED}") == "bounded\n"


@pytest.mark.parametrize(
    "value",
    [type("N" * 1_000_000, (), {}), type("N" * 1_000_000, (), {})(), collections.UserString("\0" * 5000)],
    ids=["type", "object", "UserString"],
)
def test_descriptions_are_paid_for_by_their_length(value):
    """However many values have a long one, together they stay a few times as large as an event may be."""
    assert 1_000_000 < sum(map(len, plain([value] * 50_000))) < 4_000_000


def test_a_lowered_limit_on_the_digits_of_integers_costs_only_the_digits():
    """The interpreter refuses to turn the integer into text; everything beside it stays."""
    said = run_host("""
sys.set_int_max_str_digits(640)
client.capture("numbers", properties={"a": 1, "large": 10**900, "l": [10**900, 2], 10**900: 3})
import json
print(json.loads(lines[0])["properties"])
""")
    large = "<integer of 2990 bits>"
    assert f"'a': 1, 'large': '{large}', 'l': ['{large}', 2], '{large}': 3" in said


@pytest.mark.limits
def test_a_host_whose_code_is_slow_is_not_asked_for_long(monkeypatch):
    """After 25 ms of CPU no more of its code is called; the event says which objects were not asked."""
    monkeypatch.setattr(values, "_MAX_WAIT", 60.0)
    asked = []

    class Slow:
        def __repr__(self):
            asked.append(1)
            sum(range(1_000_000))
            return "slow"

    gc.disable()  # a collection of the suite's objects could take the time
    try:
        result = plain([Slow() for _ in range(60)])
    finally:
        gc.enable()
    assert 1 <= len(asked) < 30
    assert result[0] == "slow"
    assert result[-1] == "<Slow object (not asked)>"


def test_at_most_64_calls_into_the_hosts_code():
    """Whatever they cost, and only for what the standard library does not know."""
    asked = []

    class Quick:
        def __repr__(self):
            asked.append(1)
            return "quick"

    result = plain({"first": [Quick() for _ in range(100)], "moments": [datetime.datetime(2026, 1, 1)] * 100})  # noqa: DTZ001
    assert len(asked) == 64
    assert result["first"][63:65] == ["quick", "<Quick object (not asked)>"]
    assert result["moments"] == ["2026-01-01T00:00:00"] * 100


@pytest.mark.parametrize("more", ["options", "before_send", "context"])
def test_they_are_counted_for_the_event_as_a_whole(new_client, more):
    """Whatever parts it has, and whoever changes them on the way."""
    asked = []

    class Quick:
        def __repr__(self):
            asked.append(1)
            return "quick"

    many = {"many": [Quick() for _ in range(100)], "cookieless_mode": True}
    before_send = {"before_send": lambda event: {**event, "context": many}} if more == "before_send" else {}
    recorder = Recorder(new_client(**before_send))
    arguments = {} if more == "before_send" else {more: many}
    assert recorder.client.capture("built", distinct_id="me", properties=many, **arguments)
    assert len(asked) == 64
    assert "many" in recorder.event["properties"]["$atotelemetry_cut"]


def test_a_hash_is_not_asked_for(recorder):
    """The names of a dict are taken as they stand there, however odd its keys are."""
    asked = []

    class Key:
        def __hash__(self):
            asked.append(1)
            recorder.client.capture("asked", distinct_id="me", properties=odd)
            return id(self) >> 4

    odd: dict[object, object] = {}
    odd[Key()] = 1
    asked.clear()
    recorder.lines.clear()
    assert recorder.client.capture("built", distinct_id="me", properties={"odd": odd, "more": [odd] * 30})
    assert (len(asked), len(recorder.lines)) == (0, 1)


# Values that capture


def test_a_repr_that_captures_its_object_yields_one_event_each(recorder):
    """The values of an event that is captured in the middle of another one are not asked."""
    client, lines = recorder.client, recorder.lines

    class Session:
        def __repr__(self):
            client.capture("shown", distinct_id="me", properties={"session": self, "again": self})
            return "S"

    client.capture("built", distinct_id="me", properties={"session": Session(), "path": 1})
    shown, built = (json.loads(line) for line in lines)
    assert (shown["event"], built["event"]) == ("shown", "built")
    not_asked = dict.fromkeys(("session", "again"), "<Session object (not asked)>")
    assert shown["properties"] == {**not_asked, "$atotelemetry_cut": ["session", "again"]}
    assert built["properties"] == {"session": "S", "path": 1}


def test_a_generator_is_not_consumed(recorder):
    """A value that can be read only once is left to the host."""
    client, lines = recorder.client, recorder.lines
    generator = (number for number in range(3))
    iterator = iter([1, 2])
    client.capture("built", distinct_id="me", properties={"g": generator, "i": iterator})
    assert (list(generator), list(iterator)) == ([0, 1, 2], [1, 2])
    assert json.loads(lines[0])["properties"]["g"].startswith("<generator object")


# Fake ids, fake texts


class OwnText(uuid.UUID):
    def __str__(self) -> str:
        return "no uuid at all"


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        (mock.Mock(spec=uuid.UUID), None),
        (mock.MagicMock(spec=str), None),
        (OwnText(int=5), "00000000-0000-0000-0000-000000000005"),
        (object.__new__(uuid.UUID), None),
        ("{3F2504E0-4F89-41D3-9A0C-0305E82C3301}", "3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        ("x" * 10_000_000, None),
    ],
    ids=["mock", "magic mock", "own text", "empty", "braces", "long"],
)
def test_a_uuid_that_only_claims_to_be_one(recorder, given_id, expected):
    """The uuid that comes back is the one in the line, and a sender can read it."""
    client, lines = recorder.client, recorder.lines
    name = client.capture("built", distinct_id="me", uuid=given_id, properties={"id": given_id})
    (event,) = wire.LineDecoder().feed(lines[0] + b"\n")
    assert isinstance(event, wire.Event)
    assert event.uuid == name
    assert expected in (None, name)


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b'{"a":1}\n{"b":2}', b'"\xff"'])
def test_raw_json_that_is_none(recorder, raw):
    """It costs itself alone, and never the line that it stands in."""
    client, lines = recorder.client, recorder.lines
    assert client.capture("built", distinct_id="me", properties={"raw": msgspec.Raw(raw), "ok": 1})
    (event,) = wire.LineDecoder().feed(lines[0] + b"\n")
    assert isinstance(event, wire.Event)
    assert json.loads(bytes(event.properties))["ok"] == 1


# Clocks that stand still


FROZEN = """
import datetime, time, types
real = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "perf_counter", "monotonic_ns")}
real_class = datetime.datetime
class FakeDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        raise IndexError("no frozen time")  # as a fake clock whose test has ended
    utcnow = now
def fail(*_):
    raise IndexError("no frozen time")
def freeze():
    fakes = {id(function): (lambda: 1.0) for function in real.values()}
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if isinstance(module, types.ModuleType) else ():
            if id(value) in fakes:
                setattr(module, name, fakes[id(value)])
            elif value is real_class:
                setattr(module, name, FakeDatetime)
"""


@pytest.mark.parametrize("first", [True, False], ids=["at the first event", "later"])
def test_a_frozen_clock_costs_nothing_but_the_timestamp(first):
    """Also one that a test froze for the first event, whose functions fail when the test has ended."""
    source = f"""
if not {first}:
    client.capture("before", distinct_id="me")
freeze()
assert client.capture("frozen", distinct_id="me", properties={{"o": object(), "at": real_class(2026, 1, 1)}})
for name in real:
    setattr(time, name, fail)
feed_again()
assert client.capture("later", distinct_id="me", properties={{"a": 1}})
moment = real_class(2026, 1, 1)
assert client.capture("odd", properties={{"o": object(), "at": moment}}, timestamp=moment)
before = os.times().elapsed
client.flush(2)
assert os.times().elapsed - before < 10
import json
assert json.loads(lines[-1])["properties"]["at"] == "2026-01-01T00:00:00"
print(len(lines))
"""
    assert run_host("import os\n" + FROZEN + source) == ("1\n" if first else "2\n")
