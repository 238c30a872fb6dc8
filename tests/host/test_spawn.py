"""Starting a sender: what it inherits, what it does not, and what the host keeps of it. Real processes throughout."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from atotelemetry.host import spawn
from atotelemetry.host.child import GONE, Sender
from atotelemetry.host.spawn import (
    SENDER_MARK,
    import_path,
    start_sender,
)
from support_hosts import needs_proc
from support_processes import wait_until

SIGTERM_MASK = 1 << signal.SIGTERM - 1  # the sender waits for it on a thread of its own


NICENESS = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19) if hasattr(os, "getpriority") else 0


pytestmark = pytest.mark.posix("descriptors and signals; hazards/test_windows.py holds the other half")


def status(pid: int) -> dict[str, str]:
    """Read what the kernel says about a process: its state, its signals, its parent."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    """Read what a process has open."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def looked(sender: Sender) -> Sender:
    """Let a sender read its answers and reap, as the feeder does now and then."""
    sender.look()
    return sender


def members(group: int) -> list[int]:
    """Find the processes of a group."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(int(name))
    return found


def reads(pid: int) -> str:
    """Return what a process has as its standard input."""
    try:
        return os.readlink(f"/proc/{pid}/fd/0")
    except OSError:
        return ""


def settled(sender: Sender) -> int:
    """Wait until a sender has let go of the host and reads its input; return its process id."""
    wait_until(lambda: looked(sender).ready)
    (pid,) = members(sender.group)
    return pid


@pytest.fixture
def start():
    """Return a function that starts a sender; after the test each is gone."""
    started: list[Sender] = []

    def begin() -> Sender:
        started.append(start_sender())
        return started[-1]

    yield begin
    for sender in started:
        sender.close()
    for sender in started:
        wait_until(lambda sender=sender: looked(sender).life == GONE)
        wait_until(lambda sender=sender: looked(sender).reaped)
        wait_until(lambda sender=sender: not members(sender.group))


# The child as it is


@needs_proc
def test_the_command_line_says_nothing_about_the_run(start):
    """Interpreter and module, safe path, no `site`; no key, no event, nothing that `ps` should not show."""
    pid = settled(start())
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    assert [argument.decode() for argument in arguments] == [
        *(sys.executable, "-P", "-S", "-m", "atotelemetry.sender", "--detached"),
    ]
    environment = dict(
        entry.split(b"=", 1) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry
    )
    assert environment[SENDER_MARK.encode()] == b"1"
    assert environment[b"PYTHONPATH"].decode().split(os.pathsep) == import_path()


def test_a_relative_interpreter_is_the_one_that_the_host_was_started_with(monkeypatch, start, tmp_path):
    """Wherever the host has gone meanwhile."""
    monkeypatch.setattr(spawn, "_START_DIRECTORY", os.path.dirname(sys.executable))
    monkeypatch.setattr(sys, "executable", os.path.basename(sys.executable))
    monkeypatch.chdir(tmp_path)
    sender = start()
    wait_until(lambda: looked(sender).ready)


@needs_proc
def test_the_sender_is_nobodys_child_in_a_session_of_its_own(start):
    """No terminal, no process group of the host's; and what was spawned is reaped long before it ends."""
    sender = start()
    pid = settled(sender)
    assert (os.getsid(pid), os.getpgid(pid)) == (sender.group, sender.group)
    assert pid != sender.group
    wait_until(lambda: looked(sender).left_alone)
    assert sender.reaped
    assert int(status(pid)["PPid"]) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(sender.group, os.WNOHANG)


@needs_proc
def test_the_sender_holds_nothing_of_the_hosts(start):
    """Its stdin is the pipe, its output the null device; what the host made inheritable is closed, too."""
    ends = os.pipe()
    try:
        for end in ends:
            os.set_inheritable(end, True)
        sender = start()
        theirs = descriptors(settled(sender))
        mine = descriptors(os.getpid())
        assert theirs[0] == mine[sender.pipe], "stdin is the other end of the pipe"
        assert theirs[1] == theirs[2] == os.devnull
        assert mine[ends[0]] not in theirs.values()
        answers = {name for name in theirs.values() if name.startswith(("pipe:", "socket:"))} - {theirs[0]}
        assert len(answers) == 1
        assert answers < set(mine.values())
        assert not os.get_blocking(sender.pipe)
    finally:
        for end in ends:
            os.close(end)
    assert not os.get_inheritable(sender.pipe)


