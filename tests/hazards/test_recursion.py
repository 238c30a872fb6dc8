"""Hosts that capture what telemetry itself does: it never feeds on itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from support_hosts import needs_senders
from support_processes import SLOWER

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

LOGGING = """
import logging

class Capturing(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
        client.capture("log line", distinct_id="me", timestamp="no timestamp", properties={"line": record.getMessage()})
        client.flush(None) if flushing else None

lines, flushing = [], False
logging.basicConfig(level=logging.DEBUG, handlers=[Capturing()])
"""


def test_log_handler_that_captures(hosts: Hosts) -> None:
    """A handler that sends every log line as an event, ours about events that could not be sent as they were, too."""
    source = """
client = new_client(queue_size=1000)
for _ in range(10):
    client.capture("odd", distinct_id="me", timestamp="no timestamp")
    client.capture("", distinct_id="me")
assert client.flush(20)
say(len(lines), client.stats.captured)
assert client.stats.dropped == 10, client.stats
"""
    done = hosts.assert_runs(LOGGING + source, options=("-X", "dev", "-W", "error"), stdout=None)
    lines, captured = map(int, done.stdout.split())
    # Ten unusable timestamps, and one for the first event without a name: each line is one event, and no more.
    assert lines == 11
    assert captured == 20 + lines
    hosts.server.wait_for_events(10 + lines)
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"odd": 10, "log line": lines}


def test_log_handler_that_flushes_on_our_own_thread(hosts: Hosts) -> None:
    """A handler that flushes, without a limit, at a line of the very thread that it would wait for: no deadlock."""
    source = """
client = new_client()
sys.executable = sys._base_executable = "/nowhere/python"
flushing = True
client.capture("lost", distinct_id="me")
wait_until(lambda: client.stats.dropped and not client.stats.queued)
assert [line for line in lines if "the interpreter is gone" in line], lines
assert client.flush() is False
"""
    done = hosts.assert_runs(LOGGING + source)
    assert done.seconds < 10 * SLOWER


def test_excepthooks_that_capture(hosts: Hosts) -> None:
    """Hooks for uncaught exceptions, of threads and finalizers, too: each is one event, and still printed once."""
    source = """
client = new_client()
def hook(kind, error, traceback):
    client.capture_exception(error, distinct_id="me")
    sys.__excepthook__(kind, error, traceback)
def thread_hook(arguments):
    client.capture_exception(arguments.exc_value, distinct_id="me")
    threading.__excepthook__(arguments)
def unraisable_hook(arguments):
    client.capture_exception(arguments.exc_value, distinct_id="me")
    sys.__unraisablehook__(arguments)
if sys.argv[1] == "on":
    sys.excepthook, threading.excepthook, sys.unraisablehook = hook, thread_hook, unraisable_hook

class Bad:
    def __del__(self):
        raise LookupError("in a finalizer")
bad = Bad()
del bad
def work():
    raise OSError("in a thread")
thread = threading.Thread(target=work, name="worker")
thread.start()
thread.join()
raise ValueError("in main")
"""
    script = hosts.command(source)
    on, off = (hosts.run_command([*script, argument]) for argument in ("on", "off"))

    def comparable(text: str) -> list[str]:
        return [
            line for line in text.splitlines() if " object at 0x" not in line and "<function Bad.__del__" not in line
        ]

    assert (on.returncode, on.stdout, comparable(on.stderr)) == (off.returncode, off.stdout, comparable(off.stderr))
    hosts.server.wait_for_events(3)
    hosts.wait_until_no_sender()
    types = [event["properties"]["$exception_type"] for event in hosts.server.events]
    assert types == ["LookupError", "OSError", "ValueError"]


def test_before_send_that_captures(hosts: Hosts) -> None:
    """A `before_send` that captures an event for each event: one is sent, the other is dropped and counted."""
    source = """
calls = []
def before_send(event):
    calls.append(event["event"])
    assert client.capture("inner", distinct_id="me") is None
    return event
client = new_client(before_send=before_send)
for _ in range(3):
    assert client.capture("outer", distinct_id="me")
assert calls == ["outer"] * 3, calls
assert client.stats.dropped_by_reason == {"captured inside before_send": 3}, client.stats
assert client.flush(20)

def in_a_thread():
    global uuid
    uuid = client.capture("outer", distinct_id="me")
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
assert uuid
"""
    hosts.assert_runs(source, arrived=["outer"] * 4)


def test_audit_hook_that_captures(hosts: Hosts) -> None:
    """A hook that captures imports, opened files, started threads and processes, ours included: it comes to an end."""
    source = """
def hook(name, arguments):
    if name in {"import", "open", "os.posix_spawn", "subprocess.Popen", "_thread.start_new_thread"}:
        client.capture(name, distinct_id="me", properties={"arguments": arguments})
client = new_client(queue_size=10_000)
sys.addaudithook(hook)
client.capture("first", distinct_id="me")
for _ in range(3):
    assert client.flush(20)  # ends one sender; what is captured about its start is the first event of the next
assert client.shutdown(20)
stats = client.stats
assert 2 <= stats.handed_over <= stats.captured < 2000, stats
"""
    hosts.assert_runs(source)
    hosts.server.wait_for_events(2)
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    assert arrived["first"] == 1
    if sys.platform == "linux":
        assert arrived["os.posix_spawn"] >= 1
