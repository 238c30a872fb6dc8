"""`TelemetryClient`: what an event becomes, what is counted, what is started and when, and how it all ends."""

from __future__ import annotations

import datetime
import gc
import importlib
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import types
import uuid
import weakref

import pytest

from atotelemetry import wire
from atotelemetry.host.client import DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT, TelemetryClient
from atotelemetry.host.stats import Counter, Stats
from atotelemetry.ids import uuid7_generator
from atotelemetry.testing import Answer
from support_home import files_below

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
GIVEN = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads and children are read from /proc")

# A host's beginning: a client of the server whose url is the first argument, and what it can say about itself.
HOST = """
import os, sys, time
import atotelemetry
client = atotelemetry.TelemetryClient(
    "phc_test", sys.argv[1], app="tool", app_version="1.2", request_timeout=5, sender_deadline=10
)

def burden():
    threads = len(os.listdir("/proc/self/task"))
    children = "".join(open(f"/proc/self/task/{task}/children").read() for task in os.listdir("/proc/self/task"))
    return threads, len(children.split())
"""


class Recorder:
    """Takes a client's encoded events instead of its feeder, and so starts nothing."""

    def __init__(self, client: TelemetryClient) -> None:
        self.lines: list[bytes] = []
        client._feeder.put = self.put  # type: ignore[method-assign]
        self.client = client

    def put(self, line: bytes) -> bool:
        self.lines.append(line)
        return True

    @property
    def event(self) -> dict:
        (line,) = self.lines
        return json.loads(line)

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def recorder(new_client):
    """Return a client whose events are looked at instead of sent."""
    return Recorder(new_client())


@pytest.fixture
def stuck(new_client, monkeypatch):
    """Return a maker of clients whose feeder never comes to its work; what they queue is forgotten after the test."""
    clients = []

    def make(**settings) -> TelemetryClient:
        clients.append(new_client(**settings))
        monkeypatch.setattr(clients[-1]._feeder, "_start_thread", lambda: True)
        return clients[-1]

    yield make
    for client in clients:
        client._feeder._reset()


@pytest.fixture
def debug_lines(caplog):
    """Say what was logged so far."""
    caplog.set_level(logging.DEBUG, logger="atotelemetry")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "atotelemetry"]


