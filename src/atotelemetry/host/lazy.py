"""Imports modules at first use, under a guard that survives forks; of msgspec the C core alone.

Runs in the host, on the thread that captures. Python's import locks do not survive a fork: a child forked in the middle
of another thread's import would wait for ever. So all these imports share one guard, and a fork takes it first.
"""

from __future__ import annotations

import builtins
import sys
from _frozen_importlib import module_from_spec  # what `importlib` would have to be loaded to name
from _frozen_importlib_external import PathFinder
from _thread import RLock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["after_fork_in_child", "after_fork_in_parent", "before_fork", "import_msgspec", "load"]

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


# ---- msgspec: its C core alone, a third less of a host's first event
#
# Encoding needs neither the schemas of msgspec nor `typing_extensions`, which msgspec uses where it is installed (httpx
# brings it) and does without where it is not. The package runs its own code when somebody asks it for a name that it
# lacks (PEP 562), so that a host which uses msgspec itself sees no difference.

_MSGSPEC = "msgspec"
_ASKS = "msgspec._utils"
_OPTIONAL = "typing_extensions"
_SLOW, _SLOW_ASKS = "platform", "uuid"  # on Linux; up to Python 3.12 a tenth of a first event, for one word

# What this package uses of the core. A name that the core of another version lacks loads the rest of msgspec.
_NAMES = ("UNSET", "DecodeError", "Meta", "Raw", "Struct", "ValidationError", "convert", "defstruct", "to_builtins")


def import_msgspec() -> None:
    """Import msgspec, unless the host has loaded it already. Raises what an import statement would."""
    if sys.modules.keys().isdisjoint((_MSGSPEC, _ASKS)):
        try:
            _import_core()
        except Exception:
            # Not as it is in the versions that we know: then the ordinary way, at the ordinary price.
            for name in (_MSGSPEC, _ASKS):
                sys.modules.pop(name, None)
    import msgspec  # noqa: F401


def _import_core() -> None:
    spec: Any = PathFinder.find_spec(_MSGSPEC)
    package = module_from_spec(spec)
    own = vars(package)
    executing: set[int] = set()

    def __getattr__(name: str) -> object:  # noqa: N807 - PEP 562
        # No lock: two threads that run the package's code do no harm, and one that waits might wait for the other.
        if get_ident() in executing:
            raise AttributeError(f"module {_MSGSPEC!r} has no attribute {name!r}")
        executing.add(get_ident())
        try:
            spec.loader.exec_module(package)
        finally:
            executing.discard(get_ident())
        own.pop("__getattr__", None)
        return getattr(package, name)

    own["__getattr__"] = __getattr__
    if sys.version_info < (3, 13) and sys.platform == "linux" and sys.modules.keys().isdisjoint((_SLOW, _SLOW_ASKS)):
        platform: Any = type(sys)(_SLOW)
        platform.system = lambda: "Linux"
        sys.modules.setdefault(_SLOW_ASKS, _execute(PathFinder.find_spec(_SLOW_ASKS), {_SLOW: platform}))
    if _OPTIONAL not in sys.modules:
        asks = _execute(PathFinder.find_spec(_ASKS, spec.submodule_search_locations), {_OPTIONAL: None})
        own["_utils"] = sys.modules[_ASKS] = asks
    sys.modules[_MSGSPEC] = package
    __import__(f"{_MSGSPEC}._core")
    core = vars(own["_core"])
    for name in _NAMES:
        if name in core:
            own.setdefault(name, core[name])


def _execute(spec: Any, others: dict[str, ModuleType | None]) -> ModuleType:  # noqa: ANN401 - as `importlib` has it
    """Return the module of a spec, whose code is given `others` for its imports, None for those that are not there.

    No other module or thread is affected.
    """
    code = spec.loader.get_code(spec.name)
    module = module_from_spec(spec)

    def import_(imported: str, *rest: Any) -> Any:  # noqa: ANN401 - as `__import__`
        found = others.get(imported, code)
        if found is None:
            raise ImportError(imported)
        return builtins.__import__(imported, *rest) if found is code else found

    own = module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
    exec(code, module.__dict__)  # noqa: S102 - that is what an import does
    own["__import__"] = builtins.__import__  # for what its functions import later
    return module
