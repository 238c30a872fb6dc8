"""Takes lines from the input into the bounded buffer.

Runs in the sender, on a thread of its own. It stops reading while the buffer is full: that is the backpressure for the
host. A patient host's buffer drops its oldest events instead. Events are read and counted under the tally's lock: its
holder sees either unread input or a count.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from atotelemetry.sender import reasons
from atotelemetry.sender.settings import fault_of
from atotelemetry.wire import PROTOCOL_VERSION, CorruptLine, Event, Forked, Hello, LineDecoder, LineError, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from atotelemetry.sender.buffer import Buffer
    from atotelemetry.sender.journal import Journal
    from atotelemetry.sender.last_words import LastWords
    from atotelemetry.sender.tally import Tally
    from atotelemetry.sender.watchdog import Countdown

__all__ = ["Reader", "Source"]

_READ_BYTES = 64 * 1024  # a pipe's capacity
_STDIN = 0
_LONGEST = 1e6  # seconds; poll(2) takes no more than twice that
_SHORTEST_LOOK, _LONGEST_LOOK = 0.001, 0.02  # Windows: how often a pipe is asked whether it holds something
_CLOSING = 4  # FILE_PIPE_CLOSING_STATE
_NO_HELLO = Hello(protocol=PROTOCOL_VERSION, api_key="", host="")
_NO_SETTINGS = "events came before any hello line, and no --host and --api-key were given (see --help)"


class Source(NamedTuple):
    """Descriptors that lead to the host of a detached sender; -1 where there is none."""

    answers: int = -1
    """The pipe for our answers."""
    dumps: int = -1
    """The pipe that faulthandler writes into."""
    handle: int = -1
    """A pidfd of the host."""


class Reader:
    """The input of a sender.

    Args:
        source: the host; None by hand. Then no process is watched, and streams may follow one another.
        overrides: fields of `Hello` that win over the stream's. If they name host and api_key, no hello is needed.
        fallback: the settings of events before any hello line, if overrides do not name those two.
        buffer: takes the events and the settings between them.
        tally: counts the events and the damaged lines.
        countdown: started at the end of the input.
        journal: told of every problem.

    """

    def __init__(
        self,
        source: Source | None,
        *,
        overrides: Mapping[str, Any],
        fallback: Hello | None,
        buffer: Buffer,
        tally: Tally,
        countdown: Countdown,
        journal: Journal,
    ) -> None:
        self._source = source
        self._last_words: LastWords | None = None
        self._latest: Event | None = None
        self._dump = bytearray()  # faulthandler's text among the lines
        self._was_silent = False
        self._has_ended = False  # by an `end` line
        self._overrides = overrides
        self._fallback = fallback
        self._buffer = buffer
        self._tally = tally
        self._countdown = countdown
        self._journal = journal
        self._decoder = LineDecoder()
        self._settings: Hello | None = None
        self.reading = True
        """Whether the input has not ended."""
        self.called_wrongly = ""
        """Why some events could not be sent at all: the stream did not say where to."""

    def start(self) -> None:
        """Read, on a new thread, until the input ends."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def leaves_something(self) -> bool:
        """Whether leaving now loses a part of the input. The caller holds the tally's lock."""
        return self.reading and (_readable(_STDIN, 0.0) or self._decoder.in_a_line)

    def end_of_input(self) -> None:
        """Start the countdown: from here on there is a deadline."""
        # Without any settings there is nothing to deliver, but still something to be stuck in.
        settings = self._settings or msgspec.structs.replace(_NO_HELLO, **self._overrides)
        self._countdown.start(settings.sender_deadline)

    def _read(self) -> None:
        ended = False
        try:
            while not ended:
                items, ended = self._next()
                self._buffer.touch()
                if items:
                    self._put(items)
            if self._last_words is not None:
                self._put(self._report_end(self._last_words))
        except Exception as error:
            self._tally.unread = True
            self._journal.problem(f"reading stopped: {error}")
        finally:
            self.reading = False
            self.end_of_input()
            self._buffer.close()

    def _next(self) -> tuple[list[Event | Hello], bool]:
        """Wait for input; return its events and settings, counted, and whether it ends there."""
        last_words = self._last_words
        if last_words is not None and not self._was_silent:
            hang_after = last_words.hang_after
            if hang_after is not None and not _readable(_STDIN, min(hang_after, _LONGEST)):
                self._was_silent = True
                report = self._added(lambda: last_words.hang(self._latest))
                self._journal.detail(f"the host was silent for {hang_after:g} s")
                return report, False
        if _readable(_STDIN, None):
            with self._tally.lock:
                return self._take(os.read(_STDIN, _READ_BYTES))
        data = os.read(_STDIN, _READ_BYTES)  # one cannot wait without taking
        with self._tally.lock:
            return self._take(data)

    def _take(self, data: bytes) -> tuple[list[Event | Hello], bool]:
        items: list[Event | Hello] = []
        self._was_silent = False
        ended = self._sort(self._decoder.feed(data) if data else self._decoder.close(), items)
        self._remember(items)
        if ended or not data:
            self._finish_dump(items)
        return items, ended or not data

    def _remember(self, items: Sequence[Event | Hello]) -> None:
        """Keep the latest event, from which a report takes its run and its person."""
        if not items or not isinstance(latest := items[-1], Event):
            return
        if self._last_words is not None:
            # One that was captured by the client alone belongs to no run, and perhaps to nobody.
            events = (item for item in reversed(items) if isinstance(item, Event))
            of_a_run = (event for event in events if b'"run_id":' in bytes(event.properties))
            latest = next(of_a_run, self._latest or latest)
        self._latest = latest

    def _sort(self, messages: Sequence[Message | LineError], items: list[Event | Hello]) -> bool:
        """Count decoded lines, collect those for the buffer; return whether they say that the input ends."""
        for message in messages:
            if isinstance(message, Event):
                if self._settings is None and not self._greet(None, items):
                    return True
                items.append(message)
                self._tally.read += 1
            elif isinstance(message, LineError):
                if message.is_hello:
                    self.called_wrongly = f"the hello line cannot be used: {message}"
                    return True
                if not (isinstance(message, CorruptLine) and self._is_of_a_dump(message.line)):
                    self._skip(str(message))
            elif isinstance(message, Hello):
                self._remember(items)
                self._finish_dump(items)
                if not self._greet(message, items):
                    return True
            elif isinstance(message, Forked):
                if self._last_words is not None:
                    self._last_words.forked = True
            else:
                self._has_ended = True
                if message.dropped:
                    self._journal.detail(f"the host captured {message.captured} events and dropped {message.dropped}")
                if message.discard:
                    self._countdown.stop()
                if self._source is not None:
                    return True
        return False

    def _greet(self, hello: Hello | None, items: list[Event | Hello]) -> bool:
        """Use the settings of a hello line (None: only the options); False when they cannot be used."""
        if hello is None:
            if self._fallback is None and not self._overrides.get("host"):
                self.called_wrongly = _NO_SETTINGS
                return False
            hello = self._fallback or _NO_HELLO
        elif hello.protocol != PROTOCOL_VERSION:
            self._journal.problem(f"the stream speaks protocol {hello.protocol}, this sender {PROTOCOL_VERSION}")
        settings = msgspec.structs.replace(hello, **self._overrides)
        fault = fault_of(settings)
        if fault:
            # Not to be skipped like other lines: its events would go to the previous stream's server.
            self.called_wrongly = f"the hello line cannot be used: {fault}"
            return False
        if settings != self._settings:
            self._settings = settings
            items.append(settings)
            if settings.watch is not None and self._source is not None:
                from atotelemetry.sender.last_words import LastWords  # only for a host that wants it

                self._last_words = LastWords(settings, settings.watch, self._source)
        return True

    def _skip(self, line: str) -> None:
        self._tally.bad_lines += 1
        self._journal.problem(f"skipped {line}")

    def _is_of_a_dump(self, line: bytes) -> bool:
        """Keep a line that is no JSON if it belongs to a dump; return whether all of it does."""
        from atotelemetry.sender.dump import MAX_DUMP_BYTES, begins, continues  # only for a damaged stream

        place = begins(line)
        if place < 0 and self._dump and continues(line):
            place = 0
        if place >= 0 and len(self._dump) < MAX_DUMP_BYTES:
            self._dump += line[place:] + b"\n"
        return place == 0

    def _finish_dump(self, items: list[Event | Hello]) -> None:
        """Make an event of the dump that came among the lines."""
        if not self._dump:
            return
        from atotelemetry.sender.dump import parse
        from atotelemetry.sender.last_words import dump_event

        text, self._dump = bytes(self._dump), bytearray()
        # A single line may be the text of an event that was torn.
        dump = parse(text) if text.count(b"\n") > 1 else None
        if dump is None:
            self._skip("a dump of one line")
            return
        if self._settings is None:
            self._greet(None, items)
        if self._settings is not None:
            items += self._counted(dump_event(dump, self._settings, self._latest))
            self._has_ended = True

    def _report_end(self, last_words: LastWords) -> list[Event | Hello]:
        """Return the report about a host that has ended, if it needs one."""
        self.end_of_input()
        patience = (self._countdown.left() or 0.0) / 4
        if self._countdown.stopped():
            return []
        return self._added(lambda: last_words.end(self._latest, patience, said_goodbye=self._has_ended))

    def _added(self, make: Callable[[], Event | None]) -> list[Event | Hello]:
        """Count the report that `make` returns, if any. A bug of ours costs that report, and no event."""
        try:
            report = make()
        except Exception as error:
            self._journal.problem(f"a report about the host failed: {error!r}")
            return []
        with self._tally.lock:
            return [] if report is None else self._counted(report)

    def _counted(self, report: Event) -> list[Event | Hello]:
        """Count a report of our own. The caller holds the tally's lock."""
        self._journal.detail(f"reporting {report.event}")
        self._tally.read += 1
        self._tally.added += 1
        return [report]

    def _put(self, items: list[Event | Hello]) -> None:
        if self._settings is not None and self._settings.patient and self._countdown.left() is None:
            dropped = self._buffer.put_dropping_oldest(items)
            if dropped:
                with self._tally.lock:
                    names = [event.event for event in dropped]
                    self._tally.drop(names, "the buffer is full", reasons.BUFFER_FULL)
        else:
            self._buffer.put(items, self._host_is_gone)

    def _host_is_gone(self) -> bool:
        """Notice the host's end even while a full buffer stops the reading."""
        gone = _hung_up(_STDIN)
        if gone:
            self.end_of_input()
        return gone


