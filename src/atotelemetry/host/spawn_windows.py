"""Starts one detached sender on Windows, and holds the pipes to it.

Runs in the host, on the feeder's thread (or on the exiting thread when no thread can be started any more). Loaded only
there. It needs the interpreter's built-in `_winapi` and nothing else. `subprocess` costs milliseconds and imports
`threading`. The thread that does so first becomes Python's "main thread", and until 3.12 the interpreter's exit waits
for it for ever.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.host.child import Sender

assert sys.platform == "win32"  # noqa: S101 - type checkers know `_winapi` only there

import _winapi  # noqa: E402 - known behind the assertion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WindowsSender", "interpreter", "start"]

_PIPE_BYTES = 64 * 1024  # as on Linux
_WRITE_BYTES = 16 * 1024  # a pipe that does not wait may refuse a write larger than its room as a whole
_LOOK_UP = 0.001  # how often to look whether a full pipe takes more: one cannot wait for that

# winbase.h, as far as `_winapi` does not know it
_PIPE_NOWAIT = 0x00000001
_GENERIC_WRITE = 0x40000000
_FILE_SHARE_READ_WRITE = 0x00000003
_CREATE_BREAKAWAY_FROM_JOB = 0x01000000

# The launcher of a virtual environment names itself to the interpreter by this variable.
_LAUNCHER_VARIABLE = "__PYVENV_LAUNCHER__"

# `python311._pth` beside an interpreter makes it ignore PYTHONPATH: the "embeddable package".
_WITH_PATH = "import os,sys;sys.path[:0]=os.environ['PYTHONPATH'].split(os.pathsep);import runpy;"
_WITH_PATH += "runpy.run_module('atotelemetry.sender',run_name='__main__',alter_sys=True)"


class WindowsSender(Sender):
    """A sender with handles for pipes. No descriptor belongs to them, so no host can close them with its own."""

    def __init__(self, pid: int, pipe: int, answers: int, process: int = 0) -> None:
        super().__init__(pid, pipe, answers)
        self._process = process
        self.left_alone = self.reaped = True  # Windows has no zombies

    def abandon(self, reason: str = "no answer") -> None:
        """Listen no longer, and let go of the process."""
        super().abandon(reason)
        process, self._process = self._process, 0
        if process:
            _winapi.CloseHandle(process)

    def wait_writable(self, at_most: float) -> None:
        """Wait a moment; the next write tells."""
        from time import sleep

        sleep(min(at_most, _LOOK_UP))

    def _write(self, end: int, data: memoryview) -> int:
        # The pipes of a process that was terminated may take bytes for a few milliseconds more (seen under Wine).
        if self._process and not _winapi.WaitForSingleObject(self._process, 0):
            raise BrokenPipeError
        count = int(_winapi.WriteFile(end, data[:_WRITE_BYTES])[0])
        if not count:
            raise BlockingIOError
        return count

    def _read(self, end: int, at_most: int) -> bytes:
        available = int(_winapi.PeekNamedPipe(end, 0)[0])  # raises when the other end is closed, and all was read
        if not available:
            raise BlockingIOError
        return bytes(_winapi.ReadFile(end, min(available, at_most))[0])

    def _close(self, end: int) -> None:
        if end >= 0:
            _winapi.CloseHandle(end)

    def _identity(self, end: int) -> tuple[int, int] | None:
        return None if end < 0 else (end, end)


class _StartupInfo:
    """The part of STARTUPINFOEX that `CreateProcess` looks at: the standard streams, and the only handles inherited."""

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.dwFlags = _winapi.STARTF_USESTDHANDLES | _winapi.STARTF_USESHOWWINDOW
        self.wShowWindow = _winapi.SW_HIDE
        self.hStdInput, self.hStdOutput, self.hStdError = stdin, stdout, stderr
        self.lpAttributeList = {"handle_list": [stdin, stdout, stderr]}


def interpreter() -> str:
    """Return the executable to start: for a virtual environment the one behind its launcher.

    The launcher stays beside the interpreter, in a job that ends with it.
    """
    return getattr(sys, "_base_executable", "") or sys.executable


def start(arguments: list[str], environment: Mapping[str, str], *, humble: bool) -> WindowsSender:
    """Start a process, with its executable as first argument; with lower priority if `humble`.

    No console window, none of the console's Ctrl-C and Ctrl-Break, no handle but the standard streams. Raises
    `FileNotFoundError` without that executable, else `OSError`.
    """
    environment = {name: value for name, value in environment.items() if name != _LAUNCHER_VARIABLE}
    if _ignores_its_environment(arguments[0]):
        module = arguments.index("-m")
        arguments = [*arguments[:module], "-c", _WITH_PATH, *arguments[module + 2 :]]
    flags = _winapi.CREATE_NO_WINDOW | _winapi.CREATE_NEW_PROCESS_GROUP
    if humble:
        flags |= _winapi.BELOW_NORMAL_PRIORITY_CLASS
    ours: list[int] = []
    theirs: list[int] = []
    try:
        stdin, pipe = _winapi.CreatePipe(None, _PIPE_BYTES)
        theirs.append(stdin)
        ours.append(pipe)
        answers, stdout = _winapi.CreatePipe(None, _PIPE_BYTES)
        theirs.append(stdout)
        ours.append(answers)
        for end in (pipe, stdout):  # nobody waits for anybody, from the first byte on
            _winapi.SetNamedPipeHandleState(end, _PIPE_NOWAIT, None, None)
        theirs.append(
            _winapi.CreateFile(os.devnull, _GENERIC_WRITE, _FILE_SHARE_READ_WRITE, 0, _winapi.OPEN_EXISTING, 0, 0)
        )
        theirs[:] = [_inheritable(end) for end in theirs]
        process, pid = _create(arguments, environment, flags, _StartupInfo(*theirs))
        sender = WindowsSender(pid, pipe, answers, process)
        ours.clear()
        return sender
    finally:
        for end in (*ours, *theirs):
            _winapi.CloseHandle(end)


def _create(arguments: list[str], environment: dict[str, str], flags: int, startup: _StartupInfo) -> tuple[int, int]:
    """Return a handle of the process, and its id."""
    # No argument holds a quote: a path cannot, and the others are ours.
    command_line = " ".join(f'"{argument}"' for argument in arguments)
    # Windows refuses to remove a directory in use, and the host's may have to be removed.
    directory = environment.get("SYSTEMROOT") or os.path.dirname(arguments[0])

    def create(flags: int) -> tuple[int, int, int, int]:
        return _winapi.CreateProcess(
            arguments[0],
            command_line,
            None,
            None,
            True,
            flags,
            environment,
            directory,
            startup,
        )

    try:
        # A CI runner or a terminal may end its processes as a whole, by a job.
        process, thread, pid, _ = create(flags | _CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:
        process, thread, pid, _ = create(flags)  # that job lets nobody go
    _winapi.CloseHandle(thread)
    return process, pid


def _inheritable(handle: int) -> int:
    """Return a handle that a child may get, in the place of this one."""
    ourselves = _winapi.GetCurrentProcess()
    options = _winapi.DUPLICATE_SAME_ACCESS | _winapi.DUPLICATE_CLOSE_SOURCE
    return _winapi.DuplicateHandle(ourselves, handle, ourselves, 0, True, options)


def _ignores_its_environment(executable: str) -> bool:
    folder, name = os.path.split(executable)
    names = (os.path.splitext(name)[0], f"python{sys.version_info[0]}{sys.version_info[1]}")
    return any(os.path.exists(os.path.join(folder, f"{known}._pth")) for known in names)
