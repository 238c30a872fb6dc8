"""The bounded queue, and the thread that empties it into a sender's pipe.

Runs in the host. Any thread may call `put`, also a signal handler, or a `__del__` in the middle of another `put`. So it
takes no lock of ours (`SimpleQueue.put` is reentrant by contract). All else is *the work*: it takes items from the
queue, gives events to the `Transport`, and obeys requests. The lock of that name, `Work`, guards it. It is held by:

- the feeder's thread, started by the first event;
- a `flush` that finds no thread and cannot start one (interpreter exit, or the host is out of threads);
- a fork, so that nothing is half done in the child.

The mutable state of this module is the queue and some flags; without the work, only single assignments change those.
Requests go through the events' queue, behind every earlier event. While a sender is stuck, the queue fills, and `put`
returns False.
"""

from __future__ import annotations

import sys
from _queue import Empty, SimpleQueue
from _thread import allocate_lock, get_native_id, start_new_thread
from time import sleep

from atotelemetry.host.debug import debug
from atotelemetry.host.signals import BrokenPipeIgnored, block_signals
from atotelemetry.host.stats import Counts
from atotelemetry.host.threads import Deadline, Interrupted, OutOfTime, Work, wait_for_end_of_thread
from atotelemetry.host.transport import DISABLED, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from atotelemetry.host.stream import Stream

__all__ = ["GAVE_UP", "QUEUE_FULL", "Feeder"]

QUEUE_FULL = "queue full"
GAVE_UP = "gave up"

_RETRY_THREAD = 0.1  # how often a flush looks for the thread, which a fork may have ended
_REAP_PATIENCE = 0.05  # how long a flush waits for the spawned process to leave
_WRITE_BYTES = 64 * 1024  # gather about a pipe's capacity for one write
_FORK_PATIENCE = 0.1  # how long a fork waits for the queue to drain
_NO_PATIENCE = 0.1  # how long a no waits for the end of a sender that watches
_NO_INTERVAL = 0.002  # how often it looks
_LOOK_UP = 0.01  # how long a flush waits for the work before it looks at the fork again
# Python warns a program that forks with threads. Up to 3.12 it counts them before it calls our hook, later after.
_MAY_START_AFTER_FORK = sys.version_info < (3, 13)
_WAKE_UP = b""  # in the queue: no event; it ends a wait


