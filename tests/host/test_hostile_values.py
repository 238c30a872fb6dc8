"""No value of the host's hurts the host: no crash, no unbounded cost, nothing out of `capture`, whatever it does."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import subprocess
import sys
import threading
import types
import uuid
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atotelemetry import Telemetry, wire
from atotelemetry.host import interrupts
from atotelemetry.host.ordinary import copy_of_ordinary
from atotelemetry.host.values import Walk, plain

HOST = """
import sys
from atotelemetry import TelemetryClient
client = TelemetryClient("key", "http://127.0.0.1:9", queue_size=100_000)
lines = []
client._feeder.put = lambda line: lines.append(line) or True
"""


def run_host(source: str, *options: str) -> str:
    """Run a host to its end; return what it printed. A crash is a failure here, and no end of this suite."""
    done = subprocess.run(
        [sys.executable, *options, "-c", HOST + source], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def recorder(new_client, monkeypatch):
    """Return a client and the lines that it queued."""
    client = new_client()
    lines: list[bytes] = []
    monkeypatch.setattr(client._feeder, "put", lambda line: lines.append(line) or True)
    return client, lines


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
    "many texts full of escapes": "[chr(1) * 1000 + str(i) for i in range(20_000)]",
    "long names": "{'k' * 1_000_000 + str(i): i for i in range(50)}",
    "large integers": "[10**1000 + i for i in range(50_000)]",
    "a huge integer": "10**1_000_000",
    "objects of many types": "[type(f'C{i}', (), {})() for i in range(5_000)]",
    "large raw JSON": "msgspec.Raw(b'[' + b'[],' * 200_000 + b'1]')",
}
BOUNDED = """
import collections, collections.abc, dataclasses, functools, itertools, json, os, time, types
import msgspec
sys.set_int_max_str_digits(0)  # a host may
@dataclasses.dataclass
class Node:
    left: object
    right: object
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
    del value, properties, line
    lines.clear()
