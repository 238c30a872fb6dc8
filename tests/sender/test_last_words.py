"""A detached sender whose host ends without a word, or falls silent: hosts that are real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atotelemetry.testing import CaptureServer
from atotelemetry.wire import Outcome
from support_processes import wait_until
from support_sender import END, PATIENCE, RunningSender, event, hello, run_sender

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="asks Linux")

DUMP = b"""\
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/tmp/crash.py", line 7 in inner
  File "/tmp/crash.py", line 30 in <module>
"""
FORKED = b'{"type":"forked"}\n'
RUN = {"run_id": "a run", "email": "me@example.com", "$process_person_profile": True, "files": 3}

# Says when it is ready, and ends as its first argument says when its input ends.
HOST = """
import faulthandler, os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if len(sys.argv) > 2:
    faulthandler.register(signal.SIGURG, file=int(sys.argv[2]), all_threads=True)
print(flush=True)
sys.stdin.read()
exec(sys.argv[1])
"""

# Ends a sender that is idle for a tenth of a second, once it had an event.
SOON_IDLE = """
from atotelemetry.sender.buffer import Buffer
take, wait, taken = Buffer.take_events, Buffer.wait, []
def take_events(self, **options):
    taken.append(self)
    return take(self, **options)
Buffer.take_events = take_events
Buffer.wait = lambda self, *, gather, idle: wait(self, gather=gather, idle=0.1 if taken else idle)
"""


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@pytest.fixture
def dumps():
    """Return both ends of a pipe that the host's faulthandler writes into."""
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        os.close(end)


def kill(process: subprocess.Popen) -> None:
    """Kill a host and wait for its end, but leave it to be reaped; on a busy machine a signal takes its time."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def host(end: str = "pass", *, dumps: int | None = None):
    """Run a host that ends so once its stdin is closed."""
    arguments = [] if dumps is None else [str(dumps)]
    with subprocess.Popen(
        [sys.executable, "-c", HOST, end, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=() if dumps is None else (dumps,),
    ) as process:
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19])


def watch(pid: int, **fields) -> dict:
    """Return the `watch` of a hello."""
    return {"pid": pid, "started": started(pid), "began": time.time() - 5, "crash": True, **fields}


def reported(server, *lines: bytes, watch: dict, dumps: int | None = None, **settings) -> list[dict]:
    """Run a sender on a greeting, an event and these lines; return the events that it made itself."""
    greeting = hello(server.url, watch=watch, properties={"common": 1}, **settings)
    with RunningSender(*([] if dumps is None else ["--dumps"]), detached=True, dumps=dumps) as sender:
        sender.write(greeting, event("first", 1, properties=RUN), *lines)
        done = sender.finish()
    assert done.outcome.delivered == len(server.events)
    assert done.outcome.added == len(server.events) - 1 - sum(b'"uuid"' in line for line in lines)
    return server.events[1:]


@pytest.mark.parametrize("is_reaped", [False, True])
def test_a_killed_host_is_reported_once(server, is_reaped):
    """Before its parent has reaped it /proc tells the signal, afterwards its pidfd."""
    with host() as process, RunningSender(detached=True) as sender:
        sender.write(hello(server.url, watch=watch(process.pid), properties={"common": 1}))
        sender.write(event("first", 1, properties=RUN))
        server.wait_for_events(1)
        kill(process)
        if is_reaped:
            process.wait()
        done = sender.finish()
    (report,) = server.events[1:]
    assert report["event"] == "run_vanished"
    assert report["distinct_id"] == "me"
    properties = report["properties"]
    assert (properties["outcome"], properties["signal"]) == ("killed", "SIGKILL")
    assert 5 <= properties["duration"] < 5 + PATIENCE
    assert {name: properties.get(name) for name in RUN} == {**RUN, "files": None}
    assert properties["common"] == 1
    assert properties["$lib"]
    assert done.outcome.added == 1


def test_a_report_is_of_the_run_and_not_of_any_event(server):
    """The client alone captures events of other persons, and of nobody."""
    with host() as process:
        known = watch(process.pid)
        process.kill()
    nobody = event("other", 2, distinct_id="nobody", properties={"$process_person_profile": False})
    (report,) = reported(server, nobody, watch=known)[1:]
    assert report["distinct_id"] == "me"
    assert report["properties"]["run_id"] == "a run"
    assert report["properties"]["$process_person_profile"] is True


@pytest.mark.parametrize("is_reaped", [False, True])
@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_of_its_own_is_no_news(server, is_reaped, code):
    """`os._exit` writes no `end`, but the kernel tells."""
    with host(f"os._exit({code})") as process, RunningSender(detached=True) as sender:
        sender.write(hello(server.url, watch=watch(process.pid)), event("first", 1))
        server.wait_for_events(1)
        process.stdin.close()
        if is_reaped:
            process.wait()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        done = sender.finish()
    assert done.outcome.delivered == 1
    assert len(server.events) == 1


def test_a_host_that_lives_on_is_no_news(server):
    """It has become another program, or has closed the pipe."""
    with host() as process:
        assert reported(server, watch=watch(process.pid)) == []


@pytest.mark.parametrize("is_someone_else", [False, True])
def test_a_host_that_was_gone_before_anybody_looked_is_unknown(server, is_someone_else):
    """Its number may be another process's by then; the start time tells."""
    with host() as process:
        known = watch(process.pid)
        process.kill()
    if is_someone_else:
        known["pid"] = os.getpid()
    (report,) = reported(server, watch={**known, "vanished": "cli:vanished"})
    assert report["event"] == "cli:vanished"
    assert report["properties"]["outcome"] == "unknown"
    assert "signal" not in report["properties"]


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ((FORKED,), {}),
        ((END,), {}),
        ((b'{"type":"end","discard":true}\n',), {}),
        ((), {"crash": False}),
    ],
    ids=["forked", "ended", "disabled", "not wanted"],
)
def test_when_an_end_is_not_reported(server, lines, fields):
    """After a fork, a goodbye or a no, and for a host that wants only its hangs reported."""
    with host() as process, RunningSender(detached=True) as sender:
        sender.write(hello(server.url, watch=watch(process.pid, **fields)), event("first", 1))
        server.wait_for_events(1)
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            sender.write(*lines)
        sender.finish()
    assert [arrived["event"] for arrived in server.events] == ["first"]


