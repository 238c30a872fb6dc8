"""Lets `faulthandler` tell the sender where a dying or a hanging host stands.

Runs in the host; loaded only by `report_crash` and `report_hang_after`. `faulthandler` writes into a pipe of our own,
which a sender reads. So its lines never mix with ours, and the pipe is empty when it matters. It is non-blocking, and
we hold its read end, too. So neither a full pipe nor a dead sender changes how a host dies (pipe(7)).

`faulthandler` is given one descriptor, once. Whenever the dumps are to go elsewhere, that descriptor is replaced.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the built-in half of `signal`
import faulthandler
import os
import sys
from _weakref import ref
from time import time

from atotelemetry.host.child import identity
from atotelemetry.host.debug import debug
from atotelemetry.host.frames import own_packages
from atotelemetry.host.spawn import pipe_above_standard_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from atotelemetry.host.client import TelemetryClient
    from atotelemetry.host.consent import Consent

__all__ = ["VANISHED", "LastWords"]

VANISHED = "run_vanished"
"""Name of the event for a run whose end left no dump."""

_STARTED = 19  # of the fields of /proc/PID/stat behind the command: `starttime`, see proc(5)

_HIGHEST, _TRIES = 1024, 64  # numbers of descriptors; a higher one costs the kernel a larger table

_holder: list[LastWords] = []
"""The one that `faulthandler` works for: it is one for the whole process."""


class _File:
    """The file that `faulthandler` writes to. It lives as long as `faulthandler` uses it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor. `faulthandler` asks once."""
        return self._descriptor


class LastWords:
    """The reports of its own end that one application wants.

    Args:
        crash: whether an unannounced end is reported, and the name of the event if it left no dump.
        hang_after: seconds of silence after which the stacks are reported; None for never.
        client: its sender reports.
        consent: without it, there is no report.

    """

    def __init__(
        self, *, crash: bool | str, hang_after: float | None, client: TelemetryClient, consent: Consent
    ) -> None:
        self._consent = consent
        self._crash = crash
        self._hang_after = hang_after
        self._began = time()
        # Here: on the feeder's thread a first import would wait for a fork, which waits for that thread.
        self._own = own_packages(*client.described_by[:3])
        self._enabled = False  # or tried to, in this process
        # The pipe: its identity, and its ends; -1 when closed.
        self._identity: tuple[int, int] | None = None
        self._read = self._write = -1
        self._read_by_a_sender = False
        # Each is gone as soon as the host gives `faulthandler` another file, or disables it.
        self._crash_file: Callable[[], _File | None] = lambda: None
        self._hang_file: Callable[[], _File | None] = lambda: None

    def watch(self) -> dict[str, Any]:
        """Return the fields of `wire.Watch`."""
        return {
            "pid": os.getpid(),
            "started": _started(),
            "began": self._began,
            "crash": bool(self._crash),
            # Without a handler of ours the signal would be a surprise to the host.
            "hang_after": self._hang_after if self._hang_file() else None,
            "vanished": self._crash if isinstance(self._crash, str) else VANISHED,
            "choice": self._consent.file(),
            "own": self._own,
        }

    def enable(self) -> None:
        """Give `faulthandler` a pipe. Called at each start of a feeder; only the first of a process does anything.

        The calling thread gets the alternate stack that a dump after a stack overflow needs (sigaltstack(2)). So it is
        the thread of the first event, not the feeder's.
        """
        if self._enabled:
            return
        self._enabled = True
        try:
            self._enable()
        except Exception as error:
            debug("a crash will leave no dump: %r", error)
            self.disable()

    def listen(self) -> int:
        """Return the read end for the next sender; -1 without dumps."""
        if self._read_by_a_sender:
            self.mute()
        if self._is_ours(self._write) and self._is_ours(self._read):
            self._read_by_a_sender = True
            return self._read
        self.disable()  # a host that closed our descriptors may have other files there by now
        return -1

    def mute(self) -> None:
        """Let further dumps go where nobody reads them, until the next `listen`."""
        if not self._is_ours(self._write):
            return
        try:
            read, write = _new_pipe()
        except OSError as error:
            debug("a crash will leave no dump: %r", error)
            self.disable()
            return
        os.dup2(write, self._write, inheritable=False)
        os.close(write)
        if self._is_ours(self._read):
            os.close(self._read)
        self._read, self._identity = read, identity(read)
        self._read_by_a_sender = False

    def after_fork_in_child(self) -> None:
        """Leave the parent's pipe to the parent. The next event of this process gives it one of its own."""
        self.disable()
        self._enabled = False

    def _enable(self) -> None:
        if _holder or sys.platform == "win32":
            debug("a crash will leave no dump: %s", "another client has them" if _holder else "not on Windows")
            return
        crash = bool(self._crash) and not faulthandler.is_enabled()
        hang = self._hang_after is not None and signal.getsignal(signal.SIGURG) is signal.SIG_DFL
        if crash != bool(self._crash):
            debug("a crash will leave no dump: the host has enabled faulthandler itself")
        if crash and _handles_crashes():
            # Such as a Java or Julia machine, which goes on after many a SIGSEGV of its own making.
            crash = False
            debug("a crash will leave no dump: the host has a handler for such signals")
        if hang != (self._hang_after is not None):
            debug("no hang will be reported: the host has a handler for SIGURG")
        if not crash and not hang:
            return
        _holder.append(self)
        self._read, write = _new_pipe()
        self._write = _out_of_the_way(write)
        self._identity = identity(self._read)
        if crash:
            file = _File(self._write)
            # Other threads' stacks could fill the pipe before the crashed thread's.
            faulthandler.enable(file, all_threads=False)
            self._crash_file = ref(file)
        if hang:
            file = _File(self._write)
            faulthandler.register(signal.SIGURG, file, all_threads=True)
            self._hang_file = ref(file)

    def disable(self) -> None:
        """End `faulthandler`'s work for us, then close the pipe: its number may be another file's next."""
        if self not in _holder:
            return
        if self._crash_file():
            faulthandler.disable()
        if self._hang_file() and signal.getsignal(signal.SIGURG) is signal.SIG_DFL:
            faulthandler.unregister(signal.SIGURG)
        for end in (self._write, self._read):
            if self._is_ours(end):
                os.close(end)
        self._read = self._write = -1
        self._read_by_a_sender = False
        _holder.remove(self)

    def _is_ours(self, end: int) -> bool:
        """Whether a descriptor still leads to our pipe: a host may close every descriptor, and open others."""
        return end >= 0 and identity(end) == self._identity


