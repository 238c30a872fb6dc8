"""Starts one detached sender and holds what the host needs of it: a pipe to write to and an exit status to read.

Runs in the host, on the feeder thread (or on the exiting thread when no thread can be started any more). The only
place that knows about operating systems. On POSIX the child comes from `os.posix_spawn`: no import beyond `os`, no
copy of the host's memory, no Python code between fork and exec. On Windows it comes from `subprocess`, imported only
there.

The child is the host's own interpreter on the host's own packages, and nothing else of the host's: the null device for
output, its own session, none of the host's descriptors, no Python start-up hooks, nothing from the working directory.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["SENDER_MARK", "CannotSpawn", "Sender", "reason_not_to_spawn", "sender_environment", "start_sender"]

SENDER_MARK = "ATO_TELEMETRY_SENDER"
"""Set in the environment of every sender, so that a sender (and whatever it runs) never starts another."""

_WINDOWS = sys.platform == "win32"
_START_DIRECTORY = None
try:
    _START_DIRECTORY = os.getcwd()
except OSError:  # the directory was deleted: then nothing can be imported from it
    pass

# Environment variables about Python that only say *where* it is; all others change *how* it runs and stay behind.
_PYTHON_VARIABLES_KEPT = frozenset({"PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONPLATLIBDIR"})
_HOOK_VARIABLES = ("COV_CORE_", "COVERAGE_", "PYTEST_", "PYCHARM_", "PYDEVD_", "DEBUGPY_")

# winbase.h; `subprocess` has these names only on Windows, and the tests look at them everywhere.
_CREATE_NEW_PROCESS_GROUP = 0x00000200
_CREATE_NO_WINDOW = 0x08000000

_INTERPRETER_NAMES = ("python", "pypy", "graalpy")


class CannotSpawn(Exception):
    """No sender can be started from this process, now or ever; the text says why."""


class Sender:
    """One running sender: the write end of its stdin, and its exit status once it has one.

    Only the feeder writes and closes. `poll` may be called by any thread.
    """

    def __init__(self, pid: int, pipe: int, popen: Any = None) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self.reaped = False
        self.complete = False
        """Whether it was given all of its input, up to the `end`."""
        self._pipe = pipe
        self._identity = _identity(pipe)
        self._popen = popen
        self._reaping = allocate_lock()

    @property
    def pipe(self) -> int:
        """The descriptor to write to; -1 when it is closed.

        A host that closes every descriptor (to become a daemon) closes ours with them, and the next file that it opens
        has that number: no event may end up in there.
        """
        return self._pipe if self._popen is not None or _identity(self._pipe) == self._identity else -1

    def close(self) -> None:
        """Close the pipe: end of input for the sender."""
        pipe, self._pipe = self.pipe, -1
        if pipe < 0:
            return
        try:
            if self._popen is not None:
                self._popen.stdin.close()
            else:
                os.close(pipe)
        except OSError:
            # A host that closes descriptors it did not open got here first; closed is what we wanted.
            return

    def poll(self) -> bool:
        """Whether the sender has exited; reaps it. `exit_code` stays None where somebody else took the status."""
        if self.reaped or not self._reaping.acquire(False):  # another thread is at it
            return self.reaped
        try:
            if self._popen is not None:
                self.exit_code = self._popen.poll()
                self.reaped = self.exit_code is not None
            else:
                self._wait_posix()
            return self.reaped
        finally:
            self._reaping.release()

    def _wait_posix(self) -> None:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except OSError:
            # The host waits for any child, or ignores SIGCHLD: the sender is gone and its status with it.
            self.reaped = True
            return
        if pid:
            self.exit_code = os.waitstatus_to_exitcode(status)
            self.reaped = True


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return which file a descriptor leads to; None when it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def reason_not_to_spawn() -> str:
    """Why this process can never have a sender, or an empty string."""
    if os.environ.get(SENDER_MARK):
        return "this process is a sender, or was started by one"
    if getattr(sys, "frozen", False):
        return "frozen application: its executable is not a Python interpreter"
    executable = sys.executable
    if not executable:
        return "sys.executable is not known"
    # Embedding programs (application servers, CAD tools) put themselves into sys.executable: starting *that* again
    # would start a second server, not a sender.
    if not os.path.basename(executable).lower().startswith(_INTERPRETER_NAMES):
        return "sys.executable is not a Python interpreter"
    return ""


def start_sender() -> Sender:
    """Start a detached sender that reads from a new pipe.

    Raises `CannotSpawn` where it makes no sense to try again, and `OSError` where it may.
    """
    arguments = [sys.executable, "-P", "-S", "-m", "atotelemetry.sender"]
    environment = sender_environment(os.environ.copy(), import_path())
    if _WINDOWS:
        return _start_windows(arguments, environment)
    return _start_posix(arguments, environment)


def sender_environment(environ: dict[str, str], path: Iterable[str]) -> dict[str, str]:
    """Turn the host's environment into the sender's: proxies and certificates stay, hooks into Python go.

    PYTHONINSPECT, PYTHONSTARTUP, PYTHONWARNINGS and the like would change how the sender runs; coverage and debuggers
    would follow it. PYTHONPATH becomes the host's import path.
    """
    for name in list(environ):
        if name.startswith("PYTHON"):
            if name not in _PYTHON_VARIABLES_KEPT:
                del environ[name]
        elif name.startswith(_HOOK_VARIABLES):
            del environ[name]
    environ["PYTHONPATH"] = os.pathsep.join(path)
    environ[SENDER_MARK] = "1"
    return environ


def import_path() -> list[str]:
    """Return the directories that the sender imports from: the host's, without the working directory.

    The sender starts with `-S`, so that no `.pth` file or `sitecustomize` runs in it; everything it imports is found
    through this list. The standard library and the homes of this package and of msgspec come first: a file in a
    directory that the host put before them (beside its script, a `queue.py`) is never taken for one of ours. Raises
    `CannotSpawn` when this package itself lives in the working directory, which the sender must not import from.
    """
    forbidden = _known_as(_START_DIRECTORY) | _known_as(_current_directory())
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    library = os.path.dirname(os.path.abspath(os.__file__))
    wanted = [library, os.path.join(library, "lib-dynload"), own]
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and msgspec.__file__:
        wanted.append(os.path.dirname(os.path.dirname(os.path.abspath(msgspec.__file__))))
    # PWD is where a shell started the host: one that changed its directory before it loaded this module was there.
    shell = _known_as(os.environ.get("PWD"))
    # A relative entry means "relative to the working directory of that moment": a zipapp started by a relative name.
    others = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str) and entry]
    wanted += [entry for entry in others if shell.isdisjoint(_known_as(entry))]
    path: list[str] = []
    for entry in wanted:
        if entry not in path and os.pathsep not in entry and forbidden.isdisjoint(_known_as(entry)):
            path.append(entry)
    if own not in path:
        raise CannotSpawn("atotelemetry was imported from the working directory")
    if not os.path.exists(own):
        raise CannotSpawn("atotelemetry was imported through a path that no longer leads to it")
    return path


def _known_as(directory: str | None) -> set[object]:
    """Return what two names of one directory have in common: its name, and its number on the disk (symlinks)."""
    if not directory:
        return set()
    known: set[object] = {os.path.normcase(directory)}
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return known
    return known | {(status.st_dev, status.st_ino)}


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _start_posix(arguments: list[str], environment: Mapping[str, str]) -> Sender:
    read_end, write_end = _pipe_above_standard_streams()
    try:
        os.set_blocking(write_end, False)
        pid = _posix_spawn(arguments, environment, read_end)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Sender(pid, write_end)


def _posix_spawn(arguments: list[str], environment: Mapping[str, str], stdin: int) -> int:
    devnull = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)]
    # Without a null device, a pipe's read end refuses all output just as well.
    refuse = [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    # Descriptors that the host made inheritable would keep its `$(…)` and its sockets open. Where posix_spawn can close
    # them (Python 3.13 with a recent libc) no moment passes; elsewhere the sender's first act is to close them.
    close_from = [(os.POSIX_SPAWN_CLOSEFROM, 3)] if hasattr(os, "POSIX_SPAWN_CLOSEFROM") else []
    output = devnull if os.path.exists(os.devnull) else refuse
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, stdin, 0), *output, *close_from]

    def spawn(**options: Any) -> int:
        # The feeder blocks every signal; its child must not.
        return os.posix_spawn(arguments[0], arguments, environment, file_actions=actions, setsigmask=(), **options)

    try:
        return spawn(setsid=True)
    except NotImplementedError:
        return spawn()  # a libc without POSIX_SPAWN_SETSID: the sender makes its own session when it starts
    except FileNotFoundError:
        raise CannotSpawn("the interpreter is gone") from None


def _pipe_above_standard_streams() -> tuple[int, int]:
    """Make a pipe whose ends are no standard streams, also when the host has closed some of those.

    Otherwise a library that writes to descriptor 1 would write into our pipe.
    """
    ends = os.pipe()
    if min(ends) > 2:  # noqa: PLR2004 - stderr
        return ends
    import fcntl  # only a host without standard streams comes here

    try:
        read_end, write_end = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
        return read_end, write_end
    finally:
        for end in ends:
            os.close(end)


def _start_windows(arguments: list[str], environment: Mapping[str, str]) -> Sender:
    import subprocess  # costs milliseconds; only Windows needs it

    popen = subprocess.Popen(arguments, **windows_options(environment))
    assert popen.stdin is not None  # noqa: S101 - PIPE was asked for
    return Sender(popen.pid, popen.stdin.fileno(), popen)


def windows_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return `subprocess.Popen` options for a sender on Windows: no shell, no console window, none of its Ctrl-C."""
    import subprocess
    import tempfile

    return {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "bufsize": 0,
        "close_fds": True,
        "cwd": tempfile.gettempdir(),
        "env": environment,
        "creationflags": _CREATE_NO_WINDOW | _CREATE_NEW_PROCESS_GROUP,
    }
