"""From a caller's arguments to an event: its id, its person, its time, its properties, and `before_send`."""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import pathlib
import sys
import time
import tracemalloc
import types
import uuid

import pytest

from atotelemetry import wire
from atotelemetry.host import reports
from support_client import TIMESTAMP, UUID7, Recorder

GIVEN = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.mark.parametrize("name", ["my_tool", "my-tool"])
@pytest.mark.parametrize("file", ["my_tool/__init__.py", "my_tool.py"])
def test_the_programs_own_frames_are_in_app_wherever_it_is_installed(new_client, name, file, tmp_path, monkeypatch):
    """Also below site-packages, and also where the name of the distribution is none that Python could import."""
    installed = tmp_path / "site-packages"
    path = installed / file
    path.parent.mkdir(parents=True)
    path.write_text(
        "import beside_it\ndef fail():\n    beside_it.call(other)\ndef other():\n    raise ValueError('x')\n"
    )
    (installed / "beside_it.py").write_text("def call(function):\n    function()\n")
    for imported in ("my_tool", "beside_it"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    monkeypatch.syspath_prepend(installed)
    module = importlib.import_module("my_tool")
    recorder = Recorder(new_client(app=name))
    with pytest.raises(ValueError, match="x") as caught:
        module.fail()
    recorder.client.capture_exception(caught.value, distinct_id="me")
    frames = recorder.event["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    assert [(frame["filename"], frame["in_app"]) for frame in frames[1:]] == [
        (file, True),
        ("beside_it.py", False),
        (file, True),
    ]


def test_ctrl_c_comes_out_of_a_capture_of_an_exception(recorder):
    """What an object raises while it is described is kept in; a KeyboardInterrupt meanwhile is the host's."""

    class Interrupted(ValueError):
        def __str__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorder.client.capture_exception(Interrupted(), distinct_id="me")


@pytest.mark.parametrize("given", [GIVEN, GIVEN.upper(), GIVEN.replace("-", ""), uuid.UUID(GIVEN)])
def test_a_uuid_of_the_callers_is_taken(recorder, given):
    """A caller who makes an event idempotent gets the id back that is sent, in its canonical form."""
    assert recorder.client.capture("built", distinct_id="me", uuid=given) == GIVEN
    assert recorder.event["uuid"] == GIVEN


@pytest.mark.parametrize("given", ["", "no uuid", 7, b"x" * 16, object()])
def test_what_is_no_uuid_is_replaced(recorder, given):
    """PostHog would refuse an event with such an id, so it gets a good one."""
    text = recorder.client.capture("built", distinct_id="me", uuid=given)
    assert UUID7.fullmatch(text)
    assert recorder.event["uuid"] == text


# Who


def test_an_events_uuid_has_the_layout_of_version_7(recorder):
    """The id is a UUIDv7 of RFC 9562 whose first 48 bits are the milliseconds of now."""
    before = time.time_ns() // 1_000_000
    text = recorder.client.capture("built", distinct_id="me")
    after = time.time_ns() // 1_000_000
    assert UUID7.fullmatch(text)
    assert recorder.event["uuid"] == text
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= after


def test_without_a_distinct_id_the_event_makes_no_person(recorder):
    """Such an event gets a random id, a new one each time, and tells PostHog to make no person of it."""
    for missing in (None, ""):
        recorder.client.capture("built", distinct_id=missing)
    first, second = recorder.events
    for event in (first, second):
        assert UUID7.fullmatch(event["distinct_id"])
        assert event["properties"] == {"$process_person_profile": False}
        assert event["distinct_id"] != event["uuid"]
    assert first["distinct_id"] != second["distinct_id"]


def test_a_callers_choice_of_person_processing_wins(recorder):
    """Who says `$process_person_profile` explicitly is not overruled."""
    recorder.client.capture("built", properties={"$process_person_profile": True})
    assert recorder.event["properties"] == {"$process_person_profile": True}


def test_with_a_distinct_id_nothing_is_added(recorder):
    """The properties of an ordinary event are the caller's, and nothing else."""
    recorder.client.capture("built", distinct_id="me", properties={"a": 1})
    assert recorder.event["distinct_id"] == "me"
    assert recorder.event["properties"] == {"a": 1}


class Named:
    def __str__(self) -> str:
        return "named"


@pytest.mark.parametrize(
    ("given", "sent"),
    [(uuid.UUID(GIVEN), GIVEN), (42, "42"), (0, "0"), (Named(), "named"), (pathlib.PurePosixPath("/x"), "/x")],
)
def test_anything_with_a_text_is_a_distinct_id(recorder, given, sent):
    """A UUID, a number or an object stands for its text."""
    recorder.client.capture("built", distinct_id=given)
    assert recorder.event["distinct_id"] == sent
    assert recorder.event["properties"] == {}


# When


def test_an_event_has_the_time_of_its_capture(recorder):
    """Without a timestamp it is now, in UTC, with microseconds."""
    before = datetime.datetime.now(datetime.UTC)
    recorder.client.capture("built", distinct_id="me")
    after = datetime.datetime.now(datetime.UTC)
    text = recorder.event["timestamp"]
    assert TIMESTAMP.fullmatch(text)
    assert before <= datetime.datetime.fromisoformat(text) <= after


HOURS = datetime.timedelta(hours=1)


NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 123456)  # noqa: DTZ001 - naive is one of the cases


