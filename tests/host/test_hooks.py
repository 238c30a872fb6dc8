"""Exceptions that nothing caught: reported once, with the same words on the terminal as without hooks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest

from atotelemetry.host.hooks import Hooks

# Events are printed as lines on stdout instead of being sent.
BEGINNING = """
import sys
from atotelemetry import Telemetry
from atotelemetry.host.divert import divert
telemetry = Telemetry(app="mytool", api_key="phc_test", host="http://127.0.0.1:9")
divert(telemetry.client, lambda line: print(line.decode(), flush=True))
"""


def run(tmp_path, program, *, hooks="telemetry.install_hooks()"):
    """Run a program; return its exit code, its events, and what it wrote to stderr."""
    path = tmp_path / "program.py"
    path.write_text(BEGINNING + hooks + "\n" + textwrap.dedent(program))
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "MYTOOL_TELEMETRY": "on", "NO_COLOR": "1"}
    environment.pop("DO_NOT_TRACK", None)
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    told = re.sub(r"0x[0-9a-fA-F]+", "0x…", done.stderr)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], told


PROGRAMS = {
    "main": ("def fail():\n    raise ValueError('main')\nfail()", "ValueError"),
    "chained": ("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('x') from error", "KeyError"),
    "thread": (
        """
        import threading
        def fail():
            raise LookupError("thread")
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        """,
        "LookupError",
    ),
    "finalizer": (
        """
        class Thing:
            def __del__(self):
                raise OSError("finalizer")
        Thing()
        """,
        "OSError",
    ),
    "task": (
        """
        import asyncio, gc
        async def fail():
            raise RuntimeError("task")
        async def main():
            telemetry.install_hooks(asyncio.get_running_loop())
            task = asyncio.ensure_future(fail())
            await asyncio.sleep(0)
            del task
            gc.collect()
        asyncio.run(main())
        """,
        "RuntimeError",
    ),
    "group": (
        """
        import asyncio
        async def fail(what):
            raise what
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(ValueError("one")))
                group.create_task(fail(KeyError("two")))
        try:
            asyncio.run(main())
        except* KeyError as errors:
            telemetry.capture_exception(errors)
        """,
        "ExceptionGroup",
    ),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_uncaught(tmp_path, kind):
    """It is reported as fatal and not handled, and the person sees the same traceback as without hooks."""
    program, name = PROGRAMS[kind]
    code, events, told = run(tmp_path, program)
    assert (code, [], told) == run(tmp_path, program, hooks="telemetry.client.disabled = True")
    *before, event = events
    assert event["event"] == "$exception"
    properties = event["properties"]
    assert properties["$exception_list"][0]["type"] == name
    assert properties["$exception_list"][0]["mechanism"]["handled"] is False
    assert properties["$exception_level"] == "fatal"
    assert properties["duration"] > 0
    assert len(before) == (kind == "group")  # what `except*` caught was reported by hand


def test_report_uncaught(tmp_path):
    """A keyword of `Telemetry` installs them, too."""
    begin = BEGINNING.replace('app="mytool"', 'app="mytool", report_uncaught=True')
    path = tmp_path / "program.py"
    path.write_text(begin + "1 / 0")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "MYTOOL_TELEMETRY": "on"}
    environment.pop("DO_NOT_TRACK", None)
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert json.loads(done.stdout)["properties"]["$exception_level"] == "fatal"


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit(3)",
        "raise KeyboardInterrupt",
        "import typer\nraise typer.Exit(1)",
        "import threading\ndef leave(): sys.exit(3)\nt = threading.Thread(target=leave)\nt.start()\nt.join()",
    ],
)
def test_exits_are_not_reported(tmp_path, program):
    """An exit that reaches a hook is still an exit."""
    assert run(tmp_path, program)[1] == []


def test_reported_once(tmp_path):
    """What a block or the code has reported is not reported by a hook, and keeps its level."""
    program = """
    with telemetry.capture("outer_start", "outer_end"):
        with telemetry.capture("inner_start", "inner_end"):
            raise ValueError("x")
    """
    _, events, _ = run(tmp_path, program)
    assert [event["event"] for event in events] == ["outer_start", "inner_start", "$exception"]
    assert events[2]["properties"]["$exception_level"] == "error"


def test_members_of_a_reported_group(tmp_path):
    """A block reports the group; neither its members nor what `except*` leaves of it are reported again."""
    program = """
    try:
        with telemetry.capture("start", "end"):
            raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    except* ValueError as errors:
        for error in errors.exceptions:
            telemetry.capture_exception(error)
    """
    _, events, _ = run(tmp_path, program)
    assert [event["event"] for event in events] == ["start", "$exception"]


def test_the_hook_before_is_called(tmp_path):
    """An application's own hook sees the exception as before, and one that is set later is not disturbed."""
    program = """
    def later(kind, error, traceback):
        print("later", kind.__name__, file=sys.stderr)
        ours(kind, error, traceback)
    ours = sys.excepthook
    sys.excepthook = later
    1 / 0
    """
    hooks = (
        "sys.excepthook = lambda *told: print('before', told[0].__name__, file=sys.stderr)\ntelemetry.install_hooks()"
    )
    _, events, told = run(tmp_path, program, hooks=hooks)
    assert told == "later ZeroDivisionError\nbefore ZeroDivisionError\n"
    assert len(events) == 1


