"""The input: how a full buffer holds it up, and an input that falls idle counts as ended."""

import contextlib
import os
import select
import sys
import threading
import time

import pytest

from atotelemetry.testing import Answer, CaptureServer
from support_deadline import SHORT, in_time
from support_sender import (
    END,
    PATIENCE,
    RunningSender,
    Staller,
    event,
    events,
    hello,
    run_sender,
    silence,
    to,
)


def fill(sender):
    """Write events until the sender has not read for a while; return how many bytes it took."""
    if sys.platform == "win32":
        return fill_on_windows(sender)
    os.set_blocking(sender.input, False)
    total_bytes = 0
    while select.select([], [sender.input], [], 1.0)[1] and total_bytes < 64 * 1024 * 1024:
        line = event("filler", total_bytes, properties={"p": "x" * 8000})
        with contextlib.suppress(BlockingIOError):
            total_bytes += os.write(sender.input, line * 4)
    return total_bytes


def fill_on_windows(sender):
    import _winapi
    import msvcrt

    pipe = msvcrt.get_osfhandle(sender.input)
    _winapi.SetNamedPipeHandleState(pipe, 1, None, None)  # PIPE_NOWAIT
    total_bytes, rest, taken_at = 0, b"", time.monotonic()
    while time.monotonic() < taken_at + 1.0 and total_bytes < 64 * 1024 * 1024:
        rest = rest or event("filler", total_bytes, properties={"p": "x" * 8000}) * 4
        count = _winapi.WriteFile(pipe, rest[:1024])[0]
        total_bytes, rest = total_bytes + count, rest[count:]
        if count:
            taken_at = time.monotonic()
        else:
            time.sleep(0.001)
    return total_bytes


def test_a_full_buffer_stops_the_reading():
    """So that backpressure reaches the host's queue; when there is room again, reading goes on."""
    with CaptureServer() as server:
        server.respond(Answer(hang=True))
        with RunningSender(*to(server.url, timeout=1000, max_retries=0)) as sender:
            sender.write(event("first"))
            server.wait_for_requests(1)
            taken_bytes = fill(sender)
            # A second request of four mebibytes, the buffer of eight, less what its objects take, and the pipe.
            assert (4 + 6) * 1024 * 1024 < taken_bytes < (4 + 10) * 1024 * 1024
            sender.process.kill()


def test_a_full_buffer_takes_more_when_there_is_room_again():
    """The rest arrives, each event once."""
    with CaptureServer() as server:
        server.script(Answer(hang=True))
        with RunningSender(*to(server.url, timeout=1, max_retries=0, deadline=60)) as sender:
            sender.write(event("first", 1))
            server.wait_for_requests(1)
            count = 3000
            sender.write(events(count, properties={"p": "x" * 5000}))
            done = sender.finish()
        assert done.dropped() == ["first"]
        assert sorted(event["event"] for event in server.events) == sorted(f"e{number}" for number in range(count))


def test_a_full_buffer_does_not_hide_that_the_host_is_gone():
    """The sender cannot read as far as the end of the pipe, and is gone by its deadline all the same."""

    def run():
        with Staller(silence) as server, RunningSender(detached=True) as sender:
            sender.write(hello(server.url(), request_timeout=1000, sender_deadline=SHORT), event("first"))
            assert server.arrived.wait(20)
            assert fill(sender) > 6 * 1024 * 1024
            return sender.finish()

    done = in_time(run, SHORT)
    print(f"\nfull buffer: gone {done.seconds:.2f} s after the host, deadline {SHORT} s")
    assert done.outcome.delivered == 0
    assert sum(done.outcome.dropped.values()) > 1000


# Says when the input counts as ended, and when something was put into the buffer.
TELL_PROGRESS = """
import sys
import atotelemetry.sender.buffer as buffer
import atotelemetry.sender.watchdog as watchdog
def telling(text, real):
    def call(*arguments):
        real(*arguments)
        sys.stderr.write(text)
    return call
watchdog.Countdown.start = telling("the clock runs\\n", watchdog.Countdown.start)
buffer.Buffer.put = telling("buffered\\n", buffer.Buffer.put)
"""


def test_what_comes_after_an_idle_input_counted_as_ended_is_still_delivered():
    """While a request is on its way the sender is there anyway."""
    may_go_on = threading.Event()

    def hold(_):
        assert may_go_on.wait(PATIENCE)
        return Answer()

    with (
        CaptureServer() as server,
        RunningSender(*to(server.url, idle=0.3, timeout=PATIENCE, deadline=PATIENCE), patch=TELL_PROGRESS) as sender,
    ):
        server.script(hold)
        sender.write(event("in time", 1))
        server.wait_for_requests(1)
        sender.read_stderr_until("the clock runs")
        sender.write(event("late", 2))
        sender.read_stderr_until("buffered")
        may_go_on.set()
        done = sender.wait()
        assert [event["event"] for event in server.events] == ["in time", "late"]
    assert done.exit_code == 0, done.stderr
    assert done.summary == "done: 2 events read, 2 delivered, 0 dropped"


def test_an_input_that_falls_idle_inside_a_line_was_not_read_to_its_end():
    """The rest of that event is lost, which is no success."""
    with CaptureServer() as server, RunningSender(*to(server.url, idle=0.3)) as sender:
        sender.write(event("whole"), b'{"event": "ha')
        done = sender.wait()
        assert len(server.events) == 1
    assert done.exit_code == 1
    assert done.summary == "done: 1 event read, 1 delivered, 0 dropped, input left unread"


def test_an_idle_sender_is_gone_at_once():
    """What was to be delivered was delivered; there is nothing to wait for."""
    with CaptureServer() as server, RunningSender(*to(server.url, idle=0.3, deadline=100)) as sender:
        sender.write(event("e"))
        done = sender.wait()
    assert done.exit_code == 0, done.stderr


@pytest.mark.posix("faulthandler's dump, which ends in Wine's debugger")
def test_a_sender_that_cannot_even_start_does_not_live_on():
    """Imports from a drive that died: the end of the input would never be seen."""
    patch = """
import faulthandler, sys, threading
real = faulthandler.dump_traceback_later
faulthandler.dump_traceback_later = lambda seconds, **options: real(min(seconds, 1.0), **options)
class DeadDrive:
    def find_spec(self, name, *rest):
        if name == "atotelemetry.sender.loop":
            threading.Event().wait()
sys.meta_path.insert(0, DeadDrive())
"""
    done = run_sender(hello("http://127.0.0.1:1"), event("e"), END, detached=True, patch=patch)
    assert done.answers == []  # it never was ready
    assert done.stderr == ""
