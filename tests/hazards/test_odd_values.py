"""Whatever somebody puts into an event: it arrives, in order, with everything else in it intact.

What each type becomes is tested where it is decided, in tests/host; this is the whole way, from a host to a server.
"""

from __future__ import annotations

import datetime
import uuid
from typing import TYPE_CHECKING, Any

from support_hosts import needs_senders

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

VALUES = """
import array, collections, dataclasses, datetime, decimal, enum, fractions, pathlib, re, types, uuid, weakref
import unittest.mock

class ReprRaises:
    def __repr__(self): raise ValueError("no repr")
class ReprExits:
    def __repr__(self): raise RecursionError
class ReprReturnsNumber:
    def __repr__(self): return 7
class StrReturnsNumber(str):
    def __str__(self): return 7
class LyingClass:
    @property
    def __class__(self): raise RuntimeError("no class")
class EveryAttribute:
    def __getattr__(self, name): return self
class Raising(dict):
    def items(self): raise ValueError
    def __iter__(self): raise ValueError
class Negative(list):
    def __len__(self): return -1
class MyInt(int):
    def __repr__(self): raise ValueError
class MyFloat(float):
    def __str__(self): raise ValueError
class MyDate(datetime.datetime):
    def isoformat(self, *a, **k): raise ValueError
class Colour(enum.Enum):
    RED = object()
@dataclasses.dataclass
class Point:
    x: object
    y: object
    def __post_init__(self): self.me = self
class Slots:
    __slots__ = ("missing",)
def generator():
    yield 1

cycle = []
cycle.append(cycle)
dict_cycle = {}
dict_cycle["me"] = [dict_cycle]
deep = []
for _ in range(5000):
    deep = [deep]
deep_dict = {}
for _ in range(5000):
    deep_dict = {"d": deep_dict}

VALUES = {
    "repr raises": ReprRaises(),
    "repr recurses": ReprExits(),
    "repr returns a number": ReprReturnsNumber(),
    "str returns a number": StrReturnsNumber("text"),
    "class raises": LyingClass(),
    "every attribute": EveryAttribute(),
    "raising dict": Raising(a=1),
    "negative length": Negative([1, 2]),
    "my int": MyInt(5),
    "my float": MyFloat(2.5),
    "my date": MyDate(2020, 1, 2, tzinfo=datetime.UTC),
    "enum of object": Colour.RED,
    "dataclass with cycle": Point(cycle, 1),
    "slots": Slots(),
    "cycle": cycle,
    "dict cycle": dict_cycle,
    "deep": deep,
    "deep dict": deep_dict,
    "generator": generator(),
    "lock": threading.Lock(),
    "thread": threading.current_thread(),
    "module": os,
    "function": print,
    "lambda": lambda: 0,
    "class": dict,
    "mock": unittest.mock.MagicMock(),
    "big text": "x" * 5_000_000,
    "big list": list(range(300_000)),
    "surrogate": "a\\udc80b",
    "null byte": "a\\0b",
    "line breaks": "a\\nb\\r\\u2028c",
    "2**70": 2**70,
    "-2**70": -(2**70),
    "2**20000": 2**20000,
    "nan": float("nan"),
    "infinities": [float("inf"), -float("inf")],
    "odd keys": {1: 1, None: 2, (1, 2): 3, 2.5: 4, b"b": 5, "\\udc80": 6, frozenset({1}): 7, Colour.RED: 8},
    "keys without a repr": {ReprRaises(): 1, LyingClass(): 2},
    "decimal": decimal.Decimal("NaN"),
    "fraction": fractions.Fraction(1, 3),
    "complex": 1 + 2j,
    "bytes": b"\\xff\\0",
    "memoryview": memoryview(bytearray(b"abc"))[::2],
    "array": array.array("d", [1.0, float("nan")]),
    "path": pathlib.Path("/a/\\udcff"),
    "uuid": uuid.UUID(int=1),
    "date": datetime.date(1, 1, 1),
    "datetime at the end": datetime.datetime.max.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-14))),
    "timedelta": datetime.timedelta.max,
    "named tuple": collections.namedtuple("Pair", "a b")(1, cycle),
    "default dict": collections.defaultdict(list, a=[{1, 2}]),
    "deque": collections.deque([1, 2]),
    "chain map": collections.ChainMap({"a": 1}),
    "mapping proxy": types.MappingProxyType({"a": 1}),
    "weak reference": weakref.ref(Slots),
    "pattern": re.compile("a"),
    "exception": ValueError("\\udc80"),
    "file": sys.stderr,
    "not implemented": NotImplemented,
    "ellipsis": ...,
}
"""