def test_without_consent_there_are_no_hooks(tmp_path):
    """A no costs nothing: nothing is installed."""
    hooks = "telemetry.client.disabled = True\nbefore = sys.excepthook\ntelemetry.install_hooks()"
    assert run(tmp_path, "assert sys.excepthook is before", hooks=hooks) == (0, [], "")


class TestHooks:
    @pytest.fixture
    def reported(self, monkeypatch):
        """Keep what is reported, and the hooks of the process as they were."""
        for owner in (sys, threading):
            monkeypatch.setattr(owner, "excepthook", lambda *told: None)
        monkeypatch.setattr(sys, "unraisablehook", lambda told: None)
        return []

    def test_uninstalled(self, reported):
        """The hooks before are back."""
        before = sys.excepthook, threading.excepthook, sys.unraisablehook
        hooks = Hooks(reported.append)
        hooks.install()
        hooks.install()
        assert sys.excepthook is not before[0]
        hooks.uninstall()
        assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == before
        hooks.install()
        sys.excepthook(ValueError, error := ValueError(), None)
        assert reported == [error]

    def test_a_hook_set_later_stays(self, reported):
        """Only what is still ours is taken back; ours, called by a later one, then only passes on."""
        passed_on = []
        sys.excepthook = lambda *told: passed_on.append(told[1])
        hooks = Hooks(reported.append)
        hooks.install()
        ours = sys.excepthook
        later = sys.excepthook = lambda *told: ours(*told)  # noqa: PLW0108 - not the same object
        hooks.uninstall()
        assert sys.excepthook is later
        sys.excepthook(ValueError, error := ValueError(), None)
        assert (reported, passed_on) == ([], [error])

    def test_asyncio(self, reported):
        """The handler of the loop that is given reports, and the one before it is called, or else asyncio's own."""
        handled = []
        hooks = Hooks(reported.append)
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        try:
            own = lambda loop, context: handled.append((loop, context))  # noqa: E731 - compared by identity below
            first.set_exception_handler(own)
            for loop in (first, second, second):
                hooks.install(loop)
            second.default_exception_handler = lambda context: handled.append((second, context))
            error = ValueError()
            for loop in (first, second):
                loop.call_exception_handler({"message": "m", "exception": error})
                loop.call_exception_handler({"message": "without one"})
            assert reported == [error, None, error, None]
            assert [loop for loop, _ in handled] == [first, first, second, second]
            hooks.uninstall()
            assert first.get_exception_handler() is own
            assert second.get_exception_handler() is None
        finally:
            hooks.uninstall()
            first.close()
            second.close()

    def test_a_report_that_is_interrupted(self, reported):
        """Ctrl-C in the middle of it does not cost the traceback."""
        passed_on = []

        def interrupted(error):
            raise KeyboardInterrupt

        sys.excepthook = lambda *told: passed_on.append(told[1])
        Hooks(interrupted).install()
        with pytest.raises(KeyboardInterrupt):
            sys.excepthook(ValueError, error := ValueError(), None)
        assert passed_on == [error]
