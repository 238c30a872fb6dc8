"""Reports about a host that ends without a word or falls silent: a crash with its dump, a vanished run, a hang.

Runs in a detached sender, on the reader's thread, only if the host asked for it (`Hello.watch`). An input that ends
without an `end` line means that something happened. The dump and the kernel tell more. By hand, a dump among the lines
of a stream is told in the same way.

An exit status is known from two places. `/proc/PID/stat` has it from the beginning of a process's end until its parent
reaps it; the pipe closes in between. A pidfd has it after that, since Linux 6.15.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.ids import Uuid7
from atotelemetry.sender.dispatch import utc_now
from atotelemetry.wire import Event, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atotelemetry.sender.dump import Dump
    from atotelemetry.sender.reader import Source
    from atotelemetry.wire import Hello, Watch

__all__ = ["LastWords", "dump_event"]

_PATIENCE = 0.5  # for the kernel to end a host whose pipe is closed
_LOOK_INTERVAL = 0.005
_SHUTDOWN_PATIENCE = 2.0  # for the host to end after its goodbye
_DUMP_PATIENCE = 2.0  # for the first byte of a dump that was asked for; it takes milliseconds
_REST, _REST_NS, _REST_ATTEMPTS = 0.05, 1_000_000, 20  # a thread rests that spends less than 1 ms of CPU in 50
_DUMP_PAUSE = 0.2  # a dump has ended when nothing more came for so long

# Properties of the run's events that a report has, too.
_OF_THE_RUN = ("run_id", "email", "$process_person_profile")

# The fields of /proc/PID/stat behind the name: see proc_pid_stat(5).
_STATE, _START_TIME, _EXIT_CODE = 0, 19, 49

# linux/pidfd.h: `_IOWR(0xFF, 11, struct pidfd_info)`; the struct's first version has 64 bytes. It begins with a mask of
# the wanted, then the known fields. It ends with the exit code, as in waitpid(2).
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES = 64


class LastWords:
    """Watches one host and reports its end, or its silence."""

    forked = False
    """Whether the host has forked: a daemon's first process ends without a word, and that is no news."""

    def __init__(self, settings: Hello, watch: Watch, source: Source) -> None:
        self._settings = settings
        self._watch = watch
        self._dumps = source.dumps
        self._process = _WindowsProcess(watch) if sys.platform == "win32" else _Process(watch, source.handle)
        self._oom_counter = next(filter(os.path.exists, _counters(watch.pid)), "")
        self._oom_kills = _oom_kills(self._oom_counter)

    @property
    def hang_after(self) -> float | None:
        """After how many seconds of silence to call `hang`; None for never."""
        return self._watch.hang_after if self._process.can_be_asked else None

    def hang(self, latest: Event | None) -> Event | None:
        """Ask a silent host for its stacks; return the report, or None if the host is stopped or gone.

        The report has no stacks if threads beside the main one are at work.
        """
        from atotelemetry.sender.dump import Dump, parse

        asked = self._process.ask() if self._is_agreed() else None
        if asked is None:
            return None
        dump = parse(_read(self._dumps, _DUMP_PATIENCE)) if asked else Dump("its threads are at work\n")
        return self._about(dump or Dump(), latest, silent_for=self._watch.hang_after)

    def end(self, latest: Event | None, patience: float, *, said_goodbye: bool) -> Event | None:
        """Return the report about a host after the end of its input; None where there is nothing to report.

        `latest` is the last event of the run. Takes `patience` seconds at most. A host that `said_goodbye` by an `end`
        may still crash while its interpreter shuts down.
        """
        from atotelemetry.sender.dump import FATAL, Dump, parse

        if not self._watch.crash or not self._is_agreed():
            return None
        dump = parse(_read(self._dumps, min(patience, _SHUTDOWN_PATIENCE) if said_goodbye else 0.0))
        if dump is not None and dump.is_fatal:
            return self._about(dump, latest)
        if self.forked or said_goodbye:
            return None
        signal = self._process.wait(min(patience, _PATIENCE))
        if signal is None:
            return None
        if self._dumps >= 0 and signal == "SIGABRT":
            # Py_FatalError writes to stderr, takes faulthandler away and aborts.
            return self._about(Dump(title=f"{FATAL} (its text is on the program's stderr)"), latest)
        outcome = "killed" if signal else "unknown"
        if signal in ("", "SIGKILL") and _oom_kills(self._oom_counter) > self._oom_kills:
            outcome = "oom"
        told = {"outcome": outcome, "duration": self._duration(), **({"signal": signal} if signal else {})}
        return _event(self._watch.vanished, told, latest)

    def _is_agreed(self) -> bool:
        """Whether the file that said yes is as it was: the person may have said no since, in another process."""
        if self._watch.choice is None:
            return True
        path, seen = self._watch.choice
        try:
            found = os.stat(path)
        except OSError:
            return seen is None
        return seen == (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)

    def _about(self, dump: Dump, latest: Event | None, *, silent_for: float | None = None) -> Event:
        return dump_event(dump, self._settings, latest, duration=self._duration(), silent_for=silent_for)

    def _duration(self) -> float:
        return max(0.0, time.time() - self._watch.began)