@pytest.mark.parametrize("lines", [(), (FORKED,)], ids=["alone", "forked"])
def test_a_dump_makes_an_exception_of_the_same_run(server, dumps, lines):
    """Also after a fork: the dump is the host's own."""
    with host() as process:
        known = watch(process.pid, own=["crash"])
        os.write(dumps[1], DUMP)
        (report,) = reported(server, *lines, watch=known, dumps=dumps[0], search_path=["/tmp"])
    assert report["event"] == "$exception"
    assert report["distinct_id"] == "me"
    properties = report["properties"]
    assert properties["$exception_type"] == "SIGSEGV"
    assert properties["$exception_person"] == "me"
    assert properties["run_id"] == "a run"
    assert properties["common"] == 1
    assert properties["duration"] >= 5
    assert [frame["function"] for frame in properties["$exception_list"][0]["stacktrace"]["frames"]] == [
        "<module>",
        "inner",
    ]


def test_a_home_directory_in_a_dump_is_masked(server, dumps):
    """It goes the way of every other exception, through the scrubber."""
    os.write(dumps[1], DUMP.replace(b"/tmp/", b"/home/somebody/") + b"\nCurrent thread's C stack trace (most recent\n")
    os.write(dumps[1], b'  Binary file "/home/somebody/x.so" [0x1]\n')
    with host() as process:
        (report,) = reported(server, watch=watch(process.pid), dumps=dumps[0])
    assert "somebody" not in str(report)
    assert report["properties"]["$exception_c_stack"] == ['Binary file "~/x.so" [0x1]']


def test_an_abort_without_a_dump_is_a_fatal_error_of_the_interpreter(server, dumps):
    """`Py_FatalError` takes faulthandler away before it aborts."""
    with host() as process, RunningSender("--dumps", detached=True, dumps=dumps[0]) as sender:
        sender.write(hello(server.url, watch=watch(process.pid)), event("first", 1))
        server.wait_for_events(1)
        process.send_signal(signal.SIGABRT)
        process.wait()
        sender.finish()
    properties = server.events[1]["properties"]
    assert properties["$exception_type"] == "Fatal Python error"
    assert properties["$exception_level"] == "fatal"


def test_it_listens_as_long_as_the_host_lives(server):
    """A sender that is watching is not ended by its own idle time."""
    with host() as process, RunningSender(detached=True, patch=SOON_IDLE) as sender:
        sender.write(hello(server.url, watch=watch(process.pid)), event("first", 1))
        server.wait_for_events(1)
        time.sleep(0.3)  # three times its idle time
        sender.write(event("second", 2))
        server.wait_for_events(2)
        kill(process)
        sender.finish()
    assert [arrived["event"] for arrived in server.events] == ["first", "second", "run_vanished"]


