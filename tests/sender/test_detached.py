"""A sender as a host starts it: nobody's child, holding nothing of the host's, small, and answering."""

import contextlib
import json
import os
import select
import signal
import time
from pathlib import Path

import pytest

from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import AnswerDecoder, Outcome, Ready
from support_sender import END, PATIENCE, RunningSender, Staller, event, events, hello, run_sender, silence

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

ATTEMPTS = 4

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at processes through /proc")


@pytest.fixture
def server():
    """Run a server that takes everything."""
    with CaptureServer() as running:
        yield running


@contextlib.contextmanager
def one_at_work(server, **options):
    """Start a detached sender, yield it when its first event was delivered."""
    before = len(server.events)
    with RunningSender(detached=True, **options) as sender:
        sender.write(hello(server.url), event("first", 1))
        server.wait_for_events(before + 1)
        yield sender


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_terminals_signals_do_not_end_it(server, number):
    """Ctrl-C and a closed window are about the host."""
    with one_at_work(server) as sender:
        sender.send(number)
        sender.write(event("second", 2))
        server.wait_for_events(2)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=2, last=True)
    assert done.stderr == ""


# ---- nobody's child


def test_the_process_that_was_started_leaves_at_once(server):
    """With status 0, before the sender has read anything; its child is the sender."""
    with RunningSender(detached=True) as sender:
        assert sender.process.wait(PATIENCE) == 0
        sender.write(hello(server.url), event("e"), END)
        assert sender.finish().outcome == Outcome(delivered=1, last=True)


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


# ---- answers


def test_it_says_nothing_but_answers(server):
    """Its exit code is 0 whatever happens, and stderr stays empty: nobody looks there."""
    server.respond(Answer(status=500))
    done = run_sender(hello(server.url, max_retries=0), b"bad\n", event("e"), END, detached=True)
    lost = {"server error (500)": 1, "unreadable line": 1}
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.answers == [Ready(), Outcome(dropped=lost), Outcome(dropped=lost, last=True)]


def test_events_that_nobody_could_send_are_not_counted_as_anything():
    """Without settings a sender reads no further; the host counts what it handed over and hears nothing of."""
    done = run_sender(event("e"), detached=True)
    assert (done.exit_code, done.answers) == (0, [Ready(), Outcome(last=True)])


def read_answers(sender, decoder):
    """Wait for more answers."""
    assert select.select([sender.process.stdout], [], [], PATIENCE)[0]
    return decoder.feed(os.read(sender.process.stdout.fileno(), 65536))


def test_it_is_ready_when_it_reads_and_tells_each_fate(server):
    """While its input is open, too."""
    decoder = AnswerDecoder()
    with RunningSender(detached=True) as sender:
        assert read_answers(sender, decoder) == [Ready()]  # before it was given anything
        sender.write(hello(server.url), event("first", 1))
        assert read_answers(sender, decoder) == [Outcome(delivered=1)]
        server.script(Answer(status=401))
        sender.write(event("second", 2))
        assert read_answers(sender, decoder) == [Outcome(delivered=1, dropped={"refused (401)": 1})]
        sender.finish()


def test_answers_are_few_however_many_events_there_are(server):
    """While more are on their way, nobody needs to know sooner than a moment later."""
    begun_at = time.monotonic()
    done = run_sender(hello(server.url, endpoint="capture"), events(300), END, detached=True)
    seconds = time.monotonic() - begun_at
    assert done.outcome == Outcome(delivered=300, last=True)
    assert len(done.answers) <= 4 + seconds / 0.1
    counts = [answer.delivered for answer in done.answers[1:]]
    assert counts == sorted(counts)


def test_a_host_that_reads_no_answers_holds_up_nothing(server):
    """The pipe is full: each event is delivered all the same."""
    with RunningSender(detached=True) as sender:
        sender.fill_stdout()
        sender.write(hello(server.url), events(20), END)
        server.wait_for_events(20)
        sender.finish()


def test_the_last_words_wait_a_moment_for_room(server):
    """A host that reads now learns the whole truth, though the pipe was full before."""
    with RunningSender(detached=True) as sender:
        sender.write(hello(server.url), event("e"))
        server.wait_for_events(1)
        sender.fill_stdout()
        sender.write(END)
        done = sender.finish()
    assert done.outcome == Outcome(delivered=1, last=True)


def test_a_host_that_died_costs_nothing(server):
    """Nobody reads the answers any more."""
    with RunningSender(detached=True) as sender:
        sender.process.stdout.close()
        sender.process.stdout = None
        sender.write(hello(server.url), event("first", 1))
        server.wait_for_events(1)
        sender.write(event("second", 2))
        sender.finish()
    assert [event["event"] for event in server.events] == ["first", "second"]


def test_a_library_that_prints_answers_nothing(server):
    """Its stdout is not the answer pipe."""
    patch = """
import atotelemetry.sender.batch as batch
prepare = batch.prepare
def print_and_prepare(*arguments, **fields):
    print('{"type":"outcome","delivered":99,"last":true}', flush=True)
    return prepare(*arguments, **fields)
batch.prepare = print_and_prepare
"""
    done = run_sender(hello(server.url), event("e"), END, detached=True, patch=patch)
    assert [answer.delivered for answer in done.answers[1:]] == [1, 1]


def test_the_watchdog_has_last_words_too():
    """Whatever the sender is stuck in, the host learns what was lost."""
    patch = """
import threading
import atotelemetry.sender.delivery as delivery
delivery.Delivery.post = lambda *arguments: threading.Event().wait()
"""
    stream = [hello("http://127.0.0.1:1", sender_deadline=1.0), events(3), END]
    done = run_sender(*stream, detached=True, patch=patch)
    assert done.outcome == Outcome(dropped={"deadline": 3}, last=True)


