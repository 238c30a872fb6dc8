"""A test's own processes, known by a mark in their environment.

Every test has a mark of its own. Its processes inherit it, and so do their senders, which are nobody's children. Tests
run in parallel, so nothing here counts all processes of the machine or asks for a parent.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MARK = "TEST_OF_ATOTELEMETRY"
SENDER_MARK = b"ATO_TELEMETRY_SENDER=1"

# Everything that a test waits for happens within a second on an idle machine; this is for a busy one.
PATIENCE = float(os.environ.get("HAZARD_PATIENCE", "30"))


MEET = """
import sys
def meet():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def run_at_once(source: str, *runs: Sequence[str]) -> list[str]:
    """Run a Python program once with each of these arguments; return what each run printed after its `meet()`.

    Each waits there until all have come so far.
    """
    command = [sys.executable, "-c", MEET + source]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, *arguments], **pipes) for arguments in runs]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_until(condition: Callable[[], object], told: Callable[[], object] = str, timeout: float = PATIENCE) -> None:
    """Wait for what another process or thread does; `told` describes the state when it is waited for in vain."""
    ends_at = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends_at, f"waited {timeout:g} s in vain: {told()}"
        time.sleep(0.002)


def new_mark() -> str:
    """Return a mark of its own for a test, or for a part of one. It starts with the run's, if there is one."""
    return f"{os.environ.get(MARK, '').partition('/')[0]}/{uuid.uuid4().hex}"


def marked(mark: str | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Find every process whose mark starts with this one, by default with the test's: its id and its environment.

    Zombies have no environment and are not found. Without /proc nothing is.
    """
    wanted = f"{MARK}={os.environ[MARK] if mark is None else mark}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            try:
                environ = environment_of(name).split(b"\0")
            except OSError:
                continue  # it has ended, or is somebody else's
            if any(entry.startswith(wanted) for entry in environ):
                yield int(name), environ


def senders(mark: str | None = None) -> list[int]:
    """Return the process ids of the senders with this mark, and of their own children.

    Not of the process that a host spawned: it leads a session, and leaves it to the sender at once.
    """
    return [pid for pid, environ in marked(mark) if SENDER_MARK in environ and not _leads_a_session(pid)]


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def wait_for_senders(count: int = 1, mark: str | None = None) -> list[int]:
    """Wait until at least so many senders run; return their process ids."""
    found: list[int] = []

    def enough() -> bool:
        found[:] = senders(mark)
        return len(found) >= count

    wait_until(enough, lambda: found)
    return found


def wait_until_no_sender(mark: str | None = None, timeout: float = PATIENCE) -> None:
    """Wait until the senders with this mark have ended, also those that are about to fork."""
    ends_at = time.monotonic() + timeout
    looks = 0
    while looks < 2:
        pids = [pid for pid, environ in marked(mark) if SENDER_MARK in environ]
        looks = 0 if pids else looks + 1
        for pid in pids:
            assert wait_for_end(pid, ends_at - time.monotonic()), f"sender {pid} still runs: {describe(pid)}"


def environment_of(pid: str) -> bytes:
    """Return the environment of a process, from `/proc`.

    In the middle of an `execve`, which on a busy machine may take its time, it has neither environment nor arguments;
    it must not be taken for a stranger's.
    """
    process = Path("/proc", pid)
    ends_at = time.monotonic() + PATIENCE
    while True:
        environ = (process / "environ").read_bytes()
        if environ or (process / "cmdline").read_bytes() or time.monotonic() > ends_at:
            return environ
        (process / "exe").readlink()  # the kernel's own and zombies have none, and that raises
        time.sleep(0.001)


def wait_for_end(pid: int, timeout: float) -> bool:
    """Wait until a process that need not be ours has ended; False when it still runs after `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))
    finally:
        os.close(handle)


def describe(pid: int) -> str:
    """Return the state of a process (R, S, T, Z, …) and its command line; an empty text when there is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return f"{state} {command}"
