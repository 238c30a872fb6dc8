"""What of an exception becomes an event: the old dashboards' trio and today's `$exception_list`."""

from __future__ import annotations

import copy
import gc
import importlib
import itertools
import linecache
import os
import pickle
import re
import subprocess
import sys
import sysconfig
import textwrap
import tokenize
import traceback
import types
import weakref

import pytest

from atotelemetry.host import exceptions, stack_trace
from atotelemetry.host.exceptions import current_exception, exception_properties, mark_reported, unmark_reported
from atotelemetry.host.frames import own_packages
from support_posthog_rules import check_exception_properties, fingerprint, in_app


def caught(function, *arguments):
    """Return the exception that `function` raises, with its traceback."""
    try:
        function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def described(exception, **options):
    """Return the properties of `exception`, checked against PostHog's rules."""
    properties = exception_properties(exception, distinct_id="somebody", **options)
    check_exception_properties(properties)
    return properties


def entries_of(exception, **options):
    return described(exception, **options)["$exception_list"]


def frames_of(exception, **options):
    return entries_of(exception, **options)[0]["stacktrace"]["frames"]


def printed(exception):
    """Return what the standard library prints, but for the names that it suggests."""
    text = "".join(traceback.format_exception(exception))
    return re.sub(r"\. Did you (mean:?|forget to import) '.*$", "", text, flags=re.MULTILINE)


def fail(message="it broke"):
    raise ValueError(message)


def fail_in_between(message="it broke"):
    fail(message)


def fail_with_cause():
    try:
        fail("the root")
    except ValueError as error:
        raise KeyError("the wrapper") from error


def chained(errors):
    """Return the last of `errors`, each the cause of the next."""
    for cause, error in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[-1]


def fail_with_context():
    try:
        fail("the first")
    except ValueError:
        raise KeyError("while handling it")  # noqa: B904  # the implicit context is the point


def fail_with_suppressed_context():
    try:
        fail("the hidden one")
    except ValueError:
        raise KeyError("the shown one") from None


def fail_with_group():
    members = [
        caught(fail, "one"),
        caught(fail_with_cause),
        ExceptionGroup("inner", [caught(fail, "three"), TypeError("never raised")]),
    ]
    raise ExceptionGroup("outer", members)


def fail_with_notes():
    error = ValueError("noted")
    error.add_note("first\nsecond line")
    error.add_note("second")
    raise error


def fail_with_syntax():
    compile("value = (1 +\n", "given.py", "exec")


def fail_with_name():
    a_local_name = None  # noqa: F841  # it is what would be suggested
    return a_local_nmae  # noqa: F821


def fail_with_name_of_module():
    return tempfile  # noqa: F821


def fail_with_attribute():
    return "text".uper()


def fail_with_import():
    from os import pth  # noqa: F401


def fail_recursively(depth):
    fail_recursively(depth - 1) if depth else fail()


def fail_in_turns(depth):
    if depth == 0:
        fail()
    fail_in_turns_too(depth - 1)


def fail_in_turns_too(depth):
    fail_in_turns(depth)


def fail_in_text():
    exec(compile("def inner():\n    1 / 0\ninner()", "<made up>", "exec"), {"__name__": "made_up"})


def fail_over_lines():
    fail(
        "onetwo",
    )


def interrupt():
    raise KeyboardInterrupt


def exit_with_group():
    raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")])


def share_an_exception():
    shared = caught(fail, "shared")
    first, second = ValueError("first"), ValueError("second")
    first.__context__ = shared
    second.__context__ = shared
    raise ExceptionGroup("both", [first, shared, second]) from shared


def share_a_context():
    shared = caught(fail, "shared")
    first, second = caught(fail, "first"), caught(fail, "second")
    first.__context__ = shared
    second.__context__ = shared
    raise ExceptionGroup("both", [first, second])


def chain_long(length=30):
    error = ValueError("0")
    for number in range(1, length):
        outer = ValueError(str(number))
        outer.__context__ = error
        error = outer
    raise error


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
        properties = exception_properties(error, distinct_id="somebody")
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
        tamed = []
        original = stack_trace._tamed
        monkeypatch.setattr(stack_trace, "_tamed", lambda summary: tamed.append(summary) or original(summary))
        described(chained([caught(fail_in_turns, 400) for _ in range(length)]))
        assert len(tamed) <= most * length

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


