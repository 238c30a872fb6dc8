"""The printed text of an exception: as the standard library prints it, bounded, and without suggestions."""

from __future__ import annotations

import importlib
import linecache
import sys
import traceback

import pytest

from atotelemetry.host import exceptions
from atotelemetry.host.exceptions import exception_properties
from atotelemetry.host.values import Walk
from support_exceptions import (
    caught,
    chain_long,
    chained,
    described,
    fail,
    fail_in_between,
    fail_in_text,
    fail_in_turns,
    fail_over_lines,
    fail_recursively,
    fail_with_cause,
    fail_with_context,
    fail_with_group,
    fail_with_notes,
    fail_with_suppressed_context,
    fail_with_syntax,
    printed,
    share_an_exception,
)


def fail_with_name():
    a_local_name = None  # noqa: F841  # it is what would be suggested
    return a_local_nmae  # noqa: F821


def fail_with_name_of_module():
    return tempfile  # noqa: F821


def fail_with_attribute():
    return "text".uper()


def fail_with_import():
    from os import pth  # noqa: F401


def interrupt():
    raise KeyboardInterrupt


def exit_with_group():
    raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")])


def share_a_context():
    shared = caught(fail, "shared")
    first, second = caught(fail, "first"), caught(fail, "second")
    first.__context__ = shared
    second.__context__ = shared
    raise ExceptionGroup("both", [first, second])


NORMAL = [
    fail,
    fail_in_between,
    fail_with_cause,
    fail_with_context,
    fail_with_suppressed_context,
    fail_with_group,
    fail_with_notes,
    fail_with_syntax,
    fail_with_name,
    fail_with_name_of_module,
    fail_with_attribute,
    fail_with_import,
    fail_in_text,
    fail_over_lines,
    interrupt,
    exit_with_group,
    share_an_exception,
    share_a_context,
    chain_long,
]


@pytest.fixture
def formatted(monkeypatch):
    """Record the summaries that the standard library formats."""
    summaries = []
    original = traceback.StackSummary.format_frame_summary

    def recorded(self, summary, **options):
        summaries.append(summary)
        return original(self, summary, **options)

    monkeypatch.setattr(traceback.StackSummary, "format_frame_summary", recorded)
    return summaries


