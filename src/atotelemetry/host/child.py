"""Senders as their host knows them: a pipe to each, a pipe for its answers, the fate of its events.

Runs in the host. Only the thread that has the work adds, writes, closes and settles. Any thread may read answers.
"""

from __future__ import annotations

import os
import sys
from _imp import lock_held
from _thread import RLock
from time import sleep

from atotelemetry.host.clock import monotonic
from atotelemetry.host.threads import is_owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.wire import AnswerDecoder

__all__ = ["ENDED", "FEEDING", "GONE", "STARTING", "Sender", "Senders", "add_counts", "identity"]

STARTING, FEEDING, ENDED, GONE = range(4)
"""The life of a sender."""  # integers, because a host need not have loaded `enum`

_ANSWERS_BYTES = 64 * 1024  # a pipe's capacity
_NO_PROCESS = 75  # EX_TEMPFAIL of sysexits.h: the exit code of a spawned process that could not fork
_STARTING_UP = 0.25  # within this time of its start the spawned process has left, or the machine is busy
_NO_ANSWER = 60.0  # a sender that was ended so long ago will not answer
_MAX_UNANSWERED = 32  # ended senders; each of them costs a descriptor


class Sender:
    """A sender from its start until the fate of its events is known.

    Any thread may call `look` and read its results, also in a signal handler or a finalizer. `pipe` and `answers` are
    descriptors here, handles on Windows (`spawn_windows`).
    """

    def __init__(self, pid: int, pipe: int, answers: int) -> None:
        self.group = pid
        """The process group of the sender: the spawned process leads it, and leaves."""
        self.started_at = monotonic()
        self._fed_at = self.started_at  # the last time that the pipe took something, or was closed
        self.given = 0
        """Number of events that the pipe took as a whole."""
        self.added = 0
        """Number of events that the sender made, its reports. They count as events of this process."""
        self.delivered = 0
        self.dropped: dict[str, int] = {}
        self.ready = False
        """Whether it answered `ready`. A sender that ends without never worked."""
        self.left_alone = False
        """Whether the spawned process has left: the sender itself is nobody's child."""
        self.could_not_fork = False
        """Whether the process limit kept it from forking."""
        self.reaped = False
        """Whether no process of this sender is a child of ours any more."""
        self._pipe = pipe
        self._pipe_identity = self._identity(pipe)
        self._answers = answers
        self._answers_identity = self._identity(answers)
        self._decoder: AnswerDecoder | None = None
        self._unanswered = ""  # the reason by which events without an answer are lost; set when the sender is gone
        self._looking = RLock()

    @property
    def life(self) -> int:
        """STARTING until it reads its input, FEEDING until that ends, ENDED until its last answer, then GONE."""
        if self._unanswered:
            return GONE
        if self._pipe < 0:
            return ENDED
        return FEEDING if self.ready else STARTING

    @property
    def lost(self) -> dict[str, int]:
        """Number of lost events by reason."""
        gone = self._unanswered  # read first: from then on the counts are final
        lost = dict(self.dropped)
        if gone:
            missing = self.given + self.added - self.delivered - sum(lost.values())
            if missing > 0:
                lost[gone] = lost.get(gone, 0) + missing
        return lost

    @property
    def on_the_way(self) -> bool:
        """Whether it holds events of unknown fate."""
        return not self._unanswered and self.given + self.added > self.delivered + sum(self.dropped.values())

    @property
    def pipe(self) -> int:
        """The descriptor to write to; -1 when it is closed."""
        # A host that closes every descriptor (to become a daemon) closes ours, too. Its next file gets the number, and
        # no event may end up in that file.
        return self._pipe if self._identity(self._pipe) == self._pipe_identity else -1

    def write(self, data: memoryview) -> int:
        """Write as much as the pipe takes now; return how many bytes. Raises `BlockingIOError` when it is full."""
        count = self._write(self.pipe, data)
        self._fed_at = monotonic()
        return count

    def close(self) -> None:
        """Close the pipe: end of input for the sender."""
        pipe, self._pipe = self.pipe, -1
        self._fed_at = monotonic()
        self._close(pipe)

    def idle_for(self) -> float:
        """Return the seconds since its pipe took something, or was closed."""
        return monotonic() - self._fed_at

    def look(self) -> None:
        """Read its answers, and reap its process if it has ended. Never waits."""
        if is_owned(self._looking):
            return  # a signal handler or a finalizer, in the middle of this
        try:
            if self._looking.acquire(False):  # else another thread looks
                self._reap()
                self._read_answers()
        finally:
            # The lock knows: a Ctrl-C may come between `acquire` and any note of it.
            if is_owned(self._looking):
                self._looking.release()

    def abandon(self, reason: str = "no answer") -> None:
        """Listen no longer: events without an answer are lost for this reason."""
        answers, self._answers = self._answers, -1
        if self._identity(answers) == self._answers_identity:
            self._close(answers)
        self._unanswered = self._unanswered or reason

    def wait_writable(self, at_most: float) -> None:
        """Wait until the pipe takes more or its reader is gone, but no longer than `at_most` seconds."""
        try:
            if "select" not in sys.modules and lock_held():
                # Another thread imports something. Or a Ctrl-C in the middle of an import has left its lock locked for
                # good, and the next import waits for ever.
                raise ImportError  # noqa: TRY301 - the handler below has the answer
            import select  # only a full pipe needs it

            poll = select.poll()
            poll.register(self.pipe, select.POLLOUT)
            poll.poll(at_most * 1000)
        except Exception:
            # No descriptor is left to load `select`, or the pipe's descriptor is gone: the next write tells.
            sleep(min(at_most, 0.01))

    def _read_answers(self) -> None:
        if self._answers < 0:
            return
        if self._identity(self._answers) != self._answers_identity:
            self.abandon()
            return
        while True:
            try:
                data = self._read(self._answers, _ANSWERS_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.abandon("sender died")
                return
            from atotelemetry.wire import AnswerDecoder, Outcome  # loaded long ago: it encoded the events

            if self._decoder is None:
                self._decoder = AnswerDecoder()
            for answer in self._decoder.feed(data):
                self.ready = True
                if isinstance(answer, Outcome):
                    self.added, self.delivered, self.dropped = answer.added, answer.delivered, answer.dropped
                    if answer.last:
                        # Not the end of file: a process forked meanwhile may hold the pipe open.
                        self.abandon("not read")
                        return

    def _reap(self) -> None:
        """Reap the spawned process, and the sender where the system made it our child again.

        That happens to PID 1 of a container and to a subreaper. The spawned process led the group of the sender.
        """
        if self.reaped:
            return
        try:
            while True:
                pid, status = os.waitpid(-self.group if self.left_alone else self.group, os.WNOHANG)
                if not pid:
                    return
                if not self.left_alone:
                    self.could_not_fork = os.waitstatus_to_exitcode(status) == _NO_PROCESS
                self.left_alone = True
        except OSError:
            # No such child, of either kind; or the host waits for any child, or ignores SIGCHLD.
            self.left_alone = self.reaped = True

    # ---- the ends of its pipes

    def _write(self, end: int, data: memoryview) -> int:
        return os.write(end, data)

    def _read(self, end: int, at_most: int) -> bytes:
        """Read a pipe's content; nothing at its end. Raises `BlockingIOError` when there is nothing yet."""
        return os.read(end, at_most)

    def _close(self, end: int) -> None:
        if end >= 0:
            try:
                os.close(end)
            except OSError:
                return  # a host that closes all descriptors has closed this one, too

    def _identity(self, end: int) -> tuple[int, int] | None:
        return identity(end)


class Senders:
    """The senders of one client: the sums of the settled ones, and the open accounts."""

    def __init__(self) -> None:
        # The counts of settled senders (delivered, lost by reason), the open senders, the settled ones' reports.
        # Replaced as a whole, so that another thread counts no event twice.
        self._accounts: tuple[int, dict[str, int], tuple[Sender, ...], int] = (0, {}, (), 0)

    def add(self, sender: Sender) -> None:
        """Open an account."""
        delivered, lost, senders, added = self._accounts
        self._accounts = (delivered, lost, (*senders, sender), added)

    @property
    def _open(self) -> tuple[Sender, ...]:
        return self._accounts[2]

    def look(self) -> None:
        """Read all answers."""
        for sender in self._open:
            sender.look()

    def fate(self) -> tuple[int, dict[str, int]]:
        """Read all answers; return how many events were delivered so far, and how many were lost by reason."""
        self.look()
        delivered, settled, senders, _ = self._accounts
        lost = dict(settled)
        for sender in senders:
            delivered += sender.delivered
            add_counts(lost, sender.lost)
        return delivered, lost

    def added(self) -> int:
        """Return how many events senders have made: the reports of hangs."""
        _, _, senders, added = self._accounts
        return added + sum(sender.added for sender in senders)

    def settle(self, fed: Sender | None) -> list[Sender]:
        """Close the accounts of senders that are gone, silent for too long, or too many; return the first two kinds.

        The third did nothing wrong.
        """
        delivered, settled, senders, added = self._accounts
        ended = [sender for sender in senders if sender is not fed]
        too_many = ended[:-_MAX_UNANSWERED]
        closed, judged = [], []
        for sender in ended:
            is_gone = sender.life == GONE
            if sender in too_many or sender.idle_for() > _NO_ANSWER:
                sender.abandon()
            elif not is_gone or not sender.reaped:
                continue
            closed.append(sender)
            if is_gone or sender not in too_many:
                judged.append(sender)
            delivered += sender.delivered
            settled = add_counts(dict(settled), sender.lost)
            added += sender.added
        if closed:
            senders = tuple(sender for sender in senders if sender not in closed)
            self._accounts = (delivered, settled, senders, added)
        return judged

    def let_go(self) -> None:
        """Close every descriptor: in a forked process, these senders are the parent's."""
        for sender in self._open:
            sender.close()
            sender.abandon()

    def left_alone(self) -> bool:
        """Whether every spawned process has left."""
        return all(sender.left_alone for sender in self._open)

    def are_starting(self) -> bool:
        """Whether a spawned process will leave in a moment."""
        now = monotonic()
        return any(not sender.left_alone and now - sender.started_at < _STARTING_UP for sender in self._open)

    def owe_answers(self, fed: Sender | None) -> bool:
        """Whether an answer is due, or a spawned process has yet to leave."""
        return any(sender is not fed or sender.on_the_way or not sender.left_alone for sender in self._open)

    def have_answered(self) -> bool:
        """Whether every ended sender has given its last answer."""
        return not any(sender.life == ENDED for sender in self._open)

    def are_settled(self) -> bool:
        """Whether all accounts are closed."""
        return not self._open


def add_counts(to: dict[str, int], counts: dict[str, int]) -> dict[str, int]:
    """Add counts by reason to others; return those."""
    for reason, count in counts.items():
        to[reason] = to.get(reason, 0) + count
    return to


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return which file a descriptor leads to; None when it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
