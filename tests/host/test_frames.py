"""Frames: whose code each is, the source around it, and frames without any source."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import tokenize
import types
from importlib.machinery import ModuleSpec

import pytest

from support_exceptions import (
    caught,
    caught_with_odd_globals,
    chained,
    described,
    fail,
    fail_in_between,
    fail_in_turns_too,
    fail_over_lines,
    fail_with_cause,
    fail_with_syntax,
    frames_of,
    printed,
)
from support_posthog_rules import in_app


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

    @pytest.mark.parametrize(("lines", "length"), [(1, 5_000), (190, 1_800), (60, 80), (5_000, 2)])
    def test_statement_of_much_text(self, tmp_path, lines, length):
        """A statement of many or long lines shows its first: Python 3.13 would parse all of it for its carets."""
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
        read = []
        monkeypatch.setattr(linecache, "getlines", lambda *args: read.append(args) or [])
        for function in (fail_with_cause, fail_with_syntax, fail_over_lines):
            properties = described(caught(function), source_lines=False)
            for frame in properties["$exception_list"][0]["stacktrace"]["frames"]:
                assert (frame["pre_context"], frame["context_line"], frame["post_context"]) == ([], None, [])
            text = properties["$exception_stack_trace"]
            assert "function(*arguments)" not in text
            assert "value = (1 +" not in text
            assert f", in {function.__name__}\n" in text
        assert not read

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


class Disguised(BaseException):
    @property
    def __class__(self):
        raise SystemExit(4)


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

    @pytest.mark.parametrize(("files", "calls"), [(3, 3), (100, 64)])
    def test_loaders_are_asked_once(self, files, calls):
        """A loader without the source is asked once for each file, and 64 times for an event."""
        asked = []

        class Loader:
            def get_source(self, name):
                asked.append(name)

        function = fail_now
        for number in range(files):
            loader = Loader()
            names = {"fail_in_turns": function, "__name__": f"m{number}", "__loader__": loader}
            names["__spec__"] = ModuleSpec(f"m{number}", loader)  # the only place for Python 3.15
            function = types.FunctionType(self.code(co_filename=f"/nonexistent/{number}.py"), names)
        properties = described(chained([caught(function, 0), caught(function, 0)]))
        assert len(asked) == calls
        for entry in properties["$exception_list"]:
            assert len(entry["stacktrace"]["frames"]) == files + 3

    def test_globals_of_a_dict_s_subclass(self):
        """`exec` takes a dict whose methods raise."""

        class Names(dict):
            def __contains__(self, key):
                raise RuntimeError(key)

            get = __contains__

        error = caught(exec, compile("fail()", "/nonexistent.py", "exec"), Names(fail=fail))
        assert [frame["function"] for frame in frames_of(error)] == ["caught", "<module>", "fail"]

    @pytest.mark.parametrize("kind", [LookupError, SystemExit, GeneratorExit, Disguised])
    def test_whatever_is_raised(self, recorder, kind):
        """Keys, file names and loaders of the host's may raise anything: the event arrives with all its frames."""

        class Loader:
            def get_source(self, name):
                raise kind

        class Name(str):
            __slots__ = ()

            def __hash__(self):
                raise kind

        odd, disarm = caught_with_odd_globals(kind)
        function = types.FunctionType(self.code(co_filename=Name("/nonexistent")), {"fail_in_turns": fail_now})
        named = caught(function, 0)
        function = types.FunctionType(self.code(co_filename="/nonexistent"), {"fail_in_turns": fail_now})
        function.__globals__.update({"__name__": "loaded", "__loader__": Loader()})
        for error in (odd, named, caught(function, 0)):
            assert recorder.client.capture_exception(error, distinct_id="me")
            (entry,) = json.loads(recorder.lines[-1])["properties"]["$exception_list"]
            names = [frame["function"] for frame in entry["stacktrace"]["frames"]]
            assert names == ["caught", "odd", "fail_now", "fail"][: len(names)]
            assert len(names) == (2 if error is odd else 4)
        disarm()

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