def _new_pipe() -> tuple[int, int]:
    read, write = pipe_above_standard_streams([])
    os.set_blocking(write, False)
    return read, write


def _out_of_the_way(descriptor: int) -> int:
    """Give a descriptor a high number, if one is free.

    A host that closes every descriptor does not tell `faulthandler`. The files it opens next get low numbers. So no
    dump ends up in them.
    """
    limit = os.sysconf("SC_OPEN_MAX")
    highest = min(limit if limit > 0 else _HIGHEST, _HIGHEST) - 1
    for number in range(highest, max(descriptor, highest - _TRIES), -1):
        if identity(number) is None:
            os.dup2(descriptor, number, inheritable=False)
            os.close(descriptor)
            return number
    return descriptor


def _handles_crashes() -> bool:
    """Whether this process has a handler for a signal that `faulthandler` would take, also one of a C library."""
    try:
        with open("/proc/self/status", "rb") as status:
            caught = next(int(line[7:], 16) for line in status if line.startswith(b"SigCgt:"))
    except (OSError, StopIteration, ValueError):
        return False
    crashes = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
    return any(caught >> number - 1 & 1 for number in crashes)


def _started() -> int | None:
    """Return when this process started, as the kernel tells it."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[_STARTED])
    except (OSError, ValueError, IndexError):
        return None