def dump_event(
    dump: Dump, settings: Hello, latest: Event | None, *, duration: float | None = None, silent_for: float | None = None
) -> Event:
    """Return the `$exception` event for a dump, `latest` being the last event of that run."""
    from atotelemetry.sender.dump import describe

    person = "" if latest is None or latest.distinct_id is None else str(latest.distinct_id)
    properties = describe(
        dump,
        distinct_id=person,
        own=() if settings.watch is None else settings.watch.own,
        search_path=settings.search_path,
        silent_for=silent_for,
    )
    if duration is not None:
        properties["duration"] = duration
    return _event("$exception", properties, latest)


def _event(name: str, properties: dict[str, Any], latest: Event | None) -> Event:
    """Make an event of the same person and run as the `latest` one."""
    if latest is not None and bytes(latest.properties)[:1] == b"{":
        known = msgspec.json.decode(latest.properties, type=dict[str, msgspec.Raw])
        properties = {**{of: known[of] for of in _OF_THE_RUN if of in known}, **properties}
    encoded = encode(properties)
    return Event(
        event=name,
        uuid=Uuid7()(time.time_ns()),
        distinct_id=None if latest is None else latest.distinct_id,
        timestamp=utc_now(),
        properties=msgspec.Raw(encoded),
        size_bytes=len(encoded),
    )


def _read(pipe: int, within: float) -> bytes:
    """Read a dump: the text that comes within so many seconds, and all text right behind it."""
    from atotelemetry.sender.dump import MAX_DUMP_BYTES

    text = b""
    while pipe >= 0 and len(text) < MAX_DUMP_BYTES:
        try:
            data = os.read(pipe, MAX_DUMP_BYTES)
        except BlockingIOError:
            if not within or not _readable(pipe, within):
                break
            continue
        if not data:
            break
        text += data
        within = min(within, _DUMP_PAUSE)
    return text


def _readable(descriptor: int, within: float) -> bool:
    import select  # loaded by the reader

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(within * 1000))


# -- The process -----------------------------------------------------------------------------------------------------


