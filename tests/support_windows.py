"""What the tests of Windows' hazards need of Win32: hosts, their senders, and ways to stop and end both.

    host = hosts.start("client = new_client(); client.capture('built'); handed_over(client, 1); say('ready')")
    assert host.hear() == "ready"
    (sender,) = senders_of(host.pid)

A sender is the child of the host that started it, also when that has ended: Windows gives nobody another parent.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections import Counter
from ctypes import wintypes
from typing import TYPE_CHECKING

from support_win32 import kernel32, ntdll, processes

if TYPE_CHECKING:
    from pathlib import Path

    from atotelemetry.testing import CaptureServer

PATIENCE = float(os.environ.get("HAZARD_PATIENCE", "60"))  # Wine on a busy machine

PREAMBLE = """
import os, sys, time
import atotelemetry

def new_client(**settings):
    known = {"app": "host", "app_version": "1", "request_timeout": 15.0, "sender_deadline": 45.0}
    return atotelemetry.TelemetryClient("phc_test", os.environ["TEST_SERVER"], **{**known, **settings})

def say(*words):
    print(*words, flush=True)

def hear():
    return sys.stdin.readline().strip()

def handed_over(client, count):
    ends_at = time.monotonic() + 30
    while client.stats.handed_over < count:
        if time.monotonic() > ends_at:
            sys.exit("waited in vain")
        time.sleep(0.002)

"""

PROCESS_ALL_ACCESS = 0x001FFFFF


def began(pid: int) -> int:
    """Return when a process began, in 100 ns since 1601; 0 when there is none."""
    handle = wintypes.HANDLE(kernel32.OpenProcess(PROCESS_ALL_ACCESS, False, pid))
    times = [ctypes.c_uint64() for _ in range(4)]
    kernel32.GetProcessTimes(handle, *map(ctypes.byref, times))
    kernel32.CloseHandle(handle)
    return times[0].value


OURS_BEGAN = began(os.getpid())


def senders_of(pid: int) -> list[int]:
    """Return the process ids of the Pythons that a host started, whether it still runs or not."""
    # Windows gives a number to another process soon: our own parent may have had the host's.
    found = [entry.pid for entry in processes() if entry.parent == pid and entry.name.lower().startswith("python")]
    return [child for child in found if began(child) > OURS_BEGAN]


class Process:
    """A process that need not be ours."""

    def __init__(self, pid: int) -> None:
        self._handle = wintypes.HANDLE(kernel32.OpenProcess(PROCESS_ALL_ACCESS, False, pid))

    def suspend(self) -> None:
        assert self._handle, "it has ended"
        assert ntdll.NtSuspendProcess(self._handle) == 0

    def resume(self) -> None:
        ntdll.NtResumeProcess(self._handle)

    def terminate(self) -> None:
        kernel32.TerminateProcess(self._handle, 9)

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when it still runs then."""
        return not self._handle or kernel32.WaitForSingleObject(self._handle, int(timeout * 1000)) == 0

    def close(self) -> None:
        if self._handle:
            kernel32.CloseHandle(self._handle)


class Host:
    """One running host."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self._started_at = time.monotonic()

    def hear(self) -> str:
        line = self.process.stdout.readline()
        assert line, f"the host ended: {self.finish()}"
        return line.strip()

    def tell(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end and for the end of its output; return its exit code and what it printed."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        self.seconds = time.monotonic() - self._started_at
        return self.process.returncode, stdout, stderr


class Hosts:
    """Starts the hosts of one test; knows all senders that they started."""

    def __init__(self, directory: Path, server: CaptureServer) -> None:
        self.directory = directory
        self.server = server
        self.environment = {**os.environ, "TEST_SERVER": server.url}
        self._hosts: list[Host] = []
        self._seen: dict[int, Process] = {}

    def start(
        self,
        source: str,
        *arguments: str,
        executable: str = sys.executable,
        preamble: bool = True,
        **options: object,
    ) -> Host:
        script = self.directory / f"host{len(self._hosts)}.py"
        script.write_text((PREAMBLE if preamble else "") + source, encoding="utf-8")
        process = subprocess.Popen(
            [executable, str(script), *arguments],
            **{
                "cwd": self.directory,
                "env": self.environment,
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )
        self._hosts.append(Host(process))
        return self._hosts[-1]

    def run(self, source: str, **options: object) -> tuple[int, str, str]:
        return self.start(source, **options).finish()

    def senders(self) -> list[Process]:
        """Return the senders seen so far, running or not."""
        for host in self._hosts:
            for pid in senders_of(host.pid):
                if pid not in self._seen:
                    self._seen[pid] = Process(pid)
        return list(self._seen.values())

    def wait_for_sender(self) -> Process:
        ends_at = time.monotonic() + PATIENCE
        while not self.senders():
            assert time.monotonic() < ends_at, "no sender"
            time.sleep(0.01)
        (sender,) = self.senders()
        return sender

    def assert_arrived_once(self, *names: str) -> None:
        """Wait until so many events arrived and all senders are gone: these arrived, each once, and no other."""
        self.server.wait_for_events(len(names), timeout=PATIENCE)
        self.wait_until_no_sender()
        assert Counter(event["event"] for event in self.server.events) == Counter(names)

    def wait_until_no_sender(self, timeout: float = PATIENCE) -> None:
        ends_at = time.monotonic() + timeout
        for sender in self.senders():
            assert sender.wait(max(0.0, ends_at - time.monotonic())), "a sender still runs"

    def close(self) -> None:
        for host in self._hosts:
            if host.process.poll() is None:
                host.process.kill()
            host.process.wait()
            for stream in (host.process.stdin, host.process.stdout, host.process.stderr):
                if stream is not None:
                    stream.close()
        senders = self.senders()
        for sender in senders:
            sender.resume()
        self.server.stop()
        try:
            self.wait_until_no_sender(20.0)
        finally:
            for sender in senders:
                sender.terminate()
                sender.close()
