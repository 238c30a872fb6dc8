"""Imports modules at first use, under a guard that survives forks.

Runs in the host, on the thread that captures. Python's import locks do not survive a fork: a child forked in the middle
of another thread's import would wait for ever. So all these imports share one guard, and a fork takes it first.
"""

from __future__ import annotations

import sys
from _thread import RLock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["after_fork_in_child", "after_fork_in_parent", "before_fork", "load"]

_PATIENCE = 2.0  # how long to wait for another thread's import of ours: milliseconds, unless the disk is slow

# Reentrant, because a signal handler may fork or capture in the middle of an import.
_guard = RLock()
_importing: list[str] = []  # by the thread that holds the guard
_forking: list[int] = []  # threads that hold it because they fork; twice if a signal handler forks meanwhile
# Complete modules only.
_loaded: dict[str, Any] = {}


def load(name: str) -> Any:  # noqa: ANN401 - a module, whose names the caller knows
    """Return a module, imported if this is the first time. Raises what an import statement would.

    Raises `RuntimeError` when another thread holds the guard for too long: it may be waiting for an import of this
    thread. Also when a signal handler or a finalizer asks in the middle of such an import: msgspec beside a half-loaded
    module would crash the process.
    """
    module = _loaded.get(name)
    if module is not None:
        return module
    guard = _guard  # a fork may replace it
    if not guard.acquire(timeout=_PATIENCE):
        raise RuntimeError("captured while another thread was importing what it needs")
    try:
        if _importing:
            raise RuntimeError(f"captured in the middle of the import of {_importing[0]}")
        _importing.append(name)
        try:
            if name == "msgspec":
                from atotelemetry.host.msgspec_import import import_msgspec

                import_msgspec()
            else:
                __import__(name)
            module = _loaded[name] = sys.modules[name]
        finally:
            _importing.clear()
    finally:
        guard.release()
    return module


# ---- around a fork, on the thread that forks


def before_fork() -> None:
    """Wait for imports of ours on other threads, and keep new ones off."""
    if _guard.acquire(timeout=_PATIENCE):
        _forking.append(get_ident())


def after_fork_in_parent() -> None:
    """Let others import again."""
    if get_ident() in _forking:
        _forking.remove(get_ident())
        _guard.release()


def after_fork_in_child() -> bool:
    """Start anew; False when the fork came in the middle of an import of ours, which cannot be mended."""
    global _guard  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    unharmed = get_ident() in _forking
    _forking.clear()
    _guard = RLock()
    return unharmed
