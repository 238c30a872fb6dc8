"""Any value at all: Hypothesis builds them, and each event is one that a sender reads."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import sys
import threading
import types
from unittest import mock

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atotelemetry import wire
from atotelemetry.host.ordinary import copy_of_ordinary
from atotelemetry.host.values import Walk
from support_hostile import ARMED, ERRORS, Raises
from support_values import plain

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
    client, lines = recorder.client, recorder.lines
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
