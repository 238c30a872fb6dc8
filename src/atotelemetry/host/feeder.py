"""The bounded queue, and the thread that empties it into a sender's pipe.

Runs in the host. Any thread may call `put`, also a signal handler, or a `__del__` in the middle of another `put`. So it
takes no lock of ours (`SimpleQueue.put` is reentrant by contract). Everything else, starting senders, writing to them,
ending them and settling their accounts, is *the work*. It is done under the lock of that name, by one of these:

- the feeder's thread, started by the first event;
- a `flush` that finds no thread and cannot start one (interpreter exit, or the host is out of threads);
- a fork, which takes the work away so that nothing is half done in the child, and then lets it go on.

The mutable state of the work is one outbox, at most one sender that is fed, and the accounts of all senders whose
events are on the way. Pipes are non-blocking: behind a stuck sender the work waits, the queue fills, and `put` says no.
Flush requests go through the events' queue, so they come after every earlier event.

This is one long file: every method under "the work" needs that lock and changes the same few attributes.
"""

from __future__ import annotations

import sys
from _queue import Empty, SimpleQueue
from _thread import allocate_lock, get_ident, get_native_id, start_new_thread
from time import sleep

from atotelemetry.host.attempts import Attempts
from atotelemetry.host.child import GONE, Sender, Senders, add_counts
from atotelemetry.host.clock import monotonic
from atotelemetry.host.debug import debug
from atotelemetry.host.outbox import Outbox
from atotelemetry.host.signals import BrokenPipeIgnored, block_signals
from atotelemetry.host.spawn import ends_everybody
from atotelemetry.host.stats import Counts
from atotelemetry.host.threads import Deadline, Work, wait_for_end_of_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.host.stream import Stream

__all__ = ["FEEDER_IDLE", "Feeder"]

FEEDER_IDLE = 10.0
"""A sender that was fed nothing for so long is ended; the next event starts another."""

_RETRY_SPAWN = 0.1  # between attempts: a process limit may be a moment's
_LOOK_INTERVAL = 0.25  # how often the thread looks for answers while any are due
_REAP_INTERVAL = 0.002  # how often it looks in the few milliseconds until the spawned process has left
_REAP_PATIENCE = 0.05  # how long a flush waits for that
_WRITE_BYTES = 64 * 1024  # gather about a pipe's capacity for one write
_FORK_PATIENCE = 0.1  # how long a fork waits for the queue to drain
_NO_PATIENCE = 0.1  # how long a no waits until the sender that watches has heard of it
_LOOK_UP = 0.01  # how often a wait that a fork may end looks for one
_LOOK_UP_OFTEN = 0.001  # how often, if a fork has waited for this pipe before
# Python warns a program that forks with threads. Up to 3.12 it counts them before it calls our hook, later after.
_MAY_START_AFTER_FORK = sys.version_info < (3, 13)
_CUT_OFF = b"\xff\n"  # ends a line of which the pipe has a part; it is no JSON, so it is no event
_WAKE_UP = b""  # in the queue: no event, only a reason to look around

DISABLED = "disabled"
QUEUE_FULL = "queue full"
GAVE_UP = "gave up"


class _Flush:
    """A request that travels through the queue behind the events it is about.

    `insists` starts a sender also while the network is down. `stop` ends the thread; `exits` ends it at once, because
    the process ends, too.
    """

    def __init__(self, *, insists: bool, stop: bool, exits: bool = False) -> None:
        self.insists = insists
        self.stop = stop or exits
        self.exits = exits
        self.handed_over = False
        self.done = allocate_lock()
        self.done.acquire()


class _Discard:
    """A request to drop everything before it in the queue, and all unposted events of the sender."""


class _Interrupted(Exception):
    """A fork wants the work. The next thread to have it goes on where it stopped."""


class _OutOfTime(Exception):
    """The deadline passed while a sender's pipe was full."""


class _Discarded(Exception):
    """Somebody said no while a sender's pipe was full."""