HOST = """
client = new_client(queue_size=10_000)
for number, (name, value) in enumerate(VALUES.items()):
    odd = {"before": number, "odd": value, "after": {"list": [number, "text", None, True, 1.5]}}
    assert client.capture(name, distinct_id="me", properties=odd), name
    assert client.capture("context " + name, distinct_id="me", context={"odd": value, "after": number}), name
assert client.flush(25, delivered=True), client.stats
say(len(VALUES))
"""

# Enough to see that what arrives is something a person understands.
EXPECTED: dict[str, Any] = {
    "str returns a number": "text",
    "raising dict": {"a": 1},
    "negative length": [1, 2],
    "my int": 5,
    "my float": 2.5,
    "my date": "2020-01-02T00:00:00Z",
    "enum of object": "Colour.RED",
    "class": "dict",
    "nan": None,
    "infinities": [None, None],
    "null byte": "a\0b",
    "line breaks": "a\nb\r\u2028c",
    "2**70": str(2**70),
    "-2**70": str(-(2**70)),
    "uuid": "00000000-0000-0000-0000-000000000001",
    "date": "0001-01-01",
    "deque": [1, 2],
    "chain map": {"a": 1},
    "mapping proxy": {"a": 1},
    "default dict": {"a": [[1, 2]]},
}


def depth_of(value: Any) -> int:
    depth = 0
    while isinstance(value, list | dict) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
        depth += 1
    return depth


def test_hostile_values(hosts: Hosts) -> None:
    """Sixty values that a serialiser breaks on, as properties and in the context: each event arrives, in order."""
    done = hosts.assert_runs(VALUES + HOST, options=("-X", "dev"), stdout=None)
    count = int(done.stdout)
    hosts.wait_until_no_sender()
    events = hosts.server.events
    assert [event["event"].startswith("context ") for event in events] == [False, True] * count
    seen = {}
    for number, (event, with_context) in enumerate(zip(events[::2], events[1::2], strict=True)):
        name, properties = event["event"], event["properties"]
        assert with_context["event"] == f"context {name}"
        assert properties["before"] == number, name
        assert properties["after"] == {"list": [number, "text", None, True, 1.5]}, name
        assert with_context["context"]["after"] == number, name
        assert with_context["context"]["odd"] is not None or properties["odd"] is None, name
        seen[name] = properties["odd"]
    assert {name: seen[name] for name in EXPECTED} == EXPECTED
    assert depth_of(seen["deep"]) < 120  # PostHog's parser refuses a body of 128 levels
    assert depth_of(seen["deep dict"]) < 120
    assert seen["big text"].startswith("xxxxxxxxxx")
    assert "5000000" in seen["big text"]


def test_values_that_change_meanwhile(hosts: Hosts) -> None:
    """Dicts, lists and sets that other threads change while they are captured: every event arrives."""
    source = """
client = new_client(queue_size=10_000)
sys.setswitchinterval(1e-6)
changing_dict, changing_list, changing_set = {"odd": object}, [object], {object}
stop = threading.Event()
def change():
    number = 0
    while not stop.is_set():
        number += 1
        changing_dict[str(number % 50)] = number
        changing_dict.pop(str((number + 25) % 50), None)
        changing_list.append(number)
        del changing_list[: len(changing_list) // 50 + (number % 2)]
        changing_set.add(number % 50)
        changing_set.discard((number + 25) % 50)
threads = [threading.Thread(target=change, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for number in range(300):
    changing = {"d": changing_dict, "l": changing_list, "s": changing_set}
    assert client.capture("nested", distinct_id="me", properties={"number": number, "changing": changing})
    assert client.capture("direct", distinct_id="me", properties=changing_dict)
stop.set()
for thread in threads:
    thread.join()
assert client.flush(25, delivered=True), client.stats
"""
    hosts.assert_runs(source)
    assert hosts.arrived() == {"nested": 300, "direct": 300}
    numbers = [event["properties"]["number"] for event in hosts.server.events if event["event"] == "nested"]
    assert numbers == list(range(300))