class TestTheList:
    def test_plain(self):
        """One exception is one entry, handled, with its type, value and no module when it is built in."""
        (entry,) = entries_of(caught(fail))
        assert (entry["type"], entry["value"], entry["module"]) == ("ValueError", "it broke", None)
        assert entry["mechanism"] == {"type": "generic", "handled": True, "exception_id": 0}

    def test_unhandled(self):
        """What nothing caught says so."""
        assert entries_of(caught(fail), handled=False)[0]["mechanism"]["handled"] is False

    def test_module(self):
        """A class that is not built in names its module."""
        assert entries_of(caught(subprocess.run, []))[0]["type"] == "IndexError"
        (entry,) = entries_of(subprocess.TimeoutExpired("x", 1))
        assert (entry["type"], entry["module"]) == ("TimeoutExpired", "subprocess")

    def test_frames_run_from_the_entry_point_to_the_crash_site(self):
        """Each frame says where it is; the crash site comes last."""
        frames = frames_of(caught(fail_in_between))
        assert [frame["function"] for frame in frames] == ["caught", "fail_in_between", "fail"]
        crash_site = frames[-1]
        assert crash_site["lineno"] == fail.__code__.co_firstlineno + 1
        assert crash_site["context_line"] == "    raise ValueError(message)"
        assert crash_site["pre_context"][-1] == 'def fail(message="it broke"):'
        assert crash_site["post_context"][2] == 'def fail_in_between(message="it broke"):'
        assert [len(crash_site["pre_context"]), len(crash_site["post_context"])] == [5, 5]
        assert crash_site["abs_path"] is None
        assert crash_site["filename"].endswith("test_exceptions.py")
        assert not os.path.isabs(crash_site["filename"])
        assert crash_site["module"] == __name__
        assert crash_site["in_app"] is True

    def test_cause(self):
        """The caught exception comes first and its cause, the root, last."""
        entries = entries_of(caught(fail_with_cause))
        assert [entry["type"] for entry in entries] == ["KeyError", "ValueError"]
        assert entries[1]["mechanism"]["parent_id"] == 0
        assert entries[1]["mechanism"]["source"] == "cause"
        assert entries[1]["stacktrace"]["frames"][-1]["function"] == "fail"

    def test_context(self):
        """An exception raised while another was handled brings that one along."""
        entries = entries_of(caught(fail_with_context))
        assert [entry["mechanism"].get("source") for entry in entries] == [None, "context"]

    def test_suppressed_context(self):
        """`from None` hides the context."""
        assert [entry["value"] for entry in entries_of(caught(fail_with_suppressed_context))] == ["'the shown one'"]

    def test_group(self):
        """A group is followed by its members in order, each with all of its own, and they say whose they are."""
        entries = entries_of(caught(fail_with_group))
        assert [(entry["value"], entry["mechanism"].get("parent_id")) for entry in entries] == [
            ("outer", None),
            ("one", 0),
            ("'the wrapper'", 0),
            ("the root", 2),
            ("inner", 0),
            ("three", 4),
            ("never raised", 4),
        ]
        groups = [entry["mechanism"].get("is_exception_group", False) for entry in entries]
        assert groups == [True, False, False, False, True, False, False]
        assert entries[1]["mechanism"]["source"] == "member"

    def test_shared_exception_is_listed_once(self):
        """An exception that is reached twice has one entry."""
        values = [entry["value"] for entry in entries_of(caught(share_an_exception))]
        assert sorted(values) == ["both", "first", "second", "shared"]

    def test_wide_group(self):
        """Of a group of hundreds the first are listed, fifty entries in all."""
        error = caught(raise_, ExceptionGroup("wide", [caught(fail, f"number {n}") for n in range(200)]))
        properties = described(error)
        assert len(properties["$exception_list"]) == 50
        assert properties["$exception_list"][49]["value"] == "number 48"
        assert properties["$exception_stack_trace"] == printed(error)

    def test_long_chain(self):
        """A chain without end is cut, in the list and in the text, and the text says so."""
        properties = described(caught(chain_long, 5000))
        assert [entry["value"] for entry in properties["$exception_list"]] == [str(n) for n in range(4999, 4949, -1)]
        assert properties["$exception_stack_trace"].endswith("\n[further exceptions left out]\n")

    def test_frames_are_capped_in_the_middle(self):
        """A deep stack keeps its outermost and innermost frames, and one frame in the middle counts the others."""
        names = {}
        for depth in range(300):
            body = f"function_{depth - 1}()" if depth else "1 / 0"
            exec(compile(f"def function_{depth}(): {body}", "made_up.py", "exec"), names)
        frames = frames_of(caught(names["function_299"]))
        assert len(frames) == 129
        assert frames[0]["function"] == "caught"
        assert frames[-1]["function"] == "function_0"
        assert frames[64]["function"] == f"<{301 - 128} frames left out>"
        assert frames[64]["in_app"] is False

    def test_recursion_is_folded(self):
        """Of a recursion the first and the last round are listed: its depth makes no other issue."""
        frames = frames_of(caught(fail_recursively, 950))
        assert [frame["function"] for frame in frames] == [
            *("caught", "fail_recursively", "<949 frames left out>", "fail_recursively", "fail"),
        ]
        assert fingerprint(described(caught(fail_recursively, 950))) == fingerprint(
            described(caught(fail_recursively, 7))
        )
        assert fingerprint(described(caught(fail_recursively, 950))) != fingerprint(described(caught(fail_in_between)))

    @pytest.mark.parametrize("depth", [4, 9, 200])
    def test_recursion_through_several_functions_is_folded(self, depth):
        """Functions that call each other in turns are one round."""
        frames = frames_of(caught(fail_in_turns, depth))
        assert [frame["function"] for frame in frames] == [
            *("caught", "fail_in_turns", "fail_in_turns_too"),
            f"<{2 * depth - 4} frames left out>",
            *("fail_in_turns", "fail_in_turns_too", "fail_in_turns", "fail"),
        ]

    def test_shallow_recursion_is_whole(self):
        """Two rounds are what a fold leaves, so they stay as they are."""
        names = [frame["function"] for frame in frames_of(caught(fail_recursively, 1))]
        assert names == ["caught", "fail_recursively", "fail_recursively", "fail"]

    def test_hidden_frames(self):
        """A frame that sets `__tracebackhide__` is not listed, unless nothing else is there."""

        def hidden(hide):
            __tracebackhide__ = hide
            fail()

        assert [frame["function"] for frame in frames_of(caught(hidden, True))] == ["caught", "fail"]
        assert [frame["function"] for frame in frames_of(caught(hidden, False))] == ["caught", "hidden", "fail"]
        assert [frame["function"] for frame in frames_of(caught(hidden, Mute()))] == ["caught", "hidden", "fail"]

        def alone():
            __tracebackhide__ = True
            raise ValueError

        error = caught(alone)
        error.__traceback__ = error.__traceback__.tb_next
        assert [frame["function"] for frame in frames_of(error)] == ["alone"]

    def test_deeper_than_any_stack_that_is_normal(self):
        """A recursion of many thousand frames costs little and comes out bounded and right at both ends."""
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(60_000)
        try:
            error = caught(fail_recursively, 50_000)
        finally:
            sys.setrecursionlimit(limit)
        properties = described(error)
        assert "[Previous line repeated 49998 more times]" in properties["$exception_stack_trace"]
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["function"] == "fail"

    def test_never_raised(self):
        """An exception that was never raised has the stack of the code that reports it; its text has none."""
        error = ValueError("never raised")
        properties = described(error)
        frames = properties["$exception_list"][0]["stacktrace"]["frames"]
        assert [frame["function"] for frame in frames[-2:]] == ["test_never_raised", "described"]
        assert frames[-1]["context_line"].strip().startswith("properties = exception_properties(")
        assert properties["$exception_stack_trace"] == "ValueError: never raised\n"

    def test_members_that_were_never_raised(self):
        """Only the reported exception itself has that stack."""
        entries = entries_of(ExceptionGroup("group", [ValueError("never raised")]))
        assert ["stacktrace" in entry for entry in entries] == [True, False]

    def test_notes(self):
        """The value ends with the notes."""
        assert entries_of(caught(fail_with_notes))[0]["value"] == "noted\nfirst\nsecond line\nsecond"

    def test_qualified_name(self):
        """The type of a class in a class names both, as PostHog's SDK does; the old dashboards' type does not."""
        properties = described(Outer.Inner("x"))
        assert properties["$exception_list"][0]["type"] == "Outer.Inner"
        assert properties["$exception_type"] == "Inner"

    def test_group_with_words_of_its_own(self):
        """The value of a group is its message; of one with a `__str__` of its own what that says."""

        class Group(ExceptionGroup):
            def __str__(self):
                return "its own words"

        assert entries_of(Group("message", [ValueError()]))[0]["value"] == "its own words"

    def test_code_without_source(self):
        """Code made from a string has no file: not the application's, no line of source, still a frame."""
        frame = frames_of(caught(fail_in_text))[-1]
        assert (frame["filename"], frame["function"], frame["lineno"]) == ("<made up>", "inner", 2)
        assert (frame["in_app"], frame["context_line"], frame["module"]) == (False, None, "made_up")


