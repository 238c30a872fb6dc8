"""The owner of a frame's code, and PostHog's name for the place.

A leaf, used by the host for exceptions and by the sender for dumps.

The rules are those of PostHog's ingestion (`rust/cymbal` in github.com/PostHog/posthog). An issue's fingerprint is made
of each exception's type and in-app frames: `filename`, `module` and `function` of each. Without an in-app frame the
first frame counts. For ingestion a frame is not in-app if its `abs_path` lies in site-packages, dist-packages or
lib/pythonX.Y. Without an `abs_path` its `filename` counts in the same way, and so does a `module` of the standard
library. It never puts one in.

A CLI that pip has installed lives in site-packages. So an application's own frames have no `abs_path`, and a `filename`
that begins with the package: the same on every machine.
"""

from __future__ import annotations

import sys

from atotelemetry.facts.text import clip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import Any

__all__ = [
    "MAX_NAME_BYTES",
    "OWN_PACKAGE",
    "folded",
    "gap_frame",
    "is_in",
    "is_installed",
    "new_frame",
    "place",
    "slashes",
    "standard_library",
]

MAX_NAME_BYTES = 300
OWN_PACKAGE = __name__.partition(".")[0]

_LONGEST_CYCLE = 4  # functions that call each other in a recursion
# PostHog's list of standard library modules joins those of all versions. These are gone from the newest.
_FORMER_STANDARD_LIBRARY = frozenset(
    "aifc audioop cgi cgitb chunk crypt imghdr mailcap nntplib pipes sndhdr sunau telnetlib uu xdrlib".split()  # noqa: SIM905 - as long as a line
)


def place(filename: str, module: str | None, own: Sequence[str]) -> tuple[str, str | None, bool]:
    """Return a frame's `filename`, its `abs_path`, and whether it is the application's.

    `own`: import names of the application's code; if empty, all code but libraries is its own.
    """
    if filename.startswith("<") or not filename:
        return clip(filename, MAX_NAME_BYTES) or "<unknown>", None, False
    path = slashes(filename)
    if is_in(OWN_PACKAGE, module):
        in_app = False
    elif own:
        in_app = any(is_in(name, module) for name in own)
    else:
        in_app = not is_installed(path) and not path.startswith(standard_library())
    name = clip(_short_name(path.split("/"), module), MAX_NAME_BYTES)
    top = (module or "").partition(".")[0]
    # With an `abs_path`, even one that names no directory, PostHog does not look at the module's name.
    shadows = in_app and (top in sys.stdlib_module_names or top in _FORMER_STANDARD_LIBRARY)
    return name, name if shadows else None, in_app


def new_frame(
    where: tuple[str, str | None, bool], function: str, module: str | None, lineno: int | None, line: str | None = None
) -> dict[str, Any]:
    """Return a frame as PostHog reads it, `where` being the result of `place`."""
    filename, path, in_app = where
    return {
        "platform": "python",
        "filename": filename,
        "abs_path": path,
        "function": clip(function, MAX_NAME_BYTES) or "<unknown>",
        "module": module and clip(module, MAX_NAME_BYTES),
        "lineno": lineno if lineno is not None and lineno >= 0 else None,
        "pre_context": [],
        "context_line": line,
        "post_context": [],
        "in_app": in_app,
    }


def gap_frame(left_out: int) -> dict[str, Any]:
    """Return the frame that stands for those left out."""
    made = new_frame(("<left out>", None, False), f"<{left_out} frames left out>", None, None)
    return {**made, "synthetic": True}


def folded(indexes: Sequence[int], codes: Sequence[Hashable]) -> list[int]:
    """Keep the first and the last round of each recursion; a number below zero counts the frames left out there.

    `codes` has the code of each frame in `indexes`.
    """
    total = len(codes)
    kept: list[int] = []
    start = 0
    while start < total:
        for period in range(1, _LONGEST_CYCLE + 1):
            end = start + period
            while end < total and codes[end] == codes[end - period]:
                end += 1
            length = (end - start) // period * period
            if length >= 3 * period:
                last = start + length - period
                kept += [*indexes[start : start + period], 2 * period - length, *indexes[last : last + period]]
                start += length
                break
        else:
            kept.append(indexes[start])
            start += 1
    return kept


def is_in(package: str, module: str | None) -> bool:
    """Whether a module is a package, or lies in it."""
    return module is not None and (module == package or module.startswith(package + "."))


def is_installed(path: str) -> bool:
    """Whether a path lies where installers put packages."""
    return "/site-packages/" in path or "/dist-packages/" in path


def standard_library() -> str:
    """Return the directory of the standard library, as every path below it begins."""
    # `os` may be frozen into the interpreter; this one is a file.
    import linecache  # loaded along with `traceback`

    return slashes(linecache.__file__).rpartition("/")[0] + "/"


def slashes(path: str) -> str:
    """Return a path with slashes, also on Windows, where its case does not matter either."""
    import os  # a bare interpreter without `site` has not loaded it

    return os.path.normcase(path).replace("\\", "/") if os.sep == "\\" else path


def _short_name(parts: Sequence[str], module: str | None) -> str:
    """Name a file as its module does (`package/module.py`): the same on every machine, for grouping."""
    names = module.split(".") if module else []
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    size = len(names) + (stem == "__init__")
    tail = list(parts[-size:]) if size else []
    if names and [*tail[:-1], *([stem] if stem != "__init__" else [])] == names:
        return "/".join(tail)
    if names and names[0] in parts[:-1]:  # a file that the package compiled: a template, a grammar
        return "/".join(parts[len(parts) - 1 - list(reversed(parts[:-1])).index(names[0]) - 1 :])
    return parts[-1]
