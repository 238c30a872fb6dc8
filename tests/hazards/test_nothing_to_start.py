"""Programs that have no Python interpreter to start a sender with: telemetry is off, and one DEBUG line says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support_hosts import needs_senders, program_that_exits
from support_listen import LISTEN

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

CAPTURE = """
client = new_client()
assert client.disabled
for number in range(3):
    assert client.capture(f"event {number}", distinct_id="me") is None
    assert client.capture_exception(ValueError("no")) is None
    assert client.flush(delivered=True) is True
assert client.shutdown() is True
assert (client.stats.captured, threading.active_count()) == (0, 1)
assert "msgspec" not in sys.modules
print(*heard, sep="\\n")
"""

REASONS = {
    "frozen": ("sys.frozen = True", "frozen application: its executable is not a Python interpreter"),
    "none": ("sys.executable = None", "sys.executable is not known"),
    "empty": ("sys.executable = ''", "sys.executable is not known"),
    "server": ("sys.executable = '/usr/sbin/uwsgi'", "sys.executable is not a Python interpreter"),
    "cad": ("sys.executable = '/opt/KiCad/bin/pcbnew'", "sys.executable is not a Python interpreter"),
    "gevent": (
        "import types; sys.modules['gevent.monkey'] = types.SimpleNamespace(is_module_patched=lambda _: True)",
        "gevent has replaced the threads",
    ),
    "sender": ("os.environ['ATO_TELEMETRY_SENDER'] = '1'", "this process is a sender, or was started by one"),
}


@pytest.mark.parametrize(("situation", "reason"), REASONS.values(), ids=REASONS)
def test_no_interpreter(hosts: Hosts, situation: str, reason: str) -> None:
    """A frozen application, an embedded Python, a sender's own child and the like: no thread, no process, one line."""
    hosts.assert_runs(LISTEN + situation + "\n" + CAPTURE, stdout=f"telemetry is off: {reason}\n")
    assert hosts.server.connection_count == 0


def test_threads_replaced_before_the_first_event(hosts: Hosts) -> None:
    """A program is patched after it made its client: its first event is lost and counted, and nothing starts."""
    source = """
import types
client = new_client()
sys.modules["gevent.monkey"] = types.SimpleNamespace(is_module_patched=lambda _: True)
assert client.capture("event", distinct_id="me") is None
assert client.capture("event", distinct_id="me") is None
assert (client.disabled, client.stats.captured, client.stats.dropped, threading.active_count()) == (True, 1, 1, 1)
"""
    hosts.assert_runs(source)
    assert hosts.server.connection_count == 0


def test_no_key(hosts: Hosts) -> None:
    """A build without an API key sends nothing and starts nothing."""
    no_key = "atotelemetry.TelemetryClient('', os.environ['TEST_SERVER'])"
    hosts.assert_runs(
        LISTEN + CAPTURE.replace("new_client()", no_key), stdout="telemetry is off: no api_key or no host\n"
    )
    assert hosts.server.connection_count == 0


@pytest.mark.parametrize("situation", ["gone", "broken"])
def test_interpreter_that_does_not_start(
    hosts: Hosts, situation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The interpreter was uninstalled while the host ran, or ends at once: telemetry gives up after a few attempts."""
    place = tmp_path_factory.mktemp("bin")
    interpreter = program_that_exits(place / "broken") if situation == "broken" else str(place / "python")
    source = f"""
sys.executable = sys._base_executable = {interpreter!r}
client = new_client()
def capture_until_given_up():
    client.capture("lost", distinct_id="me")
    return "gave up" in client.stats.dropped_by_reason
wait_until(capture_until_given_up)
wait_until(lambda: client.stats.queued == 0)
stats = client.stats
assert not client.disabled and client.flush(delivered=True) is False, stats
assert stats.captured == stats.handed_over + stats.dropped, stats
assert stats.handed_over == stats.lost, stats
print(*[line for line in heard if line.startswith("telemetry gave up")], sep="\\n")
"""
    done = hosts.assert_runs(LISTEN + source, stdout=None)
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("telemetry gave up: ")
    assert hosts.server.connection_count == 0


def test_sender_starts_no_sender(hosts: Hosts) -> None:
    """Code that a sender runs (git's hooks, an installed package) cannot start another one, whatever it captures."""
    source = """
import subprocess
captures = "import sys, atotelemetry as a; c = a.TelemetryClient('k', sys.argv[1]); c.capture('x'); c.flush()"
environment = {**os.environ, "ATO_TELEMETRY_SENDER": "1"}
subprocess.run([sys.executable, "-c", captures, os.environ["TEST_SERVER"]], env=environment, check=True)
client = new_client()
client.capture("the host's own", distinct_id="me")
"""
    hosts.assert_runs(source, arrived=["the host's own"])