class TestWhoseCode:
    def test_standard_library(self):
        """The standard library's frames are not the application's."""
        frames = frames_of(caught(tokenize.open, "/nonexistent/file.py"))
        assert [(frame["function"], frame["in_app"]) for frame in frames] == [("caught", True), ("open", False)]
        assert frames[1]["filename"] == "tokenize.py"

    @pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
    def test_installed_packages(self, tmp_path, folder):
        """Installed packages are not the application's, and their files are named as their modules are."""
        error = caught(run_as, str(tmp_path / folder / "pack" / "deep" / "module.py"), "pack.deep.module")
        frame = frames_of(error)[-1]
        assert (frame["in_app"], frame["filename"]) == (False, "pack/deep/module.py")

    def test_frozen_modules(self):
        """Modules frozen into the interpreter are not the application's."""
        frames = frames_of(caught(importlib.import_module, "no_such_module_anywhere"))
        assert frames[-1]["filename"].startswith("<frozen importlib")
        assert [frame["in_app"] for frame in frames] == [True] + [False] * (len(frames) - 1)

    def test_ourselves(self, tmp_path):
        """Our own frames, as of a decorator around what failed, are not the application's."""
        error = caught(run_as, str(tmp_path / "telemetry.py"), "atotelemetry.host.telemetry")
        assert frames_of(error)[-1]["in_app"] is False
        error = caught(run_as, str(tmp_path / "telemetry.py"), "atotelemetry_plugin")
        assert frames_of(error)[-1]["in_app"] is True

    def test_an_application_that_is_installed(self, tmp_path):
        """Its frames are its own where pip put it, by the names of its modules; what it brings along stays foreign."""
        root = tmp_path / "site-packages" / "tool"
        own = caught(run_as, str(root / "cli.py"), "tool.cli")
        other = caught(run_as, str(tmp_path / "site-packages" / "toolbox" / "a.py"), "toolbox.a")
        below = caught(run_as, str(root / ".venv" / "site-packages" / "b.py"), "b")
        assert frames_of(own)[-1]["in_app"] is False
        assert [in_app(frames_of(error, own=["tool"])[-1]) for error in (own, other, below)] == [True, False, False]
        assert in_app(frames_of(other, own=["tool", "toolbox"])[-1])

    @pytest.mark.parametrize(
        ("path", "module", "expected"),
        [
            ("src/pack/module.py", "pack.module", "pack/module.py"),
            ("src/pack/__init__.py", "pack", "pack/__init__.py"),
            ("src/pack/inner/__init__.py", "pack.inner", "pack/inner/__init__.py"),
            ("tool.pyz/pack/module.py", "pack.module", "pack/module.py"),
            ("src/pack/grammar/rules.pyx", "pack.module", "pack/grammar/rules.pyx"),
            ("src/pack.py", "pack", "pack.py"),
            ("src/script.py", "__main__", "script.py"),
            ("src/other.py", "unrelated.name", "other.py"),
            ("src/nameless.py", None, "nameless.py"),
        ],
    )
    def test_file_names(self, tmp_path, path, module, expected):
        """A file is named from its package on, and else by its last part: the same on every machine."""
        frame = frames_of(caught(run_as, str(tmp_path / path), module))[-1]
        assert (frame["filename"], frame["abs_path"]) == (expected, None)

    @pytest.mark.parametrize("module", ["calendar.core", "cgi.core"])
    def test_a_package_with_the_name_of_a_standard_module(self, tmp_path, module):
        """PostHog would take it for that one, so its frames have a path: a relative one."""
        path = tmp_path / "site-packages" / module.replace(".", "/")
        frame = frames_of(caught(run_as, f"{path}.py", module), own=[module.partition(".")[0]])[-1]
        assert frame["abs_path"] == frame["filename"] == module.replace(".", "/") + ".py"
        assert in_app(frame)
        assert not in_app({**frame, "abs_path": None})

    def test_the_line_that_starts_a_program(self, tmp_path):
        """The module's own line under `-m` or in a script is not in app when another own frame follows."""
        path = tmp_path / "tool" / "__main__.py"
        names = {"__name__": "__main__", "__spec__": importlib.machinery.ModuleSpec("tool.__main__", None)}
        error = caught(exec, compile("def main():\n    1 / 0\nmain()", str(path), "exec"), names)
        frames = frames_of(error, own=["tool"])[1:]
        assert [(frame["function"], frame["module"], frame["filename"], in_app(frame)) for frame in frames] == [
            ("<module>", "tool.__main__", "tool/__main__.py", False),
            ("main", "tool.__main__", "tool/__main__.py", True),
        ]
        alone = caught(exec, compile("1 / 0", str(path), "exec"), names)
        assert in_app(frames_of(alone, own=["tool"])[-1])

    def test_our_decorator_is_left_out(self, tmp_path):
        """The frame of a decorated function's wrapper is nobody's."""
        error = caught(run_as, str(tmp_path / "block.py"), "atotelemetry.host.block")
        assert [frame["function"] for frame in frames_of(error)] == ["caught", "run_as"]


