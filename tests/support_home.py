"""A home directory of a test's own, and the configuration file in it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ID = "0b6c1f3e-5a51-4d33-9c1e-8f2a7d9b6e10"
VARIABLES = (
    "ATO_SERVICES_TELEMETRY_URL",
    "ATO_TELEMETRY",
    "ATO_TELEMETRY_API_KEY",
    "ATO_TELEMETRY_LOG",
    "DO_NOT_TRACK",
    "XDG_CONFIG_HOME",
)


def fresh_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Point HOME to an empty directory, remove every variable that decides, and return where the file would be.

    The directories above the file are left for the code under test to create.
    """
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if sys.platform == "win32":
        local = home / "AppData" / "Local"
        for name, value in (("USERPROFILE", home), ("LOCALAPPDATA", local)):
            monkeypatch.setenv(name, str(value))
        return local / "atopile" / "atopile" / "telemetry.yaml"
    return home / ".config" / "atopile" / "telemetry.yaml"


def store(path: Path, content: str | bytes) -> bytes:
    """Write `content` to `path` byte for byte, creating its directories; returns the bytes."""
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return raw


def files_below(directory: Path) -> list[str]:
    """Return every file below `directory`, relative to it: the empty list means that nothing was left behind."""
    return sorted(
        os.path.relpath(os.path.join(where, name), directory)
        for where, _, names in os.walk(directory)
        for name in names
    )