def test_a_silent_host_is_asked_for_its_stacks_once_for_each_silence(server, dumps):
    """Whatever it waits for. It goes on as before, and the next silence is told anew."""
    with host(dumps=dumps[1]) as process, RunningSender("--dumps", detached=True, dumps=dumps[0]) as sender:
        sender.write(hello(server.url, watch=watch(process.pid, hang_after=0.2), search_path=["/"]))
        sender.write(event("first", 1, properties=RUN))
        hang = server.wait_for_events(2)[1]
        assert hang["properties"]["$exception_type"] == "Hang"
        assert hang["properties"]["$exception_message"] == "no event came for 0.2 s"
        assert hang["properties"]["run_id"] == "a run"
        (entry,) = hang["properties"]["$exception_list"]
        assert entry["stacktrace"]["frames"][-1]["function"] == "<module>"
        assert entry["mechanism"] == {"type": "hang", "handled": True, "exception_id": 0}
        sender.write(event("second", 2))
        events = server.wait_for_events(4)
        assert process.poll() is None
        kill(process)
        done = sender.finish()
    names = [arrived["event"] for arrived in events]
    assert names == ["first", "$exception", "second", "$exception"]
    assert done.outcome.added == 3
    assert len(server.events) == 5


def test_a_stopped_host_does_not_hang(server, dumps, tmp_path):
    """Somebody typed Ctrl-Z."""
    log = tmp_path / "log"
    log.touch()
    with (
        host(dumps=dumps[1]) as process,
        RunningSender("--dumps", detached=True, dumps=dumps[0], env={"ATO_TELEMETRY_LOG": str(log)}) as sender,
    ):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        sender.write(hello(server.url, watch=watch(process.pid, hang_after=0.1)), event("first", 1))
        wait_until(lambda: "the host was silent for 0.1 s" in log.read_text())
        sender.write(END)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=1, last=True)


def test_a_host_that_the_kernel_ends_for_want_of_memory(server):
    """The counter of its cgroup tells it from any other SIGKILL."""
    top = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes" if top.is_dir() else "memory.max"
    group = (top if top.is_dir() else top.parent) / f"test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text("40000000")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        with host("hold = [bytearray(1 << 20) for _ in range(4096)]") as process:
            (group / "cgroup.procs").write_text(str(process.pid))
            with RunningSender(detached=True) as sender:
                sender.write(hello(server.url, watch=watch(process.pid)), event("first", 1))
                server.wait_for_events(1)
                process.stdin.close()
                process.wait()
                sender.finish()
        assert process.returncode == -signal.SIGKILL
    finally:
        group.rmdir()
    assert server.events[1]["properties"]["outcome"] == "oom"


def test_a_dump_among_the_lines_is_shown_by_hand(server):
    """It may follow half a line, which costs itself alone; lines in between are events as ever."""
    dump = DUMP.splitlines(keepends=True)
    stream = [
        hello(server.url),
        event("first", 1, properties={**RUN, "text": "Fatal Python error: Aborted\n\nStack (most recent call first)"}),
        b'{"event": "torn", "prop' + dump[0],
        *dump[1:3],
        event("second", 2, properties=RUN),
        *dump[3:],
        b'{"event": "torn", "properties": {\n',
    ]
    done = run_sender(*stream, END)
    events = {arrived["event"]: arrived for arrived in server.events}
    assert [*events] == ["first", "second", "$exception"]
    crash = events["$exception"]
    assert crash["distinct_id"] == "me"
    assert crash["properties"]["run_id"] == "a run"
    assert crash["properties"]["$exception_type"] == "SIGSEGV"
    assert len(crash["properties"]["$exception_list"][0]["stacktrace"]["frames"]) == 2
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.lines] == ["skipped line 3", "skipped line 9"]


def test_a_torn_event_about_a_crash_is_no_crash(server):
    """Its text may hold the words; a dump has more than one line."""
    done = run_sender(hello(server.url), event("first", 1), b'{"event":"e","properties":{"p":"Fatal Python error: x')
    assert [arrived["event"] for arrived in server.events] == ["first"]
    assert done.exit_code == 1


def test_by_hand_no_process_is_watched(server):
    """A recorded stream may be replayed; the host that it greets for is long gone."""
    known = {"pid": 1, "started": 1, "began": 1.0, "crash": True, "hang_after": 0.01}
    done = run_sender(hello(server.url, watch=known), event("first", 1))
    assert done.exit_code == 0
    assert [arrived["event"] for arrived in server.events] == ["first"]


def test_a_report_that_fails_costs_no_event(server, dumps):
    """A bug of ours in the middle of a silence must not end the reading."""
    patch = """
from atotelemetry.sender.last_words import LastWords
def fail(*_, **__):
    raise OverflowError
LastWords.hang = LastWords.end = fail
"""
    with (
        host(dumps=dumps[1]) as process,
        RunningSender("--dumps", detached=True, dumps=dumps[0], patch=patch) as sender,
    ):
        sender.write(hello(server.url, watch=watch(process.pid, hang_after=0.01)), event("first", 1))
        server.wait_for_events(1)
        sender.write(event("second", 2))
        done = sender.finish()
    assert done.outcome == Outcome(delivered=2, last=True)