ARGUMENTS = """
import datetime, pathlib, uuid as u

class Odd:
    def __str__(self): raise ValueError
class Texty:
    def __str__(self): return "texty"
tz = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
moment = datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tz)
client = new_client()
capture = client.capture
uuids = [
    capture("distinct id: number", distinct_id=5),
    capture("distinct id: uuid", distinct_id=u.UUID(int=5)),
    capture("distinct id: anything", distinct_id=Texty()),
    capture("distinct id: raises", distinct_id=Odd()),
    capture("distinct id: surrogate", distinct_id="a\\udc80b"),
    capture("distinct id: long", distinct_id="x" * 100_000),
    capture("distinct id: empty", distinct_id=""),
    capture("distinct id: none"),
    capture("time: zone", timestamp=moment),
    capture("time: naive", timestamp=moment.replace(tzinfo=None)),
    capture("time: text", timestamp="2020-01-02T03:04:05.000006+05:30"),
    capture("time: date", timestamp=datetime.date(2020, 1, 2)),
    capture("time: number", timestamp=1577934245),
    capture("time: junk", timestamp="yesterday"),
    capture("time: overflow", timestamp=datetime.datetime.min.replace(tzinfo=tz)),
    capture("time: raises", timestamp=Odd()),
    capture("uuid: text", uuid="01900000000070008000000000000001"),
    capture("uuid: object", uuid=u.UUID("01900000-0000-7000-8000-000000000002")),
    capture("uuid: junk", uuid="not-a-uuid"),
    capture("uuid: raises", uuid=Odd()),
    capture("properties: pairs", properties=[("a", 1)]),
    capture("properties: text", properties="text"),
    capture("properties: raises", properties=Odd()),
    capture("properties: keys", properties={1: 1, None: 2, "\\udc80": 3}),
    capture("context: text", context="text"),
    capture("context: odd", context={1: Odd()}),
    capture("x" * 100_000),
    capture("surrogate \\udc80"),
    capture("line\\nbreak"),
    capture(5),
    capture(Texty()),
    capture(pathlib.Path("/a/b")),
    capture(Odd()),
]
assert all(uuids), uuids
assert len(set(uuids)) == len(uuids)
for nothing in ("", None, b""):
    assert capture(nothing) is None
assert client.flush(25, delivered=False)
say(*uuids)
"""


def test_odd_arguments(hosts: Hosts) -> None:
    """Arguments of any type: each event arrives with a valid uuid, a text for a name, and an instant."""
    done = hosts.assert_runs(ARGUMENTS, options=("-X", "dev", "-W", "error"), stdout=None)
    uuids = done.stdout.split()
    hosts.server.wait_for_events(len(uuids))
    hosts.wait_until_no_sender()
    assert [event["uuid"] for event in hosts.server.events] == uuids
    events = {event["event"]: event for event in hosts.server.events}
    for event in events.values():
        assert uuid.UUID(event["uuid"])
        assert event["distinct_id"]
        assert datetime.datetime.fromisoformat(event["timestamp"]).utcoffset() == datetime.timedelta(0)
        assert isinstance(event["properties"], dict)

    def of(prefix: str, field: str) -> dict[str, Any]:
        return {name[len(prefix) :]: event[field] for name, event in events.items() if name.startswith(prefix)}

    people = of("distinct id: ", "distinct_id")
    assert (people["number"], people["anything"]) == ("5", "texty")
    assert people["uuid"] == "00000000-0000-0000-0000-000000000005"
    assert people["none"] != people["empty"]
    for name in ("none", "empty"):
        assert events[f"distinct id: {name}"]["properties"]["$process_person_profile"] is False
    times = of("time: ", "timestamp")
    assert times["zone"] == times["text"] == "2020-01-01T21:34:05.000006Z"
    assert times["naive"] == "2020-01-02T03:04:05.000006Z"
    assert times["date"] == "2020-01-02T00:00:00Z"
    now = datetime.datetime.now(datetime.UTC)
    for name in ("number", "junk", "overflow", "raises"):
        assert abs(now - datetime.datetime.fromisoformat(times[name])) < datetime.timedelta(minutes=5), name
    assert events["uuid: text"]["uuid"] == "01900000-0000-7000-8000-000000000001"
    assert events["uuid: object"]["uuid"] == "01900000-0000-7000-8000-000000000002"
    assert {"5", "texty", "line\nbreak"} <= events.keys()