class _Process:
    """The host, as Linux tells of it; elsewhere only whether it is there."""

    def __init__(self, watch: Watch, handle: int) -> None:
        self._pid = watch.pid
        self._started = watch.started
        self._handle = handle
        if self._look() is None:
            return  # it is gone already
        if handle < 0 and hasattr(os, "pidfd_open"):
            try:
                self._handle = os.pidfd_open(watch.pid)
            except OSError:
                return
            if self._look() is None:  # its number was given away between the two looks
                os.close(self._handle)
                self._handle = -1

    @property
    def can_be_asked(self) -> bool:
        """Whether a signal can reach it, and surely no other."""
        return self._handle >= 0

    def ask(self) -> bool | None:
        """Let it dump the stacks of all its threads; False where that could harm it, None if it is stopped or gone."""
        import signal

        told = self._look()
        if told is None or told[_STATE] in _NOT_RUNNING:
            return None
        if not any(self._others_rest() for _ in range(_REST_ATTEMPTS)):
            return False
        try:
            signal.pidfd_send_signal(self._handle, signal.SIGURG)
        except OSError:
            return None
        return True

    def _others_rest(self) -> bool:
        """Whether all threads rest but the main one, which gets the signal.

        `faulthandler` reads their stacks without a lock: beside one that runs Python code it may crash the host. A
        thread that only waits for the interpreter's lock looks around every few milliseconds.
        """
        before = self._others()
        time.sleep(_REST)
        after = self._others()
        return all(
            state not in _RUNNING and spent - before.get(thread, (b"", 0))[1] < _REST_NS
            for thread, (state, spent) in after.items()
        )

    def _others(self) -> dict[str, tuple[bytes, int]]:
        """Return the state and the nanoseconds of CPU of each thread but the main one."""
        told: dict[str, tuple[bytes, int]] = {}
        tasks = f"/proc/{self._pid}/task"
        for thread in os.listdir(tasks) if os.path.exists(tasks) else ():
            task = f"{tasks}/{thread}"
            try:
                with open(f"{task}/stat", "rb") as stat, open(f"{task}/schedstat", "rb") as schedule:
                    state = stat.read().rpartition(b") ")[2].split()[_STATE]
                    told[thread] = state, int(schedule.read().split()[0])
            except OSError:
                continue  # it ended meanwhile
        told.pop(str(self._pid), None)
        return told

    def wait(self, within: float) -> str | None:
        """Wait until it has ended; return the signal that ended it, an empty text where nobody tells.

        None: it exited, or goes on as another program or without the pipe.
        """
        ends_at = time.monotonic() + within
        status: int | None = None
        while (told := self._look()) is not None:
            status = _number(told, _EXIT_CODE)
            if told[_STATE] in _ENDED:
                break
            if time.monotonic() >= ends_at:
                return None
            time.sleep(_LOOK_INTERVAL)
        else:
            status = self._exit_info(status)
        if status is None:
            return ""
        number = status & 0x7F  # as of waitpid(2)
        return _signal_name(number) if number else None

    def _look(self) -> list[bytes] | None:
        """Return the fields of /proc/PID/stat behind the name; None when the process is gone."""
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b") ")[2].split()
        except FileNotFoundError:
            if os.path.exists("/proc/self/stat"):
                return None
            try:
                os.kill(self._pid, 0)
            except OSError:
                return None
            return [b"R"]
        except OSError:  # ESRCH: it went while we read
            return None
        return fields if self._started in (None, _number(fields, _START_TIME)) else None

    def _exit_info(self, status: int | None) -> int | None:
        """Return the status of a process that was reaped, `status` being the last one before that."""
        if self._handle < 0:
            return status
        import fcntl

        info = bytearray(_PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder).ljust(_INFO_BYTES, b"\0"))
        try:
            fcntl.ioctl(self._handle, _PIDFD_GET_INFO, info)
        except OSError:
            return status  # an older kernel
        if not int.from_bytes(info[:8], sys.byteorder) & _PIDFD_INFO_EXIT:
            return status
        return int.from_bytes(info[-4:], sys.byteorder)


_RUNNING = (b"R",)
_NOT_RUNNING = (b"T", b"t", b"Z", b"X")
_ENDED = (b"Z", b"X")


def _number(fields: list[bytes], index: int) -> int | None:
    return int(fields[index]) if index < len(fields) else None


class _WindowsProcess:
    """The host, as Windows tells of it."""

    can_be_asked = False

    def __init__(self, watch: Watch) -> None:
        import _winapi

        self._windows: Any = _winapi
        self._handle: Any = None
        try:
            self._handle = self._windows.OpenProcess(_SYNCHRONIZE_AND_QUERY, False, watch.pid)
        except OSError:
            return  # it is gone already

    def ask(self) -> bool | None:
        """Do nothing: this system lacks the signal."""
        return None

    def wait(self, within: float) -> str | None:
        """As above; another exit code than 0 may be a killer's."""
        if self._handle is None:
            return ""
        if self._windows.WaitForSingleObject(self._handle, int(within * 1000)) != 0:
            return None
        code = self._windows.GetExitCodeProcess(self._handle)
        return f"0x{code:08X}" if code >= _NTSTATUS_ERROR else "" if code else None


_SYNCHRONIZE_AND_QUERY = 0x101000  # SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION of winnt.h
_NTSTATUS_ERROR = 0xC0000000


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal


def _oom_kills(path: str) -> int:
    """Return how many processes of a cgroup the kernel has ended for want of memory, by its file of counters."""
    try:
        with open(path, encoding="ascii") as counters:
            return next(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))
    except (OSError, StopIteration, ValueError):
        return 0


def _counters(pid: int) -> Iterator[str]:
    """Yield the files that may have the count: cgroups(7), of version 2 and of version 1."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as cgroups:
            lines = [line.rstrip("\n").split(":", 2) for line in cgroups]
    except OSError:
        return
    for _, controllers, group in filter(lambda line: len(line) == 3, lines):
        if not controllers:
            yield f"/sys/fs/cgroup{group}/memory.events"
        elif "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{group}/memory.oom_control"
