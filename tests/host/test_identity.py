"""Whose event it is: the distinct id, the person, and the properties of the run."""

from __future__ import annotations

import logging
import threading
import uuid

import pytest

import atotelemetry
from atotelemetry.facts import run
from atotelemetry.host.telemetry import Telemetry
from support_home import ID, files_below, store
from support_telemetry import NOWHERE, Recorded

pytestmark = pytest.mark.usefixtures("file")


class TestIdentity:
    @pytest.fixture
    def signed_in(self, file):
        """Make a `Telemetry` whose identity the test sets."""
        store(file, f"id: {ID}\ntelemetry: true\n")
        answer = []

        def ask():
            if isinstance(answer[0], BaseException):
                raise answer[0]
            return answer[0]

        return Recorded(identity=ask), lambda value: answer.__setitem__(slice(None), [value])

    @pytest.mark.parametrize(
        ("answer", "person", "email"),
        [
            ("user_1", "user_1", None),
            (" user_1 ", "user_1", None),
            (("user_1", "a@b.example"), "user_1", "a@b.example"),
            (("user_1", None), "user_1", None),
            (("user_1", " "), "user_1", None),
            ((None, "a@b.example"), ID, "a@b.example"),
            (uuid.UUID(ID.replace("0", "1")), ID.replace("0", "1"), None),
            (None, ID, None),
            ("", ID, None),
            ((), ID, None),
            (("a", "b", "c"), ID, None),
            (ValueError("no session"), ID, None),
            (SystemExit(3), ID, None),
        ],
    )
    def test_answers(self, signed_in, answer, person, email):
        """A distinct id, or one with an e-mail address, or nobody; what fails or is malformed is nobody."""
        recorded, set_answer = signed_in
        set_answer(answer)
        recorded.telemetry.capture_event("a")
        recorded.telemetry.capture_exception(KeyError("R1"))
        for event in recorded.events:
            assert (event["distinct_id"], event["properties"].get("email")) == (person, email)
        assert recorded.events[1]["properties"]["$exception_person"] == person

    def test_a_text_that_strips_oddly(self, signed_in):
        """A subclass of str gives its characters, whatever its methods say."""
        recorded, set_answer = signed_in
        odd = type("Odd", (str,), {"strip": lambda self: [self]})(" user_1 ")
        set_answer((odd, type("Says", (), {"__str__": lambda self: odd})()))
        recorded.telemetry.capture_event("a")
        event = recorded.only()
        assert (event["distinct_id"], event["properties"]["email"]) == ("user_1", "user_1")

    def test_during_a_run(self, signed_in):
        """Somebody who signs in during a block is on the later event, and no other event says so."""
        recorded, set_answer = signed_in
        set_answer(None)
        with recorded.telemetry.capture("start", "end"):
            set_answer("user_1")
        assert [(event["event"], event["distinct_id"]) for event in recorded.events] == [
            ("start", ID),
            ("end", "user_1"),
        ]

    def test_asked_on_the_capturing_thread(self, file):
        """The function is called once for each event, on the thread that captures it."""
        asked = []
        recorded = Recorded(identity=lambda: asked.append(threading.current_thread().name))
        recorded.telemetry.capture_event("a")
        thread = threading.Thread(target=lambda: recorded.telemetry.capture_event("b"), name="other")
        thread.start()
        thread.join()
        assert asked == [threading.current_thread().name, "other"]

    def test_an_event_cannot_override_it(self, signed_in):
        """An event's own `email` is nobody's word about the person, signed in or not."""
        recorded, set_answer = signed_in
        for answer in (("user_1", "a@b.example"), "user_1", None):
            set_answer(answer)
            recorded.telemetry.capture_event("a", {"email": "other@b.example", "distinct_id": "other"})
        assert [event["properties"].get("email") for event in recorded.events] == ["a@b.example", None, None]
        assert [event["distinct_id"] for event in recorded.events] == ["user_1", "user_1", ID]

    def test_without_it_the_event_wins(self, recorded):
        """Where no identity is given, an event's `email` stays."""
        recorded.telemetry.capture_event("a", {"email": "other@b.example"})
        assert recorded.only()["properties"]["email"] == "other@b.example"

    def test_a_failure_is_one_line(self, signed_in, caplog):
        """What the function raises is one line in the log."""
        recorded, set_answer = signed_in
        set_answer(ValueError("no session"))
        caplog.set_level(logging.DEBUG, "atotelemetry")
        recorded.telemetry.capture_event("a")
        assert caplog.messages == ["the identity is not known: ValueError('no session')"]

    def test_ctrl_c(self, signed_in):
        """A Ctrl-C that happens to arrive there is the program's."""
        recorded, set_answer = signed_in
        set_answer(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            recorded.telemetry.capture_event("a")

    def test_one_that_captures(self, file):
        """A function that captures an event itself is not asked about that one."""
        store(file, f"id: {ID}\ntelemetry: true\n")

        def ask():
            recorded.telemetry.capture_event("asked")
            return "user_1"

        recorded = Recorded(identity=ask)
        recorded.telemetry.capture_event("a")
        assert [(event["event"], event["distinct_id"]) for event in recorded.events] == [("asked", ID), ("a", "user_1")]

    def test_nobody_is_asked_when_telemetry_is_off(self, file):
        """Who said no is not looked up."""
        store(file, "telemetry: false\n")
        telemetry = Telemetry(app="atopile", api_key="key", host=NOWHERE, identity=lambda: pytest.fail("asked"))
        assert telemetry.capture_event("a") is None

    def test_no_function(self, file):
        """What is no function is a mistake of the program's, not silence."""
        with pytest.raises(ValueError, match="identity must be a function, not 'me'"):
            Telemetry(app="atopile", api_key="key", host=NOWHERE, identity="me")


class TestRunAndPerson:
    def test_one_run_id_for_the_process(self, recorded):
        """Every event of a process has one `run_id`, whichever instance sent it, and `PropertyLoaders` knows it."""
        other = Recorded(app="other")
        recorded.telemetry.capture_event("a")
        recorded.telemetry.capture_event("b")
        other.telemetry.capture_event("c")
        found = {event["properties"]["run_id"] for event in [*recorded.events, *other.events]}
        assert found == {atotelemetry.PropertyLoaders.run_id()}
        assert uuid.UUID(found.pop()).version == 4

    def test_the_loaders_may_be_first(self, monkeypatch, recorded):
        """The same when `PropertyLoaders.run_id` was asked before the first event."""
        monkeypatch.setattr(run, "_run", {})
        asked = atotelemetry.PropertyLoaders.run_id()
        recorded.telemetry.capture_event("a")
        assert recorded.only()["properties"]["run_id"] == asked

    def test_first_run(self, file, tmp_path):
        """Making a `Telemetry` writes nothing; the first event creates the file and carries the id in it."""
        recorded = Recorded()
        assert files_below(tmp_path) == []
        recorded.telemetry.capture_event("first")
        content = file.read_text()
        assert content == f"id: {recorded.only()['distinct_id']}\ntelemetry: true\n"
        recorded.telemetry.capture_event("second")
        assert recorded.events[1]["distinct_id"] == recorded.events[0]["distinct_id"]
        assert file.read_text() == content

    def test_a_home_that_cannot_be_written(self, file, tmp_path):
        """Where no file can be kept, the run's events still share one random id."""
        (tmp_path / "home" / ".config").write_text("a file in the place of the directory")
        recorded = Recorded()
        recorded.telemetry.capture_event("one")
        recorded.telemetry.capture_event("two")
        first, second = (event["distinct_id"] for event in recorded.events)
        assert first == second
        assert uuid.UUID(first)
