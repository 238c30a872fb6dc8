"""The bounded queue, and the thread that empties it into a sender's pipe.

Runs in the host. `put` is called by whoever captures: any thread, a signal handler, a `__del__` in the middle of
another `put`; so it takes no lock of ours (`SimpleQueue.put` is reentrant by contract). Everything else happens on
one thread of our own, started at the first event: it alone starts senders, writes, closes and reaps, and needs no
locks for that. When no thread can be started (at interpreter exit, or the host is out of threads), `flush` does the
same work on the caller's thread, within its timeout.

The pipe is non-blocking, so that a stuck sender holds up nobody: the feeder waits, the queue fills, `put` says no.
Flush requests travel through the same queue as the events and so come after every event put before them. Before a fork
the thread ends, if need be in the middle of a line; what is left stays in `_lines` for whoever does the work next.
"""

from __future__ import annotations

import os
import sys
from _imp import lock_held
from _queue import Empty, SimpleQueue
from _thread import RLock, allocate_lock, get_ident, get_native_id, start_new_thread
from time import monotonic, sleep

from atotelemetry.host.debug import debug
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
# What a fork waits for this thread: first for it to hand over what is queued, then for it to stop in the middle of
# that, because it is stuck before a full pipe or the machine is too busy to let it run.
_FORK_PATIENCE = 0.2
_FORK_INSISTENCE = 2.0
_LOOK_UP = 0.05  # how often a wait that a fork may end looks for one
# Python warns a program that forks with threads. Up to 3.12 it counts them before it calls our hook, later after.
_MAY_START_AFTER_FORK = sys.version_info < (3, 13)
_FOR_EVER = 1e6  # a longer timeout than a lock takes is for ever


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


# Why a write ended.
_WRITTEN = "written"
_READER_GONE = "reader gone"
_TIMED_OUT = "timed out"
_FORK_WAITS = "fork waits"


class _Flush:
    """A request that travels through the queue behind the events it is about."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.handed_over = False
        self.done = allocate_lock()
        self.done.acquire()


class _Pause:
    """A request to the feeder's thread to end for a fork: when all queued before it is handed over, or `now`."""

    def __init__(self) -> None:
        self.now = False
        self.settled = allocate_lock()  # acquired once: by the feeder that ends, or by a fork that waited too long
        self.native_id = 0
        self.done = allocate_lock()
        self.done.acquire()

    def wait(self, timeout: float) -> bool:
        """Wait until the feeder's thread has nothing left to do but end."""
        done = self.done.acquire(timeout=timeout)
        if done:
            self.done.release()  # for a fork inside of this fork, or one of another thread
        return done


class _GaveUp(Exception):
    """The deadline passed while a sender's pipe was full, or there can be no sender."""


