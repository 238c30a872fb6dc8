"""Facts about an installed application: its version, and how it came onto the machine.

Leaf; used by the sender, and by a host that asks for the loaders. The version is a part of the name of the directory
`<name>-<version>.dist-info`, so listing the directories of `sys.path` is enough. `importlib.metadata` costs ten times
as much: it imports the `email` package and reads the whole metadata.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise

from atotelemetry.facts.text import bounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["install_method", "installed_version"]

# direct_url.json (PEP 610) holds an address and a hash. A larger file is something else.
_DIRECT_URL_BYTES = 64 * 1024


def installed_version(app: str, path: Sequence[str] = ()) -> str | None:
    """Return the version of the installed distribution `app`; None where there is none. Never raises.

    `path` is the measured program's import path; by default `sys.path`. Nothing is imported from it.
    """
    unnamed = []
    for metadata in _metadata_of(app, path):
        version = os.path.splitext(os.path.basename(metadata))[0].partition("-")[2]
        if version:
            return bounded(version.partition("-py")[0])  # the last part of an `.egg-info` may be Python's version
        unnamed.append(os.path.dirname(metadata))  # a source tree
    archives = [entry for entry in path or sys.path if os.path.isfile(entry)]  # a zipapp
    if not unnamed and not archives:
        return None
    import importlib.metadata  # ten milliseconds, for those only

    try:
        (found, *_) = importlib.metadata.distributions(name=app, path=[*unnamed, *archives])
        return bounded(found.version)
    except Exception:
        return None  # not in there, or with metadata that cannot be read


def install_method(app: str, environ: Mapping[str, str], path: Sequence[str] = ()) -> str:
    """Return how `app` was installed; `path` as above. Never raises.

    The words are atopile's: "playground", "docker", "dev" (an editable install), "vsce-managed", "uv-tool", "brew",
    "pipx", "pip", "unknown". For other applications "pip" is "venv" in a virtual environment, and "system" in the
    system's own Python.
    """
    if environ.get("ATO_PLAYGROUND"):
        return "playground"
    if environ.get("ATO_VIA_DOCKER"):
        return "docker"
    metadata = next(_metadata_of(app, path), None)
    if metadata is None:
        return "unknown"
    if _is_editable(metadata):
        return "dev"
    parts = os.path.normpath(metadata).split(os.sep)
    # The extension for VS Code keeps a uv of its own below its storage, `…/atopile.atopile/uv/…`.
    if ("atopile.atopile", "uv") in pairwise(parts):
        return "vsce-managed"
    if "uv" in parts and "tools" in parts:
        return "uv-tool"
    if "homebrew" in parts or "Cellar" in parts:
        return "brew"
    if "pipx" in parts:
        return "pipx"
    return "pip" if app == "atopile" else _kind_of_environment(metadata)


def _metadata_of(app: str, path: Sequence[str]) -> Iterator[str]:
    """Yield the metadata directories (or files) of `app` in the order of the import path."""
    wanted = _normalised(app)
    for folder in path or sys.path:
        try:
            names = os.listdir(folder or os.curdir)
        except (OSError, ValueError):
            continue  # an archive, or a missing directory
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension in (".dist-info", ".egg-info") and wanted and _normalised(stem.partition("-")[0]) == wanted:
                yield os.path.join(folder, name)


def _normalised(name: str) -> str:
    """Return a distribution's name as two spellings of it compare equal (PEP 503)."""
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def _is_editable(metadata: str) -> bool:
    try:
        with open(os.path.join(metadata, "direct_url.json"), "rb") as file:
            content = file.read(_DIRECT_URL_BYTES)
    except OSError:
        return False
    return b'"editable":true' in b"".join(content.split())


def _kind_of_environment(metadata: str) -> str:
    """Return "venv", "system" or "pip" by the place of the metadata."""
    folder = os.path.dirname(os.path.abspath(metadata))
    # <venv>/lib/python3.x/site-packages, and on Windows <venv>\Lib\site-packages. Not `sys.prefix`: the sender runs
    # with -S, and before Python 3.14 it then names the base installation.
    above = folder
    for _ in range(3):
        above = os.path.dirname(above)
        if os.path.isfile(os.path.join(above, "pyvenv.cfg")):
            return "venv"
    base = os.path.join(os.path.abspath(sys.base_prefix), "")
    return "system" if os.path.basename(folder) == "dist-packages" or folder.startswith(base) else "pip"