class Feeder:
    """A bounded queue of encoded events and the way from there into a sender, for one client.

    Args:
        queue_size: events that wait at most.
        stream: makes the first and the last line of a sender's input. Where it has last words, a sender is ended only
            by a stop or a no.
        on_error: called with a reason and a count, on the feeder's thread, for events that were dropped or lost.
        patient: a sender that holds events is not ended while the host lives.
        wait_for_delivery: whether an exit waits for the server; None where this process's end is everybody's end.

    """

    def __init__(
        self,
        *,
        queue_size: int,
        stream: Stream,
        on_error: Callable[[str, int], object] | None = None,
        patient: bool = False,
        wait_for_delivery: bool | None = None,
    ) -> None:
        self._queue_size = queue_size
        self._stream = stream
        self._on_error = on_error
        self._discards_for_good = False
        self._patient = patient
        self._wait_for_delivery = wait_for_delivery
        self.forgotten = False
        """Whether the client is gone: no event will come any more."""
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[bytes | _Flush | _Discard] = SimpleQueue()
        # Requests that the work has not come to. While there is any, events are dropped.
        self._discards: list[_Discard] = [_Discard()] if self._discards_for_good else []
        self.put_unbounded = self._queue.put
        self.qsize = self._queue.qsize
        self.refusal = DISABLED if self._discards_for_good else QUEUE_FULL
        """Why `put` says no."""
        self._room = 0 if self._discards_for_good else self._queue_size
        self.counts = Counts()
        self.handed_over = 0
        self._work = Work()
        self._running = False  # the feeder's thread is there, or about to be
        self._native_id = 0  # of that thread
        self._thread = 0
        self._stopping = False  # the thread ends when it has handed over, and nobody of ours is left to reap
        self._exiting = False  # the system reaps
        self._left_early = False  # whether the last fork found something that the pipe had not taken
        self._stuck = False  # it did, after it had waited, and the pipe has taken nothing since
        self._rested_since = 0.0
        # The work.
        self._outbox = Outbox()
        self._sender: Sender | None = None
        self._senders = Senders()
        self._looked_at = 0.0
        self._attempts = Attempts(self._stream, patient=self._patient)
        self._reported: dict[str, int] = {}
        self._losses_told = 0

    # ---- called by any thread

    def put(self, line: bytes) -> bool:
        """Queue one encoded event; False when the queue is full. Never blocks, never raises but for lack of memory."""
        queue = self._queue
        if queue.qsize() >= self._room:
            return False
        queue.put(line)
        if not self._running:
            try:
                self._start_thread()
            except Exception:
                return True  # no stack left for it: the next `put`, or a flush, tries again
        return True

    def discard(self, *, for_good: bool = False) -> None:
        """Drop the events in the queue, and tell the sender to drop those it has not posted.

        `for_good`: and every event from here on. Never waits but for a sender that watches, a moment: it must know of
        the no before anything happens to this process.
        """
        request = _Discard()
        self._discards_for_good = self._discards_for_good or for_good
        self._room, self.refusal = 0, DISABLED  # also for an event that another thread is about to put
        self._discards.append(request)  # first, so that nothing in the queue is written any more
        if self._running or self._waiting() or self._sender is not None:
            self.put_unbounded(request)
            self._start_thread()
            deadline = Deadline(0.0 if self._stream.last_words is None or self._work.is_done_here() else _NO_PATIENCE)
            while self._sender is not None and not deadline.passed():
                sleep(_REAP_INTERVAL)
        elif not for_good:
            self._discards.remove(request)

    def admit(self) -> None:
        """Take events again after a `discard`, unless that was for good."""
        if not self._discards_for_good and not self._gave_up():
            self._room, self.refusal = self._queue_size, QUEUE_FULL

    def flush(self, timeout: float | None, *, delivered: bool = False, stop: bool = False) -> bool:
        """Wait until every event put so far is in the pipe, then end the sender; see `TelemetryClient.flush`.

        `stop` also ends the feeder's thread.
        """
        deadline = Deadline(timeout)
        if not self.hand_over(deadline, insists=delivered, stop=stop):
            return False
        # So that an `exec` after the flush meets no zombie.
        self._wait_for_reaping(Deadline(deadline.remaining(_REAP_PATIENCE)))
        return self.wait_for_answers(deadline) if delivered else True

    def hand_over(self, deadline: Deadline, *, insists: bool, stop: bool = False, exits: bool = False) -> bool:
        """Wait until every event put so far is in the pipe. With `insists` also while the network is down."""
        if self._work.is_done_here():
            return False  # a logging handler or a finalizer, run by the very thread that it would wait for
        self._work.recover()
        if self.is_over():
            return True
        request = _Flush(insists=insists, stop=stop, exits=exits)
        self.put_unbounded(request)
        while True:
            # Again, if a fork took the work before it came to this request.
            if not self._running and (self._work.fork_is_due() or not self._start_thread()):
                self._work_here(deadline)
            if request.done.acquire(timeout=deadline.remaining(_RETRY_SPAWN)):
                return request.handed_over
            if deadline.passed():
                return False

    def forget(self) -> None:
        """Hand over the queue, then end the thread and the sender. The client is gone. Never waits."""
        self.forgotten = True
        if not self.is_over():
            self.put_unbounded(_Flush(insists=False, stop=True))
            self._start_thread()

    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not self._running and self._sender is None and not self._waiting()

    def waits_for_delivery(self) -> bool:
        """Whether an exit waits for the server."""
        return ends_everybody() if self._wait_for_delivery is None else self._wait_for_delivery

    def is_settled(self) -> bool:
        """Whether nothing is left to do and the fate of every event is known."""
        return self.is_over() and self._senders.have_answered()

    def added(self) -> int:
        """Return how many events senders have made: the reports of hangs."""
        return self._senders.added()

    def fate(self) -> tuple[int, dict[str, int]]:
        """Return how many events were delivered so far, and how many were lost by reason."""
        self._senders.look()
        return self._senders.fate()

    def _wait_for_reaping(self, deadline: Deadline) -> None:
        while not self._senders.left_alone() and not deadline.passed():
            sleep(0.001)
            self._senders.look()

    def wait_for_answers(self, deadline: Deadline) -> bool:
        """Wait for the fate of every event; True: no event since the last such call was lost."""
        pause = 0.002
        while True:
            self._senders.look()
            if self._senders.have_answered() and not (self._outlives_flush() and self._holds_events()):
                before, self._losses_told = self._losses_told, sum(self._losses().values())
                return before == self._losses_told
            if deadline.passed():
                return False
            sleep(deadline.remaining(pause))
            pause = min(pause * 1.5, 0.05)

    def _losses(self) -> dict[str, int]:
        """Return how many events were dropped here or lost by senders, by reason."""
        return add_counts(self.counts.losses, self._senders.fate()[1])

    def _waiting(self) -> bool:
        """Whether anything still has to be written."""
        return bool(self.qsize() or len(self._outbox))

    def _holds_events(self) -> bool:
        """Whether the fed sender has events of unknown fate."""
        return self._sender is not None and self._sender.on_the_way

    def _outlives_flush(self) -> bool:
        """Whether a flush leaves the sender alive."""
        return self._patient or self._stream.last_words is not None

    def _may_be_ended(self) -> bool:
        """Whether the fed sender may be ended because it has nothing to do."""
        return self._stream.last_words is None and not (self._patient and self._holds_events())

    def _start_thread(self) -> bool:
        """Start the feeder's thread unless there is one; False when there can be none now.

        There is no lock here that a signal handler which raises (Ctrl-C) could leave locked. Nothing comes between the
        question and the assignment, or between that and the start: the interpreter changes threads and runs signal
        handlers after calls, at jumps back and where a function begins.
        """
        if self._stream.last_words is not None:
            self._stream.last_words.enable()
        if self._running:
            return True
        self._running = True
        try:
            start_new_thread(self._run, ())
        except (RuntimeError, MemoryError) as error:
            # No more threads (a limit, or the interpreter is shutting down): the events wait for a flush.
            self._running = False
            debug("no thread for the feeder: %s", error)
            return False
        return True

    # ---- around a fork, on the thread that forks

    def before_fork(self) -> None:
        """Take the work away, and let the feeder's thread end.

        So nothing is half done in the child. And Python, which since 3.12 warns a program that forks while it has
        threads, does not count ours. A fork waits a moment for the queue to drain, but only once for a full pipe.
        """
        if self._work.is_done_here():
            self._work.acquire()  # a signal handler or a finalizer of the host's, in the middle of the work
            return
        deadline = self._work.fork_begins(0.0 if self._stuck else _FORK_PATIENCE)
        if self._running:
            self.put_unbounded(_WAKE_UP)
        while self._work.acquire(deadline.remaining()):
            if not self._running or deadline.passed():
                break
            self._work.release()  # a thread that was only just started is not there yet
            sleep(0.0005)
        wait_for_end_of_thread(self._native_id)
        self._native_id = 0
        self._wait_for_reaping(Deadline(_REAP_PATIENCE))
        self._left_early = self._stuck = self._waiting()

    def after_fork_in_parent(self) -> None:
        """Go on at once if there is work and Python allows it, else with the next event or flush."""
        self._mark_fork()
        self._work.fork_ends()
        goes_on = self._waiting() and not self._left_early
        if _MAY_START_AFTER_FORK:
            goes_on = self._waiting() or not self._senders.are_settled()
        if goes_on and not self._work.is_forking():
            self._start_thread()

    def _mark_fork(self) -> None:
        """Tell the sender of it: from now on the end of its input may be that of a daemon's first process."""
        if self._stream.last_words is None or self._sender is None or not self._work.is_mine():
            return
        if len(self._outbox):
            self._outbox.append(self._stream.forked())
            return
        ignore_broken_pipe = BrokenPipeIgnored()
        try:
            self._sender.write(memoryview(self._stream.forked() + b"\n"))
        except OSError:
            pass  # it is stuck, or gone
        finally:
            ignore_broken_pipe.restore()

    def after_fork_in_child(self) -> None:
        """Forget the parent's events, and let go of its pipes: each process feeds its own sender."""
        if self._stream.last_words is not None:
            self._stream.last_words.after_fork_in_child()
        self._senders.let_go()
        self._reset()

    # ---- the work

    def _run(self) -> None:
        """Be the feeder's thread."""
        try:
            block_signals()
            self._native_id, self._thread = get_native_id(), get_ident()
            self._work.acquire()
            try:
                self._do_work(None)
            finally:
                self._work.release()
            if self.qsize() and not self._work.fork_is_due():
                self._start_thread()  # an event or a request that came in the last moment
            elif self.forgotten and self.is_over() and not self.waits_for_delivery():
                self._senders.let_go()  # nobody is left to ask for the answers
        except Exception as error:
            # A bug of ours is no traceback on the host's terminal. The next event starts a new thread.
            debug("the feeder failed: %r", error)
            self._running = False

    def _work_here(self, deadline: Deadline) -> None:
        """Do the feeder's work on this thread until the queue is empty or the deadline has passed."""
        if self._work.acquire(deadline.remaining(_LOOK_UP if self._work.fork_is_due() else -1.0)):
            ignore_broken_pipe = BrokenPipeIgnored()
            try:
                self._do_work(deadline)
            finally:
                ignore_broken_pipe.restore()
                self._work.release()

    def _do_work(self, deadline: Deadline | None) -> None:
        """Hand over the queue: for ever, or with a `deadline` until that has passed or the queue is empty."""
        self._work.begin()
        try:
            is_idle = self._rested_since and monotonic() - self._rested_since > FEEDER_IDLE
            if is_idle and not len(self._outbox) and self._may_be_ended():
                self._end_sender(deadline)  # nobody was there to do it in time
            self._rested_since = 0.0
            self._hand_over(deadline)
            while (item := self._next(deadline)) is not None:
                request = self._feed(item, deadline) if isinstance(item, bytes) else item
                if isinstance(request, _Discard):
                    self._obey(request, deadline)
                elif request is not None:
                    self._answer(request, deadline)
        except _Interrupted:
            self._rested_since = monotonic()
        except _OutOfTime:
            pass  # only with a deadline: the flush that brought it says False
        finally:
            self._work.end()
            if deadline is None:
                self._running = False

    def _make_way(self) -> None:
        """Raise `_Interrupted` if a fork wants the work, and nothing is queued or it has waited long enough."""
        if self._work.fork_is_due() and (not self.qsize() or self._work.fork_insists()):
            raise _Interrupted

    def _next(self, deadline: Deadline | None) -> bytes | _Flush | _Discard | None:
        """Take the next item; while there is none, look after the senders.

        None ends the work: an empty queue when there is a deadline, else a stop.
        """
        if deadline is not None:
            return self._queue.get_nowait() if self.qsize() else None
        idle = Deadline(FEEDER_IDLE)
        while True:
            self._make_way()
            is_done = self._stopping and self._sender is None and not self.qsize()
            # A thread that the interpreter meets while it shuts down costs the exit a millisecond.
            if is_done and (self._exiting or self._senders.left_alone()):
                return None
            try:
                return self._queue.get(True, self._until_something_is_due(idle))
            except Empty:
                self._look()
                if self._sender is not None and idle.passed() and self._may_be_ended():
                    self._end_sender(None)
                self._hand_over(None)  # if there was a pause, and it is over

    def _until_something_is_due(self, idle: Deadline) -> float | None:
        """Return how long the thread may wait for the next item."""
        due = []
        if self._senders.are_starting():
            due.append(_REAP_INTERVAL)
        elif self._on_error is not None or self._senders.owe_answers(self._sender):
            due.append(max(0.0, self._looked_at + _LOOK_INTERVAL - monotonic()))
        if self._sender is not None and self._may_be_ended():
            due.append(idle.remaining())
        if self._attempts.are_pausing() and len(self._outbox):  # without an event, nobody is there to end the pause
            due.append(self._attempts.pause_left())
        return min(due, default=None)

    def _answer(self, request: _Flush, deadline: Deadline | None) -> None:
        """End the sender, for the flush that asks for it; later, if a fork comes first."""
        handed_over = True
        try:
            if len(self._outbox):  # a pause
                self._attempts.resume(insists=request.insists)
                self._hand_over(deadline)
                handed_over = not len(self._outbox)
                self._drop(self._attempts.reason, self._outbox.clear())
            # While the interpreter shuts down it may still crash; but whoever waits for the sender must not keep it.
            if request.stop and not (request.exits and not self.waits_for_delivery()):
                if request.exits:
                    self._stream.mute()
                else:
                    self._stream.watch_no_longer()
            if request.stop or not self._outlives_flush():
                self._end_sender(deadline)
        except BaseException:
            self.put_unbounded(request)
            raise
        finally:
            self._attempts.insist_no_longer()
        self._stopping, self._exiting = self._stopping or request.stop, self._exiting or request.exits
        request.handed_over = handed_over and not self._attempts.are_over
        request.done.release()
        if not request.stop:  # most often the exit, which must not wait for this
            self._look()

    def _obey(self, request: _Discard, deadline: Deadline | None) -> None:
        """Drop the events that wait, and end the sender, which drops those it holds."""
        try:
            self._hand_over(deadline)
            self._stream.mute()
            self._end_sender(deadline)
        except BaseException:
            self.put_unbounded(request)
            raise
        if not self._discards_for_good:
            self._discards.remove(request)

    def _feed(self, first: bytes, deadline: Deadline | None) -> _Flush | _Discard | None:
        """Write `first` and the events queued behind it, as many as fit one write; return a request met there."""
        item: bytes | _Flush | _Discard = first
        if not self._discards_for_good and not self._stream.holds():
            self.discard(for_good=True)
        size_bytes = 0
        while isinstance(item, bytes):
            if item is _WAKE_UP:
                pass
            elif self._discards:
                self._drop(DISABLED, 1)
            elif len(self._outbox) >= self._queue_size and self._attempts.pause_left():
                self._drop(self._attempts.reason, 1)
            else:
                self._outbox.add(item)
                size_bytes += len(item)
            if size_bytes >= _WRITE_BYTES or not self.qsize():
                break
            item = self._queue.get_nowait()
        request = None if isinstance(item, bytes) else item
        try:
            self._hand_over(deadline)
        except BaseException:
            if request is not None:
                self.put_unbounded(request)
            raise
        return request

    def _hand_over(self, deadline: Deadline | None) -> None:
        """Write the outbox into a sender's pipe. The next sender gets the lines that a dying one did not take."""
        while len(self._outbox) and not self._discards and not self._gave_up():
            sender = self._sender or self._start_sender(deadline)
            if sender is None:
                if self._attempts.are_pausing():
                    return
                continue
            try:
                self._write(sender, self._outbox.rest(), deadline)
            except _Discarded:
                break
            except _OutOfTime:
                self._let_go(sender)
                self._drop("flush timed out", self._outbox.clear())
                raise
            except OSError:  # EPIPE, or EBADF after a host closed descriptors that are not its own
                self._let_go(sender)
                if not sender.ready:
                    sleep(_within(deadline, _RETRY_SPAWN))
                self._look()
        if self._discards and self._sender is not None:
            cut = self._outbox.cut()  # the sender answers for it, as for a line that it cannot read
            self.handed_over += cut
            self._sender.given += cut
        self._drop(DISABLED if self._discards else self._attempts.reason, self._outbox.clear())

    def _count(self, written: int) -> None:
        events = self._outbox.wrote(written)
        self.handed_over += events
        if self._sender is not None:
            self._sender.given += events

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.counts.drop(reason, count)

    def _write(self, sender: Sender, data: memoryview, deadline: Deadline | None, *, ends: bool = False) -> None:
        """Write the outbox's `data`, or with `ends` the last line. Raises `OSError` when the reader is gone."""
        while data:
            try:
                count = sender.write(data)
            except BlockingIOError:
                if deadline is not None and deadline.passed():
                    raise _OutOfTime from None
                if self._discards and not ends:
                    raise _Discarded from None
                self._make_way()
                look_up = _LOOK_UP_OFTEN if self._stuck else _LOOK_UP
                sender.wait_writable(_within(deadline, look_up))
            else:
                self._stuck = False
                if not ends:
                    self._count(count)
                data = data[count:]

    # ---- one sender after the other

    def _start_sender(self, deadline: Deadline | None) -> Sender | None:
        """Start a sender, with its hello as the first line to be written; None when that failed this time."""
        started = self._attempts.start(urgent=self.waits_for_delivery())
        if started is None:
            if not self._attempts.are_over and not self._attempts.are_pausing():
                sleep(_within(deadline, _RETRY_SPAWN))
            return None
        self._sender, hello = started
        self._senders.add(self._sender)
        self._outbox.greet(hello)
        return self._sender

    def _gave_up(self) -> bool:
        """Whether no sender will be started any more; then no event is taken any more."""
        if self._attempts.are_over:
            self._room, self.refusal = 0, GAVE_UP
        return self._attempts.are_over

    def _let_go(self, sender: Sender) -> None:
        """Close the pipe of a sender without an `end`."""
        self._stream.mute()
        self._outbox.start_again()
        self._sender = None
        sender.close()

    def _end_sender(self, deadline: Deadline | None) -> None:
        """Say `end` and close the pipe, so that the sender drains and exits."""
        sender = self._sender
        if sender is None:
            return
        try:
            # A pipe takes so short a line as a whole or not at all (pipe(7), PIPE_BUF).
            line = self._stream.end(self.counts, discard=bool(self._discards)) + b"\n"
            self._write(sender, memoryview(_CUT_OFF + line if self._outbox.cut_off else line), deadline, ends=True)
        except (OSError, _OutOfTime):
            pass  # it sees the end of its input
        self._sender = None
        self._outbox.start_again()
        sender.close()

    def _look(self) -> None:
        """Read the senders' answers, and settle the accounts of senders that are gone."""
        self._looked_at = monotonic()
        self._senders.look()
        if self._sender is not None and self._sender.life == GONE:
            debug("the sender is gone; the next event starts another")
            self._let_go(self._sender)
        for sender in self._senders.settle(self._sender):
            if sender.ready:
                self._attempts.succeeded()
            else:
                self._attempts.failed("it died at once", temporary=sender.could_not_fork)
                self._gave_up()
        if self._thread == get_ident():
            self._report()

    def _report(self) -> None:
        """Tell the log and the host of new losses."""
        for reason, count in self._losses().items():
            before = self._reported.get(reason, 0)
            if count == before:
                continue
            self._reported[reason] = count
            if not before and reason not in self.counts.dropped:
                debug("lost an event (%s); any more are only counted", reason)
            if self._on_error is not None:
                try:
                    self._on_error(reason, count - before)
                except BaseException as error:
                    debug("on_error raised: %r", error)


def _within(deadline: Deadline | None, seconds: float) -> float:
    return seconds if deadline is None else deadline.remaining(seconds)
