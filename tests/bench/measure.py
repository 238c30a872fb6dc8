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

    life: float
    """Seconds from the start of the latest program to the end of this process."""
    cpu: float
    peak_bytes: int


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
        self._started = 0.0
        self._reaps = False
        if sys.platform == "linux":
            self._reaps = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.clear()
        self._directory.cleanup()

    def clear(self):
        """End what programs left running."""
        while strays := self.strays():
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def keep(self, pid):
        """Do not take this child of ours for a left-over."""
        self._kept.add(pid)

    # ---- running

    def start(self, host, *arguments, cache=None):
        """Start the program `hosts/<host>.py`, silent; return its process id."""
        return self._spawn([sys.executable, str(HOSTS / f"{host}.py"), *map(str, arguments)], cache)

    def run(self, host, *arguments, limit=30.0, cache=None):
        """Run the program to its end, or for `limit` seconds."""
        return self._finish(self.start(host, *arguments, cache=cache), limit)

    def run_code(self, code, limit=30.0):
        """Run one line of Python."""
        return self._finish(self._spawn([sys.executable, "-c", code]), limit)

    def join(self, pids):
        """Wait for programs that `start` returned; raises `RuntimeError` if one failed."""
        for pid in pids:
            _check(os.waitpid(pid, 0)[1])

    def crowd(self, number, pause, host, *arguments):
        """Start the program again and again, `pause` seconds apart, and wait until all they left is gone.

        Return the most processes at a time, the most memory of all of them together, and how long the last one stayed.
        """
        cache = tempfile.mkdtemp(
            prefix="cache-", dir=self.home
        )  # of one person: what failed for one run, the next knows
        began, started, most, most_bytes = time.monotonic(), 0, 0, 0
        while started < number or self.strays():
            if started < number and time.monotonic() >= began + started * pause:
                self.start(host, *arguments, cache=cache)
                started += 1
            for pid in self.strays():
                os.waitpid(pid, os.WNOHANG)
            sizes = [*filter(None, map(_own_bytes, self.strays()))]
            most, most_bytes = max(most, len(sizes)), max(most_bytes, sum(sizes))
            select.select([], [], [], 2 * _POLL)
        return {"processes": most, "bytes": most_bytes, "stayed": time.monotonic() - self._started}

    def burden(self, arguments, stdin):
        """Run Python as a sender is started, give it `stdin`.

        Return the seconds until it said the first word, and CPU time and peak memory of it and all it leaves. None
        where nothing can be known about left-over processes.
        """
        if not self._reaps:
            return None
        read_end, write_end = os.pipe()
        answers, stdout = os.pipe()
        os.write(write_end, stdin)  # less than a pipe holds
        os.close(write_end)
        command = [sys.executable, "-P", "-S", *arguments]
        pid = self._spawn(command, None, read_end, stdout, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        for end in (read_end, stdout):
            os.close(end)
        with open(answers, "rb", buffering=0) as stream:
            first = stream.read(1)
            ready = time.monotonic() - self._started
            stream.read()  # until it, and all it left, has ended
        _, status, usage = os.wait4(pid, 0)
        _check(status)
        left = self.settle(until_gone=5.0)
        return {
            **({"ready": ready} if first else {}),
            "cpu": usage.ru_utime + usage.ru_stime + sum(each.cpu for each in left),
            # Of a process that was spawned the kernel tells no less than its parent's, which is ours.
            **({"peak_bytes": max(each.peak_bytes for each in left)} if left else {}),
        }

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

    def _spawn(self, command, cache=None, stdin=None, stdout=None, **environment):
        if cache:
            environment["XDG_CACHE_HOME"] = cache
        null = os.devnull
        self._started = time.monotonic()
        return os.posix_spawn(
            command[0],
            command,
            {**self._first_run(), **environment},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0) if stdin else (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, stdout or 2, 1),
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
        if not capped:
            _check(status)
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
                ticks = _cpu_ticks(pid)
                if ticks != used.get(pid):
                    used[pid] = ticks
                    last_change = now
                gone, _, usage = os.wait4(pid, os.WNOHANG)
                if gone:
                    cpu = usage.ru_utime + usage.ru_stime
                    ended.append(Leftover(now - self._started, cpu, usage.ru_maxrss * _RSS_UNIT))
            if now > give_up and now - last_change > _QUIET:
                break
            select.select([], [], [], _POLL)
        return ended

    # ---- the machine

    def cpu_of_others(self):
        """Return the CPU seconds so far of all processes but ours and our descendants; None where that is not known.

        Only differences mean something. What a hypervisor takes from the machine counts, too.
        """
        try:
            fields = pathlib.Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
        except OSError:
            return None
        import resource  # not on Windows

        user, nice, system, _, _, _, _, stolen = map(int, fields)  # proc_stat(5)
        ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        ticks = user + nice + system + stolen - sum(_cpu_ticks(pid) or 0 for pid in self._kept)
        return ticks / os.sysconf("SC_CLK_TCK") - ours


def _check(status):
    if status:
        raise RuntimeError(f"a benchmark program failed with status {status}")


def _own_bytes(pid):
    """Return a process's memory, of what it shares its part; None when it has ended."""
    try:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), None)


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
