"""Runs programs and takes their measure: wall time, CPU time, and what they left running.

Runs in the benchmark's own process, on its only thread. Programs are started in a plain environment of their own, so
that no variable of the caller's (a proxy, PYTHONDONTWRITEBYTECODE, a coverage hook) takes part. On Linux the benchmark
declares itself the reaper of its descendants: a detached child whose parent has gone comes to us, and its CPU time,
memory and life span are what the kernel says at its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

HOSTS = pathlib.Path(__file__).parent / "hosts"

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_QUIET = 0.25  # a left-over process that used no CPU for so long waits for something, and disturbs nobody
_POLL = 0.01
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kibibytes here


class Leftover(NamedTuple):
    """A process that outlived the program that started it."""

    program: tuple[str, ...]
    """What that program was called with."""
    life: float
    """Seconds from the start of the program to the end of this process."""
    cpu: float
    peak_bytes: int
    exit_code: int


class Run(NamedTuple):
    """One run of a program."""

    wall: float
    cpu: float
    capped: bool
    """It was still running at the limit, and killed."""


class Laboratory:
    """A directory, an environment and a reaper for the programs that are measured; a context manager."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.home = self._directory.name
        self.environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": self.home, "LANG": "C.UTF-8"}
        self._kept = set()
        self._program = ()
        self._started = 0.0
        self._origins = {}
        self._reaps = False
        if sys.platform == "linux":
            self._reaps = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for pid in self.strays():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._directory.cleanup()

    def keep(self, pid):
        """Do not take this child of ours for a left-over."""
        self._kept.add(pid)

    # ---- running

    def start(self, host, *arguments):
        """Start the program `hosts/<host>.py`, silent; return its process id."""
        self._program = (host, *map(str, arguments))
        return self._spawn([sys.executable, str(HOSTS / f"{host}.py"), *map(str, arguments)])

    def run(self, host, *arguments, limit=30.0):
        """Run the program to its end, or for `limit` seconds."""
        return self._finish(self.start(host, *arguments), limit)

    def run_code(self, code, limit=30.0):
        """Run one line of Python."""
        return self._finish(self._spawn([sys.executable, "-c", code]), limit)

    def join(self, pids):
        """Wait for programs that `start` returned; raises `RuntimeError` if one failed."""
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            if status:
                raise RuntimeError(f"a benchmark program failed with status {status}")

    def burden(self, arguments, stdin, limit=30.0):
        """Run Python as a sender is started, give it `stdin`; return CPU time and peak memory of it and all it leaves.

        None where nothing can be known about left-over processes.
        """
        command = [sys.executable, "-P", "-S", *arguments]
        path = os.pathsep.join(filter(None, sys.path))
        read_end, write_end = os.pipe()
        try:
            os.write(write_end, stdin)  # less than a pipe holds
        finally:
            os.close(write_end)
        feed = [(os.POSIX_SPAWN_DUP2, read_end, 0)]
        self._program = tuple(arguments)
        try:
            pid = self._spawn(command, {"PYTHONPATH": path}, feed)
        finally:
            os.close(read_end)
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise RuntimeError(f"a benchmark program failed with status {status}")
        if not self._reaps:
            return None
        left = self.settle(until_gone=limit)
        cpu = usage.ru_utime + usage.ru_stime + sum(each.cpu for each in left)
        return cpu, max(usage.ru_maxrss * _RSS_UNIT, *(each.peak_bytes for each in left), 0)

    def ask(self, host, *arguments, limit=120.0):
        """Run the program; return the JSON that it prints. Raises `subprocess.CalledProcessError` when it fails."""
        command = [sys.executable, str(HOSTS / f"{host}.py"), *map(str, arguments)]
        done = subprocess.run(
            command, env=self._first_run(), cwd=self.home, capture_output=True, timeout=limit, check=True
        )
        return json.loads(done.stdout)

    def _first_run(self):
        """Return the environment with an empty cache: a network that failed for one run is not heeded by the next."""
        return {**self.environment, "XDG_CACHE_HOME": tempfile.mkdtemp(prefix="cache-", dir=self.home)}

    def _spawn(self, command, environment=None, feed=None):
        self._started = time.monotonic()
        return os.posix_spawn(
            command[0],
            command,
            {**self._first_run(), **(environment or {})},
            file_actions=[
                *(feed or [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )

    def _finish(self, pid, limit):
        started = self._started
        capped = False

        def give_up(number, frame):
            nonlocal capped
            capped = True
            with contextlib.suppress(ProcessLookupError):  # it ended, and was reaped, at this very moment
                os.kill(pid, signal.SIGKILL)
            # `wait4` goes on when this returns, and sees its end.

        previous = signal.signal(signal.SIGALRM, give_up)
        try:
            signal.setitimer(signal.ITIMER_REAL, limit)
            _, status, usage = os.wait4(pid, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        wall = time.monotonic() - started
        if status and not capped:
            raise RuntimeError(f"a benchmark program failed with status {status}")
        return Run(wall, usage.ru_utime + usage.ru_stime, capped)

    # ---- what is left running

    def strays(self):
        """Return the ids of our children that outlived their own parents."""
        if not self._reaps:
            return []
        children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
        try:
            return [pid for pid in map(int, children.read_text(encoding="ascii").split()) if pid not in self._kept]
        except OSError:
            return []

    def settle(self, until_gone=0.0):
        """Wait until the left-over processes have ended or only wait; return those that ended.

        With `until_gone`, wait up to that many seconds for all of them to end.
        """
        if not self._reaps:
            time.sleep(max(2 * _QUIET, until_gone / 4))
            return []
        ended = []
        last_change = time.monotonic()
        give_up = last_change + until_gone
        used = {}
        while strays := self.strays():
            now = time.monotonic()
            for pid in strays:
                program, started = self._origins.setdefault(pid, (self._program, self._started))
                ticks = _cpu_ticks(pid)
                if ticks != used.get(pid):
                    used[pid] = ticks
                    last_change = now
                gone, status, usage = os.wait4(pid, os.WNOHANG)
                if gone:
                    cpu = usage.ru_utime + usage.ru_stime
                    code = os.waitstatus_to_exitcode(status)
                    del self._origins[pid]
                    ended.append(Leftover(program, now - started, cpu, usage.ru_maxrss * _RSS_UNIT, code))
            if now > give_up and now - last_change > _QUIET:
                break
            select.select([], [], [], _POLL)
        return ended


def _cpu_ticks(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])  # utime and stime, proc_pid_stat(5)


class Servers:
    """The server process; a context manager."""

    def __init__(self, laboratory):
        root = pathlib.Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.server"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        laboratory.keep(self._process.pid)
        self.urls = json.loads(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def reset(self):
        """Forget every event."""
        self._ask({"do": "reset"})

    def wait(self, events, within):
        """Wait until so many different events were accepted; return the counts whether they were or not."""
        return self._ask({"do": "wait", "events": events, "within": within})

    def _ask(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
