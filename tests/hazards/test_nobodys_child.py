"""The sender is nobody's child and holds nothing of its host's: hosts that look after their children never meet it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from atotelemetry.testing import Answer
from support_hosts import children, needs_senders

if TYPE_CHECKING:
    from pathlib import Path

    from support_hosts import Hosts

pytestmark = needs_senders

CHILDLESS = """
def childless():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False
"""

# A host that waits for all its children; `started` is there to be waited for.
WAIT_FOR_ALL = """
def wait_for_all(started):
    met = []
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            break
        if pid in started:
            met.append(started[pid] == os.waitstatus_to_exitcode(status))
    return met

def child_that_exits(code):
    pid = os.fork()
    if not pid:
        os._exit(code)
    return pid
"""


@pytest.mark.posix("forks")
def test_a_host_that_waits_for_all_its_children(hosts: Hosts) -> None:
    """It ends when its children end, while the sender waits for a server that hangs; also with forks around events."""
    hosts.server.respond(Answer(hang=True))
    source = """
client = new_client()
client.capture("before", distinct_id="me")
handed_over(client, 1)
started = {child_that_exits(7): 7}
client.capture("after", distinct_id="me")
handed_over(client, 2)
started[child_that_exits(0)] = 0
began = time.monotonic()
say(wait_for_all(started), time.monotonic() - began < 3)
hear()
"""
    host = hosts.start(WAIT_FOR_ALL + source)
    assert host.hear() == "[True, True] True"
    assert len(hosts.wait_for_senders()) == 1
    host.assert_ends()


@pytest.mark.posix("SIGCHLD")
def test_a_host_meets_at_most_one_signal_and_no_process(hosts: Hosts) -> None:
    """A handler for SIGCHLD hears of the spawned process once, and finds only children of its own."""
    source = """
heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
client = new_client()
client.capture("one", distinct_id="me")
assert client.flush(20, delivered=True)
wait_until(lambda: len(heard) == 1)
try:
    os.waitpid(-1, os.WNOHANG)
    say("a child")
except ChildProcessError:
    say("none")
"""
    hosts.assert_runs(source, stdout="none\n", arrived=["one"])


@pytest.mark.posix("zombies")
def test_exec_after_a_flush_leaves_no_zombie(hosts: Hosts) -> None:
    """A launcher that captures, flushes and becomes another program hands no child over to it."""
    source = """
client = new_client()
client.capture("one", distinct_id="me")
client.flush()
wait_until(childless)  # a busy machine takes longer than a flush waits
os.execv("/bin/sh", ["sh", "-c", "echo became; read line"])
"""
    host = hosts.start(CHILDLESS + source)
    assert host.hear() == "became"
    assert children(host.pid) == {}
    host.tell()
    host.assert_ends()
    hosts.assert_arrived_once("one")


@pytest.mark.posix("zombies")
def test_a_flush_waits_for_the_spawned_process_to_leave(hosts: Hosts) -> None:
    """Not for long; on a machine that is not busy that is enough."""
    source = """
client = new_client()
left = 0
for number in range(10):
    client.capture("one", distinct_id="me")
    began = time.monotonic()
    client.flush()
    left += childless()
say(left > 0)
"""
    hosts.assert_runs(CHILDLESS + source, stdout="True\n")
    hosts.wait_until_no_sender()


@pytest.mark.posix("SIGCHLD")
def test_asyncio_knows_only_the_hosts_children(hosts: Hosts) -> None:
    """A server on asyncio starts subprocesses while senders come and go: no word about an unknown child."""
    source = """
import asyncio, logging
logging.basicConfig()
client = new_client()
async def main():
    codes = []
    for number in range(5):
        client.capture("one", distinct_id="me")
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}")
        client.flush()
        codes.append(await process.wait())
    return codes
say(asyncio.run(main()))
"""
    hosts.assert_runs(source, stdout="[0, 1, 2, 3, 4]\n", arrived=["one"] * 5)


@pytest.mark.posix("reapers")
def test_a_subreaper_gets_the_sender_back_and_reaps_it(hosts: Hosts) -> None:
    """A service manager of its own, as PID 1 is: no zombie is left of a sender that has ended."""
    source = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
client = new_client()
client.capture("one", distinct_id="me")
assert client.flush(20, delivered=True)
say("delivered")
hear()
"""
    if sys.platform != "linux":
        pytest.skip("only Linux has subreapers")
    host = hosts.start(source)
    assert host.hear() == "delivered"
    host.wait_for_children()
    host.assert_ends()
    hosts.assert_arrived_once("one")


@pytest.mark.posix("functions of os that start processes")
def test_a_debugger_that_follows_child_processes_does_not_follow_the_sender(hosts: Hosts) -> None:
    """Such a tool replaces the functions of `os` that start processes."""
    source = """
def traced(*_, **__):
    raise RuntimeError("traced")
for name in ("posix_spawn", "posix_spawnp", "fork", "execv", "execve", "spawnv"):
    setattr(os, name, traced)
client = new_client()
client.capture("one", distinct_id="me")
say(client.flush(20, delivered=True))
"""
    hosts.assert_runs(source, stdout="True\n")


