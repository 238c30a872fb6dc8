"""faulthandler's text: real dumps of the running Python, literal ones of every version, and any bytes at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atotelemetry.sender.dump import MAX_DUMP_BYTES, begins, continues, describe, parse

# What a child does to end; each is called by `inner`, and that by `outer`.
ENDS = {
    "SIGSEGV": "ctypes.string_at(0)",
    "SIGABRT": "os.abort()",
    "SIGBUS": "signal.raise_signal(signal.SIGBUS)",
    "SIGFPE": "signal.raise_signal(signal.SIGFPE)",
    "SIGILL": "signal.raise_signal(signal.SIGILL)",
}

CHILD = """
import ctypes, faulthandler, os, resource, signal, sys, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable(file=1, all_threads=ALL)

def inner():
    END

def outer():
    inner()

if THREADED:
    thread = threading.Thread(target=outer, name="worker [2]")
    thread.start()
    thread.join()
outer()
"""

SEGFAULT_311 = b"""\
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/venv/lib/python3.11/site-packages/mytool/build.py", line 7 in inner
  File "/home/me/venv/lib/python3.11/site-packages/mytool/__init__.py", line 29 in outer
  File "/home/me/venv/bin/mytool", line 8 in <module>

Extension modules: msgspec._core, numpy.core._multiarray_umath (total: 2)
"""

ALL_THREADS_314 = b"""\
Fatal Python error: Segmentation fault

