"""Every hook into the process (fork, exit, the end of a `multiprocessing` child), and the clients that they serve.

Runs in the host, on the thread that forks or exits. One set of hooks serves all clients, so that an exit costs one
FLUSH_TIMEOUT however many there are. A client is known here only by the protocol `Client`.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from _weakref import ref
from time import monotonic

from atotelemetry.host import lazy
from atotelemetry.host.debug import debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Client(Protocol):
        """A client as the process's hooks know it."""

        def shutdown(self, timeout: float | None = ...) -> bool:
            """Hand over every event within `timeout` seconds, and refuse more."""

        def before_fork(self) -> None:
            """Prepare for a fork, on the thread that forks."""

        def after_fork_in_parent(self) -> None:
            """Go on after a fork."""

        def after_fork_in_child(self, *, unharmed: bool) -> None:
            """Start anew; not `unharmed`: an import of ours was in progress, and can never end here."""


__all__ = ["FLUSH_TIMEOUT", "flush_all_at_exit", "flush_when_multiprocessing_ends", "follow"]

FLUSH_TIMEOUT = 2.0
"""The most that the exit of a host may cost, ever."""

_clients: list[ref[Client]] = []
_hooks_registered = allocate_lock()


def follow(client: Client) -> None:
    """Tell `client` about the process's forks and about its exit; once a client."""
    _clients.append(ref(client, _clients.remove))
    if _hooks_registered.acquire(False) and hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def flush_when_multiprocessing_ends(client: Client) -> None:
    """Flush at the end of a `multiprocessing` child that was forked: it leaves by `os._exit`, past `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # loaded by the host, or it would not be such a child

    Finalize(None, client.shutdown, exitpriority=0)


def flush_all_at_exit() -> None:
    """Hand over what is left, within FLUSH_TIMEOUT for all clients. Called by the hook of the package."""
    ends_at = monotonic() + FLUSH_TIMEOUT
    try:
        for client in _living():
            client.shutdown(max(0.0, ends_at - monotonic()))
    except BaseException as error:
        # An impatient Ctrl-C, or a signal handler of the host's that raises: here Python would print its traceback, and
        # the host is leaving anyway.
        debug("interrupted at exit: %r", error)


def _living() -> list[Client]:
    return [client for client in (reference() for reference in list(_clients)) if client is not None]


def _before_fork() -> None:
    _run_all([lazy.before_fork, *(client.before_fork for client in _living())])


def _after_fork_in_parent() -> None:
    _run_all([*(client.after_fork_in_parent for client in _living()), lazy.after_fork_in_parent])


def _after_fork_in_child() -> None:
    unharmed = lazy.after_fork_in_child()
    for client in _living():
        client.after_fork_in_child(unharmed=unharmed)


def _run_all(steps: list[Callable[[], None]]) -> None:
    """Run every step, also when a signal handler of the host's raises in the middle of one."""
    # Python lets nothing out of a hook around a fork: it would print the traceback, and our part would stay half done.
    while steps:
        try:
            while steps:
                steps.pop(0)()
        except BaseException as error:
            debug("interrupted around a fork: %r", error)
