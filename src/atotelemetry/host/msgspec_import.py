"""Imports of msgspec its C core alone, a third less of a host's first event.

Runs in the host, on the thread that captures, under the guard of `lazy`. Encoding needs neither the schemas of msgspec
nor `typing_extensions`, which msgspec uses where it is installed (httpx brings it) and does without where it is not.
The package runs its own code when somebody asks it for a name that it lacks (PEP 562), so that a host which uses
msgspec itself sees no difference. A host that has loaded msgspec already is left as it is.
"""

from __future__ import annotations

import builtins
import sys
from _frozen_importlib import module_from_spec  # what `importlib` would have to be loaded to name
from _frozen_importlib_external import PathFinder
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["import_msgspec"]

_MSGSPEC = "msgspec"
_ASKS = "msgspec._utils"
_OPTIONAL = "typing_extensions"
_SLOW, _SLOW_ASKS = "platform", "uuid"  # on Linux; up to Python 3.12 a tenth of a first event, for one word

# What this package uses of the core. A name that the core of another version lacks loads the rest of msgspec.
_NAMES = ("UNSET", "DecodeError", "Meta", "Raw", "Struct", "ValidationError", "convert", "defstruct", "to_builtins")


def import_msgspec() -> None:
    """Import msgspec, unless it is there. Raises what an import statement would."""
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