print("bounded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_every_value_has_a_bounded_cost():
    """However large a value is, and however often its parts refer to each other, one capture is short and small."""
    assert run_host(f"SOURCES = {LARGE!r}\n{BOUNDED}") == "bounded\n"


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


def test_a_host_whose_code_is_slow_is_not_asked_for_long():
    """After 25 ms of CPU no more of its code is called; the event says which objects were not asked."""
    asked = []

    class Slow:
        def __repr__(self):
            asked.append(1)
            sum(range(1_000_000))
            return "slow"

    result = plain([Slow() for _ in range(60)])
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


# Nothing comes out


class Panic(BaseException):
    pass


# Only while something is captured: whoever shows a failed test asks the same questions.
ARMED = []


class HasNoTraceback(BaseException):
    """Whoever asks for its traceback gets the next one."""

    @property
    def __traceback__(self):
        if ARMED:
            raise HasNoTraceback


class Raises:
    """Raises from whatever is asked of it."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "_error", error)

    def _raise(self, *_: object, **__: object):
        if ARMED:
            raise object.__getattribute__(self, "_error")

    __bool__ = __len__ = __iter__ = __fspath__ = keys = items = _raise

    def __getattr__(self, name):
        self._raise()
        raise AttributeError(name)

    def __hash__(self):
        self._raise()
        return 1

    def __eq__(self, other):
        self._raise()
        return self is other

    def __repr__(self):
        self._raise()
        return "Raises()"

    __str__ = __repr__


def raising(error: BaseException) -> dict[str, object]:
    def fail():
        if ARMED:
            raise error

    class Zone(datetime.tzinfo):
        def utcoffset(self, when):
            fail()

    class Meta(type):
        def __hash__(cls):
            fail()
            return 1

        def __getattribute__(cls, name):
            fail()
            return super().__getattribute__(name)

        def __subclasscheck__(cls, kind):
            fail()
            return False

        __instancecheck__ = __subclasscheck__

    class Odd(metaclass=Meta):
        pass

    class Liar:
        @property
        def __class__(self):
            fail()
            return Liar

    class Table(dict):
        def _fail(self, *_):
            fail()
            return 1

        items = keys = __iter__ = __len__ = __getitem__ = get = __bool__ = _fail

    @dataclasses.dataclass
    class Computed:
        x: int = dataclasses.field(init=False)

        def __getattr__(self, name):
            fail()
            raise AttributeError(name)

    return {
        "object": Raises(error),
        "zone": datetime.datetime(2026, 1, 1, tzinfo=Zone()),
        "metaclass": Odd(),
        "class": Odd,
        "liar": Liar(),
        "table": Table(a=1),
        "computed": Computed(),
        "exception": ValueError(Raises(error)),
        "namespace": types.SimpleNamespace(a=Raises(error)),
        "key": {Raises(error): 1},
    }


ERRORS = [
    *(SystemExit(3), Panic(), HasNoTraceback(), GeneratorExit()),
    *(SystemError(), MemoryError(), StopIteration(), RecursionError()),
]


def test_bytes_whose_buffer_raises(recorder):
    """As a value, a name or an id; Python asks them for one since 3.12 (PEP 688)."""

    class Buffer(bytes):
        def __buffer__(self, flags):
            raise GeneratorExit

    client, lines = recorder
    value = Buffer(b"x")
    assert client.capture(value, distinct_id=value, properties={"before": 1, "v": value})
    assert json.loads(lines[0])["properties"]["before"] == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nothing_that_a_value_raises_comes_out(recorder, error):
    """Not as a value, a key, a name, an id, a time or all the properties; each event arrives, and the count adds up."""
    client, lines = recorder
    for name, value in raising(error).items():
        properties = {"before": 1, "v": value, "l": [value], "after": 2}
        ARMED.append(True)
        try:
            uuids = [
                client.capture("value", distinct_id="me", properties=properties),
                client.capture("argument", distinct_id=value, timestamp=value, uuid=value, context=value),
                client.capture("properties", properties=value),
                client.capture_exception(ValueError(name), distinct_id=value, properties=value),
                client.capture(value, distinct_id="me"),
            ]
        finally:
            ARMED.clear()
        assert all(uuids), name
        events = [json.loads(line) for line in lines[-5:]]
        assert [event["uuid"] for event in events] == uuids, name
        assert events[0]["properties"].items() >= {"before": 1, "after": 2}.items(), name
    stats = client.stats
    assert (stats.captured, stats.dropped) == (len(lines), 0)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_block_raises_its_own_exception_whatever_that_says_of_itself(error, monkeypatch):
    """An exit code that raises makes it a failure, and takes nothing's place."""
    monkeypatch.setenv("TOOL_TELEMETRY", "on")
    telemetry = Telemetry(app="tool", api_key="key", host="http://127.0.0.1:9", run_properties=())
    monkeypatch.setattr(telemetry.client._feeder, "put", lambda _line: True)

    class Code(int):
        def __int__(self):
            raise error

    with pytest.raises(SystemExit) as caught, telemetry.capture("start", "end"):
        raise SystemExit(Code(3))
    assert type(caught.value.code) is Code


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nothing_comes_out_of_a_block_but_what_the_block_raises(error, monkeypatch):
    """Not from the function that names its events, and not from its properties."""
    monkeypatch.setenv("TOOL_TELEMETRY", "on")
    telemetry = Telemetry(app="tool", api_key="key", host="http://127.0.0.1:9", run_properties=())
    lines: list[bytes] = []
    monkeypatch.setattr(telemetry.client._feeder, "put", lambda line: lines.append(line) or True)

    table = raising(error)["table"]

    def name():
        raise error

    ARMED.append(True)
    try:
        with telemetry.capture("start", name, {"v": Raises(error)}):
            pass
        with telemetry.capture(name, "end", table):
            pass
        telemetry.capture(name, name)(lambda: None)()
    finally:
        ARMED.clear()
    stats = telemetry.client.stats
    assert [json.loads(line)["event"] for line in lines] == ["start", "end"]
    assert (stats.captured, stats.dropped) == (6, 4)


def test_an_interruption_comes_out(recorder):
    """Ctrl-C in the middle is the host's; so is the `SystemExit` of its own signal handler."""
    client, _ = recorder

    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.capture("built", distinct_id="me", properties={"v": Interrupted()})
    assert client.stats.dropped_by_reason == {"interrupted": 1}
    assert interrupts.is_for_the_host(KeyboardInterrupt())
    assert not interrupts.is_for_the_host(SystemExit())


def test_a_signal_handler_that_exits_ends_the_program():
    """`sys.exit()` in a handler for SIGTERM works also while a value of the host's is being asked for its repr."""
    source = """
import os, signal
def leave(number, frame):
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
class Slow:
    def __repr__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000): pass
        return "slow"
try:
    client.capture("built", distinct_id="me", properties={"v": Slow()})
except SystemExit as error:
    print("left", error.code, client.stats.dropped_by_reason)
"""
    if sys.platform != "win32":
        assert run_host(source) == "left 7 {'interrupted': 1}\n"


def test_before_send_may_return_anything(new_client, monkeypatch):
    """A result whose parts are unusable is mended part by part; none at all is a loss with a reason."""
    results = iter(
        [
            {"event": "e", "distinct_id": Raises(Panic()), "timestamp": Raises(Panic()), "uuid": 5, "properties": [1]},
            types.MappingProxyType({"event": "e"}),
            5,
            Raises(Panic()),
        ]
    )
    client = new_client(before_send=lambda _: next(results))
    lines: list[bytes] = []
    monkeypatch.setattr(client._feeder, "put", lambda line: lines.append(line) or True)
    ARMED.append(True)
    try:
        uuids = [client.capture_exception(ValueError("first")), *(client.capture(name) for name in ("2", "3", "4"))]
    finally:
        ARMED.clear()
    assert [bool(made) for made in uuids] == [True, True, False, False]
    assert json.loads(lines[0])["properties"] == {"value": [1]}
    stats = client.stats
    assert (stats.captured, stats.dropped_by_reason) == (4, {"no event name": 2})


# Values that capture


def test_a_repr_that_captures_its_object_yields_one_event_each(recorder):
    """The values of an event that is captured in the middle of another one are not asked."""
    client, lines = recorder

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
    client, lines = recorder
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
    client, lines = recorder
    name = client.capture("built", distinct_id="me", uuid=given_id, properties={"id": given_id})
    (event,) = wire.LineDecoder().feed(lines[0] + b"\n")
    assert isinstance(event, wire.Event)
    assert event.uuid == name
    assert expected in (None, name)


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b'{"a":1}\n{"b":2}', b'"\xff"'])
def test_raw_json_that_is_none(recorder, raw):
    """It costs itself alone, and never the line that it stands in."""
    client, lines = recorder
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
del client._feeder.put
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