def test_a_bug_of_ours_has_last_words_too():
    """The events are lost, and counted."""
    patch = """
import atotelemetry.sender.loop as loop
def fail(self):
    raise KeyError("a bug")
loop.Sender._deliver_some = fail
"""
    done = run_sender(hello("http://127.0.0.1:1"), events(3), END, detached=True, patch=patch)
    assert done.outcome == Outcome(dropped={"sender failed": 3}, last=True)


# ---- a request to terminate


def within_the_drain(run):
    """Return the last words of a terminated sender; on a busy machine two seconds may be too short for any work."""
    for _ in range(ATTEMPTS):
        outcome = run()
        if not outcome.dropped:
            break
    return outcome


def test_a_request_to_terminate_is_met_with_a_short_drain(server):
    """Every process of a unit is ended at once, by systemd or a CI agent: what is on its way is still delivered."""
    server.respond(Answer(delay=0.5))

    def run():
        with RunningSender(detached=True) as sender:
            before = len(server.requests)
            sender.write(hello(server.url), event("e"), END)
            server.wait_for_requests(before + 1)
            sender.send(signal.SIGTERM)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=1, last=True)


def test_a_drain_ends_after_two_seconds():
    """A server that hangs does not delay the end of the machine."""
    with Staller(silence) as server, RunningSender(detached=True) as sender:
        sender.write(hello(server.url(), request_timeout=1000, sender_deadline=1000), event("e"), END)
        assert server.arrived.wait(PATIENCE)
        begun_at = time.monotonic()
        sender.send(signal.SIGTERM)
        done = sender.finish()
        seconds = time.monotonic() - begun_at
    assert 1.0 < seconds < 2.0 + PATIENCE / 4  # the machine may be busy
    assert done.outcome == Outcome(dropped={"deadline": 1}, last=True)


def test_a_host_that_is_terminated_too_may_still_capture(server):
    """Its last event comes a moment after the signal, which both got."""

    def run():
        with one_at_work(server) as sender:
            sender.send(signal.SIGTERM)
            sender.write(event("last", 2), END)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=2, last=True)


def test_a_drain_does_not_wait_for_a_slow_git(server):
    """The event matters more than what is worked out about its run."""
    patch = """
import time
import atotelemetry.facts.run as run
def work_slowly(*arguments, **options):
    time.sleep(2.5)
    return {}
run.run_properties = work_slowly
"""

    def run():
        with RunningSender(detached=True, patch=patch) as sender:
            sender.write(hello(server.url, run_properties=["email"]), event("e"), END)
            assert read_answers(sender, AnswerDecoder()) == [Ready()]
            sender.send(signal.SIGTERM)
            return sender.finish().outcome

    assert within_the_drain(run) == Outcome(delivered=1, last=True)


def test_a_host_that_lives_on_does_not_keep_a_terminated_sender(server):
    """It is gone after the drain, though its input is open."""
    with one_at_work(server) as sender:
        sender.send(signal.SIGTERM)
        assert sender.wait().outcome == Outcome(delivered=1, last=True)


# ---- a no


def test_after_a_no_everything_that_was_not_posted_is_dropped(server):
    """The person disabled telemetry while events waited."""
    server.respond(Answer(status=503))
    stream = [hello(server.url, max_retries=50, endpoint="capture"), events(5)]
    with RunningSender(detached=True) as sender:
        sender.write(*stream)
        server.wait_for_requests(1)
        sender.write(b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 5}, last=True)
    assert len(server.requests) <= 5


def test_a_no_that_comes_before_the_connection_is_in_time(server):
    """While the sender loads its libraries, or waits for a name server, nothing is posted yet."""
    patch = """
import socket, sys, time
resolve = socket.getaddrinfo
def resolve_slowly(*arguments, **options):
    sys.stderr.write("resolving\\n")
    sys.stderr.flush()
    time.sleep(1.0)
    return resolve(*arguments, **options)
socket.getaddrinfo = resolve_slowly
"""
    with RunningSender(detached=True, patch=patch) as sender:
        sender.write(hello(server.url, max_retries=3), event("e"))
        sender.read_stderr_until("resolving")
        sender.write(b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 1}, last=True)
    assert server.requests == []


def test_a_no_is_heard_behind_a_full_buffer(server):
    """The sender has no room to read on, and the host is gone: the rest of the pipe is read all the same."""
    patch = """
import atotelemetry.sender.buffer as buffer
buffer.Buffer.__init__.__defaults__ = (20_000,)
"""
    server.respond(Answer(hang=True))
    with RunningSender(detached=True, patch=patch) as sender:
        sender.write(hello(server.url, request_timeout=1.0, max_retries=0), event("first"))
        server.wait_for_requests(1)
        sender.write(events(100, properties={"p": "x" * 500}), b'{"type":"end","discard":true}\n')
        done = sender.finish()
    assert done.outcome == Outcome(dropped={"disabled": 100, "network: timeout": 1}, last=True)


# ---- its size


def test_it_loads_nothing_of_the_hosts_and_no_event_loop(server):
    """The folders are the processes."""
    done = run_sender(hello(server.url), event("e"), END, detached=True, patch=TELL_MODULES)
    modules = set(json.loads(done.stderr.rpartition("modules ")[2]))
    assert "httpx" in modules
    unwanted = {"asyncio", "argparse", "rich", "click", "pygments", "numpy", "multiprocessing", "trio"}
    assert not unwanted & modules
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
