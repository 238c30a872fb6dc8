"""Exceptions that misbehave: nothing that they do comes out, and the rest of the event is whole."""

from __future__ import annotations

import pytest

from atotelemetry.host import exceptions
from atotelemetry.host.exceptions import exception_properties
from atotelemetry.host.values import Walk
from support_exceptions import (
    HOSTILE,
    Mute,
    OddlyTyped,
    caught,
    described,
    fail,
    fail_in_turns,
    fail_with_syntax,
    frames_of,
    printed,
    raise_,
    wrapped,
)


class TestMisbehaviour:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_exception_still_arrives(self, name):
        """Whatever an exception does when it is asked, its type, its message and its frames arrive."""
        error = HOSTILE[name]
        BaseException.with_traceback(error, None)
        for subject in (error, wrapped(error)):
            properties = described(subject)
            last = properties["$exception_list"][-1]
            assert last["value"] or name == "mute"
            assert properties["$exception_message"] in properties["$exception_stack_trace"]
        raised = caught(raise_, error)
        assert raised is error
        if name != "every attribute raises":  # its traceback is among them
            assert [frame["function"] for frame in frames_of(raised)] == ["caught", "raise_"]
        BaseException.with_traceback(error, None)

    def test_str_that_raises(self):
        """A `__str__` that fails is replaced by the words that the standard library has for it."""
        error = caught(raise_, Mute())
        properties = described(error)
        assert properties["$exception_message"] == "<exception str() failed>"
        assert properties["$exception_stack_trace"] == printed(error)

    def test_metaclass_that_raises(self):
        """A class that hides its name is unknown, and what it says is kept."""
        properties = described(OddlyTyped("o"))
        assert properties["$exception_type"] == "<unknown>"
        assert properties["$exception_stack_trace"] == "<unknown>.<unknown>: o\n"

    @pytest.mark.parametrize("notes", [5, "text", b"bytes", object(), [1, None, Mute()], [Mute()] * 300, (), {"a": 1}])
    def test_junk_notes(self, notes):
        """Whatever `__notes__` holds, the event arrives, and usual notes look as usual."""
        error = caught(fail)
        error.__notes__ = notes
        text = described(error)["$exception_stack_trace"]
        assert "ValueError: it broke\n" in text
        if type(notes) is list and len(notes) < 100:
            assert text == printed(error)
        elif type(notes) is list:
            assert (text.count("<note str() failed>"), text.count("<Mute object (not asked)>")) == (64, 36)
            assert text.endswith("\n[200 more notes]\n")

    def test_notes_that_raise(self):
        """A `__notes__` that raises is as good as none."""

        class Noted(Exception):
            @property
            def __notes__(self):
                raise RuntimeError

        assert described(Noted("n"))["$exception_stack_trace"].endswith("Noted: n\n")

    @pytest.mark.parametrize(
        ("field", "value"),
        [("offset", "junk"), ("text", 5), ("lineno", Mute()), ("filename", 3), ("end_offset", []), ("msg", Mute())],
    )
    def test_syntax_error_with_junk(self, field, value):
        """A SyntaxError whose fields cannot be printed still tells its name and message."""
        error = caught(fail_with_syntax)
        setattr(error, field, value)
        properties = described(error)
        assert properties["$exception_type"] == "SyntaxError"
        assert "SyntaxError" in properties["$exception_stack_trace"]
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["function"] == "fail_with_syntax"

    def test_lone_surrogates(self):
        """A message that has no UTF-8 is made to have one."""
        assert described(caught(fail, "a\udcffb"))["$exception_message"] == "a?b"

    def test_cycle_of_one(self):
        """An exception that is its own cause ends after itself."""
        error = caught(fail)
        error.__cause__ = error
        properties = described(error)
        assert len(properties["$exception_list"]) == 1
        assert properties["$exception_stack_trace"] == printed(error)

    @pytest.mark.parametrize("link", ["__cause__", "__context__"])
    def test_cycle_of_two(self, link):
        """Two exceptions that are each other's cause or context appear once each."""
        first, second = caught(fail, "first"), caught(fail, "second")
        setattr(first, link, second)
        setattr(second, link, first)
        properties = described(first)
        assert [entry["value"] for entry in properties["$exception_list"]] == ["first", "second"]
        assert properties["$exception_stack_trace"] == printed(first)

    def test_member_whose_cause_is_the_group(self):
        """A cycle through a group ends too."""
        member = ValueError("member")
        group = ExceptionGroup("group", [member])
        member.__cause__ = group
        properties = described(group)
        assert len(properties["$exception_list"]) == 2
        assert properties["$exception_stack_trace"] == printed(group)

    @pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
    def test_huge_message(self, letter):
        """A message of megabytes is cut everywhere, also where its letters take four bytes."""
        properties = described(caught(fail, letter * 5_000_000))
        for text in (properties["$exception_message"], properties["$exception_list"][0]["value"]):
            assert 2_000 < len(text) < 8_300
            assert text.endswith("... [cut]")

    def test_everything_at_once(self):
        """A wide group of deep recursions with huge messages and notes stays within bounds."""
        members = [caught(fail_in_turns, 100) for _ in range(120)]
        for member in members:
            member.args = ("\U0001f600" * 100_000,)
            member.__notes__ = ["n" * 100_000] * 200
        error = caught(raise_, ExceptionGroup("e" * 100_000, members))
        properties = described(error)  # which checks the size
        assert len(properties["$exception_list"]) == 50
        assert "characters left out]" in properties["$exception_stack_trace"]

    def test_at_the_recursion_limit(self):
        """However little of the stack is left, describing an exception does not raise another."""
        outcomes = []
        escaped = []
        walks = [Walk() for _ in range(200)]

        def deeper():
            try:
                deeper()
            except RecursionError as error:
                try:
                    outcomes.append(exception_properties(error, walks.pop(), distinct_id="x"))
                except RecursionError as another:
                    # At the very end of the stack the call itself fails, before anything of ours runs.
                    if another.__traceback__.tb_next is not None:
                        escaped.append(another)
                if len(outcomes) < 150:
                    raise

        # Warm what is imported lazily: an import that the limit interrupts is the next one's business.
        described(caught(fail))
        deeper()
        assert len(outcomes) == 150
        assert not escaped
        assert all(outcome["$exception_list"] for outcome in outcomes)
        assert outcomes[-1]["$exception_list"][0]["stacktrace"]

    def test_reason_is_logged(self, monkeypatch, caplog):
        """What could not be described in full is said at DEBUG, and the type and message arrive."""

        def broken(*args):
            raise LookupError("inner")

        monkeypatch.setattr(exceptions, "_link", broken)
        with caplog.at_level("DEBUG", logger="atotelemetry"):
            properties = described(caught(fail))
        assert properties["$exception_list"][0]["value"] == "it broke"
        assert properties["$exception_stack_trace"] == "ValueError: it broke\n"
        assert "LookupError" in caplog.text
