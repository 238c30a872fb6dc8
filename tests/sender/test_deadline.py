"""The deadline: whatever the network does, a sender whose input has ended is gone in time, and says what was lost."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from atotelemetry.sender.lanes import MAX_IN_FLIGHT
from atotelemetry.sender.tally import counted
from atotelemetry.testing import Answer, CaptureServer
from atotelemetry.wire import Outcome
from support_deadline import GRACE, SHORT, SLOWER, in_time
from support_sender import (
    END,
    PATIENCE,
    Done,
    RunningSender,
    Staller,
    deafness,
    drip,
    environment,
    event,
    events,
    full_backlog,
    hello,
    read_request,
    run_sender,
    silence,
    to,
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks for a pipe's size")


DEADLINE = 2.5 * SLOWER


HANGING_NAME_SERVER = """
import socket, threading
def resolve(*arguments, **options):
    threading.Event().wait()
socket.getaddrinfo = resolve
"""


# A library that holds the interpreter lock for good: nothing written in Python runs any more.
LOCK_HOLDER = """
import ctypes, socket
def resolve(*arguments, **options):
    ctypes.PyDLL(None).pause()
socket.getaddrinfo = resolve
"""


@contextlib.contextmanager
def stalled_by(name):
    """Yield host, environment and patch of a sender that will not get an answer."""
    with contextlib.ExitStack() as stack:

        def staller(behave):
            return stack.enter_context(Staller(behave))

        if name == "name server that never answers":
            yield "http://nowhere.invalid", {}, HANGING_NAME_SERVER
        elif name == "connect into silence":
            yield f"http://127.0.0.1:{stack.enter_context(full_backlog())}", {}, ""
        elif name == "connected, then silence":
            yield staller(silence).url(), {}, ""
        elif name == "server that never reads":
            yield staller(deafness).url(), {}, ""
        elif name == "TLS handshake that stalls":
            yield staller(silence).url("https"), {}, ""
        elif name == "headers a byte at a time":
            yield staller(drip(b"", 0.1)).url(), {}, ""
        elif name == "one header without end":
            yield staller(drip(b"HTTP/1.1 200 OK\r\nx-slow: ", 0.1)).url(), {}, ""
        elif name == "interim answers without end":
            interim = b"HTTP/1.1 100 Continue\r\n\r\n"

            def behave(connection):
                read_request(connection)
                while not select.select([connection], [], [], 0.1)[0]:
                    connection.sendall(interim)

            yield staller(behave).url(), {}, ""
        elif name == "proxy that hangs":
            yield "http://example.invalid", {"HTTP_PROXY": staller(silence).url()}, ""
        elif name == "proxy that hangs on CONNECT":
            yield "https://example.invalid", {"HTTPS_PROXY": staller(silence).url()}, ""
        else:
            assert name == "proxy that tunnels into silence"

            def tunnel(connection):
                read_request(connection)
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                silence(connection)

            yield "https://example.invalid", {"HTTPS_PROXY": staller(tunnel).url()}, ""


STALLS = [
    "name server that never answers",
    "connect into silence",
    "connected, then silence",
    "server that never reads",
    "TLS handshake that stalls",
    "headers a byte at a time",
    "one header without end",
    "interim answers without end",
    "proxy that hangs",
    "proxy that hangs on CONNECT",
    "proxy that tunnels into silence",
]


def run_stalled(name):
    """Run a sender into a stall, end its input while it is in the middle of it, and return what is left."""
    with stalled_by(name) as (host, env, patch):
        arguments = to(host, deadline=DEADLINE, timeout=1000, max_retries=0, compression="never")
        with RunningSender(*arguments, env=env, patch=patch) as sender:
            sender.write(*[event(event_name, properties={"p": "x" * 800_000}) for event_name in expected_names(name)])
            sender.read_stderr_until("sending to ")
            return sender.finish()


def expected_names(name):
    """Return what is handed over: enough to fill a socket's buffers where the stall is in the upload."""
    return [f"e{number}" for number in range(5 if name == "server that never reads" else 1)]


@pytest.fixture(scope="module")
def stalled():
    """Run all the stalled senders side by side, since all they do is wait."""
    with ThreadPoolExecutor(len(STALLS)) as pool:
        return dict(zip(STALLS, pool.map(run_stalled, STALLS), strict=True))