Current thread 0x00007fc59f3756c0 [my worker (x) [] (most recent call first):
  File "/usr/lib/python3.14/ctypes/__init__.py", line 624 in string_at
  File "/tmp/crash.py", line 24 in <lambda>

Thread 0x00007fc59f7ab200 (most recent call first):
  File "/usr/lib/python3.14/threading.py", line 369 in wait
  File "/tmp/crash.py", line 30 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "python3.14", at _Py_DumpStack+0x4a [0x49b2f9]
  Binary file "/usr/lib/x86_64-linux-gnu/libc.so.6", at +0x406b0 [0x7fc59f7ec6b0]
  <truncated rest of calls>
"""

FATAL_312 = b"""\
Fatal Python error: none_dealloc: deallocating None
Python runtime state: initialized

Current thread 0x00007ff993f4ab80 (most recent call first):
  Garbage-collecting
  File "/tmp/fatal.py", line 13 in inner
  File "/tmp/fatal.py", line 30 in <module>
"""

HANG_313 = b"""\
Thread 0x00007fe44735e6c0 (most recent call first):
  File "/usr/lib/python3.13/threading.py", line 992 in run
  File "/usr/lib/python3.13/threading.py", line 1012 in _bootstrap

Current thread 0x00007fe44800ec40 (most recent call first):
  File "/tmp/hang.py", line 28 in inner
  File "/tmp/hang.py", line 30 in <module>
"""

SAMPLES = [SEGFAULT_311, ALL_THREADS_314, FATAL_312, HANG_313]


def described(text: bytes, **options) -> dict:
    dump = parse(text)
    assert dump is not None
    return describe(dump, distinct_id="me", **options)


def frames(properties: dict) -> list[dict]:
    return properties["$exception_list"][0]["stacktrace"]["frames"]


def crash(end: str, tmp_path, *, threaded: bool = False, every: bool = False) -> bytes:
    """Return what a child of this Python says that ends so, in its main thread or in another."""
    program = tmp_path / "crash.py"
    program.write_text(CHILD.replace("END", end).replace("ALL", str(every)).replace("THREADED", str(threaded)))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, timeout=60, check=False)
    assert done.returncode < 0, done
    return done.stdout


@pytest.mark.posix("signals")
@pytest.mark.parametrize("signal", ENDS)
def test_a_real_crash_is_told_with_its_signal_and_frames(signal, tmp_path):
    """The five signals that faulthandler handles: entry point first, crash site last, fatal, not handled."""
    properties = described(crash(ENDS[signal], tmp_path))
    (entry,) = properties["$exception_list"]
    assert entry["type"] == properties["$exception_type"] == signal
    assert entry["value"] == properties["$exception_message"]
    assert entry["mechanism"] == {"type": "signal", "handled": False, "exception_id": 0}
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_person"] == "me"
    own = [frame["function"] for frame in frames(properties) if frame["filename"] == "crash.py"]
    assert own == ["<module>", "outer", "inner"]
    assert properties["$exception_stack_trace"].startswith("Fatal Python error: ")


@pytest.mark.posix("signals")
@pytest.mark.parametrize("every", [False, True])
def test_a_real_crash_in_a_thread_is_told_by_that_thread(every, tmp_path):
    """Whether the dump names one thread or all of them."""
    properties = described(crash(ENDS["SIGSEGV"], tmp_path, threaded=True, every=every))
    functions = [frame["function"] for frame in frames(properties)]
    assert functions[0] == "_bootstrap"
    assert functions[-3:] == ["outer", "inner", "string_at"]
    threads = properties.get("$exception_threads", [])
    assert [thread["current"] for thread in threads] == ([True, False] if every else [])
    assert ("$exception_c_stack" in properties) == (sys.version_info >= (3, 14))


def test_an_installed_program_is_in_app_and_its_files_are_relative():
    """The same rule as for exceptions: grouping depends on no machine."""
    site = "/home/me/venv/lib/python3.11/site-packages"
    properties = described(
        SEGFAULT_311, own=("mytool",), search_path=("/home/me/venv/bin", "/usr/lib/python3.11", site)
    )
    told = [(frame["filename"], frame["module"], frame["in_app"], frame["abs_path"]) for frame in frames(properties)]
    assert told == [
        ("mytool", "__main__", False, None),
        ("mytool/__init__.py", "mytool", True, None),
        ("mytool/build.py", "mytool.build", True, None),
        ("ctypes/__init__.py", "ctypes", False, None),
    ]
    assert [frame["lineno"] for frame in frames(properties)] == [8, 29, 7, 519]
    assert properties["$exception_extensions"] == ["msgspec._core", "numpy.core._multiarray_umath"]


def test_the_c_stack_and_the_other_threads_are_properties():
    """A name in brackets may hold brackets; the number of threads makes no other issue."""
    properties = described(ALL_THREADS_314)
    assert [frame["function"] for frame in frames(properties)] == ["<lambda>", "string_at"]
    assert properties["$exception_c_stack"] == [
        'Binary file "python3.14", at _Py_DumpStack+0x4a [0x49b2f9]',
        'Binary file "/usr/lib/x86_64-linux-gnu/libc.so.6", at +0x406b0 [0x7fc59f7ec6b0]',
        "<truncated rest of calls>",
    ]
    first, second = properties["$exception_threads"]
    assert (first["name"], first["current"]) == ("my worker (x) [", True)
    assert (second["name"], second["current"]) == ("", False)
    assert second["stack"][-1] == 'File "/tmp/crash.py", line 30 in <module>'


def test_the_interpreter_s_own_fatal_error_keeps_its_words():
    """It is no signal's name that tells what happened."""
    properties = described(FATAL_312)
    assert properties["$exception_type"] == "Fatal Python error"
    assert properties["$exception_message"] == "none_dealloc: deallocating None"
    assert [frame["module"] for frame in frames(properties)] == ["__main__", "__main__"]


def test_a_dump_that_nothing_fatal_caused_is_a_hang():
    """The stack of every thread; the one that the signal came to is listed."""
    for properties in (described(HANG_313), described(HANG_313, silent_for=300.0)):
        assert properties["$exception_type"] == "Hang"
        assert properties["$exception_level"] == "error"
        assert [frame["function"] for frame in frames(properties)] == ["<module>", "inner"]
        assert len(properties["$exception_threads"]) == 2
    assert properties["$exception_message"] == "no event came for 300 s"


def test_a_crash_after_a_hang_is_the_crash():
    """A dump that came late may lie before it in the pipe."""
    properties = described(HANG_313 + SEGFAULT_311)
    assert properties["$exception_type"] == "SIGSEGV"
    assert "hang.py" not in json.dumps(properties)


def test_names_outside_of_ascii_are_restored():
    """They are escaped; a Windows path has backslashes that are no escapes."""
    text = textwrap.dedent(r"""
        Fatal Python error: Aborted

        Stack (most recent call first):
          File "/srv/caf\xe9/a "b".py", line 3 in gr\xfc\xdfe
          File "C:\Users\x41", line ??? in f
          File ???, line 12 in ???
    """).encode()
    told = [(frame["filename"], frame["function"], frame["lineno"]) for frame in frames(described(text))]
    assert told == [
        ("???", "???", 12),
        ("x41" if os.sep == "\\" else r"C:\Users\x41", "f", None),
        ('a "b".py', "grüße", 3),
    ]


def test_a_recursion_is_folded():
    """Its depth differs from run to run, and must not make another issue."""
    text = b"Fatal Python error: Segmentation fault\n\nStack (most recent call first):\n"
    deep = [len(frames(described(text + b'  File "/a.py", line 2 in f\n' * count + b"  ...\n"))) for count in (5, 99)]
    assert deep == [3, 3]


@pytest.mark.parametrize("sample", SAMPLES, ids=["segfault", "all threads", "fatal", "hang"])
def test_a_dump_torn_anywhere_is_no_error(sample):
    """A full pipe, or a death in the middle: what is there is told."""
    for end in range(len(sample)):
        dump = parse(sample[:end])
        assert dump is None or describe(dump, distinct_id="me")["$exception_list"]
    assert parse(sample[: len(b"Fatal Python error")]) is None


def test_a_hole_costs_its_lines_alone():
    """Text that a full pipe did not take is missing in the middle."""
    start = SEGFAULT_311.index(b"\nStack")
    properties = described(SEGFAULT_311[:start] + SEGFAULT_311[start + 60 :])
    assert [frame["function"] for frame in frames(properties)] == ["<module>", "outer", "inner"]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (b"Fatal Python error: Aborted", 0),
        (b'{"event":"torn","properFatal Python error: Aborted', 23),
        (b"Stack (most recent call first):", 0),
        (b"Current thread 0x00007f (most recent call first):", 0),
        (b"Current thread's C stack trace (most recent call first):", 0),
        (b"xThread 0x00007f [name] (most recent call first):", 1),
        (b"", -1),
        (b"not json", -1),
        (b"Fatal Python", -1),
    ],
)
def test_where_a_dump_begins(line, place):
    """A marker counts anywhere in a line: it may follow half a line."""
    assert begins(line) == place


