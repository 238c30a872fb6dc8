"""The frames of an exception as PostHog reads them: where each file is, what to call it, and whose it is.

Runs in the host, on the thread that captures.
"""

from __future__ import annotations

from atotelemetry.host.guarded import MAX_LINE_BYTES, MAX_NAME_BYTES, clip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary
    from types import TracebackType

__all__ = ["Sources", "gap"]

_OWN_PACKAGE = __name__.partition(".")[0]


def gap(left_out: int) -> dict[str, object]:
    """Return the frame that stands for those left out."""
    return {
        "platform": "python",
        "filename": "<left out>",
        "abs_path": None,
        "function": f"<{left_out} frames left out>",
        "module": None,
        "lineno": None,
        "context_line": None,
        "in_app": False,
        "synthetic": True,
    }


class Sources:
    """Says of each source file where it is, what to call it and whose it is; each is worked out once per event."""

    __slots__ = ("_known", "_library", "_module", "_root")

    def __init__(self, project_root: str | None) -> None:
        import os
        import traceback

        self._known: dict[tuple[str, str | None], tuple[str, str, bool]] = {}
        # `os` may be frozen into the interpreter; this one is a file of the standard library.
        self._library = _directory(os.path.dirname(traceback.__file__))
        root = _directory(project_root)
        # Whatever led to a directory of everybody's packages: it is not the application's.
        self._root = None if root is None or root.endswith(("/site-packages/", "/dist-packages/")) else root
        self._module = root and root.removesuffix("/")

    def frame(self, entry: TracebackType, summary: FrameSummary) -> dict[str, object]:
        """Describe one traceback entry."""
        # `exec` takes subclasses of dict, which may have a `get` of their own.
        module = dict.get(entry.tb_frame.f_globals, "__name__")
        if type(module) is not str:
            module = None
        key = summary.filename, module
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._place(*key)
        filename, path, in_app = known
        lineno = summary.lineno
        line = summary.line
        return {
            "platform": "python",
            "filename": filename,
            "abs_path": path,
            "function": clip(summary.name, MAX_NAME_BYTES) or "<unknown>",
            "module": module and clip(module, MAX_NAME_BYTES),
            "lineno": lineno if lineno is not None and lineno >= 0 else None,
            "context_line": clip(line, MAX_LINE_BYTES) if line else None,
            "in_app": in_app,
        }

    def _place(self, filename: str, module: str | None) -> tuple[str, str, bool]:
        """Return a short name, the absolute path, and whether the file is the application's."""
        import os

        if filename.startswith("<") or not filename:
            name = clip(filename, MAX_NAME_BYTES) or "<unknown>"
            return name, name, False
        try:
            path = os.path.abspath(filename)
        except (OSError, ValueError):
            path = filename  # the working directory is gone
        comparable = _comparable(path)
        inside = comparable[len(self._root) :] if self._root and comparable.startswith(self._root) else None
        if module is not None and (module == _OWN_PACKAGE or module.startswith(_OWN_PACKAGE + ".")):
            in_app = False  # our decorator is in the stack of what it wraps
        elif inside is not None:
            in_app = not _is_installed("/" + inside)
        elif comparable == self._module:
            in_app = True
        else:
            in_app = not _is_installed(comparable) and not (self._library and comparable.startswith(self._library))
        parts = path.replace(os.sep, "/").split("/")
        return clip(_short_name(parts, module, inside), MAX_NAME_BYTES), clip(path, 2 * MAX_NAME_BYTES), in_app


def _short_name(parts: Sequence[str], module: str | None, inside: str | None) -> str:
    """Name a file as its module does (`package/module.py`), the same on every machine: issues are grouped by it."""
    names = module.split(".") if module else []
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    size = len(names) + (stem == "__init__")
    tail = list(parts[-size:]) if size else []
    if names and [*tail[:-1], *([stem] if stem != "__init__" else [])] == names:
        return "/".join(tail)
    if inside is not None:
        return "/".join(parts[-(inside.count("/") + 1) :])
    return parts[-1]


def _is_installed(path: str) -> bool:
    return "/site-packages/" in path or "/dist-packages/" in path


def _directory(path: str | None) -> str | None:
    """Return `path` so that the comparable path of every file below it starts with it."""
    import os

    if not path:
        return None
    try:
        return _comparable(os.path.abspath(path)).rstrip("/") + "/"
    except (OSError, ValueError, TypeError):
        return None


def _comparable(path: str) -> str:
    import os

    return os.path.normcase(path).replace("\\", "/") if os.sep == "\\" else path