def run_host(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a host to its end."""
    return subprocess.run(
        [sys.executable, "-c", HOST + source, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# Ids


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


def test_a_hundred_thousand_ids_are_unique_and_sort_by_time():
    """However fast they are made, no two ids are alike, and a later one is never smaller."""
    new_uuid = uuid7_generator()
    ids = [new_uuid(time.time_ns()) for _ in range(100_000)]
    assert len(set(ids)) == len(ids)
    assert all(UUID7.fullmatch(text) for text in ids[::1000])
    assert ids == sorted(ids)


def test_ids_of_one_tick_of_the_clock_still_sort():
    """With a clock that stands still the ids still differ and grow."""
    new_uuid = uuid7_generator()
    ids = [new_uuid(1_700_000_000_123_456_789) for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {text[:13] for text in ids} == {"018bcfe5-687b"}
    assert len({text[:24] for text in ids}) == 1


def test_ids_carry_the_milliseconds():
    """The first 48 bits are the milliseconds since the epoch, with all their digits; also for a clock before it."""
    moments = (0, 1, 1_700_000_000_123, 2**48 - 1, -1)
    heads = [uuid7_generator()(milliseconds * 1_000_000 + 999_999)[:13] for milliseconds in moments]
    assert heads == ["00000000-0000", "00000000-0001", "018bcfe5-687b", "ffffffff-ffff", "ffffffff-ffff"]


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


def test_an_event_that_moves_on_while_it_is_counted_is_not_counted_twice(new_client, monkeypatch):
    """The numbers are read in the order opposite to an event's way, or more would have left than came."""
    client = new_client()

    class Moving:
        """A feeder that hands over an event, captured just now, whenever it is asked how many."""

        count = 0

        def fate(self):
            return self.handed_over, {}

        @property
        def handed_over(self):
            client.counts.capture()
            self.count += 1
            return self.count

    with monkeypatch.context() as patch:
        patch.setattr(client, "_feeder", Moving())
        for number in range(1, 4):
            stats = client.stats
            assert (stats.captured, stats.handed_over, stats.queued) == (2 * number, 2 * number, 0)
            assert (stats.delivered, stats.on_the_way) == (2 * number - 1, 1)


def test_ids_follow_a_clock_that_moves_on_and_back():
    """Each id has the milliseconds of its own moment, and one made in an earlier tick is never made again."""
    ticks = [5, 5, 6, 6, 5, 7, 5]
    new_uuid = uuid7_generator()
    ids = [new_uuid(tick * 1_000_000) for tick in ticks]
    assert [int(text[:13].replace("-", ""), 16) for text in ids] == ticks
    assert len(set(ids)) == len(ticks)


def test_two_generators_never_agree():
    """The random part of each process's ids is its own."""
    tails = {uuid7_generator()(0)[19:] for _ in range(200)}
    assert len(tails) == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_ids_differ_across_forks(server):
    """Children forked from a process that has captured make ids of their own."""
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside any thread
client.capture("parent", distinct_id="me")
for child in range(3):
    pid = os.fork()
    if not pid:
        for number in range(200):
            client.capture("child", distinct_id="me", properties={"child": child})
        client.flush()
        os._exit(0)
    os.waitpid(pid, 0)
client.capture("parent", distinct_id="me")
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stderr) == (0, "")
    events = server.wait_for_events(602, timeout=30)
    assert len({event["uuid"] for event in events}) == 602


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


def test_the_same_exception_again_and_again(new_client):
    """Of one kind ten are sent in ten seconds; the others are counted as dropped."""
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
    repeats = recorder.client._reports._repeats
    clock = repeats._now
    repeats._now = lambda: clock() + 60
    for _ in range(2):
        try:
            int("x")
        except ValueError as error:
            recorder.client.capture_exception(error)
    assert [event["properties"].get("$exception_repeated") for event in recorder.events[10:]] == [5, None]


