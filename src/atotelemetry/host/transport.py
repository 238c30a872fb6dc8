"""One sender after another: start it, write events into its pipe, end it, hear its answers.

Runs in the host. The mutable state is an outbox, at most one fed sender, and the accounts of all senders whose events
are on the way. Only the thread that has the work (`threads.Work`) changes it. Any thread may read it, and the senders'
answers. Pipes are non-blocking: a write into a full one waits, until the deadline, a fork or a no stops it.
"""

from __future__ import annotations

import errno
from time import sleep

from atotelemetry.host.child import GONE, Sender, Senders, add_counts
from atotelemetry.host.clock import monotonic
from atotelemetry.host.debug import debug
from atotelemetry.host.outbox import Outbox
from atotelemetry.host.signals import BrokenPipeIgnored
from atotelemetry.host.spawn import CannotSpawn, ends_everybody, start_sender
from atotelemetry.host.threads import OutOfTime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.host.stats import Counts
    from atotelemetry.host.stream import Stream
    from atotelemetry.host.threads import Deadline, Work

__all__ = ["DISABLED", "FEEDER_IDLE", "MAX_FAILURES", "Attempts", "Transport"]

FEEDER_IDLE = 10.0
"""A sender that was fed nothing for so long is ended; the next event starts another."""

MAX_FAILURES = 3
"""So many senders in a row that could not be started, or never read their input, end the attempts."""

DISABLED = "disabled"
_NO_SENDER = "no sender"
_NETWORK_DOWN = "network down"

_RETRY_SPAWN = 0.1  # between attempts: a process limit may be a moment's
_LOOK_INTERVAL = 0.25  # how often to look for answers while any are due
_REAP_INTERVAL = 0.002  # how often to look in the few milliseconds until the spawned process has left
_LOOK_UP = 0.01  # how often a wait for a full pipe asks whether to stop
_LOOK_UP_OFTEN = 0.001  # how often, if a fork has waited for this pipe before
_SHORTAGE_PAUSE = 10.0  # after so many attempts in vain for want of descriptors, processes or memory
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_CUT_OFF = b"\xff\n"  # ends a line of which the pipe has a part; it is no JSON, so it is no event


