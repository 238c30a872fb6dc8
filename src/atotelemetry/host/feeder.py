"""The bounded queue, and the thread that empties it into a sender's pipe.

Runs in the host. `put` is called by whoever captures: any thread, a signal handler, a `__del__` in the middle of
another `put`. So it takes no lock of ours (`SimpleQueue.put` is reentrant by contract). Everything else, starting
senders, writing to them, ending and reaping them, is *the work*, and is done by whoever holds the lock of that name:

- the feeder's thread, started by the first event;
- a `flush` that finds no thread and cannot start one (interpreter exit, or the host is out of threads);
- a fork, which takes the work away so that nothing is half done in the child, and then lets it go on.

The pipe is non-blocking, so that a stuck sender holds up nobody: the work waits, the queue fills, `put` says no.
Flush requests travel through the same queue as the events and so come after every event put before them.
"""

from __future__ import annotations

import os
import sys
from _imp import lock_held
from _queue import Empty, SimpleQueue
from _thread import RLock, allocate_lock, get_ident, get_native_id, start_new_thread
from time import monotonic, sleep

from atotelemetry.host.debug import debug
from atotelemetry.host.outbox import Outbox
from atotelemetry.host.signals import BrokenPipeIgnored, block_signals
from atotelemetry.host.spawn import CannotSpawn, Sender, start_sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FEEDER_IDLE", "Deadline", "Feeder", "reason_not_to_start_threads"]

FEEDER_IDLE = 10.0
"""A sender that was fed nothing for so long is ended; the next event starts another."""

MAX_FAILURES = 3
"""So many senders in a row that could not be started, or died at once, end telemetry for this process."""

_DIED_AT_ONCE = 1.0  # a sender that stops reading within this time of its start failed rather than was killed
_RETRY_SPAWN = 0.1  # between attempts: a process limit may be a moment's
_REAP_INTERVAL = 0.25  # how often a feeder with nothing else to do asks whether an ended sender is gone
_WRITE_BYTES = 64 * 1024  # gather about a pipe's capacity for one write
_FORK_PATIENCE = 0.2  # what a fork waits for everything queued to be handed over
_FORK_INSISTENCE = 2.0  # and then for the work to stop wherever it is: the machine may be busy
_LOOK_UP = 0.05  # how often a wait that a fork may end looks for one
# Python warns a program that forks with threads. Up to 3.12 it counts them before it calls our hook, later after.
_MAY_START_AFTER_FORK = sys.version_info < (3, 13)
_FOR_EVER = 1e6  # a longer timeout than a lock takes is for ever
_WAKE_UP = b""  # in the queue: no event, only a reason to look around


