"""All hooks into the process: fork, exit, the end of a `multiprocessing` child.

Runs in the host, on the thread that forks or exits. The mutable state is the lists of clients and feeders. One set of
hooks serves all clients: an exit costs one FLUSH_TIMEOUT in all. References to clients are weak. A client that its host
forgets ends its thread and its sender; its feeder stays until it has handed over.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from _weakref import ref

from atotelemetry.host import lazy
from atotelemetry.host.debug import debug
from atotelemetry.host.threads import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from atotelemetry.host.feeder import Feeder

    class Client(Protocol):
        """A client, as far as the hooks use it."""

        def close(self) -> None:
            """Refuse every further event."""

        def after_fork_in_child(self, *, unharmed: bool) -> None:
            """Start anew. Not `unharmed`: an import of ours was in progress, and can never end here."""


__all__ = [
    "FLUSH_TIMEOUT",
    "flush_all_at_exit",
    "flush_when_multiprocessing_ends",
    "follow",
    "is_multiprocessing_child",
]

FLUSH_TIMEOUT = 2.0
"""The most that the exit of a host may cost, ever."""

_clients: list[ref[Client]] = []
_feeders: list[Feeder] = []
_hooks_registered = allocate_lock()
_flushing_in: list[int] = []  # processes that flush when `multiprocessing` ends them


def follow(client: Client, feeder: Feeder) -> None:
    """Tell `client` and its feeder of forks and of the exit. Called once for each client."""

    def forget(reference: ref[Client]) -> None:
        _clients.remove(reference)
        feeder.forget()

    _clients.append(ref(client, forget))
    for other in list(_feeders):
        if other.forgotten and other.is_over():
            _feeders.remove(other)
    _feeders.append(feeder)
    if _hooks_registered.acquire(False) and hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def is_multiprocessing_child() -> bool:
    """Whether `multiprocessing` started this process."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def flush_when_multiprocessing_ends() -> None:
    """Flush at the end of a `multiprocessing` child that was forked: it leaves by `os._exit`, past `atexit`."""
    if not is_multiprocessing_child() or os.getpid() in _flushing_in:
        return
    from multiprocessing.util import Finalize  # loaded by the host, or it would not be such a child

    _flushing_in[:] = [os.getpid()]
    Finalize(None, flush_all_at_exit, exitpriority=0)


def flush_all_at_exit() -> None:
    """Hand over the queues, within FLUSH_TIMEOUT for all clients. Called by the hook of the package."""
    deadline = Deadline(FLUSH_TIMEOUT)
    try:
        for client in _living():
            client.close()
        feeders = [feeder for feeder in _feeders if not feeder.is_settled()]
        waiting = [feeder for feeder in feeders if feeder.waits_for_delivery()]
        for feeder in feeders:
            feeder.hand_over(deadline, insists=feeder in waiting, exits=True)
        for feeder in waiting:
            feeder.wait_for_answers(deadline)
    except BaseException as error:
        # An impatient Ctrl-C, or a signal handler of the host's that raises. Python would print the traceback here, and
        # the host is leaving anyway.
        debug("interrupted at exit: %r", error)


def _living() -> list[Client]:
    return [client for reference in [*_clients] if (client := reference()) is not None]


def _before_fork() -> None:
    _run_all([lazy.before_fork, *(feeder.before_fork for feeder in _feeders)])


def _after_fork_in_parent() -> None:
    _run_all([*(feeder.after_fork_in_parent for feeder in _feeders), lazy.after_fork_in_parent])


def _after_fork_in_child() -> None:
    unharmed = lazy.after_fork_in_child()
    for client in _living():
        client.after_fork_in_child(unharmed=unharmed)
    for feeder in _feeders:
        if feeder.forgotten:
            feeder.after_fork_in_child()


def _run_all(steps: list[Callable[[], None]]) -> None:
    """Run every step, also when a signal handler of the host's raises in the middle of one."""
    # Python prints the traceback of a hook around a fork, and goes on. Our part would stay half done.
    while steps:
        try:
            while steps:
                steps.pop(0)()
        except BaseException as error:
            debug("interrupted around a fork: %r", error)
