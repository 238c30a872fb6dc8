"""A sender as a host starts it: of its own session, holding nothing of the host's, small, and quiet."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atotelemetry.testing import Answer, CaptureServer
from support_sender import END, PATIENCE, RunningSender, environment, event, hello, run_sender

# The process leaves by `os._exit`: the only moment to ask it what it has loaded.
TELL_MODULES = """
import json, os, sys
leave = os._exit
def tell_and_leave(code):
    sys.stderr.write("modules " + json.dumps(sorted(sys.modules)) + "\\n")
    sys.stderr.flush()
    leave(code)
os._exit = tell_and_leave
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

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at processes through /proc")


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@contextlib.contextmanager
def one_at_work(server, **options):
    """Start a detached sender, yield it when its first event was delivered."""
    with RunningSender(detached=True, **options) as sender:
        sender.write(hello(server.url), event("first", 1))
        server.wait_for_events(1)
        yield sender


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_terminals_signals_do_not_end_it(server, number):
    """Ctrl-C and a closed window are about the host."""
    with one_at_work(server) as sender:
        sender.process.send_signal(number)
        sender.write(event("second", 2))
        server.wait_for_events(2)
        done = sender.finish()
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_request_to_terminate_ends_it(server):
    """The machine shuts down: not our moment to be stubborn."""
    with one_at_work(server) as sender:
        sender.process.terminate()
        assert sender.wait().exit_code == -signal.SIGTERM


@needs_proc
def test_it_is_on_its_own(server):
    """Own session, no directory of the host's, low priority."""
    with one_at_work(server) as sender:
        pid = sender.process.pid
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        sender.finish()


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="this kernel does not group sessions")
def test_its_session_is_as_low_as_itself(server):
    """Where the kernel shares the machine between sessions, being nice inside one's own means nothing."""
    with one_at_work(server) as sender:
        autogroup = Path(f"/proc/{sender.process.pid}/autogroup").read_text()
        assert autogroup.split()[-2:] == ["nice", "10"]
        sender.finish()


def test_a_host_that_says_nothing_any_more_is_left(server):
    """Its feeder ends an idle sender; where that thread is gone (after a fork, say) the sender ends by itself."""
    patch = "import atotelemetry.sender.loop\natotelemetry.sender.loop.SENDER_IDLE = 0.3"
    with one_at_work(server, patch=patch) as sender:
        done = sender.wait()  # its input is still open
    assert (done.exit_code, done.stderr) == (0, "")


def test_it_holds_nothing_of_the_hosts(server):
    """A pipe that the host made inheritable ends when the host lets go of it."""
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "atotelemetry.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[write_end],
            env=environment({"ATO_TELEMETRY_SENDER": "1"}),
        )
    finally:
        os.close(write_end)
    try:
        process.stdin.write(hello(server.url) + event("first", 1))
        process.stdin.flush()
        server.wait_for_events(1)
        assert os.read(read_end, 1) == b""  # the end of the pipe, though the sender lives
        assert process.poll() is None
        process.stdin.write(event("second", 2))
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        os.close(read_end)
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()


def test_it_ends_at_the_end_line(server):
    """At once, and does not look at what comes after."""
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url), event("e"), END, b"garbage\n")
        done = sender.wait()
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(server.events) == 1


def test_it_says_nothing_whatever_happens(server):
    """There is nobody to hear it."""
    server.respond(Answer(status=500))
    done = run_sender(hello(server.url, max_retries=0), b"bad\n", event("e"), END, detached=True)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "")
    done = run_sender(event("e"), detached=True)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", "")


def test_a_host_that_died_in_the_middle_of_a_line_loses_that_line(server):
    """What was handed over as a whole arrives."""
    done = run_sender(hello(server.url), event("whole", 1), event("torn", 2)[:50], detached=True)
    assert done.exit_code == 1
    assert [event["event"] for event in server.events] == ["whole"]


def test_it_loads_nothing_of_the_hosts_and_no_event_loop(server):
    """The folders are the processes."""
    done = run_sender(hello(server.url), event("e"), END, detached=True, patch=TELL_MODULES)
    modules = set(json.loads(done.stderr.partition("modules ")[2]))
    assert "httpx" in modules
    unwanted = {"asyncio", "argparse", "rich", "click", "pygments", "numpy", "multiprocessing", "trio"}
    assert not unwanted & modules
    assert not [name for name in modules if name.startswith(("atotelemetry.host", "atotelemetry.command"))]


def test_with_nothing_to_send_it_loads_no_http(server):
    """A run whose events were all dropped pays for none of it."""
    done = run_sender(hello(server.url), END, detached=True, patch=TELL_MODULES)
    modules = set(json.loads(done.stderr.partition("modules ")[2]))
    assert not {"httpx", "ssl", "socket"} & modules


@needs_proc
def test_a_typical_run_is_cheap(server):
    """At most 0.3 s of CPU and 40 MiB, the best of three: the machine may be busy with other things."""
    stream = [hello(server.url, app_version="1"), event("a", 1), event("b", 2), END]
    costs = []
    for _ in range(3):
        done = run_sender(*stream, detached=True, patch=TELL_COSTS)
        assert done.exit_code == 0
        costs.append(json.loads(done.stderr.partition("costs ")[2]))
    assert min(seconds for seconds, _ in costs) <= 0.3
    assert min(kibibytes for _, kibibytes in costs) <= 40 * 1024


def test_a_server_that_answers_late_is_waited_for(server):
    """The host is gone long since; its events arrive."""
    server.respond(Answer(delay=1.0))
    done = run_sender(hello(server.url), event("e"), END, detached=True)
    assert done.exit_code == 0
    assert len(server.events) == 1


def test_a_torn_hello_is_a_wrong_call(server):
    """Nothing says then where the events are to go."""
    torn = hello(server.url)[:-10]
    done = run_sender(torn, event("e", 1), event("e", 2), END, detached=True)
    assert done.exit_code == 2
    assert server.requests == []
