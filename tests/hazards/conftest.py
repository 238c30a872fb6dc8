"""Every test of a hazard gets a server and hosts of its own, and leaves no process and no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from atotelemetry.testing import CaptureServer
from support_hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Hosts, their senders and a server; afterwards nothing of it may be left."""
    with CaptureServer() as server:
        started = Hosts(tmp_path, server)
        try:
            yield started
        finally:
            left = started.close()
        assert not left, "left behind: " + "; ".join(left)