class OwnDatetime(datetime.datetime):
    """A subclass with its own idea of text, as pandas has one."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "own"

    __str__ = isoformat


class Offset(datetime.tzinfo):
    """A timezone of the host's own making, with seconds in its offset."""

    def __repr__(self) -> str:
        return "Offset()"

    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=-3, seconds=7)

    def dst(self, when: datetime.datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (NOON.replace(tzinfo=datetime.UTC), "2026-01-02T12:00:00.123456Z"),
        (NOON, "2026-01-02T12:00:00.123456Z"),
        (NOON.replace(tzinfo=datetime.timezone(5 * HOURS)), "2026-01-02T07:00:00.123456Z"),
        (NOON.replace(tzinfo=datetime.timezone(-11 * HOURS)), "2026-01-02T23:00:00.123456Z"),
        (NOON.replace(tzinfo=Offset()), "2026-01-02T14:59:53.123456Z"),
        (OwnDatetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=datetime.timezone(HOURS)), "2026-01-02T11:00:00.000005Z"),
        (datetime.date(2026, 1, 2), "2026-01-02T00:00:00Z"),
        ("2026-01-02T12:00:00.123456+02:00", "2026-01-02T10:00:00.123456Z"),
        ("2026-01-02T12:00:00.123456Z", "2026-01-02T12:00:00.123456Z"),
        ("2026-01-02T12:00:00.123456", "2026-01-02T12:00:00.123456Z"),
        ("2026-01-02", "2026-01-02T00:00:00Z"),
    ],
    ids=repr,
)
def test_a_timestamp_keeps_its_instant(recorder, given, sent):
    """An override in any timezone is sent in UTC; a naive one, or a date, is UTC already; ISO 8601 text is read."""
    recorder.client.capture("built", distinct_id="me", timestamp=given)
    expected = datetime.datetime.fromisoformat(sent)
    assert TIMESTAMP.fullmatch(recorder.event["timestamp"])
    assert datetime.datetime.fromisoformat(recorder.event["timestamp"]) == expected


