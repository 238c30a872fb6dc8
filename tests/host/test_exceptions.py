"""Exceptions as `$exception_list`, how one is found, and which is reported only once."""

from __future__ import annotations

import copy
import gc
import importlib
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import types
import weakref

import pytest

from atotelemetry.host.exceptions import current_exception, mark_reported, unmark_reported
from atotelemetry.host.frames import own_packages
from support_exceptions import (
    HOSTILE,
    Mute,
    caught,
    chain_long,
    chained,
    described,
    entries_of,
    fail,
    fail_in_between,
    fail_in_text,
    fail_in_turns,
    fail_recursively,
    fail_with_cause,
    fail_with_context,
    fail_with_group,
    fail_with_notes,
    fail_with_suppressed_context,
    frames_of,
    printed,
    raise_,
    share_an_exception,
    with_entries,
    wrapped,
)
from support_posthog_rules import fingerprint


class TestTheList:
    def test_plain(self):
        """One exception is one entry, handled, with its type, value and no module when it is built in."""
        (entry,) = entries_of(caught(fail))
        assert (entry["type"], entry["value"], entry["module"]) == ("ValueError", "it broke", None)
        assert entry["mechanism"] == {"type": "generic", "handled": True, "exception_id": 0}

    def test_unhandled(self):
        """What nothing caught says so."""
        assert entries_of(caught(fail), handled=False)[0]["mechanism"]["handled"] is False

    @pytest.mark.posix("how subprocess fails")
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
        assert crash_site["filename"].endswith("support_exceptions.py")
        assert not os.path.isabs(crash_site["filename"])
        assert crash_site["module"] == fail.__module__
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

    def test_group_of_a_million(self):
        """Its members are counted without a list of them."""
        error = ExceptionGroup("wide", [ValueError("member")] * 1_000_000)
        described(error)
        tracemalloc.start()
        try:
            properties = described(error)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert properties["$exception_stack_trace"].endswith(
            "| and 999985 more exceptions\n    +------------------------------------\n"
        )
        assert peak < 4 * 1024 * 1024

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
        sys.setrecursionlimit(20_000)
        try:
            error = caught(fail_recursively, 16_000)
        finally:
            sys.setrecursionlimit(limit)
        properties = described(error)
        assert "[Previous line repeated 15998 more times]" in properties["$exception_stack_trace"]
        assert properties["$exception_list"][0]["stacktrace"]["frames"][-1]["function"] == "fail"

    def test_longer_than_any_traceback_that_is_normal(self):
        """Of an exception that was raised 100,000 times both ends are shown; the gap says how many are missing."""
        properties = described(with_entries(ValueError("x"), [*[1] * 40_000, *range(1, 60_000)]))
        frames = properties["$exception_list"][0]["stacktrace"]["frames"]
        assert frames[1]["function"] == "<99997 frames left out>"
        text = properties["$exception_stack_trace"]
        assert len(re.findall(r"frames left out|more times", text)) == 3
        left_out = sum(map(int, re.findall(r"(?:repeated|\[)\s*(\d+) (?:more times|frames left out)", text)))
        assert text.count('  File "') + left_out == 100_000

    def test_exceptions_that_share_a_long_traceback(self):
        """The exceptions of a chain share the number of entries that are read; each shows both ends."""
        shared = with_entries(ValueError("the root"), [1] * 10_000).__traceback__
        properties = described(chained([ValueError(str(number)).with_traceback(shared) for number in range(30)]))
        for entry in properties["$exception_list"]:
            names = [frame["function"] for frame in entry["stacktrace"]["frames"]]
            assert names == ["caught", "<9998 frames left out>", "caught", "fail"]
        text = properties["$exception_stack_trace"]
        assert text.count("[Previous line repeated 270 more times]") == 30
        assert text.count("  [9455 frames left out]") == 30

    def test_a_chain_of_tracebacks_without_end(self):
        """Once 300,000 entries were passed, the other exceptions have no frames, and the text says so."""
        shared = with_entries(ValueError("the root"), [1] * 150_000)
        chain = chained([shared, *(ValueError(text).with_traceback(shared.__traceback__) for text in "abcd")])
        properties = described(chain)
        assert [entry["value"] for entry in properties["$exception_list"]] == ["d", "c", "b", "a", "the root"]
        assert ["stacktrace" in entry for entry in properties["$exception_list"]] == [True] * 2 + [False] * 3
        assert properties["$exception_stack_trace"].endswith("ValueError: d\n[further frames left out]\n")

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

    def test_modules_are_not_asked(self, monkeypatch):
        """A module's own `__getattr__` may report exceptions itself: it is not called."""
        module = types.ModuleType("asking")
        asked = []
        module.__getattr__ = asked.append
        monkeypatch.setitem(sys.modules, "asking", module)
        assert own_packages("asking", "asking") == ()
        assert not asked

    def test_given(self):
        """Names that are given are all there are."""
        assert own_packages("json", "regular.telemetry", ("a", "b.c")) == ("a", "b.c")


class Outer:
    Inner = type("Inner", (Exception,), {"__qualname__": "Outer.Inner"})


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