class Feeder:
    """A bounded queue of encoded events and the way from there into a sender.

    `hello` and `end` return the first and the last line of a stream; `on_drop(reason, count)` is told of every event
    that was queued and cannot be handed over; `on_give_up(reason)` of the end of all telemetry in this process.
    """

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
        _resting.discard(self)
        self._queue: SimpleQueue[bytes | _Flush | _Pause] = SimpleQueue()
        self.put_unbounded = self._queue.put
        self.qsize = self._queue.qsize
        # Held while this feeder's work is done by some thread: its own, or one that flushes without it.
        self._working = allocate_lock()
        # Held from the making of a pipe to the moment it is on record, so that no fork falls in between. Reentrant: a
        # signal handler may fork in the middle of a fork.
        self._spawning = RLock()
        self._running = False
        self._stopping = False
        self._worker = 0  # the thread that holds `_working`
        self._pause: _Pause | None = None
        self._paused_at = 0.0
        self._forks = 0  # in progress: a signal handler may fork in the middle of one. Too many, if it raised there
        self._forking = 0  # the thread that did so last
        self._left_early = False  # the last pause came before everything queued was handed over
        self._in_pipe_making: list[int] = []
        # Taken from the queue and not yet in a pipe as a whole; of the first one the pipe has so many bytes.
        self._lines: list[bytes] = []
        self._begun = 0
        self._greeting = False  # the first of them is a hello
        self._sender: Sender | None = None
        self._sender_started = 0.0
        self._on_probation = False  # nobody has looked yet whether it survived its start
        self._ended: list[Sender] = []
        self._failures = 0
        self._gave_up = False
        self._all_accepted = True
        self.handed_over = 0

    # ---- called by whoever captures

    refusal = "queue full"
    """Why `put` says no."""

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
            # Again, if the thread ended for a fork before it came to this request, and that fork is over.
            if not self._running and (not self._forks or self._forking == get_ident()) and not self._start_thread():
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
        return bool(self.qsize() or self._lines)

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
        """Let the feeder's thread end, and wait for a pipe that is just being made, so that the child knows of it.

        Python 3.12 and later warn a program that forks while it has threads; one that has none itself is not to hear
        of ours. And no child inherits a lock (of an import, of a library) that this thread held at that moment.
        """
        self._forks += 1
        self._forking = get_ident()
        if self._running and self._worker != get_ident():
            pause = self._pause
            if pause is None:
                pause = self._pause = _Pause()
                self.put_unbounded(pause)
            if not pause.settled.locked() and not pause.wait(_FORK_PATIENCE):
                pause.now = True
                if not pause.wait(_FORK_INSISTENCE) and not pause.settled.acquire(False):
                    pause.wait(_FORK_INSISTENCE)
            _wait_for_thread(pause.native_id)
        self._reap()
        self._spawning.acquire(timeout=_FORK_INSISTENCE)

    def after_fork_in_parent(self) -> None:
        """Go on: at once where there is something to do and Python does not mind, else with the next event or flush."""
        if _MAY_START_AFTER_FORK:
            # Also for a sender that is to be ended in time, or has ended and must not stay a zombie.
            goes_on = self._waiting() or self._sender is not None or bool(self._ended)
        else:
            goes_on = self._waiting() and not self._left_early
        self._forks = max(0, self._forks - 1)
        if goes_on and not self._forks:
            self._start_thread()
        try:
            self._spawning.release()
        except RuntimeError:
            return  # not acquired in time

    def after_fork_in_child(self) -> None:
        """Forget the parent's events, and let go of its pipes: each process feeds its own sender."""
        descriptors = set(self._in_pipe_making)
        if self._sender is not None and self._sender.pipe >= 0:
            descriptors.add(self._sender.pipe)
        for descriptor in descriptors:
            try:
                os.close(descriptor)
            except OSError:
                continue  # gone already
        self._reset()

    # ---- the feeder's own thread, or `flush` without one

    def _run(self) -> None:
        try:
            _resting.discard(self)
            _block_signals()
            with self._working:
                self._worker = get_ident()
                try:
                    self._work(None)
                finally:
                    self._worker = 0
        except Exception as error:
            # A bug of ours is no traceback on the host's terminal. The next event starts a new thread.
            debug("the feeder failed: %r", error)
            self._running = False

    def _work_here(self, deadline: Deadline) -> None:
        """Do the feeder's work on the calling thread until the queue is empty or the deadline has passed."""
        if self._working.acquire(timeout=deadline.remaining()):
            self._worker = get_ident()
            try:
                self._work(deadline)
            finally:
                self._worker = 0
                self._working.release()

    def _work(self, deadline: Deadline | None) -> None:
        """Take what is queued and hand it over; for ever, or until `deadline` or an empty queue if there is one."""
        ignore_broken_pipe = _BrokenPipeIgnored() if deadline is not None else None
        try:
            if self._paused_at and monotonic() - self._paused_at > FEEDER_IDLE and not self._lines:
                self._end_sender(deadline)  # nobody was there to do it in time
            self._paused_at = 0.0
            if self._lines:
                self._hand_over(deadline)
            while True:
                item = self._next(deadline)
                if item is None:
                    return
                request = self._feed(item, deadline) if isinstance(item, bytes) else item
                if isinstance(request, _Pause):
                    if self._pauses(request, deadline):
                        return
                elif request is not None:
                    self._answer(request, deadline)
        except _GaveUp:
            return  # only with a deadline: the flush that brought it says False
        finally:
            if ignore_broken_pipe is not None:
                ignore_broken_pipe.restore()

    def _answer(self, request: _Flush, deadline: Deadline | None) -> None:
        """End the sender, for the flush that asks for it; later, if a fork comes first."""
        if self._lines or not self._end_sender(deadline):
            self.put_unbounded(request)
            return
        self._stopping = self._stopping or request.stop
        request.handed_over = not self._gave_up
        request.done.release()

    def _fork_waits(self) -> _Pause | None:
        """Return the request of a fork that waits no longer for what is queued."""
        pause = self._pause
        return pause if pause is not None and pause.now else None

    def _pauses(self, pause: _Pause, deadline: Deadline | None) -> bool:
        """Whether this thread ends now, for a fork that still waits for it."""
        if self._pause is pause:
            self._pause = None
        if deadline is not None or not pause.settled.acquire(False):
            return False
        self._running = False
        self._paused_at = monotonic()
        self._left_early = pause.now
        _resting.add(self)
        pause.native_id = get_native_id()
        pause.done.release()
        return True

    def _next(self, deadline: Deadline | None) -> bytes | _Flush | _Pause | None:
        """Take the next item; while there is none, end an idle sender and reap those that ended.

        None ends the work: an empty queue when there is a deadline, else a stop with every sender reaped, so that a
        host that shut its client down and lives on has no zombie of ours.
        """
        if deadline is not None:
            return self._queue.get_nowait() if self.qsize() else None
        idle = Deadline(FEEDER_IDLE if self._sender is not None else None)
        while True:
            if (pause := self._fork_waits()) is not None:
                return pause
            if self._lines:  # a fork came and waited in vain
                self._hand_over(deadline)
                continue
            if self._stopping and self._sender is None and not self._ended and not self.qsize():
                self._running = False
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
                if self._sender is not None and idle.passed() and self._end_sender(None):
                    idle = Deadline(None)

    def _feed(self, first: bytes, deadline: Deadline | None) -> _Flush | _Pause | None:
        """Write `first` and the events queued behind it, as many as fit one write; return a request met there."""
        self._lines.append(first)
        size_bytes = len(first)
        request = None
        while size_bytes < _WRITE_BYTES and self.qsize():
            item = self._queue.get_nowait()
            if not isinstance(item, bytes):
                request = item
                break
            self._lines.append(item)
            size_bytes += len(item)
        try:
            self._hand_over(deadline)
        except _GaveUp:
            if request is not None:
                self.put_unbounded(request)
            raise
        return request

    def _hand_over(self, deadline: Deadline | None) -> None:
        """Write `_lines` into a sender's pipe; what a dying sender did not take goes to the next one.

        Some are left when a fork waits for this thread to end; whoever does the work next goes on where it stopped.
        """
        while self._lines and not self._gave_up:
            if deadline is None and self._fork_waits() is not None:
                return
            sender = self._sender or self._start_sender(deadline)
            if sender is None:
                continue
            data = b"\n".join(self._lines) + b"\n"
            taken, ended = self._write(sender, memoryview(data)[self._begun :], deadline)
            self._begun += taken
            while self._lines and self._begun > len(self._lines[0]):
                self._begun -= len(self._lines[0]) + 1
                del self._lines[0]
                if self._greeting:
                    self._greeting = False
                else:
                    self.handed_over += 1
            if ended is _TIMED_OUT:
                self._let_go(sender)
                self._drop_lines("flush timed out")
                raise _GaveUp
            if ended is _READER_GONE:
                self._lose_sender(sender, deadline)
        if self._lines:
            self._drop_lines("no sender")

    def _drop_lines(self, reason: str) -> None:
        count = len(self._lines)
        self._lines.clear()
        self._drop(reason, count)

    def _drop(self, reason: str, count: int) -> None:
        self._all_accepted = False
        self._on_drop(reason, count)

    def _write(self, sender: Sender, data: bytes | memoryview, deadline: Deadline | None) -> tuple[int, str]:
        """Write `data`; return how much of it the pipe took, and why it was no more."""
        view = memoryview(data)
        written = 0
        while written < len(data):
            try:
                written += os.write(sender.pipe, view[written:])
            except BlockingIOError:
                if deadline is not None and deadline.passed():
                    return written, _TIMED_OUT
                if deadline is None and self._fork_waits() is not None:
                    return written, _FORK_WAITS
                _wait_writable(sender.pipe, _LOOK_UP if deadline is None else deadline.remaining(_LOOK_UP))
            except OSError:  # EPIPE, or EBADF after a host closed descriptors that are not its own
                return written, _READER_GONE
        return written, _WRITTEN

    def _start_sender(self, deadline: Deadline | None) -> Sender | None:
        """Start a sender, with its hello as the first line to be written; None when that failed this time."""
        try:
            hello = self._hello()
            locked = self._spawning.acquire(timeout=_FORK_INSISTENCE)
            if not locked:
                # A signal handler of the host's raised in the middle of a fork, which then could not let go of it.
                self._spawning = RLock()
            try:
                kept: list[int] = []
                self._in_pipe_making = kept
                sender = self._sender = start_sender(kept)
                self._in_pipe_making = []
            finally:
                if locked:
                    self._spawning.release()
        except CannotSpawn as error:
            self._give_up(str(error))
            return None
        except Exception as error:
            debug("no sender could be started: %s", error)
            self._fail(str(error), deadline)
            return None
        self._sender_started = monotonic()
        self._on_probation = True
        self._lines.insert(0, hello)
        self._greeting = True
        return sender

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
        if self._greeting:
            self._greeting = False
            del self._lines[0]
        self._begun = 0  # a line of which the pipe took only a part never reached the sender as a whole
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

    def _end_sender(self, deadline: Deadline | None) -> bool:
        """Say `end` and close the pipe, so that the sender drains and exits; False when a fork comes first."""
        sender = self._sender
        if sender is None:
            return True
        self._reap()  # a host that flushes all the time never has the idle moment in which the feeder reaps
        # A pipe takes so short a line as a whole or not at all (pipe(7), PIPE_BUF).
        ended = self._write(sender, self._end() + b"\n", deadline)[1]
        if ended is _FORK_WAITS:
            return False
        sender.complete = ended is _WRITTEN
        self._sender = None
        sender.close()
        self._ended.append(sender)
        return True

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