# Construction


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "both"},
        {"endpoint": ""},
        {"queue_size": 0},
        {"queue_size": -1},
        {"max_retries": -1},
        {"request_timeout": 0},
        {"sender_deadline": -0.5},
        # What JSON cannot say, or the sender would not understand.
        {"request_timeout": float("inf")},
        {"sender_deadline": float("nan")},
        {"request_timeout": "5"},
        {"max_retries": 1.5},
        {"queue_size": 2.5},
        {"app": None},
        {"app_version": 1.2},
        {"in_app": "tool"},
        {"in_app": (1,)},
        {"scrub": "argv"},
        {"scrub": None},
        {"compression": "gzip"},
        {"before_send": 5},
        {"on_error": "log"},
        {"patient": 1},
        {"queue_size": True},
        {"properties": ["edition"]},
        {"run_properties": "email"},
        {"run_properties": ("emial",)},
    ],
    ids=str,
)
def test_a_wrong_setting_is_a_mistake_that_raises(wrong):
    """A mistake in the host's own code is told at once, and the text names what is wrong."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TelemetryClient("key", "http://127.0.0.1:9", **wrong)


def test_a_wrong_setting_is_told_with_what_is_allowed():
    """The text says what the option may be, so nobody has to look it up."""
    for wrong, allowed in (
        ({"compression": "gzip"}, "compression must be True, False or None, not 'gzip'"),
        ({"endpoint": "both"}, "endpoint must be one of auto, capture, batch, not 'both'"),
        ({"before_send": 5}, "before_send must be a function, not 5"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(allowed)}$"):
            TelemetryClient("key", "http://127.0.0.1:9", **wrong)
    with pytest.raises(ValueError, match=r"run_properties must be a tuple of app_version, email, .*, project, not "):
        TelemetryClient("key", "http://127.0.0.1:9", run_properties=("emial",))


def test_a_client_says_what_it_is_and_not_its_key():
    """In a shell, a log or a failing test."""
    made = TelemetryClient("secret", "http://127.0.0.1:9", app="mytool")
    assert repr(made) == "TelemetryClient(app='mytool', host='http://127.0.0.1:9', disabled=False)"


def test_an_unknown_setting_raises():
    """A misspelt keyword is no silent no-op."""
    with pytest.raises(TypeError, match="ednpoint"):
        TelemetryClient("key", "http://127.0.0.1:9", ednpoint="auto")  # type: ignore[call-arg]


@pytest.mark.parametrize(("key", "host"), [("", "http://127.0.0.1:9"), ("key", ""), ("", "")])
def test_without_key_or_host_a_client_is_disabled(key, host, debug_lines):
    """There is nothing it could send to: it does nothing, and says so once."""
    client = TelemetryClient(key, host)
    assert client.disabled
    assert client.capture("built", distinct_id="me") is None
    assert client.capture_exception(ValueError("x")) is None
    assert debug_lines() == ["telemetry is off: no api_key or no host"]
    assert (client.stats.captured, client.flush(), client.shutdown()) == (0, True, True)


def test_a_sender_and_what_it_runs_never_captures(monkeypatch):
    """In a process that carries the sender's mark a client is disabled, so no sender ever starts a sender."""
    monkeypatch.setenv("ATO_TELEMETRY_SENDER", "1")
    assert TelemetryClient("key", "http://127.0.0.1:9").disabled


def test_a_client_that_is_let_go_is_collected(new_client):
    """A program that makes many clients keeps none of them alive, not even through the exit hook."""
    client = TelemetryClient("key", "http://127.0.0.1:9")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


# What is started, and when


