"""Nothing comes out of `capture` or a block: no error of a value, whatever it raises; only an interruption does."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import sys
import types

import pytest

from atotelemetry import Telemetry
from atotelemetry.host.debug import is_for_the_host
from atotelemetry.host.divert import divert
from support_hostile import ARMED, ERRORS, Panic, Raises, run_host


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


def test_bytes_whose_buffer_raises(recorder):
    """As a value, a name or an id; Python asks them for one since 3.12 (PEP 688)."""

    class Buffer(bytes):
        def __buffer__(self, flags):
            raise GeneratorExit

    client, lines = recorder.client, recorder.lines
    value = Buffer(b"x")
    assert client.capture(value, distinct_id=value, properties={"before": 1, "v": value})
    assert json.loads(lines[0])["properties"]["before"] == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nothing_that_a_value_raises_comes_out(recorder, error):
    """Not as a value, a key, a name, an id, a time or all the properties; each event arrives, and the count adds up."""
    client, lines = recorder.client, recorder.lines
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
    divert(telemetry.client, list)

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
    divert(telemetry.client, lines.append)

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


def called_with(frames, function):
    """Call `function` when the stack has room for about so many frames."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1

    def descend(left):
        return descend(left - 1) if left else function()

    return descend(sys.getrecursionlimit() - depth - frames)


@pytest.mark.parametrize(
    "name",
    [
        *("capture", "capture odd values", "capture_exception", "capture_event", "report"),
        *("block", "shared block", "decorated", "run"),
    ],
)
def test_nothing_comes_out_at_the_end_of_the_stack(name, monkeypatch):
    """Whatever room is left for whatever call; the count adds up, and a block ends as often as it began."""
    monkeypatch.setenv("TOOL_TELEMETRY", "on")
    telemetry = Telemetry(app="tool", api_key="key", host="http://127.0.0.1:9", run_properties=())
    client = telemetry.client
    lines: list[bytes] = []
    divert(client, lines.append)
    shared = telemetry.capture("start", "end")

    def enter(block):
        with block:
            pass

    function = {
        "capture": lambda: client.capture("built", distinct_id="me", properties={"a": 1}),
        "capture odd values": lambda: client.capture("built", distinct_id="me", properties={"a": {1}, "b": Panic}),
        "capture_exception": lambda: client.capture_exception(ValueError("x")),
        "capture_event": lambda: telemetry.capture_event("built", {"a": 1}),
        "report": lambda: telemetry.capture_exception(ValueError("x")),
        "block": lambda: enter(telemetry.capture("start", "end")),
        "shared block": lambda: enter(shared),
        "decorated": telemetry.capture("start", "end")(lambda: None),
        "run": lambda: enter(telemetry.run()),
    }[name]
    function()
    lines.clear()
    gc.collect()  # finalizers of other tests' objects would find no room, either
    gc.disable()
    try:
        for frames in range(3, 100):
            try:
                called_with(frames, function)
            except RecursionError as error:
                # With no room for the call itself, or for the decorated function, it is the caller's own.
                trace = error.__traceback__
                while trace.tb_next is not None:
                    trace = trace.tb_next
                code = trace.tb_frame.f_code
                assert code.co_filename == __file__ or code.co_name == "wrapper", (frames, trace.tb_frame)
    finally:
        gc.enable()
    stats = client.stats
    assert stats.captured == stats.handed_over + stats.dropped + stats.queued
    assert lines
    with shared as block:
        block["a"] = 1
    assert json.loads(lines[-1])["properties"]["a"] == 1


def test_an_interruption_comes_out(recorder):
    """Ctrl-C in the middle is the host's; so is the `SystemExit` of its own signal handler."""
    client = recorder.client

    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.capture("built", distinct_id="me", properties={"v": Interrupted()})
    assert client.stats.dropped_by_reason == {"interrupted": 1}
    assert is_for_the_host(KeyboardInterrupt())
    assert not is_for_the_host(SystemExit())


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
    divert(client, lines.append)
    ARMED.append(True)
    try:
        uuids = [client.capture_exception(ValueError("first")), *(client.capture(name) for name in ("2", "3", "4"))]
    finally:
        ARMED.clear()
    assert [bool(made) for made in uuids] == [True, True, False, False]
    assert json.loads(lines[0])["properties"] == {"value": [1]}
    stats = client.stats
    assert (stats.captured, stats.dropped_by_reason) == (4, {"no event name": 2})


def test_names_around_before_send_may_raise(new_client):
    """Names that cannot be compared, among the common properties or in the result: the event arrives nevertheless."""

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            if ARMED:
                raise GeneratorExit
            return str.__eq__(self, other)

    seen = []
    client = new_client(
        properties={Name("a"): 0, "common": 1},
        before_send=lambda event: {**event, Name("context"): seen.append(event) or {"b": 2}},
    )
    lines: list[bytes] = []
    divert(client, lines.append)
    ARMED.append(True)
    try:
        made = client.capture("built", distinct_id="me", properties={"a": 1}, timestamp="2026-01-01T00:00:00Z")
    finally:
        ARMED.clear()
    event = json.loads(lines[0])
    assert event.pop("timestamp").startswith("2026-01-01T00:00:00")
    assert event == {
        "event": "built",
        "distinct_id": "me",
        "uuid": made,
        "properties": {"a": 1, "common": 1},
        "context": {"b": 2},
    }
    assert seen[0]["properties"] == {"a": 1, "common": 1}
