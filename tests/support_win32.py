"""Win32 for the tests: which processes there are, how they were started, and ways to stop and end them.

Only Windows can import it.
"""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import wintypes
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_SNAPSHOT_OF_PROCESSES = 2  # TH32CS_SNAPPROCESS, tlhelp32.h
_ALL_ACCESS = 0x001FFFFF  # PROCESS_ALL_ACCESS, winnt.h

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
ntdll = ctypes.WinDLL("ntdll")
for function in (kernel32.OpenProcess, kernel32.CreateToolhelp32Snapshot, kernel32.CreateJobObjectW):
    function.restype = wintypes.HANDLE
kernel32.ReadProcessMemory.argtypes = [wintypes.HANDLE, *[ctypes.c_void_p] * 2, *[ctypes.c_size_t, ctypes.c_void_p]]


class ProcessEntry(ctypes.Structure):
    """PROCESSENTRY32W of tlhelp32.h."""

    _fields_ = (
        ("size", wintypes.DWORD),
        ("usage", wintypes.DWORD),
        ("pid", wintypes.DWORD),
        ("heap", ctypes.c_size_t),
        ("module", wintypes.DWORD),
        ("threads", wintypes.DWORD),
        ("parent", wintypes.DWORD),
        ("priority", wintypes.LONG),
        ("flags", wintypes.DWORD),
        ("name", wintypes.WCHAR * 260),
    )


def processes() -> Iterator[ProcessEntry]:
    """Yield every process that runs."""
    snapshot = wintypes.HANDLE(kernel32.CreateToolhelp32Snapshot(_SNAPSHOT_OF_PROCESSES, 0))
    entry = ProcessEntry(size=ctypes.sizeof(ProcessEntry))
    try:
        found = kernel32.Process32FirstW(snapshot, ctypes.byref(entry))
        while found:
            yield entry
            found = kernel32.Process32NextW(snapshot, ctypes.byref(entry))
    finally:
        kernel32.CloseHandle(snapshot)


def pythons() -> list[int]:
    """Return the process ids of all Pythons but this one."""
    return [entry.pid for entry in processes() if entry.name.lower().startswith("python") and entry.pid != os.getpid()]


class Process:
    """A process that need not be ours; a context manager."""

    def __init__(self, pid: int) -> None:
        self._handle = wintypes.HANDLE(kernel32.OpenProcess(_ALL_ACCESS, False, pid))

    def suspend(self) -> None:
        """Stop all its threads; nothing happens when it has ended."""
        ntdll.NtSuspendProcess(self._handle)

    def resume(self) -> None:
        """Take back one `suspend`."""
        ntdll.NtResumeProcess(self._handle)

    def terminate(self, code: int = 9) -> bool:
        """End it, as it stands; False when it has ended already."""
        return bool(kernel32.TerminateProcess(self._handle, code))

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when it still runs then."""
        return not self._handle or kernel32.WaitForSingleObject(self._handle, int(max(0.0, timeout) * 1000)) == 0

    def priority(self) -> int:
        """Return its priority class, of processthreadsapi.h."""
        return int(kernel32.GetPriorityClass(self._handle))

    def strings(self) -> tuple[str, list[str]]:
        """Return its command line and its environment; raises `OSError` when it has ended.

        A process that begins has neither for a moment, and must not be taken for a stranger.
        """
        ends_at = time.monotonic() + 10.0
        while True:
            try:
                return self._strings()
            except OSError:
                if self.wait(0) or time.monotonic() > ends_at:
                    raise
            time.sleep(0.001)

    def _strings(self) -> tuple[str, list[str]]:
        # PROCESS_BASIC_INFORMATION, PEB and RTL_USER_PROCESS_PARAMETERS (winternl.h) of 64 bits.
        basic = (ctypes.c_size_t * 6)()
        if ntdll.NtQueryInformationProcess(self._handle, 0, basic, ctypes.sizeof(basic), None):
            raise OSError("no such process")
        parameters = int.from_bytes(self._read(basic[1] + 0x20, 8), "little")
        fields = self._read(parameters, 0x400)

        def number(offset: int, size: int = 8) -> int:
            return int.from_bytes(fields[offset : offset + size], "little")

        command, environment = number(0x78), number(0x80)
        strings = self._read(environment, number(0x3F0)).decode("utf-16-le", "replace").split("\0")
        if not strings[0]:
            raise OSError("not yet")
        return self._read(command, number(0x70, 2)).decode("utf-16-le", "replace"), strings

    def _read(self, address: int, size: int) -> bytes:
        data = (ctypes.c_char * size)()
        if not address or not kernel32.ReadProcessMemory(self._handle, address, data, size, None):
            raise OSError("not to be read")
        return data.raw

    def close(self) -> None:
        """Let go of it."""
        if self._handle:
            kernel32.CloseHandle(self._handle)
            self._handle = wintypes.HANDLE()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
