"""A test's own processes, known by a mark in their environment.

Every test has a mark of its own. Its processes inherit it, and so do their senders, which are nobody's children. Tests
run in parallel, so nothing here counts all processes of the machine or asks for a parent. On Linux the environment is
read from `/proc`, on Windows from the process's memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

if sys.platform == "win32":
    from tests import support_win32  # as `make demo` finds it, too

CAN_FIND = sys.platform == "win32" or os.path.isdir("/proc/self/fd")
MARK = "TEST_OF_ATOTELEMETRY"
SENDER_MARK = b"ATO_TELEMETRY_SENDER=1"

# Everything that a test waits for happens within a second on an idle machine; this is for a busy one, and for Wine.
PATIENCE = float(os.environ.get("HAZARD_PATIENCE", "60" if sys.platform == "win32" else "30"))


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


def happens(condition: Callable[[], object], timeout: float = PATIENCE) -> bool:
    """Wait for what another process or thread does; False when it does not happen in time."""
    ends_at = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.002)
    return True


def wait_until(condition: Callable[[], object], told: Callable[[], object] = str, timeout: float = PATIENCE) -> None:
    """Wait for what another process or thread does; `told` describes the state when it is waited for in vain."""
    assert happens(condition, timeout), f"waited {timeout:g} s in vain: {told()}"


def run_python(program: str, *arguments: str, options: Sequence[str] = (), **more: Any) -> str:
    """Run a program in an interpreter of its own: it ends with 0 and says nothing on stderr. Return what it printed.

    `options` are the interpreter's, `more` is for `subprocess.run`.
    """
    command = [sys.executable, *options, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


SLOWER = 3 if sys.platform == "win32" else 1
"""How often longer things may take: Wine, beside other workers."""


def new_mark() -> str:
    """Return a mark of its own for a test, or for a part of one. It starts with the run's, if there is one."""
    return f"{os.environ.get(MARK, '').partition('/')[0]}/{uuid.uuid4().hex}"


def marked(mark: str | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Find every process whose mark starts with this one, by default with the test's: its id and its environment.

    Zombies have no environment and are not found. Where `CAN_FIND` is False nothing is.
    """
    wanted = f"{MARK}={os.environ[MARK] if mark is None else mark}".encode()
    for pid in _candidates():
        try:
            environ = environment_of(pid)
        except OSError:
            continue  # it has ended, or is somebody else's
        if any(entry.startswith(wanted) for entry in environ):
            yield pid, environ


def _candidates() -> list[int]:
    if sys.platform == "win32":
        return support_win32.pythons()
    names = os.listdir("/proc") if os.path.isdir("/proc") else ()
    return [int(name) for name in names if name.isdigit() and int(name) != os.getpid()]


def senders(mark: str | None = None) -> list[int]:
    """Return the process ids of the senders with this mark, and of their own children.

    Not of the process that a host spawned: it leads a session, and leaves it to the sender at once.
    """
    return [pid for pid, environ in marked(mark) if SENDER_MARK in environ and not _leads_a_session(pid)]


def _leads_a_session(pid: int) -> bool:
    if sys.platform == "win32":
        return False
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


def environment_of(pid: int) -> list[bytes]:
    """Return the environment of a process; raises `OSError` when it has ended.

    In the middle of an `execve`, which on a busy machine may take its time, it has neither environment nor arguments;
    it must not be taken for a stranger's.
    """
    if sys.platform == "win32":
        with support_win32.Process(pid) as found:
            return [entry.encode("utf-8", "surrogatepass") for entry in found.strings()[1]]
    process = Path("/proc", str(pid))
    ends_at = time.monotonic() + PATIENCE
    while True:
        environ = (process / "environ").read_bytes()
        if environ or (process / "cmdline").read_bytes() or time.monotonic() > ends_at:
            return environ.split(b"\0")
        (process / "exe").readlink()  # the kernel's own and zombies have none, and that raises
        time.sleep(0.001)


def wait_for_end(pid: int, timeout: float) -> bool:
    """Wait until a process that need not be ours has ended; False when it still runs after `timeout` seconds."""
    if sys.platform == "win32":
        with support_win32.Process(pid) as process:
            return process.wait(timeout)
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
        if sys.platform == "win32":
            with support_win32.Process(pid) as process:
                return f"? {process.strings()[0]}"
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return f"{state} {command}"


def kill(pid: int) -> None:
    """End a process as nothing can prevent; nothing happens when it has ended."""
    if sys.platform == "win32":
        with support_win32.Process(pid) as process:
            process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """Stop a process, which then does nothing until `go_on`; nothing happens when it has ended."""
    if sys.platform == "win32":
        with support_win32.Process(pid) as process:
            process.suspend()
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: describe(pid)[:1] in ("T", "Z", "X", ""), lambda: describe(pid))


def go_on(pid: int) -> None:
    """Take back a `stop`, also one that is not carried out yet; nothing happens when the process has ended."""
    if sys.platform == "win32":
        with support_win32.Process(pid) as process:
            process.resume()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
