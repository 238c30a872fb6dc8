"""A sender as a host starts it: nobody's child, holding nothing of the host's, small, and answering."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import Outcome
from support_hosts import needs_proc
from support_sender import END, PATIENCE, RunningSender, event, hello, one_at_work, run_sender

# The process leaves by `os._exit`, or ends itself on Windows: the only moment to ask it what it has loaded.
TELL_MODULES = """
import json, os, sys
leave = os._exit
def tell_and_leave(code):
    sys.stderr.write("modules " + json.dumps(sorted(sys.modules)) + "\\n")
    sys.stderr.flush()
    leave(code)
os._exit = tell_and_leave
if sys.platform == "win32":
    import _winapi
    _winapi.TerminateProcess = lambda _, code: tell_and_leave(code)
"""

# `ru_maxrss` would include what the parent was before the exec; the kernel's own mark does not.
TELL_COSTS = """
import json, os, sys
leave = os._exit
def tell_and_leave(code):
    import time
    with open("/proc/self/status") as status:
        (peak,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM:")]
    sys.stderr.write("costs " + json.dumps([time.process_time(), peak]) + "\\n")
    sys.stderr.flush()
    leave(code)
os._exit = tell_and_leave
"""


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@pytest.mark.posix("signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_the_terminals_signals_do_not_end_it(server, number):
    """Ctrl-C and a closed window are about the host."""
    with one_at_work(server) as sender:
        sender.send(getattr(signal, number))
        sender.write(event("second", 2))
        server.wait_for_events(2)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=2, last=True)
    assert done.stderr == ""


# ---- nobody's child


@pytest.mark.posix("forks")
def test_the_process_that_was_started_leaves_at_once(server):
    """With status 0, before the sender has read anything; its child is the sender."""
    with RunningSender(detached=True) as sender:
        assert sender.process.wait(PATIENCE) == 0
        sender.write(hello(server.url), event("e"), END)
        assert sender.finish().outcome == Outcome(delivered=1, last=True)


@pytest.mark.posix("forks")
def test_it_forks_before_it_loads_anything_costly():
    """The first process is somebody's child for as short as possible."""
    patch = """
import os, sys
before = set(sys.modules)
fork = os.fork
def tell_and_fork():
    sys.stderr.write("loaded " + " ".join(sorted(set(sys.modules) - before)) + "\\n")
    sys.stderr.flush()
    return fork()
os.fork = tell_and_fork
"""
    done = run_sender(END, detached=True, patch=patch)
    loaded = set(done.lines[0].split()[1:])
    assert "atotelemetry.sender.__main__" not in loaded  # it runs as __main__
    ours = {name for name in loaded if name.startswith("atotelemetry")}
    assert ours <= {"atotelemetry", "atotelemetry.sender", "atotelemetry.version"}
    assert not loaded & {"typing", "signal", "threading", "msgspec", "re", "enum"}


@pytest.mark.posix("forks")
def test_a_sender_that_cannot_fork_says_so_at_once():
    """The process limit is reached: the host tries again later."""
    patch = """
import os
def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = refuse
"""
    done = run_sender(END, detached=True, patch=patch)
    assert (done.exit_code, done.stdout, done.stderr) == (os.EX_TEMPFAIL, "", "")


@needs_proc
def test_it_makes_a_session_where_the_spawn_did_not(server):
    """Not every libc can; Ctrl-C and a closed terminal go to whole groups."""
    patch = "import os\nos.getsid = lambda pid: -1"
    with one_at_work(server, patch=patch) as sender:
        (other,) = [pid for pid in by_mark(sender) if pid != sender.process.pid]
        assert os.getsid(other) == other
        sender.finish()


def by_mark(sender):
    """Return the processes that have this sender's input open as their stdin."""
    link = os.readlink(f"/proc/self/fd/{sender.input}")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/fd/0") == link:
                found.append(int(name))
    return found


@needs_proc
def test_it_is_on_its_own(server):
    """Own session, no directory of the host's, low priority."""
    with one_at_work(server) as sender:
        (pid,) = by_mark(sender)
        assert os.getsid(pid) == sender.process.pid  # the session that it was started in
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        sender.finish()


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="this kernel does not group sessions")
@needs_proc
def test_its_session_is_as_low_as_itself(server):
    """Where the kernel shares the machine between sessions, being nice inside one's own means nothing."""
    with one_at_work(server) as sender:
        (pid,) = by_mark(sender)
        autogroup = Path(f"/proc/{pid}/autogroup").read_text()
        assert autogroup.split()[-2:] == ["nice", "10"]
        sender.finish()


