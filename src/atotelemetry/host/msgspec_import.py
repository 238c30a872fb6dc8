"""Imports msgspec without `typing_extensions`, a quarter of the cost of a host's first event.

Runs in the host, on the thread that captures, under the guard of `lazy`. msgspec uses `typing_extensions` where it is
installed (httpx brings it) and does without where it is not. From Python 3.11 on, `typing` has every name it takes from
there. We run `msgspec._utils` with an `__import__` that hides typing_extensions. No other module or thread is affected.
A host that has loaded either package already is left as it is.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["import_msgspec"]

_MSGSPEC = "msgspec"
_ASKS = "msgspec._utils"
_OPTIONAL = "typing_extensions"


def import_msgspec() -> None:
    """Import msgspec, unless it is there. Raises what an import statement would."""
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
    """Import a module of msgspec, but let it find no `typing_extensions`."""
    from _frozen_importlib_external import PathFinder  # what `importlib.machinery` would have to be loaded to name

    package = PathFinder.find_spec(_MSGSPEC)
    spec = None if package is None else PathFinder.find_spec(name, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    code: Any = spec.loader.get_code(name)  # type: ignore[attr-defined]
    module = type(sys)(name)
    module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, _MSGSPEC
    module.__file__ = spec.origin

    def without_optional(imported: str, *rest: Any) -> Any:  # noqa: ANN401 - as `__import__`
        if imported == _OPTIONAL:
            raise ImportError(imported)
        return builtins.__import__(imported, *rest)

    own = module.__dict__["__builtins__"] = {**vars(builtins), "__import__": without_optional}
    exec(code, module.__dict__)  # noqa: S102 - that is what an import does
    own["__import__"] = builtins.__import__  # for what its functions import later
    return module