class TestOwnPackages:
    @pytest.fixture
    def modules(self, tmp_path, monkeypatch):
        """Make packages to be imported: regular, namespace, single modules, installed or not."""
        for name in (
            *("regular/__init__.py", "regular/telemetry.py", "space/regular/__init__.py", "space/regular/telemetry.py"),
            *("bare/telemetry.py", "single.py", "site-packages/installed.py", "site-packages/pack_age/__init__.py"),
        ):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "site-packages")
        before = set(sys.modules)
        yield importlib.import_module
        for name in set(sys.modules) - before:
            del sys.modules[name]

    @pytest.mark.parametrize(
        ("maker", "expected"),
        [
            ("regular.telemetry", ("regular",)),
            ("regular", ("regular",)),
            ("space.regular.telemetry", ("space.regular",)),
            ("space.regular", ("space.regular",)),
            ("bare.telemetry", ("bare",)),
            ("installed", ("installed",)),
            ("single", ()),
            ("__main__", ()),
            ("", ()),
        ],
    )
    def test_found_from_the_module_that_made_the_client(self, modules, maker, expected):
        """It is the first regular package on the way; a script or a module in a folder means all but libraries."""
        if maker.strip("_") not in ("", "main"):
            modules(maker)
        assert own_packages("no-such-application", maker) == expected

    def test_found_from_the_name_of_the_application(self, modules):
        """The package named like the application is its own as soon as it is imported."""
        assert own_packages("pack-age", "") == ()
        modules("pack_age")
        modules("regular.telemetry")
        assert own_packages("pack-age", "") == ("pack_age", "__main__")
        assert own_packages("pack-age", "__main__") == ("pack_age", "__main__")
        assert own_packages("pack-age", "regular.telemetry") == ("pack_age", "regular")

    @pytest.mark.parametrize("name", ["json", "sys", "linecache"])
    def test_a_module_of_the_standard_library_is_not_meant(self, name):
        """An application named like one does not own it."""
        assert own_packages(name, "") == ()

    def test_given(self):
        """Names that are given are all there are."""
        assert own_packages("json", "regular.telemetry", ("a", "b.c")) == ("a", "b.c")