class Deadline:
    """One point in time that spans a wait of several steps. None means: wait for ever."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + min(max(0.0, timeout), _FOR_EVER)

    def remaining(self, at_most: float = -1.0) -> float:
        """Seconds left, 0.0 when it has passed, -1.0 for ever (what a lock's timeout takes); no more than `at_most`."""
        if self._end is None:
            return at_most
        left = max(0.0, self._end - monotonic())
        return left if at_most < 0 else min(left, at_most)

    def passed(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and monotonic() >= self._end


class _Flush:
    """A request that travels through the queue behind the events it is about."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.handed_over = False
        self.done = allocate_lock()
        self.done.acquire()


class _Interrupted(Exception):
    """A fork wants the work: whoever has it next goes on where it stopped."""


class _GaveUp(Exception):
    """The deadline passed while a sender's pipe was full."""


class Feeder:
    """A bounded queue of encoded events and the way from there into a sender.

    `hello` and `end` return the first and the last line of a stream; `on_drop(reason, count)` is told of every event
    that was queued and cannot be handed over; `on_give_up(reason)` of the end of all telemetry in this process.
    """

    refusal = "queue full"
    """Why `put` says no."""

    def __init__(
        self,
        *,
        queue_size: int,
        hello: Callable[[], bytes],
        end: Callable[[], bytes],
        on_drop: Callable[[str, int], None],
        on_give_up: Callable[[str], None],
    ) -> None:
        self._hello = hello
        self._end = end
        self._on_drop = on_drop
        self._on_give_up = on_give_up
        self._queue_size = queue_size
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[bytes | _Flush] = SimpleQueue()
        self.put_unbounded = self._queue.put
        self.qsize = self._queue.qsize
        self.handed_over = 0
        # Who does the work. Reentrant, because a signal handler may fork in the middle of a fork.
        self._working = RLock()
        self._worker = 0  # the thread that holds it
        self._running = False  # the feeder's thread is there, or about to be
        self._native_id = 0  # of that thread
        self._stopping = False
        self._forks = 0  # that have, or want, the work. Too many, if a signal handler raised in the middle of one
        self._forker = 0  # the thread of the last one
        self._fork_insists_at = 0.0
        self._left_early = False  # whether the last one found something that the pipe had not taken
        self._rested_since = 0.0
        # The work: one sender, what it still has to be told, and those before it that have not exited yet.
        self._outbox = Outbox()
        self._sender: Sender | None = None
        self._sender_started = 0.0
        self._on_probation = False  # nobody has looked yet whether it survived its start
        self._ended: list[Sender] = []
        self._failures = 0
        self._gave_up = False
        self._all_accepted = True

    # ---- called by whoever captures

    def put(self, line: bytes) -> bool:
        """Queue one encoded event; False when the queue is full. Never blocks, never raises but for lack of memory."""
        if self.qsize() >= self._queue_size:
            self._all_accepted = False
            return False
        self.put_unbounded(line)
        if not self._running:
            try:
                self._start_thread()
            except Exception:
                return True  # no stack left for it: the next `put`, or a flush, tries again
        return True

    def note_loss(self) -> None:
        """Note that an event was lost on its way here: the next `flush` cannot say that everything was delivered."""
        self._all_accepted = False

    def flush(self, timeout: float | None, *, delivered: bool = False, stop: bool = False) -> bool:
        """Wait until every event put so far is in the pipe, then end the sender; see `TelemetryClient.flush`.

        `stop` also ends the feeder's thread.
        """
        deadline = Deadline(timeout)
        if self._worker == get_ident():
            return False  # a logging handler or a finalizer, run by the very thread that it would wait for
        if not self._running and not self._waiting() and self._sender is None and not self._ended:
            return self._settle() if delivered else True
        request = _Flush(stop=stop)
        self.put_unbounded(request)
        while True:
            # Again, if a fork took the work before it came to this request.
            if not self._running and (self._forks or not self._start_thread()):
                self._work_here(deadline)
            if request.done.acquire(timeout=deadline.remaining(_LOOK_UP)):
                break
            if deadline.passed():
                return False
        if not request.handed_over:
            return False
        return self._wait_for_senders(deadline) if delivered else True

    def _waiting(self) -> bool:
        """Whether anything still has to be written."""
        return bool(self.qsize() or len(self._outbox))

    def _start_thread(self) -> bool:
        """Start the feeder's thread unless there is one; False when there can be none now.

        There is no lock here that a signal handler which raises (Ctrl-C) could leave locked. Nothing comes between the
        question and the assignment, or between that and the start: the interpreter changes threads and runs signal
        handlers after calls, at jumps back and where a function begins.
        """
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

    def _wait_for_senders(self, deadline: Deadline) -> bool:
        """Wait until every ended sender is gone; True when all that they were handed was accepted."""
        pause = 0.002
        while True:
            self._reap()
            if not self._ended:
                return self._settle()
            if deadline.passed():
                return False
            sleep(deadline.remaining(pause))
            pause = min(pause * 1.5, 0.05)

    def _settle(self) -> bool:
        accepted, self._all_accepted = self._all_accepted, True
        return accepted

    # ---- around a fork, on the thread that forks

    def before_fork(self) -> None:
        """Take the work away from whoever does it, and let the feeder's thread end.

        So nothing is half done in the child, and Python 3.12 and later, which warn a program that forks while it has
        threads, do not count ours. It is waited for until all that is queued is handed over, but not for long.
        """
        self._forks += 1
        self._forker = get_ident()
        if self._worker == self._forker:
            self._working.acquire()  # a signal handler or a finalizer of the host's, in the middle of the work
            return
        self._fork_insists_at = monotonic() + _FORK_PATIENCE
        self.put_unbounded(_WAKE_UP)
        deadline = Deadline(_FORK_PATIENCE + _FORK_INSISTENCE)
        while self._working.acquire(timeout=deadline.remaining()):
            if not self._running or deadline.passed():
                break
            self._working.release()  # a thread that was only just started is not there yet
            sleep(0.0005)
        _wait_for_thread(self._native_id)
        self._native_id = 0
        self._left_early = self._waiting()
        self._reap()

    def after_fork_in_parent(self) -> None:
        """Go on: at once where there is something to do and Python does not mind, else with the next event or flush."""
        try:
            self._working.release()
        except RuntimeError:
            pass  # not taken in time
        self._forks = max(0, self._forks - 1)
        if _MAY_START_AFTER_FORK:
            # Also for a sender that is to be ended in time, or has ended and must not stay a zombie.
            goes_on = self._waiting() or self._sender is not None or bool(self._ended)
        else:
            goes_on = self._waiting() and not self._left_early
        if goes_on and not self._forks:
            self._start_thread()

    def after_fork_in_child(self) -> None:
        """Forget the parent's events, and let go of its pipe: each process feeds its own sender."""
        if self._sender is not None and self._sender.pipe >= 0:
            try:
                os.close(self._sender.pipe)
            except OSError:
                pass  # gone already
        self._reset()

    # ---- the work

    def _run(self) -> None:
        """Be the feeder's thread."""
        try:
            block_signals()
            self._native_id = get_native_id()
            with self._working:
                self._do_work(None)
        except Exception as error:
            # A bug of ours is no traceback on the host's terminal. The next event starts a new thread.
            debug("the feeder failed: %r", error)
            self._running = False

    def _work_here(self, deadline: Deadline) -> None:
        """Do the feeder's work on the calling thread until the queue is empty or the deadline has passed."""
        if self._working.acquire(timeout=deadline.remaining(_LOOK_UP if self._forks else -1.0)):
            ignore_broken_pipe = BrokenPipeIgnored()
            try:
                self._do_work(deadline)
            finally:
                ignore_broken_pipe.restore()
                self._working.release()

    def _do_work(self, deadline: Deadline | None) -> None:
        """Take what is queued and hand it over; for ever, or until `deadline` or an empty queue if there is one."""
        self._worker = get_ident()
        try:
            if self._rested_since and monotonic() - self._rested_since > FEEDER_IDLE and not len(self._outbox):
                self._end_sender(deadline)  # nobody was there to do it in time
            self._rested_since = 0.0
            self._hand_over(deadline)
            while (item := self._next(deadline)) is not None:
                request = self._feed(item, deadline) if isinstance(item, bytes) else item
                if request is not None:
                    self._answer(request, deadline)
        except _Interrupted:
            self._rested_since = monotonic()
        except _GaveUp:
            pass  # only with a deadline: the flush that brought it says False
        finally:
            self._worker = 0
            if deadline is None:
                self._running = False

    def _make_way(self) -> None:
        """Raise `_Interrupted` for a fork that wants the work: when nothing is queued, or it has waited long enough."""
        if self._forks and self._forker != get_ident() and (not self.qsize() or monotonic() > self._fork_insists_at):
            raise _Interrupted

    def _answer(self, request: _Flush, deadline: Deadline | None) -> None:
        """End the sender, for the flush that asks for it; later, if a fork comes first."""
        try:
            self._end_sender(deadline)
        except BaseException:
            self.put_unbounded(request)
            raise
        self._stopping = self._stopping or request.stop
        request.handed_over = not self._gave_up
        request.done.release()

    def _next(self, deadline: Deadline | None) -> bytes | _Flush | None:
        """Take the next item; while there is none, end an idle sender and reap those that ended.

        None ends the work: an empty queue when there is a deadline, else a stop with every sender reaped, so that a
        host that shut its client down and lives on has no zombie of ours.
        """
        if deadline is not None:
            return self._queue.get_nowait() if self.qsize() else None
        idle = Deadline(FEEDER_IDLE if self._sender is not None else None)
        while True:
            self._make_way()
            if self._stopping and self._sender is None and not self._ended and not self.qsize():
                return None
            timeout = idle.remaining(_REAP_INTERVAL if self._ended else -1.0)
            if self._on_probation and self._sender is not None:
                age = monotonic() - self._sender_started
                if age >= _DIED_AT_ONCE:
                    self._judge(self._sender)
                    continue
                timeout = min(timeout, _DIED_AT_ONCE - age) if timeout >= 0 else _DIED_AT_ONCE - age
            try:
                return self._queue.get(True, None if timeout < 0 else timeout)
            except Empty:
                self._reap()
                if self._sender is not None and idle.passed():
                    self._end_sender(None)
                    idle = Deadline(None)

    def _feed(self, first: bytes, deadline: Deadline | None) -> _Flush | None:
        """Write `first` and the events queued behind it, as many as fit one write; return a request met there."""
        item: bytes | _Flush = first
        size_bytes = 0
        while isinstance(item, bytes):
            if item is not _WAKE_UP:
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
        """Write the outbox into a sender's pipe; what a dying sender did not take goes to the next one."""
        while len(self._outbox) and not self._gave_up:
            sender = self._sender or self._start_sender(deadline)
            if sender is None:
                continue
            try:
                self._write(sender, self._outbox.rest(), deadline, self._count)
            except _GaveUp:
                self._let_go(sender)
                self._drop("flush timed out", self._outbox.clear())
                raise
            except OSError:  # EPIPE, or EBADF after a host closed descriptors that are not its own
                self._lose_sender(sender, deadline)
        if len(self._outbox):
            self._drop("no sender", self._outbox.clear())

    def _count(self, written: int) -> None:
        self.handed_over += self._outbox.wrote(written)

    def _drop(self, reason: str, count: int) -> None:
        self._all_accepted = False
        self._on_drop(reason, count)

    def _write(
        self, sender: Sender, data: memoryview, deadline: Deadline | None, wrote: Callable[[int], object]
    ) -> None:
        """Write all of `data`, telling `wrote` of each part. Raises `OSError` when the reader is gone."""
        while data:
            try:
                count = os.write(sender.pipe, data)
            except BlockingIOError:
                if deadline is not None and deadline.passed():
                    raise _GaveUp from None
                self._make_way()
                _wait_writable(sender.pipe, _LOOK_UP if deadline is None else deadline.remaining(_LOOK_UP))
            else:
                wrote(count)
                data = data[count:]

    # ---- one sender after the other

    def _start_sender(self, deadline: Deadline | None) -> Sender | None:
        """Start a sender, with its hello as the first line to be written; None when that failed this time."""
        try:
            hello = self._hello()
            self._sender = start_sender()
        except CannotSpawn as error:
            self._give_up(str(error))
            return None
        except Exception as error:
            debug("no sender could be started: %s", error)
            self._fail(str(error), deadline)
            return None
        self._sender_started = monotonic()
        self._on_probation = True
        self._outbox.greet(hello)
        return self._sender

    def _lose_sender(self, sender: Sender, deadline: Deadline | None) -> None:
        """Let go of a sender that stopped reading by itself."""
        died_at_once = monotonic() - self._sender_started < _DIED_AT_ONCE
        self._let_go(sender)
        if died_at_once:
            self._fail("it died at once", deadline)
        else:
            debug("the sender is gone; the next event starts another")
            self._failures = 0

    def _let_go(self, sender: Sender) -> None:
        """Close the pipe of a sender that does not, or shall not, get all of it."""
        self._outbox.start_again()
        self._sender = None
        self._all_accepted = False
        sender.close()
        self._ended.append(sender)

    def _judge(self, sender: Sender) -> None:
        """See whether a sender survived its start; what it was handed is lost if it did not.

        Nobody else would notice before the next event, and then could not tell whether it ever worked.
        """
        self._on_probation = False
        if sender.poll():
            self._let_go(sender)
            self._fail("it died at once", None)
        else:
            self._failures = 0

    def _fail(self, reason: str, deadline: Deadline | None) -> None:
        self._reap()  # one that did its work, ended in between, makes this the first in a row
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._give_up(f"{self._failures} senders in a row failed: {reason}")
        elif deadline is None:
            sleep(_RETRY_SPAWN)
        else:
            sleep(deadline.remaining(_RETRY_SPAWN))

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        self._all_accepted = False
        self._on_give_up(reason)

    def _end_sender(self, deadline: Deadline | None) -> None:
        """Say `end` and close the pipe, so that the sender drains and exits."""
        sender = self._sender
        if sender is None:
            return
        self._reap()  # a host that flushes all the time never has the idle moment in which the feeder reaps
        try:
            # A pipe takes so short a line as a whole or not at all (pipe(7), PIPE_BUF).
            self._write(sender, memoryview(self._end() + b"\n"), deadline, bool)
            sender.complete = True
        except (OSError, _GaveUp):
            sender.complete = False
        self._sender = None
        sender.close()
        self._ended.append(sender)

    def _reap(self) -> None:
        for sender in list(self._ended):
            if sender.poll():
                if sender.exit_code != 0:
                    self._all_accepted = False
                elif sender.complete:
                    self._failures = 0
                try:
                    self._ended.remove(sender)
                except ValueError:
                    continue  # a thread that flushes reaped it at the same time


def reason_not_to_start_threads() -> str:
    """Why no thread of ours can run beside the host, or an empty string.

    Where gevent or eventlet have turned threads into coroutines, one that waits in C, as the feeder does for its queue,
    stops the whole program.
    """
    for library, is_patched, part in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        module = sys.modules.get(library)
        if module is not None and getattr(module, is_patched)(part):
            return f"{library.partition('.')[0]} has replaced the threads"
    return ""


def _wait_for_thread(native_id: int) -> None:
    """Wait until the operating system has ended a thread, too; it counts threads for Python's warning at a fork."""
    entry = f"/proc/self/task/{native_id}"  # elsewhere the thread is as good as gone
    for _ in range(100):
        if not os.path.exists(entry):
            return
        sleep(0.0005)


def _wait_writable(pipe: int, at_most: float) -> None:
    """Wait until the pipe takes more or its reader is gone, but no longer than `at_most` seconds."""
    try:
        if "select" not in sys.modules and lock_held():
            # Another thread imports something. Or it did: Ctrl-C in the wrong moment of an import leaves the
            # interpreter's import lock locked for good, and whoever then imports something new waits for ever.
            raise ImportError  # noqa: TRY301 - the handler below has the answer
        import select  # only a full pipe needs it

        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        poll.poll(at_most * 1000)
    except Exception:
        # No select module (no descriptor left to load it with), or a descriptor that is gone: the next write tells.
        sleep(min(at_most, 0.01))
