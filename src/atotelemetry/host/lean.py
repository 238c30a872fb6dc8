"""Imports msgspec for what it costs itself, without what it takes along.

Runs in the host, once, before the first event. That import is most of what the first event costs, and a quarter of it
is `typing_extensions`, which msgspec uses where it is installed (httpx brings it) and does without where it is not.
From Python 3.11 on, what msgspec takes from there is what `typing` has. So the one module of msgspec that asks for it
is told that it is not there: that module alone, through builtins of its own, while it is executed. No other thread, and
no later import, sees any difference; a host that has loaded either package already is left as it is.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["import_msgspec"]

_PACKAGE = "msgspec"
_ASKS = "msgspec._utils"
_OPTIONAL = "typing_extensions"


def import_msgspec() -> ModuleType:
    """Import msgspec and return it. Raises what an import statement would."""
    asks = None
    if sys.modules.keys().isdisjoint((_PACKAGE, _ASKS, _OPTIONAL)):
        try:
            asks = _execute(_ASKS)
            sys.modules.setdefault(_ASKS, asks)
        except Exception:
            asks = None  # not as it is in the versions that we know: then the ordinary way, at the ordinary price
    import msgspec

    if asks is not None:
        vars(msgspec).setdefault("_utils", asks)  # what an import does with a submodule
    return msgspec


def _execute(name: str) -> ModuleType:
    """Do what importing a module of msgspec does, but let it find no `typing_extensions`."""
    from _frozen_importlib_external import PathFinder  # what `importlib.machinery` would have to be loaded to name

    package = PathFinder.find_spec(_PACKAGE)
    spec = None if package is None else PathFinder.find_spec(name, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    code: Any = spec.loader.get_code(name)  # type: ignore[attr-defined]
    module = type(sys)(name)
    module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, _PACKAGE
    module.__file__ = spec.origin

    def without_optional(imported: str, *rest: Any) -> Any:
        if imported == _OPTIONAL:
            raise ImportError(imported)
        return builtins.__import__(imported, *rest)

    own = module.__dict__["__builtins__"] = {**vars(builtins), "__import__": without_optional}
    exec(code, module.__dict__)  # noqa: S102 - that is what an import does
    own["__import__"] = builtins.__import__  # for what its functions import later
    return module
