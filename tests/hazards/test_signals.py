"""The host dies, in every way a process can die: what was handed over before is delivered, once.

"Handed over" is a moment after `capture`: when the feeder has written the event into the pipe. From there on it is the
sender's, and nothing that happens to the host, to its terminal or to its process group reaches that one.
"""

from __future__ import annotations

import os
import signal

import pytest

from support_hosts import needs_proc, read_to_end

pytestmark = [needs_proc, pytest.mark.posix("signals; test_windows.py has the ends of a host there")]

# No core file from the hosts that crash.
CAPTURES_THREE = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
client = new_client()
for number in range(3):
    client.capture(f"event {number}", distinct_id="me", properties={"number": number})
handed_over(client, 3)
"""
THREE = ("event 0", "event 1", "event 2")

WAYS_TO_DIE = {
    "os._exit": ("os._exit(7)", 7),
    "os.abort": ("os.abort()", -signal.SIGABRT),
    "SIGKILL to itself": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    "segfault": ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
    "exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", 5),
}


def press_ctrl_c(terminal: int) -> bytes:
    """Press Ctrl-C once the host says that it is ready; return everything that is shown after that."""
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    return read_to_end(terminal)


@pytest.mark.parametrize("way", WAYS_TO_DIE)
def test_a_host_that_ends_without_saying_goodbye_loses_nothing(hosts, way):
    """A CLI that leaves by `os._exit`, crashes, or becomes another program: all it captured before arrives, once."""
    last_act, returncode = WAYS_TO_DIE[way]
    hosts.assert_runs(CAPTURES_THREE + last_act, returncode=returncode, arrived=THREE)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGQUIT"])
def test_a_host_that_is_killed_loses_nothing(hosts, name):
    """Somebody (a CI runner, the out-of-memory killer, a supervisor) kills the CLI: all it captured before arrives."""
    number = getattr(signal, name)
    host = hosts.start(CAPTURES_THREE + "say('ready'); hear()")
    assert host.hear() == "ready"
    host.send(number)
    done = host.finish()
    assert (done.returncode, done.stderr) == (-number, "")
    hosts.assert_arrived_once(*THREE)


def test_a_killed_process_group_does_not_include_the_sender(hosts):
    """`timeout`, `kill -- -PGID` and CI runners kill the whole group at once, while the sender still starts."""
    command = hosts.command(CAPTURES_THREE + "say('ready'); hear()")
    host = hosts.start_command(command, new_session=True)
    assert host.hear() == "ready"
    os.killpg(host.pid, signal.SIGKILL)
    assert host.finish().returncode == -signal.SIGKILL
    hosts.assert_arrived_once(*THREE)


def test_what_a_host_killed_in_full_stride_had_handed_over_arrives(hosts):
    """SIGKILL in the middle of a stream of events: those handed over arrive without a gap, none twice.

    The one that was being written is cut off; it costs itself alone.
    """
    host = hosts.start(
        """
client = new_client()
number = 0
while True:
    if client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 2000}):
        number += 1
    if number % 100 == 0:
        say(client.stats.handed_over)
"""
    )
    while int(host.hear()) < 200:
        pass
    host.process.kill()
    rest = host.finish().stdout.split("\n")
    handed_over = max([200, *(int(line) for line in rest[:-1] if line)])
    hosts.wait_until_no_sender()
    arrived = [event["event"] for event in hosts.server.events]
    assert len(arrived) >= handed_over
    assert sorted(arrived, key=lambda name: int(name.split()[1])) == [f"event {i}" for i in range(len(arrived))]


def test_ctrl_c_kills_the_cli_but_not_its_telemetry(hosts):
    """Ctrl-C at a terminal goes to every process of the foreground group: the CLI ends, its events arrive.

    The key is pressed at once: the sender is still starting and has not been able to ignore anything.
    """
    source = CAPTURES_THREE + "say('ready')\nsignal.pause()"
    host, terminal = hosts.start_on_terminal(hosts.command(source), environment={"NO_COLOR": "1"})
    with os.fdopen(terminal, "rb", buffering=0):
        shown = press_ctrl_c(terminal)
        returncode = host.finish().returncode
    assert shown.count(b"Traceback") == shown.count(b"\nKeyboardInterrupt") == 1  # the host's own
    assert returncode == -signal.SIGINT
    hosts.assert_arrived_once(*THREE)


def test_ctrl_c_in_a_pipeline_with_an_event_captured_on_the_way_out(hosts):
    """Ctrl-C at `cli | cat`: the event about the interruption itself arrives, too."""
    source = CAPTURES_THREE + (
        """
try:
    say('ready')
    signal.pause()
except KeyboardInterrupt:
    client.capture("interrupted", distinct_id="me")
    sys.exit(130)
"""
    )
    python, script = hosts.command(source)
    host, terminal = hosts.start_on_terminal(["/bin/sh", "-c", '"$0" "$1" | { trap "" INT; cat; }', python, script])
    with os.fdopen(terminal, "rb", buffering=0):
        shown = press_ctrl_c(terminal)
        host.finish()
    assert b"Traceback" not in shown
    hosts.assert_arrived_once(*THREE, "interrupted")


def test_a_closed_terminal_window_does_not_take_the_telemetry_with_it(hosts):
    """The terminal window is closed: SIGHUP ends the CLI, its events arrive."""
    source = CAPTURES_THREE + "say('ready')\nsignal.pause()"
    host, terminal = hosts.start_on_terminal(hosts.command(source))
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    assert host.finish().returncode == -signal.SIGHUP
    hosts.assert_arrived_once(*THREE)


def test_signals_that_a_host_ignores_or_blocks_are_its_own(hosts):
    """A host that ignores SIGCHLD and SIGTERM, blocks SIGALRM and has a handler for SIGUSR1 keeps all of that."""
    hosts.assert_runs(
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread() is threading.main_thread()))
before = [signal.getsignal(number) for number in signal.valid_signals()]
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
os.kill(os.getpid(), signal.SIGUSR1)
wait_until(lambda: seen)
client.flush()
say(seen, [signal.getsignal(number) for number in signal.valid_signals()] == before)
say(signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGALRM})
""",
        stdout="[True] True\nTrue\n",
        arrived=["one"],
    )


def test_a_host_that_waits_for_a_signal_by_sigwait_gets_it(hosts):
    """A host that blocks a signal to wait for it (`sigwait`, signalfd) is not killed by it through a thread of ours."""
    host = hosts.start(
        """
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
say("ready")
hear()
say(signal.sigwait([signal.SIGUSR1]).name)
"""
    )
    assert host.hear() == "ready"
    # Its only thread that has not blocked the signal would get it, and the default is to end the process.
    host.send(signal.SIGUSR1)
    host.tell()
    host.assert_ends(stdout="SIGUSR1\n")
    hosts.assert_arrived_once("one")


def test_the_sender_is_no_part_of_the_hosts_session(hosts):
    """From the first moment the sender leads a session of its own, where no terminal reaches it."""
    host = hosts.start(
        """
import posix
start = posix.posix_spawn
def spawn_and_look(*arguments, **options):
    pid = start(*arguments, **options)
    say(os.getsid(pid) == os.getpgid(pid) == pid)
    return pid
posix.posix_spawn = spawn_and_look
client = new_client()
client.capture("one", distinct_id="me")
"""
    )
    host.assert_ends(stdout="True\n")
    hosts.assert_arrived_once("one")