@needs_proc
@pytest.mark.parametrize("close_from", [True, False])
def test_the_hosts_output_ends_with_the_host(monkeypatch, start, close_from):
    """Who reads an inheritable pipe of the host's sees its end at once: the spawn itself closes it."""
    if not close_from:
        monkeypatch.delattr("posix.POSIX_SPAWN_CLOSEFROM", raising=False)
    monkeypatch.setattr(sys, "executable", shutil.which("sleep"))  # so that nothing but the spawn can have closed it
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    sender = spawn._start_posix([shutil.which("sleep"), "20"], dict(os.environ))
    os.close(write_end)
    try:
        assert os.read(read_end, 1) == b""
        assert not looked(sender).left_alone
    finally:
        os.close(read_end)
        sender.close()
        os.kill(sender.group, signal.SIGKILL)
        wait_until(lambda: looked(sender).reaped)
        sender.abandon()


@needs_proc
def test_the_sender_is_no_burden_and_hears_no_ctrl_c(start):
    """It lowers its priority, ignores SIGINT and SIGHUP, blocks no signal, and works outside the host's directory."""
    pid = settled(start())
    known = status(pid)
    ignored = int(known["SigIgn"], 16)
    assert ignored & (1 << signal.SIGINT - 1)
    assert ignored & (1 << signal.SIGHUP - 1)
    assert not ignored & (1 << signal.SIGTERM - 1), "whoever means it can end it"
    assert int(known["SigBlk"], 16) & ~SIGTERM_MASK == 0
    assert os.getpriority(os.PRIO_PROCESS, pid) == NICENESS
    assert os.readlink(f"/proc/{pid}/cwd") in (os.sep, tempfile.gettempdir())
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert status(pid)["Name"]


@needs_proc
def test_signals_blocked_in_the_feeder_are_not_blocked_in_its_child(start):
    """The thread that starts senders blocks every signal; a child that inherited that could only be killed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        sender = start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert int(status(settled(sender))["SigBlk"], 16) & ~SIGTERM_MASK == 0


def test_a_sender_whose_input_ends_says_its_last_words(start):
    """Then it is gone, though nobody waited for it; a second close is nothing."""
    sender = start()
    sender.close()
    sender.close()
    assert sender.pipe == -1
    wait_until(lambda: looked(sender).life == GONE)
    assert (sender.ready, sender.lost) == (True, {})


@needs_proc
def test_a_sender_that_was_killed_is_known_to_have_died(start):
    """Its answers end without last words: the events that it was given are lost."""
    sender = start()
    sender.given = 3
    os.kill(settled(sender), signal.SIGKILL)
    wait_until(lambda: looked(sender).life == GONE)
    assert sender.lost == {"sender died": 3}


def test_a_process_that_somebody_else_reaped_is_reaped(start):
    """A host that waits for any child takes ours, too."""
    sender = start()
    os.waitpid(sender.group, 0)
    assert looked(sender).reaped


def test_a_pipe_that_somebody_else_closed_is_closed(start):
    """A host that closes descriptors it did not open does not make us raise, nor close what it opened there."""
    sender = start()
    os.close(sender.pipe)
    os.close(sender._answers)
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    assert sender.pipe == -1
    sender.close()
    sender.look()
    assert sender.life == GONE
    for descriptor in others:
        os.close(descriptor)


@needs_proc
@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)], ids=str)
def test_a_host_without_standard_streams_gets_a_pipe_beside_them(closed):
    """The pipe never takes the number of a closed stdin, stdout or stderr, where a library might write."""
    program = f"""
import os
saved = os.dup(2)
for number in {closed!r}:
    os.close(number)
from atotelemetry.host.spawn import start_sender
sender = start_sender()
free = []
for number in {closed!r}:
    try:
        os.fstat(number)
    except OSError:
        free.append(number)
good = sender.pipe > 2 and free == list({closed!r}) and not os.get_inheritable(sender.pipe)
sender.close()
os.write(saved, b"good" if good else repr((sender.pipe, free)).encode())
os._exit(os.waitstatus_to_exitcode(os.waitpid(sender.group, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"good")


@needs_proc
@pytest.mark.parametrize(
    "error", [NotImplementedError("setsid"), PermissionError(errno.EPERM, "seccomp"), OSError(errno.ENOSYS, "seccomp")]
)
def test_where_setsid_is_refused_the_sender_makes_its_own_session(monkeypatch, start, error):
    """An old C library cannot do it on the way, a sandbox may not; the child tries when it starts."""
    posix_spawn = os.posix_spawn

    def refusing(*arguments: object, **options: object) -> int:
        if "setsid" in options:
            raise error
        return posix_spawn(*arguments, **options)

    monkeypatch.setattr("posix.posix_spawn", refusing)
    sender = start()
    wait_until(lambda: looked(sender).ready)
    pipe = descriptors(os.getpid())[sender.pipe]
    (pid,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if reads(pid) == pipe]
    assert os.getsid(pid) == pid
