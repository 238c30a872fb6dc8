"""Imports what only some hosts need: once, under a guard that survives forks, and msgspec without what it takes along.

Runs in the host, on the thread that captures. Python's own import locks do not survive a fork: a child that another
thread forked in the middle of an import of ours would wait for them for ever. So each such import happens under one
guard, and a fork takes that guard first.

The import of msgspec is most of what the first event costs, and a quarter of it is `typing_extensions`, which msgspec
uses where it is installed (httpx brings it) and does without where it is not. From Python 3.11 on, what msgspec takes
from there is what `typing` has. So the one module of msgspec that asks for it is told that it is not there: that module
alone, through builtins of its own, while it is executed. No other thread, and no later import, sees any difference; a
host that has loaded either package already is left as it is.
"""

from __future__ import annotations

import builtins
import sys
from _thread import RLock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["after_fork_in_child", "after_fork_in_parent", "before_fork", "load"]

_PATIENCE = 2.0  # what one waits for another thread's import of ours: milliseconds, unless the disk is slow

# Reentrant, for signal handlers and finalizers.
_guard = RLock()
_forking: list[int] = []  # threads that hold it because they fork; twice if a signal handler forks meanwhile
# What was imported, each once it was there as a whole.
_loaded: dict[str, Any] = {}

_MSGSPEC = "msgspec"
_ASKS = "msgspec._utils"
_OPTIONAL = "typing_extensions"


def load(name: str) -> Any:
    """Return a module, imported if this is the first time. Raises what an import statement would.

    Raises `RuntimeError` when another thread keeps the guard for too long: it may be waiting for an import that this
    thread is in the middle of.
    """
    module = _loaded.get(name)
    if module is not None:
        return module
    guard = _guard  # a fork may replace it
    if not guard.acquire(timeout=_PATIENCE):
        raise RuntimeError("captured while another thread was importing what it needs")
    try:
        if name == _MSGSPEC:
            _import_msgspec()
        else:
            __import__(name)
        module = _loaded[name] = sys.modules[name]
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


# ---- msgspec


def _import_msgspec() -> None:
    asks = None
    if sys.modules.keys().isdisjoint((_MSGSPEC, _ASKS, _OPTIONAL)):
        try:
            asks = _execute(_ASKS)
            sys.modules.setdefault(_ASKS, asks)
        except Exception:
            asks = None  # not as it is in the versions that we know: then the ordinary way, at the ordinary price
    import msgspec

    if asks is not None:
        vars(msgspec).setdefault("_utils", asks)  # what an import does with a submodule


def _execute(name: str) -> ModuleType:
    """Do what importing a module of msgspec does, but let it find no `typing_extensions`."""
    from _frozen_importlib_external import PathFinder  # what `importlib.machinery` would have to be loaded to name

    package = PathFinder.find_spec(_MSGSPEC)
    spec = None if package is None else PathFinder.find_spec(name, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    code: Any = spec.loader.get_code(name)  # type: ignore[attr-defined]
    module = type(sys)(name)
    module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, _MSGSPEC
    module.__file__ = spec.origin

    def without_optional(imported: str, *rest: Any) -> Any:
        if imported == _OPTIONAL:
            raise ImportError(imported)
        return builtins.__import__(imported, *rest)

    own = module.__dict__["__builtins__"] = {**vars(builtins), "__import__": without_optional}
    exec(code, module.__dict__)  # noqa: S102 - that is what an import does
    own["__import__"] = builtins.__import__  # for what its functions import later
    return module