@pytest.mark.parametrize("name", STALLS)
def test_a_stalled_sender_is_gone_at_its_deadline(stalled, name):
    """Measured from the end of its input."""
    done = stalled[name]
    if done.seconds > DEADLINE + GRACE or not done.summary:  # eleven of them started at once
        done = in_time(lambda: run_stalled(name), DEADLINE)
    print(f"{name}: gone {done.seconds:.2f} s after the end of input, deadline {DEADLINE} s")
    assert done.exit_code == 1
    assert done.seconds >= DEADLINE - 1.0 * SLOWER
    count = len(expected_names(name))
    assert done.summary.startswith(f"done: {counted(count)} read, 0 delivered, {count} dropped ")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n"])
def test_a_body_a_byte_at_a_time_costs_nothing(head):
    """The head of the answer says what became of the events."""
    with Staller(drip(head, 0.1)) as server:
        arguments = to(server.url(), deadline=DEADLINE, timeout=1000)
        done = in_time(lambda: run_sender(event("e"), arguments=arguments), DEADLINE)
    assert done.exit_code == 0, done.stderr


def test_a_body_without_end_costs_nothing():
    """It is read up to a cap, as fast as it comes."""

    def behave(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with Staller(behave) as server:
        arguments = to(server.url(), deadline=DEADLINE, timeout=1000)
        done = in_time(lambda: run_sender(event("e"), arguments=arguments), DEADLINE)
    assert done.exit_code == 0, done.stderr


@pytest.mark.posix("a C library that holds the interpreter's lock")
def test_a_library_that_holds_the_interpreter_lock_does_not_outlive_it():
    """The last alarm needs no Python."""
    deadline = 2 * SHORT  # so that it comes as far as a name
    arguments = to("http://nowhere.invalid", deadline=deadline)
    done = in_time(lambda: run_sender(event("e"), arguments=arguments, patch=LOCK_HOLDER), deadline)
    print(f"\nlock held: gone {done.seconds:.2f} s after the end of input, deadline {deadline} s")
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    assert not any(line.startswith("done: ") for line in done.lines)


@pytest.mark.parametrize(
    "stuck",
    ["delivery.Delivery.post", "batch.prepare"],
    ids=["in a request", "in between"],
)
def test_a_stuck_deliverer_is_ended_and_its_events_counted(stuck):
    """Between the buffer and a request an event is as lost as in a request that is never over."""
    patch = f"""
import threading
import atotelemetry.sender.batch as batch
import atotelemetry.sender.delivery as delivery
{stuck} = lambda *arguments, **fields: threading.Event().wait()
"""
    done = run_sender(events(3), arguments=to("http://127.0.0.1:1", deadline=4 * SLOWER), patch=patch)
    assert done.exit_code == 1
    assert "dropped 3 events: no answer before the deadline" in done.lines
    assert done.summary.startswith("done: 3 events read, 0 delivered, 3 dropped (3 x no answer before the deadline)")


def test_events_that_wait_for_a_full_buffer_are_counted_too():
    """An event that the reader could not put anywhere was read all the same."""
    patch = """
import threading
import atotelemetry.sender.buffer as buffer
import atotelemetry.sender.delivery as delivery
buffer.Buffer.__init__.__defaults__ = (20_000,)
delivery.Delivery.post = lambda *arguments: threading.Event().wait()
"""
    done = run_sender(events(400), arguments=to("http://127.0.0.1:1", deadline=4 * SLOWER), patch=patch)
    assert done.exit_code == 1
    summary = re.match(r"done: (\d+) events read, 0 delivered, (\d+) dropped ", done.summary)
    assert summary is not None, done.summary
    read, dropped = map(int, summary.groups())
    assert read == dropped > 100


def test_without_time_nothing_is_prepared_any_more():
    """A backlog is named, and not encoded for a request that will never be made."""
    patch = """
import atotelemetry.sender.batch as batch
import atotelemetry.sender.watchdog as watchdog
def prepare(*arguments, **fields):
    raise ValueError("prepared")
batch.prepare = prepare
watchdog.Countdown.left = lambda self: 0.0
"""
    done = run_sender(events(3), arguments=to("http://127.0.0.1:1"), patch=patch)
    assert done.exit_code == 1
    assert "dropped 3 events (e0, e1, e2): no time left before the deadline" in done.lines


@needs_linux
@pytest.mark.posix("the size of a pipe")
def test_a_stderr_that_nobody_reads_does_not_outlive_it():
    """Not even the last words can be said then: the second alarm does not need them."""
    import fcntl

    read_end, write_end = os.pipe()

    def run():
        begun_at = time.monotonic()
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "atotelemetry.sender", *to("http://127.0.0.1:1", deadline=SHORT)],
            stdin=subprocess.DEVNULL,
            stderr=write_end,
            env=environment(),
        )
        return Done(started.wait(PATIENCE), "", "", time.monotonic() - begun_at)

    try:
        full = b"x" * fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)
        os.write(write_end, full)
        assert in_time(run, SHORT).exit_code == 1
    finally:
        os.close(read_end)
        os.close(write_end)