def test_a_host_that_says_nothing_any_more_is_left(server):
    """Its feeder ends an idle sender; where that thread is gone (after a fork, say) the sender ends by itself."""
    patch = "import atotelemetry.sender.loop\natotelemetry.sender.loop.SENDER_IDLE = 0.3"
    with one_at_work(server, patch=patch) as sender:
        done = sender.wait()  # its input is still open
    assert done.outcome == Outcome(delivered=1, last=True)


@pytest.mark.posix("descriptors")
def test_it_holds_nothing_of_the_hosts(server):
    """A pipe that the host made inheritable ends when the host lets go of it."""
    read_end, write_end = os.pipe()
    try:
        with RunningSender(detached=True, pass_fds=[write_end]) as sender:
            os.close(write_end)
            sender.write(hello(server.url), event("first", 1))
            server.wait_for_events(1)
            assert os.read(read_end, 1) == b""  # the end of the pipe, though the sender lives
            sender.write(event("second", 2))
            assert sender.finish().outcome.delivered == 2
    finally:
        os.close(read_end)


def test_it_ends_at_the_end_line(server):
    """At once, and does not look at what comes after."""
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url), event("e"), END, b"garbage\n")
        done = sender.wait()
    assert (done.outcome, done.stderr) == (Outcome(delivered=1, last=True), "")
    assert len(server.events) == 1


def test_a_host_that_died_in_the_middle_of_a_line_loses_that_line(server):
    """What was handed over as a whole arrives."""
    done = run_sender(hello(server.url), event("whole", 1), event("torn", 2)[:50], detached=True)
    assert done.outcome == Outcome(delivered=1, dropped={"unreadable line": 1}, last=True)
    assert [event["event"] for event in server.events] == ["whole"]


# ---- its size


def test_it_loads_nothing_of_the_hosts_and_no_event_loop(server):
    """The folders are the processes."""
    done = run_sender(hello(server.url), event("e"), END, detached=True, patch=TELL_MODULES)
    modules = set(json.loads(done.stderr.rpartition("modules ")[2]))
    assert "httpx" in modules
    unwanted = {"asyncio", "argparse", "rich", "click", "pygments", "numpy", "multiprocessing", "trio"}
    assert not unwanted & modules
    assert not {"atotelemetry.sender.last_words", "atotelemetry.sender.dump"} & modules
    assert not [name for name in modules if name.startswith(("atotelemetry.host", "atotelemetry.command"))]


def test_with_nothing_to_send_it_loads_no_http(server):
    """A run whose events were all dropped pays for none of it."""
    done = run_sender(hello(server.url), END, detached=True, patch=TELL_MODULES)
    modules = set(json.loads(done.stderr.rpartition("modules ")[2]))
    assert not {"httpx", "ssl", "socket"} & modules


@needs_proc
def test_a_typical_run_is_cheap(server):
    """At most 0.3 s of CPU and 40 MiB, the best of three: the machine may be busy with other things."""
    stream = [hello(server.url, app_version="1"), event("a", 1), event("b", 2), END]
    costs = []
    for _ in range(3):
        done = run_sender(*stream, detached=True, patch=TELL_COSTS)
        assert done.outcome.delivered == 2
        costs.append(json.loads(done.stderr.rpartition("costs ")[2]))
    assert min(seconds for seconds, _ in costs) <= 0.3
    assert min(kibibytes for _, kibibytes in costs) <= 40 * 1024


def test_a_server_that_answers_late_is_waited_for(server):
    """The host is gone long since; its events arrive."""
    server.respond(Answer(delay=1.0))
    done = run_sender(hello(server.url), event("e"), END, detached=True)
    assert done.outcome == Outcome(delivered=1, last=True)
    assert len(server.events) == 1


def test_a_torn_hello_is_a_wrong_call(server):
    """Nothing says then where the events are to go."""
    torn = hello(server.url)[:-10]
    done = run_sender(torn, event("e", 1), event("e", 2), END, detached=True)
    assert done.outcome == Outcome(last=True)
    assert server.requests == []