def _hung_up(stdin: int) -> bool:
    """Whether a pipe's other end is closed; False where one cannot ask."""
    if sys.platform == "win32":
        return _hung_up_on_windows(stdin)
    return _poll(stdin, 0, "POLLHUP", "POLLERR")


def _readable(stdin: int, within: float | None) -> bool:
    """Whether there is something to read, or the end, within so many seconds (None: for ever).

    False where one cannot ask: a terminal on macOS; on Windows all but a pipe.
    """
    if sys.platform == "win32":
        return _readable_on_windows(stdin, within)
    return _poll(stdin, within, "POLLIN", "POLLHUP")


def _poll(stdin: int, within: float | None, *events: str) -> bool:
    try:
        import select

        wanted = sum(getattr(select, event) for event in events)
        poll = select.poll()
        poll.register(stdin, wanted)
        return any(found & wanted for _, found in poll.poll(within and within * 1000))
    except (AttributeError, ImportError, OSError):
        return False


if sys.platform == "win32":

    def _readable_on_windows(stdin: int, within: float | None) -> bool:
        # Asked again and again: a read that waits would block every other question about the same pipe.
        import _winapi
        import msvcrt

        pipe = msvcrt.get_osfhandle(stdin)
        ends_at = None if within is None else time.monotonic() + within
        pause = _SHORTEST_LOOK
        while True:
            try:
                if _winapi.PeekNamedPipe(pipe, 0)[0]:
                    return True
            except BrokenPipeError:
                return True
            except OSError:
                return False
            if ends_at is not None and time.monotonic() >= ends_at:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK)

    def _hung_up_on_windows(stdin: int) -> bool:
        # `PeekNamedPipe` tells only when all was read. This is FILE_PIPE_LOCAL_INFORMATION of ntifs.h.
        import ctypes  # only for a buffer that is full
        import msvcrt

        information, status = (ctypes.c_ulong * 10)(), (ctypes.c_void_p * 2)()
        pipe = ctypes.c_void_p(msvcrt.get_osfhandle(stdin))
        query = ctypes.windll.ntdll.NtQueryInformationFile
        failed = query(pipe, status, information, ctypes.sizeof(information), 24)
        return not failed and information[8] == _CLOSING