def test_retries_end_at_the_deadline():
    """A server that is down is not asked for longer than there is time."""
    with CaptureServer() as server:
        server.respond(Answer(status=503))
        arguments = to(server.url, deadline=SHORT, max_retries=100)

        def run():
            before = len(server.requests)
            done = run_sender(events(2), arguments=arguments)
            assert len(server.requests) - before <= 2 * SLOWER  # at 0 s and 0.5 s; another second would be too late
            return done

        done = in_time(run, SHORT)
    assert done.exit_code == 1
    assert done.dropped() == ["e0", "e1"]


def test_the_deadline_holds_for_all_requests_together():
    """A backlog on a slow server is delivered as far as it goes; the rest is named."""
    with CaptureServer() as server:

        def run():
            server.respond(Answer(delay=0.2))
            with RunningSender(*to(server.url, deadline=SHORT, endpoint="capture")) as sender:
                before = len(server.events)
                sender.write(event("first"))
                server.wait_for_events(before + 1)  # it has loaded what it takes to send
                sender.write(events(40))
                return sender.finish()

        done = in_time(run, SHORT)
        accepted = {event["event"] for event in server.events}
    assert done.exit_code == 1
    assert 1 <= len(done.dropped()) < 40
    # Those under way at the deadline may have been accepted after we gave up on them. What a busy machine left between
    # two steps is counted, not named.
    assert accepted | set(done.dropped()) - {""} == {"first", *(f"e{number}" for number in range(40))}
    assert len(accepted & set(done.dropped())) <= MAX_IN_FLIGHT


def test_one_stuck_request_holds_up_a_living_host_for_its_own_attempts_only():
    """While the input goes on there is no deadline, but each request has its limit."""
    with CaptureServer() as server:
        slow = Answer(status=500, trickle=0.1)  # each byte is in time, the whole of it is not
        server.script(slow, slow)
        with RunningSender(*to(server.url, timeout=0.2 * SLOWER**2, max_retries=1)) as sender:
            sender.write(event("stuck", 1))
            server.wait_for_requests(1)
            sender.write(event("next", 2))
            server.wait_for_events(1)
            assert [event["event"] for event in server.events] == ["next"]
            assert sender.process.poll() is None
            done = sender.finish()
    assert done.exit_code == 1
    assert done.dropped() == ["stuck"]


def test_an_end_line_starts_the_clock_though_the_pipe_stays_open():
    """A child of the host may have inherited the pipe and hold it for hours."""

    def run():
        with Staller(silence) as server, RunningSender(detached=True) as sender:
            # Seconds are counted from here, and the sender starts only now.
            sender.write(hello(server.url(), request_timeout=1000, sender_deadline=SHORT), event("e"), END)
            return sender.wait()

    done = in_time(run, SHORT + 1)
    assert done.outcome == Outcome(dropped={"network: timeout": 1}, last=True)


def test_a_sender_that_has_started_is_not_ended_by_the_alarm_of_its_start():
    """It may live as long as its host feeds it."""
    patch = """
import faulthandler
real = faulthandler.dump_traceback_later
faulthandler.dump_traceback_later = lambda seconds, **options: real(min(seconds, 3.0), **options)
"""
    with CaptureServer() as server, RunningSender(detached=True, patch=patch) as sender:
        sender.write(hello(server.url))
        sender.write(event("e"))
        server.wait_for_events(1)
        number = 1
        begun_at = time.monotonic()
        while time.monotonic() < begun_at + 3.3:  # each waits for its batch to be gathered
            sender.write(event("e", number))
            number += 1
            server.wait_for_events(number)
        done = sender.finish()
        assert done.exit_code == 0
        assert len(server.events) == number


@pytest.mark.posix("SIGALRM")
def test_without_a_thread_to_be_had_a_signal_ends_it():
    """The process limit is reached: the alarm needs no thread."""
    patch = """
import faulthandler, threading
def refuse(*arguments, **options):
    raise RuntimeError("unable to start watchdog thread")
faulthandler.dump_traceback_later = refuse
import atotelemetry.sender.watchdog as watchdog
watchdog.Countdown(lambda: None).start(0.5)
threading.Event().wait()
"""
    done = run_sender(patch=patch)
    assert done.exit_code == -signal.SIGALRM