# Any value at all


class Level(enum.Enum):
    LOW = 1
    TEXT = "t"


@dataclasses.dataclass
class Node:
    name: str
    inner: object = None


class Record(msgspec.Struct):
    name: str
    inner: object = None


class TextKind(str):
    __slots__ = ()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(datetime.UTC) | st.none())
    | st.dates()
    | st.uuids()
    | st.decimals()
    | st.sampled_from(Level)
)
KEYS = st.text(max_size=8) | st.integers() | st.sampled_from(Level)


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.builds(Node, st.text(max_size=5), inner)
        | st.builds(Record, st.text(max_size=5), inner)
    )


PEACEFUL = st.recursive(SCALARS, containers, max_leaves=30)
HOSTILE = (
    st.integers().map(lambda number: 2**70 + number)
    | st.sampled_from(["\ud800", "a\udcff", TextKind("x"), TextKind("\udc80")])
    | st.sampled_from(ERRORS).map(Raises)
    | st.sampled_from([mock.MagicMock(), types.SimpleNamespace(a=1), ..., len, int, object()])
    | st.builds(lambda: iter(()))
)
ANYTHING = st.recursive(SCALARS | HOSTILE, containers, max_leaves=30)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.dictionaries(st.text(max_size=8), PEACEFUL, max_size=6))
def test_looks_as_msgspec_has_it(properties):
    """What msgspec takes by itself looks as it would have it, on the fast path and in the walk."""
    try:
        expected = msgspec.json.decode(msgspec.json.encode(properties))
    except (TypeError, ValueError, msgspec.DecodeError):
        return  # a lone surrogate, two keys that are one
    assert (
        _of_one_key_each(properties) is False or msgspec.json.decode(msgspec.json.encode(plain(properties))) == expected
    )
    try:
        copied, room = copy_of_ordinary(properties)
    except Exception:
        return
    assert room >= 0
    assert msgspec.json.encode(copied) == msgspec.json.encode(properties)


def _of_one_key_each(value: object) -> bool:
    """Whether no two keys of a dict become one name, where msgspec would write it twice."""
    if isinstance(value, dict):
        names = [key.value if isinstance(key, Level) else key for key in value]
        return len({str(name) for name in names}) == len(names) and all(map(_of_one_key_each, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_of_one_key_each, value))
    return _of_one_key_each(value.inner) if isinstance(value, Node | Record) else True


@QUICK
@given(properties=ANYTHING, context=ANYTHING, name=ANYTHING, person=ANYTHING)
def test_any_arguments_make_an_event_that_a_sender_reads(recorder, properties, context, name, person):
    """Nothing is raised; the line is valid JSON with the uuid that came back; or the event is counted as dropped."""
    client, lines = recorder
    before = len(lines)
    dropped = client.stats.dropped
    ARMED.append(True)
    try:
        uuids = [
            client.capture(name, distinct_id=person, properties={"v": properties}, context=context),
            client.capture("built", distinct_id="me", properties=properties, timestamp=person, uuid=name),
            client.capture_exception(ValueError("x"), distinct_id=person, properties=properties),
        ]
    finally:
        ARMED.clear()
    decoder = wire.LineDecoder()
    events = [event for line in lines[before:] for event in decoder.feed(line + b"\n")]
    assert all(isinstance(event, wire.Event) for event in events)
    assert [event.uuid for event in events] == [made for made in uuids if made]
    assert client.stats.dropped - dropped == uuids.count(None)


@QUICK
@given(value=ANYTHING, changes=st.lists(st.tuples(st.integers(0, 5), ANYTHING), min_size=1, max_size=5))
def test_values_that_a_thread_changes_meanwhile(value, changes):
    """A thread replaces, adds and removes items in every container of a value while it is made plain."""
    found: list[list | dict] = []

    def find(item: object) -> None:
        if isinstance(item, list | dict):
            found.append(item)
            for inner in list(item.values() if isinstance(item, dict) else item):
                find(inner)

    properties = {"value": [value, {}], "more": {}}
    find(properties)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for number, item in changes:
                for container in found:
                    if isinstance(container, list):
                        container[:] = [item] * number
                    else:
                        container[f"new {number}"] = item
                        container.pop(f"new {5 - number}", None)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(3):
            wire.encode(Walk().properties(properties))
            try:
                wire.encode(copy_of_ordinary(properties)[0])
            except Exception:
                continue
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