def test_which_lines_go_on():
    """Those of a dump, whole or without their beginning; a torn event is none."""
    for sample in SAMPLES:
        assert all(continues(line) for line in sample.splitlines() if line)
    assert continues(b'py", line 12 in main')
    assert not continues(b'{"event": "torn')


PIECES = st.sampled_from([piece for sample in SAMPLES for piece in sample.splitlines(keepends=True)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PIECES, st.binary(max_size=200)), max_size=60).map(b"".join))
def test_any_bytes_are_described_in_bounds(data):
    """Dumps in pieces with anything in between: never an exception, always JSON of a bounded size."""
    dump = parse(data)
    if dump is not None:
        properties = describe(dump, distinct_id="me", own=("mytool",), search_path=("/usr/lib", "/tmp"))
        assert properties["$exception_list"][0]["type"]
        assert len(json.dumps(properties)) < 6 * MAX_DUMP_BYTES


@pytest.mark.parametrize(
    "piece",
    [b'  File "/a.py", line 1 in f\n', b"  Binary file x\n", b"Thread 0x1 (most recent call first):\n", b"x" * 900],
)
def test_an_endless_dump_is_described_in_bounds(piece):
    """64 KiB, 100 threads, and the beginning and the end of it."""
    many = b"Fatal Python error: x\nThread 0x1 (most recent call first):\nCurrent thread's C stack trace (most recent\n"
    properties = described(many + piece * 50_000)
    assert len(json.dumps(properties)) < 3 * MAX_DUMP_BYTES
    assert len(properties.get("$exception_threads", ())) <= 100