# Feeders that paused for a fork: without a thread that holds on to them, a client that its host forgets would take an
# open pipe with it.
_resting: set[Feeder] = set()


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


def _block_signals() -> None:
    """Keep the host's signals for the host's threads, and SIGPIPE from killing a host that set it to default.

    A signal taken by this thread would not interrupt the main thread's system call. SIGPIPE is delivered to the thread
    that writes; blocked there, the write fails with EPIPE and that is all (signal(7), pipe(7)).
    """
    try:
        # The built-in half of `signal`, which every interpreter has loaded: nothing to wait for, see `_wait_writable`.
        import _signal as signal  # type: ignore[import-not-found]

        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    except Exception as error:
        debug("the feeder's signals stay unblocked: %s", error)


class _BrokenPipeIgnored:
    """Holds SIGPIPE back on a thread of the host's while it does the feeder's work, and takes it off again after."""

    def __init__(self) -> None:
        self._signal = None
        self._was_blocked = True
        try:
            import _signal as signal  # as in `_block_signals`

            if hasattr(signal, "SIGPIPE"):
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
                self._signal = signal
                self._was_blocked = signal.SIGPIPE in before
        except Exception as error:
            debug("SIGPIPE stays as it is: %s", error)

    def restore(self) -> None:
        """Take a SIGPIPE of ours off the thread, then let others through again."""
        signal = self._signal
        if signal is None or self._was_blocked:
            return
        try:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
        except Exception as error:
            debug("SIGPIPE stays blocked on this thread: %s", error)