def raise_(error):
    raise error


def run_as(filename, module):
    """Fail in code that claims to come from `filename` and `module`."""
    exec(compile("1 / 0", filename, "exec"), {} if module is None else {"__name__": module})


class TestSource:
    def test_each_file_is_read_once(self, monkeypatch, tmp_path):
        """The text and the list share every line that is looked up."""
        path = tmp_path / "read_once.py"
        path.write_text("def inner():\n    1 / 0\ndef outer():\n    inner()\nouter()\n")
        error = caught(exec, compile(path.read_text(), str(path), "exec"), {})
        opened = []
        original = tokenize.open

        def counted(name):
            opened.append(name)
            return original(name)

        monkeypatch.setattr(tokenize, "open", counted)
        properties = described(error)
        assert opened.count(str(path)) == 1
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["context_line"] == "    1 / 0"
        assert properties["$exception_stack_trace"] == printed(error)

    def test_huge_file_is_not_read(self, tmp_path, monkeypatch):
        """A source file of absurd size is named and not opened."""
        path = tmp_path / "huge.py"
        with path.open("wb") as file:
            file.write(b"1 / 0\n")
            file.truncate(8 << 20)
        error = caught(exec, compile("1 / 0", str(path), "exec"), {})
        opened = []
        original = tokenize.open
        monkeypatch.setattr(tokenize, "open", lambda name: opened.append(name) or original(name))
        properties = described(error)
        assert str(path) not in opened
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["context_line"] is None
        assert f'File "{path}", line 1, in <module>\n' in properties["$exception_stack_trace"]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipe_is_not_read(self, tmp_path):
        """A script that came through a pipe is not waited for."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        error = caught(exec, compile("1 / 0", str(path), "exec"), {})
        assert frames_of(error)[-1]["context_line"] is None

    def test_long_line_is_cut(self, tmp_path):
        """A line of generated source is cut in the list and in the text."""
        path = tmp_path / "wide.py"
        path.write_text("1 / 0 # " + "x" * 100_000 + "\n")
        error = caught(exec, compile(path.read_text(), str(path), "exec"), {})
        properties = described(error)
        assert len(properties["$exception_stack_trace"]) < 5_000
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["context_line"].startswith("1 / 0 # xxx")

    def test_statement_of_many_lines(self, tmp_path):
        """A statement of thousands of lines shows its first."""
        path = tmp_path / "tall.py"
        path.write_text("value = fail(\n" + "    1,\n" * 5_000 + ")\n")
        error = caught(exec, compile(path.read_text(), str(path), "exec"), {"fail": lambda *args: 1 / 0})
        frame = entries_of(error)[0]["stacktrace"]["frames"][-2]
        assert frame["context_line"] == "value = fail("
        whole = traceback.FrameSummary(str(path), 1, "f", lookup_line=False, end_lineno=5_002, colno=0, end_colno=1)
        assert stack_trace._tamed(whole).end_lineno in {None, 1}

    @pytest.mark.parametrize(("lines", "length"), [(1, 5_000), (190, 1_800), (60, 80)])
    def test_statement_of_much_text(self, tmp_path, lines, length):
        """A statement whose later lines are long shows its first: Python 3.13 would parse all of it for its carets."""
        path = tmp_path / "large.py"
        path.write_text("value = fail(\n" + f"    {'1,' * (length // 2)}\n" * lines + ")\n")
        error = caught(exec, compile(path.read_text(), str(path), "exec"), {"fail": lambda *args: 1 / 0})
        properties = described(error)
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-2]["context_line"] == "value = fail("
        assert (
            f'  File "{path}", line 1, in <module>\n    value = fail(\n  File' in properties["$exception_stack_trace"]
        )

    def test_source_changed_since_import(self, tmp_path):
        """A file that was emptied after it was imported costs its lines and nothing else."""
        path = tmp_path / "changed.py"
        path.write_text("\n\n\n1 / 0\n")
        error = caught(exec, compile(path.read_text(), str(path), "exec"), {})
        path.write_text("")
        assert frames_of(error)[-1]["lineno"] == 4

    def test_loader_that_fails(self):
        """A loader that raises when asked for its source costs that source and nothing else."""

        class Loader:
            def get_source(self, name):
                raise RuntimeError(name)

        names = {"__name__": "loaded", "__loader__": Loader()}
        error = caught(exec, compile("1 / 0", "/nonexistent/loaded.py", "exec"), names)
        properties = described(error)
        frames = properties["$exception_list"][0]["stacktrace"]["frames"]
        assert [frame["function"] for frame in frames] == ["caught", "<module>"]
        assert "ZeroDivisionError: division by zero\n" in properties["$exception_stack_trace"]

    def test_source_that_fails_later(self, monkeypatch):
        """A source that cannot be read when the frames are described costs its lines, and no frame."""

        def fail_to_read(name, module_globals=None):
            raise RuntimeError(name)

        error = caught(fail)
        monkeypatch.setattr(linecache, "getlines", fail_to_read)
        assert [(frame["function"], frame["context_line"]) for frame in frames_of(error)] == [
            ("caught", None),
            ("fail", None),
        ]

    def test_no_source_lines(self, tmp_path, monkeypatch):
        """On demand no line of source is told, or even read: not in the frames, the text, or a SyntaxError."""
        monkeypatch.setattr(linecache, "getlines", lambda *args: pytest.fail("read"))
        for function in (fail_with_cause, fail_with_syntax, fail_over_lines):
            properties = described(caught(function), source_lines=False)
            for frame in properties["$exception_list"][0]["stacktrace"]["frames"]:
                assert (frame["pre_context"], frame["context_line"], frame["post_context"]) == ([], None, [])
            text = properties["$exception_stack_trace"]
            assert "function(*arguments)" not in text
            assert "value = (1 +" not in text
            assert f", in {function.__name__}\n" in text

    def test_context_has_a_budget(self, tmp_path):
        """Lines around are told of the innermost frames first; the line that failed is told of all."""
        path = tmp_path / "wide.py"
        line = "# " + "x" * 290 + "\n"
        path.write_text(
            "".join(f"def f{n}():\n{line * 6}    {f'f{n - 1}()' if n else '1 / 0'}\n{line * 5}" for n in range(100))
        )
        names = {}
        exec(compile(path.read_text(), str(path), "exec"), names)
        frames = frames_of(caught(names["f99"]))
        assert all(frame["context_line"] for frame in frames)
        around = [len(frame["pre_context"]) + len(frame["post_context"]) for frame in frames[1:]]
        assert around[-1] == 10
        assert around[0] == 0
        assert around == sorted(around)


class TestOddFrames:
    """One odd frame costs that frame alone."""

    @staticmethod
    def code(**changes):
        return fail_in_turns_too.__code__.replace(co_name="odd", **changes)

    @pytest.mark.parametrize(
        ("changes", "names"),
        [
            pytest.param({"co_linetable": b""}, {}, id="no line table"),
            pytest.param({"co_linetable": b"", "co_filename": "/nonexistent"}, {}, id="no line table and no file"),
            pytest.param({}, {"__name__": 7, "__loader__": 8, "__spec__": 9}, id="junk in the globals"),
            pytest.param({"co_filename": "/nonexistent"}, {"__spec__": "mute"}, id="a spec that raises"),
            pytest.param({"co_filename": "/nonexistent"}, {"__loader__": "mute"}, id="a loader that raises"),
            pytest.param({"co_filename": ""}, {}, id="no file name"),
            pytest.param({"co_filename": "a\0b"}, {}, id="a null character"),
            pytest.param({"co_filename": "\udcff.py"}, {}, id="a surrogate"),
            pytest.param({"co_firstlineno": 2_000_000_000}, {}, id="a line number beyond any file"),
        ],
    )
    def test_all_other_frames_stay(self, changes, names):
        """Code without a line table, odd globals, loaders that raise: the frame is there, and so are all others."""

        class Raises:
            def __getattribute__(self, name):
                raise RuntimeError(name)

        names = {key: Raises() if value == "mute" else value for key, value in names.items()}
        odd = types.FunctionType(self.code(**changes), {"fail_in_turns": fail_now, "__name__": "odd", **names})
        error = chained([caught(odd, 0), caught(fail_in_between)])
        properties = described(error)
        first, second = ([f["function"] for f in e["stacktrace"]["frames"]] for e in properties["$exception_list"])
        assert first == ["caught", "fail_in_between", "fail"]
        assert second == ["caught", "odd", "fail_now", "fail"]
        text = properties["$exception_stack_trace"]
        assert text.count("ValueError: it broke\n") == 2
        assert text.count("    raise ValueError(message)\n") == 2

    def test_globals_of_a_dict_s_subclass(self):
        """`exec` takes a dict whose methods raise."""

        class Names(dict):
            def __contains__(self, key):
                raise RuntimeError(key)

            get = __contains__

        error = caught(exec, compile("fail()", "/nonexistent.py", "exec"), Names(fail=fail))
        assert [frame["function"] for frame in frames_of(error)] == ["caught", "<module>", "fail"]

    @pytest.mark.parametrize(("lasti", "lineno"), [(1 << 20, -1), (1 << 20, 3), (-1, 3), (-1, -1), (1, 0)])
    def test_traceback_entries_made_by_hand(self, lasti, lineno):
        """A position beyond the code, or none, costs the position."""
        error = caught(fail_in_between)
        entry = error.__traceback__
        error.__traceback__ = types.TracebackType(entry.tb_next, entry.tb_frame, lasti, lineno)
        properties = described(error)
        frames = properties["$exception_list"][0]["stacktrace"]["frames"]
        assert [frame["function"] for frame in frames] == ["caught", "fail_in_between", "fail"]
        assert properties["$exception_stack_trace"].count("  File ") == 3


def fail_now(_):
    fail()


class Outer:
    Inner = type("Inner", (Exception,), {"__qualname__": "Outer.Inner"})


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class NotText(Exception):
    def __str__(self):
        return 42  # noqa: PLE0307  # the misbehaviour is the point


class Fatal(Exception):
    def __str__(self):
        raise SystemExit(3)


class Dressed(str):
    __slots__ = ()

    def __len__(self):
        raise RuntimeError("measured")


class WithDressedText(Exception):
    def __str__(self):
        return Dressed("dressed")


class Masked(Exception):
    @property
    def __class__(self):
        raise RuntimeError("who asks?")


class Impostor(Exception):
    __class__ = int


class Untouchable(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __setattr__(self, name, value):
        raise RuntimeError(name)


class Generous(Exception):
    def __getattr__(self, name):
        return self


class Hollow(Exception):
    def __len__(self):
        return 0

    def __bool__(self):
        raise RuntimeError("neither")

    def __eq__(self, other):
        raise RuntimeError("equal?")

    __hash__ = None


class OddMeta(type):
    def __getattribute__(cls, name):
        if name in {"__module__", "__qualname__", "__name__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OddlyTyped(Exception, metaclass=OddMeta):
    pass


class Endless(ExceptionGroup):
    @property
    def exceptions(self):
        return (self, self)


class Junk(ExceptionGroup):
    @property
    def exceptions(self):
        return (1, None, ValueError("real"))


class PrivateParts:
    def __dir__(self):
        raise SystemExit(4)


HOSTILE = {
    "mute": Mute(),
    "number for text": NotText(),
    "exits when printed": Fatal(),
    "subclass of str": WithDressedText(),
    "class raises": Masked("m"),
    "class lies": Impostor("i"),
    "every attribute raises": Untouchable("u"),
    "every attribute is itself": Generous("g"),
    "no truth, no equality": Hollow("h"),
    "metaclass raises": OddlyTyped("o"),
    "group of itself": Endless("e", [ValueError("x")]),
    "group of junk": Junk("j", [ValueError("x")]),
    "dir exits": AttributeError("a", name="b", obj=PrivateParts()),
    "no class of its own module": type("Nowhere", (Exception,), {"__module__": 7})("n"),
    "name of surrogates": ValueError("\udcff\ud800"),
    "null characters": ValueError("a\x00b" * 10),
}


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
            assert text.count("<note str() failed>") == 100
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

        def deeper():
            try:
                deeper()
            except RecursionError as error:
                try:
                    outcomes.append(exception_properties(error, distinct_id="x"))
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

        monkeypatch.setattr(exceptions, "_walk", broken)
        with caplog.at_level("DEBUG", logger="atotelemetry"):
            properties = described(caught(fail))
        assert properties["$exception_list"][0]["value"] == "it broke"
        assert properties["$exception_stack_trace"] == "ValueError: it broke\n"
        assert "LookupError" in caplog.text


def wrapped(error):
    outer = RuntimeError("outer")
    outer.__cause__ = error
    return outer


class TestCurrentException:
    def test_an_exception_is_itself(self):
        """An exception object is taken as it is."""
        error = ValueError()
        assert current_exception(error) is error

    @pytest.mark.parametrize("argument", [None, True])
    def test_the_one_being_handled(self, argument):
        """Without an argument it is the exception being handled, and none outside of a handler."""
        assert current_exception(argument) is None
        try:
            fail()
        except ValueError as error:
            raised, found = error, current_exception(argument)
        assert found is raised

    def test_exc_info(self):
        """The tuple of `sys.exc_info` gives its exception."""
        try:
            fail()
        except ValueError as error:
            raised, found = error, current_exception(sys.exc_info())
        assert found is raised

    def test_traceback_beside_the_exception(self):
        """An exception without a traceback takes the one that came in its tuple."""
        trace = caught(fail).__traceback__
        bare = ValueError("bare")
        assert current_exception((ValueError, bare, trace)) is bare
        assert bare.__traceback__ is trace
        assert current_exception((ValueError, ValueError(), "junk")) is not None

    @pytest.mark.parametrize(
        "argument", [False, 0, "text", ValueError, (None, None, None), (), (1, 2), [1, 2, 3], object(), (1, 2, 3)]
    )
    def test_anything_else_is_none(self, argument):
        """What is no exception is none, also while one is handled."""
        try:
            fail()
        except ValueError:
            assert current_exception(argument) is None

    def test_a_mock_is_none(self):
        """An object that only pretends to be an exception is none."""

        class Pretender:
            __class__ = ValueError

        assert current_exception(Pretender()) is None


class TestMarkReported:
    def test_once_per_object(self):
        """An exception object is new once."""
        error = ValueError("same")
        assert [mark_reported(error), mark_reported(error), mark_reported(ValueError("same"))] == [True, False, True]

    def test_wrapper_and_group_are_others(self):
        """A wrapper or a group around a reported exception is another exception."""
        error = caught(fail)
        mark_reported(error)
        assert mark_reported(wrapped(error))
        assert mark_reported(ExceptionGroup("g", [error]))

    def test_members_of_a_reported_group(self):
        """A group is reported with all its members, and so are the new groups that `except*` makes of them."""
        one, two, three = (caught(fail, text) for text in ("one", "two", "three"))
        group = ExceptionGroup("outer", [one, ExceptionGroup("inner", [two, three])])
        assert mark_reported(group)
        assert not any(map(mark_reported, (one, two, three, group)))
        rest, taken = group.split(lambda error: error is one)
        assert not mark_reported(rest)
        assert not mark_reported(taken)
        assert mark_reported(ExceptionGroup("with another", [one, ValueError("new")]))

    def test_unmarked(self):
        """What was lost may be reported again: an exception, a group and its members."""
        member = caught(fail)
        for error in (ValueError("x"), ExceptionGroup("g", [member])):
            assert mark_reported(error)
            unmark_reported(error)
            assert mark_reported(error)
            unmark_reported(error)
        assert mark_reported(member)

    @pytest.mark.parametrize("make", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
    def test_copy_is_another(self, make):
        """A copy, which inherits the attributes of a reported exception, is new."""
        error = ValueError("x")
        mark_reported(error)
        other = make(error)
        assert [mark_reported(other), mark_reported(other), mark_reported(error)] == [True, False, False]

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_exceptions_can_be_marked(self, name):
        """No exception escapes being marked, whatever it makes of its attributes."""
        error = HOSTILE[name]
        vars_of = BaseException.__dict__["__dict__"].__get__(error)
        vars_of.pop("__atotelemetry_reported__", None)
        assert [mark_reported(error), mark_reported(error)] == [True, False]

    def test_slots(self):
        """Neither does one without a dictionary of its own making."""

        class Slotted(Exception):
            __slots__ = ("field",)

        error = Slotted()
        assert [mark_reported(error), mark_reported(error)] == [True, False]

    def test_no_exception_at_all(self):
        """What cannot be marked is reported rather than lost."""
        assert mark_reported(object())

    def test_keeps_nothing_alive(self):
        """Marking and describing an exception keep neither it nor its frames alive."""

        class Local:
            pass

        def run():
            local = Local()
            watched.append(weakref.ref(local))
            fail()

        watched = []
        gc.collect()
        gc.disable()
        try:
            error = caught(run)
            described(error)
            mark_reported(error)
            assert watched[0]() is not None
            del error
            assert watched[0]() is None
        finally:
            gc.enable()


def test_import_is_cheap():
    """Importing the module loads nothing that a bare interpreter has not, apart from the package itself."""
    program = textwrap.dedent("""
        import sys
        before = set(sys.modules)
        import atotelemetry.host.exceptions
        print(*sorted(m for m in set(sys.modules) - before if not m.startswith("atotelemetry")))
    """)
    # Without `site`, whose `.pth` files may import what they like.
    paths = [sysconfig.get_path("purelib"), os.path.dirname(os.path.dirname(os.path.dirname(exceptions.__file__)))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], check=True, capture_output=True, text=True, env=environment, timeout=30
    )
    assert set(done.stdout.split()) <= {"__future__", "atexit"}