@needs_proc
def test_nothing_is_started_before_the_first_event(server, tmp_path):
    """Importing and making a client starts no thread and no process and writes no file; the first event does."""
    home = tmp_path / "home"
    home.mkdir()
    source = """
print(*burden())
client.capture("built", distinct_id="me")
while client.stats.handed_over < 1 or burden()[1]:  # the process that makes the sender leaves at once
    time.sleep(0.005)
print(*burden())
"""
    done = run_host(source, server.url, HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"))
    assert (done.returncode, done.stderr) == (0, "")
    before, after = done.stdout.splitlines()
    assert before == "1 0"
    assert after == "2 0", "one thread; the sender is nobody's child"
    server.wait_for_events(1)
    assert files_below(home) == []


@needs_proc
@pytest.mark.parametrize("how", ["no key", "from the start", "later"])
def test_a_disabled_client_starts_nothing(server, tmp_path, how):
    """However it came to be disabled, captures start no thread and no process, and nothing is sent or written."""
    home = tmp_path / "home"
    home.mkdir()
    source = {
        "no key": 'client = atotelemetry.TelemetryClient("", sys.argv[1])',
        "from the start": "client.disabled = True",
        "later": "client.flush(); client.stats; client.disabled = True",
    }[how]
    source += """
for number in range(100):
    assert client.capture("built", distinct_id="me") is None
    assert client.capture_exception(ValueError("x")) is None
assert client.flush() and client.flush(delivered=True) and client.shutdown()
print(*burden(), client.stats.captured)
"""
    done = run_host(source, server.url, HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "1 0 0\n")
    assert server.connection_count == 0
    assert files_below(home) == []


def test_disabled_may_be_set_and_taken_back_at_any_time(recorder):
    """As a test suite of the host's does: nothing in between, everything before and after."""
    client = recorder.client
    client.capture("before", distinct_id="me")
    client.disabled = True
    assert client.capture("between", distinct_id="me") is None
    client.disabled = False
    client.capture("after", distinct_id="me")
    assert [event["event"] for event in recorder.events] == ["before", "after"]
    assert client.stats.captured == 2


# The queue


def test_a_full_queue_drops_counts_and_says_so_once(stuck, debug_lines):
    """What does not fit is None for the caller and one more in the count; a log gets one line, not one for each."""
    client = stuck(queue_size=3)
    results = [client.capture("built", distinct_id="me") for _ in range(10)]
    assert [result is not None for result in results] == [True] * 3 + [False] * 7
    stats = client.stats
    assert (stats.captured, stats.handed_over, stats.dropped, stats.queued) == (10, 0, 7, 3)
    assert stats.dropped_by_reason == {"queue full": 7}
    assert debug_lines() == ["dropped an event (queue full); any more are only counted"]


def test_the_queue_holds_256_events_by_default(stuck):
    """The default of the contract, and a flush of at most two seconds."""
    assert (DEFAULT_QUEUE_SIZE, FLUSH_TIMEOUT) == (256, 2.0)
    client = stuck()
    assert sum(client.capture("built", distinct_id="me") is not None for _ in range(300)) == 256


def test_stats_say_what_became_of_the_events():
    """The counts always add up, and show themselves readably."""
    stats = Stats(10, 6, {"queue full": 2, "error": 1}, 3, {"sender died": 2})
    assert (stats.captured, stats.handed_over, stats.dropped, stats.queued) == (10, 6, 3, 1)
    assert (stats.delivered, stats.lost, stats.on_the_way) == (3, 2, 1)
    assert repr(stats) == (
        "Stats(captured=10, queued=1, dropped=3, handed_over=6, delivered=3, lost=2, on_the_way=1, "
        "dropped_by_reason={'queue full': 2, 'error': 1}, lost_by_reason={'sender died': 2})"
    )


def test_a_counter_counts_across_threads():
    """No increment is lost however many threads count, and looking does not count."""
    counter = Counter()
    assert counter.value == 0
    threads = [threading.Thread(target=lambda: [counter.add() for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == counter.value == 40_000


def test_an_error_inside_is_counted_never_raised(recorder, monkeypatch, debug_lines):
    """Should this library itself fail, the host sees None and the loss is counted, with one DEBUG line."""
    recorder.client.capture("fine", distinct_id="me")

    def fail(*_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(recorder.client._encoder, "new_uuid", fail)
    assert recorder.client.capture("built", distinct_id="me") is None
    assert recorder.client.capture("built", distinct_id="me") is None
    assert recorder.client.stats.dropped_by_reason == {"error": 2}
    assert len([line for line in debug_lines() if "bug" in line]) == 1


# The real path


def test_a_lone_event_goes_to_capture(server, new_client):
    """The server sees PostHog's single-event shape, with the key in the body, and the program's name and version."""
    client = new_client(server.url)
    name = client.capture("built", distinct_id="me", properties={"ok": True}, context={"k": 1})
    assert client.flush(20, delivered=True)
    (request,) = server.requests
    assert (request.method, request.path, request.api_key, request.sent_at) == ("POST", "/capture/", "phc_test", None)
    assert request.headers["User-Agent"] == "tool/1.2"
    assert request.headers["Content-Type"] == "application/json"
    body = json.loads(request.body)
    assert set(body) == {"api_key", "uuid", "event", "distinct_id", "timestamp", "properties", "context"}
    assert (body["uuid"], body["event"], body["distinct_id"], body["context"]) == (name, "built", "me", {"k": 1})
    assert body["properties"]["ok"] is True
    assert body["properties"]["$lib"]


def test_several_events_go_to_batch(server, new_client):
    """The server sees PostHog's batch shape, the events in the order of their capture, and when it was sent."""
    client = new_client(server.url)
    names = [client.capture(f"event {number}", distinct_id="me") for number in range(5)]
    assert client.flush(20, delivered=True)
    assert {request.path for request in server.requests} == {"/batch/"}
    body = json.loads(server.requests[0].body)
    assert set(body) == {"api_key", "batch", "sent_at"}
    assert [event["uuid"] for event in server.events] == names
    assert TIMESTAMP.fullmatch(body["sent_at"])
    assert body["sent_at"] >= server.events[0]["timestamp"]


@pytest.mark.parametrize(("endpoint", "count", "paths"), [("capture", 2, ["/capture/"] * 2), ("batch", 1, ["/batch/"])])
def test_the_endpoint_can_be_chosen(server, new_client, endpoint, count, paths):
    """Some proxies know only one of the two."""
    client = new_client(server.url, endpoint=endpoint)
    for _ in range(count):
        client.capture("built", distinct_id="me")
    assert client.flush(20, delivered=True)
    assert [request.path for request in server.requests] == paths


def test_common_properties_are_on_every_event_and_lose_against_its_own(server, new_client):
    """The client's properties are added once, by the sender; what the event says itself wins."""
    client = new_client(server.url, properties={"version": "common", "edition": {1, 2}})
    client.capture("first", distinct_id="me", properties={"version": "own", "$lib": "mine"})
    client.capture("second", distinct_id="me")
    assert client.flush(20, delivered=True)
    first, second = (event["properties"] for event in server.events)
    assert (first["version"], first["$lib"], second["version"]) == ("own", "mine", "common")
    assert first["edition"] == second["edition"] == [1, 2]
    assert second["$lib"] != "mine"


def test_a_huge_event_arrives(server, new_client):
    """Cut and marked, as one event among others."""
    client = new_client(server.url)
    client.capture("huge", distinct_id="me", properties={"huge": "x" * 3_000_000, "small": 1})
    client.capture("small", distinct_id="me")
    assert client.flush(20, delivered=True)
    huge, small = server.events
    assert (huge["event"], huge["properties"]["small"], small["event"]) == ("huge", 1, "small")
    assert huge["properties"]["huge"].startswith("xxx")


def test_flush_hands_over_and_the_next_capture_starts_a_new_sender(server, new_client):
    """After a flush the sender drains and exits by itself; telemetry goes on with another one, perhaps beside it."""
    client = new_client(server.url)
    groups = set()
    for name in ("first", "second"):
        client.capture(name, distinct_id="me")
        assert client.flush(10)
        assert client.stats.queued == 0
        assert client._feeder._sender is None
        groups |= {sender.group for sender in client._feeder._senders._accounts[2]}
    assert len(groups) == 2
    assert {event["event"] for event in server.wait_for_events(2, timeout=20)} == {"first", "second"}
    assert client.flush(20, delivered=True)


def test_flush_never_waits_for_the_network(server, new_client):
    """A server that hangs is the sender's business."""
    server.respond(Answer(hang=True))
    # The request ends long before the deadline, which a sender on a busy machine may need to get so far.
    client = new_client(server.url, request_timeout=1.0, max_retries=0)
    client.capture("built", distinct_id="me")
    assert client.flush(10)
    assert client.stats.handed_over == 1
    server.wait_for_requests(1)
    assert not client.flush(20, delivered=True), "nobody accepted it"


def test_delivered_is_true_only_for_what_the_server_accepted(server, new_client):
    """An event that was refused makes it False; the next flush speaks of what came since."""
    client = new_client(server.url)
    server.script(Answer(status=401))
    client.capture("refused", distinct_id="me")
    assert not client.flush(20, delivered=True)
    client.capture("accepted", distinct_id="me")
    assert client.flush(20, delivered=True)
    assert client.flush(delivered=True), "nothing was captured since"


def test_flush_without_events_is_done_at_once(new_client):
    """There is nothing to hand over, and nothing is started for it."""
    client = new_client()
    assert client.flush()
    assert client.flush(0)
    assert client.flush(None, delivered=True)
    assert not client._feeder._running


def test_flush_gives_up_in_time(stuck):
    """With a feeder that does not come to its work a flush is False after its timeout, not later."""
    client = stuck()
    client.capture("built", distinct_id="me")
    started = time.monotonic()
    assert not client.flush(0.05)
    assert 0.04 < time.monotonic() - started < 2


def test_shutdown_hands_over_and_refuses_everything_after(server, new_client):
    """What was captured is delivered, what comes later is None; a second shutdown is nothing."""
    client = new_client(server.url)
    client.capture("before", distinct_id="me")
    assert client.shutdown()
    assert client.disabled
    assert client.capture("after", distinct_id="me") is None
    assert client.shutdown()
    assert [event["event"] for event in server.wait_for_events(1)] == ["before"]
    assert (client.stats.captured, client.stats.handed_over) == (1, 1)


@needs_proc
def test_after_a_shutdown_nothing_is_left(server):
    """A host that goes on without telemetry soon has no thread and no child of ours, not even a zombie."""
    source = """
import gc, weakref
client.capture("built", distinct_id="me")
assert client.shutdown()
while burden() != (1, 0):
    time.sleep(0.01)
gone = weakref.ref(client)
del client
gc.collect()
print(gone())
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


@needs_proc
def test_at_exit_everything_is_handed_over(server):
    """A program that captures and ends, ends; its events arrive though nobody called flush."""
    source = """
import atexit
for number in range(20):
    client.capture("built", distinct_id="me", properties={"number": number})
# Hooks run in reverse order: ours was registered before this one and after the next.
atexit.register(lambda: print(client.disabled, flush=True))
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    events = server.wait_for_events(20, timeout=20)
    assert [event["properties"]["number"] for event in events] == list(range(20))


def test_exit_costs_no_more_than_its_timeout_whatever_the_server_does(server):
    """With a server that hangs, and a second client, the exit hook still is within FLUSH_TIMEOUT for all."""
    server.respond(Answer(hang=True))
    source = """
import atexit, time
began = []
second = atotelemetry.TelemetryClient("phc_test", sys.argv[1], request_timeout=1, sender_deadline=2)
# This one runs before the package's own hook, the one registered before the first client would run after it.
for number in range(200):
    client.capture("built", distinct_id="me", properties={"text": "x" * 1000})
    second.capture("built", distinct_id="me")
atexit.register(lambda: began.append(time.monotonic()))
"""
    # The hook that is registered first runs last.
    first = "import atexit, time; atexit.register(lambda: print(time.monotonic() - began[0], client.disabled))\n"
    done = subprocess.run(
        [sys.executable, "-c", first + HOST.replace("sender_deadline=10", "sender_deadline=2") + source, server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seconds, disabled = done.stdout.split()
    assert float(seconds) < FLUSH_TIMEOUT + 0.5
    assert disabled == "True"


def test_capture_writes_nothing_to_the_hosts_output(server):
    """Not on success, not for odd values, not when events are lost."""
    source = """
client.capture("built", distinct_id="me", properties={"odd": object()})
client.capture("")
for number in range(1000):
    client.capture("built", distinct_id="me")
"""
    done = run_host(source, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server.wait_for_events(1)


def test_capture_is_safe_from_many_threads(server, new_client):
    """Each event of each thread arrives once."""
    client = new_client(server.url, queue_size=10_000)

    def work(thread: int) -> None:
        for number in range(50):
            client.capture("built", distinct_id="me", properties={"who": f"{thread} {number}"})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(20, delivered=True)
    arrived = [event["properties"]["who"] for event in server.events]
    assert sorted(arrived) == sorted(f"{thread} {number}" for thread in range(20) for number in range(50))
    assert (client.stats.captured, client.stats.handed_over, client.stats.dropped) == (1000, 1000, 0)