class TestTheTrio:
    @pytest.mark.parametrize("function", NORMAL)
    def test_stack_trace_is_the_standard_library_s(self, function):
        """For an exception of any usual kind it is what `traceback.format_exception` gives, without suggestions."""
        error = caught(function)
        assert described(error)["$exception_stack_trace"] == printed(error)

    @pytest.mark.parametrize("depth", [2, 3, 4, 60, 130, 950])
    def test_repeated_lines_are_counted_as_the_standard_library_does(self, depth):
        """A recursion, also one deeper than the frames that are kept, prints the same text."""
        error = caught(fail_recursively, depth)
        assert described(error)["$exception_stack_trace"] == printed(error)

    def test_recursion_error(self):
        """What a runaway recursion leaves behind prints the same text."""

        def endless():
            endless()

        error = caught(endless)
        assert isinstance(error, RecursionError)
        assert described(error)["$exception_stack_trace"] == printed(error)

    def test_a_deep_stack_of_different_lines_is_whole(self):
        """A stack as deep as frameworks make it is printed whole."""
        error = caught(fail_in_turns, 60)
        assert described(error)["$exception_stack_trace"] == printed(error)

    @pytest.mark.parametrize("limit", [0, 1, 2, -1])
    def test_traceback_limit(self, monkeypatch, limit):
        """`sys.tracebacklimit` shortens the text, as it does everywhere, and not what error tracking learns."""
        error = caught(fail_in_between)
        monkeypatch.setattr(sys, "tracebacklimit", limit, raising=False)
        properties = described(error)
        assert properties["$exception_stack_trace"] == printed(error)
        assert len(properties["$exception_list"][0]["stacktrace"]["frames"]) == 3

    def test_message_type_and_person(self):
        """The other three are `str(exception)`, the name of its class, and the person."""
        properties = described(caught(fail_with_cause))
        assert properties["$exception_message"] == "'the wrapper'"
        assert properties["$exception_type"] == "KeyError"
        assert properties["$exception_person"] == "somebody"
        assert properties["$exception_level"] == "error"

    def test_middle_of_a_deep_stack_is_left_out_and_said(self):
        """A stack too deep to print keeps both ends and says how many frames are missing."""
        text = described(caught(fail_in_turns, 400))["$exception_stack_trace"]
        assert "in caught\n" in text
        assert text.endswith("ValueError: it broke\n")
        shown = text.count('  File "')
        assert 190 <= shown <= 204
        assert f"\n  [{803 - shown} frames left out]\n" in text

    @pytest.mark.parametrize(("length", "frames"), [(3, 200), (10, 60), (50, 12), (150, 8)])
    def test_a_long_chain_of_deep_stacks_is_printed_in_part(self, length, frames, monkeypatch):
        """The text of an event has so many frames in all, shared by its exceptions: printing them is what costs."""
        monkeypatch.setattr(exceptions, "_MAX_STACK_TRACE_BYTES", 1 << 30)
        error = chained([caught(fail_in_turns, 400) for _ in range(length)])
        properties = exception_properties(error, Walk(), distinct_id="somebody")
        parts = properties["$exception_stack_trace"].split("\nThe above exception was the direct cause of the ")
        assert len(parts) == length
        for part in parts:
            shown = part.count('  File "')
            assert frames <= shown <= frames + 4
            assert f"\n  [{803 - shown} frames left out]\n" in part
            assert "in caught\n" in part
            assert "in fail\n" in part

    @pytest.mark.parametrize(("length", "most"), [(50, 24), (150, 20)])
    def test_frames_of_a_chain_are_summarised_where_they_are_used(self, length, most, monkeypatch):
        """A summary looks up a line, so there are no more of them than are printed or listed."""
        looked_up = []  # the standard library tells `linecache` of each frame that it summarises
        original = linecache.lazycache
        monkeypatch.setattr(linecache, "lazycache", lambda *place: looked_up.append(place) or original(*place))
        described(chained([caught(fail_in_turns, 400) for _ in range(length)]))
        assert length < len(looked_up) <= most * length

    def test_a_frame_that_recurs_is_formatted_once(self, formatted):
        """Two functions that call each other, and a chain through the same lines, cost what their lines cost."""
        error = chained([caught(fail_in_turns, 30) for _ in range(3)])
        whole = printed(error)
        formatted.clear()
        assert described(error)["$exception_stack_trace"] == whole
        # `caught`, `fail_in_turns` on its way and at its end, `fail_in_turns_too` and `fail`.
        assert len(formatted) == 5

    def test_frames_of_no_file_are_told_apart(self, formatted):
        """A name in angle brackets may stand for several sources, so each of its frames is formatted."""
        described(chained([caught(fail_in_text), caught(fail_in_text)]))
        assert [summary.filename for summary in formatted].count("<made up>") == 4

    @pytest.mark.parametrize(
        "function", [fail_with_name, fail_with_name_of_module, fail_with_attribute, fail_with_import]
    )
    def test_no_name_is_suggested(self, function):
        """The text ends with the exception's own message: a suggestion would name something of the host's."""
        error = caught(function)
        assert described(error)["$exception_stack_trace"].endswith(f"{type(error).__name__}: {error}\n")

    def test_an_import_that_failed_is_not_tried_again(self, tmp_path, monkeypatch):
        """To suggest a name, Python 3.12 and later import the module once more: its code would run a second time."""
        (tmp_path / "plugin_that_ran.py").write_text("ran.append(True)\nfrom plugin_beside_it import other\nname = 1\n")
        (tmp_path / "plugin_beside_it.py").write_text("from plugin_that_ran import name\nother = 1\n")
        ran = []
        monkeypatch.setattr("builtins.ran", ran, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        error = caught(importlib.import_module, "plugin_that_ran")
        assert type(error) is ImportError
        text = described(error)["$exception_stack_trace"]
        assert text.endswith(f"ImportError: {error}\n")
        assert ran == [True]

    def test_nothing_of_the_host_is_asked_for_a_suggestion(self):
        """Neither a property of the object whose method failed, nor the `__dir__` of one that lacked an attribute."""
        asked = []

        class Host:
            @property
            def undefined_name(self):
                asked.append("property")

            def __dir__(self):
                asked.append("dir")
                return ["misspelt"]

            def method(self):
                return undefined_name  # noqa: F821

        host = Host()
        for error in (caught(host.method), caught(lambda: host.mispelt)):
            described(error)
        assert asked == []

    def test_text_has_no_colours(self, monkeypatch):
        """The text stays plain where the interpreter was told to print in colour."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("PYTHON_COLORS", "1")
        assert "\x1b" not in described(caught(fail_with_group))["$exception_stack_trace"]