class BrokenZone(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        raise RuntimeError("no zone today")


@pytest.mark.parametrize(
    "given",
    [
        "yesterday",
        "",
        object(),
        12.5,
        NOON.replace(tzinfo=BrokenZone()),
        datetime.datetime.max.replace(tzinfo=datetime.timezone(-HOURS)),
        datetime.datetime.min.replace(tzinfo=datetime.timezone(HOURS)),
    ],
    ids=lambda value: type(value).__name__ + repr(value)[:20],
)
def test_an_unusable_timestamp_becomes_now(recorder, given):
    """The event is not lost for it."""
    before = datetime.datetime.now(datetime.UTC)
    assert recorder.client.capture("built", distinct_id="me", timestamp=given)
    assert before <= datetime.datetime.fromisoformat(recorder.event["timestamp"]) <= datetime.datetime.now(datetime.UTC)


# What


def test_values_are_those_of_the_capture(recorder):
    """What happens to a caller's dict, or to what is in it, after the call changes nothing."""
    inner = [1, 2]
    properties = {"list": inner, "n": 1}
    recorder.client.capture("built", distinct_id="me", properties=properties)
    properties["n"] = 2
    inner.append(3)
    properties["later"] = True
    assert recorder.event["properties"] == {"list": [1, 2], "n": 1}


def test_the_callers_dict_is_left_alone(recorder):
    """Nothing is added to, or taken out of, what the caller passed; not even for odd values or a missing id."""
    properties = {"a": object(), 1: {2, 3}}
    copy = dict(properties)
    recorder.client.capture("built", properties=properties)
    assert properties == copy


def test_no_properties_are_no_properties(recorder):
    """The event is sent with an empty object."""
    recorder.client.capture("built", distinct_id="me")
    assert recorder.event["properties"] == {}


def test_a_mapping_that_is_no_dict_is_properties_too(recorder):
    """A read-only view is as good as a dict."""
    recorder.client.capture("built", distinct_id="me", properties=types.MappingProxyType({"a": 1}))
    assert recorder.event["properties"] == {"a": 1}


def test_a_value_without_json_form_costs_itself_alone(recorder):
    """The event still arrives, everything else in it intact."""
    recorder.client.capture("built", distinct_id="me", properties={"odd": object(), "cut": "a\ud800b", "ok": 1})
    sent = recorder.event["properties"]
    assert sent["ok"] == 1
    assert sent["odd"].startswith("<object object")
    assert sent["cut"].startswith("a")


def test_context_passes_through(recorder):
    """`context` is sent beside the properties, as it is; without one there is no such field."""
    recorder.client.capture("built", distinct_id="me", context={"library": {"name": "x"}})
    recorder.client.capture("built", distinct_id="me")
    first, second = recorder.events
    assert first["context"] == {"library": {"name": "x"}}
    assert "context" not in second


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_event_without_name_is_dropped_and_counted(recorder, nothing):
    """PostHog refuses such an event, so it is not sent, and the caller sees None."""
    assert recorder.client.capture(nothing, distinct_id="me") is None
    assert recorder.lines == []
    stats = recorder.client.stats
    assert (stats.captured, stats.dropped, stats.dropped_by_reason) == (1, 1, {"no event name": 1})


def test_a_huge_event_is_cut_and_marked(recorder):
    """Over the limit the longest properties are cut until it fits, and the event says which."""
    properties = {"small": 1, "huge": "x" * 2_000_000, "big": ["y" * 100] * 20_000}
    assert recorder.client.capture("built", distinct_id="me", properties=properties, context={"k": "v"})
    assert len(recorder.lines[0]) <= wire.MAX_EVENT_BYTES
    sent = recorder.event
    assert (sent["event"], sent["distinct_id"], sent["context"]) == ("built", "me", {"k": "v"})
    assert sent["properties"]["small"] == 1
    from atotelemetry.host.cut import CUT_PROPERTY

    assert set(sent["properties"][CUT_PROPERTY]) == {"huge", "big"}


def test_every_part_of_an_event_may_be_huge_at_once(recorder):
    """Name, id, properties and context too long together still make an event that fits."""
    text = "\x01" * 3_000_000
    assert recorder.client.capture(text, distinct_id=text, properties={"a": text, "b": 1}, context={"c": text})
    assert len(recorder.lines[0]) <= wire.MAX_EVENT_BYTES
    assert recorder.event["properties"]["b"] == 1


@pytest.mark.parametrize(
    "parts",
    [
        {name: {"a": "\0" * 900_000} for name in ("properties", "context")},
        {"properties": {name: ["\0" * 32] * 25_000 for name in "abcdefgh"}},
    ],
    ids=["two parts", "many lists"],
)
def test_large_parts_share_what_an_event_may_take(recorder, parts):
    """Six bytes for each character, once as a line and again while it is cut: below 14 MiB in all."""
    recorder.client.capture("first", distinct_id="me", properties={"odd": {1}, "long": "x" * 2_000_000})
    recorder.lines.clear()
    tracemalloc.start()
    try:
        assert recorder.client.capture("built", distinct_id="me", **parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 14 * 2**20
    assert len(recorder.lines[0]) <= wire.MAX_EVENT_BYTES


@pytest.mark.parametrize("name", ["a" * 5000, "naïve 🎉", "with\nline"])
def test_an_ordinary_odd_name_arrives(recorder, name):
    """Long, not ASCII, with a line break: the line is still one line and starts with the name."""
    recorder.client.capture(name, distinct_id="me")
    assert recorder.event["event"][:1000] == name[:1000]
    assert b"\n" not in recorder.lines[0]


# before_send


def test_before_send_sees_the_assembled_event_and_may_change_it(new_client):
    """It gets what is to be sent, common properties included, and what it returns is sent instead."""
    seen = []

    def change(event):
        seen.append(json.loads(json.dumps(event)))
        event["properties"]["more"] = True
        del event["properties"]["secret"]
        return {**event, "event": "renamed"}

    recorder = Recorder(new_client(before_send=change, properties={"common": 1}))
    name = recorder.client.capture("built", distinct_id="me", properties={"secret": 2}, context={"k": 1})
    (assembled,) = seen
    assert assembled == {
        "uuid": name,
        "event": "built",
        "distinct_id": "me",
        "timestamp": recorder.event["timestamp"],
        "properties": {"common": 1, "secret": 2},
        "context": {"k": 1},
    }
    assert recorder.event["event"] == "renamed"
    assert recorder.event["properties"] == {"common": 1, "more": True}


@pytest.mark.parametrize("nobody", [None, ""])
def test_before_send_may_take_the_person_away(new_client, nobody):
    """The event goes without a person then, as one that was captured without a distinct_id."""
    recorder = Recorder(new_client(before_send=lambda event: {**event, "distinct_id": nobody}))
    recorder.client.capture("built", distinct_id="me")
    assert recorder.event["distinct_id"] not in ("me", "None", "")
    assert recorder.event["properties"]["$process_person_profile"] is False


def test_a_lone_surrogate_in_the_context_costs_the_properties_nothing(recorder):
    """However much of them there is."""
    rows = [[str(number)] * 20 for number in range(700)]
    recorder.client.capture("built", distinct_id="me", properties={"rows": rows}, context={"text": "a\ud800"})
    assert recorder.event["properties"] == {"rows": rows}
    assert recorder.event["context"] == {"text": "a\ufffd"}


def test_before_send_drops_what_it_returns_none_for(new_client):
    """The caller sees None and the drop is counted under its reason."""
    recorder = Recorder(new_client(before_send=lambda event: event if event["event"] == "keep" else None))
    assert recorder.client.capture("lose", distinct_id="me") is None
    assert recorder.client.capture("keep", distinct_id="me") is not None
    assert [event["event"] for event in recorder.events] == ["keep"]
    assert recorder.client.stats.dropped_by_reason == {"before_send": 1}


def test_before_send_that_raises_drops_the_event(new_client, debug_lines):
    """An error in it is the host's own business: not raised, counted, and named in a DEBUG line."""

    def fail(event):
        raise KeyError("mistake")

    recorder = Recorder(new_client(before_send=fail))
    assert recorder.client.capture("built", distinct_id="me") is None
    assert recorder.client.stats.dropped_by_reason == {"before_send raised": 1}
    assert [line for line in debug_lines() if "mistake" in line]


def test_an_exception_that_was_lost_may_be_reported_again(new_client):
    """One counts as reported once its event is queued."""
    answers = iter([None, {"no": "event"}, LookupError("mistake")])

    def before_send(event):
        answer = next(answers, event)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recorder = Recorder(new_client(before_send=before_send))
    error = ValueError("x")
    told = [recorder.client.capture_exception(error) for _ in range(5)]
    assert [bool(uuid) for uuid in told] == [False, False, False, True, False]
    assert recorder.client.stats.captured == 4


def test_the_same_exception_again_and_again(new_client, monkeypatch):
    """Of one kind ten are sent in ten seconds; the others are counted as dropped."""
    now = 1000.0
    monkeypatch.setattr(reports, "Repeats", functools.partial(reports.Repeats, lambda: now))
    recorder = Recorder(new_client())
    told = []
    for number in range(15):
        try:
            int("x")
        except ValueError as error:
            told.append(recorder.client.capture_exception(error, properties={"n": number}))
    assert [bool(uuid) for uuid in told] == [True] * 10 + [False] * 5
    assert recorder.client.stats.dropped_by_reason == {"repeated": 5}
    assert all("$exception_repeated" not in event["properties"] for event in recorder.events)
    now += 60
    for _ in range(2):
        try:
            int("x")
        except ValueError as error:
            recorder.client.capture_exception(error)
    assert [event["properties"].get("$exception_repeated") for event in recorder.events[10:]] == [5, None]