class _Flush:
    """A request to hand over everything before it in the queue.

    `insists` starts a sender also while the network is down. `stop` also ends the thread; `exits` ends it at once,
    because the process ends, too.
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


class Feeder:
    """A bounded queue of encoded events and the way from there into a sender, for one client.

    Args:
        queue_size: the most events that wait.
        stream: makes the first and the last line of a sender's input. Where it has last words, a sender is ended only
            by a stop or a no.
        on_error: called with a reason and a count, on the feeder's thread, for events that were dropped or lost.
        wait_for_delivery: whether an exit waits for the server. None: only where this process's end is everybody's end.

    """

    def __init__(
        self,
        *,
        queue_size: int,
        stream: Stream,
        on_error: Callable[[str, int], object] | None = None,
        wait_for_delivery: bool | None = None,
    ) -> None:
        self._queue_size = queue_size
        self._stream = stream
        self._on_error = on_error
        self._discards_for_good = False
        self._wait_for_delivery = wait_for_delivery
        self.forgotten = False
        """Whether the client is gone: no further event will come."""
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[bytes | _Flush | _Discard] = SimpleQueue()
        self.put_unbounded = self._queue.put
        self.qsize = self._queue.qsize
        self.counts = Counts()
        self._work = Work(self.qsize)
        self._transport = Transport(
            self._stream,
            self.counts,
            self._work,
            on_error=self._on_error,
            wait_for_delivery=self._wait_for_delivery,
            gave_up=self._give_up,
        )
        self.added, self.fate = self._transport.senders.added, self._transport.senders.fate
        self.waits_for_delivery = self._transport.waits_for_delivery
        self.wait_for_answers = self._transport.wait_for_answers
        self._room, self.refusal = self._queue_size, QUEUE_FULL
        if self._discards_for_good:
            self._room, self.refusal = 0, DISABLED
            self._transport.discards.append(_Discard())
        self._running = False  # the feeder's thread is there, or about to be
        self._native_id = 0  # of that thread
        self._stopping = False  # the thread ends when all is handed over and every spawned process is reaped
        self._exiting = False  # the thread ends when all is handed over: the system reaps

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
                return True  # no stack left: the next `put`, or a flush, tries again
        return True

    def discard(self, *, for_good: bool = False) -> None:
        """Drop the events in the queue, and tell the sender to drop those it has not posted.

        `for_good`: also every later event. Waits only for a sender that watches, and only a moment: it must know of the
        no before anything happens to this process.
        """
        request = _Discard()
        self._discards_for_good = self._discards_for_good or for_good
        self._room, self.refusal = 0, DISABLED  # also for an event that another thread is about to put
        self._transport.discards.append(request)  # first: from here on, nothing in the queue is written
        if not self.is_over():
            self.put_unbounded(request)
            self._start_thread()
            deadline = Deadline(0.0 if self._stream.last_words is None or self._work.is_done_here() else _NO_PATIENCE)
            while self._transport.sender is not None and not deadline.passed():
                sleep(_NO_INTERVAL)
        elif not for_good:
            self._transport.discards.remove(request)

    def admit(self) -> None:
        """Take events again after a `discard`, unless that was for good."""
        if not self._discards_for_good and not self._transport.attempts.are_over:
            self._room, self.refusal = self._queue_size, QUEUE_FULL

    def _give_up(self) -> None:
        self._room, self.refusal = 0, GAVE_UP

    def flush(self, timeout: float | None, *, delivered: bool = False, stop: bool = False) -> bool:
        """Wait until every event put so far is in the pipe, then end the sender; see `TelemetryClient.flush`.

        `stop` also ends the feeder's thread.
        """
        deadline = Deadline(timeout)
        if not self.hand_over(deadline, insists=delivered, stop=stop):
            return False
        # So that an `exec` after the flush meets no zombie.
        self._transport.wait_for_reaping(Deadline(deadline.remaining(_REAP_PATIENCE)))
        return self.wait_for_answers(deadline) if delivered else True

    def hand_over(self, deadline: Deadline, *, insists: bool, stop: bool = False, exits: bool = False) -> bool:
        """Wait until every event put so far is in the pipe. With `insists` also while the network is down."""
        if self._work.is_done_here():
            return False  # a logging handler or a finalizer: it would wait for its own thread
        self._work.recover()
        if self.is_over():
            return True
        request = _Flush(insists=insists, stop=stop, exits=exits)
        self.put_unbounded(request)
        while True:
            # In a loop, because a fork may end the thread before it comes to this request.
            if not self._running and (self._work.fork_is_due() or not self._start_thread()):
                self._work_here(deadline)
            if request.done.acquire(timeout=deadline.remaining(_RETRY_THREAD)):
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
        return not self._running and self._transport.sender is None and not self._waiting()

    def is_settled(self) -> bool:
        """Whether nothing is left to do and the fate of every event is known."""
        return self.is_over() and self._transport.senders.have_answered()

    def _waiting(self) -> bool:
        """Whether anything still has to be written."""
        return bool(self.qsize() or self._transport.outbox)

    def _start_thread(self) -> bool:
        """Start the feeder's thread unless there is one; False when there can be none now.

        No lock: a signal handler that raises (Ctrl-C) could leave it locked. Nothing comes between the question, the
        assignment and the start: the interpreter changes threads and runs signal handlers after calls, at jumps back
        and where a function begins.
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

        So nothing is half done in the child. Since 3.12, Python warns a program that forks while it has threads; it
        does not count ours. A fork waits a moment for the queue to drain, but only once for a full pipe.
        """
        if self._work.is_done_here():
            self._work.acquire()  # a signal handler or a finalizer of the host's forks in the middle of the work
            return
        deadline = self._work.fork_begins(0.0 if self._transport.is_stuck else _FORK_PATIENCE)
        if self._running:
            self.put_unbounded(_WAKE_UP)
        while self._work.acquire(deadline.remaining()):
            if not self._running or deadline.passed():
                break
            self._work.release()  # the thread was started just now, and has not begun
            sleep(0.0005)
        wait_for_end_of_thread(self._native_id)
        self._native_id = 0
        self._transport.wait_for_reaping(Deadline(_REAP_PATIENCE))
        self._transport.is_stuck = self._waiting()

    def after_fork_in_parent(self) -> None:
        """Go on, if there is work and Python allows a thread now; else the next event or flush starts it."""
        self._transport.mark_fork()
        self._work.fork_ends()
        goes_on = self._waiting() and not self._transport.is_stuck
        if _MAY_START_AFTER_FORK:
            goes_on = self._waiting() or not self._transport.senders.are_settled()
        if goes_on and not self._work.is_forking():
            self._start_thread()

    def after_fork_in_child(self) -> None:
        """Forget the parent's events and close its pipes: each process feeds its own sender."""
        if self._stream.last_words is not None:
            self._stream.last_words.after_fork_in_child()
        self._transport.senders.let_go()
        self._reset()

    # ---- the work

    def _run(self) -> None:
        """Be the feeder's thread."""
        try:
            block_signals()
            self._native_id = get_native_id()
            self._work.acquire()
            try:
                self._do_work(None)
            finally:
                self._work.release()
            if self.qsize() and not self._work.fork_is_due():
                self._start_thread()  # an event or a request that came in the last moment
            elif self.forgotten and self.is_over() and not self.waits_for_delivery():
                self._transport.senders.let_go()  # nobody will ask for the answers
        except Exception as error:
            # A bug of ours: no traceback on the host's terminal. The next event starts a new thread.
            debug("the feeder failed: %r", error)
            self._running = False

    def _work_here(self, deadline: Deadline) -> None:
        """Do the work on this thread, until the queue is empty or the deadline has passed."""
        if self._work.acquire(deadline.remaining(_LOOK_UP if self._work.fork_is_due() else -1.0)):
            try:
                with BrokenPipeIgnored():
                    self._do_work(deadline)
            finally:
                self._work.release()

    def _do_work(self, deadline: Deadline | None) -> None:
        """Hand over the queue: without a `deadline` for ever, else until it has passed or the queue is empty."""
        self._work.begin(deadline)
        request = None
        try:
            self._transport.end_idle_sender()  # there may have been no thread to do it in time
            self._transport.hand_over()
            while (item := self._next()) is not None:
                request = self._gather(item)
                self._transport.hand_over()
                if request is not None:
                    self._obey(request)
                    request = None
                    if not self._stopping:  # most often that is the exit, which must not wait for this
                        self._transport.look()
        except (Interrupted, OutOfTime):
            pass  # the next thread that has the work goes on; a flush whose time is up returns False
        finally:
            if request is not None:
                self.put_unbounded(request)
            self._work.end()
            if deadline is None:
                self._running = False

    def _next(self) -> bytes | _Flush | _Discard | None:
        """Take the next item. While there is none, the feeder's thread looks after the senders.

        None ends the work: without a thread the queue is empty, in the thread a stop is done.
        """
        if self._work.deadline is not None:
            return self._queue.get_nowait() if self.qsize() else None
        while True:
            self._work.check()
            is_done = self._stopping and self._transport.sender is None and not self.qsize()
            # At exit it does not wait: a thread that still runs costs the interpreter's shutdown a millisecond.
            if is_done and (self._exiting or self._transport.senders.left_alone()):
                return None
            try:
                return self._queue.get(True, self._transport.due_in())
            except Empty:
                self._transport.look()
                self._transport.end_idle_sender()
                self._transport.hand_over()  # a pause may be over

    def _gather(self, item: bytes | _Flush | _Discard) -> _Flush | _Discard | None:
        """Move events into the outbox, from `item` on, up to one write; return the request that ends them, if any."""
        if isinstance(item, bytes) and not self._discards_for_good and not self._stream.holds():
            self.discard(for_good=True)
        size_bytes = 0
        while isinstance(item, bytes):
            if item is not _WAKE_UP:
                self._transport.add(item, at_most=self._queue_size)
                size_bytes += len(item)
            if size_bytes >= _WRITE_BYTES or not self.qsize():
                return None
            item = self._queue.get_nowait()
        return item

    def _obey(self, request: _Flush | _Discard) -> None:
        """Obey a request; the events before it are handed over."""
        if isinstance(request, _Discard):
            self._transport.end_sender()
            if not self._discards_for_good:
                self._transport.discards.remove(request)
        else:
            request.handed_over = self._transport.flush(insists=request.insists, stop=request.stop, exits=request.exits)
            self._stopping, self._exiting = self._stopping or request.stop, self._exiting or request.exits
            request.done.release()