class Transport:
    """One client's senders. See `Feeder` for the arguments; `gave_up` is called when no more senders are started."""

    def __init__(
        self,
        stream: Stream,
        counts: Counts,
        work: Work,
        *,
        on_error: Callable[[str, int], object] | None,
        wait_for_delivery: bool | None,
        gave_up: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._counts = counts
        self._work = work
        self._on_error = on_error
        self._wait_for_delivery = wait_for_delivery
        self.discards: list[object] = []
        """Requests to discard that are not yet obeyed. While there is any, events are dropped."""
        self.is_stuck = False
        """Whether the last fork waited for the pipe in vain, and the pipe has taken nothing since."""
        self.outbox = Outbox()
        self.sender: Sender | None = None
        """The sender that is fed."""
        self.senders = Senders()
        self.attempts = Attempts(stream, gave_up)
        self._looked_at = 0.0
        self._reported: dict[str, int] = {}
        self._losses_told = 0

    # ---- called by any thread

    def waits_for_delivery(self) -> bool:
        """Whether an exit waits for the server."""
        return ends_everybody() if self._wait_for_delivery is None else self._wait_for_delivery

    def wait_for_reaping(self, deadline: Deadline) -> None:
        """Wait until every spawned process has left."""
        while not self.senders.left_alone() and not deadline.passed():
            sleep(0.001)
            self.senders.look()

    def wait_for_answers(self, deadline: Deadline) -> bool:
        """Wait for the fate of every event; True: no event since the last such call was lost."""
        pause = 0.002
        while True:
            self.senders.look()
            if self.senders.have_answered() and not (self._outlives_flush() and self._holds_events()):
                before, self._losses_told = self._losses_told, sum(self._losses().values())
                return before == self._losses_told
            if deadline.passed():
                return False
            sleep(deadline.remaining(pause))
            pause = min(pause * 1.5, 0.05)

    def _losses(self) -> dict[str, int]:
        """Return how many events were dropped here or lost by senders, by reason."""
        return add_counts(self._counts.losses, self.senders.fate()[1])

    def _holds_events(self) -> bool:
        """Whether the fed sender has events of unknown fate."""
        return self.sender is not None and self.sender.on_the_way

    def _outlives_flush(self) -> bool:
        """Whether a flush leaves the sender alive."""
        return self._stream.patient or self._stream.last_words is not None

    def _may_be_ended(self) -> bool:
        """Whether the fed sender may be ended because it has nothing to do."""
        return self._stream.last_words is None and not (self._stream.patient and self._holds_events())

    # ---- the work: feed a sender

    def add(self, line: bytes, *, at_most: int) -> None:
        """Take an event. It is dropped after a no; in a pause, if `at_most` events wait already."""
        if self.discards:
            self._drop(DISABLED, 1)
        elif len(self.outbox) >= at_most and self.attempts.pause_left():
            self._drop(self.attempts.reason, 1)
        else:
            self.outbox.add(line)

    def hand_over(self, *, insists: bool = False) -> None:
        """Write the outbox into a sender's pipe. A sender that dies leaves its lines to the next.

        `insists` starts a sender also while the network is down. Raises `Interrupted` and `OutOfTime`.
        """
        assert self._work.is_mine()  # noqa: S101 - every change here relies on it
        while self.outbox and not self.discards and not self.attempts.are_over:
            sender = self.sender or self._start_sender(insists=insists)
            if sender is None:
                if self.attempts.pause_left():
                    return
                if not self.attempts.are_over:
                    sleep(self._work.within(_RETRY_SPAWN))
                continue
            try:
                self._write(sender, self.outbox.rest())
            except OutOfTime:
                self._let_go(sender)
                self._drop("flush timed out", self.outbox.clear())
                raise
            except OSError:  # EPIPE, or EBADF after a host closed descriptors that are not its own
                self._let_go(sender)
                if not sender.ready:
                    sleep(self._work.within(_RETRY_SPAWN))
                self.look()
        if self.discards and self.sender is not None:
            self._count(self.sender, self.outbox.cut())  # the sender counts a cut line as one it cannot read
        self._drop(DISABLED if self.discards else self.attempts.reason, self.outbox.clear())

    def _start_sender(self, *, insists: bool) -> Sender | None:
        """Start a sender and put its hello into the outbox; None when that failed this time."""
        started = self.attempts.start(urgent=self.waits_for_delivery(), insists=insists)
        if started is None:
            return None
        self.sender, hello = started
        self.senders.add(self.sender)
        self.outbox.begin(hello)
        return self.sender

    def _write(self, sender: Sender, data: memoryview) -> None:
        """Write `data`: the outbox, or when that is empty the last line. A no stops the outbox.

        Raises `OSError` when the reader is gone.
        """
        while data:
            try:
                count = sender.write(data)
            except BlockingIOError:
                if self.discards and self.outbox:
                    return
                self._work.check()
                sender.wait_writable(self._work.within(_LOOK_UP_OFTEN if self.is_stuck else _LOOK_UP))
            else:
                self.is_stuck = False
                self._count(sender, self.outbox.wrote(count))
                data = data[count:]

    def _count(self, sender: Sender, events: int) -> None:
        self._counts.handed_over += events
        sender.given += events

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._counts.drop(reason, count)

    def mark_fork(self) -> None:
        """Tell a sender that watches of a fork: the process that ends next may be a daemon's first one."""
        if self._stream.last_words is None or self.sender is None or not self._work.is_mine():
            return
        if self.outbox:
            self.outbox.append(self._stream.forked())
            return
        with BrokenPipeIgnored():
            try:
                self.sender.write(memoryview(self._stream.forked() + b"\n"))
            except OSError:
                pass  # it is stuck, or gone

    # ---- the work: end a sender

    def flush(self, *, insists: bool, stop: bool, exits: bool) -> bool:
        """End the sender, unless it outlives a flush. False: events were dropped for want of a sender."""
        handed_over = True
        if self.outbox:  # a pause
            self.attempts.resume(insists=insists)
            self.hand_over(insists=insists)
            handed_over = not self.outbox
            self._drop(self.attempts.reason, self.outbox.clear())
        if stop and not exits:
            self._stream.watch_no_longer()
        elif exits and self.waits_for_delivery():
            self._stream.mute()  # else not yet: the interpreter may crash while it shuts down
        if stop or not self._outlives_flush():
            self.end_sender()
        return handed_over and not self.attempts.are_over

    def end_idle_sender(self) -> None:
        """End a sender that was fed nothing for FEEDER_IDLE."""
        if self.sender is not None and self._may_be_ended() and not self.outbox and not self._idle_left(self.sender):
            self.end_sender()

    def _idle_left(self, sender: Sender) -> float:
        return max(0.0, FEEDER_IDLE - sender.idle_for())

    def end_sender(self) -> None:
        """Say `end` and close the pipe. The sender drains and exits; after a no, it drops its events."""
        assert not self.outbox  # noqa: S101 - nothing may follow the last line
        if self.sender is None:
            return
        if self.discards:
            self._stream.mute()
        try:
            # A pipe takes so short a line as a whole or not at all (pipe(7), PIPE_BUF).
            line = self._stream.end(self._counts, discard=bool(self.discards)) + b"\n"
            self._write(self.sender, memoryview(_CUT_OFF + line if self.outbox.cut_off else line))
        except (OSError, OutOfTime):
            pass  # it sees the end of its input
        self._close(self.sender)

    def _let_go(self, sender: Sender) -> None:
        """Close the pipe of a sender without an `end`."""
        self._stream.mute()
        self._close(sender)

    def _close(self, sender: Sender) -> None:
        self.sender = None
        self.outbox.begin()
        sender.close()

    # ---- the work: hear the answers

    def look(self) -> None:
        """Read the senders' answers, and settle the accounts of senders that are gone."""
        self._looked_at = monotonic()
        self.senders.look()
        if self.sender is not None and self.sender.life == GONE:
            debug("the sender is gone; the next event starts another")
            self._let_go(self.sender)
        for sender in self.senders.settle(self.sender):
            if sender.ready:
                self.attempts.succeeded()
            else:
                self.attempts.failed("it died at once", temporary=sender.could_not_fork)
        if self._work.deadline is None:  # the feeder's thread
            self._report()

    def due_in(self) -> float | None:
        """Return after how many seconds there is work without a new event; None: never."""
        due = []
        if self.senders.are_starting():
            due.append(_REAP_INTERVAL)
        elif self._on_error is not None or self.senders.owe_answers(self.sender):
            due.append(max(0.0, self._looked_at + _LOOK_INTERVAL - monotonic()))
        if self.sender is not None and self._may_be_ended():
            due.append(self._idle_left(self.sender))
        if self.outbox:  # a pause
            due.append(self.attempts.pause_left())
        return min(due, default=None)

    def _report(self) -> None:
        """Tell the log and the host of new losses."""
        for reason, count in self._losses().items():
            before = self._reported.get(reason, 0)
            if count == before:
                continue
            self._reported[reason] = count
            if not before and reason not in self._counts.dropped:
                debug("lost an event (%s); any more are only counted", reason)
            if self._on_error is not None:
                try:
                    self._on_error(reason, count - before)
                except BaseException as error:
                    debug("on_error raised: %r", error)


class Attempts:
    """Failures in a row, pauses, and the end of all attempts to start a sender; then it calls `gave_up`.

    In a pause, events wait. A flush drops them with the `reason` of the pause.
    """

    def __init__(self, stream: Stream, gave_up: Callable[[], None]) -> None:
        self._stream = stream
        self._gave_up = gave_up
        self._failures = 0
        self._paused_until = 0.0
        self.reason = _NO_SENDER
        self.are_over = False
        """Whether no sender will be started any more."""

    def start(self, *, urgent: bool, insists: bool) -> tuple[Sender, bytes] | None:
        """Start a sender; return it and its first line. None when that failed, or a pause is not over.

        `insists`: also while the network is down.
        """
        if self.pause_left():
            return None
        try:
            pause = 0.0 if insists or urgent or self._stream.patient else self._stream.network_pause()
            if pause:
                debug("the network is down: no sender for %d s", pause)
                self._pause(_NETWORK_DOWN, pause)
                return None
            hello = self._stream.hello()
            watch = self._stream.last_words is not None
            return start_sender(urgent=urgent, watch=watch, dumps=self._stream.listen()), hello
        except CannotSpawn as error:
            self._give_up(str(error))
        except Exception as error:
            debug("no sender could be started: %s", error)
            self.failed(str(error), temporary=isinstance(error, OSError) and error.errno in _SHORTAGES)
        return None

    def pause_left(self) -> float:
        """Return for how many seconds it makes no sense to try again."""
        return max(0.0, self._paused_until - monotonic())

    def resume(self, *, insists: bool) -> None:
        """End a pause for a flush; one for a dead network only if the flush insists."""
        if insists or self.reason != _NETWORK_DOWN:
            self._paused_until = 0.0

    def succeeded(self) -> None:
        """Note that a sender read its input."""
        self._failures = 0

    def failed(self, reason: str, *, temporary: bool) -> None:
        """Note that a sender could not be started, or never read its input."""
        self._failures += 1
        if self._failures < MAX_FAILURES:
            return
        if temporary:
            self._failures = 0
            self._pause(_NO_SENDER, _SHORTAGE_PAUSE)
        else:
            self._give_up(f"{self._failures} senders in a row failed: {reason}")

    def _pause(self, reason: str, seconds: float) -> None:
        self.reason, self._paused_until = reason, monotonic() + seconds

    def _give_up(self, reason: str) -> None:
        self.reason, self.are_over = _NO_SENDER, True
        debug("telemetry gave up: %s", reason)
        self._gave_up()