# Lets every system call through but `setsid`, which fails with EPERM (seccomp(2), linux/filter.h, linux/audit.h).
NO_SETSID = """
import ctypes, platform, struct
number = {"x86_64": 112, "aarch64": 157}[platform.machine()]
program = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0),            # load the number of the system call
    (0x15, 0, 1, number),       # setsid?
    (0x06, 0, 0, 0x00050001),   # then fail with errno 1
    (0x06, 0, 0, 0x7FFF0000),   # else allow
))
code = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
assert libc.prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
try:
    os.setsid()
except PermissionError:
    pass
else:
    sys.exit("setsid was not refused")
"""


@pytest.mark.posix("sessions")
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"), reason="seccomp")
def test_a_sandbox_that_refuses_setsid(hosts: Hosts) -> None:
    """The sender does without a session of its own."""
    source = 'client = new_client()\nclient.capture("one", distinct_id="me")\nsay(client.flush(20, delivered=True))\n'
    hosts.assert_runs(NO_SETSID + source, stdout="True\n", arrived=["one"])


# Nothing is held


CLI = 'client = new_client()\nclient.capture("one", distinct_id="me")\n'


@pytest.mark.posix("flock")
@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here")
def test_a_lock_that_the_caller_passes_on_is_free_at_once(hosts: Hosts, tmp_path: Path) -> None:
    """`flock -n lock cli`, run again and again: never "already locked", though senders of earlier runs still live."""
    hosts.server.respond(Answer(hang=True))
    command = hosts.command(CLI)
    codes = [
        hosts.run_command(["flock", "-n", "-E", "9", str(tmp_path / "lock"), *command]).returncode for _ in range(6)
    ]
    assert codes == [0] * 6
    assert hosts.senders()


def test_a_listening_socket_of_the_host_can_be_bound_again_at_once(hosts: Hosts) -> None:
    """A server that restarts itself passes its socket on; when it has ended, the port is free."""
    hosts.server.respond(Answer(hang=True))
    source = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
listener.set_inheritable(True)
say(listener.getsockname()[1])
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
"""
    for _ in range(3):
        done = hosts.assert_runs(source, stdout=None)
        with socket.create_server(("127.0.0.1", int(done.stdout)), reuse_port=False):
            pass
    assert hosts.senders()


@pytest.mark.posix("mounts")
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs a mount namespace")
def test_the_hosts_directory_can_be_unmounted_at_once(hosts: Hosts, tmp_path: Path) -> None:
    """A tool that lies and runs on a drive: when it has ended the drive can be taken away, though its sender lives."""
    hosts.server.respond(Answer(hang=True))
    (tmp_path / "drive").mkdir()
    script = hosts.script(CLI)
    steps = f"""
mount -t tmpfs tmpfs {tmp_path}/drive || exit 42
cd {tmp_path}/drive && cp {script} tool.py && {sys.executable} tool.py || exit 1
cd / && for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    umount {tmp_path}/drive 2>/dev/null && echo unmounted && break
    sleep 0.05
done
"""
    done = hosts.run_command(["unshare", "--mount", "sh", "-c", steps])
    if done.returncode == 42 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "unmounted\n", "")
    assert hosts.wait_for_senders()


# Many clients, many interpreters


def test_forgotten_clients_end_their_threads_and_pipes(hosts: Hosts) -> None:
    """A program that makes a client for each job: what it captured arrives, and nothing of them is left."""
    source = """
import _thread, gc
def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self") else 0
before = descriptors()
for number in range(20):
    new_client().capture("one", distinct_id="me")
gc.collect()
wait_until(lambda: not _thread._count())
wait_until(lambda: descriptors() <= before)
say("alone")
hear()
"""
    host = hosts.start(source)
    assert host.hear() == "alone"
    hosts.wait_until_no_sender()
    host.assert_ends()
    hosts.assert_arrived_once(*["one"] * 20)


INTERPRETERS = """
try:
    import _interpreters as interpreters  # from Python 3.13 on
    create = lambda legacy: interpreters.create("legacy" if legacy else "isolated")
except ImportError:
    import _xxsubinterpreters as interpreters
    create = lambda legacy: interpreters.create(isolated=not legacy)
inside = '''
import os, atotelemetry
client = atotelemetry.TelemetryClient("phc_test", os.environ["TEST_SERVER"])
client.capture("inside", distinct_id="me")
'''
"""


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "isolated"])
def test_a_sub_interpreter_that_captured_can_be_destroyed(hosts: Hosts, legacy: bool) -> None:
    """The process lives on, and so does the telemetry of the main interpreter; it is off in the others."""
    source = f"""
for number in range(3):
    made = create({legacy})
    error = interpreters.run_string(made, inside)
    interpreters.destroy(made)
client = new_client()
client.capture("outside", distinct_id="me")
say(client.flush(20, delivered=True))
"""
    done = hosts.run(INTERPRETERS + source)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"outside": 1}
